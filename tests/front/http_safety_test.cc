// Keys and limits of tenants, TLS, budgets over all connections, and prompts that are far too long, over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/front/http_rig.h"
#include "tests/front/test_certificate.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
namespace net = boost::asio;

Json JsonOf(const HttpAnswer& answer) { return Json::parse(answer.body, nullptr, false); }

std::string TempPath(const char* what) {
  return absl::StrCat(testing::TempDir(), "/", testing::UnitTest::GetInstance()->current_test_info()->name(), "-",
                      what);
}

// Tenants acme and beta, an operator, and a front that wants their keys.
struct KeyedRig {
  explicit KeyedRig(const std::string& limits = "", HttpFront::Options options = {}) {
    const std::string path = TempPath("keys.json");
    std::ofstream(path) << R"({"tenants":[{"name":"acme","keys":["sk-acme"])" << limits
                        << R"(},{"name":"beta","keys":["sk-beta"]},{"name":"ops","keys":["sk-ops"],"operator":true}]})";
    tenants.emplace(Tenants::Options{.file = path}, clock, metrics);
    CHECK(tenants->Read().ok());
    options.tenants = &*tenants;
    rig.emplace(options);
  }
  int port() const { return rig->port(); }
  FakeEngine& engine() { return rig->engine; }
  RealClock clock;
  Metrics metrics{"tiny"};
  std::optional<Tenants> tenants;
  std::optional<HttpRig> rig;
};

constexpr char kAcme[] = "Authorization: Bearer sk-acme\r\n";
constexpr char kBeta[] = "Authorization: Bearer sk-beta\r\n";
constexpr char kOps[] = "Authorization: Bearer sk-ops\r\n";
constexpr char kPrompt[] = R"({"prompt":"a","max_tokens":5})";

HttpAnswer GetWith(int port, absl::string_view path, absl::string_view headers) {
  HttpClient client(port);
  client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n", headers, "\r\n"));
  return client.Read();
}

TEST(ApiKeysTest, WithoutAKeyOnlyHealthIsAnswered) {
  KeyedRig rig;
  for (const char* path : {"/health", "/ready", "/ping", "/version", "/metrics"}) {
    EXPECT_EQ(GetWith(rig.port(), path, "").status, 200) << path;
  }
  for (const char* path :
       {"/v1/models", "/load", "/debug/requests/a", "/ui", "/ui/state", "/nothing", "/v1/chat/completions"}) {
    const HttpAnswer answer = GetWith(rig.port(), path, "");
    EXPECT_EQ(answer.status, 401) << path;
    EXPECT_EQ(JsonOf(answer)["error"]["code"], "invalid_api_key") << path;
    EXPECT_EQ(answer.headers.count("www-authenticate"), 1u) << path;
    EXPECT_EQ(GetWith(rig.port(), path, "Authorization: Bearer sk-acm\r\n").status, 401) << path;
  }
  HttpClient client(rig.port());
  client.Send(
      "OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\nAccess-Control-Request-Method: GET\r\n\r\n");
  EXPECT_EQ(client.Read().status, 204) << "browsers send no key with it";
}

TEST(ApiKeysTest, ABodyWithoutAKeyIsNotRead) {
  KeyedRig rig;
  HttpClient client(rig.port());
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{");
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 401);
  EXPECT_EQ(answer.headers.at("connection"), "close");
  client.EndSending();
  EXPECT_TRUE(client.AwaitEnd());
}

TEST(ApiKeysTest, EachProtocolIsToldInItsOwnWords) {
  KeyedRig rig;
  HttpClient openai(rig.port()), anthropic(rig.port()), known(rig.port());
  openai.Post("/v1/chat/completions", "{}");
  EXPECT_EQ(JsonOf(openai.Read())["error"]["type"], "invalid_request_error");
  anthropic.Post("/v1/messages", "{}", "x-api-key: sk-no\r\n");
  const HttpAnswer refused = anthropic.Read();
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(JsonOf(refused)["type"], "error");
  EXPECT_EQ(JsonOf(refused)["error"]["type"], "authentication_error");
  known.Post("/v1/messages/count_tokens", R"({"messages":[{"role":"user","content":"a"}]})", "x-api-key: sk-acme\r\n");
  EXPECT_EQ(known.Read().status, 200);
}

