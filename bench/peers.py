"""The peers: each one trains a workload its own best way, in a process of its own.

A peer is a class with `epochs(n)`, `step(i)` (batch i alone) and `weights()`; its process, `python
-m bench.peers PEER WORKLOAD`, answers one line for each line it is given:

    (on start)    {"version": ..., "differs": ...}  or  {"missing": ...}
    losses N      the objective after each of the first N steps, as a JSON list
    run N         the seconds that N epochs took
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from bench.workloads import WORKLOADS, Workload


class Runner(Protocol):
    """A workload ready to train: same initial weights, same batches in the same order."""

    def __init__(self, workload: Workload) -> None: ...

    @property
    def version(self) -> str: ...

    def epochs(self, n: int) -> None: ...

    def step(self, i: int) -> None: ...

    def weights(self) -> list[np.ndarray]: ...


class Fastreg:
    """`fit` through the public face: what a user calls, checks and all."""

    backend = "compiled"
    n_threads: int | None = None
    compute_dtype: str | None = None

    def __init__(self, workload: Workload) -> None:
        import fastreg as fr

        self.version = f"fastreg {fr.__version__}"
        self.w = workload
        self.x, self.y = workload.data()
        layers: list[Any] = [fr.Input((workload.sizes[0],))]
        for n_out in workload.sizes[1:]:
            hidden = len(layers) < len(workload.sizes) - 1
            layers.append(
                fr.Dense(
                    n_out,
                    activation=workload.activation if hidden else None,
                    kernel_regularizer=fr.L1L2(workload.l1, workload.l2),
                    activity_regularizer=fr.L1(workload.activity_l1) if hidden else None,
                )
            )
        self.model = fr.Sequential(layers, backend=self.backend)
        if workload.optimizer == "adam":
            optimizer = fr.Adam(workload.learning_rate)
        else:
            optimizer = fr.SGD(workload.learning_rate, workload.momentum)
        self.model.compile(
            optimizer,
            "mean_squared_error",
            n_threads=self.n_threads,
            compute_dtype=self.compute_dtype,
        )
        self.model.set_weights(workload.weights())

    def epochs(self, n: int) -> None:
        for _ in range(n):
            self._fit(self.x, self.y)

    def step(self, i: int) -> None:
        batch = slice(i * self.w.n_batch, (i + 1) * self.w.n_batch)
        self._fit(self.x[batch], self.y[batch])

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.model.fit(x, y, batch_size=self.w.n_batch, epochs=1, shuffle=False, verbose=0)

    def weights(self) -> list[np.ndarray]:
        return self.model.get_weights()


class OneThread(Fastreg):
    """One thread, whatever the others have."""

    n_threads = 1


class Bfloat16(Fastreg):
    """Products of operands rounded to bfloat16."""

    compute_dtype = "bfloat16"


class DenseOnly(Fastreg):
    """Units at rest and zeros of kernels are multiplied, too."""

    def __init__(self, workload: Workload) -> None:
        from fastreg import _engine

        _engine.choose_sparse("never")
        super().__init__(workload)


class NoPenalties(Fastreg):
    """The same network without its penalties."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(replace(workload, l1=0.0, l2=0.0, activity_l1=0.0))


class NumPy(Fastreg):
    """The reference backend: the same `fit`, every array operation in NumPy."""

    backend = "reference"

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.version = f"numpy {np.__version__}"


