// Executor: where a single-threaded component's work runs.
#pragma once

#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "common/bounded_queue.h"
#include "common/thread.h"

namespace interlace {

using Task = absl::AnyInvocable<void()>;

// Runs tasks one after another, first in first out. Owned by main or by the component it serves; Post from any thread.
class Executor {
 public:
  virtual ~Executor() = default;
  // False iff shut down; the task is then dropped without running.
  virtual bool Post(Task task) = 0;
};

// One thread. The destructor runs what was posted, then joins.
class ThreadExecutor final : public Executor {
 public:
  explicit ThreadExecutor(std::string name, size_t capacity = 4096);
  ~ThreadExecutor() override;
  bool Post(Task task) override { return queue_.Push(std::move(task)); }

 private:
  BoundedQueue<Task> queue_;
  Thread thread_;
};

// Runs the task inside Post. For tests and the simulation. Thread: one.
class InlineExecutor final : public Executor {
 public:
  bool Post(Task task) override {
    task();
    return true;
  }
};

}  // namespace interlace
