#include "coordinator/election/lead_record.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace interlace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostDrained = 4096;  // replicas, and their numbers; more is damage

std::string EncodeLeadRecord(const LeadRecord& record) {
  Json json;
  json["holder"] = record.holder;
  json["epoch"] = record.epoch;
  json["renewals"] = record.renewals;
  json["lease_ms"] = absl::ToInt64Milliseconds(record.lease);
  json["http"] = record.http;
  json["grpc"] = record.grpc;
  if (!record.drained.empty()) json["drained"] = record.drained;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<LeadRecord> DecodeLeadRecord(absl::string_view text) {
  const auto refuse = [text] {
    return absl::InvalidArgumentError(absl::StrCat("'", text.substr(0, 80), "' is no record of a leader"));
  };
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return refuse();
  LeadRecord record;
  bool whole = true;
  const auto number = [&](const char* name, uint64_t* out) {
    const auto found = json.find(name);
    whole = whole && found != json.end() && found->is_number_unsigned();
    if (whole) *out = found->get<uint64_t>();
  };
  const auto string = [&](const char* name, std::string* out) {
    const auto found = json.find(name);
    whole = whole && found != json.end() && found->is_string();
    if (whole) *out = found->get<std::string>();
  };
  uint64_t lease_ms = 0;
  number("epoch", &record.epoch);
  number("renewals", &record.renewals);
  number("lease_ms", &lease_ms);
  string("holder", &record.holder);
  string("http", &record.http);
  string("grpc", &record.grpc);
  if (const auto drained = json.find("drained"); drained != json.end()) {
    whole = whole && drained->is_array() && drained->size() <= kMostDrained;
    for (size_t i = 0; whole && i < drained->size(); ++i) {
      const Json& replica = (*drained)[i];
      whole = replica.is_number_unsigned() && replica.get<uint64_t>() < kMostDrained;
      if (whole) record.drained.push_back(replica.get<int32_t>());
    }
  }
  constexpr uint64_t kLongest = 86'400'000;  // a day: more is damage, and nobody would ever take the lead
  if (!whole || lease_ms == 0 || lease_ms > kLongest || record.epoch > (uint64_t{1} << 40)) return refuse();
  record.lease = absl::Milliseconds(lease_ms);
  return record;
}

}  // namespace interlace
