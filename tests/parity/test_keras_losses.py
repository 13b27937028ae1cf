"""Losses beside the installed Keras: values, and gradients as JAX takes them of Keras' own."""

from __future__ import annotations

import numpy as np
import pytest
from golden import peers
from losses_with_settings import WITH_SETTINGS

import fastreg
from fastreg import functional, inputs, losses

keras = peers.keras_in_float64()

import jax  # noqa: E402  (once Keras is set to it)

SEED, N, N_OUT = 5, 23, 6
POSITIVE = ("poisson", *inputs.BINARY)  # these have a logarithm of the output
OURS_ALONE = (losses.Quantile,)
LOSSES = [
    loss
    for loss in [cls() for cls in losses.REGISTRY.classes] + WITH_SETTINGS
    if not isinstance(loss, OURS_ALONE)
]


def example(loss, rng):
    """Targets and outputs, also beyond the bounds that losses clip at, but where nothing steps."""
    name = loss.name
    if loss.settings.from_logits:
        p = rng.normal(size=(N, N_OUT)) * rng.choice([0.1, 1, 7], (N, 1))
        labels = rng.integers(N_OUT, size=N).astype(np.int32)
        return (labels if name.startswith("sparse") else rng.dirichlet(np.ones(N_OUT), N)), p
    if "categorical" in name:
        p = rng.dirichlet(np.ones(N_OUT), N) * rng.uniform(0.5, 2, (N, 1))
        p[0] = [0, 1e-9, 0.25, 0.25, 0.25, 0.25]
        labels = rng.integers(N_OUT, size=N).astype(np.int32)
        return (labels if name.startswith("sparse") else rng.dirichlet(np.ones(N_OUT), N)), p
    p = rng.uniform(0.01, 0.99, (N, N_OUT)) if name in POSITIVE else rng.normal(size=(N, N_OUT))
    p[0, :2] = 1e-9, 1 - 1e-9
    if "hinge" in name or name in inputs.BINARY:
        return rng.integers(2, size=(N, N_OUT)).astype(np.float64), p
    if name in ("poisson", "kl_divergence"):
        return rng.uniform(0, 1, (N, N_OUT)), p
    return rng.normal(size=(N, N_OUT)), p


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_values_and_gradients(loss, weighted):
    rng = np.random.default_rng(SEED)
    y, p = example(loss, rng)
    weight = rng.uniform(0, 2, N) if weighted else None
    theirs = getattr(keras.losses, type(loss).__name__)(**loss.get_config(), dtype="float64")
    value, gradient = jax.value_and_grad(lambda p: theirs(y, p, sample_weight=weight))(p)
    cancels = loss.settings.from_logits and "focal" in loss.name  # 1 - sigmoid(z), in Keras
    expected = pytest.approx(float(value), rel=1e-10 if cancels else 1e-12)
    assert functional.loss(loss, y, p, weight) == expected
    got = functional.loss_gradient(loss, y, p, weight)
    np.testing.assert_allclose(got, gradient, rtol=1e-9, atol=1e-13)


def trained(api, loss, x, y, weight):
    """Weights and losses of three epochs, by the same words."""
    head = "softmax" if "categorical" in loss.name else "sigmoid"
    head = "linear" if loss.settings.from_logits else head
    layers = [api.layers.Dense(7, "tanh", dtype="float64")]
    layers.append(api.layers.Dense(N_OUT, head, kernel_regularizer="l2", dtype="float64"))
    model = api.Sequential([api.Input((4,), dtype="float64"), *layers])
    rng = np.random.default_rng(SEED)
    model.set_weights([rng.normal(size=np.shape(w)) / 2 for w in model.get_weights()])
    meant = getattr(api.losses, type(loss).__name__)(**loss.get_config())
    model.compile(api.optimizers.SGD(0.05, momentum=0.9), meant)
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, sample_weight=weight, **options).history["loss"]
    return [*model.get_weights(), np.array(history)]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_training(loss):
    rng = np.random.default_rng(SEED)
    x, weight = rng.normal(size=(N, 4)), rng.uniform(0, 2, N)
    y, _ = example(loss, rng)
    if loss.name == "mean_absolute_percentage_error":
        y = y + np.copysign(1, y)  # 100 / |y| of a small one would leap
    for ours, theirs in zip(
        trained(fastreg, loss, x, y, weight), trained(keras, loss, x, y, weight), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
