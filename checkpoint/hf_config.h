// HfConfig: config.json of a Hugging Face model folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Whether a model's path names a folder, to be read as Hugging Face writes one, rather than a GGUF file.
bool IsModelFolder(const std::string& path);

// A value, copied freely; immutable, any thread. Keys are dotted paths, "rope_parameters.full_attention.rope_theta"; a
// null counts as absent. The trap: multimodal models keep the text model's keys under "text_config"; those are found
// under the plain key too, and what Gemma 3's leave out has the values of transformers' class.
class HfConfig {
 public:
  // `folder`/config.json. NotFound, or InvalidArgument naming the file.
  static absl::StatusOr<HfConfig> Open(const std::string& folder);
  static absl::StatusOr<HfConfig> Parse(absl::string_view json, const std::string& name);

  bool Has(absl::string_view key) const;
  bool IsNull(absl::string_view key) const;  // there, and null
  // InvalidArgument names file and key of one that is absent or has another type.
  absl::StatusOr<std::string> Text(absl::string_view key) const;
  absl::StatusOr<int64_t> Integer(absl::string_view key) const;
  absl::StatusOr<double> Real(absl::string_view key) const;
  absl::StatusOr<bool> Flag(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Texts(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Reals(absl::string_view key) const;
  // The first of "architectures".
  absl::StatusOr<std::string> Architecture() const;

  const std::string& name() const;
  const std::string& text() const;  // as the file has it

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

}  // namespace interlace
