"""What stands around an optimizer's step, beside the installed Keras, live."""

from __future__ import annotations

import inspect

import pytest
from golden import peers

import fastreg

keras = peers.keras_in_float64()

SCHEDULES = [
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.3}),
    (
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.3, "staircase": True},
    ),
    ("PiecewiseConstantDecay", {"boundaries": [3, 9], "values": [0.1, 0.02, 0.3]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 9, "power": 2.0}),
    (
        "PolynomialDecay",
        {
            "initial_learning_rate": 0.1,
            "decay_steps": 4,
            "end_learning_rate": 0.01,
            "cycle": True,
        },
    ),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.7}),
    (
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 5, "decay_rate": 0.7, "staircase": True},
    ),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 9, "alpha": 0.1}),
    (
        "CosineDecay",
        {
            "initial_learning_rate": 0.01,
            "decay_steps": 9,
            "warmup_target": 0.1,
            "warmup_steps": 4,
        },
    ),
    (
        "CosineDecayRestarts",
        {
            "initial_learning_rate": 0.1,
            "first_decay_steps": 4,
            "t_mul": 1.5,
            "m_mul": 0.8,
            "alpha": 0.05,
        },
    ),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 4, "t_mul": 1.0}),
]


def named(case):
    return f"{case[0]}-{len(case[1])}"


@pytest.mark.parametrize("case", SCHEDULES, ids=named)
def test_schedules_step_by_step(case):
    name, config = case
    ours = getattr(fastreg.optimizers.schedules, name)(**config)
    theirs = getattr(keras.optimizers.schedules, name)(**config)
    for step in range(40):
        assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-12, abs=1e-16), step
    assert ours.get_config() == theirs.get_config()
    described = keras.optimizers.schedules.serialize(theirs)
    assert fastreg.optimizers.schedules.deserialize(described) == ours
    names = inspect.signature(type(theirs)).parameters
    for theirs_p, ours_p in zip(
        names.values(), inspect.signature(type(ours)).parameters.values(), strict=True
    ):
        assert (theirs_p.name, theirs_p.default) == (ours_p.name, ours_p.default)
