// Transport: messages between processes, of any size. The seam behind which UCX lives.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

enum class PeerId : uint64_t {};   // one connection; never reused within a process
enum class Channel : uint16_t {};  // who handles a message

inline constexpr Channel kActivationChannel{1};
inline constexpr Channel kKvRequestChannel{2};
inline constexpr Channel kKvReplyChannel{3};
inline constexpr Channel kSampleChannel{4};
inline constexpr Channel kPlanChannel{5};    // coordinator to rank; its header is the session (proto/cluster.proto)
inline constexpr Channel kResultChannel{6};  // rank to coordinator; likewise

// Whose messages may be large: activations and blocks of KV. All else is small and decides what processes do.
constexpr bool IsBulk(Channel channel) {
  return channel == kActivationChannel || channel == kKvRequestChannel || channel == kKvReplyChannel;
}

// Why a connection was refused or ended by this process: `garbage`, bytes that are no frame or message of ours;
// `wrong_key`, a peer that does not know the key; `out_of_turn`, a frame that may not come now; `late`, no handshake in
// time; `crowd`, too many that have not shown who they are; `tampered`, a frame that the peer did not make so; `order`,
// one that was sent before, or that another was lost before.
inline constexpr std::array<absl::string_view, 7> kRefusalCauses = {"garbage", "wrong_key", "out_of_turn", "late",
                                                                    "crowd",   "tampered",  "order"};
using RefusalCounts = std::array<int64_t, kRefusalCauses.size()>;

// Immutable bytes shared between their owner and transfers in flight.
using SharedBytes = std::shared_ptr<const std::string>;

struct Message {
  PeerId from;         // answers may be sent to it
  std::string header;  // at most 4 KiB
  std::string body;    // the parts of Send, one after another
};

// Owned by main; any thread may send. Handlers run on the transport's own thread and must not block.
// The trap: Send answers "handed over", not "arrived"; what must be known to have arrived needs a reply.
class Transport {
 public:
  using SendDone = absl::AnyInvocable<void(absl::Status)>;
  using Handler = absl::AnyInvocable<void(Message)>;
  using PeerLost = absl::AnyInvocable<void(PeerId, absl::Status)>;

  virtual ~Transport() = default;
  // Opaque bytes that another process passes to Connect; empty if this one cannot be connected to.
  virtual const std::string& address() const = 0;
  // Unavailable if the peer cannot be reached. The peer learns of this connection and can answer on it.
  virtual absl::StatusOr<PeerId> Connect(absl::string_view address) = 0;
  // `done` runs exactly once, when the parts are no longer needed, here or on the transport's thread: OK, Unavailable
  // (peer lost), Cancelled (closed).
  // Messages of one peer on one channel arrive in the order in which they were sent.
  virtual void Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts,
                    SendDone done) = 0;
  // One handler a channel, set before messages can arrive on it.
  virtual void Listen(Channel channel, Handler handler) = 0;
  // Called once for each peer that is lost (not for one that was closed here). Several may be added.
  virtual void OnPeerLost(PeerLost handler) = 0;
  // After it returns, nothing is received from the peer and every Send to it has had its `done`.
  virtual void Close(PeerId peer) = 0;
  // Since the start, by cause.
  virtual RefusalCounts Refused() const { return {}; }
};

}  // namespace interlace
