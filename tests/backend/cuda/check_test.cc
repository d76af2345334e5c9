// Messages and kinds of CUDA errors. Needs no device.
#include "backend/cuda/check.cuh"

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "backend/cuda/device.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

void expect_error(cudaError_t status, ErrorKind kind, std::initializer_list<const char*> parts) {
  try {
    check_cuda(status, "cudaMalloc of the cache");
    FAIL() << "status " << status << " did not throw";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_EQ(e.kind(), kind) << text;
    EXPECT_EQ(text.find("cudaMalloc of the cache: "), 0u) << text;
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

TEST(CudaErrors, SayTheCallTheErrorAndWhatToDo) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "cudaMalloc"));
  expect_error(cudaErrorMemoryAllocation, ErrorKind::kResource,
               {"out of memory", "cudaErrorMemoryAllocation", "smaller model"});
  expect_error(cudaErrorIllegalAddress, ErrorKind::kResource,
               {"cudaErrorIllegalAddress", "start it again", "compute-sanitizer"});
  expect_error(cudaErrorInsufficientDriver, ErrorKind::kUnsupported, {"newer NVIDIA driver"});
  expect_error(cudaErrorStreamCaptureUnsupported, ErrorKind::kUnsupported, {"nothing may wait"});
  expect_error(cudaErrorInvalidValue, ErrorKind::kResource, {"cudaErrorInvalidValue", "compute-sanitizer"});
}

TEST(CudaErrors, MissingMachineCodeNamesWhatTheProgramHas) {
  const std::string has = cuda_compiled_architectures();
  EXPECT_FALSE(has.empty());
  expect_error(cudaErrorNoKernelImageForDevice, ErrorKind::kUnsupported, {has.c_str(), "FAIRWAY_CUDA_ARCHITECTURES"});
}

TEST(CudaErrors, VersionsAreReadAsNumbers) {
  EXPECT_EQ(cuda_version_text(13000), "13.0");
  EXPECT_EQ(cuda_version_text(12080), "12.8");
  EXPECT_EQ(cuda_version_text(0), "none");
}

}  // namespace
}  // namespace fairway::backend
