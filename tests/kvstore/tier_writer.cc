// The process that tier_crash_test kills:  tier_writer FOLDER BYTES ACKS.  Verifies every block that the folder holds
// and that the last ones in ACKS are among them, then puts blocks for ever and appends the number of each one that was
// answered OK to ACKS. Exits with 3 at a wrong block, 4 at a lost one, 5 if the folder cannot be opened.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"

namespace interlace {
namespace {

constexpr uint64_t kLookedAt = 2000;  // of the latest blocks
constexpr size_t kMustBeHeld = 8;     // of the latest that were answered OK

size_t SizeOf(uint64_t block) { return 2000 + block * 7919 % 30000; }
BlockKey KeyOf(uint64_t block) { return Key(1, 0, block); }

int Run(const std::string& folder, int64_t bytes, const std::string& acks_path) {
  const int acks = open(acks_path.c_str(), O_RDWR | O_CREAT | O_APPEND, 0600);
  struct stat state;
  if (acks < 0 || fstat(acks, &state) != 0) return 5;
  std::vector<uint64_t> acked(static_cast<size_t>(state.st_size) / sizeof(uint64_t));
  const auto size = static_cast<ssize_t>(acked.size() * sizeof(uint64_t));
  if (pread(acks, acked.data(), static_cast<size_t>(size), 0) != size) return 5;
  const uint64_t last = acked.empty() ? 0 : acked.back();
  const std::set<uint64_t> due(acked.end() - static_cast<ptrdiff_t>(std::min(acked.size(), kMustBeHeld)), acked.end());
  auto tier = MakeRocksdbTier({.rocksdb_dir = folder, .rocksdb_bytes = bytes});
  if (!tier.ok()) {
    std::fprintf(stderr, "tier_writer: %s\n", tier.status().ToString().c_str());
    return 5;
  }
  std::vector<BlockKey> keys;
  std::vector<uint64_t> blocks;
  for (uint64_t block = last > kLookedAt ? last - kLookedAt : 1; block <= last + 200; ++block) {
    blocks.push_back(block);
    keys.push_back(KeyOf(block));
  }
  absl::Notification read;
  int verdict = 0;
  (*tier)->Get(keys, [&](std::vector<absl::StatusOr<SharedBytes>> answers) {
    for (size_t i = 0; i < answers.size(); ++i) {
      if (answers[i].ok()) {
        const absl::Status right = VerifyStored(keys[i], **answers[i], SizeOf(blocks[i]));
        if (right.ok()) continue;
        std::fprintf(stderr, "tier_writer: %s\n", right.ToString().c_str());
        verdict = 3;
      } else if (due.contains(blocks[i])) {
        std::fprintf(stderr, "tier_writer: block %lu of %lu: %s\n", blocks[i], last,
                     answers[i].status().ToString().c_str());
        verdict = 4;
      }
    }
    read.Notify();
  });
  read.WaitForNotification();
  if (verdict != 0) return verdict;
  for (uint64_t block = last + 201;; ++block) {
    absl::Notification put;
    bool ok = false;
    (*tier)->Put({{KeyOf(block), 0, EncodeBlock(KeyOf(block), Payload(KeyOf(block), SizeOf(block)))}},
                 [&](std::vector<absl::Status> statuses) {
                   ok = statuses[0].ok();
                   put.Notify();
                 });
    put.WaitForNotification();
    if (ok && write(acks, &block, sizeof block) != sizeof block) return 5;
    if (block % 16 == 0) (*tier)->Drop({KeyOf(block - 64)});
  }
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return interlace::Run(argv[1], std::atoll(argv[2]), argv[3]);
}
