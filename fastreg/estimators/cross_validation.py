"""MLPClassifierCV and MLPRegressorCV: the strength of L1 by cross-validation along a path."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    _fit_context,
    clone,
    is_classifier,
)
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastreg.estimators.classifier import MLPClassifier
from fastreg.estimators.parameters import hidden_sizes
from fastreg.estimators.regressor import MLPRegressor
from fastreg.paths import (
    Fit,
    best_index,
    importances_of,
    n_params_of,
    one_standard_error_index,
    path_of,
)
from fastreg.sparsity import compacted

Array = NDArray[Any]


class _PathCV(BaseEstimator):
    """What the two classes share."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "l1s": ["array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "rule": [StrOptions({"best", "one_standard_error"})],
        "n_jobs": [Integral, None],
    }
    _plain: ClassVar[type]

    def __init__(
        self,
        estimator: Any = None,
        *,
        l1s: ArrayLike = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        cv: Any = None,
        scoring: Any = None,
        rule: str = "best",
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.l1s = l1s
        self.cv = cv
        self.scoring = scoring
        self.rule = rule
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Choose the strength on folds, then fit to all rows.

        Parameters
        ----------
        X, y, sample_weight : as for the estimator; scores do not take the weights.

        Raises
        ------
        ValueError, TypeError
            For parameters or data that do not fit.
        """
        plain = self._plain() if self.estimator is None else self.estimator
        # None of what is returned is kept: the estimator of each fold checks again.
        checked, _ = validate_data(self, X, y, accept_sparse=["csr", "csc"], multi_output=True)
        X, y = indexable(X, y)
        l1s = np.unique(np.asarray(self.l1s, float))
        if not len(l1s) or l1s[0] < 0:
            raise ValueError(f"l1s: got {l1s!r}; strengths >= 0 are needed")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, checked)
        scorer = check_scoring(plain, self.scoring)
        folds = list(check_cv(self.cv, y, classifier=is_classifier(self)).split(X, y))
        found = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_scores)(plain, X, y, sample_weight, l1s, scorer, train, test)
            for train, test in folds
        )
        scores = np.array(found).T[::-1]  # (n_l1s, n_folds), from the strongest down as in a path
        choose = best_index if self.rule == "best" else one_standard_error_index
        self.best_index_ = choose(scores)
        fits: list[Fit] = []
        for l1, model in _along(plain, X, y, sample_weight, l1s):
            network = model.model_
            state = compacted(*network.state())
            nonzeros = sum(int(np.count_nonzero(kernel)) for kernel in model.coefs_)
            importances = importances_of(network, self.n_features_in_)
            told = nonzeros, n_params_of(state), importances, model.loss_
            fits.insert(0, Fit(l1, state, np.nan, *told))
            if len(fits) == len(l1s) - self.best_index_:
                self.estimator_ = copy.deepcopy(model)
        names = [str(name) for name in getattr(self, "feature_names_in_", [])] or None
        hidden = hidden_sizes(self.estimator_.hidden_layer_sizes)
        sizes = [self.n_features_in_, *hidden, self.estimator_.n_outputs_]
        n_penalized = sum(a * b for a, b in itertools.pairwise(sizes))
        self.path_ = path_of(fits, n_penalized, scores, names, network.backend)
        self.l1s_, self.scores_ = self.path_.strengths, scores
        self.l1_ = float(self.l1s_[self.best_index_])
        if hasattr(self.estimator_, "classes_"):
            self.classes_ = self.estimator_.classes_
        return self

    def _asked(self, X: Any) -> Any:
        check_is_fitted(self)
        validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return self.estimator_

    def predict(self, X: Any) -> Array:
        """What the estimator with the chosen strength predicts."""
        return np.asarray(self._asked(X).predict(X))

    @property
    def feature_importances_(self) -> Array:
        """Of the estimator with the chosen strength."""
        check_is_fitted(self)
        return np.asarray(self.estimator_.feature_importances_)

    @property
    def selected_features_(self) -> Array:
        """Of the estimator with the chosen strength."""
        check_is_fitted(self)
        return np.asarray(self.estimator_.selected_features_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _along(plain: Any, X: Any, y: Any, weight: Any, l1s: Array) -> Iterator[tuple[float, Any]]:
    """(strength, the estimator under it), each begun where the weaker one ended."""
    model = clone(plain).set_params(warm_start=True)
    for l1 in l1s:
        model.set_params(l1=float(l1)).fit(X, y, sample_weight=weight)
        yield float(l1), model


def _fold_scores(
    plain: Any, X: Any, y: Any, weight: Any, l1s: Array, scorer: Any, train: Any, test: Any
) -> list[float]:
    take = _safe_indexing
    rest = take(X, train), take(y, train), None if weight is None else take(weight, train)
    held = take(X, test), take(y, test)
    return [float(scorer(model, *held)) for _, model in _along(plain, *rest, l1s)]


class MLPClassifierCV(ClassifierMixin, _PathCV):
    """MLPClassifier with the strength of L1 chosen by cross-validation along a path.

    In each fold the strengths rise from weak to strong, each fit beginning where the one before
    ended (dense to sparse: from all zeros a network does not come back). The strongest of the best
    mean score is taken, and the same way is gone on all rows.

    Parameters
    ----------
    estimator : MLPClassifier, optional
        With the other parameters; None is the default one. It is not changed.
    l1s : array of float
        The strengths, in any order.
    cv : int, splitter or iterable, optional
        As in scikit-learn; None is 5 folds.
    scoring : str or callable, optional
    rule : "best" or "one_standard_error"
        The latter takes the strongest L1 whose mean score is within a standard error of the best.
    n_jobs : int, optional
        Folds at a time.

    Attributes
    ----------
    l1_ : float, the strength chosen, `l1s_[best_index_]`
    l1s_ : (n,) strengths, falling
    scores_ : (n, n_folds)
    path_ : `fastreg.RegularizationPath` of the same way on all rows, with `scores_`
    estimator_ : the estimator that stood at `l1_` on it
    feature_importances_, selected_features_, classes_ : those of it

    Raises
    ------
    ValueError, TypeError
        In `fit`, for parameters or data that do not fit.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> plain = MLPClassifier(8, solver="lbfgs", max_iter=50, random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     model = MLPClassifierCV(plain, l1s=[0.01, 1.0], cv=3).fit(x, y)
    >>> model.l1_, model.scores_.shape
    (0.01, (2, 3))
    """

    _plain = MLPClassifier

    def predict_proba(self, X: Any) -> Array:
        """As `MLPClassifier.predict_proba`."""
        return np.asarray(self._asked(X).predict_proba(X))

    def predict_log_proba(self, X: Any) -> Array:
        """As `MLPClassifier.predict_log_proba`."""
        return np.asarray(self._asked(X).predict_log_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressorCV(RegressorMixin, _PathCV):
    """MLPRegressor with the strength of L1 chosen by cross-validation along a path.

    All is as for `MLPClassifierCV`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(90, 6))
    >>> plain = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", random_state=0)
    >>> model = MLPRegressorCV(plain, l1s=[1e-3, 0.1, 10.0], cv=3).fit(x, x[:, 2])
    >>> model.l1_, model.selected_features_
    (0.001, array([2]))
    """

    _plain = MLPRegressor
