// fcfs: first come, first served.
#include <algorithm>
#include <numeric>

#include "coordinator/scheduling_policy.h"

namespace interlace {
namespace {

class Fcfs final : public SchedulingPolicy {
 public:
  std::vector<size_t> Order(absl::Span<const SequenceView> sequences) const override {
    std::vector<size_t> order(sequences.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return Value(sequences[a].request) < Value(sequences[b].request); });
    return order;
  }
};

}  // namespace

std::unique_ptr<SchedulingPolicy> MakeFcfs() { return std::make_unique<Fcfs>(); }

}  // namespace interlace
