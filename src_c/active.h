/* The active set of a layer whose units are mostly at rest: the outputs of a batch that are not 0, listed by
 * rows. The products of the layer and of the one that reads it then take these terms alone. */
#ifndef FR_ACTIVE_H
#define FR_ACTIVE_H

#include "training.h"

/* Sets each layer's `most` for this call; returns whether its lists fit those that were taken. */
bool fr_plan_active(fr_network *net);
void fr_take_active(const fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch,
                    ptrdiff_t n_panels);

/* Where the outputs of layer l that are not 0 are listed: its own list or, where it scales what it reads, that of
 * the layer below; NULL where they never are. */
static inline const active_set *list_of(const fr_network *net, ptrdiff_t l)
{
    return l < 0 || net->layers[l].active.of < 0 ? NULL : &net->layers[net->layers[l].active.of].active;
}

/* Whether the row panel that begins at `first` has the outputs of layer l listed. */
static inline bool is_listed(const training_run *run, ptrdiff_t l, ptrdiff_t first)
{
    const active_set *s = list_of(run->net, l);
    return s && s->listed[first / run->plan->n_rows];
}

/* Rows `first`.. of the batch with `value`, which is one of the list's arrays. */
static inline fr_sparse_rows active_rows(const training_run *run, ptrdiff_t l, ptrdiff_t first,
                                         const void *value)
{
    const active_set *s = list_of(run->net, l);
    return (fr_sparse_rows){run->plan->order + first, s->start, s->column, value};
}

/* Lists a row panel's outputs of layer l, if they are few. */
void fr_list_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
/* What the reader takes of a listed layer that layer l scales, and the factors; its gradient from that of l. */
void fr_scale_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
void fr_scale_active_gradient(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
/* The gradient of layer l's listed outputs from dz of the layer that reads them: dz W'. */
void fr_active_from_product(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows);
/* dz of a listed layer from the gradient of its outputs, its dbias, and dx of a dense layer below. */
void fr_backward_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                        const fr_backward_tile *tile);
/* The gradient, dense, of what a listed layer without a kernel reads. */
void fr_backward_active_alone(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                              fr_regularizer activity);
/* Between the phases: where not all of a batch's rows are listed, dz stands dense. */
void fr_settle_active(const training_run *run);

#endif
