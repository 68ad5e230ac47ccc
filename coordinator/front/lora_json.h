// The bodies of /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM's clients write them; pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

struct AdapterToLoad {
  std::string name, path;
  bool in_place = false;  // an adapter of that name is replaced
};
// InvalidArgument names the member; a name or a path that is missing is empty. Members that are not known are left
// alone.
absl::StatusOr<AdapterToLoad> ParseLoadAdapter(absl::string_view body);
// The adapter's name; likewise.
absl::StatusOr<std::string> ParseUnloadAdapter(absl::string_view body);

}  // namespace interlace
