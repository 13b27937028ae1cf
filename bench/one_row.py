"""`python -m bench one_row`: calls on a single row, where the way there is all there is.

    forward   `model(x)` of 64-64-64-4, tanh: the layers of a policy that is asked once a step
    predict   the same by `predict(x, out=)`
    train     `train_on_batch` of 8-64-64-2, tanh, Adam: learning from one row at a time

beside PyTorch (eager, no gradients recorded forward, fused Adam) and the bare NumPy products, with
nothing checked and nothing but the matmuls and tanh. Each peer runs in a process of its own on one
pinned core with one thread; the peers take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

FORWARD, TRAIN = (64, 64, 64, 4), (8, 64, 64, 2)
PEERS = ["fastreg", "torch", "numpy"]
Call = Callable[[], object]


def weights(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """[kernel, bias, ...], the same in every process."""
    rng = np.random.default_rng(0)
    found = []
    for n_in, n_out in pairwise(sizes):
        found += [rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(np.float32)]
        found += [np.zeros(n_out, np.float32)]
    return found


def row(n: int) -> np.ndarray:
    """(1, n), the same in every process."""
    return np.random.default_rng(1).normal(size=(1, n)).astype(np.float32)


def of_fastreg() -> dict[str, Call]:
    """The calls through the public face."""
    import fastreg as fr

    def model(sizes: tuple[int, ...]) -> fr.Sequential:
        hidden = [fr.Dense(n, "tanh") for n in sizes[1:-1]]
        made = fr.Sequential([fr.Input((sizes[0],)), *hidden, fr.Dense(sizes[-1])])
        made.compile("adam", "mse", n_threads=1)
        made.set_weights(weights(sizes))
        return made

    policy, learner = model(FORWARD), model(TRAIN)
    x, out = row(FORWARD[0]), np.empty((1, FORWARD[-1]), np.float32)
    x_train, y_train = row(TRAIN[0]), row(TRAIN[-1])
    return {
        "forward": lambda: policy(x),
        "predict": lambda: policy.predict(x, out=out),
        "train": lambda: learner.train_on_batch(x_train, y_train),
    }


def of_torch() -> dict[str, Call]:
    """Eager PyTorch; tensors are made before."""
    import torch

    torch.set_num_threads(1)

    def model(sizes: tuple[int, ...]) -> torch.nn.Sequential:
        layers: list[torch.nn.Module] = []
        arrays = weights(sizes)
        for kernel, bias in zip(arrays[::2], arrays[1::2], strict=True):
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data, layer.bias.data = torch.tensor(kernel.T), torch.tensor(bias)
            layers += [layer, torch.nn.Tanh()]
        return torch.nn.Sequential(*layers[:-1])

    policy, learner = model(FORWARD), model(TRAIN)
    x = torch.tensor(row(FORWARD[0]))
    x_train, y_train = torch.tensor(row(TRAIN[0])), torch.tensor(row(TRAIN[-1]))
    adam = torch.optim.Adam(learner.parameters(), fused=True)
    loss = torch.nn.MSELoss()

    def forward() -> object:
        with torch.inference_mode():
            return policy(x)

    def train() -> object:
        adam.zero_grad(set_to_none=True)
        value = loss(learner(x_train), y_train)
        value.backward()
        adam.step()
        return value

    return {"forward": forward, "predict": forward, "train": train}


def of_numpy() -> dict[str, Call]:
    """Three products and two tanh."""
    (a, a_bias, b, b_bias, c, c_bias), x = weights(FORWARD), row(FORWARD[0])

    def forward() -> object:
        return np.tanh(np.tanh(x @ a + a_bias) @ b + b_bias) @ c + c_bias

    def bare() -> object:
        return np.tanh(np.tanh(x @ a) @ b) @ c

    return {"forward": bare, "predict": forward}


def measured(call: Call, seconds: float) -> float:
    """Seconds of a call: the best of batches of calls."""
    n, best, end = 64, float("inf"), time.perf_counter() + seconds
    for _ in range(n):
        call()
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(n):
            call()
        best = min(best, (time.perf_counter() - begin) / n)
    return best


def turn(peer: str, seconds: float) -> dict[str, float]:
    """One turn of a peer, in its process."""
    command = [sys.executable, "-m", "bench.one_row", "--serve", peer, "--seconds", str(seconds)]
    threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
    out = subprocess.run(
        command, env=os.environ | threads, capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, float] = json.loads(out)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench one_row",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer (5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each call and turn (0.3)")
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        calls = {"fastreg": of_fastreg, "torch": of_torch, "numpy": of_numpy}[options.serve]()
        print(json.dumps({name: measured(call, options.seconds) for name, call in calls.items()}))
        return
    from tqdm import tqdm

    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for _ in tqdm(range(options.rounds), desc="rounds", leave=False):
        for peer in PEERS:
            found[peer].append(turn(peer, options.seconds))
    print(f"{'call':8}" + "".join(f"{peer:>10}" for peer in PEERS) + "   of fastreg's time")
    for call in ("forward", "predict", "train"):
        best = [
            min((each[call] for each in found[peer] if call in each), default=0) for peer in PEERS
        ]
        cells = "".join(f"{t * 1e6:8.2f}us" if t else f"{'-':>10}" for t in best)
        ratios = ", ".join(
            f"{p} {t / best[0]:.1f}" for p, t in zip(PEERS[1:], best[1:], strict=True) if t
        )
        print(f"{call:8}{cells}   {ratios}")
    print("numpy: forward without, predict with the biases")


if __name__ == "__main__":
    main()
