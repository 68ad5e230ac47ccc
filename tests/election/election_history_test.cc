// Histories of several coordinators and a store in virtual time: never two act as leader, and somebody leads within a
// bounded time once the store is reached.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "coordinator/election/election_state.h"

namespace interlace {
namespace {

constexpr absl::Duration kLease = absl::Milliseconds(1500);
constexpr absl::Duration kTrouble = absl::Seconds(40);
const absl::Time kBegin = absl::UnixEpoch();

// How bad it gets.
struct Weather {
  double loss = 0.1;      // of each message
  double slow = 0.1;      // messages that take up to three leases
  double skew = 0.05;     // clocks run by this much too fast or too slow
  double pause = 0.01;    // of each turn: the process stands still for up to four leases
  double crash = 0.003;   // of each turn: it dies, and another one is started
  double deletion = 0.5;  // once, at some time: somebody deletes the record
  double resignation = 0.002;
};
constexpr Weather kCalm{.loss = 0, .slow = 0, .skew = 0.05, .pause = 0, .crash = 0, .deletion = 0, .resignation = 0};

class Chance {
 public:
  explicit Chance(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {}
  double Share() { return static_cast<double>(entropy_->Next() >> 11) * 0x1p-53; }
  bool Once(double probability) { return Share() < probability; }
  absl::Duration Within(absl::Duration least, absl::Duration most) { return least + (most - least) * Share(); }

 private:
  const std::unique_ptr<Entropy> entropy_;
};

class History {
 public:
  struct Seen {
    int leads = 0;                                     // that began
    int overlaps = 0;                                  // leads that began while another's lasted
    int backwards = 0;                                 // leads in an epoch not above that of a former leader
    int losses = 0;                                    // messages that did not arrive
    int late = 0;                                      // writes whose answer came after their lead
    int resumed = 0;                                   // leads that were over for a while and went on
    int usurped = 0;                                   // of those, with another one's lead in between
    absl::Duration healed = absl::InfiniteDuration();  // until somebody led once all was well
    int changes_in_calm = 0;                           // of leader, after that
    friend auto operator<=>(const Seen&, const Seen&) = default;
  };

  History(uint64_t seed, int nodes, const Weather& weather) : chance_(seed), weather_(weather) {
    for (int i = 0; i < nodes; ++i) {
      nodes_.push_back(std::make_unique<Node>());
      Node& node = *nodes_.back();
      node.rate = 1 + weather.skew * (2 * chance_.Share() - 1);
      node.zero = kBegin + chance_.Within(absl::Seconds(1), absl::Hours(1000));
      Restart(node);
      At(now_, [this, &node, life = node.life] { Turn(node, life); });
    }
  }

  Seen Run() {
    if (chance_.Once(weather_.deletion)) {
      At(kBegin + chance_.Within(kTrouble / 4, kTrouble), [this] { record_.reset(); });
    }
    RunUntil(kBegin + kTrouble);
    weather_ = kCalm;
    for (auto& node : nodes_) node->cut_until = now_;
    healing_ = now_;
    RunUntil(now_ + 8 * kLease);
    const int before = seen_.leads;
    RunUntil(now_ + 8 * kLease);
    seen_.changes_in_calm = seen_.leads - before;
    return seen_;
  }

 private:
  struct Node {
    double rate = 1;
    absl::Time zero;  // what its clock showed at the begin
    int life = 0;     // which process; what was meant for a former one is dropped
    int calls = 0;    // to the store, in this life and the former ones
    std::unique_ptr<ElectionState> state;
    absl::Time paused_until = kBegin;
    absl::Time cut_until = kBegin;                  // from the store
    absl::Time leads_until = absl::InfinitePast();  // in true time
    std::optional<uint64_t> kept;                   // the epoch of what it keeps
  };
  struct Event {
    absl::Time at;
    uint64_t order;
    std::function<void()> action;
    bool operator>(const Event& other) const { return std::pair(at, order) > std::pair(other.at, other.order); }
  };

  void At(absl::Time at, std::function<void()> action) { events_.push({at, ++order_, std::move(action)}); }
  void RunUntil(absl::Time end) {
    while (!events_.empty() && events_.top().at <= end) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.action();
    }
    now_ = end;
  }
  absl::Time ClockOf(const Node& node) const { return node.zero + (now_ - kBegin) * node.rate; }
  absl::Time TrueTime(const Node& node, absl::Time shown) const { return kBegin + (shown - node.zero) / node.rate; }

