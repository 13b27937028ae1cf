"""The demo: what does each regularizer do, and when is which right? On handwritten digits.

The same network is trained under one regularizer after the other, from the same weights on the same
batches; what comes out is measured, printed as a table and drawn.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg import config, functional, plotting
from fastreg.datasets import Dataset, load_digits
from fastreg.layers import Dense, Input
from fastreg.models import Sequential
from fastreg.optimizers import SGD
from fastreg.plotting import NEAR_ZERO, Portrait
from fastreg.regularizers import L1, L2, Regularizer

Array = NDArray[Any]

BATCH_SIZE = 32

# Plain SGD, because its step is the gradient: the pull of a regularizer is seen as it is. (Adam
# divides it by the size of past gradients, which is the pull's own where the data has none.)
# The rate falls from round to round, since noise and the sign step of L1 keep a weight about rate *
# gradient from its place: the last one holds
# weights within 1e-5 of zero, far below NEAR_ZERO.
FIRST_RATE, LAST_RATE, ROUNDS = 0.3, 0.01, 10


@dataclass(frozen=True)
class Setting:
    """What stands on the hidden layer, and in one line what it does and when to use it."""

    name: str
    verdict: str
    where: str = ""  # kernel, bias, activity
    regularizer: Regularizer | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Dense`."""
        return {} if self.regularizer is None else {f"{self.where}_regularizer": self.regularizer}


# The strengths are near the largest that leave the test accuracy as it is: each effect shows, and
# none costs much. A bias has little gradient of its own here; a stronger L1 would zero all of them.
SETTINGS = (
    Setting(
        "no regularizer",
        "weights grow as they like, blank border pixels keep their random start → the yardstick",
    ),
    Setting(
        "kernel L2",
        "every weight shrinks, hardly any to zero → the first thing to try against overfitting",
        "kernel",
        L2(3e-3),
    ),
    Setting(
        "kernel L1",
        "most weights go to zero, whole pixels are ignored → to find the inputs that matter",
        "kernel",
        L1(1e-3),
    ),
    Setting(
        "bias L2",
        "all biases shrink, the kernel stays → when an empty input should give no output",
        "bias",
        L2(3e-3),
    ),
    Setting(
        "bias L1",
        "idle biases go to zero, useful ones stay → to see which units need one",
        "bias",
        L1(4e-4),
    ),
    Setting(
        "activity L2",
        "outputs shrink, the largest most, and weights with them → to keep outputs in bounds",
        "activity",
        L2(3e-3),
    ),
    Setting(
        "activity L1",
        "most units are silent on any one image → sparse codes, each unit for one feature",
        "activity",
        L1(1e-2),
    ),
)


