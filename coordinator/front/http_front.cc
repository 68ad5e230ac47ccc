#include "coordinator/front/http_front.h"

// clang-format off
#include <utility>  // before Asio, whose headers of this version need it
// clang-format on
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/executor.h"
#include "common/log.h"
#include "common/thread.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/routes.h"

namespace interlace {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;

constexpr uint32_t kHeaderLimit = 32 << 10;  // bytes
constexpr size_t kReadAhead = 64 << 10;      // bytes taken of requests that wait behind the present one
constexpr auto kLinger = std::chrono::seconds(2);

auto Into(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

class HttpSession;

// Tasks on the event loop. Post never waits.
class LoopExecutor final : public Executor {
 public:
  explicit LoopExecutor(net::io_context& loop) : loop_(loop) {}
  bool Post(Task task) override {
    net::post(loop_, [task = std::move(task)]() mutable { task(); });
    return true;
  }

 private:
  net::io_context& loop_;
};

// What the sessions of one front share. Order of members: the worker runs out before the loop dies, whose sessions die
// before the rest.
struct HttpContext {
  HttpContext(const HttpFront::Options& o, Intake& i, const Metrics& metrics)
      : options(o), intake(i), routes(i, metrics) {}

  const HttpFront::Options options;
  Intake& intake;
  const Routes routes;
  absl::Mutex mutex;
  size_t open = 0;                  // protected by mutex; sessions
  std::set<HttpSession*> sessions;  // thread: the loop's
  bool stopping = false;            // thread: the loop's
  net::io_context loop{1};
  net::steady_timer room{loop};  // cancelled when a session ends
  LoopExecutor on_loop{loop};
  ThreadExecutor worker{"http-intake", 65536};
};

// Owned by its coroutine; thread: the loop's. While an answer is made a read is always pending, so a client that goes
// away is seen at once; what it reads belongs to the next request. The trap: wake_ has one waiter, the coroutine.
class HttpSession final : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(tcp::socket socket, HttpContext& context);
  ~HttpSession();
  static void Start(tcp::socket socket, HttpContext& context);
  // No request after the present one; an idle connection ends now.
  void Stop();

 private:
  template <typename T>
  using Async = net::awaitable<T>;
  struct Opening;

  Async<void> Run();
  // False: the connection ends. What is wrong with the request was then answered.
  Async<bool> ReadRequest();
  Async<void> RefuseBroken(error_code error);
  void NoteRequest();
  Async<bool> AnswerRequest();
  Async<bool> Generate(bool chat);
  Async<bool> Deliver(const OpenAiRequest& request, GenerationRun& run);
  Async<bool> FinishStream(const ReplyHead& head, const absl::Status& failure, const Usage* usage);
  Async<void> StartStream(const ReplyHead& head, const OpenAiRequest& request, const GenerationRun& run);
  Async<void> WriteEvent(std::string text);
  Async<bool> WriteReply(HttpReply reply);
  Async<bool> WriteError(absl::Status status);
  Async<void> Linger();

  // Waits until Wake.
  Async<void> Wait();
  void Wake() { wake_.cancel(); }
  void Watch();
  Async<void> EndWatch();
  void LogAnswer(int status, int32_t prompt_tokens, int32_t completion_tokens);

  HttpContext& context_;
  boost::beast::tcp_stream stream_;
  net::steady_timer wake_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::request<http::string_body> request_;
  HttpQuestion question_;
  std::string name_;         // of the request, for x-request-id
  bool named_ = false;       // by the client
  unsigned version_ = 11;    // of HTTP
  bool head_ = false;        // the answer has no body
  bool keep_alive_ = false;  // after the present answer
  bool idle_ = false;        // waiting for a request to begin
  bool gone_ = false;        // the client closed, or a write failed
  bool watching_ = false;
  bool watch_wanted_ = false;
};

// A generation on its way through the worker.
struct HttpSession::Opening {
  absl::StatusOr<OpenAiRequest> request = absl::UnknownError("not parsed");
  std::optional<absl::StatusOr<GenerationRun>> run;
  bool done = false;  // thread: the loop's
};

HttpSession::HttpSession(tcp::socket socket, HttpContext& context)
    : context_(context), stream_(std::move(socket)), wake_(context.loop) {
  wake_.expires_at(net::steady_timer::time_point::max());
  context_.sessions.insert(this);
  absl::MutexLock lock(&context_.mutex);
  ++context_.open;
}

HttpSession::~HttpSession() {
  context_.sessions.erase(this);
  context_.room.cancel();
  absl::MutexLock lock(&context_.mutex);
  --context_.open;
}

void HttpSession::Start(tcp::socket socket, HttpContext& context) {
  auto session = std::make_shared<HttpSession>(std::move(socket), context);
  HttpSession* self = session.get();
  net::co_spawn(context.loop, self->Run(), [session](std::exception_ptr thrown) {
    if (thrown == nullptr) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& e) {
      LOG(ERROR) << "an HTTP session threw" << Field("what", e.what());
    }
  });
}

