#include "target.h"

#if FR_AARCH64
#define FR_REAL_BITS 64
#define FR_TARGET fr_table_neon_float64
#define FR_TARGET_ISA "neon"
#define FR_TARGET_DTYPE FR_FLOAT64
#include "../simd/neon.h"
#include "../kernels/table.inc"
#endif
