#include "math_probe.h"
#include "targets/target.h"

#if FR_AARCH64
#define FR_REAL_BITS 32
#define PROBE probe_neon_float32
#define PROBE_ISA "neon"
#include "simd/neon.h"

#include "math_probe.inc"
#endif
