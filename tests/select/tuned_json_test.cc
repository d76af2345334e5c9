// Files of tuned tables that are not usable: stale, foreign, damaged, or plainly something else. None of them crashes,
// and each is explained in one line.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "select/expect_error.h"
#include "select/tuned_tables.h"

namespace fairway::select {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class TunedJson : public testing::Test {
 protected:
  ~TunedJson() override { fs::remove_all(path_); }

  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary | std::ios::trunc) << text; }

  // The line that explains why the file is not used; fails if it is used, or explained in no line or several.
  std::string refusal(const std::string& text) const {
    write(text);
    std::string why;
    const auto table = TunedTable::load_if_usable(path_, why);
    EXPECT_FALSE(table.has_value());
    EXPECT_THAT(why, testing::StartsWith(path_.string() + " is not used: "));
    EXPECT_TRUE(std::none_of(why.begin(), why.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; })) << why;
    return why;
  }
  std::string refusal_after(const std::function<void(json&)>& change) const {
    json file = json::parse(valid());
    change(file);
    return refusal(file.dump());
  }

  static std::string valid() {
    return test::tuned_table({test::tuned_entry(4, test::kPrefill4), test::tuned_entry(64, test::kLargeBatch)})
        .to_json();
  }

  const fs::path path_ = fs::path(testing::TempDir()) / fmt::format("fairway_tuned_{}.json", ::getpid());
};

TEST_F(TunedJson, AMissingFileNeedsNoLine) {
  std::string why = "left from before";
  EXPECT_FALSE(TunedTable::load_if_usable(path_, why).has_value());
  EXPECT_EQ(why, "");
  EXPECT_FALSE(TunedTable::load_if_usable({}, why).has_value());
  EXPECT_EQ(why, "");
}

TEST_F(TunedJson, UnknownKeysAreIgnored) {
  json file = json::parse(valid());
  file["of_a_later_version"] = {1, 2, 3};
  file["entries"][0]["note"] = "x";
  write(file.dump());
  std::string why;
  EXPECT_TRUE(TunedTable::load_if_usable(path_, why).has_value()) << why;
}

TEST_F(TunedJson, AFileOfAnotherMachineOrOtherKernelsIsNotUsed) {
  EXPECT_THAT(refusal_after([](json& f) { f["device_name"] = "M4 Max"; }), HasSubstr("'M4 Max'"));
  EXPECT_THAT(refusal_after([](json& f) { f["device_family"] = "M4"; }), HasSubstr("'M4'"));
  EXPECT_THAT(refusal_after([](json& f) { f["microcode"] = "0xfeed"; }), HasSubstr("0xfeed"));
  EXPECT_THAT(refusal_after([](json& f) { f["registry_hash"] = "feedfeedfeedfeed"; }), HasSubstr("feedfeed"));
  EXPECT_THAT(refusal_after([](json& f) { f["schema_version"] = 2; }), HasSubstr("schema version 2"));
  EXPECT_THAT(refusal_after([](json& f) { f["device_name"] = "two\nlines\x1b[31m"; }), HasSubstr("fairway autotune"));
}

TEST_F(TunedJson, WhatIsNoTableIsNotUsed) {
  for (const char* text : {"", " ", "null", "[]", "{}", "1e999", "\"text\"", "\xff\xfe\x00", "{\"schema_version\":"}) {
    refusal(text);
  }
  refusal(std::string(200000, '['));
  std::string deep = "{\"schema_version\":1,\"entries\":";
  for (int i = 0; i < 50000; ++i) deep += "{\"a\":[";
  refusal(deep);
  fs::remove(path_);
  fs::create_directories(path_);  // a folder of that name
  std::string why;
  EXPECT_FALSE(TunedTable::load_if_usable(path_, why).has_value());
  EXPECT_THAT(why, HasSubstr("cannot read"));
}

// Every key that is read, taken away or replaced by something of another type.
void change_everywhere(const json& at, const json::json_pointer& where,
                       const std::function<void(json::json_pointer)>& visit) {
  if (at.is_object()) {
    for (const auto& [key, value] : at.items()) {
      visit(where / key);
      change_everywhere(value, where / key, visit);
    }
  } else if (at.is_array()) {
    for (std::size_t i = 0; i < at.size(); ++i) {
      visit(where / i);
      change_everywhere(at[i], where / i, visit);
    }
  }
}

// What the documents' readers use and lookups here do not.
bool is_derived(const json::json_pointer& where) {
  const std::string text = where.to_string();
  return text.starts_with("/lookup_table") || text.starts_with("/tile_size_mapping") ||
         text.starts_with("/simdgroup_mapping");
}

