// KvPool and the tiers below it: offers, fetches, probes. What moves between device and host alone is tested with the
// LayerPager (tests/worker/layer_pager_test).
#include "kvstore/kv_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/synchronization/mutex.h"
#include "kvstore/block_codec.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/scripted_tier.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int64_t kPayload = 320;
constexpr int32_t kBegin = 2, kEnd = 5;  // layers of the rank
constexpr HeadRange kHeads{0, 4};
constexpr LayerSet kAll = LayerSet::Range(kBegin, kEnd);

class Rig {
 public:
  explicit Rig(int32_t slots = 50, int32_t frames = 50, bool with_tier = true) {
    backend_ = *CreateBackend("cpu", {.ops = "reference", .threads = 1});
    arena = *KvArena::Create(*backend_, slots * kPayload, kPayload);
    this->frames = *FrameStore::Create(*backend_, frames * FrameStride(kPayload), kPayload);
    std::vector<std::unique_ptr<KvTier>> tiers;
    if (with_tier) {
      tiers.push_back(std::make_unique<ScriptedTier>("below"));
      tier = static_cast<ScriptedTier*>(tiers.back().get());
    }
    TierStack::Options stack;
    stack.payload_bytes = kPayload;
    stack.layer_begin = kBegin;
    stack.layer_end = kEnd;
    stack.heads = kHeads;
    KvPool::Options options;
    options.layer_begin = kBegin;
    options.layer_end = kEnd;
    options.heads = kHeads;
    options.payload_bytes = kPayload;
    options.fetch_timeout = absl::Seconds(60);
    options.staging_bytes = 2 * FrameStride(kPayload);
    pool = *KvPool::Create(options, *backend_, *arena, *this->frames,
                           std::make_unique<TierStack>(stack, std::move(tiers), clock_, faults_), clock_, faults_);
    pool->OnAnswers([this] {
      absl::MutexLock lock(&mutex_);
      ++woken_;
    });
  }
  ~Rig() {
    if (tier != nullptr) tier->Answer();
    pool.reset();
    EXPECT_EQ(arena->used(), 0);
    EXPECT_EQ(frames->used(), 0);
  }
  static BlockId Id(uint64_t n) { return {7, n}; }
  static BlockKey KeyOf(uint64_t n, LayerId layer) { return {Id(n), layer, kHeads}; }
  static std::vector<std::byte> PayloadOf(uint64_t n, LayerId layer) { return Payload(KeyOf(n, layer), kPayload); }

  // Of the tier, in these layers.
  void Store(uint64_t n, const LayerSet& layers) {
    layers.ForEach([&](LayerId l) { tier->Store(KeyOf(n, l), EncodeBlock(KeyOf(n, l), PayloadOf(n, l))); });
  }
  // The fetches that are answered, as many as asked for.
  std::vector<KvPool::Fetched> AwaitFetched(size_t count) {
    std::vector<KvPool::Fetched> all;
    for (int64_t seen = 0; all.size() < count;) {
      {
        absl::MutexLock lock(&mutex_);
        const auto woken = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return woken_ > seen; };
        mutex_.Await(absl::Condition(&woken));
        seen = woken_;
      }
      pool->Poll();
      for (const KvPool::Fetched& f : pool->TakeFetched()) all.push_back(f);
    }
    return all;
  }
  std::vector<KvPool::Probed> AwaitProbed() {
    std::vector<KvPool::Probed> probed;
    for (int64_t seen = 0; probed.empty();) {
      absl::MutexLock lock(&mutex_);
      const auto woken = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return woken_ > seen; };
      mutex_.Await(absl::Condition(&woken));
      seen = woken_;
      probed = pool->TakeProbed();
    }
    return probed;
  }
  // A block as a sequence would have sealed it.
  void Seal(uint64_t n, bool kept) {
    BlockPointers pointers(kEnd - kBegin);
    SharedBlock* const block = pool->Hold(Id(n), {&pointers, 0});
    kAll.ForEach([&](LayerId l) {
      ArenaSlot slot = pool->TakeSlot();
      ASSERT_TRUE(slot);
      const std::vector<std::byte> payload = PayloadOf(n, l);
      std::memcpy(slot.data(), payload.data(), payload.size());
      EXPECT_NE(pool->Seal(block, l, std::move(slot), kept, 0), KvPool::Sealed::kNoFrame);
    });
    pool->Flush();
    pool->Release(block, {&pointers, 0});
  }
  // What a sequence reads in its turn of the layer.
  void ExpectBytes(uint64_t n, LayerId layer) {
    BlockPointers pointers(kEnd - kBegin);
    SharedBlock* const block = pool->Hold(Id(n), {&pointers, 0});
    bool started = false;
    KvPool::Presence presence;
    while ((presence = pool->Read(block, layer, true, &started)) == KvPool::Presence::kComing) pool->Await();
    ASSERT_EQ(presence, KvPool::Presence::kHere);
    const std::vector<std::byte> want = PayloadOf(n, layer);
    EXPECT_EQ(std::memcmp(pool->AddressOf(block, Value(layer) - kBegin), want.data(), want.size()), 0);
    pool->EndTurn(layer);
    pool->Release(block, {&pointers, 0});
  }

 private:
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Backend> backend_;
  absl::Mutex mutex_;
  int64_t woken_ = 0;  // protected by mutex_

 public:
  std::unique_ptr<KvArena> arena;
  std::unique_ptr<FrameStore> frames;
  ScriptedTier* tier = nullptr;
  std::unique_ptr<KvPool> pool;
};

