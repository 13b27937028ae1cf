/* The last phase of a step: columns, or rows, or all of a kernel, and a bias, are brought back to their constraints. */
#include "training.h"

#include <math.h>

/* A block of a kernel within one panel of columns, or where the columns are one after the other. */
static void *block_at(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t o)
{
    ptrdiff_t from = o - o % a->width;
    return weight_at(net, a->kernel + from * a->spec.n_in + i * a->width + o % a->width);
}

static double bounded_share(const fr_constraint *c, double square)
{
    double norm = sqrt(square), inside = fmin(fmax(norm, c->low), c->high);
    if (c->rate != 1) inside = c->rate * inside + (1 - c->rate) * norm;
    return inside / (1e-7 + norm); /* Keras' epsilon */
}

static void set_shares(const fr_network *net, const fr_constraint *c, ptrdiff_t n, const double *squares,
                       void *shares)
{
    for (ptrdiff_t k = 0; k < n; k++) {
        double share = bounded_share(c, squares[k]);
        if (net->size == (ptrdiff_t)sizeof(float))
            ((float *)shares)[k] = (float)share;
        else
            ((double *)shares)[k] = share;
    }
}

/* A bias or beta, or gamma. */
static void bound_vector(const training_run *run, const layer *a, int part)
{
    const fr_network *net = run->net;
    const fr_constraint *c = part == FR_BIAS ? &a->spec.bias_constraint : &a->spec.kernel_constraint;
    ptrdiff_t n = a->spec.n_out;
    void *v = weight_at(net, part == FR_BIAS ? a->bias : a->kernel);
    if (c->kind == FR_CONSTRAINT_non_neg)
        run->kernels->non_negative(1, n, n, v);
    else
        run->kernels->scale(1, n, n, bounded_share(c, run->kernels->sums(n, v).square), v);
}

/* By one norm; what pads the panels is 0. */
static void bound_whole(const training_run *run, const layer *a)
{
    ptrdiff_t n = kernel_size(a);
    void *w = weight_at(run->net, a->kernel);
    double share = bounded_share(&a->spec.kernel_constraint, run->kernels->sums(n, w).square);
    run->kernels->scale(1, n, n, share, w);
}

/* Some rows, or some columns of one panel. */
static void bound_part(const training_run *run, const layer *a, const task *t)
{
    const fr_network *net = run->net;
    const fr_constraint *c = &a->spec.kernel_constraint;
    double squares[FR_BOUND_NORMS] = {0}, shares[FR_BOUND_NORMS];
    bool norms = c->kind == FR_CONSTRAINT_norm, by_column = c->per_column;
    ptrdiff_t stop = t->o + t->n_o, n_i = t->n_i;
    for (ptrdiff_t o = t->o; o < stop && norms; o += a->width)
        run->kernels->group_squares(by_column, n_i, smaller(a->width, stop - o), a->width,
                                    block_at(net, a, t->i, o), squares);
    if (norms) set_shares(net, c, by_column ? t->n_o : n_i, squares, shares);
    for (ptrdiff_t o = t->o; o < stop; o += a->width) {
        ptrdiff_t n = smaller(a->width, stop - o);
        void *w = block_at(net, a, t->i, o);
        if (norms)
            run->kernels->group_scale(by_column, n_i, n, a->width, shares, w);
        else
            run->kernels->non_negative(n_i, n, a->width, w);
    }
}

void fr_bound_block(const training_run *run, const task *t)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    const fr_constraint *c = &a->spec.kernel_constraint;
    if (t->n_o == 0) {
        bound_vector(run, a, t->part);
        return;
    }
    if (c->kind == FR_CONSTRAINT_norm && !c->per_row && !c->per_column)
        bound_whole(run, a);
    else
        bound_part(run, a, t);
    for (ptrdiff_t o = t->o; o < t->o + t->n_o; o += a->width)
        fr_transpose_rows(net, a, t->i, t->n_i, o);
}
