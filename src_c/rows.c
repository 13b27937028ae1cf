/* The phase of rows: a panel is gathered, goes forward through all layers and the loss, and backward down to
 * the first trainable layer, without leaving the cache.
 */
#include "training.h"

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

void fr_train_rows(training_run *run, ptrdiff_t panel)
{
    const fr_network *net = run->net;
    ptrdiff_t first = panel * run->plan->n_rows;
    ptrdiff_t rows = smaller(run->plan->n_rows, run->n_batch - first);
    gather(run, first, rows);
    double activity = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        activity += fr_layer_kinds[net->layers[l].spec.kind].forward(run, l, first, rows);
    panel_sums sums = loss_panel(run, first, rows);
    sums.activity += activity;
    run->plan->panels[panel] = sums;
    for (ptrdiff_t l = net->n_layers - 1; l >= net->first_trainable; l--)
        fr_layer_kinds[net->layers[l].spec.kind].backward(run, l, first, rows);
}
