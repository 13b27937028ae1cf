/* Networks against a model of them in plain loops: training, evaluation, inference; then what must
 * hold of any network: one result for all numbers of threads, gradients that are the slope of the
 * loss, failures that change nothing.
 */
#define _GNU_SOURCE
#include "base/platform.h"
#include "kernels.h"
#include "oracle.h"
#include "test.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_LAYERS = 8, MOST_UNITS = 600, MOST_KERNEL = 8000, MOST_BATCH = 64, MOST_ROWS = 128 };
enum { KERNEL = FR_KERNEL, BIAS = FR_BIAS };

/* ---- the model ---- */

typedef struct {
    wide value[MOST_KERNEL], gradient[MOST_KERNEL];
    wide slots[FR_MOST_SLOTS][MOST_KERNEL];
} parameter;

typedef struct {
    parameter part[2]; /* kernel, bias */
    wide z[MOST_BATCH][MOST_UNITS], y[MOST_BATCH][MOST_UNITS], d[MOST_BATCH][MOST_UNITS];
    wide factor[MOST_BATCH][MOST_UNITS]; /* of noise */
    wide moving[2][MOST_UNITS];          /* of batch normalization: mean, variance */
    wide moments[2][MOST_UNITS];
} model_layer;

typedef struct {
    fr_dtype dtype;
    int n_layers;
    fr_layer specs[MOST_LAYERS];
    model_layer layers[MOST_LAYERS];
    wide x[MOST_BATCH][MOST_UNITS];
} model;

static bool normalizes(const fr_layer *s)
{
    return s->kind == FR_LAYER_layer_normalization || s->kind == FR_LAYER_rms_normalization ||
           s->kind == FR_LAYER_batch_normalization;
}

static ptrdiff_t size_of_part(const fr_layer *s, int part)
{
    bool has = part == BIAS ? s->use_bias : !normalizes(s) || s->use_gamma;
    if ((s->kind != FR_LAYER_dense && !normalizes(s)) || !has) return 0;
    return (part == KERNEL && !normalizes(s) ? s->n_in : 1) * s->n_out;
}

static const fr_regularizer *regularizer_of(const fr_layer *s, int part)
{
    return part == KERNEL ? &s->kernel : &s->bias;
}

static bool has_activation(const fr_layer *s)
{
    return s->kind == FR_LAYER_dense || s->kind == FR_LAYER_activation;
}

/* Noise, or flatten of one row, which changes nothing: of several see check_flatten. */
static bool keeps_or_draws(const fr_layer *s) { return oracle_is_noise(s->kind) || s->kind == FR_LAYER_flatten; }

static const fr_layer *last_of(const model *m) { return &m->specs[m->n_layers - 1]; }

/* Mean and 1 / sqrt(variance + epsilon) that element (r, o) is normalized by. */
static void moments_of(const model *m, int l, ptrdiff_t n, ptrdiff_t r, ptrdiff_t o, bool training, wide *mean,
                       wide *scale, wide *variance)
{
    const fr_layer *s = &m->specs[l];
    const model_layer *a = &m->layers[l];
    bool rows = s->kind != FR_LAYER_batch_normalization, about_zero = s->kind == FR_LAYER_rms_normalization;
    ptrdiff_t count = rows ? s->n_out : n;
    *mean = *variance = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (ptrdiff_t i = 0; i < count; i++) {
            ptrdiff_t row = rows ? r : i, at = rows ? i : o;
            wide x = l ? m->layers[l - 1].y[row][at] : m->x[row][at];
            if (pass == 0)
                *mean += about_zero ? 0 : x / count;
            else
                *variance += (x - *mean) * (x - *mean) / count;
        }
    }
    if (!rows && !(training && s->trainable)) *mean = a->moving[0][o], *variance = a->moving[1][o];
    *scale = 1 / sqrtl(*variance + s->epsilon);
}

static wide gamma_of(const model *m, int l, ptrdiff_t o)
{
    return m->specs[l].use_gamma ? m->layers[l].part[KERNEL].value[o] : 1;
}

static void model_normalize(model *m, int l, ptrdiff_t n, bool training)
{
    const fr_layer *s = &m->specs[l];
    model_layer *a = &m->layers[l];
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            wide mean, scale, variance, x = l ? m->layers[l - 1].y[r][o] : m->x[r][o];
            moments_of(m, l, n, r, o, training, &mean, &scale, &variance);
            a->moments[0][o] = mean, a->moments[1][o] = variance;
            a->z[r][o] = (x - mean) * scale; /* h */
            a->factor[r][o] = scale;
            a->y[r][o] = a->z[r][o] * gamma_of(m, l, o) + (s->use_bias ? a->part[BIAS].value[o] : 0);
        }
}

/* d of the layer below, with h in z and the scale in factor. */
static void model_normalize_backward(model *m, int l, ptrdiff_t n)
{
    const fr_layer *s = &m->specs[l];
    model_layer *a = &m->layers[l];
    bool rows = s->kind != FR_LAYER_batch_normalization, fixed = !rows && !s->trainable;
    bool about_zero = s->kind == FR_LAYER_rms_normalization;
    ptrdiff_t count = rows ? s->n_out : n;
    for (ptrdiff_t r = 0; r < n; r++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            a->part[KERNEL].gradient[o] += a->d[r][o] * a->z[r][o];
            a->part[BIAS].gradient[o] += a->d[r][o];
            if (l == 0) continue;
            wide g = a->d[r][o] * gamma_of(m, l, o), mean_g = 0, mean_gh = 0;
            for (ptrdiff_t i = 0; i < count && !fixed; i++) {
                ptrdiff_t row = rows ? r : i, at = rows ? i : o;
                if (!about_zero) mean_g += a->d[row][at] * gamma_of(m, l, at) / count;
                mean_gh += a->d[row][at] * gamma_of(m, l, at) * a->z[row][at] / count;
            }
            m->layers[l - 1].d[r][o] = a->factor[r][o] * (g - mean_g - a->z[r][o] * mean_gh);
        }
}

static bool fuses(const model *m, const fr_training *call)
{
    const fr_layer *last = last_of(m);
    return has_activation(last) && !call->loss_settings.from_logits &&
           oracle_fuses(call->loss, last->activation);
}

/* z of the last layer where the loss takes z, y everywhere else. */
static void model_forward(model *m, ptrdiff_t n, bool keep_z, const fr_training *noise_of,
                          int64_t iteration)
{
    for (int l = 0; l < m->n_layers; l++) {
        const fr_layer *s = &m->specs[l];
        model_layer *a = &m->layers[l];
        if (normalizes(s)) model_normalize(m, l, n, noise_of != NULL);
        for (ptrdiff_t r = 0; r < n && !normalizes(s); r++) {
            const wide *x = l ? m->layers[l - 1].y[r] : m->x[r];
            if (keeps_or_draws(s)) {
                for (ptrdiff_t o = 0; o < s->n_out; o++) {
                    wide offset = 0;
                    a->factor[r][o] = 1;
                    if (noise_of && s->kind != FR_LAYER_flatten)
                        oracle_noise(s, m->dtype, s->has_seed ? s->seed : noise_of->seed, o, r,
                                     (uint32_t)l, (uint32_t)iteration, &a->factor[r][o], &offset);
                    a->y[r][o] = x[o] * a->factor[r][o] + offset;
                }
                continue;
            }
            wide z[MOST_UNITS];
            for (ptrdiff_t o = 0; o < s->n_out; o++) {
                z[o] = s->use_bias ? a->part[BIAS].value[o] : 0;
                if (s->kind == FR_LAYER_activation) z[o] = x[o];
                for (ptrdiff_t i = 0; i < s->n_in && s->kind == FR_LAYER_dense; i++)
                    z[o] += x[i] * a->part[KERNEL].value[i * s->n_out + o];
            }
            if (keep_z && l == m->n_layers - 1)
                memcpy(a->y[r], z, sizeof z);
            else
                oracle_activation(s->activation, s->curve, s->n_out, z, a->y[r]);
            memcpy(a->z[r], z, sizeof z);
        }
    }
}

static void model_target(const model *m, const fr_training *call, ptrdiff_t row, wide *target)
{
    ptrdiff_t n = last_of(m)->n_out;
    for (ptrdiff_t o = 0; o < n; o++)
        target[o] = call->loss == FR_LOSS_sparse_categorical_crossentropy
                        ? ((const int32_t *)call->data.y)[row] == o
                        : get(m->dtype, call->data.y, row * n + o);
}

/* The loss of a batch, added to the ledger; d of the last layer is dL/dz of the data loss. */
/* Of unit o over a batch of n rows: the penalty of its rate, and its slope by an element. */
static wide model_rate(const model *m, int l, ptrdiff_t n, ptrdiff_t o, wide *slope)
{
    wide mean = 0, value;
    *slope = 0;
    if (m->specs[l].activity_kl.rate == 0) return 0;
    for (ptrdiff_t r = 0; r < n; r++) mean += m->layers[l].y[r][o] / n;
    value = oracle_kl(m->specs[l].activity_kl, mean, slope);
    *slope /= n;
    return value;
}

static void model_loss(model *m, const fr_training *call, const ptrdiff_t *rows, ptrdiff_t n,
                       wide *ledger)
{
    const fr_layer *last = last_of(m);
    model_layer *a = &m->layers[m->n_layers - 1];
    const fr_loss_settings *s = &call->loss_settings;
    bool fused = fuses(m, call);
    for (ptrdiff_t r = 0; r < n; r++) {
        wide target[MOST_UNITS], z[MOST_UNITS];
        wide weight = call->data.weight ? get(m->dtype, call->data.weight, rows[r]) : 1;
        model_target(m, call, rows[r], target);
        memcpy(z, a->y[r], sizeof z);
        wide value = fused ? oracle_fused_loss(call->loss, s, last->n_out, z, target, a->y[r], a->d[r])
                           : oracle_loss(call->loss, s, m->dtype, last->n_out, z, target, a->d[r]);
        for (ptrdiff_t o = 0; o < last->n_out; o++) a->d[r][o] *= weight / n;
        ledger[FR_LEDGER_DATA_LOSS] += weight * value;
        ledger[FR_LEDGER_CORRECT] += oracle_correct(call->accuracy, last->n_out, a->y[r], target);
        ledger[FR_LEDGER_ROWS] += 1;
    }
    for (int l = 0; l < m->n_layers; l++) {
        const fr_layer *s = &m->specs[l];
        for (int part = 0; part < 2 && s->trainable; part++)
            for (ptrdiff_t i = 0; i < size_of_part(s, part); i++)
                ledger[part == KERNEL ? FR_LEDGER_KERNEL_PENALTY : FR_LEDGER_BIAS_PENALTY] +=
                    n * oracle_penalty(*regularizer_of(s, part), m->layers[l].part[part].value[i]);
        for (ptrdiff_t r = 0; r < n && has_activation(s); r++)
            for (ptrdiff_t o = 0; o < s->n_out; o++)
                ledger[FR_LEDGER_ACTIVITY_PENALTY] +=
                    oracle_penalty(s->activity, m->layers[l].y[r][o]);
        wide slope;
        for (ptrdiff_t o = 0; o < s->n_out && has_activation(s); o++)
            ledger[FR_LEDGER_ACTIVITY_PENALTY] += n * model_rate(m, l, n, o, &slope);
    }
}

/* Gradients of all parameters, from d of the last layer. */
static void model_backward(model *m, ptrdiff_t n, bool fused)
{
    for (int l = m->n_layers - 1; l >= 0; l--) {
        const fr_layer *s = &m->specs[l];
        model_layer *a = &m->layers[l];
        wide rates[MOST_UNITS];
        for (ptrdiff_t o = 0; o < s->n_out && has_activation(s); o++) model_rate(m, l, n, o, &rates[o]);
        for (int part = 0; part < 2; part++)
            for (ptrdiff_t i = 0; i < size_of_part(s, part); i++) a->part[part].gradient[i] = 0;
        if (normalizes(s)) model_normalize_backward(m, l, n);
        for (ptrdiff_t r = 0; r < n && !normalizes(s); r++) {
            wide *below = l ? m->layers[l - 1].d[r] : NULL, dz[MOST_UNITS], dy[MOST_UNITS];
            const wide *x = l ? m->layers[l - 1].y[r] : m->x[r];
            if (keeps_or_draws(s)) {
                for (ptrdiff_t o = 0; o < s->n_out && l; o++)
                    below[o] = a->d[r][o] * a->factor[r][o];
                continue;
            }
            bool has_dz = fused && l == m->n_layers - 1;
            for (ptrdiff_t o = 0; o < s->n_out; o++)
                dy[o] = (has_dz ? 0 : a->d[r][o]) +
                        oracle_penalty_gradient(s->activity, a->y[r][o]) / n + rates[o];
            oracle_activation_gradient(s->activation, s->curve, s->n_out,
                                       oracle_wants_z(s->activation) ? a->z[r] : a->y[r], dy, dz);
            for (ptrdiff_t o = 0; o < s->n_out; o++) {
                if (has_dz) dz[o] += a->d[r][o];
                if (s->kind != FR_LAYER_dense) {
                    if (l) below[o] = dz[o];
                    continue;
                }
                a->part[BIAS].gradient[o] += dz[o];
                for (ptrdiff_t i = 0; i < s->n_in; i++)
                    a->part[KERNEL].gradient[i * s->n_out + o] += x[i] * dz[o];
            }
            for (ptrdiff_t i = 0; i < s->n_in && l && s->kind == FR_LAYER_dense; i++) {
                below[i] = 0;
                for (ptrdiff_t o = 0; o < s->n_out; o++)
                    below[i] += dz[o] * a->part[KERNEL].value[i * s->n_out + o];
            }
        }
    }
}

static void model_update(model *m, const fr_optimizer *o, int64_t iteration)
{
    for (int l = 0; l < m->n_layers; l++) {
        const fr_layer *s = &m->specs[l];
        model_layer *a = &m->layers[l];
        if (s->kind != FR_LAYER_batch_normalization || !s->trainable) continue;
        for (int i = 0; i < 2; i++)
            for (ptrdiff_t j = 0; j < s->n_out; j++)
                a->moving[i][j] = s->momentum * a->moving[i][j] + (1 - s->momentum) * a->moments[i][j];
    }
    for (int l = 0; l < m->n_layers; l++)
        for (int part = 0; part < 2 && m->specs[l].trainable; part++) {
            parameter *p = &m->layers[l].part[part];
            for (ptrdiff_t i = 0; i < size_of_part(&m->specs[l], part); i++) {
                fr_regularizer r = *regularizer_of(&m->specs[l], part);
                wide slots[FR_MOST_SLOTS];
                for (int s = 0; s < FR_MOST_SLOTS; s++) slots[s] = p->slots[s][i];
                wide g = p->gradient[i] + oracle_smooth_gradient(o, r, p->value[i]);
                oracle_update(o, iteration, g, r.l1, &p->value[i], slots);
                for (int s = 0; s < FR_MOST_SLOTS; s++) p->slots[s][i] = slots[s];
            }
        }
}

/* What fr_network_train and fr_network_evaluate do. */
static void model_run(model *m, const fr_training *call, bool training, wide *ledger)
{
    bool fused = fuses(m, call);
    int64_t iteration = call->iteration;
    for (ptrdiff_t first = call->start; first < call->stop;
         first += call->batch_size, iteration++) {
        ptrdiff_t rows[MOST_BATCH], n = 0, n_in = m->specs[0].n_in;
        for (ptrdiff_t i = first; i < call->stop && n < call->batch_size; i++, n++) {
            rows[n] = training && call->data.index ? (ptrdiff_t)call->data.index[i] : i;
            for (ptrdiff_t j = 0; j < n_in; j++)
                m->x[n][j] = get(m->dtype, call->data.x, rows[n] * n_in + j);
        }
        model_forward(m, n, fused, training ? call : NULL, iteration);
        model_loss(m, call, rows, n, ledger);
        if (!training) continue;
        model_backward(m, n, fused);
        model_update(m, &call->optimizer, iteration);
    }
}

/* ---- networks beside their models ---- */

typedef struct {
    fr_network *network;
    model *model;
} pair;

static fr_network *create(fr_dtype dtype, const fr_layer *layers, int n_layers)
{
    fr_network *network = NULL;
    CHECK(fr_network_create(&network, dtype, layers, n_layers) == FR_OK, "create");
    return network;
}

