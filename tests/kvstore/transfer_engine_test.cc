#include "kvstore/transfer_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "common/thread.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/engine_rig.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::_;
using Memory = EngineRig::Memory;

absl::Time Far(const EngineRig& rig, int64_t seconds) {
  return const_cast<ManualClock&>(rig.clock).Now() + absl::Seconds(seconds);
}
std::vector<BlockKey> Keys(uint64_t generation, int32_t layer, int count) {
  std::vector<BlockKey> keys;
  for (int b = 0; b < count; ++b) keys.push_back(Key(generation, layer, b));
  return keys;
}
MATCHER_P(HasCode, code, "") {
  *result_listener << arg.status.ToString();
  return arg.status.code() == code;
}

TEST(TransferEngineTest, RoundTrip) {
  EngineRig rig;
  const std::vector<BlockKey> keys = Keys(1, 0, 10);
  EXPECT_FALSE(rig.engine->Holds(keys[0]));
  for (const MoveResult& result : rig.Write(keys)) {
    EXPECT_OK(result.status);
    EXPECT_EQ(result.tier, 0);
  }
  for (const BlockKey& key : keys) EXPECT_TRUE(rig.engine->Holds(key));
  Memory to = rig.Blank(keys.size());
  for (const MoveResult& result : rig.Read(keys, to)) EXPECT_OK(result.status);
  EXPECT_EQ(to, rig.Filled(keys));
  const TransferStats stats = rig.engine->Stats();
  EXPECT_EQ(stats.blocks_out, 10);
  EXPECT_EQ(stats.bytes_out, 10 * static_cast<int64_t>(kRigPayload));
  EXPECT_EQ(stats.blocks_in, 10);
  EXPECT_EQ(stats.bytes_in, 10 * static_cast<int64_t>(kRigPayload));
  EXPECT_EQ(stats.corrupt + stats.missing + stats.refused, 0);
  EXPECT_EQ(rig.engine->tiers(), std::vector<std::string>{"tier0"});
  EXPECT_EQ(rig.engine->Usage()[0].blocks, 10);
}

TEST(TransferEngineTest, EmptyGroupsAreDoneAtOnce) {
  EngineRig rig;
  TransferTicket none;
  EXPECT_FALSE(none);
  TransferTicket ticket = rig.engine->Read({}, absl::InfiniteFuture());
  EXPECT_TRUE(ticket);
  EXPECT_TRUE(ticket.done());
  EXPECT_TRUE(ticket.Wait(absl::InfinitePast()).empty());
}

TEST(TransferEngineTest, UnknownBlocksAreNotFoundAmongOthers) {
  EngineRig rig;
  rig.Write({Key(1, 0, 0)});
  Memory to = rig.Blank(2);
  const auto results = rig.Read({Key(1, 0, 1), Key(1, 0, 0)}, to);
  EXPECT_THAT(results[0], HasCode(absl::StatusCode::kNotFound));
  EXPECT_OK(results[1].status);
  EXPECT_EQ(to[0], rig.Blank(1)[0]);
  EXPECT_EQ(rig.engine->Stats().missing, 1);
}

// Queued behind a stalled mover, random groups are done reads first, then by deadline, then as they came.
TEST(TransferEngineTest, OrderOfGroups) {
  auto entropy = MakeSeededEntropy(11);
  for (int round = 0; round < 30; ++round) {
    EngineRig rig;
    const std::vector<BlockKey> held = Keys(1, 0, 40);
    rig.Write(held);
    const size_t before = rig.tier().WaitForCalls(0).size();
    rig.tier().Stall();
    const Memory first_from = rig.Filled({Key(9, 9, 9)});
    TransferTicket first = rig.StartWrite({Key(9, 9, 9)}, first_from);
    rig.tier().WaitForCalls(before + 1);

    Memory to = rig.Blank(40);
    const Memory from = rig.Filled(Keys(2, 0, 40));
    std::vector<TransferTicket> tickets;
    std::vector<std::tuple<bool, absl::Time, int>> want;
    for (int g = 0; g < 20; ++g) {
      const bool write = entropy->Next() % 2;
      const absl::Time deadline = Far(rig, static_cast<int64_t>(entropy->Next() % 4));
      want.emplace_back(write, deadline, g);
      if (write) {
        tickets.push_back(rig.engine->Write({{Key(2, 0, g), from[g].data()}}, deadline));
      } else {
        tickets.push_back(rig.engine->Read({{Key(1, 0, g), to[g].data()}}, deadline));
      }
    }
    rig.tier().Resume();
    for (TransferTicket& ticket : tickets) EXPECT_OK(ticket.Wait(absl::InfiniteFuture())[0].status);
    std::sort(want.begin(), want.end());
    const auto calls = rig.tier().WaitForCalls(before + 21);
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(calls[before + 1 + i].kind, std::get<0>(want[i]) ? 'w' : 'r');
      EXPECT_EQ(calls[before + 1 + i].keys[0].hash.low, static_cast<uint64_t>(std::get<2>(want[i])));
    }
  }
}