void HttpSession::Stop() {
  error_code ignored;
  if (idle_) stream_.socket().cancel(ignored);
}

net::awaitable<void> HttpSession::Run() {
  error_code ignored;
  stream_.socket().set_option(tcp::no_delay(true), ignored);
  bool more = true;
  while (more && !context_.stopping) {
    more = co_await ReadRequest();
    if (more) more = co_await AnswerRequest();
  }
  co_await Linger();
}

net::awaitable<bool> HttpSession::ReadRequest() {
  error_code error;
  parser_.emplace();
  parser_->header_limit(kHeaderLimit);
  parser_->body_limit(static_cast<uint64_t>(context_.options.max_body));
  question_ = {};
  version_ = 11;
  head_ = keep_alive_ = named_ = false;
  name_.clear();
  if (buffer_.size() == 0) {
    idle_ = true;
    stream_.expires_after(absl::ToChronoMilliseconds(context_.options.idle_timeout));
    const size_t bytes = co_await stream_.async_read_some(buffer_.prepare(4096), Into(error));
    idle_ = false;
    if (error) {
      gone_ = true;
      co_return false;
    }
    buffer_.commit(bytes);
  }
  stream_.expires_after(absl::ToChronoMilliseconds(context_.options.header_timeout));
  co_await http::async_read_header(stream_, buffer_, *parser_, Into(error));
  if (!error) {
    NoteRequest();
    stream_.expires_after(absl::ToChronoMilliseconds(context_.options.body_timeout));
    if (!parser_->is_done() && boost::beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
      static const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await net::async_write(stream_, net::buffer(go_on), Into(error));
    }
  }
  if (!error) co_await http::async_read(stream_, buffer_, *parser_, Into(error));
  stream_.expires_never();
  if (error) {
    co_await RefuseBroken(error);
    co_return false;
  }
  request_ = parser_->release();
  question_.body = request_.body();
  co_return true;
}

// What the headers say.
void HttpSession::NoteRequest() {
  const auto& message = parser_->get();
  version_ = message.version();
  keep_alive_ = message.keep_alive();
  question_.method = std::string(message.method_string());
  head_ = question_.method == "HEAD";
  if (head_) question_.method = "GET";
  const auto target = message.target();
  question_.path = std::string(target.substr(0, target.find_first_of("?#")));
  const auto id = message["x-request-id"];
  name_ = std::string(id);
  named_ = IsRequestName(name_);
  if (!named_) name_ = context_.intake.DrawName();
}

net::awaitable<void> HttpSession::RefuseBroken(error_code error) {
  keep_alive_ = false;
  if (name_.empty()) name_ = context_.intake.DrawName();
  HttpReply reply;
  if (error == http::error::body_limit) {
    reply = ErrorReply(413, absl::StrCat("the body is larger than request.max_body=", context_.options.max_body),
                       "body_too_large");
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    reply = ErrorReply(431, absl::StrCat("the headers are larger than ", kHeaderLimit, " bytes"), "headers_too_large");
  } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    reply = ErrorReply(400, absl::StrCat("the request is not HTTP: ", error.message()), "malformed_http");
  } else {
    gone_ = true;  // closed, or too slow
    co_return;
  }
  co_await WriteReply(std::move(reply));
}

net::awaitable<bool> HttpSession::AnswerRequest() {
  const RouteKind kind = context_.routes.KindOf(question_);
  if (kind == RouteKind::kChat || kind == RouteKind::kCompletion) {
    const bool more = co_await Generate(kind == RouteKind::kChat);
    co_return more;
  }
  auto reply = std::make_shared<std::optional<HttpReply>>();
  if (kind == RouteKind::kQuick) {
    *reply = context_.routes.Answer(question_);
  } else {
    context_.worker.Post([self = shared_from_this(), reply] {
      HttpReply answer = self->context_.routes.Answer(self->question_);
      self->context_.on_loop.Post([self, reply, answer = std::move(answer)]() mutable {
        *reply = std::move(answer);
        self->Wake();
      });
    });
    while (!*reply) co_await Wait();
  }
  const bool more = co_await WriteReply(**std::move(reply));
  co_return more;
}

