// The parts that ranks of a group give each other, over shared memory: threads stand for ranks.
#include "transport/collective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/thread.h"
#include "tests/status_matchers.h"
#include "transport/shared_collective.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMostBytes = 1 << 16;
constexpr absl::Duration kLong = absl::Seconds(60);

struct Group {
  std::unique_ptr<Entropy> entropy = MakeSeededEntropy(7);
  RealClock clock;
  std::vector<std::unique_ptr<Collective>> ranks;
  std::vector<std::string> addresses;

  explicit Group(int32_t count, absl::Duration spin = absl::Microseconds(50)) {
    for (int32_t r = 0; r < count; ++r) {
      absl::StatusOr<std::unique_ptr<Collective>> made =
          MakeSharedCollective({.rank = r, .ranks = count, .max_bytes = kMostBytes, .spin = spin}, *entropy, clock);
      EXPECT_OK(made);
      ranks.push_back(*std::move(made));
      addresses.push_back(ranks.back()->address());
    }
  }
  // `body` on a thread for each rank.
  template <typename Body>
  void Run(Body body) {
    std::vector<Thread> threads;
    for (const std::unique_ptr<Collective>& rank : ranks) {
      threads.emplace_back(absl::StrCat("rank", rank->rank()), [&body, &rank] { body(*rank); });
    }
  }
};

// What a rank gives at an exchange: its length and bytes follow from these.
int64_t BytesOf(uint64_t seed, int32_t rank, int exchange) {
  return static_cast<int64_t>(std::mt19937_64(seed * 1000003 + static_cast<uint64_t>(exchange * 64 + rank))() %
                              (kMostBytes + 1));
}
std::byte FillOf(int32_t rank, int exchange) { return static_cast<std::byte>(rank * 89 + exchange * 7 + 1); }

void ExpectParts(Collective::Parts parts, uint64_t seed, int exchange) {
  for (int32_t r = 0; r < static_cast<int32_t>(parts.size()); ++r) {
    const absl::Span<const std::byte> part = parts[static_cast<size_t>(r)];
    ASSERT_EQ(static_cast<int64_t>(part.size()), BytesOf(seed, r, exchange));
    ASSERT_TRUE(std::all_of(part.begin(), part.end(), [&](std::byte b) { return b == FillOf(r, exchange); }))
        << "rank " << r << ", exchange " << exchange;
  }
}

// Ranks hurry and dawdle as the seed says; what each reads is what the others gave at this very exchange, to the end
// of its turn.
TEST(SharedCollective, EveryRankSeesEveryPart) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const auto count = static_cast<int32_t>(1 + seed % 4);
    Group group(count, seed % 2 == 0 ? absl::ZeroDuration() : absl::Microseconds(20));
    group.Run([&](Collective& rank) {
      std::mt19937_64 random(seed * 31 + static_cast<uint64_t>(rank.rank()));
      for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
        ASSERT_OK(rank.Connect(group.addresses, Epoch{epoch}));
        for (int i = 0; i < 200; ++i) {
          const int64_t bytes = BytesOf(seed, rank.rank(), i);
          std::memset(rank.Part(), static_cast<int>(FillOf(rank.rank(), i)), static_cast<size_t>(bytes));
          absl::StatusOr<Collective::Parts> parts = rank.Exchange({Epoch{epoch}, PlanId{9}, i}, bytes, kLong);
          ASSERT_OK(parts);
          for (uint64_t yields = random() % 8; yields > 0; --yields) std::this_thread::yield();
          ExpectParts(*parts, seed, i);
        }
      }
    });
  }
}

TEST(SharedCollective, SaysWhoIsAtAnotherExchange) {
  Group group(2);
  group.Run([&](Collective& rank) {
    ASSERT_OK(rank.Connect(group.addresses, Epoch{1}));
    EXPECT_THAT(rank.Exchange({Epoch{1}, PlanId{5}, rank.rank()}, 0, kLong).status(),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("of plan 5")));
  });
}

