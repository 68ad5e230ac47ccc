// Who is let in: two ends of the handshake, without a socket, and the tags of what they say afterwards.
#include "transport/handshake.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"
#include "transport/frame_mac.h"

namespace interlace {
namespace {

constexpr absl::string_view kSecret = "thirty-two bytes that nobody can guess";
constexpr absl::string_view kNonce = "0123456789abcdef0123456789abcdef";

class Ends {
 public:
  explicit Ends(uint64_t seed, const LinkKey& dialled = KeyOfListener(kSecret, kNonce),
                const LinkKey& listened = KeyOfListener(kSecret, kNonce))
      : random_(seed), dialler_(dialled, Drawn()), listener_(listened, Drawn()) {}

  // `edit` gets each message on its way, by number.
  absl::Status Run(const std::function<void(int, std::string*)>& edit = [](int, std::string*) {}) {
    said[0] = dialler_.Greet();
    edit(0, &said[0]);
    absl::StatusOr<std::string> welcome = listener_.TakeGreeting(said[0]);
    if (!welcome.ok()) return welcome.status();
    said[1] = *std::move(welcome);
    edit(1, &said[1]);
    absl::StatusOr<std::string> confirm = dialler_.TakeWelcome(said[1]);
    if (!confirm.ok()) return confirm.status();
    said[2] = *std::move(confirm);
    edit(2, &said[2]);
    return listener_.TakeConfirm(said[2]);
  }
  Handshake& dialler() { return dialler_; }
  Handshake& listener() { return listener_; }
  std::string said[3];

 private:
  Handshake::Self Drawn() {
    Handshake::Self self{.token = random_(), .fabric = std::string(random_() % 300, 'f'), .bulk = random_() % 2 == 0};
    for (uint64_t& word : self.random) word = random_();
    selves_.push_back(self);
    return self;
  }

 public:
  const Handshake::Self& self(size_t end) const { return selves_[end]; }

 private:
  std::mt19937_64 random_;
  std::vector<Handshake::Self> selves_;
  Handshake dialler_, listener_;
};

TEST(Handshake, WhoeverKnowsTheKeyIsLetInAndEachLearnsOfTheOther) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Ends ends(seed);
    ASSERT_OK(ends.Run());
    const LinkSession &at_dialler = ends.dialler().session(), &at_listener = ends.listener().session();
    EXPECT_EQ(at_dialler.send, at_listener.receive);
    EXPECT_EQ(at_dialler.receive, at_listener.send);
    EXPECT_NE(at_dialler.send, at_dialler.receive);
    EXPECT_EQ(at_dialler.peer_token, ends.self(1).token);
    EXPECT_EQ(at_listener.peer_token, ends.self(0).token);
    EXPECT_EQ(at_dialler.peer_fabric, ends.self(1).fabric);
    EXPECT_EQ(at_listener.peer_fabric, ends.self(0).fabric);
    EXPECT_EQ(at_dialler.bulk, ends.self(0).bulk || ends.self(1).bulk);
    EXPECT_EQ(at_dialler.bulk, at_listener.bulk);
    Ends others(seed + 1000);
    ASSERT_OK(others.Run());
    EXPECT_NE(others.dialler().session().send, at_dialler.send) << "keys are of one connection";
  }
}

TEST(Handshake, AnotherSecretOrAnotherProcessIsRefusedByEitherEnd) {
  const LinkKey right = KeyOfListener(kSecret, kNonce);
  for (const LinkKey& wrong : {KeyOfListener("", kNonce), KeyOfListener(kSecret, "another"),
                               KeyOfListener(absl::StrCat(kSecret, kNonce.substr(0, 1)), kNonce.substr(1))}) {
    EXPECT_NE(right, wrong);
    Ends stranger_dials(1, wrong, right), stranger_listens(2, right, wrong);
    EXPECT_THAT(stranger_dials.Run(), StatusIs(absl::StatusCode::kPermissionDenied, ::testing::HasSubstr("secret")));
    EXPECT_THAT(stranger_listens.Run(), StatusIs(absl::StatusCode::kPermissionDenied, ::testing::_));
    // A dialler that goes on although it cannot check: with any proof at all.
    Handshake listener(right, {.token = 1});
    ASSERT_OK(listener.TakeGreeting(Handshake(wrong, {.token = 2}).Greet()));
    EXPECT_THAT(listener.TakeConfirm(stranger_dials.said[1].substr(0, 32)),
                StatusIs(absl::StatusCode::kPermissionDenied, ::testing::_));
  }
}

