/* A network's life: plan -> forward -> loss -> backward -> update.
 *
 * A training step has two phases, with a barrier after each.
 *
 *   rows      the batch is cut into panels of rows. A panel is gathered, goes forward through all layers
 *             and the loss, and backward down to the first trainable layer, without leaving the cache.
 *   columns   the kernels are cut into blocks. A block's dw = x'dz over the whole batch goes into a
 *             thread's scratch, and the regularized update consumes it there: gradients are not stored.
 *
 * Panels and blocks depend on the plan alone; threads take them from a counter, each writes what no
 * other does, and partial sums are added in the order of panels and blocks. So the weights do not depend
 * on the number of threads. There are no element loops here: those are the kernels'.
 *
 * The arenas:
 *   weights, slots   [kernel 0 | bias 0 | kernel 1 | ...] each at 64 bytes, zeros between
 *   training         per layer y, d (batch, ld) and dbias (panels, ld); x, targets, weights of a batch;
 *                    tasks; one scratch a thread
 *   inference        two panels of activations a thread
 */
#include "network.h"

#include "base/arena.h"
#include "base/threads.h"
#include "blas.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    fr_layer spec;
    ptrdiff_t kernel, bias; /* offsets in the weights, -1 where there is none */
    ptrdiff_t ld;           /* of y and d */
    /* training */
    void *y, *d;
    void *dbias;  /* (panels, ld): column sums of each panel's dz */
    void *factor; /* dropout: (batch, ld) */
} layer;

/* A block of a kernel: rows i..i+n_i, columns o..o+n_o. The blocks with i = 0 update the bias too. */
typedef struct {
    ptrdiff_t layer, i, n_i, o, n_o;
    fr_sums kernel, bias;
} task;

typedef struct {
    double loss, correct, activity;
} panel_sums;

typedef struct {
    fr_arena arena;
    ptrdiff_t n_batch; /* rows that the buffers hold; a call may use fewer */
    ptrdiff_t n_rows;  /* of a panel */
    int loss, n_threads;
    ptrdiff_t ld_x;
    void *x, *target, *weight;
    panel_sums *panels;
    task *tasks;
    ptrdiff_t n_tasks;
    char *scratch; /* (n_threads, scratch_size) bytes */
    ptrdiff_t scratch_size;
} training_plan;

typedef struct {
    fr_arena arena;
    int n_threads;
    ptrdiff_t n_rows, ld;
    char *activations; /* (n_threads, 2, n_rows, ld); a call may use fewer rows */
} inference_plan;

struct fr_network {
    fr_dtype dtype;
    ptrdiff_t size; /* of an element */
    ptrdiff_t n_layers, n_in, n_out, n_weights;
    ptrdiff_t first_trainable; /* n_layers when there is none */
    double flops;              /* of one row's forward pass */
    layer *layers;
    fr_arena weights, slots;
    int n_slots;
    training_plan training;
    inference_plan inference;
};

/* ---- rules ---- */

static ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static ptrdiff_t round_up(ptrdiff_t a, ptrdiff_t to) { return (a + to - 1) / to * to; }
static ptrdiff_t pieces(ptrdiff_t n, ptrdiff_t piece) { return (n + piece - 1) / piece; }

ptrdiff_t fr_panel_rows(ptrdiff_t n_batch)
{
    /* BLAS repacks the kernel at every call: panels of 256 rows were best for large layers. Two panels
     * at least, so that two threads have work. */
    return smaller(256, larger(16, round_up(pieces(n_batch, 2), 8)));
}

int fr_threads_for(double flops, int n_threads) { return flops < 2e5 ? 1 : n_threads; }

/* Rows and columns of a kernel's blocks: near to square where the kernel is wide (BLAS packs the dz of
 * all columns for each block of rows), of a size that keeps the scratch in L2 and leaves enough blocks to
 * share out. */
static void block_shape(ptrdiff_t n_in, ptrdiff_t n_out, ptrdiff_t elements, ptrdiff_t *n_i,
                        ptrdiff_t *n_o)
{
    ptrdiff_t columns = pieces(n_out, 512);
    *n_o = smaller(n_out, round_up(pieces(n_out, columns), 16));
    ptrdiff_t rows = pieces(n_in, larger(16, elements / *n_o));
    *n_i = smaller(n_in, round_up(pieces(n_in, rows), 16));
}

static ptrdiff_t block_elements(ptrdiff_t n_weights, ptrdiff_t size)
{
    return smaller(1024 * 1024 / size, larger(4096, n_weights / 8));
}

int fr_slots_of(const fr_optimizer *optimizer)
{
    switch (optimizer->kind) {
    case FR_OPTIMIZER_sgd: return optimizer->momentum != 0;
    case FR_OPTIMIZER_adam: return 2;
    }
    return 0;
}

