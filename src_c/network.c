/* A network's life: plan -> forward -> loss -> backward -> update.
 *
 * A training step has two phases, or three; each ends when all of its tasks are done.
 *
 *   rows      the batch is cut into panels of rows. A panel is gathered, goes forward through all layers
 *             and the loss, and backward down to the first trainable layer, without leaving the cache.
 *   columns   the kernels are cut into blocks. A block's dw = x'dz over the whole batch goes into a
 *             thread's scratch, and the regularized update consumes it there: gradients are not stored.
 *   update      only where a step needs whole gradients before it changes a weight (`materialize`): the
 *               column phase then leaves dw and dbias in an arena laid out as the weights, and the same
 *               blocks are updated from there, to the same bits.
 *
 * Panels and blocks depend on the plan alone; threads share them out, each writes what no
 * other does, and partial sums are added in the order of panels and blocks. So the weights do not depend
 * on the number of threads. There are no element loops here: those are the kernels'.
 *
 * Every matrix stands in column panels, `width` columns wide and contiguous: [n / width][rows][width].
 * The native products take panels of two SIMD vectors; BLAS takes one panel as wide as the matrix, which
 * is plain row-major. Columns that pad the last panel hold zeros.
 *
 * The arenas:
 *   weights, slots   [kernel 0 | bias 0 | kernel 1 | ...] each at 64 bytes, zeros between
 *   training         per layer y, d, dbias and the transposed kernel; x, targets and weights of a
 *                    batch; tasks; one scratch a thread; the gradients where they are materialized
 *   inference        two matrices of activations a thread, and one along the lanes for sparse kernels
 */
#include "network.h"

#include "base/arena.h"
#include "base/threads.h"
#include "blas.h"
#include "groups.h"
#include "sparse.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    fr_layer spec;
    ptrdiff_t kernel, bias; /* offsets in the weights, -1 where there is none */
    ptrdiff_t width;        /* of the panels of y, d and the kernel */
    ptrdiff_t n_padded;     /* n_out in whole panels */
    fr_group_plan groups;   /* of the kernel */
    /* training */
    void *y, *d;
    void *dbias;      /* (row panels, n_padded): column sums of each row panel's dz */
    void *transposed; /* native: the kernel's transpose, for dx; kept up by the update */
    void *factor;     /* dropout: as y */
    fr_nonzeros nonzeros; /* inference: of the kernel, where they are few */
} layer;

/* A view of rows of a matrix in column panels. */
typedef struct {
    void *at;
    ptrdiff_t width, height; /* of a panel, `height` rows of the whole matrix */
} matrix;

/* What a dense layer reads: a matrix; where its kernel runs sparse, room for that along the lanes; or the
 * nonzeros of data in compressed rows, instead of it. */
typedef struct {
    matrix x;
    void *lanes;
    const fr_sparse_rows *nonzeros;
} layer_input;

/* A block of a kernel: rows i..i+n_i, columns o..o+n_o. The blocks with i = 0 update the bias too. Under a
 * group penalty the update's tasks are whole groups: rows by position, or all rows. */
typedef struct {
    ptrdiff_t layer, i, n_i, o, n_o;
    ptrdiff_t group, n_groups;
    fr_sums kernel, bias;
    double group_penalty;
} task;

typedef struct {
    double loss, correct, activity;
} panel_sums;

typedef struct {
    fr_arena arena;
    ptrdiff_t n_batch; /* rows that the buffers hold; a call may use fewer */
    ptrdiff_t n_rows;  /* of a panel */
    int loss, n_threads;
    bool groups; /* some trainable layer has a group penalty */
    bool compressed; /* x is data in compressed rows, which the first layer reads as it stands */
    bool materialize, has_gradients; /* the latter: of a batch whose update is still to come */
    void *x, *target, *weight;
    void *gradient; /* as the weights, where `materialize`; what pads the panels may not be 0 */
    void *d;        /* as the weights, for the proximal step of groups: the optimizer's denominators */
    void *own_d; /* as the last layer's d: its activity penalty's, when the loss is fused */
    panel_sums *panels;
    task *tasks, *updates; /* of the column phase; of the update phase */
    ptrdiff_t n_tasks, n_updates;
    char *scratch; /* (n_threads, scratch_size) bytes */
    ptrdiff_t scratch_size, terms_at; /* of the scratch: dw, then the terms of x' for a strip of it */
} training_plan;

typedef struct {
    fr_arena arena;
    int n_threads;
    ptrdiff_t n_rows, n_padded;
    char *activations; /* (n_threads, 2, n_rows, n_padded); a call may use fewer rows */
    ptrdiff_t lanes_size; /* bytes a thread */
    char *lanes;
} inference_plan;

