#ifndef FR_CPU_H
#define FR_CPU_H

#include <stdbool.h>

typedef enum { FR_ISA_BASELINE, FR_ISA_AVX2, FR_ISA_AVX512, FR_ISA_AVX512_BFLOAT16, FR_ISA_NEON } fr_isa_level;

/* Whether the CPU and the operating system (saved register state) run this level. */
bool fr_cpu_runs(fr_isa_level level);

/* CPUs that this process may use: its affinity mask, not the machine's size. */
int fr_cpu_count(void);

#endif
