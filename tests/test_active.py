"""Units at rest that training leaves out: the same steps from lists of the active ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import fastreg as fr
from fastreg import _engine

NATIVE = pytest.mark.skipif(_engine.gemm() != "native", reason="lists are of native products")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture
def use():
    """Chooses what networks made from now on do with zeros."""
    before = _engine.sparse()
    yield _engine.choose_sparse
    _engine.choose_sparse(before)


CUT = fr.activations.Activation("relu", max_value=3.0, threshold=0.1)


def autoencoder(active, dtype="float32", backend=None, n_threads=1, activation="relu", hidden=600):
    """Sizes 64, `hidden`, 64 with about that share of active units, and rows for it."""
    fr.set_random_seed(3)
    encoder = fr.Dense(hidden, activation, activity_regularizer=fr.L1(1e-3))
    model = fr.Sequential([fr.Input((64,), dtype=dtype), encoder, fr.Dense(64)], backend=backend)
    model.compile(fr.Adam(1e-4), "mse", n_threads=n_threads)
    x = np.random.default_rng(4).normal(size=(300, 64)).astype(dtype)
    kernel, bias, *rest = model.get_weights()
    bias[:] = -np.quantile(x @ kernel, 1 - active)
    model.set_weights([kernel, bias, *rest])
    return model, x


def trained(*arguments, **options):
    model, x = autoencoder(*arguments, **options)
    history = model.fit(x, x, 200, 2, verbose=0, shuffle=False)
    return model, [*model.get_weights(), np.array(history.history["loss"])]


@DTYPES
@pytest.mark.parametrize("activation", ["relu", "relu6", CUT])
@pytest.mark.parametrize("active", [0.0, 0.02, 0.5, 1.0])
def test_training_on_active_units_is_that_of_all_units(use, active, activation, dtype):
    use("always")
    model, found = trained(active, dtype, activation=activation)
    assert _engine.gemm() != "native" or model.network.active_shares()[0] < 1 or active == 1
    _, want = trained(active, dtype, "reference", activation=activation)
    for got, exact in zip(found, want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=2e-6 if dtype == "float32" else 1e-12)


@NATIVE
def test_training_takes_the_active_units_where_they_are_few():
    model, first = trained(0.02)
    share = model.network.active_shares()[0]
    assert 0.01 < share < 0.03
    lines = []
    model.summary(lines.append)
    assert f"trains sparse, {share:.2%} active" in "\n".join(lines)
    for n_threads in (2, 3):
        _, other = trained(0.02, n_threads=n_threads)
        assert all((a == b).all() for a, b in zip(first, other, strict=True))
    for active in (0.5, 1.0):
        assert trained(active)[0].network.active_shares() == [1.0, 1.0]
    assert trained(0.02, hidden=100)[0].network.active_shares() == [1.0, 1.0]
    assert trained(0.02, activation="gelu")[0].network.active_shares() == [1.0, 1.0]


class Nothing:
    """A penalty of one's own, which cuts a step in parts."""

    def value(self, w):
        return 0.0

    def gradient(self, w):
        return np.zeros_like(w)


@NATIVE
def test_shares_are_known_after_a_step_in_parts(use):
    use("always")
    shares = []
    for own in (None, Nothing()):
        fr.set_random_seed(3)
        hidden, last = fr.Dense(200, "relu"), fr.Dense(8, kernel_regularizer=own)
        model = fr.Sequential([fr.Input((64,)), hidden, last])
        model.compile("sgd", "mse")
        x = rows_of(60, 64, "float64")
        model.fit(x, x[:, :8], 60, 1, verbose=0)
        shares.append(model.network.active_shares())
    assert shares[0] == shares[1] and shares[0][0] < 0.9


def test_a_unit_that_overflows_is_active(use):
    use("always")
    model, x = autoencoder(0.02)
    x[7] = 3e38  # 64 of them against weights of both signs: infinity, and NaN of two
    with pytest.raises(FloatingPointError):
        model.fit(x, np.zeros_like(x), 300, 1, verbose=0)


# ---- everything that a step may be asked for beside ----


def rows_of(n, n_in, dtype, seed=4):
    return np.random.default_rng(seed).normal(size=(n, n_in)).astype(dtype)