/* Weights of moderate size, never near 0, where an L1 penalty has its kink. */
static void initialize(fr_dtype dtype, fr_network *network, model *m)
{
    for (int l = 0; l < m->n_layers; l++)
        for (int part = 0; part < 2; part++) {
            double values[MOST_KERNEL];
            ptrdiff_t n = size_of_part(&m->specs[l], part);
            if (n == 0) continue;
            bool last = l == m->n_layers - 1;
            for (ptrdiff_t i = 0; i < n; i++) {
                double size = test_uniform(0.05, last ? 0.15 : 0.6);
                /* outputs near 0.5: inside the range of probabilities without an activation too */
                put(dtype, values, i, last && part == BIAS ? 0.5 : test_below(2) ? size : -size);
                m->layers[l].part[part].value[i] = get(dtype, values, i);
            }
            CHECK(fr_network_set(network, -1, l, part, values) == FR_OK, "set");
        }
    for (int l = 0; l < m->n_layers; l++)
        for (int i = 0; i < 2 && m->specs[l].kind == FR_LAYER_batch_normalization; i++) {
            double values[MOST_UNITS];
            for (ptrdiff_t j = 0; j < m->specs[l].n_out; j++) {
                put(dtype, values, j, test_uniform(0.5, 1.5));
                m->layers[l].moving[i][j] = get(dtype, values, j);
            }
            CHECK(fr_network_set(network, -1, l, FR_MOVING_MEAN + i, values) == FR_OK, "set");
        }
}

static pair create_pair(fr_dtype dtype, const fr_layer *layers, int n_layers)
{
    pair p = {create(dtype, layers, n_layers), calloc(1, sizeof(model))};
    p.model->dtype = dtype;
    p.model->n_layers = n_layers;
    memcpy(p.model->specs, layers, (size_t)n_layers * sizeof *layers);
    initialize(dtype, p.network, p.model);
    return p;
}

/* The state of o at its beginning, of every weight. */
static void begin_slots(model *m, const fr_optimizer *o)
{
    wide slots[FR_MOST_SLOTS];
    oracle_begin(o, slots);
    for (int l = 0; l < m->n_layers; l++)
        for (int part = 0; part < 2; part++)
            for (ptrdiff_t i = 0; i < size_of_part(&m->specs[l], part); i++)
                for (int s = 0; s < FR_MOST_SLOTS; s++) m->layers[l].part[part].slots[s][i] = slots[s];
}

static void destroy_pair(pair p)
{
    fr_network_destroy(p.network);
    free(p.model);
}

/* The largest difference of weights and slots to the model's, relative to values of at least 1. */
static double difference(pair p)
{
    double worst = 0;
    for (int l = 0; l < p.model->n_layers; l++)
        for (int part = 0; part < 2; part++) {
            ptrdiff_t n = size_of_part(&p.model->specs[l], part);
            const parameter *want = &p.model->layers[l].part[part];
            for (int slot = -1; slot < fr_network_slots(p.network) && n > 0; slot++) {
                double got[MOST_KERNEL];
                CHECK(fr_network_get(p.network, slot, l, part, got) == FR_OK, "get");
                for (ptrdiff_t i = 0; i < n; i++) {
                    wide exact = slot < 0 ? want->value[i] : want->slots[slot][i];
                    double gap = (double)(fabsl(get(p.model->dtype, got, i) - exact) /
                                          fmaxl(1, fabsl(exact)));
                    worst = gap <= worst ? worst : gap;
                }
            }
        }
    for (int l = 0; l < p.model->n_layers; l++)
        for (int i = 0; i < 2 && p.model->specs[l].kind == FR_LAYER_batch_normalization; i++) {
            double got[MOST_UNITS];
            CHECK(fr_network_get(p.network, -1, l, FR_MOVING_MEAN + i, got) == FR_OK, "get");
            for (ptrdiff_t j = 0; j < p.model->specs[l].n_out; j++) {
                wide exact = p.model->layers[l].moving[i][j];
                double gap = (double)(fabsl(get(p.model->dtype, got, j) - exact) / fmaxl(1, fabsl(exact)));
                worst = gap <= worst ? worst : gap;
            }
        }
    return worst;
}

static double ledger_difference(const double *got, const wide *want)
{
    double worst = 0;
    for (int i = 0; i < FR_LEDGER_SIZE; i++) {
        double gap = (double)(fabsl(got[i] - want[i]) / fmaxl(1, fabsl(want[i])));
        worst = gap <= worst ? worst : gap;
    }
    return worst;
}

/* A few steps of sums of up to 600 terms; measured: 3e-7 and 2e-15. */
static double tolerance(fr_dtype dtype) { return dtype == FR_FLOAT32 ? 2e-6 : 1e-14; }

/* body(dtype) for both dtypes, all instruction sets, and both kinds of products. */
static void (*network_body)(fr_dtype dtype);

static void with_both_products(fr_dtype dtype)
{
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "native" : "blas";
        CHECK(fr_gemm_choose(name) == FR_OK && strcmp(fr_gemm(), name) == 0, "choose %s", name);
        network_body(dtype);
    }
    CHECK(fr_gemm_choose(NULL) == FR_OK, "the default");
}

static void test_each_network(void (*body)(fr_dtype dtype))
{
    network_body = body;
    test_each_target(with_both_products);
}

/* ---- data ---- */

enum { MOST_ENDS = 100 }; /* columns of x and y */

typedef struct {
    double x[MOST_ROWS * MOST_ENDS], y[MOST_ROWS * MOST_ENDS], weight[MOST_ROWS];
    int32_t label[MOST_ROWS];
    int64_t index[MOST_ROWS];
} rows_of_data;

static rows_of_data data;

/* Targets for the losses of |y - t|, whose gradient's sign steps at y = t. Those within the range of
 * outputs would come as near to it as 1e-6. Of the percentage 100 / |t|, too, has to stay small: near 1e4 it
 * moves weights so far that rounding grows from step to step; from 50 on it is from 1 to 2. */
static void fill_far_targets(fr_dtype dtype, ptrdiff_t n, double nearest)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        double size = test_uniform(nearest, 2 * nearest);
        put(dtype, data.y, i, test_below(2) ? size : -size);
    }
}

static fr_training make_call(fr_dtype dtype, int loss, ptrdiff_t n_rows, ptrdiff_t n_in,
                             ptrdiff_t n_out)
{
    fill(dtype, data.x, n_rows * n_in, -1, 1);
    fill(dtype, data.y, n_rows * n_out, 0, 1);
    fill(dtype, data.weight, n_rows, 0.2, 2);
    if (loss == FR_LOSS_mean_absolute_error || loss == FR_LOSS_quantile)
        fill_far_targets(dtype, n_rows * n_out, 10);
    if (loss == FR_LOSS_mean_absolute_percentage_error) fill_far_targets(dtype, n_rows * n_out, 50);
    for (ptrdiff_t i = 0; i < n_rows; i++) {
        data.label[i] = (int32_t)test_below(n_out);
        data.index[i] = test_below(n_rows);
        for (ptrdiff_t o = 0; o < n_out; o++)
            if (loss == FR_LOSS_binary_crossentropy || loss == FR_LOSS_binary_focal_crossentropy)
                put(dtype, data.y, i * n_out + o, (double)test_below(2));
    }
    bool labels = loss == FR_LOSS_sparse_categorical_crossentropy;
    fr_loss_settings defaults;
    oracle_settings(loss, 0, &defaults);
    return (fr_training){
        .data = {.n_rows = n_rows,
                 .x = data.x,
                 .y = labels ? (void *)data.label : data.y,
                 .weight = data.weight,
                 .index = data.index},
        .stop = n_rows,
        .batch_size = n_rows,
        .loss = loss,
        .loss_settings = defaults,
        .accuracy = labels                                     ? FR_ACCURACY_sparse_categorical
                    : loss == FR_LOSS_categorical_crossentropy ? FR_ACCURACY_categorical
                                                               : FR_ACCURACY_binary,
        .optimizer = {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1},
        .seed = 99,
        .n_threads = 1,
    };
}

static const fr_optimizer optimizers[] = {
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.03},
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.03, .momentum = 0.9, .weight_decay = 0.1},
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.03, .momentum = 0.9, .nesterov = 1},
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.03, .weight_decay = 0.2},
    /* an epsilon that a gradient's rounding cannot compete with */
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.02,
     .beta_1 = 0.9,
     .beta_2 = 0.99,
     .epsilon = 1e-2},
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.02,
     .beta_1 = 0.8,
     .beta_2 = 0.99,
     .epsilon = 1e-2,
     .weight_decay = 0.1},
};
enum { N_OPTIMIZERS = sizeof optimizers / sizeof optimizers[0] };

/* with L1 steps that reach zero; and all the others but lion and ftrl, whose steps follow signs */
static const fr_optimizer more_optimizers[] = {
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.03, .l1_step = FR_L1_STEP_cumulative},
    {.kind = FR_OPTIMIZER_sgd,
     .learning_rate = 0.03,
     .momentum = 0.7,
     .nesterov = 1,
     .l1_step = FR_L1_STEP_proximal},
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.02,
     .beta_1 = 0.9,
     .beta_2 = 0.99,
     .epsilon = 1e-2,
     .l1_step = FR_L1_STEP_proximal},
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.02,
     .beta_1 = 0.9,
     .beta_2 = 0.99,
     .epsilon = 1e-2,
     .weight_decay = 0.1,
     .l1_step = FR_L1_STEP_cumulative},
    {.kind = FR_OPTIMIZER_rmsprop,
     .learning_rate = 0.01,
     .rho = 0.9,
     .epsilon = 1e-2,
     .momentum = 0.5,
     .l1_step = FR_L1_STEP_cumulative},
    {.kind = FR_OPTIMIZER_adagrad,
     .learning_rate = 0.02,
     .initial_accumulator_value = 0.1,
     .epsilon = 1e-3,
     .l1_step = FR_L1_STEP_proximal},
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.02,
     .beta_1 = 0.8,
     .beta_2 = 0.99,
     .epsilon = 1e-2,
     .amsgrad = 1},
    {.kind = FR_OPTIMIZER_adamax, .learning_rate = 0.02, .beta_1 = 0.9, .beta_2 = 0.9, .epsilon = 0.1},
    {.kind = FR_OPTIMIZER_nadam, .learning_rate = 0.02, .beta_1 = 0.9, .beta_2 = 0.99, .epsilon = 0.1},
    {.kind = FR_OPTIMIZER_rmsprop,
     .learning_rate = 0.01,
     .rho = 0.9,
     .epsilon = 1e-2,
     .momentum = 0.5,
     .centered = 1},
    {.kind = FR_OPTIMIZER_adagrad,
     .learning_rate = 0.02,
     .initial_accumulator_value = 0.1,
     .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_adadelta, .learning_rate = 0.5, .rho = 0.9, .epsilon = 0.1},
};
enum { N_MORE_OPTIMIZERS = sizeof more_optimizers / sizeof more_optimizers[0] };

/* Dense, dropout, a dense layer that is frozen or has no bias, and the last one. */
static void make_layers(fr_layer *layers, int hidden, int last)
{
    const fr_layer four[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 5,
         .n_out = 9,
         .activation = hidden,
         .curve = test_curve,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0.02},
         .bias = {0.02, 0},
         .activity = {0.01, 0.03}},
        {.kind = FR_LAYER_dropout, .n_in = 9, .n_out = 9, .rate = 0.25},
        {.kind = FR_LAYER_dense,
         .n_in = 9,
         .n_out = 7,
         .activation = FR_ACTIVATION_tanh,
         .trainable = 1,
         .kernel = {0, 0.01},
         .activity = {0, 0.05}},
        {.kind = FR_LAYER_dense,
         .n_in = 7,
         .n_out = 4,
         .activation = last,
         .curve = test_curve,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0},
         .bias = {0, 0.05},
         .activity = {0.02, 0.01}},
    };
    memcpy(layers, four, sizeof four);
}

/* ---- against the model ---- */

static double largest_gap[2]; /* by dtype: what `tolerance` is set from */

static void train_both(pair p, const fr_training *call, const char *what)
{
    double ledger[FR_LEDGER_SIZE] = {0};
    wide want[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps, asked = (call->stop - call->start + call->batch_size - 1) / call->batch_size;
    CHECK(fr_network_train(p.network, call, ledger, &steps) == FR_OK, "%s", what);
    CHECK(steps == asked, "%s: %td steps", what, steps);
    model_run(p.model, call, true, want);
    double gap = fmax(difference(p), ledger_difference(ledger, want));
    largest_gap[p.model->dtype] = fmax(largest_gap[p.model->dtype], gap);
    CHECK(difference(p) <= tolerance(p.model->dtype), "%s: weights off by %g", what, difference(p));
    CHECK(ledger_difference(ledger, want) <= tolerance(p.model->dtype), "%s: ledger off by %g",
          what, ledger_difference(ledger, want));
}

static void evaluate_both(pair p, const fr_training *call)
{
    double ledger[FR_LEDGER_SIZE] = {0};
    wide want[FR_LEDGER_SIZE] = {0};
    CHECK(fr_network_evaluate(p.network, call, ledger) == FR_OK, "evaluate");
    model_run(p.model, call, false, want);
    CHECK(ledger_difference(ledger, want) <= tolerance(p.model->dtype),
          "evaluate: ledger off by %g", ledger_difference(ledger, want));
}

static void forward_both(pair p, ptrdiff_t n_rows)
{
    static double out[MOST_ROWS * MOST_ENDS];
    fr_dtype dtype = p.model->dtype;
    ptrdiff_t n_in = p.model->specs[0].n_in, n_out = last_of(p.model)->n_out;
    CHECK(fr_network_forward(p.network, n_rows, data.x, out, 1) == FR_OK, "forward");
    double worst = 0;
    for (ptrdiff_t first = 0; first < n_rows; first += MOST_BATCH) {
        ptrdiff_t n = n_rows - first < MOST_BATCH ? n_rows - first : MOST_BATCH;
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t j = 0; j < n_in; j++)
                p.model->x[r][j] = get(dtype, data.x, (first + r) * n_in + j);
        model_forward(p.model, n, false, NULL, 0);
        for (ptrdiff_t r = 0; r < n; r++)
            for (ptrdiff_t o = 0; o < n_out; o++) {
                wide want = p.model->layers[p.model->n_layers - 1].y[r][o];
                double gap = (double)fabsl(get(dtype, out, (first + r) * n_out + o) - want);
                gap /= fmax(1, (double)fabsl(want));
                worst = gap <= worst ? worst : gap;
            }
    }
    /* the weights' differences add up along a row */
    CHECK(worst <= 4 * tolerance(dtype), "forward off by %g", worst);
}

static int natural_head(int loss)
{
    return loss == FR_LOSS_mean_squared_error    ? FR_ACTIVATION_linear
           : loss == FR_LOSS_binary_crossentropy ? FR_ACTIVATION_sigmoid
           : loss == FR_LOSS_binary_focal_crossentropy ? FR_ACTIVATION_sigmoid
                                                 : FR_ACTIVATION_softmax;
}

/* Defaults where a loss of probabilities is asked for others than these: their sum may be near 0. */
static fr_loss_settings some_settings(int activation, int loss, int i)
{
    fr_loss_settings s;
    int n = 1;
    while (oracle_settings(loss, n, &s)) n++;
    oracle_settings(loss, i % n, &s);
    if (!s.from_logits && activation != natural_head(loss)) oracle_settings(loss, 0, &s);
    return s;
}

