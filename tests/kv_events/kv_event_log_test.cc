// Whatever blocks do, and whenever somebody reads: what he believes is what is so.
#include "coordinator/kv_events/kv_event_log.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kv_events/kv_world.h"

namespace interlace {
namespace {

constexpr int32_t kSeeds = 120;

// A reader of the log by number, as gRPC's subscribers are.
struct Follower {
  KvReader reader;
  uint64_t number = 0;
  void Begin(KvEventLog& log) {
    uint64_t before = 0;
    const auto snapshot = log.Snapshot();
    for (const KvEventLog::Batch& part : *snapshot) {
      EXPECT_TRUE(before == 0 || part->number == before + 1);
      before = part->number;
      reader.Read(EncodeAsVllm(*part));
    }
    EXPECT_EQ(before, log.last()) << "live batches would not follow";
    number = log.last();
  }
  // False: it has to begin anew.
  bool Follow(KvEventLog& log) {
    if (!log.Reaches(number)) return false;
    while (const KvEventLog::Batch batch = log.After(number)) {
      EXPECT_EQ(batch->number, number + 1);
      number = batch->number;
      reader.Read(EncodeAsVllm(*batch));
    }
    return true;
  }
};

TEST(KvEventLog, ReadersBelieveWhatIsSo) {
  int64_t told = 0, behind = 0, moved = 0;
  for (int32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    Metrics metrics("test");
    LateExecutor executor;
    const uint64_t first = uint64_t{1700000000} << 20;
    const size_t replicas = seed % 3 == 0 ? 2 : 1;
    KvEventLog log({.first_number = first, .replicas = replicas, .most_batches = 12}, executor, metrics);
    KvWorld one(*entropy, seed, log.observer(0)), other(*entropy, seed, log.observer(replicas - 1));
    std::vector<KvWorld*> worlds = {&one, &other};
    worlds.resize(replicas);
    Follower all, late;
    ASSERT_EQ(log.last(), first);
    all.Begin(log);
    late.Begin(log);
    for (int32_t round = 0; round < 60; ++round) {
      for (int32_t step = Draw(*entropy, 1, 30); step > 0; --step)
        worlds[static_cast<size_t>(Draw(*entropy, 0, 1)) % replicas]->Step();
      EXPECT_LE(executor.waiting(), replicas) << "the replica's thread posts once";
      executor.Run();
      ASSERT_TRUE(all.Follow(log));
      const KvBelief right = KvWorld::Right({worlds.begin(), worlds.end()});
      ASSERT_EQ(all.reader.belief(), right);
      EXPECT_EQ(log.told(), right.size());
      told += static_cast<int64_t>(right.size());
      if (Draw(*entropy, 0, 5) == 0 && !late.Follow(log)) {  // it slept for more than is kept
        ++behind;
        late.Begin(log);
        ASSERT_EQ(late.reader.belief(), right);
      }
      Follower fresh;
      fresh.Begin(log);
      ASSERT_EQ(fresh.reader.belief(), right);
      if (testing::Test::HasFailure()) return;
    }
    moved += static_cast<int64_t>(metrics.Total("interlace_kv_events_total"));
  }
  EXPECT_GT(told, 100 * kSeeds);
  EXPECT_GT(behind, kSeeds / 4);
  EXPECT_GT(moved, 100 * kSeeds);
}

// Nothing of what came and went is kept for one who does not come.
TEST(KvChanges, AreNoMoreThanBlocksHoweverLateTheTakerIs) {
  int32_t wakes = 0;
  KvChanges changes([&] { ++wakes; });
  const std::vector<int32_t> tokens = {1, 2, 3, 4};
  const auto live = [&](uint64_t name, absl::string_view salt) {
    changes.OnSealed({{name, name}, {}, tokens, salt});
    changes.OnStored({name, name}, KvMedium::kDevice);
  };
  const auto die = [&](uint64_t name) {
    changes.OnRemoved({name, name}, KvMedium::kDevice);
    changes.OnErased({name, name});
  };
  for (uint64_t name = 1; name <= 10; ++name) live(name, name % 2 == 0 ? "tenant" : "");
  EXPECT_EQ(changes.Take().changes.size(), 10u);
  EXPECT_EQ(wakes, 1);
  for (uint64_t name = 11; name <= 5000; ++name) {
    live(name, name % 2 == 0 ? "tenant" : "");
    die(name);
  }
  for (uint64_t name = 1; name <= 10; ++name) die(name);
  const KvChangeSet taken = changes.Take();
  EXPECT_EQ(taken.changes.size(), 10u);
  for (const KvChange& change : taken.changes) EXPECT_TRUE(change.erased && !change.text && !change.medium);
  EXPECT_EQ(wakes, 2);
}

TEST(KvEventLog, ALongPromptIsFewEventsAndBatchesStaySmall) {
  Metrics metrics("test");
  LateExecutor executor;
  KvEventLog log({.first_number = 1000}, executor, metrics);
  BlockId parent;
  constexpr uint64_t kBlocks = 20000;
  for (uint64_t b = 1; b <= kBlocks; ++b) {
    const std::vector<int32_t> tokens(32, static_cast<int32_t>(b));
    log.observer().OnSealed({{b, b}, parent, tokens, ""});
    log.observer().OnStored({b, b}, KvMedium::kDevice);
    parent = {b, b};
  }
  executor.Run();
  size_t told = 0, events = 0;
  EXPECT_LT(log.last(), 1000u + 20);
  for (uint64_t n = 1000; n < log.last(); ++n) {
    const KvEventLog::Batch batch = log.After(n);
    for (const KvEvent& event : batch->events) told += event.blocks.size();
    events += batch->events.size();
    EXPECT_LT(EncodeAsVllm(*batch).size(), size_t{1} << 20);
  }
  EXPECT_EQ(told, kBlocks);
  EXPECT_LT(events, 100u);
  EXPECT_GT(log.Snapshot()->size(), 5u);
  const auto snapshot = log.Snapshot();
  EXPECT_EQ(snapshot, log.Snapshot()) << "readers share one";
}

TEST(KvEventLog, WhatIsKeptIsBoundedByMemoryToo) {
  Metrics metrics("test");
  LateExecutor executor;
  KvEventLog log({.first_number = 1, .most_batches = 1000, .most_weight = 2000}, executor, metrics);
  for (uint64_t b = 1; b <= 100; ++b) {
    const std::vector<int32_t> tokens(100, 7);
    log.observer().OnSealed({{b, b}, {}, tokens, ""});
    log.observer().OnStored({b, b}, KvMedium::kDevice);
    executor.Run();
  }
  EXPECT_EQ(log.last(), 101u);
  EXPECT_FALSE(log.Reaches(50));
  EXPECT_TRUE(log.Reaches(95));
  EXPECT_FALSE(log.Reaches(102)) << "a number that was not given";
  EXPECT_EQ(log.From(100).size(), 2u);
  EXPECT_TRUE(log.From(102).empty());
  EXPECT_EQ(log.From(0).back()->number, 101u);
}

}  // namespace
}  // namespace interlace
