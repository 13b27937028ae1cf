"""Both functional faces, compiled and reference: the same answers, in-place behaviour and errors.

The compiled kernels are held to componentwise error bounds. `u` is the machine epsilon, twice the
unit roundoff; gamma(m) = m u / (1 - m u) bounds a sum of m products in any order (Higham 2002,
section 3.1). The oracle is the reference in float64, so that a float64 comparison allows for the
error of both; CONSTANT is the count of roundings of the elementwise parts, an exp or a log taken
as at most 4.
"""

import importlib
import inspect
import itertools

import numpy as np
import pytest
from losses_with_settings import WITH_SETTINGS

from fastreg import functional, inputs, reference

DTYPES = ["float32", "float64"]
FACES = ["functional", "reference"]
ODD = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 97, 100]
CONSTANT = 12


@pytest.fixture(params=FACES)
def face(request):
    return importlib.import_module(f"fastreg.{request.param}")


def shapes():
    """(n, n_in, n_out): every odd size in every place, and some small ones in all."""
    yield from itertools.product([1, 2, 5], repeat=3)
    for i, size in enumerate(ODD):
        yield size, ODD[(i + 5) % len(ODD)], ODD[(i + 11) % len(ODD)]


def gamma(m, u):
    return m * u / (1 - m * u)


