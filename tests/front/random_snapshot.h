// Snapshots out of a seed, for what prints or reads them.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "coordinator/front/ui_json.h"

namespace interlace {

inline int64_t DrawUpTo(Entropy& entropy, int64_t most) {
  return static_cast<int64_t>(entropy.Next() % static_cast<uint64_t>(most + 1));
}
inline bool Toss(Entropy& entropy) { return entropy.Next() % 2 == 0; }
inline absl::Duration DrawTime(Entropy& entropy) { return absl::Microseconds(DrawUpTo(entropy, 3'000'000'000)); }
inline std::optional<absl::Duration> MaybeDrawTime(Entropy& entropy) {
  return Toss(entropy) ? std::optional(DrawTime(entropy)) : std::nullopt;
}
inline std::optional<bool> MaybeToss(Entropy& entropy) {
  return Toss(entropy) ? std::optional(Toss(entropy)) : std::nullopt;
}

inline RequestSnapshot RandomRequest(Entropy& entropy, int32_t layers, bool ended) {
  static constexpr const char* kNames[] = {"a", "<b>bold</b>", "\"quoted\\\"",
                                           "a-name-of-more-than-a-few-letters-1234"};
  RequestSnapshot row;
  row.name = absl::StrCat(kNames[DrawUpTo(entropy, 3)], DrawUpTo(entropy, 1000));
  row.state = ended ? (Toss(entropy) ? RequestState::kFinished : RequestState::kFailed)
                    : static_cast<RequestState>(DrawUpTo(entropy, 4));
  row.targets = {MaybeDrawTime(entropy),      MaybeDrawTime(entropy),
                 MaybeDrawTime(entropy),      static_cast<int32_t>(DrawUpTo(entropy, 9)) - 4,
                 Toss(entropy) ? "acme" : "", ""};
  if (Toss(entropy)) row.deadline = DrawTime(entropy);
  row.prompt = static_cast<int32_t>(DrawUpTo(entropy, 100000));
  row.generated = static_cast<int32_t>(DrawUpTo(entropy, 1000));
  row.max_tokens = static_cast<int32_t>(DrawUpTo(entropy, 5000));
  row.computed = static_cast<int32_t>(DrawUpTo(entropy, row.prompt));
  row.cached = static_cast<int32_t>(DrawUpTo(entropy, row.prompt));
  row.kept = static_cast<int32_t>(DrawUpTo(entropy, layers));
  for (int32_t l = 0; l < layers; ++l) row.layers += "dh-"[DrawUpTo(entropy, 2)];
  row.age = DrawTime(entropy);
  row.started = MaybeDrawTime(entropy);
  row.first_token = MaybeDrawTime(entropy);
  row.since_token = MaybeDrawTime(entropy);
  row.largest_gap = DrawTime(entropy);
  if (Toss(entropy)) row.slack = DrawTime(entropy) - absl::Seconds(1500);
  for (int64_t i = DrawUpTo(entropy, 5); i > 0; --i) {
    row.phases.push_back({static_cast<RequestPhase>(DrawUpTo(entropy, 3)), DrawTime(entropy)});
  }
  if (ended) {
    row.ended = DrawTime(entropy);
    if (row.state == RequestState::kFailed) row.status = "UNAVAILABLE: gone";
    row.met = {MaybeToss(entropy), MaybeToss(entropy), MaybeToss(entropy), MaybeToss(entropy)};
  }
  return row;
}

inline UiState RandomUiState(Entropy& entropy) {
  UiState state{"model \"x\"", "1.2.3", {}};
  ReplicaSnapshot& replica = state.replica;
  const auto room = [&] {
    const int64_t total = DrawUpTo(entropy, 100000), held = DrawUpTo(entropy, total);
    return RoomSnapshot{held, DrawUpTo(entropy, total - held), DrawUpTo(entropy, 100), total};
  };
  const auto tally = [&] { return TargetTally{DrawUpTo(entropy, 1000), DrawUpTo(entropy, 1000)}; };
  const auto stages = static_cast<int32_t>(DrawUpTo(entropy, 3));
  replica.policy = "slack";
  replica.uptime = DrawTime(entropy);
  replica.ranks = stages + 1;
  replica.ranks_ready = stages;
  replica.draining = Toss(entropy);
  replica.block_tokens = 32;
  replica.slot_bytes = DrawUpTo(entropy, 1 << 20);
  for (int32_t s = 0; s < stages; ++s) {
    const auto end = static_cast<int32_t>(replica.layers + 1 + DrawUpTo(entropy, 60));
    replica.stages.push_back({replica.layers, end, room(), room()});
    for (; replica.layers < end; ++replica.layers) {
      replica.by_layer.push_back({s, DrawUpTo(entropy, 5000), DrawUpTo(entropy, 5000), DrawUpTo(entropy, 9),
                                  static_cast<int32_t>(DrawUpTo(entropy, 9)), DrawUpTo(entropy, int64_t{1} << 50),
                                  DrawUpTo(entropy, int64_t{1} << 50), DrawTime(entropy)});
    }
  }
  for (int64_t i = DrawUpTo(entropy, 40); i > 0; --i) {
    replica.requests.push_back(RandomRequest(entropy, replica.layers, false));
    switch (replica.requests.back().state) {
      case RequestState::kWaiting:
        ++replica.waiting;
        break;
      case RequestState::kFetching:
        ++replica.fetching;
        break;
      case RequestState::kRunning:
        ++replica.running;
        break;
      case RequestState::kStreaming:
        ++replica.streaming;
        break;
      default:
        ++replica.parked;
    }
  }
  replica.waiting += Toss(entropy) ? DrawUpTo(entropy, 1000) : 0;  // more than are listed
  for (int64_t i = DrawUpTo(entropy, 10); i > 0; --i) {
    replica.ended.push_back(RandomRequest(entropy, replica.layers, true));
  }
  replica.prompt_tokens = DrawUpTo(entropy, int64_t{1} << 50);
  replica.tokens = DrawUpTo(entropy, int64_t{1} << 50);
  replica.positions = DrawUpTo(entropy, int64_t{1} << 50);
  replica.slo = {tally(), tally(), tally(), tally(), DrawUpTo(entropy, 1000), DrawUpTo(entropy, 1000), 0};
  replica.slo.goodput = DrawUpTo(entropy, replica.slo.finished);
  replica.steps = DrawUpTo(entropy, 1000);
  replica.step_p50 = DrawTime(entropy);
  replica.step_p95 = DrawTime(entropy);
  for (int64_t i = DrawUpTo(entropy, ReplicaSnapshot::kSeconds); i > 0; --i) {
    replica.seconds.push_back({DrawUpTo(entropy, 1000), DrawUpTo(entropy, 9000)});
  }
  return state;
}

}  // namespace interlace
