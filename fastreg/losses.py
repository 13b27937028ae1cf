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
from numpy.typing import ArrayLike

from fastreg import functional
from fastreg.errors import check_real
from fastreg.inputs import LossSettings, check_answer, read_only
from fastreg.serialization import (
    Configurable,
    Registry,
    check_bool,
    is_own,
    known_arguments,
    snake_case,
)


@dataclass(frozen=True, init=False)
class Loss(Configurable):
    """Base of the losses.

    A class is told the arguments that only Keras has; any other value of these than Keras' default
    is a ValueError.

    Attributes
    ----------
    name : str
        The name the engine and `compile(loss=...)` know it by.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(
        cls, name: str | None = None, keras_name: str | None = None, **keras_only: object
    ) -> None:
        cls.name = snake_case(cls.__name__) if name is None else name
        theirs = cls.name if keras_name is None else keras_name
        common = {"reduction": "sum_over_batch_size", "name": theirs, "dtype": None}
        cls.keras_only = {**common, **keras_only}

    def __init__(self, **keras: object) -> None:
        """Arguments that Keras has here are taken at Keras' default only."""
        known_arguments(type(self), keras, self.keras_only)

    @property
    def settings(self) -> LossSettings | None:
        """What the engine reads beside targets and outputs."""
        return LossSettings(**self.get_config())

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """The loss of a batch: `y_true` like `y_pred` (n, n_out), `sample_weight` (n,)."""
        return functional.loss(self, y_true, y_pred, sample_weight)

    def gradient(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """The gradient of the loss with respect to `y_pred`, (n, n_out)."""
        return functional.loss_gradient(self, y_true, y_pred, sample_weight)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Loss:
        """The loss that `get_config` described; a Keras configuration serves as well."""
        return cls(**known_arguments(cls, config, cls.keras_only))


def _smoothing(value: object) -> float:
    return check_real("label_smoothing", value, low=0, high=1)


@dataclass(frozen=True, init=False)
class MeanSquaredError(Loss):
    """Mean squared error: l_i is the mean of `(y_pred - y_true)^2` over the columns.

    >>> MeanSquaredError()([[0.0, 1.0]], [[0.5, 1.0]])
    0.125
    """


@dataclass(frozen=True, init=False)
class BinaryCrossentropy(Loss, axis=-1):
    """Binary crossentropy: l_i is the mean of `-y log p - (1 - y) log(1 - p)` over the columns.

    Parameters
    ----------
    from_logits : bool, default False
        Whether p is the sigmoid of what the model gives, and not that itself.
    label_smoothing : float in [0, 1], default 0
        y becomes `(1 - label_smoothing) y + label_smoothing / 2`.

    >>> round(BinaryCrossentropy()([[1.0]], [[0.5]]), 6)
    0.693147
    >>> round(BinaryCrossentropy(from_logits=True)([[1.0]], [[0.0]]), 6)
    0.693147
    """

    from_logits: bool
    label_smoothing: float

    def __init__(
        self, from_logits: bool = False, label_smoothing: float = 0.0, **keras: object
    ) -> None:
        super().__init__(**keras)
        self._set(
            from_logits=check_bool("from_logits", from_logits),
            label_smoothing=_smoothing(label_smoothing),
        )


@dataclass(frozen=True, init=False)
class CategoricalCrossentropy(Loss, axis=-1):
    """Categorical crossentropy: l_i is `-sum_k y_k log p_k`, p divided by its row sum first.

    Parameters
    ----------
    from_logits : bool, default False
        Whether p is the softmax of what the model gives, and not that itself.
    label_smoothing : float in [0, 1], default 0
        y becomes `(1 - label_smoothing) y + label_smoothing / n_out`.

    >>> round(CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]), 6)
    0.693147
    """

    from_logits: bool
    label_smoothing: float

    def __init__(
        self, from_logits: bool = False, label_smoothing: float = 0.0, **keras: object
    ) -> None:
        super().__init__(**keras)
        self._set(
            from_logits=check_bool("from_logits", from_logits),
            label_smoothing=_smoothing(label_smoothing),
        )


@dataclass(frozen=True, init=False)
class SparseCategoricalCrossentropy(Loss, ignore_class=None, axis=-1):
    """Categorical crossentropy with `y_true` given as class numbers, (n,) integers in [0, n_out).

    Parameters
    ----------
    from_logits : bool, default False
        Whether p is the softmax of what the model gives, and not that itself.

    >>> round(SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]), 6)
    0.693147
    """

    from_logits: bool

    def __init__(self, from_logits: bool = False, **keras: object) -> None:
        super().__init__(**keras)
        self._set(from_logits=check_bool("from_logits", from_logits))


@dataclass(frozen=True, init=False)
class MeanAbsoluteError(Loss):
    """Mean absolute error: l_i is the mean of `|y_pred - y_true|` over the columns.

    >>> MeanAbsoluteError()([[0.0, 1.0]], [[0.5, 1.0]])
    0.25
    """


@dataclass(frozen=True, init=False)
class MeanAbsolutePercentageError(Loss):
    """Mean absolute percentage error: the mean of `100 |p - y| / max(|y|, 1e-7)`.

    >>> MeanAbsolutePercentageError()([[2.0, 1.0]], [[1.0, 1.0]])
    25.0
    """


@dataclass(frozen=True, init=False)
class MeanSquaredLogarithmicError(Loss):
    """Mean squared logarithmic error: the mean of `(log(1 + p) - log(1 + y))^2`, both from 1e-7 up.

    >>> round(MeanSquaredLogarithmicError()([[0.0]], [[1.0]]), 4)
    0.4805
    """


@dataclass(frozen=True, init=False)
class LogCosh(Loss):
    """Logarithm of the hyperbolic cosine of the error: the mean of `log cosh(p - y)`.

    >>> round(LogCosh()([[0.0]], [[1.0]]), 4)
    0.4338
    """


@dataclass(frozen=True, init=False)
class Poisson(Loss):
    """Poisson loss: l_i is the mean of `p - y log(p + 1e-7)` over the columns, p >= 0.

    >>> Poisson()([[0.0]], [[2.0]])
    2.0
    """


@dataclass(frozen=True, init=False)
class KLDivergence(Loss, name="kl_divergence"):
    """Kullback-Leibler divergence: the sum of `y log(y / p)`, both clipped to [1e-7, 1].

    >>> round(KLDivergence()([[0.5, 0.5]], [[0.25, 0.75]]), 4)
    0.1438
    """


@dataclass(frozen=True, init=False)
class Hinge(Loss):
    """Hinge loss: l_i is the mean of `max(1 - y p, 0)`, y of -1 and 1, or 0 and 1.

    >>> Hinge()([[-1.0, 1.0]], [[0.5, 2.0]])
    0.75
    """


@dataclass(frozen=True, init=False)
class SquaredHinge(Loss):
    """Squared hinge loss: l_i is the mean of `max(1 - y p, 0)^2`, y of -1 and 1, or 0 and 1.

    >>> SquaredHinge()([[-1.0, 1.0]], [[0.5, 2.0]])
    1.125
    """


@dataclass(frozen=True, init=False)
class CategoricalHinge(Loss):
    """Categorical hinge loss: l_i is `max(1 + max((1 - y) p) - sum(y p), 0)`.

    >>> CategoricalHinge()([[0.0, 1.0]], [[0.5, 0.75]])
    0.75
    """


@dataclass(frozen=True, init=False)
class CosineSimilarity(Loss, axis=-1):
    """Minus the cosine of the angle between `y_true` and `y_pred`: -1 where they point alike.

    >>> CosineSimilarity()([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    -0.5
    """


@dataclass(frozen=True, init=False)
class Huber(Loss, keras_name="huber_loss"):
    """Huber loss: l_i is the mean of `e^2 / 2`, from |e| = delta on `delta |e| - delta^2 / 2`.

    Parameters
    ----------
    delta : float above 0, default 1
        The error e = y_pred - y_true from which on it grows as |e|.

    References
    ----------
    Huber (1964), Robust estimation of a location parameter.

    >>> Huber()([[0.0, 0.0]], [[0.5, 3.0]])
    1.3125
    """

    delta: float

    def __init__(self, delta: float = 1.0, **keras: object) -> None:
        super().__init__(**keras)
        self._set(delta=check_real("delta", delta, low=0, low_open=True))


@dataclass(frozen=True, init=False)
class Quantile(Loss):
    """Pinball loss: l_i is the mean of `q (y - p)` where p is below y, `(1 - q) (p - y)` above.

    It is least where p is the q-quantile of y; Keras does not have it.

    Parameters
    ----------
    quantile : float in (0, 1), default 0.5
        q; with 0.5 it is half the mean absolute error.

    References
    ----------
    Koenker and Bassett (1978), Regression quantiles.

    >>> Quantile(0.75)([[1.0, 1.0]], [[0.0, 2.0]])
    0.5
    """

    quantile: float

    def __init__(self, quantile: float = 0.5, **keras: object) -> None:
        super().__init__(**keras)
        checked = check_real("quantile", quantile, low=0, high=1, low_open=True, high_open=True)
        self._set(quantile=checked)


@dataclass(frozen=True, init=False)
class BinaryFocalCrossentropy(Loss, axis=-1):
    """Binary crossentropy of which rows that are right already count less.

    Each column's is multiplied by `(1 - p_t)^gamma`, where p_t is p for y = 1 and 1 - p for y = 0.

    Parameters
    ----------
    apply_class_balancing : bool, default False
        Whether y = 1 weighs alpha and y = 0 weighs 1 - alpha.
    alpha : float in [0, 1], default 0.25
    gamma : float, 0 or more, default 2
    from_logits, label_smoothing
        As in `BinaryCrossentropy`.

    References
    ----------
    Lin, Goyal, Girshick, He and Dollar (2017), Focal loss for dense object detection.

    >>> round(BinaryFocalCrossentropy()([[1.0]], [[0.5]]), 6)
    0.173287
    """

    apply_class_balancing: bool
    alpha: float
    gamma: float
    from_logits: bool
    label_smoothing: float

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        **keras: object,
    ) -> None:
        super().__init__(**keras)
        self._set(
            apply_class_balancing=check_bool("apply_class_balancing", apply_class_balancing),
            alpha=check_real("alpha", alpha, low=0, high=1),
            gamma=check_real("gamma", gamma, low=0),
            from_logits=check_bool("from_logits", from_logits),
            label_smoothing=_smoothing(label_smoothing),
        )


