"""Optimizers: how a gradient changes the weights, in Keras' form (state starts at zero).

The order in a step is Keras': the gradient takes the regularizers' at the old weights, then
`w -= learning_rate * weight_decay * w` on every trainable array, then the update of the class.
The arithmetic is `functional.sgd_update` and `functional.adam_update`; here stand the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

from fastreg.errors import check_choice, check_int, check_real, unknown_name
from fastreg.inputs import L1_STEPS, check_long_run
from fastreg.serialization import Registry, check_bool, known_arguments

Check = Callable[[str, Any], Any]

_at_least_0 = partial(check_real, low=0.0)
_share = partial(check_real, low=0.0, high=1.0)
_share_below_1 = partial(check_real, low=0.0, high=1.0, high_open=True)
_above_0 = partial(check_real, low=0.0, low_open=True)


def _optional_decay(argument: str, value: Any) -> float | None:
    return None if value is None else check_real(argument, value, low=0.0)


def _l1_step(argument: str, value: Any) -> str:
    return check_choice(argument, value, L1_STEPS)


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{argument}: got {value!r}; a non-empty string is needed")
    return value


def _no_amsgrad(argument: str, value: Any) -> bool:
    if check_bool(argument, value):
        raise ValueError(f"{argument}: got True; only False is supported")
    return False


class Optimizer:
    """Base of the optimizers: settings that are checked whenever they are set.

    Two optimizers are equal when class and settings are; `iterations` is state, not a setting.

    Attributes
    ----------
    iterations : int
        Steps done so far, from 0.
    """

    kind: ClassVar[str]  # the engine's name
    checks: ClassVar[Mapping[str, Check]]  # setting -> its check, in the order of the arguments
    keras_only: ClassVar[Mapping[str, object]] = {
        "clipnorm": None,
        "clipvalue": None,
        "global_clipnorm": None,
        "use_ema": False,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": None,
        "loss_scale_factor": None,
        "gradient_accumulation_steps": None,
    }

    learning_rate: float
    weight_decay: float | None
    l1_step: str
    name: str
    iterations: int

    def __init__(self, keras: Mapping[str, object], **settings: object) -> None:
        known_arguments(type(self), keras, self.keras_only)
        if settings["name"] is None:
            settings["name"] = type(self).__name__.lower()
        for name, value in settings.items():
            setattr(self, name, value)
        self.iterations = 0

    def __setattr__(self, name: str, value: Any) -> None:
        check = check_iterations if name == "iterations" else self.checks.get(name)
        if check is None:
            error = unknown_name(f"setting of {type(self).__name__}", name, self.checks)
            raise AttributeError(str(error))
        super().__setattr__(name, check(name, value))

    def count(self, steps: int) -> None:
        """Add to `iterations`, without the check that costs as much as a small network's step."""
        self.__dict__["iterations"] += steps

    def describe(self) -> dict[str, Any]:
        """The settings as the engine takes them: {"kind", "learning_rate", ...}, no None."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer: plain Python values, ready for JSON."""
        return {name: getattr(self, name) for name in self.checks}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The optimizer that `get_config` described; a Keras configuration serves as well."""
        return cls(**known_arguments(cls, config, cls.keras_only))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Optimizer):
            return NotImplemented
        return self.get_config() == other.get_config()

    __hash__ = None  # type: ignore[assignment]  # settings can change


def check_iterations(argument: str, value: Any) -> int:
    """`value` as a number of steps: an integer >= 0."""
    return check_int(argument, value, low=0)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: `v = momentum * v - learning_rate * g; w += v`.

    Nesterov's form adds `momentum * v - learning_rate * g` with the new v (Keras 3.15).

    Parameters
    ----------
    learning_rate : float, default 0.01
        Step size, >= 0.
    momentum : float, default 0.0
        In [0, 1].
    nesterov : bool, default False
        Nesterov's form of momentum.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    l1_step : "sign", "proximal" or "cumulative"
        How an L1 regularizer acts. "sign": its gradient `l1 * sign(w)` is added, as in Keras; no
        weight becomes 0. "proximal": a step ends by moving weights toward 0 and leaving those
        that get there at 0. "cumulative": the same for all steps so far, which keeps weights
        at 0 where gradients are noisy; needs two more arrays of state. All have one minimum.
    name : str, optional
        Kept for the configuration.
    **keras
        Other arguments of Keras' class, at Keras' default only.

    Raises
    ------
    ValueError, TypeError
        For a setting out of range or of the wrong kind, here and whenever one is set later.

    Examples
    --------
    >>> optimizer = SGD(0.1, momentum=0.9)
    >>> optimizer.learning_rate = 0.05
    >>> optimizer.describe()["learning_rate"]
    0.05
    """

    kind = "sgd"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "momentum": _share,
        "nesterov": check_bool,
        "weight_decay": _optional_decay,
        "l1_step": _l1_step,
        "name": _name,
    }

    momentum: float
    nesterov: bool

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        *,
        l1_step: str = "sign",
        name: str | None = None,
        **keras: object,
    ) -> None:
        super().__init__(
            keras,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            l1_step=l1_step,
            name=name,
        )

    def describe(self) -> dict[str, Any]:
        check_long_run(self.l1_step, self.momentum)
        return {
            "kind": self.kind,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay or 0.0,
            "l1_step": self.l1_step,
        }


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with epsilon where Keras has it, their "epsilon hat".

    With t = iterations + 1: `m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2);
    w -= learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)`.

    Parameters
    ----------
    learning_rate : float, default 0.001
        Step size, >= 0.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the two moments, in [0, 1).
    epsilon : float, default 1e-7
        Added to sqrt(v), > 0.
    amsgrad : False
        Not supported yet; the argument stands where Keras has it.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    l1_step : "sign", "proximal" or "cumulative"
        How an L1 regularizer acts. "sign": its gradient `l1 * sign(w)` is added, as in Keras; no
        weight becomes 0. "proximal": a step ends by moving weights toward 0 and leaving those
        that get there at 0. "cumulative": the same for all steps so far, which keeps weights
        at 0 where gradients are noisy; needs two more arrays of state. All have one minimum.
    name : str, optional
        Kept for the configuration.
    **keras
        Other arguments of Keras' class, at Keras' default only.

    Raises
    ------
    ValueError, TypeError
        For a setting out of range or of the wrong kind, here and whenever one is set later.

    Examples
    --------
    >>> Adam(1e-4).describe()["epsilon"]
    1e-07
    """

    kind = "adam"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "beta_1": _share_below_1,
        "beta_2": _share_below_1,
        "epsilon": _above_0,
        "amsgrad": _no_amsgrad,
        "weight_decay": _optional_decay,
        "l1_step": _l1_step,
        "name": _name,
    }

    beta_1: float
    beta_2: float
    epsilon: float
    amsgrad: bool

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        *,
        l1_step: str = "sign",
        name: str | None = None,
        **keras: object,
    ) -> None:
        super().__init__(
            keras,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            l1_step=l1_step,
            name=name,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "learning_rate": self.learning_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "weight_decay": self.weight_decay or 0.0,
            "l1_step": self.l1_step,
        }


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), 0.004 unless said.

    Arguments and errors are those of `Adam`, with `weight_decay` second as in Keras, never None.

    Examples
    --------
    >>> AdamW(1e-3, 0.01).weight_decay
    0.01
    """

    checks: ClassVar[Mapping[str, Check]] = {**Adam.checks, "weight_decay": _at_least_0}

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        l1_step: str = "sign",
        name: str | None = None,
        **keras: object,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            l1_step=l1_step,
            name=name,
            **keras,
        )


REGISTRY: Registry[Optimizer] = Registry("optimizer", Optimizer, (SGD, Adam, AdamW))


def get(identifier: object) -> Optimizer:
    """The optimizer meant by a name, a configuration dictionary, a class or an instance.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("sgd").learning_rate
    0.01
    """
    return REGISTRY.get(identifier)


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer as `{"class_name", "config"}`; its state is not in it.

    >>> serialize(SGD())["class_name"]
    'SGD'
    """
    return REGISTRY.serialize(optimizer)


def deserialize(config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that `serialize` wrote.

    >>> deserialize({"class_name": "Adam", "config": {"learning_rate": 0.5}}).learning_rate
    0.5
    """
    return REGISTRY.deserialize(config)
