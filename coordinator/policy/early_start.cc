#include "coordinator/policy/early_start.h"

#include <algorithm>

namespace interlace {
namespace {

constexpr double kWorthIt = 0.25;  // of a request's own time: what early starts must be able to gain
constexpr double kMiddle = 0.5;    // half of the answers are shorter

}  // namespace

ServiceTimes ServiceOf(const StepView& view) {
  const CostModel& cost = *view.cost;
  const int32_t usual = view.lengths->AtLeast(0, kMiddle, kAll);  // tokens of an answer; 0: not known
  StepWork prompts;
  double answers = 0, positions = 0, blocks = 0;
  const auto add = [&](const SequenceView& s) {
    const int32_t from = std::min(s.found * view.block_tokens, s.prompt - 1);
    prompts.Add(from, s.prompt - from);
    const int32_t answer = std::max(s.generated(), usual > 0 ? std::min(usual, s.max_tokens) : s.max_tokens);
    const double seen = s.prompt + answer / 2.0;  // by a token in the middle of the answer
    answers += answer;
    positions += answer * seen;
    blocks += seen / view.block_tokens;
  };
  for (const SequenceView* sequence : view.running) add(*sequence);
  for (const SequenceView* sequence : view.waiting) add(*sequence);
  const auto requests = static_cast<double>(view.running.size() + view.waiting.size());
  const auto fit =
      std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(view.device_blocks) * requests / blocks));
  const auto context = static_cast<int64_t>(static_cast<double>(fit) * positions / std::max(1.0, answers));
  const double fixed = absl::ToDoubleSeconds(cost.Expect(StepWork()));
  const double step = absl::ToDoubleSeconds(cost.Expect({fit, context, context})) - fixed;
  const double prompt = (absl::ToDoubleSeconds(cost.Expect(prompts)) - fixed) / requests;
  const double tokens = answers / requests;
  return {prompt + tokens * step / static_cast<double>(fit), tokens * fixed / static_cast<double>(fit)};
}

bool RoomIsTheLimit(const StepView& view) {
  if (!view.cost->known() || view.running.size() + view.waiting.size() == 0) return true;
  const ServiceTimes service = ServiceOf(view);
  return service.idle >= kWorthIt * service.own;
}

}  // namespace interlace
