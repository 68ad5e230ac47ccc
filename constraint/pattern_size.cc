#include "constraint/pattern_size.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"

namespace interlace {
namespace {

int64_t Capped(int64_t atoms) { return std::min(atoms, kMostAtoms + 1); }

// The bounds behind an atom that ends before `at`: a{n}, a{n,} and a{n,m} are `times` atoms; any other text is no
// bounds. Moves `at` behind them.
int64_t TimesAt(absl::string_view pattern, size_t* at) {
  if (*at >= pattern.size() || pattern[*at] != '{') return 1;
  int64_t numbers[2] = {0, 0};
  int which = 0;
  size_t i = *at + 1;
  for (; i < pattern.size() && pattern[i] != '}'; ++i) {
    if (pattern[i] == ',' && which == 0) {
      which = 1;
    } else if (absl::ascii_isdigit(pattern[i])) {
      numbers[which] = Capped(numbers[which] * 10 + (pattern[i] - '0'));
    } else if (pattern[i] != ' ') {
      return 1;
    }
  }
  if (i == pattern.size()) return 1;
  *at = i + 1;
  return std::max<int64_t>(1, std::max(numbers[0], numbers[1]));
}

// Behind the class that begins at `at`.
size_t ClassEnd(absl::string_view pattern, size_t at) {
  size_t i = at + 1;
  if (i < pattern.size() && pattern[i] == '^') ++i;
  if (i < pattern.size() && pattern[i] == ']') ++i;
  for (; i < pattern.size() && pattern[i] != ']'; ++i) {
    if (pattern[i] == '\\') ++i;
  }
  return std::min(pattern.size(), i + 1);
}

}  // namespace

PatternSize SizeOfPattern(absl::string_view pattern) {
  PatternSize size;
  std::vector<int64_t> open = {0};  // atoms of the groups that are open, the outermost first
  for (size_t at = 0; at < pattern.size();) {
    int64_t atoms = 1;
    if (pattern[at] == '(') {
      open.push_back(0);
      size.groups = std::max(size.groups, static_cast<int>(open.size()) - 1);
      ++at;
      continue;
    }
    if (pattern[at] == ')' && open.size() > 1) {
      atoms = open.back();
      open.pop_back();
      ++at;
    } else if (pattern[at] == '[') {
      at = ClassEnd(pattern, at);
    } else {
      at += pattern[at] == '\\' ? 2 : 1;
    }
    open.back() = Capped(open.back() + Capped(atoms * TimesAt(pattern, &at)));
  }
  for (const int64_t atoms : open) size.atoms = Capped(size.atoms + atoms);
  return size;
}

}  // namespace interlace
