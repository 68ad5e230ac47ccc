// Two tiers as one: a small fast one over a large durable one.
#include <utility>

#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

// The upper tier answers at once ("memory"). Its name, and its bytes, do not show: what the lower one holds is what
// this tier is counted by, since everything in the upper one was offered to the lower one as well.
class LayeredTier final : public KvTier {
 public:
  LayeredTier(std::unique_ptr<KvTier> upper, std::unique_ptr<KvTier> lower)
      : upper_(std::move(upper)), lower_(std::move(lower)) {}

  absl::string_view name() const override { return "layered"; }
  bool Wants() const override { return upper_->Wants(); }

  void Probe(std::vector<BlockKey> keys, ProbeDone done) override {
    std::vector<BlockKey> copy = keys;
    upper_->Probe(std::move(copy), [this, keys = std::move(keys), done = std::move(done)](auto held) mutable {
      std::vector<BlockKey> missing;
      for (size_t i = 0; i < keys.size(); ++i) {
        if (!held[i]) missing.push_back(keys[i]);
      }
      if (missing.empty()) return done(std::move(held));
      lower_->Probe(std::move(missing), [held = std::move(held), done = std::move(done)](auto below) mutable {
        size_t next = 0;
        for (size_t i = 0; i < held.size(); ++i) {
          if (!held[i]) held[i] = below[next++];
        }
        done(std::move(held));
      });
    });
  }

  // OK as soon as the upper tier holds the block; the lower one stores it behind that, if it wants to.
  void Put(std::vector<StoredBlock> blocks, PutDone done) override {
    if (lower_->Wants()) lower_->Put(blocks, [](auto) {});
    upper_->Put(std::move(blocks), std::move(done));
  }

  void Get(std::vector<BlockKey> keys, GetDone done) override {
    std::vector<BlockKey> copy = keys;
    upper_->Get(std::move(copy), [this, keys = std::move(keys), done = std::move(done)](auto answers) mutable {
      std::vector<BlockKey> missing;
      for (size_t i = 0; i < keys.size(); ++i) {
        if (!answers[i].ok()) missing.push_back(keys[i]);
      }
      if (missing.empty()) return done(std::move(answers));
      std::vector<BlockKey> asked = missing;
      lower_->Get(std::move(asked), [this, missing = std::move(missing), answers = std::move(answers),
                                     done = std::move(done)](auto below) mutable {
        std::vector<StoredBlock> risen;
        for (size_t i = 0, next = 0; i < answers.size(); ++i) {
          if (answers[i].ok()) continue;
          if (below[next].ok()) risen.push_back({missing[next], 0, *below[next]});
          answers[i] = std::move(below[next++]);
        }
        if (!risen.empty()) upper_->Put(std::move(risen), [](auto) {});
        done(std::move(answers));
      });
    });
  }

  void Drop(std::vector<BlockKey> keys) override {
    upper_->Drop(keys);
    lower_->Drop(std::move(keys));
  }

  TierUsage Usage() override { return lower_->Usage(); }

 private:
  const std::unique_ptr<KvTier> upper_;  // outlives lower_, which may answer into it while it dies
  const std::unique_ptr<KvTier> lower_;
};

}  // namespace

std::unique_ptr<KvTier> MakeLayeredTier(std::unique_ptr<KvTier> upper, std::unique_ptr<KvTier> lower) {
  return std::make_unique<LayeredTier>(std::move(upper), std::move(lower));
}

}  // namespace interlace
