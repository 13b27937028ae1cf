"""Sweeps through joblib's Dask backend, on a cluster of two local processes."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV

import fastreg as fr
from fastreg.estimators import MLPClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_workers_take_the_threads_that_dask_gives_them(cluster):
    assert set(cluster.run(fr.get_num_threads).values()) == {1}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search(cluster):
    grid = {"l1": [0.0, 1e-3, 0.5]}
    model = MLPClassifier(8, solver="lbfgs", max_iter=50, random_state=0)
    here = GridSearchCV(model, grid, cv=2).fit(X, Y)
    with joblib.parallel_config("dask"):
        there = GridSearchCV(model, grid, cv=2).fit(X, Y)
    assert there.best_params_ == here.best_params_
    scores = "mean_test_score"
    np.testing.assert_allclose(there.cv_results_[scores], here.cv_results_[scores], atol=0.03)


def path_of(l2):
    model = fr.Sequential(
        [fr.Input((5,)), fr.Dense(1, "sigmoid", kernel_regularizer=fr.L1L2(0.01, l2))]
    )
    model.compile("adam", "binary_crossentropy")
    return fr.regularization_path(model, X, Y, n=5, verbose=0)


def test_regularization_paths(cluster):
    with joblib.parallel_config("dask"):
        paths = joblib.Parallel()(joblib.delayed(path_of)(l2) for l2 in (0.0, 0.1))
    assert [len(path) for path in paths] == [5, 5]
    for path in paths:
        assert path.selected_inputs[0].sum() == 0 < path.selected_inputs[-1].sum()
