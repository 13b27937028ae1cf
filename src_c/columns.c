/* The phases of columns and of the update: the gradients of a block of a kernel, and the regularized update that
 * consumes them.
 */
#include "training.h"

#include "active.h"
#include "optimizers.h"

#include <math.h>
#include <string.h>

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

/* The terms of rows' from column `first` on. */
static terms terms_from(const training_run *run, fr_sparse_rows rows, ptrdiff_t first, void *scratch)
{
    terms t = {.rows = rows};
    fr_arena arena = {.base = (char *)scratch + run->plan->terms_at};
    fr_take_terms(run->net, &arena, run->plan->n_batch, &t);
    t.turned = (fr_sparse_rows){.start = t.start, .column = t.row, .value = t.value};
    run->kernels->seek(run->n_batch, &t.rows, first, t.cursor);
    return t;
}

/* Of `n` columns from `first` on, which follow those before. */
static void turn(const training_run *run, terms *t, ptrdiff_t first, ptrdiff_t n)
{
    run->kernels->turn(run->n_batch, &t->rows, first, n, t->cursor, t->start, t->row, t->value);
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

/* Where a block's dw = x'dz comes from. */
typedef struct {
    const layer *a;
    enum { DENSE, TERMS_OF_X, TERMS_OF_DZ } kind;
    matrix x, dz;
    terms listed;
} block_source;

/* Fetches what the update reads; a product of dense matrices does it on its way. */
static void fetch(const fr_ahead *ahead, ptrdiff_t bytes)
{
    for (int k = 0; k < ahead->n; k++)
        for (ptrdiff_t byte = 0; byte < bytes; byte += 64) FR_FETCH(ahead->at[k] + byte);
}

/* dw = x'dz for some of a block's rows and a panel of its columns. */
static void gradient_block(const training_run *run, const block_source *s, ptrdiff_t i, ptrdiff_t n_i,
                           ptrdiff_t o, void *dw, const fr_ahead *ahead)
{
    const fr_network *net = run->net;
    const layer *a = s->a;
    if (s->kind == TERMS_OF_X) {
        fetch(ahead, n_i * a->width * net->size);
        fr_multiply_sparse(net, n_i, a->width, &s->listed.turned, column(net, s->dz, o), s->dz.width, dw,
                           a->width);
        return;
    }
    /* The native products take one panel of x at a time; an update has a price of its own. */
    ptrdiff_t strip = net->native ? a->width : n_i;
    for (ptrdiff_t k = 0; k < n_i; k += strip) {
        ptrdiff_t rows = smaller(strip, n_i - k), units = smaller(a->width, a->spec.n_out - o);
        void *here = fr_at(dw, k * a->width, net->size);
        fr_ahead next = *ahead;
        for (int array = 0; array < next.n; array++) next.at[array] += k * a->width * net->size;
        next.bytes = rows * a->width * net->size;
        if (s->kind == DENSE) {
            fr_multiply_kernel(net, a, run->n_batch * a->times, s->x, i + k, rows, s->dz, o, here, &next);
            continue;
        }
        fetch(&next, next.bytes);
        run->kernels->sparse_product(units, rows, &s->listed.turned, column(net, s->x, i + k), s->x.width,
                                     s->listed.tile, a->width);
        run->kernels->transpose(units, rows, s->listed.tile, here);
    }
}

/* A panel of columns of some of the block's rows. */
static void kernel_piece(const training_run *run, task *t, const block_source *s, ptrdiff_t i, ptrdiff_t n_i,
                         ptrdiff_t o, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = s->a;
    ptrdiff_t element = a->kernel + o * kernel_rows(a) + i * a->width;
    void *dw = run->plan->materialize ? gradient_at(net, element) : scratch;
    fr_ahead ahead = {0};
    if (updates(run)) ahead = read_by_update(run, element);
    if (takes_gradients(run)) gradient_block(run, s, i, n_i, o, dw, &ahead);
    if (!updates(run) && run->phase != GRADIENTS) return;
    /* Padding is never updated: it stays 0 even where 0 / 0 or inf * 0 would come of it. */
    ptrdiff_t n_o = smaller(a->width, kernel_columns(a) - o);
    bool by_rows = n_o < a->width;
    ptrdiff_t rows = by_rows ? n_i : 1, n = by_rows ? n_o : n_i * a->width;
    if (run->phase == GRADIENTS)
        change(run, of_kernel(a), element, rows, n, a->width, &t->kernel, &t->kernel_square);
    else
        update(run, of_kernel(a), element, rows, n, a->width, dw, &t->kernel);
    if (updates(run) || run->overwrites) fr_transpose_rows(net, a, i, n_i, o);
}

static block_source source_of(const training_run *run, const task *t, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    bool compressed = t->layer == 0 && run->plan->compressed;
    block_source s = {.a = a, .dz = rows_of(run, t->layer, a->d, 0)};
    if (!compressed) s.x = input_of(run, t->layer, 0);
    if (paired(run, t->layer)) s.x = a->x_pairs.down, s.dz = a->d_pairs.down;
    if (a->turned) { /* dw' = dz'x */
        matrix swap = s.x;
        s.x = s.dz, s.dz = swap;
    }
    if (!takes_gradients(run)) return s;
    fr_sparse_rows x = {0};
    const active_set *below = list_of(net, t->layer - 1);
    if (compressed)
        x = nonzeros_of(&run->call->data, run->call->data.index, run->row);
    else if (a->active.whole)
        s.kind = TERMS_OF_DZ;
    else if (below && below->whole)
        x = active_rows(run, t->layer - 1, 0, below->read);
    if (x.start) s.kind = TERMS_OF_X;
    if (s.kind == TERMS_OF_X) s.listed = terms_from(run, x, t->i, scratch);
    if (s.kind == TERMS_OF_DZ)
        s.listed = terms_from(run, active_rows(run, t->layer, 0, a->active.d), t->o, scratch);
    return s;
}

static void kernel_block(const training_run *run, task *t, void *scratch)
{
    block_source s = source_of(run, t, scratch);
    ptrdiff_t width = s.a->width, group = fr_update_rows(run->net, s.a, t->n_i);
    ptrdiff_t stop_i = t->i + t->n_i, stop_o = t->o + t->n_o;
    if (s.kind == TERMS_OF_DZ) {
        for (ptrdiff_t o = t->o; o < stop_o; o += width) {
            turn(run, &s.listed, o, smaller(width, s.a->spec.n_out - o));
            for (ptrdiff_t i = t->i; i < stop_i; i += group)
                kernel_piece(run, t, &s, i, smaller(group, stop_i - i), o, scratch);
        }
        return;
    }
    if (s.kind == TERMS_OF_X) group = smaller(t->n_i, TERM_ROWS);
    for (ptrdiff_t i = t->i; i < stop_i; i += group) {
        ptrdiff_t n_i = smaller(group, stop_i - i);
        if (s.kind == TERMS_OF_X) turn(run, &s.listed, i, n_i);
        for (ptrdiff_t o = t->o; o < stop_o; o += width) kernel_piece(run, t, &s, i, n_i, o, scratch);
    }
}

/* A bias or beta, or gamma: its gradient is the sum over panels of rows. */
static void vector_block(const training_run *run, task *t, int part, void *scratch)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[t->layer];
    bool is_bias = part == FR_BIAS;
    ptrdiff_t o = a->turned ? 0 : t->o, n_o = a->turned ? a->n_padded : t->n_o;
    ptrdiff_t element = (is_bias ? a->bias : a->kernel) + o;
    const void *panels = is_bias ? a->dbias : a->dgamma;
    array_step array = is_bias ? of_bias(a) : of_kernel(a);
    fr_sums *sums = is_bias ? &t->bias : &t->kernel;
    void *dw = run->plan->materialize ? gradient_at(net, element) : scratch;
    if (takes_gradients(run)) {
        memset(dw, 0, (size_t)(n_o * net->size));
        for (ptrdiff_t p = 0; p < run->n_panels; p++)
            run->kernels->add(n_o, fr_at(panels, p * a->n_padded + o, net->size), dw);
    }
    ptrdiff_t n = smaller(n_o, a->spec.n_out - o);
    if (run->phase == GRADIENTS)
        change(run, array, element, 1, n, n, sums, is_bias ? &t->bias_square : &t->kernel_square);
    else if (updates(run))
        update(run, array, element, 1, n, n, dw, sums);
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

void fr_update_block(training_run *run, task *t, void *scratch)
{
    if (run->phase != UPDATES || !run->plan->changes) {
        t->kernel = t->bias = (fr_sums){0, 0};
        t->group_penalty = t->kernel_square = t->bias_square = 0;
    }
    const layer *a = &run->net->layers[t->layer];
    if (run->phase >= GRADIENTS && a->groups.groups.n_groups > 0)
        group_block(run, t);
    else if (a->spec.kind == FR_LAYER_dense)
        kernel_block(run, t, scratch);
    else if (a->kernel >= 0)
        vector_block(run, t, FR_KERNEL, scratch);
    bool begins_units = a->turned ? t->o == 0 : t->i == 0;
    if (begins_units && a->bias >= 0) vector_block(run, t, FR_BIAS, scratch);
}

void fr_set_gradient_scales(const training_run *run)
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
