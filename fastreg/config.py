"""Settings of this process: the default float type, threads, backend and the random generator."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from fastreg.errors import check_choice, check_int

DTYPES = ("float32", "float64")
BACKENDS = ("compiled", "reference")

_floatx = "float32"
_num_threads: int | None = None
_rng = np.random.default_rng()
_seed_count = 0
_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


def floatx() -> str:
    """The float type of networks that name none: "float32" unless `set_floatx` said otherwise."""
    return _floatx


def set_floatx(value: str) -> None:
    """Set the float type of networks built from now on that name none.

    Parameters
    ----------
    value : "float32" or "float64"

    Raises
    ------
    ValueError
        For any other name.

    Examples
    --------
    >>> set_floatx("float64"); floatx()
    'float64'
    >>> set_floatx("float32")
    """
    global _floatx
    _floatx = check_choice("value", value, DTYPES)


def get_num_threads() -> int:
    """Threads a call may use: what `set_num_threads` set, else `FASTREG_NUM_THREADS`, else
    `OMP_NUM_THREADS`, by which joblib and Dask tell their workers, else the CPUs this process may
    run on. `threadpoolctl.threadpool_limits` sets it as well.

    Raises
    ------
    ValueError
        If `FASTREG_NUM_THREADS` is not a positive integer.
    """
    global _num_threads
    if _num_threads is None:
        _num_threads = _threads_of_environment()
    return _num_threads


def set_num_threads(n_threads: int | None) -> None:
    """Set how many threads a call may use; None goes back to the default.

    Results do not depend on it: the same bits come out of any number of threads.

    Parameters
    ----------
    n_threads : int >= 1, or None

    Raises
    ------
    ValueError, TypeError
        If it is not a positive integer or None.

    Examples
    --------
    >>> set_num_threads(2); get_num_threads()
    2
    >>> set_num_threads(None)
    """
    global _num_threads
    if n_threads is not None:
        n_threads = check_int("n_threads", n_threads, low=1, high=2**31 - 1)
    _num_threads = n_threads


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's and SciPy's own products of vectors on one thread, whoever else asks for it.

    BLAS wakes its threads for vectors of ten thousand elements; where those wait for a core that
    is busy, such a product takes a hundred times as long. The engine's products keep their threads.

    Examples
    --------
    >>> with one_blas_thread():
    ...     float(np.ones(3) @ np.ones(3))
    3.0
    """
    global _blas_users, _blas_limit
    with _blas_lock:
        if _blas_users == 0:
            _blas_limit = _blas_libraries().limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()


@cache  # finding them takes milliseconds
def _blas_libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _threads_of_environment() -> int:
    text = os.environ.get("FASTREG_NUM_THREADS", "").strip()
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"FASTREG_NUM_THREADS: got {text!r}; a positive integer is needed")
        return int(text)
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": nested levels
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    if hasattr(os, "sched_getaffinity"):  # not on macOS, not on Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_backend() -> str:
    """The backend of models that name none: `FASTREG_BACKEND`, or "compiled".

    Raises
    ------
    ValueError
        If `FASTREG_BACKEND` names no backend.
    """
    name = os.environ.get("FASTREG_BACKEND", "") or "compiled"
    return check_choice("FASTREG_BACKEND", name, BACKENDS)


def set_random_seed(seed: int) -> None:
    """Seed initializers, shuffling and dropout, so that what follows is reproducible.

    Models built before draw new shuffling and dropout seeds too. Only fastreg's own generator is
    touched, not those of NumPy or Python.

    Parameters
    ----------
    seed : int in [0, 2**64)

    Raises
    ------
    ValueError, TypeError
        If it is not such an integer.

    Examples
    --------
    >>> set_random_seed(7); first = rng().random()
    >>> set_random_seed(7); first == rng().random()
    True
    """
    global _rng, _seed_count
    _rng = np.random.default_rng(check_int("seed", seed, low=0, high=2**64 - 1))
    _seed_count += 1


def rng() -> np.random.Generator:
    """The generator that `set_random_seed` seeds."""
    return _rng


def seed_count() -> int:
    """Calls of `set_random_seed`: tells a model that its own generator is out of date."""
    return _seed_count
