// Plans: arrivals, datasets and what each request is given, together.
#include "bench/serve/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<PlannedRequest> All(const LoadPlanSpec& spec) {
  absl::StatusOr<std::unique_ptr<LoadPlan>> plan = LoadPlan::Make(spec);
  EXPECT_TRUE(plan.ok()) << plan.status();
  std::vector<PlannedRequest> all;
  while (auto turns = (*plan)->Next()) all.insert(all.end(), turns->begin(), turns->end());
  return all;
}

LoadPlanSpec Basic() {
  LoadPlanSpec spec;
  spec.arrivals.rate = 10;
  spec.requests = 500;
  spec.dataset.input = {.a = 3};
  spec.dataset.output = {.a = 20};
  spec.seed = 3;
  return spec;
}

TEST(LoadPlan, TheSameSeedGivesTheSameRequests) {
  LoadPlanSpec spec = Basic();
  spec.tenants = *ParseWeighted("--tenants", "a:3,b:1");
  spec.cancel_percent = 20;
  const auto print = [](const std::vector<PlannedRequest>& all) {
    std::vector<std::string> lines;
    for (const PlannedRequest& r : all) {
      lines.push_back(absl::StrCat(r.index, " ", absl::FormatDuration(r.due), " ", r.prompt_ids[0], " ", r.tenant, " ",
                                   r.cancel_after_tokens));
    }
    return lines;
  };
  EXPECT_EQ(print(All(spec)), print(All(spec)));
  LoadPlanSpec other = spec;
  other.seed = 4;
  EXPECT_NE(print(All(spec)), print(All(other)));
}

TEST(LoadPlan, ARateChangesTimesAlone) {
  LoadPlanSpec slow = Basic(), fast = Basic();
  fast.arrivals.rate = 30;
  const std::vector<PlannedRequest> a = All(slow), b = All(fast);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].prompt_ids, b[i].prompt_ids);
    EXPECT_NEAR(absl::ToDoubleSeconds(a[i].due), 3 * absl::ToDoubleSeconds(b[i].due), 1e-6);
  }
}

TEST(LoadPlan, EndsByRequestsOrByTime) {
  LoadPlanSpec spec = Basic();
  spec.dataset.turns = 3;
  const std::vector<PlannedRequest> by_count = All(spec);
  ASSERT_THAT(by_count, SizeIs(500)) << "turns count, and the last session is cut";
  for (size_t i = 0; i < by_count.size(); ++i) EXPECT_EQ(by_count[i].index, static_cast<int64_t>(i));
  spec = Basic();
  spec.requests = 0;
  spec.duration = absl::Seconds(20);
  const std::vector<PlannedRequest> by_time = All(spec);
  EXPECT_NEAR(static_cast<double>(by_time.size()), 200, 60);
  EXPECT_LT(by_time.back().due, absl::Seconds(20));
  spec.duration = absl::ZeroDuration();
  EXPECT_THAT(LoadPlan::Make(spec).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--requests")));
}

TEST(LoadPlan, SharesFollowTheWeights) {
  LoadPlanSpec spec = Basic();
  spec.requests = 20000;
  spec.tenants = *ParseWeighted("--tenants", "free:3,paid:1");
  spec.priorities = *ParseWeightedNumbers("--priorities", "0:9,-5:1");
  spec.cancel_percent = 10;
  spec.targets.ttft = absl::Seconds(1);
  std::map<std::string, int> tenants;
  std::map<int, int> priorities;
  int cancelled = 0;
  for (const PlannedRequest& request : All(spec)) {
    ++tenants[request.tenant];
    ++priorities[request.priority];
    EXPECT_EQ(request.targets, spec.targets);
    if (request.cancel_after_tokens < 0) continue;
    ++cancelled;
    EXPECT_GE(request.cancel_after_tokens, 1);
    EXPECT_LE(request.cancel_after_tokens, 20);
  }
  EXPECT_NEAR(tenants["free"], 15000, 400);
  EXPECT_NEAR(tenants["paid"], 5000, 400);
  EXPECT_NEAR(priorities[-5], 2000, 250);
  EXPECT_NEAR(cancelled, 2000, 250);
}

TEST(LoadPlan, ThinkTimesAreExponential) {
  LoadPlanSpec spec = Basic();
  spec.requests = 20000;
  spec.dataset.turns = 2;
  spec.dataset.think = absl::Seconds(3);
  double sum = 0, squares = 0, count = 0;
  for (const PlannedRequest& request : All(spec)) {
    if (request.turn == 0) continue;
    const double think = absl::ToDoubleSeconds(request.think);
    sum += think;
    squares += think * think;
    ++count;
  }
  const double mean = sum / count;
  EXPECT_NEAR(mean, 3, 0.15);
  EXPECT_NEAR(std::sqrt(squares / count - mean * mean), 3, 0.2);
}

TEST(LoadPlan, ATraceHasItsOwnTimesOrThoseOfAProcess) {
  const std::string path = ::testing::TempDir() + "/load_plan_test_trace";
  std::ofstream(path) << R"({"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1]})"
                      << "\n"
                      << R"({"timestamp": 8000, "input_length": 6, "output_length": 2, "hash_ids": [1]})"
                      << "\n";
  LoadPlanSpec spec = Basic();
  spec.requests = 0;
  ASSERT_OK(ParseDatasetName("mooncake:" + path, &spec.dataset));
  spec.arrivals.process = "trace";
  spec.dataset.time_scale = 0.5;
  const std::vector<PlannedRequest> traced = All(spec);
  ASSERT_THAT(traced, SizeIs(2));
  EXPECT_EQ(traced[1].due, absl::Seconds(4));
  spec.arrivals.process = "constant";
  EXPECT_EQ(All(spec)[1].due, absl::Seconds(0.1));
  spec = Basic();
  spec.arrivals.process = "trace";
  EXPECT_THAT(LoadPlan::Make(spec).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("mooncake")));
}

TEST(LoadPlan, ErrorsNameTheFlag) {
  LoadPlanSpec spec = Basic();
  spec.cancel_percent = 101;
  EXPECT_THAT(LoadPlan::Make(spec).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--cancel-percent")));
  for (const char* text : {"a:0", "a:-1", ":3", "a:x", "a\tb", "a:inf"}) {
    EXPECT_THAT(ParseWeighted("--tenants", text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tenants")))
        << text;
  }
  EXPECT_THAT(ParseWeightedNumbers("--priorities", "high:1"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--priorities")));
}

}  // namespace
}  // namespace interlace
