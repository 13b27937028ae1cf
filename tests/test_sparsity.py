"""L1 that lands on zero: the minimum it reaches, the zeros it leaves, and what noise undoes."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg as fr
from fastreg import functional, reference

FACES = {"compiled": functional, "reference": reference}
L1_STEPS = ("proximal", "cumulative")


class Descent:
    """One weight vector under an optimizer, by the functions of a face."""

    def __init__(self, face, w, kind, l1_step, l1, learning_rate):
        self.face, self.w, self.kind = face, w, kind
        self.slots = [np.zeros_like(w), np.zeros_like(w)]
        self.options = {"learning_rate": learning_rate, "l1": l1, "l1_step": l1_step}
        if l1_step == "cumulative":
            self.options["l1_budget"] = np.zeros((2, *w.shape))
        self.iteration = 0

    def step(self, dw, learning_rate=None):
        if learning_rate is not None:
            self.options["learning_rate"] = learning_rate
        if self.kind == "adam":
            options = {"iteration": self.iteration, **self.options}
            self.face.adam_update(self.w, dw, *self.slots, **options)
        else:
            momentum = {"sgd": 0.0}.get(self.kind, 0.9)
            nesterov = self.kind == "nesterov"
            options = {"momentum": momentum, "nesterov": nesterov, **self.options}
            self.face.sgd_update(self.w, dw, self.slots[0], **options)
        self.iteration += 1


KINDS = ("sgd", "momentum", "nesterov", "adam")


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_is_that_of_the_loss_with_l1(kind, l1_step, face):
    """(w - c)' H (w - c) / 2 + l1 |w| with diagonal H: the solution is S(c, l1 / H)."""
    curvature, center, l1 = np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.2, 0.5]), 0.5
    descent = Descent(FACES[face], np.array([0.5, -1.0, 1.0]), kind, l1_step, l1, 0.01)
    n = 4000
    for t in range(n):
        rate = 0.01 * min(1.0, 2 * (1 - t / n)) if kind == "adam" else None
        descent.step(curvature * (descent.w - center), rate)
    np.testing.assert_allclose(descent.w, [1.5, 0, 0.25], atol=1e-5)
    assert descent.w[1] == 0


def share_of_zeros(kind, l1_step, noise, seed=0):
    """200 weights, 87% of which are 0 at the minimum; (share at 0, weights wrongly at 0)."""
    rng = np.random.default_rng(seed)
    center = np.zeros(200)
    center[:26] = rng.choice([-1, 1], 26) * rng.uniform(1, 3, 26)
    descent = Descent(functional, rng.standard_normal(200), kind, l1_step, 0.5, 0.01)
    for _ in range(4000):
        descent.step(descent.w - center + noise * rng.standard_normal(200))
    zero = descent.w == 0
    return zero.mean(), int(zero[:26].sum())


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_cumulative_keeps_the_zeros_under_noise(kind):
    share, wrong = share_of_zeros(kind, "cumulative", noise=1.0)
    assert share >= 0.86 and wrong == 0


def test_sign_reaches_no_zero_and_proximal_loses_some_to_noise():
    assert share_of_zeros("adam", "sign", noise=0.1) == (0, 0)
    calm, _ = share_of_zeros("adam", "proximal", noise=0.1)
    noisy, _ = share_of_zeros("adam", "proximal", noise=1.0)
    assert calm >= 0.86 > noisy


# ------------------------------------------------ models, against scikit-learn


def linear_model(n_in, n_out, activation, loss, regularizer, optimizer, seed=0):
    fr.set_random_seed(seed)
    dense = fr.Dense(n_out, activation, kernel_regularizer=regularizer)
    model = fr.Sequential([fr.Input((n_in,), dtype="float64"), dense])
    model.compile(optimizer, loss)
    return model


def optimizers(l1_step, rate):
    return [
        fr.SGD(rate, l1_step=l1_step),
        fr.SGD(rate / 10, momentum=0.9, l1_step=l1_step),
        fr.SGD(rate / 10, momentum=0.9, nesterov=True, l1_step=l1_step),
    ]


