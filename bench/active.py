"""Where leaving out units at rest breaks even in training: `python -m bench.active`.

A line a network and batch: milliseconds of a step that takes all units, on one thread, how many
times faster the active ones alone are at each share of them, in brackets where `src_c/active.c`
takes all, and the share at which both are even. Below it the three numbers of that file which fit
these shares. FASTREG_ISA=avx2 asks a weaker instruction set.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import least_squares

import fastreg as fr
from fastreg import _engine

INPUTS = [64, 128, 256, 512]
WIDTHS = [1024]
BATCHES = [64, 256, 1024]
SHARES = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4]


def autoencoder(
    batch: int, active: float, use: str, sizes: tuple[int, int], dtype: str = "float32"
) -> tuple[Any, np.ndarray]:
    """A relu network of `sizes` inputs and units, about that share of these active, and its rows.

    Its steps are so small that the share stays; `use` is FASTREG_SPARSE.
    """
    before = _engine.sparse()
    _engine.choose_sparse(use)
    try:
        fr.set_random_seed(0)
        n_in, width = sizes
        encoder = fr.Dense(width, "relu", activity_regularizer=fr.L1(1e-5))
        layers = [fr.Input((n_in,), dtype=dtype), encoder, fr.Dense(n_in)]
        model = fr.Sequential(layers)
        model.compile(fr.Adam(1e-7), "mse")
        n = max(batch, 512)
        x = np.random.default_rng(5).standard_normal((n, n_in), dtype=np.float32).astype(dtype)
        kernel, bias, *rest = model.get_weights()
        bias[:] = -np.quantile(x[:256] @ kernel, 1 - active)
        model.set_weights([kernel, bias, *rest])
        model.fit(x, x, batch, 1, verbose=0, shuffle=False)
    finally:
        _engine.choose_sparse(before)
    return model, x


def seconds(models: list[tuple[Any, np.ndarray]], batch: int, span: float) -> list[float]:
    """The shortest step of each, an epoch's mean; they take turns for `span` seconds."""
    best = [np.inf] * len(models)
    end = time.perf_counter() + span
    while time.perf_counter() < end or np.isinf(best[0]):
        for i, (model, x) in enumerate(models):
            begun = time.perf_counter()
            model.fit(x, x, batch, 1, verbose=0, shuffle=False)
            best[i] = min(best[i], (time.perf_counter() - begun) / (len(x) // batch))
    return best


def even(shares: list[float], ratios: list[float]) -> float:
    """The share at which the ratio falls below 1, between two that were measured; NaN outside.

    >>> round(even([0.1, 0.2], [1.1, 0.9]), 2)
    0.15
    """
    below = next((i for i, ratio in enumerate(ratios) if ratio < 1), 0)
    if below == 0:
        return float("nan")
    part = (ratios[below - 1] - 1) / (ratios[below - 1] - ratios[below])
    return shares[below - 1] + part * (shares[below] - shares[below - 1])


def fit(numbers: np.ndarray, evens: np.ndarray) -> tuple[float, float, float]:
    """The best most (K - look) / (K + term) for these K; a disturbed measurement counts less.

    >>> k = np.array([256.0, 512, 1024, 2048])
    >>> [round(v, 1) for v in fit(k, 0.3 * (k - 100) / (k + 700))]
    [0.3, 700.0, 100.0]
    """

    def off(p: np.ndarray) -> np.ndarray:
        return p[0] * (numbers - p[2]) / (numbers + p[1]) - evens

    found = least_squares(
        off, [0.3, 500.0, 50.0], x_scale=[0.1, 500.0, 50.0], loss="soft_l1", f_scale=0.01
    )
    most, term, look = found.x
    return float(most), float(term), float(look)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.active", description=__doc__.partition(":")[0] + "."
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=0.15, help="for each figure")
    parser.add_argument("--inputs", type=int, nargs="+", default=INPUTS, help="and outputs")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    arguments = parser.parse_args()
    fr.set_num_threads(1)
    print(f"{arguments.dtype}, {_engine.isa()}, products: {_engine.gemm()}, one thread")
    print("active".ljust(36), *(f"{share:7.0%} " for share in arguments.shares), "even")
    numbers, evens = [], []
    for n_in, width, batch in product(arguments.inputs, arguments.widths, arguments.batches):
        words, ratios, head = [], [], 0.0
        for share in arguments.shares:
            models = [
                autoencoder(batch, share, use, (n_in, width), arguments.dtype)
                for use in ("never", "always", "auto")
            ]
            every, active = seconds(models[:2], batch, arguments.seconds)
            ratios.append(every / active)
            chosen = models[2][0].network.active_shares()[0] < 1
            words.append(f" {ratios[-1]:.2f} " if chosen else f"[{ratios[-1]:.2f}]")
            head = head or every
        line = f"{n_in}-{width}-{n_in}, {batch} rows: {head * 1e3:.2f} ms"
        found = even(arguments.shares, ratios)
        print(f"{line:36}", *(f"{word:>8}" for word in words), f"{found:.3f}", flush=True)
        if np.isfinite(found):
            numbers.append(4.0 * n_in)  # 3 products of the reader, the layer's own x'dz
            evens.append(found)
    if len(set(numbers)) > 2:
        most, term, look = fit(np.array(numbers), np.array(evens))
        print(f"even at {most:.2f} (K - {look:.0f}) / (K + {term:.0f})")


if __name__ == "__main__":
    main()
