"""scikit-learn's MLPClassifier and MLPRegressor on fastreg's engine, and what those two lack.

Every parameter, attribute and method of scikit-learn 1.9's classes is here with the same meaning,
and the same `random_state` gives the same weights but for rounding: initial weights, order of the
rows and batches come from the same random numbers. `docs/estimators.md` has the few differences.

`alpha` is scikit-learn's: a batch's loss takes `alpha / 2 * sum(W^2) / (weights of its rows)`, so
its pull depends on the batch size. All penalties that scikit-learn lacks (`l1`, `bias_l2`, ...) are
fastreg's: added to the mean loss as they stand, `l1 * sum |W|` and `bias_l2 * sum b^2`.

>>> from sklearn.datasets import load_iris
>>> x, y = load_iris(return_X_y=True)
>>> model = MLPClassifier(16, l1=0.001, solver="lbfgs", random_state=0).fit(x, y)
>>> model.score(x, y) > 0.9, bool((model.coefs_[0] == 0).any())
(True, True)
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import xlogy
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    _fit_context,
    clone,
    is_classifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, check_scoring, get_scorer, get_scorer_names, r2_score
from sklearn.model_selection import check_cv, train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import _safe_indexing, check_random_state, column_or_1d, shuffle
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastreg import config, functional, inputs, owlqn, training
from fastreg.callbacks import Callback, CallbackList, Logs
from fastreg.inputs import Rows
from fastreg.layers import Dense, Dropout
from fastreg.models import INFERENCE_BATCH_SIZE, Sequential
from fastreg.optimizers import SGD, Adam, Optimizer
from fastreg.paths import (
    Fit,
    best_index,
    importances_of,
    n_params_of,
    one_standard_error_index,
    path_of,
)
from fastreg.regularizers import L1L2, GroupL1
from fastreg.sparsity import Compact, compacted
from fastreg.training import Data, Network, Task

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """scikit-learn's callbacks came with 1.9."""


Array = NDArray[Any]

# scikit-learn's names of activations and the engine's, which are taken as well.
ACTIVATIONS = {"identity": "linear", "logistic": "sigmoid", "exp": "exponential"}
ACTIVATIONS |= {a: a for a in inputs.ACTIVATIONS}

STOCHASTIC = ("sgd", "adam")
SMALLEST_RATE = 1e-6  # at which learning_rate="adaptive" ends the fit

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


# ------------------------------------------------ the network


def _deviance_offset(y: Array) -> Array:
    """What half the Poisson deviance has beside p - y log p."""
    offset: Array = xlogy(y, y) - y
    return offset


class _Loss(NamedTuple):
    """What the engine minimizes, and how scikit-learn's loss of a row follows from its own."""

    name: str
    half: bool = False  # scikit-learn takes half of it
    sums: bool = True  # over the outputs, where the engine takes the mean
    offset: Callable[[Array], Array] | None = None  # of the targets: added to each output's loss

    def factor(self, n_out: int) -> float:
        return (n_out if self.sums else 1) * (0.5 if self.half else 1.0)


_LOSSES = [
    _Loss("mean_squared_error", half=True),
    _Loss("binary_crossentropy"),
    _Loss("sparse_categorical_crossentropy", sums=False),
    _Loss("poisson", offset=_deviance_offset),
]
LOSSES = {loss.name: loss for loss in _LOSSES}

# The regressor's losses: the engine's name, and the activation of the outputs.
REGRESSION = {
    "squared_error": ("mean_squared_error", "identity"),
    "poisson": ("poisson", "exp"),
}

# A step of gradient descent with rate 1 moves a weight by its gradient.
DESCENT = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}


def _divided(layers: list[dict[str, Any]], total: float) -> list[dict[str, Any]]:
    """The layers with the kernels' L2 divided by the sum of the rows' weights."""
    return [
        {**layer, "kernel_l2": layer["kernel_l2"] / total} if "kernel_l2" in layer else layer
        for layer in layers
    ]


