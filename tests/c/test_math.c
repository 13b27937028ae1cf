/* exp, expm1, log, log1p, powers, tanh, sigmoid, the normal distribution and activations of every instruction set:
 * largest errors in ulp, and edges.
 *
 * float32 over every SWEEP_STEP-th of all bit patterns against libm's double, float64 over random
 * and edge values against its long double. The engine computes with subnormals flushed to zero, so
 * results below the normal range may be 0, and z times a factor where that factor is. What was found on
 * baseline, AVX2 and AVX-512 with SWEEP_STEP 7 and RANDOM_VALUES 3e6 (`make ulp` has 1 and 2e7), all of it
 * within 2 ulp:
 *
 *                   float32                 float64
 *     exp           1.01                    0.96
 *     expm1         0.94 (below 0)          1.10
 *     log           0.84                    0.93
 *     log1p         1.30                    0.91
 *     tanh          1.31 (AVX2 1.75)        1.30
 *     sigmoid       2.00                    1.97
 *     normal        1.54                    1.76
 *     pow           1.21                    1.25 (to the powers 0.75 and 2.5)
 *     elu           1.98                    1.78
 *     selu          1.74                    1.77
 *     softplus      1.91                    1.62
 *     softsign      1.50                    1.50
 *     hard_sigmoid  1.00                    1.00
 *     hard_silu     1.87                    1.88
 *     silu          1.13                    1.09
 *     gelu          1.84                    1.86
 *     gelu_tanh     1.32                    1.81
 *     mish          1.70                    1.61
 */
#include "base/platform.h"
#include "math_probe.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SWEEP_STEP
#define SWEEP_STEP 331
#endif
#ifndef RANDOM_VALUES
#define RANDOM_VALUES 50000
#endif

typedef long double wide;

enum { CHUNK = 4096, MOST_ISAS = 8 };

static const math_probe *const probes[] = {
    &probe_baseline_float32, &probe_baseline_float64,
#if FR_X86_64
    &probe_avx2_float32,     &probe_avx2_float64,
    &probe_avx512_float32,   &probe_avx512_float64,
#elif FR_AARCH64
    &probe_neon_float32,     &probe_neon_float64,
#endif
};

static double sigmoid(double a) { return 1 / (1 + exp(-a)); }
static wide sigmoidl(wide a) { return 1 / (1 + expl(-a)); }
static double normal(double a) { return erfc(-a * 0.70710678118654752440) / 2; }
/* With what rounding the argument loses, which far out is 0.6 of double's units in the result. */
static wide normall(wide a)
{
    const wide root = 0.70710678118654752440L, rest = 1.8950325588932572e-20L; /* of 1/2 */
    wide x = -a * root, lost = isinf(a) ? 0 : fmal(-a, root, -x) - a * rest;
    return (erfcl(x) - 1.1283791670955125739L * expl(-x * x) * lost) / 2;
}

static double pow_below_1(double a) { return pow(a, 0.75); }
static wide pow_below_1l(wide a) { return powl(a, 0.75L); }
static double pow_above_1(double a) { return pow(a, 2.5); }
static wide pow_above_1l(wide a) { return powl(a, 2.5L); }

