// Backend: device memory and ops. On the CPU backend "device memory" is an arena of the size the user sets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/device_copies.h"
#include "kernels/op_context.h"
#include "kernels/op_table.h"
#include "kernels/tensor.h"

namespace interlace {

// Memory that a Backend allocated, freed when it dies; 64-byte aligned. Who reaches it is said where it is allocated.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() = 0;
  virtual int64_t bytes() const = 0;
};

// Owned by main. Thread: the runner, except Allocate at start. The trap: it must outlive every buffer it made.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual absl::string_view name() const = 0;
  virtual const OpTable& ops() const = 0;
  // What ops run on. A device's ops are queued; what they wrote is there after Synchronize, and what the host writes
  // where queued ops read or write must wait for it. Its error is that of any op before: from then on no op runs.
  virtual OpContext context() = 0;
  virtual absl::Status Synchronize() = 0;
  virtual int threads() const = 0;
  // Memory that ops and the host reach, zeroed. ResourceExhausted names the size, here and below.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) = 0;
  // Memory for ops and copies alone: the host must not touch it. What it holds at first is not said.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) = 0;
  // Memory of the host that copies reach fastest, page aligned. The cpu backend's pages come into being when they are
  // written for the first time, so that a large buffer costs nothing until it is used.
  virtual absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) = 0;
  virtual DeviceCopies& copies() = 0;
};

struct BackendOptions {
  absl::string_view ops = "auto";
  int threads = 1;
};
using MakeBackend = absl::StatusOr<std::unique_ptr<Backend>> (*)(const BackendOptions&);

// The table of backends: "cpu", "cuda". NotFound lists the known names; FailedPrecondition and Unimplemented say why
// one cannot run here.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view name, const BackendOptions& options);

}  // namespace interlace
