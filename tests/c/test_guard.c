/* Every array that a kernel or a call is handed ends just before a page that faults, then begins
 * just after one: a vector that reads or writes past a tail faults, also where AddressSanitizer
 * does not look (masked loads). What is only read lies on read-only pages. Around the arrays and
 * between their rows stand NaNs: they must neither change nor come out in a result.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "kernels.h"
#include "oracle.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { N_FENCES = 8, PAGES = 8, ROWS = 3, PATTERN = 0xFF, LONGEST_LANES = 16 };

typedef struct {
    char *pages; /* PAGES of them, between two that fault */
    char *array;
    fr_dtype dtype;
    ptrdiff_t rows, n, ld, gap;
} fence;

typedef struct {
    ptrdiff_t ld, gap;
} layout;

static fence fences[N_FENCES];
static size_t page;
static char *around; /* a copy of a fence's pages, for what stands around the array */
static bool at_end;  /* arrays end at the fault, or begin after it */

static void build_fences(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < N_FENCES; i++) {
        char *all = mmap(NULL, (PAGES + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(all != MAP_FAILED, "mmap");
        fences[i].pages = all + page;
    }
    around = malloc(PAGES * page);
    CHECK(around != NULL, "malloc");
}

/* Space at fence i, all NaN. */
static void *place(int i, size_t bytes)
{
    fence *f = &fences[i];
    CHECK(bytes <= PAGES * page, "%zu bytes", bytes);
    CHECK(mprotect(f->pages, PAGES * page, PROT_READ | PROT_WRITE) == 0, "mprotect");
    memset(f->pages, PATTERN, PAGES * page);
    f->array = at_end ? f->pages + PAGES * page - bytes : f->pages;
    return f->array;
}

/* Where element (r, j) of fence i stands, after its first. */
static ptrdiff_t spot(const fence *f, ptrdiff_t r, ptrdiff_t j)
{
    return r * f->ld + j + j / fr_kernels_for(f->dtype)->panel * f->gap;
}

/* A matrix at fence i, up to its last element. */
static void *matrix(int i, fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, layout l, double low,
                    double high)
{
    fence *f = &fences[i];
    f->dtype = dtype, f->rows = rows, f->n = n, f->ld = l.ld, f->gap = l.gap;
    place(i, (size_t)((spot(f, rows - 1, n - 1) + 1) * size_of(dtype)));
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < n; j++)
            put(dtype, f->array, spot(f, r, j), test_uniform(low, high));
    return f->array;
}

/* A plain matrix, and one in column panels. */
static layout plain(ptrdiff_t n) { return (layout){n, 0}; }
static layout in_panels(fr_dtype dtype, ptrdiff_t rows)
{
    ptrdiff_t panel = fr_kernels_for(dtype)->panel;
    return (layout){panel, (rows - 1) * panel};
}

static void *array(int i, fr_dtype dtype, ptrdiff_t n, double low, double high)
{
    return matrix(i, dtype, 1, n, plain(n), low, high);
}

/* Nothing may write to it. */
static const void *locked(int i, const void *array)
{
    CHECK(mprotect(fences[i].pages, PAGES * page, PROT_READ) == 0, "mprotect");
    return array;
}

static bool has_pattern(const char *from, const char *to)
{
    while (from < to && (unsigned char)*from == PATTERN) from++;
    return from >= to;
}

/* The matrix is finite and nothing around it has changed. */
static void check_around(int i, const char *what)
{
    const fence *f = &fences[i];
    bool finite = true;
    memcpy(around, f->pages, PAGES * page);
    for (ptrdiff_t r = 0; r < f->rows; r++)
        for (ptrdiff_t j = 0; j < f->n; j++) {
            char *element = at(f->dtype, around + (f->array - f->pages), spot(f, r, j));
            finite &= isfinite(get(f->dtype, element, 0)) != 0;
            memset(element, PATTERN, (size_t)size_of(f->dtype));
        }
    bool clean = has_pattern(around, around + PAGES * page);
    CHECK(clean, "%s: bytes around the array changed", what);
    CHECK(finite, "%s: not finite", what);
}

/* ---- kernels ---- */

static void guard_forward(fr_dtype dtype, ptrdiff_t n, layout l)
{
    for (int f = 0; f < FR_N_ACTIVATIONS; f++) {
        if (l.gap && !fr_kernels_for(dtype)->whole_rows[f]) continue;
        test_case("guard forward %s n %td ld %td %s %s", fr_activation_name(f), n, l.ld,
                  name_of(dtype), fr_isa());
        fr_sums sums = {0, 0};
        fr_forward_tile tile = {.rows = ROWS,
                                .n = n,
                                .y = matrix(0, dtype, ROWS, n, l, -3, 3),
                                .ld = l.ld,
                                .gap = l.gap,
                                .bias = locked(1, array(1, dtype, n, -1, 1)),
                                .sums = &sums,
                                .curve = test_curve,
                                .slope = matrix(2, dtype, ROWS, n, l, 0, 0)};
        fr_kernels_for(dtype)->forward[f](&tile);
        check_around(2, "slope");
        tile.bias = NULL, tile.sums = NULL, tile.slope = NULL;
        fr_kernels_for(dtype)->forward[f](&tile);
        check_around(0, "y");
        CHECK(isfinite(sums.abs) && isfinite(sums.square), "sums");
    }
}

