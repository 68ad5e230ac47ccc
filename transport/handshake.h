// Handshake: how two processes show each other that they know the key of a connection, before either takes anything.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

using LinkKey = std::array<unsigned char, 32>;

// The key of all connections to the process whose address holds `nonce`. Neither travels over them: `secret` is the
// cluster's (empty: it has none), and the nonce comes with the address, by gRPC.
LinkKey KeyOfListener(absl::string_view secret, absl::string_view nonce);

// What the ends know once they know each other.
struct LinkSession {
  LinkKey send{}, receive{};  // of frame_mac.h; drawn for this connection alone
  uint64_t peer_token = 0;    // to be put into every frame that is sent
  std::string peer_fabric;    // UCX worker address; empty: reachable by the socket alone
  bool bulk = false;          // bodies of bulk channels are authenticated too
};

// One connection's, at one end. A value, without a socket or chance of its own.
//
//   dialler                                             listener
//     greeting: random, token, bulk          ─────────►
//            ◄───────── welcome: random, token, bulk, fabric, proof over greeting and welcome
//     confirm: fabric, proof over all three  ─────────►
//            ◄───────── ready
//
// A proof is BLAKE2b-256, keyed by the listener's key, over everything that was said so far, each part with its length,
// and the name of who proves. Since both ends put 32 random bytes into it, what was recorded is of no use on another
// connection, and neither end's proof can be sent back as the other's. The session's keys are hashes over all of it.
// Errors: InvalidArgument for bytes that are no such message, PermissionDenied for a proof under another key.
class Handshake {
 public:
  static constexpr size_t kRandomBytes = 32;
  static constexpr size_t kProofBytes = 32;
  struct Self {
    uint64_t token = 0;  // to be put into every frame that is sent to us
    std::string fabric;
    bool bulk = false;
    std::array<uint64_t, kRandomBytes / sizeof(uint64_t)> random{};  // nobody else can guess them
  };

  Handshake(const LinkKey& key, Self self) : key_(key), self_(std::move(self)) {}

  // The dialling end: the greeting; then the confirm that answers a welcome, and the session.
  std::string Greet();
  absl::StatusOr<std::string> TakeWelcome(absl::string_view welcome);
  // The listening end: the welcome that answers a greeting; then the session.
  absl::StatusOr<std::string> TakeGreeting(absl::string_view greeting);
  absl::Status TakeConfirm(absl::string_view confirm);

  // Once TakeWelcome or TakeConfirm has succeeded.
  const LinkSession& session() const { return session_; }

 private:
  struct Hello;
  std::string EncodeSelf() const;
  void TakeHello(const Hello& hello);
  std::string Prove(absl::string_view who, absl::string_view last) const;
  absl::Status Check(absl::string_view who, absl::string_view last, absl::string_view proof) const;
  void Say(absl::string_view part);
  void DeriveKeys(bool dialled);

  LinkKey key_;
  Self self_;
  std::string said_;  // by both, each part behind its length
  LinkSession session_;
};

}  // namespace interlace
