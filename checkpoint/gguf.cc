#include "checkpoint/gguf.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "checkpoint/file_mapping.h"
#include "checkpoint/gguf_parts.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/sampled_digest.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr size_t kLongestKey = 65535;

// Elements and bytes of a block of each element type, by its number in the file. Types that never reach a file are
// not listed.
struct ElementType {
  uint32_t number;
  int64_t block_elements;
  int64_t block_bytes;
};
constexpr ElementType kElementTypes[] = {
    {0, 1, 4},                                                       // F32
    {1, 1, 2},                                                       // F16
    {2, 32, 18},                                                     // Q4_0
    {3, 32, 20},                                                     // Q4_1
    {6, 32, 22},                                                     // Q5_0
    {7, 32, 24},                                                     // Q5_1
    {8, 32, 34},                                                     // Q8_0
    {10, 256, 84},                                                   // Q2_K
    {11, 256, 110}, {12, 256, 144}, {13, 256, 176}, {14, 256, 210},  // Q3_K to Q6_K
    {16, 256, 66},  {17, 256, 74},  {18, 256, 98},  {19, 256, 50},   // IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S
    {20, 32, 18},   {21, 256, 110}, {22, 256, 82},  {23, 256, 136},  // IQ4_NL, IQ3_S, IQ2_S, IQ4_XS
    {24, 1, 1},     {25, 1, 2},     {26, 1, 4},     {27, 1, 8},      // I8 to I64
    {28, 1, 8},                                                      // F64
    {29, 256, 56},                                                   // IQ1_M
    {30, 1, 2},                                                      // BF16
    {34, 256, 54},                                                   // TQ1_0
    {35, 256, 66},                                                   // TQ2_0
    {39, 32, 17},                                                    // MXFP4
};

// A tensor as the table states it, before its data are found.
struct Entry {
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

absl::StatusOr<Entry> ReadEntry(GgufCursor& cursor) {
  Entry entry;
  ASSIGN_OR_RETURN(entry.tensor.name, cursor.ReadText("a tensor's name"));
  const std::string& name = entry.tensor.name;
  if (name.size() > kLongestKey) return cursor.Broken(absl::StrCat("tensor name ", Quoted(name), " is too long"));
  ASSIGN_OR_RETURN(const uint32_t rank, cursor.Read<uint32_t>(name));
  if (rank < 1 || rank > 4) return cursor.Broken(absl::StrCat("tensor ", Quoted(name), " has ", rank, " dimensions"));
  unsigned __int128 elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    ASSIGN_OR_RETURN(const uint64_t dim, cursor.Read<uint64_t>(name));
    elements *= dim;
    if (dim == 0 || dim > (uint64_t{1} << 40) || elements > (uint64_t{1} << 50)) {
      return cursor.Broken(absl::StrCat("dimension ", dim, " of tensor ", Quoted(name), " is out of range"));
    }
    entry.tensor.dims.push_back(static_cast<int64_t>(dim));
  }
  ASSIGN_OR_RETURN(const uint32_t number, cursor.Read<uint32_t>(name));
  ASSIGN_OR_RETURN(entry.offset, cursor.Read<uint64_t>(name));
  const auto* type = std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                                  [&](const ElementType& known) { return known.number == number; });
  if (type == std::end(kElementTypes)) {
    return cursor.Broken(absl::StrCat("tensor ", Quoted(name), " has the unknown element type ", number));
  }
  if (entry.tensor.dims[0] % type->block_elements != 0) {
    return cursor.Broken(absl::StrCat("tensor ", Quoted(name), ": ", entry.tensor.dims[0],
                                      " columns are no multiple of ", type->block_elements));
  }
  entry.tensor.type = GgufType{number};
  entry.bytes = static_cast<uint64_t>(elements) / type->block_elements * type->block_bytes;
  return entry;
}

// Gives each entry its bytes: aligned, inside the file, apart from each other. Leaves the entries in file order.
absl::Status PlaceTensors(std::vector<Entry>& entries, absl::Span<const std::byte> data, uint64_t alignment,
                          const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  uint64_t end = 0;
  for (Entry& entry : entries) {
    const auto refuse = [&](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(entry.tensor.name), " at offset ",
                                                     entry.offset, " with ", entry.bytes, " bytes ", why));
    };
    if (entry.offset % alignment != 0) return refuse(absl::StrCat("is not aligned to ", alignment));
    if (entry.offset > data.size() || entry.bytes > data.size() - entry.offset) return refuse("ends past the file");
    if (entry.offset < end) return refuse("overlaps the tensor before it");
    end = entry.offset + entry.bytes;
    entry.tensor.data = data.subspan(entry.offset, entry.bytes);
  }
  return absl::OkStatus();
}