static void guard_backward(fr_dtype dtype, ptrdiff_t n, layout l)
{
    for (int f = 0; f < FR_N_ACTIVATIONS; f++) {
        if (l.gap && !fr_kernels_for(dtype)->whole_rows[f]) continue;
        test_case("guard backward %s n %td ld %td %s %s", fr_activation_name(f), n, l.ld,
                  name_of(dtype), fr_isa());
        fr_backward_tile tile = {.rows = ROWS,
                                 .n = n,
                                 .y = locked(0, matrix(0, dtype, ROWS, n, l, 0, 1)),
                                 .slope = locked(3, matrix(3, dtype, ROWS, n, l, -1, 1)),
                                 .ld = l.ld,
                                 .d = matrix(1, dtype, ROWS, n, l, -1, 1),
                                 .ld_d = l.ld,
                                 .gap = l.gap,
                                 .activity = {0.1, 0.2},
                                 .dbias = array(2, dtype, n, 0, 0)};
        fr_kernels_for(dtype)->backward[f](&tile);
        tile.activity = (fr_regularizer){0, 0};
        tile.dbias = NULL;
        fr_kernels_for(dtype)->backward[f](&tile);
        check_around(1, "dz");
        check_around(2, "dbias");
    }
}

static void guard_loss(fr_dtype dtype, ptrdiff_t n, layout l, int loss, const fr_loss_settings *s,
                       fr_loss_kernel *kernel, bool fused, bool with_d)
{
    bool labels = loss == FR_LOSS_sparse_categorical_crossentropy;
    test_case("guard %s%s n %td ld %td %s %s", fused ? "fused " : "", fr_loss_name(loss), n, l.ld,
              name_of(dtype), fr_isa());
    void *y = matrix(0, dtype, ROWS, n, l, 0.1, 0.9), *target;
    if (labels) {
        int32_t *label = target = place(1, ROWS * sizeof *label);
        for (int r = 0; r < ROWS; r++) label[r] = (int32_t)(r == 0 ? n - 1 : test_below(n));
    } else {
        target = matrix(1, dtype, ROWS, n, plain(n), 0, 1);
    }
    fr_loss_tile tile = {.rows = ROWS,
                         .n = n,
                         .y = y,
                         .ld = l.ld,
                         .gap = l.gap,
                         .target = locked(1, target),
                         .weight = locked(2, array(2, dtype, ROWS, 0, 1)),
                         .d = with_d ? matrix(3, dtype, ROWS, n, l, 0, 0) : NULL,
                         .ld_d = l.ld,
                         .scale = 0.5,
                         .settings = s,
                         .accuracy =
                             labels ? FR_ACCURACY_sparse_categorical : FR_ACCURACY_categorical};
    if (!fused) locked(0, y); /* the plain losses only read it */
    kernel(&tile);
    CHECK(isfinite(tile.loss), "loss %g", tile.loss);
    check_around(0, "y");
    if (with_d) check_around(3, "gradient");
}

static void guard_losses(fr_dtype dtype, ptrdiff_t n, layout l)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    for (int loss = 0; loss < FR_N_LOSSES; loss++)
        for (int with_d = 0; with_d < 2; with_d++) {
            fr_loss_settings s;
            for (int i = 0; oracle_settings(loss, i, &s); i++)
                guard_loss(dtype, n, l, loss, &s, kernels->loss[loss], false, with_d);
            oracle_settings(loss, 0, &s);
            for (int f = 0; f < FR_N_ACTIVATIONS; f++)
                if (kernels->fused_loss[loss][f])
                    guard_loss(dtype, n, l, loss, &s, kernels->fused_loss[loss][f], true, with_d);
        }
}

