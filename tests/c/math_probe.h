/* The functions of kernels/math.inc that no public call shows alone, one table for each target. */
#ifndef MATH_PROBE_H
#define MATH_PROBE_H

#include "fastreg.h"

typedef void math_function(ptrdiff_t n, const void *in, void *out);

typedef struct {
    const char *isa;
    fr_dtype dtype;
    math_function *exp, *expm1, *log, *log1p, *normal, *pow_below_1, *pow_above_1;
} math_probe;

extern const math_probe probe_baseline_float32, probe_baseline_float64;
extern const math_probe probe_avx2_float32, probe_avx2_float64;
extern const math_probe probe_avx512_float32, probe_avx512_float64;
extern const math_probe probe_neon_float32, probe_neon_float64;

#endif
