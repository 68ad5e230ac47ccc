// What `interlace top` shows, as lines of text; pure functions.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "coordinator/front/ui_json.h"

namespace interlace {

struct TopView {
  std::string url;
  UiState state = {};   // the latest; of before, if `trouble` says so
  bool known = false;   // `state` is one
  std::string trouble;  // why there is no newer one; empty: there is
  bool colour = false;
  bool live = false;  // it is shown again and again: tells how to leave
};

// At most `height` lines of at most `width` columns, without a line break at the end. `height` 0: as many as there are.
// A line that carries colours ends without any.
std::string TopFrame(const TopView& view, int width, int height);

}  // namespace interlace
