// FrameMac: what shows that a frame was made by a process that knows the connection's key, and by nobody on the way.
#pragma once

#include <memory>

#include "absl/strings/string_view.h"
#include "transport/handshake.h"
#include "transport/wire_frame.h"

struct evp_cipher_ctx_st;

namespace interlace {

// One direction of one connection: AES-256-GMAC under a key of its own, over the frame, its header and, if it is given,
// its body. The nonce is made of kind, channel and sequence, which no two frames of a direction share, so a frame that
// comes twice, late or on another channel is not mistaken for the next one. Owned by the connection; one thread.
class FrameMac {
 public:
  explicit FrameMac(const LinkKey& key);
  ~FrameMac();
  // The tag of the frame, whatever its own says.
  FrameTag TagOf(Frame frame, absl::string_view header, absl::string_view body);
  // Whether the frame's tag is right; takes as long wherever it is wrong.
  bool Holds(const Frame& frame, absl::string_view header, absl::string_view body);

 private:
  struct Freed {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  const std::unique_ptr<evp_cipher_ctx_st, Freed> context_;
};

}  // namespace interlace
