#include "text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/expression_parser.h"

namespace interlace::jinja {
namespace {

// Statements, whose expressions its base reads.
class Parser : private ExpressionParser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : ExpressionParser(tokens) {}

  absl::StatusOr<Block> Run() {
    ASSIGN_OR_RETURN(Block block, Statements({}));
    if (Now().kind != TokenKind::kEnd) return Wrong("unexpected end tag");
    return block;
  }

 private:
  // Up to a block tag whose name is one of `ends`, which stays; to the end of the template if there are none.
  absl::StatusOr<Block> Statements(std::initializer_list<absl::string_view> ends) {
    Level level(*this);
    RETURN_IF_ERROR(level.Check());
    Block block;
    while (Now().kind != TokenKind::kEnd) {
      if (Now().kind == TokenKind::kBlockBegin) {
        const Token& name = Next();
        if (name.kind == TokenKind::kName &&
            std::any_of(ends.begin(), ends.end(), [&](absl::string_view end) { return name.text == end; })) {
          return block;
        }
        ASSIGN_OR_RETURN(std::unique_ptr<Statement> statement, Tag());
        block.push_back(std::move(statement));
        continue;
      }
      auto statement = std::make_unique<Statement>();
      statement->line = Now().line;
      if (Now().kind == TokenKind::kData) {
        statement->kind = StatementKind::kData;
        statement->text = Now().text;
        Step();
      } else {
        statement->kind = StatementKind::kPrint;
        Step();  // {{
        ASSIGN_OR_RETURN(statement->value, Tuple(true));
        if (Now().kind != TokenKind::kPrintEnd) return Unexpected("'}}'");
        Step();
      }
      block.push_back(std::move(statement));
    }
    if (ends.size() > 0) return Wrong(absl::StrCat("the template ends before '", *ends.begin(), "'"));
    return block;
  }

  // The body of a tag and its end tag, `end`.
  absl::StatusOr<Block> Body(absl::string_view end) {
    RETURN_IF_ERROR(NeedBlockEnd());
    ASSIGN_OR_RETURN(Block block, Statements({end}));
    Step();  // {%
    Step();  // the name
    RETURN_IF_ERROR(NeedBlockEnd());
    return block;
  }

  absl::StatusOr<std::unique_ptr<Statement>> Tag() {
    using Read = absl::Status (Parser::*)(Statement&);
    static constexpr struct {
      absl::string_view name;
      Read read;
    } kTags[] = {{"if", &Parser::If},          {"for", &Parser::For},
                 {"set", &Parser::Set},        {"macro", &Parser::Macro},
                 {"call", &Parser::CallBlock}, {"filter", &Parser::FilterBlock},
                 {"with", &Parser::With},      {"generation", &Parser::Generation},
                 {"break", &Parser::Break},    {"continue", &Parser::Continue}};
    Step();  // {%
    auto statement = std::make_unique<Statement>();
    statement->line = Now().line;
    ASSIGN_OR_RETURN(const std::string name, NeedName());
    for (const auto& tag : kTags) {
      if (tag.name != name) continue;
      RETURN_IF_ERROR((this->*tag.read)(*statement));
      return statement;
    }
    for (absl::string_view end : {"else", "elif", "endif", "endfor", "endset", "endmacro", "endcall", "endfilter",
                                  "endwith", "endgeneration"}) {
      if (name == end) return Wrong(absl::StrCat("'", name, "' has no beginning"));
    }
    return absl::UnimplementedError(
        absl::StrCat("line ", statement->line, ": the tag '", name.substr(0, 80), "' is not built in"));
  }

  absl::Status If(Statement& statement) {
    statement.kind = StatementKind::kIf;
    while (true) {
      ASSIGN_OR_RETURN(ExpressionRef condition, Tuple(false));
      RETURN_IF_ERROR(NeedBlockEnd());
      ASSIGN_OR_RETURN(Block body, Statements({"endif", "elif", "else"}));
      statement.branches.emplace_back(std::move(condition), std::move(body));
      Step();
      if (TakeName("elif")) continue;
      if (TakeName("else")) {
        RETURN_IF_ERROR(NeedBlockEnd());
        ASSIGN_OR_RETURN(Block otherwise, Statements({"endif"}));
        statement.branches.emplace_back(nullptr, std::move(otherwise));
        Step();
      }
      Step();  // endif
      return NeedBlockEnd();
    }
  }

  absl::Status ReadTarget(Target* target, bool attributes) {
    std::vector<Target> parts;
    bool several = false;
    while (true) {
      Target part;
      if (TakeOperator("(")) {
        Level level(*this);
        RETURN_IF_ERROR(level.Check());
        RETURN_IF_ERROR(ReadTarget(&part, attributes));
        RETURN_IF_ERROR(NeedOperator(")"));
      } else {
        ASSIGN_OR_RETURN(part.name, NeedName());
        for (absl::string_view word : {"true", "false", "none", "True", "False", "None"}) {
          if (part.name == word) return Wrong(absl::StrCat("'", part.name, "' cannot be set"));
        }
        if (attributes && TakeOperator(".")) {
          ASSIGN_OR_RETURN(part.attribute, NeedName());
        }
      }
      parts.push_back(std::move(part));
      if (!TakeOperator(",")) break;
      several = true;
      if (IsName("in") || IsOperator("=") || IsOperator(")") || Now().kind == TokenKind::kBlockEnd) break;
    }
    if (several) {
      target->parts = std::move(parts);
    } else {
      *target = std::move(parts[0]);
    }
    return absl::OkStatus();
  }

