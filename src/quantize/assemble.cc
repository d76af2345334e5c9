// Writes the files of a finished checkpoint.
#include "quantize/assemble.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <system_error>

#include "codec/half.h"
#include "fairway/error.h"
#include "formats/durable_file.h"
#include "formats/exl3_storage.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"
#include "formats/shard_writer.h"
#include "formats/source_tensor.h"
#include "quantize/assembly_plan.h"
#include "quantize/destination.h"
#include "quantize/manifest.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;
using formats::TensorSpec;
using formats::TensorType;
using nlohmann::ordered_json;
using ProgressCall = std::function<void(double, const std::string&)>;

constexpr std::int64_t kChunkElems = std::int64_t{1} << 18;  // converted at once, between two looks at `cancel`
constexpr double kWriteShare = 0.9;                          // of the time; hashing what was written is the rest

// What goes with a model besides weights and configuration. Licences go along because they ask for it.
constexpr std::array kSideFiles = {"tokenizer.json",
                                   "tokenizer_config.json",
                                   "generation_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "tokenizer.model",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "LICENSE",
                                   "LICENSE.txt",
                                   "LICENSE.md",
                                   "NOTICE"};

void throw_if(const std::atomic<bool>* cancel) {
  if (cancel != nullptr && cancel->load()) throw Error(ErrorKind::kCancelled, "interrupted while writing the model");
}

// Streams one source tensor in the type and with the rows that the plan gives it.
class SourceCopy {
 public:
  SourceCopy(const formats::Checkpoint& source, const AssemblyItem& item, formats::Fp8Block block)
      : source_(source), spec_(item.tensors.front()), tensor_(source, item.origin, block) {}

  void write(formats::ShardWriter& writer, const std::atomic<bool>* cancel) const {
    std::vector<float> values;
    std::vector<std::uint16_t> words;
    for (std::int64_t first = 0; first < tensor_.count(); first += kChunkElems) {
      throw_if(cancel);
      values.resize(static_cast<std::size_t>(std::min(kChunkElems, tensor_.count() - first)));
      tensor_.read(first, values);
      words.resize(values.size());
      for (std::size_t i = 0; i < values.size(); ++i)
        words[i] = convert(values[i], first + static_cast<std::int64_t>(i));
      writer.write({reinterpret_cast<const std::uint8_t*>(words.data()), words.size() * 2});
    }
    const std::int64_t pad = formats::tensor_bytes(spec_) - 2 * tensor_.count();  // rows of zeros of a padded head
    if (pad > 0) writer.write(std::vector<std::uint8_t>(static_cast<std::size_t>(pad)));
  }

 private:
  std::uint16_t convert(float value, std::int64_t at) const {
    if (spec_.type == TensorType::kBf16) return codec::bfloat_from_float(value);  // exact: the source is BF16
    const std::uint16_t half = codec::half_from_float(value);
    if (std::isfinite(codec::float_from_half(half))) return half;
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensor \"{}\" is {} at index {}, too large for F16, which EXL3 stores it in (65504)",
                            source_.file_of(tensor_.view()).string(), spec_.name, value, at));
  }

  const formats::Checkpoint& source_;
  const TensorSpec& spec_;
  formats::SourceTensor tensor_;
};

void write_matrix(const QuantizedLinear& linear, formats::ShardWriter& writer) {
  const auto halves = [](const std::vector<std::uint16_t>& values) {
    return std::span<const std::uint8_t>(reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * 2);
  };
  writer.write(linear.trellis);
  writer.write(halves(linear.suh));
  writer.write(halves(linear.svh));
  if (formats::codebook_flag(linear.codebook) != nullptr) {
    const std::uint32_t multiplier = formats::codebook_multiplier(linear.codebook);
    std::array<std::uint8_t, sizeof multiplier> bytes;
    std::memcpy(bytes.data(), &multiplier, sizeof multiplier);
    writer.write(bytes);
  }
  writer.write(halves(linear.bias));
}

std::vector<fs::path> side_files(const fs::path& source) {
  std::vector<fs::path> paths;
  for (const char* name : kSideFiles) {
    if (fs::exists(source / name)) paths.push_back(source / name);
  }
  return paths;
}

void copy_side_file(const fs::path& from, const fs::path& folder) {
  const formats::MappedFile file(from);
  formats::DurableFile copy(folder / from.filename());
  copy.write(file.bytes());
  copy.finish();
}

// Bytes of the files that are not tensors, from above: headers, index and storage name every tensor.
std::int64_t overhead_bytes(const std::vector<TensorSpec>& tensors, const std::string& quantization,
                            const fs::path& source) {
  constexpr std::int64_t kEntryBytes = 120;  // type, shape and offsets in a header, a shard's name in the index
  std::int64_t bytes = std::ssize(quantization) + (std::int64_t{1} << 20);
  for (const TensorSpec& tensor : tensors) bytes += 2 * std::ssize(tensor.name) + 2 * kEntryBytes;
  for (const fs::path& path : side_files(source)) bytes += static_cast<std::int64_t>(fs::file_size(path));
  return bytes;
}

