#include "tests/kernels/cuda/emulated_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kernel_list.h"

namespace interlace {
namespace {

constexpr int64_t kPage = 4096;
int64_t Pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// The host's block (kernels/cuda/device.h): its threads one after another, the last first.
class HostBlock {
 public:
  HostBlock(int64_t x, int64_t y) : x_(x), y_(y) { shared_.fill(std::numeric_limits<float>::quiet_NaN()); }
  int64_t x() const { return x_; }
  int64_t y() const { return y_; }
  float* shared() { return shared_.data(); }

  template <class F>
  void For(int64_t n, F f) {
    for (int64_t t = kCudaThreads - 1; t >= 0; --t) {
      for (int64_t i = t; i < n; i += kCudaThreads) f(i);
    }
  }
  template <class T, class F>
  T Sum(int64_t n, F f) {
    std::array<T, kCudaThreads> partial{};
    for (int64_t t = kCudaThreads - 1; t >= 0; --t) {
      for (int64_t i = t; i < n; i += kCudaThreads) partial[t] += f(i);
    }
    for (int half = kCudaThreads / 2; half > 0; half /= 2) {
      for (int t = 0; t < half; ++t) partial[t] += partial[t + half];
    }
    return partial[0];
  }
  template <class F>
  float Max(int64_t n, F f) {
    float largest = cuda::MinusInfinity();
    for (int64_t i = 0; i < n; ++i) {
      const float value = f(i);
      if (value > largest) largest = value;
    }
    return largest;
  }

