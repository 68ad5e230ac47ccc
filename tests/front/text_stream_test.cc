#include "coordinator/front/text_stream.h"

#include <gtest/gtest.h>

#include "common/entropy.h"
#include "coordinator/front/stop_matcher.h"
#include "tests/front/text_model.h"
#include "text/utf8.h"

namespace interlace {
namespace {

// What the whole text shows: up to the stop string that is complete first.
struct Shown {
  std::string text;
  bool stopped = false;
};
Shown ShownOf(const std::string& whole, const std::vector<std::string>& stops) {
  size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops) {
    const size_t at = whole.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
      begin = at;
      end = at + stop.size();
    }
  }
  if (begin == std::string::npos) return {whole, false};
  return {whole.substr(0, begin), true};
}

const char* const kLetters[] = {"a", "b", "c", "\n", "é", "漢", "🙂"};

// Of the first `letters` alone: two make texts that repeat themselves.
std::string RandomText(Entropy& entropy, size_t most, size_t letters = 7) {
  std::string text;
  for (size_t n = entropy.Next() % (most + 1); n > 0; --n) text += kLetters[entropy.Next() % letters];
  return text;
}

std::vector<std::string> RandomStops(Entropy& entropy, size_t longest, size_t letters = 7) {
  std::vector<std::string> stops;
  for (size_t n = entropy.Next() % 4; n > 0; --n) {
    std::string stop = RandomText(entropy, longest, letters);
    if (!stop.empty()) stops.push_back(stop);
  }
  return stops;
}

TEST(StopMatcherTest, EqualsASearchInTheWholeTextWhereverItIsCut) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(1);
  for (int round = 0; round < 30000; ++round) {
    const size_t letters = round % 2 == 0 ? 7 : 2, longest = round % 2 == 0 ? 4 : 8;
    const std::vector<std::string> stops = RandomStops(*entropy, longest, letters);
    StopMatcher matcher(stops);
    std::string whole, out;
    bool stopped = false;
    for (size_t pieces = entropy->Next() % 12; pieces > 0 && !stopped; --pieces) {
      const std::string piece = RandomText(*entropy, 4, letters);
      whole += piece;
      stopped = matcher.Push(piece, &out);
      // Nothing is shown that must be taken back.
      const Shown now = ShownOf(whole, stops);
      ASSERT_EQ(now.text.compare(0, out.size(), out), 0) << "round " << round;
    }
    if (!stopped) matcher.Flush(&out);
    const Shown expected = ShownOf(whole, stops);
    ASSERT_EQ(stopped, expected.stopped) << "round " << round << " text " << whole;
    ASSERT_EQ(out, expected.text) << "round " << round << " text " << whole;
  }
}

TEST(StopMatcherTest, HoldsNoMoreThanAStopStringMayStillNeed) {
  StopMatcher matcher({"STOP"});
  std::string out;
  EXPECT_FALSE(matcher.Push("wait: ST", &out));
  EXPECT_EQ(out, "wait: ");
  EXPECT_FALSE(matcher.Push("ART", &out));
  EXPECT_EQ(out, "wait: START");
}

TEST(StopMatcherTest, ShowsTheStopStringIfItIsWanted) {
  for (const bool include : {false, true}) {
    StopMatcher matcher({"STOP", "OP!"}, include);
    std::string out;
    EXPECT_FALSE(matcher.Push("wait: ST", &out));
    EXPECT_EQ(matcher.met(), "");
    EXPECT_TRUE(matcher.Push("OP! more", &out));
    EXPECT_EQ(out, include ? "wait: STOP" : "wait: ");
    EXPECT_EQ(matcher.met(), "STOP");
  }
}

struct StreamRig {
  FakeEngine engine;
  ManualClock clock;
  InlineExecutor executor;
  int ready = 0;
  std::shared_ptr<TextStream> Make(std::vector<std::string> stops = {}, size_t backlog = 1024, int32_t min_tokens = 0) {
    return std::make_shared<TextStream>(
        TextStream::Options{RequestId{1}, 3, clock.Now(), std::move(stops), backlog, min_tokens}, *TestText().tokenizer,
        engine, clock, executor, [this] { ++ready; });
  }
};

