#include "coordinator/router/routed_sink.h"

#include "coordinator/router/router.h"

namespace interlace {

void RoutedSink::Begin(const RouteChoice& choice, absl::Span<const BlockId> ids) {
  choice_ = choice;
  coming_.assign(ids.begin(), ids.end());
  first_ = true;
  answer_ = 0;
}

void RoutedSink::Count(size_t tokens) {
  answer_ += static_cast<int32_t>(tokens);
  if (first_) router_.OnFirstToken(*this);
}

void RoutedSink::OnTokens(absl::Span<const int32_t> tokens) {
  Count(tokens.size());
  to_->OnTokens(tokens);
}

void RoutedSink::OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) {
  Count(1);
  to_->OnScoredToken(token, scores);
}

void RoutedSink::OnEnd(const RequestEnd& end) {
  const std::shared_ptr<TokenSink> to = to_;  // the router may hold the last reference to this
  router_.OnEnd(*this);
  to->OnEnd(end);
}

void RoutedSink::OnHandedOver(Request request, const absl::Status& why) {
  router_.TakeBack(*this, std::move(request), why);
}

}  // namespace interlace