struct fr_network {
    fr_dtype dtype;
    ptrdiff_t size; /* of an element */
    const fr_kernels *kernels;
    ptrdiff_t n_layers, n_in, n_out, n_weights;
    ptrdiff_t first_trainable; /* n_layers when there is none */
    double flops;              /* of one row's forward pass */
    bool native;               /* our products on panels, else BLAS */
    bool transposed_stale;     /* weights were set since the transposes were made */
    fr_sparse_use sparse;
    bool nonzeros_stale;       /* weights have changed since the nonzeros were found */
    ptrdiff_t width_x;         /* of the panels of x */
    layer *layers;
    fr_arena weights, slots;
    int n_slots;
    fr_arena kept; /* [weights | slots] that fr_network_keep set aside */
    int n_slots_kept;
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

int fr_threads_for(double flops, int n_threads)
{
    /* Some 15 microseconds of work: below that the hand-off cost more than the second thread gave. */
    return flops < 2e6 ? 1 : n_threads;
}

/* Rows of a panel where n_batch rows take `flops`. */
static ptrdiff_t panel_rows(const fr_network *net, ptrdiff_t n_batch, double flops)
{
    if (!net->native) return fr_panel_rows(n_batch);
    /* Every panel reads all kernels once, from L3 where they are large: panels near to 64 rows, an even
     * number of them where several threads would share them. */
    ptrdiff_t count = pieces(n_batch, 96);
    if (fr_threads_for(flops, 2) > 1) count += count % 2;
    return larger(16, round_up(pieces(n_batch, count), 4));
}

/* Panels of columns: as wide as the table's products take, or the whole matrix for BLAS. */
static ptrdiff_t width_of(const fr_network *net, ptrdiff_t n)
{
    return net->native ? net->kernels->panel
                       : round_up(n, FR_ALIGNMENT / net->size);
}

static ptrdiff_t padded(ptrdiff_t n, ptrdiff_t width) { return round_up(n, width); }

/* Rows and columns of a kernel's blocks, in whole panels: of a size that leaves enough blocks to share
 * out, near to square for the native products (x and dz are read once a block), all columns for BLAS. */
static void block_shape(const fr_network *net, const layer *a, ptrdiff_t *n_i, ptrdiff_t *n_o)
{
    ptrdiff_t most = 1024 * 1024 / net->size, share = larger(4096, net->n_weights / 8);
    ptrdiff_t elements = smaller(share, most), width = a->width;
    *n_o = net->native ? smaller(a->n_padded, larger(width, 512 / width * width)) : a->n_padded;
    ptrdiff_t rows = net->native ? width : 16;
    *n_i = padded(smaller(a->spec.n_in, larger(rows, elements / *n_o)), rows);
}

/* Whether a constant gradient moves a weight by a fixed amount in the long run: what the L1 steps that
 * reach zero are made of (kernels/optimizers.inc). */
static bool has_threshold(const fr_optimizer *o)
{
    switch (o->kind) {
    case FR_OPTIMIZER_sgd: return o->momentum < 1;
    case FR_OPTIMIZER_rmsprop: return o->momentum < 1 && !o->centered;
    case FR_OPTIMIZER_adam:
    case FR_OPTIMIZER_adamax:
    case FR_OPTIMIZER_nadam:
    case FR_OPTIMIZER_adagrad: return true;
    }
    return false;
}

bool fr_optimizer_valid(const fr_optimizer *o)
{
    if (o->kind < 0 || o->kind >= FR_N_OPTIMIZERS || o->l1_step < 0 || o->l1_step >= FR_N_L1_STEPS)
        return false;
    return o->l1_step == FR_L1_STEP_sign || has_threshold(o);
}

/* Rows of a block whose dw stands in scratch at once, in L1 with the weights. */
static ptrdiff_t update_rows(const fr_network *net, const layer *a, ptrdiff_t n_i)
{
    return net->native ? smaller(n_i, larger(a->width, 64)) : n_i;
}

/* Slots of the optimizer itself; an L1 step that is cumulative keeps two more. */
static int own_slots(const fr_optimizer *o)
{
    switch (o->kind) {
    case FR_OPTIMIZER_sgd: return o->momentum != 0;
    case FR_OPTIMIZER_adam: return o->amsgrad ? 3 : 2;
    case FR_OPTIMIZER_rmsprop: return 1 + (o->centered != 0) + (o->momentum != 0);
    case FR_OPTIMIZER_adagrad:
    case FR_OPTIMIZER_lion: return 1;
    }
    return 2;
}

int fr_optimizer_slots(const fr_optimizer *optimizer)
{
    return own_slots(optimizer) + (optimizer->l1_step == FR_L1_STEP_cumulative ? 2 : 0);
}

void fr_place_slots(const fr_optimizer *optimizer, void *const *slots, void *placed[FR_MOST_SLOTS])
{
    int own = own_slots(optimizer), all = fr_optimizer_slots(optimizer);
    for (int i = 0; i < FR_OWN_SLOTS; i++) placed[i] = i < own ? slots[i] : NULL;
    for (int i = 0; i < FR_MOST_SLOTS - FR_OWN_SLOTS; i++)
        placed[FR_OWN_SLOTS + i] = own + i < all ? slots[own + i] : NULL;
}

static double initial_value_of_slots(const fr_optimizer *o)
{
    bool begins = o->kind == FR_OPTIMIZER_adagrad || o->kind == FR_OPTIMIZER_ftrl;
    return begins ? o->initial_accumulator_value : 0;
}

/* Nadam's mean of gradients looks beta_1 (1 - 0.96^i / 2) back at step i (Dozat 2016). */
static double nadam_momentum(double beta_1, double i) { return beta_1 * (1 - 0.5 * pow(0.96, i)); }

/* Their product over the steps 1..t, without a state of its own: factors beyond the 1000th are beta_1. */
static double nadam_product(double beta_1, double t)
{
    double product = pow(beta_1, t), fading = 1;
    for (double i = 1; i <= t && i <= 1000 && product > 1e-20; i++)
        product *= 1 - 0.5 * (fading *= 0.96);
    return product;
}

fr_update_step fr_update_step_of(const fr_optimizer *o, int64_t iteration)
{
    double rate = o->learning_rate, t = (double)iteration + 1;
    fr_update_step step = {
        .rate = rate,
        .keep = 1 - rate * o->weight_decay,
        .momentum = o->momentum,
        .beta_1 = o->beta_1,
        .beta_2 = o->beta_2,
        .epsilon = o->epsilon,
        .nesterov = o->nesterov,
        .amsgrad = o->amsgrad,
        .centered = o->centered,
        .l1_step = o->l1_step,
        .shrink = rate,
    };
    /* Of the mean of the first t squares, which began at 0. */
    double correction = sqrt(1 - pow(o->beta_2, t));
    switch (o->kind) {
    case FR_OPTIMIZER_sgd: step.shrink = rate / (1 - o->momentum); break;
    case FR_OPTIMIZER_adam:
        step.shrink = rate * correction;
        step.rate = rate * correction / (1 - pow(o->beta_1, t));
        break;
    case FR_OPTIMIZER_adamax: step.rate = rate / (1 - pow(o->beta_1, t)); break;
    case FR_OPTIMIZER_nadam: {
        double now = nadam_momentum(o->beta_1, t), next = nadam_momentum(o->beta_1, t + 1);
        double product = nadam_product(o->beta_1, t);
        step.shrink = rate * correction;
        step.epsilon = o->epsilon * correction;
        step.rate = step.shrink * next / (1 - product * next);
        step.gradient_rate = step.shrink * (1 - now) / (1 - product);
        break;
    }
    case FR_OPTIMIZER_rmsprop:
        step.shrink = rate / (1 - o->momentum);
        step.beta_2 = o->rho;
        break;
    case FR_OPTIMIZER_adadelta: step.beta_2 = o->rho; break;
    case FR_OPTIMIZER_ftrl:
        step.inverse_rate = 1 / rate;
        step.power = -o->learning_rate_power;
        step.l1 = o->l1;
        step.l2 = o->l2 + o->beta / (2 * rate);
        step.l2_shrinkage = o->l2_shrinkage;
        break;
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
    return net->kernels->fused_loss[loss][last->activation];
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
    fr_group_plan *groups = calloc((size_t)larger(net->n_layers, 1), sizeof *groups);
    fr_status status = groups ? FR_OK : FR_NO_MEMORY;
    for (ptrdiff_t l = 0; l < net->n_layers && status == FR_OK; l++)
        status = fr_groups_plan(&groups[l], net->dtype, &layers[l].groups, layers[l].n_in,
                                layers[l].n_out, net->layers[l].width);
    if (status != FR_OK) {
        for (ptrdiff_t l = 0; l < net->n_layers && groups; l++) fr_groups_free(&groups[l]);
        free(groups);
        return status;
    }
    net->first_trainable = net->n_layers;
    for (ptrdiff_t l = net->n_layers - 1; l >= 0; l--) {
        net->layers[l].spec = layers[l];
        fr_groups_free(&net->layers[l].groups);
        net->layers[l].groups = groups[l];
        if (layers[l].kind == FR_LAYER_dense && layers[l].trainable) net->first_trainable = l;
    }
    free(groups);
    return FR_OK;
}

/* Gives every array of the weights its offset; returns how many elements they take, or -1. */
static ptrdiff_t place_weights(fr_network *net)
{
    ptrdiff_t line = FR_ALIGNMENT / net->size, used = 0; /* elements */
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        a->kernel = a->bias = -1;
        if (a->spec.kind != FR_LAYER_dense) continue;
        ptrdiff_t kernel = fr_size_product(a->spec.n_in, a->n_padded);
        if (kernel < 0 || kernel > PTRDIFF_MAX / 64 - used) return -1;
        a->kernel = used;
        used += round_up(kernel, line);
        if (!a->spec.use_bias) continue;
        a->bias = used;
        used += a->n_padded;
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
    net->kernels = fr_kernels_for(dtype);
    net->native = fr_gemm_native();
    net->sparse = fr_sparse_chosen();
    net->nonzeros_stale = true;
    net->width_x = width_of(net, net->n_in);
    for (ptrdiff_t l = 0; l < n_layers; l++) {
        net->layers[l].spec = layers[l];
        net->layers[l].width = width_of(net, layers[l].n_out);
        net->layers[l].n_padded = padded(layers[l].n_out, net->layers[l].width);
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
    for (ptrdiff_t l = 0; l < net->n_layers; l++) fr_groups_free(&net->layers[l].groups);
    fr_arena_free(&net->weights);
    fr_arena_free(&net->slots);
    fr_arena_free(&net->kept);
    fr_arena_free(&net->training.arena);
    fr_arena_free(&net->inference.arena);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) fr_nonzeros_free(&net->layers[l].nonzeros);
    free(net->layers);
    free(net);
}

double fr_network_flops(const fr_network *net) { return net->flops; }

int fr_network_slots(const fr_network *net) { return net->n_slots; }

fr_status fr_network_set_slots(fr_network *net, int n_slots)
{
    fr_arena slots = {0};
    if (n_slots < 0 || n_slots > FR_MOST_SLOTS) return FR_BAD_ARGUMENT;
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

static void *gradient_at(const fr_network *net, ptrdiff_t element)
{
    return fr_at(net->training.gradient, element, net->size);
}

/* Copies one array between its panels and a plain (rows, n_out) one; `get` says which way. */
static fr_status copy_array(const fr_network *net, int slot, ptrdiff_t l, int part, void *plain,
                            bool get)
{
    if (l < 0 || l >= net->n_layers || slot < FR_GRADIENT || slot >= net->n_slots || (part & ~1) ||
        (slot == FR_GRADIENT && !net->training.gradient))
        return FR_BAD_ARGUMENT;
    const layer *a = &net->layers[l];
    ptrdiff_t offset = part == 0 ? a->kernel : a->bias, rows = part == 0 ? a->spec.n_in : 1;
    if (offset < 0) return FR_BAD_ARGUMENT;
    char *panels = slot == FR_GRADIENT  ? gradient_at(net, offset)
                   : slot == FR_WEIGHTS ? weight_at(net, offset)
                                        : slot_at(net, slot, offset);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        for (ptrdiff_t i = 0; i < rows; i++) {
            void *inside = fr_at(panels, o * rows + i * a->width, net->size);
            void *outside = fr_at(plain, i * a->spec.n_out + o, net->size);
            size_t bytes = (size_t)(smaller(a->width, a->spec.n_out - o) * net->size);
            memcpy(get ? outside : inside, get ? inside : outside, bytes);
        }
    return FR_OK;
}

fr_status fr_network_get(const fr_network *net, int slot, ptrdiff_t l, int part, void *out)
{
    return copy_array(net, slot, l, part, out, true);
}

fr_status fr_network_set(fr_network *net, int slot, ptrdiff_t l, int part, const void *in)
{
    if (slot == FR_WEIGHTS) net->transposed_stale = net->nonzeros_stale = true;
    return copy_array(net, slot, l, part, (void *)in, false); /* only read */
}

/* Checking and copying run in pieces on the pool: an epoch of few steps should not wait for one core. */
enum { PIECE = 1 << 18 };

typedef struct {
    const fr_network *net;
    enum { BEGIN, CHECK, COPY, END } phase;
    bool copies;
    _Atomic bool not_finite;
} keep_run;

static ptrdiff_t next_keep_phase(void *context)
{
    keep_run *run = context;
    run->phase++;
    bool goes_on = run->phase == CHECK || (run->phase == COPY && run->copies && !run->not_finite);
    return goes_on ? pieces(run->net->n_weights, PIECE) : 0;
}

static void keep_task(void *context, int thread, ptrdiff_t i)
{
    (void)thread;
    keep_run *run = context;
    const fr_network *net = run->net;
    ptrdiff_t first = i * PIECE, n = smaller(PIECE, net->n_weights - first);
    if (run->phase == CHECK) {
        /* A sum that overflows comes of weights as good as infinite. */
        fr_sums sums = net->kernels->sums(n, weight_at(net, first));
        if (!isfinite(sums.abs)) run->not_finite = true;
        return;
    }
    size_t bytes = (size_t)(n * net->size);
    memcpy(fr_at(net->kept.base, first, net->size), weight_at(net, first), bytes);
    for (int slot = 0; slot < net->n_slots; slot++)
        memcpy(fr_at(net->kept.base, (1 + slot) * net->n_weights + first, net->size),
               slot_at(net, slot, first), bytes);
}

static fr_status check_and_keep(fr_network *net, bool copies, int n_threads)
{
    keep_run run = {.net = net, .copies = copies};
    n_threads = net->n_weights < 4 * PIECE ? 1 : n_threads;
    fr_parallel(n_threads, next_keep_phase, keep_task, &run);
    return run.not_finite ? FR_NOT_FINITE : FR_OK;
}

fr_status fr_network_finite(fr_network *net, int n_threads)
{
    return check_and_keep(net, false, n_threads);
}

fr_status fr_network_keep(fr_network *net, int n_threads)
{
    if (!net->kept.base || net->n_slots_kept != net->n_slots) {
        fr_status status = fr_network_finite(net, n_threads);
        if (status != FR_OK) return status;
        fr_arena kept = {0};
        fr_arena_take(&kept, fr_size_product(1 + net->n_slots, net->n_weights), net->size);
        if (!fr_arena_allocate(&kept)) return kept.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
        fr_arena_free(&net->kept);
        net->kept = kept;
        net->n_slots_kept = net->n_slots;
    }
    return check_and_keep(net, true, n_threads);
}

fr_status fr_network_put_back(fr_network *net)
{
    if (!net->kept.base) return FR_BAD_ARGUMENT;
    size_t bytes = (size_t)(net->n_weights * net->size);
    if (net->n_slots != net->n_slots_kept) {
        fr_status status = fr_network_set_slots(net, net->n_slots_kept);
        if (status != FR_OK) return status;
    }
    memcpy(net->weights.base, net->kept.base, bytes);
    if (net->n_slots > 0)
        memcpy(net->slots.base, net->kept.base + bytes, bytes * (size_t)net->n_slots);
    net->transposed_stale = net->nonzeros_stale = true;
    return FR_OK;
}

/* ---- products and views ---- */

/* Rows `first`.. of a matrix of `rows` rows. */
static matrix view(const fr_network *net, void *at, ptrdiff_t width, ptrdiff_t rows, ptrdiff_t first)
{
    return (matrix){fr_at(at, first * width, net->size), width, rows};
}

/* Element (0, column) of a view, for a column where a panel begins (BLAS: anywhere). */
static void *column(const fr_network *net, matrix m, ptrdiff_t j)
{
    return fr_at(m.at, net->native ? j * m.height : j, net->size);
}

/* What the kernels on whole rows call the gap between panels. */
static ptrdiff_t gap(const fr_network *net, matrix m)
{
    return net->native ? (m.height - 1) * m.width : 0;
}

static void *kernel_panel(const fr_network *net, const layer *a, ptrdiff_t o)
{
    return weight_at(net, a->kernel + o * a->spec.n_in);
}

/* c (rows, width) = a b, by as many columns as a panel has */
static void product_sparse(const fr_network *net, ptrdiff_t rows, ptrdiff_t width,
                           const fr_sparse_rows *a, const void *b, ptrdiff_t ld_b, void *c,
                           ptrdiff_t ld_c)
{
    for (ptrdiff_t o = 0; o < width; o += net->kernels->panel)
        net->kernels->sparse_product(rows, smaller(net->kernels->panel, width - o), a,
                                     fr_at(b, o, net->size), ld_b, fr_at(c, o, net->size), ld_c);
}

/* Columns o.. of y = x W, one panel. */
static void product_forward(const fr_network *net, const layer *a, ptrdiff_t rows, layer_input in,
                            ptrdiff_t o, matrix y)
{
    matrix x = in.x;
    if (in.nonzeros)
        product_sparse(net, rows, a->width, in.nonzeros, kernel_panel(net, a, o), a->width,
                       column(net, y, o), y.width);
    else if (in.lanes)
        fr_product_nonzeros(net->kernels, &a->nonzeros, rows, a->spec.n_in, in.lanes, o,
                            smaller(a->width, a->spec.n_out - o), column(net, y, o), y.width);
    else if (net->native)
        net->kernels->product(rows, a->spec.n_in, a->spec.n_out - o, x.at, x.height * x.width,
                                            kernel_panel(net, a, o), column(net, y, o));
    else
        fr_product_forward(net->dtype, rows, a->spec.n_in, a->n_padded, (fr_matrix){x.at, x.width},
                           (fr_matrix){kernel_panel(net, a, 0), a->width}, y.at, y.width);
}

/* dx = dz W' */
static void product_backward(const fr_network *net, const layer *a, ptrdiff_t rows, matrix dz,
                             matrix dx)
{
    if (!net->native) {
        fr_product_backward(net->dtype, rows, a->spec.n_in, a->spec.n_out,
                            (fr_matrix){dz.at, dz.width},
                            (fr_matrix){kernel_panel(net, a, 0), a->width}, dx.at, dx.width);
        return;
    }
    for (ptrdiff_t i = 0; i < a->spec.n_in; i += dx.width)
        net->kernels
            ->product(rows, a->spec.n_out, a->spec.n_in - i, dz.at, dz.height * dz.width,
                      fr_at(a->transposed, i * a->spec.n_out, net->size), column(net, dx, i));
}

/* dw (n_i, width) = x'dz for rows i.. and the panel of columns at o of a kernel. */
static void product_kernel(const fr_network *net, const layer *a, ptrdiff_t n_batch, matrix x,
                           ptrdiff_t i, ptrdiff_t n_i, matrix dz, ptrdiff_t o, void *dw)
{
    if (net->native)
        net->kernels->kernel_product(n_batch, n_i, a->spec.n_out - o,
                                                   column(net, x, i), column(net, dz, o), dw);
    else
        fr_product_kernel(net->dtype, n_batch, n_i, a->width, (fr_matrix){column(net, x, i), x.width},
                          (fr_matrix){dz.at, dz.width}, dw, a->width);
}

/* Brings the transpose up to date for rows i.. and the panel at o. */
static void transpose_rows(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t n_i,
                           ptrdiff_t o)
{
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

static void transpose_all(fr_network *net)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
            transpose_rows(net, a, 0, a->spec.n_in, o);
    }
    net->transposed_stale = false;
}

/* ---- forward ---- */

/* y = f(x W + b) on a panel of rows, each panel of columns finished while it is hot; returns the
 * activity penalty where f is the layer's own. */
static double dense_forward(const fr_network *net, const layer *a, int activation, ptrdiff_t rows,
                            layer_input in, matrix y)
{
    const fr_kernels *kernels = net->kernels;
    bool whole = kernels->whole_rows[activation];
    bool counted = penalizes(a->spec.activity) && activation == a->spec.activation;
    fr_sums sums = {0, 0};
    fr_forward_tile tile = {
        .rows = rows, .ld = y.width, .gap = gap(net, y), .sums = counted ? &sums : NULL};
    if (in.lanes)
        fr_to_lanes(kernels, rows, a->spec.n_in, in.x.at, in.x.width, gap(net, in.x), in.lanes);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width) {
        product_forward(net, a, rows, in, o, y);
        if (whole) continue;
        tile.n = smaller(a->width, a->spec.n_out - o);
        tile.y = column(net, y, o);
        tile.bias = a->bias < 0 ? NULL : weight_at(net, a->bias + o);
        kernels->forward[activation](&tile);
    }
    if (whole) {
        tile.n = a->spec.n_out;
        tile.y = y.at;
        tile.bias = a->bias < 0 ? NULL : weight_at(net, a->bias);
        kernels->forward[activation](&tile);
    }
    return penalty(a->spec.activity, sums);
}

/* The loss of a panel of rows. When fused, y holds z of the last layer and becomes f(z); the activity
 * penalty that dense_forward could not see yet is then added here. */
static panel_sums panel_loss(const fr_network *net, int loss, matrix y, fr_loss_tile *tile)
{
    const fr_kernels *kernels = net->kernels;
    fr_loss_kernel *fused = fused_loss(net, loss);
    fr_regularizer activity = net->layers[net->n_layers - 1].spec.activity;
    tile->n = net->n_out;
    tile->y = y.at;
    tile->ld = y.width;
    tile->gap = gap(net, y);
    (fused ? fused : kernels->loss[loss])(tile);
    panel_sums sums = {tile->loss, tile->correct, 0};
    if (!fused || !penalizes(activity)) return sums;
    for (ptrdiff_t o = 0; o < net->n_out; o += y.width)
        for (ptrdiff_t r = 0; r < tile->rows; r++)
            sums.activity += penalty(
                activity, kernels->sums(smaller(y.width, net->n_out - o),
                                        fr_at(column(net, y, o), r * y.width, net->size)));
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
    enum { BEFORE, ROWS, COLUMNS, UPDATES } phase;
    ptrdiff_t row, n_batch, n_panels, steps_done;
    bool not_finite;
    fr_update_step update;
} training_run;

/* Rows `first`.. of the batch: of layer l's output, of one of its companions, and of its input. */
static matrix rows_of(const training_run *run, ptrdiff_t l, void *array, ptrdiff_t first)
{
    return view(run->net, array, run->net->layers[l].width, run->plan->n_batch, first);
}

static matrix input_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    if (l == 0)
        return view(run->net, run->plan->x, run->net->width_x, run->plan->n_batch, first);
    return rows_of(run, l - 1, run->net->layers[l - 1].y, first);
}