  void Restart(Node& node) {
    ++node.life;
    node.leads_until = absl::InfinitePast();
    node.kept.reset();
    ElectionState::Options options{.self = {.holder = absl::StrCat("process ", ++holders_), .lease = kLease},
                                   .first_epoch = 1000 + static_cast<uint64_t>(absl::ToInt64Seconds(now_ - kBegin))};
    node.state = std::make_unique<ElectionState>(options, ClockOf(node));
  }

  // What a process does when it runs; while it stands still, nothing.
  void WhenItRuns(Node& node, int life, std::function<void()> action) {
    if (node.life != life) return;
    if (now_ >= node.paused_until) return action();
    At(node.paused_until, [this, &node, life, action] { WhenItRuns(node, life, action); });
  }

  void Turn(Node& node, int life) {
    WhenItRuns(node, life, [this, &node, life] {
      if (chance_.Once(weather_.pause)) {
        node.paused_until = now_ + chance_.Within(absl::ZeroDuration(), 4 * kLease);
        return Turn(node, life);
      }
      if (chance_.Once(weather_.pause)) node.cut_until = now_ + chance_.Within(absl::ZeroDuration(), 4 * kLease);
      if (chance_.Once(weather_.crash) || node.state->resigned()) {
        Restart(node);
        return At(now_ + chance_.Within(absl::ZeroDuration(), 2 * kLease),
                  [this, &node, now = node.life] { Turn(node, now); });
      }
      if (chance_.Once(weather_.resignation)) node.state->Resign();
      Judge(node);
      Do(node, life, node.state->Next(ClockOf(node)));
    });
  }

  void Do(Node& node, int life, const ElectionState::Turn& turn) {
    const auto then = [this, &node, life] { Turn(node, life); };
    if (turn.kind == ElectionState::Turn::Kind::kWait) {
      // Rounded up, or it would look too early for ever.
      const absl::Time until =
          turn.until == absl::InfiniteFuture() ? now_ + kLease : TrueTime(node, turn.until) + absl::Microseconds(1);
      return At(std::max(now_, until), then);
    }
    const int call = ++node.calls;
    const absl::Time began = ClockOf(node);
    // Whichever comes first of the answer and the end of patience; both wait for the process.
    const auto settle = [this, &node, life, call](std::function<void()> take) {
      WhenItRuns(node, life, [this, &node, life, call, take = std::move(take)] {
        if (node.calls != call) return;
        ++node.calls;
        take();
        Judge(node);
        Turn(node, life);
      });
    };
    At(now_ + turn.within / node.rate,
       [this, &node, settle, began] { settle([this, &node, began] { node.state->OnFailed(began, ClockOf(node)); }); });
    if (Lost(node)) return;
    At(now_ + Travel(), [this, &node, settle, turn, began] {
      const std::optional<StoredRecord> before = record_;
      bool written = false;
      if (turn.kind == ElectionState::Turn::Kind::kWrite && turn.write.version == (record_ ? record_->version : "")) {
        record_ = StoredRecord{turn.write.record, absl::StrCat(++versions_)};
        written = true;
      }
      if (Lost(node)) return;
      At(now_ + Travel(), [this, &node, settle, turn, began, before, written, version = versions_] {
        settle([this, &node, turn, began, before, written, version] {
          if (turn.kind == ElectionState::Turn::Kind::kRead) {
            node.state->OnRead(ClockOf(node), before);
          } else if (written) {
            node.state->OnWritten(began, turn.write.record, absl::StrCat(version));
            seen_.late += ClockOf(node) >= node.state->lead_until();
          } else {
            node.state->OnRefused();
          }
        });
      });
    });
  }

  bool Lost(const Node& node) {
    const bool lost = now_ < node.cut_until || chance_.Once(weather_.loss);
    seen_.losses += lost;
    return lost;
  }
  absl::Duration Travel() {
    return chance_.Once(weather_.slow) ? chance_.Within(absl::ZeroDuration(), 3 * kLease)
                                       : chance_.Within(absl::Microseconds(50), absl::Milliseconds(20));
  }

