"""The solvers "sgd" and "adam": scikit-learn's epochs by fastreg's loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split

from fastreg import training
from fastreg.callbacks import Callback, CallbackList
from fastreg.estimators.network import interleaved
from fastreg.estimators.parameters import NOT_FINITE
from fastreg.estimators.rules import Listeners, Rules
from fastreg.models import INFERENCE_BATCH_SIZE
from fastreg.optimizers import SGD, Adam, Optimizer
from fastreg.sparsity import Compact
from fastreg.training import Task

Array = NDArray[Any]


def fit(
    estimator: Any,
    X: Array,
    y: Array,
    weight: Array | None,
    validation: Any,
    n_epochs: int,
    incremental: bool,
    listeners: Listeners,
) -> None:
    """Train from the weights that the estimator has; its attributes say what came of it."""
    if estimator.early_stopping and validation is None:
        (X, y, weight), validation = _split(estimator, X, y, weight)
    n = X.shape[0]
    batch_size = _batch_size(estimator, n)
    dtype = estimator.coefs_[0].dtype
    model = estimator._fitted_network() if incremental else None
    if model is None or model.optimizer is None:
        model = estimator._new_network(interleaved(estimator.coefs_, estimator.intercepts_))
        model.compile(_new_optimizer(estimator), estimator._loss(), n_threads=estimator.n_threads)
    estimator._penalize(model)
    estimator._model = model

    score = _scorer(estimator, *validation) if estimator.early_stopping else None
    rules = Rules(estimator, n, score, listeners)
    given = [] if estimator.callbacks is None else estimator.callbacks
    given = [given] if isinstance(given, Callback) else list(given)
    estimator.n_iter_ = 0
    try:
        training.fit(
            model,
            Task(estimator._loss(), None, ()),
            estimator._data((X, y, weight), dtype),
            None if validation is None else estimator._data(validation, dtype),
            epochs=range(n_epochs),
            batch_size=batch_size,
            shuffle=_order(estimator, n) if estimator.shuffle else False,
            validation_batch_size=INFERENCE_BATCH_SIZE,
            validation_freq=1,
            callbacks=CallbackList(
                [*given, *([Compact()] if estimator.compact else []), rules],
                model,
                {
                    "epochs": n_epochs,
                    "initial_epoch": 0,
                    "verbose": 0,
                    "steps": training.n_steps(n, batch_size),
                    "metrics": Task(estimator._loss(), None, ()).keys(),
                },
            ),
            progress=None,
            resume=None,
        )
    except FloatingPointError:
        if rules.best is None:
            raise ValueError(NOT_FINITE) from None
        rules.diverged()
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=5)
    finally:
        # It holds the callbacks, and these the model: a circle that only the collector frees.
        model.position = None
    if rules.best is not None:
        model.go_back(*rules.best)
    estimator._take(model)
    if estimator.n_iter_ == estimator.max_iter and not incremental and not rules.is_done:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the "
            "optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=5,
        )


def _new_optimizer(estimator: Any) -> Optimizer:
    rate, l1_step = estimator.learning_rate_init, estimator.l1_step
    if estimator.solver == "sgd":
        return SGD(rate, estimator.momentum, estimator.nesterovs_momentum, l1_step=l1_step)
    return Adam(rate, estimator.beta_1, estimator.beta_2, estimator.epsilon, l1_step=l1_step)


def _batch_size(estimator: Any, n: int) -> int:
    if estimator.batch_size == "auto":
        return min(200, n)
    if estimator.batch_size > n:
        warnings.warn(
            f"batch_size: got {estimator.batch_size}, more than the {n} rows; they make one batch",
            stacklevel=6,
        )
    return min(int(estimator.batch_size), n)


def _order(estimator: Any, n: int) -> Callable[[], Array]:
    """The order of the rows, epoch after epoch, as scikit-learn draws it.

    `sklearn.utils.shuffle` permutes its argument by these same swaps.
    """
    rows = np.arange(n, dtype=np.int64)

    def order() -> Array:
        estimator._random_state.shuffle(rows)
        return rows

    return order


def _split(estimator: Any, X: Array, y: Array, weight: Array | None) -> tuple[Any, Any]:
    """Rows to train on and rows to stop by, as scikit-learn draws them."""
    arrays = [X, y] if weight is None else [X, y, weight]
    parts = train_test_split(
        *arrays,
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=y if estimator._stratifies and estimator.n_outputs_ == 1 else None,
    )
    if parts[1].shape[0] < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    missing = [None] * (3 - len(arrays))
    return (*parts[0::2], *missing), (*parts[1::2], *missing)


def _scorer(estimator: Any, X: Array, y: Array, weight: Array | None) -> Callable[[], float]:
    """What `early_stopping` asks after every epoch."""
    truth = estimator._decoded(y)

    def score() -> float:
        model = estimator._model
        assert model is not None
        if estimator.scoring is None:
            outputs = estimator._forward(model, X)
            if not np.isfinite(outputs).all():
                return float("nan")
            return float(estimator._score(truth, estimator._decide(outputs), weight))
        estimator._take(model)
        scorer = (
            get_scorer(estimator.scoring)
            if isinstance(estimator.scoring, str)
            else estimator.scoring
        )
        more = {} if weight is None else {"sample_weight": weight}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return float(scorer(estimator, X, truth, **more))

    return score
