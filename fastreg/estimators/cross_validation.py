"""MLPClassifierCV and MLPRegressorCV: the strength of L1 by cross-validation along a path."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

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
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    _check_method_params,
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from fastreg.estimators.base import CallbackSupportMixin
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


class _PathCV(CallbackSupportMixin, BaseEstimator):
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
    _usual_scoring: ClassVar[str]

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
    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **params: Any) -> Any:
        """Choose the strength on folds, then fit to all rows.

        Parameters
        ----------
        X, y, sample_weight : as for the estimator; the scores of the folds take the weights, too.
        **params : for the scorer and the splitter, with scikit-learn's metadata routing.
            There the scorer says whether it wants the weights (`set_score_request`).

        Raises
        ------
        ValueError, TypeError
            For parameters or data that do not fit.
        """
        _raise_for_params(params, self, "fit")
        plain = self._plain() if self.estimator is None else self.estimator
        # None of what is returned is kept: the estimator of each fold checks again.
        checked, _ = validate_data(self, X, y, accept_sparse=["csr", "csc"], multi_output=True)
        X, y = indexable(X, y)
        l1s = np.unique(np.asarray(self.l1s, float))
        if not len(l1s) or l1s[0] < 0:
            raise ValueError(f"l1s: got {l1s!r}; strengths >= 0 are needed")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, checked)
        of_scores, of_folds = self._routed(sample_weight, params)
        scorer = self._scorer()
        splitter = check_cv(self.cv, y, classifier=is_classifier(self))
        folds = list(splitter.split(X, y, **of_folds))
        root, paths = self._contexts(len(folds), len(l1s))
        with _task(root, _facts(self, X, y, sample_weight)):
            self._fit_paths(plain, X, y, sample_weight, l1s, scorer, of_scores, folds, paths)
        return self

    def _contexts(self, n_folds: int, n_strengths: int) -> tuple[Any, list[Any]]:
        """What scikit-learn's callbacks are told by: of the fit, and of each of its paths."""
        if not hasattr(self, "_skl_callbacks"):
            return None, [None] * (n_folds + 1)
        root = self._init_callback_context(max_subtasks=n_folds + 1, sequential_subtasks=False)
        names = [*["path-of-fold"] * n_folds, "path-of-all-rows"]
        return root, [
            root.subcontext(task_name=name, task_id=i, max_subtasks=n_strengths)
            for i, name in enumerate(names)
        ]

    def _fit_paths(
        self,
        plain: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        l1s: Array,
        scorer: Any,
        of_scores: dict[str, Any],
        folds: list[Any],
        contexts: list[Any],
    ) -> None:
        found = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_scores)(
                _Path(self, plain, l1s, context), X, y, sample_weight, scorer, of_scores, *fold
            )
            for fold, context in zip(folds, contexts[:-1], strict=True)
        )
        scores = np.array(found).T[::-1]  # (n_l1s, n_folds), from the strongest down as in a path
        choose = best_index if self.rule == "best" else one_standard_error_index
        self.best_index_ = choose(scores)
        fits: list[Fit] = []
        for l1, model in _Path(self, plain, l1s, contexts[-1]).fits(X, y, sample_weight):
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

    def _scorer(self) -> Any:
        return get_scorer(self.scoring or self._usual_scoring)

    def _routed(
        self, sample_weight: Any, params: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the scorer and the splitter get."""
        if _routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            return dict(routed.scorer.score), dict(routed.splitter.split)
        return {} if sample_weight is None else {"sample_weight": sample_weight}, {}

    def get_metadata_routing(self) -> MetadataRouter:
        """The scorer's and the splitter's requests, beside this estimator's own."""
        to_score = MethodMapping().add(caller="fit", callee="score")
        to_split = MethodMapping().add(caller="fit", callee="split")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(scorer=self._scorer(), method_mapping=to_score.add(caller="score", callee="score"))
            .add(splitter=self.cv, method_mapping=to_split)
        )

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **params: Any) -> float:
        """By `scoring`, of what `predict` says.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        **params : for the scorer, with scikit-learn's metadata routing.
        """
        _raise_for_params(params, self, "score")
        if sample_weight is not None:
            params["sample_weight"] = sample_weight
        if _routing_enabled():
            params = process_routing(self, "score", **params).scorer.score
        return float(self._scorer()(self, X, y, **params))

    def _asked(self, X: Any) -> Any:
        check_is_fitted(self)
        validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return self.estimator_

    def predict(self, X: Any) -> Any:
        """What the estimator with the chosen strength predicts."""
        return self._asked(X).predict(X)

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


def _facts(caller: Any, X: Any, y: Any, weight: Any) -> dict[str, Any]:
    metadata = None if weight is None else {"sample_weight": weight}
    return {"estimator": caller, "X": X, "y": y, "metadata": metadata}


@contextmanager
def _task(context: Any, facts: dict[str, Any], model: Any = None) -> Iterator[None]:
    """Tell scikit-learn's callbacks that it begins and ends; those of `model` go under it."""
    if context is None:
        yield
        return
    with nullcontext() if model is None else context.propagate_callback_context(model):
        context.call_on_fit_task_begin(**facts)
        yield
    context.call_on_fit_task_end(**facts)


class _Path(NamedTuple):
    """One way along the strengths."""

    caller: Any
    plain: Any
    l1s: Array
    context: Any

    def fits(self, X: Any, y: Any, weight: Any) -> Iterator[tuple[float, Any]]:
        """(strength, the estimator under it), each begun where the weaker one ended."""
        model = clone(self.plain).set_params(warm_start=True)
        facts, context = _facts(self.caller, X, y, weight), self.context
        with _task(context, facts):
            for l1 in self.l1s:
                one = None if context is None else context.subcontext(task_name="strength")
                with _task(one, facts, model):
                    model.set_params(l1=float(l1)).fit(X, y, sample_weight=weight)
                yield float(l1), model


def _fold_scores(
    path: _Path,
    X: Any,
    y: Any,
    weight: Any,
    scorer: Any,
    of_scores: dict[str, Any],
    train: Any,
    test: Any,
) -> list[float]:
    take = _safe_indexing
    rest = take(X, train), take(y, train), None if weight is None else take(weight, train)
    held = take(X, test), take(y, test)
    of_held = _check_method_params(X, params=of_scores, indices=test)
    return [float(scorer(model, *held, **of_held)) for _, model in path.fits(*rest)]


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
        What folds and `score` go by, as in scikit-learn's `get_scorer`; None is accuracy, and r2
        of regressors.
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
    _usual_scoring = "accuracy"
    score = _PathCV.score

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
    _usual_scoring = "r2"
    score = _PathCV.score
