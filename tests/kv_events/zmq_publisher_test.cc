// The publisher's sockets, with readers that behave and readers that do not. With pyzmq:
// tests/cluster/test_kv_events.py.
#include "coordinator/kv_events/zmq_publisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zmq.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "tests/kv_events/kv_world.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Frames = std::vector<std::string>;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kEnd(8, '\xff');

std::string BigEndian(uint64_t number) {
  std::string bytes;
  for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(number >> shift & 0xff));
  return bytes;
}
uint64_t Number(const std::string& bytes) {
  uint64_t number = 0;
  for (const char byte : bytes) number = number << 8 | static_cast<unsigned char>(byte);
  return number;
}

class Socket {
 public:
  Socket(void* context, int kind, const std::string& at, int most_unread = 0) : socket_(zmq_socket(context, kind)) {
    const int none = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof(none));
    zmq_setsockopt(socket_, ZMQ_RCVHWM, &most_unread, sizeof(most_unread));
    if (kind == ZMQ_SUB) zmq_setsockopt(socket_, ZMQ_SUBSCRIBE, "kv@", 3);
    EXPECT_EQ(zmq_connect(socket_, absl::StrCat("tcp://", at).c_str()), 0);
  }
  ~Socket() { zmq_close(socket_); }
  void Send(const Frames& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      zmq_send(socket_, frames[i].data(), frames[i].size(), i + 1 < frames.size() ? ZMQ_SNDMORE : 0);
    }
  }
  // What comes within `patience`; empty: nothing.
  Frames Receive(int patience_ms = 20000) {
    zmq_pollitem_t item{socket_, 0, ZMQ_POLLIN, 0};
    Frames frames;
    if (zmq_poll(&item, 1, patience_ms) <= 0) return frames;
    int more = 1;
    while (more != 0) {
      zmq_msg_t frame;
      zmq_msg_init(&frame);
      EXPECT_GE(zmq_msg_recv(&frame, socket_, 0), 0);
      frames.emplace_back(static_cast<const char*>(zmq_msg_data(&frame)), zmq_msg_size(&frame));
      more = zmq_msg_more(&frame);
      zmq_msg_close(&frame);
    }
    return frames;
  }
  // What a replay from `first` on brings, without its end.
  std::vector<Frames> Replay(uint64_t first) {
    Send({"", BigEndian(first)});
    std::vector<Frames> batches;
    for (;;) {
      Frames frames = Receive();
      if (frames.size() != 3 || !frames[0].empty()) {
        ADD_FAILURE() << "no end of the replay";
        return batches;
      }
      if (frames[1] == kEnd) {
        EXPECT_EQ(frames[2], "");
        return batches;
      }
      batches.push_back({frames[1], frames[2]});
    }
  }

 private:
  void* const socket_;
};

class ZmqPublisherTest : public testing::Test {
 protected:
  void Open(absl::Duration patience = absl::Seconds(20)) {
    absl::StatusOr<std::unique_ptr<ZmqPublisher>> opened =
        ZmqPublisher::Open({"127.0.0.1:0", "127.0.0.1:0", "kv@pod@model", patience}, log_, metrics_);
    ASSERT_OK(opened.status());
    publisher_ = *std::move(opened);
  }
  void TearDown() override {
    if (publisher_ != nullptr) publisher_->Stop();
    executor_.reset();
    publisher_.reset();
    zmq_ctx_term(context_);
  }
  void Store(uint64_t block, size_t tokens = 4) {
    const std::vector<int32_t> own(tokens, static_cast<int32_t>(100000 + block));
    log_.observer().OnSealed({{block, block}, {}, own, ""});
    log_.observer().OnStored({block, block}, KvMedium::kDevice);
  }

  Metrics metrics_{"test"};
  std::unique_ptr<ThreadExecutor> executor_ = std::make_unique<ThreadExecutor>("test-events");
  KvEventLog log_{{.first_number = 5000}, *executor_, metrics_};
  std::unique_ptr<ZmqPublisher> publisher_;
  void* const context_ = zmq_ctx_new();
};

