#define _POSIX_C_SOURCE 200809L /* sigset_t under -std=c11 */
#include "threads.h"
#include "cpu.h"
#include "platform.h"

#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

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

/* The low half of a ticket is TICKET_ZERO plus the tasks that nobody has taken; takers who come too late
 * push it a little below. */
#define TICKET_ZERO ((uint32_t)1 << 30)

static struct {
    pthread_mutex_t owner; /* held by the caller whose team is at work */
    int n_workers;
    event call[FR_MAX_THREADS]; /* call[i] wakes worker i */
    event left;
    atomic_int inside; /* workers of the team that have not left */
    /* the call */
    int spins; /* none when there are more threads than CPUs */
    fr_next_phase *next_phase;
    fr_task *task;
    void *context;
    /* the phase */
    alignas(64) _Atomic uint64_t ticket; /* phase << 32 | TICKET_ZERO + tasks not taken */
    alignas(64) _Atomic ptrdiff_t unfinished;
    atomic_bool over;
    event phase; /* its value is the phase's number */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER};

static void begin_phase(void)
{
    ptrdiff_t n = pool.next_phase(pool.context);
    /* Not from the event: its signal of the phase before may still be under way. */
    uint64_t before = atomic_load_explicit(&pool.ticket, memory_order_relaxed);
    uint32_t number = (uint32_t)(before >> 32) + 1;
    atomic_store_explicit(&pool.over, n == 0, memory_order_relaxed);
    atomic_store_explicit(&pool.unfinished, n, memory_order_relaxed);
    atomic_store_explicit(&pool.ticket, (uint64_t)number << 32 | (TICKET_ZERO + (uint32_t)n),
                          memory_order_release);
    event_signal(&pool.phase);
}

/* A ticket names its phase, so a thread that comes late takes part in whatever phase there is. */
static void take_part(int thread)
{
    for (;;) {
        uint64_t ticket = atomic_fetch_sub_explicit(&pool.ticket, 1, memory_order_acq_rel);
        uint32_t left = (uint32_t)ticket;
        if (left > TICKET_ZERO) {
            pool.task(pool.context, thread, (ptrdiff_t)(left - TICKET_ZERO - 1));
            if (atomic_fetch_sub_explicit(&pool.unfinished, 1, memory_order_acq_rel) == 1)
                begin_phase();
        } else if (atomic_load_explicit(&pool.over, memory_order_relaxed)) {
            return;
        } else {
            event_wait(&pool.phase, (uint32_t)(ticket >> 32), pool.spins);
        }
    }
}

static void *worker(void *argument)
{
    int thread = (int)(intptr_t)argument;
    for (unsigned seen = 0;;) {
        seen = event_wait(&pool.call[thread], seen, SPINS);
        fr_float_state before = fr_flush_to_zero();
        take_part(thread);
        fr_float_restore(before);
        if (atomic_fetch_sub_explicit(&pool.inside, 1, memory_order_acq_rel) == 1)
            event_signal(&pool.left);
    }
    return NULL;
}

static void reset_events(void)
{
    for (int i = 0; i < FR_MAX_THREADS; i++) event_reset(&pool.call[i]);
    event_reset(&pool.left);
    event_reset(&pool.phase);
}

static void after_fork_in_child(void)
{
    /* Only the forking thread lives on; what the others held is gone with them. */
    pthread_mutex_init(&pool.owner, NULL);
    pool.n_workers = 0;
    atomic_store(&pool.ticket, 0); /* its number is that of the event */
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
    pool.spins = n_threads <= fr_cpu_count() ? SPINS : 0;
    atomic_store(&pool.inside, n_threads - 1);
    unsigned left = atomic_load(&pool.left.value);
    begin_phase();
    for (int i = 1; i < n_threads; i++) event_signal(&pool.call[i]);
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
