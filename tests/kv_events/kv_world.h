// KvWorld: blocks that come, move and go as a directory's do, and the readers of what is said of them.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/entropy.h"
#include "common/executor.h"
#include "coordinator/kv_events/kv_event_log.h"
#include "coordinator/kv_events/kv_event_msgpack.h"
#include "coordinator/kv_observer.h"

namespace interlace {

// Uniform in [low, high].
inline int32_t Draw(Entropy& entropy, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}

// Runs what was posted when told to.
class LateExecutor final : public Executor {
 public:
  bool Post(Task task) override {
    tasks_.push_back(std::move(task));
    return true;
  }
  void Run() {
    while (!tasks_.empty()) {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      task();
    }
  }
  size_t waiting() const { return tasks_.size(); }

 private:
  std::deque<Task> tasks_;
};

// What a reader believes: by hash, the tokens of the block and all before it, and its medium, with the name of its
// adapter behind a slash.
using KvBelief = std::map<int64_t, std::pair<std::vector<int32_t>, std::string>>;

// A directory by chance, which keeps the contract of KvObserver. Blocks have 4 tokens and form a tree.
class KvWorld {
 public:
  static constexpr int32_t kTokens = 4;

  // Worlds of one `tree` are replicas of one another: the same blocks, each with places of its own.
  KvWorld(Entropy& entropy, uint64_t tree, KvObserver& observer) : entropy_(entropy), observer_(observer) {
    const std::unique_ptr<Entropy> of_tree = MakeSeededEntropy(tree);
    Entropy& chance = *of_tree;
    for (int32_t b = 0; b < 40; ++b) {
      Block block;
      block.id = {chance.Next(), chance.Next()};
      if (Draw(chance, 0, 9) == 0) block.salt = "tenant";
      if (Draw(chance, 0, 3) == 0) {
        block.adapter = std::make_shared<const ServedAdapter>(ServedAdapter{b + 1, absl::StrCat("lora", b), "", ""});
      }
      if (b > 0 && Draw(chance, 0, 6) > 0) {
        const Block& parent = blocks_[static_cast<size_t>(Draw(chance, b > 5 ? b - 5 : 0, b - 1))];
        block.parent = parent.id;
        block.salt = parent.salt;
        block.adapter = parent.adapter;
        block.text = parent.text;
      }
      for (int32_t t = 0; t < kTokens; ++t) block.text.push_back(Draw(chance, 0, 100000));
      at_[block.id] = blocks_.size();
      blocks_.push_back(std::move(block));
    }
  }

  void Step() {
    Block& block = blocks_[static_cast<size_t>(Draw(entropy_, 0, static_cast<int32_t>(blocks_.size()) - 1))];
    const int32_t roll = Draw(entropy_, 0, 199);
    if (roll == 0) {
      for (Block& b : blocks_) b.alive = false, b.medium.reset();
      return observer_.OnCleared();
    }
    if (!block.alive) {
      const auto own = absl::MakeConstSpan(block.text).last(kTokens);
      observer_.OnSealed({block.id, block.parent, own, block.salt, block.adapter});
      block.alive = true;
    } else if (roll < 140) {
      const KvMedium medium = roll < 90 ? KvMedium::kDevice : KvMedium::kHost;
      if (block.medium == medium) return;
      observer_.OnStored(block.id, medium);
      block.medium = medium;
    } else if (block.medium) {
      observer_.OnRemoved(block.id, *block.medium);
      block.medium.reset();
    } else {
      observer_.OnErased(block.id);
      block.alive = false;
    }
  }

  // Blocks that lie in some of the worlds with all before them, and have no salt.
  static KvBelief Right(const std::vector<const KvWorld*>& worlds) {
    const auto medium = [&](size_t b) {
      std::optional<KvMedium> best;
      for (const KvWorld* world : worlds) {
        const std::optional<KvMedium>& here = world->blocks_[b].medium;
        if (here && best != KvMedium::kDevice) best = here;
      }
      return best;
    };
    KvBelief right;
    const KvWorld& any = *worlds[0];
    for (size_t b = 0; b < any.blocks_.size(); ++b) {
      size_t up = b;
      while (medium(up) && any.blocks_[up].parent != BlockId{}) up = any.at_.at(any.blocks_[up].parent);
      const Block& block = any.blocks_[b];
      if (!medium(up) || !block.salt.empty()) continue;
      const std::string adapter = block.adapter == nullptr ? "" : absl::StrCat("/", block.adapter->name);
      right[HashOf(block.id)] = {block.text, MediumName(*medium(b)) + adapter};
    }
    return right;
  }

