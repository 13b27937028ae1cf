/* The three products of a dense layer, on the BLAS that the engine was handed (column-major Fortran
 * gemm: our row-major matrices are its transposes). BLAS runs single-threaded from our tiles: threaded
 * calls from several threads have given wrong results (OpenBLAS issue 5836, numpy issue 29391). */
#ifndef FR_BLAS_H
#define FR_BLAS_H

#include "fastreg.h"
#include <stdbool.h>

typedef struct {
    const void *at;
    ptrdiff_t ld;
} fr_matrix;

bool fr_blas_ready(void);

/* y (rows, n_out) = x (rows, n_in) w (n_in, n_out) */
void fr_product_forward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out, fr_matrix x,
                        fr_matrix w, void *y, ptrdiff_t ld_y);
/* dx (rows, n_in) = dz (rows, n_out) w' */
void fr_product_backward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out,
                         fr_matrix dz, fr_matrix w, void *dx, ptrdiff_t ld_dx);
/* dw (n_in, n_out) = x' (n_in, rows) dz (rows, n_out) */
void fr_product_kernel(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out, fr_matrix x,
                       fr_matrix dz, void *dw, ptrdiff_t ld_dw);

#endif