/* Rows `first`.. of data in compressed rows, in the order of `index`. */
static fr_sparse_rows nonzeros_of(const fr_data *data, const int64_t *index, ptrdiff_t first)
{
    return (fr_sparse_rows){
        .order = index ? index + first : NULL,
        .start = index ? data->start : data->start + first,
        .column = data->column,
        .value = data->x,
    };
}

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
        activity += dense_forward(net, a, activation_at(net, l, run->fused), rows, in,
                                  rows_of(run, l, a->y, first));
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
    return panel_loss(net, plan->loss, rows_of(run, last, net->layers[last].y, first), &tile);
}

/* Runs a backward kernel over all columns; one call where it wants whole rows. */
static void backward_columns(const training_run *run, int activation, ptrdiff_t width,
                             const fr_backward_tile *whole, matrix y, matrix d)
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
    backward_columns(run, a->spec.activation, a->width, &tile, y, own);
    for (ptrdiff_t o = 0; o < a->spec.n_out; o += a->width)
        run->kernels->add(tile.rows * a->width, column(net, own, o), column(net, d, o));
}

static void dense_backward(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
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
    backward_columns(run, activation_at(net, l, run->fused), a->width, &tile, y, d);
    if (l > net->first_trainable)
        product_backward(net, a, rows, d, rows_of(run, l - 1, net->layers[l - 1].d, first));
}

