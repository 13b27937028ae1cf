"""Metrics: the share of rows predicted right, counted in the same pass as the loss.

"accuracy" (and "acc") stands for one of three, which Keras picks by the shapes of the targets and
the output; the explicit names are accepted too. As in Keras, sample weights do not touch a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastreg.errors import check_choice
from fastreg.inputs import SPARSE
from fastreg.serialization import Configurable, Registry


@dataclass(frozen=True)
class Metric(Configurable):
    """Base of the metrics.

    Attributes
    ----------
    name : str
        The key in `History.history` and in `evaluate(return_dict=True)`.
    kind : str or None
        "binary", "categorical" or "sparse_categorical"; None: the shapes say (see `resolve`).
    """

    name: str
    kind: ClassVar[str | None] = None
    keras_only: ClassVar[Mapping[str, object]] = {"dtype": None}

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name: got {self.name!r}; a non-empty string is needed")


@dataclass(frozen=True)
class BinaryAccuracy(Metric):
    """Share of outputs on the right side of 0.5; with several columns, their mean in each row.

    >>> BinaryAccuracy().kind
    'binary'
    """

    name: str = "binary_accuracy"
    kind = "binary"
    keras_only: ClassVar[Mapping[str, object]] = {"dtype": None, "threshold": 0.5}


@dataclass(frozen=True)
class CategoricalAccuracy(Metric):
    """Share of rows whose largest output stands where the largest target does (the first, if tied).

    >>> CategoricalAccuracy().kind
    'categorical'
    """

    name: str = "categorical_accuracy"
    kind = "categorical"


@dataclass(frozen=True)
class SparseCategoricalAccuracy(Metric):
    """Share of rows whose largest output stands at the class number in the targets.

    >>> SparseCategoricalAccuracy().kind
    'sparse_categorical'
    """

    name: str = "sparse_categorical_accuracy"
    kind = "sparse_categorical"


@dataclass(frozen=True)
class AutoAccuracy(Metric):
    """What the string "accuracy" means: one of the three accuracies, by the shapes.

    >>> get("acc")
    AutoAccuracy(name='acc')
    """

    name: str = "accuracy"


REGISTRY: Registry[Metric] = Registry(
    "metric",
    Metric,
    (AutoAccuracy, BinaryAccuracy, CategoricalAccuracy, SparseCategoricalAccuracy),
    aliases={"accuracy": AutoAccuracy, "acc": AutoAccuracy},
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
    >>> get("binary_accuracy")
    BinaryAccuracy(name='binary_accuracy')
    """
    if isinstance(identifier, str):
        return REGISTRY.find(identifier).from_config({"name": identifier})
    return REGISTRY.get(identifier)


def resolve(metric: object, loss_name: str, y_shape: Sequence[int], n_out: int) -> str:
    """Which accuracy `metric` counts for these targets, as Keras 3.15 resolves it.

    Keras looks at the shapes alone: one output column is "binary", targets with fewer columns than
    the output are "sparse_categorical", all else is "categorical" (also under binary_crossentropy
    with several columns: ask for "binary_accuracy" by name there).

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

    Returns
    -------
    str
        "binary", "categorical" or "sparse_categorical".

    Raises
    ------
    ValueError
        For an unknown metric, or one that cannot be counted on the targets of this loss.

    Examples
    --------
    >>> resolve("accuracy", "sparse_categorical_crossentropy", (32,), 10)
    'sparse_categorical'
    >>> resolve("accuracy", "binary_crossentropy", (32, 1), 1)
    'binary'
    """
    found = get(metric)
    kind = found.kind
    if kind is None:
        if n_out == 1:
            kind = "binary"
        elif len(y_shape) < 2 or y_shape[-1] == 1:
            kind = "sparse_categorical"
        else:
            kind = "categorical"
    fitting = ("sparse_categorical",) if loss_name == SPARSE else ("binary", "categorical")
    return check_choice(f"metric {found.name!r} with loss {loss_name!r}", kind, fitting)


def serialize(metric: Metric) -> dict[str, Any]:
    """The metric as `{"class_name", "config"}`.

    >>> serialize(BinaryAccuracy())
    {'class_name': 'BinaryAccuracy', 'config': {'name': 'binary_accuracy'}}
    """
    return REGISTRY.serialize(metric)


def deserialize(config: Mapping[str, Any]) -> Metric:
    """The metric that `serialize` wrote.

    >>> deserialize({"class_name": "BinaryAccuracy", "config": {"name": "right"}})
    BinaryAccuracy(name='right')
    """
    return REGISTRY.deserialize(config)
