#include "coordinator/doors/http_front.h"

#include <boost/asio.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <optional>
#include <utility>  // before Asio: its headers of this version need it

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"
#include "coordinator/doors/openai_json.h"

namespace interlace {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;
using HttpRequest = http::request<http::string_body>;

constexpr size_t kMostBacklog = 1024;  // events that a slow reader may be behind
constexpr auto kIdle = std::chrono::seconds(60);
constexpr auto kWriteStall = std::chrono::seconds(30);

auto Await(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

// Events of the generations behind one HTTP request. Thread: the server's.
struct EventQueue {
  explicit EventQueue(const net::any_io_executor& executor) : wake(executor) {
    wake.expires_at(net::steady_timer::time_point::max());
  }
  void Push(int32_t choice, TextEvent event) {
    events.emplace_back(choice, std::move(event));
    wake.cancel();
  }
  std::deque<std::pair<int32_t, TextEvent>> events;
  net::steady_timer wake;  // cancelled whenever something changes
  bool gone = false;       // the client closed the connection
  bool watching = false;
};

// One connection. Lives in its coroutine's frame; thread: the server's.
class Session {
 public:
  Session(tcp::socket socket, Frontend& frontend, int64_t max_body, const bool& draining)
      : socket_(std::move(socket)),
        frontend_(frontend),
        max_body_(max_body),
        draining_(draining),
        stall_(socket_.get_executor()) {}

  net::awaitable<void> Run() {
    while (socket_.is_open()) {
      http::request_parser<http::string_body> parser;
      parser.body_limit(static_cast<uint64_t>(max_body_));
      parser.header_limit(64 << 10);
      error_code error;
      Guard(kIdle);
      co_await http::async_read(socket_, buffer_, parser, Await(error));
      stall_.cancel();
      if (error == http::error::body_limit) {
        keep_alive_ = false;
        co_await SendError(absl::InvalidArgumentError(absl::StrCat("the body exceeds request.max_body=", max_body_)),
                           413);
        break;
      }
      if (error == http::error::end_of_stream || error == net::error::eof || !socket_.is_open()) break;
      if (error) {
        keep_alive_ = false;
        if (error.category() == http::make_error_code(http::error::bad_method).category()) {
          co_await SendError(absl::InvalidArgumentError(absl::StrCat("malformed HTTP: ", error.message())), 400);
        }
        break;
      }
      const HttpRequest request = parser.release();
      keep_alive_ = request.keep_alive() && !draining_;
      version_ = request.version();
      const auto id = request.find("x-request-id");
      request_id_ = id == request.end() ? frontend_.DrawName() : std::string(id->value());
      co_await Route(request);
      if (!keep_alive_) break;
    }
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
  }

 private:
  // Closes the socket unless cancelled within `limit`.
  void Guard(std::chrono::seconds limit) {
    stall_.expires_after(limit);
    stall_.async_wait([this](const error_code& error) {
      error_code ignored;
      if (!error) socket_.close(ignored);
    });
  }

  net::awaitable<void> Route(const HttpRequest& request) {
    const std::string target(request.target().substr(0, request.target().find('?')));
    const bool get = request.method() == http::verb::get, post = request.method() == http::verb::post;
    const absl::string_view body = request.body();
    const int64_t created = WallSeconds();
    const Frontend::Options& model = frontend_.options();
    struct {
      const char* path;
      bool post;
    } const known[] = {{"/v1/chat/completions", true},
                       {"/v1/completions", true},
                       {"/tokenize", true},
                       {"/detokenize", true},
                       {"/v1/models", false},
                       {"/health", false},
                       {"/metrics", false},
                       {"/version", false},
                       {"/ping", false}};
    for (const auto& route : known) {
      if (target == route.path && !(route.post ? post : get)) {
        co_return co_await SendError(
            absl::InvalidArgumentError(absl::StrCat(target, " takes ", route.post ? "POST" : "GET")), 405);
      }
    }
    if (target == "/v1/chat/completions") co_return co_await Complete(ParseChat(body));
    if (target == "/v1/completions") co_return co_await Complete(ParseCompletion(body));
    if (target == "/v1/models") co_return co_await Send(200, ModelList(model.model_name, model.context, created));
    if (target == "/health") co_return co_await Health();
    if (target == "/metrics") co_return co_await Send(200, frontend_.metrics().Text(), "text/plain; version=0.0.4");
    if (target == "/version") co_return co_await Send(200, R"({"version":"0.1.0"})");
    if (target == "/ping") co_return co_await Send(200, "{}");
    if (target == "/tokenize") co_return co_await Tokenize(body);
    if (target == "/detokenize") co_return co_await Detokenize(body);
    if (get && absl::StartsWith(target, "/v1/models/")) {
      const absl::Status status = frontend_.CheckModel(target.substr(11));
      if (!status.ok()) co_return co_await SendError(status, 404);
      co_return co_await Send(200, ModelEntry(model.model_name, model.context, created));
    }
    if (get && absl::StartsWith(target, "/debug/requests/")) co_return co_await ExplainRequest(target.substr(16));
    co_await SendError(absl::NotFoundError(absl::StrCat("there is nothing at ", target)), 404);
  }

  net::awaitable<void> Health() {
    const EngineLoad load = frontend_.engine().Load();
    const bool ready = load.ranks_ready > 0 && load.ranks_ready == load.ranks && !load.draining;
    co_await Send(ready ? 200 : 503,
                  absl::StrCat(R"({"status":")",
                               load.draining ? "draining"
                               : ready       ? "ready"
                                             : "not ready",
                               R"(","ranks_ready":)", load.ranks_ready, R"(,"ranks":)", load.ranks, "}"));
  }

  net::awaitable<void> Tokenize(absl::string_view body) {
    const absl::StatusOr<std::string> text = ParseTokenize(body);
    if (!text.ok()) co_return co_await SendError(text.status(), 400);
    co_await Send(200, TokenizeAnswer(frontend_.tokenizer().Encode(*text, false), frontend_.options().context));
  }

  net::awaitable<void> Detokenize(absl::string_view body) {
    const absl::StatusOr<std::vector<int32_t>> tokens = ParseDetokenize(body);
    absl::Status status = tokens.status();
    if (status.ok()) status = frontend_.CheckTokens(*tokens);
    if (!status.ok()) co_return co_await SendError(status, 400);
    co_await Send(200, DetokenizeAnswer(frontend_.tokenizer().Decode(*tokens)));
  }

  net::awaitable<void> ExplainRequest(absl::string_view name) {
    const absl::StatusOr<Explanation> explanation = frontend_.engine().Explain(name);
    if (!explanation.ok()) co_return co_await SendError(explanation.status(), HttpStatusOf(explanation.status()));
    co_await Send(200, ExplainJson(*explanation));
  }

  // ---- completions ----

  // Starts one generation for each choice; on an error those already started are cancelled.
  absl::Status StartAll(const OpenAiRequest& request, const std::shared_ptr<EventQueue>& queue,
                        std::vector<OpenRequest>* generations) {
    absl::Status status = frontend_.CheckModel(request.model);
    std::vector<std::vector<int32_t>> prompts = request.token_prompts;
    for (const std::string& text : request.texts) prompts.push_back(frontend_.EncodeText(text));
    if (status.ok() && request.chat) {
      absl::StatusOr<std::vector<int32_t>> prompt = frontend_.EncodeChat(request.messages);
      status = prompt.status();
      if (prompt.ok()) prompts.push_back(*std::move(prompt));
    }
    for (const std::vector<int32_t>& prompt : prompts) {
      if (status.ok()) status = frontend_.CheckTokens(prompt);
      for (int32_t i = 0; i < request.n && status.ok(); ++i) {
        GenerationSpec spec = request.spec;
        spec.prompt = prompt;
        if (spec.name.empty()) spec.name = request_id_;
        const int32_t choice = static_cast<int32_t>(generations->size());
        if (choice > 0) absl::StrAppend(&spec.name, "-", choice);
        if (spec.seed) *spec.seed += static_cast<uint64_t>(i);
        absl::StatusOr<OpenRequest> generation = frontend_.Start(
            std::move(spec), [executor = socket_.get_executor(), weak = std::weak_ptr(queue), choice](TextEvent event) {
              net::post(executor, [weak, choice, event = std::move(event)]() mutable {
                if (auto events = weak.lock()) events->Push(choice, std::move(event));
              });
            });
        status = generation.status();
        if (generation.ok()) generations->push_back(*generation);
      }
    }
    if (!status.ok()) CancelAll(*generations);
    return status;
  }

  void CancelAll(const std::vector<OpenRequest>& generations) {
    for (const OpenRequest& generation : generations) frontend_.engine().Cancel(generation.id);
  }

  // Reads ahead while an answer is under way, so that a client that leaves is noticed at once.
  static net::awaitable<void> Watch(Session* session, std::shared_ptr<EventQueue> queue) {
    queue->watching = true;
    while (session->buffer_.size() < (64 << 10)) {
      error_code error;
      const size_t bytes = co_await session->socket_.async_read_some(session->buffer_.prepare(4096), Await(error));
      if (error) {
        queue->gone = error != net::error::operation_aborted || !session->socket_.is_open();
        break;
      }
      session->buffer_.commit(bytes);
    }
    queue->watching = false;
    queue->wake.cancel();
  }

  static net::awaitable<void> Change(EventQueue& queue) {
    error_code ignored;
    queue.wake.expires_at(net::steady_timer::time_point::max());
    co_await queue.wake.async_wait(Await(ignored));
  }

  net::awaitable<void> Complete(absl::StatusOr<OpenAiRequest> request) {
    if (!request.ok()) co_return co_await SendError(request.status(), 400);
    auto queue = std::make_shared<EventQueue>(socket_.get_executor());
    std::vector<OpenRequest> generations;
    if (const absl::Status status = StartAll(*request, queue, &generations); !status.ok()) {
      co_return co_await SendError(status, HttpStatusOf(status));
    }
    net::co_spawn(socket_.get_executor(), Watch(this, queue), net::detached);
    OpenAiReply reply{request->chat, absl::StrCat(request->chat ? "chatcmpl-" : "cmpl-", generations[0].name),
                      frontend_.options().model_name, WallSeconds()};
    // No header is sent before the first event: what fails until then gets its own HTTP status.
    while (queue->events.empty() && !queue->gone) co_await Change(*queue);
    if (!queue->gone) {
      const std::optional<RequestEnd>& end = queue->events.front().second.end;
      if (end && !end->status.ok()) {
        CancelAll(generations);
        co_await SendError(end->status, HttpStatusOf(end->status));
      } else if (request->stream) {
        co_await StreamAnswer(*request, reply, generations, *queue);
      } else {
        co_await WholeAnswer(reply, generations, *queue);
      }
    }
    if (queue->gone || !socket_.is_open()) CancelAll(generations);
    error_code ignored;
    socket_.cancel(ignored);
    while (queue->watching) co_await Change(*queue);
  }

  static const char* ReasonText(FinishReason reason) { return reason == FinishReason::kStop ? "stop" : "length"; }

  net::awaitable<void> WholeAnswer(const OpenAiReply& reply, const std::vector<OpenRequest>& generations,
                                   EventQueue& queue) {
    std::vector<OpenAiChoice> choices(generations.size());
    Usage usage;
    for (size_t open = generations.size(); open > 0;) {
      while (queue.events.empty() && !queue.gone) co_await Change(queue);
      if (queue.gone) co_return;
      auto [choice, event] = std::move(queue.events.front());
      queue.events.pop_front();
      choices[choice].text += event.text;
      if (!event.end) continue;
      --open;
      if (event.cancel) frontend_.engine().Cancel(generations[choice].id);
      if (!event.end->status.ok()) {
        CancelAll(generations);
        co_return co_await SendError(event.end->status, HttpStatusOf(event.end->status));
      }
      choices[choice].finish_reason = ReasonText(event.end->reason);
      usage.prompt_tokens += generations[choice].prompt_tokens;
      usage.completion_tokens += event.end->completion_tokens;
    }
    co_await Send(200, FullAnswer(reply, choices, usage));
  }

  net::awaitable<void> StreamAnswer(const OpenAiRequest& request, const OpenAiReply& reply,
                                    const std::vector<OpenRequest>& generations, EventQueue& queue) {
    http::response<http::empty_body> head(http::status::ok, version_);
    head.set(http::field::content_type, "text/event-stream");
    head.set(http::field::cache_control, "no-cache");
    head.set("x-request-id", request_id_);
    head.chunked(true);
    head.keep_alive(keep_alive_);
    http::response_serializer<http::empty_body> serializer(head);
    error_code error;
    co_await http::async_write_header(socket_, serializer, Await(error));
    std::string out;
    const auto add = [&out](const std::string& json) { absl::StrAppend(&out, "data: ", json, "\n\n"); };
    if (request.chat) {
      for (size_t i = 0; i < generations.size(); ++i) add(RoleChunk(reply, static_cast<int32_t>(i)));
    }
    Usage total;
    std::vector<Usage> usages(generations.size());
    for (size_t open = generations.size(); open > 0 && !error;) {
      while (queue.events.empty() && !queue.gone) co_await Change(queue);
      if (queue.gone) co_return;
      if (queue.events.size() > kMostBacklog) {
        CancelAll(generations);
        add(ErrorBody(absl::ResourceExhaustedError("the client reads too slowly"), 429));
        keep_alive_ = false;
        break;
      }
      auto [choice, event] = std::move(queue.events.front());
      queue.events.pop_front();
      Usage& usage = usages[choice];
      usage.prompt_tokens = generations[choice].prompt_tokens;
      usage.completion_tokens += static_cast<int32_t>(event.tokens.size());
      const Usage* each = request.continuous_usage ? &usage : nullptr;
      if (!event.text.empty()) add(TextChunk(reply, choice, event.text, each));
      if (event.end) {
        --open;
        if (event.cancel) frontend_.engine().Cancel(generations[choice].id);
        if (!event.end->status.ok()) {
          CancelAll(generations);
          add(ErrorBody(event.end->status, HttpStatusOf(event.end->status)));
          break;
        }
        add(FinishChunk(reply, choice, ReasonText(event.end->reason), each));
        total.prompt_tokens += usage.prompt_tokens;
        total.completion_tokens += usage.completion_tokens;
        if (open == 0 && request.include_usage) add(UsageChunk(reply, total));
      }
      if (open > 0) {
        error = co_await WriteChunk(std::exchange(out, {}));
      }
    }
    out += "data: [DONE]\n\n";
    if (!error) error = co_await WriteChunk(std::exchange(out, {}));
    if (!error) co_await net::async_write(socket_, http::make_chunk_last(), Await(error));
    if (error) {
      queue.gone = true;
      keep_alive_ = false;
    }
  }

  net::awaitable<error_code> WriteChunk(std::string text) {
    error_code error;
    if (text.empty()) co_return error;
    Guard(kWriteStall);
    co_await net::async_write(socket_, http::make_chunk(net::buffer(text)), Await(error));
    stall_.cancel();
    co_return error;
  }

  net::awaitable<void> SendError(absl::Status status, int http_status) {
    co_await Send(http_status, ErrorBody(status, http_status));
  }

  net::awaitable<void> Send(int status, std::string body, const char* type = "application/json") {
    http::response<http::string_body> response(static_cast<http::status>(status), version_);
    response.set(http::field::content_type, type);
    response.set("x-request-id", request_id_);
    if (status == 429) response.set("retry-after-ms", "500");
    if (status == 400 || status == 409) response.set("x-should-retry", "false");
    response.keep_alive(keep_alive_);
    response.body() = std::move(body);
    response.prepare_payload();
    error_code error;
    Guard(kWriteStall);
    co_await http::async_write(socket_, response, Await(error));
    stall_.cancel();
    if (error) keep_alive_ = false;
  }

  tcp::socket socket_;
  Frontend& frontend_;
  const int64_t max_body_;
  const bool& draining_;
  net::steady_timer stall_;
  boost::beast::flat_buffer buffer_;
  std::string request_id_;
  unsigned version_ = 11;
  bool keep_alive_ = true;
};

net::awaitable<void> Serve(std::shared_ptr<Session> session) { co_await session->Run(); }

}  // namespace

