// OpenAI-compatible servers over HTTP/1.1, with server-sent events and connections that are used again.
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/serve/load_client.h"
#include "bench/serve/load_client_openai.h"
#include "bench/serve/load_client_url.h"
#include "common/status_macros.h"

namespace interlace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;

namespace {

template <typename T>
using Async = net::awaitable<T>;

constexpr size_t kReadSize = 16 << 10;
constexpr size_t kErrorBody = 64 << 10;  // bytes kept of an answer that is no stream
// How long a finished answer may take to free its connection, before that is closed instead.
constexpr auto kTail = std::chrono::milliseconds(250);

auto Into(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

struct Connection {
  explicit Connection(net::io_context& context) : socket(context) {}
  tcp::socket socket;
  boost::beast::flat_buffer buffer;
  bool used = false;  // an answer came over it before
};

// One request that is open. On the loop's thread; kept alive by its coroutine.
struct Exchange : std::enable_shared_from_this<Exchange> {
  Exchange(const PlannedRequest& r, LoadSink& s, net::io_context& context) : request(r), sink(s), timer(context) {}
  // Ends whatever the coroutine waits for.
  void Cut(std::string reason) {
    cut = std::move(reason);
    error_code ignored;
    if (connection) connection->socket.close(ignored);
  }

  const PlannedRequest& request;
  LoadSink& sink;
  RequestRecord record;
  net::steady_timer timer;
  std::unique_ptr<Connection> connection;
  std::string cut;  // why it was given up; empty: it was not
};

// How reading an answer ended, as far as its connection goes.
enum class Tail { kReusable, kClose, kNothingCame };

class HttpLoadClient final : public LoadClient {
 public:
  HttpLoadClient(bool chat, LoadUrl url, const LoadClientOptions& options, AsioLoop& loop)
      : chat_(chat), url_(std::move(url)), options_(options), loop_(loop) {}

  absl::StatusOr<std::string> Prepare() override;
  void Send(const PlannedRequest& request, LoadSink& sink) override;
  void HangUp(const std::string& why) override {
    const std::set<Exchange*> open = open_;
    for (Exchange* exchange : open) exchange->Cut(why);
  }
  int64_t tokens() const override { return tokens_; }

 private:
  std::string Head(absl::string_view method, absl::string_view path) const;
  std::string Message(const PlannedRequest& request, const RequestRecord& record) const;
  absl::StatusOr<std::string> AskModel();
  Async<void> Run(std::shared_ptr<Exchange> exchange, std::string message);
  std::unique_ptr<Connection> TakeConnection();
  Async<Tail> Try(Exchange& exchange, const std::string& message);
  Async<Tail> Read(Exchange& exchange);
  Async<void> Drain(Exchange& exchange, http::response_parser<http::string_body>& parser);
  void NoteHead(const http::response<http::string_body>& head, RequestRecord* record) const;
  void Close(Exchange& exchange, LoadOutcome outcome, absl::string_view error);

  const bool chat_;
  const LoadUrl url_;
  LoadClientOptions options_;
  AsioLoop& loop_;
  std::vector<tcp::endpoint> endpoints_;
  std::vector<std::unique_ptr<Connection>> idle_;  // the one used last is the next to be used
  std::set<Exchange*> open_;
  int64_t tokens_ = 0;
};

std::string HttpLoadClient::Head(absl::string_view method, absl::string_view path) const {
  std::string head = absl::StrCat(method, " ", url_.base, path, " HTTP/1.1\r\nHost: ", url_.authority, "\r\n");
  if (!options_.api_key.empty()) absl::StrAppend(&head, "Authorization: Bearer ", options_.api_key, "\r\n");
  return head;
}

std::string HttpLoadClient::Message(const PlannedRequest& request, const RequestRecord& record) const {
  const std::string body = OpenAiBody(request, chat_, options_);
  std::string message = Head("POST", chat_ ? "/v1/chat/completions" : "/v1/completions");
  absl::StrAppend(&message,
                  "Content-Type: application/json\r\nAccept: text/event-stream\r\nX-Request-Id: ", record.request_id,
                  "\r\n");
  for (const auto& [name, value] : TargetHeaders(request)) absl::StrAppend(&message, name, ": ", value, "\r\n");
  absl::StrAppend(&message, "Content-Length: ", body.size(), "\r\n\r\n", body);
  return message;
}

absl::StatusOr<std::string> HttpLoadClient::Prepare() {
  error_code error;
  tcp::resolver resolver(loop_.context());
  for (const auto& found : resolver.resolve(url_.host, url_.port, error)) endpoints_.push_back(found.endpoint());
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("--url ", options_.url, ": ", url_.host, " was not found (",
                                                   error.message(), "); check the name of the host"));
  }
  if (options_.model.empty()) {
    ASSIGN_OR_RETURN(options_.model, AskModel());
  }
  return options_.model;
}

