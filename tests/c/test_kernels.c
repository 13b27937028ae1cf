/* Every kernel of every table against the oracle, element by element.
 *
 * The bounds count roundings: `unit` is the relative error of one operation, and a value that is
 * made by c operations from terms of size m is off by c unit m at most. Elementary functions count
 * 16 (8 ulp). Pointers are aligned to an element and no more.
 */
#include "base/philox.h"
#include "kernels.h"
#include "oracle.h"
#include "test.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { ROWS = 4, MOST = 3000, FUNCTION = 16 };

typedef struct {
    double data[ROWS * MOST];
} buffer;

static buffer buffer_a, buffer_b, buffer_c, buffer_d, buffer_e, buffer_f, buffer_g;

/* An array that starts `offset` elements into a buffer. */
static void *array_in(buffer *b, fr_dtype dtype, ptrdiff_t offset)
{
    return at(dtype, b->data, offset);
}

/* The lengths: all tails of all vectors, blocks of four vectors, and blocks of dropout and sums. */
static ptrdiff_t length(int i)
{
    static const ptrdiff_t others[] = {127, 128, 129, 130, 1024, 1029, 2500};
    return i < 70 ? i + 1 : i < 77 ? others[i - 70] : 0;
}
enum { N_ROW_LENGTHS = 74, N_LENGTHS = 77 };

static ptrdiff_t odd_ld(ptrdiff_t n) { return n % 4 == 0 ? n : (n | 1) + 2; }

/* Where a matrix' elements stand: rows an odd number apart, or column panels of ROWS + 1 rows. */
typedef struct {
    ptrdiff_t panel, ld, gap;
} layout;

static layout layout_of(fr_dtype dtype, ptrdiff_t n, bool panels)
{
    ptrdiff_t panel = fr_kernels_for(dtype)->panel;
    return panels ? (layout){panel, panel, ROWS * panel} : (layout){panel, odd_ld(n), 0};
}

static ptrdiff_t spot(layout l, ptrdiff_t r, ptrdiff_t j)
{
    return r * l.ld + j + j / l.panel * l.gap;
}

/* Elements from the first to the last of ROWS rows. */
static ptrdiff_t extent(layout l, ptrdiff_t n) { return spot(l, ROWS - 1, n - 1) + 1; }

/* ---- comparison ---- */

typedef struct {
    double worst; /* error over bound */
    ptrdiff_t where;
    double got, want;
} match;

static void near(match *m, fr_dtype dtype, ptrdiff_t where, double got, wide want, wide bound)
{
    wide ratio = fabsl((wide)got - want) / (bound + 4 * (wide)smallest_of(dtype));
    if (!(ratio <= m->worst)) *m = (match){(double)ratio, where, got, (double)want};
    if (isnan(m->worst)) m->worst = INFINITY;
}

#define CHECK_MATCH(m, what)                                                                       \
    CHECK((m).worst <= 1, "%s: %.17g instead of %.17g at %td, %.3g times the bound", what,         \
          (m).got, (m).want, (m).where, (m).worst)

/* ---- forward ---- */

static void forward_case(fr_dtype dtype, int f, ptrdiff_t n, bool panels, bool with_bias,
                         bool with_sums)
{
    double unit = unit_of(dtype);
    layout l = layout_of(dtype, n, panels);
    void *y = array_in(&buffer_a, dtype, n % 4), *bias = array_in(&buffer_b, dtype, (n + 1) % 4);
    void *z = array_in(&buffer_c, dtype, n % 4);
    fill(dtype, y, extent(l, n), -6, 6);
    fill(dtype, bias, n, -2, 2);
    memcpy(z, y, (size_t)(extent(l, n) * size_of(dtype)));
    bool keeps = fr_kernels_for(dtype)->keeps_slope[f];
    CHECK(keeps == oracle_wants_z(f), "keeps its slope");
    void *slope = keeps ? array_in(&buffer_d, dtype, (n + 2) % 4) : NULL;
    fr_sums sums = {5, 7};
    fr_forward_tile tile = {.rows = ROWS,
                            .n = n,
                            .y = y,
                            .ld = l.ld,
                            .gap = l.gap,
                            .bias = with_bias ? bias : NULL,
                            .sums = with_sums ? &sums : NULL,
                            .curve = test_curve,
                            .slope = with_sums ? slope : NULL};
    fr_kernels_for(dtype)->forward[f](&tile);

    match m = {0}, m_sums = {0}, m_slope = {0};
    wide want_abs = 5, want_square = 7, off_abs = 0, off_square = 0;
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        wide in[MOST], out[MOST], span = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            in[j] = (wide)get(dtype, z, spot(l, r, j)) + (with_bias ? get(dtype, bias, j) : 0);
            span = fmaxl(span, fabsl(in[j]));
        }
        oracle_activation(f, test_curve, n, in, out);
        for (ptrdiff_t j = 0; j < n; j++) {
            wide bound = unit * fabsl(in[j]); /* of z; all but softmax have a slope <= 1 */
            if (f == FR_ACTIVATION_tanh || f == FR_ACTIVATION_sigmoid)
                bound = unit * (fabsl(in[j] * (1 - out[j] * out[j])) + FUNCTION * fabsl(out[j]));
            /* z - largest and z, twice; exponential; sum; inverse and product */
            if (f == FR_ACTIVATION_softmax) bound = unit * out[j] * (4 * span + FUNCTION + n + 3);
            if (f == FR_ACTIVATION_log_softmax) bound = unit * (6 * span + fabsl(out[j]) + FUNCTION + n);
            /* z's rounding at slopes up to 2, or as steep as it is high; an exponent of up to z^2 / 2 */
            if (keeps) {
                wide steep = f == FR_ACTIVATION_exponential ? out[j] : 2;
                wide of_value = FUNCTION + in[j] * in[j], one = 1, at_j;
                bound = unit * (steep * (3 + fabsl(in[j])) + of_value * fabsl(out[j]));
                oracle_activation_gradient(f, test_curve, 1, &in[j], &one, &at_j);
                if (tile.slope)
                    near(&m_slope, dtype, r * n + j, get(dtype, slope, spot(l, r, j)), at_j,
                         unit * of_value * (steep + fabsl(at_j)));
            }
            near(&m, dtype, r * n + j, get(dtype, y, spot(l, r, j)), out[j], bound);
            want_abs += fabsl(out[j]), off_abs += bound;
            want_square += out[j] * out[j], off_square += 2 * fabsl(out[j]) * bound;
        }
    }
    CHECK_MATCH(m, "y");
    if (tile.slope) CHECK_MATCH(m_slope, "slope");
    if (!with_sums) return;
    near(&m_sums, dtype, 0, sums.abs, want_abs, off_abs + (n + 4) * unit * want_abs);
    near(&m_sums, dtype, 1, sums.square, want_square, off_square + (n + 4) * unit * want_square);
    CHECK_MATCH(m_sums, "sums");
}

static void check_forward(fr_dtype dtype)
{
    for (int f = 0; f < FR_N_ACTIVATIONS; f++)
        for (int i = 0; i < N_ROW_LENGTHS; i++)
            for (int variant = 0; variant < 8; variant++) {
                bool panels = variant & 4;
                if (panels && !fr_kernels_for(dtype)->whole_rows[f]) continue;
                if (oracle_wants_z(f) && (i + f) % 5) continue; /* one body around all of these */
                test_case("forward %s n %td variant %d %s %s", fr_activation_name(f), length(i),
                          variant, name_of(dtype), fr_isa());
                forward_case(dtype, f, length(i), panels, variant & 1, variant & 2);
            }
}

/* A NaN in any lane of any activation comes out there, and relu does not turn it into 0. */
static void check_forward_of_nan(fr_dtype dtype)
{
    for (int f = 0; f < FR_N_ACTIVATIONS; f++)
        for (ptrdiff_t n = 1; n <= 40; n++) {
            test_case("forward of NaN %s n %td %s %s", fr_activation_name(f), n, name_of(dtype),
                      fr_isa());
            void *y = array_in(&buffer_a, dtype, 1);
            fill(dtype, y, n, -1, 1);
            ptrdiff_t where = test_below(n);
            put(dtype, y, where, NAN);
            fr_sums sums = {0, 0};
            fr_forward_tile tile = {
                .rows = 1, .n = n, .y = y, .ld = n, .sums = &sums, .curve = test_curve};
            fr_kernels_for(dtype)->forward[f](&tile);
            bool right = true;
            for (ptrdiff_t j = 0; j < n; j++)
                right &= isnan(get(dtype, y, j)) == (j == where || fr_kernels_for(dtype)->whole_rows[f]);
            CHECK(right, "NaN at %td alone", where);
            CHECK(isnan(sums.abs) && isnan(sums.square), "NaN in the sums");
        }
}

/* ---- backward ---- */

/* Outputs as the activation gives them, with zeros. */
static void fill_outputs(fr_dtype dtype, int f, ptrdiff_t n, ptrdiff_t count, void *y)
{
    bool negative = f == FR_ACTIVATION_linear || f == FR_ACTIVATION_tanh || oracle_wants_z(f);
    fill(dtype, y, count, negative ? -1 : f == FR_ACTIVATION_log_softmax ? -3 : 0, 1);
    for (ptrdiff_t j = 0; j < count; j++) {
        if (f == FR_ACTIVATION_relu && test_below(3) == 0) put(dtype, y, j, 0);
        if (f == FR_ACTIVATION_softmax) put(dtype, y, j, get(dtype, y, j) * 2 / (double)n);
        if (f != FR_ACTIVATION_relu && test_below(20) == 0) put(dtype, y, j, 0);
    }
}

static void backward_case(fr_dtype dtype, int f, ptrdiff_t n, bool panels, fr_regularizer activity,
                          bool with_dbias)
{
    double unit = unit_of(dtype);
    layout l = layout_of(dtype, n, panels), l_d = l;
    if (!panels) l_d.ld = n + n % 3;
    void *y = array_in(&buffer_a, dtype, n % 4), *d = array_in(&buffer_b, dtype, (n + 2) % 4);
    void *dy = array_in(&buffer_c, dtype, 0), *dbias = array_in(&buffer_d, dtype, 1);
    fill_outputs(dtype, f, n, extent(l, n), y);
    fill(dtype, d, extent(l_d, n), -1, 1);
    memcpy(dy, d, (size_t)(extent(l_d, n) * size_of(dtype)));
    fill(dtype, dbias, n, 100, 200);
    void *slope = array_in(&buffer_e, dtype, (n + 3) % 4);
    fill(dtype, slope, extent(l, n), -1, 1);
    fr_backward_tile tile = {.rows = ROWS,
                             .n = n,
                             .y = y,
                             .slope = oracle_wants_z(f) ? slope : NULL,
                             .ld = l.ld,
                             .d = d,
                             .ld_d = l_d.ld,
                             .gap = l.gap,
                             .activity = activity,
                             .dbias = with_dbias ? dbias : NULL};
    fr_kernels_for(dtype)->backward[f](&tile);

    match m = {0}, m_bias = {0};
    wide column[MOST] = {0}, column_off[MOST] = {0};
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        wide out[MOST], in[MOST], want[MOST], size[MOST], inner = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            out[j] = get(dtype, y, spot(l, r, j));
            in[j] = (wide)get(dtype, dy, spot(l_d, r, j));
            size[j] = fabsl(in[j]) + fabsl(oracle_penalty_gradient(activity, out[j]));
            in[j] += oracle_penalty_gradient(activity, out[j]);
            inner += fabsl(out[j]) * size[j];
        }
        oracle_activation_gradient(f, test_curve, n, out, in, want);
        for (ptrdiff_t j = 0; j < n && tile.slope; j++)
            want[j] = (wide)get(dtype, slope, spot(l, r, j)) * in[j];
        wide total = 0;
        for (ptrdiff_t j = 0; j < n; j++) total += size[j];
        for (ptrdiff_t j = 0; j < n; j++) {
            /* 5: l1, l2, their product and two sums; 4: the derivative with 1 - y^2 or y (1 - y) */
            wide steep = f == FR_ACTIVATION_softmax   ? fabsl(out[j])
                         : f == FR_ACTIVATION_tanh    ? 1 + out[j] * out[j]
                         : f == FR_ACTIVATION_sigmoid ? out[j]
                                                      : 1;
            wide bound = unit * 9 * steep * size[j];
            if (f == FR_ACTIVATION_softmax) bound += unit * (n + 8) * steep * inner;
            if (f == FR_ACTIVATION_log_softmax)
                bound += unit * expl(out[j]) * (n + 8 + FUNCTION + fabsl(out[j])) * total;
            near(&m, dtype, r * n + j, get(dtype, d, spot(l_d, r, j)), want[j], bound);
            column[j] += want[j];
            column_off[j] += bound + ROWS * unit * fabsl(want[j]);
        }
    }
    CHECK_MATCH(m, "dz");
    for (ptrdiff_t j = 0; j < n && with_dbias; j++)
        near(&m_bias, dtype, j, get(dtype, dbias, j), column[j], column_off[j]);
    CHECK_MATCH(m_bias, "dbias");
}

