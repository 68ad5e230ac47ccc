#include "checkpoint/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/checkpoint/gguf_writer.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const std::string& file) {
  return GgufFile::Parse(AsBytes(file), "test.gguf");
}

GgufWriter Sound() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama")
      .U32("llama.block_count", 2)
      .Raw("i8", GgufWriter::kI8, GgufWriter::Bytes(int8_t{-5}))
      .Raw("u64", GgufWriter::kU64, GgufWriter::Bytes(uint64_t{1} << 40))
      .F32("f32", 0.5f)
      .Raw("f64", GgufWriter::kF64, GgufWriter::Bytes(2.25))
      .Flag("flag", true)
      .Texts("names", {"a", "", "ccc"})
      .Integers<int32_t>("types", GgufWriter::kI32, {3, -1, 1})
      .Integers<uint8_t>("flags", GgufWriter::kBool, {1, 0})
      .Integers<float>("reals", GgufWriter::kF32, {1.5f, 2.5f})
      .Tensor("first", 0, {4, 2}, std::string(32, 'f'))
      .Tensor("second", 3, {64, 3}, std::string(120, 's'))
      .Tensor("third", 1, {5}, std::string(10, 't'));
  return writer;
}

TEST(GgufTest, ReadsWhatWasWritten) {
  const std::string bytes = Sound().Build();
  auto file = Parse(bytes);
  ASSERT_OK(file);
  const GgufFile& f = **file;
  EXPECT_EQ(*f.Text("general.architecture"), "llama");
  EXPECT_EQ(*f.Integer("llama.block_count"), 2);
  EXPECT_EQ(*f.Integer("i8"), -5);
  EXPECT_EQ(*f.Integer("u64"), int64_t{1} << 40);
  EXPECT_EQ(*f.Real("f32"), 0.5);
  EXPECT_EQ(*f.Real("f64"), 2.25);
  EXPECT_TRUE(*f.Flag("flag"));
  EXPECT_THAT(*f.Texts("names"), ElementsAre("a", "", "ccc"));
  EXPECT_THAT(*f.Integers("types"), ElementsAre(3, -1, 1));
  EXPECT_THAT(*f.Integers("flags"), ElementsAre(1, 0));
  EXPECT_TRUE(f.Has("reals"));
  EXPECT_FALSE(f.Has("real"));
  EXPECT_EQ(f.tensors().size(), 3u);
  auto second = f.Tensor("second");
  ASSERT_OK(second);
  EXPECT_EQ((*second)->type, GgufType::kQ4_1);
  EXPECT_THAT((*second)->dims, ElementsAre(64, 3));
  EXPECT_EQ((*second)->data.size(), 120u);
  EXPECT_EQ((*second)->data[119], std::byte{'s'});
  EXPECT_EQ((*f.Tensor("third"))->data.size(), 10u);
}