// Blocking, on a loop of its own: this happens before the run.
absl::StatusOr<std::string> HttpLoadClient::AskModel() {
  net::io_context loop;
  tcp::socket socket(loop);
  net::steady_timer timer(loop, std::chrono::seconds(10));
  timer.async_wait([&](error_code waited) {
    error_code ignored;
    if (!waited) socket.close(ignored);
  });
  std::string page;
  error_code error;
  http::response_parser<http::string_body> parser;
  net::co_spawn(
      loop,
      [&]() -> Async<void> {
        co_await net::async_connect(socket, endpoints_, Into(error));
        const std::string question = Head("GET", "/v1/models") + "Connection: close\r\n\r\n";
        if (!error) co_await net::async_write(socket, net::buffer(question), Into(error));
        boost::beast::flat_buffer buffer;
        parser.eager(true);
        while (!error && !parser.is_done()) {
          const size_t bytes = co_await socket.async_read_some(buffer.prepare(kReadSize), Into(error));
          if (error == net::error::eof && parser.got_some()) {
            parser.put_eof(error);
            break;
          }
          buffer.commit(bytes);
          if (error) break;
          buffer.consume(parser.put(buffer.data(), error));
          if (error == http::error::need_more) error = {};
        }
        timer.cancel();
      },
      [](std::exception_ptr) {});
  loop.run();
  const std::string asked = absl::StrCat("http://", url_.authority, url_.base, "/v1/models");
  if (error) {
    return absl::UnavailableError(absl::StrCat(
        asked, " gave no answer (", error == net::error::operation_aborted ? "10 s passed" : error.message(),
        "); start the server, correct --url, or name the model by --model so that it is not asked for"));
  }
  const nlohmann::json json = nlohmann::json::parse(parser.get().body(), nullptr, /*allow_exceptions=*/false);
  if (parser.get().result_int() != 200 || !json.is_object() || !json.contains("data") || !json["data"].is_array() ||
      json["data"].empty() || !json["data"][0].is_object() || !json["data"][0].contains("id") ||
      !json["data"][0]["id"].is_string()) {
    return absl::FailedPreconditionError(absl::StrCat(asked, " answered ", parser.get().result_int(),
                                                      " and lists no model: ", ErrorText(parser.get().body()),
                                                      "; name one by --model"));
  }
  return json["data"][0]["id"].get<std::string>();
}

void HttpLoadClient::Send(const PlannedRequest& request, LoadSink& sink) {
  auto exchange = std::make_shared<Exchange>(request, sink, loop_.context());
  exchange->record = RecordOf(request, options_);
  std::string message = Message(request, exchange->record);
  open_.insert(exchange.get());
  exchange->record.sent = loop_.Now();
  net::co_spawn(loop_.context(), Run(exchange, std::move(message)), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);  // out of memory
  });
}

