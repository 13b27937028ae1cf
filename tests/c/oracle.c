#include "oracle.h"
#include "test.h"

#include <math.h>

static wide sign(wide a) { return a > 0 ? 1 : a < 0 ? -1 : 0; }

static wide normal_below(wide z) { return erfcl(-z / sqrtl(2)) / 2; }
static wide normal_density(wide z) { return expl(-z * z / 2) / sqrtl(2 * acosl(-1)); }
static wide logistic(wide z) { return 1 / (1 + expl(-z)); }
static wide softplus(wide z) { return fmaxl(z, 0) + log1pl(expl(-fabsl(z))); }
static wide gelu_u(wide z) { return 2 * sqrtl(2 / acosl(-1)) * (z + 0.044715L * z * z * z); }
static wide relu6(wide z) { return fminl(6, fmaxl(0, z)); }
static wide relu6_slope(wide z) { return z > 0 && z < 6; }

static const wide selu_alpha = 1.67326324235437728481704L, selu_scale = 1.05070098735548049341933L;

static wide curve_value(int activation, fr_curve c, wide z)
{
    switch (activation) {
    case FR_ACTIVATION_leaky_relu:
        return z > c.threshold ? fminl(z, c.max_value) : c.alpha * (z - c.threshold);
    case FR_ACTIVATION_relu6: return relu6(z);
    case FR_ACTIVATION_elu: return z > 0 ? z : c.alpha * expm1l(z);
    case FR_ACTIVATION_selu: return selu_scale * (z > 0 ? z : selu_alpha * expm1l(z));
    case FR_ACTIVATION_exponential: return expl(z);
    case FR_ACTIVATION_softplus: return softplus(z);
    case FR_ACTIVATION_softsign: return z / (1 + fabsl(z));
    case FR_ACTIVATION_hard_sigmoid: return relu6(z + 3) / 6;
    case FR_ACTIVATION_hard_silu: return z * relu6(z + 3) / 6;
    case FR_ACTIVATION_silu: return z * logistic(z);
    case FR_ACTIVATION_gelu: return z * normal_below(z);
    case FR_ACTIVATION_gelu_tanh: return z * logistic(gelu_u(z));
    case FR_ACTIVATION_mish: return z * tanhl(softplus(z));
    }
    return NAN;
}

static wide curve_slope(int activation, fr_curve c, wide z)
{
    switch (activation) {
    case FR_ACTIVATION_leaky_relu: return z > c.threshold ? z < c.max_value : c.alpha;
    case FR_ACTIVATION_relu6: return relu6_slope(z);
    case FR_ACTIVATION_elu: return z > 0 ? 1 : c.alpha * expl(z);
    case FR_ACTIVATION_selu: return selu_scale * (z > 0 ? 1 : selu_alpha * expl(z));
    case FR_ACTIVATION_exponential: return expl(z);
    case FR_ACTIVATION_softplus: return logistic(z);
    case FR_ACTIVATION_softsign: return 1 / ((1 + fabsl(z)) * (1 + fabsl(z)));
    case FR_ACTIVATION_hard_sigmoid: return relu6_slope(z + 3) / 6;
    case FR_ACTIVATION_hard_silu: return (relu6(z + 3) + z * relu6_slope(z + 3)) / 6;
    case FR_ACTIVATION_silu: return logistic(z) + z * logistic(z) * logistic(-z);
    case FR_ACTIVATION_gelu: return normal_below(z) + z * normal_density(z);
    case FR_ACTIVATION_gelu_tanh: {
        wide u = gelu_u(z), du = 2 * sqrtl(2 / acosl(-1)) * (1 + 3 * 0.044715L * z * z);
        return logistic(u) + z * du * logistic(u) * logistic(-u);
    }
    case FR_ACTIVATION_mish: {
        wide share = tanhl(softplus(z)), rest = 1 / coshl(softplus(z));
        return share + z * rest * rest * logistic(z);
    }
    }
    return NAN;
}

bool oracle_wants_z(int activation) { return activation > FR_ACTIVATION_log_softmax; }

