"""Schedules: a setting that follows the steps, with Keras' names; `fastreg.optimizers.schedules`.

One serves as an optimizer's `learning_rate`, as the l1 or l2 of a regularizer and as the rate of a
dropout layer. The words are Keras', which has them for learning rates alone; the numbers are
float64. Steps count from 0.

>>> import fastreg as fr
>>> warm_up = PolynomialDecay(0.0, decay_steps=100, end_learning_rate=1e-4)  # from 0 up to 1e-4
>>> warm_up(50)
5e-05
>>> dense = fr.Dense(4, kernel_regularizer=fr.L1(warm_up))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg.errors import check_int, check_real
from fastreg.serialization import Configurable, Registry, check_bool

Array = NDArray[Any]
Check = Callable[[str, Any], Any]


class LearningRateSchedule(Configurable):
    """Base of the schedules, and of one's own: define `__call__(step)`.

    Examples
    --------
    >>> class Root(LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.1 / (1 + step) ** 0.5
    >>> Root().at([0, 3]).tolist()
    [0.1, 0.05]
    """

    def __call__(self, step: int) -> float:
        """The value in the step that comes after `step` others."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step)")

    def at(self, steps: ArrayLike) -> Array:
        """The values in those steps, float64 (n,)."""
        return np.array([self(step) for step in np.asarray(steps).tolist()], np.float64)


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{argument}: got {value!r}; a non-empty string is needed")
    return value


def _rising(argument: str, value: Any) -> tuple[float, ...]:
    found = _numbers(argument, value)
    if any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError(f"{argument}: got {value!r}; rising steps are needed")
    return found


def _numbers(argument: str, value: Any) -> tuple[float, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"{argument}: got {value!r}; a list of numbers is needed")
    # Whole numbers stay int, as in Keras' configurations.
    return tuple(
        int(each) if isinstance(each, int | np.integer) else check_real(argument, each)
        for each in value
    )


def _optional(argument: str, value: Any) -> float | None:
    return None if value is None else check_real(argument, value)


_above_0 = partial(check_real, low=0.0, low_open=True)
_at_least_0 = partial(check_real, low=0.0)