TEST_F(ZmqPublisherTest, ReadersGetWhatIsPublishedAndAgainWhatTheyMissed) {
  Open();
  Socket subscriber(context_, ZMQ_SUB, publisher_->publish_at());
  Frames heard;
  uint64_t stored = 0;
  while (heard.empty() && stored < 2000) {  // a subscription takes its time
    Store(++stored);
    heard = subscriber.Receive(5);
  }
  ASSERT_EQ(heard.size(), 3u);
  EXPECT_EQ(heard[0], "kv@pod@model");
  const uint64_t number = Number(heard[1]);
  EXPECT_GT(number, 5000u);

  Socket reader(context_, ZMQ_DEALER, publisher_->replay_at());
  const std::vector<Frames> all = reader.Replay(0);
  ASSERT_FALSE(all.empty());
  KvReader believes;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(Number(all[i][0]), 5000 + i);
    believes.Read(all[i][1]);
    if (Number(all[i][0]) != number) continue;
    EXPECT_EQ(all[i][1], heard[2]);
  }
  EXPECT_EQ(believes.belief().size(), stored);
  const std::vector<Frames> rest = reader.Replay(number);
  ASSERT_FALSE(rest.empty());
  EXPECT_EQ(Number(rest[0][0]), number);
  EXPECT_TRUE(reader.Replay(uint64_t{1} << 60).empty());
}

TEST_F(ZmqPublisherTest, WhatIsNoRequestIsNotAnswered) {
  Open();
  Socket reader(context_, ZMQ_DEALER, publisher_->replay_at());
  reader.Send({BigEndian(1)});
  reader.Send({"x", BigEndian(1)});
  reader.Send({"", "1234567"});
  reader.Send({"", BigEndian(1), "more"});
  EXPECT_EQ(reader.Replay(0).size(), 1u) << "the answer to the last alone";
  Socket shouter(context_, ZMQ_DEALER, publisher_->replay_at());
  shouter.Send({"", std::string(100000, 'x')});  // ends its connection
  EXPECT_EQ(reader.Replay(0).size(), 1u);
}

TEST_F(ZmqPublisherTest, AReaderThatDoesNotReadHoldsNobodyUp) {
  Open(absl::Milliseconds(20));
  for (uint64_t block = 1; block <= 300; ++block) {
    Store(block, 3000);
    absl::Notification batched;
    executor_->Post([&] { batched.Notify(); });
    batched.WaitForNotification();
  }
  Socket good(context_, ZMQ_DEALER, publisher_->replay_at());
  ASSERT_FALSE(good.Replay(0).empty());
  Socket lazy(context_, ZMQ_DEALER, publisher_->replay_at(), 1);
  for (int ask = 0; ask < 8; ++ask) lazy.Send({"", BigEndian(0)});
  const auto broken = [&] {
    for (const absl::string_view line : absl::StrSplit(metrics_.Text(), '\n')) {
      if (absl::StartsWith(line, "interlace_kv_event_replays_total") && absl::StrContains(line, "broken")) {
        return !absl::EndsWith(line, " 0");
      }
    }
    return false;
  };
  for (int ask = 0; ask < 10000 && !broken(); ++ask) EXPECT_TRUE(good.Replay(uint64_t{1} << 60).empty());
  EXPECT_TRUE(broken()) << metrics_.Text();
  EXPECT_FALSE(good.Replay(0).empty());
}

TEST_F(ZmqPublisherTest, AnAddressThatCannotBeHadIsNamed) {
  Open();
  EXPECT_THAT(ZmqPublisher::Open({publisher_->publish_at(), "", ""}, log_, metrics_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("kv_events.zmq="), HasSubstr(publisher_->publish_at()))));
  EXPECT_THAT(ZmqPublisher::Open({"127.0.0.1:0", "nowhere", ""}, log_, metrics_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("kv_events.zmq_replay=nowhere")));
}

}  // namespace
}  // namespace interlace
