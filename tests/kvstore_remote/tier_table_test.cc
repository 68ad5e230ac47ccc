// The table of tiers. That every entry of it runs tier_conformance is checked here, too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvstore/tier/tiers.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::HasSubstr;

TEST(TierTable, NamesAreChecked) {
  EXPECT_EQ(*ParseTierNames("rocksdb,remote"), (std::vector<std::string>{"rocksdb", "remote"}));
  EXPECT_TRUE(ParseTierNames("")->empty());
  EXPECT_TRUE(ParseTierNames("none")->empty());
  for (const absl::string_view bad :
       {"remote,remote", ",", "rocksdb,", "rocksdb,,remote", "host", "rocksdb,tape", "memory"}) {
    EXPECT_THAT(ParseTierNames(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.tiers"))) << bad;
  }
}

TEST(TierTable, UnknownNamesListTheKnownOnes) {
  EXPECT_EQ(TierNames(), (std::vector<absl::string_view>{"remote", "rocksdb"}))
      << "a new tier needs an INSTANTIATE_TEST_SUITE_P of TierConformance";
  EXPECT_THAT(MakeTier("tape", {}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("remote, rocksdb")));
  EXPECT_THAT(MakeTier("rocksdb", {}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_dir")));
}

}  // namespace
}  // namespace interlace
