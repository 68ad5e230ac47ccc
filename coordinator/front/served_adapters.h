// The adapters that this server has, read from their folders.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/served_adapter.h"

namespace interlace {

// In the order of model.adapters, by names that differ from each other and from the model's. Requests share them.
using ServedAdapters = std::vector<std::shared_ptr<const ServedAdapter>>;

// `setting`: model.adapters; `model`: the name of the model itself. What PeftAdapter::Open says, and InvalidArgument
// naming an adapter that is called as the model is. Whether an adapter fits the model is for the ranks to say.
absl::StatusOr<ServedAdapters> ReadServedAdapters(absl::string_view setting, absl::string_view model);

// Null: none is called so.
std::shared_ptr<const ServedAdapter> FindAdapter(absl::Span<const std::shared_ptr<const ServedAdapter>> adapters,
                                                 absl::string_view name);

// As ranks register them: in their order, each once.
std::vector<std::string> DigestsOf(absl::Span<const std::shared_ptr<const ServedAdapter>> adapters);

}  // namespace interlace
