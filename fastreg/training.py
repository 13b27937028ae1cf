"""The one epoch loop, and the calls of a network it is made of.

A network works through whole slices of an epoch in one call; between slices Ctrl-C, progress and
callbacks are served. Slices end where batches end and change nothing in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreg.callbacks import (
    PENALTIES,
    CallbackList,
    ProgressLine,
    TerminateOnNaN,
    progress_line,
    resolve_verbose,
)
from fastreg.errors import check_int
from fastreg.inputs import LossLike, Rows, loss_parts
from fastreg.metrics import Metric
from fastreg.optimizers import Optimizer
from fastreg.regularizers import Whole
from fastreg.serialization import with_arrays, without_arrays

Array = NDArray[Any]
Ledger = NDArray[np.float64]

SLICE_SECONDS = 0.05  # short enough for Ctrl-C and a smooth line, long enough to cost nothing
SLICE_FLOPS = 2e9  # about as long, where the slices must not depend on the clock


class Scheduled(NamedTuple):
    """A setting that changes from step to step: its values in those of a call, (steps,) float64."""

    name: str  # of `describe`
    layer: int  # its number in the network, -1 for the learning rate
    values: Array


class Extra(NamedTuple):
    """A penalty whose gradient is added in Python, between the halves of a step."""

    position: int  # of the array in `get_weights`
    entry: int  # of the ledger
    regularizer: Whole
    steps: Array | None  # of its prox, (steps,) float64; None: its gradient is followed


class Network(Protocol):
    """The engine's class and its NumPy twin, as the loop uses them."""

    def update_layers(self, layers: list[dict[str, Any]]) -> None: ...
    def compute_in(self, compute_dtype: str | None) -> None: ...
    def get_weights(self) -> list[Array]: ...
    def set_weights(self, weights: list[Array]) -> None: ...
    def get_slots(self) -> list[list[Array]]: ...
    def set_slots(self, slots: list[list[Array]]) -> None: ...
    def finite(self, n_threads: int) -> bool: ...
    def keep(self, n_threads: int) -> bool: ...
    def put_back(self) -> None: ...
    def train(
        self,
        x: Rows,
        y: Array,
        sample_weight: Array | None,
        index: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        loss: str | LossLike,
        optimizer: dict[str, Any],
        iteration: int,
        seed: int,
        accuracy: str | None,
        ledger: Ledger,
        n_threads: int,
        scheduled: Sequence[Scheduled] = (),
        extra: Sequence[Extra] = (),
        outputs: Array | None = None,
    ) -> int: ...
    def evaluate(
        self,
        x: Rows,
        y: Array,
        sample_weight: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        loss: str | LossLike,
        accuracy: str | None,
        ledger: Ledger,
        n_threads: int,
        outputs: Array | None = None,
    ) -> None: ...
    def forward(self, x: Rows, batch_size: int, out: Array, n_threads: int) -> None: ...
    def densities(self, n_rows: int) -> list[float]: ...
    def active_shares(self) -> list[float]: ...
    @property
    def repeated(self) -> int: ...
    def repeat(self, x: object, y: object, iteration: int) -> float | None:
        """The last `train`, of one step, on other rows: its loss; None: go the long way."""

    def answer(self, x: object, out: object) -> Array | None:
        """The output for few rows that need no check; None where `forward` must be asked."""


class Model(Protocol):
    """What the loop needs of `fastreg.Sequential`."""

    optimizer: Optimizer | None
    stop_training: bool
    position: Position | None

    @property
    def dtype(self) -> str | None:
        """Of the network."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held during every call of the network: it serves one caller at a time."""

    @property
    def network(self) -> Network:
        """The network, its settings up to date."""

    @property
    def selected_inputs_(self) -> Array | None:
        """The columns of x that the network reads."""

    @property
    def rng(self) -> np.random.Generator: ...
    @property
    def dropout_seed(self) -> int: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def pace(self) -> Pace: ...
    @property
    def n_params(self) -> int: ...
    def take_average(self) -> None:
        """Have the running mean of the weights instead of them, where there is one."""

    def add_penalties(self, rows: int, ledger: Ledger) -> None:
        """Add those that Python adds, for so many rows."""

    def extra(self, steps: int) -> Sequence[Extra]:
        """Penalties that are added in Python."""

    def scheduled(self, steps: int) -> Sequence[Scheduled]:
        """What follows a schedule, in so many steps from the next on."""


