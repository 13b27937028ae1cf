"""Activations: the function f in y = f(x kernel + bias), by name.

>>> get("relu"), get("swish")
(Activation(name='relu'), Activation(name='silu'))
>>> Activation("leaky_relu", negative_slope=0.1)
Activation(name='leaky_relu', negative_slope=0.1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastreg import functional
from fastreg.errors import check_real, unknown_name
from fastreg.inputs import ACTIVATIONS, CURVES, Curve
from fastreg.serialization import Configurable, check_bool, same_name

# gelu_tanh is gelu with approximate=True, an activation of its own in the engine.
NAMES = tuple(name for name in ACTIVATIONS if name != "gelu_tanh")
_FOUND = {same_name(name): name for name in NAMES} | {"swish": "silu", "hardswish": "hard_silu"}

# Keras' defaults.
PARAMETERS: dict[str, dict[str, Any]] = {
    "relu": {"negative_slope": 0.0, "max_value": None, "threshold": 0.0},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": False},
}

# Keras' layers of an activation with parameters, and the defaults of those.
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReLU": ("relu", {}),
    "LeakyReLU": ("leaky_relu", {"negative_slope": 0.3}),
    "ELU": ("elu", {}),
}


@dataclass(frozen=True, init=False, repr=False)
class Activation(Configurable):
    """An activation of a layer, callable on an array.

    Parameters
    ----------
    name : str
        A name of `NAMES`, which are Keras', or "swish" or "hard_swish". softmax and log_softmax are
        over the last axis.
    **parameters : optional
        Keras': negative_slope (relu, leaky_relu), max_value and threshold (relu), alpha (elu),
        approximate (gelu: by tanh).

    Raises
    ------
    ValueError, TypeError
        For another name (the nearest one is suggested), or a parameter that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    >>> Activation("relu", max_value=1.5)(np.array([[0.5, 2.0]]))
    array([[0.5, 1.5]])
    """

    name: str
    parameters: tuple[tuple[str, Any], ...]

    def __init__(self, name: str, **parameters: Any) -> None:
        if name == "gelu_tanh":  # the engine's name
            name, parameters = "gelu", {"approximate": True, **parameters}
        found = _FOUND.get(same_name(name)) if isinstance(name, str) else None
        if found is None:
            raise unknown_name("activation", name, NAMES)
        self._set(name=found, parameters=_checked(found, parameters))

    def __repr__(self) -> str:
        arguments = [f"{key}={value!r}" for key, value in self.get_config().items()]
        return f"Activation({', '.join(arguments)})"

    def __call__(self, x: np.ndarray, **parameters: Any) -> np.ndarray:
        """f(x), an array like `x`, float32 or float64; `parameters` in place of the own ones."""
        if parameters:
            return Activation(self.name, **{**dict(self.parameters), **parameters})(x)
        return functional.activation_forward(x, self)

    def get_config(self) -> dict[str, Any]:
        """The name, and the parameters that are not at their defaults."""
        return {"name": self.name, **dict(self.parameters)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Activation:
        """The activation that `get_config` described."""
        return cls(**config)

    @property
    def kind(self) -> str:
        """The engine's name for it."""
        if self.name == "relu":
            return "leaky_relu" if self.parameters else "relu"
        return "gelu_tanh" if self.parameters and self.name == "gelu" else self.name

    @property
    def curve(self) -> Curve | None:
        """The engine's parameters: alpha, max_value and threshold, where it has them."""
        own: dict[str, Any] = {**PARAMETERS.get(self.name, {}), **dict(self.parameters)}
        if self.kind not in CURVES:
            return None
        max_value = own.get("max_value")
        return (
            float(own["alpha" if self.name == "elu" else "negative_slope"]),
            math.inf if max_value is None else float(max_value),
            float(own.get("threshold", 0.0)),
        )

    @property
    def gives_rates(self) -> bool:
        """Whether all that it gives lies in [0, 1].

        >>> relu.gives_rates, Activation("relu", max_value=1.0).gives_rates
        (False, True)
        """
        if self.name in ("sigmoid", "hard_sigmoid", "softmax"):
            return True
        if self.name != "relu" or self.curve is None:
            return False
        alpha, max_value, threshold = self.curve
        return alpha == 0 and threshold >= 0 and max_value <= 1


