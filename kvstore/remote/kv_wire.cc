#include "kvstore/remote/kv_wire.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kvstore/byte_order.h"

namespace interlace {
namespace {

constexpr uint16_t kRequestMagic = 0x514b;
constexpr uint16_t kReplyMagic = 0x524b;
constexpr uint8_t kVersion = 2;

class HeaderWriter {
 public:
  template <typename T>
  void Put(T value) {
    char bytes[sizeof(T)];
    StoreLittle(value, bytes);
    text_.append(bytes, sizeof bytes);
  }
  void PutKey(const BlockKey& key) { text_ += EncodeKey(key); }
  std::string Take() { return std::move(text_); }

 private:
  std::string text_;
};

// Reads beyond the end answer zero and make ok() false.
class HeaderReader {
 public:
  explicit HeaderReader(absl::string_view text) : text_(text) {}
  template <typename T>
  T Get() {
    const absl::string_view bytes = Take(sizeof(T));
    return bytes.size() == sizeof(T) ? LoadLittle<T>(bytes.data()) : T{0};
  }
  BlockKey GetKey() {
    BlockKey key;
    ok_ &= DecodeKey(Take(kEncodedKeyBytes), &key);
    return key;
  }
  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && text_.empty(); }

 private:
  absl::string_view Take(size_t bytes) {
    if (bytes > text_.size()) {
      ok_ = false;
      text_ = {};
      return {};
    }
    const absl::string_view taken = text_.substr(0, bytes);
    text_.remove_prefix(bytes);
    return taken;
  }
  absl::string_view text_;
  bool ok_ = true;
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed kv message: ", what));
}

absl::StatusOr<KvOp> ReadOp(HeaderReader& in) {
  const auto op = in.Get<uint8_t>();
  if (op < static_cast<uint8_t>(KvOp::kPut) || op > static_cast<uint8_t>(KvOp::kRoom)) {
    return Malformed(absl::StrCat("operation ", op));
  }
  return static_cast<KvOp>(op);
}

bool IsAnswer(uint8_t code) {
  switch (static_cast<absl::StatusCode>(code)) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string KvRequest::Encode() const {
  HeaderWriter out;
  out.Put(kRequestMagic);
  out.Put(kVersion);
  out.Put(static_cast<uint8_t>(op));
  out.Put(session);
  out.Put(id);
  out.Put(static_cast<uint32_t>(keys.size()));
  for (const BlockKey& key : keys) out.PutKey(key);
  if (op == KvOp::kPut) {
    for (const uint32_t length : lengths) out.Put(length);
    for (const int32_t index : indices) out.Put(index);
  }
  return out.Take();
}

absl::StatusOr<KvRequest> KvRequest::Decode(absl::string_view header, size_t body_bytes) {
  HeaderReader in(header);
  if (in.Get<uint16_t>() != kRequestMagic || in.Get<uint8_t>() != kVersion) return Malformed("not a request");
  KvRequest request;
  ASSIGN_OR_RETURN(request.op, ReadOp(in));
  request.session = in.Get<uint64_t>();
  request.id = in.Get<uint64_t>();
  const auto count = in.Get<uint32_t>();
  const uint32_t least = request.op == KvOp::kRoom ? 0 : 1;
  const uint32_t most = request.op == KvOp::kRoom ? 0 : static_cast<uint32_t>(kMostKvBlocks);
  if (count < least || count > most) return Malformed(absl::StrCat("request for ", count, " blocks"));
  for (uint32_t i = 0; i < count; ++i) request.keys.push_back(in.GetKey());
  size_t expected = 0;
  if (request.op == KvOp::kPut) {
    for (uint32_t i = 0; i < count; ++i) {
      request.lengths.push_back(in.Get<uint32_t>());
      expected += request.lengths.back();
    }
    for (uint32_t i = 0; i < count; ++i) request.indices.push_back(in.Get<int32_t>());
  }
  if (!in.AtEnd()) return Malformed(absl::StrCat("request header of ", header.size(), " bytes"));
  if (expected != body_bytes) return Malformed(absl::StrCat("body of ", body_bytes, " bytes, not ", expected));
  return request;
}

std::string KvReply::Encode() const {
  HeaderWriter out;
  out.Put(kReplyMagic);
  out.Put(kVersion);
  out.Put(static_cast<uint8_t>(op));
  out.Put(static_cast<uint8_t>(session_known ? 1 : 0));
  out.Put(session);
  out.Put(id);
  out.Put(held_blocks);
  out.Put(held_bytes);
  out.Put(capacity_bytes);
  out.Put(room_bytes);
  out.Put(first);
  out.Put(static_cast<uint32_t>(answers.size()));
  for (const KvAnswer& answer : answers) {
    out.Put(static_cast<uint8_t>(answer.code));
    out.Put(answer.length);
  }
  return out.Take();
}

absl::StatusOr<KvReply> KvReply::Decode(absl::string_view header, size_t body_bytes) {
  HeaderReader in(header);
  if (in.Get<uint16_t>() != kReplyMagic || in.Get<uint8_t>() != kVersion) return Malformed("not a reply");
  KvReply reply;
  ASSIGN_OR_RETURN(reply.op, ReadOp(in));
  reply.session_known = in.Get<uint8_t>() != 0;
  reply.session = in.Get<uint64_t>();
  reply.id = in.Get<uint64_t>();
  reply.held_blocks = in.Get<int64_t>();
  reply.held_bytes = in.Get<int64_t>();
  reply.capacity_bytes = in.Get<int64_t>();
  reply.room_bytes = in.Get<int64_t>();
  reply.first = in.Get<uint32_t>();
  const auto count = in.Get<uint32_t>();
  if (count > kMostKvBlocks) return Malformed(absl::StrCat("reply with ", count, " blocks"));
  size_t expected = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const auto code = in.Get<uint8_t>();
    const auto length = in.Get<uint32_t>();
    const bool carries = reply.op == KvOp::kGet && code == 0;
    if (!IsAnswer(code) || (length != 0 && !carries)) return Malformed(absl::StrCat("answer with code ", code));
    reply.answers.push_back({static_cast<absl::StatusCode>(code), length});
    expected += length;
  }
  if (!in.AtEnd()) return Malformed(absl::StrCat("reply header of ", header.size(), " bytes"));
  if (expected != body_bytes) return Malformed(absl::StrCat("body of ", body_bytes, " bytes, not ", expected));
  return reply;
}

std::vector<SharedBytes> CutBody(std::string body, absl::Span<const uint32_t> lengths) {
  std::vector<SharedBytes> blocks;
  blocks.reserve(lengths.size());
  if (lengths.size() == 1) {
    blocks.push_back(std::make_shared<const std::string>(std::move(body)));
    return blocks;
  }
  size_t at = 0;
  for (const uint32_t length : lengths) {
    blocks.push_back(std::make_shared<const std::string>(body, at, length));
    at += length;
  }
  return blocks;
}

}  // namespace interlace
