#include "common/check.h"
#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {

void Embedding(const EmbeddingArgs& args, OpContext /*on*/) {
  const LinearWeight& table = args.table;
  for (int64_t t = 0; t < args.out.rows; ++t) {
    const int32_t token = args.tokens[t];
    CHECK(token >= 0 && token < table.rows);
    float* out = args.out.f32_row(t);
    DequantiseRow(table.dtype, table.data + token * RowBytes(table.dtype, table.k), table.k, out);
    if (args.scale != 1) {
      for (int64_t i = 0; i < table.k; ++i) out[i] *= args.scale;
    }
  }
}

}  // namespace interlace::reference
