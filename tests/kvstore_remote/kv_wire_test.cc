#include "kvstore/remote/kv_wire.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::_;

KvRequest RandomRequest(std::mt19937_64& random, size_t* body_bytes) {
  KvRequest request;
  request.op = static_cast<KvOp>(1 + random() % 5);
  request.session = random();
  request.id = random();
  *body_bytes = 0;
  if (request.op == KvOp::kRoom) return request;
  const size_t count = 1 + random() % kMostKvBlocks;
  for (size_t i = 0; i < count; ++i) {
    const auto head = static_cast<int16_t>(random() % 100);
    request.keys.push_back(
        {{random(), random()}, LayerId{static_cast<int32_t>(random() % 100)}, {head, int16_t(head + 8)}});
    if (request.op != KvOp::kPut) continue;
    request.lengths.push_back(static_cast<uint32_t>(random() % 100000));
    request.indices.push_back(static_cast<int32_t>(random() % 5000));
    *body_bytes += request.lengths.back();
  }
  return request;
}

KvReply RandomReply(std::mt19937_64& random, size_t* body_bytes) {
  KvReply reply;
  reply.op = random() % 2 ? KvOp::kGet : KvOp::kPut;
  reply.session = random();
  reply.id = random();
  reply.first = static_cast<uint32_t>(random() % 100);
  reply.held_blocks = static_cast<int64_t>(random() % 1000);
  reply.room_bytes = static_cast<int64_t>(random() % 1000);
  *body_bytes = 0;
  for (size_t i = random() % kMostKvBlocks; i > 0; --i) {
    constexpr absl::StatusCode kCodes[] = {absl::StatusCode::kOk, absl::StatusCode::kNotFound,
                                           absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable};
    KvAnswer answer{kCodes[random() % 4], 0};
    if (reply.op == KvOp::kGet && answer.code == absl::StatusCode::kOk) {
      answer.length = static_cast<uint32_t>(random() % 1000);
    }
    *body_bytes += answer.length;
    reply.answers.push_back(answer);
  }
  return reply;
}

TEST(KvWire, RequestsRoundTripAndFitAHeader) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 500; ++i) {
    size_t body = 0;
    const KvRequest request = RandomRequest(random, &body);
    const std::string bytes = request.Encode();
    ASSERT_LE(bytes.size(), 4096u);
    const absl::StatusOr<KvRequest> back = KvRequest::Decode(bytes, body);
    ASSERT_OK(back);
    EXPECT_EQ(back->Encode(), bytes);
    EXPECT_EQ(back->keys, request.keys);
    EXPECT_EQ(back->lengths, request.lengths);
    EXPECT_EQ(back->indices, request.indices);
    EXPECT_THAT(KvRequest::Decode(bytes, body + 1), StatusIs(absl::StatusCode::kInvalidArgument, _));
  }
}

TEST(KvWire, RepliesRoundTripAndFitAHeader) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 500; ++i) {
    size_t body = 0;
    const KvReply reply = RandomReply(random, &body);
    const std::string bytes = reply.Encode();
    ASSERT_LE(bytes.size(), 4096u);
    const absl::StatusOr<KvReply> back = KvReply::Decode(bytes, body);
    ASSERT_OK(back);
    EXPECT_EQ(back->Encode(), bytes);
    EXPECT_EQ(back->room_bytes, reply.room_bytes);
    EXPECT_THAT(KvReply::Decode(bytes, body + 1), StatusIs(absl::StatusCode::kInvalidArgument, _));
  }
}

// Cut, lengthened and damaged bytes are refused or decode to something whose lengths still fit.
TEST(KvWire, DamagedBytesNeverPassForMore) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    size_t body = 0;
    std::string request = RandomRequest(random, &body).Encode();
    EXPECT_FALSE(KvRequest::Decode(request.substr(0, random() % request.size()), body).ok());
    EXPECT_FALSE(KvRequest::Decode(request + "x", body).ok());
    request[random() % request.size()] ^= static_cast<char>(1 + random() % 255);
    if (const auto decoded = KvRequest::Decode(request, body); decoded.ok()) {
      size_t sum = 0;
      for (uint32_t length : decoded->lengths) sum += length;
      EXPECT_EQ(sum, body);
      EXPECT_LE(decoded->keys.size(), kMostKvBlocks);
    }
    std::string reply = RandomReply(random, &body).Encode();
    EXPECT_FALSE(KvReply::Decode(reply.substr(0, random() % reply.size()), body).ok());
    reply[random() % reply.size()] ^= static_cast<char>(1 + random() % 255);
    (void)KvReply::Decode(reply, body);
  }
  for (int i = 0; i < 2000; ++i) {
    std::string noise(random() % 200, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    EXPECT_FALSE(KvRequest::Decode(noise, 0).ok());
    EXPECT_FALSE(KvReply::Decode(noise, 0).ok());
  }
}

TEST(KvWire, CutsABodyIntoBlocks) {
  const std::vector<SharedBytes> blocks = CutBody("aabccc", {2, 1, 0, 3});
  ASSERT_EQ(blocks.size(), 4u);
  EXPECT_EQ(*blocks[0] + "|" + *blocks[1] + "|" + *blocks[2] + "|" + *blocks[3], "aa|b||ccc");
  const std::vector<SharedBytes> one = CutBody("whole", {5});
  EXPECT_EQ(*one[0], "whole");
}

}  // namespace
}  // namespace interlace
