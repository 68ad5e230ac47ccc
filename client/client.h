// The C++ client of Interlace.
//
//   auto client = interlace::Client::Connect("127.0.0.1:50051");
//   absl::Status status = client->Chat({{"user", "Why is the sky blue?"}}, {.max_tokens = 64},
//                                      [](absl::string_view text) { std::cout << text << std::flush; return true; });
//
// A call that breaks off is tried again, at the next address if there are several, and goes on behind what has come:
// the text is that of a call that was not disturbed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

struct ClientMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

struct ClientOptions {
  std::optional<float> temperature;  // unset: the server's default (1); 0 is greedy
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<uint64_t> seed;
  std::optional<int32_t> max_tokens;
  std::vector<std::string> stop;
  std::optional<float> min_p, typical_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::map<int32_t, float> logit_bias;  // by token id
  std::vector<std::string> bad_words;   // never made
  std::optional<int32_t> min_tokens;
  std::optional<int32_t> logprobs;               // unset: none; N: of each token and of the N most likely in its place
  absl::Duration deadline = absl::Seconds(600);  // travels with the request as its deadline
  // Targets of this request; unset: the server's defaults. All are soft.
  std::optional<absl::Duration> ttft;               // to the first token
  std::optional<absl::Duration> tpot, largest_gap;  // mean and largest gap between tokens
  std::optional<int32_t> priority;                  // lower is earlier
  std::optional<std::string> tenant;                // who shares fairly with whom
  std::string request_id;                           // empty: the server draws one
  // After the first try: while a server is away or full, before the deadline. 0: none. If there may be some and the
  // answer is drawn by chance, the client chooses the seed that is not set.
  int retries = 8;
  absl::Duration first_wait = absl::Milliseconds(100);  // before the first of them; it doubles
};

struct ClientLogprob {
  int32_t token = 0;
  float logprob = 0;
  std::string text;  // bytes; need not be UTF-8
};

struct ClientToken {
  ClientLogprob chosen;
  std::vector<ClientLogprob> top;  // the most likely first
};

struct ClientResult {
  std::string request_id;
  std::string finish_reason;  // stop, length
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;          // of the prompt tokens; their KV was there already
  std::vector<ClientToken> logprobs;  // of each token, if asked for
  absl::Duration first_token;         // as the server measured them, of the last try
  absl::Duration total;
  int tries = 1;
};

// What a server that does not take anybody asks for.
struct ClientAccess {
  std::string api_key;            // empty: none
  bool tls = false;               // to a server that has a certificate
  std::string root_certificates;  // PEM, of authorities that may have signed it; empty: the machine's
  std::string certificate, key;   // PEM, of this client, where the server wants that; empty: none
};

struct ClientModel {
  std::string id;
  int32_t context = 0;
  int32_t vocab = 0;
  int32_t layers = 0;
};

struct LayerReport {
  int32_t layer = 0;
  int32_t stage = 0;
  std::string mode;  // keep, stream
  int32_t blocks_device = 0;
  int32_t blocks_host = 0;
  int64_t bytes_in = 0, bytes_out = 0, stall_us = 0;
  // Where the blocks of its latest attempt came from: device, host and tiers as it found them, or computed.
  int32_t found_device = 0, found_host = 0, found_below = 0, computed = 0;
};

// Why it waited, started, gave way, came back, or was computed again.
struct DecisionReport {
  std::string kind, text;
  absl::Duration at, until;  // since its arrival: the first time, and the last of several in a row
  int32_t times = 1;
};

// What its time went by; the parts add up to the time since its arrival.
struct TimeReport {
  absl::Duration queued, fetching, prefill, decode, parked, sat_out;
};

struct TargetReport {
  std::optional<absl::Duration> asked;
  std::optional<absl::Duration> reached;  // by now, or in the end
  std::optional<bool> met;                // unset: not asked for, not over, or the client left before it was settled
};

struct RequestReport {
  std::string request_id, state, status;
  int32_t prompt_tokens = 0, completion_tokens = 0, keep_layers = 0, layers = 0, steps = 0;
  int32_t recomputes = 0, recomputed_tokens = 0, preemptions = 0;
  absl::Duration queue, first_token, total;
  TargetReport ttft, tpot, largest_gap, deadline;
  int32_t priority = 0;
  std::string tenant, objective;  // an objective comes from a router's header and has no effect
  std::vector<LayerReport> by_layer;
  std::vector<DecisionReport> decisions;
  int32_t decisions_left_out = 0;  // between the first ones and the last
  TimeReport spent;
  int64_t step_reads = 0;    // bytes of the host that a step with it reads for it
  int64_t step_budget = -1;  // that a step could read for all streams; -1: not limited
};

// A connection to a coordinator. Any thread; calls may run side by side. The trap: the callbacks run on the calling
// thread, between reads: a slow one slows only its own stream, until the server closes it with ResourceExhausted.
class Client {
 public:
  // `addresses` of gRPC doors: host:port, or several with commas between them, of which the one that served last is
  // asked first. Connects lazily; a coordinator that is away shows in the first call.
  static std::unique_ptr<Client> Connect(const std::string& addresses, const ClientAccess& access = {});
  ~Client();

  // Text as it comes; `on_text` returns false to cancel (the call then answers Cancelled).
  using OnText = absl::FunctionRef<bool(absl::string_view)>;
  // DataLoss: another try went another way, since that server computes otherwise; what has come is good.
  absl::StatusOr<ClientResult> Generate(absl::string_view prompt, const ClientOptions& options, OnText on_text);
  absl::StatusOr<ClientResult> Chat(const std::vector<ClientMessage>& messages, const ClientOptions& options,
                                    OnText on_text);
  absl::StatusOr<ClientModel> Model();
  absl::StatusOr<RequestReport> Explain(absl::string_view request_id);

 private:
  struct Stub;
  explicit Client(std::unique_ptr<Stub> stub);
  std::unique_ptr<Stub> stub_;
};

}  // namespace interlace
