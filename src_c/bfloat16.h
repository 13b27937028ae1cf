#ifndef FR_BFLOAT16_H
#define FR_BFLOAT16_H

#include "network.h"

/* Room in a training plan for a dense layer's matrices as pairs; the first layer needs no dx. */
void fr_take_pairs(const fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch, bool first);

/* Rows first.. of a batch, n columns of them: x is a view of those rows, `pairs` of the whole batch. first
 * is even. */
void fr_pair_rows(const fr_network *net, ptrdiff_t rows, ptrdiff_t n, matrix x, ptrdiff_t first,
                  const matrix_pairs *pairs);

/* Brings a kernel's pairs up to date for rows i.., where a panel begins, and the panel of columns at o. */
void fr_pair_kernel(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t n_i, ptrdiff_t o);

/* The panel at column o of the kernel, and at column i of its transpose. */
void *fr_kernel_pairs(const fr_network *net, const layer *a, ptrdiff_t o);
void *fr_transposed_pairs(const fr_network *net, const layer *a, ptrdiff_t i);

#endif