static void check_backward(fr_dtype dtype)
{
    static const fr_regularizer activities[] = {{0, 0}, {0.3, 0}, {0, 0.2}, {0.25, 0.5}};
    for (int f = 0; f < FR_N_ACTIVATIONS; f++)
        for (int i = 0; i < N_ROW_LENGTHS; i++)
            for (int variant = 0; variant < 8; variant++) {
                bool panels = variant & 4;
                if (panels && !fr_kernels_for(dtype)->whole_rows[f]) continue;
                if (oracle_wants_z(f) && (i + f) % 5) continue; /* one body around all of these */
                test_case("backward %s n %td variant %d %s %s", fr_activation_name(f), length(i),
                          variant, name_of(dtype), fr_isa());
                backward_case(dtype, f, length(i), panels, activities[variant & 3],
                              (variant & 3) != 2);
            }
}

/* ---- losses ---- */

/* A row's target: probabilities, a unit vector for the labels and half of the others. */
static int32_t fill_target(fr_dtype dtype, int loss, ptrdiff_t n, void *target)
{
    int32_t label = (int32_t)test_below(n);
    bool hard = loss == FR_LOSS_sparse_categorical_crossentropy || test_below(2);
    fill(dtype, target, n, 0, 1);
    for (ptrdiff_t j = 0; j < n && hard; j++)
        put(dtype, target, j,
            loss == FR_LOSS_binary_crossentropy ? (double)test_below(2) : j == label);
    return label;
}

/* How far the loss and its gradient, for weight 1 and scale 1, may be off. */
static void loss_bounds(int loss, const fr_loss_settings *s, bool fused, double unit, fr_dtype dtype, ptrdiff_t n,
                        const wide *y, const wide *t, const wide *p, const wide *dy, wide *off,
                        wide *off_dy)
{
    wide sum = 0, size = 0, mass = 0, span = 0, largest = 0, squares = 0;
    wide low = rounded(dtype, 1e-7), high = rounded(dtype, 1 - 1e-7);
    for (ptrdiff_t j = 0; j < n; j++) {
        sum += y[j], mass += fabsl(t[j]), span = fmaxl(span, fabsl(y[j]));
        largest = fmaxl(largest, fabsl(y[j])), squares += y[j] * y[j];
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        off_dy[j] = 6 * unit * fabsl(dy[j]);
        wide q = fminl(fmaxl(fused ? 0.5L : y[j], low), high);
        if (loss == FR_LOSS_categorical_hinge) {
            size += fabsl(t[j] * y[j]) + (largest + 1) / n;
            off_dy[j] += 6 * unit * (1 + fabsl(t[j]));
        } else if (loss == FR_LOSS_cosine_similarity) {
            size += 4 / (wide)n;
            off_dy[j] = 4 * (n + 8) * unit / sqrtl(squares);
        } else if (loss == FR_LOSS_binary_focal_crossentropy) {
            wide p = fused ? 1 / (1 + expl(-y[j])) : y[j];
            wide kept = fminl(fmaxl(p, low), high), missed = t[j] * (1 - p) + (1 - t[j]) * p;
            /* 1 - p is rounded, as below */
            wide entropy =
                fabsl(t[j]) * -logl(kept) + fabsl(1 - t[j]) * (1 / (1 - kept) - logl(1 - kept));
            wide power = fmaxl(missed, LDBL_MIN), grown = 8 + FUNCTION * (1 + fabsl(logl(power)));
            wide error = (s->gamma + 2) * grown, factor = powl(power, s->gamma) / n;
            wide slope = fabsl(1 - t[j]) / (1 - kept) + fabsl(t[j]) / kept;
            wide steep = s->gamma > 0 ? s->gamma * powl(power, s->gamma - 1) / n : 0;
            if (missed == 0 && s->gamma < 1) steep = 0;
            size += factor * entropy * error;
            off_dy[j] = unit * error * (factor * slope + steep * entropy);
            if (fused) off_dy[j] *= p * (1 - p);
        } else if (loss == FR_LOSS_mean_squared_error) {
            size += (y[j] - t[j]) * (y[j] - t[j]) / n;
        } else if (loss > FR_LOSS_sparse_categorical_crossentropy) { /* of each output apart */
            wide divisor = loss == FR_LOSS_kl_divergence ? 1 : n;
            wide here = (fabsl(dy[j]) * (fabsl(y[j]) + fabsl(t[j])) + 4 / divisor) * FUNCTION;
            off_dy[j] = unit * FUNCTION * (fabsl(dy[j]) + 4 / divisor);
            /* the logarithm of the smallest that is taken */
            size += here + FUNCTION * fabsl(t[j] * logl(low)) / divisor;
        } else if (loss == FR_LOSS_binary_crossentropy && fused) {
            size += (fabsl(y[j]) + fabsl(y[j] * t[j]) + FUNCTION) / n;
            off_dy[j] += 2 * FUNCTION * unit * p[j] / n;
        } else if (loss == FR_LOSS_binary_crossentropy) {
            /* 1 - p is rounded: one unit in its logarithm and in the gradient's denominator */
            size += (fabsl(t[j]) * -logl(q) + fabsl(1 - t[j]) * (1 / (1 - q) * q - logl(1 - q))) *
                    (FUNCTION / (wide)n);
            off_dy[j] = 8 * unit * (fabsl(1 - t[j]) / (1 - q) + fabsl(t[j]) / q) / n;
            if (s->label_smoothing > 0) /* t and 1 - t are rounded, both off by a part of 1 */
                off_dy[j] += 4 * unit * (1 / (1 - q) + 1 / q) / n;
        } else if (fused) {
            size += fabsl(t[j]) * (4 * span + 2 * FUNCTION + n);
            off_dy[j] += unit * ((n + 8 + 4 * span + FUNCTION) * mass * p[j] + 4 * fabsl(t[j]));
        } else {
            q = fminl(fmaxl(y[j] / sum, low), high);
            size += fabsl(t[j]) * (n + 4 - FUNCTION * logl(q));
            off_dy[j] = (3 * n + 20) * unit * (fabsl(t[j]) / q + mass) / sum;
        }
    }
    *off = (n + 8) * unit * size;
}

/* Of which a loss from logits takes z. */
static int activation_of(int loss)
{
    bool one = loss == FR_LOSS_binary_crossentropy || loss == FR_LOSS_binary_focal_crossentropy;
    return one ? FR_ACTIVATION_sigmoid : FR_ACTIVATION_softmax;
}

static void loss_case(fr_dtype dtype, int loss, const fr_loss_settings *s, int fused_with, ptrdiff_t n, bool panels,
                      bool with_weight, bool with_d, int accuracy)
{
    double unit = unit_of(dtype);
    bool fused = fused_with >= 0, labels = loss == FR_LOSS_sparse_categorical_crossentropy;
    bool of_z = fused || s->from_logits;
    layout l = layout_of(dtype, n, panels), l_d = l;
    if (!panels) l_d.ld = n + n % 5;
    void *y = array_in(&buffer_a, dtype, n % 4), *d = array_in(&buffer_b, dtype, (n + 3) % 4);
    void *target = array_in(&buffer_c, dtype, n % 3), *in = array_in(&buffer_d, dtype, 0);
    void *weight = array_in(&buffer_e, dtype, 1);
    int32_t label[ROWS];
    fill(dtype, weight, ROWS, 0.1, 2);
    fill(dtype, y, extent(l, n), 1e-3, 1);
    for (ptrdiff_t r = 0; r < ROWS && of_z; r++)
        for (ptrdiff_t j = 0; j < n; j++)
            put(dtype, y, spot(l, r, j), test_uniform(-2 - 20 * (r == 1), 6));
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        label[r] = fill_target(dtype, loss, n, at(dtype, target, r * n));
        if (!of_z && test_below(2)) put(dtype, y, spot(l, r, test_below(n)), 0); /* clipped */
        if (!of_z && loss != FR_LOSS_categorical_crossentropy && !labels && test_below(2))
            put(dtype, y, spot(l, r, test_below(n)), 1); /* clipped above */
        double sum = 0;
        for (ptrdiff_t j = 0; j < n; j++) sum += get(dtype, y, spot(l, r, j));
        if (sum == 0 && !of_z) put(dtype, y, spot(l, r, 0), 0.5);
    }
    memcpy(in, y, (size_t)(extent(l, n) * size_of(dtype)));
    const fr_kernels *kernels = fr_kernels_for(dtype);
    fr_loss_tile tile = {.rows = ROWS,
                         .n = n,
                         .y = y,
                         .ld = l.ld,
                         .gap = l.gap,
                         .target = labels ? (void *)label : target,
                         .weight = with_weight ? weight : NULL,
                         .d = with_d ? d : NULL,
                         .ld_d = l_d.ld,
                         .scale = 0.25,
                         .settings = s,
                         .accuracy = accuracy,
                         .loss = 99,
                         .correct = 99};
    (fused ? kernels->fused_loss[loss][fused_with] : kernels->loss[loss])(&tile);

    match m = {0}, m_loss = {0}, m_y = {0};
    wide total = 0, total_off = 0;
    double correct = 0;
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        wide row[MOST], raw[MOST], t[MOST], p[MOST], dy[MOST], off_dy[MOST], seen[MOST], value, off;
        wide w = with_weight ? get(dtype, weight, r) : 1;
        for (ptrdiff_t j = 0; j < n; j++) {
            row[j] = p[j] = get(dtype, in, spot(l, r, j));
            raw[j] = get(dtype, target, r * n + j);
            seen[j] = get(dtype, y, spot(l, r, j));
        }
        value = fused ? oracle_fused_loss(loss, s, n, row, raw, p, dy)
                      : oracle_loss(loss, s, dtype, n, row, raw, dy);
        oracle_smooth(loss, s, n, raw, t);
        wide shares[MOST];
        memcpy(shares, p, sizeof shares);
        if (of_z && !fused) oracle_activation(activation_of(loss), test_curve, n, row, shares);
        loss_bounds(loss, s, of_z, unit, dtype, n, row, t, shares, dy, &off, off_dy);
        total += w * value, total_off += w * off;
        correct += oracle_correct(accuracy, n, seen, raw);
        wide span = 0;
        for (ptrdiff_t j = 0; j < n; j++) span = fmaxl(span, fabsl(row[j]));
        for (ptrdiff_t j = 0; j < n; j++) {
            near(&m_y, dtype, r * n + j, (double)seen[j], p[j],
                 fused ? unit * (2 * FUNCTION + n + 4 * span) * p[j] : 0);
            if (with_d)
                near(&m, dtype, r * n + j, get(dtype, d, spot(l_d, r, j)), dy[j] * w * 0.25L,
                     off_dy[j] * w * 0.25L);
        }
    }
    near(&m_loss, dtype, 0, tile.loss, total, total_off);
    CHECK_MATCH(m_loss, "loss");
    CHECK_MATCH(m_y, "y");
    CHECK_MATCH(m, "gradient");
    CHECK(fabs(tile.correct - correct) < 1e-12, "correct %g, not %g", tile.correct, correct);
}

