// Looks of the load page: one style sheet, and the script of its only button.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

std::string LoadPageStyle();
// Shows the button and turns light into dark. It is well-formed within XML: no < and no &.
absl::string_view LoadPageScript();

}  // namespace interlace