/* The activations, in double as they read; with the curve of test.h. A share of 0 wins over -infinity. */
#define NO_SHARE(value) (a < 0 && isinf(a) ? 0 : (value))
#define EXACT(real, suffix)                                                                        \
    static real elu##suffix(real a) { return a > 0 ? a : (real)test_curve.alpha * expm1##suffix(a); } \
    static real selu##suffix(real a)                                                               \
    {                                                                                              \
        const real scale = 1.0507009873554804934193349852946L;                                     \
        const real both = 1.7580993408473768599402175208123L;                                      \
        return a > 0 ? scale * a : both * expm1##suffix(a);                                        \
    }                                                                                              \
    static real softplus##suffix(real a)                                                           \
    {                                                                                              \
        return isnan(a) ? a : fmax##suffix(a, 0) + log1p##suffix(exp##suffix(-fabs##suffix(a)));   \
    }                                                                                              \
    static real hard_sigmoid##suffix(real a)                                                       \
    {                                                                                              \
        return isnan(a) ? a : fmin##suffix(6, fmax##suffix(0, a + 3)) / 6;                         \
    }                                                                                              \
    static real hard_silu##suffix(real a)                                                          \
    {                                                                                              \
        return a < -3 ? 0 : isnan(a) ? a : a * hard_sigmoid##suffix(a);                            \
    }                                                                                              \
    static real softsign##suffix(real a) { return isinf(a) ? NAN : a / (1 + fabs##suffix(a)); }    \
    static real silu##suffix(real a) { return NO_SHARE(a * sigmoid##suffix(a)); }                  \
    static real gelu##suffix(real a) { return NO_SHARE(a * normal##suffix(a)); }                   \
    static real gelu_tanh##suffix(real a)                                                          \
    {                                                                                              \
        const real slope = 1.595769121605730711759784239737515L;                                   \
        return NO_SHARE(a * sigmoid##suffix(slope * (a + (real)0.044715L * a * a * a)));           \
    }                                                                                              \
    static real mish##suffix(real a)                                                               \
    {                                                                                              \
        real e = exp##suffix(a), low = e * (e + 2);                                                \
        return a > 20 ? a : NO_SHARE(a * (low / (low + 2)));                                       \
    }
EXACT(double, )
EXACT(wide, l)

/* A function, the bit patterns of its domain, and its bounds in ulp. */
typedef struct {
    const char *name;
    int activation;  /* the public call, or -1: */
    ptrdiff_t probe; /* the member of math_probe */
    double (*exact)(double);
    wide (*exact_wide)(wide);
    uint32_t first, last;
    double low, high;
    double bound[2];
    double flush; /* times the smallest normal number: below that results may be 0 */
} function;

enum { EXP, EXPM1, LOG, LOG1P, TANH, SIGMOID, NORMAL, POW_BELOW_1, POW_ABOVE_1, ELU, SELU, SOFTPLUS, SOFTSIGN, HARD_SIGMOID,
       HARD_SILU, SILU, GELU, GELU_TANH, MISH, N_FUNCTIONS };
static const function functions[N_FUNCTIONS] = {
    {"exp", -1, offsetof(math_probe, exp), exp, expl, 0, UINT32_MAX, -INFINITY, INFINITY,
     {1.1, 1.1}, 1.0001},
    {"expm1", -1, offsetof(math_probe, expm1), expm1, expm1l, 0x80000000, UINT32_MAX, -INFINITY, 0,
     {1.2, 1.2}, 1.0001},
    {"log", -1, offsetof(math_probe, log), log, logl, 0x00800000, 0x7F800000, DBL_MIN, INFINITY,
     {0.9, 1.0}, 1.0001},
    {"log1p", -1, offsetof(math_probe, log1p), log1p, log1pl, 0, 0x3F800000, 0, 1, {1.3, 1.0}, 1.0001},
    {"tanh", FR_ACTIVATION_tanh, 0, tanh, tanhl, 0, UINT32_MAX, -INFINITY, INFINITY, {1.8, 1.5}, 1.0001},
    {"sigmoid", FR_ACTIVATION_sigmoid, 0, sigmoid, sigmoidl, 0, UINT32_MAX, -INFINITY, INFINITY,
     {2, 2}, 1.0001},
    {"normal", -1, offsetof(math_probe, normal), normal, normall, 0, UINT32_MAX, -INFINITY, INFINITY,
     {2, 2}, 1.0001},
    {"pow 0.75", -1, offsetof(math_probe, pow_below_1), pow_below_1, pow_below_1l, 0x00800000,
     0x7F800000, DBL_MIN, INFINITY, {1.3, 1.3}, 1.0001},
    {"pow 2.5", -1, offsetof(math_probe, pow_above_1), pow_above_1, pow_above_1l, 0x00800000, 0x7F800000,
     DBL_MIN, INFINITY, {1.3, 1.3}, 1.0001},
    /* What is made of them. */
    {"elu", FR_ACTIVATION_elu, 0, elu, elul, 0, UINT32_MAX, -INFINITY, INFINITY, {2, 2}, 1.0001},
    {"selu", FR_ACTIVATION_selu, 0, selu, selul, 0, UINT32_MAX, -INFINITY, INFINITY, {2, 2}, 2},
    {"softplus", FR_ACTIVATION_softplus, 0, softplus, softplusl, 0, UINT32_MAX, -INFINITY, INFINITY,
     {2, 2}, 1.0001},
    {"softsign", FR_ACTIVATION_softsign, 0, softsign, softsignl, 0, UINT32_MAX, -INFINITY, INFINITY,
     {2, 2}, 1.0001},
    {"hard_sigmoid", FR_ACTIVATION_hard_sigmoid, 0, hard_sigmoid, hard_sigmoidl, 0, UINT32_MAX,
     -INFINITY, INFINITY, {2, 2}, 1.0001},
    {"hard_silu", FR_ACTIVATION_hard_silu, 0, hard_silu, hard_silul, 0, UINT32_MAX, -1e30, INFINITY,
     {2, 2}, 1.0001},
    /* 0 where the factor of z is below the normal range. */
    {"silu", FR_ACTIVATION_silu, 0, silu, silul, 0, UINT32_MAX, -1e30, INFINITY, {2, 2}, 800},
    {"gelu", FR_ACTIVATION_gelu, 0, gelu, gelul, 0, UINT32_MAX, -1e30, INFINITY, {2, 2}, 40},
    {"gelu_tanh", FR_ACTIVATION_gelu_tanh, 0, gelu_tanh, gelu_tanhl, 0, UINT32_MAX, -1e30, INFINITY,
     {2, 2}, 40},
    {"mish", FR_ACTIVATION_mish, 0, mish, mishl, 0, UINT32_MAX, -1e30, INFINITY, {2, 2}, 800},
};

/* y = f(x) as the engine computes it, under the instruction set that is chosen. */
static void compute(const function *f, fr_dtype dtype, ptrdiff_t n, const void *x, void *y)
{
    if (f->activation >= 0) {
        CHECK(fr_activation_forward(dtype, 1, n, x, f->activation, test_curve, y) == FR_OK, "%s", f->name);
        return;
    }
    for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++) {
        if (probes[i]->dtype != dtype || strcmp(probes[i]->isa, fr_isa()) != 0) continue;
        math_function *call;
        memcpy(&call, (const char *)probes[i] + f->probe, sizeof call);
        fr_float_state before = fr_flush_to_zero();
        call(n, x, y);
        fr_float_restore(before);
    }
}

