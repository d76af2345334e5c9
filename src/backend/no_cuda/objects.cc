// The classes of src/backend/cuda without a CUDA toolkit. No constructor returns, so no other member is ever entered,
// destructors least of all.
#include "backend/cuda/arena.h"
#include "backend/cuda/device.h"
#include "backend/cuda/event.h"
#include "backend/cuda/graph.h"
#include "backend/cuda/pinned_buffer.h"
#include "backend/cuda/profiler.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/upload_pool.h"
#include "backend/cuda/uploader.h"

namespace fairway::backend {
namespace {

[[noreturn]] void no_object() {
  require_cuda_device(0);
  __builtin_unreachable();
}

}  // namespace

std::size_t DeviceArena::rounded(std::size_t) {
  no_object();
}
DeviceArena::DeviceArena(int device, std::size_t bytes) : device_(device), capacity_(bytes) {
  no_object();
}
DeviceArena::~DeviceArena() {}
void* DeviceArena::alloc_bytes(std::size_t, std::size_t, std::string_view) {
  no_object();
}

CudaEvent::CudaEvent(int) {
  no_object();
}
CudaEvent::~CudaEvent() {}
void CudaEvent::record(const CudaStream&) {
  no_object();
}
bool CudaEvent::passed() const {
  no_object();
}
void CudaEvent::wait() const {
  no_object();
}

void EventTimer::start(const CudaStream&) {
  no_object();
}
void EventTimer::stop(const CudaStream&) {
  no_object();
}
bool EventTimer::ready() const {
  no_object();
}
double EventTimer::microseconds() const {
  no_object();
}

CudaStream::CudaStream(int device) : device_(device) {
  no_object();
}
CudaStream::~CudaStream() {}
void CudaStream::copy_to_device(void*, const void*, std::size_t) {
  no_object();
}
void CudaStream::copy_to_host(void*, const void*, std::size_t) {
  no_object();
}
void CudaStream::copy_on_device(void*, const void*, std::size_t) {
  no_object();
}
void CudaStream::fill(void*, unsigned char, std::size_t) {
  no_object();
}
void CudaStream::wait_for(const CudaEvent&) {
  no_object();
}
void CudaStream::wait() {
  no_object();
}

CudaGraph::CudaGraph(CudaStream&, const std::function<void()>&) {
  no_object();
}
CudaGraph::~CudaGraph() {}
void CudaGraph::replay(CudaStream&) const {
  no_object();
}

PinnedBuffer::PinnedBuffer(int, std::size_t bytes) : size_(bytes) {
  no_object();
}
PinnedBuffer::~PinnedBuffer() {}

Uploader::Uploader(int device, std::size_t bytes)
    : stream_(device), slots_{Slot(device, bytes), Slot(device, bytes)}, arrived_(device) {}
Uploader::~Uploader() {}
void Uploader::upload(void*, std::span<const std::uint8_t>) {
  no_object();
}
void Uploader::finish() {
  no_object();
}
const CudaEvent& Uploader::arrived() {
  no_object();
}

UploadPool::UploadPool(int device, int, std::size_t chunk_bytes) : device_(device), chunk_bytes_(chunk_bytes) {
  no_object();
}
UploadPool::~UploadPool() {}
void UploadPool::add(void*, std::span<const std::uint8_t>) {
  no_object();
}
void UploadPool::finish(const std::function<void()>&) {
  no_object();
}
int upload_threads() {
  return 0;
}

ProfiledRange::ProfiledRange() {
  no_object();
}
ProfiledRange::~ProfiledRange() {}

}  // namespace fairway::backend
