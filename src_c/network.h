/* What network.c and functional.c share: sizes of elements, and the choice of tiles. */
#ifndef FR_NETWORK_H
#define FR_NETWORK_H

#include "fastreg.h"
#include "kernels.h"
#include <stdbool.h>

static inline ptrdiff_t fr_sizeof(fr_dtype dtype)
{
    return dtype == FR_FLOAT32 ? (ptrdiff_t)sizeof(float) : (ptrdiff_t)sizeof(double);
}

static inline void *fr_at(const void *array, ptrdiff_t element, ptrdiff_t size)
{
    return (char *)array + element * size;
}

/* Rows of a panel, a rule of the batch alone: results must not depend on the number of threads. */
ptrdiff_t fr_panel_rows(ptrdiff_t n_batch);

/* Threads worth waking for this many floating-point operations. */
int fr_threads_for(double flops, int n_threads);

bool fr_optimizer_valid(const fr_optimizer *optimizer);

/* One step's constants of an optimizer; iteration counts from 0. */
fr_update_step fr_update_step_of(const fr_optimizer *optimizer, int64_t iteration);

/* Where the update kernels want the slots of which `slots` has fr_optimizer_slots. */
void fr_place_slots(const fr_optimizer *optimizer, void *const *slots, void *placed[FR_MOST_SLOTS]);

#endif
