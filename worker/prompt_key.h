// Keys of prompts: means of hidden states behind one layer, by which prompts are compared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"
#include "kvstore/layer_set.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// What a sequence has of its key: the sum over positions [ask.first, to). Part of SequenceKv; thread: runner. The trap:
// positions are added when they are computed and never again, so a sum that misses one is of no use to anybody.
struct KeySum {
  KeyAsk ask;
  int32_t to = -1;          // -1: none was asked for
  std::vector<double> sum;  // [width], on the stage that has the layer; empty: nothing was added yet

  // Takes the ask of the next step. Why it cannot be; empty: it can.
  std::string Take(const PlanSequence& planned);
  // The step's hidden states behind the layer, of its positions from `start` on, `width` numbers each, in their order.
  // They are added one by one in double precision, so that how the prompt was cut into steps changes nothing.
  void Add(int32_t start, int32_t rows, int32_t width, const float* hidden);
  std::vector<float> Mean() const;
};

// Layers behind which a sequence of the plan wants a key.
LayerSet KeyLayers(const StepPlan& plan);

}  // namespace interlace
