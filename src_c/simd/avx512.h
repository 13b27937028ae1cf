/* scalar.h's words in 512-bit vectors. */
#include <math.h>
#include <stdint.h>

#if FR_REAL_BITS == 32
typedef float real;
typedef __m512 vreal;
typedef __mmask16 vmask;
#define V_LANES 16
#define V_(operation) _mm512_##operation##_ps
#define V_COMPARE _mm512_cmp_ps_mask
#define V_BITS_SIGN _mm512_set1_ps(-0.0f)
#else
typedef double real;
typedef __m512d vreal;
typedef __mmask8 vmask;
#define V_LANES 8
#define V_(operation) _mm512_##operation##_pd
#define V_COMPARE _mm512_cmp_pd_mask
#define V_BITS_SIGN _mm512_set1_pd(-0.0)
#endif

/* Rows of a register tile, two vectors wide: 24 of the 32 registers hold sums. */
#define V_ROWS 12
#define V_ROW_CASES(CASE)                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

FR_INLINE vmask v_live(ptrdiff_t k) { return (vmask)((1u << k) - 1u); }

FR_INLINE vreal v_load(const real *p, ptrdiff_t k)
{
    return k >= V_LANES ? V_(loadu)(p) : V_(maskz_loadu)(v_live(k), p);
}
FR_INLINE void v_store(real *p, vreal a, ptrdiff_t k)
{
    if (k >= V_LANES)
        V_(storeu)(p, a);
    else
        V_(mask_storeu)(p, v_live(k), a);
}
FR_INLINE vreal v_set(real a) { return V_(set1)(a); }
FR_INLINE vreal v_first(vreal a, ptrdiff_t k)
{
    return k >= V_LANES ? a : V_(maskz_mov)(v_live(k), a);
}
FR_INLINE vreal v_add(vreal a, vreal b) { return V_(add)(a, b); }
FR_INLINE vreal v_sub(vreal a, vreal b) { return V_(sub)(a, b); }
FR_INLINE vreal v_mul(vreal a, vreal b) { return V_(mul)(a, b); }
FR_INLINE vreal v_div(vreal a, vreal b) { return V_(div)(a, b); }
#define V_FUSED 1 /* v_fma rounds once */
FR_INLINE vreal v_fma(vreal a, vreal b, vreal c) { return V_(fmadd)(a, b, c); }
FR_INLINE vreal v_fnma(vreal a, vreal b, vreal c) { return V_(fnmadd)(a, b, c); }
FR_INLINE vreal v_excess(vreal a, vreal b, vreal c) { return V_(fmsub)(a, b, c); }
FR_INLINE vreal v_residual(vreal a, vreal b, vreal c) { return v_fnma(a, b, c); }
FR_INLINE vreal v_sqrt(vreal a) { return V_(sqrt)(a); }
#define V_ESTIMATES (FR_REAL_BITS == 32)
FR_INLINE vreal v_rsqrt_estimate(vreal a) { return V_(rsqrt14)(a); }
FR_INLINE vreal v_reciprocal_estimate(vreal a) { return V_(rcp14)(a); }
FR_INLINE vreal v_abs(vreal a) { return V_(abs)(a); }
FR_INLINE vreal v_max(vreal a, vreal b) { return V_(max)(a, b); }
FR_INLINE vreal v_min(vreal a, vreal b) { return V_(min)(a, b); }
FR_INLINE vreal v_if_greater(vreal a, vreal b, vreal yes, vreal no)
{
    return V_(mask_blend)(V_COMPARE(a, b, _CMP_GT_OQ), no, yes);
}
FR_INLINE vreal v_signed(vreal magnitude, vreal a)
{
    vmask nonzero = V_COMPARE(a, V_(setzero)(), _CMP_NEQ_OQ);
    return V_(maskz_or)(nonzero, magnitude, V_(and)(a, V_BITS_SIGN));
}
FR_INLINE vreal v_with_sign(vreal magnitude, vreal a)
{
#if FR_REAL_BITS == 32
    __m512i sign = _mm512_castps_si512(V_BITS_SIGN), bits = _mm512_castps_si512(a);
    /* magnitude | (a & sign) */
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_castps_si512(magnitude), bits, sign, 0xF8));
#else
    return V_(or)(magnitude, V_(and)(a, V_BITS_SIGN));
#endif
}
FR_INLINE vreal v_round(vreal a)
{
    return V_(roundscale)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FR_INLINE vreal v_scale(vreal a, vreal n) { return V_(scalef)(a, n); }
FR_INLINE vreal v_exponent(vreal a) { return V_(getexp)(a); }
FR_INLINE vreal v_mantissa(vreal a)
{
    return V_(getmant)(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}
#if FR_REAL_BITS == 32
#define V_TABLE 32
FR_INLINE vreal v_lookup(const real table[V_TABLE], vreal a)
{
    __m512i index = _mm512_srli_epi32(_mm512_castps_si512(a), 20); /* its last 5 bits count */
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
}
#endif
FR_INLINE double v_sum(vreal a)
{
#if FR_REAL_BITS == 32
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
#else
    return _mm512_reduce_add_pd(a);
#endif
}
FR_INLINE real v_largest(vreal a) { return V_(reduce_max)(a); }

#define V_LISTS 1
FR_INLINE ptrdiff_t v_list(vreal a, int32_t first, real *value, int32_t *index)
{
    vmask listed = V_COMPARE(a, V_(setzero)(), _CMP_NEQ_UQ);
    /* Compressed in a register: to memory it is an instruction of some 100 steps on AMD's Zen 4. */
    V_(storeu)(value, V_(maskz_compress)(listed, a));
#if FR_REAL_BITS == 32
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    lane = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
    _mm512_storeu_si512(index, _mm512_maskz_compress_epi32(listed, lane));
#else
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    lane = _mm256_add_epi32(lane, _mm256_set1_epi32(first));
    _mm256_storeu_si256((__m256i *)index, _mm256_maskz_compress_epi32(listed, lane));
#endif
    return _mm_popcnt_u32(listed);
}

/* Exchanges rows and columns of a square of V_LANES rows: for each power of two s, the lanes with bit s
 * of the rows without it against the lanes without it of the rows s further down. */
FR_INLINE void v_transpose(vreal rows[V_LANES])
{
#if FR_REAL_BITS == 32
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#define V_INTEGER_(operation) _mm512_##operation##_epi32
#define V_TEST _mm512_test_epi32_mask
#else
    const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
#define V_INTEGER_(operation) _mm512_##operation##_epi64
#define V_TEST _mm512_test_epi64_mask
#endif
    FR_UNROLL
    for (int s = 1; s < V_LANES; s *= 2) {
        const vmask odd = V_TEST(lane, V_INTEGER_(set1)(s));
        /* lanes V_LANES.. name those of the second operand */
        const __m512i upper =
            V_INTEGER_(mask_add)(lane, odd, lane, V_INTEGER_(set1)(V_LANES - s));
        const __m512i lower = V_INTEGER_(mask_add)(
            V_INTEGER_(add)(lane, V_INTEGER_(set1)(s)), odd, lane, V_INTEGER_(set1)(V_LANES));
        FR_UNROLL
        for (int r = 0; r < V_LANES; r++) {
            if (r & s) continue;
            vreal a = rows[r], b = rows[r + s];
            rows[r] = V_(permutex2var)(a, upper, b);
            rows[r + s] = V_(permutex2var)(a, lower, b);
        }
    }
}
