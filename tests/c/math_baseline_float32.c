#include "math_probe.h"
#include "targets/target.h"

#define FR_REAL_BITS 32
#define PROBE probe_baseline_float32
#define PROBE_ISA "baseline"
#include "simd/scalar.h"

#include "math_probe.inc"
