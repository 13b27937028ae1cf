"""Callbacks: what a fit tells and may be told between epochs, with Keras' names.

>>> Callback().model is None
True
"""

from __future__ import annotations

import csv
import inspect
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from fastreg.errors import check_choice, check_int, check_real, unknown_name
from fastreg.serialization import check_bool

Logs = Mapping[str, Any]  # floats, and arrays for metrics of several values
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
        "epochs", "initial_epoch", "steps" (batches an epoch), "verbose", "metrics" (every key that
        `logs` will have), and "resumed" (whether the fit goes on from a checkpoint).
    remembers : tuple of str
        Of the class: the attributes that a checkpoint keeps, so that a resumed fit goes on with
        them. Numbers, strings, arrays, and lists and dicts of them.
    """

    remembers: ClassVar[tuple[str, ...]] = ()
    goes_last: ClassVar[bool] = False  # called after the others, whose state it writes down

    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}

    def get_state(self) -> dict[str, Any]:
        """The attributes that `remembers` names."""
        return {name: getattr(self, name) for name in self.remembers}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `get_state` gave; called after `on_train_begin` of a resumed fit."""
        for name in self.remembers:
            if name in state:
                setattr(self, name, state[name])

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
        "activity_penalty", and the same with "val_" in front. Of a metric of several values, such
        as a precision at several thresholds, the list holds arrays.
    epoch : list of int
        The epochs they belong to, from 0.
    """

    remembers = ("history", "epoch")

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


def is_better(monitor: str, mode: str, value: float, than: float | None, min_delta: float) -> bool:
    """Whether `value` beats `than` by more than `min_delta`; mode "auto" is up for accuracies.

    >>> is_better("val_loss", "auto", 0.5, 0.6, 0.0), is_better("accuracy", "auto", 0.5, 0.6, 0.0)
    (True, False)
    """
    if np.ndim(value):
        raise ValueError(
            f"monitor: got {monitor!r}, a metric of {np.size(value)} values; one of a single "
            "number is needed"
        )
    if than is None:
        return True
    down = monitor.removeprefix("val_") in LOSSES  # what is no loss is an accuracy
    if mode == "min" or (mode == "auto" and down):
        return value + min_delta < than
    return value - min_delta > than


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

    remembers = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights", "_best_config")

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
        return is_better(self.monitor, self.mode, value, than, self.min_delta)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring model weights from epoch {self.best_epoch + 1}, the best one.")
            self.model.go_back(self._best_config, self.best_weights)


class ModelCheckpoint(Callback):
    """Save the model while it is fitted, so that no more than a few steps can be lost.

    `load_model(path).fit(..., resume=True)` goes on from a file of it, in the middle of an epoch,
    too, with the very bits of a fit that was never interrupted: optimizer state, random numbers,
    order of the rows, History and the other callbacks are in the file. A file is replaced in one
    move when the new one is complete.

    Parameters
    ----------
    filepath : str or path
        Ends in .safetensors; "{epoch}" (from 1), "{batch}" (from 1, where `save_freq` is a number)
        and the keys of `logs` are filled in, as in "{epoch:02d}-{val_loss:.3f}.safetensors".
    monitor : str, default "val_loss"
        What is looked at for `save_best_only`, a key of `History.history`.
    verbose : int, default 0
        1 says when it saves.
    save_best_only : bool, default False
        Save only if `monitor` is better than it ever was.
    save_weights_only : bool, default False
        `save_weights` instead of `save`: nothing to resume from.
    mode : "auto", "min" or "max"
        Which way is better; "auto": up for accuracies, down for all else.
    save_freq : "epoch" or int
        Each epoch, or each so many batches, counted on through the epochs; then every step is a
        call.
    initial_value_threshold : float, optional
        What the first value must be better than.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range; in `fit`, for a `filepath` or `monitor` with an unknown key.

    Examples
    --------
    >>> ModelCheckpoint("digits-{epoch:02d}.safetensors", save_best_only=True).save_freq
    'epoch'
    """

    remembers = ("best", "_batches")
    goes_last = True

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.filepath = check_suffix("filepath", filepath, ".safetensors")
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = check_bool("save_best_only", save_best_only)
        self.save_weights_only = check_bool("save_weights_only", save_weights_only)
        self.mode = check_choice("mode", mode, ("auto", "min", "max"))
        self.save_freq = save_freq
        if isinstance(save_freq, str):
            check_choice("save_freq", save_freq, ("epoch",))
        else:
            self.save_freq = check_int("save_freq", save_freq, low=1)
            # Of the object alone: another one must not make every step a call.
            self.on_train_batch_end = self._after_batch  # type: ignore[method-assign]
        self.best = (
            None
            if initial_value_threshold is None
            else check_real("initial_value_threshold", initial_value_threshold)
        )
        self._epoch = self._batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        reported = self.params.get("metrics", [])
        if self.save_best_only and self.monitor not in reported:
            raise unknown_name("monitor", self.monitor, reported)
        numbers = {"epoch": 1, **({} if self.save_freq == "epoch" else {"batch": 1})}
        self._path({**numbers, **dict.fromkeys(reported, 0.0)})

    def _path(self, keys: Mapping[str, float]) -> Path:
        try:
            return Path(self.filepath.format(**keys))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"filepath: got {self.filepath!r}, which cannot be filled in ({error}); "
                f"keys: {', '.join(keys)}"
            ) from None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save({"epoch": epoch + 1, **(logs or {})})

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._batches += 1
        if self._batches == self.save_freq:
            self._batches = 0
            self._save({"epoch": self._epoch + 1, "batch": batch + 1, **(logs or {})})

    def _save(self, keys: Mapping[str, float]) -> None:
        if self.save_best_only:
            current = keys.get(self.monitor)  # none in an epoch without validation
            if current is None or not is_better(self.monitor, self.mode, current, self.best, 0.0):
                return
            self.best = current
        path = self._path(keys)
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose > 0:
            print(f"Epoch {self._epoch + 1}: model saved to {path}")


class CSVLogger(Callback):
    """Write the logs of each epoch as a row of a CSV file, at once.

    The columns are "epoch" (from 0) and the keys of `History.history` in alphabetical order; what
    an epoch does not have (no validation) is NA. A resumed fit goes on with the file: rows of
    epochs that are done again make room.

    Parameters
    ----------
    filename : str or path
    separator : str, default ","
        One character.
    append : bool, default False
        Go on with a file that exists, with its columns.

    Raises
    ------
    ValueError, TypeError
        For another separator; in `fit`, OSError if the file cannot be written.

    Examples
    --------
    >>> CSVLogger("log.csv").separator
    ','
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        super().__init__()
        self.filename = check_suffix("filename", filename, "")
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(f"separator: got {separator!r}; one character is needed")
        self.separator = separator
        self.append = check_bool("append", append)
        self._keys: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        path = Path(self.filename)
        self._keys = ["epoch", *sorted(self.params["metrics"])]
        rows: list[list[str]] = []
        if (self.append or self.params.get("resumed")) and path.exists():
            with open(path, newline="") as file:
                rows = list(csv.reader(file, delimiter=self.separator))
            self._keys = rows[0] if rows else self._keys
            if not self.append:
                rows = [row for row in rows[1:] if int(row[0]) < self.params["initial_epoch"]]
                rows = [self._keys, *rows]
        path.write_text(self._text(rows or [self._keys]), newline="")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values: dict[str, Any] = {"epoch": epoch, **(logs or {})}
        values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        row = [str(values.get(key, "NA")) for key in self._keys]
        with open(self.filename, "a", newline="") as file:
            file.write(self._text([row]))

    def _text(self, rows: Sequence[Sequence[str]]) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerows(rows)
        return text.getvalue()


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of every epoch (Keras 3.15).

    It stands in the logs as "learning_rate".

    Parameters
    ----------
    schedule : callable
        `schedule(epoch, learning_rate)` or `schedule(epoch)`, epochs from 0, gives the new rate.
    verbose : int, default 0
        1 prints it.

    Raises
    ------
    TypeError
        For no callable; in `fit`, for a rate that is no number.
    ValueError
        In `fit`, for a rate that the optimizer does not take.

    Examples
    --------
    >>> halving = LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch % 10 == 9 else rate)
    >>> halving.schedule(9, 0.2)
    0.1
    """

    remembers = ("epoch",)

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        if not callable(schedule):
            raise TypeError(f"schedule: got {schedule!r}; a function of epoch and rate is needed")
        self.schedule = schedule
        self.verbose = verbose
        self.epoch = -1
        try:
            parameters = inspect.signature(schedule).parameters.values()
        except ValueError:  # a builtin that does not say
            self._takes_rate = True
        else:
            kinds = [each.kind.name for each in parameters]
            n_places = kinds.count("POSITIONAL_ONLY") + kinds.count("POSITIONAL_OR_KEYWORD")
            self._takes_rate = n_places > 1 or "VAR_POSITIONAL" in kinds

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = -1

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch == self.epoch:  # a resumed fit is in the midst of it
            return
        self.epoch = epoch
        optimizer = self.model.optimizer
        arguments = (epoch, optimizer.learning_rate) if self._takes_rate else (epoch,)
        optimizer.learning_rate = self.schedule(*arguments)
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        _note_learning_rate(self.model, logs)


class ReduceLROnPlateau(Callback):
    """Lower the learning rate when a value has not become better for a while (Keras 3.15).

    The rate of the epoch stands in the logs as "learning_rate".

    Parameters
    ----------
    monitor : str, default "val_loss"
        A key of `History.history`.
    factor : float in [0, 1), default 0.1
        What the rate is multiplied by.
    patience : int, default 10
        Epochs without getting better after which it is.
    verbose : int, default 0
        1 says when.
    mode : "auto", "min" or "max"
        Which way is better; "auto": up for accuracies, down for all else.
    min_delta : float, default 1e-4
        A smaller change counts as none.
    cooldown : int, default 0
        Epochs after a change in which none are counted.
    min_lr : float, default 0.0
        The rate goes no lower.

    Raises
    ------
    ValueError, TypeError
        For an argument out of range; in `fit`, for a `monitor` that it does not report.

    Examples
    --------
    >>> ReduceLROnPlateau(factor=0.5, patience=3).factor
    0.5
    """

    remembers = ("best", "wait", "cooldown_counter")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 0.0001,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.factor = check_real("factor", factor, low=0, high=1, high_open=True)
        self.patience = check_int("patience", patience, low=0)
        self.verbose = verbose
        self.mode = check_choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = check_real("min_delta", min_delta, low=0)
        self.cooldown = check_int("cooldown", cooldown, low=0)
        self.min_lr = check_real("min_lr", min_lr, low=0)
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        reported = self.params.get("metrics", [self.monitor])
        if self.monitor not in reported:
            raise unknown_name("monitor", self.monitor, reported)
        self._forget()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        _note_learning_rate(self.model, logs)
        current = (logs or {}).get(self.monitor)
        if current is None:  # an epoch without validation
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if is_better(self.monitor, self.mode, current, self.best, self.min_delta):
            self.best = current
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        optimizer = self.model.optimizer
        if optimizer.learning_rate <= self.min_lr:
            return
        optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose > 0:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}")


def _note_learning_rate(model: Any, logs: Logs | None) -> None:
    """For History and the like, which are called later."""
    if isinstance(logs, dict):
        logs["learning_rate"] = model.optimizer.learning_rate


class TerminateOnNaN(Callback):
    """End the fit quietly where the loss is not finite any more, instead of an exception.

    The model is as of the end of the last finite epoch, as it is with the exception.

    Attributes
    ----------
    message : str or None
        What happened, if it did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.message: str | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.message = None

    def on_divergence(self, error: FloatingPointError) -> None:
        """Take the exception that the fit would end with."""
        self.message = str(error)
        self.model.stop_training = True
        print(error, file=sys.stderr)