def normal(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def outputs(rng, activation, dtype, *shape):
    """Values an activation can have, or take where its backward function reads those."""
    if reference.ACTIVATIONS[activation].of_z:
        return 2 * normal(rng, dtype, *shape)
    return reference.activation_forward(2 * normal(rng, dtype, *shape), activation)


def doubles(*arrays):
    return [array.astype("float64") for array in arrays]


def assert_within(got, expected, bound):
    """|got - expected| <= bound, twice it in float64, or what underflow to zero leaves."""
    assert got.shape == expected.shape
    finfo = np.finfo(got.dtype)
    bound = np.asarray(bound) * (2 if got.dtype == "float64" else 1) + finfo.tiny
    error = np.abs(got.astype("float64") - expected)
    worst = np.argmax(error / bound)
    assert (error <= bound).all(), (
        f"{got.flat[worst]!r} is not {expected.flat[worst]!r} to {bound.flat[worst]:.3g}"
        if bound.ndim
        else f"{got!r} is not {expected!r} to {bound:.3g}"
    )


# ------------------------------------------------ error bounds of the parts

# The steepest an activation gets, with Keras' defaults; exponential gets as steep as it is high.
SLOPES = dict.fromkeys(("linear", "relu", "tanh", "leaky_relu", "relu6", "elu", "softplus"), 1.0)
SLOPES |= {"sigmoid": 0.25, "hard_sigmoid": 1 / 6, "softsign": 1.0, "selu": 1.76, "hard_silu": 1.5}
SLOPES |= {"silu": 1.1, "gelu": 1.13, "gelu_tanh": 1.13, "mish": 1.1}


def forward_bound(z, y, dz, activation, u):
    """Of y = f(z + dz), |dz| given, for the elementwise error of f and its slope."""
    if activation == "softmax":
        reach = np.abs(z - z.max(axis=-1, keepdims=True)).max(axis=-1, keepdims=True)
        worst = dz.max(axis=-1, keepdims=True)
        return 1.1 * y * (2 * worst + u * (CONSTANT + z.shape[-1] + 2 * reach))
    if activation == "log_softmax":
        reach = np.abs(z - z.max(axis=-1, keepdims=True))
        worst = dz.max(axis=-1, keepdims=True)
        return 2.1 * worst + u * (3 * reach + np.abs(y) + CONSTANT + z.shape[-1])
    if activation == "exponential":
        return 1.1 * y * (dz + u * (CONSTANT + np.abs(z)))
    # exp carries the error u |a| of a rounded argument a, which is at most |z|^power
    power = {"linear": None, "relu": None, "tanh": 0, "gelu": 2, "gelu_tanh": 3}.get(activation, 1)
    of_value = 0 if power is None else CONSTANT + (np.abs(z) ** power if power else 0)
    bound = SLOPES[activation] * dz + u * np.abs(y) * of_value
    # a share of z that underflow has made 0
    bound += np.abs(z) * np.finfo("float32" if u > 1e-10 else "float64").tiny
    if activation.startswith("hard"):  # z + 3 near 0
        bound += SLOPES[activation] * u * (3 + np.abs(z)) * (1 + np.abs(z))
    return bound


def backward_bound(y, dy, activation, u):
    """Of dz = f'(y) dy."""
    size = np.abs(dy)
    if activation == "softmax":
        mean = (np.abs(y) * size).sum(axis=-1, keepdims=True)
        return np.abs(y) * u * (CONSTANT * size + (y.shape[-1] + CONSTANT) * mean)
    if activation == "log_softmax":
        total = size.sum(axis=-1, keepdims=True)
        return u * (size + np.exp(y) * (np.abs(y) + y.shape[-1] + CONSTANT) * total)
    if activation == "exponential":  # y is z here and below
        return u * (CONSTANT + np.abs(y)) * np.exp(y) * size
    # 1 - y^2 is cancellation: an error of u, not of u (1 - y^2); so is what z f' adds to a share
    slope = {"linear": 0, "relu": 0, "tanh": 1, "sigmoid": np.abs(y)}
    slope = slope.get(activation, 1 + SLOPES[activation])
    return CONSTANT * u * size * slope


# ------------------------------------------------ the compiled kernels


def test_both_faces_have_the_same_functions_signatures_and_words():
    assert functional.__all__
    for name in functional.__all__:
        one, other = getattr(functional, name), getattr(reference, name)
        assert inspect.signature(one) == inspect.signature(other), name
        assert inspect.getdoc(one) == inspect.getdoc(other), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activation_forward(activation, dtype, rng):
    u = np.finfo(dtype).eps
    for width in range(1, 101):
        z = np.concatenate([normal(rng, dtype, 2, width), 12 * normal(rng, dtype, 1, width)])
        z[0, 0], z[-1, -1] = 1e-5, -100.0
        (exact,) = doubles(z)
        expected = reference.activation_forward(exact, activation)
        bound = forward_bound(exact, expected, np.zeros_like(exact), activation, u)
        assert_within(functional.activation_forward(z, activation), expected, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activation_backward(activation, dtype, rng):
    u = np.finfo(dtype).eps
    for width in range(1, 101):
        y, dy = outputs(rng, activation, dtype, 3, width), normal(rng, dtype, 3, width)
        expected = reference.activation_backward(*doubles(y, dy), activation)
        bound = backward_bound(*doubles(y, dy), activation, u)
        assert_within(functional.activation_backward(y, dy, activation), expected, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_dense_forward(activation, with_bias, dtype, rng):
    u = np.finfo(dtype).eps
    for n, n_in, n_out in shapes():
        x, kernel = normal(rng, dtype, n, n_in), normal(rng, dtype, n_in, n_out)
        bias = normal(rng, dtype, n_out) if with_bias else None
        x_, kernel_, bias_ = doubles(x, kernel, np.zeros(n_out) if bias is None else bias)
        z = x_ @ kernel_ + bias_
        dz = gamma(n_in + 2, u) * (np.abs(x_) @ np.abs(kernel_) + np.abs(bias_))
        expected = reference.activation_forward(z, activation)
        got = functional.dense_forward(x, kernel, bias, activation)
        assert_within(got, expected, forward_bound(z, expected, dz, activation, u))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_dense_backward(activation, dtype, rng):
    u = np.finfo(dtype).eps
    for n, n_in, n_out in shapes():
        x, kernel = normal(rng, dtype, n, n_in), normal(rng, dtype, n_in, n_out)
        y, dy = outputs(rng, activation, dtype, n, n_out), normal(rng, dtype, n, n_out)
        x_, kernel_, y_, dy_ = doubles(x, kernel, y, dy)
        expected = reference.dense_backward(x_, kernel_, y_, dy_, activation)
        error = backward_bound(y_, dy_, activation, u)
        size = np.abs(reference.activation_backward(y_, dy_, activation)) + error
        bounds = [
            gamma(n_out, u) * size @ np.abs(kernel_.T) + error @ np.abs(kernel_.T),
            gamma(n, u) * np.abs(x_.T) @ size + np.abs(x_.T) @ error,
            gamma(n, u) * size.sum(axis=0) + error.sum(axis=0),
        ]
        got = functional.dense_backward(x, kernel, y, dy, activation)
        for one, value, bound in zip(got, expected, bounds, strict=True):
            assert_within(one, value, bound)
        none, *rest = functional.dense_backward(x, kernel, y, dy, activation, need_dx=False)
        assert none is None
        assert all(map(np.array_equal, rest, got[1:]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_penalty_and_its_gradient(l1, l2, dtype, rng):
    u = np.finfo(dtype).eps
    for size in [*range(1, 101), 4096, 5001]:
        w = normal(rng, dtype, size)
        w[size // 2] = 0
        (w_,) = doubles(w)
        value = np.asarray(reference.penalty(w_, l1, l2))
        # short stretches may be summed in the dtype, their sums in float64
        assert_within(np.asarray(functional.penalty(w, l1, l2)), value, 100 * u * value)
        expected = reference.penalty_gradient(w_, l1, l2)
        bound = CONSTANT * u * np.abs(expected)
        assert_within(functional.penalty_gradient(w, l1, l2), expected, bound)


def loss_case(name, dtype, n, n_out, rng):
    """y_true, y_pred with no probability near the clip, and sample weights."""
    p = rng.uniform(0.05, 0.95, (n, n_out)).astype(dtype)
    w = rng.uniform(0.5, 2.0, n).astype(dtype)
    if name == "sparse_categorical_crossentropy":
        return rng.integers(0, n_out, n), p, w
    return rng.uniform(0.0, 1.0, (n, n_out)).astype(dtype), p, w


def loss_bounds(name, y, p, w, u):
    """Of the value and of the gradient, in float64."""
    n, n_out = p.shape
    if name == "mean_squared_error":
        rows = (p - y) ** 2 / n_out
        gradient = 2 * np.abs(p - y) / n_out
        return (w @ rows).sum() / n, u * CONSTANT * gradient * w[:, None] / n
    if name in ("categorical_hinge", "cosine_similarity"):
        length = np.linalg.norm(p, axis=1, keepdims=True)
        slope = np.maximum(1.0, 1 / length) * np.ones_like(p)
        return (w @ np.abs(p * y)).sum() + 2, u * (CONSTANT + n_out) * slope * w[:, None] / n
    if name in inputs.LOSSES[4:]:  # of each output apart: value and slope of outputs in (0, 1)
        share = 1 if name == "kl_divergence" else 1 / n_out
        slope = np.abs(reference.loss_gradient(name, y, p)) * n + share
        rows = slope * (np.abs(p) + np.abs(y)) + share * (4 + np.abs(y * np.log(1e-7)))
        return (w @ rows).sum() / n, 2 * u * CONSTANT * slope * w[:, None] / n
    if name == "binary_crossentropy":
        rows = (np.abs(y * np.log(p)) + (1 - y) * (1 + np.abs(np.log1p(-p)))) / n_out
        gradient = (y / p + (1 - y) / (1 - p)) / n_out
        return (w @ rows).sum() / n, u * CONSTANT * gradient * w[:, None] / n
    if name == "sparse_categorical_crossentropy":
        y = np.eye(n_out)[y]
    total = p.sum(axis=1, keepdims=True)
    q = p / total
    # A division by a sum of n_out: a relative error of q, an absolute one of log q.
    rows = y * (1 + np.abs(np.log(q)))
    gradient = (y / q + y.sum(axis=1, keepdims=True)) / total
    return (w @ rows).sum() / n, u * (CONSTANT + n_out) * gradient * w[:, None] / n


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", reference.LOSSES)
def test_loss_and_its_gradient(name, dtype, rng):
    u = np.finfo(dtype).eps
    for n, n_out in itertools.product([1, 3, 17], range(1, 101)):
        if name.endswith("categorical_crossentropy") and n_out == 1:
            continue  # q = 1 is clipped: see below
        y, p, w = loss_case(name, dtype, n, n_out, rng)
        y_ = y if y.ndim == 1 else y.astype("float64")
        p_, w_ = doubles(p, w)
        for weight, weight_ in ((None, np.ones(n)), (w, w_)):
            size, bound = loss_bounds(name, y_, p_, weight_, u)
            value = np.asarray(reference.loss(name, y_, p_, weight_))
            got = np.asarray(functional.loss(name, y, p, weight))
            # terms are positive: n_out of them summed in the dtype, the rows in float64
            assert abs(got - value) <= 2 * u * (CONSTANT + n_out) * size
            expected = reference.loss_gradient(name, y_, p_, weight_)
            assert_within(functional.loss_gradient(name, y, p, weight), expected, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", WITH_SETTINGS, ids=repr)
def test_settings_of_losses(loss, dtype, rng):
    """Outputs in (0.05, 0.95), where no value or slope of these is over 50."""
    u = 50 * np.finfo(dtype).eps
    for n, n_out in itertools.product([1, 3], range(2, 60)):
        y, p, w = loss_case(loss.name, dtype, n, n_out, rng)
        y_ = y if y.ndim == 1 else y.astype("float64")
        (p_, w_), bound = doubles(p, w), u * (CONSTANT + n_out)
        value = reference.loss(loss, y_, p_, w_)
        assert abs(functional.loss(loss, y, p, w) - value) <= bound
        expected = reference.loss_gradient(loss, y_, p_, w_)
        assert_within(functional.loss_gradient(loss, y, p, w), expected, bound / n + 0 * expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", [name for name in reference.LOSSES if name.endswith("crossentropy")]
)
def test_clipped_probabilities(name, dtype):
    """The bounds of the clip are those of the dtype, so the oracle is the reference in it."""
    p = np.array([[1, 0, 0], [0, 1, 0], [1e-9, 1e-9, 1], [0.2, 0.5, 0.3]], dtype)
    labels = np.array([0, 2, 1, 1])
    y = labels if name.startswith("sparse") else np.eye(3, dtype=dtype)[labels]
    value = reference.loss(name, y, p)
    assert functional.loss(name, y, p) == pytest.approx(value, rel=float(20 * np.finfo(dtype).eps))
    gradient = functional.loss_gradient(name, y, p)
    expected = reference.loss_gradient(name, y, p)
    np.testing.assert_allclose(gradient, expected, rtol=20 * np.finfo(dtype).eps)
    assert not gradient[0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_to_the_bit(dtype, rng):
    """One product a kept element: nothing to round differently."""
    for width in range(1, 101):
        x = normal(rng, dtype, 1 + width % 7, width)
        options = {"seed": 2**63 + width, "iteration": 2**31 + width, "layer": width % 5}
        got = functional.dropout(x, 0.37, **options)
        assert np.array_equal(got, reference.dropout(x, 0.37, **options))


PENALTIES = [{}, {"l1": 0.1}, {"l2": 0.2}, {"l1": 0.1, "l2": 0.2}]


def update_sizes(w, dw, l1=0.0, l2=0.0):
    """|g| without cancellation."""
    return np.abs(dw) + l1 + 2 * l2 * np.abs(w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_update(momentum, nesterov, weight_decay, penalties, dtype, rng):
    u = np.finfo(dtype).eps
    options = {
        "learning_rate": 0.3,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        **penalties,
    }
    for size in range(1, 101):
        w, dw, velocity = (normal(rng, dtype, size) for _ in range(3))
        w[size // 2] = 0
        w_, dw_, velocity_ = doubles(w, dw, velocity)
        step = 0.3 * update_sizes(w_, dw_, **penalties) + momentum * np.abs(velocity_)
        scale = np.abs(w_) + 2 * step
        functional.sgd_update(w, dw, velocity, **options)
        reference.sgd_update(w_, dw_, velocity_, **options)
        assert_within(w, w_, CONSTANT * u * scale)
        assert_within(velocity, velocity_, CONSTANT * u * step)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("iteration", [0, 1, 1000])
def test_adam_update(iteration, weight_decay, penalties, dtype, rng):
    u = np.finfo(dtype).eps
    rate = 0.3 * np.sqrt(1 - 0.99 ** (iteration + 1)) / (1 - 0.9 ** (iteration + 1))
    options = {
        "iteration": iteration,
        "learning_rate": 0.3,
        "beta_2": 0.99,
        "weight_decay": weight_decay,
        **penalties,
    }
    for size in range(1, 101):
        w, dw, m = (normal(rng, dtype, size) for _ in range(3))
        v = rng.uniform(0.01, 1.0, size).astype(dtype)
        w_, dw_, m_, v_ = doubles(w, dw, m, v)
        size_w, size_g = np.abs(w_), update_sizes(w_, dw_, **penalties)
        bound_m = CONSTANT * u * (np.abs(m_) + 0.1 * size_g)
        bound_v = CONSTANT * u * (v_ + 0.01 * size_g**2)
        functional.adam_update(w, dw, m, v, **options)
        reference.adam_update(w_, dw_, m_, v_, **options)
        root = np.sqrt(v_) + 1e-7
        step = rate * np.abs(m_) / root
        bound_w = CONSTANT * u * (size_w + step)
        bound_w += rate * bound_m / root + step * bound_v / (2 * v_)
        assert_within(m, m_, bound_m)
        assert_within(v, v_, bound_v)
        assert_within(w, w_, bound_w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("l1_step", ["proximal", "cumulative"])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam"])
def test_l1_steps_of_the_twins(name, l1_step, dtype, rng):
    u = np.finfo(dtype).eps
    options = {"learning_rate": 0.3, "l1": 0.05, "l2": 0.02, "l1_step": l1_step}
    zeros = 0
    for size in range(1, 101):
        w, dw, slot = (normal(rng, dtype, size) for _ in range(3))
        budget = rng.uniform(0, 0.5, (2, size)).astype(dtype)
        v = rng.uniform(0.01, 1.0, size).astype(dtype)
        w_, dw_, slot_, budget_, v_ = doubles(w, dw, slot, budget, v)
        for face, (a, da, s, b, square) in (
            (functional, (w, dw, slot, budget, v)),
            (reference, (w_, dw_, slot_, budget_, v_)),
        ):
            more = {"l1_budget": b} if l1_step == "cumulative" else {}
            if name == "adam":
                face.adam_update(a, da, s, square, iteration=7, **options, **more)
            else:
                momentum = {
                    "momentum": 0.0 if name == "sgd" else 0.6,
                    "nesterov": name == "nesterov",
                }
                face.sgd_update(a, da, s, **momentum, **options, **more)
        bound = CONSTANT * u * (10 + 2 * np.abs(w_))
        assert_within(w, w_, bound)
        assert_within(budget, budget_, np.broadcast_to(bound, (2, size)))
        zeros += np.count_nonzero(w == 0)
    assert zeros > 0


# ------------------------------------------------ both faces: values that are not finite


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_nan_goes_through_activations(face, activation, dtype):
    z = np.zeros((2, 19), dtype)
    z[1, 17] = np.nan
    y = face.activation_forward(z, activation)
    assert np.isnan(y[1, 17])
    assert np.isfinite(y[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", reference.LOSSES)
def test_no_loss_hides_what_is_not_finite(face, name, bad, dtype):
    p = np.full((2, 19), 0.5, dtype)
    p[1, 17] = bad
    y = [0, 0] if name.startswith("sparse") else np.full((2, 19), 0.5, dtype)
    assert not np.isfinite(face.loss(name, y, p))


# ------------------------------------------------ both faces: every way to hand in an array


def case(name, dtype, rng):
    """The arrays that `name` reads, those it updates in place, and its other arguments."""
    x, kernel, bias = (normal(rng, dtype, *shape) for shape in ((5, 3), (3, 7), (7,)))
    y, dy = outputs(rng, "tanh", dtype, 5, 7), normal(rng, dtype, 5, 7)
    p, t = (rng.uniform(0.1, 0.9, (5, 7)).astype(dtype) for _ in range(2))
    weight = rng.uniform(0.5, 2, 5).astype(dtype)
    w, dw, m = (normal(rng, dtype, 5, 7) for _ in range(3))
    adam = {"iteration": 3, "l1": 0.1}
    return {
        "dense_forward": ({"x": x, "kernel": kernel, "bias": bias}, {}, {"activation": "tanh"}),
        "dense_backward": (
            {"x": x, "kernel": kernel, "y": y, "dy": dy},
            {},
            {"activation": "tanh"},
        ),
        "activation_forward": ({"z": dy}, {}, {"activation": "softmax"}),
        "activation_backward": ({"y": y, "dy": dy}, {}, {"activation": "softmax"}),
        "penalty": ({"w": w}, {}, {"l1": 0.1, "l2": 0.2}),
        "penalty_gradient": ({"w": w}, {}, {"l1": 0.1, "l2": 0.2}),
        "loss": ({"y_true": t, "y_pred": p, "sample_weight": weight}, {}, {"name": MSE}),
        "loss_gradient": ({"y_true": t, "y_pred": p, "sample_weight": weight}, {}, {"name": MSE}),
        "dropout": ({"x": x}, {}, {"rate": 0.4, "seed": 3}),
        "gaussian_noise": ({"x": x}, {}, {"stddev": 0.4, "seed": 3}),
        "gaussian_dropout": ({"x": x}, {}, {"rate": 0.4, "seed": 3}),
        "alpha_dropout": ({"x": x}, {}, {"rate": 0.4, "seed": 3}),
        "layer_normalization": ({"x": dy, "gamma": bias, "beta": y[0]}, {}, {"epsilon": 0.1}),
        "rms_normalization": ({"x": dy, "scale": bias}, {}, {"epsilon": 0.1}),
        "batch_normalization": (
            {"x": dy, "mean": bias, "variance": p[0], "gamma": y[0], "beta": y[1]},
            {},
            {"epsilon": 0.1},
        ),
        "sgd_update": ({"dw": dw}, {"w": w, "velocity": m}, {"momentum": 0.9, "l1": 0.1}),
        "adam_update": ({"dw": dw}, {"w": w, "m": m, "v": np.abs(m)}, adam),
    }[name]


MSE = "mean_squared_error"
NAMES = [
    "dense_forward",
    "dense_backward",
    "activation_forward",
    "activation_backward",
    "penalty",
    "penalty_gradient",
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
]


def answers(face, name, read, updated, others):
    """What the call gives or leaves in place, as bytes."""
    updated = {argument: array.copy() for argument, array in updated.items()}
    result = getattr(face, name)(**read, **updated, **others)
    results = result if isinstance(result, tuple) else [result]
    arrays = [np.asarray(array) for array in results if array is not None]
    return [array.tobytes() for array in [*arrays, *updated.values()]]


def strided(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def reversed_(a):
    return a[::-1].copy()[::-1]


def broadcast(a):
    return np.broadcast_to(a[:1], a.shape)


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


FORMS = [strided, reversed_, broadcast, big_endian, read_only, unaligned, np.asfortranarray]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_input_gives_the_contiguous_answer_to_the_bit(face, name, dtype, form, rng):
    read, updated, others = case(name, dtype, rng)
    for argument, array in read.items():
        given = form(array)
        plain = np.ascontiguousarray(given).astype(dtype)
        copy = given.copy()
        expected = answers(face, name, read | {argument: plain}, updated, others)
        assert answers(face, name, read | {argument: given}, updated, others) == expected
        assert np.array_equal(given, copy)


@pytest.mark.parametrize("labels", [[0, 6, 2], [[0], [6], [2]], np.array([0.0, 6.0, 2.0])])
def test_class_numbers_in_every_form(face, labels, rng):
    p = rng.uniform(0.1, 0.9, (3, 7))
    name = "sparse_categorical_crossentropy"
    expected = face.loss(name, np.array([0, 6, 2], np.int32), p)
    for given in (labels, np.asarray(labels, ">i8"), np.asarray(labels, np.uint8)):
        assert face.loss(name, given, p) == expected


OUTS = {
    "dense_forward": [("out", (5, 7))],
    "dense_backward": [("dx", (5, 3)), ("dkernel", (3, 7)), ("dbias", (7,))],
    "activation_forward": [("out", (5, 7))],
    "activation_backward": [("out", (5, 7))],
    "penalty_gradient": [("out", (5, 7))],
    "loss_gradient": [("out", (5, 7))],
    "dropout": [("out", (5, 3))],
    "gaussian_noise": [("out", (5, 3))],
    "gaussian_dropout": [("out", (5, 3))],
    "alpha_dropout": [("out", (5, 3))],
    "layer_normalization": [("out", (5, 7))],
    "rms_normalization": [("out", (5, 7))],
    "batch_normalization": [("out", (5, 7))],
}
ELEMENTWISE = ["activation_forward", "activation_backward", "penalty_gradient", "dropout"]
ELEMENTWISE += ["gaussian_noise", "gaussian_dropout", "alpha_dropout"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OUTS)
def test_out_is_written_and_returned(face, name, dtype, rng):
    read, _, others = case(name, dtype, rng)
    outs = {argument: np.full(shape, np.nan, dtype) for argument, shape in OUTS[name]}
    result = getattr(face, name)(**read, **others, **outs)
    results = result if isinstance(result, tuple) else (result,)
    for got, out in zip(results, outs.values(), strict=True):
        assert got is out
    assert [out.tobytes() for out in outs.values()] == answers(face, name, read, {}, others)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_out_may_be_the_very_input(face, name, dtype, rng):
    read, _, others = case(name, dtype, rng)
    variants = [{}]
    if "activation" in others:
        variants = [{"activation": activation} for activation in reference.ACTIVATIONS]
    for argument, variant in itertools.product(read, variants):
        expected = answers(face, name, read, {}, others | variant)
        given = {other: array.copy() for other, array in read.items()}
        getattr(face, name)(**given, **(others | variant), out=given[argument])
        assert [given[argument].tobytes()] == expected, (argument, variant)


@pytest.mark.parametrize("name", ["activation_forward", "activation_backward"])
def test_activations_take_any_rank(face, name, rng):
    arrays = [rng.uniform(0.1, 0.9, (2, 3, 5)) for _ in range(1 + (name == "activation_backward"))]
    flat = getattr(face, name)(*(array.reshape(6, 5) for array in arrays), "softmax")
    got = getattr(face, name)(*arrays, "softmax")
    assert np.array_equal(got, flat.reshape(2, 3, 5))
    one = getattr(face, name)(*(array[0, 0] for array in arrays), "softmax")
    assert np.array_equal(one, flat[0])


def test_sgd_without_momentum_leaves_a_velocity_alone(face):
    w, velocity = np.ones(3), np.full(3, 7.0)
    face.sgd_update(w, np.ones(3), velocity, learning_rate=0.5)
    assert np.array_equal(w, [0.5] * 3)
    assert np.array_equal(velocity, [7.0] * 3)


# ------------------------------------------------ both faces: errors


def bad_targets(shape, dtype):
    """What cannot be written to: an array, the error and its words."""
    frozen = np.zeros(shape, dtype)
    frozen.flags.writeable = False
    other = "float64" if dtype == "float32" else "float32"
    return [
        (np.zeros(shape, other), TypeError, f"got dtype {other}; {dtype} is needed"),
        (np.zeros(shape, ">" + np.dtype(dtype).str[1:]), TypeError, "got dtype"),
        (np.zeros(shape, dtype).tolist(), TypeError, "got list"),
        (np.zeros((*shape, 1), dtype), ValueError, "got shape"),
        (strided(np.zeros(shape, dtype)), ValueError, "C-contiguous"),
        (unaligned(np.zeros(shape, dtype)), ValueError, "aligned"),
        (frozen, ValueError, "read-only"),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OUTS)
def test_an_out_that_cannot_be_written_to_is_refused(face, name, dtype, rng):
    read, _, others = case(name, dtype, rng)
    for argument, shape in OUTS[name]:
        good = {other: np.zeros(size, dtype) for other, size in OUTS[name]}
        for bad, error, words in bad_targets(shape, dtype):
            with pytest.raises(error, match=rf"^{argument}: .*{words}"):
                getattr(face, name)(**read, **others, **(good | {argument: bad}))
            assert not np.any(bad)
            assert not any(out.any() for out in good.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd_update", "adam_update"])
def test_an_array_that_cannot_be_updated_is_refused_and_nothing_written(face, name, dtype, rng):
    read, updated, others = case(name, dtype, rng)
    before = {argument: array.copy() for argument, array in updated.items()}
    for argument in updated:
        for bad, _, _ in bad_targets((5, 7), dtype):
            # what goes with w is held to it, so another dtype or shape of w is seen at dw
            blamed = r"(w|dw)" if argument == "w" else argument
            with pytest.raises((TypeError, ValueError), match=rf"^{blamed}: "):
                getattr(face, name)(**read, **(updated | {argument: bad}), **others)
            assert not np.any(bad)
            assert all(np.array_equal(updated[key], before[key]) for key in updated)


@pytest.mark.parametrize("name", OUTS)
def test_an_out_that_overlaps_is_refused(face, name, rng):
    read, _, others = case(name, "float64", rng)
    for (target, shape), (argument, array) in itertools.product(OUTS[name], read.items()):
        size = int(np.prod(shape))
        memory = np.zeros(size + array.size)
        given = memory[size - 1 : size - 1 + array.size].reshape(array.shape)
        given[...] = array
        before = memory.copy()
        out = memory[:size].reshape(shape)
        with pytest.raises(ValueError, match=rf"^{target}: got memory that overlaps {argument}"):
            getattr(face, name)(**(read | {argument: given}), **others, **{target: out})
        assert np.array_equal(memory, before)


def test_targets_that_overlap_each_other_are_refused(face, rng):
    read, updated, others = case("adam_update", "float64", rng)
    with pytest.raises(ValueError, match=r"^v: got memory that overlaps m"):
        face.adam_update(**read, **(updated | {"v": updated["m"]}), **others)
    with pytest.raises(ValueError, match=r"^w: got memory that overlaps dw"):
        face.adam_update(updated["w"], updated["w"], updated["m"], updated["v"], iteration=0)
    read, _, others = case("dense_backward", "float64", rng)
    memory = np.zeros(21)
    with pytest.raises(ValueError, match=r"^dbias: got memory that overlaps dkernel"):
        face.dense_backward(**read, **others, dkernel=memory.reshape(3, 7), dbias=memory[:7])


A = np.ones((5, 3))
BAD = [
    ("dense_forward", {"x": np.ones(3)}, ValueError, r"x: got shape \(3,\); \(n, n_in\) is needed"),
    ("dense_forward", {"x": np.ones((0, 3))}, ValueError, "x: got shape .*empty"),
    ("dense_forward", {"x": np.ones((5, 3), int)}, TypeError, "x: got dtype int64; float32 or"),
    ("dense_forward", {"x": [["a"] * 3]}, TypeError, "x: got dtype <U1"),
    ("dense_forward", {"x": [[1.0], [1.0, 2.0]]}, ValueError, "x: .*unequal length"),
    ("dense_forward", {"x": np.ma.ones((5, 3))}, TypeError, "x: got a masked array"),
    ("dense_forward", {"kernel": np.ones((4, 7))}, ValueError, r"kernel: .*\(3, n_out\) is needed"),
    ("dense_forward", {"kernel": np.ones((3, 7), "f")}, TypeError, "kernel: .*float64 is needed"),
    ("dense_forward", {"bias": np.ones(6)}, ValueError, r"bias: got shape \(6,\); \(7,\)"),
    ("dense_forward", {"activation": "rleu"}, ValueError, "activation: .*Did you mean 'relu'"),
    ("dense_forward", {"activation": None}, ValueError, "activation: got None"),
    ("dense_backward", {"y": np.ones((5, 6))}, ValueError, r"y: .*\(5, 7\) is needed"),
    ("dense_backward", {"dy": np.ones((5, 7), "f")}, TypeError, "dy: got dtype float32"),
    ("dense_backward", {"need_dx": False, "dx": A}, ValueError, "dx: got an array with need_dx"),
    ("activation_forward", {"z": 1.0}, ValueError, r"z: got shape \(\); \(\.\.\., units\)"),
    ("activation_forward", {"activation": "than"}, ValueError, "activation: .*Did you mean 'tanh'"),
    ("activation_backward", {"dy": A}, ValueError, r"dy: got shape \(5, 3\); \(5, 7\) is needed"),
    ("penalty", {"l1": -0.1}, ValueError, r"l1: got -0\.1"),
    ("penalty", {"l2": np.nan}, ValueError, "l2: got nan"),
    ("penalty", {"l1": "x"}, TypeError, "l1: got 'x'"),
    ("penalty", {"w": np.ones(0)}, ValueError, "w: .*empty"),
    ("penalty", {"w": np.ones(3, complex)}, TypeError, "w: got dtype complex128"),
    ("penalty_gradient", {"l2": np.inf}, ValueError, "l2: got inf"),
    ("loss", {"name": "mean_squard_error"}, ValueError, "name: .*Did you mean 'mean_squared_"),
    ("loss", {"y_true": np.ones((5, 6))}, ValueError, r"y_true: .*\(5, 7\) is needed"),
    ("loss", {"y_pred": np.ones(5)}, ValueError, r"y_pred: .*\(n, n_out\) is needed"),
    ("loss", {"sample_weight": np.ones(4)}, ValueError, r"sample_weight: .*\(5,\) is needed"),
    ("loss_gradient", {"y_true": np.ones((5, 7), "f")}, TypeError, "y_true: got dtype float32"),
    ("dropout", {"rate": 1.0}, ValueError, r"rate: got 1\.0"),
    ("dropout", {"rate": -0.1}, ValueError, "rate: "),
    ("dropout", {"seed": -1}, ValueError, "seed: got -1"),
    ("dropout", {"seed": 2**64}, ValueError, "seed: "),
    ("dropout", {"seed": 0.5}, TypeError, "seed: got 0.5"),
    ("dropout", {"iteration": -1}, ValueError, "iteration: got -1"),
    ("dropout", {"layer": 2**32}, ValueError, "layer: "),
    ("gaussian_noise", {"stddev": -0.1}, ValueError, "stddev: got -0.1"),
    ("gaussian_noise", {"stddev": np.inf}, ValueError, "stddev: got inf"),
    ("gaussian_dropout", {"rate": 1.0}, ValueError, r"rate: got 1\.0"),
    ("alpha_dropout", {"seed": -1}, ValueError, "seed: got -1"),
    ("layer_normalization", {"epsilon": 0.0}, ValueError, r"epsilon: got 0\.0"),
    ("rms_normalization", {"epsilon": -1.0}, ValueError, r"epsilon: got -1"),
    ("rms_normalization", {"scale": np.ones(6)}, ValueError, r"scale: .*\(7,\) is needed"),
    ("layer_normalization", {"gamma": np.ones(6)}, ValueError, r"gamma: .*\(7,\) is needed"),
    ("layer_normalization", {"beta": np.ones(7, "f")}, TypeError, "beta: got dtype float32"),
    ("batch_normalization", {"mean": np.ones(6)}, ValueError, r"mean: .*\(7,\) is needed"),
    ("batch_normalization", {"variance": -np.ones(7)}, ValueError, "variance: got a negative"),
    ("sgd_update", {"dw": A}, ValueError, r"dw: got shape \(5, 3\); \(5, 7\)"),
    ("sgd_update", {"velocity": None}, ValueError, "velocity: got None, momentum 0.9"),
    ("sgd_update", {"learning_rate": -1.0}, ValueError, "learning_rate: got -1.0"),
    ("sgd_update", {"momentum": 1.5}, ValueError, "momentum: got 1.5"),
    ("sgd_update", {"nesterov": "yes"}, TypeError, "nesterov: got 'yes'"),
    ("sgd_update", {"weight_decay": np.inf}, ValueError, "weight_decay: got inf"),
    ("adam_update", {"iteration": -1}, ValueError, "iteration: got -1"),
    ("adam_update", {"beta_1": 1.0}, ValueError, "beta_1: got 1.0"),
    ("adam_update", {"beta_2": -0.5}, ValueError, "beta_2: got -0.5"),
    ("adam_update", {"epsilon": -1e-7}, ValueError, "epsilon: got -1e-07"),
    ("adam_update", {"l1": None}, TypeError, "l1: got None"),
    ("adam_update", {"l1_step": "prox"}, ValueError, "l1_step: got 'prox'.*'proximal'"),
    ("adam_update", {"l1_step": "cumulative"}, TypeError, "l1_budget: got NoneType"),
    (
        "sgd_update",
        {"l1_step": "proximal", "momentum": 1.0},
        ValueError,
        "momentum: got 1; below 1 is needed for l1_step='proximal'",
    ),
]


@pytest.mark.parametrize(("name", "changed", "error", "words"), BAD)
def test_bad_input_names_the_argument_and_changes_nothing(face, name, changed, error, words, rng):
    read, updated, others = case(name, "float64", rng)
    before = {argument: array.copy() for argument, array in updated.items()}
    with pytest.raises(error, match="^" + words):
        getattr(face, name)(**(read | updated | others | changed))
    assert all(np.array_equal(updated[argument], before[argument]) for argument in updated)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 7, 1], "got 7 at row 1; class numbers 0 to 6 are needed"),
        ([0, 1, -1], "got -1 at row 2"),
        ([0.5, 1.0, 1.0], "got 0.5 at row 0"),
        ([0.0, np.nan, 1.0], "got nan at row 1"),
        ([0, 1], r"got shape \(2,\); \(3,\) is needed"),
        (np.eye(3, 7), r"got shape \(3, 7\).*'categorical_crossentropy'"),
    ],
)
def test_class_numbers_out_of_range_are_refused(face, labels, words):
    with pytest.raises(ValueError, match=f"^y_true: {words}"):
        face.loss("sparse_categorical_crossentropy", labels, np.ones((3, 7)))
    with pytest.raises(TypeError, match=r"^y_true: got dtype <U1"):
        face.loss("sparse_categorical_crossentropy", ["a", "b", "c"], np.ones((3, 7)))


@pytest.mark.parametrize(
    "name", ["layer_normalization", "rms_normalization", "batch_normalization"]
)
def test_normalization_may_write_to_x_but_to_no_other_input(face, name, rng):
    read, _, others = case(name, "float64", rng)
    expected = answers(face, name, read, {}, others)
    given = {argument: array.copy() for argument, array in read.items()}
    getattr(face, name)(**given, **others, out=given["x"])
    assert [given["x"].tobytes()] == expected
    out = np.zeros((5, 7))
    for argument in read.keys() - {"x"}:
        with pytest.raises(ValueError, match=f"overlaps {argument}"):
            getattr(face, name)(**(read | {argument: out[0]}), **others, out=out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalization_equals_its_twin(dtype, rng):
    for rows, units in [(1, 1), (5, 3), (7, 64), (33, 101), (2, 1000)]:
        x = normal(rng, dtype, rows, units)
        vectors = [normal(rng, dtype, units) for _ in range(3)]
        variance = np.abs(normal(rng, dtype, units))
        for name, args in (
            ("layer_normalization", (x, *vectors[:2])),
            ("layer_normalization", (x, None, vectors[0])),
            ("rms_normalization", (x, vectors[0])),
            ("rms_normalization", (x,)),
            ("batch_normalization", (x, vectors[0], variance, vectors[1], vectors[2])),
            ("batch_normalization", (x, vectors[0], variance)),
        ):
            mine, twin = (getattr(f, name)(*args) for f in (functional, reference))
            # A few operations on values up to `size`, and means of up to `units` terms.
            size = 1 + np.abs(x).max() + np.abs(mine).max()
            assert np.abs(mine - twin).max() <= (8 + np.sqrt(units)) * np.finfo(dtype).eps * size


@pytest.mark.parametrize("power", [-0.5, -0.7, -1.0])
def test_ftrl_sees_gradients_that_hardly_move_their_sum(face, power):
    """In float32 g^2 is some units of n here: a difference of powers of n would be rounding."""
    g = np.linspace(-3e-3, 3e-3, 37)
    ends = []
    for dtype in ("float32", "float64"):
        w, n = np.ones(37, dtype), np.linspace(0.05, 3, 37).astype("float32").astype(dtype)
        z = np.zeros(37, dtype)
        dw = g.astype("float32").astype(dtype)
        face.optimizer_update("ftrl", w, dw, [n, z], learning_rate=0.01, learning_rate_power=power)
        ends.append(z)
    np.testing.assert_allclose(ends[0], ends[1], rtol=3e-6, atol=1e-9)
