/* Training: plan -> forward -> loss -> backward -> update.
 *
 * A step has two phases, or three; each ends when all of its tasks are done.
 *
 *   rows      the batch is cut into panels of rows. A panel is gathered, goes forward through all layers
 *             and the loss, and backward down to the first trainable layer, without leaving the cache.
 *   columns   the kernels are cut into blocks. A block's dw = x'dz over the whole batch goes into a
 *             thread's scratch, and the regularized update consumes it there: gradients are not stored.
 *   update    only where a step needs whole gradients before it changes a weight (`materialize`): the
 *             column phase then leaves dw and dbias in an arena laid out as the weights, and the same
 *             blocks are updated from there, to the same bits.
 *
 * Where gradients are summed over batches or clipped, a phase before the update makes them whole: the sum, the
 * regularizer's gradient, the bound; their norms are then known. Constraints are a last phase of their own.
 *
 * Panels and blocks depend on the plan alone; threads share them out, each writes what no
 * other does, and partial sums are added in the order of panels and blocks. So the weights do not depend
 * on the number of threads. There are no element loops here: those are the kernels'.
 */
#include "network.h"

#include "base/threads.h"
#include "bfloat16.h"
#include "blas.h"
#include "optimizers.h"

#include <limits.h>
#include <math.h>
#include <string.h>

/* ---- rules ---- */

/* Rows and columns of a kernel's blocks, in whole panels: of a size that leaves enough blocks to share
 * out, near to square for the native products (x and dz are read once a block), all columns for BLAS. */
static void block_shape(const fr_network *net, const layer *a, ptrdiff_t *n_i, ptrdiff_t *n_o)
{
    ptrdiff_t most = 1024 * 1024 / net->size, share = larger(2048, net->n_weights / 8);
    ptrdiff_t elements = smaller(share, most), width = a->width;
    *n_o = net->native ? smaller(a->n_padded, larger(width, 512 / width * width)) : a->n_padded;
    ptrdiff_t rows = net->native ? width : 16;
    *n_i = padded(smaller(a->spec.n_in, larger(rows, elements / *n_o)), rows);
}

/* Rows of a block whose dw stands in scratch at once, in L1 with the weights. */
static ptrdiff_t update_rows(const fr_network *net, const layer *a, ptrdiff_t n_i)
{
    return net->native ? smaller(n_i, larger(a->width, 64)) : n_i;
}

/* ---- the training step ---- */

typedef struct {
    fr_network *net;
    training_plan *plan;
    const fr_training *call;
    const fr_kernels *kernels;
    bool fused;
    double *ledger;
    fr_optimizer optimizer; /* as it is in the step at hand, of which all that follows is */
    enum { BEFORE, ROWS, COLUMNS, GRADIENTS, UPDATES, BOUNDS } phase;
    ptrdiff_t row, stop, n_batch, n_panels, steps_done; /* rows up to `stop`, for now */
    bool not_finite;
    fr_update_step update;
    fr_gradient_step change; /* of the gradients; its regularizer is that of the array */
    double ema_momentum;
    bool overwrites; /* the weights become their mean */
} training_run;

/* Rows `first`.. of the batch: of layer l's output, of one of its companions, and of its input. */
static matrix rows_of(const training_run *run, ptrdiff_t l, void *array, ptrdiff_t first)
{
    return view(run->net, array, run->net->layers[l].width, run->plan->n_batch, first);
}

static matrix slope_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    void *slope = run->net->layers[l].slope;
    return slope ? rows_of(run, l, slope, first) : (matrix){0};
}