class LambdaCallback(Callback):
    """A callback of functions: `LambdaCallback(on_epoch_end=lambda epoch, logs: ...)`.

    Parameters
    ----------
    on_epoch_begin, on_epoch_end : callable of (epoch, logs), optional
    on_train_begin, on_train_end : callable of (logs), optional
    on_train_batch_begin, on_train_batch_end : callable of (batch, logs), optional
    **others : callable
        Any other method of `Callback` that begins with "on_".

    Raises
    ------
    ValueError, TypeError
        For a name that no method has, or what cannot be called.

    Examples
    --------
    >>> LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch)).on_epoch_end(3, {})
    3
    """

    def __init__(
        self,
        on_epoch_begin: Callable[[int, Logs], object] | None = None,
        on_epoch_end: Callable[[int, Logs], object] | None = None,
        on_train_begin: Callable[[Logs], object] | None = None,
        on_train_end: Callable[[Logs], object] | None = None,
        on_train_batch_begin: Callable[[int, Logs], object] | None = None,
        on_train_batch_end: Callable[[int, Logs], object] | None = None,
        **others: Callable[..., object] | None,
    ) -> None:
        super().__init__()
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **others,
        }
        allowed = [name for name in dir(Callback) if name.startswith("on_")]
        for name, function in given.items():
            if name not in allowed:
                raise unknown_name("argument of LambdaCallback", name, allowed)
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"{name}: got {function!r}; a function is needed")
            numbered = not name.endswith(("train_begin", "train_end", "test_begin", "test_end"))
            setattr(self, name, _with_logs(function, numbered))


