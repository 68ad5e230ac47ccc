// trivial_server: an OpenAI-compatible server that answers every completion at once with the same four tokens.
//   usage: trivial_server PORT
#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

auto Into(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

std::string Chunk(const std::string& bytes) {
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

std::string Stream() {
  std::string answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 4; ++i)
    answer += Chunk("data: {\"choices\":[{\"index\":0,\"text\":\" a\",\"finish_reason\":null}]}\n\n");
  answer += Chunk("data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}\n\n");
  answer += Chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":4}}\n\n");
  return answer + Chunk("data: [DONE]\n\n") + "0\r\n\r\n";
}

std::string Models() {
  const std::string body = "{\"object\":\"list\",\"data\":[{\"id\":\"trivial\"}]}";
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

net::awaitable<void> Serve(tcp::socket socket) {
  static const std::string stream = Stream(), models = Models();
  error_code error;
  socket.set_option(tcp::no_delay(true), error);
  std::string held;
  for (;;) {
    size_t head;
    while ((head = held.find("\r\n\r\n")) == std::string::npos) {
      char bytes[16384];
      const size_t count = co_await socket.async_read_some(net::buffer(bytes), Into(error));
      if (error) co_return;
      held.append(bytes, count);
    }
    const size_t at = held.find("Content-Length: ");
    const size_t length = at < head ? std::strtoul(held.c_str() + at + 16, nullptr, 10) : 0;
    while (held.size() < head + 4 + length) {
      char bytes[16384];
      const size_t count = co_await socket.async_read_some(net::buffer(bytes), Into(error));
      if (error) co_return;
      held.append(bytes, count);
    }
    const bool post = held.compare(0, 4, "POST") == 0;
    held.erase(0, head + 4 + length);
    co_await net::async_write(socket, net::buffer(post ? stream : models), Into(error));
    if (error) co_return;
  }
}

net::awaitable<void> Accept(tcp::acceptor& acceptor) {
  for (;;) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(Into(error));
    if (!error) net::co_spawn(acceptor.get_executor(), Serve(std::move(socket)), net::detached);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: trivial_server PORT\n");
    return 2;
  }
  net::io_context loop{1};
  tcp::acceptor acceptor(loop, {net::ip::make_address("127.0.0.1"), static_cast<unsigned short>(std::atoi(argv[1]))});
  net::co_spawn(loop, Accept(acceptor), net::detached);
  loop.run();
}
