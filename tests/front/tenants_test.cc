// The file of API keys, and the limits that it sets.
#include "coordinator/front/tenants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "coordinator/front/api_error.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kFile[] = R"({"tenants": [
  {"name": "acme", "keys": ["sk-acme-1", "sk-acme-2"], "requests_per_minute": 60, "tokens_per_minute": 600,
   "concurrent": 2, "priority": 1, "models": ["small"]},
  {"name": "free", "keys": ["sk-free"]},
  {"name": "ops", "keys": ["sk-ops"], "operator": true}]})";

// Times are quotients of what does not divide evenly.
void ExpectAbout(absl::Duration time, absl::Duration wanted) {
  EXPECT_NEAR(absl::ToDoubleMilliseconds(time), absl::ToDoubleMilliseconds(wanted), 1.5);
}

TEST(TenantFileTest, ReadsTenants) {
  const absl::StatusOr<std::vector<TenantRow>> rows = ParseTenants(kFile);
  ASSERT_OK(rows);
  ASSERT_EQ(rows->size(), 3u);
  const TenantRow& acme = rows->at(0);
  EXPECT_EQ(acme.name, "acme");
  EXPECT_EQ(acme.keys, (std::vector<KeyDigest>{DigestOf("sk-acme-1"), DigestOf("sk-acme-2")}));
  EXPECT_EQ(acme.limits.requests_per_minute, 60);
  EXPECT_EQ(acme.limits.tokens_per_minute, 600);
  EXPECT_EQ(acme.limits.concurrent, 2);
  EXPECT_EQ(acme.limits.best_priority, 1);
  EXPECT_EQ(acme.limits.models, std::vector<std::string>{"small"});
  EXPECT_FALSE(acme.is_operator);
  EXPECT_EQ(rows->at(1).limits.requests_per_minute, 0);
  EXPECT_TRUE(rows->at(2).is_operator);
}

// The digest of "abc" is that of FIPS 180-2.
TEST(TenantFileTest, AKeyMayStandAsItsDigest) {
  constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  const KeyDigest digest = DigestOf("abc");
  EXPECT_EQ(absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()}), kAbc);
  const auto rows = ParseTenants(absl::StrCat(R"({"tenants":[{"name":"a","keys":["sha256:)", kAbc, "\"]}]}"));
  ASSERT_OK(rows);
  EXPECT_EQ(rows->at(0).keys, std::vector<KeyDigest>{digest});
}

TEST(TenantFileTest, DigestsAreToldApartAtEachByte) {
  const KeyDigest digest = DigestOf("abc");
  EXPECT_TRUE(SameDigest(digest, digest));
  for (size_t i = 0; i < digest.size(); ++i) {
    KeyDigest other = digest;
    other[i] ^= 1;
    EXPECT_FALSE(SameDigest(digest, other)) << i;
  }
}

TEST(TenantFileTest, WhatIsWrongIsNamedAndKeysAreNotShown) {
  const std::pair<const char*, const char*> cases[] = {
      {"[", "not"},
      {"{}", "tenants"},
      {R"({"tenants":[]})", "tenants"},
      {R"({"tenants":[7]})", "tenants[0]"},
      {R"({"tenants":[{"keys":["SECRET"]}]})", "has no name"},
      {R"({"tenants":[{"name":"a"}]})", "tenant a: keys"},
      {R"({"tenants":[{"name":"a","keys":[]}]})", "tenant a: keys"},
      {R"({"tenants":[{"name":"a","keys":["SECRET with a space"]}]})", "tenant a.keys[0]"},
      {R"({"tenants":[{"name":"a","keys":[""]}]})", "tenant a.keys[0]"},
      {R"({"tenants":[{"name":"a","keys":["sha256:SECRET"]}]})", "tenant a.keys[0]"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"requests_per_minute":0}]})", "requests_per_minute=0"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"tokens_per_minute":-3}]})", "tokens_per_minute=-3"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"concurrent":"many"}]})", "concurrent"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"priority":4294967296}]})", "priority"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"models":[]}]})", "models"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"operator":1}]})", "operator"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"],"request_per_minute":9}]})", "request_per_minute"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"]},{"name":"a","keys":["x"]}]})", "tenant a: stands there twice"},
      {R"({"tenants":[{"name":"a","keys":["SECRET"]},{"name":"b","keys":["SECRET"]}]})", "tenant b.keys[0]"},
      {"{\"tenants\":[{\"name\":\"a\\u0001\",\"keys\":[\"SECRET\"]}]}", "name"},
  };
  for (const auto& [text, why] : cases) {
    EXPECT_THAT(ParseTenants(text).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::AllOf(HasSubstr(why), Not(HasSubstr("SECRET")))))
        << text;
  }
}

