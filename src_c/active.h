/* The active set of a layer whose units are mostly at rest: the outputs of a batch that are not 0, listed by
 * rows. The products of the layer and of the one that reads it then take these terms alone. */
#ifndef FR_ACTIVE_H
#define FR_ACTIVE_H

#include "training.h"

/* Sets each layer's `most` for this call; returns whether its lists fit those that were taken. */
bool fr_plan_active(fr_network *net);
void fr_take_active(const fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch,
                    ptrdiff_t n_panels);

/* Whether the row panel that begins at `first` has the outputs of layer l listed. */
static inline bool is_listed(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    if (l < 0) return false;
    const active_set *s = &run->net->layers[l].active;
    return s->most > 0 && s->listed[first / run->plan->n_rows];
}

/* Rows `first`.. of the batch with `value`, which is one of the set's arrays. */
static inline fr_sparse_rows active_rows(const training_run *run, ptrdiff_t l, ptrdiff_t first,
                                         const void *value)
{
    const active_set *s = &run->net->layers[l].active;
    return (fr_sparse_rows){run->plan->order + first, s->start, s->column, value};
}

/* Lists a row panel's outputs of layer l, if they are few. */
void fr_list_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
/* The gradient of layer l's listed outputs from dz of the layer that reads them: dz W'. */
void fr_active_from_product(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
/* dz of a listed layer from the gradient of its outputs, its dbias, and dx of a dense layer below. */
void fr_backward_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                        const fr_backward_tile *tile);
/* Between the phases: where not all of a batch's rows are listed, dz stands dense. */
void fr_settle_active(const training_run *run);

#endif
