/* The kernels as functions on the caller's arrays. */
#include "fastreg.h"

#include "base/arena.h"
#include "base/threads.h"
#include "blas.h"
#include "groups.h"
#include "network.h"
#include "optimizers.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static bool activation_valid(int activation)
{
    return activation >= 0 && activation < FR_N_ACTIVATIONS;
}

/* f'(z) of plain rows; y is room for f(z). */
static void find_slopes(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *z, int activation,
                        fr_curve curve, void *y, void *slope)
{
    memcpy(y, z, (size_t)(rows * n * fr_sizeof(dtype)));
    fr_forward_tile tile = {.rows = rows, .n = n, .y = y, .ld = n, .curve = curve, .slope = slope};
    fr_kernels_for(dtype)->forward[activation](&tile);
}

int fr_activation_wants_z(int id)
{
    return activation_valid(id) && fr_kernels_for(FR_FLOAT64)->keeps_slope[id];
}

/* ---- one dense layer ---- */

typedef struct {
    fr_dtype dtype;
    ptrdiff_t n_batch, n_in, n_out, panel;
    const void *x, *kernel, *bias, *y_in;
    int activation;
    fr_curve curve;
    void *y, *slope, *dz, *dx, *dkernel; /* backward: y and slope are scratch, where they are needed */
    char *dbias; /* (panels, n_out) */
    int phases;  /* begun so far */
} dense_call;

static fr_status dense_check(const dense_call *c)
{
    if (c->n_batch < 1 || c->n_in < 1 || c->n_out < 1 || !activation_valid(c->activation))
        return FR_BAD_ARGUMENT;
    if (c->n_batch > INT_MAX / 2 || c->n_in > INT_MAX / 2 || c->n_out > INT_MAX / 2)
        return FR_TOO_LARGE;
    return fr_blas_ready() ? FR_OK : FR_NO_BLAS;
}

static double dense_flops(const dense_call *c)
{
    return 2.0 * (double)c->n_batch * (double)c->n_in * (double)c->n_out;
}

static ptrdiff_t rows_of_panel(const dense_call *c, ptrdiff_t first)
{
    return c->n_batch - first < c->panel ? c->n_batch - first : c->panel;
}

static ptrdiff_t next_forward_phase(void *context)
{
    dense_call *c = context;
    return c->phases++ == 0 ? pieces(c->n_batch, c->panel) : 0;
}

static void forward_task(void *context, int thread, ptrdiff_t i)
{
    (void)thread;
    dense_call *c = context;
    ptrdiff_t size = fr_sizeof(c->dtype), first = i * c->panel, rows = rows_of_panel(c, first);
    void *y = fr_at(c->y, first * c->n_out, size);
    fr_product_forward(c->dtype, rows, c->n_in, c->n_out,
                       (fr_matrix){fr_at(c->x, first * c->n_in, size), c->n_in},
                       (fr_matrix){c->kernel, c->n_out}, y, c->n_out);
    fr_forward_tile tile = {
        .rows = rows, .n = c->n_out, .y = y, .ld = c->n_out, .bias = c->bias, .curve = c->curve};
    fr_kernels_for(c->dtype)->forward[c->activation](&tile);
}

fr_status fr_dense_forward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                           const void *x, const void *kernel, const void *bias, int activation,
                           fr_curve curve, void *y, int n_threads)
{
    dense_call c = {.dtype = dtype,
                    .n_batch = n_batch,
                    .n_in = n_in,
                    .n_out = n_out,
                    .panel = fr_panel_rows(n_batch),
                    .x = x,
                    .kernel = kernel,
                    .bias = bias,
                    .activation = activation,
                    .curve = curve,
                    .y = y};
    fr_status status = dense_check(&c);
    if (status == FR_OK) 
        fr_parallel(fr_threads_for(dense_flops(&c), n_threads), next_forward_phase, forward_task,
                    &c);
    return status;
}

/* dkernel in blocks of rows of the kernel: it is contiguous, so a block is too. */
enum { KERNEL_BLOCK = 256 };

static ptrdiff_t next_backward_phase(void *context)
{
    dense_call *c = context;
    switch (c->phases++) {
    case 0: return pieces(c->n_batch, c->panel);
    case 1: return pieces(c->n_in, KERNEL_BLOCK);
    default: return 0;
    }
}

