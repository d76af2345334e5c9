// The forward pass over a cache: chunks, truncation, both forms of latent attention, limits and weight sizes.
#include "model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "common/compare.h"
#include "common/policies.h"
#include "common/tiny_checkpoint.h"
#include "fairway/error.h"

namespace fairway {
namespace {

using model::KvCache;
using model::MlaPath;
using model::Model;

constexpr test::Bound kSameMathematics{.absolute = 1e-3};  // fp32 in another order of summation

class TinyModel {
 public:
  explicit TinyModel(const test::TinySpec& spec, test::TinyForm form = test::TinyForm::kExl3)
      : model_(load(spec, form)) {}

  // Final hidden states of ids, appended to the cache in passes of at most `chunk` tokens.
  std::vector<float> run(std::span<const int> ids, KvCache& cache, std::size_t chunk, MlaPath path = MlaPath::kAuto) {
    std::vector<float> all, hidden;
    for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
      const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
      model_.forward(part, cache, policy_, context_, counters_, hidden, path);
      all.insert(all.end(), hidden.begin(), hidden.end());
    }
    return all;
  }

  std::vector<float> run_fresh(std::span<const int> ids, std::size_t chunk, MlaPath path = MlaPath::kAuto) {
    KvCache cache(model_.config());
    return run(ids, cache, chunk, path);
  }

  const Model& model() const { return model_; }

 private:
  Model load(const test::TinySpec& spec, test::TinyForm form) {
    write_tiny_checkpoint(dir_.path(), spec, form);
    return Model::load(dir_.path());
  }

  test::TempDir dir_;
  Model model_;
  backend::ThreadPool pool_{2};
  backend::Workspace workspace_;
  kernels::KernelContext context_{pool_, workspace_};
  moe::Counters counters_;
  select::Policy policy_ = select::make_policy("", "fp32", "");
};

std::vector<int> some_ids(int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 37 + 11) % 256);
  return ids;
}

const test::TinySpec kMla{};
const test::TinySpec kGqa{.architecture = formats::Architecture::kQwen3Moe};

TEST(Model, ChunksOfAPromptDoNotMatter) {
  for (const auto& spec : {kMla, kGqa}) {
    TinyModel tiny(spec);
    const auto ids = some_ids(50);
    const auto whole = tiny.run_fresh(ids, 512);
    for (const std::size_t chunk : {1u, 7u, 49u}) {
      EXPECT_EQ(test::compare(whole, tiny.run_fresh(ids, chunk), spec.hidden, kSameMathematics), "") << chunk;
    }
  }
}

TEST(Model, AbsorbedAndExpandedAttentionAgree) {
  TinyModel tiny(kMla);
  const auto ids = some_ids(50);
  const auto absorbed = tiny.run_fresh(ids, 20, MlaPath::kAbsorbed);
  const auto expanded = tiny.run_fresh(ids, 20, MlaPath::kExpanded);
  EXPECT_EQ(test::compare(absorbed, expanded, kMla.hidden, kSameMathematics), "");
}

TEST(Model, TruncatedCacheContinuesLikeAFreshOne) {
  for (const auto& spec : {kMla, kGqa}) {
    TinyModel tiny(spec);
    const auto ids = some_ids(40);
    const std::span<const int> all(ids);
    KvCache cache(tiny.model().config());
    tiny.run(all.first(25), cache, 25);
    tiny.run(std::vector<int>{1, 2, 3, 4, 5, 6, 7}, cache, 7);  // a continuation that is taken back
    cache.truncate(25);
    EXPECT_EQ(cache.length(), 25);
    const auto continued = tiny.run(all.subspan(25), cache, 15);

    KvCache fresh(tiny.model().config());
    tiny.run(all.first(25), fresh, 25);
    EXPECT_EQ(test::compare_exact(tiny.run(all.subspan(25), fresh, 15), continued), "");
    EXPECT_EQ(cache.length(), 40);
  }
}

TEST(Model, TruncateNeverGrowsACache) {
  KvCache cache(TinyModel(kMla).model().config());
  cache.truncate(9);
  EXPECT_EQ(cache.length(), 0);
}

