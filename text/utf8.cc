#include "text/utf8.h"

namespace interlace {

Utf8Front Utf8FrontOf(absl::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {Utf8Front::kComplete, 1};
  size_t length;
  unsigned char low = 0x80, high = 0xbf;  // of the second byte
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  } else {
    return {Utf8Front::kBroken, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size()) return {Utf8Front::kUnfinished, i};
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return {Utf8Front::kBroken, i};
  }
  return {Utf8Front::kComplete, length};
}

}  // namespace interlace
