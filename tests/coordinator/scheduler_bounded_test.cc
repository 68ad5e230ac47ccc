// Streams whose steps pass sublayers over: when they are audited, when they are switched off, and that nothing of their
// KV ever comes to anybody else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "coordinator/skip_index/skip_advisor.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLayers = 8, kBlockTokens = 4, kNever = std::numeric_limits<int32_t>::max();

// Ids of blocks that the world was told of.
class Told final : public KvObserver {
 public:
  void OnSealed(const KvBlockSeen& block) override { ids.insert(block.id); }
  void OnStored(const BlockId& id, KvMedium) override { ids.insert(id); }
  void OnRemoved(const BlockId&, KvMedium) override {}
  void OnErased(const BlockId& id) override { EXPECT_EQ(ids.count(id), 1u); }
  void OnCleared() override {}
  std::set<BlockId> ids;
};

class ReportSink final : public TokenSink {
 public:
  void OnFidelity(const FidelityReport& report) override { last = report; }
  void OnTokens(absl::Span<const int32_t> tokens) override {
    delivered.insert(delivered.end(), tokens.begin(), tokens.end());
  }
  void OnEnd(const RequestEnd& e) override { end = e; }
  FidelityReport last;
  std::vector<int32_t> delivered;
  std::optional<RequestEnd> end;
};

