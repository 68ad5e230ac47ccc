// Which of many replicas a request goes to, by rules that are simple enough to state. Pure.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// kRoundRobin   one after the other.
// kLeastLoaded  the replica with the fewest prompt tokens that wait for their first token.
// kPrefix       the replica where the first token is nearest: the fewest of such tokens together with those of the
//               request's own prompt that it was never sent. Finding a prefix is worth as many tokens of queue.
// Where replicas are equal, the one with fewer open requests is taken, then the one that was chosen longest ago.
enum class RouteRule : uint8_t { kRoundRobin, kLeastLoaded, kPrefix };
absl::string_view RouteRuleName(RouteRule rule);
// "round-robin", "least-loaded", "prefix". InvalidArgument lists them.
absl::StatusOr<RouteRule> ParseRouteRule(absl::string_view text);

// Knows what it sent where, and what came back: not what replicas evicted since. Owned by the run; thread: its own.
class ScaleRouter {
 public:
  // One hash id stands for `block_tokens` tokens of a prompt.
  ScaleRouter(RouteRule rule, int32_t replicas, int32_t block_tokens)
      : rule_(rule), block_tokens_(block_tokens), load_(static_cast<size_t>(replicas)) {}

  // The replica for a prompt of `tokens` whose blocks have these ids; it counts as sent there. `fresh` is set to the
  // tokens of the prompt that the replica was not sent before, as the router has it.
  int32_t Choose(absl::Span<const int64_t> blocks, int32_t tokens, int32_t* fresh);
  // The first token of a prompt with `fresh` such tokens came from the replica; the request ended.
  void OnFirstToken(int32_t replica, int32_t fresh) { load_[static_cast<size_t>(replica)].queued -= fresh; }
  void OnEnd(int32_t replica) { --load_[static_cast<size_t>(replica)].open; }

 private:
  struct Load {
    int64_t queued = 0;  // fresh prompt tokens of requests without a first token
    int32_t open = 0;
    int64_t chosen = 0;  // the turn in which it was chosen last
  };
  // Tokens of the prompt's beginning that each replica was sent before, in matched_.
  void Match(absl::Span<const int64_t> blocks, int32_t tokens);

  const RouteRule rule_;
  const int32_t block_tokens_;
  std::vector<Load> load_;
  std::vector<int32_t> matched_;                                // by replica; of the request being routed
  absl::flat_hash_map<int64_t, std::vector<int32_t>> holders_;  // by hash id: who was sent it
  int64_t turn_ = 0;
};

}  // namespace interlace
