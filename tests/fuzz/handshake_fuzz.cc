// Any bytes as any step of a transport's handshake: refused, since no bytes of a stranger are a proof; what a greeting
// is answered with is no longer than its bound. The first byte says which step; what comes behind it is the step's
// bytes.
#include <cstdint>
#include <string>

#include "common/check.h"
#include "transport/handshake.h"
#include "transport/wire_frame.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  if (size < 1) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const LinkKey key = KeyOfListener("secret", "nonce");
  Handshake listener(key, {.token = 5, .fabric = "fabric"}), dialler(key, {.token = 6});
  switch (data[0] % 3) {
    case 0: {
      const absl::StatusOr<std::string> welcome = listener.TakeGreeting(bytes);
      CHECK(welcome.ok() == (welcome.status().code() != absl::StatusCode::kInvalidArgument));
      if (!welcome.ok()) break;
      CHECK(welcome->size() <= kMostHelloBytes);
      CHECK(listener.session().peer_fabric.empty());
      CHECK(!listener.TakeConfirm(bytes).ok());
      break;
    }
    case 1:
      dialler.Greet();
      CHECK(!dialler.TakeWelcome(bytes).ok());
      break;
    default:
      CHECK(listener.TakeGreeting(dialler.Greet()).ok());
      CHECK(!listener.TakeConfirm(bytes).ok());
  }
  return 0;
}