TEST(SharedCollective, ARankThatDoesNotComeIsNamed) {
  Group group(2);
  ASSERT_OK(group.ranks[0]->Connect(group.addresses, Epoch{1}));
  EXPECT_THAT(group.ranks[0]->Exchange({Epoch{1}, PlanId{1}, 0}, 0, absl::Milliseconds(1)).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1")));
}

TEST(SharedCollective, AnInterruptEndsAWait) {
  for (const bool by_epoch : {true, false}) {
    Group group(2);
    absl::Notification waits;
    Thread waiter("waiter", [&] {
      ASSERT_OK(group.ranks[0]->Connect(group.addresses, Epoch{4}));
      waits.Notify();
      EXPECT_THAT(group.ranks[0]->Exchange({Epoch{4}, PlanId{1}, 0}, 0, absl::InfiniteDuration()).status(),
                  StatusIs(absl::StatusCode::kUnavailable, HasSubstr("interrupted")));
    });
    waits.WaitForNotification();
    if (by_epoch) {
      group.ranks[0]->Interrupt(Epoch{5});
    } else {
      group.ranks[0]->Interrupt();
    }
  }
}

TEST(SharedCollective, AnInterruptOfAnOlderEpochDisturbsNobody) {
  Group group(2);
  group.Run([&](Collective& rank) {
    rank.Interrupt(Epoch{3});
    ASSERT_OK(rank.Connect(group.addresses, Epoch{3}));
    EXPECT_OK(rank.Exchange({Epoch{3}, PlanId{1}, 0}, 0, kLong));
  });
}

// Whoever is late still reads what was given in its epoch, and never what a later one gives.
TEST(SharedCollective, ALaterEpochDoesNotWriteWhatAnEarlierOneReads) {
  Group group(2);
  absl::Notification read;
  absl::Notification rewritten;
  group.Run([&](Collective& rank) {
    ASSERT_OK(rank.Connect(group.addresses, Epoch{1}));
    std::memset(rank.Part(), 1 + rank.rank(), 100);
    absl::StatusOr<Collective::Parts> parts = rank.Exchange({Epoch{1}, PlanId{1}, 0}, 100, kLong);
    ASSERT_OK(parts);
    if (rank.rank() == 0) {
      read.WaitForNotification();  // who has not taken the parts yet may find that the epoch is over
      ASSERT_OK(rank.Connect(group.addresses, Epoch{2}));
      for (int i = 0; i < 4; ++i) {
        std::memset(rank.Part(), 77, kMostBytes);
        EXPECT_FALSE(rank.Exchange({Epoch{2}, PlanId{1}, i}, kMostBytes, absl::ZeroDuration()).ok());
      }
      rewritten.Notify();
      return;
    }
    read.Notify();
    rewritten.WaitForNotification();
    EXPECT_EQ((*parts)[0][0], std::byte{1});
    EXPECT_THAT(rank.Exchange({Epoch{1}, PlanId{1}, 1}, 0, absl::ZeroDuration()).status(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("in time")));
  });
}

TEST(SharedCollective, AnAddressThatNobodyHasIsRefused) {
  Group group(2);
  std::vector<std::string> addresses = group.addresses;
  for (const std::string& wrong : {std::string("garbage"), std::string("shm1;x;1;2"), std::string("shm1;x;0;0;0"),
                                   absl::StrCat(addresses[1], "1")}) {
    addresses[1] = wrong;
    EXPECT_FALSE(group.ranks[0]->Connect(addresses, Epoch{1}).ok()) << wrong;
  }
  EXPECT_FALSE(group.ranks[0]->Connect({group.addresses[0]}, Epoch{1}).ok());
}

TEST(SharedCollective, OnlyProcessesOfOneMachineShareMemory) {
  Group group(3);
  EXPECT_OK(group.ranks[0]->Connect(group.addresses, Epoch{1}));
  group.addresses[1].insert(group.addresses[1].find(';') + 1, "elsewhere");
  EXPECT_THAT(group.ranks[0]->Connect(group.addresses, Epoch{2}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cluster.tensor_ranks")));
}

}  // namespace
}  // namespace interlace
