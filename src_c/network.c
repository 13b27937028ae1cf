/* A network's life: its sizes, weights and slots; what is set aside and put back. */
#include "network.h"

#include "base/threads.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rules ---- */

/* Weights that with their slots come from memory in every step. Of layers of 1024 at batch 32 a step takes 17% less
 * when it fetches ahead; of layers of 512, which stand in L3, 8% more. */
enum { BEYOND_CACHE = 4 << 20 };

ptrdiff_t fr_panel_rows(ptrdiff_t n_batch)
{
    /* BLAS repacks the kernel at every call: panels of 256 rows were best for large layers. Two panels
     * at least, so that two threads have work. */
    return smaller(256, larger(16, round_up(pieces(n_batch, 2), 8)));
}

int fr_threads_for(double flops, int n_threads)
{
    /* Some 15 microseconds of work: below that the hand-off cost more than the second thread gave. */
    return flops < 2e6 ? 1 : n_threads;
}

/* Rows of a panel where n_batch rows take `flops`. */
ptrdiff_t fr_rows_of_panel(const fr_network *net, ptrdiff_t n_batch, double flops)
{
    if (!net->native) return fr_panel_rows(n_batch);
    /* Every panel reads all kernels once, from L3 where they are large: panels near to 64 rows, an even
     * number of them where several threads would share them. */
    ptrdiff_t count = pieces(n_batch, 96);
    if (flops > FR_SHARED_FLOPS) count += count % 2;
    return larger(16, round_up(pieces(n_batch, count), 4));
}

/* ---- layouts ---- */

/* Copies an array of a layer between its panels and a plain (rows, n_out) array; `get` says which way. */
static void copy_panels(const fr_network *net, const layer *a, int part, void *panels, void *plain, bool get)
{
    bool is_kernel = part == FR_KERNEL && a->spec.kind == FR_LAYER_dense, turned = is_kernel && a->turned;
    ptrdiff_t rows = is_kernel ? a->spec.n_in : 1, n_out = a->spec.n_out, width = a->width;
    ptrdiff_t n = turned ? 1 : width; /* that stand side by side both ways */
    for (ptrdiff_t o = 0; o < n_out; o += n)
        for (ptrdiff_t i = 0; i < rows; i++) {
            ptrdiff_t lane = turned ? i % width : 0;
            ptrdiff_t at = turned ? (i - lane) * n_out + o * width + lane : o * rows + i * width;
            void *inside = fr_at(panels, at, net->size);
            void *outside = fr_at(plain, i * n_out + o, net->size);
            size_t bytes = (size_t)(smaller(n, n_out - o) * net->size);
            memcpy(get ? outside : inside, get ? inside : outside, bytes);
        }
}

/* A kernel of few units stands transposed: its rows fill the panels that its columns would leave empty, both
 * in memory and in the caches that threads read one another's weights from. Not the first layer's, whose x
 * may be compressed rows, nor one of which columns or rows are wanted as a whole, nor in pairs of bfloat16. */
static bool stands_turned(const fr_network *net, const layer *a)
{
    return a->few_units && !net->pairs && a->spec.groups.n_groups == 0 &&
           a->spec.kernel_constraint.kind == FR_CONSTRAINT_none;
}

static void turn(const fr_network *net, layer *a, void *panels, void *plain)
{
    copy_panels(net, a, FR_KERNEL, panels, plain, true);
    memset(panels, 0, (size_t)(kernel_size(a) * net->size));
    a->turned = !a->turned;
    copy_panels(net, a, FR_KERNEL, panels, plain, false);
    a->turned = !a->turned;
}

/* Room for fr_turn_kernels, NULL when there is none. */
void *fr_room_for_turning(const fr_network *net)
{
    ptrdiff_t most = 1;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const layer *a = &net->layers[l];
        if (a->few_units) most = larger(most, a->spec.n_in * a->spec.n_out);
    }
    return malloc((size_t)(most * net->size));
}

/* Brings kernels of few units, and their slots, into the layout that the layers' settings ask for. */
void fr_turn_kernels(fr_network *net, void *plain)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        if (stands_turned(net, a) == a->turned) continue;
        turn(net, a, weight_at(net, a->kernel), plain);
        for (int slot = 0; slot < net->n_slots; slot++) turn(net, a, slot_at(net, slot, a->kernel), plain);
        for (int i = 0; net->kept.base && i <= net->n_slots_kept; i++)
            turn(net, a, fr_at(net->kept.base, i * net->n_weights + a->kernel, net->size), plain);
        a->turned = !a->turned;
        net->transposed_stale = net->nonzeros_stale = true;
        fr_arena_free(&net->training.arena);
    }
}

