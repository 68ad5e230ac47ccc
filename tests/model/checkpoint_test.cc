// Folders that are not what they should be: named, never a crash.
#include "model/checkpoint.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/plain_engine.h"
#include "tests/model/safetensors_writer.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// A copy of a tiny checkpoint's folder; goes away with it.
class FolderCopy {
 public:
  explicit FolderCopy(const TinyCheckpoint& tiny)
      : path_(absl::StrCat(testing::TempDir(), "/interlace_model_", getpid(), "_", tiny.name)) {
    fs::remove_all(path_);
    fs::copy(tiny.Hf(), path_);
  }
  ~FolderCopy() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string Text(const std::string& name) const { return ReadText(path_ + "/" + name); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  void Remove(const std::string& name) const { fs::remove(path_ + "/" + name); }
  // Of opening it and making the model.
  absl::Status Use() const {
    const auto checkpoint = Checkpoint::Open(path_);
    if (!checkpoint.ok()) return checkpoint.status();
    return PlainEngine::Make(**checkpoint, {.ops = "reference"}).status();
  }

 private:
  const std::string path_;
};

const TinyCheckpoint& Named(absl::string_view name) {
  for (const TinyCheckpoint& tiny : kTinyCheckpoints) {
    if (name == tiny.name) return tiny;
  }
  std::abort();
}

// transformers' Mistral computes what its Llama does as long as nothing lies behind the window.
TEST(CheckpointTest, AMistralFolderRunsAsALlamaWithinItsWindow) {
  const FolderCopy folder(Named("llama"));
  const std::string config = folder.Text("config.json");
  const auto run = [&](const std::string& json) {
    folder.Write("config.json", json);
    const auto checkpoint = Checkpoint::Open(folder.path());
    EXPECT_OK(checkpoint);
    auto engine = *PlainEngine::Make(**checkpoint, {.ops = "reference"});
    engine->Step({{0, {1, 2, 3, 4, 5, 6, 7, 8}}});
    return engine->Logits({7});
  };
  const std::string mistral = absl::StrReplaceAll(config, {{"LlamaForCausalLM", "MistralForCausalLM"}});
  const auto with = [&](int window) {
    return absl::StrReplaceAll(mistral,
                               {{"\"vocab_size\"", absl::StrCat("\"sliding_window\": ", window, ", \"vocab_size\"")}});
  };
  const std::vector<float> want = run(config);
  EXPECT_EQ(run(mistral), want);
  EXPECT_EQ(run(with(8)), want);
  EXPECT_NE(run(with(7)), want);
}

TEST(CheckpointTest, WhatAFolderLacksIsNamed) {
  const FolderCopy llama(Named("llama")), qwen(Named("qwen2"));
  EXPECT_OK(llama.Use());
  EXPECT_OK(qwen.Use());
  llama.Remove("model-00002-of-00003.safetensors");
  EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("model-00002-of-00003.safetensors")));
  llama.Remove("model.safetensors.index.json");
  EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.safetensors")));
  qwen.Remove("config.json");
  EXPECT_THAT(qwen.Use(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

TEST(CheckpointTest, AnIndexThatLeavesItsFolderIsRefused) {
  const FolderCopy llama(Named("llama"));
  const std::string index = llama.Text("model.safetensors.index.json");
  for (const char* name : {"../model-00001-of-00003.safetensors", "/etc/passwd", "config.json", ".."}) {
    llama.Write("model.safetensors.index.json",
                absl::StrReplaceAll(index, {{"model-00001-of-00003.safetensors", name}}));
    EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight_map")));
  }
  for (const char* text :
       {"{}", "[]", "{", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":3}})"}) {
    llama.Write("model.safetensors.index.json", text);
    EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight_map"))) << text;
  }
}

TEST(CheckpointTest, StrangeTensorsAreNamed) {
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.bias", "model.layers.9.mlp.up_proj.weight", "other.weight", "model.layers.0",
        "model.layers.x.mlp.up_proj.weight", "model.layers.0.mlp.experts.0.w1.weight"}) {
    const FolderCopy llama(Named("llama"));
    SafetensorsWriter writer;
    writer.tensors = {{name, "F32", {2}, std::string(8, '\0')}};
    llama.Write("extra.safetensors", writer.Bytes());
    llama.Write("model.safetensors.index.json",
                absl::StrReplaceAll(llama.Text("model.safetensors.index.json"),
                                    {{"\"weight_map\": {", "\"weight_map\": {\"x\": \"extra.safetensors\","}}));
    EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("no part"))) << name;
  }
}

