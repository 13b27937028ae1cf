/* Picks the kernels' tables, once. The only file that knows all targets. */
#include "base/cpu.h"
#include "base/platform.h"
#include "kernels.h"

#include <string.h>

/* Weakest first. Whose products networks run is a fact of the ISA: a network's matrices are laid out for
 * one of the two, and `make roofline` found the same winner for the three products from 1 row of 16 inputs
 * to 512 of 2048: BLAS by 2 to 4 times without vectors, else the register tiles. */
static const struct {
    const char *name;
    fr_isa_level level;
    bool native;
    const fr_kernels *tables[2]; /* by fr_dtype */
} isas[] = {
    {"baseline", FR_ISA_BASELINE, false, {&fr_table_baseline_float32, &fr_table_baseline_float64}},
#if FR_X86_64
    {"avx2", FR_ISA_AVX2, true, {&fr_table_avx2_float32, &fr_table_avx2_float64}},
    {"avx512", FR_ISA_AVX512, true, {&fr_table_avx512_float32, &fr_table_avx512_float64}},
#elif FR_AARCH64
    {"neon", FR_ISA_NEON, true, {&fr_table_neon_float32, &fr_table_neon_float64}},
#endif
};
enum { N_ISAS = sizeof isas / sizeof isas[0] };

static int chosen;
static bool native;

fr_status fr_isa_choose(const char *at_most)
{
    int limit = N_ISAS - 1;
    if (at_most && *at_most) {
        while (limit >= 0 && strcmp(isas[limit].name, at_most) != 0) limit--;
        if (limit < 0) return FR_BAD_ARGUMENT;
    }
    while (!fr_cpu_runs(isas[limit].level)) limit--;
    chosen = limit;
    return fr_gemm_choose(NULL);
}

fr_status fr_gemm_choose(const char *name)
{
    if (!name || !*name)
        native = isas[chosen].native;
    else if (strcmp(name, "native") == 0 || strcmp(name, "blas") == 0)
        native = strcmp(name, "native") == 0;
    else
        return FR_BAD_ARGUMENT;
    return FR_OK;
}

const char *fr_gemm(void) { return native ? "native" : "blas"; }
bool fr_gemm_native(void) { return native; }

const fr_pair_kernels *fr_pair_kernels_for_use(void)
{
#if FR_X86_64
    bool runs = isas[chosen].level == FR_ISA_AVX512 && fr_cpu_runs(FR_ISA_AVX512_BFLOAT16);
    return runs && native ? &fr_pairs_avx512 : NULL;
#else
    return NULL;
#endif
}

int fr_has_bfloat16(void) { return fr_pair_kernels_for_use() != NULL; }

static const char *const sparse_names[] = {"auto", "never", "always"};
static fr_sparse_use sparse;

fr_status fr_sparse_choose(const char *name)
{
    if (!name || !*name) name = sparse_names[FR_SPARSE_AUTO];
    for (int i = 0; i < FR_N_SPARSE; i++)
        if (strcmp(name, sparse_names[i]) == 0) {
            sparse = (fr_sparse_use)i;
            return FR_OK;
        }
    return FR_BAD_ARGUMENT;
}

const char *fr_sparse(void) { return sparse_names[sparse]; }
fr_sparse_use fr_sparse_chosen(void) { return sparse; }

const char *fr_isa(void) { return isas[chosen].name; }

const char *fr_isa_built(int number)
{
    return number >= 0 && number < N_ISAS ? isas[number].name : NULL;
}

const fr_kernels *fr_kernels_for(fr_dtype dtype) { return isas[chosen].tables[dtype]; }
