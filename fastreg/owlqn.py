"""OWL-QN: L-BFGS for a smooth function plus an L1 penalty (Andrew and Gao 2007)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreg.curvature import Curvature

Array = NDArray[np.float64]

PAIRS = 10  # (s, y) that are kept, as L-BFGS-B's default
DECREASE = 1e-4  # Armijo's constant, as in the paper
HALVINGS = 40
ROUNDING = 16 * np.finfo(np.float64).eps  # relative: a sum over the rows is no better known


class Minimum(NamedTuple):
    """Where it ended: w, the objective there, iterations, evaluations, and whether w is one."""

    w: Array
    value: float
    n_iter: int
    n_evaluations: int
    converged: bool


def pseudo_gradient(w: Array, gradient: Array, l1: Array) -> Array:
    """Of f(w) + sum(l1 |w|), the subgradient nearest to 0 (equation 4), from the gradient of f.

    >>> pseudo_gradient(np.array([0.0, 0.0, -1.0]), np.array([3.0, 0.5, 3.0]), np.ones(3))
    array([2., 0., 2.])
    """
    at_zero = np.copysign(np.maximum(np.abs(gradient) - l1, 0.0), gradient)
    return np.where(w == 0, at_zero, gradient + l1 * np.sign(w)) + 0.0


def minimize(
    smooth: Callable[[Array], tuple[float, Array]],
    w: Array,
    l1: Array,
    *,
    tol: float,
    max_iter: int,
    max_fun: int,
    callback: Callable[[Array, float], object] | None = None,
) -> Minimum:
    """The minimum of f(w) + sum(l1 |w|).

    Parameters
    ----------
    smooth : f(w) and its gradient, for w (n,) float64.
    w : (n,), where to begin.
    l1 : (n,), >= 0, a coefficient for each weight.
    tol : ends when no element of the pseudo-gradient is above it.
    max_iter, max_fun : ends after so many iterations, or evaluations of f.
    callback : told w and the objective after each iteration; StopIteration ends it there.

    Examples
    --------
    >>> target = np.array([2.0, 0.25, -1.0])
    >>> found = minimize(lambda w: (0.5 * np.sum((w - target) ** 2), w - target), np.zeros(3),
    ...                  np.full(3, 0.5), tol=1e-9, max_iter=100, max_fun=100)
    >>> found.w.round(6) + 0.0, found.converged
    (array([ 1.5,  0. , -0.5]), True)
    """
    f, gradient = smooth(w)
    value, n_iter, n_evaluations = f + float(l1 @ np.abs(w)), 0, 1
    slope, penalized = pseudo_gradient(w, gradient, l1), l1 > 0
    seen = Curvature(len(w), PAIRS)
    while np.isfinite(value) and np.abs(slope).max(initial=0.0) > tol:
        if n_iter >= max_iter or n_evaluations >= max_fun:
            return Minimum(w, value, n_iter, n_evaluations, False)
        direction = seen.direction(slope)
        direction[(direction * slope >= 0) & penalized] = 0.0  # where it goes down (section 3.2)
        if float(direction @ slope) >= 0:
            seen = Curvature(len(w), PAIRS)
            direction = -slope
        slack = ROUNDING * abs(value)
        orthant = np.where(w == 0, -np.sign(slope), np.sign(w))
        length = 1.0 if seen.number else min(1.0, 1.0 / float(np.linalg.norm(slope)))
        for _ in range(HALVINGS):
            moved = w + length * direction
            moved[(moved * orthant < 0) & penalized] = 0.0  # stays in the orthant
            f, new_gradient = smooth(moved)
            new_value = f + float(l1 @ np.abs(moved))
            n_evaluations += 1
            new_slope = pseudo_gradient(moved, new_gradient, l1)
            if new_value <= value + DECREASE * float(slope @ (moved - w)):
                break
            # Where rounding hides what is left to lose, a smaller slope tells.
            if new_value <= value + slack and np.abs(new_slope).max() < np.abs(slope).max():
                break
            if n_evaluations >= max_fun:
                return Minimum(w, value, n_iter, n_evaluations, False)
            length /= 2
        else:
            if not seen.number:  # rounding hides what is left to lose
                return Minimum(w, value, n_iter, n_evaluations, False)
            seen = Curvature(len(w), PAIRS)
            continue
        s, y = moved - w, new_gradient - gradient
        if float(s @ y) > 1e-10 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            seen.add(s, y)
        w, value, gradient, slope = moved, new_value, new_gradient, new_slope
        n_iter += 1
        try:
            if callback is not None:
                callback(w, value)
        except StopIteration:
            return Minimum(w, value, n_iter, n_evaluations, False)
    return Minimum(w, value, n_iter, n_evaluations, bool(np.isfinite(value)))
