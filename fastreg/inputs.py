"""The one door for arrays: dtype, order, shape, finite; a copy is made only when it must be.

Two doors, one set of words:

- `check_features`, `check_targets`, `check_sample_weight`, `check_class_weight` take what a user
  hands a model (lists, data frames, integers, any byte order or strides) and convert it.
- `check_<function>` take what a user hands `fastreg.functional` or `fastreg.reference` and return
  the arguments both compute with, in the order of the compiled kernels. Nothing is converted there
  but the memory layout of read-only arrays: what is written to must be right as it stands.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastreg.errors import check_choice, check_int, check_real, unknown_name

Array = NDArray[Any]

# Those whose slope follows from the output y, and those whose backward functions take z.
ACTIVATIONS_OF_Y = ("linear", "relu", "tanh", "sigmoid", "softmax", "log_softmax")
ACTIVATIONS_OF_Z = (
    "leaky_relu",
    "relu6",
    "elu",
    "selu",
    "exponential",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "hard_silu",
    "silu",
    "gelu",
    "gelu_tanh",
    "mish",
)
ACTIVATIONS = (*ACTIVATIONS_OF_Y, *ACTIVATIONS_OF_Z)
Curve = tuple[float, float, float]  # alpha, max_value, threshold
CURVES: dict[str, Curve] = {"elu": (1.0, math.inf, 0.0), "leaky_relu": (0.2, math.inf, 0.0)}
LOSSES = (
    "mean_squared_error",
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "log_cosh",
    "poisson",
    "kl_divergence",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
    "cosine_similarity",
    "huber",
    "quantile",
    "binary_focal_crossentropy",
)
L1_STEPS = ("sign", "proximal", "cumulative")
NO_THRESHOLD = ("adadelta", "lion", "ftrl")  # optimizers that have the L1 step "sign" alone
SPARSE = "sparse_categorical_crossentropy"  # the loss whose targets are class numbers
BINARY = ("binary_crossentropy", "binary_focal_crossentropy")  # whose targets lie in [0, 1]
# Whose targets name no class, where there is one column.
REGRESSIONS = (
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "log_cosh",
    "poisson",
    "cosine_similarity",
    "huber",
    "quantile",
)


def takes_any_targets(loss: str) -> bool:
    """Whether targets of `loss` may be any finite numbers, one a column."""
    return loss != SPARSE and loss not in BINARY


class LossSettings(NamedTuple):
    """What some losses have beside targets and outputs, at Keras' defaults."""

    delta: float = 1.0  # huber
    quantile: float = 0.5  # quantile
    label_smoothing: float = 0.0  # crossentropies but the sparse
    alpha: float = 0.25  # binary_focal_crossentropy
    gamma: float = 2.0
    from_logits: bool = False  # crossentropies
    apply_class_balancing: bool = False  # binary_focal_crossentropy