def _checked(name: str, parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The parameters that are not at Keras' defaults, in their order."""
    defaults = PARAMETERS.get(name, {})
    for key in parameters:
        if key not in defaults:
            raise TypeError(
                str(unknown_name(f"argument of {name}", key, list(defaults) or ["none"]))
            )
    checked: dict[str, Any] = {}
    for key in defaults:
        value = parameters.get(key, defaults[key])
        if key == "approximate":
            value = check_bool(key, value)
        elif value is not None or key != "max_value":
            low = 0.0 if key in ("max_value", "threshold") else -math.inf
            value = check_real(key, value, low=low)
        if value != defaults[key]:
            checked[key] = value
    return tuple(checked.items())


linear = Activation("linear")
relu = Activation("relu")
tanh = Activation("tanh")
sigmoid = Activation("sigmoid")
softmax = Activation("softmax")
log_softmax = Activation("log_softmax")
leaky_relu = Activation("leaky_relu")
relu6 = Activation("relu6")
elu = Activation("elu")
selu = Activation("selu")
exponential = Activation("exponential")
softplus = Activation("softplus")
softsign = Activation("softsign")
hard_sigmoid = Activation("hard_sigmoid")
hard_silu = hard_swish = Activation("hard_silu")
silu = swish = Activation("silu")
gelu = Activation("gelu")
mish = Activation("mish")


def get(identifier: object) -> Activation:
    """The activation meant by None ("linear"), a name, an instance or what `serialize` wrote.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get(None).name, get("tanh") is not None
    ('linear', True)
    """
    if identifier is None:
        return linear
    if isinstance(identifier, Activation):
        return identifier
    if isinstance(identifier, str | Mapping):
        return deserialize(identifier)
    raise TypeError(
        f"activation: got {identifier!r}; a name ({', '.join(NAMES)}), an Activation or None "
        "is needed"
    )


def serialize(activation: Activation) -> str | dict[str, Any]:
    """The activation as Keras writes it: its name, or the layer that has its parameters.

    >>> serialize(relu)
    'relu'
    >>> serialize(Activation("leaky_relu", negative_slope=0.1))
    {'class_name': 'LeakyReLU', 'config': {'negative_slope': 0.1}}
    """
    activation = get(activation)
    if not activation.parameters:
        return activation.name
    for layer, (name, _) in LAYERS.items():
        if name == activation.name:
            own = {**PARAMETERS[name], **dict(activation.parameters)}
            return {"class_name": layer, "config": own}
    return {"class_name": "Activation", "config": activation.get_config()}


def deserialize(config: str | Mapping[str, Any]) -> Activation:
    """The activation that `serialize` wrote, or that Keras did, as a function or a layer.

    >>> deserialize("relu") == relu
    True
    >>> deserialize({"class_name": "LeakyReLU", "config": {"name": "a", "negative_slope": 0.1}})
    Activation(name='leaky_relu', negative_slope=0.1)
    """
    if isinstance(config, str):
        return Activation(config.removeprefix("fastreg>"))  # a function that Keras registered
    inner = config.get("config")
    if not isinstance(inner, Mapping):
        return deserialize(str(inner))  # Keras: {"class_name": "function", "config": its name}
    if config.get("class_name") not in LAYERS:
        return Activation(**{"name": "", **inner})
    name, defaults = LAYERS[config["class_name"]]
    own = {key: value for key, value in inner.items() if key in PARAMETERS[name]}
    return Activation(name, **{**defaults, **own})