/* ---- errors in ulp ---- */

static double ulp_error_float(float got, double exact, double flush)
{
    if (isnan(exact)) return isnan(got) ? 0 : INFINITY;
    double size = fabs(exact), gap = fabs((double)got - exact);
    if (size < flush * (double)FLT_MIN)
        return gap <= size || gap <= 1e-4 * (double)FLT_MIN ? 0 : INFINITY;
    if (isinf(got)) return size > (double)FLT_MAX && (got > 0) == (exact > 0) ? 0 : INFINITY;
    /* 2^(exponent - 23), with the exponent's bits of the double */
    uint64_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits = (bits & 0x7FF0000000000000u) - ((uint64_t)23 << 52);
    double ulp;
    memcpy(&ulp, &bits, sizeof ulp);
    return gap / ulp;
}

static double ulp_error_double(double got, wide exact, double flush)
{
    if (isnan(exact)) return isnan(got) ? 0 : INFINITY;
    wide size = fabsl(exact), gap = fabsl((wide)got - exact);
    if (size < (wide)flush * DBL_MIN) return gap <= size || gap <= 1e-4L * DBL_MIN ? 0 : INFINITY;
    if (isinf(got)) return size > DBL_MAX && (got > 0) == (exact > 0) ? 0 : INFINITY;
    int exponent;
    frexpl(size, &exponent);
    return (double)(gap / ldexpl(1, exponent - DBL_MANT_DIG));
}

typedef struct {
    double error[MOST_ISAS], where[MOST_ISAS];
} worst;

static void keep_worst(worst *w, int isa, double error, double where)
{
    if (error <= w->error[isa]) return;
    w->error[isa] = error;
    w->where[isa] = where;
}

static bool choose(int isa)
{
    return fr_isa_choose(fr_isa_built(isa)) == FR_OK && strcmp(fr_isa(), fr_isa_built(isa)) == 0;
}

static void chunk_float(const function *f, const float *x, ptrdiff_t n, worst *w)
{
    static float y[CHUNK];
    static double exact[CHUNK];
    for (ptrdiff_t i = 0; i < n; i++) exact[i] = f->exact((double)x[i]);
    for (int isa = 0; fr_isa_built(isa); isa++) {
        if (!choose(isa)) continue;
        compute(f, FR_FLOAT32, n, x, y);
        for (ptrdiff_t i = 0; i < n; i++)
            keep_worst(w, isa, ulp_error_float(y[i], exact[i], f->flush), (double)x[i]);
    }
}

static void chunk_double(const function *f, const double *x, ptrdiff_t n, worst *w)
{
    static double y[CHUNK];
    static wide exact[CHUNK];
    for (ptrdiff_t i = 0; i < n; i++) exact[i] = f->exact_wide((wide)x[i]);
    for (int isa = 0; fr_isa_built(isa); isa++) {
        if (!choose(isa)) continue;
        compute(f, FR_FLOAT64, n, x, y);
        for (ptrdiff_t i = 0; i < n; i++)
            keep_worst(w, isa, ulp_error_double(y[i], exact[i], f->flush), x[i]);
    }
}

