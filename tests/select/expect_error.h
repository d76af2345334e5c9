// The message of the error that a call must end in.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "fairway/error.h"

namespace fairway::test {

// Fails the test if no error of this kind is thrown.
template <typename Call>
std::string error_text(ErrorKind kind, const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.kind()), static_cast<int>(kind)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

template <typename Call>
std::string usage_error(const Call& call) {
  return error_text(ErrorKind::kUsage, call);
}

}  // namespace fairway::test
