// Random attention over a cache, on the device and in double precision.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/cuda/attend.cuh"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {

// The E4M3 number nearest to v, as its bits.
std::uint8_t nearest_e4m3(float v);

struct AttendCase {
  std::string name;
  int heads, kv_heads, key_dim, value_dim;
  bool value_in_key;  // as in MLA; otherwise all keys, then all values
  CacheType type;
  std::vector<int> positions;  // of the rows
  bool one_sequence = false;   // else every row is of its own sequence, in a mixed order
  int max_context = 0;         // 0: the largest position + 1
  int fresh = 0;
  float size = 1;        // of the queries: 1 gives scores of about 1
  int unused_elems = 0;  // at the end of a cache row
};

// The cache is NaNs but for the positions that a row attends to.
class AttendProblem {
 public:
  AttendProblem(const AttendCase& shape, std::uint64_t seed);

  const AttendCall& call() const { return call_; }
  AttendCall& call() { return call_; }
  void set_positions(const std::vector<int>& positions);  // at most those of the case
  std::vector<float> run(int poison);                     // [rows, heads, value_dim]
  std::vector<float> output() const;
  std::vector<float> reference() const;
  void* workspace() const { return workspace_->get(); }

 private:
  void reference_of(int row, int head, float* out) const;

  AttendCase shape_;
  std::vector<int> sequences_;
  std::vector<float> q_, cache_;  // as the device has them
  std::unique_ptr<DeviceArray<__half>> q_device_, out_;
  std::unique_ptr<DeviceArray<unsigned char>> cache_device_, workspace_;
  std::unique_ptr<DeviceArray<int>> sequence_device_, position_device_;
  std::size_t workspace_bytes_ = 0;
  AttendCall call_{};
};

// |row of a head - reference| <= bound * |reference| for every row and head. Probabilities, partial results and results
// are rounded to halves: 2^-12 relative each at most on average, and the errors of probabilities are independent.
constexpr double kAttendBound = 1e-3;

// Two runs after other poisons, both within the bound and of the same bits.
void check_attend(const AttendCase& shape, std::uint64_t seed, double bound = kAttendBound);

}  // namespace fairway::kernels::cuda::check