@dataclass
class Trainee:
    """A model on its way; seconds a step, one entry a round."""

    model: Sequential
    optimizer: SGD
    step_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What came of one setting."""

    portrait: Portrait
    train_accuracy: float
    test_accuracy: float
    step_seconds: float  # the best round's
    reference_step_seconds: float | None
    agreement: float | None  # share of the test images that the reference puts in the same class


def compare(
    data: Dataset,
    settings: Sequence[Setting] = SETTINGS,
    *,
    epochs: int = 100,
    units: int = 32,
    seed: int = 0,
    reference: bool = True,
    n_threads: int = 1,
) -> list[Result]:
    """Train a network 64-units-10 under each setting: same weights to begin with, same batches.

    Engine and reference take turns, round by round, so that a slow moment of the machine cannot
    meet one of them only; the best round of each counts.
    """
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    def make(setting: Setting, backend: str) -> Trainee:
        layers = [
            Input((data.x_train.shape[1],), dtype="float32"),
            Dense(units, activation="relu", **setting.arguments()),
            Dense(10, activation="softmax"),
        ]
        model, optimizer = Sequential(layers, backend=backend), SGD(FIRST_RATE)
        model.compile(
            optimizer, "sparse_categorical_crossentropy", ["accuracy"], n_threads=n_threads
        )
        return Trainee(model, optimizer)

    config.set_random_seed(seed)
    backends = ("compiled", "reference") if reference else ("compiled",)
    rows = [[make(setting, backend) for backend in backends] for setting in settings]
    weights = rows[0][0].model.get_weights()
    for trainee in itertools.chain(*rows):
        trainee.model.set_weights(weights)

    rounds = np.array_split(np.arange(epochs), min(epochs, ROUNDS))
    rates = np.geomspace(FIRST_RATE, LAST_RATE, len(rounds))
    n_steps = -(-len(data.x_train) // BATCH_SIZE)
    with (
        threadpool_limits(n_threads, "blas"),
        tqdm(total=epochs * len(rows), unit="epoch", leave=False, disable=None) as line,
    ):
        for number, part in enumerate(rounds):
            for setting, trainees in zip(settings, rows, strict=True):
                line.set_description_str(setting.name)
                for trainee in trainees:
                    trainee.optimizer.learning_rate = rates[number]
                    config.set_random_seed(seed + number)  # the same batches for all
                    begun = time.perf_counter()
                    trainee.model.fit(
                        data.x_train,
                        data.y_train,
                        batch_size=BATCH_SIZE,
                        epochs=len(part),
                        verbose=0,
                    )
                    seconds = time.perf_counter() - begun
                    trainee.step_seconds.append(seconds / (len(part) * n_steps))
                line.update(len(part))
        return [measure(data, *pair) for pair in zip(settings, rows, strict=True)]


def measure(data: Dataset, setting: Setting, trainees: Sequence[Trainee]) -> Result:
    """What one setting led to."""
    model = trainees[0].model
    kernel, bias, *_ = model.get_weights()
    train = float(np.mean(model.predict(data.x_train).argmax(axis=1) == data.y_train))
    classes = [trainee.model.predict(data.x_test).argmax(axis=1) for trainee in trainees]
    test = float(np.mean(classes[0] == data.y_test))
    compared = len(trainees) > 1
    return Result(
        portrait=Portrait(
            setting.name,
            setting.verdict,
            kernel,
            bias,
            functional.dense_forward(data.x_test, kernel, bias, "relu"),
            f"test accuracy {test:.1%}",
        ),
        train_accuracy=train,
        test_accuracy=test,
        step_seconds=min(trainees[0].step_seconds),
        reference_step_seconds=min(trainees[1].step_seconds) if compared else None,
        agreement=float(np.mean(classes[0] == classes[1])) if compared else None,
    )


COLUMNS = (
    *("hidden layer", "train", "test", "kernel", "bias", "output"),
    *("w ~ 0", "silent", "pixels", "us/step", "x NumPy"),
)


def table(results: Sequence[Result]) -> str:
    """The results as lines of text, a row each."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for result in results:
        found = result.portrait
        reference = result.reference_step_seconds
        rows.append(
            (
                found.name,
                f"{result.train_accuracy:.1%}",
                f"{result.test_accuracy:.1%}",
                f"{np.linalg.norm(found.kernel):.2f}",
                f"{np.linalg.norm(found.bias):.2f}",
                f"{np.linalg.norm(found.output, axis=1).mean():.2f}",
                f"{found.near_zero:.0%}",
                f"{found.silent:.0%}",
                f"{found.inputs_used.sum()}",
                f"{result.step_seconds * 1e6:.1f}",
                "-" if reference is None else f"{reference / result.step_seconds:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


LEGEND = f"""\
train, test           accuracy
kernel, bias, output  Euclidean norms of the hidden layer; of the output the mean over test images
w ~ 0                 share of the kernel with |w| < {NEAR_ZERO:g}
silent                share of the outputs that are 0
pixels                of 64, how many have any weight that is not near zero
us/step               microseconds a training step of {BATCH_SIZE} images, best of the rounds"""


def main(
    *,
    epochs: int,
    units: int,
    seed: int,
    output: Path,
    reference: bool,
    n_threads: int,
) -> None:
    """Train, print the table, save the picture to `output`.

    Raises
    ------
    OSError
        If `output` cannot be written.
    """
    data = load_digits(seed=seed)
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    print(
        f"{len(data.x_train)} handwritten digits to train on, {len(data.x_test)} to test; "
        f"network 64-{units}-10, {epochs} epochs, {threads}\n",
        flush=True,
    )
    results = compare(
        data, epochs=epochs, units=units, seed=seed, reference=reference, n_threads=n_threads
    )
    print(table(results))
    print(f"\n{LEGEND}")
    if reference:
        least = min(result.agreement or 0.0 for result in results)
        print(
            'x NumPy               a step with backend="reference" takes so many times as long, '
            "batch by batch\n"
            "                      the same training; the two agree on the class of at least\n"
            f"                      {least:.1%} of the test images"
        )
    figure = plotting.compare_regularizers([result.portrait for result in results], (8, 8))
    plotting.save(figure, output)
    print(f"\npicture: {output.resolve()}")


def need_packages() -> None:
    """Raise ModuleNotFoundError, saying what to install, unless the demo has what it needs."""
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is needed: pip install scikit-learn matplotlib tqdm", name=error.name
        ) from error
