// Intake: the one path from a parsed request, of whichever door, to a running generation.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "checkpoint/generation_config.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "constraint/grammar_store.h"
#include "coordinator/engine.h"
#include "coordinator/front/adapter_registry.h"
#include "coordinator/front/constraint_spec.h"
#include "coordinator/front/fidelity_spec.h"
#include "coordinator/front/output_parser.h"
#include "coordinator/front/sampling_spec.h"
#include "coordinator/front/target_spec.h"
#include "coordinator/front/tenants.h"
#include "coordinator/front/text_stream.h"
#include "coordinator/front/tool_syntax.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {

using Prompt = std::variant<std::string, std::vector<int32_t>, std::vector<ChatMessage>, ChatInput>;

// How a prompt becomes tokens.
struct PromptForm {
  bool parse_special = false;          // of a text: such as <|im_start|> becomes its control token
  bool add_special_tokens = true;      // of a text: bos, where the vocabulary asks for it
  bool add_generation_prompt = true;   // of messages; a ChatInput has its own
  std::string chat_template;           // of a ChatInput: instead of the model's; empty: the model's
  absl::string_view field = "prompt";  // of the request, as errors name it; a literal
};

// The first part of an answer, which its client has from a call that broke off.
struct ResumePoint {
  std::vector<int32_t> ids;  // of its tokens
  int64_t text_bytes = 0;    // of its text
};

inline constexpr int32_t kMostOfAPrompt = 16;  // choices

// What a client asked for. Unset: the server's default, else OpenAI's.
struct GenerationSpec : SamplingSpec {
  std::string name;             // the client's request id; empty: drawn
  bool name_is_shared = false;  // others may have it too: a request under way with this name gives this one another
  std::string model;            // the model's name or an adapter's; empty: the model
  std::vector<Prompt> prompts;
  int32_t n = 1;  // choices of each prompt; the i-th has seed + i
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  PromptForm form;
  std::optional<int64_t> truncate_prompt_tokens;  // its last ones stay; -1: as many as leave room for max_tokens
  std::optional<int64_t> usual_max_tokens;  // if neither the request nor the server says; unset: up to the context
  bool include_stop = false;                // a stop string that is met is shown
  bool skip_special_tokens = true;
  bool echo = false;                       // the prompt's text comes before the answer's
  std::string suffix;                      // the answer comes between the prompt and this; empty: none
  std::optional<int64_t> prompt_logprobs;  // of the prompt's tokens, and of so many of the most likely
  bool pooled = false;                     // the mean of the last hidden states is the answer
  std::vector<std::string> tools;          // names of those in a ChatInput
  bool parallel_tool_calls = true;         // more than one call in an answer
  std::optional<ForcedCall> forced_call;   // of one of the tools; the answer is nothing else
  std::optional<ConstraintSpec> constraint;
  std::optional<ResumePoint> resume;       // the answer goes on behind it
  std::optional<absl::Duration> deadline;  // from now, of the call; the one in `targets` counts too
  TargetSpec targets;
  FidelitySpec fidelity;
  std::string salt;
  bool cache_look_up = true;                      // an answer that a response cache keeps may serve it
  bool cache_keep = true;                         // its answer may be kept there
  std::optional<TraceContext> trace;              // as the caller says; none: a new one, if spans are exported
  std::optional<absl::Time> arrival;              // of the intake's clock; unset: when it starts
  std::shared_ptr<TenantPass> pass;               // where keys are needed: of its tenant
  std::shared_ptr<const std::atomic<bool>> left;  // null, or set once nobody waits for the answer
};