void oracle_activation(int activation, fr_curve c, ptrdiff_t n, const wide *z, wide *y)
{
    wide largest = -INFINITY, total = 0;
    for (ptrdiff_t j = 0; j < n; j++) largest = fmaxl(largest, z[j]);
    bool whole = activation == FR_ACTIVATION_softmax || activation == FR_ACTIVATION_log_softmax;
    for (ptrdiff_t j = 0; j < n && whole; j++) total += expl(z[j] - largest);
    for (ptrdiff_t j = 0; j < n; j++) {
        switch (activation) {
        case FR_ACTIVATION_linear: y[j] = z[j]; break;
        case FR_ACTIVATION_relu: y[j] = z[j] > 0 ? z[j] : 0; break;
        case FR_ACTIVATION_tanh: y[j] = tanhl(z[j]); break;
        case FR_ACTIVATION_sigmoid: y[j] = 1 / (1 + expl(-z[j])); break;
        case FR_ACTIVATION_softmax: y[j] = expl(z[j] - largest) / total; break;
        case FR_ACTIVATION_log_softmax: y[j] = z[j] - largest - logl(total); break;
        default: y[j] = curve_value(activation, c, z[j]);
        }
    }
}

void oracle_activation_gradient(int activation, fr_curve c, ptrdiff_t n, const wide *y,
                                const wide *dy, wide *dz)
{
    wide mean = 0, sum = 0;
    for (ptrdiff_t j = 0; j < n; j++) mean += y[j] * dy[j], sum += dy[j];
    for (ptrdiff_t j = 0; j < n; j++) {
        switch (activation) {
        case FR_ACTIVATION_linear: dz[j] = dy[j]; break;
        case FR_ACTIVATION_relu: dz[j] = y[j] > 0 ? dy[j] : 0; break;
        case FR_ACTIVATION_tanh: dz[j] = (1 - y[j] * y[j]) * dy[j]; break;
        case FR_ACTIVATION_sigmoid: dz[j] = y[j] * (1 - y[j]) * dy[j]; break;
        case FR_ACTIVATION_softmax: dz[j] = y[j] * (dy[j] - mean); break;
        case FR_ACTIVATION_log_softmax: dz[j] = dy[j] - expl(y[j]) * sum; break;
        default: dz[j] = curve_slope(activation, c, y[j]) * dy[j];
        }
    }
}

wide oracle_penalty_gradient(fr_regularizer r, wide w) { return r.l1 * sign(w) + 2 * r.l2 * w; }
/* Of a unit of that mean, times kl; its gradient by the mean. */
wide oracle_kl(fr_kl p, wide mean, wide *slope)
{
    const double least = 1e-7, most = 1 - least; /* 6e-10 of 1 - most is its rounding */
    const wide m = fminl(fmaxl(mean, least), most), rate = p.rate;
    *slope = m == mean ? p.kl * ((1 - rate) / (1 - m) - rate / m) : 0;
    return p.kl * (rate * logl(rate / m) + (1 - rate) * logl((1 - rate) / (1 - m)));
}

wide oracle_penalty(fr_regularizer r, wide w) { return r.l1 * fabsl(w) + r.l2 * w * w; }

/* ---- losses ---- */

typedef struct {
    wide low, high;
} bounds;

static bounds clip_bounds(fr_dtype dtype)
{
    return (bounds){rounded(dtype, 1e-7), rounded(dtype, 1 - 1e-7)};
}

static wide clip(bounds b, wide p) { return p < b.low ? b.low : p > b.high ? b.high : p; }
static bool clipped(bounds b, wide p) { return p < b.low || p > b.high; }

static wide squared_error(ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide loss = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        loss += (y[j] - t[j]) * (y[j] - t[j]) / n;
        dy[j] = 2 * (y[j] - t[j]) / n;
    }
    return loss;
}

static wide binary(bounds b, ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide loss = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        wide p = clip(b, y[j]);
        loss -= (t[j] * logl(p) + (1 - t[j]) * logl(1 - p)) / n;
        dy[j] = clipped(b, y[j]) ? 0 : ((1 - t[j]) / (1 - p) - t[j] / p) / n;
    }
    return loss;
}

static wide categorical(bounds b, ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide sum = 0, loss = 0, inner = 0;
    for (ptrdiff_t j = 0; j < n; j++) sum += y[j];
    for (ptrdiff_t j = 0; j < n; j++) {
        wide q = y[j] / sum;
        loss -= t[j] * logl(clip(b, q));
        dy[j] = clipped(b, q) ? 0 : -t[j] / q; /* by q */
        inner += dy[j] * q;
    }
    for (ptrdiff_t j = 0; j < n; j++) dy[j] = (dy[j] - inner) / sum;
    return loss;
}

