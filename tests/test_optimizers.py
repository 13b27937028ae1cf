"""Optimizers: settings, their checks whenever they are set, names and configurations."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pytest

from fastreg import inputs, optimizers
from fastreg.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    Nadam,
    RMSprop,
)

ALL = list(optimizers.REGISTRY.classes)


def arguments(cls):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }


def test_arguments_in_keras_order_with_keras_defaults():
    ours = {
        **dict.fromkeys(["clipnorm", "clipvalue", "global_clipnorm"]),
        "use_ema": False,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": None,
        "gradient_accumulation_steps": None,
        "l1_step": "sign",
        "name": None,
    }
    adam = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}
    for cls, keras in [
        (SGD, {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": None}),
        (Adam, {"learning_rate": 0.001, **adam, "weight_decay": None}),
        (AdamW, {"learning_rate": 0.001, "weight_decay": 0.004, **adam}),
        (Lion, {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99, "weight_decay": None}),
    ]:
        assert list(arguments(cls).items()) == list({**keras, **ours}.items())


def test_describe():
    assert SGD(0.1, 0.9, True, 0.01).describe() == {
        "kind": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.01,
        "l1_step": "sign",
    }
    adam = {"kind": "adam", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    adam |= {"l1_step": "sign", "amsgrad": False}
    assert Adam().describe() == {**adam, "weight_decay": 0.0}
    assert AdamW().describe() == {**adam, "weight_decay": 0.004}
    assert AdamW(weight_decay=0).describe()["weight_decay"] == 0.0


@pytest.mark.parametrize("cls", ALL)
def test_settable_and_checked(cls):
    optimizer = cls()
    optimizer.learning_rate = np.float32(0.25)
    optimizer.weight_decay = 0.5
    optimizer.iterations = np.int64(3)
    assert type(optimizer.learning_rate) is float
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.iterations) == (0.25, 0.5, 3)
    for name, value in [
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -1e-9),
        ("iterations", -1),
        ("l1_step", "proxmal"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: got "):
            setattr(optimizer, name, value)
    for name, value in [("learning_rate", "0.1"), ("learning_rate", None), ("iterations", 1.5)]:
        with pytest.raises(TypeError, match=f"{name}: got "):
            setattr(optimizer, name, value)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.iterations) == (0.25, 0.5, 3)


@pytest.mark.parametrize("cls", ALL)
def test_a_mistyped_setting_is_no_new_attribute(cls):
    with pytest.raises(AttributeError, match=r"got 'learning_rte'.*Did you mean 'learning_rate'"):
        cls().learning_rte = 0.1


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (SGD, "momentum", -0.1),
        (SGD, "momentum", 1.1),
        (Adam, "beta_1", 1.0),
        (Adam, "beta_2", 1.0),
        (Adam, "beta_2", -0.1),
        (Adam, "epsilon", 0.0),
        (Adam, "epsilon", -1e-7),
        (AdamW, "weight_decay", float("inf")),
        (Adamax, "beta_1", -0.1),
        (Nadam, "epsilon", 0.0),
        (RMSprop, "rho", 1.0),
        (RMSprop, "momentum", 2.0),
        (Adagrad, "initial_accumulator_value", -0.1),
        (Adadelta, "epsilon", 0.0),
        (Lion, "beta_2", 1.0),
        (Ftrl, "learning_rate", 0.0),
        (Ftrl, "learning_rate_power", 0.1),
        (Ftrl, "l1_regularization_strength", -1.0),
    ],
)
def test_out_of_range(cls, name, value):
    with pytest.raises(ValueError, match=f"{name}: got "):
        cls(**{name: value})
    with pytest.raises(ValueError, match=f"{name}: got "):
        setattr(cls(), name, value)


def test_of_another_kind():
    with pytest.raises(TypeError, match="nesterov: got 1"):
        SGD(nesterov=1)
    assert SGD(nesterov=np.bool_(True)).nesterov is True
    with pytest.raises(TypeError, match="weight_decay: got None"):
        AdamW(weight_decay=None)
    with pytest.raises(TypeError, match="learning_rate: got <function"):
        SGD(lambda: 0.1)
    with pytest.raises(TypeError, match="name: got 3"):
        SGD(name=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss_scale_factor", 2.0),
    ],
)
@pytest.mark.parametrize("cls", ALL)
def test_what_only_keras_has(cls, name, value):
    with pytest.raises(ValueError, match=f"{name}: got {value}; {cls.__name__} supports only"):
        cls(**{name: value})
    assert cls(**{name: cls.keras_only[name]}) == cls()


def test_every_setting_reaches_the_engine():
    """`describe` says what the table of the functions lists, with the same defaults."""
    for cls in ALL:
        expected = {**inputs.OPTIMIZERS[cls.kind], "l1_step": "sign", "kind": cls.kind}
        described = cls().describe()
        if cls is not AdamW:
            assert described.pop("weight_decay") == 0.0
            assert described == expected
        for name, value in described.items():
            if name in ("kind", "l1_step"):
                continue
            changed = cls()
            new = (not value) if isinstance(value, bool) else value / 2 or 0.25
            setattr(changed, name, new)
            assert changed.describe()[name] == new != value
            assert changed != cls()


@pytest.mark.parametrize("cls", [Adadelta, Lion, Ftrl, partial(RMSprop, centered=True)])
@pytest.mark.parametrize("l1_step", ["proximal", "cumulative"])
def test_no_threshold(cls, l1_step):
    with pytest.raises(ValueError, match=f"l1_step: got '{l1_step}'; 'sign' is needed for"):
        cls(l1_step=l1_step).describe()


@pytest.mark.parametrize("cls", ALL)
def test_unknown_argument(cls):
    with pytest.raises(TypeError, match=f"argument of {cls.__name__}: got 'lr'"):
        cls(lr=0.1)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, 0.9, True, 0.01),
        Adam(1e-4, amsgrad=True),
        SGD(name="mine"),
        *(cls() for cls in ALL),
    ],
    ids=repr,
)
def test_configuration_round_trip(optimizer):
    again = type(optimizer).from_config(optimizer.get_config())
    assert again == optimizer
    assert again is not optimizer
    assert optimizers.get(optimizers.serialize(optimizer)) == optimizer
    assert eval(repr(optimizer)) == optimizer


def test_configuration_of_keras():
    # What keras.optimizers.serialize(keras.optimizers.Adam(0.5)) is in Keras 3.15.
    keras = {
        "name": "adam",
        "learning_rate": 0.5,
        "weight_decay": None,
        "clipnorm": None,
        "global_clipnorm": None,
        "clipvalue": None,
        "use_ema": False,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": None,
        "loss_scale_factor": None,
        "gradient_accumulation_steps": None,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-07,
        "amsgrad": False,
    }
    assert optimizers.get({"class_name": "Adam", "config": keras}) == Adam(0.5)


def test_equal_means_same_class_and_settings():
    assert SGD() == SGD()
    assert SGD(0.1) != SGD()
    assert Adam(weight_decay=0.004, name="adamw") != AdamW()
    stepped = SGD()
    stepped.iterations = 5
    assert stepped == SGD()
    with pytest.raises(TypeError, match="unhashable"):
        hash(SGD())


def test_get():
    optimizer = Adam()
    assert optimizers.get(optimizer) is optimizer
    assert optimizers.get("adam") == optimizers.get("Adam") == optimizers.get(Adam) == optimizer
    assert optimizers.get("SGD") == optimizers.get("sgd") == SGD()
    assert optimizers.get("adamw") == AdamW()
    assert optimizers.get("adam") is not optimizers.get("adam")
    with pytest.raises(ValueError, match=r"optimizer: got 'aadm'; .*Did you mean 'adam'"):
        optimizers.get("aadm")
    with pytest.raises(TypeError, match="optimizer: got None"):
        optimizers.get(None)