fr_update_step fr_update_step_of(const fr_optimizer *o, int64_t iteration)
{
    fr_update_step step = {
        .rate = o->learning_rate,
        .keep = 1 - o->learning_rate * o->weight_decay,
        .momentum = o->momentum,
        .beta_1 = o->beta_1,
        .beta_2 = o->beta_2,
        .epsilon = o->epsilon,
        .nesterov = o->nesterov,
    };
    if (o->kind == FR_OPTIMIZER_adam) {
        double t = (double)iteration + 1;
        step.rate *= sqrt(1 - pow(o->beta_2, t)) / (1 - pow(o->beta_1, t));
    }
    return step;
}

static bool penalizes(fr_regularizer r) { return r.l1 != 0 || r.l2 != 0; }

static double penalty(fr_regularizer r, fr_sums sums)
{
    return (r.l1 != 0 ? r.l1 * sums.abs : 0) + (r.l2 != 0 ? r.l2 * sums.square : 0);
}

static bool takes_labels(int loss) { return loss == FR_LOSS_sparse_categorical_crossentropy; }

static fr_loss_kernel *fused_loss(const fr_network *net, int loss)
{
    const fr_layer *last = &net->layers[net->n_layers - 1].spec;
    if (last->kind != FR_LAYER_dense) return NULL;
    return fr_kernels_for(net->dtype)->fused_loss[loss][last->activation];
}

/* ---- life ---- */

static bool regularizer_valid(fr_regularizer r)
{
    return r.l1 >= 0 && r.l2 >= 0 && isfinite(r.l1) && isfinite(r.l2);
}

static bool layer_valid(const fr_layer *l)
{
    if (l->n_in < 1 || l->n_out < 1) return false;
    switch (l->kind) {
    case FR_LAYER_dense:
        return l->activation >= 0 && l->activation < FR_N_ACTIVATIONS &&
               regularizer_valid(l->kernel) && regularizer_valid(l->bias) &&
               regularizer_valid(l->activity);
    case FR_LAYER_dropout: return l->n_in == l->n_out && l->rate >= 0 && l->rate < 1;
    }
    return false;
}

fr_status fr_network_update_layers(fr_network *net, const fr_layer *layers)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const fr_layer *old = &net->layers[l].spec, *new = &layers[l];
        if (!layer_valid(new) || new->kind != old->kind || new->n_in != old->n_in ||
            new->n_out != old->n_out || new->use_bias != old->use_bias ||
            new->activation != old->activation)
            return FR_BAD_ARGUMENT;
    }
    net->first_trainable = net->n_layers;
    for (ptrdiff_t l = net->n_layers - 1; l >= 0; l--) {
        net->layers[l].spec = layers[l];
        if (layers[l].kind == FR_LAYER_dense && layers[l].trainable) net->first_trainable = l;
    }
    return FR_OK;
}

/* Gives every array of the weights its offset; returns how many elements they take, or -1. */
static ptrdiff_t place_weights(fr_network *net)
{
    ptrdiff_t line = FR_ALIGNMENT / net->size, used = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        a->kernel = a->bias = -1;
        if (a->spec.kind != FR_LAYER_dense) continue;
        ptrdiff_t kernel = fr_size_product(a->spec.n_in, a->spec.n_out);
        if (kernel < 0 || kernel > PTRDIFF_MAX / 64 - used) return -1;
        a->kernel = used;
        used += round_up(kernel, line);
        if (!a->spec.use_bias) continue;
        a->bias = used;
        used += round_up(a->spec.n_out, line);
    }
    return used;
}

fr_status fr_network_create(fr_network **network, fr_dtype dtype, const fr_layer *layers,
                            ptrdiff_t n_layers)
{
    if (n_layers < 1 || (dtype != FR_FLOAT32 && dtype != FR_FLOAT64)) return FR_BAD_ARGUMENT;
    for (ptrdiff_t l = 0; l < n_layers; l++) {
        if (!layer_valid(&layers[l])) return FR_BAD_ARGUMENT;
        if (l > 0 && layers[l].n_in != layers[l - 1].n_out) return FR_BAD_ARGUMENT;
        if (layers[l].n_in > INT_MAX / 2 || layers[l].n_out > INT_MAX / 2) return FR_TOO_LARGE;
    }
    fr_network *net = calloc(1, sizeof *net);
    if (!net || !(net->layers = calloc((size_t)n_layers, sizeof *net->layers))) {
        free(net);
        return FR_NO_MEMORY;
    }
    net->dtype = dtype;
    net->size = fr_sizeof(dtype);
    net->n_layers = n_layers;
    net->n_in = layers[0].n_in;
    net->n_out = layers[n_layers - 1].n_out;
    ptrdiff_t line = FR_ALIGNMENT / net->size;
    for (ptrdiff_t l = 0; l < n_layers; l++) {
        net->layers[l].spec = layers[l];
        net->layers[l].ld = round_up(layers[l].n_out, line);
        if (layers[l].kind == FR_LAYER_dense)
            net->flops += 2.0 * (double)layers[l].n_in * (double)layers[l].n_out;
    }
    fr_status status = FR_OK;
    net->n_weights = place_weights(net);
    if (net->n_weights < 0) {
        status = FR_TOO_LARGE;
    } else {
        fr_arena_take(&net->weights, net->n_weights, net->size);
        if (net->weights.overflow)
            status = FR_TOO_LARGE;
        else if (!fr_arena_allocate(&net->weights))
            status = FR_NO_MEMORY;
        else
            status = fr_network_update_layers(net, layers);
    }
    if (status != FR_OK) {
        fr_network_destroy(net);
        return status;
    }
    *network = net;
    return FR_OK;
}

