"""The compiled kernels as functions of NumPy arrays, for people who hold their own.

Each function checks its arguments (`fastreg.inputs`) and calls the kernel of its name. The twin in
plain NumPy, with the same names, arguments, in-place behaviour and errors, is `fastreg.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from fastreg import _engine, inputs
from fastreg.config import get_num_threads
from fastreg.inputs import ActivationLike, Array, Grouping, LossLike

__all__ = [
    "dense_forward",
    "dense_backward",
    "activation_forward",
    "activation_backward",
    "penalty",
    "penalty_gradient",
    "kl_penalty",
    "kl_penalty_gradient",
    "group_penalty",
    "group_penalty_gradient",
    "group_prox",
    "loss",
    "loss_gradient",
    "dropout",
    "gaussian_noise",
    "gaussian_dropout",
    "alpha_dropout",
    "layer_normalization",
    "rms_normalization",
    "batch_normalization",
    "sgd_update",
    "adam_update",
    "optimizer_slots",
    "optimizer_update",
]


def _rows(array: Array) -> Array:
    """A view (n, units) of an array of any rank."""
    return array.reshape(-1, array.shape[-1])


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
    args = inputs.check_dense_forward(x, kernel, bias, activation, out)
    _engine.dense_forward(*args, get_num_threads())
    return args[-1]


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
    args = inputs.check_dense_backward(x, kernel, y, dy, activation, need_dx, dx, dkernel, dbias)
    _engine.dense_backward(*args, get_num_threads())
    return args[-3:]


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
    _engine.activation_forward(_rows(z), kind, curve, _rows(out))
    return out


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
    _engine.activation_backward(_rows(y), _rows(dy), kind, curve, _rows(out))
    return out


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
    w, l1, l2 = inputs.check_penalty(w, l1, l2)
    return float(_engine.penalty(w.reshape(-1), l1, l2))


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
    _engine.penalty_gradient(w.reshape(-1), l1, l2, out.reshape(-1))
    return out


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
    y, kl, rate = inputs.check_kl_penalty(y, kl, rate)
    return float(_engine.kl_penalty(y, kl, rate))


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
    y, kl, rate, out = inputs.check_kl_penalty_gradient(y, kl, rate, out)
    _engine.kl_penalty_gradient(y, kl, rate, out)
    return out


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
    return float(_engine.group_penalty(w, found))


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
    _engine.group_penalty_gradient(w, found, out)
    return out


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
    _engine.group_prox(step, found, l1, out)
    return out


def quadratic_descend(
    h: Array, l1: Array, group: Array, tol: float, max_sweeps: int, w: Array, g: Array
) -> float:
    """Coordinate descent of f(w) + sum over inputs j of l1_j sum |w_j| + group_j norm(w_j).

    f is a quadratic with second derivative `h` (n, n) for each unit. Moves w (n_out, n) and the
    gradient of f there, g, until no element of the subgradient nearest to 0 is above `tol`, or
    for `max_sweeps`; returns the largest (Friedman, Hastie and Tibshirani 2010). All arrays are
    contiguous float64 of these shapes, which is not checked: `fastreg.objective` makes them.

    >>> import numpy as np
    >>> w, g = np.zeros((1, 1)), np.array([[-3.0]])  # w^2 - 3 w + |w|
    >>> quadratic_descend(np.array([[2.0]]), np.ones(1), np.zeros(1), 1e-9, 5, w, g), w
    (0.0, array([[1.]]))
    """
    return float(_engine.quadratic_descend(h, l1, group, tol, max_sweeps, w, g))


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
    return float(_engine.loss(*inputs.check_loss(name, y_true, y_pred, sample_weight)))


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
    args = inputs.check_loss_gradient(name, y_true, y_pred, sample_weight, out)
    _engine.loss_gradient(*args)
    return args[-1]


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
    _engine.noise("dropout", *args)
    return args[-1]


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
    _engine.noise("gaussian_noise", *args)
    return args[-1]


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
    _engine.noise("gaussian_dropout", *args)
    return args[-1]


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
    _engine.noise("alpha_dropout", *args)
    return args[-1]


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
    args = inputs.check_normalization(x, gamma, beta, epsilon, out)
    _engine.normalize_rows(*args)
    return args[-1]


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
    _engine.normalize_rows(x, scale, None, epsilon, out, True)
    return out


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
    _engine.normalize_columns(mean, variance, x, gamma, beta, epsilon, out)
    return out


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
    _engine.update(
        *inputs.check_sgd_update(
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
    )


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
    _engine.update(
        *inputs.check_adam_update(
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
    )


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
    _engine.update(*inputs.check_optimizer_update(name, w, dw, slots, iteration, l1, l2, settings))
