// The modular backend shows what it is for: any KV that is not the right one changes what follows, and no way of
// cutting a run into chunks, batches, threads and stages does.
#include <cstring>
#include <set>

#include "kernels/modular/modular.h"
#include "tests/model/exact_runs.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

std::unique_ptr<GgufFile> Parsed(const std::string& bytes) {
  return *GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "tiny");
}

enum Damage { kSwapped, kStale, kZeroed, kLost, kOfAnotherLayer, kOfAnotherSequence, kOneElement, kDamages };

// Spoils one block that holds positions of `sequence`, which has the same tokens as `twin`.
void Spoil(PlainEngine& engine, Damage damage, int sequence, int other, Random& random) {
  PlainKv& kv = engine.kv();
  const KvBlockShape& shape = kv.shape();
  const int32_t layer = static_cast<int32_t>(random.Below(engine.spec().layers));
  std::vector<std::byte*>& blocks = kv.Blocks(sequence, layer);
  // Blocks full of positions: any element of theirs counts.
  const int64_t full = engine.length(sequence) / shape.block_tokens;
  const int64_t at = random.Below(full);
  std::byte* block = blocks[at];
  auto* values = reinterpret_cast<float*>(block);
  switch (damage) {
    case kSwapped: {
      const int64_t with = (at + 1 + random.Below(full - 1)) % full;
      std::swap(blocks[at], blocks[with]);
      break;
    }
    case kStale:  // as after the block's place was given to others and one token came back
      for (int64_t c = 0; c < int64_t{shape.kv_heads} * shape.head_dim; ++c) {
        values[c * shape.block_tokens] = static_cast<float>(random.Below(kPrime));
      }
      break;
    case kZeroed:
      std::memset(block, 0, static_cast<size_t>(shape.bytes()));
      break;
    case kLost:
      std::fill_n(values, shape.bytes() / int64_t{sizeof(float)}, std::numeric_limits<float>::quiet_NaN());
      break;
    case kOfAnotherLayer:
      blocks[at] = kv.Blocks(sequence, (layer + 1) % engine.spec().layers)[at];
      break;
    case kOfAnotherSequence:
      blocks[at] = kv.Blocks(other, layer)[random.Below(engine.length(other) / shape.block_tokens)];
      break;
    default: {
      float& value = values[random.Below(shape.bytes() / int64_t{sizeof(float)})];
      value = static_cast<float>((ResidueOf(value) + 1 + random.Below(kPrime - 1)) % kPrime);
    }
  }
}

TEST(ModularTest, AnyDamageToOneBlockChangesTheNextLogits) {
  const std::string bytes = TinyGgufBytes({.layers = 2, .width = 32, .heads = 2, .kv_heads = 1, .feed_forward = 32});
  const std::unique_ptr<GgufFile> file = Parsed(bytes);
  int cases = 0, same_token = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Random random(seed);
    const auto engine = PlainEngine::Make(*file, {.block_tokens = 8, .make_backend = &MakeModularBackend});
    ASSERT_OK(engine);
    PlainEngine& e = **engine;
    int next = 0;
    for (int i = 0; i < 500; ++i, ++cases) {
      const int clean = next++, spoiled = next++, other = next++;
      const Prompts prompts = RandomPrompts(2, 16, 40, 290, random);
      const auto token = static_cast<int32_t>(random.Below(290));
      e.Step({{clean, prompts[0]}, {spoiled, prompts[0]}, {other, prompts[1]}});
      const auto damage = static_cast<Damage>(random.Below(kDamages));
      Spoil(e, damage, spoiled, other, random);
      e.Step({{clean, {token}}, {spoiled, {token}}});
      const std::vector<float> logits = e.Logits({0, 1});
      const int32_t vocab = e.spec().vocab;
      ASSERT_NE(std::memcmp(logits.data(), logits.data() + vocab, vocab * sizeof(float)), 0)
          << "damage " << damage << ", seed " << seed << ", case " << i;
      if (ArgMax(logits.data(), vocab) == ArgMax(logits.data() + vocab, vocab)) ++same_token;
    }
  }
  // By chance one of some 280 live tokens is the largest in both.
  EXPECT_LT(same_token, cases / 50) << "of " << cases;
}

TEST(ModularTest, EveryShapeGivesTheSameNumbers) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Random random(seed);
    const std::string bytes = TinyGgufBytes({.seed = seed, .layers = 4});
    const std::unique_ptr<GgufFile> file = Parsed(bytes);
    const Prompts prompts = RandomPrompts(3, 3, 40, 290, random);
    const ExactResult want = RunExact(*file, prompts, {.options = {.make_backend = &MakeModularBackend}}, 1, random);
    constexpr int32_t kChunks[] = {1, 16, 512, 0};
    for (int i = 0; i < 5; ++i) {
      const ExactShape shape{.options = {.threads = static_cast<int>(random.Between(1, 2)),
                                         .stages = static_cast<int32_t>(random.Between(1, 4)),
                                         .make_backend = &MakeModularBackend},
                             .chunk = kChunks[random.Below(4)],
                             .together = random.Below(2) == 1};
      ExpectSameBits(want, RunExact(*file, prompts, shape, 1, random), absl::StrCat(shape.ToString(), " seed=", seed));
    }
  }
}

// Streams that settle, or do not depend on the prompt, would hide what the suites look for.
TEST(ModularTest, GreedyStreamsVary) {
  const std::string bytes = TinyGgufBytes({.layers = 3});
  const std::unique_ptr<GgufFile> file = Parsed(bytes);
  const auto engine = PlainEngine::Make(*file, {.make_backend = &MakeModularBackend});
  ASSERT_OK(engine);
  PlainEngine& e = **engine;
  Random random(3);
  const Prompts prompts = RandomPrompts(6, 5, 30, 290, random);
  std::set<std::vector<int32_t>> streams;
  for (int p = 0; p < 6; ++p) {
    std::vector<int32_t> stream;
    e.Step({{p, prompts[p]}});
    for (int i = 0; i < 24; ++i) {
      const int32_t row = i == 0 ? static_cast<int32_t>(prompts[p].size()) - 1 : 0;
      stream.push_back(ArgMax(e.Logits({row}).data(), e.spec().vocab));
      EXPECT_GE(stream.back(), TinyVocabulary::kFirstByte) << "a control token: its row of the head is zero";
      e.Step({{p, {stream.back()}}});
    }
    EXPECT_GT(std::set<int32_t>(stream.begin(), stream.end()).size(), 12u);
    streams.insert(stream);
  }
  EXPECT_EQ(streams.size(), 6u);
}

}  // namespace
}  // namespace interlace
