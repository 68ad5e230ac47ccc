// AdapterRegistry: the adapters that clients may ask for now; some come and go while the server runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/engine.h"
#include "coordinator/front/served_adapters.h"
#include "coordinator/rank_adapters.h"

namespace interlace {

// A request's hold on an adapter: ranks keep it while the lease, or a copy, lives.
struct AdapterUse {
  std::shared_ptr<const ServedAdapter> adapter;  // null: the model itself is asked for
  std::shared_ptr<const void> lease;             // null: ranks keep the adapter anyway
};

// A name is served when all ranks have its adapter, and stops being served at once; ranks are told to forget an adapter
// when no name means it and the last request that uses it has ended. Owned by main; any thread; Load waits for files
// and ranks, so it is nothing for an event loop. Its own thread tells ranks what to forget. The traps: ranks must
// outlive it; leases need not die before it.
class AdapterRegistry {
 public:
  struct Options {
    std::string model;                           // name of the model itself
    std::string folder;                          // model.adapter_dir; empty: nothing comes or goes
    int64_t most = 64;                           // names
    absl::Duration patience = absl::Minutes(2);  // with ranks that load
    Metrics* metrics = nullptr;                  // null: nobody looks
  };
  // `of_start`: of model.adapters. `ranks` may be null where nothing comes or goes.
  AdapterRegistry(const Options& options, ServedAdapters of_start, RankAdapters* ranks);
  ~AdapterRegistry();
  // InvalidArgument: the start has more than the options let. FailedPrecondition: the folder cannot be read.
  absl::Status Check() const;

  bool runtime() const { return !options_.folder.empty(); }
  ServedAdapters served() const;
  // No adapter: none is called so.
  AdapterUse Find(absl::string_view name) const;

  // The adapter in the folder `path` is served under `name`, in place of the one that was, if `in_place`. One at a
  // time. InvalidArgument, NotFound (no such folder), ResourceExhausted, or what a rank said, as InvalidArgument with
  // the rank's name: nothing has changed then. Unavailable: no rank is here.
  absl::Status Load(const std::string& name, const std::string& path, bool in_place);
  // NotFound: none is called so.
  absl::Status Unload(const std::string& name);
  // A rank that came later cannot have it: it is served no more, by any name. Does not wait.
  void Withdraw(const std::string& digest, const absl::Status& why);
  // Those that came while the server ran are served no more: another coordinator leads, which does not know them. Does
  // not wait.
  void Forget();
  // vllm:lora_requests_info, as of `now` in seconds since 1970.
  void TellMetrics(const EngineLoad& load, int64_t now) const;

 private:
  struct Entry {
    std::shared_ptr<const ServedAdapter> adapter;
    std::shared_ptr<const void> lease;  // null: of the start
  };
  // Which adapters ranks are to have. Leases hold it, since they may outlive the registry.
  struct Ledger {
    struct Used {
      std::string path;  // below the folder
      int64_t leases = 0;
    };
    absl::Mutex mutex;
    std::map<std::string, Used> used;  // by digest; protected by mutex, as everything below
    bool changed = false;              // ranks may forget one
    bool end = false;
  };
  class Lease;

  std::shared_ptr<const void> Hold(const std::string& digest, const std::string& path);
  std::vector<Entry>::const_iterator FindEntry(absl::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status CheckLoad(const std::string& name, const std::string& path, bool in_place) const;
  bool IsOfStart(const std::string& digest) const;
  absl::Status TellRanks() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loading_);
  void Run();

  const Options options_;
  const std::vector<std::string> start_digests_;
  RankAdapters* const ranks_;
  const std::shared_ptr<Ledger> ledger_ = std::make_shared<Ledger>();
  absl::Mutex loading_;  // who holds it tells ranks; taken before the others
  mutable absl::Mutex mutex_;
  std::vector<Entry> entries_;  // protected by mutex_. No lease is let go under it
  int32_t last_id_ = 0;         // protected by mutex_
  Thread thread_;
};

}  // namespace interlace
