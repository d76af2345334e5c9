// Runs the checks of a model directory one after the other and collects what they find.
#include "quantize/verify_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <system_error>

#include "backend/cpu/thread_pool.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/json.h"
#include "quantize/manifest.h"
#include "quantize/stored_config.h"
#include "quantize/stored_modules.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;
using formats::TensorView;

constexpr double kHashShare = 0.5;  // of the progress; decoding is the rest

class Verifier {
 public:
  Verifier(const fs::path& dir, const ModelCheckOptions& options) : dir_(dir), options_(options) {}

  ModelCheck run() {
    check_manifest();
    std::optional<formats::ModelConfig> config;
    std::optional<formats::Checkpoint> checkpoint;
    attempt(result_.problems, [&] { config = formats::load_model_config(dir_); });
    attempt(result_.problems, [&] { checkpoint = formats::Checkpoint::open(dir_); });
    if (checkpoint) {
      StoredModules modules = stored_modules(*checkpoint);
      result_.tensors = static_cast<int>(checkpoint->tensors().size());
      check_modules(*checkpoint, modules, result_.problems, result_.notes);
      // Of a model that is not EXL3 at all, every plain tensor would be a problem of its own.
      const bool coded =
          std::any_of(modules.begin(), modules.end(), [](const auto& m) { return m.second.is_trellis(); });
      if (config && coded) check_layout(*checkpoint, *config, modules, result_.problems, result_.notes);
      check_quantization_config(dir_, modules, result_.problems, result_.notes);
      check_tiles(*checkpoint, modules);
    }
    return std::move(result_);
  }

 private:
  void progress(double share, const std::string& what) const {
    if (options_.progress) options_.progress(share, what);
  }
  bool cancelled() const { return options_.cancel != nullptr && options_.cancel->load(); }

  void check_manifest() {
    std::vector<std::string> present;
    try {
      present = manifest_files(dir_);
    } catch (const fs::filesystem_error& error) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", dir_.string(), error.code().message()));
    }
    std::optional<Manifest> manifest;
    attempt(result_.problems, [&] { manifest = read_manifest(dir_); });
    result_.has_manifest = manifest.has_value();
    if (!manifest) {
      result_.notes.push_back(
          fmt::format("no usable {}: contents cannot be compared with what was written", kManifestName));
      return;
    }
    for (const auto& file : manifest->files) {
      progress(kHashShare * result_.files_hashed / static_cast<double>(manifest->files.size()),
               "SHA-256 of " + file.first);
      attempt(result_.problems, [&] { check_file(dir_ / file.first, file.second); });
    }
    for (const std::string& name : present) {
      if (!manifest->files.contains(name)) {
        result_.notes.push_back(fmt::format("{} is not in the manifest", formats::printable(name)));
      }
    }
  }

  void check_file(const fs::path& path, const formats::FileDigest& expected) {
    const formats::FileDigest found = formats::digest_file(path, options_.cancel);
    ++result_.files_hashed;
    if (found.bytes != expected.bytes) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: has {} bytes, the manifest says {}", path.string(), found.bytes, expected.bytes));
    }
    if (found.sha256 != expected.sha256) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: its SHA-256 is {}, the manifest says {}", path.string(),
                                                    found.sha256, expected.sha256));
    }
  }

  // Every tile of every sound matrix. All patterns decode, so what this finds is a matrix that was never written
  // (zeros, as a file system leaves them after a crash) and a decoder that does not work here.
  void check_tiles(const formats::Checkpoint& checkpoint, const StoredModules& modules) {
    backend::ThreadPool pool(options_.threads);
    const auto coded = [](const auto& entry) { return entry.second.sound && entry.second.is_trellis(); };
    const auto total = std::count_if(modules.begin(), modules.end(), coded);
    for (const auto& [prefix, module] : modules) {
      if (!coded(std::pair<const std::string&, const StoredModule&>(prefix, module))) continue;
      if (cancelled()) throw Error(ErrorKind::kCancelled, "interrupted while decoding tiles");
      progress(kHashShare + (1 - kHashShare) * result_.trellis_linears / static_cast<double>(total), prefix);
      ++result_.trellis_linears;
      const TensorView& trellis = *module.find("trellis");
      const std::string where =
          fmt::format("{}: tensor \"{}\"", checkpoint.file_of(trellis).string(), formats::printable(trellis.name));
      if (std::all_of(trellis.bytes.begin(), trellis.bytes.end(), [](std::uint8_t byte) { return byte == 0; })) {
        result_.problems.push_back(fmt::format("{} holds nothing but zero bytes, expected coded weights", where));
      }
      if (const std::int64_t bad = decode(module, pool); bad > 0) {
        result_.problems.push_back(fmt::format("{}: {} tiles decode to values that are not finite", where, bad));
      }
    }
  }

  // Number of tiles with a value that is not finite.
  std::int64_t decode(const StoredModule& module, backend::ThreadPool& pool) {
    const TensorView& trellis = *module.find("trellis");
    const int bits = module.bits();
    const std::size_t tile_bytes = static_cast<std::size_t>(codec::tile_bytes(bits));
    const std::int64_t columns = trellis.shape[1];
    std::atomic<std::int64_t> bad = 0;
    pool.parallel_for(trellis.shape[0], [&](std::int64_t row, int) {
      std::array<std::uint16_t, codec::kWordsPerTilePerBit * 8> words;
      std::array<float, codec::kTileWeights> tile;
      for (std::int64_t column = 0; column < columns; ++column) {
        std::memcpy(words.data(), trellis.bytes.data() + static_cast<std::size_t>(row * columns + column) * tile_bytes,
                    tile_bytes);
        codec::decode_tile(std::span(words).first(tile_bytes / 2), bits, module.codebook(), tile);
        const bool finite = std::all_of(tile.begin(), tile.end(), [](float value) { return std::isfinite(value); });
        if (!finite) bad.fetch_add(1, std::memory_order_relaxed);
      }
    });
    result_.tiles += trellis.shape[0] * columns;
    return bad;
  }

  const fs::path& dir_;
  const ModelCheckOptions& options_;
  ModelCheck result_;
};

}  // namespace

ModelCheck verify_model(const fs::path& dir, const ModelCheckOptions& options) {
  return Verifier(dir, options).run();
}

}  // namespace fairway::quantize
