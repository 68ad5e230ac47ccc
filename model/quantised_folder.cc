#include "model/quantised_folder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/gguf_values.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/dequantise.h"

namespace interlace {
namespace {

constexpr int64_t kBlock = 32;  // elements of Q4_0 and Q5_0
constexpr int64_t kCodes = 8;   // of 4 bits in a word

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
void Store16(std::byte* to, uint16_t value) { std::memcpy(to, &value, sizeof value); }

// A vector or matrix of a float type, of any alignment.
struct Reals {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 1, cols = 1;
  float At(int64_t row, int64_t col) const {
    const std::byte* at = data + (row * cols + col) * TraitsOf(dtype).block_bytes;
    if (dtype == DType::kF32) return Load<float>(at);
    return dtype == DType::kF16 ? F16ToF32(Load<uint16_t>(at)) : BF16ToF32(Load<uint16_t>(at));
  }
};

// Words of eight codes.
struct Words {
  const std::byte* data = nullptr;
  int64_t rows = 0, cols = 0;
  uint32_t At(int64_t row, int64_t col) const { return Load<uint32_t>(data + 4 * (row * cols + col)); }
};

// Where the three forms keep 4-bit codes. `outputs` are rows of the matrix, `inputs` its columns.
enum class Packing {
  kGptq,        // codes [inputs / 8, outputs], zeros [groups, outputs / 8], scales [groups, outputs]
  kAwq,         // codes [inputs, outputs / 8], the eight in an order of their own; zeros and scales as GPTQ
  kCompressed,  // codes [outputs, inputs / 8], scales [outputs, groups]; zeros are 8
};

// The place in a word of AWQ of each of eight outputs.
constexpr int kAwqPlaces[8] = {0, 4, 1, 5, 2, 6, 3, 7};

class FourBits final : public RowSource {
 public:
  struct Parts {
    Packing packing = Packing::kGptq;
    Words codes, zeros;
    Reals scales;
    int zero_offset = 0;  // added to stored zeros: GPTQ keeps one less
    int64_t outputs = 0, inputs = 0, group = 0;
    std::vector<int32_t> group_of;  // of each input, where they are out of order
  };
  explicit FourBits(Parts parts) : p_(std::move(parts)) { dtype_ = ChooseType(); }
  DType dtype() const { return dtype_; }

  void Write(int64_t begin, int64_t count, std::byte* out) const override {
    if (dtype_ == DType::kF16) return WriteF16(begin, count, out);
    const int64_t row_bytes = RowBytes(dtype_, p_.inputs), block_bytes = TraitsOf(dtype_).block_bytes;
    for (int64_t b = 0; b < p_.inputs / kBlock; ++b) {  // outputs inside: neighbours in two of the three forms
      for (int64_t i = 0; i < count; ++i) WriteBlock(begin + i, b, out + i * row_bytes + b * block_bytes);
    }
  }

