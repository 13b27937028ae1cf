"""Metrics: which accuracy is meant, names and refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn import metrics as sk

import fastreg
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
    assert metrics.meant(name, loss, y_shape, n_out).kind == kind


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
    assert metrics.meant(metric, loss, y_shape, n_out).kind == kind


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
    assert hash(metric) == hash(type(metric)(name=metric.name))
    assert metrics.get(metric) is metric


def test_configuration_of_keras():
    keras = {"name": "right", "dtype": None, "threshold": 0.5}
    assert metrics.get({"class_name": "BinaryAccuracy", "config": keras}) == BinaryAccuracy("right")
    assert BinaryAccuracy.from_config({"threshold": 0.4}).threshold == 0.4
    with pytest.raises(ValueError, match=r"ignore_class: got 1; .*supports only None"):
        metrics.SparseCategoricalCrossentropy.from_config({"ignore_class": 1})


def test_refusals():
    with pytest.raises(ValueError, match=r"metric: got 'acuracy'; .*Did you mean 'accuracy'"):
        metrics.get("acuracy")
    with pytest.raises(TypeError, match="metric: got None"):
        metrics.get(None)
    with pytest.raises(TypeError, match="name: got 3"):
        AutoAccuracy(3)
    with pytest.raises(ValueError, match=r"sparse_categorical_accuracy.*mean_squared_error"):
        metrics.meant("sparse_categorical_accuracy", "mean_squared_error", (8, 3), 3)
    with pytest.raises(ValueError, match="binary_accuracy"):
        metrics.meant("binary_accuracy", SPARSE, (8,), 3)
    with pytest.raises(ValueError, match="accuracy"):
        metrics.meant("accuracy", SPARSE, (8,), 1)


def _rows(n=80, n_out=1, seed=3):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_out)) < 0.4).astype(float)
    return y, np.clip(y * 0.3 + rng.random((n, n_out)) * 0.7, 0, 1).round(2), rng.uniform(0, 2, n)


@pytest.mark.parametrize("weighted", [False, True])
def test_against_scikit_learn(weighted):
    y, p, w = _rows()
    w = w if weighted else None
    truth, said = y[:, 0], p[:, 0] > 0.5
    pairs = [
        (metrics.Precision(), sk.precision_score(truth, said, sample_weight=w)),
        (metrics.Recall(), sk.recall_score(truth, said, sample_weight=w)),
        (metrics.F1Score(threshold=0.5), sk.f1_score(truth, said, sample_weight=w)),
        (BinaryAccuracy(), sk.accuracy_score(truth, said, sample_weight=w)),
        (metrics.R2Score(), sk.r2_score(truth, p[:, 0], sample_weight=w)),
        (metrics.MeanSquaredError(), sk.mean_squared_error(truth, p[:, 0], sample_weight=w)),
        (metrics.MeanAbsoluteError(), sk.mean_absolute_error(truth, p[:, 0], sample_weight=w)),
    ]
    for metric, expected in pairs:
        assert metric(y, p, w) == pytest.approx(expected, rel=1e-6), metric
    # two thresholds between any two outputs, which have two decimals: the exact curve
    fine = metrics.AUC(thresholds=tuple(np.arange(0.005, 1, 0.01)))
    assert fine(y, p, w) == pytest.approx(sk.roc_auc_score(truth, p[:, 0], sample_weight=w))


@pytest.mark.parametrize("weighted", [False, True])
def test_several_columns_and_thresholds_against_scikit_learn(weighted):
    y, p, w = _rows(n_out=3)
    w = w if weighted else None
    at = [0.255, 0.505, 0.755]
    for metric, score in (
        (metrics.Precision, sk.precision_score),
        (metrics.Recall, sk.recall_score),
    ):
        found = metric(at)(y, p, w)
        columns = metric(at, class_id=1)(y, p, w)
        for i, threshold in enumerate(at):
            said = p > threshold
            each = None if w is None else np.repeat(w, 3)
            whole = score(y.ravel(), said.ravel(), sample_weight=each)
            assert found[i] == pytest.approx(whole, rel=1e-12)
            one = score(y[:, 1], said[:, 1], sample_weight=w)
            assert columns[i] == pytest.approx(one, rel=1e-12)
    fine = tuple(np.arange(0.005, 1, 0.01))
    areas = sk.roc_auc_score(y, p, sample_weight=w, average=None)
    for weights in (None, (1.0, 0.0, 2.0)):
        auc = metrics.AUC(thresholds=fine, multi_label=True, label_weights=weights)
        assert auc(y, p, w) == pytest.approx(np.average(areas, weights=weights), rel=1e-12)
    for ours, theirs in ((None, "raw_values"), ("variance_weighted_average", "variance_weighted")):
        expected = sk.r2_score(y, p, sample_weight=w, multioutput=theirs)
        np.testing.assert_allclose(metrics.R2Score(ours)(y, p, w), expected, rtol=1e-10)
    for average in (None, "micro", "macro", "weighted"):
        expected = sk.fbeta_score(y, p > 0.505, beta=2, average=average, sample_weight=w)
        found = metrics.FBetaScore(average, 2.0, 0.505)(y, p, w)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


SEVERAL = [
    metrics.Precision([0.3, 0.6]),
    metrics.Recall([0.3, 0.6], top_k=2, class_id=1),
    metrics.AUC(thresholds=[0.2, 0.6], multi_label=True, num_labels=3, label_weights=[1, 2, 3]),
    metrics.AUC(curve="PRGAIN"),
    metrics.FBetaScore(None, 2.0, 0.3),
    metrics.R2Score(None, 2),
]


@pytest.mark.parametrize("metric", SEVERAL, ids=repr)
def test_settings_survive_json_and_rows_add_up(metric):
    written = json.loads(json.dumps(metrics.serialize(metric)))
    assert metrics.deserialize(written) == metric
    assert hash(metrics.deserialize(written)) == hash(metric)
    y, p, w = _rows(40, 3)
    sums = metric.start(3)
    for rows in (slice(0, 1), slice(1, 33), slice(33, 40)):
        metric.add(sums, y[rows], p[rows], w[rows])
    np.testing.assert_allclose(metric.result(sums), metric(y, p, w), rtol=1e-12)


def _several(n_out=3):
    fastreg.set_random_seed(1)
    model = fastreg.Sequential([fastreg.Input((4,)), fastreg.Dense(n_out, "sigmoid")])
    model.compile("sgd", "binary_crossentropy", [metrics.Precision([0.3, 0.6]), "f1_score"])
    return model


def test_arrays_stand_in_the_history_and_all_that_shows_it(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x[:, :3] > 0).astype(float)
    model = _several()
    log = fastreg.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(x, y, 16, 2, verbose=2, callbacks=[log], validation_split=0.25).history
    for name, size in (("precision", 2), ("f1_score", 3), ("val_precision", 2)):
        assert [value.shape for value in history[name]] == [(size,)] * 2
    told = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        told["precision"], metrics.Precision([0.3, 0.6])(y, model.predict(x, verbose=0)), rtol=1e-6
    )
    assert f"precision: {history['precision'][1].mean():.4f}" in capsys.readouterr().err
    with open(tmp_path / "log.csv", newline="") as file:
        logged = list(csv.DictReader(file))
    assert json.loads(logged[1]["precision"]) == history["precision"][1].tolist()


@pytest.mark.parametrize(
    "callback",
    [
        fastreg.callbacks.EarlyStopping("precision"),
        fastreg.callbacks.ReduceLROnPlateau("precision"),
        fastreg.callbacks.ModelCheckpoint("m.safetensors", "precision", save_best_only=True),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_an_array_cannot_be_monitored(callback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(64, 4))
    with pytest.raises(ValueError, match="monitor: got 'precision', a metric of 2 values"):
        _several().fit(x, x[:, :3] > 0, verbose=0, callbacks=[callback])


def test_an_array_is_no_score_and_in_no_file_name(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x[:, :3] > 0).astype(float)
    path = tmp_path / "{precision:.3f}.safetensors"
    with pytest.raises(ValueError, match=r"filepath: got .*cannot be filled in"):
        _several().fit(x, y, verbose=0, callbacks=[fastreg.callbacks.ModelCheckpoint(path)])
    fastreg.set_random_seed(1)
    model = fastreg.Sequential(
        [fastreg.Input((4,)), fastreg.Dense(3, "sigmoid", kernel_regularizer="l1")]
    )
    model.compile(fastreg.SGD(0.1, l1_step="proximal"), "binary_crossentropy", ["f1_score"])
    with pytest.raises(
        ValueError, match="scoring: got None, and the first metric, 'f1_score', has 3"
    ):
        fastreg.regularization_path(model, x, y, n=3, epochs=2, validation_split=0.25, verbose=0)


def test_a_fit_with_arrays_goes_on_from_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = (x[:, :3] > 0).astype(float)
    whole = _several().fit(x, y, 16, 3, verbose=0).history
    path = tmp_path / "m.safetensors"
    keep = fastreg.callbacks.ModelCheckpoint(path)
    _several().fit(x, y, 16, 2, verbose=0, callbacks=[keep])
    again = fastreg.load_model(path).fit(x, y, 16, 3, verbose=0, resume=True).history
    np.testing.assert_array_equal(again["precision"], whole["precision"])
    np.testing.assert_array_equal(again["f1_score"], whole["f1_score"])


@pytest.mark.parametrize("metric", ALL, ids=repr)
def test_batches_add_up_to_all_rows(metric):
    if isinstance(metric, AutoAccuracy):
        return
    _, p, w = _rows(40, 3)
    y = np.arange(40) % 3 if metric.takes_labels else np.eye(3)[np.arange(40) % 3]
    sums = metric.start(3)
    for rows in (slice(0, 1), slice(1, 33), slice(33, 40)):
        metric.add(sums, y[rows], p[rows], w[rows])
    np.testing.assert_allclose(metric.result(sums), metric(y, p, w), rtol=1e-12)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_out", [1, 3, 37])
def test_outputs_of_each_step_are_measured(backend, dtype, n_out):
    """An epoch's metric is that of the outputs before each update, whatever the slices."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)).astype(dtype), rng.random((50, n_out)).astype(dtype)

    def made():
        fastreg.set_random_seed(1)
        layers = [fastreg.Input((4,), dtype=dtype), fastreg.Dense(7, "tanh")]
        layers += [fastreg.Dropout(0.0), fastreg.Dense(n_out, "sigmoid")]
        model = fastreg.Sequential(layers, backend=backend)
        model.compile(fastreg.SGD(0.5), "mse", ["mae", "r2_score"], n_threads=2)
        return model

    model, twin = made(), made()
    mae, outputs = metrics.MeanAbsoluteError(), []
    for start in range(0, 50, 16):
        rows = slice(start, start + 16)
        outputs.append(twin.predict(x[rows], verbose=0))
        twin.train_on_batch(x[rows], y[rows])
    history = model.fit(x, y, 16, shuffle=False, verbose=0).history
    p = np.concatenate(outputs)
    assert history["mae"] == [pytest.approx(mae(y, p), rel=1e-5)]
    assert history["r2_score"] == [pytest.approx(metrics.R2Score()(y, p), rel=1e-4)]
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shuffled_rows_meet_their_targets_and_weights():
    """Without learning, all orders of the rows say the same."""
    y, _, w = _rows()
    x = np.random.default_rng(1).normal(size=(80, 4))
    model = fastreg.Sequential([fastreg.Input((4,)), fastreg.Dense(1, "sigmoid")])
    weighted = [metrics.AUC(name="wauc"), "recall"]
    model.compile(
        fastreg.SGD(0.0), "binary_crossentropy", ["auc", "mse"], weighted_metrics=weighted
    )
    history = model.fit(x, y, 16, 2, verbose=0, sample_weight=w).history
    p = model.predict(x, verbose=0)
    told = model.evaluate(x, y, verbose=0, sample_weight=w, return_dict=True)
    expected = {
        "auc": metrics.AUC()(y, p),
        "mse": metrics.MeanSquaredError()(y, p),
        "wauc": metrics.AUC()(y, p, w),
        "recall": metrics.Recall()(y, p, w),
    }
    for name, value in expected.items():
        assert history[name] == [pytest.approx(value, rel=1e-4)] * 2, name
        assert told[name] == pytest.approx(value, rel=1e-4), name


