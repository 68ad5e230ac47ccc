#include "model/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/text/jinja/builtins.h"

namespace interlace::jinja {
namespace {

constexpr int kDeepest = 200;

class Parser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  absl::StatusOr<Block> Run() {
    ASSIGN_OR_RETURN(Block block, Statements({}));
    if (Now().kind != TokenKind::kEnd) return Wrong("unexpected end tag");
    return block;
  }

 private:
  // ---- tokens
  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Step() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool IsOperator(absl::string_view text) const { return Now().kind == TokenKind::kOperator && Now().text == text; }
  bool IsName(absl::string_view text) const { return Now().kind == TokenKind::kName && Now().text == text; }
  bool TakeOperator(absl::string_view text) {
    if (!IsOperator(text)) return false;
    Step();
    return true;
  }
  bool TakeName(absl::string_view text) {
    if (!IsName(text)) return false;
    Step();
    return true;
  }
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", Now().line, ": ", what));
  }
  absl::Status Unexpected(absl::string_view wanted) const {
    return Wrong(absl::StrCat("'", absl::string_view(Now().text).substr(0, 40), "' where ", wanted, " is expected"));
  }
  absl::Status NeedOperator(absl::string_view text) {
    return TakeOperator(text) ? absl::OkStatus() : Unexpected(absl::StrCat("'", text, "'"));
  }
  absl::StatusOr<std::string> NeedName() {
    if (Now().kind != TokenKind::kName) return Unexpected("a name");
    std::string name = Now().text;
    Step();
    return name;
  }
  absl::Status NeedBlockEnd() {
    if (Now().kind != TokenKind::kBlockEnd) return Unexpected("the end of the tag");
    Step();
    return absl::OkStatus();
  }

  // One level of nesting, of the grammar's recursion.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) { ++parser_.depth_; }
    ~Level() { --parser_.depth_; }
    absl::Status Check() const {
      return parser_.depth_ <= kDeepest ? absl::OkStatus() : parser_.Wrong("it nests too deep");
    }

