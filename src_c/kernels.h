/* The table of compiled kernels: one for each ISA and dtype, all from the bodies in kernels/.
 *
 * Matrices are rows x n, cut into column panels of the table's `panel` width: element (r, j) stands at
 * r * ld + j + (j / panel) * gap. Row-major is gap = 0; where every panel is contiguous, ld = panel and
 * gap = (rows - 1) * panel. Pointers are to the table's dtype.
 */
#ifndef FR_KERNELS_H
#define FR_KERNELS_H

#include "fastreg.h"
#include <stdbool.h>

/* Sums of |y| and y^2: what every L1/L2 penalty is made of. */
typedef struct {
    double abs, square;
} fr_sums;

typedef struct {
    ptrdiff_t rows, n;
    void *y;
    ptrdiff_t ld, gap;
    const void *bias; /* (n) or NULL */
    fr_sums *sums;    /* += of f(y + bias), or NULL */
    fr_curve curve;
    void *slope; /* as y: where keeps_slope, out: f'(y + bias); or NULL */
} fr_forward_tile;

typedef struct {
    ptrdiff_t rows, n;
    const void *y; /* f(z) */
    const void *slope; /* as y: where keeps_slope, f'(z) */
    ptrdiff_t ld;
    void *d; /* dy, replaced by dz = f'(z) (dy + activity gradient at y) */
    ptrdiff_t ld_d, gap;
    fr_regularizer activity; /* already divided by the batch */
    void *dbias;             /* (n): column sums of dz, or NULL */
} fr_backward_tile;

typedef struct {
    ptrdiff_t rows, n;
    void *y; /* output f(z); the fused losses read z and leave f(z) */
    ptrdiff_t ld, gap;
    const void *target; /* real (rows, n) or int32 (rows), contiguous */
    const void *weight; /* real (rows) or NULL */
    void *d;            /* gradient of the sum of losses times `scale`, or NULL */
    ptrdiff_t ld_d;
    double scale; /* 1 / n_batch */
    const fr_loss_settings *settings;
    int accuracy;
    double loss, correct; /* out: sum of weight * loss, rows predicted right */
} fr_loss_tile;

typedef struct {
    ptrdiff_t rows, n;
    const void *x;
    ptrdiff_t ld_x;
    void *y;
    ptrdiff_t ld_y, gap;
    void *factor; /* dy/dx, for the backward pass; laid out as y, or NULL; gaussian_noise has none */
    double rate, stddev;
    uint64_t seed;
    ptrdiff_t first_row; /* in the batch */
    uint32_t layer, iteration;
} fr_noise_tile;

/* x and y have one layout, and so have dy and dx; y may be x, dx may be dy. */
typedef struct {
    ptrdiff_t rows, n, n_rows; /* n_rows: of the batch, where columns are normalized */
    const void *x;
    void *y;
    ptrdiff_t ld, gap;
    const void *gamma, *beta; /* (n), or NULL for 1 and 0 */
    double epsilon;
    bool about_zero; /* by rows: 0 in place of the mean */
    void *mean, *scale, *variance; /* by rows: mean and scale (rows) or NULL; by columns mean and variance (n) */
    const void *dy;
    void *dx;             /* or NULL by rows */
    void *dgamma, *dbeta; /* (n), or NULL */
} fr_normal_tile;

/* Rows of which the nonzeros alone are listed: the terms of row r stand from start[i] to start[i + 1],
 * i = order[r], or r without an order. */
typedef struct {
    const int64_t *order, *start;
    const int32_t *column;
    const void *value;
} fr_sparse_rows;

/* Rows of their average number of terms by which the first ones of some may exceed it (list_rows). */
enum { FR_SPARE_ROWS = 8 };

/* `n` arrays of `bytes` bytes that are read next: a product fetches them into L2 meanwhile. */
typedef struct {
    int n;
    ptrdiff_t bytes;
    const char *at[1 + FR_MOST_SLOTS];
} fr_ahead;

