#include "coordinator/front/generation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"
#include "constraint/constraint_check.h"
#include "coordinator/front/answer_shape.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/fim.h"
#include "coordinator/front/output_constraint.h"

namespace interlace {
namespace {

constexpr size_t kMostAtOnce = 64;  // choices of one request that the engine has at a time
constexpr size_t kMostStops = 16;
constexpr size_t kLongestStop = 1024;  // bytes
constexpr size_t kMostStopTokens = 256;
constexpr size_t kLongestSalt = 128;  // bytes
constexpr absl::Duration kCompilePatience = absl::Seconds(5);

}  // namespace

bool IsRequestName(absl::string_view name) {
  return !name.empty() && name.size() <= 200 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
}

Intake::Intake(Options options, const Tokenizer& tokenizer, const ChatTemplate* chat_template, Engine& engine,
               Clock& clock, std::unique_ptr<Entropy> entropy)
    : options_(std::move(options)),
      tokenizer_(tokenizer),
      chat_template_(chat_template),
      engine_(engine),
      clock_(clock),
      entropy_(std::move(entropy)),
      grammars_([this] { return VocabularyOf(tokenizer_); }, clock) {}

absl::StatusOr<AdapterUse> Intake::FindModel(absl::string_view model) const {
  if (model.empty() || model == options_.model) return AdapterUse();
  std::string others;
  if (options_.adapters != nullptr) {
    if (AdapterUse use = options_.adapters->Find(model); use.adapter != nullptr) return use;
    for (const auto& adapter : options_.adapters->served()) absl::StrAppend(&others, ", '", adapter->name, "'");
  }
  return WithCode(absl::NotFoundError(absl::StrCat("model '", model.substr(0, 200), "' is not served here; '",
                                                   options_.model, "'", others, others.empty() ? " is" : " are")),
                  "model_not_found");
}

absl::Status Intake::CheckTokens(absl::string_view field, absl::Span<const int32_t> tokens) const {
  for (int32_t token : tokens) {
    if (token >= 0 && token < tokenizer_.vocab_size()) continue;
    return BadField(field, absl::StrCat("token id ", token, " is outside the vocabulary of ", tokenizer_.vocab_size()));
  }
  return absl::OkStatus();
}

absl::Duration Intake::DeadlineOf(const GenerationSpec& spec) const {
  if (!spec.targets.deadline_ms) return spec.deadline.value_or(options_.default_deadline);
  return std::min(absl::Milliseconds(*spec.targets.deadline_ms), spec.deadline.value_or(absl::InfiniteDuration()));
}

absl::Status Intake::CheckResume(const GenerationSpec& spec) const {
  if (!spec.resume) return absl::OkStatus();
  const ResumePoint& had = *spec.resume;
  if (spec.prompts.size() != 1 || spec.n != 1) return BadField("resume", "goes with one prompt and one choice");
  if (spec.echo || spec.prompt_logprobs || spec.pooled) {
    return BadField("resume", "does not go with echo, prompt_logprobs or embeddings: they came before the answer");
  }
  if (!spec.seed && SamplingFor(spec).temperature.value_or(1) > 0) {
    return BadField("resume", "needs the seed of the call that broke off, unless temperature is 0");
  }
  if (had.text_bytes < 0) return OutOfRange("resume.text_bytes", static_cast<double>(had.text_bytes), "at least 0");
  const auto most = static_cast<size_t>(spec.max_tokens.value_or(options_.context));
  if (had.ids.size() > most) {
    return OutOfRange("resume.ids", static_cast<double>(had.ids.size()), absl::StrCat("at most ", most, " tokens"));
  }
  return CheckTokens("resume.ids", had.ids);
}

absl::Status Intake::CheckSpec(const GenerationSpec& spec) const {
  if (!spec.name.empty() && !IsRequestName(spec.name)) {
    return BadField("request_id", "must be 1 to 200 printable ASCII characters without spaces");
  }
  if (spec.prompts.empty()) return BadField("prompt", "is missing");
  if (spec.n < 1 || spec.n > kMostOfAPrompt) return OutOfRange("n", spec.n, "1 to 16");
  if (spec.prompts.size() * spec.n > options_.most_choices) {
    return OutOfRange(spec.n > 1 ? "n" : "prompt", static_cast<double>(spec.prompts.size() * spec.n),
                      absl::StrCat("at most http.max_choices=", options_.most_choices, " choices in one request"));
  }
  RETURN_IF_ERROR(CheckSampling(SamplingFor(spec), tokenizer_));
  if (spec.truncate_prompt_tokens && *spec.truncate_prompt_tokens < 1 && *spec.truncate_prompt_tokens != -1) {
    return OutOfRange("truncate_prompt_tokens", static_cast<double>(*spec.truncate_prompt_tokens),
                      "at least 1, or -1 for what fits");
  }
  const bool scores = spec.echo || spec.prompt_logprobs || spec.pooled;
  if (spec.max_tokens.value_or(1) < (scores ? 0 : 1)) {
    return OutOfRange("max_tokens", static_cast<double>(*spec.max_tokens),
                      scores ? "at least 0" : "at least 1, or 0 with echo or prompt_logprobs");
  }
  if (spec.prompt_logprobs && (*spec.prompt_logprobs < 0 || *spec.prompt_logprobs > kMostLogprobs)) {
    return OutOfRange("prompt_logprobs", static_cast<double>(*spec.prompt_logprobs), "0 to 20");
  }
  if (spec.max_tokens && spec.min_tokens.value_or(0) > *spec.max_tokens) {
    return OutOfRange("min_tokens", static_cast<double>(*spec.min_tokens),
                      absl::StrCat("at most max_tokens=", *spec.max_tokens));
  }
  if (spec.stop.size() > kMostStops)
    return OutOfRange("stop", static_cast<double>(spec.stop.size()), "at most 16 strings");
  for (const std::string& stop : spec.stop) {
    if (stop.empty() || stop.size() > kLongestStop)
      return OutOfRange("stop", static_cast<double>(stop.size()), "1 to 1024 bytes each");
  }
  if (spec.stop_token_ids.size() > kMostStopTokens) {
    return OutOfRange("stop_token_ids", static_cast<double>(spec.stop_token_ids.size()), "at most 256 ids");
  }
  RETURN_IF_ERROR(CheckTokens("stop_token_ids", spec.stop_token_ids));
  RETURN_IF_ERROR(CheckResume(spec));
  RETURN_IF_ERROR(FidelityOf(spec.fidelity, options_.fidelity).status());
  RETURN_IF_ERROR(CheckTargets(spec.targets));
  if (DeadlineOf(spec) <= absl::ZeroDuration()) {
    return absl::DeadlineExceededError("the deadline had passed when the request arrived");
  }
  if (spec.salt.size() > kLongestSalt ||
      spec.salt.find_first_of(absl::string_view("@/\\\0", 4).data(), 0, 4) != std::string::npos) {
    return BadField("cache_salt", "must be at most 128 bytes without '@', '/', '\\' and NUL");
  }
  return absl::OkStatus();
}

namespace {

// The field that a ChatTemplate's message begins with, else `messages`.
absl::Status ByField(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  for (absl::string_view field : {"tools", "chat_template_kwargs", "continue_final_message", "messages"}) {
    absl::string_view why = status.message();
    if (absl::ConsumePrefix(&why, field) && absl::ConsumePrefix(&why, ": ")) return BadField(field, why);
  }
  return BadField("messages", status.message());
}

absl::Status TooLong(absl::string_view field, size_t most) {
  return WithCode(BadField(field, absl::StrCat("this model's maximum context length is ", most,
                                               " tokens, one of which is generated; these are more")),
                  "context_length_exceeded");
}

// A chat's tokens, of which the engine wants one at least.
absl::StatusOr<std::vector<int32_t>> Some(absl::StatusOr<std::vector<int32_t>> ids, size_t most) {
  if (absl::IsOutOfRange(ids.status())) return TooLong("messages", most);
  if (!ids.ok()) return ByField(ids.status());
  if (ids->empty()) return BadField("messages", "the chat template makes no text of them");
  return ids;
}

absl::Status NoTemplate() {
  return absl::UnimplementedError(
      "the model has no chat template that is known here: ask /v1/completions or Generate with the whole prompt");
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Intake::EncodeChat(const ChatInput& chat, const PromptForm& form,
                                                        size_t most) const {
  if (chat_template_ == nullptr) return NoTemplate();
  if (!chat.tools.empty() && options_.tools == nullptr) {
    return BadField("tools",
                    "this model's chat template does not say how it calls tools; leave them out, or name the way with "
                    "--set http.tool_parser");
  }
  if (form.chat_template.empty()) return Some(chat_template_->Encode(chat, tokenizer_, most), most);
  if (!options_.request_templates) {
    return BadField("chat_template", "requests may not bring one here: --set http.request_templates=true allows it");
  }
  const absl::StatusOr<ChatTemplate> own = chat_template_->WithText(form.chat_template);
  if (!own.ok()) return BadField("chat_template", own.status().message());
  return Some(own->Encode(chat, tokenizer_, most), most);
}

absl::StatusOr<std::vector<int32_t>> Intake::Encode(const Prompt& prompt, const PromptForm& form, size_t most) const {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    if (ids->empty()) return BadField(form.field, "holds no tokens");
    RETURN_IF_ERROR(CheckTokens(form.field, *ids));
    return *ids;
  }
  if (const auto* chat = std::get_if<ChatInput>(&prompt)) return EncodeChat(*chat, form, most);
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&prompt)) {
    if (chat_template_ == nullptr) return NoTemplate();
    return Some(chat_template_->Encode(*messages, tokenizer_, form.add_generation_prompt, most), most);
  }
  const std::string& text = std::get<std::string>(prompt);
  if (tokenizer_.SurelyLonger(text, {}, form.parse_special, most)) return TooLong(form.field, most);
  std::vector<int32_t> ids = form.add_special_tokens ? tokenizer_.EncodePrompt(text, form.parse_special)
                                                     : tokenizer_.Encode(text, form.parse_special);
  if (ids.empty()) return BadField(form.field, "is empty");
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Intake::EncodeBetween(const GenerationSpec& spec, const Prompt& prompt) const {
  ASSIGN_OR_RETURN(const FimMarks marks, FindFimMarks(tokenizer_));
  PromptForm bare = spec.form;
  bare.add_special_tokens = false;
  std::vector<int32_t> before;
  const auto* text = std::get_if<std::string>(&prompt);
  if (text == nullptr || !text->empty()) {
    ASSIGN_OR_RETURN(before, Encode(prompt, bare, static_cast<size_t>(options_.context)));
  }
  std::vector<int32_t> ids;
  if (spec.form.add_special_tokens && tokenizer_.add_bos()) ids.push_back(tokenizer_.bos());
  const std::vector<int32_t> behind = tokenizer_.Encode(spec.suffix, spec.form.parse_special);
  ids.push_back(marks.prefix);
  ids.insert(ids.end(), before.begin(), before.end());
  ids.push_back(marks.suffix);
  ids.insert(ids.end(), behind.begin(), behind.end());
  ids.push_back(marks.middle);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Intake::EncodeFor(const GenerationSpec& spec, const Prompt& prompt) const {
  const bool between = !spec.suffix.empty();
  if (!spec.truncate_prompt_tokens) {
    return between ? EncodeBetween(spec, prompt) : Encode(prompt, spec.form, static_cast<size_t>(options_.context));
  }
  const int64_t room = options_.context - spec.max_tokens.value_or(1);
  const int64_t most = *spec.truncate_prompt_tokens == -1 ? room : *spec.truncate_prompt_tokens;
  const auto keep = static_cast<size_t>(std::max<int64_t>(1, most));
  absl::StatusOr<std::vector<int32_t>> ids;
  const auto* text = std::get_if<std::string>(&prompt);
  const size_t tail = text == nullptr || between ? 0 : tokenizer_.TailFor(*text, keep);
  ids = between    ? EncodeBetween(spec, prompt)
        : tail > 0 ? tokenizer_.Encode(absl::string_view(*text).substr(tail), spec.form.parse_special)
                   : Encode(prompt, spec.form);
  if (ids.ok() && ids->size() > keep) ids->erase(ids->begin(), ids->end() - static_cast<ptrdiff_t>(keep));
  return ids;
}

absl::Status Intake::CheckWanted(const GenerationSpec& spec, absl::Time deadline) const {
  if (spec.left != nullptr && spec.left->load()) return absl::CancelledError("the client is gone");
  if (clock_.Now() < deadline) return absl::OkStatus();
  return absl::DeadlineExceededError("the deadline passed before the request was read");
}

absl::Status Intake::ApplyTenant(const GenerationSpec& spec, Request* request) const {
  if (spec.pass == nullptr) return absl::OkStatus();
  const Tenant& tenant = spec.pass->tenant();
  const std::string& model = spec.model.empty() ? options_.model : spec.model;
  if (!tenant.MayAskFor(model)) {
    return WithCode(
        absl::NotFoundError(absl::StrCat("model '", model.substr(0, 200), "' is not among those that tenant ",
                                         tenant.name(), " may ask for")),
        "model_not_found");
  }
  request->targets.priority = static_cast<int32_t>(tenant.PriorityFor(request->targets.priority));
  std::string& name = request->targets.tenant;
  if (tenant.is_operator()) {
    if (name.empty()) name = tenant.name();
    return absl::OkStatus();
  }
  if (!name.empty() && name != tenant.name()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "fairness_id: '", name, "' is not the tenant of this key, which is '", tenant.name(), "'; leave it out"));
  }
  name = tenant.name();
  // No salt of a client has a NUL, so no tenant's can be another's.
  request->salt = absl::StrCat(name, absl::string_view("\0", 1), spec.salt);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Intake::HoldName(const GenerationSpec& spec, std::shared_ptr<void>* held) {
  std::string name = spec.name.empty() ? DrawName() : spec.name;
  const std::string other = spec.name_is_shared ? absl::StrCat(name, "-", DrawName().substr(0, 8)) : "";
  {
    absl::MutexLock lock(&mutex_);
    if (!names_.insert(name).second) {
      if (!spec.name_is_shared) {
        return WithCode(absl::AlreadyExistsError(absl::StrCat("request_id: '", name, "' is under way already")),
                        "duplicate_request_id");
      }
      name = other;
      names_.insert(name);
    }
  }
  *held = std::shared_ptr<void>(nullptr, [this, name](void*) {
    absl::MutexLock lock(&mutex_);
    names_.erase(name);
  });
  return name;
}

OutputForm Intake::FormOf(const GenerationSpec& spec, const std::vector<int32_t>& prompt) const {
  OutputForm form;
  const auto* chat = std::get_if<ChatInput>(&spec.prompts[0]);
  if (chat == nullptr) return form;
  form.syntax = chat->tools.empty() ? nullptr : options_.tools;
  form.tools = spec.tools;
  form.parallel = spec.parallel_tool_calls;
  form.thinks = options_.thinks;
  constexpr size_t kLook = 16;  // tokens: <think> may be several, with white space behind it
  const size_t from = prompt.size() - std::min(prompt.size(), kLook);
  const std::string tail = tokenizer_.Decode(absl::MakeConstSpan(prompt).subspan(from), /*special=*/true);
  form.in_thought = form.thinks && absl::EndsWith(absl::StripTrailingAsciiWhitespace(tail), kThoughtBegin);
  return form;
}

std::vector<int32_t> Intake::MarksOf(const OutputForm& form) const {
  std::vector<absl::string_view> marks;
  if (form.thinks) marks = {kThoughtBegin, kThoughtEnd};
  if (form.syntax != nullptr) marks.insert(marks.end(), {form.syntax->begin, form.syntax->end, "[ARGS]", "[CALL_ID]"});
  std::vector<int32_t> tokens;
  for (absl::string_view mark : marks) {
    const absl::StatusOr<int32_t> token = tokenizer_.Find(mark);
    if (token.ok()) tokens.push_back(*token);
  }
  return tokens;
}

// What CheckConstraint lets through is compiled in well under the patience; what it knows nothing of, such as broken
// patterns and references to nowhere, the compiler finds.
absl::StatusOr<SharedConstraint> Intake::ConstraintFor(const GenerationSpec& spec, const OutputForm& form) {
  ASSIGN_OR_RETURN(std::optional<ConstraintSpec> wanted, ConstraintOf(spec, form, tokenizer_));
  if (!wanted) return SharedConstraint();
  wanted->constraint.end_tokens = tokenizer_.stop_tokens();
  absl::Status good = CheckConstraint(wanted->constraint);
  if (wanted->constraint.end_tokens.empty()) {
    good = absl::InvalidArgumentError("this model has no token that ends an answer, so that none can be constrained");
  }
  SharedConstraint constraint(std::move(wanted->constraint));
  if (good.ok()) {
    const std::shared_ptr<const PendingGrammar> grammar = grammars_.Begin(constraint);
    good = grammar->Await(kCompilePatience).status();
    if (options_.metrics != nullptr && !absl::IsDeadlineExceeded(good)) {
      options_.metrics->Observe("interlace_constraint_compile_seconds", absl::ToDoubleSeconds(grammar->took()));
    }
  }
  if (good.ok()) return constraint;
  if (options_.metrics != nullptr) options_.metrics->Add("interlace_constraints_refused_total");
  return BadField(wanted->field, good.message());
}

SamplingSpec Intake::SamplingFor(const GenerationSpec& spec) const {
  const GenerationDefaults& usual = options_.sampling;
  SamplingSpec filled = spec;
  const auto fill = [](auto& field, const auto& value) {
    if (!field) field = value;
  };
  fill(filled.temperature, usual.do_sample == false && !usual.temperature ? std::optional(0.0) : usual.temperature);
  fill(filled.top_p, usual.top_p);
  fill(filled.top_k, usual.top_k);
  fill(filled.min_p, usual.min_p);
  fill(filled.typical_p, usual.typical_p);
  fill(filled.repetition_penalty, usual.repetition_penalty);
  return filled;
}

absl::StatusOr<int32_t> Intake::MaxTokens(const GenerationSpec& spec, size_t prompt_tokens) const {
  const int64_t prompt = static_cast<int64_t>(prompt_tokens), room = options_.context - prompt;
  if (room < (spec.max_tokens == 0 ? 0 : 1)) {
    return WithCode(
        BadField(spec.form.field,
                 absl::StrCat("this model's maximum context length is ", options_.context, " tokens",
                              spec.max_tokens == 0 ? "" : ", one of which is generated", "; the prompt has ", prompt)),
        "context_length_exceeded");
  }
  const int64_t least = spec.min_tokens.value_or(0);
  if (least > room) {
    return WithCode(BadField("min_tokens", absl::StrCat("the prompt has ", prompt, " tokens, which leaves ", room,
                                                        " of the ", least, " that are asked for at least")),
                    "context_length_exceeded");
  }
  if (!spec.max_tokens) {
    const int64_t usual = spec.usual_max_tokens.value_or(room);
    const int64_t wanted = options_.default_max_tokens > 0 ? options_.default_max_tokens : usual;
    return static_cast<int32_t>(std::min(std::max(wanted, least), room));
  }
  if (*spec.max_tokens <= room) return static_cast<int32_t>(*spec.max_tokens);
  return WithCode(BadField("max_tokens", absl::StrCat("this model's maximum context length is ", options_.context,
                                                      " tokens; the prompt has ", prompt, ", which leaves ", room,
                                                      " of the ", *spec.max_tokens, " that were asked for")),
                  "context_length_exceeded");
}

absl::StatusOr<Fidelity> Intake::FidelityFor(const GenerationSpec& spec, const Request& request) const {
  ASSIGN_OR_RETURN(const Fidelity fidelity, FidelityOf(spec.fidelity, options_.fidelity));
  const bool masked = request.sampling.constraint || !request.sampling.allowed_tokens.empty();
  if (fidelity.mode == FidelityMode::kBounded && masked) {
    return BadField("fidelity",
                    "'bounded' does not go with a constraint on the answer: its audits would not see what it allows");
  }
  return fidelity;
}

absl::StatusOr<GenerationRun> Intake::Start(const GenerationSpec& spec, Executor& executor, TextStream::Ready ready) {
  const absl::Time arrival = spec.arrival.value_or(clock_.Now());
  Request shared;
  ASSIGN_OR_RETURN(AdapterUse use, FindModel(spec.model));
  shared.adapter = std::move(use.adapter);
  shared.adapter_lease = std::move(use.lease);
  RETURN_IF_ERROR(CheckSpec(spec));
  shared.arrival = arrival;
  shared.deadline = arrival + DeadlineOf(spec);
  shared.targets = TargetsOf(spec.targets, options_.default_targets);
  shared.salt = spec.salt;
  RETURN_IF_ERROR(ApplyTenant(spec, &shared));
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int32_t> max_tokens;
  size_t prompt_tokens = 0;
  for (const Prompt& prompt : spec.prompts) {
    RETURN_IF_ERROR(CheckWanted(spec, shared.deadline));
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodeFor(spec, prompt));
    ASSIGN_OR_RETURN(const int32_t most, MaxTokens(spec, ids.size()));
    prompt_tokens += ids.size();
    prompts.push_back(std::move(ids));
    max_tokens.push_back(most);
  }
  if (spec.pass != nullptr) {
    const int64_t answers = spec.max_tokens.value_or(0) * static_cast<int64_t>(prompts.size()) * spec.n;
    const int64_t had = spec.resume ? static_cast<int64_t>(spec.resume->ids.size()) : 0;
    RETURN_IF_ERROR(spec.pass->Charge(static_cast<int64_t>(prompt_tokens) + std::max<int64_t>(0, answers - had)));
  }

