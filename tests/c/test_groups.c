/* groups.c alone, against its formulas in double, on kernels between pages that fault. What pads the panels
 * is NaN here: it must neither come out nor change. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "groups.h"
#include "kernels.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { N_FENCES = 2, PAGES = 24, MOST_ROWS = 40, MOST_COLUMNS = 70, MOST = 70 };

static char *fences[N_FENCES]; /* PAGES pages between two that fault */
static size_t page;

static void build_fences(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < N_FENCES; i++) {
        char *all = mmap(NULL, (PAGES + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(all != MAP_FAILED, "mmap");
        fences[i] = all + page;
        CHECK(mprotect(fences[i], PAGES * page, PROT_READ | PROT_WRITE) == 0, "mprotect");
    }
}

/* ---- a kernel in panels, and the plan of its groups ---- */

typedef struct {
    fr_dtype dtype;
    ptrdiff_t n_in, n_out, width, size; /* elements, padding too */
    fr_group_plan plan;
    ptrdiff_t group[MOST]; /* of a row or column; -1 for none */
    ptrdiff_t n_groups, start[MOST + 1], rows[MOST];
    double weight[MOST];
} setting;

static ptrdiff_t spot(const setting *s, ptrdiff_t i, ptrdiff_t o)
{
    return (o - o % s->width) * s->n_in + i * s->width + o % s->width;
}

static ptrdiff_t group_of(const setting *s, ptrdiff_t i, ptrdiff_t o)
{
    return s->group[s->plan.groups.by_column ? o : i];
}

/* A kernel that ends at the fault, or begins after it. */
static void *kernel(const setting *s, int fence, bool at_end, double low, double high)
{
    size_t bytes = (size_t)(s->size * size_of(s->dtype));
    CHECK(bytes <= PAGES * page, "%zu bytes", bytes);
    char *w = at_end ? fences[fence] + PAGES * page - bytes : fences[fence];
    memset(fences[fence], 0xFF, PAGES * page);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++)
            put(s->dtype, w, spot(s, i, o), test_uniform(low, high));
    return w;
}

static void check_padding(const setting *s, const void *w, const char *what)
{
    bool clean = true;
    ptrdiff_t panels = (s->n_out + s->width - 1) / s->width;
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = s->n_out; o < panels * s->width; o++)
            for (ptrdiff_t b = 0; b < size_of(s->dtype); b++)
                clean &= ((const unsigned char *)at(s->dtype, w, spot(s, i, o)))[b] == 0xFF;
    CHECK(clean, "%s: the padding changed", what);
}

/* Rows shared out among groups in any order, a few of them in none; or columns. */
static fr_groups draw_groups(setting *s, bool by_column)
{
    s->n_groups = by_column ? s->n_out : 1 + test_below(s->n_in);
    for (ptrdiff_t g = 0; g < s->n_groups; g++) {
        s->weight[g] = test_below(4) == 0 ? 0 : test_uniform(0.1, 2);
        s->group[g] = g; /* of a column */
    }
    for (ptrdiff_t i = 0; i < s->n_in; i++) {
        ptrdiff_t other = test_below(i + 1);
        s->rows[i] = s->rows[other];
        s->rows[other] = i;
    }
    if (!by_column) {
        ptrdiff_t spare = s->n_in - s->n_groups;
        for (ptrdiff_t i = 0; i < s->n_in; i++) s->group[i] = -1;
        s->start[0] = 0;
        for (ptrdiff_t g = 0; g < s->n_groups; g++) {
            ptrdiff_t more = spare > 0 ? test_below(spare < 5 ? spare + 1 : 5) : 0;
            spare -= more;
            s->start[g + 1] = s->start[g] + 1 + more;
            for (ptrdiff_t i = s->start[g]; i < s->start[g + 1]; i++) s->group[s->rows[i]] = g;
        }
    }
    return (fr_groups){.n_groups = s->n_groups,
                       .by_column = by_column,
                       .weight = s->weight,
                       .start = s->start,
                       .rows = s->rows};
}

/* ---- the formulas ---- */

static void norms(const setting *s, const void *w, double *norm)
{
    for (ptrdiff_t g = 0; g < s->n_groups; g++) norm[g] = 0;
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            double a = get(s->dtype, w, spot(s, i, o));
            if (group_of(s, i, o) >= 0) norm[group_of(s, i, o)] += a * a;
        }
    for (ptrdiff_t g = 0; g < s->n_groups; g++) norm[g] = sqrt(norm[g]);
}

