// RequestIntake: turns transport messages into reads and writes of LeasedBlocks, and their ends into replies.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "common/gate.h"
#include "common/transport.h"
#include "kvstore/remote/kv_wire.h"
#include "kvstore/remote/leased_blocks.h"

namespace interlace {

// Owned by the store server; handles on the transport's thread, replies from whichever thread a tier answers on.
// A message that is no whole request is counted and ignored; a request of a lease that is not there is answered so.
// The trap: Close before the transport or the blocks die.
class RequestIntake {
 public:
  // Writes beyond max_pending_bytes that the tiers have not taken yet are refused with ResourceExhausted.
  RequestIntake(Transport& transport, LeasedBlocks& blocks, int64_t max_pending_bytes);
  void Handle(Message message);
  // Refuses new requests and waits for those under way.
  void Close() { gate_.Close(); }
  int64_t malformed() const { return malformed_.load(); }

 private:
  struct Asked;  // who asked for what
  void Write(std::shared_ptr<Asked> asked, std::string body);
  void Read(std::shared_ptr<Asked> asked);
  void Drop(std::shared_ptr<Asked> asked);
  KvReply ReplyTo(const Asked& asked) const;
  void ReplyAll(const Asked& asked, const std::vector<absl::Status>& statuses);
  void ReplyBlocks(const Asked& asked, const std::vector<absl::StatusOr<SharedBytes>>& answers);
  void Send(const Asked& asked, const KvReply& reply, std::vector<SharedBytes> parts);

  Transport& transport_;
  LeasedBlocks& blocks_;
  const int64_t max_pending_bytes_;
  std::atomic<int64_t> pending_bytes_{0};
  std::atomic<int64_t> malformed_{0};
  Gate gate_;
};

}  // namespace interlace
