/* Fortran gemm by its definition, summed in double: the BLAS of the C tests. */
#include "test.h"

/* c (m, n) = alpha op(a) (m, k) op(b) (k, n) + beta c, column-major; beta = 0 does not read c. */
#define GEMM(name, real)                                                                           \
    void name(char *ta, char *tb, int *m, int *n, int *k, real *alpha, real *a, int *lda, real *b, \
              int *ldb, real *beta, real *c, int *ldc)                                             \
    {                                                                                              \
        ptrdiff_t a_row = *ta == 'N' ? 1 : *lda, a_step = *ta == 'N' ? *lda : 1;                   \
        ptrdiff_t b_step = *tb == 'N' ? 1 : *ldb, b_column = *tb == 'N' ? *ldb : 1;                \
        for (ptrdiff_t j = 0; j < *n; j++)                                                         \
            for (ptrdiff_t i = 0; i < *m; i++) {                                                   \
                double sum = 0;                                                                    \
                for (ptrdiff_t p = 0; p < *k; p++)                                                 \
                    sum +=                                                                         \
                        (double)a[i * a_row + p * a_step] * (double)b[p * b_step + j * b_column];  \
                real *at = c + i + j * *ldc;                                                       \
                *at =                                                                              \
                    (real)((double)*alpha * sum + (*beta != 0 ? (double)*beta * (double)*at : 0)); \
            }                                                                                      \
    }
GEMM(naive_sgemm, float)
GEMM(naive_dgemm, double)
