"""The second demo: the more L1, the fewer inputs, units and microseconds. Digits among noise.

As many inputs of pure noise as there are pixels stand beside the handwritten digits. L1 that lands
on zero finds them, `compact` drops them with all that nothing depends on, and what is left is
measured: accuracy, size, and the time it takes to train and to run.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from fastreg.regularizers import L1
from fastreg.sparsity import compact

Array = NDArray[Any]

BATCH_SIZE = 64
STRENGTHS = (0.0, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)
PREDICTED_ROWS = 1024
TURNS = 15  # of each model when it is timed; the best counts


@dataclass(frozen=True)
class Result:
    """What one strength led to."""

    thinned: Thinned
    n_params: int
    step_seconds: float
    predict_seconds: float


def train(data: Dataset, strength: float, *, epochs: int, units: int, seed: int) -> Sequential:
    """A network 128-units-10 with L1 on its first kernel, not yet compact."""
    config.set_random_seed(seed)
    hidden = Dense(units, activation="relu", kernel_regularizer=L1(strength))
    model = Sequential([Input((data.x_train.shape[1],)), hidden, Dense(10, activation="softmax")])
    optimizer = Adam(2e-3, l1_step="cumulative")
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], n_threads=1)
    model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return model


def compare(
    data: Dataset, strengths: Sequence[float] = STRENGTHS, *, epochs: int, units: int, seed: int
) -> list[Result]:
    """Train under each strength, make the networks compact, then time them in turns."""
    from tqdm import tqdm

    found, models = [], []
    for strength in tqdm(strengths, unit="network", leave=False, disable=None):
        model = train(data, strength, epochs=epochs, units=units, seed=seed)
        small = compact(model)
        importance = np.linalg.norm(model.layers[0].get_weights()[0], axis=1)
        accuracy = float(np.mean(small.predict(data.x_test).argmax(axis=1) == data.y_test))
        n_units = small.layers[0].output_shape[1]
        found.append(Thinned(strength, accuracy, importance, n_units, units))
        models.append(small)

    rows = np.resize(data.x_test, (PREDICTED_ROWS, data.x_test.shape[1]))
    n_steps = -(-len(data.x_train) // BATCH_SIZE)
    copies = copy.deepcopy(models)  # trained on for the clock's sake

    def step(model: Sequential) -> None:
        model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, verbose=0)

    steps = _best_of_turns(step, copies)
    predictions = _best_of_turns(lambda model: model.predict(rows), models)
    return [
        Result(thinned, model.n_params, a / n_steps, b)
        for thinned, model, a, b in zip(found, models, steps, predictions, strict=True)
    ]


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


COLUMNS = ("l1", "test", "pixels", "noise", "units", "params", "us/step", "us/predict", "faster")


def table(results: Sequence[Result]) -> str:
    """The results as lines of text, a row each."""
    dense = results[0]
    rows: list[tuple[str, ...]] = [COLUMNS]
    for result in results:
        found = result.thinned
        faster = dense.step_seconds / result.step_seconds
        faster_predict = dense.predict_seconds / result.predict_seconds
        rows.append(
            (
                f"{found.strength:g}",
                f"{found.accuracy:.1%}",
                f"{found.n_pixels}",
                f"{found.n_noise}",
                f"{found.n_units}",
                f"{result.n_params:,}",
                f"{result.step_seconds * 1e6:.1f}",
                f"{result.predict_seconds * 1e6:.0f}",
                f"{faster:.1f}x / {faster_predict:.1f}x",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


LEGEND = f"""\
l1             strength of L1 on the first kernel, applied by Adam's cumulative step
test           accuracy of the compact network
pixels, noise  inputs that are left, of 64 each
us/step        microseconds a training step of {BATCH_SIZE} rows of the compact network, one thread
us/predict     microseconds to predict {PREDICTED_ROWS} rows
faster         a step and a prediction, against the network without L1"""


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
    results = compare(data, epochs=epochs, units=units, seed=seed)
    print(table(results))
    print(f"\n{LEGEND}")
    dense = results[0]
    figure = plotting.thinning(
        [result.thinned for result in results],
        {
            "parameters": [result.n_params / dense.n_params for result in results],
            "training step": [result.step_seconds / dense.step_seconds for result in results],
            "prediction": [result.predict_seconds / dense.predict_seconds for result in results],
        },
        (8, 8),
    )
    plotting.save(figure, output)
    print(f"\npicture: {output.resolve()}")
