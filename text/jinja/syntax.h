// The syntax tree of a template: expressions and statements.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace interlace::jinja {

struct FilterRow;
struct TestRow;

struct Expression;
using ExpressionRef = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionRef> positional;
  std::vector<std::pair<std::string, ExpressionRef>> named;
  ExpressionRef more_positional, more_named;  // *list and **map; may be null
};

enum class ExpressionKind {
  kConstant,   // constant
  kName,       // name
  kList,       // items
  kTuple,      // items
  kMap,        // items: key, value, key, value, ...
  kAttribute,  // items[0].name
  kItem,       // items[0][items[1]]
  kSlice,      // items[0][items[1]:items[2]:items[3]], each of the last three may be null
  kCall,       // items[0](arguments)
  kFilter,     // items[0] | name(arguments); items[0] is null for the content of a filter block
  kTest,       // items[0] is name(arguments)
  kNot,        // items[0]
  kNegative,   // items[0]
  kPositive,   // items[0]
  kBinary,     // items[0] name items[1], arithmetic
  kAnd,        // items[0], items[1]
  kOr,         // items[0], items[1]
  kCompare,    // items[0] operators[0] items[1] operators[1] items[2] ...
  kConcat,     // items, joined as texts
  kCondition,  // items[0] if items[1] else items[2], which may be null
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  int depth = 1;  // of the tree below
  Value constant;
  std::string name;
  std::vector<std::string> operators;
  std::vector<ExpressionRef> items;
  CallArguments arguments;
  const FilterRow* filter = nullptr;
  const TestRow* test = nullptr;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

// A name, an attribute of a namespace, or several in parentheses or not.
struct Target {
  std::string name;
  std::string attribute;  // empty: the name itself
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  ExpressionRef fallback;  // null: none
};

// The body of a macro or of a call block.
struct MacroBody {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
  bool takes_more_positional = false, takes_more_named = false;  // its body speaks of varargs, kwargs
  bool takes_caller = false;                                     // and of caller
};

enum class StatementKind {
  kData,      // text
  kPrint,     // value
  kIf,        // branches; the last one's condition may be null
  kFor,       // target, value, condition, body, otherwise
  kSet,       // target, value
  kSetBlock,  // target, body, value: a filter of it or null
  kMacro,     // macro
  kCall,      // value: the call; macro: its caller
  kFilter,    // value, body
  kWith,      // assignments, body
  kGroup,     // body: of a generation block
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text;
  ExpressionRef value, condition;
  Target target;
  std::vector<std::pair<ExpressionRef, Block>> branches;
  std::vector<std::pair<Target, ExpressionRef>> assignments;
  Block body, otherwise;
  std::shared_ptr<const MacroBody> macro;
};

}  // namespace interlace::jinja
