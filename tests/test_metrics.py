"""Metrics: which accuracy is meant, names and refusals."""

from __future__ import annotations

import pytest

from fastreg import metrics
from fastreg.metrics import (
    AutoAccuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
)

ALL = [cls() for cls in metrics.REGISTRY.classes]
SPARSE = "sparse_categorical_crossentropy"


@pytest.mark.parametrize("name", ["accuracy", "acc", "Accuracy", "ACC"])
@pytest.mark.parametrize(
    ("loss", "y_shape", "n_out", "kind"),
    [
        ("binary_crossentropy", (8,), 1, "binary"),
        ("binary_crossentropy", (8, 1), 1, "binary"),
        ("mean_squared_error", (8, 1), 1, "binary"),
        ("binary_crossentropy", (8, 3), 3, "categorical"),
        ("mean_squared_error", (8, 3), 3, "categorical"),
        ("categorical_crossentropy", (8, 3), 3, "categorical"),
        (SPARSE, (8,), 3, "sparse_categorical"),
        (SPARSE, (8, 1), 3, "sparse_categorical"),
    ],
)
def test_accuracy_is_resolved_by_the_shapes(name, loss, y_shape, n_out, kind):
    assert metrics.resolve(name, loss, y_shape, n_out) == kind


@pytest.mark.parametrize(
    ("metric", "loss", "y_shape", "n_out", "kind"),
    [
        ("binary_accuracy", "binary_crossentropy", (8, 3), 3, "binary"),
        (BinaryAccuracy(), "mean_squared_error", (8, 3), 3, "binary"),
        ("categorical_accuracy", "categorical_crossentropy", (8, 3), 3, "categorical"),
        (SparseCategoricalAccuracy, SPARSE, (8,), 3, "sparse_categorical"),
    ],
)
def test_an_explicit_metric_is_what_it_says(metric, loss, y_shape, n_out, kind):
    assert metrics.resolve(metric, loss, y_shape, n_out) == kind


def test_names_are_kept_as_typed():
    assert metrics.get("acc").name == "acc"
    assert metrics.get("accuracy").name == "accuracy"
    assert metrics.get("BinaryAccuracy") == BinaryAccuracy("BinaryAccuracy")
    assert metrics.get("binary_accuracy") == BinaryAccuracy()
    assert BinaryAccuracy(name="right").name == "right"
    assert metrics.get(CategoricalAccuracy).name == "categorical_accuracy"


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_configuration_round_trip(metric):
    assert type(metric).from_config(metric.get_config()) == metric
    assert metrics.get(metrics.serialize(metric)) == metric
    assert eval(repr(metric), vars(metrics)) == metric
    assert hash(metric) == hash(type(metric)(metric.name))
    assert metrics.get(metric) is metric


def test_configuration_of_keras():
    keras = {"name": "right", "dtype": None, "threshold": 0.5}
    assert metrics.get({"class_name": "BinaryAccuracy", "config": keras}) == BinaryAccuracy("right")
    with pytest.raises(ValueError, match=r"threshold: got 0.4; BinaryAccuracy supports only 0.5"):
        BinaryAccuracy.from_config({"threshold": 0.4})


def test_refusals():
    with pytest.raises(ValueError, match=r"metric: got 'acuracy'; .*Did you mean 'accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(TypeError, match="metric: got None"):
        metrics.get(None)
    with pytest.raises(TypeError, match="name: got 3"):
        AutoAccuracy(3)
    with pytest.raises(ValueError, match=r"sparse_categorical_accuracy.*mean_squared_error"):
        metrics.resolve("sparse_categorical_accuracy", "mean_squared_error", (8, 3), 3)
    with pytest.raises(ValueError, match="binary_accuracy"):
        metrics.resolve("binary_accuracy", SPARSE, (8,), 3)
    with pytest.raises(ValueError, match="accuracy"):
        metrics.resolve("accuracy", SPARSE, (8,), 1)
