/* The pool of threads: phases of tasks in thousands of short calls, several callers at once, and
 * forks. Checks count in the main thread; other threads and children hand back a number of
 * failures. */
#define _DEFAULT_SOURCE
#include "base/threads.h"
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 4000, PHASES = 3, CALLERS = 4, JOBS = 60, FORKS = 25, IN_TIME = 20 /* seconds */ };

/* ---- phases of tasks ---- */

enum { MOST_TASKS = 40 };

typedef struct {
    int n_threads, n_phases;
    int phase; /* written between phases alone */
    ptrdiff_t n_tasks;
    atomic_int wrong, done[MOST_TASKS];
    atomic_int inside[FR_MAX_THREADS]; /* a thread's number is its own: its scratch hangs on it */
} phases_test;

static ptrdiff_t next_phase(void *context)
{
    phases_test *t = context;
    for (ptrdiff_t i = 0; i < t->n_tasks; i++)
        if (atomic_exchange(&t->done[i], 0) != 1) atomic_fetch_add(&t->wrong, 1);
    if (t->phase == t->n_phases) return t->n_tasks = 0;
    t->phase++;
    return t->n_tasks = 1 + (t->phase * 7 + t->n_phases) % MOST_TASKS;
}

static void phase_task(void *context, int thread, ptrdiff_t i)
{
    phases_test *t = context;
    int phase = t->phase;
    if (thread < 0 || thread >= t->n_threads || i < 0 || i >= t->n_tasks) {
        atomic_fetch_add(&t->wrong, 1);
        return;
    }
    if (atomic_exchange(&t->inside[thread], 1) != 0) atomic_fetch_add(&t->wrong, 1);
    atomic_fetch_add(&t->done[i], 1);
    for (volatile int spin = 0; spin < 20 * (int)(i % 5);) spin++; /* tasks of several lengths */
    if (t->phase != phase) atomic_fetch_add(&t->wrong, 1);
    atomic_store(&t->inside[thread], 0);
}

/* One call; the number of things that were wrong with it. */
static int run_phases(int n_threads, int n_phases)
{
    int most = n_threads < 1 ? 1 : n_threads > FR_MAX_THREADS ? FR_MAX_THREADS : n_threads;
    phases_test t = {.n_threads = most, .n_phases = n_phases};
    fr_parallel(n_threads, next_phase, phase_task, &t);
    return atomic_load(&t.wrong) + (t.phase != n_phases) + (t.n_tasks != 0);
}

static void check_phases(void)
{
    int wrong = 0;
    test_case("phases");
    for (int call = 0; call < CALLS; call++) wrong += run_phases(call % 9, call % 6);
    CHECK(wrong == 0, "%d wrong", wrong);
    CHECK(run_phases(-5, 2) == 0, "-5 threads");
    for (int n_threads = 2; n_threads <= 8; n_threads++)
        CHECK(run_phases(n_threads, 2000) == 0, "2000 phases on %d threads", n_threads);
}

/* ---- a job that gives the same bits whoever does it ---- */

enum { N_IN = 40, HIDDEN = 48, N_OUT = 10, BATCH = 64, N_ROWS = 160 };

typedef struct {
    float kernel[N_IN * HIDDEN], out[N_ROWS * N_OUT], dense[BATCH * HIDDEN];
} result;

static result expected;

static void spread(float *array, int n, float scale)
{
    for (int i = 0; i < n; i++) array[i] = scale * (float)((i * 37 + i / 11) % 101 - 50) / 50;
}

/* The number of calls that failed. */
static int do_job(int n_threads, result *r)
{
    static const fr_layer layers[] = {
        {.kind = FR_LAYER_dense,
         .n_in = N_IN,
         .n_out = HIDDEN,
         .activation = FR_ACTIVATION_relu,
         .use_bias = 1,
         .trainable = 1,
         .kernel = {1e-4, 1e-4}},
        {.kind = FR_LAYER_dropout, .n_in = HIDDEN, .n_out = HIDDEN, .rate = 0.2},
        {.kind = FR_LAYER_dense,
         .n_in = HIDDEN,
         .n_out = N_OUT,
         .activation = FR_ACTIVATION_sigmoid,
         .use_bias = 1,
         .trainable = 1},
    };
    float x[N_ROWS * N_IN], y[N_ROWS * N_OUT], kernel[N_IN * HIDDEN];
    double ledger[FR_LEDGER_SIZE] = {0};
    ptrdiff_t steps;
    fr_network *network = NULL;
    spread(x, N_ROWS * N_IN, 1);
    for (int i = 0; i < N_ROWS * N_OUT; i++) y[i] = i % 3 == 0;
    spread(kernel, N_IN * HIDDEN, 0.3f);
    memset(r, 0, sizeof *r);
    if (fr_network_create(&network, FR_FLOAT32, layers, 3) != FR_OK) return 1;
    fr_training call = {
        .data = {.n_rows = N_ROWS, .x = x, .y = y},
        .stop = N_ROWS,
        .batch_size = BATCH,
        .loss = FR_LOSS_binary_crossentropy,
        .optimizer = {.kind = FR_OPTIMIZER_sgd, .learning_rate = 0.1, .momentum = 0.9},
        .n_threads = n_threads};
    int wrong = fr_network_set(network, -1, 0, 0, kernel) != FR_OK;
    wrong += fr_network_set(network, -1, 2, 0, kernel) != FR_OK;
    wrong += fr_network_train(network, &call, ledger, &steps) != FR_OK || steps != 3;
    wrong += fr_network_forward(network, N_ROWS, x, r->out, n_threads) != FR_OK;
    wrong += fr_network_get(network, -1, 0, 0, r->kernel) != FR_OK;
    wrong += fr_dense_forward(FR_FLOAT32, BATCH, N_IN, HIDDEN, x, kernel, NULL, FR_ACTIVATION_tanh,
                              test_curve, r->dense, n_threads) != FR_OK;
    fr_network_destroy(network);
    return wrong;
}

