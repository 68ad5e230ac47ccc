#include "kvstore/transfer_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {

TransferCore::TransferCore(const Options& options) : options_(options), tiers_(options.tiers) {}

// ---- Offers.

bool TransferCore::Offer(StoredBlock block, uint32_t tiers, absl::Time now, TransferActions* actions) {
  const auto bytes = static_cast<int64_t>(block.bytes->size());
  if (offered_.contains(block.key)) return true;  // on its way already
  Offered offered{block.bytes, 0, false};
  for (int t = 0; t < options_.tiers; ++t) {
    if ((tiers >> t & 1) == 0 || IsAway(t, now) || offered_bytes_ + bytes > options_.queue_bytes) continue;
    ++offered.left;
    tiers_[t].puts.push_back(block);
  }
  if (offered.left == 0) {
    ++stats_.refused;
    return false;
  }
  offered_bytes_ += bytes;
  offered_[block.key] = std::move(offered);
  for (int t = 0; t < options_.tiers; ++t) Pump(t, actions);
  return true;
}

void TransferCore::SettleOffer(const BlockKey& key, bool stored) {
  const auto it = offered_.find(key);
  CHECK(it != offered_.end());
  it->second.stored |= stored;
  if (--it->second.left > 0) return;
  const auto bytes = static_cast<int64_t>(it->second.bytes->size());
  offered_bytes_ -= bytes;
  if (it->second.stored) {
    ++stats_.blocks_stored;
    stats_.bytes_stored += bytes;
  } else {
    ++stats_.refused;
  }
  offered_.erase(it);
}

void TransferCore::OnPutAnswered(TierCall call, const std::vector<absl::Status>& statuses, absl::Time now,
                                 TransferActions* actions) {
  const auto node = puts_.extract(call);
  if (node.empty()) return;  // stopped
  const CallState& state = node.mapped();
  CHECK_MSG(statuses.size() == state.keys.size(), "a tier answered another number of blocks than it was given");
  --tiers_[state.tier].puts_under_way;
  for (size_t i = 0; i < statuses.size(); ++i) {
    SettleOffer(state.keys[i], statuses[i].ok());
    if (absl::IsUnavailable(statuses[i])) MarkAway(state.tier, now, actions);
  }
  Pump(state.tier, actions);
}

// ---- Fetches.

void TransferCore::Fetch(FetchId fetch, const BlockKey& key, const FetchTimes& times, absl::Time now,
                         TransferActions* actions) {
  const Waiter waiter{fetch, times.deadline, times.due};
  if (times.deadline <= now) {
    ++stats_.missing;
    actions->emplace_back(FetchEnded{fetch, absl::DeadlineExceededError("the fetch came too late")});
    return;
  }
  deadlines_.insert({times.deadline, static_cast<uint64_t>(fetch)});
  fetch_keys_[static_cast<uint64_t>(fetch)] = key;
  const auto [it, added] = reads_.try_emplace(key);
  Read& read = it->second;
  read.waiters.push_back(waiter);
  if (!added) {
    if (read.place == Place::kQueued && times.due < read.queued_by) {
      Unqueue(key, read);
      Queue(key, read);
    }
    return;
  }
  read.order = ++last_order_;
  if (const auto offer = offered_.find(key); offer != offered_.end()) {
    read.tier = -1;
    read.bytes = offer->second.bytes;
    return StartLanding(key, read, actions);
  }
  Advance(key, now, actions);
}

void TransferCore::Advance(const BlockKey& key, absl::Time now, TransferActions* actions) {
  Read& read = reads_.at(key);
  while (read.tier < options_.tiers && IsAway(read.tier, now)) ++read.tier;
  if (read.tier == options_.tiers) {
    const absl::Status status = read.damaged
                                    ? absl::DataLossError(absl::StrCat("every copy of ", KeyText(key), " was damaged"))
                                    : absl::NotFoundError(absl::StrCat("no tier gave ", KeyText(key)));
    return EndRead(key, status, actions);
  }
  read.place = Place::kQueued;
  Queue(key, read);
  Pump(read.tier, actions);
}

void TransferCore::Queue(const BlockKey& key, Read& read) {
  read.queued_by = absl::InfiniteFuture();
  for (const Waiter& waiter : read.waiters) read.queued_by = std::min(read.queued_by, waiter.due);
  tiers_[read.tier].reads.insert({read.queued_by, read.order, key});
}

void TransferCore::Unqueue(const BlockKey& key, const Read& read) {
  tiers_[read.tier].reads.erase({read.queued_by, read.order, key});
}

