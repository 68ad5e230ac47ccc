// What /openapi.json says, held against what the handlers do.
#include "coordinator/front/openapi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "coordinator/front/routes.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

std::set<std::string> Described() {
  std::set<std::string> paths;
  for (const OpenApiPath& path : OpenApiPaths()) paths.insert(absl::StrCat(path.method, " ", path.path));
  return paths;
}

TEST(OpenApiTest, DescribesEachRouteAndNoOther) {
  std::set<std::string> routes;
  for (const auto& [method, path] : Routes::Paths()) {
    routes.insert(absl::StrCat(method, " ", path, absl::EndsWith(path, "/") ? "{id}" : ""));
  }
  EXPECT_EQ(Described(), routes);
}

TEST(OpenApiTest, IsServedAndWhole) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Get("/openapi.json");
  const Json json = Json::parse(client.Read().body, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["openapi"], "3.1.0");
  size_t operations = 0;
  for (const auto& [path, methods] : json["paths"].items()) operations += methods.size();
  const auto always = [](const OpenApiPath& path) { return !path.runtime_adapters; };
  EXPECT_EQ(operations, static_cast<size_t>(std::count_if(OpenApiPaths().begin(), OpenApiPaths().end(), always)));
}

TEST(OpenApiTest, ExamplesAreAccepted) {
  HttpRig rig;
  HttpClient client(rig.port());
  size_t submitted = 0;
  for (const OpenApiPath& path : OpenApiPaths()) {
    if (path.example.empty() || path.runtime_adapters) continue;  // adapters_test loads some
    client.Post(path.path, path.example);
    if (Routes::ProtocolOf({.method = "POST", .path = std::string(path.path)}) != nullptr) {
      const Request request = rig.engine.Await(submitted++);
      request.sink->OnEnd(EndOf(request, 0));
    }
    EXPECT_EQ(client.Read().status, 200) << path.path;
  }
}

// Each member by itself: its wrong value is refused by its name, and null, where it may be null, is as if it were
// absent.
TEST(OpenApiTest, MembersAreThoseThatHandlersRead) {
  HttpRig rig;
  HttpClient client(rig.port());
  for (const OpenApiPath& path : OpenApiPaths()) {
    if (path.runtime_adapters) continue;
    for (const auto& fields : {path.own, path.shared}) {
      for (const OpenApiField& field : fields) {
        Json body = Json::parse(path.example);
        body[std::string(field.name)] = Json::parse(field.wrong);
        client.Post(path.path, body.dump());
        const HttpAnswer answer = client.Read();
        EXPECT_EQ(answer.status, 400) << path.path << " " << field.name;
        const Json error = Json::parse(answer.body, nullptr, false)["error"];
        EXPECT_THAT(error["message"].get<std::string>(), ::testing::HasSubstr(std::string(field.name)))
            << path.path << " " << answer.body;
      }
    }
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(OpenApiTest, RequiredMembersAreMissed) {
  HttpRig rig;
  HttpClient client(rig.port());
  for (const OpenApiPath& path : OpenApiPaths()) {
    if (path.runtime_adapters) continue;
    for (const absl::string_view member : path.required) {
      Json body = Json::parse(path.example);
      body.erase(std::string(member));
      client.Post(path.path, body.dump());
      EXPECT_EQ(client.Read().status, 400) << path.path << " " << member;
    }
  }
}

}  // namespace
}  // namespace interlace
