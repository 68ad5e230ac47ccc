// A trace as load: rates, copies and prompts.
#include "bench/policy/scale_load.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

namespace interlace {
namespace {

constexpr int32_t kBlock = 512;

std::vector<TraceRow> Trace() {
  return {{.due = absl::Seconds(5), .input = 1000, .output = 10, .blocks = {0, 1}},
          {.due = absl::Seconds(6), .input = 1500, .output = 20, .blocks = {0, 1, 2}},
          {.due = absl::Seconds(6), .input = 700, .output = 30, .blocks = {0, 3}},
          {.due = absl::Seconds(15), .input = 100, .output = 40, .blocks = {4}}};
}

size_t SharedTokens(const TraceRow& a, const TraceRow& b) {
  const std::vector<int32_t> x = PromptOf(a, kBlock, 1 << 30), y = PromptOf(b, kBlock, (1 << 30) + 1);
  size_t same = 0;
  while (same < x.size() && same < y.size() && x[same] == y[same]) ++same;
  return same;
}

TEST(ScaleLoad, ComesAtTheRateAndKeepsItsBursts) {
  const ScaleLoad load = LoadOf(Trace(), 4, 0.5, kBlock);
  ASSERT_EQ(load.requests.size(), 4u);
  // Three gaps at one request in two seconds; 1 : 0 : 9 as in the trace.
  EXPECT_EQ(load.requests[0].due, absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleSeconds(load.requests[3].due), 6, 1e-6);
  EXPECT_NEAR(absl::ToDoubleSeconds(load.requests[1].due), 0.6, 1e-6);
  EXPECT_EQ(load.requests[1].due, load.requests[2].due);
}

TEST(ScaleLoad, AllAtOnce) {
  for (const TraceRow& r : LoadOf(Trace(), 4, std::numeric_limits<double>::infinity(), kBlock).requests) {
    EXPECT_EQ(r.due, absl::ZeroDuration());
  }
}

TEST(ScaleLoad, CopiesAreOtherUsers) {
  const ScaleLoad load = LoadOf(Trace(), 10, 1, kBlock);
  std::set<int64_t> seen;
  for (size_t copy = 0; copy * 4 < 10; ++copy) {
    std::set<int64_t> own;
    for (size_t i = copy * 4; i < std::min<size_t>(10, copy * 4 + 4); ++i) {
      own.insert(load.requests[i].blocks.begin(), load.requests[i].blocks.end());
    }
    for (int64_t id : own) EXPECT_TRUE(seen.insert(id).second) << id;
  }
  for (size_t i = 1; i < load.requests.size(); ++i) EXPECT_GE(load.requests[i].due, load.requests[i - 1].due);
  EXPECT_EQ(SharedTokens(load.requests[4], load.requests[5]), 1000u);  // the shorter one, whole
  EXPECT_EQ(SharedTokens(load.requests[0], load.requests[4]), 0u);
}

TEST(ScaleLoad, EqualIdsAreEqualTokens) {
  const std::vector<TraceRow> rows = Trace();
  for (const TraceRow& row : rows) EXPECT_EQ(PromptOf(row, kBlock, 9).size(), static_cast<size_t>(row.input));
  EXPECT_EQ(SharedTokens(rows[0], rows[1]), 1000u);
  EXPECT_EQ(SharedTokens(rows[1], rows[2]), 512u);
  EXPECT_EQ(SharedTokens(rows[0], rows[3]), 0u);
}

TEST(ScaleLoad, WhatNoBlockCoversIsThePromptsOwn) {
  const TraceRow row = {.due = {}, .input = 600, .output = 1, .blocks = {7}};
  EXPECT_EQ(SharedTokens(row, row), 512u);
}

TEST(ScaleLoad, TheCeilingCountsWhatCameBefore) {
  // 1000 of 1500 (two blocks are 1024, both known), 512 of 700, nothing of 100.
  EXPECT_NEAR(LoadOf(Trace(), 4, 1, kBlock).hit_ceiling, (1024.0 + 512) / 3300, 1e-9);
  EXPECT_EQ(LoadOf(Trace(), 1, 1, kBlock).hit_ceiling, 0);
}

}  // namespace
}  // namespace interlace
