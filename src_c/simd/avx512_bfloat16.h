/* Words on pairs of bfloat16, beside those of avx512.h. */

/* c + the products of both halves of each lane, summed in float32; subnormals count as 0. */
FR_INLINE vreal v_dot(vreal a, vreal b, vreal c)
{
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
/* Both vectors rounded to nearest even, one after the other: V_LANES pairs. */
FR_INLINE vreal v_round_pairs(vreal low, vreal high)
{
    return (vreal)_mm512_cvtne2ps_pbh(high, low);
}

/* The first (second) half of a's bfloat16, each with b's beside it. */
FR_INLINE vreal v_zip(vreal a, vreal b, short first)
{
    short from[32];
    for (short i = 0; i < 32; i++) from[i] = (short)(first + i / 2 + i % 2 * 32);
    __m512i lanes = _mm512_loadu_si512(from);
    return (vreal)_mm512_permutex2var_epi16((__m512i)a, lanes, (__m512i)b);
}
FR_INLINE vreal v_zip_low(vreal a, vreal b) { return v_zip(a, b, 0); }
FR_INLINE vreal v_zip_high(vreal a, vreal b) { return v_zip(a, b, 16); }