static matrix input_of(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    if (l == 0)
        return view(run->net, run->plan->x, run->net->width_x, run->plan->n_batch, first);
    return rows_of(run, l - 1, run->net->layers[l - 1].y, first);
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

/* Whether the products of layer l are those on pairs of bfloat16. */
static bool paired(const training_run *run, ptrdiff_t l)
{
    return run->net->pairs && !(l == 0 && run->plan->compressed);
}

static matrix across(const training_run *run, const matrix_pairs *pairs, ptrdiff_t first)
{
    return view(run->net, pairs->across.at, pairs->across.width, pairs->across.height, first);
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
    backward_columns(run, fr_activation_at(net, l, run->fused), a->width, &tile, y,
                     slope_of(run, l, first), d);
    if (paired(run, l)) {
        fr_pair_rows(net, rows, a->spec.n_out, d, first, &a->d_pairs);
        d = across(run, &a->d_pairs, first);
    }
    if (l > net->first_trainable)
        fr_multiply_backward(net, a, rows, d, rows_of(run, l - 1, net->layers[l - 1].d, first));
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

static void place_slots_at(const training_run *run, ptrdiff_t element, void *placed[FR_UPDATE_SLOTS])
{
    void *slots[FR_UPDATE_SLOTS];
    for (int i = 0; i < FR_UPDATE_SLOTS; i++) slots[i] = slot_at(run->net, i, element);
    fr_place_slots(&run->call->optimizer, slots, placed);
}

/* What a step does to a kernel or a bias beside the optimizer's own. */
typedef struct {
    fr_regularizer regularizer;
    bool keeps; /* no weight decay */
    double scale; /* of the gradient */
} array_step;

static array_step of_kernel(const layer *a)
{
    return (array_step){a->spec.kernel, a->spec.keeps_kernel, a->kernel_scale};
}

static array_step of_bias(const layer *a)
{
    return (array_step){a->spec.bias, a->spec.keeps_bias, a->bias_scale};
}

static void average(const training_run *run, ptrdiff_t element, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld)
{
    int slot = fr_average_slot(&run->optimizer);
    if (slot < 0) return;
    run->kernels->move_average(rows, n, ld, run->ema_momentum, run->overwrites,
                               weight_at(run->net, element), slot_at(run->net, slot, element));
}

/* One step's constants for an array; what a changed gradient already has in it is left out. */
static fr_update_step step_of(const training_run *run, array_step array)
{
    fr_update_step step = run->update;
    step.regularizer = array.regularizer;
    if (array.keeps) step.keep = 1;
    if (run->plan->changes) {
        step.regularizer.l2 = 0;
        if (step.l1_step == FR_L1_STEP_sign) step.regularizer.l1 = 0;
    }
    return step;
}

/* The regularized update of `rows` rows of n weights, ld apart, as they are in dw. */
static void update(const training_run *run, array_step array, ptrdiff_t element, ptrdiff_t rows,
                   ptrdiff_t n, ptrdiff_t ld, void *dw, fr_sums *sums)
{
    const fr_network *net = run->net;
    fr_update_step step = step_of(run, array);
    fr_sums none = {0, 0}; /* they were taken with the gradient */
    void *placed[FR_UPDATE_SLOTS];
    place_slots_at(run, element, placed);
    if (run->plan->changes && array.scale != 1) run->kernels->scale(rows, n, ld, array.scale, dw);
    run->kernels->update[run->optimizer.kind](&step, rows, n, ld, weight_at(net, element), dw, placed,
                                              run->plan->changes ? &none : sums);
    average(run, element, rows, n, ld);
}

/* The gradient of an array as a whole. Where more batches are to come the weights stay, but their mean moves. */
static void change(const training_run *run, array_step array, ptrdiff_t element, ptrdiff_t rows,
                   ptrdiff_t n, ptrdiff_t ld, fr_sums *sums, double *square)
{
    const fr_network *net = run->net;
    fr_gradient_step step = run->change;
    step.regularizer = array.regularizer;
    if (run->update.l1_step != FR_L1_STEP_sign) step.regularizer.l1 = 0;
    int slot = fr_sum_slot(&run->optimizer);
    run->kernels->change_gradient(&step, rows, n, ld, weight_at(net, element), gradient_at(net, element),
                                  slot < 0 ? NULL : slot_at(net, slot, element), sums, square);
    if (!step.is_last) average(run, element, rows, n, ld);
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

/* The weights and slots at an element. */
static fr_ahead read_by_update(const training_run *run, ptrdiff_t element)
{
    const fr_network *net = run->net;
    fr_ahead ahead = {.n = 1 + net->n_slots, .at = {weight_at(net, element)}};
    if (!net->fetches_ahead) return (fr_ahead){0};
    for (int slot = 0; slot < net->n_slots; slot++) ahead.at[1 + slot] = slot_at(net, slot, element);
    return ahead;
}

/* dw = x'dz for a panel of columns of some of the block's rows. */
static void gradient_block(const training_run *run, const layer *a, const terms *listed, matrix x,
                           ptrdiff_t i, ptrdiff_t n_i, ptrdiff_t strip, matrix dz, ptrdiff_t o,
                           void *dw, const fr_ahead *ahead)
{
    const fr_network *net = run->net;
    if (listed) {
        fr_multiply_sparse(net, n_i, a->width, &listed->turned, column(net, dz, o), dz.width, dw, a->width);
        return;
    }
    for (ptrdiff_t s = 0; s < n_i; s += strip) {
        fr_ahead here = *ahead;
        for (int k = 0; k < here.n; k++) here.at[k] += s * a->width * net->size;
        here.bytes = smaller(strip, n_i - s) * a->width * net->size;
        fr_multiply_kernel(net, a, run->n_batch, x, i + s, smaller(strip, n_i - s), dz, o,
                           fr_at(dw, s * a->width, net->size), &here);
    }
}

static void kernel_block(const training_run *run, task *t, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    bool compressed = t->layer == 0 && run->plan->compressed;
    matrix x = compressed ? (matrix){0} : input_of(run, t->layer, 0);
    matrix dz = rows_of(run, t->layer, a->d, 0);
    if (paired(run, t->layer)) x = a->x_pairs.down, dz = a->d_pairs.down;
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
            fr_ahead ahead = {0};
            if (updates(run)) ahead = read_by_update(run, element);
            if (takes_gradients(run))
                gradient_block(run, a, compressed ? &listed : NULL, x, i, n_i, strip, dz, o, dw, &ahead);
            if (!updates(run) && run->phase != GRADIENTS) continue;
            /* Padding is never updated: it stays 0 even where 0 / 0 or inf * 0 would come of it. */
            ptrdiff_t n_o = smaller(a->width, a->spec.n_out - o);
            bool by_rows = n_o < a->width;
            ptrdiff_t rows = by_rows ? n_i : 1, n = by_rows ? n_o : n_i * a->width;
            if (run->phase == GRADIENTS)
                change(run, of_kernel(a), element, rows, n, a->width, &t->kernel, &t->kernel_square);
            else
                update(run, of_kernel(a), element, rows, n, a->width, dw, &t->kernel);
            if (updates(run) || run->overwrites) fr_transpose_rows(net, a, i, n_i, o);
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
    ptrdiff_t n = smaller(t->n_o, a->spec.n_out - t->o);
    if (run->phase == GRADIENTS)
        change(run, of_bias(a), a->bias + t->o, 1, n, n, &t->bias, &t->bias_square);
    else if (updates(run))
        update(run, of_bias(a), a->bias + t->o, 1, n, n, db, &t->bias);
}

/* ---- under a group penalty: tasks of whole groups, in the update phase ---- */

typedef struct {
    const training_run *run;
    task *t;
    bool shared_d; /* the first half of a proximal step */
} group_run;

static void change_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    const layer *a = &g->run->net->layers[g->t->layer];
    change(g->run, of_kernel(a), a->kernel + piece->element, piece->rows, piece->n, p->width,
           &g->t->kernel, &g->t->kernel_square);
}

static void average_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    ptrdiff_t element = g->run->net->layers[g->t->layer].kernel + piece->element;
    average(g->run, element, piece->rows, piece->n, p->width);
}

static void update_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    const training_run *run = g->run;
    const fr_network *net = run->net;
    const layer *a = &net->layers[g->t->layer];
    ptrdiff_t element = a->kernel + piece->element;
    void *dw = gradient_at(net, element);
    if (!g->shared_d) {
        update(run, of_kernel(a), element, piece->rows, piece->n, p->width, dw, &g->t->kernel);
        return;
    }
    array_step array = of_kernel(a);
    fr_update_step step = step_of(run, array);
    step.l1_step = FR_L1_STEP_group;
    fr_sums none = {0, 0};
    if (run->plan->changes && array.scale != 1)
        run->kernels->scale(piece->rows, piece->n, p->width, array.scale, dw);
    void *placed[FR_UPDATE_SLOTS];
    place_slots_at(run, element, placed);
    placed[FR_OWN_SLOTS] = dw;
    placed[FR_OWN_SLOTS + 1] = fr_at(run->plan->d, element, net->size);
    run->kernels->update[run->optimizer.kind](&step, piece->rows, piece->n, p->width,
                                              weight_at(net, element), dw, placed,
                                              run->plan->changes ? &none : &g->t->kernel);
}

