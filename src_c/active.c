/* Active sets: which layers list them, and what a row panel does with its list.
 *
 * Of five products that a layer and its reader have in a step, four are proportional to the share of active
 * units: y W of the reader, its x'dz, its dz W' at the active units alone, and the layer's own x'dz and dz W'.
 *
 * Whether a row panel is listed follows from its outputs alone, and the phase of columns goes by lists where
 * all row panels did: nothing depends on the number of threads or on the steps before.
 */
#include "active.h"

#include <math.h>
#include <string.h>

/* Of the reader: below, nothing was measured. */
enum { SMALLEST_KERNEL = 1 << 15 };

/* Up to which share of the units a step with lists is the faster one: most (K - look) / (K + term), where K are the
 * multiplications that a unit at rest saves in a row. Fitted by `python -m bench.active` (AMD EPYC, Zen 5) over
 * 64 to 512 inputs, 64 to 1024 rows and either dtype with 1024 units; 512 agreed. Of an ISA that was not measured: the
 * lowest. */
typedef struct {
    double most, term, look;
} even_share;

static const struct {
    const char *isa;
    even_share of[FR_FLOAT64 + 1];
} EVEN[] = {
    {"avx2", {{0.45, 260, 202}, {0.37, 24, 186}}},
    {"avx512", {{0.33, 720, 125}, {0.28, 330, 163}}},
};
enum { N_EVEN = sizeof EVEN / sizeof *EVEN };

/* The layer above l that does not just scale each unit: its reader. */
static ptrdiff_t reader_of(const fr_network *net, ptrdiff_t l)
{
    bool scaled = l + 1 < net->n_layers && fr_layer_kinds[net->layers[l + 1].spec.kind].scales;
    return l + 1 + scaled;
}

/* The reader's product forward, its x'dz and its dz W'; the layer's own x'dz and dz W', if it has a kernel. */
static double saved_by_rest(const fr_network *net, ptrdiff_t l)
{
    const fr_layer *s = &net->layers[l].spec, *reader = &net->layers[reader_of(net, l)].spec;
    ptrdiff_t above = 1 + (reader->trainable != 0) + (l >= net->first_trainable);
    ptrdiff_t own = net->layers[l].kernel < 0 ? 0 : (s->trainable != 0) + (l > net->first_trainable);
    return (double)(above * reader->n_out + own * s->n_in);
}

static double worthwhile(const fr_network *net, ptrdiff_t l)
{
    double saved = saved_by_rest(net, l), lowest = 1;
    for (int i = 0; i < N_EVEN; i++) {
        even_share e = EVEN[i].of[net->dtype];
        double share = fmax(0, e.most * (saved - e.look) / (saved + e.term));
        if (strcmp(EVEN[i].isa, net->kernels->isa) == 0) return share;
        lowest = fmin(lowest, share);
    }
    return lowest;
}

/* y = 0 must say that f'(z) is 0. */
static bool rests(const fr_network *net, const fr_layer *s)
{
    if (!net->kernels->rests[s->activation]) return false;
    return s->activation != FR_ACTIVATION_leaky_relu || (s->curve.alpha == 0 && s->curve.threshold >= 0);
}

/* Active units of a row, on average, up to which layer l lists them; 0: it never does. The lists are of native
 * products, in the network's own dtype. */
static ptrdiff_t most_active(const fr_network *net, ptrdiff_t l)
{
    ptrdiff_t above = reader_of(net, l);
    if (above >= net->n_layers || !net->native || net->pairs || net->sparse == FR_SPARSE_NEVER) return 0;
    const fr_layer *s = &net->layers[l].spec, *reader = &net->layers[above].spec;
    if (!fr_layer_kinds[s->kind].has_activation || reader->kind != FR_LAYER_dense || !rests(net, s)) return 0;
    if (net->layers[l].turned || net->layers[above].turned) return 0;
    if (has_rates(s) || net->layers[l].is_given) return 0; /* their gradients are whole */
    if (net->layers[l].times > 1) return 0;
    if (net->sparse == FR_SPARSE_ALWAYS) return s->n_out;
    if (s->n_out * reader->n_out < SMALLEST_KERNEL) return 0;
    return (ptrdiff_t)(worthwhile(net, l) * (double)s->n_out);
}

