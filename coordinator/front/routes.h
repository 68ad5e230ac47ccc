// Routes: every HTTP path that is not a generation, and which are; knows nothing of sockets.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/metrics.h"
#include "coordinator/front/generation.h"

namespace interlace {

struct HttpQuestion {
  std::string method;  // "GET"; a HEAD is asked as one
  std::string path;    // without the query
  absl::string_view body;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

enum class RouteKind {
  kQuick,       // Answer may run on the event loop
  kSlow,        // Answer tokenises or waits for the scheduler: not on the event loop
  kChat,        // a generation: Answer is not for it
  kCompletion,  // likewise
};

// Immutable; any thread. Owned by the HTTP front.
class Routes {
 public:
  Routes(Intake& intake, const Metrics& metrics) : intake_(intake), metrics_(metrics) {}
  // kQuick for a path or a method that does not exist: Answer then says 404 or 405.
  RouteKind KindOf(const HttpQuestion& question) const;
  HttpReply Answer(const HttpQuestion& question) const;

 private:
  struct Row;
  static const std::vector<Row>& Table();
  static const Row* Find(const HttpQuestion& question);

  HttpReply Health(const HttpQuestion&) const;
  HttpReply MetricsText(const HttpQuestion&) const;
  HttpReply Version(const HttpQuestion&) const;
  HttpReply Models(const HttpQuestion&) const;
  HttpReply Model(const HttpQuestion& question) const;
  HttpReply Explain(const HttpQuestion& question) const;
  HttpReply Tokenize(const HttpQuestion& question) const;
  HttpReply Detokenize(const HttpQuestion& question) const;
  HttpReply Missing(const HttpQuestion& question) const;

  Intake& intake_;
  const Metrics& metrics_;
};

// OpenAI's error body and the headers that steer a client's retries. `retry_after` is used for 429 and 503; zero: a
// second.
HttpReply ErrorReply(const absl::Status& status, absl::Duration retry_after = absl::ZeroDuration());
// For what HTTP itself refuses (404, 405, 413, ...).
HttpReply ErrorReply(int http, absl::string_view message, absl::string_view code);

}  // namespace interlace
