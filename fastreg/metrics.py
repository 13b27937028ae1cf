"""Metrics: sums over the rows of a pass, and what they come to.

A metric is a frozen description; its sums stand in one float64 array (`start`, `add`, `result`), so
a pass can be interrupted and gone on with. In `fit` they are of the outputs of each step, before
its update, as in Keras. "accuracy" (and "acc") stands for one of three, which Keras picks by the
shapes of the targets and the output. The engine counts one unweighted accuracy in the pass itself;
all else is NumPy on the outputs that it hands over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg.errors import check_choice, check_int, check_real
from fastreg.inputs import SPARSE
from fastreg.serialization import Configurable, Registry, check_bool

Array = NDArray[Any]

EPSILON = 1e-7  # Keras'
_DTYPE: Mapping[str, object] = MappingProxyType({"dtype": None})


def _ratio(numerator: Any, denominator: Any) -> Array:
    """Their quotient, 0 where the denominator is."""
    shape = np.broadcast(numerator, denominator).shape
    quotient: Array = np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)
    return quotient


def _one_or_all(values: Any) -> Any:
    """A float where there is one value, else the array of them."""
    return float(np.ravel(values)[0]) if np.size(values) == 1 else values


class Metric(Configurable):
    """Base of the metrics.

    Attributes
    ----------
    name : str
        The key in `History.history` and in `evaluate(return_dict=True)`.
    kind : str or None
        "binary", "categorical" or "sparse_categorical", of an accuracy that the engine counts.
    takes_labels : bool or None
        Whether targets are class numbers; None: either.
    """

    name: str
    kind: ClassVar[str | None] = None
    takes_labels: ClassVar[bool | None] = False
    keras_only: ClassVar[Mapping[str, object]] = _DTYPE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name: got {self.name!r}; a non-empty string is needed")

    def get_config(self) -> dict[str, Any]:
        found = super().get_config()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}

    def start(self, n_out: int) -> Array:
        """The sums before any row, float64, for so many columns."""
        raise NotImplementedError

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        """Add rows to the sums: targets y (n, n_out) or labels (n,), outputs p (n, n_out)."""
        raise NotImplementedError

    def result(self, sums: Array) -> Any:
        """The metric of the rows that were added: a number, or an array of several."""
        raise NotImplementedError

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Any:
        """The metric of these rows: `y_true` as a model takes it, `y_pred` (n, n_out) or (n,).

        Raises
        ------
        ValueError
            For shapes that do not go together.
        """
        p = np.asarray(y_pred)
        p = p.reshape(len(p), -1) if p.ndim < 2 else p
        y = np.asarray(y_true)
        labels = self.takes_labels is True
        shape = (len(p),) if labels else p.shape
        if p.ndim != 2 or y.size != math.prod(shape):
            raise ValueError(f"y_true: got shape {y.shape}; {shape} is needed for y_pred {p.shape}")
        weight = None if sample_weight is None else np.asarray(sample_weight)
        if weight is not None and weight.shape != (len(p),):
            raise ValueError(f"sample_weight: got shape {weight.shape}; {(len(p),)} is needed")
        sums = self.start(p.shape[1])
        self.add(sums, y.reshape(shape), p, weight)
        return self.result(sums)


class RowMean(Metric):
    """Base of those that are the weighted mean of one number a row."""

    def rows(self, y: Array, p: Array) -> Array:
        """A number a row."""
        raise NotImplementedError

    def start(self, n_out: int) -> Array:
        return np.zeros(2)

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        rows = np.asarray(self.rows(y, p), np.float64)
        sums += (rows.sum(), len(rows)) if weight is None else (rows @ weight, weight.sum())

    def result(self, sums: Array) -> float:
        return float(sums[0] / sums[1]) if sums[1] else 0.0


@dataclass(frozen=True)
class BinaryAccuracy(RowMean):
    """Share of outputs on the right side of `threshold`; the mean of the columns of each row.

    >>> BinaryAccuracy()([[0.0], [1.0]], [[0.2], [0.4]])
    0.5
    """

    name: str = "binary_accuracy"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(threshold=check_real("threshold", self.threshold, low=0, high=1))

    @property
    def kind(self) -> str | None:  # type: ignore[override]
        return "binary" if self.threshold == 0.5 else None

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(((p > self.threshold) == y).mean(axis=1))


@dataclass(frozen=True)
class CategoricalAccuracy(RowMean):
    """Share of rows whose largest output stands where the largest target does (the first, if tied).

    >>> CategoricalAccuracy()([[0, 1], [1, 0]], [[0.2, 0.8], [0.1, 0.9]])
    0.5
    """

    name: str = "categorical_accuracy"
    kind = "categorical"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(y.argmax(axis=1) == p.argmax(axis=1))


@dataclass(frozen=True)
class SparseCategoricalAccuracy(RowMean):
    """Share of rows whose largest output stands at the class number in the targets.

    >>> SparseCategoricalAccuracy()([1, 0], [[0.2, 0.8], [0.1, 0.9]])
    0.5
    """

    name: str = "sparse_categorical_accuracy"
    kind = "sparse_categorical"
    takes_labels = True

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(y == p.argmax(axis=1))


def _in_top(labels: Array, p: Array, k: int) -> Array:
    """Whether fewer than k outputs are above that of the label (ties count as in, as in Keras)."""
    own = np.take_along_axis(p, labels.astype(np.intp)[:, None], axis=1)
    return np.asarray((p > own).sum(axis=1) < k)


@dataclass(frozen=True)
class TopKCategoricalAccuracy(RowMean):
    """Share of rows whose largest target stands at one of the `k` largest outputs.

    >>> TopKCategoricalAccuracy(k=2)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.5, 0.1, 0.9]])
    0.5
    """

    k: int = 5
    name: str = "top_k_categorical_accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(k=check_int("k", self.k, low=1))

    def rows(self, y: Array, p: Array) -> Array:
        return _in_top(y.argmax(axis=1), p, self.k)


@dataclass(frozen=True)
class SparseTopKCategoricalAccuracy(TopKCategoricalAccuracy):
    """Share of rows whose class number is that of one of the `k` largest outputs.

    >>> SparseTopKCategoricalAccuracy(k=2)([2, 1], [[0.1, 0.9, 0.8], [0.5, 0.1, 0.9]])
    0.5
    """

    name: str = "sparse_top_k_categorical_accuracy"
    takes_labels = True
    keras_only = MappingProxyType({"dtype": None, "from_sorted_ids": False})

    def rows(self, y: Array, p: Array) -> Array:
        return _in_top(y, p, self.k)


@dataclass(frozen=True)
class MeanSquaredError(RowMean):
    """Mean of `(p - y)^2`.

    >>> MeanSquaredError()([0.0, 0.0], [1.0, 2.0])
    2.5
    """

    name: str = "mean_squared_error"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(np.square(p - y).mean(axis=1))


@dataclass(frozen=True)
class RootMeanSquaredError(MeanSquaredError):
    """Root of the mean of `(p - y)^2` over all rows.

    >>> RootMeanSquaredError()([0.0, 0.0], [3.0, 3.0])
    3.0
    """

    name: str = "root_mean_squared_error"

    def result(self, sums: Array) -> float:
        return math.sqrt(super().result(sums))


@dataclass(frozen=True)
class MeanAbsoluteError(RowMean):
    """Mean of `|p - y|`.

    >>> MeanAbsoluteError()([0.0, 0.0], [1.0, 2.0])
    1.5
    """

    name: str = "mean_absolute_error"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(np.abs(p - y).mean(axis=1))


@dataclass(frozen=True)
class MeanAbsolutePercentageError(RowMean):
    """100 times the mean of `|p - y| / max(|y|, 1e-7)`.

    >>> MeanAbsolutePercentageError()([1.0, 2.0], [2.0, 2.0])
    50.0
    """

    name: str = "mean_absolute_percentage_error"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(100 * (np.abs(p - y) / np.maximum(np.abs(y), EPSILON)).mean(axis=1))


@dataclass(frozen=True)
class MeanSquaredLogarithmicError(RowMean):
    """Mean of `(log(p + 1) - log(y + 1))^2`, both at least 1e-7.

    >>> round(MeanSquaredLogarithmicError()([0.0, 0.0], [1.0, 1.0]), 4)
    0.4805
    """

    name: str = "mean_squared_logarithmic_error"

    def rows(self, y: Array, p: Array) -> Array:
        apart = np.log1p(np.maximum(p, EPSILON)) - np.log1p(np.maximum(y, EPSILON))
        return np.asarray(np.square(apart).mean(axis=1))


@dataclass(frozen=True)
class CosineSimilarity(RowMean):
    """Mean over rows of the cosine of the angle between targets and outputs.

    >>> CosineSimilarity()([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]])
    0.5
    """

    name: str = "cosine_similarity"
    keras_only = MappingProxyType({"dtype": None, "axis": -1})

    def rows(self, y: Array, p: Array) -> Array:
        y, p = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (y, p))
        return np.asarray((y * p).sum(axis=1))


def _signs(y: Array) -> Array:
    """Targets as -1 and 1; those of a batch that are 0 and 1 throughout are meant so."""
    return np.asarray(2 * y - 1 if np.isin(y, (0, 1)).all() else y)


@dataclass(frozen=True)
class Hinge(RowMean):
    """Mean of `max(1 - y p, 0)` for targets of -1 and 1 (or 0 and 1).

    >>> Hinge()([-1.0, 1.0], [0.5, 0.5])
    1.0
    """

    name: str = "hinge"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(np.maximum(1 - _signs(y) * p, 0).mean(axis=1))


@dataclass(frozen=True)
class SquaredHinge(RowMean):
    """Mean of `max(1 - y p, 0)^2` for targets of -1 and 1 (or 0 and 1).

    >>> SquaredHinge()([-1.0, 1.0], [0.5, 0.5])
    1.25
    """

    name: str = "squared_hinge"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(np.square(np.maximum(1 - _signs(y) * p, 0)).mean(axis=1))


@dataclass(frozen=True)
class CategoricalHinge(RowMean):
    """Mean over rows of `max(largest wrong output - right output + 1, 0)`, targets one-hot.

    >>> CategoricalHinge()([[0.0, 1.0], [1.0, 0.0]], [[0.5, 1.0], [0.0, 1.0]])
    1.25
    """

    name: str = "categorical_hinge"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray(np.maximum(((1 - y) * p).max(axis=1) - (y * p).sum(axis=1) + 1, 0))


@dataclass(frozen=True)
class KLDivergence(RowMean):
    """Mean over rows of the sum of `y log(y / p)`, both clipped to [1e-7, 1].

    >>> round(KLDivergence()([[1.0, 0.0]], [[0.5, 0.5]]), 4)
    0.6931
    """

    name: str = "kl_divergence"

    def rows(self, y: Array, p: Array) -> Array:
        y, p = np.clip(y, EPSILON, 1), np.clip(p, EPSILON, 1)
        return np.asarray((y * np.log(y / p)).sum(axis=1))


@dataclass(frozen=True)
class LogCoshError(RowMean):
    """Mean of `log(cosh(p - y))`.

    >>> round(LogCoshError()([0.0, 0.0], [1.0, 0.0]), 4)
    0.2169
    """

    name: str = "logcosh"

    def rows(self, y: Array, p: Array) -> Array:
        apart = np.abs(p - y)
        return np.asarray((apart + np.log1p(np.exp(-2 * apart)) - math.log(2)).mean(axis=1))


@dataclass(frozen=True)
class Poisson(RowMean):
    """Mean of `p - y log(p + 1e-7)`.

    >>> round(Poisson()([1.0, 0.0], [2.0, 2.0]), 4)
    1.6534
    """

    name: str = "poisson"

    def rows(self, y: Array, p: Array) -> Array:
        return np.asarray((p - y * np.log(p + EPSILON)).mean(axis=1))


class _Crossentropy(RowMean):
    from_logits: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(from_logits=check_bool("from_logits", self.from_logits))

    def _log_shares(self, p: Array) -> Array:
        """log of the share of each class; clipped as Keras does, where p are no logits."""
        if self.from_logits:
            from scipy.special import softmax  # a third of what importing fastreg would cost

            return np.asarray(np.log(np.maximum(softmax(p, axis=1), np.finfo(p.dtype).tiny)))
        shares = p / p.sum(axis=1, keepdims=True)
        return np.asarray(np.log(np.clip(shares, EPSILON, 1 - EPSILON)))


@dataclass(frozen=True)
class BinaryCrossentropy(_Crossentropy):
    """Mean of `-y log p - (1 - y) log(1 - p)`, p clipped to [1e-7, 1 - 1e-7].

    >>> round(BinaryCrossentropy()([1.0, 0.0], [0.5, 0.5]), 4)
    0.6931
    """

    name: str = "binary_crossentropy"
    from_logits: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(label_smoothing=_smoothing(self.label_smoothing))

    def rows(self, y: Array, p: Array) -> Array:
        y = y * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            return np.asarray((np.logaddexp(0, p) - y * p).mean(axis=1))
        p = np.clip(p, EPSILON, 1 - EPSILON)
        return np.asarray(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean(axis=1))


@dataclass(frozen=True)
class CategoricalCrossentropy(_Crossentropy):
    """Mean over rows of `-sum y log p`, p divided by its sum in the row.

    >>> round(CategoricalCrossentropy()([[0.0, 1.0]], [[0.5, 0.5]]), 4)
    0.6931
    """

    name: str = "categorical_crossentropy"
    from_logits: bool = False
    label_smoothing: float = 0.0
    keras_only = MappingProxyType({"dtype": None, "axis": -1})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(label_smoothing=_smoothing(self.label_smoothing))

    def rows(self, y: Array, p: Array) -> Array:
        y = y * (1 - self.label_smoothing) + self.label_smoothing / p.shape[1]
        return np.asarray(-(y * self._log_shares(p)).sum(axis=1))


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(_Crossentropy):
    """`CategoricalCrossentropy` with class numbers as targets.

    >>> round(SparseCategoricalCrossentropy()([1], [[0.5, 0.5]]), 4)
    0.6931
    """

    name: str = "sparse_categorical_crossentropy"
    from_logits: bool = False
    takes_labels = True
    keras_only = MappingProxyType({"dtype": None, "axis": -1, "ignore_class": None})

    def rows(self, y: Array, p: Array) -> Array:
        at = y.astype(np.intp)[:, None]
        return np.asarray(-np.take_along_axis(self._log_shares(p), at, axis=1)[:, 0])


def _smoothing(value: object) -> float:
    return float(check_real("label_smoothing", value, low=0, high=1))


def _reals(argument: str, values: Any, high: float = math.inf) -> tuple[float, ...]:
    """A list of numbers in [0, high], at least one."""
    if not isinstance(values, list | tuple | np.ndarray) or not len(values):
        raise TypeError(f"{argument}: got {values!r}; a list of numbers is needed")
    return tuple(check_real(argument, value, low=0, high=high) for value in values)


@dataclass(frozen=True)
class R2Score(Metric):
    """Coefficient of determination, 1 - sum (y - p)^2 / sum (y - mean y)^2 of each column.

    `class_aggregation` None gives an array of a value a column, and a number for one column.

    >>> R2Score()([1.0, 2.0, 3.0], [1.0, 2.0, 2.0])
    0.5
    """

    class_aggregation: str | None = "uniform_average"
    num_regressors: int = 0
    name: str = "r2_score"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_aggregation is not None:
            allowed = ("uniform_average", "variance_weighted_average")
            check_choice("class_aggregation", self.class_aggregation, allowed)
        self._set(num_regressors=check_int("num_regressors", self.num_regressors, low=0))

    def start(self, n_out: int) -> Array:
        """Of the columns: sum of y, of y^2, of (y - p)^2, of weights; and how many y."""
        return np.zeros((5, n_out))

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        w = np.ones(len(y)) if weight is None else weight.astype(np.float64)
        y = y.astype(np.float64)
        sums[0] += w @ y
        sums[1] += w @ (y * y)
        sums[2] += w @ np.square(y - p)
        sums[3] += w.sum()
        sums[4] += y.size  # the size of a sample of num_regressors, as Keras counts it

    def result(self, sums: Array) -> Any:
        total = sums[1] - sums[0] * sums[0] / sums[3]
        with np.errstate(divide="ignore", invalid="ignore"):
            each = 1 - sums[2] / total
        each = np.where(np.isinf(each), 0, each)
        if self.class_aggregation == "uniform_average":
            score = each.mean()
        elif self.class_aggregation == "variance_weighted_average":
            score = (total * each).sum() / total.sum()
        else:
            score = each
        free = sums[4, 0] - self.num_regressors - 1
        if not self.num_regressors or free <= 0:  # Keras warns and leaves it so, too
            return _one_or_all(score)
        return _one_or_all(1 - (1 - score) * (sums[4, 0] - 1) / free)


@dataclass(frozen=True)
class AUC(Metric):
    """Area under the ROC, precision-recall or gain curve, from `num_thresholds` thresholds.

    Parameters
    ----------
    num_thresholds : int, default 200
    curve : "ROC", "PR" or "PRGAIN", default "ROC"
        The last is that of Flach and Kull (2015), Precision-recall-gain curves.
    summation_method : "interpolation", "minoring" or "majoring"
    name : str
    thresholds : sequence of float in [0, 1], optional
        In place of `num_thresholds` even ones.
    multi_label : bool, default False
        Whether each column has a curve, of whose areas the mean is taken. Otherwise all columns
        count as one list of binary outputs.
    num_labels : int, optional
        The columns that there must be, with multi_label.
    label_weights : sequence of float, 0 or more, optional
        The weights of the columns: of their areas in the mean with multi_label, of their outputs
        without.
    from_logits : bool, default False
        Whether the outputs are what a sigmoid is still to be taken of.

    >>> AUC()([0, 0, 1, 1], [0.0, 0.5, 0.3, 0.9])
    0.75
    >>> y, p = [[0, 1], [1, 0], [1, 1]], [[0.2, 0.1], [0.7, 0.9], [0.8, 0.5]]
    >>> AUC(multi_label=True)(y, p), AUC(multi_label=True, label_weights=[3, 1])(y, p)
    (0.5, 0.75)
    """

    num_thresholds: int = 200
    curve: str = "ROC"
    summation_method: str = "interpolation"
    name: str = "auc"
    thresholds: Sequence[float] | None = None
    multi_label: bool = False
    num_labels: int | None = None
    label_weights: Sequence[float] | None = None
    from_logits: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("curve", self.curve, ("ROC", "PR", "PRGAIN"))
        methods = ("interpolation", "minoring", "majoring")
        check_choice("summation_method", self.summation_method, methods)
        self._set(
            from_logits=check_bool("from_logits", self.from_logits),
            multi_label=check_bool("multi_label", self.multi_label),
        )
        count = check_int("num_thresholds", self.num_thresholds, low=2)
        if self.thresholds is not None:
            inner = sorted(_reals("thresholds", self.thresholds, high=1))
            self._set(thresholds=tuple(inner))
            count = len(inner) + 2
        self._set(num_thresholds=count)
        if self.num_labels is not None:
            if not self.multi_label:
                raise ValueError(
                    f"num_labels: got {self.num_labels!r}; None is needed without multi_label"
                )
            self._set(num_labels=check_int("num_labels", self.num_labels, low=1))
        if self.label_weights is not None:
            self._set(label_weights=_reals("label_weights", self.label_weights))

    def _inner(self) -> Array:
        if self.thresholds is not None:
            return np.array(self.thresholds)
        return np.arange(1, self.num_thresholds - 1) / (self.num_thresholds - 1)

    def start(self, n_out: int) -> Array:
        """Weights of negative and of positive targets between two thresholds, a column a curve."""
        if self.num_labels not in (None, n_out):
            raise ValueError(f"num_labels: got {self.num_labels}; {n_out} columns are measured")
        if self.label_weights is not None and len(self.label_weights) != n_out:
            raise ValueError(
                f"label_weights: got {len(self.label_weights)}; {n_out} columns are measured"
            )
        return np.zeros((2, self.num_thresholds, n_out if self.multi_label else 1))

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        w = np.ones(p.shape)
        if weight is not None:
            w *= weight[:, np.newaxis]
        if self.label_weights is not None and not self.multi_label:
            w *= self.label_weights
        if self.from_logits:
            from scipy.special import expit  # as softmax above

            p = expit(p)
        y = y.astype(bool)
        at = np.searchsorted(self._inner().astype(p.dtype), p, side="left")
        n_curves = sums.shape[2]
        cell = at * n_curves + np.arange(p.shape[1]) % n_curves
        for label in (0, 1):
            mine = y == label
            sums[label].flat += np.bincount(cell[mine], w[mine], sums[label].size)

    def result(self, sums: Array) -> float:
        areas = self._areas(sums)
        if self.label_weights is None or not self.multi_label:
            return float(areas.mean())
        weights = np.array(self.label_weights)
        return float(_ratio(areas @ weights, weights.sum()))

    def _areas(self, sums: Array) -> Array:
        """That under each curve."""
        fp, tp = (sums[:, ::-1].cumsum(axis=1))[:, ::-1]  # above each threshold
        negative, positive = sums.sum(axis=1)
        recall = _ratio(tp, positive)
        if self.curve == "PR" and self.summation_method == "interpolation":
            return self._interpolated(tp, fp, positive)
        if self.curve == "ROC":
            x, h = _ratio(fp, negative), recall
        elif self.curve == "PR":
            x, h = recall, _ratio(tp, tp + fp)
        else:
            odds = _ratio(positive, negative)
            gain = 1 - odds * _ratio(positive - tp, tp)
            x = np.where(tp == 0, 0, np.maximum(gain, 0))
            h = np.where(tp == 0, 1, 1 - odds * _ratio(fp, tp))
        heights = {
            "interpolation": (h[:-1] + h[1:]) / 2,
            "minoring": np.minimum(h[:-1], h[1:]),
            "majoring": np.maximum(h[:-1], h[1:]),
        }[self.summation_method]
        return np.asarray(((x[:-1] - x[1:]) * heights).sum(axis=0))

    @staticmethod
    def _interpolated(tp: Array, fp: Array, positive: Array) -> Array:
        """Davis & Goadrich 2006: true positives are linear in the false ones between thresholds."""
        p = tp + fp
        slope = _ratio(tp[:-1] - tp[1:], p[:-1] - p[1:])
        intercept = tp[1:] - slope * p[1:]
        both = (p[:-1] > 0) & (p[1:] > 0)
        ratio = np.where(both, _ratio(p[:-1], p[1:]), 1)
        area = slope * (tp[:-1] - tp[1:] + intercept * np.log(ratio))
        return np.asarray(_ratio(area, positive).sum(axis=0))


@dataclass(frozen=True)
class _Positives(Metric):
    """Base of precision and recall: sums of true positives, false positives and false negatives."""

    thresholds: float | Sequence[float] | None = None
    top_k: int | None = None
    class_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.thresholds, list | tuple | np.ndarray) and np.ndim(self.thresholds):
            self._set(thresholds=_reals("thresholds", self.thresholds, high=1))
        elif self.thresholds is not None:
            self._set(thresholds=check_real("thresholds", self.thresholds, low=0, high=1))
        if self.top_k is not None:
            self._set(top_k=check_int("top_k", self.top_k, low=1))
        if self.class_id is not None:
            self._set(class_id=check_int("class_id", self.class_id, low=0))

    def start(self, n_out: int) -> Array:
        """Of the three, a column a threshold."""
        if self.class_id is not None:
            check_int("class_id", self.class_id, low=0, high=n_out - 1)
        if self.top_k is not None:
            check_int("top_k", self.top_k, low=1, high=n_out)
        given = self.thresholds
        return np.zeros((3, len(given) if isinstance(given, tuple) else 1))

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        thresholds: Any = self.thresholds
        if thresholds is None:
            thresholds = 0.5 if self.top_k is None else -np.inf
        true, within = y.astype(bool), np.ones(p.shape, bool)
        if self.top_k is not None:  # the first ones, if tied
            top = np.argsort(-p, axis=1, kind="stable")[:, : self.top_k]
            within[:] = False
            np.put_along_axis(within, top, True, axis=1)
        if self.class_id is not None:
            p, true, within = (each[:, [self.class_id]] for each in (p, true, within))
        w = np.ones(len(p)) if weight is None else weight
        for column, threshold in enumerate(np.atleast_1d(thresholds).astype(p.dtype)):
            said = (p > threshold) & within
            for row, cells in enumerate((said & true, said & ~true, ~said & true)):
                sums[row, column] += w @ cells.sum(axis=1)


@dataclass(frozen=True)
class Precision(_Positives):
    """Share of true positives among what is above the threshold (None: 0.5); 0 if nothing is.

    Several `thresholds` have a result each. With `top_k` only the largest outputs of a row count as
    positive (above thresholds, if given), with `class_id` only that column counts.

    >>> Precision()([0, 1, 1, 1], [1.0, 0.0, 1.0, 1.0])
    0.6666666666666666
    >>> Precision([0.2, 0.6])([0, 1, 1], [0.3, 0.5, 0.7])
    array([0.66666667, 1.        ])
    """

    name: str = "precision"

    def result(self, sums: Array) -> Any:
        return _one_or_all(_ratio(sums[0], sums[0] + sums[1]))


@dataclass(frozen=True)
class Recall(_Positives):
    """Share of the positive targets whose output is above the threshold (None: 0.5).

    `thresholds`, `top_k` and `class_id` are as in `Precision`.

    >>> Recall()([0, 1, 1, 1], [1.0, 0.0, 1.0, 1.0])
    0.6666666666666666
    """

    name: str = "recall"

    def result(self, sums: Array) -> Any:
        return _one_or_all(_ratio(sums[0], sums[0] + sums[2]))


@dataclass(frozen=True)
class FBetaScore(Metric):
    """Harmonic mean of precision and recall, recall weighing `beta` times as much.

    `threshold` None takes the largest output of a row as its class. `average` None gives an array
    of a value a class, and a number for one column.

    >>> round(FBetaScore("macro", 1.0, 0.5)([[1, 0], [0, 1]], [[0.9, 0.1], [0.8, 0.7]]), 4)
    0.8333
    """

    average: str | None = None
    beta: float = 1.0
    threshold: float | None = None
    name: str = "fbeta_score"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average is not None:
            check_choice("average", self.average, ("micro", "macro", "weighted"))
        self._set(beta=check_real("beta", self.beta, low=0, low_open=True))
        if self.threshold is not None:
            self._set(threshold=check_real("threshold", self.threshold, low=0, high=1))

    def start(self, n_out: int) -> Array:
        """Of the classes: true positives, false positives, false negatives, positive targets."""
        return np.zeros((4, n_out))

    def add(self, sums: Array, y: Array, p: Array, weight: Array | None) -> None:
        if self.threshold is None:
            said = (p >= p.max(axis=1, keepdims=True)) & (np.abs(p) > 1e-9)
        else:
            said = p > self.threshold
        said, y = said.astype(np.float64), y.astype(np.float64)
        w = np.ones(len(p)) if weight is None else weight
        for i, cells in enumerate((said * y, said * (1 - y), (1 - said) * y, y)):
            sums[i] += w @ cells

    def result(self, sums: Array) -> Any:
        tp, fp, fn, positive = sums.sum(axis=1) if self.average == "micro" else sums
        precision, recall = tp / (tp + fp + EPSILON), tp / (tp + fn + EPSILON)
        square = self.beta**2
        scores = precision * recall * (1 + square) / (square * precision + recall + EPSILON)
        if self.average == "macro":
            return float(scores.mean())
        if self.average == "weighted":
            return float((scores * positive / (positive.sum() + EPSILON)).sum())
        return _one_or_all(scores)


@dataclass(frozen=True)
class F1Score(FBetaScore):
    """`FBetaScore` with beta 1.

    >>> round(F1Score("micro", 0.5)([[1, 0], [0, 1]], [[0.9, 0.1], [0.8, 0.7]]), 4)
    0.8
    """

    beta: float = field(default=1.0, init=False, repr=False)
    name: str = "f1_score"


@dataclass(frozen=True)
class AutoAccuracy(Metric):
    """What the string "accuracy" means: one of the three accuracies, by the shapes.

    >>> get("acc")
    AutoAccuracy(name='acc')
    """

    name: str = "accuracy"
    takes_labels = None
    of_kind: ClassVar[Mapping[str, type[Any]]] = MappingProxyType(
        {
            "binary": BinaryAccuracy,
            "categorical": CategoricalAccuracy,
            "sparse_categorical": SparseCategoricalAccuracy,
        }
    )


REGISTRY: Registry[Metric] = Registry(
    "metric",
    Metric,
    (
        AutoAccuracy,
        BinaryAccuracy,
        CategoricalAccuracy,
        SparseCategoricalAccuracy,
        TopKCategoricalAccuracy,
        SparseTopKCategoricalAccuracy,
        MeanSquaredError,
        RootMeanSquaredError,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
        MeanSquaredLogarithmicError,
        CosineSimilarity,
        Hinge,
        SquaredHinge,
        CategoricalHinge,
        KLDivergence,
        LogCoshError,
        Poisson,
        BinaryCrossentropy,
        CategoricalCrossentropy,
        SparseCategoricalCrossentropy,
        R2Score,
        AUC,
        Precision,
        Recall,
        FBetaScore,
        F1Score,
    ),
    aliases={
        "accuracy": AutoAccuracy,
        "acc": AutoAccuracy,
        "mse": MeanSquaredError,
        "mae": MeanAbsoluteError,
        "mape": MeanAbsolutePercentageError,
        "msle": MeanSquaredLogarithmicError,
        "bce": BinaryCrossentropy,
    },
)


def get(identifier: object) -> Metric:
    """The metric meant by a name, a configuration dictionary, a class or an instance.

    A name is kept as it was typed, as Keras does: it is the key under which the value is reported.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("auc").name, get("mae")
    ('auc', MeanAbsoluteError(name='mae'))
    """
    if isinstance(identifier, str):
        return REGISTRY.find(identifier).from_config({"name": identifier})
    return REGISTRY.get(identifier)


def meant(metric: object, loss_name: str, y_shape: Sequence[int], n_out: int) -> Metric:
    """The metric that is computed on these targets, as Keras 3.15 resolves it.

    For "accuracy" Keras looks at the shapes alone: one output column is binary,
    targets with fewer columns than the output are sparse categorical, all else is categorical (also
    under binary_crossentropy with several columns: ask for "binary_accuracy" by name there).

    Parameters
    ----------
    metric : str or Metric
        Anything `get` understands.
    loss_name : str
        The model's loss: only sparse_categorical_crossentropy has class numbers as targets.
    y_shape : sequence of int
        Shape of the targets, (n,), (n, 1) or (n, n_out).
    n_out : int
        Columns of the model's output.

    Raises
    ------
    ValueError
        For an unknown metric, or one that cannot be computed on the targets of this loss.

    Examples
    --------
    >>> meant("accuracy", "sparse_categorical_crossentropy", (32,), 10)
    SparseCategoricalAccuracy(name='accuracy')
    >>> meant("accuracy", "binary_crossentropy", (32, 1), 1)
    BinaryAccuracy(name='accuracy', threshold=0.5)
    """
    found = get(metric)
    if isinstance(found, AutoAccuracy):
        if n_out == 1:
            kind = "binary"
        elif len(y_shape) < 2 or y_shape[-1] == 1:
            kind = "sparse_categorical"
        else:
            kind = "categorical"
        found = found.of_kind[kind](name=found.name)
    if found.takes_labels != (loss_name == SPARSE):
        fitting = [
            c.__name__ for c in REGISTRY.classes if c.takes_labels in (None, not found.takes_labels)
        ]
        raise ValueError(
            f"metric {found.name!r} with loss {loss_name!r}: got {type(found).__name__}, whose "
            f"targets are {'class numbers' if found.takes_labels else 'a number a column'}; "
            f"one of {', '.join(fitting)} is needed"
        )
    found.start(n_out)
    return found


def serialize(metric: Metric) -> dict[str, Any]:
    """The metric as `{"class_name", "config"}`.

    >>> serialize(MeanSquaredError())
    {'class_name': 'MeanSquaredError', 'config': {'name': 'mean_squared_error'}}
    """
    return REGISTRY.serialize(metric)


def deserialize(config: Mapping[str, Any]) -> Metric:
    """The metric that `serialize` wrote.

    >>> deserialize({"class_name": "BinaryAccuracy", "config": {"name": "right"}})
    BinaryAccuracy(name='right', threshold=0.5)
    """
    return REGISTRY.deserialize(config)
