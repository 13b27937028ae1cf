/* A network and its plans: what all files here but functional.c and dispatch.c share.
 *
 * Every matrix stands in column panels, `width` columns wide and contiguous: [n / width][rows][width].
 * The native products take panels of two SIMD vectors; BLAS takes one panel as wide as the matrix, which
 * is plain row-major. Columns that pad the last panel hold zeros.
 *
 * The arenas:
 *   weights, slots   [kernel 0 | bias 0 | kernel 1 | ...] each at 64 bytes, zeros between
 *   training         per layer y, d, slope, dbias and the transposed kernel; x, targets and weights of a
 *                    batch; tasks; one scratch a thread; the gradients where they are materialized
 *   inference        two matrices of activations a thread, and one along the lanes for sparse kernels
 */
#ifndef FR_NETWORK_H
#define FR_NETWORK_H

#include "base/arena.h"
#include "fastreg.h"
#include "groups.h"
#include "kernels.h"
#include "sizes.h"
#include "sparse.h"
#include <stdbool.h>

/* A view of rows of a matrix in column panels. */
typedef struct {
    void *at;
    ptrdiff_t width, height; /* of a panel, `height` rows of the whole matrix */
} matrix;

/* A matrix of a batch as pairs of bfloat16 (kernels/bfloat16.inc), both ways. */
typedef struct {
    matrix across, down;
} matrix_pairs;

/* The outputs of a batch that are not 0, listed by rows, a row panel after another (active.c). */
typedef struct {
    ptrdiff_t room, most; /* terms of a row, on average: that are held, and that are listed at most; 0: never */
    int64_t *start;       /* row r of row panel p from start[r + p] to start[r + p + 1] */
    int32_t *column;
    void *y, *d, *slope; /* as column; d: the gradient of y, then dz; slope where the layer has it */
    void *read, *factor; /* as column: what the reader takes, y or where a layer between scales it, that; by factor */
    ptrdiff_t of;        /* the layer whose list tells where this one's outputs are not 0; -1: none does */
    bool *listed;        /* (row panels) */
    bool whole;          /* all row panels of the batch are listed */
    double share;        /* of its units that are active; 1 where they are not listed */
} active_set;

typedef struct {
    fr_layer spec;
    /* Offsets in the weights, -1 where there is none: a kernel, or gamma; a bias, or beta. */
    ptrdiff_t kernel, bias, moving_mean, moving_variance;
    ptrdiff_t times;        /* rows of y for a row of the network, which a later flatten makes one */
    ptrdiff_t width;        /* of the panels of y, d and the kernel */
    ptrdiff_t n_padded;     /* n_out in whole panels */
    bool few_units;         /* the kernel may stand as its transpose */
    bool turned;            /* the kernel stands as its transpose (n_out, n_in) */
    fr_group_plan groups;   /* of the kernel */
    double kernel_scale, bias_scale; /* of the gradients at hand, where they are clipped by norm */
    /* training */
    void *y, *d;
    void *slope;      /* as y: f'(z), where the activation keeps it */
    void *dbias;      /* (row panels, n_padded): column sums of each row panel's dz */
    void *transposed; /* native: the kernel's transpose, for dx; kept up by the update */
    void *factor;     /* noise: as y, dy/dx */
    void *dgamma;     /* normalization: as dbias. Before the way back both hold moments of columns. */
    void *mean, *scale; /* by rows: (n_batch) */
    void *variance;     /* by columns, as mean: (n_padded) */
    void *sums[2];      /* by columns, (n_padded): dgamma and dbeta of the batch */
    /* where products are in bfloat16: the input, d, the kernel and its transpose */
    matrix_pairs x_pairs, d_pairs;
    void *w_down, *wt_down;
    /* penalties of y over the whole batch */
    void *rates, *rate_slope; /* column sums as dbias; (n_padded) what dy gets more */
    void *given;      /* as y: the gradient of the caller's own */
    bool is_given;
    active_set active; /* of y */
    fr_nonzeros nonzeros; /* inference: of the kernel, where they are few */
} layer;

/* What a dense layer reads: a matrix, or one as pairs across; where its kernel runs sparse, room for that along the lanes; or the
 * nonzeros of data in compressed rows, instead of it. */
