// Adapters: what they add is what their matrices say, to the rows of their sequences and to no others, in every shape.
#include "model/lora.h"

#include "kernels/modular/modular.h"
#include "tests/model/exact_runs.h"
#include "tests/model/tiny_adapter.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<absl::string_view> Tables() {
  std::vector<absl::string_view> tables;
  for (absl::string_view ops : OpTableNames()) {
    if (FindOpTable(ops).ok()) tables.push_back(ops);
  }
  return tables;
}

struct TinyModel {
  explicit TinyModel(const TinyGgufOptions& options)
      : bytes(TinyGgufBytes(options)),
        file(*GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                              "tiny")) {}
  const std::string bytes;
  const std::unique_ptr<GgufFile> file;
};

// All of the sequences 0 to count - 1 have the adapter of that folder.
PlainOptions With(PlainOptions options, const std::string& folder, int count = 64) {
  options.adapters.push_back({absl::StrCat("a", options.adapters.size()), folder});
  for (int i = 0; i < count; ++i) options.adapter_of[i] = folder;
  return options;
}

double Largest(const std::vector<std::vector<float>>& rows) {
  double largest = 0;
  for (const std::vector<float>& row : rows) {
    for (const float value : row) largest = std::max(largest, std::abs(double{value}));
  }
  return largest;
}

double Furthest(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  double furthest = 0;
  for (size_t p = 0; p < a.size(); ++p) {
    EXPECT_EQ(a[p].size(), b[p].size());
    for (size_t i = 0; i < std::min(a[p].size(), b[p].size()); ++i) {
      const double apart = std::abs(double{a[p][i]} - b[p][i]);
      furthest = std::max(furthest, std::isfinite(apart) ? apart : HUGE_VAL);
    }
  }
  return furthest;
}

TEST(LoraTest, ZeroAddsNothingToTheBit) {
  Random random(3);
  const TinyGgufOptions tiny;
  const TinyModel model(tiny);
  const Prompts prompts = RandomPrompts(3, 5, 60, 290, random);
  const AdapterFolder zero(AdapterShape::Of(tiny), {.gain = 0});
  for (absl::string_view ops : Tables()) {
    const ExactShape plain{.options = {.ops = ops}};
    const ExactShape adapted{.options = With(plain.options, zero.path()), .chunk = 0, .together = true};
    ExpectSameBits(RunExact(*model.file, prompts, plain, 1, random), RunExact(*model.file, prompts, adapted, 1, random),
                   std::string(ops));
  }
}

// GGUF files of these models hold the rows of a head of q and k as pairs that lie side by side, and adapters as halves.
int64_t RowInFile(const std::string& module, int64_t row, int64_t head_dim) {
  if (module != "q_proj" && module != "k_proj") return row;
  const int64_t head = row / head_dim, at = row % head_dim, half = head_dim / 2;
  return head * head_dim + (at < half ? 2 * at : 2 * (at - half) + 1);
}

// W + scale * B A, in the tensors of a file of F32.
void Merge(const TinyAdapter& adapter, double scale, const TinyGgufOptions& tiny, GgufWriter* gguf) {
  const std::map<std::string, std::string> names = {
      {"q_proj", "attn_q"},      {"k_proj", "attn_k"},  {"v_proj", "attn_v"},     {"o_proj", "attn_output"},
      {"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"}};
  for (int32_t l = 0; l < tiny.layers; ++l) {
    for (const auto& [module, ours] : names) {
      const bool attention = ours.starts_with("attn");
      const std::string stem =
          absl::StrCat("base_model.model.model.layers.", l, attention ? ".self_attn." : ".mlp.", module);
      const PlainMatrix &a = adapter.matrices.at(stem + ".lora_A.weight"),
                        &b = adapter.matrices.at(stem + ".lora_B.weight");
      auto* w = reinterpret_cast<float*>(gguf->TensorNamed(absl::StrCat("blk.", l, ".", ours, ".weight")).data.data());
      for (int64_t r = 0; r < b.rows; ++r) {
        for (int64_t c = 0; c < a.cols; ++c) {
          double sum = 0;
          for (int64_t i = 0; i < a.rows; ++i) sum += double{b.values[r * b.cols + i]} * a.values[i * a.cols + c];
          w[RowInFile(module, r, tiny.head_dim) * a.cols + c] += static_cast<float>(scale * sum);
        }
      }
    }
  }
}