void fr_network_destroy(fr_network *net)
{
    if (!net) return;
    fr_arena_free(&net->weights);
    fr_arena_free(&net->slots);
    fr_arena_free(&net->training.arena);
    fr_arena_free(&net->inference.arena);
    free(net->layers);
    free(net);
}

int fr_network_slots(const fr_network *net) { return net->n_slots; }

fr_status fr_network_set_slots(fr_network *net, int n_slots)
{
    fr_arena slots = {0};
    if (n_slots < 0 || n_slots > 2) return FR_BAD_ARGUMENT;
    if (n_slots > 0) {
        fr_arena_take(&slots, fr_size_product(n_slots, net->n_weights), net->size);
        if (slots.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&slots)) return FR_NO_MEMORY;
    }
    fr_arena_free(&net->slots);
    net->slots = slots;
    net->n_slots = n_slots;
    return FR_OK;
}

static void *slot_at(const fr_network *net, int slot, ptrdiff_t element)
{
    if (slot >= net->n_slots) return NULL;
    return fr_at(net->slots.base, slot * net->n_weights + element, net->size);
}

static void *weight_at(const fr_network *net, ptrdiff_t element)
{
    return fr_at(net->weights.base, element, net->size);
}

/* The array that get and set name, and its bytes; NULL where there is none. */
static void *array_at(const fr_network *net, int slot, ptrdiff_t l, int part, size_t *bytes)
{
    if (l < 0 || l >= net->n_layers || slot < -1 || slot >= net->n_slots) return NULL;
    const layer *a = &net->layers[l];
    ptrdiff_t offset = part == 0 ? a->kernel : a->bias;
    if (offset < 0) return NULL;
    *bytes = (size_t)((part == 0 ? a->spec.n_in : 1) * a->spec.n_out * net->size);
    return slot < 0 ? weight_at(net, offset) : slot_at(net, slot, offset);
}

fr_status fr_network_get(const fr_network *net, int slot, ptrdiff_t l, int part, void *out)
{
    size_t bytes;
    const void *array = array_at(net, slot, l, part, &bytes);
    if (!array) return FR_BAD_ARGUMENT;
    memcpy(out, array, bytes);
    return FR_OK;
}

fr_status fr_network_set(fr_network *net, int slot, ptrdiff_t l, int part, const void *in)
{
    size_t bytes;
    void *array = array_at(net, slot, l, part, &bytes);
    if (!array) return FR_BAD_ARGUMENT;
    memcpy(array, in, bytes);
    return FR_OK;
}

/* ---- forward ---- */

static fr_matrix kernel_of(const fr_network *net, const layer *a)
{
    return (fr_matrix){weight_at(net, a->kernel), a->spec.n_out};
}

/* y = f(x W + b) on a panel; returns the activity penalty where f is the layer's own. */
static double dense_forward(const fr_network *net, const layer *a, int activation, ptrdiff_t rows,
                            fr_matrix x, void *y, ptrdiff_t ld_y)
{
    fr_sums sums = {0, 0};
    fr_product_forward(net->dtype, rows, a->spec.n_in, a->spec.n_out, x, kernel_of(net, a), y, ld_y);
    bool counted = penalizes(a->spec.activity) && activation == a->spec.activation;
    fr_forward_tile tile = {
        .rows = rows,
        .n = a->spec.n_out,
        .y = y,
        .ld = ld_y,
        .bias = a->bias < 0 ? NULL : weight_at(net, a->bias),
        .sums = counted ? &sums : NULL,
    };
    fr_kernels_for(net->dtype)->forward[activation](&tile);
    return penalty(a->spec.activity, sums);
}

/* The loss of a panel. When fused, y holds z of the last layer and becomes f(z); the activity penalty
 * that dense_forward could not see yet is then added here. */
static panel_sums panel_loss(const fr_network *net, int loss, fr_loss_tile *tile)
{
    const fr_kernels *kernels = fr_kernels_for(net->dtype);
    fr_loss_kernel *fused = fused_loss(net, loss);
    fr_regularizer activity = net->layers[net->n_layers - 1].spec.activity;
    (fused ? fused : kernels->loss[loss])(tile);
    panel_sums sums = {tile->loss, tile->correct, 0};
    if (!fused || !penalizes(activity)) return sums;
    for (ptrdiff_t r = 0; r < tile->rows; r++)
        sums.activity +=
            penalty(activity, kernels->sums(tile->n, fr_at(tile->y, r * tile->ld, net->size)));
    return sums;
}

