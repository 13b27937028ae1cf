/* What the C tests share: checks and their count, random numbers, arrays of either dtype. */
#ifndef TEST_H
#define TEST_H

#include "fastreg.h"

#include <float.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void test_math(void);
void test_kernels(void);
void test_groups(void);
void test_guard(void);
void test_network(void);
void test_threads(void);

/* Counts; prints where and in which case a failure happened. Called by the main thread alone. */
bool test_check(bool passed, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define CHECK(condition, ...) test_check(condition, __FILE__, __LINE__, __VA_ARGS__)

/* What a failure, or a fault, is printed with. */
void test_case(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* body(dtype) for both dtypes under every instruction set that this CPU runs. */
void test_each_target(void (*body)(fr_dtype dtype));

double test_uniform(double low, double high);
ptrdiff_t test_below(ptrdiff_t n);
void test_seed(uint64_t seed);

/* ---- arrays of either dtype, seen as doubles ---- */

static inline ptrdiff_t size_of(fr_dtype dtype) { return dtype == FR_FLOAT32 ? 4 : 8; }
static inline const char *name_of(fr_dtype dtype)
{
    return dtype == FR_FLOAT32 ? "float32" : "float64";
}
/* The unit roundoff: one operation's relative error. */
static inline double unit_of(fr_dtype dtype)
{
    return (dtype == FR_FLOAT32 ? (double)FLT_EPSILON : DBL_EPSILON) / 2;
}
static inline double smallest_of(fr_dtype dtype)
{
    return dtype == FR_FLOAT32 ? (double)FLT_MIN : DBL_MIN;
}
static inline double rounded(fr_dtype dtype, double a)
{
    return dtype == FR_FLOAT32 ? (double)(float)a : a;
}
static inline double get(fr_dtype dtype, const void *array, ptrdiff_t i)
{
    return dtype == FR_FLOAT32 ? (double)((const float *)array)[i] : ((const double *)array)[i];
}
static inline void put(fr_dtype dtype, void *array, ptrdiff_t i, double value)
{
    if (dtype == FR_FLOAT32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}
static inline void *at(fr_dtype dtype, const void *array, ptrdiff_t i)
{
    return (char *)array + i * size_of(dtype);
}
void fill(fr_dtype dtype, void *array, ptrdiff_t n, double low, double high);

/* Of the activations that have parameters, none at a value that hides it. */
static const fr_curve test_curve = {.alpha = 0.3, .max_value = 1.5, .threshold = 0.25};

/* ---- the BLAS of the tests (naive_blas.c) ---- */
fr_sgemm naive_sgemm;
fr_dgemm naive_dgemm;

#endif
