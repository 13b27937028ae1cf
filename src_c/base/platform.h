/* The only file with compiler and operating-system #ifdefs. */
#ifndef FR_PLATFORM_H
#define FR_PLATFORM_H

#include <stdint.h>

#if defined(__x86_64__)
#define FR_X86_64 1
#include <immintrin.h>
#else
#define FR_X86_64 0
#endif
#if defined(__aarch64__)
#define FR_AARCH64 1
#include <arm_neon.h>
#else
#define FR_AARCH64 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define FR_INLINE static inline __attribute__((always_inline))
#define FR_UNUSED __attribute__((unused))
#define FR_HIDDEN __attribute__((visibility("hidden")))
#else
#define FR_INLINE static inline
#define FR_UNUSED
#define FR_HIDDEN
#endif

/* Brings a cache line into L2; any address will do. */
#if defined(__GNUC__)
#define FR_FETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define FR_FETCH(address) ((void)(address))
#endif

/* Compile what stands between BEGIN and END for an instruction set that the rest of the program does
 * not assume. clang has no `#pragma GCC target`. */
#define FR_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FR_UNROLL _Pragma("clang loop unroll(full)")
#define FR_TARGET_BEGIN(features)                                                                  \
    FR_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FR_TARGET_END FR_PRAGMA(clang attribute pop)
#else
#define FR_UNROLL _Pragma("GCC unroll 16")
#define FR_TARGET_BEGIN(features)                                                                  \
    FR_PRAGMA(GCC push_options)                                                                    \
    FR_PRAGMA(GCC target(features))
#define FR_TARGET_END FR_PRAGMA(GCC pop_options)
#endif

/* Flush-to-zero: subnormal activations and moments made a training step 3x slower in measurement.
 * Set on entry of an engine call, on each thread that works for it, and put back on return. */
#if FR_X86_64
typedef unsigned int fr_float_state;
FR_INLINE fr_float_state fr_flush_to_zero(void)
{
    fr_float_state before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u); /* FTZ and DAZ */
    return before;
}
FR_INLINE void fr_float_restore(fr_float_state before)
{
    /* Bits 0..5 are sticky exception flags: the caller keeps those it had. */
    _mm_setcsr(before);
}
FR_INLINE void fr_spin_pause(void) { _mm_pause(); }
#elif FR_AARCH64
typedef uint64_t fr_float_state;
FR_INLINE fr_float_state fr_flush_to_zero(void)
{
    fr_float_state before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1ull << 24)));
    return before;
}
FR_INLINE void fr_float_restore(fr_float_state before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
FR_INLINE void fr_spin_pause(void) { __asm__ volatile("yield"); }
#else
typedef int fr_float_state;
FR_INLINE fr_float_state fr_flush_to_zero(void) { return 0; }
FR_INLINE void fr_float_restore(fr_float_state before) { (void)before; }
FR_INLINE void fr_spin_pause(void) {}
#endif

#endif
