// A persistent pool of workers that runs tiles of one kernel at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace fairway::backend {

// One caller at a time. The caller works too, as worker 0. Workers spin briefly after a job and then sleep, and a
// worker whose processor is taken away in the middle of a task is left out for a while, so that another process on one
// of the processors costs its share of the work and not the whole job. Tasks must not throw.
class ThreadPool {
 public:
  // threads <= 0 means one per processor this process may run on.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Runs fn(task, worker) for every task in [0, tasks) with 0 <= worker < size(), each exactly once, in any order, and
  // returns when all are done. What the tasks wrote is visible to the caller.
  template <class Fn>
  void parallel_for(std::int64_t tasks, Fn&& fn) {
    using Body = std::remove_reference_t<Fn>;
    run(
        tasks, [](void* body, std::int64_t task, int worker) { (*static_cast<Body*>(body))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Invoke = void (*)(void* body, std::int64_t task, int worker);
  void run(std::int64_t tasks, Invoke invoke, void* body);

  struct State;
  int size_;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::backend
