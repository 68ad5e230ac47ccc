#include "cli/config_command.h"

#include <cstdio>

#include "cli/terminal.h"

namespace interlace {

void ConfigCommand(const ConfigBuilder& builder) {
  std::vector<std::vector<std::string>> rows = {{"setting", "value", "origin", "meaning"}};
  for (const ConfigField& field : ConfigSchema()) {
    const std::string origin = builder.OriginOf(field.name);
    const std::string value = field.print(builder.values());
    rows.push_back({std::string(field.name), value.empty() ? "\"\"" : value,
                    Paint(origin == "default" ? Colour::kDim : Colour::kYellow, origin), std::string(field.meaning)});
  }
  std::printf("%s", FormatTable(rows).c_str());
}

}  // namespace interlace