// A rank that holds the whole model. KV of a position that was computed by a step with a skip plan is tainted, and so
// is all behind it; from tainted KV the model says other tokens, so that whoever gets any of it shows.
class SchedulerBounded : public testing::Test, public PlanChannel {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.context = 4000;
    options_.chunk_tokens = 16;
    options_.bounded_share = 0.5;
    options_.kv_observer = &told_;
  }
  void TearDown() override {
    scheduler_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Send(const StepPlan& plan) override { plans_.push_back(plan), waiting_.push_back(plan); }
  void Reset(const absl::Status& why) override { ADD_FAILURE() << why; }

  void Form(int32_t stages = 1, int32_t slots = 8000, int32_t frames = 0, const char* policy = "slack") {
    if (scheduler_ == nullptr) {
      scheduler_ = std::make_unique<Scheduler>(options_, **FindPolicy(policy), clock_, metrics_, *this);
    }
    stages_ = stages;
    scheduler_->OnFormed(Epoch{++epoch_}, MakeRanks(kLayers, stages, kBlockTokens, slots, frames));
  }

  struct Stream {
    std::shared_ptr<ReportSink> sink;
    std::vector<int32_t> prompt, want;
    FidelityMode mode;
    std::string name;
  };
  Stream Admit(std::vector<int32_t> prompt, int32_t max_tokens, FidelityMode mode, float agreement = 0.9f,
               int32_t exit_layer = 0) {
    Stream stream{std::make_shared<ReportSink>(), prompt, {}, mode, absl::StrCat("r", ++requests_)};
    std::vector<int32_t> tokens = prompt;
    for (int32_t t = 0; t < max_tokens; ++t) {
      stream.want.push_back(NextToken(tokens));
      tokens.push_back(stream.want.back());
    }
    Request request{.id = RequestId{requests_}, .name = stream.name};
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.fidelity = {mode, agreement, exit_layer, 1000 + requests_};
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = stream.sink;
    scheduler_->Admit(std::move(request));
    return stream;
  }
  std::vector<int32_t> Prompt(int32_t length) {
    std::vector<int32_t> prompt(length);
    for (int32_t& token : prompt) token = Draw(*entropy_, 0, kVocab - 1);
    return prompt;
  }
  void Turn() {
    scheduler_->RunOnce();
    scheduler_->CheckInvariants();
    if (waiting_.empty()) return;
    StepResult result = Answer(waiting_.front());
    waiting_.pop_front();
    clock_.Advance(absl::Microseconds(result.run_us));
    for (int32_t stage = 0; stage + 1 < stages_; ++stage) {  // the last one samples, and here says what was lost
      scheduler_->OnResult({.epoch = result.epoch, .plan = result.plan, .stage = StageId{stage}, .run_us = 1000});
    }
    result.stage = StageId{stages_ - 1};
    scheduler_->OnResult(std::move(result));
  }
  void Finish() {
    for (int i = 0; i < 100000 && !scheduler_->idle(); ++i) Turn();
    ASSERT_TRUE(scheduler_->idle());
  }
  // The ranks are gone, if there were any.
  void Lost() {
    waiting_.clear();
    known_.clear();
    blocks_.clear();
    told_.ids.clear();
    if (scheduler_ != nullptr) scheduler_->OnLost(absl::UnavailableError("a rank is gone"));
  }
  std::string Story(const Stream& stream) const {
    std::string all;
    for (const std::string& text : scheduler_->Explain(stream.name)->Texts()) absl::StrAppend(&all, text, "\n");
    return all;
  }
  // Whoever may have all that it asks for has it: exact streams are those of the model.
  void ExpectExact(const Stream& stream) {
    ASSERT_TRUE(stream.sink->end) << stream.name;
    EXPECT_OK(stream.sink->end->status) << stream.name;
    EXPECT_EQ(stream.sink->delivered, stream.want) << stream.name << "\n" << Story(stream);
  }
  void ExpectNothingTold() {
    for (const auto& [id, block] : blocks_) {
      EXPECT_FALSE(block.tainted && told_.ids.count(id) > 0) << "others were told of a bounded stream's block";
    }
  }

  // The steps of one request, a letter each: w(hole), s(kipped), a(udited).
  std::string Steps(const Stream& stream) const {
    std::string steps;
    for (const StepPlan& plan : plans_) {
      for (const PlanSequence& s : plan.sequences) {
        if (absl::StrCat("r", Value(s.request)) != stream.name || !s.sample) continue;
        steps += s.skip ? 's' : s.own_drafts ? 'a' : 'w';
      }
    }
    return steps;
  }

  Scheduler::Options options_;
  std::unique_ptr<SkipAdvisor> advisor_;
  Told told_;
  ManualClock clock_;
  Metrics metrics_{"test"};
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(7);
  std::deque<StepPlan> waiting_;
  std::vector<StepPlan> plans_;
  int32_t agree_percent_ = 100;  // of positions, at which a pass with a skip plan says what the whole model says
  int32_t loss_permille_ = 0;

 private:
  struct Known {
    uint32_t attempt = 0;
    std::vector<int32_t> tokens;
    int32_t tainted_from = kNever;
    std::map<int32_t, BlockId> names;
    int32_t last = -1;
    bool lost = false;
  };
  struct Block {
    bool tainted = false;
    RequestId owner{};
  };

  static int32_t Whole(const Known& kv, size_t count) {
    const int32_t token = NextToken(absl::MakeConstSpan(kv.tokens).first(count));
    return static_cast<int32_t>(count) > kv.tainted_from ? (token + 13) % kVocab : token;
  }
  int32_t Passing(const Known& kv, size_t count) const {
    const bool agrees =
        static_cast<int32_t>((ContentOf(absl::MakeConstSpan(kv.tokens).first(count)) >> 9) % 100) < agree_percent_;
    return (Whole(kv, count) + (agrees ? 0 : 1)) % kVocab;
  }

  void Seal(Known& kv, RequestId request) {
    for (auto it = kv.names.begin(); it != kv.names.end();) {
      const int32_t end = (it->first + 1) * kBlockTokens;
      if (end > static_cast<int32_t>(kv.tokens.size())) break;
      const Block block{end > kv.tainted_from, request};
      const auto [at, fresh] = blocks_.emplace(it->second, block);
      EXPECT_EQ(at->second.tainted, block.tainted) << "one name for KV that is the model's and KV that is not";
      EXPECT_TRUE(!block.tainted || at->second.owner == request);
      it = kv.names.erase(it);
    }
  }
  template <typename Names>
  static void Name(Known& kv, const Names& names) {
    if (!names) return;
    for (size_t i = 0; i < names->ids.size(); ++i) kv.names[names->first + static_cast<int32_t>(i)] = names->ids[i];
  }

  StepResult Answer(const StepPlan& plan) {
    StepResult result{.epoch = plan.epoch, .plan = plan.id};
    result.run_us = 1000;
    for (const Release& release : plan.releases) {
      auto it = known_.find(release.request);
      if (it == known_.end()) continue;
      Name(it->second, release.names);
      if (!it->second.lost) Seal(it->second, release.request);
      known_.erase(it);
    }
    for (const SequenceChange& change : plan.changes) {
      if (auto it = known_.find(change.request); it != known_.end()) Name(it->second, change.names);
    }
    for (const PlanSequence& s : plan.sequences) Run(s, &result);
    return result;
  }

  void Run(const PlanSequence& s, StepResult* result) {
    Known& kv = known_[s.request];
    if (s.opening) {
      kv = Known{.attempt = s.attempt, .tokens = s.opening->prefix};
      for (size_t b = 0; b < s.opening->adopted.size(); ++b) {
        const auto block = blocks_.find(s.opening->adopted[b]);
        if (block == blocks_.end()) {  // a step that was to seal it was lost
          kv.lost = true;
          return result->lost.push_back(
              {s.request, s.attempt, LayerId{1}, static_cast<int32_t>(b), LossCause::kMissing, "never sealed"});
        }
        if (!block->second.tainted) continue;
        EXPECT_EQ(block->second.owner, s.request) << "a bounded stream's KV was adopted by another";
        kv.tainted_from = std::min(kv.tainted_from, static_cast<int32_t>(b) * kBlockTokens);
      }
    }
    if (kv.lost || kv.attempt != s.attempt) return;
    kv.tokens.resize(s.start);
    for (const int32_t token : s.tokens) kv.tokens.push_back(token == kLastSample ? kv.last : token);
    if (s.skip) {
      EXPECT_EQ(s.tokens.size(), 1u) << "a prompt is computed whole";
      kv.tainted_from = std::min(kv.tainted_from, s.start);
    }
    if (s.own_drafts) {
      kv.tokens.back() = -1;
      kv.tokens.back() = Passing(kv, kv.tokens.size() - 1);
    }
    Name(kv, s.names);
    if (Draw(*entropy_, 0, 999) < loss_permille_) {
      kv.lost = true;
      const int32_t block = Draw(*entropy_, 0, (static_cast<int32_t>(kv.tokens.size()) - 1) / kBlockTokens);
      return result->lost.push_back({s.request, s.attempt, LayerId{1}, block, LossCause::kMissing, "scripted"});
    }
    if (s.sample) {
      const size_t known = kv.tokens.size() - static_cast<size_t>(s.drafts);
      kv.last = s.skip ? Passing(kv, known) : Whole(kv, known);
      result->sampled.push_back({s.request, s.attempt, s.sample_index, kv.last, {}});
      if (s.drafts == 1 && kv.tokens[known] == kv.last) {
        kv.last = Whole(kv, known + 1);
        result->sampled.push_back({s.request, s.attempt, s.sample_index + 1, kv.last, {}});
      }
    }
    Seal(kv, s.request);
  }

  std::map<RequestId, Known> known_;
  std::map<BlockId, Block> blocks_;
  uint64_t requests_ = 0, epoch_ = 0;
  int32_t stages_ = 1;
};

