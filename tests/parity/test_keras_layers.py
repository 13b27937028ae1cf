"""Layers beside Keras' own: training, inference, weights and configurations.

What Keras draws at random is compared by its formula and its configuration; the rest by numbers.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from golden import cases, peers

import fastreg

keras = peers.keras_in_float64()

N_IN = 6


def network(
    api: Any, layers: Any, loss: str, optimizer: Any, dtype: str = "float64", **options: Any
):
    """The layers that `layers(api)` makes, with weights from a fixed stream, compiled."""
    model = api.Sequential(
        [api.Input((*options.pop("outer", ()), N_IN), dtype=dtype), *layers(api, dtype)], **options
    )
    stream = cases.Stream(17)
    model.set_weights([start(stream, np.shape(w)) for w in model.get_weights()])
    model.compile(api.optimizers.get(optimizer), loss)
    return model


def start(stream: cases.Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Kernels around 0; vectors positive, so that they may be variances too."""
    return (
        stream.uniform(-0.6, 0.6, *shape) if len(shape) == 2 else stream.uniform(0.2, 1.4, *shape)
    )


def rows(
    n: int, loss: str, n_out: int, outer: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stream = cases.Stream(n)
    x = stream.uniform(-1, 1, n, *outer, N_IN)
    sparse = loss == cases.SCCE
    y = stream.integers(n_out, n, *outer) if sparse else stream.uniform(0, 1, n, *outer, n_out)
    return x, y, stream.uniform(0, 2, n, *outer)


def activation(api: Any, dtype: str) -> list[Any]:
    return [
        api.layers.Dense(9, kernel_regularizer="l2", dtype=dtype),
        api.layers.Activation("tanh", dtype=dtype),
        api.layers.Dense(5, "relu", dtype=dtype),
        api.layers.Activation("gelu", dtype=dtype),
        api.layers.Dense(3, dtype=dtype),
        api.layers.Activation("softmax", dtype=dtype),
    ]


def activity(api: Any, dtype: str) -> list[Any]:
    return [
        api.layers.ActivityRegularization(l1=0.02, l2=0.01, dtype=dtype),
        api.layers.Dense(9, dtype=dtype),
        api.layers.ActivityRegularization(0.01, dtype=dtype),
        api.layers.Activation(api.activations.elu, dtype=dtype),
        api.layers.ActivityRegularization(l2=0.03, dtype=dtype),
        api.layers.Dense(3, "sigmoid", dtype=dtype),
        api.layers.ActivityRegularization(0.01, 0.02, dtype=dtype),
    ]


def layer_norm(api: Any, dtype: str) -> list[Any]:
    normal = api.layers.LayerNormalization
    return [
        normal(epsilon=0.01, center=False, dtype=dtype),
        api.layers.Dense(9, "tanh", dtype=dtype),
        normal(gamma_regularizer="l2", beta_regularizer="l1", dtype=dtype),
        api.layers.Dense(5, dtype=dtype),
        normal(scale=False, beta_constraint="non_neg", dtype=dtype),
        api.layers.Activation("gelu", dtype=dtype),
        normal(trainable=False, gamma_constraint=api.constraints.MaxNorm(1.1), dtype=dtype),
        api.layers.Dense(3, "softmax", kernel_regularizer="l2", dtype=dtype),
    ]


def batch_norm(api: Any, dtype: str) -> list[Any]:
    normal = api.layers.BatchNormalization
    return [
        normal(momentum=0.8, dtype=dtype),
        api.layers.Dense(9, use_bias=False, dtype=dtype),
        normal(
            epsilon=0.01,
            scale=False,
            beta_regularizer=api.regularizers.L1L2(0.01, 0.02),
            dtype=dtype,
        ),
        api.layers.Activation("relu", dtype=dtype),
        api.layers.Dense(7, "tanh", dtype=dtype),
        normal(momentum=0.5, gamma_regularizer="l2", gamma_constraint="unit_norm", dtype=dtype),
        api.layers.Dense(3, "sigmoid", dtype=dtype),
    ]


def frozen_batch_norm(api: Any, dtype: str) -> list[Any]:
    normal = api.layers.BatchNormalization
    return [
        api.layers.Dense(9, "tanh", dtype=dtype),
        normal(trainable=False, dtype=dtype),
        api.layers.Dense(5, "tanh", trainable=False, dtype=dtype),
        normal(center=False, scale=False, momentum=0.9, dtype=dtype),
        api.layers.Dense(3, dtype=dtype),
        normal(dtype=dtype),
    ]


def both_norms(api: Any, dtype: str) -> list[Any]:
    return [
        api.layers.Dense(64, dtype=dtype),
        api.layers.BatchNormalization(dtype=dtype),
        api.layers.Activation("silu", dtype=dtype),
        api.layers.LayerNormalization(dtype=dtype),
        api.layers.Dense(33, "elu", dtype=dtype),
        api.layers.LayerNormalization(dtype=dtype),
        api.layers.BatchNormalization(dtype=dtype),
        api.layers.Dense(3, "softmax", dtype=dtype),
    ]


def flattened(api: Any, dtype: str) -> list[Any]:
    """After layers that act on the last axis; penalties of activities are by rows of x."""
    return [
        api.layers.Dense(7, "sigmoid", activity_regularizer="l2", dtype=dtype),
        api.layers.BatchNormalization(momentum=0.8, dtype=dtype),
        api.layers.Dense(5, "tanh", kernel_regularizer="l1", dtype=dtype),
        api.layers.ActivityRegularization(0.01, 0.02, dtype=dtype),
        api.layers.LayerNormalization(dtype=dtype),
        api.layers.Flatten(dtype=dtype),
        api.layers.BatchNormalization(momentum=0.8, dtype=dtype),
        api.layers.Dense(3, "softmax", activity_regularizer="l1", dtype=dtype),
    ]


def rms_norm(api: Any, dtype: str) -> list[Any]:
    normal = api.layers.RMSNormalization
    return [
        normal(epsilon=0.01, dtype=dtype),
        api.layers.Dense(9, "tanh", dtype=dtype),
        normal(dtype=dtype),
        api.layers.Dense(5, kernel_regularizer="l2", dtype=dtype),
        normal(trainable=False, dtype=dtype),
        api.layers.Activation("gelu", dtype=dtype),
        api.layers.Dense(3, "softmax", dtype=dtype),
    ]


ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.01, "epsilon": 1e-4}}
SGD = {"class_name": "SGD", "config": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}}
BOUNDED = {"class_name": "SGD", "config": {"learning_rate": 0.1, "global_clipnorm": 0.3}}
MEANS = {"class_name": "Adam", "config": {"learning_rate": 0.01, "epsilon": 1e-4, "use_ema": True}}
SUMMED = {
    "class_name": "SGD",
    "config": {"learning_rate": 0.05, "gradient_accumulation_steps": 2},
}
DECAYED = {
    "class_name": "AdamW",
    "config": {"learning_rate": 0.01, "epsilon": 1e-4, "weight_decay": 0.1},
}
TRAINED = [
    (activation, cases.SCCE, SGD),
    (activation, cases.CCE, ADAM),
    (activation, cases.MSE, BOUNDED),
    (activity, cases.MSE, SGD),
    (activity, cases.BCE, ADAM),
    (layer_norm, cases.SCCE, SGD),
    (layer_norm, cases.CCE, ADAM),
    (layer_norm, cases.SCCE, BOUNDED),
    (layer_norm, cases.SCCE, SUMMED),
    (rms_norm, cases.SCCE, SGD),
    (rms_norm, cases.CCE, DECAYED),
    (batch_norm, cases.BCE, SGD),
    (batch_norm, cases.MSE, ADAM),
    (batch_norm, cases.BCE, BOUNDED),
    (batch_norm, cases.BCE, MEANS),
    (batch_norm, cases.BCE, SUMMED),
    (batch_norm, cases.BCE, DECAYED),
    (frozen_batch_norm, cases.MSE, SGD),
    (frozen_batch_norm, cases.MSE, ADAM),
    (both_norms, cases.SCCE, SGD),
    (both_norms, cases.SCCE, DECAYED),
]