TEST(TransferEngineTest, AnUrgentGroupPassesBetweenTheChunksOfALongOne) {
  EngineRig rig({.blocks_in_chunk = 4});
  const std::vector<BlockKey> lengthy = Keys(1, 0, 10), urgent = Keys(1, 1, 1);
  rig.Write(lengthy);
  rig.Write(urgent);
  const size_t before = rig.tier().WaitForCalls(0).size();
  rig.tier().Stall();
  Memory to = rig.Blank(10), to_urgent = rig.Blank(1);
  TransferTicket slow = rig.StartRead(lengthy, to, Far(rig, 100));
  rig.tier().WaitForCalls(before + 1);
  TransferTicket fast = rig.StartRead(urgent, to_urgent, Far(rig, 1));
  rig.tier().Resume();
  slow.Wait(absl::InfiniteFuture());
  fast.Wait(absl::InfiniteFuture());
  std::vector<size_t> sizes;
  const auto calls = rig.tier().WaitForCalls(before + 4);
  for (size_t i = before; i < calls.size(); ++i) sizes.push_back(calls[i].keys.size());
  EXPECT_EQ(sizes, (std::vector<size_t>{4, 1, 4, 2}));
  EXPECT_EQ(calls[before + 1].keys, urgent);
}

// A tier that is slow to answer gets a bounded number of chunks and holds up neither writes nor other tiers.
TEST(TransferEngineTest, ASlowTierHoldsUpNoOther) {
  EngineRig rig({.tiers = 2, .blocks_in_chunk = 2, .chunks_in_flight = 2});
  const std::vector<BlockKey> slow = Keys(1, 0, 10), fast = Keys(1, 1, 10);
  rig.tier(0).Refuse(absl::ResourceExhaustedError("full"), fast);
  rig.Write(slow);
  EXPECT_EQ(rig.Write(fast)[9].tier, 1);
  const size_t before = rig.tier(0).WaitForCalls(0).size();
  rig.tier(0).Hold();
  Memory to_slow = rig.Blank(10), to_fast = rig.Blank(10);
  TransferTicket slow_ticket = rig.StartRead(slow, to_slow, Far(rig, 0));
  rig.Read(fast, to_fast);
  EXPECT_EQ(to_fast, rig.Filled(fast));
  EXPECT_EQ(rig.tier(0).WaitForCalls(before + 2).size(), before + 2);
  EXPECT_FALSE(slow_ticket.done());
  rig.tier(0).Release();
  slow_ticket.Wait(absl::InfiniteFuture());
  EXPECT_EQ(to_slow, rig.Filled(slow));
}