/* What one step's update needs beside the arrays; `rate` holds the bias corrections of Adam's kin. */
typedef struct {
    double rate, keep; /* w is first multiplied by keep = 1 - learning_rate * weight_decay */
    int l1_step;
    double shrink; /* l1 takes shrink * l1 from |w|, divided by the denominator where there is one */
    double momentum, beta_1, beta_2, epsilon;
    double gradient_rate; /* nadam: of g beside its mean */
    double inverse_rate, power, l1, l2, l2_shrinkage; /* ftrl */
    int nesterov, amsgrad, centered;
    fr_regularizer regularizer;
} fr_update_step;

/* What is done to a gradient as a whole: the sum of batches, the penalty's part, a bound. */
typedef struct {
    bool is_last; /* of the batches that are summed */
    double share; /* 1 / their number */
    double limit; /* of |g|, or INFINITY */
    fr_regularizer regularizer;
} fr_gradient_step;

/* What an update kernel takes: the optimizer's own slots first, those that it does not have NULL, then the
 * cumulative L1 step's. */
enum { FR_OWN_SLOTS = 3, FR_UPDATE_SLOTS = FR_OWN_SLOTS + 2 };

/* The l1_step of a group whose elements share one d: w is only decayed. In place of the cumulative L1 step's
 * slots come the optimizer's step times d, which may be dw, and d, 1 where the optimizer has none. */
enum { FR_L1_STEP_group = FR_N_L1_STEPS };

typedef void fr_forward_kernel(const fr_forward_tile *tile);
typedef void fr_backward_kernel(const fr_backward_tile *tile);
typedef void fr_loss_kernel(fr_loss_tile *tile);
typedef void fr_noise_kernel(const fr_noise_tile *tile);
typedef void fr_normal_kernel(const fr_normal_tile *tile);
/* rows x n with ld from row to row, in all arrays. sums: += of the old w, abs where the regularizer has
 * l1, square where it has l2; the other one may change. */
typedef void fr_update_kernel(const fr_update_step *step, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld,
                              void *w, const void *dw, void *const *slots, fr_sums *sums);

