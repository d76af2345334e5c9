// SHA-256 against the examples of FIPS 180-4, in one piece and in many.
#include "formats/sha256.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/tiny_checkpoint.h"
#include "fairway/error.h"

namespace fairway::formats {
namespace {

TEST(Sha256, StandardExamples) {
  Sha256 empty, abc, million;
  EXPECT_EQ(hex(empty.finish()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  abc.add("a");
  abc.add("bc");
  EXPECT_EQ(hex(abc.finish()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  for (int i = 0; i < 1000; ++i) million.add(std::string(1000, 'a'));
  EXPECT_EQ(hex(million.finish()), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, Files) {
  const test::TempDir dir;
  std::ofstream(dir.path() / "abc") << "abc";
  std::ofstream(dir.path() / "empty");
  const FileDigest digest = digest_file(dir.path() / "abc");
  EXPECT_EQ(digest.bytes, 3);
  EXPECT_EQ(digest.sha256.substr(0, 8), "ba7816bf");
  EXPECT_EQ(digest_file(dir.path() / "empty").sha256.substr(0, 8), "e3b0c442");
  EXPECT_THROW(digest_file(dir.path() / "none"), Error);
  const std::atomic<bool> cancel = true;
  EXPECT_THROW(digest_file(dir.path() / "abc", &cancel), Error);
}

}  // namespace
}  // namespace fairway::formats