ordered_json about_job(const CheckpointFacts& facts, const PartStore& parts, const std::vector<std::string>& prefixes,
                       const AssemblyPlan& plan) {
  ordered_json widths = ordered_json::object();
  auto& entries = widths.get_ref<ordered_json::object_t&>();  // a plan has no prefix twice
  for (const std::string& prefix : prefixes) entries.push_back({prefix, parts.shape(prefix).bits});
  return {{"program", "fairway"},
          {"version", facts.version},
          {"revision", facts.revision},
          {"options", facts.options},
          {"widths", widths},
          {"left_out", plan.left_out},
          {"left_out_bytes", plan.left_out_bytes}};
}

AssemblyReport report_of(const fs::path& folder, const fs::path& out, AssemblyPlan plan) {
  AssemblyReport report;
  report.out = out;
  report.tensors = static_cast<int>(plan.tensors().size());
  report.left_out = std::move(plan.left_out);
  report.left_out_bytes = plan.left_out_bytes;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    report.bytes += static_cast<std::int64_t>(entry.file_size());
    ++report.files;
  }
  return report;
}

void write_weights(const formats::Checkpoint& source, formats::Fp8Block block, const PartStore& parts,
                   const AssemblyPlan& plan, const fs::path& folder, const ProgressCall& progress,
                   const std::atomic<bool>* cancel) {
  formats::ShardWriter writer(folder, plan.tensors());
  for (const AssemblyItem& item : plan.items) {
    throw_if(cancel);
    if (item.is_part) {
      write_matrix(parts.load(item.origin), writer);
    } else {
      SourceCopy(source, item, block).write(writer, cancel);
    }
    if (progress) progress(kWriteShare * writer.share(), writer.current_file());
  }
  writer.finish();
}

void check_loads(const fs::path& folder) {
  const std::vector<std::string> problems = formats::check_model_dir(folder);
  if (problems.empty()) return;
  throw Error(ErrorKind::kBadInput, fmt::format("the finished model would not load ({} problem{}), first: {}",
                                                problems.size(), problems.size() == 1 ? "" : "s", problems.front()));
}

}  // namespace

std::optional<AssemblyReport> find_complete(const fs::path& out, const std::string& job) {
  std::optional<Manifest> manifest;
  try {
    manifest = read_manifest(out);
  } catch (const Error&) {
    return std::nullopt;  // then it is someone else's directory, which the caller refuses by name
  }
  if (!manifest || manifest->job != job) return std::nullopt;
  AssemblyReport report;
  report.out = out;
  report.was_complete = true;
  std::error_code error;
  report.bytes = static_cast<std::int64_t>(fs::file_size(out / kManifestName, error));
  report.files = 1;
  for (const auto& [name, digest] : manifest->files) {
    if (fs::file_size(out / name, error) != static_cast<std::uintmax_t>(digest.bytes) || error) return std::nullopt;
    report.bytes += digest.bytes;
    ++report.files;
  }
  Destination::remove_leftovers(out);
  return report;
}

AssemblyReport assemble(const fs::path& source, const PartStore& parts, const std::vector<std::string>& prefixes,
                        const CheckpointFacts& facts, const fs::path& out, bool force, const ProgressCall& progress,
                        const std::atomic<bool>* cancel) {
  if (!force) {
    if (auto complete = find_complete(out, parts.job())) return *complete;
  }
  check_destination(source, parts.folder(), out, force);
  const SourceConfig config = read_source_config(source);
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(source);
  const AssemblyPlan plan = plan_assembly(config.model, checkpoint, parts, prefixes, facts.codebook);
  const std::vector<TensorSpec> tensors = plan.tensors();
  const ordered_json quantization = quantization_config(config, facts);
  ordered_json with_storage = quantization;
  with_storage["tensor_storage"] = formats::tensor_storage(tensors);
  const std::string storage_text = formats::json_text(with_storage);

  Destination destination(out);
  destination.require_space(plan.bytes + overhead_bytes(tensors, storage_text, source));
  const fs::path folder = destination.folder();
  write_weights(checkpoint, config.model.fp8_block, parts, plan, folder, progress, cancel);
  formats::write_file_durably(folder / "config.json", config_text(config, quantization));
  formats::write_file_durably(folder / "quantization_config.json", storage_text);
  for (const fs::path& path : side_files(source)) copy_side_file(path, folder);
  check_loads(folder);
  const auto hashing = [&](const std::string& file) {
    if (progress) progress(kWriteShare, "SHA-256 of " + file);
  };
  formats::write_file_durably(
      folder / kManifestName,
      manifest_text(folder, parts.job(), about_job(facts, parts, prefixes, plan), hashing, cancel));

  AssemblyReport report = report_of(folder, out, plan);
  throw_if(cancel);
  destination.publish(force);
  if (progress) progress(1.0, "");
  return report;
}

}  // namespace fairway::quantize
