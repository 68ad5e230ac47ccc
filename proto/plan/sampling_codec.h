// How Sampling travels in an opening. Not for others: include plan_codec.h.
#pragma once

#include "absl/status/statusor.h"
#include "proto/plan/sampling.h"

namespace interlace::v1 {
class Sampling;
}  // namespace interlace::v1

namespace interlace {

void EncodeSampling(const Sampling& sampling, v1::Sampling* out);
// InvalidArgument names the field. Ids of tokens are checked by the rank, which knows the vocabulary.
absl::StatusOr<Sampling> DecodeSampling(const v1::Sampling& message);

}  // namespace interlace
