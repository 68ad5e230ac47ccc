// The page /ui: coordinator/front/ui/* as one text, made by the build.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

absl::string_view UiPage();

// What the page may do: run its own script, use its own style, ask its own server. Nothing else, whatever text of a
// request gets into it.
std::string UiPagePolicy();

}  // namespace interlace
