"""The solver "lbfgs": all rows at once, down the model's `Objective`.

SciPy's L-BFGS-B; OWL-QN where there is L1; under a group penalty the proximal descent of
`fastreg.objective`, with L-BFGS among the weights that are not 0.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastreg import config, owlqn
from fastreg.estimators.network import interleaved
from fastreg.estimators.parameters import NOT_FINITE
from fastreg.estimators.rules import Listeners, attributes_of
from fastreg.layers import Dense
from fastreg.objective import Objective, descend

Array = NDArray[Any]
Told = Callable[..., None]  # of w after each iteration; raises StopIteration to end there


class AllRows(Objective):
    """In one piece: what `alpha` is divided by is the weight of all of them."""

    rows_at_once = sys.maxsize


class Found(NamedTuple):
    """Where a descent ended: w, the objective there, iterations, and what went wrong, or ""."""

    w: Array
    value: float
    n_iter: int
    failed: str


def objective_of(estimator: Any, X: Array, y: Array, weight: Array | None) -> Objective:
    """The loss over all rows with all penalties, from the weights that the estimator has."""
    weights = interleaved(estimator.coefs_, estimator.intercepts_)
    model = estimator._new_network([w.astype(np.float64) for w in weights])
    estimator._penalize(model)
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    data = estimator._data((X, y, weight), np.float64)
    threads = estimator.n_threads or config.get_num_threads()
    return AllRows(model._new_network, dense, data, estimator._loss(), threads)


def fit(estimator: Any, X: Array, y: Array, weight: Array | None, listeners: Listeners) -> None:
    """Go down from the weights that the estimator has; its attributes say what came of it."""
    if np.any(estimator.dropout):
        raise ValueError("dropout: solver 'lbfgs' has none; take 'adam' or 'sgd'")
    dtype = estimator.coefs_[0].dtype
    objective = objective_of(estimator, X, y, weight)

    def weights(w: Array) -> list[Array]:
        return [each.astype(dtype) for each in objective.weights(w)]

    def told(w: Array, *_: object) -> None:
        listeners.begin("lbfgs-iter")
        if listeners.end(lambda: attributes_of(weights(w), estimator._selected)):
            raise StopIteration

    descent = _plain
    if np.any(estimator.group_l1):
        descent = _proximal
    elif objective.l1.any():
        descent = _orthantwise
    with config.one_blas_thread():
        found = descent(objective, estimator, told)
    estimator.loss_ = float(found.value)
    if not np.isfinite(estimator.loss_):
        raise ValueError(NOT_FINITE)
    estimator.n_iter_ = min(found.n_iter, estimator.max_iter)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
    reached = weights(found.w)
    estimator.coefs_, estimator.intercepts_ = reached[0::2], reached[1::2]
    estimator._model = estimator._new_network(reached)
    if found.failed and not listeners.stopped:
        warnings.warn(
            f"lbfgs failed to converge after {estimator.n_iter_} iteration(s) {found.failed}\n"
            f"Increase the number of iterations (max_iter={estimator.max_iter}) or scale the data.",
            ConvergenceWarning,
            stacklevel=5,
        )


_STOPPED = "stopped before its tolerance was reached"


def _plain(objective: Objective, estimator: Any, told: Told) -> Found:
    options = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
    result = minimize(
        objective.smooth,
        objective.start,
        method="L-BFGS-B",
        jac=True,
        options=options,
        callback=told,
    )
    failed = "" if result.success else f"(status={result.status}): {result.message}"
    return Found(result.x, result.fun, result.nit, failed)


def _orthantwise(objective: Objective, estimator: Any, told: Told) -> Found:
    found = owlqn.minimize(
        objective.smooth,
        objective.start,
        objective.l1,
        tol=estimator.tol,
        max_iter=estimator.max_iter,
        max_fun=estimator.max_fun,
        callback=told,
    )
    return Found(found.w, found.value, found.n_iter, "" if found.converged else _STOPPED)


def _proximal(objective: Objective, estimator: Any, told: Told) -> Found:
    best, n_iter = None, 0
    for n_iter, here in enumerate(descend(objective, estimator.tol)):
        if best is None or here.value <= best.value or here.residual <= estimator.tol:
            best = here
        try:
            if n_iter > 0:  # the first is where it begins
                told(best.w)
        except StopIteration:
            break
        done = here.residual <= estimator.tol or n_iter == estimator.max_iter
        if done or objective.evaluations >= estimator.max_fun:
            break
    assert best is not None
    failed = "" if best.residual <= estimator.tol else _STOPPED
    return Found(best.w, best.value, n_iter, failed)
