#include "tests/sim/shrink.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace interlace::sim {
namespace {

std::optional<int64_t> Number(const char* name) {
  const char* text = std::getenv(name);
  int64_t value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

std::optional<std::vector<int32_t>> Numbers(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return std::nullopt;
  std::vector<int32_t> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int32_t value = 0;
    if (absl::SimpleAtoi(part, &value)) numbers.push_back(value);
  }
  return numbers;
}

template <typename Item>
std::vector<int32_t> IndicesOf(const std::vector<Item>& items) {
  std::vector<int32_t> indices;
  for (const Item& item : items) indices.push_back(item.index);
  return indices;
}

// Leaves out as many of the numbers as may be, larger pieces first.
void ShrinkSet(std::optional<std::vector<int32_t>> Cut::*which, Replay* replay,
               const std::function<bool(const Replay&)>& fails) {
  for (size_t piece = std::max<size_t>(1, (replay->cut.*which)->size() / 2);; piece /= 2) {
    for (size_t at = 0; at < (replay->cut.*which)->size();) {
      Replay less = *replay;
      std::vector<int32_t>& kept = *(less.cut.*which);
      kept.erase(kept.begin() + static_cast<ptrdiff_t>(at),
                 kept.begin() + static_cast<ptrdiff_t>(std::min(kept.size(), at + piece)));
      if (fails(less)) {
        *replay = less;
      } else {
        at += piece;
      }
    }
    if (piece <= 1) return;
  }
}

void ShrinkNumber(int32_t Cut::*which, int32_t most, Replay* replay, const std::function<bool(const Replay&)>& fails) {
  for (int32_t low = 1, high = most; low < high;) {
    Replay less = *replay;
    less.cut.*which = low + (high - low) / 2;
    if (fails(less)) {
      *replay = less;
      high = less.cut.*which;
    } else {
      low = less.cut.*which + 1;
    }
  }
}

}  // namespace

std::optional<Replay> ReplayFromEnvironment() {
  const std::optional<int64_t> seed = Number("INTERLACE_SIM_SEED");
  if (!seed) return std::nullopt;
  Replay replay;
  replay.seed = static_cast<uint64_t>(*seed);
  if (const char* canary = std::getenv("INTERLACE_SIM_CANARY")) {
    replay.canary = FindCanary(canary).value_or(Canary::kNone);
  }
  replay.cut.requests = Numbers("INTERLACE_SIM_REQUESTS");
  replay.cut.faults = Numbers("INTERLACE_SIM_FAULTS");
  if (const auto most = Number("INTERLACE_SIM_PROMPT")) replay.cut.prompt_tokens = static_cast<int32_t>(*most);
  if (const auto most = Number("INTERLACE_SIM_TOKENS")) replay.cut.max_tokens = static_cast<int32_t>(*most);
  return replay;
}

std::string CommandOf(const Replay& replay) {
  std::string command = absl::StrCat("INTERLACE_SIM_SEED=", replay.seed);
  const Cut& cut = replay.cut;
  if (replay.canary != Canary::kNone) absl::StrAppend(&command, " INTERLACE_SIM_CANARY=", CanaryName(replay.canary));
  if (cut.requests) absl::StrAppend(&command, " INTERLACE_SIM_REQUESTS=", absl::StrJoin(*cut.requests, ","));
  if (cut.faults) absl::StrAppend(&command, " INTERLACE_SIM_FAULTS=", absl::StrJoin(*cut.faults, ","));
  if (cut.prompt_tokens < Cut().prompt_tokens) absl::StrAppend(&command, " INTERLACE_SIM_PROMPT=", cut.prompt_tokens);
  if (cut.max_tokens < Cut().max_tokens) absl::StrAppend(&command, " INTERLACE_SIM_TOKENS=", cut.max_tokens);
  return absl::StrCat(command, " out/dev/tests/sim_test --gtest_filter=Replaying.*");
}

std::string FailureOf(const std::function<std::string()>& run) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    dup2(ends[1], STDERR_FILENO);  // what a CHECK says
    const std::string failure = run();
    [[maybe_unused]] const ssize_t written = write(ends[1], failure.data(), failure.size());
    _exit(failure.empty() ? 0 : 1);
  }
  close(ends[1]);
  std::string said;
  char piece[4096];
  for (ssize_t got = 0; (got = read(ends[0], piece, sizeof(piece))) > 0;) said.append(piece, static_cast<size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return std::string();
  return said.empty() ? absl::StrCat("the process ended with status ", status) : said;
}

Replay Shrink(const Replay& replay, const std::function<bool(const Replay&)>& fails) {
  const Scenario whole = Apply(replay.cut, DrawScenario(replay.seed));
  Replay small = replay;
  small.cut.requests = IndicesOf(whole.arrivals);
  small.cut.faults = IndicesOf(whole.faults);
  int32_t prompt = 1, tokens = 1;
  for (const Arrival& arrival : whole.arrivals) {
    prompt = std::max(prompt, static_cast<int32_t>(arrival.prompt.size()));
    tokens = std::max(tokens, arrival.max_tokens);
  }
  for (int32_t round = 0; round < 2; ++round) {
    ShrinkSet(&Cut::requests, &small, fails);
    ShrinkSet(&Cut::faults, &small, fails);
    if (round > 0) break;
    ShrinkNumber(&Cut::prompt_tokens, prompt, &small, fails);
    ShrinkNumber(&Cut::max_tokens, tokens, &small, fails);
  }
  return small;
}

}  // namespace interlace::sim
