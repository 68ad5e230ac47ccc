// TcpLink: one connection as a stream of frames, in both directions.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/transport.h"
#include "transport/tcp_socket.h"
#include "transport/wire_frame.h"

namespace interlace {

// One frame as it came.
struct InboundFrame {
  Frame frame;
  std::string header;
  std::string body;
};

// A send that ended, with what its sender is to be told.
struct FinishedSend {
  Transport::SendDone done;
  absl::Status status;
};

// Owned by the transport, used on its thread alone. Whatever bytes come, a link either yields frames within the bounds
// given or an error; it asks for memory only within these bounds.
class TcpLink {
 public:
  struct Bounds {
    size_t header_bytes;
    uint64_t body_bytes;
  };
  explicit TcpLink(FileDescriptor socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }
  bool AnswersNothing(absl::Duration silence) const { return interlace::AnswersNothing(socket_, silence); }
  // `head` is a frame with its header. Nothing is written before Write.
  void Push(std::string head, SharedBytes body, Transport::SendDone done);
  bool has_unsent() const { return !unsent_.empty(); }
  // Writes what the system takes; appends the sends that ended.
  absl::Status Write(std::vector<FinishedSend>* finished);
  // Reads a bounded piece of what has come; appends the frames that are whole. Unavailable: the peer ended.
  // Stops behind a frame of the handshake, since other bounds may hold afterwards; then `paused` says to read on.
  absl::Status Read(const Bounds& bounds, std::vector<InboundFrame>* frames);
  bool paused() const { return paused_; }
  // The sends that were not written whole; the link is of no use afterwards.
  std::vector<Transport::SendDone> TakeUnsent();

 private:
  struct Unsent {
    std::string head;
    SharedBytes body;  // may be null
    Transport::SendDone done;
    size_t bytes() const { return head.size() + (body == nullptr ? 0 : body->size()); }
  };
  std::vector<iovec> Pieces() const;
  absl::Status Parse(const Bounds& bounds, std::vector<InboundFrame>* frames);

  FileDescriptor socket_;
  std::deque<Unsent> unsent_;
  size_t written_ = 0;  // bytes of the first unsent message
  static constexpr size_t kBufferBytes = 64 << 10;
  static_assert(kBufferBytes > sizeof(Frame) + kMostHelloBytes && kMostHelloBytes >= kMostHeaderBytes);
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes);  // [parsed_, filled_) is read and not parsed yet
  size_t parsed_ = 0;
  size_t filled_ = 0;
  bool paused_ = false;
  bool in_body_ = false;
  InboundFrame current_;  // whose body is being read
  size_t body_read_ = 0;
};

}  // namespace interlace