static int accuracy_of(int loss)
{
    switch (loss) {
    case FR_LOSS_categorical_crossentropy: return FR_ACCURACY_categorical;
    case FR_LOSS_sparse_categorical_crossentropy: return FR_ACCURACY_sparse_categorical;
    default: return FR_ACCURACY_binary;
    }
}

/* The activation that a loss fuses with, -1 for none. */
static int fusion_of(fr_dtype dtype, int loss)
{
    for (int f = 0; f < FR_N_ACTIVATIONS; f++) {
        bool has = fr_kernels_for(dtype)->fused_loss[loss][f] != NULL;
        CHECK(has == oracle_fuses(loss, f), "%s of %s", fr_loss_name(loss), fr_activation_name(f));
        if (has) return f;
    }
    return -1;
}

static void check_losses(fr_dtype dtype)
{
    for (int loss = 0; loss < FR_N_LOSSES; loss++) {
        int f = fusion_of(dtype, loss);
        for (int i = 0; i < N_ROW_LENGTHS; i++)
            for (int variant = 0; variant < 8; variant++)
                for (int fused = 0; fused <= (f >= 0); fused++) {
                    test_case("%s%s n %td variant %d %s %s", fused ? "fused " : "",
                              fr_loss_name(loss), length(i), variant, name_of(dtype), fr_isa());
                    fr_loss_settings s;
                    for (int k = 0; oracle_settings(loss, k, &s); k++)
                        if (!(fused && s.from_logits))
                            loss_case(dtype, loss, &s, fused ? f : -1, length(i), variant & 4,
                                      variant & 1, variant & 2,
                                      variant == 3 ? FR_ACCURACY_none : accuracy_of(loss));
                }
    }
}

/* NaN and infinity in y, z, a target or a weight are never hidden: training stops on the loss. */
static void not_finite_case(fr_dtype dtype, int loss, const fr_loss_settings *s, int fused_with, ptrdiff_t n, double bad,
                            int place)
{
    bool labels = loss == FR_LOSS_sparse_categorical_crossentropy;
    void *y = array_in(&buffer_a, dtype, 1), *target = array_in(&buffer_c, dtype, 2);
    void *d = array_in(&buffer_b, dtype, 0);
    double weight[1];
    ptrdiff_t where = test_below(n);
    int32_t label = (int32_t)test_below(n);
    fill(dtype, y, n, 0.1, 0.9);
    fill(dtype, target, n, 0, 0);
    put(dtype, target, label, 1);
    put(dtype, weight, 0, place == 2 ? bad : 1);
    if (place == 0) put(dtype, y, where, bad);
    if (place == 1) put(dtype, target, where, bad);
    fr_loss_tile tile = {.rows = 1,
                         .n = n,
                         .y = y,
                         .ld = n,
                         .target = labels ? (void *)&label : target,
                         .weight = weight,
                         .d = d,
                         .ld_d = n,
                         .scale = 1,
                         .settings = s,
                         .accuracy = FR_ACCURACY_none};
    const fr_kernels *kernels = fr_kernels_for(dtype);
    (fused_with >= 0 ? kernels->fused_loss[loss][fused_with] : kernels->loss[loss])(&tile);
    static const char *const places[] = {"y or z", "target", "weight"};
    CHECK(!isfinite(tile.loss), "loss %g for %g in %s at %td, label %d", tile.loss, bad,
          places[place], where, (int)label);
}

static void check_not_finite(fr_dtype dtype)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int loss = 0; loss < FR_N_LOSSES; loss++) {
        int f = fusion_of(dtype, loss);
        bool labels = loss == FR_LOSS_sparse_categorical_crossentropy;
        for (ptrdiff_t n = 1; n <= 40; n++)
            for (int i = 0; i < 3; i++)
                for (int place = 0; place < 3; place++)
                    for (int fused = 0; fused <= (f >= 0); fused++) {
                        if (labels && place == 1) continue; /* a label is an integer */
                        test_case("%s%s not finite, n %td %s %s", fused ? "fused " : "",
                                  fr_loss_name(loss), n, name_of(dtype), fr_isa());
                        fr_loss_settings s;
                        for (int k = 0; oracle_settings(loss, k, &s); k++)
                            if (!(fused && s.from_logits))
                                not_finite_case(dtype, loss, &s, fused ? f : -1, n, bad[i], place);
                    }
    }
}

/* ---- updates ---- */

static void update_case(fr_dtype dtype, const fr_optimizer *o, ptrdiff_t rows, ptrdiff_t n,
                        ptrdiff_t ld, fr_regularizer regularizer)
{
    double unit = unit_of(dtype);
    const int64_t iteration = 4;
    void *w = array_in(&buffer_a, dtype, n % 4), *dw = array_in(&buffer_b, dtype, (n + 1) % 4);
    void *slots[FR_UPDATE_SLOTS] = {NULL}, *old = array_in(&buffer_e, dtype, 0);
    bool adam = o->kind == FR_OPTIMIZER_adam;
    ptrdiff_t count = (rows - 1) * ld + n;
    fill(dtype, w, count, -1, 1);
    fill(dtype, dw, count, -1, 1);
    if (n > 2) put(dtype, w, n / 2, 0); /* sign(0) = 0 */
    if (o->momentum != 0 || adam)
        fill(dtype, slots[0] = array_in(&buffer_c, dtype, 3), count, -1, 1);
    if (adam) {
        slots[1] = array_in(&buffer_d, dtype, 1);
        for (ptrdiff_t j = 0; j < count; j++)
            put(dtype, slots[1], j, pow(10, test_uniform(-12, 4)));
        for (int a = 0; a < 4 && n > 3; a++) /* a weight that has never had a gradient */
            put(dtype, (void *[]){w, dw, slots[0], slots[1]}[a], 1, 0);
    }
    wide before[FR_UPDATE_SLOTS][MOST];
    if (o->l1_step == FR_L1_STEP_cumulative)
        for (int s = FR_OWN_SLOTS; s < FR_UPDATE_SLOTS; s++)
            fill(dtype, slots[s] = array_in(s == FR_OWN_SLOTS ? &buffer_f : &buffer_g, dtype, s - 1),
                 count, 0, 0.1);
    for (ptrdiff_t j = 0; j < count; j++)
        for (int s = 0; s < FR_UPDATE_SLOTS; s++) before[s][j] = slots[s] ? get(dtype, slots[s], j) : 0;
    for (ptrdiff_t j = 0; j < count; j++) put(dtype, old, j, get(dtype, w, j));

    double t = (double)iteration + 1, rate = o->learning_rate;
    double shrink = rate / (1 - (adam ? 0 : o->momentum));
    if (adam) shrink = rate * sqrt(1 - pow(o->beta_2, t)), rate = shrink / (1 - pow(o->beta_1, t));
    fr_update_step step = {.rate = rate,
                           .keep = 1 - o->learning_rate * o->weight_decay,
                           .momentum = o->momentum,
                           .beta_1 = o->beta_1,
                           .beta_2 = o->beta_2,
                           .epsilon = o->epsilon,
                           .nesterov = o->nesterov,
                           .l1_step = o->l1_step,
                           .shrink = shrink,
                           .regularizer = regularizer};
    fr_sums sums = {5, 7};
    fr_kernels_for(dtype)->update[o->kind](&step, rows, n, ld, w, dw, slots, &sums);

    match m = {0}, m_slots = {0}, m_sums = {0};
    wide abs = 0, square = 0;
    for (ptrdiff_t j = 0; j < count; j++) {
        if (j % ld >= n) continue;
        wide was = get(dtype, old, j), new = was, state[FR_UPDATE_SLOTS], off[FR_UPDATE_SLOTS] = {0};
        wide off_w;
        int own = oracle_slots(o), n_state = own;
        for (int s = 0; s < own; s++) state[s] = before[s][j];
        if (o->l1_step == FR_L1_STEP_cumulative)
            for (int s = FR_OWN_SLOTS; s < FR_UPDATE_SLOTS; s++) state[n_state++] = before[s][j];
        wide penalty = oracle_smooth_gradient(o, regularizer, was), g = get(dtype, dw, j);
        wide size = fabsl(g) + fabsl(penalty), taken = regularizer.l1 * shrink;
        oracle_update(o, iteration, g + penalty, regularizer.l1, &new, state);
        if (adam) {
            wide c1 = 1 - (wide)o->beta_1, c2 = 1 - (wide)o->beta_2;
            off[0] = 8 * unit * (fabsl(before[0][j]) + c1 * size);
            off[1] = 16 * unit * (before[1][j] + c2 * size * size);
            wide root = sqrtl(state[1]), below = root + o->epsilon, above = fabsl(state[0]);
            wide off_root = root > 0 ? off[1] / root : 0;
            off_w = rate * (off[0] / below +
                            above / (below * below) * (off_root + 3 * unit * below) +
                            6 * unit * above / below);
            /* of the threshold, by its denominator */
            taken /= fmaxl(below, fminl(1e-5L, regularizer.l1 / 10));
            if (taken > 0) off_w += taken * off_root / below;
        } else {
            off[0] = 10 * unit * (o->momentum * fabsl(before[0][j]) + rate * size);
            off_w = 2 * off[0] + 10 * unit * rate * size;
        }
        off_w += 4 * unit * (fabsl(was) + fabsl(new));
        if (o->l1_step != FR_L1_STEP_sign && regularizer.l1 != 0) {
            off_w += 16 * unit *
                     (taken + fabsl(before[FR_OWN_SLOTS][j]) + fabsl(before[FR_OWN_SLOTS + 1][j]));
            for (int s = own; s < n_state; s++) off[s] = 2 * off_w;
        }
        near(&m, dtype, j, get(dtype, w, j), new, off_w);
        for (int s = 0; s < n_state; s++)
            near(&m_slots, dtype, j, get(dtype, slots[s < own ? s : s - own + FR_OWN_SLOTS], j), state[s],
                 off[s]);
        abs += fabsl(was), square += was * was;
    }
    CHECK_MATCH(m, "w");
    CHECK_MATCH(m_slots, "slots");
    if (regularizer.l1 == 0) abs = 0;
    if (regularizer.l2 == 0) square = 0;
    /* a lane sums 64 elements before they go into doubles */
    near(&m_sums, dtype, 0, sums.abs - 5, abs, 68 * unit * abs + 1e-14);
    if (regularizer.l2 != 0 || regularizer.l1 == 0)
        near(&m_sums, dtype, 1, sums.square - 7, square, 68 * unit * square + 1e-14);
    CHECK_MATCH(m_sums, "sums of the old w");
}

