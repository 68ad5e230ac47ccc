// Matchers for absl::Status, which the packaged abseil lacks.
#pragma once

#include <gmock/gmock.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace interlace {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}
// StatusIs(code, matcher of the message)
MATCHER_P2(StatusIs, code, message, "has the code and a message that matches") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()), result_listener);
}

#define ASSERT_OK(expr) ASSERT_THAT(expr, ::interlace::IsOk())
#define EXPECT_OK(expr) EXPECT_THAT(expr, ::interlace::IsOk())

}  // namespace interlace