TEST(ApiKeysTest, TheTenantIsThatOfTheKey) {
  KeyedRig rig;
  const auto ask = [&](size_t index, const std::string& body, const std::string& headers) {
    HttpClient client(rig.port());
    client.Post("/v1/completions", body, headers);
    const Request request = rig.engine().Await(index);
    request.sink->OnEnd(EndOf(request, 0));
    EXPECT_EQ(client.Read().status, 200);
    return request;
  };
  const Request acme = ask(0, R"({"prompt":"a","cache_salt":"s"})", kAcme);
  const Request beta = ask(1, R"({"prompt":"a","cache_salt":"s","fairness_id":"beta"})", kBeta);
  EXPECT_EQ(acme.targets.tenant, "acme");
  EXPECT_EQ(beta.targets.tenant, "beta");
  EXPECT_NE(acme.salt, beta.salt) << "KV is not shared between tenants";
  EXPECT_EQ(acme.salt, ask(2, R"({"prompt":"a","cache_salt":"s"})", kAcme).salt);
  // A router speaks for others; what it shares it decides by the salt.
  const Request routed = ask(3, R"({"prompt":"a"})", absl::StrCat(kOps, "x-llm-d-inference-fairness-id: acme\r\n"));
  EXPECT_EQ(routed.targets.tenant, "acme");
  EXPECT_EQ(routed.salt, "");
  for (const char* claim : {R"({"prompt":"a","fairness_id":"beta"})", R"({"prompt":"a","fairness_id":"ops"})"}) {
    HttpClient client(rig.port());
    client.Post("/v1/completions", claim, kAcme);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 403);
    EXPECT_THAT(answer.body, HasSubstr("fairness_id"));
  }
  EXPECT_EQ(rig.engine().submitted(), 4u);
}

TEST(ApiKeysTest, NobodySeesTheRequestsOfOthers) {
  KeyedRig rig;
  Explanation explanation;
  explanation.name = "a";
  explanation.targets.tenant = "acme";
  rig.engine().SetExplanation(explanation);
  EXPECT_EQ(GetWith(rig.port(), "/debug/requests/a", kAcme).status, 200);
  EXPECT_EQ(GetWith(rig.port(), "/debug/requests/a", kBeta).status, 404);
  EXPECT_EQ(GetWith(rig.port(), "/debug/requests/a", kOps).status, 200);
  for (const char* path : {"/ui", "/ui/state", "/ui/explain?id=a"}) {
    EXPECT_EQ(GetWith(rig.port(), path, kAcme).status, 403) << path;
    EXPECT_EQ(GetWith(rig.port(), path, kOps).status, 200) << path;
    const std::string typed = absl::StrCat("Authorization: Basic ", absl::Base64Escape("me:sk-ops"), "\r\n");
    EXPECT_EQ(GetWith(rig.port(), path, typed).status, 200) << path;
  }
  const std::string typed = absl::StrCat("Authorization: Basic ", absl::Base64Escape("me:sk-ops"), "\r\n");
  EXPECT_EQ(GetWith(rig.port(), "/v1/models", typed).status, 401)
      << "what a browser adds by itself counts for the page";
}

TEST(ApiKeysTest, WhatNeedsNoKeyIsASetting) {
  KeyedRig open("", {.keyless = "ui, metrics"}), closed("", {.keyless = ""});
  EXPECT_EQ(GetWith(open.port(), "/ui/state", "").status, 200);
  EXPECT_EQ(GetWith(open.port(), "/metrics", "").status, 200);
  EXPECT_EQ(GetWith(closed.port(), "/metrics", "").status, 401);
  EXPECT_EQ(GetWith(closed.port(), "/metrics", kAcme).status, 403);
  EXPECT_EQ(GetWith(closed.port(), "/metrics", kOps).status, 200);
}