@dataclass(frozen=True, init=False)
class Custom(Loss):
    """An object of one's own with `value(y_true, y_pred)` and `gradient(y_true, y_pred)`.

    `get`, and so `compile`, makes one of such an object. It is asked once a batch, between the way
    forward and the way back, for the losses of the rows (n,) and the gradient of each by its
    outputs (n, n_out); weights and the mean over the batch are not its business. `y_true` comes as
    it was given, as an array of the model's dtype with at least two axes; neither can be written
    to. A file holds its name and what its `get_config` gives, and no code: see `load_model`.

    Examples
    --------
    >>> class Cubic:
    ...     def value(self, y_true, y_pred):
    ...         return np.sum(np.abs(y_pred - y_true) ** 3, axis=1)
    ...     def gradient(self, y_true, y_pred):
    ...         return 3 * (y_pred - y_true) * np.abs(y_pred - y_true)
    >>> get(Cubic())([[1.0]], [[3.0]])
    8.0
    """

    own: Any

    def __init__(self, own: Any) -> None:
        super().__init__()
        if not is_own(own):
            raise TypeError(
                f"own: got {own!r}; an object with value(y_true, y_pred) and "
                "gradient(y_true, y_pred) is needed"
            )
        self._set(own=own, name=type(own).__name__)

    def __repr__(self) -> str:
        return repr(self.own)

    @property
    def settings(self) -> None:
        """None: the engine knows nothing of it."""

    def rows(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """The loss of each row, (n,) float64."""
        found = self.own.value(read_only(y_true), read_only(y_pred))
        return check_answer(f"value of {self!r}", found, (len(y_pred),)).astype(np.float64)

    def slopes(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """The gradient of each row's loss by its outputs, (n, n_out) like `y_pred`."""
        found = self.own.gradient(read_only(y_true), read_only(y_pred))
        return check_answer(f"gradient of {self!r}", found, y_pred.shape).astype(y_pred.dtype)

    def total(self, y_pred: np.ndarray, y_true: np.ndarray, weight: np.ndarray | None) -> float:
        """The sum over rows of weight times loss."""
        rows = self.rows(y_true, y_pred)
        return float(rows.sum() if weight is None else rows @ weight)

    def step(
        self, y_pred: np.ndarray, y_true: np.ndarray, weight: np.ndarray | None
    ) -> tuple[float, np.ndarray]:
        """`total`, NaN where a gradient is not finite, and the gradient of its mean over rows."""
        total, dy = self.total(y_pred, y_true, weight), self.slopes(y_true, y_pred)
        if not np.isfinite(dy).all():
            return np.nan, dy
        dy *= 1 / len(dy) if weight is None else (weight / len(dy))[:, np.newaxis]
        return total, np.ascontiguousarray(dy)

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        p, w = np.asarray(y_pred), None if sample_weight is None else np.asarray(sample_weight)
        return self.total(p, np.asarray(y_true), w) / len(p)

    def gradient(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        weight = None if sample_weight is None else np.asarray(sample_weight)
        return self.step(np.asarray(y_pred), np.asarray(y_true), weight)[1]


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
        CategoricalHinge,
        CosineSimilarity,
        Huber,
        Quantile,
        BinaryFocalCrossentropy,
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
    wrapper=Custom,
)


def get(identifier: object) -> Loss:
    """The loss meant by a name, a configuration dictionary, a class or an instance.

    An object of another package or one's own with `value(y_true, y_pred)` and
    `gradient(y_true, y_pred)` becomes a `Custom`.

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
