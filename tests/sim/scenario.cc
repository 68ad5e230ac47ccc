#include "tests/sim/scenario.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/sim/chance.h"
#include "tests/sim/digest_model.h"

namespace interlace::sim {
namespace {

constexpr const char* kCanaryNames[] = {
    "none",         "adopts-unchecked", "skips-verification", "drops-before-copied", "stale-frame",
    "swaps-layers", "foreign-block",    "fetch-lies",         "leaks-tail",          "window-off-by-one",
    "stale-sample", "result-twice",     "old-epoch",          "drafts-unchecked",    "token-lost",
};
static_assert(std::size(kCanaryNames) == kCanaries);

constexpr const char* kFaultNames[] = {
    "crash",      "break-stream", "partition", "break-link", "clog-link",    "stop",        "slow",
    "flip-frame", "flip-stored",  "tier-away", "tier-slow",  "tier-forgets", "torn-writes", "duplicates",
};
static_assert(std::size(kFaultNames) == kFaultKinds);

Shape DrawShape(Entropy& entropy) {
  Shape shape;
  const auto layers = static_cast<int32_t>(Draw(entropy, 1, 6));
  shape.stages = static_cast<int32_t>(Draw(entropy, 1, std::min(3, layers)));
  shape.block_tokens = 2 << Draw(entropy, 0, 3);
  const auto window = static_cast<int32_t>(Chance(entropy, 30) ? Draw(entropy, 1, 40) : 0);
  const int32_t other = Chance(entropy, 30) ? window / 2 : window;
  for (int32_t l = 0; l < layers; ++l) shape.windows.push_back(l % 2 == 0 ? 0 : l % 4 == 1 ? window : other);
  if (window > 0 && Chance(entropy, 20)) shape.windows[0] = window;
  shape.vocab = static_cast<int32_t>(Chance(entropy, 20) ? Draw(entropy, 4, 8) : 97);
  const int32_t most = (layers + shape.stages - 1) / shape.stages;
  const int32_t finer = 16 / shape.block_tokens;
  shape.slots = most * static_cast<int32_t>(Chance(entropy, 50) ? Draw(entropy, 3, 3 + 8 * finer)
                                                                : Draw(entropy, 6 * finer, 30 * finer));
  shape.frames = Chance(entropy, 25)
                     ? 0
                     : most * static_cast<int32_t>(Draw(entropy, 2, Chance(entropy, 60) ? 8 * finer : 40 * finer));
  if (Chance(entropy, 40)) {
    shape.own_tier = Chance(entropy, 70);
    shape.shared_tier = !shape.own_tier || Chance(entropy, 40);
    shape.tier_blocks = static_cast<int32_t>(Chance(entropy, 30) ? Draw(entropy, 4, 40) : 1000);
  }
  return shape;
}

Pace DrawPace(Entropy& entropy) {
  Pace pace;
  pace.step = DrawTime(entropy, absl::Microseconds(20), absl::Microseconds(500));
  pace.row = DrawTime(entropy, absl::Microseconds(1), absl::Microseconds(40));
  pace.copy = DrawTime(entropy, absl::Microseconds(2), absl::Microseconds(Chance(entropy, 20) ? 2000 : 60));
  pace.latency = DrawTime(entropy, absl::Microseconds(10), absl::Microseconds(Chance(entropy, 20) ? 5000 : 400));
  pace.tier = DrawTime(entropy, absl::Microseconds(50), absl::Milliseconds(Chance(entropy, 30) ? 100 : 4));
  pace.load = DrawTime(entropy, absl::Milliseconds(20), absl::Milliseconds(300));
  return pace;
}

Scheduler::Options DrawOptions(Entropy& entropy, const Shape& shape) {
  Scheduler::Options options;
  constexpr int32_t kChunks[] = {1, 3, 7, 16, 16, 64, 64, 512};
  options.chunk_tokens = kChunks[Draw(entropy, 0, 7)];
  options.step_tokens = static_cast<int32_t>(Chance(entropy, 25) ? Draw(entropy, 1, 12) : 512);
  options.max_running = static_cast<int32_t>(Draw(entropy, 1, 8));
  options.max_recomputes = static_cast<int32_t>(Chance(entropy, 30) ? Draw(entropy, 0, 3) : 1000);
  options.fixed_keep = static_cast<int32_t>(Chance(entropy, 60) ? -1 : Draw(entropy, 0, shape.layers()));
  options.draft_tokens = static_cast<int32_t>(Chance(entropy, 20) ? Draw(entropy, 1, 6) : 0);
  options.context = static_cast<int32_t>(Draw(entropy, 40, 110));
  options.rank_timeout = Chance(entropy, 30) ? absl::Seconds(3) : absl::Seconds(20);
  options.reform_timeout = Chance(entropy, 15) ? absl::Seconds(1) : absl::Seconds(15);
  return options;
}

Arrival DrawArrival(Entropy& entropy, const Scenario& scenario, bool quiet, int32_t index,
                    const std::vector<std::vector<int32_t>>& prefixes, absl::Duration spread) {
  Arrival arrival;
  arrival.index = index;
  arrival.at = DrawTime(entropy, absl::ZeroDuration(), spread);
  const int32_t context = scenario.options.context;
  if (Chance(entropy, 60)) arrival.prompt = prefixes[entropy.Next() % prefixes.size()];
  const auto own = static_cast<size_t>(Draw(entropy, 1, Chance(entropy, 70) ? 20 : context - 1));
  while (arrival.prompt.size() < static_cast<size_t>(context - 1) && arrival.prompt.size() < own) {
    arrival.prompt.push_back(static_cast<int32_t>(Draw(entropy, 0, scenario.shape.vocab - 1)));
  }
  if (arrival.prompt.empty()) arrival.prompt.push_back(0);
  if (Chance(entropy, 20)) arrival.salt = "tenant";
  if (Chance(entropy, 30)) arrival.sampling_seed = entropy.Next();
  arrival.max_tokens = static_cast<int32_t>(
      std::min<int64_t>(Draw(entropy, 1, 30), context - static_cast<int64_t>(arrival.prompt.size())));
  if (Chance(entropy, 30)) arrival.stop_tokens = {static_cast<int32_t>(Draw(entropy, 0, scenario.shape.vocab - 1))};
  // Drawn in any case, so that the rest does not depend on it.
  const bool deadline = Chance(entropy, 10), cancel = Chance(entropy, 10), refused = Chance(entropy, 3);
  const absl::Duration patience = DrawTime(entropy, absl::Milliseconds(1), absl::Seconds(2));
  const auto last = static_cast<int64_t>(arrival.prompt.size()) + arrival.max_tokens - 1;
  const int64_t position = Draw(entropy, 0, last), stage = Draw(entropy, 0, scenario.shape.stages - 1);
  const bool poison = Chance(entropy, 3);
  if (quiet) return arrival;
  if (deadline) arrival.deadline = patience;
  if (cancel && !deadline) arrival.cancel = patience / 4;
  arrival.refused = refused;
  if (poison && !refused) {
    arrival.poison_stage = static_cast<int32_t>(stage);
    arrival.poison_position = static_cast<int32_t>(position);
  }
  return arrival;
}

Fault DrawFault(Entropy& entropy, const Shape& shape, int32_t index, absl::Duration spread) {
  Fault fault;
  fault.index = index;
  const bool tiers = shape.tiers();
  do {
    fault.kind = static_cast<FaultKind>(Draw(entropy, 0, kFaultKinds - 1));
  } while ((!tiers && fault.kind >= FaultKind::kFlipStored && fault.kind <= FaultKind::kTornWrites) ||
           (shape.stages == 1 && (fault.kind == FaultKind::kBreakLink || fault.kind == FaultKind::kClogLink)));
  // Most strike while the requests run for the first time, others while what was lost is made good.
  fault.at = DrawTime(entropy, absl::ZeroDuration(), Chance(entropy, 65) ? 2 * spread : absl::Milliseconds(1500));
  fault.time = Chance(entropy, 30) ? DrawTime(entropy, absl::Seconds(1), absl::Seconds(5))
                                   : DrawTime(entropy, absl::Milliseconds(1), absl::Milliseconds(500));
  fault.stage = static_cast<int32_t>(Draw(entropy, 0, shape.stages - 1));
  fault.size = static_cast<int32_t>(Draw(entropy, 1, 100));
  return fault;
}

template <typename Items>
void Keep(const std::optional<std::vector<int32_t>>& kept, Items* items) {
  if (!kept) return;
  std::erase_if(*items,
                [&](const auto& item) { return std::find(kept->begin(), kept->end(), item.index) == kept->end(); });
}

}  // namespace

const char* CanaryName(Canary canary) { return kCanaryNames[static_cast<size_t>(canary)]; }
const char* FaultName(FaultKind kind) { return kFaultNames[static_cast<size_t>(kind)]; }

std::optional<Canary> FindCanary(const std::string& name) {
  for (int32_t c = 0; c < kCanaries; ++c) {
    if (name == kCanaryNames[c]) return static_cast<Canary>(c);
  }
  return std::nullopt;
}

bool Scenario::calm() const {
  return faults.empty() && std::all_of(arrivals.begin(), arrivals.end(), [](const Arrival& a) {
           return a.deadline == absl::InfiniteDuration() && a.cancel == absl::InfiniteDuration() &&
                  a.poison_position < 0 && !a.refused;
         });
}

Scenario DrawScenario(uint64_t seed) {
  const std::unique_ptr<Entropy> root = MakeSeededEntropy(seed);
  const std::unique_ptr<Entropy> of_shape = root->Fork("shape"), of_pace = root->Fork("pace"),
                                 of_options = root->Fork("options"), of_rest = root->Fork("rest"),
                                 of_arrivals = root->Fork("arrivals"), of_faults = root->Fork("faults");
  Scenario scenario;
  scenario.seed = seed;
  scenario.shape = DrawShape(*of_shape);
  scenario.pace = DrawPace(*of_pace);
  scenario.options = DrawOptions(*of_options, scenario.shape);
  const std::unique_ptr<Entropy> of_policy = root->Fork("policy");
  scenario.policy = &Policies()[Draw(*of_policy, 0, static_cast<int64_t>(Policies().size()) - 1)];
  scenario.options.policy.max_parked = static_cast<int32_t>(Draw(*of_policy, 0, 8));

  const bool quiet = Chance(*of_rest, 25), shuffled = Chance(*of_rest, 20);
  if (Chance(*of_rest, 10)) scenario.max_waiting = static_cast<int32_t>(Draw(*of_rest, 1, 4));
  const absl::Duration spread =
      Chance(*of_rest, 50) ? absl::Milliseconds(2) : absl::Milliseconds(Draw(*of_rest, 5, 500));
  std::vector<std::vector<int32_t>> prefixes(Draw(*of_rest, 1, 3));
  for (std::vector<int32_t>& prefix : prefixes) {
    prefix.resize(Draw(*of_rest, 0, scenario.options.context / 2));
    for (int32_t& token : prefix) token = static_cast<int32_t>(Draw(*of_rest, 0, scenario.shape.vocab - 1));
  }
  const auto requests = static_cast<int32_t>(Draw(*of_rest, 1, Chance(*of_rest, 80) ? 9 : 16));
  const auto faults = static_cast<int32_t>(quiet ? 0 : Draw(*of_rest, 0, Chance(*of_rest, 80) ? 4 : 8));
  for (int32_t i = 0; i < requests; ++i) {
    const std::unique_ptr<Entropy> own = of_arrivals->Fork(absl::StrCat(i));
    Arrival arrival = DrawArrival(*own, scenario, quiet, i, prefixes, spread);
    // Ids need not come in the order of arrival.
    arrival.id = shuffled ? (static_cast<uint64_t>(i) + 1) * 7919 % 10007 : static_cast<uint64_t>(i) + 1;
    scenario.arrivals.push_back(std::move(arrival));
  }
  for (int32_t i = 0; i < faults; ++i) {
    const std::unique_ptr<Entropy> own = of_faults->Fork(absl::StrCat(i));
    scenario.faults.push_back(DrawFault(*own, scenario.shape, i, std::max(spread, absl::Milliseconds(30))));
  }
  return scenario;
}

Scenario Apply(const Cut& cut, Scenario scenario) {
  Keep(cut.requests, &scenario.arrivals);
  Keep(cut.faults, &scenario.faults);
  for (Arrival& arrival : scenario.arrivals) {
    if (static_cast<int64_t>(arrival.prompt.size()) > cut.prompt_tokens) arrival.prompt.resize(cut.prompt_tokens);
    arrival.max_tokens = std::min(arrival.max_tokens, cut.max_tokens);
  }
  return scenario;
}

std::string Scenario::ToString() const {
  std::string text = absl::StrCat(
      "seed ", seed, ": ", shape.stages, " stages, windows ", absl::StrJoin(shape.windows, ","), ", blocks of ",
      shape.block_tokens, ", ", shape.slots, " slots, ", shape.frames, " frames", shape.own_tier ? ", own tier" : "",
      shape.shared_tier ? ", shared tier" : "", "; ", policy->name, ", chunk ", options.chunk_tokens, ", step ",
      options.step_tokens, ", running ", options.max_running, ", recomputes ", options.max_recomputes, ", keep ",
      options.fixed_keep, ", drafts ", options.draft_tokens, ", context ", options.context, ", rank_timeout ",
      absl::FormatDuration(options.rank_timeout), ", reform_timeout ", absl::FormatDuration(options.reform_timeout));
  for (const Arrival& a : arrivals) {
    absl::StrAppend(&text, "\n  request ", a.index, " (id ", a.id, ") at ", absl::FormatDuration(a.at), ": prompt ",
                    a.prompt.size(), ", max_tokens ", a.max_tokens, a.salt.empty() ? "" : ", salted",
                    a.stop_tokens.empty() ? "" : ", stops", a.refused ? ", refused" : "");
    if (a.deadline < absl::InfiniteDuration()) absl::StrAppend(&text, ", deadline ", absl::FormatDuration(a.deadline));
    if (a.cancel < absl::InfiniteDuration()) absl::StrAppend(&text, ", cancelled ", absl::FormatDuration(a.cancel));
    if (a.poison_position >= 0) {
      absl::StrAppend(&text, ", kills stage ", a.poison_stage, " at position ", a.poison_position);
    }
  }
  for (const Fault& f : faults) {
    absl::StrAppend(&text, "\n  fault ", f.index, " at ", absl::FormatDuration(f.at), ": ", FaultName(f.kind),
                    " of stage ", f.stage, " for ", absl::FormatDuration(f.time), ", size ", f.size);
  }
  return text;
}

}  // namespace interlace::sim
