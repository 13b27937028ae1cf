"""What stands around an optimizer's step, beside the installed Keras, live."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
from golden import cases, peers

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


L1 = {"class_name": "L1", "config": {"l1": 0.003}}
L2 = {"class_name": "L2", "config": {"l2": 0.007}}
OPTIMIZERS = [
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "clipnorm": 0.05}),
    ("SGD", {"learning_rate": 0.05, "clipvalue": 0.02, "weight_decay": 0.1}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.5, "global_clipnorm": 0.1}),
    ("Adam", {"learning_rate": 0.01, "clipnorm": 0.05, "weight_decay": 0.1}),
    ("Adam", {"learning_rate": 0.01, "global_clipnorm": 1e3}),
    ("RMSprop", {"learning_rate": 0.01, "clipvalue": 0.02}),
    ("SGD", {"learning_rate": 0.05, "use_ema": True, "ema_momentum": 0.7}),
    (
        "Adam",
        {
            "learning_rate": 0.01,
            "use_ema": True,
            "ema_momentum": 0.6,
            "ema_overwrite_frequency": 4,
            "weight_decay": 0.1,
        },
    ),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "gradient_accumulation_steps": 3}),
    (
        "Adam",
        {
            "learning_rate": 0.01,
            "gradient_accumulation_steps": 2,
            "clipnorm": 0.05,
            "use_ema": True,
            "ema_overwrite_frequency": 2,
        },
    ),
    (
        "AdamW",
        {
            "learning_rate": {
                "module": "keras.optimizers.schedules",
                "class_name": "CosineDecay",
                "config": {
                    "initial_learning_rate": 0.001,
                    "decay_steps": 9,
                    "warmup_target": 0.02,
                    "warmup_steps": 4,
                },
                "registered_name": None,
            },
            "gradient_accumulation_steps": 4,
            "global_clipnorm": 0.1,
        },
    ),
]
CONSTRAINTS = [
    (None, None),
    ({"class_name": "NonNeg", "config": {}}, {"class_name": "NonNeg", "config": {}}),
    (
        {"class_name": "MaxNorm", "config": {"max_value": 0.4, "axis": 0}},
        {"class_name": "MaxNorm", "config": {"max_value": 0.1, "axis": 0}},
    ),
    (
        {"class_name": "UnitNorm", "config": {"axis": 1}},
        {"class_name": "UnitNorm", "config": {"axis": 0}},
    ),
    (
        {
            "class_name": "MinMaxNorm",
            "config": {"min_value": 0.3, "max_value": 0.6, "rate": 0.7, "axis": [0, 1]},
        },
        {
            "class_name": "MinMaxNorm",
            "config": {"min_value": 0.1, "max_value": 0.2, "rate": 0.5, "axis": 0},
        },
    ),
]


def train(api, dtype, optimizer, constraint, excluded, **model_options):
    """The same words for both: a network with all regularizers, 31 rows in batches of 8."""
    stream = cases.Stream(77)
    kernel, bias = constraint
    model = api.Sequential(
        [
            api.Input((9,), dtype=dtype),
            api.layers.Dense(
                37,
                "tanh",
                # JAX takes 1 as the slope of abs at 0, fastreg (and PyTorch) 0.
                kernel_regularizer=L2 if kernel and kernel["class_name"] == "NonNeg" else L1,
                bias_regularizer=L2,
                activity_regularizer=L2,
                kernel_constraint=kernel,
                dtype=dtype,
            ),
            api.layers.Dense(5, "sigmoid", trainable=False, kernel_constraint=kernel, dtype=dtype),
            api.layers.Dense(
                3,
                kernel_regularizer=L2,
                kernel_constraint=kernel,
                bias_constraint=bias,
                dtype=dtype,
            ),
        ],
        **model_options,
    )
    model.set_weights(
        [stream.uniform(-0.5, 0.5, *np.shape(w)).astype(dtype) for w in model.get_weights()]
    )
    name, config = optimizer
    made = api.optimizers.get({"class_name": name, "config": copy.deepcopy(config)})
    if excluded:
        made.exclude_from_weight_decay(var_names=excluded)
    model.compile(made, "mse")
    x, y = stream.uniform(-1, 1, 31, 9), stream.uniform(-1, 1, 31, 3)
    found = model.fit(
        x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, validation_data=(x, y)
    )
    history = {name: found.history[name] for name in ("loss", "val_loss")}
    return [np.asarray(w) for w in model.get_weights()], history


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c[0] and c[0]["class_name"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join([o[0], *o[1]]))
def test_steps(optimizer, constraint, dtype):
    if constraint[0] and dtype == "float32":
        pytest.skip("float64 says it")
    keras.backend.clear_session()
    keras.config.set_floatx(dtype)
    excluded = ["bias"] if "weight_decay" in optimizer[1] else []
    try:
        expected, records = train(keras, dtype, optimizer, constraint, excluded)
    finally:
        keras.config.set_floatx("float64")
    close = {"float64": 1e-9, "float32": 2e-4}[dtype]
    for backend in ("compiled", "reference"):
        got, own = train(fastreg, dtype, optimizer, constraint, excluded, backend=backend)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=close, atol=close * np.abs(b).max() * 1e-2)
        for name, values in records.items():
            np.testing.assert_allclose(own[name], values, rtol=close)


@pytest.mark.parametrize("mode", ["rows", "columns"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS[:4:3], ids=lambda o: "-".join([o[0], *o[1]]))
def test_orthogonal_regularizer(mode, optimizer):
    """Its value, and a training that follows its gradient, in float64."""
    config = {"factor": 0.3, "mode": mode}
    stream = cases.Stream(5)
    w = stream.uniform(-1, 1, 7, 5)
    theirs = keras.regularizers.OrthogonalRegularizer(**config)
    ours = fastreg.regularizers.OrthogonalRegularizer(**config)
    assert ours(w) == pytest.approx(float(theirs(keras.ops.convert_to_tensor(w))), rel=1e-12)
    weights = [stream.uniform(-1, 1, *shape) for shape in [(9, 6), (6,), (6, 3), (3,)]]
    x, y = stream.uniform(-1, 1, 31, 9), stream.uniform(-1, 1, 31, 3)
    found = []
    for api, options in ((keras, {}), (fastreg, {}), (fastreg, {"backend": "reference"})):
        layer = {"kernel_regularizer": {"class_name": "OrthogonalRegularizer", "config": config}}
        model = api.Sequential(
            [
                api.Input((9,), dtype="float64"),
                api.layers.Dense(6, "tanh", dtype="float64", **layer),
                api.layers.Dense(3, dtype="float64", **layer),
            ],
            **options,
        )
        model.set_weights(weights)
        made = {"class_name": optimizer[0], "config": copy.deepcopy(optimizer[1])}
        model.compile(api.optimizers.get(made), "mse")
        history = model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0).history
        found.append(([np.asarray(a) for a in model.get_weights()], history["loss"]))
    for got, loss in found[1:]:
        np.testing.assert_allclose(loss, found[0][1], rtol=1e-9)
        for a, b in zip(got, found[0][0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_models_with_all_of_it_move_both_ways():
    theirs = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                3,
                kernel_constraint=keras.constraints.MaxNorm(3, axis=[0, 1]),
                kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.5),
            ),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    settings = {"clipnorm": 0.5, "use_ema": True, "gradient_accumulation_steps": 2}
    theirs.compile(keras.optimizers.AdamW(rate, **settings), "mse")
    ours = fastreg.from_keras(theirs)
    assert ours.optimizer.schedule == fastreg.optimizers.schedules.CosineDecay(0.1, 10)
    assert {name: getattr(ours.optimizer, name) for name in settings} == settings
    assert ours.layers[0].kernel_constraint == fastreg.constraints.MaxNorm(3, [0, 1])
    ours.optimizer.exclude_from_weight_decay(var_names=["bias"])
    back = ours.to_keras()
    for name, value in settings.items():
        assert back.optimizer.get_config()[name] == value
    assert back.optimizer.get_config()["learning_rate"]["class_name"] == "CosineDecay"
    assert not back.optimizer._use_weight_decay(back.layers[0].bias)
    assert back.optimizer._use_weight_decay(back.layers[0].kernel)
    assert back.layers[0].kernel_constraint.get_config() == {"max_value": 3.0, "axis": [0, 1]}
    ours.compile("lbfgs", "mse")
    with pytest.raises(ValueError, match="LBFGS, which Keras does not have"):
        ours.to_keras()
