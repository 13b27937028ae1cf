"""Regularizers: Keras' values, gradients, names and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastreg import regularizers
from fastreg.regularizers import L1, L1L2, L2, KLSparsity

BOTH = [L1(0.3), L2(0.2), L1L2(0.3, 0.2), L1L2(), L1(0.0)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("regularizer", BOTH, ids=repr)
def test_value_and_gradient(regularizer, dtype, rng):
    w = rng.standard_normal((7, 5)).astype(dtype)
    w[2, 3] = 0.0
    wide = w.astype("float64")
    value = regularizer.l1 * np.abs(wide).sum() + regularizer.l2 * np.square(wide).sum()
    gradient = regularizer.l1 * np.sign(wide) + 2 * regularizer.l2 * wide
    eps = float(np.finfo(dtype).eps)
    assert isinstance(regularizer(w), float)
    assert regularizer(w) == pytest.approx(value, rel=4 * eps)
    assert regularizer.gradient(w).dtype == dtype
    np.testing.assert_allclose(regularizer.gradient(w), gradient, rtol=4 * eps, atol=0)
    assert regularizer.gradient(w)[2, 3] == 0.0


def test_gradient_is_the_slope_of_the_value(rng):
    w = rng.standard_normal(20)
    regularizer, step = L1L2(0.3, 0.2), 1e-6
    slope = [(regularizer(w + d) - regularizer(w - d)) / (2 * step) for d in step * np.eye(20)]
    np.testing.assert_allclose(regularizer.gradient(w), slope, rtol=1e-7)


def test_a_sum_that_does_not_divide(rng):
    w = rng.standard_normal((3, 4))
    assert L2(0.1)(np.vstack([w, w])) == pytest.approx(2 * L2(0.1)(w))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", L1(0.01)),
        ("l2", L2(0.01)),
        ("L1", L1(0.01)),
        ("L2", L2(0.01)),
        ("l1_l2", L1L2(0.01, 0.01)),
        ("l1l2", L1L2(0.01, 0.01)),
        ("L1L2", L1L2(0.01, 0.01)),
    ],
)
def test_names(name, expected):
    assert regularizers.get(name) == expected


def test_defaults_are_those_of_keras():
    assert L1().get_config() == {"l1": 0.01}
    assert L2().get_config() == {"l2": 0.01}
    assert L1L2().get_config() == {"l1": 0.0, "l2": 0.0}
    assert (L1(None), L2(None), L1L2(None, None)) == (L1(), L2(), L1L2())
    assert L1L2(0.1, 0.2) == L1L2(l1=0.1, l2=0.2)


def test_get():
    assert regularizers.get(None) is None
    regularizer = L2(0.5)
    assert regularizers.get(regularizer) is regularizer
    assert regularizers.get(L1) == L1()
    assert regularizers.get({"class_name": "l2", "config": {"l2": 0.5}}) == regularizer


@pytest.mark.parametrize("regularizer", [*BOTH, KLSparsity(3.0, 0.1, l2=0.2)], ids=repr)
def test_configuration_round_trip(regularizer):
    assert type(regularizer).from_config(regularizer.get_config()) == regularizer
    written = regularizers.serialize(regularizer)
    assert set(written) == {"class_name", "config"}
    assert regularizers.deserialize(written) == regularizer
    # What Keras 3.15 writes beside the two.
    keras = {"module": "keras.regularizers", **written, "registered_name": None}
    assert regularizers.get(keras) == regularizer
    assert eval(repr(regularizer)) == regularizer


def test_none_is_serialized_as_none():
    assert regularizers.serialize(None) is None
    assert regularizers.deserialize(None) is None


def test_equal_means_same_class_and_coefficients():
    assert L1(0.1) == L1(np.float64(0.1))
    assert L1(0.1) != L1(0.2)
    assert L1(0.1) != L1L2(0.1, 0.0)
    assert len({L1(0.1), L1(0.1), L2(0.1)}) == 2


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        L1(0.1).l1 = 0.2


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5])
def test_numpy_scalars(scalar):
    assert L1(scalar) == L1(0.5)
    assert type(L2(scalar).l2) is float


def test_integers_are_numbers():
    assert L1L2(1, np.int64(2)) == L1L2(1.0, 2.0)


@pytest.mark.parametrize("value", [-0.1, -1e-300, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("make", [L1, L2, L1L2, lambda v: L1L2(0.0, v)])
def test_bad_coefficients(make, value):
    with pytest.raises(ValueError, match=r"^l[12]: got "):
        make(value)


@pytest.mark.parametrize("value", ["0.1", [0.1], np.array([0.1, 0.2]), True, 1j])
@pytest.mark.parametrize("make", [L1, L2, L1L2])
def test_coefficients_of_another_kind(make, value):
    with pytest.raises(TypeError, match=r"^l[12]: got "):
        make(value)


def test_unknown_things():
    with pytest.raises(ValueError, match=r"regularizer: got 'l1l3'; .*Did you mean 'l1l2'"):
        regularizers.get("l1l3")
    with pytest.raises(TypeError, match=r"regularizer: got 0.01"):
        regularizers.get(0.01)
    with pytest.raises(ValueError, match="class_name"):
        regularizers.get({"l1": 0.1})
    with pytest.raises(TypeError, match="argument of L1: got 'l2'; allowed: l1"):
        regularizers.get({"class_name": "L1", "config": {"l2": 0.1}})
    with pytest.raises(TypeError, match="config: got 3"):
        regularizers.get({"class_name": "L1", "config": 3})
    with pytest.raises(TypeError, match="a Regularizer of fastreg is needed"):
        regularizers.serialize("l1")
