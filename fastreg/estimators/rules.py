"""After an epoch of "sgd" and "adam": scikit-learn's notes, rules to stop and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg.callbacks import Callback, Logs

Array = NDArray[Any]

SMALLEST_RATE = 1e-6  # at which learning_rate="adaptive" ends the fit


class Listeners:
    """scikit-learn's own callbacks (`set_callbacks`), told of the fit and each epoch of it."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_tasks: int) -> None:
        self.estimator = estimator
        self.context: Any = None
        self.task: Any = None
        self.stopped = False
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.facts = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        if hasattr(estimator, "_skl_callbacks"):
            self.context = estimator._init_callback_context(max_subtasks=n_tasks)
            self.context.call_on_fit_task_begin(**self.facts)

    def begin(self, task: str) -> None:
        """An epoch, or an iteration."""
        if self.context is not None:
            self.task = self.context.subcontext(task_name=task)
            self.task.call_on_fit_task_begin(**self.facts)

    def end(self, fitted: Callable[[], dict[str, Any]]) -> bool:
        """Whether one of them asks to stop; `fitted` makes what `attributes_of` says."""
        if self.task is None:
            return False
        told = self.task.call_on_fit_task_end(**self.facts, reconstruction_attributes=fitted)
        self.stopped = bool(told)
        return self.stopped

    def end_fit(self) -> None:
        """All is done."""
        if self.context is not None:
            self.context.call_on_fit_task_end(**self.facts, reconstruction_attributes={})


def attributes_of(weights: list[Array], selected: Array | None) -> dict[str, Any]:
    """What an estimator predicts by."""
    read = {"_selected": selected, "_model": None}
    return {"coefs_": weights[0::2], "intercepts_": weights[1::2], **read}


class Rules(Callback):
    """After an epoch: what scikit-learn's loop notes down, and when it stops."""

    def __init__(
        self, estimator: Any, n: int, score: Callable[[], float] | None, listeners: Listeners
    ) -> None:
        super().__init__()
        self.estimator, self.n, self.score, self.listeners = estimator, n, score, listeners
        self.best: tuple[dict[str, Any], list[Array]] | None = None
        self.is_done = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.listeners.begin("epoch")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        self.note(logs["loss"], logs.get("val_data_loss"))
        model = self.model
        if self.listeners.end(lambda: attributes_of(model.get_weights(), model.selected_inputs_)):
            self.is_done = self.model.stop_training = True

    def diverged(self) -> None:
        """The epoch at hand came to no finite weights: the fit ends with it."""
        self.score, self.is_done = (lambda: float("nan")), True
        self.note(np.nan, None)

    def note(self, loss: float, validation_loss: float | None) -> None:
        e = self.estimator
        e.n_iter_ += 1
        e.loss_ = loss
        e.t_ += self.n
        e.loss_curve_.append(loss)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
        if validation_loss is not None:
            e.validation_curve_.append(validation_loss)
        self._count()
        if e.solver == "sgd" and e.learning_rate == "invscaling":
            self._set_rate(e.learning_rate_init / (e.t_ + 1) ** e.power_t)
        if e._no_improvement_count > e.n_iter_no_change:
            self._stop_or_slow_down()

    def _count(self) -> None:
        """Epochs in which the loss, or the validation score, has not become better by tol."""
        e = self.estimator
        if self.score is None:
            e._no_improvement_count = (
                e._no_improvement_count + 1 if e.loss_ > e.best_loss_ - e.tol else 0
            )
            e.best_loss_ = min(e.best_loss_, e.loss_)
            return
        score = float(self.score())
        e.validation_scores_.append(score)
        if e.verbose:
            print(f"Validation score: {score:f}")
        e._no_improvement_count = (
            e._no_improvement_count + 1 if score < e.best_validation_score_ + e.tol else 0
        )
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            self.best = self.model.get_config(), self.model.get_weights()

    def _stop_or_slow_down(self) -> None:
        e = self.estimator
        what = "Training loss" if self.score is None else "Validation score"
        text = (
            f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} "
            "consecutive epochs."
        )
        if e.solver == "sgd" and e.learning_rate == "adaptive":
            rate = self.model.optimizer.learning_rate
            if rate > SMALLEST_RATE:
                self._set_rate(rate / 5)
                e._no_improvement_count = 0
                if e.verbose:
                    print(f"{text} Setting learning rate to {rate / 5:f}")
                return
            text += " Learning rate too small."
        if e.verbose:
            print(f"{text} Stopping.")
        self.is_done = True
        self.model.stop_training = True

    def _set_rate(self, rate: float) -> None:
        self.model.optimizer.learning_rate = rate
