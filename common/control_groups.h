// The control groups that a process is in, as /proc and the mounts of both versions show them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace interlace {

// The contents of a file; nullopt if it cannot be read.
using ReadSystemFile = absl::FunctionRef<std::optional<std::string>(const std::string& path)>;
// The same of the system's own files.
std::optional<std::string> SystemFile(const std::string& path);

// The folder of a group.
struct ControlGroup {
  bool unified = false;  // version 2
  std::string folder;
};

// The groups in which `controller` ("cpu", "memory") counts this process: its own and those around it, of both versions
// where both are mounted. A limit of any of them counts.
std::vector<ControlGroup> ControlGroupsOf(absl::string_view controller, ReadSystemFile read);

// The bytes that this process and those of its groups may use together; nullopt: no group sets a limit.
std::optional<int64_t> MemoryLimit(ReadSystemFile read);

}  // namespace interlace
