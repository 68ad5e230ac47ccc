// The process that tier_crash_test kills:  tier_writer FOLDER BYTES ACKS KEPT.  Verifies what the folder holds of the
// latest blocks, then puts blocks for ever and appends the number of each one that was answered OK to ACKS. With KEPT
// it drops all but the latest KEPT of ACKS and some older ones (IsKept), which then must all be there after a kill:
// they have to fit into the tier, so that it has no cause to evict any. With KEPT 0 it drops none, the tier evicts, and
// any block may be gone: what is evicted is chosen by size and use, so it can be one of the latest. Exits with 3 at a
// wrong block, 4 at a lost one, 5 if the folder cannot be opened.
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

constexpr size_t kLookedAt = 2000;  // of the latest blocks that were answered OK
constexpr size_t kLongLived = 8;    // one of so many is kept so many times as long, among blocks that were dropped
constexpr uint64_t kGap = 200;      // of numbers between one process and the next

size_t SizeOf(uint64_t block) { return 2000 + block * 7919 % 30000; }
BlockKey KeyOf(uint64_t block) { return Key(1, 0, block); }

// Of the block that was answered as number `place` of `count`.
bool IsKept(size_t place, size_t count, size_t kept) {
  const size_t age = count - 1 - place;
  return age < kept || (place % kLongLived == 0 && age < kLongLived * kept);
}

// Of the latest blocks, and of those that may have been stored without a word in ACKS: all that are held are right, and
// none is lost. Drops those that are not kept, unless the tier is left to choose.
int VerifyHeld(KvTier& tier, const std::vector<uint64_t>& acked, size_t kept) {
  std::vector<uint64_t> blocks;
  std::set<uint64_t> due;
  for (size_t place = acked.size() - std::min(acked.size(), kLookedAt); place < acked.size(); ++place) {
    blocks.push_back(acked[place]);
    if (IsKept(place, acked.size(), kept)) due.insert(acked[place]);
  }
  const uint64_t last = acked.empty() ? 0 : acked.back();
  for (uint64_t block = last + 1; block <= last + kGap + 1; ++block) blocks.push_back(block);
  std::vector<BlockKey> keys, others;
  for (uint64_t block : blocks) {
    keys.push_back(KeyOf(block));
    if (!due.contains(block)) others.push_back(KeyOf(block));
  }
  absl::Notification read;
  int verdict = 0;
  tier.Get(keys, [&](std::vector<absl::StatusOr<SharedBytes>> answers) {
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
  if (kept > 0) tier.Drop(others);
  return verdict;
}

bool PutOne(KvTier& tier, uint64_t block) {
  absl::Notification put;
  bool ok = false;
  tier.Put({{KeyOf(block), 0, EncodeBlock(KeyOf(block), Payload(KeyOf(block), SizeOf(block)))}},
           [&](std::vector<absl::Status> statuses) {
             ok = statuses[0].ok();
             put.Notify();
           });
  put.WaitForNotification();
  return ok;
}

int Run(const std::string& folder, int64_t bytes, const std::string& acks_path, size_t kept) {
  const int acks = open(acks_path.c_str(), O_RDWR | O_CREAT | O_APPEND, 0600);
  struct stat state;
  if (acks < 0 || fstat(acks, &state) != 0) return 5;
  std::vector<uint64_t> acked(static_cast<size_t>(state.st_size) / sizeof(uint64_t));
  const auto size = static_cast<ssize_t>(acked.size() * sizeof(uint64_t));
  if (pread(acks, acked.data(), static_cast<size_t>(size), 0) != size) return 5;
  auto tier = MakeRocksdbTier({.rocksdb_dir = folder, .rocksdb_bytes = bytes});
  if (!tier.ok()) {
    std::fprintf(stderr, "tier_writer: %s\n", tier.status().ToString().c_str());
    return 5;
  }
  if (const int verdict = VerifyHeld(**tier, acked, kept); verdict != 0) return verdict;
  for (uint64_t block = (acked.empty() ? 0 : acked.back()) + kGap + 1;;) {
    if (!PutOne(**tier, block)) continue;  // full for a moment
    if (write(acks, &block, sizeof block) != sizeof block) return 5;
    acked.push_back(block++);
    if (kept == 0) continue;
    for (const size_t age : {kept, kLongLived * kept}) {
      if (age >= acked.size()) break;
      const size_t place = acked.size() - 1 - age;
      if (!IsKept(place, acked.size(), kept)) (*tier)->Drop({KeyOf(acked[place])});
    }
  }
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  return interlace::Run(argv[1], std::atoll(argv[2]), argv[3], std::strtoul(argv[4], nullptr, 10));
}