static void guard_update(fr_dtype dtype, ptrdiff_t n, layout l)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    static const fr_optimizer optimizers[] = {
        {.kind = FR_OPTIMIZER_sgd},
        {.kind = FR_OPTIMIZER_sgd, .momentum = 0.9},
        {.kind = FR_OPTIMIZER_sgd, .momentum = 0.9, .nesterov = 1},
        {.kind = FR_OPTIMIZER_adam},
        {.kind = FR_OPTIMIZER_adam, .amsgrad = 1},
        {.kind = FR_OPTIMIZER_adamax},
        {.kind = FR_OPTIMIZER_nadam},
        {.kind = FR_OPTIMIZER_rmsprop},
        {.kind = FR_OPTIMIZER_rmsprop, .momentum = 0.9},
        {.kind = FR_OPTIMIZER_rmsprop, .centered = 1},
        {.kind = FR_OPTIMIZER_rmsprop, .centered = 1, .momentum = 0.9},
        {.kind = FR_OPTIMIZER_adagrad},
        {.kind = FR_OPTIMIZER_adadelta},
        {.kind = FR_OPTIMIZER_lion},
        {.kind = FR_OPTIMIZER_ftrl},
        {.kind = FR_OPTIMIZER_ftrl, .learning_rate_power = -0.7},
    };
    enum { COUNT = sizeof optimizers / sizeof optimizers[0] };
    /* no regularizer, then one with each L1 step */
    for (int variant = 0; variant < COUNT * (1 + FR_N_L1_STEPS); variant++) {
        fr_optimizer o = optimizers[variant % COUNT];
        int kind = o.kind;
        test_case("guard update variant %d n %td ld %td %s %s", variant, n, l.ld, name_of(dtype),
                  fr_isa());
        fr_update_step step = {.rate = 0.1,
                               .gradient_rate = 0.1,
                               .keep = 0.9,
                               .momentum = o.momentum,
                               .beta_1 = 0.9,
                               .beta_2 = 0.99,
                               .epsilon = 1e-7,
                               .inverse_rate = 10,
                               .power = o.learning_rate_power != 0 ? -o.learning_rate_power : 0.5,
                               .nesterov = o.nesterov,
                               .amsgrad = o.amsgrad,
                               .centered = o.centered};
        if (variant >= COUNT)
            step.regularizer = (fr_regularizer){0.1, 0.2}, step.l1_step = variant / COUNT - 1;
        fr_sums sums = {0, 0};
        void *w = matrix(0, dtype, ROWS, n, l, -1, 1), *slots[FR_UPDATE_SLOTS] = {NULL};
        const void *dw = locked(1, matrix(1, dtype, ROWS, n, l, -1, 1));
        for (int s = 0; s < fr_optimizer_slots(&o); s++)
            slots[s] = matrix(2 + s, dtype, ROWS, n, l, 0, 1);
        if (step.l1_step == FR_L1_STEP_cumulative)
            for (int s = FR_OWN_SLOTS; s < FR_UPDATE_SLOTS; s++)
                slots[s] = matrix(2 + s, dtype, ROWS, n, l, 0, 1);
        kernels->update[kind](&step, ROWS, n, l.ld, w, dw, slots, &sums);
        check_around(0, "w");
        for (int s = 0; s < FR_UPDATE_SLOTS; s++)
            if (slots[s]) check_around(2 + s, "slot");
        CHECK(isfinite(sums.abs) && isfinite(sums.square), "sums");
    }
}

static void guard_arrays(fr_dtype dtype, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    test_case("guard sums, penalty gradient, add n %td %s %s", n, name_of(dtype), fr_isa());
    const void *w = locked(0, array(0, dtype, n, -1, 1));
    fr_sums sums = kernels->sums(n, w);
    CHECK(isfinite(sums.abs) && isfinite(sums.square), "sums");
    void *dw = array(1, dtype, n, 0, 0);
    kernels->penalty_gradient(n, w, (fr_regularizer){0.1, 0.2}, dw);
    check_around(1, "penalty gradient");
    kernels->add(n, w, dw);
    check_around(1, "add");
}

static void guard_steps(fr_dtype dtype, ptrdiff_t n, layout l)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    test_case("guard steps n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    fr_gradient_step step = {.is_last = true, .share = 0.5, .limit = 0.3, .regularizer = {0.1, 0.2}};
    fr_sums sums = {0, 0};
    double square = 0;
    for (int last = 0; last < 2; last++) {
        step.is_last = last;
        const void *w = locked(0, matrix(0, dtype, ROWS, n, l, -1, 1));
        void *dw = matrix(1, dtype, ROWS, n, l, -1, 1), *sum = matrix(2, dtype, ROWS, n, l, -1, 1);
        double expected = 0;
        for (ptrdiff_t r = 0; r < ROWS; r++)
            for (ptrdiff_t j = 0; j < n; j++) {
                double old = get(dtype, w, r * l.ld + j);
                double g = get(dtype, dw, r * l.ld + j) + 0.4 * old + (old > 0 ? 0.1 : -0.1);
                g = fmin(fmax((g + get(dtype, sum, r * l.ld + j)) / 2, -0.3), 0.3);
                expected += last ? g * g : 0;
            }
        kernels->change_gradient(&step, ROWS, n, l.ld, w, dw, sum, &sums, &square);
        check_around(1, "gradient");
        check_around(2, "sum");
        CHECK(fabs(square - expected) <= 1e-5 * expected, "square %g, not %g", square, expected);
    }
    CHECK(isfinite(sums.abs) && isfinite(sums.square), "sums");
    void *w = matrix(0, dtype, ROWS, n, l, -1, 1), *mean = matrix(1, dtype, ROWS, n, l, -1, 1);
    kernels->move_average(ROWS, n, l.ld, 0.9, true, w, mean);
    kernels->scale(ROWS, n, l.ld, 0.5, w);
    check_around(0, "w");
    check_around(1, "mean");
    for (ptrdiff_t r = 0; r < ROWS; r++)
        for (ptrdiff_t j = 0; j < n; j++)
            CHECK(get(dtype, w, r * l.ld + j) == 0.5 * get(dtype, mean, r * l.ld + j), "mean");
    for (int by_column = 0; by_column < 2; by_column++) {
        const void *shared = locked(2, array(2, dtype, by_column ? n : ROWS, 2, 3));
        kernels->group_scale(by_column, ROWS, n, l.ld, shared, w);
        check_around(0, "scaled");
    }
    kernels->non_negative(ROWS, n, l.ld, w);
    check_around(0, "non-negative");
    for (ptrdiff_t r = 0; r < ROWS; r++)
        for (ptrdiff_t j = 0; j < n; j++) CHECK(get(dtype, w, r * l.ld + j) >= 0, "negative");
}

