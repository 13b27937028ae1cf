"""Optimizers: how a gradient changes the weights, in Keras' form.

The order in a step is Keras': the gradient takes the regularizers' at the old weights, then
`w -= learning_rate * weight_decay * w` on every trainable array, then the update of the class.
The arithmetic is `functional.optimizer_update`; here stand the settings.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, Self, TypedDict, Unpack

from fastreg import schedules as schedules  # Keras has them here
from fastreg.errors import check_choice, check_int, check_real, unknown_name
from fastreg.inputs import L1_STEPS, check_l1_step
from fastreg.schedules import (
    LearningRateSchedule,
    in_steps,
    now,
    or_schedule,
    serialize_if_schedule,
)
from fastreg.serialization import Registry, check_bool, known_arguments

Check = Callable[[str, Any], Any]

# `from fastreg.optimizers.schedules import CosineDecay`, as from Keras' package.
sys.modules[f"{__name__}.schedules"] = schedules

_at_least_0 = partial(check_real, low=0.0)
_share = partial(check_real, low=0.0, high=1.0)
_share_below_1 = partial(check_real, low=0.0, high=1.0, high_open=True)
_above_0 = partial(check_real, low=0.0, low_open=True)
_at_most_0 = partial(check_real, high=0.0)


def _optional_decay(argument: str, value: Any) -> float | None:
    return None if value is None else check_real(argument, value, low=0.0)


def _l1_step(argument: str, value: Any) -> str:
    return check_choice(argument, value, L1_STEPS)


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{argument}: got {value!r}; a non-empty string is needed")
    return value


def _optional_bound(argument: str, value: Any) -> float | None:
    return None if value is None else check_real(argument, value, low=0.0, low_open=True)


def _optional_count(argument: str, value: Any, low: int = 1) -> int | None:
    return None if value is None else check_int(argument, value, low=low, high=2**63 - 1)


CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class Common(TypedDict, total=False):
    """The arguments that every optimizer takes by name; `Optimizer` says what they are."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    gradient_accumulation_steps: int | None
    l1_step: str
    name: str | None


