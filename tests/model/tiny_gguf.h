// A tiny random Llama with a tokenizer and a chat template, as a GGUF file: for tests that need a model's behaviour but
// not its sense. A step takes microseconds.
//
// What tests may count on: the file depends on the options alone; greedy tokens vary with the prompt, do not settle
// into one token, and are printable ASCII; control tokens are never the greedy choice (unless the head is tied).
#pragma once

#include <cmath>
#include <fstream>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/gguf_writer.h"
#include "tests/model/quantise.h"

namespace interlace {

struct TinyGgufOptions {
  uint64_t seed = 1;
  int32_t layers = 3;
  int32_t width = 64;  // multiple of 32
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 16;      // multiple of 8; heads * head_dim is a multiple of 32
  int32_t feed_forward = 96;  // multiple of 32
  int32_t context = 2048;     // tokens
  bool tied_head = false;
  int32_t extra_rows = 0;  // of embeddings, for ids that the tokenizer has no piece for; as likely as others
  // Types of the weights, taken in turn from tensor to tensor; norms are F32.
  std::vector<GgufType> types = {GgufType::kF32,  GgufType::kQ8_0, GgufType::kF16,
                                 GgufType::kQ4_1, GgufType::kBF16, GgufType::kQ4_0};
  // Last word before the file is written.
  std::function<void(GgufWriter&)> edit;
};

// Ids of the tiny vocabulary: control tokens, the 256 bytes in order, then merges.
struct TinyVocabulary {
  static constexpr int32_t kEndOfText = 0, kTurnStart = 1, kTurnEnd = 2, kFirstByte = 3;
  std::vector<std::string> tokens;  // as GGUF writes them
  std::vector<std::string> merges;
  std::vector<int32_t> types;
  std::vector<bool> printable;  // ASCII text, by id
};

inline TinyVocabulary MakeTinyVocabulary() {
  constexpr int32_t kNormal = 1, kControl = 3;
  TinyVocabulary v;
  const auto add = [&](std::string token, int32_t type, bool printable) {
    v.tokens.push_back(std::move(token));
    v.types.push_back(type);
    v.printable.push_back(printable);
  };
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) add(control, kControl, false);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int character = itself ? byte : next++;
    std::string text;
    if (character < 0x80) {
      text.push_back(static_cast<char>(character));
    } else {
      text = {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
    }
    add(text, kNormal, byte >= 32 && byte <= 126);
  }
  const std::string space = "\u0120";
  for (const char* pair : {"t h", "i n", "e r", "a n", "r e", "o n", "a t", "e n", "n d", "t i",  "e s", "o r",
                           "t e", "o f", "e d", "i s", "i t", "a l", "a r", "s t", "t o", "n t",  "n g", "s e",
                           "h a", "a s", "o u", "i o", "l e", "v e", "c o", "m e", "d e", "th e", "in g"}) {
    v.merges.push_back(pair);
  }
  for (const char* word : {"t", "a", "s", "w", "the", "of"}) v.merges.push_back(space + " " + word);
  for (const std::string& merge : v.merges) {
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    add(joined, kNormal, true);
  }
  return v;
}

