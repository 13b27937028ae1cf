"""Each kernel of `fastreg.functional` beside its NumPy twin in `fastreg.reference`, float32."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastreg import functional, reference

SIZES = [(32, 64, 64), (128, 512, 512)]  # (n_batch, n_in, n_out)
PENALTIES = {"l1": 1e-5, "l2": 1e-4}


@pytest.fixture(params=[functional, reference], ids=["compiled", "reference"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(params=SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def arrays(request: pytest.FixtureRequest, benchmark: Any) -> dict[str, np.ndarray]:
    """What the kernels read and write, float32; the twins' times stand side by side."""
    n_batch, n_in, n_out = request.param
    test = request.node.originalname.removeprefix("test_")
    benchmark.group = f"{test} {n_batch}x{n_in}x{n_out}"
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "x": normal(n_batch, n_in),
        "kernel": normal(n_in, n_out),
        "bias": normal(n_out),
        "y": normal(n_batch, n_out),
        "dy": normal(n_batch, n_out),
        "dx": np.empty((n_batch, n_in), np.float32),
        "dkernel": normal(n_in, n_out),
        "dbias": normal(n_out),
        "m": np.zeros((n_in, n_out), np.float32),
        "v": np.zeros((n_in, n_out), np.float32),
    }


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dense_forward(kernels: ModuleType, arrays: Any, benchmark: Any, activation: str) -> None:
    benchmark.group += f" {activation}"
    a = arrays
    benchmark(kernels.dense_forward, a["x"], a["kernel"], a["bias"], activation, out=a["y"])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dense_backward(kernels: ModuleType, arrays: Any, benchmark: Any, activation: str) -> None:
    benchmark.group += f" {activation}"
    a = arrays
    out = {name: a[name] for name in ("dx", "dkernel", "dbias")}
    benchmark(kernels.dense_backward, a["x"], a["kernel"], a["y"], a["dy"], activation, **out)


def test_penalty(kernels: ModuleType, arrays: Any, benchmark: Any) -> None:
    benchmark(kernels.penalty, arrays["kernel"], **PENALTIES)


def test_sgd_update(kernels: ModuleType, arrays: Any, benchmark: Any) -> None:
    a = arrays
    options = {"learning_rate": 1e-6, "momentum": 0.9, **PENALTIES}
    benchmark(kernels.sgd_update, a["kernel"], a["dkernel"], a["m"], **options)


def test_adam_update(kernels: ModuleType, arrays: Any, benchmark: Any) -> None:
    a = arrays
    options = {"iteration": 10, "learning_rate": 1e-6, **PENALTIES}
    benchmark(kernels.adam_update, a["kernel"], a["dkernel"], a["m"], a["v"], **options)


@pytest.mark.parametrize("name", ["mean_squared_error", "categorical_crossentropy"])
def test_loss_gradient(kernels: ModuleType, arrays: Any, benchmark: Any, name: str) -> None:
    benchmark.group += f" {name}"
    y_pred = np.abs(arrays["y"])
    y_pred /= y_pred.sum(axis=1, keepdims=True)
    y_true = np.eye(y_pred.shape[1], dtype=np.float32)[y_pred.argmin(axis=1)]
    benchmark(kernels.loss_gradient, name, y_true, y_pred, out=arrays["dy"])