TEST(KvPoolTest, SealedBlocksAreOfferedToTheTiers) {
  for (const bool kept : {false, true}) {
    Rig rig;
    for (uint64_t n = 1; n <= 5; ++n) rig.Seal(n, kept);
    rig.tier->WaitForBlocks(15);
    rig.pool->Drain();
    EXPECT_EQ(rig.arena->used(), kept ? 15 : 0);
    EXPECT_EQ(rig.frames->used(), kept ? 0 : 15);
    for (uint64_t n = 1; n <= 5; ++n) rig.Seal(n, kept);  // the same again: nothing is new
    rig.pool->Reset();
    // What the tiers hold outlives the epoch, and is what was sealed.
    for (uint64_t n = 1; n <= 5; ++n) rig.pool->Fetch(Rig::Id(n), kAll, /*to_device=*/n % 2 == 0);
    for (const KvPool::Fetched& f : rig.AwaitFetched(5)) EXPECT_EQ(f.arrived, kAll);
    for (uint64_t n = 1; n <= 5; ++n) kAll.ForEach([&](LayerId l) { rig.ExpectBytes(n, l); });
  }
}

TEST(KvPoolTest, NothingIsMadeForTiersThatDoNotWantIt) {
  Rig rig;
  rig.tier->SetWants(false);
  rig.Seal(1, true);
  rig.Seal(2, false);
  rig.pool->Drain();
  EXPECT_EQ(rig.pool->tiers().Stats().refused, 0) << "nobody was asked";
  EXPECT_FALSE(rig.tier->Holds(Rig::KeyOf(1, LayerId{kBegin})));
  rig.tier->SetWants(true);
  rig.Seal(3, false);
  rig.tier->WaitForBlocks(3);
  EXPECT_TRUE(rig.tier->Holds(Rig::KeyOf(3, LayerId{kBegin})));
}

TEST(KvPoolTest, FetchesLandWhereTheyWereSent) {
  for (const bool to_device : {false, true}) {
    Rig rig(50, to_device ? 0 : 50);  // to the device without any host frame
    for (uint64_t n = 1; n <= 9; ++n) rig.Store(n, kAll);
    for (uint64_t n = 1; n <= 9; ++n) rig.pool->Fetch(Rig::Id(n), kAll | LayerSet::Range(7, 9), to_device);
    for (const KvPool::Fetched& f : rig.AwaitFetched(9)) {
      EXPECT_EQ(f.arrived, kAll);
      EXPECT_TRUE(f.failed.empty());
    }
    EXPECT_EQ(rig.arena->used(), to_device ? 27 : 0);
    EXPECT_EQ(rig.frames->used(), to_device ? 0 : 27);
    for (uint64_t n = 1; n <= 9; ++n) kAll.ForEach([&](LayerId l) { rig.ExpectBytes(n, l); });
    // They are there already: answered without a read.
    const size_t gets = rig.tier->WaitForGets(1).size();
    rig.pool->Fetch(Rig::Id(3), kAll, to_device);
    EXPECT_EQ(rig.AwaitFetched(1)[0].arrived, kAll);
    EXPECT_EQ(rig.tier->WaitForGets(1).size(), gets);
  }
}

TEST(KvPoolTest, WhatIsMissingOrDamagedFailsInItsLayerAlone) {
  for (const bool to_device : {false, true}) {
    Rig rig;
    LayerSet missing, damaged;
    missing.Add(LayerId{2});
    damaged.Add(LayerId{4});
    rig.Store(1, kAll - missing);
    std::string bytes = *EncodeBlock(Rig::KeyOf(1, LayerId{4}), Rig::PayloadOf(1, LayerId{4}));
    bytes[100] = static_cast<char>(bytes[100] ^ 1);
    rig.tier->Store(Rig::KeyOf(1, LayerId{4}), std::make_shared<std::string>(bytes));
    rig.pool->Fetch(Rig::Id(1), kAll, to_device);
    const KvPool::Fetched fetched = rig.AwaitFetched(1)[0];
    EXPECT_EQ(fetched.failed, missing | damaged);
    EXPECT_EQ(fetched.arrived, kAll - missing - damaged);
    EXPECT_EQ(rig.arena->used() + rig.frames->used(), 1) << "what failed holds nothing";
    rig.ExpectBytes(1, LayerId{3});
  }
}

