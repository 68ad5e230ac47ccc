// The figures of the README: prefill and decode with all layers kept and with half of them offloaded, in one process,
// interleaved round by round; medians.   usage: figures MODEL [rounds]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/blocking_counter.h"
#include "cli/in_process_replica.h"
#include "cli/terminal.h"
#include "checkpoint/model_facts.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {
namespace {

constexpr int32_t kPrompt = 512;
constexpr int32_t kGenerated = 64;

class Waiter final : public TokenSink {
 public:
  explicit Waiter(absl::BlockingCounter& left) : left_(left) {}
  void OnTokens(absl::Span<const int32_t>) override {}
  void OnEnd(const RequestEnd& end) override {
    this->end = end;
    left_.DecrementCount();
  }
  RequestEnd end;

 private:
  absl::BlockingCounter& left_;
};

struct Measured {
  double prefill = 0;  // tokens/s of the first request
  double decode = 0;   // tokens/s over all requests, after the last first token
  double hidden = 0;   // share of the time of transfers towards the device that no layer waited for
  double moved = 0;    // bytes towards the device
};

absl::StatusOr<Measured> RunBatch(InProcessReplica& replica, Clock& clock, int batch, uint64_t* id) {
  const double stall = replica.metrics().Total("interlace_layer_stall_seconds_total");
  const CopyStats before = replica.rank().pool().copy_stats();
  absl::BlockingCounter left(batch);
  std::vector<std::shared_ptr<Waiter>> waiters;
  for (int i = 0; i < batch; ++i) {
    Request request;
    request.id = RequestId{++*id};
    request.name = absl::StrCat("figure-", *id);
    for (int32_t t = 0; t < kPrompt; ++t) request.prompt.push_back(1000 + (t * 7919 + i * 131) % 40000);
    request.max_tokens = kGenerated;
    request.arrival = clock.Now();
    request.deadline = absl::InfiniteFuture();
    waiters.push_back(std::make_shared<Waiter>(left));
    request.sink = waiters.back();
    RETURN_IF_ERROR(replica.engine().Submit(std::move(request)));
  }
  left.Wait();
  absl::Duration first = absl::ZeroDuration(), total = absl::ZeroDuration();
  for (const auto& waiter : waiters) {
    RETURN_IF_ERROR(waiter->end.status);
    first = std::max(first, waiter->end.timing.first_token);
    total = std::max(total, waiter->end.timing.total);
  }
  const CopyStats after = replica.rank().pool().copy_stats();
  const double busy = absl::ToDoubleSeconds(after.busy_in - before.busy_in);
  Measured m;
  m.prefill = batch * kPrompt / absl::ToDoubleSeconds(first);
  m.decode = batch * (kGenerated - 1) / absl::ToDoubleSeconds(total - first);
  m.moved = static_cast<double>(after.bytes_in - before.bytes_in);
  m.hidden = busy > 0 ? 1 - (replica.metrics().Total("interlace_layer_stall_seconds_total") - stall) / busy : 1;
  return m;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

absl::Status Run(const std::string& model, int rounds) {
  RealClock clock;
  FaultPoints faults;
  std::map<int, std::unique_ptr<InProcessReplica>> replicas;  // by layers kept
  ASSIGN_OR_RETURN(const ModelFacts facts, ReadModelFacts(model));
  for (int keep : {facts.layers, facts.layers / 2, 0}) {
    Config config;
    config.model.path = model;
    config.kv.keep_layers = absl::StrCat(keep);
    ASSIGN_OR_RETURN(replicas[keep],
                     InProcessReplica::Create(config, clock, faults, nullptr, [](int64_t, int64_t) {}));
  }
  std::map<std::pair<int, int>, std::vector<Measured>> all;  // (keep, batch)
  uint64_t id = 0;
  for (int round = 0; round <= rounds; ++round) {
    for (int batch : {1, 8}) {
      for (auto& [keep, replica] : replicas) {
        ASSIGN_OR_RETURN(const Measured m, RunBatch(*replica, clock, batch, &id));
        if (round > 0) all[{-keep, batch}].push_back(m);  // the first round warms up
      }
    }
    std::fprintf(stderr, "\rround %d of %d", round, rounds);
  }
  std::fprintf(stderr, "\n");
  std::vector<std::vector<std::string>> rows = {
      {"layers kept", "batch", "prefill tok/s", "decode tok/s", "KV in", "transfer hidden"}};
  for (const auto& [key, runs] : all) {
    const auto median = [&](double Measured::*field) {
      std::vector<double> values;
      for (const Measured& m : runs) values.push_back(m.*field);
      return Median(values);
    };
    const double moved = median(&Measured::moved);
    rows.push_back({absl::StrFormat("%d of %d", -key.first, facts.layers), absl::StrCat(key.second),
                    absl::StrFormat("%.0f", median(&Measured::prefill)),
                    absl::StrFormat("%.1f", median(&Measured::decode)), HumanBytes(static_cast<int64_t>(moved)),
                    moved > 0 ? absl::StrFormat("%.1f %%", 100 * median(&Measured::hidden)) : "-"});
  }
  std::printf("%d prompt + %d generated tokens a request, %d threads, ops %s, host tier, median of %d rounds\n%s", kPrompt,
              kGenerated, AvailableCores(), std::string(replicas[0]->rank().backend().ops().name).c_str(), rounds,
              FormatTable(rows).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: figures MODEL [rounds]\n");
    return 2;
  }
  interlace::SetLogSink(nullptr, interlace::LogLevel::kWarning);
  const absl::Status status = interlace::Run(argv[1], argc > 2 ? std::max(1, std::atoi(argv[2])) : 5);
  if (!status.ok()) std::fprintf(stderr, "figures: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
