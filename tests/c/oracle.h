/* The formulas once more, a row or an element at a time in long double: what the kernels and
 * networks are compared with. Nothing here is shared with src_c but the ids. */
#ifndef ORACLE_H
#define ORACLE_H

#include "fastreg.h"

#include <stdbool.h>

typedef long double wide;

/* y = f(z) of a row, and dz = dL/dz from y and dL/dy, or from z where f' does not follow from y
 * (oracle_wants_z). */
void oracle_activation(int activation, fr_curve c, ptrdiff_t n, const wide *z, wide *y);
bool oracle_wants_z(int activation);
void oracle_activation_gradient(int activation, fr_curve c, ptrdiff_t n, const wide *y,
                                const wide *dy, wide *dz);

/* l1 sign(w) + 2 l2 w */
wide oracle_penalty_gradient(fr_regularizer r, wide w);
wide oracle_kl(fr_kl penalty, wide mean, wide *slope);
wide oracle_penalty(fr_regularizer r, wide w);

/* A row's loss by the output y, with probabilities clipped to bounds of that dtype, and its
 * gradient by y. Where the loss takes labels, the target is the label's unit vector. */
wide oracle_loss(int loss, const fr_loss_settings *s, fr_dtype dtype, ptrdiff_t n, const wide *y,
                 const wide *target, wide *dy);

/* The settings that a loss is tested with: its defaults for i = 0; false past the last. */
bool oracle_settings(int loss, int i, fr_loss_settings *s);

/* Whether the loss is taken from the last layer's z; that loss, its gradient by z, and f(z). */
bool oracle_fuses(int loss, int activation);
wide oracle_fused_loss(int loss, const fr_loss_settings *s, ptrdiff_t n, const wide *z,
                       const wide *target, wide *y, wide *dz);

/* The targets (n) as label_smoothing leaves them. */
void oracle_smooth(int loss, const fr_loss_settings *s, ptrdiff_t n, const wide *target, wide *t);

double oracle_correct(int accuracy, ptrdiff_t n, const wide *y, const wide *target);

/* Philox4x32-10: one block of four words. */
void oracle_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* An element's y = x factor + offset in a layer of noise, both rounded to that dtype. */
bool oracle_is_noise(int kind);
void oracle_noise(const fr_layer *s, fr_dtype dtype, uint64_t seed, ptrdiff_t column, ptrdiff_t row,
                  uint32_t layer, uint32_t iteration, wide *factor, wide *offset);

/* Of the penalties, what goes into the gradient: all, or without L1 where that has a step of its own. */
wide oracle_smooth_gradient(const fr_optimizer *o, fr_regularizer r, wide w);

/* One element's optimizer step. Slots: those that the optimizer has (oracle_slots), then the two of the
 * cumulative L1 step. */
int oracle_slots(const fr_optimizer *o);
void oracle_begin(const fr_optimizer *o, wide *slots);
void oracle_update(const fr_optimizer *o, int64_t iteration, wide g, wide l1, wide *w, wide *slots);

#endif
