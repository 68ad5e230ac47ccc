// What a remote tier and a kvstore say to each other in transport messages.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/transport.h"
#include "kvstore/block_id.h"

namespace interlace {

// Blocks of one message: at most this many, and no further one once the body has kKvBatchBytes.
inline constexpr size_t kMostKvBlocks = 120;
inline constexpr size_t kKvBatchBytes = size_t{1} << 20;

enum class KvOp : uint8_t { kPut = 1, kGet = 2, kProbe = 3, kDrop = 4, kRoom = 5 };

// Header of a message on kKvRequestChannel. The body of a put is the blocks, one after another.
struct KvRequest {
  KvOp op = KvOp::kGet;
  uint64_t session = 0;           // as the store gave it
  uint64_t id = 0;                // chosen by the client; never reused within a session
  std::vector<BlockKey> keys;     // 1 .. kMostKvBlocks; kRoom: none
  std::vector<uint32_t> lengths;  // kPut: bytes of each block
  std::vector<int32_t> indices;   // kPut: StoredBlock::index of each block

  std::string Encode() const;
  // InvalidArgument unless the bytes are one whole request and the lengths add up to body_bytes.
  static absl::StatusOr<KvRequest> Decode(absl::string_view header, size_t body_bytes);
};

// One block of an answer.
struct KvAnswer {
  absl::StatusCode code = absl::StatusCode::kOk;  // OK, NotFound, ResourceExhausted, Unavailable
  uint32_t length = 0;                            // bytes in the body; only of gets that are OK
};

// Header of a message on kKvReplyChannel. A get may be answered in several messages, in order. The body is the blocks
// read, one after another. The replies to kDrop and kRoom have no answers.
struct KvReply {
  KvOp op = KvOp::kGet;
  bool session_known = true;  // false: the store has no such session; nothing else but session and id counts
  uint64_t session = 0;
  uint64_t id = 0;
  uint32_t first = 0;  // index of the first answer within the request
  std::vector<KvAnswer> answers;
  int64_t held_blocks = 0;  // of the store, which all clients share
  int64_t held_bytes = 0;
  int64_t capacity_bytes = 0;
  int64_t room_bytes = 0;  // that the client may have on their way to the store from now on; 0: the store takes none

  std::string Encode() const;
  static absl::StatusOr<KvReply> Decode(absl::string_view header, size_t body_bytes);
};

// The blocks of a body whose lengths were checked. A single block keeps the body's memory.
std::vector<SharedBytes> CutBody(std::string body, absl::Span<const uint32_t> lengths);

}  // namespace interlace
