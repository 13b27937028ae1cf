"""fastreg in plain NumPy: the readable specification, and the twin of the compiled engine.

The functions are those of `fastreg.functional`: same names, arguments, in-place behaviour, errors.
`Network` does what the engine does in one call: batches through forward, loss, backward and update.
Forward and backward of one thing stand together; the tables ACTIVATIONS, LOSSES, FUSED, ACCURACIES
and OPTIMIZERS hold one entry a thing. Sums (losses, penalties) are accumulated in float64.

Shapes: x (n, n_in), kernel (n_in, n_out), bias (n_out,), z = x @ kernel + bias and y = f(z) both
(n, n_out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastreg import inputs
from fastreg.inputs import ActivationLike, Array, Curve, Grouping, Groups, LossLike, LossSettings

CLIP = 1e-7  # Keras' epsilon(): crossentropies of probabilities clip them to [CLIP, 1 - CLIP]

# Overflow and NaN are values here, as in the engine: they end in the loss, which is looked at.
_quiet = np.errstate(all="ignore")


# ------------------------------------------------ activations


class Activation(NamedTuple):
    """y = f(z), and dz from dy and y, or z (`of_z`). `out` may be an input."""

    forward: Callable[[Array, Array, Curve | None], object]  # z, out, curve
    backward: Callable[[Array, Array, Array, Curve | None], object]  # y or z, dy, out, curve
    of_z: bool = False


def _of_y(
    forward: Callable[[Array, Array], object], backward: Callable[[Array, Array, Array], object]
) -> Activation:
    return Activation(
        lambda z, out, curve: forward(z, out), lambda y, dy, out, curve: backward(y, dy, out)
    )


def _of_z(value: Callable[..., Array], slope: Callable[..., Array]) -> Activation:
    """Of y = value(z, *curve) and f'(z) = slope(z, *curve)."""

    def forward(z: Array, out: Array, curve: Curve | None) -> None:
        np.copyto(out, value(z, *(curve or ())))

    def backward(z: Array, dy: Array, out: Array, curve: Curve | None) -> None:
        np.multiply(dy, slope(z, *(curve or ())), out=out)

    return Activation(forward, backward, of_z=True)


def _linear(z: Array, out: Array) -> None:
    if out is not z:
        np.copyto(out, z)


def _linear_backward(y: Array, dy: Array, out: Array) -> None:
    _linear(dy, out)


def _relu(z: Array, out: Array) -> None:
    np.maximum(z, 0, out=out)  # NaN stays NaN


def _relu_backward(y: Array, dy: Array, out: Array) -> None:
    np.multiply(dy, y > 0, out=out)


def _tanh_backward(y: Array, dy: Array, out: Array) -> None:
    slope = y * y
    np.subtract(1, slope, out=slope)
    np.multiply(dy, slope, out=out)


