"""The benchmarks measure what they say: workloads, the workers' conversation, the table."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastreg as fr
from bench import __main__ as bench
from bench.imports import import_cost
from bench.peers import DEFAULT_PEERS, PEERS, Fastreg, NumPy
from bench.workloads import WORKLOADS, Workload

TINY = Workload("tiny", (3, 5, 4, 2), 4, 3, "tanh", "adam", 1e-3, l1=0.1, l2=0.2, activity_l1=0.3)


def result(peer: str, *microseconds: float, **options: Any) -> bench.Result:
    losses = options.pop("losses", [2.0, 1.0])
    seconds = [value * 1e-6 for value in microseconds]
    return bench.Result(peer, f"{peer} 1.0", step_seconds=seconds, losses=losses, **options)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_data_and_weights_fit_the_network(workload: Workload) -> None:
    small = replace(workload, n_batches=2)
    x, y = small.data()
    assert x.shape == (2 * workload.n_batch, workload.sizes[0])
    assert y.shape == (2 * workload.n_batch, workload.sizes[-1])
    weights = workload.weights()
    assert [w.shape for w in weights[::2]] == list(
        zip(workload.sizes[:-1], workload.sizes[1:], strict=True)
    )
    assert {a.dtype for a in [x, y, *weights]} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(weights[0], workload.weights()[0])


def test_loss_counts_data_and_every_penalty() -> None:
    kernel = np.array([[1.0], [-2.0]])
    workload = Workload("w", (2, 1, 1), 2, 1, "relu", "sgd", 0.1, l1=0.1, l2=0.01, activity_l1=0.5)
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0], [1.0]])
    weights = [kernel, np.array([1.0]), np.array([[3.0]]), np.array([-1.0])]
    # hidden relu([2, -1]) = [2, 0]; output [5, -1]; errors 25 and 4
    expected = 14.5 + 0.1 * (3 + 3) + 0.01 * (5 + 9) + 0.5 * 2 / 2
    assert workload.loss(weights, x, y) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [Fastreg, NumPy])
def test_training_follows_the_gradient_of_the_objective(kind: type[Fastreg]) -> None:
    """One plain SGD step moves the first kernel by the central difference of `Workload.loss`."""
    workload = replace(TINY, optimizer="sgd", learning_rate=0.01)
    runner = kind(workload)
    before = runner.weights()
    runner.step(0)
    moved = (before[0] - runner.weights()[0]) / workload.learning_rate
    x, y = (a[: workload.n_batch] for a in workload.data())
    slopes = np.empty_like(before[0], np.float64)
    for i in np.ndindex(slopes.shape):
        ends = []
        for h in (1e-5, -1e-5):
            shifted = [a.astype(np.float64) for a in before]
            shifted[0][i] += h
            ends.append(workload.loss(shifted, x, y))
        slopes[i] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(moved, slopes, rtol=2e-3, atol=2e-4)


def test_a_round_with_real_workers() -> None:
    core = sorted(os.sched_getaffinity(0))[:1]
    rl = WORKLOADS["rl"]
    results = bench.measure(rl, ["fastreg", "numpy"], core, rounds=1, seconds=1e-3)
    assert [r.peer for r in results] == ["fastreg", "numpy"]
    for r in results:
        assert not r.missing
        assert len(r.step_seconds) == 1
        assert 1e-7 < r.step_seconds[0] < 1
    assert bench.loss_difference(results[0], results[1]) < bench.LOSS_TOLERANCE
    table = bench.render(rl, results)
    assert "WARNING" not in table
    assert f"numpy {np.__version__}" in table


def test_a_worker_that_dies_is_named() -> None:
    core = sorted(os.sched_getaffinity(0))[:1]
    with pytest.raises(RuntimeError, match="peer fastreg: ended with status"):
        bench.Worker("fastreg", TINY, core)  # not a workload by name


def test_table_ratios() -> None:
    """Best against best, and the median of the rounds' own ratios."""
    table = bench.render(
        WORKLOADS["rl"], [result("fastreg", 10, 20, 30), result("torch", 50, 40, 90)]
    )
    title, head, own, other = table.splitlines()
    assert title == WORKLOADS["rl"].describe()
    assert re.split(r"\s{2,}", head.strip()) == [
        "peer",
        "best us",
        "median us",
        "x fastreg",
        "by median",
        "loss off",
    ]
    assert own.split()[2:] == ["10.0", "20.0", "1.00", "1.00", "0e+00"]
    assert other.split()[2:] == ["40.0", "50.0", "4.00", "3.00", "0e+00"]
    assert len(own) == len(other) == len(head)


def test_table_says_what_is_missing_wrong_or_less() -> None:
    table = bench.render(
        WORKLOADS["tab"],
        [
            result("fastreg", 10),
            result("numpy", 20),
            bench.Result("torch", missing="torch is not installed"),
            result("jax", 20, losses=[2.0, 1.1]),
            result("sklearn", 20, losses=[5.0, 5.0], differs="no L1"),
        ],
    )
    lines = {line.split()[0]: line for line in table.splitlines()[2:]}
    assert lines["torch"].endswith("torch is not installed")
    assert lines["jax"].endswith("WARNING: does not compute what numpy computes")
    assert lines["sklearn"].endswith("-  no L1")
    assert table.count("WARNING") == 1


def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "ratios.png"
    tables = {"rl": [result("fastreg", 10), result("torch", 400, differs="no L1")]}
    bench.plot(str(path), tables, "a machine")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rll"], "workloads: got rll; allowed: rl, tab"),
        (["--peers", "tensorflow"], "--peers: got tensorflow; allowed: fastreg"),
        (["--threads", "0"], "--threads: got 0; allowed: 1 to"),
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
    ],
)
def test_bad_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        bench.main(arguments)


@pytest.mark.parametrize("topic", bench.TOPICS)
def test_topics_have_a_command_line_of_their_own(
    topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaves:
        bench.main([topic, "--help"])
    assert leaves.value.code == 0
    assert f"usage: python -m bench {topic}" in capsys.readouterr().out


def test_default_peers_exist() -> None:
    assert set(DEFAULT_PEERS) <= set(PEERS)


def test_import_is_cheap_and_alone() -> None:
    seconds, optional = import_cost(repeats=5)
    assert optional == []
    assert seconds < 0.060


def test_the_sparsity_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import sparsity

    threads = fr.get_num_threads()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(sparsity, "paths", lambda: [("model",), ("path",)])
        plain_table = sparsity.activations
        patch.setattr(sparsity, "activations", lambda n: plain_table(n, (512,), (0.02,)))
        patch.setattr(sparsity, "rows", lambda n, n_in, k, plain=sparsity.rows: plain(256, n_in, k))
        bench.main(["sparsity", "--rounds", "1", "--epochs", "5"])
    fr.set_num_threads(threads)
    out = capsys.readouterr().out
    for words in ("predict 256 rows", "x first", "cumulative", "of sae", "a path of 50", "load"):
        assert words in out
    with pytest.raises(SystemExit):
        bench.main(["sparsity", "--rounds", "0"])
