// Scheduler: turns requests and results into step plans; sole writer of scheduling state.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "coordinator/cost_model.h"
#include "coordinator/engine.h"
#include "coordinator/fetch_answers.h"
#include "coordinator/kv_observer.h"
#include "coordinator/kv_placement.h"
#include "coordinator/learned_costs.h"
#include "coordinator/policy/forecast.h"
#include "coordinator/policy/length_history.h"
#include "coordinator/policy/policy.h"
#include "coordinator/policy/tenant_ledger.h"
#include "coordinator/replica_history.h"
#include "coordinator/request_observer.h"
#include "coordinator/scheduler_metrics.h"
#include "coordinator/sequence_state.h"
#include "coordinator/speculation.h"
#include "coordinator/stream_drafts.h"
#include "proto/plan/step_plan.h"

namespace interlace {

class SkipAdvisor;

// Where plans go. Implemented by ClusterService, by an in-process runner, by the simulation. Thread: the replica's.
class PlanChannel {
 public:
  virtual ~PlanChannel() = default;
  virtual void Send(const StepPlan& plan) = 0;
  // The replica failed: every rank must register again before another plan is sent.
  virtual void Reset(const absl::Status& why) = 0;
};

// There is no prefill phase and no decode phase: a request's scheduled positions catch up with its tokens, a chunk at a
// time. Up to one plan more than there are stages is in flight, so that no rank waits for the next one: a stream runs
// on with the token that the ranks sampled last, before the scheduler has seen it.
//
// Owned by ReplicaLoop; thread: the replica's; never blocks. Tokens and ends reach their sinks after the next plan is
// sent. A plan's effect on KV counts from the moment it is made: ranks execute plans in order.
class Scheduler {
 public:
  struct Options {
    int32_t chunk_tokens = 256;
    int32_t step_tokens = 512;
    int32_t max_running = 64;
    int32_t turns = 0;  // groups in which streams take turns on several stages; 0: as many as there are stages
    int32_t max_recomputes = 8;
    int32_t fixed_keep = -1;                  // kv.keep_layers; -1: auto
    int32_t context = 0;                      // tokens of the model
    int32_t draft_tokens = 0;                 // the most that a stream guesses per step; 0: off
    Speculate speculate = Speculate::kNgram;  // by which drafters
    bool adapt_drafts = false;                // by what they gain, down to none; otherwise all that may be guessed is
    SkipAdvisor* skip_advisor = nullptr;      // outlives the scheduler; null: streams draft by evenly spread plans
    int32_t skip_layer = 1;                   // behind which keys of prompts are taken for it
    double bounded_share = 0.2;               // of the inner sublayers: what bounded streams pass over without advice
    int64_t audit_every = 16;                 // of so many steps of a bounded stream one is audited
    bool release_at_pace = false;             // tokens reach clients no sooner than TPOT asks
    bool hands_over = false;  // a replica that is lost gives its requests back (TokenSink::OnHandedOver)
    bool shed = false;        // requests that are predicted to miss their TTFT or deadline are ended at once
    int32_t max_losses = 3;   // of a replica, each meeting the same request at the same place
    std::string secret;       // of the cluster; part of the names of blocks
    PolicyOptions policy;
    LearnedCosts learned;                 // by earlier runs
    RequestObserver* observer = nullptr;  // outlives the scheduler; null: nobody is told
    KvObserver* kv_observer = nullptr;    // likewise
    absl::Duration rank_timeout = absl::Seconds(60);
    absl::Duration reform_timeout = absl::Seconds(15);
  };
  Scheduler(const Options& options, const Policy& policy, Clock& clock, Metrics& metrics, PlanChannel& channel);
  ~Scheduler();  // ends what is left with Cancelled

  // Events.
  void Admit(Request request);
  void Cancel(RequestId id, absl::Status why);
  // Everybody's request ends with `why`.
  void EndAll(const absl::Status& why);
  // What it has is enough: it ends with OK and kStop.
  void Stop(RequestId id) { Cancel(id, absl::OkStatus()); }
  // It goes on elsewhere (TokenSink::OnHandedOver); what it has sealed here stays as cache. Requires: hands_over.
  void HandOver(RequestId id, const absl::Status& why);
  void OnFormed(Epoch epoch, absl::Span<const RankInfo> ranks);
  // The replica is gone: requests go back to waiting with the tokens they have, and run on when it is formed again.
  void OnLost(const absl::Status& why);
  void OnResult(StepResult result);

