// What is said to an OpenAI-compatible server, and how its stream is read into a record. Without a socket.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "bench/serve/load_client.h"
#include "bench/serve/load_record.h"
#include "bench/serve/sse.h"

namespace interlace {

// The body of a chat completion or a completion.
std::string OpenAiBody(const PlannedRequest& request, bool chat, const LoadClientOptions& options);
// Targets, tenant and name of the request as headers; who does not know them ignores them.
std::vector<std::pair<std::string, std::string>> TargetHeaders(const PlannedRequest& request);
// The text of an answer that is no stream, such as {"error": {"message": ...}}, for people.
std::string ErrorText(absl::string_view body);

// Fills the times, tokens and outcome of one record. Owned by the exchange; thread: one. Tokens of a delivery: what the
// server's running count grew by where it gives one, else one. Finish spreads what the final count has more or less.
class OpenAiStream {
 public:
  OpenAiStream(bool chat, bool keep_text, int32_t cancel_after_tokens, RequestRecord* record)
      : chat_(chat), keep_text_(keep_text), cancel_after_tokens_(cancel_after_tokens), record_(record) {}
  // Bytes of the event stream, arrived at `now`. Nothing may be fed once ended().
  void Feed(absl::string_view bytes, absl::Duration now);
  // No more bytes come: the body is complete, or the connection is gone and `how` says so.
  void End(absl::Duration now, absl::string_view how);
  // The outcome is known; the rest of the connection does not matter.
  bool ended() const { return ended_; }

 private:
  void OnData(absl::string_view data, absl::Duration now);
  void Close(LoadOutcome outcome, std::string error, absl::Duration now);

  const bool chat_, keep_text_;
  const int32_t cancel_after_tokens_;
  RequestRecord* const record_;
  SseParser parser_;
  int32_t counted_ = 0;  // tokens of the deliveries so far
  int32_t usage_ = -1;   // completion tokens by the server's last count
  bool ended_ = false;
};

// Makes chunk_tokens sum to completion_tokens, in proportion, early deliveries and late ones alike.
void SpreadTokens(RequestRecord* record);

}  // namespace interlace
