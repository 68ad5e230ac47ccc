// Bounded and exact requests with prompts in common, on one replica: exact streams are those that they are alone, on
// real arithmetic and on that modulo a prime, where any KV that is not the model's shows.
#include <filesystem>

#include "cli/in_process_replica.h"
#include "kernels/modular/modular.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kAnswer = 40;

struct Place {
  std::string keep = "auto";
  int32_t slots = 6000;
  std::string folder;  // of RocksDB; empty: no tier
};

class BoundedStreamsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static Config ConfigOf(const Place& place) {
    static const TinyFile file({.layers = kLayers});
    Config config = OneThreadConfig(file.path(), kBlockTokens);
    config.kv.keep_layers = place.keep;
    config.kv.device_bytes.value = place.slots * KvBlockShape{kBlockTokens, 2, 16}.bytes();
    config.kv.host_bytes.value = 1 << 24;
    config.kv.tiers = place.folder.empty() ? "" : "rocksdb";
    config.kv.rocksdb_dir = place.folder;
    config.kv.rocksdb_bytes.value = int64_t{256} << 20;
    config.sched.chunk_tokens = 16;
    config.sched.step_tokens = 64;
    config.skip.bounded_share = "0.5";
    config.skip.audit_every = 4;
    return config;
  }
  static std::vector<Answer> Run(const Place& place, const std::vector<Ask>& asks, bool together) {
    FaultPoints faults;
    RealClock clock;
    auto replica = InProcessReplica::Create(
        ConfigOf(place), clock, faults, nullptr, [](int64_t, int64_t) {},
        GetParam() == "modular" ? &MakeModularBackend : nullptr);
    EXPECT_OK(replica);
    Clients clients((*replica)->engine(), clock);
    return clients.Run(asks, together);
  }
  // Each alone on a replica of its own, whatever its fidelity says computed by the whole model.
  static std::vector<Answer> Alone(std::vector<Ask> asks) {
    std::vector<Answer> answers;
    for (Ask& ask : asks) {
      ask.fidelity = {};
      answers.push_back(Run({}, {ask}, true)[0]);
    }
    return answers;
  }
  static void Check(const std::vector<Ask>& asks, const std::vector<Answer>& want, const std::vector<Answer>& got) {
    for (size_t i = 0; i < asks.size(); ++i) {
      ASSERT_OK(got[i].status);
      if (asks[i].fidelity.mode == FidelityMode::kBounded) continue;
      EXPECT_EQ(got[i].tokens, want[i].tokens) << "request " << i << "\n"
                                               << absl::StrJoin(got[i].explanation.Texts(), "\n");
    }
  }
};

TEST_P(BoundedStreamsTest, ExactStreamsAreThoseThatTheyAreAlone) {
  std::vector<Ask> asks = RandomAsks(12, 20, 60, kAnswer, kVocab, 21);
  Random random(22);
  for (size_t i = 0; i < asks.size(); ++i) {
    // Pairs have the same prompt and the same chance numbers, one bounded and one exact; some share a begin with
    // others.
    if (i % 2 == 1) asks[i] = asks[i - 1];
    if (i % 4 == 2) std::copy_n(asks[0].prompt.begin(), 16, asks[i].prompt.begin());
    if (i % 2 == 0) asks[i].fidelity = {.mode = FidelityMode::kBounded, .agreement = 0.01f};
  }
  for (size_t i = 1; i < asks.size(); i += 2) asks[i].prompt = asks[i - 1].prompt;
  const std::vector<Answer> alone = Alone(asks);
  const std::string folder = TestPath("bounded");
  int64_t skipped = 0;
  for (const Place& place : {Place{}, Place{.keep = "0"}, Place{.slots = 140}, Place{.slots = 200, .folder = folder}}) {
    std::filesystem::remove_all(folder);
    for (const bool together : {true, false}) {
      const std::vector<Answer> answers = Run(place, asks, together);
      Check(asks, alone, answers);
      for (const Answer& answer : answers) skipped += answer.explanation.end.fidelity.skipped;
      if (HasFailure()) return;
    }
  }
  std::filesystem::remove_all(folder);
  EXPECT_GT(skipped, 200);
}

// The next turn of a chat: what a bounded stream said is a part of the prompt, and its KV is not there.
TEST_P(BoundedStreamsTest, TurnsBehindABoundedAnswer) {
  FaultPoints faults;
  RealClock clock;
  auto replica = InProcessReplica::Create(
      ConfigOf({}), clock, faults, nullptr, [](int64_t, int64_t) {},
      GetParam() == "modular" ? &MakeModularBackend : nullptr);
  ASSERT_OK(replica);
  Clients clients((*replica)->engine(), clock);
  std::vector<Ask> asks = RandomAsks(6, 20, 60, kAnswer, kVocab, 23);
  for (Ask& ask : asks) ask.fidelity = {.mode = FidelityMode::kBounded, .agreement = 0.01f};
  const std::vector<Answer> bounded = clients.Run(asks, true);
  std::vector<Ask> turns = asks;
  for (size_t i = 0; i < turns.size(); ++i) {
    ASSERT_OK(bounded[i].status);
    turns[i].prompt.insert(turns[i].prompt.end(), bounded[i].tokens.begin(), bounded[i].tokens.end());
    turns[i].fidelity = {};
  }
  const std::vector<Answer> answers = clients.Run(turns, true);
  Check(turns, Alone(turns), answers);
  for (size_t i = 0; i < turns.size(); ++i) {
    const int32_t whole = static_cast<int32_t>(asks[i].prompt.size()) / kBlockTokens * kBlockTokens;
    EXPECT_GE(answers[i].explanation.end.cached_tokens, whole) << "the prompt is everybody's";
    EXPECT_GT(bounded[i].explanation.end.fidelity.skipped, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, BoundedStreamsTest, ::testing::Values("cpu", "modular"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace interlace