static void rows_task(dense_call *c, ptrdiff_t panel)
{
    ptrdiff_t size = fr_sizeof(c->dtype), first = panel * c->panel, rows = rows_of_panel(c, first);
    void *dz = fr_at(c->dz, first * c->n_out, size), *slope = NULL;
    if (c->slope) {
        slope = fr_at(c->slope, first * c->n_out, size);
        find_slopes(c->dtype, rows, c->n_out, fr_at(c->y_in, first * c->n_out, size), c->activation,
                    c->curve, fr_at(c->y, first * c->n_out, size), slope);
    }
    fr_backward_tile tile = {
        .rows = rows,
        .n = c->n_out,
        .y = fr_at(c->y_in, first * c->n_out, size),
        .slope = slope,
        .ld = c->n_out,
        .d = dz,
        .ld_d = c->n_out,
        .dbias = fr_at(c->dbias, panel * c->n_out, size),
    };
    fr_kernels_for(c->dtype)->backward[c->activation](&tile);
    if (c->dx)
        fr_product_backward(c->dtype, rows, c->n_in, c->n_out, (fr_matrix){dz, c->n_out},
                            (fr_matrix){c->kernel, c->n_out}, fr_at(c->dx, first * c->n_in, size),
                            c->n_in);
}

static void backward_task(void *context, int thread, ptrdiff_t task)
{
    (void)thread;
    dense_call *c = context;
    if (c->phases == 1) {
        rows_task(c, task);
        return;
    }
    ptrdiff_t size = fr_sizeof(c->dtype), i = task * KERNEL_BLOCK;
    ptrdiff_t n_i = c->n_in - i < KERNEL_BLOCK ? c->n_in - i : KERNEL_BLOCK;
    fr_product_kernel(c->dtype, c->n_batch, n_i, c->n_out,
                      (fr_matrix){fr_at(c->x, i, size), c->n_in}, (fr_matrix){c->dz, c->n_out},
                      fr_at(c->dkernel, i * c->n_out, size), c->n_out);
}

fr_status fr_dense_backward(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                            const void *x, const void *kernel, const void *y, const void *dy,
                            int activation, fr_curve curve, void *dx, void *dkernel, void *dbias,
                            int n_threads)
{
    dense_call c = {.dtype = dtype,
                    .n_batch = n_batch,
                    .n_in = n_in,
                    .n_out = n_out,
                    .panel = fr_panel_rows(n_batch),
                    .x = x,
                    .kernel = kernel,
                    .y_in = y,
                    .activation = activation,
                    .curve = curve,
                    .dx = dx,
                    .dkernel = dkernel};
    fr_status status = dense_check(&c);
    if (status != FR_OK) return status;
    ptrdiff_t size = fr_sizeof(dtype), n_panels = pieces(n_batch, c.panel);
    fr_arena arena = {0};
    for (int pass = 0; pass < 2; pass++) {
        c.dz = fr_arena_take(&arena, fr_size_product(n_batch, n_out), size);
        c.dbias = fr_arena_take(&arena, fr_size_product(n_panels, n_out), size);
        if (fr_activation_wants_z(activation)) {
            c.y = fr_arena_take(&arena, fr_size_product(n_batch, n_out), size);
            c.slope = fr_arena_take(&arena, fr_size_product(n_batch, n_out), size);
        }
        if (pass == 0 && !fr_arena_allocate(&arena))
            return arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    memcpy(c.dz, dy, (size_t)(n_batch * n_out * size));
    fr_parallel(fr_threads_for(2 * dense_flops(&c), n_threads), next_backward_phase, backward_task,
                &c);
    memset(dbias, 0, (size_t)(n_out * size));
    for (ptrdiff_t p = 0; p < n_panels; p++)
        fr_kernels_for(dtype)->add(n_out, fr_at(c.dbias, p * n_out, size), dbias);
    fr_arena_free(&arena);
    return FR_OK;
}

/* ---- elementwise; y may be z, dz may be dy (not y) ---- */

static void copy(void *to, const void *from, ptrdiff_t n, ptrdiff_t size)
{
    if (to != from) memcpy(to, from, (size_t)(n * size));
}

fr_status fr_activation_forward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *z,
                                int activation, fr_curve curve, void *y)
{
    if (!activation_valid(activation)) return FR_BAD_ARGUMENT;
    fr_forward_tile tile = {.rows = rows, .n = n, .y = y, .ld = n, .curve = curve};
    copy(y, z, rows * n, fr_sizeof(dtype));
    fr_float_state before = fr_flush_to_zero();
    fr_kernels_for(dtype)->forward[activation](&tile);
    fr_float_restore(before);
    return FR_OK;
}

