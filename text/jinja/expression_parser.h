// ExpressionParser: the expressions of the template language, from tokens.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/lexer.h"
#include "text/jinja/syntax.h"

namespace interlace::jinja {

// The base of the parser of statements, which lives as long as one Parse; thread: the caller's. The trap: recursion
// goes through Level, so that no template can exhaust the stack.
class ExpressionParser {
 protected:
  static constexpr int kDeepest = 200;

  explicit ExpressionParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

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
    explicit Level(ExpressionParser& parser) : parser_(parser) { ++parser_.depth_; }
    ~Level() { --parser_.depth_; }
    absl::Status Check() const {
      return parser_.depth_ <= kDeepest ? absl::OkStatus() : parser_.Wrong("it nests too deep");
    }

   private:
    ExpressionParser& parser_;
  };

  // ---- expressions
  ExpressionRef Make(ExpressionKind kind) const;
  // Adds what may be null, and keeps the tree's depth, which left-leaning trees raise without recursion.
  absl::Status Attach(Expression& parent, ExpressionRef child);

  // With commas: a tuple. Ends before any of `ends`, names.
  absl::StatusOr<ExpressionRef> Tuple(bool conditions, absl::string_view end = "");
  bool AtTupleEnd() const;

  absl::StatusOr<ExpressionRef> Condition();

  absl::StatusOr<ExpressionRef> Or();
  absl::StatusOr<ExpressionRef> And();
  absl::StatusOr<ExpressionRef> Not();
  absl::StatusOr<ExpressionRef> Comparison();

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
  absl::StatusOr<ExpressionRef> Sum();
  absl::StatusOr<ExpressionRef> Concat();
  absl::StatusOr<ExpressionRef> Product();

  absl::StatusOr<ExpressionRef> Unary(bool filters);

  absl::StatusOr<ExpressionRef> Primary();
  absl::StatusOr<ExpressionRef> ListOf();
  absl::StatusOr<ExpressionRef> MapOf();

  absl::Status Postfix(ExpressionRef* value);
  absl::Status Subscript(ExpressionRef* value);

  absl::Status CallInto(Expression& whole);
  absl::Status Call(ExpressionRef* value);
  // `*value` may be null: the content of a block.
  absl::Status Filter(ExpressionRef* value);
  absl::Status Test(ExpressionRef* value);

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  std::vector<std::string> spoken_;  // names used so far
};

}  // namespace interlace::jinja