  // The main loop's body: what time did, then plans until as many are in flight as may be, then what clients get.
  void RunOnce();
  // When RunOnce has work to do without an event; infinite future: never.
  absl::Time NextWakeUp() const;

  EngineLoad Load() const;
  const ReplicaShape* shape() const { return placement_ ? &placement_->shape() : nullptr; }  // null: not formed
  const BlockDirectory* directory() const { return placement_ ? &placement_->directory() : nullptr; }  // likewise
  absl::StatusOr<Explanation> Explain(absl::string_view name) const;
  // What earlier runs and this one have learned; this one's comes last.
  LearnedCosts Learned() const;
  // Cheap: a few microseconds for each of the first requests in order, and little for the others.
  ReplicaSnapshot Snapshot() const;
  bool idle() const { return sequences_.empty() && deliveries_.empty(); }
  void CheckInvariants() const;

 private:
  struct InFlight {
    StepPlan plan;
    StepWork work;
    absl::Time sent;
    absl::Duration expected;          // from the end of the step before, where drafts adapt
    bool drafts = false;              // streams do not run ahead of it
    bool follows = false;             // somebody ran ever since the plan before it: ranks should not have to wait
    std::vector<StepResult> results;  // of the stages that answered
  };
  // What a sink gets, in the order in which it came about. There is one for each token, so it is small: scores and ends
  // lie in lists of their own, and the sink is kept alive by its request or by its end, which stands behind.
  struct Delivery {
    enum class Kind : uint8_t { kCached, kFidelity, kToken, kScored, kPromptScores, kPooled, kEnd, kHandedOver };
    TokenSink* sink;
    Kind kind;
    int32_t value = 0;  // tokens of the prompt, or the token
    size_t at = 0;      // in reports_, scores_, prompt_scores_, pooled_, ends_ or handed_over_
  };
  // What a step gave one of its sequences.
  struct Gains {
    const LostSequence* loss = nullptr;  // it gave nothing
    absl::Span<SampledToken> sampled;
    PromptScores* scored = nullptr;
    PooledHidden* pooled = nullptr;
    PromptKey* key = nullptr;
    const ModelDrafted* drafted = nullptr;  // where a draft model did less than was asked for
  };
  // What a step took, and what it would have taken without guesses.
  struct DraftGains {
    int32_t streams = 0;  // that had a token of it
    int32_t drafts = 0;   // guesses that ranks made
    double took = 0;      // seconds
    double plain = 0;     // a step without guesses; 0: not known, or prompts were computed beside
  };
  struct Ending {
    std::shared_ptr<TokenSink> sink;
    RequestEnd end;
  };
  struct HandedOver {
    Request request;
    absl::Status why;
  };
  struct PolicyOrder {
    bool operator()(const SequenceState* a, const SequenceState* b) const {
      return a->key < b->key || (a->key == b->key && a->id < b->id);
    }
  };
  using Ordered = absl::btree_set<SequenceState*, PolicyOrder>;
  enum class Started : uint8_t { kYes, kLater, kNoRoom };
  static constexpr size_t kMostLookedAt = 64;  // waiting requests that one plan tries to start

  // scheduler_view.cc
  StepView View();
  absl::Duration UnderWay(absl::Time now) const;
  void Wait(SequenceState& sequence);
  void StopWaiting(SequenceState& sequence);

  // scheduler_shed.cc
  void ShedLate(const StepView& view);
  std::vector<std::pair<SequenceState*, Forecast>> WillMiss(const StepView& view);
  bool MayMiss(const StepView& view) const;
  StepRoom RoomOfSteps(const StepView& view) const;
  PromptsAhead PromptsUnderWay() const;
  bool IsThere(const SequenceState& sequence, int32_t block) const;
  void LearnForecast(const SequenceState& sequence, absl::Time now);
  void ShedOne(SequenceState& sequence, const Forecast& forecast);

  // scheduler_explain.cc
  using Figures = std::array<int64_t, 3>;
  void Note(SequenceState& sequence, DecisionKind kind, const Figures& figures = {}, absl::string_view detail = {});
  void NoteFetch(SequenceState& sequence, int32_t adopted, int32_t fetched);
  void NoteNoRoom(SequenceState& sequence, const KvPlacement::StartRoom& limits, int32_t adopted);
  Explanation Describe(const SequenceState& sequence, absl::Time now) const;
  static FidelityReport ReportOf(const SequenceState& sequence);