typedef struct {
    matrix x;
    bool paired;
    void *lanes;
    const fr_sparse_rows *nonzeros;
} layer_input;

/* A block of a kernel as it stands: rows i..i+n_i, columns o..o+n_o. Those where its units begin update the
 * bias too. Under a group penalty the update's tasks are whole groups: rows by position, or all rows. */
typedef struct {
    ptrdiff_t layer, i, n_i, o, n_o;
    int part; /* of a bound, where it is no block */
    ptrdiff_t group, n_groups;
    fr_sums kernel, bias;
    double kernel_square, bias_square; /* of changed gradients: sums of squares */
    double group_penalty;
} task;

typedef struct {
    double loss, correct, activity;
} panel_sums;

typedef struct {
    fr_arena arena;
    ptrdiff_t n_batch; /* rows that the buffers hold; a call may use fewer */
    ptrdiff_t n_rows;  /* of a panel */
    int n_threads;
    int chosen_threads; /* for small steps, by a trial that counts for `settled` more steps */
    ptrdiff_t settled;
    bool groups; /* some trainable layer has a group penalty */
    bool compressed; /* x is data in compressed rows, which the first layer reads as it stands */
    bool materialize;
    /* Of a batch whose gradients (from the caller's dy or the loss), whose update is still to come. */
    bool has_outputs, has_loss, has_gradients;
    void *x, *target, *weight;
    void *gradient; /* as the weights, where `materialize`; what pads the panels may not be 0 */
    void *d;        /* as the weights, for the proximal step of groups: the optimizer's denominators */
    void *own_d; /* as the last layer's d: its activity penalty's, when the loss is fused */
    panel_sums *panels;
    int64_t *order; /* (n_batch) of rows in active sets: r + its row panel; NULL without these */
    bool changes; /* gradients are changed as a whole, in a phase of its own */
    task *tasks, *updates; /* of the column phase; of the update phase and that before it */
    task *bounds; /* what is brought back to its constraints: columns or rows of a kernel, a vector (n_o = 0) */
    /* Layers whose moments are those of the batch, n_splits of them: rows stop before each on the way forward, and
     * on the way back after the n_back that are above the first trainable layer. */
    ptrdiff_t *splits;
    ptrdiff_t n_splits, n_back;
    int turns; /* 1 where rows stop at their outputs, too, for the rates of layers */
    double rate_penalty; /* of the batch, times its rows */
    ptrdiff_t n_tasks, n_updates, n_bounds;
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
    ptrdiff_t times; /* rows of n_in for a row of the network */
    ptrdiff_t first_trainable; /* n_layers when there is none */
    double flops;              /* of one row's forward pass */
    bool native;               /* our products on panels, else BLAS */
    const fr_pair_kernels *pairs; /* training's products in bfloat16, or NULL */
    bool fetches_ahead;        /* its weights do not stay in cache from step to step */
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

/* ---- layers.c ---- */

typedef struct training_run training_run; /* training.h */

/* What a kind of layer is. Rows `first`.. of the batch, `rows` of them, are a panel, counted as the layer's. */
typedef struct {
    bool (*valid)(const fr_layer *layer);
    double *(*setting)(fr_layer *layer, int setting); /* one that may change from step to step, or NULL; or no function */
    bool has_activation;
    bool normalizes; /* its kernel is gamma, its bias beta */
    bool by_columns; /* and its moments are the batch's */
    bool about_zero; /* and 0 is its mean */
    bool flattens;
    bool scales;     /* y is what it reads times its factor */
    /* Training's buffers beside y and d, or NULL. */
    void (*take)(fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch);
    /* y from the y below; returns the activity penalty. */
    double (*forward)(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
    /* d below from d, where a layer below is trainable. */
    void (*backward)(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
    /* At inference, in place; NULL where the layer does nothing, or is dense. */
    double (*infer)(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y);
} layer_kind;
extern const layer_kind fr_layer_kinds[FR_N_LAYER_KINDS];

/* ---- sizes ---- */

/* Rows of a panel, a rule of the batch alone: results must not depend on the number of threads. */
ptrdiff_t fr_panel_rows(ptrdiff_t n_batch);

/* The most panels that a batch of at most n_batch rows is cut into. */
static inline ptrdiff_t most_panels(ptrdiff_t n_batch) { return pieces(n_batch, 16) + 1; }

/* Whether there is a penalty of the means of its outputs. */
static inline bool has_rates(const fr_layer *l)
{
    return fr_layer_kinds[l->kind].has_activation && l->activity_kl.rate > 0;
}

/* Whether training takes a layer's moments from the batch. */
static inline bool uses_batch(const fr_layer *l) { return fr_layer_kinds[l->kind].by_columns && l->trainable; }

/* Work of which threads may have a part each. */
#define FR_SHARED_FLOPS 4e5

/* Threads worth waking for this many floating-point operations. */
int fr_threads_for(double flops, int n_threads);

/* Panels of columns: as wide as the table's products take, or the whole matrix for BLAS. */
static inline ptrdiff_t width_of(const fr_network *net, ptrdiff_t n)
{
    return net->native ? net->kernels->panel
                       : round_up(n, FR_ALIGNMENT / net->size);
}

static inline ptrdiff_t padded(ptrdiff_t n, ptrdiff_t width) { return round_up(n, width); }

/* Rows of a panel where n_batch rows take `flops`. */
ptrdiff_t fr_rows_of_panel(const fr_network *net, ptrdiff_t n_batch, double flops);

/* ---- penalties and losses ---- */

static inline bool penalizes(fr_regularizer r) { return r.l1 != 0 || r.l2 != 0; }

static inline double penalty(fr_regularizer r, fr_sums sums)
{
    return (r.l1 != 0 ? r.l1 * sums.abs : 0) + (r.l2 != 0 ? r.l2 * sums.square : 0);
}

/* Whether the first layer can read such rows. */
static inline bool data_fits(const fr_network *net, const fr_data *data) { return !data->start || net->times == 1; }

/* Whether there is such a loss, and it has what it reads of the settings. */
bool fr_loss_valid(int loss, const fr_loss_settings *settings);

static inline bool takes_labels(int loss) { return loss == FR_LOSS_sparse_categorical_crossentropy; }

/* The kernel that takes z of the last layer, where there is one for this loss. */
static inline fr_loss_kernel *fused_loss(const fr_network *net, const fr_training *call)
{
    const fr_layer *last = &net->layers[net->n_layers - 1].spec;
    if (!fr_layer_kinds[last->kind].has_activation || call->loss_settings.from_logits) return NULL;
    return net->kernels->fused_loss[call->loss][last->activation];
}

/* ---- where things stand ---- */

static inline void *slot_at(const fr_network *net, int slot, ptrdiff_t element)
{
    if (slot >= net->n_slots) return NULL;
    return fr_at(net->slots.base, slot * net->n_weights + element, net->size);
}

static inline void *weight_at(const fr_network *net, ptrdiff_t element)
{
    return fr_at(net->weights.base, element, net->size);
}

static inline void *gradient_at(const fr_network *net, ptrdiff_t element)
{
    return fr_at(net->training.gradient, element, net->size);
}

/* Rows, columns and elements of a kernel as it stands. */
static inline ptrdiff_t kernel_rows(const layer *a) { return a->turned ? a->spec.n_out : a->spec.n_in; }
static inline ptrdiff_t kernel_columns(const layer *a) { return a->turned ? a->spec.n_in : a->spec.n_out; }
static inline ptrdiff_t kernel_size(const layer *a)
{
    return fr_size_product(kernel_rows(a), padded(kernel_columns(a), a->width));
}

/* Rows `first`.. of a matrix of `rows` rows. */
static inline matrix view(const fr_network *net, void *at, ptrdiff_t width, ptrdiff_t rows, ptrdiff_t first)
{
    return (matrix){fr_at(at, first * width, net->size), width, rows};
}

/* Element (0, column) of a view, for a column where a panel begins (BLAS: anywhere); NULL of none. */
static inline void *column(const fr_network *net, matrix m, ptrdiff_t j)
{
    if (!m.at) return NULL;
    return fr_at(m.at, net->native ? j * m.height : j, net->size);
}

/* What the kernels on whole rows call the gap between panels. */
static inline ptrdiff_t gap(const fr_network *net, matrix m)
{
    return net->native ? (m.height - 1) * m.width : 0;
}

static inline void *kernel_panel(const fr_network *net, const layer *a, ptrdiff_t o)
{
    return weight_at(net, a->kernel + o * kernel_rows(a));
}

/* Rows `first`.. of data in compressed rows, in the order of `index`. */
static inline fr_sparse_rows nonzeros_of(const fr_data *data, const int64_t *index, ptrdiff_t first)
{
    return (fr_sparse_rows){
        .order = index ? index + first : NULL,
        .start = index ? data->start : data->start + first,
        .column = data->column,
        .value = data->x,
    };
}

/* ---- network.c ---- */

/* Brings kernels of few units, and their slots, into the layout that the layers' settings ask for; `plain` is room
 * for it, NULL where there is none. */
void *fr_room_for_turning(const fr_network *net);
void fr_turn_kernels(fr_network *net, void *plain);

/* ---- products.c ---- */

/* c (rows, width) = a b, by as many columns as a panel has */
void fr_multiply_sparse(const fr_network *net, ptrdiff_t rows, ptrdiff_t width, const fr_sparse_rows *a,
                        const void *b, ptrdiff_t ld_b, void *c, ptrdiff_t ld_c);
/* Columns o.. of y = x W, one panel. */
void fr_multiply_forward(const fr_network *net, const layer *a, ptrdiff_t rows, layer_input in,
                         ptrdiff_t o, matrix y);
/* dx = dz W' */
void fr_multiply_backward(const fr_network *net, const layer *a, ptrdiff_t rows, matrix dz, matrix dx);
/* dw (n_i, width) = x'dz for rows i.. and the panel of columns at o of a kernel; `ahead` as in kernels.h. */
void fr_multiply_kernel(const fr_network *net, const layer *a, ptrdiff_t n_batch, matrix x, ptrdiff_t i,
                        ptrdiff_t n_i, matrix dz, ptrdiff_t o, void *dw, const fr_ahead *ahead);
/* Brings the transpose up to date for rows i.. and the panel at o. */
void fr_transpose_rows(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t n_i, ptrdiff_t o);
void fr_transpose_all(fr_network *net);

/* ---- forward.c ---- */

/* y = f(x W + b) on a panel of rows; returns the activity penalty where f is the layer's own. Slopes go to
 * `slope` where f keeps them and training needs them; elsewhere it is at NULL. */
double fr_forward_layer(const fr_network *net, const layer *a, int activation, ptrdiff_t rows,
                        layer_input in, matrix y, matrix slope);
/* y = f(y) for a layer that is f alone. */
double fr_activate_rows(const fr_network *net, const layer *a, int activation, ptrdiff_t rows, matrix y,
                        matrix slope);
/* The loss of a panel of rows, with the activity penalty of a fused last layer. */
panel_sums fr_loss_of_rows(const fr_network *net, const fr_training *call, matrix y, fr_loss_tile *tile);
/* Rows of an output, f(z) by now, as plain rows from `row` on of (.., n). */
void fr_put_rows(const fr_network *net, matrix y, ptrdiff_t rows, ptrdiff_t n, void *plain, ptrdiff_t row);
/* Column sums of a panel of rows of layer a's outputs, (n_out). */
void fr_column_sums(const fr_network *net, const layer *a, ptrdiff_t rows, matrix y, void *sums);
void fr_put_outputs(const fr_network *net, const fr_training *call, ptrdiff_t row, ptrdiff_t rows,
                    matrix y);
/* The activation to run at layer l: the last one is left to a loss that fuses it. */
int fr_activation_at(const fr_network *net, ptrdiff_t l, bool fused);

/* ---- layers.c ---- */

bool fr_kl_valid(fr_kl penalty);
/* Rows (rows, n) of one layout into another, (their elements / n_to, n_to), by way of plain ones. */
void fr_reshape_rows(const fr_network *net, ptrdiff_t rows, ptrdiff_t n, matrix from, ptrdiff_t n_to, matrix to,
                     void *plain);

/* ---- training.c ---- */

/* Whether a call's rows, loss and accuracy are such as the contract wants. */
bool fr_call_valid(const fr_training *call);
/* Whether what the caller watches are outputs that there are. */
bool fr_watches_valid(const fr_network *net, const fr_training *call);

#endif
