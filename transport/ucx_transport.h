// Transport over sockets of our own and, where the machine has better, over UCX active messages.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/transport.h"

namespace interlace {

struct UcxOptions {
  // Numeric address to listen on; 0.0.0.0: every IPv4 interface; empty: none, this process dials and is not dialled.
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  // Of the cluster: who connects, or is connected to, must hold the same. Empty: to know the address is enough.
  std::string secret;
  // Which bodies carry a keyed tag, so that nobody on the way can change them: "all", "control" (those of channels that
  // are not bulk), or "auto": all, but on connections over the loopback, where nobody is on the way. What either end
  // wants is done. Frames and headers always carry one.
  std::string mac = "auto";
  // Which transports of UCX may carry messages, as in UCX_TLS: "auto" is RDMA where the machine has it, "none" is our
  // own sockets alone. "tcp" is refused: UCX's aborts on bytes that a stranger may send, and ours does its work. "shm"
  // works but does not survive a peer that is killed: one that dies between taking an element of the receiver's queue
  // and filling it stops that queue for every other peer.
  std::string tls = "auto";
  std::string devices = "all";                        // as UCX_NET_DEVICES
  absl::Duration connect_timeout = absl::Seconds(5);  // for each address of the peer that is tried, and to be greeted
  int64_t max_body_bytes = int64_t{1} << 30;          // of a message, sent or received
  absl::Duration spin = absl::Microseconds(20);       // polled after activity before the thread sleeps
};

// Every connection is a TCP connection of ours, over which the peers show each other that they know its key before
// either may send anything (handshake.h), and whose end is the end of the peer. Messages travel over UCX where both
// processes are on one of its fabrics, else over that connection. Both ends say something on it now and then, so that a
// machine that is gone, or to which the way is cut, loses its peers within 2 s, also those that only wait for it.
// One thread ("ucx") does all of it, runs handlers and completions, and sleeps when there is nothing to do; while it
// sleeps, a small message is written by its sender, who then runs the completion too. A message
// that a peer may not send (before the handshake, not of its making, too large, out of sequence) loses that peer, and
// so does one that cannot be sent: both ends learn of it. The destructor closes every peer; it must not run on the
// transport's own thread. InvalidArgument names the field; Unavailable says what the system or UCX refused.
absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options);

// Asks the C library to keep the memory of freed bodies instead of returning it to the system and taking fresh pages
// for the next one: three times the throughput at 1 MiB messages (2 cores, loopback, 2026-11). Process-wide; call in
// main.
void KeepFreedMemory();

// Every UCX status becomes one of ours here. `code` is a ucs_status_t.
absl::Status UcxStatus(int code, absl::string_view what);

}  // namespace interlace
