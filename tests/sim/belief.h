// Belief: where the plans and answers so far say that blocks lie.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/block_id.h"
#include "kvstore/layer_set.h"
#include "proto/plan/step_plan.h"

namespace interlace::sim {

// Follows the plans of one epoch as ranks without faults would: what the scheduler counts on. Ranks may hold less,
// where a block was lost, and never more: a place that nobody counts is never given back. Owned by SimCluster.
class Belief {
 public:
  struct Places {
    LayerSet device, host;
    friend bool operator==(const Places&, const Places&) = default;
  };

  explicit Belief(const LayerSet& all) : all_(all) {}
  void Clear() {
    places_.clear();
    kept_.clear();
  }
  void Follow(const StepPlan& plan) {
    for (const Release& release : plan.releases) {
      Seal(release.request, release.names);
      kept_.erase(release.request);
    }
    for (const SequenceChange& change : plan.changes) {
      if (change.kept) kept_[change.request] = *change.kept;
      Seal(change.request, change.names);
    }
    for (const BlockMove& move : plan.moves) Follow(move);
    for (const PlanSequence& s : plan.sequences) {
      if (s.kept) kept_[s.request] = *s.kept;
      Seal(s.request, s.names);
    }
  }
  void Follow(const FetchAnswer& answer) {
    Update(answer.block, [&](Places& places) {
      places.device -= answer.failed;
      places.host -= answer.failed;
    });
  }
  Places Of(const BlockId& id) const {
    const auto it = places_.find(id);
    return it == places_.end() ? Places() : it->second;
  }
  const std::map<BlockId, Places>& all() const { return places_; }

 private:
  template <typename Change>
  void Update(const BlockId& id, Change change) {
    Places& places = places_[id];
    change(places);
    if ((places.device | places.host).empty()) places_.erase(id);
  }
  void Seal(RequestId request, const std::optional<SealedNames>& names) {
    if (!names) return;
    const LayerSet kept = kept_[request];
    for (const BlockId& id : names->ids) {
      Update(id, [&](Places& places) {
        places.host |= (all_ - kept) - (places.device | places.host);
        places.device |= kept;
      });
    }
  }
  void Follow(const BlockMove& move) {
    Update(move.block, [&](Places& places) {
      switch (move.kind) {
        case MoveKind::kCopyOut:
        case MoveKind::kFetchHost:
          places.host |= move.layers;
          break;
        case MoveKind::kCopyIn:
        case MoveKind::kFetchDevice:
          places.device |= move.layers;
          break;
        case MoveKind::kDropDevice:
          places.device -= move.layers;
          break;
        case MoveKind::kDropHost:
          places.host -= move.layers;
          break;
      }
    });
  }

  const LayerSet all_;
  std::map<BlockId, Places> places_;
  std::map<RequestId, LayerSet> kept_;
};

}  // namespace interlace::sim
