// HttpFront: the OpenAI HTTP door.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/doors/frontend.h"

namespace interlace {

// One thread serves all connections. Owned by main. The trap: Stop before the Frontend's engine dies, since open
// streams cancel their requests in it.
class HttpFront {
 public:
  struct Options {
    std::string host;
    int port = 0;  // 0: any free one
    int64_t max_body = 16 << 20;
  };
  // Listens at once. FailedPrecondition names a port that is taken and how to choose another.
  static absl::StatusOr<std::unique_ptr<HttpFront>> Start(const Options& options, Frontend& frontend);
  ~HttpFront();
  int port() const;
  // Accepts no more, closes idle connections; open streams go on until Stop.
  void Drain();
  void Stop();

 private:
  class Server;
  explicit HttpFront(std::unique_ptr<Server> server);
  std::unique_ptr<Server> server_;
};

}  // namespace interlace
