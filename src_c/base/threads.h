/* A small pool: one team at a time works for one call, through phases of tasks.
 *
 * A phase ends when its tasks are done, not when all threads have arrived: a thread that the system has
 * put aside between tasks holds nobody up. Workers spin some tens of microseconds for more, then sleep;
 * a fork leaves the child with an empty pool that grows again when needed (OpenMP hangs there). A second
 * caller while the team is busy works alone: the engine's results do not depend on who runs a task.
 */
#ifndef FR_THREADS_H
#define FR_THREADS_H

#include <stddef.h>

/* Run by one thread between phases: how many tasks the next phase has, 0 when there is none. */
typedef ptrdiff_t fr_next_phase(void *context);

/* Task i of the phase; tasks of a phase run in any order, side by side. */
typedef void fr_task(void *context, int thread, ptrdiff_t i);

/* Runs all phases on up to n_threads threads, the caller being thread 0. */
void fr_parallel(int n_threads, fr_next_phase *next_phase, fr_task *task, void *context);

enum { FR_MAX_THREADS = 256 };

/* Of a clock that never goes back: for choosing between two ways to the same result. */
double fr_seconds(void);

#endif
