// What a cost model has learned, kept and read again.
#include "coordinator/learned_costs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "common/state_file.h"
#include "coordinator/cost_file.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/kvstore/folder.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

CostModel Taught(uint64_t seed, int32_t steps = 100) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  CostModel model;
  for (int32_t i = 0; i < steps; ++i) {
    const StepWork work = StepWork().Add(Draw(*entropy, 0, 2000), Draw(*entropy, 1, 256));
    model.Observe(work, absl::Microseconds(1000 + 300 * work.rows + Draw(*entropy, 0, 500)));
    model.ObserveTransfer(Route::kIn, Draw(*entropy, 1, 1 << 20), absl::Microseconds(Draw(*entropy, 1, 1000)));
  }
  return model;
}

TEST(LearnedCosts, ComeBackToTheLastBit) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    LearnedCosts costs;
    for (int i = 0; i < 3; ++i) costs.Put(absl::StrCat("model", i), Taught(3 * seed + i));
    const absl::StatusOr<LearnedCosts> back = LearnedCosts::Parse(costs.Print());
    ASSERT_OK(back);
    EXPECT_EQ(back->Print(), costs.Print());
    EXPECT_EQ(back->size(), 3u);
    EXPECT_EQ(back->Find("another"), nullptr);
    for (int i = 0; i < 3; ++i) {
      const CostModel* loaded = back->Find(absl::StrCat("model", i));
      ASSERT_NE(loaded, nullptr);
      CostModel went_on = *loaded, original = Taught(3 * seed + i);
      EXPECT_TRUE(loaded->known());
      EXPECT_EQ(loaded->Save(), original.Save());
      EXPECT_EQ(loaded->ToString(), original.ToString());
      // And it learns on as the one would that was never saved.
      const StepWork work = StepWork().Add(100, 7);
      went_on.Observe(work, absl::Milliseconds(7));
      original.Observe(work, absl::Milliseconds(7));
      EXPECT_EQ(went_on.Expect(work), original.Expect(work));
    }
  }
}

TEST(LearnedCosts, OfManyTheLastOnesStay) {
  LearnedCosts costs;
  for (size_t i = 0; i < LearnedCosts::kMost + 3; ++i) costs.Put(absl::StrCat("m", i), Taught(1));
  costs.Put("m10", Taught(2));
  EXPECT_EQ(costs.size(), LearnedCosts::kMost);
  EXPECT_EQ(costs.Find("m2"), nullptr);
  EXPECT_NE(costs.Find("m3"), nullptr);
  EXPECT_EQ(costs.latest(), costs.Find("m10"));
}

