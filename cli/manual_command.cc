#include "cli/manual_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "cli/completion_script.h"
#include "cli/man_page.h"
#include "common/status_macros.h"

namespace interlace {

absl::Status CompletionCommand(const CommandEntry& tree, const std::string& shell) {
  ASSIGN_OR_RETURN(const std::string script, CompletionScript(tree, shell));
  std::printf("%s", script.c_str());
  return absl::OkStatus();
}

absl::Status ManCommand(const CommandEntry& tree, const ManOptions& options) {
  const CommandEntry* command = &tree;
  for (const std::string& name : options.command) {
    const auto found = std::find_if(command->commands.begin(), command->commands.end(),
                                    [&name](const CommandEntry& below) { return below.name == name; });
    if (found == command->commands.end()) {
      return absl::NotFoundError(absl::StrCat(command->path, " has no command '", name, "': see its --help"));
    }
    command = &*found;
  }
  if (options.folder.empty()) {
    std::printf("%s", ManPage(*command, options.version).c_str());
    return absl::OkStatus();
  }
  std::error_code error;
  std::filesystem::create_directories(options.folder, error);
  for (const auto& [name, text] : ManPages(*command, options.version)) {
    const std::string path = absl::StrCat(options.folder, "/", name);
    std::ofstream file(path);
    file << text;
    file.close();
    if (!file) return absl::PermissionDeniedError(absl::StrCat("--dir: ", path, " cannot be written"));
    std::printf("%s\n", path.c_str());
  }
  return absl::OkStatus();
}

}  // namespace interlace
