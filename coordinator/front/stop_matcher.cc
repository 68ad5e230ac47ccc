#include "coordinator/front/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "common/check.h"

namespace interlace {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    CHECK(!stop.empty());
    longest_ = std::max(longest_, stop.size());
  }
}

bool StopMatcher::Push(absl::string_view piece, std::string* out, bool exempt) {
  held_.append(piece.data(), piece.size());
  if (exempt) exempt_ = held_.size();
  size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop, exempt_ < stop.size() ? 0 : exempt_ - stop.size() + 1);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
      begin = at;
      end = at + stop.size();
    }
  }
  const size_t shown = begin == std::string::npos ? HeldFrom() : begin;
  exempt_ -= std::min(exempt_, shown);
  out->append(held_, 0, shown);
  held_.erase(0, begin == std::string::npos ? shown : held_.size());
  return begin != std::string::npos;
}

// Where the first suffix begins that a stop string begins with.
size_t StopMatcher::HeldFrom() const {
  const absl::string_view held = held_;
  size_t from = held.size() - std::min(held.size(), longest_ == 0 ? 0 : longest_ - 1);
  for (; from < held.size(); ++from) {
    for (const std::string& stop : stops_) {
      if (absl::StartsWith(stop, held.substr(from))) return from;
    }
  }
  return held.size();
}

void StopMatcher::Flush(std::string* out) {
  out->append(held_);
  held_.clear();
}

}  // namespace interlace
