// What the tool prints: colours that turn off when piped, aligned tables, a progress bar.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

enum class Colour { kNone, kBold, kDim, kGreen, kYellow, kRed, kBlue };

// Wraps text in the colour if standard output is a terminal and NO_COLOR is not set.
std::string Paint(Colour colour, absl::string_view text);
bool StdoutIsTerminal();
bool StdoutHasColours();  // it is one, and NO_COLOR is not set

// Rows of cells, columns aligned: numbers to the right, the rest to the left. The first row is the heading.
// Colours in cells do not count as width.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

std::string HumanBytes(int64_t bytes);     // "1.5 MiB"
std::string HumanSeconds(double seconds);  // "12 ms", "1.3 s"

// One line that is drawn over while standard output is a terminal; otherwise one line at the start and one at the end.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();
  void Show(int percent);

 private:
  const std::string label_;
  int shown_ = -1;
};

}  // namespace interlace
