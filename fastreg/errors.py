"""Errors that name the argument, what came and what is allowed.

The bottom of the house: imports nothing of fastreg.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any


def unknown_name(argument: str, got: object, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is not in a table, with the nearest one that is.

    >>> print(unknown_name("activation", "rleu", ["relu", "tanh"]))
    activation: got 'rleu'; allowed: relu, tanh. Did you mean 'relu'?
    """
    names = list(allowed)
    near = difflib.get_close_matches(str(got).lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{argument}: got {got!r}; allowed: {', '.join(names)}.{hint}")


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> str:
    """`value` if it is one of the `allowed` names; otherwise raise `unknown_name`."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise unknown_name(argument, value, names)
    return value


def _plain(value: Any) -> Any:
    """The Python number of a NumPy scalar or 0-d array; anything else as it is."""
    is_numpy = getattr(value, "ndim", None) == 0 and hasattr(value, "dtype")
    return value.item() if is_numpy else value


def check_real(
    argument: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """`value` as a finite float within the bounds (closed unless said), Python or NumPy scalar.

    >>> check_real("rate", 0.5, low=0, high=1, high_open=True)
    0.5
    """
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{argument}: got {value!r} ({type(value).__name__}); a real number is needed"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if not math.isfinite(number) or not above or not below:
        left, right = "(" if low_open else "[", ")" if high_open else "]"
        raise ValueError(
            f"{argument}: got {value!r}; "
            f"a finite number in {left}{low:g}, {high:g}{right} is needed"
        )
    return number


def check_int(argument: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int within [low, high], Python or NumPy integer.

    >>> check_int("batch_size", 32, low=1)
    32
    """
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument}: got {value!r} ({type(value).__name__}); an integer is needed")
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        span = f"in [{low}, {high}]"
        if high is None:
            span = f">= {low}"
        elif low is None:
            span = f"<= {high}"
        raise ValueError(f"{argument}: got {number}; an integer {span} is needed")
    return number
