"""Callbacks: what a fit tells and may be told between epochs, with Keras' names.

>>> Callback().model is None
True
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastreg.errors import check_choice, check_int, check_real, unknown_name

Logs = Mapping[str, float]
T = TypeVar("T")

PENALTIES = ("kernel_penalty", "bias_penalty", "activity_penalty")
LOSSES = ("loss", "data_loss", *PENALTIES)  # the keys of logs that are no metric

BATCH_METHODS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
TEST_BATCH_METHODS = ("on_test_batch_begin", "on_test_batch_end")


class Callback:
    """Base of the callbacks: override what you need; every method here does nothing.

    Setting `self.model.stop_training = True` ends the fit after the batch or epoch at hand.

    Attributes
    ----------
    model : the model being fitted, None before.
    params : dict
        "epochs", "steps" (batches an epoch), "verbose", and "metrics" (every key `logs` will have).
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Called first, with the model."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called first, with what is known of the run."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, with its logs; not after an exception."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch `epoch`, from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After epoch `epoch`, from 0; `logs` as in `History.history`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of the epoch, from 0. Overriding it makes every step a call."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch`; `logs` are the means over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Keras' older name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Keras' older name of `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before `evaluate`, or the validation of an epoch."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After it, with its logs."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of it, from 0."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch` of it; `logs` are the means so far."""


