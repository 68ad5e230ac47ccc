// LayerWindow against a plain model that keeps every row in memory: the same attention, bit for bit, whatever moves
// between the device and the tiers.
#include "worker/layer_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kvstore/tier/tiers.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr KvBlockShape kShape{8, 1, 8};
constexpr int32_t kHeads = 2, kModelLayers = 8, kQWidth = kHeads * kShape.head_dim;
constexpr int32_t kKvWidth = kShape.kv_heads * kShape.head_dim;
constexpr ShardSpec kShard{1, 3, 2, 6};
constexpr int32_t kLongest = 60;  // tokens of a request
constexpr int32_t kRequests = 4;

// Layers with a window, shorter and longer than a block, and without one; one with a soft cap.
AttentionSpec AttentionOf(LayerId layer) {
  constexpr int32_t kWindows[] = {0, 11, 3, 0, 20, 8, 0, 1};
  const int32_t window = kWindows[Value(layer)];
  return {.scale = 1.0f / std::sqrt(static_cast<float>(kShape.head_dim)),
          .window = window,
          .soft_cap = window == 20 ? 2.0f : 0.0f};
}

struct WorldOptions {
  int32_t slots = 1000;
  int32_t stored = 100000;  // blocks that the host tier holds
  std::string faults;
  uint64_t seed = 1;
};

// A window over a real engine and host tier.
struct World {
  explicit World(const WorldOptions& o) : faults(*FaultPoints::Parse(o.faults, o.seed)) {
    backend = *CreateBackend("cpu", {.ops = "reference", .threads = 1});
    arena = *KvArena::Create(*backend, o.slots * kShape.bytes(), kShape.bytes());
    std::vector<std::unique_ptr<KvTier>> tiers;
    tiers.push_back(*MakeHostTier({.host_bytes = o.stored * (kShape.bytes() + 64)}));
    TransferEngine::Options transfer_options;
    transfer_options.payload_bytes = kShape.bytes();
    transfers = std::make_unique<TransferEngine>(transfer_options, std::move(tiers), clock, *faults);
    LayerWindow::Options options;
    options.shard = kShard;
    options.shape = kShape;
    options.heads = kHeads;
    for (int32_t l = 0; l < kModelLayers; ++l) options.attention.push_back(AttentionOf(LayerId{l}));
    options.read_timeout = absl::Seconds(20);
    options.seed = {.model_digest = "digest", .block_tokens = 8, .kv_heads = 1, .head_dim = 8};
    window = std::make_unique<LayerWindow>(options, *backend, *arena, *transfers, clock);
  }
  // Reports until `arena` slots and `stored` blocks are not exceeded; false: that never happens.
  bool SettlesAt(int32_t slots, int64_t stored) {
    const absl::Time late = clock.Now() + absl::Seconds(10);
    StepResult result;
    do {
      result = {};
      window->ReportUsage(&result);
      if (result.arena_used <= slots && result.tiers[0].blocks <= stored) return true;
    } while (clock.Now() < late);
    ADD_FAILURE() << result.arena_used << " slots (at most " << slots << "), " << result.tiers[0].blocks
                  << " stored blocks (at most " << stored << ")";
    return false;
  }

  RealClock clock;
  std::unique_ptr<FaultPoints> faults;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvArena> arena;
  std::unique_ptr<TransferEngine> transfers;
  std::unique_ptr<LayerWindow> window;
};

// What the test knows of one request.
struct Shadow {
  uint32_t attempt = 1;
  Generation generation{};
  int32_t keep = 0;
  int32_t length = 0;                                       // positions that count
  int32_t extent = 0;                                       // positions that the last step wrote
  int32_t border = 0;                                       // the next start is at most here
  std::vector<std::vector<std::vector<std::byte>>> blocks;  // [layers of the rank][blocks]
  bool behind() const { return extent > length || border < length; }
};

// A sequence of the step at hand.
struct Planned {
  Shadow* shadow;
  PlanSequence plan;
  std::optional<LossCause> must_lose;  // before the first layer
  bool opened() const { return !must_lose.has_value(); }
};