TEST(Handshake, AChangeOfAnyByteOnTheWayIsNoticedByWhoReadsIt) {
  for (int message = 0; message < 3; ++message) {
    Ends whole(7);
    ASSERT_OK(whole.Run());
    for (size_t at = 0; at < whole.said[message].size(); ++at) {
      Ends ends(7);
      EXPECT_FALSE(ends.Run([&](int number, std::string* bytes) {
                         if (number == message) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ 1);
                       })
                       .ok())
          << "message " << message << " byte " << at;
    }
    for (size_t length = 0; length < whole.said[message].size(); ++length) {
      Ends ends(7);
      EXPECT_FALSE(ends.Run([&](int number, std::string* bytes) {
                         if (number == message) bytes->resize(length);
                       })
                       .ok())
          << "message " << message << " cut to " << length;
    }
  }
}

// Whoever listened in says again what he heard, to either end, or sends an end its own words back.
TEST(Handshake, WhatWasRecordedIsOfNoUse) {
  Ends recorded(11);
  ASSERT_OK(recorded.Run());
  Ends fresh(12);
  const std::string greeting = fresh.dialler().Greet();
  EXPECT_THAT(fresh.dialler().TakeWelcome(recorded.said[1]),
              StatusIs(absl::StatusCode::kPermissionDenied, ::testing::_));
  const absl::StatusOr<std::string> welcome = fresh.listener().TakeGreeting(recorded.said[0]);
  ASSERT_OK(welcome);
  EXPECT_THAT(fresh.listener().TakeConfirm(recorded.said[2]),
              StatusIs(absl::StatusCode::kPermissionDenied, ::testing::_));
  EXPECT_THAT(fresh.listener().TakeConfirm(welcome->substr(48)),
              StatusIs(absl::StatusCode::kPermissionDenied, ::testing::_))
      << "the listener's own proof";
}

TEST(FrameMac, HoldsForWhatWasSaidAndForNothingElse) {
  Ends ends(21);
  ASSERT_OK(ends.Run());
  FrameMac sender(ends.dialler().session().send), receiver(ends.listener().session().receive);
  FrameMac other_way(ends.listener().session().send);
  std::mt19937_64 random(3);
  for (uint64_t sequence = 0; sequence < 300; ++sequence) {
    std::string header(random() % 200, 'h'), body(random() % 3000, 'b');
    for (std::string* part : {&header, &body}) {
      for (char& c : *part) c = static_cast<char>(random());
    }
    Frame frame{.kind = FrameKind::kMessage,
                .channel = static_cast<uint16_t>(1 + random() % 6),
                .header_bytes = static_cast<uint32_t>(header.size()),
                .body_bytes = body.size(),
                .sequence = sequence,
                .token = random()};
    frame.tag = sender.TagOf(frame, header, body);
    ASSERT_TRUE(receiver.Holds(frame, header, body));
    EXPECT_FALSE(other_way.Holds(frame, header, body)) << "sent back to its sender";
    Frame changed = frame;
    reinterpret_cast<unsigned char*>(&changed)[random() % sizeof changed] ^=
        static_cast<unsigned char>(1 + random() % 255);
    EXPECT_FALSE(receiver.Holds(changed, header, body));
    for (std::string* part : {&header, &body}) {
      if (part->empty()) continue;
      char& byte = (*part)[random() % part->size()];
      byte = static_cast<char>(byte ^ 1);
      EXPECT_FALSE(receiver.Holds(frame, header, body));
      byte = static_cast<char>(byte ^ 1);
    }
    changed = frame;
    ++changed.sequence;
    EXPECT_FALSE(receiver.Holds(changed, header, body)) << "as the next one";
  }
}

}  // namespace
}  // namespace interlace
