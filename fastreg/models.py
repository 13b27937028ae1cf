"""Sequential: a stack of layers with Keras' methods, run by the compiled engine or by NumPy."""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg import (
    _engine,
    config,
    full_batch,
    functional,
    inputs,
    interchange,
    losses,
    metrics,
    model_io,
    optimizers,
    reference,
    training,
)
from fastreg.callbacks import (
    LOSSES,
    Callback,
    CallbackList,
    History,
    ProgressLine,
    print_logs,
    progress_line,
    resolve_verbose,
)
from fastreg.errors import check_choice, check_int, check_real
from fastreg.inputs import Rows, SparseRows, is_sparse
from fastreg.layers import (
    Dense,
    Draw,
    Flatten,
    Input,
    Layer,
    Noise,
    auto_name,
    check_name,
    deserialize,
    serialize,
)
from fastreg.objective import Objective, Polished, polish
from fastreg.regularizers import Whole
from fastreg.schedules import LearningRateSchedule, in_steps
from fastreg.serialization import check_bool, own_by_object
from fastreg.training import Data, Extra, Measure, Network, Pace, Position, Scheduled, Task

Array = NDArray[Any]

# What `become` takes from the other model.
_OF_STATE = (
    *("name", "n_params", "_input", "_layers", "_outer", "_n_in", "_selected", "_n_out"),
    *(
        "_n_built",
        "_dtype",
        "_loss",
        "_metrics",
        "_n_plain",
        "_n_threads",
        "_compute_dtype",
        "_task",
    ),
)

ACTIVITY = {"activity_l1", "activity_l2"}  # sums over the rows of the network

BATCH_SIZE = 32  # of fit, Keras' default
INFERENCE_BATCH_SIZE = 256  # of evaluate and predict, whose results do not depend on it

_owners: weakref.WeakValueDictionary[int, Sequential] = weakref.WeakValueDictionary()


class Follows(NamedTuple):
    """A setting of a layer, by its number in the network, and the schedule that it follows."""

    name: str
    layer: int
    schedule: LearningRateSchedule
    check: Callable[[str, Any], Any]


class _Core:
    """The network of a model, shared with its layers. It holds neither, so nothing is cyclic."""

    def __init__(self, model: Sequential) -> None:
        self.model = weakref.ref(model)
        self.lock = threading.RLock()
        self.network: Network | None = None
        self.stale = False  # a layer's setting changed since the network was told
        self.follows: list[Follows] = []  # the settings of the network's layers with schedules
        self.whole: list[tuple[int, int, Whole]] = []  # of the network's layers; see `extra`
        self.excluded: tuple[str, ...] = ()  # from weight decay, as the network was told

    def read_weights(self, first: int, count: int) -> list[Array]:
        with self.lock:
            assert self.network is not None
            return self.network.get_weights()[first : first + count]

    def write_weights(self, first: int, values: Sequence[Array]) -> None:
        with self.lock:
            assert self.network is not None
            weights = self.network.get_weights()
            weights[first : first + len(values)] = values
            self.network.set_weights(weights)

    def settings_changed(self) -> None:
        self.stale = True

    def in_use(self) -> bool:
        return self.model() is not None


