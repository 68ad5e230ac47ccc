// InboundOrder: puts the messages of one peer and channel back into the order in which they were sent.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "common/transport.h"

namespace interlace {

// Large bodies arrive by rendezvous and may be finished after smaller ones that were sent later.
// Thread: the transport's. The trap: a sequence number that never comes holds back all later messages, so a sender
// whose message failed must give up the whole connection.
class InboundOrder {
 public:
  // Appends to `ready` what may be delivered now. False iff the number was seen before or lies absurdly far ahead.
  bool Arrive(uint64_t sequence, Message message, std::vector<Message>* ready) {
    if (sequence < next_ || sequence - next_ >= kWindow) return false;
    if (sequence != next_) return held_.emplace(sequence, std::move(message)).second;
    ready->push_back(std::move(message));
    ++next_;
    for (auto it = held_.begin(); it != held_.end() && it->first == next_; it = held_.erase(it), ++next_) {
      ready->push_back(std::move(it->second));
    }
    return true;
  }
  uint64_t next() const { return next_; }
  size_t held() const { return held_.size(); }

 private:
  static constexpr uint64_t kWindow = uint64_t{1} << 20;
  uint64_t next_ = 0;
  std::map<uint64_t, Message> held_;
};

}  // namespace interlace
