"""The five workloads, defined once: every peer, test and chart takes them from here.

All train on float32 random data with the mean squared error, the named activation on the hidden
layers and a linear output. Penalties: `l1` and `l2` on every kernel, `activity_l1` on the output
of every hidden layer (divided by the batch, as Keras does).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A network, its penalties and optimizer, and the data of one epoch."""

    name: str
    sizes: tuple[int, ...]
    n_batch: int
    n_batches: int
    activation: str
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    activity_l1: float = 0.0

    def describe(self) -> str:
        """One line, for the head of a table.

        >>> WORKLOADS["rl"].describe()
        'rl: 8-64-64-2, batch 32, tanh, adam, L2'
        """
        optimizer = "momentum" if self.momentum else self.optimizer
        kernel = "+".join(name for name, on in [("L1", self.l1), ("L2", self.l2)] if on)
        parts = [
            f"{self.name}: {'-'.join(map(str, self.sizes))}",
            f"batch {self.n_batch}",
            self.activation,
            optimizer,
            kernel,
            "activity L1" if self.activity_l1 else "",
        ]
        return ", ".join(part for part in parts if part)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x (n_batches * n_batch, n_in) and y (..., n_out), float32, the same in every process."""
        rng = np.random.default_rng(1)
        n = self.n_batches * self.n_batch
        x = rng.standard_normal((n, self.sizes[0]), dtype=np.float32)
        y = rng.standard_normal((n, self.sizes[-1]), dtype=np.float32)
        return x, y

    def weights(self) -> list[np.ndarray]:
        """[kernel, bias, ...]: Glorot uniform and zeros, the same in every process."""
        rng = np.random.default_rng(2)
        weights = []
        for n_in, n_out in pairwise(self.sizes):
            limit = np.sqrt(6 / (n_in + n_out))
            kernel = rng.uniform(-limit, limit, (n_in, n_out)).astype(np.float32)
            weights += [kernel, np.zeros(n_out, np.float32)]
        return weights

    def loss(self, weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
        """The objective of one batch in float64: the yardstick that no peer has written."""
        a = x.astype(np.float64)
        penalty = 0.0
        last = len(weights) // 2 - 1
        for i, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            w = kernel.astype(np.float64)
            penalty += self.l1 * np.abs(w).sum() + self.l2 * np.square(w).sum()
            a = a @ w + bias
            if i < last:
                a = np.tanh(a) if self.activation == "tanh" else np.maximum(a, 0)
                penalty += self.activity_l1 * np.abs(a).sum() / len(a)
        return float(np.square(a - y).mean() + penalty)


# n_batches: about 10 ms an epoch where that fits the caches, so that the cost of starting an epoch
# (a Python call and its checks) weighs as it does in use; no less than 4 steps for the large ones.
WORKLOADS = {
    w.name: w
    for w in [
        Workload("rl", (8, 64, 64, 2), 32, 1024, "tanh", "adam", 1e-3, l2=1e-4),
        Workload("tab", (54, 128, 64, 7), 256, 64, "relu", "adam", 1e-3, l1=1e-5, l2=1e-4),
        Workload(
            "mnist",
            (784, 512, 512, 10),
            128,
            16,
            "relu",
            "sgd",
            0.01,
            momentum=0.9,
            l1=1e-5,
            l2=1e-4,
            activity_l1=1e-5,
        ),
        Workload("sae", (512, 4096, 512), 256, 4, "relu", "adam", 1e-3, activity_l1=1e-5),
        Workload("wide", (1024, 2048, 2048, 1024), 512, 4, "relu", "adam", 1e-3, l1=1e-5, l2=1e-4),
    ]
}