/* Relative error of a norm: squares are summed in the dtype along a row or column, in double beyond it. */
static double norm_error(const setting *s)
{
    ptrdiff_t terms = s->plan.groups.by_column ? s->n_in : s->n_out;
    return (double)(terms + 2) * unit_of(s->dtype);
}

static double soft(double a, double t) { return fabs(a) <= t ? 0 : copysign(fabs(a) - t, a); }

static bool near(double a, double b, double bound) { return fabs(a - b) <= bound; }

static void clear_group(const setting *s, void *w, ptrdiff_t group)
{
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++)
            if (group_of(s, i, o) == group) put(s->dtype, w, spot(s, i, o), 0);
}

/* ---- each call against them ---- */

static void check_gradient(setting *s, bool at_end)
{
    double norm[MOST], value = 0, unit = unit_of(s->dtype);
    void *w = kernel(s, 0, at_end, -1, 1), *dw = kernel(s, 1, at_end, -1, 1);
    clear_group(s, w, 0);
    char *before = malloc((size_t)(s->size * size_of(s->dtype)));
    memcpy(before, dw, (size_t)(s->size * size_of(s->dtype)));
    norms(s, w, norm);
    for (ptrdiff_t g = 0; g < s->n_groups; g++) value += s->weight[g] * norm[g];
    fr_group_range all = fr_groups_all(&s->plan);
    double got = fr_groups_norms(&s->plan, all, w);
    CHECK(near(got, value, norm_error(s) * value), "penalty %g, not %g", got, value);
    for (ptrdiff_t g = 0; g < s->n_groups; g++)
        CHECK(near(s->plan.number[g], norm[g], norm_error(s) * norm[g]),
              "norm of group %td: %g, not %g", g, s->plan.number[g], norm[g]);
    CHECK(s->plan.number[0] == 0, "norm of a group of zeros: %g", s->plan.number[0]);
    fr_groups_add_gradient(&s->plan, all, w, dw);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            ptrdiff_t e = spot(s, i, o), g = group_of(s, i, o);
            double old = get(s->dtype, before, e), more = 0;
            if (g > 0) more = s->weight[g] / s->plan.number[g] * get(s->dtype, w, e);
            double now = get(s->dtype, dw, e);
            CHECK(near(now, old + more, 4 * unit * (fabs(old) + fabs(more))),
                  "gradient at %td, %td: %g, not %g", i, o, now, old + more);
            if (g <= 0) CHECK(now == old, "gradient at %td, %td of no group", i, o);
        }
    check_padding(s, w, "gradient, w");
    check_padding(s, dw, "gradient");
    free(before);
}

static void check_move(setting *s, bool at_end)
{
    double largest[MOST] = {0}, unit = unit_of(s->dtype);
    void *x = kernel(s, 0, at_end, 0.01, 1), *w = kernel(s, 1, at_end, -1, 1);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            ptrdiff_t g = group_of(s, i, o);
            if (g >= 0) largest[g] = fmax(largest[g], get(s->dtype, x, spot(s, i, o)));
        }
    fr_group_range all = fr_groups_all(&s->plan);
    fr_groups_largest(&s->plan, all, x);
    for (ptrdiff_t g = 0; g < s->n_groups; g++)
        CHECK(s->plan.number[g] == largest[g], "largest of group %td: %g, not %g", g,
              s->plan.number[g], largest[g]);
    char *before = malloc((size_t)(s->size * size_of(s->dtype)));
    memcpy(before, w, (size_t)(s->size * size_of(s->dtype)));
    fr_groups_move(&s->plan, all, x, w);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            ptrdiff_t e = spot(s, i, o), g = group_of(s, i, o);
            double old = get(s->dtype, before, e);
            double more = g < 0 ? 0 : get(s->dtype, x, e) / largest[g];
            CHECK(near(get(s->dtype, w, e), old + more, 4 * unit * (fabs(old) + fabs(more))),
                  "moved at %td, %td", i, o);
        }
    check_padding(s, x, "largest");
    check_padding(s, w, "moved");
    free(before);

    double shrink = 0.3, l1 = 0.001;
    fr_groups_steps(&s->plan, all, shrink, l1);
    double count[MOST] = {0};
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++)
            if (group_of(s, i, o) >= 0) count[group_of(s, i, o)]++;
    for (ptrdiff_t g = 0; g < s->n_groups; g++) {
        double least = fmin(1e-5, (l1 + s->weight[g] / sqrt(count[g])) / 10);
        double step = shrink / fmax(largest[g], least);
        CHECK(near(s->plan.number[g], step, 1e-14 * step), "step of group %td", g);
    }
}

