// Parts that self-contained HTML pages are put together from: the load page and the pages of studies. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// Name and value, for the head of a page. A value that is empty is left out, a long one gets a line of its own.
using PageFacts = std::vector<std::pair<std::string, std::string>>;
std::string PageHeader(absl::string_view title, const PageFacts& facts);

// `content` is HTML, here and below.
std::string PageSection(absl::string_view id, absl::string_view heading, const std::string& content);

// The first row is the heading. A row whose first cell is empty goes on with what the row above is about.
std::string PageTable(const std::vector<std::vector<std::string>>& rows);

// Pictures side by side where there is room.
std::string PictureGrid(const std::vector<std::string>& pictures);

// The whole page about `body`, with style and script.
std::string PageShell(absl::string_view title, const std::string& body);

}  // namespace interlace
