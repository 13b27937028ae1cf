#include "target.h"

#if FR_X86_64
FR_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt")
#define FR_REAL_BITS 32
#define FR_TARGET fr_table_avx512_float32
#define FR_TARGET_ISA "avx512"
#define FR_TARGET_DTYPE FR_FLOAT32
#include "../simd/avx512.h"
#include "../kernels/table.inc"
FR_TARGET_END
#endif