static void train_case(fr_dtype dtype, int activation, int loss, const fr_optimizer *o, int i)
{
    int variant = activation + loss + i;
    test_case("train %s %s optimizer %d %s %s %s", fr_activation_name(activation),
              fr_loss_name(loss), i, name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[4];
    int hidden = oracle_wants_z(activation) ? activation : variant % FR_ACTIVATION_log_softmax;
    make_layers(layers, hidden, activation);
    layers[2].trainable = variant % 3 != 0;
    layers[0].trainable = variant % 5 != 0;
    layers[3].trainable = variant % 7 != 0;
    layers[1].has_seed = variant % 2, layers[1].seed = 0xFEDCBA9876543210u;
    fr_training call = make_call(dtype, loss, 29, 5, 4);
    call.optimizer = *o;
    call.loss_settings = some_settings(activation, loss, i);
    call.start = 2, call.stop = 27;
    call.batch_size = 8; /* the last batch has one row */
    call.iteration = variant % 4 == 3 ? ((int64_t)1 << 32) + 5 : variant % 4;
    if (variant % 3 == 1) call.data.weight = NULL;
    if (variant % 4 == 2) call.data.index = NULL;
    pair p = create_pair(dtype, layers, 4);
    begin_slots(p.model, o);
    train_both(p, &call, "first call");
    call.iteration += 4;
    call.start = 0, call.stop = 12, call.batch_size = 12;
    train_both(p, &call, "second call");
    evaluate_both(p, &call);
    forward_both(p, 29);
    destroy_pair(p);
}

static void check_against_model(fr_dtype dtype)
{
    for (int activation = 0; activation < FR_N_ACTIVATIONS; activation++)
        for (int loss = 0; loss < FR_N_LOSSES; loss++)
            for (int i = 0; i < N_OPTIMIZERS; i++) {
                /* These differ in f and f' alone; near 1, binary crossentropy has a pole. */
                bool curve = oracle_wants_z(activation), binary = loss == FR_LOSS_binary_crossentropy;
                if (curve && (binary || (i + activation + loss) % 7)) continue;
                /* Of the losses of each output apart, those without poles or steps of the gradient, on
                 * outputs that are far from them. */
                bool apart = loss > FR_LOSS_sparse_categorical_crossentropy;
                bool smooth = loss == FR_LOSS_log_cosh || loss == FR_LOSS_huber ||
                              loss == FR_LOSS_cosine_similarity;
                if (apart && (!smooth || (i + activation) % 5)) continue;
                train_case(dtype, activation, loss, &optimizers[i], i);
            }
}

static void check_more_optimizers(fr_dtype dtype)
{
    for (int loss = 0; loss < FR_N_LOSSES; loss++)
        for (int i = 0; i < N_MORE_OPTIMIZERS; i++)
            train_case(dtype, natural_head(loss), loss, &more_optimizers[i], N_OPTIMIZERS + i);
}

/* Several panels: their column sums, activity penalties and dropout rows must meet. */
static void check_panels(fr_dtype dtype)
{
    for (int loss = 0; loss < FR_N_LOSSES; loss++) {
        test_case("panels %s %s %s %s", fr_loss_name(loss), name_of(dtype), fr_isa(), fr_gemm());
        fr_layer layers[4];
        make_layers(layers, FR_ACTIVATION_relu, natural_head(loss));
        fr_training call = make_call(dtype, loss, 120, 5, 4);
        call.batch_size = 50, call.n_threads = 2;
        pair p = create_pair(dtype, layers, 4);
        train_both(p, &call, "batches of 50, 50, 20");
        call.batch_size = 7, call.stop = 20;
        train_both(p, &call, "smaller batches in the same plan");
        call.batch_size = 60, call.stop = 120, call.n_threads = 4;
        train_both(p, &call, "larger batches again");
        evaluate_both(p, &call);
        forward_both(p, 120);
        forward_both(p, 3);
        destroy_pair(p);
    }
}

/* Hyper-parameters and frozen layers may change between calls. */
static void check_updated_layers(fr_dtype dtype)
{
    test_case("updated layers %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 45,
         .n_out = 40,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1},
        {.kind = FR_LAYER_dense,
         .n_in = 40,
         .n_out = 2,
         .activation = FR_ACTIVATION_linear,
         .use_bias = 1,
         .trainable = 1},
    };
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 10, 45, 2);
    pair p = create_pair(dtype, layers, 2);
    train_both(p, &call, "the large layer frozen");
    for (int step = 0; step < 3; step++) {
        layers[step % 2].trainable = 1, layers[1 - step % 2].trainable = 0;
        layers[0].kernel.l2 = 0.01 * step;
        layers[1].bias.l1 = 0.02 * step;
        CHECK(fr_network_update_layers(p.network, layers) == FR_OK, "update layers");
        memcpy(p.model->specs, layers, sizeof layers);
        train_both(p, &call, "the other layer frozen");
        evaluate_both(p, &call);
    }
    layers[0].trainable = layers[1].trainable = 0;
    CHECK(fr_network_update_layers(p.network, layers) == FR_OK, "update layers");
    memcpy(p.model->specs, layers, sizeof layers);
    train_both(p, &call, "both frozen");
    destroy_pair(p);
}

/* ---- a step in two halves: gradients in memory, then the update ---- */

static fr_status half(pair p, fr_training call, int part, double *ledger, ptrdiff_t *steps)
{
    call.part = part;
    return fr_network_train(p.network, &call, ledger, steps);
}

static void same_bits(pair p, pair q, const char *what)
{
    CHECK(fr_network_slots(p.network) == fr_network_slots(q.network), "%s: slots", what);
    for (int l = 0; l < p.model->n_layers; l++)
        for (int part = 0; part < 2; part++)
            for (int slot = -1; slot < fr_network_slots(p.network); slot++) {
                double a[MOST_KERNEL], b[MOST_KERNEL];
                ptrdiff_t n = size_of_part(&p.model->specs[l], part);
                if (n == 0) continue;
                CHECK(fr_network_get(p.network, slot, l, part, a) == FR_OK, "get");
                CHECK(fr_network_get(q.network, slot, l, part, b) == FR_OK, "get");
                CHECK(memcmp(a, b, (size_t)(n * size_of(p.model->dtype))) == 0,
                      "%s: layer %d part %d slot %d differs", what, l, part, slot);
            }
}

/* What stands between the halves are the model's gradients. */
static void check_gradients(pair p, const char *what)
{
    double worst = 0;
    for (int l = 0; l < p.model->n_layers; l++)
        for (int part = 0; part < 2 && p.model->specs[l].trainable; part++) {
            double got[MOST_KERNEL];
            ptrdiff_t n = size_of_part(&p.model->specs[l], part);
            if (n == 0) continue;
            CHECK(fr_network_get(p.network, FR_GRADIENT, l, part, got) == FR_OK, "get");
            for (ptrdiff_t i = 0; i < n; i++) {
                wide want = p.model->layers[l].part[part].gradient[i];
                double gap = (double)fabsl(get(p.model->dtype, got, i) - want);
                gap /= fmax(1, (double)fabsl(want));
                worst = gap <= worst ? worst : gap;
            }
        }
    CHECK(worst <= tolerance(p.model->dtype), "%s: gradients off by %g", what, worst);
}

static void halves_case(fr_dtype dtype, const fr_optimizer *o, int i)
{
    test_case("halves, optimizer %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[4];
    make_layers(layers, FR_ACTIVATION_tanh, FR_ACTIVATION_sigmoid);
    layers[3].trainable = i % 3 != 0;
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 120, 5, 4);
    call.optimizer = *o;
    call.n_threads = 1 + i % 3;
    call.batch_size = 50; /* the last one of 20 rows */
    pair whole = create_pair(dtype, layers, 4), halves = create_pair(dtype, layers, 4);
    for (int l = 0; l < 4; l++)
        for (int part = 0; part < 2; part++) {
            double w[MOST_KERNEL];
            if (!size_of_part(&layers[l], part)) continue;
            CHECK(fr_network_get(whole.network, -1, l, part, w) == FR_OK, "get");
            CHECK(fr_network_set(halves.network, -1, l, part, w) == FR_OK, "set");
        }
    memcpy(halves.model->layers, whole.model->layers, sizeof whole.model->layers);
    begin_slots(halves.model, o);
    double ledger[2][FR_LEDGER_SIZE] = {{0}};
    wide want[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    for (int epoch = 0; epoch < 2; epoch++) {
        CHECK(fr_network_train(whole.network, &call, ledger[0], &steps) == FR_OK, "whole");
        fr_training one = call;
        for (int b = 0; b < 3; b++, one.iteration++) {
            one.start = 50 * b, one.stop = b < 2 ? 50 * (b + 1) : 120;
            double before[FR_LEDGER_SIZE];
            memcpy(before, ledger[1], sizeof before);
            CHECK(half(halves, one, FR_TO_GRADIENTS, ledger[1], &steps) == FR_OK && steps == 0,
                  "first half");
            CHECK(memcmp(before, ledger[1], sizeof before) == 0, "the ledger moved");
            CHECK(difference(halves) <= tolerance(dtype), "the first half moved a weight");
            model_run(halves.model, &one, true, want); /* keeps the gradients */
            check_gradients(halves, "between");
            CHECK(half(halves, one, FR_FROM_GRADIENTS, ledger[1], &steps) == FR_OK && steps == 1,
                  "second half");
        }
        same_bits(whole, halves, epoch ? "second epoch" : "first epoch");
        CHECK(memcmp(ledger[0], ledger[1], sizeof ledger[0]) == 0, "ledgers differ");
        call.iteration += 3;
    }
    CHECK(ledger_difference(ledger[1], want) <= tolerance(dtype), "ledger");

    /* A second half follows its first one only. */
    call.stop = 50;
    CHECK(half(halves, call, FR_FROM_GRADIENTS, ledger[1], &steps) == FR_BAD_ARGUMENT, "no first");
    CHECK(half(halves, call, FR_TO_GRADIENTS, ledger[1], &steps) == FR_OK, "first half");
    CHECK(fr_network_train(halves.network, &call, ledger[1], &steps) == FR_OK, "whole");
    CHECK(half(halves, call, FR_FROM_GRADIENTS, ledger[1], &steps) == FR_BAD_ARGUMENT, "stale");
    call.stop = 51;
    CHECK(half(halves, call, FR_TO_GRADIENTS, ledger[1], &steps) == FR_BAD_ARGUMENT, "two batches");
    destroy_pair(whole);
    destroy_pair(halves);
}

static void check_halves(fr_dtype dtype)
{
    for (int i = 0; i < N_OPTIMIZERS; i++) halves_case(dtype, &optimizers[i], i);
    for (int i = 0; i < N_MORE_OPTIMIZERS; i++)
        halves_case(dtype, &more_optimizers[i], N_OPTIMIZERS + i);
}

/* dy (n, n_out) of a batch of mean_squared_error, from what an engine left of the outputs. */
static double mean_squares(fr_dtype dtype, const fr_training *call, ptrdiff_t n_out, const double *outputs,
                           double *dy)
{
    ptrdiff_t n = call->stop - call->start;
    double loss = 0;
    for (ptrdiff_t i = 0; i < n * n_out; i++) {
        ptrdiff_t row = call->data.index[call->start + i / n_out];
        double weight = get(dtype, call->data.weight, row);
        double e = get(dtype, outputs, i) - get(dtype, call->data.y, row * n_out + i % n_out);
        loss += weight * e * e / (double)n_out;
        put(dtype, dy, i, 2 * weight * e / (double)(n * n_out));
    }
    return loss;
}

/* A step in three parts, with the loss taken by the caller in between, is that of the engine's own loss. */
static void check_own_loss(fr_dtype dtype)
{
    for (int i = 0; i < 6; i++) {
        test_case("own loss %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
        fr_layer layers[4];
        make_layers(layers, FR_ACTIVATION_tanh, i % 2 ? FR_ACTIVATION_sigmoid : FR_ACTIVATION_gelu);
        layers[0].trainable = i % 3 != 0;
        fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 120, 5, 4);
        double outputs[60 * 4], dy[60 * 4], ledger[FR_LEDGER_SIZE] = {0};
        wide want[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        call.optimizer = optimizers[i];
        call.n_threads = 1 + i % 3;
        pair p = create_pair(dtype, layers, 4);
        begin_slots(p.model, &call.optimizer);
        for (int b = 0; b < 3; b++, call.iteration++) {
            call.start = 50 * b, call.stop = b < 2 ? 50 * (b + 1) : 120, call.batch_size = 50;
            CHECK(half(p, call, FR_TO_OUTPUTS, ledger, &steps) == FR_BAD_ARGUMENT, "no outputs");
            call.outputs = outputs;
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_BAD_ARGUMENT, "none yet");
            CHECK(half(p, call, FR_TO_OUTPUTS, ledger, &steps) == FR_OK && steps == 0, "outputs");
            double loss = mean_squares(dtype, &call, 4, outputs, dy);
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_BAD_ARGUMENT, "no dy");
            CHECK(half(p, call, FR_TO_OUTPUTS, ledger, &steps) == FR_OK, "outputs again");
            call.dy = dy;
            CHECK(half(p, call, FR_FROM_GRADIENTS, ledger, &steps) == FR_BAD_ARGUMENT, "too early");
            CHECK(half(p, call, FR_TO_OUTPUTS, ledger, &steps) == FR_OK, "outputs once more");
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_OK && steps == 0, "gradients");
            CHECK(difference(p) <= tolerance(dtype), "a weight moved early");
            fr_training whole = call;
            model_run(p.model, &whole, true, want);
            check_gradients(p, "between");
            CHECK(half(p, call, FR_FROM_GRADIENTS, ledger, &steps) == FR_OK && steps == 1, "update");
            ledger[FR_LEDGER_DATA_LOSS] += loss;
            call.outputs = NULL, call.dy = NULL;
        }
        ledger[FR_LEDGER_CORRECT] = (double)want[FR_LEDGER_CORRECT]; /* the caller's business, too */
        CHECK(difference(p) <= tolerance(dtype), "off by %g", difference(p));
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger");
        destroy_pair(p);
    }
}

/* Rates of a hidden layer, of an activation alone and of the last layer, which the loss fuses; batches of several
 * panels, with batch normalization between or not; a network that gets them, and loses them, later. */
