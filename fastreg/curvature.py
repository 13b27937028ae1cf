"""L-BFGS (Nocedal 1980): what was seen of a function's curvature, and where it says to go."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs

Array = NDArray[Any]

PAIRS, PAIRS_BYTES = (20, 100), 2**25  # at least, at most, and in how much


class Curvature:
    """The last steps s and the changes y of the slope along them: what L-BFGS knows of F.

    They are kept whole, looked at in the weights that are free, and serve on when those change.

    Parameters
    ----------
    n : how many weights F has.
    size : how many pairs are kept, the last ones; None: 20 to 100, the fewer the more weights.

    Examples
    --------
    >>> seen = Curvature(2)  # of (2 a^2 + b^2) / 2
    >>> seen.add(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    >>> seen.look_at(np.array([True, True]))
    >>> seen.direction(np.array([4.0, 1.0])), seen.number
    (array([-2. , -0.5]), 1)
    """

    def __init__(self, n: int, size: int | None = None) -> None:
        if size is None:
            size = int(np.clip(PAIRS_BYTES // (16 * max(n, 1)), *PAIRS))
        self._size = size
        self._order: deque[int] = deque(maxlen=self._size)  # places in the rings, oldest first
        self._s, self._y = np.zeros((2, self._size, n))  # rings
        self._free = np.arange(n)
        self._free_s, self._free_y = self._s, self._y  # of the free weights
        self._sy, self._yy = np.zeros((2, self._size, self._size))  # products of those
        self._length = np.zeros(self._size)  # of each s

    @property
    def number(self) -> int:
        """Pairs so far, at most as many as are kept."""
        return len(self._order)

    def add(self, s: Array, y: Array) -> None:
        """A step and the change of the slope, of all weights."""
        at = (self._order[-1] + 1) % self._size if self._order else 0
        self._order.append(at)
        self._s[at], self._y[at], self._length[at] = s, y, np.linalg.norm(s)
        s, y = s[self._free], y[self._free]
        self._free_s[at], self._free_y[at] = s, y
        used = slice(self.number)
        self._sy[at, used], self._sy[used, at] = self._free_y[used] @ s, self._free_s[used] @ y
        self._yy[at, used] = self._yy[used, at] = self._free_y[used] @ y

    def look_at(self, free: NDArray[np.bool_]) -> None:
        """From now on, only these weights move."""
        index = np.flatnonzero(free)
        if np.array_equal(index, self._free):
            return
        self._free, used = index, slice(self.number)
        self._free_s, self._free_y = (ring.take(index, axis=1) for ring in (self._s, self._y))
        s, y = self._free_s[used], self._free_y[used]
        self._sy[used, used], self._yy[used, used] = s @ y.T, y @ y.T

    def direction(self, slope: Array) -> Array:
        """-H slope, with H in the compact form of Byrd, Nocedal and Schnabel (1994)."""
        order = np.array(self._order, np.intp)
        sy, yy = np.diagonal(self._sy)[order], np.diagonal(self._yy)[order]
        order = order[sy > 1e-12 * np.sqrt(yy) * self._length[order]]
        if not len(order):
            return -slope
        square, used = (order[:, None], order), slice(self.number)
        s, y, free_slope = self._free_s[used], self._free_y[used], slope[self._free]
        sy, yy = self._sy[square], self._yy[square]  # of sy, the upper triangle counts
        scale = sy[-1, -1] / yy[-1, -1]
        along = dtrtrs(sy.T, (s @ free_slope)[order], lower=1, trans=1)[0]
        mixed = np.diagonal(sy) * along + scale * (yy @ along - (y @ free_slope)[order])
        shares = np.zeros((2, self.number))
        shares[0, order] = dtrtrs(sy.T, mixed, lower=1)[0]
        shares[1, order] = scale * along
        found = np.zeros_like(slope)
        found[self._free] = shares[1] @ y - shares[0] @ s - scale * free_slope
        return found
