"""Models from and to Keras and PyTorch.

What moves is plain: configurations as Keras writes them and arrays in Keras' order (a kernel is
(n_in, n_out)). Neither package is imported before a model is made for it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
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
            "loss": _settings_of_loss(_loss_or_metric(told["loss"]), getattr(model, "loss", None)),
            **{
                name: [_loss_or_metric(metric) for metric in told.get(name) or []]
                for name in ("metrics", "weighted_metrics")
            },
        }
    return Moved(found.get("name"), layers, weights, compiled)


def _plain(value: Any) -> Any:
    """A configuration of lists, names of dtype policies and the decimals of float32 alone.

    Keras keeps coefficients in float32: 0.001 comes back as 0.0010000000474974513.
    """
    if isinstance(value, Mapping):
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        if value.get("class_name") == "__tensor__":  # the label_weights of AUC
            return _plain(value["config"]["value"])
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


def _settings_of_loss(described: Any, loss: Any) -> Any:
    """With the arguments that Keras 3.15 leaves out of the configuration, such as Huber's delta."""
    if not isinstance(described, Mapping):
        return described
    config = _plain(getattr(loss, "_fn_kwargs", {})) | described["config"]
    return {**described, "config": config}


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
            config = _with_activation(keras, layer["config"])
            made = _deserialized("layer", keras.layers, {**layer, "config": config})
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


def _with_activation(keras: Any, config: Config) -> Config:
    """A layer's configuration with its activation in a form that Keras reads."""
    described = config.get("activation")
    if not isinstance(described, Mapping):
        return config
    if described["class_name"] == "Activation":  # gelu by tanh, of which Keras has a function alone
        return config | {"activation": _gelu_tanh(keras)}
    own = described["config"] | {"dtype": config["dtype"]}
    return config | {"activation": {**described, "config": own, "module": "keras.layers"}}


def _gelu_tanh(keras: Any) -> Any:
    """gelu with approximate=True, under a name that Keras' own files have room for."""
    name = "fastreg>gelu_tanh"
    found = keras.saving.get_registered_object(name)
    if found is None:

        def gelu_tanh(x: Any) -> Any:
            return keras.activations.gelu(x, approximate=True)

        found = keras.saving.register_keras_serializable("fastreg", "gelu_tanh")(gelu_tanh)
    return found