static void transpose_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const group_run *g = context;
    const fr_network *net = g->run->net;
    ptrdiff_t o = piece->column - piece->column % p->width;
    fr_transpose_rows(net, &net->layers[g->t->layer], piece->row, piece->rows, o);
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
    if (run->phase == GRADIENTS || !run->plan->changes) {
        t->group_penalty = fr_groups_norms(p, r, w);
        if (by_sign && t->n_groups > 0) fr_groups_add_gradient(p, r, w, dw);
    }
    if (run->phase == GRADIENTS) {
        fr_groups_each(p, r, change_piece, &g);
        if (run->overwrites && a->transposed) fr_groups_each(p, r, transpose_piece, &g);
        return;
    }
    fr_groups_each(p, r, update_piece, &g);
    if (g.shared_d) {
        fr_groups_largest(p, r, fr_at(run->plan->d, a->kernel, net->size));
        fr_groups_move(p, r, dw, w);
        fr_groups_steps(p, r, run->update.shrink, a->spec.kernel.l1);
        fr_groups_prox(p, r, a->spec.kernel.l1, w);
        fr_groups_each(p, r, average_piece, &g);
    }
    if (a->transposed) fr_groups_each(p, r, transpose_piece, &g);

}

static void block(training_run *run, task *t, void *scratch)
{
    if (run->phase != UPDATES || !run->plan->changes) {
        t->kernel = t->bias = (fr_sums){0, 0};
        t->group_penalty = t->kernel_square = t->bias_square = 0;
    }
    if (run->phase >= GRADIENTS && run->net->layers[t->layer].groups.groups.n_groups > 0)
        group_block(run, t);
    else
        kernel_block(run, t, scratch);
    if (t->i == 0 && run->net->layers[t->layer].bias >= 0) bias_block(run, t, scratch);
}

