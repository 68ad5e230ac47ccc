// LoadClient: how requests reach a server, and what is seen of the answers. One file and one line of the table in
// load_clients.cc for each protocol.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/serve/load_loop.h"
#include "bench/serve/load_record.h"

namespace interlace {

struct LoadClientOptions {
  std::string url;                              // http://HOST:PORT[/BASE]; of gRPC also HOST:PORT
  std::string model;                            // as requests name it; empty: the first that the server lists
  std::string api_key;                          // empty: none is sent
  std::string name;                             // of the run: request ids are NAME-INDEX
  absl::Duration timeout = absl::Seconds(600);  // of one request, from sent to its end
  double temperature = 0;
  bool continuous_usage = false;  // ask for the count of tokens on every delivery
  bool save_texts = false;        // keep all texts; those that a session needs are kept anyway
};

// What a client says of a request that it sent. Called on the loop's thread, never from within Send.
class LoadSink {
 public:
  virtual ~LoadSink() = default;
  virtual void OnFirstToken(const PlannedRequest& request, absl::Duration ttft) = 0;
  // Exactly once for each request; the last word on it.
  virtual void OnEnd(const PlannedRequest& request, RequestRecord record) = 0;
};

// Owned by the command, for one run. Thread: the loop's, unless a method says otherwise.
class LoadClient {
 public:
  virtual ~LoadClient() = default;
  // Finds the server and the model that requests will name. Waits for it: before the loop runs.
  virtual absl::StatusOr<std::string> Prepare() = 0;
  // Sends now, whatever is open already. `request` stays valid until `sink` heard of its end.
  virtual void Send(const PlannedRequest& request, LoadSink& sink) = 0;
  // Gives up what is open: all of it ends as kTimeout with this text. What comes after it is sent as before.
  virtual void HangUp(const std::string& why) = 0;
  // Tokens that have arrived in all answers so far.
  virtual int64_t tokens() const = 0;
};

// A record with what is known before a request is sent.
RequestRecord RecordOf(const PlannedRequest& request, const LoadClientOptions& options);

// InvalidArgument names --protocol or --url and the way out.
absl::StatusOr<std::unique_ptr<LoadClient>> MakeLoadClient(const std::string& protocol,
                                                           const LoadClientOptions& options, AsioLoop& loop);
// Whether the protocol's prompts may be token ids.
bool TakesTokenIds(const std::string& protocol);
std::vector<std::string> LoadProtocols();

// For the table in load_clients.cc.
absl::StatusOr<std::unique_ptr<LoadClient>> MakeChatClient(const LoadClientOptions& options, AsioLoop& loop);
absl::StatusOr<std::unique_ptr<LoadClient>> MakeCompletionsClient(const LoadClientOptions& options, AsioLoop& loop);
absl::StatusOr<std::unique_ptr<LoadClient>> MakeGrpcClient(const LoadClientOptions& options, AsioLoop& loop);

}  // namespace interlace
