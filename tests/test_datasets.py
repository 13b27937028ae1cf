"""Data: sizes, dtypes, splits, scales; what is synthetic is what it says."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastreg import datasets

CLASSES = {"digits": 10, "breast_cancer": 2, "wine": 3, "iris": 3}


@pytest.mark.parametrize("name", [*CLASSES, "diabetes"])
def test_real_data(name):
    load = getattr(datasets, f"load_{name}")
    data = load()
    x_train, y_train, x_test, y_test = data
    n = len(x_train) + len(x_test)
    assert abs(len(x_test) - 0.25 * n) <= 1 and len(y_train) == len(x_train)
    assert len(y_test) == len(x_test) and x_train.shape[1] == x_test.shape[1]
    assert x_train.dtype == x_test.dtype == np.float32
    assert len(load(test_size=0.5).x_test) == -(-n // 2)
    for ours, again, other in zip(data, load(seed=0), load(seed=1), strict=True):
        np.testing.assert_array_equal(ours, again)
        assert not np.array_equal(ours, other)
    if name == "digits":
        assert x_train.min() == 0 and x_train.max() == 1
    else:
        np.testing.assert_allclose(x_train.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(x_train.std(axis=0), 1, atol=1e-5)
        assert abs(x_test.mean()) < 0.3  # by the training rows, not its own
        assert np.abs(x_test.mean(axis=0)).max() > 1e-3
    if name in CLASSES:
        assert y_train.dtype.kind == "i" and set(y_train) == set(range(CLASSES[name]))
        shares = [np.bincount(y) / len(y) for y in (y_train, y_test)]
        np.testing.assert_allclose(*shares, atol=1.5 / len(y_test))
    else:
        assert y_train.dtype == y_test.dtype == np.float32
        assert abs(y_train.mean()) < 1e-6 and abs(y_train.std() - 1) < 1e-6


def test_noise_stands_on_the_right():
    data = datasets.load_iris()
    noisy = datasets.among_noise(data, 100, seed=1)
    np.testing.assert_array_equal(noisy.x_train[:, :4], data.x_train)
    noise = noisy.x_train[:, 4:]
    assert noise.shape == (112, 100) and noise.dtype == np.float32
    assert 0 <= noise.min() < 0.01 and 0.99 < noise.max() < 1
    assert not np.array_equal(noise[:38], noisy.x_test[:, 4:])
    assert noisy.y_train is data.y_train
    np.testing.assert_array_equal(datasets.among_noise(data, 0).x_test, data.x_test)


def test_sparse_regression_is_linear_in_the_informative_inputs():
    x, y, w = datasets.sparse_regression(n=300, n_in=20, n_informative=4, noise=0.0, seed=3)
    assert (x.dtype, y.dtype, w.dtype) == (np.float32,) * 3
    assert np.count_nonzero(w) == 4 and y.shape == (300, 1)
    assert ((np.abs(w[w != 0]) >= 1) & (np.abs(w[w != 0]) <= 2)).all()
    np.testing.assert_allclose(x @ w, y[:, 0], rtol=1e-4, atol=1e-5)
    x, noisy, w = datasets.sparse_regression(n=20000, n_in=3, n_informative=2, noise=0.5)
    assert abs((noisy[:, 0] - x @ w).std() - 0.5) < 0.02
    assert not datasets.sparse_regression(n_informative=0)[2].any()


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: datasets.load_iris(test_size=1.0), ValueError, r"test_size: got 1\.0"),
        (lambda: datasets.load_iris(test_size="half"), TypeError, "test_size: got 'half'"),
        (lambda: datasets.load_iris(seed=-1), ValueError, "seed: got -1"),
        (lambda: datasets.among_noise(datasets.load_iris(), -1), ValueError, "n_noise: got -1"),
        (lambda: datasets.sparse_regression(n=0), ValueError, "n: got 0"),
        (lambda: datasets.sparse_regression(n_in=3), ValueError, "n_informative: got 5"),
        (lambda: datasets.sparse_regression(noise=-1), ValueError, "noise: got -1"),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="wine ships with scikit-learn: pip install"):
        datasets.load_wine()
