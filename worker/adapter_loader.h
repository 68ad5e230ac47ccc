// AdapterLoader: brings a rank the LoRA adapters that its coordinator lists while it runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "model/lora.h"
#include "model/model_spec.h"
#include "model/shard_spec.h"
#include "proto/plan/adapter_list.h"

namespace interlace {

// What a list wants, read: files are open no more, and the backend has not been touched.
struct ReadAdapters {
  // Of one adapter: the rank's own, what is to be placed, or why there is none.
  using Found = std::variant<std::shared_ptr<const LoraAdapter>, LoraDraft, absl::Status>;
  struct One {
    std::string digest;
    Found found;
  };
  uint64_t serial = 0;
  std::vector<One> adapters;
};

// A list comes in two parts, so that steps go on while files are read: Read, by whichever thread, one at a time; then
// Install, by the runner's, between steps, which only copies. Owned by Rank.
class AdapterLoader {
 public:
  struct Options {
    std::string folder;      // model.adapter_dir; empty: none are taken (model.runtime_adapters is off)
    int64_t most_rank = 0;   // of one
    int64_t most_bytes = 0;  // of all together, those of the start included
  };
  // What is passed by reference outlives it; `set` is the rank's.
  AdapterLoader(const Options& options, const ModelSpec& spec, const ShardSpec& shard, Backend& backend, LoraSet& set);

  ReadAdapters Read(const AdapterList& list);
  // The answer to the list. What it leaves out is forgotten, and its memory is free when the last sequence that uses it
  // is released.
  AdapterAnswer Install(ReadAdapters read);
  // That all adapters take, those that are forgotten and still used included; any thread.
  int64_t bytes() const;

 private:
  ReadAdapters::Found ReadOne(const RankAdapter& adapter, int64_t room) const;
  std::shared_ptr<const LoraAdapter> Placed(const std::string& digest) const;

  const Options options_;
  const ModelSpec& spec_;
  const ShardSpec shard_;
  Backend& backend_;
  LoraSet& set_;  // thread: runner
  const int64_t start_bytes_;
  const std::vector<std::string> start_digests_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::weak_ptr<const LoraAdapter>> placed_;  // protected by mutex_; those that live
};

}  // namespace interlace