fr_status fr_activation_backward(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y,
                                 const void *dy, int activation, fr_curve curve, void *dz)
{
    if (!activation_valid(activation)) return FR_BAD_ARGUMENT;
    fr_backward_tile tile = {.rows = rows, .n = n, .y = y, .ld = n, .d = dz, .ld_d = n};
    fr_arena arena = {0};
    void *scratch = NULL, *slope = NULL;
    for (int pass = 0; pass < 2 && fr_activation_wants_z(activation); pass++) {
        scratch = fr_arena_take(&arena, fr_size_product(rows, n), fr_sizeof(dtype));
        slope = fr_arena_take(&arena, fr_size_product(rows, n), fr_sizeof(dtype));
        if (pass == 0 && !fr_arena_allocate(&arena))
            return arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    fr_float_state before = fr_flush_to_zero();
    if (slope) find_slopes(dtype, rows, n, y, activation, curve, scratch, slope);
    tile.slope = slope;
    copy(dz, dy, rows * n, fr_sizeof(dtype));
    fr_kernels_for(dtype)->backward[activation](&tile);
    fr_float_restore(before);
    fr_arena_free(&arena);
    return FR_OK;
}

int fr_is_finite(fr_dtype dtype, ptrdiff_t n, const void *x)
{
    return isfinite(fr_kernels_for(dtype)->sums(n, x).abs);
}

fr_status fr_penalty(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r, double *value)
{
    fr_sums sums = fr_kernels_for(dtype)->sums(n, w);
    *value = (r.l1 != 0 ? r.l1 * sums.abs : 0) + (r.l2 != 0 ? r.l2 * sums.square : 0);
    return FR_OK;
}

fr_status fr_penalty_gradient(fr_dtype dtype, ptrdiff_t n, const void *w, fr_regularizer r,
                              void *dw)
{
    fr_kernels_for(dtype)->penalty_gradient(n, w, r, dw);
    return FR_OK;
}

fr_status fr_kl_penalty(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *y, fr_kl penalty,
                        double *value, void *dy)
{
    if (rows < 1 || n < 1 || !fr_kl_valid(penalty) || !(penalty.rate > 0)) return FR_BAD_ARGUMENT;
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t size = fr_sizeof(dtype), each = 128, n_panels = pieces(rows, each);
    fr_arena arena = {0};
    void *sums = NULL, *slope = NULL;
    for (int pass = 0; pass < 2; pass++) {
        sums = fr_arena_take(&arena, fr_size_product(n_panels, n), size);
        slope = fr_arena_take(&arena, n, size);
        if (pass == 0 && !fr_arena_allocate(&arena)) return arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    for (ptrdiff_t p = 0; p < n_panels; p++)
        kernels->column_sums(smaller(each, rows - p * each), n, fr_at(y, p * each * n, size), n,
                             fr_at(sums, p * n, size));
    double found = kernels->rates(n_panels, n, n, sums, rows, penalty, 1, slope);
    if (value) *value = found;
    if (dy) {
        memset(dy, 0, (size_t)(rows * n * size));
        kernels->add_to_rows(rows, n, slope, dy, n);
    }
    fr_arena_free(&arena);
    return FR_OK;
}

fr_status fr_group_penalty(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, const void *w,
                           const fr_groups *groups, double *value)
{
    fr_group_plan p;
    fr_status status = fr_groups_plan(&p, dtype, groups, n_in, n_out, n_out);
    if (status != FR_OK) return status;
    *value = fr_groups_norms(&p, fr_groups_all(&p), w);
    fr_groups_free(&p);
    return FR_OK;
}

fr_status fr_group_penalty_gradient(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, const void *w,
                                    const fr_groups *groups, void *dw)
{
    fr_group_plan p;
    fr_status status = fr_groups_plan(&p, dtype, groups, n_in, n_out, n_out);
    if (status != FR_OK) return status;
    memset(dw, 0, (size_t)(n_in * n_out * fr_sizeof(dtype)));
    fr_groups_norms(&p, fr_groups_all(&p), w);
    fr_groups_add_gradient(&p, fr_groups_all(&p), w, dw);
    fr_groups_free(&p);
    return FR_OK;
}

fr_status fr_group_prox(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t n_out, void *w, double step,
                        double l1, const fr_groups *groups)
{
    fr_group_plan p;
    fr_status status = fr_groups_plan(&p, dtype, groups, n_in, n_out, n_out);
    if (status != FR_OK) return status;
    for (ptrdiff_t g = 0; g < groups->n_groups; g++) p.number[g] = step;
    if (l1 > 0) fr_groups_soften(&p, fr_groups_all(&p), step * l1, w);
    fr_groups_prox(&p, fr_groups_all(&p), 0, w);
    fr_groups_free(&p);
    return FR_OK;
}

fr_status fr_loss(fr_dtype dtype, int loss, fr_loss_settings settings, ptrdiff_t rows, ptrdiff_t n,
                  const void *y_true, const void *y_pred, const void *weight, double *value, void *dy)
{
    if (!fr_loss_valid(loss, &settings) || rows < 1 || n < 1) return FR_BAD_ARGUMENT;
    fr_loss_tile tile = {
        .rows = rows,
        .n = n,
        .y = (void *)y_pred, /* the plain losses only read it */
        .ld = n,
        .target = y_true,
        .weight = weight,
        .d = dy,
        .ld_d = n,
        .scale = 1.0 / (double)rows,
        .settings = &settings,
    };
    fr_kernels_for(dtype)->loss[loss](&tile);
    if (value) *value = tile.loss / (double)rows;
    return FR_OK;
}

static fr_normal_tile plain_normal_tile(ptrdiff_t rows, ptrdiff_t n, const void *x, const void *gamma,
                                        const void *beta, double epsilon, void *y)
{
    return (fr_normal_tile){
        .rows = rows, .n = n, .x = x, .y = y, .ld = n, .gamma = gamma, .beta = beta, .epsilon = epsilon};
}

fr_status fr_normalize_rows(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x, const void *gamma,
                            const void *beta, double epsilon, int about_zero, void *y)
{
    if (!(epsilon > 0)) return FR_BAD_ARGUMENT;
    fr_normal_tile tile = plain_normal_tile(rows, n, x, gamma, beta, epsilon, y);
    tile.about_zero = about_zero;
    fr_kernels_for(dtype)->normalize_rows(&tile);
    return FR_OK;
}

fr_status fr_normalize_columns(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, const void *x, const void *mean,
                               const void *variance, const void *gamma, const void *beta, double epsilon,
                               void *y)
{
    if (!(epsilon > 0)) return FR_BAD_ARGUMENT;
    fr_normal_tile tile = plain_normal_tile(rows, n, x, gamma, beta, epsilon, y);
    tile.mean = (void *)mean, tile.variance = (void *)variance; /* only read */
    fr_kernels_for(dtype)->normalize_columns(&tile);
    return FR_OK;
}

fr_status fr_noise(fr_dtype dtype, int kind, ptrdiff_t rows, ptrdiff_t n, const void *x, double amount,
                   uint64_t seed, int64_t iteration, ptrdiff_t layer, void *y)
{
    if (kind < 0 || kind >= FR_N_LAYER_KINDS || !fr_kernels_for(dtype)->noise[kind]) return FR_BAD_ARGUMENT;
    double most = kind == FR_LAYER_gaussian_noise ? INFINITY : 1;
    if (!(amount >= 0 && amount < most)) return FR_BAD_ARGUMENT;
    fr_noise_tile tile = {
        .rows = rows,
        .n = n,
        .x = x,
        .ld_x = n,
        .y = y,
        .ld_y = n,
        .rate = amount,
        .stddev = amount,
        .seed = seed,
        .layer = (uint32_t)layer,
        .iteration = (uint32_t)iteration,
    };
    fr_kernels_for(dtype)->noise[kind](&tile);
    return FR_OK;
}

fr_status fr_update(fr_dtype dtype, const fr_optimizer *optimizer, int64_t iteration, ptrdiff_t n,
                    void *w, const void *dw, void *const *slots, fr_regularizer r)
{
    if (!fr_optimizer_valid(optimizer) || iteration < 0)
        return FR_BAD_ARGUMENT;
    fr_update_step step = fr_update_step_of(optimizer, iteration);
    step.regularizer = r;
    fr_sums old = {0, 0};
    void *placed[FR_UPDATE_SLOTS];
    fr_place_slots(optimizer, slots, placed);
    fr_float_state before = fr_flush_to_zero();
    fr_kernels_for(dtype)->update[optimizer->kind](&step, 1, n, n, w, dw, placed, &old);
    fr_float_restore(before);
    return FR_OK;
}
