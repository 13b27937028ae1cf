"""The compiled network against its NumPy twin, over everything a network can be made of.

The table (activation x loss x optimizer, the rest drawn) runs here with the products and the
instruction set in use, and in a process each for every other pair that was built.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import threadpoolctl
from losses_with_settings import WITH_SETTINGS
from processes import run

from fastreg import _engine, functional, inputs, reference

DTYPES = ("float64", "float32")
ACTIVATIONS = (
    *("linear", "relu", "tanh", "sigmoid", "softmax", "log_softmax", "leaky_relu", "relu6", "elu"),
    *("selu", "exponential", "softplus", "softsign", "hard_sigmoid", "hard_silu", "silu", "gelu"),
    *("gelu_tanh", "mish"),
)
CURVES = {"elu": (0.7, np.inf, 0.0), "leaky_relu": (0.3, 1.2, 0.1)}
LOSSES = (
    "mean_squared_error",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "log_cosh",
    "poisson",
    "kl_divergence",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
    "cosine_similarity",
    "huber",
    "quantile",
    "binary_focal_crossentropy",
)
POSITIVE_HEADS = ("sigmoid", "softplus", "softmax")
COMMON = ("sgd", "nesterov", "adam")  # optimizers
ADAM = {"kind": "adam", "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
OPTIMIZERS = {
    "sgd": {"kind": "sgd", "learning_rate": 0.02, "momentum": 0.0, "nesterov": False},
    "momentum": {"kind": "sgd", "learning_rate": 0.01, "momentum": 0.9, "nesterov": False},
    "nesterov": {
        "kind": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.05,
    },
    "adam": ADAM | {"learning_rate": 0.003},
    "adamw": ADAM | {"learning_rate": 0.003, "weight_decay": 0.1},
}
OTHERS = {  # what the big table does without; none of them divides by roots that may be near 0
    "amsgrad": ADAM | {"learning_rate": 0.003, "amsgrad": True},
    "adamax": ADAM | {"kind": "adamax", "learning_rate": 0.003, "epsilon": 1e-4},
    "nadam": ADAM | {"kind": "nadam", "learning_rate": 0.003},
    "rmsprop": {"kind": "rmsprop", "learning_rate": 0.003, "rho": 0.9, "epsilon": 1e-4},
    "adagrad": {"kind": "adagrad", "learning_rate": 0.01, "epsilon": 1e-7}
    | {"initial_accumulator_value": 0.1, "weight_decay": 0.1},
    "adadelta": {"kind": "adadelta", "learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-4},
    "lion": {"kind": "lion", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99},
    "ftrl": {"kind": "ftrl", "learning_rate": 0.05, "initial_accumulator_value": 0.1, "beta": 0.1}
    | {"learning_rate_power": -0.5, "l1_regularization_strength": 1e-3}
    | {"l2_regularization_strength": 1e-3, "l2_shrinkage_regularization_strength": 1e-3},
}
OTHERS["rmsprop"] |= {"momentum": 0.0, "centered": False}
OTHERS["heavy rmsprop"] = OTHERS["rmsprop"] | {"momentum": 0.7, "centered": True, "epsilon": 1e-2}
OTHERS["powered ftrl"] = OTHERS["ftrl"] | {"learning_rate_power": -0.7, "weight_decay": 0.1}
OTHERS |= {
    f"{name} {l1_step}": OTHERS[name] | {"l1_step": l1_step}
    for name, l1_step in [
        ("amsgrad", "proximal"),
        ("adamax", "cumulative"),
        ("nadam", "proximal"),
        ("rmsprop", "cumulative"),
        ("rmsprop", "proximal"),
        ("adagrad", "cumulative"),
    ]
}
OTHERS = {name: {"weight_decay": 0.0} | each for name, each in OTHERS.items()}
OPTIMIZERS |= {
    f"{name} {l1_step}": OPTIMIZERS[name] | {"l1_step": l1_step}
    for name, l1_step in [
        ("sgd", "proximal"),
        ("nesterov", "cumulative"),
        ("adam", "proximal"),
        ("adamw", "cumulative"),
    ]
}
OPTIMIZERS = {name: {"weight_decay": 0.0} | each for name, each in OPTIMIZERS.items()}
COEFFICIENTS = [f"{of}_{power}" for of in ("kernel", "bias", "activity") for power in ("l1", "l2")]

# Around the widths of a vector and of a panel of two vectors, for 4 to 16 numbers a vector.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 97, 100)

# Largest difference, relative to the norm, after a dozen steps: rounding (1e-16, 6e-8) times the
# steps and the growth of an error in one, with two digits of room. Adam sets float32's: it divides
# gradients by their own size, so those near 0 carry their rounding along.
TOLERANCE = {"float64": 1e-12, "float32": 5e-5}


def dense(n_in, n_out, activation="linear", **settings):
    layer = {"kind": "dense", "n_in": n_in, "n_out": n_out, "activation": activation}
    layer |= {"curve": CURVES.get(activation), "use_bias": True, "trainable": True}
    layer |= dict.fromkeys(COEFFICIENTS, 0.0)
    return layer | settings


def dropout(n, rate=0.3, seed=None):
    return {"kind": "dropout", "n_in": n, "n_out": n, "rate": rate, "seed": seed}


def fused(activation, loss):
    return (activation, loss == "binary_crossentropy") == ("sigmoid", True) or (
        activation == "softmax" and "categorical" in loss
    )


def draw_layers(rng, activation, loss):
    """Two to four dense layers of drawn widths, with dropout, frozen layers, no bias, penalties."""

    def maybe(share):
        return bool(rng.random() < share)

    n = rng.choice(WIDTHS, size=rng.integers(3, 6)).tolist()
    layers = [dropout(n[0], 0.2)] if maybe(0.2) else []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(n), start=2):
        last = number == len(n)
        # exponential and log_softmax make values, and differences, that grow from layer to layer.
        own = () if activation in (*ACTIVATIONS[:6], "exponential") else (activation,) * 5
        hidden = ACTIVATIONS[:5] + own
        layer = dense(n_in, n_out, activation if last else str(rng.choice(hidden)))
        # The clipped losses need a bias at the head to keep what they see between 0 and 1.
        if not last or fused(activation, loss) or loss == "mean_squared_error":
            layer["use_bias"] = maybe(0.7)
        layer["trainable"] = maybe(0.8)
        for name in COEFFICIENTS:
            layer[name] = float(rng.uniform(0, 0.02)) if maybe(0.4) else 0.0
        layers.append(layer)
        if not last and maybe(0.4):
            layers.append(
                dropout(n_out, 0.3, seed=int(rng.integers(2**63)) if maybe(0.5) else None)
            )
    return layers


# Where an activation that is not near the identity there gives 0.5.
HALF_AT = {"softplus": -0.43, "exponential": -0.69}


def draw_weights(rng, layers, clipped=False):
    """Kernels and biases; with `clipped`, the loss sees values near 0.5, far from log(0)."""
    weights = []
    for layer in layers:
        if layer["kind"] == "dense":
            shape = (layer["n_in"], layer["n_out"])
            weights.append(rng.normal(size=shape) / (2 * np.sqrt(shape[0])))
            if layer["use_bias"]:
                weights.append(rng.normal(size=shape[1]) / 10)
    if clipped:
        weights[-2] *= 0.2
        weights[-1] += HALF_AT.get(layers[-1]["activation"], 0.5)
    return weights


def draw_targets(rng, loss, n, n_out):
    if loss == "sparse_categorical_crossentropy":
        return rng.integers(0, n_out, n).astype(np.int32)
    if loss == "categorical_crossentropy":  # soft, and their sum is not 1
        return rng.uniform(0.05, 1, (n, n_out)) / n_out
    if loss.startswith("mean_absolute") or loss == "quantile":
        # Far from the outputs, where the gradient's sign steps, and with 100 / |y| of 1 to 2.
        return rng.uniform(50, 100, (n, n_out)) * rng.choice([-1.0, 1.0], (n, n_out))
    return rng.uniform(0, 1, (n, n_out))


def accuracies(loss):
    if loss == "sparse_categorical_crossentropy":
        return (None, "sparse_categorical")
    return (None, "binary", "categorical")


def draw(activation, loss, optimizer, variant):
    """One row of the table: layers, weights and the arguments of `train`, all in float64."""
    name = f"{activation}-{loss}-{optimizer}-{variant}"
    rng = np.random.default_rng(list(name.encode()))
    given, loss = loss, inputs.loss_parts(loss)[0]
    layers = draw_layers(rng, activation, loss)
    n, batch_size = int(rng.integers(30, 80)), int(rng.integers(5, 23))
    clipped = loss != "mean_squared_error" and not fused(activation, loss)
    return {
        "name": name,
        "layers": layers,
        "weights": draw_weights(rng, layers, clipped),
        "x": rng.normal(size=(n, layers[0]["n_in"])),
        "y": draw_targets(rng, loss, n, layers[-1]["n_out"]),
        "sample_weight": rng.uniform(0, 2, n) if rng.random() < 0.5 else None,
        "index": rng.permutation(n) if rng.random() < 0.5 else None,
        "start": int(rng.integers(0, 5)),
        "stop": n - int(rng.integers(0, 3)),
        "batch_size": batch_size,
        "loss": given,
        "optimizer": (OPTIMIZERS | OTHERS)[optimizer],
        "iteration": int(rng.integers(0, 3)),
        "seed": int(rng.integers(2**63)),
        "accuracy": rng.choice(accuracies(loss)),
    }


def array(values, dtype):
    return values if values is None or values.dtype == np.int32 else values.astype(dtype)


class Run:
    """A network of `draw`'s, trained twice over the data, evaluated, and asked for its output."""

    def __init__(self, module, case, dtype, n_threads=2):
        self.network = module.Network(case["layers"], dtype)
        self.network.set_weights([array(w, dtype) for w in case["weights"]])
        x, y, weight = (array(case[name], dtype) for name in ("x", "y", "sample_weight"))
        self.ledger, self.evaluated = np.zeros(6), np.zeros(6)
        self.steps = 0
        for _ in range(2):
            self.steps += self.network.train(
                x,
                y,
                weight,
                case["index"],
                case["start"],
                case["stop"],
                case["batch_size"],
                case["loss"],
                case["optimizer"],
                case["iteration"] + self.steps,
                case["seed"],
                case["accuracy"],
                self.ledger,
                n_threads,
            )
        self.network.evaluate(
            x,
            y,
            weight,
            case["start"],
            case["stop"],
            case["batch_size"],
            case["loss"],
            case["accuracy"],
            self.evaluated,
            n_threads,
        )
        self.out = np.empty((len(x), case["layers"][-1]["n_out"]), dtype)
        self.network.forward(x, case["batch_size"], self.out, n_threads)
        self.arrays = [*self.network.get_weights(), *itertools.chain(*self.network.get_slots())]