/* How much of the gradients a bound of their norms leaves, when their squares are known. */
static void set_scales(const training_run *run)
{
    const fr_optimizer *o = &run->optimizer;
    double all = 0;
    for (ptrdiff_t l = 0; l < run->net->n_layers; l++)
        run->net->layers[l].kernel_scale = run->net->layers[l].bias_scale = 0;
    for (ptrdiff_t i = 0; i < run->plan->n_updates; i++) {
        const task *t = &run->plan->updates[i];
        run->net->layers[t->layer].kernel_scale += t->kernel_square;
        run->net->layers[t->layer].bias_scale += t->bias_square;
        all += t->kernel_square + t->bias_square;
    }
    double most = o->clipnorm > 0 ? o->clipnorm : o->global_clipnorm;
    for (ptrdiff_t l = 0; l < run->net->n_layers; l++) {
        double *scales[] = {&run->net->layers[l].kernel_scale, &run->net->layers[l].bias_scale};
        for (int part = 0; part < 2; part++) {
            double norm = sqrt(o->clipnorm > 0 ? *scales[part] : all);
            *scales[part] = most > 0 && !(norm <= most) ? most / norm : 1; /* NaN stays */
        }
    }
}

/* ---- constraints: columns, or rows, or all of a kernel; a bias ---- */

enum { BOUND_MOST = 64 }; /* norms of a task */

/* A block of a kernel within one panel of columns, or where the columns are one after the other. */
static void *block_at(const fr_network *net, const layer *a, ptrdiff_t i, ptrdiff_t o)
{
    ptrdiff_t from = o - o % a->width;
    return weight_at(net, a->kernel + from * a->spec.n_in + i * a->width + o % a->width);
}

