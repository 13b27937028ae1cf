"""Zeros that are left out: of kernels with few weights left, at inference; and of sparse data."""

from __future__ import annotations

import itertools
import resource

import numpy as np
import pytest
import scipy.sparse as sp
from processes import run

import fastreg as fr
from fastreg import _engine, inputs


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


# ------------------------------------------------------------------ sparse data

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
BACKENDS = pytest.mark.parametrize("backend", ["compiled", "reference"])


def sparse_data(n=203, n_in=130, density=0.07, dtype="float64", seed=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_in))
    x[rng.random(x.shape) >= density] = 0
    x[5] = 0  # a row without anything, a column, and one that is full
    x[:, 7], x[:, 9] = 0, 1
    return x.astype(dtype), rng.integers(0, 4, n)


def reader(n_in, dtype="float64", backend=None, dropout=0, units=37, n_threads=None, **options):
    fr.set_random_seed(9)
    layers = [fr.Dropout(dropout)] if dropout else []
    layers += [
        fr.Dense(units, "relu", kernel_regularizer=fr.L1L2(1e-3, 1e-3), activity_regularizer="l1"),
        fr.Dense(4, "softmax", bias_regularizer="l2"),
    ]
    model = fr.Sequential([fr.Input((n_in,), dtype=dtype), *layers], backend=backend)
    loss = "sparse_categorical_crossentropy"
    model.compile(options.pop("optimizer", "adam"), loss, ["accuracy"], n_threads=n_threads)
    return model


def results(model, x, y):
    """Of everything that takes rows."""
    options = {"sample_weight": np.linspace(0.5, 2, len(y)), "batch_size": 50, "verbose": 0}
    history = model.fit(x, y, epochs=2, validation_split=0.2, **options).history
    model.fit(x, y, shuffle=False, validation_data=(x, y), **options)
    numbers = [*history.values(), model.evaluate(x, y, verbose=0), model.train_on_batch(x, y)]
    numbers += [model.test_on_batch(x, y)]
    outputs = [model.predict(x, verbose=0), model(x), model.predict_on_batch(x), model(x[:3])]
    return [*model.get_weights(), *outputs, *map(np.array, numbers)]


@DTYPES
@BACKENDS
@pytest.mark.parametrize("dropout", [0, 0.3])
def test_sparse_rows_give_what_dense_ones_do(dropout, backend, dtype):
    x, y = sparse_data(dtype=dtype)
    want = results(reader(130, dtype, backend, dropout), x, y)
    got = results(reader(130, dtype, backend, dropout), sp.csr_array(x), y)
    # 18 Adam steps of sums of up to 130 terms, in another order
    atol = 2e-4 if dtype == "float32" else 1e-12
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=atol)


@pytest.mark.parametrize("units", [1, 8, 17, 40])
@pytest.mark.parametrize("n_in", [1, 63, 64, 65, 300])
def test_odd_sizes_of_sparse_rows(n_in, units):
    rng = np.random.default_rng(n_in)
    x = rng.normal(size=(71, n_in)) * (rng.random((71, n_in)) < 0.2)
    y = rng.integers(0, 4, 71)
    kernels = []
    for rows in (x, sp.csr_matrix(x)):
        model = reader(n_in, units=units, optimizer=fr.SGD(0.1, momentum=0.5))
        model.fit(rows, y, batch_size=32, epochs=2, verbose=0)
        kernels.append([*model.get_weights(), model.predict(rows[:9], verbose=0)])
    for a, b in zip(*kernels, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)


@pytest.mark.parametrize("gemm", ["native", "blas"])
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_sparse_rows_on_every_provider_of_products(isa, gemm):
    code = "import test_sparse as t; t.test_odd_sizes_of_sparse_rows(65, 40)"
    run(code, FASTREG_ISA=isa, FASTREG_GEMM=gemm)


def test_sparse_rows_give_the_same_bits_on_any_number_of_threads():
    x, y = sparse_data(1000, 700, 0.05, "float32")
    found = []
    for n_threads in (1, 2, 5):
        model = reader(700, "float32", units=300, n_threads=n_threads)
        model.fit(sp.csr_array(x), y, batch_size=128, verbose=0)
        found.append([*model.get_weights(), model.predict(sp.csr_array(x), verbose=0)])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_formats_of_sparse_rows_and_of_their_parts():
    x, _ = sparse_data()
    model = reader(130)
    want = model.predict(sp.csr_array(x), verbose=0)
    wide = sp.csr_array(x)
    wide.indices, wide.indptr = wide.indices.astype("int64"), wide.indptr.astype("int64")
    forms = [sp.csc_array(x), sp.csr_matrix(x), sp.coo_array(x), sp.lil_matrix(x), wide]
    for form in forms:
        assert np.array_equal(model.predict(form, verbose=0), want)
    whole = sp.csr_array(np.round(x).astype("int8"))
    want = model.predict(np.round(x), verbose=0)
    np.testing.assert_allclose(model.predict(whole, verbose=0), want, rtol=0, atol=1e-14)


def test_unsorted_and_repeated_entries_are_put_right_on_a_copy():
    data, columns = np.array([1.0, 2, 3, 0, 5]), np.array([2, 0, 2, 1, 1], "int32")
    x = sp.csr_array((data, columns, np.array([0, 4, 4, 5])), shape=(3, 3))
    x.has_canonical_format = True  # SciPy believes it
    want = np.array([[2.0, 0, 4], [0, 0, 0], [0, 5, 0]])
    rows = inputs.check_sparse_features("x", x, 3, "float64")
    assert np.array_equal(rows.dense(), want)
    assert x.indices.tolist() == [2, 0, 2, 1, 1]
    assert x.data.tolist() == [1, 2, 3, 0, 5]
    assert np.array_equal(rows[1:].dense(), want[1:])
    assert np.array_equal(rows.take([2, 0, 0], axis=0).dense(), want[[2, 0, 0]])
    assert np.array_equal(rows.take([0, 2], axis=1).dense(), want[:, [0, 2]])
    assert np.array_equal(rows.take([1, 1], axis=0)[0:0].dense(), want[:0])