// An executor that keeps what is posted.
class HeldExecutor final : public Executor {
 public:
  bool Post(Task task) override {
    tasks_.push_back(std::move(task));
    return true;
  }
  void RunAll() {
    std::vector<Task> tasks = std::exchange(tasks_, {});
    for (Task& task : tasks) task();
  }
  size_t size() const { return tasks_.size(); }

 private:
  std::vector<Task> tasks_;
};

bool IsWholeUtf8(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Front front = Utf8FrontOf(text);
    if (front.kind != Utf8Front::kComplete) return false;
    text.remove_prefix(front.bytes);
  }
  return true;
}

TEST(TextStreamTest, ShowsTheTextOfTheTokensUpToTheFirstStopString) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(2);
  int stopped_rounds = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::string whole = RandomText(*entropy, 24);
    const std::vector<std::string> stops = RandomStops(*entropy, 3);
    const std::vector<int32_t> tokens = TestText().tokenizer->Encode(whole, false);
    StreamRig rig;
    const auto stream = rig.Make(stops);
    Request request;
    request.prompt = {1, 2, 3};
    std::string out;
    std::optional<RequestEnd> end;
    const auto take = [&] {
      while (std::optional<TextEvent> event = stream->Take()) {
        EXPECT_TRUE(IsWholeUtf8(event->text));
        out += event->text;
        if (event->end) end = event->end;
      }
    };
    for (size_t at = 0; at < tokens.size();) {  // in groups, as steps deliver them
      const size_t group = std::min<size_t>(tokens.size() - at, 1 + entropy->Next() % 3);
      stream->OnTokens(absl::MakeConstSpan(tokens).subspan(at, group));
      at += group;
      if (entropy->Next() % 2) take();
    }
    take();
    const bool stopped_early = end.has_value();
    stream->OnEnd(EndOf(request, static_cast<int32_t>(tokens.size()), FinishReason::kLength));
    take();
    const Shown expected = ShownOf(whole, stops);
    ASSERT_EQ(out, expected.text) << "round " << round;
    ASSERT_TRUE(end.has_value());
    EXPECT_TRUE(end->status.ok());
    EXPECT_EQ(end->reason, expected.stopped ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(rig.engine.stopped(RequestId{1}), stopped_early);
    EXPECT_FALSE(rig.engine.cancelled(RequestId{1}));
    EXPECT_FALSE(stream->Take().has_value());
    stopped_rounds += expected.stopped;
  }
  EXPECT_GT(stopped_rounds, 200);  // the property was put to the test
}

int64_t CodePointsOf(absl::string_view text) {
  int64_t count = 0;
  for (; !text.empty(); text.remove_prefix(Utf8FrontOf(text).bytes)) ++count;
  return count;
}

// Tokens are shown in order, each with its scores, as soon as the text up to their end is out, and those of which
// nothing is out when a stop string ends the stream are never shown. Offsets count code points.
TEST(TextStreamTest, TokensAreShownWithTheirTextAndWithheldWithIt) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(6);
  int dropped = 0, held = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::string whole = RandomText(*entropy, 24);
    const std::vector<std::string> stops = RandomStops(*entropy, 4);
    const std::vector<int32_t> tokens = TestText().tokenizer->Encode(whole, false);
    std::vector<std::string> before = {""};  // the text that was complete before each token
    Detokenizer detokenizer(*TestText().tokenizer);
    for (int32_t token : tokens) before.push_back(before.back() + detokenizer.Push(token));
    StreamRig rig;
    const auto stream = rig.Make(stops);
    std::string out;
    std::vector<ShownToken> shown;
    bool ended = false;
    for (size_t i = 0; i <= tokens.size(); ++i) {
      if (i < tokens.size()) {
        stream->OnScoredToken(tokens[i], {{tokens[i], -static_cast<float>(i)}, {7, -1}});
      } else {
        stream->OnEnd(EndOf(Request{}, static_cast<int32_t>(tokens.size())));
      }
      while (std::optional<TextEvent> event = stream->Take()) {
        out += event->text;
        shown.insert(shown.end(), event->shown.begin(), event->shown.end());
        ended = event->end.has_value();
        size_t due = 0;
        while (due < std::min(i + 1, tokens.size()) && before[due + 1].size() <= out.size()) ++due;
        if (!ended) {
          ASSERT_EQ(shown.size(), due) << "round " << round;
        }
        held += !ended && due < i + 1;
      }
    }
    ASSERT_TRUE(ended);
    size_t due = 0;
    const bool stopped = ShownOf(whole, stops).stopped;
    while (due < tokens.size() && (!stopped || before[due].size() < out.size())) ++due;
    // One without text of its own may have been shown before the stop string was known.
    ASSERT_GE(shown.size(), due) << "round " << round;
    ASSERT_LE(shown.size() == 0 ? 0 : before[shown.size() - 1].size(), out.size()) << "round " << round;
    for (size_t i = 0; i < shown.size(); ++i) {
      ASSERT_EQ(shown[i].token, tokens[i]) << "round " << round;
      ASSERT_EQ(shown[i].scores.size(), 2u);
      ASSERT_EQ(shown[i].scores[0], (TokenScore{tokens[i], -static_cast<float>(i)}));
      ASSERT_EQ(shown[i].offset, CodePointsOf(before[i]));
    }
    dropped += shown.size() < tokens.size();
  }
  EXPECT_GT(dropped, 200);
  EXPECT_GT(held, 200);
}