TEST(GgufTest, NamesTheMissingAndTheMistyped) {
  const std::string bytes = Sound().Build();
  auto file = Parse(bytes);
  ASSERT_OK(file);
  EXPECT_THAT((*file)->Text("absent"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT((*file)->Tensor("absent"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT((*file)->Integer("flag"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("flag")));
  EXPECT_THAT((*file)->Flag("i8"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("i8")));
  EXPECT_THAT((*file)->Texts("types"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("types")));
}

TEST(GgufTest, RefusesUnsoundFiles) {
  const uint64_t huge = uint64_t{1} << 63;
  const std::string cell(32, 'x');
  const auto bytes = [](auto value) { return GgufWriter::Bytes(value); };
  const auto array = [&](uint32_t type, uint64_t count) { return bytes(type) + bytes(count); };
  struct Case {
    const char* message;
    std::string file;
  };
  const Case cases[] = {
      {"ends inside", ""},
      {"not a GGUF file", "GGML" + Sound().Build().substr(4)},
      {"version 1", Sound().set_version(1).Build()},
      {"version 4", Sound().set_version(4).Build()},
      {"do not fit", Sound().set_counts(huge, 1).Build()},
      {"do not fit", Sound().set_counts(1, huge).Build()},
      {"do not fit", Sound().set_counts(~uint64_t{0}, ~uint64_t{0}).Build()},
      {"'k'", GgufWriter().Raw("k", GgufWriter::kText, bytes(huge)).Build() + cell},
      {"'k'", GgufWriter().Raw("k", GgufWriter::kArray, array(GgufWriter::kU8, huge)).Build() + cell},
      {"'k'", GgufWriter().Raw("k", GgufWriter::kArray, array(GgufWriter::kText, 5)).Build() + cell},
      {"arrays", GgufWriter().Raw("k", GgufWriter::kArray, array(GgufWriter::kArray, 1)).Build() + cell},
      {"element type 77", GgufWriter().Raw("k", GgufWriter::kArray, array(77, 1)).Build() + cell},
      {"value type 13", GgufWriter().Raw("k", 13, "").Build() + cell},
      {"63 bits", GgufWriter().Raw("k", GgufWriter::kU64, bytes(huge)).Build()},
      {"not 0 or 1", GgufWriter().Raw("k", GgufWriter::kBool, bytes(uint8_t{2})).Build()},
      {"appears twice", GgufWriter().U32("k", 1).U32("k", 1).Build()},
      {"power of two", GgufWriter().U32("general.alignment", 48).Build()},
      {"power of two", GgufWriter().U32("general.alignment", 0).Build()},
      {"power of two", GgufWriter().Text("general.alignment", "32").Build()},
      {"0 dimensions", GgufWriter().Tensor("t", 0, {}, cell).Build()},
      {"5 dimensions", GgufWriter().Tensor("t", 0, {1, 1, 1, 1, 1}, cell).Build()},
      {"out of range", GgufWriter().Tensor("t", 0, {0}, cell).Build()},
      {"out of range", GgufWriter().Tensor("t", 0, {huge}, cell).Build()},
      {"out of range", GgufWriter().Tensor("t", 0, {1u << 31, 1u << 31, 1u << 31, 1u << 31}, cell).Build()},
      {"element type 4", GgufWriter().Tensor("t", 4, {8}, cell).Build()},
      {"element type 4294967295", GgufWriter().Tensor("t", ~0u, {8}, cell).Build()},
      {"multiple of 32", GgufWriter().Tensor("t", 8, {33}, cell + cell).Build()},
      {"past the file", GgufWriter().Tensor("t", 0, {9}, cell).Build()},
      {"past the file", GgufWriter().TensorAt("t", 0, {8}, 32, cell).Build()},
      {"past the file", GgufWriter().TensorAt("t", 0, {8}, ~uint64_t{31}, cell).Build()},
      {"not aligned", GgufWriter().TensorAt("t", 0, {1}, 4, cell).Build()},
      {"overlaps", GgufWriter().Tensor("t", 0, {9}, cell + cell).TensorAt("u", 0, {8}, 32, cell).Build()},
      {"overlaps", GgufWriter().Tensor("t", 0, {8}, cell).TensorAt("u", 0, {8}, 0, cell).Build()},
      {"appears twice", GgufWriter().Tensor("t", 0, {8}, cell).Tensor("t", 0, {8}, cell).Build()},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Parse(c.file),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("test.gguf"), HasSubstr(c.message))));
  }
}

TEST(GgufTest, NamesOfAnyLengthMakeShortMessages) {
  const std::string file = GgufWriter().Raw(std::string(60000, '\xff'), 99, "").Build() + std::string(32, 'x');
  auto parsed = Parse(file);
  ASSERT_FALSE(parsed.ok());
  EXPECT_LT(parsed.status().message().size(), 600u);
}

TEST(GgufTest, HonoursTheAlignmentThatIsStated) {
  GgufWriter writer;
  writer.set_alignment(64).U32("general.alignment", 64).Tensor("a", 0, {1}, "aaaa").Tensor("b", 0, {1}, "bbbb");
  const std::string bytes = writer.Build();
  auto file = Parse(bytes);
  ASSERT_OK(file);
  EXPECT_EQ((*(*file)->Tensor("b"))->data[0], std::byte{'b'});
}

TEST(GgufTest, DigestTellsModelsApart) {
  const std::string one = Sound().Build();
  std::string weights = one, header = one;
  const size_t at = weights.find("ssss");
  weights[at] ^= 1;
  header[header.find("llama")] ^= 1;
  const std::string digest = (*Parse(one))->digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ((*Parse(std::string(one)))->digest(), digest);
  EXPECT_NE((*Parse(weights))->digest(), digest);
  EXPECT_NE((*Parse(header))->digest(), digest);
  EXPECT_NE((*Parse(one + " "))->digest(), digest);
}

TEST(GgufTest, HostileBytesEndInAStatus) {
  const std::string sound = Sound().Build();
  const auto check = [](const std::string& bytes) {
    // An exact copy on the heap, so that a sanitizer sees the first byte read past the end.
    const std::vector<std::byte> copy(AsBytes(bytes).begin(), AsBytes(bytes).end());
    auto file = GgufFile::Parse(copy, "hostile");
    if (!file.ok()) {
      ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << file.status();
      return;
    }
    for (const auto& [name, tensor] : (*file)->tensors()) {
      ASSERT_GE(tensor.data.data(), copy.data()) << name;
      ASSERT_LE(tensor.data.data() + tensor.data.size(), copy.data() + copy.size()) << name;
    }
  };
  for (size_t length = 0; length < sound.size(); ++length) check(sound.substr(0, length));
  std::mt19937 random(7);
  const uint64_t edges[] = {0,           1, 0x7fffffff, 0x80000000, 0xffffffff, uint64_t{1} << 62, uint64_t{1} << 63,
                            ~uint64_t{0}};
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = sound;
    const int changes = 1 + random() % 4;
    for (int i = 0; i < changes; ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] ^= static_cast<char>(1 << random() % 8);
          break;
        case 1:
          bytes[at] = static_cast<char>(random());
          break;
        case 2:
          if (at + 8 <= bytes.size()) std::memcpy(&bytes[at], &edges[random() % std::size(edges)], 8);
          break;
        default:
          bytes.erase(at, random() % 16);
      }
      if (bytes.empty()) break;
    }
    check(bytes);
  }
}

