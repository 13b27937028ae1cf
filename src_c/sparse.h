/* A kernel without its zeros: what inference multiplies by where few weights are left. */
#ifndef FR_SPARSE_H
#define FR_SPARSE_H

#include "base/arena.h"
#include "kernels.h"
#include <stdbool.h>

typedef struct {
    fr_arena arena;
    fr_sparse_rows units; /* a unit a row, its inputs the columns */
    double density;       /* the share of weights that are not 0; 1 while `units` are not made */
} fr_nonzeros;

/* Makes `units` of a kernel (n_in, n_out) in column panels of `width`, if it is worth it for any number of
 * rows; else frees them. */
fr_status fr_nonzeros_find(fr_nonzeros *zeros, const fr_kernels *kernels, fr_sparse_use use,
                           const void *kernel, ptrdiff_t n_in, ptrdiff_t n_out, ptrdiff_t width);
void fr_nonzeros_free(fr_nonzeros *nonzeros);

/* Whether a panel of `rows` rows is sooner done with them than with the whole kernel. */
bool fr_nonzeros_pay(const fr_nonzeros *nonzeros, const fr_kernels *kernels, bool native, fr_sparse_use use,
                     ptrdiff_t rows);

/* Rows of a panel that run along the lanes together: nearly equal parts of whole vectors. */
ptrdiff_t fr_lanes_rows(const fr_kernels *kernels, ptrdiff_t rows);
/* Elements that fr_to_lanes and fr_product_nonzeros need for panels of up to `rows` rows. */
ptrdiff_t fr_lanes_size(const fr_kernels *kernels, ptrdiff_t n_in, ptrdiff_t rows);

/* The rows of x (ld, gap as in kernels.h) along the lanes. */
void fr_to_lanes(const fr_kernels *kernels, ptrdiff_t rows, ptrdiff_t n_in, const void *x, ptrdiff_t ld,
                 ptrdiff_t gap, void *lanes);
/* y (rows, n) = x W for units o..o+n, which stand in one panel of y. */
void fr_product_nonzeros(const fr_kernels *kernels, const fr_nonzeros *nonzeros, ptrdiff_t rows,
                         ptrdiff_t n_in, void *lanes, ptrdiff_t o, ptrdiff_t n, void *y, ptrdiff_t ld);

#endif
