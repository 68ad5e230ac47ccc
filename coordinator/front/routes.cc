#include "coordinator/front/routes.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/drain_json.h"
#include "coordinator/front/leader_gate.h"
#include "coordinator/front/lora_json.h"
#include "coordinator/front/messages_answer.h"
#include "coordinator/front/messages_json.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/openapi.h"
#include "coordinator/front/readiness.h"
#include "coordinator/front/server_json.h"
#include "coordinator/front/tokenize_json.h"
#include "coordinator/front/ui_json.h"
#include "coordinator/front/ui_page.h"

namespace interlace {
namespace {

HttpReply Ok(std::string body) {
  HttpReply reply;
  reply.body = std::move(body);
  return reply;
}

void AddRetryAfter(absl::Duration wait, HttpReply* reply) {
  const int64_t ms = std::max<int64_t>(1, absl::ToInt64Milliseconds(wait));
  reply->headers.emplace_back("retry-after-ms", absl::StrCat(ms));
  reply->headers.emplace_back("retry-after", absl::StrCat((ms + 999) / 1000));
}

// %41 -> A; what is no escape stays as it is.
std::string Unescaped(absl::string_view text) {
  const auto digit = [](char c) { return absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10; };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && absl::ascii_isxdigit(text[i + 1]) &&
        absl::ascii_isxdigit(text[i + 2])) {
      out.push_back(static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

// What changes from one look to the next.
HttpReply OkUnstored(std::string body) {
  HttpReply reply = Ok(std::move(body));
  reply.headers = {{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}};
  return reply;
}

// Of "a=1&name=value"; empty if it is not there.
std::string QueryValue(absl::string_view query, absl::string_view name) {
  for (absl::string_view part : absl::StrSplit(query, '&')) {
    if (absl::ConsumePrefix(&part, name) && absl::ConsumePrefix(&part, "=")) return Unescaped(part);
  }
  return "";
}

}  // namespace

namespace {

constexpr absl::string_view kLoadAdapterPath = "/v1/load_lora_adapter", kUnloadAdapterPath = "/v1/unload_lora_adapter";

bool IsOfAdapters(absl::string_view path) { return path == kLoadAdapterPath || path == kUnloadAdapterPath; }

}  // namespace

struct Routes::Row {
  absl::string_view method;
  absl::string_view path;  // one that ends in '/' takes whatever follows
  RouteKind kind;
  HttpReply (Routes::*answer)(const HttpQuestion&) const;
  RouteAccess access = RouteAccess::kKey;
};

const std::vector<Routes::Row>& Routes::Table() {
  static const std::vector<Row>* table = [] {
    auto* rows = new std::vector<Row>{
        {"GET", "/v1/models", RouteKind::kQuick, &Routes::Models},
        {"GET", "/v1/models/", RouteKind::kQuick, &Routes::Model},
        {"GET", "/health", RouteKind::kQuick, &Routes::Health, RouteAccess::kAnybody},
        {"GET", "/ping", RouteKind::kQuick, &Routes::Health, RouteAccess::kAnybody},
        {"POST", "/ping", RouteKind::kQuick, &Routes::Health, RouteAccess::kAnybody},
        {"GET", "/ready", RouteKind::kQuick, &Routes::Ready, RouteAccess::kAnybody},
        {"GET", "/load", RouteKind::kQuick, &Routes::Load},
        {"GET", "/metrics", RouteKind::kQuick, &Routes::MetricsText, RouteAccess::kOperator},
        {"GET", "/version", RouteKind::kQuick, &Routes::Version, RouteAccess::kAnybody},
        {"GET", "/openapi.json", RouteKind::kQuick, &Routes::OpenApi, RouteAccess::kAnybody},
        {"GET", "/debug/requests/", RouteKind::kSlow, &Routes::Explain},
        {"GET", "/debug/drain", RouteKind::kQuick, &Routes::DrainProgress, RouteAccess::kOperator},
        {"POST", "/debug/drain", RouteKind::kQuick, &Routes::Drain, RouteAccess::kOperator},
        {"POST", "/debug/resume", RouteKind::kQuick, &Routes::Resume, RouteAccess::kOperator},
        {"POST", kLoadAdapterPath, RouteKind::kOperation, &Routes::LoadAdapter, RouteAccess::kOperator},
        {"POST", kUnloadAdapterPath, RouteKind::kOperation, &Routes::UnloadAdapter, RouteAccess::kOperator},
        {"GET", "/ui", RouteKind::kQuick, &Routes::UiPageText, RouteAccess::kOperator},
        {"GET", "/ui/state", RouteKind::kSlow, &Routes::UiState, RouteAccess::kOperator},
        {"GET", "/ui/explain", RouteKind::kSlow, &Routes::UiExplain, RouteAccess::kOperator},
        {"POST", "/tokenize", RouteKind::kSlow, &Routes::Tokenize},
        {"POST", "/detokenize", RouteKind::kSlow, &Routes::Detokenize},
        {"GET", "/tokenizer_info", RouteKind::kQuick, &Routes::TokenizerInfo},
        {"POST", "/v1/messages/count_tokens", RouteKind::kSlow, &Routes::CountTokens},
    };
    for (const ProtocolRow& protocol : Protocols()) {
      rows->push_back({"POST", protocol.path, RouteKind::kGeneration, nullptr});
    }
    return rows;
  }();
  return *table;
}

namespace {

bool PathMatches(absl::string_view row, absl::string_view path) {
  if (!absl::EndsWith(row, "/")) return row == path;
  return path.size() > row.size() && absl::StartsWith(path, row);
}

}  // namespace

bool Routes::Exists(const Row& row, absl::string_view path) const {
  const bool of_ui = row.path == "/ui" || absl::StartsWith(row.path, "/ui/");
  const bool of_gate = row.path == "/debug/drain" || row.path == "/debug/resume";
  return PathMatches(row.path, path) && (ui_ || !of_ui) && (gate_ != nullptr || !of_gate) &&
         (HasRuntimeAdapters() || !IsOfAdapters(row.path));
}

bool Routes::HasRuntimeAdapters() const {
  const AdapterRegistry* const adapters = intake_.options().adapters;
  return adapters != nullptr && adapters->runtime();
}

const Routes::Row* Routes::Find(const HttpQuestion& question) const {
  for (const Row& row : Table()) {
    if (row.method == question.method && Exists(row, question.path)) return &row;
  }
  return nullptr;
}

RouteKind Routes::KindOf(const HttpQuestion& question) const {
  const Row* row = Find(question);
  return row == nullptr ? RouteKind::kQuick : row->kind;
}

const ProtocolRow* Routes::ProtocolOf(const HttpQuestion& question) {
  for (const ProtocolRow& protocol : Protocols()) {
    if (question.method == "POST" && question.path == protocol.path) return &protocol;
  }
  return nullptr;
}

RouteAccess Routes::AccessOf(const HttpQuestion& question) const {
  const Row* row = Find(question);
  if (row == nullptr) return RouteAccess::kKey;
  for (absl::string_view keyless : absl::StrSplit(keyless_, ',', absl::SkipWhitespace())) {
    const std::string path = absl::StrCat("/", absl::StripAsciiWhitespace(keyless));
    if (row->path == path || absl::StartsWith(row->path, absl::StrCat(path, "/"))) return RouteAccess::kAnybody;
  }
  return row->access;
}

HttpReply Routes::Answer(const HttpQuestion& question) const {
  const Row* row = Find(question);
  return row == nullptr ? Missing(question) : (this->*row->answer)(question);
}

HttpReply Routes::Missing(const HttpQuestion& question) const {
  for (const Row& row : Table()) {
    if (!Exists(row, question.path)) continue;
    HttpReply reply =
        ErrorReply(405, absl::StrCat(question.method, " is not what ", question.path, " takes: use ", row.method),
                   "method_not_allowed");
    reply.headers.emplace_back("Allow", row.method == "GET" ? "GET, HEAD" : std::string(row.method));
    return reply;
  }
  if (IsOfAdapters(question.path)) {
    return ErrorReply(
        404,
        "adapters do not come and go while this server runs: start it with model.runtime_adapters=true and "
        "model.adapter_dir=FOLDER",
        "unknown_url");
  }
  return ErrorReply(404, absl::StrCat("there is nothing at ", absl::string_view(question.path).substr(0, 200)),
                    "unknown_url");
}

// One that stands by is well: whoever restarts what is not must leave it alone.
HttpReply Routes::Health(const HttpQuestion& question) const {
  HttpReply reply = Ready(question);
  if (!standby_()) return reply;
  return Ok(std::move(reply.body));
}

HttpReply Routes::Ready(const HttpQuestion&) const {
  const EngineLoad load = intake_.engine().Load();
  HttpReply reply = Ok(HealthJson(load, IsReady(load), standby_()));
  if (IsReady(load)) return reply;
  reply.status = 503;
  AddRetryAfter(absl::Seconds(1), &reply);
  return reply;
}

HttpReply Routes::Load(const HttpQuestion&) const { return Ok(LoadJson(intake_.engine().Load())); }

HttpReply Routes::MetricsText(const HttpQuestion&) const {
  if (intake_.options().adapters != nullptr) {
    intake_.options().adapters->TellMetrics(intake_.engine().Load(), WallSeconds());
  }
  HttpReply reply = Ok(metrics_.Text());
  reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
  return reply;
}

HttpReply Routes::Version(const HttpQuestion&) const { return Ok(VersionJson(INTERLACE_VERSION)); }

HttpReply Routes::OpenApi(const HttpQuestion&) const {
  return Ok(OpenApiJson(INTERLACE_VERSION, HasRuntimeAdapters()));
}

std::vector<std::pair<absl::string_view, absl::string_view>> Routes::Paths() {
  std::vector<std::pair<absl::string_view, absl::string_view>> paths;
  for (const Row& row : Table()) paths.emplace_back(row.method, row.path);
  return paths;
}

// Only what can be served now is listed: routers take this path as model-aware readiness.
HttpReply Routes::Models(const HttpQuestion&) const {
  std::vector<ModelCard> cards;
  if (IsReady(intake_.engine().Load())) {
    cards.push_back(CardOf(nullptr));
    const AdapterRegistry* const adapters = intake_.options().adapters;
    for (const auto& adapter : adapters == nullptr ? ServedAdapters() : adapters->served()) {
      cards.push_back(CardOf(adapter.get()));
    }
  }
  return Ok(ModelListJson(cards));
}

ModelCard Routes::CardOf(const ServedAdapter* adapter) const {
  const Intake::Options& model = intake_.options();
  if (adapter != nullptr) return {adapter->name, model.context, model.created, adapter->folder, model.model};
  return {model.model, model.context, model.created, model.model, ""};
}

HttpReply Routes::Model(const HttpQuestion& question) const {
  const std::string id = Unescaped(absl::string_view(question.path).substr(absl::string_view("/v1/models/").size()));
  const absl::StatusOr<AdapterUse> known = intake_.FindModel(id);
  if (!known.ok()) return ErrorReply(known.status());
  if (!IsReady(intake_.engine().Load())) {
    return ErrorReply(absl::UnavailableError(absl::StrCat("model '", id, "' is not ready: ranks are missing")));
  }
  return Ok(ModelJson(CardOf(known->adapter.get())));
}

absl::StatusOr<Explanation> Routes::ExplainTo(const Tenant* caller, absl::string_view name) const {
  absl::StatusOr<Explanation> explanation = intake_.Explain(name);
  if (!explanation.ok() || MaySee(caller, *explanation)) return explanation;
  return absl::NotFoundError(absl::StrCat("no request '", name.substr(0, 200), "' is known"));
}

HttpReply Routes::Explain(const HttpQuestion& question) const {
  const std::string name =
      Unescaped(absl::string_view(question.path).substr(absl::string_view("/debug/requests/").size()));
  const absl::StatusOr<Explanation> explanation = ExplainTo(question.caller, name);
  return explanation.ok() ? Ok(ExplanationJson(*explanation)) : ErrorReply(explanation.status());
}

namespace {

// Any page of a browser may use the model where http.cors says so; it may not stop the server.
absl::Status RefusePages(const HttpQuestion& question) {
  if (!question.of_page) return absl::OkStatus();
  return absl::PermissionDeniedError("pages in a browser may not do this: ask from a command line");
}

}  // namespace

HttpReply Routes::DrainProgress(const HttpQuestion&) const {
  return OkUnstored(DrainJson(gate_->state(), gate_->Load().replicas));
}

HttpReply Routes::Drain(const HttpQuestion& question) const {
  absl::Status status = RefusePages(question);
  const absl::StatusOr<DrainAsked> asked = status.ok() ? ParseDrain(question.body) : status;
  status = asked.status();
  if (status.ok()) status = asked->replica ? gate_->DrainReplica(*asked->replica, true) : gate_->Close(asked->timeout);
  return status.ok() ? DrainProgress(question) : ErrorReply(ForStopping(std::move(status)));
}

HttpReply Routes::Resume(const HttpQuestion& question) const {
  absl::Status status = RefusePages(question);
  const absl::StatusOr<std::optional<int32_t>> replica = status.ok() ? ParseResume(question.body) : status;
  status = replica.status();
  if (status.ok()) status = *replica ? gate_->DrainReplica(**replica, false) : gate_->Open();
  return status.ok() ? DrainProgress(question) : ErrorReply(ForStopping(std::move(status)));
}

namespace {

HttpReply SaidAsVllm(const absl::Status& status, absl::string_view done) {
  if (status.ok()) {
    HttpReply reply = Ok(std::string(done));
    reply.content_type = "text/plain; charset=utf-8";
    return reply;
  }
  ApiError error = ToApiError(status);
  const bool refused = error.http != 503 && error.http != 403 && error.http != 404;
  if (refused) error.http = 400;
  if (refused) error.type = "InvalidUserInput";
  if (error.http == 404) error.type = "NotFoundError";
  HttpReply reply = ErrorReply(status);
  reply.body = ErrorBody(error);
  reply.status = error.http;
  return reply;
}

}  // namespace

HttpReply Routes::LoadAdapter(const HttpQuestion& question) const {
  absl::Status status = RefusePages(question);
  const absl::StatusOr<AdapterToLoad> asked = status.ok() ? ParseLoadAdapter(question.body) : status;
  status = asked.status();
  if (status.ok()) status = intake_.options().adapters->Load(asked->name, asked->path, asked->in_place);
  if (absl::IsNotFound(status)) {
    status = absl::NotFoundError(absl::StrCat("Loading lora ", asked->name, " failed: No adapter found for ",
                                              asked->path, ": ", status.message()));
  }
  return SaidAsVllm(status,
                    status.ok() ? absl::StrCat("Success: LoRA adapter '", asked->name, "' added successfully.") : "");
}

HttpReply Routes::UnloadAdapter(const HttpQuestion& question) const {
  absl::Status status = RefusePages(question);
  const absl::StatusOr<std::string> name = status.ok() ? ParseUnloadAdapter(question.body) : status;
  status = name.status();
  if (status.ok()) status = intake_.options().adapters->Unload(*name);
  return SaidAsVllm(status,
                    status.ok() ? absl::StrCat("Success: LoRA adapter '", *name, "' removed successfully.") : "");
}

HttpReply Routes::UiPageText(const HttpQuestion&) const {
  HttpReply reply = Ok(std::string(UiPage()));
  reply.content_type = "text/html; charset=utf-8";
  reply.headers = {{"Content-Security-Policy", UiPagePolicy()},
                   {"X-Content-Type-Options", "nosniff"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cache-Control", "no-cache"}};
  return reply;
}

HttpReply Routes::UiState(const HttpQuestion&) const {
  const absl::Time now = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    if (now < state_until_ && state_until_ <= now + kStateLasts) return OkUnstored(state_);
  }
  absl::StatusOr<ReplicaSnapshot> replica = intake_.engine().Snapshot();
  if (!replica.ok()) return ErrorReply(replica.status());
  std::string state = UiStateJson({intake_.options().model, INTERLACE_VERSION, *std::move(replica)});
  absl::MutexLock lock(&mutex_);
  state_ = state;
  state_until_ = now + kStateLasts;
  return OkUnstored(std::move(state));
}

HttpReply Routes::UiExplain(const HttpQuestion& question) const {
  const std::string name = QueryValue(question.query, "id");
  if (name.empty()) return ErrorReply(absl::InvalidArgumentError("id is missing: ask for /ui/explain?id=REQUEST"));
  const absl::StatusOr<Explanation> explanation = ExplainTo(question.caller, name);
  return explanation.ok() ? OkUnstored(ExplanationJson(*explanation)) : ErrorReply(explanation.status());
}

HttpReply Routes::Tokenize(const HttpQuestion& question) const {
  const absl::StatusOr<TokenizeQuery> query = ParseTokenize(question.body);
  if (!query.ok()) return ErrorReply(query.status());
  const absl::Status served = intake_.CheckModel(query->model);
  if (!served.ok()) return ErrorReply(served);
  const auto* text = std::get_if<std::string>(&query->prompt);
  absl::StatusOr<std::vector<int32_t>> ids = std::vector<int32_t>();
  if (text == nullptr || !text->empty()) ids = intake_.Encode(query->prompt, query->form);
  if (!ids.ok()) return ErrorReply(ids.status());
  std::vector<std::string> texts;
  for (size_t i = 0; query->token_texts && i < ids->size(); ++i) {
    texts.push_back(intake_.tokenizer().Piece((*ids)[i], /*special=*/true));
  }
  return Ok(TokensJson(*ids, intake_.options().context, query->token_texts ? &texts : nullptr));
}

HttpReply Routes::Detokenize(const HttpQuestion& question) const {
  const absl::StatusOr<DetokenizeQuery> query = ParseDetokenize(question.body);
  if (!query.ok()) return ErrorReply(query.status());
  absl::Status known = intake_.CheckModel(query->model);
  known.Update(intake_.CheckTokens("tokens", query->tokens));
  if (!known.ok()) return ErrorReply(known);
  return Ok(DetokenizedJson(intake_.tokenizer().Decode(query->tokens, /*special=*/true)));
}

HttpReply Routes::TokenizerInfo(const HttpQuestion&) const {
  const Tokenizer& tokenizer = intake_.tokenizer();
  const auto text = [&](int32_t token) {
    return token < 0 ? std::optional<std::string>() : tokenizer.Piece(token, /*special=*/true);
  };
  return Ok(TokenizerInfoJson(text(tokenizer.bos()), text(tokenizer.eos()), tokenizer.vocab_size()));
}

HttpReply Routes::CountTokens(const HttpQuestion& question) const {
  const auto refuse = [](const absl::Status& status) {
    HttpReply reply = ErrorReply(status);
    reply.body = MessagesErrorBody(ToApiError(status));
    return reply;
  };
  const absl::StatusOr<ApiRequest> request = ParseCountTokens(question.body);
  if (!request.ok()) return refuse(request.status());
  const absl::Status served = intake_.CheckModel(request->spec.model);
  if (!served.ok()) return refuse(served);
  const absl::StatusOr<std::vector<int32_t>> ids = intake_.Encode(request->spec.prompts[0], request->spec.form);
  return ids.ok() ? Ok(absl::StrCat("{\"input_tokens\":", ids->size(), "}")) : refuse(ids.status());
}

HttpReply ErrorReply(const absl::Status& status, absl::Duration retry_after) {
  const ApiError error = ToApiError(status);
  HttpReply reply = Ok(ErrorBody(error));
  reply.status = error.http;
  if (!error.retry) reply.headers.emplace_back("x-should-retry", "false");
  if (!error.shed_reason.empty()) {
    reply.headers.emplace_back("x-interlace-shed-reason", error.shed_reason);
    reply.headers.emplace_back("x-llm-d-request-dropped-reason", error.shed_reason);
  }
  if (const auto leader = LeaderOf(status)) reply.headers.emplace_back("x-interlace-leader", leader->http);
  if (error.retry_after > absl::ZeroDuration()) retry_after = error.retry_after;
  if (error.http == 429 || error.http == 503) {
    AddRetryAfter(retry_after > absl::ZeroDuration() ? retry_after : absl::Seconds(1), &reply);
  }
  return reply;
}

HttpReply ErrorReply(int http, absl::string_view message, absl::string_view code) {
  ApiError error;
  error.http = http;
  error.message = std::string(message);
  error.type = "invalid_request_error";
  error.code = std::string(code);
  HttpReply reply = Ok(ErrorBody(error));
  reply.status = http;
  return reply;
}

}  // namespace interlace
