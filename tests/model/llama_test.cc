#include <cmath>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "tests/model/llama_double.h"
#include "tests/model/plain_engine.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const std::string& bytes) {
  return GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "tiny");
}

// The options of one model after another: every weight type alone and mixed, and every dimension that may vary.
std::vector<TinyGgufOptions> Variants() {
  std::vector<TinyGgufOptions> variants(1);
  for (GgufType type :
       {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0, GgufType::kQ4_0, GgufType::kQ4_1}) {
    variants.push_back({.seed = 10 + static_cast<uint64_t>(type), .types = {type}});
  }
  variants.push_back({.seed = 2, .tied_head = true});
  variants.push_back({.seed = 3, .layers = 1, .width = 96, .heads = 4, .kv_heads = 4, .head_dim = 24});
  variants.push_back({.seed = 4, .heads = 6, .kv_heads = 1, .head_dim = 32, .feed_forward = 160});
  variants.push_back({.seed = 5, .edit = [](GgufWriter& gguf) {
                        gguf.SetText("llama.rope.scaling.type", "linear");
                        gguf.SetReal("llama.rope.scaling.factor", 4);
                        gguf.SetReal("llama.rope.freq_base", 500);
                        gguf.SetReal("llama.attention.layer_norm_rms_epsilon", 0.01f);
                      }});
  variants.push_back({.seed = 6, .edit = [](GgufWriter& gguf) {
                        const std::vector<float> factors = {1, 1, 1.5f, 2, 4, 8, 8, 8};
                        gguf.tensors.push_back({"rope_freqs.weight", 0, {8}, Quantise(GgufType::kF32, factors)});
                      }});
  return variants;
}

TEST(LlamaTest, AgreesWithTheEquationsInDoublePrecision) {
  for (const TinyGgufOptions& options : Variants()) {
    const std::string bytes = TinyGgufBytes(options);
    const auto file = Parse(bytes);
    ASSERT_OK(file);
    Random random(options.seed);
    std::vector<int32_t> tokens(70);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(290));
    const std::vector<std::vector<double>> want = LlamaDouble(**file).Logits(tokens);
    const bool quantised = absl::c_any_of(options.types, [](GgufType type) {
      return type != GgufType::kF32 && type != GgufType::kF16 && type != GgufType::kBF16;
    });
    for (absl::string_view ops : OpTableNames()) {
      if (!FindOpTable(ops).ok()) continue;  // this CPU lacks the instructions
      // The vector tables quantise what quantised weights are multiplied with (kernels/linear/linear.h).
      const double tolerance = quantised && ops != "reference" ? 0.1 : 1e-4;
      auto engine = PlainEngine::Make(**file, {.ops = ops});
      ASSERT_OK(engine);
      (*engine)->Step({{0, tokens}});
      double largest = 0, worst = 0;
      for (size_t t = 0; t < tokens.size(); ++t) {
        const std::vector<float> got = (*engine)->Logits({static_cast<int32_t>(t)});
        ASSERT_EQ(got.size(), want[t].size());
        for (size_t i = 0; i < got.size(); ++i) {
          largest = std::max(largest, std::abs(want[t][i]));
          worst = std::max(worst, std::abs(got[i] - want[t][i]));
        }
      }
      EXPECT_LE(worst, tolerance * largest) << "seed " << options.seed << ", ops " << ops << ", largest " << largest;
    }
  }
}

std::vector<int32_t> Greedy(PlainEngine& engine, int sequence, std::vector<int32_t> prompt, int count) {
  std::vector<int32_t> tokens;
  engine.Step({{sequence, prompt}});
  while (true) {
    const auto last = static_cast<int32_t>(engine.hidden().size()) / engine.spec().width - 1;
    tokens.push_back(ArgMax(engine.Logits({last}).data(), engine.spec().vocab));
    if (static_cast<int>(tokens.size()) == count) return tokens;
    engine.Step({{sequence, {tokens.back()}}});
  }
}

TEST(TinyGgufTest, GreedyTokensVaryWithPromptAndStepAndArePrintable) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const auto path = WriteTinyGguf(absl::StrCat(testing::TempDir(), "/tiny_", seed, ".gguf"), {.seed = seed});
    const auto file = GgufFile::Open(path);
    ASSERT_OK(file);
    const auto tokenizer = Tokenizer::Load(**file);
    ASSERT_OK(tokenizer);
    const auto chat = ChatTemplate::Load(**file);
    ASSERT_OK(chat);
    auto engine = PlainEngine::Make(**file, {});
    ASSERT_OK(engine);
    EXPECT_EQ((*tokenizer)->vocab_size(), (*engine)->spec().vocab);
    std::set<std::vector<int32_t>> answers;
    for (int s = 0; s < 4; ++s) {
      const auto prompt = chat->Encode({{"user", absl::StrCat("Say ", s, " words of the thing.")}}, **tokenizer);
      ASSERT_OK(prompt);
      const std::vector<int32_t> tokens = Greedy(**engine, s, *prompt, 200);
      EXPECT_GE(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 30u) << (*tokenizer)->Decode(tokens);
      EXPECT_GE(std::set<int32_t>(tokens.end() - 40, tokens.end()).size(), 10u) << (*tokenizer)->Decode(tokens);
      for (char c : (*tokenizer)->Decode(tokens)) EXPECT_TRUE(c >= 32 && c <= 126) << int{c};
      answers.insert(tokens);
    }
    EXPECT_EQ(answers.size(), 4u);
  }
}

