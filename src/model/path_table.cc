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

constexpr const char* kSchema = "fairway-cuda-paths-1";

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
  if (entry.rows < 1) bad(name, fmt::format("an entry of {} rows", entry.rows));
  if (!std::isfinite(entry.us) || !std::isfinite(entry.default_us) || entry.us < 0 || entry.default_us < 0) {
    bad(name, fmt::format("times of {} and {} us", entry.us, entry.default_us));
  }
  return entry;
}

}  // namespace

PathStamp this_path_stamp(int device) {
  return {backend::cuda_device_info(device).name, backend::cuda_version_text(backend::cuda_versions().driver),
          backend::cuda_compiled_architectures()};
}

const CudaRow* PathTable::find(std::string_view op, std::string_view shape, int rows) const {
  const PathEntry* best = nullptr;
  for (const PathEntry& entry : entries) {
    if (entry.rows > rows || entry.shape != shape || op != entry.row->op) continue;
    if (best == nullptr || entry.rows >= best->rows) best = &entry;
  }
  return best == nullptr ? nullptr : best->row;
}

std::string PathTable::json_text() const {
  Json list = Json::array();
  for (const PathEntry& entry : entries) {
    list.push_back({{"op", entry.row->op},
                    {"shape", entry.shape},
                    {"rows", entry.rows},
                    {"kernel", entry.row->id},
                    {"us", entry.us},
                    {"default", entry.default_row->id},
                    {"default_us", entry.default_us},
                    {"margin", entry.margin()},
                    {"samples", entry.samples}});
  }
  const Json document = {
      {"schema", kSchema},    {"gpu", stamp.gpu}, {"driver", stamp.driver}, {"compiled_for", stamp.compiled_for},
      {"revision", revision}, {"date", date},     {"entries", list}};
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
