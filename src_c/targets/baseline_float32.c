#include "target.h"


#define FR_REAL_BITS 32
#define FR_TARGET fr_table_baseline_float32
#define FR_TARGET_ISA "baseline"
#define FR_TARGET_DTYPE FR_FLOAT32
#include "../simd/scalar.h"
#include "../kernels/table.inc"

