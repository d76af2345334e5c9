// Calls that must throw a fairway::Error with certain words in it.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "fairway/error.h"

namespace fairway::test {

template <class Call>
void expect_error(ErrorKind kind, std::initializer_list<std::string> parts, Call&& call) {
  try {
    call();
    FAIL() << "nothing was thrown";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(e.kind(), kind) << text;
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

}  // namespace fairway::test
