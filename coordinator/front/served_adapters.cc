#include "coordinator/front/served_adapters.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/peft_adapter.h"
#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<ServedAdapters> ReadServedAdapters(absl::string_view setting, absl::string_view model) {
  ASSIGN_OR_RETURN(const std::vector<AdapterPlace> places, ParseAdapterPlaces(setting));
  ServedAdapters adapters;
  for (const AdapterPlace& place : places) {
    if (place.name == model) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.adapters: '", place.name, "' is the name of the model itself; give one of the two another name"));
    }
    const absl::StatusOr<std::unique_ptr<PeftAdapter>> file = PeftAdapter::Open(place.folder);
    if (!file.ok()) {
      return absl::Status(file.status().code(),
                          absl::StrCat("model.adapters=", place.name, ": ", file.status().message()));
    }
    const auto id = static_cast<int32_t>(adapters.size()) + 1;
    adapters.push_back(
        std::make_shared<const ServedAdapter>(ServedAdapter{id, place.name, place.folder, (*file)->digest()}));
  }
  return adapters;
}

std::shared_ptr<const ServedAdapter> FindAdapter(absl::Span<const std::shared_ptr<const ServedAdapter>> adapters,
                                                 absl::string_view name) {
  for (const std::shared_ptr<const ServedAdapter>& adapter : adapters) {
    if (adapter->name == name) return adapter;
  }
  return nullptr;
}

std::vector<std::string> DigestsOf(absl::Span<const std::shared_ptr<const ServedAdapter>> adapters) {
  std::set<std::string> digests;
  for (const std::shared_ptr<const ServedAdapter>& adapter : adapters) digests.insert(adapter->digest);
  return {digests.begin(), digests.end()};
}

}  // namespace interlace
