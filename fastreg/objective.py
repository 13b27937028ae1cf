"""What training minimizes, as a function of all trainable weights, and the way down to its minimum.

F(w) = f(w) + h(w). f is the loss over all rows with the L2 and activity penalties; the network
computes it and its gradient. h is the L1 of kernels and biases and the group penalties of kernels,
which have kinks at 0, and what brings a prox of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreg import functional, inputs
from fastreg.curvature import Curvature
from fastreg.inputs import LossLike
from fastreg.layers import Layer
from fastreg.regularizers import GroupL1
from fastreg.training import Data, Network

Array = NDArray[Any]
MakeNetwork = Callable[[list[dict[str, Any]], str], Network]

ROWS_AT_ONCE = 4096  # of a gradient: bounds the memory it takes
HESSIAN_BYTES = 2**25  # of a second derivative that is kept

# A step of gradient descent with rate 1 moves a weight by its gradient.
_DESCENT = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
_ROUNDING = 16 * np.finfo(np.float64).eps  # relative; a sum over the rows is no better known


class Objective:
    """The loss of a model with all penalties, over all rows, without dropout, in float64.

    `Sequential.objective` makes one. The weights are one vector w (n,): the kernels and biases of
    the trainable layers, in the order of `get_weights`, row by row.

    Attributes
    ----------
    evaluations : int
        Gradients computed since it began.
    data_loss : float
        The loss alone, without penalties, where the last gradient was.

    Examples
    --------
    >>> import fastreg as fr
    >>> dense = fr.Dense(1, use_bias=False, kernel_regularizer=fr.L1(1.0))
    >>> model = fr.Sequential([fr.Input((1,)), dense])
    >>> model.compile("sgd", "mse")
    >>> objective = model.objective([[1.0], [2.0]], [2.0, 4.0])  # 2.5 (w - 2)^2 + |w|
    >>> w = np.array([1.0])
    >>> value, gradient = objective.smooth(w)
    >>> value, gradient, objective.penalty(w), objective.residual(w, gradient)
    (2.5, array([-5.]), 1.0, 4.0)
    """

    rows_at_once = ROWS_AT_ONCE

    def __init__(
        self,
        make: MakeNetwork,
        layers: Sequence[Layer],
        data: Data,
        loss: str | LossLike,
        n_threads: int,
        step: int = 0,
    ) -> None:
        y = data.y if data.y.dtype.kind == "i" else data.y.astype(np.float64)
        weight = data.sample_weight
        weight = None if weight is None else weight.astype(np.float64)
        self._data = Data(data.x.astype(np.float64), y, weight)
        self._loss, self._n_threads = loss, n_threads
        without_l1 = {"kernel_l1": 0.0, "bias_l1": 0.0, "kernel_groups": None}
        described = [layer.describe(step) or {} for layer in layers]
        self._described = described
        self._network = make([{**layer, **without_l1} for layer in described], "float64")
        if any(layer.get("activity_rate") or layer.get("activity_own") for layer in described):
            self.rows_at_once = len(data.x)  # penalties of all of a batch
        arrays = [w.astype(np.float64) for layer in layers for w in layer.get_weights()]
        owners = [(layer, name) for layer in layers for name in layer.weight_names]
        self._fixed = arrays
        self._free = [layer.trainable and name in layer.parts for layer, name in owners]
        self.owners = [
            owner for owner, free in zip(owners, self._free, strict=True) if free
        ]  # of the pieces of w: (layer, "kernel" or "bias")
        ends = np.cumsum([a.size for a, free in zip(arrays, self._free, strict=True) if free])
        self.pieces = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        self._step, self.data_loss = step, np.nan
        self._last: tuple[Array, Array] | None = None  # where the last gradient was, and it
        self.begin_anew(arrays)

    def begin_anew(self, weights: Sequence[Array]) -> None:
        """`start` at these weights, under the L1 and group penalties that the layers have now."""
        self.start = self.flat(weights)
        self.l1 = np.zeros_like(self.start)
        self._grouped: list[tuple[slice, tuple[int, int], GroupL1]] = []
        for piece, (layer, name) in zip(self.pieces, self.owners, strict=True):
            regularizer = getattr(layer, f"{name}_regularizer")
            if regularizer is None:
                continue
            regularizer = regularizer.at(self._step)
            self.l1[piece] = regularizer.l1
            if name == "kernel" and isinstance(regularizer, GroupL1):
                shape = layer.input_shape[-1], layer.output_shape[-1]
                self._grouped.append((piece, shape, regularizer))
        self._whole = [
            (piece, getattr(layer, name).shape, layer.whole_penalties()[name])
            for piece, (layer, name) in zip(self.pieces, self.owners, strict=True)
            if name in layer.whole_penalties()
        ]
        self.by_prox = np.zeros(len(self.start), bool)  # weights whose penalty is known by it alone
        for piece, _, whole in self._whole:
            self.by_prox[piece] = whole.prox is not None
        self.evaluations = 0

    def flat(self, weights: Sequence[Array]) -> Array:
        """w, from a list like that of `get_weights`."""
        free = [w.ravel() for w, free in zip(weights, self._free, strict=True) if free]
        return np.concatenate([*free, np.empty(0)]).astype(np.float64, copy=False)

    def weights(self, w: Array) -> list[Array]:
        """A list like that of `get_weights`, from w; what is not trainable is as it was."""
        pieces = iter(self.pieces)
        return [
            w[next(pieces)].reshape(fixed.shape) if free else fixed
            for fixed, free in zip(self._fixed, self._free, strict=True)
        ]

    def smooth(self, w: Array) -> tuple[float, Array]:
        """f(w) and its gradient; (inf, zeros) where it is not finite."""
        self.evaluations += 1
        n = len(self._data.x)
        weights = self.weights(w)
        gradient, ledger = np.zeros_like(w), np.zeros(6)
        for first in range(0, n, self.rows_at_once):
            last = min(first + self.rows_at_once, n)
            self._network.set_weights(weights)
            steps = self._network.train(
                *(*self._data, None, first, last, last - first, self._loss, _DESCENT),
                *(0, 0, None, ledger, self._n_threads),
            )
            if not steps:
                return np.inf, np.zeros_like(w)
            gradient += (w - self.flat(self._network.get_weights())) * ((last - first) / n)
        self.data_loss = float(ledger[0] / n)
        value = float(ledger[:4].sum() / n)
        for piece, shape, whole in self._whole:
            if whole.prox is None:
                here = w[piece].reshape(shape)
                value += whole.value(here)
                gradient[piece] += whole.gradient(here).ravel()
        self._last = w.copy(), gradient
        return value, gradient

    def second_derivative(self) -> Array | None:
        """Of f by the weights into one unit, (n, n), its bias last, where it is the same anywhere.

        That is a linear layer under squared loss. None for any other, where there are more columns
        than rows, and where it is too large to keep.
        """
        x, _, weight = self._data
        if [layer.get("kind") for layer in self._described] != ["dense"]:
            return None
        (layer,) = self._described
        active = layer["activity_l1"] or layer["activity_l2"]
        n = layer["n_in"] + layer["use_bias"]
        other = layer["activation"] != "linear" or active or self._whole or not layer["trainable"]
        name, settings = inputs.loss_parts(self._loss)
        squared = name == "mean_squared_error" and settings is not None  # None: one's own
        if not squared or other or n > len(x) or 8 * n * n > HESSIAN_BYTES:
            return None
        root = np.ones(len(x)) if weight is None else np.sqrt(weight)
        bias = root[:, np.newaxis][:, : layer["use_bias"]]
        if isinstance(x, inputs.SparseRows):
            from scipy.sparse import csr_array, diags_array, hstack

            sparse = csr_array((x.values, x.columns, x.start), shape=x.shape)
            rows = hstack([diags_array(root) @ sparse, csr_array(bias)])
            found: Array = (rows.T @ rows).toarray()
        else:
            rows = np.hstack([x * root[:, np.newaxis], bias])
            found = rows.T @ rows
        found *= 2.0 / (len(x) * layer["n_out"])
        l2 = np.full(n, layer["kernel_l2"])
        l2[layer["n_in"] :] = layer["bias_l2"]
        found[np.diag_indices(n)] += 2 * l2
        return found

    def ahead(self, h: Array, tol: float, max_sweeps: int = 100) -> Array:
        """A minimum of F, or a w near it, from `start` and the last gradient, with no other one.

        `h` is `second_derivative`: f is known from one point. Coordinate descent (Friedman, Hastie
        and Tibshirani 2010), an input's weights at a time. `start` where groups are not of inputs.
        """
        n, start = len(h), self.start
        group = np.zeros(n)
        for _, shape, regularizer in self._grouped:
            if regularizer.groups != "rows":
                return start
            group[: shape[0]] = inputs.resolve_groups(
                shape, regularizer.group_l1, "rows", regularizer.sizes
            ).weight
        if self._last is None:
            self.smooth(start)
        assert self._last is not None
        before, gradient = (np.ascontiguousarray(a.reshape(n, -1).T) for a in self._last)
        w = np.ascontiguousarray(start.reshape(n, -1).T)
        gradient += (w - before) @ h
        l1 = np.ascontiguousarray(self.l1.reshape(n, -1)[:, 0])
        functional.quadratic_descend(h, l1, group, tol, max_sweeps, w, gradient)
        found: Array = w.T.ravel()
        return found if np.isfinite(found).all() else start

    def penalty(self, w: Array) -> float:
        """h(w)."""
        value = float(self.l1 @ np.abs(w))
        for piece, shape, regularizer in self._grouped:
            value += regularizer.group_penalty(w[piece].reshape(shape))
        for piece, shape, whole in self._whole:
            if whole.prox is not None:
                value += whole.value(w[piece].reshape(shape))
        return value

    def prox(self, w: Array, step: float) -> Array:
        """The v that minimizes |v - w|^2 / 2 + step h(v): w, moved toward 0 by step l1.

        Then each group as a whole (Simon, Friedman, Hastie and Tibshirani 2013).
        """
        shrunk: Array = np.maximum(np.abs(w) - step * self.l1, 0.0)
        shrunk = np.copysign(shrunk, w)
        for piece, shape, regularizer in self._grouped:
            shrunk[piece] = regularizer.group_prox(shrunk[piece].reshape(shape), step).ravel()
        self._prox_of_whole(shrunk, step)
        return shrunk + 0.0  # no -0

    def _prox_of_whole(self, w: Array, step: float) -> None:
        """Writes to w."""
        for piece, shape, whole in self._whole:
            if whole.prox is not None:
                w[piece] = whole.prox(w[piece].reshape(shape), step).ravel()

    def slope(self, w: Array, gradient: Array) -> Array:
        """The gradient of F without L1, where groups of zeros have none."""
        if self._grouped:
            gradient = gradient.copy()
        for piece, shape, regularizer in self._grouped:
            gradient[piece] += regularizer.group_gradient(w[piece].reshape(shape)).ravel()
        return gradient

    def subgradient(self, w: Array, gradient: Array) -> Array:
        """Of F at w the one nearest to 0, from the gradient of f: 0 at a minimum.

        At w = 0 the slope of the penalty may be anything from -l1 to l1; that of a group of zeros,
        anything whose norm is at most the group's weight. Of weights whose penalty brings a prox of
        its own, what a proximal step of length 1 takes away: it is 0 at a minimum, too.
        """
        at_zero = np.copysign(np.maximum(np.abs(gradient) - self.l1, 0.0), gradient)
        for piece, shape, regularizer in self._grouped:
            here, slope = w[piece].reshape(shape), at_zero[piece].reshape(shape)
            at_zero[piece] = regularizer.nearest_slope(here, slope).ravel()
        gradient = self.slope(w, gradient)
        # in a group that is not 0, a weight that is, with l1
        kink = np.copysign(np.maximum(np.abs(gradient) - self.l1, 0.0), gradient)
        at_zero = np.where(self.in_zero_group(w), at_zero, kink)
        nearest: Array = np.where(w == 0, at_zero, gradient + self.l1 * np.sign(w))
        if self.by_prox.any():
            moved = w - gradient
            self._prox_of_whole(moved, 1.0)
            nearest = np.where(self.by_prox, w - moved, nearest)
        return nearest

    def in_zero_group(self, w: Array) -> NDArray[np.bool_]:
        """Of which weights a whole group is 0."""
        found = np.zeros(len(w), bool)
        for piece, shape, regularizer in self._grouped:
            found[piece] = regularizer.in_zero_group(w[piece].reshape(shape)).ravel()
        return found

    def residual(self, w: Array, gradient: Array) -> float:
        """The KKT residual: the largest element of `subgradient`."""
        return float(np.abs(self.subgradient(w, gradient)).max(initial=0.0))

    def at(self, w: Array) -> Point:
        """All that is known of F at w."""
        value, gradient = self.smooth(w)
        slope = self.subgradient(w, gradient)
        residual = float(np.abs(slope).max(initial=0.0))
        return Point(w, value + self.penalty(w), gradient, slope, residual, self.data_loss)


class Point(NamedTuple):
    """A place on the way down: w, F(w), gradients of f and F, KKT residual, the loss alone."""

    w: Array
    value: float
    gradient: Array
    subgradient: Array
    residual: float
    data_loss: float


@dataclass(frozen=True)
class Polished:
    """What `polish` came to.

    Attributes
    ----------
    objective : float
        The loss with all penalties, over all rows.
    data_loss : float
        The loss alone.
    kkt_residual : float
        The largest element of the objective's subgradient nearest to 0.
    iterations : int
        Full-batch gradients it took.
    converged : bool
        Whether the residual was brought to the tolerance; for a float32 model before its weights
        were rounded.
    """

    objective: float
    data_loss: float
    kkt_residual: float
    iterations: int
    converged: bool


# ------------------------------------------------ the way down


def polish(
    objective: Objective,
    keep: Callable[[list[Array]], None],
    dtype: str,
    tol: float,
    max_iter: int,
    line: Any = None,
    curvature: Curvature | None = None,
) -> Polished:
    """`Sequential.polish`: descend, and hand the weights that it came to, as `dtype`, to `keep`.

    Raises
    ------
    FloatingPointError
        If F is not finite to begin with.
    """
    first: Point | None = None
    try:
        for here in descend(objective, tol, curvature):
            if first is None:
                first = best = here
            if here.value <= best.value or here.residual <= tol:
                best = here
            if line is not None:
                line.set_postfix_str(f"residual: {here.residual:.1e}", refresh=False)
                line.update(objective.evaluations - line.n)
            if here.residual <= tol or objective.evaluations >= max_iter:
                break
    finally:  # Ctrl-C, too
        if first is not None:
            converged = best.residual <= tol
            rounded = best.w.astype(dtype).astype(np.float64)
            if not np.array_equal(rounded, best.w):
                best = objective.at(rounded)
            slack = _ROUNDING * abs(first.value)  # where rounding hides a gain, the slope tells
            level = best.value <= first.value + slack and best.residual < first.residual
            if best.value < first.value or level:
                keep(objective.weights(best.w))
            else:
                best = first
    assert first is not None
    if not np.isfinite(first.value):
        raise FloatingPointError("polish: the loss is not finite to begin with")
    done = best.value, best.data_loss, best.residual
    return Polished(*done, objective.evaluations, converged)


def descend(
    objective: Objective, tol: float, curvature: Curvature | None = None
) -> Iterator[Point]:
    """Points on the way to a minimum, from the weights the model has; ends where no step helps.

    Shrinkage and subspace optimization by turns (Wen, Yin, Goldfarb and Zhang 2010). A proximal
    gradient step, as long as Barzilai and Borwein say and accepted if F is below that of one of
    the last points (SpaRSA: Wright, Nowak and Figueiredo 2009), says which weights are 0. When it
    leaves all signs as they are, F is smooth around there, and L-BFGS goes on among the others.
    Where f is convex, `curvature` may be what an earlier descent has seen: then L-BFGS begins.
    """
    here = objective.at(objective.start)
    yield here
    step = 1.0 / max(1.0, float(np.linalg.norm(here.gradient)))
    recent = deque([here.value], maxlen=5)
    if curvature is not None and curvature.number and here.residual > tol:
        for there in _among_nonzeros(objective, here, tol, curvature):
            yield there
            here = there
        recent.append(here.value)
    while np.isfinite(here.value):
        found = _proximal_step(objective, here, step, max(recent))
        if found is None:
            return
        there, step = found
        yield there
        same_signs = np.array_equal(np.sign(here.w), np.sign(there.w))
        step = _barzilai_borwein(here, there, step)
        here = there
        if same_signs and here.residual > tol:
            seen = Curvature(len(here.w)) if curvature is None else curvature
            for there in _among_nonzeros(objective, here, tol, seen):
                yield there
            here = there
        recent.append(here.value)


def _proximal_step(
    objective: Objective, here: Point, step: float, ceiling: float
) -> tuple[Point, float] | None:
    """The next point and the step that led there, halved until F is enough below `ceiling`."""
    slack = _ROUNDING * abs(here.value)
    while step > 1e-14:
        w = objective.prox(here.w - step * here.gradient, step)
        moved = w - here.w
        if not moved.any():
            return None
        there = objective.at(w)
        if there.value <= ceiling + slack - 0.005 / step * float(moved @ moved):
            return there, step
        step /= 2
    return None


def _barzilai_borwein(here: Point, there: Point, step: float) -> float:
    """1 / curvature along the last step (Barzilai and Borwein 1988)."""
    s, y = there.w - here.w, there.gradient - here.gradient
    curvature = float(s @ y)
    return float(np.clip(s @ s / curvature, 1e-10, 1e10)) if curvature > 0 else 2 * step


def _among_nonzeros(
    objective: Objective, here: Point, tol: float, curvature: Curvature
) -> Iterator[Point]:
    """L-BFGS (Nocedal 1980) on the weights that are not 0, and those that L1 does not hold there.

    One that would change its sign is left at 0 from then on, as in OWL-QN (Andrew and Gao 2007).
    """
    slope = here.subgradient
    free = (here.w != 0) | ~objective.in_zero_group(here.w) & ((slope != 0) | (objective.l1 == 0))
    free &= ~objective.by_prox
    side = np.where(here.w != 0, np.sign(here.w), -np.sign(slope))
    slope = np.where(free, slope, 0.0)
    enough = max(0.1 * tol, 0.01 * float(np.abs(slope).max(initial=0.0)))
    curvature.look_at(free)
    for _ in range(100):
        direction = curvature.direction(slope)
        if float(slope @ direction) >= 0:
            return
        largest, slack = float(np.abs(slope).max()), _ROUNDING * abs(here.value)
        length = 1.0 if curvature.number else min(1.0, 1.0 / float(np.linalg.norm(slope)))
        for _ in range(30):
            w = here.w + length * direction
            crossed = free & (objective.l1 > 0) & (w * side <= 0)
            w[crossed] = 0.0
            there = objective.at(w)
            found = np.where(free, there.subgradient, 0.0)
            below = there.value <= here.value + 1e-4 * float(slope @ (w - here.w))
            # Where rounding hides what F has left to lose, a smaller slope tells (as Hager and
            # Zhang 2005).
            level = there.value <= here.value + slack and float(np.abs(found).max()) < largest
            if below or level:
                break
            length /= 2
        else:
            return
        yield there
        if float(np.abs(found).max()) <= enough:
            return
        turned = objective.slope(w, there.gradient) - objective.slope(here.w, here.gradient)
        curvature.add(w - here.w, turned)
        if crossed.any():
            free &= ~crossed
            found = np.where(free, found, 0.0)
            curvature.look_at(free)
        here, slope = there, found
