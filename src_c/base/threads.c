#define _POSIX_C_SOURCE 200809L /* sigset_t and clock_gettime under -std=c11 */
#include "threads.h"
#include "cpu.h"
#include "platform.h"

#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* x86 pause takes 40 to 140 cycles: some tens of microseconds, and about one. */
enum { SPINS = 1500, SPINS_BEFORE_HELP = 30 };

/* A value that threads wait on: by spinning, then asleep. One thread at a time publishes. */
typedef struct {
    alignas(64) _Atomic uint64_t value; /* a cache line of its own */
    atomic_int sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} event;

static void event_reset(event *e)
{
    atomic_store(&e->value, 0);
    atomic_store(&e->sleepers, 0);
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, NULL);
}

static uint64_t event_read(event *e) { return atomic_load_explicit(&e->value, memory_order_acquire); }

/* The value when it is no longer `old`, or after so many looks. */
static uint64_t event_spin(event *e, uint64_t old, int spins)
{
    uint64_t now = event_read(e);
    for (int i = 0; now == old && i < spins; i++) {
        fr_spin_pause();
        now = event_read(e);
    }
    return now;
}

static uint64_t event_wait(event *e, uint64_t old, int spins)
{
    uint64_t now = event_spin(e, old, spins);
    if (now != old) return now;
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->sleepers, 1);
    while ((now = atomic_load(&e->value)) == old) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->mutex);
    return now;
}

/* Both accesses here and both in event_wait are sequentially consistent: either the sleeper sees the
 * new value, or we see the sleeper. */