class Optimizer:
    """Base of the optimizers: settings that are checked whenever they are set.

    Two optimizers are equal when class and settings are; `iterations` is state, not a setting.

    A step is, in Keras' order: the gradient with the regularizers', the mean of those of
    `gradient_accumulation_steps` batches; its clipping; weight decay; the update of the class, and
    L1 where it is not in the gradient, which no clipping touches; the running mean; constraints.

    Parameters
    ----------
    clipnorm, clipvalue, global_clipnorm : float, optional
        At most one: the gradient of each array is scaled to that Euclidean norm where it has more;
        each element is brought to at most that in size; all arrays are scaled by one factor to that
        norm of all together.
    use_ema : bool, default False
        Keep a running mean of the weights, `mean = ema_momentum * mean + (1 - ema_momentum) * w`,
        the weights themselves in the first step. At the end of `fit` it becomes the weights.
    ema_momentum : float in [0, 1], default 0.99
    ema_overwrite_frequency : int, optional
        The mean also becomes the weights whenever so many updates were done.
    gradient_accumulation_steps : int, optional
        >= 2: so many batches make one update, with their mean gradient. An iteration is a batch.
    l1_step : "sign", "proximal" or "cumulative"
        How an L1 regularizer acts. "sign": its gradient `l1 * sign(w)` is added, as in Keras; no
        weight becomes 0. "proximal": a step ends by moving weights toward 0 and leaving those
        that get there at 0. "cumulative": the same for all steps so far, which keeps weights
        at 0 where gradients are noisy; needs two more arrays of state. All have one minimum.
        `Adadelta`, `Lion`, `Ftrl` and a centered `RMSprop` have "sign" alone: their steps do not
        settle under the constant gradient that l1 is.
    name : str, optional
        Kept for the configuration.
    **keras
        Other arguments of Keras' class, at Keras' default only.

    Attributes
    ----------
    iterations : int
        Steps done so far, from 0.

    Raises
    ------
    ValueError, TypeError
        For a setting out of range or of the wrong kind, here and whenever one is set later.
    """

    kind: ClassVar[str]  # the engine's name
    checks: ClassVar[Mapping[str, Check]]  # setting -> its check, in the order of the arguments
    common: ClassVar[Mapping[str, tuple[Check, object]]] = {  # of every class: check, default
        **dict.fromkeys(CLIPS, (_optional_bound, None)),
        "use_ema": (check_bool, False),
        "ema_momentum": (_share, 0.99),
        "ema_overwrite_frequency": (_optional_count, None),
        "gradient_accumulation_steps": (partial(_optional_count, low=2), None),
        "l1_step": (_l1_step, "sign"),
        "name": (_name, None),
    }
    keras_only: ClassVar[Mapping[str, object]] = {
        "loss_scale_factor": None,
    }

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    gradient_accumulation_steps: int | None
    l1_step: str
    name: str
    iterations: int

    def __init_subclass__(cls) -> None:
        """Show the common arguments in the signature, each by name."""
        own = [
            parameter
            for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        by_name = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter(name, by_name, default=default)
            for name, (_, default) in cls.common.items()
        ]
        keras = inspect.Parameter("keras", inspect.Parameter.VAR_KEYWORD)
        cls.__signature__ = inspect.Signature([*own, *common, keras])  # type: ignore[attr-defined]

    def __init__(self, common: Mapping[str, Any], **settings: object) -> None:
        given = known_arguments(type(self), common, self.keras_only)
        defaults = {name: default for name, (_, default) in self.common.items()}
        settings = {**settings, **defaults, **given}
        if settings["name"] is None:
            settings["name"] = type(self).__name__.lower()
        self.__dict__["excluded"] = ()
        for name, value in settings.items():
            setattr(self, name, value)
        self.iterations = 0

    def __setattr__(self, name: str, value: Any) -> None:
        check = check_iterations if name == "iterations" else self.settings().get(name)
        if check is None:
            error = unknown_name(f"setting of {type(self).__name__}", name, self.settings())
            raise AttributeError(str(error))
        others = [clip for clip in CLIPS if clip != name and self.__dict__.get(clip) is not None]
        if name in CLIPS and value is not None and others:
            raise ValueError(f"{name}: got {value!r} beside {others[0]}; one of them may be set")
        if name == "learning_rate":
            value = or_schedule(check, name, value)
            if self.schedule is not None and not isinstance(value, LearningRateSchedule):
                raise TypeError(
                    f"learning_rate: got {value!r}; this optimizer follows {self.schedule!r}: set "
                    "another schedule, or make an optimizer with a number"
                )
            self.__dict__[name] = value
        else:
            super().__setattr__(name, check(name, value))
        self.__dict__["_described"] = None

    @property
    def learning_rate(self) -> float:
        """The step size, or that of the next step where it follows a schedule."""
        return now(self.__dict__["learning_rate"], self.iterations)

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        raise NotImplementedError("__setattr__ does it")

    @property
    def excluded(self) -> tuple[str, ...]:
        """The patterns that `exclude_from_weight_decay` was given."""
        found: tuple[str, ...] = self.__dict__["excluded"]
        return found

    def exclude_from_weight_decay(
        self, var_list: None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leave some of the weights out of `weight_decay`, before the first step.

        Parameters
        ----------
        var_list : None
            Stands where Keras has it: weights are copies here, so they are named.
        var_names : list of str
            Regular expressions. Those with a slash are looked for in "layer/kernel", "layer/bias",
            the others in "kernel" and "bias" alone, as in Keras. They go in the place of others
            that were given before.

        Raises
        ------
        ValueError, TypeError
            After the first step, or for another argument.

        Examples
        --------
        >>> optimizer = AdamW()
        >>> optimizer.exclude_from_weight_decay(var_names=["bias", "last/"])
        >>> optimizer.excludes("dense", "bias"), optimizer.excludes("dense", "kernel")
        (True, False)
        """
        if var_list is not None:
            raise ValueError(
                f"var_list: got {var_list!r}; weights are copies, name them: var_names"
            )
        if self.iterations:
            raise ValueError("exclude_from_weight_decay: call it before the first step")
        names = [] if var_names is None else var_names
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise TypeError(f"var_names: got {var_names!r}; a list of strings is needed")
        for name in names:
            try:
                re.compile(name)
            except (TypeError, re.error) as error:
                raise ValueError(
                    f"var_names: got {name!r}; a regular expression is needed ({error})"
                ) from None
        self.__dict__["excluded"] = tuple(names)

    def excludes(self, layer: str, part: str) -> bool:
        """Whether the kernel or bias of a layer is left out of weight decay."""
        return any(
            re.search(name, f"{layer}/{part}" if "/" in name else part) for name in self.excluded
        )

    @property
    def schedule(self) -> LearningRateSchedule | None:
        """What the learning rate follows, None where it is a number."""
        found = self.__dict__.get("learning_rate")
        return found if isinstance(found, LearningRateSchedule) else None

    def rates(self, steps: int) -> Any:
        """The learning rates of so many steps from the next on, (steps,); None for a number.

        Raises
        ------
        ValueError
            Where the schedule gives what is no learning rate.
        """
        if self.schedule is None:
            return None
        check = self.checks["learning_rate"]
        return in_steps(self.schedule, check, "learning_rate", self.iterations, steps)

    @classmethod
    @cache
    def settings(cls) -> Mapping[str, Check]:
        """Every setting with its check, in the order of the arguments."""
        return {**cls.checks, **{name: check for name, (check, _) in cls.common.items()}}

    def count(self, steps: int) -> None:
        """Add to `iterations`, without the check that costs as much as a small network's step."""
        self.__dict__["iterations"] += steps

    def describe(self) -> dict[str, Any]:
        """The settings as the engine takes them: {"kind", "learning_rate", ...}, no None.

        The same dictionary, not to be written to, until a setting changes.
        """
        described: dict[str, Any] | None = self.__dict__["_described"]
        if described is None:
            # A schedule's learning rates are told in each call.
            described = {"kind": self.kind, **self._unusual(self._values())}
            check_l1_step(described)
            described["weight_decay"] = self.weight_decay or 0.0
            described.pop("name", None)
            if self.use_ema:
                described["ema_momentum"] = self.ema_momentum
            self.__dict__["_described"] = described
        return described

    def _unusual(self, values: dict[str, Any]) -> dict[str, Any]:
        """Without what every optimizer has and few use, where it is not used."""
        usual = {name: default for name, (_, default) in self.common.items() if name != "l1_step"}
        return {
            name: value
            for name, value in values.items()
            if name not in usual or value != usual[name]
        }

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings()}

    def _given(self) -> dict[str, Any]:
        """The settings, a schedule as such."""
        return {**self._values(), "learning_rate": self.__dict__["learning_rate"]}

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal optimizer: plain Python values, ready for JSON."""
        found = {name: serialize_if_schedule(value) for name, value in self._given().items()}
        return found | ({"excluded": list(self.excluded)} if self.excluded else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The optimizer that `get_config` described; a Keras configuration serves as well."""
        words = dict(config) if isinstance(config, Mapping) else config
        excluded = words.pop("excluded", None) if isinstance(words, dict) else None
        found = cls(**known_arguments(cls, words, cls.keras_only))
        found.exclude_from_weight_decay(var_names=excluded)
        return found

    def __repr__(self) -> str:
        shown = self._unusual(self._given()).items()
        settings = ", ".join(f"{name}={value!r}" for name, value in shown)
        return f"{type(self).__name__}({settings})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Optimizer):
            return NotImplemented
        return (self._given(), self.excluded) == (other._given(), other.excluded)

    __hash__ = None  # type: ignore[assignment]  # settings can change