static double bounded_share(const fr_constraint *c, double square)
{
    double norm = sqrt(square), inside = fmin(fmax(norm, c->low), c->high);
    if (c->rate != 1) inside = c->rate * inside + (1 - c->rate) * norm;
    return inside / (1e-7 + norm); /* Keras' epsilon */
}

static void set_shares(const fr_network *net, const fr_constraint *c, ptrdiff_t n, const double *squares,
                       void *shares)
{
    for (ptrdiff_t k = 0; k < n; k++) {
        double share = bounded_share(c, squares[k]);
        if (net->size == (ptrdiff_t)sizeof(float))
            ((float *)shares)[k] = (float)share;
        else
            ((double *)shares)[k] = share;
    }
}

static void bound_bias(const training_run *run, const layer *a)
{
    const fr_network *net = run->net;
    const fr_constraint *c = &a->spec.bias_constraint;
    ptrdiff_t n = a->spec.n_out;
    void *b = weight_at(net, a->bias);
    if (c->kind == FR_CONSTRAINT_non_neg)
        run->kernels->non_negative(1, n, n, b);
    else
        run->kernels->scale(1, n, n, bounded_share(c, run->kernels->sums(n, b).square), b);
}

/* By one norm; what pads the panels is 0. */
static void bound_whole(const training_run *run, const layer *a)
{
    ptrdiff_t n = a->spec.n_in * a->n_padded;
    void *w = weight_at(run->net, a->kernel);
    double share = bounded_share(&a->spec.kernel_constraint, run->kernels->sums(n, w).square);
    run->kernels->scale(1, n, n, share, w);
}

/* Some rows, or some columns of one panel. */
static void bound_part(const training_run *run, const layer *a, const task *t)
{
    const fr_network *net = run->net;
    const fr_constraint *c = &a->spec.kernel_constraint;
    double squares[BOUND_MOST] = {0}, shares[BOUND_MOST];
    bool norms = c->kind == FR_CONSTRAINT_norm, by_column = c->per_column;
    ptrdiff_t stop = t->o + t->n_o, n_i = t->n_i;
    for (ptrdiff_t o = t->o; o < stop && norms; o += a->width)
        run->kernels->group_squares(by_column, n_i, smaller(a->width, stop - o), a->width,
                                    block_at(net, a, t->i, o), squares);
    if (norms) set_shares(net, c, by_column ? t->n_o : n_i, squares, shares);
    for (ptrdiff_t o = t->o; o < stop; o += a->width) {
        ptrdiff_t n = smaller(a->width, stop - o);
        void *w = block_at(net, a, t->i, o);
        if (norms)
            run->kernels->group_scale(by_column, n_i, n, a->width, shares, w);
        else
            run->kernels->non_negative(n_i, n, a->width, w);
    }
}

static void bound_block(const training_run *run, const task *t)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    const fr_constraint *c = &a->spec.kernel_constraint;
    if (t->n_o == 0) {
        bound_bias(run, a);
        return;
    }
    if (c->kind == FR_CONSTRAINT_norm && !c->per_row && !c->per_column)
        bound_whole(run, a);
    else
        bound_part(run, a, t);
    for (ptrdiff_t o = t->o; o < t->o + t->n_o; o += a->width)
        fr_transpose_rows(net, a, t->i, t->n_i, o);
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

/* A setting of a layer that may change from step to step, NULL where it has none such. */
static double *setting_of(fr_layer *layer, int setting)
{
    if (layer->kind == FR_LAYER_dropout) return setting == FR_SETTING_rate ? &layer->rate : NULL;
    switch (setting) {
    case FR_SETTING_kernel_l1: return &layer->kernel.l1;
    case FR_SETTING_kernel_l2: return &layer->kernel.l2;
    case FR_SETTING_bias_l1: return &layer->bias.l1;
    case FR_SETTING_bias_l2: return &layer->bias.l2;
    case FR_SETTING_activity_l1: return &layer->activity.l1;
    case FR_SETTING_activity_l2: return &layer->activity.l2;
    }
    return NULL;
}

