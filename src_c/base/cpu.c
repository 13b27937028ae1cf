#define _GNU_SOURCE
#include "cpu.h"
#include "platform.h"

#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

bool fr_cpu_runs(fr_isa_level level)
{
    if (level == FR_ISA_BASELINE) return true;
#if FR_X86_64
    /* libgcc and compiler-rt ask CPUID and XGETBV both. */
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (level == FR_ISA_AVX2) return avx2;
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (level == FR_ISA_AVX512) return avx512;
    return level == FR_ISA_AVX512_BFLOAT16 && avx512 && __builtin_cpu_supports("avx512bf16");
#else
    return FR_AARCH64 && level == FR_ISA_NEON; /* part of every AArch64 */
#endif
}

int fr_cpu_count(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (int)count : 1;
}