def check_iterations(argument: str, value: Any) -> int:
    """`value` as a number of steps: an integer >= 0."""
    return check_int(argument, value, low=0)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: `v = momentum * v - learning_rate * g; w += v`.

    Nesterov's form adds `momentum * v - learning_rate * g` with the new v (Keras 3.15).

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.01
        Step size, >= 0.
    momentum : float, default 0.0
        In [0, 1].
    nesterov : bool, default False
        Nesterov's form of momentum.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

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
    }

    momentum: float
    nesterov: bool

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with epsilon where Keras has it, their "epsilon hat".

    With t = iterations + 1: `m += (g - m)(1 - beta_1); v += (g^2 - v)(1 - beta_2);
    w -= learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the two moments, in [0, 1).
    epsilon : float, default 1e-7
        Added to sqrt(v), > 0.
    amsgrad : bool, default False
        Divide by the largest v so far (Reddi, Kale and Kumar 2018): one more array of state.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

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
        "amsgrad": check_bool,
        "weight_decay": _optional_decay,
    }

    beta_1: float
    beta_2: float
    epsilon: float
    amsgrad: bool

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
        )


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
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, **common)


class Adamax(Optimizer):
    """Adam with the largest |g| in place of sqrt(v) (Kingma and Ba 2015, section 7).

    With t = iterations + 1: `m += (g - m)(1 - beta_1); u = max(beta_2 * u, |g|);
    w -= learning_rate / (1 - beta_1^t) * m / (u + epsilon)`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of m and of u, in [0, 1).
    epsilon : float, default 1e-7
        Added to u, > 0.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Adamax(0.002).beta_2
    0.999
    """

    kind = "adamax"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "beta_1": _share_below_1,
        "beta_2": _share_below_1,
        "epsilon": _above_0,
        "weight_decay": _optional_decay,
    }

    beta_1: float
    beta_2: float
    epsilon: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
        )


class Nadam(Optimizer):
    """Adam with Nesterov momentum (Dozat 2016).

    With t = iterations + 1 and u_t = beta_1 (1 - 0.96^t / 2), P_t their product so far:
    `w -= learning_rate * (u_(t+1) m / (1 - P_(t+1)) + (1 - u_t) g / (1 - P_t)) / (sqrt(v / (1 -
    beta_2^t)) + epsilon)`, with m and v as in `Adam`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the two moments, in [0, 1).
    epsilon : float, default 1e-7
        Added to the root, > 0.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Nadam().describe()["kind"]
    'nadam'
    """

    kind = "nadam"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "beta_1": _share_below_1,
        "beta_2": _share_below_1,
        "epsilon": _above_0,
        "weight_decay": _optional_decay,
    }

    beta_1: float
    beta_2: float
    epsilon: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
        )


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of g^2 (Tieleman and Hinton 2012).

    `v = rho * v + (1 - rho) g^2; w -= learning_rate * g / sqrt(v + epsilon)`; with momentum the
    step goes into `p = momentum * p + step; w -= p`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0.
    rho : float, default 0.9
        Decay of the mean, in [0, 1).
    momentum : float, default 0.0
        In [0, 1].
    epsilon : float, default 1e-7
        Added to v, > 0.
    centered : bool, default False
        Take the square of the mean of g from v: its variance.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> RMSprop(momentum=0.9).describe()["rho"]
    0.9
    """

    kind = "rmsprop"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "rho": _share_below_1,
        "momentum": _share,
        "epsilon": _above_0,
        "centered": check_bool,
        "weight_decay": _optional_decay,
    }

    rho: float
    momentum: float
    epsilon: float
    centered: bool

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            rho=rho,
            momentum=momentum,
            epsilon=epsilon,
            centered=centered,
            weight_decay=weight_decay,
        )


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of g^2 (Duchi, Hazan and Singer 2011).

    `a += g^2; w -= learning_rate * g / sqrt(a + epsilon)`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0.
    initial_accumulator_value : float, default 0.1
        What a begins at, >= 0.
    epsilon : float, default 1e-7
        Added to a, > 0.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Adagrad(0.1).initial_accumulator_value
    0.1
    """

    kind = "adagrad"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "initial_accumulator_value": _at_least_0,
        "epsilon": _above_0,
        "weight_decay": _optional_decay,
    }

    initial_accumulator_value: float
    epsilon: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
            weight_decay=weight_decay,
        )


class Adadelta(Optimizer):
    """Steps of the size of those before them (Zeiler 2012).

    `G = rho * G + (1 - rho) g^2; d = sqrt(D + epsilon) / sqrt(G + epsilon) g;
    D = rho * D + (1 - rho) d^2; w -= learning_rate * d`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, >= 0; the paper's own is 1.
    rho : float, default 0.95
        Decay of both means, in [0, 1).
    epsilon : float, default 1e-7
        Added to G and D, > 0.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Adadelta(1.0).rho
    0.95
    """

    kind = "adadelta"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "rho": _share_below_1,
        "epsilon": _above_0,
        "weight_decay": _optional_decay,
    }

    rho: float
    epsilon: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            rho=rho,
            epsilon=epsilon,
            weight_decay=weight_decay,
        )


class Lion(Optimizer):
    """The sign of a mean of gradients (Chen et al. 2023).

    `w -= learning_rate * sign(beta_1 * m + (1 - beta_1) g); m = beta_2 * m + (1 - beta_2) g`.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        What a weight moves by, >= 0.
    beta_1, beta_2 : float, default 0.9 and 0.99
        Weight of m in the sign, and its decay, in [0, 1).
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Lion(1e-4, weight_decay=0.1).beta_2
    0.99
    """

    kind = "lion"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _at_least_0,
        "beta_1": _share_below_1,
        "beta_2": _share_below_1,
        "weight_decay": _optional_decay,
    }

    beta_1: float
    beta_2: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
        )


class Ftrl(Optimizer):
    """Follow the regularized leader, for sparse inputs (McMahan et al. 2013).

    With p = -learning_rate_power and s = n before: `n += g^2;
    z += g + 2 l2_shrinkage w - (n^p - s^p) / learning_rate * w;
    w = (clip(z, -l1, l1) - z) / ((n^p + beta) / learning_rate + 2 l2)`.
    Its own l1 gives exact zeros; what a layer's regularizers add goes into g.

    Parameters
    ----------
    learning_rate : float or LearningRateSchedule, default 0.001
        Step size, > 0.
    learning_rate_power : float, default -0.5
        <= 0; -0.5 is the published one, 0 a fixed step size.
    initial_accumulator_value : float, default 0.1
        What n begins at, >= 0.
    l1_regularization_strength, l2_regularization_strength : float, default 0.0
        l1 and l2 above, >= 0.
    l2_shrinkage_regularization_strength : float, default 0.0
        Acts on the gradient alone, >= 0.
    beta : float, default 0.0
        As published, >= 0.
    weight_decay : float, optional
        Decoupled decay of all trainable arrays: `w -= learning_rate * weight_decay * w`, first.
    **common
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> Ftrl(0.1, l1_regularization_strength=0.01).describe()["kind"]
    'ftrl'
    """

    kind = "ftrl"
    checks: ClassVar[Mapping[str, Check]] = {
        "learning_rate": _above_0,
        "learning_rate_power": _at_most_0,
        "initial_accumulator_value": _at_least_0,
        "l1_regularization_strength": _at_least_0,
        "l2_regularization_strength": _at_least_0,
        "l2_shrinkage_regularization_strength": _at_least_0,
        "beta": _at_least_0,
        "weight_decay": _optional_decay,
    }

    learning_rate_power: float
    initial_accumulator_value: float
    l1_regularization_strength: float
    l2_regularization_strength: float
    l2_shrinkage_regularization_strength: float
    beta: float

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        weight_decay: float | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            common,
            learning_rate=learning_rate,
            learning_rate_power=learning_rate_power,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
            beta=beta,
            weight_decay=weight_decay,
        )


class LBFGS(Optimizer):
    """L-BFGS over all rows at once (Liu and Nocedal 1989): for `fit` alone, an iteration an epoch.

    SciPy's L-BFGS-B; where a kernel or a bias has L1, OWL-QN (Andrew and Gao 2007), which reaches
    exact zeros. It works in float64 on `Sequential.objective`, and ends when it has converged,
    maybe before the last epoch. What it has learnt of the curvature is gone when `fit` ends.

    Parameters
    ----------
    history_size : int, default 10
        Pairs of steps and changes of the gradient that are remembered, without L1.
    tol : float, default 1e-6
        Ends when no element of the gradient (of the subgradient nearest to 0) is above it, >= 0.
    name : str, optional
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer` does.

    Examples
    --------
    >>> import numpy as np, fastreg as fr
    >>> model = fr.Sequential([fr.Input((3,)), fr.Dense(1, kernel_regularizer=fr.L1(0.2))])
    >>> model.compile(LBFGS(), "mse")
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> history = model.fit(x, x[:, 0], epochs=100, verbose=0)
    >>> (model.layers[0].kernel == 0).tolist()
    [[False], [True], [True]]
    """

    kind = "lbfgs"
    checks: ClassVar[Mapping[str, Check]] = {
        "history_size": partial(check_int, low=1, high=10**6),
        "tol": _at_least_0,
    }
    common: ClassVar[Mapping[str, tuple[Check, object]]] = {"name": (_name, None)}
    keras_only: ClassVar[Mapping[str, object]] = {}

    history_size: int
    tol: float
    # What the steps of others have.
    use_ema = False
    gradient_accumulation_steps = weight_decay = None
    l1_step = "sign"

    def __init__(
        self, history_size: int = 10, tol: float = 1e-6, *, name: str | None = None
    ) -> None:
        super().__init__({"name": name}, history_size=history_size, tol=tol)

    def _given(self) -> dict[str, Any]:
        return self._values()

    def describe(self) -> dict[str, Any]:
        raise ValueError("optimizer: got LBFGS, which takes no single steps; call fit")


REGISTRY: Registry[Optimizer] = Registry(
    "optimizer",
    Optimizer,
    (SGD, Adam, AdamW, Adamax, Nadam, RMSprop, Adagrad, Adadelta, Lion, Ftrl),
)


# Beside those that step from batch to batch, what `fit` alone can run.
EVERY: Registry[Optimizer] = Registry("optimizer", Optimizer, (*REGISTRY.classes, LBFGS))


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
    return EVERY.get(identifier)


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer as `{"class_name", "config"}`; its state is not in it.

    >>> serialize(SGD())["class_name"]
    'SGD'
    """
    return EVERY.serialize(optimizer)


def deserialize(config: Mapping[str, Any]) -> Optimizer:
    """The optimizer that `serialize` wrote.

    >>> deserialize({"class_name": "Adam", "config": {"learning_rate": 0.5}}).learning_rate
    0.5
    """
    return EVERY.deserialize(config)
