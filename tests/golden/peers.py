"""How Keras, PyTorch and scikit-learn are brought to train a case, each in its own terms."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from golden.cases import ACTIVATIONS, BCE, CCE, L1, L1L2, L2, MSE, SCCE, Answer, Case, data, train

# ------------------------------------------------------------------ Keras


def keras_in_float64() -> Any:
    """Keras on JAX, computing all of its float64 work in float64.

    Must come before anything else imports keras or jax in the process.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_ENABLE_X64"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    from keras.src.backend.common import dtypes

    # Keras types results by the default of JAX, which has no float64: `ops.mean` of float64
    # numbers, for one, is computed in float32, and losses come out 1e-8 off. On TensorFlow this
    # very table says float64.
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    keras.config.set_floatx("float64")
    return keras


def train_keras(case: Case, dtype: str = "float64") -> Answer:
    """The answer of Keras; a case is written in its words."""
    keras = keras_in_float64()
    keras.backend.clear_session()  # frees the cases before
    keras.config.set_floatx(dtype)
    try:
        return train(keras, case, dtype)
    finally:
        keras.config.set_floatx("float64")


def train_keras_on_torch(case: Case) -> Answer:
    """The answer of Keras on its PyTorch backend in float32, in a process of its own."""
    code = (
        "import os, pickle, sys; os.environ['KERAS_BACKEND'] = 'torch'\n"
        "case = pickle.load(sys.stdin.buffer)\n"
        "import keras\n"
        "from golden import cases\n"
        "pickle.dump(cases.train(keras, case, 'float32'), sys.stdout.buffer)\n"
    )
    answered = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(case),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        timeout=120,
        check=True,
    )
    return pickle.loads(answered.stdout)


# ------------------------------------------------------------------ PyTorch


def _dense(units: int, activation: str, **more: Any) -> dict[str, Any]:
    regularizers = dict.fromkeys(("kernel_regularizer", "bias_regularizer", "activity_regularizer"))
    return {
        "units": units,
        "activation": activation,
        "use_bias": True,
        "trainable": True,
        **regularizers,
        **more,
    }


def _case(seed: int, n_in: int, layers: list[Any], loss: str, optimizer: Any, **more: Any) -> Case:
    class_name, config = optimizer
    return {
        "seed": seed,
        "n": 23,
        "batch_size": 8,
        "epochs": 3,
        "n_in": n_in,
        "layers": layers,
        "loss": loss,
        "metrics": [],
        "optimizer": {"class_name": class_name, "config": config},
        "weighting": None,
        "soft": False,
        "zero_bias": False,
        **more,
    }


def torch_cases() -> list[Case]:
    """What PyTorch's users write: weight_decay on all parameters, L1 as a term of the loss.

    PyTorch adds Adam's epsilon outside the bias correction, Keras inside: with 1e-30 it is neither.
    Biases start at exactly 0 in the cases with L1 on them: the slope of |w| is 0 there.
    """
    decay = {"kernel_regularizer": L2, "bias_regularizer": L2}
    sparse = {"kernel_regularizer": L1, "bias_regularizer": L1}
    sgd: dict[str, Any] = {"learning_rate": 0.05}
    adam = {"learning_rate": 0.01, "epsilon": 1e-30}
    momentum = {**sgd, "momentum": 0.9}
    nesterov = {**momentum, "nesterov": True}

    def net(hidden: str, units: int, last: str, **more: Any) -> list[Any]:
        return [_dense(11, hidden, **more), _dense(units, last, **more)]

    activity = [_dense(11, "relu", activity_regularizer=L1L2), _dense(4, "softmax")]
    output = [_dense(7, "tanh"), _dense(3, "sigmoid", activity_regularizer=L1L2)]
    return [
        _case(7001, 5, net("relu", 3, "linear", **decay), MSE, ("SGD", sgd)),
        _case(7002, 9, net("tanh", 4, "softmax", **decay), SCCE, ("SGD", momentum)),
        _case(7003, 8, net("sigmoid", 1, "sigmoid", **decay), BCE, ("SGD", nesterov)),
        _case(7004, 6, net("tanh", 5, "softmax"), CCE, ("SGD", momentum), soft=True),
        _case(7005, 7, net("relu", 4, "softmax", **decay), SCCE, ("Adam", adam)),
        _case(7006, 7, net("tanh", 2, "linear"), MSE, ("AdamW", {**adam, "weight_decay": 0.1})),
        _case(7007, 5, net("tanh", 3, "linear", **sparse), MSE, ("SGD", momentum), zero_bias=True),
        _case(7008, 5, net("relu", 4, "softmax", **sparse), SCCE, ("Adam", adam), zero_bias=True),
        _case(7009, 5, activity, SCCE, ("SGD", nesterov)),
        _case(7010, 5, output, BCE, ("Adam", adam)),
    ]


