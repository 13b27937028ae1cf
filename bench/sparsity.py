"""`python -m bench sparsity`: what zeros buy, and what they cost, each as a ratio of one run.

Alternatives take turns, round after round, and the best of each counts; the load before and after
is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import fastreg as fr
from bench.active import autoencoder
from bench.peers import Fastreg
from bench.workloads import WORKLOADS

SIZES = (784, 512, 512, 10)


def best_of_turns(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, the best of `rounds`.

    >>> sorted(best_of_turns({"nothing": lambda: None}, 2))
    ['nothing']
    """
    best = dict.fromkeys(actions, float("inf"))
    for _ in range(rounds):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            best[name] = min(best[name], time.perf_counter() - begun)
    return best


def network(l1: float, optimizer: fr.optimizers.Optimizer, sizes: tuple[int, ...] = SIZES) -> Any:
    """relu layers with L1 on every kernel."""
    fr.set_random_seed(0)
    layers: list[Any] = [fr.Input((sizes[0],))]
    layers += [fr.Dense(n, "relu", kernel_regularizer=fr.L1(l1)) for n in sizes[1:-1]]
    layers += [fr.Dense(sizes[-1], "softmax", kernel_regularizer=fr.L1(l1))]
    model = fr.Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return model


def rows(n: int, n_in: int, n_useful: int) -> tuple[np.ndarray, np.ndarray]:
    """x (n, n_in) and 10 classes that the first `n_useful` columns tell."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, n_in), dtype=np.float32)
    y = (x[:, :n_useful] @ rng.standard_normal((n_useful, 10))).argmax(axis=1)
    return x, y


def thinned(share: float) -> Any:
    """A network of which that share of the inputs and hidden units is dead."""
    model = network(0.0, fr.SGD())
    rng = np.random.default_rng(2)
    weights = model.get_weights()
    for kernel in weights[:-2:2]:
        kernel[:, rng.permutation(kernel.shape[1])[: int(share * kernel.shape[1])]] = 0
    weights[0][rng.permutation(SIZES[0])[: int(share * SIZES[0])]] = 0
    model.set_weights(weights)
    return model


def predictions(rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table: the same outputs from fewer weights."""
    x = rows(256, SIZES[0], 50)[0]
    dense = thinned(0.0)
    smalls = {share: fr.compact(thinned(share)) for share in (0.3, 0.5, 0.7, 0.9)}
    times = best_of_turns(
        {"dense": lambda: dense.predict(x)}
        | {f"{share}": lambda m=m: m.predict(x) for share, m in smalls.items()},
        20 * rounds,
    )
    found = [("share dead", "flops", "time us", "flops x", "time x")]
    flops = fr.sparsity_report(dense)["flops"]
    for name, seconds in times.items():
        mine = flops if name == "dense" else fr.sparsity_report(smalls[float(name)])["flops"]
        ratios = (f"{flops / mine:.1f}", f"{times['dense'] / seconds:.1f}")
        found.append((name, f"{mine:,}", f"{seconds * 1e6:.0f}", *ratios))
    return found