 private:
  const int64_t x_, y_;
  std::array<float, cuda::kCudaSharedFloats> shared_;
};

int64_t ParameterBytes(CudaKernel kernel) {
  switch (kernel) {
#define INTERLACE_SIZE(name, body, type) \
  case CudaKernel::name:                 \
    return sizeof(cuda::type);
    INTERLACE_CUDA_KERNELS(INTERLACE_SIZE)
  }
  return -1;
}

void RunKernel(CudaKernel kernel, const CudaGrid& grid, const void* parameters) {
  for (int64_t y = grid.y - 1; y >= 0; --y) {
    for (int64_t x = grid.x - 1; x >= 0; --x) {
      HostBlock block(x, y);
      switch (kernel) {
#define INTERLACE_RUN(name, body, type)                             \
  case CudaKernel::name:                                            \
    cuda::body(*static_cast<const cuda::type*>(parameters), block); \
    break;
        INTERLACE_CUDA_KERNELS(INTERLACE_RUN)
      }
    }
  }
}

// Rows of w are widened once; eight sums run side by side.
void RunGemm(const CudaGemm& g) {
  const auto* w = static_cast<const uint16_t*>(g.w);
  const auto* x = static_cast<const uint16_t*>(g.x);
  std::vector<float> wide(g.ldk), rows(g.n * g.ldk);
  for (int64_t i = 0; i < g.n * g.ldk; ++i) rows[i] = BF16ToF32(x[i]);
  for (int64_t m = 0; m < g.m; ++m) {
    for (int64_t i = 0; i < g.ldk; ++i) wide[i] = BF16ToF32(w[m * g.ldk + i]);
    for (int64_t n = 0; n < g.n; ++n) {
      const float* row = &rows[n * g.ldk];
      float sums[8] = {};
      for (int64_t i = 0; i < g.ldk; i += 8) {
        for (int lane = 0; lane < 8; ++lane) sums[lane] += row[i + lane] * wide[i + lane];
      }
      float sum = 0;
      for (float lane : sums) sum += lane;
      float& d = g.d[n * g.m + m];
      d = g.accumulate ? d + sum : sum;
    }
  }
}

std::string NameOf(CudaKernel kernel) { return absl::StrCat("kernel ", static_cast<int>(kernel)); }

}  // namespace

int64_t EmulatedDevice::CountOf(const std::string& prefix) const {
  return std::count_if(calls.begin(), calls.end(),
                       [&](const std::string& call) { return absl::StartsWith(call, prefix); });
}

EmulatedDriver::~EmulatedDriver() {
  for (Queue* queue : queues_) delete queue;
}

CudaResult EmulatedDriver::Enter(const std::string& name, int64_t detail) {
  if (device_->keep_calls) device_->calls.push_back(absl::StrCat(name, " ", detail));
  if (device_->fails == name && counts_[name]++ == device_->fails_at) {
    device_->failed = true;
    // As on a device: a wait that fails means that nothing queued will run any more.
    if (name == "Synchronize" || name == "Await") {
      for (Queue* queue : queues_) queue->broken = true;
    }
    return device_->failure;
  }
  return {};
}

bool EmulatedDriver::Knows(const void* from, int64_t bytes, bool pinned_too) const {
  auto* first = static_cast<std::byte*>(const_cast<void*>(from));
  auto it = device_->memory.upper_bound(first);
  if (it == device_->memory.begin()) return false;
  --it;
  return first + bytes <= it->first + it->second.bytes && (pinned_too || it->second.kind != CudaMemory::kPinned);
}

// Words that look like addresses must be addresses that the device reaches.
void EmulatedDriver::CheckPointers(const std::string& what, const void* parameters, int64_t bytes) {
  for (int64_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t word;
    std::memcpy(&word, static_cast<const std::byte*>(parameters) + at, sizeof word);
    if (word < 0x550000000000 || word >= 0x800000000000) continue;
    if (!Knows(reinterpret_cast<const void*>(word), 1, /*pinned_too=*/false)) {
      Violation(
          absl::StrCat(what, ": byte ", at, " of the parameters points to memory that the device does not reach"));
    }
  }
}

CudaResult EmulatedDriver::Allocate(CudaMemory kind, int64_t bytes, void** out) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Allocate", bytes); !r.ok()) return r;
  if (bytes <= 0) Violation("allocation of no bytes");
  if (bytes > device_->limit_bytes) return {CudaResult::kOutOfMemory, "out of memory"};
  const int protection = kind == CudaMemory::kDevice ? PROT_NONE : PROT_READ | PROT_WRITE;
  void* memory = mmap(nullptr, Pages(bytes), protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  if (kind != CudaMemory::kDevice && bytes <= (int64_t{64} << 20)) std::memset(memory, 0xAB, bytes);
  device_->memory[static_cast<std::byte*>(memory)] = {kind, bytes};
  *out = memory;
  return {};
}

bool EmulatedDriver::Uses(const Queue& queue, const std::byte* memory, int64_t bytes) {
  if (queue.commands.empty() || queue.broken) return false;
  return queue.computes || std::any_of(queue.copied.begin(), queue.copied.end(), [&](const auto& range) {
           return range.first < memory + bytes && memory < range.first + range.second;
         });
}

CudaResult EmulatedDriver::Free(CudaMemory kind, void* memory) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Free", 0); !r.ok()) return r;
  const auto it = device_->memory.find(static_cast<std::byte*>(memory));
  if (it == device_->memory.end() || it->second.kind != kind) {
    Violation("free of memory that was not allocated so");
    return {};
  }
  for (const Queue* queue : queues_) {
    if (Uses(*queue, it->first, it->second.bytes)) Violation("free while commands are queued");
  }
  munmap(memory, Pages(it->second.bytes));
  device_->memory.erase(it);
  return {};
}

CudaResult EmulatedDriver::CreateStream(Stream* out) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("CreateStream", 0); !r.ok()) return r;
  queues_.push_back(new Queue);
  ++device_->streams;
  *out = queues_.back();
  return {};
}
CudaResult EmulatedDriver::DestroyStream(Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (!Of(stream).commands.empty() && !Of(stream).broken) Violation("stream destroyed with commands queued");
  queues_.erase(std::find(queues_.begin(), queues_.end(), &Of(stream)));
  delete &Of(stream);
  --device_->streams;
  return {};
}
CudaResult EmulatedDriver::CreateEvent(Event* out) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("CreateEvent", 0); !r.ok()) return r;
  *out = new Mark;
  ++device_->events;
  return {};
}
CudaResult EmulatedDriver::DestroyEvent(Event event) {
  absl::MutexLock lock(&mutex_);
  delete static_cast<Mark*>(event);
  --device_->events;
  return {};
}

