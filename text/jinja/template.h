// Template: a Jinja template as transformers renders chat templates.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/text.h"
#include "text/jinja/value.h"

namespace interlace::jinja {

// Jinja2's language with trim_blocks, lstrip_blocks, the loop controls, {% generation %}, tojson, raise_exception and
// strftime_now, in a sandbox: no attribute of Python's objects, bounded steps, text, output and nesting. Immutable
// after Compile; any thread. The trap: unlike in transformers' sandbox, append, extend, pop and update change their
// list or dict; a template that needs them renders here and not there.
class Template {
 public:
  static constexpr size_t kLargest = 1 << 20;  // bytes of source

  // InvalidArgument says what breaks the grammar and in which line; Unimplemented names a filter, test or tag that is
  // not built in. `name` begins the messages of both functions.
  static absl::StatusOr<Template> Compile(absl::string_view source, std::string name);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  // InvalidArgument with the line of what fails, what raise_exception says included. `variables` may hold values of
  // `heap`; what the template makes goes there too.
  absl::StatusOr<Text> Render(const std::vector<std::pair<std::string, Value>>& variables, int64_t wall_seconds,
                              Heap& heap) const;

 private:
  struct Syntax;
  explicit Template(std::unique_ptr<Syntax> syntax);
  std::unique_ptr<Syntax> syntax_;
};

}  // namespace interlace::jinja