static worst sweep_float(const function *f)
{
    static float x[CHUNK];
    worst w = {{0}, {0}};
    ptrdiff_t n = 0;
    for (uint64_t pattern = f->first; pattern <= f->last; pattern += SWEEP_STEP) {
        uint32_t bits = (uint32_t)pattern;
        memcpy(&x[n++], &bits, sizeof bits);
        if (n < CHUNK && pattern + SWEEP_STEP <= f->last) continue;
        chunk_float(f, x, n, &w);
        n = 0;
    }
    return w;
}

/* A value of the domain: of any size, of everyday size, or at a place where reductions meet. */
static double random_double(const function *f)
{
    for (;;) {
        double a = 0;
        switch (test_below(5)) {
        case 0: a = ldexp(test_uniform(-2, 2), (int)test_below(2100) - 1075); break;
        case 1: a = test_uniform(-750, 750); break;
        case 2: a = test_uniform(-40, 40); break;
        case 3: a = test_uniform(-2, 2); break;
        case 4: {
            static const double joints[] = {0.34657359027997264, 0.625, 0.70710678118654757,
                                            1.4142135623730951, 1};
            a = joints[test_below(5)] * (double)(test_below(2100) - 1050);
            a += a * test_uniform(-4, 4) * DBL_EPSILON;
        }
        }
        if (a >= f->low && a <= f->high) return a;
    }
}

static worst sweep_double(const function *f)
{
    static double x[CHUNK];
    worst w = {{0}, {0}};
    for (long done = 0; done < RANDOM_VALUES; done += CHUNK) {
        for (int i = 0; i < CHUNK; i++) x[i] = random_double(f);
        chunk_double(f, x, CHUNK, &w);
    }
    return w;
}

static void check_errors(const function *f, fr_dtype dtype, const worst *w)
{
    printf("  %-12s %s largest error in ulp:", f->name, name_of(dtype));
    for (int isa = 0; fr_isa_built(isa); isa++) {
        if (choose(isa)) printf("  %s %.3f", fr_isa(), w->error[isa]);
    }
    printf("\n");
    for (int isa = 0; fr_isa_built(isa); isa++) {
        if (!choose(isa)) continue;
        test_case("%s %s %s", f->name, name_of(dtype), fr_isa());
        CHECK(w->error[isa] <= f->bound[dtype], "%.3f ulp at %.17g, bound %g", w->error[isa],
              w->where[isa], f->bound[dtype]);
    }
}

/* ---- edges ---- */

static double value_of(const function *f, fr_dtype dtype, double a)
{
    /* In every lane, so that no vector's tail hides one. */
    double x[16], y[16];
    for (int i = 0; i < 16; i++) put(dtype, x, i, a);
    compute(f, dtype, 16, x, y);
    for (int i = 1; i < 16; i++) {
        double first = get(dtype, y, 0), other = get(dtype, y, i);
        CHECK(first == other || (isnan(first) && isnan(other)), "%s(%g) lane %d", f->name, a, i);
    }
    return get(dtype, y, 0);
}

