"""The regularization path: where it begins, what it finds, and what it costs."""

from __future__ import annotations

import copy
import threading
import time

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso, LassoCV, enet_path, lasso_path
from sklearn.model_selection import KFold

import fastreg as fr
from fastreg import functional, paths, reference
from fastreg.objective import Objective

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 20))
LABELS = "sparse_categorical_crossentropy"
W = np.array([2.0, -1.0, 0.5, 0.25, -0.1] + 15 * [0.0])
Y = X @ W + 0.5 * RNG.standard_normal(120) + 1


def linear(regularizer="l1", n_in=20, **options):
    fr.set_random_seed(0)
    layers = [fr.Input((n_in,), dtype="float64"), fr.Dense(1, kernel_regularizer=regularizer)]
    model = fr.Sequential(layers, **options)
    model.compile(fr.SGD(0.05, momentum=0.9, l1_step="proximal"), "mse")
    return model


def network(units=16, l1_step="cumulative", n_in=20, output="l1"):
    fr.set_random_seed(0)
    hidden = fr.Dense(units, "relu", kernel_regularizer=fr.L1(0.01))
    layers = [fr.Input((n_in,)), hidden, fr.Dense(1, kernel_regularizer=output)]
    model = fr.Sequential(layers)
    model.compile(fr.Adam(0.01, l1_step=l1_step), "mse")
    return model


def path_of(model, x=X, y=Y, **options):
    return fr.regularization_path(model, x, y, verbose=0, **options)