  absl::Status For(Statement& statement) {
    statement.kind = StatementKind::kFor;
    RETURN_IF_ERROR(ReadTarget(&statement.target, false));
    if (!TakeName("in")) return Unexpected("'in'");
    ASSIGN_OR_RETURN(statement.value, Tuple(false, "recursive"));
    if (TakeName("if")) {
      ASSIGN_OR_RETURN(statement.condition, Condition());
    }
    if (IsName("recursive")) {
      return absl::UnimplementedError(absl::StrCat("line ", Now().line, ": a recursive loop is not built in"));
    }
    RETURN_IF_ERROR(NeedBlockEnd());
    ++loops_;
    ASSIGN_OR_RETURN(statement.body, Statements({"endfor", "else"}));
    --loops_;
    Step();
    if (TakeName("else")) {
      RETURN_IF_ERROR(NeedBlockEnd());
      ASSIGN_OR_RETURN(statement.otherwise, Statements({"endfor"}));
      Step();
    }
    Step();  // endfor
    return NeedBlockEnd();
  }

  absl::Status Set(Statement& statement) {
    RETURN_IF_ERROR(ReadTarget(&statement.target, true));
    if (TakeOperator("=")) {
      statement.kind = StatementKind::kSet;
      ASSIGN_OR_RETURN(statement.value, Tuple(true));
      return NeedBlockEnd();
    }
    statement.kind = StatementKind::kSetBlock;
    if (IsOperator("|")) RETURN_IF_ERROR(Filter(&statement.value));
    ASSIGN_OR_RETURN(statement.body, Body("endset"));
    return absl::OkStatus();
  }

  absl::Status Parameters(MacroBody* macro) {
    RETURN_IF_ERROR(NeedOperator("("));
    while (!TakeOperator(")")) {
      if (!macro->parameters.empty()) {
        RETURN_IF_ERROR(NeedOperator(","));
        if (TakeOperator(")")) break;
      }
      Parameter parameter;
      ASSIGN_OR_RETURN(parameter.name, NeedName());
      if (TakeOperator("=")) {
        ASSIGN_OR_RETURN(parameter.fallback, Condition());
      } else if (!macro->parameters.empty() && macro->parameters.back().fallback != nullptr) {
        return Wrong("a parameter without a default follows one with a default");
      }
      macro->parameters.push_back(std::move(parameter));
    }
    return absl::OkStatus();
  }
  absl::Status MacroOf(MacroBody* macro, absl::string_view end) {
    const size_t before = spoken_.size();
    const int loops = loops_;
    loops_ = 0;
    ASSIGN_OR_RETURN(macro->body, Body(end));
    loops_ = loops;
    for (size_t i = before; i < spoken_.size(); ++i) {
      macro->takes_more_positional |= spoken_[i] == "varargs";
      macro->takes_more_named |= spoken_[i] == "kwargs";
      macro->takes_caller |= spoken_[i] == "caller";
    }
    return absl::OkStatus();
  }
  absl::Status Macro(Statement& statement) {
    statement.kind = StatementKind::kMacro;
    auto macro = std::make_shared<MacroBody>();
    ASSIGN_OR_RETURN(macro->name, NeedName());
    RETURN_IF_ERROR(Parameters(macro.get()));
    RETURN_IF_ERROR(MacroOf(macro.get(), "endmacro"));
    statement.macro = std::move(macro);
    return absl::OkStatus();
  }
  absl::Status CallBlock(Statement& statement) {
    statement.kind = StatementKind::kCall;
    auto macro = std::make_shared<MacroBody>();
    macro->name = "caller";
    if (IsOperator("(")) RETURN_IF_ERROR(Parameters(macro.get()));
    ASSIGN_OR_RETURN(statement.value, Condition());
    if (statement.value->kind != ExpressionKind::kCall) return Wrong("a call block needs a call");
    RETURN_IF_ERROR(MacroOf(macro.get(), "endcall"));
    statement.macro = std::move(macro);
    return absl::OkStatus();
  }
  absl::Status FilterBlock(Statement& statement) {
    statement.kind = StatementKind::kFilter;
    RETURN_IF_ERROR(Filter(&statement.value));
    ASSIGN_OR_RETURN(statement.body, Body("endfilter"));
    return absl::OkStatus();
  }
  absl::Status With(Statement& statement) {
    statement.kind = StatementKind::kWith;
    while (Now().kind != TokenKind::kBlockEnd) {
      if (!statement.assignments.empty()) RETURN_IF_ERROR(NeedOperator(","));
      Target target;
      ASSIGN_OR_RETURN(target.name, NeedName());
      RETURN_IF_ERROR(NeedOperator("="));
      ASSIGN_OR_RETURN(ExpressionRef value, Condition());
      statement.assignments.emplace_back(std::move(target), std::move(value));
    }
    ASSIGN_OR_RETURN(statement.body, Body("endwith"));
    return absl::OkStatus();
  }
  absl::Status Generation(Statement& statement) {
    statement.kind = StatementKind::kGroup;
    ASSIGN_OR_RETURN(statement.body, Body("endgeneration"));
    return absl::OkStatus();
  }
  absl::Status Break(Statement& statement) { return LeaveLoop(statement, StatementKind::kBreak); }
  absl::Status Continue(Statement& statement) { return LeaveLoop(statement, StatementKind::kContinue); }
  absl::Status LeaveLoop(Statement& statement, StatementKind kind) {
    statement.kind = kind;
    if (loops_ == 0) return Wrong("outside of a loop");
    return NeedBlockEnd();
  }

  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Block> Parse(const std::vector<Token>& tokens) { return Parser(tokens).Run(); }

}  // namespace interlace::jinja
