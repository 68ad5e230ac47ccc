// trivial_server: an OpenAI-compatible server whose answers are always the same: four tokens at once, to measure how
// many requests a second a generator can make, or TOKENS of them at a pace that is known, to measure what a generator
// reports.
//   usage: trivial_server PORT [TOKENS FIRST_MS GAP_MS]
// With a pace the first token leaves FIRST_MS after the request was read, and each other one GAP_MS after the one
// before.
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

auto Into(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

struct Pace {
  int tokens = 4;
  std::chrono::microseconds first{0}, gap{0};
  bool at_once() const { return first.count() == 0 && gap.count() == 0; }
};

const char kHead[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string Chunk(const std::string& bytes) {
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

std::string Event(bool chat, const std::string& choices, const std::string& more = "") {
  return Chunk(std::string(R"(data: {"id":"x","object":")") + (chat ? "chat.completion.chunk" : "text_completion") +
               R"(","created":1,"model":"trivial","choices":[)" + choices + "]" + more + "}\n\n");
}

std::string Token(bool chat, const std::string& text, const std::string& finish) {
  const std::string said = chat ? R"("delta":{"content":")" + text + "\"}" : R"("text":")" + text + "\"";
  return Event(chat, R"({"index":0,)" + said + R"(,"finish_reason":)" + finish + "}");
}

std::string End(bool chat, int tokens) {
  const std::string usage = R"(,"usage":{"prompt_tokens":8,"completion_tokens":)" + std::to_string(tokens) +
                            R"(,"total_tokens":)" + std::to_string(tokens + 8) + "}";
  return Token(chat, "", "\"length\"") + Event(chat, "", usage) + Chunk("data: [DONE]\n\n") + "0\r\n\r\n";
}

std::string Whole(bool chat, int tokens) {
  std::string answer = kHead;
  for (int i = 0; i < tokens; ++i) answer += Token(chat, " a", "null");
  return answer + End(chat, tokens);
}

std::string Models() {
  const std::string body =
      R"({"object":"list","data":[{"id":"trivial","object":"model","created":1,"owned_by":"us"}]})";
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

net::awaitable<void> Write(tcp::socket& socket, const std::string& bytes, error_code& error) {
  if (!error) co_await net::async_write(socket, net::buffer(bytes), Into(error));
}

// All times count from when the request was read, so that the server's own lateness does not add up.
net::awaitable<void> WritePaced(tcp::socket& socket, bool chat, const Pace& pace, error_code& error) {
  net::steady_timer timer(socket.get_executor(), std::chrono::steady_clock::now() + pace.first);
  for (int i = 0; i < pace.tokens; ++i) {
    error_code ignored;
    co_await timer.async_wait(Into(ignored));
    co_await Write(socket, (i == 0 ? kHead : "") + Token(chat, " a", "null"), error);
    timer.expires_at(timer.expiry() + pace.gap);
  }
  co_await Write(socket, End(chat, pace.tokens), error);
}

net::awaitable<void> Serve(tcp::socket socket, const Pace& pace) {
  static const std::string completion = Whole(false, pace.tokens), chat = Whole(true, pace.tokens), models = Models();
  error_code error;
  socket.set_option(tcp::no_delay(true), error);
  std::string held;
  while (!error) {
    const size_t head = held.find("\r\n\r\n"), at = held.find("ontent-");
    size_t length = 0;
    for (size_t field = at; field < head; field = held.find("ontent-", field + 1)) {
      const std::string name = held.substr(field, 15);
      if (name == "ontent-Length: " || name == "ontent-length: ") length = std::strtoul(&held[field + 15], nullptr, 10);
    }
    if (head == std::string::npos || held.size() < head + 4 + length) {
      char bytes[16384];
      held.append(bytes, co_await socket.async_read_some(net::buffer(bytes), Into(error)));
      continue;
    }
    const bool post = held.compare(0, 4, "POST") == 0, is_chat = held.find("/chat/") < held.find('\n');
    held.erase(0, head + 4 + length);
    if (!post) {
      co_await Write(socket, models, error);
    } else if (pace.at_once()) {
      co_await Write(socket, is_chat ? chat : completion, error);
    } else {
      co_await WritePaced(socket, is_chat, pace, error);
    }
  }
}

net::awaitable<void> Accept(tcp::acceptor& acceptor, const Pace& pace) {
  for (;;) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(Into(error));
    if (!error) net::co_spawn(acceptor.get_executor(), Serve(std::move(socket), pace), net::detached);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 5) {
    std::fprintf(stderr, "usage: trivial_server PORT [TOKENS FIRST_MS GAP_MS]\n");
    return 2;
  }
  Pace pace;
  if (argc == 5) {
    pace.tokens = std::atoi(argv[2]);
    pace.first = std::chrono::microseconds(static_cast<int64_t>(1000 * std::atof(argv[3])));
    pace.gap = std::chrono::microseconds(static_cast<int64_t>(1000 * std::atof(argv[4])));
  }
  net::io_context loop{1};
  tcp::acceptor acceptor(loop, {net::ip::make_address("127.0.0.1"), static_cast<unsigned short>(std::atoi(argv[1]))});
  net::co_spawn(loop, Accept(acceptor, pace), net::detached);
  loop.run();
}
