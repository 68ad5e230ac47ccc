// The other process of the transport's tests: connects to the address given (over the UCX transports given), greets,
// then
//   echo   answers every request with its own header and body
//   flood  sends bodies of 8 MiB for ever
// until the tested process is gone.
#include <cstdio>
#include <string>

#include "absl/synchronization/notification.h"
#include "common/transport.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

constexpr size_t kFloodBytes = size_t{8} << 20;

void Flood(Transport& transport, PeerId peer, SharedBytes body) {
  transport.Send(peer, kKvReplyChannel, "flood", {body}, [&transport, peer, body](absl::Status status) {
    if (status.ok()) Flood(transport, peer, body);
  });
}

int Run(const std::string& mode, const std::string& address, const std::string& tls) {
  KeepFreedMemory();
  auto made = MakeUcxTransport({.tls = tls});
  if (!made.ok()) {
    std::fprintf(stderr, "transport_peer: %s\n", made.status().ToString().c_str());
    return 1;
  }
  absl::Notification lost;
  Transport& transport = **made;
  transport.OnPeerLost([&lost](PeerId, absl::Status) { lost.Notify(); });
  transport.Listen(kKvRequestChannel, [&transport](Message message) {
    transport.Send(message.from, kKvReplyChannel, std::move(message.header),
                   {std::make_shared<const std::string>(std::move(message.body))}, [](absl::Status) {});
  });
  transport.Listen(kActivationChannel, [&transport](Message message) {
    transport.Send(message.from, kActivationChannel, "ack", {}, [](absl::Status) {});
  });
  const absl::StatusOr<PeerId> peer = transport.Connect(address);
  if (!peer.ok()) {
    std::fprintf(stderr, "transport_peer: %s\n", peer.status().ToString().c_str());
    return 1;
  }
  transport.Send(*peer, kActivationChannel, "hello", {}, [](absl::Status) {});
  if (mode == "flood") {
    const auto body = std::make_shared<const std::string>(kFloodBytes, 'f');
    for (int i = 0; i < 4; ++i) Flood(transport, *peer, body);
  }
  lost.WaitForNotification();
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  return interlace::Run(argv[1], argv[2], argc > 3 ? argv[3] : "auto");
}
