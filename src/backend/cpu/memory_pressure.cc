// Linux: MemTotal and MemAvailable of /proc/meminfo, and the limits of version 2 control groups.
#include "backend/cpu/memory_pressure.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace fairway::backend {
namespace {

double machine_pressure() {
  std::ifstream file("/proc/meminfo");
  std::int64_t total = 0, available = -1;
  std::string key, unit;
  for (std::int64_t value; file >> key >> value && (total == 0 || available < 0); std::getline(file, unit)) {
    if (key == "MemTotal:") total = value;
    if (key == "MemAvailable:") available = value;
  }
  if (total <= 0 || available < 0) return 0;
  return 1.0 - static_cast<double>(std::min(available, total)) / static_cast<double>(total);
}

std::int64_t number_in(const char* path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : 0;  // "max" is no number: no limit
}

double group_pressure() {
  const std::int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  if (limit <= 0) return 0;
  // Pages of files can be dropped at any time.
  std::ifstream stat("/sys/fs/cgroup/memory.stat");
  std::int64_t file_bytes = 0;
  std::string key;
  for (std::int64_t value; stat >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") file_bytes += value;
  }
  const std::int64_t used = std::max<std::int64_t>(0, number_in("/sys/fs/cgroup/memory.current") - file_bytes);
  return std::clamp(static_cast<double>(used) / static_cast<double>(limit), 0.0, 1.0);
}

}  // namespace

double memory_pressure() {
  return std::max(machine_pressure(), group_pressure());
}

}  // namespace fairway::backend