static void row_panel(training_run *run, ptrdiff_t panel)
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
            dense_backward(run, l, first, rows);
    }
}

/* The regularized update of `rows` rows of n weights, ld apart, as they are in dw. */
static void place_slots_at(const training_run *run, ptrdiff_t element, void *placed[FR_MOST_SLOTS])
{
    void *slots[FR_MOST_SLOTS];
    for (int i = 0; i < FR_MOST_SLOTS; i++) slots[i] = slot_at(run->net, i, element);
    fr_place_slots(&run->call->optimizer, slots, placed);
}

static void update(const training_run *run, fr_regularizer regularizer, ptrdiff_t element,
                   ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *dw, fr_sums *sums)
{
    const fr_network *net = run->net;
    fr_update_step step = run->update;
    step.regularizer = regularizer;
    void *placed[FR_MOST_SLOTS];
    place_slots_at(run, element, placed);
    run->kernels->update[run->call->optimizer.kind](&step, rows, n, ld, weight_at(net, element), dw,
                                                    placed, sums);
}

/* Which halves of the work on a block the phase does: gradients, and the update by them. */
static bool takes_gradients(const training_run *run) { return run->phase == COLUMNS; }

static bool updates(const training_run *run)
{
    return run->phase == (run->plan->materialize ? UPDATES : COLUMNS);
}

