// Routes: every HTTP path that is not a generation, and which are; knows nothing of sockets.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "coordinator/front/drain_gate.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/protocols.h"
#include "coordinator/front/server_json.h"
#include "coordinator/front/tenants.h"

namespace interlace {

struct HttpQuestion {
  std::string method;  // "GET"; a HEAD is asked as one
  std::string path;    // without the query
  std::string query;   // what follows '?', without it
  absl::string_view body;
  const Tenant* caller = nullptr;  // whose key came with it; null: none is needed
  bool of_page = false;            // a page in a browser asks: it has an origin
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
  kOperation,   // Answer may wait for ranks to do something: on threads that nothing else waits for
  kGeneration,  // Answer is not for it: ProtocolOf says what is
};

// Who may ask, where keys are needed.
enum class RouteAccess {
  kAnybody,   // without a key
  kKey,       // with any tenant's
  kOperator,  // with an operator's: it tells of everybody's requests
};

// Any thread. Owned by the HTTP front.
class Routes {
 public:
  // `gate` may be null: there is nothing to drain. `ui`: whether /ui and what belongs to it exist. `keyless`: names
  // such as "metrics,ui" of what needs no key besides. `standby`: whether another coordinator leads, or none.
  Routes(Intake& intake, const Metrics& metrics, DrainGate* gate, bool ui, std::string keyless,
         std::function<bool()> standby)
      : intake_(intake),
        metrics_(metrics),
        gate_(gate),
        ui_(ui),
        keyless_(std::move(keyless)),
        standby_(std::move(standby)) {}
  // kQuick for a path or a method that does not exist: Answer then says 404 or 405.
  RouteKind KindOf(const HttpQuestion& question) const;
  // kKey for a path that does not exist.
  RouteAccess AccessOf(const HttpQuestion& question) const;
  HttpReply Answer(const HttpQuestion& question) const;
  // Methods and paths of all that there is; a path that ends in '/' takes whatever follows.
  static std::vector<std::pair<absl::string_view, absl::string_view>> Paths();
  // Null unless it is a kGeneration.
  static const ProtocolRow* ProtocolOf(const HttpQuestion& question);

 private:
  struct Row;
  static const std::vector<Row>& Table();
  const Row* Find(const HttpQuestion& question) const;
  bool Exists(const Row& row, absl::string_view path) const;
  bool HasRuntimeAdapters() const;

  HttpReply Health(const HttpQuestion&) const;
  HttpReply Ready(const HttpQuestion&) const;
  HttpReply MetricsText(const HttpQuestion&) const;
  HttpReply Version(const HttpQuestion&) const;
  HttpReply OpenApi(const HttpQuestion&) const;
  HttpReply Load(const HttpQuestion&) const;
  HttpReply Models(const HttpQuestion&) const;
  ModelCard CardOf(const ServedAdapter* adapter) const;  // null: of the model itself
  HttpReply Model(const HttpQuestion& question) const;
  HttpReply Explain(const HttpQuestion& question) const;
  HttpReply Drain(const HttpQuestion& question) const;
  HttpReply DrainProgress(const HttpQuestion&) const;
  HttpReply Resume(const HttpQuestion& question) const;
  HttpReply LoadAdapter(const HttpQuestion& question) const;
  HttpReply UnloadAdapter(const HttpQuestion& question) const;
  HttpReply UiPageText(const HttpQuestion&) const;
  HttpReply UiState(const HttpQuestion&) const;
  HttpReply UiExplain(const HttpQuestion& question) const;
  HttpReply Tokenize(const HttpQuestion& question) const;
  HttpReply Detokenize(const HttpQuestion& question) const;
  HttpReply TokenizerInfo(const HttpQuestion&) const;
  HttpReply CountTokens(const HttpQuestion& question) const;
  // NotFound too for the request of another tenant.
  absl::StatusOr<Explanation> ExplainTo(const Tenant* caller, absl::string_view name) const;
  HttpReply Missing(const HttpQuestion& question) const;

  // One answer serves all who look at the state within this time: the scheduler is not asked more often, however many
  // look.
  static constexpr absl::Duration kStateLasts = absl::Milliseconds(250);

  Intake& intake_;
  const Metrics& metrics_;
  DrainGate* const gate_;  // null: none
  const bool ui_;
  const std::string keyless_;
  const std::function<bool()> standby_;
  mutable absl::Mutex mutex_;
  mutable std::string state_;                              // protected by mutex_
  mutable absl::Time state_until_ = absl::InfinitePast();  // protected by mutex_
};

// OpenAI's error body and the headers that steer a client's retries. `retry_after` is used for 429 and 503; zero: a
// second.
HttpReply ErrorReply(const absl::Status& status, absl::Duration retry_after = absl::ZeroDuration());
// For what HTTP itself refuses (404, 405, 413, ...).
HttpReply ErrorReply(int http, absl::string_view message, absl::string_view code);

}  // namespace interlace
