"""fastreg beside the installed skglm, live: the group lasso.

Theirs is 1 / (2 n) |y - x w - b|^2 + alpha sum weight_g |w_g|, half of ours.
"""

from __future__ import annotations

import numpy as np
import pytest
import skglm

import fastreg as fr

GROUPS = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12, 13], [14, 15, 16, 17, 18, 19]]
WEIGHTS = np.sqrt([len(group) for group in GROUPS])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 20))
Y = X[:, :4] @ [1.0, 2.0, -1.0, 0.5] + 0.3 * X[:, 15] + RNG.standard_normal(120) + 1


def model_of(alpha, optimizer="sgd"):
    fr.set_random_seed(0)
    dense = fr.Dense(1, kernel_regularizer=fr.GroupL1(2 * alpha, GROUPS))
    model = fr.Sequential([fr.Input((20,), dtype="float64"), dense])
    model.compile(optimizer, "mse")
    return model


def assert_the_same(model, theirs, atol):
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel[:, 0], theirs.coef_, atol=atol)
    np.testing.assert_allclose(bias[0], theirs.intercept_, atol=atol)
    assert np.array_equal(kernel[:, 0] == 0, theirs.coef_ == 0)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.05, 0.01])
def test_group_lasso(alpha):
    theirs = skglm.GroupLasso(groups=GROUPS, alpha=alpha, weights=WEIGHTS, tol=1e-13).fit(X, Y)
    model = model_of(alpha)
    assert model.polish(X, Y, tol=1e-11, verbose=0).kkt_residual < 1e-8
    assert_the_same(model, theirs, 1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [
        fr.SGD(0.2, l1_step="proximal"),
        fr.SGD(0.05, momentum=0.9, l1_step="proximal"),
        fr.Adam(0.2, beta_2=0.99, amsgrad=True, l1_step="proximal"),
    ],
    ids=["sgd", "momentum", "amsgrad"],
)
def test_training_comes_to_it_too(optimizer):
    theirs = skglm.GroupLasso(groups=GROUPS, alpha=0.2, weights=WEIGHTS, tol=1e-13).fit(X, Y)
    model = model_of(0.2, optimizer)
    model.fit(X, Y, batch_size=len(X), epochs=3000, shuffle=False, verbose=0)
    assert_the_same(model, theirs, 1e-8)
    assert (theirs.coef_ == 0).any()
    assert fr.sparsity_report(model, X, Y)["kkt_residual"] < 1e-8


def test_a_path_of_the_group_lasso():
    path = fr.regularization_path(model_of(0.1), X, Y, n=20, eps=0.01, tol=1e-8, verbose=0)
    for strength, kernel in zip(path.strengths, path.coefficients, strict=True):
        options = {"groups": GROUPS, "weights": WEIGHTS, "tol": 1e-13}
        theirs = skglm.GroupLasso(alpha=strength / 2, **options).fit(X, Y)
        np.testing.assert_allclose(kernel[:, 0], theirs.coef_, atol=1e-6)
        assert np.array_equal(kernel[:, 0] == 0, theirs.coef_ == 0)