def _sigmoid(z: Array, out: Array) -> None:
    np.negative(z, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def _sigmoid_backward(y: Array, dy: Array, out: Array) -> None:
    slope = 1 - y
    slope *= y
    np.multiply(dy, slope, out=out)


def _softmax(z: Array, out: Array) -> None:
    np.subtract(z, z.max(axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)


def _softmax_backward(y: Array, dy: Array, out: Array) -> None:
    """dz = y * (dy - <dy, y>), the Jacobian diag(y) - y y' times dy."""
    mean = np.einsum("...k,...k->...", dy, y)[..., np.newaxis]
    np.multiply(dy - mean, y, out=out)


def _log_softmax(z: Array, out: Array) -> None:
    np.subtract(z, z.max(axis=-1, keepdims=True), out=out)
    out -= np.log(np.exp(out).sum(axis=-1, keepdims=True))


def _log_softmax_backward(y: Array, dy: Array, out: Array) -> None:
    np.subtract(dy, np.exp(y) * dy.sum(axis=-1, keepdims=True), out=out)


def _leaky_relu(z: Array, alpha: float, max_value: float, threshold: float) -> Array:
    below = alpha * np.maximum(z - threshold, np.finfo(z.dtype).min)
    return np.where(z > threshold, np.minimum(z, max_value), below)


def _leaky_relu_slope(z: Array, alpha: float, max_value: float, threshold: float) -> Array:
    slope = np.where(z > threshold, np.where(z < max_value, 1, 0), alpha)
    return slope.astype(z.dtype)


def _relu6(z: Array) -> Array:
    return np.minimum(np.maximum(z, 0), 6)


def _relu6_slope(z: Array) -> Array:
    return ((z > 0) & (z < 6)).astype(z.dtype)


def _elu(z: Array, alpha: float, *_: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _elu_slope(z: Array, alpha: float, *_: float) -> Array:
    return np.where(z > 0, 1, alpha * np.exp(z))


# Klambauer et al. 2017
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934


def _softplus(z: Array) -> Array:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _logistic(z: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-z))
    return y


def _softsign(z: Array) -> Array:
    y: Array = z / (1 + np.abs(z))
    return y


def _softsign_slope(z: Array) -> Array:
    slope: Array = (1 + np.abs(z)) ** -2
    return slope


def _share(z: Array, share: Array) -> Array:
    """z times a share of it, 0 at -infinity."""
    y: Array = np.maximum(z, np.finfo(z.dtype).min) * share
    return y


def _share_slope(z: Array, share: Array, slope: Array) -> Array:
    """The derivative of `_share`, where `slope` is that of the share."""
    largest = np.finfo(z.dtype).max
    both: Array = share + np.clip(z, -largest, largest) * slope
    return both


def _hard_silu_slope(z: Array) -> Array:
    return _share_slope(z, _relu6(z + 3) / 6, _relu6_slope(z + 3) / 6)


def _silu_slope(z: Array) -> Array:
    return _share_slope(z, _logistic(z), _logistic(z) * _logistic(-z))


def _normal(z: Array) -> tuple[Array, Array]:
    """The normal distribution's integral up to z, and its density."""
    wide = np.clip(z.astype(np.float64), -40, 40)
    integral = np.array([math.erfc(a) / 2 for a in (-wide / math.sqrt(2)).flat]).reshape(z.shape)
    density = np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    return integral.astype(z.dtype), density.astype(z.dtype)


def _gelu(z: Array) -> Array:
    return _share(z, _normal(z)[0])


def _gelu_slope(z: Array) -> Array:
    return _share_slope(z, *_normal(z))


def _gelu_tanh_u(z: Array) -> tuple[Array, Array]:
    """u = sqrt(8 / pi) (z + 0.044715 z^3), of which the logistic function is the share, and u'."""
    z = np.clip(z, -1000, 1000)
    factor, square = math.sqrt(8 / math.pi), z * z
    return factor * z * (1 + 0.044715 * square), factor * (1 + 3 * 0.044715 * square)


def _gelu_tanh(z: Array) -> Array:
    return _share(z, _logistic(_gelu_tanh_u(z)[0]))


def _gelu_tanh_slope(z: Array) -> Array:
    u, du = _gelu_tanh_u(z)
    return _share_slope(z, _logistic(u), _logistic(u) * _logistic(-u) * du)


def _mish(z: Array) -> Array:
    return _share(z, np.tanh(_softplus(z)))


def _mish_slope(z: Array) -> Array:
    share = np.tanh(_softplus(z))
    return _share_slope(z, share, (1 - share * share) * _logistic(z))


ACTIVATIONS = {
    "linear": _of_y(_linear, _linear_backward),
    "relu": _of_y(_relu, _relu_backward),
    "tanh": _of_y(np.tanh, _tanh_backward),
    "sigmoid": _of_y(_sigmoid, _sigmoid_backward),
    "softmax": _of_y(_softmax, _softmax_backward),
    "log_softmax": _of_y(_log_softmax, _log_softmax_backward),
    "leaky_relu": _of_z(_leaky_relu, _leaky_relu_slope),
    "relu6": _of_z(_relu6, _relu6_slope),
    "elu": _of_z(_elu, _elu_slope),
    "selu": _of_z(
        lambda z: SELU_SCALE * _elu(z, SELU_ALPHA),
        lambda z: SELU_SCALE * _elu_slope(z, SELU_ALPHA),
    ),
    "exponential": _of_z(np.exp, np.exp),
    "softplus": _of_z(_softplus, _logistic),
    "softsign": _of_z(_softsign, _softsign_slope),
    "hard_sigmoid": _of_z(lambda z: _relu6(z + 3) / 6, lambda z: _relu6_slope(z + 3) / 6),
    "hard_silu": _of_z(lambda z: _share(z, _relu6(z + 3) / 6), _hard_silu_slope),
    "silu": _of_z(lambda z: _share(z, _logistic(z)), _silu_slope),
    "gelu": _of_z(_gelu, _gelu_slope),
    "gelu_tanh": _of_z(_gelu_tanh, _gelu_tanh_slope),
    "mish": _of_z(_mish, _mish_slope),
}


@_quiet
def activation_forward(
    z: ArrayLike, activation: str | ActivationLike, *, out: Array | None = None
) -> Array:
    """y = f(z); softmax and log_softmax over the last axis.

    Parameters
    ----------
    z : (..., units) float32 or float64.
    activation : a name (`fastreg.inputs.ACTIVATIONS`), with Keras' defaults, or an `Activation`.
    out : like z, may be z.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> activation_forward([[-1.0, 2.0]], "relu")
    array([[0., 2.]])
    """
    z, kind, curve, out = inputs.check_activation_forward(z, activation, out)
    ACTIVATIONS[kind].forward(z, out, curve)
    return out


@_quiet
def activation_backward(
    y: ArrayLike, dy: ArrayLike, activation: str | ActivationLike, *, out: Array | None = None
) -> Array:
    """dz = f'(z) dy, from y = f(z), or from z where f' does not follow from y.

    Parameters
    ----------
    y, dy : (..., units) float32 or float64; y is z for `fastreg.inputs.ACTIVATIONS_OF_Z`.
    activation : as in `activation_forward`.
    out : like y, may be y or dy.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> activation_backward([[0.0, 2.0]], [[5.0, 5.0]], "relu")
    array([[0., 5.]])
    """
    y, dy, kind, curve, out = inputs.check_activation_backward(y, dy, activation, out)
    ACTIVATIONS[kind].backward(y, dy, out, curve)
    return out


# ------------------------------------------------ dense


@_quiet
def dense_forward(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    activation: str | ActivationLike = "linear",
    *,
    out: Array | None = None,
) -> Array:
    """y = f(x @ kernel + bias).

    Parameters
    ----------
    x : (n, n_in), kernel : (n_in, n_out), bias : (n_out,) or None; all float32 or all float64.
    activation : as in `activation_forward`.
    out : (n, n_out), apart from the inputs.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> dense_forward([[1.0, 2.0]], [[1.0], [1.0]], [0.5])
    array([[3.5]])
    """
    x, kernel, bias, kind, curve, out = inputs.check_dense_forward(x, kernel, bias, activation, out)
    np.matmul(x, kernel, out=out)
    if bias is not None:
        out += bias
    ACTIVATIONS[kind].forward(out, out, curve)
    return out


@_quiet
def dense_backward(
    x: ArrayLike,
    kernel: ArrayLike,
    y: ArrayLike,
    dy: ArrayLike,
    activation: str | ActivationLike = "linear",
    *,
    need_dx: bool = True,
    dx: Array | None = None,
    dkernel: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array, Array]:
    """(dx, dkernel, dbias) of `dense_forward` from dy; dx is None unless `need_dx`.

    dz = f'(z) dy, dx = dz @ kernel', dkernel = x' @ dz, dbias = the sum of the rows of dz.

    Parameters
    ----------
    x : (n, n_in), kernel : (n_in, n_out), y, dy : (n, n_out); all float32 or all float64.
    activation : as in `activation_forward`; y is z for those of `activation_backward`.
    dx, dkernel, dbias : arrays to write to, apart from the inputs and each other.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> dense_backward([[1.0, 2.0]], [[1.0], [1.0]], [[3.0]], [[1.0]])
    (array([[1., 1.]]), array([[1.],
           [2.]]), array([1.]))
    """
    x, kernel, y, dy, kind, curve, dx, dkernel, dbias = inputs.check_dense_backward(
        x, kernel, y, dy, activation, need_dx, dx, dkernel, dbias
    )
    dz = np.empty_like(dy)
    ACTIVATIONS[kind].backward(y, dy, dz, curve)
    if dx is not None:
        np.matmul(dz, kernel.T, out=dx)
    np.matmul(x.T, dz, out=dkernel)
    np.sum(dz, axis=0, out=dbias)
    return dx, dkernel, dbias


# ------------------------------------------------ penalties


def _penalty(w: Array, l1: float, l2: float) -> float:
    value = 0.0
    if l1:
        value += l1 * float(np.abs(w).sum(dtype=np.float64))
    if l2:
        flat = w.reshape(-1).astype(np.float64, copy=False)
        value += l2 * float(np.dot(flat, flat))
    return value


def _add_penalty_gradient(w: Array, l1: float, l2: float, dw: Array, scratch: Array) -> None:
    """dw += l1 sign(w) + 2 l2 w, with sign(0) = 0."""
    if l1:
        np.sign(w, out=scratch)
        scratch *= l1
        dw += scratch
    if l2:
        np.multiply(w, 2 * l2, out=scratch)
        dw += scratch


@_quiet
def penalty(w: ArrayLike, l1: float = 0.0, l2: float = 0.0) -> float:
    """l1 * sum |w| + l2 * sum w^2, accumulated in float64 (Keras' L1L2).

    Parameters
    ----------
    w : an array of any shape, float32 or float64.
    l1, l2 : coefficients, finite and >= 0.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> penalty([1.0, -2.0], l1=0.5, l2=0.25)
    2.75
    """
    return _penalty(*inputs.check_penalty(w, l1, l2))


@_quiet
def penalty_gradient(
    w: ArrayLike, l1: float = 0.0, l2: float = 0.0, *, out: Array | None = None
) -> Array:
    """l1 * sign(w) + 2 * l2 * w, with sign(0) = 0 (Keras' L1L2).

    Parameters
    ----------
    w : an array of any shape, float32 or float64.
    l1, l2 : coefficients, finite and >= 0.
    out : like w, may be w.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> penalty_gradient([1.0, -2.0, 0.0], l1=0.5, l2=0.25)
    array([ 1. , -1.5,  0. ])
    """
    w, l1, l2, out = inputs.check_penalty_gradient(w, l1, l2, out)
    dw = np.zeros_like(w)
    _add_penalty_gradient(w, l1, l2, dw, np.empty_like(w))
    np.copyto(out, dw)
    return out


# ------------------------------------------------ rates

LEAST_RATE = 1e-7  # Keras' epsilon, to which it clips probabilities


def _rates(y: Array) -> tuple[Array, Array]:
    """The means of the columns, brought into [1e-7, 1 - 1e-7], and which were there."""
    means = y.mean(axis=0, dtype=np.float64)
    clipped = np.clip(means, LEAST_RATE, 1 - LEAST_RATE)
    return clipped, clipped == means


def _kl_penalty(y: Array, kl: float, rate: float) -> float:
    m, _ = _rates(y)
    parts = rate * np.log(rate / m) + (1 - rate) * np.log((1 - rate) / (1 - m))
    return float(kl * len(y) * parts.sum())


def _kl_slopes(y: Array, kl: float, rate: float) -> Array:
    """The gradient by an element of each column."""
    m, within = _rates(y)
    found: Array = np.where(within, kl * ((1 - rate) / (1 - m) - rate / m), 0.0)
    return found


@_quiet
def kl_penalty(y: ArrayLike, kl: float, rate: float) -> float:
    """kl * n_batch * sum over columns of KL(rate || mean of the column), in float64.

    KL(p || m) = p log(p / m) + (1 - p) log((1 - p) / (1 - m)), of m brought into [1e-7, 1 - 1e-7]
    (Ng 2011, Sparse autoencoder; a sum over the rows as Keras' penalties of activities are).

    Parameters
    ----------
    y : (n_batch, n_out), float32 or float64, means in [0, 1].
    kl : coefficient, finite and >= 0.
    rate : in (0, 1).

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> round(kl_penalty([[0.0, 0.2], [0.4, 0.8]], kl=1.0, rate=0.2), 6)
    0.38549
    """
    return _kl_penalty(*inputs.check_kl_penalty(y, kl, rate))


@_quiet
def kl_penalty_gradient(y: ArrayLike, kl: float, rate: float, *, out: Array | None = None) -> Array:
    """The gradient of `kl_penalty`: kl * ((1 - rate) / (1 - m) - rate / m) down each column.

    0 where the mean m is not in [1e-7, 1 - 1e-7].

    Parameters
    ----------
    y, kl, rate : as in `kl_penalty`.
    out : like y, not y.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> kl_penalty_gradient([[0.0, 0.2], [0.4, 0.8]], kl=1.0, rate=0.2)
    array([[0. , 1.2],
           [0. , 1.2]])
    """
    y_, kl, rate, out = inputs.check_kl_penalty_gradient(y, kl, rate, out)
    out[...] = _kl_slopes(y_, kl, rate)
    return out


# ------------------------------------------------ group penalties


def _by_group(of_rows_or_columns: np.ufunc, a: Array, groups: Groups) -> Array:
    """`of_rows_or_columns` (np.add, np.maximum) over the elements of each group, (n_groups,)."""
    if groups.by_column:
        found: Array = of_rows_or_columns.reduce(a, axis=0)
        return found
    ends = groups.start[-1]
    each_row = of_rows_or_columns.reduce(a, axis=1)[groups.rows[:ends]]
    return of_rows_or_columns.reduceat(each_row, groups.start[:-1])


def _spread(of_groups: Array, groups: Groups, dtype: DTypeLike, of_others: Any = 0) -> Array:
    """One number a group as an array that broadcasts with the kernel."""
    if groups.by_column:
        return of_groups.astype(dtype)
    found = np.full((len(groups.rows), 1), of_others, dtype)
    named = groups.rows[: groups.start[-1]]
    found[named, 0] = np.repeat(of_groups, np.diff(groups.start))
    return found


def _norms(w: Array, groups: Groups) -> Array:
    wide = w.astype(np.float64)
    return np.sqrt(_by_group(np.add, wide * wide, groups))


def _group_penalty(w: Array, groups: Groups) -> float:
    return float(np.dot(groups.weight, _norms(w, groups)))


def _add_group_gradient(w: Array, groups: Groups, dw: Array) -> None:
    """dw += weight w_g / norm(w_g), nothing where w_g is 0."""
    norms = _norms(w, groups)
    slope = np.divide(groups.weight, norms, out=np.zeros_like(norms), where=norms != 0)
    dw += _spread(slope, groups, w.dtype) * w


def _group_prox(w: Array, step: Array, groups: Groups, l1: float) -> None:
    """In place, with a step for each group; rows in no group take its first one."""
    if l1:
        threshold = _spread(l1 * step, groups, w.dtype, l1 * step[0])
        w -= np.clip(w, -threshold, threshold)
    norms, taken = _norms(w, groups), groups.weight * step
    share = np.where(norms <= taken, 1, taken / np.where(norms == 0, 1, norms))
    w -= _spread(share, groups, w.dtype) * w


@_quiet
def group_penalty(
    w: ArrayLike,
    group_l1: float,
    groups: Grouping = "rows",
    *,
    sizes: float | Sequence[float] | None = None,
) -> float:
    """group_l1 * sum over the groups of sqrt(size) * norm(w_g) (Yuan and Lin 2006), in float64.

    Parameters
    ----------
    w : (n_in, n_out) float32 or float64.
    group_l1 : coefficient, finite and >= 0.
    groups : "rows" (what goes out of an input), "columns" (what goes into a unit), or lists of
        input numbers, a group being their rows; inputs in no list are in no group.
    sizes : what counts as the size of a group, one number or one a list; None counts its weights.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> group_penalty([[3.0, 4.0], [0.0, 0.0]], group_l1=1.0, sizes=1)
    5.0
    """
    w, found = inputs.check_group_penalty(w, group_l1, groups, sizes)
    return _group_penalty(w, found)


@_quiet
def group_penalty_gradient(
    w: ArrayLike,
    group_l1: float,
    groups: Grouping = "rows",
    *,
    sizes: float | Sequence[float] | None = None,
    out: Array | None = None,
) -> Array:
    """The gradient of `group_penalty`: group_l1 * sqrt(size) * w_g / norm(w_g), 0 where w_g is 0.

    Parameters
    ----------
    w, group_l1, groups, sizes : as in `group_penalty`.
    out : like w, apart from it.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> group_penalty_gradient([[3.0, 4.0], [0.0, 0.0]], group_l1=1.0, sizes=1)
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    w, found, out = inputs.check_group_gradient(w, group_l1, groups, sizes, out)
    out[...] = 0
    _add_group_gradient(w, found, out)
    return out


@_quiet
def group_prox(
    w: ArrayLike,
    step: float,
    group_l1: float,
    groups: Grouping = "rows",
    *,
    l1: float = 0.0,
    sizes: float | Sequence[float] | None = None,
    out: Array | None = None,
) -> Array:
    """The u with the least |u - w|^2 / 2 + step * (l1 * sum |u| + `group_penalty` of u).

    Elements first, w = sign(w) max(|w| - step l1, 0); then each group of a weight t = step *
    group_l1 * sqrt(size): w_g max(1 - t / norm(w_g), 0) (Simon, Friedman, Hastie and Tibshirani
    2013). Inputs in no group take the first part only.

    Parameters
    ----------
    w, group_l1, groups, sizes : as in `group_penalty`.
    step, l1 : finite and >= 0.
    out : like w, may be w.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> group_prox([[3.0, 4.0], [0.5, 0.0]], 1.0, group_l1=2.5, sizes=1)
    array([[1.5, 2. ],
           [0. , 0. ]])
    """
    step, found, l1, out = inputs.check_group_prox(w, step, group_l1, groups, l1, sizes, out)
    _group_prox(out, np.full(len(found.weight), step), found, l1)
    return out


@_quiet
def quadratic_descend(
    h: Array, l1: Array, group: Array, tol: float, max_sweeps: int, w: Array, g: Array
) -> float:
    """Coordinate descent of f(w) + sum over inputs j of l1_j sum |w_j| + group_j norm(w_j).

    f is a quadratic with second derivative `h` (n, n) for each unit. Moves w (n_out, n) and the
    gradient of f there, g, until no element of the subgradient nearest to 0 is above `tol`, or
    for `max_sweeps`; returns the largest (Friedman, Hastie and Tibshirani 2010).

    >>> w, g = np.zeros((1, 1)), np.array([[-3.0]])  # w^2 - 3 w + |w|
    >>> quadratic_descend(np.array([[2.0]]), np.ones(1), np.zeros(1), 1e-9, 5, w, g), w
    (0.0, array([[1.]]))
    """

    def softened(x: Array, t: Any) -> Array:
        found: Array = np.sign(x) * np.maximum(np.abs(x) - t, 0)
        return found

    for sweep in range(max_sweeps + 1):
        norm, soft = np.linalg.norm(w, axis=0), softened(g, l1)
        slope = np.linalg.norm(soft, axis=0)
        left = np.where(slope > group, 1 - group / slope, 0)
        at = g + group * w / np.where(norm > 0, norm, 1)
        inside = np.where(w != 0, at + l1 * np.sign(w), softened(at, l1))
        residual = float(np.abs(np.where(norm > 0, inside, left * soft)).max())
        if residual <= tol or sweep == max_sweeps:
            break
        for j in np.flatnonzero(np.diagonal(h) > 0):
            moved = softened(h[j, j] * w[:, j] - g[:, j], l1[j])
            length = np.linalg.norm(moved)
            share = (1 - group[j] / length) / h[j, j] if length > group[j] else 0.0
            step = share * moved - w[:, j]
            w[:, j] += step
            g += np.outer(step, h[j])
    return residual


# ------------------------------------------------ losses


class Loss(NamedTuple):
    """The losses of the rows (n,) in float64, and their gradient by what they are a function of."""

    # y_true, y_pred (or the logits z, in FUSED), settings
    rows: Callable[[Array, Array, LossSettings], Array]
    # y_true, y_pred, out, settings
    gradient: Callable[[Array, Array, Array, LossSettings], object]


def _squared(y: Array, p: Array, _: LossSettings) -> Array:
    error = p - y
    rows: Array = np.einsum("ij,ij->i", error, error, dtype=np.float64) / p.shape[1]
    return rows


def _squared_gradient(y: Array, p: Array, out: Array, _: LossSettings) -> None:
    np.subtract(p, y, out=out)
    out *= 2 / p.shape[1]


def _smooth(y: Array, share: float, s: LossSettings) -> Array:
    return y * (1 - s.label_smoothing) + share * s.label_smoothing if s.label_smoothing else y


def _binary(y: Array, p: Array, s: LossSettings) -> Array:
    if s.from_logits:
        return _binary_logits(y, p, s)
    y = _smooth(y, 0.5, s)
    q = np.clip(p, CLIP, 1 - CLIP)
    terms = y * np.log(q) + (1 - y) * np.log1p(-q)
    terms += p - p  # NaN for an infinite p, which the clip would hide
    rows: Array = -terms.mean(axis=1, dtype=np.float64)
    return rows


def _binary_gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
    if s.from_logits:
        _binary_logits_gradient(y, _logistic(p), out, s)
        return
    y = _smooth(y, 0.5, s)
    q = np.clip(p, CLIP, 1 - CLIP)
    np.subtract(q, y, out=out)
    out /= q * (1 - q) * p.shape[1]
    out *= q == p


def _categorical(y: Array, p: Array, s: LossSettings) -> Array:
    if s.from_logits:
        return _categorical_logits(y, p, s)
    y = _smooth(y, 1 / p.shape[1], s)
    q = p / p.sum(axis=1, keepdims=True)
    rows: Array = -(y * np.log(np.clip(q, CLIP, 1 - CLIP))).sum(axis=1, dtype=np.float64)
    return rows


def _of_logits(z: Array) -> Array:
    p = np.empty_like(z)
    _softmax(z, p)
    return p


def _categorical_gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
    if s.from_logits:
        _categorical_logits_gradient(y, _of_logits(p), out, s)
        return
    y = _smooth(y, 1 / p.shape[1], s)
    total = p.sum(axis=1, keepdims=True)
    q = p / total
    clipped = np.clip(q, CLIP, 1 - CLIP)  # never 0, which would make 0 / 0 of an absent class
    dq = -y / clipped
    dq *= clipped == q
    np.subtract(dq, np.einsum("ij,ij->i", dq, q)[:, np.newaxis], out=out)
    out /= total


def _sparse(y: Array, p: Array, s: LossSettings) -> Array:
    if s.from_logits:
        return _sparse_logits(y, p, s)
    total = p.sum(axis=1)
    q = p[np.arange(len(y)), y] / total
    q = np.clip(q, CLIP, 1 - CLIP) + (total - total)  # NaN for an infinite p in any class
    losses: Array = -np.log(q).astype(np.float64)
    return losses


def _sparse_gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
    if s.from_logits:
        _sparse_logits_gradient(y, _of_logits(p), out, s)
        return
    total = p.sum(axis=1)
    rows = np.arange(len(y))
    q = p[rows, y] / total
    clipped = np.clip(q, CLIP, 1 - CLIP)
    slope = (clipped == q) / total
    out[...] = slope[:, np.newaxis]
    out[rows, y] -= slope / clipped


def _over_outputs(
    value: Callable[..., Array],
    slope: Callable[..., Array],
    sums: bool = False,
    settled: bool = False,
) -> Loss:
    """A loss of each output apart: their mean over the columns, or their sum.

    value(y, p) and slope(y, p); with `settled` they take the settings, too.
    """

    def rows(y: Array, p: Array, s: LossSettings) -> Array:
        found = value(y, p, s) if settled else value(y, p)
        total: Array = found.sum(axis=1, dtype=np.float64)
        return total if sums else total / p.shape[1]

    def gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
        found = slope(y, p, s) if settled else slope(y, p)
        np.copyto(out, found / (1 if sums else p.shape[1]))

    return Loss(rows, gradient)


def _percentage(y: Array) -> Array:
    return 100 / np.maximum(np.abs(y), CLIP)


def _logarithmic(y: Array, p: Array) -> Array:
    error: Array = np.log(np.maximum(p, CLIP) + 1) - np.log(np.maximum(y, CLIP) + 1)
    return error


def _log_cosh(y: Array, p: Array) -> Array:
    size = np.abs(p - y)
    value: Array = size + np.log1p(np.exp(-2 * size)) - math.log(2)
    return value


def _divergence(y: Array, p: Array) -> Array:
    q = np.clip(y, CLIP, 1)
    value: Array = q * np.log(q / np.clip(p, CLIP, 1)) + (p - p) + (y - y)
    return value


def _divergence_slope(y: Array, p: Array) -> Array:
    inside = (p >= CLIP) & (p <= 1)
    slope: Array = np.where(inside, -np.clip(y, CLIP, 1) / np.clip(p, CLIP, 1), 0)
    return slope


def _margin(y: Array, p: Array) -> tuple[Array, Array]:
    """max(1 - t p, 0) of t = y, or 2 y - 1 for y of 0 and 1; and its slope."""
    sign = np.where(y == 0, -1, y)
    margin = np.maximum(0, 1 - sign * p) + (p - p) + (y - y)
    return margin, np.where(margin > 0, -sign, 0)


def _categorical_hinge(y: Array, p: Array, _: LossSettings) -> Array:
    margin = ((1 - y) * p).max(axis=1) - (y * p).sum(axis=1) + 1
    rows: Array = np.maximum(margin, 0) + (p - p + y - y).sum(axis=1)
    return rows.astype(np.float64)


def _categorical_hinge_gradient(y: Array, p: Array, out: Array, _: LossSettings) -> None:
    others = (1 - y) * p
    largest = others.max(axis=1, keepdims=True)
    share = (others == largest) / np.count_nonzero(others == largest, axis=1, keepdims=True)
    positive = largest - (y * p).sum(axis=1, keepdims=True) + 1 > 0
    np.copyto(out, np.where(positive, share * (1 - y) - y, 0))


def _unit(a: Array) -> tuple[Array, Array]:
    """a / max(|a|, CLIP) of each row, and |a| (n, 1)."""
    norm = np.sqrt(np.square(a, dtype=np.float64).sum(axis=1, keepdims=True))
    return a / np.maximum(norm, CLIP), norm


def _cosine(y: Array, p: Array, _: LossSettings) -> Array:
    rows: Array = -(_unit(y)[0] * _unit(p)[0]).sum(axis=1, dtype=np.float64)
    return rows


def _cosine_gradient(y: Array, p: Array, out: Array, _: LossSettings) -> None:
    (t, _norm), (u, norm) = _unit(y), _unit(p)
    along = np.where(norm < CLIP, 0, (t * u).sum(axis=1, keepdims=True))
    np.copyto(out, (along * u - t) / np.maximum(norm, CLIP))


def _huber(y: Array, p: Array, s: LossSettings) -> Array:
    size = np.abs(p - y)
    value: Array = np.where(size <= s.delta, size * size / 2, s.delta * (size - s.delta / 2))
    return value


def _huber_slope(y: Array, p: Array, s: LossSettings) -> Array:
    slope: Array = np.clip(p - y, -s.delta, s.delta)
    return slope


def _pinball_slope(y: Array, p: Array, s: LossSettings) -> Array:
    slope: Array = np.where(p > y, 1 - s.quantile, np.where(p < y, -s.quantile, 0))
    return slope


def _pinball(y: Array, p: Array, s: LossSettings) -> Array:
    value: Array = np.maximum(s.quantile * (y - p), (s.quantile - 1) * (y - p)) + (p - p) + (y - y)
    return value


def _focal_parts(y: Array, p: Array, s: LossSettings) -> tuple[Array, ...]:
    """The class' weight, what is missed of p, the crossentropy, its slope by p, 1 - y, p, 1 - p."""
    y = _smooth(y, 0.5, s)
    z, q = p, 1 - p
    if s.from_logits:
        p, q = _logistic(z), _logistic(-z)
    kept = np.clip(p, CLIP, 1 - CLIP)
    left = np.clip(q, CLIP, 1 - CLIP) if s.from_logits else 1 - kept
    entropy = -(y * np.log(kept) + (1 - y) * np.log(left))
    slope = np.where(kept == p, (1 - y) / left - y / kept, 0)
    weight = y * s.alpha + (1 - y) * (1 - s.alpha) if s.apply_class_balancing else np.ones_like(p)
    return weight, y * q + (1 - y) * p, entropy, slope, y, p, q


def _power(a: Array, power: float) -> Array:
    """|a|^power, 0 at 0 unless the power is."""
    if power == 0:
        return np.ones_like(a)
    value: Array = np.where(a == 0, 0, np.abs(a) ** power)
    return value


def _focal(y: Array, p: Array, s: LossSettings) -> Array:
    weight, missed, entropy, *_ = _focal_parts(y, p, s)
    value: Array = weight * _power(missed, s.gamma) * entropy + (p - p) + (y - y)
    return value


def _focal_slope(y: Array, p: Array, s: LossSettings) -> Array:
    weight, missed, entropy, slope, y, p, q = _focal_parts(y, p, s)
    steep = s.gamma * _power(missed, s.gamma - 1) * np.where(missed < 0, -1, 1) * (1 - 2 * y)
    by_p: Array = weight * (_power(missed, s.gamma) * slope + steep * entropy)
    return by_p * (p * q) if s.from_logits else by_p


LOSSES = {
    "mean_squared_error": Loss(_squared, _squared_gradient),
    "binary_crossentropy": Loss(_binary, _binary_gradient),
    "categorical_crossentropy": Loss(_categorical, _categorical_gradient),
    "sparse_categorical_crossentropy": Loss(_sparse, _sparse_gradient),
    "mean_absolute_error": _over_outputs(lambda y, p: np.abs(p - y), lambda y, p: np.sign(p - y)),
    "mean_absolute_percentage_error": _over_outputs(
        lambda y, p: np.abs(p - y) * _percentage(y), lambda y, p: np.sign(p - y) * _percentage(y)
    ),
    "mean_squared_logarithmic_error": _over_outputs(
        lambda y, p: _logarithmic(y, p) ** 2 + (p - p) + (y - y),
        lambda y, p: np.where(p < CLIP, 0, 2 * _logarithmic(y, p) / (np.maximum(p, CLIP) + 1)),
    ),
    "log_cosh": _over_outputs(_log_cosh, lambda y, p: np.tanh(p - y)),
    "poisson": _over_outputs(
        lambda y, p: p - y * np.log(p + CLIP), lambda y, p: 1 - y / (p + CLIP)
    ),
    "kl_divergence": _over_outputs(_divergence, _divergence_slope, sums=True),
    "hinge": _over_outputs(lambda y, p: _margin(y, p)[0], lambda y, p: _margin(y, p)[1]),
    "squared_hinge": _over_outputs(
        lambda y, p: _margin(y, p)[0] ** 2, lambda y, p: 2 * _margin(y, p)[0] * _margin(y, p)[1]
    ),
    "categorical_hinge": Loss(_categorical_hinge, _categorical_hinge_gradient),
    "cosine_similarity": Loss(_cosine, _cosine_gradient),
    "huber": _over_outputs(_huber, _huber_slope, settled=True),
    "quantile": _over_outputs(_pinball, _pinball_slope, settled=True),
    "binary_focal_crossentropy": _over_outputs(_focal, _focal_slope, settled=True),
}


def _binary_logits(y: Array, z: Array, s: LossSettings) -> Array:
    """-y log p - (1 - y) log(1 - p) without overflow or cancellation, p = sigmoid(z)."""
    y = _smooth(y, 0.5, s)
    terms = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    rows: Array = terms.mean(axis=1, dtype=np.float64)
    return rows


def _binary_logits_gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
    np.subtract(p, _smooth(y, 0.5, s), out=out)
    out *= 1 / p.shape[1]


def _shifted_logsumexp(z: Array) -> tuple[Array, Array]:
    """z less its row maxima (n, n_out), and log sum exp of that (n, 1)."""
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted, np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _categorical_logits(y: Array, z: Array, s: LossSettings) -> Array:
    y = _smooth(y, 1 / z.shape[1], s)
    shifted, logsum = _shifted_logsumexp(z)
    rows: Array = (y * (logsum - shifted)).sum(axis=1, dtype=np.float64)
    return rows


def _categorical_logits_gradient(y: Array, p: Array, out: Array, s: LossSettings) -> None:
    y = _smooth(y, 1 / p.shape[1], s)
    np.multiply(p, y.sum(axis=1, keepdims=True), out=out)
    out -= y


def _sparse_logits(y: Array, z: Array, _: LossSettings) -> Array:
    shifted, logsum = _shifted_logsumexp(z)
    rows: Array = logsum[:, 0] - shifted[np.arange(len(y)), y]
    rows += 0 * z.sum(axis=1)  # NaN for -infinity in any class
    return rows.astype(np.float64)


def _sparse_logits_gradient(y: Array, p: Array, out: Array, _: LossSettings) -> None:
    np.copyto(out, p)
    out[np.arange(len(y)), y] -= 1


# The last layer's activation and the loss as one function of the logits z; the gradient is dz, from
# p = f(z). Keras finds the same pairs and goes back to the logits.
FUSED = {
    ("sigmoid", "binary_crossentropy"): Loss(_binary_logits, _binary_logits_gradient),
    ("softmax", "categorical_crossentropy"): Loss(
        _categorical_logits, _categorical_logits_gradient
    ),
    ("softmax", "sparse_categorical_crossentropy"): Loss(_sparse_logits, _sparse_logits_gradient),
}


def _weighted_sum(rows: Array, sample_weight: Array | None) -> float:
    return float(rows.sum() if sample_weight is None else np.dot(rows, sample_weight))


def _weigh(drows: Array, sample_weight: Array | None) -> None:
    """The gradient of the batch value sum(w_i l_i) / n from those of the rows, in place."""
    if sample_weight is None:
        drows *= 1 / len(drows)
    else:
        drows *= (sample_weight / len(drows))[:, np.newaxis]


@_quiet
def loss(
    name: str | LossLike,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> float:
    """The value of a batch, sum(w_i l_i) / n with the row losses l_i of Keras.

    Crossentropies clip probabilities to [1e-7, 1 - 1e-7], after division by the row's sum for the
    categorical ones. These and kl_divergence are sums over the columns, the others means;
    categorical_hinge and cosine_similarity are of the row as a whole.

    Parameters
    ----------
    name : one of `fastreg.inputs.LOSSES`, or a `fastreg.losses.Loss` with its settings.
    y_true : (n, n_out) like y_pred, or class numbers (n,) for the sparse one.
    y_pred : (n, n_out) float32 or float64.
    sample_weight : (n,) like y_pred; None is 1.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> loss("mean_squared_error", [[1.0], [2.0]], [[1.0], [4.0]])
    2.0
    """
    found, settings, y_true, y_pred, sample_weight = inputs.check_loss(
        name, y_true, y_pred, sample_weight
    )
    return _weighted_sum(LOSSES[found].rows(y_true, y_pred, settings), sample_weight) / len(y_pred)


@_quiet
def loss_gradient(
    name: str | LossLike,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """The gradient of `loss` by y_pred, (n, n_out); 0 where a probability was clipped.

    Parameters
    ----------
    name, y_true, y_pred, sample_weight : as in `loss`.
    out : like y_pred, apart from the inputs.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> loss_gradient("mean_squared_error", [[1.0], [2.0]], [[1.0], [4.0]])
    array([[0.],
           [2.]])
    """
    found, settings, y_true, y_pred, sample_weight, out = inputs.check_loss_gradient(
        name, y_true, y_pred, sample_weight, out
    )
    LOSSES[found].gradient(y_true, y_pred, out, settings)
    _weigh(out, sample_weight)
    return out


def _binary_hits(y: Array, p: Array) -> float:
    return float(((p > 0.5) == y).mean(axis=1).sum())


def _categorical_hits(y: Array, p: Array) -> float:
    return float(np.count_nonzero(p.argmax(axis=1) == y.argmax(axis=1)))


def _sparse_hits(y: Array, p: Array) -> float:
    return float(np.count_nonzero(p.argmax(axis=1) == y))


ACCURACIES = {  # rows that are right; a row of binary targets counts by the share of its columns
    "binary": _binary_hits,
    "categorical": _categorical_hits,
    "sparse_categorical": _sparse_hits,
}


# ------------------------------------------------ noise


def philox4x32(counter: Sequence[Any], key: Sequence[int]) -> tuple[Any, Any, Any, Any]:
    """Four random 32-bit words from a counter of four and a key of two, by Philox4x32-10.

    Words are Python ints or uint64 arrays that broadcast. Source: Salmon, Moraes, Dror, Shaw,
    "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    >>> [f"{int(word):08x}" for word in philox4x32((0, 0, 0, 0), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def _noise_words(shape: tuple[int, ...], seed: int, iteration: int, layer: int) -> Array:
    """(n, units, uint64): a 32-bit word for each element; the four of a block are four columns."""
    n, units = shape
    block = np.arange((units + 3) // 4, dtype=np.uint64)
    row = np.arange(n, dtype=np.uint64)[:, np.newaxis]
    words = philox4x32((block, row, layer, iteration & 0xFFFFFFFF), (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(words, axis=-1).reshape(n, -1)


def _drop(words: Array, units: int, rate: float, dtype: DTypeLike) -> tuple[Array, None]:
    """0 where dropped, else 1 / (1 - rate)."""
    kept = words[:, :units] >= math.floor(rate * 2**32)
    return np.multiply(kept, 1 / (1 - rate), dtype=dtype), None


def _drop_to_limit(words: Array, units: int, rate: float, dtype: DTypeLike) -> tuple[Array, Array]:
    """What is dropped becomes selu's limit; then all are scaled and shifted."""
    limit = -SELU_ALPHA * SELU_SCALE
    scale = 1 / math.sqrt((1 - rate) * (1 + rate * limit**2))
    shift = -scale * limit * rate
    kept = words[:, :units] >= math.floor(rate * 2**32)
    offset = np.where(kept, shift, scale * limit + shift).astype(dtype)
    return np.multiply(kept, scale, dtype=dtype), offset


def _normal_of(words: Array, units: int, dtype: DTypeLike) -> Array:
    """(n, units) normal numbers: two of two words."""
    radius, angle = words[:, 0::2], words[:, 1::2]
    r = np.sqrt(-np.log(((radius + 0.5) * 2.0**-32).astype(dtype)))
    quarter = ((angle & 0x3FFFFFFF) + 0.5) * (math.pi / 2 * 2.0**-30) - math.pi / 4
    cosine, sine = np.cos(quarter.astype(dtype)), np.sin(quarter.astype(dtype))
    first = np.where(angle >> 31, -1, 1) * (r * (cosine - sine))
    second = np.where(angle >> 30 & 1, -1, 1) * (r * (cosine + sine))
    numbers = np.stack([first, second], axis=-1).reshape(len(words), -1)
    return numbers[:, :units].astype(dtype)


def _add_normal(words: Array, units: int, stddev: float, dtype: DTypeLike) -> tuple[None, Array]:
    return None, np.multiply(_normal_of(words, units, dtype), stddev, dtype=dtype)


def _scale_by_normal(words: Array, units: int, rate: float, dtype: DTypeLike) -> tuple[Array, None]:
    stddev = math.sqrt(rate / (1 - rate))
    return np.add(1, np.multiply(_normal_of(words, units, dtype), stddev, dtype=dtype)), None


# (words, units, rate or stddev, dtype) -> factor, offset of y = x * factor + offset, or None.
NOISES: dict[str, Callable[[Array, int, float, DTypeLike], tuple[Array | None, Array | None]]] = {
    "dropout": _drop,
    "gaussian_noise": _add_normal,
    "gaussian_dropout": _scale_by_normal,
    "alpha_dropout": _drop_to_limit,
}


def _noise(
    kind: str, x: Array, amount: float, seed: int, iteration: int, layer: int, out: Array
) -> Array | None:
    """Writes y = x * factor + offset to out; returns the factor, None for 1."""
    words = _noise_words(x.shape, seed, iteration, layer)
    factor, offset = NOISES[kind](words, x.shape[1], amount, x.dtype)
    np.multiply(x, 1 if factor is None else factor, out=out)
    if offset is not None:
        out += offset
    return factor


@_quiet
def dropout(
    x: ArrayLike,
    rate: float,
    *,
    seed: int,
    iteration: int = 0,
    layer: int = 0,
    out: Array | None = None,
) -> Array:
    """x with a share `rate` of its elements set to 0 and the others times 1 / (1 - rate).

    Which ones depends on the arguments alone: `philox4x32` with key = seed (low, high 32 bits) and
    counter = (column // 4, row, layer, iteration); an element is dropped when its word is below
    floor(rate * 2^32).

    Parameters
    ----------
    x : (n, units) float32 or float64.
    rate : in [0, 1).
    seed : 0 to 2^64 - 1. iteration, layer : integers >= 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> dropout([[1.0, 1.0, 1.0, 1.0]], 0.5, seed=7)
    array([[2., 2., 0., 0.]])
    """
    args = inputs.check_noise(x, "rate", rate, seed, iteration, layer, out)
    _noise("dropout", *args)
    return args[-1]


@_quiet
def gaussian_noise(
    x: ArrayLike,
    stddev: float,
    *,
    seed: int,
    iteration: int = 0,
    layer: int = 0,
    out: Array | None = None,
) -> Array:
    """x with normal numbers of standard deviation `stddev` added to its elements.

    Two words of `dropout`'s block give two numbers (Box and Muller 1958): r cos(t) and r sin(t),
    r = sqrt(-2 log u), u = (word 0 + 1/2) / 2^32, with t in a quarter of the circle by the 30 low
    bits of word 1, whose two high bits are the signs.

    Parameters
    ----------
    x : (n, units) float32 or float64.
    stddev : >= 0.
    seed : 0 to 2^64 - 1. iteration, layer : integers >= 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> gaussian_noise([[1.0, 1.0, 1.0, 1.0]], 0.1, seed=7).round(3)
    array([[0.97 , 1.   , 1.179, 1.107]])
    """
    args = inputs.check_noise(x, "stddev", stddev, seed, iteration, layer, out)
    _noise("gaussian_noise", *args)
    return args[-1]


@_quiet
def gaussian_dropout(
    x: ArrayLike,
    rate: float,
    *,
    seed: int,
    iteration: int = 0,
    layer: int = 0,
    out: Array | None = None,
) -> Array:
    """x times normal numbers of mean 1 and standard deviation sqrt(rate / (1 - rate)).

    The numbers are those of `gaussian_noise` (Srivastava et al. 2014, section 10).

    Parameters
    ----------
    x : (n, units) float32 or float64.
    rate : in [0, 1).
    seed : 0 to 2^64 - 1. iteration, layer : integers >= 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> gaussian_dropout([[1.0, 1.0, 1.0, 1.0]], 0.5, seed=7).round(3)
    array([[0.695, 1.   , 2.789, 2.068]])
    """
    args = inputs.check_noise(x, "rate", rate, seed, iteration, layer, out)
    _noise("gaussian_dropout", *args)
    return args[-1]


@_quiet
def alpha_dropout(
    x: ArrayLike,
    rate: float,
    *,
    seed: int,
    iteration: int = 0,
    layer: int = 0,
    out: Array | None = None,
) -> Array:
    """x with a share `rate` of its elements set to selu's limit, then scaled and shifted.

    An element is dropped where `dropout` drops it; a mean of 0 and a variance of 1 stay what they
    are (Klambauer, Unterthiner, Mayr and Hochreiter 2017).

    Parameters
    ----------
    x : (n, units) float32 or float64.
    rate : in [0, 1).
    seed : 0 to 2^64 - 1. iteration, layer : integers >= 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> alpha_dropout([[1.0, 1.0, 1.0, 1.0]], 0.5, seed=7).round(3)
    array([[ 1.666,  1.666, -0.779, -0.779]])
    """
    args = inputs.check_noise(x, "rate", rate, seed, iteration, layer, out)
    _noise("alpha_dropout", *args)
    return args[-1]


# ------------------------------------------------ normalization


def _mean_and_variance(x: Array, axis: int) -> tuple[Array, Array]:
    """Mean and variance along an axis, which stays; their sums are taken in float64."""
    mean = np.mean(x, axis, np.float64, keepdims=True)
    variance = np.mean(np.square(x - mean), axis, np.float64, keepdims=True)
    return mean.astype(x.dtype), variance.astype(x.dtype)


def _mean_square(x: Array) -> Array:
    """Of each row; its sum is taken in float64."""
    found: Array = np.mean(np.square(x), 1, np.float64, keepdims=True).astype(x.dtype)
    return found


def _scale_of(variance: Array, epsilon: float) -> Array:
    scale: Array = 1 / np.sqrt(variance + variance.dtype.type(epsilon))
    return scale


def _scaled(h: Array, gamma: Array | None, beta: Array | None) -> Array:
    y: Array = h if gamma is None else h * gamma
    return y if beta is None else np.add(y, beta)


@_quiet
def layer_normalization(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    epsilon: float = 1e-3,
    out: Array | None = None,
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, by the moments of each row.

    Ba, Kiros and Hinton 2016.

    Parameters
    ----------
    x : (n, units), gamma, beta : (units,) or None; all float32 or all float64.
    epsilon : > 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> layer_normalization([[1.0, 3.0]], [1.0, 2.0], epsilon=1e-12)
    array([[-1.,  2.]])
    """
    x, gamma, beta, epsilon, out = inputs.check_normalization(x, gamma, beta, epsilon, out)
    mean, variance = _mean_and_variance(x, 1)
    out[...] = _scaled((x - mean) * _scale_of(variance, epsilon), gamma, beta)
    return out


@_quiet
def rms_normalization(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    *,
    epsilon: float = 1e-6,
    out: Array | None = None,
) -> Array:
    """x / sqrt(mean of x^2 + epsilon) * scale, by the mean square of each row.

    Zhang and Sennrich 2019.

    Parameters
    ----------
    x : (n, units), scale : (units,) or None; both float32 or both float64.
    epsilon : > 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> rms_normalization([[1.0, 7.0]], [1.0, 2.0], epsilon=1e-12)
    array([[0.2, 2.8]])
    """
    x, scale, epsilon, out = inputs.check_rms_normalization(x, scale, epsilon, out)
    out[...] = _scaled(x * _scale_of(_mean_square(x), epsilon), scale, None)
    return out


@_quiet
def batch_normalization(
    x: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    epsilon: float = 1e-3,
    out: Array | None = None,
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, by given moments of the columns.

    Ioffe and Szegedy 2015.

    Parameters
    ----------
    x : (n, units), the others (units,), gamma and beta or None; all float32 or all float64.
    epsilon : > 0.
    out : like x, may be x.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> batch_normalization([[1.0], [3.0]], [2.0], [3.0], beta=[0.5], epsilon=1.0)
    array([[0.],
           [1.]])
    """
    x, gamma, beta, epsilon, out = inputs.check_normalization(x, gamma, beta, epsilon, out)
    mean, variance = inputs.check_moments(x, mean, variance, out)
    out[...] = _scaled((x - mean) * _scale_of(variance, epsilon), gamma, beta)
    return out


# ------------------------------------------------ optimizers


class Optimizer(NamedTuple):
    """An update in place; the gradient and the scratch array are overwritten."""

    # w, dw, slots, options, iteration, scratch
    update: Callable[[Array, Array, Sequence[Array], dict[str, Any], int, Array], object]
    # slots, options, iteration: rate and denominator d (1.0: none) of what L1 takes from |w| in a
    # step that is not by sign, rate l1 / d; None where such a step is not defined
    shrink: Callable[[Sequence[Array], dict[str, Any], int], tuple[float, Any]] | None


def _decay(w: Array, options: dict[str, Any], scratch: Array) -> None:
    """Decoupled weight decay, before the step: w -= lr wd w."""
    if options["weight_decay"]:
        np.multiply(w, options["learning_rate"] * options["weight_decay"], out=scratch)
        w -= scratch


def _sgd(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    dw *= options["learning_rate"]
    momentum = options["momentum"]
    if not momentum:
        w -= dw
        return
    velocity = slots[0]
    velocity *= momentum
    velocity -= dw
    if options["nesterov"]:
        np.multiply(velocity, momentum, out=scratch)
        w += scratch
        w -= dw
    else:
        w += velocity


def _sgd_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, float]:
    # Momentum makes of a constant gradient g the step lr g / (1 - momentum).
    return options["learning_rate"] / (1 - options["momentum"]), 1.0


def _threshold(l1: float, rate: float, d: Any) -> Any:
    """rate l1 / d, preconditioned as the step is (Yun, Lozano and Yang 2021).

    The bound of d spares a weight whose d is still near 0, which would be wiped out.
    """
    return np.asarray(rate * l1 / np.maximum(d, min(1e-5, l1 / 10))).astype(np.asarray(d).dtype)


def _towards(mean: Array, value: Array, share: float, scratch: Array) -> None:
    """mean += (value - mean) share"""
    np.subtract(value, mean, out=scratch)
    scratch *= share
    mean += scratch


def _moments(
    dw: Array, m: Array, v: Array, options: dict[str, Any], iteration: int, scratch: Array
) -> None:
    """The means of g and g^2, which both begin at 0; dw becomes its square."""
    _towards(m, dw, 1 - options["beta_1"], scratch)
    np.multiply(dw, dw, out=dw)
    _towards(v, dw, 1 - options["beta_2"], scratch)


def _adam(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    m, v, *largest = slots
    _moments(dw, m, v, options, iteration, scratch)
    for each in largest:  # amsgrad
        np.maximum(each, v, out=each)
        v = each
    t = iteration + 1
    np.sqrt(v, out=scratch)
    scratch += options["epsilon"]
    np.divide(m, scratch, out=scratch)
    correction = math.sqrt(1 - options["beta_2"] ** t) / (1 - options["beta_1"] ** t)
    scratch *= options["learning_rate"] * correction
    w -= scratch


def _adam_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, Array]:
    # Without the step's 1 / (1 - beta_1^t). The last own slot is what the step divides by.
    v = slots[inputs.own_slots(options) - 1]
    rate = options["learning_rate"] * math.sqrt(1 - options["beta_2"] ** (iteration + 1))
    return rate, np.sqrt(v) + options["epsilon"]


def _adamax(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    m, u = slots
    _towards(m, dw, 1 - options["beta_1"], scratch)
    u *= options["beta_2"]
    np.maximum(u, np.abs(dw), out=u)
    np.divide(m, u + options["epsilon"], out=scratch)
    scratch *= options["learning_rate"] / (1 - options["beta_1"] ** (iteration + 1))
    w -= scratch


def _adamax_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, Array]:
    return options["learning_rate"], slots[1] + options["epsilon"]


def _nadam(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    m, v = slots
    t = iteration + 1
    u = options["beta_1"] * (1 - 0.5 * 0.96 ** np.arange(1.0, min(t, 1000) + 1))
    now, following = (options["beta_1"] * (1 - 0.5 * 0.96**i) for i in (t, t + 1))
    product = float(u.prod()) * options["beta_1"] ** max(t - 1000, 0)
    step = (1 - now) / (1 - product) * dw
    _moments(dw, m, v, options, iteration, scratch)
    np.multiply(m, following / (1 - product * following), out=scratch)
    scratch += step
    scratch *= options["learning_rate"]
    scratch /= np.sqrt(v / (1 - options["beta_2"] ** t)) + options["epsilon"]
    w -= scratch


def _nadam_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, Array]:
    # As for Adam, where epsilon stands beside the corrected root.
    correction = math.sqrt(1 - options["beta_2"] ** (iteration + 1))
    d = np.sqrt(slots[1]) + options["epsilon"] * correction
    return options["learning_rate"] * correction, d


def _rmsprop(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    v = slots[0]
    _towards(v, dw * dw, 1 - options["rho"], scratch)
    if options["centered"]:
        mean = slots[1]
        _towards(mean, dw, 1 - options["rho"], scratch)
        # Rounding may put the mean of squares below the square of the mean.
        v = np.maximum(v - mean * mean, 0)
    dw *= options["learning_rate"]
    dw /= np.sqrt(v + options["epsilon"])
    if options["momentum"]:
        momentum = slots[-1]
        momentum *= options["momentum"]
        momentum += dw
        dw = momentum
    w -= dw


def _rmsprop_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, Array]:
    rate = options["learning_rate"] / (1 - options["momentum"])
    return rate, np.sqrt(slots[0] + options["epsilon"])


def _adagrad(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    np.multiply(dw, dw, out=scratch)
    slots[0][...] += scratch
    dw *= options["learning_rate"]
    dw /= np.sqrt(slots[0] + options["epsilon"])
    w -= dw


def _adagrad_shrink(
    slots: Sequence[Array], options: dict[str, Any], iteration: int
) -> tuple[float, Array]:
    return options["learning_rate"], np.sqrt(slots[0] + options["epsilon"])


def _adadelta(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    of_gradients, of_steps = slots
    share, epsilon = 1 - options["rho"], options["epsilon"]
    _towards(of_gradients, dw * dw, share, scratch)
    step = np.sqrt(of_steps + epsilon) * dw / np.sqrt(of_gradients + epsilon)
    _towards(of_steps, step * step, share, scratch)
    w -= options["learning_rate"] * step


def _lion(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    m = slots[0]
    np.subtract(dw, m, out=scratch)
    scratch *= 1 - options["beta_1"]
    scratch += m
    np.sign(scratch, out=scratch)
    scratch *= options["learning_rate"]
    w -= scratch
    _towards(m, dw, 1 - options["beta_2"], scratch)


def _ftrl(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    options: dict[str, Any],
    iteration: int,
    scratch: Array,
) -> None:
    n, z = slots
    rate, power = options["learning_rate"], -options["learning_rate_power"]
    l1, l2 = options["l1_regularization_strength"], options["l2_regularization_strength"]
    tiny = np.finfo(w.dtype).tiny
    # The change of n**power, not as a difference: where dw**2 is some units of n, that is rounding.
    growth = np.log1p(dw * dw / np.maximum(n, tiny))
    n += dw * dw
    after = n**power
    change = -after * np.expm1(-power * growth) if power > 0 else np.zeros_like(n)
    z += dw + 2 * options["l2_shrinkage_regularization_strength"] * w - change / rate * w
    curvature = after / rate + (2 * l2 + options["beta"] / rate)
    # Where nothing has happened yet, 0 / 0, w is 0.
    w[...] = (np.clip(z, -l1, l1) - z) / np.maximum(curvature, tiny)


OPTIMIZERS = {
    "sgd": Optimizer(_sgd, _sgd_shrink),
    "adam": Optimizer(_adam, _adam_shrink),
    "adamax": Optimizer(_adamax, _adamax_shrink),
    "nadam": Optimizer(_nadam, _nadam_shrink),
    "rmsprop": Optimizer(_rmsprop, _rmsprop_shrink),
    "adagrad": Optimizer(_adagrad, _adagrad_shrink),
    "adadelta": Optimizer(_adadelta, None),
    "lion": Optimizer(_lion, None),
    "ftrl": Optimizer(_ftrl, None),
}


def _proximal(w: Array, threshold: Any, budget: Sequence[Array]) -> None:
    w -= np.clip(w, -threshold, threshold)


def _cumulative(w: Array, threshold: Any, budget: Sequence[Array]) -> None:
    above, below = budget
    above += threshold
    below += threshold
    taken = np.clip(w, -below, above)
    w -= taken
    above -= taken
    below += taken


# How L1 acts after the optimizer's step; "sign" acts in the gradient.
L1_STEPS = {"sign": None, "proximal": _proximal, "cumulative": _cumulative}


def _step(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    optimizer: dict[str, Any],
    iteration: int,
    l1: float,
    l2: float,
    scratch: Array,
) -> None:
    """A regularized step, dw and scratch overwritten; slots: the optimizer's, then L1's."""
    kind = OPTIMIZERS[optimizer["kind"]]
    own = inputs.own_slots(optimizer)
    l1_step = L1_STEPS[optimizer.get("l1_step", "sign")]
    _add_penalty_gradient(w, l1 if l1_step is None else 0.0, l2, dw, scratch)
    _decay(w, optimizer, scratch)
    kind.update(w, dw, slots[:own], optimizer, iteration, scratch)
    if l1 and l1_step is not None:
        assert kind.shrink is not None
        l1_step(w, _threshold(l1, *kind.shrink(slots, optimizer, iteration)), slots[own:])


def _group_step(
    w: Array,
    dw: Array,
    slots: Sequence[Array],
    optimizer: dict[str, Any],
    iteration: int,
    l1: float,
    l2: float,
    groups: Groups,
    scratch: Array,
) -> None:
    """A step under a group penalty, dw and scratch overwritten.

    The proximal one has one denominator d_g a group, its largest: a minimum has
    g_i = -weight w_i / norm(w_g), and w = prox(w - rate g / d) of a threshold rate weight / d_g is
    at rest where g_i = -weight (d_i / d_g) w_i / norm(w_g), the same only if d_i = d_g.
    """
    if optimizer.get("l1_step", "sign") == "sign":
        _add_group_gradient(w, groups, dw)
        _step(w, dw, slots, optimizer, iteration, l1, l2, scratch)
        return
    kind = OPTIMIZERS[optimizer["kind"]]
    plain = w.copy()
    _step(plain, dw, slots, optimizer, iteration, 0.0, l2, scratch)
    assert kind.shrink is not None
    rate, d = kind.shrink(slots, optimizer, iteration)
    d = np.broadcast_to(np.asarray(d, w.dtype), w.shape)
    largest = _by_group(np.maximum, d, groups).astype(np.float64)
    others = np.ones(len(w), bool)  # each of their elements on its own
    if not groups.by_column:
        others[groups.rows[: groups.start[-1]]] = False
        alone = plain[others]
        if l1:
            _proximal(alone, _threshold(l1, rate, d[others]), ())
    _decay(w, optimizer, scratch)
    w += (plain - w) * (d * _spread(1 / largest, groups, w.dtype))
    # The bound of `_threshold`: at a minimum of a group that is not 0, d_g is ten times as large.
    sizes = _by_group(np.add, np.ones_like(w), groups)
    least = np.minimum(1e-5, (l1 + groups.weight / np.sqrt(sizes)) / 10)
    _group_prox(w, rate / np.maximum(largest, least), groups, l1)
    if not groups.by_column:
        w[others] = alone


@_quiet
def sgd_update(
    w: Array,
    dw: ArrayLike,
    velocity: Array | None = None,
    *,
    learning_rate: float = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    l1_step: str = "sign",
    l1_budget: Array | None = None,
) -> None:
    """One step of stochastic gradient descent, w and velocity in place.

    g = dw + l1 sign(w) + 2 l2 w, then w -= lr wd w, then velocity = momentum velocity - lr g and
    w += velocity, or with Nesterov w += momentum velocity - lr g (Keras' form). Without momentum
    w -= lr g, and a velocity that was given is left alone.

    l1_step says how L1 acts: "sign" as above. The others leave it out of g and end the step by
    taking from |w|, until weights land on 0: "proximal" T = lr l1 / (1 - momentum),
    "cumulative" what such steps could have taken so far and have not (Tsuruoka et al. 2009).

    Parameters
    ----------
    w, velocity : arrays of one shape, float32 or float64, C-contiguous. dw : like w.
    learning_rate, weight_decay, l1, l2 : finite and >= 0. momentum : in [0, 1];
        below 1 where l1_step is not "sign".
    l1_step : "sign", "proximal" or "cumulative".
    l1_budget : (2, *w.shape), zeros at first, in place: what "cumulative" may still take from a
        positive and from a negative weight.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit; then nothing was written.

    >>> import numpy as np
    >>> w = np.array([1.0, -1.0])
    >>> sgd_update(w, np.array([1.0, 1.0]), learning_rate=0.5, l1=0.5)
    >>> w
    array([ 0.25, -1.25])
    """
    w, dw, slots, optimizer, iteration, l1, l2 = inputs.check_sgd_update(
        w,
        dw,
        velocity,
        learning_rate,
        momentum,
        nesterov,
        weight_decay,
        l1,
        l2,
        l1_step,
        l1_budget,
    )
    _step(w, dw.copy(), slots, optimizer, iteration, l1, l2, np.empty_like(w))


@_quiet
def adam_update(
    w: Array,
    dw: ArrayLike,
    m: Array,
    v: Array,
    *,
    iteration: int,
    learning_rate: float = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
    l1_step: str = "sign",
    l1_budget: Array | None = None,
) -> None:
    """One step of Adam (AdamW with weight_decay), w, m and v in place.

    g = dw + l1 sign(w) + 2 l2 w, then w -= lr wd w, then m += (g - m)(1 - beta_1),
    v += (g^2 - v)(1 - beta_2) and w -= a m / (sqrt(v) + epsilon) with t = iteration + 1 and
    a = lr sqrt(1 - beta_2^t) / (1 - beta_1^t) (Keras' form of Kingma and Ba 2015).

    l1_step says how L1 acts: "sign" as above. The others leave it out of g and end the step by
    taking from |w|, until weights land on 0: "proximal" T = lr sqrt(1 - beta_2^t) l1 / d, where
    d = sqrt(v) + epsilon, at least min(1e-5, l1 / 10) (Yun, Lozano and Yang 2021), "cumulative"
    what such steps could have taken so far and have not (Tsuruoka, Tsujii and Ananiadou 2009).

    Parameters
    ----------
    w, m, v : arrays of one shape, float32 or float64, C-contiguous. dw : like w.
    iteration : steps done before, >= 0. beta_1, beta_2 : in [0, 1).
    learning_rate, epsilon, weight_decay, l1, l2 : finite and >= 0.
    l1_step : "sign", "proximal" or "cumulative".
    l1_budget : (2, *w.shape), zeros at first, in place: what "cumulative" may still take from a
        positive and from a negative weight.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit; then nothing was written.

    >>> import numpy as np
    >>> w, m, v = np.ones(1), np.zeros(1), np.zeros(1)
    >>> adam_update(w, np.array([4.0]), m, v, iteration=0, learning_rate=0.5, epsilon=0.0)
    >>> print(w.round(6), m.round(6), v.round(6))
    [0.5] [0.4] [0.016]
    """
    w, dw, slots, optimizer, iteration, l1, l2 = inputs.check_adam_update(
        w,
        dw,
        m,
        v,
        iteration,
        learning_rate,
        beta_1,
        beta_2,
        epsilon,
        weight_decay,
        l1,
        l2,
        l1_step,
        l1_budget,
    )
    _step(w, dw.copy(), slots, optimizer, iteration, l1, l2, np.empty_like(w))


def optimizer_slots(name: str, w: ArrayLike, **settings: Any) -> list[Array]:
    """The state of an optimizer before its first step, for `optimizer_update`.

    Parameters
    ----------
    name, settings : as in `optimizer_update`.
    w : an array of any shape, float32 or float64.

    Returns
    -------
    list of arrays like w : what the optimizer keeps, then two for l1_step="cumulative".

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit.

    >>> optimizer_slots("adagrad", [1.0, 2.0])
    [array([0.1, 0.1])]
    """
    return inputs.check_optimizer_slots(name, w, settings)


@_quiet
def optimizer_update(
    name: str,
    w: Array,
    dw: ArrayLike,
    slots: Sequence[Array],
    *,
    iteration: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
    **settings: Any,
) -> None:
    """One step of any optimizer, w and its state in place.

    g = dw + l1 sign(w) + 2 l2 w, then w -= lr wd w, then the step that the class of that name in
    `fastreg.optimizers` describes. l1_step as there.

    Parameters
    ----------
    name : "sgd", "adam", "adamax", "nadam", "rmsprop", "adagrad", "adadelta", "lion" or "ftrl".
    w : an array of any shape, float32 or float64, C-contiguous. dw : like w.
    slots : from `optimizer_slots`, changed by every step.
    iteration : steps done before, >= 0. l1, l2 : finite and >= 0.
    settings : arguments of the class, Keras' defaults where they are left out.

    Raises
    ------
    TypeError, ValueError : naming the argument that does not fit; then nothing was written.

    >>> import numpy as np
    >>> w = np.array([1.0, -1.0])
    >>> slots = optimizer_slots("lion", w)
    >>> optimizer_update("lion", w, np.array([3.0, 0.1]), slots, learning_rate=0.25)
    >>> w
    array([ 0.75, -1.25])
    """
    w, dw, flat, optimizer, iteration, l1, l2 = inputs.check_optimizer_update(
        name, w, dw, slots, iteration, l1, l2, settings
    )
    _step(w, dw.copy(), flat, optimizer, iteration, l1, l2, np.empty_like(w))


# ------------------------------------------------ the network


CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")  # bounds of gradients, at most one


class _Parameter:
    """A kernel or a bias, with room for its gradient and for a temporary of its update."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.value = np.zeros(shape, dtype)
        self.gradient = np.empty(shape, dtype)
        self.scratch = np.empty(shape, dtype)
        self.l1 = self.l2 = 0.0
        self.groups: Groups | None = None
        self.trained = True  # by gradients, where its layer is
        self.keeps = False  # out of the decoupled weight decay
        self.bound: inputs.Bound | None = None

    def configure(self, of: str, settings: dict[str, Any]) -> None:
        """Take the settings of a kernel or a bias."""
        self.l1, self.l2 = settings[f"{of}_l1"], settings[f"{of}_l2"]
        self.keeps = settings.get(f"keeps_{of}", False)
        self.bound = settings.get(f"{of}_constraint")

    def penalty(self) -> float:
        value = _penalty(self.value, self.l1, self.l2)
        return value if self.groups is None else value + _group_penalty(self.value, self.groups)

    def change(self, total: Array | None, optimizer: dict[str, Any], is_last: bool) -> None:
        """The gradient as a whole: with the penalty's, the mean of the batches, a bound."""
        by_sign = optimizer.get("l1_step", "sign") == "sign"
        l1 = self.l1 if by_sign else 0.0
        _add_penalty_gradient(self.value, l1, self.l2, self.gradient, self.scratch)
        if by_sign and self.groups is not None:
            _add_group_gradient(self.value, self.groups, self.gradient)
        if total is not None:
            total += self.gradient
            if not is_last:
                return
            np.multiply(total, 1 / optimizer["gradient_accumulation_steps"], out=self.gradient)
            total[...] = 0
        limit = optimizer.get("clipvalue")
        if limit:
            np.clip(self.gradient, -limit, limit, out=self.gradient)

    def step(
        self, slots: list[Array], optimizer: dict[str, Any], iteration: int, changed: bool
    ) -> None:
        """The update; a changed gradient has the penalty's in it."""
        if self.keeps:
            optimizer = {**optimizer, "weight_decay": 0.0}
        by_sign = optimizer.get("l1_step", "sign") == "sign"
        l1 = 0.0 if changed and by_sign else self.l1
        l2 = 0.0 if changed else self.l2
        arrays = self.value, self.gradient, slots, optimizer, iteration, l1, l2
        if self.groups is None or (changed and by_sign):
            _step(*arrays, self.scratch)
        else:
            _group_step(*arrays, self.groups, self.scratch)

    def constrain(self) -> None:
        """Back to what is allowed, after a step."""
        if self.bound is None:
            return
        kind, low, high, rate, per_row, per_column = self.bound
        if kind == "non_neg":
            np.maximum(self.value, 0, out=self.value)
            return
        axis = 1 if per_row else 0 if per_column else None
        square = np.square(self.value.astype(np.float64)).sum(axis=axis, keepdims=True)
        norms = np.sqrt(square)
        wanted = np.clip(norms, low, high)
        if rate != 1:
            wanted = rate * wanted + (1 - rate) * norms
        self.value *= (wanted / (1e-7 + norms)).astype(self.value.dtype)


def _round_to_bfloat16(x: Array) -> Array:
    """float32 to the nearest number of 8 significant bits, ties to even; subnormals to 0."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).astype(np.uint32).view(np.float32)
    rounded[np.abs(x) < np.finfo(np.float32).tiny] = 0
    return np.where(np.isfinite(x), rounded, x)


class _Context(NamedTuple):
    """What a layer's way forward depends on beside its rows."""

    position: int  # of the layer in the network
    training: tuple[int, int] | None  # seed and iteration; None: inference
    keep_z: bool  # the loss wants z of the layer


class _Layer:
    """What each kind of layer has."""

    trainable = False  # one with parameters that are updated
    kernel: _Parameter | None = None
    bias: _Parameter | None = None
    times = 1  # its rows, for one of the network: a later flatten makes one of them
    rounds = False  # the operands of a training step's products to bfloat16
    z: Array

    def __init__(self, settings: dict[str, Any], dtype: DTypeLike) -> None:
        self.n_in, self.n_out, self.dtype = settings["n_in"], settings["n_out"], dtype
        self.make(settings)
        self.parameters = [each for each in (self.kernel, self.bias) if each is not None]
        self.configure(settings)
        self.reserve(0)

    def make(self, settings: dict[str, Any]) -> None:
        """What never changes."""

    def configure(self, settings: dict[str, Any]) -> None:
        """What may change between steps."""

    def reserve(self, n: int) -> None:
        """Buffers for batches of n rows; pages that no step writes to cost nothing."""

    def forward(self, x: Array, context: _Context) -> Array:
        raise NotImplementedError

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        """Gradients of the parameters, and dx where it is needed, from dy, which is overwritten.

        Of a loss that is fused with the activation it is dz.
        """
        raise NotImplementedError

    def is_trained(self) -> bool:
        """Whether a step updates any of its parameters."""
        return self.trainable and any(parameter.trained for parameter in self.parameters)

    def activity_penalty(self) -> float:
        """Times n: the penalty itself is divided by the rows of the batch."""
        return 0.0

    def settle(self) -> None:
        """What a step leaves behind beside the parameters' updates."""


class _Activation(_Layer):
    """y = f(x), and the penalty of y."""

    def make(self, settings: dict[str, Any]) -> None:
        self.activation = ACTIVATIONS[settings["activation"]]
        self.curve: Curve | None = settings.get("curve")

    def configure(self, settings: dict[str, Any]) -> None:
        self.activity_l1, self.activity_l2 = settings["activity_l1"], settings["activity_l2"]
        self.activity_kl = settings.get("activity_kl", 0.0)
        self.activity_rate = settings.get("activity_rate", 0.0)  # 0: no such penalty
        self.own: inputs.OwnActivity | None = settings.get("activity_own")

    def reserve(self, n: int) -> None:
        self.y_buffer = np.empty((n, self.n_out), self.dtype)
        self.z_buffer = np.empty((n, self.n_out), self.dtype)

    def find_z(self, x: Array, context: _Context) -> None:
        """Write to z."""
        self.z[...] = x

    def forward(self, x: Array, context: _Context) -> Array:
        self.x, self.y, self.trains = x, self.y_buffer[: len(x)], context.training is not None
        keep_z = context.keep_z or self.activation.of_z
        self.z = self.z_buffer[: len(x)] if keep_z else self.y
        self.find_z(x, context)
        self.activation.forward(self.z, self.y, self.curve)
        return self.y

    def activity_penalty(self) -> float:
        value = _penalty(self.y, self.activity_l1, self.activity_l2)
        if self.activity_rate:
            value += _kl_penalty(self.y, self.activity_kl / self.times, self.activity_rate)
        if self.own is None:
            return value
        if not self.trains:
            return value + self.own.value(self.y.copy())
        own, self.own_gradient = self.own.step(self.y.copy())
        return value + own

    def add_activity_gradient(self, dy: Array) -> None:
        """dy += that of the activity's penalties, which are divided by the rows."""
        n = len(dy) // self.times
        l1, l2 = self.activity_l1 / n, self.activity_l2 / n
        _add_penalty_gradient(self.y, l1, l2, dy, np.empty_like(dy))
        if self.activity_rate:
            dy += _kl_slopes(self.y, self.activity_kl / len(dy), self.activity_rate)
        if self.own is not None:
            dy += self.own_gradient

    def find_dz(self, dy: Array, is_dz: bool) -> Array:
        of = self.z if self.activation.of_z else self.y
        penalized = self.activity_l1 or self.activity_l2 or self.activity_rate or self.own
        if is_dz:
            dz = dy
            if penalized:
                dy = np.zeros_like(dz)
                self.add_activity_gradient(dy)
                self.activation.backward(of, dy, dy, self.curve)
                dz += dy
            return dz
        if penalized:
            self.add_activity_gradient(dy)
        self.activation.backward(of, dy, dy, self.curve)
        return dy

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        return self.find_dz(dy, is_dz)


class _Dense(_Activation):
    """y = f(x @ kernel + bias), with the buffers of a batch."""

    kernel: _Parameter

    def make(self, settings: dict[str, Any]) -> None:
        super().make(settings)
        self.kernel = _Parameter((self.n_in, self.n_out), self.dtype)
        self.bias = _Parameter((self.n_out,), self.dtype) if settings["use_bias"] else None

    def operand(self, x: Array) -> Array:
        """x as a product of a training step takes it."""
        return _round_to_bfloat16(x) if self.rounds else x

    def configure(self, settings: dict[str, Any]) -> None:
        super().configure(settings)
        self.trainable = settings["trainable"]
        self.kernel.groups = settings.get("kernel_groups")
        for of, parameter in (("kernel", self.kernel), ("bias", self.bias)):
            if parameter is not None:
                parameter.configure(of, settings)

    def reserve(self, n: int) -> None:
        super().reserve(n)
        self.dx_buffer = np.empty((n, self.n_in), self.dtype)

    def find_z(self, x: Array, context: _Context) -> None:
        if context.training is not None:
            np.matmul(self.operand(x), self.operand(self.kernel.value), out=self.z)
        else:
            np.matmul(x, self.kernel.value, out=self.z)
        if self.bias is not None:
            self.z += self.bias.value

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        dz = self.find_dz(dy, is_dz)
        if self.trainable:
            np.matmul(self.operand(self.x).T, self.operand(dz), out=self.kernel.gradient)
            if self.bias is not None:
                np.sum(dz, axis=0, out=self.bias.gradient)
        if not need_dx:
            return dz
        kernel = self.operand(self.kernel.value)
        return np.matmul(self.operand(dz), kernel.T, out=self.dx_buffer[: len(dz)])


class _Noise(_Layer):
    """y = x * factor + offset while training; identity at inference."""

    def make(self, settings: dict[str, Any]) -> None:
        self.kind: str = settings["kind"]

    def configure(self, settings: dict[str, Any]) -> None:
        amount = "stddev" if self.kind == "gaussian_noise" else "rate"
        self.amount, self.seed = settings[amount], settings["seed"]

    def reserve(self, n: int) -> None:
        self.y_buffer = np.empty((n, self.n_out), self.dtype)

    def forward(self, x: Array, context: _Context) -> Array:
        if context.training is None:
            return x
        (seed, iteration), y = context.training, self.y_buffer[: len(x)]
        seed = seed if self.seed is None else self.seed
        self.factor = _noise(self.kind, x, self.amount, seed, iteration, context.position, y)
        return y

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        if self.factor is not None:
            dy *= self.factor
        return dy


class _Flatten(_Layer):
    """n_out / n_in rows, which stand one after the other, become one."""

    def forward(self, x: Array, context: _Context) -> Array:
        return x.reshape(-1, self.n_out)

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        return dy.reshape(-1, self.n_in)


class _Normalization(_Layer):
    """y = h gamma + beta, h = (x - mean) scale; gamma is its kernel, beta its bias."""

    about_zero = False  # whether 0 is its mean
    mean: Array
    scale: Array  # 1 / sqrt(variance + epsilon)

    def make(self, settings: dict[str, Any]) -> None:
        shape = (self.n_out,)
        self.kernel = _Parameter(shape, self.dtype) if settings["use_gamma"] else None
        self.bias = _Parameter(shape, self.dtype) if settings["use_bias"] else None

    def configure(self, settings: dict[str, Any]) -> None:
        self.trainable = settings["trainable"]
        self.epsilon = settings["epsilon"]
        for of, parameter in (("kernel", self.kernel), ("bias", self.bias)):
            if parameter is not None:
                parameter.configure(of, settings)

    def normalize(self, x: Array, mean: Array, variance: Array) -> Array:
        self.mean, self.scale = mean, _scale_of(variance, self.epsilon)
        self.h = (x - mean) * self.scale
        gamma, beta = (None if each is None else each.value for each in (self.kernel, self.bias))
        return _scaled(self.h, gamma, beta)

    def find_gradients(self, dy: Array) -> None:
        """Of the parameters."""
        for parameter, terms in ((self.kernel, dy * self.h), (self.bias, dy)):
            if parameter is not None:
                np.sum(terms, axis=0, out=parameter.gradient)

    def find_dx(self, dy: Array, axis: int) -> Array:
        """dx where mean and variance are those of x along an axis."""
        g = dy if self.kernel is None else dy * self.kernel.value
        along = np.mean(g * self.h, axis, g.dtype, keepdims=True)
        mean = 0 if self.about_zero else np.mean(g, axis, g.dtype, keepdims=True)
        dx: Array = self.scale * (g - mean - self.h * along)
        return dx


class _LayerNormalization(_Normalization):
    """By rows: Ba, Kiros and Hinton 2016."""

    def forward(self, x: Array, context: _Context) -> Array:
        return self.normalize(x, *_mean_and_variance(x, 1))

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        if self.trainable:
            self.find_gradients(dy)
        return self.find_dx(dy, 1)


class _RMSNormalization(_LayerNormalization):
    """By rows, about 0: Zhang and Sennrich 2019."""

    about_zero = True

    def forward(self, x: Array, context: _Context) -> Array:
        return self.normalize(x, np.zeros((1, 1), x.dtype), _mean_square(x))


class _BatchNormalization(_Normalization):
    """By columns, in training by the batch's moments: Ioffe and Szegedy 2015.

    At inference, and when it is frozen, by the moving ones.
    """

    def __init__(self, settings: dict[str, Any], dtype: DTypeLike) -> None:
        super().__init__(settings, dtype)
        self.moving = [_Parameter((self.n_out,), dtype) for _ in range(2)]
        for parameter in self.moving:
            parameter.trained = False
        self.parameters += self.moving

    def configure(self, settings: dict[str, Any]) -> None:
        super().configure(settings)
        self.momentum = settings["momentum"]

    def forward(self, x: Array, context: _Context) -> Array:
        if context.training is None or not self.trainable:
            return self.normalize(x, self.moving[0].value, self.moving[1].value)
        self.moments = _mean_and_variance(x, 0)
        return self.normalize(x, *self.moments)

    def backward(self, dy: Array, is_dz: bool, need_dx: bool) -> Array:
        if not self.trainable:
            gamma = 1 if self.kernel is None else self.kernel.value
            return dy * (self.scale * gamma)
        self.find_gradients(dy)
        return self.find_dx(dy, 0)

    def settle(self) -> None:
        if self.trainable:
            for moving, of_batch in zip(self.moving, self.moments, strict=True):
                moving.value *= self.momentum
                moving.value += (1 - self.momentum) * of_batch[0]


LAYERS: dict[str, type[_Layer]] = {
    "dense": _Dense,
    "activation": _Activation,
    **dict.fromkeys(NOISES, _Noise),
    "layer_normalization": _LayerNormalization,
    "rms_normalization": _RMSNormalization,
    "batch_normalization": _BatchNormalization,
    "flatten": _Flatten,
}


def _of_python(own: Any, trains: bool) -> Loss:
    """That of a `losses.Custom`; training stops on a gradient that is not finite, too."""

    def rows(y: Array, p: Array, _: LossSettings) -> Array:
        p = p.copy()  # theirs to keep
        found: Array = own.rows(y, p)
        return found + 0 * own.slopes(y, p).sum(axis=1) if trains else found

    def gradient(y: Array, p: Array, out: Array, _: LossSettings) -> None:
        np.copyto(out, own.slopes(y, p.copy()))

    return Loss(rows, gradient)


class _LossOfOutputs(NamedTuple):
    """What a step minimizes: a function of the output, or of the last layer's z (`fused`)."""

    of: Loss
    settings: LossSettings
    fused: bool


def _take(rows: inputs.Rows | None, index: Array | None, first: int, last: int) -> Any:
    """rows[index[first:last]], or rows[first:last] without an index; with all zeros."""
    if rows is None:
        return None
    taken = rows[first:last] if index is None else rows.take(index[first:last], axis=0)
    return taken.dense() if isinstance(taken, inputs.SparseRows) else taken


class Network:
    """A stack of layers that trains in place; the engine's class in NumPy.

    The face is that of the compiled class. Arguments are taken as checked: `fastreg.Sequential`
    is the door for users.

    Parameters
    ----------
    layers : one dict a layer, n_in of one = n_out of the one before:
        {"kind": "dense", "n_in", "n_out", "activation", "use_bias", "trainable", "kernel_l1",
        "kernel_l2", "bias_l1", "bias_l2", "activity_l1", "activity_l2"}, with a group penalty
        "kernel_groups" (`inputs.Groups`), or
        {"kind": "activation", "n_in", "n_out", "activation", "activity_l1", "activity_l2"}, or one
        of noise, {"kind": "dropout", "n_in", "n_out", "rate", "seed"}, where seed None means the
        call's ("stddev" for a "gaussian_noise"), or
        {"kind": "layer_normalization", "n_in", "n_out", "use_gamma", "use_bias", "trainable",
        "epsilon", "kernel_l1", ...} of gamma and beta; a "batch_normalization" has "momentum", or
        {"kind": "flatten", "n_in", "n_out"}, which makes one row of n_out / n_in; x then has all of
        them in a row.
    dtype : "float32" or "float64".

    >>> no_penalties = dict.fromkeys(
    ...     [f"{of}_{l}" for of in ("kernel", "bias", "activity") for l in ("l1", "l2")], 0.0)
    >>> network = Network([{"kind": "dense", "n_in": 1, "n_out": 1, "activation": "linear",
    ...     "use_bias": False, "trainable": True, **no_penalties}], "float64")
    >>> network.set_weights([np.array([[3.0]])])
    >>> out = np.empty((2, 1))
    >>> network.forward(np.array([[1.0], [2.0]]), 32, out, 1)
    >>> out
    array([[3.],
           [6.]])
    """

    def __init__(self, layers: list[dict[str, Any]], dtype: str) -> None:
        self._layers = [LAYERS[settings["kind"]](settings, dtype) for settings in layers]
        for number, layer in enumerate(self._layers):
            layer.times = inputs.rows_before(layers, number)
        self._settings = layers
        self._parameters = [parameter for layer in self._layers for parameter in layer.parameters]
        self._last_activation: str = layers[-1].get("activation", "")
        self._slots: list[list[Array]] = []
        self._reserved = 0

    def update_layers(self, layers: list[dict[str, Any]]) -> None:
        """Take other coefficients, rates, seeds and trainable flags for the same layers."""
        for layer, settings in zip(self._layers, layers, strict=True):
            layer.configure(settings)
        self._settings = layers

    def compute_in(self, compute_dtype: str | None) -> None:
        """What training's products round their operands to: None, or "bfloat16"."""
        for layer in self._layers:
            layer.rounds = compute_dtype == "bfloat16"

    def get_weights(self) -> list[Array]:
        """Copies of [kernel, bias, ...]; of normalization gamma, beta, moving mean, variance."""
        return [parameter.value.copy() for parameter in self._parameters]

    def set_weights(self, weights: list[Array]) -> None:
        """Copy weights in, in the order of `get_weights`."""
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.value[...] = value

    def get_slots(self) -> list[list[Array]]:
        """Copies of the optimizer's state, slots like `get_weights`; [] before the first step."""
        return [[array.copy() for array in slot] for slot in self._slots]

    def set_slots(self, slots: list[list[Array]]) -> None:
        """Copy state in; [] starts it anew from zero."""
        self._slots = [
            [
                np.array(array, dtype=parameter.value.dtype).reshape(parameter.value.shape)
                for array, parameter in zip(slot, self._parameters, strict=True)
            ]
            for slot in slots
        ]

    def finite(self, n_threads: int = 1) -> bool:
        """Whether all weights are finite."""
        return all(bool(np.isfinite(parameter.value).all()) for parameter in self._parameters)

    def keep(self, n_threads: int = 1) -> bool:
        """Set weights and slots aside; False, and nothing done, if a weight is not finite."""
        if not self.finite():
            return False
        self._kept = self.get_weights(), self.get_slots()
        return True

    def put_back(self) -> None:
        """Weights and slots as `keep` set them aside."""
        weights, slots = self._kept
        self.set_weights(weights)
        self.set_slots(slots)

    @_quiet
    def train(
        self,
        x: inputs.Rows,
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
        ledger: Array,
        n_threads: int,
        scheduled: Sequence[tuple[str, int, Array]] = (),
        extra: Sequence[Any] = (),
        outputs: Array | None = None,
    ) -> int:
        """Train on rows index[start:stop] in batches of `batch_size`; return the steps done.

        `scheduled` has settings that change from step to step: name, number of the layer (-1: the
        learning rate), and one value for each step of the call. `extra` are penalties of another
        formula, `training.Extra`.

        `ledger` (6,) is added to, for each step of n rows, before its update:
        [n * data loss, n * kernel penalty, n * bias penalty, n * activity penalty, hits, n].
        `outputs` (stop - start, n_out) gets what the loss of each row saw.
        The first step whose loss is not finite ends the call; it changes nothing.
        """
        kernels = [layer.kernel for layer in self._layers if layer.trainable]
        if any(kernel is not None and kernel.groups is not None for kernel in kernels):
            inputs.check_group_step(optimizer["l1_step"])
        self._reserve(min(batch_size, stop - start))
        of, steps = self._loss(loss, trains=True), 0
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            optimizer = self._follow(scheduled, steps, optimizer)
            x_b, y_b, w_b = (_take(rows, index, first, last) for rows in (x, y, sample_weight))
            p = self._forward(x_b, of.fused, training=(seed, iteration))
            entry = self._ledger_entry(p, y_b, w_b, of, accuracy)
            if outputs is not None:
                outputs[first - start : last - start] = p
            for each in extra:
                value = self._parameters[each.position].value
                entry[each.entry] += (last - first) * each.regularizer.value(value)
            if not math.isfinite(entry[:4].sum()):
                break
            self._backward(p, y_b, w_b, of)
            for each in extra:
                if each.steps is None:
                    parameter = self._parameters[each.position]
                    parameter.gradient += each.regularizer.gradient(parameter.value)
            ledger += entry
            self._update(optimizer, iteration)
            for each in extra:
                if each.steps is not None:
                    value = self._parameters[each.position].value
                    value[...] = each.regularizer.prox(value, float(each.steps[steps]))
            steps += 1
            iteration += 1
        return steps

    @_quiet
    def evaluate(
        self,
        x: inputs.Rows,
        y: Array,
        sample_weight: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        loss: str | LossLike,
        accuracy: str | None,
        ledger: Array,
        n_threads: int,
        outputs: Array | None = None,
    ) -> None:
        """Add rows start to stop to the `ledger` of `train`, without dropout or update."""
        of = self._loss(loss, trains=False)
        self._reserve(min(batch_size, stop - start))
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            x_b, y_b, w_b = (_take(rows, None, first, last) for rows in (x, y, sample_weight))
            p = self._forward(x_b, of.fused, training=None)
            ledger += self._ledger_entry(p, y_b, w_b, of, accuracy)
            if outputs is not None:
                outputs[first - start : last - start] = p

    @_quiet
    def forward(self, x: inputs.Rows, batch_size: int, out: Array, n_threads: int) -> None:
        """Write the network's output for x (n, n_in) to out (n, n_out)."""
        self._reserve(min(batch_size, len(x)))
        for first in range(0, len(x), batch_size):
            last = first + batch_size
            out[first:last] = self._forward(_take(x, None, first, last), False, training=None)

    def densities(self, n_rows: int) -> list[float]:
        """1 for each layer: the twin leaves no zeros out."""
        return [1.0] * len(self._layers)

    def active_shares(self) -> list[float]:
        """1 for each layer: nor any units."""
        return [1.0] * len(self._layers)

    repeated = 0

    def repeat(self, x: object, y: object, iteration: int) -> None:
        """None: the twin has no short way to `train`."""

    def answer(self, x: object, out: object) -> None:
        """None: the twin has no short way to `forward`."""

    def _follow(
        self, scheduled: Sequence[tuple[str, int, Array]], step: int, optimizer: dict[str, Any]
    ) -> dict[str, Any]:
        """Take the settings of a step of the call; returns the optimizer's."""
        for name, number, values in scheduled:
            if number < 0:
                optimizer = {**optimizer, name: float(values[step])}
            else:
                settings = {**self._settings[number], name: float(values[step])}
                self._settings = [*self._settings]
                self._settings[number] = settings
                self._layers[number].configure(settings)
        return optimizer

    def _reserve(self, n: int) -> None:
        if n > self._reserved:
            for layer in self._layers:
                layer.reserve(n * layer.times)
            self._reserved = n

    def _loss(self, loss: str | LossLike, trains: bool) -> _LossOfOutputs:
        name, settings = inputs.loss_parts(loss)
        if settings is None:
            return _LossOfOutputs(_of_python(loss, trains), LossSettings(), fused=False)
        fused = None if settings.from_logits else FUSED.get((self._last_activation, name))
        return _LossOfOutputs(fused or LOSSES[name], settings, fused is not None)

    def _forward(self, x: Array, fused: bool, training: tuple[int, int] | None) -> Array:
        """The output; `training` is (seed, iteration) for noise, None for inference."""
        y = x.reshape(-1, self._layers[0].n_in)
        for position, layer in enumerate(self._layers):
            y = layer.forward(y, _Context(position, training, fused and layer is self._layers[-1]))
        return y

    def _ledger_entry(
        self,
        p: Array,
        y: Array,
        sample_weight: Array | None,
        loss: _LossOfOutputs,
        accuracy: str | None,
    ) -> Array:
        n = len(p)
        rows = loss.of.rows(y, self._layers[-1].z if loss.fused else p, loss.settings)
        trained = [layer for layer in self._layers if layer.trainable]
        return np.array(
            [
                _weighted_sum(rows, sample_weight),
                n * sum(layer.kernel.penalty() for layer in trained if layer.kernel is not None),
                n * sum(layer.bias.penalty() for layer in trained if layer.bias is not None),
                sum(layer.activity_penalty() for layer in self._layers),
                ACCURACIES[accuracy](y, p) if accuracy is not None else 0,
                n,
            ]
        )

    def _backward(
        self, p: Array, y: Array, sample_weight: Array | None, loss: _LossOfOutputs
    ) -> None:
        """Gradients of the trainable layers: nothing below the first of them is needed."""
        lowest = next((layer for layer in self._layers if layer.is_trained()), None)
        if lowest is None:
            return
        dy: Array = np.empty_like(p)
        loss.of.gradient(y, p, dy, loss.settings)
        _weigh(dy, sample_weight)
        is_dz = loss.fused
        for layer in reversed(self._layers):
            dy = layer.backward(dy, is_dz, need_dx=layer is not lowest)
            if layer is lowest:
                return
            is_dz = False

    def _update(self, optimizer: dict[str, Any], iteration: int) -> None:
        if len(self._slots) != inputs.n_slots(optimizer):
            new = [inputs.new_slots(parameter.value, optimizer) for parameter in self._parameters]
            self._slots = [list(slot) for slot in zip(*new, strict=True)]
        owners = [layer for layer in self._layers for _ in layer.parameters]
        trained = [
            (parameter, [slot[position] for slot in self._slots])
            for position, (parameter, layer) in enumerate(
                zip(self._parameters, owners, strict=True)
            )
            if layer.trainable and parameter.trained
        ]
        batches = optimizer.get("gradient_accumulation_steps") or 1
        is_last, done = (iteration + 1) % batches == 0, iteration // batches
        of_update = inputs.update_slots(optimizer)
        clips = any(optimizer.get(f"{of}") for of in CLIPS)
        if batches > 1 or clips:
            for parameter, slots in trained:
                total = slots[of_update] if batches > 1 else None
                parameter.change(total, optimizer, is_last)
        if is_last:
            self._clip([parameter for parameter, _ in trained], optimizer)
            for parameter, slots in trained:
                parameter.step(slots[:of_update], optimizer, done, batches > 1 or clips)
        if optimizer.get("use_ema"):
            every = optimizer.get("ema_overwrite_frequency")
            momentum = optimizer["ema_momentum"] if done else 0.0  # the mean of one is it
            for parameter, slots in trained:
                slots[-1] *= momentum
                slots[-1] += (1 - momentum) * parameter.value
                if every and (done + 1) % every == 0:
                    parameter.value[...] = slots[-1]
        for parameter, _ in trained:
            parameter.constrain()
        for layer in self._layers:
            layer.settle()

    def _clip(self, parameters: list[_Parameter], optimizer: dict[str, Any]) -> None:
        """Scale gradients to a bound of the norm of each, or of all together."""
        most = optimizer.get("clipnorm") or optimizer.get("global_clipnorm")
        if not most:
            return
        squares = [float(np.square(p.gradient, dtype=np.float64).sum()) for p in parameters]
        for parameter, square in zip(parameters, squares, strict=True):
            norm = math.sqrt(square if optimizer.get("clipnorm") else sum(squares))
            if not norm <= most:  # NaN stays
                parameter.gradient *= most / norm