static void check_updates(fr_dtype dtype)
{
    static const fr_optimizer optimizers[] = {
        {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1},
        {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1, .momentum = 0.9},
        {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1, .momentum = 0.9, .nesterov = 1},
        {.kind = FR_OPTIMIZER_adam,
         .learning_rate = 0.01,
         .beta_1 = 0.9,
         .beta_2 = 0.999,
         .epsilon = 1e-7},
    };
    static const fr_regularizer regularizers[] = {{0, 0}, {0.1, 0}, {0, 0.2}, {0.05, 0.01}};
    for (int i = 0; i < 4 * FR_N_L1_STEPS; i++)
        for (int l = 0; l < N_LENGTHS; l++)
            for (int variant = 0; variant < 8; variant++) {
                fr_optimizer o = optimizers[i % 4];
                o.l1_step = i / 4;
                o.weight_decay = variant & 4 ? 0.3 : 0;
                test_case("update %d n %td variant %d %s %s", i, length(l), variant, name_of(dtype),
                          fr_isa());
                update_case(dtype, &o, 1, length(l), length(l), regularizers[variant & 3]);
                if (l < N_ROW_LENGTHS)
                    update_case(dtype, &o, 3, length(l), odd_ld(length(l)),
                                regularizers[variant & 3]);
            }
}

/* Every optimizer, by the function that has its constants, too. */
static const fr_optimizer all_optimizers[] = {
    {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1, .momentum = 0.6, .nesterov = 1},
    {.kind = FR_OPTIMIZER_adam, .learning_rate = 0.1, .beta_1 = 0.8, .beta_2 = 0.9, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_adam,
     .learning_rate = 0.1,
     .beta_1 = 0.9,
     .beta_2 = 0.9,
     .epsilon = 1e-3,
     .amsgrad = 1},
    {.kind = FR_OPTIMIZER_adamax, .learning_rate = 0.1, .beta_1 = 0.9, .beta_2 = 0.9, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_nadam, .learning_rate = 0.1, .beta_1 = 0.9, .beta_2 = 0.9, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_rmsprop, .learning_rate = 0.1, .rho = 0.8, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_rmsprop, .learning_rate = 0.1, .rho = 0.8, .epsilon = 1e-3, .momentum = 0.5},
    {.kind = FR_OPTIMIZER_rmsprop, .learning_rate = 0.1, .rho = 0.8, .epsilon = 1e-3, .centered = 1},
    {.kind = FR_OPTIMIZER_rmsprop,
     .learning_rate = 0.1,
     .rho = 0.8,
     .epsilon = 1e-3,
     .centered = 1,
     .momentum = 0.5},
    {.kind = FR_OPTIMIZER_adagrad, .learning_rate = 0.1, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_adadelta, .learning_rate = 1, .rho = 0.8, .epsilon = 1e-3},
    {.kind = FR_OPTIMIZER_lion, .learning_rate = 0.1, .beta_1 = 0.8, .beta_2 = 0.9},
    {.kind = FR_OPTIMIZER_ftrl, .learning_rate = 0.5, .learning_rate_power = -0.5},
    {.kind = FR_OPTIMIZER_ftrl,
     .learning_rate = 0.5,
     .learning_rate_power = -0.7,
     .l1 = 0.1,
     .l2 = 0.2,
     .l2_shrinkage = 0.3,
     .beta = 0.4},
};
enum { N_ALL_OPTIMIZERS = sizeof all_optimizers / sizeof all_optimizers[0] };

/* What an element's step begins with; the oracle takes it to what it ends with. */
typedef struct {
    wide w, dw, rate, slots[FR_UPDATE_SLOTS];
} element;
enum { ELEMENT_SIZE = sizeof(element) / sizeof(wide) };

static element stepped(const fr_optimizer *optimizer, int64_t iteration, fr_regularizer r, element e)
{
    fr_optimizer o = *optimizer;
    o.learning_rate = (double)e.rate;
    wide g = e.dw + oracle_smooth_gradient(&o, r, e.w);
    oracle_update(&o, iteration, g, r.l1, &e.w, e.slots);
    return e;
}

/* Roundings count like small changes of what goes in: the bound is what 24 units of each do to the exact
 * result, and 8 of the result. Ftrl also subtracts two powers of n that may be near each other. */
static void any_update_case(fr_dtype dtype, const fr_optimizer *o, ptrdiff_t n, fr_regularizer r,
                            int64_t iteration)
{
    double unit = unit_of(dtype);
    buffer *buffers[] = {&buffer_c, &buffer_d, &buffer_e, &buffer_f, &buffer_g};
    void *w = array_in(&buffer_a, dtype, n % 4), *dw = array_in(&buffer_b, dtype, (n + 1) % 4);
    void *slots[FR_UPDATE_SLOTS];
    int own = oracle_slots(o), count = own + (o->l1_step == FR_L1_STEP_cumulative ? 2 : 0);
    CHECK(count == fr_optimizer_slots(o), "%d slots", fr_optimizer_slots(o));
    fill(dtype, w, n, -1, 1);
    fill(dtype, dw, n, -1, 1);
    for (int s = 0; s < count; s++) {
        /* The first of two, and a mean of g^2, are what a mean of g can have beside it. */
        fill(dtype, slots[s] = array_in(buffers[s], dtype, s), n, s >= own ? 0 : 0.5, s >= own ? 0.1 : 1);
        if (s == 0 && own > 1 && o->kind != FR_OPTIMIZER_rmsprop) fill(dtype, slots[s], n, 0.1, 0.9);
    }
    if (n > 3) put(dtype, w, n / 2, 0);
    if (n > 6 && o->kind == FR_OPTIMIZER_ftrl) { /* 0 / 0 */
        put(dtype, dw, n / 2, 0);
        for (int s = 0; s < 2; s++) put(dtype, slots[s], n / 2, 0);
    }
    element before[MOST];
    for (ptrdiff_t j = 0; j < n; j++) {
        before[j] = (element){get(dtype, w, j), get(dtype, dw, j), o->learning_rate, {0}};
        for (int s = 0; s < count; s++) before[j].slots[s] = get(dtype, slots[s], j);
    }
    CHECK(fr_update(dtype, o, iteration, n, w, dw, slots, r) == FR_OK, "update");
    match m = {0}, m_slots = {0};
    for (ptrdiff_t j = 0; j < n; j++) {
        element exact = stepped(o, iteration, r, before[j]), off;
        const wide *want = (const wide *)&exact;
        for (int i = 0; i < ELEMENT_SIZE; i++) ((wide *)&off)[i] = 8 * unit * fabsl(want[i]) + 4 * LDBL_EPSILON;
        for (int i = 0; i < ELEMENT_SIZE; i++) {
            wide most[ELEMENT_SIZE] = {0};
            for (int sign = -1; sign <= 1; sign += 2) {
                element moved = before[j];
                ((wide *)&moved)[i] *= 1 + sign * 24 * unit;
                moved = stepped(o, iteration, r, moved);
                for (int k = 0; k < ELEMENT_SIZE; k++)
                    most[k] = fmaxl(most[k], fabsl(((wide *)&moved)[k] - want[k]));
            }
            for (int k = 0; k < ELEMENT_SIZE; k++) ((wide *)&off)[k] += most[k];
        }
        if (o->kind == FR_OPTIMIZER_ftrl) {
            off.slots[1] += 16 * unit * fabsl(before[j].w) * (exact.slots[0] + 1) / o->learning_rate;
            off.w += 2 * off.slots[1] * o->learning_rate /
                     powl(exact.slots[0] + 1e-30L, -(wide)o->learning_rate_power);
        }
        near(&m, dtype, j, get(dtype, w, j), exact.w, off.w);
        for (int s = 0; s < count; s++)
            near(&m_slots, dtype, j, get(dtype, slots[s], j), exact.slots[s], off.slots[s]);
    }
    CHECK_MATCH(m, "w");
    CHECK_MATCH(m_slots, "slots");
}

static void check_all_optimizers(fr_dtype dtype)
{
    static const fr_regularizer regularizers[] = {{0, 0}, {0.1, 0}, {0, 0.2}, {0.05, 0.01}};
    bool seen[FR_N_OPTIMIZERS] = {false};
    for (int i = 0; i < N_ALL_OPTIMIZERS; i++) {
        fr_optimizer o = all_optimizers[i];
        bool by_sign = o.kind == FR_OPTIMIZER_adadelta || o.kind == FR_OPTIMIZER_lion ||
                       o.kind == FR_OPTIMIZER_ftrl || o.centered;
        seen[o.kind] = true;
        for (o.l1_step = 0; o.l1_step < FR_N_L1_STEPS; o.l1_step++) {
            double a[1] = {0};
            void *none[FR_UPDATE_SLOTS] = {a, a, a, a, a};
            test_case("optimizer %d, L1 by %s, %s %s", i, fr_l1_step_name(o.l1_step), name_of(dtype),
                      fr_isa());
            if (by_sign && o.l1_step != FR_L1_STEP_sign) {
                CHECK(fr_update(dtype, &o, 0, 1, a, a, none, regularizers[0]) == FR_BAD_ARGUMENT,
                      "it has no threshold");
                continue;
            }
            for (int l = i % 3; l < N_LENGTHS; l += 5)
                for (int v = 0; v < 4; v++) {
                    o.weight_decay = l % 2 ? 0.3 : 0;
                    any_update_case(dtype, &o, length(l), regularizers[v], l % 3 == 2 ? 5000 : l % 3);
                }
        }
    }
    for (int kind = 0; kind < FR_N_OPTIMIZERS; kind++)
        CHECK(seen[kind], "no settings for %s", fr_optimizer_name(kind));
}

/* ---- sums, penalty gradient, add, multiply ---- */

static void check_sums(fr_dtype dtype)
{
    double unit = unit_of(dtype);
    static const fr_regularizer regularizers[] = {{0, 0}, {0.1, 0}, {0, 0.2}, {0.05, 0.01}};
    for (int i = 0; i < N_LENGTHS; i++) {
        ptrdiff_t n = length(i);
        test_case("sums n %td %s %s", n, name_of(dtype), fr_isa());
        void *w = array_in(&buffer_a, dtype, n % 4), *dw = array_in(&buffer_b, dtype, 3);
        void *old = array_in(&buffer_c, dtype, 1);
        fill(dtype, w, n, -1, 1);
        put(dtype, w, n / 3, 0);
        put(dtype, w, n / 2, -0.0);
        fr_sums sums = fr_kernels_for(dtype)->sums(n, w);
        wide abs = 0, square = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            wide a = get(dtype, w, j);
            abs += fabsl(a), square += a * a;
        }
        match m = {0}, m_add = {0};
        near(&m, dtype, 0, sums.abs, abs, 68 * unit * abs);
        near(&m, dtype, 1, sums.square, square, 68 * unit * square);
        CHECK_MATCH(m, "sums");

        fr_regularizer r = regularizers[i % 4];
        fr_kernels_for(dtype)->penalty_gradient(n, w, r, dw);
        m = (match){0};
        for (ptrdiff_t j = 0; j < n; j++) {
            wide want = oracle_penalty_gradient(r, get(dtype, w, j));
            near(&m, dtype, j, get(dtype, dw, j), want, 4 * unit * fabsl(want));
        }
        CHECK_MATCH(m, "penalty gradient");

        memcpy(old, dw, (size_t)(n * size_of(dtype)));
        fr_kernels_for(dtype)->add(n, w, dw);
        for (ptrdiff_t j = 0; j < n; j++) {
            wide want = (wide)get(dtype, w, j) + get(dtype, old, j);
            near(&m_add, dtype, j, get(dtype, dw, j), want, unit * fabsl(want));
        }
        CHECK_MATCH(m_add, "add");

        fr_kernels_for(dtype)->fill(n, 0.25, dw);
        for (ptrdiff_t j = 0; j < n; j++) CHECK(get(dtype, dw, j) == 0.25, "fill at %td", j);
    }
}

