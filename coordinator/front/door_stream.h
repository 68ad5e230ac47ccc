// DoorStream: the bytes of one connection to the HTTP door, in the clear or through TLS. Private to http_*.cc.
#pragma once

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>

namespace interlace {

// What Beast calls an AsyncStream, with one time limit for whatever is under way: when it is over the connection is
// closed, and every operation on it ends with an error. One read and one write may be pending at a time. Owned by its
// session; thread: the loop's.
class DoorStream {
 public:
  using executor_type = boost::asio::any_io_executor;

  explicit DoorStream(boost::asio::ip::tcp::socket socket)
      : socket_(std::move(socket)), limit_(socket_.get_executor()), alive_(std::make_shared<bool>(true)) {}
  ~DoorStream() { Close(); }
  DoorStream(const DoorStream&) = delete;
  DoorStream& operator=(const DoorStream&) = delete;

  executor_type get_executor() { return socket_.get_executor(); }
  boost::asio::ip::tcp::socket& socket() { return socket_; }
  bool secure() const { return tls_.has_value(); }

  // From here on through TLS: reads and writes wait for a Handshake. The context outlives the stream.
  void Secure(std::shared_ptr<boost::asio::ssl::context> context) {
    context_ = std::move(context);
    tls_.emplace(socket_, *context_);
  }
  template <typename Token>
  auto async_handshake(Token&& token) {
    return tls_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Token>(token));
  }
  // Says to a TLS client that nothing more comes.
  template <typename Token>
  auto async_shutdown(Token&& token) {
    return tls_->async_shutdown(std::forward<Token>(token));
  }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_read_some(buffers, std::forward<Token>(token))
                : socket_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_write_some(buffers, std::forward<Token>(token))
                : socket_.async_write_some(buffers, std::forward<Token>(token));
  }

  void ExpireAfter(std::chrono::milliseconds time) {
    limit_.expires_after(time);
    limit_.async_wait([this, alive = std::weak_ptr<bool>(alive_)](boost::system::error_code error) {
      // One that was cancelled when its time was over already comes all the same: the limit has then moved on.
      if (error || alive.expired() || limit_.expiry() > std::chrono::steady_clock::now()) return;
      Close();
    });
  }
  void ExpireNever() { limit_.expires_at(std::chrono::steady_clock::time_point::max()); }
  void Close() {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

 private:
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer limit_;
  std::shared_ptr<bool> alive_;
  std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
};

}  // namespace interlace
