/* The phase of rows: a panel is gathered, goes forward through all layers and the loss, and backward down to
 * the first trainable layer, without leaving the cache.
 */
#include "training.h"

#include "bfloat16.h"

#include <string.h>

static void gather(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    const fr_data *data = &run->call->data;
    matrix x = input_of(run, 0, first);
    /* Rows from.. of the data, or the rows that index names there. */
    ptrdiff_t from = run->row + first, start = data->index ? 0 : from;
    const int64_t *index = data->index ? data->index + from : NULL;
    if (!data->start) {
        run->kernels->pack(rows, net->n_in, fr_at(data->x, start * net->n_in, net->size), index, x.at,
                           x.width, gap(net, x));
    } else if (!plan->compressed) {
        fr_sparse_rows nonzeros = nonzeros_of(data, data->index, from);
        run->kernels->spread(rows, net->n_in, &nonzeros, x.at, x.width, gap(net, x));
    }
    if (takes_labels(plan->loss)) {
        const int32_t *labels = data->y;
        for (ptrdiff_t r = 0; r < rows; r++)
            ((int32_t *)plan->target)[first + r] = labels[index ? (ptrdiff_t)index[r] : from + r];
    } else {
        run->kernels->pack(rows, net->n_out, fr_at(data->y, start * net->n_out, net->size), index,
                           fr_at(plan->target, first * net->n_out, net->size), net->n_out,
                           0);
    }
    if (data->weight)
        run->kernels->pack(rows, 1, fr_at(data->weight, start, net->size), index,
                           fr_at(plan->weight, first, net->size), 1, 0);
}

static void dropout_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    matrix x = input_of(run, l, first), y = rows_of(run, l, a->y, first);
    fr_dropout_tile tile = {
        .rows = rows,
        .n = a->spec.n_out,
        .x = x.at,
        .ld_x = x.width,
        .y = y.at,
        .ld_y = y.width,
        .gap = gap(run->net, y),
        .factor = rows_of(run, l, a->factor, first).at,
        .rate = a->spec.rate,
        .seed = a->spec.has_seed ? a->spec.seed : run->call->seed,
        .first_row = first,
        .layer = (uint32_t)l,
        .iteration = (uint32_t)(run->call->iteration + run->steps_done),
    };
    run->kernels->dropout(&tile);
}

static void dropout_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    matrix dy = rows_of(run, l, a->d, first), factor = rows_of(run, l, a->factor, first);
    matrix dx = rows_of(run, l - 1, net->layers[l - 1].d, first);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        run->kernels->multiply(rows, smaller(a->width, a->spec.n_out - o), column(net, dy, o),
                               dy.width, column(net, factor, o), factor.width, column(net, dx, o),
                               dx.width);
}

static double forward_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const fr_data *data = &run->call->data;
    double activity = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->spec.kind == FR_LAYER_dropout) {
            dropout_forward(run, l, first, rows);
            continue;
        }
        layer_input in = {0};
        fr_sparse_rows nonzeros;
        if (l == 0 && run->plan->compressed) {
            nonzeros = nonzeros_of(data, data->index, run->row + first);
            in.nonzeros = &nonzeros;
        } else {
            in.x = input_of(run, l, first);
        }
        if (paired(run, l)) {
            fr_pair_rows(net, rows, a->spec.n_in, in.x, first, &a->x_pairs);
            in = (layer_input){.x = across(run, &a->x_pairs, first), .paired = true};
        }
        activity += fr_forward_layer(net, a, fr_activation_at(net, l, run->fused), rows, in,
                                     rows_of(run, l, a->y, first), slope_of(run, l, first));
    }
    return activity;
}

static panel_sums loss_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    ptrdiff_t last = net->n_layers - 1;
    matrix d = rows_of(run, last, net->layers[last].d, first);
    fr_loss_tile tile = {
        .rows = rows,
        .target = takes_labels(plan->loss) ? (void *)((int32_t *)plan->target + first)
                                           : fr_at(plan->target, first * net->n_out, net->size),
        .weight = run->call->data.weight ? fr_at(plan->weight, first, net->size) : NULL,
        .d = d.at,
        .ld_d = d.width,
        .scale = 1.0 / (double)run->n_batch,
        .accuracy = run->call->accuracy,
    };
    matrix y = rows_of(run, last, net->layers[last].y, first);
    panel_sums sums = fr_loss_of_rows(net, plan->loss, y, &tile);
    if (run->call->outputs) fr_put_outputs(net, run->call, run->row + first, rows, y);
    return sums;
}