def describe(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(("layers", "loss", "optimizer"), TRAINED, ids=describe)
def test_training_in_float64(layers, loss, optimizer, backend):
    compare(layers, loss, optimizer, "float64", backend, 1e-9)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("outer", [(4,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        (activation, cases.SCCE),
        (activity, cases.MSE),
        (layer_norm, cases.CCE),
        (both_norms, cases.SCCE),
        (batch_norm, cases.BCE),
    ],
    ids=describe,
)
def test_rows_of_several_axes(layers, loss, outer, backend):
    """Layers act on the last, losses are means over the others; Keras wants a weight for each."""
    compare(layers, loss, SGD, "float64", backend, 1e-9, outer)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("outer", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=describe)
def test_flatten_inside(optimizer, outer, backend):
    compare(flattened, cases.CCE, optimizer, "float64", backend, 1e-9, outer, flat=True)


@pytest.mark.parametrize(("layers", "loss", "optimizer"), TRAINED[::2], ids=describe)
def test_training_in_float32(layers, loss, optimizer):
    compare(layers, loss, optimizer, "float32", "compiled", 2e-4)


def compare(layers, loss, optimizer, dtype, backend, tolerance, outer=(), flat=False):
    """Batches of 8 of 29 rows: the last one is short; then what evaluate and predict say."""
    keras.config.set_floatx(dtype)
    try:
        ours = network(fastreg, layers, loss, optimizer, dtype, outer=outer, backend=backend)
        theirs = network(keras, layers, loss, optimizer, dtype, outer=outer)
        x, y, w = rows(29, loss, 3, outer)
        if flat:  # of the axes between, the first vector's
            y, w = y.reshape(29, -1, 3)[:, 0], w.reshape(29, -1)[:, 0]
        options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
        got, want = (m.fit(x, y, sample_weight=w, **options).history for m in (ours, theirs))
        close(got["loss"], want["loss"], tolerance)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            close(a, b, tolerance)
        close(*(m.evaluate(x, y, batch_size=29, verbose=0) for m in (ours, theirs)), tolerance)
        close(*(np.asarray(m.predict(x, verbose=0)) for m in (ours, theirs)), tolerance)
    finally:
        keras.config.set_floatx("float64")


def close(got: Any, want: Any, tolerance: float) -> None:
    got, want = np.asarray(got, "float64"), np.asarray(want, "float64")
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= tolerance * max(np.linalg.norm(want), 1e-3)


# ------------------------------------------------------------------ arguments, configurations

MADE = {
    "Activation": {"activation": "softplus"},
    "ActivityRegularization": {"l1": 0.25, "l2": 0.5},
    "GaussianNoise": {"stddev": 0.25, "seed": 3},
    "GaussianDropout": {"rate": 0.25, "seed": 3},
    "AlphaDropout": {"rate": 0.25, "seed": 3},
    "Dropout": {"rate": 0.25, "seed": 3},
    "LayerNormalization": {"epsilon": 0.5, "center": False, "gamma_regularizer": "l2"},
    "RMSNormalization": {"epsilon": 0.5},
    "BatchNormalization": {"momentum": 0.5, "scale": False, "beta_constraint": "non_neg"},
}


@pytest.mark.parametrize("name", MADE)
def test_arguments_have_keras_names_order_and_defaults(name):
    def positional(api: Any) -> list[tuple[str, Any]]:
        found = inspect.signature(getattr(api.layers, name)).parameters.values()
        return [(p.name, p.default) for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]

    ours = positional(fastreg)
    assert ours == positional(keras)[: len(ours)]


@pytest.mark.parametrize("name", MADE)
def test_configurations_cross_both_ways(name):
    theirs = getattr(keras.layers, name)(**MADE[name], name="same", dtype="float32")
    model = fastreg.from_keras(
        keras.Sequential(
            [keras.Input((4,), dtype="float32"), theirs, keras.layers.Dense(2, dtype="float32")]
        )
    )
    ours = getattr(fastreg.layers, name)(**MADE[name], name="same", dtype="float32")
    assert model.layers[0].get_config() == ours.get_config()
    back = model.to_keras().layers[0]
    assert back.get_config() == theirs.get_config()


def test_noise_is_of_keras_formulas():
    """Of the numbers drawn: AlphaDropout's two values, and moments of the others, at 1."""
    x = np.ones((300, 200))
    for name in ("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout"):
        model = fastreg.Sequential(
            [fastreg.Input((200,), dtype="float64"), getattr(fastreg.layers, name)(**MADE[name])]
        )
        model.add(fastreg.Dense(200, use_bias=False))
        model.set_weights([np.eye(200)])
        got = model(x, training=True)
        layer = getattr(keras.layers, name)(**MADE[name], dtype="float64")
        want = np.asarray(layer(x, training=True))
        np.testing.assert_array_equal(model(x), x)
        np.testing.assert_array_equal(np.asarray(layer(x, training=False)), x)
        assert got.mean() == pytest.approx(want.mean(), abs=0.02)
        assert got.std() == pytest.approx(want.std(), rel=0.03)
        if "Gaussian" not in name:
            np.testing.assert_allclose(np.unique(got), np.unique(want), rtol=1e-6)
