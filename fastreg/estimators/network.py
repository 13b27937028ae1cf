"""The network of an estimator: a `Sequential` whose batches are weighed as scikit-learn does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreg import training
from fastreg.estimators.parameters import LOSSES, Loss
from fastreg.inputs import LossLike, Rows, loss_parts
from fastreg.models import Sequential
from fastreg.training import Network

Array = NDArray[Any]


def _divided(layers: list[dict[str, Any]], total: float) -> list[dict[str, Any]]:
    """The layers with the kernels' L2 divided by the sum of the rows' weights."""
    return [
        {**layer, "kernel_l2": layer["kernel_l2"] / total} if "kernel_l2" in layer else layer
        for layer in layers
    ]


class _Run(NamedTuple):
    """Steps that the engine is called for at once."""

    start: int  # of the rows
    stop: int
    steps: int
    counts: bool  # whether the rows have weights at all
    divided: list[training.Scheduled]


class AlphaNetwork:
    """A network that weighs a batch as scikit-learn does.

    The loss of a batch is sum(w_i l_i) / sum(w_i), and the kernels' L2 is divided by sum(w_i), too;
    l_i is scikit-learn's.
    """

    def __init__(self, network: Network, layers: list[dict[str, Any]]) -> None:
        self._network = network
        self._constant = np.empty(0)  # weights of rows that have none
        self._told(layers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask before there is a network
            raise AttributeError(name)
        return getattr(self._network, name)

    def update_layers(self, layers: list[dict[str, Any]]) -> None:
        self._network.update_layers(layers)
        self._told(layers)

    def _told(self, layers: list[dict[str, Any]]) -> None:
        self._layers, self._n_out = layers, layers[-1]["n_out"]
        found = ((i, layer.get("kernel_l2", 0.0)) for i, layer in enumerate(layers))
        self._l2 = [(i, l2) for i, l2 in found if l2]
        self._even_given = 0, 0, 0
        self._even_runs: list[_Run] = []

    def _unweighted(self, n: int, dtype: Any, factor: float) -> Array | None:
        """What the engine takes as weights of n rows that have none."""
        if factor == 1:
            return None
        if len(self._constant) != n or self._constant[0] != factor:
            self._constant = np.full(n, factor, dtype)
        return self._constant

    def _schedules(self, totals: Array) -> list[training.Scheduled]:
        """The kernels' L2 in steps whose batches have weights of that sum."""
        return [training.Scheduled("kernel_l2", i, l2 / totals) for i, l2 in self._l2]

    def _even(self, rows: range) -> list[_Run]:
        """The steps of rows without weights; those of every epoch are the same."""
        given = rows.start, rows.stop, rows.step  # ranges are equal where their numbers are
        if given != self._even_given:
            totals = np.full(len(rows), rows.step, np.float64)
            totals[-1] = rows.stop - rows[-1]
            self._even_given = given
            self._even_runs = [
                _Run(rows.start, rows.stop, len(rows), True, self._schedules(totals))
            ]
        return self._even_runs

    def _uneven(
        self, weight: Array, index: Array | None, rows: range, factor: float
    ) -> tuple[list[_Run], Array]:
        """The steps of rows with weights, and what the engine takes as such."""
        seen = slice(rows.start, rows.stop) if index is None else index[rows.start : rows.stop]
        mine = weight[seen].astype(np.float64)
        firsts = np.arange(0, len(mine), rows.step)
        totals = np.add.reduceat(mine, firsts)
        sizes = np.diff(firsts, append=len(mine))
        times = np.divide(factor * sizes, totals, out=np.zeros(len(totals)), where=totals != 0)
        scaled = np.empty_like(weight)
        scaled[seen] = mine * times.repeat(sizes)
        ends = (np.flatnonzero(np.diff(totals != 0)) + 1).tolist()
        runs = []
        for first, last in pairwise([0, *ends, len(totals)]):
            begin, end = rows[first], min(rows[last - 1] + rows.step, rows.stop)
            counts, divided = bool(totals[first]), []
            if counts:
                divided = self._schedules(totals[first:last])
            runs.append(_Run(begin, end, last - first, counts, divided))
        return runs, scaled

    @staticmethod
    def _add_offset(of: Loss, y: Array, weight: Array | None, rows: Any, ledger: Array) -> None:
        """To the sum of the rows' losses."""
        if of.offset is not None:
            each = of.offset(y[rows].astype(np.float64)).mean(axis=1)
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
        loss: str | LossLike,
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
        of = LOSSES[loss_parts(loss)[0]]
        factor, rows = of.factor(self._n_out), range(start, stop, batch_size)
        if sample_weight is None:
            runs, weight = self._even(rows), self._unweighted(len(x), x.dtype, factor)
        else:
            runs, weight = self._uneven(sample_weight, index, rows, factor)
        steps = 0
        for run in runs:
            if not run.counts:
                ledger[5] += run.stop - run.start
                steps += run.steps
                continue
            left = [each._replace(values=each.values[steps:]) for each in scheduled]
            done = self._network.train(
                x,
                y,
                weight,
                index,
                run.start,
                run.stop,
                batch_size,
                loss,
                optimizer,
                iteration + steps,
                seed,
                accuracy,
                ledger,
                n_threads,
                [*left, *run.divided],
                extra,
                None if outputs is None else outputs[run.start - start : run.stop - start],
            )
            steps += done
            seen = slice(run.start, min(run.stop, run.start + done * batch_size))
            self._add_offset(of, y, weight, seen if index is None else index[seen], ledger)
            if done < run.steps:
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
        loss: str | LossLike,
        accuracy: str | None,
        ledger: Array,
        n_threads: int,
        outputs: Array | None = None,
    ) -> None:
        of, n = LOSSES[loss_parts(loss)[0]], len(x)
        factor = of.factor(self._n_out)
        if sample_weight is None:
            total, weight = float(n), self._unweighted(n, x.dtype, factor)
        else:
            total = float(sample_weight.sum(dtype=np.float64))
            weight = sample_weight * (factor * n / total)
        if self._l2:
            self._network.update_layers(_divided(self._layers, total))
        call = (batch_size, loss, accuracy, ledger, n_threads, outputs)
        self._network.evaluate(x, y, weight, start, stop, *call)
        self._add_offset(of, y, weight, slice(start, stop), ledger)


class Perceptron(Sequential):
    """A `Sequential` whose batches are weighed as scikit-learn does, kernel L2 being alpha / 2."""

    dropout_seed = 0  # each layer has its own

    def _new_network(self, layers: list[dict[str, Any]], dtype: str) -> Network:
        return AlphaNetwork(super()._new_network(layers, dtype), layers)


def interleaved(coefs: Sequence[Array], intercepts: Sequence[Array]) -> list[Array]:
    """[kernel, bias, kernel, bias, ...]"""
    return [array for pair in zip(coefs, intercepts, strict=True) for array in pair]


def unpacked(flat: Array, coefs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The kernels, shaped as `coefs`, and the biases of one vector in scikit-learn's order."""
    shapes = [*(w.shape for w in coefs), *((w.shape[1],) for w in coefs)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    arrays = [
        part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
    ]
    return arrays[: len(coefs)], arrays[len(coefs) :]
