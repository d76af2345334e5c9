// The thread pool: a job is a count of unclaimed tasks that caller and workers take from until it is empty.
#include "backend/cpu/thread_pool.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "backend/cpu/features.h"
#include "fairway/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fairway::backend {
namespace {

// Gaps between the jobs of one layer are a few microseconds. On a virtual Xeon with 2 cores a job of two empty tasks
// that both threads join takes 0.6 us while the worker spins and 35 to 65 us if it sleeps (mean of 300, gaps of 10 us
// and of 0.2 to 1 ms), so spinning for about one wake-up never costs more than twice the better choice.
constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kPausesPerClockRead = 16;
constexpr int kMaxThreads = 1024;

// A worker that loses its processor in the middle of a task makes the caller wait for a time slice of the scheduler,
// about 3 ms on Linux. The caller takes a wait for such a stall if it is this long and several times as long as its own
// tasks of the job took, and leaves the worker out for a while: a process that keeps one processor of two then costs
// that processor, and one stall in every kBenchTime.
constexpr std::chrono::microseconds kStallTime{400};
constexpr int kStallTasks = 4;
constexpr std::chrono::milliseconds kBenchTime{40};

using Clock = std::chrono::steady_clock;

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Polls until ready() or until the time is over; says whether it became ready.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::microseconds limit) {
  if (ready()) return true;
  if (limit.count() == 0) return false;
  const auto deadline = Clock::now() + limit;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      pause_cpu();
      if (ready()) return true;
    }
  } while (Clock::now() < deadline);
  return false;
}

// Interrupts go to the thread that drives the program, never to a worker in the middle of a kernel.
class BlockInterrupts {
 public:
  BlockInterrupts() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, &old_);
  }
  ~BlockInterrupts() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  BlockInterrupts(const BlockInterrupts&) = delete;
  BlockInterrupts& operator=(const BlockInterrupts&) = delete;

 private:
  sigset_t old_;
};

}  // namespace

// Protocol. The caller writes the job, then `unclaimed` (release), then bumps `epoch`. Whoever lowers `unclaimed` by a
// compare-exchange from n > 0 owns task tasks - n and reads the job only then: the job cannot end, and so cannot be
// rewritten, before that task is reported in `unfinished`. A worker that wakes late can therefore only find nothing, or
// rightfully take a task of the job that is current at that moment; no generation tag is needed in the counter.
// A worker reads `epoch` before it looks for tasks and sleeps only while `epoch` still has that value, so a job that is
// published in between is never slept through.
struct ThreadPool::State {
  alignas(64) std::atomic<std::uint32_t> unclaimed{0};
  alignas(64) std::atomic<std::uint32_t> unfinished{0};
  alignas(64) std::atomic<std::uint32_t> epoch{0};
  alignas(64) std::atomic<bool> stop{false};
  Invoke invoke = nullptr;
  void* body = nullptr;
  std::int64_t first = 0;
  std::uint32_t tasks = 0;
  std::chrono::microseconds spin{0};

  struct alignas(64) Worker {
    std::atomic<bool> busy{false};             // has tasks that it has not reported
    std::atomic<Clock::rep> benched_until{0};  // sleeps until then before it takes tasks again; 0: takes part
  };
  std::vector<Worker> workers;  // [size], the caller first
  std::vector<std::thread> threads;

