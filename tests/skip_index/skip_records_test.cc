// What an index tells a file or another coordinator comes back the same, follows what changes, and is refused whole if
// anything of it is not as it was.
#include "coordinator/skip_index/skip_records.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/skip_index/skip_index.h"
#include "tests/skip_index/key_cloud.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 12, kWidth = 16;
const SkipOrigin kOrigin{"model", kLayers, kWidth};

SkipIndex Made() { return SkipIndex(SkipIndex::Options{"model", kLayers, kWidth, 1 << 20}); }

void Change(SkipIndex& index, Entropy& entropy, std::vector<uint64_t>* entries) {
  const SkipScope scope{entropy.Next() % 3, 5};
  const auto any = [&] { return (*entries)[entropy.Next() % entries->size()]; };
  switch (entropy.Next() % 6) {
    case 0:
      return index.SetStatic(scope, RandomPlan(entropy, kLayers, 0.4), Acceptance(100, 70));
    case 1:
      return index.Remove(any());
    case 2: {
      const double tried = static_cast<double>(entropy.Next() % 50);
      return index.Note(any(), {0.5F, static_cast<float>(Uniform(entropy)), true, tried, tried * Uniform(entropy),
                                Uniform(entropy), Uniform(entropy) < 0.8});
    }
    case 3:
      index.Lookup(scope, RandomKey(entropy, kWidth), {.layers = kLayers}, 1, Uniform(entropy));
      return;
    default:
      entries->push_back(
          index.Insert(scope, RandomKey(entropy, kWidth), RandomPlan(entropy, kLayers, 0.4), Acceptance(50, 40)));
  }
}

SkipIndex Filled(uint64_t seed, int changes = 200) {
  const auto entropy = MakeSeededEntropy(seed);
  SkipIndex index = Made();
  std::vector<uint64_t> entries = {index.Insert({1, 5}, RandomKey(*entropy, kWidth), {}, Acceptance(50, 40))};
  for (int i = 0; i < changes; ++i) Change(index, *entropy, &entries);
  return index;
}

// All entries and static plans, in a fixed order; what was seen of keys is not told at once.
SkipRecords PictureOf(const SkipIndex& index) {
  SkipRecords records = index.Changes({}, size_t{1} << 30);
  std::sort(records.entries.begin(), records.entries.end(),
            [](const auto& a, const auto& b) { return a.entry.id < b.entry.id; });
  std::sort(records.scopes.begin(), records.scopes.end(),
            [](const auto& a, const auto& b) { return a.scope < b.scope; });
  for (SkipScopeRecord& scope : records.scopes) {
    scope.seen = 0;
    scope.sum.clear();
  }
  records.until = {};
  records.removed.clear();
  return records;
}

TEST(SkipRecordsTest, RecordsComeBackAsTheyWere) {
  const SkipIndex index = Filled(1);
  const SkipRecords records = index.Changes({}, size_t{1} << 30);
  ASSERT_GT(records.entries.size(), 10u);
  ASSERT_GT(records.scopes.size(), 0u);
  const absl::StatusOr<SkipRecords> back = DecodeSkips(EncodeSkips(records, kOrigin), kOrigin);
  ASSERT_OK(back);
  EXPECT_EQ(*back, records);
  SkipIndex other = Made();
  ASSERT_OK(other.Take(*back));
  EXPECT_EQ(PictureOf(other), PictureOf(index));
}

TEST(SkipRecordsTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::string bytes = EncodeSkips(Filled(2, 12).Changes({}, size_t{1} << 30), kOrigin);
  ASSERT_OK(DecodeSkips(bytes, kOrigin));
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_FALSE(DecodeSkips(absl::string_view(bytes).substr(0, size), kOrigin).ok()) << size;
  }
  std::string damaged = bytes;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    ASSERT_FALSE(DecodeSkips(damaged, kOrigin).ok()) << bit;
    damaged[bit / 8] = bytes[bit / 8];
  }
  EXPECT_FALSE(DecodeSkips(bytes + "x", kOrigin).ok());
}

