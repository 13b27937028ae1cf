"""Models as ONNX: onnxruntime gives the same predictions."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import skl2onnx
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastreg as fr
from fastreg.estimators import MLPClassifier, MLPRegressor, register_onnx_converters
from fastreg.estimators.parameters import ACTIVATIONS, REGRESSION

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 6)).astype(np.float32)
Y = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "activation",
    [
        *fr.activations.NAMES,
        fr.activations.Activation("gelu", approximate=True),
        fr.activations.Activation("elu", alpha=0.5),
        fr.activations.Activation("leaky_relu", negative_slope=0.5),
        fr.activations.Activation("relu", negative_slope=0.2, max_value=0.9, threshold=0.1),
    ],
    ids=str,
)
def test_sequential(activation, dtype):
    layers = [fr.Input((6,), dtype=dtype), fr.Dense(9, activation, use_bias=False)]
    model = fr.Sequential([*layers, fr.Dropout(0.5), fr.Dense(3, "softmax")])
    (y,) = run(fr.to_onnx(model), X.astype(dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, model.predict(X, verbose=0), atol=1e-5)


def test_layers_of_other_kinds():
    layers = [fr.Input((6,)), fr.ActivityRegularization(0.1), fr.Dense(9), fr.Activation("tanh")]
    layers += [fr.GaussianNoise(0.1), fr.AlphaDropout(0.2), fr.Dense(3), fr.Activation("softmax")]
    model = fr.Sequential(layers)
    (y,) = run(fr.to_onnx(model), X)
    np.testing.assert_allclose(y, model.predict(X, verbose=0), atol=1e-5)


def test_rms_normalization():
    model = fr.Sequential([fr.Input((6,)), fr.RMSNormalization(epsilon=0.1), fr.Dense(3, "tanh")])
    model.set_weights([w + 0.5 for w in model.get_weights()])
    (y,) = run(fr.to_onnx(model), X)
    np.testing.assert_allclose(y, model.predict(X, verbose=0), atol=1e-5)


def test_flatten_inside():
    layers = [fr.Input((3, 2, 4)), fr.Dense(5, "tanh"), fr.LayerNormalization(), fr.Flatten()]
    model = fr.Sequential([*layers, fr.BatchNormalization(), fr.Dense(3, "softmax")])
    x = rng.normal(size=(30, 3, 2, 4)).astype(np.float32)
    (y,) = run(fr.to_onnx(model), x)
    np.testing.assert_allclose(y, model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False, "center": False}])
def test_normalization(options):
    layers = [fr.Input((6,)), fr.BatchNormalization(**options), fr.Dense(9)]
    layers += [fr.LayerNormalization(epsilon=0.1, **options), fr.Activation("relu"), fr.Dense(3)]
    model = fr.Sequential([*layers, fr.BatchNormalization(**options)])
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    (y,) = run(fr.to_onnx(model), X)
    np.testing.assert_allclose(y, model.predict(X, verbose=0), atol=1e-4)


def test_compact_sequential_reads_whole_rows(tmp_path):
    model = fr.Sequential([fr.Input((6,)), fr.Dense(4, "relu"), fr.Dense(1)])
    kernel, *rest = model.get_weights()
    kernel[[0, 3]] = 0
    model.set_weights([kernel, *rest])
    small = fr.compact(model)
    fr.to_onnx(small, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    np.testing.assert_allclose(
        session.run(None, {"x": X})[0], model.predict(X, verbose=0), atol=1e-5
    )


def test_what_cannot_go():
    with pytest.raises(TypeError, match="model: got"):
        fr.to_onnx("model")
    with pytest.raises(ValueError, match="not built"):
        fr.to_onnx(fr.Sequential([fr.Dense(1)]))


LABELS = [X[:, 0] > 0, np.digitize(X[:, 1], [-0.5, 0.5]), X[:, :3] > 0, X[:, :2] > 0]


@pytest.mark.parametrize("y", LABELS, ids=["two", "three", "labels", "two labels"])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 5), ()], ids=str)
def test_classifier(y, compact, hidden):
    register_onnx_converters()
    settings = {"l1": 0.02, "compact": compact, "max_iter": 60, "learning_rate_init": 0.02}
    model = MLPClassifier(hidden, random_state=0, **settings).fit(X, y.astype(int))
    pipe = make_pipeline(StandardScaler(), model).fit(X, y.astype(int))
    made = skl2onnx.to_onnx(pipe, X[:1], options={"zipmap": False})
    labels, proba = run(made, X)
    np.testing.assert_allclose(proba, pipe.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(labels, pipe.predict(X))


def test_classifier_of_words_in_float64():
    register_onnx_converters()
    x, y = X.astype(np.float64), np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
    model = MLPClassifier(6, activation="silu", dropout=0.1, max_iter=30).fit(x, y)
    labels, proba = run(skl2onnx.to_onnx(model, x[:1], options={"zipmap": False}), x)
    np.testing.assert_allclose(proba, model.predict_proba(x), atol=1e-12)
    assert labels.tolist() == model.predict(x).tolist()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_activation(activation, dtype):
    register_onnx_converters()
    x = X.astype(dtype)
    model = MLPRegressor(hidden_layer_sizes=8, activation=activation, max_iter=3).fit(x, Y)
    (found,) = run(skl2onnx.to_onnx(model, x[:1]), x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, model.predict(x), atol=1e-5)


@pytest.mark.parametrize("y", [Y, Y[:, 0]], ids=["two", "one"])
@pytest.mark.parametrize("loss", sorted(REGRESSION))
def test_regressor(y, loss):
    register_onnx_converters()
    y = np.exp(y) if loss == "poisson" else y
    settings = {"hidden_layer_sizes": (5, 4), "activation": ["relu", "tanh"], "max_iter": 30}
    model = MLPRegressor(loss, **settings).fit(X, y)
    (found,) = run(skl2onnx.to_onnx(model, X[:1]), X)
    np.testing.assert_allclose(found.reshape(y.shape), model.predict(X), rtol=1e-5, atol=1e-5)