static void check_rates(fr_dtype dtype)
{
    for (int i = 0; i < 8; i++) {
        bool normal = i & 1, fused = i & 2, late = i & 4;
        test_case("rates %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
        int last = fused ? FR_ACTIVATION_sigmoid : FR_ACTIVATION_hard_sigmoid;
        fr_layer layers[] = {
            {.n_in = 5, .n_out = 37, .activation = FR_ACTIVATION_sigmoid, .use_bias = 1, .trainable = 1,
             .activity_kl = {0.3, 0.1}, .activity = {0.01, 0}},
            {.kind = normal ? FR_LAYER_batch_normalization : FR_LAYER_layer_normalization, .n_in = 37, .n_out = 37,
             .epsilon = 1e-3, .momentum = 0.9, .trainable = 1, .use_bias = 1, .use_gamma = 1},
            {.n_in = 37, .n_out = 9, .use_bias = 1, .trainable = i != 3},
            {.kind = FR_LAYER_activation, .n_in = 9, .n_out = 9, .activation = FR_ACTIVATION_softmax,
             .activity_kl = {0.2, 0.4}},
            {.n_in = 9, .n_out = 3, .activation = last, .trainable = 1, .use_bias = 1,
             .activity_kl = {0.1, 0.3}, .activity = {0, 0.02}},
        };
        fr_layer without[5];
        memcpy(without, layers, sizeof layers);
        for (int l = 0; l < 5; l++) without[l].activity_kl = (fr_kl){0, 0};
        fr_training call = make_call(dtype, FR_LOSS_binary_crossentropy, 120, 5, 3);
        call.batch_size = 50, call.n_threads = 1 + i % 3, call.optimizer = optimizers[i % 5];
        pair p = create_pair(dtype, late ? without : layers, 5);
        begin_slots(p.model, &call.optimizer);
        if (late) {
            train_both(p, &call, "without");
            memcpy(p.model->specs, layers, sizeof layers);
            CHECK(fr_network_update_layers(p.network, layers) == FR_OK, "rates");
        }
        train_both(p, &call, "batches of 50, 50, 20");
        evaluate_both(p, &call);
        forward_both(p, 120);
        double values[] = {0.1, 0.5, 0.2};
        fr_schedule schedule = {.setting = FR_SETTING_activity_kl, .layer = 0, .values = values};
        for (int b = 0; b < 3; b++) { /* in halves, and along a schedule */
            ptrdiff_t steps;
            double ledger[FR_LEDGER_SIZE] = {0};
            wide want[FR_LEDGER_SIZE] = {0};
            call.start = 40 * b, call.stop = 40 * (b + 1), call.iteration++;
            schedule.values = values + b;
            call.schedules = &schedule, call.n_schedules = 1;
            CHECK(half(p, call, FR_TO_GRADIENTS, ledger, &steps) == FR_OK, "first half");
            CHECK(half(p, call, FR_FROM_GRADIENTS, ledger, &steps) == FR_OK, "second half");
            p.model->specs[0].activity_kl.kl = values[b];
            model_run(p.model, &call, true, want);
            CHECK(difference(p) <= tolerance(dtype), "halves: off by %g", difference(p));
            CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger of halves");
        }
        call.n_schedules = 0, call.start = 0, call.stop = 120;
        memcpy(p.model->specs, without, sizeof layers);
        CHECK(fr_network_update_layers(p.network, without) == FR_OK, "none again");
        train_both(p, &call, "none again");
        evaluate_both(p, &call);
        destroy_pair(p);
    }
}

/* A penalty of activities that the caller takes in the middle of a step is the engine's. */
static void check_watches(fr_dtype dtype)
{
    for (int i = 0; i < 6; i++) {
        test_case("watches %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
        const ptrdiff_t at[] = {0, 2, 3}, widths[] = {9, 7, 4};
        const fr_regularizer engine = {0, 0.3};
        fr_layer layers[4], watched[4];
        make_layers(layers, FR_ACTIVATION_tanh, i % 2 ? FR_ACTIVATION_sigmoid : FR_ACTIVATION_gelu);
        for (int w = 0; w < 3; w++) layers[at[w]].activity = engine;
        memcpy(watched, layers, sizeof layers);
        for (int w = 0; w < 3; w++) watched[at[w]].activity = (fr_regularizer){0, 0};
        fr_training call = make_call(dtype, i % 2 ? FR_LOSS_binary_crossentropy : FR_LOSS_huber, 120, 5, 4);
        static double y[3][60 * 9], dy[3][60 * 9], all[3][120 * 9];
        fr_watch watches[3];
        double ledger[FR_LEDGER_SIZE] = {0};
        wide want[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        call.optimizer = optimizers[i];
        call.n_threads = 1 + i % 3;
        pair p = create_pair(dtype, layers, 4);
        begin_slots(p.model, &call.optimizer);
        CHECK(fr_network_update_layers(p.network, watched) == FR_OK, "none of the engine's");
        for (int w = 0; w < 3; w++) watches[w] = (fr_watch){.layer = at[w], .y = y[w]};
        call.watches = watches, call.n_watches = 3;
        for (int b = 0; b < 3; b++, call.iteration++) {
            call.start = 50 * b, call.stop = b < 2 ? 50 * (b + 1) : 120, call.batch_size = 50;
            CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_BAD_ARGUMENT, "in whole steps");
            for (int w = 0; w < 3; w++) watches[w].dy = NULL;
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_BAD_ARGUMENT, "none yet");
            CHECK(half(p, call, FR_TO_LOSS, ledger, &steps) == FR_OK && steps == 0, "to the loss");
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_BAD_ARGUMENT, "no gradients");
            ptrdiff_t n = call.stop - call.start;
            for (int w = 0; w < 3; w++) {
                for (ptrdiff_t e = 0; e < n * widths[w]; e++) {
                    wide a = get(dtype, y[w], e);
                    put(dtype, dy[w], e, (double)(oracle_penalty_gradient(engine, a) / n));
                    ledger[FR_LEDGER_ACTIVITY_PENALTY] += (double)oracle_penalty(engine, a);
                }
                watches[w].dy = dy[w];
            }
            CHECK(half(p, call, FR_TO_LOSS, ledger, &steps) == FR_OK, "again");
            CHECK(half(p, call, FR_OUTPUTS_TO_GRADIENTS, ledger, &steps) == FR_OK && steps == 0, "gradients");
            fr_training whole = call;
            whole.n_watches = 0;
            model_run(p.model, &whole, true, want);
            check_gradients(p, "between");
            CHECK(half(p, call, FR_FROM_GRADIENTS, ledger, &steps) == FR_OK && steps == 1, "update");
        }
        CHECK(difference(p) <= tolerance(dtype), "off by %g", difference(p));
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger");
        memset(ledger, 0, sizeof ledger), memset(want, 0, sizeof want);
        call.start = 0, call.stop = 120, call.batch_size = 50;
        for (int w = 0; w < 3; w++) watches[w].y = all[w];
        CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_OK, "evaluate");
        for (int w = 0; w < 3; w++)
            for (ptrdiff_t e = 0; e < 120 * widths[w]; e++)
                ledger[FR_LEDGER_ACTIVITY_PENALTY] += (double)oracle_penalty(engine, get(dtype, all[w], e));
        model_run(p.model, &call, false, want);
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger of evaluation");
        watches[0].layer = 1;
        CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_BAD_ARGUMENT, "a layer of noise");
        watches[0].layer = 4;
        CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_BAD_ARGUMENT, "no layer");
        destroy_pair(p);
    }
}

/* Rows of three that a flatten makes one of, beside the same network on whole rows, whose kernel holds a copy for each: the
 * sums over these of its gradients are those of the one. */
static void check_flatten(fr_dtype dtype)
{
    enum { IN = 5, HIDDEN = 18, TIMES = 3, OUT = 4, ROWS = 50 };
    for (int i = 0; i < 4; i++) {
        test_case("flatten %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
        const fr_kl rates = {i & 1 ? 0.2 : 0, i & 1 ? 0.3 : 0};
        fr_layer rows[] = {
            {.n_in = IN, .n_out = HIDDEN, .activation = FR_ACTIVATION_sigmoid, .use_bias = 1, .trainable = 1,
             .activity = {0.1, 0.2}},
            {.kind = FR_LAYER_flatten, .n_in = HIDDEN, .n_out = TIMES * HIDDEN},
            {.n_in = TIMES * HIDDEN, .n_out = OUT, .activation = FR_ACTIVATION_tanh, .use_bias = 1, .trainable = 1},
        };
        fr_layer whole[] = {
            {.n_in = TIMES * IN, .n_out = TIMES * HIDDEN, .activation = FR_ACTIVATION_sigmoid, .use_bias = 1,
             .trainable = 1, .activity = {0.1, 0.2}},
            rows[2],
        };
        rows[2].activity_kl = whole[1].activity_kl = rates;
        fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, ROWS, TIMES * IN, OUT);
        call.batch_size = ROWS, call.n_threads = 1 + i, call.part = FR_TO_GRADIENTS;
        fr_network *one = create(dtype, rows, 3), *other = create(dtype, whole, 2);
        static double w[MOST_KERNEL], b[MOST_KERNEL], all[MOST_KERNEL], all_b[MOST_KERNEL];
        double ledger[2][FR_LEDGER_SIZE] = {{0}};
        ptrdiff_t steps;
        memset(all, 0, sizeof all);
        fill(dtype, w, IN * HIDDEN, -0.5, 0.5);
        fill(dtype, b, HIDDEN, -0.5, 0.5);
        for (ptrdiff_t t = 0; t < TIMES; t++)
            for (ptrdiff_t o = 0; o < HIDDEN; o++) {
                put(dtype, all_b, t * HIDDEN + o, (double)get(dtype, b, o));
                for (ptrdiff_t k = 0; k < IN; k++)
                    put(dtype, all, (t * IN + k) * TIMES * HIDDEN + t * HIDDEN + o, (double)get(dtype, w, k * HIDDEN + o));
            }
        fr_network_set(one, -1, 0, FR_KERNEL, w), fr_network_set(one, -1, 0, FR_BIAS, b);
        fr_network_set(other, -1, 0, FR_KERNEL, all), fr_network_set(other, -1, 0, FR_BIAS, all_b);
        fill(dtype, w, TIMES * HIDDEN * OUT, -0.5, 0.5);
        fr_network_set(one, -1, 2, FR_KERNEL, w), fr_network_set(other, -1, 1, FR_KERNEL, w);
        CHECK(fr_network_train(one, &call, ledger[0], &steps) == FR_OK, "rows of three");
        CHECK(fr_network_train(other, &call, ledger[1], &steps) == FR_OK, "whole rows");
        double worst = 0, bound = 200 * unit_of(dtype);
        for (int part = FR_KERNEL; part <= FR_BIAS; part++) {
            ptrdiff_t n_in = part == FR_KERNEL ? IN : 1;
            CHECK(fr_network_get(one, FR_GRADIENT, 0, part, w) == FR_OK, "gradient");
            CHECK(fr_network_get(other, FR_GRADIENT, 0, part, all) == FR_OK, "gradients");
            for (ptrdiff_t k = 0; k < n_in; k++)
                for (ptrdiff_t o = 0; o < HIDDEN; o++) {
                    wide sum = 0, size = 1;
                    for (ptrdiff_t t = 0; t < TIMES; t++) {
                        ptrdiff_t at = part == FR_KERNEL ? (t * IN + k) * TIMES * HIDDEN : 0;
                        sum += get(dtype, all, at + t * HIDDEN + o);
                    }
                    worst = fmax(worst, (double)(fabsl(get(dtype, w, k * HIDDEN + o) - sum) / size));
                }
        }
        CHECK(worst <= bound, "gradients: off by %g", worst);
        call.part = FR_WHOLE_STEPS;
        for (int n = 0; n < 2; n++) {
            memset(ledger[n], 0, sizeof ledger[n]);
            CHECK(fr_network_evaluate(n ? other : one, &call, ledger[n]) == FR_OK, "evaluate");
        }
        for (int e = 0; e < FR_LEDGER_SIZE; e++)
            CHECK(fabs(ledger[0][e] - ledger[1][e]) <= bound * fmax(1, fabs(ledger[1][e])), "ledger %d", e);
        CHECK(fr_network_forward(one, ROWS, call.data.x, all, 2) == FR_OK, "forward");
        CHECK(fr_network_forward(other, ROWS, call.data.x, w, 2) == FR_OK, "forward");
        for (ptrdiff_t e = 0; e < ROWS * OUT; e++)
            CHECK(fabsl(get(dtype, all, e) - get(dtype, w, e)) <= bound, "output %td", e);
        static const int64_t start[ROWS + 1];
        static const int32_t column[1];
        call.data.start = start, call.data.column = column;
        CHECK(fr_network_train(one, &call, ledger[0], &steps) == FR_BAD_ARGUMENT, "compressed rows");
        CHECK(fr_network_evaluate(one, &call, ledger[0]) == FR_BAD_ARGUMENT, "compressed rows");
        fr_network_destroy(one);
        fr_network_destroy(other);
    }
}

/* A half step sets gradients that were changed in between; blocks of several panels. */
static void check_set_gradients(fr_dtype dtype)
{
    test_case("set gradients %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layer = {.kind = FR_LAYER_dense, .n_in = 100, .n_out = 70, .trainable = 1};
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 10, 100, 70);
    call.optimizer.learning_rate = 1;
    pair p = create_pair(dtype, &layer, 1);
    double ledger[FR_LEDGER_SIZE] = {0}, g[MOST_KERNEL];
    ptrdiff_t steps;
    fill(dtype, g, 100 * 70, -1, 1);
    CHECK(fr_network_set(p.network, FR_GRADIENT, 0, KERNEL, g) == FR_BAD_ARGUMENT, "none yet");
    CHECK(half(p, call, FR_TO_GRADIENTS, ledger, &steps) == FR_OK, "first half");
    CHECK(fr_network_set(p.network, FR_GRADIENT, 0, KERNEL, g) == FR_OK, "set");
    CHECK(half(p, call, FR_FROM_GRADIENTS, ledger, &steps) == FR_OK, "second half");
    for (ptrdiff_t i = 0; i < 100 * 70; i++)
        p.model->layers[0].part[KERNEL].value[i] -= get(dtype, g, i);
    CHECK(difference(p) <= tolerance(dtype), "off by %g", difference(p));
    destroy_pair(p);
}

/* A kernel that comes to stand the other way takes the gradients of half a step along. */
static void check_gradients_of_a_turn(fr_dtype dtype)
{
    test_case("gradients of a turn %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {{.kind = FR_LAYER_dense, .n_in = 6, .n_out = 5, .trainable = 1},
                         {.kind = FR_LAYER_dense, .n_in = 5, .n_out = 1, .trainable = 1}};
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 10, 6, 1);
    pair p = create_pair(dtype, layers, 2);
    double ledger[FR_LEDGER_SIZE] = {0}, g[30];
    ptrdiff_t steps;
    CHECK(half(p, call, FR_TO_GRADIENTS, ledger, &steps) == FR_OK, "first half");
    layers[1].kernel_constraint.kind = FR_CONSTRAINT_non_neg;
    CHECK(fr_network_update_layers(p.network, layers) == FR_OK, "update");
    bool turns = strcmp(fr_gemm(), "native") == 0 && fr_kernels_for(dtype)->few_units >= 1;
    CHECK(fr_network_get(p.network, FR_GRADIENT, 0, KERNEL, g) == (turns ? FR_BAD_ARGUMENT : FR_OK), "get");
    destroy_pair(p);
}

/* Nothing but dropout; dropout first and last. */
static void check_dropout_layers(fr_dtype dtype)
{
    test_case("dropout layers %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dropout, .n_in = 6, .n_out = 6, .rate = 0.4},
        {.kind = FR_LAYER_dense,
         .n_in = 6,
         .n_out = 3,
         .activation = FR_ACTIVATION_sigmoid,
         .use_bias = 1,
         .trainable = 1},
        {.kind = FR_LAYER_dropout, .n_in = 3, .n_out = 3, .rate = 0.2},
    };
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 20, 6, 3);
    call.batch_size = 6;
    pair p = create_pair(dtype, layers, 3);
    train_both(p, &call, "dropout around");
    evaluate_both(p, &call);
    forward_both(p, 20);
    destroy_pair(p);

    call = make_call(dtype, FR_LOSS_mean_squared_error, 20, 6, 6);
    p = create_pair(dtype, layers, 1);
    train_both(p, &call, "dropout alone");
    evaluate_both(p, &call);
    forward_both(p, 20);
    destroy_pair(p);
}

/* Every kind of layer between dense ones, at the entry, and, where it has an activation, at the end. */
static void check_layer_kinds(fr_dtype dtype)
{
    const fr_layer dense = {.kind = FR_LAYER_dense, .use_bias = 1, .trainable = 1, .kernel = {1e-3, 1e-3}};
    for (int kind = 1; kind < FR_N_LAYER_KINDS; kind++)
        for (int width = 0; width < 3; width++) {
            ptrdiff_t n = ((ptrdiff_t[]){1, 9, 70})[width];
            test_case("%s of %td %s %s %s", fr_layer_kind_name(kind), n, name_of(dtype), fr_isa(), fr_gemm());
            fr_layer middle = {.kind = kind,
                               .n_in = n,
                               .n_out = n,
                               .activation = FR_ACTIVATION_tanh,
                               .curve = test_curve,
                               .activity = {0.01, 0.02},
                               .rate = 0.3,
                               .stddev = 0.2,
                               .use_gamma = width != 1,
                               .use_bias = width != 2,
                               .trainable = 1,
                               .kernel = {1e-3, 1e-3},
                               .bias = {1e-3, 1e-3},
                               .epsilon = 0.1,
                               .momentum = 0.6};
            fr_layer first = middle, slopes = middle, last = middle;
            first.n_in = first.n_out = 5;
            slopes.activation = FR_ACTIVATION_softsign;
            last.n_in = last.n_out = 4;
            last.activation = FR_ACTIVATION_softmax;
            fr_layer layers[] = {first, dense, middle, slopes, dense, dense, last};
            layers[1].n_in = 5, layers[1].n_out = layers[4].n_in = n;
            layers[4].n_out = layers[5].n_in = 7, layers[5].n_out = 4;
            layers[4].activation = FR_ACTIVATION_softsign;
            fr_training call = make_call(dtype, FR_LOSS_categorical_crossentropy, 60, 5, 4);
            call.batch_size = 25, call.optimizer = optimizers[1];
            /* A loss of probabilities wants a softmax last: noise stands below it. */
            if (kind != FR_LAYER_activation) layers[5].activation = FR_ACTIVATION_softmax;
            pair p = create_pair(dtype, layers, kind == FR_LAYER_activation ? 7 : 6);
            train_both(p, &call, "train");
            call.iteration += 3;
            p.model->specs[2].trainable = 0; /* frozen for one call */
            fr_layer frozen[7];
            memcpy(frozen, p.model->specs, sizeof frozen);
            CHECK(fr_network_update_layers(p.network, frozen) == FR_OK, "freeze");
            train_both(p, &call, "frozen");
            frozen[2].trainable = p.model->specs[2].trainable = 1;
            CHECK(fr_network_update_layers(p.network, frozen) == FR_OK, "free");
            train_both(p, &call, "again");
            evaluate_both(p, &call);
            forward_both(p, 60);
            destroy_pair(p);
        }
}

