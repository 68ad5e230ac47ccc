#include "kvstore/transfer_mover.h"

#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "common/check.h"
#include "common/log.h"
#include "kvstore/block_codec.h"

namespace interlace {
namespace {

constexpr int kWriteLane = 0;
int ReadLane(int16_t tier) { return 1 + tier; }

SharedBytes FlipOneBit(const SharedBytes& bytes, uint64_t draw) {
  if (bytes->empty()) return bytes;
  auto flipped = std::make_shared<std::string>(*bytes);
  const uint64_t bit = draw % (8 * flipped->size());
  (*flipped)[bit / 8] = static_cast<char>((*flipped)[bit / 8] ^ (1 << (bit % 8)));
  return flipped;
}

}  // namespace

TransferTicket TransferEngine::Mover::Submit(std::vector<BlockKey> keys, std::vector<std::byte*> to,
                                             std::vector<const std::byte*> from, absl::Time deadline) {
  auto state = std::make_shared<State>(std::move(keys), std::move(to), std::move(from), deadline, clock_, late_reads_);
  const auto count = static_cast<int32_t>(state->keys.size());
  if (count == 0) return TransferTicket(std::move(state));
  const absl::Time now = clock_.Now();
  std::vector<Settlement> settled;
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t group = ++last_group_;
    groups_[group] = {state, count};
    (state->IsRead() ? busy_in_ : busy_out_).Begin(now, count);
    for (int32_t i = 0; i < count; ++i) {
      if (state->IsRead()) {
        AdmitRead({group, i}, now, &settled);
      } else {
        AdmitWrite({group, i}, now, &settled);
      }
    }
  }
  Settle(std::move(settled));
  return TransferTicket(std::move(state));
}

void TransferEngine::Mover::AdmitRead(MoveRef move, absl::Time now, std::vector<Settlement>* settled) {
  const State& state = *groups_.at(move.group).state;
  const BlockKey& key = state.keys[move.index];
  if (const std::optional<MoveRef> write = table_.WaitForWrite(key, move)) {
    queue_.BringForward(*write, state.deadline);  // unless its bytes were taken already
  } else if (const std::optional<int16_t> tier = table_.TierOf(key)) {
    queue_.Push(ReadLane(*tier), Urgency::kRead, state.deadline, move);
  } else {
    const absl::Status missing = absl::NotFoundError("no tier holds the block");
    CountRead(missing);
    Finish(move, {missing}, now, settled);
  }
}

void TransferEngine::Mover::AdmitWrite(MoveRef move, absl::Time now, std::vector<Settlement>* settled) {
  const State& state = *groups_.at(move.group).state;
  switch (table_.BeginWrite(state.keys[move.index], move)) {
    case BlockTable::Begun::kGo:
      queue_.Push(kWriteLane, Urgency::kWrite, state.deadline, move);
      break;
    case BlockTable::Begun::kBehindAnother:
      break;
    case BlockTable::Begun::kDropped:
      Finish(move, {absl::NotFoundError("the generation was dropped")}, now, settled);
      break;
  }
}

void TransferEngine::Mover::Drop(Generation generation) {
  bool now = false;
  {
    absl::MutexLock lock(&mutex_);
    now = table_.Drop(generation);
  }
  if (now) DropInTiers(generation);
}

void TransferEngine::Mover::DropInTiers(Generation generation) {
  for (const std::unique_ptr<KvTier>& tier : tiers_) tier->Drop(generation);
  absl::MutexLock lock(&mutex_);
  table_.Dropped(generation);
}

TransferStats TransferEngine::Mover::Stats() const {
  const absl::Time now = clock_.Now();
  absl::MutexLock lock(&mutex_);
  TransferStats stats = stats_;
  stats.busy_in = busy_in_.Total(now);
  stats.busy_out = busy_out_.Total(now);
  stats.missing += late_reads_->load();
  return stats;
}

void TransferEngine::Mover::Run() {
  while (Task task = Next()) task();
}

// Answers first: they settle tickets and make room in lanes.
Task TransferEngine::Mover::Next() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &Mover::Awake));
  if (!answers_.empty()) {
    Task answer = std::move(answers_.front());
    answers_.pop_front();
    return answer;
  }
  std::optional<TransferQueue::Chunk> chunk =
      queue_.Take([this](int lane) ABSL_NO_THREAD_SAFETY_ANALYSIS { return LaneOpen(lane); }, chunk_moves_);
  if (!chunk.has_value()) return nullptr;  // over
  in_flight_[chunk->lane] += static_cast<int64_t>(chunk->moves.size());
  return [this, chunk = *std::move(chunk)]() mutable { OnChunk(std::move(chunk)); };
}

void TransferEngine::Mover::OnChunk(TransferQueue::Chunk chunk) {
  bool stopping = false;
  {
    absl::MutexLock lock(&mutex_);
    stopping = stopping_;
  }
  const std::vector<MoveResult> cancelled(stopping ? chunk.moves.size() : 0,
                                          {absl::CancelledError("the transfer engine stops")});
  if (chunk.lane == kWriteLane) {
    stopping ? EndWrites(chunk.moves, cancelled) : TakeBytes(std::move(chunk.moves));
  } else {
    stopping ? EndReads(chunk.moves, cancelled, chunk.lane)
             : Issue(static_cast<int16_t>(chunk.lane - 1), std::move(chunk.moves));
  }
}

