"""The regularization path: one network under every strength of L1, from none of it to too much.

>>> import numpy as np, fastreg as fr
>>> x = np.random.default_rng(0).normal(size=(50, 3))
>>> dense = fr.Dense(1, kernel_regularizer="l1")
>>> model = fr.Sequential([fr.Input((3,), dtype="float64"), dense])
>>> model.compile("sgd", "mse")
>>> path = fr.regularization_path(model, x, 2 * x[:, 0] + x[:, 1], n=4, eps=0.1, verbose=0)
>>> path.selected_inputs.sum(axis=1)
array([0, 1, 2, 2])
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg import config
from fastreg.callbacks import progress_line, resolve_verbose
from fastreg.curvature import Curvature
from fastreg.errors import check_choice, check_int, check_real
from fastreg.inputs import is_sparse
from fastreg.layers import Dense
from fastreg.models import Sequential
from fastreg.objective import polish
from fastreg.regularizers import GroupL1
from fastreg.serialization import check_bool
from fastreg.sparsity import State, Strength, check_built, compact, compacted, sizes

Array = NDArray[Any]
Scoring = Callable[[Sequential, Array, Array], float]
Fold = tuple[Array, Array]  # rows to train on, rows to score

SOLVERS = ("auto", "polish", "fit")
# A second derivative costs as much as some tens of gradients, and saves some at each strength.
SIZE_A_STRENGTH = 20


@dataclass(frozen=True, eq=False)
class RegularizationPath:
    """What `regularization_path` or an estimator found, strengths falling from the first.

    Attributes
    ----------
    strengths : (n,)
    nonzeros : (n,) int
        Weights of the penalized kernels that are not 0; `n_penalized` is how many there are.
    n_params : (n,) int
        Of the compact models.
    selected_inputs : (n, n_in) bool
        Which columns of x are read.
    importances : (n, n_in)
        Norm of the first kernel's row of each column of x.
    losses : (n,)
        On the rows that were trained on, with penalties.
    data_losses : (n,) or None
        The same without. None for an estimator's.
    kkt_residuals : (n,) or None
        How far each is from a minimum. None for an estimator's, and under constraints.
    feature_names : list of str or None
        The columns' names, if x has some.
    fold_scores : (n, n_folds) or None
        What was scored on rows not trained on, higher is better; one fold for `validation_data`.
    """

    strengths: Array
    nonzeros: Array
    n_penalized: int
    n_params: Array
    selected_inputs: Array
    importances: Array
    losses: Array
    data_losses: Array | None
    kkt_residuals: Array | None
    fold_scores: Array | None
    feature_names: list[str] | None
    _states: list[State]
    _backend: str

    def __len__(self) -> int:
        return len(self.strengths)

    def __repr__(self) -> str:
        high, low = self.strengths[0], self.strengths[-1]
        return f"<RegularizationPath of {len(self)} strengths, {high:.3g} to {low:.3g}>"

    @property
    def scores(self) -> Array | None:
        """(n,) means of `fold_scores`."""
        return None if self.fold_scores is None else np.asarray(self.fold_scores.mean(axis=1))

    @property
    def scores_std(self) -> Array | None:
        """(n,) standard deviations of `fold_scores` over the folds, 0 for a single one."""
        return None if self.fold_scores is None else np.asarray(self.fold_scores.std(axis=1))

    @property
    def weights(self) -> list[list[Array]]:
        """The weights of each compact model, as `get_weights`."""
        return [self.model_at(i).get_weights() for i in range(len(self))]

    @property
    def coefficients(self) -> Array:
        """(n, n_in, n_out) kernels of a model of one Dense layer, 0 for columns not read.

        AttributeError for a deeper one, whose compact models have kernels of different sizes.
        """
        models = [self.model_at(i) for i in range(len(self))]
        if len([layer for layer in models[0].layers if isinstance(layer, Dense)]) > 1:
            raise AttributeError("coefficients: the model has more than one Dense layer")
        found = np.zeros((*self.importances.shape, models[0].output_shape[-1]))
        for kernel, model in zip(found, models, strict=True):
            read, values = _first_kernel(model)
            kernel[read] = values
        return found

    @property
    def best_index(self) -> int:
        """Of the highest score; of the largest strength among equals. ValueError without scores."""
        return best_index(self._scored())

    @property
    def one_standard_error_index(self) -> int:
        """Of the largest strength whose score is within a standard error of the best.

        The rule of Breiman, Friedman, Olshen and Stone (1984): the simplest model that the folds
        cannot tell from the best. ValueError without two folds at least.
        """
        return one_standard_error_index(self._scored())

    def _scored(self) -> Array:
        if self.fold_scores is None:
            raise ValueError("scores: got none; validation_data, validation_split or cv is needed")
        return self.fold_scores

    def model_at(self, index: int) -> Sequential:
        """The compact model of strengths[index], fitted on all rows, a new one at each call."""
        model = Sequential(backend=self._backend)
        model.become(self._states[index])
        return model


def best_index(fold_scores: Array) -> int:
    """Of the highest mean of (n, n_folds) scores, the first one among equals.

    >>> best_index(np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 1.0]]))
    1
    """
    return int(np.argmax(fold_scores.mean(axis=1)))


def one_standard_error_index(fold_scores: Array) -> int:
    """Of the first mean of (n, n_folds) scores within a standard error of the best.

    Raises
    ------
    ValueError
        For a single fold.

    Examples
    --------
    >>> one_standard_error_index(np.array([[0.0, 0.0], [0.5, 1.5], [1.0, 2.0]]))
    1
    """
    if fold_scores.shape[1] < 2:
        raise ValueError("one_standard_error_index: there is one fold; cv=2 or more is needed")
    means, best = fold_scores.mean(axis=1), fold_scores[best_index(fold_scores)]
    error = best.std(ddof=1) / np.sqrt(len(best))
    return int(np.argmax(means >= best.mean() - error))


def regularization_path(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    strengths: ArrayLike | None = None,
    n: int = 50,
    eps: float = 1e-3,
    *,
    solver: str = "auto",
    epochs: int = 100,
    warm_epochs: int | None = None,
    batch_size: int = 32,
    tol: float = 1e-3,
    max_iter: int = 1000,
    warm_start: bool = True,
    sample_weight: ArrayLike | None = None,
    validation_split: float = 0.0,
    validation_data: Sequence[ArrayLike] | None = None,
    cv: int | Iterable[Fold] | None = None,
    scoring: Scoring | None = None,
    n_jobs: int | None = None,
    verbose: int | str = "auto",
) -> RegularizationPath:
    """Fit `model` under each of many strengths of L1, each from where the one before ended.

    A strength is the l1 and group_l1 of the kernel regularizers: the largest of the model's becomes
    it, the others keep their ratios to that; l2, biases and activities keep their regularizers.
    With one layer and `fr.L1` it is scikit-learn's alpha of `lasso_path`, times 2 for its halved
    loss.

    *lambda_max* is where the strengths begin if none are given: the smallest that empties the
    penalized kernels. With one Dense layer that is known: with the kernel at 0 and the biases
    fitted, the largest gradient of the loss by a weight, or what a group's gradients come to
    (Simon, Friedman, Hastie and Tibshirani 2013). In a deeper network with all its kernels at 0 no
    gradient reaches them, so 0 is a minimum under any strength, and the question is when training
    gets there: lambda_max is the first strength of the path that leaves nothing, going up from the
    network that was fitted without L1.

    For the same reason the order of the fits differs. One Dense layer goes from lambda_max down,
    and weights come in. A deeper network goes from the smallest strength up and is made compact
    after each fit, as what has died cannot come back: so do LassoNet's paths (Lemhadri, Ruan,
    Abraham and Tibshirani 2021). Where to begin is found by a first climb in doubled strengths.
    Whatever the order, the result lists strengths from the largest down.

    Parameters
    ----------
    model : Sequential, built and compiled
        Where fits begin; it stays as it is.
    x : (n_rows, n_in), y : targets
        x may be a matrix or an array of scipy.sparse, which is never made dense.
    strengths : sequence of float, optional
        Instead of `n` from lambda_max down to `eps` lambda_max, evenly in their logarithm.
    solver : "auto", "polish" or "fit"
        "polish": `model.polish` at each strength. "fit": `model.fit`, with the model's optimizer,
        whose l1_step must be "proximal" or "cumulative", also under constraints. "auto": "polish"
        for one Dense layer.
    epochs, warm_epochs, batch_size : int
        Of "fit": epochs of the first fit, and of those that go on from another. None: as many as
        make 4 `epochs` along the path, 1 at least; nearer strengths need fewer.
    tol, max_iter : float, int
        Of "polish"; `tol` is a share of the strength.
    warm_start : bool, default True
        False: each strength from `model`'s own weights, side by side on threads.
    sample_weight : (n_rows,), optional
        Weight of each row in the loss that is fitted; scores do not weigh.
    validation_split, validation_data : as for `fit`, optional
        Rows to score on.
    cv : int or iterable of (train rows, test rows), optional
        Folds to score on, besides the fits to all rows: so many, shuffled, with about equal shares
        of each class, or given.
    scoring : callable, optional
        scoring(model, x, y) -> float, higher is better. None: the first metric of `compile`, or
        the negative data loss if there is none.
    n_jobs : int, optional
        Folds (or strengths) on so many threads, one thread each. None: `get_num_threads()`.
    verbose : 0, 1, 2 or "auto"
        1: a moving line.

    Raises
    ------
    ValueError, TypeError
        For an argument that does not fit, or a model without L1 on a kernel.
    FloatingPointError
        If a loss is not finite any more.

    Examples
    --------
    See `fastreg.paths`.
    """
    check_built("regularization_path", model)
    if len(model.input_shape) > 2:
        raise ValueError(f"model: got one that reads {model.input_shape}; (None, n_in) is needed")
    strength = Strength("regularization_path", model)
    shallow = sum(bool(layer.weight_names) for layer in model.layers) == 1
    solver = check_choice("solver", solver, SOLVERS)
    if solver == "auto":
        solver = "polish" if shallow else "fit"
    if model.optimizer is None or model.loss is None:
        raise ValueError("regularization_path: call compile() with a loss first")
    if solver == "fit" and model.optimizer.l1_step == "sign":
        raise ValueError(
            "l1_step: got 'sign' of the model's optimizer; 'proximal' or 'cumulative' is needed"
        )
    epochs = check_int("epochs", epochs, low=1)
    n = check_int("n", n, low=1)
    given = None if strengths is None else _check_strengths(strengths)
    if warm_epochs is None:
        warm_epochs = max(1, round(4 * epochs / (n if given is None else len(given))))
    fitter = _Fitter(
        strength=strength,
        shallow=shallow,
        solver=solver,
        epochs=epochs,
        warm_epochs=check_int("warm_epochs", warm_epochs, low=1),
        batch_size=check_int("batch_size", batch_size, low=1),
        tol=check_real("tol", tol, low=0.0),
        max_iter=check_int("max_iter", max_iter, low=1),
        scoring=scoring or _default_score,
    )
    eps = check_real("eps", eps, low=0.0, high=1.0, low_open=True, high_open=True)
    warm_start = check_bool("warm_start", warm_start)
    n_jobs = config.get_num_threads() if n_jobs is None else check_int("n_jobs", n_jobs, low=1)

    names = [str(name) for name in getattr(x, "columns", [])] or None
    data = _checked(_free(model) if solver == "fit" else model, x, y, sample_weight)
    train, scored = _split(model, data, validation_split, validation_data)
    folds = [] if cv is None else _folds(cv, data, model)

    threads = model.state()[0]["compile"]["n_threads"]
    show = resolve_verbose(verbose) == 1
    whole: list[Fit] | None = None
    base = None
    if given is None:
        ratio = eps ** (1 / max(n - 1, 1))
        base, top = fitter.largest(_copy(model), train)
        if shallow or not warm_start:
            given = top * ratio ** np.arange(n)
        else:
            whole = fitter.climb(base, top * eps / 2, ratio, n, train, scored)
            given = np.array([fit.strength for fit in whole])

    jobs = [] if whole is not None else [_Job(model, train, scored, None, given)]
    jobs += [_Job(model, data, None, fold, given) for fold in folds]
    if not warm_start:
        jobs = [job._replace(strengths=given[i : i + 1]) for job in jobs for i in range(len(given))]
    elif base is not None and whole is None:
        jobs[0] = jobs[0]._replace(start=base, warm=True)
    n_jobs = max(min(n_jobs, len(jobs)), 1)
    # Here, not in the threads: there they would draw seeds in any order.
    jobs = [job._replace(start=_copy(job.start, 1 if n_jobs > 1 else None)) for job in jobs]
    chains = _side_by_side(fitter, jobs, n_jobs, show)
    if not warm_start:
        k = len(given)
        chains = [[*chain.from_iterable(chains[i : i + k])] for i in range(0, len(chains), k)]
    if whole is None:
        whole = chains.pop(0)
    parts = chains if chains or scored is None else [whole]
    whole = [fit._replace(state=_with_threads(fit.state, threads)) for fit in whole]
    scores = np.array([[fit.score for fit in part] for part in parts]).T if parts else None
    return path_of(whole, strength.size(model), scores, names, model.backend)


# ------------------------------------------------ the fits


@dataclass(frozen=True)
class _Rows:
    """x, of scipy.sparse perhaps, y and sample_weight, all as they are handed to a model."""

    x: Any
    y: Array
    sample_weight: Array | None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.y, self.sample_weight))

    def take(self, rows: Any) -> _Rows:
        weight = self.sample_weight
        return _Rows(self.x[rows], self.y[rows], None if weight is None else weight[rows])


def _checked(model: Sequential, x: Any, y: Any, sample_weight: Any = None) -> _Rows:
    model.objective(x, y, sample_weight)  # checks them
    x = x.tocsr().astype(model.dtype) if is_sparse(x) else np.ascontiguousarray(x, model.dtype)
    weight = None if sample_weight is None else np.asarray(sample_weight)
    return _Rows(x, np.asarray(y), weight)


class _Job(NamedTuple):
    """Fits under falling `strengths`, all of a fold or of all rows, from the model `start`."""

    start: Sequential
    train: _Rows
    scored: _Rows | None
    fold: Fold | None
    strengths: Array
    warm: bool = False


class Fit(NamedTuple):
    """One strength's compact model and what is told of it."""

    strength: float
    state: State
    score: float = np.nan
    nonzeros: int = 0
    n_params: int = 0
    importances: Array = np.empty(0)
    loss: float = 0.0
    data_loss: float | None = None
    kkt_residual: float | None = None


