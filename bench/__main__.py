"""`python -m bench`: one training step of each workload, fastreg beside its peers.

Each peer runs in a process of its own, pinned to the same cores and the same number of threads.
The peers take turns, round after round, and whoever is not on turn is stopped, so that a spinning
thread of one cannot slow another. Ratios are of one run: the machine is part of the number.

`python -m bench sparsity` measures what exact zeros buy and cost instead, `python -m bench one_row`
calls on single rows, `python -m bench activations` a step under each activation; `python -m
bench.sparse` and `bench.active` where leaving zeros out breaks even.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import estimators
from bench.peers import DEFAULT_PEERS, PEERS
from bench.workloads import WORKLOADS, Workload

TOPICS = ("activations", "one_row", "sparsity")  # modules with a command line of their own
N_LOSSES = 5
LOSS_TOLERANCE = 1e-4  # float32


@dataclass
class Result:
    """One peer on one workload."""

    peer: str
    version: str = ""
    missing: str = ""
    differs: str = ""
    step_seconds: list[float] = field(default_factory=list)  # one a round
    losses: list[float] = field(default_factory=list)  # the objective after each of the first steps

    @property
    def best(self) -> float:
        return min(self.step_seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.step_seconds)


class Worker:
    """A peer's process, and the conversation with it (see `bench.peers`)."""

    def __init__(self, peer: str, workload: Workload, cores: list[int]) -> None:
        n = str(len(cores))
        environment = os.environ | {
            "OMP_NUM_THREADS": n,
            "MKL_NUM_THREADS": n,
            "OPENBLAS_NUM_THREADS": n,
            "FASTREG_NUM_THREADS": n,
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=" + ("true" if len(cores) > 1 else "false"),
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        # XLA sizes its pool by the cores the process may use, so the pinning is done before exec.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers", peer, workload.name],
            cwd=Path(__file__).parent.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.peer = peer
        self.hello = self._answer()
        self._stop()

    def ask(self, command: str) -> Any:
        """The answer to a line of the protocol; the process sleeps before and after."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self._stop()
        return answer

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"peer {self.peer}: ended with status {self.process.wait()}")
        return json.loads(line)

    def _stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(
    workload: Workload, peers: Iterable[str], cores: list[int], rounds: int, seconds: float
) -> list[Result]:
    """The results of `peers` on one workload, in their order; `seconds` a peer and round."""
    from tqdm import tqdm

    results, workers, epochs = [], {}, {}
    try:
        bar = tqdm(list(peers), desc=f"{workload.name}: start", leave=False, file=sys.stderr)
        for peer in bar:
            bar.set_postfix_str(peer)
            worker = Worker(peer, workload, cores)
            workers[peer] = worker
            result = Result(peer, **worker.hello)
            results.append(result)
            if result.missing:
                worker.close()
                continue
            result.losses = worker.ask(f"losses {N_LOSSES}")
            worker.ask("run 1")  # compiles
            epochs[peer] = max(1, round(seconds / worker.ask("run 1")))
        for _ in tqdm(range(rounds), desc=f"{workload.name}: rounds", leave=False, file=sys.stderr):
            for result in results:
                if not result.missing:
                    n = epochs[result.peer]
                    taken = workers[result.peer].ask(f"run {n}")
                    result.step_seconds.append(taken / (n * workload.n_batches))
    finally:
        for worker in workers.values():
            worker.close()
    return results


def loss_difference(result: Result, yardstick: Result) -> float:
    """The largest relative difference of the objective over the first steps."""
    pairs = zip(result.losses, yardstick.losses, strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


def render(workload: Workload, results: list[Result]) -> str:
    """One aligned table; ratios above 1 say how much longer the peer takes than fastreg."""
    present = [r for r in results if not r.missing]
    base = next((r for r in present if r.peer == "fastreg"), present[0] if present else None)
    yardstick = next((r for r in present if r.peer == "numpy"), base)
    name = base.peer if base else "-"
    rows = [("peer", "best us", "median us", f"x {name}", "by median", "loss off", "")]
    for r in results:
        if r.missing:
            rows.append((r.peer, "-", "-", "-", "-", "-", r.missing))
            continue
        assert base is not None and yardstick is not None
        off = loss_difference(r, yardstick)
        # Rounds are paired: a slow moment of the machine hits both sides of a ratio.
        paired = statistics.median(
            a / b for a, b in zip(r.step_seconds, base.step_seconds, strict=True)
        )
        remark = r.differs
        if not remark and off > LOSS_TOLERANCE:
            remark = f"WARNING: does not compute what {yardstick.peer} computes"
        rows.append(
            (
                f"{r.version} {r.peer.partition('.')[2]}".strip(),
                f"{r.best * 1e6:.1f}",
                f"{r.median * 1e6:.1f}",
                f"{r.best / base.best:.2f}",
                f"{paired:.2f}",
                "-" if r.differs else f"{off:.0e}",
                remark,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [workload.describe()]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def plot(path: str, tables: dict[str, list[Result]], caption: str) -> None:
    """Save a bar chart of the ratios, a panel for each workload."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(tables), figsize=(1.2 + 2.6 * len(tables), 3.4), squeeze=False, layout="constrained"
    )
    for ax, (name, results) in zip(axes[0], tables.items(), strict=True):
        present = [r for r in results if not r.missing]
        base = next((r for r in present if r.peer == "fastreg"), present[0])
        present.sort(key=lambda r: r.best)
        ratios = [r.best / base.best for r in present]
        colors = ["#d95f02" if r is base else "#9aa5b1" for r in present]
        bars = ax.barh([r.peer + ("*" if r.differs else "") for r in present], ratios, color=colors)
        labels = [
            duration(r.best) if r is base else f"{x:.3g}x" if x >= 10 else f"{x:.2f}x"
            for r, x in zip(present, ratios, strict=True)
        ]
        ax.bar_label(bars, labels, padding=3, fontsize=9)
        ax.set_xlim(0, max(ratios) * 1.6)
        ax.invert_yaxis()
        ax.set_title(f"{name}\n{'-'.join(map(str, WORKLOADS[name].sizes))}", fontsize=10)
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle("Time of one training step; shorter is faster", fontsize=12)
    starred = any(r.differs for results in tables.values() for r in results)
    note = caption + ("; * computes less: it lacks some penalties" if starred else "")
    figure.supxlabel(note, fontsize=8, color="#555555")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(1.234e-5), duration(0.136)
    ('12.3 us', '136 ms')
    """
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load() -> str:
    """The load averages of 1, 5 and 15 minutes: a busy machine makes ratios meaningless."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def names(kind: str, known: Iterable[str], given: Iterable[str]) -> list[str]:
    """`given` if every one is `known`; the error names the rest."""
    known, given = list(known), list(given)
    if strange := [name for name in given if name not in known]:
        raise SystemExit(f"{kind}: got {', '.join(strange)}; allowed: {', '.join(known)}")
    return given


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and save what was asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in TOPICS:
        import_module(f"bench.{arguments[0]}").main(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "workloads",
        nargs="*",
        help=f"of {', '.join(WORKLOADS)}; none = all; or `sklearn`: fits of the estimators",
    )
    parser.add_argument(
        "--peers", default=",".join(DEFAULT_PEERS), help=f"of {','.join(PEERS)} (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads, each on its own core (2)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each peer (7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="a turn's length (0.5)")
    parser.add_argument("--plot", metavar="FILE", help="save a bar chart of the ratios")
    parser.add_argument("--json", metavar="FILE", help="save every number")
    options = parser.parse_args(arguments)

    if options.workloads == ["sklearn"]:
        print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, load {load()}\n", flush=True)
        estimators.main(options.rounds)
        print(f"load {load()}")
        return
    workloads = names("workloads", WORKLOADS, options.workloads or WORKLOADS)
    peers = names("--peers", PEERS, options.peers.split(","))
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(cores):
        raise SystemExit(f"--threads: got {options.threads}; allowed: 1 to {len(cores)}")
    if options.rounds < 1 or options.seconds <= 0:
        raise SystemExit("--rounds and --seconds must be above 0")

    machine = f"{cpu_model()}, {options.threads} of {len(cores)} cores"
    print(f"{machine}, Python {platform.python_version()}, load {load()}\n", flush=True)
    tables = {}
    for name in workloads:
        tables[name] = measure(
            WORKLOADS[name],
            peers,
            cores[: options.threads],
            options.rounds,
            options.seconds,
        )
        print(render(WORKLOADS[name], tables[name]) + "\n", flush=True)
    print(f"load {load()}")
    if options.json:
        record = {
            "machine": machine,
            "threads": options.threads,
            "workloads": {name: [asdict(r) for r in rs] for name, rs in tables.items()},
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        plot(options.plot, tables, machine)
        print(f"chart: {options.plot}")


if __name__ == "__main__":
    main()
