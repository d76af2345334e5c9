// Lookups, and the JSON.
#include "model/path_table.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "backend/cuda/device.h"
#include "fairway/error.h"

namespace fairway::model {
namespace {

using Json = nlohmann::ordered_json;
using kernels::CudaRow;

constexpr const char* kSchema = "fairway-cuda-paths-2";

[[noreturn]] void bad(const std::string& name, const std::string& what) {
  throw Error(ErrorKind::kBadInput,
              fmt::format("{}: {}; `fairway autotune --device cuda` makes a table of paths", name, what));
}

const CudaRow* row_named(const std::string& id, std::string_view op, const std::string& name) {
  for (const CudaRow& row : kernels::cuda_rows_of(op)) {
    if (id == row.id) return &row;
  }
  bad(name, fmt::format("{} is no row of {} in this program", id, op));
}

PathReason reason_named(const std::string& text, const std::string& name) {
  for (int r = 0; r <= static_cast<int>(PathReason::kTogether); ++r) {
    if (text == path_reason_text(static_cast<PathReason>(r))) return static_cast<PathReason>(r);
  }
  bad(name, fmt::format("the reason {} is none", text));
}

void check_rows(const std::string& name, int rows) {
  if (rows < 1) bad(name, fmt::format("an entry of {} rows", rows));
}

void check_times(const std::string& name, double us, double default_us) {
  if (std::isfinite(us) && std::isfinite(default_us) && us >= 0 && default_us >= 0) return;
  bad(name, fmt::format("times of {} and {} us", us, default_us));
}

PathEntry parse_entry(const Json& json, const std::string& name) {
  PathEntry entry;
  const std::string op = json.at("op");
  if (op != "moe_swiglu" && op != "trellis_linear") bad(name, fmt::format("the op {} has no paths", op));
  entry.shape = json.at("shape");
  entry.rows = json.at("rows");
  entry.row = row_named(json.at("kernel"), op, name);
  entry.default_row = row_named(json.at("default"), op, name);
  entry.us = json.at("us");
  entry.default_us = json.at("default_us");
  entry.samples = json.at("samples");
  check_rows(name, entry.rows);
  check_times(name, entry.us, entry.default_us);
  entry.reason = reason_named(json.at("reason"), name);
  for (const Json& time : json.at("measured")) {
    entry.measured.push_back({row_named(time.at("kernel"), op, name), time.at("us"), time.at("samples")});
  }
  return entry;
}

PathChain parse_chain(const Json& json, const std::string& name) {
  const PathChain chain{json.at("rows"), json.at("layers"), json.at("default_us"), json.at("us")};
  check_rows(name, chain.rows);
  check_times(name, chain.us, chain.default_us);
  return chain;
}

}  // namespace

PathStamp this_path_stamp(int device) {
  return {backend::cuda_device_info(device).name, backend::cuda_version_text(backend::cuda_versions().driver),
          backend::cuda_compiled_architectures()};
}

const char* path_reason_text(PathReason reason) {
  switch (reason) {
    case PathReason::kFastest:
      return "no other is faster";
    case PathReason::kTie:
      return "no other is faster beyond doubt";
    case PathReason::kBeaten:
      return "faster than the default beyond doubt";
    case PathReason::kTogether:
      return "all replaced together are not faster";
  }
  return "";
}

const PathEntry* PathTable::find(std::string_view op, std::string_view shape, int rows) const {
  const PathEntry* best = nullptr;
  for (const PathEntry& entry : entries) {
    if (entry.rows > rows || entry.shape != shape || op != entry.row->op) continue;
    if (best == nullptr || entry.rows >= best->rows) best = &entry;
  }
  return best;
}

std::string PathTable::json_text() const {
  Json list = Json::array();
  for (const PathEntry& entry : entries) {
    Json measured = Json::array();
    for (const PathTime& time : entry.measured) {
      measured.push_back({{"kernel", time.row->id}, {"us", time.us}, {"samples", time.samples}});
    }
    list.push_back({{"op", entry.row->op},
                    {"shape", entry.shape},
                    {"rows", entry.rows},
                    {"kernel", entry.row->id},
                    {"us", entry.us},
                    {"default", entry.default_row->id},
                    {"default_us", entry.default_us},
                    {"margin", entry.margin()},
                    {"samples", entry.samples},
                    {"reason", path_reason_text(entry.reason)},
                    {"measured", std::move(measured)}});
  }
  Json chain_list = Json::array();
  for (const PathChain& chain : chains) {
    chain_list.push_back(
        {{"rows", chain.rows}, {"layers", chain.layers}, {"default_us", chain.default_us}, {"us", chain.us}});
  }
  const Json document = {
      {"schema", kSchema},    {"gpu", stamp.gpu}, {"driver", stamp.driver}, {"compiled_for", stamp.compiled_for},
      {"revision", revision}, {"date", date},     {"chains", chain_list},   {"entries", list}};
  return document.dump(1) + "\n";
}

PathTable PathTable::parse(const std::string& text, const std::string& name) {
  try {
    const Json json = Json::parse(text);
    if (json.at("schema") != kSchema) {
      bad(name, fmt::format("its schema is {}, expected \"{}\"", json.at("schema").dump(), kSchema));
    }
    PathTable table;
    table.stamp = {json.at("gpu"), json.at("driver"), json.at("compiled_for")};
    table.revision = json.at("revision");
    table.date = json.at("date");
    for (const Json& entry : json.at("entries")) table.entries.push_back(parse_entry(entry, name));
    for (const Json& chain : json.at("chains")) table.chains.push_back(parse_chain(chain, name));
    return table;
  } catch (const Json::exception& e) {
    bad(name, e.what());
  }
}

PathTable PathTable::load(const std::filesystem::path& path, int device) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) bad(path.string(), "cannot be read");
  PathTable table = parse(text.str(), path.string());
  const std::string gpu = backend::cuda_device_info(device).name;
  if (table.stamp.gpu != gpu) {
    bad(path.string(), fmt::format("measured on {}, and CUDA device {} is {}", table.stamp.gpu, device, gpu));
  }
  return table;
}

}  // namespace fairway::model
