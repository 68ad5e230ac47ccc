// TransportAddress: what one process tells another so that it can connect.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// A value. `machine` names the network stack: only within it may the loopback address be used. `nonce` is drawn by the
// listening process and part of the key that whoever connects must know (handshake.h), so that an address outlives
// neither its process nor its secrecy.
struct TransportAddress {
  std::string machine;  // 16 hexadecimal digits
  std::string nonce;    // 32 hexadecimal digits
  uint16_t port = 0;
  std::vector<std::string> hosts;  // numeric, reachable from other machines
  bool loopback = false;           // 127.0.0.1 is listened on too

  std::string Encode() const;
  // InvalidArgument says what is wrong with the bytes.
  static absl::StatusOr<TransportAddress> Decode(absl::string_view bytes);
  // Hosts in the order to try from the network stack `from`.
  std::vector<std::string> Candidates(absl::string_view from) const;
};

// Identity of this process's network stack: machine boot and network namespace.
std::string ThisMachine();
// Numeric IPv4 addresses of the interfaces that are up, loopback excluded.
std::vector<std::string> LocalHosts();

}  // namespace interlace
