// The commands of the tool with their flags, as values: what completions and man pages are made of.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace interlace {

struct FlagEntry {
  std::vector<std::string> names;  // "-p", "--prompt"; of a positional one: "MODEL"
  bool positional = false;
  bool required = false;
  std::string value;        // "TEXT", "INT", ...; empty: it takes none
  std::string meaning;      // one line
  std::string usual;        // its default, as text; empty: none
  std::string environment;  // the variable that stands for it; empty: none
};

struct CommandEntry {
  std::string name;  // "interlace", "bench", "serve"
  std::string path;  // "interlace bench serve"
  std::string meaning;
  std::vector<FlagEntry> flags;
  std::vector<CommandEntry> commands;
};

// Of an app with all that is below it; what its help hides is left out.
CommandEntry ReadCommandTree(const CLI::App& app);

}  // namespace interlace