/* Rows of a block whose terms of x' are listed at once. */
enum { TERM_ROWS = 64 };

/* The terms of x' for some rows of a kernel, in a thread's scratch. */
typedef struct {
    fr_sparse_rows x, turned;
    int64_t *cursor, *start; /* (n_batch), (TERM_ROWS + 2) */
    int32_t *row;            /* (n_batch, TERM_ROWS) */
    void *value;
} terms;

static void take_terms(const fr_network *net, fr_arena *arena, ptrdiff_t n_batch, terms *t)
{
    ptrdiff_t most = fr_size_product(n_batch, TERM_ROWS);
    t->cursor = fr_arena_take(arena, n_batch, sizeof *t->cursor);
    t->start = fr_arena_take(arena, TERM_ROWS + 2, sizeof *t->start);
    t->row = fr_arena_take(arena, most, sizeof *t->row);
    t->value = fr_arena_take(arena, most, net->size);
}

static terms terms_from(const training_run *run, ptrdiff_t i, void *scratch)
{
    terms t = {.x = nonzeros_of(&run->call->data, run->call->data.index, run->row)};
    fr_arena arena = {.base = (char *)scratch + run->plan->terms_at};
    take_terms(run->net, &arena, run->plan->n_batch, &t);
    t.turned = (fr_sparse_rows){.start = t.start, .column = t.row, .value = t.value};
    run->kernels->seek(run->n_batch, &t.x, i, t.cursor);
    return t;
}

/* dw = x'dz for a panel of columns of some of the block's rows. */
static void gradient_block(const training_run *run, const layer *a, const terms *listed, matrix x,
                           ptrdiff_t i, ptrdiff_t n_i, ptrdiff_t strip, matrix dz, ptrdiff_t o,
                           void *dw)
{
    const fr_network *net = run->net;
    if (listed) {
        product_sparse(net, n_i, a->width, &listed->turned, column(net, dz, o), dz.width, dw, a->width);
        return;
    }
    for (ptrdiff_t s = 0; s < n_i; s += strip)
        product_kernel(net, a, run->n_batch, x, i + s, smaller(strip, n_i - s), dz, o,
                       fr_at(dw, s * a->width, net->size));
}

static void kernel_block(const training_run *run, task *t, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    bool compressed = t->layer == 0 && run->plan->compressed;
    matrix x = compressed ? (matrix){0} : input_of(run, t->layer, 0);
    matrix dz = rows_of(run, t->layer, a->d, 0);
    /* The native products take one panel of x at a time; an update has a price of its own. */
    ptrdiff_t strip = net->native ? a->width : t->n_i, group = update_rows(net, a, t->n_i);
    terms listed;
    if (compressed) group = smaller(t->n_i, TERM_ROWS);
    if (compressed && takes_gradients(run)) listed = terms_from(run, t->i, scratch);
    for (ptrdiff_t i = t->i; i < t->i + t->n_i; i += group) {
        ptrdiff_t n_i = smaller(group, t->i + t->n_i - i);
        if (compressed && takes_gradients(run))
            run->kernels->turn(run->n_batch, &listed.x, i, n_i, listed.cursor, listed.start, listed.row,
                               listed.value);
        for (ptrdiff_t o = t->o; o < t->o + t->n_o; o += a->width) {
            ptrdiff_t element = a->kernel + o * a->spec.n_in + i * a->width;
            void *dw = run->plan->materialize ? gradient_at(net, element) : scratch;
            if (takes_gradients(run))
                gradient_block(run, a, compressed ? &listed : NULL, x, i, n_i, strip, dz, o, dw);
            if (!updates(run)) continue;
            /* Padding is never updated: it stays 0 even where 0 / 0 or inf * 0 would come of it. */
            ptrdiff_t n_o = smaller(a->width, a->spec.n_out - o);
            bool by_rows = n_o < a->width;
            update(run, a->spec.kernel, element, by_rows ? n_i : 1, by_rows ? n_o : n_i * a->width,
                   a->width, dw, &t->kernel);
            transpose_rows(net, a, i, n_i, o);
        }
    }
}

