// ReplicaSnapshot: one look at a replica, as /ui and `interlace top` show it. Values; docs/ui.md lists them as JSON.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/request_trace.h"
#include "coordinator/targets.h"

namespace interlace {

// What a request does right now. Streaming: it runs, and some of its layers are read from the host for each step.
enum class RequestState : uint8_t { kWaiting, kFetching, kRunning, kStreaming, kParked, kFinished, kFailed };
inline constexpr std::array<absl::string_view, 7> kRequestStates = {"waiting", "fetching", "running", "streaming",
                                                                    "parked",  "finished", "failed"};
inline constexpr std::array<absl::string_view, 4> kRequestPhases = {"waiting", "fetching", "running", "parked"};
inline absl::string_view NameOf(RequestState state) { return kRequestStates[static_cast<size_t>(state)]; }
inline absl::string_view NameOf(RequestPhase phase) { return kRequestPhases[static_cast<size_t>(phase)]; }

// Slots of a stage's device arena, or frames of its host memory; each holds one block of one layer.
struct RoomSnapshot {
  int64_t held = 0;    // by requests
  int64_t cached = 0;  // sealed blocks that no request needs there
  int64_t ring = 0;    // set aside for layers that are read from the host for their turn; device alone
  int64_t total = 0;
  friend bool operator==(const RoomSnapshot&, const RoomSnapshot&) = default;
};

struct StageSnapshot {
  int32_t layer_begin = 0, layer_end = 0;
  RoomSnapshot device, host;
  friend bool operator==(const StageSnapshot&, const StageSnapshot&) = default;
};

struct LayerSnapshot {
  int32_t stage = 0;
  int64_t device = 0;       // sealed blocks there
  int64_t host = 0;         // likewise; a block may lie in both places
  int64_t unsealed = 0;     // blocks that are being filled, on the device
  int32_t streamed_by = 0;  // running requests that read this layer from the host for each step
  int64_t bytes_in = 0;     // since the coordinator began, towards the device
  int64_t bytes_out = 0;
  absl::Duration stall;
  friend bool operator==(const LayerSnapshot&, const LayerSnapshot&) = default;
};

struct RequestSnapshot {
  struct Span {
    RequestPhase phase{};
    absl::Duration begin;  // from its arrival; it lasts until the next one begins
    friend bool operator==(const Span&, const Span&) = default;
  };

  std::string name;
  int32_t replica = 0;  // where it is
  RequestState state{};
  Targets targets;
  absl::Duration deadline = absl::InfiniteDuration();  // from its arrival
  int32_t prompt = 0, generated = 0, max_tokens = 0;
  int32_t computed = 0;  // positions that are computed or in plans
  int32_t cached = 0;    // of the prompt; their KV was there already
  int32_t kept = 0;      // layers whose blocks all lie on the device
  // A letter for each layer: d, its blocks lie on the device; h, some lie on the host alone; -, it holds none. Of a
  // parked request a few of its blocks are looked at, spread evenly.
  std::string layers;
  absl::Duration age;                         // arrival to now, or to its end
  std::optional<absl::Duration> started;      // arrival to first step
  std::optional<absl::Duration> first_token;  // arrival to first token
  std::optional<absl::Duration> since_token;  // last token to now; none after its end
  absl::Duration largest_gap;                 // between two tokens so far
  // Until its next token is due; negative: it is late. By its targets, and by nominal ones where it has none.
  absl::Duration slack = absl::InfiniteDuration();
  std::vector<Span> phases;  // in order
  // Of those that have ended.
  absl::Duration ended;  // how long ago
  std::string status;    // empty: it ended well
  TargetsMet met;
  friend bool operator==(const RequestSnapshot&, const RequestSnapshot&) = default;
};

struct TargetTally {
  int64_t met = 0, missed = 0;
  friend bool operator==(const TargetTally&, const TargetTally&) = default;
};

// What became of the requests that ended since the coordinator began.
struct SloTally {
  TargetTally ttft, tpot, largest_gap, deadline;
  int64_t finished = 0, failed = 0;
  int64_t goodput = 0;  // finished, and missed nothing
  friend bool operator==(const SloTally&, const SloTally&) = default;
};

struct SecondSnapshot {
  int64_t tokens = 0;     // generated
  int64_t positions = 0;  // computed: prompt, stream, and what was computed again
  friend bool operator==(const SecondSnapshot&, const SecondSnapshot&) = default;
};

// One of several replicas, in a line.
struct ReplicaRow {
  int32_t ranks = 0, ranks_ready = 0;
  int64_t running = 0, waiting = 0;                        // requests that hold KV, and others
  int64_t blocks_held = 0, blocks_cached = 0, blocks = 0;  // as in EngineLoad
  int64_t tokens = 0;                                      // generated, since the coordinator began
  std::string role = "both";                               // what it is for: both, prefill or decode
  bool draining = false;                                   // it gets nothing new
  friend bool operator==(const ReplicaRow&, const ReplicaRow&) = default;
};

// Of several replicas together, too: stages and layers are then the sums over all that are formed.
struct ReplicaSnapshot {
  static constexpr size_t kMostRequests = 256;
  static constexpr size_t kMostEnded = 32;
  static constexpr int kSeconds = 60;

  std::string policy;
  absl::Duration uptime;  // of the coordinator's scheduler
  int32_t ranks = 0, ranks_ready = 0;
  std::vector<ReplicaRow> replicas;  // by number; none if there is one alone
  bool draining = false;
  // Of the formed replica; none while ranks are missing.
  int32_t layers = 0;
  int32_t block_tokens = 0;
  int64_t slot_bytes = 0;  // of one block of one layer
  std::vector<StageSnapshot> stages;
  std::vector<LayerSnapshot> by_layer;

  int64_t waiting = 0, fetching = 0, running = 0, streaming = 0, parked = 0;  // each request is in one of them
  std::vector<RequestSnapshot> requests;  // in the order of service: those with KV, then those who wait; kMostRequests
  std::vector<RequestSnapshot> ended;     // the last ones, latest first; kMostEnded

  int64_t prompt_tokens = 0;  // admitted
  int64_t tokens = 0;         // generated
  int64_t positions = 0;      // computed
  SloTally slo;
  int64_t steps = 0;
  absl::Duration step_p50, step_p95;    // sent to answered by all stages, of the last few hundred
  std::vector<SecondSnapshot> seconds;  // the last kSeconds whole ones, oldest first

  int64_t total() const { return waiting + fetching + running + streaming + parked; }
  friend bool operator==(const ReplicaSnapshot&, const ReplicaSnapshot&) = default;
};

}  // namespace interlace
