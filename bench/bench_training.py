"""An epoch of `fit`, compiled beside the NumPy reference, on the smaller workloads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.peers import Fastreg, NumPy
from bench.workloads import WORKLOADS

N_BATCHES = {"rl": 64, "tab": 32, "mnist": 8}


@pytest.mark.parametrize("name", N_BATCHES)
@pytest.mark.parametrize("backend", [Fastreg, NumPy], ids=["compiled", "reference"])
def test_epoch(name: str, backend: type[Fastreg], benchmark: Any) -> None:
    workload = replace(WORKLOADS[name], n_batches=N_BATCHES[name])
    benchmark.group = f"{workload.n_batches} steps of {workload.describe()}"
    benchmark(backend(workload).epochs, 1)
