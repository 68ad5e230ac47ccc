#include "coordinator/front/tenants.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/log.h"
#include "common/state_file.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

constexpr size_t kLargestFile = 4 << 20;  // bytes
constexpr absl::Duration kLeastWait = absl::Milliseconds(100);

// "1m30s" and "250ms", as OpenAI's servers write it.
std::string ShortDuration(absl::Duration time) {
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(time, absl::Milliseconds(1)));
  if (ms < 1000) return absl::StrCat(ms, "ms");
  const std::string minutes = ms >= 60000 ? absl::StrCat(ms / 60000, "m") : "";
  return absl::StrCat(minutes, absl::StrFormat("%.15g", static_cast<double>(ms % 60000) / 1000), "s");
}

}  // namespace

Tenant::Tenant(TenantRow row, Clock& clock, Metrics& metrics) : name_(row.name), clock_(clock), metrics_(metrics) {
  Update(row);
}

void Tenant::Update(const TenantRow& row) {
  const absl::Time now = clock_.Now();
  absl::MutexLock lock(&mutex_);
  is_operator_ = row.is_operator;
  limits_ = row.limits;
  requests_.SetRate(static_cast<double>(limits_.requests_per_minute), now);
  tokens_.SetRate(static_cast<double>(limits_.tokens_per_minute), now);
}

bool Tenant::is_operator() const {
  absl::MutexLock lock(&mutex_);
  return is_operator_;
}

bool Tenant::MayAskFor(absl::string_view model) const {
  absl::MutexLock lock(&mutex_);
  return limits_.models.empty() ||
         std::find(limits_.models.begin(), limits_.models.end(), model) != limits_.models.end();
}

int64_t Tenant::PriorityFor(int64_t wanted) const {
  absl::MutexLock lock(&mutex_);
  return limits_.best_priority ? std::max<int64_t>(wanted, *limits_.best_priority) : wanted;
}

absl::Status Tenant::Refusal(const Obstacle& obstacle) const {
  metrics_.Add("interlace_door_refusals_total", 1, {{"reason", obstacle.limit}, {"tenant", name_}});
  return WithRetryAfter(
      WithCode(absl::ResourceExhaustedError(absl::StrCat("tenant ", name_, " ", obstacle.why)), "rate_limit_exceeded"),
      std::max(obstacle.wait, kLeastWait));
}

std::optional<Tenant::Obstacle> Tenant::TakeRequest(absl::Time now) {
  const absl::Duration wait = requests_.Wait(1, now);
  if (wait > absl::ZeroDuration()) {
    return Obstacle{"requests",
                    absl::StrCat("has used its ", limits_.requests_per_minute,
                                 " requests a minute; the next is due in ", ShortDuration(wait)),
                    wait};
  }
  requests_.Take(1, now);
  return std::nullopt;
}

std::optional<Tenant::Obstacle> Tenant::TakePlace(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (limits_.concurrent > 0 && under_way_ >= limits_.concurrent) {
    return Obstacle{"concurrent",
                    absl::StrCat("has ", under_way_, " generations under way, and may have ", limits_.concurrent),
                    mean_took_ / static_cast<double>(under_way_)};
  }
  std::optional<Obstacle> obstacle = TakeRequest(now);
  if (!obstacle) ++under_way_;
  return obstacle;
}

std::optional<Tenant::Obstacle> Tenant::TakeTokens(double tokens, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const absl::Duration wait = tokens_.Wait(tokens, now);
  if (wait > absl::ZeroDuration()) {
    return Obstacle{
        "tokens",
        absl::StrCat("may use ", limits_.tokens_per_minute, " tokens a minute; the ", static_cast<int64_t>(tokens),
                     " of this request, of prompt and answer, can be had in ", ShortDuration(wait)),
        wait};
  }
  tokens_.Take(tokens, now);
  return std::nullopt;
}

