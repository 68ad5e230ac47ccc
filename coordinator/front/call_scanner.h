// CallScanner: one call of a tool, {"name": ..., "arguments": ...}, read byte by byte.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

// Says as early as can be which tool is called, and gives the bytes of its arguments as they come. The order of the
// members is free; the arguments may be called parameters; others are skipped. It keeps track of strings and brackets
// and of nothing else of JSON's grammar. Owned by a ToolCallParser; one thread.
class CallScanner {
 public:
  enum class Result { kMore, kDone, kBroken };
  // `strict`: a member that no family writes in a call breaks it, so that an object that is none is known at once.
  explicit CallScanner(bool strict = false) : strict_(strict) {}
  // For a call whose name came before its arguments, which begin with the next byte.
  static CallScanner OfArguments(std::string name);

  // Requires: nothing after kDone or kBroken.
  Result Push(char c);
  const std::string& name() const { return name_; }  // empty: not known yet
  bool arguments_begun() const { return arguments_begun_; }
  // What came of the arguments since it was last asked. Those of a call without any, or with null, are {}.
  std::string TakeArguments();

 private:
  enum class State { kStart, kFirstKey, kKey, kInKey, kColon, kValueStart, kValue, kAfterValue };
  enum class Member { kName, kArguments, kOther };
  Result EndKey();
  Result BeginValue(char c);
  Result ValueByte(char c);
  Result EndValue();
  Result EndObject();
  // Once the value has ended before `c`.
  Result EndValueAt(char c);
  void Keep(char c);

  bool strict_;
  bool arguments_alone_ = false;
  State state_ = State::kStart;
  Member member_ = Member::kOther;
  std::string key_;
  std::string value_;  // of a name, or of arguments that are no object
  std::string open_;   // brackets of the value
  bool in_string_ = false;
  bool escaped_ = false;
  bool streams_ = false;  // the value's bytes are given as they come
  std::string name_;
  std::string arguments_;
  bool arguments_begun_ = false;
};

}  // namespace interlace
