// Runs the built `fairway` program as users do and collects what it says.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace fairway::test {

inline const std::string kSource = FAIRWAY_SOURCE_DIR;
inline const std::string kModel = kSource + "/models/books-moe";

// Programs under test must not find the tuned table of whoever runs the tests.
inline const int kNoTunedTable = setenv("FAIRWAY_AUTOTUNE", "/nonexistent/table.json", /*overwrite=*/1);

struct ProcessResult {
  int code = -1;  // exit code, or 128 + signal
  std::string out, err;
  nlohmann::json json() const { return nlohmann::json::parse(out); }  // throws if stdout is not one JSON document
};

// When to send SIGINT: after so many bytes of output, or after so many milliseconds. Negative: never.
struct Interrupt {
  int after_bytes = -1;
  int after_ms = -1;
};

struct Pipe {
  int ends[2];
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_end(int i) {
    if (ends[i] >= 0) close(ends[i]);
    ends[i] = -1;
  }
};

// The program and its arguments for execv; valid as long as `args`.
inline std::vector<char*> arguments_of(const std::vector<std::string>& args) {
  std::vector<char*> argv{const_cast<char*>(FAIRWAY_BINARY)};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  return argv;
}

// Exit code, or 128 + signal.
inline int exit_code(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

// `input` must fit a pipe's buffer (64 KiB). `stdout_path` redirects standard output to a file instead.
inline ProcessResult run_fairway(const std::vector<std::string>& args, const std::string& input = "",
                                 Interrupt interrupt = {}, const char* stdout_path = nullptr) {
  Pipe in, out, err;
  std::vector<char*> argv = arguments_of(args);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    dup2(in.ends[0], 0);
    dup2(stdout_path != nullptr ? open(stdout_path, O_WRONLY) : out.ends[1], 1);
    dup2(err.ends[1], 2);
    execv(FAIRWAY_BINARY, argv.data());
    _exit(127);
  }
  in.close_end(0);
  out.close_end(1);
  err.close_end(1);
  EXPECT_EQ(write(in.ends[1], input.data(), input.size()), static_cast<ssize_t>(input.size()));
  in.close_end(1);

  ProcessResult result;
  const auto start = std::chrono::steady_clock::now();
  bool interrupted = false;
  pollfd watched[2] = {{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}};
  for (int open_ends = 2; open_ends > 0;) {
    poll(watched, 2, 20);
    for (int i = 0; i < 2; ++i) {
      if ((watched[i].revents & (POLLIN | POLLHUP)) == 0) continue;
      char chunk[4096];
      const ssize_t count = read(watched[i].fd, chunk, sizeof chunk);
      if (count > 0) {
        (i == 0 ? result.out : result.err).append(chunk, static_cast<std::size_t>(count));
      } else {
        watched[i].fd = -1;
        --open_ends;
      }
    }
    const auto elapsed = std::chrono::steady_clock::now() - start;
    const bool enough = interrupt.after_bytes >= 0 && static_cast<int>(result.out.size()) >= interrupt.after_bytes;
    const bool late = interrupt.after_ms >= 0 && elapsed >= std::chrono::milliseconds(interrupt.after_ms);
    if (!interrupted && (enough || late)) {
      kill(child, SIGINT);
      interrupted = true;
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  result.code = exit_code(status);
  return result;
}

// Ctrl-C once a --json command has something to report. A slow machine may still be loading after the first delay; then
// the answer is an error object and the next delay is longer.
inline ProcessResult interrupt_at_work(const std::vector<std::string>& args) {
  ProcessResult result;
  for (const int delay_ms : {1000, 4000, 16000, 64000}) {
    result = run_fairway(args, "", {.after_ms = delay_ms});
    if (result.code != 130 || !result.json().contains("error")) break;
  }
  return result;
}

inline std::string write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path.string();
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline void expect_keys(const nlohmann::json& object, const std::vector<std::string>& keys) {
  for (const std::string& key : keys)
    EXPECT_TRUE(object.contains(key)) << key << " is missing in " << object.dump().substr(0, 300);
}

// One line on standard error that begins as documented and holds `part`.
inline void expect_error(const ProcessResult& result, int code, const std::string& part) {
  EXPECT_EQ(result.code, code) << result.err;
  EXPECT_TRUE(result.err.starts_with("fairway: error: ")) << result.err;
  EXPECT_TRUE(contains(result.err, part)) << "expected '" << part << "' in: " << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

}  // namespace fairway::test