class LossLike(Protocol):
    """A loss and its settings; what `fastreg.losses.Loss` offers."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> LossSettings | None: ...


def loss_parts(loss: str | LossLike) -> tuple[str, LossSettings | None]:
    """Its name and settings; those of a name are the defaults, one of Python's has None.

    >>> loss_parts("huber")[1].delta
    1.0
    """
    return (loss, LossSettings()) if isinstance(loss, str) else (loss.name, loss.settings)


class SparseRows:
    """Rows (n, n_in) of which the nonzeros alone are kept: what a SciPy sparse matrix becomes.

    Parameters
    ----------
    values : (nnz,) float32 or float64
    columns : (nnz,) int32, rising within a row
    start : (n + 1,) int64; row i has the values and columns start[i] to start[i + 1]
    n_in : columns in all

    >>> rows = SparseRows(np.array([1.0, 2.0]), np.array([2, 0], "int32"), np.array([0, 1, 2]), 3)
    >>> len(rows), rows[1:].dense(), rows.take([2], axis=1).dense()
    (2, array([[2., 0., 0.]]), array([[1.],
           [0.]]))
    """

    def __init__(self, values: Array, columns: Array, start: Array, n_in: int) -> None:
        self.values, self.columns, self.start = values, columns, start
        self.shape = (len(start) - 1, n_in)
        self.dtype = values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> SparseRows:
        """Views of neighbouring rows."""
        first, last, _ = rows.indices(len(self))
        start = self.start[first : max(first, last) + 1]
        here = slice(int(start[0]), int(start[-1]))
        return SparseRows(self.values[here], self.columns[here], start - start[0], self.shape[1])

    def take(self, index: ArrayLike, axis: int) -> SparseRows:
        """Some rows (axis 0), in any order, or columns (axis 1, rising)."""
        index = np.asarray(index)
        if axis == 0:
            lengths = np.diff(self.start)[index]
            start = np.concatenate([[0], np.cumsum(lengths)])
            chosen = np.arange(start[-1]) + np.repeat(self.start[index] - start[:-1], lengths)
            return SparseRows(self.values[chosen], self.columns[chosen], start, self.shape[1])
        place = np.full(self.shape[1], -1, np.int32)
        place[index] = np.arange(len(index), dtype=np.int32)
        columns = place[self.columns]
        kept = columns >= 0
        start = np.concatenate([[0], np.cumsum(kept)])[self.start]
        return SparseRows(self.values[kept], columns[kept], start, len(index))

    def astype(self, dtype: DTypeLike) -> SparseRows:
        """The same with values of `dtype`."""
        return SparseRows(self.values.astype(dtype), self.columns, self.start, self.shape[1])

    def dense(self) -> Array:
        """All of it, with the zeros."""
        rows = np.zeros(self.shape, self.dtype)
        rows[np.repeat(np.arange(len(self)), np.diff(self.start)), self.columns] = self.values
        return rows


Rows = Array | SparseRows


# ------------------------------------------------ what models take


def check_features(
    argument: str,
    x: ArrayLike,
    n_in: int | None,
    dtype: DTypeLike,
    *,
    allow_nonfinite: bool = False,
) -> Array:
    """The rows a network reads, as a C-contiguous (n, n_in) array of `dtype`.

    Parameters
    ----------
    argument : the name the errors use.
    x : (n, n_in) real numbers or booleans, any dtype, byte order and strides; copied if needed.
    n_in : the width needed; None takes any.
    dtype : "float32" or "float64".
    allow_nonfinite : let NaN and infinity through. A value too large for `dtype` is infinite.

    Raises
    ------
    TypeError : not real numbers.
    ValueError : wrong shape, empty, or not finite.

    >>> check_features("x", [[1, 2], [3, 4]], 2, "float32")
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    >>> check_features("x", [[1, 2, 3]], 2, "float32")
    Traceback (most recent call last):
    ValueError: x: got shape (1, 3); (n, 2) is needed
    """
    array = _real(argument, x)
    _check_shape(argument, array, ("n", "n_in" if n_in is None else n_in))
    array = _converted(array, np.dtype(dtype))
    if not allow_nonfinite:
        _check_finite(argument, array)
    return array


def flat_rows(argument: str, x: ArrayLike, shape: tuple[int, ...] | None) -> Array:
    """Rows (n, *shape) as (n, width), a view where it can be; with up to two axes as they are.

    >>> flat_rows("x", [[[1, 2], [3, 4]]], (2, 2))
    array([[1, 2, 3, 4]])
    """
    array = _as_array(argument, x)
    if array.ndim <= 2:
        return array
    if shape is not None:
        _check_shape(argument, array, ("n", *shape))
    return array.reshape(len(array), math.prod(array.shape[1:]))


def inner_rows(
    argument: str, x: ArrayLike, outer: tuple[int | None, ...], n_in: int | None = None
) -> Array:
    """The vectors along the last axis of x, (n, ..., n_in), as rows; a view where it can be.

    `outer` are the axes before it, None where any size will do; without `n_in` what comes after
    them stays as it is.

    >>> inner_rows("x", [[[1, 2], [3, 4]]], (None, 2), 2)
    array([[1, 2],
           [3, 4]])
    """
    array = _as_array(argument, x)
    inner = () if n_in is None else (n_in,)
    shape = array.shape[: len(outer)]
    fits = len(shape) == len(outer) and all(
        size in (None, own) for size, own in zip(outer, shape, strict=True)
    )
    if not fits or (n_in is not None and array.shape[len(outer) :] != inner):
        words = ", ".join("n" if size is None else str(size) for size in (*outer, *inner))
        more = "" if inner else ", ..."
        raise ValueError(f"{argument}: got shape {array.shape}; ({words}{more}) is needed")
    return array.reshape(math.prod(shape), *array.shape[len(outer) :])


def is_sparse(x: object) -> bool:
    """Whether `x` is a matrix or an array of scipy.sparse."""
    module = sys.modules.get("scipy.sparse")  # no such object without it
    return module is not None and module.issparse(x)


def check_sparse_features(
    argument: str,
    x: Any,
    n_in: int | None,
    dtype: DTypeLike,
    *,
    allow_nonfinite: bool = False,
) -> SparseRows:
    """As `check_features` for a scipy.sparse matrix or array in any format; never made dense.

    Entries of one place are summed, as SciPy does; `x` is not changed.

    >>> from scipy.sparse import csr_array
    >>> check_sparse_features("x", csr_array([[0, 3], [0, 0]]), 2, "float32").dense()
    array([[0., 3.],
           [0., 0.]], dtype=float32)
    """
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{argument}: got dtype {x.dtype}; real numbers are needed")
    if len(x.shape) != 2 or n_in not in (None, x.shape[1]):
        words = "n_in" if n_in is None else n_in
        raise ValueError(f"{argument}: got shape {x.shape}; (n, {words}) is needed")
    if 0 in x.shape or x.shape[1] > 2**30:
        what = "which is empty; values are needed" if 0 in x.shape else "too wide"
        raise ValueError(f"{argument}: got shape {x.shape}, {what}")
    csr = x.tocsr()
    _check_structure(argument, csr)
    if not _is_canonical(csr):
        csr = csr.copy()
        csr.has_canonical_format = False
        csr.has_sorted_indices = False
        csr.sum_duplicates()
    n = int(csr.indptr[-1])
    rows = SparseRows(
        _converted(csr.data[:n], np.dtype(dtype)),
        _converted(csr.indices[:n], np.dtype(np.int32)),
        _converted(csr.indptr, np.dtype(np.int64)),
        csr.shape[1],
    )
    if not allow_nonfinite and not is_finite(rows.values):
        k = int(np.isfinite(rows.values).argmin())
        row = int(np.searchsorted(rows.start, k, side="right")) - 1
        raise ValueError(
            f"{argument}: got {rows.values[k]} at row {row}, column {rows.columns[k]}; "
            f"finite {rows.dtype} values are needed"
        )
    return rows


def _check_structure(argument: str, csr: Any) -> None:
    """Refuse what would be read beyond its ends: users can write to the three arrays."""
    start, columns = csr.indptr, csr.indices
    sound = (
        len(start) == csr.shape[0] + 1
        and start[0] == 0
        and bool((start[1:] >= start[:-1]).all())
        and start[-1] <= min(len(columns), len(csr.data))
        and (start[-1] == 0 or (columns.min() >= 0 and columns.max() < csr.shape[1]))
    )
    if not sound:
        raise ValueError(f"{argument}: got a broken {type(csr).__name__}: see its check_format()")


def _is_canonical(csr: Any) -> bool:
    """Whether columns rise within each row. SciPy's flags may be out of date."""
    columns = csr.indices[: csr.indptr[-1]]
    rises = columns[1:] > columns[:-1]
    begins = csr.indptr[1:-1]  # a row's first column may be anything
    rises[begins[(begins > 0) & (begins < len(columns))] - 1] = True
    return bool(rises.all())


def check_targets(
    argument: str, y: ArrayLike, n_rows: int, n_out: int, loss: str, dtype: DTypeLike
) -> Array:
    """The targets of `loss`: (n_rows, n_out) of `dtype`, or int32 (n_rows,) class numbers.

    Class numbers (sparse_categorical_crossentropy) may come as (n_rows,) or (n_rows, 1), integers
    or integral floats, in [0, n_out). Other targets may come as (n_rows,) when n_out is 1; those
    of `BINARY` lie in [0, 1].

    Raises
    ------
    TypeError : not real numbers.
    ValueError : wrong shape, not finite, or out of range.

    >>> check_targets("y", [[0.0], [2.0]], 2, 3, "sparse_categorical_crossentropy", "float32")
    array([0, 2], dtype=int32)
    >>> check_targets("y", [0, 1], 2, 1, "binary_crossentropy", "float64")
    array([[0.],
           [1.]])
    """
    array = _real(argument, y)
    if loss == SPARSE:
        return _labels(argument, array, n_rows, n_out)
    if array.ndim == 1 and n_out == 1:
        array = array[:, np.newaxis]
    hint = ""
    of_classes = loss in ("categorical_crossentropy", "categorical_hinge")
    if of_classes and (array.ndim == 1 or array.shape[1:] == (1,)):
        hint = f"; class numbers go with the loss {SPARSE!r}"
    _check_shape(argument, array, (n_rows, n_out), hint)
    array = _converted(array, np.dtype(dtype))
    _check_finite(argument, array)
    if loss in BINARY and not (array.min() >= 0 and array.max() <= 1):
        worst = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{argument}: got {worst:g}; targets in [0, 1] are needed for {loss}")
    return array


