#include "target.h"

#if FR_X86_64
FR_TARGET_BEGIN("avx2,fma")
#define FR_REAL_BITS 64
#define FR_TARGET fr_table_avx2_float64
#define FR_TARGET_ISA "avx2"
#define FR_TARGET_DTYPE FR_FLOAT64
#include "../simd/avx2.h"
#include "../kernels/table.inc"
FR_TARGET_END
#endif
