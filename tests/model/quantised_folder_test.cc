// Quantised folders against Python's dequantisation of the same tensors (tests/golden/make_quantised_folders.py).
#include "model/quantised_folder.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/dequantise.h"
#include "tests/model/plain_engine.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

struct Way {
  const char* name;
  DType dtype;       // of its matrices
  double tolerance;  // of a value, relative to it
};
constexpr Way kWays[] = {
    {"gptq", DType::kQ4_0, 0},
    {"gptq_zeros", DType::kQ5_0, 0},
    {"gptq_order", DType::kF16, 0x1p-11},
    {"awq", DType::kQ5_0, 0},
    {"packed", DType::kQ4_0, 0},
    {"fp8_blocks", DType::kF16, 0x1p-11},
    {"fp8_tensor", DType::kF16, 0x1p-11},
    {"fp8_rows", DType::kF16, 0x1p-11},
};
std::string FolderOf(const Way& way) { return std::string("tests/golden/quantised/") + way.name; }

std::vector<float> ValuesOf(const CheckpointTensor& tensor) {
  std::vector<std::byte> bytes(tensor.bytes());
  if (tensor.source != nullptr) {
    tensor.source->Write(tensor.source_row, tensor.rows, bytes.data());
  } else {
    std::copy(tensor.data.begin(), tensor.data.end(), bytes.begin());
  }
  std::vector<float> values(tensor.rows * tensor.cols);
  for (int64_t r = 0; r < tensor.rows; ++r) {
    DequantiseRow(*tensor.dtype, bytes.data() + r * RowBytes(*tensor.dtype, tensor.cols), tensor.cols,
                  &values[r * tensor.cols]);
  }
  return values;
}

class QuantisedFolderTest : public ::testing::TestWithParam<Way> {};

TEST_P(QuantisedFolderTest, ValuesAreThoseOfPython) {
  const auto folder = Checkpoint::Open(FolderOf(GetParam())), plain = Checkpoint::Open(FolderOf(GetParam()) + "/plain");
  ASSERT_OK(folder);
  ASSERT_OK(plain);
  ASSERT_EQ((*folder)->tensors().size(), (*plain)->tensors().size());
  int matrices = 0;
  for (const auto& [name, tensor] : (*folder)->tensors()) {
    const CheckpointTensor& of_python = (*plain)->tensors().at(name);
    ASSERT_EQ(tensor.rows, of_python.rows) << name;
    ASSERT_EQ(tensor.cols, of_python.cols) << name;
    if (tensor.source != nullptr) {
      ++matrices;
      EXPECT_EQ(tensor.dtype, GetParam().dtype) << name;
    }
    const std::vector<float> got = ValuesOf(tensor), want = ValuesOf(of_python);
    for (size_t i = 0; i < want.size(); ++i) {
      // Below F16's normal numbers steps are of one size.
      ASSERT_NEAR(got[i], want[i], GetParam().tolerance * std::max(std::abs(want[i]), 0x1p-14f)) << name << " " << i;
    }
  }
  EXPECT_EQ(matrices, 2 * 7);
}

TEST_P(QuantisedFolderTest, LogitsAreThoseOfThePlainModel) {
  const auto folder = Checkpoint::Open(FolderOf(GetParam())), plain = Checkpoint::Open(FolderOf(GetParam()) + "/plain");
  ASSERT_OK(folder);
  ASSERT_OK(plain);
  const std::vector<int32_t> tokens = {1, 5, 9, 60, 33, 2, 2, 40, 17, 8};
  const auto logits = [&](const Checkpoint& checkpoint, absl::string_view ops) {
    auto engine = PlainEngine::Make(checkpoint, {.ops = ops});
    EXPECT_OK(engine);
    (*engine)->Step({{0, tokens}});
    return (*engine)->Logits({4, 9});
  };
  const std::vector<float> want = logits(**plain, "reference");
  for (absl::string_view ops : OpTableNames()) {
    if (!FindOpTable(ops).ok()) continue;
    const bool rounds_x = ops != "reference" && GetParam().dtype != DType::kF16;
    const std::vector<float> got = logits(**folder, ops);
    double largest = 0, worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::abs(double{want[i]}));
      worst = std::max(worst, std::abs(double{want[i]} - got[i]));
    }
    EXPECT_LE(worst, (rounds_x ? 2e-2 : 1e-3) * largest) << ops;
  }
}

