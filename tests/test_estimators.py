"""The estimators: scikit-learn's checks, its trajectories, and what comes on top."""

from __future__ import annotations

import gc
import inspect
import pickle
import warnings
import weakref
from collections import Counter
from functools import partial

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, UnsetMetadataPassedError
from sklearn.feature_selection import SelectFromModel
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Lasso, LassoCV, LogisticRegression, QuantileRegressor
from sklearn.metrics import (
    get_scorer,
    make_scorer,
    mean_pinball_loss,
    mean_poisson_deviance,
    r2_score,
)
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.utils import check_random_state, estimator_checks
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastreg as fr
from fastreg.estimators import MLPClassifier, MLPClassifierCV, MLPRegressor, MLPRegressorCV
from fastreg.estimators.labels import Labels
from fastreg.estimators.parameters import random_state

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, CLASSES = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
rng = np.random.default_rng(0)
XR = rng.normal(size=(203, 6))
YR = np.stack([XR[:, 0] * XR[:, 1], np.sin(XR[:, 2]), XR[:, 3]], axis=1)
WEIGHT = rng.uniform(0.5, 2.0, len(XR))


class SparseClassifier(MLPClassifier):
    """Whose network is fed scipy.sparse rows."""

    def _rows(self, X, dtype):
        return super()._rows(sp.csr_array(X), dtype)


class SparseRegressor(MLPRegressor):
    """Whose network is fed scipy.sparse rows."""

    def _rows(self, X, dtype):
        return super()._rows(sp.csr_array(X), dtype)


def checked():
    for dtype in ("float64", "float32"):
        for classifier in (MLPClassifier, SparseClassifier):
            yield classifier(dtype=dtype)
            yield classifier(solver="lbfgs", l1=1e-4, max_iter=30, dtype=dtype)
        for regressor in (MLPRegressor, SparseRegressor):
            yield regressor(dtype=dtype)
            yield regressor(solver="sgd", l1=1e-4, bias_l1=1e-5, max_iter=30, dtype=dtype)
            yield regressor(solver="lbfgs", max_iter=30, dtype=dtype)
        settings = {"solver": "lbfgs", "max_iter": 30, "random_state": 0, "dtype": dtype}
        yield MLPClassifierCV(MLPClassifier(8, **settings), l1s=[1e-4, 1e-2], cv=3)
        yield MLPRegressorCV(MLPRegressor(hidden_layer_sizes=8, **settings), l1s=[1e-4, 1e-2], cv=3)


class _Single:
    """What it is fed is float32."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(X.astype(np.float32), y, sample_weight)

    def predict(self, X):
        return super().predict(X.astype(np.float32))


class HisClassifier(_Single, theirs.MLPClassifier):
    """scikit-learn's, in float32."""

    def predict_proba(self, X):
        return super().predict_proba(X.astype(np.float32))


class HisRegressor(_Single, theirs.MLPRegressor):
    """scikit-learn's, in float32."""


# There rows of weight 2 and doubled rows must agree to 1e-7, less than float32 rounds to; in 200
# epochs of Adam, whose steps do not shrink with the gradient, it grows.
ABOVE_FLOAT32 = "check_sample_weight_equivalence"


@parametrize_with_checks([MLPClassifier(), MLPRegressor(), *checked()])
def test_scikit_learns_checks(estimator, check, monkeypatch):
    name = check.func.__name__ if hasattr(check, "func") else check.__name__
    single = getattr(estimator, "dtype", None) == "float32"
    if single and estimator.solver == "adam" and name.startswith(ABOVE_FLOAT32):
        his = HisClassifier() if isinstance(estimator, MLPClassifier) else HisRegressor()
        with pytest.raises(AssertionError, match="not equivalent"):
            check.func(type(his).__name__, his)
        nearly = partial(estimator_checks.assert_allclose_dense_sparse, rtol=2e-3)
        monkeypatch.setattr(estimator_checks, "assert_allclose_dense_sparse", nearly)
        check.func(type(his).__name__, his)
    check(estimator)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_weighted_rows_are_repeated_rows(solver, dtype, tolerance, container):
    """As in scikit-learn's check, in one batch; weight 0 takes a row out."""
    count = np.random.default_rng(3).integers(0, 4, 60)
    settings = {"solver": solver, "dtype": dtype, "max_iter": 20, "random_state": 0, "l1": 1e-4}
    settings |= {"batch_size": 200, "shuffle": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there are fewer rows than 200
        for cls, y, ask in (
            (MLPRegressor, YR[:60], "predict"),
            (MLPClassifier, (YR[:60, 0] > 0) + (YR[:60, 1] > 0), "predict_proba"),
        ):
            model = cls(hidden_layer_sizes=8, **settings)
            weighted = clone(model).fit(container(XR[:60]), y, sample_weight=count)
            repeated = model.fit(container(XR[:60].repeat(count, axis=0)), y.repeat(count, axis=0))
            a, b = (getattr(m, ask)(XR) for m in (weighted, repeated))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_defaults_that_a_fit_does_not_check_are_good(cls):
    model = cls()
    validate_parameter_constraints(cls._parameter_constraints, model.get_params(), "model")
    assert cls._get_param_names() == sorted(inspect.signature(cls).parameters)


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, 1, 3, 1, 1]),
        np.array([3, 1, 2, 3, 1, 2, 5, 5]),
        np.array([True, False, True, False]),
        np.array([7, 7, 7]),
        np.array([2, 0, 1]),
        np.array(["b", "a", "c", "a", "b", "c"]),
        np.array(["b", "a", "b", "a"], object),
        np.array([1.0, 0.0, 1.0, 0.0]),
        np.array([[0, 1, 1], [1, 0, 1]]),
        sp.csr_matrix([[0, 1, 1], [1, 0, 1]]),
    ],
    ids=str,
)
def test_labels_are_scikit_learns(y):
    ours, his = Labels().fit(y), LabelBinarizer().fit(y)
    assert (ours.y_type_, ours.sparse_input_) == (his.y_type_, his.sparse_input_)
    np.testing.assert_array_equal(ours.classes_, his.classes_)
    assert ours.classes_.dtype == his.classes_.dtype
    width = 1 if his.y_type_ == "binary" else len(his.classes_)
    outputs = np.random.default_rng(0).uniform(size=(9, width))
    a, b = (labels.inverse_transform(outputs) for labels in (ours, his))
    assert type(a) is type(b) and a.dtype == b.dtype
    np.testing.assert_array_equal(
        *(each.toarray() if sp.issparse(each) else each for each in (a, b))
    )


@pytest.mark.parametrize("y", [np.array([0.5, 1.5, 0.5, 1.5]), np.array([[1, 2], [2, 3]])])
def test_labels_that_are_none(y):
    with pytest.raises(ValueError, match=r"Unknown label type|Multioutput target"):
        Labels().fit(y)


def test_random_states_are_scikit_learns():
    for seed in (0, np.int64(2**32 - 1)):
        ours, his = random_state(seed), check_random_state(seed)
        assert ours.normal() == his.normal()  # and keeps one for the next call
        ours.seed(5), his.seed(5)
        assert ours.normal() == his.normal()
    state = np.random.RandomState(3)
    assert random_state(state) is state and random_state(None) is check_random_state(None)
    with pytest.raises(ValueError, match="between 0 and"):
        random_state(-1)