void TransferCore::OnGetAnswered(TierCall call, std::vector<absl::StatusOr<SharedBytes>> answers, absl::Time now,
                                 TransferActions* actions) {
  const auto node = gets_.extract(call);
  if (node.empty()) return;
  const CallState& state = node.mapped();
  CHECK_MSG(answers.size() == state.keys.size(), "a tier answered another number of blocks than it was asked for");
  --tiers_[state.tier].gets_under_way;
  for (size_t i = 0; i < answers.size(); ++i) {
    const BlockKey& key = state.keys[i];
    if (absl::IsUnavailable(answers[i].status())) MarkAway(state.tier, now, actions);
    const auto it = reads_.find(key);
    CHECK_MSG(it != reads_.end() && it->second.place == Place::kAsked, "a read ended while its tier was asked");
    Read& read = it->second;
    if (read.waiters.empty()) {  // all came too late
      reads_.erase(it);
      continue;
    }
    if (answers[i].ok()) {
      read.bytes = *std::move(answers[i]);
      StartLanding(key, read, actions);
      continue;
    }
    if (absl::IsDataLoss(answers[i].status())) {
      read.damaged = true;
      ++stats_.corrupt;
      actions->emplace_back(TierDrop{read.tier, key});
    }
    ++read.tier;
    Advance(key, now, actions);
  }
  Pump(state.tier, actions);
}

void TransferCore::StartLanding(const BlockKey& key, Read& read, TransferActions* actions) {
  read.place = Place::kLanding;
  read.landing = std::exchange(read.waiters, {});
  Land land{key, {}, read.bytes};
  for (const Waiter& waiter : read.landing) land.fetches.push_back(waiter.fetch);
  actions->emplace_back(std::move(land));
}

void TransferCore::OnLanded(const BlockKey& key, const absl::Status& status, absl::Time now, TransferActions* actions) {
  const auto it = reads_.find(key);
  if (it == reads_.end()) return;  // stopped
  Read& read = it->second;
  CHECK(read.place == Place::kLanding);
  if (status.ok()) {
    for (const Waiter& waiter : std::exchange(read.landing, {})) EndFetch(waiter, absl::OkStatus(), actions);
    if (read.waiters.empty()) {
      reads_.erase(it);
    } else {
      StartLanding(key, read, actions);  // those that asked while the bytes landed
    }
    return;
  }
  ++stats_.corrupt;
  read.damaged = true;
  read.bytes = nullptr;
  if (read.tier >= 0) actions->emplace_back(TierDrop{read.tier, key});
  for (const Waiter& waiter : std::exchange(read.landing, {})) {
    if (now < waiter.deadline) {
      read.waiters.push_back(waiter);
    } else {
      EndFetch(waiter, absl::DeadlineExceededError(absl::StrCat("no tier gave ", KeyText(key), " in time")), actions);
    }
  }
  if (read.waiters.empty()) {
    reads_.erase(it);
    return;
  }
  ++read.tier;
  Advance(key, now, actions);
}

void TransferCore::EndRead(const BlockKey& key, const absl::Status& status, TransferActions* actions) {
  const auto node = reads_.extract(key);
  for (const Waiter& waiter : node.mapped().waiters) EndFetch(waiter, status, actions);
}

void TransferCore::EndFetch(const Waiter& waiter, const absl::Status& status, TransferActions* actions) {
  deadlines_.erase({waiter.deadline, static_cast<uint64_t>(waiter.fetch)});
  fetch_keys_.erase(static_cast<uint64_t>(waiter.fetch));
  if (status.ok()) {
    ++stats_.blocks_fetched;
    stats_.bytes_fetched += options_.payload_bytes;
  } else if (absl::IsNotFound(status) || absl::IsDeadlineExceeded(status)) {
    ++stats_.missing;
  }
  actions->emplace_back(FetchEnded{waiter.fetch, status});
}

absl::Time TransferCore::NextDeadline() const {
  return deadlines_.empty() ? absl::InfiniteFuture() : std::get<0>(*deadlines_.begin());
}

void TransferCore::OnTime(absl::Time now, TransferActions* actions) {
  while (NextDeadline() <= now) {
    const auto [deadline, id] = *deadlines_.begin();
    const FetchId fetch{id};
    const BlockKey key = fetch_keys_.at(id);
    const auto it = reads_.find(key);
    Read& read = it->second;
    const auto is_it = [&](const Waiter& waiter) { return waiter.fetch == fetch; };
    if (std::erase_if(read.waiters, is_it) == 0) {
      // The driver fills its frame and answers next; OnLanded looks at the deadline if the bytes are damaged.
      deadlines_.erase(deadlines_.begin());
      continue;
    }
    EndFetch({fetch, deadline, deadline},
             absl::DeadlineExceededError(absl::StrCat("no tier gave ", KeyText(key), " in time")), actions);
    if (read.place != Place::kQueued) continue;
    Unqueue(key, read);
    if (read.waiters.empty()) {
      reads_.erase(it);
    } else {
      Queue(key, read);
    }
  }
}

