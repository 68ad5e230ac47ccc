// A client of the load generator, and requests through it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/serve/load_client.h"
#include "common/check.h"

namespace interlace {

// Sends requests and waits for all of their ends. Thread: the test's.
class ClientRig : public LoadSink {
 public:
  explicit ClientRig(const std::string& protocol, LoadClientOptions options) {
    if (options.model.empty()) options.model = "m";
    if (options.name.empty()) options.name = "t";
    absl::StatusOr<std::unique_ptr<LoadClient>> made = MakeLoadClient(protocol, options, loop);
    CHECK(made.ok());
    client = *std::move(made);
    CHECK(client->Prepare().ok());
  }

  // At once.
  std::vector<RequestRecord> SendAll(const std::vector<PlannedRequest>& requests) {
    records.clear();
    wanted_ = requests.size();
    loop.Post([&] {
      for (const PlannedRequest& request : requests) client->Send(request, *this);
    });
    loop.Run();
    return records;
  }
  // One after another.
  std::vector<RequestRecord> SendInTurn(const std::vector<PlannedRequest>& requests) {
    std::vector<RequestRecord> all;
    for (const PlannedRequest& request : requests) all.push_back(Send(request));
    return all;
  }
  RequestRecord Send(const PlannedRequest& request) { return SendAll({request}).front(); }

  void OnFirstToken(const PlannedRequest&, absl::Duration ttft) override { first_tokens.push_back(ttft); }
  void OnEnd(const PlannedRequest&, RequestRecord record) override {
    records.push_back(std::move(record));
    if (records.size() == wanted_) loop.Stop();
  }

  AsioLoop loop;
  std::unique_ptr<LoadClient> client;
  std::vector<RequestRecord> records;
  std::vector<absl::Duration> first_tokens;

 private:
  size_t wanted_ = 0;
};

inline PlannedRequest Ask(int64_t index = 0, int32_t max_tokens = 4) {
  PlannedRequest request;
  request.index = index;
  request.prompt_ids = {5, 6, 7};
  request.max_tokens = max_tokens;
  return request;
}

}  // namespace interlace
