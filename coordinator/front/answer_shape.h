// AnswerShape: what makes an answer what it is, and only the door knows; pure functions.
#pragma once

#include "coordinator/front/generation.h"
#include "coordinator/request.h"

namespace interlace {

// Of two requests whose terms have the same shape, answers differ by their tokens alone: stop strings, the template and
// what it is given, and, of a chat, all messages but the text of the last one, if a user says it. So a response cache
// compares that text, and never one system prompt or one former turn with another.
CacheTerms CacheTermsOf(const GenerationSpec& spec);

}  // namespace interlace
