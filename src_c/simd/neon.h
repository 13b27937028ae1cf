/* scalar.h's words in the 128-bit vectors of AArch64. */
#include <math.h>
#include <stdint.h>

#if FR_REAL_BITS == 32
typedef float real;
typedef float32x4_t vreal;
typedef uint32x4_t vbits;
#define V_LANES 4
#define V_(operation) operation##_f32
#define V_BITS_(operation) operation##_u32
#define V_AS_BITS vreinterpretq_u32_f32
#define V_AS_REAL vreinterpretq_f32_u32
#define V_SIGN 0x80000000u
#define V_MANTISSA 0x007FFFFFu
#define V_MANTISSA_BITS 23
#define V_BIAS 127
#else
typedef double real;
typedef float64x2_t vreal;
typedef uint64x2_t vbits;
#define V_LANES 2
#define V_(operation) operation##_f64
#define V_BITS_(operation) operation##_u64
#define V_AS_BITS vreinterpretq_u64_f64
#define V_AS_REAL vreinterpretq_f64_u64
#define V_SIGN 0x8000000000000000ull
#define V_MANTISSA 0x000FFFFFFFFFFFFFull
#define V_MANTISSA_BITS 52
#define V_BIAS 1023
#endif
#define V_BITS_SET(a) V_BITS_(vdupq_n)(a)

/* Rows of a register tile, two vectors wide: 24 of the 32 registers hold sums. */
#define V_ROWS 12
#define V_ROW_CASES(CASE)                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

FR_INLINE vreal v_set(real a) { return V_(vdupq_n)(a); }
FR_INLINE vreal v_load(const real *p, ptrdiff_t k)
{
    if (k >= V_LANES) return V_(vld1q)(p);
    vreal a = V_(vsetq_lane)(p[0], v_set(0), 0);
#if FR_REAL_BITS == 32
    if (k > 1) a = V_(vsetq_lane)(p[1], a, 1);
    if (k > 2) a = V_(vsetq_lane)(p[2], a, 2);
#endif
    return a;
}
FR_INLINE void v_store(real *p, vreal a, ptrdiff_t k)
{
    if (k >= V_LANES) {
        V_(vst1q)(p, a);
        return;
    }
    p[0] = V_(vgetq_lane)(a, 0);
#if FR_REAL_BITS == 32
    if (k > 1) p[1] = V_(vgetq_lane)(a, 1);
    if (k > 2) p[2] = V_(vgetq_lane)(a, 2);
#endif
}
FR_INLINE vreal v_first(vreal a, ptrdiff_t k)
{
    if (k >= V_LANES) return a;
    real lanes[V_LANES];
    V_(vst1q)(lanes, a);
    return v_load(lanes, k);
}
FR_INLINE vreal v_add(vreal a, vreal b) { return V_(vaddq)(a, b); }
FR_INLINE vreal v_sub(vreal a, vreal b) { return V_(vsubq)(a, b); }
FR_INLINE vreal v_mul(vreal a, vreal b) { return V_(vmulq)(a, b); }
FR_INLINE vreal v_div(vreal a, vreal b) { return V_(vdivq)(a, b); }
#define V_FUSED 1 /* v_fma rounds once */
FR_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return V_(vfmaq)(c, a, b); }
FR_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return V_(vfmsq)(c, a, b); }
FR_INLINE vreal v_excess(vreal a, vreal b, vreal c) { return V_(vfmaq)(V_(vnegq)(c), a, b); }
FR_INLINE vreal v_residual(vreal a, vreal b, vreal c) { return v_fnma(a, b, c); }
FR_INLINE vreal v_sqrt(vreal a) { return V_(vsqrtq)(a); }
#define V_ESTIMATES 0 /* 8 bits only */
FR_INLINE vreal v_abs(vreal a) { return V_(vabsq)(a); }
FR_INLINE vreal v_if_greater(vreal a, vreal b, vreal yes, vreal no)
{
    return V_(vbslq)(V_(vcgtq)(a, b), yes, no);
}
/* vmaxq and vminq would give NaN. */
FR_INLINE vreal v_max(vreal a, vreal b) { return v_if_greater(a, b, a, b); }
FR_INLINE vreal v_min(vreal a, vreal b) { return v_if_greater(b, a, a, b); }
FR_INLINE vreal v_signed(vreal magnitude, vreal a)
{
    vbits with_sign = V_BITS_(vorrq)(V_AS_BITS(magnitude),
                                     V_BITS_(vandq)(V_AS_BITS(a), V_BITS_SET(V_SIGN)));
    /* |a| > 0 is false for NaN, too, whose sign says nothing; scalar.h gives 0 there. */
    return V_AS_REAL(V_BITS_(vandq)(V_(vcgtq)(v_abs(a), v_set(0)), with_sign));
}
FR_INLINE vreal v_with_sign(vreal magnitude, vreal a)
{
    return V_(vbslq)(V_BITS_SET(V_SIGN), a, magnitude);
}
FR_INLINE vreal v_round(vreal a) { return V_(vrndnq)(a); }

