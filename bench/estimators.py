"""`python -m bench sklearn`: fits of fastreg's MLPClassifier beside scikit-learn's, in one run.

Both get the same parameters, rows and threads and take turns in this process; each fit is a new
estimator's first. Accuracy is of rows held out.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np

# OpenBLAS's threads look for another product for some 0.1 s, on CPUs that the next fit wants.
BREATH = 0.2


class Fits(NamedTuple):
    """What one class did on one task."""

    name: str
    seconds: list[float]
    accuracy: float


def digits() -> tuple[Any, ...]:
    """The 1797 digits of scikit-learn, a fifth of them held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    return tuple(train_test_split(x / 16, y, test_size=0.2, random_state=0))


def synthetic() -> tuple[Any, ...]:
    """25,000 rows of 54 features in 7 classes, 5,000 of them held out."""
    from sklearn.datasets import make_classification
    from sklearn.model_selection import train_test_split

    x, y = make_classification(
        25_000, 54, n_informative=20, n_classes=7, class_sep=2.0, random_state=0
    )
    return tuple(train_test_split(x, y, test_size=5_000, random_state=0))


TASKS = {
    "digits": (digits, {"max_iter": 20}),
    "synthetic": (synthetic, {"hidden_layer_sizes": (128, 64), "max_iter": 4}),
}


def measure(task: str, rounds: int) -> list[Fits]:
    """scikit-learn's class, ours, and ours in float32, by turns, with a breath before each."""
    import sklearn.neural_network as theirs
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits

    from fastreg import estimators as ours

    make, settings = TASKS[task]
    train_x, test_x, train_y, test_y = make()
    both: dict[str, Any] = {"random_state": 0, "tol": 0.0, "n_iter_no_change": np.inf, **settings}
    one = "scikit-learn, 1 BLAS thread"  # on small layers, and on a busy machine, it is faster
    models = {
        "scikit-learn": theirs.MLPClassifier(**both),
        one: theirs.MLPClassifier(**both),
        "fastreg": ours.MLPClassifier(**both),
        "fastreg, dtype='float32'": ours.MLPClassifier(**both, dtype="float32"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that max_iter is reached
        for _ in range(rounds):
            for name, model in models.items():
                with threadpool_limits(1 if name == one else None, user_api="blas"):
                    begin = time.perf_counter() + BREATH
                    while time.perf_counter() < begin:
                        pass  # awake: a CPU that slept takes a while to be quick again
                    fresh = models[name] = clone(model)
                    begun = time.perf_counter()
                    fresh.fit(train_x, train_y)
                    seconds[name].append(time.perf_counter() - begun)
    return [
        Fits(name, seconds[name], model.score(test_x, test_y)) for name, model in models.items()
    ]


def render(task: str, fits: list[Fits]) -> str:
    """A table; ratios are the time of scikit-learn's faster row over the row's."""
    first = min(fits[:2], key=lambda fit: min(fit.seconds))
    lines = [f"{task}: {TASKS[task][0].__doc__} {TASKS[task][1]}"]
    lines.append(
        f"  {'':28}{'best ms':>9}{'median ms':>10}{'ratio':>8}{'by median':>11}{'accuracy':>10}"
    )
    for fit in fits:
        best, median = min(fit.seconds), float(np.median(fit.seconds))
        paired = np.median([a / b for a, b in zip(first.seconds, fit.seconds, strict=True)])
        lines.append(
            f"  {fit.name:28}{1e3 * best:9.2f}{1e3 * median:10.2f}{min(first.seconds) / best:8.1f}"
            f"{paired:11.1f}{fit.accuracy:10.4f}"
        )
    return "\n".join(lines)


def main(rounds: int) -> None:
    """Measure and print."""
    for task in TASKS:
        print(render(task, measure(task, rounds)) + "\n", flush=True)