/* Of one output; the row's is their mean, that of kl_divergence their sum. */
static wide output_loss(int loss, const fr_loss_settings *s, bounds b, wide y, wide t, wide *slope)
{
    wide e = y - t, low = b.low;
    switch (loss) {
    case FR_LOSS_mean_absolute_error: *slope = sign(e); return fabsl(e);
    case FR_LOSS_mean_absolute_percentage_error:
        *slope = 100 * sign(e) / fmaxl(low, fabsl(t));
        return 100 * fabsl(e) / fmaxl(low, fabsl(t));
    case FR_LOSS_mean_squared_logarithmic_error:
        e = log1pl(fmaxl(low, y)) - log1pl(fmaxl(low, t));
        *slope = y < low ? 0 : 2 * e / (1 + y);
        return e * e;
    case FR_LOSS_log_cosh: *slope = tanhl(e); return logl(coshl(e));
    case FR_LOSS_poisson: *slope = 1 - t / (y + low); return y - t * logl(y + low);
    case FR_LOSS_huber:
        *slope = fmaxl(-s->delta, fminl(s->delta, e));
        return fabsl(e) <= s->delta ? e * e / 2 : s->delta * (fabsl(e) - s->delta / 2);
    case FR_LOSS_quantile:
        *slope = e > 0 ? 1 - (wide)s->quantile : e < 0 ? -(wide)s->quantile : 0;
        return e * *slope;
    case FR_LOSS_kl_divergence: {
        wide p = fminl(1, fmaxl(low, y)), q = fminl(1, fmaxl(low, t));
        *slope = y < low || y > 1 ? 0 : -q / p;
        return q * logl(q / p);
    }
    }
    wide side = t == 0 ? -1 : t, margin = fmaxl(0, 1 - side * y);
    *slope = margin > 0 ? -side : 0;
    if (loss == FR_LOSS_hinge) return margin;
    *slope *= 2 * margin;
    return margin * margin;
}

static wide over_outputs(int loss, const fr_loss_settings *s, bounds b, ptrdiff_t n, const wide *y,
                         const wide *t, wide *dy)
{
    wide total = 0, divisor = loss == FR_LOSS_kl_divergence ? 1 : n;
    for (ptrdiff_t j = 0; j < n; j++) {
        total += output_loss(loss, s, b, y[j], t[j], &dy[j]) / divisor;
        dy[j] /= divisor;
    }
    return total;
}

static wide categorical_hinge(ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide most = -INFINITY, right = 0;
    ptrdiff_t equals = 0;
    for (ptrdiff_t j = 0; j < n; j++) most = fmaxl(most, (1 - t[j]) * y[j]), right += t[j] * y[j];
    for (ptrdiff_t j = 0; j < n; j++) equals += (1 - t[j]) * y[j] == most;
    wide margin = 1 + most - right;
    for (ptrdiff_t j = 0; j < n; j++)
        dy[j] = margin > 0 ? ((1 - t[j]) * y[j] == most ? (1 - t[j]) / equals : 0) - t[j] : 0;
    return fmaxl(0, margin);
}

static wide cosine(ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide yy = 0, tt = 0, yt = 0;
    for (ptrdiff_t j = 0; j < n; j++) yy += y[j] * y[j], tt += t[j] * t[j], yt += y[j] * t[j];
    wide norm = fmaxl(1e-7L, sqrtl(yy)), norm_t = fmaxl(1e-7L, sqrtl(tt)), cos = yt / norm / norm_t;
    for (ptrdiff_t j = 0; j < n; j++) dy[j] = (cos * y[j] / norm - t[j] / norm_t) / norm;
    return -cos;
}