static void check_multiply(fr_dtype dtype)
{
    for (int i = 0; i < N_ROW_LENGTHS; i++) {
        ptrdiff_t n = length(i), ld_x = odd_ld(n), ld_f = n + 1, ld_y = n + n % 2;
        test_case("multiply n %td %s %s", n, name_of(dtype), fr_isa());
        void *x = array_in(&buffer_a, dtype, 1), *f = array_in(&buffer_b, dtype, 2);
        void *y = array_in(&buffer_c, dtype, 3);
        fill(dtype, x, ROWS * ld_x, -1, 1);
        fill(dtype, f, ROWS * ld_f, -1, 1);
        fr_kernels_for(dtype)->multiply(ROWS, n, x, ld_x, f, ld_f, y, ld_y);
        match m = {0};
        for (ptrdiff_t r = 0; r < ROWS; r++)
            for (ptrdiff_t j = 0; j < n; j++) {
                wide want = (wide)get(dtype, x, r * ld_x + j) * get(dtype, f, r * ld_f + j);
                near(&m, dtype, r * n + j, get(dtype, y, r * ld_y + j), want,
                     unit_of(dtype) * fabsl(want));
            }
        CHECK_MATCH(m, "product");
    }
}

/* ---- noise ---- */

/* The known answers that Philox' authors publish (Random123, kat_vectors). */
static void check_philox(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    test_case("philox");
    for (int i = 0; i < 3; i++) {
        const uint32_t *c = known[i].counter, *key = known[i].key;
        uint32_t out[4], words[4][FR_PHILOX_LANES];
        oracle_philox(c, key, out);
        CHECK(memcmp(out, known[i].out, sizeof out) == 0, "the oracle's block %d", i);
        fr_philox(c[0], c[1], c[2], c[3], (uint64_t)key[1] << 32 | key[0], words);
        for (uint32_t lane = 0; lane < FR_PHILOX_LANES; lane++) {
            uint32_t counter[4] = {c[0] + lane, c[1], c[2], c[3]};
            oracle_philox(counter, key, out);
            for (int word = 0; word < 4; word++)
                CHECK(words[word][lane] == out[word], "block %d lane %u word %d", i, lane, word);
        }
    }
}

static const int noises[] = {FR_LAYER_dropout, FR_LAYER_gaussian_noise, FR_LAYER_gaussian_dropout,
                             FR_LAYER_alpha_dropout};

/* Normal numbers are up to 6.8, the logarithm, sine and cosine in them within 2 units each. */
static void check_noise(fr_dtype dtype)
{
    static const double rates[] = {0, 0.3, 0.5, 0.999};
    for (int i = 0; i < N_ROW_LENGTHS; i++)
        for (int variant = 0; variant < 16; variant++) {
            ptrdiff_t n = length(i), first = variant * 1000;
            bool panels = variant & 8;
            layout l = layout_of(dtype, n, panels), l_y = l;
            if (!panels) l_y.ld = n + n % 3;
            double rate = rates[(i + variant / 4) % 4];
            uint64_t seed = 0x123456789ABCDEFu * (uint64_t)(i + 1);
            uint32_t layer = (uint32_t)variant, iteration = 0xFFFFFFFEu + (uint32_t)variant;
            fr_layer spec = {.kind = noises[variant % 4], .rate = rate, .stddev = 3 * rate};
            const char *kind = fr_layer_kind_name(spec.kind);
            test_case("%s n %td variant %d %s %s", kind, n, variant, name_of(dtype), fr_isa());
            void *x = array_in(&buffer_a, dtype, 1), *y = array_in(&buffer_b, dtype, 3);
            void *factor = array_in(&buffer_c, dtype, 2);
            fill(dtype, x, extent(l, n), -1, 1);
            fr_noise_tile tile = {.rows = ROWS,
                                  .n = n,
                                  .x = x,
                                  .ld_x = l.ld,
                                  .y = y,
                                  .ld_y = l_y.ld,
                                  .gap = l.gap,
                                  .factor = variant & 4 ? factor : NULL,
                                  .rate = rate,
                                  .stddev = spec.stddev,
                                  .seed = seed,
                                  .first_row = first,
                                  .layer = layer,
                                  .iteration = iteration};
            fr_kernels_for(dtype)->noise[spec.kind](&tile);
            bool exact = spec.kind == FR_LAYER_dropout;
            bool keeps = tile.factor && spec.kind != FR_LAYER_gaussian_noise;
            double worst = 0, spread = spec.kind == FR_LAYER_gaussian_noise ? spec.stddev : sqrt(rate / (1 - rate));
            for (ptrdiff_t r = 0; r < ROWS; r++)
                for (ptrdiff_t j = 0; j < n; j++) {
                    wide f, offset, a = get(dtype, x, spot(l, r, j));
                    oracle_noise(&spec, dtype, seed, j, first + r, layer, iteration, &f, &offset);
                    double size = exact ? 0 : (double)(fabsl(a * f) + fabsl(offset) + 7 * spread);
                    double want = rounded(dtype, (double)(a * f + offset));
                    double gap = fabs(get(dtype, y, spot(l_y, r, j)) - want);
                    if (keeps) gap = fmax(gap, fabs(get(dtype, factor, spot(l_y, r, j)) - (double)f));
                    gap = size > 0 ? gap / (8 * unit_of(dtype) * size) : gap > 0 ? INFINITY : 0;
                    worst = gap <= worst ? worst : gap;
                    CHECK(rate > 0 || want == (double)a, "rate 0 changes");
                }
            CHECK(worst <= 1, "%g bounds off at %g", worst, rate);
        }
}

/* ---- rates ---- */

/* Two panels of rows, the second of one; columns of means inside (0, 1), at 0 and beyond 1. */
static void check_kl(fr_dtype dtype)
{
    for (int i = 0; i < N_ROW_LENGTHS; i++) {
        ptrdiff_t n = length(i);
        static double sums[2 * 1024], slope[1024], row[1024];
        if (n > 1024) continue;
        test_case("rates n %td %s %s", n, name_of(dtype), fr_isa());
        const fr_kl penalty = {0.7, 0.15};
        const fr_kernels *kernels = fr_kernels_for(dtype);
        void *y = array_in(&buffer_a, dtype, 1), *d = array_in(&buffer_b, dtype, 3);
        fill(dtype, y, ROWS * n, 0.01, 0.99);
        fill(dtype, d, ROWS * n, -1, 1);
        fill(dtype, row, n, -1, 1);
        for (ptrdiff_t r = 0; r < ROWS; r++) {
            put(dtype, y, r * n, 0);
            if (n > 1) put(dtype, y, r * n + 1, 1.5);
        }
        for (ptrdiff_t p = 0; p < 2; p++)
            kernels->column_sums(p ? 1 : ROWS - 1, n, at(dtype, y, p * (ROWS - 1) * n), n, at(dtype, sums, p * n));
        double value = kernels->rates(2, n, n, sums, ROWS, penalty, 0.5, slope), unit = unit_of(dtype);
        wide want = 0, size = 0;
        double worst = 0;
        for (ptrdiff_t j = 0; j < n; j++) {
            wide mean = 0, exact;
            for (ptrdiff_t r = 0; r < ROWS; r++) mean += get(dtype, y, r * n + j) / ROWS;
            wide part = oracle_kl(penalty, mean, &exact);
            want += ROWS * part;
            /* a mean is off by ROWS roundings; the penalty by its slope times that */
            size += ROWS * (fabsl(exact) * mean + fabsl(part));
            wide bend = penalty.kl * ((1 - penalty.rate) / ((1 - mean) * (1 - mean)) + penalty.rate / (mean * mean));
            wide bound = (ROWS + 4) * unit * (fabsl(exact) + bend * mean) * 0.5L;
            if (exact == 0) CHECK(get(dtype, slope, j) == 0, "a slope beyond");
            else worst = fmax(worst, (double)(fabsl(get(dtype, slope, j) - exact * 0.5L) / bound));
        }
        CHECK(worst <= 1, "slopes: %g bounds off", worst);
        CHECK(fabsl(value - want) <= (ROWS + 4) * unit * size, "value: %g of %g", value, (double)want);
        static double before[ROWS * 1024];
        memcpy(before, d, (size_t)(ROWS * n) * (dtype == FR_FLOAT32 ? 4 : 8));
        kernels->add_to_rows(ROWS, n, row, d, n);
        for (ptrdiff_t e = 0; e < ROWS * n; e++) {
            wide sum = get(dtype, before, e) + get(dtype, row, e % n);
            CHECK(fabsl(get(dtype, d, e) - sum) <= unit * fabsl(sum), "row added");
        }
        put(dtype, sums, 0, NAN);
        CHECK(isnan(kernels->rates(2, n, n, sums, ROWS, penalty, 0.5, slope)), "NaN stays");
    }
}

/* ---- normalization ---- */

/* What a step away from its exact value may be: sums of up to `terms` terms, and some operations more. */
static double normal_bound(fr_dtype dtype, ptrdiff_t terms) { return (16 + (double)terms) * unit_of(dtype); }

typedef struct {
    wide mean, variance, scale;
} moments;

/* Of count elements, `next` apart. */
static moments exact_moments(fr_dtype dtype, const void *x, layout l, ptrdiff_t r, ptrdiff_t j, bool by_row,
                             ptrdiff_t count, wide epsilon)
{
    moments m = {0, 0, 0};
    for (ptrdiff_t i = 0; i < count; i++)
        m.mean += get(dtype, x, by_row ? spot(l, r, i) : spot(l, i, j)) / (wide)count;
    for (ptrdiff_t i = 0; i < count; i++) {
        wide off = get(dtype, x, by_row ? spot(l, r, i) : spot(l, i, j)) - m.mean;
        m.variance += off * off / (wide)count;
    }
    m.scale = 1 / sqrtl(m.variance + epsilon);
    return m;
}

