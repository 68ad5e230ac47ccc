#include "checkpoint/safetensors.h"

#include <fstream>

#include "tests/kernels/random_tensor.h"
#include "tests/model/safetensors_writer.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(const std::string& bytes) {
  return SafetensorsFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                                "test.safetensors");
}

TEST(SafetensorsTest, ReadsWhatWasWritten) {
  SafetensorsWriter writer;
  writer.tensors = {{"a", "F32", {2, 3}, std::string(24, 'a')},
                    {"b", "BF16", {5}, std::string(10, 'b')},
                    {"c", "I64", {}, std::string(8, 'c')},
                    {"d", "F16", {4, 0}, ""}};
  const std::string bytes = writer.Bytes();
  const auto file = Parse(bytes);
  ASSERT_OK(file);
  ASSERT_EQ((*file)->tensors().size(), 4u);
  for (const SafetensorsWriter::Tensor& want : writer.tensors) {
    const SafetensorsTensor& got = (*file)->tensors().at(want.name);
    EXPECT_EQ(got.dtype, want.dtype);
    EXPECT_EQ(got.shape, want.shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(got.data.data()), got.data.size()), want.data);
  }
}

TEST(SafetensorsTest, TheDigestFollowsHeaderAndWeights) {
  SafetensorsWriter writer;
  writer.tensors = {{"a", "F32", {2, 3}, std::string(24, 'a')}};
  const std::string first = writer.Bytes();
  writer.tensors[0].data[13] = 'x';
  const std::string second = writer.Bytes();
  writer.tensors[0].name = "b";
  const std::string third = writer.Bytes();
  EXPECT_EQ((*Parse(first))->digest(), (*Parse(first))->digest());
  EXPECT_NE((*Parse(first))->digest(), (*Parse(second))->digest());
  EXPECT_NE((*Parse(second))->digest(), (*Parse(third))->digest());
}

TEST(SafetensorsTest, WhatIsNotSoundIsNamed) {
  const std::string data(24, 'x');
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return absl::StrCat(R"({"w":{"dtype":)", dtype, R"(,"shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
  };
  const std::pair<std::string, std::string> kBroken[] = {
      {"", "JSON"},
      {"[]", "JSON"},
      {"{", "JSON"},
      {R"({"w":3})", "entry"},
      {R"({"w":{}})", "dtype"},
      {entry("7", "[6]", "[0,24]"), "dtype"},
      {entry("\"F33\"", "[6]", "[0,24]"), "F33"},
      {entry("\"F32\"", "6", "[0,24]"), "shape"},
      {entry("\"F32\"", "[-6]", "[0,24]"), "shape"},
      {entry("\"F32\"", "[6.0]", "[0,24]"), "shape"},
      {entry("\"F32\"", "[9223372036854775808]", "[0,24]"), "shape"},
      {entry("\"F32\"", "[4294967296,4294967296,4294967296]", "[0,24]"), "shape"},
      {entry("\"F32\"", "[1,1,1,1,1,1,1,1,6]", "[0,24]"), "shape"},
      {entry("\"F32\"", "[6]", "[0]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[0,24,48]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[24,0]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[0,-1]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[0,28]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[4,28]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[0,20]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[18446744073709551592,18446744073709551616]"), "data_offsets"},
      {entry("\"F32\"", "[6]", "[9223372036854775808,9223372036854775832]"), "data_offsets"},
      {R"({"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}})",
       "twice"},
      {R"({"v":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[3],"data_offsets":[12,24]}})",
       "overlaps"},
  };
  for (const auto& [header, named] : kBroken) {
    EXPECT_THAT(Parse(SafetensorsWriter::File(header, data)),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(named), HasSubstr("test.safetensors"))))
        << header;
  }
  for (uint64_t length : {uint64_t{3}, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string bytes(10, '{');
    std::memcpy(bytes.data(), &length, sizeof length);
    EXPECT_THAT(Parse(bytes), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("header")));
  }
  EXPECT_THAT(Parse("short"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("test.safetensors")));
}

// Whatever the bytes, the reader answers, and what it accepts lies inside the file, apart from each other.
TEST(SafetensorsTest, MutationsNeverBreakTheReader) {
  std::ifstream from(kTinyCheckpoints[1].Hf() + "/model.safetensors", std::ios::binary);
  const std::string original((std::istreambuf_iterator<char>(from)), std::istreambuf_iterator<char>());
  ASSERT_GT(original.size(), 1000u);
  uint64_t header = 0;
  std::memcpy(&header, original.data(), sizeof header);
  const std::string kTokens[] = {"{",      "}",
                                 "[",      "]",
                                 ",",      ":",
                                 "\"",     "-1",
                                 "1e999",  "9223372036854775808",
                                 "null",   "F64",
                                 "[[[[",   "18446744073709551615",
                                 "\\u0000"};
  int accepted = 0;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    Random random(seed);
    std::string bytes = original;
    const int64_t edits = random.Between(1, 4);
    for (int64_t i = 0; i < edits; ++i) {
      const auto at = static_cast<size_t>(random.Below(static_cast<int64_t>(8 + header)));
      const std::string& token = kTokens[random.Below(std::size(kTokens))];
      switch (random.Below(5)) {
        case 0:
          bytes[at % bytes.size()] = static_cast<char>(random.Below(256));
          break;
        case 1:
          bytes.erase(at % bytes.size(), random.Between(1, 9));
          break;
        case 2:
          bytes.replace(std::min(at, bytes.size()), token.size(), token);
          break;
        case 3:
          bytes.insert(std::min(at, bytes.size()), token);
          break;
        default:
          bytes.resize(random.Below(static_cast<int64_t>(bytes.size())) + 1);
      }
    }
    const auto file = Parse(bytes);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << "seed " << seed << file.status();
      continue;
    }
    ++accepted;
    const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
    size_t used = 0;
    for (const auto& [name, tensor] : (*file)->tensors()) {
      EXPECT_TRUE(tensor.data.empty() ||
                  (tensor.data.data() >= begin && tensor.data.data() + tensor.data.size() <= begin + bytes.size()))
          << "seed " << seed;
      used += tensor.data.size();
    }
    EXPECT_LE(used, bytes.size()) << "seed " << seed;
  }
  EXPECT_GT(accepted, 20);  // or the mutations say nothing
}

TEST(SafetensorsTest, FilesThatAreNotThereOrNoFilesAreNamed) {
  EXPECT_THAT(SafetensorsFile::Open(testing::TempDir() + "/absent.safetensors"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT(SafetensorsFile::Open(testing::TempDir()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("map")));
}

}  // namespace
}  // namespace interlace