def test_metrics_survive_saving(tmp_path):
    model = fastreg.Sequential([fastreg.Input((4,)), fastreg.Dense(3, "softmax")])
    given = [metrics.F1Score("macro"), metrics.AUC(thresholds=(0.2, 0.6))]
    model.compile(
        "sgd", "categorical_crossentropy", given, weighted_metrics=["categorical_crossentropy"]
    )
    model.save(tmp_path / "m.safetensors")
    again = fastreg.load_model(tmp_path / "m.safetensors")
    assert again.metrics_names == ["loss", "f1_score", "auc", "categorical_crossentropy"]
    x, y, w = np.eye(4), np.eye(3)[[0, 1, 2, 0]], np.arange(4.0)
    assert again.evaluate(x, y, verbose=0, sample_weight=w) == model.evaluate(
        x, y, verbose=0, sample_weight=w
    )


def test_refusals_of_what_does_not_fit():
    for wrong, error, words in (
        ({"num_labels": 3}, ValueError, "num_labels: got 3; None is needed without multi_label"),
        ({"label_weights": [1, -1]}, ValueError, "label_weights: got -1"),
        ({"label_weights": []}, TypeError, r"label_weights: got \[\]; a list of numbers"),
        ({"multi_label": 1}, TypeError, "multi_label: got 1"),
        ({"thresholds": [0.5, 1.5]}, ValueError, "thresholds: got 1.5"),
    ):
        with pytest.raises(error, match=words):
            metrics.AUC(**wrong)
    for metric, words in (
        (metrics.AUC(multi_label=True, num_labels=2), "num_labels: got 2; 3 columns"),
        (metrics.AUC(label_weights=(1, 2)), "label_weights: got 2; 3 columns"),
    ):
        with pytest.raises(ValueError, match=words):
            metrics.meant(metric, "mean_squared_error", (8, 3), 3)
    with pytest.raises(ValueError, match="thresholds: got 2"):
        metrics.Precision([0.5, 2])
    with pytest.raises(TypeError, match=r"thresholds: got \[\]"):
        metrics.Recall([])
    with pytest.raises(ValueError, match="class_id"):
        metrics.meant(metrics.Precision(class_id=3), "mean_squared_error", (8, 3), 3)
    with pytest.raises(ValueError, match="curve: got 'roc'"):
        metrics.AUC(curve="roc")
    with pytest.raises(ValueError, match=r"y_true: got shape \(2,\); \(2, 3\)"):
        metrics.MeanSquaredError()(np.zeros(2), np.zeros((2, 3)))
    model = fastreg.Sequential([fastreg.Input((4,)), fastreg.Dense(1)])
    with pytest.raises(ValueError, match="'mse' twice"):
        model.compile("sgd", "mse", ["mse"], weighted_metrics=["mse"])


