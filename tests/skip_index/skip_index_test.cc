// The index: scopes never meet, the nearest useful entry is found, bad entries go, and it keeps within its bytes.
#include "coordinator/skip_index/skip_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/skip_index/key_cloud.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 12, kWidth = 32;

SkipIndex::Options OptionsOf(int64_t bytes = 64 << 20) { return {"model", kLayers, kWidth, bytes}; }
PassCosts Costs() { return {.layers = kLayers}; }
const Acceptance kGood(200, 190);

// Makes the index know what keys of the scope have in common: next to nothing.
void Warm(SkipIndex& index, const SkipScope& scope, Entropy& entropy) {
  for (int i = 0; i < 20; ++i) index.Lookup(scope, RandomKey(entropy, kWidth), Costs(), 1, 1);
}
// An entry that has served prompts like it well.
uint64_t Trusted(SkipIndex& index, const SkipScope& scope, const std::vector<float>& key, const SkipPlan& plan) {
  const uint64_t entry = index.Insert(scope, key, plan, kGood);
  for (int i = 0; i < 32; ++i) index.Note(entry, {1, i < 26 ? 0.95F : 0.75F, false, 10, 9, 0.1, i < 26});
  return entry;
}

TEST(SkipScopeTest, AnyFieldThatDiffersGivesAnotherScope) {
  const SkipScopeFields base{"m", "n", 3, "a", "c", "t", "s"};
  std::vector<SkipScopeFields> all(8, base);
  all[1].model_digest = "m2";
  all[2].numerics = "";
  all[3].layer = 4;
  all[4].adapter = "";
  all[5].chat_template = "cc";
  all[6].tenant = "u";
  all[7].salt = "";
  // The same letters, cut otherwise.
  all.push_back({"mn", "", 3, "a", "c", "t", "s"});
  all.push_back({"m", "n", 3, "ac", "", "t", "s"});
  all.push_back({"m", "n", 3, "a", "c", "", "ts"});
  std::set<SkipScope> scopes;
  for (const SkipScopeFields& fields : all) scopes.insert(ScopeOf(fields));
  EXPECT_EQ(scopes.size(), all.size());
  EXPECT_EQ(ScopeOf(base), ScopeOf(base));
}

TEST(SkipIndexTest, AnyScopeDifferenceNeverHits) {
  const auto entropy = MakeSeededEntropy(1);
  SkipIndex index(OptionsOf());
  std::vector<SkipScope> scopes;
  for (int i = 0; i < 6; ++i) {
    scopes.push_back(ScopeOf({"model", "n", 3, "", i % 2 == 0 ? "c" : "d", absl::StrCat("tenant", i / 2), ""}));
  }
  std::map<uint64_t, SkipScope> of;
  std::vector<std::vector<float>> keys;
  for (const SkipScope& scope : scopes) Warm(index, scope, *entropy);
  for (int i = 0; i < 60; ++i) {
    keys.push_back(RandomKey(*entropy, kWidth));
    const SkipScope& scope = scopes[i % 5];  // the last one has none
    of[Trusted(index, scope, keys.back(), RandomPlan(*entropy, kLayers, 0.5))] = scope;
  }
  int hits = 0;
  for (int i = 0; i < 600; ++i) {
    const SkipScope& scope = scopes[entropy->Next() % scopes.size()];
    const SkipFound found = index.Lookup(scope, keys[entropy->Next() % keys.size()], Costs(), 1, Uniform(*entropy));
    if (found.entry == 0) continue;
    ++hits;
    EXPECT_EQ(of.at(found.entry), scope);
    EXPECT_NE(scope, scopes[5]);
  }
  EXPECT_GT(hits, 50);
}

TEST(SkipIndexTest, TheNearestEntryThatGainsIsFound) {
  const auto entropy = MakeSeededEntropy(2);
  SkipIndex index(OptionsOf());
  const SkipScope scope{1, 2};
  Warm(index, scope, *entropy);
  std::map<uint64_t, std::vector<float>> keys;
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> key = RandomKey(*entropy, kWidth);
    keys[Trusted(index, scope, key, RandomPlan(*entropy, kLayers, 0.6))] = key;
  }
  int hits = 0;
  for (int i = 0; i < 500; ++i) {
    auto near = keys.begin();
    std::advance(near, static_cast<ptrdiff_t>(entropy->Next() % keys.size()));
    const std::vector<float> key = Near(*entropy, near->second, 0.3);
    uint64_t nearest = 0;
    double most = -2, second = -2;
    for (const auto& [id, other] : keys) {
      const double dot = Dot(other, key);
      if (dot > most) nearest = id;
      second = dot > most ? most : std::max(second, dot);
      most = std::max(most, dot);
    }
    const SkipFound found = index.Lookup(scope, key, Costs(), 1, 0.999);
    if (found.kind != SkipFound::Kind::kHit) continue;
    ++hits;
    if (most - second > 1e-5) {
      EXPECT_EQ(found.entry, nearest);
    }
    EXPECT_NEAR(found.similarity, most, 1e-5);
    EXPECT_EQ(found.plan, index.EntryOf(found.entry)->plan);
  }
  EXPECT_GT(hits, 400);
}