TEST(ApiKeysTest, LimitsAreToldAndKept) {
  KeyedRig rig(R"(,"requests_per_minute":3,"tokens_per_minute":100,"concurrent":1)");
  HttpClient client(rig.port()), other(rig.port());
  client.Post("/v1/completions", kPrompt, kAcme);
  const Request request = rig.engine().Await(0);
  other.Post("/v1/completions", kPrompt, kAcme);
  HttpAnswer refused = other.Read();
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(JsonOf(refused)["error"]["code"], "rate_limit_exceeded");
  EXPECT_EQ(JsonOf(refused)["error"]["type"], "rate_limit_error");
  EXPECT_THAT(refused.body, HasSubstr("1 generations under way"));
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  request.sink->OnTokens({1});
  request.sink->OnEnd(EndOf(request, 1, FinishReason::kLength));
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("x-ratelimit-limit-requests"), "3");
  EXPECT_EQ(answer.headers.at("x-ratelimit-remaining-requests"), "2");
  EXPECT_EQ(answer.headers.at("x-ratelimit-limit-tokens"), "100");
  // A request that may use more than is left of the minute.
  client.Post("/v1/completions", R"({"prompt":"a","max_tokens":99})", kAcme);
  refused = client.Read();
  EXPECT_EQ(refused.status, 429);
  EXPECT_THAT(refused.body, HasSubstr("100 tokens a minute"));
  client.Post("/tokenize", R"({"prompt":"a"})", kAcme);
  EXPECT_EQ(client.Read().status, 200);
  client.Post("/tokenize", R"({"prompt":"a"})", kAcme);
  refused = client.Read();
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("x-ratelimit-remaining-requests"), "0");
  EXPECT_EQ(refused.headers.at("retry-after"), "20") << "one of three a minute";
  EXPECT_EQ(GetWith(rig.port(), "/v1/models", kAcme).status, 200) << "what costs nothing is not counted";
  HttpClient beta(rig.port());
  beta.Post("/tokenize", R"({"prompt":"a"})", kBeta);
  EXPECT_EQ(beta.Read().status, 200) << "each tenant has its own";
}

TEST(ApiKeysTest, AClientThatLeavesGivesItsPlaceBack) {
  KeyedRig rig(R"(,"concurrent":1)");
  {
    HttpClient client(rig.port());
    client.Post("/v1/completions", R"({"prompt":"a","stream":true})", kAcme);
    rig.engine().Await(0);
  }
  ASSERT_TRUE(rig.engine().AwaitCancel(rig.engine().Await(0).id));
  for (int tries = 0;; ++tries) {  // the place is free when the session has ended, a moment later
    HttpClient client(rig.port());
    client.Post("/v1/completions", R"({"prompt":"a","stream":true,"request_id":7})", kAcme);
    if (client.Read().status == 400) break;
    ASSERT_LT(tries, 10000);
  }
}

TEST(ApiKeysTest, AModelThatATenantMayNotAskForIsNotThere) {
  KeyedRig rig(R"(,"models":["large"])");
  HttpClient client(rig.port());
  client.Post("/v1/completions", kPrompt, kAcme);
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(JsonOf(answer)["error"]["code"], "model_not_found");
}

// ---- TLS

// A blocking client. Thread: the test's.
class TlsClient {
 public:
  TlsClient(int port, const std::string& ca, const TestCertificate* own = nullptr) {
    context_.load_verify_file(ca);
    context_.set_verify_mode(net::ssl::verify_peer);
    if (own != nullptr) {
      context_.use_certificate_chain_file(own->certificate);
      context_.use_private_key_file(own->key, net::ssl::context::pem);
    }
    stream_.emplace(loop_, context_);
    stream_->lowest_layer().connect({net::ip::address_v4::loopback(), static_cast<uint16_t>(port)});
    stream_->handshake(net::ssl::stream_base::client, error_);
  }
  bool connected() const { return !error_; }
  std::string peer() {
    X509* certificate = SSL_get_peer_certificate(stream_->native_handle());
    char name[256] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
    X509_free(certificate);
    return name;
  }
  std::string protocol() { return SSL_get_version(stream_->native_handle()); }
  void Send(const std::string& bytes) { net::write(*stream_, net::buffer(bytes), error_); }
  std::string ReadThrough(const std::string& mark) {
    const size_t bytes = net::read_until(*stream_, net::dynamic_buffer(held_), mark, error_);
    const std::string text = held_.substr(0, error_ ? held_.size() : bytes);
    held_.erase(0, text.size());
    return text;
  }

 private:
  net::io_context loop_;
  net::ssl::context context_{net::ssl::context::tls_client};
  std::optional<net::ssl::stream<net::ip::tcp::socket>> stream_;
  boost::system::error_code error_;
  std::string held_;
};

constexpr char kHealth[] = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