TEST(LoraTest, IsTheModelWithItsProductMergedIn) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Random random(seed);
    TinyGgufOptions tiny{.seed = seed, .types = {GgufType::kF32}};
    const TinyAdapterOptions options{.seed = seed,
                                     .rank = static_cast<int32_t>(random.Between(1, 19)),
                                     .alpha = static_cast<double>(random.Between(1, 40)),
                                     .gain = 0.3f,
                                     .dtype = seed % 2 == 0 ? "BF16" : "F32"};
    const TinyAdapter adapter(AdapterShape::Of(tiny), options);
    const AdapterFolder folder(adapter);
    const TinyModel base(tiny);
    tiny.edit = [&](GgufWriter& gguf) { Merge(adapter, options.alpha / options.rank, tiny, &gguf); };
    const TinyModel merged(tiny);
    const Prompts prompts = RandomPrompts(3, 5, 60, 290, random);
    for (absl::string_view ops : Tables()) {
      const ExactShape plain{.options = {.ops = ops}};
      const ExactResult want = RunExact(*merged.file, prompts, plain, 1, random);
      const ExactResult got = RunExact(*base.file, prompts, {.options = With(plain.options, folder.path())}, 1, random);
      const ExactResult without = RunExact(*base.file, prompts, plain, 1, random);
      const double largest = Largest(want.logits);
      EXPECT_LE(Furthest(got.logits, want.logits), 1e-4 * largest) << ops << " seed " << seed;
      EXPECT_GT(Furthest(without.logits, want.logits), 0.1 * largest) << "the adapter does little: this shows nothing";
    }
  }
}

// Sequences of two adapters, of one that is narrower and adds to fewer products, and of none.
PlainOptions Mixed(PlainOptions options, const std::vector<const AdapterFolder*>& folders) {
  for (size_t i = 0; i < folders.size(); ++i) {
    options.adapters.push_back({absl::StrCat("a", i), folders[i]->path()});
    options.adapter_of[static_cast<int>(2 * i)] = folders[i]->path();
    options.adapter_of[static_cast<int>(2 * i + 1)] = folders[i]->path();
  }
  return options;
}

TEST(LoraTest, ARowsBitsAreItsOwnWhoeverIsBesideIt) {
  const TinyGgufOptions tiny{.layers = 4};
  const TinyModel model(tiny);
  const AdapterShape shape = AdapterShape::Of(tiny);
  const AdapterFolder first(shape, {.seed = 1}), second(shape, {.seed = 2, .rank = 17}),
      narrow(shape, {.seed = 3, .rank = 1, .modules = {"v_proj", "up_proj"}});
  for (absl::string_view ops : Tables()) {
    Random random(5);
    const Prompts prompts = RandomPrompts(8, 3, 60, 290, random);
    const PlainOptions options = Mixed({.ops = ops}, {&first, &second, &narrow});
    const ExactResult want = RunExact(*model.file, prompts, {.options = options}, 1, random);  // one by one
    const ExactResult base = RunExact(*model.file, prompts, {.options = {.ops = ops}}, 1, random);
    for (size_t p = 0; p < prompts.size(); ++p) {
      EXPECT_EQ(want.logits[p] == base.logits[p], p >= 6) << "prompt " << p;
    }
    for (int i = 0; i < 8; ++i) {
      ExactShape any{.options = options, .chunk = i % 2 == 0 ? 0 : static_cast<int32_t>(random.Between(1, 30))};
      any.options.threads = static_cast<int>(random.Between(1, 3));
      any.options.stages = static_cast<int32_t>(random.Between(1, tiny.layers));
      any.together = i > 0;
      ExpectSameBits(want, RunExact(*model.file, prompts, any, 1, random), any.ToString());
    }
  }
}

