// RoutedSink: the router between a replica and the sink of a request.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "coordinator/request.h"
#include "coordinator/router/route_book.h"
#include "kvstore/block_id.h"

namespace interlace {

class Router;

// Passes on what the replica says, tells the router of the first token and of the end, and hands the request back to it
// when the replica cannot go on. Owned by the request and the router together; one thread at a time: that of the
// replica where the request is, or the router's between two of them.
class RoutedSink final : public TokenSink {
 public:
  RoutedSink(Router& router, RequestId id, std::shared_ptr<TokenSink> to)
      : router_(router), id_(id), to_(std::move(to)) {}

  // It is about to be sent there; `ids` are the blocks of its prompt that are not there yet.
  void Begin(const RouteChoice& choice, absl::Span<const BlockId> ids);

  void OnCached(int32_t tokens) override { to_->OnCached(tokens); }
  void OnFidelity(const FidelityReport& so_far) override { to_->OnFidelity(so_far); }
  void OnTokens(absl::Span<const int32_t> tokens) override;
  void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) override;
  void OnPromptScores(const PromptScores& scores) override { to_->OnPromptScores(scores); }
  void OnPooled(absl::Span<const float> mean) override { to_->OnPooled(mean); }
  void OnEnd(const RequestEnd& end) override;
  void OnHandedOver(Request request, const absl::Status& why) override;

 private:
  friend class Router;
  void Count(size_t tokens);

  Router& router_;
  const RequestId id_;
  const std::shared_ptr<TokenSink> to_;
  RouteChoice choice_;
  std::vector<BlockId> coming_;               // that the directory expects there, until the first token
  bool first_ = true;                         // no token has come from this replica
  absl::Time before_ = absl::InfinitePast();  // its last token from the replica before; infinite past: there is none
  int32_t answer_ = 0;                        // tokens from this replica
};

}  // namespace interlace
