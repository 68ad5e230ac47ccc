// HttpSession: one HTTP connection. The only header that shows Asio and Beast; http_front.cc and http_session.cc alone
// include it.
#pragma once

// clang-format off
#include <utility>  // before Asio, whose headers of this version need it
// clang-format on
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/synchronization/mutex.h"
#include "common/executor.h"
#include "coordinator/front/http_front.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/routes.h"

namespace interlace {

class HttpSession;

// Tasks on the event loop. Post never waits.
class LoopExecutor final : public Executor {
 public:
  explicit LoopExecutor(boost::asio::io_context& loop) : loop_(loop) {}
  bool Post(Task task) override {
    boost::asio::post(loop_, [task = std::move(task)]() mutable { task(); });
    return true;
  }

 private:
  boost::asio::io_context& loop_;
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
  boost::asio::io_context loop{1};
  boost::asio::steady_timer room{loop};  // cancelled when a session ends
  LoopExecutor on_loop{loop};
  ThreadExecutor worker{"http-intake", 65536};
};

// Owned by its coroutine; thread: the loop's. While an answer is made a read is always pending, so a client that goes
// away is seen at once; what it reads belongs to the next request. The trap: wake_ has one waiter, the coroutine.
class HttpSession final : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, HttpContext& context);
  ~HttpSession();
  static void Start(boost::asio::ip::tcp::socket socket, HttpContext& context);
  // No request after the present one; an idle connection ends now.
  void Stop();

 private:
  template <typename T>
  using Async = boost::asio::awaitable<T>;
  struct Opening;

  Async<void> Run();
  // False: the connection ends. What is wrong with the request was then answered.
  Async<bool> ReadRequest();
  Async<void> RefuseBroken(boost::system::error_code error);
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
  boost::asio::steady_timer wake_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  boost::beast::http::request<boost::beast::http::string_body> request_;
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

}  // namespace interlace