/* The activation to run at layer l: the last one is left to a loss that fuses it. */
static int activation_at(const fr_network *net, ptrdiff_t l, bool fused)
{
    return fused && l == net->n_layers - 1 ? FR_ACTIVATION_linear : net->layers[l].spec.activation;
}

/* ---- the training step ---- */

typedef struct {
    fr_network *net;
    training_plan *plan;
    const fr_training *call;
    const fr_kernels *kernels;
    bool fused;
    double *ledger;
    /* the step at hand */
    ptrdiff_t row, n_batch, n_panels, steps_done;
    bool stop;
    fr_update_step update;
    _Atomic ptrdiff_t next_panel;
    _Atomic ptrdiff_t next_task;
} training_run;

static void gather(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    const fr_data *data = &run->call->data;
    bool labels = takes_labels(plan->loss);
    size_t x_bytes = (size_t)(net->n_in * net->size);
    size_t target_bytes = labels ? sizeof(int32_t) : (size_t)(net->n_out * net->size);
    for (ptrdiff_t r = first; r < first + rows; r++) {
        ptrdiff_t from = data->index ? (ptrdiff_t)data->index[run->row + r] : run->row + r;
        memcpy(fr_at(plan->x, r * plan->ld_x, net->size), fr_at(data->x, from * net->n_in, net->size),
               x_bytes);
        memcpy((char *)plan->target + (size_t)r * target_bytes,
               (const char *)data->y + (size_t)from * target_bytes, target_bytes);
        if (data->weight)
            memcpy(fr_at(plan->weight, r, net->size), fr_at(data->weight, from, net->size),
                   (size_t)net->size);
    }
}

/* What layer l reads, from row `first` of the batch. */
static fr_matrix input_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    const training_plan *plan = run->plan;
    if (l == 0)
        return (fr_matrix){fr_at(plan->x, first * plan->ld_x, run->net->size), plan->ld_x};
    const layer *below = &run->net->layers[l - 1];
    return (fr_matrix){fr_at(below->y, first * below->ld, run->net->size), below->ld};
}

static double forward_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    double activity = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        fr_matrix x = input_of(run, l, first);
        void *y = fr_at(a->y, first * a->ld, net->size);
        if (a->spec.kind == FR_LAYER_dense) {
            activity += dense_forward(net, a, activation_at(net, l, run->fused), rows, x, y, a->ld);
            continue;
        }
        fr_dropout_tile tile = {
            .rows = rows,
            .n = a->spec.n_out,
            .x = x.at,
            .ld_x = x.ld,
            .y = y,
            .ld_y = a->ld,
            .factor = fr_at(a->factor, first * a->ld, net->size),
            .rate = a->spec.rate,
            .seed = a->spec.has_seed ? a->spec.seed : run->call->seed,
            .first_row = first,
            .layer = (uint32_t)l,
            .iteration = (uint32_t)(run->call->iteration + run->steps_done),
        };
        run->kernels->dropout(&tile);
    }
    return activity;
}

static panel_sums loss_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const training_plan *plan = run->plan;
    const layer *last = &net->layers[net->n_layers - 1];
    bool labels = takes_labels(plan->loss);
    fr_loss_tile tile = {
        .rows = rows,
        .n = net->n_out,
        .y = fr_at(last->y, first * last->ld, net->size),
        .ld = last->ld,
        .target = labels ? (void *)((int32_t *)plan->target + first)
                         : fr_at(plan->target, first * net->n_out, net->size),
        .weight = run->call->data.weight ? fr_at(plan->weight, first, net->size) : NULL,
        .d = fr_at(last->d, first * last->ld, net->size),
        .ld_d = last->ld,
        .scale = 1.0 / (double)run->n_batch,
        .accuracy = run->call->accuracy,
    };
    return panel_loss(net, plan->loss, &tile);
}

/* d of the fused last layer already is dz of the loss; an activity penalty adds its own dz. */
static void add_activity_of_fused(const training_run *run, const fr_backward_tile *whole,
                                  int activation, void *scratch)
{
    ptrdiff_t size = run->net->size;
    fr_backward_tile own = *whole;
    own.d = scratch;
    own.dbias = NULL;
    memset(scratch, 0, (size_t)(own.rows * own.ld_d * size));
    run->kernels->backward[activation](&own);
    for (ptrdiff_t r = 0; r < own.rows; r++)
        run->kernels->add(own.n, fr_at(scratch, r * own.ld_d, size),
                          fr_at(whole->d, r * own.ld_d, size));
}

