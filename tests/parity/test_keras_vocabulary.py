"""Whole trainings in all of Keras' words together, beside the installed Keras, live.

Activations with their parameters, losses, optimizers with schedules, clipping, means of the weights
and accumulated gradients, constraints, regularizers and metrics: FASTREG_PARITY_SEED=<integer>
draws other combinations of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter

import numpy as np
import pytest
from golden import cases, peers

import fastreg

keras = peers.keras_in_float64()

SEED = int(os.environ.get("FASTREG_PARITY_SEED", "900"))
CASES = cases.vocabulary_cases(SEED, 84)
BACKENDS = ("compiled", "reference")


def close(case, dtype):
    """Both backends give Keras' answer; AssertionError if not. See `test_keras.compare`."""
    expected = peers.train_keras(case, dtype)
    for backend in BACKENDS:
        cases.assert_same(cases.train(fastreg, case, dtype, backend=backend), expected, dtype)
    return expected


@pytest.mark.parametrize("case", CASES, ids=cases.describe)
def test_training_in_float64(case):
    try:
        close(case, "float64")
    except AssertionError:
        close(case, "float64")  # one training in some 300 Keras does not repeat


@pytest.mark.parametrize("case", CASES, ids=cases.describe)
def test_training_in_float32(case):
    """As close to Keras' float32; or to its float64, where that is what Keras' float32 is not.

    A kink or a sign step can make much of a rounding. Then the float64 answer is the yardstick, and
    Keras' own float32, on JAX and on PyTorch, says how far from it a float32 training may end.
    """
    try:
        close(case, "float32")
    except AssertionError:
        exact = peers.train_keras(case, "float64")
        own = peers.train_keras(case, "float32"), peers.train_keras_on_torch(case)
        for backend in BACKENDS:
            mine = cases.train(fastreg, case, "float32", backend=backend)
            for name in exact:
                apart = [distances(each, exact, name) for each in (mine, *own)]
                for (ours, size), *theirs in zip(*apart, strict=True):
                    allowed = 2e-4 * size + max(each for each, _ in theirs)
                    assert ours <= allowed, f"{name}: {ours:.2g} apart, {allowed:.2g} allowed"


def distances(answer, exact, name):
    """Of each array of that name: the norm of the difference, and that of the exact one."""
    found, expected = answer[name], exact[name]
    if name != "weights":
        found, expected = [found], [expected]
    return [
        (np.linalg.norm(np.asarray(a, "float64") - b), np.linalg.norm(b))
        for a, b in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("case", CASES[:30], ids=cases.describe)
def test_models_move_both_ways(case):
    """Through a configuration, a text and Keras: the same model, which trains to the same bits."""
    model = cases.network(fastreg, case)
    copies = [
        fastreg.Sequential.from_config(json.loads(json.dumps(model.get_config()))),
        fastreg.from_keras(model.to_keras()),
    ]
    copies[0].set_weights(model.get_weights())
    settings = json.loads(json.dumps(fastreg.optimizers.serialize(model.optimizer)))
    optimizer = fastreg.optimizers.deserialize(settings)
    copies[0].compile(optimizer, cases.loss_of(fastreg, case["loss"]), case["metrics"])
    expected = cases.fit(model, case)
    for other in copies:
        for mine, theirs in zip(model.layers, other.layers, strict=True):
            assert mine.activation == theirs.activation
            for name in ("kernel", "bias"):
                for what in ("regularizer", "constraint"):
                    own = getattr(mine, f"{name}_{what}")
                    assert own == getattr(theirs, f"{name}_{what}")
        found = cases.fit(other, case)
        for name, value in expected.items():
            if name == "weights":
                assert all((a == b).all() for a, b in zip(value, found[name], strict=True))
            else:
                assert (value == found[name]).all(), name


def test_the_cases_hold_all_of_the_vocabulary():
    layers = [layer for case in CASES for layer in case["layers"]]
    activations = Counter(str(layer["activation"]) for layer in layers)
    assert all(activations[str(each)] >= 3 for each in cases.ACTIVATIONS)
    optimizers = {str(case["optimizer"]["config"]) for case in CASES}
    drawn = [*cases.OPTIMIZERS, *cases.MORE_OPTIMIZERS]
    drawn += [*cases.STEP_OPTIMIZERS, *cases.SCHEDULED]
    assert optimizers == {str(config) for _, config in drawn}
    losses = {str(case["loss"]) for case in CASES}
    assert losses == {str(head[1]) for head in cases.VOCABULARY["head"]}
    for what in ("kernel_constraint", "kernel_regularizer"):
        found = {layer[what] and layer[what]["class_name"] for layer in layers}
        module = getattr(fastreg, what.split("_")[1] + "s")
        others = {"GroupL1", "L1", "KLSparsity"}  # the last is of activities
        assert found >= {cls.__name__ for cls in module.REGISTRY.classes} - others