// Any byte of it changed, anything cut off or added: it is refused, or says what it said.
TEST(LearnedCosts, DamageIsFound) {
  LearnedCosts costs;
  costs.Put("a", Taught(1));
  costs.Put("b", Taught(2));
  const std::string text = costs.Print();
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(7);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text;
    const size_t at = entropy->Next() % text.size();
    if (i % 3 == 0) {
      damaged.resize(at);
    } else if (i % 3 == 1) {
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << entropy->Next() % 8));
    } else {
      damaged.insert(at, 1, static_cast<char>(entropy->Next()));
    }
    const absl::StatusOr<LearnedCosts> read = LearnedCosts::Parse(damaged);
    if (!read.ok()) continue;
    for (const char* key : {"a", "b"}) {  // a whole line may be missing
      if (read->Find(key) == nullptr) continue;
      EXPECT_EQ(read->Find(key)->Save(), costs.Find(key)->Save()) << damaged;
    }
    EXPECT_LE(read->size(), 2u);
  }
  EXPECT_EQ(LearnedCosts::Parse("# my configuration\n").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(LearnedCosts::Parse("").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(LearnedCosts, NumbersThatNoModelSavedAreNone) {
  const std::vector<double> good = Taught(1).Save();
  ASSERT_TRUE(CostModel::Load(good));
  for (size_t i = 0; i < good.size(); ++i) {
    for (const double bad : {-1.0, std::nan(""), std::numeric_limits<double>::infinity(), 1e300}) {
      std::vector<double> numbers = good;
      numbers[i] = bad;
      EXPECT_FALSE(CostModel::Load(numbers)) << i << " " << bad;
    }
  }
  EXPECT_FALSE(CostModel::Load({}));
  EXPECT_FALSE(CostModel::Load(absl::MakeConstSpan(good).subspan(1)));
}

TEST(LearnedCosts, TheKeyIsWhatTimesDependOn) {
  const std::vector<RankInfo> ranks = MakeRanks(4, 2, 8, 100, 10);
  const std::string key = CostKey(ranks);
  std::vector<RankInfo> others = ranks;
  others[1].incarnation = 99;
  others[1].device_slots = 7;
  others[0].transport_address = "elsewhere";
  EXPECT_EQ(CostKey(others), key);
  void (*const changes[])(RankInfo&) = {
      [](RankInfo& r) { r.model_digest = "another"; }, [](RankInfo& r) { r.numerics = "another"; },
      [](RankInfo& r) { r.dtype = "another"; },        [](RankInfo& r) { r.threads = 77; },
      [](RankInfo& r) { r.block_tokens = 77; },        [](RankInfo& r) { r.layer_end = 1; }};
  for (const auto& change : changes) {
    others = ranks;
    change(others[0]);
    EXPECT_NE(CostKey(others), key);
  }
  EXPECT_NE(CostKey(absl::MakeConstSpan(ranks).first(1)), key);
  others = ranks;
  others[0].model_digest = "two words\nand a line";
  LearnedCosts costs;
  costs.Put(CostKey(others), Taught(1));
  ASSERT_OK(LearnedCosts::Parse(costs.Print()));
  EXPECT_NE(LearnedCosts::Parse(costs.Print())->Find(CostKey(others)), nullptr);
}

TEST(CostFile, KeepsWhatWasLearnedAndTouchesNoFileOfOthers) {
  std::vector<std::string> warnings;
  SetLogSink([&](const LogEvent& event) { warnings.push_back(event.text); }, LogLevel::kWarning);
  const Folder folder;
  std::filesystem::create_directories(folder.path());
  const std::string path = folder.path() + "/costs";
  LearnedCosts costs;
  costs.Put("a", Taught(1));
  {
    CostFile file(path);
    EXPECT_EQ(file.Read().size(), 0u);
    file.Keep(costs);
    EXPECT_EQ(CostFile(path).Read().Print(), costs.Print());
    EXPECT_TRUE(warnings.empty());
  }
  // Damaged: a warning, and written anew.
  std::string text = costs.Print();
  text[text.size() / 2] ^= 1;
  ASSERT_OK(ReplaceStateFile(path, text));
  {
    CostFile file(path);
    EXPECT_EQ(file.Read().size(), 0u);
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_THAT(warnings[0], HasSubstr("damaged"));
    file.Keep(costs);
    EXPECT_EQ(CostFile(path).Read().Print(), costs.Print());
  }
  // Another's: a warning, and left alone.
  ASSERT_OK(ReplaceStateFile(path, "precious"));
  {
    CostFile file(path);
    EXPECT_EQ(file.Read().size(), 0u);
    EXPECT_THAT(warnings.back(), HasSubstr("another program's"));
    EXPECT_FALSE(file.used());
    file.Keep(costs);
    EXPECT_EQ(*ReadStateFile(path, 100), "precious");
  }
  CostFile none("");
  none.Keep(costs);
  EXPECT_EQ(none.Read().size(), 0u);
  const size_t before = warnings.size();
  CostFile(folder.path() + "/none/costs").Keep(costs);
  EXPECT_EQ(warnings.size(), before + 1);
  SetLogSink(nullptr, LogLevel::kInfo);
}

}  // namespace
}  // namespace interlace