bool fr_plan_active(fr_network *net)
{
    bool fits = true;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        active_set *s = &net->layers[l].active;
        s->most = most_active(net, l);
        s->whole = false;
        s->of = s->most > 0 ? l : l > 0 && reader_of(net, l - 1) == l + 1 ? net->layers[l - 1].active.of : -1;
        if (s->most == 0) s->share = 1; /* else that of the last step, until the next knows its own */
        fits = fits && s->most <= s->room;
    }
    return fits;
}

/* Terms that a row panel of `rows` rows has room for. */
static ptrdiff_t panel_room(const fr_network *net, const layer *a, ptrdiff_t rows)
{
    ptrdiff_t terms = fr_size_product(rows + FR_SPARE_ROWS, a->active.room);
    return terms < 0 ? -1 : terms + a->n_padded + net->kernels->panel;
}

void fr_take_active(const fr_network *net, fr_arena *arena, layer *a, ptrdiff_t n_batch,
                    ptrdiff_t n_panels)
{
    active_set *s = &a->active;
    s->room = s->most;
    if (s->room == 0) return;
    ptrdiff_t rest = fr_size_product(n_panels, panel_room(net, a, 0));
    ptrdiff_t terms = fr_size_product(n_batch, s->room);
    terms = rest < 0 || terms < 0 || terms > PTRDIFF_MAX - rest ? -1 : terms + rest;
    s->start = fr_arena_take(arena, n_batch + n_panels, sizeof *s->start);
    s->column = fr_arena_take(arena, terms, sizeof *s->column);
    s->y = s->read = fr_arena_take(arena, terms, net->size);
    bool scaled = reader_of(net, a - net->layers) > a - net->layers + 1;
    if (scaled) s->read = fr_arena_take(arena, terms, net->size);
    s->factor = scaled ? fr_arena_take(arena, terms, net->size) : NULL;
    s->d = fr_arena_take(arena, terms, net->size);
    bool keeps = net->kernels->keeps_slope[a->spec.activation];
    s->slope = keeps ? fr_arena_take(arena, terms, net->size) : NULL;
    s->listed = fr_arena_take(arena, n_panels, sizeof *s->listed);
}

void fr_list_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    const active_set *s = &a->active;
    if (s->most == 0) return;
    ptrdiff_t panel = first / run->plan->n_rows;
    ptrdiff_t end = panel * panel_room(net, a, run->plan->n_rows);
    matrix y = rows_of(run, l, a->y, first);
    end = run->kernels->list_rows(rows, a->spec.n_out, y.at, y.width, gap(net, y), s->most, end,
                                  s->start + run->plan->order[first], s->column, s->y);
    s->listed[panel] = end >= 0;
    if (end < 0 || !a->slope || l < net->first_trainable) return;
    fr_sparse_rows listed = active_rows(run, l, first, s->y);
    matrix slope = slope_of(run, l, first);
    run->kernels->pick(rows, &listed, slope.at, slope.width, gap(net, slope), s->slope);
}

/* The terms of a row panel in one of its list's arrays. */
static void *terms_at(const training_run *run, const active_set *s, ptrdiff_t first, void *array)
{
    return fr_at(array, (ptrdiff_t)s->start[run->plan->order[first]], run->net->size);
}

static ptrdiff_t n_terms(const training_run *run, const active_set *s, ptrdiff_t first, ptrdiff_t rows)
{
    const int64_t *start = s->start + run->plan->order[first];
    return (ptrdiff_t)(start[rows] - start[0]);
}

void fr_scale_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    const active_set *s = list_of(run->net, l);
    fr_sparse_rows listed = active_rows(run, l, first, NULL);
    matrix y = rows_of(run, l, a->y, first), factor = rows_of(run, l, a->factor, first);
    run->kernels->pick(rows, &listed, y.at, y.width, gap(run->net, y), s->read);
    run->kernels->pick(rows, &listed, factor.at, factor.width, gap(run->net, factor), s->factor);
}

void fr_scale_active_gradient(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const active_set *s = list_of(run->net, l);
    ptrdiff_t n = n_terms(run, s, first, rows);
    void *d = terms_at(run, s, first, s->d);
    run->kernels->multiply(1, n, d, n, terms_at(run, s, first, s->factor), n, d, n);
}

void fr_active_from_product(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows)
{
    const fr_network *net = run->net;
    const layer *reader = &net->layers[l + 1];
    matrix dz = rows_of(run, l + 1, reader->d, first);
    matrix w = {kernel_panel(net, reader, 0), reader->width, reader->spec.n_in};
    fr_sparse_rows listed = active_rows(run, l, first, NULL);
    run->kernels->listed_product(rows, reader->spec.n_out, &listed, dz.at, dz.width, gap(net, dz), w.at,
                                 w.width, gap(net, w), list_of(net, l)->d);
}

