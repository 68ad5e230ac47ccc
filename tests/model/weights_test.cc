#include "model/weights.h"

#include <cstring>
#include <fstream>

#include "kernels/dequantise.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/gguf_writer.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A tiny llama with one more tensor in place of blk.0.ffn_up: the loader is given that alone.
struct Fixture {
  Fixture(DType dtype, int64_t rows, int64_t k, uint64_t seed) {
    Random random(seed);
    values = RandomWeights(dtype, rows, k, random);
    const std::pair<DType, GgufType> kTypes[] = {
        {DType::kF32, GgufType::kF32},       {DType::kF16, GgufType::kF16},     {DType::kBF16, GgufType::kBF16},
        {DType::kQ8_0, GgufType::kQ8_0},     {DType::kQ4_0, GgufType::kQ4_0},   {DType::kQ4_1, GgufType::kQ4_1},
        {DType::kQ5_0, GgufType::kQ5_0},     {DType::kQ5_1, GgufType::kQ5_1},   {DType::kQ4_K, GgufType::kQ4_K},
        {DType::kQ5_K, GgufType::kQ5_K},     {DType::kQ6_K, GgufType::kQ6_K},   {DType::kIQ4_NL, GgufType::kIQ4_NL},
        {DType::kIQ4_XS, GgufType::kIQ4_XS}, {DType::kMXFP4, GgufType::kMXFP4}, {DType::kQ3_K, GgufType::kQ3_K},
        {DType::kQ2_K, GgufType::kQ2_K}};
    GgufType type = GgufType::kF32;
    for (const auto& [ours, theirs] : kTypes) {
      if (ours == dtype) type = theirs;
    }
    bytes = TinyGgufBytes(
        {.layers = 1, .edit = [&](GgufWriter& gguf) {
           gguf.tensors.push_back(
               {"blk.0.w.weight", static_cast<uint32_t>(type), {k, rows}, std::string(values.begin(), values.end())});
           std::erase_if(gguf.tensors, [](const WrittenTensor& t) {
             return t.name.rfind("blk.", 0) == 0 && t.name != "blk.0.w.weight";
           });
         }});
    file = *GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "w");
    checkpoint = *Checkpoint::Of(*file);
  }
  std::vector<uint8_t> values;
  std::string bytes;
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Checkpoint> checkpoint;
};

const auto kSilent = [](int64_t, int64_t) {};

// The values of a loaded weight, by products with unit vectors.
std::vector<float> ValuesOf(Backend& backend, const LinearWeight& w) {
  std::vector<float> x(w.k * w.k, 0.0f), y(w.k * w.rows);
  for (int64_t i = 0; i < w.k; ++i) x[i * w.k + i] = 1;
  backend.ops().linear({{x.data(), DType::kF32, w.k, w.k}, {{{y.data(), DType::kF32, w.k, w.rows}, w}}},
                       backend.context());
  return y;  // [k, rows]
}

// Any part of any matrix is loaded as that part packed by itself: chunks, offsets and alignment change no bit.
TEST(WeightLoaderTest, PartsAreWhatPackingThemAloneGives) {
  for (absl::string_view ops : OpTableNames()) {
    if (!FindOpTable(ops).ok()) continue;  // this CPU lacks the instructions
    for (uint64_t seed = 1; seed <= 25; ++seed) {
      Random random(seed);
      const DType dtype = AnyWeightType(random);
      const int64_t block = TraitsOf(dtype).block_elements;
      const int64_t k = block == 256 ? 256 * random.Between(1, 3) : 32 * random.Between(1, 8);
      const int64_t rows = random.Between(1, 300);
      const Fixture fixture(dtype, rows, k, seed);
      auto backend = *CreateBackend("cpu", {.ops = ops, .threads = static_cast<int>(random.Between(1, 2))});
      const int64_t first = random.Below(rows), step = block == 1 ? 1 : block;
      const ShardRange part_rows{first, random.Between(first + 1, rows)};
      const int64_t k_begin = random.Below(k / step) * step;
      const ShardRange part_k{k_begin, random.Between(k_begin / step + 1, k / step) * step};
      LinearWeight whole, part;
      WeightLoader loader(*fixture.checkpoint, MakeShard(CostOfStep(*fixture.checkpoint, 0), 0, 1), *backend);
      loader.Matrix("blk.0.w.weight", rows, k, &whole);
      loader.Matrix("blk.0.w.weight", rows, k, part_rows, part_k, &part);
      const auto memory = loader.Load(kSilent);
      ASSERT_OK(memory);
      // The part's rows, one after another.
      std::vector<uint8_t> cut;
      for (int64_t r = part_rows.begin; r < part_rows.end; ++r) {
        const auto* row = fixture.values.data() + r * RowBytes(dtype, k);
        cut.insert(cut.end(), row + RowBytes(dtype, part_k.begin), row + RowBytes(dtype, part_k.end));
      }
      std::vector<uint8_t> all = fixture.values;
      const PackedWeight want_part(backend->ops(), *backend, {cut.data(), dtype, part_rows.size(), part_k.size()});
      const PackedWeight want_whole(backend->ops(), *backend, {all.data(), dtype, rows, k});
      EXPECT_EQ(ValuesOf(*backend, part), ValuesOf(*backend, want_part.weight()))
          << ops << " " << TraitsOf(dtype).name << " seed " << seed;
      EXPECT_EQ(ValuesOf(*backend, whole), ValuesOf(*backend, want_whole.weight()))
          << ops << " " << TraitsOf(dtype).name << " seed " << seed;
    }
  }
}

