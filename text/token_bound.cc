// Whether a text is too long for a model, without reading all of it.
#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"

namespace interlace {
namespace {

constexpr size_t kLook = 4096;        // bytes in which a border is looked for
constexpr size_t kFirstBytes = 8;     // of text, for each token of the limit: what is encoded first
constexpr size_t kAcrossBorder = 16;  // tokens by which a part may have more than it has within the whole

// The last place at or before `at` where no vocabulary has a token that reaches across: between a letter and a space
// that a letter follows. 0: there is none close by.
size_t BorderBefore(absl::string_view text, size_t at) {
  const auto letter = [&](size_t i) { return absl::ascii_isalpha(static_cast<unsigned char>(text[i])); };
  for (size_t i = std::min(at, text.size() - 2); i > 0 && i + kLook > at; --i) {
    if (text[i] == ' ' && letter(i - 1) && letter(i + 1)) return i;
  }
  return 0;
}

}  // namespace

// Each of these bytes becomes part of a token, and no token has more than the longest.
size_t Tokenizer::Parts::FewestTokens(absl::string_view text) const {
  if (!keeps_bytes || !normalizer.empty() || longest_piece == 0) return 0;
  std::array<bool, 256> covered;
  for (size_t byte = 0; byte < covered.size(); ++byte) covered[byte] = model->Covers(static_cast<unsigned char>(byte));
  const auto bytes = std::count_if(text.begin(), text.end(), [&](char c) { return covered[static_cast<uint8_t>(c)]; });
  return static_cast<size_t>(bytes) / longest_piece;
}

bool Tokenizer::SurelyLonger(absl::string_view text, absl::string_view data, bool special, size_t most) const {
  if (text.size() <= kLook || text.size() / kFirstBytes <= most) return false;
  if (parts_->FewestTokens(text) > most) return true;
  for (size_t bytes = kFirstBytes * most + kLook; bytes <= text.size() / 2; bytes *= 4) {
    const size_t border = BorderBefore(text, bytes);
    if (border == 0) continue;
    const absl::string_view marks = data.empty() ? data : data.substr(0, border);
    if (EncodeText(text.substr(0, border), marks, special).size() > most + kAcrossBorder) return true;
  }
  return false;
}

size_t Tokenizer::TailFor(absl::string_view text, size_t tokens) const {
  if (text.size() / kFirstBytes <= tokens) return 0;
  for (size_t bytes = kFirstBytes * tokens + kLook; bytes <= text.size() / 2; bytes *= 4) {
    const size_t border = BorderBefore(text, text.size() - bytes);
    if (border > 0 && EncodeText(text.substr(border), {}, /*special=*/false).size() > tokens + kAcrossBorder)
      return border;
  }
  return 0;
}

}  // namespace interlace
