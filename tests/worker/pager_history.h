// PagerHistory: a random scheduler that plays plans on a LayerPager and knows what must come out of them: the attention
// of a plain model that keeps every row, and where every block lies.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"
#include "worker/layer_pager.h"

namespace interlace {

inline constexpr KvBlockShape kPagerShape{8, 1, 8};
inline constexpr int32_t kPagerHeads = 2, kPagerModelLayers = 8;
inline constexpr ShardSpec kPagerShard{1, 3, 2, 6};

// Layers with a window, shorter and longer than a block, and without one; one with a soft cap.
inline AttentionSpec PagerAttention(int32_t layer) {
  constexpr int32_t kWindows[] = {0, 11, 3, 0, 20, 8, 0, 1};
  const int32_t window = kWindows[layer];
  return {.scale = 1.0f / std::sqrt(8.0f), .window = window, .soft_cap = window == 20 ? 2.0f : 0.0f};
}

struct PagerWorldOptions {
  int32_t slots = 2000;
  int32_t frames = 4000;
  std::string faults;
  uint64_t seed = 1;
};

// A pager over a real pool without tiers.
struct PagerWorld {
  explicit PagerWorld(const PagerWorldOptions& o) : faults(*FaultPoints::Parse(o.faults, o.seed)) {
    backend = *CreateBackend("cpu", {.ops = "reference", .threads = 1});
    arena = *KvArena::Create(*backend, o.slots * kPagerShape.bytes(), kPagerShape.bytes());
    frames = *FrameStore::Create(*backend, o.frames * FrameStride(kPagerShape.bytes()), kPagerShape.bytes());
    KvPool::Options options;
    options.layer_begin = kPagerShard.layer_begin;
    options.layer_end = kPagerShard.layer_end;
    options.heads = {0, 1};
    options.payload_bytes = kPagerShape.bytes();
    TierStack::Options tiers;
    tiers.payload_bytes = kPagerShape.bytes();
    pool = *KvPool::Create(options, *backend, *arena, *frames,
                           std::make_unique<TierStack>(tiers, std::vector<std::unique_ptr<KvTier>>(), clock, *faults),
                           clock, *faults);
    LayerPager::Options pager_options{.shard = kPagerShard, .shape = kPagerShape, .heads = kPagerHeads};
    for (int32_t l = 0; l < kPagerModelLayers; ++l) pager_options.attention.push_back(PagerAttention(l));
    pager = std::make_unique<LayerPager>(pager_options, *backend, *pool, clock);
  }
  RealClock clock;
  std::unique_ptr<FaultPoints> faults;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvArena> arena;
  std::unique_ptr<FrameStore> frames;
  std::unique_ptr<KvPool> pool;
  std::unique_ptr<LayerPager> pager;
};

class PagerHistory {
 public:
  PagerHistory(const PagerWorldOptions& options, bool may_lose)
      : world_(options), options_(options), random_(options.seed), may_lose_(may_lose) {}

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      Step();
      if (random_.Below(6) == 0 && !next_) CheckResting();
      if (random_.Below(80) == 0) {
        world_.pager->Reset();
        next_.reset();  // what was read for it is given back
        known_.clear();
        shadows_.clear();
        forget_.clear();
        CheckNothingHeld();
      }
    }
    if (next_) Execute(*std::exchange(next_, std::nullopt), /*look_ahead=*/false);
    if (testing::Test::HasFailure()) return;
    Made last;
    for (const auto& [id, shadow] : shadows_) last.plan.releases.push_back({RequestId{id}, {}});
    shadows_.clear();
    for (const auto& [id, known] : known_) DropAll(id, &last.plan);
    for (const BlockId& id : forget_) DropAll(id, &last.plan);
    known_.clear();
    Execute(last, /*look_ahead=*/false);
    CheckNothingHeld();
  }
  int64_t losses() const { return losses_; }
  int64_t attended() const { return attended_; }
  int64_t streamed() const { return streamed_; }      // bytes
  int64_t read_ahead() const { return read_ahead_; }  // blocks of layers, for the plan that followed
  int64_t adopted() const { return adopted_; }
  int64_t duplicates() const { return duplicates_; }
  int64_t truncated() const { return truncated_; }
  int64_t dropped_behind() const { return dropped_behind_; }  // blocks of layers, of sequences that go on

 private:
  static constexpr int32_t kTokens = kPagerShape.block_tokens;
  static constexpr int32_t kLongest = 70;
  static constexpr int kRequests = 5;
  static constexpr LayerSet kLayers = LayerSet::Range(kPagerShard.layer_begin, kPagerShard.layer_end);

  struct Known {  // a sealed block
    LayerSet device, host;
    int32_t index = 0;
  };
  struct Shadow {
    uint32_t attempt = 1;
    std::vector<int32_t> tokens;    // all that it will have; those behind `accepted` may change
    int32_t length = 0;             // positions computed
    int32_t accepted = 0;           // of them, that will never change
    int32_t sealed = 0, named = 0;  // blocks
    int32_t start = 0;              // of its last plan: no later one sees farther back
    LayerSet kept;
    std::vector<std::vector<std::vector<std::byte>>> blocks;  // [layers of the rank][blocks]: the plain model
    bool lost = false;
  };
  struct Planned {
    uint64_t id = 0;
    PlanSequence plan;
    int32_t sealed_before = 0;
    uint32_t attempt = 1;  // likewise as it was when the plan was made
    int32_t sealed = 0, blocks = 0;
    std::vector<BlockId> ids;  // of the sealed ones
  };
  struct Made {
    StepPlan plan;
    std::vector<Planned> running;
  };

  static int32_t Blocks(int32_t tokens) { return (tokens + kTokens - 1) / kTokens; }
  BlockId IdOf(const Shadow& shadow, int32_t block) const {
    BlockId id;
    for (int32_t b = 0; b <= block; ++b) {
      id = chain_.Next(id, absl::MakeSpan(shadow.tokens).subspan(int64_t{b} * kTokens, kTokens));
    }
    return id;
  }
  LayerSet RandomLayers() {
    if (random_.Below(4) == 0) return LayerSet::Range(0, kPagerModelLayers);
    LayerSet set;
    for (int32_t l = 0; l < kPagerModelLayers; ++l) {
      if (random_.Below(2) == 0) set.Add(LayerId{l});
    }
    return set;
  }
  // Tokens of few kinds, so that prefixes are met again.
  std::vector<int32_t> RandomScript() {
    std::vector<int32_t> tokens(kLongest);
    const auto kind = static_cast<int32_t>(random_.Below(3));
    const auto same = static_cast<int32_t>(random_.Below(kLongest + 1));
    for (int32_t i = 0; i < kLongest; ++i) tokens[i] = i < same ? kind : static_cast<int32_t>(random_.Below(4));
    return tokens;
  }
  std::set<BlockId> Held() const {
    std::set<BlockId> held;
    for (const auto& [id, shadow] : shadows_) {
      for (int32_t b = 0; b < shadow.sealed; ++b) held.insert(IdOf(shadow, b));
    }
    return held;
  }
  static void DropAll(const BlockId& id, StepPlan* plan) {
    plan->moves.push_back({id, MoveKind::kDropDevice, LayerSet::Range(0, kPagerModelLayers)});
    plan->moves.push_back({id, MoveKind::kDropHost, LayerSet::Range(0, kPagerModelLayers)});
  }
  int32_t DeviceSlots() const {
    int32_t slots = 0;
    for (const auto& [id, known] : known_) slots += (known.device & kLayers).size();
    return slots;
  }
  int32_t HostFrames() const {
    int32_t frames = 0;
    for (const auto& [id, known] : known_) frames += (known.host & kLayers).size();
    return frames;
  }

  void Step() {
    Made made = next_ ? *std::exchange(next_, std::nullopt) : Make();
    Execute(made, /*look_ahead=*/random_.Below(4) != 0);
  }

  Made Make() {
    Made made;
    StepPlan& plan = made.plan;
    std::vector<Planned>& running = made.running;
    for (const BlockId& id : forget_) DropAll(id, &plan);
    for (const BlockId& id : forget_) known_.erase(id);
    forget_.clear();
    for (uint64_t id = 1; id <= kRequests; ++id) {
      const auto it = shadows_.find(id);
      if (it != shadows_.end() && (it->second.lost || random_.Below(25) == 0)) Release(id, &plan);
    }
    for (auto& [id, shadow] : shadows_) {
      if (random_.Below(10) == 0) Change(id, shadow, &plan);
    }
    for (uint64_t id = 1; id <= kRequests; ++id) {
      if (random_.Below(3) != 0) PlanOne(id, &running);
    }
    random_.Shuffle(running);
    // In the order in which the parts of a plan take effect: moves, names of what was computed before, and the names of
    // what the plan computes.
    RandomMoves(running, &plan);
    for (const Planned& planned : running) {
      Shadow& shadow = shadows_.at(planned.id);
      Seal(shadow, std::min(shadow.named, planned.plan.start / kTokens));
    }
    for (Planned& planned : running) {
      Shadow& shadow = shadows_.at(planned.id);
      Seal(shadow, std::min(shadow.named, shadow.length / kTokens));
      plan.sequences.push_back(planned.plan);
      planned.attempt = shadow.attempt;
      planned.sealed = shadow.sealed;
      planned.blocks = Blocks(shadow.length);
      for (int32_t b = 0; b < shadow.sealed; ++b) planned.ids.push_back(IdOf(shadow, b));
    }
    return made;
  }

  void Seal(Shadow& shadow, int32_t to) {
    for (; shadow.sealed < to; ++shadow.sealed) {
      Known& known = known_[IdOf(shadow, shadow.sealed)];
      known.index = shadow.sealed;
      kLayers.ForEach([&](LayerId l) {
        const bool placed = known.device.Has(l) || known.host.Has(l);
        duplicates_ += placed ? 1 : 0;
        if (shadow.kept.Has(l)) {
          known.device.Add(l);
        } else if (!placed) {
          known.host.Add(l);
        }
      });
    }
  }
  // Names for blocks [named, to).
  std::optional<SealedNames> Names(Shadow& shadow, int32_t to) {
    if (to <= shadow.named) return std::nullopt;
    SealedNames names{.first = shadow.named};
    for (int32_t b = shadow.named; b < to; ++b) names.ids.push_back(IdOf(shadow, b));
    shadow.named = to;
    return names;
  }
  bool FramesFor(int32_t blocks) const { return HostFrames() + blocks * kPagerShard.layers() <= options_.frames; }

  void Release(uint64_t id, StepPlan* plan) {
    Shadow& shadow = shadows_.at(id);
    interlace::Release release{RequestId{id}, {}};
    const int32_t to = shadow.accepted / kTokens;
    if (!shadow.lost && random_.Below(2) == 0 && FramesFor(to - shadow.sealed)) {
      release.names = Names(shadow, to);
      Seal(shadow, to);
    }
    attempts_[id] = shadow.attempt + 1;
    shadows_.erase(id);
    plan->releases.push_back(std::move(release));
  }

  void Change(uint64_t id, Shadow& shadow, StepPlan* plan) {
    SequenceChange change{RequestId{id}, {}, {}};
    const LayerSet former = shadow.kept;
    if (random_.Below(2) == 0) change.kept = shadow.kept = RandomLayers();
    if (Need(0) > options_.slots) change.kept = shadow.kept = former;
    const int32_t to = shadow.accepted / kTokens;
    if (random_.Below(2) == 0 && FramesFor(to - shadow.sealed)) {
      change.names = Names(shadow, to);
      Seal(shadow, to);
    }
    plan->changes.push_back(std::move(change));
  }

  void RandomMoves(const std::vector<Planned>& running, StepPlan* plan) {
    const std::set<BlockId> held = Held();
    for (auto it = known_.begin(); it != known_.end();) {
      auto& [id, known] = *it;
      const int64_t roll = random_.Below(40);
      const LayerSet some = RandomLayers() & kLayers;
      const auto move = [&, &id = id](MoveKind kind, const LayerSet& layers) {
        plan->moves.push_back({id, kind, layers});
      };
      if (roll == 0 && held.count(id) == 0) {  // evicted
        move(MoveKind::kDropHost, kLayers);
        move(MoveKind::kDropDevice, LayerSet::Range(0, kPagerModelLayers));
        it = known_.erase(it);
        continue;
      }
      const LayerSet out = (some & known.device) - known.host, in = (some & known.host) - known.device;
      if (roll == 1 &&
          HostFrames() + out.size() + NamedUnsealed(running) * kPagerShard.layers() <= options_.frames) {  // parked
        move(MoveKind::kCopyOut, some);
        known.host |= out;
        if (random_.Below(3) != 0) {
          move(MoveKind::kDropDevice, some & known.host);
          known.device -= some & known.host;
        }
      } else if (roll == 2 && Need(RingOf(running)) + NamedLate(running) + in.size() <= options_.slots) {  // promoted
        move(MoveKind::kCopyIn, some);
        known.device |= in;
        if (random_.Below(2) == 0) {
          move(MoveKind::kDropHost, some & known.device);
          known.host -= some & known.device;
        }
      } else if (roll == 3) {  // one of two places is enough
        const LayerSet both = some & known.device & known.host;
        move(random_.Below(2) == 0 ? MoveKind::kDropDevice : MoveKind::kDropHost, both);
        (plan->moves.back().kind == MoveKind::kDropDevice ? known.device : known.host) -= both;
      }
      if (roll == 4) {  // windows have left it behind
        const LayerSet unseen = Unseen(id);
        move(MoveKind::kDropDevice, unseen);
        move(MoveKind::kDropHost, unseen);
        dropped_behind_ += held.count(id) > 0 ? (unseen & (known.device | known.host)).size() : 0;
        known.device -= unseen;
        known.host -= unseen;
      }
      ++it;
    }
    if (random_.Below(3) == 0) DropAll(BlockId{random_.Next(), 1}, plan);  // of a block that nobody knows
  }

  // The slots that the scheduler counts on: what is sealed, tails, and a turn of `ring` blocks.
  int32_t Need(int32_t ring) const {
    int32_t slots = DeviceSlots() + ring;
    for (const auto& [id, shadow] : shadows_) {
      const int32_t blocks = Blocks(shadow.length), kept = (shadow.kept & kLayers).size();
      slots += (blocks - shadow.sealed) * kept;
      slots += std::max(1, blocks - shadow.named) * (kPagerShard.layers() - kept);
    }
    return slots;
  }

  void PlanOne(uint64_t id, std::vector<Planned>* running) {
    const bool fresh = shadows_.count(id) == 0;
    const auto saved_shadows = shadows_;
    const int32_t ring_before = RingOf(*running);
    Shadow& shadow = shadows_[id];
    Planned planned{.id = id};
    PlanSequence& s = planned.plan;
    s.request = RequestId{id};
    if (fresh) {
      shadow.attempt = std::max(1u, attempts_[id]);
      shadow.tokens = RandomScript();
      shadow.kept = RandomLayers();
      shadow.blocks.resize(kPagerShard.layers());
      s.kept = shadow.kept;
      s.opening = Adopt(shadow);
    } else if (random_.Below(6) == 0) {
      s.kept = shadow.kept = RandomLayers();
    }
    s.attempt = shadow.attempt;
    s.start = ChooseStart(shadow);
    const int32_t left = kLongest - s.start;
    const int32_t count =
        std::min<int32_t>(left, random_.Below(3) == 0 ? static_cast<int32_t>(random_.Between(1, 30)) : 1);
    if (count == 0) {
      shadows_ = saved_shadows;
      return;
    }
    s.tokens.assign(shadow.tokens.begin() + s.start, shadow.tokens.begin() + s.start + count);
    s.drafts = random_.Below(3) == 0 ? static_cast<int32_t>(random_.Below(count)) : 0;
    // Late names are sealed with what is computed before the plan, early ones with what it computes.
    planned.sealed_before = shadow.sealed;
    shadow.start = s.start;
    shadow.length = s.start + count;
    shadow.accepted = shadow.length - s.drafts;
    const int32_t to = shadow.accepted / kTokens;
    if (random_.Below(4) != 0 && FramesFor(static_cast<int32_t>(to - shadow.sealed + NamedUnsealed(*running)))) {
      s.names = Names(shadow, to);
    }
    if (Need(ring_before + Turn(planned)) > options_.slots) {
      shadows_ = saved_shadows;
      return;
    }
    running->push_back(std::move(planned));
  }
  int32_t NamedUnsealed(const std::vector<Planned>& running) const {
    int32_t blocks = 0;
    for (const Planned& p : running) blocks += std::max(0, shadows_.at(p.id).named - shadows_.at(p.id).sealed);
    return blocks;
  }
  // Slots of blocks that were computed before the plan that names them: moves come first, so they are still in tails.
  int32_t NamedLate(const std::vector<Planned>& running) const {
    int32_t blocks = 0;
    for (const Planned& p : running) {
      const Shadow& shadow = shadows_.at(p.id);
      blocks += std::max(0, std::min(shadow.named, p.plan.start / kTokens) - shadow.sealed);
    }
    return blocks * kPagerShard.layers();
  }
  // Of a plan: blocks that one layer's turn may hold besides, in the largest case.
  int32_t RingOf(const std::vector<Planned>& running) const {
    int32_t ring = 0;
    for (const Planned& p : running) ring += Turn(p);
    return ring;
  }
  int32_t Turn(const Planned& planned) const {
    const Shadow& shadow = shadows_.at(planned.id);
    bool streams = !shadow.kept.Contains(kLayers);
    for (int32_t b = 0; b < planned.sealed_before && !streams; ++b) {
      const auto known = known_.find(IdOf(shadow, b));
      streams = known == known_.end() || !known->second.device.Contains(kLayers);
    }
    return streams ? std::max(shadow.named, planned.sealed_before) : 0;  // sealed ones, and those that it names
  }

  // The first block that a row at `start` sees in the layer.
  static int32_t FirstSeen(int32_t layer, int32_t start) {
    const int32_t window = PagerAttention(layer).window;
    return window == 0 ? 0 : std::max(0, start + 1 - window) / kTokens;
  }
  // Whether a sequence may adopt its first `count` blocks.
  bool Adoptable(const Shadow& shadow, int32_t count) const {
    for (int32_t b = 0; b < count; ++b) {
      const auto known = known_.find(IdOf(shadow, b));
      if (known == known_.end()) return false;
      const LayerSet placed = known->second.device | known->second.host;
      for (int32_t l = kPagerShard.layer_begin; l < kPagerShard.layer_end; ++l) {
        if (!placed.Has(LayerId{l}) && b >= FirstSeen(l, count * kTokens)) return false;
      }
    }
    return true;
  }
  // Layers in which no sequence sees the block any more.
  LayerSet Unseen(const BlockId& id) const {
    LayerSet layers = kLayers;
    for (const auto& [request, shadow] : shadows_) {
      for (int32_t b = 0; b < shadow.sealed; ++b) {
        if (IdOf(shadow, b) != id) continue;
        kLayers.ForEach([&, &shadow = shadow](LayerId l) {
          if (b >= FirstSeen(Value(l), shadow.start)) layers.Remove(l);
        });
      }
    }
    return layers;
  }

  // The longest known beginning, or less.
  Opening Adopt(Shadow& shadow) {
    Opening opening;
    auto count =
        static_cast<int32_t>(random_.Below(3) == 0 ? random_.Below(kLongest / kTokens) : kLongest / kTokens - 1);
    while (!Adoptable(shadow, count)) --count;
    for (int32_t b = 0; b < count; ++b) opening.adopted.push_back(IdOf(shadow, b));
    opening.prefix.assign(shadow.tokens.begin(), shadow.tokens.begin() + count * kTokens);
    shadow.start = shadow.length = shadow.accepted = count * kTokens;
    shadow.sealed = shadow.named = count;
    adopted_ += count;
    for (int32_t l = 0; l < kPagerShard.layers(); ++l) AppendPlainly(shadow, l, 0, count * kTokens);
    return opening;
  }

  int32_t ChooseStart(Shadow& shadow) {
    const int32_t lowest = std::max(shadow.accepted, shadow.sealed * kTokens);
    if (shadow.length == lowest || random_.Below(2) == 0) return shadow.length;
    const auto start = static_cast<int32_t>(random_.Between(lowest, shadow.length));
    for (int32_t i = start; i < kLongest; ++i) shadow.tokens[i] = static_cast<int32_t>(random_.Below(4));
    truncated_ += shadow.length - start;
    return start;
  }

  // With `look_ahead` the next plan is made before this one ends, and the pager is told.
  void Execute(const Made& made, bool look_ahead) {
    const auto& [plan, running] = made;
    LayerPager& pager = *world_.pager;
    pager.Open(plan, {});
    ASSERT_EQ(pager.running(), running.size());
    std::vector<bool> marked(running.size());
    for (size_t i = 0; i < running.size(); ++i) {
      if (!may_lose_) {
        ASSERT_FALSE(pager.IsLost(i)) << plan.ToString();
      }
      if (may_lose_ && !pager.IsLost(i) && random_.Below(60) == 0) {
        marked[i] = true;
        pager.MarkLost(i);
      }
    }
    pager.Begin(LayerId{kPagerShard.layer_begin});
    for (int32_t l = kPagerShard.layer_begin; l < kPagerShard.layer_end; ++l) {
      pager.Begin(LayerId{l});
      RunLayer(l, plan, running);
      pager.End(LayerId{l});
      if (testing::Test::HasFailure()) return;
    }
    std::vector<bool> lost;
    for (size_t i = 0; i < running.size(); ++i) {
      lost.push_back(pager.IsLost(i));
      if (lost[i]) NoteLost(running[i]);
    }
    if (look_ahead) next_ = Make();
    PoisonFreeSlots();
    const int32_t used = world_.arena->used();
    pager.EndLayers(next_ ? &next_->plan : nullptr);
    read_ahead_ += std::max(0, world_.arena->used() - used);
    StepResult result;
    pager.Close(&result);
    streamed_ += result.bytes_in;
    for (size_t i = 0; i < running.size(); ++i) CheckLoss(running[i], lost[i], marked[i], result);
    if (!may_lose_) {
      ASSERT_TRUE(result.lost.empty()) << result.ToString();
    }
  }

  // A read that counts as done too early shows.
  void PoisonFreeSlots() {
    std::vector<ArenaSlot> slots;
    while (ArenaSlot slot = world_.arena->TryTake()) slots.push_back(std::move(slot));
    for (const ArenaSlot& slot : slots) std::memset(slot.data(), 0xff, static_cast<size_t>(kPagerShape.bytes()));
  }

  void NoteLost(const Planned& planned) {
    shadows_.at(planned.id).lost = true;
    // Where the plan's blocks are in some layers alone, nobody may count on them.
    for (int32_t b = planned.sealed_before; b < planned.sealed; ++b) forget_.insert(planned.ids[b]);
  }

  void CheckLoss(const Planned& planned, bool lost, bool marked, const StepResult& result) {
    const auto loss = std::find_if(result.lost.begin(), result.lost.end(),
                                   [&](const LostSequence& l) { return l.request == planned.plan.request; });
    ASSERT_EQ(lost, marked || loss != result.lost.end());
    if (loss == result.lost.end()) return;
    ++losses_;
    ASSERT_EQ(loss->attempt, planned.attempt);
    ASSERT_FALSE(loss->detail.empty());
    ASSERT_TRUE(loss->cause == LossCause::kCorrupt || loss->cause == LossCause::kMissing) << loss->detail;
    ASSERT_LT(loss->block, planned.blocks);
    if (loss->block < planned.sealed) forget_.insert(planned.ids[loss->block]);
  }

  // ---- the plain model ----

  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  // K and V of a row follow from the tokens up to it, as in a model.
  static std::vector<float> RowsOf(const std::vector<int32_t>& tokens, int32_t layer, int32_t which, int32_t begin,
                                   int32_t end) {
    std::vector<float> rows;
    uint64_t state = 1;
    for (int32_t p = 0; p < end; ++p) {
      state = Mix(state * 31 + static_cast<uint64_t>(tokens[p]) + 1);
      for (int32_t d = 0; p >= begin && d < 8; ++d) {
        const uint64_t bits = Mix(state + static_cast<uint64_t>((layer * 2 + which) * 8 + d) * 0x9e3779b97f4a7c15ull);
        rows.push_back(static_cast<float>(static_cast<int64_t>(bits % 2001) - 1000) / 500.0f);
      }
    }
    return rows;
  }
  static Tensor TensorOf(std::vector<float>& values, int32_t width) {
    return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / width, width};
  }
  std::vector<std::byte*> AppendPlainly(Shadow& shadow, int32_t l, int32_t start, int32_t end) {
    auto& blocks = shadow.blocks[l];
    blocks.resize(Blocks(end), std::vector<std::byte>(kPagerShape.bytes()));
    std::vector<std::byte*> to;
    for (auto& block : blocks) to.push_back(block.data());
    std::vector<float> k = RowsOf(shadow.tokens, l, 0, start, end), v = RowsOf(shadow.tokens, l, 1, start, end);
    const SequenceRows rows{0, end - start, start, to};
    world_.backend->ops().kv_append({kPagerShape, TensorOf(k, 8), TensorOf(v, 8), {&rows, 1}},
                                    world_.backend->context());
    return to;
  }

  void RunLayer(int32_t layer, const StepPlan& plan, const std::vector<Planned>& running) {
    const int32_t l = layer - kPagerShard.layer_begin, width = kPagerHeads * 8;
    const int64_t count = plan.tokens();
    if (count == 0) return;
    std::vector<float> q = random_.Floats(count * width), k, v, out(count * width, 7), want(count * width);
    for (const Planned& p : running) {
      const auto end = p.plan.start + static_cast<int32_t>(p.plan.tokens.size());
      for (const auto& [which, to] : {std::pair{0, &k}, std::pair{1, &v}}) {
        const std::vector<float> rows = RowsOf(shadows_.at(p.id).tokens, l, which, p.plan.start, end);
        to->insert(to->end(), rows.begin(), rows.end());
      }
    }
    world_.pager->Attend(LayerId{layer}, TensorOf(q, width), TensorOf(k, 8), TensorOf(v, 8), TensorOf(out, width));
    int64_t row = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      const PlanSequence& s = running[i].plan;
      const auto rows = static_cast<int64_t>(s.tokens.size());
      const Tensor mine = TensorOf(want, width).Rows(row, rows);
      const std::vector<std::byte*> blocks =
          AppendPlainly(shadows_.at(running[i].id), l, s.start, s.start + static_cast<int32_t>(rows));
      const SequenceRows sequence{0, rows, s.start, blocks};
      const AttentionSpec a = PagerAttention(layer);
      world_.backend->ops().paged_attention({mine,
                                             TensorOf(q, width).Rows(row, rows),
                                             nullptr,
                                             kPagerShape,
                                             {&sequence, 1},
                                             kPagerHeads,
                                             a.scale,
                                             a.window,
                                             a.soft_cap},
                                            world_.backend->context());
      if (world_.pager->IsLost(i)) std::memset(mine.data, 0, static_cast<size_t>(mine.bytes()));
      ++attended_;
      ASSERT_EQ(std::memcmp(mine.data, TensorOf(out, width).Rows(row, rows).data, static_cast<size_t>(mine.bytes())), 0)
          << "layer " << layer << " of sequence " << i << " in " << plan.ToString();
      row += rows;
    }
  }

  // ---- what is held ----

  void CheckResting() {
    world_.pool->Drain();
    StepResult result;
    world_.pager->Report(&result);
    if (may_lose_) return;
    int32_t slots = DeviceSlots();
    for (const auto& [id, shadow] : shadows_) {
      slots += (Blocks(shadow.length) - shadow.sealed) * kPagerShard.layers();
    }
    ASSERT_EQ(result.slots_used, slots);
    ASSERT_EQ(result.frames_used, HostFrames());
  }
  void CheckNothingHeld() {
    world_.pool->Drain();
    EXPECT_EQ(world_.pager->sequences(), 0u);
    EXPECT_EQ(world_.pool->blocks(), 0u);
    EXPECT_EQ(world_.arena->used(), 0);
    EXPECT_EQ(world_.frames->used(), 0);
  }

  PagerWorld world_;
  const PagerWorldOptions options_;
  Random random_;
  const bool may_lose_;
  const BlockChain chain_{ChainSeed{.model_digest = "digest"}};
  std::map<uint64_t, Shadow> shadows_;
  std::map<uint64_t, uint32_t> attempts_;
  std::map<BlockId, Known> known_;
  std::set<BlockId> forget_;
  std::optional<Made> next_;  // made already, and told to the pager
  int64_t losses_ = 0, attended_ = 0, streamed_ = 0, read_ahead_ = 0, adopted_ = 0, duplicates_ = 0, truncated_ = 0,
          dropped_behind_ = 0;
};

}  // namespace interlace
