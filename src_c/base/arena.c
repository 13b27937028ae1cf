#define _POSIX_C_SOURCE 200809L /* posix_memalign under -std=c11 */
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

ptrdiff_t fr_size_product(ptrdiff_t a, ptrdiff_t b)
{
    if (a < 0 || b < 0 || (b != 0 && a > PTRDIFF_MAX / b)) return -1;
    return a * b;
}

void *fr_arena_take(fr_arena *arena, ptrdiff_t count, ptrdiff_t size)
{
    ptrdiff_t bytes = fr_size_product(count, size);
    if (bytes < 0 || bytes > PTRDIFF_MAX - FR_ALIGNMENT - arena->used) {
        arena->overflow = true;
        return NULL;
    }
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + FR_ALIGNMENT - 1) / FR_ALIGNMENT * FR_ALIGNMENT;
    return piece;
}

bool fr_arena_allocate(fr_arena *arena)
{
    void *memory = NULL;
    size_t bytes = (size_t)arena->used + FR_ALIGNMENT; /* never 0 */
    if (arena->overflow || posix_memalign(&memory, FR_ALIGNMENT, bytes) != 0) return false;
    memset(memory, 0, bytes);
    arena->base = memory;
    arena->used = 0;
    return true;
}

void fr_arena_free(fr_arena *arena)
{
    free(arena->base);
    *arena = (fr_arena){0};
}
