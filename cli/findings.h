// What `interlace doctor` found, as a table, as JSON and as an exit status; pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace interlace {

// kFail: it does not work so, or gives wrong or no service. kWarn: it works, and not as it could.
enum class Verdict : uint8_t { kOk, kWarn, kFail };

struct Finding {
  std::string check;  // "memory bandwidth": the same from run to run
  Verdict verdict = Verdict::kOk;
  std::string found;  // what is so
  std::string cure;   // of what is not ok: what to do
};

// Columns that are aligned, what is worst in colour; a last line counts.
std::string FindingsTable(const std::vector<Finding>& findings);
std::string FindingsJson(const std::vector<Finding>& findings);
// 1 if anything fails.
int FindingsExitStatus(const std::vector<Finding>& findings);

}  // namespace interlace