// A matrix of many chunks, in every table's layout, byte for byte: what OpTable::pack_weight says of strips.
TEST(WeightLoaderTest, ChunksOfAMatrixPackAsTheWhole) {
  for (absl::string_view ops : OpTableNames()) {
    if (!FindOpTable(ops).ok()) continue;  // this CPU lacks the instructions
    for (DType dtype : kWeightTypes) {
      auto backend = *CreateBackend("cpu", {.ops = ops, .threads = 2});
      const int64_t k = 256, rows = 64 * 5 + 7;
      Random random(9);
      std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
      const OpTable& table = backend->ops();
      const int64_t size = table.weight_bytes(dtype, rows, k);
      if (size == 0) continue;
      auto whole = *backend->Allocate(size), parts = *backend->Allocate(size);
      const Tensor tensor{bytes.data(), dtype, rows, k};
      table.pack_weight(tensor, whole->data(), backend->context());
      for (int64_t r = 0; r < rows; r += kPackRows) {
        table.pack_weight(tensor.Rows(r, std::min(kPackRows, rows - r)),
                          parts->data() + (r == 0 ? 0 : table.weight_bytes(dtype, r, k)), backend->context());
      }
      EXPECT_EQ(std::memcmp(whole->data(), parts->data(), size), 0) << ops << " " << TraitsOf(dtype).name;
    }
  }
}

TEST(WeightLoaderTest, NormsAndBiasesBecomeF32WhateverTheyAre) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Fixture fixture(dtype, 1, 40, 3);
    auto backend = *CreateBackend("cpu", {});
    Tensor norm;
    const float* bias = nullptr;
    WeightLoader loader(*fixture.checkpoint, MakeShard(CostOfStep(*fixture.checkpoint, 0), 0, 1), *backend);
    loader.Norm("blk.0.w.weight", 40, &norm);
    loader.Bias("blk.0.w.weight", 40, {8, 24}, &bias);
    const auto memory = loader.Load(kSilent);
    ASSERT_OK(memory);
    std::vector<float> want(40);
    DequantiseRow(dtype, fixture.values.data(), 40, want.data());
    for (int i = 0; i < 40; ++i) EXPECT_EQ(norm.f32()[i], want[i]);
    for (int i = 8; i < 24; ++i) EXPECT_EQ(bias[i - 8], want[i]);
  }
}

TEST(WeightLoaderTest, ACutThroughAQuantisedBlockIsNamed) {
  const Fixture fixture(DType::kQ4_0, 4, 128, 3);
  auto backend = *CreateBackend("cpu", {});
  LinearWeight w;
  WeightLoader loader(*fixture.checkpoint, MakeShard(CostOfStep(*fixture.checkpoint, 0), 0, 1), *backend);
  loader.Matrix("blk.0.w.weight", 4, 128, {0, 4}, {0, 48}, &w);
  EXPECT_THAT(loader.Load(kSilent), StatusIs(absl::StatusCode::kInvalidArgument,
                                             AllOf(HasSubstr("blk.0.w.weight"), HasSubstr("blocks of 32"))));
}

}  // namespace
}  // namespace interlace