TEST_F(SchedulerBounded, FirstStepsAndOneOfSoManyAreAudited) {
  options_.audit_every = 5;
  Form();
  const Stream stream = Admit(Prompt(10), 60, FidelityMode::kBounded);
  Finish();
  ASSERT_TRUE(stream.sink->end);
  EXPECT_OK(stream.sink->end->status);
  // The prompt's step; then four audits, each of two tokens since all agree; then four steps and an audit.
  EXPECT_THAT(Steps(stream), ::testing::StartsWith("waaaassssassssassssa"));
  const FidelityReport& report = stream.sink->end->fidelity;
  EXPECT_EQ(report, stream.sink->last);
  EXPECT_EQ(report.mode, FidelityMode::kBounded);
  EXPECT_EQ(report.steps(), 60);
  const std::string steps = Steps(stream);
  EXPECT_EQ(report.audited, std::count(steps.begin(), steps.end(), 'a'));
  EXPECT_EQ(report.agreed, report.audited);
  EXPECT_EQ(report.skipped, std::count(steps.begin(), steps.end(), 's'));
  EXPECT_EQ(report.saved, int64_t{report.skipped} * 6) << "half of the sublayers of six inner layers";
  EXPECT_FALSE(report.switched_off);
  EXPECT_THAT(Story(stream), HasSubstr("computed with fidelity=bounded"));
  EXPECT_EQ(metrics_.Total("interlace_bounded_audits_total"), report.audited);
  EXPECT_EQ(metrics_.Total("interlace_bounded_requests_total"), 1);
}

TEST_F(SchedulerBounded, APlanThatDisagreesIsSwitchedOffBeforeAnythingWasSkipped) {
  agree_percent_ = 0;
  Form();
  const Stream stream = Admit(Prompt(10), 40, FidelityMode::kBounded);
  Finish();
  ExpectExact(stream);
  EXPECT_EQ(Steps(stream).find('s'), std::string::npos);
  const FidelityReport& report = stream.sink->end->fidelity;
  EXPECT_TRUE(report.switched_off);
  EXPECT_EQ(report.audited, BoundedStream::kFirstAudits);
  EXPECT_EQ(report.agreed, 0);
  EXPECT_EQ(report.saved, 0);
  EXPECT_THAT(Story(stream), HasSubstr("0 of 4 audited steps gave the whole model's token"));
}

