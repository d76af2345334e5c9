// The work folder: what was put is there afterwards, whatever happened to the process, and nothing else is.
#include "quantize/part_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "quantize/random_linear.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using quantize::PartStore;
using quantize::QuantizedLinear;
using ::testing::HasSubstr;

const ordered_json kJob = {{"source", {{"model.safetensors", 1234}}}, {"options", {{"bits", 2.5}, {"seed", 1}}}};

std::string prefix_of(int i) {
  return fmt::format("model.layers.{}.mlp.experts.{}.up_proj", i / 8, i % 8);
}
QuantizedLinear matrix(int i) {
  return random_linear(prefix_of(i), 128, 256, 1 + i % 8, static_cast<std::uint32_t>(i));
}

void expect_equal(const QuantizedLinear& a, const QuantizedLinear& b) {
  EXPECT_EQ(a.prefix, b.prefix);
  EXPECT_EQ(std::tie(a.in, a.out, a.bits, a.codebook), std::tie(b.in, b.out, b.bits, b.codebook));
  EXPECT_EQ(a.trellis, b.trellis);
  EXPECT_EQ(a.suh, b.suh);
  EXPECT_EQ(a.svh, b.svh);
  EXPECT_EQ(a.bias, b.bias);
}

std::string error_of(const std::function<void()>& step, ErrorKind kind) {
  try {
    step();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

void flip_byte(const fs::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const int byte = file.get();
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 1));
  ASSERT_TRUE(file.flush());
}

class PartStoreTest : public ::testing::Test {
 protected:
  fs::path folder() const { return dir_.path() / "out.partial"; }
  fs::path part(int i) const { return folder() / (prefix_of(i) + ".safetensors"); }
  void fill(int count) {
    PartStore store(folder(), kJob, false);
    for (int i = 0; i < count; ++i) store.put(matrix(i), {{"error", 0.5 * i}});
  }
  TempDir dir_;
};

TEST_F(PartStoreTest, ReadsBackWhatWasPut) {
  QuantizedLinear with_bias = random_linear("lm_head", 256, 128, 6, 7, codec::Codebook::kMcg);
  with_bias.bias.assign(128, 0x3C00);
  {
    PartStore store(folder(), kJob, false);
    EXPECT_FALSE(store.has("lm_head"));
    store.put(with_bias, {{"z", 1}, {"a", 2.5}});
    store.put(matrix(3), {});
    expect_equal(store.load("lm_head"), with_bias);
  }
  PartStore again(folder(), kJob, false);
  EXPECT_EQ(again.size(), 2u);
  EXPECT_TRUE(again.has("lm_head"));
  EXPECT_FALSE(again.has(prefix_of(4)));
  expect_equal(again.load("lm_head"), with_bias);
  expect_equal(again.load(prefix_of(3)), matrix(3));
  EXPECT_EQ(again.facts("lm_head").dump(), R"({"z":1,"a":2.5})");
  EXPECT_THAT(again.discarded(), ::testing::IsEmpty());
  EXPECT_THAT(error_of([&] { again.load("nothing"); }, ErrorKind::kBadInput), HasSubstr("\"nothing\" is not finished"));
}