CudaResult EmulatedDriver::Fill(void* to, uint8_t value, int64_t bytes, Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Fill", bytes); !r.ok()) return r;
  if (!Knows(to, bytes, true)) Violation("fill outside of an allocation");
  Of(stream).commands.push_back([=] { std::memset(to, value, bytes); });
  Of(stream).computes = true;
  ++Of(stream).queued;
  return {};
}

CudaResult EmulatedDriver::Copy(void* to, const void* from, int64_t bytes, Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Copy", bytes); !r.ok()) return r;
  if (!Knows(to, bytes, true) || !Knows(from, bytes, true)) Violation("copy outside of allocations");
  Of(stream).commands.push_back([=] { std::memcpy(to, from, bytes); });
  Of(stream).copied.emplace_back(static_cast<std::byte*>(to), bytes);
  Of(stream).copied.emplace_back(static_cast<const std::byte*>(from), bytes);
  ++Of(stream).queued;
  return {};
}

CudaResult EmulatedDriver::Launch(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes,
                                  Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Launch", static_cast<int64_t>(kernel)); !r.ok()) return r;
  if (bytes != ParameterBytes(kernel)) Violation(NameOf(kernel) + ": parameters of another kernel");
  if (grid.x < 1 || grid.y < 1 || grid.x >= int64_t{1} << 31 || grid.y > 65535)
    Violation(NameOf(kernel) + ": bad grid");
  CheckPointers(NameOf(kernel), parameters, bytes);
  const auto* first = static_cast<const std::byte*>(parameters);
  Queue& queue = Of(stream);
  queue.computes = true;
  queue.commands.push_back([this, &queue, kernel, grid, copy = std::vector<std::byte>(first, first + bytes)] {
    if (device_->fault_in_kernel) {
      queue.broken = true;
      return;
    }
    RunKernel(kernel, grid, copy.data());
  });
  ++queue.queued;
  return {};
}

CudaResult EmulatedDriver::Gemm(const CudaGemm& gemm, Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Gemm", gemm.m); !r.ok()) return r;
  if (gemm.m < 1 || gemm.n < 1 || gemm.k < 1 || gemm.ldk < gemm.k || gemm.ldk % 8 != 0) Violation("gemm: bad shape");
  if (!Knows(gemm.w, gemm.m * gemm.ldk * 2, false) || !Knows(gemm.x, gemm.n * gemm.ldk * 2, false) ||
      !Knows(gemm.d, gemm.n * gemm.m * 4, false)) {
    Violation("gemm outside of device memory");
  }
  Of(stream).commands.push_back([gemm] { RunGemm(gemm); });
  Of(stream).computes = true;
  ++Of(stream).queued;
  return {};
}

CudaResult EmulatedDriver::Record(Event event, Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Record", 0); !r.ok()) return r;
  *static_cast<Mark*>(event) = {&Of(stream), Of(stream).queued};
  return {};
}

// The other queue gets as far as the event when this one gets here: as late as it may.
CudaResult EmulatedDriver::WaitEvent(Stream stream, Event event) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("WaitEvent", 0); !r.ok()) return r;
  const Mark mark = *static_cast<Mark*>(event);
  if (mark.queue == nullptr) {
    Violation("wait for an event that was never recorded");
    return {};
  }
  Queue& queue = Of(stream);
  queue.commands.push_back([this, &queue, mark] {
    if (!RunUntil(*mark.queue, mark.at).ok()) queue.broken = true;
    OpenDeviceMemory(true);  // for the commands behind this one
  });
  ++queue.queued;
  return {};
}

