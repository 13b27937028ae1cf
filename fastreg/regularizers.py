"""Regularizers: the penalty on a kernel, a bias or a layer's output, and its gradient.

A penalty is a sum, never a mean, and has no factor 1/2 (Keras 3.15). A layer divides the penalty of
its output by the number of rows in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from fastreg import functional, inputs
from fastreg.errors import check_choice, check_real
from fastreg.inputs import Grouping, check_answer, read_only
from fastreg.schedules import LearningRateSchedule, now, or_schedule, serialize_if_schedule
from fastreg.serialization import Configurable, Registry

Strength = float | LearningRateSchedule

check_strength = partial(check_real, low=0.0)


@dataclass(frozen=True)
class Regularizer(Configurable):
    """Base of the regularizers: `l1 * sum |w| + l2 * sum w^2`.

    Attributes
    ----------
    l1, l2 : float or LearningRateSchedule
        The two coefficients, finite and >= 0. One that follows a schedule is in each training step
        what the schedule says of it; outside of training the regularizer is `at` a step.
    """

    fits: ClassVar[tuple[str, ...]] = ("kernel", "bias", "activity")  # what it may be of
    coefficients: ClassVar[tuple[str, ...]] = ("l1", "l2")  # those that may follow a schedule

    l1: Any  # a number, or a schedule
    l2: Any

    def __post_init__(self) -> None:
        self._set(
            l1=or_schedule(check_strength, "l1", self.l1),
            l2=or_schedule(check_strength, "l2", self.l2),
        )

    def __call__(self, w: np.ndarray) -> float:
        """The penalty of `w`, an array of any shape, float32 or float64."""
        return functional.penalty(w, self.l1, self.l2)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of the penalty: `l1 * sign(w) + 2 * l2 * w`, with sign(0) = 0."""
        return functional.penalty_gradient(w, self.l1, self.l2)

    def schedules(self) -> dict[str, LearningRateSchedule]:
        """The coefficients that follow one."""
        found = {name: getattr(self, name) for name in self.coefficients}
        return {
            name: value for name, value in found.items() if isinstance(value, LearningRateSchedule)
        }

    def at(self, step: int) -> Self:
        """The regularizer with the coefficients that it has in a step, all of them numbers.

        >>> from fastreg.schedules import PolynomialDecay
        >>> L1(PolynomialDecay(0.0, 10, 1.0)).at(5)
        L1(l1=0.5)
        """
        scheduled = self.schedules()
        if not scheduled:
            return self
        found = copy.copy(self)
        found._set(
            **{name: check_strength(name, now(each, step)) for name, each in scheduled.items()}
        )
        return found

    def get_config(self) -> dict[str, Any]:
        return {name: serialize_if_schedule(value) for name, value in super().get_config().items()}


@dataclass(frozen=True)
class L1(Regularizer):
    """The penalty `l1 * sum |w|`: a constant pull, which sends weights that do little to zero.

    Parameters
    ----------
    l1 : float or LearningRateSchedule, default 0.01
        Coefficient, finite and >= 0; None means the default, as in Keras.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L1(0.5)(np.array([1.0, -2.0]))
    1.5
    >>> L1(0.5).gradient(np.array([1.0, -2.0, 0.0]))
    array([ 0.5, -0.5,  0. ])
    """

    l1: Strength = 0.01
    l2: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._set(l1=0.01 if self.l1 is None else self.l1)
        super().__post_init__()


@dataclass(frozen=True)
class L2(Regularizer):
    """The penalty `l2 * sum w^2`: a pull proportional to the weight, which shrinks large ones most.

    Parameters
    ----------
    l2 : float or LearningRateSchedule, default 0.01
        Coefficient, finite and >= 0; None means the default, as in Keras.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L2(0.5)(np.array([1.0, -2.0]))
    2.5
    >>> L2(0.5).gradient(np.array([1.0, -2.0]))
    array([ 1., -2.])
    """

    l1: float = field(default=0.0, init=False, repr=False)
    l2: Strength = 0.01

    def __post_init__(self) -> None:
        self._set(l2=0.01 if self.l2 is None else self.l2)
        super().__post_init__()