/* In one call for all groups, or in two: to the same bits. */
static void check_prox(setting *s, bool at_end, double l1)
{
    double step[MOST], norm[MOST], unit = unit_of(s->dtype);
    void *w = kernel(s, 0, at_end, -1, 1), *again = kernel(s, 1, !at_end, -1, 1);
    size_t bytes = (size_t)(s->size * size_of(s->dtype));
    memcpy(again, w, bytes);
    char *want = malloc(bytes);
    memcpy(want, w, bytes);
    for (ptrdiff_t g = 0; g < s->n_groups; g++) step[g] = test_uniform(0, 1.5);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            ptrdiff_t e = spot(s, i, o), g = group_of(s, i, o);
            if (g >= 0) put(s->dtype, want, e, soft(get(s->dtype, want, e), rounded(s->dtype, l1 * step[g])));
        }
    norms(s, want, norm);
    fr_group_range all = fr_groups_all(&s->plan), half = all, rest = all;
    half.n_groups = all.n_groups / 2;
    half.stop = s->plan.groups.by_column ? half.n_groups : s->start[half.n_groups];
    rest.first = half.stop, rest.group = half.n_groups, rest.n_groups = all.n_groups - half.n_groups;
    memcpy(s->plan.number, step, (size_t)s->n_groups * sizeof *step);
    fr_groups_prox(&s->plan, all, l1, w);
    memcpy(s->plan.number, step, (size_t)s->n_groups * sizeof *step);
    fr_groups_prox(&s->plan, rest, l1, again);
    fr_groups_prox(&s->plan, half, l1, again);
    CHECK(memcmp(w, again, bytes) == 0, "the prox in two calls has other bits");
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            ptrdiff_t e = spot(s, i, o), g = group_of(s, i, o);
            double a = get(s->dtype, want, e), now = get(s->dtype, w, e);
            double taken = g < 0 ? 0 : s->weight[g] * step[g];
            double left = g < 0 ? a : norm[g] <= taken ? 0 : a * (1 - taken / norm[g]);
            double share = left == a ? 0 : fmin(1, taken / norm[g]);
            CHECK(near(now, left, (8 * unit + 2 * norm_error(s) * share) * fabs(a)), "prox at %td, %td: %g, not %g", i, o, now, left);
            if (left == 0) CHECK(now == 0, "prox at %td, %td: %g, not exactly 0", i, o, now);
        }
    check_padding(s, w, "prox");
    free(want);

    void *v = kernel(s, 0, at_end, -1, 1);
    char *before = malloc(bytes);
    memcpy(before, v, bytes);
    fr_groups_soften(&s->plan, all, 0.25, v);
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++) {
            double a = get(s->dtype, before, spot(s, i, o)), now = get(s->dtype, v, spot(s, i, o));
            CHECK(near(now, soft(a, 0.25), unit * fabs(a)), "softened at %td, %td", i, o);
        }
    check_padding(s, v, "softened");
    free(before);
}

typedef struct {
    const setting *s;
    unsigned char seen[MOST_ROWS][MOST_COLUMNS];
    bool right;
} cover;

static void cover_piece(void *context, const fr_group_plan *p, const fr_piece *piece)
{
    cover *c = context;
    c->right &= piece->element == spot(c->s, piece->row, piece->column);
    c->right &= piece->column % p->width + piece->n <= p->width;
    for (ptrdiff_t r = 0; r < piece->rows; r++) {
        c->right &= p->groups.by_column ? piece->at == piece->column
                                        : p->groups.rows[piece->at + r] == piece->row + r;
        for (ptrdiff_t j = 0; j < piece->n; j++) c->seen[piece->row + r][piece->column + j]++;
    }
}

