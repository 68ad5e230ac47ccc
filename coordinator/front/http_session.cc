#include "coordinator/front/http_session.h"

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/body_encoding.h"
#include "coordinator/front/target_headers.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;

namespace {

constexpr uint32_t kHeaderLimit = 32 << 10;  // bytes
constexpr size_t kReadAhead = 64 << 10;      // bytes taken of requests that wait behind the present one
constexpr auto kLinger = std::chrono::seconds(2);
// Left to itself the system holds 2.6 MB for a client that does not read: half an hour of text, times all connections.
constexpr int kSendBuffer = 128 << 10;

}  // namespace

// A generation on its way through the worker.
struct HttpSession::Opening {
  absl::StatusOr<ApiRequest> request = absl::UnknownError("not parsed");
  std::optional<absl::StatusOr<GenerationRun>> run;
  const std::shared_ptr<std::atomic<bool>> left = std::make_shared<std::atomic<bool>>(false);
  bool done = false;  // thread: the loop's
};

HttpSession::HttpSession(tcp::socket socket, HttpContext& context)
    : context_(context),
      stream_(std::move(socket)),
      body_(context.bodies),
      writer_(stream_, context.options.write_timeout),
      wake_(context.loop) {
  wake_.expires_at(Instant::max());
  context_.sessions.insert(this);
  absl::MutexLock lock(&context_.mutex);
  ++context_.open;
}

HttpSession::~HttpSession() {
  context_.sessions.erase(this);
  if (!context_.ended) context_.room.cancel();
  absl::MutexLock lock(&context_.mutex);
  --context_.open;
}

