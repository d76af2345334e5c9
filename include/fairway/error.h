// The one exception type that leaves Fairway's rooms.
#pragma once

#include <stdexcept>
#include <string>

namespace fairway {

// What went wrong, in the classes that callers act on differently. The command line maps each to its exit code.
enum class ErrorKind {
  kUsage,        // the caller asked for something that makes no sense (bad flag value, unknown kernel name)
  kBadInput,     // a file is malformed, missing a tensor, or inconsistent with another file
  kUnsupported,  // the input is valid but this version does not implement it; the message names it
  kResource,     // memory, disk, or a device is not sufficient; the message carries the numbers
  kCancelled,    // the user interrupted the work
};

// Every message names the file, tensor, or option concerned, the offending value, and what was expected.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace fairway