 private:
  int Zero(int64_t group, int64_t output) const {
    if (p_.packing == Packing::kCompressed) return 8;
    const uint32_t word = p_.zeros.At(group, output / kCodes);
    const auto place = p_.packing == Packing::kAwq ? kAwqPlaces[output % kCodes] : static_cast<int>(output % kCodes);
    return static_cast<int>(word >> 4 * place & 15) + p_.zero_offset;
  }
  int Code(int64_t output, int64_t input) const {
    switch (p_.packing) {
      case Packing::kGptq:
        return static_cast<int>(p_.codes.At(input / kCodes, output) >> 4 * (input % kCodes) & 15);
      case Packing::kAwq:
        return static_cast<int>(p_.codes.At(input, output / kCodes) >> 4 * kAwqPlaces[output % kCodes] & 15);
      case Packing::kCompressed:
        return static_cast<int>(p_.codes.At(output, input / kCodes) >> 4 * (input % kCodes) & 15);
    }
    return 0;
  }
  float Scale(int64_t group, int64_t output) const {
    return p_.packing == Packing::kCompressed ? p_.scales.At(output, group) : p_.scales.At(group, output);
  }
  DType ChooseType() const {
    if (!p_.group_of.empty()) return DType::kF16;
    const int64_t groups = p_.packing == Packing::kCompressed ? 0 : p_.zeros.rows;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t n = 0; n < p_.outputs; ++n) {
        if (Zero(g, n) != 8) return DType::kQ5_0;
      }
    }
    return DType::kQ4_0;
  }
  // Scale, high bits where there are some, nibbles: kernels/dequantise.cc.
  void WriteBlock(int64_t output, int64_t b, std::byte* out) const {
    const int64_t group = b * kBlock / p_.group;
    const int lift = dtype_ == DType::kQ5_0 ? 16 - Zero(group, output) : 0;
    uint32_t high = 0;
    std::array<uint8_t, kBlock> codes;
    for (int64_t i = 0; i < kBlock; ++i) {
      codes[i] = static_cast<uint8_t>(Code(output, b * kBlock + i) + lift);
      high |= static_cast<uint32_t>(codes[i] >> 4) << i;
    }
    Store16(out, F32ToF16(Scale(group, output)));
    out += sizeof(uint16_t);
    if (dtype_ == DType::kQ5_0) {
      std::memcpy(out, &high, sizeof high);
      out += sizeof high;
    }
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      out[i] = static_cast<std::byte>((codes[i] & 15) | (codes[i + kBlock / 2] & 15) << 4);
    }
  }
  void WriteF16(int64_t begin, int64_t count, std::byte* out) const {
    for (int64_t k = 0; k < p_.inputs; ++k) {
      const int64_t group = p_.group_of[k];
      for (int64_t i = 0; i < count; ++i) {
        const int64_t n = begin + i;
        const float value = Scale(group, n) * static_cast<float>(Code(n, k) - Zero(group, n));
        Store16(out + 2 * (i * p_.inputs + k), F32ToF16(value));
      }
    }
  }

  const Parts p_;
  DType dtype_ = DType::kQ4_0;
};

