/* Inference: independent panels of rows, each between two matrices of activations of its thread. */
#include "network.h"

#include "base/threads.h"
#include "blas.h"

#include <stdlib.h>

/* Rows of a panel of a call on n_rows rows. */
static ptrdiff_t inference_rows(const fr_network *net, ptrdiff_t n_rows)
{
    return smaller(n_rows, fr_rows_of_panel(net, n_rows, net->flops * (double)n_rows));
}

static fr_status find_nonzeros(fr_network *net)
{
    if (!net->nonzeros_stale) return FR_OK;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense || a->turned) continue;
        fr_status status =
            fr_nonzeros_find(&a->nonzeros, net->kernels, net->sparse, weight_at(net, a->kernel),
                             a->spec.n_in, a->spec.n_out, a->width);
        if (status != FR_OK) return status;
    }
    net->nonzeros_stale = false;
    return FR_OK;
}

/* Whether a layer leaves the zeros of its kernel out on panels of that many rows. */
static bool runs_sparse(const fr_network *net, const layer *a, ptrdiff_t rows)
{
    return a->spec.kind == FR_LAYER_dense && !a->turned && a->times == 1 &&
           fr_nonzeros_pay(&a->nonzeros, net->kernels, net->native, net->sparse, rows);
}

fr_status fr_network_density(fr_network *net, ptrdiff_t l, ptrdiff_t n_rows, double *density)
{
    if (l < 0 || l >= net->n_layers || n_rows < 1) return FR_BAD_ARGUMENT;
    fr_status status = find_nonzeros(net);
    if (status != FR_OK) return status;
    const layer *a = &net->layers[l];
    bool sparse = runs_sparse(net, a, inference_rows(net, n_rows));
    *density = sparse ? a->nonzeros.density : 1;
    return FR_OK;
}

typedef struct {
    const fr_network *net;
    const inference_plan *plan;
    ptrdiff_t start, n_rows;          /* rows start..start+n_rows */
    ptrdiff_t n_panels, panel_rows;
    const fr_data *data;
    void *out;                    /* (n_rows, n_out), or NULL when evaluating */
    const fr_training *call;      /* NULL when predicting */
    panel_sums *panels;
    char *rates; /* (panels, columns) column sums of the layers with rates, one after the other, or NULL */
    ptrdiff_t rate_columns;
    bool fused, begun, compressed; /* the last: the first layer reads compressed rows as they stand */
} inference_run;

/* What the penalties of a layer's whole batch, and the caller, want of its outputs, f(z) by now. */
static void look_at(const inference_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows, matrix y)
{
    const fr_network *net = run->net;
    ptrdiff_t times = net->layers[l].times;
    if (!run->call) return;
    if (run->rates && has_rates(&net->layers[l].spec)) {
        ptrdiff_t at = first / run->panel_rows * run->rate_columns;
        for (ptrdiff_t i = 0; i < l; i++)
            if (has_rates(&net->layers[i].spec)) at += net->layers[i].spec.n_out;
        fr_column_sums(net, &net->layers[l], rows * times, y, fr_at(run->rates, at, net->size));
    }
    for (ptrdiff_t i = 0; i < run->call->n_watches; i++) {
        const fr_watch *w = &run->call->watches[i];
        if (w->layer == l)
            fr_put_rows(net, y, rows * times, net->layers[l].spec.n_out, w->y,
                        (run->start + first - run->call->start) * times);
    }
}

