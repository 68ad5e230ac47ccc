// HttpFront: the OpenAI HTTP door.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "coordinator/front/drain_gate.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/tenants.h"
#include "coordinator/front/tls_files.h"

namespace interlace {

// All connections share one thread; others parse and tokenise. Owned by main; the constructor's thread. The
// trap: the intake and its engine must outlive it.
class HttpFront {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;                                          // 0: any free one
    bool ui = true;                                        // whether /ui is there
    std::string cors = "auto";                             // see CorsPolicy
    std::string keyless = "metrics";                       // what needs no key besides what never does, see Routes
    std::function<bool()> standby = [] { return false; };  // whether another coordinator leads, or none
    Tenants* tenants = nullptr;                            // whose keys count; null: none is needed. Outlives the front
    DrainGate* gate = nullptr;  // what /debug/drain closes; null: there is no such path. Outlives the front
    TlsFiles tls;
    int64_t max_body = int64_t{16} << 20;
    size_t all_bodies = size_t{256} << 20;  // bytes of the bodies that all connections hold together; more are 503
    size_t max_connections = 16384;         // more are told 503, and still more wait in the system's queue
    absl::Duration handshake_timeout = absl::Seconds(10);  // of TLS
    absl::Duration header_timeout = absl::Seconds(15);     // first byte of a request to the end of its headers
    absl::Duration body_timeout = absl::Seconds(120);      // the body
    absl::Duration idle_timeout = absl::Seconds(75);       // between requests
    absl::Duration write_timeout = absl::Seconds(30);      // one write that makes no headway
    // A stream without a token begins after that long, so that proxies see it live; until then a failure is a real
    // status.
    absl::Duration first_write = absl::Seconds(2);
    absl::Duration ping_interval = absl::Seconds(15);  // between comments in a stream that has nothing else to say
  };
  // Listens at once. FailedPrecondition says which address cannot be had and how to choose another.
  static absl::StatusOr<std::unique_ptr<HttpFront>> Listen(const Options& options, Intake& intake,
                                                           const Metrics& metrics);
  ~HttpFront();  // Stop without patience
  int port() const;
  // Reads the files of TLS again: connections from now on get the new ones. If they cannot be used, the status says why
  // and the old ones stay.
  absl::Status ReloadTls();
  // Accepts no more and closes idle connections; returns when open answers are finished. After `patience` those that
  // are not end with an error, in a stream with an error event; who does not read it within two seconds is cut.
  // Idempotent.
  void Stop(absl::Duration patience);

 private:
  class Door;
  explicit HttpFront(std::unique_ptr<Door> door);
  std::unique_ptr<Door> door_;
};

}  // namespace interlace