static wide focal(const fr_loss_settings *s, bounds b, ptrdiff_t n, const wide *y, const wide *t, wide *dy)
{
    wide total = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        wide p = y[j], q = 1 - y[j];
        if (s->from_logits) p = 1 / (1 + expl(-y[j])), q = 1 / (1 + expl(y[j]));
        wide kept = clip(b, p), left = s->from_logits ? clip(b, q) : 1 - kept;
        wide entropy = -t[j] * logl(kept) - (1 - t[j]) * logl(left);
        wide slope = clipped(b, p) ? 0 : (1 - t[j]) / left - t[j] / kept;
        wide missed = t[j] * q + (1 - t[j]) * p, steep = (1 - 2 * t[j]) * s->gamma;
        steep *= s->gamma != 0 && (missed > 0 || s->gamma == 1) ? powl(missed, (wide)s->gamma - 1) : 0;
        wide weight = s->apply_class_balancing ? t[j] * s->alpha + (1 - t[j]) * (1 - s->alpha) : 1;
        wide factor = s->gamma == 0 ? 1 : powl(missed, s->gamma);
        total += weight * factor * entropy / n;
        dy[j] = weight * (factor * slope + steep * entropy) / n * (s->from_logits ? p * q : 1);
    }
    return total;
}

void oracle_smooth(int loss, const fr_loss_settings *s, ptrdiff_t n, const wide *target, wide *t)
{
    wide share = loss == FR_LOSS_categorical_crossentropy ? 1 / (wide)n : 0.5L;
    bool smooth = loss == FR_LOSS_binary_crossentropy || loss == FR_LOSS_categorical_crossentropy ||
                  loss == FR_LOSS_binary_focal_crossentropy;
    wide part = smooth ? s->label_smoothing : 0;
    for (ptrdiff_t j = 0; j < n; j++) t[j] = (1 - part) * target[j] + part * share;
}

enum { WIDEST = 4096 };

wide oracle_loss(int loss, const fr_loss_settings *s, fr_dtype dtype, ptrdiff_t n, const wide *y,
                 const wide *target, wide *dy)
{
    bounds b = clip_bounds(dtype);
    wide t[WIDEST], p[WIDEST];
    oracle_smooth(loss, s, n, target, t);
    switch (loss) {
    case FR_LOSS_mean_squared_error: return squared_error(n, y, t, dy);
    case FR_LOSS_binary_crossentropy:
        if (s->from_logits) return oracle_fused_loss(loss, s, n, y, target, p, dy);
        return binary(b, n, y, t, dy);
    case FR_LOSS_categorical_crossentropy:
    case FR_LOSS_sparse_categorical_crossentropy:
        if (s->from_logits) return oracle_fused_loss(loss, s, n, y, target, p, dy);
        return categorical(b, n, y, t, dy);
    case FR_LOSS_categorical_hinge: return categorical_hinge(n, y, t, dy);
    case FR_LOSS_cosine_similarity: return cosine(n, y, t, dy);
    case FR_LOSS_binary_focal_crossentropy: return focal(s, b, n, y, t, dy);
    default: return over_outputs(loss, s, b, n, y, t, dy);
    }
}

bool oracle_settings(int loss, int i, fr_loss_settings *s)
{
    static const struct {
        int loss;
        fr_loss_settings settings;
    } others[] = {
        {FR_LOSS_huber, {.delta = 0.3}},
        {FR_LOSS_quantile, {.quantile = 0.8}},
        {FR_LOSS_binary_crossentropy, {.label_smoothing = 0.2}},
        {FR_LOSS_binary_crossentropy, {.from_logits = 1}},
        {FR_LOSS_binary_crossentropy, {.from_logits = 1, .label_smoothing = 0.3}},
        {FR_LOSS_categorical_crossentropy, {.label_smoothing = 0.2}},
        {FR_LOSS_categorical_crossentropy, {.from_logits = 1}},
        {FR_LOSS_categorical_crossentropy, {.from_logits = 1, .label_smoothing = 1}},
        {FR_LOSS_sparse_categorical_crossentropy, {.from_logits = 1}},
        {FR_LOSS_binary_focal_crossentropy, {.apply_class_balancing = 1, .alpha = 0.7, .gamma = 0.5}},
        {FR_LOSS_binary_focal_crossentropy, {.from_logits = 1, .label_smoothing = 0.1, .gamma = 3.5}},
        {FR_LOSS_binary_focal_crossentropy, {.gamma = 0}},
        {FR_LOSS_binary_focal_crossentropy, {.gamma = 1}},
    };
    *s = (fr_loss_settings){.delta = 1, .quantile = 0.5, .alpha = 0.25, .gamma = 2};
    for (size_t k = 0; k < sizeof others / sizeof others[0] && i > 0; k++)
        if (others[k].loss == loss && --i == 0) *s = others[k].settings;
    return i == 0;
}

