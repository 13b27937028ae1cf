"""What L-BFGS remembers: the compact form against the two loops, and weights that are held."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from fastreg.curvature import Curvature


def two_loops(slope, pairs):
    """-H slope, H from the pairs (Nocedal 1980)."""
    q, shares = -slope, []
    for s, y in reversed(pairs):
        share = float(s @ q) / float(s @ y)
        q = q - share * y
        shares.append(share)
    s, y = pairs[-1]
    q = q * (float(s @ y) / float(y @ y))
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q = q + s * (share - float(y @ q) / float(s @ y))
    return q


def hessian(rng, n):
    root = rng.normal(size=(n, n))
    return root @ root.T + np.eye(n)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_the_direction_is_that_of_the_two_loops(n, size):
    rng = np.random.default_rng(n)
    curve, seen, pairs = hessian(rng, n), Curvature(n, size), deque(maxlen=size)
    for number in range(12):
        s = rng.normal(size=n)
        seen.add(s, curve @ s)
        pairs.append((s, curve @ s))
        assert seen.number == min(number + 1, size)
        slope = rng.normal(size=n)
        found, want = seen.direction(slope), two_loops(slope, pairs)
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-8 * np.abs(want).max())
        assert found @ slope < 0


def test_it_looks_at_the_weights_that_are_free():
    """As if the others had never been: before, between and after pairs come."""
    rng = np.random.default_rng(1)
    n, seen, pairs = 20, Curvature(20, 5), deque(maxlen=5)
    curve = hessian(rng, n)
    for _ in range(15):
        free = rng.random(n) < 0.6
        seen.look_at(free)
        s = rng.normal(size=n)
        seen.add(s, curve @ s)
        pairs.append((s, curve @ s))
        for mask in (free, rng.random(n) < 0.5, np.ones(n, bool)):
            seen.look_at(mask)
            slope = np.where(mask, rng.normal(size=n), 0.0)
            useful = [(s * mask, y * mask) for s, y in pairs if (s * mask) @ (y * mask) > 0]
            found = seen.direction(slope)
            assert not found[~mask].any()
            if useful:
                want = two_loops(slope, useful)
                np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7 * np.abs(want).max())


def test_without_a_pair_of_use_it_goes_down_the_slope():
    seen, slope = Curvature(3, 4), np.array([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(seen.direction(slope), -slope)
    seen.add(np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 0.0]))  # curved down
    np.testing.assert_array_equal(seen.direction(slope), -slope)


def test_as_many_pairs_as_there_is_room_for():
    assert [len(Curvature(n)._s) for n in (10, 40_000, 10**6)] == [100, 52, 20]
