"""`python -m bench.roofline`: the engine's three products beside what the machine can do.

Measured in one run: the peak of fused multiply-adds on registers, the memory bandwidth of an
update's three arrays, then over a grid of layers each product of a training step with its epilogue,
by the engine's own register tiles ("native") and by BLAS in the same place:

forward
    y = relu(x W + b)
backward
    dz = relu'(y) dy, db = sum dz, dx = dz W'
update
    dW = x'dz, and Adam with L1 and L2 on it

and the time of whole steps as batch, width and depth grow, as a cost per multiply-add: it must not
jump. `make roofline` does the set-up (this compiles `roofline.c` with the engine's sources).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.cython_blas

from bench.__main__ import cpu_model, load

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "build/roofline/library.so"
PROVIDERS = ("native", "blas")
PRODUCTS = ("forward", "backward", "update")
DTYPES = {"float32": 0, "float64": 1}
BANDWIDTH_ELEMENTS = 16 * 2**20  # 192 MB in three float32 arrays: past every cache

BATCHES = (32, 256)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
ODD_WIDTHS = (63, 100, 1000, 1023, 1025)  # tails, and the neighbours of a power of two

# What grows, one at a time: (n_batch, width, depth).
GROWTH = {
    "batch": [(n, 256, 3) for n in (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)],
    "width": [
        (128, n, 3)
        for n in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000, 1024, 1032, 1536)
    ],
    "depth": [(128, 256, n) for n in (1, 2, 3, 4, 6, 8, 12, 16)],
}


class Cell(NamedTuple):
    """One product of a layer: flops a second of each provider."""

    product: str
    n_batch: int
    n_in: int
    n_out: int
    native: float
    blas: float

    @property
    def flops(self) -> float:
        """Of the product alone."""
        return 2.0 * self.n_batch * self.n_in * self.n_out

    def traffic(self, itemsize: int) -> float:
        """Bytes that must be read or written once, wherever they stand.

        Backward reads y and dy and writes dz and dx; the update reads and writes the kernel and
        Adam's two moments, and writes the transposed kernel.
        """
        n_batch, n_in, n_out = self[1:4]
        elements = {
            "forward": n_in * n_out + n_batch * (n_in + n_out),
            "backward": n_in * n_out + n_batch * (n_in + 3 * n_out),
            "update": 7 * n_in * n_out + n_batch * (n_in + n_out),
        }
        return float(elements[self.product] * itemsize)


class Step(NamedTuple):
    """A training step of `depth` layers of one width."""

    n_batch: int
    width: int
    depth: int
    seconds: float

    @property
    def flops(self) -> float:
        """Of the products: three a layer, but for the first layer's dx."""
        return 2.0 * self.n_batch * self.width**2 * (3 * self.depth - 1)


class Engine:
    """roofline.c, with SciPy's BLAS handed over as `fastreg._engine` does."""

    def __init__(self, isa: str) -> None:
        if not LIBRARY.exists():
            raise SystemExit(f"{LIBRARY.relative_to(ROOT)} is not there: `make roofline` makes it")
        self.dll = ctypes.CDLL(str(LIBRARY))
        self.dll.roofline_peak.restype = ctypes.c_double
        self.dll.roofline_bandwidth.restype = ctypes.c_double
        self.dll.roofline_isa.restype = ctypes.c_char_p
        self.dll.roofline_blas(_blas("sgemm"), _blas("dgemm"))
        self.isa_wanted = isa.encode()
        self.choose("native")
        self.isa = self.dll.roofline_isa().decode()

    def choose(self, provider: str) -> None:
        """Whose products the networks made from now on run."""
        if self.dll.roofline_choose(self.isa_wanted, provider.encode()):
            raise SystemExit(f"FASTREG_ISA: got {self.isa_wanted.decode()!r}, which is not built")

    def peak(self, dtype: str, n_threads: int) -> float:
        """Floating-point operations a second of fused multiply-adds on registers."""
        return self.dll.roofline_peak(DTYPES[dtype], n_threads, 20)

    def bandwidth(self, n_threads: int) -> float:
        """Bytes a second, read and written, of three arrays updated together."""
        return self.dll.roofline_bandwidth(ctypes.c_ssize_t(BANDWIDTH_ELEMENTS), n_threads, 5)

    def products(
        self, dtype: str, n_batch: int, n_in: int, n_out: int, n_threads: int, seconds: float
    ) -> list[float]:
        """Seconds of each of PRODUCTS, the best found."""
        best = (ctypes.c_double * len(PRODUCTS))()
        sizes = [ctypes.c_ssize_t(n) for n in (n_batch, n_in, n_out)]
        status = self.dll.roofline_products(
            DTYPES[dtype], *sizes, n_threads, ctypes.c_double(seconds), best
        )
        if status:
            raise SystemExit(f"{n_batch}x{n_in}x{n_out}: the engine answered status {status}")
        return list(best)


