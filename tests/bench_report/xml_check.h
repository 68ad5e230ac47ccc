// Whether a text is well-formed XML as far as the load page uses it: elements, attributes, references, a doctype.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace interlace {

using XmlAttributes = std::map<std::string, std::string>;

class XmlCheck {
 public:
  // Called at the start of each element.
  using OnElement = std::function<void(const std::string& name, const XmlAttributes& attributes)>;

  // What is wrong first; empty: nothing.
  static std::string Faults(absl::string_view text, const OnElement& on_element) {
    XmlCheck check{text, on_element};
    return check.Run();
  }

 private:
  XmlCheck(absl::string_view text, const OnElement& on_element) : text_(text), on_element_(on_element) {}

  std::string Run() {
    if (text_.substr(0, 15) != "<!DOCTYPE html>") return "no doctype";
    at_ = 15;
    while (at_ < text_.size()) {
      if (text_[at_] == '<') {
        if (!Tag()) return Fault();
      } else if (text_[at_] == '&') {
        if (!Reference()) return Fault();
      } else {
        if (open_.empty() && !absl::ascii_isspace(static_cast<unsigned char>(text_[at_])))
          return "text outside the root";
        ++at_;
      }
    }
    return open_.empty() ? "" : absl::StrCat("not closed: ", open_.back());
  }
  std::string Fault() const {
    const size_t begin = at_ < 60 ? 0 : at_ - 60;
    return absl::StrCat(fault_, " at ", at_, ": ", text_.substr(begin, 120));
  }
  bool Wrong(std::string fault) {
    fault_ = std::move(fault);
    return false;
  }
  std::string Name() {
    std::string name;
    while (at_ < text_.size() && (absl::ascii_isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '-' ||
                                  text_[at_] == ':' || text_[at_] == '_')) {
      name += text_[at_++];
    }
    return name;
  }
  bool Reference() {
    for (const char* known : {"&amp;", "&lt;", "&gt;", "&quot;"}) {
      const absl::string_view reference = known;
      if (text_.substr(at_, reference.size()) == reference) {
        at_ += reference.size();
        return true;
      }
    }
    return Wrong("a bare &");
  }
  bool Tag() {
    ++at_;
    const bool closing = at_ < text_.size() && text_[at_] == '/';
    if (closing) ++at_;
    const std::string name = Name();
    if (name.empty()) return Wrong("a bare <");
    XmlAttributes attributes;
    while (true) {
      while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
      if (at_ >= text_.size()) return Wrong("a tag without an end");
      if (text_[at_] == '>' || text_[at_] == '/') break;
      const std::string key = Name();
      if (key.empty() || text_.substr(at_, 2) != "=\"") return Wrong("an attribute without a quoted value");
      at_ += 2;
      std::string value;
      while (at_ < text_.size() && text_[at_] != '"') {
        if (text_[at_] == '<') return Wrong("a < in an attribute");
        const size_t before = at_;
        if (text_[at_] != '&') {
          ++at_;
        } else if (!Reference()) {
          return false;
        }
        absl::StrAppend(&value, text_.substr(before, at_ - before));
      }
      ++at_;
      if (!attributes.emplace(key, value).second) return Wrong("an attribute twice: " + key);
    }
    const bool empty = text_[at_] == '/';
    if (empty) ++at_;
    if (at_ >= text_.size() || text_[at_] != '>') return Wrong("a tag without an end");
    ++at_;
    if (closing) {
      if (open_.empty() || open_.back() != name)
        return Wrong("</" + name + "> closes " + (open_.empty() ? "nothing" : open_.back()));
      open_.pop_back();
      return true;
    }
    on_element_(name, attributes);
    if (!empty) open_.push_back(name);
    return true;
  }

  const absl::string_view text_;
  const OnElement& on_element_;
  size_t at_ = 0;
  std::vector<std::string> open_;
  std::string fault_;
};

}  // namespace interlace
