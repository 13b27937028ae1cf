/* The training plan: a batch cut into panels of rows, kernels into blocks, and the arena that holds all that
 * a step reads and writes.
 *
 * Panels and blocks depend on the plan alone; threads share them out, each writes what no other does, and
 * partial sums are added in the order of panels and blocks. So the weights do not depend on the number of
 * threads.
 */
#include "training.h"

#include "active.h"
#include "bfloat16.h"
#include "optimizers.h"

#include <limits.h>

/* Rows and columns of a kernel's blocks, in whole panels: of a size that leaves enough blocks to share
 * out, near to square for the native products (x and dz are read once a block), all columns for BLAS. */
static void block_shape(const fr_network *net, const layer *a, ptrdiff_t *n_i, ptrdiff_t *n_o)
{
    ptrdiff_t most = 1024 * 1024 / net->size, share = larger(8192 / net->size, net->n_weights / 16);
    ptrdiff_t elements = smaller(share, most), width = a->width;
    if (a->turned) {
        *n_i = kernel_rows(a);
        *n_o = padded(smaller(kernel_columns(a), larger(width, elements / width)), width);
        return;
    }
    ptrdiff_t columns = smaller(512, elements / width) / width * width;
    *n_o = net->native ? smaller(a->n_padded, larger(width, columns)) : a->n_padded;
    ptrdiff_t rows = net->native ? width : 16;
    *n_i = padded(smaller(a->spec.n_in, larger(rows, elements / *n_o)), rows);
}

ptrdiff_t fr_update_rows(const fr_network *net, const layer *a, ptrdiff_t n_i)
{
    return net->native ? smaller(n_i, larger(a->width, 64)) : n_i;
}

void fr_take_terms(const fr_network *net, fr_arena *arena, ptrdiff_t n_batch, terms *t)
{
    ptrdiff_t most = fr_size_product(n_batch, TERM_ROWS);
    t->cursor = fr_arena_take(arena, n_batch, sizeof *t->cursor);
    t->start = fr_arena_take(arena, TERM_ROWS + 2, sizeof *t->start);
    t->row = fr_arena_take(arena, most, sizeof *t->row);
    t->value = fr_arena_take(arena, most, net->size);
    t->tile = fr_arena_take(arena, net->kernels->panel * net->kernels->panel, net->size);
}

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
        if (!a->spec.trainable || (a->kernel < 0 && a->bias < 0)) continue;
        if (a->spec.kind != FR_LAYER_dense) {
            if (tasks) tasks[n] = (task){.layer = l, .n_o = a->n_padded};
            n++;
            continue;
        }
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
        ptrdiff_t rows = kernel_rows(a), columns = kernel_columns(a);
        for (ptrdiff_t o = 0; o < columns; o += n_o)
            for (ptrdiff_t i = 0; i < rows; i += n_i, n++)
                if (tasks)
                    tasks[n] = (task){.layer = l,
                                      .i = i,
                                      .n_i = smaller(n_i, rows - i),
                                      .o = o,
                                      .n_o = smaller(n_o, padded(columns, a->width) - o)};
    }
    return n;
}

/* What is brought back to its constraints after a step; counts alone where tasks is NULL. */
static ptrdiff_t vector_bound(const fr_constraint *c, ptrdiff_t offset, ptrdiff_t l, int part, task *at)
{
    if (offset < 0 || c->kind == FR_CONSTRAINT_none) return 0;
    if (at) *at = (task){.layer = l, .part = part};
    return 1;
}

