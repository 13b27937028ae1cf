"""Initializers: the first values of kernels and biases.

All draws are made in float64 and then rounded, so a seed means the same weights in both dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastreg import config
from fastreg.errors import check_choice, check_int, check_real
from fastreg.serialization import Configurable, Registry

# Standard deviation of a standard normal cut at 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
TRUNCATED_STDDEV = 0.87962566103423978


@dataclass(frozen=True)
class Initializer(Configurable):
    """Base of the initializers: `initializer(shape, dtype, rng)` is a new array.

    With a seed of its own an initializer gives the same values at every call, as in Keras; without
    one it draws from `rng`.
    """

    def __call__(
        self,
        shape: Sequence[int],
        dtype: str | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """The first values.

        Parameters
        ----------
        shape : sequence of int
            (n_in, n_out) for a kernel, (n_out,) for a bias.
        dtype : str, optional
            "float32" or "float64"; None means `config.floatx()`.
        rng : numpy.random.Generator, optional
            Drawn from when the initializer has no seed; None means `config.rng()`.

        Returns
        -------
        ndarray
            C-contiguous, of that shape and dtype.

        Raises
        ------
        ValueError, TypeError
            For a negative size, more than two axes, or another dtype.
        """
        sizes = tuple(check_int("shape", size, low=0) for size in shape)
        if len(sizes) not in (1, 2):
            raise ValueError(f"shape: got {sizes}; (n_in, n_out) or (n_out,) is needed")
        dtype = check_choice("dtype", dtype or config.floatx(), config.DTYPES)
        seed = getattr(self, "seed", None)
        if seed is not None:
            rng = np.random.default_rng(seed)
        return self._values(sizes, rng or config.rng()).astype(dtype)

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """The values in float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """All values are `value`.

    Parameters
    ----------
    value : float, default 0.0

    Raises
    ------
    ValueError, TypeError
        For a value that is no finite number.

    Examples
    --------
    >>> Constant(0.5)((2,))
    array([0.5, 0.5], dtype=float32)
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        self._set(value=check_real("value", self.value))

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Zeros(Initializer):
    """All values are 0.

    >>> Zeros()((2,), "float64")
    array([0., 0.])
    """

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


@dataclass(frozen=True)
class Ones(Initializer):
    """All values are 1.

    >>> Ones()((2,), "float64")
    array([1., 1.])
    """

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


class _Random(Initializer):
    """Base of the initializers that draw, with or without a seed of their own."""

    # No dataclass itself: `seed` comes last among the arguments, after those of the class.
    seed: int | None

    def __post_init__(self) -> None:
        if self.seed is not None:
            self._set(seed=check_int("seed", self.seed, low=0))


@dataclass(frozen=True)
class RandomNormal(_Random):
    """Normal values.

    Parameters
    ----------
    mean, stddev : float, default 0.0 and 0.05
        Mean and standard deviation (>= 0).
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range or of the wrong kind.

    Examples
    --------
    >>> RandomNormal(stddev=0.0, mean=2.0)((3,))
    array([2., 2., 2.], dtype=float32)
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(mean=check_real("mean", self.mean))
        self._set(stddev=check_real("stddev", self.stddev, low=0.0))

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.stddev, shape)


@dataclass(frozen=True)
class RandomUniform(_Random):
    """Uniform values in [minval, maxval).

    Parameters
    ----------
    minval, maxval : float, default -0.05 and 0.05
        Bounds, minval <= maxval.
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range or of the wrong kind.

    Examples
    --------
    >>> bool(abs(RandomUniform(seed=1)((3,))).max() <= 0.05)
    True
    """

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(minval=check_real("minval", self.minval))
        self._set(maxval=check_real("maxval", self.maxval, low=self.minval))

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.minval, self.maxval, shape)


@dataclass(frozen=True)
class _VarianceScaling(_Random):
    """Mean 0 and variance `scale / max(1, fan)`: the signal keeps its size from layer to layer.

    fan is n_in or the mean of n_in and n_out; a vector has both equal to its length (Keras 3.15).
    """

    scale: ClassVar[float]
    fan_avg: ClassVar[bool]
    normal: ClassVar[bool]
    keras_only: ClassVar = {"input_axes": None, "output_axes": None}

    seed: int | None = None

    def _values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        n_in, n_out = shape[0], shape[-1]
        variance = self.scale / max(1.0, (n_in + n_out) / 2 if self.fan_avg else n_in)
        if self.normal:
            return truncated_normal(shape, math.sqrt(variance), rng)
        limit = math.sqrt(3.0 * variance)
        return rng.uniform(-limit, limit, shape)