TEST(LoraTest, FusedModulesAreTheirParts) {
  const TinyGgufOptions tiny;
  const TinyModel model(tiny);
  const AdapterShape shape = AdapterShape::Of(tiny);
  const TinyAdapter fused(shape, {.modules = {"qkv_proj", "gate_up_proj"}});
  TinyAdapter parts(shape, {.modules = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}});
  for (SafetensorsWriter::Tensor& tensor : parts.weights.tensors) {
    const bool attention = absl::StrContains(tensor.name, "self_attn"), is_a = absl::StrContains(tensor.name, "lora_A");
    const std::string stem = tensor.name.substr(0, tensor.name.find(attention ? "self_attn." : "mlp."));
    const std::string from = absl::StrCat(stem, attention ? "self_attn.qkv_proj" : "mlp.gate_up_proj",
                                          is_a ? ".lora_A.weight" : ".lora_B.weight");
    const auto whole = std::find_if(fused.weights.tensors.begin(), fused.weights.tensors.end(),
                                    [&](const SafetensorsWriter::Tensor& t) { return t.name == from; });
    ASSERT_NE(whole, fused.weights.tensors.end());
    int64_t first = 0;  // row of B
    if (absl::StrContains(tensor.name, "k_proj")) first = shape.q;
    if (absl::StrContains(tensor.name, "v_proj")) first = shape.q + shape.kv;
    if (absl::StrContains(tensor.name, "up_proj")) first = shape.feed_forward;
    tensor.data = is_a ? whole->data : whole->data.substr(first * 3 * sizeof(float), tensor.data.size());
  }
  const AdapterFolder one(fused), other(parts);
  Random random(1);
  const Prompts prompts = RandomPrompts(2, 5, 40, 290, random);
  ExpectSameBits(RunExact(*model.file, prompts, {.options = With({}, one.path())}, 1, random),
                 RunExact(*model.file, prompts, {.options = With({}, other.path())}, 1, random), "fused");
}

// Every architecture, from both forms of its checkpoint, whose rows of q and k may lie differently.
TEST(LoraTest, EveryArchitectureTakesOneFromEitherForm) {
  for (const TinyCheckpoint& tiny : kTinyCheckpoints) {
    const auto hf = Checkpoint::Open(tiny.Hf()), gguf = Checkpoint::Open(tiny.Gguf());
    ASSERT_OK(hf);
    ASSERT_OK(gguf);
    const ModelSpec& spec = (*hf)->spec();
    const bool experts = spec.experts.count > 0;
    const TinyAdapterOptions options{.gain = 0.3f, .modules = experts ? AttentionAdapted() : AllAdapted()};
    const AdapterShape shape = AdapterShape::Of(spec);
    const AdapterFolder folder(shape, options);
    TinyAdapterOptions nothing = options;
    nothing.gain = 0;
    const AdapterFolder zero(shape, nothing);
    Random random(9);
    const Prompts prompts = RandomPrompts(2, 5, 30, spec.vocab, random);
    for (absl::string_view ops : {absl::string_view("reference"), absl::string_view("auto")}) {
      const PlainOptions plain{.ops = ops};
      const ExactResult from_hf = RunExact(**hf, prompts, {.options = With(plain, folder.path())}, 1, random);
      const ExactResult from_gguf = RunExact(**gguf, prompts, {.options = With(plain, folder.path())}, 1, random);
      const ExactResult base = RunExact(**hf, prompts, {.options = plain}, 1, random);
      const double largest = Largest(from_hf.logits);
      EXPECT_LE(Furthest(from_hf.logits, from_gguf.logits), 1e-4 * largest) << tiny.name << " " << ops;
      EXPECT_GT(Furthest(from_hf.logits, base.logits), 1e-2 * largest) << tiny.name << ": the adapter does little";
      ExpectSameBits(base, RunExact(**hf, prompts, {.options = With(plain, zero.path())}, 1, random), tiny.name);
    }
    if (!experts) continue;
    const AdapterFolder all(shape, {});
    EXPECT_THAT(PlainEngine::Make(**hf, With({}, all.path())).status(),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("experts")));
  }
}

