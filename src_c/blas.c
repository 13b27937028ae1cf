#include "blas.h"

static fr_sgemm *sgemm;
static fr_dgemm *dgemm;

void fr_blas_set(fr_sgemm *s, fr_dgemm *d)
{
    sgemm = s;
    dgemm = d;
}

bool fr_blas_ready(void) { return sgemm && dgemm; }

/* c (m, n) = op(a) (m, k) op(b) (k, n), all column-major. Callers have checked that sizes fit int. */
static void gemm(fr_dtype dtype, char ta, char tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, fr_matrix a,
                 fr_matrix b, void *c, ptrdiff_t ld_c)
{
    int m_ = (int)m, n_ = (int)n, k_ = (int)k;
    int ld_a = (int)a.ld, ld_b = (int)b.ld, ld = (int)ld_c;
    /* Fortran has no const. */
    if (dtype == FR_FLOAT32) {
        float one = 1, zero = 0;
        sgemm(&ta, &tb, &m_, &n_, &k_, &one, (float *)a.at, &ld_a, (float *)b.at, &ld_b, &zero, c,
              &ld);
    } else {
        double one = 1, zero = 0;
        dgemm(&ta, &tb, &m_, &n_, &k_, &one, (double *)a.at, &ld_a, (double *)b.at, &ld_b, &zero, c,
              &ld);
    }
}

void fr_product_forward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out, fr_matrix x,
                        fr_matrix w, void *y, ptrdiff_t ld_y)
{
    gemm(dtype, 'N', 'N', n_out, rows, n_in, w, x, y, ld_y);
}

void fr_product_backward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out,
                         fr_matrix dz, fr_matrix w, void *dx, ptrdiff_t ld_dx)
{
    gemm(dtype, 'T', 'N', n_in, rows, n_out, w, dz, dx, ld_dx);
}

void fr_product_kernel(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, ptrdiff_t n_out, fr_matrix x,
                       fr_matrix dz, void *dw, ptrdiff_t ld_dw)
{
    gemm(dtype, 'N', 'T', n_out, n_in, rows, dz, x, dw, ld_dw);
}
