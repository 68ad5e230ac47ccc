#include "kvstore/remote/leased_blocks.h"

#include <gtest/gtest.h>

#include <map>

#include "common/entropy.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/scripted_tier.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::_;

struct Store {
  ScriptedTier* first = nullptr;
  ScriptedTier* second = nullptr;
  std::unique_ptr<LeasedBlocks> blocks;
  Store() {
    std::vector<std::unique_ptr<KvTier>> tiers;
    tiers.push_back(std::make_unique<ScriptedTier>("first"));
    tiers.push_back(std::make_unique<ScriptedTier>("second"));
    first = static_cast<ScriptedTier*>(tiers[0].get());
    second = static_cast<ScriptedTier*>(tiers[1].get());
    blocks = std::make_unique<LeasedBlocks>(std::move(tiers), MakeSeededEntropy(1));
  }
};

SharedBytes Bytes(std::string text) { return std::make_shared<const std::string>(std::move(text)); }

// The scripted tiers answer before the call returns, unless told to hold.
std::vector<absl::Status> Write(Store& store, LeaseId lease, std::vector<StoredBlock> blocks) {
  std::vector<absl::Status> got;
  EXPECT_TRUE(store.blocks->Write(lease, std::move(blocks), [&](std::vector<absl::Status> s) { got = std::move(s); }));
  return got;
}
std::vector<std::string> Read(Store& store, LeaseId lease, const std::vector<BlockKey>& keys) {
  std::vector<std::string> got;
  EXPECT_TRUE(store.blocks->Read(lease, keys, [&](std::vector<absl::StatusOr<SharedBytes>> answers) {
    for (const auto& answer : answers) got.push_back(answer.ok() ? **answer : answer.status().ToString().substr(0, 9));
  }));
  return got;
}
constexpr char kMissing[] = "NOT_FOUND";

TEST(LeasedBlocks, TwoClientsMayUseTheSameKeys) {
  Store store;
  const LeaseId a = store.blocks->OpenLease(), b = store.blocks->OpenLease();
  ASSERT_NE(a, b);
  const BlockKey key = Key(1, 2, 3);
  ASSERT_OK(Write(store, a, {{key, Bytes("of a")}})[0]);
  EXPECT_EQ(Read(store, b, {key})[0], kMissing);
  ASSERT_OK(Write(store, b, {{key, Bytes("of b")}})[0]);
  EXPECT_EQ(Read(store, a, {key})[0], "of a");
  ASSERT_TRUE(store.blocks->Drop(a, Generation{1}));
  EXPECT_EQ(Read(store, a, {key})[0], kMissing);
  EXPECT_EQ(Read(store, b, {key})[0], "of b");
}

