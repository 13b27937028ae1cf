"""The solver "lbfgs": all rows at once, through SciPy, and by OWL-QN under L1."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastreg import config, owlqn
from fastreg.estimators.network import interleaved, packed, unpacked
from fastreg.estimators.parameters import NOT_FINITE, per_layer
from fastreg.regularizers import L1L2

Array = NDArray[Any]

# A step of gradient descent with rate 1 moves a weight by its gradient.
DESCENT = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}


def fit(estimator: Any, X: Array, y: Array, weight: Array | None) -> None:
    """Go down from the weights that the estimator has; its attributes say what came of it."""
    if np.any(estimator.dropout):
        raise ValueError("dropout: solver 'lbfgs' has none; take 'adam' or 'sgd'")
    if np.any(estimator.group_l1):
        raise ValueError("group_l1: solver 'lbfgs' has none; take 'adam' or 'sgd'")
    start = packed(estimator.coefs_, estimator.intercepts_).astype(np.float64)
    l1 = _flat_l1(estimator)
    smooth = smooth_part(estimator, X, y, weight)
    if l1.any():
        with config.one_blas_thread():
            found = owlqn.minimize(
                smooth,
                start,
                l1,
                tol=estimator.tol,
                max_iter=estimator.max_iter,
                max_fun=estimator.max_fun,
            )
        w, estimator.loss_, n_iter = found.w, found.value, found.n_iter
        failed = "" if found.converged else "stopped before its tolerance was reached"
    else:
        options = {
            "maxfun": estimator.max_fun,
            "maxiter": estimator.max_iter,
            "gtol": estimator.tol,
        }
        with config.one_blas_thread():
            result = minimize(smooth, start, method="L-BFGS-B", jac=True, options=options)
        w, estimator.loss_, n_iter = result.x, float(result.fun), result.nit
        failed = "" if result.success else f"(status={result.status}): {result.message}"
    if not np.isfinite(estimator.loss_):
        raise ValueError(NOT_FINITE)
    estimator.n_iter_ = min(n_iter, estimator.max_iter)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
    dtype = estimator.coefs_[0].dtype
    estimator.coefs_, estimator.intercepts_ = unpacked(w.astype(dtype), estimator.coefs_)
    estimator._model = estimator._new_network(interleaved(estimator.coefs_, estimator.intercepts_))
    if failed:
        warnings.warn(
            f"lbfgs failed to converge after {estimator.n_iter_} iteration(s) {failed}\n"
            f"Increase the number of iterations (max_iter={estimator.max_iter}) or scale the data.",
            ConvergenceWarning,
            stacklevel=5,
        )


def _flat_l1(estimator: Any) -> Array:
    n = len(estimator.coefs_)
    pairs = [("l1", estimator.coefs_), ("bias_l1", estimator.intercepts_)]
    return np.concatenate(
        [
            np.full(w.size, l1)
            for name, arrays in pairs
            for w, l1 in zip(arrays, per_layer(name, getattr(estimator, name), n), strict=True)
        ]
    )


def smooth_part(
    estimator: Any, X: Array, y: Array, weight: Array | None
) -> Callable[[Array], tuple[float, Array]]:
    """The loss over all rows with all penalties but L1, and its gradient, of flat weights."""
    weights = [w.astype(np.float64) for w in interleaved(estimator.coefs_, estimator.intercepts_)]
    model = estimator._new_network(weights)
    estimator._penalize(model)
    for layer in model.layers:
        for what in ("kernel_regularizer", "bias_regularizer"):
            setattr(layer, what, L1L2(0.0, getattr(layer, what).l2))
    data = estimator._data((X, y, weight), np.float64)
    n = len(data.x)
    threads = estimator.n_threads or config.get_num_threads()

    def smooth(flat: Array) -> tuple[float, Array]:
        coefs, intercepts = unpacked(flat, estimator.coefs_)
        ledger = np.zeros(6)
        with model.lock:
            network = model.network
            network.set_weights(interleaved(coefs, intercepts))
            call: tuple[Any, ...] = (estimator._loss(), DESCENT, 0, 0, None, ledger, threads)
            if not network.train(*data, None, 0, n, n, *call):
                return np.inf, np.zeros_like(flat)
            moved = network.get_weights()
        return float(ledger[:4].sum() / n), flat - packed(moved[0::2], moved[1::2])

    return smooth
