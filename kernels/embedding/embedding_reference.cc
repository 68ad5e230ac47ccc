#include "common/check.h"
#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {

void Embedding(const EmbeddingArgs& args, ThreadTeam& /*team*/) {
  for (int64_t t = 0; t < args.out.rows; ++t) {
    const int32_t token = args.tokens[t];
    CHECK(token >= 0 && token < args.table.rows);
    DequantiseRow(args.table.dtype, args.table.Rows(token, 1).data, args.table.cols, args.out.f32_row(t));
  }
}

}  // namespace interlace::reference
