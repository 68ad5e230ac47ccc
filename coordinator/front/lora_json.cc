#include "coordinator/front/lora_json.h"

#include "common/status_macros.h"
#include "coordinator/front/json_fields.h"

namespace interlace {

absl::StatusOr<AdapterToLoad> ParseLoadAdapter(absl::string_view body) {
  static constexpr UnsupportedField kUnsupported[] = {{"is_3d_lora_weight", "[false]"}};
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  RETURN_IF_ERROR(RefuseUnsupported(json, kUnsupported));
  AdapterToLoad asked;
  RETURN_IF_ERROR(Read(json, "lora_name", &asked.name));
  RETURN_IF_ERROR(Read(json, "lora_path", &asked.path));
  RETURN_IF_ERROR(Read(json, "load_inplace", &asked.in_place));
  return asked;
}

absl::StatusOr<std::string> ParseUnloadAdapter(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  std::string name;
  RETURN_IF_ERROR(Read(json, "lora_name", &name));
  return name;
}

}  // namespace interlace
