"""Writes tanh_table.inc: float32 tanh as polynomials on pieces, for `v_tanh` of math.inc.

`python src_c/kernels/tanh_table.py > src_c/kernels/tanh_table.inc`; needs NumPy and an 80-bit
long double.

A piece is where y = x + shift has the same 2 last bits of its exponent and the same first bits of
its mantissa (`v_lookup` in simd/scalar.h). On it, tanh(x) = c0 + r (c1 + r (c2 + ...)) with
r = x - centre: Remez' minimax polynomial in ulp. The centre is a float near the middle at which c0
and c1 are almost floats themselves, so that rounding them costs nothing. On the first piece it is
0, with c0 = 0 and c1 = 1: small x come back as they are.
"""

import textwrap
from math import comb

import numpy as np

TOP = 9.3  # float32 tanh is 1 from 9.0109134 on: far enough above for the polynomial to say so
TABLES = ((32, 4, 0.625), (8, 7, 0.75))  # entries, degree, shift: no two pieces share an entry
wide = np.longdouble


def ulp(value):
    return wide(2) ** (np.floor(np.log2(value.astype(float))) - 23)


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


def first_piece(high, degree):
    c = minimax(
        lambda x: np.tanh(x) - x, wide(1e-6), wide(high), range(2, degree + 1), lambda x: 2**24 / x
    )
    return [0, 0, 1, *c]


def piece(low, high, degree):
    middle = wide(np.float32((low + high) / 2))
    one = ulp(np.tanh(wide(low)))
    c = minimax(
        lambda r: np.tanh(middle + r),
        low - middle,
        high - middle,
        range(degree + 1),
        lambda r: np.ones_like(r) / one,
    )
    centres = np.linspace(0.65 * low + 0.35 * high, 0.35 * low + 0.65 * high, 4001).astype(
        np.float32
    )
    by = min(
        centres.astype(wide) - middle,
        key=lambda step: off(moved(c, step)[0]) + off(moved(c, step)[1]) / 10,
    )
    return [middle + by, *moved(c, by)]


def table(entries, degree, shift):
    """The centres, then c0, c1, ... of all pieces, in the order of v_lookup."""
    fraction_bits = entries.bit_length() - 3
    edges = [
        2.0**e * (1 + j / 2**fraction_bits) for e in range(-1, 4) for j in range(2**fraction_bits)
    ]
    columns = np.zeros((entries, degree + 2), wide)
    for low, high in zip(edges, [*edges[1:], 16.0], strict=True):
        if high <= shift or low >= shift + TOP:
            continue
        entry = (int(np.float32(low).view(np.uint32)) >> (23 - fraction_bits)) % entries
        low, high = max(low - shift, 0.0), min(high - shift, TOP)
        columns[entry] = piece(low, high, degree) if low > 0 else first_piece(high, degree)
    return columns.T


def row(numbers):
    words = [f"{np.float32(a)!s}f" for a in numbers]
    lines = textwrap.wrap(", ".join(words), 94)
    return "    {" + "\n     ".join(lines) + "},"


if __name__ == "__main__":
    print("/* Written by tanh_table.py, which says what this is. */")
    print(f"#define TANH_TOP {TOP}f")
    for place, (entries, degree, shift) in enumerate(TABLES):
        print(f"#{'elif' if place else 'if'} V_TABLE == {entries}")
        print(f"#define TANH_DEGREE {degree}\n#define TANH_SHIFT {shift}f")
        centre, *coefficients = table(entries, degree, shift)
        print("static const _Alignas(64) float tanh_centre[V_TABLE] =")
        print(row(centre)[:-1] + ";")
        print("static const _Alignas(64) float tanh_coefficient[TANH_DEGREE + 1][V_TABLE] = {")
        print("\n".join(map(row, coefficients)), "};", sep="\n")
    print("#endif")
