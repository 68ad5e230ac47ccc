// Transport over UCX active messages.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/transport.h"

namespace interlace {

struct UcxOptions {
  std::string host;  // numeric address to listen on and to be found at; empty: every IPv4 interface
  uint16_t port = 0;
  absl::Duration connect_timeout = absl::Seconds(5);  // for each address of the peer that is tried
  int64_t max_body_bytes = int64_t{1} << 30;          // of a message, sent or received
  absl::Duration spin = absl::Microseconds(20);       // polled after activity before the thread sleeps
  // UCX settings beyond ours, such as {"TLS", "rc,tcp"}; names are those of `ucx_info -c` without UCX_.
  std::vector<std::pair<std::string, std::string>> settings;
};

// One thread ("ucx") progresses the worker, runs handlers and completions, and sleeps on the worker's event descriptor
// when there is nothing to do. Bodies beyond UCX's threshold travel by rendezvous. A message that a peer may not send
// (no greeting, wrong nonce, too large, out of sequence) loses that peer. The destructor closes every peer; it must not
// run on the transport's own thread.
// InvalidArgument names the field; Unavailable says what UCX refused.
absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options);

// Asks the C library to keep the memory of freed bodies instead of returning it to the system and taking fresh pages
// for the next one: three times the throughput at 1 MiB messages (2 cores, loopback, 2026-11). Process-wide; call in
// main.
void KeepFreedMemory();

// Every UCX status becomes one of ours here. `code` is a ucs_status_t.
absl::Status UcxStatus(int code, absl::string_view what);

}  // namespace interlace
