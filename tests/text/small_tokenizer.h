// A tokenizer whose first 256 ids are the bytes, with a few merges, for tests that need no trained vocabulary.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/checkpoint/gguf_writer.h"
#include "text/tokenizer.h"

namespace interlace {

// The byte in the alphabet of byte-level vocabularies, as UTF-8.
inline std::string LetterOf(int byte) {
  int character = byte;
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  if (!printable(byte)) {
    character = 256;
    for (int b = 0; b < byte; ++b) character += printable(b) ? 0 : 1;
  }
  if (character < 0x80) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
}

struct SmallVocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;

  SmallVocabulary() {
    for (int byte = 0; byte < 256; ++byte) Add(LetterOf(byte));
    for (const auto& [left, right] :
         {std::pair<int, int>{0xe4, 0xb8}, {0xb8, 0xad}, {'\n', '\n'}, {' ', 'a'}, {'h', 'i'}}) {
      merges.push_back(LetterOf(left) + " " + LetterOf(right));
      Add(LetterOf(left) + LetterOf(right));
    }
    for (const char* control : {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}) Add(control, 3);
    Add("<tool>", 4);
    for (const char* control : {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}) {
      Add(control, 3);
    }
  }
  void Add(const std::string& token, int32_t type = 1) {
    tokens.push_back(token);
    types.push_back(type);
  }
  GgufWriter Writer(const std::string& pre = "gpt-2") const {
    GgufWriter writer;
    writer.Text("tokenizer.ggml.model", "gpt2")
        .Text("tokenizer.ggml.pre", pre)
        .Texts("tokenizer.ggml.tokens", tokens)
        .Integers("tokenizer.ggml.token_type", GgufWriter::kI32, types)
        .Texts("tokenizer.ggml.merges", merges)
        .U32("tokenizer.ggml.eos_token_id", 256 + 5 + 1);  // <|im_end|>
    return writer;
  }
};

struct SmallTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;

  explicit SmallTokenizer(const std::string& pre = "gpt-2") {
    const std::string bytes = SmallVocabulary().Writer(pre).Build();
    auto file = GgufFile::Parse(AsBytes(bytes), "small");
    EXPECT_TRUE(file.ok()) << file.status();
    auto loaded = Tokenizer::Load(**file);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    tokenizer = *std::move(loaded);
  }
};

}  // namespace interlace