static void check_edges(fr_dtype dtype)
{
    static const struct {
        int f;
        double in, out;
    } edges[] = {
        {EXP, NAN, NAN},         {EXP, INFINITY, INFINITY}, {EXP, -INFINITY, 0},
        {EXP, 0.0, 1},           {EXP, -0.0, 1},            {EXP, 800, INFINITY},
        {EXP, -800, 0},          {LOG, NAN, NAN},           {LOG, INFINITY, INFINITY},
        {LOG, 1, 0},             {LOG1P, NAN, NAN},         {LOG1P, 0, 0},
        {TANH, NAN, NAN},        {TANH, INFINITY, 1},       {TANH, -INFINITY, -1},
        {TANH, 0.0, 0},          {TANH, -0.0, 0},           {TANH, 1e30, 1},
        {TANH, -1e30, -1},       {SIGMOID, NAN, NAN},       {SIGMOID, INFINITY, 1},
        {SIGMOID, -INFINITY, 0}, {SIGMOID, 0.0, 0.5},       {SIGMOID, -0.0, 0.5},
        {SIGMOID, 1e30, 1},      {SIGMOID, -1e30, 0},       {SILU, NAN, NAN},
        {SILU, INFINITY, INFINITY},           {SILU, -INFINITY, 0},
        {SILU, -1e38, 0},        {GELU, NAN, NAN},
        {GELU, INFINITY, INFINITY},           {GELU, -INFINITY, 0},
        {GELU_TANH, NAN, NAN},   {GELU_TANH, INFINITY, INFINITY},
        {GELU_TANH, -INFINITY, 0},            {MISH, NAN, NAN},
        {MISH, INFINITY, INFINITY},           {MISH, -INFINITY, 0},
        {MISH, -1e38, 0},        {HARD_SILU, NAN, NAN},     {HARD_SILU, -INFINITY, 0},
    };
    test_case("edges %s %s", name_of(dtype), fr_isa());
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        const function *f = &functions[edges[i].f];
        double got = value_of(f, dtype, edges[i].in);
        CHECK(got == edges[i].out || (isnan(got) && isnan(edges[i].out)), "%s(%g) = %g, not %g",
              f->name, edges[i].in, got, edges[i].out);
    }
    double smallest = smallest_of(dtype), largest = dtype == FR_FLOAT32 ? (double)FLT_MAX : DBL_MAX;
    /* Just inside and just outside of exp's range, and the ends of log's. */
    CHECK(isfinite(value_of(&functions[EXP], dtype, log(largest) * (1 - 1e-7))),
          "exp near overflow");
    CHECK(value_of(&functions[EXP], dtype, log(largest) * (1 + 1e-6)) == INFINITY, "exp overflow");
    CHECK(value_of(&functions[EXP], dtype, log(smallest) * (1 - 1e-7)) > 0, "exp near underflow");
    CHECK(value_of(&functions[EXP], dtype, log(smallest) * (1 + 1e-6)) == 0, "exp underflow");
    double unit = unit_of(dtype);
    CHECK(fabs(value_of(&functions[LOG], dtype, smallest) / log(smallest) - 1) < 4 * unit,
          "log low");
    CHECK(fabs(value_of(&functions[LOG], dtype, largest) / log(largest) - 1) < 4 * unit,
          "log high");
}

/* Softmax: shares of the row, whatever the size of its values. */
static void check_softmax(fr_dtype dtype)
{
    double z[33], y[33];
    for (int n = 1; n <= 33; n++) {
        test_case("softmax n %d %s %s", n, name_of(dtype), fr_isa());
        double shift = n % 3 == 0 ? 1e4 : n % 3 == 1 ? -1e4 : 0;
        for (int i = 0; i < n; i++) put(dtype, z, i, shift + (double)test_below(2000) / 64 - 10);
        fr_activation_forward(dtype, 1, n, z, FR_ACTIVATION_softmax, test_curve, y);
        wide largest = -INFINITY, sum = 0;
        for (int i = 0; i < n; i++) largest = fmaxl(largest, get(dtype, z, i));
        for (int i = 0; i < n; i++) sum += expl(get(dtype, z, i) - largest);
        double error = 0;
        for (int i = 0; i < n; i++) {
            wide exact = expl(get(dtype, z, i) - largest) / sum;
            error = fmax(error, (double)(fabsl(get(dtype, y, i) - exact) / exact));
        }
        /* the differences are exact here; exponential 8, sum n, inverse and product 3 units */
        CHECK(error <= (n + 11) * unit_of(dtype), "relative error %g", error);
    }
    double row[3] = {0, 0, 0}, out[3];
    put(dtype, row, 0, 3), put(dtype, row, 1, -INFINITY), put(dtype, row, 2, 3);
    fr_activation_forward(dtype, 1, 3, row, FR_ACTIVATION_softmax, test_curve, out);
    CHECK(get(dtype, out, 0) == 0.5 && get(dtype, out, 1) == 0, "softmax with -inf");
    static const double bad[] = {NAN, INFINITY};
    for (int i = 0; i < 6; i++) {
        put(dtype, row, 0, 1), put(dtype, row, 1, 2), put(dtype, row, 2, 3);
        put(dtype, row, i % 3, bad[i / 3]);
        fr_activation_forward(dtype, 1, 3, row, FR_ACTIVATION_softmax, test_curve, out);
        for (int j = 0; j < 3; j++)
            CHECK(isnan(get(dtype, out, j)), "softmax with %g at %d gives %g at %d", bad[i / 3],
                  i % 3, get(dtype, out, j), j);
    }
}

void test_math(void)
{
    for (const function *f = functions; f < functions + N_FUNCTIONS; f++) {
        worst w = sweep_float(f);
        check_errors(f, FR_FLOAT32, &w);
        w = sweep_double(f);
        check_errors(f, FR_FLOAT64, &w);
    }
    test_each_target(check_edges);
    test_each_target(check_softmax);
}
