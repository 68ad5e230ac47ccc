#include "cli/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace interlace {
namespace {

// Columns that text takes on a terminal: code points, escape sequences not counted.
size_t WidthOf(absl::string_view text) {
  size_t width = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) {
      ++width;
    }
  }
  return width;
}

bool LooksNumeric(absl::string_view text) {
  size_t i = 0;
  while (i < text.size() && text[i] == '\x1b') {
    while (i < text.size() && text[i] != 'm') ++i;
    ++i;
  }
  return i < text.size() &&
         (absl::ascii_isdigit(static_cast<unsigned char>(text[i])) || text[i] == '-' || text[i] == '.');
}

}  // namespace

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }

bool StdoutHasColours() { return StdoutIsTerminal() && std::getenv("NO_COLOR") == nullptr; }

std::string Paint(Colour colour, absl::string_view text) {
  static const bool on = StdoutHasColours();
  if (!on || colour == Colour::kNone) return std::string(text);
  const char* code = "0";
  switch (colour) {
    case Colour::kNone:
      break;
    case Colour::kBold:
      code = "1";
      break;
    case Colour::kDim:
      code = "2";
      break;
    case Colour::kGreen:
      code = "32";
      break;
    case Colour::kYellow:
      code = "33";
      break;
    case Colour::kRed:
      code = "31";
      break;
    case Colour::kBlue:
      code = "34";
      break;
  }
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  std::vector<bool> numeric;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) {
      if (c >= widths.size()) {
        widths.push_back(0);
        numeric.push_back(true);
      }
      widths[c] = std::max(widths[c], WidthOf(rows[r][c]));
      if (r > 0 && !LooksNumeric(rows[r][c])) numeric[c] = false;
    }
  }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) {
      const std::string pad(widths[c] - WidthOf(rows[r][c]), ' ');
      const std::string cell = r == 0 ? Paint(Colour::kBold, rows[r][c]) : rows[r][c];
      if (c > 0) out += "  ";
      out += numeric[c] ? pad + cell : (c + 1 < rows[r].size() ? cell + pad : cell);
    }
    out += '\n';
  }
  return out;
}

std::string HumanBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.*f %s", value < 10 ? 1 : 0, value, kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (seconds < 1) return absl::StrFormat("%.0f ms", seconds * 1e3);
  return absl::StrFormat("%.1f s", seconds);
}

ProgressBar::ProgressBar(std::string label) : label_(std::move(label)) { Show(0); }

ProgressBar::~ProgressBar() {
  if (StdoutIsTerminal() && shown_ >= 0) std::printf("\n");
  std::fflush(stdout);
}

void ProgressBar::Show(int percent) {
  if (percent == shown_) return;
  const bool first = shown_ < 0;
  shown_ = percent;
  if (!StdoutIsTerminal()) {
    if (first || percent >= 100) std::printf("  %-10s %d%%\n", label_.c_str(), percent);
    std::fflush(stdout);
    return;
  }
  constexpr int kCells = 32;
  std::string bar;
  for (int i = 0; i < kCells; ++i) bar += i < percent * kCells / 100 ? "█" : "░";
  std::printf("\r  %-10s %s %3d%%", label_.c_str(), Paint(Colour::kBlue, bar).c_str(), percent);
  std::fflush(stdout);
}

}  // namespace interlace