// Modulo a prime nothing is rounded: each rank's parts of A and B are the right ones if the sum is that of one rank.
TEST(LoraTest, RanksOfAStageHaveTheirParts) {
  const TinyGgufOptions tiny{.heads = 4, .kv_heads = 2};
  const TinyModel model(tiny);
  const auto checkpoint = Checkpoint::Of(*model.file);
  ASSERT_OK(checkpoint);
  const AdapterShape shape = AdapterShape::Of(tiny);
  const AdapterFolder folder(shape, {.rank = 5});
  const auto file = PeftAdapter::Open(folder.path());
  ASSERT_OK(file);
  const auto backend = MakeModularBackend({.threads = 1});
  ASSERT_OK(backend);
  const ModelSpec& spec = (*checkpoint)->spec();
  const auto load = [&](int32_t rank, int32_t ranks) {
    return *LoraAdapter::Load(**file, spec,
                              {.layer_begin = 0, .layer_end = spec.layers, .tensor_rank = rank, .tensor_ranks = ranks},
                              **backend);
  };
  const std::unique_ptr<LoraAdapter> whole = load(0, 1);
  const auto same_rows = [](const LinearWeight& part, const LinearWeight& all, int64_t row) {
    const auto bytes = static_cast<size_t>(part.rows * part.k) * sizeof(uint32_t);
    return part.k == all.k && std::memcmp(part.data, all.data + row * all.k * sizeof(uint32_t), bytes) == 0;
  };
  const auto same_columns = [](const LinearWeight& part, const LinearWeight& all, int64_t column) {
    const auto* a = reinterpret_cast<const uint32_t*>(part.data);
    const auto* b = reinterpret_cast<const uint32_t*>(all.data);
    bool same = part.rows == all.rows;
    for (int64_t r = 0; same && r < part.rows; ++r) {
      for (int64_t c = 0; c < part.k; ++c) same &= a[r * part.k + c] == b[r * all.k + column + c];
    }
    return same;
  };
  for (const int32_t ranks : {2, 4}) {
    for (int32_t rank = 0; rank < ranks; ++rank) {
      const std::unique_ptr<LoraAdapter> part = load(rank, ranks);
      const TensorSplit split = *SplitTensors(spec, rank, ranks);
      for (int32_t l = 0; l < spec.layers; ++l) {
        const auto find = [&](LoraPart p) -> const LoraWeight& { return part->Find(LayerId{l}, p); };
        const auto all = [&](LoraPart p) -> const LoraWeight& { return whole->Find(LayerId{l}, p); };
        const auto check_rows = [&](LoraPart p, int64_t row, int64_t rows) {
          EXPECT_EQ(find(p).b.rows, rows);
          EXPECT_TRUE(same_rows(find(p).b, all(p).b, row) && same_rows(find(p).a, all(p).a, 0));
        };
        const auto check_columns = [&](LoraPart p, int64_t column, int64_t columns) {
          EXPECT_EQ(find(p).a.k, columns);
          EXPECT_TRUE(same_columns(find(p).a, all(p).a, column) && same_rows(find(p).b, all(p).b, 0));
        };
        const int64_t d = spec.head_dim;
        check_rows(LoraPart::kQ, split.heads.begin * d, split.heads.size() * d);
        check_rows(LoraPart::kK, split.kv_heads.begin * d, split.kv_heads.size() * d);
        check_rows(LoraPart::kV, split.kv_heads.begin * d, split.kv_heads.size() * d);
        check_rows(LoraPart::kGate, split.feed_forward.begin, split.feed_forward.size());
        check_rows(LoraPart::kUp, split.feed_forward.begin, split.feed_forward.size());
        check_columns(LoraPart::kOutput, split.heads.begin * d, split.heads.size() * d);
        check_columns(LoraPart::kDown, split.feed_forward.begin, split.feed_forward.size());
      }
    }
  }
}

TEST(LoraTest, WhatDoesNotFitTheModelIsNamed) {
  const TinyGgufOptions tiny;
  const TinyModel model(tiny);
  const auto refusal = [&](AdapterShape shape, const TinyAdapterOptions& options = {}) {
    const AdapterFolder folder(shape, options);
    return PlainEngine::Make(*model.file, With({}, folder.path())).status();
  };
  AdapterShape shape = AdapterShape::Of(tiny);
  shape.layers = 4;
  EXPECT_THAT(refusal(shape), StatusIs(absl::StatusCode::kInvalidArgument,
                                       AllOf(HasSubstr("model.adapters=a0"), HasSubstr("layers.3"),
                                             HasSubstr("the model has 3 layers"), HasSubstr("which it calls tiny"))));
  shape = AdapterShape::Of(tiny);
  shape.kv = 64;
  EXPECT_THAT(refusal(shape),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("k_proj"), HasSubstr("64 outputs and 64 inputs"), HasSubstr("32 and 64"))));
  shape = AdapterShape::Of(tiny);
  shape.width = 32;
  EXPECT_THAT(refusal(shape, {.modules = {"up_proj"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("96 outputs and 32 inputs")));
  EXPECT_THAT(PlainEngine::Make(*model.file, With({}, "/nowhere")).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("model.adapters=a0: "), HasSubstr("/nowhere/adapter_config.json"))));
}

}  // namespace
}  // namespace interlace