/* Forward for rows `first`.. of the call, between the thread's two matrices; returns the output. */
static matrix infer_panel(const inference_run *run, ptrdiff_t first, ptrdiff_t rows, int thread,
                          double *activity)
{
    const fr_network *net = run->net;
    const inference_plan *plan = run->plan;
    ptrdiff_t one = plan->n_rows * plan->n_padded * net->size;
    char *here = plan->activations + 2 * (ptrdiff_t)thread * one, *other = here + one;
    ptrdiff_t row = run->start + first;
    matrix x = view(net, here, net->width_x, plan->n_rows * net->times, 0);
    fr_sparse_rows nonzeros = {0};
    layer_input in = {0};
    if (run->data->start) nonzeros = nonzeros_of(run->data, NULL, row);
    if (run->compressed) {
        in.nonzeros = &nonzeros;
    } else if (run->data->start) {
        net->kernels->spread(rows, net->n_in, &nonzeros, x.at, x.width, gap(net, x));
    } else {
        net->kernels->pack(rows * net->times, net->n_in,
                           fr_at(run->data->x, row * net->times * net->n_in, net->size), NULL, x.at, x.width,
                           gap(net, x));
    }
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        int activation = fr_activation_at(net, l, run->fused);
        ptrdiff_t own_rows = rows * a->times;
        if (a->spec.kind != FR_LAYER_dense) {
            const layer_kind *kind = &fr_layer_kinds[a->spec.kind];
            if (kind->flattens) {
                matrix y = view(net, here, a->width, plan->n_rows * a->times, 0);
                fr_reshape_rows(net, own_rows * (a->spec.n_out / a->spec.n_in), a->spec.n_in, x, a->spec.n_out, y, other);
                x = y;
            }
            if (kind->infer) *activity += kind->infer(net, a, activation, own_rows, x);
            if (activation == a->spec.activation) look_at(run, l, first, rows, x);
            continue;
        }
        matrix y = view(net, other, a->width, plan->n_rows * a->times, 0);
        in.x = x;
        if (!in.nonzeros && runs_sparse(net, a, run->panel_rows))
            in.lanes = plan->lanes + (ptrdiff_t)thread * plan->lanes_size;
        *activity += fr_forward_layer(net, a, activation, own_rows, in, y, (matrix){0});
        if (activation == a->spec.activation) look_at(run, l, first, rows, y);
        in = (layer_input){0};
        other = here;
        here = y.at;
        x = y;
    }
    return x;
}

static ptrdiff_t next_inference_phase(void *context)
{
    inference_run *run = context;
    ptrdiff_t n = run->begun ? 0 : run->n_panels;
    run->begun = true;
    return n;
}

static void inference_task(void *context, int thread, ptrdiff_t panel)
{
    inference_run *run = context;
    const fr_network *net = run->net;
    ptrdiff_t first = panel * run->panel_rows;
    ptrdiff_t rows = smaller(run->panel_rows, run->n_rows - first);
    double activity = 0;
    matrix y = infer_panel(run, first, rows, thread, &activity);
    if (run->out) {
        net->kernels
            ->unpack(rows, net->n_out, y.at, y.width, gap(net, y),
                     fr_at(run->out, first * net->n_out, net->size));
        return;
    }
    const fr_data *data = &run->call->data;
    ptrdiff_t row = run->start + first;
    if (run->call->part == FR_TO_OUTPUTS) {
        run->panels[panel] = (panel_sums){0, 0, activity};
        fr_put_outputs(net, run->call, row, rows, y);
        return;
    }
    fr_loss_tile tile = {
        .rows = rows,
        .target = takes_labels(run->call->loss) ? (const void *)((const int32_t *)data->y + row)
                                                : fr_at(data->y, row * net->n_out, net->size),
        .weight = data->weight ? fr_at(data->weight, row, net->size) : NULL,
        .accuracy = run->call->accuracy,
    };
    run->panels[panel] = fr_loss_of_rows(net, run->call, y, &tile);
    run->panels[panel].activity += activity;
    ptrdiff_t last = net->n_layers - 1;
    if (fr_activation_at(net, last, run->fused) != net->layers[last].spec.activation)
        look_at(run, last, first, rows, y);
    if (run->call->outputs) fr_put_outputs(net, run->call, row, rows, y);
}

/* Elements of the widest matrix that a panel goes through, for each of its rows. */
static ptrdiff_t widest(const fr_network *net, bool compressed)
{
    ptrdiff_t most = compressed ? 1 : fr_size_product(padded(net->n_in, net->width_x), net->times);
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        if (net->layers[l].spec.kind == FR_LAYER_dense || fr_layer_kinds[net->layers[l].spec.kind].flattens)
            most = larger(most, fr_size_product(net->layers[l].n_padded, net->layers[l].times));
    return most;
}