TEST_F(PartStoreTest, SamePartsGiveTheSameBytes) {
  const auto content = [&] {
    std::ifstream file(part(2), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  fill(3);
  const std::string first = content();
  EXPECT_FALSE(first.empty());
  PartStore(folder(), kJob, false).put(matrix(2), {{"error", 1.0}});
  EXPECT_EQ(content(), first);
}

TEST_F(PartStoreTest, AnotherJobIsRefusedAndNamed) {
  fill(4);
  ordered_json other = kJob;
  other["options"]["bits"] = 3;
  const std::string message = error_of([&] { PartStore(folder(), other, false); }, ErrorKind::kUsage);
  EXPECT_THAT(message, HasSubstr("options/bits is 2.5 there and 3 here"));
  EXPECT_THAT(message, HasSubstr("--force discards its 4 finished matrices"));
  ordered_json longer = kJob;
  longer["plan"] = "x";
  EXPECT_THAT(error_of([&] { PartStore(folder(), longer, false); }, ErrorKind::kUsage),
              HasSubstr("plan is missing there and \\\"x\\\" here"));
  EXPECT_EQ(PartStore(folder(), kJob, false).size(), 4u);  // the refusals changed nothing

  PartStore forced(folder(), other, true);
  EXPECT_EQ(forced.size(), 0u);
  EXPECT_EQ(forced.discarded().size(), 4u);
  EXPECT_FALSE(fs::exists(part(0)));
}

TEST_F(PartStoreTest, OrderOfKeysIsNoDifference) {
  fill(2);
  const ordered_json turned = {{"options", {{"seed", 1}, {"bits", 2.5}}}, {"source", {{"model.safetensors", 1234}}}};
  EXPECT_EQ(PartStore(folder(), turned, true).size(), 2u);
}

TEST_F(PartStoreTest, DamagedPartsAreRemovedAndNamed) {
  fill(5);
  flip_byte(part(0), static_cast<std::streamoff>(fs::file_size(part(0))) - 1);  // of the digest itself
  flip_byte(part(1), 2000);                                                     // of the content
  fs::resize_file(part(2), fs::file_size(part(2)) / 2);
  fs::copy_file(part(4), part(3), fs::copy_options::overwrite_existing);  // a whole part of another matrix
  std::ofstream(folder() / (prefix_of(9) + ".safetensors.partial-77-0")) << "half";
  PartStore store(folder(), kJob, false);
  EXPECT_EQ(store.size(), 1u);
  EXPECT_TRUE(store.has(prefix_of(4)));
  const std::string all = fmt::format("{}", fmt::join(store.discarded(), "\n"));
  EXPECT_EQ(store.discarded().size(), 5u) << all;
  EXPECT_THAT(all, HasSubstr("does not have the SHA-256"));
  EXPECT_THAT(all, HasSubstr("expected \"" + prefix_of(3) + "\""));
  EXPECT_THAT(all, HasSubstr("unfinished"));
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder())) left.insert(entry.path().filename().string());
  EXPECT_EQ(left, (std::set<std::string>{"job.json", "lock", prefix_of(4) + ".safetensors"}));
}

TEST_F(PartStoreTest, PartsOfAnotherJobAreNotTaken) {
  fill(1);
  const fs::path kept = dir_.path() / "kept";
  fs::copy_file(part(0), kept);
  ordered_json other = kJob;
  other["options"]["seed"] = 2;
  { const PartStore forced(folder(), other, true); }
  fs::copy_file(kept, part(0));
  const PartStore store(folder(), other, false);
  EXPECT_EQ(store.size(), 0u);
  ASSERT_EQ(store.discarded().size(), 1u);
  EXPECT_THAT(store.discarded()[0], HasSubstr("belongs to another job"));
}

TEST_F(PartStoreTest, FoldersOfOthersAreLeftAlone) {
  fs::create_directories(folder());
  std::ofstream(folder() / "letter.txt") << "dear";
  EXPECT_THAT(error_of([&] { PartStore(folder(), kJob, true); }, ErrorKind::kUsage), HasSubstr("\"letter.txt\""));
  fs::remove(folder() / "letter.txt");
  std::ofstream(folder() / "model.safetensors") << "weights";
  EXPECT_THAT(error_of([&] { PartStore(folder(), kJob, true); }, ErrorKind::kUsage), HasSubstr("no job.json"));
  EXPECT_TRUE(fs::exists(folder() / "model.safetensors"));
}