// Whatever is asked and when: over any span no more is had than the bucket held and got, and one that comes back when
// it was told to is served.
TEST(RateBucketTest, GivesNoMoreThanItGets) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::mt19937_64 random(seed);
    const double rate = 1 + static_cast<double>(random() % 1000);
    absl::Time now = absl::UnixEpoch() + absl::Hours(1);
    const absl::Time begin = now;
    RateBucket bucket;
    bucket.SetRate(rate, now);
    double had = 0;
    for (int i = 0; i < 300; ++i) {
      now += absl::Milliseconds(random() % 3000);
      const double amount = 1 + static_cast<double>(random() % static_cast<uint64_t>(rate));
      const absl::Duration wait = bucket.Wait(amount, now);
      if (wait > absl::ZeroDuration()) {
        EXPECT_GT(bucket.Wait(amount, now + wait / 2), absl::ZeroDuration()) << "seed " << seed;
        now += wait + absl::Milliseconds(1);
      }
      ASSERT_EQ(bucket.Wait(amount, now), absl::ZeroDuration()) << "seed " << seed;
      bucket.Take(amount, now);
      had += amount;
      ASSERT_LE(had, rate + rate * absl::ToDoubleMinutes(now - begin) + 1e-6) << "seed " << seed;
    }
  }
}

TEST(RateBucketTest, ADebtIsPaidBackFirst) {
  absl::Time now = absl::UnixEpoch();
  RateBucket bucket;
  EXPECT_EQ(bucket.Wait(1e9, now), absl::ZeroDuration()) << "without a limit nobody waits";
  bucket.SetRate(60, now);
  EXPECT_EQ(bucket.Wait(1000, now), absl::ZeroDuration()) << "more than it can hold: it is full";
  bucket.Take(120, now);
  ExpectAbout(bucket.Wait(1, now), absl::Seconds(61));
  ExpectAbout(bucket.UntilFull(now), absl::Minutes(2));
  bucket.Take(-1000, now);
  EXPECT_EQ(bucket.Level(now), 60);
}

class TenantsTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_, std::ios::trunc) << text; }
  std::shared_ptr<Tenant> Find(const char* key) { return tenants_.Find(key).value_or(nullptr); }
  std::string Header(const Tenant& tenant, const std::string& name) {
    for (const auto& [key, value] : tenant.LimitHeaders()) {
      if (key == name) return value;
    }
    return "";
  }
  const std::string path_ = absl::StrCat(testing::TempDir(), "/keys-",
                                         testing::UnitTest::GetInstance()->current_test_info()->name(), ".json");
  ManualClock clock_;
  Metrics metrics_{"m"};
  Tenants tenants_{{.file = path_, .key = "sk-single"}, clock_, metrics_};
};

TEST_F(TenantsTest, FindsWhoseAKeyIs) {
  EXPECT_FALSE(Tenants({}, clock_, metrics_).on());
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  EXPECT_TRUE(tenants_.on());
  EXPECT_EQ(Find("sk-acme-2")->name(), "acme");
  EXPECT_EQ(Find("sk-acme-1"), Find("sk-acme-2"));
  EXPECT_EQ(Find("sk-single")->name(), "");
  EXPECT_TRUE(Find("sk-single")->is_operator());
  for (const char* key : {"", "sk-acme", "sk-acme-11", "SK-ACME-1"}) {
    EXPECT_EQ(ToApiError(tenants_.Find(key).status()).http, 401) << key;
    EXPECT_EQ(ToApiError(tenants_.Find(key).status()).code, "invalid_api_key") << key;
  }
  EXPECT_EQ(metrics_.Total("interlace_door_refusals_total"), 8);
}

TEST_F(TenantsTest, ReadAgainWhatWasUsedStaysUsed) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  for (int i = 0; i < 40; ++i) ASSERT_OK(Find("sk-acme-1")->CountRequest());
  const auto pass = Find("sk-acme-1")->Enter();
  ASSERT_OK(pass);
  Write(absl::StrReplaceAll(kFile, {{"sk-acme-1", "sk-acme-3"}, {"\"sk-free\"", "\"sk-new\""}}));
  ASSERT_OK(tenants_.Read());
  EXPECT_EQ(Find("sk-acme-1"), nullptr);
  EXPECT_EQ(Find("sk-free"), nullptr);
  EXPECT_EQ(Find("sk-new")->name(), "free");
  EXPECT_EQ(Header(*Find("sk-acme-3"), "x-ratelimit-remaining-requests"), "19");
}

TEST_F(TenantsTest, AFileThatCannotBeUsedChangesNothing) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  EXPECT_EQ(metrics_.Total("interlace_api_keys_stale"), 0);
  for (const char* broken : {"", "{", R"({"tenants":[{"name":"acme","keys":["sk-evil"],"limit":1}]})"}) {
    Write(broken);
    EXPECT_THAT(tenants_.Read(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(path_)));
    EXPECT_EQ(metrics_.Total("interlace_api_keys_stale"), 1);
    EXPECT_EQ(Find("sk-evil"), nullptr);
    EXPECT_EQ(Find("sk-acme-1")->name(), "acme");
  }
  std::remove(path_.c_str());
  EXPECT_FALSE(tenants_.Read().ok());
  EXPECT_NE(Find("sk-acme-1"), nullptr);
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  EXPECT_EQ(metrics_.Total("interlace_api_keys_stale"), 0);
}