  // scheduler_plan.cc
  std::optional<StepPlan> Plan();
  bool PlanRunning(StepPlan* plan);
  using StreamIterator = std::vector<SequenceState*>::iterator;
  int64_t TakeTurns(StreamIterator begin, StreamIterator end, int64_t streams, int64_t most);
  void PlanWaiting(StepPlan* plan);
  void PlanSuspect(SequenceState& suspect, StepPlan* plan);
  SequenceState* FirstSuspect();
  void Raise();
  bool AwaitsTiers() const;
  bool MakeProgress();
  int32_t Rows(const SequenceState& sequence, int32_t budget) const;
  const std::vector<SequenceState*>& RunningInOrder();
  bool ReserveFor(SequenceState& sequence, int32_t rows, bool* room);
  bool MakeRoomFor(SequenceState& sequence, int32_t end, bool* room);
  bool AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan);
  void FillPlanned(SequenceState& sequence, int32_t count, StepPlan* plan);
  void AskOfPrompt(const SequenceState& sequence, PlanSequence* planned) const;
  bool Awaited(const SequenceState& sequence, int32_t end) const;
  void GroupAlike(StepPlan* plan);
  void Attach(StepPlan* plan);
  bool MayStream(SequenceState& sequence, int64_t* bytes);
  int64_t StreamedBytes(const SequenceState& sequence) const;
  void HoldStreams();
  absl::Span<SequenceState* const> ThoseToLower(const SequenceState& sequence,
                                                const std::vector<SequenceState*>& running) const;
  bool LinkHasTime() const;
  void GiveWayTo(SequenceState& sequence, SequenceState& victim);

  // scheduler_speculate.cc
  bool Adapts() const { return options_.adapt_drafts && options_.draft_tokens > 0; }
  bool MaySelf() const;
  bool MaySelf(const SequenceState& sequence) const;
  bool MayNgram() const;
  bool MayModel() const;
  bool MayDraft(const SequenceState& sequence) const;
  int32_t MostDrafts(const SequenceState& sequence) const;
  int32_t RowsToSample(const StepPlan& plan) const;
  StreamDrafts& DraftsOf(SequenceState& sequence);
  StreamModel& ModelDrafts(SequenceState& sequence);
  ReplicaDrafts::Passes& PassesOf(const SequenceState& sequence, Drafter drafter);
  DraftStream DraftStreamOf(SequenceState& sequence);
  struct DraftGuess {
    Drafter drafter = Drafter::kNone;
    std::vector<int32_t> tokens;
  };
  DraftGuess GuessesFor(SequenceState& sequence, int32_t most, int32_t start);
  bool ReadsAll(SequenceState& sequence, int32_t start);
  // The passes that ranks make for a plan's guesses.
  struct RankPasses {
    struct Of {
      int32_t passes = 0;
      double share = 0;                     // of a whole one, that each is
      ReplicaDrafts::Passes* of = nullptr;  // null: there are none
    };
    Of self, model;
    bool reads = false;  // the draft model reads more than what came with the step before
  };
  RankPasses PassesIn(const StepPlan& plan);
  void NoteModel(SequenceState& sequence, const PlanSequence& planned, const ModelDrafted* drafted, int32_t accepted);
  void EndModelDrafts(SequenceState& sequence);
  void ChooseDrafts();
  absl::Duration TransferOf(int64_t bytes) const;
  void AddDrafts(SequenceState& sequence, int32_t budget, StepPlan* plan);
  SkipPlan SkipPlanFor(const SequenceState& sequence) const;
  void NoteDrafts(SequenceState& sequence, const PlanSequence& planned, int32_t accepted);
  void NoteAccepted(SequenceState& sequence);
  absl::Duration ExpectInterval(const StepPlan& plan, const StepWork& work);
  void LearnDrafts(const InFlight& step, absl::Duration interval);

  // scheduler_skip.cc
  bool MaySkip() const;
  std::optional<KeyAsk> KeyAskFor(const SequenceState& sequence, int32_t end) const;
  void TakeKey(SequenceState& sequence, PromptKey* key);
  void TakeAdvice(SequenceState& sequence);
  DraftRate FirstRate(const SequenceState& sequence) const;
  static double ShareOfPass(const SequenceState& sequence);
  void WeighDrafts(const InFlight& step, absl::Duration took);
  void NoteOutcome(SequenceState& sequence, const PlanSequence& planned, int32_t accepted);
  void ChooseForTrial(SequenceState& sequence, int32_t most);
  void EndAdvice(SequenceState& sequence);

  // scheduler_divide.cc
  static StepWork WorkOf(const StepPlan& plan);
  void DivideRows(StepPlan* plan) const;

