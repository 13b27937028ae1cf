/* A small pool: one team at a time works for one call.
 *
 * Workers spin some tens of microseconds for the next call, then sleep; a fork leaves the child with an
 * empty pool that grows again when needed (OpenMP hangs there). A second caller while the team is busy
 * works alone: the engine's results do not depend on the number of threads.
 */
#ifndef FR_THREADS_H
#define FR_THREADS_H

typedef struct fr_team fr_team;

typedef void fr_work(void *context, fr_team *team, int thread);

/* Runs work(context, team, thread) on up to n_threads threads, the caller being thread 0. */
void fr_parallel(int n_threads, fr_work *work, void *context);

/* Waits for the whole team; the last to arrive runs serial(context) before the others go on. */
void fr_team_barrier(fr_team *team, void (*serial)(void *context), void *context);

enum { FR_MAX_THREADS = 256 };

#endif
