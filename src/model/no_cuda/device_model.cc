// DeviceModel without a CUDA toolkit: loading says why there is no device, and nothing else is ever reached.
#include "model/device_model.h"

#include "backend/cuda/device.h"

namespace fairway::model {
namespace {

[[noreturn]] void no_device() {
  backend::require_cuda_device(0);
  __builtin_unreachable();
}

}  // namespace

const char* device_cache_type_name(DeviceCacheType type) {
  return type == DeviceCacheType::kHalf ? "f16" : "fp8";
}

struct DeviceModel::State {};

DeviceModel::DeviceModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeviceModel::DeviceModel(DeviceModel&&) noexcept = default;
DeviceModel& DeviceModel::operator=(DeviceModel&&) noexcept = default;
DeviceModel::~DeviceModel() = default;

DeviceModel DeviceModel::load(const Model&, const DeviceModelOptions&) {
  no_device();
}
DeviceModel DeviceModel::random(const formats::ModelConfig&, const RandomWeights&, const DeviceModelOptions&) {
  no_device();
}
const formats::ModelConfig& DeviceModel::config() const {
  no_device();
}
const DeviceMemoryNeed& DeviceModel::memory() const {
  no_device();
}
int DeviceModel::device() const {
  no_device();
}
DeviceCacheType DeviceModel::cache_type() const {
  no_device();
}
int DeviceModel::kv_b_bits() const {
  no_device();
}
int DeviceModel::sequences() const {
  no_device();
}
int DeviceModel::context() const {
  no_device();
}
int DeviceModel::pass_rows() const {
  no_device();
}
int DeviceModel::length(int) const {
  no_device();
}
void DeviceModel::truncate(int, int) {
  no_device();
}
void DeviceModel::pretend_length(int, int) {
  no_device();
}
void DeviceModel::forward(std::span<const int>, int) {
  no_device();
}
int DeviceModel::forward_rows() const {
  no_device();
}
void DeviceModel::logits(int, int, float*) {
  no_device();
}
bool DeviceModel::samples(const kernels::SampleParams&) const {
  no_device();
}
void DeviceModel::set_sampling(const kernels::SampleParams&, std::span<const std::uint64_t>) {
  no_device();
}
int DeviceModel::choose() {
  no_device();
}
void DeviceModel::start(std::span<const int>) {
  no_device();
}
void DeviceModel::step() {
  no_device();
}
std::vector<int> DeviceModel::take_step() {
  no_device();
}
void DeviceModel::stop() {
  no_device();
}
double DeviceModel::step_microseconds() const {
  no_device();
}
double DeviceModel::forward_microseconds() const {
  no_device();
}
std::size_t DeviceModel::step_nodes() const {
  no_device();
}
void DeviceModel::synchronize() {
  no_device();
}
PathTable DeviceModel::tune_paths(const PathTuneOptions&, bool*) {
  no_device();
}
const std::map<std::string, std::int64_t>& DeviceModel::path_calls() const {
  no_device();
}

}  // namespace fairway::model