struct Answer {
  std::string text;
  std::vector<int32_t> shown;
  std::optional<RequestEnd> end;
  bool operator==(const Answer& other) const {
    return text == other.text && shown == other.shown && end->reason == other.end->reason &&
           end->completion_tokens == other.end->completion_tokens;
  }
};

// What a stream shows of `tokens`, event by event, behind what the client has.
std::vector<Answer> EventsOf(StreamRig& rig, TextStream::Options options, absl::Span<const int32_t> tokens) {
  const size_t had = options.had.tokens.size();
  const auto stream = std::make_shared<TextStream>(std::move(options), *TestText().tokenizer, rig.engine, rig.clock,
                                                   rig.executor, [] {});
  std::vector<Answer> events;
  for (size_t i = had; i <= tokens.size(); ++i) {
    if (i < tokens.size()) stream->OnTokens({tokens[i]});
    if (i == tokens.size()) stream->OnEnd(EndOf(Request{}, static_cast<int32_t>(tokens.size()), FinishReason::kLength));
    while (std::optional<TextEvent> event = stream->Take()) {
      Answer& out = events.emplace_back(Answer{event->text, {}, event->end});
      if (out.end) out.end->completion_tokens = event->completion_tokens;
      for (const ShownToken& token : event->shown) out.shown.push_back(token.token);
    }
  }
  return events;
}

void Add(const Answer& event, Answer* all) {
  all->text += event.text;
  all->shown.insert(all->shown.end(), event.shown.begin(), event.shown.end());
  all->end = event.end;
}

// Wherever a stream broke off, the one behind it shows exactly what is missing, whether the client says all tokens that
// it has or keeps the last one back to see that it comes again.
TEST(TextStreamTest, GoesOnBehindWhatTheClientHas) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(9);
  int withheld = 0, stopped = 0;
  for (int round = 0; round < 1500; ++round) {
    const std::vector<std::string> stops = RandomStops(*entropy, 4);
    const std::vector<int32_t> tokens = TestText().tokenizer->Encode(RandomText(*entropy, 20), false);
    StreamRig rig;
    const TextStream::Options options{RequestId{1}, 3, rig.clock.Now(), stops, 1024, 0, entropy->Next() % 2 == 0};
    const std::vector<Answer> events = EventsOf(rig, options, tokens);
    Answer whole;
    for (const Answer& event : events) Add(event, &whole);
    ASSERT_TRUE(whole.end);
    const size_t cut = entropy->Next() % events.size();
    Answer had;
    for (size_t i = 0; i < cut; ++i) Add(events[i], &had);
    const bool keeps_last = !had.shown.empty() && entropy->Next() % 2 == 0;
    if (keeps_last) had.shown.pop_back();
    TextStream::Options rest = options;
    rest.had = {had.shown, had.text.size()};
    Answer resumed = had;
    for (const Answer& event : EventsOf(rig, rest, tokens)) Add(event, &resumed);
    ASSERT_TRUE(resumed.end);
    EXPECT_TRUE(resumed == whole) << "round " << round << ": '" << resumed.text << "' for '" << whole.text << "'";
    withheld += !keeps_last && cut > had.shown.size() ? 1 : 0;
    stopped += whole.end->reason == FinishReason::kStop ? 1 : 0;
  }
  EXPECT_GT(withheld, 50);  // tokens were given whose text the client did not have
  EXPECT_GT(stopped, 200);
}