bool oracle_fuses(int loss, int activation)
{
    switch (loss) {
    case FR_LOSS_binary_crossentropy: return activation == FR_ACTIVATION_sigmoid;
    case FR_LOSS_categorical_crossentropy:
    case FR_LOSS_sparse_categorical_crossentropy: return activation == FR_ACTIVATION_softmax;
    default: return false;
    }
}

wide oracle_fused_loss(int loss, const fr_loss_settings *s, ptrdiff_t n, const wide *z,
                       const wide *raw, wide *y, wide *dz)
{
    wide value = 0, target[WIDEST];
    oracle_smooth(loss, s, n, raw, target);
    if (loss == FR_LOSS_binary_crossentropy) {
        oracle_activation(FR_ACTIVATION_sigmoid, (fr_curve){0}, n, z, y);
        for (ptrdiff_t j = 0; j < n; j++) {
            value += (fmaxl(z[j], 0) - z[j] * target[j] + log1pl(expl(-fabsl(z[j])))) / n;
            dz[j] = (y[j] - target[j]) / n;
        }
        return value;
    }
    oracle_activation(FR_ACTIVATION_softmax, (fr_curve){0}, n, z, y);
    wide largest = -INFINITY, total = 0, mass = 0;
    for (ptrdiff_t j = 0; j < n; j++) largest = fmaxl(largest, z[j]), mass += target[j];
    for (ptrdiff_t j = 0; j < n; j++) total += expl(z[j] - largest);
    for (ptrdiff_t j = 0; j < n; j++) {
        value += target[j] * (logl(total) + largest - z[j]);
        dz[j] = y[j] * mass - target[j];
    }
    return value;
}

static ptrdiff_t position_of_largest(ptrdiff_t n, const wide *a)
{
    ptrdiff_t best = 0;
    for (ptrdiff_t j = 1; j < n; j++)
        if (a[j] > a[best]) best = j;
    return best;
}

double oracle_correct(int accuracy, ptrdiff_t n, const wide *y, const wide *target)
{
    if (accuracy == FR_ACCURACY_none) return 0;
    if (accuracy != FR_ACCURACY_binary)
        return position_of_largest(n, y) == position_of_largest(n, target);
    double right = 0;
    for (ptrdiff_t j = 0; j < n; j++) right += (y[j] > 0.5 ? 1 : 0) == target[j];
    return right / (double)n;
}

/* ---- noise ---- */

void oracle_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x[4] = {counter[0], counter[1], counter[2], counter[3]};
    for (uint32_t round = 0; round < 10; round++) {
        uint32_t k0 = key[0] + round * UINT32_C(2654435769);
        uint32_t k1 = key[1] + round * UINT32_C(3144134277);
        uint64_t p0 = UINT64_C(3528531795) * x[0], p1 = UINT64_C(3449720151) * x[2];
        uint32_t y[4] = {(uint32_t)(p1 >> 32) ^ x[1] ^ k0, (uint32_t)(p1 & UINT32_MAX),
                         (uint32_t)(p0 >> 32) ^ x[3] ^ k1, (uint32_t)(p0 & UINT32_MAX)};
        for (int i = 0; i < 4; i++) x[i] = y[i];
    }
    for (int i = 0; i < 4; i++) out[i] = x[i];
}

bool oracle_is_noise(int kind)
{
    return kind == FR_LAYER_dropout || kind == FR_LAYER_gaussian_noise ||
           kind == FR_LAYER_gaussian_dropout || kind == FR_LAYER_alpha_dropout;
}

/* Two numbers of two words; the uniform one and the angle are rounded as they are drawn. */
static wide normal_of(const uint32_t words[4], int place, fr_dtype dtype)
{
    uint32_t radius = words[place & 2], angle = words[(place & 2) + 1];
    wide u = rounded(dtype, ldexp(radius + 0.5, -32)), quarter = acosl(-1) / 2;
    wide t = rounded(dtype, (double)(((angle & 0x3FFFFFFF) + 0.5L) / (1 << 30) * quarter - quarter / 2));
    wide r = sqrtl(-2 * logl(u));
    if (place & 1) return (angle & 0x40000000 ? -1 : 1) * r * sinl(t + quarter / 2);
    return (angle & 0x80000000 ? -1 : 1) * r * cosl(t + quarter / 2);
}