static void check_pieces(const setting *s)
{
    cover c = {.s = s, .right = true};
    fr_groups_each(&s->plan, fr_groups_all(&s->plan), cover_piece, &c);
    CHECK(c.right, "a piece is not where it says");
    for (ptrdiff_t i = 0; i < s->n_in; i++)
        for (ptrdiff_t o = 0; o < s->n_out; o++)
            CHECK(c.seen[i][o] == 1, "%td, %td is in %d pieces", i, o, c.seen[i][o]);
}

static void on_kernels(fr_dtype dtype)
{
    static const ptrdiff_t shapes[][2] = {{1, 1}, {5, 3}, {17, 33}, {40, 16}, {7, 70}};
    ptrdiff_t panel = fr_kernels_for(dtype)->panel;
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (int variant = 0; variant < 8; variant++) {
            bool by_column = variant & 1, at_end = variant & 2, whole = variant & 4;
            setting s = {.dtype = dtype, .n_in = shapes[k][0], .n_out = shapes[k][1]};
            ptrdiff_t panels = (s.n_out + panel - 1) / panel;
            s.width = whole ? panels * panel : panel;
            s.size = s.n_in * panels * panel;
            test_case("groups of %s %s, %s, %td x %td, width %td, fault %s", fr_isa(), name_of(dtype),
                      by_column ? "columns" : "rows", s.n_in, s.n_out, s.width,
                      at_end ? "after" : "before");
            fr_groups groups = draw_groups(&s, by_column);
            fr_status status = fr_groups_plan(&s.plan, dtype, &groups, s.n_in, s.n_out, s.width);
            if (!CHECK(status == FR_OK, "plan: status %d", (int)status)) continue;
            CHECK(s.plan.groups.weight != s.weight, "the plan has no copy of its own");
            check_pieces(&s);
            check_gradient(&s, at_end);
            check_move(&s, at_end);
            check_prox(&s, at_end, 0);
            check_prox(&s, at_end, 0.2);
            fr_groups_free(&s.plan);
            CHECK(s.plan.groups.n_groups == 0 && !s.plan.number, "freed, and something stays");
        }
}

/* ---- what is refused ---- */

static void refused(const char *what, const fr_groups *groups)
{
    fr_group_plan plan;
    fr_status status = fr_groups_plan(&plan, FR_FLOAT32, groups, 4, 3, 32);
    CHECK(status == FR_BAD_ARGUMENT, "%s: status %d", what, (int)status);
    CHECK(!plan.number && plan.groups.n_groups == 0, "%s: the plan is not empty", what);
}

static void bad_groups(void)
{
    const double weight[4] = {1, 2, 0, 1}, negative[2] = {1, -1}, nan_weight[2] = {NAN, 1},
                 infinite[2] = {1, INFINITY};
    const ptrdiff_t start[3] = {0, 2, 3}, rows[4] = {3, 0, 2, 1};
    const ptrdiff_t late[3] = {1, 2, 3}, empty[3] = {0, 2, 2}, beyond[3] = {0, 2, 5};
    const ptrdiff_t twice[4] = {3, 0, 3, 1}, below[4] = {3, -1, 2, 1}, above[4] = {3, 0, 4, 1};
    fr_groups good = {.n_groups = 2, .weight = weight, .start = start, .rows = rows}, bad;
    test_case("groups that are refused");
#define REFUSED(field, value) (bad = good, bad.field = (value), refused(#field " " #value, &bad))
    REFUSED(weight, negative);
    REFUSED(weight, nan_weight);
    REFUSED(weight, infinite);
    REFUSED(weight, NULL);
    REFUSED(start, late);
    REFUSED(start, empty);
    REFUSED(start, beyond);
    REFUSED(start, NULL);
    REFUSED(rows, twice);
    REFUSED(rows, below);
    REFUSED(rows, above);
    REFUSED(rows, NULL);
    REFUSED(n_groups, -1);
    REFUSED(n_groups, 5);
    REFUSED(by_column, true); /* two groups, three columns */
#undef REFUSED
    fr_group_plan plan;
    CHECK(fr_groups_plan(&plan, FR_FLOAT32, &good, 4, 3, 32) == FR_OK, "the good ones");
    fr_groups_free(&plan);
    fr_groups none = {0};
    CHECK(fr_groups_plan(&plan, FR_FLOAT32, &none, 4, 3, 32) == FR_OK && !plan.number, "none");
}

void test_groups(void)
{
    build_fences();
    test_each_target(on_kernels);
    bad_groups();
}
