"""scikit-learn's own tests of its two classes, on ours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

PATH = Path(find_spec("sklearn.neural_network.tests.test_mlp").origin)
THEIRS = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
OURS = "from fastreg.estimators import MLPClassifier, MLPRegressor\n"

source = PATH.read_text()
assert source.count(THEIRS) == 1
exec(compile(source.replace(THEIRS, OURS), PATH, "exec"), globals())


@pytest.fixture
def global_random_seed():
    """scikit-learn's conftest.py draws it."""
    return 42