std::string DigestOf(absl::Span<const std::byte> header, size_t file_bytes, const std::vector<Entry>& entries) {
  std::vector<absl::Span<const std::byte>> parts;
  for (const Entry& entry : entries) parts.push_back(entry.tensor.data);
  return SampledDigest(header, file_bytes, parts);
}

}  // namespace

struct GgufFile::Contents {
  std::string name;
  std::string digest;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, GgufTensor, std::less<>> tensors;
  std::vector<std::unique_ptr<FileMapping>> mappings;  // one a part; none when the bytes are someone else's

  absl::Status ReadMetadata(GgufCursor& cursor, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(std::string key, cursor.ReadText("a metadata key"));
      if (key.size() > kLongestKey) return cursor.Broken(absl::StrCat("metadata key ", Quoted(key), " is too long"));
      ASSIGN_OR_RETURN(GgufValue value, cursor.ReadValue(key));
      if (!metadata.emplace(key, std::move(value)).second) {
        return cursor.Broken(absl::StrCat("metadata key ", Quoted(key), " appears twice"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Alignment() const {
    const auto it = metadata.find("general.alignment");
    if (it == metadata.end()) return 32;
    const int64_t* stated = std::get_if<int64_t>(&it->second);
    if (stated == nullptr || *stated < 1 || *stated > (1 << 20) || (*stated & (*stated - 1)) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": general.alignment is not a power of two between 1 and 1048576"));
    }
    return static_cast<uint64_t>(*stated);
  }

  // The tensors of a further part. Metadata are those of the first.
  absl::Status Add(Contents&& part) {
    for (auto& [key, tensor] : part.tensors) {
      if (!tensors.emplace(key, std::move(tensor)).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(part.name, ": tensor ", Quoted(key), " is in a part before this one too"));
      }
    }
    for (std::unique_ptr<FileMapping>& mapping : part.mappings) mappings.push_back(std::move(mapping));
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Get(absl::string_view key, absl::string_view wanted) const {
    const auto it = metadata.find(std::string(key));
    if (it == metadata.end()) return absl::NotFoundError(absl::StrCat(name, ": metadata has no ", Quoted(key)));
    if (const T* value = std::get_if<T>(&it->second)) return *value;
    return absl::InvalidArgumentError(absl::StrCat(name, ": metadata ", Quoted(key), " is not ", wanted));
  }
};

GgufFile::GgufFile(std::unique_ptr<Contents> contents) : contents_(std::move(contents)) {}
GgufFile::~GgufFile() = default;

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(absl::Span<const std::byte> bytes, const std::string& name) {
  auto contents = std::make_unique<Contents>();
  contents->name = name;
  GgufCursor cursor(bytes, contents->name);
  ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>("the magic number"));
  if (magic != kMagic) return absl::InvalidArgumentError(absl::StrCat(name, ": this is not a GGUF file"));
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("the version"));
  if (version != 2 && version != 3) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": GGUF version ", version, " is neither 2 nor 3"));
  }
  ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Read<uint64_t>("the tensor count"));
  ASSIGN_OR_RETURN(const uint64_t value_count, cursor.Read<uint64_t>("the metadata count"));
  constexpr size_t kLeastTensorBytes = 8 + 4 + 8 + 4 + 8, kLeastValueBytes = 8 + 4 + 1;
  if (tensor_count > cursor.left() / kLeastTensorBytes || value_count > cursor.left() / kLeastValueBytes) {
    return cursor.Broken(
        absl::StrCat(tensor_count, " tensors and ", value_count, " metadata values do not fit into the file"));
  }
  RETURN_IF_ERROR(contents->ReadMetadata(cursor, value_count));
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    ASSIGN_OR_RETURN(Entry entry, ReadEntry(cursor));
    entries.push_back(std::move(entry));
  }
  ASSIGN_OR_RETURN(const uint64_t alignment, contents->Alignment());
  const size_t header = cursor.position();
  const size_t data_begin = std::min<size_t>((header + alignment - 1) / alignment * alignment, bytes.size());
  RETURN_IF_ERROR(PlaceTensors(entries, bytes.subspan(data_begin), alignment, name));
  contents->digest = DigestOf(bytes.first(header), bytes.size(), entries);
  for (Entry& entry : entries) {
    std::string key = entry.tensor.name;
    if (!contents->tensors.emplace(key, std::move(entry.tensor)).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": tensor ", Quoted(key), " appears twice"));
    }
  }
  return std::unique_ptr<GgufFile>(new GgufFile(std::move(contents)));
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::OpenOne(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<FileMapping> mapping, FileMapping::Open(path));
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, Parse(mapping->bytes(), path));
  mapping->Drop(mapping->bytes());  // what the digest and the metadata touched
  file->contents_->mappings.push_back(std::move(mapping));
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> opened, OpenOne(path));
  ASSIGN_OR_RETURN(const GgufPart part, ReadGgufPart(*opened));
  if (part.count == 1) return opened;
  std::unique_ptr<GgufFile> whole;
  std::string digests;
  for (int64_t i = 0; i < part.count; ++i) {
    ASSIGN_OR_RETURN(const std::string name, PathOfGgufPart(path, part, i));
    absl::StatusOr<std::unique_ptr<GgufFile>> next = i == part.number ? std::move(opened) : OpenOne(name);
    if (!next.ok()) {
      return absl::Status(next.status().code(), absl::StrCat("part ", i + 1, " of ", part.count, " of the model: ",
                                                             next.status().message()));
    }
    ASSIGN_OR_RETURN(const GgufPart says, ReadGgufPart(**next));
    if (says.number != i || says.count != part.count || says.tensors != part.tensors) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": split.no ", says.number, ", split.count ", says.count, " and split.tensors.count ", says.tensors,
          " are not those of part ", i + 1, " of ", part.count, " with ", part.tensors, " tensors"));
    }
    absl::StrAppend(&digests, (*next)->digest());
    if (whole == nullptr) {
      whole = *std::move(next);
    } else {
      RETURN_IF_ERROR(whole->contents_->Add(std::move(*(*next)->contents_)));
    }
  }
  const auto found = static_cast<int64_t>(whole->tensors().size());
  if (found != part.tensors) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": its ", part.count, " parts hold ", found, " tensors; split.tensors.count is ", part.tensors));
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(digests.data());
  whole->contents_->digest = SampledDigest({bytes, digests.size()}, digests.size(), {});
  return whole;
}