/* The exponent field as an integer in the low bits of each lane, and back. */
#if FR_REAL_BITS == 32
typedef int32x4_t vinteger;
#define V_INTEGER_(operation) operation##_s32
#define V_AS_INTEGER vreinterpretq_s32_u32
#define V_OF_INTEGER vreinterpretq_u32_s32
#else
typedef int64x2_t vinteger;
#define V_INTEGER_(operation) operation##_s64
#define V_AS_INTEGER vreinterpretq_s64_u64
#define V_OF_INTEGER vreinterpretq_u64_s64
#endif
FR_INLINE vreal v_power(vinteger n)
{
    vinteger biased = V_INTEGER_(vaddq)(n, V_INTEGER_(vdupq_n)(V_BIAS));
    return V_AS_REAL(V_OF_INTEGER(V_INTEGER_(vshlq_n)(biased, V_MANTISSA_BITS)));
}
FR_INLINE vreal v_scale(vreal a, vreal n)
{
#if FR_REAL_BITS == 32
    vinteger whole = vcvtnq_s32_f32(n);
#else
    vinteger whole = vcvtnq_s64_f64(n);
#endif
    vinteger half = V_INTEGER_(vshrq_n)(whole, 1);
    return v_mul(v_mul(a, v_power(half)), v_power(V_INTEGER_(vsubq)(whole, half)));
}
FR_INLINE vreal v_exponent(vreal a)
{
    vbits field = V_BITS_(vshrq_n)(V_AS_BITS(a), V_MANTISSA_BITS);
    vinteger n = V_INTEGER_(vsubq)(V_AS_INTEGER(field), V_INTEGER_(vdupq_n)(V_BIAS));
#if FR_REAL_BITS == 32
    return vcvtq_f32_s32(n);
#else
    return vcvtq_f64_s64(n);
#endif
}
FR_INLINE vreal v_mantissa(vreal a)
{
    vbits fraction = V_BITS_(vandq)(V_AS_BITS(a), V_BITS_SET(V_MANTISSA));
    return V_AS_REAL(V_BITS_(vorrq)(fraction, V_AS_BITS(v_set(1))));
}
#if FR_REAL_BITS == 32
#define V_TABLE 8
FR_INLINE vreal v_lookup(const real table[V_TABLE], vreal a)
{
    /* The index of each byte: 4 i, and its place in the float. */
    vbits index = vandq_u32(vshrq_n_u32(V_AS_BITS(a), 22), V_BITS_SET(V_TABLE - 1));
    index = vmlaq_n_u32(V_BITS_SET(0x03020100u), index, 0x04040404u);
    uint8x16x2_t bytes = {{vreinterpretq_u8_f32(vld1q_f32(table)), vreinterpretq_u8_f32(vld1q_f32(table + 4))}};
    return vreinterpretq_f32_u8(vqtbl2q_u8(bytes, vreinterpretq_u8_u32(index)));
}
#endif
FR_INLINE double v_sum(vreal a)
{
#if FR_REAL_BITS == 32
    return vaddvq_f64(vaddq_f64(vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)));
#else
    return vaddvq_f64(a);
#endif
}
FR_INLINE real v_largest(vreal a) { return V_(vmaxvq)(a); }

#define V_LISTS 0
FR_INLINE bool v_any(vreal a)
{
    return vminvq_u32((uint32x4_t)V_(vceqzq)(a)) == 0;
}

/* Exchanges rows and columns of a square of V_LANES rows: by twos, then by halves. */
FR_INLINE void v_transpose(vreal rows[V_LANES])
{
#if FR_REAL_BITS == 32
    float32x4_t a = vtrn1q_f32(rows[0], rows[1]), b = vtrn2q_f32(rows[0], rows[1]);
    float32x4_t c = vtrn1q_f32(rows[2], rows[3]), d = vtrn2q_f32(rows[2], rows[3]);
    rows[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    rows[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    rows[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    rows[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
#else
    float64x2_t a = rows[0];
    rows[0] = vtrn1q_f64(a, rows[1]);
    rows[1] = vtrn2q_f64(a, rows[1]);
#endif
}