void HttpSession::Start(tcp::socket socket, HttpContext& context, bool refused) {
  auto session = std::make_shared<HttpSession>(std::move(socket), context);
  HttpSession* self = session.get();
  net::co_spawn(context.loop, self->Run(refused), [session](std::exception_ptr thrown) {
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

net::awaitable<void> HttpSession::Run(bool refused) {
  error_code ignored;
  stream_.socket().set_option(tcp::no_delay(true), ignored);
  stream_.socket().set_option(net::socket_base::send_buffer_size(kSendBuffer), ignored);
  if (refused) {
    writer_.question().name = context_.intake.DrawName();
    if (context_.tls == nullptr) {
      co_await writer_.Reply(ErrorReply(WithCode(
          absl::UnavailableError("too many connections are open; ask again in a moment"), "too_many_connections")));
    }
    co_await Linger();
    co_return;
  }
  bool more = context_.tls == nullptr || co_await Secure();
  while (more && !context_.stopping) {
    more = co_await ReadRequest();
    if (!more) break;
    co_await AnswerRequest();
    more = writer_.lives_on();
  }
  co_await Linger();
}

net::awaitable<bool> HttpSession::Secure() {
  constexpr char kHandshake = 0x16;  // what each TLS connection begins with
  char first = 0;
  error_code error;
  stream_.ExpireAfter(absl::ToChronoMilliseconds(context_.options.handshake_timeout));
  co_await stream_.socket().async_receive(net::buffer(&first, 1), net::socket_base::message_peek, Into(error));
  if (!error && first != kHandshake) {
    stream_.ExpireNever();
    writer_.question().name = context_.intake.DrawName();
    co_await writer_.Reply(ErrorReply(400, "this port speaks TLS: ask https:// and not http://", "tls_required"));
    co_return false;
  }
  if (!error) {
    stream_.Secure(context_.tls);
    co_await stream_.async_handshake(Into(error));
  }
  stream_.ExpireNever();
  if (error) writer_.set_gone();
  co_return !error;
}

net::awaitable<bool> HttpSession::ReadRequest() {
  error_code error;
  parser_.emplace();
  parser_->header_limit(kHeaderLimit);
  parser_->body_limit(static_cast<uint64_t>(context_.options.max_body));
  question_ = {};
  writer_.question() = {};
  named_ = false;
  caller_.reset();
  pass_.reset();
  if (buffer_.size() == 0) {
    idle_ = true;
    stream_.ExpireAfter(absl::ToChronoMilliseconds(context_.options.idle_timeout));
    const size_t bytes = co_await stream_.async_read_some(buffer_.prepare(4096), Into(error));
    idle_ = false;
    if (error) {
      writer_.set_gone();
      co_return false;
    }
    buffer_.commit(bytes);
  }
  stream_.ExpireAfter(absl::ToChronoMilliseconds(context_.options.header_timeout));
  co_await http::async_read_header(stream_, buffer_, *parser_, Into(error));
  if (!error) {
    NoteRequest();
    const absl::Status caller = Identify();
    if (!caller.ok()) {
      stream_.ExpireNever();
      writer_.question().keep_alive = false;  // its body is not read
      co_await writer_.Reply(Refusal(caller));
      co_return false;
    }
    co_await ReadBody(&error);
  }
  stream_.ExpireNever();
  if (error) {
    parser_.reset();
    body_.Hold(0);
    co_await RefuseBroken(error);
    co_return false;
  }
  request_ = parser_->release();
  question_.body = request_.body();
  co_return true;
}

net::awaitable<void> HttpSession::ReadBody(error_code* error) {
  stream_.ExpireAfter(absl::ToChronoMilliseconds(context_.options.body_timeout));
  if (!parser_->is_done() && boost::beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
    static const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    co_await net::async_write(stream_, net::buffer(go_on), Into(*error));
  }
  while (!*error && !parser_->is_done()) {
    co_await http::async_read_some(stream_, buffer_, *parser_, Into(*error));
    if (!*error && !body_.Hold(parser_->get().body().size())) *error = net::error::no_buffer_space;
  }
}

// What the headers say.
void HttpSession::NoteRequest() {
  const auto& message = parser_->get();
  HttpWriter::Question& asked = writer_.question();
  asked.version = message.version();
  asked.keep_alive = message.keep_alive();
  question_.method = std::string(message.method_string());
  asked.head = question_.method == "HEAD";
  if (asked.head) question_.method = "GET";
  auto target = message.target();
  if (const size_t scheme = target.find("://"); !target.starts_with('/') && scheme != target.npos) {
    target.remove_prefix(std::min(target.size(), target.find('/', scheme + 3)));  // as a proxy is asked
    if (target.empty()) target = "/";
  }
  question_.path = std::string(target.substr(0, target.find_first_of("?#")));
  const auto query = target.substr(std::min(target.size(), question_.path.size() + 1));
  question_.query = std::string(query.substr(0, query.find('#')));
  while (question_.path.size() > 1 && question_.path.back() == '/') question_.path.pop_back();
  const auto origin = message[http::field::origin];
  question_.of_page = !origin.empty();
  asked.headers = context_.cors.ForAnswer({origin.data(), origin.size()});
  asked.name = std::string(message["x-request-id"]);
  named_ = IsRequestName(asked.name);
  if (!named_) asked.name = context_.intake.DrawName();
}

net::awaitable<void> HttpSession::RefuseBroken(error_code error) {
  writer_.question().keep_alive = false;
  if (writer_.question().name.empty()) writer_.question().name = context_.intake.DrawName();
  HttpReply reply;
  if (error == http::error::body_limit) {
    reply = ErrorReply(413, absl::StrCat("the body is larger than request.max_body=", context_.options.max_body),
                       "body_too_large");
  } else if (error == net::error::no_buffer_space) {
    reply = ErrorReply(
        WithCode(absl::UnavailableError(absl::StrCat("the bodies that are being read hold all of http.all_bodies=",
                                                     context_.options.all_bodies, " bytes; ask again in a moment")),
                 "too_many_bodies"));
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    reply = ErrorReply(431, absl::StrCat("the headers are larger than ", kHeaderLimit, " bytes"), "headers_too_large");
  } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    reply = ErrorReply(400, absl::StrCat("the request is not HTTP: ", error.message()), "malformed_http");
  } else {
    writer_.set_gone();  // closed, or too slow
    co_return;
  }
  co_await writer_.Reply(std::move(reply));
}

absl::Status HttpSession::DecodeRequest() {
  const auto encoding = request_[http::field::content_encoding];
  if (encoding.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> body =
      DecodeBody({encoding.data(), encoding.size()}, request_.body(), static_cast<size_t>(context_.options.max_body));
  if (!body.ok()) return body.status();
  request_.body() = *std::move(body);
  question_.body = request_.body();
  return absl::OkStatus();
}

net::awaitable<void> HttpSession::AnswerPreflight() {
  const auto origin = request_[http::field::origin];
  const auto headers = request_[http::field::access_control_request_headers];
  HttpReply reply;
  if (context_.cors.Allows({origin.data(), origin.size()})) {
    reply.status = 204;
    reply.headers = context_.cors.ForPreflight({origin.data(), origin.size()}, {headers.data(), headers.size()});
  } else {
    reply = ErrorReply(403, "pages of this origin may not ask here: http.cors says which may", "origin_not_allowed");
  }
  co_await writer_.Reply(std::move(reply));
}

net::awaitable<void> HttpSession::AnswerRequest() {
  if (question_.method == "OPTIONS" && !request_[http::field::access_control_request_method].empty()) {
    co_await AnswerPreflight();
    co_return;
  }
  const absl::Status counted = Count();
  if (!counted.ok()) {
    NoteLimits();
    if (context_.stopping) writer_.question().keep_alive = false;
    co_await writer_.Reply(Refusal(counted));
    co_return;
  }
  const RouteKind kind = context_.routes.KindOf(question_);
  if (kind == RouteKind::kGeneration) {
    co_await Generate(*context_.routes.ProtocolOf(question_));
    co_return;
  }
  auto reply = std::make_shared<std::optional<HttpReply>>();
  if (kind == RouteKind::kQuick) {
    *reply = context_.routes.Answer(question_);
  } else {
    IntakeLanes& lanes = kind == RouteKind::kOperation ? context_.operations : context_.lanes;
    lanes.Post(request_.body().size(), [self = shared_from_this(), reply] {
      const absl::Status decoded = self->DecodeRequest();
      HttpReply answer = decoded.ok() ? self->context_.routes.Answer(self->question_) : ErrorReply(decoded);
      self->context_.on_loop.Post([self, reply, answer = std::move(answer)]() mutable {
        *reply = std::move(answer);
        self->Wake();
      });
    });
    while (!*reply) co_await Wait();
  }
  body_.Hold(0);
  NoteLimits();
  if (context_.stopping) writer_.question().keep_alive = false;
  co_await writer_.Reply(**std::move(reply));
}

net::awaitable<void> HttpSession::Generate(const ProtocolRow& protocol) {
  auto opening = std::make_shared<Opening>();
  Watch();
  const absl::Time arrival = context_.intake.Now();
  context_.lanes.Post(request_.body().size(), [self = shared_from_this(), opening, arrival, &protocol] {
    absl::Status decoded = opening->left->load() ? absl::CancelledError("the client is gone") : self->DecodeRequest();
    opening->request = decoded.ok() ? protocol.parse(self->question_.body) : decoded;
    if (opening->request.ok()) {
      const auto header = [&](absl::string_view name) {
        const auto value = self->request_[{name.data(), name.size()}];
        return absl::string_view(value.data(), value.size());
      };
      const absl::Status headers = ReadTargetHeaders(header, &opening->request->spec.targets);
      ReadFidelityHeader(header, &opening->request->spec.fidelity);
      if (!headers.ok()) opening->request = headers;
      const auto traceparent = self->request_["traceparent"];
      if (headers.ok()) opening->request->spec.trace = ParseTraceparent({traceparent.data(), traceparent.size()});
    }
    if (opening->request.ok()) {
      GenerationSpec& spec = opening->request->spec;
      const std::string& name = self->writer_.question().name;
      if (self->named_) spec.name = name;
      spec.name_is_shared = self->named_ || spec.name.empty();  // proxies name all requests of a trace alike
      if (spec.name.empty()) spec.name = name;                  // the one that errors are answered under
      spec.arrival = arrival;
      spec.pass = std::move(self->pass_);
      spec.left = opening->left;
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
  while (!opening->done) {
    co_await Wait();
    if (writer_.gone()) opening->left->store(true);
  }
  NoteLimits();
  body_.Hold(0);
  request_.body() = std::string();
  question_.body = {};
  const absl::Status status = opening->request.ok() ? opening->run->status() : opening->request.status();
  if (status.ok()) {
    GenerationRun& run = **opening->run;
    opening->request->spec.pass.reset();  // the run has it
    if (!named_) writer_.question().name = run.name();
    Delivery delivery(*opening->request, run, context_.intake);
    last_write_ = std::chrono::steady_clock::now();
    co_await Deliver(delivery, protocol);
    opening->run.reset();  // cancels what still runs
  } else {
    co_await EndWatch();
    co_await WriteError(status, protocol);
  }
}

net::awaitable<void> HttpSession::Deliver(Delivery& d, const ProtocolRow& protocol) {
  while (d.open() && !writer_.gone()) {
    if (context_.closing) {
      d.Fail(WithCode(absl::UnavailableError("the server stopped before the answer was complete"), "server_stopping"));
      break;
    }
    bool progress = false;
    for (size_t i = 0; i < d.choices() && d.failure().ok() && !writer_.gone(); ++i) {
      const bool begun = d.begun();
      const std::optional<Answer::Events> events = d.Take(i);
      progress |= events.has_value();
      if (events) co_await WriteEvents(d, *events, !begun && d.begun());
    }
    if (!progress) co_await AwaitEvents(d);
  }
  co_await EndWatch();
  co_await FinishDelivery(d, protocol);
}

// Of an answer that a response cache keeps.
void HttpSession::NoteCache(const Delivery& d) {
  const std::string line = d.CacheLine();
  if (!line.empty()) writer_.question().headers.emplace_back("x-interlace-cache", line);
}

net::awaitable<void> HttpSession::WriteEvents(const Delivery& d, const Answer::Events& events, bool first) {
  if (first) {
    if (context_.stopping) writer_.question().keep_alive = false;
    NoteCache(d);
    co_await writer_.StartStream();
  }
  for (const std::string& event : events) co_await writer_.Event(event);
  if (first || !events.empty()) last_write_ = std::chrono::steady_clock::now();
}

net::awaitable<void> HttpSession::AwaitEvents(Delivery& d) {
  if (!d.stream()) {
    co_await Wait();
    co_return;
  }
  const absl::Duration patience = d.begun() ? context_.options.ping_interval : context_.options.first_write;
  const Instant limit = last_write_ + absl::ToChronoMilliseconds(patience);
  co_await Wait(limit);
  if (std::chrono::steady_clock::now() < limit || writer_.gone() || context_.closing) co_return;
  if (d.begun()) {
    co_await writer_.Ping();
    last_write_ = std::chrono::steady_clock::now();
  } else {
    co_await WriteEvents(d, d.Begin(), /*first=*/true);
  }
}

net::awaitable<void> HttpSession::FinishDelivery(Delivery& d, const ProtocolRow& protocol) {
  if (!writer_.gone() && !d.begun() && !d.failure().ok()) {
    co_await WriteError(d.failure(), protocol);
    co_return;
  }
  LogAnswer(writer_.gone()     ? 499
            : d.failure().ok() ? 200
                               : ToApiError(d.failure()).http,
            d.usage().prompt_tokens, d.usage().completion_tokens);
  if (d.begun()) {
    for (const std::string& event : d.End()) co_await writer_.Event(event);
    co_await writer_.EndStream();
  } else if (!writer_.gone()) {
    HttpReply reply;
    reply.body = d.Whole();
    NoteCache(d);
    if (context_.stopping) writer_.question().keep_alive = false;
    co_await writer_.Reply(std::move(reply));
  }
}

net::awaitable<void> HttpSession::WriteError(absl::Status status, const ProtocolRow& protocol) {
  if (writer_.gone()) co_return;
  const bool full = absl::IsResourceExhausted(status);
  HttpReply reply = ErrorReply(status, full ? context_.intake.RetryAfter() : absl::ZeroDuration());
  reply.body = protocol.error(ToApiError(status));
  LogAnswer(reply.status, 0, 0);
  if (context_.stopping) writer_.question().keep_alive = false;
  co_await writer_.Reply(std::move(reply));
}

// Closing with unread bytes in the socket would reset the connection and take our last answer with it.
net::awaitable<void> HttpSession::Linger() {
  error_code error;
  stream_.ExpireAfter(kLinger);
  if (stream_.secure() && !writer_.gone()) co_await stream_.async_shutdown(Into(error));
  stream_.socket().shutdown(tcp::socket::shutdown_send, error);
  if (!writer_.gone() && !error) {
    buffer_.clear();
    while (!error) co_await stream_.socket().async_read_some(buffer_.prepare(16384), Into(error));
  }
  stream_.Close();
}

net::awaitable<void> HttpSession::Wait(Instant limit) {
  error_code ignored;
  wake_.expires_at(limit);
  co_await wake_.async_wait(Into(ignored));
}

void HttpSession::Watch() {
  watch_wanted_ = true;
  if (watching_ || buffer_.size() >= kReadAhead) return;
  watching_ = true;
  stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code error, size_t bytes) {
    self->watching_ = false;
    self->buffer_.commit(bytes);
    if (error && error != net::error::operation_aborted) self->writer_.set_gone();
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
  LOG(INFO) << "http" << Field("path", question_.path) << Field("request_id", writer_.question().name)
            << Field("status", status) << Field("prompt_tokens", prompt_tokens)
            << Field("completion_tokens", completion_tokens);
}

}  // namespace interlace