class HttpFront::Server {
 public:
  Server(const Options& options, Frontend& frontend)
      : options_(options), frontend_(frontend), context_(1), acceptor_(context_), work_(context_.get_executor()) {}

  absl::Status Listen() {
    error_code error;
    const net::ip::address address = net::ip::make_address(options_.host, error);
    if (error) return absl::InvalidArgumentError(absl::StrCat("server.host=", options_.host, " is no IP address"));
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(options_.port));
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(net::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(net::socket_base::max_listen_connections, error);
    if (error) {
      return absl::FailedPreconditionError(absl::StrCat("HTTP cannot listen on ", options_.host, ":", options_.port,
                                                        ": ", error.message(),
                                                        "; choose another with server.http_port (0: any free one)"));
    }
    net::co_spawn(context_, Accept(), net::detached);
    thread_ = Thread("http", [this] { context_.run(); });
    return absl::OkStatus();
  }

  int port() const { return acceptor_.local_endpoint().port(); }

  void Drain() {
    net::post(context_, [this] {
      error_code ignored;
      draining_ = true;
      acceptor_.cancel(ignored);
    });
  }

  void Stop() {
    context_.stop();
    thread_.Join();
  }

 private:
  net::awaitable<void> Accept() {
    while (!draining_) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(Await(error));
      if (error) continue;
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      net::co_spawn(context_,
                    Serve(std::make_shared<Session>(std::move(socket), frontend_, options_.max_body, draining_)),
                    net::detached);
    }
    error_code ignored;
    acceptor_.close(ignored);
  }

  const Options options_;
  Frontend& frontend_;
  bool draining_ = false;  // thread: the server's
  net::io_context context_;
  tcp::acceptor acceptor_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  Thread thread_;
};

HttpFront::HttpFront(std::unique_ptr<Server> server) : server_(std::move(server)) {}
HttpFront::~HttpFront() { Stop(); }

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Start(const Options& options, Frontend& frontend) {
  auto server = std::make_unique<Server>(options, frontend);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpFront>(new HttpFront(std::move(server)));
}

int HttpFront::port() const { return server_->port(); }
void HttpFront::Drain() { server_->Drain(); }
void HttpFront::Stop() { server_->Stop(); }

}  // namespace interlace
