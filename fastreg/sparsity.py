"""What zeros are worth: a report of them, and the smaller network with the same outputs.

>>> import numpy as np, fastreg as fr
>>> model = fr.Sequential([fr.Input((3,)), fr.Dense(2, "relu"), fr.Dense(1)])
>>> kernel = np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])  # input 1 and unit 1 do nothing
>>> model.set_weights([kernel, [0.0, 0.5], [[1.0], [4.0]], [0.0]])
>>> small = fr.compact(model)
>>> small.selected_inputs_, [w.shape for w in small.get_weights()]
(array([0, 2]), [(2, 1), (1,), (1, 1), (1,)])
>>> x = np.ones((1, 3), "float32")
>>> model(x), small(x)
(array([[5.]], dtype=float32), array([[5.]], dtype=float32))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg import activations, functional, inputs, regularizers
from fastreg.callbacks import Callback, Logs
from fastreg.errors import check_choice, check_int, check_real
from fastreg.layers import Activation as ActivationLayer
from fastreg.layers import Dense, Layer, Noise
from fastreg.models import Sequential
from fastreg.objective import ROWS_AT_ONCE, Objective
from fastreg.regularizers import GroupL1

Array = NDArray[Any]
State = tuple[dict[str, Any], dict[str, Array]]  # of a model: configuration, arrays by name


# ------------------------------------------------ compact


def compact(model: Sequential) -> Sequential:
    """A smaller model with the same outputs; `model` stays as it is.

    What goes: inputs that no unit reads, hidden units that no unit reads, and hidden units whose
    kernel column is zero. Those are constants, which go into the next layer's bias; where it has
    none, only constants of 0 can go. At least one input and one unit a layer stay.

    The small model takes rows of the same width as before and reads the columns
    `selected_inputs_` of them. Optimizer, its state and iterations come along: training goes on.
    A removed constant no longer adds to penalties on its bias and its activity.

    Parameters
    ----------
    model : Sequential, built

    Raises
    ------
    TypeError, ValueError
        For anything else.

    Examples
    --------
    See `fastreg.sparsity`.
    """
    check_built("compact", model)
    small = Sequential(name=model.name, backend=model.backend)
    small.become(compacted(*model.state()))
    return small


class Compact(Callback):
    """Make the model compact during `fit`: each epoch is as fast as what is left of the network.

    The model's layers are replaced by smaller ones. What has gone does not come back: where strong
    L1 empties a network in its first epochs, units go that would have been needed, and a larger
    `every` leaves them time. Early stopping can still bring an earlier, larger network back.

    Parameters
    ----------
    every : int, default 1
        Epochs from one to the next.

    Examples
    --------
    >>> Compact(every=5).every
    5
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = check_int("every", every, low=1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        state = self.model.state()
        small = compacted(*state)
        if sizes(small) != sizes(state):
            self.model.become(small)


LANDING = ("l1", "group_l1")  # the coefficients of what makes zeros


def _landing(layer: Layer) -> dict[str, float]:
    """Those of the kernel that are not 0; none where it is not trained."""
    regularizer = getattr(layer, "kernel_regularizer", None)
    if regularizer is None or not layer.trainable:
        return {}
    found = {name: getattr(regularizer, name, 0.0) for name in LANDING}
    scheduled = sorted(regularizer.schedules().keys() & found.keys())
    if scheduled:
        raise ValueError(
            f"layer {layer.name!r}: got {regularizer!r}, whose {scheduled[0]} follows a schedule; "
            "a number is needed where it is tuned"
        )
    return {name: value for name, value in found.items() if value > 0}


class TargetSparsity(Callback):
    """Ask for a share of zeros: the strength of L1 or GroupL1 is tuned during `fit` to get there.

    After an epoch the strength goes up or down, by 2 at most, with the odds of a weight not being
    0 over those wanted; by less each time the direction turns. Within the tolerance it is held.
    Weights follow slowly and noisily: give it some tens of epochs. A fit that ends off the target
    goes back to the weights of the last epoch that was on it, if there is one, unless `Compact`
    has changed their shapes since.

    The strength is the largest l1 or group_l1 of the kernel regularizers, which keep their ratios
    to each other; at the end of `fit` they hold what it came to. Units that have died do not come
    back, so begin with one that is rather too small. Zeros that `Compact` has taken away count as
    zeros.

    When it weakens a "cumulative" L1, that forgets what it has not yet taken from the weights, as
    that would hold them at 0 for as long again.

    Parameters
    ----------
    target : float in [0, 1)
        Share of exact zeros among the penalized weights of kernels, all counted together.
    tolerance : float, default 0.01
    every : int, default 1
        Epochs from one change to the next.
    layers : list of str, optional
        Names of the layers to count and to tune. None: all with L1 or GroupL1 on their kernel.

    Attributes
    ----------
    strength : float
        The largest l1 or group_l1 as it is now.
    sparsity : float
        The share of zeros after the last epoch.

    Raises
    ------
    ValueError, TypeError
        For an argument that does not fit; in `fit`, for a model without L1 on a kernel, or whose
        optimizer has l1_step="sign", under which no weight becomes 0.

    Examples
    --------
    >>> import numpy as np, fastreg as fr
    >>> dense = fr.Dense(1, kernel_regularizer=fr.L1(1e-3))
    >>> model = fr.Sequential([fr.Input((20,)), dense])
    >>> model.compile(fr.SGD(0.05, l1_step="proximal"), "mse")
    >>> x = np.random.default_rng(0).normal(size=(200, 20))
    >>> y = x @ np.linspace(0, 1, 20)
    >>> history = model.fit(x, y, epochs=100, verbose=0, callbacks=[fr.TargetSparsity(0.75)])
    >>> int((model.get_weights()[0] == 0).sum())
    15
    """

    remembers = ("strength", "sparsity", "_size", "_odds", "_pull", "_gain")

    def __init__(
        self,
        target: float,
        tolerance: float = 0.01,
        every: int = 1,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.target = check_real("target", target, low=0.0, high=1.0, high_open=True)
        self.tolerance = check_real("tolerance", tolerance, low=0.0)
        self.every = check_int("every", every, low=1)
        if isinstance(layers, str):
            raise TypeError(f"layers: got {layers!r}; a list of names is needed")
        self.layers = None if layers is None else list(layers)
        self.strength = self.sparsity = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.model.optimizer.l1_step == "sign":
            raise ValueError(
                "l1_step: got 'sign', under which no weight becomes 0; TargetSparsity needs "
                "'proximal' or 'cumulative'"
            )
        self._l1 = Strength("TargetSparsity", self.model, self.layers)
        self._size = self._l1.size(self.model)
        self.strength = self._l1.largest
        self._odds, self._pull, self._gain = 0.0, 0.0, 1.5
        self._near: tuple[list[Array], float] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        n, size = self._l1.nonzeros(self.model), self._size
        self.sparsity = 1 - n / size
        near = abs(self.sparsity - self.target) <= self.tolerance
        if near:
            self._near = self.model.get_weights(), self.strength
        if (epoch + 1) % self.every:
            return
        odds = (n + 0.5) / (size - n + 0.5)
        trend, self._odds = odds / (self._odds or odds), odds
        if near:
            return
        wanted = (1 - self.target + 0.5 / size) / (self.target + 0.5 / size)
        pull = math.log(odds * math.sqrt(trend) / wanted)
        if pull * self._pull < 0:
            self._gain = max(0.9 * self._gain, 0.45)
        self._pull = pull
        factor = min(max(math.exp(self._gain * pull), 0.5), 2.0)
        self.strength *= factor
        self._l1.set(self.model, self.strength)
        if factor < 1 and self.model.optimizer.l1_step == "cumulative":
            with self.model.lock:
                slots = self.model.network.get_slots()
                own = inputs.own_slots(self.model.optimizer.describe())
                for slot in slots[own : own + 2]:
                    for array in slot:
                        array[...] = 0
                self.model.network.set_slots(slots)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._near is None or abs(self.sparsity - self.target) <= self.tolerance:
            return
        weights, strength = self._near
        if [w.shape for w in weights] == [w.shape for w in self.model.get_weights()]:
            self.model.set_weights(weights)
            self.strength = strength
            self._l1.set(self.model, strength)
            self.sparsity = 1 - self._l1.nonzeros(self.model) / self._size


class Strength:
    """What makes zeros in a model's kernels as one number: the largest l1 or group_l1.

    Set, all keep their ratios to it. L2 and the regularizers of biases and activities stay as they
    are.

    Examples
    --------
    >>> import fastreg as fr
    >>> layers = [fr.Dense(2, kernel_regularizer=fr.L1L2(0.1, 0.5)), fr.Dense(1)]
    >>> model = fr.Sequential([fr.Input((3,)), *layers])
    >>> Strength("doctest", model).set(model, 0.3)
    >>> model.layers[0].kernel_regularizer
    L1L2(l1=0.3, l2=0.5)
    """

    def __init__(self, who: str, model: Sequential, names: Sequence[str] | None = None) -> None:
        found = {layer.name: _landing(layer) for layer in model.layers}
        if names is not None:
            found = {check_choice("layers", name, found): found[name] for name in names}
        self.largest = max((value for own in found.values() for value in own.values()), default=0.0)
        if not self.largest:
            raise ValueError(
                f"{who}: model {model.name!r} has no trainable layer with L1 or GroupL1 on its "
                "kernel; one is needed, e.g. Dense(..., kernel_regularizer=L1(1e-4))"
            )
        # By name: a compact model's layers are others.
        self.shares = {
            layer: {name: value / self.largest for name, value in own.items()}
            for layer, own in found.items()
            if own
        }

    def layers(self, model: Sequential) -> list[Dense]:
        """Those that are meant, of `model` or of one made from it."""
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        return [layer for layer in dense if layer.name in self.shares]

    def set(self, model: Sequential, strength: float) -> None:
        """Make it `strength`."""
        for layer in self.layers(model):
            old = layer.kernel_regularizer
            assert old is not None
            config, shares = old.get_config(), self.shares[layer.name]
            config |= {name: strength * share for name, share in shares.items() if name in config}
            layer.kernel_regularizer = type(old).from_config(config)

    def penalized(self, model: Sequential) -> list[Array]:
        """The rows of their kernels that it has power over."""
        found = []
        for layer in self.layers(model):
            kernel, regularizer = layer.kernel, layer.kernel_regularizer
            if "l1" not in self.shares[layer.name]:
                # A compact model has an ordinary one where no group is left.
                groups = regularizer.groups if isinstance(regularizer, GroupL1) else ()
                if not isinstance(groups, str):
                    kernel = kernel[sorted(itertools.chain(*groups))]
            found.append(kernel)
        return found

    def nonzeros(self, model: Sequential) -> int:
        """How many of the weights that it has power over are not 0."""
        return sum(int(np.count_nonzero(rows)) for rows in self.penalized(model))

    def size(self, model: Sequential) -> int:
        """How many weights it has power over."""
        return sum(rows.size for rows in self.penalized(model))


def sizes(state: State) -> list[tuple[int, ...]]:
    """The shapes of a state's arrays: the same where nothing was taken out."""
    return [array.shape for array in state[1].values()]


def check_built(argument: str, model: Sequential) -> None:
    """Raise unless `model` is a Sequential with weights."""
    if not isinstance(model, Sequential):
        raise TypeError(f"{argument}: got {model!r}; a Sequential is needed")
    if not model.built:
        raise ValueError(f"{argument}: model {model.name!r} is not built; it has no weights yet")


def compacted(found: dict[str, Any], arrays: Mapping[str, Array]) -> State:
    """The state of the compact model, from that of a model."""
    layers = found["model"]["layers"]
    dense = [layer["config"] for layer in layers if layer["class_name"] == "Dense"]
    names = [config["name"] for config in dense]
    kernels = [arrays[f"weights/{name}/kernel"].copy() for name in names]
    biases = [arrays.get(f"weights/{name}/bias") for name in names]
    biases = [None if bias is None else bias.copy() for bias in biases]
    between = _between(layers, arrays)
    *outer, n_in = found["model"]["build_input_shape"][1:]
    if outer and any(layer["class_name"] == "Flatten" for layer in layers):
        between[0].mixes.append(True)  # rows as the network reads them have every input many times
    kept = _kept(kernels, biases, between, n_in)

    small = dict(arrays)
    for i, name in enumerate(names):
        rows, columns = _repeated(kept[i], len(kernels[i])), kept[i + 1]
        current: dict[str, Array | None] = {**arrays, f"weights/{name}/kernel": kernels[i]}
        current[f"weights/{name}/bias"] = biases[i]
        for key, array in current.items():
            if array is None:
                continue
            if key.endswith(f"/{name}/kernel"):
                small[key] = np.ascontiguousarray(array[np.ix_(rows, columns)])
            elif key.endswith(f"/{name}/bias"):
                small[key] = array[columns]

    for each, columns in zip(between, kept, strict=True):
        for key, array in arrays.items():
            if key.split("/")[-2] in each.vectors:
                small[key] = array[_repeated(columns, len(array))]

    model = dict(found["model"])
    n_in = int(kept[0].sum())
    rows_kept = [_repeated(rows, len(k)) for rows, k in zip(kept[:-1], kernels, strict=True)]
    masks = dict(zip(names, zip(rows_kept, kept[1:], strict=True), strict=True))
    model["build_input_shape"] = [None, *outer, n_in]
    model["layers"] = [_resized(layer, [*outer, n_in], masks) for layer in layers]
    before = model.get("selected_inputs")
    if n_in < len(kept[0]) or before is not None:
        index = np.arange(len(kept[0])) if before is None else np.array(before["index"])
        width = len(kept[0]) if before is None else before["width"]
        model["selected_inputs"] = {"width": width, "index": index[kept[0]].tolist()}
    return {**found, "model": model}, small


def _resized(
    layer: dict[str, Any], row: list[int], masks: Mapping[str, tuple[Array, Array]]
) -> dict[str, Any]:
    """The layer's configuration with what its masks of rows and columns leave of it."""
    config = dict(layer["config"])
    if layer["class_name"] == "Input":
        config["shape"] = row
    if layer["class_name"] == "Dense":
        rows, columns = masks[config["name"]]
        config["units"] = int(columns.sum())
        regularizer = regularizers.deserialize(config["kernel_regularizer"])
        if isinstance(regularizer, GroupL1) and not (rows.all() and columns.all()):
            config["kernel_regularizer"] = regularizers.serialize(
                regularizer.of_part(rows, columns)
            )
    return {**layer, "config": config}


def _repeated(units: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """Of n inputs: which come of these units, that a Flatten may have put there many times."""
    return np.tile(units, n // len(units))


NORMALIZING = ("LayerNormalization", "RMSNormalization", "BatchNormalization")
MIXING = ("softmax", "log_softmax")  # a unit shapes its neighbours


class Between(NamedTuple):
    """What inference does to the inputs of a dense layer, after the product before it."""

    functions: list[Callable[[Array], Array]]  # of vectors, one number a unit
    mixes: list[bool]  # whether one of them lets units shape each other
    vectors: list[str]  # layers whose weights are vectors of these units


def _between(layers: list[dict[str, Any]], arrays: Mapping[str, Array]) -> list[Between]:
    """Of each dense layer, and after the last."""
    found = [Between([], [], [])]
    for layer in layers:
        kind, config = layer["class_name"], layer["config"]
        if kind == "Dense":
            found.append(Between([], [], []))
        if "activation" in config:
            function = activations.get(config["activation"])
            found[-1].functions.append(partial(functional.activation_forward, activation=function))
            found[-1].mixes.append(function.name in MIXING)
        if kind in NORMALIZING:
            found[-1].vectors.append(config["name"])
            found[-1].mixes.append(kind != "BatchNormalization")
            found[-1].functions.append(partial(_normalized, config, arrays))
    return found


def _normalized(config: dict[str, Any], arrays: Mapping[str, Array], x: Array) -> Array:
    """By moving moments, of a vector of units."""
    found = [
        arrays.get(f"weights/{config['name']}/{name}")
        for name in ("moving_mean", "moving_variance", "gamma", "beta")
    ]
    mean, variance, gamma, beta = found
    assert mean is not None and variance is not None
    rows, epsilon = np.resize(x, (1, len(mean))), config["epsilon"]  # repeated after a Flatten
    y: Array = functional.batch_normalization(rows, mean, variance, gamma, beta, epsilon=epsilon)
    return y.ravel()


def _kept(
    kernels: list[Array], biases: list[Array | None], between: list[Between], n_in: int
) -> list[NDArray[np.bool_]]:
    """Which inputs, and which units of each layer, stay; constants go into `biases`.

    The last unit of a layer stays, unread or not; what it read in vain becomes 0 in `kernels`.
    """
    kept = [np.ones(n_in, bool), *(np.ones(k.shape[1], bool) for k in kernels)]
    changed = True
    while changed:
        changed = False
        for i in range(len(kernels)):  # the inputs of layer i: unit by unit, the outputs of i - 1
            rows, columns = kept[i], kept[i + 1]
            if any(between[i].mixes):
                continue
            read = kernels[i][:, columns].any(axis=1).reshape(-1, len(rows)).any(axis=0)
            goes = rows & ~read
            if i > 0:
                goes |= _foldable(i, kernels, biases, between[i], kept, goes)
            if not (rows & ~goes).any():
                stays = np.flatnonzero(rows)[0]
                goes[stays] = False
                if i > 0:
                    kernels[i - 1][:, stays] = 0
            changed |= bool(goes.any())
            rows &= ~goes
    return kept


def _foldable(
    i: int,
    kernels: list[Array],
    biases: list[Array | None],
    between: Between,
    kept: list[NDArray[np.bool_]],
    unread: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Units of layer i - 1 that are constant, and are now in the bias of layer i."""
    rows = _repeated(kept[i - 1], len(kernels[i - 1]))
    constant: NDArray[np.bool_] = kept[i] & ~unread & ~kernels[i - 1][rows].any(axis=0)
    if not constant.any():
        return constant
    if kept[i].sum() == constant.sum() + (kept[i] & unread).sum():
        constant[np.flatnonzero(constant)[0]] = False  # the one that stays
    bias, own = biases[i], biases[i - 1]
    value = np.zeros(len(constant), kernels[i].dtype) if own is None else own
    for function in between.functions:
        value = function(value)
    value = np.resize(value, len(kernels[i]))  # of units that a Flatten repeats
    if bias is None:
        constant &= (value == 0).reshape(-1, len(constant)).all(axis=0)
    else:
        bias += np.where(_repeated(constant, len(value)), value, 0) @ kernels[i]
    return constant


# ------------------------------------------------ the report


def sparsity_report(
    model: Sequential, x: ArrayLike | None = None, y: ArrayLike | None = None
) -> SparsityReport:
    """Exact zeros of a model and what they are worth; with data, how near it is to its minimum.

    Parameters
    ----------
    model : Sequential, built
    x : (n, n_in), optional, of scipy.sparse too
        Rows on which `silent_units` are counted.
    y : targets of x, optional
        For `objective` and `kkt_residual`; needs a loss from `compile`.

    Returns
    -------
    SparsityReport, a dict
        "layers", one dict a dense layer: `name`, `shape`, `params`, `zeros` (of the kernel),
        `density` (share of the kernel that is not zero), `dead_inputs` (rows of zeros),
        `dead_units` (columns of zeros), `unread_units` (that the next layer does not read),
        `compact_shape` and `compact_nonzeros` of the kernel that `compact` leaves,
        `effective_params`, `flops` of a row and `effective_flops` (2 a weight that is not zero);
        with x `silent_units` (0 for every row); with y `kkt_residual`, the largest element of
        the subgradient of the objective nearest to 0: 0 at a minimum.
        Beside it the sums "params", "effective_params", "flops", "effective_flops", and with y
        "objective", the loss with all penalties, and "kkt_residual", the largest. str() of the
        result is a table.

    Raises
    ------
    TypeError, ValueError
        For an argument that does not fit.

    Examples
    --------
    >>> import numpy as np, fastreg as fr
    >>> model = fr.Sequential([fr.Input((2,)), fr.Dense(2)])
    >>> model.set_weights([[[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0]])
    >>> report = fr.sparsity_report(model)
    >>> report["layers"][0]["zeros"], report["layers"][0]["dead_inputs"]
    (3, 1)
    """
    check_built("sparsity_report", model)
    if y is not None and x is None:
        raise ValueError("x: got None; the rows of y are needed")
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    kernels = [layer.kernel for layer in dense]
    readers: list[Array | None] = [*kernels[1:], None]
    layers = [_zeros(*each) for each in zip(dense, kernels, readers, strict=True)]
    _, small = compacted(*model.state())
    for layer in layers:
        kernel = small[f"weights/{layer['name']}/kernel"]
        layer["compact_shape"] = kernel.shape
        layer["compact_nonzeros"] = int(np.count_nonzero(kernel))
    report = SparsityReport(layers=layers)
    for total in ("params", "effective_params", "flops", "effective_flops"):
        report[total] = sum(layer[total] for layer in layers)
    if x is not None:
        for layer, silent in zip(layers, _silent_units(model, x), strict=True):
            layer["silent_units"] = silent
    if x is not None and y is not None:
        report["objective"], residuals = _kkt_residuals(model, model.objective(x, y))
        for layer, residual in zip(layers, residuals, strict=True):
            layer["kkt_residual"] = residual
        report["kkt_residual"] = max(layer["kkt_residual"] for layer in layers)
    return report


class SparsityReport(dict[str, Any]):
    """The dict of `sparsity_report`, which prints as a table."""

    def __str__(self) -> str:
        columns = ["name", "shape", "params", "effective_params", "density"]
        columns += ["dead_inputs", "dead_units", "unread_units", "silent_units", "kkt_residual"]
        columns = [name for name in columns if name in self["layers"][0]]
        rows = [[name.replace("_", " ") for name in columns]]
        rows += [[_cell(layer[name]) for name in columns] for layer in self["layers"]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        lines.append(
            f"{self['effective_params']:,} of {self['params']:,} parameters, "
            f"{self['effective_flops']:,} of {self['flops']:,} flops a row"
        )
        if "objective" in self:
            lines.append(
                f"objective {self['objective']:.6g}, KKT residual {self['kkt_residual']:.2g}"
            )
        return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _zeros(layer: Dense, kernel: Array, reader: Array | None) -> dict[str, Any]:
    nonzero = kernel != 0
    bias = layer.bias
    count = int(nonzero.sum())
    return {
        "name": layer.name,
        "shape": kernel.shape,
        "params": layer.count_params(),
        "zeros": int(kernel.size - count),
        "density": count / kernel.size,
        "dead_inputs": int((~nonzero.any(axis=1)).sum()),
        "dead_units": int((~nonzero.any(axis=0)).sum()),
        "unread_units": 0 if reader is None else _unread(reader, layer.units),
        "effective_params": count + (0 if bias is None else int((bias != 0).sum())),
        "flops": 2 * kernel.size,
        "effective_flops": 2 * count,
    }


def _unread(reader: Array, units: int) -> int:
    """How many units a kernel does not read, wherever a Flatten has put them."""
    return int((~reader.any(axis=1).reshape(-1, units).any(axis=0)).sum())


def _rows(model: Sequential, x: ArrayLike, dtype: str) -> inputs.Rows:
    """What the network reads of x."""
    n_in, index = model.input_shape[-1], model.selected_inputs_
    rows: inputs.Rows
    if inputs.is_sparse(x):
        rows = inputs.check_sparse_features("x", x, n_in, dtype)
    else:
        rows = model.enter(inputs.check_features("x", model.flat_rows("x", x), n_in, dtype))
    return rows if index is None else rows.take(index, axis=1)


def _outputs(layer: Layer, rows: inputs.Rows) -> inputs.Rows:
    if not isinstance(rows, inputs.SparseRows):
        return layer.apply(rows, functional)
    if isinstance(layer, Noise):
        return rows
    if not isinstance(layer, Dense):
        return layer.apply(rows.dense(), functional)
    from scipy.sparse import csr_array

    parts = rows.values, rows.columns, rows.start
    z: Array = csr_array(parts, shape=rows.shape) @ layer.kernel
    z = z if layer.bias is None else z + layer.bias
    return functional.activation_forward(z, layer.activation)


def _silent_units(model: Sequential, x: ArrayLike) -> list[int]:
    """Of each dense layer: units whose output, after activations, is 0 for every row."""
    layers = [layer for layer in model.layers if not layer.at_entry]
    speaks = [np.zeros(layer.units, bool) for layer in layers if isinstance(layer, Dense)]
    rows = _rows(model, x, model.dtype or "float32")
    inner = math.prod(model.input_shape[1:-1])  # that a Flatten may make one of
    size = max(ROWS_AT_ONCE // inner, 1) * inner
    for first in range(0, len(rows), size):
        y: Any = rows[first : first + size]
        spoke = iter(speaks)
        speaker: NDArray[np.bool_] | None = None
        for layer, after in itertools.zip_longest(layers, layers[1:]):
            y = _outputs(layer, y)
            speaker = next(spoke) if isinstance(layer, Dense) else speaker
            if speaker is not None and not isinstance(after, ActivationLayer):
                speaker |= (y != 0).any(axis=0)
                speaker = None
    return [int((~spoke).sum()) for spoke in speaks]


def _kkt_residuals(model: Sequential, objective: Objective) -> tuple[float, list[float]]:
    """The objective, and of each layer the largest element of the subgradient nearest to 0."""
    here = objective.at(objective.start)
    slopes = np.abs(here.subgradient)
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    worst = {layer.name: 0.0 for layer in dense}  # of one that is not trainable
    for piece, (layer, _) in zip(objective.pieces, objective.owners, strict=True):
        worst[layer.name] = max(worst[layer.name], float(slopes[piece].max()))
    return here.value, [worst[layer.name] for layer in dense]
