"""`fit` with an optimizer that takes all rows at once: one iteration of `LBFGS` is an epoch.

Without L1 it is SciPy's L-BFGS-B on the flat weights of the model's `Objective`, with L1 the OWL-QN
of `owlqn`, which reaches exact zeros. Both work in float64 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg import config, owlqn, training
from fastreg.callbacks import CallbackList, ProgressLine
from fastreg.layers import Layer, Noise
from fastreg.objective import Objective
from fastreg.optimizers import LBFGS
from fastreg.regularizers import GroupL1
from fastreg.training import Data, Model, Position, Task

Array = NDArray[Any]


class _Enough(Exception):
    """A callback, or the number of epochs, ends the descent."""


def check(layers: list[Layer], batch_size: int, n_rows: int) -> None:
    """Raise for what a descent over all rows has no place for.

    Raises
    ------
    ValueError
        For a layer of noise, a penalty by its prox, a schedule, batches.
    """
    if batch_size < n_rows:
        raise ValueError(
            f"batch_size: got {batch_size} of {n_rows} rows; LBFGS takes all at once (None)"
        )
    for layer in layers:
        name = f"layer {layer.name!r} ({type(layer).__name__})"
        if isinstance(layer, Noise):
            raise ValueError(f"{name}: LBFGS minimizes one function, which has no noise in it")
        if layer.schedules():
            raise ValueError(f"{name}: a setting follows a schedule, but LBFGS has one function")
        if isinstance(getattr(layer, "kernel_regularizer", None), GroupL1):
            raise ValueError(f"{name}: LBFGS has no step for GroupL1; Sequential.polish has")
        for of, whole in layer.whole_penalties().items():
            if of != "activity" and whole.prox is not None:
                raise ValueError(
                    f"{name}: LBFGS has no step for the prox of {whole!r}; Sequential.polish has"
                )


def fit(
    model: Model,
    task: Task,
    data: Data,
    validation: Data | None,
    objective: Objective,
    *,
    epochs: range,
    validation_batch_size: int,
    validation_freq: Any,
    callbacks: CallbackList,
    progress: ProgressLine | None,
    resume: Position | None,
) -> None:
    """At most `epochs` iterations, telling the callbacks; fewer where the tolerance is reached.

    `resume` goes on with the epochs and the callbacks; of the curvature all is learnt anew.

    Raises
    ------
    FloatingPointError
        If the loss is not finite to begin with; nothing is changed.
    """
    optimizer = model.optimizer
    assert isinstance(optimizer, LBFGS)
    n = len(data.x)
    model.stop_training = False
    if not np.isfinite(objective.smooth(objective.start)[0]):
        raise FloatingPointError("fit: the loss is not finite before the first iteration")
    position = resume or Position(epochs.start, n, n)
    position.n_rows = position.batch_size = n
    position.freeze()
    callbacks.call("on_train_begin")
    callbacks.set_state(position.callbacks)
    model.position, position.running = position, callbacks

    def told(w: Array, *_: object) -> None:
        """After an iteration."""
        epoch = position.epoch
        ledger, sums = np.zeros(6), task.start()
        outputs = task.room(n, model.dtype)
        with model.lock:
            network = model.network
            network.set_weights([a.astype(model.dtype) for a in objective.weights(w)])
            network.evaluate(
                *data, 0, n, n, task.loss, task.accuracy, ledger, model.n_threads, outputs
            )
            model.add_penalties(n, ledger)
            optimizer.count(1)
        task.add(sums, data, None, 0, outputs)
        logs = task.logs(ledger, sums)
        if validation is not None and training.validates(epoch, validation_freq):
            found = training.evaluate(model, task, validation, validation_batch_size, callbacks)
            logs |= {f"val_{name}": value for name, value in found.items()}
        if progress is not None:
            progress.advance(1, logs)
        position.finish_epoch()
        callbacks.call("on_epoch_end", epoch, logs)
        if model.stop_training or position.epoch == epochs.stop:
            raise _Enough
        callbacks.call("on_epoch_begin", position.epoch)

    try:
        if epochs:
            callbacks.call("on_epoch_begin", epochs.start)
            with config.one_blas_thread():
                _descend(objective, optimizer, len(epochs), told)
    except _Enough:
        pass
    callbacks.call("on_train_end")


def _descend(
    objective: Objective, optimizer: LBFGS, max_iter: int, told: Callable[..., None]
) -> None:
    if objective.l1.any():
        owlqn.minimize(
            objective.smooth,
            objective.start,
            objective.l1,
            tol=optimizer.tol,
            max_iter=max_iter,
            max_fun=20 * max_iter,
            callback=told,
        )
        return
    from scipy.optimize import minimize

    minimize(
        objective.smooth,
        objective.start,
        method="L-BFGS-B",
        jac=True,
        callback=told,
        options={
            "maxcor": optimizer.history_size,
            "gtol": optimizer.tol,
            "ftol": 0.0,
            "maxiter": max_iter,
            "maxfun": 20 * max_iter,
        },
    )
