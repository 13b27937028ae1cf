#include "groups.h"

#include "base/arena.h"
#include "sizes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the plan ---- */

static ptrdiff_t positions(const fr_group_plan *p) { return p->groups.by_column ? p->n_out : p->n_in; }

/* Copies the groups in; false where a row is in two groups, in none or not there. */
static bool copy_groups(fr_group_plan *p, const fr_groups *from, ptrdiff_t *start, ptrdiff_t *rows)
{
    ptrdiff_t n = from->n_groups;
    for (ptrdiff_t g = 0; g < n; g++)
        if (!(from->weight[g] >= 0) || !isfinite(from->weight[g])) return false;
    if (from->by_column) return n == p->n_out;
    if (from->start[0] != 0 || from->start[n] > p->n_in) return false;
    for (ptrdiff_t g = 0; g < n; g++)
        if (from->start[g] >= from->start[g + 1]) return false;
    for (ptrdiff_t i = 0; i < p->n_in; i++) {
        ptrdiff_t row = from->rows[i];
        if (row < 0 || row >= p->n_in || p->squares[row] != 0) return false;
        p->squares[row] = 1;
    }
    memcpy(start, from->start, (size_t)(n + 1) * sizeof *start);
    memcpy(rows, from->rows, (size_t)p->n_in * sizeof *rows);
    return true;
}

fr_status fr_groups_plan(fr_group_plan *p, fr_dtype dtype, const fr_groups *groups, ptrdiff_t n_in,
                         ptrdiff_t n_out, ptrdiff_t width)
{
    *p = (fr_group_plan){.n_in = n_in, .n_out = n_out, .width = width};
    ptrdiff_t n = groups->n_groups, most = n_in > n_out ? n_in : n_out;
    if (n == 0) return FR_OK;
    if (n < 0 || n > most || !groups->weight || (!groups->by_column && (!groups->start || !groups->rows)))
        return FR_BAD_ARGUMENT;
    p->size = fr_sizeof(dtype);
    p->kernels = fr_kernels_for(dtype);
    fr_arena arena = {0};
    ptrdiff_t *start = NULL, *rows = NULL;
    double *weight = NULL;
    for (int pass = 0; pass < 2; pass++) {
        weight = fr_arena_take(&arena, n, sizeof *weight); /* first: its address is the arena's */
        p->number = fr_arena_take(&arena, n, sizeof *p->number);
        p->squares = fr_arena_take(&arena, most, sizeof *p->squares);
        p->shared = fr_arena_take(&arena, most, p->size);
        start = fr_arena_take(&arena, n + 1, sizeof *start);
        rows = fr_arena_take(&arena, n_in, sizeof *rows);
        if (pass == 0 && (arena.overflow || !fr_arena_allocate(&arena)))
            return arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    memcpy(weight, groups->weight, (size_t)n * sizeof *weight);
    p->groups = *groups; /* not before: fr_groups_free frees what stands there */
    p->groups.weight = weight;
    p->groups.start = start;
    p->groups.rows = rows;
    if (copy_groups(p, groups, start, rows)) return FR_OK;
    fr_groups_free(p);
    return FR_BAD_ARGUMENT;
}

void fr_groups_free(fr_group_plan *p)
{
    fr_arena arena = {.base = (char *)p->groups.weight};
    fr_arena_free(&arena);
    *p = (fr_group_plan){0};
}

fr_group_range fr_groups_all(const fr_group_plan *p)
{
    return (fr_group_range){0, positions(p), 0, p->groups.n_groups};
}

/* ---- pieces and groups ---- */

void fr_groups_each(const fr_group_plan *p, fr_group_range r, fr_piece_work *work, void *context)
{
    bool by_column = p->groups.by_column;
    ptrdiff_t from = by_column ? r.first : 0, to = by_column ? r.stop : p->n_out;
    for (ptrdiff_t at = r.first, rows; at < r.stop; at += rows) {
        ptrdiff_t row = by_column ? 0 : p->groups.rows[at];
        for (rows = 1; !by_column && at + rows < r.stop && p->groups.rows[at + rows] == row + rows;)
            rows++;
        if (by_column) rows = r.stop - r.first;
        for (ptrdiff_t o = from; o < to;) {
            ptrdiff_t panel = o - o % p->width, end = panel + p->width < to ? panel + p->width : to;
            fr_piece piece = {
                .row = row,
                .column = o,
                .element = panel * p->n_in + row * p->width + (o - panel),
                .rows = by_column ? p->n_in : rows,
                .n = end - o,
                .at = by_column ? o : at,
            };
            work(context, p, &piece);
            o = end;
        }
    }
}

/* Positions of group g. */
static ptrdiff_t begin(const fr_group_plan *p, ptrdiff_t g)
{
    return p->groups.by_column ? g : p->groups.start[g];
}

/* How many elements group g has. */
static double elements(const fr_group_plan *p, ptrdiff_t g)
{
    ptrdiff_t rows = begin(p, g + 1) - begin(p, g);
    return (double)rows * (double)(p->groups.by_column ? p->n_in : p->n_out);
}

static void set_shared(fr_group_plan *p, ptrdiff_t position, double value)
{
    if (p->size == (ptrdiff_t)sizeof(float))
        ((float *)p->shared)[position] = (float)value;
    else
        ((double *)p->shared)[position] = value;
}

static double get_shared(const fr_group_plan *p, ptrdiff_t position)
{
    return p->size == (ptrdiff_t)sizeof(float) ? (double)((float *)p->shared)[position]
                                               : ((double *)p->shared)[position];
}

/* Rows in no group share 0. */
static void clear_shared(fr_group_plan *p, fr_group_range r)
{
    for (ptrdiff_t i = r.first; i < r.stop; i++) set_shared(p, i, 0);
}

static void share(fr_group_plan *p, ptrdiff_t g, double value)
{
    for (ptrdiff_t i = begin(p, g); i < begin(p, g + 1); i++) set_shared(p, i, value);
}

/* ---- what is done to a piece ---- */

typedef struct {
    const void *x;
    void *y;
} arrays;

static void square_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const arrays *a = context;
    p->kernels->group_squares(p->groups.by_column, piece->rows, piece->n, p->width,
                              fr_at(a->x, piece->element, p->size), p->squares + piece->at);
}

