// Keeps a second process out of a folder for as long as the object lives, also when its owner is killed.
#pragma once

#include <filesystem>

namespace fairway::quantize {

class FolderLock {
 public:
  // Locks FOLDER/lock, which is created if need be. Error(kUsage) naming folder and process if another process holds
  // it, Error(kResource) if the file cannot be made or its file system has no locks.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  void remove();  // deletes the file, so that the folder can be deleted; the lock is gone

  static constexpr const char* kName = "lock";

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace fairway::quantize
