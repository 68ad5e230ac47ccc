// Exact by default: no bit of any hidden state or logit depends on chunk, batch, threads or stages.
#include "tests/model/exact_runs.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

ExactShape RandomShape(absl::string_view ops, Random& random) {
  constexpr int32_t kChunks[] = {1, 16, 512, 0};
  return {.options = {.ops = ops,
                      .threads = static_cast<int>(random.Between(1, 3)),
                      .stages = static_cast<int32_t>(random.Between(1, 3))},
          .chunk = kChunks[random.Below(4)],
          .together = random.Below(2) == 1};
}

TEST(ModelExactTest, TinyModelsGiveTheSameBitsInEveryShape) {
  for (absl::string_view ops : OpTableNames()) {
    if (!FindOpTable(ops).ok()) continue;  // this CPU lacks the instructions
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      Random random(seed);
      const std::string bytes = TinyGgufBytes({.seed = seed, .layers = 3 + static_cast<int32_t>(seed)});
      const auto file =
          GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "tiny");
      ASSERT_OK(file);
      const Prompts prompts = RandomPrompts(4, 3, 100, 290, random);
      const ExactResult want = RunExact(**file, prompts, {.options = {.ops = ops}}, 1, random);
      for (int i = 0; i < 8; ++i) {
        const ExactShape shape = RandomShape(ops, random);
        ExpectSameBits(want, RunExact(**file, prompts, shape, 1, random),
                       absl::StrCat(shape.ToString(), " seed=", seed));
      }
    }
  }
}

TEST(ModelExactTest, RealModelGivesTheSameBitsInEveryShape) {
  const auto file = GgufFile::Open(TestModelPath());
  ASSERT_OK(file);
  Random random(7);
  const Prompts prompts = RandomPrompts(3, 20, 45, 49152, random);
  const ExactResult want = RunExact(**file, prompts, {}, 9, random);
  const ExactShape shapes[] = {
      {.options = {.threads = 2}, .chunk = 1},
      {.options = {.threads = 2}, .chunk = 1, .together = true},
      {.options = {.threads = 3, .stages = 2}, .chunk = 16},
      {.options = {.threads = 2, .stages = 3}, .chunk = 0, .together = true},
      {.options = {.threads = 1, .stages = 3}, .chunk = 512, .together = true},
      {.options = {.threads = 3}, .chunk = 0},
  };
  for (const ExactShape& shape : shapes) {
    ExpectSameBits(want, RunExact(**file, prompts, shape, 9, random), shape.ToString());
  }
}

}  // namespace
}  // namespace interlace
