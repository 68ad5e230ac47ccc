// Frame: what stands in front of every message between two processes, whichever way it travels.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

inline constexpr size_t kMostHeaderBytes = 4096;  // of a message
inline constexpr size_t kMostHelloBytes = 16384;  // of what is said before messages

// The first four are the handshake (handshake.h), in this order; each is the header of a frame without a body.
enum class FrameKind : uint16_t { kGreeting = 1, kWelcome = 2, kConfirm = 3, kReady = 4, kMessage = 5 };

using FrameTag = std::array<unsigned char, 16>;

// A value. All machines of a cluster are little-endian. `token` is what the receiver drew for this connection and told
// the sender in the handshake; before a connection is open it is 0. `tag` says that a process that knows the key of the
// connection made the frame (frame_mac.h); that of a handshake's frame, which has proofs of its own, is 0.
struct Frame {
  uint32_t magic = kMagic;
  FrameKind kind{};
  uint16_t channel = 0;
  uint32_t header_bytes = 0;
  uint32_t reserved = 0;
  uint64_t body_bytes = 0;
  uint64_t sequence = 0;  // of the channel, from 0
  uint64_t token = 0;
  FrameTag tag{};

  static constexpr uint32_t kMagic = 0x324b4c49;  // "ILK2"
  static Frame Decode(const char* bytes) {
    Frame frame;
    std::memcpy(&frame, bytes, sizeof frame);
    return frame;
  }
  // The frame and the header behind it, whose length header_bytes must be.
  std::string With(absl::string_view header) const {
    std::string bytes(reinterpret_cast<const char*>(this), sizeof *this);
    bytes.append(header.data(), header.size());
    return bytes;
  }
};
static_assert(sizeof(Frame) == 56);

// A frame of the handshake.
inline std::string HandshakeFrame(FrameKind kind, absl::string_view header) {
  return Frame{.kind = kind, .header_bytes = static_cast<uint32_t>(header.size())}.With(header);
}

}  // namespace interlace