class _Clock(fr.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.params: list[int] = []

    def set_params(self, params: dict[str, Any]) -> None:
        """Nothing of it is needed."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.params.append(self.model.count_params())
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def epochs(n_epochs: int) -> list[tuple[str, ...]]:
    """Rows of the table: epochs of a strongly regularized fit, first ones against last ones."""
    x, y = rows(8192, SIZES[0], 50)
    model = network(5e-4, fr.Adam(1e-3, l1_step="cumulative"))
    clock = _Clock()
    model.fit(x, y, 128, n_epochs, verbose=0, callbacks=[clock, fr.Compact(every=2)])
    accuracy = model.evaluate(x, y, verbose=0)[1]
    first, last = min(clock.seconds[:2]), min(clock.seconds[-3:])
    found = [("epochs", "parameters", "ms an epoch", "x first", "accuracy")]
    found.append(("1-2", f"{clock.params[0]:,}", f"{first * 1e3:.1f}", "1.0", ""))
    cells = (f"{last * 1e3:.1f}", f"{first / last:.1f}", f"{accuracy:.3f}")
    return [*found, (f"{n_epochs - 2}-{n_epochs}", f"{clock.params[-1]:,}", *cells)]


def steps(rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table: what L1 that lands on zero costs a step of `tab`."""
    workload = replace(WORKLOADS["tab"], n_batches=64)
    runners = {}
    for l1_step in ("sign", "proximal", "cumulative"):
        runners[l1_step] = Fastreg(workload)
        runners[l1_step].model.optimizer.l1_step = l1_step
        runners[l1_step].epochs(2)
    times = best_of_turns({k: lambda r=r: r.epochs(1) for k, r in runners.items()}, 10 * rounds)
    found = [("l1_step", "us a step", "x sign")]
    for name, seconds in times.items():
        micro = f"{seconds / workload.n_batches * 1e6:.1f}"
        found.append((name, micro, f"{seconds / times['sign']:.2f}"))
    return found


def scattered(rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table: a wide layer whose zeros stand anywhere, which `compact` cannot take."""
    rng = np.random.default_rng(3)
    kernel = rng.standard_normal((2048, 2048), dtype=np.float32)
    models = {}
    for share in (0.0, 0.95):
        models[share] = fr.Sequential([fr.Input((2048,)), fr.Dense(2048, use_bias=False)])
        models[share].set_weights([np.where(rng.random(kernel.shape) < share, 0, kernel)])
    found = [("rows", "dense us", "95% zeros us", "x dense")]
    for n in (64, 128, 256, 512):
        x = rng.standard_normal((n, 2048), dtype=np.float32)
        actions = {
            f"{k}": lambda m=m, x=x: m.predict(x, batch_size=len(x)) for k, m in models.items()
        }
        times = best_of_turns(actions, 3 * rounds)
        dense, sparse = times["0.0"], times["0.95"]
        found.append((f"{n}", f"{dense * 1e6:.0f}", f"{sparse * 1e6:.0f}", f"{dense / sparse:.1f}"))
    return found


def activations(
    rounds: int,
    batches: tuple[int, ...] = (256, 1024),
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
) -> list[tuple[str, ...]]:
    """Rows of the table: a step of `sae` on all units, on the active ones, and as chosen."""
    found = [("batch", "active", "all ms", "active ms", "chosen ms", "x all")]
    for batch in batches:
        for active in shares:
            models = {
                u: autoencoder(batch, active, u, (512, 4096)) for u in ("never", "always", "auto")
            }
            actions = {
                use: lambda m=m, x=x, b=batch: m.fit(x, x, b, 1, verbose=0, shuffle=False)
                for use, (m, x) in models.items()
            }
            times = best_of_turns(actions, max(2, rounds // 2))
            steps = max(batch, 512) // batch
            share = models["always"][0].network.active_shares()[0]
            cells = [f"{times[use] / steps * 1e3:.1f}" for use in ("never", "always", "auto")]
            found.append(
                (f"{batch}", f"{share:.1%}", *cells, f"{times['never'] / times['auto']:.2f}")
            )
    return found


def paths() -> list[tuple[str, ...]]:
    """Rows of the table: 50 strengths warm, in cold fits of one of them.

    A cold fit is a 50th of the same path with `warm_start=False`, from the model's own weights at
    each strength: the same solver, tolerance and report.
    """

    def fit(sizes: tuple[int, ...]) -> Any:
        return network(1e-3, fr.Adam(1e-3, l1_step="cumulative"), sizes)

    def linear(regularizer: Any, units: int = 1, classes: bool = False) -> Any:
        fr.set_random_seed(0)
        layer = fr.Dense(units, "sigmoid" if classes else None, kernel_regularizer=regularizer)
        model = fr.Sequential([fr.Input((200,)), layer])
        model.compile("sgd", "binary_crossentropy" if classes else "mse")
        return model

    x, y = rows(8192, 128, 20)
    small, labels = rows(2048, 64, 10)
    rng = np.random.default_rng(4)
    wide = rng.standard_normal((1000, 200))
    target = wide[:, :20] @ rng.standard_normal(20) + rng.standard_normal(1000)
    targets = np.stack([target, target**2 / 30, target + wide[:, 3]], axis=1)
    signs = (target > 0).astype(float)[:, np.newaxis]
    cases: dict[str, tuple[Callable[[], Any], Any, Any, dict[str, Any]]] = {
        "128-256-10, fit": (lambda: fit((128, 256, 10)), x, y, {"epochs": 20, "batch_size": 128}),
        "64-64-10, fit": (
            lambda: fit((64, 64, 10)),
            small,
            labels,
            {"epochs": 50, "batch_size": 64},
        ),
        "128-10, polish": (lambda: network(1e-3, fr.SGD(), (128, 10)), x, y, {}),
        "64-10, polish": (lambda: network(1e-3, fr.SGD(), (64, 10)), small, labels, {}),
        "200-1 Lasso, polish": (lambda: linear("l1"), wide, target, {}),
        "200-1 elastic net, polish": (lambda: linear(fr.L1L2(0.01, 0.01)), wide, target, {}),
        "200-3 group lasso, polish": (lambda: linear(fr.GroupL1(0.01), 3), wide, targets, {}),
        "200-1 logistic, polish": (lambda: linear("l1", classes=True), wide, signs, {}),
    }
    found = [("model", "rows", "path s", "cold fit ms", "path / cold")]
    for name, (make, data, truth, options) in cases.items():
        begun = time.perf_counter()
        path = fr.regularization_path(make(), data, truth, verbose=0, **options)
        taken, begun = time.perf_counter() - begun, time.perf_counter()
        options |= {"warm_start": False, "n_jobs": 1, "verbose": 0}
        fr.regularization_path(make(), data, truth, path.strengths, **options)
        cold = (time.perf_counter() - begun) / len(path)
        cells = (f"{taken:.3f}", f"{cold * 1e3:.1f}", f"{taken / cold:.1f}")
        found.append((name, f"{len(data)}", *cells))
    return found + peers_paths(wide, target, signs)


def peers_paths(x: np.ndarray, y: np.ndarray, signs: np.ndarray) -> list[tuple[str, ...]]:
    """Rows of the table: scikit-learn's own paths of the same problems, at its own tolerances."""
    from sklearn.linear_model import LogisticRegression, enet_path, lasso_path

    centred, t = x - x.mean(axis=0), y - y.mean()  # they fit no intercept
    labels = signs.ravel()
    top = np.abs(x.T @ (labels - labels.mean())).max() / len(x)

    def logistic() -> None:
        model = LogisticRegression(l1_ratio=1, solver="saga", warm_start=True, max_iter=1000)
        for strength in top * np.geomspace(1, 1e-3, 50):
            model.set_params(C=1 / (len(x) * strength)).fit(x, labels)

    def elastic() -> None:
        # It keeps the ratio of l1 to l2 along the path; ours keeps l2.
        enet_path(centred, t, l1_ratio=0.5, n_alphas=50, eps=1e-3)

    actions = {
        "scikit-learn lasso_path": lambda: lasso_path(centred, t, n_alphas=50, eps=1e-3),
        "scikit-learn enet_path": elastic,
        "scikit-learn LogisticRegression (saga)": logistic,
    }
    found = []
    for name, action in actions.items():
        begun = time.perf_counter()
        action()
        found.append((name, f"{len(x)}", f"{time.perf_counter() - begun:.3f}", "", ""))
    return found


def table(title: str, cells: list[tuple[str, ...]]) -> str:
    """Aligned lines.

    >>> print(table("what", [("a", "b"), ("1", "20")]))
    what
      a   b
      1  20
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join([title, *("  " + "  ".join(map(str.rjust, row, widths)) for row in cells)])


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    from bench.__main__ import cpu_model, load

    parser = argparse.ArgumentParser(prog="python -m bench sparsity", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of fastreg (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument("--epochs", type=int, default=30, help="of the long fit (%(default)s)")
    options = parser.parse_args(arguments)
    if options.threads < 1 or options.rounds < 1 or options.epochs < 5:
        raise SystemExit("--threads and --rounds must be 1 at least, --epochs 5")
    fr.set_num_threads(options.threads)
    print(
        f"fastreg {fr.__version__}, {cpu_model()}, {options.threads} of {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, load {load()}\n",
        flush=True,
    )
    sizes = "-".join(map(str, SIZES))
    print(table(f"predict 256 rows, {sizes} made compact", predictions(options.rounds)), flush=True)
    title = f"\nan epoch of 8192 rows, {sizes}, Adam, l1 5e-4, Compact(every=2)"
    print(table(title, epochs(options.epochs)), flush=True)
    print(table("\na training step of tab", steps(options.rounds)), flush=True)
    title = "\npredict, 2048-2048, zeros anywhere"
    print(table(title, scattered(options.rounds)), flush=True)
    title = "\na training step of sae, 512-4096-512 relu, Adam"
    print(table(title, activations(options.rounds)), flush=True)
    print(table("\na path of 50 strengths, in cold fits", paths()), flush=True)
    print(f"\nload {load()}")


if __name__ == "__main__":
    main()