// How often a plan that agrees in 70 of 100 steps is kept depends on what is asked for.
TEST_F(SchedulerBounded, TheTargetDecides) {
  agree_percent_ = 70;
  options_.audit_every = 4;
  Form();
  int strict_off = 0, loose_off = 0;
  for (int i = 0; i < 10; ++i) {
    const Stream strict = Admit(Prompt(9), 300, FidelityMode::kBounded, 0.95f);
    const Stream loose = Admit(Prompt(9), 300, FidelityMode::kBounded, 0.5f);
    Finish();
    strict_off += strict.sink->end->fidelity.switched_off ? 1 : 0;
    loose_off += loose.sink->end->fidelity.switched_off ? 1 : 0;
    // Behind the audit that decides, nothing is skipped.
    const std::string steps = Steps(strict);
    if (!strict.sink->end->fidelity.switched_off) continue;
    EXPECT_GT(steps.rfind('a'), steps.rfind('s') == std::string::npos ? 0 : steps.rfind('s')) << steps;
  }
  EXPECT_GE(strict_off, 9);
  EXPECT_LE(loose_off, 1);
}

TEST_F(SchedulerBounded, EarlyExitPassesOverTheLayersBehind) {
  Form();
  const Stream stream = Admit(Prompt(6), 30, FidelityMode::kBounded, 0.9f, /*exit_layer=*/5);
  Finish();
  int seen = 0;
  for (const StepPlan& plan : plans_) {
    for (const PlanSequence& s : plan.sequences) {
      if (!s.skip) continue;
      ++seen;
      EXPECT_EQ(*s.skip, SkipPlan::After(5, kLayers));
      EXPECT_EQ(s.skip->Passed(kLayers), 4);
    }
  }
  EXPECT_GT(seen, 5);
}

// Streams with the same plan stand side by side, so that the rank computes them together.
TEST_F(SchedulerBounded, RowsOfEqualPlansStandTogether) {
  Form();
  std::vector<Stream> streams;
  for (int i = 0; i < 12; ++i) {
    streams.push_back(Admit(Prompt(5), 60, i % 2 == 0 ? FidelityMode::kBounded : FidelityMode::kExact));
  }
  Finish();
  int mixed = 0;
  for (const StepPlan& plan : plans_) {
    int changes = 0;
    for (size_t i = 1; i < plan.sequences.size(); ++i) {
      const Boxed<SkipPlan>&a = plan.sequences[i - 1].skip, &b = plan.sequences[i].skip;
      changes += a.has_value() != b.has_value() ? 1 : 0;
    }
    EXPECT_LE(changes, 1);
    mixed += changes;
  }
  EXPECT_GT(mixed, 10);
  for (const Stream& stream : streams) {
    if (stream.mode == FidelityMode::kExact) ExpectExact(stream);
  }
}

// Doors refuse it; whoever is here all the same is served exactly.
TEST_F(SchedulerBounded, AModelThatIsSplitIsComputedWhole) {
  Form(/*stages=*/2);
  const Stream stream = Admit(Prompt(10), 40, FidelityMode::kBounded);
  Finish();
  ExpectExact(stream);
  EXPECT_THAT(Steps(stream), ::testing::Not(::testing::ContainsRegex("[as]")));
  EXPECT_EQ(stream.sink->end->fidelity.whole, 40);
}

TEST_F(SchedulerBounded, OffMakesNoGuessesByPassingOver) {
  advisor_ = std::make_unique<SkipAdvisor>(SkipAdvisor::Options{.model_digest = "digest", .layers = kLayers},
                                           MakeSeededEntropy(3));
  options_.skip_advisor = advisor_.get();
  options_.draft_tokens = 3;
  options_.speculate = Speculate::kSelf;
  Form();
  const Stream off = Admit(Prompt(30), 30, FidelityMode::kOff), exact = Admit(Prompt(30), 30, FidelityMode::kExact);
  Finish();
  ExpectExact(off);
  ExpectExact(exact);
  EXPECT_EQ(Steps(off).find('a'), std::string::npos);
  EXPECT_NE(Steps(exact).find('a'), std::string::npos);
  for (const StepPlan& plan : plans_) {
    for (const PlanSequence& s : plan.sequences) {
      EXPECT_FALSE(absl::StrCat("r", Value(s.request)) == off.name && s.key) << "a key that nothing is advised by";
    }
  }
  EXPECT_EQ(off.sink->end->fidelity.mode, FidelityMode::kOff);
}