   private:
    Parser& parser_;
  };

  // ---- expressions
  ExpressionRef Make(ExpressionKind kind) const {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->line = Now().line;
    return expression;
  }
  // Adds what may be null, and keeps the tree's depth, which left-leaning trees raise without recursion.
  absl::Status Attach(Expression& parent, ExpressionRef child) {
    if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
    parent.items.push_back(std::move(child));
    return parent.depth <= kDeepest ? absl::OkStatus() : Wrong("an expression nests too deep");
  }

  // With commas: a tuple. Ends before any of `ends`, names.
  absl::StatusOr<ExpressionRef> Tuple(bool conditions, absl::string_view end = "") {
    const auto one = [&] { return conditions ? Condition() : Or(); };
    ASSIGN_OR_RETURN(ExpressionRef first, one());
    if (!IsOperator(",")) return first;
    ExpressionRef tuple = Make(ExpressionKind::kTuple);
    RETURN_IF_ERROR(Attach(*tuple, std::move(first)));
    while (TakeOperator(",")) {
      if (AtTupleEnd() || (!end.empty() && IsName(end))) break;
      ASSIGN_OR_RETURN(ExpressionRef item, one());
      RETURN_IF_ERROR(Attach(*tuple, std::move(item)));
    }
    return tuple;
  }
  bool AtTupleEnd() const {
    return Now().kind == TokenKind::kPrintEnd || Now().kind == TokenKind::kBlockEnd || IsOperator(")") ||
           IsOperator("]");
  }

  absl::StatusOr<ExpressionRef> Condition() {
    Level level(*this);
    RETURN_IF_ERROR(level.Check());
    ASSIGN_OR_RETURN(ExpressionRef value, Or());
    while (IsName("if")) {
      ExpressionRef whole = Make(ExpressionKind::kCondition);
      Step();
      ASSIGN_OR_RETURN(ExpressionRef condition, Or());
      ExpressionRef otherwise;
      if (TakeName("else")) {
        ASSIGN_OR_RETURN(otherwise, Condition());
      }
      RETURN_IF_ERROR(Attach(*whole, std::move(value)));
      RETURN_IF_ERROR(Attach(*whole, std::move(condition)));
      RETURN_IF_ERROR(Attach(*whole, std::move(otherwise)));
      value = std::move(whole);
    }
    return value;
  }

  absl::StatusOr<ExpressionRef> Or() {
    ASSIGN_OR_RETURN(ExpressionRef left, And());
    while (IsName("or")) {
      ExpressionRef whole = Make(ExpressionKind::kOr);
      Step();
      ASSIGN_OR_RETURN(ExpressionRef right, And());
      RETURN_IF_ERROR(Attach(*whole, std::move(left)));
      RETURN_IF_ERROR(Attach(*whole, std::move(right)));
      left = std::move(whole);
    }
    return left;
  }
  absl::StatusOr<ExpressionRef> And() {
    ASSIGN_OR_RETURN(ExpressionRef left, Not());
    while (IsName("and")) {
      ExpressionRef whole = Make(ExpressionKind::kAnd);
      Step();
      ASSIGN_OR_RETURN(ExpressionRef right, Not());
      RETURN_IF_ERROR(Attach(*whole, std::move(left)));
      RETURN_IF_ERROR(Attach(*whole, std::move(right)));
      left = std::move(whole);
    }
    return left;
  }
  absl::StatusOr<ExpressionRef> Not() {
    if (!IsName("not")) return Comparison();
    Level level(*this);
    RETURN_IF_ERROR(level.Check());
    ExpressionRef whole = Make(ExpressionKind::kNot);
    Step();
    ASSIGN_OR_RETURN(ExpressionRef value, Not());
    RETURN_IF_ERROR(Attach(*whole, std::move(value)));
    return whole;
  }
  absl::StatusOr<ExpressionRef> Comparison() {
    ASSIGN_OR_RETURN(ExpressionRef left, Sum());
    ExpressionRef whole;
    while (true) {
      std::string sign;
      for (absl::string_view known : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (sign.empty() && TakeOperator(known)) sign = std::string(known);
      }
      if (sign.empty() && TakeName("in")) sign = "in";
      if (sign.empty() && IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") {
        Step();
        Step();
        sign = "not in";
      }
      if (sign.empty()) break;
      if (whole == nullptr) {
        whole = Make(ExpressionKind::kCompare);
        RETURN_IF_ERROR(Attach(*whole, std::move(left)));
      }
      whole->operators.push_back(sign);
      ASSIGN_OR_RETURN(ExpressionRef right, Sum());
      RETURN_IF_ERROR(Attach(*whole, std::move(right)));
    }
    return whole != nullptr ? std::move(whole) : std::move(left);
  }

  template <typename Operand>
  absl::StatusOr<ExpressionRef> Chain(std::initializer_list<absl::string_view> signs, Operand operand) {
    ASSIGN_OR_RETURN(ExpressionRef left, operand());
    while (true) {
      const auto* sign = std::find_if(signs.begin(), signs.end(), [&](absl::string_view s) { return IsOperator(s); });
      if (sign == signs.end()) return left;
      ExpressionRef whole = Make(ExpressionKind::kBinary);
      whole->name = std::string(*sign);
      Step();
      ASSIGN_OR_RETURN(ExpressionRef right, operand());
      RETURN_IF_ERROR(Attach(*whole, std::move(left)));
      RETURN_IF_ERROR(Attach(*whole, std::move(right)));
      left = std::move(whole);
    }
  }
  absl::StatusOr<ExpressionRef> Sum() {
    return Chain({"+", "-"}, [this] { return Concat(); });
  }
  absl::StatusOr<ExpressionRef> Concat() {
    ASSIGN_OR_RETURN(ExpressionRef first, Product());
    if (!IsOperator("~")) return first;
    ExpressionRef whole = Make(ExpressionKind::kConcat);
    RETURN_IF_ERROR(Attach(*whole, std::move(first)));
    while (TakeOperator("~")) {
      ASSIGN_OR_RETURN(ExpressionRef more, Product());
      RETURN_IF_ERROR(Attach(*whole, std::move(more)));
    }
    return whole;
  }
  absl::StatusOr<ExpressionRef> Product() {
    return Chain({"*", "/", "//", "%"}, [this] { return Chain({"**"}, [this] { return Unary(true); }); });
  }

  absl::StatusOr<ExpressionRef> Unary(bool filters) {
    Level level(*this);
    RETURN_IF_ERROR(level.Check());
    ExpressionRef value;
    if (IsOperator("-") || IsOperator("+")) {
      value = Make(IsOperator("-") ? ExpressionKind::kNegative : ExpressionKind::kPositive);
      Step();
      ASSIGN_OR_RETURN(ExpressionRef inner, Unary(false));
      RETURN_IF_ERROR(Attach(*value, std::move(inner)));
    } else {
      ASSIGN_OR_RETURN(value, Primary());
    }
    RETURN_IF_ERROR(Postfix(&value));
    while (filters) {
      if (IsOperator("|")) {
        RETURN_IF_ERROR(Filter(&value));
      } else if (IsName("is")) {
        RETURN_IF_ERROR(Test(&value));
      } else if (IsOperator("(")) {
        RETURN_IF_ERROR(Call(&value));
      } else {
        break;
      }
    }
    return value;
  }

  absl::StatusOr<ExpressionRef> Primary() {
    const Token& token = Now();
    if (token.kind == TokenKind::kName) {
      ExpressionRef value = Make(ExpressionKind::kConstant);
      if (token.text == "true" || token.text == "True") {
        value->constant = Value(true);
      } else if (token.text == "false" || token.text == "False") {
        value->constant = Value(false);
      } else if (token.text == "none" || token.text == "None") {
        value->constant = Value::MakeNone();
      } else {
        value->kind = ExpressionKind::kName;
        value->name = token.text;
        spoken_.push_back(token.text);
      }
      Step();
      return value;
    }
    if (token.kind == TokenKind::kText) {
      ExpressionRef value = Make(ExpressionKind::kConstant);
      std::string text;
      for (; Now().kind == TokenKind::kText; Step()) text += Now().text;
      value->constant = Value(Text(std::move(text)));
      return value;
    }
    if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kReal) {
      ExpressionRef value = Make(ExpressionKind::kConstant);
      value->constant = token.kind == TokenKind::kReal ? Value(token.real) : Value(token.integer);
      Step();
      return value;
    }
    if (IsOperator("(")) {
      ExpressionRef empty = Make(ExpressionKind::kTuple);
      Step();
      if (TakeOperator(")")) return empty;
      ASSIGN_OR_RETURN(ExpressionRef value, Tuple(true));
      RETURN_IF_ERROR(NeedOperator(")"));
      return value;
    }
    if (IsOperator("[")) return ListOf();
    if (IsOperator("{")) return MapOf();
    return Unexpected("a value");
  }
  absl::StatusOr<ExpressionRef> ListOf() {
    ExpressionRef list = Make(ExpressionKind::kList);
    Step();
    while (!TakeOperator("]")) {
      if (!list->items.empty()) {
        RETURN_IF_ERROR(NeedOperator(","));
        if (TakeOperator("]")) break;
      }
      ASSIGN_OR_RETURN(ExpressionRef item, Condition());
      RETURN_IF_ERROR(Attach(*list, std::move(item)));
    }
    return list;
  }
  absl::StatusOr<ExpressionRef> MapOf() {
    ExpressionRef map = Make(ExpressionKind::kMap);
    Step();
    while (!TakeOperator("}")) {
      if (!map->items.empty()) {
        RETURN_IF_ERROR(NeedOperator(","));
        if (TakeOperator("}")) break;
      }
      ASSIGN_OR_RETURN(ExpressionRef key, Condition());
      RETURN_IF_ERROR(NeedOperator(":"));
      ASSIGN_OR_RETURN(ExpressionRef value, Condition());
      RETURN_IF_ERROR(Attach(*map, std::move(key)));
      RETURN_IF_ERROR(Attach(*map, std::move(value)));
    }
    return map;
  }

  absl::Status Postfix(ExpressionRef* value) {
    while (true) {
      if (IsOperator(".")) {
        ExpressionRef whole = Make(ExpressionKind::kAttribute);
        Step();
        if (Now().kind == TokenKind::kInteger) {  // list.0
          whole->kind = ExpressionKind::kItem;
          ExpressionRef index = Make(ExpressionKind::kConstant);
          index->constant = Value(Now().integer);
          RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
          RETURN_IF_ERROR(Attach(*whole, std::move(index)));
          Step();
        } else {
          ASSIGN_OR_RETURN(whole->name, NeedName());
          RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
        }
        *value = std::move(whole);
      } else if (IsOperator("[")) {
        RETURN_IF_ERROR(Subscript(value));
      } else if (IsOperator("(")) {
        RETURN_IF_ERROR(Call(value));
      } else {
        return absl::OkStatus();
      }
    }
  }
  absl::Status Subscript(ExpressionRef* value) {
    ExpressionRef whole = Make(ExpressionKind::kItem);
    Step();
    RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
    ExpressionRef first;
    if (!IsOperator(":")) {
      ASSIGN_OR_RETURN(first, Tuple(true));
    }
    RETURN_IF_ERROR(Attach(*whole, std::move(first)));
    if (IsOperator(":")) {
      whole->kind = ExpressionKind::kSlice;
      for (int part = 0; part < 2; ++part) {
        ExpressionRef bound;
        if (TakeOperator(":") && !IsOperator("]") && !IsOperator(":")) {
          ASSIGN_OR_RETURN(bound, Condition());
        }
        RETURN_IF_ERROR(Attach(*whole, std::move(bound)));
      }
    }
    RETURN_IF_ERROR(NeedOperator("]"));
    *value = std::move(whole);
    return absl::OkStatus();
  }

  absl::Status CallInto(Expression& whole) {
    RETURN_IF_ERROR(NeedOperator("("));
    CallArguments& arguments = whole.arguments;
    const auto note = [&](const ExpressionRef& item) {
      whole.depth = std::max(whole.depth, item->depth + 1);
      return whole.depth <= kDeepest ? absl::OkStatus() : Wrong("an expression nests too deep");
    };
    for (bool first = true; !TakeOperator(")"); first = false) {
      if (!first) {
        RETURN_IF_ERROR(NeedOperator(","));
        if (TakeOperator(")")) break;
      }
      ExpressionRef* more = TakeOperator("**")  ? &arguments.more_named
                            : TakeOperator("*") ? &arguments.more_positional
                                                : nullptr;
      std::string name;
      if (more == nullptr && Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator &&
          Next().text == "=") {
        name = Now().text;
        Step();
        Step();
      }
      ASSIGN_OR_RETURN(ExpressionRef item, Condition());
      RETURN_IF_ERROR(note(item));
      if (more != nullptr) {
        if (*more != nullptr) return Wrong("a call unpacks twice");
        *more = std::move(item);
      } else if (!name.empty()) {
        arguments.named.emplace_back(std::move(name), std::move(item));
      } else {
        if (!arguments.named.empty()) return Wrong("an argument without a name follows one with a name");
        arguments.positional.push_back(std::move(item));
      }
    }
    return absl::OkStatus();
  }
  absl::Status Call(ExpressionRef* value) {
    ExpressionRef whole = Make(ExpressionKind::kCall);
    RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
    RETURN_IF_ERROR(CallInto(*whole));
    *value = std::move(whole);
    return absl::OkStatus();
  }
  // `*value` may be null: the content of a block.
  absl::Status Filter(ExpressionRef* value) {
    do {
      if (IsOperator("|")) Step();
      ExpressionRef whole = Make(ExpressionKind::kFilter);
      ASSIGN_OR_RETURN(whole->name, NeedName());
      while (TakeOperator(".")) {
        ASSIGN_OR_RETURN(const std::string part, NeedName());
        absl::StrAppend(&whole->name, ".", part);
      }
      whole->filter = FindFilter(whole->name);
      if (whole->filter == nullptr) {
        return absl::UnimplementedError(
            absl::StrCat("line ", whole->line, ": the filter '", whole->name.substr(0, 80), "' is not built in"));
      }
      RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
      if (IsOperator("(")) RETURN_IF_ERROR(CallInto(*whole));
      *value = std::move(whole);
    } while (IsOperator("|"));
    return absl::OkStatus();
  }
  absl::Status Test(ExpressionRef* value) {
    ExpressionRef whole = Make(ExpressionKind::kTest);
    Step();
    const bool negative = TakeName("not");
    ASSIGN_OR_RETURN(whole->name, NeedName());
    whole->test = FindTest(whole->name);
    if (whole->test == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("line ", whole->line, ": the test '", whole->name.substr(0, 80), "' is not built in"));
    }
    RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
    const TokenKind kind = Now().kind;
    const bool keyword = IsName("else") || IsName("or") || IsName("and");
    if (IsOperator("(")) {
      RETURN_IF_ERROR(CallInto(*whole));
    } else if ((kind == TokenKind::kName && !keyword) || kind == TokenKind::kText || kind == TokenKind::kInteger ||
               kind == TokenKind::kReal || IsOperator("[") || IsOperator("{")) {
      if (IsName("is")) return Wrong("tests cannot be chained");
      if (!IsName("if") && !IsName("in") && !IsName("not")) {
        ASSIGN_OR_RETURN(ExpressionRef argument, Primary());
        RETURN_IF_ERROR(Postfix(&argument));
        whole->depth = std::max(whole->depth, argument->depth + 1);
        whole->arguments.positional.push_back(std::move(argument));
      }
    }
    *value = std::move(whole);
    if (negative) {
      ExpressionRef inverse = Make(ExpressionKind::kNot);
      RETURN_IF_ERROR(Attach(*inverse, std::move(*value)));
      *value = std::move(inverse);
    }
    return absl::OkStatus();
  }

  // ---- statements
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

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
  std::vector<std::string> spoken_;  // names used so far
};

}  // namespace

absl::StatusOr<Block> Parse(const std::vector<Token>& tokens) { return Parser(tokens).Run(); }

}  // namespace interlace::jinja