TEST(TextStreamTest, NoStopStringEndsInTheTextOfMinTokens) {
  const std::string whole = "one. two. three. four.";
  const std::vector<int32_t> tokens = TestText().tokenizer->Encode(whole, false);
  Detokenizer detokenizer(*TestText().tokenizer);
  std::string exempt;
  for (int32_t least = 0; least <= static_cast<int32_t>(tokens.size()); ++least) {
    StreamRig rig;
    const auto stream = rig.Make({"."}, 1024, least);
    for (int32_t token : tokens) stream->OnTokens({token});
    stream->OnEnd(EndOf(Request{}, static_cast<int32_t>(tokens.size())));
    std::string out;
    while (std::optional<TextEvent> event = stream->Take()) out += event->text;
    EXPECT_EQ(out, whole.substr(0, whole.find('.', exempt.size()))) << "min_tokens " << least;
    if (least < static_cast<int32_t>(tokens.size())) exempt += detokenizer.Push(tokens[least]);
  }
}

TEST(StopMatcherTest, AStopStringMayBeginInAnExemptTextAndNotEndThere) {
  for (const std::string rest : {"cd tail", "c", ""}) {
    StopMatcher matcher({"abc", "b"});
    std::string out;
    EXPECT_FALSE(matcher.Push("xabcb ab", &out, /*exempt=*/true));
    EXPECT_EQ(matcher.Push(rest, &out), !rest.empty());
    if (rest.empty()) matcher.Flush(&out);
    EXPECT_EQ(out, rest.empty() ? "xabcb ab" : "xabcb ");
  }
}

TEST(TextStreamTest, AReaderThatIsBehindIsClosedAndItsRequestCancelled) {
  StreamRig rig;
  const auto stream = rig.Make({}, 8);
  for (int i = 0; i < 8; ++i) stream->OnTokens({100});
  EXPECT_FALSE(rig.engine.cancelled(RequestId{1}));
  stream->OnTokens({100});
  EXPECT_TRUE(rig.engine.cancelled(RequestId{1}));
  const std::optional<TextEvent> event = stream->Take();
  ASSERT_TRUE(event.has_value() && event->end.has_value());
  EXPECT_EQ(event->end->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(stream->Take().has_value());
}

TEST(TextStreamTest, TheSchedulersThreadNeverCallsTheEngine) {
  FakeEngine engine;
  ManualClock clock;
  HeldExecutor executor;
  const auto stream = std::make_shared<TextStream>(TextStream::Options{.id = RequestId{1}, .backlog = 4},
                                                   *TestText().tokenizer, engine, clock, executor, [] {});
  for (int i = 0; i < 100; ++i) stream->OnTokens({100});
  EXPECT_EQ(executor.size(), 1u);  // one wake-up for many tokens
  EXPECT_FALSE(engine.cancelled(RequestId{1}));
  executor.RunAll();
  EXPECT_TRUE(engine.cancelled(RequestId{1}));
}

TEST(TextStreamTest, CloseCancelsWhatHasNotEndedAndSilencesTheRest) {
  StreamRig rig;
  const auto stream = rig.Make();
  stream->OnTokens({100});
  const int before = rig.ready;
  stream->Close();
  EXPECT_TRUE(rig.engine.cancelled(RequestId{1}));
  stream->OnTokens({100});
  stream->OnEnd(RequestEnd{.status = absl::CancelledError("")});
  EXPECT_EQ(rig.ready, before);
  EXPECT_FALSE(stream->Take().has_value());
}

TEST(TextStreamTest, CloseAfterTheEndCancelsNothing) {
  StreamRig rig;
  const auto stream = rig.Make();
  stream->OnEnd(RequestEnd{});
  stream->Close();
  EXPECT_FALSE(rig.engine.cancelled(RequestId{1}));
}

TEST(TextStreamTest, AnErrorComesAfterTheTextBeforeIt) {
  StreamRig rig;
  const auto stream = rig.Make({"zzz"});
  for (int32_t token : TestText().tokenizer->Encode("fizz", false)) stream->OnTokens({token});
  stream->OnEnd(RequestEnd{.status = absl::DataLossError("lost")});
  std::string out;
  absl::Status status;
  while (std::optional<TextEvent> event = stream->Take()) {
    out += event->text;
    if (event->end) status = event->end->status;
  }
  EXPECT_EQ(out, "fizz");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace interlace