static void event_publish(event *e, uint64_t value)
{
    atomic_store(&e->value, value);
    if (atomic_load(&e->sleepers) == 0) return;
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

/* phase << 32 | tasks taken from a thread's share of that phase. A line of its own: as long as nobody
 * helps, only its thread touches it. */
typedef struct {
    alignas(64) _Atomic uint64_t taken;
} queue;

static struct {
    pthread_mutex_t owner; /* held by the caller whose team is at work */
    int n_workers;
    event call[FR_MAX_THREADS]; /* call[i] wakes worker i */
    event left;
    atomic_int inside; /* workers of the team that have not left */
    /* the call */
    int n_threads, spins; /* no spins when there are more threads than CPUs */
    fr_next_phase *next_phase;
    fr_task *task;
    void *context;
    /* the phase */
    event phase; /* number << 32 | tasks, which is 0 when the call is over */
    alignas(64) _Atomic uint32_t unfinished;
    queue queues[FR_MAX_THREADS];
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER};

static void begin_phase(void)
{
    uint32_t n = (uint32_t)pool.next_phase(pool.context);
    uint64_t number = (event_read(&pool.phase) >> 32) + 1;
    atomic_store_explicit(&pool.unfinished, n, memory_order_relaxed);
    event_publish(&pool.phase, number << 32 | n);
}

/* Takes one of the `n` tasks of a share. A thread that comes late finds every queue of its phase empty,
 * or in a later phase: a phase ends when all of its tasks are done. */
static bool take(queue *q, uint32_t phase, uint32_t n, uint32_t *task)
{
    uint64_t old = atomic_load_explicit(&q->taken, memory_order_relaxed), new;
    do {
        uint32_t of = (uint32_t)(old >> 32);
        *task = of == phase ? (uint32_t)old : 0;
        if ((int32_t)(of - phase) > 0 || *task >= n) return false;
        new = (uint64_t)phase << 32 | (*task + 1);
    } while (!atomic_compare_exchange_weak_explicit(&q->taken, &old, new, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return true;
}

/* Does what is left of the share of thread `whose`; who does the phase's last task begins the next. */
static void work_off(int thread, int whose, uint64_t phase)
{
    uint32_t n = (uint32_t)phase, threads = (uint32_t)pool.n_threads, share = (uint32_t)whose;
    uint32_t first = (uint32_t)((uint64_t)n * share / threads);
    uint32_t stop = (uint32_t)((uint64_t)n * (share + 1) / threads);
    uint32_t done = 0;
    for (uint32_t i; take(&pool.queues[whose], (uint32_t)(phase >> 32), stop - first, &i); done++)
        pool.task(pool.context, thread, (ptrdiff_t)first + i);
    if (done > 0 &&
        atomic_fetch_sub_explicit(&pool.unfinished, done, memory_order_acq_rel) == done)
        begin_phase();
}

/* A thread's own share first: what it wrote in the step before is in its cache. Whoever has waited in
 * vain helps the others, one of whom the system may have put aside. */
static void take_part(int thread)
{
    for (uint64_t phase = event_read(&pool.phase), now; (uint32_t)phase > 0; phase = now) {
        work_off(thread, thread, phase);
        now = event_spin(&pool.phase, phase, pool.spins ? SPINS_BEFORE_HELP : 0);
        if (now != phase) continue;
        for (int i = 1; i < pool.n_threads; i++)
            work_off(thread, (thread + i) % pool.n_threads, phase);
        now = event_wait(&pool.phase, phase, pool.spins);
    }
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    for (uint64_t seen = 0;;) {
        seen = event_wait(&pool.call[thread], seen, SPINS);
        fr_float_state before = fr_flush_to_zero();
        take_part(thread);
        fr_float_restore(before);
        if (atomic_fetch_sub_explicit(&pool.inside, 1, memory_order_acq_rel) == 1)
            event_publish(&pool.left, event_read(&pool.left) + 1);
    }
    return NULL;
}

static void reset_events(void)
{
    for (int i = 0; i < FR_MAX_THREADS; i++) event_reset(&pool.call[i]);
    event_reset(&pool.left);
    event_reset(&pool.phase);
    for (int i = 0; i < FR_MAX_THREADS; i++) atomic_store(&pool.queues[i].taken, 0);
}

static void after_fork_in_child(void)
{
    /* Only the forking thread lives on; what the others held is gone with them. */
    pthread_mutex_init(&pool.owner, NULL);
    pool.n_workers = 0;
    reset_events();
}

static void first_use(void)
{
    reset_events();
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* Grows the pool to `wanted` workers, or as many as the system gives. */
static void grow(int wanted)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, first_use);
    if (pool.n_workers >= wanted) return;
    /* Signals are for the threads of the program, not for ours. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.n_workers < wanted) {
        pthread_t id;
        void *thread = (void *)(intptr_t)(pool.n_workers + 1);
        if (pthread_create(&id, &attributes, worker, thread) != 0) break;
        pool.n_workers++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void work_alone(fr_next_phase *next_phase, fr_task *task, void *context)
{
    for (ptrdiff_t n; (n = next_phase(context)) > 0;)
        for (ptrdiff_t i = 0; i < n; i++) task(context, 0, i);
}

static void work_together(int n_threads)
{
    grow(n_threads - 1);
    if (n_threads > pool.n_workers + 1) n_threads = pool.n_workers + 1;
    pool.n_threads = n_threads;
    pool.spins = n_threads <= fr_cpu_count() ? SPINS : 0;
    atomic_store(&pool.inside, n_threads - 1);
    uint64_t left = event_read(&pool.left);
    begin_phase();
    for (int i = 1; i < n_threads; i++)
        event_publish(&pool.call[i], event_read(&pool.call[i]) + 1);
    take_part(0);
    if (n_threads > 1) event_wait(&pool.left, left, pool.spins);
}

void fr_parallel(int n_threads, fr_next_phase *next_phase, fr_task *task, void *context)
{
    fr_float_state before = fr_flush_to_zero();
    if (n_threads > 1 && pthread_mutex_trylock(&pool.owner) == 0) {
        pool.next_phase = next_phase;
        pool.task = task;
        pool.context = context;
        work_together(n_threads < FR_MAX_THREADS ? n_threads : FR_MAX_THREADS);
        pthread_mutex_unlock(&pool.owner);
    } else {
        work_alone(next_phase, task, context);
    }
    fr_float_restore(before);
}

double fr_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
