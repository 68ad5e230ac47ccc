#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "text/text_pattern.h"
#include "text/utf8.h"
#include "text/white_space.h"

namespace interlace {
namespace {

// Calls `whole` with each run of whole code points and copies the rest.
template <typename Whole>
std::string OverWholeRuns(absl::string_view text, Whole whole) {
  std::string out;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Front front = Utf8FrontOf(text.substr(i));
    if (front.kind != Utf8Front::kComplete) {
      if (i > begin) out += whole(text.substr(begin, i - begin));
      absl::StrAppend(&out, text.substr(i, front.bytes));
      begin = i + front.bytes;
    }
    i += front.bytes;
  }
  if (begin < text.size()) out += whole(text.substr(begin));
  return out;
}

}  // namespace

struct Normalizer::Prefixing : Step {
  explicit Prefixing(absl::string_view text) : prefix(text) {}
  std::string Apply(absl::string_view text) const override {
    return text.empty() ? std::string() : absl::StrCat(prefix, text);
  }
  std::string prefix;
};

struct Normalizer::Replacing : Step {
  Replacing(absl::string_view f, absl::string_view t) : from(f), to(t) {}
  std::string Apply(absl::string_view text) const override { return absl::StrReplaceAll(text, {{from, to}}); }
  std::string from, to;
};

struct Normalizer::PatternReplacing : Step {
  PatternReplacing(TextPattern p, absl::string_view t) : pattern(std::move(p)), to(t) {}
  std::string Apply(absl::string_view text) const override {
    TextPattern::Search search;
    return OverWholeRuns(text, [&](absl::string_view run) {
      std::string out;
      size_t done = 0;
      for (size_t from = 0; from < run.size();) {
        const TextPattern::Found found = pattern.Find(run, from, search);
        if (!found.any) break;
        if (found.end == found.begin) {  // between characters: nothing to replace
          from = found.end < run.size() ? found.end + Utf8FrontOf(run.substr(found.end)).bytes : run.size();
          continue;
        }
        absl::StrAppend(&out, run.substr(done, found.begin - done), to);
        done = from = found.end;
      }
      absl::StrAppend(&out, run.substr(done));
      return out;
    });
  }
  TextPattern pattern;
  std::string to;
};

struct Normalizer::Forming : Step {
  explicit Forming(Form f) : form(f) {}
  std::string Apply(absl::string_view text) const override {
    const bool composes = form == Form::kNfc || form == Form::kNfkc;
    const bool compatible = form == Form::kNfkc || form == Form::kNfkd;
    const auto options = static_cast<utf8proc_option_t>(
        UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0));
    return OverWholeRuns(text, [&](absl::string_view run) {
      utf8proc_uint8_t* formed = nullptr;
      const utf8proc_ssize_t bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                                  static_cast<utf8proc_ssize_t>(run.size()), &formed, options);
      CHECK_MSG(bytes >= 0, "whole code points have a normal form");
      std::string out(reinterpret_cast<const char*>(formed), static_cast<size_t>(bytes));
      std::free(formed);
      return out;
    });
  }
  Form form;
};

struct Normalizer::Stripping : Step {
  Stripping(bool l, bool r) : left(l), right(r) {}
  std::string Apply(absl::string_view text) const override {
    if (left) text = TrimmedLeft(text);
    if (right) text = TrimmedRight(text);
    return std::string(text);
  }
  bool left, right;
};

struct Normalizer::ControlCleaning : Step {
  std::string Apply(absl::string_view text) const override {
    return OverWholeRuns(text, [](absl::string_view run) {
      std::string out;
      while (!run.empty()) {
        utf8proc_int32_t code = 0;
        const utf8proc_ssize_t bytes = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                                        static_cast<utf8proc_ssize_t>(run.size()), &code);
        CHECK(bytes > 0);
        if (IsSpace(code)) {
          out += ' ';
        } else if (!IsDropped(code)) {
          absl::StrAppend(&out, run.substr(0, static_cast<size_t>(bytes)));
        }
        run.remove_prefix(static_cast<size_t>(bytes));
      }
      return out;
    });
  }
  // The lists of SentencePiece's rule "nmt".
  static bool IsDropped(int32_t c) {
    return (c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
  }
  static bool IsSpace(int32_t c) {
    return c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
  }
};

Normalizer::Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;
Normalizer& Normalizer::operator=(Normalizer&&) noexcept = default;
Normalizer::~Normalizer() = default;

void Normalizer::AddPrefix(absl::string_view text) { steps_.push_back(std::make_unique<Prefixing>(text)); }
void Normalizer::AddReplacement(absl::string_view from, absl::string_view to) {
  steps_.push_back(std::make_unique<Replacing>(from, to));
}
absl::Status Normalizer::AddPatternReplacement(absl::string_view pattern, absl::string_view to) {
  ASSIGN_OR_RETURN(TextPattern compiled, TextPattern::Compile(pattern));
  steps_.push_back(std::make_unique<PatternReplacing>(std::move(compiled), to));
  return absl::OkStatus();
}
void Normalizer::AddForm(Form form) { steps_.push_back(std::make_unique<Forming>(form)); }
void Normalizer::AddStrip(bool left, bool right) { steps_.push_back(std::make_unique<Stripping>(left, right)); }
void Normalizer::AddControlCleaning() { steps_.push_back(std::make_unique<ControlCleaning>()); }

std::string Normalizer::Apply(absl::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) out = step->Apply(out);
  return out;
}

}  // namespace interlace