TEST(TinyGgufTest, TheFileDependsOnTheOptionsAlone) {
  EXPECT_EQ(TinyGgufBytes({.seed = 5}), TinyGgufBytes({.seed = 5}));
  EXPECT_NE(TinyGgufBytes({.seed = 5}), TinyGgufBytes({.seed = 6}));
}

// The status of making an engine from a file edited so.
absl::Status StatusAfter(std::function<void(GgufWriter&)> edit) {
  const std::string bytes = TinyGgufBytes({.edit = std::move(edit)});
  const auto file = Parse(bytes);
  if (!file.ok()) return absl::InternalError(absl::StrCat("the edit broke the file itself: ", file.status().message()));
  return PlainEngine::Make(**file, {.stages = 2}).status();
}

TEST(LlamaTest, EveryMissingTensorIsNamed) {
  const std::string bytes = TinyGgufBytes();
  const auto whole = Parse(bytes);
  ASSERT_OK(whole);
  for (const auto& [name, tensor] : (*whole)->tensors()) {
    if (name == "output.weight") continue;  // without it the head is tied
    EXPECT_THAT(StatusAfter([&](GgufWriter& gguf) { gguf.RemoveTensor(name); }),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(name), HasSubstr("tiny"))));
  }
}

TEST(LlamaTest, EveryTensorOfAnotherShapeIsNamed) {
  const std::string bytes = TinyGgufBytes();
  const auto whole = Parse(bytes);
  ASSERT_OK(whole);
  for (const auto& [name, tensor] : (*whole)->tensors()) {
    const auto one_row_more = [&](GgufWriter& gguf) {
      WrittenTensor& t = gguf.TensorNamed(name);
      if (t.dims.size() == 1) t.dims.push_back(1);
      const size_t row = t.data.size() / static_cast<size_t>(t.dims[1]);
      t.data += t.data.substr(0, row);
      t.dims[1] += 1;
    };
    // One more row of the embedding is one more word of the vocabulary: the head is then the one that is too short.
    const std::string named = name == "token_embd.weight" ? "output.weight" : name;
    EXPECT_THAT(StatusAfter(one_row_more), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(named)));
  }
}

TEST(LlamaTest, TypesThatNoKernelComputesWithAreNamed) {
  EXPECT_THAT(StatusAfter([](GgufWriter& gguf) {
                WrittenTensor& t = gguf.TensorNamed("blk.2.ffn_up.weight");
                t.type = 24;  // I8
                t.data.assign(static_cast<size_t>(t.dims[0] * t.dims[1]), '\0');
              }),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("blk.2.ffn_up.weight"), HasSubstr("Q4_1"))));
}

TEST(LlamaTest, TensorsThatAreNoPartOfTheModelAreRefused) {
  for (const char* name : {"blk.0.attn_q.bias", "blk.1.ffn_gate_exps.weight", "blk.3.attn_q.weight",
                           "blk.x.attn_q.weight", "other.weight", "blk.2", "blk.0.attn_q"}) {
    EXPECT_THAT(StatusAfter([&](GgufWriter& gguf) {
                  gguf.tensors.push_back({name, 0, {8}, std::string(32, '\0')});
                }),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(name)));
  }
}

TEST(LlamaTest, ProgressCountsTheBytesOfTheStage) {
  const std::string bytes = TinyGgufBytes({.layers = 5});
  const auto file = Parse(bytes);
  ASSERT_OK(file);
  const auto checkpoint = Checkpoint::Of(**file);
  ASSERT_OK(checkpoint);
  const auto backend = CreateBackend("cpu", {});
  ASSERT_OK(backend);
  int64_t file_bytes = 0, loaded_bytes = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) file_bytes += static_cast<int64_t>(tensor.data.size());
  for (int32_t stage = 0; stage < 3; ++stage) {
    int64_t before = 0, total = 0;
    ASSERT_OK(MakeArch({.checkpoint = checkpoint->get(),
                        .spec = &(*checkpoint)->spec(),
                        .shard = MakeShard(CostOfStep(**checkpoint, 0), stage, 3),
                        .backend = backend->get(),
                        .progress = [&](int64_t done, int64_t all) {
                          EXPECT_GT(done, before);
                          EXPECT_LE(done, all);
                          before = done;
                          total = all;
                        }}));
    EXPECT_EQ(before, total);
    loaded_bytes += total;
  }
  EXPECT_EQ(loaded_bytes, file_bytes);  // each tensor on exactly one stage when the head is not tied
}

TEST(LlamaTest, AnArchitectureThatIsNotInTheTableIsRefused) {
  const std::string bytes = TinyGgufBytes();
  const auto file = Parse(bytes);
  ASSERT_OK(file);
  const auto checkpoint = Checkpoint::Of(**file);
  ASSERT_OK(checkpoint);
  ModelSpec spec = (*checkpoint)->spec();
  spec.architecture = "mamba";
  const auto backend = CreateBackend("cpu", {});
  EXPECT_THAT(MakeArch({.checkpoint = checkpoint->get(),
                        .spec = &spec,
                        .shard = MakeShard(CostOfStep(**checkpoint, 0), 0, 1),
                        .backend = backend->get(),
                        .progress = [](int64_t, int64_t) {}}),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("mamba"), HasSubstr("llama"))));
}

}  // namespace
}  // namespace interlace