def assert_same(a, b):
    for name in ("strengths", "nonzeros", "importances", "losses", "fold_scores"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


# ------------------------------------------------ one layer, against scikit-learn


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_lasso_path(backend):
    alphas, coefs, _ = lasso_path(X - X.mean(0), Y - Y.mean(), alphas=50, tol=1e-12)
    model = linear(backend=backend)
    before = model.get_weights()
    path = path_of(model, tol=1e-7)
    np.testing.assert_allclose(path.strengths, 2 * alphas, rtol=1e-10)
    np.testing.assert_allclose(path.coefficients[:, :, 0], coefs.T, atol=1e-6)
    assert np.array_equal(path.coefficients[:, :, 0] == 0, coefs.T == 0)
    assert np.array_equal(path.nonzeros, (coefs != 0).sum(axis=0)) and path.nonzeros[0] == 0
    assert np.array_equal(path.selected_inputs, coefs.T != 0)
    assert (path.kkt_residuals <= 1e-7 * path.strengths).all()
    assert path.fold_scores is None and path.n_penalized == 20 and len(path) == 50
    for a, b in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_lambda_max_is_the_smallest_that_empties():
    top = path_of(linear(), n=1).strengths[0]
    for strength, n in ((top * (1 + 1e-9), 0), (top * (1 - 1e-3), 1)):
        model = linear(fr.L1(strength))
        model.polish(X, Y, tol=1e-10, verbose=0)
        assert np.count_nonzero(model.get_weights()[0]) == n


def test_lambda_max_of_a_classifier():
    """With the biases fitted, softmax gives the shares of the classes."""
    labels = np.digitize(Y, [-0.5, 2])
    dense = fr.Dense(3, "softmax", kernel_regularizer=fr.L1L2(0.3, 0.01))
    model = fr.Sequential([fr.Input((20,), dtype="float64"), dense])
    model.compile("sgd", LABELS, ["accuracy"])
    path = path_of(model, y=labels, n=5, cv=3)
    errors = np.bincount(labels) / len(labels) - np.eye(3)[labels]
    assert path.strengths[0] == pytest.approx(abs(X.T @ errors / len(X)).max(), rel=1e-8)
    assert path.nonzeros[0] == 0 < path.nonzeros[1]
    assert path.scores[-1] > 0.6 > path.scores[0]
    assert path.model_at(2).layers[0].kernel_regularizer == fr.L1L2(path.strengths[2], 0.01)


def test_elastic_net_with_l2_as_it_is():
    strengths = np.array([0.4, 0.2, 0.1])
    path = path_of(linear(fr.L1L2(0.1, 0.05)), strengths=strengths, tol=1e-7)
    for strength, found in zip(strengths, path.coefficients, strict=True):
        alpha, l1 = (
            strength / 2 + 0.05,
            strength / 2,
        )  # alpha r = l1 / 2, alpha (1 - r) / 2 = l2 / 2
        _, coefs, _ = enet_path(
            X - X.mean(0), Y - Y.mean(), alphas=[alpha], l1_ratio=l1 / alpha, tol=1e-12
        )
        np.testing.assert_allclose(found[:, 0], coefs[:, 0], atol=1e-6)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("delta", [0.4, 1.5])
def test_the_path_of_a_loss_with_a_setting(delta, backend):
    """Each fit fulfils the conditions of a minimum of Huber's loss with that delta and L1."""
    y = Y.copy()
    y[::10] += 8  # where delta counts
    model = linear(backend=backend)
    model.compile(fr.SGD(0.05, momentum=0.9, l1_step="proximal"), fr.losses.Huber(delta))
    path = path_of(model, y=y, n=12, eps=0.02, tol=1e-6)
    assert not path.coefficients[0].any()
    slopes = np.clip(path.weights[0][1][0] - y, -delta, delta)
    assert slopes.mean() == pytest.approx(0, abs=1e-6)
    assert path.strengths[0] == pytest.approx(np.abs(X.T @ slopes).max() / len(X), rel=1e-6)
    for i, strength in enumerate(path.strengths):
        kernel = path.coefficients[i, :, 0]
        apart = X @ kernel + path.weights[i][1][0] - y
        slope = X.T @ np.clip(apart, -delta, delta) / len(X)
        there = kernel != 0
        ours = -strength * np.sign(kernel[there])
        np.testing.assert_allclose(slope[there], ours, rtol=1e-5, atol=1e-6)
        assert (np.abs(slope[~there]) <= strength * (1 + 1e-5)).all()
    assert path.nonzeros[-1] >= 4


def test_cross_validation_picks_what_lasso_cv_picks():
    folds = list(KFold(5, shuffle=True, random_state=1).split(X))
    truth = LassoCV(cv=folds, tol=1e-8, alphas=50).fit(X, Y)
    path = path_of(linear(), cv=folds, tol=1e-6)
    assert path.fold_scores.shape == (50, 5)
    np.testing.assert_allclose(path.fold_scores, -truth.mse_path_, rtol=1e-3)
    assert path.strengths[path.best_index] == pytest.approx(2 * truth.alpha_)
    se = path.fold_scores[path.best_index].std(ddof=1) / np.sqrt(5)
    near = path.scores >= path.scores[path.best_index] - se
    assert path.one_standard_error_index == np.flatnonzero(near)[0] <= path.best_index
    np.testing.assert_allclose(path.scores_std, path.fold_scores.std(axis=1))


def test_training_steps_come_to_the_same_path():
    """The solver "fit" of one layer: minibatches of all rows, from lambda_max down."""
    path = path_of(
        linear(), n=5, eps=0.1, solver="fit", batch_size=120, epochs=500, warm_epochs=300
    )
    exact = path_of(linear(), n=5, eps=0.1, tol=1e-7)
    np.testing.assert_allclose(path.coefficients, exact.coefficients, atol=1e-5)
    assert np.array_equal(path.nonzeros, exact.nonzeros)


# ------------------------------------------------ groups


def group_lasso_top(x, y, groups, l1=0.0):
    """The smallest strength s at which S(g, s l1) of no group is longer than s sqrt(size)."""
    g = np.abs((x - x.mean(0)).T @ (y - y.mean())) * 2 / len(x)

    def held(rows, s):
        return np.linalg.norm(np.maximum(g[rows] - s * l1, 0)) <= s * np.sqrt(len(rows))

    tops = []
    for rows in map(list, groups):
        low, high = 0.0, 2 * np.linalg.norm(g)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if held(rows, middle) else (middle, high)
        tops.append(high)
    return max(tops)


GROUPS = [range(4), range(4, 7), range(7, 14), range(14, 20)]


@pytest.mark.parametrize("l1", [0.0, 0.5])
def test_groups_come_in_as_one(l1):
    groups = [list(group) for group in GROUPS]
    model = linear(fr.GroupL1(0.01, groups, l1=0.01 * l1))
    path = path_of(model, n=20, eps=0.01, tol=1e-8)
    assert path.strengths[0] == pytest.approx(group_lasso_top(X, Y, groups, l1), rel=1e-9)
    assert path.nonzeros[0] == 0 < path.nonzeros[1]
    read = path.selected_inputs
    if l1 == 0:
        for rows in groups:
            assert np.isin(read[:, rows].sum(axis=1), [0, len(rows)]).all()
    assert (path.kkt_residuals <= 1e-8 * path.strengths).all()
    for i in (5, 12, 19):  # from random weights to the same
        regularizer = fr.GroupL1(path.strengths[i], groups, l1=path.strengths[i] * l1)
        cold = linear(regularizer)
        cold.polish(X, Y, tol=1e-10, verbose=0)
        np.testing.assert_allclose(path.coefficients[i], cold.get_weights()[0], atol=1e-6)
        assert np.array_equal(path.coefficients[i] == 0, cold.get_weights()[0] == 0)
    for i in (2, 19):  # a compact model's groups have other numbers and weigh the same
        kept = path.model_at(i).layers[0].kernel_regularizer
        assert kept.group_l1 == path.strengths[i] and kept.l1 == pytest.approx(kept.group_l1 * l1)


def test_inputs_in_no_group_stay():
    path = path_of(linear(fr.GroupL1(0.01, [[2, 3], [4, 5, 6]])), n=5, eps=0.1, tol=1e-8)
    assert path.n_penalized == 5 and path.nonzeros[0] == 0 < path.nonzeros[-1] <= 5
    assert path.selected_inputs[:, [0, 1, *range(7, 20)]].all()
    assert not path.selected_inputs[0, 2:7].any()


def test_a_network_under_group_l1_drops_inputs():
    fr.set_random_seed(0)
    hidden = fr.Dense(16, "relu", kernel_regularizer=fr.GroupL1(0.01))
    model = fr.Sequential([fr.Input((20,)), hidden, fr.Dense(1)])
    model.compile(fr.Adam(0.01, l1_step="proximal"), "mse")
    path = path_of(model, n=12, eps=0.01, epochs=60, batch_size=24, validation_split=0.25)
    assert path.nonzeros[0] == 0 and (path.nonzeros[1:] > 0).all()
    assert path.selected_inputs[-1, :3].all() and (np.diff(path.n_params) >= 0).all()
    assert path.selected_inputs[path.best_index, :3].all()
    assert not path.selected_inputs[path.best_index, 5:].any()
    at = path.model_at(path.best_index).layers[0].kernel_regularizer
    assert at.group_l1 == path.strengths[path.best_index]


# ------------------------------------------------ constraints


def test_a_path_of_a_constrained_network():
    fr.set_random_seed(0)
    hidden = fr.Dense(12, "relu", kernel_regularizer=fr.L1(0.01), kernel_constraint="non_neg")
    model = fr.Sequential([fr.Input((20,)), hidden, fr.Dense(1)])
    model.compile(fr.Adam(0.01, l1_step="proximal"), "mse")
    path = path_of(model, n=6, eps=0.05, epochs=40, batch_size=24, cv=3)
    assert path.kkt_residuals is None and path.nonzeros[0] == 0 < path.nonzeros[-1]
    for i, strength in enumerate(path.strengths):
        at = path.model_at(i)
        kernel = at.layers[0].kernel
        assert (kernel >= 0).all() and at.layers[0].kernel_constraint == hidden.kernel_constraint
        assert path.losses[i] == pytest.approx(at.evaluate(X, Y, verbose=0), rel=1e-5)
        assert at.layers[0].kernel_regularizer == fr.L1(strength)


def test_one_constrained_layer():
    """Under weights >= 0 the Lasso with positive=True; polish has no step for that and says so."""
    model = linear()
    model.layers[0].kernel_constraint = "non_neg"
    with pytest.raises(ValueError, match="has a constraint"):
        path_of(model, n=3)
    path = path_of(
        model, strengths=[0.4, 0.2], solver="fit", batch_size=120, epochs=800, warm_epochs=800
    )
    for strength, kernel in zip(path.strengths, path.coefficients, strict=True):
        truth = Lasso(alpha=strength / 2, positive=True, tol=1e-12).fit(X, Y)
        np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-5)
        assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0)