Async<void> HttpLoadClient::Run(std::shared_ptr<Exchange> exchange, std::string message) {
  exchange->timer.expires_after(absl::ToChronoNanoseconds(options_.timeout));
  exchange->timer.async_wait([exchange, this](error_code waited) {
    if (!waited && open_.count(exchange.get()) > 0) {
      exchange->Cut(absl::StrCat("no end within --timeout ", absl::FormatDuration(options_.timeout)));
    }
  });
  Tail tail = Tail::kClose;
  // A server may close a connection that has no request at any time. If it did so as this request was written, nobody
  // has seen the request: it goes out again, on a connection of its own.
  for (bool again = true; again && exchange->cut.empty();) {
    again = false;
    exchange->connection = TakeConnection();
    tail = co_await Try(*exchange, message);
    if (tail != Tail::kNothingCame) break;
    again = exchange->connection->used;
    if (again) idle_.clear();  // their fate is the same
  }
  exchange->timer.cancel();
  RequestRecord& record = exchange->record;
  // What was cut is a timeout, unless its end had been read before.
  if (!exchange->cut.empty() && record.outcome != LoadOutcome::kOk && record.outcome != LoadOutcome::kCancelled) {
    Close(*exchange, LoadOutcome::kTimeout, exchange->cut);
  }
  if (tail == Tail::kReusable && exchange->cut.empty()) {
    exchange->connection->used = true;
    idle_.push_back(std::move(exchange->connection));
  }
  exchange->connection.reset();
  open_.erase(exchange.get());
  exchange->sink.OnEnd(exchange->request, std::move(record));
}

// An idle one, if there is one on which the server said nothing that it was not asked for.
std::unique_ptr<Connection> HttpLoadClient::TakeConnection() {
  while (!idle_.empty()) {
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    error_code error;
    if (connection->buffer.size() == 0 && connection->socket.available(error) == 0 && !error) return connection;
  }
  return std::make_unique<Connection>(loop_.context());
}