  // A lead lasts, in true time, until the node's clock shows its end, whether the process runs or not.
  void Judge(Node& node) {
    const absl::Time until = TrueTime(node, node.state->lead_until());
    const bool led = now_ < node.leads_until, leads = now_ < until;
    node.leads_until = node.state->lead_until() == absl::InfinitePast() ? absl::InfinitePast() : until;
    if (ClockOf(node) >= node.state->keep_until()) node.kept.reset();
    if (!leads) return;
    if (node.kept && !led) {
      ++seen_.resumed;
      seen_.usurped +=
          node.kept != node.state->epoch() || std::pair<const Node*, int>(&node, node.life) != last_leader_;
    }
    node.kept = node.state->epoch();
    for (const auto& other : nodes_) seen_.overlaps += other.get() != &node && now_ < other->leads_until;
    const uint64_t epoch = node.state->epoch();
    const std::pair<const Node*, int> leader(&node, node.life);
    if (leader != last_leader_) {
      seen_.backwards += epoch <= highest_;
      last_leader_ = leader;
    }
    highest_ = std::max(highest_, epoch);
    seen_.leads += !led;
    if (healing_ && seen_.healed == absl::InfiniteDuration()) seen_.healed = now_ - *healing_;
  }

  Chance chance_;
  Weather weather_;
  absl::Time now_ = kBegin;
  uint64_t order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<std::unique_ptr<Node>> nodes_;
  int holders_ = 0;
  std::optional<StoredRecord> record_;
  uint64_t versions_ = 0;
  std::pair<const Node*, int> last_leader_;
  uint64_t highest_ = 0;
  std::optional<absl::Time> healing_;
  Seen seen_;
};

TEST(ElectionHistoryTest, NeverTwoLeadAndSomebodyDoesWhenTheStoreIsReached) {
  History::Seen all;
  absl::Duration longest;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    const History::Seen seen = History(seed, 2 + static_cast<int>(seed % 3), Weather()).Run();
    ASSERT_EQ(seen.overlaps, 0) << "two led at once, seed " << seed;
    ASSERT_EQ(seen.backwards, 0) << "an epoch came again, seed " << seed;
    ASSERT_EQ(seen.usurped, 0) << "what was kept went on behind another one's lead, seed " << seed;
    // What was on its way when the trouble ended may take three leases more, and its answer as many.
    ASSERT_LE(seen.healed, 8 * kLease) << "nobody led, seed " << seed;
    ASSERT_EQ(seen.changes_in_calm, 0) << "the leader changed for no reason, seed " << seed;
    all.leads += seen.leads;
    all.losses += seen.losses;
    all.late += seen.late;
    all.resumed += seen.resumed;
    longest = std::max(longest, seen.healed);
  }
  // The histories were not quiet.
  EXPECT_GT(all.leads, 500 * 4);
  EXPECT_GT(all.losses, 500 * 50);
  EXPECT_GT(all.late, 50);
  EXPECT_GT(all.resumed, 50);
  EXPECT_GT(longest, kLease) << "in some, the leader was gone at the end of the trouble";
}

TEST(ElectionHistoryTest, ALeaderThatDiesIsFollowedWithinALeaseAndAFifth) {
  Weather weather = kCalm;
  weather.crash = 0.01;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const History::Seen seen = History(seed, 3, weather).Run();
    ASSERT_EQ(seen.overlaps + seen.backwards, 0) << seed;
    ASSERT_LE(seen.healed, 1.25 * kLease) << seed;
  }
}

// What the histories would show if clocks differed by more than the margin covers: the check can fail.
TEST(ElectionHistoryTest, ClocksThatRunFarApartAreSeenToMakeTwoLeaders) {
  Weather weather = kCalm;
  weather.skew = 0.6;
  weather.pause = 0.02;
  int overlaps = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) overlaps += History(seed, 3, weather).Run().overlaps;
  EXPECT_GT(overlaps, 0);
}

TEST(ElectionHistoryTest, TheSameSeedIsTheSameHistory) {
  EXPECT_TRUE(History(7, 3, Weather()).Run() == History(7, 3, Weather()).Run());
}

}  // namespace
}  // namespace interlace
