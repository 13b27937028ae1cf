"""Activations: names, values and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.special

from fastreg import activations, reference
from fastreg.activations import Activation


def relu6(z):
    return np.clip(z, 0, 6)


FORMULAS = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
    "log_softmax": lambda z: z - np.log(np.exp(z).sum(axis=-1, keepdims=True)),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "relu6": relu6,
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "selu": lambda z: (
        np.where(z > 0, 1, 1.6732632423543772)
        * 1.0507009873554805
        * np.where(z > 0, z, np.expm1(z))
    ),
    "exponential": np.exp,
    "softplus": lambda z: np.logaddexp(0, z),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "hard_sigmoid": lambda z: relu6(z + 3) / 6,
    "hard_silu": lambda z: z * relu6(z + 3) / 6,
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * scipy.special.ndtr(z),
    "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
}

# Arguments of Keras' functions, and what they mean.
WITH_PARAMETERS = [
    ("leaky_relu", {"negative_slope": 0.3}, lambda z: np.where(z > 0, z, 0.3 * z)),
    ("relu", {"max_value": 0.5}, lambda z: np.clip(z, 0, 0.5)),
    ("relu", {"threshold": 0.25}, lambda z: np.where(z > 0.25, z, 0)),
    (
        "relu",
        {"negative_slope": 0.1, "max_value": 1.0, "threshold": 0.5},
        lambda z: np.where(z > 0.5, np.minimum(z, 1), 0.1 * (z - 0.5)),
    ),
    ("elu", {"alpha": 0.4}, lambda z: np.where(z > 0, z, 0.4 * np.expm1(z))),
    (
        "gelu",
        {"approximate": True},
        lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    ),
]


@pytest.mark.parametrize("name", activations.NAMES)
def test_every_activation(name, rng):
    activation = activations.get(name)
    assert activation.name == name
    assert getattr(activations, name) == activation
    x = rng.standard_normal((4, 7))
    before = x.copy()
    np.testing.assert_allclose(activation(x), FORMULAS[name](x), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(x, before)
    assert activation(x.astype("float32")).dtype == "float32"


@pytest.mark.parametrize(("name", "parameters", "formula"), WITH_PARAMETERS)
def test_parameters(name, parameters, formula, rng):
    activation = Activation(name, **parameters)
    x = rng.standard_normal((4, 7))
    np.testing.assert_allclose(activation(x), formula(x), rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(activations.get(name)(x, **parameters), activation(x))
    np.testing.assert_allclose(
        reference.activation_forward(x, activation), formula(x), rtol=1e-13, atol=1e-15
    )
    assert activations.get(activations.serialize(activation)) == activation
    assert Activation.from_config(activation.get_config()) == activation
    assert eval(repr(activation)) == activation
    assert activation != activations.get(name)
    # At their defaults they are not there.
    defaults = activations.PARAMETERS[name]
    assert Activation(name, **defaults) == activations.get(name)


@pytest.mark.parametrize("name", activations.NAMES)
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
    assert activations.get("swish") == activations.swish == activations.silu
    assert activations.get("hard_swish") == activations.hard_silu
    assert activations.get("gelu_tanh") == Activation("gelu", approximate=True)
    assert activations.relu != activations.tanh


def test_what_keras_writes_of_its_layers():
    config = {"name": "re_lu", "trainable": True, "dtype": "float32"}
    bounded = {"max_value": 2.0, "negative_slope": 0.0, "threshold": 0.0}
    for name, own, expected in [
        ("LeakyReLU", {"negative_slope": 0.3}, Activation("leaky_relu", negative_slope=0.3)),
        ("LeakyReLU", {}, Activation("leaky_relu", negative_slope=0.3)),
        ("ReLU", bounded, Activation("relu", max_value=2.0)),
        ("ELU", {"alpha": 1.0}, activations.elu),
    ]:
        assert activations.get({"class_name": name, "config": config | own}) == expected


def test_refusals():
    with pytest.raises(ValueError, match=r"activation: got 'rleu'; .*Did you mean 'relu'"):
        activations.get("rleu")
    with pytest.raises(ValueError, match="activation: got 'glu'"):
        Activation("glu")
    with pytest.raises(ValueError, match="activation: got 3"):
        Activation(3)
    with pytest.raises(TypeError, match="activation: got 3"):
        activations.get(3)
    with pytest.raises(ValueError, match="activation: got"):
        activations.get({"class_name": "Activation"})
    with pytest.raises(TypeError, match=r"argument of leaky_relu: got 'slope'.*negative_slope"):
        Activation("leaky_relu", slope=0.1)
    with pytest.raises(TypeError, match=r"argument of tanh: got 'alpha'"):
        Activation("tanh", alpha=0.1)
    with pytest.raises(ValueError, match=r"max_value: got -1"):
        Activation("relu", max_value=-1)
    with pytest.raises(ValueError, match=r"threshold: got -1"):
        Activation("relu", threshold=-1.0)
    with pytest.raises(ValueError, match=r"alpha: got nan"):
        Activation("elu", alpha=float("nan"))
    with pytest.raises(TypeError, match=r"approximate: got 1 "):
        Activation("gelu", approximate=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        activations.relu.name = "tanh"


def test_a_function_that_keras_registered_is_read():
    """As `to_keras` leaves gelu by tanh, which Keras has no class for."""
    expected = activations.Activation("gelu", approximate=True)
    for described in ("fastreg>gelu_tanh", {"class_name": "function", "config": "gelu_tanh"}):
        assert activations.get(described) == expected
