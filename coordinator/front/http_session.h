// HttpSession: one connection to the HTTP front. Private to http_*.cc.
#pragma once

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "coordinator/front/answer.h"
#include "coordinator/front/byte_budget.h"
#include "coordinator/front/delivery.h"
#include "coordinator/front/door_stream.h"
#include "coordinator/front/http_context.h"
#include "coordinator/front/http_writer.h"
#include "coordinator/front/protocols.h"

namespace interlace {

// Reads requests, one after the other, and answers each. Owned by its coroutine; thread: the loop's. While an answer is
// made a read is always pending, so a client that goes away is seen at once; what it reads belongs to the next request.
// `wake_` has one waiter, the coroutine: whatever may end a wait calls Wake, and the coroutine then looks again.
class HttpSession final : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, HttpContext& context);
  ~HttpSession();
  // `refused`: there are too many connections; it is told so, and ends.
  static void Start(boost::asio::ip::tcp::socket socket, HttpContext& context, bool refused);
  // No request after the present one; an idle connection ends now.
  void Stop();
  // The coroutine looks again at what it waits for.
  void Wake() { wake_.cancel(); }

 private:
  template <typename T>
  using Async = boost::asio::awaitable<T>;
  using Instant = std::chrono::steady_clock::time_point;
  struct Opening;

  Async<void> Run(bool refused);
  // The handshake of TLS. False: the connection ends; a client that does not speak TLS was told so.
  Async<bool> Secure();
  Async<void> ReadBody(boost::system::error_code* error);
  // False: the connection ends. What is wrong with the request was then answered.
  Async<bool> ReadRequest();
  Async<void> RefuseBroken(boost::system::error_code error);
  void NoteRequest();
  // Whose request it is, by its key. Not OK: nobody's who may ask for this.
  absl::Status Identify();
  // Counts it among the requests of its tenant.
  absl::Status Count();
  HttpReply Refusal(const absl::Status& status) const;
  // What is left of its tenant's limits, for the heads of answers.
  void NoteLimits();
  // Takes off the body's encoding; on the worker.
  absl::Status DecodeRequest();
  Async<void> AnswerPreflight();
  Async<void> AnswerRequest();
  Async<void> Generate(const ProtocolRow& protocol);
  Async<void> Deliver(Delivery& delivery, const ProtocolRow& protocol);
  // `first`: the head of the stream is not written yet.
  void NoteCache(const Delivery& d);
  Async<void> WriteEvents(const Delivery& d, const Answer::Events& events, bool first);
  // Waits for something to take. After a while of silence a stream is begun, or kept alive by a comment.
  Async<void> AwaitEvents(Delivery& delivery);
  Async<void> FinishDelivery(Delivery& delivery, const ProtocolRow& protocol);
  Async<void> WriteError(absl::Status status, const ProtocolRow& protocol);
  Async<void> Linger();

  // Waits until Wake, or `limit`.
  Async<void> Wait(Instant limit = Instant::max());
  void Watch();
  Async<void> EndWatch();
  void LogAnswer(int status, int32_t prompt_tokens, int32_t completion_tokens);

  HttpContext& context_;
  DoorStream stream_;
  ByteShare body_;  // what it holds of the bytes that bodies may take
  HttpWriter writer_;
  boost::asio::steady_timer wake_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  boost::beast::http::request<boost::beast::http::string_body> request_;
  HttpQuestion question_;
  std::shared_ptr<Tenant> caller_;  // null: no key is needed
  std::shared_ptr<TenantPass> pass_;
  Instant last_write_;  // of a stream, or its begin
  bool named_ = false;  // by the client
  bool idle_ = false;   // waiting for a request to begin
  bool watching_ = false;
  bool watch_wanted_ = false;
};

}  // namespace interlace
