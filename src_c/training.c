/* Training: plan -> forward -> loss -> backward -> update.
 *
 * A step has two phases, or three; each ends when all of its tasks are done.
 *
 *   rows      the batch is cut into panels of rows. A panel is gathered, goes forward through all layers
 *             and the loss, and backward down to the first trainable layer, without leaving the cache.
 *             Batch normalization needs moments and sums over the whole batch: there the phase is cut, and the
 *             panels go on after what they took has been put together.
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
#include "training.h"

#include "active.h"
#include "base/threads.h"
#include "blas.h"
#include "optimizers.h"

#include <math.h>
#include <string.h>

static panel_sums sum_panels(const training_run *run)
{
    panel_sums sums = {0, 0, run->plan->rate_penalty};
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

bool fr_watches_valid(const fr_network *net, const fr_training *call)
{
    for (ptrdiff_t i = 0; i < call->n_watches; i++) {
        const fr_watch *w = &call->watches[i];
        if (w->layer < 0 || w->layer >= net->n_layers || !w->y ||
            !fr_layer_kinds[net->layers[w->layer].spec.kind].has_activation ||
            (call->part == FR_OUTPUTS_TO_GRADIENTS && !w->dy))
            return false;
    }
    return true;
}

/* NULL where the layer has no such setting. */
static double *setting_of(fr_layer *layer, int setting)
{
    const layer_kind *kind = &fr_layer_kinds[layer->kind];
    return kind->setting ? kind->setting(layer, setting) : NULL;
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
    run->stage = run->call->part == FR_OUTPUTS_TO_GRADIENTS ? run->plan->n_splits + run->plan->turns : 0;
    return run->n_panels;
}

/* Ends the phase before and opens the next: rows, columns, (update,) rows, ... until no row is left. */
static ptrdiff_t next_training_phase(void *context)
{
    training_run *run = context;
    training_plan *plan = run->plan;
    switch (run->phase) {
    case ROWS: {
        if (stops_at_outputs(run) && run->stage == plan->n_splits) {
            if (plan->turns) fr_join_rates(run);
            panel_sums so_far = sum_panels(run);
            run->not_finite = !isfinite(so_far.loss + so_far.activity);
            plan->has_outputs = !run->not_finite;
            plan->has_loss = run->call->part == FR_TO_LOSS;
            return 0;
        }
        if (fr_rows_go_on(run)) return run->n_panels;
        panel_sums sums = sum_panels(run);
        run->not_finite = !isfinite(sums.loss + sums.activity);
        if (run->not_finite) return 0;
        fr_settle_active(run);
        run->phase = COLUMNS;
        if (plan->n_tasks > 0) return plan->n_tasks;
    } /* fall through */
    case COLUMNS:
        plan->has_gradients = run->call->part == FR_TO_GRADIENTS || run->call->part == FR_OUTPUTS_TO_GRADIENTS;
        if (plan->has_gradients) return 0;
        run->phase = GRADIENTS;
        if (plan->changes && plan->n_updates > 0) return plan->n_updates;
        /* fall through */
    case GRADIENTS:
        if (plan->changes) fr_set_gradient_scales(run);
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
        for (ptrdiff_t i = 0; i < plan->n_splits; i++) fr_move_moments(run, plan->splits[i]);
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
        fr_train_rows(run, i);
    else if (run->phase == BOUNDS)
        fr_bound_block(run, &plan->bounds[i]);
    else
        fr_update_block(run, &(run->phase == COLUMNS ? plan->tasks : plan->updates)[i],
                        plan->scratch + (ptrdiff_t)thread * plan->scratch_size);
}

bool fr_call_valid(const fr_training *call)
{
    /* The accuracy reads the target too: labels or numbers. */
    bool labels = call->accuracy == FR_ACCURACY_sparse_categorical;
    return call->start >= 0 && call->start <= call->stop && call->stop <= call->data.n_rows &&
           fr_loss_valid(call->loss, &call->loss_settings) && call->accuracy >= 0 &&
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

/* Whether what a part of a step goes on from is there. */
static bool goes_on(const fr_training *call, const training_plan *plan)
{
    switch (call->part) {
    case FR_FROM_GRADIENTS: return plan->has_gradients;
    case FR_TO_OUTPUTS: return call->outputs;
    case FR_OUTPUTS_TO_GRADIENTS: return plan->has_outputs && plan->has_loss == !call->dy;
    default: return true;
    }
}

fr_status fr_network_train(fr_network *net, const fr_training *call, double *ledger,
                           ptrdiff_t *steps_done)
{
    *steps_done = 0;
    const fr_optimizer *optimizer = &call->optimizer;
    if (!fr_call_valid(call) || !data_fits(net, &call->data) || call->batch_size < 1 || call->iteration < 0 ||
        !fr_optimizer_valid(optimizer) || call->part < 0 || call->part >= FR_N_PARTS ||
        (call->part != FR_WHOLE_STEPS && call->stop - call->start > call->batch_size) ||
        !schedules_valid(net, call) || !fr_watches_valid(net, call) ||
        (call->n_watches > 0 && call->part == FR_WHOLE_STEPS))
        return FR_BAD_ARGUMENT;
    if (!fr_blas_ready()) return FR_NO_BLAS;
    if (call->start == call->stop) return FR_OK;

    int n_threads = call->n_threads < 1 ? 1 : (int)smaller(call->n_threads, FR_MAX_THREADS);
    double flops = fr_step_flops(net, smaller(call->batch_size, call->data.n_rows));
    /* Half a step leaves the row where it is. */
    bool tries = n_threads > 1 && call->part == FR_WHOLE_STEPS && wants_trial(flops);
    if (!tries) n_threads = fr_threads_for(flops, n_threads);
    fr_status status = fr_plan_training(net, call, n_threads);
    if (status == FR_OK && !goes_on(call, &net->training)) return FR_BAD_ARGUMENT;
    bool updates = call->part == FR_WHOLE_STEPS || call->part == FR_FROM_GRADIENTS;
    bool new_slots =
        updates && net->n_slots != fr_optimizer_slots(optimizer);
    if (status == FR_OK && new_slots) status = begin_slots(net, optimizer);
    if (status != FR_OK) return status;

    training_run run = {
        .net = net,
        .plan = &net->training,
        .call = call,
        .kernels = net->kernels,
        .fused = fused_loss(net, call) != NULL,
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
    net->training.has_outputs = false;
    net->nonzeros_stale = true;
    if (tries)
        run_with_trials(&run, n_threads);
    else
        run_steps(&run, n_threads, PTRDIFF_MAX);
    *steps_done = run.steps_done;
    if (run.not_finite && new_slots && run.steps_done == 0) fr_network_set_slots(net, 0);
    return run.not_finite ? FR_NOT_FINITE : FR_OK;
}