// What a bounded stream's prompt leaves is everybody's; what its steps leave is nobody's, and is gone with it.
TEST_F(SchedulerBounded, ThePromptIsSharedAndTheAnswerIsNot) {
  Form();
  const std::vector<int32_t> prompt = Prompt(16);
  const Stream bounded = Admit(prompt, 60, FidelityMode::kBounded);
  Finish();
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), bounded.sink->delivered.begin(), bounded.sink->delivered.end());
  const Stream same = Admit(prompt, 20, FidelityMode::kExact), behind = Admit(longer, 20, FidelityMode::kExact);
  const Stream again = Admit(longer, 20, FidelityMode::kBounded);
  Finish();
  ExpectExact(same);
  ExpectExact(behind);
  EXPECT_EQ(same.sink->end->cached_tokens, 12);
  EXPECT_GE(behind.sink->end->cached_tokens, 16);
  // Four audits are exact KV too, and so are their guesses; from the first step that skipped on it is not.
  EXPECT_LE(behind.sink->end->cached_tokens, 16 + 2 * BoundedStream::kFirstAudits);
  EXPECT_LE(again.sink->end->cached_tokens, std::max(behind.sink->end->cached_tokens, 76));
  int32_t own = 0;
  scheduler_->directory()->ForEach([&](const BlockEntry& entry) { own += entry.own ? 1 : 0; });
  EXPECT_EQ(own, 0);
  ExpectNothingTold();
}

// The property: whatever becomes of bounded streams beside them (room for few, lost blocks, a replica that is formed
// anew), exact streams are those of the model, prompts in common or not.
TEST_F(SchedulerBounded, ExactStreamsNeverSeeTheKvOfBoundedOnes) {
  int64_t skipped = 0, parked = 0, recomputed = 0;
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    scheduler_.reset();
    waiting_.clear();
    plans_.clear();
    entropy_ = MakeSeededEntropy(seed);
    options_.audit_every = Draw(*entropy_, 2, 20);
    agree_percent_ = Draw(*entropy_, 60, 100);
    loss_permille_ = seed % 3 == 0 ? 10 : 0;
    options_.max_recomputes = 1000;
    const int32_t slots = seed % 2 == 0 ? 8000 : Draw(*entropy_, 36, 60) * kLayers;
    const int32_t frames = seed % 4 == 1 ? 0 : 100 * kLayers;
    Lost();
    Form(1, slots, frames);
    std::vector<std::vector<int32_t>> begins;
    for (int i = 0; i < 3; ++i) begins.push_back(Prompt(Draw(*entropy_, 4, 30)));
    std::vector<Stream> streams;
    for (int i = 0; i < 14; ++i) {
      std::vector<int32_t> prompt = begins[Draw(*entropy_, 0, 2)];
      // Some go on with what a bounded stream said, as the next turn of a chat does.
      if (!streams.empty() && Draw(*entropy_, 0, 2) > 0) {
        const Stream& other = streams[Draw(*entropy_, 0, static_cast<int32_t>(streams.size()) - 1)];
        prompt = other.prompt;
        prompt.insert(prompt.end(), other.sink->delivered.begin(), other.sink->delivered.end());
        prompt.resize(std::min<size_t>(prompt.size(), 50));
      }
      const auto mode = static_cast<FidelityMode>(Draw(*entropy_, 0, 2));
      streams.push_back(Admit(prompt, Draw(*entropy_, 10, 60), mode, 0.5f));
      for (int turn = Draw(*entropy_, 0, 40); turn > 0 && !scheduler_->idle(); --turn) Turn();
      if (seed % 5 == 0 && i == 9) {
        Lost();
        Form(1, slots, frames);
      }
    }
    Finish();
    for (const Stream& stream : streams) {
      ASSERT_TRUE(stream.sink->end);
      ASSERT_OK(stream.sink->end->status) << Story(stream);
      if (stream.mode != FidelityMode::kBounded) ExpectExact(stream);
      skipped += stream.sink->end->fidelity.skipped;
      const absl::StatusOr<Explanation> story = scheduler_->Explain(stream.name);
      parked += stream.mode == FidelityMode::kBounded ? story->preemptions : 0;
      recomputed += stream.mode == FidelityMode::kBounded ? story->recomputes : 0;
    }
    ExpectNothingTold();
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(skipped, 5000);
  EXPECT_GT(parked, 10);
  EXPECT_GT(recomputed, 3);
}

}  // namespace
}  // namespace interlace