CudaResult EmulatedDriver::Await(Event event) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Await", 0); !r.ok()) return r;
  const Mark& mark = *static_cast<Mark*>(event);
  if (mark.queue == nullptr) {
    Violation("wait for an event that was never recorded");
    return {};
  }
  return RunUntil(*mark.queue, mark.at);
}

CudaResult EmulatedDriver::Synchronize(Stream stream) {
  absl::MutexLock lock(&mutex_);
  if (CudaResult r = Enter("Synchronize", 0); !r.ok()) return r;
  return RunUntil(Of(stream), Of(stream).queued);
}

void EmulatedDriver::OpenDeviceMemory(bool open) {
  for (const auto& [memory, allocation] : device_->memory) {
    if (allocation.kind != CudaMemory::kDevice) continue;
    CHECK(mprotect(memory, Pages(allocation.bytes), open ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
  }
}

CudaResult EmulatedDriver::RunUntil(Queue& queue, int64_t count) {
  if (!queue.broken && queue.done < count) {
    OpenDeviceMemory(true);
    while (queue.done < count && !queue.broken) {
      const std::function<void()> command = std::move(queue.commands.front());
      queue.commands.pop_front();
      ++queue.done;
      command();
    }
    if (queue.commands.empty()) {
      queue.computes = false;
      queue.copied.clear();
    }
    OpenDeviceMemory(false);
  }
  if (queue.broken) return {CudaResult::kFailed, "an illegal memory access was encountered"};
  return {};
}

namespace {

// Looks at the device when its driver is gone.
class CheckedDriver final : public CudaDriver {
 public:
  CheckedDriver() { device_->keep_calls = false; }  // nobody asks
  ~CheckedDriver() override {
    driver_.reset();
    CHECK_MSG(device_->violations.empty(), device_->violations[0].c_str());
    CHECK(device_->NothingHeld());
  }
  CudaFacts facts() const override { return driver_->facts(); }
  CudaResult Allocate(CudaMemory kind, int64_t bytes, void** out) override {
    return driver_->Allocate(kind, bytes, out);
  }
  CudaResult Free(CudaMemory kind, void* memory) override { return driver_->Free(kind, memory); }
  CudaResult CreateStream(Stream* out) override { return driver_->CreateStream(out); }
  CudaResult DestroyStream(Stream stream) override { return driver_->DestroyStream(stream); }
  CudaResult CreateEvent(Event* out) override { return driver_->CreateEvent(out); }
  CudaResult DestroyEvent(Event event) override { return driver_->DestroyEvent(event); }
  CudaResult Fill(void* to, uint8_t value, int64_t bytes, Stream stream) override {
    return driver_->Fill(to, value, bytes, stream);
  }
  CudaResult Copy(void* to, const void* from, int64_t bytes, Stream stream) override {
    return driver_->Copy(to, from, bytes, stream);
  }
  CudaResult Launch(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes,
                    Stream stream) override {
    return driver_->Launch(kernel, grid, parameters, bytes, stream);
  }
  CudaResult Gemm(const CudaGemm& gemm, Stream stream) override { return driver_->Gemm(gemm, stream); }
  CudaResult Record(Event event, Stream stream) override { return driver_->Record(event, stream); }
  CudaResult WaitEvent(Stream stream, Event event) override { return driver_->WaitEvent(stream, event); }
  CudaResult Await(Event event) override { return driver_->Await(event); }
  CudaResult Synchronize(Stream stream) override { return driver_->Synchronize(stream); }

 private:
  const std::shared_ptr<EmulatedDevice> device_ = std::make_shared<EmulatedDevice>();
  std::unique_ptr<EmulatedDriver> driver_ = std::make_unique<EmulatedDriver>(device_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeEmulatedBackend(const BackendOptions& options) {
  return MakeCudaBackendOver(std::make_unique<CheckedDriver>(), options);
}

}  // namespace interlace
