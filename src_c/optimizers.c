/* What an optimizer is beside its update kernels: its slots, and one step's constants. */
#include "optimizers.h"

#include <math.h>
#include <stddef.h>

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
    if (!(o->clipvalue >= 0 && o->clipnorm >= 0 && o->global_clipnorm >= 0) || o->accumulation < 0 ||
        o->ema_overwrite < 0 || (o->averages && !(o->ema_momentum >= 0 && o->ema_momentum <= 1)))
        return false;
    return o->l1_step == FR_L1_STEP_sign || has_threshold(o);
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

static int update_slots(const fr_optimizer *o)
{
    return own_slots(o) + (o->l1_step == FR_L1_STEP_cumulative ? 2 : 0);
}

int fr_optimizer_slots(const fr_optimizer *o)
{
    return update_slots(o) + (o->accumulation > 1) + (o->averages != 0);
}

int fr_sum_slot(const fr_optimizer *o) { return o->accumulation > 1 ? update_slots(o) : -1; }

int fr_average_slot(const fr_optimizer *o) { return o->averages ? fr_optimizer_slots(o) - 1 : -1; }

bool fr_changes_gradients(const fr_optimizer *o)
{
    return o->accumulation > 1 || o->clipvalue > 0 || o->clipnorm > 0 || o->global_clipnorm > 0;
}

void fr_place_slots(const fr_optimizer *optimizer, void *const *slots, void *placed[FR_UPDATE_SLOTS])
{
    int own = own_slots(optimizer), all = update_slots(optimizer);
    for (int i = 0; i < FR_OWN_SLOTS; i++) placed[i] = i < own ? slots[i] : NULL;
    for (int i = 0; i < FR_UPDATE_SLOTS - FR_OWN_SLOTS; i++)
        placed[FR_OWN_SLOTS + i] = own + i < all ? slots[own + i] : NULL;
}

double fr_initial_value_of_slots(const fr_optimizer *o)
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
