// What a tuned table finds, and its file when all is well.
#include "select/tuned_table.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "select/expect_error.h"
#include "select/tuned_tables.h"

namespace fairway::select {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::config;
using test::kLargeBatch;
using test::kMcg;
using test::kMul1;
using test::kPrefill4;
using test::layer;
using test::tuned_entry;
using test::tuned_table;
using test::usage_error;
using testing::HasSubstr;

struct Folder {
  Folder() : path(fs::path(testing::TempDir()) / fmt::format("fairway_tuned_table_{}", ::getpid())) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

std::size_t files_in(const fs::path& path) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(path), fs::directory_iterator()));
}

void expect_equal(const MeasuredKernel& a, const MeasuredKernel& b) {
  EXPECT_EQ(a.config, b.config);
  EXPECT_EQ(a.median_ms, b.median_ms);
  EXPECT_EQ(a.samples_ms, b.samples_ms);
}

void expect_equal(const TunedEntry& a, const TunedEntry& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.threads, b.threads);
  EXPECT_EQ(a.activations, b.activations);
  EXPECT_EQ(a.best, b.best);
  EXPECT_EQ(a.fallback, b.fallback);
  EXPECT_EQ(a.layer.key, b.layer.key);
  EXPECT_EQ(a.layer.hidden, b.layer.hidden);
  EXPECT_EQ(a.layer.intermediate, b.layer.intermediate);
  EXPECT_EQ(a.layer.experts, b.layer.experts);
  EXPECT_EQ(a.layer.top_k, b.layer.top_k);
  EXPECT_EQ(a.layer.always_on, b.layer.always_on);
  EXPECT_EQ(a.layer.codebooks, b.layer.codebooks);
  ASSERT_EQ(a.layer.mix.size(), b.layer.mix.size());
  for (std::size_t i = 0; i < a.layer.mix.size(); ++i) {
    EXPECT_EQ(a.layer.mix[i].bits, b.layer.mix[i].bits);
    EXPECT_EQ(a.layer.mix[i].share, b.layer.mix[i].share);
  }
  ASSERT_EQ(a.measured.size(), b.measured.size());
  for (std::size_t i = 0; i < a.measured.size(); ++i) expect_equal(a.measured[i], b.measured[i]);
}

TunedTable example() {
  const MoeLayerTraits mixed = layer(kMul1, {{{2, 2, 2}, 0.75}, {{4, 4, 4}, 0.25}});
  const MoeLayerTraits three = layer(kMul1, {{{3, 3, 3}, 1}});
  return tuned_table({tuned_entry(4, kPrefill4, mixed), tuned_entry(64, kLargeBatch, three),
                      tuned_entry(1, "cpu_avx512/moe_trellis_swiglu_prefill4", three, 16)});
}

TEST(TunedTable, EveryFieldComesBack) {
  const Folder folder;
  const TunedTable table = example();
  const fs::path path = folder.path / "new" / "table.json";  // the folder is made
  table.save(path);
  EXPECT_EQ(files_in(path.parent_path()), 1u);  // no draft is left
  std::string why = "not empty";
  const auto read = TunedTable::load_if_usable(path, why);
  ASSERT_TRUE(read.has_value()) << why;
  EXPECT_EQ(why, "");
  EXPECT_EQ(read->device, table.device);
  EXPECT_EQ(read->revision, "0123456789ab");
  EXPECT_EQ(read->date, "2026-11-21");
  EXPECT_FALSE(read->adaptation_enabled);
  EXPECT_EQ(read->adaptation_history_len, 77);
  EXPECT_EQ(read->benchmark_count, 12);
  ASSERT_EQ(read->entries.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) expect_equal(table.entries[i], read->entries[i]);
  EXPECT_EQ(read->to_json(), table.to_json());
}

