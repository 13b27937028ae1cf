"""Metrics beside the installed Keras: values, configurations, and what a fit reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden import peers

import fastreg
from fastreg import interchange, metrics

keras = peers.keras_in_float64()

SEED = 5
FACES = [cls for cls in metrics.REGISTRY.classes if cls is not metrics.AutoAccuracy]


def _theirs(metric):
    return getattr(keras.metrics, type(metric).__name__).from_config(metric.get_config())


OTHERS = [
    metrics.BinaryAccuracy(threshold=0.3),
    metrics.TopKCategoricalAccuracy(k=2),
    metrics.SparseTopKCategoricalAccuracy(k=2),
    metrics.BinaryCrossentropy(label_smoothing=0.2),
    metrics.CategoricalCrossentropy(label_smoothing=0.2),
    metrics.R2Score("variance_weighted_average"),
    metrics.R2Score(num_regressors=3),
    metrics.R2Score(None),
    metrics.R2Score(None, num_regressors=2),
    metrics.AUC(curve="PR"),
    metrics.AUC(curve="PR", summation_method="majoring"),
    metrics.AUC(50, summation_method="minoring"),
    metrics.AUC(thresholds=(0.2, 0.5, 0.7)),
    metrics.AUC(thresholds=[0.25, 0.5, 0.75]),
    metrics.AUC(label_weights=[1.0, 0.5, 0.0, 2.0]),
    *(
        metrics.AUC(40, curve, method, multi_label=True, label_weights=weights)
        for curve in ("ROC", "PR", "PRGAIN")
        for method in ("interpolation", "minoring", "majoring")
        for weights in (None, [1.0, 0.5, 0.0, 2.0])
    ),
    metrics.AUC(thresholds=[0.1, 0.4, 0.7], multi_label=True, num_labels=4),
    metrics.AUC(multi_label=True, from_logits=True),
    metrics.AUC(curve="PRGAIN"),
    metrics.Precision([0.1, 0.3, 0.5, 0.9]),
    metrics.Recall([0.1, 0.3, 0.5, 0.9]),
    metrics.Precision([0.3]),
    metrics.Precision([0.2, 0.4], top_k=2),
    metrics.Recall([0.2, 0.4], class_id=3),
    metrics.Recall([0.2, 0.4], top_k=2, class_id=0),
    metrics.Precision(0.3),
    metrics.Recall(0.3),
    metrics.Precision(top_k=2),
    metrics.Recall(top_k=2, class_id=1),
    metrics.Precision(class_id=2),
    *(
        metrics.FBetaScore(a, 2.0, t)
        for a in ("micro", "macro", "weighted", None)
        for t in (None, 0.3)
    ),
    metrics.F1Score("macro"),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", [*(cls() for cls in FACES), *OTHERS], ids=repr)
def test_values_over_batches(metric, weighted):
    rng = np.random.default_rng(SEED)
    n, n_out = 57, 4
    p = rng.dirichlet(np.ones(n_out), n).astype(np.float32)
    labels = rng.integers(n_out, size=n)
    y = labels if metric.takes_labels else np.eye(n_out, dtype=np.float32)[labels]
    if isinstance(metric, metrics.R2Score):
        y = rng.normal(size=(n, n_out)).astype(np.float32)
    theirs, sums = _theirs(metric), metric.start(n_out)
    for rows in (slice(0, 20), slice(20, 21), slice(21, n)):
        w = rng.uniform(0, 2, len(p[rows])).astype(np.float32) if weighted else None
        theirs.update_state(y[rows], p[rows], sample_weight=w)
        metric.add(sums, y[rows], p[rows], w)
    expected = np.asarray(theirs.result())
    np.testing.assert_allclose(metric.result(sums), expected, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("metric", OTHERS, ids=repr)
def test_configurations_go_to_keras_and_back(metric):
    config = json.loads(json.dumps(metric.get_config()))
    theirs = getattr(keras.metrics, type(metric).__name__).from_config(config).get_config()
    if isinstance(metric, metrics.F1Score):
        theirs.pop("beta", None)
    theirs = interchange._plain(keras.saving.serialize_keras_object(theirs))
    assert type(metric).from_config(theirs | {"dtype": None}) == metric


@pytest.mark.parametrize("cls", FACES, ids=lambda cls: cls.__name__)
def test_configuration_of_keras_is_understood(cls):
    theirs = getattr(keras.metrics, cls.__name__)(name="mine")
    config = json.loads(json.dumps(theirs.get_config())) | {"dtype": None}
    if cls is metrics.F1Score:
        config.pop("beta", None)
    assert cls.from_config(config) == cls(name="mine")


@pytest.mark.parametrize("name", ["mse", "mae", "mape", "msle", "bce", "acc", "auc", "f1_score"])
def test_words(name):
    from keras.src.trainers.compile_utils import get_metric

    theirs = get_metric(name, np.zeros((8, 1)), np.zeros((8, 1)))
    assert metrics.get(name).name == theirs.name


MODELS = {
    "several": (
        "sigmoid",
        3,
        "binary_crossentropy",
        [
            metrics.AUC(multi_label=True, label_weights=[1.0, 2.0, 3.0]),
            metrics.Precision([0.3, 0.5, 0.7]),
            metrics.Recall([0.3, 0.5], class_id=1),
            metrics.FBetaScore(beta=2.0),
        ],
        [
            metrics.Precision([0.3, 0.5], top_k=2, name="wp"),
            metrics.F1Score(threshold=0.5, name="wf"),
            metrics.AUC(curve="PRGAIN", name="wa"),
        ],
    ),
    "sigmoid": (
        "sigmoid",
        1,
        "binary_crossentropy",
        ["accuracy", "auc", "precision", "recall", "mse", "mae", "bce"],
        [metrics.AUC(curve="PR", name="pr"), metrics.BinaryAccuracy(name="wa")],
    ),
    "softmax": (
        "softmax",
        3,
        "sparse_categorical_crossentropy",
        ["accuracy", metrics.SparseTopKCategoricalAccuracy(2), "sparse_categorical_crossentropy"],
        [metrics.SparseCategoricalAccuracy(name="wa")],
    ),
    "linear": (
        "linear",
        2,
        "mean_squared_error",
        ["r2_score", "cosine_similarity", metrics.RootMeanSquaredError(), "mape"],
        [metrics.MeanAbsoluteError(name="wmae")],
    ),
}


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("model", MODELS)
def test_what_a_fit_reports(model, backend):
    activation, n_out, loss, plain, weighted = MODELS[model]
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(70, 6)).astype(np.float32)
    y = rng.normal(size=(70, n_out)).astype(np.float32)
    if activation == "sigmoid":
        y = (y + x[:, :1] > 0).astype(np.float32)
    if activation == "softmax":
        y = y.argmax(axis=1)
    w = rng.uniform(0, 2, 70).astype(np.float32)
    theirs = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(n_out, activation)]
    )
    ours = fastreg.Sequential(
        [fastreg.Input((6,)), fastreg.Dense(5, "tanh"), fastreg.Dense(n_out, activation)],
        backend=backend,
    )
    ours.set_weights(theirs.get_weights())
    both = {
        name: [m if isinstance(m, str) else _theirs(m) for m in given]
        for name, given in (("metrics", plain), ("weighted_metrics", weighted))
    }
    theirs.compile(keras.optimizers.SGD(0.1), loss, **both)
    ours.compile(fastreg.SGD(0.1), loss, plain, weighted_metrics=weighted)
    fit = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0, "sample_weight": w[:50]}
    validation = (x[50:], y[50:], w[50:])
    expected = theirs.fit(x[:50], y[:50], validation_data=validation, **fit).history
    found = ours.fit(x[:50], y[:50], validation_data=validation, **fit).history
    assert set(expected) <= set(found)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
    names = ours.metrics_names[1:]
    told = theirs.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    again = ours.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    for name in names:
        assert again[name] == pytest.approx(told[name], rel=2e-4, abs=2e-6), name
    theirs.reset_metrics()
    told = theirs.train_on_batch(x, y, sample_weight=w, return_dict=True)
    again = ours.train_on_batch(x, y, sample_weight=w, return_dict=True)
    for name in names:
        assert again[name] == pytest.approx(told[name], rel=2e-4, abs=2e-6), name
    moved = fastreg.from_keras(ours.to_keras())
    assert moved.metrics_names == ours.metrics_names