/* Kernels of several panels and blocks. */
static void check_wide_layers(fr_dtype dtype)
{
    fr_layer tall[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 100,
         .n_out = 70,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {1e-4, 1e-3},
         .activity = {1e-3, 1e-3}},
        {.kind = FR_LAYER_dropout, .n_in = 70, .n_out = 70, .rate = 0.3},
        {.kind = FR_LAYER_dense,
         .n_in = 70,
         .n_out = 37,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = 1,
         .bias = {1e-3, 1e-3},
         .activity = {1e-2, 1e-2}},
    };
    fr_layer flat[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 8,
         .n_out = 600,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {1e-4, 1e-3}},
        {.kind = FR_LAYER_dense,
         .n_in = 600,
         .n_out = 3,
         .activation = FR_ACTIVATION_relu,
         .trainable = 1},
    };
    test_case("wide layers %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_training call = make_call(dtype, FR_LOSS_categorical_crossentropy, 60, 100, 37);
    call.batch_size = 25, call.optimizer = optimizers[4];
    pair p = create_pair(dtype, tall, 3);
    train_both(p, &call, "tall");
    evaluate_both(p, &call);
    forward_both(p, 60);
    destroy_pair(p);
    call = make_call(dtype, FR_LOSS_mean_squared_error, 60, 8, 3);
    call.batch_size = 40;
    p = create_pair(dtype, flat, 2);
    train_both(p, &call, "flat");
    evaluate_both(p, &call);
    forward_both(p, 60);
    destroy_pair(p);
}

/* Sets all but every `keep`-th weight of the kernels to 0. */
static void thin(pair p, int keep)
{
    for (int l = 0; l < p.model->n_layers; l++) {
        double values[MOST_KERNEL];
        ptrdiff_t n = size_of_part(&p.model->specs[l], KERNEL);
        if (n == 0) continue;
        for (ptrdiff_t i = 0; i < n; i++) {
            wide *w = &p.model->layers[l].part[KERNEL].value[i];
            if ((i * 7 + l) % keep != 0) *w = 0;
            put(p.model->dtype, values, i, (double)*w);
        }
        CHECK(fr_network_set(p.network, -1, l, KERNEL, values) == FR_OK, "set");
    }
}

static double density_of(fr_network *network, ptrdiff_t layer, ptrdiff_t n_rows)
{
    double density = -1;
    CHECK(fr_network_density(network, layer, n_rows, &density) == FR_OK, "density");
    return density;
}

/* Zeros are left out at inference; weights that train or are set are looked at again. */
static void check_sparse_kernels(fr_dtype dtype)
{
    static const ptrdiff_t numbers[] = {1, 3, 16, 39, 60};
    test_case("sparse kernels %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 33,
         .n_out = 41,
         .activation = FR_ACTIVATION_relu,
         .use_bias = 1,
         .trainable = 1,
         .activity = {1e-3, 1e-3}},
        {.kind = FR_LAYER_dropout, .n_in = 41, .n_out = 41, .rate = 0.3},
        {.kind = FR_LAYER_dense,
         .n_in = 41,
         .n_out = 20,
         .activation = FR_ACTIVATION_softmax,
         .trainable = 1,
         .activity = {1e-3, 1e-3}},
    };
    fr_training call = make_call(dtype, FR_LOSS_categorical_crossentropy, 60, 33, 20);
    call.batch_size = 20;
    CHECK(fr_sparse_choose("always") == FR_OK && strcmp(fr_sparse(), "always") == 0, "always");
    pair p = create_pair(dtype, layers, 3);
    CHECK(fr_sparse_choose(NULL) == FR_OK && strcmp(fr_sparse(), "auto") == 0, "auto");
    for (int keep = 1; keep < 12; keep += 5) {
        initialize(dtype, p.network, p.model);
        thin(p, keep);
        for (int i = 0; i < 5; i++) forward_both(p, numbers[i]);
        evaluate_both(p, &call);
        double want = (double)((33 * 41 + keep - 1) / keep) / (33 * 41);
        CHECK(fabs(density_of(p.network, 0, 1) - want) < 1e-12, "density");
        CHECK(density_of(p.network, 1, 1) == 1, "density of dropout");
    }
    train_both(p, &call, "from few weights");
    forward_both(p, 60);
    double density = density_of(p.network, 0, 60);
    CHECK(density > 0.2, "trained");
    CHECK(fr_network_keep(p.network, 1) == FR_OK, "keep");
    thin(p, 5);
    forward_both(p, 60);
    CHECK(density_of(p.network, 0, 60) < 0.21, "thin");
    CHECK(fr_network_put_back(p.network) == FR_OK, "put back");
    CHECK(density_of(p.network, 0, 60) == density, "put back");
    CHECK(fr_network_density(p.network, 3, 1, &density) == FR_BAD_ARGUMENT, "no such layer");
    CHECK(fr_network_density(p.network, 0, 0, &density) == FR_BAD_ARGUMENT, "no rows");
    destroy_pair(p);
}

/* data.x as compressed rows, of which about one in `keep` is left; what `call` reads of them instead. */
static fr_data compress_data(fr_dtype dtype, const fr_data *plain, ptrdiff_t n_in, ptrdiff_t keep)
{
    static double value[MOST_ROWS * MOST_ENDS];
    static int64_t start[MOST_ROWS + 1];
    static int32_t column[MOST_ROWS * MOST_ENDS];
    fr_data rows = *plain;
    ptrdiff_t end = 0;
    for (ptrdiff_t r = 0; r < plain->n_rows; r++) {
        for (ptrdiff_t j = 0; j < n_in; j++) {
            if (r % 7 == 3 || test_below(keep)) put(dtype, data.x, r * n_in + j, 0); /* or an empty row */
            double element = get(dtype, data.x, r * n_in + j);
            if (element == 0) continue;
            column[end] = (int32_t)j;
            put(dtype, value, end++, element);
        }
        start[r + 1] = end;
    }
    rows.x = value, rows.start = start, rows.column = column;
    return rows;
}

/* Compressed rows give the network what the same rows give it with all their zeros: in training,
 * where a kernel has more rows than are listed at once, evaluation and inference. */
static void compressed_case(fr_dtype dtype, const fr_layer *layers, int n_layers, int n_threads)
{
    test_case("compressed rows, %d layers, %d threads %s %s %s", n_layers, n_threads, name_of(dtype),
              fr_isa(), fr_gemm());
    ptrdiff_t n_in = layers[0].n_in, n_out = layers[n_layers - 1].n_out;
    static double plain_out[MOST_ROWS * MOST_ENDS], out[MOST_ROWS * MOST_ENDS];
    fr_training plain = make_call(dtype, FR_LOSS_categorical_crossentropy, 53, n_in, n_out);
    fr_data rows = compress_data(dtype, &plain.data, n_in, 4);
    plain.batch_size = 20, plain.stop = 51, plain.n_threads = n_threads;
    plain.optimizer = optimizers[1];
    pair p = create_pair(dtype, layers, n_layers);
    for (int round = 0; round < 3; round++) {
        fr_training call = plain;
        double ledger[FR_LEDGER_SIZE] = {0};
        wide want[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        call.iteration = 3 * round;
        if (round == 1) call.data.index = NULL, call.start = 5;
        model_run(p.model, &call, true, want);
        if (round < 2) { /* then plain rows, in the same plan */
            call.data.x = rows.x, call.data.start = rows.start, call.data.column = rows.column;
        }
        CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_OK && steps == 3, "train");
        CHECK(difference(p) <= tolerance(dtype), "round %d: weights off by %g", round, difference(p));
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger off by %g",
              ledger_difference(ledger, want));
    }
    fr_training call = plain;
    double ledger[FR_LEDGER_SIZE] = {0}, worst = 0;
    wide want[FR_LEDGER_SIZE] = {0};
    call.start = 3; /* batches of the model as long as the engine's sums are weighted */
    model_run(p.model, &call, false, want);
    call.data.x = rows.x, call.data.start = rows.start, call.data.column = rows.column;
    CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_OK, "evaluate");
    CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "evaluate: ledger off by %g",
          ledger_difference(ledger, want));
    forward_both(p, 53);
    CHECK(fr_network_forward(p.network, 53, data.x, plain_out, n_threads) == FR_OK, "forward");
    CHECK(fr_network_forward_data(p.network, &rows, out, n_threads) == FR_OK, "forward of nonzeros");
    for (ptrdiff_t i = 0; i < 53 * n_out; i++) {
        double gap = fabs(get(dtype, out, i) - get(dtype, plain_out, i));
        worst = gap <= worst ? worst : gap;
    }
    CHECK(worst <= tolerance(dtype), "forward off by %g", worst);
    rows.column = NULL;
    CHECK(fr_network_forward_data(p.network, &rows, out, 1) == FR_BAD_ARGUMENT, "no columns");
    call.data.column = NULL;
    CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_BAD_ARGUMENT, "no columns");
    destroy_pair(p);
}

static void check_compressed_rows(fr_dtype dtype)
{
    fr_layer layers[] = {
        {.kind = FR_LAYER_dropout, .n_in = 97, .n_out = 97, .rate = 0.25},
        {.kind = FR_LAYER_dense,
         .n_in = 97,
         .n_out = 41,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0.02},
         .activity = {1e-3, 1e-3}},
        {.kind = FR_LAYER_dense,
         .n_in = 41,
         .n_out = 5,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = 1},
    };
    for (int n_threads = 1; n_threads <= 3; n_threads += 2)
        for (int dropout = 0; dropout < 2; dropout++)
            compressed_case(dtype, layers + 1 - dropout, 2 + dropout, n_threads);
}

/* ---- active sets ---- */

/* Biases of hidden layers further down, so that fewer units are active. */
static void lower(pair p, double by)
{
    double values[MOST_UNITS];
    for (int l = 0; l < p.model->n_layers - 1; l++) {
        ptrdiff_t n = size_of_part(&p.model->specs[l], BIAS);
        for (ptrdiff_t i = 0; i < n; i++) {
            wide *b = &p.model->layers[l].part[BIAS].value[i];
            put(p.model->dtype, values, i, (double)*b - by);
            *b = get(p.model->dtype, values, i);
        }
        if (n) CHECK(fr_network_set(p.network, -1, l, BIAS, values) == FR_OK, "set");
    }
}

static double active_of(const fr_network *network, ptrdiff_t layer)
{
    double share = -1;
    CHECK(fr_network_active(network, layer, &share) == FR_OK, "active");
    return share;
}

/* Two layers whose outputs are listed, and a third that reads the second; between them what scales each unit, or
 * the second activation alone. */
static void active_case(fr_dtype dtype, int variant)
{
    static const int kinds[] = {FR_ACTIVATION_relu, FR_ACTIVATION_relu6, FR_ACTIVATION_leaky_relu,
                                FR_ACTIVATION_hard_sigmoid, FR_ACTIVATION_tanh};
    static const double lowered[] = {0.4, 1.5, 0, 100};
    static const fr_curve curve = {.alpha = 0, .max_value = 1.5, .threshold = 0.125};
    double by = lowered[variant % 4];
    int first = kinds[variant % 5], second = kinds[variant / 5 % 5];
    bool compressed = variant % 3 == 1;
    test_case("active sets %d %s %s %s", variant, name_of(dtype), fr_isa(), fr_gemm());
    const fr_layer parts[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 21,
         .n_out = 70,
         .activation = first,
         .curve = curve,
         .use_bias = 1,
         .trainable = variant % 7 != 5,
         .kernel = {0.01, 0.02},
         .activity = {0.02, 0.01}},
        {.kind = FR_LAYER_dense,
         .n_in = 70,
         .n_out = 45,
         .activation = second,
         .curve = curve,
         .use_bias = variant % 4 != 2,
         .trainable = variant % 7 != 6,
         .activity = {0, 0.03}},
        {.kind = FR_LAYER_dense,
         .n_in = 45,
         .n_out = 5,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = variant % 7 != 4},
    };
    bool scaled = variant % 5 < 2, alone = variant % 11 == 3;
    fr_layer layers[5], drops = {.kind = FR_LAYER_dropout, .n_in = 70, .n_out = 70, .rate = 0.25};
    int n = 0;
    layers[n++] = parts[0];
    if (scaled) layers[n++] = drops;
    layers[n++] = parts[1];
    if (alone) {
        layers[n - 1].activation = FR_ACTIVATION_linear;
        layers[n++] = (fr_layer){.kind = FR_LAYER_activation,
                                 .n_in = 45,
                                 .n_out = 45,
                                 .activation = second,
                                 .curve = curve,
                                 .activity = {0.02, 0}};
    }
    layers[n++] = parts[2];
    fr_training call = make_call(dtype, FR_LOSS_categorical_crossentropy, 110, 21, 5);
    fr_data rows = compress_data(dtype, &call.data, 21, 4);
    call.optimizer = optimizers[variant % N_OPTIMIZERS];
    call.n_threads = 1 + variant % 3;
    call.batch_size = 50; /* two row panels; the last batch has 10 rows */
    CHECK(fr_sparse_choose("always") == FR_OK, "always");
    pair p = create_pair(dtype, layers, n);
    CHECK(fr_sparse_choose(NULL) == FR_OK, "auto");
    CHECK(active_of(p.network, 0) == 1, "active before a step");
    begin_slots(p.model, &call.optimizer);
    lower(p, by);
    for (int round = 0; round < 2; round++, call.iteration += 3) {
        double ledger[FR_LEDGER_SIZE] = {0};
        wide want[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        fr_training own = call;
        if (compressed) own.data.x = rows.x, own.data.start = rows.start, own.data.column = rows.column;
        model_run(p.model, &call, true, want);
        CHECK(fr_network_train(p.network, &own, ledger, &steps) == FR_OK && steps == 3, "train");
        CHECK(difference(p) <= tolerance(dtype), "round %d: weights off by %g", round, difference(p));
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "ledger off by %g",
              ledger_difference(ledger, want));
        largest_gap[dtype] = fmax(largest_gap[dtype], difference(p));
        bool native = strcmp(fr_gemm(), "native") == 0;
        double share = active_of(p.network, 0);
        if (!native || first == FR_ACTIVATION_tanh)
            CHECK(share == 1, "%g of the units active", share);
        else if (first != FR_ACTIVATION_hard_sigmoid) /* whose units need not rest */
            CHECK(by == 100 ? share == 0 : share < 1, "%g of the units active", share);
    }
    /* Whole gradients, too. */
    double ledger[FR_LEDGER_SIZE] = {0};
    wide want[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    call.stop = 50;
    CHECK(half(p, call, FR_TO_GRADIENTS, ledger, &steps) == FR_OK, "first half");
    model_run(p.model, &call, true, want);
    check_gradients(p, "materialized");
    destroy_pair(p);
}

static void check_active_sets(fr_dtype dtype)
{
    test_seed(23);
    static int variant; /* 100 of them, 12 for each table and kind of products */
    for (int i = 0; i < 12; i++, variant++) active_case(dtype, variant);
    double share;
    fr_layer layer = {.kind = FR_LAYER_dense, .n_in = 2, .n_out = 2};
    fr_network *network = create(dtype, &layer, 1);
    CHECK(fr_network_active(network, 1, &share) == FR_BAD_ARGUMENT, "no such layer");
    CHECK(fr_network_active(network, -1, &share) == FR_BAD_ARGUMENT, "no such layer");
    fr_network_destroy(network);
}

/* By itself a network takes active sets where few units are active, also of some row panels of a batch only;
 * with the same bits on any number of threads, and as without. */
