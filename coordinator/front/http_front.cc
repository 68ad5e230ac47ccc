#include "coordinator/front/http_front.h"

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "coordinator/front/http_context.h"
#include "coordinator/front/http_session.h"

namespace interlace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

namespace {

constexpr size_t kRefusals = 64;                         // connections beyond the limit that are being told so
constexpr absl::Duration kLastWords = absl::Seconds(2);  // for the error events of streams that are cut

}  // namespace

// The acceptor, the loop's thread and the end of both. Owned by HttpFront.
class HttpFront::Door {
 public:
  Door(const Options& options, Intake& intake, const Metrics& metrics)
      : context_(options, intake, metrics), acceptor_(context_.loop), work_(context_.loop.get_executor()) {}
  ~Door() { Stop(absl::ZeroDuration()); }

  absl::Status ReloadTls() {
    if (!context_.options.tls.on()) return absl::OkStatus();
    ASSIGN_OR_RETURN(std::shared_ptr<net::ssl::context> tls, MakeTlsContext(context_.options.tls));
    context_.on_loop.Post([this, tls = std::move(tls)]() mutable { context_.tls = std::move(tls); });
    return absl::OkStatus();
  }

  absl::Status Listen() {
    RETURN_IF_ERROR(ReloadTls());  // before the first connection: it is posted before the acceptor's coroutine
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
    if (!AwaitEnds(patience) && patience > absl::ZeroDuration()) {
      LOG(WARNING) << "HTTP answers are cut: the patience of the stop is over";
      context_.on_loop.Post([this] {
        context_.closing = true;
        for (HttpSession* session : context_.sessions) session->Wake();
      });
      AwaitEnds(kLastWords);
    }
    context_.loop.stop();
    thread_.Join();
  }

 private:
  // Whether all sessions ended within `patience`.
  bool AwaitEnds(absl::Duration patience) {
    absl::MutexLock lock(&context_.mutex);
    const auto none = [this] { return context_.open == 0; };
    return context_.mutex.AwaitWithTimeout(absl::Condition(&none), patience);
  }

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
      const size_t most = context_.options.max_connections;
      if (context_.sessions.size() >= most + kRefusals) {
        context_.room.expires_at(net::steady_timer::time_point::max());
        co_await context_.room.async_wait(Into(error));
        continue;
      }
      tcp::socket socket(context_.loop);
      co_await acceptor_.async_accept(socket, Into(error));
      if (!error) {
        HttpSession::Start(std::move(socket), context_, /*refused=*/context_.sessions.size() >= most);
      } else if (acceptor_.is_open()) {  // out of descriptors, most likely: they come back as sessions end
        LOG(WARNING) << "HTTP accept failed" << Field("error", error.message());
        context_.room.expires_after(std::chrono::milliseconds(200));
        co_await context_.room.async_wait(Into(error));
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

absl::Status HttpFront::ReloadTls() { return door_->ReloadTls(); }
int HttpFront::port() const { return door_->port(); }
void HttpFront::Stop(absl::Duration patience) { door_->Stop(patience); }

}  // namespace interlace
