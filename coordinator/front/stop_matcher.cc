#include "coordinator/front/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace interlace {

StopMatcher::Stop::Stop(std::string t) : text(std::move(t)), border(text.size(), 0) {
  CHECK(!text.empty());
  for (size_t i = 1; i < text.size(); ++i) {
    size_t length = border[i - 1];
    while (length > 0 && text[length] != text[i]) length = border[length - 1];
    border[i] = static_cast<uint32_t>(text[length] == text[i] ? length + 1 : 0);
  }
}

void StopMatcher::Stop::Take(char c) {
  if (complete()) matched = border.back();
  while (matched > 0 && text[matched] != c) matched = border[matched - 1];
  if (text[matched] == c) ++matched;
}

StopMatcher::StopMatcher(const std::vector<std::string>& stops, bool include)
    : stops_(stops.begin(), stops.end()), include_(include) {}

bool StopMatcher::Push(absl::string_view piece, std::string* out, bool exempt) {
  for (char c : piece) {
    held_.push_back(c);
    size_t longest = 0;
    for (Stop& stop : stops_) {
      stop.Take(c);
      if (stop.complete() && !exempt) longest = std::max(longest, stop.text.size());
    }
    if (longest == 0) continue;
    met_ = held_.substr(held_.size() - longest);
    out->append(held_, 0, held_.size() - (include_ ? 0 : longest));
    held_.clear();
    return true;
  }
  size_t open = 0;  // bytes at the end that a stop string begins with
  for (const Stop& stop : stops_) open = std::max(open, stop.complete() ? size_t{stop.border.back()} : stop.matched);
  out->append(held_, 0, held_.size() - open);
  held_.erase(0, held_.size() - open);
  return false;
}

void StopMatcher::Flush(std::string* out) {
  out->append(held_);
  held_.clear();
}

}  // namespace interlace
