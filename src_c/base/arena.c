#define _DEFAULT_SOURCE /* posix_memalign and madvise under -std=c11 */
#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Large arenas stand in huge pages: with small ones the products of 1024 wide layers waited for address
 * translation. Systems that give huge pages only to who asks are the rule (NumPy asks, too). */
enum { HUGE_PAGE = 2 << 20 };

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
    bool large = bytes >= 2 * HUGE_PAGE;
    if (arena->overflow || posix_memalign(&memory, large ? HUGE_PAGE : FR_ALIGNMENT, bytes) != 0)
        return false;
#ifdef MADV_HUGEPAGE
    if (large) madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: small pages will do */
#endif
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
