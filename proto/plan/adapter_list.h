// AdapterList: the LoRA adapters that ranks are to have besides those of their start, and what a rank answers. Values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace interlace::v1 {
class AdapterListMessage;
class AdapterAnswerMessage;
}  // namespace interlace::v1

namespace interlace {

struct RankAdapter {
  std::string path;    // of its folder, below each rank's model.adapter_dir
  std::string digest;  // of its content
  friend bool operator==(const RankAdapter&, const RankAdapter&) = default;
};

// All of them: a rank forgets what is not in the list, and loads what it lacks.
struct AdapterList {
  uint64_t serial = 0;  // grows from list to list
  std::vector<RankAdapter> adapters;
  friend bool operator==(const AdapterList&, const AdapterList&) = default;
};

struct AdapterAnswer {
  struct Failure {
    std::string digest;
    absl::Status why;
    friend bool operator==(const Failure&, const Failure&) = default;
  };
  uint64_t serial = 0;            // of the list
  std::vector<Failure> failures;  // of those that the rank does not have for all that
  friend bool operator==(const AdapterAnswer&, const AdapterAnswer&) = default;
};

void EncodeAdapters(const AdapterList& list, v1::AdapterListMessage* out);
void EncodeAnswer(const AdapterAnswer& answer, v1::AdapterAnswerMessage* out);
AdapterList DecodeAdapters(const v1::AdapterListMessage& message);
// A failure whose code says that all is well is one for all that.
AdapterAnswer DecodeAnswer(const v1::AdapterAnswerMessage& message);

}  // namespace interlace
