/* Group penalties on a kernel in column panels: what is worked out for whole groups at a time.
 *
 * A group has rows of the kernel, or it is a column. Rows stand in the order of the groups: a *position* is
 * a place in that order, or a column; the rows in no group come last.
 */
#ifndef FR_GROUPS_H
#define FR_GROUPS_H

#include "kernels.h"
#include <stdbool.h>

typedef struct {
    fr_groups groups; /* its arrays are our own */
    ptrdiff_t n_in, n_out, width, size;
    const fr_kernels *kernels;
    double *number, *squares; /* by group; by position */
    void *shared;             /* real, by position: the number of its group */
} fr_group_plan;

/* Positions first..stop: all of groups group..group + n_groups, or of the rows in none. */
typedef struct {
    ptrdiff_t first, stop, group, n_groups;
} fr_group_range;

/* One panel's part of consecutive rows: `element` of the kernel, the first of its positions. */
typedef struct {
    ptrdiff_t row, column, element, rows, n, at;
} fr_piece;
typedef void fr_piece_work(void *context, const fr_group_plan *p, const fr_piece *piece);

/* A plan with copies of the groups; an all-zero one where there are none. */
fr_status fr_groups_plan(fr_group_plan *p, fr_dtype dtype, const fr_groups *groups, ptrdiff_t n_in,
                         ptrdiff_t n_out, ptrdiff_t width);
void fr_groups_free(fr_group_plan *p);
fr_group_range fr_groups_all(const fr_group_plan *p);

/* number = the norms of the groups of w; returns the penalty, sum of weight times norm. */
double fr_groups_norms(fr_group_plan *p, fr_group_range r, const void *w);
/* dw += weight w / norm, 0 where the norm is, after fr_groups_norms. */
void fr_groups_add_gradient(fr_group_plan *p, fr_group_range r, const void *w, void *dw);
/* number = the largest x of each group. */
void fr_groups_largest(fr_group_plan *p, fr_group_range r, const void *x);
/* w += x / number */
void fr_groups_move(fr_group_plan *p, fr_group_range r, const void *x, void *w);
/* number = shrink / number: the steps of fr_groups_prox for preconditioners d, which are bounded below: a
 * group whose v is still near 0 would be wiped out. At a minimum d is at least ten times the bound. */
void fr_groups_steps(fr_group_plan *p, fr_group_range r, double shrink, double l1);
/* w = the prox of step (l1 sum |w| + sum of weight times norm), with a step of its own, number, a group:
 * elementwise, then by group (Simon, Friedman, Hastie & Tibshirani 2013). */
void fr_groups_prox(fr_group_plan *p, fr_group_range r, double l1, void *w);
/* w = S(w, t), in rows of no group too */
void fr_groups_soften(fr_group_plan *p, fr_group_range r, double t, void *w);
void fr_groups_each(const fr_group_plan *p, fr_group_range r, fr_piece_work *work, void *context);

#endif
