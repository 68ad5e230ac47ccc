// Any text as a model folder's config.json: a status, or a model whose sizes are all in range.
#include <cstdint>

#include "checkpoint/hf_config.h"
#include "common/check.h"
#include "model/model_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  const absl::string_view json(reinterpret_cast<const char*>(data), size);
  auto config = HfConfig::Parse(json, "fuzz/config.json");
  if (!config.ok()) {
    CHECK(config.status().message().find("fuzz/config.json") != absl::string_view::npos);
    return 0;
  }
  auto spec = ReadModelSpec(*config, "digest");
  if (!spec.ok()) {
    CHECK_MSG(spec.status().message().find("fuzz/config.json") != absl::string_view::npos,
              spec.status().ToString().c_str());
    return 0;
  }
  CHECK(spec->layers > 0 && spec->heads > 0 && spec->kv_heads > 0 && spec->head_dim > 0 && spec->vocab > 0);
  CHECK(spec->heads % spec->kv_heads == 0 && static_cast<int>(spec->layer.size()) == spec->layers);
  return 0;
}
