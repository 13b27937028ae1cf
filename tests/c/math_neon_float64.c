#include "math_probe.h"
#include "targets/target.h"

#if FR_AARCH64
#define FR_REAL_BITS 64
#define PROBE probe_neon_float64
#define PROBE_ISA "neon"
#include "simd/neon.h"

#include "math_probe.inc"
#endif
