/* What each kind of layer does to a panel of rows, in training and at inference: forward beside backward. */
#include "training.h"

#include "active.h"
#include "bfloat16.h"

#include <math.h>
#include <string.h>

/* ---- what layers with weights, and those with an activation, share ---- */

static bool regularizer_valid(fr_regularizer r)
{
    return r.l1 >= 0 && r.l2 >= 0 && isfinite(r.l1) && isfinite(r.l2);
}

static bool constraint_valid(const fr_constraint *c)
{
    return c->kind >= 0 && c->kind < FR_N_CONSTRAINTS &&
           (c->kind != FR_CONSTRAINT_norm || (c->low >= 0 && c->high >= c->low && isfinite(c->rate)));
}

bool fr_kl_valid(fr_kl p) { return p.kl >= 0 && isfinite(p.kl) && p.rate >= 0 && p.rate < 1; }

static bool activation_valid(const fr_layer *l)
{
    return l->activation >= 0 && l->activation < FR_N_ACTIVATIONS && isfinite(l->curve.alpha) &&
           isfinite(l->curve.threshold) && l->curve.max_value >= 0 && regularizer_valid(l->activity) &&
           fr_kl_valid(l->activity_kl);
}

static double *weight_setting(fr_layer *layer, int setting)
{
    switch (setting) {
    case FR_SETTING_kernel_l1: return &layer->kernel.l1;
    case FR_SETTING_kernel_l2: return &layer->kernel.l2;
    case FR_SETTING_bias_l1: return &layer->bias.l1;
    case FR_SETTING_bias_l2: return &layer->bias.l2;
    }
    return NULL;
}

static double *activity_setting(fr_layer *layer, int setting)
{
    switch (setting) {
    case FR_SETTING_activity_l1: return &layer->activity.l1;
    case FR_SETTING_activity_l2: return &layer->activity.l2;
    case FR_SETTING_activity_kl: return &layer->activity_kl.kl;
    }
    return NULL;
}

static void take_activation(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    ptrdiff_t batch = fr_size_product(n_batch, a->n_padded);
    bool keeps = net->kernels->keeps_slope[a->spec.activation], rates = has_rates(&a->spec);
    a->slope = keeps ? fr_arena_take(arena, batch, net->size) : NULL;
    a->given = a->is_given ? fr_arena_take(arena, batch, net->size) : NULL;
    ptrdiff_t sums = fr_size_product(most_panels(n_batch), a->n_padded);
    a->rates = rates ? fr_arena_take(arena, sums, net->size) : NULL;
    a->rate_slope = rates ? fr_arena_take(arena, a->n_padded, net->size) : NULL;
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

/* ---- penalties of activities that need the whole batch ---- */

static void *sums_of_panel(const training_run *run, const layer *a, void *sums, ptrdiff_t first)
{
    return fr_at(sums, first / (run->plan->n_rows * a->times) * a->n_padded, run->net->size);
}

void fr_take_rates(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (has_rates(&a->spec))
            fr_column_sums(net, a, rows * a->times, rows_of(run, l, a->y, first * a->times),
                           sums_of_panel(run, a, a->rates, first * a->times));
    }
}

void fr_join_rates(const training_run *run)
{
    const fr_network *net = run->net;
    run->plan->rate_penalty = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (!has_rates(&a->spec)) continue;
        ptrdiff_t rows = run->n_batch * a->times;
        double value = run->kernels->rates(run->n_panels, a->n_padded, a->spec.n_out, a->rates, rows,
                                           a->spec.activity_kl, 1.0 / (double)rows, a->rate_slope);
        run->plan->rate_penalty += value / (double)a->times;
    }
}

void fr_put_watched(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    for (ptrdiff_t i = 0; i < run->call->n_watches; i++) {
        const fr_watch *w = &run->call->watches[i];
        const layer *a = &net->layers[w->layer];
        matrix y = rows_of(run, w->layer, a->y, first * a->times);
        fr_put_rows(net, y, rows * a->times, a->spec.n_out, w->y,
                    (run->row - run->call->start + first) * a->times);
    }
}