def _blas(name: str) -> ctypes.c_void_p:
    capsule = scipy.linalg.cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_void_p(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


def measure_products(
    engine: Engine, dtype: str, n_threads: int, seconds: float, bar: Callable[[Any], Any]
) -> list[Cell]:
    """Every product of square layers over the grid, the providers by turns."""
    cells = []
    sizes = [(b, w, w) for b in BATCHES for w in sorted({*WIDTHS, *ODD_WIDTHS})]
    for n_batch, n_in, n_out in bar(sizes):
        taken = {}
        for provider in PROVIDERS:
            engine.choose(provider)
            taken[provider] = engine.products(dtype, n_batch, n_in, n_out, n_threads, seconds)
        for i, product in enumerate(PRODUCTS):
            cell = Cell(product, n_batch, n_in, n_out, 0, 0)
            rates = {provider: cell.flops / taken[provider][i] for provider in PROVIDERS}
            cells.append(cell._replace(**rates))
    return cells


def measure_growth(
    dtype: str, n_threads: int, seconds: float, bar: Callable[[Any], Any]
) -> dict[str, list[Step]]:
    """Whole training steps through `Sequential.fit`, relu, Adam, L1 and L2."""
    jobs = [(name, *sizes) for name, grid in GROWTH.items() for sizes in grid]
    found: dict[str, list[Step]] = {name: [] for name in GROWTH}
    for name, n_batch, width, depth in bar(jobs):
        taken = _step_seconds(dtype, n_batch, width, depth, n_threads, seconds)
        found[name].append(Step(n_batch, width, depth, taken))
    return found


def _step_seconds(
    dtype: str, n_batch: int, width: int, depth: int, n_threads: int, seconds: float
) -> float:
    import fastreg as fr

    rng = np.random.default_rng(0)
    layers = [fr.Dense(width, "relu", kernel_regularizer=fr.L1L2(1e-6, 1e-5)) for _ in range(depth)]
    model = fr.Sequential([fr.Input((width,), dtype=dtype), *layers])
    model.compile("adam", "mean_squared_error", n_threads=n_threads)
    flops = Step(n_batch, width, depth, 0).flops
    n_steps = max(4, min(512, int(2e8 / flops)))
    x = rng.standard_normal((n_steps * n_batch, width)).astype(dtype)
    y = rng.standard_normal((n_steps * n_batch, width)).astype(dtype)

    def fit() -> float:
        begin = time.perf_counter()
        model.fit(x, y, batch_size=n_batch, epochs=1, shuffle=False, verbose=0)
        return (time.perf_counter() - begin) / n_steps

    fit()
    best, end = fit(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, fit())
    return best


def table(cells: list[Cell], record: dict[str, Any]) -> Iterator[str]:
    """Lines: GF/s native and BLAS, their ratio, and native's share of the peak and the bandwidth.

    A share of the bandwidth above 1 says that a cache held the data.
    """
    itemsize = np.dtype(record["dtype"]).itemsize
    for product in PRODUCTS:
        head = f"{'native':>8}{'BLAS':>8}{'ratio':>8}{'of peak':>9}{'of memory':>11}"
        yield f"{product:16}{head}"
        for cell in cells:
            if cell.product != product:
                continue
            size = f"{cell.n_batch}x{cell.n_in}x{cell.n_out}"
            of_peak = f"{cell.native / record['peak']:9.0%}" if record["peak"] else f"{'-':>9}"
            rate = cell.traffic(itemsize) * cell.native / cell.flops
            yield (
                f"  {size:14}{cell.native / 1e9:8.1f}{cell.blas / 1e9:8.1f}"
                f"{cell.native / cell.blas:8.2f}{of_peak}{rate / record['bandwidth']:11.0%}"
            )
        yield ""


def growth_table(growth: dict[str, list[Step]]) -> Iterator[str]:
    """Lines: time of a step and rate; the work grows by the row."""
    for name, steps in growth.items():
        yield f"{name:>8}{'step':>12}{'GF/s':>8}{'time x':>9}{'work x':>9}"
        for before, step in pairwise([steps[0], *steps]):
            value = getattr(step, "n_batch" if name == "batch" else name)
            yield (
                f"{value:8}{step.seconds * 1e6:9.1f} us{step.flops / step.seconds / 1e9:8.1f}"
                f"{step.seconds / before.seconds:9.2f}{step.flops / before.flops:9.2f}"
            )
        yield ""


def plot(
    path: str, record: dict[str, Any], cells: list[Cell], growth: dict[str, list[Step]]
) -> None:
    """Above, each product against the peak; below, the rate of steps as they grow."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), sharey="row", layout="constrained")
    colors = {"native": "#d95f02", "blas": "#9aa5b1"}
    top = max([record["peak"], *(c.native for c in cells), *(c.blas for c in cells)]) / 1e9
    for ax, product in zip(axes[0], PRODUCTS, strict=True):
        for n_batch, style in zip(BATCHES, ("--", "-"), strict=True):
            chosen = [c for c in cells if (c.product, c.n_batch) == (product, n_batch)]
            for provider in PROVIDERS:
                label = f"{'fastreg' if provider == 'native' else 'BLAS'}, batch {n_batch}"
                for widths, shape in ((WIDTHS, style), (ODD_WIDTHS, "x" if style == "-" else "+")):
                    some = [c for c in chosen if c.n_in in widths]
                    rates = [getattr(c, provider) / 1e9 for c in some]
                    ax.plot(
                        [c.n_in for c in some],
                        rates,
                        shape,
                        color=colors[provider],
                        label=label if widths is WIDTHS else None,
                        markersize=4,
                    )
        ax.set_title(
            {
                "forward": "forward: relu(x W + b)",
                "backward": "backward: relu', db, dz W'",
                "update": "update: x'dz, L1 + L2, Adam",
            }[product],
            fontsize=10,
        )
        ax.set_xscale("log", base=2)
        ax.set_xticks(WIDTHS, [str(w) for w in WIDTHS], fontsize=8)
        ax.set_xlabel("n_in = n_out (crosses: tails, and neighbours of 1024)", fontsize=8)
    for ax, (name, steps) in zip(axes[1], growth.items(), strict=True):
        values = [getattr(s, "n_batch" if name == "batch" else name) for s in steps]
        ax.plot(values, [s.flops / s.seconds / 1e9 for s in steps], "o-", ms=3, color="#1b6ca8")
        ax.set_xscale("log", base=2)
        ticks = values if len(values) < 9 else [v for v in values if v & (v - 1) == 0]
        ax.set_xticks(ticks, [str(v) for v in ticks], fontsize=8)
        ax.minorticks_off()
        n_batch, width, depth = steps[-1][:3]
        fixed = {"batch": f"batch {n_batch}", "width": f"width {width}", "depth": f"{depth} layers"}
        del fixed[name]
        ax.set_title(f"whole steps: {', '.join(fixed.values())}", fontsize=10)
        ax.set_xlabel({"batch": "batch", "width": "width", "depth": "layers"}[name], fontsize=9)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0, top * 1.08)
        if record["peak"]:
            ax.axhline(record["peak"] / 1e9, color="black", lw=0.8, ls=":")
    axes[0, 0].set_ylabel("GF/s")
    axes[1, 0].set_ylabel("GF/s")
    if record["peak"]:
        axes[0, 0].annotate(
            "peak of multiply-adds",
            (WIDTHS[0], record["peak"] / 1e9),
            (0, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right", ncols=2)
    figure.supxlabel(record["machine"], fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and save what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=1, help="threads, each on its own core (1)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each measurement (0.1)")
    parser.add_argument("--plot", metavar="FILE", help="save the picture")
    parser.add_argument("--json", metavar="FILE", help="save every number")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(cores):
        raise SystemExit(f"--threads: got {options.threads}; allowed: 1 to {len(cores)}")
    if options.seconds <= 0:
        raise SystemExit("--seconds must be above 0")
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # it is read when NumPy loads
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.roofline", *(arguments or sys.argv[1:])]
        raise SystemExit(subprocess.call(command, env=environment))
    os.sched_setaffinity(0, cores[: options.threads])

    from tqdm import tqdm

    def bar(jobs: Any) -> Any:
        return tqdm(jobs, leave=False, file=sys.stderr)

    engine = Engine(os.environ.get("FASTREG_ISA", ""))
    n_threads, dtype = options.threads, options.dtype
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    machine = f"{cpu_model()}, {engine.isa}, {dtype}, {threads}"
    print(f"{machine}, Python {platform.python_version()}, load {load()}\n", flush=True)
    # Once before the grid and once after: the machine may change its clock under way.
    peaks = [engine.peak(dtype, n_threads)]
    record: dict[str, Any] = {
        "machine": machine,
        "dtype": dtype,
        "bandwidth": engine.bandwidth(n_threads),
    }
    cells = measure_products(engine, dtype, n_threads, options.seconds, bar)
    growth = measure_growth(dtype, n_threads, options.seconds, bar)
    peaks.append(engine.peak(dtype, n_threads))
    record["peak"] = max(peaks)
    print(f"peak of fused multiply-adds  {record['peak'] / 1e9:8.1f} GF/s")
    print(f"memory, three arrays updated {record['bandwidth'] / 1e9:8.1f} GB/s\n")
    print("\n".join([*table(cells, record), *growth_table(growth)]))
    print(f"load {load()}")
    if options.json:
        record |= {
            "products": [cell._asdict() for cell in cells],
            "growth": {name: [s._asdict() for s in steps] for name, steps in growth.items()},
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        plot(options.plot, record, cells, growth)
        print(f"picture: {options.plot}")


if __name__ == "__main__":
    main()
