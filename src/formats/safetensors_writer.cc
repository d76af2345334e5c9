// Streams a safetensors file into a temporary name beside the final one and renames it once everything is on disk.
#include "formats/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "fairway/error.h"
#include "formats/json.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kBufferBytes = 1u << 20;  // scale vectors are small; one write call per tensor would be slow
constexpr std::size_t kDataAlignment = 8;       // of the first tensor's bytes, as the reference library pads

std::int64_t spec_bytes(const std::filesystem::path& path, const TensorSpec& spec) {
  std::int64_t bytes = tensor_type_bytes(spec.type);
  for (const std::int64_t extent : spec.shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) {
      throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\": shape [{}] is negative or overflows",
                                                 path.string(), printable(spec.name), fmt::join(spec.shape, ", ")));
    }
  }
  return bytes;
}

// Throws unless the name can be a key: unique, not reserved, valid UTF-8.
std::string quoted_name(const std::filesystem::path& path, const TensorSpec& spec,
                        std::unordered_set<std::string>& seen) {
  if (spec.name == "__metadata__" || !seen.insert(spec.name).second) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: tensor name \"{}\" is {}", path.string(), printable(spec.name),
                                               spec.name == "__metadata__" ? "reserved" : "declared twice"));
  }
  try {
    return nlohmann::json(spec.name).dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: tensor name \"{}\" is not valid UTF-8", path.string(), printable(spec.name)));
  }
}

}  // namespace

struct SafetensorsWriter::State {
  std::filesystem::path path;
  std::filesystem::path partial;
  int fd = -1;
  std::vector<TensorSpec> specs;
  std::vector<std::int64_t> sizes;  // bytes of each tensor
  std::size_t current = 0;          // tensor being filled
  std::int64_t filled = 0;          // bytes of it
  std::int64_t flushed = 0;         // bytes handed to the system
  std::vector<std::uint8_t> buffer;

  ~State() {
    if (fd >= 0) ::close(fd);
    if (!partial.empty()) ::unlink(partial.c_str());
  }

  [[noreturn]] void fail(const char* what, int error) const {
    throw Error(ErrorKind::kResource,
                fmt::format("{}: {} after {} bytes: {}", path.string(), what, flushed, std::strerror(error)));
  }

  std::string header() {
    std::string text = R"({"__metadata__":{"format":"pt"})";  // without it older Hugging Face loaders refuse the file
    std::unordered_set<std::string> seen;
    std::int64_t begin = 0;
    for (const TensorSpec& spec : specs) {
      const std::int64_t bytes = spec_bytes(path, spec);
      std::int64_t end;
      if (__builtin_add_overflow(begin, bytes, &end)) {
        throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\" takes the file beyond 2^63 bytes", path.string(),
                                                   printable(spec.name)));
      }
      text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted_name(path, spec, seen),
                          tensor_type_name(spec.type), fmt::join(spec.shape, ","), begin, end);
      sizes.push_back(bytes);
      begin = end;
    }
    text += '}';
    text.resize((text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
    return text;
  }

  void create() {
    for (int attempt = 0; fd < 0; ++attempt) {
      // Not ending in .safetensors, so that nobody who lists the directory takes the unfinished file for a shard.
      std::filesystem::path candidate = path;
      candidate += fmt::format(".partial-{}-{}", ::getpid(), attempt);
      fd = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd < 0 && (errno != EEXIST || attempt == 100)) fail("cannot create a file beside it", errno);
      if (fd >= 0) partial = candidate;
    }
  }

  void append(std::span<const std::uint8_t> bytes) {
    if (buffer.size() + bytes.size() > kBufferBytes) flush();
    if (bytes.size() >= kBufferBytes) {
      send(bytes);
    } else {
      buffer.insert(buffer.end(), bytes.begin(), bytes.end());
    }
  }

  void flush() {
    send(buffer);
    buffer.clear();
  }

  void send(std::span<const std::uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::write(fd, bytes.data(), bytes.size());
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) fail("cannot write", sent < 0 ? errno : ENOSPC);
      flushed += sent;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }

  void skip_full_tensors() {
    while (current < specs.size() && filled == sizes[current]) {
      ++current;
      filled = 0;
    }
  }

  // Makes the new name itself durable; a directory that cannot be synced is not worth losing the file for.
  void sync_directory() const {
    const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
    const int directory = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;
    ::fsync(directory);
    ::close(directory);
  }
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.path = std::move(path);
  s.specs = std::move(specs);
  const std::string header = s.header();
  s.create();
  s.buffer.reserve(kBufferBytes);
  std::uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<std::uint8_t>(std::uint64_t{header.size()} >> (8 * i));
  s.append(length);
  s.append({reinterpret_cast<const std::uint8_t*>(header.data()), header.size()});
  s.skip_full_tensors();
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::span<const std::uint8_t> bytes) {
  State& s = *state_;
  if (bytes.empty()) return;
  if (s.fd < 0) throw Error(ErrorKind::kUsage, fmt::format("{}: written to after finish", s.path.string()));
  if (s.current == s.specs.size()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: {} bytes beyond the last declared tensor", s.path.string(), bytes.size()));
  }
  const std::int64_t room = s.sizes[s.current] - s.filled;
  if (bytes.size() > static_cast<std::uint64_t>(room)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: tensor \"{}\": {} bytes written where {} of {} are left", s.path.string(),
                            printable(s.specs[s.current].name), bytes.size(), room, s.sizes[s.current]));
  }
  s.append(bytes);
  s.filled += static_cast<std::int64_t>(bytes.size());
  s.skip_full_tensors();
}

void SafetensorsWriter::finish() {
  State& s = *state_;
  if (s.fd < 0) throw Error(ErrorKind::kUsage, fmt::format("{}: finished twice", s.path.string()));
  if (s.current != s.specs.size()) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: tensor \"{}\" has {} of {} bytes", s.path.string(),
                                               printable(s.specs[s.current].name), s.filled, s.sizes[s.current]));
  }
  s.flush();
  if (::fsync(s.fd) != 0) s.fail("cannot flush to disk", errno);
  if (::close(std::exchange(s.fd, -1)) != 0) s.fail("cannot close", errno);
  if (std::rename(s.partial.c_str(), s.path.c_str()) != 0) s.fail("cannot rename to the final name", errno);
  s.partial.clear();
  s.sync_directory();
}

}  // namespace fairway::formats