def deep(
    sizes=(21, 70, 45, 5),
    dtype="float64",
    backend=None,
    lower=1.0,
    between=(),
    activation="relu",
    **dense,
):
    """relu layers between `sizes`, their biases `lower` below 0, so that some units are at rest."""
    fr.set_random_seed(3)
    layers = [fr.Input(sizes[:1], dtype=dtype)]
    for n in sizes[1:-1]:
        layers.append(fr.Dense(n, activation, activity_regularizer=fr.L1L2(0.02, 0.01), **dense))
        layers += [make() for make in between]
    model = fr.Sequential([*layers, fr.Dense(sizes[-1])], backend=backend)
    weights = model.get_weights()
    for bias in weights[1:-1:2]:
        bias -= lower
    model.set_weights(weights)
    return model


def fitted(model, optimizer, x, y, batch=50, epochs=2, n_threads=1, **options):
    model.compile(optimizer, "mse", n_threads=n_threads)
    history = model.fit(x, y, batch, epochs, verbose=0, **options)
    return [*model.get_weights(), np.array(history.history["loss"])]


def assert_near(found, want, dtype):
    for got, exact in zip(found, want, strict=True):
        near = 1e-5 if dtype == "float32" else 1e-11
        np.testing.assert_allclose(got, exact, rtol=near, atol=near)


OPTIMIZERS = {
    "proximal": lambda: fr.Adam(0.01, l1_step="proximal"),
    "cumulative": lambda: fr.Adam(0.01, l1_step="cumulative"),
    "cumulative momentum": lambda: fr.SGD(0.01, 0.9, l1_step="cumulative"),
    "clipnorm": lambda: fr.SGD(0.05, clipnorm=0.1),
    "clipvalue": lambda: fr.SGD(0.05, clipvalue=0.01),
    "global_clipnorm": lambda: fr.Adam(0.01, global_clipnorm=0.1),
    "ema": lambda: fr.SGD(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2),
    "accumulation": lambda: fr.Adam(0.01, gradient_accumulation_steps=2),
}


@DTYPES
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_takes_lists(use, optimizer, dtype):
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    use("always")
    models = [
        deep(dtype=dtype, backend=b, kernel_regularizer=fr.L1L2(0.01, 0.01))
        for b in (None, "reference")
    ]
    found, want = (fitted(m, OPTIMIZERS[optimizer](), x, y, shuffle=False) for m in models)
    if _engine.gemm() == "native":
        assert max(models[0].network.active_shares()[:2]) < 1
    assert_near(found, want, dtype)


@DTYPES
@pytest.mark.parametrize("groups", ["rows", "columns"])
@pytest.mark.parametrize("l1_step", ["sign", "proximal"])
def test_groups_take_lists(use, groups, l1_step, dtype):
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    use("always")
    found, want = (
        fitted(
            deep(dtype=dtype, backend=b, kernel_regularizer=fr.GroupL1(0.02, groups, l1=0.01)),
            fr.Adam(0.01, l1_step=l1_step),
            x,
            y,
            shuffle=False,
        )
        for b in (None, "reference")
    )
    assert_near(found, want, dtype)


@DTYPES
@pytest.mark.parametrize("lower", [-9.0, 0.0, 1.5, 99.0], ids=["all", "half", "few", "none"])
@pytest.mark.parametrize(
    ("sizes", "n", "batch"),
    [((3, 1, 1), 5, 5), ((17, 33, 9), 1, 1), ((40, 257, 31, 2), 67, 67), ((5, 16, 16), 130, 129)],
)
def test_odd_shapes(use, sizes, n, batch, lower, dtype):
    """One row, tails of vectors, all units active, none in the whole batch."""
    x, y = rows_of(n, sizes[0], dtype), rows_of(n, sizes[-1], dtype, 5)
    use("always")
    models = [deep(sizes, dtype, b, lower) for b in (None, "reference")]
    found, want = (fitted(m, fr.SGD(1e-3), x, y, batch, shuffle=False) for m in models)
    assert_near(found, want, dtype)
    shares = models[0].network.active_shares()[:-1]
    if _engine.gemm() == "native" and lower == 99.0 and min(sizes[1:]) > 8:
        assert shares == [0.0] * len(shares)


