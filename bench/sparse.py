"""Where leaving zero weights out at inference breaks even: `python -m bench.sparse`.

A line a layer and batch: microseconds of the dense product on one thread, how many times faster the
nonzeros alone are at each density, and in brackets what `src_c/sparse.c` chooses the dense one for.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from fastreg import _engine

SHAPES = [(256, 256), (784, 512), (2048, 2048)]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 512]
DENSITIES = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]


def make(use: str, kernel: np.ndarray) -> _engine.Network:
    """One layer that leaves zeros out as `use` says."""
    n_in, n_out = kernel.shape
    _engine.choose_sparse(use)
    layer = {"kind": "dense", "n_in": n_in, "n_out": n_out, "use_bias": False}
    network = _engine.Network([layer], kernel.dtype.name)
    _engine.choose_sparse("")
    network.set_weights([kernel])
    return network


def seconds(networks: list[_engine.Network], x: np.ndarray, n_out: int, span: float) -> list[float]:
    """The shortest call of each; they take turns for `span` seconds."""
    out = np.empty((len(x), n_out), x.dtype)
    best = [np.inf] * len(networks)
    end = time.perf_counter() + span
    while time.perf_counter() < end or np.isinf(best[0]):
        for i, network in enumerate(networks):
            network.forward(x, len(x), out, 1)  # brings its own weights to the cache
            begun = time.perf_counter()
            network.forward(x, len(x), out, 1)
            best[i] = min(best[i], time.perf_counter() - begun)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sparse", description=__doc__.partition(":")[0] + "."
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=0.2, help="for each figure")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{arguments.dtype}, {_engine.isa()}, dense products: {_engine.gemm()}")
    for n_in, n_out in SHAPES:
        kernel = rng.standard_normal((n_in, n_out)).astype(arguments.dtype)
        keep = rng.random(kernel.shape)
        for rows in ROWS:
            x = rng.standard_normal((rows, n_in)).astype(arguments.dtype)
            words = []
            for density in DENSITIES:
                thinned = np.where(keep < density, kernel, 0).astype(kernel.dtype)
                pair = [make("never", thinned), make("always", thinned)]
                dense, sparse = seconds(pair, x, n_out, arguments.seconds)
                word = f"{dense / sparse:.2f}"
                chosen = make("auto", thinned).densities(rows)[0] < 1
                words.append(f" {word} " if chosen else f"[{word}]")
            head = f"{n_in} x {n_out}, {rows} rows: {dense * 1e6:.1f} us"
            print(f"{head:36}", *(f"{word:>8}" for word in words), flush=True)


if __name__ == "__main__":
    print("density".ljust(36), *(f"{density:7.0%} " for density in DENSITIES))
    main()