class Measure(NamedTuple):
    """A metric that is computed from the outputs of a pass, and whether sample weights count."""

    metric: Metric
    weighted: bool
    n_out: int


class Task(NamedTuple):
    """What is learnt: the loss, which accuracy to count, and the names it is reported under.

    `measures` are the metrics, by name, that need the outputs; the others are the accuracy. The
    sums of a pass are the ledger and one float64 array for each measure, as `start` makes them.
    """

    loss: str | LossLike
    accuracy: str | None
    metrics: tuple[str, ...]
    measures: Mapping[str, Measure] = MappingProxyType({})

    def start(self) -> list[Array]:
        """The sums of the measures before any row."""
        return [each.metric.start(each.n_out) for each in self.measures.values()]

    def room(self, rows: int, dtype: str | None) -> Array | None:
        """For the outputs of so many rows, if they are asked for."""
        for each in self.measures.values():
            return np.empty((rows, each.n_out), dtype)
        return None

    def add(
        self,
        sums: Sequence[Array],
        data: Data,
        index: Array | None,
        start: int,
        outputs: Array | None,
    ) -> None:
        """Add the rows from `start` on, whose outputs are given, to the sums of the measures."""
        if outputs is None or not len(outputs):
            return
        rows: Any = slice(start, start + len(outputs))
        rows = rows if index is None else index[rows]
        y, weight = data.y[rows], None if data.sample_weight is None else data.sample_weight[rows]
        for each, held in zip(self.measures.values(), sums, strict=True):
            each.metric.add(held, y, outputs, weight if each.weighted else None)

    def keys(self) -> list[str]:
        """The keys of `logs`, in order."""
        return ["loss", *self.metrics, "data_loss", *PENALTIES]

    def logs(self, ledger: Ledger, sums: Sequence[Array] = ()) -> dict[str, Any]:
        """Means a row, arrays of metrics of several values; the loss is Keras', with penalties."""
        *losses, n_correct, n = ledger.tolist()
        means = [value / n for value in losses]
        logs: dict[str, Any] = {"loss": sum(means)}
        measured = dict(zip(self.measures, sums, strict=True))
        for name in self.metrics:
            if name in measured:
                found = np.asarray(self.measures[name].metric.result(measured[name]))
                logs[name] = found if found.ndim else float(found)
            else:
                logs[name] = n_correct / n
        logs["data_loss"] = means[0]
        logs.update(zip(PENALTIES, means[1:], strict=True))
        return logs


class Data(NamedTuple):
    """Checked arrays: x (n, n_in), y (n, n_out) or int32 (n,), sample_weight (n,) or None."""

    x: Rows
    y: Array
    sample_weight: Array | None

    def rows(self, start: int, stop: int) -> Data:
        """Views of some of the rows."""
        weight = self.sample_weight
        return Data(
            self.x[start:stop], self.y[start:stop], None if weight is None else weight[start:stop]
        )

    def narrowed(self, before: Array | None, after: Array | None) -> Data:
        """With the columns `after` of x, which has the columns `before` (None: all) of all."""
        if after is None:
            return self
        index = after if before is None else np.searchsorted(before, after)
        return self._replace(x=self.x.take(index, axis=1))