static ptrdiff_t plan_bounds(const fr_network *net, task *tasks)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (!a->spec.trainable) continue;
        const fr_constraint *c = &a->spec.kernel_constraint;
        n += vector_bound(&a->spec.bias_constraint, a->bias, l, FR_BIAS, tasks ? tasks + n : NULL);
        if (a->spec.kind != FR_LAYER_dense) {
            n += vector_bound(c, a->kernel, l, FR_KERNEL, tasks ? tasks + n : NULL);
            continue;
        }
        bool norms = c->kind == FR_CONSTRAINT_norm;
        ptrdiff_t n_i = a->spec.n_in, n_o = a->spec.n_out;
        if (norms && c->per_column)
            n_o = smaller(a->width, FR_BOUND_NORMS);
        else if (!norms || c->per_row)
            n_i = FR_BOUND_NORMS;
        for (ptrdiff_t o = 0; o < a->spec.n_out && c->kind != FR_CONSTRAINT_none; o += n_o)
            for (ptrdiff_t i = 0; i < a->spec.n_in; i += n_i, n++)
                if (tasks)
                    tasks[n] = (task){.layer = l,
                                      .i = i,
                                      .n_i = smaller(n_i, a->spec.n_in - i),
                                      .o = o,
                                      .n_o = smaller(n_o, a->spec.n_out - o)};
    }
    return n;
}

/* Frozen, the moments are the moving ones. */
static void plan_splits(const fr_network *net, training_plan *plan)
{
    plan->n_splits = plan->n_back = plan->turns = 0;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        if (has_rates(&net->layers[l].spec)) plan->turns = 1;
        if (!uses_batch(&net->layers[l].spec)) continue;
        plan->splits[plan->n_splits++] = l;
        plan->n_back += l > net->first_trainable;
    }
    if (!plan->turns) plan->rate_penalty = 0;
}

/* Whether what penalties of activities need has its place; takes note of what does. */
static bool plan_penalties(fr_network *net, const fr_training *call)
{
    bool fits = true;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) net->layers[l].is_given = false;
    for (ptrdiff_t i = 0; i < call->n_watches; i++) net->layers[call->watches[i].layer].is_given = true;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        fits = fits && (a->rates || !has_rates(&a->spec)) && (a->given || !a->is_given);
    }
    return fits;
}

static void take_training(fr_network *net, training_plan *plan)
{
    fr_arena *arena = &plan->arena;
    const layer *last = &net->layers[net->n_layers - 1];
    ptrdiff_t n_panels = most_panels(plan->n_batch), scratch = 0;
    bool lists = plan->compressed; /* the terms of a block */
    plan->n_tasks = plan_tasks(net, NULL, false);
    plan->n_updates = plan_tasks(net, NULL, true);
    if (!plan->compressed)
        plan->x = fr_arena_take(
            arena, fr_size_product(fr_size_product(plan->n_batch, net->times), padded(net->n_in, net->width_x)),
            net->size);
    plan->target = fr_arena_take(arena, fr_size_product(plan->n_batch, net->n_out),
                                 larger(net->size, (ptrdiff_t)sizeof(int32_t)));
    plan->weight = fr_arena_take(arena, plan->n_batch, net->size);
    plan->own_d = fr_arena_take(arena, fr_size_product(plan->n_batch, last->n_padded), net->size);
    plan->panels = fr_arena_take(arena, n_panels, sizeof *plan->panels);
    plan->tasks = fr_arena_take(arena, plan->n_tasks, sizeof *plan->tasks);
    plan->n_bounds = plan_bounds(net, NULL);
    plan->bounds = fr_arena_take(arena, plan->n_bounds, sizeof *plan->bounds);
    plan->splits = fr_arena_take(arena, net->n_layers, sizeof *plan->splits);
    plan->updates = plan->tasks; /* where no groups ask for others */
    if (plan->groups) plan->updates = fr_arena_take(arena, plan->n_updates, sizeof *plan->updates);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        ptrdiff_t n_batch = fr_size_product(plan->n_batch, a->times);
        ptrdiff_t batch = fr_size_product(n_batch, a->n_padded), n_i, n_o;
        a->y = fr_arena_take(arena, batch, net->size);
        a->d = fr_arena_take(arena, batch, net->size);
        const layer_kind *kind = &fr_layer_kinds[a->spec.kind];
        if (kind->take) kind->take(net, arena, a, n_batch);
        lists = lists || a->active.most > 0;
        if (a->spec.kind != FR_LAYER_dense) {
            scratch = larger(scratch, a->n_padded);
            continue;
        }
        a->dbias = fr_arena_take(arena, fr_size_product(n_panels, a->n_padded), net->size);
        a->transposed = a->w_down = NULL;
        if (net->pairs && !(l == 0 && plan->compressed))
            fr_take_pairs(net, arena, a, n_batch, l == 0);
        else if (net->native && l > 0 && !a->turned)
            a->transposed = fr_arena_take(
                arena, fr_size_product(padded(a->spec.n_in, a->width), a->spec.n_out), net->size);
        block_shape(net, a, &n_i, &n_o);
        scratch = larger(scratch, larger(n_o, fr_update_rows(net, a, n_i) * a->width));
    }
    if (plan->materialize)
        plan->gradient = fr_arena_take(arena, net->n_weights, net->size);
    if (plan->groups) plan->d = fr_arena_take(arena, net->n_weights, net->size);
    plan->scratch_size = plan->terms_at = round_up(scratch * net->size + 1, FR_ALIGNMENT);
    plan->order = lists ? fr_arena_take(arena, plan->n_batch, sizeof *plan->order) : NULL;
    if (lists) {
        fr_arena sizes = {.used = plan->terms_at};
        fr_take_terms(net, &sizes, plan->n_batch, &(terms){0});
        plan->scratch_size = sizes.overflow ? -1 : sizes.used;
    }
    plan->scratch = fr_arena_take(arena, plan->n_threads, plan->scratch_size);
    /* Last: where all units are taken, the rest stands as it would without lists. */
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        fr_take_active(net, arena, &net->layers[l], plan->n_batch, n_panels);
}