class History(Callback):
    """Keeps the logs of every epoch; `fit` returns one.

    Attributes
    ----------
    history : dict of str to list of float
        "loss" (with penalties), the metrics, "data_loss", "kernel_penalty", "bias_penalty",
        "activity_penalty", and the same with "val_" in front.
    epoch : list of int
        The epochs they belong to, from 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class EarlyStopping(Callback):
    """Stop when a value has not become better for `patience` epochs (Keras 3.15).

    Parameters
    ----------
    monitor : str, default "val_loss"
        A key of `History.history`.
    min_delta : float, default 0
        A smaller change counts as none.
    patience : int, default 0
        Epochs without getting better after which the fit ends.
    verbose : int, default 0
        1 says when it stops.
    mode : "auto", "min" or "max"
        Which way is better; "auto": up for accuracies, down for all else.
    baseline : float, optional
        The count of epochs starts anew only below (above) it.
    restore_best_weights : bool, default False
        Put the weights of the best epoch back at the end, also if the fit was not stopped.
    start_from_epoch : int, default 0
        Epochs before this one are not looked at.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range; in `fit`, for a `monitor` that it does not report.

    Examples
    --------
    >>> EarlyStopping(patience=3).monitor
    'val_loss'
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.min_delta = abs(check_real("min_delta", min_delta))
        self.patience = check_int("patience", patience, low=0)
        self.verbose = verbose
        self.mode = check_choice("mode", mode, ("auto", "min", "max"))
        self.baseline = None if baseline is None else check_real("baseline", baseline)
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_int("start_from_epoch", start_from_epoch, low=0)
        self._forget()

    def _forget(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[Any] | None = None
        self._best_config: dict[str, Any] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        reported = self.params.get("metrics", [self.monitor])
        if self.monitor not in reported:
            raise unknown_name("monitor", self.monitor, reported)
        self._forget()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current = (logs or {}).get(self.monitor)
        if current is None or epoch < self.start_from_epoch:  # None: an epoch without validation
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self._is_better(current, self.best):
            self.best = current
            self._keep(epoch)
            if self._is_better(current, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()
            self._best_config = self.model.get_config()

    def _is_better(self, value: float, than: float | None) -> bool:
        if than is None:
            return True
        down = self.monitor.removeprefix("val_") in LOSSES  # what is no loss is an accuracy
        if self.mode == "min" or (self.mode == "auto" and down):
            return value + self.min_delta < than
        return value - self.min_delta > than

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring model weights from epoch {self.best_epoch + 1}, the best one.")
            self.model.go_back(self._best_config, self.best_weights)


class ProgressLine(Callback):
    """Shows on the standard error how a fit gets on.

    Parameters
    ----------
    verbose : 1 or 2
        1: one line that moves (tqdm's; without tqdm as 2). 2: one line an epoch.

    Raises
    ------
    ValueError
        For another `verbose`.
    """

    def __init__(self, verbose: int = 1) -> None:
        super().__init__()
        if verbose not in (1, 2):
            raise ValueError(f"verbose: got {verbose!r}; 1 or 2 is needed")
        self.verbose = verbose
        self._line: Any = None
        self._title = ""
        self._start = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.verbose == 1:
            total = self.params["steps"] * (self.params["epochs"] - self.params["initial_epoch"])
            self._line = progress_line(total)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._start = time.perf_counter()
        self._title = f"Epoch {epoch + 1}/{self.params['epochs']}"
        if self._line is not None:
            self._line.set_description_str(self._title, refresh=False)

    def advance(self, steps: int, logs: Logs) -> None:
        """After a slice of `steps` batches; `logs` are the means over the epoch so far."""
        if self._line is not None:
            self._line.set_postfix_str(format_logs(logs, split=False), refresh=False)
            self._line.update(steps)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._line is not None:
            self._line.set_postfix_str(format_logs(logs or {}, split=False), refresh=False)
        else:
            print_logs(self._title, time.perf_counter() - self._start, logs or {})

    def close(self) -> None:
        """Leave the line as it stands; called after exceptions, too."""
        if self._line is not None:
            self._line.close()
            self._line = None


def progress_line(total: int) -> Any:
    """A tqdm line over `total` steps on the standard error, or None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    # Without its monitor: a thread that would outlive the fit, and be missing in a forked child.
    quiet = type("ProgressLine", (tqdm,), {"monitor_interval": 0})
    return quiet(total=total, file=sys.stderr, unit="step", dynamic_ncols=True)


def resolve_verbose(verbose: Any) -> int:
    """0 (silent), 1 (a moving line) or 2 (a line an epoch); "auto" is 1 on a terminal, else 2.

    >>> resolve_verbose(True)
    1
    """
    if isinstance(verbose, str) and verbose == "auto":
        return 1 if sys.stderr is not None and sys.stderr.isatty() else 2
    if isinstance(verbose, int) and verbose in (0, 1, 2):
        return int(verbose)
    raise ValueError(f"verbose: got {verbose!r}; 0, 1, 2 or 'auto' is needed")


def format_logs(logs: Logs, split: bool = True) -> str:
    """The logs in one line; `split` shows the parts of the loss, where anything is penalized.

    >>> format_logs({"loss": 0.25, "accuracy": 0.5, "data_loss": 0.25, "kernel_penalty": 0.0})
    'loss: 0.2500 - accuracy: 0.5000'
    """
    shown = dict(logs)
    for name in LOSSES[1:]:
        shown.pop(f"val_{name}", None)  # the same penalties once more
        if not split or not logs.get(name) or not any(map(logs.get, PENALTIES)):
            shown.pop(name, None)
    return " - ".join(f"{name}: {value:.4f}" for name, value in shown.items())


def print_logs(title: str, seconds: float, logs: Logs) -> None:
    """One line on the standard error: what, how long, and the logs."""
    print(f"{title} - {seconds:.2f}s - {format_logs(logs)}", file=sys.stderr, flush=True)


def _overrides(methods: Sequence[str]) -> Callable[[Callback], bool]:
    def any_of_them(callback: Callback) -> bool:
        return any(getattr(type(callback), name) is not getattr(Callback, name) for name in methods)

    return any_of_them


class CallbackList:
    """The callbacks of one run, called one after the other.

    `for_batches` and `for_test_batches` say whether any of them wants to be called at every batch.
    """

    def __init__(
        self,
        callbacks: object,
        model: Any,
        params: dict[str, Any],
        defaults: Sequence[Callback] = (),
    ) -> None:
        given = [] if callbacks is None else callbacks
        if isinstance(given, Callback):
            given = [given]
        if not isinstance(given, list | tuple):
            raise TypeError(f"callbacks: got {given!r}; a list of Callback is needed")
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: got {callback!r} in the list; a Callback is needed")
        kinds = {type(callback) for callback in given}
        self.callbacks = [*given, *(each for each in defaults if type(each) not in kinds)]
        self.for_batches = any(map(_overrides(BATCH_METHODS), self.callbacks))
        self.for_test_batches = any(map(_overrides(TEST_BATCH_METHODS), self.callbacks))
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)

    def find(self, kind: type[T]) -> T | None:
        """The first of that class, or None."""
        return next((each for each in self.callbacks if isinstance(each, kind)), None)

    def call(self, method: str, *arguments: Any) -> None:
        """Call `method` of each with `arguments`."""
        for callback in self.callbacks:
            getattr(callback, method)(*arguments)