  std::shared_ptr<void> held_name;
  ASSIGN_OR_RETURN(std::string name, HoldName(spec, &held_name));
  GenerationRun run(std::move(name), static_cast<int32_t>(prompt_tokens), spec.n);
  run.held_name_ = std::move(held_name);
  run.output_ = FormOf(spec, prompts[0]);
  const std::vector<int32_t> marks = MarksOf(run.output_);
  for (size_t p = 0; spec.echo && p < prompts.size(); ++p) {
    const auto* text = std::get_if<std::string>(&spec.prompts[p]);
    const bool whole = text != nullptr && !spec.truncate_prompt_tokens;
    run.echoes_.push_back(whole ? *text : tokenizer_.Decode(prompts[p], /*special=*/true));
  }
  if (spec.prompt_logprobs) run.prompts_ = prompts;
  const uint64_t seed = spec.seed ? *spec.seed : Draw();
  shared.max_tokens_given = spec.max_tokens.has_value();
  ASSIGN_OR_RETURN(SharedConstraint constraint, ConstraintFor(spec, run.output_));
  if (!spec.ignore_eos || constraint) shared.stop_tokens = tokenizer_.stop_tokens();
  shared.stop_tokens.insert(shared.stop_tokens.end(), spec.stop_token_ids.begin(), spec.stop_token_ids.end());
  if (!spec.suffix.empty() && !spec.ignore_eos) {
    ASSIGN_OR_RETURN(const FimMarks marks, FindFimMarks(tokenizer_));
    shared.stop_tokens.insert(shared.stop_tokens.end(), marks.ends.begin(), marks.ends.end());
  }
  if (spec.prompt_logprobs) shared.prompt_logprobs = static_cast<int32_t>(*spec.prompt_logprobs);
  shared.pooled = spec.pooled;
  if (spec.resume) shared.had = spec.resume->ids;
  if (options_.caches) shared.caching = std::make_shared<const CacheTerms>(CacheTermsOf(spec));
  ASSIGN_OR_RETURN(shared.sampling, SamplingOf(SamplingFor(spec), tokenizer_, shared.stop_tokens, seed));
  shared.sampling.constraint = std::move(constraint);
  ASSIGN_OR_RETURN(shared.fidelity, FidelityFor(spec, shared));
  if (options_.traces) shared.trace = spec.trace ? *spec.trace : TraceContext{Draw(), Draw()};
  for (size_t choice = 0; choice < prompts.size() * spec.n; ++choice) {
    const size_t p = choice / spec.n;
    Request request = shared;
    request.id = RequestId{next_id_++};
    request.name = choice == 0 ? run.name() : absl::StrCat(run.name(), "-", choice);
    request.prompt = prompts[p];
    request.max_tokens = max_tokens[p];
    request.choices = choice % spec.n == 0 ? spec.n : 0;
    request.follows = choice > 0;
    request.sampling.seed = seed + choice % spec.n;
    if (request.fidelity.mode == FidelityMode::kBounded) request.fidelity.nonce = Draw();
    TextStream::Options options{request.id, static_cast<int32_t>(request.prompt.size()), arrival, spec.stop};
    options.min_tokens = request.sampling.min_tokens;
    options.include_stop = spec.include_stop;
    options.shown = marks;
    options.show_all = !spec.skip_special_tokens;
    options.fidelity = request.fidelity.mode;
    if (spec.resume) options.had = {spec.resume->ids, static_cast<size_t>(spec.resume->text_bytes)};
    auto stream = std::make_shared<TextStream>(std::move(options), tokenizer_, engine_, clock_, executor, ready);
    request.sink = stream;
    run.waiting_.push_back(std::move(request));
    run.streams_.push_back(std::move(stream));
  }
  RETURN_IF_ERROR(SubmitWaiting(run));
  if (spec.pass != nullptr) spec.pass->Use(static_cast<int64_t>(prompt_tokens));
  run.pass_ = spec.pass;
  return run;
}