  // scheduler_bounded.cc
  bool MaySkipNow(const SequenceState& sequence) const;
  bool AwaitsAudit(const SequenceState& sequence) const;
  const SkipPlan& BoundedPlan(SequenceState& sequence);
  void PlanSkip(SequenceState& sequence, PlanSequence* planned);
  void AddAudit(SequenceState& sequence, int32_t budget, StepPlan* plan);
  void BeginAttempt(SequenceState& sequence);
  const BlockChain& OwnChain(SequenceState& sequence) const;
  void OwnFrom(SequenceState& sequence, int32_t position);
  void NoteBounded(SequenceState& sequence, const PlanSequence& planned, int32_t accepted);
  void SwitchOff(SequenceState& sequence);
  void EndBounded(SequenceState& sequence);
  void ForgetOwn(absl::Span<const BlockId> blocks);

  // scheduler_start.cc
  void SetBelow(SequenceState& sequence, Below below);
  Started TryStart(SequenceState& sequence, const KvPlacement::StartRoom& limits, StepPlan* plan);
  int32_t LayersReadWithin(const SequenceState& sequence, int64_t bytes) const;
  KvPlacement::StartRoom LimitsFor(const SequenceState& sequence, bool alone) const;
  void Open(SequenceState& sequence, int32_t adopted, int32_t fetched);
  int32_t WorthFetching(const SequenceState& sequence, int32_t adopted) const;
  bool AnotherComputes(const SequenceState& sequence, int32_t block) const;
  void Run(SequenceState& sequence);
  void SettleFetching();
  void Park(SequenceState& sequence, absl::string_view cause = "parked");
  void Halt(SequenceState& sequence);
  std::optional<SealedNames> NamesFor(SequenceState& sequence, int32_t end, PlanId plan);
  void ExtendIds(SequenceState& sequence);
  ChainSeed SeedFor(const SequenceState& sequence) const;

  // scheduler_commit.cc
  void Commit(InFlight step);
  void TakeAnswers(const StepResult& result);
  void Account(const StepResult& result);
  void LearnStep(const InFlight& step);
  void LearnTransfer(Route route, int64_t bytes, absl::Duration busy);
  void CommitSequence(SequenceState* found, const PlanSequence& planned, const Gains& gains);
  bool TakeScores(SequenceState& sequence, const PlanSequence& planned, PromptScores* scored);
  bool TakePooled(SequenceState& sequence, PooledHidden* pooled);
  bool FailStage(SequenceState& sequence, absl::string_view what);
  void OnLoss(SequenceState& sequence, const LostSequence& loss);
  void AcceptTokens(SequenceState& sequence, const PlanSequence& planned, const Gains& gains);
  bool AcceptToken(SequenceState& sequence, SampledToken& sampled);
  void RecordTokens();
  double HostUsage() const;
  void AddDelivery(SequenceState& sequence, int32_t token, std::vector<TokenScore>* scores);

  // scheduler_release.cc
  absl::Time ReleaseOf(const SequenceState& sequence, absl::Time now) const;
  void Hold(SequenceState& sequence, SampledToken& sampled, absl::Time due);
  void ReleaseOne(SequenceState& sequence, absl::Time now);
  void ReleaseDue();
  void ReleaseAll(SequenceState& sequence, absl::Time now);

  // scheduler_handover.cc
  void Resume(SequenceState& sequence);
  bool IsComplete(const SequenceState& sequence) const;
  bool AskAgain(SequenceState& sequence);
  bool SharesTier() const;
  void FillCosts(EngineLoad* load) const;
  void HandAllOver(const absl::Status& why);
  void HandOver(SequenceState& sequence, const absl::Status& why, absl::string_view cause);

  void ChooseCosts(absl::Span<const RankInfo> ranks);
  // scheduler_snapshot.cc
  void NoteEnd(const SequenceState& sequence, const RequestEnd& end);
  RequestSnapshot SnapshotOf(const SequenceState& sequence, absl::Time now) const;
  std::string ResidencyOf(const SequenceState& sequence) const;
  void SnapshotReplica(ReplicaSnapshot* snapshot) const;

  void JudgeLoss(absl::Span<const RankInfo> ranks);
  void Quarantine(SequenceState& sequence, const absl::Status& why);
  void ExpireDeadlines();
  void WatchRanks();
  absl::Status NoReplica() const;
  void Deliver();
  // `ended_by`: the stop token that ended it; may be null.
  void Finish(SequenceState& sequence, absl::Status status, FinishReason reason, SampledToken* ended_by = nullptr);
  // It is in no queue any more, and its KV is given back; the reference is not valid after it.
  void Drop(SequenceState& sequence);
  void RecordEnd(const SequenceState& sequence, const RequestEnd& end, absl::Time now);
  void NoteCacheShape();
  SequenceState* Find(RequestId id);