@DTYPES
def test_sparse_rows_below_a_listed_layer(use, dtype):
    dense = rows_of(110, 21, dtype)
    dense[np.random.default_rng(1).random(dense.shape) < 0.8] = 0
    y = rows_of(110, 5, dtype, 5)
    use("always")
    found = fitted(deep(dtype=dtype), fr.Adam(0.01), sp.csr_array(dense), y, shuffle=False)
    want = fitted(deep(dtype=dtype, backend="reference"), fr.Adam(0.01), dense, y, shuffle=False)
    assert_near(found, want, dtype)


@DTYPES
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_layer_beside_a_listed_one(use, frozen, dtype):
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    use("always")
    models = [deep(dtype=dtype, backend=b) for b in (None, "reference")]
    for model in models:
        model.layers[frozen].trainable = False
    found, want = (fitted(m, fr.Adam(0.01), x, y, shuffle=False) for m in models)
    assert_near(found, want, dtype)


@pytest.mark.parametrize("activation", ["relu", CUT, "hard_sigmoid"])
def test_gradients_from_lists_are_those_of_differences(use, activation):
    """A step of gradient descent at rate 1 is the gradient: along a line, a central difference."""
    use("always")
    x, y = rows_of(60, 21, "float64"), rows_of(60, 5, "float64", 5)
    model = deep(activation=activation)
    model.compile(fr.SGD(1.0), "mse")
    start = model.get_weights()
    rng = np.random.default_rng(6)
    line = [rng.normal(size=w.shape) for w in start]

    def loss(step):
        model.set_weights([w + step * d for w, d in zip(start, line, strict=True)])
        return model.evaluate(x, y, 60, verbose=0)

    differences = (loss(1e-6) - loss(-1e-6)) / 2e-6
    model.set_weights(start)
    model.fit(x, y, 60, 1, verbose=0)
    if _engine.gemm() == "native" and activation != "hard_sigmoid":
        assert max(model.network.active_shares()[:2]) < 1
    steps = zip(start, model.get_weights(), line, strict=True)
    slope = sum(float(((a - b) * d).sum()) for a, b, d in steps)
    assert slope == pytest.approx(differences, rel=1e-6)


# ---- what is not finite ----


@pytest.mark.parametrize("use_of", ["never", "always"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["own kernel", "own bias", "kernel at rest", "kernel of active"])
def test_what_is_not_finite_stops_a_fit(use, use_of, value, where):
    """With lists as without: 0 * NaN is left out of a product, not of the look at the weights."""
    use(use_of)
    model, x = autoencoder(0.02)
    weights = model.get_weights()
    at_rest = int(np.argmin((x @ weights[0] + weights[1]).max(axis=0)))
    weights[1][at_rest] = -99
    if where == "own kernel":
        weights[0][3, 5] = value
    elif where == "own bias":
        weights[1][5] = value
    else:
        weights[2][at_rest if where == "kernel at rest" else (at_rest + 1) % 600, 7] = value
    model.set_weights(weights)
    with pytest.raises(FloatingPointError):
        model.fit(x, x, 200, 1, verbose=0, shuffle=False)


# ---- the same bits ----


@NATIVE
@DTYPES
def test_some_panels_listed_and_others_not(use, dtype):
    """Rows with many active units beside rows with few: the same bits on 1, 2 and 3 threads."""
    results = []
    for n_threads in (1, 2, 3):
        model, x = autoencoder(0.01, dtype, n_threads=n_threads)
        x[:40] *= 30
        model.fit(x, x, 300, 3, verbose=0, shuffle=False)
        assert model.network.active_shares()[0] == 1  # not all of them
        results.append(model.get_weights())
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))
    model, x = autoencoder(0.01, dtype, "reference")
    x[:40] *= 30
    model.fit(x, x, 300, 3, verbose=0, shuffle=False)
    assert_near(results[0], model.get_weights(), dtype)


@NATIVE
def test_a_resumed_fit_has_the_same_bits(tmp_path):
    """What is listed follows from the outputs alone: a checkpoint need not know of it."""
    model, x = autoencoder(0.02)
    saves = fr.ModelCheckpoint(tmp_path / "{epoch}.safetensors")
    model.fit(x, x, 100, 4, verbose=0, callbacks=[saves])
    again = fr.load_model(tmp_path / "2.safetensors")
    again.fit(x, x, 100, 4, verbose=0, resume=True)
    assert again.network.active_shares()[0] < 1
    assert all(
        (a == b).all() for a, b in zip(model.get_weights(), again.get_weights(), strict=True)
    )