void fr_take_given(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    for (ptrdiff_t i = 0; i < run->call->n_watches; i++) {
        const fr_watch *w = &run->call->watches[i];
        const layer *a = &net->layers[w->layer];
        ptrdiff_t from = first * a->times;
        matrix given = rows_of(run, w->layer, a->given, from);
        run->kernels->pack(rows * a->times, a->spec.n_out, fr_at(w->dy, from * a->spec.n_out, net->size), NULL,
                           given.at, given.width, gap(net, given));
    }
}

static bool watched(const training_run *run, ptrdiff_t l)
{
    for (ptrdiff_t i = 0; i < run->call->n_watches; i++)
        if (run->call->watches[i].layer == l) return true;
    return false;
}

/* dy of a panel of rows gets theirs. */
static void add_of_batch(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows, matrix dy)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    bool rates = has_rates(&a->spec), given = watched(run, l);
    if (!rates && !given) return;
    matrix own = given ? rows_of(run, l, a->given, first) : (matrix){0};
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width) {
        if (given) run->kernels->add(rows * a->width, column(net, own, o), column(net, dy, o));
        if (rates)
            run->kernels->add_to_rows(rows, smaller(a->width, a->spec.n_out - o),
                                      fr_at(a->rate_slope, o, net->size), column(net, dy, o), dy.width);
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
    add_of_batch(run, last, first, tile.rows, own);
    tile.d = own.at;
    tile.dbias = NULL;
    backward_columns(run, a->spec.activation, a->width, &tile, y, slope_of(run, last, first), own);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        run->kernels->add(tile.rows * a->width, column(net, own, o), column(net, d, o));
}

/* dz = f'(z) (dy + the activity penalty's) of a panel of rows, in the place of dy. */
static fr_backward_tile activation_tile(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    double each = 1.0 / (double)run->n_batch;
    matrix y = rows_of(run, l, a->y, first), d = rows_of(run, l, a->d, first);
    return (fr_backward_tile){
        .rows = rows,
        .n = a->spec.n_out,
        .y = y.at,
        .ld = y.width,
        .d = d.at,
        .ld_d = d.width,
        .gap = gap(run->net, y),
        .activity = {a->spec.activity.l1 * each, a->spec.activity.l2 * each},
        .dbias = a->bias < 0 ? NULL : sums_of_panel(run, a, a->dbias, first),
    };
}

static matrix activation_gradient(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    fr_backward_tile tile = activation_tile(run, l, first, rows);
    matrix y = rows_of(run, l, a->y, first), d = rows_of(run, l, a->d, first);
    if (run->fused && l == net->n_layers - 1) {
        if (penalizes(tile.activity) || has_rates(&a->spec) || watched(run, l))
            add_activity_of_fused(run, first, tile);
        tile.activity = (fr_regularizer){0, 0};
    } else {
        add_of_batch(run, l, first, rows, d);
    }
    backward_columns(run, fr_activation_at(net, l, run->fused), a->width, &tile, y,
                     slope_of(run, l, first), d);
    return d;
}

/* ---- dense ---- */

static bool dense_valid(const fr_layer *l)
{
    return activation_valid(l) && regularizer_valid(l->kernel) && regularizer_valid(l->bias) &&
           constraint_valid(&l->kernel_constraint) && constraint_valid(&l->bias_constraint);
}

static double *dense_setting(fr_layer *layer, int setting)
{
    double *found = weight_setting(layer, setting);
    return found ? found : activity_setting(layer, setting);
}

