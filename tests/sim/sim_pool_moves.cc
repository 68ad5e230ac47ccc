// What plans ask of a SimPool: moves, and what comes of them.
#include <algorithm>
#include <cstring>
#include <string>

#include "tests/sim/sim_pool.h"

namespace interlace::sim {

// ---- moves

void SimPool::CopyOut(const BlockId& id, const LayerSet& layers) {
  SimBlock* const block = Find(id);
  ForLayers(block, layers, [&](SimPlace& place, int32_t layer) {
    if (!place.on_device || place.on_host) return;
    if (place.frame >= 0) {
      place.on_host = true;
    } else if (!StartOut(block, layer)) {
      ledger_.Fail("no host frame for a block that is to be copied out");
    }
  });
}

void SimPool::CopyIn(const BlockId& id, const LayerSet& layers) {
  SimBlock* const block = Find(id);
  ForLayers(block, layers, [&](SimPlace& place, int32_t layer) {
    if (place.on_device || !place.on_host) return;
    if (place.slot < 0) {
      const int32_t slot = TakeSlot();
      if (slot < 0) return ledger_.Fail("no slot for a block that is to be copied in");
      if (!place.on_host) return GiveSlot(slot);  // lost while the slot was waited for
      StartIn(block, layer, slot);
    }
    place.on_device = true;
  });
}

void SimPool::DropDevice(const BlockId& id, const LayerSet& layers) {
  for (auto& [n, fetch] : fetches_) {
    if (fetch.block != id || !fetch.to_device) continue;
    for (Part& part : fetch.parts) part.wanted &= !layers.Has(LayerId{options_.layer_begin + part.layer});
  }
  ForLayers(Find(id), layers, [&](SimPlace& place, int32_t) { place.on_device = false; });
}

void SimPool::DropHost(const BlockId& id, const LayerSet& layers) {
  for (auto& [n, fetch] : fetches_) {
    if (fetch.block != id || fetch.to_device) continue;
    for (Part& part : fetch.parts) part.wanted &= !layers.Has(LayerId{options_.layer_begin + part.layer});
  }
  ForLayers(Find(id), layers, [&](SimPlace& place, int32_t) { place.on_host = false; });
}

// ---- tiers

void SimPool::Fetch(const BlockId& id, const LayerSet& layers, bool to_device, absl::Duration slack) {
  if ((layers & layers_).empty()) return;
  const uint64_t number = ++last_fetch_;
  OpenFetch& fetch = fetches_[number];
  fetch.block = id;
  fetch.to_device = to_device;
  (layers & layers_).ForEach([&](LayerId layer) {
    Part part{Value(layer) - options_.layer_begin, -1, -1, true, absl::OkStatus(), nullptr};
    if (const SimBlock* block = Find(id)) {
      const SimPlace& place = block->places[part.layer];
      if (to_device ? place.on_device : place.on_host) return fetch.arrived.Add(layer);
    }
    if (tiers_ != nullptr) (to_device ? part.slot : part.frame) = to_device ? TakeSlot() : TakeFrame();
    if (part.slot < 0 && part.frame < 0) return fetch.failed.Add(layer);
    fetch.parts.push_back(std::move(part));
  });
  fetch.open = fetch.parts.size();
  if (fetch.open == 0) {
    landed_.push_back(number);
    return wake_();
  }
  for (size_t i = 0; i < fetches_.at(number).parts.size(); ++i) {
    const BlockKey key{id, LayerId{options_.layer_begin + fetches_.at(number).parts[i].layer}, options_.heads};
    tiers_->Fetch(key, {loop_.now() + options_.fetch_timeout, loop_.now() + slack},
                  [this, alive = alive_, number, i](absl::Status status, SharedBytes bytes) {
                    if (*alive) OnPart(number, i, std::move(status), std::move(bytes));
                  });
  }
}

void SimPool::OnPart(uint64_t number, size_t i, absl::Status status, SharedBytes bytes) {
  OpenFetch& fetch = fetches_.at(number);
  fetch.parts[i].status = std::move(status);
  fetch.parts[i].bytes = std::move(bytes);
  if (--fetch.open > 0) return;
  landed_.push_back(number);
  wake_();
}

void SimPool::LandPart(OpenFetch& fetch, Part& part) {
  const LayerId layer{options_.layer_begin + part.layer};
  if (fetch.forgotten || !part.status.ok() || !part.wanted || part.bytes->size() != stored_bytes()) {
    if (part.slot >= 0) GiveSlot(std::exchange(part.slot, -1));
    if (part.frame >= 0) GiveFrame(std::exchange(part.frame, -1));
    return (options_.canary == Canary::kFetchLies ? fetch.arrived : fetch.failed).Add(layer);
  }
  SimBlock* const block = FindOrAdd(fetch.block);
  SimPlace& place = block->places[part.layer];
  if (part.slot >= 0) {
    if (place.slot < 0) {
      place.slot = part.slot;
      place.slot_ready = true;
      std::memcpy(slots_.at(place.slot).data(), part.bytes->data() + kBlockHeaderBytes, payload_bytes());
    } else {
      GiveSlot(part.slot);
    }
  }
  if (part.frame >= 0) {
    if (place.frame < 0) {
      place.frame = part.frame;
      place.frame_ready = true;
      std::memcpy(frames_.at(place.frame).bytes.data(), part.bytes->data(), stored_bytes());
    } else {
      GiveFrame(part.frame);
    }
  }
  part.slot = part.frame = -1;
  (fetch.to_device ? place.on_device : place.on_host) = true;
  place.offered = true;
  place.corrupt = false;
  fetch.arrived.Add(layer);
  Settle(block, part.layer);
}

void SimPool::Land(OpenFetch& fetch) {
  for (Part& part : fetch.parts) LandPart(fetch, part);
  if (fetch.forgotten) return;
  ++(fetch.failed.empty() ? ledger_.fetched_blocks : ledger_.failed_fetches);
  fetched_.push_back({fetch.block, fetch.arrived, fetch.failed});
  if (SimBlock* const block = Find(fetch.block)) EraseIfIdle(block);
}

void SimPool::Probe(RequestId request, const std::vector<BlockId>& blocks) {
  const auto answer = [this, alive = alive_, request, epoch = probe_epoch_](int32_t held) {
    if (!*alive || epoch != probe_epoch_) return;
    probed_.push_back({request, held});
    wake_();
  };
  if (tiers_ == nullptr) return answer(0);
  tiers_->Probe(blocks, answer);
}

}  // namespace interlace::sim