def truncated_normal(shape: tuple[int, ...], stddev: float, rng: np.random.Generator) -> np.ndarray:
    """Normal values cut at two standard deviations and scaled to have `stddev` after the cut.

    >>> values = truncated_normal((1000,), 1.0, np.random.default_rng(0))
    >>> bool(abs(values).max() <= 2 / TRUNCATED_STDDEV)
    True
    """
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside))
    return values * (stddev / TRUNCATED_STDDEV)


@dataclass(frozen=True)
class GlorotUniform(_VarianceScaling):
    """Uniform within `sqrt(6 / (n_in + n_out))` (Glorot and Bengio 2010); the default of a kernel.

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> bool(abs(GlorotUniform(seed=1)((2, 4))).max() <= 1)
    True
    """

    scale, fan_avg, normal = 1.0, True, False


@dataclass(frozen=True)
class GlorotNormal(_VarianceScaling):
    """Truncated normal, standard deviation `sqrt(2 / (n_in + n_out))` (Glorot and Bengio 2010).

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> GlorotNormal(seed=1)((2, 4)).shape
    (2, 4)
    """

    scale, fan_avg, normal = 1.0, True, True


@dataclass(frozen=True)
class HeUniform(_VarianceScaling):
    """Uniform within `sqrt(6 / n_in)` (He et al. 2015), made for relu.

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> bool(abs(HeUniform(seed=1)((6, 4))).max() <= 1)
    True
    """

    scale, fan_avg, normal = 2.0, False, False


@dataclass(frozen=True)
class HeNormal(_VarianceScaling):
    """Truncated normal, standard deviation `sqrt(2 / n_in)` (He et al. 2015), made for relu.

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> HeNormal(seed=1)((2, 4)).shape
    (2, 4)
    """

    scale, fan_avg, normal = 2.0, False, True


@dataclass(frozen=True)
class LecunUniform(_VarianceScaling):
    """Uniform within `sqrt(3 / n_in)` (LeCun et al. 1998).

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> bool(abs(LecunUniform(seed=1)((3, 4))).max() <= 1)
    True
    """

    scale, fan_avg, normal = 1.0, False, False


@dataclass(frozen=True)
class LecunNormal(_VarianceScaling):
    """Truncated normal, standard deviation `sqrt(1 / n_in)` (LeCun et al. 1998).

    Parameters
    ----------
    seed : int, optional
        Not negative; None draws from the generator of the call.

    Examples
    --------
    >>> LecunNormal(seed=1)((2, 4)).shape
    (2, 4)
    """

    scale, fan_avg, normal = 1.0, False, True


REGISTRY: Registry[Initializer] = Registry(
    "initializer",
    Initializer,
    (
        GlorotUniform,
        GlorotNormal,
        HeUniform,
        HeNormal,
        LecunUniform,
        LecunNormal,
        Zeros,
        Ones,
        Constant,
        RandomNormal,
        RandomUniform,
    ),
    aliases={"zero": Zeros, "one": Ones, "normal": RandomNormal, "uniform": RandomUniform},
)


def get(identifier: object) -> Initializer:
    """The initializer meant by a name, a configuration dictionary, a class or an instance.

    Raises
    ------
    ValueError, TypeError
        For an unknown name (the nearest one is suggested) or another kind of thing.

    Examples
    --------
    >>> get("glorot_uniform")
    GlorotUniform(seed=None)
    """
    return REGISTRY.get(identifier)


def serialize(initializer: Initializer) -> dict[str, Any]:
    """The initializer as `{"class_name", "config"}`.

    >>> serialize(Constant(0.5))
    {'class_name': 'Constant', 'config': {'value': 0.5}}
    """
    return REGISTRY.serialize(initializer)


def deserialize(config: Mapping[str, Any]) -> Initializer:
    """The initializer that `serialize` wrote.

    >>> deserialize({"class_name": "Constant", "config": {"value": 0.5}})
    Constant(value=0.5)
    """
    return REGISTRY.deserialize(config)
