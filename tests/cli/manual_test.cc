// Completions and man pages of a small tool: what is in them, and what bash makes of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/command_tree.h"
#include "cli/completion_script.h"
#include "cli/man_page.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

// tool [--version] | serve MODEL --port N --fast | bench serve --rate R
CommandEntry Tree() {
  static std::string text;
  static int number = 8000;
  static bool flag = false;
  CLI::App app("A tool: with 'quotes', [brackets] and \\.", "tool");
  app.set_version_flag("--version", "tool 1");
  CLI::App* serve = app.add_subcommand("serve", "starts it");
  serve->add_option("MODEL", text, "a file")->required();
  serve->add_option("-p,--port", number, "where it listens")->capture_default_str();
  serve->add_flag("--fast", flag, "it's quick: [very]");
  serve->add_option("--hidden", text, "nobody sees it")->group("");
  serve->add_option("--key", text, "a key")->envname("TOOL_KEY");
  CLI::App* bench = app.add_subcommand("bench", "measures");
  bench->add_subcommand("serve", "a server")->add_option("--rate", text, ".5 or more");
  return ReadCommandTree(app);
}

TEST(CommandTree, HasWhatHelpShows) {
  const CommandEntry tree = Tree();
  ASSERT_EQ(tree.commands.size(), 2u);
  const CommandEntry& serve = tree.commands[0];
  EXPECT_EQ(serve.path, "tool serve");
  ASSERT_EQ(serve.flags.size(), 5u);  // and --help
  EXPECT_THAT(serve.flags[0].names, ElementsAre("-h", "--help"));
  EXPECT_EQ(serve.flags[0].value, "");
  EXPECT_TRUE(serve.flags[1].positional);
  EXPECT_TRUE(serve.flags[1].required);
  EXPECT_THAT(serve.flags[2].names, ElementsAre("-p", "--port"));
  EXPECT_EQ(serve.flags[2].value, "INT");
  EXPECT_EQ(serve.flags[2].usual, "8000");
  EXPECT_EQ(serve.flags[3].value, "");
  EXPECT_EQ(serve.flags[4].environment, "TOOL_KEY");
  EXPECT_EQ(tree.commands[1].commands[0].path, "tool bench serve");
}

TEST(CompletionScript, EachShellsHasEachFlagAndCommandAndNothingHidden) {
  for (const std::string& shell : CompletionShells()) {
    const absl::StatusOr<std::string> script = CompletionScript(Tree(), shell);
    ASSERT_OK(script);
    for (const char* name : {"port", "fast", "rate", "version", "serve", "bench", "key"}) {
      EXPECT_THAT(*script, HasSubstr(name)) << shell;
    }
    EXPECT_THAT(*script, Not(HasSubstr("hidden"))) << shell;
  }
  EXPECT_THAT(CompletionScript(Tree(), "tcsh"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bash, zsh, fish")));
}

// What bash offers for the last of `words`.
std::vector<std::string> Offered(const std::string& words) {
  const std::string path = testing::TempDir() + "/tool-completion.bash";
  std::ofstream(path) << *CompletionScript(Tree(), "bash");
  const size_t count = std::vector<std::string>(absl::StrSplit(words, ' ')).size();
  const std::string command = absl::StrCat("bash -c 'source ", path, "; COMP_WORDS=(tool ", words,
                                           "); COMP_CWORD=", count, "; _tool; echo \"${COMPREPLY[@]}\"' 2>&1");
  std::string out;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {"popen failed"};
  char bytes[4096];
  for (size_t got; (got = fread(bytes, 1, sizeof bytes, pipe)) > 0;) out.append(bytes, got);
  pclose(pipe);
  return absl::StrSplit(out, absl::ByAnyChar(" \n"), absl::SkipEmpty());
}

TEST(CompletionScript, BashOffersWhatMayStandThere) {
  EXPECT_THAT(Offered("s"), ElementsAre("serve"));
  EXPECT_THAT(Offered("--"), UnorderedElementsAre("--help", "--version"));
  EXPECT_THAT(Offered("serve --"), UnorderedElementsAre("--help", "--port", "--fast", "--key"));
  EXPECT_THAT(Offered("serve --p"), ElementsAre("--port"));
  EXPECT_THAT(Offered("bench s"), ElementsAre("serve"));
  EXPECT_THAT(Offered("bench serve --r"), ElementsAre("--rate"));
  EXPECT_THAT(Offered("serve --port --"), IsEmpty()) << "that is a value";
  EXPECT_THAT(Offered("serve --key serve --f"), ElementsAre("--fast")) << "a value is no command";
}

TEST(ManPage, NamesEachFlagWithItsMeaningAndDefault) {
  const std::vector<std::pair<std::string, std::string>> pages = ManPages(Tree(), "1.2");
  std::vector<std::string> names;
  for (const auto& [name, text] : pages) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("tool.1", "tool-serve.1", "tool-bench.1", "tool-bench-serve.1"));
  EXPECT_THAT(pages[0].second, HasSubstr("\\fBtool\\-serve\\fR(1)\nstarts it\n"));
  EXPECT_THAT(pages[0].second, HasSubstr("with 'quotes', [brackets] and \\e."));
  const std::string& serve = pages[1].second;
  EXPECT_THAT(serve, HasSubstr(".TH \"TOOL-SERVE\" 1"));
  EXPECT_THAT(serve, HasSubstr("\\fBtool serve\\fR [\\fIOPTIONS\\fR] \\fIMODEL\\fR\n"));
  EXPECT_THAT(serve, HasSubstr("\\fB\\-p\\fR, \\fB\\-\\-port\\fR \\fIINT\\fR\nwhere it listens (default 8000)\n"));
  EXPECT_THAT(serve, HasSubstr("a key (environment TOOL_KEY)"));
  EXPECT_THAT(serve, Not(HasSubstr("hidden")));
  EXPECT_THAT(pages[3].second, HasSubstr("\n\\&.5 or more\n")) << "a line that begins with a dot is a request of roff";
}

}  // namespace
}  // namespace interlace
