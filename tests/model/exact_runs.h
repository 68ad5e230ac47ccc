// Runs the same prompts in many shapes and compares every bit. Tests only.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/plain_engine.h"

namespace interlace {

using Prompts = std::vector<std::vector<int32_t>>;

inline Prompts RandomPrompts(int count, int64_t shortest, int64_t longest, int32_t vocab, Random& random) {
  Prompts prompts(count);
  for (std::vector<int32_t>& prompt : prompts) {
    prompt.resize(random.Between(shortest, longest));
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.Below(vocab));
  }
  return prompts;
}

// What a run gives per prompt: the hidden state of every row, and the logits of every `logit_stride`-th and the last.
struct ExactResult {
  std::vector<std::vector<float>> hidden;
  std::vector<std::vector<float>> logits;
};

struct ExactShape {
  PlainOptions options;
  int32_t chunk = 512;    // rows of a prompt in a step; 0: random, new in each step
  bool together = false;  // prompts share steps, in random order
  std::string ToString() const {
    return absl::StrCat("ops=", options.ops, " threads=", options.threads, " stages=", options.stages, " chunk=", chunk,
                        " together=", together);
  }
};

// One step of `shape`: which prompts advance by how much. Empty when all are done.
inline std::vector<std::pair<int, std::vector<int32_t>>> NextStep(const Prompts& prompts, const PlainEngine& engine,
                                                                  const ExactShape& shape, Random& random) {
  std::vector<std::pair<int, std::vector<int32_t>>> parts;
  std::vector<int> order(prompts.size());
  std::iota(order.begin(), order.end(), 0);
  if (shape.together) random.Shuffle(order);
  int64_t room = shape.options.max_tokens;
  for (int p : order) {
    const std::vector<int32_t>& prompt = prompts[p];
    const int32_t done = engine.length(p);
    const int64_t wanted = shape.chunk > 0 ? shape.chunk : random.Between(1, 40);
    const int64_t count = std::min({wanted, static_cast<int64_t>(prompt.size()) - done, room});
    if (count <= 0) continue;
    parts.emplace_back(p, std::vector<int32_t>(prompt.begin() + done, prompt.begin() + done + count));
    room -= count;
    if (!shape.together) break;
  }
  return parts;
}

// Source: GgufFile or Checkpoint.
template <typename Source>
ExactResult RunExact(const Source& file, const Prompts& prompts, const ExactShape& shape, int32_t logit_stride,
                     Random& random) {
  auto engine = PlainEngine::Make(file, shape.options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return {};
  PlainEngine& e = **engine;
  ExactResult result{.hidden = std::vector<std::vector<float>>(prompts.size()),
                     .logits = std::vector<std::vector<float>>(prompts.size())};
  while (true) {
    const auto parts = NextStep(prompts, e, shape, random);
    if (parts.empty()) return result;
    e.Step(parts);
    std::vector<int32_t> rows;
    std::vector<int> owners;
    int32_t row = 0;
    const std::vector<float> hidden = e.hidden();
    for (const auto& [p, tokens] : parts) {
      const auto count = static_cast<int32_t>(tokens.size());
      const float* from = hidden.data() + int64_t{row} * e.spec().width;
      result.hidden[p].insert(result.hidden[p].end(), from, from + int64_t{count} * e.spec().width);
      for (int32_t i = 0; i < count; ++i) {
        const int32_t position = e.length(p) - count + i;
        const bool last = position + 1 == static_cast<int32_t>(prompts[p].size());
        if (position % logit_stride != 0 && !last) continue;
        rows.push_back(row + i);
        owners.push_back(p);
      }
      row += count;
    }
    const std::vector<float> logits = e.Logits(rows);
    for (size_t i = 0; i < owners.size(); ++i) {
      const auto from = logits.begin() + static_cast<int64_t>(i) * e.spec().vocab;
      result.logits[owners[i]].insert(result.logits[owners[i]].end(), from, from + e.spec().vocab);
    }
  }
}

inline void ExpectSameBits(const ExactResult& want, const ExactResult& got, const std::string& what) {
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  ASSERT_EQ(want.hidden.size(), got.hidden.size());
  for (size_t p = 0; p < want.hidden.size(); ++p) {
    EXPECT_TRUE(same(want.hidden[p], got.hidden[p])) << "hidden states of prompt " << p << " differ: " << what;
    EXPECT_TRUE(same(want.logits[p], got.logits[p])) << "logits of prompt " << p << " differ: " << what;
  }
}

}  // namespace interlace