def path_of(
    fits: Sequence[Fit],
    n_penalized: int,
    fold_scores: Array | None,
    feature_names: list[str] | None,
    backend: str,
) -> RegularizationPath:
    """The path of fits under falling strengths, all of which tell the same of themselves."""

    def told(name: str) -> Array | None:
        values = [getattr(fit, name) for fit in fits]
        return None if None in values else np.array(values)

    return RegularizationPath(
        strengths=np.array([fit.strength for fit in fits]),
        nonzeros=np.array([fit.nonzeros for fit in fits]),
        n_penalized=n_penalized,
        n_params=np.array([fit.n_params for fit in fits]),
        selected_inputs=np.array([fit.importances != 0 for fit in fits]),
        importances=np.array([fit.importances for fit in fits]),
        losses=np.array([fit.loss for fit in fits]),
        data_losses=told("data_loss"),
        kkt_residuals=told("kkt_residual"),
        fold_scores=fold_scores,
        feature_names=feature_names,
        _states=[fit.state for fit in fits],
        _backend=backend,
    )


def n_params_of(state: State) -> int:
    """Weights of the model of that state."""
    return sum(array.size for name, array in state[1].items() if name.startswith("weights/"))


def importances_of(model: Sequential, n_in: int) -> Array:
    """The norm of the first kernel's row of each column of x; 0 for one that is not read."""
    found = np.zeros(n_in)
    read, kernel = _first_kernel(model)
    found[read] = np.linalg.norm(kernel, axis=1)
    return found


