// SubscribeKvEvents as gateways call it.
#include "coordinator/front/kv_event_stream.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "coordinator/front/grpc_server.h"
#include "coordinator/front/vllm_engine_service.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

namespace wire = smg::grpc::common;
using ::testing::HasSubstr;
using vllm::grpc::engine::VllmEngine;

constexpr uint64_t kFirst = 5000;

struct Rig : IntakeRig {
  explicit Rig(size_t most_batches = 100, bool on = true, absl::Status admitted = absl::OkStatus()) {
    log = std::make_unique<KvEventLog>(KvEventLog::Options{.first_number = kFirst, .most_batches = most_batches},
                                       *executor, metrics);
    service = std::make_unique<VllmEngineService>(
        VllmEngineService::Options{.admit = [admitted](const grpc::CallbackServerContext&) { return admitted; },
                                   .kv_events = on ? log.get() : nullptr},
        intake);
    absl::StatusOr<std::unique_ptr<GrpcServer>> listening = GrpcServer::Listen(
        {.host = "127.0.0.1", .setting = "server.grpc_port=N", .max_message = 1 << 20}, service.get());
    CHECK(listening.ok());
    server = *std::move(listening);
    stub = VllmEngine::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", server->port()), grpc::InsecureChannelCredentials()));
  }
  ~Rig() {
    server.reset();
    service.reset();
    executor.reset();
  }
  // A block behind `parent` (0: it begins a text), of four tokens.
  void Store(uint64_t block, uint64_t parent = 0, std::shared_ptr<const ServedAdapter> adapter = nullptr) {
    const std::vector<int32_t> tokens(4, static_cast<int32_t>(block));
    log->observer().OnSealed({{block, block}, {parent, parent}, tokens, "", std::move(adapter)});
    log->observer().OnStored({block, block}, KvMedium::kDevice);
    Settle();
  }
  // What was told has become batches.
  void Settle() {
    absl::Notification done;
    executor->Post([&] { done.Notify(); });
    done.WaitForNotification();
  }

  Metrics metrics{"test"};
  std::unique_ptr<ThreadExecutor> executor = std::make_unique<ThreadExecutor>("test-events");
  std::unique_ptr<KvEventLog> log;
  std::unique_ptr<VllmEngineService> service;
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<VllmEngine::Stub> stub;
};

// One subscriber, and what he believes: by block, its medium.
struct Subscriber {
  Subscriber(Rig& rig, uint64_t start) {
    wire::SubscribeKvEventsRequest ask;
    ask.set_start_sequence_number(start);
    reader = rig.stub->SubscribeKvEvents(&context, ask);
  }
  ~Subscriber() {
    context.TryCancel();
    wire::KvEventBatch left;
    while (reader != nullptr && reader->Read(&left)) {
    }
  }
  bool Read() {
    if (!reader->Read(&batch)) return false;
    EXPECT_TRUE(number == 0 || batch.sequence_number() == number + 1);
    number = batch.sequence_number();
    for (const wire::KvCacheEvent& event : batch.events()) {
      if (event.has_cleared()) media.clear();
      for (const wire::KvBlock& block : event.stored().blocks()) {
        media[block.block_hash()].insert(event.stored().medium());
        EXPECT_EQ(block.cache_level(), event.stored().tier() == wire::KV_CACHE_TIER_DEVICE ? 0 : 1);
      }
      for (const int64_t hash : event.removed().block_hashes()) media[hash].erase(event.removed().medium());
    }
    return true;
  }
  void ReadTo(uint64_t last) {
    while (number < last) ASSERT_TRUE(Read());
  }
  std::map<int64_t, std::set<std::string>> media;
  uint64_t number = 0;
  wire::KvEventBatch batch;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<wire::KvEventBatch>> reader;
};

TEST(SubscribeKvEvents, BlocksOfAnAdapterSayItsNameAndItsNumber) {
  Rig rig;
  rig.Store(1);
  rig.Store(2, 0, std::make_shared<const ServedAdapter>(ServedAdapter{7, "sql", "/sql", "digest"}));
  Subscriber late(rig, 0);
  ASSERT_TRUE(late.Read());
  std::map<int64_t, std::pair<std::string, int64_t>> adapters;
  for (const wire::KvCacheEvent& event : late.batch.events()) {
    EXPECT_EQ(event.stored().has_lora_name(), !event.stored().lora_name().empty());
    for (const wire::KvBlock& block : event.stored().blocks()) {
      adapters[block.block_hash()] = {event.stored().lora_name(), block.has_lora_id() ? block.lora_id() : -1};
    }
  }
  const std::map<int64_t, std::pair<std::string, int64_t>> want = {{1, {"", -1}}, {2, {"sql", 7}}};
  EXPECT_EQ(adapters, want);
}

using Media = std::map<int64_t, std::set<std::string>>;