TEST_F(TenantsTest, RequestsOfAMinute) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  const std::shared_ptr<Tenant> acme = Find("sk-acme-1");
  for (int i = 0; i < 60; ++i) ASSERT_OK(acme->CountRequest());
  const ApiError error = ToApiError(acme->CountRequest());
  EXPECT_EQ(error.http, 429);
  EXPECT_EQ(error.code, "rate_limit_exceeded");
  ExpectAbout(error.retry_after, absl::Seconds(1));
  EXPECT_EQ(Header(*acme, "x-ratelimit-limit-requests"), "60");
  EXPECT_EQ(Header(*acme, "x-ratelimit-remaining-requests"), "0");
  EXPECT_EQ(Header(*acme, "x-ratelimit-reset-requests"), "1m0s");
  clock_.Advance(error.retry_after - absl::Milliseconds(5));
  EXPECT_FALSE(acme->CountRequest().ok());
  clock_.Advance(absl::Milliseconds(5));
  EXPECT_OK(acme->CountRequest());
  EXPECT_TRUE(Find("sk-free")->LimitHeaders().empty());
  for (int i = 0; i < 1000; ++i) ASSERT_OK(Find("sk-free")->CountRequest());
}

TEST_F(TenantsTest, GenerationsAtATime) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  const std::shared_ptr<Tenant> acme = Find("sk-acme-1");
  auto first = acme->Enter(), second = acme->Enter();
  ASSERT_OK(first);
  ASSERT_OK(second);
  EXPECT_THAT(acme->Enter().status(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 generations")));
  clock_.Advance(absl::Seconds(8));
  first->reset();
  first = acme->Enter();
  ASSERT_OK(first);
  // Two run, and one takes 8 s: a place is free in 4 s.
  ExpectAbout(ToApiError(acme->Enter().status()).retry_after, absl::Seconds(4));
}

TEST_F(TenantsTest, TokensOfAMinute) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  const std::shared_ptr<Tenant> acme = Find("sk-acme-1");
  {
    const auto pass = acme->Enter();
    ASSERT_OK(pass);
    ASSERT_OK((*pass)->Charge(500));  // 100 of the prompt, up to 400 of the answer
    EXPECT_EQ(Header(*acme, "x-ratelimit-remaining-tokens"), "100");
    const auto other = acme->Enter();
    const ApiError error = ToApiError((*other)->Charge(200));
    EXPECT_EQ(error.http, 429);
    ExpectAbout(error.retry_after, absl::Seconds(10));
    (*pass)->Use(100);
    (*pass)->Use(150);
  }
  EXPECT_EQ(Header(*acme, "x-ratelimit-remaining-tokens"), "350");
  EXPECT_EQ(metrics_.Total("interlace_tenant_tokens_total"), 250);
  {
    const auto pass = acme->Enter();
    ASSERT_OK((*pass)->Charge(350));  // an answer without a limit: its tokens are a debt
    (*pass)->Use(950);
  }
  EXPECT_EQ(Header(*acme, "x-ratelimit-remaining-tokens"), "0");
  const auto pass = acme->Enter();
  ExpectAbout(ToApiError((*pass)->Charge(1)).retry_after, absl::Seconds(60.1));
  clock_.Advance(absl::Seconds(60.2));
  EXPECT_OK((*pass)->Charge(1));
}

TEST_F(TenantsTest, ModelsAndPriorities) {
  Write(kFile);
  ASSERT_OK(tenants_.Read());
  EXPECT_TRUE(Find("sk-acme-1")->MayAskFor("small"));
  EXPECT_FALSE(Find("sk-acme-1")->MayAskFor("large"));
  EXPECT_TRUE(Find("sk-free")->MayAskFor("large"));
  EXPECT_EQ(Find("sk-acme-1")->PriorityFor(-5), 1);
  EXPECT_EQ(Find("sk-acme-1")->PriorityFor(7), 7);
  EXPECT_EQ(Find("sk-free")->PriorityFor(-5), -5);
}

TEST(ApiKeyTest, IsReadOutOfHeaders) {
  EXPECT_EQ(BearerKey("Bearer sk-1"), "sk-1");
  EXPECT_EQ(BearerKey("  bearer   sk-1 "), "sk-1");
  for (const char* other : {"", "sk-1", "Basic sk-1", "Bearer", "Bearersk-1"}) EXPECT_EQ(BearerKey(other), "") << other;
  EXPECT_EQ(BasicKey("Basic " + absl::Base64Escape("anybody:sk-1:2")), "sk-1:2");
  for (const char* other : {"", "Basic", "Basic !!!", "Basic YQ==", "Bearer YTpi"})
    EXPECT_EQ(BasicKey(other), "") << other;
}

}  // namespace
}  // namespace interlace