TEST(TransferEngineTest, AfterAReadWasGivenUpItsMemoryIsNeverTouched) {
  EngineRig rig;
  const std::vector<BlockKey> keys = Keys(1, 0, 6);
  rig.Write(keys);
  rig.tier().Hold();
  Memory to = rig.Blank(6, 0x00);
  TransferTicket ticket = rig.StartRead(keys, to);
  EXPECT_FALSE(ticket.done());
  for (const MoveResult& result : ticket.Wait(rig.clock.Now())) {
    EXPECT_THAT(result, HasCode(absl::StatusCode::kDeadlineExceeded));
  }
  EXPECT_TRUE(ticket.done());
  EXPECT_EQ(rig.engine->Stats().missing, 6);
  to = rig.Blank(6, 0xcd);  // someone else's now
  rig.tier().Release();
  Memory again = rig.Blank(6);  // comes after the late answers
  for (const MoveResult& result : rig.Read(keys, again)) EXPECT_OK(result.status);
  EXPECT_EQ(to, rig.Blank(6, 0xcd));
  EXPECT_EQ(rig.engine->Stats().missing, 6) << "a late read is counted once";
  EXPECT_EQ(rig.engine->Stats().blocks_in, 6);
}

TEST(TransferEngineTest, ADestroyedTicketDeliversNothing) {
  EngineRig rig;
  const std::vector<BlockKey> keys = Keys(1, 0, 2);
  rig.Write(keys);
  rig.tier().Hold();
  Memory to = rig.Blank(2);
  TransferTicket ticket = rig.StartRead(keys, to);
  rig.tier().WaitForCalls(2);
  ticket = TransferTicket();
  rig.tier().Release();
  Memory again = rig.Blank(2);
  rig.Read(keys, again);
  EXPECT_EQ(to, rig.Blank(2));
  EXPECT_EQ(rig.engine->Stats().missing, 0);
}

TEST(TransferEngineTest, AfterAWriteWasGivenUpItsMemoryIsNeverRead) {
  EngineRig rig;
  rig.tier().Stall();
  const std::vector<BlockKey> taken = Keys(1, 0, 1), queued = Keys(1, 1, 8);
  Memory from_taken = rig.Filled(taken), from = rig.Filled(queued);
  TransferTicket first = rig.StartWrite(taken, from_taken), second = rig.StartWrite(queued, from);
  rig.tier().WaitForCalls(1);
  for (TransferTicket* ticket : {&first, &second}) {
    for (const MoveResult& result : ticket->Wait(rig.clock.Now())) {
      EXPECT_THAT(result, HasCode(absl::StatusCode::kDeadlineExceeded));
    }
  }
  from_taken = rig.Blank(1);
  from = rig.Blank(8);
  rig.tier().Resume();
  rig.Write(Keys(1, 2, 1));  // comes after them
  // Bytes that were taken in time were written; the others never were.
  EXPECT_TRUE(rig.engine->Holds(taken[0]));
  Memory to = rig.Blank(1);
  EXPECT_OK(rig.Read(taken, to)[0].status);
  EXPECT_EQ(to, rig.Filled(taken));
  for (const BlockKey& key : queued) EXPECT_FALSE(rig.engine->Holds(key));
  EXPECT_EQ(rig.tier().stored().size(), 2u);
}

TEST(TransferEngineTest, AReadWaitsForThePendingWriteAndBringsItForward) {
  EngineRig rig({.blocks_in_chunk = 1});
  rig.tier().Stall();
  const BlockKey first = Key(1, 0, 0), other = Key(1, 0, 1), wanted = Key(1, 0, 2);
  const Memory from = rig.Filled({first, other, wanted});
  TransferTicket a = rig.engine->Write({{first, from[0].data()}}, Far(rig, 1));
  rig.tier().WaitForCalls(1);
  TransferTicket b = rig.engine->Write({{other, from[1].data()}}, Far(rig, 1));
  TransferTicket c = rig.engine->Write({{wanted, from[2].data()}}, Far(rig, 50));
  EXPECT_FALSE(rig.engine->Holds(wanted));
  Memory to = rig.Blank(1);
  TransferTicket read = rig.StartRead({wanted}, to, Far(rig, 90));
  rig.tier().Resume();
  EXPECT_OK(read.Wait(absl::InfiniteFuture())[0].status);
  EXPECT_EQ(to, rig.Filled({wanted}));
  b.Wait(absl::InfiniteFuture());
  const auto calls = rig.tier().WaitForCalls(4);
  EXPECT_EQ(calls[1], (ScriptedTier::Call{'w', {wanted}}));
}

