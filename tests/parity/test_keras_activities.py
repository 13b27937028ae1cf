"""Penalties of a whole batch's outputs beside Keras' custom regularizers, live.

Keras has neither a target rate nor a door for gradients: its side is a `Regularizer` in its own
operations, whose gradient JAX takes, and which Keras divides by the batch as every penalty of an
activity.
"""

from __future__ import annotations

import numpy as np
import pytest
from golden import cases, peers
from test_keras_layers import network, rows

import fastreg

keras = peers.keras_in_float64()
ops = keras.ops


class Rates(keras.regularizers.Regularizer):
    """`fastreg.KLSparsity` in Keras' words."""

    def __init__(self, kl, rate):
        self.kl, self.rate = kl, rate

    def __call__(self, y):
        means = ops.mean(y, axis=tuple(range(len(y.shape) - 1)))
        m, p = ops.clip(means, 1e-7, 1 - 1e-7), self.rate
        found = p * ops.log(p / m) + (1 - p) * ops.log((1 - p) / (1 - m))
        return self.kl * y.shape[0] * ops.sum(found)


class Covariances(keras.regularizers.Regularizer):
    """The squares of the covariances of units, and nothing for those along the diagonal."""

    def __init__(self, strength):
        self.strength = strength

    def __call__(self, y):
        y = ops.reshape(y, (-1, y.shape[-1]))
        off = y - ops.mean(y, axis=0)
        products = ops.matmul(ops.transpose(off), off)
        return self.strength * (ops.sum(products**2) - ops.sum(ops.diagonal(products) ** 2))


class OwnCovariances:
    """The same for fastreg."""

    def __init__(self, strength):
        self.strength = strength

    def _parts(self, y):
        flat = y.reshape(-1, y.shape[-1])
        off = flat - flat.mean(axis=0)
        products = off.T @ off
        np.fill_diagonal(products, 0)
        return off, products

    def value(self, y):
        return self.strength * np.sum(self._parts(y)[1] ** 2)

    def gradient(self, y):
        off, products = self._parts(y)
        return (4 * self.strength * off @ products).reshape(y.shape)


def rates(api, kl, rate):
    return (fastreg.KLSparsity if api is fastreg else Rates)(kl, rate)


def covariances(api, strength):
    return (OwnCovariances if api is fastreg else Covariances)(strength)


def autoencoder(api, dtype):
    return [
        api.layers.Dense(9, "sigmoid", activity_regularizer=rates(api, 0.5, 0.1), dtype=dtype),
        api.layers.Dense(3, "sigmoid", kernel_regularizer="l2", dtype=dtype),
    ]


def deep(api, dtype):
    return [
        api.layers.Dense(9, "hard_sigmoid", activity_regularizer=rates(api, 0.2, 0.6), dtype=dtype),
        api.layers.BatchNormalization(dtype=dtype),
        api.layers.Dense(7, dtype=dtype),
        api.layers.Activation("softmax", activity_regularizer=rates(api, 0.3, 0.3), dtype=dtype),
        api.layers.LayerNormalization(dtype=dtype),
        api.layers.Dense(
            3, "sigmoid", activity_regularizer=rates(api, 0.1, 0.2), trainable=False, dtype=dtype
        ),
    ]


def own(api, dtype):
    return [
        api.layers.Dense(
            9, "tanh", activity_regularizer=covariances(api, 0.002), trainable=False, dtype=dtype
        ),
        api.layers.Dense(7, "gelu", activity_regularizer=covariances(api, 0.001), dtype=dtype),
        api.layers.BatchNormalization(dtype=dtype),
        api.layers.Activation("elu", activity_regularizer=covariances(api, 0.001), dtype=dtype),
        api.layers.Dense(
            3,
            "sigmoid",
            kernel_regularizer="l1",
            activity_regularizer=covariances(api, 0.003),
            dtype=dtype,
        ),
    ]


def trained(api, layers, loss, optimizer, outer, dtype):
    model = network(api, layers, loss, optimizer, dtype, outer=outer)
    x, y, weight = rows(23, loss, 3, outer)
    options = {"sample_weight": weight, "batch_size": 8, "verbose": 0}
    history = model.fit(x, y, epochs=3, shuffle=False, **options).history["loss"]
    evaluated = model.evaluate(x, y, **options)
    return [*model.get_weights(), np.array(history), np.array(evaluated)]


def compare(layers, loss, optimizer, outer=(), dtype="float64"):
    ours, theirs = (trained(api, layers, loss, optimizer, outer, dtype) for api in (fastreg, keras))
    rounding = {"float64": {"rtol": 1e-9, "atol": 1e-11}, "float32": {"rtol": 2e-4, "atol": 1e-5}}
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, **rounding[dtype])


@pytest.mark.parametrize("outer", [(), (4,)], ids=["plain", "axes"])
@pytest.mark.parametrize(("loss", "optimizer"), [(cases.MSE, "sgd"), (cases.BCE, "adam")])
@pytest.mark.parametrize("layers", [autoencoder, deep, own])
def test_training_in_float64(layers, loss, optimizer, outer):
    try:
        compare(layers, loss, optimizer, outer)
    except AssertionError:
        compare(layers, loss, optimizer, outer)  # an evaluation that Keras does not repeat


@pytest.mark.parametrize("layers", [autoencoder, deep, own])
def test_training_in_float32(layers):
    compare(layers, cases.MSE, "sgd", dtype="float32")


def test_keras_is_told_what_it_lacks():
    model = network(fastreg, autoencoder, cases.MSE, "sgd")
    with pytest.raises(ValueError, match=r"layer: Keras does not take .*KLSparsity"):
        model.to_keras()
    model = network(fastreg, own, cases.MSE, "sgd")
    with pytest.raises((ValueError, TypeError), match="OwnCovariances"):
        model.to_keras()