class Torch:
    """Eager, with the fused optimizer; L2 as the optimizer's weight decay, L1 in the loss."""

    def __init__(self, workload: Workload) -> None:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch = torch
        self.version = f"torch {torch.__version__}"
        self.w = workload
        x, y = map(torch.from_numpy, workload.data())
        self.batches = list(zip(x.split(workload.n_batch), y.split(workload.n_batch), strict=True))
        self.linears = [torch.nn.Linear(n_in, n_out) for n_in, n_out in pairwise(workload.sizes)]
        with torch.no_grad():
            weights = [torch.from_numpy(w) for w in workload.weights()]
            for linear, kernel, bias in zip(self.linears, weights[::2], weights[1::2], strict=True):
                linear.weight.copy_(kernel.T)
                linear.bias.copy_(bias)
        groups = [
            # Coupled weight decay adds wd * w to the gradient; the L2 penalty adds 2 * l2 * w.
            {"params": [m.weight for m in self.linears], "weight_decay": 2 * workload.l2},
            {"params": [m.bias for m in self.linears], "weight_decay": 0.0},
        ]
        if workload.optimizer == "adam":
            self.optimizer = torch.optim.Adam(groups, workload.learning_rate, fused=True)
        else:
            self.optimizer = torch.optim.SGD(
                groups, workload.learning_rate, workload.momentum, fused=True
            )
        self.activation = torch.tanh if workload.activation == "tanh" else torch.relu
        self.objective = self._objective
        self.n_steps = 0

    def _objective(self, x: Any, y: Any) -> Any:
        activity = 0.0
        for linear in self.linears[:-1]:
            x = self.activation(linear(x))
            if self.w.activity_l1:
                activity = activity + x.abs().sum()
        loss = self.torch.nn.functional.mse_loss(self.linears[-1](x), y)
        if self.w.activity_l1:
            loss = loss + (self.w.activity_l1 / len(x)) * activity
        if self.w.l1:
            loss = loss + self.w.l1 * sum(m.weight.abs().sum() for m in self.linears)
        return loss

    def epochs(self, n: int) -> None:
        for _ in range(n):
            for i in range(len(self.batches)):
                self.step(i)

    def step(self, i: int) -> None:
        self.n_steps += 1
        if self.w.optimizer == "adam":
            # PyTorch adds epsilon after the bias correction of v, Keras (and so all others) before.
            for group in self.optimizer.param_groups:
                group["eps"] = 1e-7 / math.sqrt(1 - 0.999**self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective(*self.batches[i]).backward()
        self.optimizer.step()

    def weights(self) -> list[np.ndarray]:
        arrays = [a for m in self.linears for a in (m.weight.T, m.bias)]
        return [a.detach().numpy().copy() for a in arrays]


class TorchCompiled(Torch):
    """Forward, loss and backward through torch.compile; the fused optimizer as it is."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.objective = self.torch.compile(self._objective)


class Jax:
    """The strongest JAX: one jitted `lax.scan` over the epoch's batches, weights donated."""

    def __init__(self, workload: Workload) -> None:
        import jax
        import jax.numpy as jnp

        self.jax = jax
        self.version = f"jax {jax.__version__}"
        self.w = w = workload
        x, y = w.data()
        # (n_batches, n_batch, n_in), already on the device
        self.x = jax.device_put(x.reshape(w.n_batches, w.n_batch, -1))
        self.y = jax.device_put(y.reshape(w.n_batches, w.n_batch, -1))
        weights = [jnp.array(a) for a in w.weights()]
        n_slots = 2 if w.optimizer == "adam" else 1
        slots = [[jnp.zeros_like(a) for a in weights] for _ in range(n_slots)]
        self.state = (weights, slots, jnp.zeros((), jnp.int32))
        activation = jnp.tanh if w.activation == "tanh" else jax.nn.relu

        def objective(weights: list[Any], x: Any, y: Any) -> Any:
            kernels, biases = weights[::2], weights[1::2]
            penalty = 0.0
            for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
                x = activation(x @ kernel + bias)
                if w.activity_l1:
                    penalty += w.activity_l1 * jnp.abs(x).sum() / w.n_batch
            if w.l1:
                penalty += w.l1 * sum(jnp.abs(k).sum() for k in kernels)
            if w.l2:
                penalty += w.l2 * sum(jnp.square(k).sum() for k in kernels)
            return jnp.square(x @ kernels[-1] + biases[-1] - y).mean() + penalty

        def momentum(a: Any, da: Any, slots: list[Any], t: Any) -> tuple[Any, list[Any]]:
            v = w.momentum * slots[0] - w.learning_rate * da
            return a + v, [v]

        def adam(a: Any, da: Any, slots: list[Any], t: Any) -> tuple[Any, list[Any]]:
            m = slots[0] + (da - slots[0]) * (1 - 0.9)
            v = slots[1] + (jnp.square(da) - slots[1]) * (1 - 0.999)
            rate = w.learning_rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            return a - rate * m / (jnp.sqrt(v) + 1e-7), [m, v]

        update = adam if w.optimizer == "adam" else momentum

        def step(state: Any, batch: Any) -> Any:
            weights, slots, iteration = state
            loss, gradients = jax.value_and_grad(objective)(weights, *batch)
            t = (iteration + 1).astype(jnp.float32)
            pairs = [
                update(a, da, list(s), t)
                for a, da, s in zip(weights, gradients, zip(*slots, strict=True), strict=True)
            ]
            slots = [list(slot) for slot in zip(*(new for _, new in pairs), strict=True)]
            return ([a for a, _ in pairs], slots, iteration + 1), loss

        def epoch(state: Any, x: Any, y: Any) -> Any:
            return jax.lax.scan(step, state, (x, y))

        self.jit_step = jax.jit(step, donate_argnums=0)
        self.jit_epoch = jax.jit(epoch, donate_argnums=0)

    def epochs(self, n: int) -> None:
        for _ in range(n):
            self.state, _ = self.jit_epoch(self.state, self.x, self.y)
        self.jax.block_until_ready(self.state)

    def step(self, i: int) -> None:
        self.state, _ = self.jit_epoch(self.state, self.x[i : i + 1], self.y[i : i + 1])

    def weights(self) -> list[np.ndarray]:
        return [np.array(a) for a in self.state[0]]


class JaxStep(Jax):
    """One jitted call a step, as a Python training loop does it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.batches = list(zip(self.x, self.y, strict=True))

    def epochs(self, n: int) -> None:
        for _ in range(n):
            for i in range(len(self.batches)):
                self.step(i)
        self.jax.block_until_ready(self.state)

    def step(self, i: int) -> None:
        self.state, _ = self.jit_step(self.state, self.batches[i])


class Keras:
    """`fit` on the JAX backend, its fastest on a CPU."""

    def __init__(self, workload: Workload) -> None:
        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        self.version = f"keras {keras.__version__}"
        self.w = workload
        self.x, self.y = workload.data()
        layers: list[Any] = [keras.Input((workload.sizes[0],))]
        for n_out in workload.sizes[1:]:
            hidden = len(layers) < len(workload.sizes) - 1
            penalized = workload.l1 or workload.l2
            layers.append(
                keras.layers.Dense(
                    n_out,
                    activation=workload.activation if hidden else None,
                    kernel_regularizer=(
                        keras.regularizers.L1L2(workload.l1, workload.l2) if penalized else None
                    ),
                    activity_regularizer=(
                        keras.regularizers.L1(workload.activity_l1)
                        if hidden and workload.activity_l1
                        else None
                    ),
                )
            )
        self.model = keras.Sequential(layers)
        if workload.optimizer == "adam":
            optimizer = keras.optimizers.Adam(workload.learning_rate)
        else:
            optimizer = keras.optimizers.SGD(workload.learning_rate, workload.momentum)
        self.model.compile(optimizer=optimizer, loss="mean_squared_error")
        self.model.set_weights(workload.weights())

    epochs = Fastreg.epochs
    step = Fastreg.step
    _fit = Fastreg._fit
    weights = Fastreg.weights


class ScikitLearn:
    """MLPRegressor.partial_fit, one epoch a call. It has L2 on the kernels and no other penalty."""

    def __init__(self, workload: Workload) -> None:
        import sklearn
        from sklearn.neural_network import MLPRegressor

        self.version = f"scikit-learn {sklearn.__version__}"
        self.w = w = workload
        self.x, self.y = w.data()
        self.model = MLPRegressor(
            hidden_layer_sizes=w.sizes[1:-1],
            activation=w.activation,
            solver=w.optimizer,
            # Its objective is n_out / 2 of the mean squared error, its penalty alpha / (2 n_batch).
            alpha=w.l2 * w.n_batch * w.sizes[-1],
            batch_size=w.n_batch,
            learning_rate_init=w.learning_rate,
            momentum=w.momentum,
            nesterovs_momentum=False,
            epsilon=1e-7,
            shuffle=False,
        )
        self.model.partial_fit(self.x[: w.n_batch], self.y[: w.n_batch])
        weights = w.weights()
        self.model.coefs_ = weights[::2]
        self.model.intercepts_ = weights[1::2]
        del self.model._optimizer  # made anew, with zero state, by the next partial_fit

    def epochs(self, n: int) -> None:
        for _ in range(n):
            self.model.partial_fit(self.x, self.y)

    def step(self, i: int) -> None:
        batch = slice(i * self.w.n_batch, (i + 1) * self.w.n_batch)
        self.model.partial_fit(self.x[batch], self.y[batch])

    def weights(self) -> list[np.ndarray]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [a for pair in pairs for a in pair]


# name: the class, and the module without which it is missing
PEERS: dict[str, tuple[type[Runner], str]] = {
    "fastreg": (Fastreg, "fastreg"),
    "fastreg.one_thread": (OneThread, "fastreg"),
    "fastreg.bfloat16": (Bfloat16, "fastreg"),
    "fastreg.dense": (DenseOnly, "fastreg"),
    "fastreg.no_penalties": (NoPenalties, "fastreg"),
    "numpy": (NumPy, "fastreg"),
    "torch": (Torch, "torch"),
    "torch.compile": (TorchCompiled, "torch"),
    "jax": (Jax, "jax"),
    "jax.step": (JaxStep, "jax"),
    "keras": (Keras, "keras"),
    "sklearn": (ScikitLearn, "sklearn"),
}
DEFAULT_PEERS = ["fastreg", "numpy", "torch", "jax", "keras", "sklearn"]


def differs(peer: str, workload: Workload) -> str:
    """In what a peer does not compute the workload; empty when it does.

    >>> differs("sklearn", WORKLOADS["tab"])
    'no L1'
    >>> differs("sklearn", WORKLOADS["rl"])
    ''
    """
    if peer == "fastreg.bfloat16":
        return "operands of 8 bits"
    if peer == "fastreg.no_penalties":
        return "no penalties"
    if peer != "sklearn":
        return ""
    lacks = [("L1", workload.l1), ("activity L1", workload.activity_l1)]
    # Adam's epsilon and SGD's rate see the scale of the objective, n_out / 2 there.
    scale = [] if workload.sizes[-1] == 2 else ["loss scale"]
    missing = [f"no {name}" for name, coefficient in lacks if coefficient]
    return ", ".join(missing or scale)


def serve(peer: str, workload: Workload) -> None:
    """Answer the lines on standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    kind, module = PEERS[peer]
    try:
        runner = kind(workload)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        answer({"missing": f"{module} is not installed"})
        return
    answer({"version": runner.version, "differs": differs(peer, workload)})
    x, y = workload.data()
    for line in sys.stdin:
        command, count = line.split()
        if command == "losses":
            losses = []
            for i in (j % workload.n_batches for j in range(int(count))):
                runner.step(i)
                batch = slice(i * workload.n_batch, (i + 1) * workload.n_batch)
                losses.append(workload.loss(runner.weights(), x[batch], y[batch]))
            answer(losses)
        else:
            start = time.perf_counter()
            runner.epochs(int(count))
            answer(time.perf_counter() - start)


if __name__ == "__main__":
    serve(sys.argv[1], WORKLOADS[sys.argv[2]])
