"""The network of an estimator: a `Sequential` whose batches are weighed as scikit-learn does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg import training
from fastreg.estimators.parameters import LOSSES
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


class AlphaNetwork:
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
    def _add_offset(
        loss: str | LossLike, y: Array, weight: Array | None, rows: Any, ledger: Array
    ) -> None:
        """To the sum of the rows' losses."""
        offset = LOSSES[loss_parts(loss)[0]].offset
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
        steps = 0
        rows = range(start, stop, batch_size)
        factor = LOSSES[loss_parts(loss)[0]].factor(self._n_out)
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
        loss: str | LossLike,
        accuracy: str | None,
        ledger: Array,
        n_threads: int,
        outputs: Array | None = None,
    ) -> None:
        rows = range(0, len(x), len(x))
        factor = LOSSES[loss_parts(loss)[0]].factor(self._n_out)
        ((*_, total, weight),) = self._runs(x, sample_weight, None, rows, factor)
        self._divide_by(total)
        call = (batch_size, loss, accuracy, ledger, n_threads, outputs)
        self._network.evaluate(x, y, weight, start, stop, *call)
        self._add_offset(loss, y, weight, slice(start, stop), ledger)


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
