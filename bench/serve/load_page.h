// The report of load runs as one HTML page: pictures are SVG in the page, nothing is loaded from elsewhere, it reads
// without a script, in light and dark, on paper and on a phone.
#pragma once

#include <optional>
#include <string>

#include "bench/serve/load_capacity.h"
#include "bench/serve/load_json.h"

namespace interlace {

struct LoadPageOptions {
  std::string title = "Load report";
  std::optional<CapacityResult> capacity;  // marked in the pictures over rate, with its steps
};

// Runs with the same label and rate are seeds of one point; figures that need several rates are left out when there is
// one. Pure.
std::string LoadPage(const LoadReport& report, const LoadPageOptions& options = {});

}  // namespace interlace
