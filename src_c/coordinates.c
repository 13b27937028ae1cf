#include "fastreg.h"
#include "kernels.h"

#include <math.h>

/* A row of w: element k of it and of g stand at [k n + j]. */

static double softened(double x, double t) { return copysign(fmax(fabs(x) - t, 0), x); }

/* The minimum over row j, given the others: with v = h_jj w - g, h_jj u = the prox of v. */
static void move_row(const fr_kernels *kernels, const fr_quadratic *q, ptrdiff_t j, double *w, double *g)
{
    ptrdiff_t n = q->n;
    const double *h = q->h + j * n;
    if (!(h[j] > 0)) return;
    double square = 0;
    for (ptrdiff_t k = 0; k < q->n_out; k++) {
        double soft = softened(h[j] * w[k * n + j] - g[k * n + j], q->l1[j]);
        square += soft * soft;
    }
    double norm = sqrt(square), share = norm > q->group[j] ? (1 - q->group[j] / norm) / h[j] : 0;
    for (ptrdiff_t k = 0; k < q->n_out; k++) {
        double old = w[k * n + j], soft = softened(h[j] * old - g[k * n + j], q->l1[j]);
        double by = share * soft - old;
        if (by == 0) continue;
        w[k * n + j] = share * soft;
        kernels->group_add(false, 1, n, n, &by, h, g + k * n);
    }
}

/* The largest element of the subgradient of row j that is nearest to 0. */
static double residual_of_row(const fr_quadratic *q, ptrdiff_t j, const double *w, const double *g)
{
    ptrdiff_t n = q->n;
    double norm = 0, slope = 0, largest = 0;
    for (ptrdiff_t k = 0; k < q->n_out; k++) {
        double soft = softened(g[k * n + j], q->l1[j]);
        norm += w[k * n + j] * w[k * n + j];
        slope += soft * soft;
    }
    norm = sqrt(norm), slope = sqrt(slope);
    double left = slope > q->group[j] ? 1 - q->group[j] / slope : 0;
    for (ptrdiff_t k = 0; k < q->n_out; k++) {
        double here = w[k * n + j], at = g[k * n + j];
        if (norm > 0) at += q->group[j] * here / norm;
        double found = here != 0 ? at + copysign(q->l1[j], here) : softened(at, q->l1[j]);
        largest = fmax(largest, fabs(norm > 0 ? found : left * found));
    }
    return largest;
}

fr_status fr_quadratic_descend(const fr_quadratic *q, double tol, ptrdiff_t max_sweeps, double *w,
                               double *g, double *residual)
{
    if (q->n < 1 || q->n_out < 1) return FR_BAD_ARGUMENT;
    const fr_kernels *kernels = fr_kernels_for(FR_FLOAT64);
    for (ptrdiff_t sweep = 0;; sweep++) {
        *residual = 0;
        for (ptrdiff_t j = 0; j < q->n; j++) *residual = fmax(*residual, residual_of_row(q, j, w, g));
        if (*residual <= tol || sweep >= max_sweeps) return FR_OK;
        for (ptrdiff_t j = 0; j < q->n; j++) move_row(kernels, q, j, w, g);
    }
}
