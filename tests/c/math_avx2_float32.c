#include "math_probe.h"
#include "targets/target.h"

#if FR_X86_64
FR_TARGET_BEGIN("avx2,fma")
#define FR_REAL_BITS 32
#define PROBE probe_avx2_float32
#define PROBE_ISA "avx2"
#include "simd/avx2.h"

#include "math_probe.inc"
FR_TARGET_END
#endif
