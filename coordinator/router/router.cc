#include "coordinator/router/router.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "coordinator/policy/pace.h"
#include "coordinator/resumed.h"
#include "coordinator/slo_outcome.h"

namespace interlace {
namespace {

constexpr size_t kMostSalts = 1024;    // whose keys are remembered
constexpr size_t kSessionTokens = 64;  // by which a conversation is known
constexpr absl::Duration kLookAge = absl::Milliseconds(1);
// Replicas that are asked to take a request although others are full: the policy has asked the likeliest first, and
// where all of a thousand are full each request would cost a thousand decisions.
constexpr int32_t kMostFull = 16;

bool TakesRequests(const EngineLoad& load) {
  return load.ranks > 0 && load.ranks_ready == load.ranks && load.names != nullptr;
}

// The beginning of its prompt, which all turns of a conversation have in common, and whose it is. FNV-1a.
uint64_t SessionOf(const Request& request) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  for (char c : request.salt) add(static_cast<unsigned char>(c));
  for (char c : AdapterDigest(request)) add(static_cast<unsigned char>(c));
  const size_t count = std::min(kSessionTokens, request.prompt.size());
  for (size_t i = 0; i < count; ++i) add(static_cast<uint32_t>(request.prompt[i]));
  return hash;
}

RouteAsked AskOf(const Request& request, int32_t block_tokens, absl::Time now) {
  RouteAsked asked{.prompt = static_cast<int32_t>(request.prompt.size()), .block_tokens = block_tokens};
  asked.session = SessionOf(request);
  asked.slack = request.arrival + request.targets.ttft.value_or(kNominalTtft) - now;
  asked.prompt += static_cast<int32_t>(request.had.size());
  const size_t begun = request.resumed != nullptr ? request.resumed->tokens.size() : request.had.size();
  asked.one_token = request.max_tokens <= static_cast<int32_t>(begun) + 1;
  if (request.resumed == nullptr || request.resumed->tokens.empty()) return asked;
  asked.prompt += static_cast<int32_t>(request.resumed->tokens.size());
  asked.slack = request.resumed->last_token + request.targets.largest_gap.value_or(kNominalGap) - now;
  return asked;
}

}  // namespace

Router::Router(Options options, int32_t replicas, PrefixDirectory& directory, Clock& clock, Metrics& metrics)
    : options_(std::move(options)),
      directory_(directory),
      clock_(clock),
      metrics_(metrics),
      prompt_tokens_(metrics.counter("interlace_router_prompt_tokens_total")),
      held_tokens_(metrics.counter("interlace_router_held_tokens_total")),
      seconds_(metrics.histogram("interlace_router_seconds")),
      hand_over_seconds_(metrics.histogram("interlace_router_hand_over_seconds")),
      moved_({metrics.counter("interlace_router_hand_overs_total", {{"reason", "lost"}}),
              metrics.counter("interlace_router_hand_overs_total", {{"reason", "decode"}}),
              metrics.counter("interlace_router_hand_overs_total", {{"reason", "drain"}})}),
      apart_(std::any_of(options_.roles.begin(), options_.roles.end(),
                         [](ReplicaRole role) { return role != ReplicaRole::kBoth; })),
      book_(*options_.policy, replicas, options_.roles),
      draining_(static_cast<size_t>(replicas)) {
  for (int32_t r = 0; r < replicas; ++r) {
    const std::string number = absl::StrCat(r);
    replica_metrics_.push_back({metrics.counter("interlace_router_requests_total", {{"replica", number}}),
                                metrics.counter("interlace_router_taken_back_total", {{"replica", number}}),
                                metrics.gauge("interlace_router_queued_tokens", {{"replica", number}}),
                                metrics.gauge("interlace_router_replica_draining", {{"replica", number}})});
  }
}

Router::~Router() {
  while (!waiting_.empty()) {
    const Waiting waiting = std::move(waiting_.front());
    waiting_.pop_front();
    End(waiting.request, *open_.at(waiting.request.id).sink, absl::CancelledError("the coordinator stops"));
  }
}

void Router::Connect(std::vector<Engine*> replicas) { replicas_ = std::move(replicas); }

// ---- where requests go

