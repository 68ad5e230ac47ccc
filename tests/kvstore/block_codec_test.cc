#include "kvstore/block_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/kvstore/blocks.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::HasSubstr;

TEST(BlockCodecTest, RoundTrip) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{7}, size_t{240}, size_t{241}, size_t{4096}, size_t{24576}}) {
    const BlockKey key = Key(7, 3, bytes);
    const std::vector<std::byte> payload = Payload(key, bytes);
    const SharedBytes stored = EncodeBlock(key, payload);
    EXPECT_EQ(stored->size(), kBlockHeaderBytes + bytes);
    std::vector<std::byte> out(bytes);
    ASSERT_OK(DecodeBlock(key, *stored, absl::MakeSpan(out)));
    EXPECT_EQ(out, payload);
  }
}

// What copy-out does in a host frame: the payload lies there already, the header is written before it.
TEST(BlockCodecTest, AHeaderBesideItsPayloadIsTheStoredForm) {
  const BlockKey key = Key(7, 3, 11);
  const std::vector<std::byte> payload = Payload(key, 4096);
  std::string frame(kBlockHeaderBytes + payload.size(), 'x');
  std::memcpy(&frame[kBlockHeaderBytes], payload.data(), payload.size());
  EncodeHeader(key, payload, frame.data());
  EXPECT_EQ(frame, *EncodeBlock(key, payload));
  EXPECT_OK(VerifyStored(key, frame, payload.size()));
}

TEST(BlockCodecTest, EverySingleFlippedBitIsSeen) {
  const BlockKey key = Key(7, 3, 11);
  const std::vector<std::byte> payload = Payload(key, 320);
  const std::string stored = *EncodeBlock(key, payload);
  const std::vector<std::byte> untouched(payload.size(), std::byte{0xab});
  for (size_t bit = 0; bit < 8 * stored.size(); ++bit) {
    std::string damaged = stored;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    std::vector<std::byte> out = untouched;
    EXPECT_THAT(DecodeBlock(key, damaged, absl::MakeSpan(out)), StatusIs(absl::StatusCode::kDataLoss, testing::_))
        << "bit " << bit;
    EXPECT_EQ(out, untouched);
  }
}

TEST(BlockCodecTest, AnotherKeyInAnyFieldIsSeen) {
  auto entropy = MakeSeededEntropy(3);
  for (int round = 0; round < 200; ++round) {
    const auto first_head = static_cast<int16_t>(entropy->Next() % 100);
    const BlockKey key{{entropy->Next(), entropy->Next()}, LayerId{round}, {first_head, int16_t(first_head + 8)}};
    const std::vector<std::byte> payload = Payload(key, 64);
    const SharedBytes stored = EncodeBlock(key, payload);
    BlockKey other[5] = {key, key, key, key, key};
    other[0].block.high ^= uint64_t{1} << (entropy->Next() % 64);
    other[1].block.low ^= uint64_t{1} << (entropy->Next() % 64);
    other[2].heads.begin = static_cast<int16_t>(key.heads.begin ^ (1 << (entropy->Next() % 15)));
    other[3].heads.end = static_cast<int16_t>(key.heads.end ^ (1 << (entropy->Next() % 15)));
    other[4].layer = LayerId{static_cast<int32_t>(entropy->Next() % 1000) + round + 1};
    std::vector<std::byte> out(payload.size());
    for (const BlockKey& wrong : other) {
      EXPECT_THAT(DecodeBlock(wrong, *stored, absl::MakeSpan(out)),
                  StatusIs(absl::StatusCode::kDataLoss, HasSubstr("key")));
    }
  }
}

// A header that is right beside another block's payload: what a torn store could give.
TEST(BlockCodecTest, PayloadIsBoundToItsHeader) {
  const BlockKey key = Key(1, 1, 1), other = Key(1, 2, 1);
  const std::vector<std::byte> payload = Payload(key, 512);
  const SharedBytes mine = EncodeBlock(key, payload), same_bytes = EncodeBlock(other, payload);
  const SharedBytes different = EncodeBlock(key, Payload(other, 512));
  EXPECT_NE(mine->substr(48, 8), same_bytes->substr(48, 8)) << "the payload checksum does not depend on the key";
  std::vector<std::byte> out(512);
  const std::string torn = mine->substr(0, kBlockHeaderBytes) + different->substr(kBlockHeaderBytes);
  EXPECT_THAT(DecodeBlock(key, torn, absl::MakeSpan(out)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("payload checksum")));
}

TEST(BlockCodecTest, EveryOtherLengthIsSeen) {
  const BlockKey key = Key(1, 1, 1);
  const std::string stored = *EncodeBlock(key, Payload(key, 100));
  std::vector<std::byte> out(100);
  for (size_t length = 0; length < stored.size(); ++length) {
    EXPECT_THAT(DecodeBlock(key, absl::string_view(stored).substr(0, length), absl::MakeSpan(out)),
                StatusIs(absl::StatusCode::kDataLoss, testing::_));
  }
  EXPECT_THAT(DecodeBlock(key, stored + "x", absl::MakeSpan(out)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("length")));
  std::vector<std::byte> small(99);
  EXPECT_THAT(DecodeBlock(key, stored, absl::MakeSpan(small)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("length")));
}

TEST(BlockCodecTest, ForeignBytesAreRefused) {
  auto entropy = MakeSeededEntropy(9);
  const BlockKey key = Key(1, 1, 1);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes(entropy->Next() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(entropy->Next());
    std::vector<std::byte> out(bytes.size() > kBlockHeaderBytes ? bytes.size() - kBlockHeaderBytes : 0);
    EXPECT_THAT(DecodeBlock(key, bytes, absl::MakeSpan(out)), StatusIs(absl::StatusCode::kDataLoss, testing::_));
  }
}

}  // namespace
}  // namespace interlace