class _AlphaNetwork:
    """A network that weighs a batch as scikit-learn does.

    The loss of a batch is sum(w_i l_i) / sum(w_i), and the kernels' L2 is divided by sum(w_i), too;
    l_i is scikit-learn's. The engine is called for as many batches at once as have the same sum.
    """

    def __init__(self, network: Network, layers: list[dict[str, Any]]) -> None:
        self._network, self._layers, self._n_out = network, layers, layers[-1]["n_out"]
        self._total = 1.0  # that the engine has been told
        self._weights = np.empty(0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask before there is a network
            raise AttributeError(name)
        return getattr(self._network, name)

    def update_layers(self, layers: list[dict[str, Any]]) -> None:
        self._network.update_layers(layers)
        self._layers, self._total = layers, 1.0

    def _divide_by(self, total: float) -> None:
        if total != self._total and any(layer.get("kernel_l2") for layer in self._layers):
            self._network.update_layers(_divided(self._layers, total))
            self._total = total

    def _runs(
        self, x: Rows, weight: Array | None, index: Array | None, rows: range, factor: float
    ) -> Iterator[tuple[int, int, float, Array | None]]:
        """(first, last, sum of a batch's weights, weights for the engine) of batches in `rows`."""
        size = rows.step
        if weight is None:
            even = rows.stop - (rows.stop - rows.start) % size
            scaled = None if factor == 1 else self._constant(len(x), factor, x.dtype)
            if even > rows.start:
                yield rows.start, even, size, scaled
            if rows.stop > even:
                yield even, rows.stop, rows.stop - even, scaled
            return
        scaled = np.empty_like(weight)
        for first in rows:
            last = min(first + size, rows.stop)
            batch = slice(first, last) if index is None else index[first:last]
            total = float(weight[batch].sum(dtype=np.float64))
            if total:
                scaled[batch] = weight[batch] * (factor * (last - first) / total)
            yield first, last, total, scaled

    def _constant(self, n: int, value: float, dtype: Any) -> Array:
        if len(self._weights) != n or self._weights[0] != value:
            self._weights = np.full(n, value, dtype)
        return self._weights

    @staticmethod
    def _add_offset(loss: str, y: Array, weight: Array | None, rows: Any, ledger: Array) -> None:
        """To the sum of the rows' losses."""
        offset = LOSSES[loss].offset
        if offset is not None:
            each = offset(y[rows].astype(np.float64)).mean(axis=1)
            ledger[0] += each.sum() if weight is None else each @ weight[rows]

    def train(
        self,
        x: Rows,
        y: Array,
        sample_weight: Array | None,
        index: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        loss: str,
        optimizer: dict[str, Any],
        iteration: int,
        seed: int,
        accuracy: str | None,
        ledger: Array,
        n_threads: int,
        scheduled: Sequence[training.Scheduled] = (),
        extra: Sequence[training.Extra] = (),
        outputs: Array | None = None,
    ) -> int:
        steps = 0
        rows = range(start, stop, batch_size)
        factor = LOSSES[loss].factor(self._n_out)
        for first, last, total, weight in self._runs(x, sample_weight, index, rows, factor):
            wanted = training.n_steps(last - first, batch_size)
            if total == 0:  # rows that do not count
                ledger[5] += last - first
                steps += wanted
                continue
            self._divide_by(total)
            call = (loss, optimizer, iteration + steps, seed, accuracy, ledger, n_threads)
            left = [each._replace(values=each.values[steps:]) for each in scheduled]
            done = self._network.train(
                x,
                y,
                weight,
                index,
                first,
                last,
                batch_size,
                *call,
                left,
                extra,
                None if outputs is None else outputs[first - start : last - start],
            )
            steps += done
            seen = slice(first, min(last, first + done * batch_size))
            self._add_offset(loss, y, weight, seen if index is None else index[seen], ledger)
            if done < wanted:
                break
        return steps

    def evaluate(
        self,
        x: Rows,
        y: Array,
        sample_weight: Array | None,
        start: int,
        stop: int,
        batch_size: int,
        loss: str,
        accuracy: str | None,
        ledger: Array,
        n_threads: int,
        outputs: Array | None = None,
    ) -> None:
        rows = range(0, len(x), len(x))
        factor = LOSSES[loss].factor(self._n_out)
        ((*_, total, weight),) = self._runs(x, sample_weight, None, rows, factor)
        self._divide_by(total)
        call = (batch_size, loss, accuracy, ledger, n_threads, outputs)
        self._network.evaluate(x, y, weight, start, stop, *call)
        self._add_offset(loss, y, weight, slice(start, stop), ledger)


class _Perceptron(Sequential):
    """A `Sequential` whose batches are weighed as scikit-learn does, kernel L2 being alpha / 2."""

    dropout_seed = 0  # each layer has its own

    def _make_network(self) -> Network:
        network = super()._make_network()
        return _AlphaNetwork(network, self._describe())


def _interleaved(coefs: Sequence[Array], intercepts: Sequence[Array]) -> list[Array]:
    """[kernel, bias, kernel, bias, ...]"""
    return [array for pair in zip(coefs, intercepts, strict=True) for array in pair]


# ------------------------------------------------ the rules of a fit


class _Listeners:
    """scikit-learn's own callbacks (`set_callbacks`), told of the fit and of every epoch."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_epochs: int) -> None:
        self.estimator = estimator
        self.context: Any = None
        self.epoch: Any = None
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.facts = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        if hasattr(estimator, "_skl_callbacks"):
            self.context = estimator._init_callback_context(max_subtasks=n_epochs)
            self.context.call_on_fit_task_begin(**self.facts)

    def begin_epoch(self) -> None:
        if self.context is not None:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.facts)

    def end_epoch(self, model: Any) -> bool:
        """Whether one of them asks to stop."""
        if self.epoch is None:
            return False

        def fitted() -> dict[str, Any]:
            weights = model.get_weights()
            read = {"_selected": model.selected_inputs_, "_model": None}
            return {"coefs_": weights[0::2], "intercepts_": weights[1::2], **read}

        told = self.epoch.call_on_fit_task_end(**self.facts, reconstruction_attributes=fitted)
        return bool(told)

    def end(self) -> None:
        if self.context is not None:
            self.context.call_on_fit_task_end(**self.facts, reconstruction_attributes={})


class _Rules(Callback):
    """After an epoch: what scikit-learn's loop notes down, and when it stops."""

    def __init__(
        self, estimator: Any, n: int, score: Callable[[], float] | None, listeners: _Listeners
    ) -> None:
        super().__init__()
        self.estimator, self.n, self.score, self.listeners = estimator, n, score, listeners
        self.best: tuple[dict[str, Any], list[Array]] | None = None
        self.is_done = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.listeners.begin_epoch()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        self.note(logs["loss"], logs.get("val_data_loss"))
        if self.listeners.end_epoch(self.model):
            self.is_done = self.model.stop_training = True

    def diverged(self) -> None:
        """The epoch at hand came to no finite weights: the fit ends with it."""
        self.score, self.is_done = (lambda: float("nan")), True
        self.note(np.nan, None)

    def note(self, loss: float, validation_loss: float | None) -> None:
        e = self.estimator
        e.n_iter_ += 1
        e.loss_ = loss
        e.t_ += self.n
        e.loss_curve_.append(loss)
        if e.verbose:
            print(f"Iteration {e.n_iter_}, loss = {loss:.8f}")
        if validation_loss is not None:
            e.validation_curve_.append(validation_loss)
        self._count()
        if e.solver == "sgd" and e.learning_rate == "invscaling":
            self._set_rate(e.learning_rate_init / (e.t_ + 1) ** e.power_t)
        if e._no_improvement_count > e.n_iter_no_change:
            self._stop_or_slow_down()

    def _count(self) -> None:
        """Epochs in which the loss, or the validation score, has not become better by tol."""
        e = self.estimator
        if self.score is None:
            e._no_improvement_count = (
                e._no_improvement_count + 1 if e.loss_ > e.best_loss_ - e.tol else 0
            )
            e.best_loss_ = min(e.best_loss_, e.loss_)
            return
        score = float(self.score())
        e.validation_scores_.append(score)
        if e.verbose:
            print(f"Validation score: {score:f}")
        e._no_improvement_count = (
            e._no_improvement_count + 1 if score < e.best_validation_score_ + e.tol else 0
        )
        if score > e.best_validation_score_:
            e.best_validation_score_ = score
            self.best = self.model.get_config(), self.model.get_weights()

    def _stop_or_slow_down(self) -> None:
        e = self.estimator
        what = "Training loss" if self.score is None else "Validation score"
        text = (
            f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} "
            "consecutive epochs."
        )
        if e.solver == "sgd" and e.learning_rate == "adaptive":
            rate = self.model.optimizer.learning_rate
            if rate > SMALLEST_RATE:
                self._set_rate(rate / 5)
                e._no_improvement_count = 0
                if e.verbose:
                    print(f"{text} Setting learning rate to {rate / 5:f}")
                return
            text += " Learning rate too small."
        if e.verbose:
            print(f"{text} Stopping.")
        self.is_done = True
        self.model.stop_training = True

    def _set_rate(self, rate: float) -> None:
        self.model.optimizer.learning_rate = rate