static void backward_panel(const training_run *run, ptrdiff_t first, ptrdiff_t rows, void *scratch)
{
    const fr_network *net = run->net;
    ptrdiff_t panel = first / run->plan->n_rows;
    for (ptrdiff_t l = net->n_layers - 1; l >= net->first_trainable; l--) {
        const layer *a = &net->layers[l], *below = l > 0 ? &net->layers[l - 1] : NULL;
        void *d = fr_at(a->d, first * a->ld, net->size);
        bool goes_on = l > net->first_trainable;
        void *d_below = goes_on ? fr_at(below->d, first * below->ld, net->size) : NULL;
        if (a->spec.kind == FR_LAYER_dropout) {
            run->kernels->multiply(rows, a->spec.n_out, d, a->ld,
                                   fr_at(a->factor, first * a->ld, net->size), a->ld, d_below,
                                   below->ld);
            continue;
        }
        double each = 1.0 / (double)run->n_batch;
        bool is_fused = run->fused && l == net->n_layers - 1;
        fr_backward_tile tile = {
            .rows = rows,
            .n = a->spec.n_out,
            .y = fr_at(a->y, first * a->ld, net->size),
            .ld = a->ld,
            .d = d,
            .ld_d = a->ld,
            .activity = {a->spec.activity.l1 * each, a->spec.activity.l2 * each},
            .dbias = a->bias < 0 ? NULL : fr_at(a->dbias, panel * a->ld, net->size),
        };
        if (is_fused) {
            if (penalizes(tile.activity))
                add_activity_of_fused(run, &tile, a->spec.activation, scratch);
            tile.activity = (fr_regularizer){0, 0};
        }
        run->kernels->backward[activation_at(net, l, run->fused)](&tile);
        if (goes_on)
            fr_product_backward(net->dtype, rows, a->spec.n_in, a->spec.n_out, (fr_matrix){d, a->ld},
                                kernel_of(net, a), d_below, below->ld);
    }
}

static void row_panel(training_run *run, ptrdiff_t panel, void *scratch)
{
    ptrdiff_t first = panel * run->plan->n_rows;
    ptrdiff_t rows = smaller(run->plan->n_rows, run->n_batch - first);
    gather(run, first, rows);
    double activity = forward_panel(run, first, rows);
    panel_sums sums = loss_panel(run, first, rows);
    sums.activity += activity;
    run->plan->panels[panel] = sums;
    backward_panel(run, first, rows, scratch);
}

static void update_row(const training_run *run, fr_regularizer regularizer, ptrdiff_t element,
                       ptrdiff_t n, const void *dw, fr_sums *sums)
{
    const fr_network *net = run->net;
    fr_update_step step = run->update;
    step.regularizer = regularizer;
    void *slots[2] = {slot_at(net, 0, element), slot_at(net, 1, element)};
    run->kernels->update[run->call->optimizer.kind](&step, n, weight_at(net, element), dw, slots,
                                                    sums);
}

static void column_block(training_run *run, task *t, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    t->kernel = t->bias = (fr_sums){0, 0};

    fr_matrix x = input_of(run, t->layer, 0), dz = {fr_at(a->d, t->o, net->size), a->ld};
    x.at = fr_at(x.at, t->i, net->size);
    fr_product_kernel(net->dtype, run->n_batch, t->n_i, t->n_o, x, dz, scratch, t->n_o);
    /* Whole rows of the kernel are one contiguous array. */
    bool whole = t->n_o == a->spec.n_out;
    ptrdiff_t n = whole ? t->n_i * t->n_o : t->n_o;
    for (ptrdiff_t r = 0; r < (whole ? 1 : t->n_i); r++)
        update_row(run, a->spec.kernel, a->kernel + (t->i + r) * a->spec.n_out + t->o, n,
                   fr_at(scratch, r * t->n_o, net->size), &t->kernel);

    if (t->i > 0 || a->bias < 0) return;
    memset(scratch, 0, (size_t)(t->n_o * net->size));
    for (ptrdiff_t p = 0; p < run->n_panels; p++)
        run->kernels->add(t->n_o, fr_at(a->dbias, p * a->ld + t->o, net->size), scratch);
    update_row(run, a->spec.bias, a->bias + t->o, t->n_o, scratch, &t->bias);
}

static void begin_step(training_run *run)
{
    run->n_batch = smaller(run->call->batch_size, run->call->stop - run->row);
    run->n_panels = pieces(run->n_batch, run->plan->n_rows);
    atomic_store_explicit(&run->next_panel, 0, memory_order_relaxed);
}

static panel_sums sum_panels(const training_run *run)
{
    panel_sums sums = {0, 0, 0};
    for (ptrdiff_t p = 0; p < run->n_panels; p++) {
        sums.loss += run->plan->panels[p].loss;
        sums.correct += run->plan->panels[p].correct;
        sums.activity += run->plan->panels[p].activity;
    }
    return sums;
}

static void after_rows(void *context)
{
    training_run *run = context;
    panel_sums sums = sum_panels(run);
    run->stop = !isfinite(sums.loss + sums.activity);
    run->update =
        fr_update_step_of(&run->call->optimizer, run->call->iteration + run->steps_done);
    atomic_store_explicit(&run->next_task, 0, memory_order_relaxed);
}

