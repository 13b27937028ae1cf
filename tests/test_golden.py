"""The same training as Keras 3.15, PyTorch and scikit-learn: their answers, kept in tests/golden.

float64 is held to 1e-9 of each number (and 1e-12 of the largest of its array, for numbers that are
small by cancellation). float32 is held to the same float64 answers: 2e-4 of each loss and accuracy,
and of the norm of each array of weights and predictions. By norm, because rounding moves a weight
by 1e-7 of its array, which is much of a weight that is nearly zero, and because sign steps and
Adam's m / sqrt(v) enlarge rounding where a gradient is nearly zero. Where float32 is more than a
rounding of float64 (`cases.needs_own_float32`), the answers are Keras' own in float32.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import cases

import fastreg

HERE = Path(__file__).parent / "golden"
ANSWERED = [
    pytest.param(case, answer, dtype, id=f"{file}-{cases.describe(case)}-{dtype}")
    for file, dtypes in {
        "keras": ["float64", "float32"],
        "keras_float32": ["float32"],
        "keras_layers": ["float64", "float32"],
        "keras_optimizers": ["float64", "float32"],
        "keras_steps": ["float64", "float32"],
        "keras_vocabulary": ["float64"],
        "torch_activations": ["float64", "float32"],
        "torch": ["float64", "float32"],
        "sklearn": ["float64", "float32"],
    }.items()
    for case, answer in cases.load(HERE / f"{file}.npz")
    for dtype in dtypes
    if not (file.startswith("keras") and file != "keras_float32" and dtype == "float32")
    or not (cases.needs_own_float32(case) or cases.steps_by_sign(case))
]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(("case", "answer", "dtype"), ANSWERED)
def test_the_answers_of_the_peers(case, answer, backend, dtype):
    got = cases.train(fastreg, case, dtype, backend=backend)
    cases.assert_same(got, answer, dtype)


def test_the_design_holds_what_it_promises():
    """Every activation, loss, optimizer, regularizer, weighting and size, in the Keras file."""
    found = [case for case, _ in cases.load(HERE / "keras.npz")]
    layers = [layer for case in found for layer in case["layers"]]
    assert {layer["activation"] for layer in layers} == {
        "linear",
        "relu",
        "tanh",
        "sigmoid",
        "softmax",
    }
    assert {case["loss"] for case in found} == {cases.MSE, cases.BCE, cases.CCE, cases.SCCE}
    assert {case["weighting"] for case in found} == {None, "sample", "class"}
    assert {layer["units"] for layer in layers} >= {1, 3, 7, 33, 100}
    for which in ("kernel_regularizer", "bias_regularizer", "activity_regularizer"):
        regularizers = [layer[which] for layer in layers]
        assert {r and r["class_name"] for r in regularizers} == {None, "L1", "L2", "L1L2"}
    optimizers = [str(case["optimizer"]) for case in found]
    assert len(set(optimizers)) == len(cases.OPTIMIZERS)
    assert any(not layer["trainable"] for layer in layers)
    assert any(not layer["use_bias"] for layer in layers)
    assert any(case["n"] % case["batch_size"] for case in found)
    assert any(case["n"] < case["batch_size"] for case in found)
    pairs = {(str(c["optimizer"]), c["layers"][-1]["activation"], c["loss"]) for c in found}
    assert len(pairs) == len(cases.OPTIMIZERS) * len({(h[0], h[1]) for h in cases.HEADS})
    for file in ("keras_vocabulary", "torch_activations"):
        answered = [case for case, _ in cases.load(HERE / f"{file}.npz")]
        hidden = {str(layer["activation"]) for case in answered for layer in case["layers"]}
        three = {"name": "relu", "negative_slope": 0.2, "max_value": 0.9, "threshold": 0.1}
        beyond = {str(three)} if file == "torch_activations" else set()
        assert hidden >= {str(each) for each in cases.ACTIVATIONS} - beyond
    drawn = [case for case, _ in cases.load(HERE / "keras_vocabulary.npz")]
    heads = {str(head[1]) for head in cases.VOCABULARY["head"]}
    assert {str(case["loss"]) for case in drawn} == heads
    more = [case["optimizer"] for case, _ in cases.load(HERE / "keras_optimizers.npz")]
    assert {each["class_name"] for each in more} | {"SGD", "AdamW"} == {
        cls.__name__ for cls in fastreg.optimizers.REGISTRY.classes
    }


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in HERE.glob("*.npz")) < 2**20