/* Runs a backward kernel over all columns; one call where it wants whole rows. */
static void backward_columns(const training_run *run, int activation, ptrdiff_t width,
                             const fr_backward_tile *whole, matrix y, matrix slope, matrix d)
{
    const fr_network *net = run->net;
    if (run->kernels->whole_rows[activation]) {
        run->kernels->backward[activation](whole);
        return;
    }
    for (ptrdiff_t o = 0; o < whole->n; o += width) {
        fr_backward_tile tile = *whole;
        tile.n = smaller(width, whole->n - o);
        tile.y = column(net, y, o);
        tile.slope = column(net, slope, o);
        tile.d = column(net, d, o);
        tile.dbias = whole->dbias ? fr_at(whole->dbias, o, net->size) : NULL;
        run->kernels->backward[activation](&tile);
    }
}

/* d of the fused last layer already is dz of the loss; an activity penalty adds its own dz. */
static void add_activity_of_fused(const training_run *run, ptrdiff_t first, fr_backward_tile tile)
{
    const fr_network *net = run->net;
    ptrdiff_t last = net->n_layers - 1;
    const layer *a = &net->layers[last];
    matrix y = rows_of(run, last, a->y, first), d = rows_of(run, last, a->d, first);
    matrix own = rows_of(run, last, run->plan->own_d, first);
    size_t bytes = (size_t)(tile.rows * a->width * net->size);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width) memset(column(net, own, o), 0, bytes);
    tile.d = own.at;
    tile.dbias = NULL;
    backward_columns(run, a->spec.activation, a->width, &tile, y, slope_of(run, last, first), own);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        run->kernels->add(tile.rows * a->width, column(net, own, o), column(net, d, o));
}

void fr_backward_layer(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    ptrdiff_t row_panel = first / run->plan->n_rows;
    double each = 1.0 / (double)run->n_batch;
    matrix y = rows_of(run, l, a->y, first), d = rows_of(run, l, a->d, first);
    fr_backward_tile tile = {
        .rows = rows,
        .n = a->spec.n_out,
        .y = y.at,
        .ld = y.width,
        .d = d.at,
        .ld_d = d.width,
        .gap = gap(net, y),
        .activity = {a->spec.activity.l1 * each, a->spec.activity.l2 * each},
        .dbias = a->bias < 0 ? NULL : fr_at(a->dbias, row_panel * a->n_padded, net->size),
    };
    if (run->fused && l == net->n_layers - 1) {
        if (penalizes(tile.activity)) add_activity_of_fused(run, first, tile);
        tile.activity = (fr_regularizer){0, 0};
    }
    backward_columns(run, fr_activation_at(net, l, run->fused), a->width, &tile, y,
                     slope_of(run, l, first), d);
    if (paired(run, l)) {
        fr_pair_rows(net, rows, a->spec.n_out, d, first, &a->d_pairs);
        d = across(run, &a->d_pairs, first);
    }
    if (l > net->first_trainable)
        fr_multiply_backward(net, a, rows, d, rows_of(run, l - 1, net->layers[l - 1].d, first));
}

void fr_train_rows(training_run *run, ptrdiff_t panel)
{
    const fr_network *net = run->net;
    ptrdiff_t first = panel * run->plan->n_rows;
    ptrdiff_t rows = smaller(run->plan->n_rows, run->n_batch - first);
    gather(run, first, rows);
    double activity = forward_panel(run, first, rows);
    panel_sums sums = loss_panel(run, first, rows);
    sums.activity += activity;
    run->plan->panels[panel] = sums;
    for (ptrdiff_t l = net->n_layers - 1; l >= net->first_trainable; l--) {
        if (net->layers[l].spec.kind == FR_LAYER_dropout)
            dropout_backward(run, l, first, rows);
        else
            fr_backward_layer(run, l, first, rows);
    }
}