def check_own_targets(argument: str, y: ArrayLike, n_rows: int, dtype: DTypeLike) -> Array:
    """The targets of a loss of one's own: (n_rows, ...) finite numbers; (n_rows,) has one column.

    >>> check_own_targets("y", [1, 2], 2, "float32")
    array([[1.],
           [2.]], dtype=float32)
    """
    array = _real(argument, y)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim == 0 or len(array) != n_rows:
        raise ValueError(f"{argument}: got shape {array.shape}; ({n_rows}, ...) is needed")
    array = _converted(array, np.dtype(dtype))
    _check_finite(argument, array)
    return array


def check_sample_weight(argument: str, w: ArrayLike, n_rows: int, dtype: DTypeLike) -> Array:
    """One finite weight >= 0 a row, as a contiguous (n_rows,) array of `dtype`.

    >>> check_sample_weight("sample_weight", [1, 2], 2, "float32")
    array([1., 2.], dtype=float32)
    """
    array = _real(argument, w)
    _check_shape(argument, array, (n_rows,))
    array = _converted(array, np.dtype(dtype))
    _check_finite(argument, array)
    if array.min() < 0:
        row = int(array.argmin())
        raise ValueError(f"{argument}: got {array[row]:g} at row {row}; weights >= 0 are needed")
    return array


def weight_of_vectors(argument: str, w: ArrayLike, n_rows: int, outer: tuple[int, ...]) -> Array:
    """Weights (n_rows,) or (n_rows, *outer), as one for each vector along a row's last axis.

    >>> weight_of_vectors("sample_weight", [1, 2], 2, (3,))
    array([1, 1, 1, 2, 2, 2])
    >>> weight_of_vectors("sample_weight", [[1, 2], [3, 4]], 2, (2,))
    array([1, 2, 3, 4])
    """
    array = _real(argument, w)
    if array.shape == (n_rows,):
        return np.repeat(array, math.prod(outer))
    if array.shape != (n_rows, *outer):
        words = ", ".join(map(str, (n_rows, *outer)))
        raise ValueError(f"{argument}: got shape {array.shape}; ({n_rows},) or ({words}) is needed")
    return array.ravel()


def check_class_weight(
    class_weight: Mapping[int, float], y: Array, loss: str, n_out: int, dtype: DTypeLike
) -> Array:
    """The sample weights (n_rows,) that `class_weight` means for the targets `y`.

    `y` comes from `check_targets`. A class that is not named weighs 1, as in Keras; the class of a
    row of several columns is its largest, of a single column the nearest of 0 and 1.

    Raises
    ------
    TypeError : not a mapping of class numbers to numbers.
    ValueError : an unknown class, a weight negative or not finite, targets that name no class.

    >>> y = np.array([0, 1, 2])
    >>> check_class_weight({1: 3.0}, y, "sparse_categorical_crossentropy", 3, "float32")
    array([1., 3., 1.], dtype=float32)
    """
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight: got {type(class_weight).__name__}; a dict {{class: weight}} is needed"
        )
    if loss in (REGRESSIONS if n_out == 1 else BINARY):
        raise ValueError(
            f"class_weight: got {loss} with {n_out} column(s), whose rows name no class; "
            "sample_weight is needed"
        )
    weights = np.ones(max(n_out, 2), dtype)
    for label, weight in class_weight.items():
        number = check_int("class_weight: class", label, low=0, high=len(weights) - 1)
        weights[number] = check_real(f"class_weight: weight of class {number}", weight, low=0)
    if loss == SPARSE:
        labels = y
    else:
        labels = y.argmax(axis=1) if n_out > 1 else (y[:, 0] > 0.5).astype(np.intp)
    sample_weight: Array = weights[labels]
    return sample_weight


def check_weights(
    argument: str, values: Sequence[ArrayLike], shapes: Sequence[tuple[int, ...]]
) -> list[Array]:
    """`values` as arrays of real numbers of those `shapes`.

    >>> check_weights("weights", [[1.0, 2.0]], [(3,)])
    Traceback (most recent call last):
    ValueError: weights[0]: got shape (2,); (3,) is needed
    """
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        raise TypeError(f"{argument}: got {type(values).__name__}; a list of arrays is needed")
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise TypeError(f"{argument}: got an array without axes; a list of arrays is needed")
    if len(values) != len(shapes):
        raise ValueError(f"{argument}: got {len(values)} arrays; {len(shapes)} are needed")
    arrays = [_real(f"{argument}[{i}]", value) for i, value in enumerate(values)]
    for i, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if array.shape != shape:
            raise ValueError(f"{argument}[{i}]: got shape {array.shape}; {shape} is needed")
    return arrays


def read_only(array: Array) -> Array:
    """A view of `array` that cannot be written to, for code of a user's own.

    >>> read_only(np.zeros(2)).flags.writeable
    False
    """
    view = array.view()
    view.flags.writeable = False
    return view


def check_answer(argument: str, found: Any, shape: tuple[int, ...]) -> Array:
    """What an object of a user's own gave, as an array of real numbers of `shape`.

    >>> check_answer("value", 0.5, ())
    array(0.5)
    >>> check_answer("gradient", [1, 2], (3,))
    Traceback (most recent call last):
    ValueError: gradient: got int64 of shape (2,); real numbers of shape (3,) are needed
    """
    array = _as_array(argument, found)
    if array.shape != shape or array.dtype.kind not in "biuf":
        words = f"real numbers of shape {shape} are" if shape else "a real number is"
        raise ValueError(f"{argument}: got {array.dtype} of shape {array.shape}; {words} needed")
    return array


def check_out(
    out: Array | None,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    inputs: Mapping[str, Any],
    *,
    same: bool = False,
) -> Array:
    """`out` as it stands, or a new array where it is None.

    Parameters
    ----------
    out : C-contiguous, aligned, writable, of `shape` and `dtype`; or None.
    inputs : what must not overlap `out`, by argument; `same` lets `out` be the very array.

    Raises
    ------
    TypeError : not an array of `dtype`.
    ValueError : wrong shape or layout, read-only, or overlapping an input.

    >>> check_out(np.empty(3), (2,), "float64", {})
    Traceback (most recent call last):
    ValueError: out: got shape (3,); (2,) is needed
    """
    if out is None:
        return np.empty(shape, dtype)
    out = _target("out", out, shape, np.dtype(dtype))
    _check_apart({"out": out}, inputs, same)
    return out