# ------------------------------------------------ the estimators


def _arguments(local: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in local.items() if name not in ("self", "__class__")}


_NOT_NEGATIVE = [Interval(Real, 0, None, closed="left"), "array-like"]


class _MultilayerPerceptron(CallbackSupportMixin, BaseEstimator):
    """What the two classes share."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), "array-like"],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "l1": _NOT_NEGATIVE,
        "group_l1": _NOT_NEGATIVE,
        "bias_l1": _NOT_NEGATIVE,
        "bias_l2": _NOT_NEGATIVE,
        "activity_l1": _NOT_NEGATIVE,
        "activity_l2": _NOT_NEGATIVE,
        "l1_step": [StrOptions(set(inputs.L1_STEPS))],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "callbacks": [Callback, list, tuple, None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "compact": ["boolean"],
    }

    def __init__(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            setattr(self, name, value)

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
        hidden = _hidden_sizes(self.hidden_layer_sizes)
        anew = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        labels = y
        X, y, weight = self._validate_input(X, y, incremental, anew, sample_weight)
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        if anew:
            self._initialize([X.shape[1], *hidden, self.n_outputs_], X.dtype)
        validation = self._validation(validation_data, X.dtype)
        is_stochastic = self.solver in STOCHASTIC
        n_epochs = 1 if incremental else self.max_iter
        listeners = _Listeners(self, X, labels, sample_weight, n_epochs if is_stochastic else 0)
        if is_stochastic:
            self._fit_stochastic(X, y, weight, validation, n_epochs, incremental, listeners)
        else:
            self._fit_lbfgs(X, y, weight)
        listeners.end()
        if not all(np.isfinite(w).all() for w in [*self.coefs_, *self.intercepts_]):
            raise ValueError(NOT_FINITE)
        return self

    def _initialize(self, sizes: list[int], dtype: Any) -> None:
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._out_activation()
        self._selected: Array | None = None  # columns of X that are read; None: all
        self._model: _Perceptron | None = None
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
        names = _each("activation", self.activation, n_hidden)
        for name in names:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"activation: got {name!r}; one of {sorted(ACTIVATIONS)} is needed"
                )
        return names

    # ---------------------------------------- the network

    def _fitted_network(self) -> _Perceptron:
        """The model of the last fit, with the weights that stand in `coefs_` and `intercepts_`."""
        weights = _interleaved(self.coefs_, self.intercepts_)
        model: _Perceptron | None = getattr(self, "_model", None)
        if model is None or [w.shape for w in model.get_weights()] != [w.shape for w in weights]:
            return self._new_network(weights)
        model.set_weights(weights)
        return model

    def _new_network(self, weights: list[Array]) -> _Perceptron:
        """A model of these weights; no random number is drawn but the seeds of dropout."""
        n = len(weights) // 2
        model = _Perceptron.__new__(_Perceptron)
        model._start("perceptron", None)
        names = [ACTIVATIONS[name] for name in self._hidden_activations(n - 1)]
        names.append(ACTIVATIONS[self.out_activation_])
        rates = _each("dropout", self.dropout, n - 1)
        values = {}
        for i in range(n):
            kernel, bias = weights[2 * i : 2 * i + 2]
            model._append(Dense(kernel.shape[1], names[i], name=f"dense_{i}"))
            values[f"dense_{i}/kernel"], values[f"dense_{i}/bias"] = kernel, bias
            if i < n - 1 and rates[i]:
                seed = int(check_random_state(self.random_state).randint(2**31 - 1))
                model._append(Dropout(rates[i], seed=seed + i, name=f"dropout_{i}"))
        model._dtype = str(weights[0].dtype)
        model._build(weights[0].shape[0], values)
        selected = getattr(self, "_selected", None)
        if selected is not None:
            model._selected = self.n_features_in_, selected
        return model

    def _penalize(self, model: _Perceptron) -> None:
        """Give the layers the penalties that the parameters say."""
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        n = len(dense)
        l1, group_l1, bias_l1, bias_l2 = (
            _each(p, getattr(self, p), n) for p in ("l1", "group_l1", "bias_l1", "bias_l2")
        )
        # A group stays as heavy as it was when `compact` takes some of its weights away.
        sizes = [*_hidden_sizes(self.hidden_layer_sizes), self.n_outputs_]
        activity_l1, activity_l2 = (
            [*_each(p, getattr(self, p), n - 1), 0.0] for p in ("activity_l1", "activity_l2")
        )
        for i, layer in enumerate(dense):
            for what, l1_l2 in (
                ("kernel", (l1[i], self.alpha / 2)),
                ("bias", (bias_l1[i], bias_l2[i])),
                ("activity", (activity_l1[i], activity_l2[i])),
            ):
                setattr(layer, f"{what}_regularizer", L1L2(*l1_l2))
            if group_l1[i]:
                layer.kernel_regularizer = GroupL1(
                    group_l1[i], "rows", l1[i], self.alpha / 2, sizes=float(sizes[i])
                )

    def _take(self, model: _Perceptron) -> None:
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

    def _forward(self, model: _Perceptron, X: Any) -> Array:
        """The network's output (n, n_outputs_) for checked X."""
        rows = self._rows(X, model.dtype)
        out = np.empty((len(rows), self.n_outputs_), model.dtype)
        training.forward(model, rows, INFERENCE_BATCH_SIZE, out, 0)
        return out

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse=["csr", "csc"], dtype=self.coefs_[0].dtype, reset=False
        )
        return self._forward(self._fitted_network(), X)

    # ---------------------------------------- "sgd" and "adam"

    @property
    def _optimizer(self) -> Optimizer:
        model = getattr(self, "_model", None)
        if model is None or model.optimizer is None:
            raise AttributeError("_optimizer: there is none before a fit with 'sgd' or 'adam'")
        return model.optimizer  # type: ignore[no-any-return]

    def _new_optimizer(self) -> Optimizer:
        rate, l1_step = self.learning_rate_init, self.l1_step
        if self.solver == "sgd":
            return SGD(rate, self.momentum, self.nesterovs_momentum, l1_step=l1_step)
        return Adam(rate, self.beta_1, self.beta_2, self.epsilon, l1_step=l1_step)

    def _fit_stochastic(
        self,
        X: Array,
        y: Array,
        weight: Array | None,
        validation: Any,
        n_epochs: int,
        incremental: bool,
        listeners: _Listeners,
    ) -> None:
        if self.early_stopping and validation is None:
            (X, y, weight), validation = self._split(X, y, weight)
        n = X.shape[0]
        batch_size = self._batch_size(n)
        dtype = self.coefs_[0].dtype
        model = self._fitted_network() if incremental else None
        if model is None or model.optimizer is None:
            model = self._new_network(_interleaved(self.coefs_, self.intercepts_))
            model.compile(self._new_optimizer(), self._loss(), n_threads=self.n_threads)
        self._penalize(model)
        self._model = model

        score = self._scorer(*validation) if self.early_stopping else None
        rules = _Rules(self, n, score, listeners)
        given = [] if self.callbacks is None else self.callbacks
        given = [given] if isinstance(given, Callback) else list(given)
        self.n_iter_ = 0
        try:
            training.fit(
                model,
                Task(self._loss(), None, ()),
                self._data((X, y, weight), dtype),
                None if validation is None else self._data(validation, dtype),
                epochs=range(n_epochs),
                batch_size=batch_size,
                shuffle=self._order(n) if self.shuffle else False,
                validation_batch_size=INFERENCE_BATCH_SIZE,
                validation_freq=1,
                callbacks=CallbackList(
                    [*given, *([Compact()] if self.compact else []), rules],
                    model,
                    {
                        "epochs": n_epochs,
                        "initial_epoch": 0,
                        "verbose": 0,
                        "steps": training.n_steps(n, batch_size),
                        "metrics": Task(self._loss(), None, ()).keys(),
                    },
                ),
                progress=None,
                resume=None,
            )
        except FloatingPointError:
            if rules.best is None:
                raise ValueError(NOT_FINITE) from None
            rules.diverged()
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=5)
        if rules.best is not None:
            model.go_back(*rules.best)
        self._take(model)
        if self.n_iter_ == self.max_iter and not incremental and not rules.is_done:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _batch_size(self, n: int) -> int:
        if self.batch_size == "auto":
            return min(200, n)
        if self.batch_size > n:
            warnings.warn(
                f"batch_size: got {self.batch_size}, more than the {n} rows; they make one batch",
                stacklevel=6,
            )
        return min(int(self.batch_size), n)

    def _order(self, n: int) -> Callable[[], Array]:
        """The order of the rows, epoch after epoch, as scikit-learn draws it."""
        rows = np.arange(n, dtype=np.int64)

        def order() -> Array:
            nonlocal rows
            rows = np.asarray(shuffle(rows, random_state=self._random_state))
            return rows

        return order

    def _split(self, X: Array, y: Array, weight: Array | None) -> tuple[Any, Any]:
        """Rows to train on and rows to stop by, as scikit-learn draws them."""
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if self._stratifies and self.n_outputs_ == 1 else None,
        )
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        missing = [None] * (3 - len(arrays))
        return (*parts[0::2], *missing), (*parts[1::2], *missing)

    def _scorer(self, X: Array, y: Array, weight: Array | None) -> Callable[[], float]:
        """What `early_stopping` asks after every epoch."""
        truth = self._labels(y)

        def score() -> float:
            model = self._model
            assert model is not None
            if self.scoring is None:
                outputs = self._forward(model, X)
                if not np.isfinite(outputs).all():
                    return float("nan")
                return float(self._score(truth, self._decide(outputs), weight))
            self._take(model)
            scorer = get_scorer(self.scoring) if isinstance(self.scoring, str) else self.scoring
            more = {} if weight is None else {"sample_weight": weight}
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "X does not have valid feature names")
                return float(scorer(self, X, truth, **more))

        return score

    # ---------------------------------------- "lbfgs"

    def _fit_lbfgs(self, X: Array, y: Array, weight: Array | None) -> None:
        if np.any(self.dropout):
            raise ValueError("dropout: solver 'lbfgs' has none; take 'adam' or 'sgd'")
        if np.any(self.group_l1):
            raise ValueError("group_l1: solver 'lbfgs' has none; take 'adam' or 'sgd'")
        start = _packed(self.coefs_, self.intercepts_).astype(np.float64)
        l1 = self._flat_l1()
        smooth = self._smooth(X, y, weight)
        if l1.any():
            with config.one_blas_thread():
                found = owlqn.minimize(
                    smooth, start, l1, tol=self.tol, max_iter=self.max_iter, max_fun=self.max_fun
                )
            w, self.loss_, n_iter = found.w, found.value, found.n_iter
            failed = "" if found.converged else "stopped before its tolerance was reached"
        else:
            options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
            with config.one_blas_thread():
                result = minimize(smooth, start, method="L-BFGS-B", jac=True, options=options)
            w, self.loss_, n_iter = result.x, float(result.fun), result.nit
            failed = "" if result.success else f"(status={result.status}): {result.message}"
        if not np.isfinite(self.loss_):
            raise ValueError(NOT_FINITE)
        self.n_iter_ = min(n_iter, self.max_iter)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        dtype = self.coefs_[0].dtype
        self.coefs_, self.intercepts_ = _unpacked(w.astype(dtype), self.coefs_)
        self._model = self._new_network(_interleaved(self.coefs_, self.intercepts_))
        if failed:
            warnings.warn(
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) {failed}\n"
                f"Increase the number of iterations (max_iter={self.max_iter}) or scale the data.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _flat_l1(self) -> Array:
        n = len(self.coefs_)
        pairs = [("l1", self.coefs_), ("bias_l1", self.intercepts_)]
        return np.concatenate(
            [
                np.full(w.size, l1)
                for name, arrays in pairs
                for w, l1 in zip(arrays, _each(name, getattr(self, name), n), strict=True)
            ]
        )

    def _smooth(
        self, X: Array, y: Array, weight: Array | None
    ) -> Callable[[Array], tuple[float, Array]]:
        """The loss over all rows with all penalties but L1, and its gradient, of flat weights."""
        weights = [w.astype(np.float64) for w in _interleaved(self.coefs_, self.intercepts_)]
        model = self._new_network(weights)
        self._penalize(model)
        for layer in model.layers:
            for what in ("kernel_regularizer", "bias_regularizer"):
                setattr(layer, what, L1L2(0.0, getattr(layer, what).l2))
        data = self._data((X, y, weight), np.float64)
        n = len(data.x)
        threads = self.n_threads or config.get_num_threads()

        def smooth(flat: Array) -> tuple[float, Array]:
            coefs, intercepts = _unpacked(flat, self.coefs_)
            ledger = np.zeros(6)
            with model.lock:
                network = model.network
                network.set_weights(_interleaved(coefs, intercepts))
                call: tuple[Any, ...] = (self._loss(), DESCENT, 0, 0, None, ledger, threads)
                if not network.train(*data, None, 0, n, n, *call):
                    return np.inf, np.zeros_like(flat)
                moved = network.get_weights()
            return float(ledger[:4].sum() / n), flat - _packed(moved[0::2], moved[1::2])

        return smooth

    def _loss_grad_lbfgs(
        self, packed: Array, X: Array, y: Array, sample_weight: Array | None, *buffers: object
    ) -> tuple[float, Array]:
        """scikit-learn's private function; its buffers are not needed."""
        return self._smooth(X, y, sample_weight)(packed)

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
        check_is_fitted(self)
        X = validate_data(
            self, X, accept_sparse=["csr", "csc"], dtype=self.coefs_[0].dtype, reset=False
        )
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


