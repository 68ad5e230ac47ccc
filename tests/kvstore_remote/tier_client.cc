// The other process of the remote tier's tests: `tier_client ADDRESS N` stores N blocks and holds them until it is
// killed.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/synchronization/notification.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

int Run(const std::string& address, uint64_t count) {
  auto transport = MakeUcxTransport({});
  if (!transport.ok()) return 1;
  auto tier = MakeRemoteTier({.remote = address, .transport = transport->get()});
  if (!tier.ok()) {
    std::fprintf(stderr, "tier_client: %s\n", tier.status().ToString().c_str());
    return 1;
  }
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < count; ++b) blocks.push_back({Key(1, 0, b), std::make_shared<const std::string>(1000, 'x')});
  absl::Notification stored;
  (*tier)->Write(std::move(blocks), [&](std::vector<absl::Status>) { stored.Notify(); });
  stored.WaitForNotification();
  while (true) pause();
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return interlace::Run(argv[1], std::strtoull(argv[2], nullptr, 10));
}
