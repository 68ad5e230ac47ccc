#include "coordinator/front/embeddings_json.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/json_fields.h"
#include "coordinator/front/request_fields.h"

namespace interlace {
namespace {

constexpr UnsupportedField kUnsupported[] = {
    {"dimensions", "[]"},
    {"messages", "[[]]"},
    {"embed_dtype", "[\"float32\"]"},
    {"endianness", "[\"native\", \"little\"]"},
};

// Of the length 1; one of zeros stays as it is.
std::vector<float> Normalised(const std::vector<float>& vector) {
  double squares = 0;
  for (const float x : vector) squares += double{x} * x;
  const double length = squares > 0 ? std::sqrt(squares) : 1;
  std::vector<float> out;
  for (const float x : vector) out.push_back(static_cast<float>(x / length));
  return out;
}

// The shortest decimals that read back as the same numbers.
std::string Decimals(const std::vector<float>& vector) {
  std::string json = "[";
  for (const float x : vector) {
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof(digits), std::isfinite(x) ? x : 0.0f).ptr;
    if (json.size() > 1) json += ',';
    json.append(digits, end);
  }
  return json + "]";
}

// Of F32, the lowest byte first.
std::string Base64(const std::vector<float>& vector) {
  static_assert(std::endian::native == std::endian::little);
  const auto* bytes = reinterpret_cast<const char*>(vector.data());
  return absl::StrCat("\"", absl::Base64Escape({bytes, vector.size() * sizeof(float)}), "\"");
}

}  // namespace

absl::StatusOr<ApiRequest> ParseEmbeddings(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  RETURN_IF_ERROR(RefuseUnsupported(json, kUnsupported));
  ApiRequest request;
  request.protocol = Protocol::kEmbeddings;
  GenerationSpec& spec = request.spec;
  spec.pooled = true;
  spec.max_tokens = 0;
  spec.form.field = "input";
  spec.form.parse_special = true;  // as transformers reads a text; parse_special=false keeps it text
  RETURN_IF_ERROR(ReadIdentity(json, &spec));
  RETURN_IF_ERROR(Read(json, "parse_special", &spec.form.parse_special));
  RETURN_IF_ERROR(Read(json, "add_special_tokens", &spec.form.add_special_tokens));
  RETURN_IF_ERROR(Read(json, "truncate_prompt_tokens", &spec.truncate_prompt_tokens));
  RETURN_IF_ERROR(Read(json, "normalize", &request.normalised));
  std::string encoding = "float";
  RETURN_IF_ERROR(Read(json, "encoding_format", &encoding));
  if (encoding != "float" && encoding != "base64") {
    return BadField("encoding_format", absl::StrCat("'", encoding.substr(0, 40), "' must be float or base64"));
  }
  request.base64 = encoding == "base64";
  ASSIGN_OR_RETURN(spec.prompts, ReadPrompts(json, "input"));
  return request;
}

std::string EmbeddingsAnswer::Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) {
  std::string json = absl::StrCat("{\"id\":", Printed(Json(absl::StrCat("embd-", head_.name))),
                                  ",\"object\":\"list\",\"created\":", head_.created,
                                  ",\"model\":", Printed(Json(head_.model)), ",\"data\":[");
  for (size_t i = 0; i < choices.size(); ++i) {
    const std::vector<float> vector = normalised_ ? Normalised(choices[i].embedding) : choices[i].embedding;
    absl::StrAppend(&json, i > 0 ? "," : "", "{\"object\":\"embedding\",\"index\":", i,
                    ",\"embedding\":", base64_ ? Base64(vector) : Decimals(vector), "}");
  }
  absl::StrAppend(&json, "],\"usage\":{\"prompt_tokens\":", usage.prompt_tokens,
                  ",\"total_tokens\":", usage.prompt_tokens, ",\"completion_tokens\":0}}");
  return json;
}

}  // namespace interlace
