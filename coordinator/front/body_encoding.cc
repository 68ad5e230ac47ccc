#include "coordinator/front/body_encoding.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

constexpr size_t kPiece = 64 << 10;           // bytes
constexpr int kGzipOrZlib = 15 + 32;          // zlib's windowBits: either header
constexpr int kRaw = -15;                     // none
constexpr size_t kLongest = size_t{1} << 30;  // of what zlib's 32 bits can count

absl::Status TooLarge(size_t most) {
  return WithCode(absl::InvalidArgumentError(absl::StrCat("the body is larger than request.max_body=", most)),
                  "body_too_large");
}

absl::Status Damaged(const char* why) {
  return absl::InvalidArgumentError(absl::StrCat("the body is not what its Content-Encoding says: ", why));
}

// "deflate" means zlib's format, and some clients send its content without the header.
bool IsRaw(absl::string_view name, absl::string_view body) {
  if (name != "deflate" || body.size() < 2) return false;
  const auto first = static_cast<uint8_t>(body[0]), second = static_cast<uint8_t>(body[1]);
  return (first & 0x0f) != Z_DEFLATED || (first * 256 + second) % 31 != 0;
}

// Several members of gzip in a row are one text.
absl::Status Inflate(z_stream& stream, size_t most, std::string* out) {
  int state = Z_OK;
  while (stream.avail_in > 0 || state != Z_STREAM_END) {
    if (state == Z_STREAM_END && inflateReset(&stream) != Z_OK) return Damaged("zlib fails");
    const size_t had = out->size();
    if (had > most) return TooLarge(most);
    out->resize(had + std::min(kPiece, most + 1 - had));
    stream.next_out = reinterpret_cast<Bytef*>(out->data() + had);
    stream.avail_out = static_cast<uInt>(out->size() - had);
    state = inflate(&stream, Z_NO_FLUSH);
    out->resize(out->size() - stream.avail_out);
    if (out->size() > most) return TooLarge(most);
    if (state == Z_BUF_ERROR || (state == Z_OK && stream.avail_in == 0 && out->size() == had))
      return Damaged("it ends too early");
    if (state != Z_OK && state != Z_STREAM_END) return Damaged("its bytes are damaged");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> DecodeBody(absl::string_view encoding, absl::string_view body, size_t most) {
  const std::string name = absl::AsciiStrToLower(absl::StripAsciiWhitespace(encoding));
  if (name.empty() || name == "identity") return std::string(body);
  if (name != "gzip" && name != "x-gzip" && name != "deflate") {
    return WithCode(absl::InvalidArgumentError(absl::StrCat("Content-Encoding '", name.substr(0, 40),
                                                            "' is not known here: gzip and deflate are")),
                    "unsupported_encoding");
  }
  if (body.size() > kLongest) return TooLarge(most);
  z_stream stream{};
  if (inflateInit2(&stream, IsRaw(name, body) ? kRaw : kGzipOrZlib) != Z_OK)
    return absl::InternalError("zlib cannot begin");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data()));
  stream.avail_in = static_cast<uInt>(body.size());
  std::string out;
  const absl::Status status = Inflate(stream, most, &out);
  inflateEnd(&stream);
  if (!status.ok()) return status;
  return out;
}

}  // namespace interlace
