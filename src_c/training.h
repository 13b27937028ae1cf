/* A step of training: what plan.c, rows.c, columns.c, constraints.c and training.c share. */
#ifndef FR_TRAINING_H
#define FR_TRAINING_H

#include "network.h"

struct training_run {
    fr_network *net;
    training_plan *plan;
    const fr_training *call;
    const fr_kernels *kernels;
    bool fused;
    double *ledger;
    fr_optimizer optimizer; /* as it is in the step at hand, of which all that follows is */
    enum { BEFORE, ROWS, COLUMNS, GRADIENTS, UPDATES, BOUNDS } phase;
    ptrdiff_t row, stop, n_batch, n_panels, steps_done; /* rows up to `stop`, for now */
    ptrdiff_t stage; /* of the phase of rows, which the plan cuts into 1 + n_splits + turns + n_back */
    bool not_finite;
    fr_update_step update;
    fr_gradient_step change; /* of the gradients; its regularizer is that of the array */
    double ema_momentum;
    bool overwrites; /* the weights become their mean */
};

/* Whether the call's part ends where the outputs are known. */
static inline bool stops_at_outputs(const training_run *run)
{
    return run->call->part == FR_TO_OUTPUTS || run->call->part == FR_TO_LOSS;
}

/* ---- where things of the batch stand ---- */

/* Rows `first`.. of the batch, counted as the layer's: of layer l's output, of one of its companions, and of its input. */
static inline matrix rows_of(const training_run *run, ptrdiff_t l, void *array, ptrdiff_t first)
{
    const layer *a = &run->net->layers[l];
    return view(run->net, array, a->width, run->plan->n_batch * a->times, first);
}

static inline matrix slope_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    void *slope = run->net->layers[l].slope;
    return slope ? rows_of(run, l, slope, first) : (matrix){0};
}

static inline matrix input_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    if (l == 0)
        return view(run->net, run->plan->x, run->net->width_x, run->plan->n_batch * run->net->times, first);
    return rows_of(run, l - 1, run->net->layers[l - 1].y, first);
}

/* Whether the products of layer l are those on pairs of bfloat16. */
static inline bool paired(const training_run *run, ptrdiff_t l)
{
    return run->net->pairs && !(l == 0 && run->plan->compressed);
}

static inline matrix across(const training_run *run, const matrix_pairs *pairs, ptrdiff_t first)
{
    return view(run->net, pairs->across.at, pairs->across.width, pairs->across.height, first);
}

/* ---- plan.c ---- */

/* Rows of a block whose terms of x' are listed at once. */
enum { TERM_ROWS = 64 };

/* The terms of x' for some rows of a kernel, or of dz' for some columns, in a thread's scratch. */
typedef struct {
    fr_sparse_rows rows, turned;
    int64_t *cursor, *start; /* (n_batch), (TERM_ROWS + 2) */
    int32_t *row;            /* (n_batch, TERM_ROWS) */
    void *value;
    void *tile; /* (panel, panel) of dw' */
} terms;

/* Of a training step: each of the three products takes what the forward one does. */
double fr_step_flops(const fr_network *net, ptrdiff_t n_batch);
/* Rows of a block whose dw stands in scratch at once, in L1 with the weights. */
ptrdiff_t fr_update_rows(const fr_network *net, const layer *a, ptrdiff_t n_i);
void fr_take_terms(const fr_network *net, fr_arena *arena, ptrdiff_t n_batch, terms *t);
/* The plan for this call; buffers that are large enough stay. */
fr_status fr_plan_training(fr_network *net, const fr_training *call, int n_threads);

/* ---- layers.c: what normalizes by columns ---- */

/* Moments of what layer l reads, of a panel and then of the batch; into the moving ones. */
void fr_take_moments(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
void fr_join_moments(const training_run *run, ptrdiff_t l);
void fr_move_moments(const training_run *run, ptrdiff_t l);
/* dgamma and dbeta, the same. */
void fr_take_sums(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
void fr_join_sums(const training_run *run, ptrdiff_t l);

/* ---- layers.c: penalties of activities that need the whole batch ---- */

/* Column sums of the layers with rates, of a panel, and then the penalties of the batch. */
void fr_take_rates(const training_run *run, ptrdiff_t first, ptrdiff_t rows);
void fr_join_rates(const training_run *run);
/* What the caller watches, of a panel, and the gradients it gives. */
void fr_put_watched(const training_run *run, ptrdiff_t first, ptrdiff_t rows);
void fr_take_given(const training_run *run, ptrdiff_t first, ptrdiff_t rows);

/* ---- rows.c ---- */

/* A panel of rows: gathered, forward through all layers and the loss, backward to the first trainable one. */
void fr_train_rows(training_run *run, ptrdiff_t panel);
/* Between two stages: puts together what the panels took; false after the last. */
bool fr_rows_go_on(training_run *run);

/* ---- columns.c ---- */

/* A block of a kernel, and of the bias where it begins: what the phase does to it. */
void fr_update_block(training_run *run, task *t, void *scratch);
/* How much of the gradients a bound of their norms leaves, when their squares are known. */
void fr_set_gradient_scales(const training_run *run);

/* ---- constraints.c ---- */

enum { FR_BOUND_NORMS = 64 }; /* of a task, at most */

void fr_bound_block(const training_run *run, const task *t);

#endif
