// Threads that take the next layer until there is none.
#include "model/cuda/rounding_jobs.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>

#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/stream.h"
#include "model/cuda/up_projection_rounder.h"

namespace fairway::model {
namespace {

class Rounding {
 public:
  Rounding(const formats::ModelConfig& config, const std::vector<RoundingJob>& jobs, int device)
      : config_(config), jobs_(jobs), device_(device) {}

  void work(const std::function<void()>& meanwhile) {
    try {
      const backend::DeviceScope scope(device_);
      backend::CudaStream stream(device_);
      UpProjectionRounder rounder(config_, 1);
      std::vector<signed char> weights;
      std::vector<float> scales;
      for (std::size_t i = next_++; i < jobs_.size() && !stop_; i = next_++) {
        const RoundingJob& job = jobs_[i];
        const std::size_t rows = static_cast<std::size_t>(job.layer->kv_b.out);
        weights.resize(rows * static_cast<std::size_t>(job.layer->kv_b.in));
        scales.resize(rows);
        rounder.quantize(*job.layer, *job.attention_input_norm, weights.data(), scales.data());
        stream.copy_to_device(job.weights, weights.data(), weights.size());
        stream.copy_to_device(job.scales, scales.data(), scales.size() * sizeof(float));
        stream.wait();
        if (meanwhile) meanwhile();
      }
    } catch (...) {
      stop_ = true;
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const formats::ModelConfig& config_;
  const std::vector<RoundingJob>& jobs_;
  int device_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void round_up_projections(const formats::ModelConfig& config, const std::vector<RoundingJob>& jobs, int device,
                          const std::function<void()>& meanwhile) {
  if (jobs.empty()) return;
  Rounding rounding(config, jobs, device);
  const std::size_t processors = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < std::min(jobs.size(), processors); ++i) {
    threads.emplace_back([&] { rounding.work({}); });
  }
  rounding.work(meanwhile);
  for (std::thread& thread : threads) thread.join();
  rounding.rethrow();
}

}  // namespace fairway::model
