"""Activations: names, values and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastreg import activations
from fastreg.activations import Activation

FORMULAS = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
}


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_every_activation(name, rng):
    activation = activations.get(name)
    assert activation.name == name
    assert getattr(activations, name) is not None
    assert getattr(activations, name) == activation
    x = rng.standard_normal((4, 7))
    before = x.copy()
    np.testing.assert_allclose(activation(x), FORMULAS[name](x), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(x, before)
    assert activation(x.astype("float32")).dtype == "float32"


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_configuration_round_trip(name):
    activation = Activation(name)
    assert activations.serialize(activation) == name
    assert activations.deserialize(name) == activation
    assert Activation.from_config(activation.get_config()) == activation
    assert activations.get({"class_name": "function", "config": name}) == activation
    assert activations.get({"class_name": "Activation", "config": {"name": name}}) == activation
    assert eval(repr(activation)) == activation
    assert hash(activation) == hash(Activation(name))


def test_get():
    assert activations.get(None) is activations.linear
    assert activations.get(activations.tanh) is activations.tanh
    assert activations.get("ReLU") == activations.relu
    assert activations.relu != activations.tanh


def test_refusals():
    with pytest.raises(ValueError, match=r"activation: got 'rleu'; .*Did you mean 'relu'"):
        activations.get("rleu")
    with pytest.raises(ValueError, match="activation: got 'gelu'"):
        Activation("gelu")
    with pytest.raises(ValueError, match="activation: got 3"):
        Activation(3)
    with pytest.raises(TypeError, match="activation: got 3"):
        activations.get(3)
    with pytest.raises(ValueError, match="activation: got"):
        activations.get({"class_name": "Activation"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        activations.relu.name = "tanh"