# ------------------------------------------------ sparse rows


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array"])
def test_sparse_rows_have_the_same_path(kind):
    x = np.where(np.random.default_rng(3).random(X.shape) < 0.3, X, 0.0)
    rows = getattr(scipy.sparse, kind)(x)
    for model, options in (
        (linear(), {"tol": 1e-8, "n": 10}),
        (network(8), {"n": 4, "epochs": 10, "eps": 0.1}),
    ):
        dense, sparse = (path_of(model, data, cv=3, **options) for data in (x, rows))
        np.testing.assert_allclose(sparse.strengths, dense.strengths, rtol=1e-4)
        np.testing.assert_allclose(sparse.losses, dense.losses, rtol=1e-3)
        np.testing.assert_allclose(sparse.fold_scores, dense.fold_scores, rtol=1e-2)
        assert np.array_equal(sparse.selected_inputs, dense.selected_inputs)
    split = path_of(linear(), rows, n=5, validation_split=0.25)
    again = path_of(linear(), x[:90], Y[:90], n=5, validation_data=(rows.tocsr()[90:], Y[90:]))
    np.testing.assert_allclose(split.fold_scores, again.fold_scores, rtol=1e-5)
    assert split.model_at(3).predict(rows).shape == (120, 1)


# ------------------------------------------------ deeper networks