/* ---- life ---- */

static bool layer_valid(const fr_layer *l)
{
    return l->n_in >= 1 && l->n_out >= 1 && l->kind >= 0 && l->kind < FR_N_LAYER_KINDS &&
           fr_layer_kinds[l->kind].valid(l);
}

fr_status fr_network_update_layers(fr_network *net, const fr_layer *layers)
{
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        const fr_layer *old = &net->layers[l].spec, *new = &layers[l];
        if (!layer_valid(new) || new->kind != old->kind || new->n_in != old->n_in ||
            new->n_out != old->n_out || new->use_bias != old->use_bias ||
            new->use_gamma != old->use_gamma ||
            new->activation != old->activation)
            return FR_BAD_ARGUMENT;
    }
    fr_group_plan *groups = calloc((size_t)larger(net->n_layers, 1), sizeof *groups);
    void *plain = fr_room_for_turning(net);
    fr_status status = groups && plain ? FR_OK : FR_NO_MEMORY;
    for (ptrdiff_t l = 0; l < net->n_layers && status == FR_OK; l++)
        status = fr_groups_plan(&groups[l], net->dtype, &layers[l].groups, layers[l].n_in,
                                layers[l].n_out, net->layers[l].width);
    if (status != FR_OK) {
        for (ptrdiff_t l = 0; l < net->n_layers && groups; l++) fr_groups_free(&groups[l]);
        free(groups);
        free(plain);
        return status;
    }
    net->first_trainable = net->n_layers;
    for (ptrdiff_t l = net->n_layers - 1; l >= 0; l--) {
        net->layers[l].spec = layers[l];
        fr_groups_free(&net->layers[l].groups);
        net->layers[l].groups = groups[l];
        bool has_weights = net->layers[l].kernel >= 0 || net->layers[l].bias >= 0;
        if (has_weights && layers[l].trainable) net->first_trainable = l;
    }
    free(groups);
    fr_turn_kernels(net, plain);
    free(plain);
    return FR_OK;
}

/* Gives every array of the weights its offset; returns how many elements they take, or -1. */
static ptrdiff_t place_weights(fr_network *net)
{
    ptrdiff_t line = FR_ALIGNMENT / net->size, used = 0; /* elements */
    for (ptrdiff_t l = 0; l < net->n_layers; l++) {
        layer *a = &net->layers[l];
        const layer_kind *kind = &fr_layer_kinds[a->spec.kind];
        a->kernel = a->bias = a->moving_mean = a->moving_variance = -1;
        if (a->spec.kind != FR_LAYER_dense && !kind->normalizes) continue;
        ptrdiff_t rows = a->few_units ? padded(a->spec.n_in, a->width) : a->spec.n_in; /* either way */
        if (kind->normalizes) rows = a->spec.use_gamma;
        ptrdiff_t kernel = fr_size_product(rows, a->n_padded);
        if (kernel < 0 || kernel > PTRDIFF_MAX / 64 - used) return -1;
        if (kernel > 0) a->kernel = used;
        used += round_up(kernel, line);
        ptrdiff_t *vectors[] = {a->spec.use_bias ? &a->bias : NULL, kind->by_columns ? &a->moving_mean : NULL,
                                kind->by_columns ? &a->moving_variance : NULL};
        for (int i = 0; i < 3; i++) {
            if (!vectors[i]) continue;
            *vectors[i] = used;
            used += a->n_padded;
        }
    }
    return used;
}

