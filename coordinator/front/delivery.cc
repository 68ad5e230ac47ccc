#include "coordinator/front/delivery.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "coordinator/front/protocols.h"

namespace interlace {
namespace {

void Append(OutputDelta&& more, OutputDelta* delta) {
  delta->thought += more.thought;
  delta->text += more.text;
  delta->calls.insert(delta->calls.end(), std::make_move_iterator(more.calls.begin()),
                      std::make_move_iterator(more.calls.end()));
}

void Append(Answer::Events&& more, Answer::Events* events) {
  events->insert(events->end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

Delivery::Delivery(const ApiRequest& request, GenerationRun& run, Intake& intake)
    : request_(request),
      run_(run),
      intake_(intake),
      answer_(MakeAnswer(request, {.protocol = request.protocol,
                                   .name = run.name(),
                                   .model = request.spec.model.empty() ? intake.options().model : request.spec.model,
                                   .created = WallSeconds(),
                                   .syntax = run.output().syntax,
                                   .echoed = request.echoed})),
      parsers_(run.streams().size(), OutputParser(run.output())),
      choices_(run.streams().size()),
      usage_{run.prompt_tokens(), 0},
      prompted_(choices_.size(), !request.spec.prompt_logprobs.has_value()),
      open_(choices_.size()) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (logprobs()) choices_[i].logprobs.emplace();
    if (!stream()) choices_[i].text = std::string(run.echo(i));
  }
}

std::optional<Answer::Events> Delivery::Take(size_t choice) {
  const std::optional<TextEvent> event = run_.streams()[choice]->Take();
  if (!event) return std::nullopt;
  usage_.completion_tokens += event->completion_tokens - choices_[choice].completion_tokens;
  choices_[choice].completion_tokens = event->completion_tokens;
  if (event->end) NoteEnd(choice, *event);
  OutputDelta delta = Read(choice, *event);
  Answer::Events events;
  if (stream() && !begun_) {
    if (!failure_.ok()) return events;  // a real HTTP status is still possible
    events = Begin();
  }
  if (failure_.ok()) TakePrompt(choice, &events);
  Add(choice, std::move(delta), *event, &events);
  if (stream() && event->end && failure_.ok()) {
    Append(answer_->Finish(choice, choices_[choice], usage_), &events);
  }
  return events;
}

std::string Delivery::CacheLine() const {
  const std::optional<CacheHit> hit = run_.streams()[0]->cache_hit();
  if (!hit) return "";
  return hit->exact ? "exact" : absl::StrFormat("semantic; similarity=%.4f", hit->similarity);
}

void Delivery::NoteEnd(size_t choice, const TextEvent& event) {
  --open_;
  failure_ = event.end->status;
  choices_[choice].finish = event.end->reason;
  choices_[choice].stop = event.stop;
  choices_[choice].fidelity = event.end->fidelity;
  if (run_.first_of_prompt(choice)) usage_.cached_tokens += event.end->cached_tokens;
  if (!failure_.ok()) return;
  if (request_.spec.pooled) choices_[choice].embedding = run_.streams()[choice]->TakePooled();
  intake_.NoteServed(event.end->timing.total);
  failure_ = intake_.NoteEnd(run_);
}

void Delivery::TakePrompt(size_t choice, Answer::Events* events) {
  if (prompted_[choice]) return;
  prompted_[choice] = true;
  const std::vector<PromptScores> scores = run_.streams()[choice]->TakePromptScores();
  std::vector<ReplyToken> tokens =
      PromptReplyTokens(run_.prompt(choice), scores, run_.echo(choice), intake_.tokenizer());
  if (request_.prompt_logprobs) choices_[choice].prompt_logprobs = WithTop(tokens, *request_.prompt_logprobs);
  if (!request_.echo_logprobs) return;
  tokens = WithTop(std::move(tokens), request_.spec.logprobs.value_or(0));
  if (!stream()) {
    choices_[choice].logprobs = std::move(tokens);
    return;
  }
  Append(answer_->Add(choice, {.text = std::string(run_.echo(choice))}, &tokens, usage_), events);
}

OutputDelta Delivery::Read(size_t choice, const TextEvent& event) {
  OutputDelta delta = parsers_[choice].Push(event.text);
  if (event.end) Append(parsers_[choice].Flush(), &delta);
  if (!request_.show_thought) delta.thought.clear();
  return delta;
}

void Delivery::Add(size_t choice, OutputDelta delta, const TextEvent& event, Answer::Events* events) {
  std::vector<ReplyToken> scored;
  if (logprobs()) {
    scored = ReplyTokens(event.shown, intake_.tokenizer());
    if (event.ended_by) {
      for (ReplyToken& token : ReplyTokens({&*event.ended_by, 1}, intake_.tokenizer())) {
        scored.push_back(std::move(token));
      }
    }
    const int64_t before = CodePoints(run_.echo(choice));
    for (ReplyToken& token : scored) token.offset += before;
  }
  if (!stream()) {
    Gather(delta, &choices_[choice]);
    for (const ShownToken& token : event.shown) {
      if (!token.scores.empty()) choices_[choice].score += token.scores[0].logprob;
    }
    for (ReplyToken& token : scored) choices_[choice].logprobs->push_back(std::move(token));
    return;
  }
  if (delta.empty() && scored.empty()) return;
  for (const CallDelta& call : delta.calls) {
    if (!call.name.empty()) choices_[choice].calls.push_back({call.index, call.name, ""});
    if (!call.undone.empty())
      choices_[choice].calls.pop_back();  // as in Gather: how an answer ends is the same in both
  }
  Append(answer_->Add(choice, delta, logprobs() ? &scored : nullptr, usage_), events);
}

Answer::Events Delivery::Begin() {
  begun_ = true;
  const Usage none{run_.prompt_tokens(), 0};
  Answer::Events events = answer_->Begin(choices_.size(), none);
  for (size_t i = 0; i < choices_.size() && !request_.echo_logprobs; ++i) {
    if (!run_.echo(i).empty()) Append(answer_->Add(i, {.text = std::string(run_.echo(i))}, nullptr, none), &events);
  }
  return events;
}

Answer::Events Delivery::End() { return failure_.ok() ? answer_->End(usage_) : answer_->Fail(ToApiError(failure_)); }

std::string Delivery::Whole() {
  if (request_.keep == 0) return answer_->Whole(choices_, usage_);
  return answer_->Whole(
      BestOf(std::move(choices_), static_cast<size_t>(request_.spec.n), static_cast<size_t>(request_.keep)), usage_);
}

}  // namespace interlace