static void bias_block(const training_run *run, task *t, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    void *db = run->plan->materialize ? gradient_at(net, a->bias + t->o) : scratch;
    if (takes_gradients(run)) {
        memset(db, 0, (size_t)(t->n_o * net->size));
        for (ptrdiff_t p = 0; p < run->n_panels; p++)
            run->kernels->add(t->n_o, fr_at(a->dbias, p * a->n_padded + t->o, net->size), db);
    }
    if (!updates(run)) return;
    ptrdiff_t n = smaller(t->n_o, a->spec.n_out - t->o);
    update(run, a->spec.bias, a->bias + t->o, 1, n, n, db, &t->bias);
}

/* ---- under a group penalty: tasks of whole groups, in the update phase ---- */

typedef struct {
    const training_run *run;
    task *t;
    bool shared_d; /* the first half of a proximal step */
} group_run;

static void update_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    const training_run *run = g->run;
    const fr_network *net = run->net;
    const layer *a = &net->layers[g->t->layer];
    ptrdiff_t element = a->kernel + piece->element;
    void *dw = gradient_at(net, element);
    if (!g->shared_d) {
        update(run, a->spec.kernel, element, piece->rows, piece->n, p->width, dw, &g->t->kernel);
        return;
    }
    fr_update_step step = run->update;
    step.regularizer = a->spec.kernel;
    step.l1_step = FR_L1_STEP_group;
    void *placed[FR_MOST_SLOTS];
    place_slots_at(run, element, placed);
    placed[FR_OWN_SLOTS] = dw;
    placed[FR_OWN_SLOTS + 1] = fr_at(run->plan->d, element, net->size);
    run->kernels->update[run->call->optimizer.kind](&step, piece->rows, piece->n, p->width,
                                                    weight_at(net, element), dw, placed,
                                                    &g->t->kernel);
}

static void transpose_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    const fr_network *net = g->run->net;
    ptrdiff_t o = piece->column - piece->column % p->width;
    transpose_rows(net, &net->layers[g->t->layer], piece->row, piece->rows, o);
}

static void group_block(const training_run *run, task *t)
{
    const fr_network *net = run->net;
    layer *a = &net->layers[t->layer];
    fr_group_plan *p = &a->groups;
    bool by_column = p->groups.by_column;
    ptrdiff_t first = by_column ? t->o : t->i;
    ptrdiff_t n = by_column ? smaller(t->n_o, a->spec.n_out - t->o) : t->n_i;
    fr_group_range r = {first, first + n, t->group, t->n_groups};
    void *w = weight_at(net, a->kernel), *dw = gradient_at(net, a->kernel);
    bool by_sign = run->update.l1_step == FR_L1_STEP_sign;
    group_run g = {run, t, !by_sign && t->n_groups > 0};
    t->group_penalty = fr_groups_norms(p, r, w);
    if (by_sign && t->n_groups > 0) fr_groups_add_gradient(p, r, w, dw);
    fr_groups_each(p, r, update_piece, &g);
    if (g.shared_d) {
        fr_groups_largest(p, r, fr_at(run->plan->d, a->kernel, net->size));
        fr_groups_move(p, r, dw, w);
        fr_groups_steps(p, r, run->update.shrink, a->spec.kernel.l1);
        fr_groups_prox(p, r, a->spec.kernel.l1, w);
    }
    if (a->transposed) fr_groups_each(p, r, transpose_piece, &g);
}

static void block(training_run *run, task *t, void *scratch)
{
    t->kernel = t->bias = (fr_sums){0, 0};
    t->group_penalty = 0;
    if (run->phase == UPDATES && run->net->layers[t->layer].groups.groups.n_groups > 0)
        group_block(run, t);
    else
        kernel_block(run, t, scratch);
    if (t->i == 0 && run->net->layers[t->layer].bias >= 0) bias_block(run, t, scratch);
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

static void add_step_to_ledger(training_run *run)
{
    panel_sums sums = sum_panels(run);
    double kernel = 0, bias = 0, rows = (double)run->n_batch;
    for (ptrdiff_t i = 0; i < run->plan->n_updates; i++) {
        const task *t = &run->plan->updates[i];
        kernel += penalty(run->net->layers[t->layer].spec.kernel, t->kernel) + t->group_penalty;
        bias += penalty(run->net->layers[t->layer].spec.bias, t->bias);
    }
    run->ledger[FR_LEDGER_DATA_LOSS] += sums.loss;
    run->ledger[FR_LEDGER_KERNEL_PENALTY] += rows * kernel;
    run->ledger[FR_LEDGER_BIAS_PENALTY] += rows * bias;
    run->ledger[FR_LEDGER_ACTIVITY_PENALTY] += sums.activity;
    run->ledger[FR_LEDGER_CORRECT] += sums.correct;
    run->ledger[FR_LEDGER_ROWS] += rows;
}

static ptrdiff_t begin_step(training_run *run)
{
    run->update = fr_update_step_of(&run->call->optimizer, run->call->iteration + run->steps_done);
    run->n_batch = smaller(run->call->batch_size, run->call->stop - run->row);
    run->n_panels = pieces(run->n_batch, run->plan->n_rows);
    return run->n_panels;
}

/* Ends the phase before and opens the next: rows, columns, (update,) rows, ... until no row is left. */
static ptrdiff_t next_training_phase(void *context)
{
    training_run *run = context;
    training_plan *plan = run->plan;
    switch (run->phase) {
    case ROWS: {
        panel_sums sums = sum_panels(run);
        run->not_finite = !isfinite(sums.loss + sums.activity);
        if (run->not_finite) return 0;
        run->phase = COLUMNS;
        if (plan->n_tasks > 0) return plan->n_tasks;
    } /* fall through */
    case COLUMNS:
        plan->has_gradients = run->call->part == FR_TO_GRADIENTS;
        if (plan->has_gradients) return 0;
        run->phase = UPDATES;
        if (plan->materialize && plan->n_updates > 0) return plan->n_updates;
        /* fall through */
    case UPDATES:
        add_step_to_ledger(run);
        run->row += run->n_batch;
        run->steps_done++;
        /* fall through */
    case BEFORE:
        run->phase = ROWS;
        return begin_step(run); /* 0 after the last row */
    }
    return 0;
}

static void training_task(void *context, int thread, ptrdiff_t i)
{
    training_run *run = context;
    training_plan *plan = run->plan;
    if (run->phase == ROWS)
        row_panel(run, i);
    else
        block(run, &(run->phase == UPDATES ? plan->updates : plan->tasks)[i],
              plan->scratch + (ptrdiff_t)thread * plan->scratch_size);
}

/* ---- the training plan ---- */

/* The next task of a group penalty from position (or column) `at` on: whole groups of some `n_i` rows, or of
 * a panel of columns; then the rows in no group. */
static task group_task(const layer *a, ptrdiff_t l, ptrdiff_t at, ptrdiff_t group, ptrdiff_t n_i)
{
    const fr_groups *groups = &a->groups.groups;
    if (groups->by_column) {
        ptrdiff_t n = smaller(64, a->n_padded - at), live = smaller(n, a->spec.n_out - at);
        return (task){.layer = l, .n_i = a->spec.n_in, .o = at, .n_o = n, .group = at,
                      .n_groups = live};
    }
    task t = {.layer = l, .i = at, .n_o = a->n_padded, .group = group};
    if (group == groups->n_groups) t.n_i = smaller(n_i, a->spec.n_in - at);
    for (; group < groups->n_groups && t.n_i < n_i; t.n_groups++, group++)
        t.n_i = groups->start[group + 1] - at;
    return t;
}

/* The blocks of all trainable kernels, last layer first; counts alone where tasks is NULL. For the update
 * phase they hold whole groups. */
static ptrdiff_t plan_tasks(const fr_network *net, task *tasks, bool for_update)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t l = net->n_layers - 1; l >= 0; l--) {
        const layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense || !a->spec.trainable) continue;
        ptrdiff_t n_i, n_o;
        block_shape(net, a, &n_i, &n_o);
        if (for_update && a->groups.groups.n_groups > 0) {
            bool by_column = a->groups.groups.by_column;
            ptrdiff_t stop = by_column ? a->spec.n_out : a->spec.n_in;
            ptrdiff_t rows = larger(1, n_i * n_o / a->n_padded);
            for (ptrdiff_t at = 0, group = 0; at < stop; n++) {
                task t = group_task(a, l, at, group, rows);
                if (tasks) tasks[n] = t;
                at += by_column ? t.n_o : t.n_i;
                group += t.n_groups;
            }
            continue;
        }
        for (ptrdiff_t o = 0; o < a->spec.n_out; o += n_o)
            for (ptrdiff_t i = 0; i < a->spec.n_in; i += n_i, n++)
                if (tasks)
                    tasks[n] = (task){.layer = l,
                                      .i = i,
                                      .n_i = smaller(n_i, a->spec.n_in - i),
                                      .o = o,
                                      .n_o = smaller(n_o, a->n_padded - o)};
    }
    return n;
}