@dataclass(frozen=True)
class L1L2(Regularizer):
    """The sum of both penalties, `l1 * sum |w| + l2 * sum w^2` (the elastic net).

    Parameters
    ----------
    l1, l2 : float or LearningRateSchedule, default 0.0
        Coefficients, finite and >= 0; None means 0, as in Keras. The strings "l1_l2" and "l1l2"
        mean 0.01 for both, as Keras documents them.

    Raises
    ------
    ValueError
        For a negative or non-finite coefficient.

    Examples
    --------
    >>> import numpy as np
    >>> L1L2(l1=0.5, l2=0.5)(np.array([1.0, -2.0]))
    4.0
    """

    l1: Strength = 0.0
    l2: Strength = 0.0

    def __post_init__(self) -> None:
        self._set(l1=0.0 if self.l1 is None else self.l1, l2=0.0 if self.l2 is None else self.l2)
        super().__post_init__()


@dataclass(frozen=True, init=False)
class GroupL1(Regularizer):
    """The group lasso, `group_l1 * sum over groups of sqrt(size) * norm(w_g)`: groups go as one.

    For kernels (Yuan and Lin 2006). With `l1` it is the sparse group lasso, `l1 * sum |w|` more
    (Simon, Friedman, Hastie and Tibshirani 2013); `l2` adds `l2 * sum w^2`. An optimizer's
    `l1_step="proximal"` makes whole groups exactly 0, "sign" follows the gradient
    `group_l1 * sqrt(size) * w_g / norm(w_g)`, 0 for a group of zeros, and "cumulative" is refused.

    Parameters
    ----------
    group_l1 : float, default 0.01
        Coefficient, finite and >= 0.
    groups : "rows", "columns" or lists of int
        What goes as one: the weights out of an input, into a unit, or out of the listed inputs.
        Lists must not overlap; inputs in none have no group penalty.
    l1, l2 : float or LearningRateSchedule, default 0.0
        Coefficients for all weights, finite and >= 0.
    sizes : float or list of float, optional
        What counts as the size of a group: one number, or one for each list. None counts its
        weights. `compact` sets it: the penalty stays that of the groups as they were.

    Raises
    ------
    ValueError, TypeError
        For a coefficient out of range, overlapping groups, and, when the layer is built, an input
        that it does not have.

    Examples
    --------
    >>> import numpy as np
    >>> regularizer = GroupL1(0.5, groups="rows")
    >>> kernel = np.array([[3.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    >>> regularizer(kernel)
    5.0
    >>> regularizer.gradient(kernel)
    array([[0.6, 0. , 0. , 0.8],
           [0. , 0. , 0. , 0. ]])
    """

    fits: ClassVar[tuple[str, ...]] = ("kernel",)

    group_l1: float
    groups: str | tuple[tuple[int, ...], ...]
    sizes: float | tuple[float, ...] | None

    def __init__(
        self,
        group_l1: float = 0.01,
        groups: Grouping = "rows",
        l1: Strength = 0.0,
        l2: Strength = 0.0,
        *,
        sizes: float | Sequence[float] | None = None,
    ) -> None:
        self._set(l1=l1, l2=l2)
        self.__post_init__()
        grouping = inputs.check_grouping(groups)
        self._set(
            group_l1=check_real("group_l1", group_l1, low=0.0),
            groups=grouping,
            sizes=inputs.check_group_sizes(grouping, sizes),
        )

    def __repr__(self) -> str:
        words = {"group_l1": self.group_l1, "groups": self.groups, "l1": self.l1, "l2": self.l2}
        sizes = "" if self.sizes is None else f", sizes={self.sizes}"
        return f"GroupL1({', '.join(f'{name}={value!r}' for name, value in words.items())}{sizes})"

    def __call__(self, w: np.ndarray) -> float:
        """The penalty of a kernel `w`, (n_in, n_out), float32 or float64."""
        return super().__call__(w) + self.group_penalty(w)

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of the penalty, 0 where an element (for l1) or a group is 0."""
        found: np.ndarray = super().gradient(w) + self.group_gradient(w)
        return found

    def group_penalty(self, w: np.ndarray) -> float:
        """The penalty of the groups alone."""
        return functional.group_penalty(w, self.group_l1, self.groups, sizes=self.sizes)

    def group_gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of the groups' penalty alone."""
        return functional.group_penalty_gradient(w, self.group_l1, self.groups, sizes=self.sizes)

    def group_prox(self, w: np.ndarray, step: float, l1: float = 0.0) -> np.ndarray:
        """The u with the least `|u - w|^2 / 2 + step * (penalty of the groups + l1 * sum |u|)`."""
        return functional.group_prox(w, step, self.group_l1, self.groups, l1=l1, sizes=self.sizes)

    def nearest_slope(self, w: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """`slope` plus what of the penalty's at groups of zeros brings it nearest to 0."""
        nearest = self.group_prox(np.where(self.in_zero_group(w), slope, 0.0), 1.0)
        found: np.ndarray = np.where(self.in_zero_group(w), nearest, slope)
        return found

    def in_zero_group(self, w: np.ndarray) -> np.ndarray:
        """Of which weights a whole group is 0, as `w`; in no group: False."""
        lists = self.groups
        if isinstance(lists, str):
            return np.broadcast_to(~w.any(axis=int(lists == "rows"), keepdims=True), w.shape)
        found = np.zeros(w.shape, bool)
        for group in lists:
            found[list(group)] = not w[list(group)].any()
        return found

    def resolve(self, n_in: int, n_out: int) -> inputs.Groups | None:
        """The groups of a kernel (n_in, n_out) as the network takes them; None for no penalty."""
        found = inputs.resolve_groups((n_in, n_out), self.group_l1, self.groups, self.sizes)
        return found if self.group_l1 > 0 else None

    def of_part(self, rows: np.ndarray, columns: np.ndarray) -> Regularizer:
        """The regularizer of the part of a kernel that the masks name; groups weigh the same."""
        if isinstance(self.groups, str):
            own = len(columns) if self.groups == "rows" else len(rows)
            sizes: Any = own if self.sizes is None else self.sizes
            return GroupL1(self.group_l1, self.groups, self.l1, self.l2, sizes=sizes)
        number = np.cumsum(rows) - 1
        lists = [[int(number[i]) for i in group if rows[i]] for group in self.groups]
        if self.sizes is None:
            sizes = [len(group) * len(columns) for group in self.groups]
        else:
            sizes = np.broadcast_to(self.sizes, (len(lists),)).tolist()
        kept = [at for at, group in enumerate(lists) if group]
        if not kept:
            return L1L2(self.l1, self.l2)
        lists, sizes = [lists[at] for at in kept], [sizes[at] for at in kept]
        return GroupL1(self.group_l1, lists, self.l1, self.l2, sizes=sizes)

    def get_config(self) -> dict[str, Any]:
        found: dict[str, Any] = {"group_l1": self.group_l1, "groups": self.groups}
        found |= {"l1": serialize_if_schedule(self.l1), "l2": serialize_if_schedule(self.l2)}
        if not isinstance(self.groups, str):
            found["groups"] = [list(group) for group in self.groups]
        if self.sizes is not None:
            found["sizes"] = list(self.sizes) if isinstance(self.sizes, tuple) else self.sizes
        return found


@dataclass(frozen=True, init=False, repr=False)
class KLSparsity(Regularizer):
    """A target rate for the units of a layer: `kl * n * sum over units of KL(rate || mean)`.

    For activities. A unit's mean is that over the n rows of the batch, and `KL(p || m) = p log(p /
    m) + (1 - p) log((1 - p) / (1 - m))`. As every penalty of an activity it is divided by n, so a
    layer's share of the loss is kl times the sum of the divergences, whatever the batch size: the
    sparsity term of Ng's sparse autoencoder (CS294A lecture notes, 2011), with kl his beta (3) and
    rate his rho (0.05).

    Rates are of outputs from 0 to 1, so a `Dense` layer takes it with "sigmoid", "hard_sigmoid",
    "softmax", or relu with a `max_value` of at most 1; a lone `Activation("linear")` or an
    `ActivityRegularization` takes what comes. A mean below 1e-7 or above 1 - 1e-7 counts as that,
    as Keras clips probabilities, and has no gradient.

    Parameters
    ----------
    kl : float or LearningRateSchedule, default 0.01
        Coefficient, finite and >= 0.
    rate : float in (0, 1), default 0.05
        The mean that each unit shall have.
    l1, l2 : float or LearningRateSchedule, default 0.0
        Coefficients of `l1 * sum |y| + l2 * sum y^2`, finite and >= 0.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([[0.0, 0.2], [0.4, 0.8]])  # means 0.2 and 0.5
    >>> round(KLSparsity(1.0, rate=0.2)(y), 6)
    0.38549
    >>> KLSparsity(1.0, rate=0.2).gradient(y)
    array([[0. , 1.2],
           [0. , 1.2]])
    """

    fits: ClassVar[tuple[str, ...]] = ("activity",)
    coefficients: ClassVar[tuple[str, ...]] = ("kl", "l1", "l2")

    kl: Any
    rate: float

    def __init__(
        self, kl: Strength = 0.01, rate: float = 0.05, l1: Strength = 0.0, l2: Strength = 0.0
    ) -> None:
        self._set(l1=l1, l2=l2)
        self.__post_init__()
        self._set(kl=or_schedule(check_strength, "kl", kl), rate=inputs.check_rate("rate", rate))

    def __repr__(self) -> str:
        return f"KLSparsity(kl={self.kl!r}, rate={self.rate!r}, l1={self.l1!r}, l2={self.l2!r})"

    def __call__(self, w: np.ndarray) -> float:
        """The penalty of outputs `w`, (n, ..., n_out), float32 or float64."""
        rows = np.reshape(w, (-1, np.shape(w)[-1]))
        own = functional.kl_penalty(rows, self.kl, self.rate) * (len(w) / len(rows))
        return super().__call__(w) + own

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """The gradient of the penalty, like `w`."""
        rows = np.reshape(w, (-1, np.shape(w)[-1]))
        own = functional.kl_penalty_gradient(rows, self.kl, self.rate) * (len(w) / len(rows))
        found: np.ndarray = super().gradient(w) + own.reshape(np.shape(w))
        return found


@dataclass(frozen=True, init=False, repr=False)
class Whole(Regularizer):
    """Base of the penalties of another formula, on the whole of an array.

    On a kernel or a bias the engine leaves a step's gradients to be read, and the penalty's is
    added in Python: the slower path. An optimizer follows its gradient, whatever the l1_step,
    unless there is a `prox`. On an activity Python is asked between a step's way forward and back.
    """

    def __init__(self) -> None:
        self._set(l1=0.0, l2=0.0)

    def __call__(self, w: np.ndarray) -> float:
        """The penalty of `w`."""
        return self.value(w)

    def value(self, w: np.ndarray) -> float:
        """The penalty of `w`: a kernel (n_in, n_out), bias (n_out,) or outputs (n, ..., n_out)."""
        raise NotImplementedError

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Its gradient, like `w`."""
        raise NotImplementedError

    @property
    def prox(self) -> Callable[[np.ndarray, float], np.ndarray] | None:
        """`prox(w, step)`, the u with the least |u - w|^2 / 2 + step * value(u), or None."""
        return None


@dataclass(frozen=True, init=False, repr=False)
class Custom(Whole):
    """An object of one's own with `value(w)` and `gradient(w)`, and maybe `prox(w, step)`.

    `get`, and so every layer, makes one of such an object. With `prox` and SGD's
    `l1_step="proximal"` a step ends by it, with `learning_rate / (1 - momentum)` as its step,
    instead of following the gradient. A file holds its name and what its `get_config` gives, and no
    code: see `load_model`. What it is given cannot be written to.

    Examples
    --------
    >>> import numpy as np
    >>> class ToOne:
    ...     def value(self, w):
    ...         return 0.5 * np.sum((w - 1) ** 2)
    ...     def gradient(self, w):
    ...         return w - 1
    >>> get(ToOne())(np.zeros((2, 2)))
    2.0
    """

    own: Any

    def __init__(self, own: Any) -> None:
        super().__init__()
        self._set(own=own)

    def __repr__(self) -> str:
        return repr(self.own)

    def value(self, w: np.ndarray) -> float:
        return float(check_answer(f"value of {self!r}", self.own.value(read_only(w)), ()))

    def gradient(self, w: np.ndarray) -> np.ndarray:
        return _like(w, self.own.gradient(read_only(w)), f"gradient of {self!r}")

    @property
    def prox(self) -> Callable[[np.ndarray, float], np.ndarray] | None:
        own = getattr(self.own, "prox", None)
        if own is None:
            return None
        return lambda w, step: _like(w, own(read_only(w), step), f"prox of {self!r}")


def _like(w: np.ndarray, found: Any, argument: str) -> np.ndarray:
    return check_answer(argument, found, w.shape).astype(w.dtype, copy=False)


@dataclass(frozen=True, init=False)
class OrthogonalRegularizer(Whole):
    """Rows, or columns, of a kernel that are orthogonal: the mean of |cos| of their angles.

    `factor * sum over i < j of |<r_i, r_j>| / (n (n - 1) / 2)`, r of norm 1 (Keras 3.15).

    Parameters
    ----------
    factor : float, default 0.01
        Coefficient, finite and >= 0.
    mode : "rows" or "columns", default "rows"
        What is to be orthogonal; of one alone there is no penalty to speak of, so two are needed.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> import numpy as np
    >>> round(OrthogonalRegularizer(1.0)(np.array([[1.0, 0.0], [3.0, 4.0]])), 6)
    0.6
    """

    factor: float
    mode: str

    fits: ClassVar[tuple[str, ...]] = ("kernel",)

    def __init__(self, factor: float = 0.01, mode: str = "rows") -> None:
        super().__init__()
        self._set(
            factor=check_real("factor", factor, low=0.0),
            mode=check_choice("mode", mode, ("rows", "columns")),
        )

    def __repr__(self) -> str:
        return f"OrthogonalRegularizer(factor={self.factor!r}, mode={self.mode!r})"

    def _rows(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows at norm 1, what they were multiplied by, the products of two of them."""
        w = np.asarray(w)
        if w.ndim != 2:
            raise ValueError(f"w: got shape {w.shape}; a kernel (n_in, n_out) is needed")
        rows = w if self.mode == "rows" else w.T
        if len(rows) < 2:
            raise ValueError(f"w: got shape {w.shape}; two {self.mode} at least are needed")
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        scale = 1 / np.maximum(norms, 1e-7)  # Keras' epsilon
        unit = rows * scale
        products = unit @ unit.T
        np.fill_diagonal(products, 0)
        return unit, scale, products

    def value(self, w: np.ndarray) -> float:
        _, _, products = self._rows(w)
        n = len(products)
        return float(self.factor * np.abs(products).sum(dtype=np.float64) / (n * (n - 1)))

    def gradient(self, w: np.ndarray) -> np.ndarray:
        unit, scale, products = self._rows(w)
        n = len(products)
        by_unit = (2 * self.factor / (n * (n - 1))) * (np.sign(products) @ unit)
        along = np.einsum("ij,ij->i", by_unit, unit)[:, np.newaxis]
        along *= scale < 1e7  # where the norm does not count, nothing turns
        found: np.ndarray = ((by_unit - unit * along) * scale).astype(unit.dtype, copy=False)
        return found if self.mode == "rows" else found.T

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor, "mode": self.mode}


