#include "cli/bench_profile.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

// Calls that a layer makes, when all of a step's layers make as many; 0 otherwise. Attention marks a layer.
size_t CallsOfLayer(absl::Span<const OpCall> step, int32_t layers) {
  std::vector<size_t> marks;
  for (size_t i = 0; i < step.size(); ++i) {
    if (step[i].kind == OpKind::kPagedAttention) marks.push_back(i);
  }
  if (static_cast<int32_t>(marks.size()) != layers) return 0;
  if (layers == 1) return 0;
  const size_t apart = marks[1] - marks[0];
  for (size_t i = 1; i + 1 < marks.size(); ++i) {
    if (marks[i + 1] - marks[i] != apart) return 0;
  }
  return 1 + static_cast<size_t>(layers) * apart <= step.size() ? apart : 0;
}

void AddStep(absl::Span<const OpCall> step, int32_t layers, StepProfile* profile) {
  const size_t apart = CallsOfLayer(step, layers);
  if (apart == 0) profile->layers.clear();
  const bool by_layer = apart > 0 && !profile->layers.empty();
  for (size_t i = 0; i < step.size(); ++i) {
    const OpCall& call = step[i];
    profile->kernels += call.time;
    auto op =
        std::find_if(profile->ops.begin(), profile->ops.end(), [&](const auto& o) { return o.kind == call.kind; });
    if (op == profile->ops.end()) op = profile->ops.insert(op, {call.kind, 0, absl::ZeroDuration()});
    ++op->calls;
    op->time += call.time;
    if (call.kind == OpKind::kEmbedding) {
      profile->embedding += call.time;
    } else if (call.kind == OpKind::kSample) {
      profile->sampler += call.time;
    } else if (by_layer && i <= static_cast<size_t>(layers) * apart) {
      profile->layers[(i - 1) / apart] += call.time;
    } else {
      profile->head += call.time;
    }
  }
}

std::string Micros(absl::Duration time, int steps) {
  return absl::StrFormat("%.1f", absl::ToDoubleMicroseconds(time) / steps);
}
std::string Share(absl::Duration part, absl::Duration all) {
  return absl::StrFormat("%.1f %%", 100 * absl::FDivDuration(part, all));
}

}  // namespace

StepProfile SummariseCalls(absl::Span<const OpCall> calls, absl::Span<const absl::Duration> step_times,
                           int32_t layers) {
  StepProfile profile;
  profile.steps = static_cast<int>(step_times.size());
  profile.layers.resize(static_cast<size_t>(layers));
  for (const absl::Duration time : step_times) profile.total += time;
  std::vector<size_t> begins;  // of steps
  for (size_t i = 0; i < calls.size(); ++i) {
    if (calls[i].kind == OpKind::kEmbedding) begins.push_back(i);
  }
  const size_t extra = begins.size() - std::min(begins.size(), step_times.size());
  for (size_t step = extra; step < begins.size(); ++step) {
    const size_t end = step + 1 < begins.size() ? begins[step + 1] : calls.size();
    AddStep(calls.subspan(begins[step], end - begins[step]), layers, &profile);
  }
  std::sort(profile.ops.begin(), profile.ops.end(), [](const auto& a, const auto& b) { return a.time > b.time; });
  return profile;
}

std::string ProfileTables(const StepProfile& p) {
  std::vector<std::vector<std::string>> ops = {{"op", "calls/step", "us/step", "share"}};
  for (const StepProfile::Op& op : p.ops) {
    ops.push_back({std::string(OpKindName(op.kind)), absl::StrFormat("%g", static_cast<double>(op.calls) / p.steps),
                   Micros(op.time, p.steps), Share(op.time, p.total)});
  }
  ops.push_back({"outside kernels", "", Micros(p.total - p.kernels, p.steps), Share(p.total - p.kernels, p.total)});
  std::vector<std::vector<std::string>> way = {{"part", "us/step", "share"}};
  const auto add = [&](std::string name, absl::Duration time) {
    way.push_back({std::move(name), Micros(time, p.steps), Share(time, p.total)});
  };
  add("embedding", p.embedding);
  for (size_t l = 0; l < p.layers.size(); ++l) add(absl::StrCat("layer ", l), p.layers[l]);
  add(p.layers.empty() ? "layers and head" : "head", p.head);
  add("sampler", p.sampler);
  return absl::StrCat(FormatTable(ops), "\n", FormatTable(way));
}

}  // namespace interlace