def broken(name, value):
    x = sp.csr_array(np.eye(4))
    setattr(x, name, np.array(value, getattr(x, name).dtype))
    return x


@pytest.mark.parametrize(
    "x, error, words",
    [
        (sp.csr_array(np.eye(3)), ValueError, r"x: got shape \(3, 3\); \(n, 4\) is needed"),
        (sp.csr_array((0, 4)), ValueError, r"x: got shape \(0, 4\), which is empty"),
        (sp.csr_array(np.eye(4) * 1j), TypeError, "x: got dtype complex128; real numbers"),
        (sp.csr_array(np.diag([1, np.nan, 1, 1])), ValueError, "x: got nan at row 1, column 1;"),
        (broken("indices", [0, 1, 2, 4]), ValueError, "x: got a broken csr_array"),
        (broken("indices", [0, -1, 2, 3]), ValueError, "x: got a broken csr_array"),
        (broken("indptr", [0, 1, 2, 3, 9]), ValueError, "x: got a broken csr_array"),
        (broken("indptr", [0, 3, 1, 3, 4]), ValueError, "x: got a broken csr_array"),
        (broken("data", [1, 2]), ValueError, "x: got a broken csr_array"),
    ],
)
def test_bad_sparse_rows_are_refused(x, error, words):
    model = reader(4)
    before = model.get_weights()
    with pytest.raises(error, match=words):
        model.fit(x, np.zeros(x.shape[0]), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_not_finite_sparse_rows_go_through_predict():
    x = sp.csr_array(np.diag([1, np.nan, 1, 1]))
    assert (
        np.isnan(reader(4).predict(x, verbose=0)).any(axis=1).tolist()
        == [False, True] + [False] * 2
    )


def test_the_first_layer_never_makes_sparse_rows_dense():
    """A million columns by 400 rows: 3 GB in float64, were they ever written out."""
    n, n_in = 400, 10**6
    x = sp.random_array((n, n_in), density=1e-5, rng=np.random.default_rng(0), format="csr")
    model = fr.Sequential([fr.Input((n_in,), dtype="float64"), fr.Dense(1, use_bias=False)])
    model.compile(fr.SGD(0.1), "mse")
    kernel = model.get_weights()[0]
    y = x.sum(axis=1)
    tracked = memory_peak()
    model.fit(x, y, batch_size=n, verbose=0, shuffle=False)
    want = kernel - 0.1 * 2 / n * (x.T @ (x @ kernel - y[:, None]))
    np.testing.assert_allclose(model.get_weights()[0], want, rtol=0, atol=1e-15)
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ want, rtol=0, atol=1e-13)
    assert memory_peak() - tracked < 10**9


def memory_peak():
    """Bytes, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_compact_model_reads_sparse_rows():
    x, y = sparse_data()
    model = reader(130)
    weights = model.get_weights()
    weights[0][np.arange(130) % 3 != 0] = 0
    model.set_weights(weights)
    small = fr.compact(model)
    assert len(small.selected_inputs_) < 130
    want = small.predict(x, verbose=0)
    np.testing.assert_allclose(small.predict(sp.csr_array(x), verbose=0), want, rtol=0, atol=1e-14)
    histories = []
    for rows in (x, sp.csr_array(x)):
        model = reader(130, optimizer=fr.Adam(0.01, l1_step="proximal"))
        model.layers[0].kernel_regularizer = fr.L1(0.1)
        model.fit(rows, y, epochs=8, callbacks=fr.Compact(), verbose=0)
        histories.append([len(model.selected_inputs_), *model.history.history["loss"]])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-9)
    assert histories[0][0] < 130


@BACKENDS
def test_sparse_rows_while_dropping(backend):
    x, _ = sparse_data()
    forms = (x, sp.csr_array(x))
    one, other = (reader(130, "float64", backend, 0.5)(form, training=True) for form in forms)
    assert np.array_equal(one, other)


def test_a_report_of_sparse_rows():
    """Silent units, the objective and its residual are those of the same rows, dense."""
    rng = np.random.default_rng(5)
    x = np.where(rng.random((70, 130)) < 0.1, np.abs(rng.standard_normal((70, 130))), 0.0)
    y = rng.standard_normal((70, 3))
    model = model_of((130, 20, 3), "float64")
    kernel, *rest = thin_weights((130, 20, 3), 0.2, "float64")
    kernel[:, :4], rest[0][:4] = -np.abs(kernel[:, :4]), -1
    kernel[100:] = 0
    model.set_weights([kernel, *rest])
    for each in (model, fr.compact(model)):
        dense, *others = (
            fr.sparsity_report(each, form, y) for form in (x, sp.csr_array(x), sp.coo_matrix(x))
        )
        assert dense["layers"][0]["silent_units"] >= 1
        for other in others:
            assert other["objective"] == pytest.approx(dense["objective"], rel=1e-12)
            assert other["kkt_residual"] == pytest.approx(dense["kkt_residual"], rel=1e-9)
            for a, b in zip(other["layers"], dense["layers"], strict=True):
                assert a["silent_units"] == b["silent_units"]
