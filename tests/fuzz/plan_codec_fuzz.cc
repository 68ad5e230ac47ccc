// Any bytes as messages between coordinator and rank: what parses is refused, or is a plan, result or rank that
// survives the wire once more.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>

#include "common/check.h"
#include "proto/cluster.pb.h"
#include "proto/plan/plan_codec.h"

namespace {

template <typename Message, typename Decode, typename Encode>
void Try(const Message& message, Decode decode, Encode encode) {
  const auto value = decode(message);
  if (!value.ok()) {
    CHECK_MSG(absl::IsInvalidArgument(value.status()), value.status().ToString().c_str());
    return;
  }
  Message again;
  encode(*value, &again);
  const auto second = decode(again);
  CHECK_MSG(second.ok(), second.status().ToString().c_str());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  static const bool quiet = [] { return google::protobuf::SetLogHandler(nullptr), true; }();
  static_cast<void>(quiet);
  v1::Order order;
  if (order.ParseFromArray(data, static_cast<int>(size))) Try(order.plan(), DecodePlan, EncodePlan);
  v1::StepResultMessage result;
  if (result.ParseFromArray(data, static_cast<int>(size))) Try(result, DecodeResult, EncodeResult);
  v1::FromRank from_rank;
  if (from_rank.ParseFromArray(data, static_cast<int>(size))) Try(from_rank.register_(), DecodeRank, EncodeRank);
  return 0;
}
