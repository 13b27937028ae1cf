/* A layer's way forward and the loss, on a panel of rows: what training and inference share. */
#include "network.h"

/* One panel of columns of f, or all of them; o is where it begins. */
static void activate(const fr_network *net, const layer *a, int activation, fr_forward_tile *tile, matrix y,
                     matrix slope, ptrdiff_t o, ptrdiff_t n)
{
    tile->n = n;
    tile->y = column(net, y, o);
    tile->slope = column(net, slope, o);
    tile->bias = a->bias < 0 ? NULL : weight_at(net, a->bias + o);
    net->kernels->forward[activation](tile);
}

/* f on a panel of rows of z, which `in` gives, or which stands in y where that is NULL: each panel of columns
 * is finished while it is hot. */
static double forward_rows(const fr_network *net, const layer *a, int activation, ptrdiff_t rows,
                           const layer_input *in, matrix y, matrix slope)
{
    bool whole = net->kernels->whole_rows[activation];
    bool counted = penalizes(a->spec.activity) && activation == a->spec.activation;
    fr_sums sums = {0, 0};
    fr_forward_tile tile = {.rows = rows,
                            .ld = y.width,
                            .gap = gap(net, y),
                            .sums = counted ? &sums : NULL,
                            .curve = a->spec.curve};
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width) {
        if (in) fr_multiply_forward(net, a, rows, *in, o, y);
        if (!whole) activate(net, a, activation, &tile, y, slope, o, smaller(a->width, a->spec.n_out - o));
    }
    if (whole) activate(net, a, activation, &tile, y, slope, 0, a->spec.n_out);
    return penalty(a->spec.activity, sums);
}

double fr_forward_layer(const fr_network *net, const layer *a, int activation, ptrdiff_t rows,
                        layer_input in, matrix y, matrix slope)
{
    if (in.lanes)
        fr_to_lanes(net->kernels, rows, a->spec.n_in, in.x.at, in.x.width, gap(net, in.x), in.lanes);
    return forward_rows(net, a, activation, rows, &in, y, slope);
}

double fr_activate_rows(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y,
                        matrix slope)
{
    return forward_rows(net, a, activation, rows, NULL, y, slope);
}

bool fr_loss_valid(int loss, const fr_loss_settings *s)
{
    switch (loss) {
    case FR_LOSS_huber: return s->delta > 0;
    case FR_LOSS_quantile: return s->quantile > 0 && s->quantile < 1;
    case FR_LOSS_binary_focal_crossentropy:
        if (!(s->gamma >= 0 && s->alpha >= 0 && s->alpha <= 1)) return false;
        /* fall through */
    case FR_LOSS_binary_crossentropy:
    case FR_LOSS_categorical_crossentropy: return s->label_smoothing >= 0 && s->label_smoothing <= 1;
    default: return loss >= 0 && loss < FR_N_LOSSES;
    }
}

/* The loss of a panel of rows. When fused, y holds z of the last layer and becomes f(z); the activity
 * penalty that fr_forward_layer could not see yet is then added here. */
panel_sums fr_loss_of_rows(const fr_network *net, const fr_training *call, matrix y, fr_loss_tile *tile)
{
    const fr_kernels *kernels = net->kernels;
    fr_loss_kernel *fused = fused_loss(net, call);
    fr_regularizer activity = net->layers[net->n_layers - 1].spec.activity;
    tile->n = net->n_out;
    tile->y = y.at;
    tile->ld = y.width;
    tile->gap = gap(net, y);
    tile->settings = &call->loss_settings;
    (fused ? fused : kernels->loss[call->loss])(tile);
    panel_sums sums = {tile->loss, tile->correct, 0};
    if (!fused || !penalizes(activity)) return sums;
    for (ptrdiff_t o = 0; o < net->n_out; o += y.width)
        for (ptrdiff_t r = 0; r < tile->rows; r++)
            sums.activity += penalty(
                activity, kernels->sums(smaller(y.width, net->n_out - o),
                                        fr_at(column(net, y, o), r * y.width, net->size)));
    return sums;
}

void fr_put_rows(const fr_network *net, matrix y, ptrdiff_t rows, ptrdiff_t n, void *plain, ptrdiff_t row)
{
    net->kernels->unpack(rows, n, y.at, y.width, gap(net, y), fr_at(plain, row * n, net->size));
}

void fr_column_sums(const fr_network *net, const layer *a, ptrdiff_t rows, matrix y, void *sums)
{
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        net->kernels->column_sums(rows, smaller(a->width, a->spec.n_out - o), column(net, y, o), y.width,
                                  fr_at(sums, o, net->size));
}

/* The output of rows `row` on of a call, f(z) by now, as plain rows for whoever measures it. */
void fr_put_outputs(const fr_network *net, const fr_training *call, ptrdiff_t row, ptrdiff_t rows,
                    matrix y)
{
    fr_put_rows(net, y, rows, net->n_out, call->outputs, row - call->start);
}

/* The activation to run at layer l: the last one is left to a loss that fuses it. */
int fr_activation_at(const fr_network *net, ptrdiff_t l, bool fused)
{
    return fused && l == net->n_layers - 1 ? FR_ACTIVATION_linear : net->layers[l].spec.activation;
}