 private:
  struct Block {
    BlockId id, parent;
    std::vector<int32_t> text;  // its own tokens last
    std::string salt;
    std::shared_ptr<const ServedAdapter> adapter;
    bool alive = false;
    std::optional<KvMedium> medium;
  };
  Entropy& entropy_;
  KvObserver& observer_;
  std::vector<Block> blocks_;
  std::map<BlockId, size_t> at_;
};

// Reads payloads as a router does, and fails the test where one would lose its way.
class KvReader {
 public:
  void Read(const std::string& payload) {
    const nlohmann::json batch = nlohmann::json::from_msgpack(payload);
    ASSERT_EQ(batch.size(), 3u);
    EXPECT_GT(batch[0].get<double>(), 1e9);
    EXPECT_EQ(batch[2], 0);
    for (const nlohmann::json& event : batch[1]) {
      if (event[0] == "BlockStored") {
        event[3].empty() ? Moved(event) : Stored(event);
      } else if (event[0] == "BlockRemoved") {
        for (const nlohmann::json& hash : event[1]) {
          EXPECT_EQ(media_[hash].erase(event[2]), 1u) << "removed from where it does not lie";
          if (!media_[hash].empty()) continue;
          media_.erase(hash);
          texts_.erase(hash);
        }
      } else {
        ASSERT_EQ(event, nlohmann::json::array({"AllBlocksCleared"}));
        media_.clear();
        texts_.clear();
      }
    }
  }
  KvBelief belief() const {
    KvBelief belief;
    for (const auto& [hash, media] : media_) {
      EXPECT_EQ(media.size(), 1u) << "in two places at the end of a batch";
      belief[hash] = {texts_.at(hash), *media.begin() + adapters_.at(hash)};
    }
    return belief;
  }

 private:
  void Stored(const nlohmann::json& event) {
    ASSERT_EQ(event.size(), 8u);
    std::vector<int32_t> text;
    if (!event[2].is_null()) {
      ASSERT_EQ(media_.count(event[2]), 1u) << "a block behind one that was never told";
      text = texts_.at(event[2]);
    }
    ASSERT_EQ(event[5].is_null(), event[7].is_null());
    std::string adapter;
    if (!event[7].is_null()) {
      adapter = absl::StrCat("/", event[7].get<std::string>());
      EXPECT_EQ(adapter, absl::StrCat("/lora", event[5].get<int32_t>() - 1));
    }
    if (!event[2].is_null()) {
      EXPECT_EQ(adapters_.at(event[2]), adapter) << "another adapter than its parent's";
    }
    const size_t size = event[4];
    ASSERT_EQ(event[3].size(), size * event[1].size());
    for (size_t b = 0; b < event[1].size(); ++b) {
      for (size_t t = 0; t < size; ++t) text.push_back(event[3][b * size + t]);
      ASSERT_EQ(media_.count(event[1][b]), 0u) << "told for the first time again";
      texts_[event[1][b]] = text;
      adapters_[event[1][b]] = adapter;
      media_[event[1][b]].insert(event[6]);
    }
  }
  void Moved(const nlohmann::json& event) {
    EXPECT_TRUE(event[2].is_null());
    for (const nlohmann::json& hash : event[1]) {
      ASSERT_EQ(media_.count(hash), 1u) << "moved, and never told";
      EXPECT_TRUE(media_[hash].insert(event[6]).second) << "moved to where it lies";
    }
  }

  std::map<int64_t, std::vector<int32_t>> texts_;
  std::map<int64_t, std::string> adapters_;  // of blocks that were ever told
  std::map<int64_t, std::set<std::string>> media_;
};

}  // namespace interlace