@pytest.mark.parametrize("dtype", ["float64"])
def test_compact_while_units_are_listed(use, dtype):
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    y[:, 0] = x[:, 0]
    use("always")
    models = [
        deep(dtype=dtype, backend=b, kernel_regularizer=fr.L1(0.05)) for b in (None, "reference")
    ]
    found, want = (
        fitted(
            m,
            fr.Adam(0.01, l1_step="cumulative"),
            x,
            y,
            epochs=30,
            shuffle=False,
            callbacks=[fr.Compact(every=5)],
        )
        for m in models
    )
    assert models[0].count_params() == models[1].count_params() < deep().count_params() / 2
    for got, exact in zip(found, want, strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-9)


BETWEEN = {
    "dropout": lambda: [lambda: fr.Dropout(0.3, seed=1)],
    "gaussian_dropout": lambda: [lambda: fr.GaussianDropout(0.3, seed=1)],
    "no dropout": lambda: [lambda: fr.Dropout(0.0)],
}


@DTYPES
@pytest.mark.parametrize("backward", ["whole", "frozen", "clipped"])
@pytest.mark.parametrize("between", BETWEEN)
def test_through_a_layer_that_scales(use, between, backward, dtype):
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    use("always")
    models = [deep(dtype=dtype, backend=b, between=BETWEEN[between]()) for b in (None, "reference")]
    for model in models:
        model.layers[0].trainable = backward != "frozen"
    norm = 0.1 if backward == "clipped" else None
    found, want = (
        fitted(m, fr.Adam(0.01, global_clipnorm=norm), x, y, shuffle=False) for m in models
    )
    assert_near(found, want, dtype)
    shares = models[0].network.active_shares()
    if _engine.gemm() == "native":
        assert max(shares[0], shares[2]) < 1 == shares[1] == shares[3]


@DTYPES
@pytest.mark.parametrize("activation", ["relu", CUT])
@pytest.mark.parametrize("after", ["dense", "normalized", "dropped"])
def test_an_activation_of_its_own_is_listed(use, after, activation, dtype):
    """Its reader takes the list; what stands below, all units."""
    x, y = rows_of(110, 21, dtype), rows_of(110, 5, dtype, 5)
    use("always")

    def alone():
        return fr.Activation(activation, activity_regularizer=fr.L1(0.01))

    between = [alone]
    if after == "normalized":
        between = [fr.LayerNormalization, alone]
    if after == "dropped":
        between = [alone, lambda: fr.Dropout(0.3, seed=1)]
    models = [
        deep(dtype=dtype, backend=b, between=between, activation="linear")
        for b in (None, "reference")
    ]
    found, want = (fitted(m, fr.Adam(0.01), x, y, shuffle=False) for m in models)
    assert_near(found, want, dtype)
    shares = models[0].network.active_shares()
    if _engine.gemm() == "native":
        assert shares[1 + (after == "normalized")] < 1 == shares[0]


@pytest.mark.parametrize(
    "between", [fr.LayerNormalization, lambda: fr.AlphaDropout(0.3), lambda: fr.GaussianNoise(0.1)]
)
def test_what_does_not_keep_zeros_takes_all_units(use, between):
    use("always")
    x, y = rows_of(60, 21, "float32"), rows_of(60, 5, "float32", 5)
    model = deep(dtype="float32", between=[between])
    fitted(model, fr.SGD(0.01), x, y)
    assert set(model.network.active_shares()) == {1.0}


@NATIVE
def test_the_same_bits_through_dropout():
    """Chosen by itself, on 1, 2 and 3 threads; the summary says which layer is listed."""
    results = []
    for n_threads in (1, 2, 3):
        fr.set_random_seed(3)
        layers = [fr.Dense(600, "relu"), fr.Dropout(0.2, seed=1), fr.Dense(128)]
        model = fr.Sequential([fr.Input((64,)), *layers])
        model.compile(fr.Adam(1e-4), "mse", n_threads=n_threads)
        x = rows_of(300, 64, "float32")
        weights = model.get_weights()
        weights[1][:] = -np.quantile(x @ weights[0], 0.98)
        model.set_weights(weights)
        model.fit(x, rows_of(300, 128, "float32"), 200, 2, verbose=0, shuffle=False)
        assert model.network.active_shares()[0] < 0.03
        results.append(model.get_weights())
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))
    lines = []
    model.summary(lines.append)
    assert sum("trains sparse" in line for line in lines) == 1
