#include "cli/completion_script.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace interlace {
namespace {

void ForEach(const CommandEntry& tree, const std::function<void(const CommandEntry&)>& visit) {
  visit(tree);
  for (const CommandEntry& command : tree.commands) ForEach(command, visit);
}

// The lines of a case for bash and fish: each command's path and a word that leads to one below it.
std::vector<std::pair<std::string, std::string>> Steps(const CommandEntry& tree) {
  std::vector<std::pair<std::string, std::string>> steps;
  ForEach(tree, [&](const CommandEntry& command) {
    for (const CommandEntry& below : command.commands) steps.emplace_back(command.path, below.name);
  });
  return steps;
}

// "path --flag" of each flag that takes a value.
std::vector<std::string> FlagsWithValues(const CommandEntry& tree) {
  std::vector<std::string> found;
  ForEach(tree, [&](const CommandEntry& command) {
    for (const FlagEntry& flag : command.flags) {
      if (flag.positional || flag.value.empty()) continue;
      for (const std::string& name : flag.names) found.push_back(absl::StrCat("\"", command.path, " ", name, "\""));
    }
  });
  return found;
}

// Values, and what is no flag, are left to bash's own completion of files.
std::string Bash(const CommandEntry& tree) {
  std::string script = absl::StrCat("# bash completion for ", tree.name, "\n_", tree.name,
                                    "() {\n"
                                    "  local cur=${COMP_WORDS[COMP_CWORD]} path=",
                                    tree.name,
                                    " i words=\n"
                                    "  COMPREPLY=()\n"
                                    "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
                                    "    case \"$path ${COMP_WORDS[i]}\" in\n");
  for (const auto& [path, word] : Steps(tree)) {
    absl::StrAppend(&script, "      \"", path, " ", word, "\") path=\"", path, " ", word, "\" ;;\n");
  }
  const std::vector<std::string> valued = FlagsWithValues(tree);
  if (!valued.empty()) {
    absl::StrAppend(&script, "      ", absl::StrJoin(valued, "|\\\n        "),
                    ")\n        i=$((i + 1))\n        ((i == COMP_CWORD)) && return ;;\n");
  }
  absl::StrAppend(&script, "    esac\n  done\n  case \"$path\" in\n");
  ForEach(tree, [&](const CommandEntry& command) {
    std::vector<std::string> flags, words;
    for (const FlagEntry& flag : command.flags) {
      if (!flag.positional) flags.insert(flags.end(), flag.names.begin(), flag.names.end());
    }
    for (const CommandEntry& below : command.commands) words.push_back(below.name);
    absl::StrAppend(&script, "    \"", command.path, "\")\n      if [[ $cur == -* ]]; then words=\"",
                    absl::StrJoin(flags, " "), "\"; else words=\"", absl::StrJoin(words, " "), "\"; fi ;;\n");
  });
  return absl::StrCat(script, "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n",
                      "complete -o bashdefault -o default -F _", tree.name, " ", tree.name, "\n");
}

std::string FunctionName(const CommandEntry& command) {
  return absl::StrCat("_", absl::StrReplaceAll(command.path, {{" ", "_"}, {"-", "_"}}));
}

// Text between single quotes of zsh's specifications.
std::string ZshText(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "'\\''"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}});
}

std::string ZshArguments(const CommandEntry& command) {
  std::string out = command.commands.empty() ? "  _arguments" : "  _arguments -C";
  for (const FlagEntry& flag : command.flags) {
    if (flag.positional) continue;
    for (const std::string& name : flag.names) {
      absl::StrAppend(&out, " \\\n    '*", name, "[", ZshText(flag.meaning), "]",
                      flag.value.empty() ? "" : absl::StrCat(":", ZshText(flag.value), ":_files"), "'");
    }
  }
  return absl::StrCat(out, command.commands.empty() ? " \\\n    '*::file:_files'\n"
                                                    : " \\\n    '1: :->command' \\\n    '*:: :->below'\n");
}

std::string Zsh(const CommandEntry& tree) {
  std::string script = absl::StrCat("#compdef ", tree.name, "\n");
  ForEach(tree, [&](const CommandEntry& command) {
    absl::StrAppend(&script, "\n", FunctionName(command), "() {\n  local curcontext=\"$curcontext\" state line\n",
                    ZshArguments(command));
    if (!command.commands.empty()) {
      absl::StrAppend(&script, "  case $state in\n    command)\n      local -a commands=(\n");
      for (const CommandEntry& below : command.commands) {
        absl::StrAppend(&script, "        '", below.name, ":", ZshText(below.meaning), "'\n");
      }
      absl::StrAppend(&script, "      )\n      _describe command commands ;;\n    below)\n      case $words[1] in\n");
      for (const CommandEntry& below : command.commands) {
        absl::StrAppend(&script, "        ", below.name, ") ", FunctionName(below), " ;;\n");
      }
      absl::StrAppend(&script, "      esac ;;\n  esac\n");
    }
    absl::StrAppend(&script, "}\n");
  });
  const std::string function = FunctionName(tree);  // read by autoload, or by source
  return absl::StrCat(script, "\nif [[ $funcstack[1] == ", function, " ]]; then ", function, " \"$@\"; else compdef ",
                      function, " ", tree.name, "; fi\n");
}

std::string FishText(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

std::string Fish(const CommandEntry& tree) {
  const std::string at = absl::StrCat("__", tree.name, "_at");
  std::string script =
      absl::StrCat("# fish completion for ", tree.name, "\nfunction ", at, "\n  set -l path ", tree.name,
                   "\n  for word in (commandline -opc)[2..-1]\n    switch \"$path $word\"\n");
  for (const auto& [path, word] : Steps(tree)) {
    absl::StrAppend(&script, "      case '", path, " ", word, "'\n        set path '", path, " ", word, "'\n");
  }
  absl::StrAppend(&script, "    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\n");
  ForEach(tree, [&](const CommandEntry& command) {
    const std::string begin = absl::StrCat("complete -c ", tree.name, " -n \"", at, " '", command.path, "'\"");
    for (const CommandEntry& below : command.commands) {
      absl::StrAppend(&script, begin, " -f -a ", below.name, " -d ", FishText(below.meaning), "\n");
    }
    for (const FlagEntry& flag : command.flags) {
      if (flag.positional) continue;
      absl::StrAppend(&script, begin);
      for (const std::string& name : flag.names) {
        const bool is_long = name.size() > 2;
        absl::StrAppend(&script, is_long ? " -l " : " -s ", name.substr(is_long ? 2 : 1));
      }
      absl::StrAppend(&script, flag.value.empty() ? "" : " -r", " -d ", FishText(flag.meaning), "\n");
    }
  });
  return script;
}

constexpr std::pair<absl::string_view, std::string (*)(const CommandEntry&)> kShells[] = {
    {"bash", &Bash}, {"zsh", &Zsh}, {"fish", &Fish}};

}  // namespace

std::vector<std::string> CompletionShells() {
  std::vector<std::string> names;
  for (const auto& [name, make] : kShells) names.emplace_back(name);
  return names;
}

absl::StatusOr<std::string> CompletionScript(const CommandEntry& tree, absl::string_view shell) {
  for (const auto& [name, make] : kShells) {
    if (name == shell) return make(tree);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("SHELL='", shell, "' is none of ", absl::StrJoin(CompletionShells(), ", ")));
}

}  // namespace interlace