class Position:
    """Where a fit is: with the model's own state, all that is needed to go on with the same bits.

    Parameters
    ----------
    epoch : int
        The one that runs, from 0; between two, the next.
    n_rows, batch_size : int
        Of the data, and of a step.

    Attributes
    ----------
    ledger : (6,) float64
        That of the epoch; its rows tell how far the epoch is, whenever Ctrl-C comes.
    sums : list of float64 arrays
        Of the metrics that are computed from the outputs, in the epoch.
    order : dict or None
        State of the generator before it drew the epoch's order of the rows.
    callbacks : list of [class name, state]
        See `Callback.get_state`.
    """

    def __init__(self, epoch: int, n_rows: int, batch_size: int) -> None:
        self.epoch, self.n_rows, self.batch_size = epoch, n_rows, batch_size
        self.ledger: Ledger = np.zeros(6)
        self.sums: list[Array] = []
        self.order: Any = None
        self.callbacks: list[list[Any]] = []
        self.running: CallbackList | None = None  # whose state is to be asked for

    def finish_epoch(self) -> None:
        """Stand before the next epoch."""
        self.epoch, self.ledger, self.order = self.epoch + 1, np.zeros(6), None
        self.sums = []

    def freeze(self) -> None:
        """Have the state of the callbacks, instead of the callbacks."""
        found, arrays = self.state()
        self.callbacks, self.running = with_arrays(found["callbacks"], arrays), None

    def check(self, n_rows: int, batch_size: int) -> None:
        """Refuse other rows or batches than those that the epoch at hand was begun with."""
        if self.ledger[5] and (n_rows, batch_size) != (self.n_rows, self.batch_size):
            raise ValueError(
                f"resume: got {n_rows} rows in batches of {batch_size}; the checkpoint stands at "
                f"row {self.ledger[5]:.0f} of {self.n_rows} in batches of {self.batch_size}"
            )

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """All of it, for JSON, and the arrays by name."""
        arrays: dict[str, Array] = {}
        callbacks = self.callbacks if self.running is None else self.running.get_state()
        found = {
            "epoch": self.epoch,
            "n_rows": self.n_rows,
            "batch_size": self.batch_size,
            "ledger": self.ledger.tolist(),
            "sums": without_arrays(self.sums, "sums", arrays),
            "order": self.order,
            "callbacks": without_arrays(callbacks, "callbacks", arrays),
        }
        return found, arrays

    @classmethod
    def from_state(cls, found: Mapping[str, Any], arrays: Mapping[str, Array]) -> Position:
        """The position that `state` described."""
        sizes = {name: check_int(name, found[name], low=0) for name in ("epoch", "n_rows")}
        position = cls(**sizes, batch_size=check_int("batch_size", found["batch_size"], low=1))
        position.ledger[:] = found["ledger"]
        position.sums = with_arrays(found.get("sums", []), arrays)
        position.order = found["order"]
        position.callbacks = with_arrays(found["callbacks"], arrays)
        return position