/* By rows and by columns; x is off 0 by some deviations. Gradients are weighed by their absolute terms. */
static void check_normalization(fr_dtype dtype)
{
    const double epsilon = 1e-3;
    for (int i = 0; i < N_ROW_LENGTHS; i++)
        for (int variant = 0; variant < 8; variant++) {
            ptrdiff_t n = length(i);
            bool by_row = variant & 1;
            layout l = layout_of(dtype, n, variant & 4);
            test_case("normalize %s n %td variant %d %s %s", by_row ? "rows" : "columns", n, variant,
                      name_of(dtype), fr_isa());
            void *x = array_in(&buffer_a, dtype, 1), *y = array_in(&buffer_b, dtype, 3);
            void *dy = array_in(&buffer_c, dtype, 2);
            static double gamma[1024], beta[1024], dgamma[1024], dbeta[1024], mean[1024], other[1024];
            static double panels[2][2 * 1024];
            if (n > 1024) continue;
            fill(dtype, x, extent(l, n), -1, 3);
            fill(dtype, dy, extent(l, n), -1, 1);
            fill(dtype, gamma, n, 0.5, 1.5);
            fill(dtype, beta, n, -1, 1);
            fr_normal_tile tile = {.rows = ROWS, .n = n, .n_rows = ROWS, .x = x, .y = y, .ld = l.ld, .gap = l.gap,
                                   .gamma = variant & 2 ? gamma : NULL, .beta = variant & 2 ? beta : NULL,
                                   .epsilon = epsilon, .mean = mean, .dy = dy, .dx = y,
                                   .dgamma = dgamma, .dbeta = dbeta};
            const fr_kernels *kernels = fr_kernels_for(dtype);
            if (by_row) {
                tile.scale = other;
                kernels->normalize_rows(&tile);
            } else {
                /* two panels, of which the second is short, put together */
                tile.variance = other;
                for (ptrdiff_t p = 0, each = (ROWS + 1) / 2; p < 2; p++) {
                    fr_normal_tile part = tile;
                    part.rows = p ? ROWS - each : each;
                    part.x = at(dtype, x, spot(l, p * each, 0));
                    part.mean = at(dtype, panels[0], p * n), part.variance = at(dtype, panels[1], p * n);
                    if (part.rows > 0) kernels->column_moments(&part);
                }
                kernels->combine_moments(ROWS > 1 ? 2 : 1, (ROWS + 1) / 2, ROWS, n, n, panels[0], panels[1], mean,
                                         other);
                kernels->normalize_columns(&tile);
            }
            double worst = 0;
            ptrdiff_t count = by_row ? n : ROWS;
            double bound = normal_bound(dtype, count);
            for (ptrdiff_t r = 0; r < ROWS; r++)
                for (ptrdiff_t j = 0; j < n; j++) {
                    moments m = exact_moments(dtype, x, l, r, j, by_row, count, epsilon);
                    wide g = tile.gamma ? get(dtype, gamma, j) : 1, b = tile.beta ? get(dtype, beta, j) : 0;
                    wide want = (get(dtype, x, spot(l, r, j)) - m.mean) * m.scale * g + b;
                    double size = (double)(4 * m.scale * g + fabsl(b));
                    worst = fmax(worst, (double)fabsl(get(dtype, y, spot(l, r, j)) - want) / (bound * size));
                }
            CHECK(worst <= 1, "forward: %g bounds off", worst);
            if (by_row) {
                kernels->normalize_rows_backward(&tile);
            } else {
                kernels->normalize_columns_sums(&tile);
                kernels->normalize_columns_backward(&tile);
            }
            worst = 0;
            for (ptrdiff_t j = 0; j < n; j++) {
                wide sums[2] = {0, 0}, sizes[2] = {0, 0};
                for (ptrdiff_t r = 0; r < ROWS; r++) {
                    moments m = exact_moments(dtype, x, l, r, j, by_row, count, epsilon);
                    wide h = (get(dtype, x, spot(l, r, j)) - m.mean) * m.scale, d = get(dtype, dy, spot(l, r, j));
                    sums[0] += d * h, sums[1] += d;
                    sizes[0] += fabsl(d) * 4 * m.scale, sizes[1] += fabsl(d);
                }
                bound = normal_bound(dtype, n + ROWS);
                worst = fmax(worst, (double)(fabsl(get(dtype, dgamma, j) - sums[0]) / (bound * sizes[0])));
                worst = fmax(worst, (double)(fabsl(get(dtype, dbeta, j) - sums[1]) / (bound * sizes[1])));
            }
            CHECK(worst <= 1, "sums: %g bounds off", worst);
            worst = 0;
            for (ptrdiff_t r = 0; r < ROWS; r++)
                for (ptrdiff_t j = 0; j < n; j++) {
                    moments m = exact_moments(dtype, x, l, r, j, by_row, count, epsilon);
                    wide mean_g = 0, mean_gh = 0, size = 0, g, h;
                    for (ptrdiff_t k = 0; k < count; k++) {
                        ptrdiff_t row = by_row ? r : k, column = by_row ? k : j;
                        g = get(dtype, dy, spot(l, row, column)) * (tile.gamma ? get(dtype, gamma, column) : 1);
                        h = (get(dtype, x, spot(l, row, column)) - m.mean) * m.scale;
                        mean_g += g / count, mean_gh += g * h / count;
                        size += fabsl(g) * (1 + 4 * m.scale) / count;
                    }
                    g = get(dtype, dy, spot(l, r, j)) * (tile.gamma ? get(dtype, gamma, j) : 1);
                    h = (get(dtype, x, spot(l, r, j)) - m.mean) * m.scale;
                    wide want = m.scale * (g - mean_g - h * mean_gh);
                    size = m.scale * (fabsl(g) + size * (1 + 4 * m.scale));
                    bound = 2 * normal_bound(dtype, count);
                    worst = fmax(worst, (double)(fabsl(get(dtype, y, spot(l, r, j)) - want) / (bound * size)));
                }
            CHECK(worst <= 1, "backward: %g bounds off", worst);
        }
}

/* ---- products on panels ---- */

/* a (rows, depth) in whole panels, at the element (r, k); `rows` are what a panel holds. */
static ptrdiff_t in_panels(ptrdiff_t panel, ptrdiff_t rows, ptrdiff_t r, ptrdiff_t k)
{
    return k / panel * rows * panel + r * panel + k % panel;
}

static void product_case(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t panel = kernels->panel, held = rows + 2; /* a view of some of a matrix' rows */
    void *a = array_in(&buffer_a, dtype, 1), *b = array_in(&buffer_b, dtype, 2);
    void *c = array_in(&buffer_c, dtype, 3);
    fill(dtype, a, (depth / panel + 1) * held * panel, -1, 1);
    fill(dtype, b, depth * panel, -1, 1);
    fill(dtype, c, rows * panel, -1, 1);
    kernels->product(rows, depth, n, a, held * panel, b, c, &(fr_ahead){0});
    match m = {0};
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < n; j++) {
            wide want = 0, size = 0;
            for (ptrdiff_t k = 0; k < depth; k++) {
                wide term = (wide)get(dtype, a, in_panels(panel, held, r, k)) *
                            get(dtype, b, k * panel + j);
                want += term, size += fabsl(term);
            }
            near(&m, dtype, r * panel + j, get(dtype, c, r * panel + j), want,
                 (depth + 1) * unit_of(dtype) * size);
        }
    CHECK_MATCH(m, "product");
    ptrdiff_t n_zero = 0, padding = n > panel / 2 ? 0 : panel / 2;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = panel - padding; j < panel; j++)
            n_zero += get(dtype, c, r * panel + j) == 0;
    CHECK(n_zero == rows * padding, "padding of the product");
}

static void kernel_product_case(fr_dtype dtype, ptrdiff_t n_batch, ptrdiff_t n_i, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t panel = kernels->panel;
    void *x = array_in(&buffer_a, dtype, 1), *dz = array_in(&buffer_b, dtype, 2);
    void *dw = array_in(&buffer_c, dtype, 3);
    fill(dtype, x, n_batch * panel, -1, 1);
    fill(dtype, dz, n_batch * panel, -1, 1);
    kernels->kernel_product(n_batch, n_i, n, x, dz, dw, &(fr_ahead){0});
    match m = {0};
    for (ptrdiff_t i = 0; i < n_i; i++)
        for (ptrdiff_t j = 0; j < n; j++) {
            wide want = 0, size = 0;
            for (ptrdiff_t r = 0; r < n_batch; r++) {
                wide term = (wide)get(dtype, x, r * panel + i) * get(dtype, dz, r * panel + j);
                want += term, size += fabsl(term);
            }
            near(&m, dtype, i * panel + j, get(dtype, dw, i * panel + j), want,
                 (n_batch + 1) * unit_of(dtype) * size);
        }
    CHECK_MATCH(m, "kernel product");
}

/* By a kernel that stands transposed; rows of x hold NaN beyond the depth. */
static void turned_product_case(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t panel = kernels->panel, held = rows + 2, parts = (depth + panel - 1) / panel;
    void *x = array_in(&buffer_a, dtype, 1), *wt = array_in(&buffer_b, dtype, 2);
    void *y = array_in(&buffer_c, dtype, 3);
    fill(dtype, x, parts * held * panel, -1, 1);
    fill(dtype, wt, parts * n * panel, -1, 1);
    for (ptrdiff_t k = depth; k < parts * panel; k++) {
        for (ptrdiff_t r = 0; r < rows; r++) put(dtype, x, in_panels(panel, held, r, k), NAN);
        for (ptrdiff_t o = 0; o < n; o++) put(dtype, wt, in_panels(panel, n, o, k), 0);
    }
    kernels->turned_product(rows, depth, n, x, held * panel, wt, y);
    match m = {0};
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t o = 0; o < n; o++) {
            wide want = 0, size = 0;
            for (ptrdiff_t k = 0; k < depth; k++) {
                wide term = (wide)get(dtype, x, in_panels(panel, held, r, k)) *
                            get(dtype, wt, in_panels(panel, n, o, k));
                want += term, size += fabsl(term);
            }
            near(&m, dtype, r * panel + o, get(dtype, y, r * panel + o), want,
                 (depth + 1) * unit_of(dtype) * size);
        }
    CHECK_MATCH(m, "product of a turned kernel");
}

static void transpose_case(fr_dtype dtype, ptrdiff_t n_i, ptrdiff_t n_o)
{
    ptrdiff_t panel = fr_kernels_for(dtype)->panel, wrong = 0;
    void *w = array_in(&buffer_a, dtype, 1), *wt = array_in(&buffer_b, dtype, 2);
    fill(dtype, w, panel * panel, -1, 1);
    fill(dtype, wt, panel * panel, 5, 6);
    fr_kernels_for(dtype)->transpose(n_i, n_o, w, wt);
    for (ptrdiff_t i = 0; i < n_i; i++)
        for (ptrdiff_t o = 0; o < n_o; o++)
            wrong += get(dtype, wt, o * panel + i) != get(dtype, w, i * panel + o);
    CHECK(wrong == 0, "transpose of %td x %td: %td wrong", n_i, n_o, wrong);
}

static void check_products(fr_dtype dtype)
{
    static const ptrdiff_t depths[] = {1, 2, 7, 31, 32, 33, 65, 100};
    ptrdiff_t panel = fr_kernels_for(dtype)->panel;
    for (ptrdiff_t rows = 1; rows <= 40; rows++)
        for (int i = 0; i < 8; i++) {
            ptrdiff_t n = 1 + (rows * 5 + i * 3) % panel;
            test_case("products rows %td depth %td n %td %s %s", rows, depths[i], n, name_of(dtype),
                      fr_isa());
            product_case(dtype, rows, depths[i], n);
            kernel_product_case(dtype, depths[i], 1 + (rows - 1) % panel, n);
            for (ptrdiff_t few = 1; few <= fr_kernels_for(dtype)->few_units; few++)
                turned_product_case(dtype, rows, depths[i], few);
        }
    for (ptrdiff_t n = 1; n <= panel; n++) {
        test_case("products n %td %s %s", n, name_of(dtype), fr_isa());
        product_case(dtype, 13, 9, n);
        kernel_product_case(dtype, 9, panel, n);
        for (ptrdiff_t n_o = 1; n_o <= panel; n_o++) transpose_case(dtype, n, n_o);
    }
}

/* ---- products in bfloat16 ---- */

/* Of 8 significant bits, ties to even; the numbers of the tests are normal. */
static float to_bfloat16(float a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&a, &bits, sizeof a);
    return a;
}

/* Half `second` of a pair, as a float. */
static float half(const float *pairs, ptrdiff_t i, int second)
{
    uint32_t bits;
    memcpy(&bits, pairs + i, sizeof bits);
    bits = second ? bits & 0xffff0000u : bits << 16;
    float a;
    memcpy(&a, &bits, sizeof a);
    return a;
}