// A full queue is waited out as long as a choice of the same run is there whose end makes room.
absl::Status Intake::SubmitWaiting(GenerationRun& run) {
  while (!run.waiting_.empty() && run.running_ < kMostAtOnce) {
    const absl::Status submitted = ForClients(engine_.Submit(run.waiting_.front()));
    if (absl::IsResourceExhausted(submitted) && run.running_ > 0) return absl::OkStatus();
    RETURN_IF_ERROR(submitted);
    run.waiting_.pop_front();
    ++run.running_;
  }
  return absl::OkStatus();
}

absl::Status Intake::NoteEnd(GenerationRun& run) {
  --run.running_;
  return SubmitWaiting(run);
}

absl::StatusOr<Explanation> Intake::Explain(absl::string_view name) {
  absl::StatusOr<Explanation> explanation = engine_.Explain(name);
  if (!absl::IsNotFound(explanation.status())) return explanation;
  if (absl::ConsumePrefix(&name, "chatcmpl-") || absl::ConsumePrefix(&name, "cmpl-")) return engine_.Explain(name);
  return explanation;
}

uint64_t Intake::Draw() {
  absl::MutexLock lock(&mutex_);
  return entropy_->Next();
}

std::string Intake::DrawName() { return absl::StrFormat("%016x%016x", Draw(), Draw()); }

void Intake::NoteServed(absl::Duration total) {
  absl::MutexLock lock(&mutex_);
  mean_total_ = mean_total_ == absl::ZeroDuration() ? total : mean_total_ + (total - mean_total_) / 16;
}

absl::Duration Intake::RetryAfter() {
  const EngineLoad load = engine_.Load();
  if (load.queue_room > absl::ZeroDuration()) return std::max(load.queue_room, absl::Milliseconds(100));
  const int32_t running = std::max(1, load.running);
  absl::MutexLock lock(&mutex_);
  return std::clamp(mean_total_ / running, absl::Milliseconds(100), absl::Seconds(30));
}

}  // namespace interlace
