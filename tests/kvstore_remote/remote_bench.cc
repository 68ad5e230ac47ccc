// Throughput of the transport and of the remote tier, each between two processes. Prints GB/s; asserts nothing.
#include <fstream>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/transport/child_process.h"
#include "tests/transport/waiting.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

constexpr int64_t kVolume = int64_t{2} << 30;

// At most `most` things under way.
class Window {
 public:
  explicit Window(int most) : left_(most), most_(most) {}
  void Enter() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Window::Room));
    --left_;
  }
  void Leave() {
    absl::MutexLock lock(&mutex_);
    ++left_;
  }
  void WaitForAll() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &Window::All));
  }

 private:
  bool Room() const { return left_ > 0; }
  bool All() const { return left_ == most_; }
  absl::Mutex mutex_;
  int left_;
  const int most_;
};

void Report(const std::string& what, size_t bytes, int window, int64_t count, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  absl::PrintF("%-18s %8d B  window %d  %9.1f us each  %6.2f GB/s\n", what, bytes, window,
               1e6 * seconds / static_cast<double>(count), static_cast<double>(bytes) * count / seconds / 1e9);
}

// One way: bodies to the peer, acknowledged by a short message.
void TransportThroughput(const std::string& tls) {
  std::unique_ptr<Transport> transport = *MakeUcxTransport({.tls = tls});
  Collected<PeerId> greeted;
  Window* window = nullptr;
  transport->Listen(kActivationChannel, [&](Message m) {
    if (m.header == "hello") return greeted.Add(m.from);
    window->Leave();
  });
  ChildProcess child(TRANSPORT_PEER, {"echo", transport->address(), tls});
  if (!greeted.WaitFor(1)) return;
  const PeerId peer = greeted.Take()[0];
  RealClock clock;
  for (const size_t bytes : {size_t{0}, size_t{24} << 10, size_t{1} << 20, size_t{4} << 20}) {
    for (const int most : {1, 8}) {
      Window inside(most);
      window = &inside;
      const SharedBytes body = Shared(std::string(bytes, 'x'));
      const int64_t count = bytes == 0 ? 20000 : std::min<int64_t>(20000, kVolume / static_cast<int64_t>(bytes));
      const absl::Time start = clock.Now();
      for (int64_t i = 0; i < count; ++i) {
        inside.Enter();
        transport->Send(peer, kActivationChannel, "x", {body}, [](absl::Status) {});
      }
      inside.WaitForAll();
      Report(absl::StrCat("transport ", tls), bytes, most, count, clock.Now() - start);
    }
  }
  transport.reset();
}

void TierThroughput() {
  const std::string ready = absl::StrCat("/tmp/remote_bench_ready_", getpid());
  unlink(ready.c_str());
  ChildProcess child(STORE_BINARY, {"--set", "kvstore.listen=127.0.0.1:0", "--set", "kvstore.host_bytes=2GiB", "--set",
                                    "log.level=error", "--ready-file", ready});
  std::string address;
  while (address.empty()) {
    std::ifstream file(ready);
    std::getline(file, address);
    std::this_thread::yield();
  }
  unlink(ready.c_str());
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  auto tier = MakeRemoteTier({.remote = address.substr(8), .transport = transport.get()});
  if (!tier.ok()) return;
  RealClock clock;
  constexpr int64_t kHeld = 512 << 20;  // written, read and dropped, three times: the first pass takes fresh memory
  for (const size_t bytes : {size_t{24} << 10, size_t{256} << 10, size_t{1} << 20}) {
    const auto blocks = kHeld / static_cast<int64_t>(bytes);
    const auto batch = std::max<int64_t>(1, (1 << 20) / static_cast<int64_t>(bytes));
    const SharedBytes body = Shared(std::string(bytes, 'x'));
    for (uint64_t pass = 1; pass <= 3; ++pass) {
      for (const bool write : {true, false}) {
        Window window(4);
        const absl::Time start = clock.Now();
        for (int64_t first = 0; first < blocks; first += batch) {
          std::vector<StoredBlock> some;
          std::vector<BlockKey> keys;
          for (int64_t b = first; b < std::min(blocks, first + batch); ++b) {
            keys.push_back(Key(pass, 0, static_cast<uint64_t>(b)));
            some.push_back({keys.back(), body});
          }
          window.Enter();
          if (write) {
            (*tier)->Write(std::move(some), [&](std::vector<absl::Status>) { window.Leave(); });
          } else {
            (*tier)->Read(std::move(keys), [&](std::vector<absl::StatusOr<SharedBytes>>) { window.Leave(); });
          }
        }
        window.WaitForAll();
        Report(absl::StrCat(write ? "tier write" : "tier read", " pass ", pass), bytes, 4, blocks, clock.Now() - start);
      }
      (*tier)->Drop(Generation{pass});
    }
  }
}

}  // namespace
}  // namespace interlace

// Arguments: the UCX transports to measure, such as none shm rc; without any, what ranks use.
int main(int argc, char** argv) {
  interlace::KeepFreedMemory();
  for (int i = 1; i < argc; ++i) interlace::TransportThroughput(argv[i]);
  if (argc > 1) return 0;
  interlace::TransportThroughput("auto");
  interlace::TierThroughput();
}
