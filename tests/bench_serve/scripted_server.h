// ScriptedServer: an HTTP server that answers as a test says, however wrong that is.
#pragma once

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/thread.h"

namespace interlace {

// What the server does with a request that it has read whole, one step after another.
struct ServerStep {
  enum Kind { kSend, kClose, kReset, kStall } kind = kSend;
  std::string bytes;
};
inline ServerStep Bytes(std::string bytes) { return {ServerStep::kSend, std::move(bytes)}; }
inline ServerStep CloseNow() { return {ServerStep::kClose, ""}; }
inline ServerStep ResetNow() { return {ServerStep::kReset, ""}; }
inline ServerStep Stall() { return {ServerStep::kStall, ""}; }

// Listens on a free port of 127.0.0.1, on a thread of its own. After a script without an end of the connection the next
// request of the connection is read.
class ScriptedServer {
 public:
  // `request`: head and body; `number`: how many the server has read before.
  using Script = std::function<std::vector<ServerStep>(const std::string& request, int number)>;

  explicit ScriptedServer(Script script) : script_(std::move(script)), acceptor_(loop_, {Address(), 0}) {
    boost::asio::co_spawn(loop_, Accept(), boost::asio::detached);
    thread_ = Thread("scripted", [this] { loop_.run(); });
  }
  explicit ScriptedServer(std::vector<ServerStep> steps)
      : ScriptedServer([steps](const std::string&, int) { return steps; }) {}
  ~ScriptedServer() { loop_.stop(); }

  std::string url() const { return absl::StrCat("http://127.0.0.1:", acceptor_.local_endpoint().port()); }
  std::vector<std::string> requests() {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }
  int connections() {
    absl::MutexLock lock(&mutex_);
    return connections_;
  }

 private:
  using Socket = boost::asio::ip::tcp::socket;
  template <typename T>
  using Async = boost::asio::awaitable<T>;

  static boost::asio::ip::address Address() { return boost::asio::ip::make_address("127.0.0.1"); }
  static auto Into(boost::system::error_code& error) {
    return boost::asio::redirect_error(boost::asio::use_awaitable, error);
  }

  Async<void> Accept() {
    for (;;) {
      boost::system::error_code error;
      Socket socket = co_await acceptor_.async_accept(Into(error));
      if (error) co_return;
      {
        absl::MutexLock lock(&mutex_);
        ++connections_;
      }
      boost::asio::co_spawn(loop_, Serve(std::move(socket)), boost::asio::detached);
    }
  }

  Async<void> Serve(Socket socket) {
    boost::system::error_code error;
    socket.set_option(boost::asio::ip::tcp::no_delay(true), error);
    std::string held;
    for (;;) {
      const std::string request = co_await ReadRequest(socket, &held);
      if (request.empty()) co_return;
      int number = 0;
      {
        absl::MutexLock lock(&mutex_);
        number = static_cast<int>(requests_.size());
        requests_.push_back(request);
      }
      for (const ServerStep& step : script_(request, number)) {
        if (step.kind == ServerStep::kSend) {
          co_await boost::asio::async_write(socket, boost::asio::buffer(step.bytes), Into(error));
        } else if (step.kind == ServerStep::kStall) {
          char byte = 0;
          while (!error) co_await socket.async_read_some(boost::asio::buffer(&byte, 1), Into(error));
        } else {
          if (step.kind == ServerStep::kReset) socket.set_option(boost::asio::socket_base::linger(true, 0), error);
          socket.close(error);
          co_return;
        }
        if (error) co_return;
      }
    }
  }

  // Empty: the connection ended.
  Async<std::string> ReadRequest(Socket& socket, std::string* held) {
    boost::system::error_code error;
    for (;;) {
      const size_t head = held->find("\r\n\r\n");
      if (head != std::string::npos) {
        const std::string lower = absl::AsciiStrToLower(held->substr(0, head));
        size_t length = 0;
        const size_t at = lower.find("content-length: ");
        if (at != std::string::npos) {
          (void)absl::SimpleAtoi(lower.substr(at + 16, lower.find("\r\n", at) - at - 16), &length);
        }
        if (held->size() >= head + 4 + length) {
          std::string request = held->substr(0, head + 4 + length);
          held->erase(0, head + 4 + length);
          co_return request;
        }
      }
      char bytes[16384];
      const size_t count = co_await socket.async_read_some(boost::asio::buffer(bytes), Into(error));
      if (error) co_return "";
      held->append(bytes, count);
    }
  }

  const Script script_;
  boost::asio::io_context loop_{1};
  boost::asio::ip::tcp::acceptor acceptor_;
  absl::Mutex mutex_;
  std::vector<std::string> requests_;  // protected by mutex_
  int connections_ = 0;                // protected by mutex_
  Thread thread_;
};

// The parts of an answer.
inline std::string StreamHead() {
  return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
}
inline std::string HttpChunk(absl::string_view bytes) {
  return absl::StrCat(absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
}
inline std::string LastHttpChunk() { return "0\r\n\r\n"; }
inline std::string Event(absl::string_view data) { return absl::StrCat("data: ", data, "\n\n"); }
inline std::string TextEvent(absl::string_view text) {
  return Event(absl::StrCat(R"({"choices":[{"index":0,"text":")", text, R"(","finish_reason":null}]})"));
}
inline std::string FinishEvent() { return Event(R"({"choices":[{"index":0,"text":"","finish_reason":"length"}]})"); }
inline std::string UsageEvent(int prompt, int completion) {
  return Event(absl::StrCat(R"({"choices":[],"usage":{"prompt_tokens":)", prompt, R"(,"completion_tokens":)",
                            completion, R"(,"prompt_tokens_details":{"cached_tokens":2}}})"));
}
inline std::string DoneEvent() { return Event("[DONE]"); }
// A whole completion of some tokens.
inline std::string WholeStream(int tokens) {
  std::string body;
  for (int i = 0; i < tokens; ++i) absl::StrAppend(&body, HttpChunk(TextEvent(" a")));
  return absl::StrCat(StreamHead(), body, HttpChunk(FinishEvent()), HttpChunk(UsageEvent(7, tokens)),
                      HttpChunk(DoneEvent()), LastHttpChunk());
}
inline std::string WholeReply(absl::string_view status, absl::string_view body, absl::string_view headers = "") {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: application/json\r\n", headers,
                      "Content-Length: ", body.size(), "\r\n\r\n", body);
}

}  // namespace interlace