def _hidden_sizes(given: Any) -> list[int]:
    sizes = list(given) if hasattr(given, "__iter__") else [given]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def _each(name: str, value: Any, n: int) -> list[Any]:
    """One value for each of n layers, from one for all or a list."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name}: got {len(value)} values; {n} are needed, one a layer")
    return list(value)


def _packed(coefs: Sequence[Array], intercepts: Sequence[Array]) -> Array:
    """All weights as one vector, in scikit-learn's order."""
    return np.concatenate([w.ravel() for w in [*coefs, *intercepts]])


def _unpacked(flat: Array, coefs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The kernels, shaped as `coefs`, and the biases of a vector like that of `_packed`."""
    shapes = [*(w.shape for w in coefs), *((w.shape[1],) for w in coefs)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    arrays = [
        part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
    ]
    return arrays[: len(coefs)], arrays[len(coefs) :]


# ------------------------------------------------ classifier


class MLPClassifier(ClassifierMixin, _MultilayerPerceptron):
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
        hidden unit: these go as one (the group lasso, see `fastreg.GroupL1`). Not for "lbfgs".
    activity_l1, activity_l2 : float or list of float, default 0
        The same of the hidden layers' outputs, divided by the rows of the batch.
    l1_step : "proximal", "cumulative" or "sign"
        How "sgd" and "adam" apply L1; the first two reach exact zeros. "lbfgs" becomes OWL-QN
        where there is L1, and reaches them, too.
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
        **_MultilayerPerceptron._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }
    _stratifies = True

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
        super().__init__(**_arguments(locals()))

    def _loss(self) -> str:
        if self.out_activation_ == "softmax":
            return "sparse_categorical_crossentropy"
        return "binary_crossentropy"

    def _out_activation(self) -> str:
        # One unit says which of two classes, and each label of several by itself.
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _targets(self, y: Array, dtype: Any) -> Array:
        if self.out_activation_ == "softmax":
            return np.asarray(y.argmax(axis=1), np.int32)
        return np.ascontiguousarray(y, dtype)

    def _labels(self, y: Array) -> Array:
        labels: Array = self._label_binarizer.inverse_transform(y)
        return labels

    def _decide(self, outputs: Array) -> Array:
        return self._labels(outputs.ravel() if self.n_outputs_ == 1 else outputs)

    def _score(self, truth: Array, found: Array, weight: Array | None) -> float:
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
        check_classification_targets(y)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
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
        y = self._label_binarizer.transform(y).astype(bool)
        return X, y, weight

    def _validation(self, given: Any, dtype: Any) -> Any:
        if given is None:
            return None
        X, y, weight = _validation_parts(given)
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=dtype, reset=False
        )
        weight = None if weight is None else _check_sample_weight(weight, X)
        return X, self._label_binarizer.transform(y).astype(bool), weight

    def predict(self, X: Any) -> Array:
        """The classes of the rows of `X`, (n,), or the labels, (n, n_outputs)."""
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

    @available_if(_MultilayerPerceptron._check_solver)
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
            self._label_binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
        return self._fit(X, y, sample_weight, True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


# ------------------------------------------------ regressor


class MLPRegressor(RegressorMixin, _MultilayerPerceptron):
    """scikit-learn's MLPRegressor on fastreg's engine.

    `loss` stands first, as in scikit-learn >= 1.7: "squared_error" or "poisson", half the Poisson
    deviance of targets of at least 0 from the exponential of the network's output, summed over the
    outputs. The squared error of several outputs is half their sum of squares, the function whose
    gradient scikit-learn uses; its own value is smaller by the number of outputs (its issue 8349).

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
        hidden unit: these go as one (the group lasso, see `fastreg.GroupL1`). Not for "lbfgs".
    activity_l1, activity_l2 : float or list of float, default 0
        The same of the hidden layers' outputs, divided by the rows of the batch.
    l1_step : "proximal", "cumulative" or "sign"
        How "sgd" and "adam" apply L1; the first two reach exact zeros. "lbfgs" becomes OWL-QN
        where there is L1, and reaches them, too.
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
        **_MultilayerPerceptron._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION))],
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
    ) -> None:
        super().__init__(**_arguments(locals()))

    def _loss(self) -> str:
        return REGRESSION[self.loss][0]

    def _out_activation(self) -> str:
        return REGRESSION[self.loss][1]

    def _targets(self, y: Array, dtype: Any) -> Array:
        return np.ascontiguousarray(y, dtype)

    def _labels(self, y: Array) -> Array:
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
        X, y, weight = _validation_parts(given)
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

    @available_if(_MultilayerPerceptron._check_solver)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """One epoch on these rows, from the weights and the optimizer's state of the last call.

        Parameters
        ----------
        X, y, sample_weight : as for `fit`
        """
        return self._fit(X, y, sample_weight, True)