typedef struct {
    const char *isa;
    fr_dtype dtype;
    ptrdiff_t panel;
    /* Where whole_rows, the tile must hold all columns; elsewhere one panel, or row-major columns. */
    bool whole_rows[FR_N_ACTIVATIONS];
    /* Where y = 0 says that f'(z) = 0, of leaky_relu for an alpha of 0 and a threshold of 0 or more. */
    bool rests[FR_N_ACTIVATIONS];
    /* Where f'(z) does not follow from y: forward gives it, backward takes it. */
    bool keeps_slope[FR_N_ACTIVATIONS];
    fr_forward_kernel *forward[FR_N_ACTIVATIONS];
    fr_backward_kernel *backward[FR_N_ACTIVATIONS];
    fr_loss_kernel *loss[FR_N_LOSSES];
    /* the loss fused with the last activation, or NULL */
    fr_loss_kernel *fused_loss[FR_N_LOSSES][FR_N_ACTIVATIONS];
    fr_update_kernel *update[FR_N_OPTIMIZERS];
    fr_sums (*sums)(ptrdiff_t n, const void *w);
    void (*penalty_gradient)(ptrdiff_t n, const void *w, fr_regularizer r, void *dw);
    void (*add)(ptrdiff_t n, const void *x, void *y); /* y += x */
    /* Of rates.inc: a panel's column sums; from those of all panels, `next` apart, the penalty of their means over
     * n_rows rows, and in `slope` (n) its gradient, times `each`, by an element of a column; y += row, for each of
     * y's rows. */
    void (*column_sums)(ptrdiff_t rows, ptrdiff_t n, const void *y, ptrdiff_t ld, void *sums);
    double (*rates)(ptrdiff_t n_panels, ptrdiff_t next, ptrdiff_t n, const void *sums, ptrdiff_t n_rows,
                    fr_kl penalty, double each, void *slope);
    void (*add_to_rows)(ptrdiff_t rows, ptrdiff_t n, const void *row, void *y, ptrdiff_t ld);
    /* Of rows x n, ld from row to row; one number a row, or by_column one a column. */
    void (*group_squares)(bool by_column, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *w,
                          double *squares); /* += */
    void (*group_largest)(bool by_column, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *x,
                          void *largest); /* of x >= 0 and itself */
    void (*group_add)(bool by_column, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *shared,
                      const void *x, void *y); /* y += shared x */
    void (*group_soften)(bool by_column, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *shared,
                         void *w); /* w = S(w, shared) */
    /* Around the update (steps.inc); sum may be NULL, square is added to. */
    void (*change_gradient)(const fr_gradient_step *step, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld,
                            const void *w, void *dw, void *sum, fr_sums *sums, double *square);
    void (*scale)(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, double factor, void *x);
    void (*move_average)(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, double momentum, bool overwritten,
                         void *w, void *average);
    void (*non_negative)(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, void *w);
    void (*group_scale)(bool by_column, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t ld, const void *shared,
                        void *w);
    void (*fill)(ptrdiff_t n, double value, void *y);
    fr_noise_kernel *noise[FR_N_LAYER_KINDS]; /* NULL of the kinds that are none */
    /* Of normalization.inc: a row's mean and variance; a column's, by moments that are put together. */
    fr_normal_kernel *normalize_rows, *normalize_rows_backward;
    fr_normal_kernel *column_moments, *normalize_columns, *normalize_columns_sums, *normalize_columns_backward;
    void (*combine_moments)(ptrdiff_t n_panels, ptrdiff_t each, ptrdiff_t n_rows, ptrdiff_t n, ptrdiff_t next,
                            const void *means, const void *squares, void *mean, void *variance);
    /* The products on contiguous panels: c = a b and dw = x'dz for one panel of columns, n of them live.
     * a_next: elements from a panel of a to the next. */
    void (*product)(ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n, const void *a, ptrdiff_t a_next,
                    const void *b, void *c, const fr_ahead *ahead);
    void (*kernel_product)(ptrdiff_t n_batch, ptrdiff_t n_i, ptrdiff_t n, const void *x,
                           const void *dz, void *dw, const fr_ahead *ahead);
    void (*transpose)(ptrdiff_t n_i, ptrdiff_t n_o, const void *w, void *wt);
    /* y (rows, n) = x W, n <= few_units, by W' (n, depth) in panels. */
    ptrdiff_t few_units;
    void (*turned_product)(ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n, const void *x, ptrdiff_t x_next,
                           const void *wt, void *y);
    /* Plain rows, n apart, into a tile and back; row r is the plain row index[r], or r without one. */
    void (*pack)(ptrdiff_t rows, ptrdiff_t n, const void *plain, const int64_t *index, void *panels,
                 ptrdiff_t ld, ptrdiff_t gap);
    void (*unpack)(ptrdiff_t rows, ptrdiff_t n, const void *panels, ptrdiff_t ld, ptrdiff_t gap,
                   void *plain);
    /* y = x * factor over rows x n, both factor and y with ld_y */
    void (*multiply)(ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t ld_x, const void *factor,
                     ptrdiff_t ld_factor, void *y, ptrdiff_t ld_y);
    /* c (rows, n) = a b for up to 8 vectors of columns; b and c have whole vectors */
    void (*sparse_product)(ptrdiff_t rows, ptrdiff_t n, const fr_sparse_rows *a, const void *b,
                           ptrdiff_t ld_b, void *c, ptrdiff_t ld_c);
    /* Up to `lanes` rows of a tile as columns (n, lanes) of whole vectors, and back into one panel. */
    ptrdiff_t lanes;
    void (*to_lanes)(ptrdiff_t rows, ptrdiff_t n, const void *y, ptrdiff_t ld, ptrdiff_t gap,
                     void *lanes);
    void (*from_lanes)(ptrdiff_t rows, ptrdiff_t n, const void *lanes, void *y, ptrdiff_t ld);
    ptrdiff_t (*count_nonzero)(ptrdiff_t n, const void *w);
    ptrdiff_t (*compress)(ptrdiff_t n, const void *w, ptrdiff_t ld, ptrdiff_t end, int32_t *row,
                          void *value);
    /* Of a batch in compressed rows: where the columns from `first` begin, those columns' terms by columns,
     * and the rows with all their zeros (sparse.inc). */
    void (*seek)(ptrdiff_t rows, const fr_sparse_rows *x, ptrdiff_t first, int64_t *cursor);
    void (*turn)(ptrdiff_t rows, const fr_sparse_rows *x, ptrdiff_t first, ptrdiff_t n, int64_t *cursor,
                 int64_t *start, int32_t *row, void *value);
    void (*spread)(ptrdiff_t rows, ptrdiff_t n, const fr_sparse_rows *x, void *y, ptrdiff_t ld,
                   ptrdiff_t gap);
    /* The elements of a matrix that are not 0 as such rows; d w' at the terms of x alone; the elements of y
     * there; the sums of its columns. */
    ptrdiff_t (*list_rows)(ptrdiff_t rows, ptrdiff_t n, const void *y, ptrdiff_t ld, ptrdiff_t gap,
                           ptrdiff_t most, ptrdiff_t end, int64_t *start, int32_t *column, void *value);
    void (*listed_product)(ptrdiff_t rows, ptrdiff_t n, const fr_sparse_rows *x, const void *d,
                           ptrdiff_t ld_d, ptrdiff_t gap_d, const void *w, ptrdiff_t ld_w,
                           ptrdiff_t gap_w, void *out);
    void (*pick)(ptrdiff_t rows, const fr_sparse_rows *x, const void *y, ptrdiff_t ld, ptrdiff_t gap,
                 void *out);
    void (*add_listed)(ptrdiff_t rows, const fr_sparse_rows *x, void *sums);
} fr_kernels;

