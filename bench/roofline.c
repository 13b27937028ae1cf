/* What the machine can do, and what the engine's three products make of it: called by roofline.py.
 *
 * It times the very functions of a training step, each alone, with its epilogue:
 *   forward    y = relu(x W + b)
 *   backward   dz = f'(y) dy, db = sum dz, dx = dz W'
 *   update     dW = x'dz, L1 + L2, Adam
 */
#include "../src_c/training.h"

#include "base/platform.h"
#include "base/threads.h"
#include "blas.h"
#include "optimizers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- limits ---- */

enum { CHAINS = 12, FMA_ROUNDS = 4096 };

/* CHAINS independent sums: enough to hide the latency of two FMA units, few enough for 16 registers. */
#define FMA_LOOP(name, features, vector, real, set, fma)                                           \
    __attribute__((target(features))) static double name(void)                                     \
    {                                                                                              \
        vector sum[CHAINS], a = set((real)0.999), b = set((real)1e-3);                             \
        for (int c = 0; c < CHAINS; c++) sum[c] = set((real)c);                                    \
        for (int i = 0; i < FMA_ROUNDS; i++) {                                                     \
            FR_UNROLL                                                                              \
            for (int c = 0; c < CHAINS; c++) sum[c] = fma(sum[c], a, b);                           \
            __asm__ volatile("" : "+x"(a));                                                        \
        }                                                                                          \
        double total = 0;                                                                          \
        for (int c = 0; c < CHAINS; c++) total += (double)*(real *)&sum[c];                        \
        return total;                                                                              \
    }

#if FR_X86_64
#define SSE_MULTIPLY_ADD_ps(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#define SSE_MULTIPLY_ADD_pd(a, b, c) _mm_add_pd(_mm_mul_pd(a, b), c)
FMA_LOOP(baseline_float32, "sse2", __m128, float, _mm_set1_ps, SSE_MULTIPLY_ADD_ps)
FMA_LOOP(baseline_float64, "sse2", __m128d, double, _mm_set1_pd, SSE_MULTIPLY_ADD_pd)
FMA_LOOP(avx2_float32, "avx2,fma", __m256, float, _mm256_set1_ps, _mm256_fmadd_ps)
FMA_LOOP(avx2_float64, "avx2,fma", __m256d, double, _mm256_set1_pd, _mm256_fmadd_pd)
FMA_LOOP(avx512_float32, "avx512f", __m512, float, _mm512_set1_ps, _mm512_fmadd_ps)
FMA_LOOP(avx512_float64, "avx512f", __m512d, double, _mm512_set1_pd, _mm512_fmadd_pd)

static const struct {
    const char *isa;
    struct {
        double (*loop)(void);
        int lanes;
    } by_dtype[2];
} peaks[] = {
    {"baseline", {{baseline_float32, 4}, {baseline_float64, 2}}},
    {"avx2", {{avx2_float32, 8}, {avx2_float64, 4}}},
    {"avx512", {{avx512_float32, 16}, {avx512_float64, 8}}},
};
#endif

typedef struct {
    int begun, phases; /* phases of one task a thread */
    int n_threads;
    double (*fma)(void);
    float *arrays[3]; /* or three arrays of n_elements */
    ptrdiff_t n_elements;
    volatile double sink;
} limit_run;

static ptrdiff_t next_limit_phase(void *context)
{
    limit_run *run = context;
    return run->begun++ < run->phases ? run->n_threads : 0;
}

static void limit_task(void *context, int thread, ptrdiff_t i)
{
    (void)thread;
    limit_run *run = context;
    if (run->fma) {
        run->sink = run->fma();
        return;
    }
    ptrdiff_t share = run->n_elements / run->n_threads;
    float *a = run->arrays[0] + i * share, *b = run->arrays[1] + i * share;
    float *c = run->arrays[2] + i * share;
    for (ptrdiff_t j = 0; j < share; j++) {
        a[j] = a[j] * 0.5f + 1;
        b[j] = b[j] * 0.5f + a[j];
        c[j] = c[j] * 0.5f + b[j];
    }
}

static double seconds_of(limit_run run)
{
    double begin = now();
    run.begun = 0;
    fr_parallel(run.n_threads, next_limit_phase, limit_task, &run);
    return (now() - begin) / run.phases;
}

/* Multiply-adds on registers: floating-point operations a second, the best of `rounds`; 0 where no loop
 * is written for the ISA in use. */
EXPORT double roofline_peak(int dtype, int n_threads, int rounds)
{
    double best = 0;
#if FR_X86_64
    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++) {
        if (strcmp(peaks[i].isa, fr_isa()) != 0) continue;
        limit_run run = {.phases = 64, .n_threads = n_threads, .fma = peaks[i].by_dtype[dtype].loop};
        double flops = 2.0 * peaks[i].by_dtype[dtype].lanes * CHAINS * FMA_ROUNDS * n_threads;
        for (int r = 0; r < rounds; r++) {
            double rate = flops / seconds_of(run);
            best = rate > best ? rate : best;
        }
    }
#endif
    return best;
}

/* Three arrays read and written, as Adam's update does: bytes a second, the best of `rounds`. */
EXPORT double roofline_bandwidth(ptrdiff_t n_elements, int n_threads, int rounds)
{
    double best = 0;
    limit_run run = {.phases = 1, .n_threads = n_threads, .n_elements = n_elements};
    for (int i = 0; i < 3; i++) run.arrays[i] = calloc((size_t)n_elements, sizeof(float));
    for (int r = 0; r <= rounds && run.arrays[0] && run.arrays[1] && run.arrays[2]; r++) {
        double rate = 6.0 * sizeof(float) * (double)n_elements / seconds_of(run);
        if (r > 0 && rate > best) best = rate; /* the first touches the pages */
    }
    for (int i = 0; i < 3; i++) free(run.arrays[i]);
    return best;
}

