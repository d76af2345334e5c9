// EarlyStart is advice: it neither fails nor changes what it looks at.
#include "model/early_start.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/tiny_checkpoint.h"

namespace fairway::model {
namespace {

TEST(EarlyStart, FailsForNobody) {
  test::TempDir dir;
  const EarlyStart nowhere(dir.path() / "nowhere", 0);
  write_tiny_checkpoint(dir.path(), {}, test::TinyForm::kExl3);
  std::filesystem::create_directory(dir.path() / "folder.safetensors");
  const EarlyStart no_such_device(dir.path(), 99);
  const EarlyStart early(dir.path(), 0);
}

}  // namespace
}  // namespace fairway::model