static double dense_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    const fr_data *data = &run->call->data;
    layer_input in = {0};
    fr_sparse_rows nonzeros;
    if (l == 0 && run->plan->compressed) {
        nonzeros = nonzeros_of(data, data->index, run->row + first);
        in.nonzeros = &nonzeros;
    } else if (is_listed(run, l - 1, first)) {
        nonzeros = active_rows(run, l - 1, first, list_of(net, l - 1)->read);
        in.nonzeros = &nonzeros;
    } else {
        in.x = input_of(run, l, first);
    }
    if (paired(run, l)) {
        fr_pair_rows(net, rows, a->spec.n_in, in.x, first, &a->x_pairs);
        in = (layer_input){.x = across(run, &a->x_pairs, first), .paired = true};
    }
    double activity = fr_forward_layer(net, a, fr_activation_at(net, l, run->fused), rows, in,
                                       rows_of(run, l, a->y, first), slope_of(run, l, first));
    fr_list_active(run, l, first, rows);
    return activity;
}

static void dense_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    if (is_listed(run, l, first)) {
        fr_backward_tile tile = activation_tile(run, l, first, rows);
        fr_backward_active(run, l, first, rows, &tile);
        return;
    }
    matrix d = activation_gradient(run, l, first, rows);
    if (paired(run, l)) {
        fr_pair_rows(net, rows, a->spec.n_out, d, first, &a->d_pairs);
        d = across(run, &a->d_pairs, first);
    }
    if (l <= net->first_trainable) return;
    if (is_listed(run, l - 1, first))
        fr_active_from_product(run, l - 1, first, rows);
    else
        fr_multiply_backward(net, a, rows, d, rows_of(run, l - 1, net->layers[l - 1].d, first));
}

/* ---- layers of as many outputs as inputs ---- */

static bool square(const fr_layer *l) { return l->n_in == l->n_out; }

/* A panel of rows into another of the same columns. */
static void copy_panel(const fr_network *net, const layer *a, ptrdiff_t rows, matrix from, matrix to)
{
    size_t bytes = (size_t)(rows * a->width * net->size);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        memcpy(column(net, to, o), column(net, from, o), bytes);
}

static void copy_down(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l], *below = a - 1;
    copy_panel(run->net, a, rows, rows_of(run, l, a->d, first), rows_of(run, l - 1, below->d, first));
}

/* ---- activation: f alone, and penalties of activities ---- */

static bool lone_activation_valid(const fr_layer *l) { return square(l) && activation_valid(l); }

static double activation_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    matrix y = rows_of(run, l, a->y, first);
    copy_panel(run->net, a, rows, input_of(run, l, first), y);
    double activity = fr_activate_rows(run->net, a, fr_activation_at(run->net, l, run->fused), rows, y,
                                       slope_of(run, l, first));
    fr_list_active(run, l, first, rows);
    return activity;
}

static void activation_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    if (is_listed(run, l, first)) {
        fr_backward_active_alone(run, l, first, rows, activation_tile(run, l, first, rows).activity);
        return;
    }
    activation_gradient(run, l, first, rows);
    copy_down(run, l, first, rows);
}

static double activation_infer(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y)
{
    return fr_activate_rows(net, a, activation, rows, y, (matrix){0});
}

/* ---- noise ---- */

static bool noise_valid(const fr_layer *l)
{
    return square(l) && l->rate >= 0 && l->rate < 1 && l->stddev >= 0 && isfinite(l->stddev);
}

static double *rate_setting(fr_layer *layer, int setting)
{
    return setting == FR_SETTING_rate ? &layer->rate : NULL;
}

static double *stddev_setting(fr_layer *layer, int setting)
{
    return setting == FR_SETTING_stddev ? &layer->stddev : NULL;
}

static void take_factors(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    a->factor = fr_arena_take(arena, fr_size_product(n_batch, a->n_padded), net->size);
}

