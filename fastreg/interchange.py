"""Models from and to Keras and PyTorch.

What moves is plain: configurations as Keras writes them and arrays in Keras' order (a kernel is
(n_in, n_out)). Neither package is imported before a model is made for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreg import activations
from fastreg.config import DTYPES
from fastreg.errors import unknown_name

Array = NDArray[Any]
Config = dict[str, Any]


class Moved(NamedTuple):
    """A model between two homes.

    Parameters
    ----------
    name : str or None
    layers : list of {"class_name", "config"}
        As Keras writes them; an Input first where the width is known.
    weights : list of lists of arrays, or None
        One list a layer (the Input has []); None for a model that is not built.
    compiled : dict or None
        "optimizer" and "loss" (or None) as {"class_name", "config"} or names, "metrics" (a list).
    """

    name: str | None
    layers: list[Config]
    weights: list[list[Array]] | None
    compiled: Config | None


def _package(name: str, extra: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed for this: pip install {name}{extra}") from error


# ------------------------------------------------ Keras


def of_keras(model: Any, compile: bool = True) -> Moved:
    """What a `keras.Sequential` is made of.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For another dtype, or what `compile` was told of Keras alone.
    """
    kinds = [(cls.__module__.split(".")[0], cls.__name__) for cls in type(model).__mro__]
    if not {("keras", "Sequential"), ("tf_keras", "Sequential")} & set(kinds):
        raise TypeError(f"model: got {model!r}; a keras.Sequential is needed")
    found = _plain(model.get_config())
    layers = [
        {"class_name": layer["class_name"], "config": _layer_config(layer)}
        for layer in found["layers"]
    ]
    weights: list[list[Array]] | None = None
    if model.built:
        if layers[0]["class_name"] != "InputLayer":  # built by its first data
            shape = list(model.input_shape[1:])
            layers.insert(0, {"class_name": "Input", "config": {"shape": shape}})
        inputs = len(layers) - len(model.layers)  # an InputLayer is in the configuration alone
        arrays = [[np.asarray(array) for array in layer.get_weights()] for layer in model.layers]
        weights = [[] for _ in range(inputs)] + arrays
        for layer, mine in zip(layers, weights, strict=True):
            if layer["class_name"] == "Normalization" and mine:  # adapted: mean, variance, count
                mean, variance = (array.ravel().tolist() for array in mine[:2])
                layer["config"] |= {"mean": mean, "variance": variance}
                mine.clear()
    told = model.get_compile_config() if compile and model.compiled else None
    compiled = None
    if told is not None:
        told = _plain(told)
        if told.get("loss_weights"):
            raise ValueError(
                f"loss_weights: got {told['loss_weights']!r}, which fastreg does not have; "
                "compile=False leaves it behind"
            )
        compiled = {
            "optimizer": told["optimizer"],
            "loss": _loss_or_metric(told["loss"]),
            **{
                name: [_loss_or_metric(metric) for metric in told.get(name) or []]
                for name in ("metrics", "weighted_metrics")
            },
        }
    return Moved(found.get("name"), layers, weights, compiled)


def _plain(value: Any) -> Any:
    """A configuration with lists for tuples, names for dtype policies, decimals for float32.

    Keras keeps coefficients in float32: 0.001 comes back as 0.0010000000474974513.
    """
    if isinstance(value, Mapping):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating) and float(np.float32(value)) == float(value):
        return float(str(np.float32(value)))
    return value.item() if isinstance(value, np.generic) else value


def _layer_config(layer: Config) -> Config:
    config = dict(layer["config"])
    if layer["class_name"] == "InputLayer":
        batch_size, *shape = config.pop("batch_shape")
        config |= {"shape": shape, "batch_size": batch_size}
        config = {key: value for key, value in config.items() if value is not False}  # defaults
    return config


def _loss_or_metric(value: Any) -> Any:
    """Its name, or its configuration without the dtype: ours are summed in float64."""
    if not isinstance(value, Mapping):
        return value
    if value["class_name"] == "function":
        return value["config"]
    config = {key: item for key, item in value["config"].items() if key != "dtype"}
    return {"class_name": value["class_name"], "config": config}


def to_keras(moved: Moved) -> Any:
    """The `keras.Sequential` of it.

    Raises
    ------
    ImportError
        Without Keras.
    ValueError
        For a layer, regularizer, ... that Keras does not have.
    """
    keras = _package("keras")
    model = keras.Sequential(name=moved.name)
    for layer in moved.layers:
        if layer["class_name"] == "Input":
            config = layer["config"]
            shape, size = tuple(config["shape"]), config["batch_size"]
            made = keras.Input(shape, size, config["dtype"], name=config["name"])
        else:
            made = _deserialized("layer", keras.layers, layer)
        model.add(made)
    if moved.weights is not None:
        for layer, arrays in zip(model.layers, moved.weights[-len(model.layers) :], strict=True):
            layer.set_weights(arrays)
    if moved.compiled is not None:
        optimizer = dict(moved.compiled["optimizer"])
        settings = dict(optimizer["config"])
        l1_step = settings.pop("l1_step", "sign")
        if l1_step != "sign":
            raise ValueError(
                f"l1_step: got {l1_step!r}, which Keras does not have; compile=False leaves the "
                "optimizer behind"
            )
        schedules = keras.optimizers.schedules
        if isinstance(settings.get("learning_rate"), Mapping):
            schedule = _deserialized("learning_rate", schedules, settings["learning_rate"])
            settings["learning_rate"] = schedules.serialize(schedule)
        excluded = settings.pop("excluded", None)
        optimizer["config"] = settings
        made = _deserialized("optimizer", keras.optimizers, optimizer)
        if excluded:
            made.exclude_from_weight_decay(var_names=excluded)
        loss = moved.compiled["loss"]
        model.compile(
            optimizer=made,
            loss=None if loss is None else _deserialized("loss", keras.losses, loss),
            **{
                name: [
                    metric["config"]["name"]  # "accuracy", which the shapes explain
                    if metric["class_name"] == "AutoAccuracy"
                    else _deserialized("metric", keras.metrics, metric)
                    for metric in moved.compiled[name]
                ]
                or None
                for name in ("metrics", "weighted_metrics")
            },
        )
    return model


def _deserialized(what: str, module: Any, found: Config) -> Any:
    cls = getattr(module, found["class_name"], None)
    if cls is None:
        raise ValueError(f"{what}: got {found['class_name']}, which Keras does not have")
    try:
        return cls.from_config(found["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: Keras does not take {found!r} ({error})") from error


# ------------------------------------------------ PyTorch

# Activation -> torch.nn's class and the arguments that make it the same function.
TORCH_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("Identity", {}),
    "relu": ("ReLU", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"dim": -1}),
}

WITHOUT_MODULE = ("Input", "Activation", "ActivityRegularization")


def of_torch(model: Any) -> Moved:
    """What a `torch.nn.Sequential` of linear layers, activations and dropout is made of.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a module that fastreg does not have.
    """
    torch = _package("torch")
    if not isinstance(model, torch.nn.Sequential):
        raise TypeError(f"model: got {model!r}; a torch.nn.Sequential is needed")
    modules = [
        module
        for module in model.modules()
        if not isinstance(module, torch.nn.Sequential | torch.nn.Identity)
    ]
    layers: list[Config] = []
    weights: list[list[Array]] = []
    for module in modules:
        config: Config = {}
        arrays = [parameter.detach().cpu().numpy() for parameter in module.parameters()]
        if isinstance(module, torch.nn.Linear):
            kind, config = "Dense", {"units": module.out_features, "use_bias": len(arrays) == 2}
            if not weights:
                layers.append({"class_name": "Input", "config": {"shape": [module.in_features]}})
                weights.append([])
            arrays = [np.ascontiguousarray(arrays[0].T), *arrays[1:]]
            dtype = str(arrays[0].dtype)
            if dtype not in DTYPES:
                raise ValueError(f"model: got {module} of {dtype}; {' or '.join(DTYPES)} is needed")
            config["dtype"] = dtype
        elif isinstance(module, torch.nn.Dropout):
            kind, config = "Dropout", {"rate": module.p}
        elif isinstance(module, torch.nn.AlphaDropout):
            kind, config = "AlphaDropout", {"rate": module.p}
        elif isinstance(module, torch.nn.Flatten):
            continue  # rows are flat
        else:
            activation = _activation_of(module)
            dense = layers and layers[-1]["class_name"] == "Dense"
            if dense and "activation" not in layers[-1]["config"]:
                layers[-1]["config"]["activation"] = activation
                continue
            kind, config = "Activation", {"activation": activation}
        layers.append({"class_name": kind, "config": config})
        weights.append(arrays)
    return Moved(None, layers, weights, None)


def _activation_of(module: Any) -> str:
    for name, (kind, arguments) in TORCH_ACTIVATIONS.items():
        if type(module).__name__ != kind:
            continue
        same = all(getattr(module, key) == value for key, value in arguments.items())
        if same or (kind == "Softmax" and module.dim == 1):
            return name
    known = [
        "Linear",
        "Dropout",
        "AlphaDropout",
        "Flatten",
        *(kind for kind, _ in TORCH_ACTIVATIONS.values()),
    ]
    raise unknown_name("model", str(module), known)


def to_torch(moved: Moved) -> Any:
    """The `torch.nn.Sequential` of it, in training mode, on the CPU.

    Raises
    ------
    ImportError
        Without PyTorch.
    ValueError
        For a layer or activation that PyTorch does not have, or a model that is not built.
    """
    torch = _package("torch")
    if moved.weights is None:
        raise ValueError("to_torch: the model is not built; it has no weights yet")
    modules: list[Any] = []
    for layer, arrays in zip(moved.layers, moved.weights, strict=True):
        kind, config = layer["class_name"], layer["config"]
        if kind == "Dense":
            tensors = [torch.tensor(array) for array in arrays]
            n_in, n_out = arrays[0].shape
            linear = torch.nn.Linear(n_in, n_out, len(arrays) == 2, dtype=tensors[0].dtype)
            with torch.no_grad():
                linear.weight.copy_(tensors[0].T)
                if len(tensors) == 2:
                    linear.bias.copy_(tensors[1])
            linear.requires_grad_(config["trainable"])
            modules.append(linear)
        elif kind in ("Dropout", "AlphaDropout"):
            modules.append(getattr(torch.nn, kind)(config["rate"]))
        elif kind == "Flatten":
            modules.append(torch.nn.Flatten())
        elif kind not in WITHOUT_MODULE:
            raise unknown_name("layer", kind, ["Dense", "Dropout", "AlphaDropout", "Flatten"])
        activation = activations.get(config.get("activation", "linear")).kind
        if activation != "linear":
            if activation not in TORCH_ACTIVATIONS:
                raise unknown_name("activation", activation, TORCH_ACTIVATIONS)
            name, arguments = TORCH_ACTIVATIONS[activation]
            modules.append(getattr(torch.nn, name)(**arguments))
    return torch.nn.Sequential(*modules)


# ------------------------------------------------ ONNX

# Names of activations that ONNX has an operator for (opset 13 and later).
ONNX_ACTIVATIONS = {
    "linear": "Identity",
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "exponential": "Exp",
    "softplus": "Softplus",
    "softsign": "Softsign",
}


def to_onnx(name: str, layers: list[Config], dtype: Any, selected: Any, n: int) -> Any:
    """An `onnx.ModelProto` of layers, each its configuration and "weights".

    `selected` are the columns that the first layer reads (None: all), `n` is the width of a row.
    """
    onnx = _package("onnx", " (or fastreg-dense[onnx])")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, constants, last, width = [], [], "x", n

    def add(operator: str, inputs: list[str], output: str, **more: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **more))
        return output

    def constant(array: Array, name: str) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    if selected is not None:
        index = constant(np.asarray(selected, np.int64), "selected_inputs")
        last, width = add("Gather", ["x", index], "selected", axis=1), len(selected)
    for i, layer in enumerate(layers):
        if layer["class_name"] == "Dense":
            kernel, *bias = layer["weights"]
            last = add("MatMul", [last, constant(kernel, f"kernel_{i}")], f"product_{i}")
            for each in bias:
                last = add("Add", [last, constant(each, f"bias_{i}")], f"z_{i}")
            width = kernel.shape[1]
        if "activation" in layer["config"]:
            activation = activations.get(layer["config"]["activation"]).kind
            if activation not in ONNX_ACTIVATIONS:
                what = "activation (of those that ONNX has)"
                raise unknown_name(what, activation, ONNX_ACTIVATIONS)
            last = add(ONNX_ACTIVATIONS[activation], [last], f"y_{i}")
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", kind, ["n", n])],
        [helper.make_tensor_value_info("y", kind, ["n", width])],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9, producer_name="fastreg")
    onnx.checker.check_model(model)
    return model