/* ---- the products ---- */

enum { OF_FORWARD, OF_BACKWARD, OF_UPDATE, N_PRODUCTS };

typedef struct {
    training_run step;
    int product;
    ptrdiff_t n_tasks; /* of a repetition */
    int repetitions;
} product_run;

/* The layer that is measured; one of width 1 stands before it, so that it has a dx. */
enum { MEASURED = 1 };

static ptrdiff_t next_product_phase(void *context)
{
    product_run *run = context;
    return run->repetitions-- > 0 ? run->n_tasks : 0;
}

static void product_task(void *context, int thread, ptrdiff_t i)
{
    product_run *run = context;
    training_run *step = &run->step;
    training_plan *plan = step->plan;
    if (run->product == OF_UPDATE) {
        fr_update_block(step, &plan->tasks[i], plan->scratch + (ptrdiff_t)thread * plan->scratch_size);
        return;
    }
    ptrdiff_t first = i * plan->n_rows, rows = smaller(plan->n_rows, step->n_batch - first);
    const layer *a = &step->net->layers[MEASURED];
    if (run->product == OF_FORWARD)
        fr_forward_layer(step->net, a, a->spec.activation, rows,
                         (layer_input){.x = input_of(step, MEASURED, first)},
                         rows_of(step, MEASURED, a->y, first), slope_of(step, MEASURED, first));
    else
        fr_layer_kinds[FR_LAYER_dense].backward(step, MEASURED, first, rows);
}

static double product_seconds(product_run run, int n_threads, double seconds)
{
    double best = INFINITY, end = now() + seconds;
    int repetitions = 1;
    do {
        run.repetitions = repetitions;
        double begin = now();
        fr_parallel(n_threads, next_product_phase, product_task, &run);
        double taken = now() - begin;
        best = taken / repetitions < best ? taken / repetitions : best;
        if (taken < seconds / 50) repetitions *= 2;
    } while (now() < end);
    return best;
}

/* Seconds of each product of a dense layer, the best within `seconds` each, as a step runs it. */
EXPORT fr_status roofline_products(int dtype, ptrdiff_t n_batch, ptrdiff_t n_in, ptrdiff_t n_out,
                                   int n_threads, double seconds, double best[N_PRODUCTS])
{
    const fr_layer layers[] = {
        {.kind = FR_LAYER_dense, .n_in = 1, .n_out = n_in, .use_bias = 1, .trainable = 1},
        {.kind = FR_LAYER_dense,
         .n_in = n_in,
         .n_out = n_out,
         .activation = FR_ACTIVATION_relu,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {1e-5, 1e-4}},
    };
    fr_network *net;
    fr_status status = fr_network_create(&net, dtype, layers, 2);
    if (status != FR_OK) return status;
    /* One step makes the plan. Its data are small enough that the loss stays finite ever after. */
    ptrdiff_t n = larger(n_in * n_out, n_batch * larger(n_out, 1));
    double *numbers = calloc((size_t)n, sizeof *numbers), ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    fr_training call = {
        .data = {.n_rows = n_batch, .x = numbers, .y = numbers},
        .stop = n_batch,
        .batch_size = n_batch,
        .loss = FR_LOSS_mean_squared_error,
        .optimizer = {.kind = FR_OPTIMIZER_adam,
                      .learning_rate = 1e-12,
                      .beta_1 = 0.9,
                      .beta_2 = 0.999,
                      .epsilon = 1e-7},
        .n_threads = n_threads,
    };
    if (!numbers) status = FR_NO_MEMORY;
    for (ptrdiff_t i = 0; numbers && i < n; i++) {
        double value = (double)(i * 7919 % 2003 - 1001) / 1001 / sqrt((double)n_in);
        if (dtype == FR_FLOAT32)
            ((float *)numbers)[i] = (float)value;
        else
            numbers[i] = value;
    }
    if (status == FR_OK) status = fr_network_set(net, -1, 0, 0, numbers);
    if (status == FR_OK) status = fr_network_set(net, -1, MEASURED, 0, numbers);
    if (status == FR_OK) status = fr_network_train(net, &call, ledger, &steps);
    if (status == FR_OK) {
        n_threads = fr_threads_for(fr_step_flops(net, n_batch), n_threads);
        product_run run = {
            .step = {.net = net,
                     .phase = COLUMNS,
                     .plan = &net->training,
                     .call = &call,
                     .kernels = net->kernels,
                     .n_batch = n_batch,
                     .n_panels = pieces(n_batch, net->training.n_rows),
                     .update = fr_update_step_of(&call.optimizer, 1)},
        };
        ptrdiff_t n_blocks = 0; /* the tasks begin with the last layer's */
        while (n_blocks < net->training.n_tasks && net->training.tasks[n_blocks].layer == MEASURED)
            n_blocks++;
        for (run.product = OF_FORWARD; run.product < N_PRODUCTS; run.product++) {
            run.n_tasks = run.product == OF_UPDATE ? n_blocks : run.step.n_panels;
            best[run.product] = product_seconds(run, n_threads, seconds);
        }
    }
    free(numbers);
    fr_network_destroy(net);
    return status;
}

/* What of the engine's contract roofline.py calls: the library hides the rest. */
EXPORT fr_status roofline_choose(const char *isa, const char *gemm)
{
    fr_status status = fr_isa_choose(isa);
    return status == FR_OK ? fr_gemm_choose(gemm) : status;
}
EXPORT const char *roofline_isa(void) { return fr_isa(); }
EXPORT void roofline_blas(fr_sgemm *sgemm, fr_dgemm *dgemm) { fr_blas_set(sgemm, dgemm); }
