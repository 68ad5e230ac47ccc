#include "cli/study_machine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/replica_loop.h"

namespace interlace {
namespace {

constexpr int32_t kContext = 1 << 20;     // tokens; no request of a study reaches it
constexpr int64_t kBytesOfToken = 768;    // KV of SmolLM2-135M in one layer, BF16
constexpr int64_t kMostBlocks = 1 << 30;  // of the device, or of the host

}  // namespace

absl::StatusOr<VirtualRun> VirtualMachine(const Config& config) {
  VirtualRun machine;
  ASSIGN_OR_RETURN(const ReplicaLoop::Options loop, LoopOptions(config, kContext));
  machine.options = loop.scheduler;
  VirtualShape& shape = machine.shape;
  shape.block_tokens = static_cast<int32_t>(config.kv.block_tokens);
  shape.slot_bytes = kBytesOfToken * config.kv.block_tokens;
  shape.device_slots = static_cast<int32_t>(std::min(kMostBlocks, config.kv.device_bytes.value / shape.slot_bytes));
  shape.host_frames = static_cast<int32_t>(std::min(kMostBlocks, config.kv.host_bytes.value / shape.slot_bytes));
  if (config.kv.link_bytes.value > 0) machine.law.link = static_cast<double>(config.kv.link_bytes.value);
  return machine;
}

absl::Status CheckDevice(const VirtualShape& shape) {
  if (shape.device_slots >= shape.layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("kv.device_bytes=", shape.device_slots * shape.slot_bytes,
                                                 " holds not one block of all ", shape.layers,
                                                 " layers; give at least ", shape.layers * shape.slot_bytes));
}

}  // namespace interlace