static bool schedule_valid(const fr_network *net, const fr_schedule *s, ptrdiff_t n_steps)
{
    bool of_layer = s->setting != FR_SETTING_learning_rate;
    if (of_layer && (s->layer < 0 || s->layer >= net->n_layers ||
                     !setting_of(&net->layers[s->layer].spec, s->setting)))
        return false;
    double high = s->setting == FR_SETTING_rate ? 1 : INFINITY;
    for (ptrdiff_t i = 0; i < n_steps; i++)
        if (!(s->values[i] >= 0 && s->values[i] < high)) return false;
    return true;
}

static bool schedules_valid(const fr_network *net, const fr_training *call)
{
    ptrdiff_t n_steps = pieces(call->stop - call->start, call->batch_size);
    for (ptrdiff_t i = 0; i < call->n_schedules; i++)
        if (!schedule_valid(net, &call->schedules[i], n_steps)) return false;
    return true;
}

static ptrdiff_t begin_step(training_run *run)
{
    if (run->row == run->stop) return 0;
    for (ptrdiff_t i = 0; i < run->call->n_schedules; i++) {
        const fr_schedule *s = &run->call->schedules[i];
        double *setting = s->setting == FR_SETTING_learning_rate
                              ? &run->optimizer.learning_rate
                              : setting_of(&run->net->layers[s->layer].spec, s->setting);
        *setting = s->values[run->steps_done];
    }
    /* An iteration is a batch, of which several may make an update. */
    const fr_optimizer *o = &run->optimizer;
    int64_t batches = o->accumulation > 1 ? o->accumulation : 1;
    int64_t iteration = run->call->iteration + run->steps_done, done = iteration / batches;
    run->update = fr_update_step_of(o, done);
    run->change = (fr_gradient_step){
        .is_last = (iteration + 1) % batches == 0,
        .share = 1 / (double)batches,
        .limit = o->clipvalue > 0 ? o->clipvalue : INFINITY,
    };
    run->ema_momentum = done == 0 ? 0 : o->ema_momentum; /* the mean of one is it */
    run->overwrites = o->averages && o->ema_overwrite > 0 && (done + 1) % o->ema_overwrite == 0;
    run->n_batch = smaller(run->call->batch_size, run->stop - run->row);
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
        run->phase = GRADIENTS;
        if (plan->changes && plan->n_updates > 0) return plan->n_updates;
        /* fall through */
    case GRADIENTS:
        if (plan->changes) set_scales(run);
        run->phase = UPDATES;
        if (plan->materialize && plan->n_updates > 0 && run->change.is_last) return plan->n_updates;
        /* fall through */
    case UPDATES:
        /* Pairs hold weights of two groups: not for the threads that have one each. */
        if (run->net->pairs && plan->groups) fr_transpose_all(run->net);
        run->phase = BOUNDS;
        if (plan->n_bounds > 0) return plan->n_bounds;
        /* fall through */
    case BOUNDS:
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
    else if (run->phase == BOUNDS)
        bound_block(run, &plan->bounds[i]);
    else
        block(run, &(run->phase == COLUMNS ? plan->tasks : plan->updates)[i],
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

/* What is brought back to its constraints after a step; counts alone where tasks is NULL. */
static ptrdiff_t plan_bounds(const fr_network *net, task *tasks)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->spec.kind != FR_LAYER_dense || !a->spec.trainable) continue;
        const fr_constraint *c = &a->spec.kernel_constraint;
        bool norms = c->kind == FR_CONSTRAINT_norm;
        ptrdiff_t n_i = a->spec.n_in, n_o = a->spec.n_out;
        if (norms && c->per_column)
            n_o = smaller(a->width, BOUND_MOST);
        else if (!norms || c->per_row)
            n_i = BOUND_MOST;
        for (ptrdiff_t o = 0; o < a->spec.n_out && c->kind != FR_CONSTRAINT_none; o += n_o)
            for (ptrdiff_t i = 0; i < a->spec.n_in; i += n_i, n++)
                if (tasks)
                    tasks[n] = (task){.layer = l,
                                      .i = i,
                                      .n_i = smaller(n_i, a->spec.n_in - i),
                                      .o = o,
                                      .n_o = smaller(n_o, a->spec.n_out - o)};
        if (a->bias < 0 || a->spec.bias_constraint.kind == FR_CONSTRAINT_none) continue;
        if (tasks) tasks[n] = (task){.layer = l};
        n++;
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
    plan->n_bounds = plan_bounds(net, NULL);
    plan->bounds = fr_arena_take(arena, plan->n_bounds, sizeof *plan->bounds);
    plan->updates = plan->tasks; /* where no groups ask for others */
    if (plan->groups) plan->updates = fr_arena_take(arena, plan->n_updates, sizeof *plan->updates);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        ptrdiff_t batch = fr_size_product(plan->n_batch, a->n_padded), n_i, n_o;
        a->y = fr_arena_take(arena, batch, net->size);
        a->d = fr_arena_take(arena, batch, net->size);
        bool keeps = a->spec.kind == FR_LAYER_dense && net->kernels->keeps_slope[a->spec.activation];
        a->slope = keeps ? fr_arena_take(arena, batch, net->size) : NULL;
        if (a->spec.kind == FR_LAYER_dropout) {
            a->factor = fr_arena_take(arena, batch, net->size);
            continue;
        }
        a->dbias = fr_arena_take(arena, fr_size_product(n_panels, a->n_padded), net->size);
        a->transposed = a->w_down = NULL;
        if (net->pairs && !(l == 0 && plan->compressed))
            fr_take_pairs(net, arena, a, plan->n_batch, l == 0);
        else if (net->native && l > 0)
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
    double flops = step_flops(net, n_batch);
    bool groups = any_groups(net);
    /* Whether a step needs whole gradients before it changes a weight. */
    bool changes = fr_changes_gradients(&call->optimizer);
    bool materialize = groups || changes || call->part != FR_WHOLE_STEPS;
    /* The tasks tell which layers are frozen, which may change between calls. */
    bool compressed = call->data.start && net->layers[0].spec.kind == FR_LAYER_dense;
    if (!plan->arena.base || plan->n_batch < n_batch || plan->n_threads < n_threads ||
        plan->n_tasks != plan_tasks(net, NULL, false) ||
        plan->n_updates != plan_tasks(net, NULL, true) || plan->groups != groups ||
        plan->n_bounds != plan_bounds(net, NULL) ||
        plan->compressed != compressed || (materialize && !plan->gradient)) {
        fr_arena_free(&plan->arena);
        *plan = (training_plan){.n_batch = n_batch,
                                .n_threads = n_threads,
                                .groups = groups,
                                .compressed = compressed,
                                .materialize = materialize,
                                .chosen_threads = fr_threads_for(flops, n_threads)};
        take_training(net, plan);
        if (plan->arena.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&plan->arena)) return FR_NO_MEMORY;
        take_training(net, plan);
        net->transposed_stale = true;
    }
    plan->n_rows = fr_rows_of_panel(net, n_batch, flops);
    plan->loss = call->loss;
    plan->materialize = materialize;
    plan->changes = changes;
    plan_bounds(net, plan->bounds);
    plan_tasks(net, plan->tasks, false);
    if (plan->groups) plan_tasks(net, plan->updates, true);
    if (net->transposed_stale) fr_transpose_all(net);
    return FR_OK;
}

