"""fastreg beside the installed scikit-learn, live: its MLPs, alpha as L2 of the kernels."""

from __future__ import annotations

import pytest
from golden import cases, peers

import fastreg


@pytest.mark.parametrize("draw", [0, 100, 200])
@pytest.mark.parametrize("case", peers.sklearn_cases(), ids=cases.describe)
def test_training_in_float64(case, draw):
    case = {**case, "seed": case["seed"] + draw, "epochs": 6}
    answer = peers.train_sklearn(case)
    for backend in ("compiled", "reference"):
        got = cases.train(fastreg, case, "float64", backend=backend)
        cases.assert_same(got, answer, "float64")