static void guard_normalization(fr_dtype dtype, ptrdiff_t n, layout l)
{
    test_case("guard normalization n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    const fr_kernels *kernels = fr_kernels_for(dtype);
    const void *x = locked(0, matrix(0, dtype, ROWS, n, l, -1, 1));
    void *y = matrix(1, dtype, ROWS, n, l, 0, 0);
    const void *gamma = locked(2, matrix(2, dtype, 1, n, plain(n), 0.5, 1));
    void *vectors = matrix(3, dtype, 1, n, plain(n), 0.5, 1);
    fr_normal_tile tile = {.rows = ROWS, .n = n, .n_rows = ROWS, .x = x, .y = y, .ld = l.ld, .gap = l.gap,
                           .gamma = gamma, .beta = gamma, .epsilon = 1e-3, .mean = vectors, .variance = vectors,
                           .dy = x, .dx = y, .dgamma = vectors, .dbeta = vectors};
    kernels->column_moments(&tile);
    check_around(3, "moments");
    tile.mean = tile.variance = (void *)gamma;
    kernels->normalize_columns(&tile);
    kernels->normalize_columns_sums(&tile);
    kernels->normalize_columns_backward(&tile);
    check_around(1, "y");
    check_around(3, "sums");
    tile.mean = tile.scale = NULL;
    kernels->normalize_rows(&tile);
    double rows[ROWS] = {0};
    tile.mean = tile.scale = rows;
    kernels->normalize_rows_backward(&tile);
    check_around(1, "dx");
    check_around(3, "sums of rows");
}

static void guard_rates(fr_dtype dtype, ptrdiff_t n, layout l)
{
    test_case("guard rates n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    const fr_kernels *kernels = fr_kernels_for(dtype);
    const ptrdiff_t panel = l.gap ? (n < kernels->panel ? n : kernels->panel) : n;
    void *y = matrix(0, dtype, ROWS, n, l, 0.1, 0.9), *sums = matrix(1, dtype, 1, n, plain(n), 0, 0);
    kernels->column_sums(ROWS, panel, y, l.ld, sums);
    check_around(1, "sums");
    void *slope = matrix(2, dtype, 1, n, plain(n), 0, 0);
    kernels->rates(1, n, panel, locked(1, sums), ROWS, (fr_kl){1, 0.5}, 1, slope);
    check_around(2, "slope");
    kernels->add_to_rows(ROWS, panel, locked(2, slope), y, l.ld);
    check_around(0, "rows");
}

static void guard_noise(fr_dtype dtype, ptrdiff_t n, layout l)
{
    static const int kinds[] = {FR_LAYER_gaussian_noise, FR_LAYER_gaussian_dropout,
                                FR_LAYER_alpha_dropout, FR_LAYER_dropout};
    test_case("guard noise, multiply n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    const void *x = locked(0, matrix(0, dtype, ROWS, n, l, -1, 1));
    void *y = matrix(1, dtype, ROWS, n, l, 0, 0), *factor = matrix(2, dtype, ROWS, n, l, 0, 0);
    fr_noise_tile tile = {.rows = ROWS,
                          .n = n,
                          .x = x,
                          .ld_x = l.ld,
                          .y = y,
                          .ld_y = l.ld,
                          .gap = l.gap,
                          .factor = factor,
                          .rate = 0.4,
                          .stddev = 0.3,
                          .seed = 7};
    for (int i = 0; i < 4; i++) fr_kernels_for(dtype)->noise[kinds[i]](&tile);
    check_around(1, "y");
    check_around(2, "factor");
    locked(2, factor);
    if (l.gap) return;
    fr_kernels_for(dtype)->multiply(ROWS, n, x, l.ld, factor, l.ld, y, l.ld);
    check_around(1, "product");
}

static void guard_pack(fr_dtype dtype, ptrdiff_t n, layout l)
{
    test_case("guard pack n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    const void *rows = locked(0, matrix(0, dtype, ROWS, n, plain(n), -1, 1));
    void *panels = matrix(1, dtype, ROWS, n, l, 0, 0);
    void *back = matrix(2, dtype, ROWS, n, plain(n), 0, 0);
    fr_kernels_for(dtype)->pack(ROWS, n, rows, NULL, panels, l.ld, l.gap);
    check_around(1, "panels");
    fr_kernels_for(dtype)->unpack(ROWS, n, locked(1, panels), l.ld, l.gap, back);
    check_around(2, "rows");
}

/* n rows, a depth of n, n columns as far as a panel holds them. */
static void guard_products(fr_dtype dtype, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t panel = kernels->panel, some = 1 + (n - 1) % panel;
    test_case("guard products n %td %s %s", n, name_of(dtype), fr_isa());
    layout rows_of_panel = {panel, 0};
    const void *a = locked(0, matrix(0, dtype, n, n, in_panels(dtype, n), -1, 1));
    const void *b = locked(1, array(1, dtype, n * panel, -1, 1));
    void *c = array(2, dtype, n * panel, 0, 0);
    kernels->product(n, n, some, a, n * panel, b, c, &(fr_ahead){0});
    check_around(2, "product");

    const void *x = locked(0, array(0, dtype, n * panel, -1, 1)); /* few units read whole vectors of it */
    void *dw = array(2, dtype, some * panel, 0, 0);
    kernels->kernel_product(n, some, 1 + 7 * n % panel, x, b, dw, &(fr_ahead){0});
    check_around(2, "kernel product");

    ptrdiff_t parts = (n + panel - 1) / panel;
    for (ptrdiff_t few = 1; few <= kernels->few_units; few++) {
        x = locked(0, matrix(0, dtype, n, n, in_panels(dtype, n), -1, 1));
        b = locked(1, array(1, dtype, parts * few * panel, -1, 1));
        void *y = matrix(2, dtype, n, few, rows_of_panel, 0, 0);
        kernels->turned_product(n, n, few, x, n * panel, b, y);
        check_around(2, "product of a turned kernel");
    }

    ptrdiff_t other = 1 + 5 * n % panel;
    const void *w = locked(0, matrix(0, dtype, some, other, rows_of_panel, -1, 1));
    void *wt = matrix(2, dtype, other, some, rows_of_panel, 0, 0);
    kernels->transpose(some, other, w, wt);
    check_around(2, "transpose");
}

/* n rows and columns as far as a panel holds them, as pairs of bfloat16. */
static void guard_pairs(ptrdiff_t n)
{
    const fr_pair_kernels *pairs = fr_pair_kernels_for_use();
    if (!pairs) return;
    ptrdiff_t panel = fr_kernels_for(FR_FLOAT32)->panel, some = 1 + (n - 1) % panel;
    layout rows_of_panel = {panel, 0};
    test_case("guard pairs n %td", n);
    const void *x = locked(0, matrix(0, FR_FLOAT32, n, some, rows_of_panel, -1, 1));
    void *across = array(1, FR_FLOAT32, n * panel / 2, 0, 0);
    void *down = array(2, FR_FLOAT32, (n + 1) / 2 * panel, 0, 0);
    pairs->panel(n, some, x, across, down);
    check_around(1, "across");
    check_around(2, "down");
    pairs->transpose(some, some, x, array(2, FR_FLOAT32, (some + 1) / 2 * panel, 0, 0));
    check_around(2, "transpose");

    /* 1.0f is the pair 0 and 1 */
    const void *a = locked(0, array(0, FR_FLOAT32, (n + panel - 1) / panel * n * panel / 2, 1, 1));
    const void *b = locked(1, array(1, FR_FLOAT32, (n + 1) / 2 * panel, 1, 1));
    pairs->product(n, n, some, a, n * panel / 2, b, array(2, FR_FLOAT32, n * panel, 0, 0),
                   &(fr_ahead){0});
    check_around(2, "product");
    pairs->kernel_product(n, some, some, b, b, array(2, FR_FLOAT32, some * panel, 0, 0), &(fr_ahead){0});
    check_around(2, "kernel product");
}

/* n terms in each of three rows, of as many columns as the lanes hold at most. */
static void guard_sparse(fr_dtype dtype, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t vector = kernels->panel / 2, columns = 1 + 3 * n % kernels->lanes;
    ptrdiff_t whole = (columns + vector - 1) / vector * vector;
    test_case("guard sparse n %td %s %s", n, name_of(dtype), fr_isa());
    int64_t *start = place(0, 4 * sizeof *start);
    for (int r = 0; r < 4; r++) start[r] = r * n;
    int32_t *column = place(1, (size_t)(3 * n) * sizeof *column);
    for (ptrdiff_t k = 0; k < 3 * n; k++) column[k] = (int32_t)(k % n);
    fr_sparse_rows a = {NULL, locked(0, start), locked(1, column),
                        locked(2, array(2, dtype, 3 * n, -1, 1))};
    const void *b = locked(3, matrix(3, dtype, n, whole, (layout){whole, 0}, -1, 1));
    void *c = matrix(4, dtype, 3, whole, (layout){whole, 0}, 0, 0);
    kernels->sparse_product(3, columns, &a, b, whole, c, whole);
    check_around(4, "product of nonzeros");

    /* plain: the whole vectors of the last column end the lanes, rows of one panel end the tile */
    ptrdiff_t rows = columns, some = 1 + n % kernels->panel;
    const void *y = locked(0, matrix(0, dtype, rows, n, plain(n), -1, 1));
    void *lanes = place(5, (size_t)(((n - 1) * kernels->lanes + whole) * size_of(dtype)));
    kernels->to_lanes(rows, n, y, n, 0, lanes);
    void *tile = matrix(6, dtype, rows, n < some ? n : some, plain(some), 0, 0);
    kernels->from_lanes(rows, n < some ? n : some, locked(5, lanes), tile, some);
    check_around(6, "rows of lanes");

    ptrdiff_t end = kernels->compress(n, locked(0, array(0, dtype, n, 1, 2)), 1, 0,
                                      place(1, (size_t)n * sizeof(int32_t)),
                                      array(2, dtype, n, 0, 0));
    CHECK(end == n, "%td nonzeros", end);
    check_around(2, "nonzeros");
}

/* Rows of a batch with n terms each, the last an empty one. */
static void guard_rows(fr_dtype dtype, ptrdiff_t n, layout l)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    test_case("guard compressed rows n %td ld %td %s %s", n, l.ld, name_of(dtype), fr_isa());
    int64_t *start = place(0, (ROWS + 1) * sizeof *start);
    for (int r = 0; r <= ROWS; r++) start[r] = (r < ROWS ? r : ROWS - 1) * n;
    ptrdiff_t n_terms = (ROWS - 1) * n;
    int32_t *column = place(1, (size_t)n_terms * sizeof *column);
    for (ptrdiff_t k = 0; k < n_terms; k++) column[k] = (int32_t)(k % n);
    int64_t *order = place(2, ROWS * sizeof *order);
    for (int r = 0; r < ROWS; r++) order[r] = ROWS - 1 - r;
    fr_sparse_rows x = {locked(2, order), locked(0, start), locked(1, column),
                        locked(3, array(3, dtype, n_terms, -1, 1))};
    void *tile = matrix(4, dtype, ROWS, n, l, 0, 0);
    kernels->spread(ROWS, n, &x, tile, l.ld, l.gap);
    check_around(4, "spread rows");

    int64_t *cursor = place(4, ROWS * sizeof *cursor);
    kernels->seek(ROWS, &x, n / 2, cursor);
    ptrdiff_t n_i = n - n / 2;
    int64_t *turned = place(5, (size_t)(n_i + 2) * sizeof *turned);
    void *value = array(6, dtype, (ROWS - 1) * n_i, 0, 0);
    int32_t *row = place(7, (size_t)((ROWS - 1) * n_i) * sizeof *row);
    kernels->turn(ROWS, &x, n / 2, n_i, cursor, turned, row, value);
    CHECK(turned[n_i] == (ROWS - 1) * n_i, "%td terms", (ptrdiff_t)turned[n_i]);
    check_around(6, "values of x'");

    /* All elements are listed; a vector more has room. */
    ptrdiff_t most = ROWS * n, room = most + kernels->panel / 2;
    const void *y = locked(0, matrix(0, dtype, ROWS, n, l, 1, 2));
    int64_t *begin = place(4, (ROWS + 1) * sizeof *begin);
    int32_t *listed = place(1, (size_t)room * sizeof *listed);
    value = array(3, dtype, room, 0, 0);
    ptrdiff_t end = kernels->list_rows(ROWS, n, y, l.ld, l.gap, n, 0, begin, listed, value);
    CHECK(end == most, "%td terms", end);
    check_around(3, "listed rows");
    fr_sparse_rows terms = {NULL, locked(4, begin), locked(1, listed), locked(3, value)};
    kernels->pick(ROWS, &terms, y, l.ld, l.gap, array(5, dtype, most, 0, 0));
    check_around(5, "picked");
    kernels->add_listed(ROWS, &terms, array(5, dtype, n, 0, 0));
    check_around(5, "column sums");
    /* w (n, n) stands as y does, but for its number of rows */
    layout of_w = {l.ld, l.gap == 0 ? 0 : (n - 1) * l.ld};
    const void *w = locked(2, matrix(2, dtype, n, n, of_w, -1, 1));
    kernels->listed_product(ROWS, n, &terms, y, l.ld, l.gap, w, of_w.ld, of_w.gap,
                            array(5, dtype, most, 0, 0));
    check_around(5, "product at listed terms");
}

/* ---- calls ---- */

static void guard_dense(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out)
{
    test_case("guard dense %td x %td %s %s", n_in, n_out, name_of(dtype), fr_isa());
    for (int f = 0; f < FR_N_ACTIVATIONS; f++) {
        const void *x = locked(0, matrix(0, dtype, ROWS, n_in, plain(n_in), -1, 1));
        const void *kernel = locked(1, matrix(1, dtype, n_in, n_out, plain(n_out), -1, 1));
        const void *bias = locked(2, array(2, dtype, n_out, -1, 1));
        void *y = matrix(3, dtype, ROWS, n_out, plain(n_out), 0, 0);
        CHECK(fr_dense_forward(dtype, ROWS, n_in, n_out, x, kernel, bias, f, test_curve, y,
                               2) == FR_OK,
              "forward");
        check_around(3, "y");
        locked(3, y);
        const void *dy = locked(4, matrix(4, dtype, ROWS, n_out, plain(n_out), -1, 1));
        void *dx = matrix(5, dtype, ROWS, n_in, plain(n_in), 0, 0);
        void *dkernel = matrix(6, dtype, n_in, n_out, plain(n_out), 0, 0);
        void *dbias = array(7, dtype, n_out, 0, 0);
        CHECK(fr_dense_backward(dtype, ROWS, n_in, n_out, x, kernel, oracle_wants_z(f) ? dy : y, dy,
                                f, test_curve, dx, dkernel, dbias, 2) == FR_OK,
              "backward");
        check_around(5, "dx");
        check_around(6, "dkernel");
        check_around(7, "dbias");
    }
}

static void guard_elementwise(fr_dtype dtype, ptrdiff_t n)
{
    test_case("guard elementwise calls n %td %s %s", n, name_of(dtype), fr_isa());
    fr_regularizer r = {0.1, 0.2};
    double value;
    const void *x = locked(0, matrix(0, dtype, ROWS, n, plain(n), 0.1, 0.9));
    const void *dy = locked(1, matrix(1, dtype, ROWS, n, plain(n), -1, 1));
    for (int f = 0; f < FR_N_ACTIVATIONS; f++) {
        void *out = matrix(2, dtype, ROWS, n, plain(n), 0, 0);
        CHECK(fr_activation_forward(dtype, ROWS, n, x, f, test_curve, out) == FR_OK, "forward");
        CHECK(fr_activation_forward(dtype, ROWS, n, out, f, test_curve, out) == FR_OK, "forward in place");
        check_around(2, "y");
        CHECK(fr_activation_backward(dtype, ROWS, n, x, dy, f, test_curve, out) == FR_OK, "backward");
        CHECK(fr_activation_backward(dtype, ROWS, n, x, out, f, test_curve, out) == FR_OK, "backward in place");
        check_around(2, "dz");
    }
    CHECK(fr_penalty(dtype, n, x, r, &value) == FR_OK && isfinite(value), "penalty");
    void *out = array(2, dtype, n, 0, 0);
    CHECK(fr_penalty_gradient(dtype, n, x, r, out) == FR_OK, "penalty gradient");
    check_around(2, "penalty gradient");
    out = matrix(2, dtype, ROWS, n, plain(n), 0, 0);
    CHECK(fr_noise(dtype, FR_LAYER_dropout, ROWS, n, x, 0.5, 3, 0, 0, out) == FR_OK, "dropout");
    check_around(2, "dropout");

    const void *weight = locked(4, array(4, dtype, ROWS, 0, 1));
    for (int loss = 0; loss < FR_N_LOSSES; loss++) {
        const void *target = x;
        fr_loss_settings s;
        oracle_settings(loss, 0, &s);
        if (loss == FR_LOSS_sparse_categorical_crossentropy) {
            int32_t *label = place(3, ROWS * sizeof *label);
            for (int i = 0; i < ROWS; i++) label[i] = (int32_t)test_below(n);
            target = locked(3, label);
        }
        out = matrix(2, dtype, ROWS, n, plain(n), 0, 0);
        CHECK(fr_loss(dtype, loss, s, ROWS, n, target, x, weight, &value, out) == FR_OK, "loss");
        CHECK(fr_loss(dtype, loss, s, ROWS, n, target, x, NULL, NULL, out) == FR_OK, "gradient");
        CHECK(fr_loss(dtype, loss, s, ROWS, n, target, x, NULL, &value, NULL) == FR_OK, "value");
        CHECK(isfinite(value), "loss %g", value);
        check_around(2, "loss gradient");
    }
    fr_optimizer adam = {.kind = FR_OPTIMIZER_adam,
                         .learning_rate = 0.1,
                         .beta_1 = 0.9,
                         .beta_2 = 0.99,
                         .epsilon = 1e-7};
    void *w = array(5, dtype, n, -1, 1);
    void *slots[4] = {array(6, dtype, n, 0, 1), array(7, dtype, n, 0, 1), NULL, NULL};
    CHECK(fr_update(dtype, &adam, 0, n, w, dy, slots, r) == FR_OK, "update");
    check_around(5, "w");
    check_around(6, "m");
    check_around(7, "v");
}

static void guard_network(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out)
{
    enum { BATCH = 5, N = 12 };
    test_case("guard network %td to %td %s %s", n_in, n_out, name_of(dtype), fr_isa());
    fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = n_in,
         .n_out = 7,
         .activation = FR_ACTIVATION_tanh,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {0.01, 0.01},
         .activity = {0.01, 0.01}},
        {.kind = FR_LAYER_dropout, .n_in = 7, .n_out = 7, .rate = 0.3},
        {.kind = FR_LAYER_dense,
         .n_in = 7,
         .n_out = n_out,
         .activation = FR_ACTIVATION_softmax,
         .use_bias = 1,
         .trainable = 1},
    };
    fr_network *network = NULL;
    CHECK(fr_network_create(&network, dtype, layers, 3) == FR_OK, "create");
    const void *kernel = locked(0, array(0, dtype, n_in * 7, -1, 1));
    CHECK(fr_network_set(network, -1, 0, 0, kernel) == FR_OK, "set");
    const void *bias = locked(1, array(1, dtype, 7, -1, 1));
    CHECK(fr_network_set(network, -1, 0, 1, bias) == FR_OK, "set");

    const void *x = locked(2, matrix(2, dtype, N, n_in, plain(n_in), -1, 1));
    const void *soft = locked(3, matrix(3, dtype, N, n_out, plain(n_out), 0, 1));
    const void *weight = locked(4, array(4, dtype, N, 0.1, 1));
    int64_t *index = place(5, N * sizeof *index);
    for (int i = 0; i < N; i++) index[i] = N - 1 - i;
    locked(5, index);
    int32_t *label = place(6, N * sizeof *label);
    for (int i = 0; i < N; i++) label[i] = (int32_t)test_below(n_out);
    locked(6, label);
    for (int loss = 0; loss < FR_N_LOSSES; loss++) {
        bool labels = loss == FR_LOSS_sparse_categorical_crossentropy;
        fr_loss_settings settings;
        oracle_settings(loss, 0, &settings);
        fr_training call = {
            .data =
                {.n_rows = N, .x = x, .y = labels ? label : soft, .weight = weight, .index = index},
            .stop = N,
            .batch_size = BATCH,
            .loss = loss,
            .loss_settings = settings,
            .accuracy = labels ? FR_ACCURACY_sparse_categorical : FR_ACCURACY_categorical,
            .optimizer = {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.01, .momentum = 0.9},
            .n_threads = 1,
        };
        double ledger[FR_LEDGER_SIZE] = {0};
        ptrdiff_t steps;
        CHECK(fr_network_train(network, &call, ledger, &steps) == FR_OK && steps == 3, "train");
        CHECK(fr_network_evaluate(network, &call, ledger) == FR_OK, "evaluate");
    }
    void *out = matrix(7, dtype, N, n_out, plain(n_out), 0, 0);
    CHECK(fr_network_forward(network, N, x, out, 1) == FR_OK, "forward");
    check_around(7, "out");
    out = array(7, dtype, n_in * 7, 0, 0);
    CHECK(fr_network_get(network, -1, 0, 0, out) == FR_OK, "get");
    check_around(7, "kernel");
    fr_network_destroy(network);
}

static void guard_target(fr_dtype dtype)
{
    for (int end = 0; end < 2; end++) {
        at_end = end;
        for (ptrdiff_t n = 1; n <= 2 * LONGEST_LANES + 1; n++) {
            const layout layouts[] = {plain(n), plain(n + 3), in_panels(dtype, ROWS + 1)};
            for (int i = 0; i < 3; i++) {
                guard_forward(dtype, n, layouts[i]);
                guard_backward(dtype, n, layouts[i]);
                guard_losses(dtype, n, layouts[i]);
                guard_noise(dtype, n, layouts[i]);
                guard_normalization(dtype, n, layouts[i]);
                guard_rates(dtype, n, layouts[i]);
                guard_pack(dtype, n, layouts[i]);
                guard_rows(dtype, n, layouts[i]);
                if (!layouts[i].gap) guard_update(dtype, n, layouts[i]);
                if (!layouts[i].gap) guard_steps(dtype, n, layouts[i]);
            }
            guard_products(dtype, n);
            if (dtype == FR_FLOAT32) guard_pairs(n);
            guard_sparse(dtype, n);
            guard_arrays(dtype, n);
            guard_elementwise(dtype, n);
            guard_dense(dtype, n, 2 * LONGEST_LANES + 2 - n);
            guard_network(dtype, n, 2 * LONGEST_LANES + 2 - n);
        }
        /* blocks of four vectors, and of dropout */
        for (ptrdiff_t n = 63; n <= 66; n++) {
            guard_backward(dtype, n, plain(n));
            guard_noise(dtype, n, plain(n));
            guard_noise(dtype, n, in_panels(dtype, ROWS));
        }
    }
}

void test_guard(void)
{
    fr_blas_set(naive_sgemm, naive_dgemm);
    build_fences();
    test_each_target(guard_target);
    for (int i = 0; i < N_FENCES; i++) munmap(fences[i].pages - page, (PAGES + 2) * page);
    free(around);
}
