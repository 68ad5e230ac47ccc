// The Llama equations in double precision, straight from the papers and the GGUF conventions: no kernels, no cache,
// no ModelSpec. The oracle of tiny models.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/gguf.h"
#include "kernels/dequantise.h"

namespace interlace {

class LlamaDouble {
 public:
  explicit LlamaDouble(const GgufFile& file) : file_(file) {
    layers_ = *file.Integer("llama.block_count");
    heads_ = *file.Integer("llama.attention.head_count");
    kv_heads_ = *file.Integer("llama.attention.head_count_kv");
    head_dim_ = *file.Integer("llama.attention.key_length");
    epsilon_ = *file.Real("llama.attention.layer_norm_rms_epsilon");
    const double base = *file.Real("llama.rope.freq_base");
    const bool linear = file.Has("llama.rope.scaling.type") && *file.Text("llama.rope.scaling.type") == "linear";
    const double factor = linear ? *file.Real("llama.rope.scaling.factor") : 1;
    const std::vector<double> factors =
        file.Tensor("rope_freqs.weight").ok() ? Values("rope_freqs.weight") : std::vector<double>(head_dim_ / 2, 1.0);
    for (int64_t i = 0; i < head_dim_ / 2; ++i) {
      frequencies_.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim_)) / factor /
                             factors[i]);
    }
  }

  // [tokens][vocab]
  std::vector<std::vector<double>> Logits(const std::vector<int32_t>& tokens) const {
    const std::vector<double> table = Values("token_embd.weight");
    const int64_t width = (*file_.Tensor("token_embd.weight"))->dims[0];
    Rows x;
    for (int32_t token : tokens) x.emplace_back(table.begin() + token * width, table.begin() + (token + 1) * width);
    for (int64_t l = 0; l < layers_; ++l) {
      const std::string prefix = absl::StrCat("blk.", l, ".");
      Add(x, Attention(Norm(x, prefix + "attn_norm"), prefix));
      Add(x, FeedForward(Norm(x, prefix + "ffn_norm"), prefix));
    }
    const bool tied = !file_.Tensor("output.weight").ok();
    return Product(Norm(x, "output_norm"), tied ? "token_embd" : "output");
  }

 private:
  using Rows = std::vector<std::vector<double>>;

  static double Half(const uint8_t* at) {
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    const int exponent = bits >> 10 & 31;
    const double fraction = bits & 1023;
    const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -size : size;
  }

  // All elements of a tensor; its own reading of the formats.
  std::vector<double> Values(const std::string& name) const {
    const GgufTensor& tensor = **file_.Tensor(name);
    const auto* data = reinterpret_cast<const uint8_t*>(tensor.data.data());
    int64_t count = 1;
    for (int64_t dim : tensor.dims) count *= dim;
    std::vector<double> values(count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t block = i / 32, j = i % 32;
      const auto nibble = [&](const uint8_t* quanta) { return j < 16 ? quanta[j] & 15 : quanta[j - 16] >> 4; };
      if (tensor.type == GgufType::kF32) {
        float value;
        std::memcpy(&value, data + 4 * i, 4);
        values[i] = value;
      } else if (tensor.type == GgufType::kF16) {
        values[i] = Half(data + 2 * i);
      } else if (tensor.type == GgufType::kBF16) {
        const uint32_t bits = uint32_t{data[2 * i]} << 16 | uint32_t{data[2 * i + 1]} << 24;
        float value;
        std::memcpy(&value, &bits, 4);
        values[i] = value;
      } else if (tensor.type == GgufType::kQ8_0) {
        values[i] = Half(data + 34 * block) * static_cast<int8_t>(data[34 * block + 2 + j]);
      } else if (tensor.type == GgufType::kQ4_0) {
        values[i] = Half(data + 18 * block) * (nibble(data + 18 * block + 2) - 8);
      } else {
        values[i] = Half(data + 20 * block) * nibble(data + 20 * block + 4) + Half(data + 20 * block + 2);
      }
    }
    return values;
  }

  Rows Product(const Rows& x, const std::string& name) const {
    const std::vector<double> w = Values(name + ".weight");
    const size_t cols = x[0].size(), rows = w.size() / cols;
    Rows y(x.size(), std::vector<double>(rows, 0.0));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) y[t][r] += x[t][c] * w[r * cols + c];
      }
    }
    return y;
  }

  Rows Norm(const Rows& x, const std::string& name) const {
    const std::vector<double> weight = Values(name + ".weight");
    Rows y = x;
    for (std::vector<double>& row : y) {
      double squares = 0;
      for (double value : row) squares += value * value;
      const double scale = 1 / std::sqrt(squares / static_cast<double>(row.size()) + epsilon_);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * weight[i];
    }
    return y;
  }

  static void Add(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  }

  // Pairs (2i, 2i+1) of each head, by position * frequency.
  void Rotate(Rows& x) const {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t at = 0; at < x[t].size(); at += 2) {
        const double angle = static_cast<double>(t) * frequencies_[at % head_dim_ / 2];
        const double even = x[t][at], odd = x[t][at + 1];
        x[t][at] = even * std::cos(angle) - odd * std::sin(angle);
        x[t][at + 1] = even * std::sin(angle) + odd * std::cos(angle);
      }
    }
  }

  Rows Attention(const Rows& h, const std::string& prefix) const {
    Rows q = Product(h, prefix + "attn_q"), k = Product(h, prefix + "attn_k");
    const Rows v = Product(h, prefix + "attn_v");
    Rotate(q);
    Rotate(k);
    Rows out(h.size(), std::vector<double>(heads_ * head_dim_, 0.0));
    for (size_t t = 0; t < h.size(); ++t) {
      for (int64_t head = 0; head < heads_; ++head) {
        const int64_t at = head * head_dim_, kv_at = head / (heads_ / kv_heads_) * head_dim_;
        std::vector<double> weight(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int64_t i = 0; i < head_dim_; ++i) score += q[t][at + i] * k[s][kv_at + i];
          sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(head_dim_)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (int64_t i = 0; i < head_dim_; ++i) out[t][at + i] += weight[s] / sum * v[s][kv_at + i];
        }
      }
    }
    return Product(out, prefix + "attn_output");
  }

  Rows FeedForward(const Rows& h, const std::string& prefix) const {
    Rows gate = Product(h, prefix + "ffn_gate");
    const Rows up = Product(h, prefix + "ffn_up");
    for (size_t t = 0; t < gate.size(); ++t) {
      for (size_t i = 0; i < gate[t].size(); ++i) gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
    }
    return Product(gate, prefix + "ffn_down");
  }

  const GgufFile& file_;
  int64_t layers_, heads_, kv_heads_, head_dim_;
  double epsilon_;
  std::vector<double> frequencies_;
};

}  // namespace interlace
