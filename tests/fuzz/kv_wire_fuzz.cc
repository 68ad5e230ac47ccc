// Any bytes as a message between a remote tier and a kvstore: refused, or something that says the same when it is
// encoded again. The first two bytes are the length of the body that comes with the header.
#include <cstdint>
#include <string>

#include "common/check.h"
#include "kvstore/remote/kv_wire.h"
#include "kvstore/remote/remote_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  if (size < 2) return 0;
  const size_t body_bytes = data[0] | size_t{data[1]} << 8;
  const absl::string_view header(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (const auto request = KvRequest::Decode(header, body_bytes); request.ok()) {
    CHECK(request->Encode() == header);
    CHECK(request->keys.size() <= kMostKvBlocks);
    if (request->op == KvOp::kPut) {
      CHECK(CutBody(std::string(body_bytes, 'b'), request->lengths).size() == request->keys.size());
    }
  }
  const auto reply = KvReply::Decode(header, body_bytes);
  if (!reply.ok()) return 0;
  // A tier that asked for eight blocks: it ends the call once, or it says that the reply does not fit.
  int finished = 0;
  auto call = std::make_shared<RemoteCall>(reply->op, 8, [&](auto) { ++finished; });
  RemoteCalls calls;
  const uint64_t id = calls.Add(call, 0, 8, 100, absl::InfiniteFuture());
  KvReply mine = *reply;
  mine.id = id;
  const auto taken = calls.TakeReply(mine, std::string(body_bytes, 'b'));
  if (taken.ok() && *taken != nullptr) (*taken)->Finish();
  for (const RemoteCallPtr& left : calls.FailAll(absl::UnavailableError("over"))) left->Finish();
  CHECK(finished == 1);
  CHECK(calls.put_bytes() == 0);
  return 0;
}
