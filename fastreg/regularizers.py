"""Regularizers: the penalty on a kernel, a bias or a layer's output, and its gradient.

A penalty is a sum, never a mean, and has no factor 1/2 (Keras 3.15). A layer divides the penalty of
its output by the number of rows in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastreg import functional
from fastreg.errors import check_real
from fastreg.serialization import Configurable, Registry


@dataclass(frozen=True)
class Regularizer(Configurable):
    """Base of the regularizers: `l1 * sum |w| + l2 * sum w^2`.

    Attributes
    ----------
    l1, l2 : float
        The two coefficients, finite and >= 0.
    """

    l1: float
    l2: float

    def __post_init__(self) -> None:
        self._set(l1=check_real("l1", self.l1, low=0.0), l2=check_real("l2", self.l2, low=0.0))

    def __call__(self, w: np.ndarray) -> float:
        """The penalty of `w`, an array of any shape, float32 or float64."""
        return functional.penalty(w, self.l1, self.l2)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of the penalty: `l1 * sign(w) + 2 * l2 * w`, with sign(0) = 0."""
        return functional.penalty_gradient(w, self.l1, self.l2)


@dataclass(frozen=True)
class L1(Regularizer):
    """The penalty `l1 * sum |w|`: a constant pull, which sends weights that do little to zero.

    Parameters
    ----------
    l1 : float, default 0.01
        Coefficient, finite and >= 0; None means the default, as in Keras.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L1(0.5)(np.array([1.0, -2.0]))
    1.5
    >>> L1(0.5).gradient(np.array([1.0, -2.0, 0.0]))
    array([ 0.5, -0.5,  0. ])
    """

    l1: float = 0.01
    l2: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._set(l1=0.01 if self.l1 is None else self.l1)
        super().__post_init__()


@dataclass(frozen=True)
class L2(Regularizer):
    """The penalty `l2 * sum w^2`: a pull proportional to the weight, which shrinks large ones most.

    Parameters
    ----------
    l2 : float, default 0.01
        Coefficient, finite and >= 0; None means the default, as in Keras.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L2(0.5)(np.array([1.0, -2.0]))
    2.5
    >>> L2(0.5).gradient(np.array([1.0, -2.0]))
    array([ 1., -2.])
    """

    l1: float = field(default=0.0, init=False, repr=False)
    l2: float = 0.01

    def __post_init__(self) -> None:
        self._set(l2=0.01 if self.l2 is None else self.l2)
        super().__post_init__()


@dataclass(frozen=True)
class L1L2(Regularizer):
    """The sum of both penalties, `l1 * sum |w| + l2 * sum w^2` (the elastic net).

    Parameters
    ----------
    l1, l2 : float, default 0.0
        Coefficients, finite and >= 0; None means 0, as in Keras. The strings "l1_l2" and "l1l2"
        mean 0.01 for both, as Keras documents them.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L1L2(l1=0.5, l2=0.5)(np.array([1.0, -2.0]))
    4.0
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        self._set(l1=0.0 if self.l1 is None else self.l1, l2=0.0 if self.l2 is None else self.l2)
        super().__post_init__()


# Keras' other names for them.
l1, l2, l1_l2 = L1, L2, L1L2

REGISTRY: Registry[Regularizer] = Registry(
    "regularizer", Regularizer, (L1, L2, L1L2), by_name={"L1L2": {"l1": 0.01, "l2": 0.01}}
)


def get(identifier: object) -> Regularizer | None:
    """The regularizer meant by None, a name, a configuration dictionary, a class or an instance.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    >>> get("l1_l2")
    L1L2(l1=0.01, l2=0.01)
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(regularizer: Regularizer | None) -> dict[str, Any] | None:
    """The regularizer as `{"class_name", "config"}`; None stays None.

    >>> serialize(L1(0.5))
    {'class_name': 'L1', 'config': {'l1': 0.5}}
    """
    return None if regularizer is None else REGISTRY.serialize(regularizer)


def deserialize(config: Mapping[str, Any] | None) -> Regularizer | None:
    """The regularizer that `serialize` wrote.

    >>> deserialize({"class_name": "L1", "config": {"l1": 0.5}})
    L1(l1=0.5)
    """
    return None if config is None else REGISTRY.deserialize(config)
