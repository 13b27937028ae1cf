#include "threads.h"
#include "cpu.h"
#include "platform.h"

#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>

/* x86 pause takes 40 to 140 cycles: some tens of microseconds. */
enum { SPINS = 1500 };

/* A counter that threads wait on: by spinning, then asleep. */
typedef struct {
    alignas(64) atomic_uint value; /* a cache line of its own */
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

static unsigned event_wait(event *e, unsigned old, int spins)
{
    unsigned now;
    for (int i = 0; i < spins; i++) {
        now = atomic_load_explicit(&e->value, memory_order_acquire);
        if (now != old) return now;
        fr_spin_pause();
    }
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->sleepers, 1);
    while ((now = atomic_load(&e->value)) == old) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->mutex);
    return now;
}

/* Both accesses here and both in event_wait are sequentially consistent: either the sleeper sees the
 * new value, or we see the sleeper. */
static void event_signal(event *e)
{
    atomic_fetch_add(&e->value, 1);
    if (atomic_load(&e->sleepers) == 0) return;
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

struct fr_team {
    int n_threads;
    int spins; /* none when there are more threads than CPUs */
    alignas(64) atomic_int arrived;
    event passed;
};

static struct {
    pthread_mutex_t owner; /* held by the caller whose team is at work */
    int n_workers;
    event call[FR_MAX_THREADS]; /* call[i] wakes worker i */
    event finished;
    atomic_int running; /* workers of the team that have not finished */
    fr_work *work;
    void *context;
    fr_team team;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER};

void fr_team_barrier(fr_team *team, void (*serial)(void *context), void *context)
{
    unsigned passed = atomic_load_explicit(&team->passed.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 < team->n_threads) {
        event_wait(&team->passed, passed, team->spins);
        return;
    }
    if (serial) serial(context);
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    if (team->n_threads > 1) event_signal(&team->passed);
}

static void work_as(fr_work *work, void *context, fr_team *team, int thread)
{
    fr_float_state before = fr_flush_to_zero();
    work(context, team, thread);
    fr_float_restore(before);
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    for (unsigned seen = 0;;) {
        seen = event_wait(&pool.call[thread], seen, SPINS);
        work_as(pool.work, pool.context, &pool.team, thread);
        if (atomic_fetch_sub_explicit(&pool.running, 1, memory_order_acq_rel) == 1)
            event_signal(&pool.finished);
    }
    return NULL;
}

static void reset_events(void)
{
    for (int i = 0; i < FR_MAX_THREADS; i++) event_reset(&pool.call[i]);
    event_reset(&pool.finished);
    event_reset(&pool.team.passed);
}

static void after_fork_in_child(void)
{
    /* Only the forking thread lives on; what the others held is gone with them. */
    pthread_mutex_init(&pool.owner, NULL);
    pool.n_workers = 0;
    atomic_store(&pool.team.arrived, 0);
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

void fr_parallel(int n_threads, fr_work *work, void *context)
{
    if (n_threads > FR_MAX_THREADS) n_threads = FR_MAX_THREADS;
    if (n_threads <= 1 || pthread_mutex_trylock(&pool.owner) != 0) {
        fr_team alone = {.n_threads = 1};
        work_as(work, context, &alone, 0);
        return;
    }
    grow(n_threads - 1);
    if (n_threads > pool.n_workers + 1) n_threads = pool.n_workers + 1;
    pool.work = work;
    pool.context = context;
    pool.team.n_threads = n_threads;
    pool.team.spins = n_threads <= fr_cpu_count() ? SPINS : 0;
    atomic_store(&pool.running, n_threads - 1);
    unsigned finished = atomic_load(&pool.finished.value);
    for (int i = 1; i < n_threads; i++) event_signal(&pool.call[i]);
    work_as(work, context, &pool.team, 0);
    if (n_threads > 1) event_wait(&pool.finished, finished, pool.team.spins);
    pthread_mutex_unlock(&pool.owner);
}
