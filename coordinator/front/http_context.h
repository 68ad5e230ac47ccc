// What the sessions of one HTTP front share. Private to http_*.cc.
#pragma once

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <set>

#include "absl/synchronization/mutex.h"
#include "common/executor.h"
#include "coordinator/front/byte_budget.h"
#include "coordinator/front/cors.h"
#include "coordinator/front/http_front.h"
#include "coordinator/front/intake_lanes.h"
#include "coordinator/front/routes.h"

namespace interlace {

class HttpSession;

// For co_await: the error goes to `error` instead of being thrown.
inline auto Into(boost::system::error_code& error) {
  return boost::asio::redirect_error(boost::asio::use_awaitable, error);
}

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

// Owned by the front's door. Members are destroyed from the last to the first: the lanes run out before the loop
// dies; with the loop die the sessions that it still holds, and these use what is declared before it.
struct HttpContext {
  HttpContext(const HttpFront::Options& o, Intake& i, const Metrics& metrics)
      : options(o), intake(i), routes(i, metrics, o.gate, o.ui, o.keyless, o.standby), cors(o.cors, o.host) {}
  ~HttpContext() { ended = true; }

  const HttpFront::Options options;
  Intake& intake;
  const Routes routes;
  const CorsPolicy cors;
  ByteBudget bodies{options.all_bodies};           // thread: the loop's
  std::shared_ptr<boost::asio::ssl::context> tls;  // thread: the loop's; null: in the clear. Of connections to come
  absl::Mutex mutex;
  size_t open = 0;                  // protected by mutex; sessions
  std::set<HttpSession*> sessions;  // thread: the loop's
  bool stopping = false;            // thread: the loop's; no request after the present one
  bool closing = false;             // thread: the loop's; the present answers end as they are, and say so
  bool ended = false;               // the destructor has begun: `room` may be gone
  boost::asio::io_context loop{1};
  boost::asio::steady_timer room{loop};  // cancelled when a session ends
  LoopExecutor on_loop{loop};
  IntakeLanes lanes{"intake"};
  IntakeLanes operations{"operations", 2};  // who waits for ranks holds up nobody's requests
};

}  // namespace interlace
