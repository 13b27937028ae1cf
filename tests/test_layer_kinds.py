"""Every kind of layer that is not dense: against the twin, its slopes, threads, noise.

The tables of the tests are those of the engine: a kind that is not drawn here fails by its name.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_engine import (
    COEFFICIENTS,
    DTYPES,
    OPTIMIZERS,
    Run,
    assert_same_training,
    dense,
    draw_targets,
)

from fastreg import _engine, functional, inputs, reference

KINDS = [kind for kind in _engine.names()["layer"] if kind != "dense"]
NOISES = tuple(reference.NOISES)
SMOOTH = ("tanh", "sigmoid", "softplus", "gelu")  # of which central differences say enough
HEADS = [
    ("linear", "mean_squared_error"),
    ("sigmoid", "binary_crossentropy"),
    ("softmax", "categorical_crossentropy"),
    ("softmax", "sparse_categorical_crossentropy"),
]


def make(kind, n, rng, activation="tanh"):
    """Settings of a layer of that kind, as `Network` takes them, none at a value that hides it."""
    layer = {"kind": kind, "n_in": n, "n_out": n}
    penalties = {name: float(rng.uniform(0, 0.02)) for name in COEFFICIENTS}
    if activation in ("sigmoid", "softmax"):
        penalties |= {"activity_kl": 0.05, "activity_rate": 0.3}
    if kind == "activation":
        return layer | penalties | {"activation": activation, "curve": None}
    if kind == "flatten":
        return layer  # of one row; of several: test_flatten.py
    seed = int(rng.integers(2**63)) if rng.random() < 0.5 else None
    if kind == "gaussian_noise":
        return layer | {"stddev": 0.2, "seed": seed}
    if kind in NOISES:
        return layer | {"rate": 0.3, "seed": seed}
    layer |= penalties | {"trainable": True, "epsilon": 1e-3}
    layer |= {"use_gamma": rng.random() < 0.8, "use_bias": rng.random() < 0.8}
    if kind == "rms_normalization":
        return layer | {"use_gamma": True, "use_bias": False}
    if kind == "layer_normalization":
        return layer
    if kind == "batch_normalization":
        return layer | {"momentum": 0.7}
    raise KeyError(kind)


def draw(kind, activation, loss, variant, widths=(5, 17, 33, 3), optimizer="nesterov"):
    """A case as `test_engine.draw` makes them: the kind at the entry and between, f on its own."""
    rng = np.random.default_rng(list(f"{kind}-{activation}-{loss}-{variant}".encode()))
    n_in, first, second, n_out = widths
    layers = [
        make(kind, n_in, rng),
        dense(n_in, first, "relu", kernel_l1=1e-3, activity_l2=1e-2),
        make(kind, first, rng, SMOOTH[variant % 4]),
        make(kind, first, rng, "softmax"),
        dense(first, second, bias_l2=1e-2, trainable=variant % 2 == 0),
        make(kind, second, rng, SMOOTH[(variant + 1) % 4]),
        dense(second, n_out),
        make("activation", n_out, rng, activation),
    ]
    n = 41 + 7 * variant
    return {
        "name": f"{kind}-{activation}-{loss}-{variant}",
        "layers": layers,
        "weights": draw_weights(rng, layers),
        "x": rng.normal(size=(n, n_in)),
        "y": draw_targets(rng, loss, n, n_out),
        "sample_weight": rng.uniform(0, 2, n) if variant % 2 else None,
        "index": rng.permutation(n) if variant % 3 else None,
        "start": variant % 2,
        "stop": n - variant % 3,
        "batch_size": 13 + variant,
        "loss": loss,
        "optimizer": OPTIMIZERS[optimizer],
        "iteration": variant,
        "seed": int(rng.integers(2**63)),
        "accuracy": "sparse_categorical" if loss.startswith("sparse") else "binary",
    }


def draw_weights(rng, layers):
    """Those of each layer, in the order of `get_weights`."""
    weights = []
    for layer in layers:
        if layer["kind"] == "dense":
            shape = (layer["n_in"], layer["n_out"])
            weights.append(rng.normal(size=shape) / (2 * np.sqrt(shape[0])))
            weights.append(rng.normal(size=shape[1]) / 10)
        n = layer["n_out"]
        if layer.get("use_gamma"):
            weights.append(rng.uniform(0.5, 1.5, n))
        if layer.get("use_bias") and layer["kind"] != "dense":
            weights.append(rng.normal(size=n) / 10)
        if layer["kind"] == "batch_normalization":
            weights += [rng.normal(size=n) / 10, rng.uniform(0.5, 1.5, n)]
    return weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "loss"), HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_equals_the_reference(kind, activation, loss, dtype):
    for variant in range(4):
        assert_same_training(draw(kind, activation, loss, variant), dtype, 1 + variant % 3)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_widths_equal_the_reference(kind):
    for number, n in enumerate((1, 2, 7, 8, 15, 16, 31, 64, 65, 100)):
        case = draw(kind, *HEADS[number % 4], number % 4, (n, 1 + 37 * n % 101, n, 2))
        for dtype in DTYPES:
            assert_same_training(case, dtype)


def test_kinds_together_equal_the_reference():
    """Of all kinds one after the other, under Adam with an L1 step that reaches zero."""
    rng = np.random.default_rng(8)
    for dtype, optimizer in itertools.product(DTYPES, ("adam proximal", "nesterov cumulative")):
        case = draw("activation", "softmax", "categorical_crossentropy", 2, optimizer=optimizer)
        layers = case["layers"]
        case["layers"] = layers[:2] + [make(kind, 17, rng) for kind in KINDS] + layers[4:]
        case["weights"] = draw_weights(rng, case["layers"])
        assert_same_training(case, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind):
    case = draw(kind, "softmax", "categorical_crossentropy", 0, (40, 300, 301, 10))
    rng = np.random.default_rng(3)
    case |= {"x": rng.normal(size=(600, 40)), "stop": 600, "batch_size": 259, "index": None}
    case["y"] = draw_targets(rng, "categorical_crossentropy", 600, 10)
    runs = [Run(_engine, case, "float32", n_threads) for n_threads in (1, 2, 3, 8)]
    for run in runs[1:]:
        for mine, first in zip([*run.arrays, run.out], [*runs[0].arrays, runs[0].out], strict=True):
            np.testing.assert_array_equal(mine, first)
        np.testing.assert_array_equal(run.ledger, runs[0].ledger)


def slope(module, case, weights, direction, h):
    """The derivative of a step's loss along a direction, by central differences of fourth order."""
    values = {}
    for k in (-2, -1, 1, 2):
        network = module.Network(case["layers"], "float64")
        network.set_weights([w + k * h * d for w, d in zip(weights, direction, strict=True)])
        values[k] = loss_of(network, case)
    return (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)