absl::Status Tenant::CountRequest() {
  const absl::Time now = clock_.Now();
  std::optional<Obstacle> obstacle;
  {
    absl::MutexLock lock(&mutex_);
    obstacle = TakeRequest(now);
  }
  return obstacle ? Refusal(*obstacle) : absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<TenantPass>> Tenant::Enter() {
  const absl::Time now = clock_.Now();
  if (const std::optional<Obstacle> obstacle = TakePlace(now)) return Refusal(*obstacle);
  return std::make_shared<TenantPass>(shared_from_this(), now);
}

void Tenant::Leave(double charged, double used, absl::Duration took) {
  const absl::Time now = clock_.Now();
  if (used > 0) metrics_.Add("interlace_tenant_tokens_total", used, {{"tenant", name_}});
  absl::MutexLock lock(&mutex_);
  --under_way_;
  tokens_.Take(used - charged, now);
  mean_took_ = mean_took_ == absl::ZeroDuration() ? took : mean_took_ + (took - mean_took_) / 16;
}

Tenant::Headers Tenant::LimitHeaders() const {
  const absl::Time now = clock_.Now();
  Headers headers;
  absl::MutexLock lock(&mutex_);
  const auto add = [&](absl::string_view what, const RateBucket& bucket) {
    if (!bucket.limited()) return;
    const auto left = static_cast<int64_t>(std::floor(std::max(0.0, bucket.Level(now))));
    headers.emplace_back(absl::StrCat("x-ratelimit-limit-", what),
                         absl::StrCat(static_cast<int64_t>(bucket.per_minute())));
    headers.emplace_back(absl::StrCat("x-ratelimit-remaining-", what), absl::StrCat(left));
    headers.emplace_back(absl::StrCat("x-ratelimit-reset-", what), ShortDuration(bucket.UntilFull(now)));
  };
  add("requests", requests_);
  add("tokens", tokens_);
  return headers;
}

TenantPass::~TenantPass() { tenant_->Leave(charged_, used_, tenant_->clock_.Now() - begin_); }

absl::Status TenantPass::Charge(int64_t tokens) {
  const auto obstacle = tenant_->TakeTokens(static_cast<double>(tokens), tenant_->clock_.Now());
  if (obstacle) return tenant_->Refusal(*obstacle);
  charged_ = static_cast<double>(tokens);
  return absl::OkStatus();
}

Tenants::Tenants(Options options, Clock& clock, Metrics& metrics)
    : options_(std::move(options)), clock_(clock), metrics_(metrics), keys_(std::make_shared<std::vector<Key>>()) {}

absl::StatusOr<std::vector<TenantRow>> Tenants::ReadRows() const {
  std::vector<TenantRow> rows;
  if (!options_.file.empty()) {
    absl::StatusOr<std::string> text = ReadStateFile(options_.file, kLargestFile);
    if (text.ok()) {
      ASSIGN_OR_RETURN(rows, ParseTenants(*text));
    } else {
      return text.status();
    }
  }
  if (!options_.key.empty()) rows.push_back({.is_operator = true, .keys = {DigestOf(options_.key)}});
  return rows;
}

absl::Status Tenants::Read() {
  const absl::StatusOr<std::vector<TenantRow>> rows = ReadRows();
  metrics_.Set("interlace_api_keys_stale", rows.ok() ? 0 : 1);
  if (!rows.ok()) {
    LOG(ERROR) << "the file of API keys cannot be used; those that were read before still count"
               << Field("file", options_.file) << rows.status();
    return absl::InvalidArgumentError(absl::StrCat("server.api_keys=", options_.file, ": ", rows.status().message()));
  }
  std::map<std::string, std::shared_ptr<Tenant>> known;
  for (const Key& key : *Keys()) known.emplace(key.tenant->name(), key.tenant);
  auto keys = std::make_shared<std::vector<Key>>();
  for (const TenantRow& row : *rows) {
    std::shared_ptr<Tenant>& tenant = known[row.name];
    if (tenant == nullptr) {
      tenant = std::make_shared<Tenant>(row, clock_, metrics_);
    } else {
      tenant->Update(row);
    }
    for (const KeyDigest& digest : row.keys) keys->push_back({digest, tenant});
  }
  LOG(INFO) << "API keys" << Field("tenants", rows->size()) << Field("keys", keys->size());
  absl::MutexLock lock(&mutex_);
  keys_ = std::move(keys);
  return absl::OkStatus();
}

std::shared_ptr<const std::vector<Tenants::Key>> Tenants::Keys() const {
  absl::MutexLock lock(&mutex_);
  return keys_;
}

absl::StatusOr<std::shared_ptr<Tenant>> Tenants::Find(absl::string_view key) const {
  const std::shared_ptr<const std::vector<Key>> keys = Keys();
  const KeyDigest digest = DigestOf(key);
  std::shared_ptr<Tenant> found;
  for (const Key& candidate : *keys) {  // all of them: how long it takes says nothing
    if (SameDigest(candidate.digest, digest)) found = candidate.tenant;
  }
  if (found != nullptr && !key.empty()) return found;
  metrics_.Add("interlace_door_refusals_total", 1, {{"reason", "key"}, {"tenant", ""}});
  return WithCode(
      absl::UnauthenticatedError(key.empty() ? "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"
                                             : "the API key is not known here"),
      "invalid_api_key");
}

bool MaySee(const Tenant* caller, const Explanation& request) {
  return caller == nullptr || caller->is_operator() || caller->name() == request.targets.tenant;
}

namespace {

// What stands behind the name of a scheme; empty: it is another one.
absl::string_view Behind(absl::string_view scheme, absl::string_view authorization) {
  authorization = absl::StripAsciiWhitespace(authorization);
  if (!absl::StartsWithIgnoreCase(authorization, scheme)) return "";
  return absl::StripAsciiWhitespace(authorization.substr(scheme.size()));
}

}  // namespace

absl::string_view BearerKey(absl::string_view authorization) { return Behind("bearer ", authorization); }

std::string BasicKey(absl::string_view authorization) {
  std::string user_and_key;
  if (!absl::Base64Unescape(Behind("basic ", authorization), &user_and_key)) return "";
  const size_t colon = user_and_key.find(':');
  return colon == std::string::npos ? "" : user_and_key.substr(colon + 1);
}

}  // namespace interlace
