/* Arithmetic of sizes and places. */
#ifndef FR_SIZES_H
#define FR_SIZES_H

#include "fastreg.h"

static inline ptrdiff_t fr_sizeof(fr_dtype dtype)
{
    return dtype == FR_FLOAT32 ? (ptrdiff_t)sizeof(float) : (ptrdiff_t)sizeof(double);
}

static inline void *fr_at(const void *array, ptrdiff_t element, ptrdiff_t size)
{
    return (char *)array + element * size;
}

static inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t round_up(ptrdiff_t a, ptrdiff_t to) { return (a + to - 1) / to * to; }
static inline ptrdiff_t pieces(ptrdiff_t n, ptrdiff_t piece) { return n / piece + (n % piece > 0); }

#endif
