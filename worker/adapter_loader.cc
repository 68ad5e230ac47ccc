#include "worker/adapter_loader.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {

AdapterLoader::AdapterLoader(const Options& options, const ModelSpec& spec, const ShardSpec& shard, Backend& backend,
                             LoraSet& set)
    : options_(options),
      spec_(spec),
      shard_(shard),
      backend_(backend),
      set_(set),
      start_bytes_(set.bytes()),
      start_digests_(set.digests()) {}

std::shared_ptr<const LoraAdapter> AdapterLoader::Placed(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  const auto found = placed_.find(digest);
  return found == placed_.end() ? nullptr : found->second.lock();
}

int64_t AdapterLoader::bytes() const {
  int64_t bytes = start_bytes_;
  absl::MutexLock lock(&mutex_);
  for (const auto& [digest, adapter] : placed_) {
    if (const auto alive = adapter.lock()) bytes += alive->bytes();
  }
  return bytes;
}

ReadAdapters AdapterLoader::Read(const AdapterList& list) {
  ReadAdapters read{list.serial, {}};
  int64_t room = options_.most_bytes - bytes();
  for (const RankAdapter& adapter : list.adapters) {
    if (absl::c_linear_search(start_digests_, adapter.digest)) continue;  // it stays anyway
    ReadAdapters::Found found = ReadOne(adapter, room);
    if (const auto* draft = std::get_if<LoraDraft>(&found)) room -= draft->bytes;
    read.adapters.push_back({adapter.digest, std::move(found)});
  }
  return read;
}

ReadAdapters::Found AdapterLoader::ReadOne(const RankAdapter& adapter, int64_t room) const {
  if (std::shared_ptr<const LoraAdapter> placed = Placed(adapter.digest)) return placed;
  const auto read = [&]() -> absl::StatusOr<LoraDraft> {
    if (options_.folder.empty()) {
      return absl::FailedPreconditionError(
          "this rank takes no adapters while it runs; start it with model.runtime_adapters=true and model.adapter_dir");
    }
    const LoraPlace place{options_.folder, adapter.path, adapter.digest, options_.most_rank};
    ASSIGN_OR_RETURN(LoraDraft draft, ReadLora(place, spec_, shard_, backend_.ops()));
    if (draft.bytes > room) {
      return absl::ResourceExhaustedError(absl::StrCat(
          adapter.path, " takes ", draft.bytes, " bytes, and ", std::max<int64_t>(0, room),
          " are left of model.adapter_bytes=", options_.most_bytes, "; unload others, or restart with more"));
    }
    return draft;
  };
  absl::StatusOr<LoraDraft> draft = read();
  if (!draft.ok()) return draft.status();
  return *std::move(draft);
}

AdapterAnswer AdapterLoader::Install(ReadAdapters read) {
  AdapterAnswer answer{read.serial, {}};
  std::vector<std::shared_ptr<const LoraAdapter>> all;
  for (ReadAdapters::One& one : read.adapters) {
    absl::Status status;
    if (auto* placed = std::get_if<std::shared_ptr<const LoraAdapter>>(&one.found)) {
      all.push_back(std::move(*placed));
    } else if (auto* draft = std::get_if<LoraDraft>(&one.found)) {
      absl::StatusOr<std::shared_ptr<const LoraAdapter>> adapter =
          LoraAdapter::Place(std::move(*draft), shard_, backend_);
      status = adapter.status();
      if (status.ok()) {
        LOG(INFO) << "adapter loaded" << Field("digest", one.digest) << Field("rank", (*adapter)->most_rank())
                  << Field("bytes", (*adapter)->bytes());
        absl::MutexLock lock(&mutex_);
        placed_[one.digest] = *adapter;
        all.push_back(*std::move(adapter));
      }
    } else {
      status = std::get<absl::Status>(one.found);
    }
    if (!status.ok()) {
      LOG(WARNING) << "an adapter cannot be loaded" << Field("digest", one.digest) << status;
      answer.failures.push_back({one.digest, status});
    }
  }
  set_.Replace(std::move(all));
  absl::MutexLock lock(&mutex_);
  std::erase_if(placed_, [](const auto& one) { return one.second.expired(); });
  return answer;
}

}  // namespace interlace