@pytest.fixture(scope="module")
def deep():
    return path_of(network(), n=12, eps=0.05, epochs=60, batch_size=24, validation_split=0.25)


def test_a_network_empties_at_lambda_max(deep):
    assert len(deep) == 12 and deep.nonzeros[0] == 0 and (deep.nonzeros[1:] > 0).all()
    assert deep.strengths[-1] == pytest.approx(0.05 * deep.strengths[0])
    steps = np.diff(np.log(deep.strengths))
    np.testing.assert_allclose(steps, steps[0])


def test_going_up_nothing_comes_back(deep):
    assert (np.diff(deep.nonzeros) >= 0).mean() > 0.8
    assert (np.diff(deep.n_params) >= 0).all()
    assert deep.selected_inputs[-1, :3].all()
    assert not deep.selected_inputs[3:8, 5:].any() and deep.selected_inputs[3:8, 0].all()
    assert deep.scores[-1] > deep.scores[0] + 1
    with pytest.raises(AttributeError, match="more than one Dense layer"):
        deep.coefficients  # noqa: B018


def test_model_at(deep):
    model = deep.model_at(5)
    assert model.count_params() == deep.n_params[5]
    assert model.layers[0].kernel_regularizer == fr.L1(deep.strengths[5])
    assert model.evaluate(X[:90], Y[:90], verbose=0) == pytest.approx(deep.losses[5], rel=1e-5)
    assert -model.evaluate(X[90:], Y[90:], verbose=0, return_dict=True)[
        "data_loss"
    ] == pytest.approx(deep.scores[5], rel=1e-6)
    assert model.selected_inputs_.tolist() == np.flatnonzero(deep.selected_inputs[5]).tolist()
    assert [w.shape for w in deep.weights[5]] == [w.shape for w in model.get_weights()]
    model.fit(X, Y, verbose=0)  # training goes on, and leaves the path as it was
    assert deep.model_at(5).optimizer.iterations < model.optimizer.iterations


def test_layers_keep_their_ratio():
    path = path_of(network(output=fr.L1(0.04)), strengths=[0.1, 0.3], epochs=3)
    first, last = (layer.kernel_regularizer.l1 for layer in path.model_at(0).layers)
    assert (first, last) == (pytest.approx(0.3 / 4), 0.3) and path.strengths.tolist() == [0.3, 0.1]


def test_polish_solves_networks_too():
    path = path_of(network(6), solver="polish", n=6, eps=0.05, epochs=1, max_iter=300)
    assert path.nonzeros[0] == 0 < path.nonzeros[-1]
    assert (path.kkt_residuals <= 1e-3 * path.strengths).all()


