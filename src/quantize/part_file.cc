// A part is a safetensors file: trellis, suh, svh, perhaps bias, a JSON text that describes them, and a digest.
#include "quantize/part_file.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/safetensors.h"
#include "formats/sha256.h"

namespace fairway::quantize {
namespace {

using formats::TensorType;
using Bytes = std::span<const std::uint8_t>;

constexpr const char* kAbout = "about";    // JSON: job, prefix, sizes, width, codebook, facts
constexpr const char* kDigest = "sha256";  // of the bytes of all tensors before it
constexpr int kMaxSize = 1 << 30;

Bytes bytes_of(const std::vector<std::uint16_t>& halves) {
  return {reinterpret_cast<const std::uint8_t*>(halves.data()), halves.size() * sizeof(std::uint16_t)};
}
Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::vector<std::uint16_t> halves_of(Bytes bytes) {
  std::vector<std::uint16_t> halves(bytes.size() / sizeof(std::uint16_t));
  if (!bytes.empty()) std::memcpy(halves.data(), bytes.data(), bytes.size());
  return halves;
}

std::int64_t trellis_bytes(const QuantizedLinear& q) {
  return std::int64_t{q.in} / codec::kTileDim * (q.out / codec::kTileDim) * codec::tile_bytes(q.bits);
}

// Tensors of one part file by name, with the complaint about one that is missing.
class PartReader {
 public:
  explicit PartReader(const std::filesystem::path& path) : file_(formats::SafetensorsFile::open(path)) {}

  Bytes bytes(const char* name) const {
    const formats::TensorView* tensor = file_.find(name);
    if (tensor == nullptr) fail(fmt::format("tensor \"{}\" is missing", name));
    return tensor->bytes;
  }
  Bytes optional_bytes(const char* name) const { return file_.find(name) == nullptr ? Bytes() : bytes(name); }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", file_.path().string(), what));
  }
  void check_digest() const {
    formats::Sha256 hash;
    for (const char* name : {"trellis", "suh", "svh"}) hash.add(bytes(name));
    hash.add(optional_bytes("bias"));
    hash.add(bytes(kAbout));
    const formats::Digest digest = hash.finish();
    const Bytes stored = bytes(kDigest);
    if (!std::equal(stored.begin(), stored.end(), digest.begin(), digest.end())) {
      fail("its content does not have the SHA-256 that it was written with");
    }
  }

 private:
  formats::SafetensorsFile file_;
};

}  // namespace

void check_linear(const QuantizedLinear& q) {
  const auto fail = [&](const char* what, std::size_t found, std::int64_t expected) {
    throw Error(ErrorKind::kUsage, fmt::format("matrix \"{}\": {} has {} elements, expected {} for {} x {} at {} bits",
                                               q.prefix, what, found, expected, q.in, q.out, q.bits));
  };
  const bool sizes = q.in > 0 && q.out > 0 && q.in % codec::kHadamardDim == 0 && q.out % codec::kHadamardDim == 0 &&
                     q.in <= kMaxSize && q.out <= kMaxSize && q.bits >= 1 && q.bits <= 8;
  if (!sizes) {
    throw Error(ErrorKind::kUsage, fmt::format("matrix \"{}\": {} x {} at {} bits, expected multiples of {} and 1 to 8",
                                               q.prefix, q.in, q.out, q.bits, codec::kHadamardDim));
  }
  if (std::ssize(q.trellis) != trellis_bytes(q)) fail("trellis", q.trellis.size(), trellis_bytes(q));
  if (std::ssize(q.suh) != q.in) fail("suh", q.suh.size(), q.in);
  if (std::ssize(q.svh) != q.out) fail("svh", q.svh.size(), q.out);
  if (!q.bias.empty() && std::ssize(q.bias) != q.out) fail("bias", q.bias.size(), q.out);
}

void write_part(const std::filesystem::path& path, const std::string& job, const QuantizedLinear& linear,
                const nlohmann::ordered_json& facts) {
  check_linear(linear);
  const nlohmann::ordered_json described = {{"job", job},          {"prefix", linear.prefix},
                                            {"in", linear.in},     {"out", linear.out},
                                            {"bits", linear.bits}, {"codebook", codec::codebook_name(linear.codebook)},
                                            {"facts", facts}};
  const std::string about = described.dump();
  std::vector<formats::TensorSpec> specs =
      formats::exl3_tensors("", linear.in, linear.out, linear.bits, codec::Codebook::k3inst);
  for (formats::TensorSpec& spec : specs) spec.name.erase(0, 1);  // "trellis", without the dot of a module
  std::vector<Bytes> content = {linear.trellis, bytes_of(linear.suh), bytes_of(linear.svh)};
  if (!linear.bias.empty()) {
    specs.push_back({"bias", TensorType::kF16, {linear.out}});
    content.push_back(bytes_of(linear.bias));
  }
  specs.push_back({kAbout, TensorType::kU8, {std::ssize(about)}});
  content.push_back(bytes_of(about));
  specs.push_back({kDigest, TensorType::kU8, {std::int64_t{sizeof(formats::Digest)}}});
  formats::SafetensorsWriter writer(path, std::move(specs));
  formats::Sha256 hash;
  for (const Bytes bytes : content) {
    hash.add(bytes);
    writer.write(bytes);
  }
  writer.write(hash.finish());
  writer.finish();
}

Part read_part(const std::filesystem::path& path, const std::string& job, const std::string& prefix) {
  const PartReader reader(path);
  reader.check_digest();
  const Bytes about = reader.bytes(kAbout);
  const std::string_view text(reinterpret_cast<const char*>(about.data()), about.size());
  const nlohmann::json document = formats::parse_json(text, path.string());
  const formats::JsonField root(document, path.string());
  if (root.at("job").string() != job) reader.fail("belongs to another job");
  if (root.at("prefix").string() != prefix) {
    reader.fail(fmt::format("holds \"{}\", expected \"{}\"", formats::printable(root.at("prefix").string()), prefix));
  }
  Part part;
  QuantizedLinear& q = part.linear;
  q.prefix = prefix;
  q.in = static_cast<int>(root.at("in").integer(1, kMaxSize));
  q.out = static_cast<int>(root.at("out").integer(1, kMaxSize));
  q.bits = static_cast<int>(root.at("bits").integer(1, 8));
  const auto codebook = codec::find_codebook(root.at("codebook").string());
  if (!codebook) reader.fail(fmt::format("codebook is \"{}\"", formats::printable(root.at("codebook").string())));
  q.codebook = *codebook;
  const Bytes trellis = reader.bytes("trellis");
  q.trellis.assign(trellis.begin(), trellis.end());
  q.suh = halves_of(reader.bytes("suh"));
  q.svh = halves_of(reader.bytes("svh"));
  q.bias = halves_of(reader.optional_bytes("bias"));
  check_linear(q);
  part.facts = nlohmann::ordered_json::parse(text)["facts"];  // checked above; this parse keeps the order of keys
  return part;
}

}  // namespace fairway::quantize