static void check_active_choice(fr_dtype dtype)
{
    enum { N_IN = 30, UNITS = 512, N_OUT = 128, N = 200, ALL = UNITS * N_OUT };
    fr_layer layers[] = {{.kind = FR_LAYER_dense,
                          .n_in = N_IN,
                          .n_out = UNITS,
                          .activation = FR_ACTIVATION_relu,
                          .use_bias = 1,
                          .trainable = 1,
                          .activity = {1e-3, 0}},
                         {.kind = FR_LAYER_dense, .n_in = UNITS, .n_out = N_OUT, .trainable = 1}};
    static const int threads[] = {1, 2, 5};
    enum { RUNS = 4, WITHOUT = RUNS - 1 };
    bool native = strcmp(fr_gemm(), "native") == 0;
    static double x[N * N_IN], y[N * N_OUT], w[ALL], bias[UNITS], first[3][ALL], other[3][ALL];
    size_t bytes = (size_t)(ALL * size_of(dtype)), less = (size_t)(N_IN * UNITS * size_of(dtype));
    /* few active in all rows, in all but some, in none but some, and in none */
    for (int kind = 0; kind < (native ? 4 : 1); kind++)
        for (int i = 0; i < (native ? RUNS : 1); i++) {
            test_case("active choice %d threads %d %s %s %s", kind, i < WITHOUT ? threads[i] : 0, name_of(dtype),
                      fr_isa(), fr_gemm());
            test_seed(17);
            fill(dtype, x, N * N_IN, -1, 1);
            fill(dtype, y, N * N_OUT, -1, 1);
            for (ptrdiff_t r = 0; r < N; r++)
                for (ptrdiff_t j = 0; j < N_IN; j++) {
                    bool many = kind == 3 || (kind == 1 && r < 20) || (kind == 2 && r >= 60);
                    if (many) put(dtype, x, r * N_IN + j, 9 * get(dtype, x, r * N_IN + j));
                }
            for (int j = 0; j < UNITS; j++) put(dtype, bias, j, -1);
            CHECK(fr_sparse_choose(i == WITHOUT ? "never" : NULL) == FR_OK, "choose");
            fr_network *network = create(dtype, layers, 2);
            CHECK(fr_sparse_choose(NULL) == FR_OK, "choose");
            fill(dtype, w, N_IN * UNITS, -0.25, 0.25);
            CHECK(fr_network_set(network, -1, 0, KERNEL, w) == FR_OK, "set");
            CHECK(fr_network_set(network, -1, 0, BIAS, bias) == FR_OK, "set");
            fill(dtype, w, ALL, -0.1, 0.1);
            CHECK(fr_network_set(network, -1, 1, KERNEL, w) == FR_OK, "set");
            fr_training call = {.data = {.n_rows = N, .x = x, .y = y},
                                .stop = N,
                                .batch_size = 200,
                                .loss = FR_LOSS_mean_squared_error,
                                .optimizer = {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.01},
                                .n_threads = i < WITHOUT ? threads[i] : 2};
            double(*got)[ALL] = i == 0 ? first : other, ledger[FR_LEDGER_SIZE] = {0};
            ptrdiff_t steps;
            CHECK(fr_network_train(network, &call, ledger, &steps) == FR_OK && steps == 1, "train");
            bool expected = kind == 0 && i < WITHOUT && native;
            CHECK((active_of(network, 0) < 1) == expected, "%g active", active_of(network, 0));
            CHECK(fr_network_get(network, -1, 0, KERNEL, got[0]) == FR_OK, "get");
            CHECK(fr_network_get(network, -1, 1, KERNEL, got[1]) == FR_OK, "get");
            CHECK(fr_network_get(network, -1, 0, BIAS, got[2]) == FR_OK, "get");
            fr_network_destroy(network);
            if (i > 0 && i < WITHOUT)
                CHECK(memcmp(first[0], other[0], less) == 0 && memcmp(first[1], other[1], bytes) == 0 &&
                          memcmp(first[2], other[2], (size_t)(UNITS * size_of(dtype))) == 0,
                      "another result");
            if (i < WITHOUT) continue;
            double worst = 0;
            for (int array = 0; array < 3; array++)
                for (ptrdiff_t k = 0; k < (array == 0 ? N_IN * UNITS : array == 1 ? ALL : UNITS); k++) {
                    /* fmax makes gcc 12 for AArch64 fail within itself */
                    double off = fabs(get(dtype, first[array], k) - get(dtype, other[array], k));
                    if (!(off <= worst)) worst = off;
                }
            CHECK(worst <= tolerance(dtype), "off by %g", worst);
        }
}

/* By itself a network looks at kernels large enough, and takes their zeros out where few are left;
 * with the same bits on any number of threads. */
static void check_sparse_choice(fr_dtype dtype)
{
    enum { N = 192, ROWS = 130 };
    test_case("sparse choice %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layer = {.kind = FR_LAYER_dense, .n_in = N, .n_out = N}, small = layer;
    small.n_out = 100;
    size_t size = (size_t)size_of(dtype);
    char *w = calloc(N * N, size), *x = malloc(ROWS * N * size);
    char *one = malloc(ROWS * N * size), *other = malloc(ROWS * N * size);
    fr_network *network = create(dtype, &layer, 1), *too_small = create(dtype, &small, 1);
    CHECK(fr_sparse_choose("never") == FR_OK, "never");
    fr_network *dense = create(dtype, &layer, 1);
    CHECK(fr_sparse_choose("") == FR_OK, "auto");
    CHECK(density_of(network, 0, ROWS) == 0, "zeros alone");
    CHECK(density_of(too_small, 0, ROWS) == 1, "a small kernel");
    fill(dtype, x, ROWS * N, -1, 1);
    for (int percent = 50; percent >= 2; percent /= 5) {
        fill(dtype, w, N * N, -1, 1);
        for (ptrdiff_t i = 0; i < N * N; i++)
            if (test_below(100) >= percent) put(dtype, w, i, 0);
        CHECK(fr_network_set(network, -1, 0, KERNEL, w) == FR_OK, "set");
        CHECK(fr_network_set(dense, -1, 0, KERNEL, w) == FR_OK, "set");
        double density = density_of(network, 0, ROWS);
        CHECK(percent == 2 ? fabs(density - 0.02) < 0.01 : percent < 50 || density == 1,
              "density %g of %d%%", density, percent);
        CHECK(density_of(dense, 0, ROWS) == 1, "never");
        CHECK(fr_network_forward(network, ROWS, x, one, 1) == FR_OK, "forward");
        CHECK(fr_network_forward(network, ROWS, x, other, 4) == FR_OK, "forward");
        CHECK(memcmp(one, other, ROWS * N * size) == 0, "threads disagree");
        CHECK(fr_network_forward(dense, ROWS, x, other, 1) == FR_OK, "forward");
        double worst = 0;
        for (ptrdiff_t r = 0; r < ROWS; r += 7)
            for (ptrdiff_t o = 0; o < N; o++) {
                double terms = 0;
                for (ptrdiff_t i = 0; i < N; i++)
                    terms += fabs(get(dtype, x, r * N + i) * get(dtype, w, i * N + o));
                double gap = fabs(get(dtype, one, r * N + o) - get(dtype, other, r * N + o));
                double ratio = gap / (2 * (N + 1) * unit_of(dtype) * terms + smallest_of(dtype));
                worst = ratio <= worst ? worst : ratio;
            }
        CHECK(worst <= 1, "dense and sparse %g times the bound apart", worst);
    }
    fr_network_destroy(network);
    fr_network_destroy(too_small);
    fr_network_destroy(dense);
    free(w), free(x), free(one), free(other);
}

/* Weights that became NaN and are set again: nothing of it remains, nor in the padding. */
static void check_restored_weights(fr_dtype dtype)
{
    test_case("restored weights %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 5, .trainable = 1, .kernel = {0.01, 0.01}},
        {.kind = FR_LAYER_dense,
         .n_in = 5,
         .n_out = 13,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0.01},
         .bias = {0.01, 0.01}},
    };
    pair p = create_pair(dtype, layers, 2);
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 6, 3, 13);
    double large[5 * 13], ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    call.optimizer = optimizers[4];
    fill(dtype, large, 5 * 13, 10, 10);
    for (int l = 0; l < 2; l++)
        CHECK(fr_network_set(p.network, -1, l, KERNEL, large) == FR_OK, "set");
    /* an infinite activation that tanh hides from the loss: dw = inf * 0 */
    fill(dtype, data.x, 6 * 3, dtype == FR_FLOAT32 ? 1e38 : 1e308,
         dtype == FR_FLOAT32 ? 1e38 : 1e308);
    CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_OK && steps == 1, "train");
    CHECK(fr_network_get(p.network, -1, 1, KERNEL, large) == FR_OK && isnan(get(dtype, large, 0)),
          "no NaN to restore from");
    CHECK(fr_network_keep(p.network, 2) == FR_NOT_FINITE, "keeps NaN");
    initialize(dtype, p.network, p.model);
    CHECK(fr_network_set_slots(p.network, 0) == FR_OK, "set slots");
    CHECK(fr_network_keep(p.network, 2) == FR_OK, "keep");
    call = make_call(dtype, FR_LOSS_mean_squared_error, 6, 3, 13);
    call.optimizer = optimizers[4];
    evaluate_both(p, &call);
    train_both(p, &call, "after NaN");
    destroy_pair(p);
}

/* Without epsilon, the padding of panels would divide 0 by 0. */
static void check_no_epsilon(fr_dtype dtype)
{
    test_case("no epsilon %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 3,
         .n_out = 5,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0.01},
         .bias = {0.01, 0.01}},
        {.kind = FR_LAYER_dense,
         .n_in = 5,
         .n_out = 2,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0, 0.01}},
    };
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 9, 3, 2);
    call.optimizer = optimizers[4];
    call.optimizer.epsilon = 0;
    pair p = create_pair(dtype, layers, 2);
    train_both(p, &call, "first step");
    call.iteration = 1;
    train_both(p, &call, "second step");
    evaluate_both(p, &call);
    CHECK(fr_network_keep(p.network, 2) == FR_OK, "keep");
    destroy_pair(p);
}

/* Weights and slots set aside and put back, past a change of the optimizer and weights that are
 * NaN. */
static void check_keep(fr_dtype dtype)
{
    test_case("keep %s %s %s", name_of(dtype), fr_isa(), fr_gemm());
    fr_layer layers[4];
    make_layers(layers, FR_ACTIVATION_sigmoid, FR_ACTIVATION_linear);
    fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 30, 5, 4);
    pair p = create_pair(dtype, layers, 4);
    double nan[9 * 7];
    fill(dtype, nan, 9 * 7, NAN, NAN);
    CHECK(fr_network_put_back(p.network) == FR_BAD_ARGUMENT, "put back nothing");
    for (int i = 0; i < 3; i++) {
        call.optimizer = optimizers[i == 0 ? 0 : i == 1 ? 4 : 1]; /* 0, 2 and 1 slots */
        for (int l = 0; l < 4; l++)
            for (int part = 0; part < 2; part++)
                memset(p.model->layers[l].part[part].slots, 0,
                       sizeof p.model->layers[l].part[part].slots);
        train_both(p, &call, "before");
        CHECK(fr_network_keep(p.network, 2) == FR_OK, "keep");
        model *kept = malloc(sizeof *kept);
        *kept = *p.model;
        train_both(p, &call, "further");
        CHECK(fr_network_set(p.network, -1, 2, KERNEL, nan) == FR_OK, "set");
        CHECK(fr_network_keep(p.network, 2) == FR_NOT_FINITE, "keeps NaN");
        CHECK(fr_network_set_slots(p.network, i % 3) == FR_OK, "set slots");
        CHECK(fr_network_put_back(p.network) == FR_OK, "put back");
        *p.model = *kept;
        free(kept);
        CHECK(difference(p) <= tolerance(dtype), "put back: off by %g", difference(p));
        train_both(p, &call, "after it was put back");
    }
    destroy_pair(p);
}

/* ---- one result for all numbers of threads ---- */

typedef struct {
    double weights[3][100 * 64], ledger[FR_LEDGER_SIZE], out[300 * 33];
} outcome;

static void run_with_threads(fr_dtype dtype, int n_threads, outcome *result)
{
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = 70,
         .n_out = 64,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {1e-4, 1e-3},
         .activity = {1e-3, 1e-3}},
        {.kind = FR_LAYER_dropout, .n_in = 64, .n_out = 64, .rate = 0.3},
        {.kind = FR_LAYER_dense,
         .n_in = 64,
         .n_out = 33,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = 1,
         .bias = {1e-3, 1e-3}},
    };
    static double x[300 * 70], weights[70 * 64];
    static int32_t label[300];
    test_seed(11);
    fill(dtype, x, 300 * 70, -1, 1);
    for (int i = 0; i < 300; i++) label[i] = (int32_t)test_below(33);
    fr_network *network = create(dtype, layers, 3);
    fill(dtype, weights, 70 * 64, -0.2, 0.2);
    CHECK(fr_network_set(network, -1, 0, KERNEL, weights) == FR_OK, "set");
    fill(dtype, weights, 64 * 33, -0.2, 0.2);
    CHECK(fr_network_set(network, -1, 2, KERNEL, weights) == FR_OK, "set");
    fr_training call = {.data = {.n_rows = 300, .x = x, .y = label},
                        .stop = 300,
                        .batch_size = 96,
                        .loss = FR_LOSS_sparse_categorical_crossentropy,
                        .accuracy = FR_ACCURACY_sparse_categorical,
                        .optimizer = optimizers[4],
                        .seed = 5,
                        .n_threads = n_threads};
    memset(result, 0, sizeof *result);
    for (int epoch = 0; epoch < 2; epoch++, call.iteration += 4) {
        ptrdiff_t steps;
        CHECK(fr_network_train(network, &call, result->ledger, &steps) == FR_OK && steps == 4,
              "train");
    }
    CHECK(fr_network_evaluate(network, &call, result->ledger) == FR_OK, "evaluate");
    CHECK(fr_network_forward(network, 300, x, result->out, n_threads) == FR_OK, "forward");
    CHECK(fr_network_get(network, -1, 0, KERNEL, result->weights[0]) == FR_OK, "get");
    CHECK(fr_network_get(network, 1, 2, KERNEL, result->weights[1]) == FR_OK, "get");
    CHECK(fr_network_get(network, -1, 2, BIAS, result->weights[2]) == FR_OK, "get");
    fr_network_destroy(network);
}

static void check_threads_agree(fr_dtype dtype)
{
    static const int numbers[] = {1, 2, 3, 4, 8};
    static outcome first, other;
    for (int repeat = 0; repeat < 3; repeat++)
        for (int i = 0; i < 5; i++) {
            test_case("%d threads, run %d %s %s", numbers[i], repeat, name_of(dtype), fr_gemm());
            run_with_threads(dtype, numbers[i], i + repeat == 0 ? &first : &other);
            CHECK(i + repeat == 0 || memcmp(&first, &other, sizeof first) == 0, "another result");
        }
}

/* ---- a loss that is not finite ---- */

static void check_stop(fr_dtype dtype)
{
    static const double bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2 * N_OPTIMIZERS; i++) {
        test_case("not finite %d %s %s %s", i, name_of(dtype), fr_isa(), fr_gemm());
        fr_layer layers[4];
        /* not relu, which makes 0 of -inf */
        make_layers(layers, FR_ACTIVATION_linear, FR_ACTIVATION_linear);
        fr_training call = make_call(dtype, FR_LOSS_mean_squared_error, 40, 5, 4);
        call.data.index = NULL;
        call.batch_size = 10;
        call.optimizer = optimizers[i / 2];
        pair p = create_pair(dtype, layers, 4);
        double ledger[FR_LEDGER_SIZE] = {0};
        wide want[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        put(dtype, data.x, 25 * 5 + 1, bad[i % 2]);
        CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_NOT_FINITE, "no stop");
        CHECK(steps == 2, "%td steps", steps);
        call.stop = 20;
        model_run(p.model, &call, true, want);
        CHECK(difference(p) <= tolerance(dtype), "the step changed weights by %g", difference(p));
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "the step is in the ledger");

        /* To the bit: the same network stops at once when it starts there, and has not moved. */
        double before[2][9 * 7], after[2][9 * 7];
        CHECK(fr_network_get(p.network, -1, 2, KERNEL, before[0]) == FR_OK, "get");
        int n_slots = fr_network_slots(p.network);
        if (n_slots)
            CHECK(fr_network_get(p.network, n_slots - 1, 2, KERNEL, before[1]) == FR_OK, "get");
        call.start = 20, call.stop = 40;
        CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_NOT_FINITE && steps == 0,
              "stop");
        CHECK(fr_network_get(p.network, -1, 2, KERNEL, after[0]) == FR_OK, "get");
        size_t bytes = (size_t)(9 * 7 * size_of(dtype));
        CHECK(memcmp(before[0], after[0], bytes) == 0, "weights moved");
        if (n_slots) {
            CHECK(fr_network_get(p.network, n_slots - 1, 2, KERNEL, after[1]) == FR_OK, "get");
            CHECK(memcmp(before[1], after[1], bytes) == 0, "slots moved");
        }
        CHECK(ledger_difference(ledger, want) <= tolerance(dtype), "the step is in the ledger");
        destroy_pair(p);
    }
}

/* ---- gradients are slopes ---- */

/* The total loss per row of one batch, with dropout; the weights stay. */
static double total_loss(fr_network *network, fr_training call)
{
    double ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    call.optimizer = (fr_optimizer){.kind = FR_OPTIMIZER_sgd};
    CHECK(fr_network_train(network, &call, ledger, &steps) == FR_OK && steps == 1, "train");
    return (ledger[FR_LEDGER_DATA_LOSS] + ledger[FR_LEDGER_KERNEL_PENALTY] +
            ledger[FR_LEDGER_BIAS_PENALTY] + ledger[FR_LEDGER_ACTIVITY_PENALTY]) /
           ledger[FR_LEDGER_ROWS];
}

