#include "coordinator/front/tenant_file.h"

#include <sodium.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "coordinator/front/json_fields.h"
#include "coordinator/front/target_spec.h"

namespace interlace {
namespace {

constexpr size_t kMostKeys = 4096;
constexpr size_t kLongestKey = 512;                  // bytes
constexpr int64_t kMostOfALimit = int64_t{1} << 40;  // a minute
constexpr absl::string_view kHashed = "sha256:";     // before 64 hexadecimal digits

absl::Status Fault(absl::string_view where, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", why));
}

absl::Status ReadLimit(const Json& json, const char* field, absl::string_view where, int64_t* out) {
  std::optional<int64_t> value;
  const absl::Status status = Read(json, field, &value);
  if (!status.ok()) return Fault(where, status.message());
  if (!value) return absl::OkStatus();
  if (*value < 1 || *value > kMostOfALimit) {
    return Fault(where,
                 absl::StrCat(field, "=", *value, " must be 1 to ", kMostOfALimit, "; leave it out for no limit"));
  }
  *out = *value;
  return absl::OkStatus();
}

// A key as it is sent, or its digest.
absl::StatusOr<KeyDigest> ReadKey(const Json& json, absl::string_view where) {
  if (!json.is_string()) return Fault(where, "a key must be a string");
  absl::string_view text = json.get_ref<const std::string&>();
  if (absl::ConsumePrefix(&text, kHashed)) {
    KeyDigest digest;
    if (text.size() != 2 * digest.size() || !std::all_of(text.begin(), text.end(), absl::ascii_isxdigit)) {
      return Fault(where, "sha256: must be followed by the 64 hexadecimal digits of a key's SHA-256");
    }
    const std::string bytes = absl::HexStringToBytes(text);
    std::copy(bytes.begin(), bytes.end(), digest.begin());
    return digest;
  }
  if (text.empty() || text.size() > kLongestKey || !std::all_of(text.begin(), text.end(), absl::ascii_isgraph)) {
    return Fault(where, absl::StrCat("a key must be 1 to ", kLongestKey, " printable ASCII characters without spaces"));
  }
  return DigestOf(text);
}

absl::Status ReadKeys(const Json& json, absl::string_view where, std::vector<KeyDigest>* out) {
  const Json* keys = Member(json, "keys");
  if (keys == nullptr || !keys->is_array() || keys->empty())
    return Fault(where, "keys must be a list with at least one");
  for (const Json& key : *keys) {
    ASSIGN_OR_RETURN(const KeyDigest digest, ReadKey(key, absl::StrCat(where, ".keys[", out->size(), "]")));
    out->push_back(digest);
  }
  return absl::OkStatus();
}

absl::Status ReadModels(const Json& json, absl::string_view where, std::vector<std::string>* out) {
  const Json* models = Member(json, "models");
  if (models == nullptr) return absl::OkStatus();
  if (!models->is_array() || models->empty()) {
    return Fault(where, "models must be a list with at least one name; leave it out for all");
  }
  for (const Json& model : *models) {
    if (!model.is_string()) return Fault(where, "models must hold names alone");
    out->push_back(model.get<std::string>());
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantRow> ReadTenant(const Json& json, std::string where) {
  if (!json.is_object()) return Fault(where, "must be an object");
  static constexpr absl::string_view kKnown[] = {
      "name", "keys", "requests_per_minute", "tokens_per_minute", "concurrent", "priority", "models", "operator"};
  for (const auto& [name, value] : json.items()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown)) {
      return Fault(where, absl::StrCat(Shown(name), " is not known here"));
    }
  }
  TenantRow row;
  const Json* name = Member(json, "name");
  if (name == nullptr || !name->is_string() || name->get_ref<const std::string&>().empty()) {
    return Fault(where, "has no name");
  }
  row.name = name->get<std::string>();
  const absl::Status label = CheckLabel("name", row.name);
  if (!label.ok()) return Fault(where, label.message());
  where = absl::StrCat("tenant ", row.name);
  std::optional<int64_t> priority;
  absl::Status status = Read(json, "operator", &row.is_operator);
  status.Update(Read(json, "priority", &priority));
  status.Update(CheckPriority("priority", priority.value_or(0)));
  if (!status.ok()) return Fault(where, status.message());
  if (priority) row.limits.best_priority = static_cast<int32_t>(*priority);
  RETURN_IF_ERROR(ReadLimit(json, "requests_per_minute", where, &row.limits.requests_per_minute));
  RETURN_IF_ERROR(ReadLimit(json, "tokens_per_minute", where, &row.limits.tokens_per_minute));
  RETURN_IF_ERROR(ReadLimit(json, "concurrent", where, &row.limits.concurrent));
  RETURN_IF_ERROR(ReadModels(json, where, &row.limits.models));
  RETURN_IF_ERROR(ReadKeys(json, where, &row.keys));
  return row;
}

}  // namespace

KeyDigest DigestOf(absl::string_view key) {
  KeyDigest digest;
  crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(key.data()), key.size());
  return digest;
}

bool SameDigest(const KeyDigest& a, const KeyDigest& b) { return sodium_memcmp(a.data(), b.data(), a.size()) == 0; }

absl::StatusOr<std::vector<TenantRow>> ParseTenants(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(text));
  const Json* tenants = Member(json, "tenants");
  if (tenants == nullptr || !tenants->is_array() || tenants->empty() || json.size() != 1) {
    return absl::InvalidArgumentError("the file must be {\"tenants\": [...]}, with at least one tenant");
  }
  std::vector<TenantRow> rows;
  std::set<std::string> names;
  std::set<KeyDigest> keys;
  for (const Json& tenant : *tenants) {
    ASSIGN_OR_RETURN(TenantRow row, ReadTenant(tenant, absl::StrCat("tenants[", rows.size(), "]")));
    if (!names.insert(row.name).second) return Fault(absl::StrCat("tenant ", row.name), "stands there twice");
    for (size_t i = 0; i < row.keys.size(); ++i) {
      if (keys.insert(row.keys[i]).second) continue;
      return Fault(absl::StrCat("tenant ", row.name, ".keys[", i, "]"), "the same key stands there twice");
    }
    if (keys.size() > kMostKeys) return absl::InvalidArgumentError(absl::StrCat("more than ", kMostKeys, " keys"));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace interlace
