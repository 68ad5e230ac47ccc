// Scenario: all that is drawn before a simulation begins, as values.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler.h"

namespace interlace::sim {

// Bugs that are planted to see whether the simulation finds them; all but kNone are wrong. docs/decisions/simulation.md
// says what each of them does.
enum class Canary : uint8_t {
  kNone,
  kAdoptsUnchecked,     // a rank runs a sequence although a block that it reads lies nowhere
  kSkipsVerification,   // a frame goes to the device unverified
  kDropsBeforeCopied,   // a slot is free although a copy from it has not ended
  kStaleFrame,          // a frame is taken for another block and keeps the bytes of the former one
  kSwapsLayers,         // sealed blocks of two layers change places
  kForeignBlock,        // a tier answers with another block, and nobody looks
  kFetchLies,          // a fetch that failed in a layer is answered as if the block had arrived there
  kLeaksTail,           // a released sequence keeps its slots
  kWindowOffByOne,      // a layer with a window forgets a block that the first row still sees
  kStaleLastSample,     // "your own last sample" is the sample before the last
  kResultTakenTwice,    // a result that arrives twice counts for the next plan too
  kOldEpochTaken,       // a result of a former epoch counts for this one
  kDraftsUnchecked,     // guesses are taken for what the model said
  kTokenLostAtForming,  // a replica that is formed anew goes on without a token that the client has
};
inline constexpr int32_t kCanaries = 15;
const char* CanaryName(Canary canary);
std::optional<Canary> FindCanary(const std::string& name);

enum class FaultKind : uint8_t {
  kCrash,        // the rank's process dies and starts again
  kBreakStream,  // the connection between rank and coordinator ends
  kPartition,    // nothing passes between rank and coordinator for a while
  kBreakLink,    // the connection from a stage to the next one ends
  kClogLink,     // nothing passes from a stage to the next one for a while
  kStop,         // the process stands still for a while (SIGSTOP)
  kSlow,         // the rank computes more slowly for a while
  kFlipFrame,    // a bit of a host frame flips
  kFlipStored,   // a bit of a block in a tier flips
  kTierAway,     // a tier answers Unavailable for a while
  kTierSlow,     // a tier answers late for a while
  kTierForgets,  // a tier loses a part of its blocks
  kTornWrites,   // puts of a while are cut short
  kDuplicates,   // for a while results arrive twice
};
inline constexpr int32_t kFaultKinds = 14;
const char* FaultName(FaultKind kind);

struct Fault {
  int32_t index = 0;
  FaultKind kind{};
  absl::Duration at;    // since the beginning
  absl::Duration time;  // how long it lasts, or until the process starts again
  int32_t stage = 0;
  int32_t size = 0;  // what it means depends on the kind
};

// A request of a client. Times count from the beginning.
struct Arrival {
  int32_t index = 0;
  uint64_t id = 0;
  absl::Duration at;
  std::vector<int32_t> prompt;
  int32_t max_tokens = 1;
  std::vector<int32_t> stop_tokens;
  uint64_t sampling_seed = 0;
  std::string salt;
  absl::Duration deadline = absl::InfiniteDuration();
  absl::Duration cancel = absl::InfiniteDuration();
  int32_t poison_stage = -1;     // the process of this stage dies when it computes the position
  int32_t poison_position = -1;  // -1: it is no poison
  bool refused = false;          // ranks refuse it
};

struct Shape {
  int32_t stages = 1;
  std::vector<int32_t> windows;  // [layers]
  int32_t block_tokens = 4;
  int32_t vocab = 97;
  int32_t slots = 0;  // of each stage
  int32_t frames = 0;
  bool own_tier = false;     // of each rank, on its disk
  bool shared_tier = false;  // of all ranks
  int32_t tier_blocks = 0;   // of the largest that fit into a tier
  int32_t layers() const { return static_cast<int32_t>(windows.size()); }
  bool tiers() const { return own_tier || shared_tier; }
};

// How long things take.
struct Pace {
  absl::Duration step = absl::Microseconds(100);     // a step on one stage
  absl::Duration row = absl::Microseconds(20);       // of each row, in each layer
  absl::Duration copy = absl::Microseconds(20);      // of one extent between device and host, at most
  absl::Duration latency = absl::Microseconds(300);  // of a message, at most
  absl::Duration tier = absl::Milliseconds(2);       // of a call of a tier, at most
  absl::Duration load = absl::Milliseconds(300);     // from the start of a process until it registers
};

struct Scenario {
  uint64_t seed = 0;
  Shape shape;
  Pace pace;
  Scheduler::Options options;
  const Policy* policy = &Policies()[0];
  int32_t max_waiting = 256;
  std::vector<Arrival> arrivals;
  std::vector<Fault> faults;
  bool calm() const;  // nothing fails, and nobody gives up
  std::string ToString() const;
};

// What of a scenario is left out in order to make it smaller. Requests and faults draw from streams of their own, so
// that leaving one out leaves the others as they are.
struct Cut {
  std::optional<std::vector<int32_t>> requests, faults;  // those that stay
  int32_t prompt_tokens = std::numeric_limits<int32_t>::max();
  int32_t max_tokens = std::numeric_limits<int32_t>::max();
};

Scenario DrawScenario(uint64_t seed);
Scenario Apply(const Cut& cut, Scenario scenario);

}  // namespace interlace::sim