// Asks the tier for the blocks of one group.
void TransferEngine::Mover::Issue(int16_t tier, std::vector<MoveRef> reads) {
  const std::shared_ptr<State> state = StateOf(reads.front().group);
  std::vector<MoveRef> asked, ended;
  std::vector<MoveResult> results;
  std::vector<BlockKey> keys;
  for (const MoveRef& move : reads) {
    if (!state->Open(move.index)) {
      ended.push_back(move);
      results.push_back({absl::CancelledError("the ticket was abandoned")});
      continue;
    }
    BlockKey key = state->keys[move.index];
    const bool other_layer = faults_.Fires("kv.swap_layer");
    const bool other_request = faults_.Fires("kv.swap_request");
    if (other_layer || other_request) {
      absl::MutexLock lock(&mutex_);
      key = (other_layer ? table_.OtherLayer(key) : table_.OtherRequest(key)).value_or(key);
    }
    asked.push_back(move);
    keys.push_back(key);
  }
  if (!ended.empty()) EndReads(ended, results, ReadLane(tier));
  if (asked.empty()) return;
  tiers_[tier]->Read(std::move(keys), [this, tier, asked = std::move(asked)](auto answers) mutable {
    CHECK_MSG(answers.size() == asked.size(), "a tier answered another number of blocks than it was asked for");
    Post([this, answer = ReadAnswer{tier, std::move(asked), std::move(answers)}]() mutable {
      OnRead(std::move(answer));
    });
  });
}

void TransferEngine::Mover::OnRead(ReadAnswer answer) {
  const std::shared_ptr<State> state = StateOf(answer.moves.front().group);
  std::vector<MoveResult> results(answer.moves.size());
  for (size_t i = 0; i < answer.moves.size(); ++i) {
    results[i].status = Deliver(*state, answer.moves[i].index, std::move(answer.answers[i]));
    if (results[i].status.ok()) results[i].tier = answer.tier;
  }
  EndReads(answer.moves, results, ReadLane(answer.tier));
}

// Verifies, then copies to the device. Cancelled if the ticket was abandoned meanwhile.
absl::Status TransferEngine::Mover::Deliver(State& state, int32_t index, absl::StatusOr<SharedBytes> answer) {
  if (faults_.Fires("kv.read_lost")) return absl::NotFoundError("fault point kv.read_lost");
  if (!answer.ok()) return answer.status();
  SharedBytes bytes = *std::move(answer);
  if (faults_.Fires("kv.flip_at_rest")) bytes = FlipOneBit(bytes, faults_.Draw());
  absl::Status status = absl::CancelledError("the ticket was abandoned");
  state.WhileOpen(index, [&] {
    const auto size = static_cast<size_t>(options_.payload_bytes);
    status = DecodeBlock(state.keys[index], *bytes, absl::MakeSpan(state.to[index], size));
  });
  if (absl::IsDataLoss(status)) LOG(WARNING) << "kv block corrupt" << status;
  return status;
}

void TransferEngine::Mover::EndReads(const std::vector<MoveRef>& moves, const std::vector<MoveResult>& results,
                                     int lane) {
  const absl::Time now = clock_.Now();
  std::vector<Settlement> settled;
  {
    absl::MutexLock lock(&mutex_);
    const State& state = *groups_.at(moves.front().group).state;
    in_flight_[lane] -= static_cast<int64_t>(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      const absl::Status& status = results[i].status;
      CountRead(status);
      if (!status.ok() && !absl::IsCancelled(status)) table_.Forget(state.keys[moves[i].index]);
    }
    for (size_t i = 0; i < moves.size(); ++i) Finish(moves[i], results[i], now, &settled);
  }
  Settle(std::move(settled));
}

// Encodes the blocks of one group into buffers of the engine, and offers them to the first tier.
void TransferEngine::Mover::TakeBytes(std::vector<MoveRef> writes) {
  const std::shared_ptr<State> state = StateOf(writes.front().group);
  std::vector<Encoded> taken;
  std::vector<MoveRef> ended;
  std::vector<MoveResult> results;
  for (const MoveRef& move : writes) {
    const BlockKey& key = state->keys[move.index];
    SharedBytes bytes;
    bool dropped = false;
    {
      absl::MutexLock lock(&mutex_);
      dropped = table_.IsDropped(key.generation);
    }
    if (!dropped) {
      state->WhileOpen(move.index, [&] {
        bytes = EncodeBlock(key, {state->from[move.index], static_cast<size_t>(options_.payload_bytes)});
      });
    }
    if (bytes == nullptr) {
      ended.push_back(move);
      results.push_back({dropped ? absl::NotFoundError("the generation was dropped")
                                 : absl::CancelledError("the ticket was abandoned")});
      continue;
    }
    if (faults_.Fires("kv.flip_in_flight")) bytes = FlipOneBit(bytes, faults_.Draw());
    taken.push_back({move, std::move(bytes), absl::OkStatus()});
  }
  if (!ended.empty()) EndWrites(ended, results);
  if (!taken.empty()) Offer(std::move(taken), 0);
}

