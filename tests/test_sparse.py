"""Zeros that are left out: kernels of which few weights are left, at inference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastreg as fr
from fastreg import _engine


@pytest.fixture
def use():
    """Chooses what networks made from now on do with zeros."""
    before = _engine.sparse()
    yield _engine.choose_sparse
    _engine.choose_sparse(before)


def thin_weights(sizes, density, dtype, seed=0):
    rng = np.random.default_rng(seed)
    weights = []
    for n_in, n_out in itertools.pairwise(sizes):
        kernel = rng.normal(0, 1 / np.sqrt(density * n_in), (n_in, n_out))
        kernel[rng.random(kernel.shape) >= density] = 0
        weights += [kernel.astype(dtype), rng.normal(size=n_out).astype(dtype)]
    return weights


def model_of(sizes, dtype="float32", activation="relu", backend=None, n_threads=1):
    layers = [fr.Dense(n, activation) for n in sizes[1:]]
    model = fr.Sequential([fr.Input(sizes[:1], dtype=dtype), *layers], backend=backend)
    model.compile("sgd", "mse", n_threads=n_threads)
    return model


def bound(x, weights, unit):
    """Of one relu layer after the other, element by element: what rounding may change."""
    value, off = np.abs(x), np.zeros_like(x)
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        size = np.abs(kernel)
        off = off @ size + (len(kernel) + 2) * unit * (value @ size + np.abs(bias))
        value = value @ size + np.abs(bias)
    return 1.01 * off


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(7, 3), (33, 65, 31), (300, 200, 5)])
@pytest.mark.parametrize("density", [0.01, 0.2, 1.0])
def test_the_output_is_that_of_the_whole_kernels(use, sizes, density, dtype):
    weights = thin_weights(sizes, density, dtype)
    use("always")
    sparse = model_of(sizes, dtype)
    sparse.set_weights(weights)
    assert sparse.network.densities(1)[0] == np.count_nonzero(weights[0]) / weights[0].size
    exact = [w.astype(np.longdouble) for w in weights]
    for n in (1, 2, 9, 64, 131):
        x = np.random.default_rng(n).normal(size=(n, sizes[0])).astype(dtype)
        want = x.astype(np.longdouble)
        for kernel, bias in zip(exact[::2], exact[1::2], strict=True):
            want = np.maximum(want @ kernel + bias, 0)
        off = np.abs(sparse.predict(x, verbose=0) - want)
        limit = bound(x.astype(np.float64), [w.astype(np.float64) for w in weights],
                      np.finfo(dtype).eps / 2)  # fmt: skip
        assert (off <= limit).all()


def test_evaluate_and_activity_penalties_see_the_same_outputs(use):
    sizes, found = (300, 200, 3), []
    x, y = np.random.default_rng(1).normal(size=(90, 300)), np.ones((90, 3))
    for choice in ("never", "always"):
        use(choice)
        model = fr.Sequential(
            [
                fr.Input((300,), dtype="float64"),
                fr.Dense(200, "relu", activity_regularizer="l1"),
                fr.Dense(3, "relu"),
            ]
        )
        model.compile("sgd", "mse")
        model.set_weights(thin_weights(sizes, 0.05, "float64"))
        found.append(model.evaluate(x, y, verbose=0, return_dict=True))
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-13), name


def test_the_choice_follows_density_size_and_rows(use):
    use("auto")
    model = model_of((256, 256, 40))
    model.set_weights(thin_weights((256, 256, 40), 0.02, "float32"))
    network = model.network
    first, second = network.densities(256)
    assert first == pytest.approx(0.02, abs=0.005)
    assert second == 1  # too small to look at
    model.set_weights(thin_weights((256, 256, 40), 0.2, "float32"))
    assert network.densities(1)[0] == 1  # a single row fills no lanes
    if _engine.gemm() == "native":
        assert network.densities(256)[0] < 1
    model.set_weights(thin_weights((256, 256, 40), 0.6, "float32"))
    assert network.densities(256)[0] == 1


def test_weights_that_change_are_looked_at_again(use):
    use("always")
    model = model_of((20, 10), "float64", "linear")
    x, y = np.random.default_rng(2).normal(size=(40, 20)), np.ones((40, 10))
    model.set_weights([np.zeros((20, 10)), np.zeros(10)])
    assert model(x[:1]).tolist() == [[0.0] * 10]
    assert model.network.densities(1) == [0.0]
    model.train_on_batch(x, y)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(model(x), x @ kernel + bias, rtol=0, atol=1e-15)
    assert model.network.densities(1) == [1.0]
    model.layers[0].set_weights([np.eye(20, 10), bias])
    np.testing.assert_allclose(model(x[:3]), x[:3, :10] + bias, rtol=0, atol=1e-15)


def test_the_same_bits_on_any_number_of_threads(use):
    use("auto")
    sizes = (400, 500, 300)
    x = np.random.default_rng(3).normal(size=(700, 400)).astype("float32")
    outputs = []
    for n_threads in (1, 2, 5):
        model = model_of(sizes, n_threads=n_threads)
        model.set_weights(thin_weights(sizes, 0.02, "float32"))
        assert max(model.network.densities(700)) < 1
        outputs += [model.predict(x, verbose=0), model.predict(x, verbose=0)]
    assert all(np.array_equal(outputs[0], other) for other in outputs)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_summary_shows_which_layers_run_sparse(use, backend):
    use("auto")
    model = model_of((300, 300, 300), backend=backend)
    weights = thin_weights((300, 300, 300), 0.04, "float32")
    weights[2] = np.ones((300, 300), "float32")
    model.set_weights(weights)
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    density = np.count_nonzero(weights[0]) / 90000
    assert (f"runs sparse, density {density:.2%}" in lines[4]) == (backend == "compiled")
    assert "sparse" not in lines[5]
    fr.Sequential([fr.Input((3,)), fr.Dropout(0.5)]).summary(print_fn=lines.append)


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match=r"name: got 'nver'.*Did you mean 'never'"):
        _engine.choose_sparse("nver")