net::awaitable<bool> HttpSession::Generate(bool chat) {
  auto opening = std::make_shared<Opening>();
  Watch();
  context_.worker.Post([self = shared_from_this(), opening, chat] {
    opening->request = chat ? ParseChat(self->question_.body) : ParseCompletion(self->question_.body);
    if (opening->request.ok()) {
      GenerationSpec& spec = opening->request->spec;
      if (self->named_) spec.name = self->name_;
      if (spec.name.empty()) spec.name = self->name_;  // the one that errors are answered under
      opening->run.emplace(
          self->context_.intake.Start(spec, self->context_.on_loop, [weak = std::weak_ptr<HttpSession>(self)] {
            if (auto session = weak.lock()) session->Wake();
          }));
    }
    self->context_.on_loop.Post([self, opening] {
      opening->done = true;
      self->Wake();
    });
  });
  while (!opening->done) co_await Wait();
  request_.body() = std::string();
  question_.body = {};
  const absl::Status status = opening->request.ok() ? opening->run->status() : opening->request.status();
  bool more = false;
  if (status.ok()) {
    name_ = (*opening->run)->name();
    more = co_await Deliver(*opening->request, **opening->run);
    opening->run.reset();  // cancels what still runs
  } else {
    co_await EndWatch();
    if (!gone_) more = co_await WriteError(status);
  }
  co_return more;
}

net::awaitable<bool> HttpSession::Deliver(const OpenAiRequest& request, GenerationRun& run) {
  const ReplyHead head{request.chat, run.name(), context_.intake.options().model, WallSeconds()};
  std::vector<ReplyChoice> choices(run.streams().size());
  const bool logprobs = request.spec.logprobs.has_value();
  for (ReplyChoice& choice : choices) {
    if (logprobs) choice.logprobs.emplace();
  }
  Usage usage{run.prompt_tokens(), 0};
  const Usage* running_usage = request.continuous_usage ? &usage : nullptr;
  size_t open = choices.size();
  bool started = false;
  absl::Status failure;
  while (open > 0 && failure.ok() && !gone_) {
    bool progress = false;
    for (size_t i = 0; i < choices.size() && failure.ok() && !gone_; ++i) {
      std::optional<TextEvent> event = run.streams()[i]->Take();
      if (!event) continue;
      progress = true;
      usage.completion_tokens += event->completion_tokens - choices[i].completion_tokens;
      choices[i].completion_tokens = event->completion_tokens;
      if (event->end) {
        --open;
        failure = event->end->status;
        choices[i].finish = event->end->reason;
        if (run.first_of_prompt(i)) usage.cached_tokens += event->end->cached_tokens;
        if (failure.ok()) context_.intake.NoteServed(event->end->timing.total);
      }
      std::vector<ReplyToken> scored;
      if (logprobs) scored = ReplyTokens(event->shown, context_.intake.tokenizer());
      if (!request.stream) {
        choices[i].text += event->text;
        for (ReplyToken& token : scored) choices[i].logprobs->push_back(std::move(token));
        continue;
      }
      if (!started && !failure.ok()) break;  // a real HTTP status is still possible
      if (!started) co_await StartStream(head, request, run);
      started = true;
      if (!event->text.empty() || !scored.empty()) {
        co_await WriteEvent(TextChunk(head, i, event->text, running_usage, logprobs ? &scored : nullptr));
      }
      if (event->end && failure.ok()) co_await WriteEvent(FinishChunk(head, i, choices[i].finish, running_usage));
    }
    if (!progress) co_await Wait();
  }
  co_await EndWatch();
  if (gone_ || started || failure.ok()) {  // otherwise WriteError says it
    LogAnswer(gone_          ? 499
              : failure.ok() ? 200
                             : ToApiError(failure).http,
              usage.prompt_tokens, usage.completion_tokens);
  }
  bool more = false;
  if (gone_) co_return more;
  if (started) {
    more = co_await FinishStream(head, failure, request.include_usage ? &usage : nullptr);
  } else if (!failure.ok()) {
    more = co_await WriteError(failure);
  } else {
    HttpReply reply;
    reply.body = WholeAnswer(head, choices, usage);
    more = co_await WriteReply(std::move(reply));
  }
  co_return more;
}

