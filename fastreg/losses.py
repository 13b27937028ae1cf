"""Losses: one number for a batch, `sum(w_i * l_i) / n_batch` (Keras' "sum_over_batch_size").

l_i is the loss of row i, w_i its sample weight (1 without). The loss objects see predictions only,
so the crossentropies clip probabilities to [1e-7, 1 - 1e-7] as Keras does; a model that ends in
sigmoid or softmax computes them from the logits instead, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastreg import functional
from fastreg.serialization import Configurable, Registry, known_arguments


@dataclass(frozen=True, init=False)
class Loss(Configurable):
    """Base of the losses.

    Attributes
    ----------
    name : str
        The name the engine and `compile(loss=...)` know it by.
    """

    name: ClassVar[str] = ""

    def __init__(self, **keras: object) -> None:
        """Arguments that Keras has here are taken at Keras' default only."""
        known_arguments(type(self), keras, self.keras_only)

    def __call__(
        self, y_true: np.ndarray, y_pred: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """The loss of a batch: `y_true` like `y_pred` (n, n_out), `sample_weight` (n,)."""
        return functional.loss(self.name, y_true, y_pred, sample_weight)

    def gradient(
        self, y_true: np.ndarray, y_pred: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> np.ndarray:
        """The gradient of the loss with respect to `y_pred`, (n, n_out)."""
        return functional.loss_gradient(self.name, y_true, y_pred, sample_weight)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Loss:
        """The loss that `get_config` described; a Keras configuration serves as well."""
        return cls(**known_arguments(cls, config, cls.keras_only))


def _keras_only(name: str, **more: object) -> dict[str, object]:
    return {**more, "reduction": "sum_over_batch_size", "name": name, "dtype": None}


@dataclass(frozen=True, init=False)
class MeanSquaredError(Loss):
    """Mean squared error: l_i is the mean of `(y_pred - y_true)^2` over the columns.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> MeanSquaredError()(np.array([[0.0, 1.0]]), np.array([[0.5, 1.0]]))
    0.125
    """

    name = "mean_squared_error"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class BinaryCrossentropy(Loss):
    """Binary crossentropy: l_i is the mean of `-y log p - (1 - y) log(1 - p)` over the columns.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(BinaryCrossentropy()(np.array([[1.0]]), np.array([[0.5]])), 6)
    0.693147
    """

    name = "binary_crossentropy"
    keras_only = _keras_only(name, from_logits=False, label_smoothing=0.0, axis=-1)


@dataclass(frozen=True, init=False)
class CategoricalCrossentropy(Loss):
    """Categorical crossentropy: l_i is `-sum_k y_k log p_k`, p divided by its row sum first.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(CategoricalCrossentropy()(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]])), 6)
    0.693147
    """

    name = "categorical_crossentropy"
    keras_only = _keras_only(name, from_logits=False, label_smoothing=0.0, axis=-1)


@dataclass(frozen=True, init=False)
class SparseCategoricalCrossentropy(Loss):
    """Categorical crossentropy with `y_true` given as class numbers, (n,) integers in [0, n_out).

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(SparseCategoricalCrossentropy()(np.array([1]), np.array([[0.5, 0.5]])), 6)
    0.693147
    """

    name = "sparse_categorical_crossentropy"
    keras_only = _keras_only(name, from_logits=False, ignore_class=None, axis=-1)


@dataclass(frozen=True, init=False)
class MeanAbsoluteError(Loss):
    """Mean absolute error: l_i is the mean of `|y_pred - y_true|` over the columns.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(MeanAbsoluteError()(np.array([[0.0, 1.0]]), np.array([[0.5, 1.0]])), 6)
    0.25
    """

    name = "mean_absolute_error"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class MeanAbsolutePercentageError(Loss):
    """Mean absolute percentage error: the mean of `100 |p - y| / max(|y|, 1e-7)`.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(MeanAbsolutePercentageError()(np.array([[2.0, 1.0]]), np.array([[1.0, 1.0]])), 6)
    25.0
    """

    name = "mean_absolute_percentage_error"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class MeanSquaredLogarithmicError(Loss):
    """Mean squared logarithmic error: the mean of `(log(1 + p) - log(1 + y))^2`, both from 1e-7 up.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(MeanSquaredLogarithmicError()(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])), 6)
    0.0
    """

    name = "mean_squared_logarithmic_error"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class LogCosh(Loss):
    """Logarithm of the hyperbolic cosine of the error: the mean of `log cosh(p - y)`.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(LogCosh()(np.array([[0.0]]), np.array([[0.0]])), 6)
    0.0
    """

    name = "log_cosh"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class Poisson(Loss):
    """Poisson loss: l_i is the mean of `p - y log(p + 1e-7)` over the columns, p >= 0.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(Poisson()(np.array([[0.0]]), np.array([[2.0]])), 6)
    2.0
    """

    name = "poisson"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class KLDivergence(Loss):
    """Kullback-Leibler divergence: the sum of `y log(y / p)`, both clipped to [1e-7, 1].

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(KLDivergence()(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]])), 6)
    0.0
    """

    name = "kl_divergence"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class Hinge(Loss):
    """Hinge loss: l_i is the mean of `max(1 - y p, 0)`, y of -1 and 1, or 0 and 1.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(Hinge()(np.array([[-1.0, 1.0]]), np.array([[0.5, 2.0]])), 6)
    0.75
    """

    name = "hinge"
    keras_only = _keras_only(name)


@dataclass(frozen=True, init=False)
class SquaredHinge(Loss):
    """Squared hinge loss: l_i is the mean of `max(1 - y p, 0)^2`, y of -1 and 1, or 0 and 1.

    Raises
    ------
    ValueError
        For an argument of Keras' class that is not at Keras' default.

    Examples
    --------
    >>> import numpy as np
    >>> round(SquaredHinge()(np.array([[-1.0, 1.0]]), np.array([[0.5, 2.0]])), 6)
    1.125
    """

    name = "squared_hinge"
    keras_only = _keras_only(name)


REGISTRY: Registry[Loss] = Registry(
    "loss",
    Loss,
    (
        MeanSquaredError,
        BinaryCrossentropy,
        CategoricalCrossentropy,
        SparseCategoricalCrossentropy,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
        MeanSquaredLogarithmicError,
        LogCosh,
        Poisson,
        KLDivergence,
        Hinge,
        SquaredHinge,
    ),
    aliases={
        "mse": MeanSquaredError,
        "bce": BinaryCrossentropy,
        "mae": MeanAbsoluteError,
        "mape": MeanAbsolutePercentageError,
        "msle": MeanSquaredLogarithmicError,
        "kld": KLDivergence,
        "kullback_leibler_divergence": KLDivergence,
    },
)


def get(identifier: object) -> Loss:
    """The loss meant by a name, a configuration dictionary, a class or an instance.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("mse").name
    'mean_squared_error'
    """
    return REGISTRY.get(identifier)


def serialize(loss: Loss) -> dict[str, Any]:
    """The loss as `{"class_name", "config"}`.

    >>> serialize(MeanSquaredError())
    {'class_name': 'MeanSquaredError', 'config': {}}
    """
    return REGISTRY.serialize(loss)


def deserialize(config: Mapping[str, Any]) -> Loss:
    """The loss that `serialize` wrote.

    >>> deserialize({"class_name": "MeanSquaredError", "config": {}})
    MeanSquaredError()
    """
    return REGISTRY.deserialize(config)
