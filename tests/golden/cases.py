"""The configurations that are compared with other systems, and how one is trained.

A case is a plain dictionary (JSON), so that it can stand beside its answers in a file:

    {"seed", "n", "batch_size", "epochs", "n_in", "layers": [arguments of Dense, ...],
     "loss", "metrics", "optimizer": {"class_name", "config"},
     "weighting": None | "sample" | "class", "soft": bool, "zero_bias": bool}

An activation is a name, or {"name", its parameters}; a loss is a name, or {"class_name", "config"}.

With "between", a list for each of the dense layers and one more, other layers, {"class_name",
"config"}, stand before that dense layer, and after the last.

Data and first weights follow from the seed through the raw bits of PCG64, which NumPy keeps stable
for good (its distributions it does not).
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Case = dict[str, Any]

MSE = "mean_squared_error"
BCE = "binary_crossentropy"
CCE = "categorical_crossentropy"
SCCE = "sparse_categorical_crossentropy"
NEAR_0 = {"cosine_similarity", "huber", "log_cosh", "mean_absolute_error", MSE}  # y in [-1, 1]
ABOVE_0 = {"mean_absolute_percentage_error", "mean_squared_logarithmic_error", "poisson"}
SIGNS = {"hinge", "squared_hinge"}
BINARY = {"binary_focal_crossentropy", BCE}


class Stream:
    """Uniform numbers from the raw bits of PCG64: the same on every machine and NumPy."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        raw = self._bits.random_raw(int(np.prod(shape)))
        return low + (high - low) * ((raw >> 11) * 2.0**-53).reshape(shape)

    def integers(self, n: int, *shape: int) -> np.ndarray:
        """Integers in [0, n)."""
        return self.uniform(0, n, *shape).astype("int64")

    def below(self, n: int) -> int:
        """One integer in [0, n)."""
        return int(self.integers(n, 1)[0])


def data(case: Case) -> dict[str, Any]:
    """x, y, sample_weight, class_weight (None where unused) and first weights, in float64."""
    stream = Stream(case["seed"])
    n, n_out = case["n"], case["layers"][-1]["units"]
    x = stream.uniform(-1, 1, n, case["n_in"])
    labels = stream.integers(max(n_out, 2), n)
    shares = stream.uniform(0, 1, n, n_out)
    one_hot = np.eye(n_out)[labels % n_out]
    binary = (labels[:, None] > np.arange(n_out)).astype("float64")
    y = {
        **dict.fromkeys(NEAR_0, 2 * shares - 1),
        **dict.fromkeys(ABOVE_0, shares + 0.5),
        **dict.fromkeys(SIGNS, np.sign(2 * shares - 1)),
        "kl_divergence": shares / shares.sum(axis=1, keepdims=True),
        **dict.fromkeys(BINARY, shares if case["soft"] else binary),
        CCE: shares if case["soft"] else one_hot,
        "categorical_hinge": one_hot,
        SCCE: labels.astype("int32"),
    }[loss_name(case)]
    sample_weight = stream.uniform(0, 2, n)
    class_weight = dict(enumerate(stream.uniform(0.3, 2, max(n_out, 2)).tolist()))
    weights, n_in = [], case["n_in"]
    for layer, before in itertools.zip_longest(case["layers"], between(case)):
        for other in before:
            weights += [stream.uniform(0.3, 1.3, n_in) for _ in range(n_vectors(other))]
        if layer is None:
            break
        bound = np.sqrt(6 / (n_in + layer["units"]))
        weights.append(stream.uniform(-bound, bound, n_in, layer["units"]))
        bias = stream.uniform(-0.3, 0.3, layer["units"])
        if layer["use_bias"]:
            weights.append(np.zeros_like(bias) if case["zero_bias"] else bias)
        n_in = layer["units"]
    return {
        "x": x,
        "y": y,
        "sample_weight": sample_weight if case["weighting"] == "sample" else None,
        "class_weight": class_weight if case["weighting"] == "class" else None,
        "weights": weights,
    }


