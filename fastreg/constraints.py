"""Constraints: what the weights are brought back to after every step, with Keras' names.

They act on trainable kernels and biases, last in a step: after the optimizer, the L1 step and the
running mean of the weights (Keras 3.15). Norms are Euclidean; EPSILON is Keras'.

>>> import fastreg as fr
>>> fr.Dense(4, kernel_constraint="non_neg", bias_constraint=MaxNorm(1.0)).kernel_constraint
NonNeg()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg.errors import check_int, check_real
from fastreg.inputs import Bound
from fastreg.serialization import Configurable, Registry

Array = NDArray[Any]
Axis = int | Sequence[int]

EPSILON = 1e-7  # beside a norm in a denominator


@dataclass(frozen=True)
class Constraint(Configurable):
    """Base of the constraints: a function of an array that gives one like it."""

    def __call__(self, w: ArrayLike) -> Array:
        """`w`, an array of any shape, brought to where the constraint wants it."""
        raise NotImplementedError

    def bound(self, shape: tuple[int, ...]) -> Bound:
        """As the network takes it, for a kernel (n_in, n_out) or a bias (n_out,).

        Raises
        ------
        ValueError
            For an axis that such an array does not have.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NonNeg(Constraint):
    """`max(w, 0)`.

    Examples
    --------
    >>> NonNeg()([-1.0, 2.0])
    array([0., 2.])
    """

    def __call__(self, w: ArrayLike) -> Array:
        return np.maximum(w, 0)

    def bound(self, shape: tuple[int, ...]) -> Bound:
        return Bound("non_neg")


def _axis(argument: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(check_int(argument, each) for each in value)
    return check_int(argument, value)


@dataclass(frozen=True)
class _Norm(Constraint):
    """`w (rate clip(n, low, high) + (1 - rate) n) / (EPSILON + n)`, n the norms along an axis."""

    def _limits(self) -> tuple[float, float, float]:
        """low, high and rate"""
        raise NotImplementedError

    def __call__(self, w: ArrayLike) -> Array:
        low, high, rate = self._limits()
        w = np.asarray(w)
        axis = self._axes(w.shape)
        norms = np.sqrt(np.sum(np.square(w), axis=axis, keepdims=True))
        wanted = np.clip(norms, low, high)
        if rate != 1:
            wanted = rate * wanted + (1 - rate) * norms
        found: Array = w * (wanted / (EPSILON + norms))
        return found

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis: Any = self.axis  # type: ignore[attr-defined]
        axes = axis if isinstance(axis, tuple) else (axis,)
        n = len(shape)
        if not axes or any(not -n <= each < n for each in axes):
            raise ValueError(f"axis: got {axis!r}; axes of an array of shape {shape} are needed")
        return tuple(sorted({each % n for each in axes}))

    def bound(self, shape: tuple[int, ...]) -> Bound:
        axes = self._axes(shape)
        per_row, per_column = (len(shape) > 1 and axes == (axis,) for axis in (1, 0))
        return Bound("norm", *self._limits(), per_row, per_column)

    def get_config(self) -> dict[str, Any]:
        found = super().get_config()
        axis = found["axis"]
        return found | {"axis": list(axis) if isinstance(axis, tuple) else axis}


@dataclass(frozen=True)
class MaxNorm(_Norm):
    """Norms of at most `max_value`: `w clip(n, 0, max_value) / (EPSILON + n)`.

    Parameters
    ----------
    max_value : float, default 2
        >= 0.
    axis : int or list of int, default 0
        Along which the norm is taken; 0 is that of the weights into each unit.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> MaxNorm(1.0)([[3.0, 0.3], [4.0, 0.4]]).round(6)
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """

    max_value: float = 2
    axis: Axis = 0

    def __post_init__(self) -> None:
        self._set(
            max_value=check_real("max_value", self.max_value, low=0.0),
            axis=_axis("axis", self.axis),
        )

    def _limits(self) -> tuple[float, float, float]:
        return 0.0, self.max_value, 1.0


@dataclass(frozen=True)
class UnitNorm(_Norm):
    """Norms of 1: `w / (EPSILON + n)`.

    Parameters
    ----------
    axis : int or list of int, default 0
        Along which the norm is taken; 0 is that of the weights into each unit.

    Raises
    ------
    ValueError, TypeError
        For an argument of another kind.

    Examples
    --------
    >>> UnitNorm()([[3.0], [4.0]]).round(6)
    array([[0.6],
           [0.8]])
    """

    axis: Axis = 0

    def __post_init__(self) -> None:
        self._set(axis=_axis("axis", self.axis))

    def _limits(self) -> tuple[float, float, float]:
        return 1.0, 1.0, 1.0


@dataclass(frozen=True)
class MinMaxNorm(_Norm):
    """Norms between two bounds, or on their way there:
    `w (rate clip(n, min_value, max_value) + (1 - rate) n) / (EPSILON + n)`.

    Parameters
    ----------
    min_value, max_value : float, default 0.0 and 1.0
        0 <= min_value <= max_value.
    rate : float in [0, 1], default 1.0
        Share of the way that one step goes.
    axis : int or list of int, default 0
        Along which the norm is taken; 0 is that of the weights into each unit.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> MinMaxNorm(1.0, 2.0)([[0.3, 3.0], [0.4, 4.0]]).round(6)
    array([[0.6, 1.2],
           [0.8, 1.6]])
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: Axis = 0

    def __post_init__(self) -> None:
        self._set(
            min_value=check_real("min_value", self.min_value, low=0.0),
            rate=check_real("rate", self.rate, low=0.0, high=1.0),
            axis=_axis("axis", self.axis),
        )
        self._set(max_value=check_real("max_value", self.max_value, low=self.min_value))

    def _limits(self) -> tuple[float, float, float]:
        return self.min_value, self.max_value, self.rate


# Keras' other names for them.
non_neg, max_norm, unit_norm, min_max_norm = NonNeg, MaxNorm, UnitNorm, MinMaxNorm

REGISTRY: Registry[Constraint] = Registry(
    "constraint", Constraint, (NonNeg, MaxNorm, UnitNorm, MinMaxNorm)
)


def get(identifier: object) -> Constraint | None:
    """The constraint meant by None, a name, a configuration dictionary, a class or an instance.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("unit_norm")
    UnitNorm(axis=0)
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(constraint: Constraint | None) -> dict[str, Any] | None:
    """The constraint as `{"class_name", "config"}`; None stays None.

    >>> serialize(NonNeg())
    {'class_name': 'NonNeg', 'config': {}}
    """
    return None if constraint is None else REGISTRY.serialize(constraint)


def deserialize(config: Mapping[str, Any] | None) -> Constraint | None:
    """The constraint that `serialize` wrote.

    >>> deserialize({"class_name": "MaxNorm", "config": {"max_value": 3, "axis": 0}})
    MaxNorm(max_value=3.0, axis=0)
    """
    return None if config is None else REGISTRY.deserialize(config)
