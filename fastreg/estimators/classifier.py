"""MLPClassifier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastreg.estimators.base import MultilayerPerceptron
from fastreg.estimators.labels import Labels, classes_of
from fastreg.estimators.parameters import CONSTRAINTS, arguments_of, validation_parts

Array = NDArray[Any]


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):
    """scikit-learn's MLPClassifier on fastreg's engine.

    Parameters and attributes of scikit-learn 1.9's class are here with its defaults and meaning;
    those below come on top. Penalties of fastreg are added to the mean loss as they stand, while
    `alpha` is scikit-learn's: `alpha / 2 * sum(W^2) / n` for a batch of n rows (or of weight n).
    "One for all or a list": a number, or one for each layer.

    Parameters
    ----------
    activation : str or list of str
        Also "linear", "sigmoid" and fastreg's others; a list gives each hidden layer its own.
    l1, bias_l1, bias_l2 : float or list of float, default 0
        `l1 * sum |W|` of kernels and biases, `bias_l2 * sum b^2`; a list has one for each hidden
        layer and one for the outputs.
    group_l1 : float or list of float, default 0
        `group_l1 * sum over units of sqrt(n_out) * norm(w)`, w the weights out of an input or a
        hidden unit: these go as one (the group lasso, see `fastreg.GroupL1`).
    activity_l1, activity_l2 : float or list of float, default 0
        The same of the hidden layers' outputs, divided by the rows of the batch.
    l1_step : "proximal", "cumulative" or "sign"
        How "sgd" and "adam" apply L1; the first two reach exact zeros. "lbfgs" becomes OWL-QN
        where there is L1, a proximal descent where there is `group_l1`, and reaches them, too.
    dropout : float or list of float in [0, 1), default 0
        Share of a hidden layer's outputs that a step leaves out; not for "lbfgs".
    class_weight : dict, "balanced" or list of dicts, optional
        Weights of the classes' rows, as in scikit-learn's other classifiers.
    scoring : str or callable, optional
        What `early_stopping` goes by, as in scikit-learn's `get_scorer`; None is `score`.
    callbacks : fastreg.Callback or list of them, optional
        Told of every epoch of "sgd" and "adam"; scikit-learn's go to `set_callbacks`.
    n_threads : int, optional
        None: what `fastreg.set_num_threads` or `threadpoolctl.threadpool_limits` says. The
        weights do not depend on it.
    dtype : "float32", "float64" or None
        None trains in the dtype of X, if it is one of the two, else in float64.
    compact : bool, default False
        Take inputs and units that L1 has cut off out of the network while it trains.

    Attributes
    ----------
    validation_curve_ : list of float
        The loss on the validation rows after each epoch, without penalties; empty without such.
    feature_importances_, selected_features_, model_
        See there. With `compact` the rows of `coefs_[0]` are those of `selected_features_`.

    Raises
    ------
    ValueError, TypeError
        In `fit`, for parameters or data that do not fit.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> model = MLPClassifier(32, l1=1e-4, dropout=0.1, tol=0.1, random_state=0).fit(x / 16, y)
    >>> model.score(x / 16, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }
    _stratifies = True
    loss = "log_loss"  # no parameter, as in scikit-learn

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        l1: Any = 0.0,
        group_l1: Any = 0.0,
        bias_l1: Any = 0.0,
        bias_l2: Any = 0.0,
        activity_l1: Any = 0.0,
        activity_l2: Any = 0.0,
        l1_step: str = "proximal",
        dropout: Any = 0.0,
        class_weight: Any = None,
        scoring: Any = None,
        callbacks: Any = None,
        n_threads: int | None = None,
        dtype: str | None = None,
        compact: bool = False,
    ) -> None:
        super().__init__(**arguments_of(locals()))

    def _loss(self) -> str:
        if self.out_activation_ == "softmax":
            return "sparse_categorical_crossentropy"
        return "binary_crossentropy"

    def _out_activation(self) -> str:
        # One unit says which of two classes, and each label of several by itself.
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _targets(self, y: Array, dtype: Any) -> Array:
        if self.out_activation_ == "softmax":
            return np.asarray(y if y.ndim == 1 else y.argmax(axis=1), np.int32)
        return np.ascontiguousarray(y, dtype)

    def _decoded(self, y: Array) -> Any:
        """What `_encoded` was given."""
        return self._decide(y) if y.ndim == 2 else np.asarray(self.classes_[y])

    def _decide(self, outputs: Array) -> Any:
        found = outputs.ravel() if self.n_outputs_ == 1 else outputs
        return self._label_binarizer.inverse_transform(found)

    def _score(self, truth: Any, found: Any, weight: Array | None) -> float:
        return float(accuracy_score(truth, found, sample_weight=weight))

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, anew: bool, sample_weight: Any
    ) -> tuple[Any, Array, Array | None]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=self.dtype or (np.float64, np.float32),
            reset=anew,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = Labels().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = classes_of(y)
            if self.warm_start:
                if set(classes) != set(self.classes_):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the "
                        f"previous call to fit. Previously got {self.classes_}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}."
                    f" 'y' has {classes}."
                )
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if self.class_weight is not None:
            if incremental and self.class_weight == "balanced":
                raise ValueError(
                    "class_weight: got 'balanced', which partial_fit cannot know from a part of "
                    "the rows; a dict is needed, see sklearn.utils.compute_class_weight"
                )
            of_class = compute_sample_weight(self.class_weight, y)
            weight = of_class if weight is None else weight * of_class
        return X, self._encoded(y), weight

    def _encoded(self, y: Array) -> Array:
        """(n, n_outputs) bool; the numbers of the classes, (n,), where there is one of several."""
        if self._label_binarizer.y_type_ != "multiclass":
            return np.asarray(self._label_binarizer.transform(y), bool)
        return np.searchsorted(self.classes_, y)

    def _n_outputs(self, y: Array) -> int:
        return len(self.classes_) if y.ndim == 1 else y.shape[1]

    def _validation(self, given: Any, dtype: Any) -> Any:
        if given is None:
            return None
        X, y, weight = validation_parts(given)
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=dtype, reset=False
        )
        weight = None if weight is None else _check_sample_weight(weight, X)
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(
                f"validation_data: got the classes {unknown}; y has {self.classes_} alone"
            )
        return X, self._encoded(y), weight

    def predict(self, X: Any) -> Any:
        """The classes of the rows of `X`, (n,), or labels, (n, n_outputs), sparse as `y` was."""
        return self._decide(self._outputs(X))

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, (n, n_classes), in the order of `classes_`."""
        outputs = self._outputs(X)
        if self.n_outputs_ > 1:
            return outputs
        return np.hstack([1 - outputs, outputs])

    def predict_log_proba(self, X: Any) -> Array:
        """log(predict_proba(X))"""
        found = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return np.log(found, out=found)

    @available_if(MultilayerPerceptron._check_solver)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, classes: Any = None
    ) -> Any:
        """One epoch on these rows, from the weights and the optimizer's state of the last call.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        classes : all classes of all calls; needed in the first one.
        """
        if _check_partial_fit_first_call(self, classes):
            is_multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = Labels().fit(y if is_multilabel else classes)
        return self._fit(X, y, sample_weight, True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