// The choices of one request under way, in order: those of the first prompt, then those of the second, ...
// Owned by the connection; its executor's thread. Closes its streams when it dies, which cancels what has not ended.
class GenerationRun {
 public:
  GenerationRun(std::string name, int32_t prompt_tokens, int32_t n)
      : name_(std::move(name)), prompt_tokens_(prompt_tokens), n_(static_cast<size_t>(n)) {}
  GenerationRun(GenerationRun&&) = default;
  GenerationRun& operator=(GenerationRun&&) = delete;
  ~GenerationRun() {
    for (const std::shared_ptr<TextStream>& stream : streams_) {
      stream->Close();
      if (pass_ != nullptr) pass_->Use(stream->taken());
    }
  }
  const std::string& name() const { return name_; }
  int32_t prompt_tokens() const { return prompt_tokens_; }  // each prompt counted once
  // Whether the choice is the first of its prompt: it stands for the prompt where a prompt is counted once.
  bool first_of_prompt(size_t choice) const { return choice % n_ == 0; }
  // What is to be read out of the text of each choice.
  const OutputForm& output() const { return output_; }
  // The text that comes before the choice's own, if the request wants it.
  absl::string_view echo(size_t choice) const { return echoes_.empty() ? absl::string_view() : echoes_[choice / n_]; }
  // The tokens of the choice's prompt, if the request wants their scores.
  absl::Span<const int32_t> prompt(size_t choice) const {
    return prompts_.empty() ? absl::Span<const int32_t>() : absl::MakeConstSpan(prompts_[choice / n_]);
  }
  const std::vector<std::shared_ptr<TextStream>>& streams() const { return streams_; }

 private:
  friend class Intake;
  std::string name_;
  int32_t prompt_tokens_;
  size_t n_;
  OutputForm output_;
  std::vector<std::string> echoes_;            // by prompt
  std::vector<std::vector<int32_t>> prompts_;  // where their scores are wanted
  std::vector<std::shared_ptr<TextStream>> streams_;
  std::shared_ptr<TenantPass> pass_;  // null: no keys are needed
  std::shared_ptr<void> held_name_;   // while it lives, no other request gets the name
  std::deque<Request> waiting_;       // of the last choices: those that the engine does not have yet
  size_t running_ = 0;                // choices that it has
};

// Owned by main, used by all doors; any thread, though tokenising a long prompt takes long: not on an event loop.
// The trap: it must outlive the doors, and the engine must outlive it.
class Intake {
 public:
  struct Options {
    std::string model;                    // name that clients use
    AdapterRegistry* adapters = nullptr;  // what else clients may ask for by name; null: nothing. Outlives the intake
    int32_t context = 0;
    int32_t layers = 0;
    int64_t created = 0;             // seconds since 1970
    int64_t default_max_tokens = 0;  // 0: up to the context
    absl::Duration default_deadline = absl::Seconds(600);
    Targets default_targets = {};
    size_t most_choices = 1024;         // of one request: its prompts times n
    const ToolSyntax* tools = nullptr;  // how the model calls tools; null: it does not
    bool thinks = false;                // its chats may begin with <think> ... </think>
    bool request_templates = false;     // a request may bring a chat template
    GenerationDefaults sampling = {};   // as the model's authors want it
    bool traces = false;                // spans of requests are exported
    bool caches = false;                // the engine keeps answers
    FidelityRule fidelity = {};         // what may be asked for
    Metrics* metrics = nullptr;         // of constraints; null: nobody counts them
  };
  // `chat_template` is null if the model has none.
  Intake(Options options, const Tokenizer& tokenizer, const ChatTemplate* chat_template, Engine& engine, Clock& clock,
         std::unique_ptr<Entropy> entropy);

  // OK: every choice was submitted, `ready` runs on `executor` when one of them has something to take. InvalidArgument
  // names the field; NotFound: another model; otherwise what Engine::Submit said, and no choice runs.
  absl::StatusOr<GenerationRun> Start(const GenerationSpec& spec, Executor& executor, TextStream::Ready ready);
  // One choice of the run has ended: the next of those that wait may begin. What Engine::Submit said, if it is final.
  absl::Status NoteEnd(GenerationRun& run);