def assert_near(mine, expected, tolerance, what, scale=0.0):
    assert mine.shape == expected.shape and mine.dtype == expected.dtype, what
    scale = max(scale, float(np.linalg.norm(expected.astype("float64"))))
    off = float(np.linalg.norm(mine.astype("float64") - expected))
    assert off <= tolerance * scale, f"{what}: {off:.2e} off, {scale:.2e} large"


def describe(case):
    """What to rebuild a case from, for the message of a test that fails."""
    layers = [
        " ".join(f"{key}={value}" for key, value in layer.items() if value not in (0.0, None))
        for layer in case["layers"]
    ]
    arrays = [name for name in ("sample_weight", "index") if case[name] is not None]
    return "\n".join([f"{case['x'].shape}/{case['batch_size']} {arrays}", *layers])


def assert_same_training(case, dtype, n_threads=2):
    name = f"{case['name']} {dtype} {n_threads} threads {describe(case)}"
    mine = Run(_engine, case, dtype, n_threads)
    twin = Run(reference, case, dtype)
    tolerance = TOLERANCE[dtype]
    epoch = -(-(case["stop"] - case["start"]) // case["batch_size"])
    assert mine.steps == twin.steps == 2 * epoch, name
    assert len(mine.arrays) == len(twin.arrays), name
    # A state whose own gradients cancel (softmax over one column) is rounding and nothing else:
    # what counts is its size beside the largest state of the kind.
    per = len(case["weights"])
    for first in range(0, len(mine.arrays), per):
        group = twin.arrays[first : first + per]
        # What has shrunk, to zeros even, carries the rounding of what it was.
        kept = group if first else case["weights"]
        scale = max(np.linalg.norm(a.astype("float64")) for a in kept) / 10
        for number, expected in enumerate(group):
            what = f"state {first // per}, array {number} of {name}"
            assert_near(mine.arrays[first + number], expected, tolerance, what, scale)
    assert_near(mine.out, twin.out, tolerance, name)
    for ledger, expected in ((mine.ledger, twin.ledger), (mine.evaluated, twin.evaluated)):
        np.testing.assert_allclose(
            ledger[:4], expected[:4], rtol=tolerance, atol=tolerance, err_msg=name
        )
        # In float32 an output may fall on the other side of a threshold: one row in the run.
        assert abs(ledger[4] - expected[4]) <= (1.0 if dtype == "float32" else 1e-9), name
        assert ledger[5] == expected[5], name


@threadpoolctl.threadpool_limits.wrap(1, user_api="blas")  # NumPy's own threads would only wait
def check_table(
    activations=ACTIVATIONS,
    losses=LOSSES,
    dtypes=DTYPES,
    variants=range(3),
    every=1,
    optimizers=OPTIMIZERS,
):
    """Every so many rows of the table; returns how many were compared."""
    count = 0
    table = itertools.product(activations, losses, optimizers, variants)
    for names in itertools.islice(table, 0, None, every):
        case = draw(*names)
        for dtype in dtypes:
            assert_same_training(case, dtype, n_threads=1 + count % 3)
            count += 1
    return count


@threadpoolctl.threadpool_limits.wrap(1, user_api="blas")
def check_widths(widths=range(1, 101)):
    """Every width as n_in, batch_size, n_out and hidden width; the last batch has three rows."""
    for dtype, n in itertools.product(DTYPES, widths):
        rng = np.random.default_rng(n)
        hidden, n_out = 1 + (37 * n) % 100, 1 + (53 * n) % 100
        layers = [
            dense(n, hidden, "tanh", kernel_l1=1e-3, activity_l2=1e-2),
            dropout(hidden),
            dense(hidden, n, "relu", use_bias=n % 2 == 0, kernel_l2=1e-2),
            dense(n, n_out, "softmax", bias_l1=1e-3),
        ]
        case = draw("softmax", "sparse_categorical_crossentropy", "adam", 0) | {
            "layers": layers,
            "weights": draw_weights(rng, layers),
            "x": rng.normal(size=(n + 3, n)),
            "y": rng.integers(0, n_out, n + 3).astype(np.int32),
            "index": None,
            "sample_weight": None,
            "start": 0,
            "stop": n + 3,
            "batch_size": n,
        }
        assert_same_training(case, dtype)
    return len(widths)


@threadpoolctl.threadpool_limits.wrap(1, user_api="blas")
def check_wide():
    """Wider than any tile, batches of more than one panel of rows, and sums of a thousand terms."""
    rng = np.random.default_rng(4)
    for dtype in DTYPES:
        layers = [
            dense(1030, 301, "relu", kernel_l1=1e-4, activity_l1=1e-3),
            dropout(301),
            dense(301, 259, "sigmoid", bias_l2=0.1),
            dense(259, 11, "softmax"),
        ]
        case = draw("softmax", "categorical_crossentropy", "momentum", 0) | {
            "layers": layers,
            "weights": draw_weights(rng, layers),
            "x": rng.normal(size=(600, 1030)),
            "y": draw_targets(rng, "categorical_crossentropy", 600, 11),
            "index": rng.permutation(600),
            "sample_weight": None,
            "start": 0,
            "stop": 600,
            "batch_size": 261,
            "accuracy": "categorical",
        }
        assert_same_training(case, dtype)
    return len(DTYPES)


# ------------------------------------------------------------------ against the twin


def test_the_tables_are_those_of_the_reference():
    names = _engine.names()
    assert tuple(names["activation"]) == ACTIVATIONS == inputs.ACTIVATIONS
    assert set(ACTIVATIONS) == set(reference.ACTIVATIONS)
    wants_z = {name for name in ACTIVATIONS if _engine.wants_z(name)}
    assert wants_z == {name for name in ACTIVATIONS if reference.ACTIVATIONS[name].of_z}
    assert wants_z == set(inputs.ACTIVATIONS_OF_Z)
    assert set(names["loss"]) == set(LOSSES) == set(reference.LOSSES)
    assert set(names["optimizer"]) == set(reference.OPTIMIZERS) == set(inputs.OPTIMIZERS)
    tested = {each["kind"] for each in (OPTIMIZERS | OTHERS).values()}
    assert set(names["optimizer"]) == tested


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES[:4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_equals_the_reference(activation, loss, dtype):
    # All optimizers for the first five; the others differ in f and f' alone.
    every = 1 if activation in ACTIVATIONS[:5] else 9
    assert check_table([activation], [loss], [dtype], every=every) == -(-27 // every)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES[4:])
@pytest.mark.parametrize("activation", POSITIVE_HEADS)
def test_losses_of_each_output_equal_the_reference(activation, loss, dtype):
    """After heads whose outputs are positive: some of these have a logarithm of them."""
    assert check_table([activation], [loss], [dtype], optimizers=COMMON) == 9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", WITH_SETTINGS, ids=repr)
def test_losses_with_settings_equal_the_reference(loss, dtype):
    """Probabilities where the loss wants them; anything where it has its own softmax."""
    heads = ("linear", "relu", "softmax") if loss.settings.from_logits else POSITIVE_HEADS
    assert check_table(heads, [loss], [dtype], optimizers=COMMON) == 27


@pytest.mark.parametrize("optimizer", OTHERS)
def test_every_optimizer_equals_the_reference(optimizer):
    # The sign of nearly nothing, lion's mean or ftrl's weight near 0, follows its rounding.
    dtypes = ["float64"] if optimizer == "lion" or "ftrl" in optimizer else DTYPES
    heads = [("linear", LOSSES[0]), ("sigmoid", LOSSES[1]), ("softmax", LOSSES[3])]
    for activation, loss in heads:
        assert check_table([activation], [loss], dtypes, range(4), optimizers=[optimizer])


def test_every_width():
    assert check_widths() == 100


def test_wide_networks():
    assert check_wide() == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES[:4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_far_out(activation, loss, dtype):
    """Probabilities beyond the clip, logits of +-900: the same values, and no overflow on the way.

    The fifth output is 1 or more in every row, so that no sum over a row is 0.
    """
    if dtype == "float32" and (activation, loss) == ("softmax", "binary_crossentropy"):
        loss = "mean_squared_error"  # its terms of 1e7 cancel: more than 24 bits can tell
    rng = np.random.default_rng(6)
    far = 0.5 if activation == "exponential" else 300  # the loss squares it, a step follows that
    layers = [dense(4, 5, "linear"), dense(5, 5, activation)]
    case = draw(activation, loss, "sgd", 0) | {
        "layers": layers,
        "weights": [np.eye(4, 5), np.eye(5)[4], np.eye(5) * far, np.ones(5)],
        "x": rng.choice([-3.0, -1.0, 1.0, 3.0], (21, 4)) + rng.uniform(0, 0.1, (21, 4)),
        "y": draw_targets(rng, loss, 21, 5),
        "sample_weight": None,
        "index": None,
        "start": 0,
        "stop": 21,
        "batch_size": 21,
        "optimizer": OPTIMIZERS["sgd"] | {"learning_rate": 1e-4},
    }
    assert_same_training(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_units_are_saturated(dtype):
    """tanh beyond 20 is 1 to the last bit, and then nothing flows back: 1 - y^2 = 0."""
    z = np.array([20.0, -20.0, 50.0, -90.0, 900.0, -1e30, np.inf, -np.inf], dtype)
    z = np.tile(z, (3, 5))
    tanh = functional.activation_forward(z, "tanh")
    assert np.array_equal(tanh, np.sign(z))
    assert not functional.activation_backward(tanh, np.ones_like(z), "tanh").any()
    sigmoid = functional.activation_forward(z, "sigmoid")
    np.testing.assert_allclose(sigmoid, reference.activation_forward(z, "sigmoid"), rtol=1e-6)
    assert np.array_equal(sigmoid[z > 40], np.ones_like(z[z > 40]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES[:4])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_dropout_after_the_head(activation, loss, dtype):
    """The loss sees what is left of the probabilities, so nothing is fused."""
    for variant in range(4):
        case = draw(activation, loss, "nesterov", variant)
        n_out = case["layers"][-1]["n_out"]
        case["layers"].append(dropout(n_out, 0.02))
        if loss != "mean_squared_error" and n_out < 5:
            case["stop"] = case["start"] + 1  # rows that lose all of their few probabilities: 0/0
            case["layers"][-1]["rate"] = 0.0
        assert_same_training(case, dtype)


def others():
    """The pairs (instruction set, products) that this process does not run."""
    pairs = itertools.product(_engine.isas_built(), ("native", "blas"))
    return [pair for pair in pairs if pair != (_engine.isa(), _engine.gemm())]


@pytest.mark.parametrize("isa, gemm", others())
def test_every_instruction_set_and_provider_of_products(isa, gemm):
    code = (
        "import test_engine as t; from fastreg import _engine as e;"
        "t.check_table(losses=t.LOSSES[:4], variants=[5], every=3);"
        "t.check_table(t.POSITIVE_HEADS, t.LOSSES[4:], variants=[5], optimizers=t.COMMON);"
        "others = [name for name in t.OTHERS if 'lion' not in name and 'ftrl' not in name];"
        "t.check_table(['softmax'], t.LOSSES[2:3], variants=[5], optimizers=others);"
        "t.check_widths(t.WIDTHS); t.check_wide();"
        "print(e.isa(), e.gemm())"
    )
    ran, products = run(code, FASTREG_ISA=isa, FASTREG_GEMM=gemm, timeout=120).split()
    built = _engine.isas_built()
    assert products == gemm
    assert built.index(ran) <= built.index(isa), "clamped up"


@pytest.mark.parametrize("variable", ["FASTREG_ISA", "FASTREG_GEMM", "FASTREG_SPARSE"])
def test_an_unknown_choice_is_named(variable):
    with pytest.raises(AssertionError, match=f"ValueError: {variable}: got 'avx3'; allowed:"):
        run("import fastreg", **{variable: "avx3"})


# ------------------------------------------------------------------ weights, state, settings


MODULES = pytest.mark.parametrize("module", [_engine, reference], ids=["compiled", "reference"])


def simple(optimizer="adam", dtype="float32", **more):
    rng = np.random.default_rng(8)
    layers = [dense(33, 17, "tanh"), dropout(17), dense(17, 5, use_bias=False)]
    case = draw("linear", "mean_squared_error", optimizer, 1) | {
        "layers": layers,
        "weights": draw_weights(rng, layers),
        "x": rng.normal(size=(40, 33)),
        "y": rng.normal(size=(40, 5)),
        "sample_weight": None,
        "index": None,
        "start": 0,
        "stop": 40,
        "batch_size": 10,
        "iteration": 0,
        "accuracy": None,
    }
    for name in ("x", "y"):
        case[name] = case[name].astype(dtype)
    case["weights"] = [w.astype(dtype) for w in case["weights"]]
    return case | more


def train(network, case, ledger=None):
    order = ["x", "y", "sample_weight", "index", "start", "stop", "batch_size", "loss"]
    order += ["optimizer", "iteration", "seed", "accuracy"]
    ledger = np.zeros(6) if ledger is None else ledger
    return network.train(*(case[name] for name in order), ledger, 2)


def trained(module, case, dtype="float32"):
    network = module.Network(case["layers"], dtype)
    network.set_weights(case["weights"])
    train(network, case)
    return network


def bits(network):
    """All weights and the whole state, as bytes."""
    return [a.tobytes() for a in [*network.get_weights(), *itertools.chain(*network.get_slots())]]


@MODULES
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_come_back_bit_for_bit(module, dtype):
    """NaN with a payload, -0, subnormal numbers and infinities included, from any width."""
    unsigned = {"float32": np.uint32, "float64": np.uint64}[dtype]
    rng = np.random.default_rng(3)
    for n_in, n_out in itertools.product((1, 5, 31, 33), WIDTHS):
        network = module.Network([dense(n_in, n_out)], dtype)
        weights = [
            rng.integers(0, np.iinfo(unsigned).max, shape, dtype=unsigned).view(dtype)
            for shape in ((n_in, n_out), (n_out,))
        ]
        network.set_weights(weights)
        back = network.get_weights()
        assert [w.tobytes() for w in back] == [w.tobytes() for w in weights]
        assert [w.shape for w in back] == [w.shape for w in weights]
        back[0][:] = 0  # a copy
        assert network.get_weights()[0].tobytes() == weights[0].tobytes()


@MODULES
@pytest.mark.parametrize(
    "optimizer, count",
    [
        ("momentum", 1),
        ("adam", 2),
        ("adamw", 2),
        *((n, inputs.n_slots(o)) for n, o in OTHERS.items() if " " not in n),
    ],
)
def test_state_comes_back_and_training_goes_on_from_it(module, optimizer, count):
    case = simple(optimizer)
    one, other = trained(module, case), module.Network(case["layers"], "float32")
    assert other.get_slots() == []
    slots = one.get_slots()
    assert len(slots) == count
    assert all(np.any(a) for a in itertools.chain(*slots))
    other.set_weights(one.get_weights())
    other.set_slots(slots)
    assert bits(other) == bits(one)
    slots[0][0][:] = 7  # copies
    assert bits(other) == bits(one)
    for network in (one, other):
        train(network, case | {"iteration": 4})
    assert bits(other) == bits(one)


@MODULES
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_cleared_state_starts_from_zero(module, optimizer):
    case = simple(optimizer)
    fresh, cleared = trained(module, case), trained(module, case)
    cleared.set_slots([])
    assert cleared.get_slots() == []
    cleared.set_weights(case["weights"])
    train(cleared, case)
    assert bits(cleared) == bits(fresh)


@MODULES
@pytest.mark.parametrize(
    "change",
    [{"trainable": False}, {"kernel_l1": 0.1}, {"bias_l2": 0.3}, {"activity_l1": 0.2}],
    ids=lambda change: next(iter(change)),
)
def test_update_layers_counts_from_the_next_call(module, change):
    case = simple()
    one, other = trained(module, case), trained(module, case)
    changed = [layer | (change if layer["kind"] == "dense" else {}) for layer in case["layers"]]
    other.update_layers(changed)
    assert bits(other) == bits(one)
    built = module.Network(changed, "float32")
    built.set_weights(one.get_weights())
    built.set_slots(one.get_slots())
    for network in (one, other, built):
        train(network, case | {"iteration": 4})
    assert bits(other) == bits(built) != bits(one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "change",
    [
        {"kernel_constraint": inputs.Bound("non_neg")},
        {"kernel_groups": inputs.resolve_groups((17, 1), 0.1, "rows")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_moves_a_kernel_of_few_units_changes_no_bit(change, units, dtype):
    """It stands transposed until a setting asks for whole columns or rows, and again thereafter."""
    rng = np.random.default_rng(units)
    layers = [dense(33, 17, "tanh"), dense(17, units, use_bias=True)]
    case = simple(dtype=dtype, layers=layers, weights=draw_weights(rng, layers))
    case["y"] = case["y"][:, :units].copy()
    case["optimizer"] = case["optimizer"] | {"l1_step": "sign"}
    network, other = trained(_engine, case, dtype), trained(_engine, case, dtype)
    changed = [layers[0], layers[1] | change]
    other.keep(1)
    other.update_layers(changed)
    assert bits(other) == bits(network)
    there = _engine.Network(changed, dtype)
    there.set_weights(network.get_weights())
    there.set_slots(network.get_slots())
    train(there, case | {"iteration": 4})
    train(other, case | {"iteration": 4})
    assert bits(other) == bits(there) != bits(network)
    other.put_back()
    assert bits(other) == bits(network)
    other.update_layers(layers)
    assert bits(other) == bits(network)
    for each in (network, other):
        train(each, case | {"iteration": 4})
    assert bits(other) == bits(network)


@MODULES
def test_update_layers_changes_rate_and_seed(module):
    case = simple()
    networks = [trained(module, case) for _ in range(3)]
    for network, new in zip(networks, ({}, {"rate": 0.6}, {"seed": 99}), strict=True):
        network.update_layers([each | (new if "rate" in each else {}) for each in case["layers"]])
        train(network, case | {"iteration": 4})
    assert len({tuple(bits(network)) for network in networks}) == 3


def test_a_frozen_layer_stays_bit_for_bit():
    """Weight decay, penalties and momentum of the past touch it no more."""
    case = simple("nesterov")
    network = trained(_engine, case)
    frozen = [layer | {"trainable": False, "kernel_l1": 0.1} for layer in case["layers"]]
    network.update_layers(frozen)
    before = [w.tobytes() for w in network.get_weights()]
    ledger = np.zeros(6)
    train(network, case | {"iteration": 4}, ledger)
    assert [w.tobytes() for w in network.get_weights()] == before
    assert ledger[1] == ledger[2] == 0.0


@MODULES
def test_the_ledger_is_added_to(module):
    network = module.Network(simple()["layers"], "float32")
    ledger = np.arange(6.0)
    train(network, simple(stop=0), ledger)
    assert np.array_equal(ledger, np.arange(6.0))
    train(network, simple(), ledger)
    assert ledger[5] == 5 + 40
    assert ledger[0] > 0


# ------------------------------------------------------------------ losses that are not finite


@MODULES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_step_that_is_not_finite_changes_nothing(module, activation, loss, dtype):
    """NaN in one entry of the third batch's first, middle or last row; the head hides none."""
    if loss == "poisson" and activation == "log_softmax":
        activation = "softplus"  # it has the logarithm of the output
    for place, width in ((20, 1), (25, 33), (29, 64)):
        layers = [dense(width, 19, "relu", kernel_l1=1e-3), dense(19, 6, activation)]
        rng = np.random.default_rng(place)
        case = draw(activation, loss, "adam", 0) | {
            "layers": layers,
            "weights": [w.astype(dtype) for w in draw_weights(rng, layers, True)],
            "x": rng.normal(size=(40, width)).astype(dtype),
            "y": array(draw_targets(rng, loss, 40, 6), dtype),
            "sample_weight": None,
            "index": None,
            "start": 0,
            "stop": 40,
            "batch_size": 10,
        }
        good = trained(module, case | {"stop": 20}, dtype)
        expected = np.zeros(6)
        train(module_network(module, case, dtype), case | {"stop": 20}, expected)
        case["x"][place, width // 2] = np.nan
        bad, ledger = module_network(module, case, dtype), np.zeros(6)
        assert train(bad, case, ledger) == 2
        assert bits(bad) == bits(good)
        assert np.array_equal(ledger, expected)
        assert train(bad, case | {"start": 20, "iteration": 2}, ledger) == 0
        assert bits(bad) == bits(good)
        assert train(bad, case | {"start": 30, "iteration": 2}, ledger) == 1


def module_network(module, case, dtype):
    network = module.Network(case["layers"], dtype)
    network.set_weights(case["weights"])
    return network


@MODULES
@pytest.mark.parametrize("where", ["y", "sample_weight", "kernel", "bias", "overflow"])
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *OTHERS])
def test_wherever_it_comes_from(module, where, optimizer):
    case = simple(optimizer)
    case["weights"] = [w.copy() for w in case["weights"]]
    case["sample_weight"] = np.ones(40, "float32")
    if where == "y":
        case["y"][3, 2] = np.inf
    elif where == "sample_weight":
        case["sample_weight"][9] = np.nan
    elif where == "overflow":
        case["x"][0] = 3e38
        case["weights"][0][:] = 1.0
        case["layers"] = [dense(33, 17, "linear"), *case["layers"][1:]]
    else:
        case["weights"][("kernel", "bias").index(where)].flat[-1] = np.nan
    network, ledger = module_network(module, case, "float32"), np.zeros(6)
    before = [w.tobytes() for w in network.get_weights()]
    assert train(network, case, ledger) == 0
    assert [w.tobytes() for w in network.get_weights()] == before
    assert not any(np.any(a) for a in itertools.chain(*network.get_slots()))
    assert not ledger.any()


# ------------------------------------------------ the short way of a few rows


def short_network(dtype="float32"):
    layers = [dense(5, 9, "tanh"), dense(9, 3)]
    network = _engine.Network(layers, dtype)
    rng = np.random.default_rng(3)
    network.set_weights([rng.standard_normal(w.shape) for w in network.get_weights()])
    return network


def long_way(network, x):
    out = np.empty((len(x), 3), network.dtype)
    network.forward(np.ascontiguousarray(x, network.dtype), 256, out, 1)
    return out


def takes_the_short_way():
    return _engine.gemm() == "native"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_answer_has_the_bits_of_forward(n, dtype):
    network = short_network(dtype)
    x = np.random.default_rng(n).standard_normal((n, 5)).astype(dtype)
    x[0, 0] = np.nan
    x.flags.writeable = False
    out = np.full((n, 3), 7, dtype)
    found, into = network.answer(x, None), network.answer(x, out)
    if not takes_the_short_way():
        assert found is None and into is None and (out == 7).all()
        return
    assert found.tobytes() == out.tobytes() == long_way(network, x).tobytes()
    assert into is out and found.dtype == dtype and found.shape == (n, 3)


def test_answer_leaves_the_rest_to_the_long_way():
    network = short_network()
    x = np.ones((4, 5), "float32")
    memory = np.ones(40, "float32")
    for other in (
        x.tolist(),
        x[0],
        x[:0],
        x[:, :4],
        x.astype("float64"),
        x.astype(">f4"),
        np.asfortranarray(x),
        x[::2],
        np.ma.array(x),
        np.ones((10**6, 5), "float32"),
    ):
        assert network.answer(other, None) is None
    for out in (
        np.ones((3, 3), "float32"),
        np.ones((4, 4), "float32"),
        np.ones((4, 3)),
        np.ones((3, 4), "float32").T,
        np.broadcast_to(np.float32(1), (4, 3)),
        [[1.0] * 3] * 4,
        memory[10:22].reshape(4, 3),  # overlaps x
    ):
        assert network.answer(memory[:20].reshape(4, 5), out) is None
        assert np.all(np.asarray(out) == 1)


def test_is_ready():
    x = np.ones((4, 5), "float32")
    assert _engine.is_ready(x, "float32", -1, 5, True)
    assert _engine.is_ready(x, "float32", 4, -1, False)
    for other in (x.astype(">f4"), x.T, x[::2], x.tolist(), x[0], x[:0], x.view(np.recarray)):
        assert not _engine.is_ready(other, "float32", -1, -1, False)
    assert not _engine.is_ready(x, "float64", -1, 5, False)
    assert not _engine.is_ready(x, "float32", 3, 5, False)
    assert not _engine.is_ready(x, "float32", 4, 4, False)
    for strange in (np.nan, np.inf, -np.inf):
        for place in ((0, 0), (3, 4)):
            y = x.copy()
            y[place] = strange
            assert _engine.is_ready(y, "float32", 4, 5, False)
            assert not _engine.is_ready(y, "float32", 4, 5, True)