TEST(TlsTest, StreamsAndWholeAnswers) {
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server");
  HttpRig rig({.tls = {.certificate = server.certificate, .key = server.key}});
  TlsClient client(rig.port(), authority.file());
  ASSERT_TRUE(client.connected());
  EXPECT_THAT(client.protocol(), HasSubstr("TLSv1."));
  client.Send(kHealth);
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), HasSubstr("200 OK"));
  client.ReadThrough("}");
  // The pending read that watches for the client to leave and the writes of the stream share the connection.
  const std::string body = R"({"prompt":"a","stream":true})";
  client.Send(
      absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  const Request request = rig.engine.Await(0);
  for (int i = 0; i < 500; ++i) {
    rig.Say(request, " yes");
    EXPECT_THAT(client.ReadThrough("\n\n"), HasSubstr(" yes")) << i;
  }
  request.sink->OnEnd(EndOf(request, 500));
  EXPECT_THAT(client.ReadThrough("[DONE]"), HasSubstr("stop"));
  client.ReadThrough("0\r\n\r\n");
  client.Send(kHealth);
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), HasSubstr("200 OK")) << "the connection lives on";
}

TEST(TlsTest, AClientThatLeavesCancelsItsRequest) {
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server");
  HttpRig rig({.tls = {.certificate = server.certificate, .key = server.key}});
  std::optional<TlsClient> client(std::in_place, rig.port(), authority.file());
  const std::string body = R"({"prompt":"a","stream":true})";
  client->Send(
      absl::StrCat("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  const Request request = rig.engine.Await(0);
  client.reset();
  EXPECT_TRUE(rig.engine.AwaitCancel(request.id));
}

TEST(TlsTest, APlainClientIsTold) {
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server");
  HttpRig rig({.tls = {.certificate = server.certificate, .key = server.key}});
  HttpClient client(rig.port());
  client.Get("/health");
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(JsonOf(answer)["error"]["code"], "tls_required");
  client.EndSending();
  EXPECT_TRUE(client.AwaitEnd());
}

TEST(TlsTest, AHandshakeThatDoesNotComeEnds) {
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server");
  HttpRig rig(
      {.tls = {.certificate = server.certificate, .key = server.key}, .handshake_timeout = absl::Milliseconds(50)});
  HttpClient silent(rig.port()), half(rig.port()), garbage(rig.port());
  half.Send(absl::string_view("\x16\x03\x01", 3));
  garbage.Send(std::string("\x16") + std::string(500, '\x7f'));
  EXPECT_TRUE(silent.AwaitEnd());
  EXPECT_TRUE(half.AwaitEnd());
  EXPECT_TRUE(garbage.AwaitEnd());
  TlsClient client(rig.port(), authority.file());
  EXPECT_TRUE(client.connected());
}

TEST(TlsTest, NewFilesCountForNewConnections) {
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server");
  HttpRig rig({.tls = {.certificate = server.certificate, .key = server.key}});
  TlsClient before(rig.port(), authority.file());
  EXPECT_EQ(before.peer(), "server");
  const TestCertificate next = authority.Sign("next");
  std::ofstream(server.certificate) << "broken";
  EXPECT_THAT(rig.front->ReloadTls(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(server.certificate)));
  TlsClient old(rig.port(), authority.file());
  EXPECT_EQ(old.peer(), "server");
  std::filesystem::copy_file(next.certificate, server.certificate, std::filesystem::copy_options::overwrite_existing);
  EXPECT_FALSE(rig.front->ReloadTls().ok()) << "the key is that of another certificate";
  std::filesystem::copy_file(next.key, server.key, std::filesystem::copy_options::overwrite_existing);
  EXPECT_OK(rig.front->ReloadTls());
  TlsClient after(rig.port(), authority.file());
  EXPECT_EQ(after.peer(), "next");
  before.Send(kHealth);
  EXPECT_THAT(before.ReadThrough("\r\n\r\n"), HasSubstr("200 OK"));
}

TEST(TlsTest, ClientsNeedACertificateWhereThatIsAsked) {
  TestAuthority authority(TempPath("tls")), strangers(TempPath("strangers"));
  const TestCertificate server = authority.Sign("server"), known = authority.Sign("client"),
                        other = strangers.Sign("client");
  HttpRig rig({.tls = {.certificate = server.certificate, .key = server.key, .client_ca = authority.file()}});
  const auto answered = [&](const TestCertificate* own) {
    TlsClient client(rig.port(), authority.file(), own);
    if (!client.connected()) return false;
    client.Send(kHealth);  // in TLS 1.3 the client learns of a refusal when it reads
    return client.ReadThrough("\r\n\r\n").find("200 OK") != std::string::npos;
  };
  EXPECT_TRUE(answered(&known));
  EXPECT_FALSE(answered(&other));
  EXPECT_FALSE(answered(nullptr));
}

TEST(TlsTest, FilesThatCannotBeUsedAreNamed) {
  const auto listen = [](TlsFiles files) {
    IntakeRig intake;
    Metrics metrics("tiny");
    return HttpFront::Listen({.tls = std::move(files)}, intake.intake, metrics).status();
  };
  TestAuthority authority(TempPath("tls"));
  const TestCertificate server = authority.Sign("server"), other = authority.Sign("other");
  EXPECT_THAT(listen({.certificate = server.certificate}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tls_key")));
  EXPECT_THAT(listen({.key = server.key}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tls_cert")));
  EXPECT_THAT(listen({.certificate = server.certificate, .key = other.key}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("server.tls_key")));
  EXPECT_THAT(listen({.certificate = "/nowhere", .key = server.key}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("server.tls_cert=/nowhere")));
  EXPECT_THAT(listen({.certificate = server.certificate, .key = server.key, .client_ca = "/nowhere"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("server.tls_client_ca")));
}

// ---- budgets

// Of two bodies that are too large together, the one whose bytes are read later is refused; the other is served.
TEST(BudgetTest, BodiesOfAllConnectionsTogetherAreBounded) {
  HttpRig rig({.max_body = 100000, .all_bodies = 150000});
  const std::string begun =
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + std::string(90000, ' ');
  HttpClient first(rig.port()), second(rig.port());
  first.Send(begun);
  second.Send(begun);
  pollfd answered[] = {{.fd = first.descriptor(), .events = POLLIN}, {.fd = second.descriptor(), .events = POLLIN}};
  ASSERT_EQ(poll(answered, 2, 60000), 1);
  const bool first_refused = answered[0].revents != 0;
  const HttpAnswer refused = (first_refused ? first : second).Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(JsonOf(refused)["error"]["code"], "too_many_bodies");
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  HttpClient& served = first_refused ? second : first;
  served.Send(std::string(9985, ' ') + R"({"prompt": "a"})");
  EXPECT_EQ(served.Read().status, 200);
  HttpClient third(rig.port());
  third.Send(begun + std::string(9985, ' ') + R"({"prompt": "a"})");
  EXPECT_EQ(third.Read().status, 200) << "what ended is given back";
}

TEST(BudgetTest, AConnectionTooManyIsTold) {
  HttpRig rig({.max_connections = 2});
  HttpClient first(rig.port()), second(rig.port());
  for (HttpClient* client : {&first, &second}) {
    client->Get("/version");
    EXPECT_EQ(client->Read().status, 200);
  }
  HttpClient third(rig.port());
  third.Get("/version");
  const HttpAnswer answer = third.Read();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(JsonOf(answer)["error"]["code"], "too_many_connections");
  EXPECT_EQ(answer.headers.count("retry-after"), 1u);
  third.EndSending();
  EXPECT_TRUE(third.AwaitEnd());
  first.Get("/version");
  EXPECT_EQ(first.Read().status, 200);
}

// ---- long prompts

TEST(LongPromptTest, OneThatCannotFitIsRefusedWhateverItsDoor) {
  HttpRig rig;
  std::string words;
  while (words.size() < (3 << 20)) words += "one two three ";
  const std::string quoted = Json(words).dump();
  for (const auto& [path, body] :
       {std::pair<const char*, std::string>{"/v1/completions", absl::StrCat(R"({"prompt":)", quoted, "}")},
        {"/v1/chat/completions", absl::StrCat(R"({"messages":[{"role":"user","content":)", quoted, "}]}")}}) {
    HttpClient client(rig.port());
    client.Post(path, body);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 400) << path;
    EXPECT_EQ(JsonOf(answer)["error"]["code"], "context_length_exceeded") << path;
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(HttpRulesTest, ATargetMayNameTheServer) {
  HttpRig rig;
  for (const char* target : {"http://localhost:8000/v1/models", "http://x/v1/models?a=http://b/", "/v1/models?a=://"}) {
    EXPECT_EQ(JsonOf(GetWith(rig.port(), target, ""))["object"], "list") << target;
  }
  EXPECT_EQ(GetWith(rig.port(), "http://localhost", "").status, 404);
}

}  // namespace
}  // namespace interlace
