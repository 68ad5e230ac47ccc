// The tool's HTTP client against the door itself.
#include "cli/http_door.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/front/http_rig.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

HttpDoor DoorAt(int port, absl::string_view base = "", std::string key = "") {
  absl::StatusOr<HttpDoor> door = HttpDoor::At(absl::StrCat("http://127.0.0.1:", port, base), std::move(key));
  CHECK(door.ok());
  return *std::move(door);
}

TEST(HttpDoorTest, GivesMethodBodyStatusAndHeaders) {
  HttpRig rig;
  const HttpDoor door = DoorAt(rig.port());
  const absl::StatusOr<HttpResult> health = door.Ask("GET", "/health");
  ASSERT_OK(health);
  EXPECT_EQ(health->status, 200);
  EXPECT_EQ(health->header("content-type"), "application/json");
  EXPECT_EQ(health->header("Nothing-Of-That-Name"), "");
  const absl::StatusOr<std::string> tokens = door.Post("/tokenize", R"({"prompt":"one two"})");
  ASSERT_OK(tokens);
  EXPECT_GT(Json::parse(*tokens)["count"], 0);
  EXPECT_EQ(door.Ask("HEAD", "/version")->body, "");
  EXPECT_EQ(door.Ask("DELETE", "/version")->status, 405);
}

TEST(HttpDoorTest, RefusalsKeepTheServersWords) {
  HttpRig rig;
  const HttpDoor door = DoorAt(rig.port());
  EXPECT_THAT(door.Post("/tokenize", "{}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prompt: is missing")));
  EXPECT_THAT(door.Get("/nowhere"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nothing at /nowhere")));
  rig.engine.SetSnapshot(absl::UnavailableError("the scheduler did not answer in time"));
  EXPECT_THAT(door.Get("/ui/state"), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("did not answer in time")));
  ASSERT_TRUE(rig.gate.CloseForGood(absl::ZeroDuration()));
  EXPECT_THAT(door.Post("/debug/resume", ""), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("resume")));
}

TEST(HttpDoorTest, SendsTheKey) {
  RealClock clock;
  Metrics metrics("tiny");
  Tenants tenants({.file = "", .key = "sk-operator"}, clock, metrics);
  ASSERT_OK(tenants.Read());
  HttpRig rig({.tenants = &tenants});
  EXPECT_THAT(DoorAt(rig.port()).Get("/ui/state"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--api-key")));
  EXPECT_OK(DoorAt(rig.port(), "", "sk-operator").Get("/ui/state"));
}

TEST(HttpDoorTest, TheBaseOfTheUrlComesBeforeEachPath) {
  HttpRig rig;
  EXPECT_OK(DoorAt(rig.port(), "/v1/").Get("/health")) << "the base of OpenAI's clients";
  EXPECT_THAT(DoorAt(rig.port(), "/proxy").Get("/health"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/proxy/health")));
  EXPECT_THAT(HttpDoor::At("ftp://x", ""), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--url ftp://x")));
}

TEST(HttpDoorTest, WhoDoesNotListenIsUnavailable) {
  EXPECT_THAT(DoorAt(1).Get("/health"), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1:1/health")));
}

TEST(CallHttpTest, AnAnswerThatIsTooLargeIsRefused) {
  HttpRig rig;
  HttpCall call{.host = "127.0.0.1", .port = absl::StrCat(rig.port()), .authority = "x", .target = "/openapi.json"};
  EXPECT_THAT(CallHttp(call, absl::Seconds(20), 100),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("larger than 100")));
}

}  // namespace
}  // namespace interlace