def _validation_parts(given: Any) -> tuple[Any, Any, Any]:
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError("validation_data: (X, y) or (X, y, sample_weight) is needed")
    return (*given, None) if len(given) == 2 else tuple(given)


# ------------------------------------------------ the strength of L1 by cross-validation


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
        checked, _ = validate_data(self, X, y, accept_sparse="csr", multi_output=True)
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
        hidden = _hidden_sizes(self.estimator_.hidden_layer_sizes)
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
        validate_data(self, X, accept_sparse="csr", reset=False)
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
        tags.target_tags.multi_output = True
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


# ------------------------------------------------ ONNX


def register_onnx_converters() -> None:
    """Teach skl2onnx both classes, alone and in pipelines: `skl2onnx.to_onnx(pipeline, X[:1])`.

    Raises
    ------
    ImportError
        Without skl2onnx.
    """
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator
    from skl2onnx.operator_converters.multilayer_perceptron import convert_sklearn_mlp_classifier

    options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True]}
    update_registered_converter(
        MLPClassifier,
        "FastregMLPClassifier",
        shape_calculator.calculate_linear_classifier_output_shapes,
        lambda scope, operator, container: convert_sklearn_mlp_classifier(
            scope, _Plain(operator), container
        ),
        options={**options, "nocl": [True, False]},
    )
    update_registered_converter(
        MLPRegressor, "FastregMLPRegressor", _regressor_shapes, _convert_regressor
    )


