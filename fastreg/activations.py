"""Activations: the function f in y = f(x kernel + bias), by name.

>>> get("relu")
Activation(name='relu')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastreg import functional
from fastreg.errors import unknown_name
from fastreg.inputs import ACTIVATIONS
from fastreg.serialization import Configurable, same_name


@dataclass(frozen=True)
class Activation(Configurable):
    """An activation of a layer, callable on an array.

    Parameters
    ----------
    name : str
        "linear", "relu", "tanh", "sigmoid" or "softmax" (over the last axis).

    Raises
    ------
    ValueError
        For another name; the nearest one is suggested.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or same_name(self.name) not in ACTIVATIONS:
            raise unknown_name("activation", self.name, ACTIVATIONS)
        self._set(name=same_name(self.name))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """f(x), an array like `x`, float32 or float64."""
        return functional.activation_forward(x, self.name)


linear, relu, tanh, sigmoid, softmax = (Activation(name) for name in ACTIVATIONS)


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
        f"activation: got {identifier!r}; a name ({', '.join(ACTIVATIONS)}), an Activation or None "
        "is needed"
    )


def serialize(activation: Activation) -> str:
    """The activation as its name, which is what Keras writes.

    >>> serialize(relu)
    'relu'
    """
    return get(activation).name


def deserialize(config: str | Mapping[str, Any]) -> Activation:
    """The activation that `serialize` wrote, or a `{"class_name", "config"}` dictionary of one.

    >>> deserialize("relu") == relu
    True
    """
    if isinstance(config, Mapping):
        inner = config.get("config")
        # Keras writes a function as {"class_name": "function", "config": its name}.
        config = inner.get("name", "") if isinstance(inner, Mapping) else str(inner)
    return Activation(config)
