// Every kernel: X(name, body, parameters). Read by the device code, and by the tests' driver.
#pragma once

#include "kernels/embedding/embedding_cuda.h"
#include "kernels/kv_append/kv_append_cuda.h"
#include "kernels/linear/linear_cuda.h"
#include "kernels/paged_attention/paged_attention_cuda.h"
#include "kernels/residual_add/residual_add_cuda.h"
#include "kernels/rms_norm/rms_norm_cuda.h"
#include "kernels/rope/rope_cuda.h"
#include "kernels/soft_cap/soft_cap_cuda.h"

#define INTERLACE_CUDA_KERNELS(X)                               \
  X(kEmbedding, EmbeddingBlock, EmbeddingParams)                \
  X(kRmsNorm, RmsNormBlock, RmsNormParams)                      \
  X(kRope, RopeBlock, RopeParams)                               \
  X(kToBf16, ToBf16Block, ToBf16Params)                         \
  X(kAddBias, AddBiasBlock, AddBiasParams)                      \
  X(kGate, GateBlock, GateParams)                               \
  X(kKvAppend, KvAppendBlock, KvAppendParams)                   \
  X(kPagedAttention, PagedAttentionBlock, PagedAttentionParams) \
  X(kResidualAdd, ResidualAddBlock, ResidualAddParams)          \
  X(kSoftCap, SoftCapBlock, SoftCapParams)
