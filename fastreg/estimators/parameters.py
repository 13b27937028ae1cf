"""What the parameters mean: the names of scikit-learn beside the engine's, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastreg import inputs
from fastreg.callbacks import Callback
from fastreg.errors import check_real

Array = NDArray[Any]

# scikit-learn's names of activations and the engine's, which are taken as well.
ACTIVATIONS = {"identity": "linear", "logistic": "sigmoid", "exp": "exponential"}
ACTIVATIONS |= {a: a for a in inputs.ACTIVATIONS}

STOCHASTIC = ("sgd", "adam")

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


def _deviance_offset(y: Array) -> Array:
    """What half the Poisson deviance has beside p - y log p."""
    offset: Array = xlogy(y, y) - y
    return offset


class Loss(NamedTuple):
    """What the engine minimizes, and how scikit-learn's loss of a row follows from its own."""

    name: str
    half: bool = False  # scikit-learn takes half of it
    sums: bool = True  # over the outputs, where the engine takes the mean
    offset: Callable[[Array], Array] | None = None  # of the targets: added to each output's loss

    def factor(self, n_out: int) -> float:
        """What the engine's loss of a row with so many outputs is multiplied by."""
        return (n_out if self.sums else 1) * (0.5 if self.half else 1.0)


_LOSSES = [
    Loss("mean_squared_error", half=True),
    Loss("binary_crossentropy"),
    Loss("sparse_categorical_crossentropy", sums=False),
    Loss("poisson", offset=_deviance_offset),
    Loss("mean_absolute_error"),
    Loss("huber"),
    Loss("quantile"),
]
LOSSES = {loss.name: loss for loss in _LOSSES}

# The regressor's losses: the engine's name, and the activation of the outputs.
REGRESSION = {
    "squared_error": ("mean_squared_error", "identity"),
    "poisson": ("poisson", "exp"),
    "absolute_error": ("mean_absolute_error", "identity"),
    "huber": ("huber", "identity"),
    "quantile": ("quantile", "identity"),
}


_NOT_NEGATIVE = [Interval(Real, 0, None, closed="left"), "array-like"]

# Of both classes.
CONSTRAINTS: dict[str, Any] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(ACTIVATIONS)), "array-like"],
    "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [
        Interval(Integral, 1, None, closed="left"),
        Options(Real, {np.inf}),
    ],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "l1": _NOT_NEGATIVE,
    "group_l1": _NOT_NEGATIVE,
    "bias_l1": _NOT_NEGATIVE,
    "bias_l2": _NOT_NEGATIVE,
    "activity_l1": _NOT_NEGATIVE,
    "activity_l2": _NOT_NEGATIVE,
    "l1_step": [StrOptions(set(inputs.L1_STEPS))],
    "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
    "scoring": [StrOptions(set(get_scorer_names())), callable, None],
    "callbacks": [Callback, list, tuple, None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "compact": ["boolean"],
}


def arguments_of(local: dict[str, Any]) -> dict[str, Any]:
    """Those of a constructor, from its `locals()`."""
    return {name: value for name, value in local.items() if name not in ("self", "__class__")}


class _Seed(ISeedSequence):
    """Words for a generator that is seeded right afterwards."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Array:
        return np.ones(n_words, dtype)


def random_state(given: Any) -> np.random.RandomState:
    """scikit-learn's `check_random_state`, quicker for a number.

    `RandomState(seed)` draws and mixes 624 words before the seed takes their place.

    >>> random_state(7).randint(100) == np.random.RandomState(7).randint(100)
    True
    """
    if isinstance(given, Integral):
        state = np.random.RandomState(np.random.MT19937(_Seed()))  # type: ignore[arg-type]
        state.seed(int(given))
    else:
        state = check_random_state(given)
    return state


def hidden_sizes(given: Any) -> list[int]:
    """`hidden_layer_sizes` as a list."""
    sizes = list(given) if hasattr(given, "__iter__") else [given]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def per_layer(name: str, value: Any, n: int) -> list[Any]:
    """One value for each of n layers, from one for all or a list."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name}: got {len(value)} values; {n} are needed, one a layer")
    if name == "activation":
        return list(value)
    check = partial(check_real, low=0.0)
    if name == "dropout":
        check = partial(check, high=1.0, high_open=True)
    return [check(f"{name}[{i}]", each) for i, each in enumerate(value)]


def validation_parts(given: Any) -> tuple[Any, Any, Any]:
    """(X, y, sample_weight or None) of `validation_data`."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError("validation_data: (X, y) or (X, y, sample_weight) is needed")
    return (*given, None) if len(given) == 2 else tuple(given)