class History {
 public:
  History(const WorldOptions& options, bool may_lose)
      : world_(options),
        random_(options.seed),
        may_lose_(may_lose),
        scarce_(options.slots < 200),
        tier_ample_(options.stored > 1000) {}

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      Step();
      if (random_.Below(8) == 0) CheckResting();
      if (random_.Below(60) == 0) ResetAll();
    }
    StepPlan plan;
    for (const auto& [id, shadow] : shadows_) plan.releases.push_back(RequestId{id});
    shadows_.clear();
    Execute(plan, {});
    EXPECT_EQ(world_.window->sequences(), 0);
    world_.SettlesAt(0, 0);
  }
  int64_t losses() const { return losses_; }
  int64_t attended() const { return attended_; }
  int64_t fetched() const { return fetched_; }

 private:
  void ResetAll() {
    world_.window->Reset();
    shadows_.clear();
    EXPECT_EQ(world_.window->sequences(), 0);
    world_.SettlesAt(0, 0);
  }

  void Step() {
    StepPlan plan;
    std::vector<Planned> running;
    for (uint64_t id = 1; id <= kRequests; ++id) {
      auto it = shadows_.find(id);
      const int64_t roll = random_.Below(100);
      if (it != shadows_.end() && roll < 6) {
        plan.releases.push_back(RequestId{id});
        shadows_.erase(it);
        if (roll < 3) running.push_back(PlanOne(id));  // preempted and started anew
      } else if (roll < 70) {
        running.push_back(PlanOne(id));
      } else if (roll < 85 && it != shadows_.end()) {
        it->second.keep = static_cast<int32_t>(random_.Between(0, kModelLayers));
        plan.residency.push_back({RequestId{id}, {kModelLayers, it->second.keep}});
      }
    }
    random_.Shuffle(running);
    for (const Planned& planned : running) plan.sequences.push_back(planned.plan);
    Execute(plan, running);
  }

  Planned PlanOne(uint64_t id) {
    auto [it, fresh] = shadows_.try_emplace(id);
    Shadow& shadow = it->second;
    if (!fresh && (shadow.length >= kLongest || random_.Below(25) == 0)) {  // a new attempt
      const uint32_t attempt = shadow.attempt + 1;
      shadow = Shadow{.attempt = attempt};
      fresh = true;
    }
    if (fresh) {
      shadow.generation = Generation{random_.Next()};
      shadow.keep = static_cast<int32_t>(random_.Between(0, kModelLayers));
      shadow.blocks.resize(kShard.layers());
    }
    if (random_.Below(6) == 0) shadow.keep = static_cast<int32_t>(random_.Between(0, kModelLayers));
    Planned planned{&shadow, {}, {}};
    planned.plan.request = RequestId{id};
    planned.plan.attempt = shadow.attempt;
    planned.plan.generation = shadow.generation;
    planned.plan.residency = {kModelLayers, shadow.keep};
    planned.plan.start = ChooseStart(shadow, &planned);
    planned.plan.tokens.resize(random_.Below(3) == 0 ? random_.Between(1, 24) : 1);
    for (int32_t& token : planned.plan.tokens) token = static_cast<int32_t>(random_.Below(3));
    return planned;
  }

  int32_t ChooseStart(const Shadow& shadow, Planned* planned) {
    const int32_t tokens = kShape.block_tokens;
    const int64_t roll = random_.Below(100);
    if (roll < 4) {
      planned->must_lose = LossCause::kMissing;
      return shadow.length + static_cast<int32_t>(random_.Between(1, 9));
    }
    if (roll < 8 && shadow.extent > 1) {  // into a block
      const auto start = static_cast<int32_t>(random_.Below(std::min(shadow.length + 1, shadow.extent)));
      if (start % tokens != 0) {
        planned->must_lose = LossCause::kMissing;
        return start;
      }
    }
    if (!shadow.behind() && roll < 90) return shadow.length;
    int32_t block = std::min(shadow.border, shadow.length) / tokens;
    if (roll % 3 == 0) block = static_cast<int32_t>(random_.Below(block + 1));
    return block * tokens;
  }

  void Execute(StepPlan& plan, const std::vector<Planned>& running) {
    LayerWindow& window = *world_.window;
    window.Open(plan);
    ASSERT_EQ(window.running(), running.size());
    std::vector<bool> marked(running.size());
    for (size_t i = 0; i < running.size(); ++i) {
      ASSERT_EQ(window.IsLost(i), !running[i].opened()) << plan.ToString();
      if (running[i].opened() && random_.Below(40) == 0) {
        marked[i] = true;
        window.MarkLost(i);
      }
    }
    window.Begin(LayerId{kShard.layer_begin});
    for (int32_t l = kShard.layer_begin; l < kShard.layer_end; ++l) {
      window.Begin(LayerId{l});
      RunLayer(LayerId{l}, plan, running);
      window.End(LayerId{l});
    }
    std::vector<bool> lost;
    for (size_t i = 0; i < running.size(); ++i) lost.push_back(window.IsLost(i));
    StepResult result;
    window.Close(&result);
    for (size_t i = 0; i < running.size(); ++i) Settle(running[i], lost[i], marked[i], result);
    CheckUse(running, lost, result);
  }

  void RunLayer(LayerId layer, const StepPlan& plan, const std::vector<Planned>& running) {
    const int64_t rows = plan.tokens();
    std::vector<float> q = random_.Floats(rows * kQWidth), k = random_.Floats(rows * kKvWidth),
                       v = random_.Floats(rows * kKvWidth), out(rows * kQWidth, 7), want(rows * kQWidth);
    const auto tensor = [&](std::vector<float>& values, int32_t width) {
      return Tensor{values.data(), DType::kF32, rows, width};
    };
    world_.window->Attend(layer, tensor(q, kQWidth), tensor(k, kKvWidth), tensor(v, kKvWidth), tensor(out, kQWidth));
    int64_t row = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      const auto count = static_cast<int64_t>(running[i].plan.tokens.size());
      const Tensor mine = tensor(want, kQWidth).Rows(row, count);
      if (running[i].opened()) {
        AttendPlainly(*running[i].shadow, layer, running[i].plan.start, tensor(q, kQWidth).Rows(row, count),
                      tensor(k, kKvWidth).Rows(row, count), tensor(v, kKvWidth).Rows(row, count), mine);
      }
      if (world_.window->IsLost(i)) std::memset(mine.data, 0, mine.bytes());
      ++attended_;
      ASSERT_EQ(std::memcmp(mine.data, tensor(out, kQWidth).Rows(row, count).data, mine.bytes()), 0)
          << "layer " << Value(layer) << " of sequence " << i << " in " << plan.ToString();
      row += count;
    }
  }

  void AttendPlainly(Shadow& shadow, LayerId layer, int32_t start, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out) {
    auto& blocks = shadow.blocks[Value(layer) - kShard.layer_begin];
    blocks.resize((start + q.rows + kShape.block_tokens - 1) / kShape.block_tokens,
                  std::vector<std::byte>(kShape.bytes()));
    std::vector<std::byte*> to;
    for (auto& block : blocks) to.push_back(block.data());
    const OpTable& ops = world_.backend->ops();
    const SequenceRows rows{0, q.rows, start, to};
    ops.kv_append({kShape, k, v, {&rows, 1}}, world_.backend->context());
    const AttentionSpec a = AttentionOf(layer);
    ops.paged_attention({out, q, nullptr, kShape, {&rows, 1}, kHeads, a.scale, a.window, a.soft_cap},
                        world_.backend->context());
  }

  void Settle(const Planned& planned, bool lost, bool marked, const StepResult& result) {
    const auto loss = std::find_if(result.lost.begin(), result.lost.end(),
                                   [&](const LostBlock& l) { return l.request == planned.plan.request; });
    ASSERT_EQ(lost, marked || loss != result.lost.end());
    Shadow& shadow = *planned.shadow;
    const int32_t start = planned.plan.start;
    if (!planned.opened()) {
      ASSERT_EQ(loss->cause, *planned.must_lose);
      ASSERT_LE(loss->block * kShape.block_tokens, start);
      return;
    }
    shadow.extent = start + static_cast<int32_t>(planned.plan.tokens.size());
    shadow.length = shadow.border = lost ? start : shadow.extent;
    if (loss == result.lost.end()) return;
    ++losses_;
    ASSERT_EQ(loss->attempt, shadow.attempt);
    ASSERT_FALSE(loss->detail.empty());
    ASSERT_TRUE(may_lose_) << loss->detail;
    if (!scarce_) {
      ASSERT_NE(loss->cause, LossCause::kNoSlot);
    }
    shadow.border = std::min(start, loss->block * kShape.block_tokens);
  }

  // Every block of a sequence that goes on is somewhere.
  void CheckUse(const std::vector<Planned>& running, const std::vector<bool>& lost, const StepResult& result) {
    ASSERT_EQ(result.layers.size(), running.size() * kShard.layers());
    for (size_t i = 0; i < running.size(); ++i) {
      for (const LayerUse& use : result.layers) {
        if (use.request != running[i].plan.request) continue;
        fetched_ += use.bytes_in / kShape.bytes();
        const int32_t blocks = (running[i].shadow->extent + kShape.block_tokens - 1) / kShape.block_tokens;
        if (!lost[i]) {
          ASSERT_GE(use.blocks_device + use.blocks_tier[0], blocks);
        }
        ASSERT_LE(use.blocks_device, blocks);
      }
    }
  }

  // Between steps, with room below: kept layers hold their blocks, streamed ones their unfinished block alone.
  void CheckResting() {
    if (!tier_ample_ || scarce_ || may_lose_) return;
    int32_t slots = 0;
    for (const auto& [id, shadow] : shadows_) {
      const LayerResidencyPlan residency{kModelLayers, shadow.keep};
      const int32_t blocks = (shadow.extent + kShape.block_tokens - 1) / kShape.block_tokens;
      const int32_t kept = residency.KeptIn(kShard.layer_begin, kShard.layer_end);
      if (shadow.behind()) return;
      slots += kept * blocks + (kShard.layers() - kept) * (shadow.extent % kShape.block_tokens != 0 ? 1 : 0);
    }
    world_.SettlesAt(slots, 1000000);
  }

  World world_;
  Random random_;
  const bool may_lose_, scarce_, tier_ample_;
  std::map<uint64_t, Shadow> shadows_;
  int64_t losses_ = 0, attended_ = 0, fetched_ = 0;
};