void GgufFile::Drop(absl::Span<const std::byte> part) const {
  for (const std::unique_ptr<FileMapping>& mapping : contents_->mappings) {
    if (mapping->Contains(part)) return mapping->Drop(part);
  }
}

absl::StatusOr<std::string> GgufFile::Text(absl::string_view key) const {
  return contents_->Get<std::string>(key, "a text");
}
absl::StatusOr<int64_t> GgufFile::Integer(absl::string_view key) const {
  return contents_->Get<int64_t>(key, "an integer");
}
absl::StatusOr<double> GgufFile::Real(absl::string_view key) const {
  return contents_->Get<double>(key, "a real number");
}
absl::StatusOr<bool> GgufFile::Flag(absl::string_view key) const { return contents_->Get<bool>(key, "true or false"); }
absl::StatusOr<std::vector<std::string>> GgufFile::Texts(absl::string_view key) const {
  return contents_->Get<std::vector<std::string>>(key, "a list of texts");
}
absl::StatusOr<std::vector<int64_t>> GgufFile::Integers(absl::string_view key) const {
  return contents_->Get<std::vector<int64_t>>(key, "a list of integers");
}
absl::StatusOr<std::vector<double>> GgufFile::Reals(absl::string_view key) const {
  return contents_->Get<std::vector<double>>(key, "a list of real numbers");
}
bool GgufFile::Has(absl::string_view key) const { return contents_->metadata.count(std::string(key)) > 0; }

absl::StatusOr<const GgufTensor*> GgufFile::Tensor(absl::string_view name) const {
  const auto it = contents_->tensors.find(std::string(name));
  if (it == contents_->tensors.end()) {
    return absl::NotFoundError(absl::StrCat(contents_->name, ": there is no tensor ", Quoted(name)));
  }
  return &it->second;
}
const std::map<std::string, GgufTensor, std::less<>>& GgufFile::tensors() const { return contents_->tensors; }
const std::string& GgufFile::name() const { return contents_->name; }
const std::string& GgufFile::digest() const { return contents_->digest; }

}  // namespace interlace
