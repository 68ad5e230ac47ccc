#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendOptions& options);

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int kMaxThreads = 1024;

// Anonymous pages: zeroed by the kernel, page aligned. Owned by the caller of Allocate.
class MappedBuffer final : public DeviceBuffer {
 public:
  MappedBuffer(std::byte* mapping, int64_t mapping_bytes, std::byte* data, int64_t bytes)
      : mapping_(mapping), mapping_bytes_(mapping_bytes), data_(data), bytes_(bytes) {}
  ~MappedBuffer() override { munmap(mapping_, static_cast<size_t>(mapping_bytes_)); }
  MappedBuffer(const MappedBuffer&) = delete;
  MappedBuffer& operator=(const MappedBuffer&) = delete;
  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  std::byte* const mapping_;
  const int64_t mapping_bytes_;
  std::byte* const data_;
  const int64_t bytes_;
};

// Ops are done when they return, so a copy waits for none. Owned by CpuBackend.
class CpuCopies final : public DeviceCopies {
 public:
  OpFence Mark() override { return nullptr; }
  void Copy(void* to, const void* from, int64_t bytes, const OpFence&) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  absl::Status Finish() override { return absl::OkStatus(); }
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const OpTable& ops, int threads) : ops_(ops), team_(threads) {}
  absl::string_view name() const override { return "cpu"; }
  const OpTable& ops() const override { return ops_; }
  OpContext context() override { return team_; }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  int threads() const override { return team_.threads(); }
  DeviceCopies& copies() override { return copies_; }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override { return Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override { return Allocate(bytes); }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
    // A big buffer gets room to start on a huge page.
    const bool big = bytes >= kHugePage;
    const int64_t slack = big ? kHugePage : 0;
    if (bytes > INT64_MAX - slack) return Exhausted(bytes, ENOMEM);
    const int64_t mapping_bytes = bytes == 0 ? 1 : bytes + slack;
    void* mapping =
        mmap(nullptr, static_cast<size_t>(mapping_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return Exhausted(bytes, errno);
    auto* first = static_cast<std::byte*>(mapping);
    std::byte* data = first;
    if (big) {
      const auto address = reinterpret_cast<uintptr_t>(first);
      data += (kHugePage - static_cast<int64_t>(address % kHugePage)) % kHugePage;
      // Advice only: without huge pages the buffer works, with more TLB misses.
      madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    }
    return std::make_unique<MappedBuffer>(first, mapping_bytes, data, bytes);
  }

 private:
  static absl::Status Exhausted(int64_t bytes, int error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the cpu backend could not map ", bytes, " bytes: ", std::strerror(error)));
  }

  const OpTable& ops_;
  ThreadTeam team_;
  CpuCopies copies_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendOptions& options) {
  if (options.threads < 1 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, "; the cpu backend takes 1 to ", kMaxThreads));
  }
  absl::StatusOr<const OpTable*> ops = FindOpTable(options.ops);
  if (!ops.ok()) return ops.status();
  return std::make_unique<CpuBackend>(**ops, options.threads);
}

}  // namespace interlace
