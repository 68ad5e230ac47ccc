#include "cli/man_page.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace interlace {
namespace {

// Nothing of it is a request or an escape of roff.
std::string Plain(absl::string_view text) {
  std::string out = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}, {"\n", " "}});
  if (!out.empty() && (out[0] == '.' || out[0] == '\'')) out.insert(0, "\\&");
  return out;
}

std::string PageName(const CommandEntry& command) { return absl::StrReplaceAll(command.path, {{" ", "-"}}); }

std::string Option(const FlagEntry& flag) {
  const auto bold = [&flag](std::string* out, const std::string& name) {
    absl::StrAppend(out, flag.positional ? "\\fI" : "\\fB", Plain(name), "\\fR");
  };
  std::string out = absl::StrCat(".TP\n", absl::StrJoin(flag.names, ", ", bold));
  if (!flag.value.empty() && !flag.positional) absl::StrAppend(&out, " \\fI", Plain(flag.value), "\\fR");
  absl::StrAppend(&out, "\n", Plain(flag.meaning));
  if (!flag.usual.empty()) absl::StrAppend(&out, " (default ", Plain(flag.usual), ")");
  if (!flag.environment.empty()) absl::StrAppend(&out, " (environment ", Plain(flag.environment), ")");
  return out + "\n";
}

}  // namespace

std::string ManPage(const CommandEntry& command, absl::string_view version) {
  const std::string name = PageName(command);
  std::string page = absl::StrCat(".TH \"", absl::AsciiStrToUpper(name), "\" 1 \"\" \"interlace ", version,
                                  "\" \"Interlace\"\n.SH NAME\n", Plain(name), " \\- ", Plain(command.meaning),
                                  "\n.SH SYNOPSIS\n\\fB", Plain(command.path), "\\fR [\\fIOPTIONS\\fR]");
  std::string arguments, options;
  for (const FlagEntry& flag : command.flags) {
    (flag.positional ? arguments : options) += Option(flag);
    if (!flag.positional) continue;
    const std::string positional = absl::StrCat("\\fI", Plain(flag.names[0]), "\\fR");
    absl::StrAppend(&page, " ", flag.required ? positional : absl::StrCat("[", positional, "]"));
  }
  if (!command.commands.empty()) absl::StrAppend(&page, " \\fICOMMAND\\fR");
  absl::StrAppend(&page, "\n");
  if (!arguments.empty()) absl::StrAppend(&page, ".SH ARGUMENTS\n", arguments);
  if (!options.empty()) absl::StrAppend(&page, ".SH OPTIONS\n", options);
  if (!command.commands.empty()) {
    absl::StrAppend(&page, ".SH COMMANDS\n");
    for (const CommandEntry& below : command.commands) {
      absl::StrAppend(&page, ".TP\n\\fB", Plain(PageName(below)), "\\fR(1)\n", Plain(below.meaning), "\n");
    }
  }
  return page;
}

std::vector<std::pair<std::string, std::string>> ManPages(const CommandEntry& tree, absl::string_view version) {
  std::vector<std::pair<std::string, std::string>> pages = {{PageName(tree) + ".1", ManPage(tree, version)}};
  for (const CommandEntry& command : tree.commands) {
    for (auto& page : ManPages(command, version)) pages.push_back(std::move(page));
  }
  return pages;
}

}  // namespace interlace