bool fr_call_valid(const fr_training *call)
{
    /* The accuracy reads the target too: labels or numbers. */
    bool labels = call->accuracy == FR_ACCURACY_sparse_categorical;
    return call->start >= 0 && call->start <= call->stop && call->stop <= call->data.n_rows &&
           call->loss >= 0 && call->loss < FR_N_LOSSES && call->accuracy >= 0 &&
           call->accuracy < FR_N_ACCURACIES && call->data.x && call->data.y &&
           (!call->data.start || call->data.column) &&
           (call->accuracy == FR_ACCURACY_none || labels == takes_labels(call->loss));
}

/* The hand-off of small steps costs from 40 ns to more than what it saves, as the cores share a cache or do
 * not, which a virtual machine may change at any time: a trial of some steps each way says what to do for the
 * next ones. The weights have the same bits either way. */
enum { TRIAL_WARM_UP = 16, TRIAL_STEPS = 48, TRIAL_COUNTS_FOR = 4096 };

static bool wants_trial(double flops) { return FR_SHARED_FLOPS < flops && flops < 2e7; }

static void run_steps(training_run *run, int n_threads, ptrdiff_t n_steps)
{
    ptrdiff_t left = run->call->stop - run->row, batch = run->call->batch_size;
    run->stop = n_steps < left / batch ? run->row + n_steps * batch : run->call->stop;
    if (run->phase != COLUMNS) run->phase = BEFORE;
    fr_parallel(n_threads, next_training_phase, training_task, run);
}