// Offers the blocks to `tier`, or to the first one after it that is not away; ends them if there is none.
void TransferEngine::Mover::Offer(std::vector<Encoded> writes, int16_t tier) {
  const absl::Time now = clock_.Now();
  while (tier < static_cast<int16_t>(tiers_.size()) && now < away_until_[tier]) ++tier;
  if (tier == static_cast<int16_t>(tiers_.size())) {
    std::vector<MoveRef> moves;
    std::vector<MoveResult> results;
    for (Encoded& write : writes) {
      moves.push_back(write.move);
      results.push_back({write.refusal.ok() ? absl::UnavailableError("every tier is away") : std::move(write.refusal)});
    }
    return EndWrites(moves, results);
  }
  const std::shared_ptr<State> state = StateOf(writes.front().move.group);
  std::vector<StoredBlock> blocks;
  for (const Encoded& write : writes) blocks.push_back({state->keys[write.move.index], write.bytes});
  tiers_[tier]->Write(std::move(blocks), [this, tier, writes = std::move(writes)](auto statuses) mutable {
    CHECK_MSG(statuses.size() == writes.size(), "a tier answered another number of blocks than it was given");
    Post([this, answer = WriteAnswer{tier, std::move(writes), std::move(statuses)}]() mutable {
      OnWrite(std::move(answer));
    });
  });
}

void TransferEngine::Mover::OnWrite(WriteAnswer answer) {
  std::vector<MoveRef> taken;
  std::vector<Encoded> refused;
  for (size_t i = 0; i < answer.writes.size(); ++i) {
    absl::Status& status = answer.statuses[i];
    if (status.ok()) {
      taken.push_back(answer.writes[i].move);
      continue;
    }
    if (absl::IsUnavailable(status)) away_until_[answer.tier] = clock_.Now() + options_.retry_after;
    refused.push_back(std::move(answer.writes[i]));
    if (refused.back().refusal.ok()) refused.back().refusal = std::move(status);
  }
  if (!taken.empty()) EndWrites(taken, std::vector<MoveResult>(taken.size(), {absl::OkStatus(), answer.tier}));
  if (!refused.empty()) Offer(std::move(refused), static_cast<int16_t>(answer.tier + 1));
}

void TransferEngine::Mover::EndWrites(const std::vector<MoveRef>& moves, const std::vector<MoveResult>& results) {
  const absl::Time now = clock_.Now();
  std::vector<Settlement> settled;
  std::vector<Generation> drops;
  {
    absl::MutexLock lock(&mutex_);
    const std::shared_ptr<State> state = groups_.at(moves.front().group).state;
    in_flight_[kWriteLane] -= static_cast<int64_t>(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      const BlockKey& key = state->keys[moves[i].index];
      const MoveResult& result = results[i];
      CountWrite(result.status);
      const BlockTable::Ended ended =
          table_.EndWrite(key, result.status.ok() ? std::optional<int16_t>(result.tier) : std::nullopt);
      if (ended.last_of_dropped) drops.push_back(key.generation);
      if (ended.next.has_value()) {
        queue_.Push(kWriteLane, ended.readers_wait ? Urgency::kRead : Urgency::kWrite,
                    groups_.at(ended.next->group).state->deadline, *ended.next);
      }
      for (const MoveRef& read : ended.released) AdmitRead(read, now, &settled);
      Finish(moves[i], result, now, &settled);
    }
  }
  for (Generation generation : drops) DropInTiers(generation);
  Settle(std::move(settled));
}

void TransferEngine::Mover::CountRead(const absl::Status& status) {
  if (status.ok()) {
    ++stats_.blocks_in;
    stats_.bytes_in += options_.payload_bytes;
  } else if (absl::IsDataLoss(status)) {
    ++stats_.corrupt;
  } else if (!absl::IsCancelled(status)) {
    ++stats_.missing;
  }
}

void TransferEngine::Mover::CountWrite(const absl::Status& status) {
  if (status.ok()) {
    ++stats_.blocks_out;
    stats_.bytes_out += options_.payload_bytes;
  } else if (!absl::IsCancelled(status) && !absl::IsNotFound(status)) {
    ++stats_.refused;
  }
}

void TransferEngine::Mover::Finish(MoveRef move, MoveResult result, absl::Time now, std::vector<Settlement>* settled) {
  auto it = groups_.find(move.group);
  (it->second.state->IsRead() ? busy_in_ : busy_out_).End(now);
  settled->push_back({it->second.state, move.index, std::move(result)});
  if (--it->second.open == 0) groups_.erase(it);
}

void TransferEngine::Mover::Settle(std::vector<Settlement> settled) {
  for (Settlement& s : settled) s.state->Settle(s.index, std::move(s.result));
}

}  // namespace interlace
