// Collective: what the ranks that share the layers of a stage (tensor or sequence parallel) tell each other while they
// compute.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ids.h"

namespace interlace {

// Which exchange it is: all ranks of a group come to the same ones in the same order.
struct ExchangeId {
  Epoch epoch{};
  PlanId plan{};
  int32_t index = 0;  // within the plan, from 0
  friend bool operator==(const ExchangeId&, const ExchangeId&) = default;
};

// The one thing that a group does: each rank gives its part, and sees the parts of all, in the order of ranks. A sum is
// made of it by the op table of the rank, part by part in this order, so that every rank gets the same bits, whatever
// the arithmetic; so are the logits of a vocabulary that is split.
// Owned by the rank; Part, Exchange and Connect by the runner, the rest by any thread.
class Collective {
 public:
  using Parts = absl::Span<const absl::Span<const std::byte>>;

  virtual ~Collective() = default;
  virtual int32_t rank() const = 0;
  virtual int32_t ranks() const = 0;
  // Opaque bytes that the others pass to Connect.
  virtual const std::string& address() const = 0;
  // The other ranks of the group in this epoch, in order; this rank's own address among them.
  virtual absl::Status Connect(absl::Span<const std::string> addresses, Epoch epoch) = 0;

  // Where this rank writes what it gives next, of at most max_bytes(); aligned to a cache line. Good from Connect, or
  // the last Exchange, to the next one. So a part is computed where the others read it.
  virtual std::byte* Part() = 0;
  virtual int64_t max_bytes() const = 0;
  // Gives the first `bytes` of Part() and waits for everybody's. What it returns may be read until the next call.
  // Unavailable: another rank did not come within `timeout`, is gone, or the wait was interrupted. Internal: another
  // rank is at another exchange.
  virtual absl::StatusOr<Parts> Exchange(const ExchangeId& id, int64_t bytes, absl::Duration timeout) = 0;

  // Ends waits of every epoch below `epoch`, for good: a later epoch has begun.
  virtual void Interrupt(Epoch epoch) = 0;
  // Ends waits, now and until Resume.
  virtual void Interrupt() = 0;
  virtual void Resume() = 0;
};

}  // namespace interlace