// Founding document 002, "Configuration Structure".
TEST(TunedTable, TheFileHasTheDocumentsKeysAndNesting) {
  const json file = json::parse(example().to_json());
  for (const char* key : {"device_name", "device_family", "tile_size_mapping", "simdgroup_mapping", "lookup_table",
                          "adaptation_enabled", "adaptation_history_len", "benchmark_count"}) {
    EXPECT_TRUE(file.contains(key)) << key;
  }
  EXPECT_EQ(file["adaptation_history_len"], 77);
  EXPECT_EQ(file["tile_size_mapping"], (json{{"3", 64}}));
  EXPECT_EQ(file["simdgroup_mapping"], (json{{"3", 1}}));
  const json& found = file["lookup_table"]["4"]["2048"]["(2, 4)"];
  EXPECT_EQ(found, (json{{"kernel_name", "cpu_avx512/moe_trellis_swiglu_prefill4"},
                         {"tile_size_m", 16},
                         {"tile_size_n", 64},
                         {"simdgroups", 1},
                         {"use_fp32_acc", false},
                         {"kernel_variant", "prefill"}}));
  EXPECT_EQ(file["lookup_table"]["64"]["2048"]["(3,)"]["kernel_variant"], "large_batch");
  EXPECT_EQ(file["lookup_table"]["64"]["2048"]["(3,)"]["tile_size_m"], 64);
}

TEST(TunedTable, ConfigurationsNameRowsAndTiles) {
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    const MoeCandidate candidate{&row, row.info.tile};
    EXPECT_EQ(candidate_of(config_of(candidate)), candidate) << row.info.id;
    EXPECT_EQ(config_of(candidate).use_fp32_acc, row.info.activations == kernels::Activations::kFp32);
  }
  KernelConfig broken = config(kPrefill4);
  broken.tile_size_n = 96;
  EXPECT_THAT(usage_error([&] { candidate_of(broken); }), HasSubstr("96"));
  broken.kernel_name = "cpu_avx512/turbo";
  EXPECT_THAT(usage_error([&] { candidate_of(broken); }), HasSubstr("turbo"));
}

TEST(TunedTable, PuttingTheSameCallReplacesIt) {
  TunedTable table = tuned_table({tuned_entry(4, kPrefill4)});
  table.put(tuned_entry(4, kLargeBatch));
  ASSERT_EQ(table.entries.size(), 1u);
  EXPECT_EQ(table.entries[0].best, config(kLargeBatch));
  table.put(tuned_entry(5, kPrefill4));
  table.put(tuned_entry(4, kPrefill4, layer(), 3));
  table.put(tuned_entry(4, kPrefill4, layer(kMcg)));
  TunedEntry fp32 = tuned_entry(4, kPrefill4);
  fp32.activations = "fp32";
  table.put(fp32);
  EXPECT_EQ(table.entries.size(), 5u);
}

TEST(TunedTable, LookupsTakeTheExactThenTheNearest) {
  const MoeLayerTraits wider = moe_traits(4096, 1408, 64, 4, 1, kMul1, {{{6, 2, 3}, 1}});
  const MoeLayerTraits huge = moe_traits(16384, 14080, 64, 4, 1, kMul1, {{{6, 2, 3}, 1}});
  const TunedTable table = tuned_table({tuned_entry(1, kPrefill4), tuned_entry(16, kPrefill4),
                                        tuned_entry(32, kLargeBatch), tuned_entry(200, kPrefill4, wider)});
  const auto found = [&](const MoeLayerTraits& of, int tokens, int threads = 2, const char* activations = "int8") {
    const auto match = table.find(of, tokens, threads, activations);
    return match ? fmt::format("{} {}", match->how, match->entry->tokens) : std::string("none");
  };
  EXPECT_EQ(found(layer(), 16), "exact 16");
  EXPECT_EQ(found(layer(), 17), "nearest tokens 16");
  EXPECT_EQ(found(layer(), 22), "nearest tokens 16");  // 22 / 16 < 32 / 22
  EXPECT_EQ(found(layer(), 23), "nearest tokens 32");
  EXPECT_EQ(found(layer(), 64), "nearest tokens 32");  // at most twice
  EXPECT_EQ(found(layer(), 65), "none");
  EXPECT_EQ(found(layer(), 8), "nearest tokens 16");
  EXPECT_EQ(found(layer(), 7), "none");
  EXPECT_EQ(found(layer(), 1), "exact 1");
  EXPECT_EQ(found(layer(), 2), "none");  // one token is a case of its own
  EXPECT_EQ(found(layer(), 200), "nearest layer 200");
  EXPECT_EQ(found(wider, 16), "nearest layer 16");
  EXPECT_EQ(found(wider, 1), "nearest layer 1");
  EXPECT_EQ(found(huge, 16), "none");
  EXPECT_EQ(found(layer(), 16, 3), "none");
  EXPECT_EQ(found(layer(), 16, 2, "fp32"), "none");
  EXPECT_EQ(found(layer(kMcg), 16), "none");  // measured on another codebook
  EXPECT_EQ(found(moe_traits(2048, 1408, 0, 0, 1, kMul1, {{{6, 2, 3}, 1}}), 16), "none");
  EXPECT_FALSE(TunedTable().find(layer(), 16, 2, "int8").has_value());
}