def torch_activation_cases() -> list[Case]:
    """Every activation that PyTorch has, in the hidden layer."""
    return [
        _case(
            7100 + number,
            6,
            [_dense(9, activation), _dense(3, "linear", activity_regularizer=L2)],
            MSE,
            ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
        )
        for number, activation in enumerate([*ACTIVATIONS, {"name": "relu", "threshold": 0.4}])
        if activation != {"name": "relu", "negative_slope": 0.2, "max_value": 0.9, "threshold": 0.1}
    ]


def _torch_function(torch: Any, activation: Any) -> Any:
    """The activation of a case, of PyTorch's own functions alone."""
    F = torch.nn.functional
    named = {"name": activation} if isinstance(activation, str) else activation
    slope = named.get("negative_slope", 0.2)
    if "max_value" in named:
        return lambda z: F.hardtanh(z, 0, named["max_value"])
    if "threshold" in named:
        return lambda z: F.threshold(z, named["threshold"], 0)
    return {
        "linear": lambda z: z,
        "softmax": lambda z: torch.softmax(z, dim=-1),
        "log_softmax": lambda z: torch.log_softmax(z, dim=-1),
        "leaky_relu": lambda z: F.leaky_relu(z, slope),
        "elu": lambda z: F.elu(z, named.get("alpha", 1.0)),
        "gelu": lambda z: F.gelu(z, approximate="tanh" if "approximate" in named else "none"),
        "softplus": lambda z: F.softplus(z, threshold=50),
        # The gradient of its hardsigmoid is 1 / 6 in float32, whatever the dtype.
        "hard_sigmoid": lambda z: F.relu6(z + 3) / 6,
        "hard_silu": F.hardswish,
        "exponential": torch.exp,
        **{
            name: getattr(F, name)
            for name in ("relu", "tanh", "sigmoid", "selu", "softsign", "silu", "mish", "relu6")
        },
    }[named["name"]]


def train_torch(case: Case) -> Answer:
    """The answer of PyTorch: modules, autograd and torch.optim in float64."""
    import torch
    import torch.nn.functional as F

    given, layers, n_in = data(case), [], case["n_in"]
    for layer in case["layers"]:
        layers.append(torch.nn.Linear(n_in, layer["units"], dtype=torch.float64))
        n_in = layer["units"]
    weights = iter(given["weights"])
    with torch.no_grad():
        for linear in layers:
            linear.weight.copy_(torch.from_numpy(next(weights).T))
            linear.bias.copy_(torch.from_numpy(next(weights)))
    parameters = [p for linear in layers for p in linear.parameters()]
    optimizer = _torch_optimizer(torch, case, parameters)
    functions = [_torch_function(torch, layer["activation"]) for layer in case["layers"]]
    losses = {
        MSE: F.mse_loss,
        BCE: F.binary_cross_entropy_with_logits,
        CCE: F.cross_entropy,
        SCCE: F.cross_entropy,
    }

    def forward(x: Any) -> tuple[Any, list[Any]]:
        """The last layer's z, and the outputs of all layers."""
        outputs = [x]
        for linear, function in zip(layers, functions, strict=True):
            z = linear(outputs[-1])
            outputs.append(function(z))
        return z, outputs[1:]

    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    y = y.long() if case["loss"] == SCCE else y
    for _ in range(case["epochs"]):
        for x_b, y_b in zip(x.split(case["batch_size"]), y.split(case["batch_size"]), strict=True):
            z, outputs = forward(x_b)
            total = losses[case["loss"]](outputs[-1] if case["loss"] == MSE else z, y_b)
            for linear, layer, output in zip(layers, case["layers"], outputs, strict=True):
                # L2 on weights is the optimizer's weight_decay.
                total = total + _l1(layer["kernel_regularizer"]) * linear.weight.abs().sum()
                total = total + _l1(layer["bias_regularizer"]) * linear.bias.abs().sum()
                l1, l2 = _l1(layer["activity_regularizer"]), _l2(layer["activity_regularizer"])
                total = total + (l1 * output.abs().sum() + l2 * output.square().sum()) / len(x_b)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    with torch.no_grad():
        trained = [p.detach().numpy().T for p in parameters]
        return {"weights": trained, "predict": forward(x)[1][-1].numpy()}


