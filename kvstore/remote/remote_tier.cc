// "remote": blocks in a kvstore that all ranks share, reached by transport messages.
#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/remote/remote_store.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

// Cuts calls into messages.
class RemoteTier final : public KvTier {
 public:
  explicit RemoteTier(std::shared_ptr<RemoteStore> store) : store_(std::move(store)) {}
  ~RemoteTier() override { store_->Stop(); }

  absl::string_view name() const override { return "remote"; }
  bool Wants() const override { return store_->Wants(); }

  void Probe(std::vector<BlockKey> keys, ProbeDone done) override {
    auto call = std::make_shared<RemoteCall>(KvOp::kProbe, keys.size(), [done = std::move(done)](auto answers) mutable {
      std::vector<bool> held;
      for (const absl::StatusOr<SharedBytes>& answer : answers) held.push_back(answer.ok());
      done(std::move(held));
    });
    store_->Submit(std::move(call),
                   [&](size_t first, int64_t, auto* message) { return CutKeys(keys, first, message); });
  }

  void Get(std::vector<BlockKey> keys, GetDone done) override {
    auto call = std::make_shared<RemoteCall>(KvOp::kGet, keys.size(), std::move(done));
    store_->Submit(std::move(call),
                   [&](size_t first, int64_t, auto* message) { return CutKeys(keys, first, message); });
  }

  void Put(std::vector<StoredBlock> blocks, PutDone done) override {
    auto call = std::make_shared<RemoteCall>(KvOp::kPut, blocks.size(), [done = std::move(done)](auto answers) mutable {
      std::vector<absl::Status> statuses;
      for (const absl::StatusOr<SharedBytes>& answer : answers) statuses.push_back(answer.status());
      done(std::move(statuses));
    });
    store_->Submit(std::move(call),
                   [&](size_t first, int64_t room, auto* message) { return CutBlocks(blocks, first, room, message); });
  }

  void Drop(std::vector<BlockKey> keys) override { store_->Drop(std::move(keys)); }
  TierUsage Usage() override { return store_->Usage(); }

 private:
  static size_t CutKeys(const std::vector<BlockKey>& keys, size_t first, RemoteStore::Outgoing* message) {
    const size_t count = std::min(kMostKvBlocks, keys.size() - first);
    const auto begin = keys.begin() + static_cast<ptrdiff_t>(first);
    message->request.keys.assign(begin, begin + static_cast<ptrdiff_t>(count));
    return count;
  }

  static size_t CutBlocks(std::vector<StoredBlock>& blocks, size_t first, int64_t room,
                          RemoteStore::Outgoing* message) {
    size_t bytes = 0, i = first;
    for (; i < blocks.size() && i - first < kMostKvBlocks; ++i) {
      const size_t size = blocks[i].bytes->size();
      if (static_cast<int64_t>(bytes + size) > room || size > std::numeric_limits<uint32_t>::max()) break;
      if (i > first && bytes + size > kKvBatchBytes) break;
      bytes += size;
      message->request.keys.push_back(blocks[i].key);
      message->request.lengths.push_back(static_cast<uint32_t>(size));
      message->request.indices.push_back(blocks[i].index);
      message->parts.push_back(std::move(blocks[i].bytes));
    }
    return i - first;
  }

  const std::shared_ptr<RemoteStore> store_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeRemoteTier(const TierOptions& options) {
  const size_t colon = options.remote.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options.remote.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv.remote='", options.remote, "' is not the host:port of a kvstore's control service"));
  }
  if (options.transport == nullptr || options.clock == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("kv.remote='", options.remote, "' needs a transport and a clock"));
  }
  auto store =
      std::make_shared<RemoteStore>(RemoteStore::Options{options.remote, options.answer_within, options.security},
                                    *options.transport, *options.clock);
  store->Start();
  return std::make_unique<RemoteTier>(std::move(store));
}

}  // namespace interlace