std::vector<BlockId> Router::NamesOf(const Request& request, const ChainSeed& seed) {
  std::optional<BlockChain> chain;
  const std::pair<std::string, std::string> owner(request.salt, AdapterDigest(request));
  {
    absl::MutexLock lock(&names_mutex_);
    if (seed_ == nullptr || *seed_ != seed) {
      seed_ = std::make_shared<const ChainSeed>(seed);
      chains_.clear();
    }
    auto known = chains_.find(owner);
    if (known == chains_.end()) {
      ChainSeed salted = seed;
      salted.salt = owner.first;
      salted.adapter = owner.second;
      salted.secret = options_.secret;
      if (chains_.size() >= kMostSalts) chains_.clear();  // salts come from clients
      known = chains_.emplace(owner, BlockChain(salted)).first;
    }
    chain = known->second;
  }
  std::vector<int32_t> longer;  // with an answer that has begun
  absl::Span<const int32_t> tokens = request.prompt;
  const std::vector<int32_t>& begun = request.resumed != nullptr ? request.resumed->tokens : request.had;
  if (!begun.empty()) {
    longer = request.prompt;
    longer.insert(longer.end(), begun.begin(), begun.end());
    tokens = longer;
  }
  const auto block = static_cast<size_t>(seed.block_tokens);
  std::vector<BlockId> ids;
  ids.reserve(tokens.size() / block);
  for (size_t end = block; end <= tokens.size(); end += block) {
    ids.push_back(chain->Next(ids.empty() ? BlockId{} : ids.back(), tokens.subspan(end - block, block)));
  }
  return ids;
}

std::shared_ptr<const Router::Look> Router::LookAround() {
  {
    const absl::Time now = clock_.Now();
    absl::MutexLock lock(&mutex_);
    if (look_ != nullptr && now < looked_ + kLookAge) return look_;
    looked_ = now;  // meanwhile others take the one before
  }
  return LookAnew();
}

std::shared_ptr<const Router::Look> Router::LookAnew() {
  auto look = std::make_shared<Look>();
  for (Engine* replica : replicas_) {
    const EngineLoad load = replica->Load();
    look->there.push_back(TakesRequests(load));
    look->facts.push_back({look->there.back(), load.token_seconds, load.host_block_seconds, load.below_block_seconds});
    if (!look->there.back()) continue;
    look->names = load.names;
    look->shared &= load.shares_tier;
  }
  absl::MutexLock lock(&mutex_);
  for (size_t r = 0; r < draining_.size(); ++r) look->facts[r].ready = look->there[r] && !draining_[r];
  look_ = look;
  return look;
}

// What only leaves a replica goes back there if nobody else takes it.
absl::Status Router::Place(const Look& look, const Request& request, RoutedSink& sink, Move move, int32_t home) {
  absl::Status placed = PlaceIn(look, request, sink, move);
  if (placed.ok() || absl::IsInvalidArgument(placed) || home < 0) return placed;
  const auto at = static_cast<size_t>(home);
  if (!look.there[at]) return placed;
  Look alone = look;
  for (ReplicaFacts& facts : alone.facts) facts.ready = false;
  alone.facts[at].ready = true;
  {
    absl::MutexLock lock(&mutex_);
    open_.at(request.id).stays = move == Move::kDrain;
  }
  return PlaceIn(alone, request, sink, move);
}

// Replicas that refuse it are left out one by one. What all refuse, or enough of them since they are full, is refused
// with what the last of them said.
absl::Status Router::PlaceIn(const Look& look, const Request& request, RoutedSink& sink, Move move) {
  const absl::Time began = clock_.Now();
  absl::Span<const ReplicaFacts> facts = look.facts;
  std::vector<ReplicaFacts> left;  // once one has refused
  int32_t full = 0;
  absl::Status refused = absl::UnavailableError(
      look.any() ? "no replica is ready: those whose ranks are there are drained (interlace drain --resume --replica R)"
                 : "no replica is ready: ranks are still loading or lost");
  if (!look.any()) return refused;
  std::vector<BlockId> ids;
  std::vector<HeldPrefix> held(facts.size());
  int32_t lie = 0;  // blocks that lie somewhere
  if ((options_.policy->reads_prefixes || apart_) && request.prompt_logprobs < 0 && !request.pooled) {
    ids = NamesOf(request, *look.names);
    lie = directory_.Match(ids, &held);
  }
  RouteAsked asked = AskOf(request, look.names->block_tokens, began);
  if (look.shared) asked.shared = lie;
  asked.tier_shared = look.shared;
  asked.prompt_done = move == Move::kDecode;
  seconds_.Observe(absl::ToDoubleSeconds(clock_.Now() - began));
  while (true) {
    RouteChoice choice;
    {
      absl::MutexLock lock(&mutex_);
      choice = book_.Choose(asked, facts, held, began);
      if (choice.replica < 0) return refused;
      Open& open = open_.at(request.id);
      open.replica = choice.replica;
      open.asked = Move::kLost;
    }
    const auto at = static_cast<size_t>(choice.replica);
    const auto coming = absl::MakeConstSpan(ids).subspan(static_cast<size_t>(choice.held.blocks - choice.held.coming));
    sink.Begin(choice, coming);
    directory_.Expect(choice.replica, coming);
    Request sent = request;
    sent.route = RouteText(choice, asked);
    absl::Status status = replicas_[at]->Submit(std::move(sent));
    if (status.ok()) {
      replica_metrics_[at].sent.Add();
      prompt_tokens_.Add(asked.prompt);
      held_tokens_.Add(asked.prompt - choice.fresh);
      CountPart(choice);
      Placed(request.id, choice);
      return status;
    }
    directory_.Forget(choice.replica, coming);
    absl::MutexLock lock(&mutex_);
    book_.Undo(choice);
    if (absl::IsInvalidArgument(status)) return status;  // everybody would say so
    refused = std::move(status);
    full += absl::IsResourceExhausted(refused) ? 1 : 0;
    if (full == kMostFull) return refused;
    if (left.empty()) left.assign(facts.begin(), facts.end());
    left[at].ready = false;
    facts = left;
  }
}

