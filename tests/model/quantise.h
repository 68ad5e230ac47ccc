// Rows of floats into GGUF's weight types, as llama.cpp's reference quantisers do. Tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/gguf.h"
#include "kernels/dequantise.h"

namespace interlace {

inline void Append16(std::string& out, uint16_t bits) { out.append(reinterpret_cast<const char*>(&bits), 2); }

// Nibbles of 32 values: low halves hold the first 16.
inline void AppendNibbles(std::string& out, const float* x, float scale, float minimum) {
  const auto quantum = [&](float v) {
    const float q = scale == 0 ? 0 : std::round((v - minimum) / scale);
    return static_cast<uint8_t>(std::clamp(q, 0.0f, 15.0f));
  };
  for (int j = 0; j < 16; ++j) out.push_back(static_cast<char>(quantum(x[j]) | quantum(x[j + 16]) << 4));
}

inline void AppendBlock(std::string& out, GgufType type, const float* x) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  if (type == GgufType::kQ8_0) {
    const float scale = std::max(std::abs(*low), std::abs(*high)) / 127;
    Append16(out, F32ToF16(scale));
    for (int j = 0; j < 32; ++j) out.push_back(static_cast<char>(scale == 0 ? 0 : std::round(x[j] / scale)));
  } else if (type == GgufType::kQ4_0) {
    const float scale = (std::abs(*low) > std::abs(*high) ? *low : *high) / -8;  // the extreme becomes quantum 0
    Append16(out, F32ToF16(scale));
    AppendNibbles(out, x, scale, -8 * scale);
  } else {  // Q4_1
    const float scale = (*high - *low) / 15;
    Append16(out, F32ToF16(scale));
    Append16(out, F32ToF16(*low));
    AppendNibbles(out, x, scale, *low);
  }
}

// Requires: for quantised types, the row length (and so the size) is a multiple of 32.
inline std::string Quantise(GgufType type, const std::vector<float>& values) {
  std::string out;
  switch (type) {
    case GgufType::kF32:
      out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
      break;
    case GgufType::kF16:
      for (float v : values) Append16(out, F32ToF16(v));
      break;
    case GgufType::kBF16:
      for (float v : values) Append16(out, F32ToBF16(v));
      break;
    case GgufType::kQ8_0:
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
      for (size_t i = 0; i < values.size(); i += 32) AppendBlock(out, type, &values[i]);
      break;
    default:
      std::abort();  // no quantiser here
  }
  return out;
}

}  // namespace interlace