TEST(SkipRecordsTest, OthersAreRefusedByName) {
  const SkipRecords records = Filled(3, 20).Changes({}, size_t{1} << 30);
  const std::string bytes = EncodeSkips(records, kOrigin);
  for (const SkipOrigin& other : {SkipOrigin{"other", kLayers, kWidth}, SkipOrigin{"model", kLayers + 1, kWidth},
                                  SkipOrigin{"model", kLayers, kWidth * 2}}) {
    EXPECT_THAT(DecodeSkips(bytes, other),
                StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::HasSubstr("it is of model model")));
  }
  EXPECT_THAT(DecodeSkips("interlace-costs 1\n", kOrigin),
              StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::HasSubstr("interlace-skips")));
  EXPECT_THAT(DecodeSkips("", kOrigin), StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::_));
}

// A plan that is well formed, for more layers than the model has.
TEST(SkipRecordsTest, PlansForAnotherModelAreRefused) {
  SkipRecords records;
  records.entries.push_back({{.id = 1, .plan = SkipPlan::Evenly(30, 20)}, std::vector<float>(kWidth, 0.25F)});
  EXPECT_THAT(DecodeSkips(EncodeSkips(records, kOrigin), kOrigin), StatusIs(absl::StatusCode::kDataLoss, ::testing::_));
  EXPECT_THAT(Made().Take(records), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  records.entries[0].entry.plan = {};
  EXPECT_OK(DecodeSkips(EncodeSkips(records, kOrigin), kOrigin));
  records.entries[0].key.assign(kWidth, 0.5F);  // no length of 1
  EXPECT_FALSE(DecodeSkips(EncodeSkips(records, kOrigin), kOrigin).ok());
}

// A standby that asks for what changed, in slices, has what the leader has.
TEST(SkipRecordsTest, AFollowerHasWhatTheLeaderHas) {
  const auto entropy = MakeSeededEntropy(4);
  SkipIndex leader = Made(), follower = Made();
  std::vector<uint64_t> entries = {leader.Insert({1, 5}, RandomKey(*entropy, kWidth), {}, Acceptance(50, 40))};
  SkipCursor since;
  int wholes = 0;
  const auto follow = [&] {
    bool more = true;
    while (more) {
      const SkipRecords records = leader.Changes(since, 2000);
      wholes += records.whole ? 1 : 0;
      const auto decoded = DecodeSkips(EncodeSkips(records, kOrigin), kOrigin);
      ASSERT_OK(decoded);
      ASSERT_OK(follower.Take(*decoded));
      since = records.until;
      more = records.more;
    }
  };
  for (int round = 0; round < 60; ++round) {
    const auto changes = static_cast<int>(entropy->Next() % 40);
    for (int i = 0; i < changes; ++i) Change(leader, *entropy, &entries);
    follow();
    ASSERT_EQ(PictureOf(follower), PictureOf(leader)) << round;
  }
  EXPECT_EQ(wholes, 1);
  // Someone who was away for longer than removals are remembered gets everything.
  for (size_t i = 0; i < SkipIndex::kMostRemovals + 10; ++i) {
    leader.Remove(leader.Insert({1, 5}, RandomKey(*entropy, kWidth), {}, Acceptance(50, 40)));
  }
  follow();
  EXPECT_EQ(wholes, 2);
  EXPECT_EQ(PictureOf(follower), PictureOf(leader));
  leader.Clear();
  follow();
  EXPECT_EQ(follower.counts().entries, 0);
}

TEST(SkipRecordsTest, AFollowerNamesItsOwnEntriesBehindThoseItTook) {
  const SkipIndex leader = Filled(5);
  SkipIndex follower = Made();
  const SkipRecords records = leader.Changes({}, size_t{1} << 30);
  ASSERT_OK(follower.Take(records));
  const uint64_t own = follower.Insert({1, 5}, records.entries[0].key, {}, Acceptance(50, 40));
  for (const SkipEntryRecord& record : records.entries) EXPECT_LT(record.entry.id, own);
}

}  // namespace
}  // namespace interlace