def _with_logs(function: Callable[..., object], numbered: bool) -> Callable[..., object]:
    """`function` with logs, {} where there are none, after the number of the epoch or batch."""
    if numbered:
        return lambda number, logs=None: function(number, logs or {})
    return lambda logs=None: function(logs or {})


def check_suffix(argument: str, path: Any, suffix: str) -> str:
    """`path` as a string that ends in `suffix`.

    >>> check_suffix("filename", Path("log.csv"), ".csv")
    'log.csv'
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{argument}: got {path!r}; a path is needed")
    name = os.fspath(path)
    if not isinstance(name, str) or not name.endswith(suffix) or name == suffix:
        raise ValueError(f"{argument}: got {name!r}; a name that ends in {suffix!r} is needed")
    return name


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

    A metric of several values is shown by their mean, as in Keras.

    >>> format_logs({"loss": 0.25, "accuracy": 0.5, "data_loss": 0.25, "kernel_penalty": 0.0})
    'loss: 0.2500 - accuracy: 0.5000'
    """
    shown = dict(logs)
    for name in LOSSES[1:]:
        shown.pop(f"val_{name}", None)  # the same penalties once more
        if not split or not logs.get(name) or not any(map(logs.get, PENALTIES)):
            shown.pop(name, None)
    return " - ".join(f"{name}: {np.mean(value):.4f}" for name, value in shown.items())


