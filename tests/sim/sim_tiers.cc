#include "tests/sim/sim_tiers.h"

#include <algorithm>
#include <variant>

#include "kvstore/block_codec.h"

namespace interlace::sim {
namespace {

constexpr size_t kMostRemembered = 16;  // writes that a crash may undo

SharedBytes Flip(const SharedBytes& bytes, uint64_t draw) {
  std::string flipped = *bytes;
  flipped[draw % flipped.size()] = static_cast<char>(flipped[draw % flipped.size()] ^ (1 << (draw >> 32) % 8));
  return std::make_shared<const std::string>(std::move(flipped));
}

}  // namespace

// ---- SimTier

absl::Duration SimTier::Latency() {
  const absl::Duration usual = DrawTime(*entropy_, absl::Microseconds(10), most_latency_);
  return loop_.now() < late_until_ ? usual + late_by_ : usual;
}

void SimTier::Put(std::vector<StoredBlock> blocks, absl::AnyInvocable<void(std::vector<absl::Status>)> done) {
  loop_.After(Latency(), [this, blocks = std::move(blocks), done = std::move(done)]() mutable {
    std::vector<absl::Status> statuses;
    for (StoredBlock& block : blocks) {
      if (loop_.now() < away_until_) {
        statuses.push_back(absl::UnavailableError("the tier is away"));
        continue;
      }
      if (loop_.now() < torn_until_ && Chance(*entropy_, 50)) {
        const auto size = static_cast<size_t>(Draw(*entropy_, 0, static_cast<int64_t>(block.bytes->size()) - 1));
        std::string torn = block.bytes->substr(0, size);
        if (Chance(*entropy_, 50)) torn.resize(block.bytes->size());  // the rest reads as zeros
        block.bytes = std::make_shared<const std::string>(std::move(torn));
      }
      std::vector<BlockKey> evicted;
      const auto added = index_.Add(block.key, block.index, static_cast<int64_t>(block.bytes->size()), &evicted);
      for (const BlockKey& key : evicted) bytes_.erase(key);
      if (added == BlockIndex::Added::kNew) {
        bytes_[block.key] = std::move(block.bytes);
        last_written_.push_back(block.key);
        if (last_written_.size() > kMostRemembered) last_written_.erase(last_written_.begin());
      }
      statuses.push_back(added == BlockIndex::Added::kTooLarge ? absl::ResourceExhaustedError("too large")
                                                               : absl::OkStatus());
    }
    done(std::move(statuses));
  });
}

void SimTier::Get(std::vector<BlockKey> keys, absl::AnyInvocable<void(std::vector<absl::StatusOr<SharedBytes>>)> done) {
  loop_.After(Latency(), [this, keys = std::move(keys), done = std::move(done)]() mutable {
    std::vector<absl::StatusOr<SharedBytes>> answers;
    for (BlockKey& key : keys) {
      if (loop_.now() < away_until_) {
        answers.push_back(absl::UnavailableError("the tier is away"));
        continue;
      }
      auto it = bytes_.find(key);
      if (canary_ == Canary::kForeignBlock && it != bytes_.end() && std::next(it) != bytes_.end()) ++it;
      if (it == bytes_.end()) {
        answers.push_back(absl::NotFoundError("the tier does not hold the block"));
      } else {
        index_.Use(key);
        answers.push_back(it->second);
      }
    }
    done(std::move(answers));
  });
}

void SimTier::Probe(std::vector<BlockKey> keys, absl::AnyInvocable<void(std::vector<bool>)> done) {
  loop_.After(Latency(), [this, keys = std::move(keys), done = std::move(done)]() mutable {
    std::vector<bool> held;
    for (const BlockKey& key : keys) held.push_back(loop_.now() >= away_until_ && index_.Holds(key));
    done(std::move(held));
  });
}

void SimTier::Erase(const BlockKey& key) {
  index_.Remove(key);
  bytes_.erase(key);
}

void SimTier::Drop(const BlockKey& key) { Erase(key); }

void SimTier::FlipOne(Entropy& entropy) {
  if (bytes_.empty()) return;
  auto it = bytes_.begin();
  std::advance(it, Draw(entropy, 0, static_cast<int64_t>(bytes_.size()) - 1));
  if (!it->second->empty()) it->second = Flip(it->second, entropy.Next());
}

void SimTier::Forget(Entropy& entropy, int32_t percent) {
  std::vector<BlockKey> gone;
  for (const auto& [key, bytes] : bytes_) {
    if (Chance(entropy, percent)) gone.push_back(key);
  }
  for (const BlockKey& key : gone) Erase(key);
}

void SimTier::LoseLastWrites(int32_t blocks) {
  for (; blocks > 0 && !last_written_.empty(); --blocks) {
    Erase(last_written_.back());
    last_written_.pop_back();
  }
}

// ---- SimTierStack

SimTierStack::SimTierStack(EventLoop& loop, std::vector<SimTier*> tiers, int64_t payload_bytes, int32_t layer_begin,
                           int32_t layer_end, HeadRange heads, Canary canary)
    : loop_(loop),
      tiers_(std::move(tiers)),
      payload_bytes_(payload_bytes),
      layer_begin_(layer_begin),
      layer_end_(layer_end),
      heads_(heads),
      canary_(canary),
      core_({.tiers = static_cast<int>(tiers_.size()), .payload_bytes = payload_bytes, .most_blocks = 8}) {}

SimTierStack::~SimTierStack() { *alive_ = false; }

bool SimTierStack::Wants() const {
  for (size_t t = 0; t < tiers_.size(); ++t) {
    if (tiers_[t]->Wants() && !core_.IsAway(static_cast<int>(t), loop_.now())) return true;
  }
  return false;
}

void SimTierStack::Offer(const BlockKey& key, int32_t index, SharedBytes stored) {
  uint32_t wanting = 0;
  for (size_t t = 0; t < tiers_.size(); ++t) wanting |= uint32_t{tiers_[t]->Wants()} << t;
  TransferActions actions;
  core_.Offer({key, index, std::move(stored)}, wanting, loop_.now(), &actions);
  Perform(std::move(actions));
}

void SimTierStack::Fetch(const BlockKey& key, const FetchTimes& times, FetchDone done) {
  const FetchId id{++last_id_};
  fetches_[id].done = std::move(done);
  TransferActions actions;
  core_.Fetch(id, key, times, loop_.now(), &actions);
  Perform(std::move(actions));
}

void SimTierStack::CancelFetches() {
  TransferActions actions;
  core_.CancelFetches(loop_.now(), &actions);
  Perform(std::move(actions));
}

void SimTierStack::Probe(const std::vector<BlockId>& blocks, ProbeDone done) {
  std::vector<BlockKey> keys;
  for (const BlockId& block : blocks) {
    for (int32_t layer = layer_begin_; layer < layer_end_; ++layer) keys.push_back({block, LayerId{layer}, heads_});
  }
  const ProbeId id{++last_id_};
  probes_[id] = std::move(done);
  TransferActions actions;
  core_.Probe(id, std::move(keys), layer_end_ - layer_begin_, loop_.now(), &actions);
  Perform(std::move(actions));
}

void SimTierStack::Perform(TransferActions actions) {
  for (TransferAction& action : actions) std::visit([this](auto& a) { Do(a); }, action);
  AwaitDeadline();
}

void SimTierStack::AwaitDeadline() {
  const absl::Time deadline = core_.NextDeadline();
  if (deadline >= awaited_) return;
  awaited_ = deadline;
  loop_.At(std::max(deadline, stopped_until_), [this, alive = alive_] {
    if (!*alive) return;
    awaited_ = absl::InfiniteFuture();
    TransferActions due;
    core_.OnTime(loop_.now(), &due);
    Perform(std::move(due));
  });
}

void SimTierStack::Answer(std::function<void(TransferActions*)> body) {
  if (loop_.now() < stopped_until_) {
    loop_.At(stopped_until_, [this, alive = alive_, body = std::move(body)] {
      if (*alive) Answer(body);
    });
    return;
  }
  TransferActions actions;
  body(&actions);
  Perform(std::move(actions));
}

void SimTierStack::Do(TierPut& put) {
  tiers_[put.tier]->Put(std::move(put.blocks), [this, alive = alive_, call = put.call](auto statuses) {
    if (!*alive) return;
    Answer([this, call, statuses](TransferActions* to) { core_.OnPutAnswered(call, statuses, loop_.now(), to); });
  });
}

void SimTierStack::Do(TierGet& get) {
  tiers_[get.tier]->Get(std::move(get.keys), [this, alive = alive_, call = get.call](auto answers) {
    if (!*alive) return;
    Answer([this, call, answers](TransferActions* to) { core_.OnGetAnswered(call, answers, loop_.now(), to); });
  });
}

void SimTierStack::Do(TierProbe& probe) {
  tiers_[probe.tier]->Probe(std::move(probe.keys), [this, alive = alive_, call = probe.call](auto held) {
    if (!*alive) return;
    Answer([this, call, held](TransferActions* to) { core_.OnProbeAnswered(call, held, loop_.now(), to); });
  });
}

void SimTierStack::Do(Land& land) {
  absl::Status status;
  if (canary_ != Canary::kForeignBlock) {
    status = VerifyStored(land.key, *land.bytes, static_cast<size_t>(payload_bytes_));
  }
  for (const FetchId fetch : land.fetches) {
    auto it = fetches_.find(fetch);
    if (it != fetches_.end()) it->second.bytes = land.bytes;
  }
  TransferActions actions;
  core_.OnLanded(land.key, status, loop_.now(), &actions);
  Perform(std::move(actions));
}

void SimTierStack::Do(FetchEnded& ended) {
  auto node = fetches_.extract(ended.fetch);
  node.mapped().done(ended.status, std::move(node.mapped().bytes));
}

void SimTierStack::Do(ProbeEnded& ended) {
  auto node = probes_.extract(ended.probe);
  node.mapped()(ended.blocks);
}

}  // namespace interlace::sim
