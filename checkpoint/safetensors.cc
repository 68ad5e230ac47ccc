#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/sampled_digest.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;  // the bound of the format's own reader
constexpr size_t kMostDimensions = 8;

struct ElementType {
  absl::string_view name;
  int64_t bytes;
};
constexpr ElementType kElementTypes[] = {
    {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},  {"I32", 4},     {"I16", 2}, {"I8", 1},
    {"U64", 8}, {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}, {"F8_E4M3", 1}, {"C64", 8}, {"F8_E5M2", 1},
};

absl::Status Broken(const std::string& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

// A JSON object none of whose objects names a key twice; otherwise two readers could see two models.
absl::StatusOr<nlohmann::json> ParseHeader(absl::string_view text, const std::string& file) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string repeated;
  const auto watch = [&](int /*depth*/, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  nlohmann::json header = nlohmann::json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (!header.is_object()) return Broken(file, "the header is not a JSON object");
  if (!repeated.empty()) return Broken(file, absl::StrCat("the header names ", Quoted(repeated), " twice"));
  return header;
}

std::optional<uint64_t> Count(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

absl::StatusOr<SafetensorsTensor> ReadTensor(const std::string& name, const nlohmann::json& entry,
                                             absl::Span<const std::byte> data, const std::string& file) {
  const auto refuse = [&](auto&&... what) {
    return Broken(file, absl::StrCat("tensor ", Quoted(name), ": ", what...));
  };
  if (!entry.is_object()) return refuse("its entry is not an object");
  const auto dtype = entry.find("dtype"), shape = entry.find("shape"), offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return refuse("dtype is missing or not a text");
  if (shape == entry.end() || !shape->is_array()) return refuse("shape is missing or not a list");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return refuse("data_offsets is missing or not a pair");
  }
  SafetensorsTensor tensor;
  tensor.dtype = dtype->get<std::string>();
  const auto* type = std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                                  [&](const ElementType& known) { return known.name == tensor.dtype; });
  if (type == std::end(kElementTypes)) return refuse("dtype ", Quoted(tensor.dtype), " is unknown");
  if (shape->size() > kMostDimensions) return refuse("shape has ", shape->size(), " dimensions");
  unsigned __int128 bytes = static_cast<unsigned __int128>(type->bytes);
  for (const nlohmann::json& item : *shape) {
    const std::optional<uint64_t> dim = Count(item);
    if (dim.has_value()) bytes *= *dim;
    if (!dim.has_value() || *dim > (uint64_t{1} << 40) || bytes > (uint64_t{1} << 50)) {
      return refuse("shape has a dimension that is out of range");
    }
    tensor.shape.push_back(static_cast<int64_t>(*dim));
  }
  const std::optional<uint64_t> begin = Count((*offsets)[0]), end = Count((*offsets)[1]);
  if (!begin.has_value() || !end.has_value() || *begin > *end) return refuse("data_offsets are not a range");
  if (*end > data.size()) return refuse("data_offsets end at ", *end, ", past the ", data.size(), " bytes of data");
  if (*end - *begin != static_cast<uint64_t>(bytes)) {
    return refuse("data_offsets span ", *end - *begin, " bytes, dtype and shape make ", static_cast<uint64_t>(bytes));
  }
  tensor.data = data.subspan(*begin, *end - *begin);
  return tensor;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(absl::Span<const std::byte> bytes,
                                                                        const std::string& name) {
  uint64_t length = 0;
  if (bytes.size() < sizeof length) return Broken(name, "too short for a safetensors file");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kLongestHeader || length > bytes.size() - sizeof length) {
    return Broken(name, absl::StrCat("the header of ", length, " bytes does not fit into the file"));
  }
  const absl::Span<const std::byte> text = bytes.subspan(sizeof length, length);
  const absl::Span<const std::byte> data = bytes.subspan(sizeof length + length);
  ASSIGN_OR_RETURN(const nlohmann::json header,
                   ParseHeader({reinterpret_cast<const char*>(text.data()), text.size()}, name));
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->name_ = name;
  file->bytes_ = bytes;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    ASSIGN_OR_RETURN(SafetensorsTensor tensor, ReadTensor(key, entry, data, name));
    file->tensors_.emplace(key, std::move(tensor));
  }
  std::vector<std::pair<absl::Span<const std::byte>, absl::string_view>> parts;
  for (const auto& [key, tensor] : file->tensors_) {
    if (!tensor.data.empty()) parts.emplace_back(tensor.data, key);
  }
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first.data() < b.first.data(); });
  std::vector<absl::Span<const std::byte>> spans;
  for (const auto& [part, key] : parts) {
    if (!spans.empty() && part.data() < spans.back().data() + spans.back().size()) {
      return Broken(name, absl::StrCat("tensor ", Quoted(key), " overlaps the tensor before it"));
    }
    spans.push_back(part);
  }
  file->digest_ = SampledDigest(bytes.first(sizeof length + length), bytes.size(), spans);
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<FileMapping> mapping, FileMapping::Open(path));
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, Parse(mapping->bytes(), path));
  mapping->Drop(mapping->bytes());  // what the digest and the header touched
  file->mapping_ = std::move(mapping);
  return file;
}

bool SafetensorsFile::Contains(absl::Span<const std::byte> part) const {
  return part.data() >= bytes_.data() && part.data() + part.size() <= bytes_.data() + bytes_.size();
}

void SafetensorsFile::Drop(absl::Span<const std::byte> part) const {
  if (mapping_ != nullptr) mapping_->Drop(part);
}

}  // namespace interlace