static void pair_panel_case(ptrdiff_t rows, ptrdiff_t n)
{
    const fr_pair_kernels *pairs = fr_pair_kernels_for_use();
    ptrdiff_t panel = fr_kernels_for(FR_FLOAT32)->panel, wrong = 0;
    float *x = array_in(&buffer_a, FR_FLOAT32, 1), *across = array_in(&buffer_b, FR_FLOAT32, 2);
    float *down = array_in(&buffer_c, FR_FLOAT32, 3);
    fill(FR_FLOAT32, x, rows * panel, -1, 1);
    pairs->panel(rows, n, x, across, down);
    for (ptrdiff_t r = 0; r < rows + rows % 2; r++)
        for (ptrdiff_t j = 0; j < panel; j++) {
            float want = r < rows && j < n ? to_bfloat16(x[r * panel + j]) : 0;
            if (r < rows) wrong += half(across, (r * panel + j) / 2, j % 2) != want;
            wrong += half(down, r / 2 * panel + j, r % 2) != want;
        }
    float *square = array_in(&buffer_c, FR_FLOAT32, 3);
    ptrdiff_t n_i = rows < panel ? rows : panel;
    pairs->transpose(n_i, n, x, square);
    for (ptrdiff_t o = 0; o < n + n % 2; o++)
        for (ptrdiff_t i = 0; i < n_i; i++) {
            float want = o < n ? to_bfloat16(x[i * panel + o]) : 0;
            wrong += half(square, o / 2 * panel + i, o % 2) != want;
        }
    CHECK(wrong == 0, "pairs of %td x %td: %td wrong", rows, n, wrong);
}

/* c = a b with a across (rows, depth) or, as x', down (depth, rows); b down (depth, n). */
static void pair_product_case(ptrdiff_t rows, ptrdiff_t depth, ptrdiff_t n, bool of_kernel)
{
    static float a[4 * 40 * 32], b[100 * 32], a_pairs[4 * 41 * 16], b_pairs[51 * 32], c[40 * 32];
    const fr_pair_kernels *pairs = fr_pair_kernels_for_use();
    ptrdiff_t panel = fr_kernels_for(FR_FLOAT32)->panel;
    ptrdiff_t held = of_kernel ? depth : rows;
    fill(FR_FLOAT32, a, (of_kernel ? 1 : (depth + panel - 1) / panel) * held * panel, -1, 1);
    fill(FR_FLOAT32, b, depth * panel, -1, 1);
    pairs->panel(depth, n, b, NULL, b_pairs);
    if (of_kernel) {
        pairs->panel(depth, rows, a, NULL, a_pairs);
        pairs->kernel_product(depth, rows, n, a_pairs, b_pairs, c, &(fr_ahead){0});
    } else {
        for (ptrdiff_t k = 0; k < depth; k += panel)
            pairs->panel(rows, depth - k < panel ? depth - k : panel, a + k * held,
                         a_pairs + k / 2 * held, NULL);
        pairs->product(rows, depth, n, a_pairs, held * panel / 2, b_pairs, c, &(fr_ahead){0});
    }
    match m = {0};
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < n; j++) {
            wide want = 0, size = 0;
            for (ptrdiff_t k = 0; k < depth; k++) {
                float left = of_kernel ? a[k * panel + r] : a[in_panels(panel, held, r, k)];
                wide term = (wide)to_bfloat16(left) * to_bfloat16(b[k * panel + j]);
                want += term, size += fabsl(term);
            }
            near(&m, FR_FLOAT32, r * panel + j, c[r * panel + j], want,
                 (depth + 2) * unit_of(FR_FLOAT32) * size);
        }
    CHECK_MATCH(m, of_kernel ? "kernel product of pairs" : "product of pairs");
}

static void check_pairs(void)
{
    static const ptrdiff_t depths[] = {1, 2, 7, 31, 32, 33, 65, 100};
    if (!fr_pair_kernels_for_use()) return;
    for (ptrdiff_t rows = 1; rows <= 40; rows++)
        for (int i = 0; i < 8; i++) {
            ptrdiff_t n = 1 + (rows * 5 + i * 3) % 32;
            test_case("bfloat16 rows %td depth %td n %td", rows, depths[i], n);
            pair_panel_case(rows, n);
            pair_product_case(rows, depths[i], n, false);
            pair_product_case(1 + (rows - 1) % 32, depths[i], n, true);
        }
}

/* ---- plain rows and panels ---- */

static void pack_case(fr_dtype dtype, ptrdiff_t n, layout l, bool indexed)
{
    static const int64_t index[ROWS] = {2, 0, 3, 2};
    void *plain = array_in(&buffer_a, dtype, 1), *panels = array_in(&buffer_b, dtype, 2);
    void *back = array_in(&buffer_c, dtype, 3);
    fill(dtype, plain, ROWS * n, -1, 1);
    fill(dtype, panels, extent(l, n), 5, 6);
    fr_kernels_for(dtype)->pack(ROWS, n, plain, indexed ? index : NULL, panels, l.ld, l.gap);
    fr_kernels_for(dtype)->unpack(ROWS, n, panels, l.ld, l.gap, back);
    ptrdiff_t wrong = 0, n_old = 0;
    for (ptrdiff_t r = 0; r < ROWS; r++)
        for (ptrdiff_t j = 0; j < n; j++) {
            double want = get(dtype, plain, (indexed ? (ptrdiff_t)index[r] : r) * n + j);
            wrong += get(dtype, panels, spot(l, r, j)) != want;
            wrong += get(dtype, back, r * n + j) != want;
        }
    for (ptrdiff_t i = 0; i < extent(l, n); i++) n_old += get(dtype, panels, i) >= 5;
    CHECK(wrong == 0, "%td elements wrong", wrong);
    CHECK(n_old == extent(l, n) - ROWS * n, "wrote beside the rows");
}

static void check_pack(fr_dtype dtype)
{
    for (int i = 0; i < N_ROW_LENGTHS; i++)
        for (int variant = 0; variant < 4; variant++) {
            ptrdiff_t n = length(i);
            test_case("pack n %td variant %d %s %s", n, variant, name_of(dtype), fr_isa());
            pack_case(dtype, n, layout_of(dtype, n, variant & 1), variant & 2);
        }
}

/* ---- products of nonzeros ---- */

enum { SPARSE_ROWS = 7, DEPTH = 11, MOST_TERMS = 24 };

/* Rows of 0, 1, 2, ... terms, in an order of their own or not; columns may repeat. */
static void sparse_case(fr_dtype dtype, ptrdiff_t n, bool ordered)
{
    static const int64_t order[SPARSE_ROWS] = {3, 0, 6, 3, 1, 5, 2};
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t vector = kernels->panel / 2, whole = (n + vector - 1) / vector * vector;
    ptrdiff_t ld_b = whole + n % 3, ld_c = whole + n % 2;
    int64_t start[SPARSE_ROWS + 1] = {0};
    int32_t column[SPARSE_ROWS * MOST_TERMS];
    void *value = array_in(&buffer_a, dtype, 1), *b = array_in(&buffer_b, dtype, 2);
    void *c = array_in(&buffer_c, dtype, 3);
    fill(dtype, value, SPARSE_ROWS * MOST_TERMS, -1, 1);
    fill(dtype, b, DEPTH * ld_b, -1, 1);
    for (int r = 0; r < SPARSE_ROWS; r++)
        start[r + 1] = start[r] + (r < 6 ? r : test_below(MOST_TERMS));
    for (int64_t k = 0; k < start[SPARSE_ROWS]; k++) column[k] = (int32_t)test_below(DEPTH);
    fr_sparse_rows a = {ordered ? order : NULL, start, column, value};
    kernels->sparse_product(SPARSE_ROWS, n, &a, b, ld_b, c, ld_c);
    match m = {0};
    for (ptrdiff_t r = 0; r < SPARSE_ROWS; r++)
        for (ptrdiff_t j = 0; j < n; j++) {
            ptrdiff_t row = ordered ? (ptrdiff_t)order[r] : r;
            wide want = 0, size = 0;
            for (int64_t k = start[row]; k < start[row + 1]; k++) {
                wide term = (wide)get(dtype, value, k) * get(dtype, b, column[k] * ld_b + j);
                want += term, size += fabsl(term);
            }
            wide bound = (start[row + 1] - start[row] + 1) * unit_of(dtype) * size;
            near(&m, dtype, r * n + j, get(dtype, c, r * ld_c + j), want, bound);
        }
    CHECK_MATCH(m, "product of nonzeros");
}

static void lanes_case(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n, bool panels)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t panel = kernels->panel, vector = panel / 2, lanes = kernels->lanes;
    layout l = panels ? (layout){panel, panel, rows * panel} : (layout){panel, n + n % 3, 0};
    void *y = array_in(&buffer_a, dtype, 1), *across = array_in(&buffer_b, dtype, 2);
    void *back = array_in(&buffer_c, dtype, 3);
    fill(dtype, y, spot(l, rows - 1, n - 1) + 1, -1, 1);
    fill(dtype, across, n * lanes, 5, 6);
    fill(dtype, back, rows * (panel + 1), 5, 6);
    kernels->to_lanes(rows, n, y, l.ld, l.gap, across);
    ptrdiff_t wrong = 0, some = n < panel ? n : panel;
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t r = 0; r < lanes; r++) {
            double got = get(dtype, across, j * lanes + r);
            if (r < rows)
                wrong += got != get(dtype, y, spot(l, r, j));
            else
                wrong += r < (rows + vector - 1) / vector * vector ? got != 0 : got < 5;
        }
    kernels->from_lanes(rows, some, across, back, panel + 1);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < panel + 1; j++) {
            double got = get(dtype, back, r * (panel + 1) + j);
            wrong += j < some ? got != get(dtype, y, spot(l, r, j)) : got < 5;
        }
    CHECK(wrong == 0, "%td elements wrong", wrong);
}

static void compress_case(fr_dtype dtype, ptrdiff_t n, ptrdiff_t ld)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    void *w = array_in(&buffer_a, dtype, 1), *value = array_in(&buffer_b, dtype, 2);
    int32_t row[MOST];
    ptrdiff_t wrong = 0, nonzero = 0, end = 3;
    fill(dtype, w, n * ld, 1, 2);
    for (ptrdiff_t i = 0; i < n * ld; i++) {
        ptrdiff_t kind = test_below(4);
        put(dtype, w, i, kind == 0 ? 0 : kind == 1 ? -0.0 : kind == 2 ? NAN : get(dtype, w, i));
        nonzero += kind > 1;
    }
    CHECK(kernels->count_nonzero(n * ld, w) == nonzero, "count of nonzeros");
    ptrdiff_t got = kernels->compress(n, w, ld, end, row, value);
    for (ptrdiff_t i = 0; i < n; i++) {
        double element = get(dtype, w, i * ld);
        if (element == 0) continue;
        wrong += row[end] != i || memcmp(at(dtype, value, end), at(dtype, w, i * ld),
                                         (size_t)size_of(dtype)) != 0;
        end++;
    }
    CHECK(wrong == 0 && got == end, "%td of %td nonzeros wrong, %td found", wrong, end, got);
}

/* Columns that rise, of rows with few to all of n_in; every element of the dense rows, 0 or not. */
static void compress_rows(fr_dtype dtype, ptrdiff_t rows, ptrdiff_t n_in, int64_t *start,
                          int32_t *column, void *value, void *dense)
{
    ptrdiff_t end = 0;
    for (ptrdiff_t r = 0; r < rows; r++) {
        ptrdiff_t one_in = r < 4 ? r : 1 + test_below(n_in); /* 0: an empty row, 1: a full one */
        start[r] = end;
        for (ptrdiff_t j = 0; j < n_in; j++) {
            bool there = one_in && test_below(one_in) == 0;
            double element = there ? test_uniform(1, 2) : 0;
            put(dtype, dense, r * n_in + j, element);
            if (!there) continue;
            column[end] = (int32_t)j;
            put(dtype, value, end++, element);
        }
    }
    start[rows] = end;
}