static double noise_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    matrix x = input_of(run, l, first), y = rows_of(run, l, a->y, first);
    fr_noise_tile tile = {
        .rows = rows,
        .n = a->spec.n_out,
        .x = x.at,
        .ld_x = x.width,
        .y = y.at,
        .ld_y = y.width,
        .gap = gap(run->net, y),
        .factor = a->factor ? rows_of(run, l, a->factor, first).at : NULL,
        .rate = a->spec.rate,
        .stddev = a->spec.stddev,
        .seed = a->spec.has_seed ? a->spec.seed : run->call->seed,
        .first_row = first,
        .layer = (uint32_t)l,
        .iteration = (uint32_t)(run->call->iteration + run->steps_done),
    };
    run->kernels->noise[a->spec.kind](&tile);
    if (is_listed(run, l, first)) fr_scale_active(run, l, first, rows);
    return 0;
}

static void factor_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    if (is_listed(run, l, first)) {
        fr_scale_active_gradient(run, l, first, rows);
        return;
    }
    matrix dy = rows_of(run, l, a->d, first), factor = rows_of(run, l, a->factor, first);
    matrix dx = rows_of(run, l - 1, net->layers[l - 1].d, first);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        run->kernels->multiply(rows, smaller(a->width, a->spec.n_out - o), column(net, dy, o),
                               dy.width, column(net, factor, o), factor.width, column(net, dx, o),
                               dx.width);
}

/* ---- normalization ---- */

static bool normalization_valid(const fr_layer *l)
{
    return square(l) && l->epsilon > 0 && isfinite(l->epsilon) && l->momentum >= 0 && l->momentum <= 1 &&
           regularizer_valid(l->kernel) && regularizer_valid(l->bias) && l->groups.n_groups == 0 &&
           constraint_valid(&l->kernel_constraint) && constraint_valid(&l->bias_constraint);
}

static fr_normal_tile normal_tile(const fr_network *net, const layer *a, ptrdiff_t rows, matrix x, matrix y)
{
    return (fr_normal_tile){
        .rows = rows,
        .n = a->spec.n_out,
        .x = x.at,
        .y = y.at,
        .ld = y.width,
        .gap = gap(net, y),
        .gamma = a->kernel < 0 ? NULL : weight_at(net, a->kernel),
        .beta = a->bias < 0 ? NULL : weight_at(net, a->bias),
        .epsilon = a->spec.epsilon,
        .about_zero = fr_layer_kinds[a->spec.kind].about_zero,
    };
}

/* A panel of the batch, forward and backward. */
static fr_normal_tile panel_tile(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    fr_normal_tile tile =
        normal_tile(run->net, a, rows, input_of(run, l, first), rows_of(run, l, a->y, first));
    tile.dy = rows_of(run, l, a->d, first).at;
    if (l > run->net->first_trainable) tile.dx = rows_of(run, l - 1, run->net->layers[l - 1].d, first).at;
    return tile;
}

static void take_column_sums(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    ptrdiff_t sums = fr_size_product(most_panels(n_batch), a->n_padded);
    a->dgamma = fr_arena_take(arena, sums, net->size);
    a->dbias = fr_arena_take(arena, sums, net->size);
}

/* ---- by rows: layer normalization ---- */

static void take_rows(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    take_column_sums(net, arena, a, n_batch);
    a->mean = fr_arena_take(arena, n_batch, net->size);
    a->scale = fr_arena_take(arena, n_batch, net->size);
}

static fr_normal_tile rows_tile(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    fr_normal_tile tile = panel_tile(run, l, first, rows);
    tile.mean = fr_at(a->mean, first, run->net->size);
    tile.scale = fr_at(a->scale, first, run->net->size);
    return tile;
}

static double rows_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    fr_normal_tile tile = rows_tile(run, l, first, rows);
    run->kernels->normalize_rows(&tile);
    return 0;
}

static void rows_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    fr_normal_tile tile = rows_tile(run, l, first, rows);
    if (a->kernel >= 0) tile.dgamma = sums_of_panel(run, a, a->dgamma, first);
    if (a->bias >= 0) tile.dbeta = sums_of_panel(run, a, a->dbias, first);
    run->kernels->normalize_rows_backward(&tile);
}

