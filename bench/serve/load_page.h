// The report of load runs as one HTML page: pictures are SVG in the page, nothing is loaded from elsewhere, it reads
// without a script, in light and dark, on paper and on a phone.
#pragma once

#include <string>

#include "bench/serve/load_json.h"

namespace interlace {

// Runs with the same label and rate are seeds of one point; figures that need several rates are left out when there is
// one. Pure.
std::string LoadPage(const LoadReport& report, const std::string& title = "Load report");

}  // namespace interlace
