#include "target.h"


#define FR_REAL_BITS 64
#define FR_TARGET fr_table_baseline_float64
#define FR_TARGET_ISA "baseline"
#define FR_TARGET_DTYPE FR_FLOAT64
#include "../simd/scalar.h"
#include "../kernels/table.inc"