TEST(CheckpointTest, ATensorThatTwoFilesHoldIsNamed) {
  const FolderCopy llama(Named("llama"));
  fs::copy(llama.path() + "/model-00001-of-00003.safetensors", llama.path() + "/again.safetensors");
  llama.Write("model.safetensors.index.json",
              absl::StrReplaceAll(llama.Text("model.safetensors.index.json"),
                                  {{"\"weight_map\": {", "\"weight_map\": {\"x\": \"again.safetensors\","}}));
  EXPECT_THAT(llama.Use(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
}

// Weights at odd addresses, as files of other writers may have them.
TEST(CheckpointTest, WeightsNeedNoAlignment) {
  const FolderCopy qwen(Named("qwen2"));
  const auto run = [&] {
    const auto checkpoint = *Checkpoint::Open(qwen.path());
    auto engine = *PlainEngine::Make(*checkpoint, {.ops = "reference"});
    engine->Step({{0, {1, 2, 3, 4, 5}}});
    return engine->Logits({4});
  };
  const std::vector<float> want = run();
  std::string bytes = qwen.Text("model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  ++header;
  bytes.insert(8 + header - 1, 1, ' ');
  std::memcpy(bytes.data(), &header, sizeof header);
  qwen.Write("model.safetensors", bytes);
  EXPECT_EQ(run(), want);
}

// The same weights in one file and in four: the same model to the bit, though its digest is another.
TEST(CheckpointTest, AModelInPartsIsTheModel) {
  const std::string stem = absl::StrCat(testing::TempDir(), "/interlace_split_", getpid());
  GgufWriter whole;
  TinyGgufOptions options;
  options.edit = [&](GgufWriter& gguf) { whole = gguf; };
  const std::string path = WriteTinyGguf(stem + ".gguf", options);
  constexpr size_t kParts = 4;
  std::vector<std::string> paths = {path};
  for (size_t part = 0; part < kParts; ++part) {
    GgufWriter gguf;
    if (part == 0) gguf.metadata = whole.metadata;
    gguf.SetInteger("split.no", static_cast<uint32_t>(part));
    gguf.SetInteger("split.count", kParts);
    gguf.SetInteger("split.tensors.count", static_cast<uint32_t>(whole.tensors.size()));
    for (size_t i = part; i < whole.tensors.size(); i += kParts) gguf.tensors.push_back(whole.tensors[i]);
    paths.push_back(absl::StrCat(stem, "-0000", part + 1, "-of-00004.gguf"));
    std::ofstream(paths.back(), std::ios::binary | std::ios::trunc) << gguf.Bytes();
  }
  std::set<std::string> digests;
  std::vector<float> want;
  for (const std::string& from : paths) {
    const auto checkpoint = Checkpoint::Open(from);
    ASSERT_OK(checkpoint);
    digests.insert((*checkpoint)->spec().digest);
    auto engine = PlainEngine::Make(**checkpoint, {});
    ASSERT_OK(engine);
    (*engine)->Step({{0, {9, 70, 200, 31, 5, 120}}});
    const std::vector<float> got = (*engine)->Logits({5});
    if (want.empty()) want = got;
    EXPECT_EQ(got, want) << from;
  }
  EXPECT_EQ(digests.size(), 2u);
  for (const std::string& from : paths) fs::remove(from);
}

// Whatever config.json says, opening and making the model answers.
TEST(CheckpointTest, MutatedConfigurationsNeverCrash) {
  const std::string kTokens[] = {"0",  "-1", "1",     "2",   "65536", "9223372036854775808", "1e300", "null", "true",
                                 "[]", "{}", "\"x\"", "0.5", "4096"};
  int made = 0, refused = 0;
  for (const TinyCheckpoint& tiny : kTinyCheckpoints) {
    const FolderCopy folder(tiny);
    const std::string config = folder.Text("config.json");
    for (uint64_t seed = 1; seed <= 60; ++seed) {
      Random random(seed);
      std::string text = config;
      for (int64_t i = random.Between(1, 3); i > 0; --i) {  // a value becomes another
        const size_t colon = text.find(':', random.Below(static_cast<int64_t>(text.size()) - 2));
        if (colon == std::string::npos) continue;
        const size_t end = text.find_first_of(",\n}", colon);
        text.replace(colon + 1, end - colon - 1, kTokens[random.Below(std::size(kTokens))]);
      }
      folder.Write("config.json", text);
      const absl::Status status = folder.Use();
      status.ok() ? ++made : ++refused;
      EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status) || absl::IsUnimplemented(status))
          << tiny.name << " seed " << seed << " " << status;
    }
  }
  EXPECT_GT(made, 10);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace interlace