fr_status fr_network_create(fr_network **network, fr_dtype dtype, const fr_layer *layers,
                            ptrdiff_t n_layers)
{
    if (n_layers < 1 || (dtype != FR_FLOAT32 && dtype != FR_FLOAT64)) return FR_BAD_ARGUMENT;
    for (ptrdiff_t l = 0; l < n_layers; l++) {
        if (!layer_valid(&layers[l])) return FR_BAD_ARGUMENT;
        if (l > 0 && layers[l].n_in != layers[l - 1].n_out) return FR_BAD_ARGUMENT;
        if (layers[l].n_in > INT_MAX / 2 || layers[l].n_out > INT_MAX / 2) return FR_TOO_LARGE;
    }
    fr_network *net = calloc(1, sizeof *net);
    if (!net || !(net->layers = calloc((size_t)n_layers, sizeof *net->layers))) {
        free(net);
        return FR_NO_MEMORY;
    }
    net->dtype = dtype;
    net->size = fr_sizeof(dtype);
    net->n_layers = n_layers;
    net->n_in = layers[0].n_in;
    net->n_out = layers[n_layers - 1].n_out;
    net->kernels = fr_kernels_for(dtype);
    net->native = fr_gemm_native();
    net->sparse = fr_sparse_chosen();
    net->nonzeros_stale = true;
    net->width_x = width_of(net, net->n_in);
    net->times = 1;
    for (ptrdiff_t l = n_layers - 1; l >= 0; l--) {
        net->layers[l].times = net->times;
        if (fr_layer_kinds[layers[l].kind].flattens) net->times *= layers[l].n_out / layers[l].n_in;
        if (net->times <= INT_MAX / 2) continue;
        fr_network_destroy(net);
        return FR_TOO_LARGE;
    }
    for (ptrdiff_t l = 0; l < n_layers; l++) {
        net->layers[l].spec = layers[l];
        net->layers[l].active.share = 1;
        net->layers[l].width = width_of(net, layers[l].n_out);
        net->layers[l].n_padded = padded(layers[l].n_out, net->layers[l].width);
        if (layers[l].kind != FR_LAYER_dense) continue;
        net->layers[l].few_units =
            net->native && net->flops > 0 && layers[l].n_out <= net->kernels->few_units;
        net->flops += 2.0 * (double)layers[l].n_in * (double)layers[l].n_out * (double)net->layers[l].times;
    }
    fr_status status = FR_OK;
    net->n_weights = place_weights(net);
    net->fetches_ahead = net->native && net->n_weights > BEYOND_CACHE / net->size;
    if (net->n_weights < 0) {
        status = FR_TOO_LARGE;
    } else {
        fr_arena_take(&net->weights, net->n_weights, net->size);
        if (net->weights.overflow)
            status = FR_TOO_LARGE;
        else if (!fr_arena_allocate(&net->weights))
            status = FR_NO_MEMORY;
        else
            status = fr_network_update_layers(net, layers);
    }
    if (status != FR_OK) {
        fr_network_destroy(net);
        return status;
    }
    *network = net;
    return FR_OK;
}

void fr_network_destroy(fr_network *net)
{
    if (!net) return;
    for (ptrdiff_t l = 0; l < net->n_layers; l++) fr_groups_free(&net->layers[l].groups);
    fr_arena_free(&net->weights);
    fr_arena_free(&net->slots);
    fr_arena_free(&net->kept);
    fr_arena_free(&net->training.arena);
    fr_arena_free(&net->inference.arena);
    for (ptrdiff_t l = 0; l < net->n_layers; l++) fr_nonzeros_free(&net->layers[l].nonzeros);
    free(net->layers);
    free(net);
}

double fr_network_flops(const fr_network *net) { return net->flops; }

int fr_network_slots(const fr_network *net) { return net->n_slots; }

fr_status fr_network_set_slots(fr_network *net, int n_slots)
{
    fr_arena slots = {0};
    if (n_slots < 0 || n_slots > FR_MOST_SLOTS) return FR_BAD_ARGUMENT;
    if (n_slots > 0) {
        fr_arena_take(&slots, fr_size_product(n_slots, net->n_weights), net->size);
        if (slots.overflow) return FR_TOO_LARGE;
        if (!fr_arena_allocate(&slots)) return FR_NO_MEMORY;
    }
    fr_arena_free(&net->slots);
    net->slots = slots;
    net->n_slots = n_slots;
    return FR_OK;
}