net::awaitable<void> HttpSession::StartStream(const ReplyHead& head, const OpenAiRequest& request,
                                              const GenerationRun& run) {
  http::response<http::empty_body> response(http::status::ok, version_);
  response.set(http::field::content_type, "text/event-stream");
  response.set(http::field::cache_control, "no-cache");
  response.set("x-request-id", name_);
  if (version_ < 11) keep_alive_ = false;  // without chunks only the end of the connection ends the body
  response.keep_alive(keep_alive_ && !context_.stopping);
  if (version_ >= 11) response.chunked(true);
  http::response_serializer<http::empty_body> serializer(response);
  error_code error;
  stream_.expires_after(absl::ToChronoMilliseconds(context_.options.write_timeout));
  co_await http::async_write_header(stream_, serializer, Into(error));
  stream_.expires_never();
  if (error) gone_ = true;
  if (!request.chat) co_return;
  const Usage none{run.prompt_tokens(), 0};
  for (size_t i = 0; i < run.streams().size() && !gone_; ++i) {
    co_await WriteEvent(RoleChunk(head, i, request.continuous_usage ? &none : nullptr));
  }
}

net::awaitable<bool> HttpSession::FinishStream(const ReplyHead& head, const absl::Status& failure, const Usage* usage) {
  if (!failure.ok()) {
    co_await WriteEvent(ErrorBody(ToApiError(failure)));
  } else if (usage != nullptr) {
    co_await WriteEvent(UsageChunk(head, *usage));
  }
  co_await WriteEvent("[DONE]");
  if (version_ >= 11 && !gone_) {
    error_code error;
    stream_.expires_after(absl::ToChronoMilliseconds(context_.options.write_timeout));
    co_await net::async_write(stream_, http::make_chunk_last(), Into(error));
    stream_.expires_never();
    if (error) gone_ = true;
  }
  co_return keep_alive_ && !gone_;
}

// One event, one write.
net::awaitable<void> HttpSession::WriteEvent(std::string text) {
  if (gone_) co_return;
  const std::string event = SseEvent(text);
  error_code error;
  stream_.expires_after(absl::ToChronoMilliseconds(context_.options.write_timeout));
  if (version_ >= 11) {
    co_await net::async_write(stream_, http::make_chunk(net::buffer(event)), Into(error));
  } else {
    co_await net::async_write(stream_, net::buffer(event), Into(error));
  }
  stream_.expires_never();
  if (error) gone_ = true;
}

net::awaitable<bool> HttpSession::WriteError(absl::Status status) {
  const bool full = absl::IsResourceExhausted(status);
  HttpReply reply = ErrorReply(status, full ? context_.intake.RetryAfter() : absl::ZeroDuration());
  LogAnswer(reply.status, 0, 0);
  const bool more = co_await WriteReply(std::move(reply));
  co_return more;
}

net::awaitable<bool> HttpSession::WriteReply(HttpReply reply) {
  http::response<http::string_body> response(static_cast<http::status>(reply.status), version_);
  response.set(http::field::content_type, reply.content_type);
  response.set("x-request-id", name_);
  for (const auto& [key, value] : reply.headers) response.set(key, value);
  keep_alive_ = keep_alive_ && !context_.stopping;
  response.keep_alive(keep_alive_);
  response.body() = std::move(reply.body);
  response.prepare_payload();
  http::response_serializer<http::string_body> serializer(response);
  error_code error;
  stream_.expires_after(absl::ToChronoMilliseconds(context_.options.write_timeout));
  if (head_) {
    co_await http::async_write_header(stream_, serializer, Into(error));
  } else {
    co_await http::async_write(stream_, serializer, Into(error));
  }
  stream_.expires_never();
  if (error) gone_ = true;
  co_return keep_alive_ && !gone_;
}

// Closing with unread bytes in the socket would reset the connection and take our last answer with it.
net::awaitable<void> HttpSession::Linger() {
  error_code error;
  stream_.socket().shutdown(tcp::socket::shutdown_send, error);
  if (!gone_ && !error) {
    buffer_.clear();
    stream_.expires_after(kLinger);
    while (!error) co_await stream_.async_read_some(buffer_.prepare(16384), Into(error));
  }
  stream_.close();
}

net::awaitable<void> HttpSession::Wait() {
  error_code ignored;
  co_await wake_.async_wait(Into(ignored));
}

void HttpSession::Watch() {
  watch_wanted_ = true;
  if (watching_ || buffer_.size() >= kReadAhead) return;
  watching_ = true;
  stream_.socket().async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code error, size_t bytes) {
    self->watching_ = false;
    self->buffer_.commit(bytes);
    if (error && error != net::error::operation_aborted) self->gone_ = true;
    if (!error && self->watch_wanted_) self->Watch();
    self->Wake();
  });
}

