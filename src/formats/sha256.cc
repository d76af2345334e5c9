// SHA-256 through OpenSSL's EVP interface.
#include "formats/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

#include "fairway/error.h"
#include "formats/mapped_file.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{16} << 20;  // between two looks at `cancel`

// OpenSSL fails here only when memory is short or a policy of the machine forbids the algorithm.
void require(bool done) {
  if (!done) throw Error(ErrorKind::kResource, "SHA-256: OpenSSL's library cannot compute it on this machine");
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  require(state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::uint8_t> bytes) {
  require(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

void Sha256::add(std::string_view text) {
  add({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

Digest Sha256::finish() {
  Digest digest{};
  unsigned int length = 0;
  require(EVP_DigestFinal_ex(state_->context, digest.data(), &length) == 1 && length == digest.size());
  return digest;
}

std::string hex(const Digest& digest) {
  std::string text;
  for (const std::uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

FileDigest digest_file(const std::filesystem::path& path, const std::atomic<bool>* cancel) {
  const MappedFile file(path);
  Sha256 hash;
  for (std::size_t at = 0; at < file.bytes().size(); at += kChunkBytes) {
    if (cancel != nullptr && cancel->load()) {
      throw Error(ErrorKind::kCancelled, fmt::format("interrupted while reading {}", path.string()));
    }
    hash.add(file.bytes().subspan(at, std::min(kChunkBytes, file.bytes().size() - at)));
    file.release();
  }
  return {hex(hash.finish()), static_cast<std::int64_t>(file.bytes().size())};
}

}  // namespace fairway::formats
