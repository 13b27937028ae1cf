"""Losses beside the installed Keras: values, and gradients as JAX takes them of Keras' own."""

from __future__ import annotations

import numpy as np
import pytest
from golden import peers

from fastreg import functional, losses

keras = peers.keras_in_float64()

import jax  # noqa: E402  (once Keras is set to it)

SEED, N, N_OUT = 5, 23, 6
POSITIVE = ("poisson", "binary_crossentropy")  # these have a logarithm of the output


def example(name, rng):
    """Targets and outputs, also beyond the bounds that losses clip at, but where nothing steps."""
    if "categorical" in name:
        p = rng.dirichlet(np.ones(N_OUT), N) * rng.uniform(0.5, 2, (N, 1))
        p[0] = [0, 1e-9, 0.25, 0.25, 0.25, 0.25]
        labels = rng.integers(N_OUT, size=N).astype(np.int32)
        return (labels if name.startswith("sparse") else rng.dirichlet(np.ones(N_OUT), N)), p
    p = rng.uniform(0.01, 0.99, (N, N_OUT)) if name in POSITIVE else rng.normal(size=(N, N_OUT))
    p[0, :2] = 1e-9, 1 - 1e-9
    if "hinge" in name or name == "binary_crossentropy":
        return rng.integers(2, size=(N, N_OUT)).astype(np.float64), p
    if name in ("poisson", "kl_divergence"):
        return rng.uniform(0, 1, (N, N_OUT)), p
    return rng.normal(size=(N, N_OUT)), p


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [cls() for cls in losses.REGISTRY.classes], ids=repr)
def test_values_and_gradients(loss, weighted):
    rng = np.random.default_rng(SEED)
    y, p = example(loss.name, rng)
    weight = rng.uniform(0, 2, N) if weighted else None
    theirs = getattr(keras.losses, type(loss).__name__)(dtype="float64")
    value, gradient = jax.value_and_grad(lambda p: theirs(y, p, sample_weight=weight))(p)
    assert functional.loss(loss.name, y, p, weight) == pytest.approx(float(value), rel=1e-13)
    got = functional.loss_gradient(loss.name, y, p, weight)
    np.testing.assert_allclose(got, gradient, rtol=1e-12, atol=1e-14)