def loss_of(network, case, optimizer=None):
    """The loss that one step sees, with all penalties, and the step it takes."""
    n = case["batch_size"]
    ledger = np.zeros(6)
    still = {"kind": "sgd", "learning_rate": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    done = network.train(
        *(case["x"], case["y"], case["sample_weight"], None, 0, n, n, case["loss"]),
        *(optimizer or still, 5, case["seed"], None, ledger, 1),
    )
    assert done == 1
    return ledger[:4].sum() / n


@pytest.mark.parametrize(("activation", "loss"), HEADS)
@pytest.mark.parametrize("middle", SMOOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_slope_of_the_loss(kind, middle, activation, loss):
    """Central differences over kind x activation x loss, along random directions."""
    case = draw(kind, activation, loss, 0, (4, 5, 6, 3))
    for number in (2, 5):
        if case["layers"][number]["kind"] == "activation":
            case["layers"][number]["activation"] = middle
    for layer in case["layers"]:
        layer |= {"momentum": 1.0} if "momentum" in layer else {}  # moving moments stay
    case["layers"][1]["activation"] = middle
    step = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    rng = np.random.default_rng(1)
    network = _engine.Network(case["layers"], "float64")
    network.set_weights(case["weights"])
    loss_of(network, case, step)
    gradient = [a - b for a, b in zip(case["weights"], network.get_weights(), strict=True)]
    for _ in range(3):
        direction = [rng.normal(size=w.shape) for w in case["weights"]]
        expected = slope(_engine, case, case["weights"], direction, 1e-5)
        mine = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        assert mine == pytest.approx(expected, rel=1e-6, abs=1e-8)


# ------------------------------------------------------------------ noise


AMOUNTS = {"dropout": 0.3, "gaussian_noise": 0.7, "gaussian_dropout": 0.3, "alpha_dropout": 0.3}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_bits_of_any_tile(kind, dtype):
    """Element by element within rounding of the twin, and the same in any number of columns."""
    amount, x = AMOUNTS[kind], np.random.default_rng(0).normal(size=(37, 131)).astype(dtype)
    options = {"seed": 2**63 + 5, "iteration": 2**33 + 1, "layer": 3}
    mine = getattr(functional, kind)(x, amount, **options)
    twin = getattr(reference, kind)(x, amount, **options)
    unit = np.finfo(dtype).eps
    assert np.abs(mine - twin).max() <= 32 * unit * (1 + np.abs(x).max())
    for n in (1, 5, 64, 97):
        part = getattr(functional, kind)(np.ascontiguousarray(x[:, :n]), amount, **options)
        np.testing.assert_array_equal(part, mine[:, :n])


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_the_moments_of_keras_formulas(kind):
    amount, n = AMOUNTS[kind], 2000
    x = np.random.default_rng(0).normal(size=(n, 500))
    y = getattr(functional, kind)(x, amount, seed=4)
    ones = getattr(functional, kind)(np.ones((n, 500)), amount, seed=5)
    count = x.size
    if kind == "gaussian_noise":
        variance = amount**2
    elif kind == "alpha_dropout":
        assert abs(y.mean()) < 5 / np.sqrt(count) and abs(y.var() - 1) < 10 / np.sqrt(count)
        assert len(np.unique(ones)) == 2
        return
    else:
        variance = amount / (1 - amount)
    assert abs(ones.mean() - 1) < 5 * np.sqrt(variance / count)
    assert abs(ones.var() / variance - 1) < 10 / np.sqrt(count)


def test_normal_numbers_are_normal_and_do_not_know_each_other():
    stats = pytest.importorskip("scipy.stats")
    z = functional.gaussian_noise(np.zeros((2000, 400)), 1.0, seed=123)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest((z**2).sum(axis=1), "chi2", args=(400,)).pvalue > 1e-3
    for lag in range(1, 9):  # within a block, and from block to block
        assert abs((z[:, lag:] * z[:, :-lag]).mean()) < 5 / np.sqrt(z.size)
    assert abs((z[1:] * z[:-1]).mean()) < 5 / np.sqrt(z.size)


@pytest.mark.parametrize("module", [_engine, reference], ids=["engine", "reference"])
@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_nothing_at_inference_and_nothing_at_zero(kind, module):
    x = np.random.default_rng(0).normal(size=(9, 21))
    amount = "stddev" if kind == "gaussian_noise" else "rate"
    noise = {"kind": kind, "n_in": 21, "n_out": 21, "seed": None}
    networks = [
        module.Network([*first, dense(21, 2)], "float64")
        for first in ([], [noise | {amount: 0.5}], [noise | {amount: 0.0}])
    ]
    out = np.empty((3, 9, 2))
    for network, y in zip(networks, out, strict=True):
        network.set_weights([np.arange(42.0).reshape(21, 2), np.ones(2)])
        network.forward(x, 32, y, 1)
    np.testing.assert_array_equal(out[1], out[0])
    case = {"x": x, "y": np.zeros((9, 2)), "sample_weight": None, "batch_size": 9}
    case |= {"loss": "mean_squared_error", "seed": 3}
    plain, loud, silent = (loss_of(network, case) for network in networks)
    assert silent == plain != loud


# ------------------------------------------------------------------ normalization

NORMALS = ("layer_normalization", "rms_normalization", "batch_normalization")


@pytest.mark.parametrize("kind", NORMALS)
def test_frozen_normalization_equals_the_reference(kind):
    """Frozen, a batch normalization takes the moving moments, and they stay."""
    for variant in range(4):
        case = draw(kind, *HEADS[variant], variant)
        for layer in case["layers"]:
            if layer["kind"] == kind:
                layer["trainable"] = bool(variant & 1) and layer["n_out"] == 17
        for dtype in DTYPES:
            assert_same_training(case, dtype)
    still = draw(kind, *HEADS[0], 0)
    for layer in still["layers"]:
        layer["trainable"] = False
    run = Run(_engine, still, "float64")
    for mine, first in zip(run.arrays, still["weights"], strict=False):
        np.testing.assert_array_equal(mine, first)


@pytest.mark.parametrize("module", [_engine, reference], ids=["engine", "reference"])
def test_moving_moments_are_those_of_the_batches(module):
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, size=(23, 5))
    layer = make("batch_normalization", 5, rng) | {"momentum": 0.25, "use_gamma": False}
    layer["use_bias"] = False
    network = module.Network([layer, dense(5, 1)], "float64")
    network.set_weights([np.zeros(5), np.ones(5), np.ones((5, 1)), np.zeros(1)])
    mean, variance = np.zeros(5), np.ones(5)
    for first in range(0, 23, 10):
        batch = x[first : first + 10]
        mean = 0.25 * mean + 0.75 * batch.mean(axis=0)
        variance = 0.25 * variance + 0.75 * batch.var(axis=0)
    still = {"kind": "sgd", "learning_rate": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    done = network.train(
        *(x, np.zeros((23, 1)), None, None, 0, 23, 10, "mean_squared_error"),
        *(still, 0, 0, None, np.zeros(6), 1),
    )
    assert done == 3
    weights = network.get_weights()
    np.testing.assert_allclose(weights[0], mean, rtol=1e-12)
    np.testing.assert_allclose(weights[1], variance, rtol=1e-12)
    out = np.empty((23, 1))
    network.forward(x, 32, out, 1)
    expected = ((x - mean) / np.sqrt(variance + 1e-3)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("module", [_engine, reference], ids=["engine", "reference"])
def test_a_step_that_is_not_finite_moves_nothing(module):
    rng = np.random.default_rng(0)
    network = module.Network([make("batch_normalization", 3, rng), dense(3, 1)], "float64")
    before = [np.ones_like(w) for w in network.get_weights()]
    network.set_weights(before)
    x = np.full((8, 3), 1e200)
    x[0] = -1e200
    done = network.train(
        *(x, np.full((8, 1), 1e200), None, None, 0, 8, 8, "mean_squared_error"),
        *(OPTIMIZERS["sgd"], 0, 0, None, np.zeros(6), 1),
    )
    assert done == 0
    for mine, first in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, first)


@pytest.mark.parametrize("kind", NORMALS)
@pytest.mark.parametrize(
    "more",
    [
        {"clipnorm": 0.05},
        {"clipvalue": 0.01},
        {"global_clipnorm": 0.1},
        {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_gamma_and_beta_are_weights_as_others_are(kind, more):
    """Clipped, averaged and summed; moving moments are none of it."""
    bound = inputs.Bound("norm", 0.0, 0.7, 1.0, False, False)
    for variant in range(3):
        case = draw(kind, *HEADS[variant], variant)
        case["optimizer"] = case["optimizer"] | more
        for layer in case["layers"]:
            if layer["kind"] == kind:
                layer |= {"kernel_constraint": bound, "keeps_kernel": True}
                layer["bias_constraint"] = inputs.Bound("non_neg", 0.0, 0.0, 1.0, False, False)
        for dtype in DTYPES:
            assert_same_training(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_far_from_zero_keep_their_digits(dtype):
    """A mean of 1e4 deviations: squares would cancel."""
    x = np.random.default_rng(0).normal(1e3, 0.1, size=(50, 40)).astype(dtype)
    wide = x.astype(np.longdouble)
    for axis, y in (
        (1, functional.layer_normalization(x)),
        (0, functional.batch_normalization(x, *moments_of(x, dtype))),
    ):
        off = wide - wide.mean(axis=axis, keepdims=True)
        expected = off / np.sqrt(wide.var(axis=axis, keepdims=True) + 1e-3)
        assert np.abs(y - expected).max() < 1e4 * 8 * np.finfo(dtype).eps


def moments_of(x, dtype):
    wide = x.astype(np.longdouble)
    return wide.mean(axis=0).astype(dtype), wide.var(axis=0).astype(dtype)
