/* A training step's matrices as pairs of bfloat16, for the products of kernels/bfloat16.inc. */
#include "bfloat16.h"

#include <stdlib.h>

/* Elements of `n` columns or rows two by two. */
static ptrdiff_t halves(ptrdiff_t n) { return pieces(n, 2); }

fr_status fr_network_compute_in(fr_network *net, int compute)
{
    const fr_pair_kernels *pairs = NULL;
    if (compute == FR_COMPUTE_bfloat16) {
        pairs = fr_pair_kernels_for_use();
        if (!pairs || net->dtype != FR_FLOAT32 || !net->native) return FR_BAD_ARGUMENT;
    } else if (compute != FR_COMPUTE_own) {
        return FR_BAD_ARGUMENT;
    }
    if (pairs == net->pairs) return FR_OK;
    void *plain = fr_room_for_turning(net);
    if (!plain) return FR_NO_MEMORY;
    net->pairs = pairs;
    fr_arena_free(&net->training.arena);
    fr_turn_kernels(net, plain);
    free(plain);
    return FR_OK;
}

static matrix_pairs take_matrix(const fr_network *net, fr_arena *arena, ptrdiff_t rows, ptrdiff_t n)
{
    ptrdiff_t width = net->kernels->panel, columns = padded(n, width);
    return (matrix_pairs){
        .across = {fr_arena_take(arena, fr_size_product(rows, halves(columns)), net->size), halves(width),
                   rows},
        .down = {fr_arena_take(arena, fr_size_product(halves(rows), columns), net->size), width,
                 halves(rows)},
    };
}

void fr_take_pairs(const fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch, bool first)
{
    ptrdiff_t n_in = a->spec.n_in, n_out = a->spec.n_out;
    a->x_pairs = take_matrix(net, arena, n_batch, n_in);
    a->d_pairs = take_matrix(net, arena, n_batch, n_out);
    a->w_down = fr_arena_take(arena, fr_size_product(halves(n_in), a->n_padded), net->size);
    a->wt_down = NULL;
    if (!first)
        a->wt_down =
            fr_arena_take(arena, fr_size_product(halves(n_out), padded(n_in, a->width)), net->size);
}

void fr_pair_rows(const fr_network *net, ptrdiff_t rows, ptrdiff_t n, matrix x, ptrdiff_t first,
                  const matrix_pairs *pairs)
{
    for (ptrdiff_t j = 0; j < n; j += x.width) {
        ptrdiff_t across = halves(j) * pairs->across.height + first * pairs->across.width;
        ptrdiff_t down = j * pairs->down.height + first / 2 * pairs->down.width;
        net->pairs->panel(rows, smaller(x.width, n - j), column(net, x, j),
                          fr_at(pairs->across.at, across, net->size),
                          fr_at(pairs->down.at, down, net->size));
    }
}

void *fr_kernel_pairs(const fr_network *net, const layer *a, ptrdiff_t o)
{
    return fr_at(a->w_down, o * halves(a->spec.n_in), net->size);
}

void *fr_transposed_pairs(const fr_network *net, const layer *a, ptrdiff_t i)
{
    return fr_at(a->wt_down, i * halves(a->spec.n_out), net->size);
}

void fr_pair_kernel(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t n_i, ptrdiff_t o)
{
    ptrdiff_t width = a->width, n_o = smaller(width, a->spec.n_out - o), stop = i + n_i;
    net->pairs->panel(n_i, n_o, fr_at(kernel_panel(net, a, o), i * width, net->size), NULL,
                      fr_at(fr_kernel_pairs(net, a, o), i / 2 * width, net->size));
    if (!a->wt_down) return;
    for (; i < stop; i += width)
        net->pairs->transpose(smaller(width, stop - i), n_o,
                              fr_at(kernel_panel(net, a, o), i * width, net->size),
                              fr_at(fr_transposed_pairs(net, a, i), o / 2 * width, net->size));
}