# ------------------------------------------------ what functional and reference take


class ActivationLike(Protocol):
    """An activation that the engine knows as `kind`, with the `curve` of those that have one."""

    @property
    def kind(self) -> str: ...

    @property
    def curve(self) -> Curve | None: ...


def check_activation(activation: str | ActivationLike) -> tuple[str, Curve | None]:
    """Checked (kind, curve) of a name, with Keras' defaults, or of an `Activation`."""
    if not isinstance(activation, str) and hasattr(activation, "curve"):
        return activation.kind, activation.curve
    kind = check_choice("activation", activation, ACTIVATIONS)
    return kind, CURVES.get(kind)


def check_dense_forward(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    activation: str | ActivationLike,
    out: Array | None,
) -> tuple[Array, Array, Array | None, str, Curve | None, Array]:
    """Checked (x, kernel, bias, kind, curve, out)."""
    x_, kernel_ = _dense(x, kernel)
    bias_ = None if bias is None else _array("bias", bias, kernel_.shape[1:], like=x_)
    kind, curve = check_activation(activation)
    shape = (x_.shape[0], kernel_.shape[1])
    out = check_out(out, shape, x_.dtype, {"x": x, "kernel": kernel, "bias": bias})
    return x_, kernel_, bias_, kind, curve, out


def check_dense_backward(
    x: ArrayLike,
    kernel: ArrayLike,
    y: ArrayLike,
    dy: ArrayLike,
    activation: str | ActivationLike,
    need_dx: bool,
    dx: Array | None,
    dkernel: Array | None,
    dbias: Array | None,
) -> tuple[Array, Array, Array, Array, str, Curve | None, Array | None, Array, Array]:
    """Checked (x, kernel, y, dy, kind, curve, dx, dkernel, dbias)."""
    x_, kernel_ = _dense(x, kernel)
    shape = (x_.shape[0], kernel_.shape[1])
    y_ = _array("y", y, shape, like=x_)
    dy_ = _array("dy", dy, shape, like=x_)
    kind, curve = check_activation(activation)
    if dx is not None and not need_dx:
        raise ValueError("dx: got an array with need_dx=False; None is needed")

    def target(argument: str, out: Array | None, shape: tuple[int, ...]) -> Array:
        if out is None:
            return np.empty(shape, x_.dtype)
        return _target(argument, out, shape, x_.dtype)

    dx = target("dx", dx, x_.shape) if need_dx else None
    dkernel = target("dkernel", dkernel, kernel_.shape)
    dbias = target("dbias", dbias, kernel_.shape[1:])
    _check_apart(
        {"dx": dx, "dkernel": dkernel, "dbias": dbias}, {"x": x, "kernel": kernel, "y": y, "dy": dy}
    )
    return x_, kernel_, y_, dy_, kind, curve, dx, dkernel, dbias


def check_activation_forward(
    z: ArrayLike, activation: str | ActivationLike, out: Array | None
) -> tuple[Array, str, Curve | None, Array]:
    """Checked (z, kind, curve, out); `out` may be `z`."""
    z_ = _array("z", z, (..., "units"))
    kind, curve = check_activation(activation)
    return z_, kind, curve, check_out(out, z_.shape, z_.dtype, {"z": z}, same=True)


def check_activation_backward(
    y: ArrayLike, dy: ArrayLike, activation: str | ActivationLike, out: Array | None
) -> tuple[Array, Array, str, Curve | None, Array]:
    """Checked (y, dy, kind, curve, out); `out` may be `y` or `dy`."""
    y_ = _array("y", y, (..., "units"))
    dy_ = _array("dy", dy, y_.shape, like=y_)
    kind, curve = check_activation(activation)
    out = check_out(out, y_.shape, y_.dtype, {"y": y, "dy": dy}, same=True)
    return y_, dy_, kind, curve, out


def check_penalty(w: ArrayLike, l1: float, l2: float) -> tuple[Array, float, float]:
    """Checked (w, l1, l2)."""
    return _array("w", w, (...,)), check_real("l1", l1, low=0), check_real("l2", l2, low=0)


def check_penalty_gradient(
    w: ArrayLike, l1: float, l2: float, out: Array | None
) -> tuple[Array, float, float, Array]:
    """Checked (w, l1, l2, out); `out` may be `w`."""
    w_, l1, l2 = check_penalty(w, l1, l2)
    return w_, l1, l2, check_out(out, w_.shape, w_.dtype, {"w": w}, same=True)


def check_kl_penalty(y: ArrayLike, kl: float, rate: float) -> tuple[Array, float, float]:
    """Checked (y, kl, rate)."""
    kl, rate = check_real("kl", kl, low=0), check_rate("rate", rate)
    return _array("y", y, ("n_batch", "n_out")), kl, rate


def check_rate(argument: str, value: Any) -> float:
    """A rate that units may have: above 0 and below 1."""
    return check_real(argument, value, low=0, low_open=True, high=1, high_open=True)


def check_kl_penalty_gradient(
    y: ArrayLike, kl: float, rate: float, out: Array | None
) -> tuple[Array, float, float, Array]:
    """Checked (y, kl, rate, out)."""
    y_, kl, rate = check_kl_penalty(y, kl, rate)
    return y_, kl, rate, check_out(out, y_.shape, y_.dtype, {"y": y})


# "rows", "columns", or the input numbers of each group
Grouping = str | Sequence[Sequence[int]]


class Groups(NamedTuple):
    """The groups of a kernel as the engine takes them.

    A group is a column, or `rows[start[g] : start[g + 1]]`; `rows` holds every row once, those in
    no group last. Its norm counts `weight[g]` times.
    """

    by_column: bool
    weight: Array  # (n_groups,) float64
    start: Array  # (n_groups + 1,) intp
    rows: Array  # (n_in,) intp


