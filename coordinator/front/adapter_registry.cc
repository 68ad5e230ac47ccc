#include "coordinator/front/adapter_registry.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/adapter_folder.h"
#include "checkpoint/peft_adapter.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {

// Counted while it lives; its end is quick, wherever a request ends.
class AdapterRegistry::Lease {
 public:
  Lease(std::shared_ptr<Ledger> ledger, std::string digest) : ledger_(std::move(ledger)), digest_(std::move(digest)) {}
  ~Lease() {
    absl::MutexLock lock(&ledger_->mutex);
    const auto used = ledger_->used.find(digest_);
    if (--used->second.leases > 0) return;
    ledger_->used.erase(used);
    ledger_->changed = true;
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

 private:
  const std::shared_ptr<Ledger> ledger_;
  const std::string digest_;
};

AdapterRegistry::AdapterRegistry(const Options& options, ServedAdapters of_start, RankAdapters* ranks)
    : options_(options), start_digests_(DigestsOf(of_start)), ranks_(ranks) {
  for (std::shared_ptr<const ServedAdapter>& adapter : of_start) {
    last_id_ = std::max(last_id_, adapter->id);
    entries_.push_back({std::move(adapter), nullptr});
  }
  if (runtime()) thread_ = Thread("adapters", [this] { Run(); });
}

AdapterRegistry::~AdapterRegistry() {
  {
    absl::MutexLock lock(&ledger_->mutex);
    ledger_->end = true;
  }
  if (thread_.joinable()) thread_.Join();
}

absl::Status AdapterRegistry::Check() const {
  if (runtime()) RETURN_IF_ERROR(AdapterRoot(options_.folder).status());
  absl::MutexLock lock(&mutex_);
  if (static_cast<int64_t>(entries_.size()) <= options_.most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("model.adapters lists ", entries_.size(),
                                                 ", more than model.max_adapters=", options_.most, "; raise it"));
}

ServedAdapters AdapterRegistry::served() const {
  ServedAdapters served;
  absl::MutexLock lock(&mutex_);
  for (const Entry& entry : entries_) served.push_back(entry.adapter);
  return served;
}

std::vector<AdapterRegistry::Entry>::const_iterator AdapterRegistry::FindEntry(absl::string_view name) const {
  return absl::c_find_if(entries_, [name](const Entry& entry) { return entry.adapter->name == name; });
}

AdapterUse AdapterRegistry::Find(absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto entry = FindEntry(name);
  return entry == entries_.end() ? AdapterUse{} : AdapterUse{entry->adapter, entry->lease};
}

bool AdapterRegistry::IsOfStart(const std::string& digest) const {
  return absl::c_binary_search(start_digests_, digest);
}

std::shared_ptr<const void> AdapterRegistry::Hold(const std::string& digest, const std::string& path) {
  if (IsOfStart(digest)) return nullptr;
  absl::MutexLock lock(&ledger_->mutex);
  Ledger::Used& used = ledger_->used[digest];
  ++used.leases;
  used.path = path;
  return std::make_shared<const Lease>(ledger_, digest);
}

absl::Status AdapterRegistry::CheckLoad(const std::string& name, const std::string& path, bool in_place) const {
  if (name.empty() || path.empty()) {
    return absl::InvalidArgumentError("Both 'lora_name' and 'lora_path' must be provided.");
  }
  if (name == options_.model) {
    return absl::InvalidArgumentError(
        absl::StrCat("lora_name: '", name, "' is the name of the model itself; give the adapter another"));
  }
  if (name.size() > 200 || absl::c_any_of(name, [](unsigned char c) { return c < ' ' || c == 0x7f || c == ','; })) {
    return absl::InvalidArgumentError("lora_name: it has at most 200 bytes, without commas and control characters");
  }
  absl::MutexLock lock(&mutex_);
  if (FindEntry(name) != entries_.end()) {
    if (in_place) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "The lora adapter '", name, "' has already been loaded. If you want to load the adapter in place, ",
        "set 'load_inplace' to True."));
  }
  if (static_cast<int64_t>(entries_.size()) < options_.most) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("model.max_adapters=", options_.most, " are served already; unload one, or restart with more"));
}

