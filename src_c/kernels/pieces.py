"""Writes pieces.inc: functions of float32 as polynomials on pieces, for `v_piece` of math.inc.

`python src_c/kernels/pieces.py > src_c/kernels/pieces.inc`; needs NumPy with an 80-bit long double,
and SciPy.

A piece is where y = x + shift has the same 2 last bits of its exponent and the same first bits of
its mantissa (`v_lookup` in simd/scalar.h). On it, f(x) = c0 + r (c1 + r (c2 + ...)) with
r = x - centre, Remez' minimax polynomial.
TANH is tanh, MILLS exp(x^2 / 2) times the normal distribution's integral up to -x.
"""

import textwrap
from math import comb

import numpy as np
from scipy.special import erfcx

wide = np.longdouble


def solve(a, b):
    """Gauss with pivots: numpy.linalg has no long double."""
    a, b = a.copy(), b.copy()
    for i in range(len(b)):
        p = i + np.argmax(np.abs(a[i:, i]))
        a[[i, p]], b[[i, p]] = a[[p, i]], b[[p, i]]
        factors = a[i + 1 :, i] / a[i, i]
        a[i + 1 :] -= factors[:, None] * a[i]
        b[i + 1 :] -= factors * b[i]
    x = np.zeros_like(b)
    for i in range(len(b))[::-1]:
        x[i] = (b[i] - a[i, i + 1 :] @ x[i + 1 :]) / a[i, i]
    return x


def minimax(f, low, high, powers, weight):
    """The sum of c x^power with the least largest weight |error| on [low, high]."""
    n = len(powers)
    grid = (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * np.arange(4001, dtype=wide) / 4000)
    nodes = grid[np.round((np.arange(n + 1) + 0.5) * 4000 / (n + 1)).astype(int)]
    best, least = None, np.inf
    for _ in range(12):
        matrix = np.array([nodes**p for p in powers] + [(-1.0) ** np.arange(n + 1) / weight(nodes)])
        c = solve(matrix.T, f(nodes))[:n]
        error = (f(grid) - sum(ck * grid**p for ck, p in zip(c, powers, strict=True))) * weight(
            grid
        )
        if np.abs(error).max() < least:
            best, least = c, np.abs(error).max()
        runs = np.split(np.arange(len(grid)), np.flatnonzero(np.diff(np.sign(error))) + 1)
        extremes = [run[np.argmax(np.abs(error[run]))] for run in runs]
        while len(extremes) > n + 1:
            extremes.pop(0 if abs(error[extremes[0]]) < abs(error[extremes[-1]]) else -1)
        if len(extremes) <= n:
            break
        nodes = grid[extremes]
    return best


def moved(c, by):
    """The coefficients about a centre further up."""
    n = len(c)
    return [sum(comb(j, k) * c[j] * by ** (j - k) for j in range(k, n)) for k in range(n)]


def off(value):
    """The distance to the nearest float, in ulp."""
    near = np.float32(value)
    return abs(value - wide(near)) / wide(np.spacing(abs(near)))


def ulp(value):
    return wide(2) ** (np.floor(np.log2(float(value))) - 23)


def tanh_piece(low, high, degree):
    """In ulp; on the first piece centre and c0 are 0 and c1 is 1: small x come back as they are."""
    if low > 0:
        one = ulp(np.tanh(low))
        return piece(np.tanh, low, high, degree, lambda x: np.full_like(x, 1 / one))
    powers = range(2, degree + 1)
    c = minimax(lambda x: np.tanh(x) - x, wide(1e-6), high, powers, lambda x: 2**24 / x)
    return [0, 0, 1, *c]


def mills(x):
    return erfcx(np.asarray(x / np.sqrt(wide(2)), float)).astype(wide) / 2


def mills_piece(low, high, degree):
    return piece(mills, low, high, degree, lambda x: 2**24 / mills(x))


def piece(f, low, high, degree, weight):
    """The centre is a float near the middle at which c0 and c1 almost are floats."""
    middle = (low + high) / 2
    c = minimax(
        lambda r: f(middle + r),
        low - middle,
        high - middle,
        range(degree + 1),
        lambda r: weight(middle + r),
    )
    centres = np.linspace(middle - 0.15 * (high - low), middle + 0.15 * (high - low), 4001)
    by = min(
        np.float32(centres).astype(wide) - middle,
        key=lambda step: off(moved(c, step)[0]) + off(moved(c, step)[1]) / 10,
    )
    return [middle + by, *moved(c, by)]


def table(one_piece, top, entries, degree, shift):
    """The centres, then c0, c1, ... of all pieces, in the order of v_lookup."""
    fraction_bits = entries.bit_length() - 3
    fractions = 1 + np.arange(2**fraction_bits) / 2**fraction_bits
    edges = [2.0**e * f for e in range(-1, 4) for f in fractions]
    columns, used = np.zeros((entries, degree + 2), wide), set()
    for low, high in zip(edges, [*edges[1:], 16.0], strict=True):
        if high <= shift or low >= shift + top:
            continue
        entry = (int(np.float32(low).view(np.uint32)) >> (23 - fraction_bits)) % entries
        assert entry not in used
        used.add(entry)
        low, high = wide(max(low - shift, 0.0)), wide(min(high - shift, top))
        columns[entry] = one_piece(low, high, degree)
    return columns.T


def braces(numbers):
    words = [f"{np.float32(a)!s}f" for a in numbers]
    return "{" + "\n     ".join(textwrap.wrap(", ".join(words), 94)) + "}"


FUNCTIONS = {"TANH": (tanh_piece, 9.3), "MILLS": (mills_piece, 14)}
# Entries: of each function the degree, and a shift with which no two pieces share an entry.
TABLES = {
    32: {"TANH": (4, 0.625), "MILLS": (5, 0.9375)},
    8: {"TANH": (7, 0.75), "MILLS": (9, 1.0)},
}

if __name__ == "__main__":
    print("/* Written by pieces.py, which says what this is. */")
    for name, (_, top) in FUNCTIONS.items():
        print(
            f"#define {name}_TOP {top}f"
            if isinstance(top, float)
            else f"#define {name}_TOP {top}.0f"
        )
    for entries, settings in TABLES.items():
        print(f"#{'if' if entries == 32 else 'elif'} V_TABLE == {entries}")
        for name, (degree, shift) in settings.items():
            print(f"#define {name}_DEGREE {degree}\n#define {name}_SHIFT {shift}f")
            centre, *coefficients = map(braces, table(*FUNCTIONS[name], entries, degree, shift))
            print(f"static const _Alignas(64) float {name}_centre[V_TABLE] =\n    {centre};")
            print(f"static const _Alignas(64) float {name}_coefficient[][V_TABLE] = {{")
            print("".join(f"    {c},\n" for c in coefficients) + "};")
    print("#endif")