/* dz of layer l's list, dense, as d of layer `to`. */
static void spread_dz(const training_run *run, ptrdiff_t l, ptrdiff_t to, ptrdiff_t first, ptrdiff_t rows)
{
    const layer *a = &run->net->layers[l];
    matrix d = rows_of(run, to, run->net->layers[to].d, first);
    fr_sparse_rows dz = active_rows(run, l, first, a->active.d);
    run->kernels->spread(rows, a->spec.n_out, &dz, d.at, d.width, gap(run->net, d));
}

/* A first layer that reads compressed rows takes its x'dz by their terms, from a dense dz. */
static bool wants_dense(const training_run *run, ptrdiff_t l) { return l == 0 && run->plan->compressed; }

/* dz of a list from the gradient of its outputs: of one row of all the panel's terms. */
static void activation_gradient(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                                fr_regularizer activity)
{
    const layer *a = &run->net->layers[l];
    const active_set *s = &a->active;
    fr_backward_tile terms = {.rows = 1,
                              .n = n_terms(run, s, first, rows),
                              .y = terms_at(run, s, first, s->y),
                              .slope = s->slope ? terms_at(run, s, first, s->slope) : NULL,
                              .d = terms_at(run, s, first, s->d),
                              .activity = activity};
    run->kernels->backward[a->spec.activation](&terms);
}

void fr_backward_active_alone(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                              fr_regularizer activity)
{
    activation_gradient(run, l, first, rows, activity);
    spread_dz(run, l, l - 1, first, rows);
}

void fr_backward_active(const training_run *run, ptrdiff_t l, ptrdiff_t first, ptrdiff_t rows,
                        const fr_backward_tile *tile)
{
    const fr_network *net = run->net;
    const layer *a = &net->layers[l];
    fr_sparse_rows dz = active_rows(run, l, first, a->active.d);
    activation_gradient(run, l, first, rows, tile->activity);
    if (tile->dbias) {
        memset(tile->dbias, 0, (size_t)(a->n_padded * net->size));
        run->kernels->add_listed(rows, &dz, tile->dbias);
    }
    if (wants_dense(run, l)) spread_dz(run, l, l, first, rows);
    if (l <= net->first_trainable) return;
    matrix dx = rows_of(run, l - 1, net->layers[l - 1].d, first);
    for (ptrdiff_t i = 0; i < a->spec.n_in; i += dx.width)
        fr_multiply_sparse(net, rows, dx.width, &dz, fr_at(a->transposed, i * a->spec.n_out, net->size),
                           dx.width, column(net, dx, i), dx.width);
    if (!is_listed(run, l - 1, first)) return;
    fr_sparse_rows below = active_rows(run, l - 1, first, NULL);
    run->kernels->pick(rows, &below, dx.at, dx.width, gap(net, dx), list_of(net, l - 1)->d);
}

void fr_settle_active(const training_run *run)
{
    const fr_network *net = run->net;
    ptrdiff_t n_rows = run->plan->n_rows;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        if (a->active.most == 0) continue;
        ptrdiff_t terms = 0;
        a->active.whole = true;
        for (ptrdiff_t p = 0; p < run->n_panels; p++) {
            ptrdiff_t rows = smaller(n_rows, run->n_batch - p * n_rows);
            a->active.whole = a->active.whole && a->active.listed[p];
            if (a->active.listed[p]) terms += n_terms(run, &a->active, p * n_rows, rows);
        }
        a->active.share = a->active.whole ? (double)terms / ((double)run->n_batch * (double)a->spec.n_out) : 1;
        if (a->active.whole || l < net->first_trainable || a->kernel < 0 || wants_dense(run, l)) continue;
        for (ptrdiff_t p = 0; p < run->n_panels; p++)
            if (a->active.listed[p])
                spread_dz(run, l, l, p * n_rows, smaller(n_rows, run->n_batch - p * n_rows));
    }
}

fr_status fr_network_active(const fr_network *net, ptrdiff_t l, double *share)
{
    if (l < 0 || l >= net->n_layers) return FR_BAD_ARGUMENT;
    *share = net->layers[l].active.share;
    return FR_OK;
}
