/* The phase of rows: a panel is gathered, goes forward through all layers and the loss, and backward down to
 * the first trainable layer, without leaving the cache.
 */
#include "training.h"

static void gather(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    const fr_data *data = &run->call->data;
    ptrdiff_t times = net->times;
    matrix x = input_of(run, 0, first * times);
    /* Rows from.. of the data, or the rows that index names there. */
    ptrdiff_t from = run->row + first, start = data->index ? 0 : from;
    const int64_t *index = data->index ? data->index + from : NULL;
    if (!data->start && times > 1 && index) {
        for (ptrdiff_t r = 0; r < rows; r++)
            run->kernels->pack(times, net->n_in, fr_at(data->x, index[r] * times * net->n_in, net->size), NULL,
                               fr_at(x.at, r * times * x.width, net->size), x.width, gap(net, x));
    } else if (!data->start) {
        run->kernels->pack(rows * times, net->n_in, fr_at(data->x, start * times * net->n_in, net->size), index,
                           x.at, x.width, gap(net, x));
    } else if (!plan->compressed) {
        fr_sparse_rows nonzeros = nonzeros_of(data, data->index, from);
        run->kernels->spread(rows, net->n_in, &nonzeros, x.at, x.width, gap(net, x));
    }
    if (run->call->part == FR_TO_OUTPUTS) return; /* what comes next is the caller's */
    if (takes_labels(run->call->loss)) {
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
        .target = takes_labels(run->call->loss) ? (void *)((int32_t *)plan->target + first)
                                           : fr_at(plan->target, first * net->n_out, net->size),
        .weight = run->call->data.weight ? fr_at(plan->weight, first, net->size) : NULL,
        .d = d.at,
        .ld_d = d.width,
        .scale = 1.0 / (double)run->n_batch,
        .accuracy = run->call->accuracy,
    };
    matrix y = rows_of(run, last, net->layers[last].y, first);
    panel_sums sums = fr_loss_of_rows(net, run->call, y, &tile);
    if (run->call->outputs) fr_put_outputs(net, run->call, run->row + first, rows, y);
    return sums;
}

/* From stage n_splits + turns on: down to the next layer whose sums are those of the batch, or to the end. */
static void backward_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    ptrdiff_t back = run->stage - plan->n_splits - plan->turns; /* splits behind this panel */
    ptrdiff_t from = back == 0 ? net->n_layers - 1 : plan->splits[plan->n_splits - back];
    ptrdiff_t split = back < plan->n_back ? plan->splits[plan->n_splits - 1 - back] : -1;
    for (ptrdiff_t l = from; l >= net->first_trainable && l > split; l--) {
        const layer *a = &net->layers[l];
        fr_layer_kinds[a->spec.kind].backward(run, l, first * a->times, rows * a->times);
    }
    if (split < 0) return;
    ptrdiff_t times = net->layers[split].times;
    fr_take_sums(run, split, first * times, rows * times);
}

/* The gradient by the outputs, as the caller has it. */
static void take_dy(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    ptrdiff_t last = net->n_layers - 1;
    matrix d = rows_of(run, last, net->layers[last].d, first);
    run->kernels->pack(rows, net->n_out, fr_at(run->call->dy, first * net->n_out, net->size), NULL, d.at,
                       d.width, gap(net, d));
}

void fr_train_rows(training_run *run, ptrdiff_t panel)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    ptrdiff_t first = panel * plan->n_rows, stage = run->stage;
    ptrdiff_t rows = smaller(plan->n_rows, run->n_batch - first);
    panel_sums *sums = &plan->panels[panel];
    if (run->call->part == FR_OUTPUTS_TO_GRADIENTS) {
        if (stage == plan->n_splits + plan->turns) {
            if (run->call->dy) take_dy(run, first, rows);
            fr_take_given(run, first, rows);
        }
        backward_panel(run, first, rows);
        return;
    }
    if (stage == 0) {
        gather(run, first, rows);
        sums->activity = 0;
    }
    if (stage <= plan->n_splits) {
        ptrdiff_t from = stage == 0 ? 0 : plan->splits[stage - 1];
        ptrdiff_t split = stage < plan->n_splits ? plan->splits[stage] : net->n_layers;
        for (ptrdiff_t l = from; l < split; l++) {
            const layer *a = &net->layers[l];
            sums->activity += fr_layer_kinds[a->spec.kind].forward(run, l, first * a->times, rows * a->times);
        }
        if (split < net->n_layers) {
            ptrdiff_t times = net->layers[split].times;
            fr_take_moments(run, split, first * times, rows * times);
            return;
        }
        if (run->call->part == FR_TO_OUTPUTS) {
            ptrdiff_t last = net->n_layers - 1;
            sums->loss = sums->correct = 0;
            fr_put_outputs(net, run->call, run->row + first, rows, rows_of(run, last, net->layers[last].y, first));
        } else {
            panel_sums loss = loss_panel(run, first, rows);
            loss.activity += sums->activity;
            *sums = loss;
        }
        if (plan->turns) fr_take_rates(run, first, rows);
        if (stops_at_outputs(run)) fr_put_watched(run, first, rows);
        if (plan->turns || stops_at_outputs(run)) return;
    }
    backward_panel(run, first, rows);
}

bool fr_rows_go_on(training_run *run)
{
    const training_plan *plan = run->plan;
    ptrdiff_t back = run->stage - plan->n_splits - plan->turns;
    if (run->stage < plan->n_splits)
        fr_join_moments(run, plan->splits[run->stage]);
    else if (back < 0)
        fr_join_rates(run);
    else if (back < plan->n_back)
        fr_join_sums(run, plan->splits[plan->n_splits - 1 - back]);
    else
        return false;
    run->stage++;
    return true;
}
