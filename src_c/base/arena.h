/* One allocation, cut into 64-byte aligned pieces that are planned before they are taken.
 *
 * A plan runs twice over the same lines: first with base = NULL, which only adds up sizes, then over
 * the memory. So the sizes and the pointers cannot disagree.
 */
#ifndef FR_ARENA_H
#define FR_ARENA_H

#include "platform.h"
#include <stdbool.h>
#include <stddef.h>

enum { FR_ALIGNMENT = 64 };

typedef struct {
    char *base; /* NULL while sizes are added up */
    ptrdiff_t used;
    bool overflow;
} fr_arena;

/* The product of two sizes >= 0, or -1 where it overflows. */
ptrdiff_t fr_size_product(ptrdiff_t a, ptrdiff_t b);

/* The next `count` elements of `size` bytes; NULL while sizes are added up. */
void *fr_arena_take(fr_arena *arena, ptrdiff_t count, ptrdiff_t size);

/* Memory for what a first pass added up; zeroed. False, and base stays NULL, when there is none. */
bool fr_arena_allocate(fr_arena *arena);
void fr_arena_free(fr_arena *arena);

#endif