TEST(SubscribeKvEvents, ASnapshotThenWhatFollows) {
  Rig rig;
  rig.Store(1);
  rig.Store(2, 1);
  Subscriber subscriber(rig, 0);
  ASSERT_TRUE(subscriber.Read());
  EXPECT_EQ(subscriber.number, rig.log->last());
  EXPECT_EQ(subscriber.batch.snapshot().count(), 1u);
  EXPECT_EQ(subscriber.batch.snapshot().blocks(), 2u);
  EXPECT_EQ(subscriber.batch.snapshot().unknown_before(), 0u);
  ASSERT_EQ(subscriber.batch.events_size(), 2);
  EXPECT_TRUE(subscriber.batch.events(0).has_cleared());
  const wire::KvBlocksStored& stored = subscriber.batch.events(1).stored();
  EXPECT_FALSE(stored.has_parent_block_hash());
  ASSERT_EQ(stored.blocks_size(), 2);
  EXPECT_EQ(stored.blocks(1).block_size(), 4);
  EXPECT_EQ(stored.blocks(1).token_ids_size(), 4);
  EXPECT_EQ(stored.blocks(1).token_ids(0), 2u);
  EXPECT_EQ(subscriber.batch.events(1).event_id(), 0u);

  rig.Store(3, 2);
  ASSERT_TRUE(subscriber.Read());
  EXPECT_FALSE(subscriber.batch.has_snapshot());
  EXPECT_EQ(subscriber.batch.dp_rank(), 0);
  EXPECT_GT(subscriber.batch.timestamp(), 1e9);
  EXPECT_EQ(subscriber.batch.events(0).stored().parent_block_hash(), 2);
  EXPECT_GT(subscriber.batch.events(0).event_id(), 0u);
  rig.log->observer().OnStored({2, 2}, KvMedium::kHost);
  rig.Settle();
  ASSERT_TRUE(subscriber.Read());
  EXPECT_EQ(subscriber.batch.events(0).stored().blocks(0).token_ids_size(), 0) << "a move carries no tokens";
  EXPECT_EQ(subscriber.batch.events(1).removed().cache_level(), 0);
  EXPECT_EQ(subscriber.media[2], std::set<std::string>{"CPU"});
  rig.log->observer().OnRemoved({1, 1}, KvMedium::kDevice);
  rig.Settle();
  ASSERT_TRUE(subscriber.Read());
  for (const int64_t block : {1, 2, 3}) EXPECT_TRUE(subscriber.media[block].empty()) << "no prefix is left";
}

TEST(SubscribeKvEvents, GoesOnBehindTheNumberThatTheSubscriberHas) {
  Rig rig(/*most_batches=*/5);
  for (uint64_t block = 1; block <= 8; ++block) rig.Store(block);
  const uint64_t last = rig.log->last();
  Subscriber subscriber(rig, last - 3);
  subscriber.ReadTo(last);
  EXPECT_EQ(subscriber.media, (Media{{6, {"GPU"}}, {7, {"GPU"}}, {8, {"GPU"}}}));
  rig.Store(9);
  ASSERT_TRUE(subscriber.Read());
  // Of a former process, no longer kept, never given.
  for (const uint64_t start : {kFirst - 100, last - 6, last + 1000}) {
    Subscriber lost(rig, start);
    EXPECT_FALSE(lost.Read());
    const grpc::Status end = lost.reader->Finish();
    lost.reader.reset();
    EXPECT_EQ(end.error_code(), grpc::StatusCode::OUT_OF_RANGE);
    EXPECT_THAT(end.error_message(), HasSubstr("subscribe with 0"));
  }
}

TEST(SubscribeKvEvents, OneWhoDoesNotReadIsToldThatHeFellBehind) {
  Rig rig(/*most_batches=*/20);
  Subscriber slow(rig, 0);
  ASSERT_TRUE(slow.Read());
  std::vector<int32_t> tokens(30000, 9);
  for (uint64_t block = 1; block <= 400; ++block) {  // more than the connection's buffers take
    rig.log->observer().OnSealed({{block, block}, {}, tokens, ""});
    rig.log->observer().OnStored({block, block}, KvMedium::kDevice);
    rig.Settle();
  }
  int read = 0;
  while (slow.reader->Read(&slow.batch)) ++read;
  EXPECT_LT(read, 400);
  EXPECT_EQ(slow.reader->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
  slow.reader.reset();
  Subscriber anew(rig, 0);
  anew.ReadTo(rig.log->last());
  EXPECT_EQ(anew.media.size(), 400u);
  EXPECT_EQ(rig.metrics.Total("interlace_kv_event_missed_total"), 1);
}

TEST(SubscribeKvEvents, EndsWhenTheServerStopsAndIsRefusedWhereItMayNotBe) {
  Rig rig;
  Subscriber subscriber(rig, 0);
  ASSERT_TRUE(subscriber.Read());
  rig.service->EndSubscriptions(absl::UnavailableError("the server stops"));
  EXPECT_FALSE(subscriber.Read());
  EXPECT_EQ(subscriber.reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  subscriber.reader.reset();
  Rig off(100, false), strict(100, true, absl::PermissionDeniedError("an operator's key"));
  for (const auto& [where, code] :
       std::vector<std::pair<Rig*, grpc::StatusCode>>{{&rig, grpc::StatusCode::UNAVAILABLE},
                                                      {&off, grpc::StatusCode::FAILED_PRECONDITION},
                                                      {&strict, grpc::StatusCode::PERMISSION_DENIED}}) {
    Subscriber refused(*where, 0);
    EXPECT_FALSE(refused.Read());
    EXPECT_EQ(refused.reader->Finish().error_code(), code);
    refused.reader.reset();
  }
}

TEST(SubscribeKvEvents, TakesABoundedNumber) {
  Rig rig;
  std::vector<std::unique_ptr<Subscriber>> subscribers;
  for (size_t i = 0; i < KvEventStreams::kMostSubscribers; ++i) {
    subscribers.push_back(std::make_unique<Subscriber>(rig, 0));
    ASSERT_TRUE(subscribers.back()->Read());
  }
  {
    Subscriber one_more(rig, 0);
    EXPECT_FALSE(one_more.Read());
    EXPECT_EQ(one_more.reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    one_more.reader.reset();
  }
  subscribers.pop_back();  // cancelled: its place is free once gRPC is done with it
  bool taken = false;
  for (int tries = 0; tries < 10000 && !taken; ++tries) taken = Subscriber(rig, 0).Read();
  EXPECT_TRUE(taken);
}

}  // namespace
}  // namespace interlace