absl::Status AdapterRegistry::Load(const std::string& name, const std::string& path, bool in_place) {
  absl::MutexLock loading(&loading_);
  RETURN_IF_ERROR(CheckLoad(name, path, in_place));
  ASSIGN_OR_RETURN(const AdapterFolder folder, FindAdapterFolder(options_.folder, path));
  ASSIGN_OR_RETURN(const std::unique_ptr<PeftAdapter> file, PeftAdapter::Open(folder.real));
  const std::string digest = file->digest();
  std::shared_ptr<const void> lease = Hold(digest, folder.below);
  if (lease != nullptr) {
    if (const absl::Status status = TellRanks(); !status.ok()) {
      lease.reset();
      TellRanks().IgnoreError();  // takes it back
      if (absl::IsUnavailable(status)) return status;
      return absl::InvalidArgumentError(status.message());
    }
  }
  LOG(INFO) << "an adapter is served" << Field("name", name) << Field("folder", folder.below)
            << Field("digest", digest);
  Entry former;  // its lease is let go when the lock is
  absl::MutexLock lock(&mutex_);
  const auto entry = FindEntry(name);
  const int32_t id = entry != entries_.end() ? entry->adapter->id : ++last_id_;
  Entry entered{std::make_shared<const ServedAdapter>(ServedAdapter{id, name, path, digest}), std::move(lease)};
  if (entry == entries_.end()) {
    entries_.push_back(std::move(entered));
  } else {
    former = std::exchange(entries_[entry - entries_.begin()], std::move(entered));
  }
  return absl::OkStatus();
}

absl::Status AdapterRegistry::Unload(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("'lora_name' needs to be provided to unload a LoRA adapter.");
  Entry former;
  {
    absl::MutexLock lock(&mutex_);
    const auto entry = FindEntry(name);
    if (entry == entries_.end()) {
      return absl::NotFoundError(absl::StrCat("The lora adapter '", name.substr(0, 200), "' cannot be found."));
    }
    former = *entry;
    entries_.erase(entry);
  }
  LOG(INFO) << "an adapter is served no more" << Field("name", name);
  return absl::OkStatus();
}

void AdapterRegistry::Withdraw(const std::string& digest, const absl::Status& why) {
  std::vector<Entry> former;
  {
    absl::MutexLock lock(&mutex_);
    const auto others = std::stable_partition(entries_.begin(), entries_.end(),
                                              [&](const Entry& entry) { return entry.adapter->digest != digest; });
    former.assign(std::make_move_iterator(others), std::make_move_iterator(entries_.end()));
    entries_.erase(others, entries_.end());
  }
  for (const Entry& entry : former) {
    LOG(ERROR) << "an adapter is served no more: a rank cannot load it again" << Field("name", entry.adapter->name)
               << why;
  }
  // Requests that still use it do not keep its replica from serving others.
  absl::MutexLock lock(&ledger_->mutex);
  const auto used = ledger_->used.find(digest);
  if (used == ledger_->used.end()) return;
  used->second.path.clear();
  ledger_->changed = true;
}

void AdapterRegistry::Forget() {
  std::vector<Entry> former;
  absl::MutexLock lock(&mutex_);
  const auto others = std::stable_partition(entries_.begin(), entries_.end(),
                                            [](const Entry& entry) { return entry.lease == nullptr; });
  former.assign(std::make_move_iterator(others), std::make_move_iterator(entries_.end()));
  entries_.erase(others, entries_.end());
}

absl::Status AdapterRegistry::TellRanks() {
  std::vector<RankAdapter> adapters;
  {
    absl::MutexLock lock(&ledger_->mutex);
    ledger_->changed = false;
    for (const auto& [digest, used] : ledger_->used) {
      if (!used.path.empty()) adapters.push_back({used.path, digest});
    }
  }
  return ranks_->SetAdapters(std::move(adapters), options_.patience);
}

void AdapterRegistry::Run() {
  const auto due = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ledger_->changed || ledger_->end; };
  while (true) {
    {
      absl::MutexLock lock(&ledger_->mutex);
      ledger_->mutex.Await(absl::Condition(&due));
      if (ledger_->end) return;
    }
    absl::MutexLock loading(&loading_);
    const absl::Status told = TellRanks();
    if (!told.ok()) LOG(WARNING) << "ranks were not told which adapters to forget" << told;
  }
}

void AdapterRegistry::TellMetrics(const EngineLoad& load, int64_t now) const {
  if (options_.metrics == nullptr || (!runtime() && served().empty())) return;
  options_.metrics->SetOnly("vllm:lora_requests_info", static_cast<double>(now),
                            {{"max_lora", absl::StrCat(options_.most)},
                             {"running_lora_adapters", absl::StrJoin(load.running_adapters, ",")},
                             {"waiting_lora_adapters", absl::StrJoin(load.waiting_adapters, ",")}});
}

}  // namespace interlace
