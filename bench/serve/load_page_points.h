// Load runs in the order in which a page shows them: a line per label, a point per rate, seeds within it. Pure.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/serve/load_figures.h"

namespace interlace {

// All seeds of one label at one rate (at one bound on open requests, in a closed loop).
struct LoadPoint {
  size_t line = 0;  // into LoadPoints::labels
  double at = 0;    // requests/s, or requests open at once
  std::vector<const LoadRun*> runs;
  std::vector<LoadFigures> figures;  // of each
  bool saturated() const;            // more than half of the seeds
};

using FigureOf = std::function<double(const LoadFigures&)>;
double MedianOf(const LoadPoint& point, const FigureOf& figure);
double LeastOf(const LoadPoint& point, const FigureOf& figure);
double MostOf(const LoadPoint& point, const FigureOf& figure);

struct LoadPoints {
  bool closed_loop = false;         // no run has a rate: points stand over open requests
  std::vector<std::string> labels;  // in the order of the runs
  std::vector<LoadPoint> points;    // by label, then by `at`
  std::vector<double> places;       // all `at`, rising
  bool has_targets = false;
  LoadTargets targets;  // what all requests that have the target ask for; empty where they differ
  // Where distributions and single requests are shown: the highest load that some label still carries.
  double shown_at = 0;

  std::string AtText(double at) const;  // "4 requests/s"
  const LoadPoint* Find(size_t line, double at) const;
  // Of the line at shown_at, or at the place nearest to it that the line has.
  const LoadPoint& Shown(size_t line) const;
};

// Keeps pointers into `runs`. Requires: runs not empty.
LoadPoints PointsOf(const std::vector<LoadRun>& runs);

}  // namespace interlace