static void take_inference(const fr_network *net, inference_plan *plan)
{
    ptrdiff_t one = fr_size_product(plan->n_rows, plan->n_padded);
    plan->activations =
        fr_arena_take(&plan->arena, fr_size_product(2 * plan->n_threads, one), net->size);
    plan->lanes = fr_arena_take(&plan->arena, plan->n_threads, plan->lanes_size);
}

/* Bytes that the sparse layers need for panels of that many rows; -1 where they overflow. The first layer
 * needs none for compressed rows. */
static ptrdiff_t lanes_size(const fr_network *net, bool compressed, ptrdiff_t rows)
{
    ptrdiff_t bytes = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        bool first = compressed && a->spec.kind == FR_LAYER_dense;
        if (first) compressed = false;
        if (first || !runs_sparse(net, a, rows)) continue;
        ptrdiff_t one = fr_lanes_size(net->kernels, a->spec.n_in, rows);
        one = fr_size_product(one, net->size);
        if (one < 0 || one > PTRDIFF_MAX - FR_ALIGNMENT) return -1;
        bytes = larger(bytes, round_up(one, FR_ALIGNMENT));
    }
    return bytes;
}

/* Whether the first layer that does anything is dense. */
static bool begins_dense(const fr_network *net)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        int kind = net->layers[l].spec.kind;
        if (kind == FR_LAYER_dense || fr_layer_kinds[kind].infer) return kind == FR_LAYER_dense;
    }
    return false;
}

static fr_status infer(fr_network *net, inference_run *run, int n_threads)
{
    if (!fr_blas_ready()) return FR_NO_BLAS;
    double flops = net->flops * (double)run->n_rows;
    n_threads = n_threads < 1 ? 1 : (int)smaller(n_threads, FR_MAX_THREADS);
    n_threads = fr_threads_for(flops, n_threads);
    inference_plan *plan = &net->inference;
    ptrdiff_t n_rows = inference_rows(net, run->n_rows);
    fr_status status = find_nonzeros(net);
    if (status != FR_OK) return status;
    bool compressed = run->data->start && begins_dense(net);
    ptrdiff_t lanes = lanes_size(net, compressed, n_rows), n_padded = widest(net, compressed);
    if (lanes < 0) return FR_TOO_LARGE;
    if (!plan->arena.base || plan->n_rows < n_rows || plan->n_threads < n_threads ||
        plan->n_padded < n_padded || plan->lanes_size < lanes) {
        fr_arena_free(&plan->arena);
        *plan = (inference_plan){
            .n_rows = n_rows, .n_threads = n_threads, .n_padded = n_padded, .lanes_size = lanes};
        take_inference(net, plan);
        if (plan->arena.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&plan->arena)) return FR_NO_MEMORY;
        take_inference(net, plan);
    }
    run->net = net;
    run->plan = plan;
    run->compressed = compressed;
    run->panel_rows = n_rows;
    run->n_panels = pieces(run->n_rows, n_rows);
    fr_parallel(n_threads, next_inference_phase, inference_task, run);
    return FR_OK;
}

fr_status fr_network_forward(fr_network *net, ptrdiff_t n_rows, const void *x, void *out,
                             int n_threads)
{
    fr_data data = {.n_rows = n_rows, .x = x};
    return fr_network_forward_data(net, &data, out, n_threads);
}

fr_status fr_network_forward_data(fr_network *net, const fr_data *data, void *out, int n_threads)
{
    if (data->n_rows < 0 || !data->x || !out || (data->start && !data->column) || !data_fits(net, data))
        return FR_BAD_ARGUMENT;
    if (data->n_rows == 0) return FR_OK;
    inference_run run = {.n_rows = data->n_rows, .data = data, .out = out};
    return infer(net, &run, n_threads);
}

static void add_weight_penalties(const fr_network *net, double rows, double *ledger)
{
    const fr_kernels *kernels = net->kernels;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        if (!a->spec.trainable) continue;
        /* Padding is zeros: it adds nothing. */
        if (a->kernel >= 0 && penalizes(a->spec.kernel))
            ledger[FR_LEDGER_KERNEL_PENALTY] +=
                rows * penalty(a->spec.kernel,
                               kernels->sums(a->spec.kind == FR_LAYER_dense ? kernel_size(a) : a->n_padded,
                                             weight_at(net, a->kernel)));
        if (a->groups.groups.n_groups > 0)
            ledger[FR_LEDGER_KERNEL_PENALTY] +=
                rows *
                fr_groups_norms(&a->groups, fr_groups_all(&a->groups), weight_at(net, a->kernel));
        if (a->bias >= 0 && penalizes(a->spec.bias))
            ledger[FR_LEDGER_BIAS_PENALTY] +=
                rows *
                penalty(a->spec.bias, kernels->sums(a->spec.n_out, weight_at(net, a->bias)));
    }
}

