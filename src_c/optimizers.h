#ifndef FR_OPTIMIZERS_H
#define FR_OPTIMIZERS_H

#include "fastreg.h"
#include "kernels.h"
#include <stdbool.h>

bool fr_optimizer_valid(const fr_optimizer *optimizer);

/* Which slot is the sum of gradients, or the mean of the weights; -1 for none. */
int fr_sum_slot(const fr_optimizer *optimizer);
int fr_average_slot(const fr_optimizer *optimizer);

/* Whether something is done to the gradients as a whole before the update. */
bool fr_changes_gradients(const fr_optimizer *optimizer);

/* What the first of its slots begins at. */
double fr_initial_value_of_slots(const fr_optimizer *optimizer);

/* One step's constants of an optimizer; iteration counts from 0. */
fr_update_step fr_update_step_of(const fr_optimizer *optimizer, int64_t iteration);

/* Where the update kernels want the slots of which `slots` has fr_optimizer_slots. */
void fr_place_slots(const fr_optimizer *optimizer, void *const *slots, void *placed[FR_UPDATE_SLOTS]);

#endif