TEST(TransferEngineTest, AReadBehindARefusedWriteIsNotFound) {
  EngineRig rig;
  rig.tier().Refuse(absl::ResourceExhaustedError("full"));
  rig.tier().Hold();
  const Memory from = rig.Filled({Key(1, 0, 0)});
  TransferTicket write = rig.StartWrite({Key(1, 0, 0)}, from);
  Memory to = rig.Blank(1);
  TransferTicket read = rig.StartRead({Key(1, 0, 0)}, to);
  rig.tier().Release();
  EXPECT_THAT(write.Wait(absl::InfiniteFuture())[0], HasCode(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(read.Wait(absl::InfiniteFuture())[0], HasCode(absl::StatusCode::kNotFound));
}

TEST(TransferEngineTest, WritesOfOneBlockKeepTheirOrder) {
  EngineRig rig;
  rig.tier().Hold();
  const BlockKey key = Key(1, 0, 0);
  const Memory versions = rig.Filled({Key(5, 5, 5), Key(6, 6, 6), Key(7, 7, 7)});
  std::vector<TransferTicket> tickets;
  for (int v = 0; v < 3; ++v) {  // later ones are more urgent and go after all
    tickets.push_back(rig.engine->Write({{key, versions[v].data()}}, Far(rig, 10 - v)));
  }
  rig.tier().WaitForCalls(1);
  Memory to = rig.Blank(1);
  TransferTicket read = rig.StartRead({key}, to);
  rig.tier().Release();
  EXPECT_OK(read.Wait(absl::InfiniteFuture())[0].status);
  EXPECT_EQ(to[0], versions[2]);
}

TEST(TransferEngineTest, DropForgetsAtOnceAndInEveryTier) {
  EngineRig rig({.tiers = 2});
  rig.tier(0).Refuse(absl::ResourceExhaustedError("full"), {Key(1, 0, 1)});
  rig.Write(Keys(1, 0, 2));
  rig.Write(Keys(2, 0, 1));
  rig.engine->Drop(Generation{1});
  EXPECT_EQ(rig.engine->Usage()[0].blocks, 1);
  EXPECT_EQ(rig.engine->Usage()[1].blocks, 0);
  Memory to = rig.Blank(3);
  const auto results = rig.Read({Key(1, 0, 0), Key(1, 0, 1), Key(2, 0, 0)}, to);
  EXPECT_THAT(results[0], HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(results[1], HasCode(absl::StatusCode::kNotFound));
  EXPECT_OK(results[2].status);
}

TEST(TransferEngineTest, ADropWaitsForWritesInFlightAndNothingResurrects) {
  EngineRig rig({.blocks_in_chunk = 1, .chunks_in_flight = 1});
  rig.tier().Hold();
  const std::vector<BlockKey> keys = Keys(1, 0, 3);
  const Memory from = rig.Filled(keys);
  TransferTicket ticket = rig.StartWrite(keys, from);  // the first is in flight, the others are queued
  rig.tier().WaitForCalls(1);
  rig.engine->Drop(Generation{1});
  rig.engine->Drop(Generation{1});
  EXPECT_TRUE(rig.tier().drops().empty()) << "a tier must not drop a generation while its writes are in flight";
  const Memory late_from = rig.Filled({Key(1, 7, 7)});
  EXPECT_THAT(rig.StartWrite({Key(1, 7, 7)}, late_from).Wait(absl::InfiniteFuture())[0],
              HasCode(absl::StatusCode::kNotFound));
  rig.tier().Release();
  const auto results = ticket.Wait(absl::InfiniteFuture());
  EXPECT_OK(results[0].status);
  EXPECT_THAT(results[1], HasCode(absl::StatusCode::kNotFound));
  EXPECT_EQ(rig.tier().drops(), std::vector<Generation>{Generation{1}});
  EXPECT_TRUE(rig.tier().stored().empty());
  for (const BlockKey& key : keys) EXPECT_FALSE(rig.engine->Holds(key));
  EXPECT_EQ(rig.engine->Stats().refused, 0);
  EXPECT_OK(rig.Write(keys)[0].status);  // the name may be used again
  EXPECT_TRUE(rig.engine->Holds(keys[0]));
}

TEST(TransferEngineTest, AFullTierPassesBlocksOn) {
  EngineRig rig({.tiers = 3});
  const std::vector<BlockKey> keys = Keys(1, 0, 4);
  rig.tier(0).Refuse(absl::ResourceExhaustedError("full"), {keys[1], keys[2]});
  rig.tier(1).Refuse(absl::ResourceExhaustedError("full"), {keys[2]});
  const auto results = rig.Write(keys);
  EXPECT_EQ(results[0].tier, 0);
  EXPECT_EQ(results[1].tier, 1);
  EXPECT_EQ(results[2].tier, 2);
  EXPECT_EQ(results[3].tier, 0);
  Memory to = rig.Blank(4);
  for (const MoveResult& result : rig.Read(keys, to)) EXPECT_OK(result.status);
  EXPECT_EQ(to, rig.Filled(keys));
}

TEST(TransferEngineTest, WhenNoTierTakesABlockTheFirstReasonIsTold) {
  EngineRig rig({.tiers = 2});
  rig.tier(0).Refuse(absl::ResourceExhaustedError("full"));
  rig.tier(1).Refuse(absl::UnavailableError("gone"));
  EXPECT_THAT(rig.Write({Key(1, 0, 0)})[0].status, StatusIs(absl::StatusCode::kResourceExhausted, "full"));
  EXPECT_FALSE(rig.engine->Holds(Key(1, 0, 0)));
  EXPECT_EQ(rig.engine->Stats().refused, 1);
  EngineRig none({.tiers = 0});
  EXPECT_THAT(none.Write({Key(1, 0, 0)})[0], HasCode(absl::StatusCode::kUnavailable));
}

TEST(TransferEngineTest, ATierThatIsAwayIsSkippedForAWhile) {
  EngineRig rig({.tiers = 2});
  rig.tier(0).Refuse(absl::UnavailableError("gone"));
  EXPECT_EQ(rig.Write({Key(1, 0, 0)})[0].tier, 1);
  rig.tier(0).Refuse(absl::OkStatus());
  EXPECT_EQ(rig.Write({Key(1, 0, 1)})[0].tier, 1);
  EXPECT_EQ(rig.tier(0).WaitForCalls(1).size(), 1u) << "it was asked again too soon";
  rig.clock.Advance(absl::Seconds(1));
  EXPECT_EQ(rig.Write({Key(1, 0, 2)})[0].tier, 0);
}

TEST(TransferEngineTest, LostBlocksAreForgotten) {
  EngineRig rig;
  const std::vector<BlockKey> keys = Keys(1, 0, 3);
  rig.Write(keys);
  rig.tier().Lose(keys[0]);
  Memory to = rig.Blank(3);
  EXPECT_THAT(rig.Read(keys, to)[0], HasCode(absl::StatusCode::kNotFound));
  EXPECT_FALSE(rig.engine->Holds(keys[0]));
  EXPECT_TRUE(rig.engine->Holds(keys[1]));
  rig.tier().AnswerReadsWith(absl::UnavailableError("gone"));
  EXPECT_THAT(rig.Read({keys[1]}, to)[0], HasCode(absl::StatusCode::kUnavailable));
  EXPECT_FALSE(rig.engine->Holds(keys[1]));
  EXPECT_EQ(rig.engine->Stats().missing, 2);
  rig.tier().AnswerReadsWith(absl::OkStatus());
  rig.Write({keys[0]});
  EXPECT_OK(rig.Read({keys[0]}, to)[0].status);
}

TEST(TransferEngineTest, BusyTimeIsTheUnionOfMovesUnderWay) {
  EngineRig rig;
  const std::vector<BlockKey> keys = Keys(1, 0, 2);
  rig.Write(keys);
  EXPECT_EQ(rig.engine->Stats().busy_out, absl::ZeroDuration());
  rig.tier().Hold();
  Memory a = rig.Blank(1), b = rig.Blank(1);
  TransferTicket first = rig.StartRead({keys[0]}, a);
  rig.tier().WaitForCalls(2);
  rig.clock.Advance(absl::Seconds(3));
  TransferTicket second = rig.StartRead({keys[1]}, b);
  rig.tier().WaitForCalls(3);
  rig.clock.Advance(absl::Seconds(4));
  EXPECT_EQ(rig.engine->Stats().busy_in, absl::Seconds(7));  // still under way
  rig.tier().Answer();
  first.Wait(absl::InfiniteFuture());
  rig.clock.Advance(absl::Seconds(5));
  rig.tier().Answer();
  second.Wait(absl::InfiniteFuture());
  rig.clock.Advance(absl::Seconds(100));
  EXPECT_EQ(rig.engine->Stats().busy_in, absl::Seconds(12));
  EXPECT_EQ(rig.engine->Stats().busy_out, absl::ZeroDuration());
}

TEST(TransferEngineTest, DestructionWaitsForWhatIsInFlightAndEndsTheRest) {
  const std::vector<BlockKey> keys = Keys(1, 0, 4);
  const Memory from = EngineRig::Filled(keys);
  Memory to = EngineRig::Blank(4);
  EngineRig rig({.blocks_in_chunk = 1, .chunks_in_flight = 1});
  rig.tier().Hold();
  TransferTicket write = rig.StartWrite(keys, from), read = rig.StartRead(keys, to);
  rig.tier().WaitForCalls(1);
  Thread answers("answers", [&] { rig.tier().Release(); });
  rig.engine.reset();
  answers.Join();
  rig.tiers.clear();
  EXPECT_TRUE(write.done());
  EXPECT_TRUE(read.done());
  EXPECT_OK(write.Wait(absl::InfinitePast())[0].status);
  const auto results = read.Wait(absl::InfinitePast());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (results[i].status.ok()) {
      EXPECT_EQ(to[i], from[i]);
    } else {
      EXPECT_EQ(to[i], EngineRig::Blank(1)[0]);
    }
  }
}

// Two threads, a real tier that is too small beside a scripted one: whatever is delivered is right.
TEST(TransferEngineTest, ManyThreadsNeverSeeWrongBytes) {
  FaultPoints faults;
  RealClock clock;
  std::vector<std::unique_ptr<KvTier>> tiers;
  tiers.push_back(*MakeHostTier({.host_bytes = 20000}));
  tiers.push_back(std::make_unique<ScriptedTier>("large"));
  TransferEngine engine({.payload_bytes = kRigPayload, .chunk_bytes = 3 * kRigPayload}, std::move(tiers), clock,
                        faults);
  const auto use = [&](uint64_t thread) {
    auto entropy = MakeSeededEntropy(thread);
    for (int round = 0; round < 300; ++round) {
      const uint64_t generation = 100 * thread + round / 20;
      std::vector<BlockKey> keys = Keys(generation, static_cast<int32_t>(entropy->Next() % 4), 8);
      const Memory from = EngineRig::Filled(keys);
      std::vector<KvWrite> writes;
      for (size_t i = 0; i < keys.size(); ++i) writes.push_back({keys[i], from[i].data()});
      TransferTicket write = engine.Write(std::move(writes), clock.Now() + absl::Seconds(1));
      Memory to = EngineRig::Blank(8);
      std::vector<KvRead> reads;
      for (size_t i = 0; i < keys.size(); ++i) reads.push_back({keys[i], to[i].data()});
      TransferTicket read = engine.Read(std::move(reads), clock.Now());
      const bool impatient = entropy->Next() % 4 == 0;
      const auto results = read.Wait(impatient ? clock.Now() : absl::InfiniteFuture());
      for (size_t i = 0; i < keys.size(); ++i) {
        if (results[i].status.ok()) {
          EXPECT_EQ(to[i], from[i]);
        }
        if (!impatient) {
          EXPECT_OK(results[i].status);
        }
      }
      if (round % 20 == 19) engine.Drop(Generation{generation});
      write.Wait(absl::InfiniteFuture());
    }
  };
  {
    Thread one("one", [&] { use(1); }), two("two", [&] { use(2); });
  }
  for (const TierUsage& usage : engine.Usage()) EXPECT_EQ(usage.blocks, 0);
  EXPECT_EQ(engine.Stats().corrupt, 0);
}

}  // namespace
}  // namespace interlace
