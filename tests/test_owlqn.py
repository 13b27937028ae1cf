"""OWL-QN against coordinate descent, closed forms and the conditions of a minimum."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from fastreg import owlqn


def lasso_problem(seed, n=60, n_features=30):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_features)) * rng.uniform(0.2, 3.0, n_features)
    w = np.where(rng.random(n_features) < 0.3, rng.normal(size=n_features), 0.0)
    y = x @ w + 0.1 * rng.normal(size=n)

    def smooth(w):
        r = x @ w - y
        return float(r @ r) / (2 * n), x.T @ r / n

    return x, y, smooth


@pytest.mark.parametrize("alpha", [1e-3, 0.03, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_is_the_lasso(alpha, seed):
    x, y, smooth = lasso_problem(seed)
    truth = Lasso(alpha, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    found = owlqn.minimize(
        smooth, np.zeros(30), np.full(30, alpha), tol=1e-10, max_iter=5000, max_fun=20_000
    )
    assert found.converged
    np.testing.assert_allclose(found.w, truth, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.w == 0, truth == 0)


def test_weights_without_l1_are_free():
    target = np.array([0.2, -0.2, 0.2, 3.0])
    l1 = np.array([0.0, 0.0, 1.0, 1.0])
    found = owlqn.minimize(
        lambda w: (0.5 * float((w - target) @ (w - target)), w - target),
        np.array([1.0, 1.0, -1.0, -1.0]),
        l1,
        tol=1e-12,
        max_iter=100,
        max_fun=100,
    )
    np.testing.assert_allclose(found.w, [0.2, -0.2, 0.0, 2.0], atol=1e-12)


def test_without_l1_it_is_lbfgs_and_descends():
    def rosenbrock(w):
        a, b = w[1] - w[0] ** 2, 1 - w[0]
        return 100 * a**2 + b**2, np.array([-400 * a * w[0] - 2 * b, 200 * a])

    values = []
    found = owlqn.minimize(
        rosenbrock,
        np.array([-1.2, 1.0]),
        np.zeros(2),
        tol=1e-9,
        max_iter=500,
        max_fun=2000,
        callback=lambda w, value: values.append(value),
    )
    np.testing.assert_allclose(found.w, [1, 1], atol=1e-7)
    assert found.n_iter == len(values) and (np.diff(values) < 0).all()


def test_limits_and_what_is_not_finite():
    _, _, smooth = lasso_problem(0)
    few = owlqn.minimize(smooth, np.zeros(30), np.ones(30), tol=0, max_iter=2, max_fun=1000)
    assert few.n_iter == 2 and not few.converged
    few = owlqn.minimize(smooth, np.ones(30), np.ones(30), tol=0, max_iter=99, max_fun=3)
    assert few.n_evaluations == 3 and not few.converged
    bad = owlqn.minimize(
        lambda w: (np.inf, w), np.ones(2), np.ones(2), tol=0, max_iter=9, max_fun=9
    )
    assert not bad.converged and np.array_equal(bad.w, [1, 1])
