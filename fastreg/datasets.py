"""Data to learn on: small real tables that ship with scikit-learn, and synthetic ones.

The real ones have scikit-learn's names and come as a `Dataset`: rows to train on and rows to test
on, float32, scaled by the training rows. Nothing is downloaded.

>>> x_train, y_train, x_test, y_test = load_digits()
>>> x_train.shape, x_test.shape, float(x_train.min()), float(x_train.max())
((1347, 64), (450, 64), 0.0, 1.0)
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreg.errors import check_int, check_real

Array = NDArray[Any]


class Dataset(NamedTuple):
    """Rows to train on and rows to test on.

    Parameters
    ----------
    x_train, x_test : (n, n_in) float32
    y_train, y_test : (n,)
        Class numbers from 0, integers; or float32 numbers.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


# ------------------------------------------------ real ones, of scikit-learn


def load_digits(test_size: float = 0.25, seed: int = 0) -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels in [0, 1], row by row; 10 classes.

    Parameters
    ----------
    test_size : float in (0, 1)
        The share of the rows that is tested on; each class has about that share.
    seed : int
        Of the split.

    Raises
    ------
    ImportError
        Without scikit-learn.
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> load_digits(test_size=0.5).x_test.shape
    (899, 64)
    """
    x, y = _load("digits")
    return _split(x / 16, y, test_size, seed, classes=True)


def load_breast_cancer(test_size: float = 0.25, seed: int = 0) -> Dataset:
    """569 tumours, 30 measurements each, malignant (0) or benign (1); arguments as `load_digits`.

    Each column has mean 0 and standard deviation 1 over the training rows.

    >>> load_breast_cancer().x_train.shape
    (426, 30)
    """
    return _scaled(_split(*_load("breast_cancer"), test_size, seed, classes=True))


def load_wine(test_size: float = 0.25, seed: int = 0) -> Dataset:
    """178 wines, 13 measurements each, of three growers; scaled as `load_breast_cancer`.

    >>> load_wine().x_train.shape
    (133, 13)
    """
    return _scaled(_split(*_load("wine"), test_size, seed, classes=True))


def load_iris(test_size: float = 0.25, seed: int = 0) -> Dataset:
    """150 irises, 4 measurements each, of three kinds; scaled as `load_breast_cancer`.

    >>> load_iris().x_train.shape
    (112, 4)
    """
    return _scaled(_split(*_load("iris"), test_size, seed, classes=True))


def load_diabetes(test_size: float = 0.25, seed: int = 0) -> Dataset:
    """442 patients, 10 measurements each, and how far the disease went in a year, a number.

    Columns and targets have mean 0 and standard deviation 1 over the training rows.

    >>> load_diabetes().y_train.dtype
    dtype('float32')
    """
    data = _scaled(_split(*_load("diabetes"), test_size, seed, classes=False))
    mean, std = data.y_train.mean(), data.y_train.std()
    return data._replace(y_train=(data.y_train - mean) / std, y_test=(data.y_test - mean) / std)


def _load(name: str) -> tuple[Array, Array]:
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(f"{name} ships with scikit-learn: pip install scikit-learn") from error
    x, y = getattr(module, f"load_{name}")(return_X_y=True)
    return x, y


def _split(x: Array, y: Array, test_size: float, seed: int, *, classes: bool) -> Dataset:
    from sklearn.model_selection import train_test_split

    share = check_real("test_size", test_size, low=0, high=1, low_open=True, high_open=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32),
        y if classes else y.astype(np.float32),
        test_size=share,
        stratify=y if classes else None,
        random_state=check_int("seed", seed, low=0) % 2**32,
    )
    return Dataset(x_train, y_train, x_test, y_test)


def _scaled(data: Dataset) -> Dataset:
    mean, std = data.x_train.mean(axis=0), data.x_train.std(axis=0)
    return data._replace(x_train=(data.x_train - mean) / std, x_test=(data.x_test - mean) / std)


# ------------------------------------------------ synthetic ones


def among_noise(data: Dataset, n_noise: int | None = None, seed: int = 0) -> Dataset:
    """`data` with more inputs on the right, uniform in [0, 1], which say nothing.

    Parameters
    ----------
    data : Dataset
    n_noise : int, optional
        How many; None adds as many as there are inputs.
    seed : int

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> among_noise(load_iris()).x_train.shape
    (112, 8)
    """
    rng = np.random.default_rng(check_int("seed", seed, low=0))
    n = data.x_train.shape[1] if n_noise is None else check_int("n_noise", n_noise, low=0)

    def with_noise(x: Array) -> Array:
        return np.hstack([x, rng.random((len(x), n), dtype=np.float32)])

    return data._replace(x_train=with_noise(data.x_train), x_test=with_noise(data.x_test))


def sparse_regression(
    n: int = 200, n_in: int = 50, n_informative: int = 5, noise: float = 0.1, seed: int = 0
) -> tuple[Array, Array, Array]:
    """y = x w + noise, where only `n_informative` of the weights are not zero: which ones?

    Parameters
    ----------
    n, n_in : int
        Rows and columns of x, which is standard normal.
    n_informative : int
        Weights that are not zero, between 1 and 2 or -2 and -1, at random places.
    noise : float
        Standard deviation of what is added to y.
    seed : int

    Returns
    -------
    x (n, n_in), y (n, 1), w (n_in,) : float32

    Raises
    ------
    ValueError, TypeError
        For an argument out of range.

    Examples
    --------
    >>> x, y, w = sparse_regression(n=10, n_in=6, n_informative=2)
    >>> x.shape, y.shape, int((w != 0).sum())
    ((10, 6), (10, 1), 2)
    """
    n, n_in = check_int("n", n, low=1), check_int("n_in", n_in, low=1)
    n_informative = check_int("n_informative", n_informative, low=0, high=n_in)
    rng = np.random.default_rng(check_int("seed", seed, low=0))
    w = np.zeros(n_in)
    signs = rng.choice([-1.0, 1.0], n_informative)
    w[rng.permutation(n_in)[:n_informative]] = signs * rng.uniform(1, 2, n_informative)
    x = rng.normal(size=(n, n_in))
    y = x @ w + check_real("noise", noise, low=0) * rng.normal(size=n)
    return x.astype(np.float32), y[:, None].astype(np.float32), w.astype(np.float32)