static void after_columns(void *context)
{
    training_run *run = context;
    panel_sums sums = sum_panels(run);
    double kernel = 0, bias = 0, rows = (double)run->n_batch;
    for (ptrdiff_t i = 0; i < run->plan->n_tasks; i++) {
        const task *t = &run->plan->tasks[i];
        kernel += penalty(run->net->layers[t->layer].spec.kernel, t->kernel);
        bias += penalty(run->net->layers[t->layer].spec.bias, t->bias);
    }
    run->ledger[FR_LEDGER_DATA_LOSS] += sums.loss;
    run->ledger[FR_LEDGER_KERNEL_PENALTY] += rows * kernel;
    run->ledger[FR_LEDGER_BIAS_PENALTY] += rows * bias;
    run->ledger[FR_LEDGER_ACTIVITY_PENALTY] += sums.activity;
    run->ledger[FR_LEDGER_CORRECT] += sums.correct;
    run->ledger[FR_LEDGER_ROWS] += rows;
    run->row += run->n_batch;
    run->steps_done++;
    begin_step(run);
}

static void train_as(void *context, fr_team *team, int thread)
{
    training_run *run = context;
    training_plan *plan = run->plan;
    void *scratch = plan->scratch + (ptrdiff_t)thread * plan->scratch_size;
    ptrdiff_t i;
    while (run->row < run->call->stop) {
        while ((i = atomic_fetch_add_explicit(&run->next_panel, 1, memory_order_relaxed)) <
               run->n_panels)
            row_panel(run, i, scratch);
        fr_team_barrier(team, after_rows, run);
        if (run->stop) return;
        while ((i = atomic_fetch_add_explicit(&run->next_task, 1, memory_order_relaxed)) <
               plan->n_tasks)
            column_block(run, &plan->tasks[i], scratch);
        fr_team_barrier(team, after_columns, run);
    }
}

/* ---- the training plan ---- */

/* The blocks of all trainable kernels, last layer first; counts alone where tasks is NULL. */
static ptrdiff_t plan_tasks(const fr_network *net, task *tasks, ptrdiff_t *block)
{
    ptrdiff_t elements = block_elements(net->n_weights, net->size), n = 0;
    *block = 0;
    for (ptrdiff_t l = net->n_layers - 1; l >= 0; l--) {
        const fr_layer *s = &net->layers[l].spec;
        if (s->kind != FR_LAYER_dense || !s->trainable) continue;
        ptrdiff_t n_i, n_o;
        block_shape(s->n_in, s->n_out, elements, &n_i, &n_o);
        *block = larger(*block, n_i * n_o);
        for (ptrdiff_t i = 0; i < s->n_in; i += n_i)
            for (ptrdiff_t o = 0; o < s->n_out; o += n_o, n++)
                if (tasks)
                    tasks[n] = (task){.layer = l,
                                      .i = i,
                                      .n_i = smaller(n_i, s->n_in - i),
                                      .o = o,
                                      .n_o = smaller(n_o, s->n_out - o)};
    }
    return n;
}

static void take_training(fr_network *net, training_plan *plan)
{
    fr_arena *arena = &plan->arena;
    ptrdiff_t n_panels = pieces(plan->n_batch, plan->n_rows);
    ptrdiff_t line = FR_ALIGNMENT / net->size, block, most = 0;
    plan->ld_x = round_up(net->n_in, line);
    plan->n_tasks = plan_tasks(net, NULL, &block);
    plan->x = fr_arena_take(arena, fr_size_product(plan->n_batch, plan->ld_x), net->size);
    plan->target = fr_arena_take(arena, fr_size_product(plan->n_batch, net->n_out),
                                 larger(net->size, (ptrdiff_t)sizeof(int32_t)));
    plan->weight = fr_arena_take(arena, plan->n_batch, net->size);
    plan->panels = fr_arena_take(arena, n_panels, sizeof *plan->panels);
    plan->tasks = fr_arena_take(arena, plan->n_tasks, sizeof *plan->tasks);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        ptrdiff_t batch = fr_size_product(plan->n_batch, a->ld);
        a->y = fr_arena_take(arena, batch, net->size);
        a->d = fr_arena_take(arena, batch, net->size);
        if (a->spec.kind == FR_LAYER_dropout) a->factor = fr_arena_take(arena, batch, net->size);
        if (a->bias >= 0)
            a->dbias = fr_arena_take(arena, fr_size_product(n_panels, a->ld), net->size);
        most = larger(most, a->ld);
    }
    /* A thread's scratch holds a block's dw, its dbias, or the last layer's panel. */
    ptrdiff_t last = fr_size_product(plan->n_rows, net->layers[net->n_layers - 1].ld);
    plan->scratch_size =
        round_up(larger(larger(block, most), last) * net->size + 1, FR_ALIGNMENT);
    plan->scratch = fr_arena_take(arena, plan->n_threads, plan->scratch_size);
}