Async<Tail> HttpLoadClient::Try(Exchange& exchange, const std::string& message) {
  tcp::socket& socket = exchange.connection->socket;
  error_code error;
  if (!socket.is_open()) {
    co_await net::async_connect(socket, endpoints_, Into(error));
    if (error) {
      Close(exchange, LoadOutcome::kNoConnection, absl::StrCat("no connection: ", error.message()));
      co_return Tail::kClose;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    // A request that was cut while its connection was made has nothing to close before now.
    if (!exchange.cut.empty()) co_return Tail::kClose;
  }
  co_await net::async_write(socket, net::buffer(message), Into(error));
  // A server may answer before it has read all, and close: its answer may still be there.
  co_return co_await Read(exchange);
}

Async<Tail> HttpLoadClient::Read(Exchange& exchange) {
  Connection& connection = *exchange.connection;
  RequestRecord& record = exchange.record;
  http::response_parser<http::string_body> parser;
  parser.eager(true);
  parser.body_limit(boost::none);
  OpenAiStream stream(chat_, options_.save_texts || exchange.request.session >= 0, exchange.request.cancel_after_tokens,
                      &record);
  std::string page;  // of an answer that is no stream
  bool headed = false, streams = false, came = false;
  absl::Duration now;
  while (!parser.is_done() && !stream.ended()) {
    error_code error;
    const size_t bytes = co_await connection.socket.async_read_some(connection.buffer.prepare(kReadSize), Into(error));
    now = loop_.Now();
    came |= bytes > 0;
    if (!exchange.cut.empty()) co_return Tail::kClose;
    const std::string how = error.message();
    if (error) {
      if (!came) {
        Close(exchange, LoadOutcome::kTruncated, absl::StrCat("the connection ended before any answer: ", how));
        co_return Tail::kNothingCame;
      }
      error_code ended;
      if (error == net::error::eof) parser.put_eof(ended);
      if (error == net::error::eof && !ended && parser.is_done()) break;  // a body that ends with its connection
      if (streams) {
        stream.End(now, absl::StrCat("the connection ended within the stream: ", how));
      } else if (headed && record.http_status != 200) {
        break;  // the status has said it all
      } else {
        Close(exchange, LoadOutcome::kTruncated, absl::StrCat("the connection ended within the answer: ", how));
      }
      co_return Tail::kClose;
    }
    connection.buffer.commit(bytes);
    connection.buffer.consume(parser.put(connection.buffer.data(), error));
    const bool broken = error && error != http::error::need_more;  // what came before it still counts
    if (!headed && parser.is_header_done()) {
      headed = true;
      NoteHead(parser.get(), &record);
      streams = record.http_status == 200 &&
                absl::StartsWith(std::string(parser.get()[http::field::content_type]), "text/event-stream");
    }
    const std::string body = std::exchange(parser.get().body(), {});
    if (streams) {
      const size_t before = record.chunks.size();
      stream.Feed(body, now);
      if (before == 0 && !record.chunks.empty()) exchange.sink.OnFirstToken(exchange.request, now - record.sent);
      for (size_t i = before; i < record.chunks.size(); ++i) tokens_ += record.chunk_tokens[i];
    } else if (page.size() < kErrorBody) {
      page += body;
    }
    if (broken) {
      if (!stream.ended()) {
        Close(exchange, LoadOutcome::kGarbage, absl::StrCat("the answer is not HTTP: ", error.message()));
      }
      co_return Tail::kClose;
    }
  }
  if (streams) {
    stream.End(now, "the stream ended without [DONE]");
    const bool whole = record.outcome == LoadOutcome::kOk;
    if (whole && !parser.is_done()) co_await Drain(exchange, parser);
    co_return whole&& parser.is_done() && parser.keep_alive() ? Tail::kReusable : Tail::kClose;
  }
  if (record.http_status == 429 || record.http_status == 503) {
    Close(exchange, LoadOutcome::kShed, ErrorText(page));
  } else if (record.http_status == 200) {
    Close(exchange, LoadOutcome::kGarbage,
          absl::StrCat("a whole answer came instead of an event stream (Content-Type: ",
                       std::string(parser.get()[http::field::content_type]), "): ", ErrorText(page)));
  } else {
    Close(exchange, LoadOutcome::kRefused, absl::StrCat(record.http_status, ": ", ErrorText(page)));
  }
  co_return parser.is_done() && parser.keep_alive() ? Tail::kReusable : Tail::kClose;
}

// [DONE] was read: the record stands. What is left is the end of the body, so that the connection can be used again.
Async<void> HttpLoadClient::Drain(Exchange& exchange, http::response_parser<http::string_body>& parser) {
  Connection& connection = *exchange.connection;
  net::steady_timer limit(loop_.context(), kTail);
  limit.async_wait([self = exchange.shared_from_this()](error_code waited) {
    error_code ignored;
    if (!waited && self->connection) self->connection->socket.close(ignored);
  });
  error_code error;
  while (!parser.is_done() && (!error || error == http::error::need_more)) {
    error = {};
    connection.buffer.commit(
        co_await connection.socket.async_read_some(connection.buffer.prepare(kReadSize), Into(error)));
    if (error) break;
    connection.buffer.consume(parser.put(connection.buffer.data(), error));
    parser.get().body().clear();
  }
  limit.cancel();
}

void HttpLoadClient::NoteHead(const http::response<http::string_body>& head, RequestRecord* record) const {
  record->http_status = static_cast<int32_t>(head.result_int());
  if (const std::string id(head["x-request-id"]); !id.empty()) record->request_id = id;
  double wait = 0;
  if (absl::SimpleAtod(std::string(head["retry-after-ms"]), &wait) && wait >= 0) {
    record->retry_after = absl::Milliseconds(wait);
  } else if (absl::SimpleAtod(std::string(head["retry-after"]), &wait) && wait >= 0) {
    record->retry_after = absl::Seconds(wait);
  }
}

void HttpLoadClient::Close(Exchange& exchange, LoadOutcome outcome, absl::string_view error) {
  RequestRecord& record = exchange.record;
  record.outcome = outcome;
  record.error = std::string(error);
  record.ended = loop_.Now();
  if (record.completion_tokens == 0) {
    for (int32_t n : record.chunk_tokens) record.completion_tokens += n;
  }
}

absl::StatusOr<std::unique_ptr<LoadClient>> Make(bool chat, const LoadClientOptions& options, AsioLoop& loop) {
  ASSIGN_OR_RETURN(LoadUrl url, ParseLoadUrl(options.url));
  return std::make_unique<HttpLoadClient>(chat, std::move(url), options, loop);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> MakeChatClient(const LoadClientOptions& options, AsioLoop& loop) {
  return Make(true, options, loop);
}

absl::StatusOr<std::unique_ptr<LoadClient>> MakeCompletionsClient(const LoadClientOptions& options, AsioLoop& loop) {
  return Make(false, options, loop);
}

}  // namespace interlace
