#include "coordinator/kv_events/kv_event_msgpack.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace interlace {
namespace {

using Json = nlohmann::json;

Json ToJson(const KvEvent& event) {
  switch (event.kind) {
    case KvEvent::Kind::kStored: {
      const Json none, parent = event.parent ? Json(*event.parent) : none;
      const Json lora_id = event.adapter ? Json(event.adapter->id) : none;
      const Json lora_name = event.adapter ? Json(event.adapter->name) : none;
      return Json::array({"BlockStored", event.blocks, parent, event.tokens, event.block_tokens, lora_id,
                          MediumName(event.medium), lora_name});
    }
    case KvEvent::Kind::kRemoved:
      return Json::array({"BlockRemoved", event.blocks, MediumName(event.medium)});
    case KvEvent::Kind::kCleared:
      break;
  }
  return Json::array({"AllBlocksCleared"});
}

}  // namespace

const char* MediumName(KvMedium medium) { return medium == KvMedium::kDevice ? "GPU" : "CPU"; }

std::string EncodeAsVllm(const KvEventBatch& batch) {
  Json events = Json::array();
  for (const KvEvent& event : batch.events) events.push_back(ToJson(event));
  std::string payload;
  Json::to_msgpack(Json::array({batch.time, std::move(events), 0}), payload);
  return payload;
}

}  // namespace interlace