def rows_before(layers: Sequence[Mapping[str, Any]], number: int) -> int:
    """Rows of layer `number`'s output (-1: of the input) for a row of the network.

    >>> rows_before([{"kind": "dense"}, {"kind": "flatten", "n_in": 2, "n_out": 6}], 0)
    3
    """
    after = layers[number + 1 :]
    return math.prod(each["n_out"] // each["n_in"] for each in after if each["kind"] == "flatten")


class OwnActivity(NamedTuple):
    """A penalty of Python's on the outputs of a layer, as the network takes it.

    Its rows have `outer` axes before the last. The penalty is divided by the rows of x, of which
    each makes `together` of the network's.
    """

    regularizer: Any  # with value and gradient
    outer: tuple[int, ...]
    together: int

    def _whole(self, y: Array) -> Array:
        return y.reshape(-1, *self.outer, y.shape[-1])

    def value(self, y: Array) -> float:
        """Of the outputs y, rows (.., n_out), theirs to keep, times the rows of the network."""
        return float(self.regularizer.value(self._whole(y)) * self.together)

    def step(self, y: Array) -> tuple[float, Array]:
        """`value`, NaN where the gradient is not finite, and the gradient, like y."""
        value, whole = self.value(y.copy()), self._whole(y)
        gradient = np.ascontiguousarray(self.regularizer.gradient(whole), dtype=y.dtype)
        gradient = gradient.reshape(y.shape) / y.dtype.type(len(whole))
        return (value if np.isfinite(gradient).all() else math.nan), gradient


class Bound(NamedTuple):
    """A constraint as the engine takes it: "non_neg", or "norm".

    w *= (rate clip(n, low, high) + (1 - rate) n) / (1e-7 + n), n the norm of each row or column of
    a kernel, or of the whole array.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    rate: float = 1.0
    per_row: bool = False
    per_column: bool = False


def check_grouping(groups: Grouping) -> str | tuple[tuple[int, ...], ...]:
    """`groups` as "rows", "columns" or disjoint tuples of input numbers, none empty.

    >>> check_grouping([[2, 0], [1]])
    ((2, 0), (1,))
    """
    if isinstance(groups, str):
        return check_choice("groups", groups, ("rows", "columns"))
    needed = '"rows", "columns" or lists of input numbers'
    if isinstance(groups, Mapping) or not hasattr(groups, "__iter__"):
        raise TypeError(f"groups: got {groups!r}; {needed} are needed")
    found = []
    for number, group in enumerate(groups):
        if isinstance(group, str) or not hasattr(group, "__iter__"):
            raise TypeError(f"groups[{number}]: got {group!r}; a list of input numbers is needed")
        found.append(tuple(check_int(f"groups[{number}]", i, low=0) for i in group))
        if not found[-1]:
            raise ValueError(f"groups[{number}]: got an empty list; input numbers are needed")
    if not found:
        raise ValueError(f"groups: got no group; {needed} are needed")
    seen: dict[int, int] = {}
    for number, group in enumerate(found):
        for i in group:
            if i in seen:
                raise ValueError(
                    f"groups[{number}]: got input {i}, which is in groups[{seen[i]}] already; "
                    "groups must not overlap"
                )
            seen[i] = number
    return tuple(found)


def check_group_sizes(groups: object, sizes: Any) -> float | tuple[float, ...] | None:
    """`sizes` as None, a number > 0, or one for each of the lists of `groups`."""
    if sizes is None:
        return None
    if isinstance(groups, str) or not hasattr(sizes, "__iter__"):
        return check_real("sizes", sizes, low=0, low_open=True)
    found = tuple(check_real("sizes", size, low=0, low_open=True) for size in sizes)
    if len(found) != len(groups):  # type: ignore[arg-type]
        raise ValueError(f"sizes: got {len(found)} of them; one a group is needed")
    return found


def resolve_groups(
    shape: tuple[int, ...], group_l1: float, groups: Grouping, sizes: Any = None
) -> Groups:
    """The checked groups of a kernel of `shape`, each with the weight group_l1 * sqrt(size).

    Raises
    ------
    ValueError : for an input that the kernel does not have.

    >>> resolve_groups((3, 4), 0.5, [[2, 0]]).weight
    array([1.41421356])
    """
    grouping = check_grouping(groups)
    unit = _unit_groups(tuple(shape), grouping, check_group_sizes(grouping, sizes))
    return unit._replace(weight=group_l1 * unit.weight)


@lru_cache(maxsize=32)  # a path asks for the same ones at every step
def _unit_groups(shape: tuple[int, ...], grouping: Any, sizes: Any) -> Groups:
    """Of checked arguments, with group_l1 = 1; its arrays are not to be written to."""
    n_in, n_out = shape
    order = np.arange(n_in, dtype=np.intp)
    if grouping == "columns":
        count, own, start = n_out, np.full(n_out, n_in), np.zeros(n_out + 1, np.intp)
    elif grouping == "rows":
        count, own, start = n_in, np.full(n_in, n_out), np.arange(n_in + 1, dtype=np.intp)
    else:
        named = np.array([i for group in grouping for i in group], dtype=np.intp)
        if named.max() >= n_in:
            raise ValueError(f"groups: got input {named.max()}; the kernel has {n_in} inputs")
        lengths = np.array([len(group) for group in grouping])
        count, own = len(grouping), lengths * n_out
        start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
        order = np.concatenate([named, np.setdiff1d(order, named)])
    size = np.broadcast_to(own if sizes is None else np.asarray(sizes, float), (count,))
    found = Groups(grouping == "columns", np.sqrt(size), start, order)
    for array in (found.weight, start, order):
        array.flags.writeable = False
    return found


def check_group_penalty(
    w: ArrayLike, group_l1: float, groups: Grouping, sizes: Any
) -> tuple[Array, Groups]:
    """Checked (w, groups)."""
    w_ = _array("w", w, ("n_in", "n_out"))
    return w_, resolve_groups(w_.shape, check_real("group_l1", group_l1, low=0), groups, sizes)


def check_group_gradient(
    w: ArrayLike, group_l1: float, groups: Grouping, sizes: Any, out: Array | None
) -> tuple[Array, Groups, Array]:
    """Checked (w, groups, out)."""
    w_, found = check_group_penalty(w, group_l1, groups, sizes)
    return w_, found, check_out(out, w_.shape, w_.dtype, {"w": w})


def check_group_prox(
    w: ArrayLike,
    step: float,
    group_l1: float,
    groups: Grouping,
    l1: float,
    sizes: Any,
    out: Array | None,
) -> tuple[float, Groups, float, Array]:
    """Checked (step, groups, l1, out), where out holds w; `out` may be `w`."""
    w_, found = check_group_penalty(w, group_l1, groups, sizes)
    step = check_real("step", step, low=0)
    l1 = check_real("l1", l1, low=0)
    out = check_out(out, w_.shape, w_.dtype, {"w": w}, same=True)
    np.copyto(out, w_)
    return step, found, l1, out


def check_group_step(l1_step: str) -> None:
    """Refuse the L1 step that is not defined for groups."""
    if l1_step == "cumulative":
        raise ValueError(
            "l1_step: got 'cumulative' with a GroupL1 regularizer, which takes 'sign' or 'proximal'"
        )


def check_loss(
    loss: str | LossLike, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[str, LossSettings, Array, Array, Array | None]:
    """Checked (name, settings, y_true, y_pred, sample_weight); class numbers are int32 (n,)."""
    if not isinstance(getattr(loss, "settings", None), LossSettings):
        check_choice("name", loss, LOSSES)
    name, settings = loss_parts(loss)
    assert settings is not None  # those without are refused by now
    y_pred_ = _array("y_pred", y_pred, ("n", "n_out"))
    if name == SPARSE:
        y_true_ = _labels("y_true", _real("y_true", y_true), *y_pred_.shape)
    else:
        y_true_ = _array("y_true", y_true, y_pred_.shape, like=y_pred_)
    weight_ = None
    if sample_weight is not None:
        weight_ = _array("sample_weight", sample_weight, y_pred_.shape[:1], like=y_pred_)
    return name, settings, y_true_, y_pred_, weight_


def check_loss_gradient(
    loss: str | LossLike,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None,
    out: Array | None,
) -> tuple[str, LossSettings, Array, Array, Array | None, Array]:
    """Checked (name, settings, y_true, y_pred, sample_weight, out)."""
    name, settings, y_true_, y_pred_, weight_ = check_loss(loss, y_true, y_pred, sample_weight)
    read = {"y_true": y_true, "y_pred": y_pred, "sample_weight": sample_weight}
    out = check_out(out, y_pred_.shape, y_pred_.dtype, read)
    return name, settings, y_true_, y_pred_, weight_, out


def check_noise(
    x: ArrayLike,
    name: str,
    amount: float,
    seed: int,
    iteration: int,
    layer: int,
    out: Array | None,
) -> tuple[Array, float, int, int, int, Array]:
    """Checked (x, amount, seed, iteration, layer, out), of a rate or stddev; `out` may be `x`."""
    x_ = _array("x", x, ("n", "units"))
    high = 1.0 if name == "rate" else math.inf
    return (
        x_,
        check_real(name, amount, low=0, high=high, high_open=True),
        check_int("seed", seed, low=0, high=2**64 - 1),
        check_int("iteration", iteration, low=0, high=2**63 - 1),
        check_int("layer", layer, low=0, high=2**32 - 1),
        check_out(out, x_.shape, x_.dtype, {"x": x}, same=True),
    )


def check_normalization(
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    epsilon: float,
    out: Array | None,
) -> tuple[Array, Array | None, Array | None, float, Array]:
    """Checked (x, gamma, beta, epsilon, out); `out` may be `x`."""
    x_ = _array("x", x, ("n", "units"))
    gamma_ = None if gamma is None else _array("gamma", gamma, x_.shape[1:], like=x_)
    beta_ = None if beta is None else _array("beta", beta, x_.shape[1:], like=x_)
    epsilon = check_real("epsilon", epsilon, low=0, low_open=True)
    out = check_out(out, x_.shape, x_.dtype, {"x": x}, same=True)
    _check_apart({"out": out}, {"gamma": gamma, "beta": beta})
    return x_, gamma_, beta_, epsilon, out


def check_rms_normalization(
    x: ArrayLike, scale: ArrayLike | None, epsilon: float, out: Array | None
) -> tuple[Array, Array | None, float, Array]:
    """Checked (x, scale, epsilon, out); `out` may be `x`."""
    x_, _, _, epsilon, out = check_normalization(x, None, None, epsilon, out)
    scale_ = None if scale is None else _array("scale", scale, x_.shape[1:], like=x_)
    _check_apart({"out": out}, {"scale": scale})
    return x_, scale_, epsilon, out


def check_moments(
    x: Array, mean: ArrayLike, variance: ArrayLike, out: Array
) -> tuple[Array, Array]:
    """Checked (mean, variance) of the columns of x."""
    _check_apart({"out": out}, {"mean": mean, "variance": variance})
    mean_, variance_ = (
        _array(name, value, x.shape[1:], like=x)
        for name, value in (("mean", mean), ("variance", variance))
    )
    if not (variance_ >= 0).all():
        raise ValueError("variance: got a negative number or NaN; numbers >= 0 are needed")
    return mean_, variance_


# A step: w, dw, slots (the optimizer's, then the budget's), optimizer, iteration, l1, l2.
Update = tuple[Array, Array, list[Array], dict[str, Any], int, float, float]


def check_sgd_update(
    w: Array,
    dw: ArrayLike,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    l1: float,
    l2: float,
    l1_step: str,
    l1_budget: Array | None,
) -> Update:
    """The step, arrays flat; a velocity is left out when momentum is 0."""
    l1_step = check_choice("l1_step", l1_step, L1_STEPS)
    slots = {} if velocity is None else {"velocity": velocity}
    w_, dw_, slots_ = _update(w, dw, slots, l1_step, l1_budget)
    momentum = check_real("momentum", momentum, low=0, high=1)
    if momentum and velocity is None:
        raise ValueError(f"velocity: got None, momentum {momentum:g}; an array like w is needed")
    optimizer = {
        "kind": "sgd",
        "learning_rate": check_real("learning_rate", learning_rate, low=0),
        "momentum": momentum,
        "nesterov": _check_flag("nesterov", nesterov),
        "weight_decay": check_real("weight_decay", weight_decay, low=0),
        "l1_step": l1_step,
    }
    check_l1_step(optimizer)
    if not momentum and velocity is not None:
        del slots_[0]
    l1, l2 = check_real("l1", l1, low=0), check_real("l2", l2, low=0)
    return w_, dw_, slots_, optimizer, 0, l1, l2


def check_adam_update(
    w: Array,
    dw: ArrayLike,
    m: Array,
    v: Array,
    iteration: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float,
    l1: float,
    l2: float,
    l1_step: str,
    l1_budget: Array | None,
) -> Update:
    """The step, arrays flat."""
    l1_step = check_choice("l1_step", l1_step, L1_STEPS)
    w_, dw_, slots = _update(w, dw, {"m": m, "v": v}, l1_step, l1_budget)
    iteration = check_int("iteration", iteration, low=0, high=2**63 - 1)
    optimizer = {
        "kind": "adam",
        "learning_rate": check_real("learning_rate", learning_rate, low=0),
        "beta_1": check_real("beta_1", beta_1, low=0, high=1, high_open=True),
        "beta_2": check_real("beta_2", beta_2, low=0, high=1, high_open=True),
        "epsilon": check_real("epsilon", epsilon, low=0),
        "weight_decay": check_real("weight_decay", weight_decay, low=0),
        "l1_step": l1_step,
    }
    l1, l2 = check_real("l1", l1, low=0), check_real("l2", l2, low=0)
    return w_, dw_, slots, optimizer, iteration, l1, l2


def check_l1_step(optimizer: Mapping[str, Any]) -> None:
    """Refuse L1 steps that reach zero where a constant gradient's step does not settle."""
    kind, l1_step = optimizer["kind"], optimizer["l1_step"]
    if l1_step == "sign":
        return
    if kind in NO_THRESHOLD or optimizer.get("centered"):
        which = f"a centered {kind}" if optimizer.get("centered") else kind
        raise ValueError(f"l1_step: got {l1_step!r}; 'sign' is needed for {which}")
    if optimizer.get("momentum") == 1:
        raise ValueError(f"momentum: got 1; below 1 is needed for l1_step={l1_step!r}")


def _check_flag(argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument}: got {value!r}; True or False is needed")
    return bool(value)


_at_least_0 = partial(check_real, low=0)
_below_1 = partial(check_real, low=0, high=1, high_open=True)
_SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "learning_rate": _at_least_0,
    "momentum": partial(check_real, low=0, high=1),
    "nesterov": _check_flag,
    "amsgrad": _check_flag,
    "centered": _check_flag,
    "beta_1": _below_1,
    "beta_2": _below_1,
    "rho": _below_1,
    "epsilon": _at_least_0,
    "initial_accumulator_value": _at_least_0,
    "learning_rate_power": partial(check_real, high=0),
    "l1_regularization_strength": _at_least_0,
    "l2_regularization_strength": _at_least_0,
    "l2_shrinkage_regularization_strength": _at_least_0,
    "beta": _at_least_0,
    "weight_decay": _at_least_0,
    "l1_step": partial(check_choice, allowed=L1_STEPS),
}
_ADAM = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
_MEAN = {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7}
_SUM = {"learning_rate": 0.001, "initial_accumulator_value": 0.1}
OPTIMIZERS: dict[str, dict[str, Any]] = {  # settings and Keras' defaults
    "sgd": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    "adam": _ADAM | {"amsgrad": False},
    "adamax": _ADAM,
    "nadam": _ADAM,
    "rmsprop": _MEAN | {"momentum": 0.0, "centered": False},
    "adagrad": _SUM | {"epsilon": 1e-7},
    "adadelta": _MEAN | {"rho": 0.95},
    "lion": {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99},
    "ftrl": _SUM
    | {"learning_rate_power": -0.5, "beta": 0.0, "l1_regularization_strength": 0.0}
    | {"l2_regularization_strength": 0.0, "l2_shrinkage_regularization_strength": 0.0},
}