TEST(LayerWindowTest, AgreesWithThePlainModel) {
  int64_t fetched = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History history({.seed = seed}, /*may_lose=*/false);
    history.Run(120);
    fetched += history.fetched();
    if (HasFailure()) return;
  }
  EXPECT_GT(fetched, 20000);
}

TEST(LayerWindowTest, AgreesWhenSlotsAreScarce) {
  int64_t losses = 0, attended = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History history({.slots = static_cast<int32_t>(8 + 2 * (seed % 50)), .seed = seed}, /*may_lose=*/true);
    history.Run(120);
    losses += history.losses();
    attended += history.attended();
    if (HasFailure()) return;
  }
  EXPECT_GT(losses, 0);
  EXPECT_LT(losses, attended);
}

TEST(LayerWindowTest, AgreesWhenTiersAreFull) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History ample({.stored = static_cast<int32_t>(1 + seed), .seed = seed}, /*may_lose=*/false);
    ample.Run(80);
    History scarce({.slots = 60, .stored = static_cast<int32_t>(1 + 3 * seed), .seed = seed}, /*may_lose=*/true);
    scarce.Run(80);
    if (HasFailure()) return;
  }
}

TEST(LayerWindowTest, DamageIsALossAndNeverAnOutput) {
  for (const char* point :
       {"kv.flip_at_rest", "kv.flip_in_flight", "kv.swap_layer", "kv.swap_request", "kv.read_lost"}) {
    for (const char* probability : {"0.02", "0.3", "1"}) {
      int64_t losses = 0;  // of one history alone there may be none: how many reads there are is a matter of timing
      for (uint64_t seed = 1; seed <= 4; ++seed) {
        const std::string faults = absl::StrCat(point, ":", probability);
        SCOPED_TRACE(absl::StrCat(faults, " seed ", seed));
        History history({.faults = faults, .seed = seed}, /*may_lose=*/true);
        history.Run(120);
        losses += history.losses();
        if (HasFailure()) return;
      }
      EXPECT_GT(losses, 0) << point << " " << probability;
    }
  }
}

}  // namespace
}  // namespace interlace