TEST_F(PartStoreTest, BadMatricesAreRefused) {
  PartStore store(folder(), kJob, false);
  QuantizedLinear bad = matrix(1);
  bad.suh.pop_back();
  EXPECT_THAT(error_of([&] { store.put(bad, {}); }, ErrorKind::kUsage),
              HasSubstr("suh has 127 elements, expected 128"));
  bad = matrix(1);
  bad.in = 100;
  EXPECT_THAT(error_of([&] { store.put(bad, {}); }, ErrorKind::kUsage), HasSubstr("100 x 256"));
  bad = matrix(1);
  for (const char* prefix : {"../up", "a/b", ".hidden", ""}) {
    bad.prefix = prefix;
    EXPECT_THAT(error_of([&] { store.put(bad, {}); }, ErrorKind::kUsage), HasSubstr("not a module key"));
  }
}

TEST_F(PartStoreTest, SecondUserIsRefused) {
  const PartStore store(folder(), kJob, false);
  EXPECT_THAT(error_of([&] { PartStore(folder(), kJob, true); }, ErrorKind::kUsage),
              HasSubstr(fmt::format("in use by process {}", getpid())));
}

TEST_F(PartStoreTest, UnwritableFolderIsAResourceError) {
  std::ofstream(dir_.path() / "file") << "x";
  EXPECT_THAT(error_of([&] { PartStore(dir_.path() / "file", kJob, false); }, ErrorKind::kResource),
              HasSubstr("cannot create the work folder"));
  EXPECT_THAT(error_of([&] { PartStore("/proc/no-such-folder", kJob, false); }, ErrorKind::kResource),
              HasSubstr("/proc/no-such-folder"));
}

TEST_F(PartStoreTest, RemoveAllLeavesNothing) {
  fill(3);
  PartStore store(folder(), kJob, false);
  store.remove_all();
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(PartStoreTest, ManyThreadsPut) {
  {
    PartStore store(folder(), kJob, false);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&store, t] {
        for (int i = t; i < 40; i += 4) {
          store.put(matrix(i), {{"i", i}});
          EXPECT_EQ(store.load(prefix_of(i)).bits, 1 + i % 8);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const PartStore store(folder(), kJob, false);
  ASSERT_EQ(store.size(), 40u);
  for (int i = 0; i < 40; ++i) expect_equal(store.load(prefix_of(i)), matrix(i));
}

// A child stores parts and says which put() has returned; it is killed at a random moment. Then the store opens with
// every part that was reported, and each part it has is whole.
TEST_F(PartStoreTest, SurvivesKillsAtRandomMoments) {
  const std::uint32_t seed = std::random_device()();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  constexpr int kMatrices = 60;
  std::set<int> reported;
  for (int kills = 0; kills < 12; ++kills) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      try {
        PartStore store(folder(), kJob, false);
        for (int i = 0; i < kMatrices; ++i) {
          if (store.has(prefix_of(i))) continue;
          store.put(matrix(i), {{"i", i}});
          const char number = static_cast<char>(i);
          if (write(ends[1], &number, 1) != 1) _exit(2);
        }
      } catch (...) {
        _exit(3);
      }
      _exit(0);
    }
    close(ends[1]);
    // The child is killed while it works on the part after the last report, some random moment later.
    char number = 0;
    for (int left = static_cast<int>(random() % 6); left >= 0 && read(ends[0], &number, 1) == 1; --left) {
      reported.insert(number);
    }
    usleep(static_cast<useconds_t>(random() % 4000));
    kill(child, SIGKILL);
    while (read(ends[0], &number, 1) == 1) reported.insert(number);
    close(ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "child failed: " << WEXITSTATUS(status);

    const PartStore store(folder(), kJob, false);
    for (const int i : reported) EXPECT_TRUE(store.has(prefix_of(i))) << i;
    EXPECT_LE(store.size(), reported.size() + static_cast<std::size_t>(kills) + 1);  // one put per kill is unreported
    for (int i = 0; i < kMatrices; ++i) {
      if (store.has(prefix_of(i))) expect_equal(store.load(prefix_of(i)), matrix(i));
    }
  }
  EXPECT_FALSE(reported.empty());
}

}  // namespace
}  // namespace fairway::test
