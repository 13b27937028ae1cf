/* The vocabulary of the kernels, one element at a time: the baseline, and the words' definition.
 *
 * The headers beside this one say the same words in vectors; FR_REAL_BITS (32 or 64) says of what.
 * `k` is the number of live lanes, 1..V_LANES: loads put 0 into the rest, stores leave memory there
 * alone. A literal V_LANES folds to the plain instruction.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if FR_REAL_BITS == 32
typedef float real;
typedef uint32_t real_bits;
typedef double wider;
#define SCALAR(function) function##f
#define MANTISSA_BITS 23
#else
typedef double real;
typedef uint64_t real_bits;
typedef long double wider;
#define SCALAR(function) function
#define MANTISSA_BITS 52
#endif
#define EXPONENT_BIAS ((1 << (FR_REAL_BITS - MANTISSA_BITS - 2)) - 1)

typedef real vreal;
#define V_LANES 1

/* Rows of a register tile, two vectors wide. */
#define V_ROWS 4
#define V_ROW_CASES(CASE) CASE(1) CASE(2) CASE(3) CASE(4)

FR_INLINE vreal v_load(const real *p, ptrdiff_t k) { (void)k; return *p; }
FR_INLINE void v_store(real *p, vreal a, ptrdiff_t k) { (void)k; *p = a; }
FR_INLINE vreal v_set(real a) { return a; }
FR_INLINE vreal v_first(vreal a, ptrdiff_t k) { (void)k; return a; } /* 0 past lane k */
FR_INLINE vreal v_add(vreal a, vreal b) { return a + b; }
FR_INLINE vreal v_sub(vreal a, vreal b) { return a - b; }
FR_INLINE vreal v_mul(vreal a, vreal b) { return a * b; }
FR_INLINE vreal v_div(vreal a, vreal b) { return a / b; }
#define V_FUSED 0
FR_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return a * b + c; } /* may round twice */
FR_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return c - a * b; }
/* a b - c and c - a b, rounded once */
FR_INLINE vreal v_excess(vreal a, vreal b, vreal c) { return (vreal)((wider)a * b - c); }
FR_INLINE vreal v_residual(vreal a, vreal b, vreal c) { return (vreal)(c - (wider)a * b); }
FR_INLINE vreal v_sqrt(vreal a) { return SCALAR(sqrt)(a); }
/* 1 where v_rsqrt_estimate and v_reciprocal_estimate, to 11 bits at least, and a Newton step may beat v_sqrt
 * and v_div. */
#define V_ESTIMATES 0
FR_INLINE vreal v_abs(vreal a) { return SCALAR(fabs)(a); }
FR_INLINE vreal v_max(vreal a, vreal b) { return a > b ? a : b; } /* b where either is NaN */
FR_INLINE vreal v_min(vreal a, vreal b) { return a < b ? a : b; } /* b where either is NaN */
FR_INLINE vreal v_if_greater(vreal a, vreal b, vreal yes, vreal no) { return a > b ? yes : no; }
/* magnitude >= 0 with the sign of a, and 0 where a is 0 */
FR_INLINE vreal v_signed(vreal magnitude, vreal a)
{
    return a > 0 ? magnitude : a < 0 ? -magnitude : 0;
}
/* magnitude >= 0 with the sign of a, that of 0 and of NaN included */
FR_INLINE vreal v_with_sign(vreal magnitude, vreal a) { return SCALAR(copysign)(magnitude, a); }
FR_INLINE vreal v_round(vreal a) { return SCALAR(rint)(a); }
/* a * 2^n for an integer n within +-2 exponent ranges: in two steps, each a normal power */
FR_INLINE real scalar_power(int n)
{
    real_bits bits = (real_bits)(n + EXPONENT_BIAS) << MANTISSA_BITS;
    real power;
    memcpy(&power, &bits, sizeof power);
    return power;
}
FR_INLINE vreal v_scale(vreal a, vreal n)
{
    int whole = n == n ? (int)n : 0, half = whole / 2; /* NaN has no int; a is NaN then */
    return a * scalar_power(half) * scalar_power(whole - half);
}
/* a > 0 as m * 2^e with m in [1, 2) */
FR_INLINE vreal v_exponent(vreal a) { return (real)SCALAR(ilogb)(a); }
FR_INLINE vreal v_mantissa(vreal a)
{
    real_bits bits;
    memcpy(&bits, &a, sizeof bits);
    bits &= ((real_bits)1 << MANTISSA_BITS) - 1;
    bits |= (real_bits)EXPONENT_BIAS << MANTISSA_BITS;
    memcpy(&a, &bits, sizeof bits);
    return a;
}
#if FR_REAL_BITS == 32
/* table[i], where i are the bits of a around its binary point: the last 2 of the exponent, then of the mantissa
 * as many of the first as V_TABLE entries take. */
#define V_TABLE 32
FR_INLINE vreal v_lookup(const real table[V_TABLE], vreal a)
{
    real_bits bits;
    memcpy(&bits, &a, sizeof bits);
    return table[bits >> 20 & 31];
}
#endif
FR_INLINE double v_sum(vreal a) { return a; } /* over the lanes */
FR_INLINE real v_largest(vreal a) { return a; }

/* 1 where there is v_list, which appends the lanes that are not 0 to value, and their numbers from `first` on
 * to index: there must be room for all. Returns how many; NaN is not 0. */
#define V_LISTS 0
FR_INLINE bool v_any(vreal a) { return a != 0; } /* not all lanes are 0 */

/* Exchanges rows and columns of a square of V_LANES rows. */
FR_INLINE void v_transpose(vreal rows[V_LANES]) { (void)rows; }
