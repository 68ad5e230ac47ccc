#include "coordinator/election/lead_record.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(LeadRecordTest, ReadsWhatItWrites) {
  const LeadRecord record{.epoch = 1'800'000'000,
                          .holder = "0123456789abcdef",
                          .renewals = 17,
                          .lease = absl::Milliseconds(1500),
                          .http = "[::1]:8000",
                          .grpc = "host-1.example:50051",
                          .drained = {0, 3}};
  const absl::StatusOr<LeadRecord> read = DecodeLeadRecord(EncodeLeadRecord(record));
  ASSERT_OK(read);
  EXPECT_EQ(*read, record);
}

TEST(LeadRecordTest, WhatIsNoRecordIsRefused) {
  const std::string good =
      EncodeLeadRecord({.epoch = 1, .holder = "h", .lease = absl::Seconds(1), .http = "a", .grpc = "b"});
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_THAT(DecodeLeadRecord(good.substr(0, length)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no record")))
        << length;
  }
  for (const char* text :
       {"", "{}", "[]", "7", "{\"epoch\":-1}", "{\"epoch\":1,\"renewals\":1,\"lease_ms\":\"x\"}", "\xff"}) {
    EXPECT_THAT(DecodeLeadRecord(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no record"))) << text;
  }
  for (const char* drained : {"1", "[-1]", "[\"1\"]", "[99999999999]", "{\"1\":1}"}) {
    const std::string text = absl::StrCat(good.substr(0, good.size() - 1), ",\"drained\":", drained, "}");
    EXPECT_THAT(DecodeLeadRecord(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no record"))) << text;
  }
  EXPECT_OK(DecodeLeadRecord(good.substr(0, good.size() - 1) + ",\"of a later version\":true}"));
}

}  // namespace
}  // namespace interlace
