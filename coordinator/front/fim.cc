#include "coordinator/front/fim.h"

#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

// How families spell the marks; all of them put what comes before first.
struct Family {
  const char *prefix, *suffix, *middle;
};
constexpr Family kFamilies[] = {
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},  // Qwen2.5-Coder, CodeGemma
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},        // StarCoder, Granite Code
    {"<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"},  // DeepSeek-Coder
    {"\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"},                                                  // Code Llama
};
// What such models write behind the middle, where the vocabulary has it.
constexpr const char* kEnds[] = {"<|fim_pad|>", "<fim_pad>",     "<|file_sep|>",  "<|file_separator|>",
                                 "<file_sep>",  "<|repo_name|>", "<|endoftext|>", "\u2581<EOT>"};

}  // namespace

absl::StatusOr<FimMarks> FindFimMarks(const Tokenizer& tokenizer) {
  for (const Family& family : kFamilies) {
    const auto prefix = tokenizer.Find(family.prefix), suffix = tokenizer.Find(family.suffix),
               middle = tokenizer.Find(family.middle);
    if (!prefix.ok() || !suffix.ok() || !middle.ok()) continue;
    FimMarks marks{*prefix, *suffix, *middle, {*prefix, *suffix, *middle}};
    for (const char* end : kEnds) {
      if (const auto token = tokenizer.Find(end); token.ok()) marks.ends.push_back(*token);
    }
    return marks;
  }
  return BadField("suffix",
                  "this model's vocabulary has no marks for filling in a middle, such as <|fim_prefix|>: it cannot "
                  "look at what comes behind the answer");
}

}  // namespace interlace
