#include "target.h"

#if FR_X86_64
FR_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,popcnt")
#define FR_REAL_BITS 32
#include "../simd/avx512.h"
#include "../simd/avx512_bfloat16.h"
#include "../kernels/tiles.inc"
#include "../kernels/bfloat16.inc"

const fr_pair_kernels fr_pairs_avx512 = {
    .product = pair_product,
    .kernel_product = pair_kernel_product,
    .panel = pair_panel,
    .transpose = pair_transpose,
};
FR_TARGET_END
#endif