static fr_status copy_array(const fr_network *net, int slot, ptrdiff_t l, int part, void *plain,
                            bool get)
{
    if (l < 0 || l >= net->n_layers || slot < FR_GRADIENT || slot >= net->n_slots || part < 0 ||
        part >= FR_N_ARRAYS ||
        (slot == FR_GRADIENT && !(net->training.arena.base && net->training.gradient)))
        return FR_BAD_ARGUMENT;
    const layer *a = &net->layers[l];
    ptrdiff_t offsets[FR_N_ARRAYS] = {a->kernel, a->bias, a->moving_mean, a->moving_variance};
    ptrdiff_t offset = offsets[part];
    if (offset < 0) return FR_BAD_ARGUMENT;
    char *panels = slot == FR_GRADIENT  ? gradient_at(net, offset)
                   : slot == FR_WEIGHTS ? weight_at(net, offset)
                                        : slot_at(net, slot, offset);
    copy_panels(net, a, part, panels, plain, get);
    return FR_OK;
}

fr_status fr_network_get(const fr_network *net, int slot, ptrdiff_t l, int part, void *out)
{
    return copy_array(net, slot, l, part, out, true);
}

fr_status fr_network_set(fr_network *net, int slot, ptrdiff_t l, int part, const void *in)
{
    if (slot == FR_WEIGHTS) net->transposed_stale = net->nonzeros_stale = true;
    return copy_array(net, slot, l, part, (void *)in, false); /* only read */
}

/* Checking and copying run in pieces on the pool: an epoch of few steps should not wait for one core. */
enum { PIECE = 1 << 16 };

typedef struct {
    const fr_network *net;
    enum { BEGIN, CHECK, COPY, END } phase;
    bool copies;
    _Atomic bool not_finite;
} keep_run;

static ptrdiff_t next_keep_phase(void *context)
{
    keep_run *run = context;
    run->phase++;
    bool goes_on = run->phase == CHECK || (run->phase == COPY && run->copies && !run->not_finite);
    return goes_on ? pieces(run->net->n_weights, PIECE) : 0;
}

static void keep_task(void *context, int thread, ptrdiff_t i)
{
    (void)thread;
    keep_run *run = context;
    const fr_network *net = run->net;
    ptrdiff_t first = i * PIECE, n = smaller(PIECE, net->n_weights - first);
    if (run->phase == CHECK) {
        /* A sum that overflows comes of weights as good as infinite. */
        fr_sums sums = net->kernels->sums(n, weight_at(net, first));
        if (!isfinite(sums.abs)) run->not_finite = true;
        return;
    }
    size_t bytes = (size_t)(n * net->size);
    memcpy(fr_at(net->kept.base, first, net->size), weight_at(net, first), bytes);
    for (int slot = 0; slot < net->n_slots; slot++)
        memcpy(fr_at(net->kept.base, (1 + slot) * net->n_weights + first, net->size),
               slot_at(net, slot, first), bytes);
}

static fr_status check_and_keep(fr_network *net, bool copies, int n_threads)
{
    keep_run run = {.net = net, .copies = copies};
    n_threads = net->n_weights < 4 * PIECE ? 1 : n_threads;
    fr_parallel(n_threads, next_keep_phase, keep_task, &run);
    return run.not_finite ? FR_NOT_FINITE : FR_OK;
}

fr_status fr_network_finite(fr_network *net, int n_threads)
{
    return check_and_keep(net, false, n_threads);
}

fr_status fr_network_keep(fr_network *net, int n_threads)
{
    if (!net->kept.base || net->n_slots_kept != net->n_slots) {
        fr_status status = fr_network_finite(net, n_threads);
        if (status != FR_OK) return status;
        fr_arena kept = {0};
        fr_arena_take(&kept, fr_size_product(1 + net->n_slots, net->n_weights), net->size);
        if (!fr_arena_allocate(&kept)) return kept.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
        fr_arena_free(&net->kept);
        net->kept = kept;
        net->n_slots_kept = net->n_slots;
    }
    return check_and_keep(net, true, n_threads);
}

fr_status fr_network_put_back(fr_network *net)
{
    if (!net->kept.base) return FR_BAD_ARGUMENT;
    size_t bytes = (size_t)(net->n_weights * net->size);
    if (net->n_slots != net->n_slots_kept) {
        fr_status status = fr_network_set_slots(net, net->n_slots_kept);
        if (status != FR_OK) return status;
    }
    memcpy(net->weights.base, net->kept.base, bytes);
    if (net->n_slots > 0)
        memcpy(net->slots.base, net->kept.base + bytes, bytes * (size_t)net->n_slots);
    net->transposed_stale = net->nonzeros_stale = true;
    return FR_OK;
}
