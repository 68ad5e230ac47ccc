// FaultPoints: named places where a test may make the world fail.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/entropy.h"

namespace interlace {

// The points that exist; Parse refuses any other name.
inline constexpr absl::string_view kFaultPoints[] = {
    "kv.flip_at_rest",    // one bit of a stored block flips before it is read back
    "kv.flip_in_flight",  // one bit of a block flips between encoding and storing
    "kv.swap_layer",      // a read answers with the same block of another layer
    "kv.swap_request",    // a read answers with a block of another request
    "kv.read_lost",       // a read answers NotFound
};

// Armed from configuration (`fault.points=kv.flip_at_rest:0.01,...`, `fault.seed=7`); never armed by default.
// Owned by main; any thread.
class FaultPoints {
 public:
  FaultPoints() = default;  // nothing armed
  // "name:probability,..."; InvalidArgument names an unknown point or a probability outside [0, 1].
  static absl::StatusOr<std::unique_ptr<FaultPoints>> Parse(absl::string_view text, uint64_t seed);

  // True when the armed point fires now. Cheap when nothing is armed.
  bool Fires(absl::string_view point);
  // A random word from the points' own stream, to choose which bit to flip.
  uint64_t Draw();
  // How often `point` fired so far.
  int64_t fired(absl::string_view point) const;

 private:
  struct Armed {
    double probability = 0;
    int64_t fired = 0;
  };
  mutable absl::Mutex mutex_;
  std::map<std::string, Armed, std::less<>> armed_;  // constant keys after Parse; counts protected by mutex_
  std::unique_ptr<Entropy> entropy_;                 // protected by mutex_
};

}  // namespace interlace
