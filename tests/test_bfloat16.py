"""`compile(..., compute_dtype="bfloat16")`: products of rounded operands, all else float32."""

import numpy as np
import pytest
from processes import run
from sklearn.datasets import load_digits

import fastreg as fr
from fastreg import _engine, reference

needs_bfloat16 = pytest.mark.skipif(
    not _engine.has_bfloat16(), reason="this CPU has no avx512_bf16, or products are by BLAS"
)


def data(n_rows=101, n_in=37, n_out=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, n_in)).astype("float32")
    return x, rng.normal(size=(n_rows, n_out)).astype("float32")


def make(layers, backend="compiled", n_threads=None, compute_dtype="bfloat16", optimizer=None):
    fr.set_random_seed(5)
    model = fr.Sequential(layers, backend=backend)
    optimizer = fr.SGD(0.05) if optimizer is None else optimizer
    model.compile(optimizer, "mse", n_threads=n_threads, compute_dtype=compute_dtype)
    return model


def small(n_in=37, n_out=5, regularizer=None):
    return [
        fr.Input((n_in,)),
        fr.Dense(66, "relu", kernel_regularizer=regularizer or fr.L1L2(1e-4, 1e-3)),
        fr.Dense(33, "tanh"),
        fr.Dense(n_out),
    ]


def test_rounding_is_to_nearest_even_with_8_significant_bits():
    x = np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.3, 1e-39, np.inf])
    rounded = reference._round_to_bfloat16(x)
    want = [1, 1, 1 + 2**-6, 1 + 2**-7, -3.296875, 0, np.inf]
    np.testing.assert_array_equal(rounded, np.float32(want))
    assert np.isnan(reference._round_to_bfloat16(np.float32([np.nan])))[0]


@needs_bfloat16
@pytest.mark.parametrize("batch_size", [101, 32, 1])
def test_first_steps_are_those_of_the_reference(batch_size):
    """One layer sees the same operands in both: only the order of float32 sums differs."""
    x, y = data()
    found = []
    for backend in ("compiled", "reference"):
        model = make([fr.Input((37,)), fr.Dense(5)], backend)
        model.fit(x[:batch_size], y[:batch_size], batch_size=batch_size, epochs=1, verbose=0)
        found.append(model.get_weights())
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=40 * 2**-24)


@needs_bfloat16
@pytest.mark.parametrize("optimizer", [fr.SGD, fr.Adam])
def test_a_network_stays_near_its_reference(optimizer):
    """A hidden activity on the edge between two roundings may fall to either side: 2^-8 of it."""
    x, y = data()
    found = []
    for backend in ("compiled", "reference"):
        model = make(small(), backend, optimizer=optimizer(1e-2))
        history = model.fit(x, y, batch_size=32, epochs=2, verbose=0, shuffle=False).history
        found.append([*model.get_weights(), np.array(history["loss"])])
    for ours, theirs in zip(*found, strict=True):
        bound = 5e-3 if optimizer is fr.SGD else 2e-2  # Adam's steps do not shrink with a gradient
        assert np.abs(ours - theirs).max() < bound * max(1, np.abs(theirs).max())


@needs_bfloat16
def test_operands_are_rounded_and_nothing_else():
    """Data and weights of 8 bits give the bits of float32; others do not."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(-8, 9, (64, 37)).astype("float32")
    y = rng.integers(-8, 9, (64, 5)).astype("float32")
    kernel = rng.integers(-4, 5, (37, 5)).astype("float32")
    for x, same in ((coarse, True), (coarse + np.float32(0.001), False)):
        found = []
        for compute_dtype in (None, "bfloat16"):
            model = make([fr.Input((37,)), fr.Dense(5)], compute_dtype=compute_dtype)
            model.set_weights([kernel, np.zeros(5, "float32")])
            found.append(model.predict(x, verbose=0))
            model.fit(x, y, batch_size=64, epochs=1, verbose=0)
            found.append(model.get_weights()[1])
        np.testing.assert_array_equal(found[0], found[2])  # inference is float32
        assert (found[1] == found[3]).all() == same


@needs_bfloat16
@pytest.mark.parametrize("of", ["plain", "dropout", "groups", "sparse rows", "frozen"])
def test_any_number_of_threads_gives_the_same_bits(of):
    x, y = data(300)
    layers = small(regularizer=fr.GroupL1(1e-3) if of == "groups" else None)
    if of == "dropout":
        layers.insert(2, fr.Dropout(0.3, seed=1))
    if of == "frozen":
        layers[2].trainable = False
    if of == "sparse rows":
        from scipy import sparse

        x = sparse.csr_array(np.where(np.abs(x) > 1, x, 0))
    found = []
    for n_threads in (1, 2, 3):
        model = make(
            [type(layer).from_config(layer.get_config()) for layer in layers],
            "compiled",
            n_threads,
            optimizer=fr.Adam(1e-2, l1_step="proximal"),
        )
        model.fit(x, y, batch_size=97, epochs=3, verbose=0)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@needs_bfloat16
def test_digits_end_within_a_percent_of_float32():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    ends = []
    for compute_dtype in (None, "bfloat16"):
        fr.set_random_seed(3)
        model = fr.Sequential(
            [
                fr.Input((64,)),
                fr.Dense(128, "relu", kernel_regularizer=fr.L2(1e-3)),
                fr.Dense(10, "softmax", kernel_regularizer=fr.L2(1e-3)),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", compute_dtype=compute_dtype)
        model.fit(x, y, batch_size=64, epochs=30, verbose=0)
        ends.append(model.evaluate(x, y, verbose=0))
    assert abs(ends[1] / ends[0] - 1) < 0.01


@needs_bfloat16
def test_it_can_be_switched_and_is_kept(tmp_path):
    x, y = data()
    model = make(small())
    model.fit(x, y, verbose=0)
    lines = []
    model.summary(lines.append)
    assert any("trained in bfloat16" in line for line in lines)
    model.save(tmp_path / "model.safetensors")
    again = fr.load_model(tmp_path / "model.safetensors")
    again.fit(x, y, verbose=0, shuffle=False)
    model.fit(x, y, verbose=0, shuffle=False)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.compile(model.optimizer, "mse")
    own = make(small(), compute_dtype=None)
    own.set_weights(model.get_weights())
    own_loss = own.train_on_batch(x, y)
    assert model.train_on_batch(x, y) == own_loss


def test_errors_say_what_is_needed():
    model = fr.Sequential([fr.Input((3,), dtype="float64"), fr.Dense(2)], backend="reference")
    with pytest.raises(ValueError, match="compute_dtype: got 'bfloat16' for a float64 model"):
        model.compile("sgd", "mse", compute_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"compute_dtype.*bfloat61.*bfloat16"):
        model.compile("sgd", "mse", compute_dtype="bfloat61")
    model.compile("sgd", "mse")


@pytest.mark.parametrize("setting", ["FASTREG_ISA=avx2", "FASTREG_GEMM=blas"])
def test_elsewhere_it_is_refused_by_name(setting):
    name, value = setting.split("=")
    program = """
import fastreg as fr
model = fr.Sequential([fr.Input((3,)), fr.Dense(2)])
try:
    model.compile("sgd", "mse", compute_dtype="bfloat16")
except ValueError as error:
    print(error)
"""
    out = run(program, **{name: value})
    assert "compute_dtype" in out and "avx512_bf16" in out