static double rows_infer(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y)
{
    (void)activation;
    fr_normal_tile tile = normal_tile(net, a, rows, y, y);
    net->kernels->normalize_rows(&tile);
    return 0;
}

/* ---- by columns: batch normalization ----
 *
 * Moments of the batch need all of its rows: those of each panel are taken before the layer, put together
 * between two phases of rows, and used after it. The way back does the same with the sums of the gradient. */

static void take_columns(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    take_column_sums(net, arena, a, n_batch);
    void **vectors[] = {&a->mean, &a->variance, &a->sums[0], &a->sums[1]};
    for (int i = 0; i < 4; i++) *vectors[i] = fr_arena_take(arena, a->n_padded, net->size);
}

static fr_normal_tile columns_tile(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    bool moving = !uses_batch(&a->spec);
    fr_normal_tile tile = panel_tile(run, l, first, rows);
    tile.n_rows = run->n_batch * a->times;
    tile.mean = moving ? weight_at(run->net, a->moving_mean) : a->mean;
    tile.variance = moving ? weight_at(run->net, a->moving_variance) : a->variance;
    return tile;
}

void fr_take_moments(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    fr_normal_tile tile = panel_tile(run, l, first, rows);
    tile.mean = sums_of_panel(run, a, a->dbias, first);
    tile.variance = sums_of_panel(run, a, a->dgamma, first);
    run->kernels->column_moments(&tile);
}

void fr_join_moments(const training_run *run, ptrdiff_t l)
{
    const layer *a = &run->net->layers[l];
    run->kernels->combine_moments(run->n_panels, run->plan->n_rows * a->times, run->n_batch * a->times,
                                  a->spec.n_out, a->n_padded, a->dbias, a->dgamma, a->mean, a->variance);
}

static double columns_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    fr_normal_tile tile = columns_tile(run, l, first, rows);
    run->kernels->normalize_columns(&tile);
    return 0;
}

void fr_take_sums(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    fr_normal_tile tile = columns_tile(run, l, first, rows);
    tile.dgamma = sums_of_panel(run, a, a->dgamma, first);
    tile.dbeta = sums_of_panel(run, a, a->dbias, first);
    run->kernels->normalize_columns_sums(&tile);
}

void fr_join_sums(const training_run *run, ptrdiff_t l)
{
    const layer *a = &run->net->layers[l];
    const void *panels[] = {a->dgamma, a->dbias};
    for (int i = 0; i < 2; i++) {
        memset(a->sums[i], 0, (size_t)(a->n_padded * run->net->size));
        for (ptrdiff_t p = 0; p < run->n_panels; p++)
            run->kernels->add(a->n_padded, fr_at(panels[i], p * a->n_padded, run->net->size), a->sums[i]);
    }
}

/* The first trainable layer has no gradient to hand down. */
static void columns_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    if (l == run->net->first_trainable) {
        fr_take_sums(run, l, first, rows);
        return;
    }
    fr_normal_tile tile = columns_tile(run, l, first, rows);
    if (uses_batch(&a->spec)) tile.dgamma = a->sums[0], tile.dbeta = a->sums[1];
    run->kernels->normalize_columns_backward(&tile);
}

void fr_move_moments(const training_run *run, ptrdiff_t l)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    ptrdiff_t n = a->spec.n_out;
    double momentum = a->spec.momentum;
    run->kernels->move_average(1, n, n, momentum, false, a->mean, weight_at(net, a->moving_mean));
    run->kernels->move_average(1, n, n, momentum, false, a->variance, weight_at(net, a->moving_variance));
}

