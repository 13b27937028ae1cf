/* The three products of a dense layer, by whichever provider the network has, and the kernels' transposes. */
#include "network.h"

#include "bfloat16.h"
#include "blas.h"

/* c (rows, width) = a b, by as many columns as a panel has */
void fr_multiply_sparse(const fr_network *net, ptrdiff_t rows, ptrdiff_t width,
                           const fr_sparse_rows *a, const void *b, ptrdiff_t ld_b, void *c,
                           ptrdiff_t ld_c)
{
    for (ptrdiff_t o = 0; o < width; o += net->kernels->panel)
        net->kernels->sparse_product(rows, smaller(net->kernels->panel, width - o), a,
                                     fr_at(b, o, net->size), ld_b, fr_at(c, o, net->size), ld_c);
}

/* The panel after the one at column o of a matrix (depth, n), where its product with `rows` rows leaves time. */
static fr_ahead next_panel(const fr_network *net, ptrdiff_t rows, const void *panel, ptrdiff_t depth,
                           ptrdiff_t o, ptrdiff_t n)
{
    ptrdiff_t width = net->kernels->panel, bytes = depth * width * net->size;
    if (!net->fetches_ahead || o + width >= n || rows < 16) return (fr_ahead){0};
    return (fr_ahead){.n = 1, .bytes = bytes, .at = {(const char *)panel + bytes}};
}

/* Columns o.. of y = x W, one panel. */
void fr_multiply_forward(const fr_network *net, const layer *a, ptrdiff_t rows, layer_input in,
                            ptrdiff_t o, matrix y)
{
    matrix x = in.x;
    if (in.nonzeros)
        fr_multiply_sparse(net, rows, a->width, in.nonzeros, kernel_panel(net, a, o), a->width,
                       column(net, y, o), y.width);
    else if (in.lanes)
        fr_product_nonzeros(net->kernels, &a->nonzeros, rows, a->spec.n_in, in.lanes, o,
                            smaller(a->width, a->spec.n_out - o), column(net, y, o), y.width);
    else if (a->turned)
        net->kernels->turned_product(rows, a->spec.n_in, a->spec.n_out, x.at, x.height * x.width,
                                  kernel_panel(net, a, 0), column(net, y, o));
    else if (in.paired) {
        void *panel = fr_kernel_pairs(net, a, o);
        fr_ahead ahead = next_panel(net, rows, panel, pieces(a->spec.n_in, 2), o, a->spec.n_out);
        net->pairs->product(rows, a->spec.n_in, a->spec.n_out - o, x.at, x.height * x.width, panel,
                            column(net, y, o), &ahead);
    } else if (net->native) {
        void *panel = kernel_panel(net, a, o);
        fr_ahead ahead = next_panel(net, rows, panel, a->spec.n_in, o, a->spec.n_out);
        net->kernels->product(rows, a->spec.n_in, a->spec.n_out - o, x.at, x.height * x.width, panel,
                              column(net, y, o), &ahead);
    } else
        fr_product_forward(net->dtype, rows, a->spec.n_in, a->n_padded, (fr_matrix){x.at, x.width},
                           (fr_matrix){kernel_panel(net, a, 0), a->width}, y.at, y.width);
}

/* dx = dz W' */
void fr_multiply_backward(const fr_network *net, const layer *a, ptrdiff_t rows, matrix dz,
                             matrix dx)
{
    if (!net->native) {
        fr_product_backward(net->dtype, rows, a->spec.n_in, a->spec.n_out,
                            (fr_matrix){dz.at, dz.width},
                            (fr_matrix){kernel_panel(net, a, 0), a->width}, dx.at, dx.width);
        return;
    }
    ptrdiff_t depth = net->pairs ? pieces(a->spec.n_out, 2) : a->spec.n_out;
    for (ptrdiff_t i = 0; i < a->spec.n_in; i += dx.width) {
        void *panel = net->pairs ? fr_transposed_pairs(net, a, i)
                      : a->turned ? kernel_panel(net, a, i)
                                 : fr_at(a->transposed, i * a->spec.n_out, net->size);
        fr_ahead ahead = next_panel(net, rows, panel, depth, i, a->spec.n_in);
        (net->pairs ? net->pairs->product : net->kernels->product)(
            rows, a->spec.n_out, a->spec.n_in - i, dz.at, dz.height * dz.width, panel, column(net, dx, i),
            &ahead);
    }
}

/* dw (n_i, width) = x'dz for rows i.. and the panel of columns at o of a kernel. */
void fr_multiply_kernel(const fr_network *net, const layer *a, ptrdiff_t n_batch, matrix x,
                           ptrdiff_t i, ptrdiff_t n_i, matrix dz, ptrdiff_t o, void *dw,
                        const fr_ahead *ahead)
{
    if (net->native)
        (net->pairs ? net->pairs->kernel_product : net->kernels->kernel_product)(
            n_batch, n_i, kernel_columns(a) - o, column(net, x, i), column(net, dz, o), dw, ahead);
    else
        fr_product_kernel(net->dtype, n_batch, n_i, a->width, (fr_matrix){column(net, x, i), x.width},
                          (fr_matrix){dz.at, dz.width}, dw, a->width);
}

/* Brings the transpose up to date for rows i.. and the panel at o. */
void fr_transpose_rows(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t n_i,
                           ptrdiff_t o)
{
    if (net->pairs && a->w_down) fr_pair_kernel(net, a, i, n_i, o);
    if (!a->transposed) return;
    ptrdiff_t n_o = smaller(a->width, a->spec.n_out - o);
    for (ptrdiff_t stop = i + n_i, n; i < stop; i += n) {
        ptrdiff_t lane = i % a->width;
        n = smaller(a->width - lane, stop - i);
        net->kernels->transpose(
            n, n_o, fr_at(kernel_panel(net, a, o), i * a->width, net->size),
            fr_at(a->transposed, (i - lane) * a->spec.n_out + o * a->width + lane, net->size));
    }
}

void fr_transpose_all(fr_network *net)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
            fr_transpose_rows(net, a, 0, a->spec.n_in, o);
    }
    net->transposed_stale = false;
}