/* The plan for this call; buffers that are large enough stay. */
static fr_status plan_training(fr_network *net, const fr_training *call, int n_threads)
{
    training_plan *plan = &net->training;
    ptrdiff_t n_batch = smaller(call->batch_size, call->data.n_rows), block;
    if (n_batch > INT_MAX / 2) return FR_TOO_LARGE;
    /* The tasks tell which layers are frozen, which may change between calls. */
    if (!plan->arena.base || plan->n_batch < n_batch || plan->n_threads < n_threads ||
        plan->n_tasks != plan_tasks(net, NULL, &block)) {
        fr_arena_free(&plan->arena);
        *plan = (training_plan){
            .n_batch = n_batch, .n_rows = fr_panel_rows(n_batch), .n_threads = n_threads};
        take_training(net, plan);
        if (plan->arena.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&plan->arena)) return FR_NO_MEMORY;
        take_training(net, plan);
    }
    plan->n_rows = fr_panel_rows(n_batch);
    plan->loss = call->loss;
    plan_tasks(net, plan->tasks, &block);
    return FR_OK;
}

static bool call_valid(const fr_training *call)
{
    return call->start >= 0 && call->start <= call->stop && call->stop <= call->data.n_rows &&
           call->loss >= 0 && call->loss < FR_N_LOSSES && call->accuracy >= 0 &&
           call->accuracy < FR_N_ACCURACIES && call->data.x && call->data.y;
}

fr_status fr_network_train(fr_network *net, const fr_training *call, double *ledger,
                           ptrdiff_t *steps_done)
{
    *steps_done = 0;
    const fr_optimizer *optimizer = &call->optimizer;
    if (!call_valid(call) || call->batch_size < 1 || call->iteration < 0 || optimizer->kind < 0 ||
        optimizer->kind >= FR_N_OPTIMIZERS)
        return FR_BAD_ARGUMENT;
    if (!fr_blas_ready()) return FR_NO_BLAS;
    if (call->start == call->stop) return FR_OK;

    int n_threads = call->n_threads < 1 ? 1 : (int)smaller(call->n_threads, FR_MAX_THREADS);
    n_threads = fr_threads_for(3 * net->flops * (double)call->batch_size, n_threads);
    fr_status status = plan_training(net, call, n_threads);
    if (status == FR_OK && net->n_slots != fr_slots_of(optimizer))
        status = fr_network_set_slots(net, fr_slots_of(optimizer));
    if (status != FR_OK) return status;

    training_run run = {
        .net = net,
        .plan = &net->training,
        .call = call,
        .kernels = fr_kernels_for(net->dtype),
        .fused = fused_loss(net, call->loss) != NULL,
        .ledger = ledger,
        .row = call->start,
    };
    begin_step(&run);
    fr_parallel(n_threads, train_as, &run);
    *steps_done = run.steps_done;
    return run.stop ? FR_NOT_FINITE : FR_OK;
}

/* ---- inference: independent panels, two activations a thread ---- */

typedef struct {
    const fr_network *net;
    const inference_plan *plan;
    ptrdiff_t start, n_rows;          /* rows start..start+n_rows */
    ptrdiff_t n_panels, panel_rows;
    const void *x;
    void *out;                    /* (n_rows, n_out), or NULL when evaluating */
    const fr_training *call;      /* NULL when predicting */
    panel_sums *panels;
    bool fused;
    _Atomic ptrdiff_t next_panel;
} inference_run;

/* Forward for rows `first`.. of the call; returns the output (in out, in the thread's activations, or x
 * itself where no layer computes). */
static fr_matrix infer_panel(const inference_run *run, ptrdiff_t first, ptrdiff_t rows, int thread,
                             double *activity)
{
    const fr_network *net = run->net;
    const inference_plan *plan = run->plan;
    ptrdiff_t half = plan->n_rows * plan->ld;
    char *mine = plan->activations + 2 * (ptrdiff_t)thread * half * net->size;
    fr_matrix at = {fr_at(run->x, (run->start + first) * net->n_in, net->size), net->n_in};
    bool second = false;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense) continue;
        bool last = l == net->n_layers - 1;
        ptrdiff_t ld = last && run->out ? net->n_out : a->ld;
        void *y = last && run->out ? fr_at(run->out, first * net->n_out, net->size)
                                   : fr_at(mine, second ? half : 0, net->size);
        *activity += dense_forward(net, a, activation_at(net, l, run->fused), rows, at, y, ld);
        at = (fr_matrix){y, ld};
        second = !second;
    }
    return at;
}