def check_optimizer(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings of the optimizer `name`, with Keras' defaults and "kind"."""
    check_choice("name", name, OPTIMIZERS)
    found = {"kind": name, **OPTIMIZERS[name], "weight_decay": 0.0, "l1_step": "sign"}
    for setting, value in settings.items():
        if setting == "kind" or setting not in found:
            allowed = [each for each in found if each != "kind"]
            raise TypeError(str(unknown_name(f"setting of {name}", setting, allowed)))
        found[setting] = _SETTINGS[setting](setting, value)
    if name == "ftrl" and found["learning_rate"] == 0:
        raise ValueError("learning_rate: got 0; more than 0 is needed for ftrl")
    check_l1_step(found)
    return found


def own_slots(optimizer: Mapping[str, Any]) -> int:
    """How many arrays of state the optimizer itself keeps.

    >>> own_slots({"kind": "rmsprop", "momentum": 0.9, "centered": True})
    3
    """
    kind = optimizer["kind"]
    if kind == "sgd":
        return 1 if optimizer["momentum"] else 0
    if kind == "adam":
        return 3 if optimizer.get("amsgrad") else 2
    if kind == "rmsprop":
        return 1 + bool(optimizer.get("centered")) + bool(optimizer.get("momentum"))
    return 1 if kind in ("adagrad", "lion") else 2


def update_slots(optimizer: Mapping[str, Any]) -> int:
    """`own_slots`, and the two of the cumulative L1 step."""
    return own_slots(optimizer) + 2 * (optimizer.get("l1_step") == "cumulative")


def n_slots(optimizer: Mapping[str, Any]) -> int:
    """`update_slots`, the sum of the gradients of batches, and the running mean of the weights."""
    accumulates = bool(optimizer.get("gradient_accumulation_steps"))
    return update_slots(optimizer) + accumulates + bool(optimizer.get("use_ema"))


def check_optimizer_update(
    name: str,
    w: Array,
    dw: ArrayLike,
    slots: Sequence[Array],
    iteration: int,
    l1: float,
    l2: float,
    settings: Mapping[str, Any],
) -> Update:
    """The step, arrays flat."""
    optimizer = check_optimizer(name, settings)
    if not isinstance(slots, Sequence) or len(slots) != n_slots(optimizer):
        got = len(slots) if isinstance(slots, Sequence) else type(slots).__name__
        raise ValueError(f"slots: got {got}; a list of {n_slots(optimizer)} arrays is needed")
    named = {f"slots[{i}]": slot for i, slot in enumerate(slots)}
    w_, dw_, slots_ = _update(w, dw, named, "sign", None)
    iteration = check_int("iteration", iteration, low=0, high=2**63 - 1)
    l1, l2 = check_real("l1", l1, low=0), check_real("l2", l2, low=0)
    return w_, dw_, slots_, optimizer, iteration, l1, l2


def new_slots(w: Array, optimizer: Mapping[str, Any]) -> list[Array]:
    """State before the first step: 0, but for a sum of squares and the mean of the weights."""
    slots = [np.zeros_like(w) for _ in range(n_slots(optimizer))]
    if optimizer.get("use_ema"):
        slots[-1][...] = w
    if "initial_accumulator_value" in optimizer:
        slots[0][...] = optimizer["initial_accumulator_value"]
    return slots


def check_optimizer_slots(name: str, w: ArrayLike, settings: Mapping[str, Any]) -> list[Array]:
    """`new_slots` of checked arguments."""
    return new_slots(_array("w", w, (...,)), check_optimizer(name, settings))


# ------------------------------------------------ the checks they share


def _as_array(argument: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{argument}: got a masked array, whose mask would be lost; fill it first")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument}: got no array, but rows of unequal length: {error}") from None


def _real(argument: str, value: Any) -> Array:
    array = _as_array(argument, value)
    if array.dtype.kind not in "biuf":
        got, hint = f"dtype {array.dtype}", ""
        if array.dtype.kind == "O":  # a data frame of columns unlike, or nothing like an array
            got = got if array.ndim else type(value).__name__
            hint = "; astype('float64') turns objects into them" if array.ndim else ""
        raise TypeError(f"{argument}: got {got}; real numbers are needed{hint}")
    return array


def _check_shape(argument: str, array: Array, allowed: Sequence[Any], hint: str = "") -> None:
    """Refuse a shape not `allowed`: sizes, names for any size, a leading ... for any axes."""
    fixed = [size for size in allowed if size is not ...]
    shape = array.shape[array.ndim - len(fixed) :] if len(fixed) < len(allowed) else array.shape
    if len(shape) != len(fixed) or any(
        size != need for size, need in zip(shape, fixed, strict=True) if not isinstance(need, str)
    ):
        words = ", ".join("..." if size is ... else str(size) for size in allowed)
        words = f"({words},)" if len(allowed) == 1 else f"({words})"
        raise ValueError(f"{argument}: got shape {array.shape}; {words} is needed{hint}")
    if array.size == 0:
        raise ValueError(f"{argument}: got shape {array.shape}, which is empty; values are needed")


def _converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` itself when it is C-contiguous, aligned and of `dtype`; else a copy that is."""
    if array.dtype != dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(array, dtype=dtype, order="C")
    array = np.asarray(array, order="C")
    return array if array.flags.aligned else array.copy()


def is_finite(array: Array) -> bool:
    """Whether no element is NaN or infinite.

    >>> is_finite(np.array([1e308, 1e308])), is_finite(np.array([np.inf, -np.inf]))
    (True, False)
    """
    flat, chunk = array.reshape(-1), 1 << 16
    # By pieces that stay in cache. The sum of squares by BLAS is sooner, 40 microseconds instead of
    # 70 to 120 for a million, but the threads of OpenBLAS then spin for tens of milliseconds on the
    # cores that are to train.
    return all(bool(np.isfinite(flat[i : i + chunk]).all()) for i in range(0, flat.size, chunk))


def _check_finite(argument: str, array: Array) -> None:
    if is_finite(array):
        return
    where = np.unravel_index(int(np.isfinite(array).argmin()), array.shape)
    place = f"row {where[0]}" + (f", column {where[1]}" if array.ndim > 1 else "")
    raise ValueError(
        f"{argument}: got {array[where]} at {place}; finite {array.dtype} values are needed"
    )


def _labels(argument: str, array: Array, n_rows: int, n_out: int) -> Array:
    """Class numbers (n_rows,) or (n_rows, 1) in [0, n_out), as int32 (n_rows,)."""
    hint = ""
    if array.ndim == 2 and array.shape[1] == n_out > 1:
        hint = "; one column a class goes with the loss 'categorical_crossentropy'"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    _check_shape(argument, array, (n_rows,), hint)
    integral = array.dtype.kind != "f" or bool((array == np.floor(array)).all())  # NaN: False
    if not integral or array.min() < 0 or array.max() >= n_out:
        good = (array >= 0) & (array < n_out)
        if array.dtype.kind == "f":
            good &= array == np.floor(array)
        row = int(good.argmin())
        raise ValueError(
            f"{argument}: got {array[row]} at row {row}; class numbers 0 to {n_out - 1} are needed"
        )
    return _converted(array, np.dtype(np.int32))


def _array(argument: str, value: Any, shape: Sequence[Any], like: Array | None = None) -> Array:
    """A read-only float array of `shape`, C-contiguous; of the dtype of `like` if given."""
    array = _as_array(argument, value)
    dtype = array.dtype.newbyteorder("=")
    if dtype.char not in "fd":
        raise TypeError(f"{argument}: got dtype {array.dtype}; float32 or float64 is needed")
    if like is not None and dtype != like.dtype:
        raise TypeError(f"{argument}: got dtype {dtype}; {like.dtype} is needed, one for all")
    _check_shape(argument, array, shape)
    return _converted(array, dtype)


def _target(argument: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array to write to, as it stands."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{argument}: got {type(out).__name__}; a NumPy array is needed")
    if out.dtype != dtype:
        raise TypeError(f"{argument}: got dtype {out.dtype}; {dtype} is needed")
    _check_shape(argument, out, shape)
    if not (out.flags.c_contiguous and out.flags.aligned):
        raise ValueError(
            f"{argument}: got strides {out.strides}; a C-contiguous, aligned array is needed"
        )
    if not out.flags.writeable:
        raise ValueError(f"{argument}: got a read-only array; a writable one is needed")
    return out


def _check_apart(
    targets: Mapping[str, Array | None], inputs: Mapping[str, Any], same: bool = False
) -> None:
    """Refuse targets that overlap each other or an input; `same` lets one be the very input."""
    seen = [(name, np.asarray(value)) for name, value in inputs.items() if value is not None]
    for name, target in targets.items():
        if target is None:
            continue
        for other, array in seen:
            if np.may_share_memory(target, array) and np.shares_memory(target, array):
                if same and other in inputs and _is_same(target, array):
                    continue
                raise ValueError(f"{name}: got memory that overlaps {other}; its own is needed")
        seen.append((name, target))


def _is_same(a: Array, b: Array) -> bool:
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def _dense(x: ArrayLike, kernel: ArrayLike) -> tuple[Array, Array]:
    x_ = _array("x", x, ("n", "n_in"))
    return x_, _array("kernel", kernel, (x_.shape[1], "n_out"), like=x_)


def _update(
    w: Array,
    dw: ArrayLike,
    slots: Mapping[str, Array],
    l1_step: str,
    l1_budget: Array | None,
) -> tuple[Array, Array, list[Array]]:
    """Flat views of the weights, their gradient and all state."""
    like = _array("w", w, (...,))
    w_ = _target("w", w, like.shape, like.dtype)
    dw_ = _array("dw", dw, like.shape, like=like)
    slots_ = {name: _target(name, slot, like.shape, like.dtype) for name, slot in slots.items()}
    if l1_step == "cumulative":
        slots_["l1_budget"] = _target("l1_budget", l1_budget, (2, *like.shape), like.dtype)
    _check_apart({"w": w_, **slots_}, {"dw": dw})
    budget = slots_.pop("l1_budget", None)
    flat = [slot.reshape(-1) for slot in slots_.values()]
    return (
        w_.reshape(-1),
        dw_.reshape(-1),
        flat + ([] if budget is None else list(budget.reshape(2, -1))),
    )
