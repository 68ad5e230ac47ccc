#include "coordinator/doors/text_stream.h"

#include <algorithm>
#include <utility>

namespace interlace {

bool TextStream::Release(bool all, std::string* text) {
  size_t stop_at = std::string::npos;
  for (const std::string& stop : stop_) stop_at = std::min(stop_at, held_.find(stop));
  if (stop_at != std::string::npos) {
    *text = held_.substr(0, stop_at);
    held_.clear();
    return true;
  }
  size_t keep = 0;  // bytes at the end that may begin a stop string
  for (const std::string& stop : stop_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
    }
  }
  if (all) keep = 0;
  *text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void TextStream::OnTokens(absl::Span<const int32_t> tokens) {
  if (ended_) return;
  TextEvent event;
  event.tokens.assign(tokens.begin(), tokens.end());
  completion_tokens_ += static_cast<int32_t>(tokens.size());
  for (int32_t token : tokens) held_ += detokenizer_.Push(token);
  if (Release(/*all=*/false, &event.text)) {
    ended_ = true;
    event.cancel = true;
    event.end = RequestEnd{.status = absl::OkStatus(), .reason = FinishReason::kStop};
    event.end->completion_tokens = completion_tokens_;
  }
  listener_(std::move(event));
}

void TextStream::OnEnd(const RequestEnd& end) {
  if (ended_) return;
  ended_ = true;
  TextEvent event;
  held_ += detokenizer_.Flush();
  event.end = end;
  if (Release(/*all=*/true, &event.text)) event.end->reason = FinishReason::kStop;
  listener_(std::move(event));
}

}  // namespace interlace
