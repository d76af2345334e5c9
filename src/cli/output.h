// What commands print: text and JSON on standard output, progress and notes on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "formats/json_text.h"

namespace fairway::cli {

using Json = nlohmann::ordered_json;  // keys appear in the order the documentation lists them

// Throws Error(kResource) when standard output cannot take the text.
void print_text(std::string_view text);
void print_json(const Json& value);

using formats::json_text;

// Written beside the target and renamed, so that a reader never sees half of it. `flag` names the option in messages.
void write_text_file(const std::filesystem::path& path, std::string_view text, const char* flag);

std::string human_bytes(double bytes);  // "27.0 MB" (powers of ten)
std::string human_count(double count);  // "47.1 M"
std::int64_t peak_memory_bytes();       // of this process, mapped files included

// A line on standard error that rewrites itself; silent unless that is a terminal.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(double fraction, const std::string& detail = "");
  void clear();

 private:
  std::string label_;
  bool active_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace fairway::cli
