#include "math_probe.h"
#include "targets/target.h"

#if FR_X86_64
FR_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt")
#define FR_REAL_BITS 32
#define PROBE probe_avx512_float32
#define PROBE_ISA "avx512"
#include "simd/avx512.h"

#include "math_probe.inc"
FR_TARGET_END
#endif
