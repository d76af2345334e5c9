// The result file: the schema of results/cuda_moe_*.json, one record a line.
#include "cuda/result.cuh"

#include <fmt/format.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <regex>

#include "backend/cuda/device.h"
#include "fairway/error.h"

namespace fairway::kernels::cuda::bench {
namespace {

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

// Such as 580.159.04, or nothing where the kernel module does not say.
std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::smatch match;
  return std::regex_search(text, match, std::regex(R"(\b\d+\.\d+(\.\d+)?\b)")) ? match.str() : "";
}

std::string machine() {
  const backend::CudaDeviceInfo& gpu = backend::cuda_device_info(0);
  const backend::CudaVersions versions = backend::cuda_versions();
  return fmt::format(R"({{"gpu": "{}", "multiprocessors": {}, "driver": "{}", "driver_cuda": "{}", "cuda": "{}"}})",
                     gpu.name, gpu.multiprocessors, driver_version(), backend::cuda_version_text(versions.driver),
                     backend::cuda_version_text(versions.runtime));
}

std::string line(const Record& r) {
  return fmt::format(R"({{"model": "{}", "bits": "{}", "common_suh": {}, "tokens": {}, "path": "{}", "default": {}, )"
                     R"("token_weight_bytes": {:.0f}, "median": {:.3f}, "samples": [{:.3f}]}})",
                     r.of->model, r.of->widths, r.of->common_suh, r.tokens, moe_path_name(r.path), r.is_default,
                     r.bytes, r.median(), fmt::join(r.samples, ", "));
}

}  // namespace

void write_result(const std::vector<std::string>& command, double copy_bytes_per_second,
                  const std::vector<Record>& records) {
  std::vector<std::string> lines;
  lines.reserve(records.size());
  for (const Record& r : records) lines.push_back(line(r));
  std::ofstream file(command.at(1));
  file << fmt::format(
      "{{\n  \"schema\": \"fairway-cuda_moe-1\",\n  \"revision\": \"{}\",\n  \"date\": \"{}\",\n  \"machine\": {},\n"
      "  \"command\": \"{}\",\n  \"copy_bytes_per_second\": {:.4g}, \"layers\": {}, \"unit\": \"microseconds per "
      "layer\",\n  \"records\": [\n    {}\n  ]\n}}\n",
      command.at(2), date(), machine(), fmt::join(command, " "), copy_bytes_per_second, kLayers,
      fmt::join(lines, ",\n    "));
  if (!file.flush()) throw Error(ErrorKind::kResource, "cannot write " + command.at(1));
}

}  // namespace fairway::kernels::cuda::bench
