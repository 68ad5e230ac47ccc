// RequestIntake: turns transport messages into calls of the store's tier, and their ends into replies.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "common/gate.h"
#include "common/transport.h"
#include "kvstore/remote/kv_wire.h"
#include "kvstore/remote/store_sessions.h"
#include "kvstore/tier/tier.h"

namespace interlace {

// Owned by the store server; handles on the transport's thread, replies from whichever thread the tier answers on.
// A message that is no whole request is counted and ignored; a request of a session that is not there, or is that of
// another connection, is answered so. The trap: Close before the transport or the tier die.
class RequestIntake {
 public:
  // Clients together may have max_pending_bytes on their way; puts beyond them are refused with ResourceExhausted.
  RequestIntake(Transport& transport, KvTier& tier, StoreSessions& sessions, int64_t max_pending_bytes);
  void Handle(Message message);
  // What one client may have on its way now; 0 while the tier takes nothing.
  int64_t RoomBytes() const;
  // Refuses new requests and waits for those under way.
  void Close() { gate_.Close(); }
  int64_t malformed() const { return malformed_.load(); }

 private:
  struct Asked;  // who asked for what
  void Put(std::shared_ptr<Asked> asked, std::string body);
  void Get(std::shared_ptr<Asked> asked);
  void Probe(std::shared_ptr<Asked> asked);
  KvReply ReplyTo(const Asked& asked) const;
  void ReplyAll(const Asked& asked, const std::vector<absl::Status>& statuses);
  void ReplyBlocks(const Asked& asked, const std::vector<absl::StatusOr<SharedBytes>>& answers);
  void Send(const Asked& asked, const KvReply& reply, std::vector<SharedBytes> parts);

  Transport& transport_;
  KvTier& tier_;
  StoreSessions& sessions_;
  const int64_t max_pending_bytes_;
  std::atomic<int64_t> pending_bytes_{0};
  std::atomic<int64_t> malformed_{0};
  Gate gate_;
};

}  // namespace interlace