TEST(SkipIndexTest, AnEntryThatPromisesNoGainIsNoHit) {
  const auto entropy = MakeSeededEntropy(3);
  SkipIndex index(OptionsOf());
  const SkipScope scope{1, 2};
  Warm(index, scope, *entropy);
  const std::vector<float> key = RandomKey(*entropy, kWidth);
  const SkipPlan plan = SkipPlan::Evenly(8, kLayers);
  const uint64_t entry = Trusted(index, scope, key, plan);
  const double loss = PlanLoss(Costs(), plan, index.EntryOf(entry)->acceptance.mean());
  EXPECT_EQ(index.Lookup(scope, key, Costs(), loss + 0.01, 0.999).kind, SkipFound::Kind::kHit);
  EXPECT_EQ(index.Lookup(scope, key, Costs(), loss - 0.01, 0.999).kind, SkipFound::Kind::kNone);
  for (int i = 0; i < 100; ++i) index.Note(entry, {1, 1, false, 10, 1, 0, std::nullopt});
  EXPECT_EQ(index.Lookup(scope, key, Costs(), 2, 0.999).kind, SkipFound::Kind::kNone) << "its guesses are wrong";
}

TEST(SkipIndexTest, WhatIsNotKnownIsTriedFirst) {
  const auto entropy = MakeSeededEntropy(4);
  SkipIndex index(OptionsOf());
  const SkipScope scope{1, 2};
  const std::vector<float> key = RandomKey(*entropy, kWidth);
  const uint64_t entry = index.Insert(scope, key, SkipPlan::Evenly(8, kLayers), kGood);
  EXPECT_EQ(index.Lookup(scope, key, Costs(), 1, 0.999).kind, SkipFound::Kind::kNone)
      << "what any two prompts have in common is not known";
  Warm(index, scope, *entropy);
  EXPECT_EQ(index.Lookup(scope, key, Costs(), 1, 0.999).kind, SkipFound::Kind::kTrial);
  for (int i = 0; i < HitThreshold::kLeast; ++i) index.Note(entry, {1, 0.9F, false, 20, 19, 0.1, true});
  EXPECT_EQ(index.Lookup(scope, key, Costs(), 1, 0.999).kind, SkipFound::Kind::kHit);
}

// Keys that all point the same way are like each other only beyond that.
TEST(SkipIndexTest, WhatAllKeysHaveInCommonDoesNotCount) {
  const auto entropy = MakeSeededEntropy(5);
  SkipIndex index(OptionsOf());
  const SkipScope scope{1, 2};
  const std::vector<float> direction = RandomKey(*entropy, kWidth);
  for (int i = 0; i < 200; ++i) index.Lookup(scope, Near(*entropy, direction, 0.4), Costs(), 1, 1);
  double mean = 0, least = 1;
  for (int i = 0; i < 200; ++i) {
    const float similarity = Dot(Near(*entropy, direction, 0.4), Near(*entropy, direction, 0.4));
    mean += index.Likeness(scope, similarity).value() / 200;
    least = std::min<double>(least, similarity);
  }
  EXPECT_GT(least, 0.6);
  EXPECT_LT(mean, 0.15);
  EXPECT_EQ(index.Likeness(scope, 1).value(), 1);
}

TEST(SkipIndexTest, ItKeepsWithinItsBytesWhateverComes) {
  const auto entropy = MakeSeededEntropy(6);
  for (const int64_t bytes : {int64_t{1} << 10, int64_t{100} << 10, int64_t{1} << 20}) {
    SkipIndex index(OptionsOf(bytes));
    std::vector<uint64_t> entries;
    const int64_t empty_scope = 2000;
    for (int i = 0; i < 3000; ++i) {
      const SkipScope scope{1, entropy->Next() % 3};
      entries.push_back(index.Insert(scope, RandomKey(*entropy, kWidth), RandomPlan(*entropy, kLayers, 0.3), kGood));
      const uint64_t any = entries[entropy->Next() % entries.size()];
      index.Note(any, {0.9F, 0.8F, true, 10, 8, Uniform(*entropy) - 0.2, Uniform(*entropy) < 0.9});
      ASSERT_LE(index.counts().bytes, std::max(bytes, 3 * empty_scope + 64 * 400)) << i;
    }
    const SkipCounts counts = index.counts();
    EXPECT_EQ(counts.entries + counts.evictions + counts.demotions, counts.insertions);
    if (bytes >= 100 << 10) {
      EXPECT_GT(counts.entries, 20);
    }
  }
}