# Keras' other names for them.
orthogonal_regularizer = OrthogonalRegularizer
l1, l2, l1_l2 = L1, L2, L1L2

REGISTRY: Registry[Regularizer] = Registry(
    "regularizer",
    Regularizer,
    (L1, L2, L1L2, GroupL1, OrthogonalRegularizer, KLSparsity),
    by_name={"L1L2": {"l1": 0.01, "l2": 0.01}},
    wrapper=Custom,
)


def get(identifier: object) -> Regularizer | None:
    """The regularizer meant by None, a name, a configuration dictionary, a class or an instance.

    An object of another package or one's own with `value(w)` and `gradient(w)` becomes a `Custom`.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    >>> get("l1_l2")
    L1L2(l1=0.01, l2=0.01)
    """
    return None if identifier is None else REGISTRY.get(identifier)


def serialize(regularizer: Regularizer | None) -> dict[str, Any] | None:
    """The regularizer as `{"class_name", "config"}`; None stays None.

    >>> serialize(L1(0.5))
    {'class_name': 'L1', 'config': {'l1': 0.5}}
    """
    return None if regularizer is None else REGISTRY.serialize(regularizer)


def deserialize(config: Mapping[str, Any] | None) -> Regularizer | None:
    """The regularizer that `serialize` wrote.

    >>> deserialize({"class_name": "L1", "config": {"l1": 0.5}})
    L1(l1=0.5)
    """
    return None if config is None else REGISTRY.deserialize(config)