def test_digits_and_noise():
    """One path finds the noise and keeps the digits."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x = np.hstack([x / 16, rng.uniform(0, 1, x.shape)]).astype("float32")
    order = rng.permutation(len(x))
    fr.set_random_seed(0)
    hidden = fr.Dense(32, "relu", kernel_regularizer=fr.L1(1e-3))
    model = fr.Sequential([fr.Input((128,)), hidden, fr.Dense(10, "softmax")])
    model.compile(fr.Adam(2e-3, l1_step="cumulative"), LABELS, ["accuracy"])
    path = path_of(
        model, x[order], y[order], n=15, eps=1e-2, epochs=50, batch_size=64, validation_split=0.25
    )
    pick = path.best_index
    assert path.selected_inputs[pick, 64:].sum() <= 0.2 * 64 < path.selected_inputs[pick].sum()
    assert path.scores[pick] >= 0.92 and path.scores[0] < 0.2


# ------------------------------------------------ threads, cost, order


def test_the_same_on_any_number_of_threads():
    for model, options in ((linear(), {}), (network(8), {"epochs": 10, "eps": 0.1})):
        one, two = (path_of(model, n=4, cv=3, n_jobs=n_jobs, **options) for n_jobs in (1, 3))
        assert_same(one, two)


def test_cold_starts_come_to_the_same_convex_minima():
    warm, cold = (path_of(linear(), n=5, tol=1e-7, warm_start=warm) for warm in (True, False))
    np.testing.assert_allclose(warm.coefficients, cold.coefficients, atol=1e-6)
    folds = path_of(network(4), strengths=[0.1, 0.2, 0.3], epochs=2, warm_start=False, cv=2)
    assert folds.fold_scores.shape == (3, 2) and np.isfinite(folds.fold_scores).all()


def test_a_path_of_50_costs_less_than_10_cold_fits(monkeypatch):
    """In rows that training steps went through, times the parameters they met."""
    work = []
    plain = fr.Sequential.fit

    def counted(self, x, y, batch_size=None, epochs=1, **options):
        work.append(len(x) * epochs * self.count_params())
        return plain(self, x, y, batch_size, epochs, **options)

    monkeypatch.setattr(fr.Sequential, "fit", counted)
    model = network()
    path = path_of(model, n=50, epochs=30)
    cold = len(X) * 30 * model.count_params()
    assert len(path) == 50 and sum(work) < 10 * cold


def test_a_polished_path_of_50_costs_less_than_10_cold_fits(monkeypatch):
    """In gradients over all rows: the curvature that was seen goes along."""
    x, y = load_digits(return_X_y=True)
    dense = fr.Dense(10, "softmax", kernel_regularizer="l1")
    model = fr.Sequential([fr.Input((64,), dtype="float64"), dense])
    model.compile("sgd", LABELS)
    spent = []

    real = paths.polish
    monkeypatch.setattr(paths, "polish", lambda *a, **k: _noted(spent, real(*a, **k)))
    path = path_of(model, x / 16, y, eps=1e-2)
    cold = []
    for strength in path.strengths[::10]:
        dense.kernel_regularizer = fr.L1(strength)
        done = copy.deepcopy(model).polish(x / 16, y, tol=1e-3 * strength, verbose=0)
        cold.append(done.iterations)
    assert len(spent) == 50 and sum(spent) < 10 * np.mean(cold)


def _noted(spent, done):
    assert done.converged
    spent.append(done.iterations)
    return done


def test_an_error_in_a_fold_ends_the_others_and_is_told():
    def scoring(model, x, y):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no score today")
        return 0.0

    begun = time.perf_counter()
    with pytest.raises(RuntimeError, match="no score today"):
        path_of(linear(), cv=4, n_jobs=2, scoring=scoring)
    assert time.perf_counter() - begun < 20


# ------------------------------------------------ the door


def test_what_is_refused():
    model = linear()
    for options, words in (
        ({"strengths": [0.1, -1]}, "strengths: got"),
        ({"strengths": []}, "strengths: got shape"),
        ({"n": 0}, "n: got 0"),
        ({"eps": 1.0}, "eps: got 1"),
        ({"solver": "polsh"}, "Did you mean 'polish'"),
        ({"cv": 1}, "cv: got 1"),
        ({"cv": [([0], [500])]}, "cv: got rows"),
        ({"cv": []}, "cv: got no fold"),
        ({"validation_data": (X,)}, "validation_data"),
        ({"validation_split": 0.999}, "validation_split: got 0.999"),
        ({"n_jobs": 0}, "n_jobs: got 0"),
        ({"x": X[:, :3]}, "x: got shape"),
        ({"x": 0 * X}, "lambda_max is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            path_of(model, **options)
    with pytest.raises(ValueError, match="no trainable layer with L1 or GroupL1 on its"):
        path_of(linear("l2"))
    with pytest.raises(ValueError, match="l1_step: got 'sign'"):
        path_of(network(l1_step="sign"))
    with pytest.raises(ValueError, match="compile"):
        path_of(fr.Sequential([fr.Input((20,)), fr.Dense(1, kernel_regularizer="l1")]))
    with pytest.raises(TypeError, match="regularization_path: got"):
        fr.regularization_path("model", X, Y)
    with pytest.raises(ValueError, match="scores: got none"):
        path_of(model, n=2).best_index  # noqa: B018
    with pytest.raises(ValueError, match="there is one fold"):
        path_of(model, n=2, validation_split=0.5).one_standard_error_index  # noqa: B018


def test_folds_share_the_classes_out():
    y = np.repeat([0, 1, 2], [30, 60, 30])
    model = linear()
    model.compile("sgd", LABELS)
    rows = paths._Rows(X, y, None)
    folds = paths._folds(3, rows, model)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(120))
    for train, test in folds:
        assert np.bincount(y[test]).tolist() == [10, 20, 10]
        assert len(train) == 80 and not set(train) & set(test)


@pytest.mark.parametrize("n_out", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 33])
def test_coordinate_descent_equals_the_reference(n, n_out):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(2 * n, n))
    h = x.T @ x / n
    if n > 1:
        h[1] = h[:, 1] = 0  # a column that says nothing
    g = rng.normal(size=(n_out, n))
    l1, group = np.full(n, 0.1), np.full(n, 0.2)
    l1[-1] = group[-1] = 0
    start = np.where(rng.random((n_out, n)) < 0.5, 0.0, rng.normal(size=(n_out, n)))
    for sweeps in (0, 1, 5, 500):
        found = []
        for descend in (functional.quadratic_descend, reference.quadratic_descend):
            w, slope = start.copy(), g.copy()
            found.append((w, slope, descend(h, l1, group, 1e-9, sweeps, w, slope)))
        (w, slope, residual), (w_, slope_, residual_) = found
        # each sweep contracts, so that rounding does not add up
        bound = 1e3 * np.finfo(float).eps * (1 + np.abs(start).max() + np.abs(g).max()) * n
        assert np.abs(w - w_).max() <= bound and np.abs(slope - slope_).max() <= bound
        assert residual == pytest.approx(residual_, abs=bound)
        assert np.abs(slope - (g + (w - start) @ h)).max() <= bound
    if n > 1:  # the column's gradient holds it where it is
        assert (w[:, 1] == start[:, 1]).all()
    else:
        assert residual <= 1e-9


@pytest.mark.parametrize("regularizer", ["l1", fr.L1L2(0.1, 0.05), fr.GroupL1(0.1, l1=0.02)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_quadratic_known_from_one_point_gives_the_same_path(regularizer, use_bias, monkeypatch):
    rng = np.random.default_rng(5)
    y = X[:, :6] @ rng.normal(size=(6, 3)) + 0.1 * rng.normal(size=(len(X), 3))
    weight = rng.uniform(0.5, 2, len(X))
    fr.set_random_seed(0)
    dense = fr.Dense(3, kernel_regularizer=regularizer, use_bias=use_bias)
    model = fr.Sequential([fr.Input((20,), dtype="float64"), dense])
    model.compile("sgd", "mse")
    gradients = []
    smooth = Objective.smooth
    monkeypatch.setattr(Objective, "smooth", lambda self, w: gradients.append(1) or smooth(self, w))
    known = path_of(model, y=y, sample_weight=weight, tol=1e-7, n=20)
    few = len(gradients)
    monkeypatch.setattr(Objective, "second_derivative", lambda self: None)
    plain = path_of(model, y=y, sample_weight=weight, tol=1e-7, n=20)
    assert few < 50 < len(gradients) - few
    assert (known.kkt_residuals <= 1e-7 * known.strengths).all()
    assert (known.nonzeros == plain.nonzeros).all()
    np.testing.assert_allclose(known.losses, plain.losses, rtol=1e-10)
    np.testing.assert_allclose(known.coefficients, plain.coefficients, atol=1e-5)