class _Plain:
    """An operator of skl2onnx whose network reads all features and has one name of activation."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator
        self.raw_operator = copy.copy(operator.raw_operator)
        model = self.raw_operator
        theirs = {"linear": "identity", "sigmoid": "logistic"}
        names = {theirs.get(n, n) for n in model._hidden_activations(len(model.coefs_) - 1)}
        if len(names) > 1 or not names <= {"identity", "logistic", "tanh", "relu", "softmax"}:
            raise NotImplementedError(
                f"activation: got {model.activation!r}; skl2onnx takes one of identity, logistic, "
                "tanh, relu for all layers; fastreg.to_onnx(estimator.model_) takes a list"
            )
        binarizer = getattr(model, "_label_binarizer", None)
        if model.n_outputs_ == 2 and binarizer is not None and binarizer.y_type_ != "multiclass":
            raise NotImplementedError(
                "y: skl2onnx takes two labels for two classes; fastreg.to_onnx(estimator.model_) "
                "gives their probabilities"
            )
        model.activation = names.pop() if names else "identity"
        if model._selected is not None:
            kernel = np.zeros((model.n_features_in_, model.coefs_[0].shape[1]))
            kernel[model._selected] = model.coefs_[0]
            model.coefs_ = [kernel, *model.coefs_[1:]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    x = operator.inputs[0].type
    kind = DoubleTensorType if isinstance(x, DoubleTensorType) else FloatTensorType
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = kind([rows, operator.raw_operator.n_outputs_])


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    # skl2onnx's own converter lays several outputs out as one column.
    from onnx import TensorProto
    from skl2onnx.common._apply_operation import apply_identity
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.operator_converters.multilayer_perceptron import _predict

    x = operator.inputs[0]
    dtype = guess_proto_type(x.type)
    dtype = dtype if dtype == TensorProto.DOUBLE else TensorProto.FLOAT
    y = _predict(scope, x.full_name, container, _Plain(operator).raw_operator, dtype)
    apply_identity(scope, y, operator.outputs[0].full_name, container)
