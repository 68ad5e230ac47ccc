// Lists of adapters and answers, to and from their wire form.
#include <algorithm>

#include "proto/cluster.pb.h"
#include "proto/plan/adapter_list.h"

namespace interlace {

void EncodeAdapters(const AdapterList& list, v1::AdapterListMessage* out) {
  out->set_serial(list.serial);
  for (const RankAdapter& adapter : list.adapters) {
    v1::AdapterMessage* const to = out->add_adapters();
    to->set_path(adapter.path);
    to->set_digest(adapter.digest);
  }
}

AdapterList DecodeAdapters(const v1::AdapterListMessage& message) {
  AdapterList list{message.serial(), {}};
  for (const v1::AdapterMessage& adapter : message.adapters()) {
    list.adapters.push_back({adapter.path(), adapter.digest()});
  }
  return list;
}

void EncodeAnswer(const AdapterAnswer& answer, v1::AdapterAnswerMessage* out) {
  out->set_serial(answer.serial);
  for (const AdapterAnswer::Failure& failure : answer.failures) {
    v1::AdapterFailureMessage* const to = out->add_failures();
    to->set_digest(failure.digest);
    to->set_code(static_cast<uint32_t>(failure.why.code()));
    to->set_text(std::string(failure.why.message()));
  }
}

AdapterAnswer DecodeAnswer(const v1::AdapterAnswerMessage& message) {
  constexpr auto kMost = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  AdapterAnswer answer{message.serial(), {}};
  for (const v1::AdapterFailureMessage& failure : message.failures()) {
    const bool known = failure.code() > 0 && failure.code() <= kMost;
    const auto code = known ? static_cast<absl::StatusCode>(failure.code()) : absl::StatusCode::kUnknown;
    answer.failures.push_back({failure.digest(), absl::Status(code, failure.text())});
  }
  return answer;
}

}  // namespace interlace