def test_steps_in_two_halves_are_measured_too():
    """A penalty that Python adds cuts each call into single steps."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    y = x[:, :2]
    found = []
    for penalty in (None, fastreg.regularizers.OrthogonalRegularizer(0.0)):
        fastreg.set_random_seed(1)
        layers = [fastreg.Input((4,)), fastreg.Dense(2, "tanh", kernel_regularizer=penalty)]
        model = fastreg.Sequential(layers)
        model.compile(fastreg.SGD(0.5), "mse", ["mae"])
        found.append(model.fit(x, y, 8, 2, verbose=0).history["mae"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_fit_goes_on_within_an_epoch_with_its_sums(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")

    def made():
        fastreg.set_random_seed(1)
        model = fastreg.Sequential([fastreg.Input((4,)), fastreg.Dense(1, "sigmoid")])
        model.compile("adam", "binary_crossentropy", ["auc", "recall"])
        return model

    whole = made().fit(x, y, 16, verbose=0).history

    class Stop(fastreg.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.save(tmp_path / "m.safetensors")
                self.model.stop_training = True

    made().fit(x, y, 16, verbose=0, callbacks=[Stop()])
    again = fastreg.load_model(tmp_path / "m.safetensors")
    assert again.fit(x, y, 16, verbose=0, resume=True).history["auc"] == whole["auc"]
