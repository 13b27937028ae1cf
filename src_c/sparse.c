#include "sparse.h"

#include "sizes.h"

/* ---- when ---- */

/* Smaller kernels are not looked at: after each change that would take as long as the zeros give back. */
enum { SMALLEST = 1 << 15 };

/* Fitted to `python -m bench.sparse`, from 256 x 256 to 2048 x 2048: a dense weight costs its rows and what
 * 1.5 of them take for loading it, a sparse one its vectors and as much as one for finding it. The two were
 * even at 0.46 of that on AVX2; on AVX-512 at 0.42 to 0.50 for panels of 16 and 32 rows, 0.38 to 0.45 for
 * those of 64 and more, 0.36 to 0.39 at 8 rows, and at twice it for one row of kernels beyond the caches. */
static const double EVEN = 0.44;
static const double EVEN_WITH_BLAS = 0.1;

static double break_even(const fr_kernels *kernels, bool native, ptrdiff_t rows)
{
    ptrdiff_t vector = kernels->panel / 2, vectors = pieces(rows, vector);
    /* BLAS may know wider vectors than the table: measured under the baseline one, on a CPU with AVX2. */
    double even = native ? EVEN : EVEN_WITH_BLAS;
    return even * ((double)rows + 1.5) / (double)(vector * (vectors + 1));
}

bool fr_nonzeros_pay(const fr_nonzeros *nonzeros, const fr_kernels *kernels, bool native, fr_sparse_use use,
                     ptrdiff_t rows)
{
    if (!nonzeros->arena.base) return false;
    return use == FR_SPARSE_ALWAYS || nonzeros->density < break_even(kernels, native, rows);
}

/* ---- the kernel ---- */

void fr_nonzeros_free(fr_nonzeros *nonzeros)
{
    fr_arena_free(&nonzeros->arena);
    *nonzeros = (fr_nonzeros){.density = 1};
}

/* The kernel's nonzeros; -1 where there are more than `most`. */
static ptrdiff_t count(const fr_kernels *kernels, const void *kernel, ptrdiff_t panel,
                       ptrdiff_t n_panels, ptrdiff_t most)
{
    ptrdiff_t found = 0, size = fr_sizeof(kernels->dtype);
    for (ptrdiff_t p = 0; p < n_panels && found <= most; p++)
        found += kernels->count_nonzero(panel, fr_at(kernel, p * panel, size));
    return found <= most ? found : -1;
}

fr_status fr_nonzeros_find(fr_nonzeros *nonzeros, const fr_kernels *kernels, fr_sparse_use use,
                           const void *kernel, ptrdiff_t n_in, ptrdiff_t n_out, ptrdiff_t width)
{
    fr_nonzeros_free(nonzeros);
    bool always = use == FR_SPARSE_ALWAYS;
    ptrdiff_t n = n_in * n_out, size = fr_sizeof(kernels->dtype);
    if (use == FR_SPARSE_NEVER || (!always && n < SMALLEST)) return FR_OK;
    ptrdiff_t most = always ? n : (ptrdiff_t)(EVEN * (double)n);
    ptrdiff_t found = count(kernels, kernel, n_in * width, pieces(n_out, width), most);
    if (found < 0) return FR_OK;

    fr_nonzeros made = {.density = (double)found / (double)n};
    int64_t *start = NULL;
    int32_t *row = NULL;
    void *value = NULL;
    for (int pass = 0; pass < 2; pass++) {
        start = fr_arena_take(&made.arena, n_out + 1, sizeof *start);
        row = fr_arena_take(&made.arena, found + 1, sizeof *row);
        value = fr_arena_take(&made.arena, found + 1, size);
        if (pass == 0 && !fr_arena_allocate(&made.arena))
            return made.arena.overflow ? FR_TOO_LARGE : FR_NO_MEMORY;
    }
    ptrdiff_t end = 0;
    for (ptrdiff_t o = 0; o < n_out; o++) {
        start[o] = end;
        const void *column = fr_at(kernel, o / width * width * n_in + o % width, size);
        end = kernels->compress(n_in, column, width, end, row, value);
    }
    start[n_out] = end;
    made.units = (fr_sparse_rows){.start = start, .column = row, .value = value};
    *nonzeros = made;
    return FR_OK;
}

/* ---- the product: [block][n_in][lanes], then a tile [panel][lanes] of the output ---- */

ptrdiff_t fr_lanes_rows(const fr_kernels *kernels, ptrdiff_t rows)
{
    ptrdiff_t vector = kernels->panel / 2;
    return pieces(pieces(rows, pieces(rows, kernels->lanes)), vector) * vector;
}

ptrdiff_t fr_lanes_size(const fr_kernels *kernels, ptrdiff_t n_in, ptrdiff_t rows)
{
    ptrdiff_t blocks = pieces(rows, fr_lanes_rows(kernels, rows));
    ptrdiff_t elements = fr_size_product(blocks, fr_size_product(n_in, kernels->lanes));
    return elements < 0 ? -1 : elements + kernels->panel * kernels->lanes;
}

void fr_to_lanes(const fr_kernels *kernels, ptrdiff_t rows, ptrdiff_t n_in, const void *x, ptrdiff_t ld,
                 ptrdiff_t gap, void *lanes)
{
    ptrdiff_t size = fr_sizeof(kernels->dtype), step = fr_lanes_rows(kernels, rows);
    for (ptrdiff_t r = 0, block = 0; r < rows; r += step, block++)
        kernels->to_lanes(smaller(step, rows - r), n_in, fr_at(x, r * ld, size), ld, gap,
                          fr_at(lanes, block * n_in * kernels->lanes, size));
}

void fr_product_nonzeros(const fr_kernels *kernels, const fr_nonzeros *nonzeros, ptrdiff_t rows,
                         ptrdiff_t n_in, void *lanes, ptrdiff_t o, ptrdiff_t n, void *y, ptrdiff_t ld)
{
    ptrdiff_t size = fr_sizeof(kernels->dtype), step = fr_lanes_rows(kernels, rows);
    ptrdiff_t one = n_in * kernels->lanes;
    void *tile = fr_at(lanes, pieces(rows, step) * one, size);
    fr_sparse_rows units = nonzeros->units;
    for (ptrdiff_t first = 0; first < n; first += kernels->panel) {
        ptrdiff_t here = smaller(kernels->panel, n - first);
        units.start = nonzeros->units.start + o + first;
        for (ptrdiff_t r = 0, block = 0; r < rows; r += step, block++) {
            ptrdiff_t live = smaller(step, rows - r);
            kernels->sparse_product(here, live, &units, fr_at(lanes, block * one, size),
                                    kernels->lanes, tile, kernels->lanes);
            kernels->from_lanes(live, here, tile, fr_at(y, r * ld + first, size), ld);
        }
    }
}