void oracle_noise(const fr_layer *s, fr_dtype dtype, uint64_t seed, ptrdiff_t column, ptrdiff_t row,
                  uint32_t layer, uint32_t iteration, wide *factor, wide *offset)
{
    uint32_t counter[4] = {(uint32_t)(column / 4), (uint32_t)row, layer, iteration}, words[4];
    uint32_t key[2] = {(uint32_t)(seed & UINT32_MAX), (uint32_t)(seed >> 32)};
    oracle_philox(counter, key, words);
    bool drops = (double)words[column % 4] < floor(s->rate * 4294967296.0);
    wide normal = normal_of(words, column % 4, dtype), limit = -1.7580993408473768599L;
    wide scale = 1 / sqrtl((1 - (wide)s->rate) * (1 + (wide)s->rate * limit * limit));
    *factor = 1;
    *offset = 0;
    switch (s->kind) {
    case FR_LAYER_dropout: *factor = drops ? 0 : 1 / (1 - (wide)s->rate); break;
    case FR_LAYER_gaussian_noise: *offset = s->stddev * normal; break;
    case FR_LAYER_gaussian_dropout: *factor = 1 + sqrtl(s->rate / (1 - (wide)s->rate)) * normal; break;
    case FR_LAYER_alpha_dropout:
        *factor = drops ? 0 : scale;
        *offset = scale * ((drops ? limit : 0) - limit * s->rate);
        break;
    }
    *factor = rounded(dtype, (double)*factor);
    *offset = rounded(dtype, (double)*offset);
}

/* ---- optimizers ---- */

wide oracle_smooth_gradient(const fr_optimizer *o, fr_regularizer r, wide w)
{
    if (o->l1_step != FR_L1_STEP_sign) r.l1 = 0;
    return oracle_penalty_gradient(r, w);
}

int oracle_slots(const fr_optimizer *o)
{
    switch (o->kind) {
    case FR_OPTIMIZER_sgd: return o->momentum != 0;
    case FR_OPTIMIZER_adam: return o->amsgrad ? 3 : 2;
    case FR_OPTIMIZER_rmsprop: return 1 + !!o->centered + (o->momentum != 0);
    case FR_OPTIMIZER_adagrad:
    case FR_OPTIMIZER_lion: return 1;
    }
    return 2;
}

void oracle_begin(const fr_optimizer *o, wide *slots)
{
    for (int i = 0; i < FR_MOST_SLOTS; i++) slots[i] = 0;
    if (o->kind == FR_OPTIMIZER_adagrad || o->kind == FR_OPTIMIZER_ftrl)
        slots[0] = o->initial_accumulator_value;
}

static wide soft_threshold(wide w, wide t) { return fabsl(w) <= t ? 0 : w > 0 ? w - t : w + t; }

/* Takes up to t from |w|, or up to all that u and q allow: u is what L1 could have taken so far, q what
 * it has taken, with the sign. They stand in the slots as u + q and u - q. */
static void l1_step(const fr_optimizer *o, wide t, wide *w, wide slots[2])
{
    if (o->l1_step == FR_L1_STEP_proximal) *w = soft_threshold(*w, t);
    if (o->l1_step != FR_L1_STEP_cumulative) return;
    wide u = (slots[0] + slots[1]) / 2 + t, q = (slots[0] - slots[1]) / 2, z = *w;
    if (z > 0) *w = fmaxl(0, z - (u + q));
    if (z < 0) *w = fminl(0, z + (u - q));
    q += *w - z;
    slots[0] = u + q, slots[1] = u - q;
}