TEST(Model, CacheGrowsInStepsWithinTheLimit) {
  test::TinySpec spec = kGqa;
  spec.max_positions = 4000;
  TinyModel tiny(spec);
  KvCache cache(tiny.model().config());
  EXPECT_EQ(cache.bytes(), 0);
  const std::int64_t position_bytes = 4LL * spec.layers * 2 * spec.kv_heads * spec.head_dim;
  tiny.run(some_ids(1), cache, 1);
  EXPECT_EQ(cache.bytes(), 256 * position_bytes);
  cache.reserve(3000);
  EXPECT_EQ(cache.bytes(), 3000 * position_bytes);
  cache.reserve(10);  // never shrinks
  EXPECT_EQ(cache.bytes(), 3000 * position_bytes);
  EXPECT_THROW(cache.reserve(4001), Error);
}

TEST(Model, RefusesMoreThanTheContextAndLeavesTheCacheUsable) {
  test::TinySpec spec = kMla;
  spec.max_positions = 16;
  TinyModel tiny(spec);
  KvCache cache(tiny.model().config());
  const auto ids = some_ids(16);
  tiny.run(std::span(ids).first(12), cache, 12);
  try {
    tiny.run(some_ids(5), cache, 5);
    FAIL() << "17 positions were accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("16"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cache.length(), 12);
  const auto rest = tiny.run(std::span(ids).subspan(12), cache, 4);
  EXPECT_EQ(cache.length(), 16);
  EXPECT_EQ(rest.size(), 4u * static_cast<std::size_t>(spec.hidden));
}

TEST(Model, RefusesIdsOutsideTheVocabulary) {
  TinyModel tiny(kMla);
  for (const int bad : {-1, kMla.vocab}) {
    KvCache cache(tiny.model().config());
    const std::vector<int> ids{1, bad};
    try {
      tiny.run(ids, cache, 2);
      FAIL() << bad << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(std::to_string(bad)), std::string::npos) << error.what();
    }
    EXPECT_EQ(cache.length(), 0);
  }
}

// Stored bytes of one trellis linear: codes and half scales of the padded size.
std::int64_t trellis_bytes(std::int64_t in, std::int64_t out, std::int64_t bits) {
  const std::int64_t padded_in = (in + 127) / 128 * 128;
  const std::int64_t padded_out = (out + 127) / 128 * 128;
  return padded_in * padded_out * bits / 8 + 2 * (padded_in + padded_out);
}

TEST(Model, WeightBytesPerTokenCountWhatATokenReads) {
  test::TinySpec spec = kGqa;
  spec.expert_bits = [](int, int) { return kernels::BitTuple{3, 3, 3}; };
  const TinyModel tiny(spec);
  const std::int64_t q = spec.heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim, hidden = spec.hidden;
  const std::int64_t attention =
      trellis_bytes(hidden, q, 4) + 2 * trellis_bytes(hidden, kv, 4) + trellis_bytes(q, hidden, 4);
  const std::int64_t expert =
      2 * trellis_bytes(hidden, spec.expert_intermediate, 3) + trellis_bytes(spec.expert_intermediate, hidden, 3);
  const std::int64_t router = 2 * hidden * spec.experts;
  const std::int64_t layer = attention + router + spec.top_k * expert;
  const std::int64_t head = trellis_bytes(hidden, spec.vocab, 6);
  EXPECT_EQ(tiny.model().weight_bytes_per_token(), spec.layers * layer + head + 2 * hidden);
}

TEST(Model, RefusesAnExpertThatIsHalfPlain) {
  test::TinySpec spec = kMla;
  spec.expert_with_plain_up = 4;
  const test::TempDir dir;
  write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kExl3);
  try {
    Model::load(dir.path());
    FAIL() << "an expert with a plain up_proj and trellis-coded others was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("model.layers.1.mlp.experts.4."), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(dir.path().string()), std::string::npos) << error.what();
  }
  write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kDequantizedF32);
  EXPECT_NO_THROW(Model::load(dir.path()));
}

TEST(Model, ProgressCountsEveryLayer) {
  const test::TempDir dir;
  write_tiny_checkpoint(dir.path(), kMla, test::TinyForm::kExl3);
  std::vector<int> seen;
  Model::load(dir.path(), [&](int done, int total) {
    EXPECT_EQ(total, kMla.layers);
    seen.push_back(done);
  });
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
}

}  // namespace
}  // namespace fairway