def activation_of(api: Any, described: Any) -> Any:
    """What `api` takes for an activation of a case: the object, or Keras' function of it."""
    if isinstance(described, str):
        return described
    parameters = {key: value for key, value in described.items() if key != "name"}
    if hasattr(api.activations, "Activation"):
        return api.activations.Activation(described["name"], **parameters)
    return functools.partial(getattr(api.activations, described["name"]), **parameters)


def loss_name(case: Case) -> str:
    """The name of the loss of a case, whatever its parameters."""
    if isinstance(case["loss"], str):
        return case["loss"]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", case["loss"]["class_name"]).lower()


def loss_of(api: Any, described: Any) -> Any:
    """What `api` takes for a loss of a case: its name, or the object."""
    return described if isinstance(described, str) else api.losses.deserialize(described)


def network(api: Any, case: Case, dtype: str = "float64", **model_options: Any) -> Any:
    """The model of `case` with its first weights, compiled."""
    model = api.Sequential(
        [
            api.Input((case["n_in"],), dtype=dtype),
            *made(api, case, dtype),
        ],
        **model_options,
    )
    model.set_weights([w.astype(dtype) for w in data(case)["weights"]])
    model.compile(
        optimizer=api.optimizers.get(copy.deepcopy(case["optimizer"])),  # Keras writes into it
        loss=loss_of(api, case["loss"]),
        metrics=case["metrics"],
    )
    return model


def between(case: Case) -> list[list[Any]]:
    """The layers before each of the dense ones, and after the last."""
    found: list[list[Any]] = case.get("between") or [[] for _ in range(len(case["layers"]) + 1)]
    return found


def n_vectors(layer: dict[str, Any]) -> int:
    """The weights of a layer that is not dense: gamma, beta, moving mean and variance."""
    kind, config = layer["class_name"], layer["config"]
    if kind not in ("LayerNormalization", "BatchNormalization"):
        return 0
    own = config.get("scale", True) + config.get("center", True)
    return own + 2 * (kind == "BatchNormalization")


def made(api: Any, case: Case, dtype: str) -> list[Any]:
    """The layers of a case."""
    layers = []
    for layer, before in itertools.zip_longest(case["layers"], between(case)):
        for other in before:
            cls = getattr(api.layers, other["class_name"])
            layers.append(cls(**other["config"], dtype=dtype))
        if layer is not None:
            described = {**layer, "activation": activation_of(api, layer["activation"])}
            layers.append(api.layers.Dense(**described, dtype=dtype))
    return layers


def train(api: Any, case: Case, dtype: str = "float64", **model_options: Any) -> dict[str, Any]:
    """Train `case` with `api`, which is keras or fastreg: the same words serve both.

    Returns the trained "weights", the "history" (loss and, if counted, accuracy of each epoch), and
    what "evaluate" and "predict" say afterwards.
    """
    return fit(network(api, case, dtype, **model_options), case)


def fit(model: Any, case: Case) -> dict[str, Any]:
    """Train `model` on the data of `case`; returns what `train` does."""
    given = data(case)
    history = model.fit(
        given["x"],
        given["y"],
        batch_size=case["batch_size"],
        epochs=case["epochs"],
        shuffle=False,
        verbose=0,
        sample_weight=given["sample_weight"],
        class_weight=given["class_weight"],
    ).history
    evaluated = model.evaluate(
        given["x"],
        given["y"],
        batch_size=case["batch_size"],
        sample_weight=given["sample_weight"],
        verbose=0,
        return_dict=True,
    )
    names = ["loss", *case["metrics"]]
    return {
        "weights": [np.asarray(w) for w in model.get_weights()],
        "history": np.array([history[name] for name in names]),
        "evaluate": np.array([evaluated[name] for name in names]),
        "predict": np.asarray(model.predict(given["x"], batch_size=case["batch_size"], verbose=0)),
    }


