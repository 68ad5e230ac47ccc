// What drafting by a skip plan costs; pure arithmetic.
#pragma once

#include <vector>

#include "proto/plan/skip_plan.h"

namespace interlace {

// Of one draft pass through all sublayers, by parts. What the coordinator does not know of a model is taken as it is
// with small Llamas: two thirds and more of a layer's weights are its feed-forward part.
struct PassCosts {
  int32_t layers = 0;
  double attention = 0.25;    // of a layer; the rest of it is feed-forward
  double outside = 0.2;       // of the pass: embedding and head, which no plan passes over
  int32_t most_drafts = 8;    // guesses of a step
  double verify = 0.02;       // a row more in the step that verifies, times a plain step
  std::vector<double> fetch;  // by layer: to read its KV from the host for a pass, times a plain step; empty: none does
  double lambda = 1;          // what a unit of that counts against a unit of time per token
};

// The share of a whole pass that the plan leaves.
double PassShare(const PassCosts& costs, const SkipPlan& plan);

// Time per token over that of plain steps, each guess being right with chance `rate`, with the depth that suits it
// best; plus lambda x what its passes fetch. Without guesses it is 1, so the time part is never more.
double PlanLoss(const PassCosts& costs, const SkipPlan& plan, double rate);

// The least rate with which the plan's loss is at most `loss`; above 1: none is enough.
double RateFor(const PassCosts& costs, const SkipPlan& plan, double loss);

// A plan that a model of so many layers can run: no sublayer of its first or last layer, none beyond them.
bool Fits(const SkipPlan& plan, int32_t layers);

}  // namespace interlace