# ------------------------------------------------ the same numbers as scikit-learn


MODULES = (fr.estimators, theirs)


def assert_same_path(ours, his, tolerance=1e-9):
    assert ours.n_iter_ == his.n_iter_ and ours.t_ == his.t_
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(his, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    for name in ("loss_curve_", "validation_scores_"):
        a, b = getattr(ours, name), getattr(his, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert ours.out_activation_ == his.out_activation_ and ours.n_layers_ == his.n_layers_


SOLVERS = {
    "plain": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.05},
    "invscaling": {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "power_t": 0.2,
        "learning_rate_init": 0.5,
    },
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "tol": 0.02,
        "n_iter_no_change": 2,
        "learning_rate_init": 0.1,
    },
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_trajectory_of_a_classifier(solver, activation):
    both = {"hidden_layer_sizes": (7, 5), "max_iter": 25, "batch_size": 32, "random_state": 3}
    both |= {"activation": activation, "alpha": 0.3, **SOLVERS[solver]}
    ours, his = (mlp.MLPClassifier(**both).fit(X, CLASSES) for mlp in (fr.estimators, theirs))
    assert_same_path(ours, his)
    np.testing.assert_array_equal(ours.predict(X), his.predict(X))
    np.testing.assert_allclose(ours.predict_log_proba(X), his.predict_log_proba(X), atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_trajectory_of_a_regressor_with_weights(solver, activation):
    both = {"hidden_layer_sizes": 9, "max_iter": 25, "batch_size": 64, "random_state": 3}
    both |= {"activation": activation, "alpha": 1.0, **SOLVERS[solver]}
    both |= {"shuffle": solver != "momentum"}
    ours, his = (
        mlp.MLPRegressor(**both).fit(XR, YR[:, 0], sample_weight=WEIGHT)
        for mlp in (fr.estimators, theirs)
    )
    assert_same_path(ours, his)


COUNTS = np.random.default_rng(5).poisson(np.exp(XR[:, :2] / 2 + [0.5, 1.0])).astype(float)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("y", [COUNTS[:, 0], COUNTS], ids=["one", "two"])
@pytest.mark.parametrize("solver", ["nesterov", "adam", "lbfgs"])
def test_trajectory_of_counts(solver, y, weight):
    """The engine takes the logarithm of p + 1e-7, as Keras does."""
    both = {"loss": "poisson", "hidden_layer_sizes": 6, "activation": "tanh", "random_state": 3}
    both |= {"max_iter": 12, "batch_size": 64, "alpha": 1.0}
    both |= SOLVERS.get(solver, {"solver": solver})
    ours, his = (
        mlp.MLPRegressor(**both).fit(XR, y, sample_weight=weight) for mlp in (fr.estimators, theirs)
    )
    assert ours.loss_ == pytest.approx(his.loss_, rel=2e-6)
    if solver != "lbfgs":
        np.testing.assert_allclose(ours.loss_curve_, his.loss_curve_, rtol=2e-6)
    for a, b in zip(ours.coefs_ + ours.intercepts_, his.coefs_ + his.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(ours.predict(XR), his.predict(XR), rtol=1e-5)
    assert ours.out_activation_ == his.out_activation_ == "exp"


def test_loss_of_counts_is_half_the_deviance():
    """On the rows of validation, too."""
    model = MLPRegressor("poisson", 5, max_iter=3, random_state=0, alpha=0.0)
    x, y, weight = XR[:70], COUNTS[:70], WEIGHT[:70]
    model.fit(XR, COUNTS, validation_data=(x, y, weight))
    found = model.predict(x)
    deviance = sum(
        mean_poisson_deviance(y[:, o], found[:, o], sample_weight=weight) for o in (0, 1)
    )
    assert model.validation_curve_[-1] == pytest.approx(deviance / 2, rel=1e-6)


@pytest.mark.parametrize("where", ["y", "validation_data"])
def test_counts_are_not_negative(where):
    good, bad = (XR, COUNTS[:, 0]), (XR, COUNTS[:, 0] - 1)
    model = MLPRegressor("poisson", 5, max_iter=3)
    with pytest.raises(ValueError, match="y: got -1; loss='poisson' needs"):
        model.fit(*bad) if where == "y" else model.fit(*good, validation_data=bad)


@pytest.mark.parametrize("y", [CLASSES > 0, CLASSES], ids=["binary", "multiclass"])
def test_trajectory_with_early_stopping(y):
    both = {"hidden_layer_sizes": 8, "early_stopping": True, "random_state": 1, "max_iter": 60}
    both |= {"learning_rate_init": 0.01, "n_iter_no_change": 4}
    ours, his = (mlp.MLPClassifier(**both).fit(X, y) for mlp in (fr.estimators, theirs))
    assert_same_path(ours, his)
    assert ours.best_validation_score_ == his.best_validation_score_
    assert ours.best_loss_ is None is his.best_loss_


def test_trajectory_of_labels_and_partial_fit():
    x, y = make_multilabel_classification(n_samples=90, n_classes=4, random_state=0)
    both = {"hidden_layer_sizes": 6, "random_state": 5, "batch_size": 40}
    pair = [mlp.MLPClassifier(**both) for mlp in (fr.estimators, theirs)]
    for _ in range(8):
        for model in pair:
            model.partial_fit(x[:50], y[:50], classes=np.arange(4))
            model.partial_fit(x[50:], y[50:], sample_weight=WEIGHT[:40])
    assert_same_path(*pair)


def test_partial_fit_of_one_batch_after_another():
    """alpha is divided by the rows of each."""
    pair = [m.MLPRegressor(hidden_layer_sizes=4, random_state=5, alpha=5.0) for m in MODULES]
    for model in pair:
        for n in (3, 1, 7, 200, 3):
            model.partial_fit(XR[:n], YR[:n, 0])
    assert_same_path(*pair)


def test_partial_fit_goes_on_after_pickle():
    one = MLPRegressor(hidden_layer_sizes=5, random_state=0)
    for _ in range(4):
        one.partial_fit(XR, YR)
    two = MLPRegressor(hidden_layer_sizes=5, random_state=0)
    for _ in range(2):
        two.partial_fit(XR, YR)
    two = pickle.loads(pickle.dumps(two))
    for _ in range(2):
        two.partial_fit(XR, YR)
    np.testing.assert_array_equal(one.predict(XR), two.predict(XR))


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_lbfgs_reaches_the_same_optimum(weight):
    both = {"hidden_layer_sizes": (), "solver": "lbfgs", "tol": 1e-9, "random_state": 0}
    both |= {"max_iter": 2000, "alpha": 1.0}
    y = (XR[:, 0] + 0.5 * XR[:, 1] > 0).astype(int) + (XR[:, 2] > 1)
    ours, his = (
        mlp.MLPClassifier(**both).fit(XR, y, sample_weight=weight)
        for mlp in (fr.estimators, theirs)
    )
    assert ours.loss_ == pytest.approx(his.loss_, rel=1e-8)
    np.testing.assert_allclose(ours.coefs_[0], his.coefs_[0], atol=1e-5)
    np.testing.assert_allclose(ours.intercepts_[0], his.intercepts_[0], atol=1e-5)


def test_lbfgs_of_a_deep_network_goes_the_same_way():
    both = {"hidden_layer_sizes": (6, 5), "activation": "tanh", "solver": "lbfgs", "max_iter": 40}
    both |= {"random_state": 0}
    ours, his = (mlp.MLPRegressor(**both).fit(XR, YR[:, 1]) for mlp in (fr.estimators, theirs))
    assert ours.loss_ == pytest.approx(his.loss_, rel=1e-5)
    for a, b in zip(ours.coefs_, his.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_loss_of_several_outputs_belongs_to_its_gradient(weight):
    """scikit-learn's own is smaller by the number of outputs (its issue 8349)."""

    def worst(model):
        flat = np.concatenate([w.ravel() for w in [*model.coefs_, *model.intercepts_]])
        scratch = [np.zeros((len(XR), 4)), np.zeros((len(XR), 3))]
        sizes = [[np.zeros_like(w) for w in ws] for ws in (model.coefs_, model.intercepts_)]

        def f(w):
            return model._loss_grad_lbfgs(
                w, XR, YR, weight, [XR, *scratch], [np.zeros_like(s) for s in scratch], *sizes
            )

        gradient = f(flat)[1]
        steps = 1e-6 * np.eye(len(flat))
        central = [(f(flat + h)[0] - f(flat - h)[0]) / 2e-6 for h in steps]
        return np.abs(central - gradient).max() / np.abs(gradient).max()

    settings = {"hidden_layer_sizes": 4, "activation": "tanh", "solver": "lbfgs", "max_iter": 3}
    settings |= {"alpha": 10.0, "random_state": 0}
    assert worst(MLPRegressor(**settings).fit(XR, YR)) < 1e-7
    hers = theirs.MLPRegressor(**settings).fit(XR, YR)
    if weight is None:
        assert worst(hers) > 0.1, "scikit-learn has mended it: say so in the documents"


def test_loss_of_several_outputs_is_half_the_sum_of_squares():
    model = MLPRegressor(
        hidden_layer_sizes=5, alpha=0.0, solver="lbfgs", max_iter=5, random_state=0
    ).fit(XR, YR)
    expected = 0.5 * ((model.predict(XR) - YR) ** 2).sum(axis=1).mean()
    assert model.loss_ == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------ penalties


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_l1_is_the_lasso(solver):
    y = XR @ [2.0, -1.0, 0.0, 0.0, 0.05, 0.0]
    settings = {"max_iter": 6000, "tol": 1e-10, "n_iter_no_change": 6000, "alpha": 0.0}
    model = MLPRegressor(
        hidden_layer_sizes=(), solver=solver, l1=[0.1], batch_size=203, random_state=0, **settings
    )
    if solver == "adam":
        model.set_params(learning_rate_init=0.01, max_iter=4000)
    model.fit(XR, y)
    lasso = Lasso(0.1, tol=1e-14).fit(XR, y)
    np.testing.assert_allclose(model.coefs_[0][:, 0], lasso.coef_, atol=1e-6)
    np.testing.assert_array_equal(model.coefs_[0][:, 0] == 0, lasso.coef_ == 0)
    np.testing.assert_allclose(model.intercepts_[0], lasso.intercept_, atol=1e-6)


def test_l1_with_lbfgs_is_l1_logistic_regression():
    y = (XR[:, 0] + 0.3 * rng.normal(size=len(XR)) > 0).astype(int)
    model = MLPClassifier((), solver="lbfgs", l1=0.05, alpha=0.0, tol=1e-9, max_iter=2000)
    model.fit(XR, y)
    truth = LogisticRegression(
        C=1 / (0.05 * len(XR)), l1_ratio=1.0, solver="saga", tol=1e-11, max_iter=50_000
    ).fit(XR, y)
    np.testing.assert_allclose(model.coefs_[0][:, 0], truth.coef_[0], atol=1e-5)
    np.testing.assert_array_equal(model.coefs_[0][:, 0] == 0, truth.coef_[0] == 0)


def penalties_of(model):
    """(kernel L1, bias L1, bias L2, activity L1, activity L2) of the layers."""
    dense = [layer for layer in model._model.layers if isinstance(layer, fr.Dense)]
    return [
        [getattr(getattr(layer, f"{what}_regularizer"), kind, 0.0) for layer in dense]
        for what, kind in [
            ("kernel", "l1"),
            ("bias", "l1"),
            ("bias", "l2"),
            ("activity", "l1"),
            ("activity", "l2"),
        ]
    ]


def test_lists_give_each_layer_its_own():
    model = MLPClassifier(
        (5, 4),
        activation=["relu", "tanh"],
        l1=[0.1, 0.2, 0.0],
        bias_l1=0.3,
        bias_l2=[0, 0, 1],
        activity_l1=[0.4, 0],
        activity_l2=0.5,
        dropout=[0.2, 0],
        max_iter=2,
    ).fit(X, CLASSES)
    assert penalties_of(model) == [
        [0.1, 0.2, 0.0],
        [0.3, 0.3, 0.3],
        [0, 0, 1],
        [0.4, 0, 0],
        [0.5, 0.5, 0],
    ]
    kinds = [type(layer).__name__ for layer in model._model.layers]
    assert kinds == ["Dense", "Dropout", "Dense", "Dense"]
    names = [layer.activation.name for layer in model._model.layers if hasattr(layer, "activation")]
    assert names == ["relu", "tanh", "softmax"]


@pytest.mark.parametrize(
    "setting, what",
    [
        ({"l1": [0.1]}, "l1: got 1 values; 2 are needed"),
        ({"dropout": [0.1, 0.1]}, "dropout: got 2 values; 1 are needed"),
        ({"activation": ["rellu"]}, "activation: got 'rellu'"),
        ({"l1": -0.1}, "l1"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden_layer_sizes": 0}, "hidden_layer_sizes"),
        ({"solver": "lbfgs", "dropout": 0.1}, "dropout: solver 'lbfgs' has none"),
        ({"l1_step": "cumulative", "group_l1": 0.1}, "l1_step: got 'cumulative'"),
        ({"group_l1": [0.1]}, "group_l1: got 1 values; 2 are needed"),
        ({"l1_step": "proximate"}, "l1_step"),
        ({"activity_l1": [-1]}, r"activity_l1\[0\]: got -1"),
        ({"dropout": [1.0]}, r"dropout\[0\]: got 1.0"),
        ({"l1": [0.1, np.nan]}, r"l1\[1\]: got nan"),
        ({"scoring": "acuracy"}, "scoring"),
    ],
)
def test_bad_settings_are_named(setting, what):
    with pytest.raises(ValueError, match=what):
        MLPClassifier(**{"hidden_layer_sizes": 4, "max_iter": 2, **setting}).fit(X, CLASSES)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_nothing_of_scikit_learns_classes_is_missing(name, settings):
    y = CLASSES if name == "MLPClassifier" else XR[:150, 0]
    ours, his = (
        getattr(m, name)(max_iter=3, **settings).fit(X, y) for m in (fr.estimators, theirs)
    )
    missing = {each for each in dir(his) if not each.startswith("_")} - set(dir(ours))
    # His regressor shows it under "lbfgs", where it does not work: `_check_solver` is not called.
    assert missing <= ({"partial_fit"} if settings.get("solver") == "lbfgs" else set())
    for each, value in vars(his).items():
        if not each.startswith("_"):
            assert isinstance(value, type(getattr(ours, each))), each  # np.float64 is a float
    assert his.loss == ours.loss
    for method in ("__init__", "fit", "partial_fit", "predict", "score"):
        if hasattr(ours, method):
            given = list(inspect.signature(getattr(his, method)).parameters.values())
            taken = inspect.signature(getattr(ours, method)).parameters
            for each in given:
                assert (each.kind, each.default) == (
                    taken[each.name].kind,
                    taken[each.name].default,
                )
            first = [each.name for each in given if each.kind is each.POSITIONAL_OR_KEYWORD]
            assert list(taken)[: len(first)] == first


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_labels_come_back_as_they_were(container):
    x, y = make_multilabel_classification(n_samples=90, n_classes=3, random_state=0)
    both = {"hidden_layer_sizes": 6, "random_state": 0, "max_iter": 20}
    ours, his = (m.MLPClassifier(**both).fit(x, container(y)) for m in (fr.estimators, theirs))
    a, b = ours.predict(x), his.predict(x)
    assert type(a) is type(b) and a.dtype == b.dtype and (a != b).sum() == 0
    assert ours.score(x, y) == his.score(x, y)
    stopping = {"early_stopping": True, "max_iter": 60, "learning_rate_init": 0.01}
    one, two = (clone(ours).set_params(**stopping).fit(x, labels) for labels in (container(y), y))
    assert one.validation_scores_ == two.validation_scores_ and any(one.validation_scores_)
    chosen = MLPClassifierCV(ours, l1s=[1e-3], cv=2).fit(x, container(y))
    assert type(chosen.predict(x)) is type(b)


@pytest.mark.parametrize("name", ["bias_l2", "activity_l1", "activity_l2", "bias_l1", "l1"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_penalties_pull(name, solver):
    def size(value):
        settings = {"solver": solver, "activation": "tanh", "max_iter": 60, "random_state": 0}
        model = MLPRegressor(hidden_layer_sizes=8, **settings, **{name: value})
        model.set_params(learning_rate_init=0.02).fit(XR, YR)
        if name.startswith("activity"):
            return np.abs(model.hidden_activations(XR)[0]).sum()
        arrays = model.intercepts_ if name.startswith("bias") else model.coefs_
        return sum(np.abs(w).sum() for w in arrays)

    assert size(0.3) < 0.7 * size(0.0)


# ------------------------------------------------ what comes on top


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_group_l1_takes_all_weights_of_an_input(solver, compact):
    settings = {"solver": solver, "batch_size": 50, "max_iter": 300, "random_state": 0, "tol": 0}
    settings |= {"n_iter_no_change": np.inf, "learning_rate_init": 0.01, "compact": compact}
    model = MLPRegressor(hidden_layer_sizes=8, group_l1=[0.06, 0.0], **settings)
    model.fit(XR, XR[:, 3] + np.tanh(XR[:, 2]))
    np.testing.assert_array_equal(model.selected_features_, [2, 3])
    rows = model.coefs_[0] if compact else model.coefs_[0][[2, 3]]
    assert len(rows) == 2 and (rows != 0).all()  # an input goes with all its weights, or not at all
    kept = SelectFromModel(model, threshold=1e-9).fit(XR, XR[:, 3] + np.tanh(XR[:, 2]))
    assert list(kept.get_feature_names_out()) == ["x2", "x3"]
    again = clone(model)
    assert again.group_l1 == [0.06, 0.0]


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
@pytest.mark.parametrize("bias_l1", [0.0, 0.02])
def test_group_l1_with_lbfgs_is_the_group_lasso(weight, bias_l1):
    """The conditions of its minimum, from the residual alone: two outputs, no hidden layer."""
    n, alpha, group_l1, l1 = len(XR), 2.0, 0.05, 0.03
    settings = {"hidden_layer_sizes": (), "solver": "lbfgs", "alpha": alpha, "tol": 1e-9}
    settings |= {"l1": l1, "group_l1": group_l1, "bias_l1": bias_l1, "max_iter": 1000}
    model = MLPRegressor(**settings).fit(XR, YR[:, 1:], sample_weight=weight)
    (w,), (b,) = model.coefs_, model.intercepts_
    c = np.ones(n) if weight is None else weight
    residual = c[:, None] * (XR @ w + b - YR[:, 1:]) / c.sum()
    slope, db = XR.T @ residual + alpha * w / c.sum(), residual.sum(axis=0)
    norms = np.linalg.norm(w, axis=1)
    gone = norms == 0
    assert 0 < gone.sum() < 6
    reach = np.linalg.norm(np.maximum(np.abs(slope) - l1, 0), axis=1)
    assert (reach[gone] <= np.sqrt(2) * group_l1).all()
    pull = slope[~gone] + np.sqrt(2) * group_l1 * w[~gone] / norms[~gone, None]
    for value, at in ((pull, w[~gone]), (db, b)):
        strength = l1 if at is not b else bias_l1
        rest = np.where(
            at == 0, np.maximum(np.abs(value) - strength, 0), value + strength * np.sign(at)
        )
        np.testing.assert_allclose(rest, 0, atol=1e-8)
    loss = (c[:, None] * (XR @ w + b - YR[:, 1:]) ** 2).sum() / 2 / c.sum()
    penalty = alpha / 2 * (w**2).sum() / c.sum() + l1 * np.abs(w).sum() + bias_l1 * np.abs(b).sum()
    assert model.loss_ == pytest.approx(
        loss + penalty + np.sqrt(2) * group_l1 * norms.sum(), rel=1e-12
    )


def test_group_l1_with_lbfgs_takes_inputs_of_a_deep_network():
    settings = {"solver": "lbfgs", "max_iter": 2000, "random_state": 0, "activation": "tanh"}
    model = MLPRegressor(hidden_layer_sizes=8, group_l1=[0.06, 0.02], **settings)
    model.fit(XR, XR[:, 3] + np.tanh(XR[:, 2]))
    np.testing.assert_array_equal(model.selected_features_, [2, 3])
    assert model.n_iter_ < 2000
    model.set_params(max_iter=3)
    with pytest.warns(ConvergenceWarning, match="after 3 iteration"):
        model.fit(XR, XR[:, 3])


def test_group_l1_is_the_models_group_l1():
    model = MLPRegressor(hidden_layer_sizes=8, group_l1=[0.3, 0.2], l1=0.1, alpha=0.5, max_iter=1)
    model.fit(XR, YR)
    first, last = (layer.kernel_regularizer for layer in model._model.layers)
    for layer, kernel, g in ((first, model.coefs_[0], 0.3), (last, model.coefs_[1], 0.2)):
        expected = fr.GroupL1(g, "rows", l1=0.1, l2=0.25)(kernel)
        np.testing.assert_allclose(layer(kernel), expected, rtol=1e-12)


def test_l1_selects_features():
    y = np.where(XR[:, 1] > 0, "yes", "no")
    names = np.array([f"x{i}" for i in range(6)], dtype=object)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(XR, columns=names)
    model = MLPClassifier(6, solver="lbfgs", l1=0.06, max_iter=500, random_state=0)
    selector = SelectFromModel(model, threshold=1e-12).fit(frame, y)
    assert selector.estimator_.selected_features_.tolist() == [1]
    assert selector.get_feature_names_out().tolist() == ["x1"]
    importances = selector.estimator_.feature_importances_
    assert importances.shape == (6,) and importances.sum() == pytest.approx(1)
    assert selector.transform(frame).shape == (203, 1)


def test_compact_takes_out_what_l1_has_cut_off():
    y = XR[:, 1] * 2
    settings = {"hidden_layer_sizes": 8, "l1": 0.03, "max_iter": 150, "random_state": 0}
    settings |= {"learning_rate_init": 0.01, "tol": 0.0}
    full = MLPRegressor(**settings).fit(XR, y)
    small = MLPRegressor(**settings, compact=True).fit(XR, y)
    assert small.coefs_[0].size < full.coefs_[0].size == 48
    assert len(small.selected_features_) == len(small.coefs_[0]) < 6
    assert small.feature_importances_.shape == (6,)
    assert small.score(XR, y) > 0.9
    again = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(again.predict(XR), small.predict(XR))
    small.partial_fit(XR, y)
    assert small.hidden_activations(XR)[0].shape == (203, small.coefs_[0].shape[1])


@pytest.mark.parametrize("name", sorted(fr.inputs.ACTIVATIONS))
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_lists_take_every_activation(name, solver):
    """Beside tanh; each layer's output is the function's of the layer before."""
    settings = {"hidden_layer_sizes": (5, 4), "solver": solver, "max_iter": 5, "random_state": 0}
    for names in ([name, "tanh"], ["tanh", name]):
        model = MLPRegressor(activation=names, **settings).fit(XR, YR)
        y = XR
        for found, w, b, each in zip(
            model.hidden_activations(XR), model.coefs_, model.intercepts_, names, strict=False
        ):
            y = fr.reference.activation_forward(y @ w + b, each)
            np.testing.assert_allclose(found, y, rtol=1e-9, atol=1e-12)
        expected = y @ model.coefs_[-1] + model.intercepts_[-1]
        np.testing.assert_allclose(model.predict(XR), expected, rtol=1e-9, atol=1e-12)


def test_hidden_activations_lead_to_the_output():
    model = MLPRegressor(hidden_layer_sizes=(5, 4), activation=["tanh", "relu"], max_iter=5).fit(
        XR, YR
    )
    first, second = model.hidden_activations(XR)
    np.testing.assert_allclose(first, np.tanh(XR @ model.coefs_[0] + model.intercepts_[0]))
    np.testing.assert_allclose(second @ model.coefs_[2] + model.intercepts_[2], model.predict(XR))


def test_class_weight_is_sample_weight():
    both = {"hidden_layer_sizes": 4, "max_iter": 10, "random_state": 0}
    weight = np.where(CLASSES == 1, 5.0, 1.0)
    a = MLPClassifier(class_weight={1: 5.0}, **both).fit(X, CLASSES)
    b = MLPClassifier(**both).fit(X, CLASSES, sample_weight=weight)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])
    MLPClassifier(class_weight="balanced", **both).fit(X, CLASSES)
    with pytest.raises(ValueError, match="class_weight: got 'balanced'"):
        MLPClassifier(class_weight="balanced").partial_fit(X, CLASSES, classes=[0, 1, 2])


def test_rows_of_weight_zero_do_not_count():
    both = {"hidden_layer_sizes": 4, "max_iter": 10, "random_state": 0, "shuffle": False}
    both |= {"batch_size": 10}
    weight = np.repeat([1.0, 0.0], [150, 10])  # the last batch has none that counts
    a = MLPClassifier(**both).fit(np.vstack([X, X[:10]]), np.r_[CLASSES, CLASSES[:10]], weight)
    assert np.isfinite(a.coefs_[0]).all()
    b = MLPClassifier(solver="sgd", **both).fit(
        np.vstack([X, X[:10]]), np.r_[CLASSES, CLASSES[:10]], weight
    )
    c = MLPClassifier(solver="sgd", **both).fit(X, CLASSES)
    np.testing.assert_array_equal(b.coefs_[0], c.coefs_[0])


def test_validation_data_has_no_other_classes():
    model = MLPClassifier(4, max_iter=2)
    with pytest.raises(ValueError, match=r"validation_data: got the classes \[3\]"):
        model.fit(X, CLASSES, validation_data=(X[:2], [1, 3]))
    names = np.array(["a", "b", "c"])[CLASSES]
    model.fit(X, names, validation_data=(X[60:], names[60:]))
    assert len(model.validation_curve_) == 2


def test_validation_data_gives_a_curve_and_stops():
    train, held = slice(0, 150), slice(150, None)
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=30, random_state=0, alpha=0.0)
    model.fit(XR[train], YR[train], validation_data=(XR[held], YR[held]))
    assert len(model.validation_curve_) == model.n_iter_ == 30
    loss = 0.5 * ((model.predict(XR[held]) - YR[held]) ** 2).sum(axis=1).mean()
    assert model.validation_curve_[-1] == pytest.approx(loss, rel=1e-12)
    model = MLPRegressor(
        hidden_layer_sizes=8, early_stopping=True, n_iter_no_change=3, tol=0.5, random_state=0
    )
    model.fit(XR[train], YR[train], validation_data=(XR[held], YR[held], WEIGHT[held]))
    assert model.n_iter_ < 20 and len(model.validation_scores_) == len(model.validation_curve_)
    best = model.score(XR[held], YR[held], sample_weight=WEIGHT[held])
    assert best == pytest.approx(model.best_validation_score_, abs=1e-12)
    with pytest.raises(ValueError, match="validation_data: "):
        model.fit(XR, YR, validation_data=XR)


@pytest.mark.parametrize("scoring", ["neg_log_loss", lambda model, x, y: model.score(x, y)])
def test_early_stopping_by_a_scorer(scoring):
    model = MLPClassifier(8, early_stopping=True, scoring=scoring, max_iter=20, random_state=0)
    model.fit(X, CLASSES)
    assert len(model.validation_scores_) == model.n_iter_
    if scoring == "neg_log_loss":
        assert max(model.validation_scores_) < 0
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_callbacks_are_told():
    class Told(fr.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1
            if epoch == 3:
                self.model.stop_training = True

    told = Told()
    model = MLPClassifier(4, callbacks=told).fit(X, CLASSES)
    assert told.epochs == model.n_iter_ == 4


def test_model_is_a_sequential_of_its_own():
    model = MLPClassifier(4, max_iter=3).fit(X, CLASSES)
    network = model.model_
    np.testing.assert_array_equal(network.predict(X, verbose=0), model.predict_proba(X))
    network.set_weights([0 * w for w in network.get_weights()])
    assert model.coefs_[0].any() and model.predict_proba(X).std() > 0


def test_coefs_are_the_truth():
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=3).fit(XR, YR)
    model.intercepts_[-1] = model.intercepts_[-1] + 1
    before = clone(model).set_params(random_state=0)
    assert not hasattr(before, "coefs_")
    hidden = model.hidden_activations(XR)[0]
    np.testing.assert_allclose(
        model.predict(XR), hidden @ model.coefs_[1] + model.intercepts_[1], atol=1e-12
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_dtype(dtype, solver):
    model = MLPRegressor(
        hidden_layer_sizes=4, dtype=dtype, solver=solver, max_iter=20, random_state=0
    ).fit(XR, YR)
    assert {w.dtype for w in [*model.coefs_, *model.intercepts_]} == {np.dtype(dtype)}
    assert model.predict(XR).dtype == dtype
    as_given = MLPRegressor(hidden_layer_sizes=4, solver=solver, max_iter=20, random_state=0)
    as_given.fit(XR.astype(dtype), YR)
    np.testing.assert_array_equal(as_given.predict(XR.astype(dtype)), model.predict(XR))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csr_array, sp.csc_array])
def test_sparse_rows_are_rows(container, solver):
    x = XR * (rng.random(XR.shape) < 0.3)
    settings = {"solver": solver, "max_iter": 10, "random_state": 0, "early_stopping": True}
    dense = MLPRegressor(hidden_layer_sizes=4, **settings).fit(x, YR[:, 0])
    sparse = MLPRegressor(hidden_layer_sizes=4, **settings).fit(container(x), YR[:, 0])
    np.testing.assert_allclose(sparse.predict(container(x)), dense.predict(x), atol=1e-9)
    np.testing.assert_allclose(sparse.predict(x), dense.predict(x), atol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_rows_are_never_made_dense(solver, dtype, monkeypatch):
    wide = sp.random_array((150, 3000), density=0.004, rng=3, format="csr", dtype=dtype)
    labels = (np.asarray(wide.sum(axis=1)).ravel() > 5.5).astype(int)
    settings = {"solver": solver, "max_iter": 4, "random_state": 0, "l1": 1e-3}
    settings["compact"] = solver == "adam"
    whole = MLPClassifier(5, **settings).fit(wide.toarray(), labels)
    hidden, found = whole.hidden_activations(wide.toarray()), whole.predict_proba(wide.toarray())

    for kind in (sp.csr_array, sp.csc_array):

        def refuse(matrix, *args, _toarray=kind.toarray, **kwargs):
            assert matrix.shape[1] == 2, "not scikit-learn's two columns of labels"
            return _toarray(matrix, *args, **kwargs)

        monkeypatch.setattr(kind, "toarray", refuse)
    for rows in (wide, wide.tocsc()):
        model = MLPClassifier(5, **settings).fit(rows, labels, validation_data=(rows, labels))
        tolerance = {"float32": 1e-4, "float64": 1e-9}[dtype]
        np.testing.assert_allclose(model.predict_proba(rows), found, atol=tolerance)
        np.testing.assert_allclose(model.hidden_activations(rows)[0], hidden[0], atol=tolerance)
        assert model.coefs_[0].dtype == model.predict_proba(rows).dtype == dtype


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_dataframes(package):
    frames = pytest.importorskip(package)
    table = {f"x{i}": XR[:, i] for i in range(6)}
    frame = frames.table(table) if package == "pyarrow" else frames.DataFrame(table)
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0).fit(frame, YR[:, 0])
    if package != "pyarrow":
        assert model.feature_names_in_.tolist() == list(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        np.testing.assert_array_equal(
            model.predict(frame), clone(model).fit(XR, YR[:, 0]).predict(XR)
        )


def test_in_scikit_learns_company():
    x, y = load_digits(return_X_y=True)
    x, y = x[:400] / 16, y[:400]
    pipe = make_pipeline(
        StandardScaler(), MLPClassifier(16, learning_rate_init=0.02, max_iter=15, random_state=0)
    )
    grid = {"mlpclassifier__l1": [0.0, 0.1], "mlpclassifier__hidden_layer_sizes": [(8,), (16,)]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2).fit(x, y)
    assert search.best_params_["mlpclassifier__l1"] == 0.0 and search.best_score_ > 0.7
    proba = cross_val_predict(search.best_estimator_, x, y, cv=2, method="predict_proba")
    assert proba.shape == (400, 10)
    found = permutation_importance(search.best_estimator_, x[:100], y[:100], n_repeats=2)
    assert found.importances_mean.shape == (64,)


def test_metadata_is_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        model = MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0)
        model.set_fit_request(sample_weight=True, validation_data=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipe.fit(XR, YR, sample_weight=WEIGHT, validation_data=(XR, YR))
        assert len(pipe[-1].validation_curve_) == 3


def test_scikit_learns_callbacks(capsys):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")

    class Epochs:
        def setup(self, estimator, context):
            self.begun = self.ended = 0

        def on_fit_task_begin(self, estimator, context):
            self.begun += 1

        def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
            self.ended += 1
            assert fitted_estimator.predict(X).shape == (150,)
            return self.ended == 5

        def teardown(self, estimator, context):
            self.is_down = True

    epochs = Epochs()
    bar = callback.ProgressBar()
    model = MLPClassifier(4, max_iter=9).set_callbacks(epochs, bar).fit(X, CLASSES)
    assert model.n_iter_ == 5 and epochs.begun == epochs.ended == 6 and epochs.is_down
    assert "MLPClassifier" in capsys.readouterr().out


@pytest.mark.parametrize("penalty", [{}, {"l1": 1e-4}, {"group_l1": 1e-4}], ids=str)
def test_scikit_learns_callbacks_of_lbfgs(penalty):
    callback = pytest.importorskip("sklearn.callback")

    class Stop:
        def setup(self, estimator, context):
            self.losses = []

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            if context.task_name == "fit":
                return False
            assert context.task_name == "lbfgs-iter"
            self.losses.append(np.mean((fitted_estimator.predict(X) - y) ** 2))
            return len(self.losses) == stop

        def teardown(self, estimator, context):
            pass

    settings = {"hidden_layer_sizes": 4, "solver": "lbfgs", "random_state": 0, "max_iter": 15}
    for stop in (4, 99):
        losses, monitor = Stop(), callback.ScoringMonitor(scoring="r2")
        model = MLPRegressor(**settings, **penalty).set_callbacks(losses, monitor)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.fit(XR, YR)
        assert len(found) == (stop == 99)  # asked to stop is no failure
        assert model.n_iter_ == len(losses.losses) == min(stop, 15)
        assert losses.losses[-1] < losses.losses[0]
        assert losses.losses[-1] == pytest.approx(np.mean((model.predict(XR) - YR) ** 2))
        scores = [row["r2"] for row in monitor.get_logs().data if row["task_name"] == "lbfgs-iter"]
        assert len(scores) == model.n_iter_ and scores[-1] == pytest.approx(model.score(XR, YR))


def test_scikit_learns_callbacks_through_a_search(capsys):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    pipe = make_pipeline(StandardScaler(), MLPClassifier(4, max_iter=3))
    grid = {"mlpclassifier__l1": [0.0, 0.01], "mlpclassifier__solver": ["adam", "lbfgs"]}
    bar = callback.ProgressBar(max_propagation_depth=None)
    search = GridSearchCV(pipe, grid, cv=2).set_callbacks(bar)
    search.fit(X, CLASSES)
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown and "MLPClassifier - fit" in shown


def test_ctrl_c_leaves_a_model():
    class Interrupt(fr.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    model = MLPClassifier(4, callbacks=[Interrupt()])
    with pytest.warns(UserWarning, match="interrupted by user"):
        model.fit(X, CLASSES)
    assert model.predict(X).shape == (150,)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_dropped_estimator_is_freed_at_once(solver):
    """And not when the collector comes by: its memory is then there for the next fit."""
    settings = {"solver": solver, "early_stopping": solver == "adam", "compact": solver == "adam"}
    gc.collect()
    gc.disable()
    try:
        model = MLPClassifier(4, max_iter=3, l1=1e-3, **settings).fit(X, CLASSES)
        alive = weakref.ref(model), weakref.ref(model._model)
        model.predict(X)
        del model
        assert [each() for each in alive] == [None, None]
    finally:
        gc.enable()


def test_threads_do_not_change_the_weights():
    one, two = (
        MLPClassifier(32, max_iter=3, random_state=0, n_threads=n).fit(X, CLASSES) for n in (1, 2)
    )
    for a, b in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_global_generator_is_left_alone():
    fr.set_random_seed(0)
    expected = fr.config.rng().random()
    fr.set_random_seed(0)
    MLPClassifier(4, max_iter=2, dropout=0.1).fit(X, CLASSES)
    assert fr.config.rng().random() == expected


# ------------------------------------------------ cross-validation


LINEAR = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=0.0, tol=1e-9, max_iter=3000)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_path_cv_chooses_as_lasso_cv(n_jobs):
    y = XR @ [1.0, -0.5, 0.0, 0.0, 0.0, 0.2] + rng.normal(size=len(XR))
    l1s = np.geomspace(1e-3, 1, 9)
    with joblib.parallel_config("threading"):
        model = MLPRegressorCV(LINEAR, l1s=l1s[::-1], cv=4, n_jobs=n_jobs).fit(XR, y)
    truth = LassoCV(alphas=l1s, cv=4, tol=1e-12).fit(XR, y)
    assert model.scores_.shape == (9, 4) and model.l1s_.tolist() == l1s[::-1].tolist()
    scores = [
        [Lasso(l1, tol=1e-12).fit(XR[a], y[a]).score(XR[b], y[b]) for a, b in KFold(4).split(XR)]
        for l1 in l1s[::-1]
    ]
    np.testing.assert_allclose(model.scores_, scores, atol=1e-6)
    assert model.l1_ == l1s[::-1][np.mean(scores, axis=1).argmax()]
    at = Lasso(model.l1_, tol=1e-14).fit(XR, y)
    np.testing.assert_allclose(model.estimator_.coefs_[0][:, 0], at.coef_, atol=1e-6)
    assert model.selected_features_.tolist() == np.flatnonzero(at.coef_).tolist()
    assert truth.alpha_ in l1s
    simpler = MLPRegressorCV(LINEAR, l1s=l1s, cv=4, rule="one_standard_error").fit(XR, y)
    assert simpler.l1_ >= model.l1_
    path = simpler.path_
    assert (
        simpler.best_index_ == path.one_standard_error_index
        and model.l1_ == l1s[::-1][path.best_index]
    )
    assert path.strengths.tolist() == l1s[::-1].tolist() and path.n_penalized == 6
    for l1, found, losses, n in zip(
        path.strengths, path.coefficients, path.losses, path.nonzeros, strict=True
    ):
        lasso = Lasso(l1, tol=1e-14).fit(XR, y)
        np.testing.assert_allclose(found[:, 0], lasso.coef_, atol=1e-6)
        rest = y - lasso.predict(XR)
        assert losses == pytest.approx(rest @ rest / (2 * len(y)) + l1 * np.abs(lasso.coef_).sum())
        assert n == np.count_nonzero(lasso.coef_)
    at = path.model_at(simpler.best_index_)
    np.testing.assert_allclose(at.predict(XR)[:, 0], simpler.predict(XR), atol=1e-6)
    read = np.flatnonzero(path.selected_inputs[simpler.best_index_])
    assert simpler.selected_features_.tolist() == read.tolist()


def test_path_cv_of_a_classifier():
    plain = MLPClassifier(6, solver="lbfgs", max_iter=60, random_state=0)
    names = np.array(["a", "b", "c"])[CLASSES]
    model = MLPClassifierCV(plain, l1s=[1e-3, 3.0], cv=3, scoring="neg_log_loss").fit(X, names)
    assert model.l1_ == 1e-3 and (model.predict(X) == names).mean() > 0.95
    assert (model.scores_ < 0).all()
    assert model.score(X, names) == get_scorer("neg_log_loss")(model, X, names)
    assert model.predict_proba(X).shape == (150, 3) and model.classes_.tolist() == ["a", "b", "c"]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert not hasattr(plain, "coefs_") and clone(model).estimator is not plain
    with pytest.raises(ValueError, match="l1s: got"):
        MLPClassifierCV(plain, l1s=[-1.0]).fit(X, names)


def weighted_folds(model, weight_of_scores):
    """The scores of each strength on each fold, by hand."""
    found = []
    for train, test in KFold(3).split(XR):
        one, row = clone(LINEAR).set_params(warm_start=True), []
        for l1 in sorted(model.l1s):
            one.set_params(l1=l1).fit(XR[train], YR[train, 0], WEIGHT[train])
            weight = None if weight_of_scores is None else weight_of_scores[test]
            row.append(one.score(XR[test], YR[test, 0], weight))
        found.append(row[::-1])
    return np.array(found).T


def test_path_cv_weighs_its_scores():
    settings = {"l1s": [0.01, 0.3], "cv": KFold(3)}
    model = MLPRegressorCV(LINEAR, **settings).fit(XR, YR[:, 0], sample_weight=WEIGHT)
    np.testing.assert_allclose(model.scores_, weighted_folds(model, WEIGHT), atol=1e-6)
    assert model.score(XR, YR[:, 0], WEIGHT) == model.estimator_.score(XR, YR[:, 0], WEIGHT)
    with pytest.raises(ValueError, match="groups"):
        model.fit(XR, YR[:, 0], groups=np.arange(len(XR)))


@pytest.mark.parametrize("wanted", [True, False])
def test_path_cv_routes_metadata(wanted):
    groups = np.arange(len(XR)) % 3
    scorer = make_scorer(r2_score)
    with sklearn.config_context(enable_metadata_routing=True):
        model = MLPRegressorCV(LINEAR, l1s=[0.01, 0.3], cv=GroupKFold(3), scoring=scorer)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            model.fit(XR, YR[:, 0], sample_weight=WEIGHT, groups=groups)
        model.set_params(scoring=scorer.set_score_request(sample_weight=wanted), cv=KFold(3))
        model.fit(XR, YR[:, 0], sample_weight=WEIGHT)
        expected = weighted_folds(model, WEIGHT if wanted else None)
        np.testing.assert_allclose(model.scores_, expected, atol=1e-6)
        model.set_params(cv=GroupKFold(3)).fit(XR, YR[:, 0], sample_weight=WEIGHT, groups=groups)
        assert model.scores_.shape == (2, 3)
        weight = WEIGHT if wanted else None
        assert model.score(XR, YR[:, 0], sample_weight=WEIGHT) == pytest.approx(
            model.estimator_.score(XR, YR[:, 0], weight)
        )
        pipe = make_pipeline(StandardScaler(), model.set_fit_request(sample_weight=True))
        pipe[0].set_fit_request(sample_weight=False)
        again = pipe.fit(XR, YR[:, 0], sample_weight=WEIGHT, groups=groups)[-1]
        assert again.scores_.shape == (2, 3)


class Tasks:
    """A callback of scikit-learn that goes down to the estimators of each strength."""

    max_propagation_depth = None

    def __init__(self):
        self.seen = []

    def setup(self, estimator, context):
        self.is_down = False

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.seen.append((context.estimator_name, context.task_name, context.max_subtasks))

    def teardown(self, estimator, context):
        self.is_down = True


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_scikit_learns_callbacks_of_a_path(n_jobs):
    pytest.importorskip("sklearn.callback")
    tasks = Tasks()
    plain = MLPClassifier(4, max_iter=3, random_state=0)
    model = MLPClassifierCV(plain, l1s=[1e-4, 1e-2], cv=3, n_jobs=n_jobs).set_callbacks(tasks)
    with joblib.parallel_config("threading"):
        model.fit(X, CLASSES)
    seen = Counter(tasks.seen)
    assert tasks.is_down
    assert seen["MLPClassifierCV", "fit", 4] == 1
    assert seen["MLPClassifierCV", "path-of-fold", 2] == 3
    assert seen["MLPClassifierCV", "path-of-all-rows", 2] == 1
    assert seen["MLPClassifier", "fit", 3] == 4 * 2
    assert seen["MLPClassifier", "epoch", 0] == 4 * 2 * 3
    assert sum(seen.values()) == 1 + 4 + 8 + 24
    tasks.seen.clear()
    clone(model).set_callbacks().fit(X, CLASSES)
    assert not tasks.seen


def test_progress_of_a_path_is_shown(capsys):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    model = MLPRegressorCV(LINEAR, l1s=[0.01, 0.1], cv=2)
    bar = callback.ProgressBar(max_propagation_depth=None)
    GridSearchCV(model, {"rule": ["best"]}, cv=2).set_callbacks(bar).fit(XR, YR[:, 0])
    shown = capsys.readouterr().out
    assert "MLPRegressorCV" in shown and "path-of-fold" in shown


# ------------------------------------------------ losses that outliers do not lead


def bent(n, seed=0, noise=0.3):
    """sin(2 x) with noise whose spread grows with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 1))
    return x, np.sin(2 * x[:, 0]) + noise * (1 + x[:, 0] / 3) * rng.normal(size=n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "settings", "row"),
    [
        ("absolute_error", {}, lambda e: np.abs(e)),
        ("huber", {"delta": 0.3}, lambda e: np.where(abs(e) < 0.3, e**2 / 2, 0.3 * abs(e) - 0.045)),
        ("quantile", {"quantile": 0.8}, lambda e: np.maximum(-0.8 * e, 0.2 * e)),
    ],
)
def test_what_the_robust_losses_are(loss, settings, row, dtype):
    x, y = bent(200)
    y = np.c_[y, -y] if dtype == "float64" else y
    weight = np.random.default_rng(1).uniform(0, 2, 200)
    model = MLPRegressor(loss, 8, max_iter=4, random_state=0, dtype=dtype, **settings)
    model.fit(x, y, weight, validation_data=(x, y))
    each = row(model.predict(x).reshape(200, -1) - y.reshape(200, -1))
    assert model.validation_curve_[-1] == pytest.approx(each.sum(axis=1).mean(), rel=1e-5)
    again = clone(model).fit(x, y, weight, validation_data=(x, y))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_a_quantile_has_its_share_of_rows_below(quantile, solver):
    x, y = bent(2000)
    model = MLPRegressor("quantile", 24, activation="tanh", solver=solver, quantile=quantile)
    model.set_params(random_state=0, learning_rate_init=0.01, max_iter=150).fit(x, y)
    for part in (x[:, 0] < 0, x[:, 0] >= 0):
        assert np.mean(y[part] < model.predict(x[part])) == pytest.approx(quantile, abs=0.05)


def test_linear_quantiles_are_scikit_learns():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 3))
    y = x @ [1.0, -2.0, 0.5] + rng.exponential(size=500)
    theirs = QuantileRegressor(quantile=0.7, alpha=0.0).fit(x, y).predict(x)
    model = MLPRegressor("quantile", (), quantile=0.7, alpha=0.0, random_state=0, tol=1e-6)
    ours = model.set_params(learning_rate_init=0.02, max_iter=400).fit(x, y).predict(x)
    at_best = mean_pinball_loss(y, theirs, alpha=0.7)
    assert mean_pinball_loss(y, ours, alpha=0.7) == pytest.approx(at_best, rel=2e-3)


def test_outliers_do_not_lead():
    x, y = bent(800, noise=0.1)
    truth = np.sin(2 * x[:, 0])
    y[::10] += 20
    off = {}
    for loss in ("squared_error", "huber", "absolute_error"):
        model = MLPRegressor(loss, 24, activation="tanh", random_state=0, delta=0.2)
        model.set_params(learning_rate_init=0.01, max_iter=200).fit(x, y)
        off[loss] = np.abs(model.predict(x) - truth).mean()
    assert off["squared_error"] > 1 and off["huber"] < 0.2 and off["absolute_error"] < 0.2, off


def test_their_parameters_are_checked():
    x, y = bent(20)
    for name, value in (("quantile", 1.0), ("quantile", 0), ("delta", 0), ("loss", "hubert")):
        with pytest.raises(ValueError, match=f"The '{name}' parameter of MLPRegressor must be"):
            MLPRegressor(**{"loss": "huber", name: value}).fit(x, y)
    grid = GridSearchCV(
        MLPRegressor("quantile", 4, max_iter=30, random_state=0),
        {"quantile": [0.2, 0.8]},
        scoring=make_scorer(mean_pinball_loss, alpha=0.8, greater_is_better=False),
        cv=2,
    )
    assert grid.fit(*bent(200)).best_params_ == {"quantile": 0.8}