TEST(GgufTest, ManyTensorsAreNoBurden) {
  GgufWriter writer;
  for (int i = 0; i < 20000; ++i) writer.Tensor("tensor." + std::to_string(i), 0, {1}, "data");
  const std::string bytes = writer.Build();
  auto file = Parse(bytes);
  ASSERT_OK(file);
  EXPECT_EQ((*file)->tensors().size(), 20000u);
}

TEST(GgufTest, OpensFiles) {
  const std::string folder = ::testing::TempDir() + "gguf_test";
  std::filesystem::create_directories(folder);
  EXPECT_THAT(GgufFile::Open(folder + "/absent"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT(GgufFile::Open(folder), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(folder)));
  const std::string path = folder + "/sound.gguf";
  std::ofstream(path, std::ios::binary) << Sound().Build();
  auto file = GgufFile::Open(path);
  ASSERT_OK(file);
  EXPECT_EQ((*file)->name(), path);
  EXPECT_EQ((*(*file)->Tensor("first"))->data[31], std::byte{'f'});
  std::ofstream(path, std::ios::binary | std::ios::trunc);
  EXPECT_THAT(GgufFile::Open(path), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(path)));
}

// A folder with the parts of a model, split as llama.cpp splits; goes away with it.
class SplitModel {
 public:
  explicit SplitModel(const std::string& name) : folder_(::testing::TempDir() + "gguf_split_" + name) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (int i = 0; i < 3; ++i) Write(i, Part(i));
  }
  ~SplitModel() { std::filesystem::remove_all(folder_); }
  // Part `number` of three, of which each has a tensor; the first has the model's metadata.
  static GgufWriter Part(uint16_t number, uint16_t count = 3, int32_t tensors = 3) {
    GgufWriter writer;
    if (number == 0) writer.Text("general.architecture", "llama");
    return writer.Raw("split.no", GgufWriter::kU16, GgufWriter::Bytes(number))
        .Raw("split.count", GgufWriter::kU16, GgufWriter::Bytes(count))
        .Raw("split.tensors.count", GgufWriter::kI32, GgufWriter::Bytes(tensors))
        .Tensor("t" + std::to_string(number), 0, {8}, std::string(32, static_cast<char>('a' + number)));
  }
  std::string Path(int number) const { return folder_ + "/m-0000" + std::to_string(number + 1) + "-of-00003.gguf"; }
  void Write(int number, const GgufWriter& writer) const {
    std::ofstream(Path(number), std::ios::binary | std::ios::trunc) << writer.Build();
  }
  const std::string& folder() const { return folder_; }

 private:
  const std::string folder_;
};

TEST(GgufSplitTest, AnyPartOpensTheWhole) {
  const SplitModel model("whole");
  std::string digest;
  for (int part = 0; part < 3; ++part) {
    const auto file = GgufFile::Open(model.Path(part));
    ASSERT_OK(file);
    EXPECT_EQ(*(*file)->Text("general.architecture"), "llama");
    ASSERT_EQ((*file)->tensors().size(), 3u);
    for (int i = 0; i < 3; ++i) {
      const auto tensor = (*file)->Tensor("t" + std::to_string(i));
      ASSERT_OK(tensor);
      EXPECT_EQ((*tensor)->data[31], static_cast<std::byte>('a' + i));
      (*file)->Drop((*tensor)->data);
    }
    if (part == 0) digest = (*file)->digest();
    EXPECT_EQ((*file)->digest(), digest);
  }
  // A byte of any part's weights changes the digest.
  for (int part = 0; part < 3; ++part) {
    GgufWriter other = SplitModel::Part(part, 3, 3);
    std::string bytes = other.Build();
    bytes.back() ^= 1;
    std::ofstream(model.Path(part), std::ios::binary | std::ios::trunc) << bytes;
    const auto file = GgufFile::Open(model.Path(0));
    ASSERT_OK(file);
    EXPECT_NE((*file)->digest(), digest) << part;
    digest = (*file)->digest();
  }
}