/* Poisson's loss takes the logarithm of the outputs; focal crossentropy has poles at 0 and 1. */
static bool has_slope(int activation, int loss, const fr_loss_settings *s)
{
    if (loss == FR_LOSS_binary_focal_crossentropy)
        return s->from_logits || activation == FR_ACTIVATION_sigmoid ||
               activation == FR_ACTIVATION_softmax || activation == FR_ACTIVATION_hard_sigmoid;
    if (loss != FR_LOSS_poisson) return true;
    const wide z[4] = {-2, -1, 1, 2};
    wide y[4];
    oracle_activation(activation, test_curve, 4, z, y);
    return y[0] > 0 && y[1] > 0 && y[2] > 0 && y[3] > 0;
}

static void check_slopes_of(int activation, int loss, const fr_loss_settings *s, int number)
{
    test_case("slopes %s %s %d", fr_activation_name(activation), fr_loss_name(loss), number);
    const double h = 1e-5;
    fr_layer layers[4];
    make_layers(layers, (activation + loss) % FR_N_ACTIVATIONS, activation);
    fr_training call = make_call(FR_FLOAT64, loss, 11, 5, 4);
    call.loss_settings = *s;
    pair p = create_pair(FR_FLOAT64, layers, 4);
    double worst = 0, size = fmax(1, total_loss(p.network, call));
    for (int l = 0; l < 4; l++)
        for (int part = 0; part < 2; part++) {
            ptrdiff_t n = size_of_part(&layers[l], part);
            double at_rest[9 * 7], moved[9 * 7], ledger[FR_LEDGER_SIZE];
            if (n == 0) continue;
            /* A step of size 1 moves the weights by the gradient. */
            fr_training one = call;
            ptrdiff_t steps;
            one.optimizer = (fr_optimizer){.kind = FR_OPTIMIZER_sgd, .learning_rate = 1};
            pair q = create_pair(FR_FLOAT64, layers, 4);
            for (int k = 0; k < 4; k++)
                for (int other = 0; other < 2; other++)
                    if (size_of_part(&layers[k], other)) {
                        CHECK(fr_network_get(p.network, -1, k, other, moved) == FR_OK, "get");
                        CHECK(fr_network_set(q.network, -1, k, other, moved) == FR_OK, "set");
                    }
            CHECK(fr_network_train(q.network, &one, ledger, &steps) == FR_OK, "train");
            CHECK(fr_network_get(p.network, -1, l, part, at_rest) == FR_OK, "get");
            CHECK(fr_network_get(q.network, -1, l, part, moved) == FR_OK, "get");
            for (ptrdiff_t i = 0; i < n; i++) {
                double gradient = at_rest[i] - moved[i], here = at_rest[i];
                double slope = 0;
                for (int k = 0; k < 4; k++) {
                    static const double at[4] = {-2, -1, 1, 2}, share[4] = {1, -8, 8, -1};
                    at_rest[i] = here + at[k] * h;
                    fr_network_set(p.network, -1, l, part, at_rest);
                    slope += share[k] * total_loss(p.network, call) / (12 * h);
                }
                at_rest[i] = here;
                fr_network_set(p.network, -1, l, part, at_rest);
                double gap = fabs(slope - gradient) / fmax(1, fabs(gradient));
                worst = gap <= worst ? worst : gap;
            }
            destroy_pair(q);
        }
    /* the loss' rounding, 1e-16 of it, divided by h; and the fifth derivative times h^4 */
    CHECK(worst < 2e-10 * size, "gradient off by %g", worst);
    destroy_pair(p);
}

/* ---- arguments ---- */

static void check_layer_arguments(void)
{
    test_case("layer arguments");
    fr_layer good = {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2};
    fr_layer dropout = {.kind = FR_LAYER_dropout, .n_in = 2, .n_out = 2, .rate = 0.5};
    fr_network *network = NULL;
    struct {
        fr_layer layers[2];
        fr_status status;
    } cases[] = {
        {{{.kind = FR_N_LAYER_KINDS, .n_in = 3, .n_out = 2}, dropout}, FR_BAD_ARGUMENT},
        {{{.kind = -1, .n_in = 3, .n_out = 2}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 0, .n_out = 2}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = -2}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 5}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activation = -1}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activation = FR_N_ACTIVATIONS}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .kernel = {-1, 0}}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .bias = {0, NAN}}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activity = {INFINITY, 0}}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activity_kl = {-1, 0.5}}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activity_kl = {1, 1}}, dropout}, FR_BAD_ARGUMENT},
        {{{.n_in = 3, .n_out = 2, .activity_kl = {1, NAN}}, dropout}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_dropout, .n_in = 2, .n_out = 3}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_flatten, .n_in = 2, .n_out = 3}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_dropout, .n_in = 2, .n_out = 2, .rate = 1}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_dropout, .n_in = 2, .n_out = 2, .rate = -0.1}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_dropout, .n_in = 2, .n_out = 2, .rate = NAN}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_gaussian_noise, .n_in = 2, .n_out = 2, .stddev = -1}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_gaussian_noise, .n_in = 2, .n_out = 2, .stddev = INFINITY}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_activation, .n_in = 2, .n_out = 3}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_layer_normalization, .n_in = 2, .n_out = 2}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_layer_normalization, .n_in = 2, .n_out = 2, .epsilon = NAN}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_batch_normalization, .n_in = 2, .n_out = 2, .epsilon = 1, .momentum = 2}},
         FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_batch_normalization, .n_in = 2, .n_out = 3, .epsilon = 1}}, FR_BAD_ARGUMENT},
        {{good, {.kind = FR_LAYER_activation, .n_in = 2, .n_out = 2, .activity = {-1, 0}}}, FR_BAD_ARGUMENT},
        {{{.n_in = PTRDIFF_MAX, .n_out = 2}, dropout}, FR_TOO_LARGE},
        {{{.n_in = INT_MAX, .n_out = 2}, dropout}, FR_TOO_LARGE},
        {{{.n_in = INT_MAX / 2, .n_out = INT_MAX / 2}, {.n_in = INT_MAX / 2, .n_out = 1}},
         FR_TOO_LARGE},
        /* 2^50 bytes: no address space holds them */
        {{{.n_in = 1 << 24, .n_out = 1 << 24}, {.n_in = 1 << 24, .n_out = 1}}, FR_NO_MEMORY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fr_status status = fr_network_create(&network, FR_FLOAT32, cases[i].layers, 2);
        CHECK(status == cases[i].status, "case %zu: %s", i, fr_status_text(status));
        CHECK(network == NULL, "case %zu: a network", i);
    }
    CHECK(fr_network_create(&network, FR_FLOAT32, &good, 0) == FR_BAD_ARGUMENT, "no layers");
    CHECK(fr_network_create(&network, FR_FLOAT32, &good, -1) == FR_BAD_ARGUMENT, "-1 layers");
    CHECK(fr_network_create(&network, (fr_dtype)2, &good, 1) == FR_BAD_ARGUMENT, "dtype 2");

    network = create(FR_FLOAT32, &good, 1);
    fr_layer changes[] = {
        {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 4},
        {.kind = FR_LAYER_dense, .n_in = 2, .n_out = 2},
        {.kind = FR_LAYER_dropout, .n_in = 3, .n_out = 3},
        {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2, .use_bias = 1},
        {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2, .activation = FR_ACTIVATION_relu},
        {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2, .kernel = {0, -1}},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++)
        CHECK(fr_network_update_layers(network, &changes[i]) == FR_BAD_ARGUMENT, "change %zu", i);

    float array[6];
    CHECK(fr_network_get(network, -1, 0, KERNEL, array) == FR_OK, "get");
    CHECK(fr_network_get(network, -1, 0, BIAS, array) == FR_BAD_ARGUMENT, "no bias");
    CHECK(fr_network_get(network, -1, 0, 2, array) == FR_BAD_ARGUMENT, "part 2");
    CHECK(fr_network_get(network, -1, 0, -1, array) == FR_BAD_ARGUMENT, "part -1");
    CHECK(fr_network_get(network, -1, 1, KERNEL, array) == FR_BAD_ARGUMENT, "layer 1");
    CHECK(fr_network_get(network, -1, -1, KERNEL, array) == FR_BAD_ARGUMENT, "layer -1");
    CHECK(fr_network_get(network, 0, 0, KERNEL, array) == FR_BAD_ARGUMENT, "slot 0 of none");
    CHECK(fr_network_set(network, -2, 0, KERNEL, array) == FR_BAD_ARGUMENT, "slot -2");
    CHECK(fr_network_set_slots(network, FR_MOST_SLOTS + 1) == FR_BAD_ARGUMENT, "many slots");
    CHECK(fr_network_set_slots(network, -1) == FR_BAD_ARGUMENT, "-1 slots");
    CHECK(fr_network_set_slots(network, 2) == FR_OK && fr_network_slots(network) == 2, "2 slots");
    CHECK(fr_network_set(network, 1, 0, KERNEL, array) == FR_OK, "slot 1 of 2");
    CHECK(fr_network_set_slots(network, 0) == FR_OK && fr_network_slots(network) == 0, "no slots");
    fr_network_destroy(network);
    fr_network_destroy(NULL);
}

static void check_call_arguments(void)
{
    test_case("call arguments");
    fr_layer layer = {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2, .use_bias = 1, .trainable = 1};
    fr_training good = make_call(FR_FLOAT64, FR_LOSS_mean_squared_error, 8, 3, 2);
    pair p = create_pair(FR_FLOAT64, &layer, 1);
    const struct {
        const char *what;
        size_t offset;
        ptrdiff_t value;
        size_t size;
        bool evaluate; /* looks at it too */
    } cases[] = {
#define FIELD(member, value, evaluate)                                                             \
    {#member " = " #value, offsetof(fr_training, member), value, sizeof good.member, evaluate}
        FIELD(start, -1, true),
        FIELD(start, 9, true),
        FIELD(stop, 9, true),
        FIELD(stop, -1, true),
        FIELD(batch_size, 0, false),
        FIELD(batch_size, -3, false),
        FIELD(loss, -1, true),
        FIELD(loss, FR_N_LOSSES, true),
        FIELD(accuracy, -1, true),
        FIELD(accuracy, FR_N_ACCURACIES, true),
        FIELD(accuracy, FR_ACCURACY_sparse_categorical, true), /* there are no labels */
        FIELD(optimizer.kind, -1, false),
        FIELD(optimizer.kind, FR_N_OPTIMIZERS, false),
        FIELD(iteration, -1, false),
        FIELD(part, -1, false),
        FIELD(part, FR_N_PARTS, false),
        FIELD(data.x, 0, true),
        FIELD(data.y, 0, true),
#undef FIELD
    };
    double ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fr_training bad = good;
        int number = (int)cases[i].value;
        memcpy((char *)&bad + cases[i].offset,
               cases[i].size == sizeof number ? (void *)&number : (void *)&cases[i].value,
               cases[i].size);
        CHECK(fr_network_train(p.network, &bad, ledger, &steps) == FR_BAD_ARGUMENT && steps == 0,
              "train with %s", cases[i].what);
        if (cases[i].evaluate)
            CHECK(fr_network_evaluate(p.network, &bad, ledger) == FR_BAD_ARGUMENT,
                  "evaluate with %s", cases[i].what);
    }
    fr_training labels = good;
    labels.data.y = data.label;
    labels.loss = FR_LOSS_sparse_categorical_crossentropy;
    for (labels.accuracy = FR_ACCURACY_binary; labels.accuracy <= FR_ACCURACY_categorical;
         labels.accuracy++)
        CHECK(fr_network_train(p.network, &labels, ledger, &steps) == FR_BAD_ARGUMENT,
              "labels with accuracy %s", fr_accuracy_name(labels.accuracy));

    fr_layer flat[] = {{.kind = FR_LAYER_flatten, .n_in = 3, .n_out = 3}, layer};
    fr_network *of_flat = create(FR_FLOAT64, flat, 2);
    double values[3] = {0};
    fr_schedule schedule = {.setting = FR_SETTING_rate, .layer = 0, .values = values};
    fr_training follows = good;
    follows.schedules = &schedule, follows.n_schedules = 1;
    CHECK(fr_network_train(of_flat, &follows, ledger, &steps) == FR_BAD_ARGUMENT && steps == 0,
          "a schedule of a layer without settings");
    fr_network_destroy(of_flat);

    fr_training large = good;
    large.data.n_rows = large.stop = large.batch_size = PTRDIFF_MAX;
    CHECK(fr_network_train(p.network, &large, ledger, &steps) == FR_TOO_LARGE, "a huge batch");
    fr_blas_set(NULL, NULL);
    double out[16];
    CHECK(fr_network_train(p.network, &good, ledger, &steps) == FR_NO_BLAS, "train without BLAS");
    CHECK(fr_network_evaluate(p.network, &good, ledger) == FR_NO_BLAS, "evaluate without BLAS");
    CHECK(fr_network_forward(p.network, 8, data.x, out, 1) == FR_NO_BLAS, "forward without BLAS");
    fr_blas_set(naive_sgemm, naive_dgemm);
    CHECK(fr_network_forward(p.network, -1, data.x, out, 1) == FR_BAD_ARGUMENT,
          "forward of -1 rows");
    CHECK(fr_network_forward(p.network, 8, NULL, out, 1) == FR_BAD_ARGUMENT, "forward of NULL");
    CHECK(fr_network_forward(p.network, 8, data.x, NULL, 1) == FR_BAD_ARGUMENT, "forward to NULL");
    for (int i = 0; i < FR_LEDGER_SIZE; i++) CHECK(ledger[i] == 0, "ledger %d", i);
    CHECK(fr_network_slots(p.network) == 0 && difference(p) == 0, "the network changed");

    good.stop = good.start = 3;
    CHECK(fr_network_train(p.network, &good, ledger, &steps) == FR_OK && steps == 0, "no rows");
    CHECK(fr_network_evaluate(p.network, &good, ledger) == FR_OK && ledger[FR_LEDGER_ROWS] == 0,
          "no rows");
    CHECK(fr_network_forward(p.network, 0, data.x, out, 1) == FR_OK, "no rows");
    destroy_pair(p);
}

/* Of each loss, what it must not have; the others do not read it. */
static const struct {
    int loss;
    fr_loss_settings settings;
} bad_settings[] = {
    {FR_LOSS_huber, {.delta = 0}},
    {FR_LOSS_huber, {.delta = NAN}},
    {FR_LOSS_quantile, {.quantile = 0}},
    {FR_LOSS_quantile, {.quantile = 1}},
    {FR_LOSS_quantile, {.quantile = NAN}},
    {FR_LOSS_binary_crossentropy, {.label_smoothing = -0.1}},
    {FR_LOSS_categorical_crossentropy, {.label_smoothing = 1.1}},
    {FR_LOSS_categorical_crossentropy, {.label_smoothing = NAN}},
    {FR_LOSS_binary_focal_crossentropy, {.gamma = -1}},
    {FR_LOSS_binary_focal_crossentropy, {.alpha = 1.1}},
    {FR_LOSS_binary_focal_crossentropy, {.label_smoothing = 2}},
};

static void check_loss_settings(void)
{
    double ledger[FR_LEDGER_SIZE];
    ptrdiff_t steps;
    fr_layer layers[4];
    make_layers(layers, FR_ACTIVATION_tanh, FR_ACTIVATION_sigmoid);
    for (size_t i = 0; i < sizeof bad_settings / sizeof bad_settings[0]; i++) {
        test_case("settings %zu of %s", i, fr_loss_name(bad_settings[i].loss));
        fr_training call = make_call(FR_FLOAT64, bad_settings[i].loss, 8, 5, 4);
        call.loss_settings = bad_settings[i].settings;
        pair p = create_pair(FR_FLOAT64, layers, 4);
        CHECK(fr_network_train(p.network, &call, ledger, &steps) == FR_BAD_ARGUMENT, "train");
        CHECK(fr_network_evaluate(p.network, &call, ledger) == FR_BAD_ARGUMENT, "evaluate");
        destroy_pair(p);
    }
}