def _deserialized(what: str, module: Any, found: Config) -> Any:
    cls = getattr(module, found["class_name"], None)
    if cls is None:
        raise ValueError(f"{what}: got {found['class_name']}, which Keras does not have")
    try:
        return cls.from_config(found["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: Keras does not take {found!r} ({error})") from error


# ------------------------------------------------ PyTorch


class TorchActivation(NamedTuple):
    """A module class of torch.nn (or of torch_modules), and the activation that it is."""

    kind: str
    name: str
    attributes: Mapping[str, Any] = MappingProxyType({})  # what they must be
    fixed: Mapping[str, Any] = MappingProxyType({})  # the activation's parameters, for these
    own: Mapping[str, str] = MappingProxyType({})  # attribute -> parameter


# The first that fits is taken, either way.
TORCH_ACTIVATIONS = (
    TorchActivation("Identity", "linear"),
    TorchActivation("ReLU", "relu"),
    TorchActivation("Tanh", "tanh"),
    TorchActivation("Sigmoid", "sigmoid"),
    TorchActivation("Softmax", "softmax", {"dim": -1}),
    TorchActivation("LogSoftmax", "log_softmax", {"dim": -1}),
    TorchActivation("LeakyReLU", "leaky_relu", own={"negative_slope": "negative_slope"}),
    TorchActivation("ReLU6", "relu6"),
    TorchActivation("ELU", "elu", own={"alpha": "alpha"}),
    TorchActivation("SELU", "selu"),
    # From its threshold on PyTorch's softplus is z, which from 20 on is wrong by 2e-9.
    TorchActivation("Softplus", "softplus", {"beta": 1, "threshold": 50}),
    TorchActivation("Softsign", "softsign"),
    TorchActivation("Hardsigmoid", "hard_sigmoid"),
    TorchActivation("Hardswish", "hard_silu"),
    TorchActivation("SiLU", "silu"),
    TorchActivation("GELU", "gelu", {"approximate": "none"}),
    TorchActivation("GELU", "gelu", {"approximate": "tanh"}, {"approximate": True}),
    TorchActivation("Mish", "mish"),
    TorchActivation("Hardtanh", "relu", {"min_val": 0}, own={"max_val": "max_value"}),
    TorchActivation("Threshold", "relu", {"value": 0}, own={"threshold": "threshold"}),
    TorchActivation("Exponential", "exponential"),
    TorchActivation(
        "KerasReLU",
        "relu",
        own={name: name for name in ("negative_slope", "max_value", "threshold")},
    ),
)
# What else means the same, as rows of theirs are rows of ours.
_SAME_IN_TORCH = {"dim": {-1, 1}, "threshold": {20, 50}}

WITHOUT_MODULE = ("Input", "Activation", "ActivityRegularization")


def of_torch(model: Any) -> Moved:
    """What a `torch.nn.Sequential` of the modules that `from_torch` knows is made of.

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
        elif isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm | torch.nn.BatchNorm1d):
            kind, config, n = _normalization_of(torch, module)
            if not layers:
                layers.append({"class_name": "Input", "config": {"shape": [n]}})
                weights.append([])
            if kind == "BatchNormalization":
                moving = module.running_mean, module.running_var
                arrays += [array.detach().cpu().numpy() for array in moving]
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


def _normalization_of(torch: Any, module: Any) -> tuple[str, Config, int]:
    """The layer's class, what it is made with, and its width."""
    config = {"epsilon": module.eps}
    if isinstance(module, torch.nn.RMSNorm):
        if len(module.normalized_shape) != 1 or module.weight is None or module.eps is None:
            raise ValueError(
                f"model: got {module}; rows of one axis, a weight and an eps are needed"
            )
        return "RMSNormalization", config, module.normalized_shape[0]
    config |= {"scale": module.weight is not None, "center": module.bias is not None}
    if isinstance(module, torch.nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise ValueError(f"model: got {module}; rows of one axis are needed")
        return "LayerNormalization", config, module.normalized_shape[0]
    if not module.track_running_stats or module.momentum is None:
        raise ValueError(f"model: got {module}; running moments with a momentum are needed")
    config["momentum"] = 1 - module.momentum
    return "BatchNormalization", config, module.num_features


def _activation_of(module: Any) -> Any:
    """A module as the configuration of an activation."""
    for kind, name, attributes, fixed, own in TORCH_ACTIVATIONS:
        if type(module).__name__ != kind:
            continue
        found = {key: getattr(module, key) for key in attributes}
        if all(found[key] in _SAME_IN_TORCH.get(key, {attributes[key]}) for key in found):
            parameters = {parameter: getattr(module, key) for key, parameter in own.items()}
            return activations.serialize(activations.Activation(name, **fixed, **parameters))
    known = ["Linear", "Dropout", "AlphaDropout", "Flatten", "LayerNorm", "BatchNorm1d"]
    known += [each.kind for each in TORCH_ACTIVATIONS]
    raise unknown_name("model", str(module), known)


def _torch_module(torch: Any, activation: activations.Activation) -> Any:
    told = dict(activation.parameters)
    every = activations.PARAMETERS.get(activation.name, {}) | told
    for kind, name, attributes, fixed, own in TORCH_ACTIVATIONS:
        free = {key: value for key, value in told.items() if key not in own.values()}
        if name == activation.name and free == fixed:
            home = torch.nn
            if not hasattr(home, kind):
                home = importlib.import_module("fastreg.torch_modules")
            return getattr(home, kind)(**attributes, **{key: every[own[key]] for key in own})
    raise unknown_name("activation", activation.name, [each.name for each in TORCH_ACTIVATIONS])


def to_torch(moved: Moved) -> Any:
    """The `torch.nn.Sequential` of it, in training mode, on the CPU.

    Raises
    ------
    ImportError
        Without PyTorch.
    ValueError
        For a layer that PyTorch does not have, or a model that is not built.
    """
    torch = _package("torch")
    if moved.weights is None:
        raise ValueError("to_torch: the model is not built; it has no weights yet")
    modules: list[Any] = []
    outer = len(moved.layers[0]["config"]["shape"]) > 1
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
            outer = False
        elif kind == "BatchNormalization" and outer:
            raise ValueError("to_torch: BatchNorm1d acts on the second axis there, not the last")
        elif kind in ("LayerNormalization", "BatchNormalization"):
            modules.append(_torch_normalization(torch, kind, config, arrays))
        elif kind == "RMSNormalization":
            scale = torch.tensor(arrays[0])
            modules.append(torch.nn.RMSNorm(len(scale), config["epsilon"], dtype=scale.dtype))
            with torch.no_grad():
                modules[-1].weight.copy_(scale)
            modules[-1].requires_grad_(config["trainable"])
        elif kind not in WITHOUT_MODULE:
            known = ["Dense", "Dropout", "AlphaDropout", "Flatten"]
            known += ["LayerNormalization", "RMSNormalization", "BatchNormalization"]
            raise unknown_name("layer", kind, known)
        activation = activations.get(config.get("activation"))
        if activation.name != "linear":
            modules.append(_torch_module(torch, activation))
    return torch.nn.Sequential(*modules)


def _torch_normalization(torch: Any, kind: str, config: Config, arrays: list[Array]) -> Any:
    """A LayerNorm or BatchNorm1d; PyTorch moves its variance by the unbiased one of a batch.

    Where there is no gamma or beta it is 1 or 0, and not trained.
    """
    names = [name for name, has in (("weight", "scale"), ("bias", "center")) if config[has]]
    if kind == "BatchNormalization":
        names += ["running_mean", "running_var"]
    if not names:
        raise ValueError(f"to_torch: layer {config['name']!r} has neither gamma nor beta")
    n, dtype = len(arrays[0]), torch.tensor(arrays[0]).dtype
    if kind == "BatchNormalization":
        momentum = 1 - config["momentum"]
        module = torch.nn.BatchNorm1d(n, config["epsilon"], momentum, dtype=dtype)
    else:
        module = torch.nn.LayerNorm(n, config["epsilon"], dtype=dtype)
    with torch.no_grad():
        for name, array in zip(names, arrays, strict=True):
            getattr(module, name).copy_(torch.tensor(array))
    for name in ("weight", "bias"):
        getattr(module, name).requires_grad_(config["trainable"] and name in names)
    return module


# ------------------------------------------------ ONNX


class _Graph:
    """Nodes and constants of an ONNX graph, which grow by one call an operator."""

    def __init__(self, onnx: Any, dtype: Any) -> None:
        self.onnx, self.dtype = onnx, np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any, name: str | None = None) -> str:
        """The name of an array, or of a number of the graph's dtype."""
        name = name or f"number_{value!r}"
        array = np.asarray(value, self.dtype if np.ndim(value) == 0 else None)
        made = self.onnx.numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        self.constants.setdefault(name, made)
        return name

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """The name of the output; inputs are names or numbers."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def clipped(self, z: str, low: float, high: float) -> str:
        return self("Min", self("Max", z, low), high)

    def normal_below(self, z: str) -> str:
        """The normal distribution's integral up to z; onnxruntime has erf in float32 alone."""
        TensorProto = self.onnx.TensorProto
        scaled = self("Cast", self("Mul", z, 0.5**0.5), to=TensorProto.FLOAT)
        dtype = self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        return self("Mul", self("Add", self("Cast", self("Erf", scaled), to=dtype), 1.0), 0.5)

    def softplus(self, z: str) -> str:
        e = self("Exp", self("Neg", self("Abs", z)))
        return self("Add", self("Max", z, 0.0), self("Log", self("Add", e, 1.0)))

    def elu(self, z: str, alpha: float, scale: float = 1.0) -> str:
        e = self("Sub", self("Exp", self("Min", z, 0.0)), 1.0)
        below = self("Mul", e, scale * alpha)
        return self("Where", self("Greater", z, 0.0), self("Mul", z, scale), below)

    def leaky_relu(self, z: str, slope: float, most: float, threshold: float) -> str:
        above = z if most == np.inf else self("Min", z, most)
        below = self("Mul", self("Sub", z, threshold), slope)
        return self("Where", self("Greater", z, threshold), above, below)

    def activation(self, f: activations.Activation, z: str) -> str:
        """f(z), in operators that onnxruntime has for both dtypes."""
        operator = ONNX_OPERATORS.get(f.kind)
        if operator is not None:
            return self(operator, z)
        if f.kind == "leaky_relu":
            assert f.curve is not None
            return self.leaky_relu(z, *f.curve)
        if f.kind == "elu":
            assert f.curve is not None
            return self.elu(z, f.curve[0])
        return ONNX_FORMULAS[f.kind](self, z)


# Activation -> its operator.
ONNX_OPERATORS = {
    "linear": "Identity",
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
    "exponential": "Exp",
}


def _gelu_by_tanh(g: _Graph, z: str) -> str:
    u = g("Mul", z, g("Add", g("Mul", g("Mul", z, z), 0.07135481627260025), 1.5957691216057308))
    return g("Mul", z, g("Sigmoid", u))


# Activation -> a function of the graph and z.
ONNX_FORMULAS: dict[str, Callable[[_Graph, str], str]] = {
    "relu6": lambda g, z: g.clipped(z, 0.0, 6.0),
    "selu": lambda g, z: g.elu(z, 1.6732632423543772, 1.0507009873554805),
    "softplus": _Graph.softplus,
    "softsign": lambda g, z: g("Div", z, g("Add", g("Abs", z), 1.0)),
    "hard_sigmoid": lambda g, z: g("Div", g.clipped(g("Add", z, 3.0), 0.0, 6.0), 6.0),
    "hard_silu": lambda g, z: g("Mul", z, ONNX_FORMULAS["hard_sigmoid"](g, z)),
    "silu": lambda g, z: g("Mul", z, g("Sigmoid", z)),
    "gelu": lambda g, z: g("Mul", z, g.normal_below(z)),
    "gelu_tanh": _gelu_by_tanh,
    "mish": lambda g, z: g("Mul", z, g("Tanh", g.softplus(z))),
}


def to_onnx(name: str, layers: list[Config], dtype: Any, selected: Any, row: Any) -> Any:
    """An `onnx.ModelProto` of layers, each its configuration and "weights".

    `selected` are the columns that the first layer reads (None: all), `row` is the shape of a row.
    """
    onnx = _package("onnx", " (or fastreg-dense[onnx])")
    helper, graph, last, width = onnx.helper, _Graph(onnx, dtype), "x", row[-1]
    shape: Any = None  # of a row of x, where a Flatten makes another of it
    if selected is not None:
        index = graph.constant(np.asarray(selected, np.int64), "selected_inputs")
        last, width = graph("Gather", last, index, axis=-1), len(selected)
    for i, layer in enumerate(layers):
        if layer["class_name"] == "Dense":
            kernel, *bias = layer["weights"]
            last = graph("MatMul", last, graph.constant(kernel, f"kernel_{i}"))
            for each in bias:
                last = graph("Add", last, graph.constant(each, f"bias_{i}"))
            width = kernel.shape[1]
        if layer["class_name"] == "Flatten":
            last, width = graph("Flatten", last, axis=1), math.prod(row[:-1]) * width
            shape, row = shape or row, (width,)
        if layer["class_name"] == "BatchNormalization" and len(row) > 1:
            raise ValueError(
                "to_onnx: BatchNormalization acts on the second axis there, not the last"
            )
        if layer["class_name"] == "RMSNormalization":
            square = graph("ReduceMean", graph("Mul", last, last), axes=[-1])
            epsilon = graph.constant(np.asarray(layer["config"]["epsilon"], dtype), f"epsilon_{i}")
            last = graph("Div", last, graph("Sqrt", graph("Add", square, epsilon)))
            last = graph("Mul", last, graph.constant(layer["weights"][0], f"scale_{i}"))
        if layer["class_name"] in ("LayerNormalization", "BatchNormalization"):
            config, arrays = layer["config"], iter(layer["weights"])
            ones, zeros = np.ones(width, dtype), np.zeros(width, dtype)
            gamma = graph.constant(next(arrays) if config["scale"] else ones, f"gamma_{i}")
            beta = graph.constant(next(arrays) if config["center"] else zeros, f"beta_{i}")
            moving = [graph.constant(each, f"moving_{i}_{j}") for j, each in enumerate(arrays)]
            inputs = [last, gamma, beta, *moving]
            last = graph(layer["class_name"], *inputs, epsilon=config["epsilon"])
        if "activation" in layer["config"]:
            last = graph.activation(activations.get(layer["config"]["activation"]), last)
    graph.nodes[-1].output[0] = "y"
    kind = helper.np_dtype_to_tensor_dtype(graph.dtype)
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("x", kind, ["n", *(shape or row)])],
        [helper.make_tensor_value_info("y", kind, ["n", *row[:-1], width])],
        list(graph.constants.values()),
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(made, opset_imports=[opset], ir_version=9, producer_name="fastreg")
    onnx.checker.check_model(model)
    return model
