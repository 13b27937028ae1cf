"""What a training step takes under each activation of the hidden layers, by the step under relu.

`python -m bench activations`: the workload tab; the models take turns, the shortest epoch counts.
"""

from __future__ import annotations

import argparse
import time

import fastreg as fr
from bench.workloads import WORKLOADS, Workload

ACTIVATIONS = [
    *(fr.activations.Activation(name) for name in fr.activations.NAMES),
    fr.activations.Activation("gelu", approximate=True),
    fr.activations.Activation("relu", negative_slope=0.1, max_value=6, threshold=0.1),
]
BOUND = 1.3  # of an elementwise activation
WHOLE_ROWS = ("softmax", "log_softmax")


def make(workload: Workload, activation: fr.activations.Activation, threads: int) -> fr.Sequential:
    """The workload's model with another activation."""
    penalty = fr.L1L2(workload.l1, workload.l2)
    *hidden, last = workload.sizes[1:]
    layers = [fr.Dense(n, activation, kernel_regularizer=penalty) for n in hidden]
    model = fr.Sequential(
        [fr.Input(workload.sizes[:1]), *layers, fr.Dense(last, kernel_regularizer=penalty)]
    )
    model.set_weights(workload.weights())
    model.compile(fr.Adam(workload.learning_rate), "mse", n_threads=threads)
    return model


def measure(workload: Workload, threads: int, rounds: int) -> list[float]:
    """The seconds of a step under each of ACTIVATIONS."""
    x, y = workload.data()
    models = [make(workload, activation, threads) for activation in ACTIVATIONS]
    best = [float("inf")] * len(models)
    for _ in range(rounds):
        for i, model in enumerate(models):
            begun = time.perf_counter()
            model.fit(x, y, workload.n_batch, epochs=2, shuffle=False, verbose=0)
            best[i] = min(best[i], time.perf_counter() - begun)
    return [seconds / 2 / workload.n_batches for seconds in best]


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench activations", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    workload = WORKLOADS["tab"]
    print(f"{workload.describe()}, {options.threads} threads; the activation of the hidden layers")
    found = measure(workload, options.threads, options.rounds)
    plain = found[[activation.kind for activation in ACTIVATIONS].index("relu")]
    for activation, seconds in zip(ACTIVATIONS, found, strict=True):
        above = seconds > BOUND * plain and activation.name not in WHOLE_ROWS
        words = f"{activation.kind:<14}{seconds * 1e6:8.1f} us  {seconds / plain:5.2f} of relu"
        print(f"{words}{f'  above {BOUND}' if above else ''}", flush=True)
