#include "cli/command_tree.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

FlagEntry ReadFlag(const CLI::Option& option) {
  FlagEntry flag;
  for (const std::string& name : option.get_snames()) flag.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) flag.names.push_back("--" + name);
  if (flag.names.empty()) {
    flag.positional = true;
    flag.names.push_back(option.get_name(/*positional=*/true));
  }
  flag.required = option.get_required();
  if (option.get_items_expected_max() > 0) {
    flag.value = option.get_type_name();
    if (flag.value.empty()) flag.value = "TEXT";
  }
  flag.meaning = option.get_description();
  flag.usual = option.get_default_str();
  flag.environment = option.get_envname();
  return flag;
}

// `app`'s own, those of its groups of options among them: CLI11 keeps a group as a subcommand without a name.
void ReadFlags(const CLI::App& app, std::vector<FlagEntry>* flags) {
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_group().empty()) flags->push_back(ReadFlag(*option));
  }
  for (const CLI::App* group : app.get_subcommands([](const CLI::App* one) { return one->get_name().empty(); })) {
    ReadFlags(*group, flags);
  }
}

CommandEntry Read(const CLI::App& app, const std::string& above) {
  CommandEntry command;
  command.name = app.get_name();
  command.path = above.empty() ? command.name : absl::StrCat(above, " ", command.name);
  command.meaning = app.get_description();
  ReadFlags(app, &command.flags);
  const auto named = [](const CLI::App* one) { return !one->get_group().empty() && !one->get_name().empty(); };
  for (const CLI::App* below : app.get_subcommands(named)) {
    command.commands.push_back(Read(*below, command.path));
  }
  return command;
}

}  // namespace

CommandEntry ReadCommandTree(const CLI::App& app) { return Read(app, ""); }

}  // namespace interlace