/* What a network needs that multiplies in bfloat16 (kernels/bfloat16.inc), beside the table for float32. */
typedef struct {
    void (*product)(ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n, const void *a_across, ptrdiff_t a_next,
                    const void *b_down, void *c, const fr_ahead *ahead);
    void (*kernel_product)(ptrdiff_t n_batch, ptrdiff_t n_i, ptrdiff_t n, const void *x_down,
                           const void *dz_down, void *dw, const fr_ahead *ahead);
    void (*panel)(ptrdiff_t rows, ptrdiff_t n, const void *x, void *across, void *down);
    void (*transpose)(ptrdiff_t n_i, ptrdiff_t n_o, const void *w, void *down);
} fr_pair_kernels;
extern const fr_pair_kernels fr_pairs_avx512;

/* Whether networks leave zeros out: of kernels at inference, of activations in training. */
typedef enum { FR_SPARSE_AUTO, FR_SPARSE_NEVER, FR_SPARSE_ALWAYS, FR_N_SPARSE } fr_sparse_use;

/* The table in use, whether networks multiply by its products or by BLAS, and fr_sparse_choose's. */
const fr_kernels *fr_kernels_for(fr_dtype dtype);
bool fr_gemm_native(void);
/* NULL where the ISA in use or the CPU has none. */
const fr_pair_kernels *fr_pair_kernels_for_use(void);
fr_sparse_use fr_sparse_chosen(void);

#define FR_TARGET_TABLES(ENTRY)                                                                    \
    ENTRY(baseline_float32)                                                                        \
    ENTRY(baseline_float64) ENTRY(avx2_float32) ENTRY(avx2_float64) ENTRY(avx512_float32)          \
        ENTRY(avx512_float64) ENTRY(neon_float32) ENTRY(neon_float64)
#define FR_TARGET_DECLARATION(name) extern const fr_kernels fr_table_##name;
FR_TARGET_TABLES(FR_TARGET_DECLARATION)

#endif