double fr_step_flops(const fr_network *net, ptrdiff_t n_batch)
{
    return 3 * net->flops * (double)n_batch;
}

static bool any_groups(const fr_network *net)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++)
        if (net->layers[l].spec.trainable && net->layers[l].groups.groups.n_groups > 0) return true;
    return false;
}

fr_status fr_plan_training(fr_network *net, const fr_training *call, int n_threads)
{
    training_plan *plan = &net->training;
    ptrdiff_t n_batch = smaller(call->batch_size, call->data.n_rows);
    if (n_batch > INT_MAX / 2) return FR_TOO_LARGE;
    double flops = fr_step_flops(net, n_batch);
    bool groups = any_groups(net);
    /* Whether a step needs whole gradients before it changes a weight. */
    bool changes = fr_changes_gradients(&call->optimizer);
    bool materialize = groups || changes || call->part != FR_WHOLE_STEPS;
    /* The tasks tell which layers are frozen, which may change between calls. */
    bool compressed = call->data.start && net->layers[0].spec.kind == FR_LAYER_dense;
    bool fits = plan_penalties(net, call); /* before: it says which are listed */
    fits = fr_plan_active(net) && fits;
    if (!plan->arena.base || plan->n_batch < n_batch || plan->n_threads < n_threads ||
        plan->n_tasks != plan_tasks(net, NULL, false) ||
        plan->n_updates != plan_tasks(net, NULL, true) || plan->groups != groups ||
        plan->n_bounds != plan_bounds(net, NULL) ||
        plan->compressed != compressed || !fits || (materialize && !plan->gradient)) {
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
    for (ptrdiff_t r = 0; r < n_batch && plan->order; r++) plan->order[r] = r + r / plan->n_rows;
    plan->materialize = materialize;
    plan->changes = changes;
    plan_bounds(net, plan->bounds);
    plan_tasks(net, plan->tasks, false);
    if (plan->groups) plan_tasks(net, plan->updates, true);
    plan_splits(net, plan);
    if (net->transposed_stale) fr_transpose_all(net);
    return FR_OK;
}