static double trial(training_run *run, int n_threads)
{
    run_steps(run, n_threads, TRIAL_WARM_UP);
    double begin = fr_seconds();
    run_steps(run, n_threads, TRIAL_STEPS);
    return fr_seconds() - begin;
}

static void run_with_trials(training_run *run, int most_threads)
{
    training_plan *plan = run->plan;
    while (run->row < run->call->stop && !run->not_finite) {
        ptrdiff_t steps = pieces(run->call->stop - run->row, run->call->batch_size);
        if (plan->settled > 0) {
            ptrdiff_t n = smaller(steps, plan->settled);
            run_steps(run, plan->chosen_threads, n);
            plan->settled -= n;
        } else if (steps < 4 * (TRIAL_WARM_UP + TRIAL_STEPS)) {
            run_steps(run, plan->chosen_threads, steps);
        } else {
            double alone = trial(run, 1), together = trial(run, most_threads);
            plan->chosen_threads = alone < together ? 1 : most_threads;
            plan->settled = TRIAL_COUNTS_FOR;
        }
    }
}

static fr_status begin_slots(fr_network *net, const fr_optimizer *optimizer)
{
    fr_status status = fr_network_set_slots(net, fr_optimizer_slots(optimizer));
    double value = fr_initial_value_of_slots(optimizer);
    if (status == FR_OK && value != 0) net->kernels->fill(net->n_weights, value, net->slots.base);
    int average = fr_average_slot(optimizer);
    if (status == FR_OK && average >= 0)
        memcpy(slot_at(net, average, 0), net->weights.base, (size_t)(net->n_weights * net->size));
    return status;
}

fr_status fr_network_train(fr_network *net, const fr_training *call, double *ledger,
                           ptrdiff_t *steps_done)
{
    *steps_done = 0;
    const fr_optimizer *optimizer = &call->optimizer;
    if (!fr_call_valid(call) || call->batch_size < 1 || call->iteration < 0 ||
        !fr_optimizer_valid(optimizer) || call->part < 0 || call->part >= FR_N_PARTS ||
        (call->part != FR_WHOLE_STEPS && call->stop - call->start > call->batch_size) ||
        !schedules_valid(net, call))
        return FR_BAD_ARGUMENT;
    if (!fr_blas_ready()) return FR_NO_BLAS;
    if (call->start == call->stop) return FR_OK;

    int n_threads = call->n_threads < 1 ? 1 : (int)smaller(call->n_threads, FR_MAX_THREADS);
    double flops = step_flops(net, smaller(call->batch_size, call->data.n_rows));
    bool tries = n_threads > 1 && wants_trial(flops);
    if (!tries) n_threads = fr_threads_for(flops, n_threads);
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
        .optimizer = call->optimizer,
        .row = call->start,
    };
    if (call->part == FR_FROM_GRADIENTS) {
        run.phase = COLUMNS;
        run.stop = call->stop;
        begin_step(&run);
    }
    net->training.has_gradients = call->part == FR_FROM_GRADIENTS;
    net->nonzeros_stale = true;
    if (tries)
        run_with_trials(&run, n_threads);
    else
        run_steps(&run, n_threads, PTRDIFF_MAX);
    *steps_done = run.steps_done;
    if (run.not_finite && new_slots && run.steps_done == 0) fr_network_set_slots(net, 0);
    return run.not_finite ? FR_NOT_FINITE : FR_OK;
}
