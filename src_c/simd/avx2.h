/* scalar.h's words in 256-bit vectors, with FMA. */
#include <math.h>
#include <stdint.h>

#if FR_REAL_BITS == 32
typedef float real;
typedef __m256 vreal;
#define V_LANES 8
#define V_(operation) _mm256_##operation##_ps
#define V_AS_INTEGER _mm256_castps_si256
#define V_AS_REAL _mm256_castsi256_ps
#define V_BITS_SIGN _mm256_set1_ps(-0.0f)
#else
typedef double real;
typedef __m256d vreal;
#define V_LANES 4
#define V_(operation) _mm256_##operation##_pd
#define V_AS_INTEGER _mm256_castpd_si256
#define V_AS_REAL _mm256_castsi256_pd
#define V_BITS_SIGN _mm256_set1_pd(-0.0)
#endif

/* Rows of a register tile, two vectors wide: 12 of the 16 registers hold sums. */
#define V_ROWS 6
#define V_ROW_CASES(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)

FR_INLINE __m256i v_live(ptrdiff_t k)
{
#if FR_REAL_BITS == 32
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#else
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)k), _mm256_setr_epi64x(0, 1, 2, 3));
#endif
}
FR_INLINE vreal v_load(const real *p, ptrdiff_t k)
{
    return k >= V_LANES ? V_(loadu)(p) : V_(maskload)(p, v_live(k));
}
/* A masked store is some 40 micro-operations on AMD's Zen: pieces of half the size instead. */
FR_INLINE void v_store_first(real *p, vreal a, ptrdiff_t k)
{
#if FR_REAL_BITS == 32
    __m128 part = _mm256_castps256_ps128(a);
    if (k & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (k & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (k & 1) _mm_store_ss(p, part);
#else
    __m128d part = _mm256_castpd256_pd128(a);
    if (k & 2) {
        _mm_storeu_pd(p, part);
        part = _mm256_extractf128_pd(a, 1);
        p += 2;
    }
    if (k & 1) _mm_store_sd(p, part);
#endif
}
FR_INLINE void v_store(real *p, vreal a, ptrdiff_t k)
{
    if (k >= V_LANES)
        V_(storeu)(p, a);
    else
        v_store_first(p, a, k);
}
FR_INLINE vreal v_set(real a) { return V_(set1)(a); }
FR_INLINE vreal v_first(vreal a, ptrdiff_t k)
{
    return k >= V_LANES ? a : V_(and)(a, V_AS_REAL(v_live(k)));
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
#define V_ESTIMATES 0 /* the exact ones are as fast here, and have the same bits on every CPU */
FR_INLINE vreal v_abs(vreal a) { return V_(andnot)(V_BITS_SIGN, a); }
FR_INLINE vreal v_max(vreal a, vreal b) { return V_(max)(a, b); }
FR_INLINE vreal v_min(vreal a, vreal b) { return V_(min)(a, b); }
FR_INLINE vreal v_if_greater(vreal a, vreal b, vreal yes, vreal no)
{
    return V_(blendv)(no, yes, V_(cmp)(a, b, _CMP_GT_OQ));
}
FR_INLINE vreal v_signed(vreal magnitude, vreal a)
{
    vreal nonzero = V_(cmp)(a, V_(setzero)(), _CMP_NEQ_OQ);
    return V_(and)(nonzero, V_(or)(magnitude, V_(and)(a, V_BITS_SIGN)));
}
FR_INLINE vreal v_with_sign(vreal magnitude, vreal a)
{
    return V_(or)(magnitude, V_(and)(a, V_BITS_SIGN));
}
FR_INLINE vreal v_round(vreal a)
{
    return V_(round)(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* The exponent field as an integer in the low bits of each lane, and back. */
#if FR_REAL_BITS == 32
#define V_MANTISSA 0x007FFFFF
#define V_ONE 0x3F800000
#define V_INTEGERS(a) _mm256_set1_epi32(a)
FR_INLINE vreal v_power(__m256i n)
{
    return V_AS_REAL(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
FR_INLINE vreal v_scale(vreal a, vreal n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return v_mul(v_mul(a, v_power(half)), v_power(_mm256_sub_epi32(whole, half)));
}
FR_INLINE vreal v_exponent(vreal a)
{
    __m256i biased = _mm256_srli_epi32(V_AS_INTEGER(a), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
}
#else
#define V_MANTISSA 0x000FFFFFFFFFFFFFll
#define V_ONE 0x3FF0000000000000ll
#define V_INTEGERS(a) _mm256_set1_epi64x(a)
FR_INLINE vreal v_power(__m128i n)
{
    __m256i biased = _mm256_cvtepi32_epi64(_mm_add_epi32(n, _mm_set1_epi32(1023)));
    return V_AS_REAL(_mm256_slli_epi64(biased, 52));
}
FR_INLINE vreal v_scale(vreal a, vreal n)
{
    __m128i whole = _mm256_cvtpd_epi32(n), half = _mm_srai_epi32(whole, 1);
    return v_mul(v_mul(a, v_power(half)), v_power(_mm_sub_epi32(whole, half)));
}
FR_INLINE vreal v_exponent(vreal a)
{
    /* 2^52 + biased exponent, read as a double, minus 2^52 and the bias: AVX2 converts no int64. */
    __m256i biased = _mm256_srli_epi64(V_AS_INTEGER(a), 52);
    vreal shifted = V_AS_REAL(_mm256_or_si256(biased, V_AS_INTEGER(v_set(4503599627370496.0))));
    return v_sub(shifted, v_set(4503599627370496.0 + 1023.0));
}
#endif
FR_INLINE vreal v_mantissa(vreal a)
{
    __m256i fraction = _mm256_and_si256(V_AS_INTEGER(a), V_INTEGERS(V_MANTISSA));
    return V_AS_REAL(_mm256_or_si256(fraction, V_INTEGERS(V_ONE)));
}
#if FR_REAL_BITS == 32
#define V_TABLE 8 /* of one register: with 16 entries tanh takes a third longer */
FR_INLINE vreal v_lookup(const real table[V_TABLE], vreal a)
{
    __m256i index = _mm256_srli_epi32(V_AS_INTEGER(a), 22); /* its last 3 bits count */
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
}
#endif
FR_INLINE double v_sum(vreal a)
{
#if FR_REAL_BITS == 32
    __m256d four = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                                 _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
#else
    __m256d four = a;
#endif
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
FR_INLINE real v_largest(vreal a)
{
    real lanes[V_LANES];
    v_store(lanes, a, V_LANES);
    real largest = lanes[0];
    for (int i = 1; i < V_LANES; i++) largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

#define V_LISTS 1
/* The lanes that a mask has, from the lowest on, a byte each. */
#define LANE(m, i) ((uint64_t)(i) * ((m) >> (i)&1) << 8 * __builtin_popcount((m) & ((1 << (i)) - 1)))
#define LANES_OF(m)                                                                                \
    (LANE(m, 1) | LANE(m, 2) | LANE(m, 3) | LANE(m, 4) | LANE(m, 5) | LANE(m, 6) | LANE(m, 7))
#define FOUR(m) LANES_OF(m), LANES_OF((m) + 1), LANES_OF((m) + 2), LANES_OF((m) + 3)
#define SIXTEEN(m) FOUR(m), FOUR((m) + 4), FOUR((m) + 8), FOUR((m) + 12)
#define SIXTY_FOUR(m) SIXTEEN(m), SIXTEEN((m) + 16), SIXTEEN((m) + 32), SIXTEEN((m) + 48)
static const uint64_t lanes_of[256] = {SIXTY_FOUR(0), SIXTY_FOUR(64), SIXTY_FOUR(128), SIXTY_FOUR(192)};
#undef LANE
#undef LANES_OF
#undef FOUR
#undef SIXTEEN
#undef SIXTY_FOUR

FR_INLINE ptrdiff_t v_list(vreal a, int32_t first, real *value, int32_t *index)
{
    int listed = V_(movemask)(V_(cmp)(a, V_(setzero)(), _CMP_NEQ_UQ));
    __m128i lanes = _mm_cvtsi64_si128((long long)lanes_of[listed]);
#if FR_REAL_BITS == 32
    __m256i lane = _mm256_cvtepu8_epi32(lanes);
    V_(storeu)(value, _mm256_permutevar8x32_ps(a, lane));
    _mm256_storeu_si256((__m256i *)index, _mm256_add_epi32(lane, _mm256_set1_epi32(first)));
#else
    /* a double as two floats: of lane l those at 2 l and 2 l + 1 */
    __m256i twice = _mm256_slli_epi64(_mm256_cvtepu8_epi64(lanes), 1);
    __m256i next = _mm256_slli_epi64(_mm256_add_epi64(twice, _mm256_set1_epi64x(1)), 32);
    __m256 halves = _mm256_permutevar8x32_ps(_mm256_castpd_ps(a), _mm256_or_si256(twice, next));
    V_(storeu)(value, _mm256_castps_pd(halves));
    _mm_storeu_si128((__m128i *)index, _mm_add_epi32(_mm_cvtepu8_epi32(lanes), _mm_set1_epi32(first)));
#endif
    return __builtin_popcount((unsigned)listed);
}

/* Exchanges rows and columns of a square of V_LANES rows: by twos, by pairs, then by halves. */
FR_INLINE void v_transpose(vreal rows[V_LANES])
{
    vreal t[V_LANES];
    FR_UNROLL
    for (int r = 0; r < V_LANES; r += 2) {
        t[r] = V_(unpacklo)(rows[r], rows[r + 1]);
        t[r + 1] = V_(unpackhi)(rows[r], rows[r + 1]);
    }
#if FR_REAL_BITS == 32
    vreal u[V_LANES];
    FR_UNROLL
    for (int r = 0; r < V_LANES; r += 4) {
        u[r] = _mm256_shuffle_ps(t[r], t[r + 2], _MM_SHUFFLE(1, 0, 1, 0));
        u[r + 1] = _mm256_shuffle_ps(t[r], t[r + 2], _MM_SHUFFLE(3, 2, 3, 2));
        u[r + 2] = _mm256_shuffle_ps(t[r + 1], t[r + 3], _MM_SHUFFLE(1, 0, 1, 0));
        u[r + 3] = _mm256_shuffle_ps(t[r + 1], t[r + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
#else
    const vreal *u = t;
#endif
    FR_UNROLL
    for (int r = 0; r < V_LANES / 2; r++) {
        rows[r] = V_(permute2f128)(u[r], u[r + V_LANES / 2], 0x20);
        rows[r + V_LANES / 2] = V_(permute2f128)(u[r], u[r + V_LANES / 2], 0x31);
    }
}
