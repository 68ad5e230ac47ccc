// ApiRequest: what the body of a generation becomes, whichever HTTP protocol it was written in.
#pragma once

#include <optional>
#include <string>

#include "coordinator/front/generation.h"

namespace interlace {

enum class Protocol {
  kChat,        // OpenAI's /v1/chat/completions
  kCompletion,  // OpenAI's /v1/completions
  kMessages,    // Anthropic's /v1/messages
  kResponses,   // OpenAI's /v1/responses
  kEmbeddings,  // OpenAI's /v1/embeddings
};

// A value.
struct ApiRequest {
  Protocol protocol = Protocol::kCompletion;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool show_thought = true;
  std::string echoed;  // of a kResponses: the fields that its answers repeat, as a JSON object
  GenerationSpec spec;
  int32_t keep = 0;            // of the spec.n choices of each prompt the likeliest so many are answered; 0: all
  bool show_logprobs = false;  // those that spec.logprobs asks for
  bool echo_logprobs = false;  // and before them those of the prompt, as far as spec.logprobs goes
  std::optional<int32_t> prompt_logprobs;  // of the prompt's tokens, in a list of its own, so many of the most likely
  bool base64 = false;                     // of kEmbeddings
  bool normalised = true;                  // likewise
};

}  // namespace interlace