  // Takes and runs tasks until none is left; returns how many it ran.
  std::uint32_t work(int worker) {
    std::uint32_t ran = 0;
    std::uint32_t left = unclaimed.load(std::memory_order_relaxed);
    while (left > 0) {
      if (!unclaimed.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_relaxed)) {
        continue;
      }
      invoke(body, first + static_cast<std::int64_t>(tasks - left), worker);
      ++ran;
      left = unclaimed.load(std::memory_order_relaxed);
    }
    return ran;
  }

  // Reports finished tasks; true if they were the last of the job.
  bool report(std::uint32_t ran) { return unfinished.fetch_sub(ran, std::memory_order_acq_rel) == ran; }

  void take_part(int index) {
    Worker& worker = workers[static_cast<std::size_t>(index)];
    const Clock::rep bench = worker.benched_until.exchange(0, std::memory_order_relaxed);
    if (bench != 0) std::this_thread::sleep_until(Clock::time_point(Clock::duration(bench)));
    worker.busy.store(true, std::memory_order_relaxed);
    const std::uint32_t ran = work(index);
    worker.busy.store(false, std::memory_order_relaxed);
    if (ran > 0 && report(ran)) unfinished.notify_one();
  }

  // Waits for the tasks that others took. own_tasks of the caller took `own_time`.
  void wait_for_others(std::uint32_t own_tasks, Clock::duration own_time) {
    const auto finished = [&] { return unfinished.load(std::memory_order_acquire) == 0; };
    if (spin_until(finished, spin)) return;
    const Clock::time_point begin = Clock::now();
    std::vector<bool>& late = late_workers;
    for (std::size_t i = 0; i < workers.size(); ++i) late[i] = workers[i].busy.load(std::memory_order_relaxed);
    for (std::uint32_t left; (left = unfinished.load(std::memory_order_acquire)) != 0;) {
      unfinished.wait(left, std::memory_order_acquire);
    }
    if (spin.count() == 0 || own_tasks == 0) return;  // too many threads: waiting is normal
    const Clock::time_point now = Clock::now();
    if (now - begin < std::max<Clock::duration>(kStallTime, kStallTasks * own_time / own_tasks)) return;
    const Clock::rep until = (now + kBenchTime).time_since_epoch().count();
    for (std::size_t i = 0; i < workers.size(); ++i) {
      if (late[i]) workers[i].benched_until.store(until, std::memory_order_relaxed);
    }
  }
  std::vector<bool> late_workers;  // of wait_for_others, kept so that it allocates nothing

  void worker_loop(int worker) {
    std::uint32_t seen = epoch.load(std::memory_order_acquire);
    while (!stop.load(std::memory_order_acquire)) {
      take_part(worker);
      const auto changed = [&] { return epoch.load(std::memory_order_acquire) != seen; };
      if (!spin_until(changed, spin)) epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
    }
  }

  void wake(std::uint32_t count) {
    epoch.fetch_add(1, std::memory_order_seq_cst);
    if (count >= threads.size()) {
      epoch.notify_all();
    } else {
      for (std::uint32_t i = 0; i < count; ++i) epoch.notify_one();
    }
  }

  void shut_down() {
    stop.store(true, std::memory_order_release);
    wake(std::numeric_limits<std::uint32_t>::max());
    for (std::thread& thread : threads) thread.join();
  }
};

ThreadPool::ThreadPool(int threads) : size_(threads > 0 ? threads : cpu_info().cores), state_(new State) {
  if (size_ > kMaxThreads) {
    throw Error(ErrorKind::kUsage, fmt::format("{} threads asked for; at most {} are supported", size_, kMaxThreads));
  }
  state_->workers = std::vector<State::Worker>(static_cast<std::size_t>(size_));
  state_->late_workers.resize(static_cast<std::size_t>(size_));
  // With more threads than processors a spinning worker takes time from one that has work.
  state_->spin = size_ <= cpu_info().cores ? kSpinTime : std::chrono::microseconds{0};
  state_->threads.reserve(static_cast<std::size_t>(size_ - 1));
  const BlockInterrupts block;
  try {
    for (int worker = 1; worker < size_; ++worker) {
      state_->threads.emplace_back([state = state_.get(), worker] { state->worker_loop(worker); });
    }
  } catch (const std::system_error& e) {
    state_->shut_down();
    throw Error(ErrorKind::kResource,
                fmt::format("cannot start thread {} of {}: {}", state_->threads.size() + 2, size_, e.what()));
  }
}

ThreadPool::~ThreadPool() {
  state_->shut_down();
}

void ThreadPool::run(std::int64_t tasks, Invoke invoke, void* body) {
  if (size_ == 1 || tasks <= 1) {
    for (std::int64_t task = 0; task < tasks; ++task) invoke(body, task, 0);
    return;
  }
  State& state = *state_;
  constexpr std::int64_t kMaxTasksPerJob = std::numeric_limits<std::uint32_t>::max();
  for (std::int64_t first = 0; first < tasks; first += kMaxTasksPerJob) {
    const auto count = static_cast<std::uint32_t>(std::min(tasks - first, kMaxTasksPerJob));
    state.invoke = invoke;
    state.body = body;
    state.first = first;
    state.tasks = count;
    state.unfinished.store(count, std::memory_order_relaxed);
    state.unclaimed.store(count, std::memory_order_release);
    state.wake(count - 1);

    const Clock::time_point begin = Clock::now();
    const std::uint32_t ran = state.work(0);
    if (!state.report(ran)) state.wait_for_others(ran, Clock::now() - begin);
  }
}

}  // namespace fairway::backend
