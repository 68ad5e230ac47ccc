#include "common/executor.h"

namespace interlace {

ThreadExecutor::ThreadExecutor(std::string name, size_t capacity)
    : queue_(capacity), thread_(std::move(name), [this] {
        while (std::optional<Task> task = queue_.Pop()) (*task)();
      }) {}

ThreadExecutor::~ThreadExecutor() {
  queue_.Close();
  thread_.Join();
}

}  // namespace interlace