static void take_training(fr_network *net, training_plan *plan)
{
    fr_arena *arena = &plan->arena;
    const layer *last = &net->layers[net->n_layers - 1];
    /* The most row panels that a batch of at most n_batch rows is cut into. */
    ptrdiff_t n_panels = pieces(plan->n_batch, 16) + 1, scratch = 0;
    plan->n_tasks = plan_tasks(net, NULL, false);
    plan->n_updates = plan_tasks(net, NULL, true);
    if (!plan->compressed)
        plan->x = fr_arena_take(
            arena, fr_size_product(plan->n_batch, padded(net->n_in, net->width_x)), net->size);
    plan->target = fr_arena_take(arena, fr_size_product(plan->n_batch, net->n_out),
                                 larger(net->size, (ptrdiff_t)sizeof(int32_t)));
    plan->weight = fr_arena_take(arena, plan->n_batch, net->size);
    plan->own_d = fr_arena_take(arena, fr_size_product(plan->n_batch, last->n_padded), net->size);
    plan->panels = fr_arena_take(arena, n_panels, sizeof *plan->panels);
    plan->tasks = fr_arena_take(arena, plan->n_tasks, sizeof *plan->tasks);
    plan->updates = plan->tasks; /* where no groups ask for others */
    if (plan->groups) plan->updates = fr_arena_take(arena, plan->n_updates, sizeof *plan->updates);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        ptrdiff_t batch = fr_size_product(plan->n_batch, a->n_padded), n_i, n_o;
        a->y = fr_arena_take(arena, batch, net->size);
        a->d = fr_arena_take(arena, batch, net->size);
        if (a->spec.kind == FR_LAYER_dropout) {
            a->factor = fr_arena_take(arena, batch, net->size);
            continue;
        }
        a->dbias = fr_arena_take(arena, fr_size_product(n_panels, a->n_padded), net->size);
        if (net->native && l > 0)
            a->transposed = fr_arena_take(
                arena, fr_size_product(padded(a->spec.n_in, a->width), a->spec.n_out), net->size);
        block_shape(net, a, &n_i, &n_o);
        scratch = larger(scratch, larger(n_o, update_rows(net, a, n_i) * a->width));
    }
    if (plan->materialize)
        plan->gradient = fr_arena_take(arena, net->n_weights, net->size);
    if (plan->groups) plan->d = fr_arena_take(arena, net->n_weights, net->size);
    plan->scratch_size = plan->terms_at = round_up(scratch * net->size + 1, FR_ALIGNMENT);
    if (plan->compressed) {
        fr_arena sizes = {.used = plan->terms_at};
        take_terms(net, &sizes, plan->n_batch, &(terms){0});
        plan->scratch_size = sizes.overflow ? -1 : sizes.used;
    }
    plan->scratch = fr_arena_take(arena, plan->n_threads, plan->scratch_size);
}

/* Of a training step: each of the three products takes what the forward one does. */
static double step_flops(const fr_network *net, ptrdiff_t n_batch)
{
    return 3 * net->flops * (double)n_batch;
}

static bool any_groups(const fr_network *net)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        if (net->layers[l].spec.trainable && net->layers[l].groups.groups.n_groups > 0) return true;
    return false;
}

/* The plan for this call; buffers that are large enough stay. */
static fr_status plan_training(fr_network *net, const fr_training *call, int n_threads)
{
    training_plan *plan = &net->training;
    ptrdiff_t n_batch = smaller(call->batch_size, call->data.n_rows);
    if (n_batch > INT_MAX / 2) return FR_TOO_LARGE;
    bool groups = any_groups(net);
    /* Whether a step needs whole gradients before it changes a weight. */
    bool materialize = groups || call->part != FR_WHOLE_STEPS;
    /* The tasks tell which layers are frozen, which may change between calls. */
    bool compressed = call->data.start && net->layers[0].spec.kind == FR_LAYER_dense;
    if (!plan->arena.base || plan->n_batch < n_batch || plan->n_threads < n_threads ||
        plan->n_tasks != plan_tasks(net, NULL, false) ||
        plan->n_updates != plan_tasks(net, NULL, true) || plan->groups != groups ||
        plan->compressed != compressed || (materialize && !plan->gradient)) {
        fr_arena_free(&plan->arena);
        *plan = (training_plan){.n_batch = n_batch,
                                .n_threads = n_threads,
                                .groups = groups,
                                .compressed = compressed,
                                .materialize = materialize};
        take_training(net, plan);
        if (plan->arena.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&plan->arena)) return FR_NO_MEMORY;
        take_training(net, plan);
        net->transposed_stale = true;
    }
    plan->n_rows = panel_rows(net, n_batch, step_flops(net, n_batch));
    plan->loss = call->loss;
    plan->materialize = materialize;
    plan_tasks(net, plan->tasks, false);
    if (plan->groups) plan_tasks(net, plan->updates, true);
    if (net->transposed_stale) transpose_all(net);
    return FR_OK;
}