TEST(SkipIndexTest, WhatSavesMostStaysAndGhostsSayWhatMoreWouldGive) {
  const auto entropy = MakeSeededEntropy(7);
  SkipIndex index(OptionsOf(200 << 10));
  const SkipScope scope{1, 2};
  Warm(index, scope, *entropy);
  const std::vector<float> good = RandomKey(*entropy, kWidth);
  const uint64_t kept = Trusted(index, scope, good, SkipPlan::Evenly(8, kLayers));
  std::vector<std::vector<float>> poor;
  for (int i = 0; i < 1000; ++i) {
    if (index.Lookup(scope, good, Costs(), 1, 0.999).entry == kept) {
      index.Note(kept, {1, 1, true, 20, 19, 1.0, true});
    }
    poor.push_back(RandomKey(*entropy, kWidth));
    Trusted(index, scope, poor.back(), SkipPlan::Evenly(8, kLayers));
    const SkipFound found = index.Lookup(scope, poor.back(), Costs(), 1, 0.999);
    if (found.kind == SkipFound::Kind::kHit) index.Note(found.entry, {1, 1, true, 20, 19, 0.001, true});
  }
  EXPECT_TRUE(index.Has(kept));
  EXPECT_GT(index.counts().evictions, 500);
  const double before = index.counts().saved_by_a_mib;
  for (int i = 0; i < 1000; ++i) index.Lookup(scope, poor[i], Costs(), 1, 0.999);
  EXPECT_GT(index.counts().saved_by_a_mib, before) << "evicted ones would have been hits";
  const double strangers = index.counts().saved_by_a_mib;
  for (int i = 0; i < 1000; ++i) index.Lookup({3, 4}, poor[i], Costs(), 1, 0.999);
  EXPECT_EQ(index.counts().saved_by_a_mib, strangers) << "ghosts are of their scope";
}

// Random plans, and entries that say to have been good when they were not: each use costs, and they go.
TEST(SkipIndexTest, PoisonedEntriesAreDemoted) {
  const auto entropy = MakeSeededEntropy(8);
  SkipIndex index(OptionsOf());
  const SkipScope scope{1, 2};
  Warm(index, scope, *entropy);
  std::vector<std::vector<float>> keys;
  std::set<uint64_t> poisoned, sound;
  for (int i = 0; i < 200; ++i) {
    keys.push_back(RandomKey(*entropy, kWidth));
    const bool bad = i % 2 == 0;
    (bad ? poisoned : sound)
        .insert(index.Insert(scope, keys.back(), RandomPlan(*entropy, kLayers, 0.5), Acceptance(500, 499)));
  }
  int64_t uses = 0, false_hits = 0, late = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::vector<float> key = Near(*entropy, keys[entropy->Next() % keys.size()], 0.2);
    const SkipFound found = index.Lookup(scope, key, Costs(), 1, Uniform(*entropy));
    ++uses;
    if (found.entry == 0) continue;
    const bool good = !poisoned.contains(found.entry);
    const bool hit = found.kind == SkipFound::Kind::kHit;
    late += !good && i > 10000 ? 1 : 0;
    false_hits += hit && !good ? 1 : 0;
    index.Note(found.entry, {found.similarity, found.likeness, hit, 20, good ? 19.0 : 4.0, good ? 0.1 : -0.1, good});
  }
  int64_t left = 0;
  for (const uint64_t entry : sound) left += index.Has(entry) ? 1 : 0;
  EXPECT_EQ(left, static_cast<int64_t>(sound.size()));
  EXPECT_GT(index.counts().demotions, 80);
  EXPECT_EQ(late, 0) << "those that are left promise no gain any more";
  EXPECT_EQ(index.counts().false_hits, false_hits);
  EXPECT_LT(false_hits, uses / 100);
  EXPECT_GT(index.counts().hits, uses / 4);
}

TEST(SkipIndexTest, ScopesAreBounded) {
  const auto entropy = MakeSeededEntropy(9);
  SkipIndex index(OptionsOf());
  const SkipScope used{7, 7};
  const uint64_t entry = index.Insert(used, RandomKey(*entropy, kWidth), {}, kGood);
  for (uint64_t i = 0; i < 3 * SkipIndex::kMostScopes; ++i) {
    index.Lookup({1, i}, RandomKey(*entropy, kWidth), Costs(), 1, 0);
    index.SetStatic({1, i}, {}, kGood);
  }
  EXPECT_LE(index.counts().scopes, static_cast<int64_t>(SkipIndex::kMostScopes));
  EXPECT_TRUE(index.Has(entry)) << "scopes without entries go first";
  EXPECT_LE(index.Changes({}, size_t{1} << 30).scopes.size(), SkipIndex::kMostScopes);
}

}  // namespace
}  // namespace interlace