static void largest_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const arrays *a = context;
    p->kernels->group_largest(p->groups.by_column, piece->rows, piece->n, p->width,
                              fr_at(a->x, piece->element, p->size),
                              fr_at(p->shared, piece->at, p->size));
}

static void add_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const arrays *a = context;
    p->kernels->group_add(p->groups.by_column, piece->rows, piece->n, p->width,
                          fr_at(p->shared, piece->at, p->size),
                          fr_at(a->x, piece->element, p->size), fr_at(a->y, piece->element, p->size));
}

static void soften_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    const arrays *a = context;
    p->kernels->group_soften(p->groups.by_column, piece->rows, piece->n, p->width,
                             fr_at(p->shared, piece->at, p->size),
                             fr_at(a->y, piece->element, p->size));
}

/* ---- what is done to groups ---- */

static double norm_of(const fr_group_plan *p, ptrdiff_t g)
{
    double square = 0;
    for (ptrdiff_t i = begin(p, g); i < begin(p, g + 1); i++) square += p->squares[i];
    return sqrt(square);
}

static void squares(fr_group_plan *p, fr_group_range r, const void *w)
{
    memset(p->squares + r.first, 0, (size_t)(r.stop - r.first) * sizeof *p->squares);
    fr_groups_each(p, r, square_piece, &(arrays){.x = w});
}

double fr_groups_norms(fr_group_plan *p, fr_group_range r, const void *w)
{
    double value = 0;
    squares(p, r, w);
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) {
        p->number[g] = norm_of(p, g);
        value += p->groups.weight[g] * p->number[g];
    }
    return value;
}

void fr_groups_add_gradient(fr_group_plan *p, fr_group_range r, const void *w, void *dw)
{
    clear_shared(p, r);
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++)
        share(p, g, p->number[g] == 0 ? 0 : p->groups.weight[g] / p->number[g]);
    fr_groups_each(p, r, add_piece, &(arrays){w, dw});
}

void fr_groups_largest(fr_group_plan *p, fr_group_range r, const void *x)
{
    clear_shared(p, r);
    fr_groups_each(p, r, largest_piece, &(arrays){.x = x});
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) {
        p->number[g] = 0;
        for (ptrdiff_t i = begin(p, g); i < begin(p, g + 1); i++)
            p->number[g] = fmax(p->number[g], get_shared(p, i));
    }
}

void fr_groups_move(fr_group_plan *p, fr_group_range r, const void *x, void *w)
{
    clear_shared(p, r);
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) share(p, g, 1 / p->number[g]);
    fr_groups_each(p, r, add_piece, &(arrays){x, w});
}

void fr_groups_steps(fr_group_plan *p, fr_group_range r, double shrink, double l1)
{
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) {
        double least = (l1 + p->groups.weight[g] / sqrt(elements(p, g))) / 10;
        p->number[g] = shrink / fmax(p->number[g], fmin(1e-5, least));
    }
}

void fr_groups_soften(fr_group_plan *p, fr_group_range r, double t, void *w)
{
    for (ptrdiff_t i = r.first; i < r.stop; i++) set_shared(p, i, t);
    fr_groups_each(p, r, soften_piece, &(arrays){.y = w});
}

void fr_groups_prox(fr_group_plan *p, fr_group_range r, double l1, void *w)
{
    clear_shared(p, r);
    if (l1 > 0) {
        for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) share(p, g, l1 * p->number[g]);
        fr_groups_each(p, r, soften_piece, &(arrays){.y = w});
    }
    squares(p, r, w);
    for (ptrdiff_t g = r.group; g < r.group + r.n_groups; g++) {
        double norm = norm_of(p, g), taken = p->groups.weight[g] * p->number[g];
        share(p, g, norm <= taken ? -1 : -taken / norm);
    }
    fr_groups_each(p, r, add_piece, &(arrays){w, w});
}