# ------------------------------------------------------------------ the design

SIZES: list[tuple[int, list[int]]] = [  # n_in and the hidden units
    (1, []),
    (3, [7]),
    (5, [1]),
    (9, [33]),
    (100, [9]),
    (4, [100]),
    (10, [6, 5, 4]),
    (6, [13, 11]),
]
HEADS = [  # activation of the last layer, loss, units, metrics, soft targets
    ("linear", MSE, 3, [], False),
    ("tanh", MSE, 2, ["accuracy"], False),
    ("relu", MSE, 1, [], False),
    ("softmax", MSE, 4, ["accuracy"], False),
    ("sigmoid", BCE, 1, ["accuracy"], False),
    ("sigmoid", BCE, 3, ["binary_accuracy"], True),
    ("linear", BCE, 1, ["accuracy"], False),
    ("softmax", BCE, 5, ["accuracy"], False),
    ("softmax", CCE, 10, ["accuracy"], False),
    ("softmax", CCE, 3, [], True),
    ("sigmoid", CCE, 4, ["accuracy"], False),
    ("softmax", SCCE, 7, ["accuracy"], False),
    ("sigmoid", SCCE, 3, ["accuracy"], False),
]
OPTIMIZERS = [
    ("SGD", {"learning_rate": 0.05}),
    ("SGD", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.03, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.03, "momentum": 0.7, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.03, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"learning_rate": 0.03, "momentum": 0.7, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"learning_rate": 0.01}),
    ("Adam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.99, "weight_decay": 0.1}),
    ("AdamW", {"learning_rate": 0.01, "epsilon": 1e-3}),
]
MORE_OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"learning_rate": 0.01, "beta_2": 0.9, "amsgrad": True}),
    ("Adamax", {"learning_rate": 0.01, "epsilon": 1e-4}),
    ("Adamax", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.9, "weight_decay": 0.1}),
    ("Nadam", {"learning_rate": 0.01}),
    ("Nadam", {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"learning_rate": 0.01, "epsilon": 1e-4}),
    ("RMSprop", {"learning_rate": 0.01, "momentum": 0.8, "weight_decay": 0.1}),
    ("RMSprop", {"learning_rate": 0.005, "rho": 0.7, "centered": True, "epsilon": 1e-3}),
    ("RMSprop", {"learning_rate": 0.005, "centered": True, "momentum": 0.5, "epsilon": 1e-3}),
    ("Adagrad", {"learning_rate": 0.05}),
    ("Adagrad", {"learning_rate": 0.05, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
    ("Adadelta", {"learning_rate": 1.0}),
    ("Adadelta", {"learning_rate": 0.5, "rho": 0.8, "epsilon": 1e-4, "weight_decay": 0.1}),
    ("Lion", {"learning_rate": 0.003}),
    ("Lion", {"learning_rate": 0.003, "beta_1": 0.8, "beta_2": 0.9, "weight_decay": 0.1}),
    ("Ftrl", {"learning_rate": 0.1, "initial_accumulator_value": 0.2}),
    ("Ftrl", {"learning_rate": 0.1, "learning_rate_power": -0.7, "beta": 0.3, "weight_decay": 0.1}),
    (
        "Ftrl",
        {
            "learning_rate": 0.2,
            "l1_regularization_strength": 0.01,
            "l2_regularization_strength": 0.02,
            "l2_shrinkage_regularization_strength": 0.03,
        },
    ),
]
SCHEDULE = {
    "module": "keras.optimizers.schedules",
    "class_name": "CosineDecay",
    "config": {
        "initial_learning_rate": 0.001,
        "decay_steps": 7,
        "alpha": 0.1,
        "warmup_target": 0.02,
        "warmup_steps": 3,
    },
    "registered_name": None,
}
STEP_OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [  # what stands around the update
    ("Adam", {"learning_rate": SCHEDULE}),
    ("SGD", {"learning_rate": SCHEDULE, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "clipnorm": 0.05}),
    ("Adam", {"learning_rate": 0.01, "clipvalue": 0.01, "weight_decay": 0.1}),
    ("RMSprop", {"learning_rate": 0.01, "epsilon": 1e-4, "global_clipnorm": 0.1}),
    ("SGD", {"learning_rate": 0.05, "use_ema": True, "ema_momentum": 0.7}),
    (
        "Adam",
        {
            "learning_rate": 0.01,
            "use_ema": True,
            "ema_momentum": 0.6,
            "ema_overwrite_frequency": 3,
        },
    ),
    ("SGD", {"learning_rate": 0.05, "gradient_accumulation_steps": 2}),
    (
        "AdamW",
        {
            "learning_rate": SCHEDULE,
            "gradient_accumulation_steps": 3,
            "clipnorm": 0.05,
            "use_ema": True,
            "ema_overwrite_frequency": 2,
        },
    ),
]


def _scheduled(class_name: str, **config: Any) -> tuple[str, dict[str, Any]]:
    schedule = {**SCHEDULE, "class_name": class_name, "config": config}
    return ("SGD", {"learning_rate": schedule, "momentum": 0.5})


SCHEDULED = [
    _scheduled("ExponentialDecay", initial_learning_rate=0.1, decay_steps=4, decay_rate=0.3),
    _scheduled("PiecewiseConstantDecay", boundaries=[2, 5], values=[0.05, 0.1, 0.02]),
    _scheduled("PolynomialDecay", initial_learning_rate=0.1, decay_steps=5, power=2.0, cycle=True),
    _scheduled("InverseTimeDecay", initial_learning_rate=0.1, decay_steps=3, decay_rate=0.7),
    _scheduled("CosineDecayRestarts", initial_learning_rate=0.1, first_decay_steps=3, t_mul=1.5),
]


def _loss(class_name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.losses", "class_name": class_name, "config": config}


NON_NEG = {"class_name": "NonNeg", "config": {}}
CONSTRAINTS: list[Any] = [
    None,
    {"class_name": "MaxNorm", "config": {"max_value": 0.4, "axis": 0}},
    {"class_name": "UnitNorm", "config": {"axis": 0}},
    {
        "class_name": "MinMaxNorm",
        "config": {"min_value": 0.2, "max_value": 0.5, "rate": 0.7, "axis": 0},
    },
    NON_NEG,
]
MORE_CONSTRAINTS: list[Any] = [
    {"class_name": "UnitNorm", "config": {"axis": 1}},
    {"class_name": "MaxNorm", "config": {"max_value": 1.5, "axis": [0, 1]}},
]
NONE = None
L1 = {"class_name": "L1", "config": {"l1": 0.003}}
L2 = {"class_name": "L2", "config": {"l2": 0.007}}
L1L2 = {"class_name": "L1L2", "config": {"l1": 0.002, "l2": 0.005}}
REGULARIZERS = [NONE, L1, L2, L1L2]

ORTHOGONAL = {"class_name": "OrthogonalRegularizer", "config": {"factor": 0.1, "mode": "rows"}}
ORTHOGONAL_COLUMNS = {
    "class_name": "OrthogonalRegularizer",
    "config": {"factor": 0.2, "mode": "columns"},
}

FACTORS: dict[str, list[Any]] = {
    "sizes": SIZES,
    "hidden": ["linear", "relu", "tanh", "sigmoid", "softmax"],
    "head": HEADS,
    "optimizer": OPTIMIZERS,
    "kernel_regularizer": REGULARIZERS,
    "bias_regularizer": REGULARIZERS,
    "activity_regularizer": REGULARIZERS,
    "weighting": [None, "sample", "class"],
    "frozen": [None, 0, -1],  # the layer that is not trained
    "use_bias": ["all", "first", "none"],
    "batches": [(24, 8), (23, 8), (31, 5), (17, 17), (13, 32), (7, 1)],  # rows, batch size
}


def design(seed: int, sizes: list[tuple[int, list[int]]] = SIZES) -> list[Case]:
    """Cases that hold every pair of values of two factors at least once, greedily few."""
    stream, factors = Stream(seed), {**FACTORS, "sizes": sizes}
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(factors, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }
    cases: list[Case] = []
    while missing:
        pair = min(missing)  # any will do; the smallest makes the design the same in every run
        best: dict[str, int] = {}
        most = 0
        for _ in range(100):
            tried = {name: stream.below(len(values)) for name, values in factors.items()}
            tried.update(dict(pair))
            new = len(missing.intersection(itertools.combinations(tried.items(), 2)))
            if new > most:
                best, most = tried, new
        missing.difference_update(itertools.combinations(best.items(), 2))
        chosen = {name: factors[name][i] for name, i in best.items()}
        cases.append(assemble(chosen, seed=seed + len(cases)))
    return cases


def optimizer_cases(seed: int, each: int = 4) -> list[Case]:
    """Some cases of every one of MORE_OPTIMIZERS, all else drawn.

    No ReLU: where it is 0 for all rows gradients are 0 too, and a rounding decides a sign.
    """
    stream = Stream(seed)
    heads = [head for head in HEADS if head[0] != "relu"]
    factors = {**FACTORS, "head": heads, "hidden": ["linear", "tanh", "sigmoid"]}
    cases = []
    for optimizer in MORE_OPTIMIZERS:
        for _ in range(each):
            chosen = {name: values[stream.below(len(values))] for name, values in factors.items()}
            if "l1_regularization_strength" in optimizer[1]:  # weights at 0: see `assemble`
                chosen |= {"kernel_regularizer": L2, "bias_regularizer": NONE}
            cases.append(assemble({**chosen, "optimizer": optimizer}, seed=seed + len(cases)))
    return cases


def step_cases(seed: int) -> list[Case]:
    """Every one of STEP_OPTIMIZERS under two of CONSTRAINTS, all else drawn."""
    stream = Stream(seed)
    heads = [head for head in HEADS if head[0] != "relu"]
    factors = {**FACTORS, "head": heads, "hidden": ["linear", "tanh", "sigmoid"]}
    cases = []
    for number, optimizer in enumerate(STEP_OPTIMIZERS):
        for more in (0, 2):
            constraint = CONSTRAINTS[(number + more) % len(CONSTRAINTS)]
            chosen = {name: values[stream.below(len(values))] for name, values in factors.items()}
            chosen |= {"optimizer": optimizer, "sizes": SIZES[3 + stream.below(len(SIZES) - 3)]}
            if constraint == NON_NEG:
                # Weights at 0: see `assemble`.
                chosen |= {"kernel_regularizer": L2, "bias_regularizer": NONE}
            case = assemble(chosen, seed=seed + len(cases))
            for layer in case["layers"]:
                layer["kernel_constraint"] = layer["bias_constraint"] = constraint
            if more and constraint is None:
                case["layers"][-1]["kernel_regularizer"] = ORTHOGONAL
            cases.append(case)
    return cases


ACTIVATIONS: list[Any] = [  # all but those of the design above, with Keras' parameters
    "elu",
    {"name": "elu", "alpha": 0.6},
    "selu",
    "gelu",
    {"name": "gelu", "approximate": True},
    "softplus",
    "softsign",
    "silu",
    "leaky_relu",
    {"name": "leaky_relu", "negative_slope": 0.4},
    "hard_sigmoid",
    "hard_silu",
    "exponential",
    "mish",
    "relu6",
    {"name": "relu", "negative_slope": 0.2, "max_value": 0.9, "threshold": 0.1},
    {"name": "relu", "max_value": 1.0},
    "log_softmax",
]
VOCABULARY: dict[str, list[Any]] = {
    "sizes": SIZES[1:],
    "hidden": ACTIVATIONS,
    "head": [
        ("linear", MSE, 3, ["mean_absolute_error"], False),
        ({"name": "elu", "alpha": 0.5}, MSE, 2, [], False),
        ("linear", "mean_absolute_error", 2, ["mean_squared_error"], False),
        ("softplus", "mean_absolute_percentage_error", 3, [], False),
        ("softplus", "mean_squared_logarithmic_error", 2, [], False),
        ("linear", "log_cosh", 3, ["cosine_similarity"], False),
        ("exponential", "poisson", 2, ["poisson"], False),
        ("softplus", "poisson", 1, [], False),
        ("softmax", "kl_divergence", 4, ["kl_divergence"], False),
        ("tanh", "hinge", 2, ["hinge"], False),
        ("linear", "squared_hinge", 3, ["squared_hinge"], False),
        ("sigmoid", BCE, 3, ["binary_accuracy", "binary_crossentropy"], False),
        ("softmax", CCE, 5, ["accuracy", "categorical_crossentropy"], True),
        ("softmax", SCCE, 6, ["accuracy", "sparse_categorical_crossentropy"], False),
        ("tanh", "huber", 2, ["mean_absolute_error"], False),
        ("linear", _loss("Huber", delta=0.3), 3, [], False),
        ("linear", "cosine_similarity", 3, ["cosine_similarity"], False),
        ("softmax", "categorical_hinge", 4, ["accuracy"], False),
        ("sigmoid", "binary_focal_crossentropy", 2, ["binary_accuracy"], False),
        (
            "sigmoid",
            _loss("BinaryFocalCrossentropy", apply_class_balancing=True, alpha=0.4, gamma=1.5),
            3,
            [],
            True,
        ),
        (
            "linear",
            _loss("BinaryFocalCrossentropy", from_logits=True, label_smoothing=0.1),
            1,
            [],
            False,
        ),
        ("linear", _loss("BinaryCrossentropy", from_logits=True), 2, [], False),
        ("sigmoid", _loss("BinaryCrossentropy", label_smoothing=0.2), 1, ["accuracy"], False),
        (
            "linear",
            _loss("CategoricalCrossentropy", from_logits=True, label_smoothing=0.3),
            5,
            ["accuracy"],
            False,
        ),
        ("softmax", _loss("CategoricalCrossentropy", label_smoothing=0.1), 4, [], True),
        (
            "linear",
            _loss("SparseCategoricalCrossentropy", from_logits=True),
            6,
            ["accuracy"],
            False,
        ),
    ],
    "optimizer": [*OPTIMIZERS, *MORE_OPTIMIZERS, *STEP_OPTIMIZERS, *SCHEDULED],
    "kernel_regularizer": [NONE, L2, L1L2, ORTHOGONAL, ORTHOGONAL_COLUMNS],
    "bias_regularizer": [NONE, L2],
    "activity_regularizer": REGULARIZERS,
    "kernel_constraint": [*CONSTRAINTS, *MORE_CONSTRAINTS],
    "bias_constraint": CONSTRAINTS,
    "weighting": [None, "sample"],
    "frozen": [None, None, 0],
    "use_bias": ["all", "all", "first"],
    "batches": [(24, 8), (31, 5), (23, 8)],
}


def vocabulary_cases(seed: int, n: int) -> list[Case]:
    """`n` cases drawn from VOCABULARY so that each value of a factor comes as often as another."""
    stream = Stream(seed)
    columns = {
        name: [values[i % len(values)] for i in np.argsort(stream.uniform(0, 1, n))]
        for name, values in VOCABULARY.items()
    }
    cases = []
    for number in range(n):
        chosen = {name: column[number] for name, column in columns.items()}
        constraints = [chosen["kernel_constraint"], chosen["bias_constraint"]]
        if {
            "class_name": "NonNeg",
            "config": {},
        } in constraints or "l1_regularization_strength" in (chosen["optimizer"][1]):
            # Weights, and outputs, at 0, where JAX has another slope of |w|: see `assemble`.
            chosen |= {"kernel_regularizer": L2, "bias_regularizer": NONE}
            chosen |= {"activity_regularizer": L2 if chosen["activity_regularizer"] else NONE}
            if constraints[0] == NON_NEG:  # and z at 0, where it has another slope of leaky_relu
                chosen["use_bias"] = "all"
                constraints[1] = NONE if constraints[1] == NON_NEG else constraints[1]
        if chosen["hidden"] == "exponential":
            chosen["sizes"] = SIZES[3]  # a tower of powers overflows
        case = assemble(chosen, seed=seed + number)
        n_in = case["n_in"]
        for layer in case["layers"]:
            layer["kernel_constraint"], layer["bias_constraint"] = constraints
            regularizer = layer["kernel_regularizer"]
            if regularizer in (ORTHOGONAL, ORTHOGONAL_COLUMNS) and min(n_in, layer["units"]) < 2:
                layer["kernel_regularizer"] = L2  # the angles between one vector
            n_in = layer["units"]
        cases.append(case)
    return cases


def layer_cases(seed: int) -> list[Case]:
    """Layers that are not dense, by turns at the entry, between and at the end, all else drawn.

    No ReLU: see `optimizer_cases`.
    """
    stream = Stream(seed)
    factors = {**FACTORS, "head": HEADS[8:10], "hidden": ["linear", "tanh"], "frozen": [None]}
    kinds = [
        ("BatchNormalization", {"momentum": 0.8}),
        ("LayerNormalization", {"epsilon": 0.01}),
        ("BatchNormalization", {"scale": False, "beta_regularizer": L2}),
        ("LayerNormalization", {"center": False, "gamma_regularizer": L1L2}),
        ("BatchNormalization", {"trainable": False}),
        ("LayerNormalization", {"gamma_constraint": CONSTRAINTS[1], "beta_constraint": "non_neg"}),
        ("Activation", {"activation": "gelu"}),
        ("ActivityRegularization", {"l1": 0.002, "l2": 0.01}),
    ]
    cases = []
    for number in range(2 * len(kinds)):
        chosen = {name: values[stream.below(len(values))] for name, values in factors.items()}
        chosen |= {"sizes": SIZES[6 + number % 2], "optimizer": OPTIMIZERS[number % 9]}
        case = assemble(chosen, seed=seed + number)
        case["layers"][-1]["activation"] = "linear"  # its own layer, at the end
        drawn = [[kinds[(number + at) % len(kinds)]] for at in range(len(case["layers"]))]
        drawn.append([("Activation", {"activation": "softmax"})])
        case["between"] = [
            [{"class_name": kind, "config": config} for kind, config in before] for before in drawn
        ]
        cases.append(case)
    return cases


def assemble(chosen: dict[str, Any], seed: int) -> Case:
    """The case of one value per factor; a value that means nothing in it gives way to another."""
    (n_in, hidden), (n, batch_size) = chosen["sizes"], chosen["batches"]
    activation, loss, n_out, metrics, soft = chosen["head"]
    units = [*hidden, n_out]
    layers = [
        {
            "units": size,
            "activation": chosen["hidden"] if i < len(hidden) else activation,
            "use_bias": chosen["use_bias"] == "all" or (chosen["use_bias"] == "first" and i == 0),
            "kernel_regularizer": chosen["kernel_regularizer"],
            "bias_regularizer": chosen["bias_regularizer"],
            "activity_regularizer": chosen["activity_regularizer"],
            "trainable": True,
        }
        for i, size in enumerate(units)
    ]
    if chosen["frozen"] is not None and hidden:
        layers[chosen["frozen"]]["trainable"] = False
    weighting = chosen["weighting"]
    if weighting == "class" and (loss == MSE or soft or (loss == BCE and n_out > 1)):
        weighting = "sample"  # rows of these targets have no class
    class_name, config = chosen["optimizer"]
    return {
        "seed": seed,
        "n": n,
        "batch_size": batch_size,
        "epochs": 3,
        "n_in": n_in,
        "layers": layers,
        "loss": loss,
        "metrics": metrics,
        "optimizer": {"class_name": class_name, "config": config},
        "weighting": weighting,
        "soft": soft,
        # JAX takes 1 as the slope of abs at 0; fastreg (and PyTorch) take 0.
        "zero_bias": False,
    }


# ------------------------------------------------------------------ the files


Answer = dict[str, Any]  # "weights": list of arrays; "history", "evaluate", "predict": arrays


def save(path: Path, answered: Iterable[tuple[Case, Answer]]) -> None:
    """Write cases and answers: one JSON text, and all numbers in one float64 array."""
    entries, numbers = [], []
    for case, answer in answered:
        arrays = [*answer["weights"], *(answer[name] for name in answer if name != "weights")]
        numbers += [np.asarray(array, "float64").ravel() for array in arrays]
        names = [name for name in answer if name != "weights"]
        shapes = {
            "weights": [np.shape(w) for w in answer["weights"]],
            **{name: np.shape(answer[name]) for name in names},
        }
        entries.append({"case": case, "shapes": shapes})
    text = json.dumps(entries, separators=(",", ":")).encode()
    np.savez_compressed(path, cases=np.frombuffer(text, "uint8"), answers=np.concatenate(numbers))


def load(path: Path) -> list[tuple[Case, Answer]]:
    """Read what `save` wrote."""
    with np.load(path) as file:
        entries, numbers = json.loads(file["cases"].tobytes()), file["answers"]
    at = 0

    def take(shape: list[int]) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return numbers[at - int(np.prod(shape)) : at].reshape(shape)

    answered = []
    for entry in entries:
        shapes = entry["shapes"]
        answer: Answer = {"weights": [take(shape) for shape in shapes.pop("weights")]}
        answer.update({name: take(shape) for name, shape in shapes.items()})
        answered.append((entry["case"], answer))
    return answered


def needs_own_float32(case: Case) -> bool:
    """Whether float32 is another function than float64 here, not only a rounding of it.

    Keras clips probabilities to 1 - 1e-7, which is 1 - 1.19e-7 in float32: log(1 - p) at the clip
    differs by 1 %. Only an unbounded output gets there.
    """
    return case["loss"] == BCE and case["layers"][-1]["activation"] == "linear"


def describe(case: Case) -> str:
    """A short name for a case, for the lists of tests."""
    units = [case["n_in"], *(layer["units"] for layer in case["layers"])]
    last = case["layers"][-1]["activation"]
    return f"{case['seed']}-{'x'.join(map(str, units))}-{last}-{loss_name(case)}"


def steps_by_sign(case: Case) -> bool:
    """Whether a weight's step can turn around with the rounding of a gradient near 0."""
    return case["optimizer"]["class_name"] in ("Lion", "Ftrl")


def assert_same(got: Answer, answer: Answer, dtype: str) -> None:
    """AssertionError unless `got` is `answer`; tests/test_golden.py says how closely, and why."""
    pairs = [
        *(("weights", *pair) for pair in zip(got["weights"], answer["weights"], strict=True)),
        *((name, got[name], answer[name]) for name in answer if name != "weights"),
    ]
    for name, ours, theirs in pairs:
        assert ours.shape == theirs.shape, name
        if dtype == "float64":
            atol = 1e-12 * np.abs(theirs).max()
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=atol, err_msg=name)
        elif name in ("history", "evaluate"):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, err_msg=name)
        else:
            apart, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
            assert apart <= 2e-4 * size, f"{name}: {apart:.2g} apart, norm {size:.2g}"