class _Formula(LearningRateSchedule):
    """A schedule that is a formula of arrays: `_formula` of the steps in float64."""

    checks: ClassVar[Mapping[str, Check]]

    def __post_init__(self) -> None:
        self._set(**{name: check(name, getattr(self, name)) for name, check in self.checks.items()})

    def __call__(self, step: int) -> float:
        return float(self.at([check_int("step", step, low=0)])[0])

    def at(self, steps: ArrayLike) -> Array:
        return np.asarray(self._formula(np.asarray(steps, np.float64)), np.float64)

    def __repr__(self) -> str:
        words = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(words)})"

    def _formula(self, step: Array) -> Array:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class ExponentialDecay(_Formula):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`.

    Parameters
    ----------
    initial_learning_rate : float
        In step 0.
    decay_steps : float
        Steps in which the value is multiplied by decay_rate, > 0.
    decay_rate : float
        >= 0.
    staircase : bool, default False
        Only whole multiples of decay_steps count.
    name : str
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> ExponentialDecay(0.1, 10, 0.5)(20)
    0.025
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "ExponentialDecay"

    checks: ClassVar[Mapping[str, Check]] = {
        "initial_learning_rate": check_real,
        "decay_steps": _above_0,
        "decay_rate": _at_least_0,
        "staircase": check_bool,
        "name": _name,
    }

    def _formula(self, step: Array) -> Array:
        p = step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (
            np.floor(p) if self.staircase else p
        )


@dataclass(frozen=True, repr=False)
class PiecewiseConstantDecay(_Formula):
    """`values[i]` until step `boundaries[i]`, that one included; then `values[-1]`.

    Parameters
    ----------
    boundaries : list of number
        Rising steps.
    values : list of float
        One more than boundaries.
    name : str
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        For other lists.

    Examples
    --------
    >>> PiecewiseConstantDecay([10, 20], [0.1, 0.05, 0.01]).at([10, 11, 21]).tolist()
    [0.1, 0.05, 0.01]
    """

    boundaries: Sequence[float]
    values: Sequence[float]
    name: str = "PiecewiseConstant"

    checks: ClassVar[Mapping[str, Check]] = {
        "boundaries": _rising,
        "values": _numbers,
        "name": _name,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.boundaries) != len(self.values) - 1:
            raise ValueError(
                f"values: got {len(self.values)} for {len(self.boundaries)} boundaries; one more "
                "than boundaries is needed"
            )

    def get_config(self) -> dict[str, Any]:
        found = super().get_config()
        return found | {name: list(found[name]) for name in ("boundaries", "values")}

    def _formula(self, step: Array) -> Array:
        found: Array = np.asarray(self.values)[np.searchsorted(self.boundaries, step, side="left")]
        return found


@dataclass(frozen=True, repr=False)
class PolynomialDecay(_Formula):
    """From the initial value to the end, `end + (initial - end) * (1 - step / decay_steps)^power`.

    Parameters
    ----------
    initial_learning_rate : float
        In step 0.
    decay_steps : float
        Where the end is reached, > 0.
    end_learning_rate : float, default 0.0001
    power : float, default 1.0
        1 is a straight line; >= 0.
    cycle : bool, default False
        At the end go back to a smaller peak, and down in the next decay_steps.
    name : str
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> PolynomialDecay(1.0, 10, 0.0).at([0, 5, 10, 20]).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """

    initial_learning_rate: float
    decay_steps: float
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False
    name: str = "PolynomialDecay"

    checks: ClassVar[Mapping[str, Check]] = {
        "initial_learning_rate": check_real,
        "decay_steps": _above_0,
        "end_learning_rate": check_real,
        "power": _at_least_0,
        "cycle": check_bool,
        "name": _name,
    }

    def _formula(self, step: Array) -> Array:
        steps: Any = self.decay_steps
        if self.cycle:
            steps = steps * np.maximum(np.ceil(step / self.decay_steps), 1)
        else:
            step = np.minimum(step, steps)
        share = (1 - step / steps) ** self.power
        end = self.end_learning_rate
        return np.asarray((self.initial_learning_rate - end) * share + end)


@dataclass(frozen=True, repr=False)
class InverseTimeDecay(_Formula):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    Parameters
    ----------
    initial_learning_rate : float
        In step 0.
    decay_steps : float
        > 0.
    decay_rate : float
        >= 0.
    staircase : bool, default False
        Only whole multiples of decay_steps count.
    name : str
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> InverseTimeDecay(0.1, 10, 1.0)(10)
    0.05
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "InverseTimeDecay"

    checks: ClassVar[Mapping[str, Check]] = ExponentialDecay.checks

    def _formula(self, step: Array) -> Array:
        p = step / self.decay_steps
        return self.initial_learning_rate / (
            1 + self.decay_rate * (np.floor(p) if self.staircase else p)
        )


@dataclass(frozen=True, repr=False)
class CosineDecay(_Formula):
    """Half a cosine from the initial value to alpha times it (Loshchilov and Hutter 2017).

    With a warm-up the value first goes in a straight line to warmup_target, and the cosine down
    from there.

    Parameters
    ----------
    initial_learning_rate : float
        In step 0.
    decay_steps : float
        Steps of the cosine, > 0.
    alpha : float, default 0.0
        What is left at its end, a share of what it began at.
    name : str
        Kept for the configuration.
    warmup_target : float, optional
        None is no warm-up.
    warmup_steps : float, default 0
        Steps of the warm-up, >= 0, before those of the cosine.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=10).at([0, 5, 10, 20]).tolist()
    [0.0, 0.05, 0.1, 0.0]
    """

    initial_learning_rate: float
    decay_steps: float
    alpha: float = 0.0
    name: str = "CosineDecay"
    warmup_target: float | None = None
    warmup_steps: float = 0

    checks: ClassVar[Mapping[str, Check]] = {
        "initial_learning_rate": check_real,
        "decay_steps": _above_0,
        "alpha": check_real,
        "name": _name,
        "warmup_target": _optional,
        "warmup_steps": _at_least_0,
    }

    def _formula(self, step: Array) -> Array:
        begin, wait = self.initial_learning_rate, 0.0
        if self.warmup_target is not None:
            begin, wait = self.warmup_target, self.warmup_steps
        share = np.minimum(step - wait, self.decay_steps) / self.decay_steps
        found = begin * ((1 - self.alpha) * 0.5 * (1 + np.cos(np.pi * share)) + self.alpha)
        if not wait:
            return np.asarray(found)
        rise = (begin - self.initial_learning_rate) * (step / wait) + self.initial_learning_rate
        return np.where(step < wait, rise, found)


@dataclass(frozen=True, repr=False)
class CosineDecayRestarts(_Formula):
    """Cosines one after the other, each t_mul times as long and m_mul times as high as the last.

    Source: SGDR, Loshchilov and Hutter 2017.

    Parameters
    ----------
    initial_learning_rate : float
        In step 0.
    first_decay_steps : float
        Steps of the first cosine, > 0.
    t_mul : float, default 2.0
        >= 1.
    m_mul : float, default 1.0
        >= 0.
    alpha : float, default 0.0
        Lowest value, as a share of the initial one.
    name : str
        Kept for the configuration.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> CosineDecayRestarts(0.1, 10).at([0, 5, 10, 20]).round(6).tolist()
    [0.1, 0.05, 0.1, 0.05]
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str = "SGDRDecay"

    checks: ClassVar[Mapping[str, Check]] = {
        "initial_learning_rate": check_real,
        "first_decay_steps": _above_0,
        "t_mul": partial(check_real, low=1.0),
        "m_mul": _at_least_0,
        "alpha": check_real,
        "name": _name,
    }

    def _formula(self, step: Array) -> Array:
        done, t = step / self.first_decay_steps, self.t_mul
        if t == 1:
            restarts = np.floor(done)
            share = done - restarts
        else:
            restarts = np.floor(np.log(1 - done * (1 - t)) / np.log(t))
            share = (done - (1 - t**restarts) / (1 - t)) / t**restarts
        cosine = 0.5 * self.m_mul**restarts * (1 + np.cos(np.pi * share))
        return np.asarray(self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha))


REGISTRY: Registry[LearningRateSchedule] = Registry(
    "schedule",
    LearningRateSchedule,
    (
        ExponentialDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
        InverseTimeDecay,
        CosineDecay,
        CosineDecayRestarts,
    ),
)


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """The schedule as `{"class_name", "config"}`.

    >>> serialize(InverseTimeDecay(0.1, 10, 1.0))["class_name"]
    'InverseTimeDecay'
    """
    return REGISTRY.serialize(learning_rate_schedule)


def deserialize(config: Mapping[str, Any]) -> LearningRateSchedule:
    """The schedule that `serialize` wrote.

    >>> deserialize(serialize(InverseTimeDecay(0.1, 10, 1.0)))(10)
    0.05
    """
    return REGISTRY.deserialize(config)


def serialize_if_schedule(value: Any) -> Any:
    """A setting for a configuration.

    >>> serialize_if_schedule(0.5)
    0.5
    """
    return serialize(value) if isinstance(value, LearningRateSchedule) else value


def or_schedule(check: Check, argument: str, value: Any) -> Any:
    """`check(argument, value)`; a schedule, or its configuration, is a schedule."""
    if isinstance(value, Mapping):
        try:
            return deserialize(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}: {error}") from None
    return value if isinstance(value, LearningRateSchedule) else check(argument, value)


def in_steps(
    schedule: LearningRateSchedule, check: Check, argument: str, first: int, n: int, every: int = 1
) -> Array:
    """The values in n steps from number `first` on, `every` of which count as one.

    Raises
    ------
    ValueError
        Where one of them is no value of the setting.

    >>> in_steps(InverseTimeDecay(0.1, 10, 1.0), check_real, "learning_rate", 10, 1)
    array([0.05])
    """
    values = schedule.at(np.arange(first, first + n) // every)
    for extreme in (values.min(), values.max()):  # NaN is both
        try:
            check(argument, float(extreme))
        except ValueError as error:
            raise ValueError(f"{error} ({schedule!r}, steps {first} to {first + n - 1})") from None
    return np.ascontiguousarray(values, np.float64)


def now(value: Any, step: int) -> float:
    """A setting in that step, a number or a schedule.

    >>> now(0.5, 7), now(InverseTimeDecay(0.1, 10, 1.0), 10)
    (0.5, 0.05)
    """
    return float(value(step)) if isinstance(value, LearningRateSchedule) else float(value)