/* The number of jobs that failed or gave something else. */
static int repeat_jobs(int n_jobs, int first_threads)
{
    int wrong = 0;
    for (int job = 0; job < n_jobs; job++) {
        result r;
        wrong += do_job(1 + (first_threads + job) % 8, &r) != 0;
        wrong += memcmp(&r, &expected, sizeof r) != 0;
    }
    return wrong;
}

/* ---- several callers ---- */

static void *caller(void *number)
{
    int first = *(int *)number, wrong = repeat_jobs(JOBS, first);
    for (int call = 0; call < 200; call++) wrong += run_phases(1 + (first + call) % 8, PHASES);
    *(int *)number = wrong;
    return NULL;
}

static void check_callers(void)
{
    pthread_t threads[CALLERS];
    int numbers[CALLERS];
    test_case("callers");
    for (int i = 0; i < CALLERS; i++) {
        numbers[i] = 2 * i;
        CHECK(pthread_create(&threads[i], NULL, caller, &numbers[i]) == 0, "thread");
    }
    for (int i = 0; i < CALLERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0, "join");
        CHECK(numbers[i] == 0, "caller %d: %d wrong", i, numbers[i]);
    }
}

/* ---- forks ---- */

/* The child has an empty pool, fills it, and is done in time: an alarm ends it otherwise. */
static bool child_works(int depth)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(IN_TIME);
        int wrong = repeat_jobs(3, 3) + run_phases(4, PHASES) + run_phases(8, PHASES);
        if (depth > 0) wrong += !child_works(depth - 1);
        _exit(wrong != 0);
    }
    int status;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static atomic_bool enough;

/* Calls that allocate nothing: the allocator of gcc 12's address sanitizer does not survive a fork
 * while another thread is inside it. */
static void *busy(void *wrong)
{
    static float x[BATCH * N_IN], kernel[N_IN * HIDDEN], y[BATCH * HIDDEN];
    spread(x, BATCH * N_IN, 1);
    spread(kernel, N_IN * HIDDEN, 0.3f);
    while (!atomic_load(&enough)) {
        fr_status status = fr_dense_forward(FR_FLOAT32, BATCH, N_IN, HIDDEN, x, kernel, NULL,
                                            FR_ACTIVATION_tanh, test_curve, y, 4);
        *(int *)wrong += status != FR_OK || memcmp(y, expected.dense, sizeof y) != 0;
        *(int *)wrong += run_phases(3, PHASES);
    }
    return NULL;
}

static void check_forks(void)
{
    test_case("forks");
    CHECK(child_works(2), "a child's child after use");
    CHECK(repeat_jobs(2, 3) == 0, "the parent after it");
    pthread_t thread;
    int wrong = 0, n_failed = 0;
    atomic_store(&enough, false);
    CHECK(pthread_create(&thread, NULL, busy, &wrong) == 0, "thread");
    for (int i = 0; i < FORKS; i++) n_failed += !child_works(0);
    atomic_store(&enough, true);
    CHECK(pthread_join(thread, NULL) == 0, "join");
    CHECK(wrong == 0, "the busy thread: %d wrong", wrong);
    CHECK(n_failed == 0, "%d of %d children forked while a thread was in a call", n_failed, FORKS);
}

void test_threads(void)
{
    fr_blas_set(naive_sgemm, naive_dgemm);
    test_case("job");
    CHECK(do_job(1, &expected) == 0, "the job");
    check_phases();
    CHECK(repeat_jobs(JOBS, 0) == 0, "jobs");
    check_callers();
    check_forks();
    CHECK(run_phases(2 * FR_MAX_THREADS, 2) == 0, "more threads than there may be");
    CHECK(repeat_jobs(2, 7) == 0, "jobs after it");
}
