// Text: a string of a template, with marks on the bytes that came from users.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace::jinja {

// A value. `bytes` is UTF-8 for whatever enters as UTF-8; positions and lengths count code points, as in Python. The
// trap: `marks` is empty where nothing is marked, else it has one byte, 0 or 1, for each of `bytes`.
struct Text {
  std::string bytes;
  std::string marks;
  bool safe = false;  // what the filter safe gives: text that is joined to it is escaped for HTML

  Text() = default;
  explicit Text(std::string text, bool marked = false) : bytes(std::move(text)) {
    if (marked) marks.assign(bytes.size(), 1);
  }
  bool Marked() const;  // any byte
  // All of it, if `on`. What is made from marked text by a change of its characters is marked whole.
  Text& MarkAll(bool on);
  void Append(const Text& other);
  void Append(absl::string_view plain);
  // The bytes [begin, end), with their marks; as safe as the whole.
  Text Part(size_t begin, size_t end) const;
  bool operator==(const Text& other) const { return bytes == other.bytes; }
};

// The bytes at which code points begin, and the end; a byte that is not UTF-8 is a code point of its own.
std::vector<size_t> Boundaries(absl::string_view text);
size_t LengthOf(absl::string_view text);

// Python's methods. `characters`: what is stripped; null strips white space.
Text Stripped(const Text& text, const Text* characters, bool left, bool right);
// `limit` cuts at most, -1 for all. By white space if `separator` is null.
std::vector<Text> Split(const Text& text, const Text* separator, int64_t limit, bool from_right);
std::vector<Text> SplitLines(const Text& text, bool keep_ends);
Text Replaced(const Text& text, const Text& from, const Text& to, int64_t limit);
Text Joined(const std::vector<Text>& parts, const Text& separator);

// & < > and quotes as HTML writes them.
Text Escaped(const Text& text);

enum class Case { kUpper, kLower, kTitle, kCapitalize, kSwap };
// Simple case mapping, but for the letters that become several: ß, the ligatures.
std::string WithCase(absl::string_view text, Case letter_case);

// str.isalpha and the like: whether there is a character and all of them are.
enum class CharacterClass { kAlpha, kDigit, kAlnum, kSpace, kUpper, kLower, kPrintable, kNumeric, kAscii, kDecimal };
bool AllAre(absl::string_view text, CharacterClass wanted);

// As Python's repr and json.dumps write a string, quotes included.
std::string ReprOf(absl::string_view text);
std::string JsonOf(absl::string_view text, bool ascii);

}  // namespace interlace::jinja
