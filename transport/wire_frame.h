// Frame: what stands in front of every message between two processes, whichever way it travels.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

inline constexpr size_t kMostHeaderBytes = 4096;  // of a message
inline constexpr size_t kMostHelloBytes = 16384;  // of a greeting or welcome

enum class FrameKind : uint16_t { kGreeting = 1, kWelcome = 2, kMessage = 3 };

// A value. All machines of a cluster are little-endian. `token` is what the receiver drew for this connection and told
// the sender in its hello; a greeting, which comes before that, carries 0.
struct Frame {
  uint32_t magic = kMagic;
  FrameKind kind{};
  uint16_t channel = 0;
  uint32_t header_bytes = 0;
  uint32_t reserved = 0;
  uint64_t body_bytes = 0;
  uint64_t sequence = 0;  // of the channel, from 0
  uint64_t token = 0;

  static constexpr uint32_t kMagic = 0x314b4c49;  // "ILK1"
  static Frame Decode(const char* bytes) {
    Frame frame;
    std::memcpy(&frame, bytes, sizeof frame);
    return frame;
  }
  // The frame and the header behind it.
  std::string With(absl::string_view header) {
    header_bytes = static_cast<uint32_t>(header.size());
    std::string bytes(reinterpret_cast<const char*>(this), sizeof *this);
    bytes.append(header.data(), header.size());
    return bytes;
  }
};
static_assert(sizeof(Frame) == 40);

// What both ends say first. Travels over the socket alone, as the header of a greeting or welcome.
struct Hello {
  std::string nonce;   // of the listening process, which the dialling one echoes
  uint64_t token = 0;  // to be put into every frame that is sent to the one who says this
  std::string fabric;  // UCX worker address; empty: reachable by the socket alone

  std::string Encode() const;
  // InvalidArgument if the bytes are not whole.
  static absl::StatusOr<Hello> Decode(absl::string_view bytes);
};

}  // namespace interlace