// The replica has it, and may have ended it meanwhile. If it was drained while the request was on its way there, it has
// not been told to give it back.
void Router::Placed(RequestId id, const RouteChoice& choice) {
  bool leaves = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto open = open_.find(id);
    if (open == open_.end() || open->second.replica != choice.replica) return;
    open->second.placed = true;
    leaves = draining_[static_cast<size_t>(choice.replica)];
  }
  if (leaves) options_.wake();
}

absl::Status Router::Submit(Request request) {
  auto sink = std::make_shared<RoutedSink>(*this, request.id, request.sink);
  {
    absl::MutexLock lock(&mutex_);
    open_.emplace(request.id, Open{sink});
  }
  request.sink = sink;
  absl::Status status = Place(*LookAround(), request, *sink);
  if (status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  open_.erase(request.id);
  return status;
}

// ---- what replicas say

void Router::OnFirstToken(RoutedSink& sink) {
  Arrive(sink);
  if (sink.before_ != absl::InfinitePast()) {
    hand_over_seconds_.Observe(absl::ToDoubleSeconds(clock_.Now() - sink.before_));
  }
  if (sink.choice_.part != RoutePart::kPrompt) return;
  {
    absl::MutexLock lock(&mutex_);
    prefilled_.push_back(sink.id_);
  }
  options_.wake();
}

// It has its prompt there, or will never have it.
void Router::Arrive(RoutedSink& sink) {
  sink.first_ = false;
  directory_.Forget(sink.choice_.replica, sink.coming_);  // what it has filled, the replica has told by now
  sink.coming_ = {};
  absl::MutexLock lock(&mutex_);
  book_.OnFirstToken(sink.choice_);
}

// The request is not there any more.
void Router::Leave(RoutedSink& sink) {
  if (sink.first_) Arrive(sink);
  absl::MutexLock lock(&mutex_);
  book_.OnEnd(sink.choice_, sink.answer_, clock_.Now());
}

void Router::OnEnd(RoutedSink& sink) {
  Leave(sink);
  absl::MutexLock lock(&mutex_);
  open_.erase(sink.id_);
}

void Router::TakeBack(RoutedSink& sink, Request request, const absl::Status& why) {
  Leave(sink);
  const int32_t from = sink.choice_.replica;
  sink.before_ = request.resumed->last_token;
  Move move = Move::kLost;
  {
    absl::MutexLock lock(&mutex_);
    Open& open = open_.at(request.id);
    move = std::exchange(open.asked, Move::kLost);
    open.placed = false;
    const int32_t home = move == Move::kLost ? -1 : from;
    waiting_.push_back({std::move(request), why, clock_.Now() + options_.reform_timeout, move, home});
  }
  moved_[static_cast<size_t>(move)].Add();
  if (move == Move::kLost) replica_metrics_[static_cast<size_t>(from)].taken_back.Add();
  options_.wake();
}

// ---- requests between two replicas

std::optional<absl::Status> Router::EndOf(const Waiting& waiting, absl::Time now) {
  {
    absl::MutexLock lock(&mutex_);
    const Wanted wanted = open_.at(waiting.request.id).wanted;
    if (wanted == Wanted::kStopped) return absl::OkStatus();
    if (wanted == Wanted::kCancelled) return absl::CancelledError("the client is gone");
    if (!following_.ok()) return following_;
  }
  if (waiting.request.deadline <= now) return absl::DeadlineExceededError("the request's deadline passed");
  return std::nullopt;
}

absl::Time Router::Settle() {
  SendOn();
  std::list<Waiting> waiting;
  {
    absl::MutexLock lock(&mutex_);
    waiting.swap(waiting_);
  }
  absl::Time next = absl::InfiniteFuture();
  if (waiting.empty()) return next;
  const std::shared_ptr<const Look> look = LookAnew();  // what woke us may be a replica that has come
  std::list<Waiting> stay;
  while (!waiting.empty()) {
    const auto at = waiting.begin();
    const RequestId id = at->request.id;
    const std::shared_ptr<TokenSink> sink = at->request.sink;  // a RoutedSink of ours: it came back by it
    RoutedSink& routed = static_cast<RoutedSink&>(*sink);
    const absl::Time now = clock_.Now();
    std::optional<absl::Status> end = EndOf(*at, now);
    if (!end) {
      absl::Status placed = Place(*look, at->request, routed, at->move, at->home);
      if (placed.ok()) {
        Repeat(id);
      } else if (absl::IsUnavailable(placed) && now < at->until) {
        next = std::min({next, at->until, at->request.deadline});
        stay.splice(stay.end(), waiting, at);
        continue;
      } else {
        end = absl::IsUnavailable(placed) && at->move == Move::kLost ? at->why : placed;
      }
    }
    if (end) End(at->request, routed, *std::move(end));
    waiting.erase(at);
  }
  absl::MutexLock lock(&mutex_);
  waiting_.splice(waiting_.begin(), stay);
  return next;
}

void Router::End(const Request& request, RoutedSink& sink, absl::Status status) {
  const absl::Time now = clock_.Now();
  RequestEnd end{.status = std::move(status)};
  end.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  end.timing.total = now - request.arrival;
  end.timing.queue = end.timing.total;
  end.completion_tokens = static_cast<int32_t>(request.had.size());
  if (const Resumed* resumed = request.resumed.get()) {
    end.completion_tokens = static_cast<int32_t>(resumed->tokens.size());
    end.cached_tokens = std::max(0, resumed->cached_tokens);
    if (resumed->started != absl::InfinitePast()) end.timing.queue = resumed->started - request.arrival;
    const int32_t given = end.completion_tokens - resumed->had;
    if (given > 0) {
      end.timing.first_token = resumed->first_token - request.arrival;
      end.timing.largest_gap = std::max(resumed->largest_gap, now - resumed->last_token);
    }
    if (given > 1) end.timing.tpot = (resumed->last_token - resumed->first_token) / (given - 1);
  }
  end.met = OutcomeOf(request, end);
  CountOutcome(end, metrics_);
  if (end.status.ok()) {
    metrics_.Add("vllm:request_success_total", 1, {{"finished_reason", "stop"}});
  } else {
    metrics_.Add("interlace_requests_failed_total", 1, {{"code", absl::StatusCodeToString(end.status.code())}});
  }
  {
    absl::MutexLock lock(&mutex_);
    open_.erase(request.id);
  }
  sink.to_->OnEnd(end);
}

// ---- what clients ask

void Router::Want(RequestId id, Wanted wanted) {
  {
    absl::MutexLock lock(&mutex_);
    const auto open = open_.find(id);
    if (open == open_.end()) return;
    if (open->second.wanted == Wanted::kTokens) open->second.wanted = wanted;
  }
  Repeat(id);
  options_.wake();  // it may be between two replicas
}

// Says what is wanted to the replica where the request is, if it is anything but tokens.
void Router::Repeat(RequestId id) {
  Wanted wanted = Wanted::kTokens;
  Engine* replica = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const auto open = open_.find(id);
    if (open == open_.end() || open->second.replica < 0) return;
    wanted = open->second.wanted;
    replica = replicas_[static_cast<size_t>(open->second.replica)];
  }
  if (wanted == Wanted::kStopped) replica->Stop(id);
  if (wanted == Wanted::kCancelled) replica->Cancel(id);
}

void Router::Cancel(RequestId id) { Want(id, Wanted::kCancelled); }
void Router::Stop(RequestId id) { Want(id, Wanted::kStopped); }

void Router::Follow(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    following_ = why;
  }
  options_.wake();
}

}  // namespace interlace
