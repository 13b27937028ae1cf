"""The second demo: the more regularized, the fewer inputs, units and microseconds.

As many inputs of pure noise as there are pixels stand beside the handwritten digits. L1 and GroupL1
that land on zero find them, `compact` drops them with all that nothing depends on, and what is left
is measured: accuracy, size, and the time it takes to train and to run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg import config, plotting
from fastreg.datasets import Dataset, among_noise, load_digits
from fastreg.layers import Dense, Input
from fastreg.models import Sequential
from fastreg.optimizers import Adam
from fastreg.plotting import Thinned
from fastreg.regularizers import L1, GroupL1
from fastreg.sparsity import compact

Array = NDArray[Any]

BATCH_SIZE = 64
STRENGTHS = {
    "L1": (5e-4, 1e-3, 2e-3, 3e-3, 5e-3),
    "GroupL1": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
}
POLISH_ITERATIONS = 100
PREDICTED_ROWS = 1024
TURNS = 15  # of each model when it is timed; the best counts


def train(
    data: Dataset, penalty: str, strength: float, *, epochs: int, units: int, seed: int
) -> Sequential:
    """A network 128-units-10 with a penalty on its first kernel, not yet compact.

    L1 goes with Adam's cumulative step. Groups have none; the noise of their proximal one, which
    keeps inputs alive, is polished away.
    """
    config.set_random_seed(seed)
    regularizer = L1(strength) if penalty == "L1" else GroupL1(strength, groups="rows")
    hidden = Dense(units, activation="relu", kernel_regularizer=regularizer)
    model = Sequential([Input((data.x_train.shape[1],)), hidden, Dense(10, activation="softmax")])
    optimizer = Adam(2e-3, l1_step="cumulative" if penalty == "L1" else "proximal")
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], n_threads=1)
    model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    if penalty != "L1":
        model.polish(data.x_train, data.y_train, max_iter=POLISH_ITERATIONS, verbose=0)
    return model


def compare(
    data: Dataset,
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    *,
    epochs: int,
    units: int,
    seed: int,
) -> tuple[Thinned, dict[str, list[Thinned]]]:
    """Train under each strength, make the networks compact, then time them in turns.

    Returns the network without a penalty, and those under each.
    """
    from tqdm import tqdm

    kinds = [("L1", 0.0), *((name, value) for name in strengths for value in strengths[name])]
    models, smalls = [], []
    for penalty, strength in tqdm(kinds, unit="network", leave=False, disable=None):
        models.append(train(data, penalty, strength, epochs=epochs, units=units, seed=seed))
        smalls.append(compact(models[-1]))

    rows = np.resize(data.x_test, (PREDICTED_ROWS, data.x_test.shape[1]))
    n_steps = -(-len(data.x_train) // BATCH_SIZE)
    copies = copy.deepcopy(smalls)  # trained on for the clock's sake

    def step(model: Sequential) -> None:
        model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, verbose=0)

    steps = _best_of_turns(step, copies)
    predictions = _best_of_turns(lambda model: model.predict(rows), smalls)
    found = []
    for number, (_, strength) in enumerate(kinds):
        model, small = models[number], smalls[number]
        costs = {
            "parameters": float(small.n_params),
            "training step": steps[number] / n_steps,
            "prediction": predictions[number],
        }
        accuracy = float(np.mean(small.predict(data.x_test).argmax(axis=1) == data.y_test))
        importance = np.linalg.norm(model.layers[0].get_weights()[0], axis=1)
        n_units = small.layers[0].output_shape[1]
        nonzeros = sum(int(np.count_nonzero(w)) for w in small.get_weights() if w.ndim == 2)
        density = nonzeros / sum(w.size for w in model.get_weights() if w.ndim == 2)
        found.append(Thinned(strength, accuracy, importance, n_units, units, density, costs))
    dense, *rest = found
    thinned: dict[str, list[Thinned]] = {name: [] for name in strengths}
    for (penalty, _), network in zip(kinds[1:], rest, strict=True):
        thinned[penalty].append(network)
    return dense, thinned


def _best_of_turns(
    action: Callable[[Sequential], object], models: Sequence[Sequential]
) -> list[float]:
    """Seconds of `action` on each model; they take turns, so a slow moment meets them all."""
    best = [float("inf")] * len(models)
    for _ in range(TURNS):
        for number, model in enumerate(models):
            begun = time.perf_counter()
            action(model)
            best[number] = min(best[number], time.perf_counter() - begun)
    return best


COLUMNS = (
    *("penalty", "test", "pixels", "noise", "units", "density"),
    *("params", "us/step", "us/predict", "faster"),
)


def table(dense: Thinned, thinned: Mapping[str, Sequence[Thinned]]) -> str:
    """The results as lines of text, a row each."""
    named = [("none", dense)]
    named += [(f"{name} {found.strength:g}", found) for name in thinned for found in thinned[name]]
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, found in named:
        faster = [
            f"{dense.costs[cost] / found.costs[cost]:.1f}x"
            for cost in ("training step", "prediction")
        ]
        rows.append(
            (
                name,
                f"{found.accuracy:.1%}",
                f"{found.n_pixels}",
                f"{found.n_noise}",
                f"{found.n_units}",
                f"{found.density:.1%}",
                f"{found.costs['parameters']:,.0f}",
                f"{found.costs['training step'] * 1e6:.1f}",
                f"{found.costs['prediction'] * 1e6:.0f}",
                " / ".join(faster),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


LEGEND = f"""\
penalty        on the first kernel: L1 by Adam's cumulative step; GroupL1 on the weights out of
               each input by its proximal step, then {POLISH_ITERATIONS} iterations of polish
test           accuracy of the compact network
pixels, noise  inputs that are left, of 64 each
density        share of the dense network's weights that are not 0
us/step        microseconds a training step of {BATCH_SIZE} rows of the compact network, one thread
us/predict     microseconds to predict {PREDICTED_ROWS} rows
faster         a step and a prediction, against the network without a penalty"""


def main(*, epochs: int, units: int, seed: int, output: Path) -> None:
    """Train, print the table, save the picture to `output`.

    Raises
    ------
    OSError
        If `output` cannot be written.
    """
    data = among_noise(load_digits(seed=seed), seed=seed)
    print(
        f"{len(data.x_train)} handwritten digits with 64 inputs of noise beside their 64 pixels; "
        f"network 128-{units}-10, {epochs} epochs\n",
        flush=True,
    )
    dense, thinned = compare(data, epochs=epochs, units=units, seed=seed)
    print(table(dense, thinned))
    print(f"\n{LEGEND}")
    plotting.save(plotting.thinning(dense, thinned, (8, 8)), output)
    print(f"\npicture: {output.resolve()}")