/* Of the rates of the rows that a run went through; `slope` has room for a layer's. */
static double rate_penalties(const inference_run *run, void *slope)
{
    const fr_network *net = run->net;
    double total = 0;
    for (ptrdiff_t l = 0, at = 0; l < net->n_layers; l++) {
        const fr_layer *s = &net->layers[l].spec;
        if (!has_rates(s)) continue;
        ptrdiff_t times = net->layers[l].times;
        total += net->kernels->rates(run->n_panels, run->rate_columns, s->n_out, fr_at(run->rates, at, net->size),
                                     run->n_rows * times, s->activity_kl, 1, slope) / (double)times;
        at += s->n_out;
    }
    return total;
}

static fr_status evaluate_rows(fr_network *net, inference_run *run, void *slope, double *ledger)
{
    run->begun = false;
    fr_status status = infer(net, run, run->call->n_threads);
    if (status != FR_OK) return status;
    for (ptrdiff_t p = 0; p < run->n_panels; p++) {
        ledger[FR_LEDGER_DATA_LOSS] += run->panels[p].loss;
        ledger[FR_LEDGER_CORRECT] += run->panels[p].correct;
        ledger[FR_LEDGER_ACTIVITY_PENALTY] += run->panels[p].activity;
    }
    if (run->rates) ledger[FR_LEDGER_ACTIVITY_PENALTY] += rate_penalties(run, slope);
    return FR_OK;
}

fr_status fr_network_evaluate(fr_network *net, const fr_training *call, double *ledger)
{
    ptrdiff_t n_rows = call->stop - call->start, rate_columns = 0, most_columns = 0;
    if (!fr_call_valid(call) || !data_fits(net, &call->data) || (call->part == FR_TO_OUTPUTS && !call->outputs) ||
        !fr_watches_valid(net, call))
        return FR_BAD_ARGUMENT;
    if (n_rows == 0) return FR_OK;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        if (!has_rates(&net->layers[l].spec)) continue;
        rate_columns += net->layers[l].spec.n_out;
        most_columns = larger(most_columns, net->layers[l].spec.n_out);
    }
    if (rate_columns > 0 && call->batch_size < 1) return FR_BAD_ARGUMENT;
    inference_run run = {
        .data = &call->data,
        .call = call,
        .fused = fused_loss(net, call) != NULL,
        .rate_columns = rate_columns,
    };
    /* Rates are those of a batch; all else goes through in one. */
    ptrdiff_t each = rate_columns > 0 ? smaller(call->batch_size, n_rows) : n_rows;
    ptrdiff_t n_panels = each / 8 + 2; /* at least 8 rows a panel but for the smallest calls */
    fr_arena arena = {0};
    void *slope = NULL;
    for (int pass = 0; pass < 2; pass++) {
        run.panels = fr_arena_take(&arena, n_panels, sizeof *run.panels);
        ptrdiff_t sums = fr_size_product(n_panels, rate_columns);
        run.rates = rate_columns > 0 ? fr_arena_take(&arena, sums, net->size) : NULL;
        slope = fr_arena_take(&arena, most_columns, net->size);
        if (pass == 0 && !fr_arena_allocate(&arena)) return arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    fr_status status = FR_OK;
    for (ptrdiff_t first = 0; first < n_rows && status == FR_OK; first += each) {
        run.start = call->start + first;
        run.n_rows = smaller(each, n_rows - first);
        status = evaluate_rows(net, &run, slope, ledger);
    }
    if (status == FR_OK) {
        ledger[FR_LEDGER_ROWS] += (double)n_rows;
        add_weight_penalties(net, (double)n_rows, ledger);
    }
    fr_arena_free(&arena);
    return status;
}
