"""The objective as one function of all weights, and `polish`, which goes down to its minimum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

import fastreg as fr
from fastreg import objective as module
from fastreg.objective import Objective

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 12))
W = np.array([2.0, -1.0, 0.5, 0.25] + 8 * [0.0])
Y = X @ W + 0.1 * RNG.standard_normal(60) + 0.3
WEIGHT = RNG.uniform(0.5, 2, 60)


def head(regularizer, activation=None, loss="mse", dtype="float64", units=1):
    fr.set_random_seed(0)
    dense = fr.Dense(units, activation, kernel_regularizer=regularizer)
    model = fr.Sequential([fr.Input((X.shape[1],), dtype=dtype), dense])
    model.compile("sgd", loss)
    return model


def network(l1=0.01, *, activation="tanh", dtype="float64", backend=None, seed=0):
    """12-10-1 with every kind of penalty."""
    fr.set_random_seed(seed)
    hidden = fr.Dense(
        10,
        activation,
        kernel_regularizer=fr.L1L2(l1, 1e-3),
        bias_regularizer=fr.L1(1e-3),
        activity_regularizer=fr.L2(1e-3),
    )
    layers = [fr.Input((12,), dtype=dtype), hidden, fr.Dropout(0.5)]
    layers += [fr.Dense(1, kernel_regularizer=fr.L1(1e-3))]
    model = fr.Sequential(layers, backend=backend)
    model.compile(fr.Adam(0.01, l1_step="proximal"), "mse")
    return model


def zeros(model):
    return sum(int((w == 0).sum()) for w in model.get_weights() if w.ndim == 2)


# ------------------------------------------------ the function


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_value_and_gradient(weight, backend, monkeypatch):
    """Against evaluate and central differences; rows come in pieces of 25."""
    monkeypatch.setattr(module.Objective, "rows_at_once", 25)
    model = network(backend=backend)
    objective = model.objective(X, Y, weight)
    w = objective.start + 0.1 * np.random.default_rng(1).standard_normal(objective.start.size)
    model.set_weights(objective.weights(w))
    point = objective.at(w)
    expected = model.evaluate(X, Y, sample_weight=weight, verbose=0)
    assert point.value == pytest.approx(expected, rel=1e-12)
    slopes = np.empty_like(w)
    for i in range(len(w)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = w.copy()
            moved[i] += step
            ends.append(objective.smooth(moved)[0])
        slopes[i] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(point.gradient, slopes, atol=1e-8)
    assert point.residual == pytest.approx(abs(slopes + objective.l1 * np.sign(w)).max(), rel=1e-6)


def test_prox_is_the_minimum_of_its_definition():
    objective = network().objective(X, Y)
    w = np.random.default_rng(2).uniform(-0.02, 0.02, objective.start.size)
    found, step = objective.prox(w, 0.7), 0.7
    for other in (found + 1e-4, found - 1e-4, w, 0 * w):
        at_found = (found - w) ** 2 / 2 + step * objective.l1 * abs(found)
        at_other = (other - w) ** 2 / 2 + step * objective.l1 * abs(other)
        assert (at_found <= at_other + 1e-18).all()
    assert 0 < (found == 0).sum() < len(w) and not np.signbit(found[found == 0]).any()


def test_what_is_not_trainable_is_no_part_of_w():
    model = network()
    model.layers[0].trainable = False
    objective = model.objective(X, Y)
    assert objective.start.size == 11
    assert objective.at(objective.start).value == pytest.approx(
        model.evaluate(X, Y, verbose=0), rel=1e-12
    )
    before = model.get_weights()
    model.polish(X, Y, verbose=0)
    after = model.get_weights()
    assert np.array_equal(before[0], after[0]) and not np.array_equal(before[2], after[2])


# ------------------------------------------------ polish, against scikit-learn


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_lasso_and_elastic_net(backend):
    for l1_ratio in (1.0, 0.5):
        truth = ElasticNet(alpha=0.1, l1_ratio=l1_ratio, tol=1e-12, max_iter=10**6).fit(X, Y)
        dense = fr.Dense(1, kernel_regularizer=fr.L1L2(0.2 * l1_ratio, 0.1 * (1 - l1_ratio)))
        model = fr.Sequential([fr.Input((12,), dtype="float64"), dense], backend=backend)
        model.compile("sgd", "mse")
        found = model.polish(X, Y, tol=1e-10, verbose=0)
        kernel, bias = model.get_weights()
        np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-9)
        np.testing.assert_allclose(bias[0], truth.intercept_, atol=1e-9)
        assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()
        assert found.converged and found.kkt_residual <= 1e-10
        assert fr.sparsity_report(model, X, Y)["kkt_residual"] <= 1e-10


def test_more_inputs_than_rows():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 300))
    y = x[:, :5].sum(axis=1)
    truth = Lasso(alpha=0.1, tol=1e-12, max_iter=10**6).fit(x, y)
    dense = fr.Dense(1, kernel_regularizer=fr.L1(0.2))
    model = fr.Sequential([fr.Input((300,), dtype="float64"), dense])
    model.compile("sgd", "mse")
    assert model.polish(x, y, tol=1e-10, verbose=0).converged
    np.testing.assert_allclose(model.get_weights()[0][:, 0], truth.coef_, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_l1_logistic_regression(n_classes):
    labels = np.digitize(Y, [0.3] if n_classes == 2 else [-1, 1])
    c = 0.2  # |w| + c sum(losses)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        truth = LogisticRegression(l1_ratio=1, C=c, solver="saga", tol=1e-9, max_iter=20000)
        truth.fit(X, labels)
    activation, loss, units = ("sigmoid", "binary_crossentropy", 1)
    if n_classes == 3:
        activation, loss, units = ("softmax", "sparse_categorical_crossentropy", 3)
    model = head(fr.L1(1 / (c * len(X))), activation, loss, units=units)
    assert model.polish(X, labels, tol=1e-9, verbose=0).kkt_residual <= 1e-9
    kernel = model.get_weights()[0]
    np.testing.assert_allclose(kernel, truth.coef_.T, atol=1e-6)
    assert np.array_equal(kernel == 0, truth.coef_.T == 0) and (kernel == 0).any()


def test_sample_weights_count():
    truth = Lasso(alpha=0.05, tol=1e-12, max_iter=10**6).fit(X, Y, sample_weight=WEIGHT)
    scale = WEIGHT.mean()  # scikit-learn divides by the sum of the weights, Keras by the rows
    model = head(fr.L1(0.1 * scale))
    model.polish(X, Y, WEIGHT, tol=1e-10, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], truth.coef_, atol=1e-8)


# ------------------------------------------------ polish, of networks


def test_a_network_gets_to_a_stationary_point():
    model = network()
    model.fit(X, Y, batch_size=20, epochs=100, verbose=0)
    found = model.polish(X, Y, tol=1e-8, max_iter=20000, verbose=0)
    assert found.converged
    report = fr.sparsity_report(model, X, Y)
    assert report["kkt_residual"] <= 1e-8
    assert report["objective"] == found.objective


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_noise_left_goes(dtype, activation):
    model = network(dtype=dtype, activation=activation)
    model.fit(X, Y, batch_size=5, epochs=60, verbose=0)
    slots = model.network.get_slots()
    before, loss = zeros(model), model.evaluate(X, Y, verbose=0)
    found = model.polish(X, Y, max_iter=500, verbose=0)
    assert zeros(model) > before + 10
    assert model.evaluate(X, Y, verbose=0) < 0.9 * loss
    assert found.objective == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    for a, b in zip(model.network.get_slots(), slots, strict=True):
        assert all(np.array_equal(c, d) for c, d in zip(a, b, strict=True))


def test_the_loss_never_rises_and_a_minimum_stays():
    model = network(dtype="float32")
    losses = [model.objective(X, Y).at(model.objective(X, Y).start).value]
    for _ in range(8):
        losses.append(model.polish(X, Y, tol=0, max_iter=400, verbose=0).objective)
    assert losses == sorted(losses, reverse=True) and losses[1] < losses[0]
    weights = model.get_weights()
    assert model.polish(X, Y, max_iter=0, verbose=0).iterations == 1
    for a, b in zip(weights, model.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_compact_model_is_polished():
    model = network(0.05)
    model.polish(X, Y, verbose=0)
    small = fr.compact(model)
    assert small.count_params() < model.count_params()
    again = small.polish(X, Y, verbose=0)
    # Constant units have gone, and their activity penalty with them.
    assert again.objective <= model.evaluate(X, Y, verbose=0) + 1e-9


def test_ctrl_c_leaves_the_best_so_far(monkeypatch):
    model = network()
    plain, calls = Objective.smooth, []

    def interrupted(self, w):
        calls.append(None)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return plain(self, w)

    loss = model.evaluate(X, Y, verbose=0)
    monkeypatch.setattr(Objective, "smooth", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.polish(X, Y, verbose=0)
    assert model.evaluate(X, Y, verbose=0) < 0.9 * loss


def test_the_moving_line(capsys):
    head(fr.L1(0.1)).polish(X, Y, verbose=1)
    assert "residual" in capsys.readouterr().err


def test_what_is_refused():
    model = head("l1")
    with pytest.raises(ValueError, match="tol: got -1"):
        model.polish(X, Y, tol=-1)
    with pytest.raises(TypeError, match="max_iter: got"):
        model.polish(X, Y, max_iter=1.5)
    with pytest.raises(ValueError, match="x: got shape"):
        model.polish(X[:, :3], Y)
    with pytest.raises(ValueError, match="compile"):
        fr.Sequential([fr.Input((12,)), fr.Dense(1)]).polish(X, Y)
    weights = model.get_weights()
    model.set_weights([np.full_like(w, 1e200) for w in weights])
    with pytest.raises(FloatingPointError, match="not finite"):
        model.polish(X, Y, verbose=0)
    assert (model.get_weights()[0] == 1e200).all()


# ------------------------------------------------ penalties that bring a prox


class Nuclear:
    """The sum of singular values: a kernel of low rank (Cai, Candes and Shen 2010)."""

    def __init__(self, strength):
        self.strength = strength

    def value(self, w):
        return self.strength * np.linalg.svd(w, compute_uv=False).sum()

    def gradient(self, w):
        u, _, v = np.linalg.svd(w, full_matrices=False)
        return self.strength * u @ v

    def prox(self, w, step):
        u, s, v = np.linalg.svd(w, full_matrices=False)
        return u * np.maximum(s - step * self.strength, 0) @ v


class OwnL1:
    def __init__(self, strength):
        self.strength = strength

    def value(self, w):
        return self.strength * np.abs(w).sum()

    def gradient(self, w):
        return self.strength * np.sign(w)

    def prox(self, w, step):
        return np.sign(w) * np.maximum(np.abs(w) - step * self.strength, 0)


def test_polish_by_a_prox_of_ones_own():
    """L1 in Python has the Lasso's minimum, zeros and all."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(80, 9))
    y = x[:, :2] @ [1.0, -2.0] + 0.3 * rng.normal(size=80)
    found = []
    for regularizer in (fr.L1(0.2), OwnL1(0.2)):
        fr.set_random_seed(0)
        dense = fr.Dense(1, kernel_regularizer=regularizer)
        model = fr.Sequential([fr.Input((9,), dtype="float64"), dense])
        model.compile("sgd", "mse")
        done = model.polish(x, y, tol=1e-10, max_iter=5000, verbose=0)
        assert done.converged
        found.append((dense.kernel, done.objective))
    (kernel, value), (own, own_value) = found
    np.testing.assert_allclose(own, kernel, atol=1e-9)
    assert np.array_equal(own == 0, kernel == 0) and (kernel == 0).any()
    assert own_value == pytest.approx(value, rel=1e-12)


def test_polish_to_a_low_rank():
    """With orthonormal inputs the minimum is known: singular values, shrunk."""
    rng = np.random.default_rng(9)
    n, m, strength = 40, 5, 0.1
    x = np.linalg.qr(rng.normal(size=(n, 6)))[0] * np.sqrt(n)
    w = rng.normal(size=(6, 2)) @ rng.normal(size=(2, m)) + 0.05 * rng.normal(size=(6, m))
    dense = fr.Dense(m, use_bias=False, kernel_regularizer=Nuclear(strength))
    model = fr.Sequential([fr.Input((6,), dtype="float64"), dense])
    model.compile("sgd", "mse")
    assert model.polish(x, x @ w, tol=1e-10, verbose=0).kkt_residual <= 1e-10
    np.testing.assert_allclose(dense.kernel, Nuclear(strength).prox(w, m / 2), atol=1e-8)
    assert np.linalg.matrix_rank(dense.kernel, tol=1e-6) == 2