  // The adapter that a request for `model` is answered with; none: it asks for the model itself. NotFound: neither the
  // model nor an adapter is called so.
  absl::StatusOr<AdapterUse> FindModel(absl::string_view model) const;
  absl::Status CheckModel(absl::string_view model) const { return FindModel(model).status(); }
  // The tokens of a prompt, as Start makes them. InvalidArgument with the code context_length_exceeded: surely more
  // than `most`, which is seen without reading all of it.
  absl::StatusOr<std::vector<int32_t>> Encode(const Prompt& prompt, const PromptForm& form = {},
                                              size_t most = ChatTemplate::kAnyLength) const;
  // InvalidArgument names the first id outside the vocabulary.
  absl::Status CheckTokens(absl::string_view field, absl::Span<const int32_t> tokens) const;
  // Knows requests by their name and by the id in an OpenAI answer ("chatcmpl-" + name).
  absl::StatusOr<Explanation> Explain(absl::string_view name);

  std::string DrawName();
  // From a door, when a request ended well.
  void NoteServed(absl::Duration total);
  // When a place in the queue may be free: by the engine's prediction, else the mean time of a request over the number
  // that run side by side.
  absl::Duration RetryAfter();

  absl::Time Now() { return clock_.Now(); }
  const Options& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Engine& engine() { return engine_; }

 private:
  // From the arrival on: the call's deadline or the one that the client wrote, whichever comes first.
  absl::Duration DeadlineOf(const GenerationSpec& spec) const;
  absl::Status CheckSpec(const GenerationSpec& spec) const;
  // One answer whose tokens follow from the request alone.
  absl::Status CheckResume(const GenerationSpec& spec) const;
  // What is known of the request's fidelity once its constraint is.
  absl::StatusOr<Fidelity> FidelityFor(const GenerationSpec& spec, const Request& request) const;
  absl::StatusOr<std::vector<int32_t>> EncodeChat(const ChatInput& chat, const PromptForm& form, size_t most) const;
  // Filled in the middle: between the prompt and the request's suffix.
  absl::StatusOr<std::vector<int32_t>> EncodeBetween(const GenerationSpec& spec, const Prompt& prompt) const;
  // One prompt of a request: its tokens, or its last ones if the request wants no more.
  absl::StatusOr<std::vector<int32_t>> EncodeFor(const GenerationSpec& spec, const Prompt& prompt) const;
  // Not in time, or not wanted any more.
  absl::Status CheckWanted(const GenerationSpec& spec, absl::Time deadline) const;
  // Whose request it is, where keys are needed: tenant, salt and priority become the key's.
  absl::Status ApplyTenant(const GenerationSpec& spec, Request* request) const;
  // The name, held until the last copy of `held` is gone.
  absl::StatusOr<std::string> HoldName(const GenerationSpec& spec, std::shared_ptr<void>* held);
  OutputForm FormOf(const GenerationSpec& spec, const std::vector<int32_t>& prompt) const;
  // Fields that the request leaves open are as the model's authors want them.
  SamplingSpec SamplingFor(const GenerationSpec& spec) const;
  // The constraint on an answer of that form, compiled to find out whether it can be; empty: there is none.
  absl::StatusOr<SharedConstraint> ConstraintFor(const GenerationSpec& spec, const OutputForm& form);
  // Control tokens that an OutputParser has to see.
  std::vector<int32_t> MarksOf(const OutputForm& form) const;
  absl::Status SubmitWaiting(GenerationRun& run);
  // Tokens to generate, or what does not fit the context.
  absl::StatusOr<int32_t> MaxTokens(const GenerationSpec& spec, size_t prompt_tokens) const;
  uint64_t Draw();

  const Options options_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* const chat_template_;
  Engine& engine_;
  Clock& clock_;
  std::atomic<uint64_t> next_id_{1};
  absl::Mutex mutex_;
  const std::unique_ptr<Entropy> entropy_;  // protected by mutex_
  absl::Duration mean_total_;               // protected by mutex_; of served requests, the last ones weigh most
  GrammarStore grammars_;
  absl::flat_hash_set<std::string> names_;  // protected by mutex_; of requests under way
};

// Letters, digits and signs of ASCII, 1 to 200: fit to stand in a header and on a command line.
bool IsRequestName(absl::string_view name);

}  // namespace interlace
