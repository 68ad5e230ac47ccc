// The pictures of the load page. Each function returns HTML: figures with their captions.
#pragma once

#include <optional>
#include <string>

#include "bench/serve/load_capacity.h"
#include "bench/serve/load_page_points.h"

namespace interlace {

// TTFT, TPOT and largest gap at p50, p90 and p99 over rate. Requires: at least two places.
std::string LatencyFigures(const LoadPoints& points, const std::optional<CapacityResult>& capacity);
// Goodput, share of requests that meet their targets, shed and failed requests over rate. Requires: at least two
// places.
std::string GoodputFigures(const LoadPoints& points, const std::optional<CapacityResult>& capacity);
// Latency and pace of one user over what all users get. Requires: at least two places.
std::string ThroughputFigures(const LoadPoints& points);
// What became of the requests, a bar for each point.
std::string OutcomeFigures(const LoadPoints& points);
// Distributions of TTFT, ITL and E2EL at the place shown.
std::string DistributionFigures(const LoadPoints& points);
// When which gaps between deliveries came, for each label at the place shown.
std::string GapFigures(const LoadPoints& points);
// Requests one by one, for each label at the place shown.
std::string WaterfallFigures(const LoadPoints& points);

// The names of the lines with their marks.
std::string LegendHtml(const LoadPoints& points);
std::string FigureHtml(const std::string& picture, const std::string& caption);

}  // namespace interlace
