#include "text/white_space.h"

#include "absl/strings/match.h"

namespace interlace {

size_t WhiteSpaceAt(absl::string_view text) {
  static constexpr absl::string_view kWide[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                                "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                                "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  if (text.empty()) return 0;
  const char c = text[0];
  if (static_cast<unsigned char>(c) < 0x80) return c == ' ' || (c >= '\t' && c <= '\r') ? 1 : 0;
  for (absl::string_view wide : kWide) {
    if (absl::StartsWith(text, wide)) return wide.size();
  }
  return 0;
}

size_t PythonSpaceAt(absl::string_view text) {
  if (!text.empty() && text[0] >= '\x1c' && text[0] <= '\x1f') return 1;
  return WhiteSpaceAt(text);
}

absl::string_view TrimmedLeft(absl::string_view text, size_t (*at)(absl::string_view)) {
  while (const size_t bytes = at(text)) text.remove_prefix(bytes);
  return text;
}

absl::string_view TrimmedRight(absl::string_view text, size_t (*at)(absl::string_view)) {
  for (bool more = true; more;) {
    more = false;
    for (size_t bytes = 1; bytes <= 3 && bytes <= text.size() && !more; ++bytes) {
      if (at(text.substr(text.size() - bytes)) != bytes) continue;
      text.remove_suffix(bytes);
      more = true;
    }
  }
  return text;
}

}  // namespace interlace