TEST(KvPoolTest, WithoutRoomOrTiersAFetchFailsAtOnce) {
  Rig no_tier(50, 50, /*with_tier=*/false);
  no_tier.pool->Fetch(Rig::Id(1), kAll, true);
  EXPECT_EQ(no_tier.AwaitFetched(1)[0].failed, kAll);
  no_tier.pool->Probe(RequestId{5}, {Rig::Id(1)});
  EXPECT_EQ(no_tier.AwaitProbed()[0].blocks, 0);
  Rig no_room(2, 1);
  no_room.Store(1, kAll);
  no_room.pool->Fetch(Rig::Id(1), kAll, /*to_device=*/false);
  EXPECT_EQ(no_room.AwaitFetched(1)[0].failed.size(), 2);
  no_room.pool->Fetch(Rig::Id(1), kAll, /*to_device=*/true);
  EXPECT_EQ(no_room.AwaitFetched(1)[0].failed.size(), 1);
}

TEST(KvPoolTest, ADropDuringAFetchLeavesNothing) {
  for (const bool to_device : {false, true}) {
    Rig rig;
    rig.Store(1, kAll);
    rig.tier->Hold();
    rig.pool->Fetch(Rig::Id(1), kAll, to_device);
    LayerSet dropped;
    dropped.Add(LayerId{3});
    if (to_device) {
      rig.pool->DropDevice(Rig::Id(1), dropped);
    } else {
      rig.pool->DropHost(Rig::Id(1), dropped);
    }
    rig.tier->Answer();
    const KvPool::Fetched fetched = rig.AwaitFetched(1)[0];
    EXPECT_EQ(fetched.failed, dropped);
    EXPECT_EQ(fetched.arrived, kAll - dropped);
    EXPECT_EQ(rig.arena->used() + rig.frames->used(), 2);
  }
}

TEST(KvPoolTest, ASequenceMaySealWhatIsBeingFetched) {
  for (const bool kept : {false, true}) {
    Rig rig;
    rig.Store(1, kAll);
    rig.tier->Hold();
    rig.pool->Fetch(Rig::Id(1), kAll, /*to_device=*/false);
    rig.Seal(1, kept);
    rig.tier->Answer();
    EXPECT_EQ(rig.AwaitFetched(1)[0].arrived, kAll);
    rig.pool->Drain();
    EXPECT_EQ(rig.frames->used(), 3);
    EXPECT_EQ(rig.arena->used(), kept ? 3 : 0);
    kAll.ForEach([&](LayerId l) { rig.ExpectBytes(1, l); });
  }
}

TEST(KvPoolTest, ANewEpochHearsNothingOfTheFormerOne) {
  for (const bool to_device : {false, true}) {
    Rig rig;
    for (uint64_t n = 1; n <= 6; ++n) rig.Store(n, kAll);
    rig.tier->Hold();
    for (uint64_t n = 1; n <= 5; ++n) rig.pool->Fetch(Rig::Id(n), kAll, to_device);
    rig.pool->Probe(RequestId{1}, {Rig::Id(1)});
    rig.pool->Reset();
    EXPECT_EQ(rig.pool->blocks(), 0u);
    EXPECT_EQ(rig.arena->used() + rig.frames->used(), 0) << "what the former epoch was fetching holds room";
    rig.tier->Answer();
    rig.pool->Fetch(Rig::Id(6), kAll, to_device);
    rig.pool->Probe(RequestId{2}, {Rig::Id(6), Rig::Id(3), Rig::Id(99)});
    const std::vector<KvPool::Probed> probed = rig.AwaitProbed();
    ASSERT_EQ(probed.size(), 1u);
    EXPECT_EQ(probed[0].request, RequestId{2});
    EXPECT_EQ(probed[0].blocks, 2);
    const std::vector<KvPool::Fetched> fetched = rig.AwaitFetched(1);
    ASSERT_EQ(fetched.size(), 1u);
    EXPECT_EQ(fetched[0].block, Rig::Id(6));
    EXPECT_EQ(fetched[0].arrived, kAll);
  }
}

}  // namespace
}  // namespace interlace
