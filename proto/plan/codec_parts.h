// What the codecs of plans, results and ranks share. Not for others: include plan_codec.h.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kvstore/block_id.h"
#include "kvstore/layer_set.h"
#include "proto/cluster.pb.h"

namespace interlace {

inline constexpr int32_t kMost = 1 << 30;  // positions, counts, ids of stages and layers

inline absl::Status Refuse(absl::string_view what, int64_t value) {
  return absl::InvalidArgumentError(absl::StrCat("cluster message: ", what, "=", value, " is out of range"));
}

inline void EncodeId(const BlockId& id, v1::BlockIdMessage* out) {
  out->set_high(id.high);
  out->set_low(id.low);
}

inline BlockId DecodeId(const v1::BlockIdMessage& m) { return {m.high(), m.low()}; }

inline absl::StatusOr<LayerSet> DecodeLayers(const std::string& bytes) {
  LayerSet layers;
  if (!LayerSet::Decode(bytes, &layers)) return Refuse("bytes of a layer set", static_cast<int64_t>(bytes.size()));
  return layers;
}

}  // namespace interlace