TEST(LeasedBlocks, WhatTheFirstTierRefusesGoesToTheSecond) {
  Store store;
  const LeaseId lease = store.blocks->OpenLease();
  ASSERT_OK(Write(store, lease, {{Key(1, 0, 0), Bytes("early")}})[0]);
  store.first->Refuse(absl::ResourceExhaustedError("full"));
  for (const absl::Status& status :
       Write(store, lease, {{Key(1, 0, 1), Bytes("late")}, {Key(2, 0, 0), Bytes("later")}})) {
    EXPECT_OK(status);
  }
  EXPECT_EQ(store.second->stored().size(), 2u);
  EXPECT_EQ(Read(store, lease, {Key(1, 0, 1), Key(1, 0, 0), Key(9, 0, 0), Key(2, 0, 0)}),
            (std::vector<std::string>{"late", "early", kMissing, "later"}));
  store.second->Refuse(absl::ResourceExhaustedError("full too"));
  EXPECT_THAT(Write(store, lease, {{Key(3, 0, 0), Bytes("x")}})[0], StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_EQ(store.blocks->UsageOf(lease).blocks, 3);
  EXPECT_EQ(store.blocks->UsageOf(lease).bytes, 14);
}

TEST(LeasedBlocks, ClosingALeaseDropsAllOfItAndNothingElse) {
  Store store;
  const LeaseId a = store.blocks->OpenLease(), b = store.blocks->OpenLease();
  for (uint64_t g = 1; g <= 3; ++g) {
    ASSERT_OK(Write(store, a, {{Key(g, 0, 0), Bytes("a")}})[0]);
    ASSERT_OK(Write(store, b, {{Key(g, 0, 0), Bytes("b")}})[0]);
  }
  EXPECT_EQ(store.blocks->leases(), 2);
  store.blocks->CloseLease(a);
  EXPECT_EQ(store.blocks->leases(), 1);
  EXPECT_EQ(store.first->stored().size(), 3u);
  EXPECT_EQ(store.blocks->UsageOf(a).blocks, 0);
  EXPECT_FALSE(store.blocks->Write(a, {{Key(1, 0, 0), Bytes("x")}}, [](auto) { FAIL(); }));
  EXPECT_FALSE(store.blocks->Read(a, {Key(1, 0, 0)}, [](auto) { FAIL(); }));
  EXPECT_FALSE(store.blocks->Drop(a, Generation{1}));
  EXPECT_EQ(Read(store, b, {Key(2, 0, 0)})[0], "b");
}

// A block that lands after its generation was dropped, by name or with its lease, does not stay.
TEST(LeasedBlocks, WritesThatLandLateAreDropped) {
  for (const bool close : {false, true}) {
    Store store;
    const LeaseId lease = store.blocks->OpenLease();
    store.first->Hold();
    std::vector<absl::Status> first, second;
    ASSERT_TRUE(store.blocks->Write(lease, {{Key(1, 0, 0), Bytes("old")}}, [&](auto s) { first = std::move(s); }));
    ASSERT_TRUE(store.blocks->Write(lease, {{Key(1, 0, 1), Bytes("old")}}, [&](auto s) { second = std::move(s); }));
    if (close) {
      store.blocks->CloseLease(lease);
    } else {
      ASSERT_TRUE(store.blocks->Drop(lease, Generation{1}));
    }
    EXPECT_TRUE(store.first->drops().empty()) << "a drop must not race with writes";
    store.first->Answer();
    ASSERT_EQ(first.size(), 1u);
    EXPECT_FALSE(first[0].ok());
    EXPECT_EQ(store.first->stored().size(), 1u);
    store.first->Release();
    ASSERT_EQ(second.size(), 1u);
    EXPECT_TRUE(store.first->stored().empty());
    EXPECT_EQ(store.blocks->UsageOf(lease).bytes, 0);
  }
}

TEST(LeasedBlocks, ADroppedGenerationMayBeWrittenAgainAtOnce) {
  Store store;
  const LeaseId lease = store.blocks->OpenLease();
  store.first->Hold();
  ASSERT_TRUE(store.blocks->Write(lease, {{Key(1, 0, 0), Bytes("old")}}, [](auto) {}));
  ASSERT_TRUE(store.blocks->Drop(lease, Generation{1}));
  ASSERT_TRUE(store.blocks->Write(lease, {{Key(1, 0, 0), Bytes("new")}}, [](auto) {}));
  store.first->Release();
  EXPECT_EQ(Read(store, lease, {Key(1, 0, 0)})[0], "new");
  EXPECT_EQ(store.first->stored().size(), 1u);
}

// Random writes, drops and reads of three clients agree with a map.
TEST(LeasedBlocks, AgreesWithAMap) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto entropy = MakeSeededEntropy(seed);
    Store store;
    std::vector<LeaseId> leases;
    for (int i = 0; i < 3; ++i) leases.push_back(store.blocks->OpenLease());
    std::vector<std::map<std::string, std::string>> model(leases.size());
    for (int step = 0; step < 300; ++step) {
      const size_t c = entropy->Next() % leases.size();
      const BlockKey key = Key(entropy->Next() % 4, static_cast<int32_t>(entropy->Next() % 2), entropy->Next() % 4);
      switch (entropy->Next() % 8) {
        case 0:
          ASSERT_TRUE(store.blocks->Drop(leases[c], key.generation));
          std::erase_if(model[c], [&](const auto& entry) {
            BlockKey held;
            return DecodeKey(entry.first, &held) && held.generation == key.generation;
          });
          break;
        case 1:
          store.first->Refuse(step % 2 ? absl::OkStatus() : absl::ResourceExhaustedError("full"));
          break;
        case 2:
        case 3:
        case 4: {
          const std::string text(1 + entropy->Next() % 50, static_cast<char>('a' + step % 26));
          ASSERT_OK(Write(store, leases[c], {{key, Bytes(text)}})[0]);
          model[c][EncodeKey(key)] = text;
          break;
        }
        default: {
          const auto held = model[c].find(EncodeKey(key));
          EXPECT_EQ(Read(store, leases[c], {key})[0], held == model[c].end() ? kMissing : held->second);
        }
      }
      int64_t bytes = 0;
      for (const auto& [name, text] : model[c]) bytes += static_cast<int64_t>(text.size());
      EXPECT_EQ(store.blocks->UsageOf(leases[c]).bytes, bytes);
      EXPECT_EQ(store.blocks->UsageOf(leases[c]).blocks, static_cast<int64_t>(model[c].size()));
    }
  }
}

}  // namespace
}  // namespace interlace