static bool call_valid(const fr_training *call)
{
    /* The accuracy reads the target too: labels or numbers. */
    bool labels = call->accuracy == FR_ACCURACY_sparse_categorical;
    return call->start >= 0 && call->start <= call->stop && call->stop <= call->data.n_rows &&
           call->loss >= 0 && call->loss < FR_N_LOSSES && call->accuracy >= 0 &&
           call->accuracy < FR_N_ACCURACIES && call->data.x && call->data.y &&
           (!call->data.start || call->data.column) &&
           (call->accuracy == FR_ACCURACY_none || labels == takes_labels(call->loss));
}

static fr_status begin_slots(fr_network *net, const fr_optimizer *optimizer)
{
    fr_status status = fr_network_set_slots(net, fr_optimizer_slots(optimizer));
    double value = initial_value_of_slots(optimizer);
    if (status == FR_OK && value != 0) net->kernels->fill(net->n_weights, value, net->slots.base);
    return status;
}

fr_status fr_network_train(fr_network *net, const fr_training *call, double *ledger,
                           ptrdiff_t *steps_done)
{
    *steps_done = 0;
    const fr_optimizer *optimizer = &call->optimizer;
    if (!call_valid(call) || call->batch_size < 1 || call->iteration < 0 ||
        !fr_optimizer_valid(optimizer) || call->part < 0 || call->part >= FR_N_PARTS ||
        (call->part != FR_WHOLE_STEPS && call->stop - call->start > call->batch_size))
        return FR_BAD_ARGUMENT;
    if (!fr_blas_ready()) return FR_NO_BLAS;
    if (call->start == call->stop) return FR_OK;

    int n_threads = call->n_threads < 1 ? 1 : (int)smaller(call->n_threads, FR_MAX_THREADS);
    n_threads = fr_threads_for(
        step_flops(net, smaller(call->batch_size, call->data.n_rows)), n_threads);
    fr_status status = plan_training(net, call, n_threads);
    if (status == FR_OK && call->part == FR_FROM_GRADIENTS && !net->training.has_gradients)
        return FR_BAD_ARGUMENT;
    bool new_slots =
        call->part != FR_TO_GRADIENTS && net->n_slots != fr_optimizer_slots(optimizer);
    if (status == FR_OK && new_slots) status = begin_slots(net, optimizer);
    if (status != FR_OK) return status;

    training_run run = {
        .net = net,
        .plan = &net->training,
        .call = call,
        .kernels = net->kernels,
        .fused = fused_loss(net, call->loss) != NULL,
        .ledger = ledger,
        .row = call->start,
    };
    if (call->part == FR_FROM_GRADIENTS) {
        run.phase = COLUMNS;
        begin_step(&run);
    }
    net->training.has_gradients = call->part == FR_FROM_GRADIENTS;
    net->nonzeros_stale = true;
    fr_parallel(n_threads, next_training_phase, training_task, &run);
    *steps_done = run.steps_done;
    if (run.not_finite && new_slots && run.steps_done == 0) fr_network_set_slots(net, 0);
    return run.not_finite ? FR_NOT_FINITE : FR_OK;
}

/* ---- inference: independent panels, two activations a thread ---- */

/* Rows of a panel of a call on n_rows rows. */
static ptrdiff_t inference_rows(const fr_network *net, ptrdiff_t n_rows)
{
    return smaller(n_rows, panel_rows(net, n_rows, net->flops * (double)n_rows));
}

static fr_status find_nonzeros(fr_network *net)
{
    if (!net->nonzeros_stale) return FR_OK;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense) continue;
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
    return a->spec.kind == FR_LAYER_dense &&
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
    bool fused, begun;
} inference_run;

/* Forward for rows `first`.. of the call, between the thread's two matrices; returns the output. */
static matrix infer_panel(const inference_run *run, ptrdiff_t first, ptrdiff_t rows, int thread,
                          double *activity)
{
    const fr_network *net = run->net;
    const inference_plan *plan = run->plan;
    ptrdiff_t one = plan->n_rows * plan->n_padded * net->size;
    char *here = plan->activations + 2 * (ptrdiff_t)thread * one, *other = here + one;
    ptrdiff_t row = run->start + first;
    matrix x = view(net, here, net->width_x, plan->n_rows, 0);
    fr_sparse_rows nonzeros = {0};
    layer_input in = {0};
    if (run->data->start) {
        nonzeros = nonzeros_of(run->data, NULL, row);
        in.nonzeros = &nonzeros;
    } else {
        net->kernels->pack(rows, net->n_in, fr_at(run->data->x, row * net->n_in, net->size), NULL, x.at,
                           x.width, gap(net, x));
    }
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense) continue;
        matrix y = view(net, other, a->width, plan->n_rows, 0);
        in.x = x;
        if (!in.nonzeros && runs_sparse(net, a, run->panel_rows))
            in.lanes = plan->lanes + (ptrdiff_t)thread * plan->lanes_size;
        *activity += dense_forward(net, a, activation_at(net, l, run->fused), rows, in, y);
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
    fr_loss_tile tile = {
        .rows = rows,
        .target = takes_labels(run->call->loss) ? (const void *)((const int32_t *)data->y + row)
                                                : fr_at(data->y, row * net->n_out, net->size),
        .weight = data->weight ? fr_at(data->weight, row, net->size) : NULL,
        .accuracy = run->call->accuracy,
    };
    run->panels[panel] = panel_loss(net, run->call->loss, y, &tile);
    run->panels[panel].activity += activity;
}

/* Columns of the widest matrix that a panel goes through. */
static ptrdiff_t widest(const fr_network *net, bool compressed)
{
    ptrdiff_t most = compressed ? 1 : padded(net->n_in, net->width_x);
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        if (net->layers[l].spec.kind == FR_LAYER_dense) most = larger(most, net->layers[l].n_padded);
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
    bool compressed = run->data->start != NULL;
    if (compressed && net->flops == 0) return FR_BAD_ARGUMENT; /* no layer reads them as they stand */
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
    if (data->n_rows < 0 || !data->x || !out || (data->start && !data->column))
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
        if (a->spec.kind != FR_LAYER_dense || !a->spec.trainable) continue;
        /* Padding is zeros: it adds nothing. */
        if (penalizes(a->spec.kernel))
            ledger[FR_LEDGER_KERNEL_PENALTY] +=
                rows * penalty(a->spec.kernel, kernels->sums(a->spec.n_in * a->n_padded,
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

fr_status fr_network_evaluate(fr_network *net, const fr_training *call, double *ledger)
{
    if (!call_valid(call)) return FR_BAD_ARGUMENT;
    ptrdiff_t n_rows = call->stop - call->start;
    if (n_rows == 0) return FR_OK;
    inference_run run = {
        .start = call->start,
        .n_rows = n_rows,
        .data = &call->data,
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
