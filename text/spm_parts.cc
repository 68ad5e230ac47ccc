#include "text/spm_parts.h"

#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "text/spm_bpe.h"
#include "text/unigram.h"

namespace interlace {

absl::Status SpmParts::Broken(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(where_, what));
}

absl::Status SpmParts::FillSpecials() {
  const std::vector<std::string>& pieces = parts_->pieces;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool control = types_[i] == kControl || types_[i] == kUnknown;
    parts_->control.push_back(control);
    if (!control && types_[i] != kUserDefined) continue;
    if (pieces[i].empty()) return Broken(absl::StrCat("tokens[", i, "] is empty"));
    parts_->specials.Add(pieces[i], {static_cast<int32_t>(i), control});
  }
  return absl::OkStatus();
}

absl::Status SpmParts::FillModel(const Rules& rules) {
  for (size_t i = 0; i < rules.scores.size(); ++i) {
    if (!std::isfinite(rules.scores[i])) return Broken(absl::StrCat("scores[", i, "] is not a finite number"));
  }
  RETURN_IF_ERROR(FillNormalizer(rules));
  RETURN_IF_ERROR(rules.unigram ? FillUnigram(rules) : FillBpe(rules));
  DropSpaceMarks();
  return absl::OkStatus();
}

absl::Status SpmParts::FillNormalizer(const Rules& rules) {
  if (rules.collapse_spaces) {
    // Spaces alone, other white space stays; at the end SentencePiece looks at marks, so that one that was typed goes
    // too.
    for (const auto& [pattern, to] : {std::pair{"\\A +", ""}, {"(?<![ \u2581])[ \u2581]+\\z", ""}, {" {2,}", " "}}) {
      RETURN_IF_ERROR(parts_->normalizer.AddPatternReplacement(pattern, to));
    }
  }
  if (rules.space_prefix) parts_->normalizer.AddPrefix(" ");
  parts_->normalizer.AddReplacement(" ", kSpaceMark);
  parts_->drops_first_space = rules.space_prefix;
  if (!rules.space_prefix) FindUserDefinedAfterMarking();
  return absl::OkStatus();
}

// SentencePiece looks for user-defined tokens after spaces became marks. Where it puts a space before the text that
// makes a difference, and transformers and llama.cpp, which put one before each part, look before.
void SpmParts::FindUserDefinedAfterMarking() {
  SpecialTokens controls;
  for (size_t i = 0; i < types_.size(); ++i) {
    const SpecialTokens::Token token{static_cast<int32_t>(i), parts_->control[i]};
    if (token.control) controls.Add(parts_->pieces[i], token);
    if (types_[i] == kUserDefined) {
      parts_->normal_specials.Add(absl::StrReplaceAll(parts_->pieces[i], {{" ", kSpaceMark}}), token);
    }
  }
  parts_->specials = std::move(controls);
}

absl::Status SpmParts::FillFallback(int32_t unknown, ByteFallback* fallback) {
  for (size_t i = 0; i < types_.size(); ++i) {
    if (types_[i] != kByte) continue;
    const int byte = ByteOfToken(parts_->pieces[i]);
    if (byte < 0) {
      return Broken(absl::StrCat("tokens[", i, "] '", parts_->pieces[i].substr(0, 80), "' is no byte token <0x..>"));
    }
    fallback->SetByte(byte, static_cast<int32_t>(i));
    parts_->pieces[i] = std::string(1, static_cast<char>(byte));
  }
  if (unknown >= 0) fallback->SetUnknown(unknown, /*fuse=*/true);
  return absl::OkStatus();
}

absl::Status SpmParts::FillBpe(const Rules& rules) {
  auto bpe = std::make_unique<SpmBpe>();
  RETURN_IF_ERROR(FillFallback(rules.unknown, &bpe->fallback()));
  for (size_t i = 0; i < types_.size(); ++i) {
    if (types_[i] != kNormal && types_[i] != kUnused) continue;
    if (parts_->pieces[i].empty()) return Broken(absl::StrCat("tokens[", i, "] is empty"));
    bpe->AddToken(parts_->pieces[i], static_cast<int32_t>(i), static_cast<float>(rules.scores[i]),
                  types_[i] == kUnused);
  }
  parts_->model = std::move(bpe);
  return absl::OkStatus();
}

absl::Status SpmParts::FillUnigram(const Rules& rules) {
  auto unigram = std::make_unique<Unigram>();
  RETURN_IF_ERROR(FillFallback(rules.unknown, &unigram->fallback()));
  for (size_t i = 0; i < types_.size(); ++i) {
    if (types_[i] != kNormal) continue;
    const absl::Status added = unigram->AddToken(parts_->pieces[i], static_cast<int32_t>(i), rules.scores[i]);
    if (!added.ok()) return Broken(absl::StrCat("tokens[", i, "]: ", added.message()));
  }
  parts_->model = std::move(unigram);
  return absl::OkStatus();
}

// Turns the marks in tokens that stand for text back into spaces.
void SpmParts::DropSpaceMarks() {
  for (size_t i = 0; i < types_.size(); ++i) {
    if (types_[i] == kNormal || types_[i] == kUnused || types_[i] == kUserDefined) {
      parts_->pieces[i] = absl::StrReplaceAll(parts_->pieces[i], {{kSpaceMark, " "}});
    }
  }
}

}  // namespace interlace