/* The step as its authors write it; returns the threshold of the L1 steps that reach zero. */
static wide own_step(const fr_optimizer *o, int64_t iteration, wide g, wide l1, wide *w, wide *slot)
{
    wide rate = o->learning_rate, t = (wide)iteration + 1, mu = o->momentum, rho = o->rho;
    wide b1 = o->beta_1, b2 = o->beta_2, eps = o->epsilon, least = fminl(1e-5L, l1 / 10);
    switch (o->kind) {
    case FR_OPTIMIZER_sgd:
        if (mu == 0) {
            *w -= rate * g;
        } else {
            slot[0] = mu * slot[0] - rate * g;
            *w += o->nesterov ? mu * slot[0] - rate * g : slot[0];
        }
        return rate * l1 / (1 - mu);
    case FR_OPTIMIZER_adam: {
        slot[0] = b1 * slot[0] + (1 - b1) * g;
        slot[1] = b2 * slot[1] + (1 - b2) * g * g;
        if (o->amsgrad) slot[2] = fmaxl(slot[2], slot[1]);
        wide long_run = rate * sqrtl(1 - powl(b2, t)), d = sqrtl(slot[o->amsgrad ? 2 : 1]) + eps;
        *w -= long_run / (1 - powl(b1, t)) * slot[0] / d;
        return long_run * l1 / fmaxl(d, least);
    }
    case FR_OPTIMIZER_adamax:
        slot[0] = b1 * slot[0] + (1 - b1) * g;
        slot[1] = fmaxl(b2 * slot[1], fabsl(g));
        *w -= rate / (1 - powl(b1, t)) * slot[0] / (slot[1] + eps);
        return rate * l1 / fmaxl(slot[1] + eps, least);
    case FR_OPTIMIZER_nadam: {
        static wide product, product_t, product_b1; /* of the last call: it is called for each weight */
        wide u = 0, next = b1 * (1 - 0.5L * powl(0.96L, t + 1));
        if (product_t != t || product_b1 != b1) {
            product = 1;
            for (int64_t i = 1; i <= t && product > 1e-30L; i++)
                product *= b1 * (1 - 0.5L * powl(0.96L, (wide)i));
            product_t = t, product_b1 = b1;
        }
        u = b1 * (1 - 0.5L * powl(0.96L, t));
        slot[0] = b1 * slot[0] + (1 - b1) * g;
        slot[1] = b2 * slot[1] + (1 - b2) * g * g;
        wide root = sqrtl(1 - powl(b2, t)), d = sqrtl(slot[1]) / root + eps;
        *w -= rate * (next * slot[0] / (1 - product * next) + (1 - u) * g / (1 - product)) / d;
        return rate * l1 * root / fmaxl(d * root, least);
    }
    case FR_OPTIMIZER_rmsprop: {
        slot[0] = rho * slot[0] + (1 - rho) * g * g;
        wide spread = slot[0];
        if (o->centered) {
            slot[1] = rho * slot[1] + (1 - rho) * g;
            spread = fmaxl(0, slot[0] - slot[1] * slot[1]);
        }
        wide d = sqrtl(spread + eps), step = rate * g / d, *sum = slot + 1 + !!o->centered;
        if (mu != 0) step = *sum = mu * *sum + step;
        *w -= step;
        return rate * l1 / (1 - mu) / fmaxl(d, least);
    }
    case FR_OPTIMIZER_adagrad:
        slot[0] += g * g;
        *w -= rate * g / sqrtl(slot[0] + eps);
        return rate * l1 / fmaxl(sqrtl(slot[0] + eps), least);
    case FR_OPTIMIZER_adadelta: {
        slot[0] = rho * slot[0] + (1 - rho) * g * g;
        wide step = sqrtl(slot[1] + eps) / sqrtl(slot[0] + eps) * g;
        slot[1] = rho * slot[1] + (1 - rho) * step * step;
        *w -= rate * step;
        return 0;
    }
    case FR_OPTIMIZER_lion: {
        wide mean = b1 * slot[0] + (1 - b1) * g;
        *w -= mean > 0 ? rate : mean < 0 ? -rate : 0;
        slot[0] = b2 * slot[0] + (1 - b2) * g;
        return 0;
    }
    case FR_OPTIMIZER_ftrl: {
        wide p = -(wide)o->learning_rate_power, n = slot[0] + g * g;
        wide sigma = (powl(n, p) - powl(slot[0], p)) / rate;
        slot[1] += g + 2 * o->l2_shrinkage * *w - sigma * *w;
        slot[0] = n;
        wide below = powl(n, p) / rate + 2 * (wide)o->l2 + o->beta / rate, z = slot[1];
        *w = fabsl(z) <= o->l1 || below == 0 ? 0 : ((z > 0 ? o->l1 : -o->l1) - z) / below;
        return 0;
    }
    }
    return 0;
}

void oracle_update(const fr_optimizer *o, int64_t iteration, wide g, wide l1, wide *w, wide *slots)
{
    *w -= o->learning_rate * (wide)o->weight_decay * *w;
    wide threshold = own_step(o, iteration, g, l1, w, slots);
    if (l1 > 0) l1_step(o, threshold, w, slots + oracle_slots(o));
}
