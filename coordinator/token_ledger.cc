#include "coordinator/token_ledger.h"

namespace interlace {

void TokenLedger::Open(RequestId request) { entries_[request]; }

uint32_t TokenLedger::NextAttempt(RequestId request) { return ++entries_.at(request).attempt; }

bool TokenLedger::Accept(RequestId request, uint32_t attempt, int32_t index, int32_t token) {
  auto it = entries_.find(request);
  if (it == entries_.end() || it->second.attempt != attempt ||
      index != static_cast<int32_t>(it->second.tokens.size())) {
    ++stale_;
    return false;
  }
  it->second.tokens.push_back(token);
  return true;
}

}  // namespace interlace
