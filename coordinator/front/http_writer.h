// HttpWriter: the answers of one connection, as bytes. Private to http_*.cc.
#pragma once

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/awaitable.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/front/door_stream.h"
#include "coordinator/front/routes.h"

namespace interlace {

// One answer at a time: Reply, or StartStream, any number of Event and Ping, EndStream. A write that fails or makes no
// headway for `write_timeout` sets gone(), after which nothing is written. Owned by its session; thread: the loop's.
class HttpWriter {
 public:
  template <typename T>
  using Async = boost::asio::awaitable<T>;

  // What is known of the request that is answered.
  struct Question {
    std::string name;                                          // for x-request-id
    unsigned version = 11;                                     // of HTTP
    bool head = false;                                         // the answer has no body
    bool keep_alive = false;                                   // the client wants to ask again
    std::vector<std::pair<std::string, std::string>> headers;  // of any answer
  };

  HttpWriter(DoorStream& stream, absl::Duration write_timeout) : stream_(stream), write_timeout_(write_timeout) {}

  Question& question() { return question_; }
  Async<void> Reply(HttpReply reply);
  Async<void> StartStream();
  // One server-sent event, whole; one write.
  Async<void> Event(std::string bytes);
  // A comment that clients skip, so that nobody on the way takes a silent stream for a dead one.
  Async<void> Ping();
  Async<void> EndStream();

  bool gone() const { return gone_; }
  void set_gone() { gone_ = true; }
  // Whether another request may follow the present answer.
  bool lives_on() const { return question_.keep_alive && !gone_; }

 private:
  Async<void> WriteBody(std::string bytes);
  // Around each write.
  void BeginWrite();
  void EndWrite(bool failed);

  DoorStream& stream_;
  const absl::Duration write_timeout_;
  Question question_;
  bool gone_ = false;
};

}  // namespace interlace
