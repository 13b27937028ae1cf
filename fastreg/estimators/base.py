"""What MLPClassifier and MLPRegressor share."""

from __future__ import annotations

import copy
import functools
import inspect
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted, validate_data

from fastreg import functional, inputs, training
from fastreg.errors import check_choice
from fastreg.estimators import lbfgs, stochastic
from fastreg.estimators.network import Perceptron, interleaved, unpacked
from fastreg.estimators.parameters import (
    ACTIVATIONS,
    CONSTRAINTS,
    NOT_FINITE,
    STOCHASTIC,
    hidden_sizes,
    per_layer,
    random_state,
)
from fastreg.estimators.rules import Listeners
from fastreg.inputs import Rows
from fastreg.layers import Dense, Dropout
from fastreg.models import INFERENCE_BATCH_SIZE, Sequential
from fastreg.optimizers import Optimizer
from fastreg.regularizers import L1L2, GroupL1
from fastreg.training import Data

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """scikit-learn's callbacks came with 1.9."""


Array = NDArray[Any]


class MultilayerPerceptron(CallbackSupportMixin, BaseEstimator):
    """What the two classes share: parameters to weights, rows to outputs."""

    _parameter_constraints: ClassVar[dict[str, Any]] = CONSTRAINTS

    def __init__(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            setattr(self, name, value)

    @classmethod
    @functools.cache
    def _get_param_names(cls) -> list[str]:
        """Read off the signature once: every fit and every clone asks."""
        names: list[str] = super()._get_param_names()
        return names

    @classmethod
    @functools.cache
    def _defaults(cls) -> dict[str, Any]:
        found = inspect.signature(cls.__init__).parameters.values()
        return {each.name: each.default for each in found}

    def _validate_params(self) -> None:
        """As scikit-learn does it; the defaults are known to be good."""
        defaults, given = self._defaults(), self.get_params(deep=False)
        validate_parameter_constraints(
            self._parameter_constraints,
            {name: value for name, value in given.items() if value is not defaults[name]},
            caller_name=type(self).__name__,
        )

    # ---------------------------------------- fit

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        validation_data: Any = None,
    ) -> Any:
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        hidden = hidden_sizes(self.hidden_layer_sizes)
        anew = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        labels = y
        X, y, weight = self._validate_input(X, y, incremental, anew, sample_weight)
        self.n_outputs_ = self._n_outputs(y)
        self._random_state = random_state(self.random_state)
        if anew:
            self._initialize([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        validation = self._validation(validation_data, X.dtype)
        is_stochastic = self.solver in STOCHASTIC
        n_epochs = 1 if incremental else self.max_iter
        listeners = Listeners(self, X, labels, sample_weight, n_epochs)
        if is_stochastic:
            stochastic.fit(self, X, y, weight, validation, n_epochs, incremental, listeners)
        else:
            lbfgs.fit(self, X, y, weight, listeners)
        listeners.end_fit()
        if not all(np.isfinite(w).all() for w in [*self.coefs_, *self.intercepts_]):
            raise ValueError(NOT_FINITE)
        return self

    def _initialize(self, sizes: list[int], dtype: Any) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._out_activation()
        self._selected: Array | None = None  # columns of X that are read; None: all
        self._model: Perceptron | None = None
        names = self._hidden_activations(len(sizes) - 2)
        self.coefs_: list[Array] = []
        self.intercepts_: list[Array] = []
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            # Glorot and Bengio 2010; a logistic function is four times flatter.
            near = names[min(i, len(names) - 1)] if names else self.activation
            bound = np.sqrt((2.0 if near in ("logistic", "sigmoid") else 6.0) / (n_in + n_out))
            draw = self._random_state.uniform
            self.coefs_.append(draw(-bound, bound, (n_in, n_out)).astype(dtype))
            self.intercepts_.append(draw(-bound, bound, n_out).astype(dtype))
        if self.solver in STOCHASTIC:
            self.loss_curve_: list[float] = []
            self.validation_curve_: list[float] = []
            self._no_improvement_count = 0
            stops = self.early_stopping
            self.validation_scores_: list[float] | None = [] if stops else None
            self.best_validation_score_ = -np.inf if stops else None
            self.best_loss_ = None if stops else np.inf

    def _hidden_activations(self, n_hidden: int) -> list[str]:
        names = per_layer("activation", self.activation, n_hidden)
        for name in names:
            check_choice("activation", name, ACTIVATIONS)
        return names

    # ---------------------------------------- the network

    def _fitted_network(self) -> Perceptron:
        """The model of the last fit, with the weights that stand in `coefs_` and `intercepts_`."""
        weights = interleaved(self.coefs_, self.intercepts_)
        model: Perceptron | None = getattr(self, "_model", None)
        if model is None or [w.shape for w in model.get_weights()] != [w.shape for w in weights]:
            return self._new_network(weights)
        model.set_weights(weights)
        return model

    def _new_network(self, weights: list[Array]) -> Perceptron:
        """A model of these weights; no random number is drawn but the seeds of dropout."""
        n = len(weights) // 2
        model = Perceptron.__new__(Perceptron)
        model._start("perceptron", None)
        names = [ACTIVATIONS[name] for name in self._hidden_activations(n - 1)]
        names.append(ACTIVATIONS[self.out_activation_])
        rates = per_layer("dropout", self.dropout, n - 1)
        values = {}
        for i in range(n):
            kernel, bias = weights[2 * i : 2 * i + 2]
            model._append(Dense(kernel.shape[1], names[i], name=f"dense_{i}"))
            values[f"dense_{i}/kernel"], values[f"dense_{i}/bias"] = kernel, bias
            if i < n - 1 and rates[i]:
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
                model._append(Dropout(rates[i], seed=seed + i, name=f"dropout_{i}"))
        model._dtype = str(weights[0].dtype)
        model._build((weights[0].shape[0],), values)
        selected = getattr(self, "_selected", None)
        if selected is not None:
            model._selected = self.n_features_in_, selected
        return model

    def _penalize(self, model: Perceptron) -> None:
        """Give the layers the penalties that the parameters say."""
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        n = len(dense)
        l1, group_l1, bias_l1, bias_l2 = (
            per_layer(p, getattr(self, p), n) for p in ("l1", "group_l1", "bias_l1", "bias_l2")
        )
        # A group stays as heavy as it was when `compact` takes some of its weights away.
        sizes = [*hidden_sizes(self.hidden_layer_sizes), self.n_outputs_]
        activity_l1, activity_l2 = (
            [*per_layer(p, getattr(self, p), n - 1), 0.0] for p in ("activity_l1", "activity_l2")
        )
        for i, layer in enumerate(dense):
            for what, l1_l2 in (
                ("kernel", (l1[i], self.alpha / 2)),
                ("bias", (bias_l1[i], bias_l2[i])),
                ("activity", (activity_l1[i], activity_l2[i])),
            ):
                penalty = L1L2(*l1_l2) if any(l1_l2) else None
                if penalty != getattr(layer, f"{what}_regularizer"):
                    setattr(layer, f"{what}_regularizer", penalty)
            if group_l1[i]:
                layer.kernel_regularizer = GroupL1(
                    group_l1[i], "rows", l1[i], self.alpha / 2, sizes=float(sizes[i])
                )

    def _take(self, model: Perceptron) -> None:
        """Make the attributes say what the model is."""
        weights = model.get_weights()
        self.coefs_, self.intercepts_ = weights[0::2], weights[1::2]
        self._selected = model.selected_inputs_

    def _data(self, part: Any, dtype: Any) -> Data:
        """(X, y, sample_weight or None) as the network reads them."""
        X, y, weight = part
        return Data(
            self._rows(X, dtype),
            self._targets(y, dtype),
            None if weight is None else np.ascontiguousarray(weight, dtype),
        )

    def _rows(self, X: Any, dtype: Any) -> Rows:
        selected = getattr(self, "_selected", None)
        X = X if selected is None else X[:, selected]
        if issparse(X):
            return inputs.check_sparse_features("X", X, None, dtype)
        return np.ascontiguousarray(X, dtype)

    def _forward(self, model: Perceptron, X: Any) -> Array:
        """The network's output (n, n_outputs_) for checked X."""
        rows = self._rows(X, model.dtype)
        out = np.empty((len(rows), self.n_outputs_), model.dtype)
        training.forward(model, rows, INFERENCE_BATCH_SIZE, out, 0)
        return out

    def _checked_rows(self, X: Any) -> Any:
        """`X` as a fitted estimator takes it."""
        check_is_fitted(self)
        return validate_data(
            self, X, accept_sparse=["csr", "csc"], dtype=self.coefs_[0].dtype, reset=False
        )

    def _outputs(self, X: Any) -> Array:
        X = self._checked_rows(X)
        return self._forward(self._fitted_network(), X)

    # ---------------------------------------- "sgd" and "adam"

    @property
    def _optimizer(self) -> Optimizer:
        model = getattr(self, "_model", None)
        if model is None or model.optimizer is None:
            raise AttributeError("_optimizer: there is none before a fit with 'sgd' or 'adam'")
        return model.optimizer  # type: ignore[no-any-return]

    def _loss_grad_lbfgs(
        self, packed: Array, X: Array, y: Array, sample_weight: Array | None, *buffers: object
    ) -> tuple[float, Array]:
        """scikit-learn's private function; its buffers are not needed."""
        objective = lbfgs.objective_of(self, X, y, sample_weight)
        coefs, intercepts = unpacked(packed, self.coefs_)
        value, gradient = objective.smooth(objective.flat(interleaved(coefs, intercepts)))
        gradients = objective.weights(gradient)
        return value, np.concatenate([g.ravel() for g in [*gradients[0::2], *gradients[1::2]]])

    # ---------------------------------------- both

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, validation_data: Any = None
    ) -> Any:
        """Fit the network to rows and targets.

        Parameters
        ----------
        X : (n, n_features) array, sparse matrix or dataframe
        y : (n,) or (n, n_outputs)
        sample_weight : (n,), optional
        validation_data : (X, y) or (X, y, sample_weight), optional
            `validation_curve_` gets the loss on it after every epoch, without penalties; with
            `early_stopping` it is what is stopped by, and no rows are set aside.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For parameters or data that do not fit, or if the weights become infinite.
        """
        return self._fit(X, y, sample_weight, False, validation_data)

    def _check_solver(self) -> bool:
        if self.solver not in STOCHASTIC:
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ---------------------------------------- what the network says

    def hidden_activations(self, X: Any) -> list[Array]:
        """The outputs of the hidden layers for `X`: [(n, units), ...], in inference."""
        X = self._checked_rows(X)
        y, found = X if self._selected is None else X[:, self._selected], []
        names = self._hidden_activations(len(self.coefs_) - 1)
        for kernel, bias, name in zip(self.coefs_, self.intercepts_, names, strict=False):
            # SciPy multiplies sparse rows, which the kernels of functional do not take.
            y = functional.activation_forward(y @ kernel + bias, ACTIVATIONS[name])
            found.append(y)
        return found

    @property
    def model_(self) -> Sequential:
        """The network as a `fastreg.Sequential` of its own."""
        check_is_fitted(self)
        return copy.deepcopy(self._fitted_network())

    @property
    def feature_importances_(self) -> Array:
        """How much each feature can move the outputs, (n_features_in_,), with sum 1.

        The sum of |weights| over all paths from the feature to an output: 0 for a feature that L1
        has cut off.
        """
        check_is_fitted(self)
        paths = np.ones(self.n_outputs_)
        for kernel in reversed(self.coefs_):
            paths = np.abs(kernel) @ paths
        found = np.zeros(self.n_features_in_)
        selected = self._selected
        found[slice(None) if selected is None else selected] = paths
        return found / (found.sum() or 1.0)

    @property
    def selected_features_(self) -> Array:
        """The indices of the features that any output depends on, rising."""
        return np.flatnonzero(self.feature_importances_)