// A layer's own number of tokens is nearer than any other layer.
TEST(TunedTable, TheSameLayerIsNearerThanAnother) {
  const MoeLayerTraits other = layer(kMul1, {{{4, 4, 4}, 1}});
  const TunedTable table = tuned_table({tuned_entry(20, kPrefill4, other), tuned_entry(10, kLargeBatch)});
  EXPECT_STREQ(table.find(layer(), 20, 2, "int8")->how, "nearest tokens");
  EXPECT_STREQ(table.find(layer(), 21, 2, "int8")->how, "nearest layer");  // ten is more than twice as few
}

TEST(TunedTable, WhatCannotBeWrittenOrReadIsSaid) {
  const Folder folder;
  const fs::path occupied = folder.path / "folder";
  fs::create_directories(occupied / "in it");
  EXPECT_THAT(test::error_text(ErrorKind::kResource, [&] { example().save(occupied); }), HasSubstr("cannot replace"));
  EXPECT_EQ(files_in(folder.path), 1u);  // the draft is gone
  EXPECT_THAT(test::error_text(ErrorKind::kResource, [&] { example().save("/dev/null/table.json"); }),
              HasSubstr("/dev/null/table.json"));
  EXPECT_THAT(test::error_text(ErrorKind::kResource, [&] { TunedTable::load(folder.path / "none"); }),
              HasSubstr("cannot read"));
  std::ofstream(folder.path / "empty.json");
  EXPECT_THAT(test::error_text(ErrorKind::kBadInput, [&] { TunedTable::load(folder.path / "empty.json"); }),
              HasSubstr("the file is empty"));
}

// Each writer's table differs from the others' in every field that is large, so that a mixed file would show.
TunedTable table_of_writer(int writer) {
  std::vector<TunedEntry> entries;
  for (int tokens = 1; tokens <= 10 + 7 * writer; ++tokens) entries.push_back(tuned_entry(tokens, kPrefill4));
  TunedTable table = tuned_table(std::move(entries));
  table.benchmark_count = writer;
  return table;
}

int writer_of(const TunedTable& table) {
  const int writer = table.benchmark_count;
  return table.to_json() == table_of_writer(writer).to_json() ? writer : -1;
}

TEST(TunedTable, ProcessesThatSaveAtOnceLeaveOneOfTheirFiles) {
  const Folder folder;
  const fs::path path = folder.path / "table.json";
  table_of_writer(0).save(path);
  std::vector<pid_t> children;
  for (int writer = 1; writer <= 2; ++writer) {
    const TunedTable table = table_of_writer(writer);
    std::fflush(nullptr);  // or the child may print it again
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        for (int i = 0; i < 60; ++i) table.save(path);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (int i = 0; i < 60; ++i) ASSERT_GE(writer_of(TunedTable::load(path)), 0) << "a mixed file";
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "a writer failed";
  }
  EXPECT_GE(writer_of(TunedTable::load(path)), 1);
  EXPECT_EQ(files_in(folder.path), 1u);
}

TEST(TunedTable, ThreadsThatSaveAtOnceLeaveOneOfTheirFiles) {
  const Folder folder;
  const fs::path path = folder.path / "table.json";
  table_of_writer(0).save(path);
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int writer = 1; writer <= 4; ++writer) {
    threads.emplace_back([&failed, &path, table = table_of_writer(writer)] {
      try {
        for (int i = 0; i < 60; ++i) table.save(path);
      } catch (const Error&) {
        ++failed;
      }
    });
  }
  int mixed = 0;
  for (int i = 0; i < 60; ++i) {
    try {
      mixed += writer_of(TunedTable::load(path)) < 0;
    } catch (const Error&) {
      ++mixed;
    }
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(mixed, 0);
  EXPECT_EQ(files_in(folder.path), 1u);
}

}  // namespace
}  // namespace fairway::select