class Pace:
    """How many rows make a slice: measured on the slices before, beginning with one batch.

    >>> pace = Pace()
    >>> pace.measured(1000, 0.001); pace.stop(0, 10**6, 32)
    8000
    """

    def __init__(self) -> None:
        self._rows = 0

    def measured(self, rows: int, seconds: float) -> None:
        """Take note of a slice; the next grows eightfold at most, for the first ones say little."""
        self._rows = min(int(rows * SLICE_SECONDS / max(seconds, 1e-6)), 8 * max(rows, self._rows))

    def stop(self, start: int, n: int, batch_size: int) -> int:
        """Where the slice that begins at `start` ends."""
        return min(start + max(self._rows // batch_size, 1) * batch_size, n)


class NonFiniteLoss(FloatingPointError):
    """The loss of a step was not finite; `steps` of the call were done before."""

    def __init__(self, message: str, steps: int = 0) -> None:
        super().__init__(message)
        self.steps = steps


def n_steps(rows: float, batch_size: int) -> int:
    """Batches of `batch_size` that `rows` make, the last one short.

    >>> n_steps(65, 32)
    3
    """
    return -(-int(rows) // batch_size)


def train(
    model: Model,
    task: Task,
    data: Data,
    index: Array | None,
    start: int,
    stop: int,
    batch_size: int,
    ledger: Ledger,
    sums: Sequence[Array],
) -> None:
    """Train on rows index[start:stop]; count `iterations`, add to `ledger` and the task's `sums`.

    Raises
    ------
    NonFiniteLoss
        At the first step whose loss is not finite. That step changed nothing.
    """
    optimizer = model.optimizer
    assert optimizer is not None
    with model.lock:
        network = model.network
        rows_before = ledger.item(5)
        outputs = task.room(stop - start, model.dtype)
        try:
            network.train(
                *data,
                index,
                start,
                stop,
                batch_size,
                task.loss,
                optimizer.describe(),
                optimizer.iterations,
                model.dropout_seed,
                task.accuracy,
                ledger,
                model.n_threads,
                model.scheduled(n_steps(stop - start, batch_size)),
                model.extra(n_steps(stop - start, batch_size)),
                outputs,
            )
        finally:
            # Ctrl-C during the call is raised as it returns, before its result could be stored:
            # only the ledger tells how many steps were done.
            rows = ledger.item(5) - rows_before
            steps = n_steps(rows, batch_size)
            optimizer.count(steps)
            if outputs is not None:
                task.add(sums, data, index, start, outputs[: int(rows)])
    if rows < stop - start:
        name, settings = loss_parts(task.loss)
        what = f"the loss ({name})" + (" or its gradient" if settings is None else "")
        raise NonFiniteLoss(f"{what} is not finite", steps)


def evaluate(
    model: Model, task: Task, data: Data, batch_size: int, callbacks: CallbackList
) -> dict[str, float]:
    """The logs of all rows, without dropout."""
    ledger, sums = np.zeros(6), task.start()
    every_batch = callbacks.for_test_batches
    callbacks.call("on_test_begin")
    with model.lock:  # one set of weights for all slices
        network = model.network
        rows = batch_size if every_batch else inference_rows(model, batch_size)
        for start, stop in pieces(len(data.x), rows):
            if every_batch:
                callbacks.call("on_test_batch_begin", start // batch_size)
            outputs = task.room(stop - start, model.dtype)
            network.evaluate(
                *data,
                start,
                stop,
                batch_size,
                task.loss,
                task.accuracy,
                ledger,
                model.n_threads,
                outputs,
            )
            task.add(sums, data, None, start, outputs)
            model.add_penalties(stop - start, ledger)
            if every_batch:
                callbacks.call("on_test_batch_end", start // batch_size, task.logs(ledger, sums))
    logs = task.logs(ledger, sums)
    callbacks.call("on_test_end", logs)
    return logs


def forward(model: Model, x: Rows, batch_size: int, out: Array, verbose: object) -> None:
    """Write the output for x (n, n_in) to out (n, n_out), with a moving line if it takes long."""
    rows = inference_rows(model, batch_size)
    if len(x) <= rows:
        with model.lock:
            model.network.forward(x, batch_size, out, model.n_threads)
        return
    line: Any = None
    with model.lock:  # one set of weights for all slices
        network = model.network
        try:
            for start, stop in pieces(len(x), rows):
                network.forward(x[start:stop], batch_size, out[start:stop], model.n_threads)
                if start == 0 and resolve_verbose(verbose) == 1:
                    line = progress_line(n_steps(len(x), batch_size))
                if line is not None:
                    line.update(n_steps(stop - start, batch_size))
        finally:
            if line is not None:
                line.close()


def inference_rows(model: Model, batch_size: int) -> int:
    """Rows of a slice of inference, a multiple of `batch_size`.

    They follow from the model alone: how rows are cut changes the last bits of a product, and the
    same call must give the same bits.
    """
    rows = max(SLICE_FLOPS / (2 * model.n_params + 1), 512)
    return -(-int(rows) // batch_size) * batch_size


def pieces(n: int, rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of `rows`, the last one short.

    >>> list(pieces(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    return ((start, min(start + rows, n)) for start in range(0, n, rows))


def slices(
    pace: Pace, start: int, n: int, batch_size: int, every_batch: bool
) -> Iterator[tuple[int, int]]:
    """(start, stop) of the slices of rows `start` to `n`, timed by what is done between them."""
    while start < n:
        if every_batch:
            stop = min(start + batch_size, n)
            yield start, stop
        else:
            stop = pace.stop(start, n, batch_size)
            begun = time.perf_counter()
            yield start, stop
            pace.measured(stop - start, time.perf_counter() - begun)
        start = stop


def keep(model: Model) -> int | None:
    """Set aside what a step changes; returns the iterations, or None if a weight is not finite."""
    assert model.optimizer is not None
    with model.lock:
        return model.optimizer.iterations if model.network.keep(model.n_threads) else None


def finite(model: Model) -> bool:
    """Whether all weights are."""
    with model.lock:
        return model.network.finite(model.n_threads)


def put_back(model: Model, iterations: int) -> None:
    """Weights, optimizer slots and iterations as they were when `keep` returned `iterations`."""
    assert model.optimizer is not None
    with model.lock:
        model.network.put_back()
        model.optimizer.iterations = iterations


def fit(
    model: Model,
    task: Task,
    data: Data,
    validation: Data | None,
    *,
    epochs: range,
    batch_size: int,
    together: int = 1,
    shuffle: bool | Callable[[], Array],
    validation_batch_size: int,
    validation_freq: int | Sequence[int],
    callbacks: CallbackList,
    progress: ProgressLine | None,
    resume: Position | None,
) -> None:
    """Train for `epochs`, telling the callbacks; from `resume` on, which stands in the first.

    So many rows stay `together` where they are shuffled.
    `shuffle` may be a function that gives an epoch's order of the rows, int64 (n,).

    Raises
    ------
    FloatingPointError
        When the loss, or a weight after an epoch, is not finite: weights, optimizer slots and
        iterations are put back to the end of the last finite epoch.
    """
    n = len(data.x)
    model.stop_training = False
    network, selected = model.network, model.selected_inputs_
    logs: dict[str, float] = {}
    kept = keep(model)
    if kept is None:
        raise FloatingPointError("a weight is not finite before the first step")
    position = resume or Position(epochs.start, n, batch_size)
    position.n_rows, position.batch_size = n, batch_size
    if resume is not None:
        position.freeze()
    callbacks.call("on_train_begin")
    callbacks.set_state(position.callbacks)
    model.position, position.running = position, callbacks
    for epoch in epochs:
        callbacks.call("on_epoch_begin", epoch)
        ledger, begun = position.ledger, position.ledger.copy()
        sums = position.sums = position.sums or task.start()
        begun_sums = [each.copy() for each in sums]
        index = None
        if callable(shuffle):
            index = shuffle()
        elif shuffle and position.order is not None:
            rng = np.random.default_rng(0)
            rng.bit_generator.state = position.order
            index = in_random_order(rng, n, together)
        elif shuffle:
            position.order = model.rng.bit_generator.state
            index = in_random_order(model.rng, n, together)
        every_batch = callbacks.for_batches
        first = start = stop = int(ledger[5])
        try:
            for start, stop in slices(model.pace, first, n, batch_size, every_batch):
                if every_batch:
                    callbacks.call("on_train_batch_begin", start // batch_size)
                train(model, task, data, index, start, stop, batch_size, ledger, sums)
                if every_batch:
                    callbacks.call(
                        "on_train_batch_end", start // batch_size, task.logs(ledger, sums)
                    )
                if progress is not None:
                    progress.advance(n_steps(stop - start, batch_size), task.logs(ledger, sums))
                if model.stop_training:
                    break
            # Nothing will come back to the end of the last epoch.
            is_last = epoch == epochs[-1]
            reached = (kept if finite(model) else None) if is_last else keep(model)
            if reached is None:  # the last update: no later step can tell
                steps = n_steps(stop - start, batch_size) - 1
                raise NonFiniteLoss("a weight became not finite", steps)
        except NonFiniteLoss as error:
            put_back(model, kept)
            position.ledger, position.sums = begun, begun_sums
            diverged = _diverged(epoch, n_steps(start, batch_size) + error.steps + 1, error)
            quiet = callbacks.find(TerminateOnNaN)
            if quiet is None:
                raise diverged from None
            quiet.on_divergence(diverged)
            break
        kept = reached
        logs = task.logs(ledger, sums)
        if validation is not None and validates(epoch, validation_freq):
            found = evaluate(model, task, validation, validation_batch_size, callbacks)
            logs |= {f"val_{name}": value for name, value in found.items()}
        if stop == n:
            position.finish_epoch()
        callbacks.call("on_epoch_end", epoch, logs)
        if model.stop_training:
            break
        if model.network is not network:  # a callback has made it smaller
            network, before, selected = model.network, selected, model.selected_inputs_
            data = data.narrowed(before, selected)
            validation = None if validation is None else validation.narrowed(before, selected)
            kept = keep(model)
            assert kept is not None  # its weights are some of those that were
    model.take_average()
    callbacks.call("on_train_end", logs)


def in_random_order(rng: np.random.Generator, n: int, together: int) -> Array:
    """The numbers of n rows in a random order that keeps so many neighbours `together`.

    >>> in_random_order(np.random.default_rng(0), 6, 2)
    array([4, 5, 0, 1, 2, 3])
    """
    order = rng.permutation(n // together)
    if together == 1:
        return order
    found: Array = (order[:, np.newaxis] * together + np.arange(together)).ravel()
    return found


def _diverged(epoch: int, step: int, what: object) -> FloatingPointError:
    when = f"as of the end of epoch {epoch}" if epoch else "as before the fit"
    return FloatingPointError(
        f"fit: epoch {epoch + 1}, step {step}: {what}; weights and optimizer state are {when}. "
        "A smaller learning rate may help."
    )


def validates(epoch: int, validation_freq: int | Sequence[int]) -> bool:
    """Whether epoch `epoch` (from 0) ends with a validation: every so many, or the listed (from 1).

    >>> [validates(epoch, 2) for epoch in range(4)], validates(2, [1, 3])
    ([False, True, False, True], True)
    """
    if isinstance(validation_freq, int):
        return (epoch + 1) % validation_freq == 0
    return epoch + 1 in validation_freq