net::awaitable<void> HttpSession::EndWatch() {
  watch_wanted_ = false;
  error_code ignored;
  if (watching_) stream_.socket().cancel(ignored);
  while (watching_) co_await Wait();
}

void HttpSession::LogAnswer(int status, int32_t prompt_tokens, int32_t completion_tokens) {
  LOG(INFO) << "http" << Field("path", question_.path) << Field("request_id", name_) << Field("status", status)
            << Field("prompt_tokens", prompt_tokens) << Field("completion_tokens", completion_tokens);
}

}  // namespace

class HttpFront::Door {
 public:
  Door(const Options& options, Intake& intake, const Metrics& metrics)
      : context_(options, intake, metrics), acceptor_(context_.loop), work_(context_.loop.get_executor()) {}
  ~Door() { Stop(absl::ZeroDuration()); }

  absl::Status Listen() {
    const Options& options = context_.options;
    error_code error;
    tcp::resolver resolver(context_.loop);
    const auto found = resolver.resolve(options.host, absl::StrCat(options.port),
                                        tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (!error && found.begin() != found.end()) {
      const tcp::endpoint endpoint = found.begin()->endpoint();
      acceptor_.open(endpoint.protocol(), error);
      if (!error) acceptor_.set_option(net::socket_base::reuse_address(true), error);
      if (!error) acceptor_.bind(endpoint, error);
      if (!error) acceptor_.listen(net::socket_base::max_listen_connections, error);
      if (!error) port_ = acceptor_.local_endpoint(error).port();
    }
    if (error) {
      return absl::FailedPreconditionError(
          absl::StrCat("HTTP cannot listen on ", options.host, ":", options.port, ": ", error.message(),
                       "; choose another with --set server.http_port=N (0: any free one) or server.host"));
    }
    net::co_spawn(context_.loop, Accept(), net::detached);
    thread_ = Thread("http", [this] { Serve(); });
    return absl::OkStatus();
  }

  int port() const { return port_; }

  void Stop(absl::Duration patience) {
    if (!thread_.joinable()) return;
    context_.on_loop.Post([this] {
      error_code ignored;
      context_.stopping = true;
      acceptor_.close(ignored);
      context_.room.cancel();
      for (HttpSession* session : context_.sessions) session->Stop();
    });
    {
      absl::MutexLock lock(&context_.mutex);
      const auto none = [this] { return context_.open == 0; };
      if (!context_.mutex.AwaitWithTimeout(absl::Condition(&none), patience) && patience > absl::ZeroDuration()) {
        LOG(WARNING) << "HTTP connections were cut" << Field("open", context_.open);
      }
    }
    context_.loop.stop();
    thread_.Join();
  }

 private:
  void Serve() {
    while (!context_.loop.stopped()) {
      try {
        context_.loop.run();
      } catch (const std::exception& e) {
        LOG(ERROR) << "the HTTP loop threw" << Field("what", e.what());
      }
    }
  }

  net::awaitable<void> Accept() {
    error_code error;
    while (!context_.stopping) {
      if (context_.sessions.size() >= context_.options.max_connections) {
        context_.room.expires_at(net::steady_timer::time_point::max());
        co_await context_.room.async_wait(net::redirect_error(net::use_awaitable, error));
        continue;
      }
      tcp::socket socket(context_.loop);
      co_await acceptor_.async_accept(socket, net::redirect_error(net::use_awaitable, error));
      if (!error) {
        HttpSession::Start(std::move(socket), context_);
      } else if (acceptor_.is_open()) {  // out of descriptors, most likely: they come back as sessions end
        LOG(WARNING) << "HTTP accept failed" << Field("error", error.message());
        context_.room.expires_after(std::chrono::milliseconds(200));
        co_await context_.room.async_wait(net::redirect_error(net::use_awaitable, error));
      }
    }
  }

  HttpContext context_;
  tcp::acceptor acceptor_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  int port_ = 0;
  Thread thread_;
};

HttpFront::HttpFront(std::unique_ptr<Door> door) : door_(std::move(door)) {}
HttpFront::~HttpFront() = default;

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Listen(const Options& options, Intake& intake,
                                                             const Metrics& metrics) {
  auto door = std::make_unique<Door>(options, intake, metrics);
  absl::Status status = door->Listen();
  if (!status.ok()) return status;
  return std::unique_ptr<HttpFront>(new HttpFront(std::move(door)));
}

int HttpFront::port() const { return door_->port(); }
void HttpFront::Stop(absl::Duration patience) { door_->Stop(patience); }

}  // namespace interlace
