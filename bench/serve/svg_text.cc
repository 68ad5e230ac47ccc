// Texts of the charts: short numbers, and what may stand in XML.
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/svg_chart.h"

namespace interlace {

std::string ShortNumber(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size >= 1e9) return absl::StrFormat("%.3gG", value / 1e9);
  if (size >= 1e6) return absl::StrFormat("%.3gM", value / 1e6);
  if (size >= 1e4) return absl::StrFormat("%.3gk", value / 1e3);
  if (size >= 999.5) return absl::StrFormat("%.0f", value);
  return absl::StrFormat("%.3g", value);
}

std::string ShortSeconds(double seconds) {
  const double size = std::abs(seconds);
  if (size == 0) return "0";
  if (size < 0.9995e-3) return absl::StrFormat("%.3g us", seconds * 1e6);
  if (size < 0.9995) return absl::StrFormat("%.3g ms", seconds * 1e3);
  if (size < 999.5) return absl::StrFormat("%.3g s", seconds);
  return absl::StrFormat("%.0f s", seconds);
}

std::string EscapeXml(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = c < 0x80                ? 1
                          : c >= 0xc2 && c < 0xe0 ? 2
                          : c >= 0xe0 && c < 0xf0 ? 3
                          : c >= 0xf0 && c < 0xf5 ? 4
                                                  : 0;
    bool whole = length > 0 && i + length <= text.size();
    uint32_t point = length == 1 ? c : c & (0x7f >> length);
    for (size_t k = 1; whole && k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      whole = (next & 0xc0) == 0x80;
      point = point << 6 | (next & 0x3f);
    }
    // What XML admits: no controls but tab and line ends, no surrogates, no over-long forms, none of the last two.
    const bool admitted = whole && (point >= 0x20 || point == '\t' || point == '\n' || point == '\r') &&
                          !(length == 3 && point < 0x800) && !(length == 4 && (point < 0x10000 || point > 0x10ffff)) &&
                          !(point >= 0xd800 && point < 0xe000) && point != 0xfffe && point != 0xffff;
    if (!admitted) {
      out += "\xef\xbf\xbd";
      i += 1;
      continue;
    }
    if (point == '&') {
      out += "&amp;";
    } else if (point == '<') {
      out += "&lt;";
    } else if (point == '>') {
      out += "&gt;";
    } else if (point == '"') {
      out += "&quot;";
    } else {
      absl::StrAppend(&out, text.substr(i, length));
    }
    i += length;
  }
  return out;
}

}  // namespace interlace