/* x' a strip of columns after another, and the rows spread out: each against the dense rows. */
static void rows_case(fr_dtype dtype, ptrdiff_t n_in, ptrdiff_t strip, bool ordered, bool panels)
{
    enum { BATCH = 9 };
    static const int64_t order[BATCH] = {3, 0, 6, 3, 1, 5, 2, 4, 1}; /* row 6 of 7 is the last */
    const fr_kernels *kernels = fr_kernels_for(dtype);
    ptrdiff_t rows = ordered ? BATCH : SPARSE_ROWS, first = n_in / 3, wrong = 0, missed = 0;
    int64_t start[SPARSE_ROWS + 1], cursor[BATCH], turned[MOST];
    int32_t column[SPARSE_ROWS * MOST], row_of[BATCH * MOST];
    void *value = array_in(&buffer_a, dtype, 1), *dense = array_in(&buffer_b, dtype, 2);
    void *out = array_in(&buffer_c, dtype, 3);
    compress_rows(dtype, SPARSE_ROWS, n_in, start, column, value, dense);
    fr_sparse_rows x = {ordered ? order : NULL, start, column, value};
    kernels->seek(rows, &x, first, cursor);
    for (ptrdiff_t i = first; i < n_in; i += strip) {
        ptrdiff_t n = n_in - i < strip ? n_in - i : strip;
        kernels->turn(rows, &x, i, n, cursor, turned, row_of, out);
        int64_t k = 0;
        for (ptrdiff_t c = 0; c < n; c++) {
            wrong += turned[c] != k;
            for (ptrdiff_t r = 0; r < rows; r++) {
                double want = get(dtype, dense, (ordered ? order[r] : r) * n_in + i + c);
                if (want == 0) continue;
                wrong += row_of[k] != r || get(dtype, out, k) != want;
                k++;
            }
        }
        wrong += turned[n] != k;
    }
    CHECK(wrong == 0, "%td of the terms of x' wrong", wrong);
    for (ptrdiff_t r = 0; r < rows; r++) missed += cursor[r] != start[(ordered ? order[r] : r) + 1];
    CHECK(missed == 0, "%td cursors not at the end of their row", missed);

    layout l = layout_of(dtype, n_in, panels);
    fill(dtype, out, extent(l, n_in), 5, 6);
    rows = rows < ROWS ? rows : ROWS;
    kernels->spread(rows, n_in, &x, out, l.ld, l.gap);
    ptrdiff_t n_old = 0;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < n_in; j++)
            wrong += get(dtype, out, spot(l, r, j)) !=
                     get(dtype, dense, (ordered ? order[r] : r) * n_in + j);
    for (ptrdiff_t i = 0; i < extent(l, n_in); i++) n_old += get(dtype, out, i) >= 5;
    CHECK(wrong == 0, "%td elements of the spread rows wrong", wrong);
    CHECK(n_old == extent(l, n_in) - rows * n_in, "wrote beside the rows");
}

/* Rows of a matrix with few elements left, NaN and -0 among them; then the products and sums by these alone. */
static void listed_case(fr_dtype dtype, ptrdiff_t n, bool panels, int one_in)
{
    enum { BEFORE = 5, MOST_LISTED = 400 };
    const fr_kernels *kernels = fr_kernels_for(dtype);
    layout l = layout_of(dtype, n, panels);
    ptrdiff_t vector = kernels->panel / 2, room = BEFORE + ROWS * n + n + vector;
    static int32_t column[MOST_LISTED + BEFORE];
    int64_t start[ROWS + 1];
    void *y = array_in(&buffer_a, dtype, 1), *value = array_in(&buffer_b, dtype, 2);
    fill(dtype, y, extent(l, n), 1, 2);
    for (ptrdiff_t r = 0; r < ROWS; r++)
        for (ptrdiff_t j = 0; j < n; j++) {
            ptrdiff_t kind = test_below(6 * one_in);
            /* the last row is empty */
            if (kind >= 6 || r == ROWS - 1) put(dtype, y, spot(l, r, j), kind % 2 ? 0 : -0.0);
            if (kind == 5 && r < ROWS - 1) put(dtype, y, spot(l, r, j), NAN);
        }
    fill(dtype, value, room + 1, 5, 6);
    for (ptrdiff_t k = 0; k <= room; k++) column[k] = -7;
    ptrdiff_t end = kernels->list_rows(ROWS, n, y, l.ld, l.gap, n, BEFORE, start, column, value);
    ptrdiff_t k = BEFORE, wrong = 0;
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        wrong += start[r] != k;
        for (ptrdiff_t j = 0; j < n; j++) {
            if (get(dtype, y, spot(l, r, j)) == 0) continue;
            wrong += column[k] != j || memcmp(at(dtype, value, k), at(dtype, y, spot(l, r, j)),
                                              (size_t)size_of(dtype)) != 0;
            k++;
        }
    }
    CHECK(wrong == 0 && start[ROWS] == k && end == k, "%td terms wrong, %td of %td", wrong, end, k);
    for (k = 0; k < BEFORE; k++) wrong += column[k] != -7 || get(dtype, value, k) < 5;
    CHECK(wrong == 0 && column[room] == -7 && get(dtype, value, room) >= 5, "wrote beside the lists");
    /* No row has more than `most` and FR_SPARE_ROWS times it. */
    ptrdiff_t most = n / (1 + FR_SPARE_ROWS), first_row = (ptrdiff_t)(start[1] - start[0]);
    if (first_row > most * (1 + FR_SPARE_ROWS)) {
        int64_t begun[ROWS + 1];
        ptrdiff_t got = kernels->list_rows(ROWS, n, y, l.ld, l.gap, most, 0, begun, column, value);
        CHECK(got == -1, "%td terms instead of none", got);
        kernels->list_rows(ROWS, n, y, l.ld, l.gap, n, BEFORE, start, column, value);
    }

    enum { DEPTHS = 5 };
    static const ptrdiff_t depths[DEPTHS] = {1, 3, 16, 33, 70};
    void *out = array_in(&buffer_c, dtype, 1), *d = array_in(&buffer_d, dtype, 3);
    void *w = array_in(&buffer_e, dtype, 2);
    fr_sparse_rows x = {NULL, start, column, value};
    static const int64_t order[] = {2, 0, 1};
    for (int i = 0; i < DEPTHS; i++) {
        ptrdiff_t depth = depths[i], units = n < 40 ? n : 40;
        for (int64_t t = start[0]; t < end; t++) column[t] %= (int32_t)units;
        layout of_w = panels ? (layout){kernels->panel, kernels->panel, (units - 1) * kernels->panel}
                             : (layout){kernels->panel, odd_ld(depth), 0};
        layout of_d = layout_of(dtype, depth, panels);
        fill(dtype, d, extent(of_d, depth), -1, 1);
        fill(dtype, w, spot(of_w, units - 1, depth - 1) + 1, -1, 1);
        fill(dtype, out, end + 1, 5, 6);
        x.order = i % 2 ? order : NULL;
        ptrdiff_t rows = i % 2 ? 3 : ROWS;
        kernels->listed_product(rows, depth, &x, d, of_d.ld, of_d.gap, w, of_w.ld, of_w.gap, out);
        match m = {0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            ptrdiff_t row = x.order ? (ptrdiff_t)x.order[r] : r;
            for (int64_t t = start[row]; t < start[row + 1]; t++) {
                wide want = 0, size = 0;
                for (ptrdiff_t o = 0; o < depth; o++) {
                    wide term = (wide)get(dtype, d, spot(of_d, r, o)) *
                                get(dtype, w, spot(of_w, column[t], o));
                    want += term, size += fabsl(term);
                }
                near(&m, dtype, (ptrdiff_t)t, get(dtype, out, (ptrdiff_t)t), want,
                     (depth + 1) * unit_of(dtype) * size);
            }
        }
        CHECK_MATCH(m, "product at listed terms");
        CHECK(get(dtype, out, end) >= 5, "wrote past the terms");
    }
    x.order = NULL;
    for (int64_t t = start[0]; t < end; t++) column[t] %= (int32_t)n;
    fill(dtype, y, extent(l, n), 1, 2);
    kernels->pick(ROWS, &x, y, l.ld, l.gap, out);
    for (ptrdiff_t r = 0; r < ROWS; r++)
        for (int64_t t = start[r]; t < start[r + 1]; t++)
            wrong += get(dtype, out, (ptrdiff_t)t) != get(dtype, y, spot(l, r, column[t]));
    CHECK(wrong == 0 && get(dtype, out, end) >= 5, "%td elements picked wrong", wrong);
    x.value = out;
    fill(dtype, d, n, -1, 1);
    wide want[MOST] = {0}, size[MOST] = {0};
    for (ptrdiff_t j = 0; j < n; j++) want[j] = get(dtype, d, j), size[j] = fabsl(want[j]);
    for (int64_t t = start[0]; t < end; t++) {
        want[column[t]] += get(dtype, out, (ptrdiff_t)t);
        size[column[t]] += get(dtype, out, (ptrdiff_t)t);
    }
    kernels->add_listed(ROWS, &x, d);
    match m = {0};
    for (ptrdiff_t j = 0; j < n; j++)
        near(&m, dtype, j, get(dtype, d, j), want[j], (end + 1) * unit_of(dtype) * size[j]);
    CHECK_MATCH(m, "column sums of listed rows");
}

static void check_sparse(fr_dtype dtype)
{
    const fr_kernels *kernels = fr_kernels_for(dtype);
    for (ptrdiff_t n = 1; n <= kernels->lanes; n++)
        for (int ordered = 0; ordered < 2; ordered++) {
            test_case("nonzeros n %td ordered %d %s %s", n, ordered, name_of(dtype), fr_isa());
            sparse_case(dtype, n, ordered);
        }
    for (ptrdiff_t rows = 1; rows <= kernels->lanes; rows += 1 + rows / 20)
        for (ptrdiff_t n = 1; n <= 40; n += 1 + n / 17)
            for (int panels = 0; panels < 2; panels++) {
                test_case("lanes %td x %td %s %s", rows, n, name_of(dtype), fr_isa());
                lanes_case(dtype, rows, n, panels);
            }
    for (ptrdiff_t n = 1; n <= 70; n++) {
        test_case("compress n %td %s %s", n, name_of(dtype), fr_isa());
        compress_case(dtype, n, 1 + n % 5);
    }
    for (ptrdiff_t n = 1; n <= 70; n += 1 + n / 20)
        for (int variant = 0; variant < 4; variant++)
            for (ptrdiff_t strip = 1; strip <= 64; strip *= 4) {
                test_case("compressed rows n %td strip %td variant %d %s %s", n, strip, variant,
                          name_of(dtype), fr_isa());
                rows_case(dtype, n, strip, variant & 1, variant & 2);
            }
    for (ptrdiff_t n = 1; n <= 70; n++)
        for (int variant = 0; variant < 4; variant++) {
            test_case("listed rows n %td variant %d %s %s", n, variant, name_of(dtype), fr_isa());
            listed_case(dtype, n, variant & 1, variant & 2 ? 1 : 5);
        }
}

void test_kernels(void)
{
    check_philox();
    test_each_target(check_forward);
    test_each_target(check_forward_of_nan);
    test_each_target(check_backward);
    test_each_target(check_losses);
    test_each_target(check_not_finite);
    test_each_target(check_updates);
    test_each_target(check_all_optimizers);
    test_each_target(check_sums);
    test_each_target(check_multiply);
    test_each_target(check_noise);
    test_each_target(check_kl);
    test_each_target(check_normalization);
    test_each_target(check_products);
    check_pairs();
    test_each_target(check_pack);
    test_each_target(check_sparse);
}
