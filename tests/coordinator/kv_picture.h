// KvPicture: what somebody knows of a replica's blocks who hears its events alone.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/block_directory.h"
#include "coordinator/kv_observer.h"

namespace interlace {

// Fails the test when the contract of KvObserver is broken.
class KvPicture final : public KvObserver {
 public:
  struct Block {
    BlockId parent;
    std::vector<int32_t> tokens;
    std::string salt;
    std::optional<KvMedium> medium;  // none: it lies nowhere
    std::shared_ptr<const ServedAdapter> adapter;
  };

  void OnSealed(const KvBlockSeen& block) override {
    const Block known{
        block.parent, {block.tokens.begin(), block.tokens.end()}, std::string(block.salt), std::nullopt, block.adapter};
    EXPECT_TRUE(blocks.emplace(block.id, known).second) << "told twice: " << IdText(block.id);
    fresh.push_back(block.id);
  }
  void OnStored(const BlockId& id, KvMedium medium) override {
    auto it = blocks.find(id);
    ASSERT_TRUE(it != blocks.end()) << "stored, and never described: " << IdText(id);
    EXPECT_NE(it->second.medium, std::optional(medium)) << "it lies there already";
    ++(it->second.medium ? moved : medium == KvMedium::kDevice ? stored_on_device : stored_on_host);
    it->second.medium = medium;
  }
  void OnRemoved(const BlockId& id, KvMedium medium) override {
    auto it = blocks.find(id);
    ASSERT_TRUE(it != blocks.end()) << "removed, and never described: " << IdText(id);
    EXPECT_EQ(it->second.medium, std::optional(medium)) << "removed from where it does not lie";
    it->second.medium.reset();
    ++removed;
  }
  void OnErased(const BlockId& id) override {
    auto it = blocks.find(id);
    ASSERT_TRUE(it != blocks.end()) << "erased, and never described: " << IdText(id);
    EXPECT_FALSE(it->second.medium) << "erased where it lies";
    blocks.erase(it);
  }
  void OnCleared() override {
    blocks.clear();
    fresh.clear();
    ++cleared;
  }

  // The picture is what is so. `directory` may be null: no replica is formed. `prefix`: layers without which no prefix
  // is of use.
  void ExpectSame(const BlockDirectory* directory, const LayerSet& prefix) const {
    if (directory == nullptr) {
      EXPECT_TRUE(blocks.empty()) << "blocks of a replica that is gone";
      return;
    }
    size_t own = 0;
    directory->ForEach([&](const BlockEntry& entry) {
      own += entry.own ? 1 : 0;
      if (entry.own) {
        EXPECT_EQ(blocks.count(entry.id), 0u) << "told of a bounded stream's " << IdText(entry.id);
        return;
      }
      auto it = blocks.find(entry.id);
      ASSERT_TRUE(it != blocks.end()) << "never told of " << IdText(entry.id);
      bool held = true, on_device = true;
      for (int32_t l = 0; l < LayerSet::kMaxLayers; ++l) {
        const LayerId layer{l};
        const bool there = !entry.arriving.Has(layer) && (entry.device.Has(layer) || entry.host.Has(layer));
        held = held && (there || !prefix.Has(layer));
        on_device = on_device && (!there || entry.device.Has(layer));
      }
      std::optional<KvMedium> medium;
      if (held) medium = on_device ? KvMedium::kDevice : KvMedium::kHost;
      EXPECT_EQ(it->second.medium, medium) << IdText(entry.id);
    });
    EXPECT_EQ(blocks.size() + own, directory->size());
  }

  std::map<BlockId, Block> blocks;
  std::vector<BlockId> fresh;  // described since somebody emptied it
  int64_t stored_on_device = 0, stored_on_host = 0, moved = 0, removed = 0, cleared = 0;
};

}  // namespace interlace
