/* Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
 * 1, 2, 3"): any number of the stream can be had without the ones before it, so a layer's noise does not
 * depend on tiles or threads. */
#ifndef FR_PHILOX_H
#define FR_PHILOX_H

#include "platform.h"
#include <stdint.h>

/* LANES independent blocks, whose counters differ in the first word only; a plain loop over lanes that
 * the compiler turns into vectors. words[i][lane] is output word i of that lane's block. */
enum { FR_PHILOX_LANES = 16 };

FR_INLINE void fr_philox(uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key,
                         uint32_t words[4][FR_PHILOX_LANES])
{
    for (uint32_t lane = 0; lane < FR_PHILOX_LANES; lane++) {
        uint32_t a = first + lane, b = c1, c = c2, d = c3;
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < 10; round++) {
            uint64_t left = (uint64_t)a * 0xD2511F53u, right = (uint64_t)c * 0xCD9E8D57u;
            a = (uint32_t)(right >> 32) ^ b ^ k0;
            b = (uint32_t)right;
            c = (uint32_t)(left >> 32) ^ d ^ k1;
            d = (uint32_t)left;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        words[0][lane] = a;
        words[1][lane] = b;
        words[2][lane] = c;
        words[3][lane] = d;
    }
}

#endif
