// EmulatedDriver: a CudaDriver whose device is this process. It runs the device code's own bodies on the host, as late
// as it may, so that whatever the host side forgets to wait for shows as a wrong result.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_driver.h"

namespace interlace {

// What the device holds and saw; outlives the driver, which belongs to the backend under test. Tests look at it while
// nothing is under way.
struct EmulatedDevice {
  struct Allocation {
    CudaMemory kind;
    int64_t bytes;
  };
  std::map<std::byte*, Allocation> memory;
  int streams = 0;
  int events = 0;
  bool keep_calls = true;
  std::vector<std::string> calls;       // "Copy 256", "Launch 3", ... in the order in which they were made
  std::vector<std::string> violations;  // of the contract of CudaDriver
  // The call of this name and number, counted from 0 (say {"Launch", 2}), answers `failure` and does nothing.
  std::string fails;
  int fails_at = 0;
  CudaResult failure;
  bool failed = false;  // that call was made
  // The stream fails when it gets to its next launch: an error that shows at a later call.
  bool fault_in_kernel = false;
  int64_t limit_bytes = int64_t{1} << 40;  // of each allocation

  int64_t CountOf(const std::string& prefix) const;
  bool NothingHeld() const { return memory.empty() && streams == 0 && events == 0; }
};

// Commands run when the host waits for them (Synchronize, Await) and not before. Threads of a block run one after
// another from the last to the first, blocks likewise. Device memory cannot be touched but by commands.
class EmulatedDriver final : public CudaDriver {
 public:
  explicit EmulatedDriver(std::shared_ptr<EmulatedDevice> device) : device_(std::move(device)) {}
  ~EmulatedDriver() override;

  CudaFacts facts() const override { return {"emulated device", int64_t{1} << 34, 1, "no CUDA"}; }
  CudaResult Allocate(CudaMemory kind, int64_t bytes, void** out) override;
  CudaResult Free(CudaMemory kind, void* memory) override;
  CudaResult CreateStream(Stream* out) override;
  CudaResult DestroyStream(Stream stream) override;
  CudaResult CreateEvent(Event* out) override;
  CudaResult DestroyEvent(Event event) override;
  CudaResult Fill(void* to, uint8_t value, int64_t bytes, Stream stream) override;
  CudaResult Copy(void* to, const void* from, int64_t bytes, Stream stream) override;
  CudaResult Launch(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes,
                    Stream stream) override;
  CudaResult Gemm(const CudaGemm& gemm, Stream stream) override;
  CudaResult Record(Event event, Stream stream) override;
  CudaResult WaitEvent(Stream stream, Event event) override;
  CudaResult Await(Event event) override;
  CudaResult Synchronize(Stream stream) override;

 private:
  struct Queue {
    std::deque<std::function<void()>> commands;
    int64_t queued = 0, done = 0;
    bool broken = false;
    // Of the commands that are queued: whether any is no copy, and what the copies touch.
    bool computes = false;
    std::vector<std::pair<const std::byte*, int64_t>> copied;
  };
  struct Mark {
    Queue* queue = nullptr;
    int64_t at = 0;  // commands queued before it
  };

  // Counts the call; its failure, if it is to fail.
  CudaResult Enter(const std::string& name, int64_t detail);
  void Violation(const std::string& text) { device_->violations.push_back(text); }
  // The range lies in one allocation of these kinds.
  bool Knows(const void* from, int64_t bytes, bool pinned_too) const;
  void CheckPointers(const std::string& what, const void* parameters, int64_t bytes);
  CudaResult RunUntil(Queue& queue, int64_t count);
  void OpenDeviceMemory(bool open);
  static Queue& Of(Stream stream) { return *static_cast<Queue*>(stream); }

  // Whether a queued command may use this memory.
  static bool Uses(const Queue& queue, const std::byte* memory, int64_t bytes);

  absl::Mutex mutex_;  // one call at a time
  const std::shared_ptr<EmulatedDevice> device_;
  std::map<std::string, int> counts_;
  std::vector<Queue*> queues_;
};

// The cuda backend over a device of its own, for whoever takes a MakeBackend. Aborts at its end if the driver's
// contract was violated or something is still held.
absl::StatusOr<std::unique_ptr<Backend>> MakeEmulatedBackend(const BackendOptions& options);

}  // namespace interlace
