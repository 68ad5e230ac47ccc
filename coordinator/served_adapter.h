// ServedAdapter: a LoRA adapter that requests may ask for. A value.
#pragma once

#include <cstdint>
#include <string>

namespace interlace {

struct ServedAdapter {
  int32_t id = 0;      // from 1 on, in the order of model.adapters: vLLM's lora_id
  std::string name;    // by which clients ask for it
  std::string folder;  // as model.adapters has it
  std::string digest;  // of its content, as the ranks find it: what KV that is computed with it is named by
};

}  // namespace interlace