// Sign, four bits of exponent, three of fraction; no infinity.
float E4M3ToF32(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  if (exponent == 15 && fraction == 7) return std::nanf("");
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                        : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

class Fp8 final : public RowSource {
 public:
  // `scales` holds one value, one of each row, or one of each block_rows x block_cols.
  Fp8(const std::byte* data, int64_t cols, Reals scales, int64_t block_rows, int64_t block_cols)
      : data_(data), cols_(cols), scales_(scales), block_rows_(block_rows), block_cols_(block_cols) {
    for (int i = 0; i < 256; ++i) values_[i] = E4M3ToF32(static_cast<uint8_t>(i));
  }
  void Write(int64_t begin, int64_t count, std::byte* out) const override {
    for (int64_t r = begin; r < begin + count; ++r) {
      for (int64_t k = 0; k < cols_; ++k, out += sizeof(uint16_t)) {
        const float value = values_[static_cast<uint8_t>(data_[r * cols_ + k])];
        Store16(out, F32ToF16(value * scales_.At(r / block_rows_, k / block_cols_)));
      }
    }
  }

 private:
  const std::byte* const data_;
  const int64_t cols_;
  const Reals scales_;
  const int64_t block_rows_, block_cols_;
  std::array<float, 256> values_;
};

// Reads one folder's; lives within TakeQuantised.
class Reader {
 public:
  Reader(const HfConfig& config, FolderTensors* tensors) : config_(config), tensors_(*tensors) {}

  absl::StatusOr<std::map<std::string, CheckpointTensor>> Read() {
    RETURN_IF_ERROR(ReadMethod());
    std::vector<std::string> stems;
    for (const auto& [name, tensor] : tensors_) {
      absl::string_view stem = name;
      if (absl::ConsumeSuffix(&stem, codes_) && (codes_ != ".weight" || tensor.tensor->dtype == "F8_E4M3")) {
        stems.emplace_back(stem);
      }
    }
    for (const std::string& stem : stems) {
      ASSIGN_OR_RETURN(CheckpointTensor matrix, fp8_ ? TakeFp8(stem) : TakeFourBits(stem));
      matrices_.emplace(stem + ".weight", std::move(matrix));
    }
    return std::move(matrices_);
  }

 private:
  std::string Key(absl::string_view key) const { return absl::StrCat("quantization_config.", key); }
  absl::Status Refuse(absl::string_view key, absl::string_view why) const {
    return absl::UnimplementedError(absl::StrCat(config_.name(), ": ", Key(key), " ", why));
  }

  absl::Status ReadMethod() {
    ASSIGN_OR_RETURN(const std::string method, config_.Text(Key("quant_method")));
    if (method == "gptq") return ReadGptq();
    if (method == "awq") return ReadAwq();
    if (method == "fp8") return ReadFp8();
    if (method == "compressed-tensors") return ReadCompressed();
    return Refuse("quant_method", absl::StrCat("'", method.substr(0, 80),
                                               "' is not built in; known: gptq, awq, fp8, compressed-tensors"));
  }
  absl::Status ReadBits() {
    int64_t bits = 4;
    for (const char* name : {"bits", "w_bit"}) {
      if (!config_.Has(Key(name))) continue;
      ASSIGN_OR_RETURN(bits, config_.Integer(Key(name)));
      if (bits != 4) return Refuse(name, absl::StrCat("=", bits, " is not built in; known: 4"));
    }
    for (const char* name : {"group_size", "q_group_size"}) {
      if (!config_.Has(Key(name))) continue;
      ASSIGN_OR_RETURN(group_, config_.Integer(Key(name)));
    }
    return absl::OkStatus();
  }
  absl::Status ReadGptq() {
    codes_ = ".qweight";
    packing_ = Packing::kGptq;
    zero_offset_ = 1;
    if (config_.Has(Key("checkpoint_format"))) {
      ASSIGN_OR_RETURN(const std::string format, config_.Text(Key("checkpoint_format")));
      if (format == "gptq_v2") {
        zero_offset_ = 0;
      } else if (format != "gptq") {
        return Refuse("checkpoint_format", absl::StrCat("'", format.substr(0, 80), "' is not built in"));
      }
    }
    return ReadBits();
  }
  absl::Status ReadAwq() {
    codes_ = ".qweight";
    packing_ = Packing::kAwq;
    if (config_.Has(Key("version"))) {
      ASSIGN_OR_RETURN(const std::string version, config_.Text(Key("version")));
      if (!absl::EqualsIgnoreCase(version, "gemm")) {
        return Refuse("version", absl::StrCat("'", version.substr(0, 80), "' is not built in; known: gemm"));
      }
    }
    return ReadBits();
  }
  absl::Status ReadFp8() {
    codes_ = ".weight";
    fp8_ = true;
    if (!config_.Has(Key("weight_block_size"))) return absl::OkStatus();
    return ReadBlockSize(Key("weight_block_size"));
  }
  absl::Status ReadBlockSize(const std::string& key) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> size, config_.Integers(key));
    if (size.size() != 2 || size[0] < 1 || size[1] < 1) {
      return absl::InvalidArgumentError(absl::StrCat(config_.name(), ": ", key, " is not two numbers above 0"));
    }
    block_rows_ = size[0];
    block_cols_ = size[1];
    return absl::OkStatus();
  }
  absl::Status ReadCompressed() {
    ASSIGN_OR_RETURN(const std::string format, config_.Text(Key("format")));
    const std::string weights = "config_groups.group_0.weights.";
    if (format == "float-quantized" || format == "naive-quantized") {
      codes_ = ".weight";
      fp8_ = true;
      const std::string structure = Key(weights + "block_structure");
      return config_.Has(structure) ? ReadBlockSize(structure) : absl::OkStatus();
    }
    if (format != "pack-quantized") {
      return Refuse("format", absl::StrCat("'", format.substr(0, 80),
                                           "' is not built in; known: float-quantized, pack-quantized"));
    }
    codes_ = ".weight_packed";
    packing_ = Packing::kCompressed;
    ASSIGN_OR_RETURN(const int64_t bits, config_.Integer(Key(weights + "num_bits")));
    if (bits != 4) return Refuse(weights + "num_bits", absl::StrCat("=", bits, " is not built in; known: 4"));
    bool symmetric = true;
    if (config_.Has(Key(weights + "symmetric"))) {
      ASSIGN_OR_RETURN(symmetric, config_.Flag(Key(weights + "symmetric")));
    }
    return symmetric ? absl::OkStatus() : Refuse(weights + "symmetric", "=false is not built in");
  }

  absl::Status Broken(const std::string& name, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(config_.name(), ": tensor ", Quoted(name), " ", what));
  }
  // Takes a tensor out; null if there is none.
  const SafetensorsTensor* Take(const std::string& name) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return nullptr;
    const SafetensorsTensor* tensor = found->second.tensor;
    tensors_.erase(found);
    return tensor;
  }
  absl::StatusOr<Words> TakeWords(const std::string& name) {
    const SafetensorsTensor* tensor = Take(name);
    if (tensor == nullptr) return Broken(name, "is missing");
    if (tensor->dtype != "I32" || tensor->shape.size() != 2) return Broken(name, "is no matrix of I32");
    return Words{tensor->data.data(), tensor->shape[0], tensor->shape[1]};
  }
  absl::StatusOr<Reals> TakeReals(const std::string& name, int64_t rows, int64_t cols) {
    const SafetensorsTensor* tensor = Take(name);
    if (tensor == nullptr) return Broken(name, "is missing");
    ASSIGN_OR_RETURN(const Reals reals, RealsOf(name, *tensor));
    if (reals.rows != rows || reals.cols != cols) {
      return Broken(name, absl::StrCat("is [", reals.rows, ", ", reals.cols, "], expected [", rows, ", ", cols, "]"));
    }
    return reals;
  }
  // A vector counts as a column, a scalar as [1, 1].
  absl::StatusOr<Reals> RealsOf(const std::string& name, const SafetensorsTensor& tensor) const {
    Reals reals{.data = tensor.data.data()};
    if (tensor.shape.size() > 2) return Broken(name, "is no matrix");
    if (!tensor.shape.empty()) reals.rows = tensor.shape[0];
    if (tensor.shape.size() == 2) reals.cols = tensor.shape[1];
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      if (TraitsOf(dtype).name != tensor.dtype) continue;
      reals.dtype = dtype;
      return reals;
    }
    return Broken(name, "is neither F32, F16 nor BF16");
  }

  absl::StatusOr<CheckpointTensor> TakeFp8(const std::string& stem) {
    const SafetensorsTensor& codes = *Take(stem + ".weight");
    if (codes.shape.size() != 2) return Broken(stem + ".weight", "is no matrix");
    const int64_t rows = codes.shape[0], cols = codes.shape[1];
    Take(stem + ".input_scale");  // of activations, which are not quantised so here
    std::string name = stem + ".weight_scale_inv";
    const SafetensorsTensor* tensor = Take(name);
    if (tensor == nullptr) tensor = Take(name = stem + ".weight_scale");
    if (tensor == nullptr) return Broken(name, "is missing");
    ASSIGN_OR_RETURN(const Reals scales, RealsOf(name, *tensor));
    int64_t block_rows = block_rows_, block_cols = block_cols_;
    if (scales.cols == 1 && (scales.rows == 1 || scales.rows == rows)) {
      block_rows = scales.rows == 1 ? rows : 1;
      block_cols = cols;
    }
    if (scales.rows != (rows + block_rows - 1) / block_rows || scales.cols != (cols + block_cols - 1) / block_cols) {
      return Broken(name, absl::StrCat("is [", scales.rows, ", ", scales.cols, "], which fits no scales of [", rows,
                                       ", ", cols, "] in blocks of ", block_rows, " x ", block_cols));
    }
    return CheckpointTensor{
        DType::kF16, "F8_E4M3",  rows,
        cols,        codes.data, std::make_shared<Fp8>(codes.data.data(), cols, scales, block_rows, block_cols)};
  }

  absl::StatusOr<CheckpointTensor> TakeFourBits(const std::string& stem) {
    const absl::Span<const std::byte> data = tensors_.find(stem + codes_)->second.tensor->data;
    FourBits::Parts parts{.packing = packing_, .zero_offset = zero_offset_};
    ASSIGN_OR_RETURN(parts.codes, TakeWords(stem + codes_));
    const bool compressed = packing_ == Packing::kCompressed;
    parts.outputs = packing_ == Packing::kAwq ? parts.codes.cols * kCodes
                    : compressed              ? parts.codes.rows
                                              : parts.codes.cols;
    parts.inputs =
        packing_ == Packing::kAwq ? parts.codes.rows : (compressed ? parts.codes.cols : parts.codes.rows) * kCodes;
    RETURN_IF_ERROR(TakeScales(stem, &parts));
    if (!compressed) {
      const std::string name = stem + ".qzeros";
      ASSIGN_OR_RETURN(parts.zeros, TakeWords(name));
      if (parts.zeros.rows != parts.scales.rows || parts.zeros.cols != (parts.outputs + kCodes - 1) / kCodes) {
        return Broken(name, "does not have the shape of the scales");
      }
    }
    RETURN_IF_ERROR(TakeOrder(stem, &parts));
    const int64_t outputs = parts.outputs, inputs = parts.inputs;
    auto source = std::make_shared<FourBits>(std::move(parts));
    return CheckpointTensor{source->dtype(), "I32", outputs, inputs, data, source};
  }
  // And how many inputs share one.
  absl::Status TakeScales(const std::string& stem, FourBits::Parts* parts) {
    const bool compressed = packing_ == Packing::kCompressed;
    const std::string name = stem + (compressed ? ".weight_scale" : ".scales");
    if (compressed) Take(stem + ".weight_shape");
    const SafetensorsTensor* tensor = Take(name);
    if (tensor == nullptr) return Broken(name, "is missing");
    ASSIGN_OR_RETURN(parts->scales, RealsOf(name, *tensor));
    const int64_t groups = compressed ? parts->scales.cols : parts->scales.rows;
    const int64_t outputs = compressed ? parts->scales.rows : parts->scales.cols;
    parts->group = groups > 0 ? parts->inputs / groups : 0;
    if (outputs != parts->outputs || groups < 1 || parts->group * groups != parts->inputs ||
        (group_ > 0 && group_ != parts->group)) {
      return Broken(name, absl::StrCat("is [", parts->scales.rows, ", ", parts->scales.cols,
                                       "], which fits no groups of [", parts->outputs, ", ", parts->inputs, "]"));
    }
    if (parts->group % kBlock != 0) {
      return Refuse("group_size", absl::StrCat("=", parts->group, " is no multiple of ", kBlock));
    }
    return absl::OkStatus();
  }
  // The groups of inputs, where they are not one after another (desc_act).
  absl::Status TakeOrder(const std::string& stem, FourBits::Parts* parts) {
    const std::string name = stem + (packing_ == Packing::kCompressed ? ".weight_g_idx" : ".g_idx");
    const SafetensorsTensor* tensor = Take(name);
    if (tensor == nullptr) return absl::OkStatus();
    if (tensor->dtype != "I32" || tensor->shape.size() != 1 || tensor->shape[0] != parts->inputs) {
      return Broken(name, absl::StrCat("is not I32 [", parts->inputs, "]"));
    }
    bool in_order = true;
    std::vector<int32_t> groups(static_cast<size_t>(parts->inputs));
    for (int64_t k = 0; k < parts->inputs; ++k) {
      groups[k] = Load<int32_t>(tensor->data.data() + 4 * k);
      if (groups[k] < 0 || groups[k] >= parts->inputs / parts->group)
        return Broken(name, "names a group that is not there");
      in_order &= groups[k] == k / parts->group;
    }
    if (!in_order) parts->group_of = std::move(groups);
    return absl::OkStatus();
  }

  const HfConfig& config_;
  FolderTensors& tensors_;
  std::map<std::string, CheckpointTensor> matrices_;
  std::string codes_;  // how the names of codes end
  Packing packing_ = Packing::kGptq;
  bool fp8_ = false;
  int zero_offset_ = 0;
  int64_t group_ = -1;  // -1: what the scales say
  int64_t block_rows_ = 128, block_cols_ = 128;
};

}  // namespace

absl::StatusOr<std::map<std::string, CheckpointTensor>> TakeQuantised(const HfConfig& config, FolderTensors* tensors) {
  if (!config.Has("quantization_config")) return std::map<std::string, CheckpointTensor>();
  return Reader(config, tensors).Read();
}

}  // namespace interlace
