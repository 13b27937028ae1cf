"""MLPRegressor."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastreg.estimators.base import MultilayerPerceptron
from fastreg.estimators.parameters import CONSTRAINTS, REGRESSION, arguments_of, validation_parts
from fastreg.inputs import LossLike
from fastreg.losses import Huber, Quantile

Array = NDArray[Any]


class MLPRegressor(RegressorMixin, MultilayerPerceptron):
    """scikit-learn's MLPRegressor on fastreg's engine.

    `loss` stands first, as in scikit-learn >= 1.7: "squared_error" or "poisson", half the Poisson
    deviance of targets of at least 0 from the exponential of the network's output, summed over the
    outputs; or, for outliers and for more than the mean, "absolute_error" (the median), "huber" and
    "quantile". The squared error of several outputs is half their sum of squares, the function
    whose gradient scikit-learn uses; its own value is smaller by the number of outputs (its issue
    8349).

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
    delta : float above 0, default 1
        For "huber": the error from which on it grows as its size, and not as its square.
    quantile : float in (0, 1), default 0.5
        For "quantile": which one of y is wanted at each x.

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
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 10))
    >>> model = MLPRegressor("squared_error", 8, l1=0.03, solver="lbfgs", max_iter=1000)
    >>> model = model.set_params(random_state=0).fit(x, np.tanh(x[:, 0]) + x[:, 3] ** 2)
    >>> model.selected_features_
    array([0, 3])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **CONSTRAINTS,
        "loss": [StrOptions(set(REGRESSION))],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }
    _stratifies = False

    def __init__(
        self,
        loss: str = "squared_error",
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
        scoring: Any = None,
        callbacks: Any = None,
        n_threads: int | None = None,
        dtype: str | None = None,
        compact: bool = False,
        delta: float = 1.0,
        quantile: float = 0.5,
    ) -> None:
        super().__init__(**arguments_of(locals()))

    def _loss(self) -> str | LossLike:
        if self.loss == "huber":
            return Huber(self.delta)
        return Quantile(self.quantile) if self.loss == "quantile" else REGRESSION[self.loss][0]

    def _out_activation(self) -> str:
        return REGRESSION[self.loss][1]

    def _n_outputs(self, y: Array) -> int:
        return int(y.shape[1])

    def _targets(self, y: Array, dtype: Any) -> Array:
        return np.ascontiguousarray(y, dtype)

    def _decoded(self, y: Array) -> Array:
        return y

    def _decide(self, outputs: Array) -> Array:
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def _score(self, truth: Array, found: Array, weight: Array | None) -> float:
        return float(r2_score(truth, found, sample_weight=weight))

    def _validate_input(
        self, X: Any, y: Any, incremental: bool, anew: bool, sample_weight: Any
    ) -> tuple[Any, Array, Array | None]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=self.dtype or (np.float64, np.float32),
            reset=anew,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._check_range(y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        return X, y.reshape(len(y), -1), weight

    def _check_range(self, y: Array) -> None:
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f"y: got {y.min():g}; loss='poisson' needs numbers of at least 0")

    def _validation(self, given: Any, dtype: Any) -> Any:
        if given is None:
            return None
        X, y, weight = validation_parts(given)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=dtype,
            reset=False,
        )
        self._check_range(y)
        weight = None if weight is None else _check_sample_weight(weight, X)
        return X, y.reshape(len(y), -1), weight

    def predict(self, X: Any) -> Array:
        """The predicted values for the rows of `X`, (n,) or (n, n_outputs)."""
        return self._decide(self._outputs(X))

    @available_if(MultilayerPerceptron._check_solver)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """One epoch on these rows, from the weights and the optimizer's state of the last call.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        """
        return self._fit(X, y, sample_weight, True)