TEST(GgufSplitTest, WhatIsWrongWithAPartIsNamed) {
  const auto refused = [](const SplitModel& model, absl::StatusCode code, const std::string& message) {
    for (int from = 0; from < 3; ++from) {
      if (!std::filesystem::exists(model.Path(from))) continue;
      EXPECT_THAT(GgufFile::Open(model.Path(from)), StatusIs(code, HasSubstr(message))) << from;
    }
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  {
    const SplitModel model("missing");
    std::filesystem::remove(model.Path(1));
    refused(model, absl::StatusCode::kNotFound, "part 2 of 3");
    EXPECT_THAT(GgufFile::Open(model.Path(0)), StatusIs(absl::StatusCode::kNotFound, HasSubstr(model.Path(1))));
  }
  {
    const SplitModel model("swapped");
    model.Write(1, SplitModel::Part(2));
    EXPECT_THAT(GgufFile::Open(model.Path(0)), StatusIs(kInvalid, AllOf(HasSubstr("split.no 2"), HasSubstr("part 2"))));
    EXPECT_THAT(GgufFile::Open(model.Path(1)), StatusIs(kInvalid, HasSubstr("-00003-of-00003.gguf")));
  }
  {
    const SplitModel model("of_another");
    model.Write(2, SplitModel::Part(2, 3, 4));
    refused(model, kInvalid, "split.tensors.count");
  }
  {
    const SplitModel model("no_split");
    model.Write(2, Sound());
    EXPECT_THAT(GgufFile::Open(model.Path(0)), StatusIs(kInvalid, HasSubstr("split.count 1")));
  }
  {
    const SplitModel model("twice");
    model.Write(1, SplitModel::Part(1).Tensor("t0", 0, {8}, std::string(32, 'x')));
    refused(model, kInvalid, "'t0'");
  }
  {
    const SplitModel model("too_many");
    model.Write(1, SplitModel::Part(1).Tensor("t9", 0, {8}, std::string(32, 'x')));
    refused(model, kInvalid, "hold 4 tensors");
  }
  {
    const SplitModel model("broken");
    std::ofstream(model.Path(2), std::ios::binary | std::ios::trunc) << "GGUF";
    EXPECT_THAT(GgufFile::Open(model.Path(0)), StatusIs(kInvalid, HasSubstr("part 3 of 3")));
  }
  {
    const SplitModel model("renamed");
    const std::string other = model.folder() + "/model.gguf";
    std::filesystem::rename(model.Path(0), other);
    EXPECT_THAT(GgufFile::Open(other), StatusIs(kInvalid, AllOf(HasSubstr(other), HasSubstr("-00001-of-00003.gguf"))));
  }
  const std::pair<const char*, GgufWriter> cases[] = {
      {"split.no", SplitModel::Part(3)},
      {"split.count", GgufWriter().Raw("split.count", GgufWriter::kI32, GgufWriter::Bytes(int32_t{-1}))},
      {"split.no", GgufWriter().U32("split.count", 2)},
      {"split.tensors.count", SplitModel::Part(0, 3, -1)},
  };
  for (const auto& [message, writer] : cases) {
    const SplitModel model("values");
    model.Write(0, writer);
    EXPECT_THAT(GgufFile::Open(model.Path(0)), StatusIs(kInvalid, HasSubstr(message)));
  }
  const SplitModel model("joined");  // by llama.cpp's tool
  model.Write(0, Sound().Raw("split.count", GgufWriter::kU16, GgufWriter::Bytes(uint16_t{0})));
  EXPECT_OK(GgufFile::Open(model.Path(0)));
}

TEST(GgufTest, ReadsTheTestModel) {
  auto file = GgufFile::Open(TestModelPath());
  ASSERT_OK(file);
  EXPECT_EQ((*file)->tensors().size(), 272u);
  EXPECT_EQ(*(*file)->Integer("llama.block_count"), 30);
  EXPECT_EQ((*file)->Texts("tokenizer.ggml.tokens")->size(), 49152u);
  auto embedding = (*file)->Tensor("token_embd.weight");
  ASSERT_OK(embedding);
  EXPECT_THAT((*embedding)->dims, ElementsAre(576, 49152));
}

}  // namespace
}  // namespace interlace
