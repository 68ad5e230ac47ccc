// Pairs of sentences that mean the same, by bags of words: GPTCache's benchmark data, where INTERLACE_PHRASE_PAIRS
// names the file (https://github.com/zilliztech/GPTCache, examples/benchmark/mock_data.json).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "coordinator/response_cache/response_cache.h"
#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

constexpr uint64_t kWidth = 512;

std::vector<std::string> Words(const std::string& text) {
  std::vector<std::string> words;
  for (absl::string_view word : absl::StrSplit(absl::AsciiStrToLower(text), absl::ByAnyChar(" .,;:!?'\"()-/"))) {
    if (!word.empty()) words.emplace_back(word);
  }
  return words;
}

// A word is one of kWidth places, by FNV-1a; long ones say more.
std::vector<float> Embedding(const std::vector<std::string>& words) {
  std::vector<float> key(kWidth);
  for (const std::string& word : words) {
    uint64_t hash = 14695981039346656037u;
    for (const char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
    key[(hash >> 20) % kWidth] += std::sqrt(static_cast<float>(word.size()));
  }
  Normalise(&key);
  return key;
}

struct Pair {
  std::vector<std::string> origin, similar;
};

TEST(PhrasePairsTest, WrongAnswersStayWithinTheBound) {
  const char* path = std::getenv("INTERLACE_PHRASE_PAIRS");
  if (path == nullptr) GTEST_SKIP() << "INTERLACE_PHRASE_PAIRS names no file of pairs";
  std::ifstream file(path);
  ASSERT_TRUE(file.is_open()) << path;
  std::vector<Pair> pairs;
  for (const auto& pair : nlohmann::json::parse(file)) {
    pairs.push_back({Words(pair["origin"].get<std::string>()), Words(pair["similar"].get<std::string>())});
  }
  Neighbours origins(kWidth);
  for (size_t i = 0; i < pairs.size(); ++i) origins.Put(i, Embedding(pairs[i].origin));
  size_t nearest = 0;
  for (size_t i = 0; i < pairs.size(); ++i) nearest += origins.Nearest(Embedding(pairs[i].similar), 1)[0].id == i;
  std::cout << pairs.size() << " pairs; the nearest origin is its own for " << nearest << "\n";
  EXPECT_GT(nearest, pairs.size() * 8 / 10);

  // Each meaning is asked for 60 times, in either phrase, with words left out.
  for (const double error : {0.01, 0.02, 0.05}) {
    ResponseCache cache({.most_bytes = int64_t{1} << 30, .error = error}, MakeSeededEntropy(1), nullptr);
    const auto entropy = MakeSeededEntropy(2);
    const size_t requests = 60 * pairs.size();
    size_t hits = 0, wrong = 0;
    for (size_t i = 0; i < requests; ++i) {
      const size_t which = entropy->Next() % pairs.size();
      std::vector<std::string> words;
      for (const std::string& word : entropy->Next() % 2 == 0 ? pairs[which].origin : pairs[which].similar) {
        if (Uniform(*entropy) < 0.9) words.push_back(word);
      }
      std::vector<float> key = Embedding(words);
      if (!Normalise(&key)) continue;
      const AnswerKey name{{1, 1}, {2, i}};
      const KeptAnswer answer{{static_cast<int32_t>(which)}, FinishReason::kLength, -1, 1, 1};
      const CacheFound found = cache.Nearest(name, key, 100, absl::UnixEpoch());
      if (found.kind == CacheFound::Kind::kHit) {
        ++hits;
        wrong += !SameAnswer(*found.answer, answer);
        continue;
      }
      const bool same = found.kind == CacheFound::Kind::kTrial && cache.Compare(name, found, answer, true);
      if (!same) cache.Keep(name, key, answer, absl::UnixEpoch());
    }
    const auto share = [&](size_t part) { return static_cast<double>(part) / static_cast<double>(requests); };
    std::cout << "bound " << error << ": " << share(hits) << " of " << requests << " requests served, " << share(wrong)
              << " wrongly; " << cache.counts().entries << " entries\n";
    EXPECT_LE(share(wrong), error + 3 * std::sqrt(error / static_cast<double>(requests)));
  }
}

}  // namespace
}  // namespace interlace