static double columns_infer(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y)
{
    (void)activation;
    fr_normal_tile tile = normal_tile(net, a, rows, y, y);
    tile.mean = weight_at(net, a->moving_mean);
    tile.variance = weight_at(net, a->moving_variance);
    net->kernels->normalize_columns(&tile);
    return 0;
}

/* ---- flatten: rows that stand one after the other become one ---- */

static bool flatten_valid(const fr_layer *l) { return l->n_out % l->n_in == 0; }

static void take_plain(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch)
{
    a->factor = fr_arena_take(arena, fr_size_product(n_batch, a->spec.n_out), net->size);
}

void fr_reshape_rows(const fr_network *net, ptrdiff_t rows, ptrdiff_t n, matrix from, ptrdiff_t n_to, matrix to,
                         void *plain)
{
    net->kernels->unpack(rows, n, from.at, from.width, gap(net, from), plain);
    net->kernels->pack(rows * n / n_to, n_to, plain, NULL, to.at, to.width, gap(net, to));
}

static double flatten_forward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    ptrdiff_t n = a->spec.n_in, n_out = a->spec.n_out, times = n_out / n;
    fr_reshape_rows(run->net, rows * times, n, input_of(run, l, first * times), n_out, rows_of(run, l, a->y, first),
                 fr_at(a->factor, first * n_out, run->net->size));
    return 0;
}

static void flatten_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l], *below = a - 1;
    ptrdiff_t n = a->spec.n_in, n_out = a->spec.n_out;
    fr_reshape_rows(run->net, rows, n_out, rows_of(run, l, a->d, first), n,
                 rows_of(run, l - 1, below->d, first * (n_out / n)), fr_at(a->factor, first * n_out, run->net->size));
}

/* ---- the table ---- */

#define DROPS(alone)                                                                                \
    {.valid = noise_valid, .setting = rate_setting, .scales = alone, .take = take_factors,         \
     .forward = noise_forward, .backward = factor_backward}

const layer_kind fr_layer_kinds[FR_N_LAYER_KINDS] = {
    [FR_LAYER_dense] = {.valid = dense_valid,
                        .setting = dense_setting,
                        .has_activation = true,
                        .take = take_activation,
                        .forward = dense_forward,
                        .backward = dense_backward},
    [FR_LAYER_activation] = {.valid = lone_activation_valid,
                             .setting = activity_setting,
                             .has_activation = true,
                             .take = take_activation,
                             .forward = activation_forward,
                             .backward = activation_backward,
                             .infer = activation_infer},
    [FR_LAYER_dropout] = DROPS(true),
    [FR_LAYER_gaussian_noise] = {.valid = noise_valid,
                                 .setting = stddev_setting,
                                 .forward = noise_forward,
                                 .backward = copy_down},
    [FR_LAYER_gaussian_dropout] = DROPS(true),
    [FR_LAYER_alpha_dropout] = DROPS(false), /* it adds, too */
    [FR_LAYER_layer_normalization] = {.valid = normalization_valid,
                                      .setting = weight_setting,
                                      .normalizes = true,
                                      .take = take_rows,
                                      .forward = rows_forward,
                                      .backward = rows_backward,
                                      .infer = rows_infer},
    [FR_LAYER_rms_normalization] = {.valid = normalization_valid,
                                    .setting = weight_setting,
                                    .normalizes = true,
                                    .about_zero = true,
                                    .take = take_rows,
                                    .forward = rows_forward,
                                    .backward = rows_backward,
                                    .infer = rows_infer},
    [FR_LAYER_batch_normalization] = {.valid = normalization_valid,
                                      .setting = weight_setting,
                                      .normalizes = true,
                                      .by_columns = true,
                                      .take = take_columns,
                                      .forward = columns_forward,
                                      .backward = columns_backward,
                                      .infer = columns_infer},
    [FR_LAYER_flatten] = {.valid = flatten_valid,
                          .flattens = true,
                          .take = take_plain,
                          .forward = flatten_forward,
                          .backward = flatten_backward},
};