class _Stopped(Exception):
    """Another thread's fit has failed."""


@dataclass(frozen=True)
class _Fitter:
    """How a model is fitted under one strength, and under one after the other."""

    strength: Strength
    shallow: bool
    solver: str
    epochs: int
    warm_epochs: int
    batch_size: int
    tol: float
    max_iter: int
    scoring: Scoring
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def descends(self) -> bool:
        """Whether the loss stays the same function all the way: no weight leaves the model."""
        return self.shallow and self.solver == "polish"

    def tolerance(self, value: float) -> float:
        return self.tol * (value or 1.0)

    def fit(self, model: Sequential, rows: _Rows, value: float, warm: bool) -> None:
        self.strength.set(model, value)
        if self.solver == "polish":
            tol = self.tolerance(value)
            model.polish(*rows, tol=tol, max_iter=self.max_iter, verbose=0)
        else:
            x, y, weight = rows
            epochs = self.warm_epochs if warm else self.epochs
            model.fit(x, y, self.batch_size, epochs, verbose=0, sample_weight=weight)

    def run(self, job: _Job, tick: Callable[[], None]) -> list[Fit]:
        """The fits of a job, in the order of its strengths."""
        train, scored = job.train, job.scored
        if job.fold is not None:
            train, scored = (job.train.take(rows) for rows in job.fold)
        values = job.strengths if self.shallow else job.strengths[::-1]
        found = []
        for fit in self.chain(job.start, job.warm, values, train, scored, job.fold is None):
            found.append(fit)
            tick()
        return found if self.shallow else found[::-1]

    def chain(
        self,
        model: Sequential,
        warm: bool,
        values: Iterable[float],
        train: _Rows,
        scored: _Rows | None,
        whole: bool,
    ) -> Iterator[Fit]:
        """Fits, each from where the one before ended; of the `whole` data, all is told."""
        if self.descends:
            yield from self.descent(model, values, train, scored, whole)
            return
        for value in values:
            if self.stop.is_set():
                raise _Stopped
            self.fit(model, train, value, warm)
            before = model.state()
            state, warm = compacted(*before), True
            if not self.shallow and sizes(state) != sizes(before):
                model = Sequential(backend=model.backend)
                model.become(state)
            yield self._told(value, model, state, train, scored, whole)

    def descent(
        self,
        model: Sequential,
        values: Iterable[float],
        train: _Rows,
        scored: _Rows | None,
        whole: bool,
    ) -> Iterator[Fit]:
        """`chain` where one loss with one curvature serves under all strengths."""
        objective = model.objective(*train)
        curvature = Curvature(objective.start.size)
        keep, dtype = model.set_weights, model.dtype or "float32"
        seen: deque[tuple[float, list[Array]]] = deque(maxlen=2)
        even = model.loss != "mean_squared_error"
        values = list(values)
        few = objective.start.size <= SIZE_A_STRENGTH * len(values)
        h = objective.second_derivative() if few else None
        start = model.get_weights()
        for value in values:
            if self.stop.is_set():
                raise _Stopped
            if len(seen) == 2:
                start = _ahead(value, seen[0], seen[1], even)
            self.strength.set(model, value)
            objective.begin_anew([w.astype(dtype).astype(np.float64) for w in start])
            tol = self.tolerance(value)
            if h is not None:
                guess = objective.ahead(h, tol / 4).astype(dtype)
                objective.start = guess.astype(np.float64)
            model.set_weights(objective.weights(objective.start))
            found = polish(objective, keep, dtype, tol, self.max_iter, curvature=curvature)
            start = model.get_weights()
            seen.append((value, start))
            losses = found.objective, found.data_loss, found.kkt_residual
            state = compacted(*model.state())
            yield self._told(value, model, state, train, scored, whole, losses)

    def climb(
        self,
        base: Sequential,
        low: float,
        ratio: float,
        n: int,
        train: _Rows,
        scored: _Rows | None,
    ) -> list[Fit]:
        """The last `n` fits, strengths falling, of those from `low` up until nothing is left."""
        while True:
            values = (low / ratio**i for i in count())
            found = []
            for fit in self.chain(compact(base), True, values, train, scored, True):
                found.append(fit)
                if fit.nonzeros == 0:
                    break
                if fit.strength > 1e30:
                    raise ValueError("lambda_max: nothing empties the kernels; give strengths")
            if len(found) >= n:
                return found[: -n - 1 : -1]
            low *= ratio ** (n - len(found))  # it ended sooner than the search had it

    def _told(
        self,
        value: float,
        model: Sequential,
        state: State,
        train: _Rows,
        scored: _Rows | None,
        whole: bool,
        losses: tuple[float, float, float | None] | None = None,
    ) -> Fit:
        """What came of a fit: `model` and its compact `state`; `losses` if they are known."""
        score = np.nan if scored is None else float(self.scoring(model, scored.x, scored.y))
        if not whole:
            return Fit(value, state, score)
        if losses is None:
            free = _free(model)
            objective = free.objective(*train)
            here = objective.at(objective.start)
            losses = here.value, here.data_loss, here.residual if free is model else None
        importances = importances_of(model, int(np.prod(train.x.shape[1:])))
        nonzeros = self.strength.nonzeros(model)
        return Fit(value, state, score, nonzeros, n_params_of(state), importances, *losses)

    def largest(self, model: Sequential, rows: _Rows) -> tuple[Sequential, float]:
        """lambda_max, and the model to begin the strengths below it with."""
        return self._of_the_gradient(model, rows) if self.shallow else self._searched(model, rows)

    def _of_the_gradient(self, model: Sequential, rows: _Rows) -> tuple[Sequential, float]:
        """With the kernel at 0 and the bias fitted: there 0 is a minimum from this strength on."""
        (layer,) = self.strength.layers(model)
        weights = layer.get_weights()
        layer.set_weights([np.zeros_like(weights[0]), *weights[1:]])
        self.strength.set(model, 1e30)  # more than any gradient
        free = _free(model)
        free.polish(*rows, tol=1e-10, max_iter=self.max_iter, verbose=0)
        model.set_weights(free.get_weights())
        top = self._pull(model, rows)
        if top == 0:
            raise ValueError("x: no column says anything about y; lambda_max is 0")
        return model, top

    def _pull(self, model: Sequential, rows: _Rows) -> float:
        """The strength that the gradient by the kernels stands up to: with it, their prox is 0."""
        objective = _free(model).objective(*rows)
        _, gradient = objective.smooth(objective.start)
        kernels = [
            (piece, layer)
            for piece, (layer, name) in zip(objective.pieces, objective.owners, strict=True)
            if isinstance(layer, Dense) and name == "kernel" and layer.name in self.strength.shares
        ]
        return max(_held(layer, gradient[piece], self.strength) for piece, layer in kernels)

    def _searched(self, model: Sequential, rows: _Rows) -> tuple[Sequential, float]:
        """Doubled until the kernels are empty: at most twice too much."""
        value = self._pull(model, rows) / 16
        self.fit(model, rows, 0.0, warm=False)
        base, model = compact(model), compact(model)
        if self.strength.nonzeros(base) == 0 or value == 0:
            raise ValueError("regularization_path: the kernels are empty without any L1")
        while self.strength.nonzeros(model):
            if value > 1e30:
                raise ValueError("lambda_max: nothing empties the kernels; give strengths")
            self.fit(model, rows, value, warm=True)
            model = compact(model)
            value *= 2
        return base, value / 2


