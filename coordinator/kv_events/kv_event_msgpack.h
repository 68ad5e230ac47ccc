// KV events as vLLM's publisher encodes them.
#pragma once

#include <string>

#include "coordinator/kv_events/kv_event.h"

namespace interlace {

// MessagePack: [seconds, [event, ...], data-parallel rank], an event being an array with its name first (KVEventBatch
// of vllm/distributed/kv_events.py): ["BlockStored", hashes, parent or nil, tokens, tokens of a block, nil, medium,
// nil],
// ["BlockRemoved", hashes, medium], ["AllBlocksCleared"]. Media are "GPU" and "CPU".
std::string EncodeAsVllm(const KvEventBatch& batch);

// "GPU" or "CPU".
const char* MediumName(KvMedium medium);

}  // namespace interlace