void TransferCore::CancelFetches(absl::Time now, TransferActions* actions) {
  std::vector<BlockKey> keys;
  for (const auto& [deadline, id] : deadlines_) keys.push_back(fetch_keys_.at(id));
  for (const BlockKey& key : keys) {
    const auto it = reads_.find(key);
    if (it == reads_.end()) continue;  // it was one of several fetches of the block
    Read& read = it->second;
    for (Waiter& waiter : read.landing) {  // if the bytes are damaged, no other tier is asked
      deadlines_.erase({waiter.deadline, static_cast<uint64_t>(waiter.fetch)});
      waiter.deadline = std::min(waiter.deadline, now);
    }
    if (read.place == Place::kQueued) Unqueue(key, read);
    for (const Waiter& waiter : std::exchange(read.waiters, {})) {
      EndFetch(waiter, absl::CancelledError("the fetch is not wanted any more"), actions);
    }
    if (read.place == Place::kQueued) reads_.erase(it);  // else the answer that is on its way finds nobody
  }
}

// ---- Tiers.

void TransferCore::Pump(int t, TransferActions* actions) {
  Tier& tier = tiers_[t];
  const auto most = static_cast<size_t>(
      std::clamp<int64_t>(options_.call_bytes / std::max<int64_t>(options_.payload_bytes, 1), 1, options_.most_blocks));
  while (tier.gets_under_way < options_.most_calls && !tier.reads.empty()) {
    TierGet get{t, NewCall(), {}};
    while (get.keys.size() < most && !tier.reads.empty()) {
      get.keys.push_back(tier.reads.begin()->key);
      reads_.at(get.keys.back()).place = Place::kAsked;
      tier.reads.erase(tier.reads.begin());
    }
    ++tier.gets_under_way;
    gets_[get.call] = {t, get.keys};
    actions->emplace_back(std::move(get));
  }
  while (tier.puts_under_way < options_.most_calls && !tier.puts.empty()) {
    TierPut put{t, NewCall(), {}};
    CallState state{t, {}};
    while (put.blocks.size() < most && !tier.puts.empty()) {
      state.keys.push_back(tier.puts.front().key);
      put.blocks.push_back(std::move(tier.puts.front()));
      tier.puts.pop_front();
    }
    ++tier.puts_under_way;
    puts_[put.call] = std::move(state);
    actions->emplace_back(std::move(put));
  }
}

// What waits for the tier goes elsewhere: reads to the next tier, offers nowhere.
void TransferCore::MarkAway(int t, absl::Time now, TransferActions* actions) {
  Tier& tier = tiers_[t];
  if (IsAway(t, now)) return;
  tier.away_until = now + options_.retry_after;
  for (const StoredBlock& block : std::exchange(tier.puts, {})) SettleOffer(block.key, false);
  for (const QueuedRead& queued : std::exchange(tier.reads, {})) Advance(queued.key, now, actions);
}

// ---- Probes.

void TransferCore::Probe(ProbeId probe, std::vector<BlockKey> keys, int32_t layers, absl::Time now,
                         TransferActions* actions) {
  ProbeState state{probe, std::move(keys), {}, {}, layers, 0};
  for (const BlockKey& key : state.keys) state.held.push_back(offered_.contains(key));
  AdvanceProbe(std::move(state), now, actions);
}

void TransferCore::AdvanceProbe(ProbeState probe, absl::Time now, TransferActions* actions) {
  while (probe.tier < options_.tiers && IsAway(probe.tier, now)) ++probe.tier;
  const bool all = std::find(probe.held.begin(), probe.held.end(), false) == probe.held.end();
  if (all || probe.tier == options_.tiers) {
    const auto first_missing = std::find(probe.held.begin(), probe.held.end(), false) - probe.held.begin();
    actions->emplace_back(ProbeEnded{probe.probe, static_cast<int32_t>(first_missing / probe.layers)});
    return;
  }
  TierProbe ask{probe.tier, NewCall(), {}};
  probe.asked.clear();
  for (size_t i = 0; i < probe.keys.size(); ++i) {
    if (probe.held[i]) continue;
    probe.asked.push_back(i);
    ask.keys.push_back(probe.keys[i]);
  }
  probes_[ask.call] = std::move(probe);
  actions->emplace_back(std::move(ask));
}

void TransferCore::OnProbeAnswered(TierCall call, const std::vector<bool>& held, absl::Time now,
                                   TransferActions* actions) {
  auto node = probes_.extract(call);
  if (node.empty()) return;
  ProbeState& probe = node.mapped();
  CHECK_MSG(held.size() == probe.asked.size(), "a tier answered another number of blocks than it was probed for");
  for (size_t i = 0; i < held.size(); ++i) probe.held[probe.asked[i]] = held[i];
  ++probe.tier;
  AdvanceProbe(std::move(probe), now, actions);
}

void TransferCore::Stop(TransferActions* actions) {
  for (auto& [key, read] : std::exchange(reads_, {})) {
    for (const std::vector<Waiter>* waiters : {&read.landing, &read.waiters}) {
      for (const Waiter& waiter : *waiters) EndFetch(waiter, absl::CancelledError("the tiers are closing"), actions);
    }
  }
  for (auto& [call, probe] : std::exchange(probes_, {})) actions->emplace_back(ProbeEnded{probe.probe, 0});
  puts_.clear();
  gets_.clear();
  offered_.clear();
  offered_bytes_ = 0;
  for (Tier& tier : tiers_) tier = {};
}

}  // namespace interlace
