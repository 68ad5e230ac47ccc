// What a tag costs by the size of what it covers, with other codes of the same strength beside it, and what a
// connection over loopback carries with and without tags on bodies.
#include <benchmark/benchmark.h>
#include <sodium.h>

#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "common/check.h"
#include "transport/frame_mac.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

void Gmac(benchmark::State& state) {
  FrameMac mac(KeyOfListener("secret", "nonce"));
  const std::string body(static_cast<size_t>(state.range(0)), 'b');
  Frame frame{.kind = FrameKind::kMessage, .channel = 1};
  for (auto _ : state) {
    ++frame.sequence;
    benchmark::DoNotOptimize(mac.TagOf(frame, "header", body));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(Gmac)->Arg(0)->Arg(64)->Arg(4 << 10)->Arg(64 << 10)->Arg(1 << 20)->Arg(8 << 20);

void Blake2b(benchmark::State& state) {
  const LinkKey key = KeyOfListener("secret", "nonce");
  const std::string body(static_cast<size_t>(state.range(0)), 'b');
  unsigned char tag[16];
  for (auto _ : state) {
    crypto_generichash(tag, sizeof tag, reinterpret_cast<const unsigned char*>(body.data()), body.size(), key.data(),
                       key.size());
    benchmark::DoNotOptimize(tag);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(Blake2b)->Arg(64)->Arg(4 << 10)->Arg(1 << 20);

void Poly1305(benchmark::State& state) {
  const LinkKey key = KeyOfListener("secret", "nonce");
  const std::string body(static_cast<size_t>(state.range(0)), 'b');
  unsigned char tag[16];
  for (auto _ : state) {
    crypto_onetimeauth(tag, reinterpret_cast<const unsigned char*>(body.data()), body.size(), key.data());
    benchmark::DoNotOptimize(tag);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(Poly1305)->Arg(64)->Arg(4 << 10)->Arg(1 << 20);

// Messages with their answers, one at a time: a plan and its result. Then bodies one way, four on their way: KV.
class Connection {
 public:
  explicit Connection(const char* mac)
      : dialler_(*MakeUcxTransport({.mac = mac})), listener_(*MakeUcxTransport({.mac = mac})) {
    listener_->Listen(kKvRequestChannel, [this](Message message) {
      listener_->Send(message.from, kKvReplyChannel, "", {}, [](absl::Status) {});
    });
    dialler_->Listen(kKvReplyChannel, [this](Message) {
      absl::MutexLock lock(&mutex_);
      ++answered_;
    });
    peer_ = *dialler_->Connect(listener_->address());
  }
  ~Connection() {
    dialler_.reset();
    listener_.reset();
  }
  void Send(const SharedBytes& body) {
    dialler_->Send(peer_, kKvRequestChannel, "header", {body}, [](absl::Status) {});
    ++sent_;
  }
  // Until no more than `open` are unanswered.
  void Await(int64_t open) {
    absl::MutexLock lock(&mutex_);
    const auto few = [&] { return sent_ - answered_ <= open; };
    mutex_.Await(absl::Condition(&few));
  }

 private:
  absl::Mutex mutex_;
  int64_t answered_ = 0;  // protected by mutex_
  int64_t sent_ = 0;
  std::unique_ptr<Transport> dialler_, listener_;
  PeerId peer_{};
};

void Run(benchmark::State& state, const char* mac, int64_t open) {
  KeepFreedMemory();
  Connection connection(mac);
  const auto body = std::make_shared<const std::string>(static_cast<size_t>(state.range(0)), 'b');
  for (auto _ : state) {
    connection.Send(body);
    connection.Await(open);
  }
  connection.Await(0);
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
void RoundTripControl(benchmark::State& state) { Run(state, "control", 0); }
void RoundTripAll(benchmark::State& state) { Run(state, "all", 0); }
void BulkControl(benchmark::State& state) { Run(state, "control", 4); }
void BulkAll(benchmark::State& state) { Run(state, "all", 4); }
BENCHMARK(RoundTripControl)->Arg(64)->Arg(4 << 10)->UseRealTime();
BENCHMARK(RoundTripAll)->Arg(64)->Arg(4 << 10)->UseRealTime();
BENCHMARK(BulkControl)->Arg(64 << 10)->Arg(1 << 20)->Arg(8 << 20)->UseRealTime();
BENCHMARK(BulkAll)->Arg(64 << 10)->Arg(1 << 20)->Arg(8 << 20)->UseRealTime();

}  // namespace
}  // namespace interlace

BENCHMARK_MAIN();