static void check_function_arguments(void)
{
    test_case("function arguments");
    double a[4] = {0}, b[4] = {0}, c[4] = {0};
    double *slots[FR_MOST_SLOTS] = {b, c}, value;
    const ptrdiff_t large = (ptrdiff_t)INT_MAX + 1;
    fr_optimizer none = {.kind = FR_N_OPTIMIZERS}, sgd = {.kind = FR_OPTIMIZER_sgd};
    fr_regularizer r = {0, 0};
    fr_loss_settings settings = {.delta = 1};
    const fr_dtype d = FR_FLOAT64;
    const int linear = FR_ACTIVATION_linear;
#define STATUS(expected, call) CHECK((call) == (expected), "%s", #call)
    STATUS(FR_BAD_ARGUMENT, fr_dense_forward(d, 0, 1, 1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_dense_forward(d, 1, 0, 1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_dense_forward(d, 1, 1, -1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_dense_forward(d, 1, 1, 1, a, a, a, -1, test_curve, b, 1));
    STATUS(FR_TOO_LARGE, fr_dense_forward(d, large, 1, 1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_TOO_LARGE, fr_dense_forward(d, 1, large, 1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_dense_backward(d, 0, 1, 1, a, a, a, a, linear, test_curve, b, b, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_dense_backward(d, 1, 1, 1, a, a, a, a, 77, test_curve, b, b, b, 1));
    STATUS(FR_TOO_LARGE, fr_dense_backward(d, 1, 1, large, a, a, a, a, linear, test_curve, b, b, b, 1));
    /* 2^58 bytes for dz */
    STATUS(FR_NO_MEMORY, fr_dense_backward(d, 1 << 29, 1, 1 << 26, a, a, a, a, linear, test_curve, b, b, b, 1));
    STATUS(FR_BAD_ARGUMENT, fr_activation_forward(d, 1, 1, a, FR_N_ACTIVATIONS, test_curve, b));
    STATUS(FR_BAD_ARGUMENT, fr_activation_backward(d, 1, 1, a, a, -1, test_curve, b));
    STATUS(FR_BAD_ARGUMENT, fr_loss(d, FR_N_LOSSES, settings, 1, 1, a, a, NULL, &value, b));
    STATUS(FR_BAD_ARGUMENT, fr_loss(d, -1, settings, 1, 1, a, a, NULL, &value, b));
    STATUS(FR_BAD_ARGUMENT, fr_loss(d, 0, settings, 0, 1, a, a, NULL, &value, b));
    STATUS(FR_BAD_ARGUMENT, fr_loss(d, 0, settings, 1, 0, a, a, NULL, &value, b));
    for (size_t i = 0; i < sizeof bad_settings / sizeof bad_settings[0]; i++)
        STATUS(FR_BAD_ARGUMENT, fr_loss(d, bad_settings[i].loss, bad_settings[i].settings, 1, 1, a, a, NULL, &value, b));
    STATUS(FR_BAD_ARGUMENT, fr_noise(d, FR_LAYER_dropout, 1, 1, a, 1, 0, 0, 0, b));
    STATUS(FR_BAD_ARGUMENT, fr_noise(d, FR_LAYER_gaussian_noise, 1, 1, a, -1, 0, 0, 0, b));
    STATUS(FR_BAD_ARGUMENT, fr_kl_penalty(d, 1, 1, a, (fr_kl){1, 0}, NULL, b));
    STATUS(FR_BAD_ARGUMENT, fr_kl_penalty(d, 0, 1, a, (fr_kl){1, 0.5}, NULL, b));
    STATUS(FR_BAD_ARGUMENT, fr_normalize_rows(d, 1, 1, a, NULL, NULL, 0, 0, b));
    STATUS(FR_BAD_ARGUMENT, fr_normalize_columns(d, 1, 1, a, a, a, NULL, NULL, NAN, b));
    STATUS(FR_BAD_ARGUMENT, fr_noise(d, FR_LAYER_dense, 1, 1, a, 0, 0, 0, 0, b));
    STATUS(FR_BAD_ARGUMENT, fr_noise(d, FR_LAYER_dropout, 1, 1, a, NAN, 0, 0, 0, b));
    STATUS(FR_BAD_ARGUMENT, fr_update(d, &none, 0, 1, a, a, (void *const *)slots, r));
    STATUS(FR_BAD_ARGUMENT, fr_update(d, &sgd, -1, 1, a, a, (void *const *)slots, r));
    none = sgd, none.l1_step = FR_N_L1_STEPS;
    STATUS(FR_BAD_ARGUMENT, fr_update(d, &none, 0, 1, a, a, (void *const *)slots, r));
    none = sgd, none.l1_step = FR_L1_STEP_proximal, none.momentum = 1;
    STATUS(FR_BAD_ARGUMENT, fr_update(d, &none, 0, 1, a, a, (void *const *)slots, r));
    fr_blas_set(NULL, NULL);
    STATUS(FR_NO_BLAS, fr_dense_forward(d, 1, 1, 1, a, a, a, linear, test_curve, b, 1));
    STATUS(FR_NO_BLAS, fr_dense_backward(d, 1, 1, 1, a, a, a, a, linear, test_curve, b, b, b, 1));
    fr_blas_set(naive_sgemm, naive_dgemm);
    for (int i = 0; i < 4; i++) CHECK(a[i] == 0 && b[i] == 0 && c[i] == 0, "an array changed");
    STATUS(FR_BAD_ARGUMENT, fr_isa_choose("avx9"));
    STATUS(FR_BAD_ARGUMENT, fr_gemm_choose("abacus"));
    STATUS(FR_BAD_ARGUMENT, fr_sparse_choose("perhaps"));
#undef STATUS
    CHECK(strcmp(fr_activation_name(FR_ACTIVATION_relu), "relu") == 0, "name");
    CHECK(!fr_activation_name(-1) && !fr_activation_name(FR_N_ACTIVATIONS), "no name");
    CHECK(!fr_loss_name(FR_N_LOSSES) && !fr_optimizer_name(FR_N_OPTIMIZERS), "no name");
    CHECK(!fr_accuracy_name(FR_N_ACCURACIES) && !fr_layer_kind_name(FR_N_LAYER_KINDS), "no name");
    CHECK(!fr_isa_built(-1) && !fr_isa_built(99), "no name");
    for (int status = FR_OK; status <= FR_NOT_FINITE; status++)
        CHECK(strcmp(fr_status_text((fr_status)status), "unknown status") != 0, "status %d",
              status);
    CHECK(strcmp(fr_status_text((fr_status)99), "unknown status") == 0, "status 99");
}

/* ---- memory ---- */

/* A layer as wide as 2^22 and a claim of 2^29 rows: more than any address space, before a row is
 * read. */
static void check_plans_too_large(void)
{
    test_case("plans too large");
    fr_layer wide_layer = {.kind = FR_LAYER_dense, .n_in = 1, .n_out = 1 << 22, .trainable = 1};
    fr_network *network = create(FR_FLOAT32, &wide_layer, 1);
    float x = 0, y = 0;
    double ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    fr_training call = {.data = {.n_rows = 1 << 29, .x = &x, .y = &y},
                        .stop = 1 << 29,
                        .batch_size = 1 << 29,
                        .optimizer = optimizers[4],
                        .n_threads = 1};
    for (int i = 0; i < 2; i++)
        CHECK(fr_network_train(network, &call, ledger, &steps) == FR_NO_MEMORY && steps == 0,
              "train");
    CHECK(fr_network_slots(network) == 0 && ledger[FR_LEDGER_ROWS] == 0, "something was written");
    fr_network_destroy(network);

    /* The network goes on after it. */
    fr_layer layer = {.kind = FR_LAYER_dense, .n_in = 3, .n_out = 2, .use_bias = 1, .trainable = 1};
    fr_training good = make_call(FR_FLOAT64, FR_LOSS_mean_squared_error, 8, 3, 2);
    pair p = create_pair(FR_FLOAT64, &layer, 1);
    train_both(p, &good, "before");
    fr_training huge = good;
    huge.data.n_rows = huge.stop = huge.batch_size = INT_MAX / 2;
    huge.data.index = NULL;
    huge.n_threads = 256;
    if (sizeof(void *) == 8) {
        /* 2^30 rows of a small network: some 2^37 bytes; too much for the limit set here alone */
        struct rlimit old, limit;
        getrlimit(RLIMIT_AS, &old);
        limit = old;
        limit.rlim_cur = (rlim_t)1 << 36;
        setrlimit(RLIMIT_AS, &limit);
        CHECK(fr_network_train(p.network, &huge, ledger, &steps) == FR_NO_MEMORY, "train");
        setrlimit(RLIMIT_AS, &old);
    }
    train_both(p, &good, "after");
    destroy_pair(p);
}

/* What a child does under a limit of memory; the number of the call that did not say so, or 0. */
static int calls_without_memory(void)
{
    enum { WIDE = 10000, MANY = 1 << 22 };
    fr_network *network = NULL;
    fr_layer square = {.kind = FR_LAYER_dense, .n_in = WIDE, .n_out = WIDE};
    fr_layer thin = {.kind = FR_LAYER_dense, .n_in = 1, .n_out = 1, .trainable = 1};
    ptrdiff_t n_rows = (ptrdiff_t)1 << 27, steps;
    double *x = calloc(64, 1), *weight = calloc(MANY, sizeof *weight), ledger[FR_LEDGER_SIZE] = {0};
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    /* Room for 32 MB more than what the process has. */
    limit.rlim_cur = (rlim_t)32 << 20;
    FILE *statm = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (statm && fscanf(statm, "%lu", &pages) == 1)
        limit.rlim_cur += (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
    if (statm) fclose(statm);
    if (!x || !weight || setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    if (fr_network_create(&network, FR_FLOAT64, &square, 1) != FR_NO_MEMORY || network) return 2;
    /* Groups that do not fit are still the caller's. */
    fr_layer grouped = {.kind = FR_LAYER_dense, .n_in = 1, .n_out = MANY};
    if (fr_network_create(&network, FR_FLOAT32, &grouped, 1) != FR_OK) return 10;
    grouped.groups = (fr_groups){.n_groups = MANY, .by_column = 1, .weight = weight};
    if (fr_network_update_layers(network, &grouped) != FR_NO_MEMORY) return 11;
    weight[0] = 1;
    fr_network_destroy(network);
    network = NULL;
    if (fr_network_create(&network, FR_FLOAT64, &thin, 1) != FR_OK) return 3;
    fr_training call = {.data = {.n_rows = n_rows, .x = x, .y = x},
                        .stop = n_rows,
                        .batch_size = n_rows,
                        .optimizer = optimizers[4],
                        .n_threads = 8};
    if (fr_network_train(network, &call, ledger, &steps) != FR_NO_MEMORY || steps) return 4;
    if (fr_network_slots(network) != 0) return 5;
    if (fr_network_evaluate(network, &call, ledger) != FR_NO_MEMORY) return 6;
    if (ledger[FR_LEDGER_ROWS] != 0) return 7;
    if (fr_dense_backward(FR_FLOAT64, n_rows, 1, 1, x, x, x, x, FR_ACTIVATION_linear, test_curve,
                          NULL, x, x, 8) != FR_NO_MEMORY)
        return 8;
    /* What fits goes on, with as many threads as there is memory for. */
    call.data.n_rows = call.stop = call.batch_size = 4;
    if (fr_network_train(network, &call, ledger, &steps) != FR_OK || steps != 1) return 9;
    fr_network_destroy(network);
    free(weight);
    free(x);
    return 0;
}

static void check_memory_limit(void)
{
    test_case("memory limit");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(calls_without_memory());
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child's call %d, status %d",
          WEXITSTATUS(status), status);
}

/* ---- the caller's floating-point state ---- */

#if FR_X86_64
/* Rounding and flush-to-zero as the caller had them; bits 0 to 5 are flags that any code raises. */
static void check_float_state(void)
{
    enum { FLAGS = 0x3F, FLUSH = 0x8040, ROUND_UP = 0x4000 };
    static const unsigned states[] = {0x1F80, 0x1F80 | FLUSH, 0x1F80 | ROUND_UP};
    unsigned at_start = _mm_getcsr();
    for (int i = 0; i < 3; i++) {
        test_case("floating-point state %#x", states[i]);
        fr_layer layers[4];
        make_layers(layers, FR_ACTIVATION_tanh, FR_ACTIVATION_softmax);
        fr_training call = make_call(FR_FLOAT32, FR_LOSS_categorical_crossentropy, 29, 5, 4);
        pair p = create_pair(FR_FLOAT32, layers, 4);
        double ledger[FR_LEDGER_SIZE] = {0}, out[29 * 9], value;
        ptrdiff_t steps;
        fr_regularizer r = {0.1, 0.1};
        call.n_threads = 4;
#define KEEPS(call)                                                                                \
    do {                                                                                           \
        _mm_setcsr(states[i]);                                                                     \
        fr_status status = call;                                                                   \
        unsigned now = _mm_getcsr();                                                               \
        _mm_setcsr(at_start);                                                                      \
        CHECK(status == FR_OK, "%s", #call);                                                       \
        CHECK((now & ~(unsigned)FLAGS) == states[i], "%s leaves %#x", #call, now);                 \
    } while (0)
        KEEPS(fr_network_train(p.network, &call, ledger, &steps));
        KEEPS(fr_network_evaluate(p.network, &call, ledger));
        KEEPS(fr_network_forward(p.network, 29, data.x, out, 4));
        KEEPS(fr_dense_forward(FR_FLOAT32, 29, 5, 4, data.x, data.y, data.weight, 0, test_curve, out,
                               4));
        KEEPS(fr_activation_forward(FR_FLOAT32, 1, 20, data.x, FR_ACTIVATION_sigmoid, test_curve, out));
        KEEPS(
            fr_activation_backward(FR_FLOAT32, 1, 20, data.y, data.x, FR_ACTIVATION_sigmoid, test_curve, out));
        KEEPS(fr_penalty(FR_FLOAT32, 20, data.x, r, &value));
        KEEPS(fr_penalty_gradient(FR_FLOAT32, 20, data.x, r, out));
        KEEPS(fr_loss(FR_FLOAT32, call.loss, call.loss_settings, 29, 4, data.y, data.y, NULL, &value, out));
        KEEPS(fr_noise(FR_FLOAT32, FR_LAYER_dropout, 5, 4, data.x, 0.5, 1, 0, 0, out));
        CHECK(fr_network_update_layers(p.network, layers) == FR_OK, "update layers");
        put(FR_FLOAT32, data.x, 0, NAN);
        call.data.index = NULL;
        _mm_setcsr(states[i]);
        fr_status status = fr_network_train(p.network, &call, ledger, &steps);
        unsigned now = _mm_getcsr();
        _mm_setcsr(at_start);
        CHECK(status == FR_NOT_FINITE, "stop");
        CHECK((now & ~(unsigned)FLAGS) == states[i], "a stop leaves %#x", now);
#undef KEEPS
        destroy_pair(p);
    }
}
#else
static void check_float_state(void) {}
#endif

void test_network(void)
{
    fr_blas_set(naive_sgemm, naive_dgemm);
    test_each_network(check_against_model);
    test_each_network(check_panels);
    test_each_network(check_layer_kinds);
    test_each_network(check_wide_layers);
    test_each_network(check_sparse_kernels);
    test_each_network(check_sparse_choice);
    test_each_network(check_compressed_rows);
    test_each_network(check_updated_layers);
    test_each_network(check_dropout_layers);
    test_each_network(check_restored_weights);
    test_each_network(check_no_epsilon);
    test_each_network(check_keep);
    test_each_network(check_more_optimizers);
    test_each_network(check_halves);
    test_each_network(check_own_loss);
    test_each_network(check_rates);
    test_each_network(check_watches);
    test_each_network(check_flatten);
    test_each_network(check_set_gradients);
    test_each_network(check_gradients_of_a_turn);
    printf("  largest difference to the model: float32 %.2g, float64 %.2g\n",
           largest_gap[FR_FLOAT32], largest_gap[FR_FLOAT64]);
    test_each_network(check_stop);
    test_seed(2); /* of drawn places few lie within h of a kink; of these none */
    for (int activation = 0; activation < FR_N_ACTIVATIONS; activation++)
        for (int loss = 0; loss < FR_N_LOSSES; loss++) {
            fr_loss_settings s;
            for (int i = 0; oracle_settings(loss, i, &s); i++)
                if (has_slope(activation, loss, &s)) check_slopes_of(activation, loss, &s, i);
        }
    for (int i = 0; i < 2; i++) {
        CHECK(fr_gemm_choose(i ? "native" : "blas") == FR_OK, "choose products");
        check_threads_agree(FR_FLOAT32);
        check_threads_agree(FR_FLOAT64);
    }
    test_each_network(check_active_sets);
    test_each_network(check_active_choice);
    fr_isa_choose(NULL);
    check_layer_arguments();
    check_call_arguments();
    check_function_arguments();
    check_loss_settings();
    check_plans_too_large();
    check_memory_limit();
    check_float_state();
}