class Sequential:
    """A stack of layers, each fed by the one before.

    With an `Input` first, layers are built as they are added; else by `build` or by the first data.
    The methods may be called from several threads: the network serves one at a time.

    Parameters
    ----------
    layers : sequence of Layer, optional
        `Input`, `Dense` and others of `fastreg.layers`; `Rescaling`, `Normalization` at
        the entry. More with `add`.
    trainable : bool, default True
        False makes every layer untrainable.
    name : str, optional
        None counts on: sequential, sequential_1, ...
    backend : "compiled" or "reference", optional
        Who computes: the engine, or its twin in NumPy. None takes FASTREG_BACKEND, or "compiled".

    Attributes
    ----------
    optimizer : Optimizer or None
        That of `compile`; its settings may be changed between calls.
    history : History or None
        That of the last `fit`.
    stop_training : bool
        Set by a callback, it ends the fit.
    position : Position or None
        Where the last `fit` stands; what `fit(resume=True)` goes on from.

    Raises
    ------
    ValueError, TypeError
        For layers that do not fit together: two of one name, two dtypes, an Input not first.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((2,)), Dense(8, "tanh", kernel_regularizer="l2"), Dense(1)])
    >>> model.compile("adam", loss="mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 2))
    >>> history = model.fit(x, x[:, :1] * x[:, 1:], epochs=2, verbose=0)
    >>> sorted(history.history)
    ['activity_penalty', 'bias_penalty', 'data_loss', 'kernel_penalty', 'loss']
    >>> model.predict(x).shape
    (64, 1)
    """

    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        trainable: bool = True,
        name: str | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        self._start(name, backend)
        self._draw_seeds()
        trainable = check_bool("trainable", trainable)
        if layers is not None:
            if isinstance(layers, Layer) or not isinstance(layers, Sequence):
                raise TypeError(f"layers: got {layers!r}; a list of layers is needed")
            try:
                for layer in layers:
                    self._append(layer)
                shape = self._shape_of_row()
                if shape is not None and self._layers:
                    self._build(shape)
            except BaseException:
                for layer in self._layers:  # they can be given to another model
                    layer.release()
                raise
        if not trainable:
            self.trainable = False

    def _start(self, name: str | None, backend: str | None) -> None:
        self.name = auto_name("sequential") if name is None else check_name("name", name)
        self.backend = (
            config.default_backend()
            if backend is None
            else check_choice("backend", backend, config.BACKENDS)
        )
        self.optimizer: optimizers.Optimizer | None = None
        self.history: History | None = None
        self.stop_training = False
        self.position: Position | None = None
        self.pace = Pace()
        self.n_params = 0
        self._core = _Core(self)
        self._input: Input | None = None
        self._layers: list[Layer] = []
        self._outer: tuple[int, ...] = ()  # axes of a row before its last, on which layers act
        self._n_in: int | None = None
        self._selected: tuple[int, Array] | None = None  # width of a row, columns the network reads
        self._n_out = 0
        self._n_built = 0
        self._dtype = ""
        self._loss: losses.Loss | None = None
        self._metrics: tuple[metrics.Metric, ...] = ()
        self._n_plain = 0  # of the metrics, those that sample weights do not touch
        self._n_threads: int | None = None
        self._compute_dtype: str | None = None
        # What the last train_on_batch was of, where another may go the short way.
        self._repeats: tuple[Network, dict[str, Any], int] | None = None
        self._task: Task | None = None  # follows from the four above and _n_out
        self._rng: np.random.Generator
        self._dropout_seed: int
        self._seed_count = -1  # of which set_random_seed the two are; -1: of none

    # ------------------------------------------------------------------ layers

    @property
    def layers(self) -> list[Layer]:
        """The layers without the Input, in order; a new list."""
        return list(self._layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that index."""
        if (name is None) == (index is None):
            raise ValueError(f"get_layer: got name={name!r}, index={index!r}; one is needed")
        if index is not None:
            return self._layers[check_int("index", index, low=0, high=len(self._layers) - 1)]
        names = [layer.name for layer in self._layers]
        return self._layers[names.index(check_choice("name", name, names))]

    def add(self, layer: Layer) -> None:
        """Put `layer` on top of the stack.

        After training steps have been done the model must be compiled again: the optimizer's state
        belongs to the old weights.

        Raises
        ------
        ValueError, TypeError
            If it is no layer, belongs to a model, or does not fit.
        """
        with self._core.lock:
            self._append(layer)
            shape = self._shape_of_row()
            if shape is not None and self._layers:
                try:
                    self._build(shape)
                except BaseException:
                    self._layers.pop().release()
                    raise

    def pop(self) -> Layer:
        """Take the last layer off and return it, with its weights; see `add` about compiling."""
        with self._core.lock:
            if not self._layers:
                raise ValueError(f"pop: model {self.name!r} has no layers")
            self._take_apart()
            layer = self._layers.pop()
            layer.release()
            self._n_built = min(self._n_built, len(self._layers))
            self._n_out = self._layers[-1].output_shape[-1] if self._n_built else self._n_in or 0
            self.n_params -= layer.count_params() if layer.built else 0
            self._tell_rows()
            return layer

    def _append(self, layer: Layer) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"layers: got {layer!r}; an Input or another layer is needed")
        mine = [*([self._input] if self._input else []), *self._layers]
        if isinstance(layer, Input) and (mine or self._n_in is not None):
            raise ValueError(f"layers: got Input {layer.name!r} after others; it must stand first")
        if layer.name in [other.name for other in mine]:
            raise ValueError(f"layers: got two with the name {layer.name!r}; names must differ")
        if isinstance(layer, Flatten):
            layer.stand_inside(bool(self._layers))
        elif layer.at_entry and not all(other.at_entry for other in self._layers):
            raise ValueError(
                f"layers: got {layer.name!r} ({type(layer).__name__}) inside the model; it must "
                "stand at its entry"
            )
        _one_dtype([*mine, layer], self._dtype)
        if isinstance(layer, Input):
            self._input = layer
            return
        layer.adopt(self._core)
        self._take_apart()
        self._layers.append(layer)

    def _take_apart(self) -> None:
        """Give the layers their weights back; the network is made anew when it is needed."""
        if self._core.network is not None:
            for layer in self._layers:
                layer.move_out()
            self._core.network = None
        if self.optimizer is not None and self.optimizer.iterations > 0:
            self.optimizer = self._loss = None
        self._task = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Fix the input's width and make the weights.

        Parameters
        ----------
        input_shape : (None, n_in), or (None, ..., n_in)
            The first entry, the batch size, is not looked at. Layers act on the last axis.

        Raises
        ------
        ValueError, TypeError
            For another shape, or a width that is not the Input's.
        """
        if not isinstance(input_shape, list | tuple) or len(input_shape) < 2:
            raise ValueError(f"input_shape: got {input_shape!r}; (None, n_in) is needed")
        shape = tuple(check_int("input_shape", size, low=1) for size in input_shape[1:])
        if not self._layers:
            raise ValueError(f"build: model {self.name!r} has no layers")
        known = self._shape_of_row()
        if known is not None and shape != known:
            what = "width" if len(shape) == len(known) == 1 else "shape"
            got, has = (each[0] if what == "width" else each for each in (shape, known))
            raise ValueError(f"input_shape: got {what} {got}; the model has {has}")
        with self._core.lock:
            self._build(shape)

    def _shape_of_row(self) -> tuple[int, ...] | None:
        """Of what the first layer that is not Flatten reads, if it is known."""
        if self._input is None:
            return None if self._n_in is None else (*self._outer, self._n_in)
        begins_flat = bool(self._layers) and isinstance(self._layers[0], Flatten)
        return (self._input.width,) if begins_flat else self._input.shape

    @property
    def _together(self) -> int:
        """Rows of the network of a row of x: one for each vector along the output's last axis."""
        return math.prod(self._outer_after)

    def _vectors(self, rows: Array) -> Array:
        """Rows of the network as those of its first layer."""
        inner = math.prod(self._outer) // self._together
        return rows.reshape(len(rows) * inner, -1) if inner > 1 else rows

    def _tell_rows(self) -> None:
        for layer in self._layers:
            layer.together = self._together

    @property
    def _outer_after(self) -> tuple[int, ...]:
        """Axes of a row of the output before its last: none after a Flatten."""
        flat = any(isinstance(layer, Flatten) for layer in self._layers)
        return () if flat else self._outer

    def _build(self, shape: tuple[int, ...], values: Mapping[str, Array] | None = None) -> None:
        """Build the layers that are not: from `values` ("layer/kernel"), or fresh."""
        self._outer, n_in = shape[:-1], shape[-1]
        layers = [*([self._input] if self._input else []), *self._layers]
        self._dtype = self._dtype or _one_dtype(layers) or config.floatx()
        width = self._n_out if self._n_built else n_in
        outer = self._layers[self._n_built - 1].outer_after if self._n_built else self._outer
        for layer in self._layers[self._n_built :]:
            found = None
            if values is not None:
                found = [values[f"{layer.name}/{name}"] for name in layer.weight_names]
            layer.outer = outer
            layer.build(width, self._dtype, config.rng(), found)
            width, outer = layer.output_shape[-1], layer.outer_after
        self._tell_rows()
        self._n_in, self._n_out, self._n_built = n_in, width, len(self._layers)
        self.n_params = sum(layer.count_params() for layer in self._layers)

    @property
    def built(self) -> bool:
        """Whether the sizes are known and the weights exist."""
        return self._n_in is not None

    @property
    def dtype(self) -> str | None:
        """The dtype of the network, None before it is built."""
        return self._dtype or None

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """(None, ..., n_in), what `x` must be; AttributeError before the model is built."""
        if self._n_in is None:
            raise AttributeError(f"model {self.name!r} is not built: its input size is not known")
        return None, *self._outer, self._n_in if self._selected is None else self._selected[0]

    @property
    def selected_inputs_(self) -> Array | None:
        """The columns of `x` that a compact model reads, rising; None: all of them."""
        return None if self._selected is None else self._selected[1].copy()

    @property
    def output_shape(self) -> tuple[Any, ...]:
        """(None, ..., n_out); AttributeError before the model is built."""
        return None, *self._outer_after, self._n_out or self.input_shape[-1]

    @property
    def trainable(self) -> bool:
        """Whether any layer is trainable; setting it sets all layers."""
        return any(layer.trainable for layer in self._layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self._layers:
            layer.trainable = value

    # ------------------------------------------------------------------ the network

    @property
    def lock(self) -> threading.RLock:
        """Held during every call of the network."""
        return self._core.lock

    @property
    def network(self) -> Network:
        """The network, its settings up to date. Hold `lock` while using it."""
        core = self._core
        if core.network is None:
            core.network = self._make_network()
        elif core.stale or (
            self.optimizer is not None and self.optimizer.excluded != core.excluded
        ):
            core.stale = False
            core.network.update_layers(self._describe())
        return core.network

    def _describe(self) -> list[dict[str, Any]]:
        step = 0 if self.optimizer is None else self.optimizer.iterations
        described = [(layer, layer.describe(step)) for layer in self._layers]
        inside = [(layer, each) for layer, each in described if each is not None]
        names = [(layer, name) for layer in self._layers for name in layer.weight_names]
        self._core.whole = [
            (
                position,
                1 + ("kernel", "bias").index(layer.parts[name]),
                layer.whole_penalties()[name],
            )
            for position, (layer, name) in enumerate(names)
            if layer.trainable and name in layer.whole_penalties()
        ]
        self._core.excluded = () if self.optimizer is None else self.optimizer.excluded
        for layer, each in inside:
            for name, part in layer.parts.items() if self._core.excluded else ():
                assert self.optimizer is not None
                each[f"keeps_{part}"] = self.optimizer.excludes(layer.name, name)
        self._core.follows = [
            Follows(name, number, *found)
            for number, (layer, _) in enumerate(inside)
            for name, found in layer.schedules().items()
        ]
        return [each for _, each in inside]

    def extra(self, steps: int) -> Sequence[Extra]:
        """Penalties that are added in Python in so many training steps from the next on.

        Raises
        ------
        ValueError
            For one with a prox beside an optimizer that has no one step for it.
        """
        if not self._core.whole:
            return ()
        return [
            Extra(position, entry, whole, self._steps_of_prox(whole, steps))
            for position, entry, whole in self._core.whole
        ]

    def add_penalties(self, rows: int, ledger: Array) -> None:
        """Add the penalties that Python adds to a ledger, for so many rows."""
        if self._core.whole:
            weights = self.get_weights()
            for position, entry, whole in self._core.whole:
                ledger[entry] += rows * whole.value(weights[position])

    def _steps_of_prox(self, whole: Whole, steps: int) -> Array | None:
        optimizer = self.optimizer
        assert optimizer is not None
        if whole.prox is None or optimizer.l1_step == "sign":
            return None
        bounded = any(layer.constraints() for layer in self._layers)
        plain = isinstance(optimizer, optimizers.SGD) and optimizer.l1_step == "proximal"
        if not plain or bounded or optimizer.use_ema or optimizer.gradient_accumulation_steps:
            raise ValueError(
                f"l1_step: got {optimizer.l1_step!r} of {optimizer!r} with the prox of {whole!r}, "
                "which needs SGD's 'proximal' without mean, accumulation or constraints; or 'sign'"
            )
        assert isinstance(optimizer, optimizers.SGD)
        rates = optimizer.rates(steps)
        found = np.full(steps, optimizer.learning_rate) if rates is None else rates
        return np.asarray(found / (1 - optimizer.momentum))

    def scheduled(self, steps: int) -> Sequence[Scheduled]:
        """What follows a schedule, in so many training steps from the next on.

        Raises
        ------
        ValueError
            Where a schedule gives what the setting cannot be.
        """
        assert self.optimizer is not None
        rates = self.optimizer.rates(steps)
        found = [] if rates is None else [Scheduled("learning_rate", -1, rates)]
        if self._core.follows:
            self._core.stale = True  # the steps leave their own settings behind
            first = self.optimizer.iterations
            for name, layer, schedule, check in self._core.follows:
                values = in_steps(schedule, check, name, first, steps)
                if name in ACTIVITY:  # see `Layer._strengths`
                    values = values * self._together
                found.append(Scheduled(name, layer, values))
        return found

    def _make_network(self) -> Network:
        if not any(isinstance(layer, Dense) for layer in self._layers):
            raise ValueError(f"model {self.name!r} has no Dense layer; one is needed")
        if self._n_in is None:
            raise ValueError(
                f"model {self.name!r} is not built: begin with Input, call build, or give it data"
            )
        if self._compute_dtype is not None:
            self._check_compute_dtype()
        network = self._new_network(self._describe(), self._dtype)
        network.compute_in(self._compute_dtype)
        network.set_weights([array for layer in self._layers for array in layer.get_weights()])
        first = 0
        for layer in self._layers:
            layer.move_in(first)
            first += len(layer.weight_names)
        self._core.stale = False
        return network

    def _new_network(self, layers: list[dict[str, Any]], dtype: str) -> Network:
        make = _engine.Network if self.backend == "compiled" else reference.Network
        network: Network = make(layers, dtype)
        return network

    def _can_compute_in_bfloat16(self) -> bool:
        return self.backend != "compiled" or _engine.has_bfloat16()

    def _check_compute_dtype(self) -> None:
        if self._dtype == "float64":
            raise ValueError("compute_dtype: got 'bfloat16' for a float64 model; float32 is needed")
        if not self._can_compute_in_bfloat16():
            raise ValueError(
                "compute_dtype: got 'bfloat16', which needs native products on a CPU with "
                f"avx512_bf16; here are {_engine.gemm()} products on {_engine.isa()}"
            )

    def take_average(self) -> None:
        """Have the running mean of the weights instead of them, where the optimizer keeps it."""
        if self.optimizer is None or not self.optimizer.use_ema:
            return
        with self._core.lock:
            slots = self.network.get_slots()
            if not slots:  # no step was done
                return
            averaged = [
                layer.trainable and name in layer.parts
                for layer in self._layers
                for name in layer.weight_names
            ]
            pairs = zip(averaged, self.network.get_weights(), slots[-1], strict=True)
            self.network.set_weights([mean if moves else w for moves, w, mean in pairs])

    @property
    def n_threads(self) -> int:
        """Threads a call may use."""
        return self._n_threads or config.get_num_threads()

    def _draw_seeds(self) -> None:
        """Begin random numbers of the model's own, from the generator of `set_random_seed`."""
        self._seed_count = config.seed_count()
        self._rng = np.random.default_rng(config.rng().integers(2**63, size=4))
        self._dropout_seed = int(self._rng.integers(2**64, dtype=np.uint64))

    @property
    def rng(self) -> np.random.Generator:
        """The model's own generator, which shuffles; new after `set_random_seed`."""
        if self._seed_count != config.seed_count():
            self._draw_seeds()
        return self._rng

    @property
    def dropout_seed(self) -> int:
        """The seed of the dropout layers that have none."""
        if self._seed_count != config.seed_count():
            self._draw_seeds()
        return self._dropout_seed

    # ------------------------------------------------------------------ weights

    @property
    def weights(self) -> list[Array]:
        """Copies of the weights, as `get_weights`."""
        return self.get_weights()

    def get_weights(self) -> list[Array]:
        """Copies of all weights: [kernel (n_in, n_out), bias (n_out,), kernel, bias, ...]."""
        with self._core.lock:
            if self._core.network is not None:
                return self._core.network.get_weights()
            return [array for layer in self._layers for array in layer.get_weights()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Set all weights to copies of `weights`, a list like that of `get_weights`.

        Raises
        ------
        ValueError, TypeError
            For another number of arrays, other shapes, or values that are no real numbers.
        """
        with self._core.lock:
            network = self.network
            shapes = [array.shape for array in network.get_weights()]
            checked = inputs.check_weights("weights", weights, shapes)
            network.set_weights([np.ascontiguousarray(a, dtype=self._dtype) for a in checked])

    def count_params(self) -> int:
        """How many weights the model has; ValueError before it is built."""
        if not self.built:
            raise ValueError(f"count_params: model {self.name!r} is not built")
        return self.n_params

    # ------------------------------------------------------------------ training

    def compile(
        self,
        optimizer: object = "adam",
        loss: object = None,
        metrics: object = None,
        *,
        weighted_metrics: object = None,
        n_threads: int | None = None,
        compute_dtype: str | None = None,
    ) -> None:
        """Say how the model is trained.

        With another optimizer than before its state starts anew; the weights stay.

        Parameters
        ----------
        optimizer : str or Optimizer
            "sgd", "adam", "adamw", ..., "lbfgs", or an instance; an instance serves one model.
        loss : str or Loss
            "mean_squared_error" ("mse"), "binary_crossentropy", "categorical_crossentropy",
            "sparse_categorical_crossentropy", "huber", ... of `fastreg.losses`, an instance with
            settings of its own, or any object with `value(y_true, y_pred)` and
            `gradient(y_true, y_pred)` (`losses.Custom`), which is asked once a batch.
        metrics : list, optional
            "accuracy" and its kind, "auc", "mae", ... of `fastreg.metrics`, reported beside the
            loss: in `fit` of the outputs as the weights change. Sample and class weights
            do not count. One of several values, such as a precision at several thresholds, is
            reported as an array.
        weighted_metrics : list, optional
            The same, where they count.
        n_threads : int, optional
            Threads for this model; None takes that of `set_num_threads`.
        compute_dtype : "bfloat16", optional
            What the operands of the products of a training step are rounded to; weights, sums,
            penalties, the update and all inference stay float32. For CPUs with avx512_bf16, where
            wide layers train in little more than half the time. None is the model's own.

        Raises
        ------
        ValueError, TypeError
            For an unknown name, or an optimizer that another model uses.
        """
        found = optimizers.get(optimizer)
        found_loss = None if loss is None else losses.get(loss)
        found_metrics, n_plain = _get_metrics(metrics, weighted_metrics)
        if n_threads is not None:
            n_threads = check_int("n_threads", n_threads, low=1, high=2**31 - 1)
        if compute_dtype is not None:
            check_choice("compute_dtype", compute_dtype, ("bfloat16",))
        with self._core.lock:
            self._compute_in(compute_dtype)
            if found is not self.optimizer:
                owner = _owners.get(id(found))
                if found.iterations or (owner not in (None, self) and owner.optimizer is found):
                    raise ValueError(
                        "optimizer: got one that another model uses or used; make a new one, e.g. "
                        "type(optimizer).from_config(optimizer.get_config())"
                    )
                if self._core.network is not None:
                    self._core.network.set_slots([])
                self.optimizer = found
                _owners[id(found)] = self
            self._loss, self._metrics, self._n_threads = found_loss, found_metrics, n_threads
            self._n_plain = n_plain
            self._repeats = None
            self._task = None

    def _compute_in(self, compute_dtype: str | None) -> None:
        before, self._compute_dtype = self._compute_dtype, compute_dtype
        try:
            if compute_dtype is not None:
                self._check_compute_dtype()
        except ValueError:
            self._compute_dtype = before
            raise
        if self._core.network is not None:
            self._core.network.compute_in(compute_dtype)

    @property
    def loss(self) -> str | None:
        """The name of the loss, None before `compile`."""
        return None if self._loss is None else self._loss.name

    @property
    def metrics_names(self) -> list[str]:
        """What `evaluate` returns, in order: "loss" and the metrics."""
        return ["loss", *(metric.name for metric in self._metrics)]

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Sequence[ArrayLike] | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: ArrayLike | None = None,
        initial_epoch: int = 0,
        *,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        resume: bool = False,
    ) -> History:
        """Train for `epochs` passes over the data.

        Ctrl-C stops it between two steps: the model can predict and be fitted on.

        Parameters
        ----------
        x : (n, n_in) real numbers
            An array, or a matrix or array of scipy.sparse, which is never made dense. Where `Input`
            has more axes, (n, ..., n_in): layers act on the last, and y has the same axes before
            its own last; losses are means over all of them.
        y : (n, n_out), (n,) where n_out is 1, or class numbers (n,) for the sparse crossentropy
        batch_size : int, default 32
            Rows a step; the last step of an epoch takes what is left. `LBFGS` takes all rows.
        epochs, initial_epoch : int
            Epochs initial_epoch to epochs - 1 are done, counted from 0.
        verbose : 0, 1, 2 or "auto"
            Silent, a moving line, a line an epoch; "auto" is 1 on a terminal, else 2.
        callbacks : list of Callback, optional
        validation_split : float in [0, 1)
            The last share of the rows, before shuffling, is validated on instead of trained on.
        validation_data : (x, y) or (x, y, sample_weight), optional
            Goes before `validation_split`.
        shuffle : bool, default True
            A new order of the rows each epoch.
        class_weight : dict of int to float, optional
            Weight of the rows of a class in the loss; classes that are not named weigh 1.
        sample_weight : (n,), optional
            Weight of each row in the loss; not along with `class_weight`. Where y has more axes,
            those before its last do as well: (n, ...).
        validation_batch_size : int, optional
            None takes `batch_size`.
        validation_freq : int or list of int
            Validate every so many epochs, or at the end of the listed ones (counted from 1).
        resume : bool, default False
            Go on where the model's last fit stands, or stood when it was saved (`ModelCheckpoint`):
            with the other arguments as they were, the weights come out bit for bit as if it had
            never been interrupted. A model that was never fitted begins with epoch 0.

        Returns
        -------
        History
            Its `history` holds, an epoch, "loss" with all penalties as in Keras, the metrics,
            "data_loss", "kernel_penalty", "bias_penalty", "activity_penalty", and "val_" of each.

        Raises
        ------
        ValueError, TypeError
            Before `compile`, or for an argument that does not fit; nothing is changed.
        FloatingPointError
            If the loss is not finite any more; the model is as of the last finite epoch.
        """
        task, data = self._data("fit", x, y, sample_weight, class_weight)
        epochs = check_int("epochs", epochs, low=0)
        initial_epoch = check_int("initial_epoch", initial_epoch, low=0)
        split = check_real("validation_split", validation_split, low=0, high=1, high_open=True)
        size = _batch_size("batch_size", batch_size, BATCH_SIZE)
        validation_size = _batch_size("validation_batch_size", validation_batch_size, size)
        if isinstance(validation_freq, Sequence) and not isinstance(validation_freq, str):
            validation_freq = [check_int("validation_freq", e, low=1) for e in validation_freq]
        else:
            validation_freq = check_int("validation_freq", validation_freq, low=1)
        shuffle = check_bool("shuffle", shuffle)
        position = self.position if check_bool("resume", resume) else None
        if resume and initial_epoch:
            raise ValueError("initial_epoch: got both it and resume; one of them is needed")
        if position is not None:
            initial_epoch = position.epoch
        data, validation = self._validation(data, validation_data, split)
        size, validation_size = size * self._together, validation_size * self._together
        if isinstance(self.optimizer, optimizers.LBFGS):
            size = len(data.x) if batch_size is None else size
            full_batch.check(self._layers, size, len(data.x))
        size = min(size, len(data.x))
        if position is not None:
            position.check(len(data.x), size)
        verbose = resolve_verbose(verbose)
        keys = task.keys()
        run = CallbackList(
            callbacks,
            self,
            {
                "epochs": epochs,
                "initial_epoch": initial_epoch,
                "resumed": position is not None,
                "steps": training.n_steps(len(data.x), size),
                "verbose": verbose,
                "metrics": keys if validation is None else keys + [f"val_{key}" for key in keys],
            },
            [History(), *([ProgressLine(verbose)] if verbose else [])],
        )
        history = self.history = run.find(History)
        assert history is not None
        progress = run.find(ProgressLine)
        try:
            if isinstance(self.optimizer, optimizers.LBFGS):
                full_batch.fit(
                    self,
                    task,
                    data,
                    validation,
                    self._objective(task, data),
                    epochs=range(initial_epoch, epochs),
                    validation_batch_size=validation_size,
                    validation_freq=validation_freq,
                    callbacks=run,
                    progress=progress,
                    resume=position,
                )
                return history
            training.fit(
                self,
                task,
                data,
                validation,
                epochs=range(initial_epoch, epochs),
                batch_size=size,
                together=self._together,
                shuffle=shuffle,
                validation_batch_size=validation_size,
                validation_freq=validation_freq,
                callbacks=run,
                progress=progress,
                resume=position,
            )
        finally:
            if progress is not None:
                progress.close()
        return history

    def objective(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Objective:
        """What training on these rows minimizes, as a function of all trainable weights.

        The weights may change afterwards; it does not follow them.

        Raises
        ------
        ValueError, TypeError
            Before `compile`, or for an argument that does not fit.
        """
        task, data = self._data("objective", x, y, sample_weight)
        return self._objective(task, data)

    def _objective(self, task: Task, data: Data) -> Objective:
        with self._core.lock:
            layers = [
                layer
                for layer in self._layers
                if not layer.at_entry and not isinstance(layer, Noise)
            ]
            for layer in layers:
                if layer.trainable and layer.constraints():
                    raise ValueError(
                        f"objective: layer {layer.name!r} has a constraint, which is no part of it"
                    )
                if layer.uses_batch():
                    raise ValueError(
                        f"objective: layer {layer.name!r} normalizes by each batch, of which there "
                        "is none in it; trainable=False takes the moving moments"
                    )
            assert self.optimizer is not None
            step = self.optimizer.iterations  # where schedules stand
            return Objective(self._new_network, layers, data, task.loss, self.n_threads, step)

    def polish(
        self,
        x: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        verbose: int | str = "auto",
    ) -> Polished:
        """Go down to the next minimum of the loss with all penalties, without the noise of batches.

        For the end of a fit: weights that only noise kept from 0 become 0. Proximal gradient steps
        over all rows in float64, with L-BFGS among the weights that are not 0 (see
        `fastreg.objective`), without dropout. The loss never ends higher than it began; where that
        cannot be lowered, the weights stay. The optimizer and its state are not used.

        Ctrl-C leaves the best weights so far.

        Parameters
        ----------
        x, y, sample_weight : as for `fit`
        tol : float, default 1e-6
            Ends when the KKT residual, the largest element of the subgradient nearest to 0, is at
            most this. Under relu a minimum may lie in a kink of the loss, where it stays above.
        max_iter : int, default 1000
            Ends after so many gradients over all rows.
        verbose : 0, 1, 2 or "auto"
            1: a moving line.

        Raises
        ------
        ValueError, TypeError
            Before `compile`, or for an argument that does not fit.
        FloatingPointError
            If the loss is not finite to begin with.

        Examples
        --------
        >>> import numpy as np
        >>> from fastreg import L1, Dense, Input, Sequential
        >>> dense = Dense(1, kernel_regularizer=L1(0.2))
        >>> model = Sequential([Input((3,), dtype="float64"), dense])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> found = model.polish(x, x[:, 0], tol=1e-9)  # the Lasso with alpha = 0.1
        >>> found.converged, (model.get_weights()[0] == 0).tolist()
        (True, [[False], [True], [True]])
        """
        tol = check_real("tol", tol, low=0.0)
        max_iter = check_int("max_iter", max_iter, low=0)
        moving = resolve_verbose(verbose) == 1
        objective = self.objective(x, y, sample_weight)
        line = progress_line(max_iter) if moving else None
        try:
            with self._core.lock, config.one_blas_thread():
                return polish(objective, self.set_weights, self._dtype, tol, max_iter, line)
        finally:
            if line is not None:
                line.close()

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: ArrayLike | None = None,
        *,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """Loss and metrics on `x` (n, n_in), sparse ones too, and `y`, in inference.

        Returns
        -------
        float, list or dict
            The loss with all penalties; [loss, metrics...] if there are metrics; with `return_dict`
            all keys of `History.history`.

        Raises
        ------
        ValueError, TypeError
            Before `compile`, or for an argument that does not fit.
        """
        task, data = self._data("evaluate", x, y, sample_weight)
        return_dict = check_bool("return_dict", return_dict)
        size = _batch_size("batch_size", batch_size, INFERENCE_BATCH_SIZE) * self._together
        verbose = resolve_verbose(verbose)
        params = {"steps": training.n_steps(len(data.x), size), "verbose": verbose}
        run = CallbackList(callbacks, self, {**params, "epochs": 1, "metrics": task.keys()})
        begun = time.perf_counter()
        logs = training.evaluate(self, task, data, size, run)
        if verbose:
            print_logs("evaluate", time.perf_counter() - begun, logs)
        return self._result(logs, return_dict)

    def train_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """One step on all rows of `x`; returns as `evaluate`, from before the update.

        Raises
        ------
        ValueError, TypeError
            Before `compile`, or for an argument that does not fit.
        FloatingPointError
            If the loss is not finite; the model is as it was before.
        """
        if (
            self._repeats is not None
            and return_dict is False
            and sample_weight is None
            and class_weight is None
        ):
            loss = self._repeat(x, y)
            if loss is not None:
                return loss
        return_dict = check_bool("return_dict", return_dict)
        task, data = self._data("train_on_batch", x, y, sample_weight, class_weight)
        ledger, sums = np.zeros(6), task.start()
        n = len(data.x)
        training.train(self, task, data, None, 0, n, n, ledger, sums)
        logs = task.logs(ledger, sums)
        network, optimizer = self._core.network, self.optimizer
        if network is not None and optimizer is not None and self._reads_as_is():
            assert self._loss is not None
            plain = self._takes_any_targets() and not self._metrics
            self._repeats = (network, optimizer.describe(), self._seed_count) if plain else None
        return self._result(logs, return_dict)

    def _repeat(self, x: ArrayLike, y: ArrayLike | None) -> float | None:
        """The loss of a step like the last one, by the short way; None: go the long way."""
        assert self._repeats is not None and self.optimizer is not None
        network, described, seed_count = self._repeats
        optimizer, core = self.optimizer, self._core
        if (
            network is not core.network
            or core.stale
            or optimizer.describe() is not described
            or seed_count != config.seed_count()
        ):
            self._repeats = None
            return None
        try:
            return network.repeat(x, y, optimizer.iterations)
        finally:
            optimizer.count(network.repeated)

    def test_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """`evaluate` on one batch, silently."""
        return self.evaluate(x, y, verbose=0, sample_weight=sample_weight, return_dict=return_dict)

    def _result(
        self, logs: dict[str, float], return_dict: bool
    ) -> float | list[float] | dict[str, float]:
        """As Keras: everything by name, or the loss, or [loss, metrics...]."""
        if return_dict:
            return logs
        values = [logs[name] for name in self.metrics_names]
        return values if self._metrics else values[0]

    def _data(
        self,
        method: str,
        x: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | None = None,
        prefix: str = "",
    ) -> tuple[Task, Data]:
        """The task and the checked arrays."""
        if self.optimizer is None:
            raise ValueError(f"{method}: call compile() first (again after add() or pop())")
        if self._loss is None:
            raise ValueError(f"{method}: compile() was given no loss")
        if y is None:
            raise ValueError(f"{prefix}y: got None; the targets are needed")
        if sample_weight is not None and class_weight is not None:
            raise ValueError("class_weight: got both it and sample_weight; one of them is needed")
        rows = self._features(f"{prefix}x", x, allow_nonfinite=False)
        if self._task is None:
            self._task = self._make_task()
        loss, n = self._loss.name, len(rows)
        if self._outer_after:
            y = inputs.inner_rows(f"{prefix}y", y, (n // self._together, *self._outer_after))
        targets: Any
        if self._takes_any_targets() and _engine.is_ready(y, self._dtype, n, self._n_out, True):
            targets = y
        elif self._loss.settings is None:
            targets = inputs.check_own_targets(f"{prefix}y", y, n, self._dtype)
            if (self._metrics or class_weight is not None) and targets.shape != (n, self._n_out):
                raise ValueError(
                    f"{prefix}y: got shape {targets.shape}; metrics and class_weight need "
                    f"({n}, {self._n_out})"
                )
        else:
            targets = inputs.check_targets(f"{prefix}y", y, n, self._n_out, loss, self._dtype)
        weight = None
        if sample_weight is not None:
            name = f"{prefix}sample_weight"
            if self._outer_after:
                sample_weight = inputs.weight_of_vectors(
                    name, sample_weight, n // self._together, self._outer_after
                )
            weight = inputs.check_sample_weight(name, sample_weight, n, self._dtype)
        elif class_weight is not None and self._outer_after:
            raise ValueError("class_weight: rows of several axes have no class; use sample_weight")
        elif class_weight is not None:
            weight = inputs.check_class_weight(
                class_weight, targets, loss, self._n_out, self._dtype
            )
        return self._task, Data(rows, targets, weight)

    def _validation(
        self, data: Data, given: Sequence[ArrayLike] | None, split: float
    ) -> tuple[Data, Data | None]:
        """The rows to train on and those to validate on, of `fit`'s arguments."""
        if given is not None:
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                several = isinstance(given, tuple | list)
                got = f"{len(given)} things" if several else type(given).__name__
                raise ValueError(
                    f"validation_data: got {got}; (x, y) or (x, y, sample_weight) is needed"
                )
            x, y, *weight = given
            prefix = "validation_data: "
            return data, self._data("fit", x, y, weight[0] if weight else None, prefix=prefix)[1]
        if not split:
            return data, None
        n = len(data.x) // self._together
        at = int(n * (1.0 - split))
        if at == 0 or at == n:
            raise ValueError(
                f"validation_split: got {split:g} of {n} rows, which leaves one part empty"
            )
        at, n = at * self._together, n * self._together
        return data.rows(0, at), data.rows(at, n)

    def _takes_any_targets(self) -> bool:
        """Whether any finite numbers, one a column, are targets of the engine's loss."""
        loss = self._loss
        return (
            loss is not None and loss.settings is not None and inputs.takes_any_targets(loss.name)
        )

    def flat_rows(self, argument: str, x: ArrayLike) -> ArrayLike:
        """`x` as rows (n, n_in): flattened for `Flatten`; else its vectors along the last axis.

        A model that is not built takes the shape of an array of several axes.
        """
        if not self._layers or not isinstance(self._layers[0], Flatten):
            found = getattr(x, "shape", ())
            if not self.built and self._layers and len(found) > 2:
                self.build((None, *found[1:]))
            if not self._outer:
                return x
            n_in = self._n_in if self._selected is None else self._selected[0]
            return inputs.inner_rows(argument, x, (None, *self._outer), n_in)
        shape = None
        if self._input is not None and self._selected is None:
            shape = self._input.shape  # a compact model's tells what it reads, not what comes
        return inputs.flat_rows(argument, x, shape)

    def _features(self, argument: str, x: ArrayLike, *, allow_nonfinite: bool) -> Rows:
        """Checked rows; builds the model if it is not."""
        if is_sparse(x) and self._outer:
            raise TypeError(f"{argument}: got sparse rows; the model reads {self.input_shape}")
        x = x if is_sparse(x) else self.flat_rows(argument, x)
        n_in = self._n_in if self._selected is None else self._selected[0]
        array: Rows
        if n_in is not None and _engine.is_ready(x, self._dtype, -1, n_in, not allow_nonfinite):
            array = x
        else:
            dtype = self._dtype or _one_dtype(self._layers) or config.floatx()
            check = inputs.check_sparse_features if is_sparse(x) else inputs.check_features
            array = check(argument, x, n_in, dtype, allow_nonfinite=allow_nonfinite)
        if self._n_in is None:
            self.build((None, array.shape[1]))
        if isinstance(array, SparseRows):
            for layer in self._layers:
                if layer.at_entry and not isinstance(layer, Flatten):
                    raise TypeError(
                        f"{argument}: got sparse rows, which {layer.name!r} would make dense"
                    )
        else:
            array = self.enter(array)
            inner = math.prod(self._outer) // self._together
            array = array.reshape(len(array) // inner, -1) if inner > 1 else array
        return array if self._selected is None else array.take(self._selected[1], axis=1)

    def enter(self, x: Array) -> Array:
        """What the layers at the entry make of checked rows, all columns of them."""
        for layer in self._layers:
            if not layer.at_entry:
                break
            x = layer.enter(x)
        return x

    def _reads_as_is(self) -> bool:
        """Whether the network reads rows as they come."""
        return self._selected is None and not self._layers[0].at_entry and not self._outer

    def _make_task(self) -> Task:
        assert self._loss is not None
        name = self._loss.name
        shape = (1,) if name == inputs.SPARSE else (1, self._n_out)
        accuracy, measures = None, {}
        for i, given in enumerate(self._metrics):
            metric = metrics.meant(given, name, shape, self._n_out)
            weighted = i >= self._n_plain
            counted = metric.kind is not None and self._loss.settings is not None
            if not weighted and counted and accuracy in (None, metric.kind):
                accuracy = metric.kind  # the engine counts one kind in its own pass
            else:
                measures[given.name] = Measure(metric, weighted, self._n_out)
        return Task(self._loss, accuracy, tuple(m.name for m in self._metrics), measures)

    # ------------------------------------------------------------------ inference

    def predict(
        self,
        x: ArrayLike,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        *,
        out: Array | None = None,
    ) -> Array:
        """The network's output, (n, n_out), in inference.

        Parameters
        ----------
        x : (n, n_in) real numbers, sparse ones too; (n, ..., n_in) where `Input` has more axes
            NaN and infinity go through, but not along zero weights of a layer that runs sparse.
        batch_size : int, optional
            Rows at a time; bounds the memory needed.
        verbose : 0, 1, 2 or "auto"
            1: a moving line, if it takes long.
        out : (n, n_out) array of the model's dtype, C-contiguous, optional
            Written to and returned.

        Raises
        ------
        ValueError, TypeError
            For an argument that does not fit.
        """
        network = self._core.network
        plain = batch_size is None and type(verbose) in (str, int) and verbose in ("auto", 0)
        if plain and network is not None and self._reads_as_is():
            y = network.answer(x, out)
            if y is not None:
                return y
        array = self._features("x", x, allow_nonfinite=True)
        size = _batch_size("batch_size", batch_size, INFERENCE_BATCH_SIZE) * self._together
        resolve_verbose(verbose)
        shape = (len(array) // self._together, *self._outer_after, self._n_out)
        out = inputs.check_out(out, shape, self._dtype, {"x": x})
        training.forward(self, array, size, out.reshape(len(array), self._n_out), verbose)
        return out

    def predict_on_batch(self, x: ArrayLike) -> Array:
        """`predict`, silently."""
        return self.predict(x, verbose=0)

    def __call__(self, x: ArrayLike, training: bool = False) -> Array:
        """The network's output, (n, n_out); with `training` inputs are dropped at random.

        With `training` sparse rows are made dense.
        """
        network = self._core.network
        if training is False and network is not None and self._reads_as_is():
            y = network.answer(x, None)
            if y is not None:
                return y
        if not check_bool("training", training):
            return self.predict(x, verbose=0)
        rows = self._features("x", x, allow_nonfinite=True)
        y = rows.dense() if isinstance(rows, SparseRows) else self._vectors(rows)
        face = functional if self.backend == "compiled" else reference
        iteration = int(self.rng.integers(2**32))
        with self._core.lock:
            for position, layer in enumerate(self._layers):
                y = layer.apply(y, face, Draw(self.dropout_seed, iteration, position))
        return y.reshape(-1, *self._outer_after, self._n_out)

    # ------------------------------------------------------------------ configuration and copies

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Print the layers, their sizes and their regularizers, a line at a time.

        A layer with few weights that are not zero runs on those alone at inference, where that is
        faster: it is noted with its density, the share of those weights. So is a layer whose active
        units were few in the last step of training, which then took these alone, with their share.
        """
        rows = [("layer (type)", "output", "params", "regularizers")]
        for layer, density, active in zip(self._layers, *self._shares(), strict=True):
            shape = str(layer.output_shape) if layer.built else "?"
            params = f"{layer.count_params():,}" if layer.built else "?"
            notes = [
                f"{what} {regularizer}"
                for what in ("kernel", "bias", "gamma", "beta", "activity")
                if (regularizer := getattr(layer, f"{what}_regularizer", None)) is not None
            ]
            if not layer.trainable:
                notes.append("not trainable")
            if density < 1:
                notes.append(f"runs sparse, density {density:.2%}")
            if active < 1:
                notes.append(f"trains sparse, {active:.2%} active")
            rows.append((f"{layer.name} ({type(layer).__name__})", shape, params, ", ".join(notes)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        what = f"{self._dtype or 'not built'}, {self.backend}"
        if self.backend == "compiled":
            what += f", {_engine.gemm()} products on {_engine.isa()}"
        if self._compute_dtype is not None:
            what += f", trained in {self._compute_dtype}"
        lines = [f'Model "{self.name}" ({what})', rule, lines[0], rule, *lines[1:], rule]
        if self.built:
            trained = sum(layer.count_trainable() for layer in self._layers)
            lines.append(f"params: {self.n_params:,}, of which {trained:,} are trainable")
        added = [
            f"{layer.name}/{name}" for layer in self._layers for name in layer.whole_penalties()
        ]
        if added:
            lines.append(f"slower steps: the penalty of {', '.join(added)} is added in Python")
        if self._selected is not None:
            lines.append(f"inputs: {self._n_in:,} of {self._selected[0]:,} are read")
        for line in lines:
            (print_fn or print)(line)

    def _shares(self) -> tuple[list[float], list[float]]:
        """Of each layer: the share of weights that inference on many rows works with, and that of
        the units which the last step of training did."""
        if not self.built or not any(isinstance(layer, Dense) for layer in self._layers):
            return [1.0] * len(self._layers), [1.0] * len(self._layers)
        with self._core.lock:
            densities = iter(self.network.densities(INFERENCE_BATCH_SIZE))
            shares = iter(self.network.active_shares())
        entry = [layer.at_entry for layer in self._layers]
        return (
            [1.0 if outside else next(densities) for outside in entry],
            [1.0 if outside else next(shares) for outside in entry],
        )

    def __repr__(self) -> str:
        return f"<Sequential name={self.name}, built={self.built}>"

    def get_config(self) -> dict[str, Any]:
        """What makes an equal model, without weights and `compile`: plain values for JSON."""
        layers = [*([self._input] if self._input else []), *self._layers]
        found: dict[str, Any] = {"name": self.name, "layers": [serialize(each) for each in layers]}
        if self._n_in is not None:
            found["build_input_shape"] = [None, *self._outer, self._n_in]
        if self._selected is not None:
            width, index = self._selected
            found["selected_inputs"] = {"width": width, "index": index.tolist()}
        return found

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A new model with the layers that `get_config` described and fresh weights.

        Raises
        ------
        ValueError, TypeError
            For a configuration that is none.
        """
        model = cls(name=_item(config, "name"))
        model._configure(config)
        return model

    def _configure(
        self, found: Mapping[str, Any], values: Mapping[str, Array] | None = None
    ) -> None:
        for layer in _item(found, "layers"):
            self._append(deserialize(layer))
        shape = found.get("build_input_shape")
        if shape is not None:
            sizes = (check_int("build_input_shape", size, low=1) for size in shape[1:])
            self._build(tuple(sizes), values)
        elif self._input is not None:
            known = self._shape_of_row()
            assert known is not None
            self._build(known, values)
        selected = found.get("selected_inputs")
        if selected is not None:
            self._selected = _selection(selected, self._n_in)

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write weights, optimizer state and configuration to one .safetensors file.

        `fastreg.load_model` reads it; training goes on as if there had been no pause. What stood at
        `path` is replaced at the end in one move, or stays if anything fails.

        Raises
        ------
        ValueError, TypeError
            If `path` does not end in .safetensors.
        OSError
            If it cannot be written; FileExistsError if it exists and `overwrite` is False.
        """
        model_io.write(path, *self.state(), overwrite=check_bool("overwrite", overwrite))

    def save_weights(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights alone to a .safetensors file, which `load_weights` reads.

        Raises
        ------
        ValueError, TypeError
            If the model is not built, or `path` does not end in .safetensors.
        OSError
            If it cannot be written; FileExistsError if it exists and `overwrite` is False.
        """
        if not self.built:
            raise ValueError(f"save_weights: model {self.name!r} is not built")
        names = self._weight_names()
        arrays = dict(zip([f"weights/{n}" for n in names], self.get_weights(), strict=True))
        found = {"weights": names}
        model_io.write(path, found, arrays, overwrite=check_bool("overwrite", overwrite))

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Set the weights to those of a file of `save_weights`, in their order.

        The names of the layers may differ; the optimizer's state stays as it is.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, was not written by `save_weights`, or the shapes are others.
        """
        found, arrays = model_io.read(path)
        try:
            weights = [arrays[f"weights/{name}"] for name in found["weights"]]
        except (KeyError, TypeError):
            raise ValueError(
                f"path: {os.fspath(path)!r} was not written by Sequential.save_weights"
            ) from None
        self.set_weights(weights)

    def to_keras(self, compile: bool = True) -> Any:
        """A `keras.Sequential` with the same weights and regularizers, which predicts the same.

        The inputs that a compact model does not read get rows of zeros in the first kernel.

        Parameters
        ----------
        compile : bool, default True
            With optimizer (its settings, not its state), loss and metrics, if the model has them.

        Raises
        ------
        ImportError
            Without Keras.
        ValueError
            For anything that Keras does not have, which the message names.
        """
        return interchange.to_keras(self._move(check_bool("compile", compile)))

    def to_torch(self) -> Any:
        """A `torch.nn.Sequential` with the same weights, which predicts the same.

        PyTorch's layers hold no regularizers: training there needs them in the loss.

        Raises
        ------
        ImportError
            Without PyTorch.
        ValueError
            If the model is not built, or for what PyTorch does not have, which the message names.
        """
        return interchange.to_torch(self._move(False))

    def _move(self, compile: bool) -> interchange.Moved:
        found, _ = self.state()
        layers = found["model"]["layers"]
        weights: list[list[Array]] | None = None
        if self.built:
            weights = [layer.get_weights() for layer in self._layers]
            if self._input is None:
                layers = [serialize(Input(self.input_shape[1:], name="input")), *layers]
            layers = [dict(layer, config=dict(layer["config"])) for layer in layers]
            for layer in layers:
                layer["config"]["dtype"] = layer["config"]["dtype"] or self._dtype
            if self._selected is not None:
                self._widen(layers, weights)
            weights = [[], *weights]
        return interchange.Moved(
            self.name, layers, weights, found.get("compile") if compile else None
        )

    def _widen(self, layers: list[dict[str, Any]], weights: list[list[Array]]) -> None:
        """Read all inputs: the ones that a compact model does not read, with weights of zero."""
        assert self._selected is not None
        width, index = self._selected
        first = next(i for i, layer in enumerate(self._layers) if isinstance(layer, Dense))
        kernel = np.zeros((width, weights[first][0].shape[1]), self._dtype)
        kernel[index] = weights[first][0]
        weights[first][0] = kernel
        layers[0]["config"]["shape"] = [width]

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """All that makes an equal model: a configuration for JSON, and arrays by name."""
        with self._core.lock:
            found: dict[str, Any] = {"model": self.get_config(), "dtype": self._dtype}
            names = self._weight_names()
            arrays = dict(zip([f"weights/{n}" for n in names], self.get_weights(), strict=True))
            if self.optimizer is not None:
                found["compile"] = {
                    "optimizer": optimizers.serialize(self.optimizer),
                    "loss": None if self._loss is None else losses.serialize(self._loss),
                    **self._told_metrics(),
                    "n_threads": self._n_threads,
                    "compute_dtype": self._compute_dtype,
                }
                found["iterations"] = self.optimizer.iterations
            if self._core.network is not None:
                for number, slot in enumerate(self._core.network.get_slots()):
                    keys = [f"slots/{number}/{name}" for name in names]
                    arrays.update(zip(keys, slot, strict=True))
            if self._seed_count == config.seed_count():
                state = self._rng.bit_generator.state
                found["random"] = {"rng": state, "dropout_seed": self._dropout_seed}
            if self.position is not None:
                found["position"], more = self.position.state()
                arrays.update(more)
            return found, arrays

    def _told_metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The metrics as `compile` and Keras call them."""
        told = [metrics.serialize(metric) for metric in self._metrics]
        return {"metrics": told[: self._n_plain], "weighted_metrics": told[self._n_plain :]}

    def _weight_names(self) -> list[str]:
        """Names like "dense/kernel", in the order of `get_weights`."""
        built = [layer for layer in self._layers if layer.built]
        return [f"{layer.name}/{name}" for layer in built for name in layer.weight_names]

    def _import(self, found: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Become what `state` described; `self` has no layers yet."""
        position = found.get("position")
        if position is not None:
            self.position = Position.from_state(position, arrays)
            own = ("callbacks/", "sums/")
            arrays = {k: array for k, array in arrays.items() if not k.startswith(own)}
        model = found["model"]
        self.name = check_name("name", _item(model, "name"))
        if found["dtype"]:
            self._dtype = check_choice("dtype", found["dtype"], config.DTYPES)
        weights = {
            name.removeprefix("weights/"): array
            for name, array in arrays.items()
            if name.startswith("weights/")
        }
        self._configure(model, weights)
        names = self._weight_names()
        n_slots = len(arrays) // max(len(names), 1) - 1
        folders = ["weights", *(f"slots/{number}" for number in range(n_slots))]
        if {f"{f}/{name}" for f in folders for name in names} != set(arrays):
            raise ValueError(f"arrays: got {sorted(arrays)}; {names} of {folders} are needed")
        compiled = found.get("compile")
        if compiled is not None:
            optimizer = optimizers.deserialize(compiled["optimizer"])
            if compiled.get("compute_dtype") and not self._can_compute_in_bfloat16():
                warnings.warn(
                    f"model {self.name!r} was compiled with compute_dtype='bfloat16', which is not "
                    "to be had here: it computes in float32",
                    stacklevel=2,
                )
                compiled = {**compiled, "compute_dtype": None}
            self.compile(**{**compiled, "optimizer": optimizer})
            assert self.optimizer is not None
            self.optimizer.iterations = found["iterations"]
        if n_slots > 0:
            shapes = [weights[name].shape for name in names]
            slots = [[arrays[f"slots/{n}/{name}"] for name in names] for n in range(n_slots)]
            checked = [inputs.check_weights("slots", slot, shapes) for slot in slots]
            self.network.set_slots([[a.astype(self._dtype) for a in slot] for slot in checked])
        random = found.get("random")
        if random is not None:
            self._rng = np.random.default_rng(0)
            self._rng.bit_generator.state = random["rng"]
            self._dropout_seed = check_int("dropout_seed", random["dropout_seed"], low=0)
            self._seed_count = config.seed_count()

    def become(self, state: tuple[dict[str, Any], dict[str, Array]]) -> None:
        """Be from now on the model of that `state`, with layers and weights of its own.

        The optimizer stays the same object. The layers so far belong to no model any more.

        Raises
        ------
        ValueError, TypeError
            For a state that is none.
        """
        new = type(self).__new__(type(self))
        new._start("becoming", self.backend)
        new._import(*state)
        with self._core.lock:
            for layer in self._layers:
                layer.release()
            optimizer, core = self.optimizer, self._core
            if optimizer is not None and new.optimizer is not None:
                optimizer.iterations = new.optimizer.iterations
                new.optimizer = optimizer
            network = new.network if new.built else None
            for layer in new._layers:
                layer.rehome(core)
            core.network, core.stale = network, False
            for name in _OF_STATE:
                setattr(self, name, getattr(new, name))
            if "random" in state[0]:
                self._rng, self._dropout_seed = new._rng, new._dropout_seed
                self._seed_count = new._seed_count
            self.optimizer = new.optimizer
            if self.optimizer is not None:
                _owners[id(self.optimizer)] = self

    def go_back(self, config: Mapping[str, Any], weights: Sequence[Array]) -> None:
        """Have the layers of an earlier `get_config` again, and these weights of theirs."""
        with self._core.lock:
            if self.get_config() == config:
                self.set_weights(weights)
                return
            found, _ = self.state()
            layers = [deserialize(layer) for layer in config["layers"]]
            names = [
                f"weights/{layer.name}/{part}" for layer in layers for part in layer.weight_names
            ]
            found = {**found, "model": dict(config), "position": None}
            self.become((found, dict(zip(names, weights, strict=True))))

    def __getstate__(self) -> dict[str, Any]:
        found, arrays = self.state()  # no history: it holds the callbacks' and this model
        return {"found": found, "arrays": arrays, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._start("unpickled", state["backend"])
        self._import(state["found"], state["arrays"])


_OF_COMPILE = ("compile", "iterations", "position")  # in a model's state


def load_model(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    *,
    backend: str | None = None,
) -> Sequential:
    """The model that `Sequential.save` wrote, compiled if it was, ready to be fitted on.

    No code that stands in the file is run.

    Parameters
    ----------
    path : a file that ends in .safetensors
    custom_objects : mapping of str, optional
        The classes of the objects of one's own in the model (losses, regularizers, metrics, ...) by
        name. An object is made with `from_config`, or else with the arguments that its `get_config`
        gave; an object in place of a class is taken as it is. See also `custom_object_scope`.
    compile : bool, default True
        With optimizer and its state, loss and metrics, if the model has them.
    backend : as for `Sequential`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, of another version, or not written by `save`; or for an object of one's
        own whose name is not in `custom_objects`.
    TypeError
        For `custom_objects` that are no dictionary with string keys.

    Examples
    --------
    >>> import tempfile
    >>> from fastreg import Dense, Input, Sequential
    >>> model = Sequential([Input((2,)), Dense(1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model.safetensors")
    ...     same = load_model(f"{folder}/model.safetensors")
    >>> bool((same.get_weights()[0] == model.get_weights()[0]).all())
    True
    """
    found, arrays = model_io.read(path)
    if not check_bool("compile", compile):
        found = {key: each for key, each in found.items() if key not in _OF_COMPILE}
        arrays = {key: each for key, each in arrays.items() if key.startswith("weights/")}
    found = own_by_object(found, custom_objects)
    model = Sequential.__new__(Sequential)  # not __init__: it would draw random numbers
    model._start("loading", backend)
    try:
        model._import(found, arrays)
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"path: {os.fspath(path)!r} holds no valid model: {error}") from error
    return model


def from_keras(model: Any, *, compile: bool = True, backend: str | None = None) -> Sequential:
    """The `Sequential` with the layers, weights and regularizers of a `keras.Sequential`.

    Parameters
    ----------
    model : keras.Sequential
    compile : bool, default True
        With its optimizer (settings, not state), loss and metrics, if it is compiled.
    backend : as for `Sequential`

    Raises
    ------
    TypeError
        If it is no keras.Sequential.
    ValueError, TypeError
        For a layer, setting, ... that fastreg does not have, which the message names.

    Examples
    --------
    >>> from_keras("model.keras")
    Traceback (most recent call last):
    TypeError: model: got 'model.keras'; a keras.Sequential is needed
    """
    return _settle(interchange.of_keras(model, check_bool("compile", compile)), backend)


def from_torch(model: Any, *, backend: str | None = None) -> Sequential:
    """The `Sequential` with the layers and weights of a `torch.nn.Sequential`.

    Parameters
    ----------
    model : torch.nn.Sequential
        Of Linear, activations, Dropout, AlphaDropout, LayerNorm, BatchNorm1d, Flatten, Identity,
        and Sequentials of them.
    backend : as for `Sequential`

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError
        If it is no torch.nn.Sequential.
    ValueError
        For a module that fastreg does not have, which the message names.
    """
    return _settle(interchange.of_torch(model), backend)


def to_onnx(model: Sequential, path: str | os.PathLike[str] | None = None) -> Any:
    """The model's inference as an `onnx.ModelProto`, input "x" (n, n_in), output "y" (n, n_out).

    Needs `onnx`. Noise leaves nothing; a compact model picks its inputs out of a whole row.

    Parameters
    ----------
    model : Sequential, built
    path : where to write it as well, optional

    Raises
    ------
    TypeError, ValueError
        For anything else, a model that is not built, or a layer at the entry.
    ImportError
        Without onnx.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: got {model!r}; a Sequential is needed")
    if not model.built:
        raise ValueError(f"to_onnx: model {model.name!r} is not built; it has no weights yet")
    for layer in model.layers:
        if layer.at_entry and not isinstance(layer, Flatten):
            raise ValueError(
                f"to_onnx: got {layer.name!r} ({type(layer).__name__}) at the entry; hand the rows "
                "that it makes to a model without it"
            )
    layers = [
        {**serialize(layer), "weights": layer.get_weights()}
        for layer in model.layers
        if not layer.at_entry
    ]
    made = interchange.to_onnx(
        model.name, layers, model.dtype, model.selected_inputs_, model.input_shape[1:]
    )
    if path is not None:
        with open(path, "wb") as file:
            file.write(made.SerializeToString())
    return made


def _settle(moved: interchange.Moved, backend: str | None) -> Sequential:
    """The model that another package had."""
    layers = [deserialize(layer) for layer in moved.layers]
    model = Sequential(layers, name=moved.name, backend=backend)
    if moved.weights is not None:
        model.set_weights([array for arrays in moved.weights for array in arrays])
    if moved.compiled is not None:
        told = moved.compiled
        model.compile(
            optimizers.get(told["optimizer"]),
            told["loss"],
            told["metrics"],
            weighted_metrics=told.get("weighted_metrics"),
        )
    return model


def _selection(found: Any, n_in: int | None) -> tuple[int, Array]:
    """The width of a row and the columns that are read, from a configuration."""
    width = check_int("selected_inputs", _item(found, "width"), low=1)
    index = np.array(_item(found, "index"), dtype=np.intp)
    if index.shape != (n_in,) or (np.diff(index) <= 0).any() or index[0] < 0 or index[-1] >= width:
        raise ValueError(f"selected_inputs: got {found!r}; {n_in} rising columns are needed")
    return width, index


def _item(mapping: Any, key: str) -> Any:
    """mapping[key], or an error that says what a configuration is."""
    if not isinstance(mapping, Mapping) or key not in mapping:
        raise ValueError(f"config: got {mapping!r}; a dictionary with {key!r} is needed")
    return mapping[key]


def _one_dtype(layers: Sequence[Layer], built: str = "") -> str:
    """The dtype that the layers name, "" if none does; `built` is that of the network so far."""
    named = {layer.dtype: layer.name for layer in layers if layer.dtype is not None}
    if len(named) > 1:
        words = ", ".join(f"{dtype} ({name!r})" for dtype, name in named.items())
        raise ValueError(f"dtype: got {words}; one dtype a network is needed")
    dtype = next(iter(named), None) or ""
    if built and dtype and dtype != built:
        raise ValueError(
            f"dtype: got {dtype} ({named[dtype]!r}) in a network of {built}; say it in Input"
        )
    return dtype


def _batch_size(argument: str, value: int | None, default: int) -> int:
    """The engine's sizes are 64-bit."""
    return default if value is None else check_int(argument, value, low=1, high=2**63 - 1)


def _get_metrics(given: object, weighted: object) -> tuple[tuple[metrics.Metric, ...], int]:
    """The metrics `compile` was given: lists, one, or None; and how many are not weighted."""
    plain, counted = (
        tuple(map(metrics.get, those if isinstance(those, list | tuple) else [those]))
        if those is not None
        else ()
        for those in (given, weighted)
    )
    found = plain + counted
    names = [metric.name for metric in found]
    for name in names:
        if names.count(name) > 1 or name in LOSSES:
            raise ValueError(f"metrics: got the name {name!r} twice; names must differ")
    return found, len(plain)