def print_logs(title: str, seconds: float, logs: Logs) -> None:
    """One line on the standard error: what, how long, and the logs."""
    print(f"{title} - {seconds:.2f}s - {format_logs(logs)}", file=sys.stderr, flush=True)


def _function(callback: Callback, name: str) -> Any:
    """What `callback.name` runs: a method of its class, or a function of its own."""
    method = getattr(callback, name)
    return getattr(method, "__func__", method)


def _overrides(methods: Sequence[str]) -> Callable[[Callback], bool]:
    def any_of_them(callback: Callback) -> bool:
        return any(_function(callback, name) is not getattr(Callback, name) for name in methods)

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
        every = [*given, *(each for each in defaults if type(each) not in kinds)]
        self.callbacks = sorted(every, key=lambda callback: callback.goes_last)
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

    def get_state(self) -> list[list[Any]]:
        """[class name, state] of each."""
        return [[type(each).__name__, each.get_state()] for each in self.callbacks]

    def set_state(self, states: Sequence[Sequence[Any]]) -> None:
        """Give each the state of the callback of its class, in their order; others begin anew."""
        left = list(states)
        for callback in self.callbacks:
            mine = next((each for each in left if each[0] == type(callback).__name__), None)
            if mine is not None:
                left.remove(mine)
                callback.set_state(mine[1])