inline void SetTinyMetadata(GgufWriter& gguf, const TinyGgufOptions& o, const TinyVocabulary& vocabulary) {
  gguf.SetText("general.architecture", "llama");
  gguf.SetText("general.name", "tiny");
  gguf.SetInteger("llama.block_count", o.layers);
  gguf.SetInteger("llama.context_length", o.context);
  gguf.SetInteger("llama.embedding_length", o.width);
  gguf.SetInteger("llama.feed_forward_length", o.feed_forward);
  gguf.SetInteger("llama.attention.head_count", o.heads);
  gguf.SetInteger("llama.attention.head_count_kv", o.kv_heads);
  gguf.SetInteger("llama.attention.key_length", o.head_dim);
  gguf.SetReal("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  gguf.SetReal("llama.rope.freq_base", 10000);
  gguf.SetInteger("llama.rope.dimension_count", o.head_dim);
  gguf.SetText("tokenizer.ggml.model", "gpt2");
  gguf.SetText("tokenizer.ggml.pre", "smollm");
  gguf.SetTexts("tokenizer.ggml.tokens", vocabulary.tokens);
  gguf.SetIntegers("tokenizer.ggml.token_type", vocabulary.types);
  gguf.SetTexts("tokenizer.ggml.merges", vocabulary.merges);
  gguf.SetInteger("tokenizer.ggml.bos_token_id", TinyVocabulary::kTurnStart);
  gguf.SetInteger("tokenizer.ggml.eos_token_id", TinyVocabulary::kTurnEnd);
  gguf.SetInteger("tokenizer.ggml.unknown_token_id", TinyVocabulary::kEndOfText);
  gguf.SetFlag("tokenizer.ggml.add_bos_token", false);
  gguf.SetText("tokenizer.chat_template",
               "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
               "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
               "{% endif %}");
}

// The weights of one file, drawn one after another.
class TinyWeights {
 public:
  TinyWeights(GgufWriter& gguf, const TinyGgufOptions& options)
      : gguf_(gguf), options_(options), random_(options.seed) {}

  // Normal with standard deviation gain / sqrt(cols), so that outputs are of the order of `gain`. Rows whose id is
  // not in `live` are zero; an empty `live` keeps all.
  void Matrix(const std::string& name, int32_t rows, int32_t cols, double gain, const std::vector<bool>& live = {}) {
    std::vector<float> values(int64_t{rows} * cols);
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t c = 0; c < cols; ++c) {
        const double value = Normal() * gain / std::sqrt(cols);
        values[int64_t{r} * cols + c] = live.empty() || live[r] ? static_cast<float>(value) : 0;
      }
    }
    const GgufType type = options_.types[next_type_++ % options_.types.size()];
    gguf_.tensors.push_back({name, static_cast<uint32_t>(type), {cols, rows}, Quantise(type, values)});
  }
  void Norm(const std::string& name, int32_t cols) {
    std::vector<float> values(cols);
    for (float& value : values) value = static_cast<float>(1 + 0.2 * Normal());
    gguf_.tensors.push_back({name, static_cast<uint32_t>(GgufType::kF32), {cols}, Quantise(GgufType::kF32, values)});
  }

 private:
  double Normal() {
    const double u = (static_cast<double>(random_.Next() >> 11) + 1) * 0x1p-53;
    const double v = static_cast<double>(random_.Next() >> 11) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }
  GgufWriter& gguf_;
  const TinyGgufOptions& options_;
  Random random_;
  size_t next_type_ = 0;
};

inline std::string TinyGgufBytes(const TinyGgufOptions& options = {}) {
  TinyVocabulary vocabulary = MakeTinyVocabulary();
  const auto vocab = static_cast<int32_t>(vocabulary.tokens.size()) + options.extra_rows;
  vocabulary.printable.resize(vocab, true);
  GgufWriter gguf;
  SetTinyMetadata(gguf, options, vocabulary);
  TinyWeights weights(gguf, options);
  const int32_t q_width = options.heads * options.head_dim, kv_width = options.kv_heads * options.head_dim;
  weights.Matrix("token_embd.weight", vocab, options.width, std::sqrt(options.width));
  for (int32_t l = 0; l < options.layers; ++l) {
    const std::string prefix = absl::StrCat("blk.", l, ".");
    weights.Norm(prefix + "attn_norm.weight", options.width);
    weights.Matrix(prefix + "attn_q.weight", q_width, options.width, 1.5);
    weights.Matrix(prefix + "attn_k.weight", kv_width, options.width, 1.5);
    weights.Matrix(prefix + "attn_v.weight", kv_width, options.width, 1.5);
    weights.Matrix(prefix + "attn_output.weight", options.width, q_width, 1.5);
    weights.Norm(prefix + "ffn_norm.weight", options.width);
    weights.Matrix(prefix + "ffn_gate.weight", options.feed_forward, options.width, 1.5);
    weights.Matrix(prefix + "ffn_up.weight", options.feed_forward, options.width, 1.5);
    weights.Matrix(prefix + "ffn_down.weight", options.width, options.feed_forward, 1.5);
  }
  weights.Norm("output_norm.weight", options.width);
  if (!options.tied_head) weights.Matrix("output.weight", vocab, options.width, 3, vocabulary.printable);
  if (options.edit) options.edit(gguf);
  return gguf.Bytes();
}

// Returns `path`.
inline std::string WriteTinyGguf(const std::string& path, const TinyGgufOptions& options = {}) {
  const std::string bytes = TinyGgufBytes(options);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush();
  if (!file) std::abort();
  return path;
}

}  // namespace interlace