  const Options options_;
  const Policy& policy_;
  Clock& clock_;
  const SchedulerMetrics metrics_;
  PlanChannel& channel_;

  absl::flat_hash_map<RequestId, std::unique_ptr<SequenceState>> sequences_;
  Ordered waiting_, running_;
  std::vector<SequenceState*> fetching_;
  std::set<std::pair<absl::Time, RequestId>> deadlines_;
  std::set<std::pair<absl::Time, RequestId>> release_times_;  // of the first token that is held back for each request
  absl::flat_hash_map<BlockId, RequestId> computing_;  // blocks of prompts that a running sequence is about to seal
  std::map<std::pair<std::string, std::string>, BlockChain> chains_;  // by salt and adapter
  bool adapted_ = false;                                              // a request with an adapter has come
  std::vector<Release> releases_;                                     // for the next plan
  std::map<PlanId, InFlight> in_flight_;
  std::unique_ptr<KvPlacement> placement_;     // set while the replica is formed
  std::optional<FetchAnswers> fetch_answers_;  // of the replica that was formed last
  std::vector<StageMetrics> stage_metrics_;    // of the replica that was formed last
  Epoch epoch_{};
  uint64_t next_plan_ = 1;
  bool idle_ = true;                               // nobody ran when plans were made last
  bool plan_failed_ = false;                       // the replica was lost since a rank hung or failed at a plan
  std::vector<uint64_t> incarnations_;             // of the ranks that formed it last
  absl::Time ask_again_ = absl::InfiniteFuture();  // the first time at which a request asks the tiers again
  bool suspects_ = false;                          // there may be one
  int32_t asked_ = 0;                              // requests whose probe is not answered
  std::vector<SequenceState*> order_;              // running_, in order, unless order_stale_
  std::vector<const SequenceView*> seen_, queue_;  // the same, and those who wait, as policies see them
  std::vector<SequenceState*> streams_, prompts_;  // of the plan being made; here so that their memory is used again
  bool order_stale_ = false;
  std::vector<SequenceState*> found_;  // of the plan being committed
  std::vector<PlanSequence> spare_;    // empty; its memory is that of a plan that was committed
  absl::Time commit_time_;             // when the result being committed was taken
  int64_t accepted_ = 0;               // tokens of the result being committed
  absl::Time gap_began_;               // when a stream got its token before: most streams of a step at once
  absl::Duration gap_;                 // from there to commit_time_
  uint64_t gaps_ = 0;                  // so many are not recorded yet
  LearnedCosts learned_;               // of other replicas than the present one
  std::string cost_key_;               // of the present one, or the last
  CostModel cost_;
  LengthHistory lengths_;
  absl::Duration mean_run_;  // of requests that ended, from start to end; the last ones weigh most. Zero: none did
  ForecastError forecast_error_;
  ForecastError step_error_;  // of steps, from one to the next
  TenantLedger tenants_;
  ReplicaDrafts drafts_;
  int32_t draft_rows_ = 0;                  // that the draft model may yet read in the plan being made
  DraftGains gains_;                        // of the step being committed
  std::vector<SequenceState*> drafting_;    // of the plan being made: those that may guess, and
  std::vector<DraftStream> draft_streams_;  // what is known of them
  StepDraft draft_;                         // what the policy proposes for the plan being made
  int64_t stream_credit_ = 0;               // bytes that former plans might have read from the host
  int32_t prompt_rows_ = 0;                 // rows that it may still have for prompts
  int32_t started_ = 0;                     // requests that it starts
  int32_t starts_ = 0;                      // requests that may still start with less than all layers
  int32_t begun_waiting_ = 0;               // of waiting_, those that have had a token
  absl::Time lost_since_ = absl::InfiniteFuture();
  absl::Status lost_why_;
  std::vector<Delivery> deliveries_;
  std::vector<FidelityReport> reports_;
  std::vector<std::vector<TokenScore>> scores_;
  std::vector<PromptScores> prompt_scores_;
  std::vector<PooledHidden> pooled_;
  std::vector<Ending> ends_;
  std::vector<HandedOver> handed_over_;
  std::deque<Explanation> ended_;                    // the last 256
  std::pair<std::string, std::string> cache_shape_;  // as vllm:cache_config_info says it
  ReplicaHistory history_{clock_.Now()};
};

}  // namespace interlace