static void infer_as(void *context, fr_team *team, int thread)
{
    (void)team;
    inference_run *run = context;
    const fr_network *net = run->net;
    ptrdiff_t panel;
    while ((panel = atomic_fetch_add_explicit(&run->next_panel, 1, memory_order_relaxed)) <
           run->n_panels) {
        ptrdiff_t first = panel * run->panel_rows;
        ptrdiff_t rows = smaller(run->panel_rows, run->n_rows - first);
        double activity = 0;
        fr_matrix y = infer_panel(run, first, rows, thread, &activity);
        if (run->out) {
            void *out = fr_at(run->out, first * net->n_out, net->size);
            for (ptrdiff_t r = 0; r < rows && y.at != out; r++)
                memcpy(fr_at(out, r * net->n_out, net->size), fr_at(y.at, r * y.ld, net->size),
                       (size_t)(net->n_out * net->size));
            continue;
        }
        const fr_data *data = &run->call->data;
        ptrdiff_t row = run->start + first;
        fr_loss_tile tile = {
            .rows = rows,
            .n = net->n_out,
            .y = (void *)y.at, /* written by fused losses alone, whose last layer is dense */
            .ld = y.ld,
            .target = takes_labels(run->call->loss) ? (const void *)((const int32_t *)data->y + row)
                                                    : fr_at(data->y, row * net->n_out, net->size),
            .weight = data->weight ? fr_at(data->weight, row, net->size) : NULL,
            .accuracy = run->call->accuracy,
        };
        run->panels[panel] = panel_loss(net, run->call->loss, &tile);
        run->panels[panel].activity += activity;
    }
}

static void take_inference(const fr_network *net, inference_plan *plan)
{
    plan->ld = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) plan->ld = larger(plan->ld, net->layers[l].ld);
    ptrdiff_t one = fr_size_product(plan->n_rows, plan->ld);
    plan->activations =
        fr_arena_take(&plan->arena, fr_size_product(2 * plan->n_threads, one), net->size);
}

static fr_status infer(fr_network *net, inference_run *run, int n_threads)
{
    if (!fr_blas_ready()) return FR_NO_BLAS;
    n_threads = n_threads < 1 ? 1 : (int)smaller(n_threads, FR_MAX_THREADS);
    n_threads = fr_threads_for(net->flops * (double)run->n_rows, n_threads);
    inference_plan *plan = &net->inference;
    ptrdiff_t n_rows = run->n_rows < 32 ? run->n_rows : fr_panel_rows(run->n_rows);
    if (!plan->arena.base || plan->n_rows < n_rows || plan->n_threads < n_threads) {
        fr_arena_free(&plan->arena);
        *plan = (inference_plan){.n_rows = n_rows, .n_threads = n_threads};
        take_inference(net, plan);
        if (plan->arena.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&plan->arena)) return FR_NO_MEMORY;
        take_inference(net, plan);
    }
    run->net = net;
    run->plan = plan;
    run->panel_rows = n_rows;
    run->n_panels = pieces(run->n_rows, n_rows);
    fr_parallel(n_threads, infer_as, run);
    return FR_OK;
}

fr_status fr_network_forward(fr_network *net, ptrdiff_t n_rows, const void *x, void *out,
                             int n_threads)
{
    if (n_rows < 0 || !x || !out) return FR_BAD_ARGUMENT;
    if (n_rows == 0) return FR_OK;
    inference_run run = {.n_rows = n_rows, .x = x, .out = out};
    return infer(net, &run, n_threads);
}

static void add_weight_penalties(const fr_network *net, double rows, double *ledger)
{
    const fr_kernels *kernels = fr_kernels_for(net->dtype);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense || !a->spec.trainable) continue;
        if (penalizes(a->spec.kernel))
            ledger[FR_LEDGER_KERNEL_PENALTY] +=
                rows * penalty(a->spec.kernel, kernels->sums(a->spec.n_in * a->spec.n_out,
                                                             weight_at(net, a->kernel)));
        if (a->bias >= 0 && penalizes(a->spec.bias))
            ledger[FR_LEDGER_BIAS_PENALTY] +=
                rows *
                penalty(a->spec.bias, kernels->sums(a->spec.n_out, weight_at(net, a->bias)));
    }
}

fr_status fr_network_evaluate(fr_network *net, const fr_training *call, double *ledger)
{
    if (!call_valid(call)) return FR_BAD_ARGUMENT;
    ptrdiff_t n_rows = call->stop - call->start;
    if (n_rows == 0) return FR_OK;
    inference_run run = {
        .start = call->start,
        .n_rows = n_rows,
        .x = call->data.x,
        .call = call,
        .fused = fused_loss(net, call->loss) != NULL,
    };
    /* at least 8 rows a panel but for the smallest calls: an upper bound of the panels */
    run.panels = calloc((size_t)(n_rows / 8 + 2), sizeof *run.panels);
    if (!run.panels) return FR_NO_MEMORY;
    fr_status status = infer(net, &run, call->n_threads);
    if (status == FR_OK) {
        for (ptrdiff_t p = 0; p < run.n_panels; p++) {
            ledger[FR_LEDGER_DATA_LOSS] += run.panels[p].loss;
            ledger[FR_LEDGER_CORRECT] += run.panels[p].correct;
            ledger[FR_LEDGER_ACTIVITY_PENALTY] += run.panels[p].activity;
        }
        ledger[FR_LEDGER_ROWS] += (double)n_rows;
        add_weight_penalties(net, (double)n_rows, ledger);
    }
    free(run.panels);
    return status;
}