def _torch_optimizer(torch: Any, case: Case, parameters: list[Any]) -> Any:
    name, config = case["optimizer"]["class_name"], dict(case["optimizer"]["config"])
    lr = config["learning_rate"]
    # PyTorch's weight_decay adds weight_decay * w to the gradient: twice the L2 coefficient.
    coupled = 2 * _l2(case["layers"][0]["kernel_regularizer"])
    if name == "SGD":
        momentum, nesterov = config.get("momentum", 0.0), config.get("nesterov", False)
        return torch.optim.SGD(
            parameters, lr, momentum=momentum, nesterov=nesterov, weight_decay=coupled
        )
    if name == "Adam":
        return torch.optim.Adam(parameters, lr, eps=config["epsilon"], weight_decay=coupled)
    decoupled = config["weight_decay"]
    return torch.optim.AdamW(parameters, lr, eps=config["epsilon"], weight_decay=decoupled)


def _l1(regularizer: Any) -> float:
    return regularizer["config"].get("l1", 0.0) if regularizer else 0.0


def _l2(regularizer: Any) -> float:
    return regularizer["config"].get("l2", 0.0) if regularizer else 0.0


# ------------------------------------------------------------------ scikit-learn


def sklearn_cases() -> list[Case]:
    """What MLPClassifier and MLPRegressor can be made to do.

    Its alpha acts on kernels alone and is divided by the rows of the batch, so the batches of the
    cases with L2 are of one size.
    """

    def net(hidden: str, units: int, last: str, regularizer: Any) -> list[Any]:
        more = {"kernel_regularizer": regularizer}
        return [_dense(11, hidden, **more), _dense(5, hidden, **more), _dense(units, last, **more)]

    sgd: dict[str, Any] = {"learning_rate": 0.05}
    momentum = {**sgd, "momentum": 0.9}
    nesterov = {**momentum, "nesterov": True}
    adam = {"learning_rate": 0.01, "epsilon": 1e-8}
    even = {"n": 40, "batch_size": 8}
    ragged = {"n": 37, "batch_size": 8}
    return [
        _case(8001, 4, net("tanh", 1, "linear", L2), MSE, ("SGD", sgd), **even),
        _case(8002, 4, net("relu", 1, "linear", L2), MSE, ("SGD", nesterov), **even),
        _case(8003, 4, net("tanh", 1, "linear", L2), MSE, ("Adam", adam), **even),
        _case(8004, 6, net("sigmoid", 3, "softmax", L2), SCCE, ("SGD", momentum), **even),
        _case(8005, 6, net("relu", 3, "softmax", L2), SCCE, ("Adam", adam), **even),
        _case(8006, 6, net("linear", 3, "softmax", None), SCCE, ("SGD", nesterov), **ragged),
        _case(8007, 5, net("tanh", 1, "sigmoid", L2), BCE, ("SGD", nesterov), **even),
        _case(8008, 5, net("relu", 1, "sigmoid", None), BCE, ("Adam", adam), **ragged),
    ]


def train_sklearn(case: Case) -> Answer:
    """The answer of scikit-learn's MLPs, started from given weights by warm_start.

    The squared loss there is half of Keras', so in its terms alpha is halved, the step of SGD
    doubled and Adam's epsilon halved; the reported loss is doubled back.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    given, config = data(case), case["optimizer"]["config"]
    half = 0.5 if case["loss"] == MSE else 1.0
    is_adam = case["optimizer"]["class_name"] == "Adam"
    names = {"linear": "identity", "sigmoid": "logistic"}
    hidden = case["layers"][0]["activation"]
    model = (MLPRegressor if case["loss"] == MSE else MLPClassifier)(
        hidden_layer_sizes=[layer["units"] for layer in case["layers"][:-1]],
        activation=names.get(hidden, hidden),
        solver="adam" if is_adam else "sgd",
        alpha=half * 2 * case["batch_size"] * _l2(case["layers"][0]["kernel_regularizer"]),
        batch_size=case["batch_size"],
        learning_rate_init=config["learning_rate"] / (1 if is_adam else half),
        momentum=config.get("momentum", 0.0),
        nesterovs_momentum=config.get("nesterov", False),
        epsilon=half * config.get("epsilon", 1e-8),
        shuffle=False,
        warm_start=True,
        n_iter_no_change=10**6,
        max_iter=1,
    )
    y = given["y"].ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that max_iter was reached
        model.fit(given["x"], y)  # makes the arrays that the next fit starts from
        model.coefs_, model.intercepts_ = given["weights"][::2], given["weights"][1::2]
        model.max_iter, model.n_iter_, model.loss_curve_ = case["epochs"], 0, []
        model.fit(given["x"], y)
    if case["loss"] == MSE:
        predicted = model.predict(given["x"])[:, np.newaxis]
    else:
        predicted = model.predict_proba(given["x"])
        predicted = predicted[:, 1:] if case["loss"] == BCE else predicted
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    return {
        "weights": [w for pair in pairs for w in pair],
        "history": np.array([model.loss_curve_[-case["epochs"] :]]) / half,
        "predict": predicted,
    }