def _held(layer: Dense, gradient: Array, strength: Strength) -> float:
    """The smallest strength whose L1 and GroupL1 hold a kernel of zeros under its gradient."""
    regularizer, shares = layer.kernel_regularizer, strength.shares[layer.name]
    slopes = np.abs(gradient).reshape(layer.kernel.shape)
    if "group_l1" not in shares:
        return float(slopes.max()) / shares["l1"]
    assert isinstance(regularizer, GroupL1)
    l1 = shares.get("l1", 0.0)
    if not l1 and not isinstance(regularizer.groups, str):
        in_none = np.ones(len(slopes), bool)
        in_none[[row for group in regularizer.groups for row in group]] = False
        slopes[in_none] = 0.0
    unit = GroupL1(shares["group_l1"], regularizer.groups, sizes=regularizer.sizes)

    def holds(value: float) -> bool:
        return not unit.group_prox(slopes, value, l1).any()

    low, high = 0.0, float(slopes.max())
    while not holds(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _ahead(
    value: float, older: tuple[float, list[Array]], old: tuple[float, list[Array]], even: bool
) -> list[Array]:
    """On the line through the last two minima; a weight that is 0, or would turn, is 0.

    Between the strengths at which weights come and go, a Lasso's path is a line in the strength
    (Efron, Hastie, Johnstone and Tibshirani 2004). With losses that are no squares it is nearer to
    one in their logarithm, in which the steps of a path are `even`.
    """
    length = (value - old[0]) / (old[0] - older[0])
    if even and value > 0:
        length = np.log(value / old[0]) / np.log(old[0] / older[0])
    guesses = []
    for before, w in zip(older[1], old[1], strict=True):
        guess = w + length * (w - before)
        guesses.append(guess if w.ndim == 1 else np.where(guess * w > 0, guess, 0.0))
    return guesses


def _side_by_side(fitter: _Fitter, jobs: Sequence[_Job], n_jobs: int, show: bool) -> Any:
    """The fits of each job, `n_jobs` at a time; after an error or Ctrl-C no other fit is begun."""
    line = progress_line(sum(len(job.strengths) for job in jobs)) if show else None
    lock = threading.Lock()

    def tick() -> None:
        if line is not None:
            with lock:
                line.update(1)

    try:
        with ThreadPoolExecutor(n_jobs) as pool, config.one_blas_thread():
            if n_jobs == 1:
                return [fitter.run(job, tick) for job in jobs]
            futures = [pool.submit(fitter.run, job, tick) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                fitter.stop.set()
                for future in futures:
                    future.cancel()
                raise
        return [future.result() for future in futures]
    finally:
        if line is not None:
            line.close()


def _with_threads(state: State, n_threads: int | None) -> State:
    found, arrays = state
    return {**found, "compile": {**found["compile"], "n_threads": n_threads}}, arrays


def _copy(model: Sequential, n_threads: int | None = None) -> Sequential:
    """An equal model, which computes on `n_threads` if that is said."""
    state = model.state()
    other = Sequential(name=model.name, backend=model.backend)
    other.become(state if n_threads is None else _with_threads(state, n_threads))
    return other


def _free(model: Sequential) -> Sequential:
    """`model`, or an equal one without its constraints, which are no part of an objective."""
    if not any(layer.constraints() for layer in model.layers):
        return model
    free = _copy(model)
    for layer in free.layers:
        for name in layer.constraints():
            setattr(layer, f"{name}_constraint", None)
    return free


def _first_kernel(model: Sequential) -> tuple[Array, Array]:
    """The columns of x that are read and do something, and their rows of the first kernel."""
    kernel = next(layer for layer in model.layers if isinstance(layer, Dense)).kernel
    read = model.selected_inputs_
    return np.arange(len(kernel)) if read is None else read, kernel


# ------------------------------------------------ scores


def _default_score(model: Sequential, x: Array, y: Array) -> float:
    """The first metric of `compile`, or the negative data loss."""
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert isinstance(logs, dict)
    names = model.metrics_names[1:]
    score = logs[names[0]] if names else -logs["data_loss"]
    if np.ndim(score):
        raise ValueError(
            f"scoring: got None, and the first metric, {names[0]!r}, has {np.size(score)} values; "
            "a function or a metric of one number is needed"
        )
    return float(score)


def _check_strengths(strengths: ArrayLike) -> Array:
    """Falling, each once."""
    values = np.array(strengths, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"strengths: got shape {values.shape}; a list of numbers is needed")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"strengths: got {strengths!r}; finite numbers >= 0 are needed")
    return np.unique(values)[::-1].copy()


def _split(
    model: Sequential, data: _Rows, share: float, given: Sequence[ArrayLike] | None
) -> tuple[_Rows, _Rows | None]:
    """Rows to fit, and rows to score if any."""
    share = check_real("validation_split", share, low=0, high=1, high_open=True)
    if given is not None:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError("validation_data: (x, y) is needed")
        return data, _checked(_free(model), *given)
    if not share:
        return data, None
    at = int(len(data) * (1.0 - share))
    if not 0 < at < len(data):
        raise ValueError(
            f"validation_split: got {share:g} of {len(data)} rows, which leaves one part empty"
        )
    return data.take(slice(at)), data.take(slice(at, None))


def _folds(cv: Any, data: _Rows, model: Sequential) -> list[Fold]:
    """(train rows, test rows) of each fold; with a number, classes are shared out evenly."""
    n = len(data)
    if hasattr(cv, "split"):
        cv = cv.split(data.x, data.y)
    if isinstance(cv, Iterable):
        folds = [(np.asarray(a), np.asarray(b)) for a, b in cv]
        if not folds:
            raise ValueError("cv: got no fold; one at least is needed")
        for rows in (rows for fold in folds for rows in fold):
            if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "iu" or rows.max() >= n:
                raise ValueError(f"cv: got rows {rows!r}; row numbers below {n} are needed")
        return folds
    k = check_int("cv", cv, low=2, high=n)
    order = np.random.default_rng(0).permutation(n)  # the same folds at every call
    if model.loss != "mean_squared_error":
        y = data.y.reshape(n, -1)
        classes = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
        order = order[np.argsort(classes[order], kind="stable")]
    number = np.empty(n, np.intp)
    number[order] = np.arange(n) % k
    return [(np.flatnonzero(number != i), np.flatnonzero(number == i)) for i in range(k)]