TEST_F(TunedJson, EveryKeyIsNeededAndOfItsType) {
  const json file = json::parse(valid());
  int changed = 0;
  change_everywhere(file, json::json_pointer(), [&](const json::json_pointer& where) {
    if (is_derived(where)) return;
    for (const json& wrong : {json(nullptr), json::object({{"a", 1}}), json::array({json::object()})}) {
      json damaged = file;
      damaged[where] = wrong;
      SCOPED_TRACE(where.to_string() + " = " + wrong.dump());
      refusal(damaged.dump());
      ++changed;
    }
    if (!where.parent_pointer().empty() && file[where.parent_pointer()].is_array()) return;
    json damaged = file;
    damaged[where.parent_pointer()].erase(where.back());
    SCOPED_TRACE(where.to_string() + " is missing");
    const std::string why = refusal(damaged.dump());
    // Without a version it is a file in the documents' format, which says too little of the machine.
    const bool is_version = where.back() == "schema_version";
    EXPECT_THAT(why, HasSubstr(is_version ? "microcode" : "'" + where.back() + "' is missing"));
  });
  EXPECT_GT(changed, 200);
}

TEST_F(TunedJson, NumbersOutOfRangeAreNotUsed) {
  const json file = json::parse(valid());
  const json huge[] = {std::numeric_limits<std::int64_t>::max(),
                       std::numeric_limits<std::int64_t>::min(),
                       std::numeric_limits<std::uint64_t>::max(),
                       (std::int64_t{1} << 32) + 3,
                       -1,
                       1e300,
                       0.5};
  int changed = 0;
  change_everywhere(file, json::json_pointer(), [&](const json::json_pointer& where) {
    if (is_derived(where) || !file[where].is_number_integer()) return;
    for (const json& number : huge) {
      json damaged = file;
      damaged[where] = number;
      SCOPED_TRACE(where.to_string() + " = " + number.dump());
      refusal(damaged.dump());
      ++changed;
    }
  });
  EXPECT_GT(changed, 100);
  for (const char* key : {"median_ms", "samples_ms"}) {
    for (const double number : {0.0, -1.0}) {
      json damaged = file;
      json& at = damaged["entries"][0]["measured"][0][key];
      at = at.is_array() ? json::array({number}) : json(number);
      EXPECT_THAT(refusal(damaged.dump()), HasSubstr(key));
    }
  }
  json damaged = file;
  const json part = {{"bits", {3, 3, 3}}, {"share", 1e308}};
  damaged["entries"][0]["layer"]["mix"] = {part, part};  // their sum is no number
  refusal(damaged.dump());
}

TEST_F(TunedJson, KernelsThatDoNotExistAreNotUsed) {
  for (const char* which : {"best", "default"}) {
    EXPECT_THAT(refusal_after([&](json& f) { f["entries"][0][which]["kernel_name"] = "cpu_avx512/turbo"; }),
                HasSubstr("turbo"));
    EXPECT_THAT(refusal_after([&](json& f) { f["entries"][1][which]["tile_size_n"] = 96; }), HasSubstr("96"));
    EXPECT_THAT(refusal_after([&](json& f) { f["entries"][1][which]["kernel_name"] = "a\nb"; }), HasSubstr("exist"));
  }
}

std::string damage(std::string text, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  const std::size_t at = below(text.size());
  switch (below(6)) {
    case 0:
      return text.substr(0, at);
    case 1:
      text[at] = static_cast<char>(random() & 0xFF);
      return text;
    case 2:
      return text.erase(at, 1 + below(40));
    case 3: {
      const std::string piece = text.substr(below(text.size()), 1 + below(60));
      return text.insert(at, piece);
    }
    case 4: {
      static const char* const kPieces[] = {"-",  "1e999",  "null", "\"", "{", "]", "99999999999999999999",
                                            ",,", "\\u0000"};
      return text.insert(at, kPieces[below(std::size(kPieces))]);
    }
    default: {
      const std::size_t other = below(text.size());
      std::swap(text[at], text[other]);
      return text;
    }
  }
}

// Damage that happens to leave a usable table must leave one whose kernels exist.
TEST_F(TunedJson, TwoHundredDamagedFilesDoNotCrash) {
  const std::string text = valid();
  int refused = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    std::string damaged = damage(text, random);
    if (seed % 2 == 0) damaged = damage(damaged.append(1, ' '), random);
    write(damaged);
    std::string why;
    const auto table = TunedTable::load_if_usable(path_, why);
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, why));
    EXPECT_EQ(table.has_value(), why.empty());
    EXPECT_EQ(why.find('\n'), std::string::npos);
    if (!table) {
      ++refused;
      continue;
    }
    for (const TunedEntry& entry : table->entries) {
      EXPECT_NO_THROW(candidate_of(entry.best));
      EXPECT_NO_THROW(candidate_of(entry.fallback));
    }
    EXPECT_NO_THROW(TunedTable::from_json(table->to_json(), "again"));
  }
  EXPECT_GT(refused, 100);
  fmt::print("{} of 200 damaged files were refused\n", refused);
}

}  // namespace
}  // namespace fairway::select