// A part of the rows is that part of the whole.
TEST_P(QuantisedFolderTest, PartsOfRowsAreThoseOfTheWhole) {
  const auto folder = Checkpoint::Open(FolderOf(GetParam()));
  ASSERT_OK(folder);
  const CheckpointTensor& tensor = (*folder)->tensors().at("blk.1.ffn_up.weight");
  const int64_t row_bytes = RowBytes(*tensor.dtype, tensor.cols);
  std::vector<std::byte> whole(tensor.bytes()), part(tensor.bytes());
  tensor.source->Write(0, tensor.rows, whole.data());
  for (int64_t begin = 0; begin < tensor.rows; begin += 7) {
    const int64_t count = std::min<int64_t>(7, tensor.rows - begin);
    tensor.source->Write(begin, count, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.begin() + count * row_bytes, whole.begin() + begin * row_bytes)) << begin;
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantisedFolderTest, ::testing::ValuesIn(kWays),
                         [](const auto& info) { return std::string(info.param.name); });

// A copy of a folder whose config.json is another.
class EditedFolder {
 public:
  explicit EditedFolder(const Way& way) : from_(FolderOf(way)), path_(::testing::TempDir() + "/edited_" + way.name) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    fs::copy_file(from_ + "/model.safetensors", path_ + "/model.safetensors");
  }
  ~EditedFolder() { fs::remove_all(path_); }
  absl::Status OpenWith(const std::string& from, const std::string& to) const {
    std::ifstream file(from_ + "/config.json");
    std::ostringstream text;
    text << file.rdbuf();
    const std::string edited = absl::StrReplaceAll(text.str(), {{from, to}});
    EXPECT_NE(edited, text.str()) << from;
    std::ofstream(path_ + "/config.json") << edited;
    return Checkpoint::Open(path_).status();
  }

 private:
  const std::string from_, path_;
};

TEST(QuantisedFolderRefusals, WhatIsNotBuiltInIsNamed) {
  const struct {
    int way;
    const char *from, *to, *named;
  } kEdits[] = {
      {0, "\"gptq\",\n    \"bits\"", "\"bitsandbytes\",\n    \"bits\"", "bitsandbytes"},
      {0, "\"bits\": 4", "\"bits\": 8", "bits"},
      {0, "\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\"", "marlin"},
      {3, "gemm", "gemv", "gemv"},
      {4, "\"num_bits\": 4", "\"num_bits\": 8", "num_bits"},
      {4, "\"symmetric\": true", "\"symmetric\": false", "symmetric"},
      {4, "pack-quantized", "nvfp4-pack-quantized", "nvfp4"},
  };
  for (const auto& edit : kEdits) {
    EXPECT_THAT(EditedFolder(kWays[edit.way]).OpenWith(edit.from, edit.to),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(edit.named)))
        << edit.to;
  }
}

TEST(QuantisedFolderRefusals, WhatDoesNotFitIsNamed) {
  EXPECT_THAT(EditedFolder(kWays[0]).OpenWith("\"group_size\": 32", "\"group_size\": 64"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("scales")));
  EXPECT_THAT(EditedFolder(kWays[5]).OpenWith("24", "48"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight_scale_inv")));
  EXPECT_THAT(EditedFolder(kWays[0]).OpenWith("\"quant_method\": \"gptq\"", "\"quant_method\": \"fp8\""),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("g_idx")));
}

}  // namespace
}  // namespace interlace