def regression(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 12))
    w = np.zeros(12)
    w[:4] = [2.0, -1.0, 0.5, 0.25]
    return x, x @ w + 0.1 * rng.standard_normal(60) + 0.3


def full_batch(model, x, y, epochs):
    model.fit(x, y, batch_size=len(x), epochs=epochs, shuffle=False, verbose=0)
    kernel, bias = model.get_weights()
    return kernel, bias


@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("number", range(3))
def test_lasso(number, l1_step):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, y = regression()
    alpha = 0.05  # 1 / (2 n) |y - xw|^2 + alpha |w|: half of the mean squared error
    truth = sklearn.Lasso(alpha=alpha, tol=1e-12, max_iter=10**6).fit(x, y)
    optimizer = optimizers(l1_step, 0.1)[number]
    model = linear_model(12, 1, None, "mse", fr.L1(2 * alpha), optimizer)
    kernel, bias = full_batch(model, x, y, 2000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-8)
    np.testing.assert_allclose(bias[0], truth.intercept_, atol=1e-8)
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()


@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("number", range(3))
def test_elastic_net(number, l1_step):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, y = regression(1)
    # 1 / (2 n) |y - xw|^2 + alpha r |w| + alpha (1 - r) / 2 |w|^2
    truth = sklearn.ElasticNet(alpha=0.1, l1_ratio=0.5, tol=1e-12, max_iter=10**6).fit(x, y)
    regularizer = fr.L1L2(l1=2 * 0.1 * 0.5, l2=0.1 * 0.5)
    model = linear_model(12, 1, None, "mse", regularizer, optimizers(l1_step, 0.1)[number])
    kernel, _ = full_batch(model, x, y, 2000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-8)
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()


@pytest.mark.parametrize("l1_step", L1_STEPS)
def test_l1_logistic_regression(l1_step):
    sklearn = pytest.importorskip("sklearn.linear_model")
    x, y = regression(2)
    y = (y > 0.3).astype(int)
    c = 0.2  # |w| + c sum(losses)
    truth = sklearn.LogisticRegression(
        l1_ratio=1, C=c, solver="saga", tol=1e-10, max_iter=10**6
    ).fit(x, y)
    regularizer = fr.L1(1 / (c * len(x)))
    optimizer = fr.SGD(0.1, momentum=0.9, l1_step=l1_step)
    model = linear_model(12, 1, "sigmoid", "binary_crossentropy", regularizer, optimizer)
    kernel, _ = full_batch(model, x, y, 6000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_[0], atol=1e-6)
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_[0] == 0) and (kernel == 0).any()


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("l1_step", L1_STEPS)
def test_hidden_layers_get_exact_zeros_too(l1_step, backend):
    x, y = regression(3)
    fr.set_random_seed(1)
    hidden = fr.Dense(16, "relu", kernel_regularizer="l1", bias_regularizer=fr.L1(0.01))
    model = fr.Sequential([fr.Input((12,)), hidden, fr.Dense(1)], backend=backend)
    model.compile(fr.Adam(0.003, l1_step=l1_step), "mse")
    model.fit(x, y, batch_size=20, epochs=150, verbose=0)
    kernel, *_ = model.get_weights()
    assert 0.2 < (kernel == 0).mean() < 1


def test_training_goes_on_after_saving(tmp_path):
    """The budget of the cumulative step is state, and saved as such."""
    pytest.importorskip("safetensors")
    x, y = regression(4)
    model = linear_model(12, 1, None, "mse", fr.L1(0.1), fr.Adam(0.01, l1_step="cumulative"))
    model.fit(x, y, epochs=5, shuffle=False, verbose=0)
    model.save(tmp_path / "model.safetensors")
    again = fr.load_model(tmp_path / "model.safetensors")
    assert again.optimizer == model.optimizer
    for each in (model, again):
        each.fit(x, y, epochs=5, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_momentum_of_one_is_refused():
    model = linear_model(12, 1, None, "mse", "l1", fr.SGD(momentum=1.0, l1_step="proximal"))
    with pytest.raises(ValueError, match=r"momentum: got 1; below 1 is needed"):
        model.fit(*regression(), verbose=0)
