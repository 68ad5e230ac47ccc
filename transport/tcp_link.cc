#include "transport/tcp_link.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kMostPieces = 64;                    // of one write
constexpr size_t kMostBytesAtOnce = size_t{1} << 20;  // of one Read or Write, so that no peer keeps the thread

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

void TcpLink::Push(std::string head, SharedBytes body, Transport::SendDone done) {
  unsent_.push_back({std::move(head), std::move(body), std::move(done)});
}

std::vector<iovec> TcpLink::Pieces() const {
  std::vector<iovec> pieces;
  size_t skip = written_;
  for (const Unsent& message : unsent_) {
    if (pieces.size() + 2 > kMostPieces) break;
    for (const std::string* part : {&message.head, message.body.get()}) {
      if (part == nullptr || part->empty()) continue;
      const size_t skipped = std::min(skip, part->size());
      skip -= skipped;
      if (skipped < part->size()) pieces.push_back({const_cast<char*>(part->data()) + skipped, part->size() - skipped});
    }
  }
  return pieces;
}

absl::Status TcpLink::Write(std::vector<FinishedSend>* finished) {
  size_t budget = kMostBytesAtOnce;
  while (!unsent_.empty() && budget > 0) {
    std::vector<iovec> pieces = Pieces();
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && WouldBlock(errno)) return absl::OkStatus();
    if (sent < 0) return absl::UnavailableError(std::strerror(errno));
    budget -= std::min(budget, static_cast<size_t>(sent));
    written_ += static_cast<size_t>(sent);
    while (!unsent_.empty() && written_ >= unsent_.front().bytes()) {
      written_ -= unsent_.front().bytes();
      finished->push_back({std::move(unsent_.front().done), absl::OkStatus()});
      unsent_.pop_front();
    }
  }
  return absl::OkStatus();
}

absl::Status TcpLink::Read(const Bounds& bounds, std::vector<InboundFrame>* frames) {
  if (std::exchange(paused_, false)) RETURN_IF_ERROR(Parse(bounds, frames));
  for (size_t budget = kMostBytesAtOnce; budget > 0 && !paused_;) {
    // Of a large body the rest is read to where it belongs; everything else goes through the buffer.
    const size_t missing = in_body_ ? current_.body.size() - body_read_ : 0;
    const bool direct = missing >= kBufferBytes;
    if (!direct) {
      std::memmove(buffer_.data(), buffer_.data() + parsed_, filled_ - parsed_);
      filled_ -= std::exchange(parsed_, 0);
    }
    char* const to = direct ? current_.body.data() + body_read_ : buffer_.data() + filled_;
    const size_t room = direct ? missing : kBufferBytes - filled_;
    const ssize_t got = recv(socket_.get(), to, room, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && WouldBlock(errno)) return absl::OkStatus();
    if (got < 0) return absl::UnavailableError(std::strerror(errno));
    if (got == 0) return absl::UnavailableError("the peer closed the connection");
    (direct ? body_read_ : filled_) += static_cast<size_t>(got);
    RETURN_IF_ERROR(Parse(bounds, frames));
    if (static_cast<size_t>(got) < room) return absl::OkStatus();  // there was no more
    budget -= std::min(budget, room);
  }
  return absl::OkStatus();
}

// Leaves less than a frame and its header in the buffer, which has room for more than that.
absl::Status TcpLink::Parse(const Bounds& bounds, std::vector<InboundFrame>* frames) {
  while (true) {
    const size_t unparsed = filled_ - parsed_;
    if (!in_body_) {
      if (unparsed < sizeof(Frame)) return absl::OkStatus();
      const Frame frame = Frame::Decode(buffer_.data() + parsed_);
      if (frame.magic != Frame::kMagic) return absl::InvalidArgumentError("bytes that are no frame");
      if (frame.header_bytes > bounds.header_bytes || frame.body_bytes > bounds.body_bytes) {
        return absl::InvalidArgumentError(absl::StrCat("message of ", frame.body_bytes, " bytes is too large"));
      }
      if (unparsed < sizeof(Frame) + frame.header_bytes) return absl::OkStatus();
      current_ = {frame, std::string(buffer_.data() + parsed_ + sizeof(Frame), frame.header_bytes),
                  std::string(frame.body_bytes, '\0')};
      parsed_ += sizeof(Frame) + frame.header_bytes;
      body_read_ = 0;
      in_body_ = true;
    }
    const size_t some = std::min(current_.body.size() - body_read_, filled_ - parsed_);
    std::memcpy(current_.body.data() + body_read_, buffer_.data() + parsed_, some);
    body_read_ += some;
    parsed_ += some;
    if (body_read_ < current_.body.size()) return absl::OkStatus();
    in_body_ = false;
    paused_ = current_.frame.kind != FrameKind::kMessage;
    frames->push_back(std::move(current_));
    if (paused_) return absl::OkStatus();
  }
}

std::vector<Transport::SendDone> TcpLink::TakeUnsent() {
  std::vector<Transport::SendDone> taken;
  for (Unsent& message : unsent_) taken.push_back(std::move(message.done));
  unsent_.clear();
  return taken;
}

}  // namespace interlace
