"""The same bits for any number of threads, any run, any layout, and any way of cutting a fit."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from processes import run

import fastreg as fr
from fastreg import _engine, reference

N_ROWS, N_IN, N_CLASSES = 700, 64, 10
THREADS = (1, 2, 3, 4, 8)


def sha(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def data(dtype="float32", order="C"):
    rng = np.random.default_rng(12)
    x = np.array(rng.normal(size=(N_ROWS, N_IN)), dtype, order=order)
    return x, rng.integers(0, N_CLASSES, N_ROWS)


def make(dtype="float32", n_threads=None, backend=None, optimizer="adam", width=150):
    """Everything that could depend on the order of sums: both penalties everywhere, dropout."""
    fr.set_random_seed(33)
    both = fr.L1L2(1e-4, 1e-3)
    model = fr.Sequential(
        [
            fr.Input((N_IN,), dtype=dtype),
            fr.Dropout(0.1),
            fr.Dense(
                width,
                "relu",
                kernel_regularizer=both,
                bias_regularizer=both,
                activity_regularizer=fr.L1L2(1e-4, 1e-4),
            ),
            fr.Dropout(0.3),
            fr.Dense(width // 2 + 2, "tanh", kernel_regularizer=both, use_bias=False),
            fr.Dense(N_CLASSES, "softmax", bias_regularizer=both),
        ],
        backend=backend,
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"], n_threads=n_threads)
    return model


def fitted(n_threads, dtype="float32", order="C", optimizer="adam", batch_size=96, epochs=2):
    """The hash of the weights, the state, the history, and what the model says of the data."""
    x, y = data(dtype, order)
    model = make(dtype, n_threads, optimizer=optimizer)
    history = model.fit(
        x, y, batch_size=batch_size, epochs=epochs, validation_split=0.1, verbose=0
    ).history
    slots = itertools.chain(*model.network.get_slots())
    numbers = [np.array(values) for _, values in sorted(history.items())]
    scores = np.array(model.evaluate(x, y, verbose=0))
    return sha([*model.get_weights(), *slots, *numbers, scores, model.predict(x, verbose=0)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_any_number_of_threads_gives_the_same_bits(dtype, optimizer):
    """Three runs each, with C- and F-ordered input, which are converted to the same rows."""
    runs = itertools.product(THREADS, range(3), "CF")
    found = {(n, i, order): fitted(n, dtype, order, optimizer) for n, i, order in runs}
    assert len(set(found.values())) == 1, found


def test_batches_of_one_panel_of_rows_and_of_many():
    """What is cut among the threads depends on the batch: one row, less than a panel, all rows."""
    for batch_size in (1, 7, 33, 700):
        epochs = 1 if batch_size == 1 else 2
        found = {fitted(n, batch_size=batch_size, epochs=epochs) for n in (1, 2, 5, 8)}
        assert len(found) == 1, batch_size


def test_wide_layers_are_cut_among_threads_alike():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 513)).astype("float32")
    y = rng.normal(size=(300, 130)).astype("float32")
    found = set()
    for n_threads in THREADS:
        fr.set_random_seed(5)
        model = fr.Sequential(
            [fr.Input((513,)), fr.Dense(517, "relu"), fr.Dropout(0.5), fr.Dense(130)]
        )
        model.compile(fr.SGD(0.01, 0.9), "mse", n_threads=n_threads)
        model.fit(x, y, batch_size=150, epochs=2, verbose=0)
        found.add(sha(model.get_weights()))
    assert len(found) == 1


def test_fresh_processes_give_the_same_bits():
    """Other addresses, another hash seed, threads by the environment: nothing of it counts."""
    code = "import test_determinism as t; print(t.fitted({}))"
    found = {
        run(code.format(n), PYTHONHASHSEED=str(number), FASTREG_NUM_THREADS="3").strip()
        for number, n in enumerate((1, 2, None))
    }
    assert found == {fitted(2)}


@pytest.mark.parametrize("gemm", ["native", "blas"])
def test_each_provider_of_products_is_deterministic(gemm):
    code = "import test_determinism as t; print(*(t.fitted(n) for n in (1, 2, 3, 8, 2)))"
    found = run(code, FASTREG_GEMM=gemm).split()
    assert len(found) == 5
    assert len(set(found)) == 1


def test_the_thread_setting_of_the_process_counts_no_more_than_that_of_compile():
    try:
        found = set()
        for n_threads in THREADS:
            fr.set_num_threads(n_threads)
            found.add(fitted(None))
    finally:
        fr.set_num_threads(None)
    assert found == {fitted(1)}


# ------------------------------------------------------------------ the twin


def test_both_backends_shuffle_and_drop_alike():
    """One row in another batch, one unit dropped that the other keeps, would show in any digit."""
    x, y = data("float64")
    found = []
    for backend in ("compiled", "reference"):
        model = make("float64", backend=backend, width=40)
        history = model.fit(x, y, batch_size=64, epochs=3, verbose=0).history
        found.append((model.get_weights(), history))
    (mine, history), (twin, expected) = found
    for one, other in zip(mine, twin, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    assert history.keys() == expected.keys()
    for name, values in history.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.999, 1 / 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_are_the_same_bits_in_both(rate, dtype):
    rng = np.random.default_rng(2)
    for shape in ((1, 1), (3, 7), (64, 33), (5, 130)):
        x = rng.normal(size=shape).astype(dtype)
        for seed, iteration, layer in ((0, 0, 0), (2**64 - 1, 2**32 - 1, 5), (77, 2**33 + 3, 1)):
            where = {"seed": seed, "iteration": iteration, "layer": layer}
            mine = fr.functional.dropout(x, rate, **where)
            assert np.array_equal(mine, reference.dropout(x, rate, **where)), (shape, where)
            kept = x * np.asarray(1 / (1 - rate), dtype)
            assert np.array_equal(mine[mine != 0], kept[mine != 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mask_inside_a_network_is_that_of_the_function(dtype):
    """One SGD step on sum(dropout(x) @ w): the kernel moves by the mask itself.

    mean_squared_error with kernel 0 and targets -n_out n_batch / 2 has dL/dy = 1 everywhere.
    """
    n_in, n, rate, seed, iteration = 37, 21, 0.4, 2**63 + 11, 6
    layers = [
        {"kind": "dropout", "n_in": n_in, "n_out": n_in, "rate": 0.0, "seed": 1},
        {"kind": "dropout", "n_in": n_in, "n_out": n_in, "rate": rate, "seed": None},
        {"kind": "dense", "n_in": n_in, "n_out": 1, "activation": "linear", "use_bias": False}
        | {"trainable": True}
        | {f"{a}_{b}": 0.0 for a in ("kernel", "bias", "activity") for b in ("l1", "l2")},
    ]
    x = 2.0 ** np.arange(n)[:, None].astype(dtype) * np.ones(n_in, dtype)  # a bit for each row
    sgd = {
        "kind": "sgd",
        "learning_rate": 1.0,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    y = np.full((n, 1), -n / 2, dtype)
    mask = fr.functional.dropout(x, rate, seed=seed, iteration=iteration, layer=1)
    for module, n_threads in ((_engine, 1), (_engine, 3), (reference, 1)):
        network = module.Network(layers, dtype)
        network.set_weights([np.zeros((n_in, 1), dtype)])
        arguments = (x, y, None, None, 0, n, n, "mean_squared_error", sgd, iteration, seed, None)
        assert network.train(*arguments, np.zeros(6), n_threads) == 1
        np.testing.assert_allclose(-network.get_weights()[0][:, 0], mask.sum(0), rtol=1e-6)


# ------------------------------------------------------------------ cuts


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("cuts", [[0, 1, 2, 3, 4, 5], [0, 3, 5], [0, 2, 2, 5]])
def test_a_fit_in_parts_is_the_fit(optimizer, cuts):
    x, y = data()
    whole = make(optimizer=optimizer)
    expected = whole.fit(x, y, batch_size=64, epochs=5, verbose=0).history["loss"]
    parts = make(optimizer=optimizer)
    losses = []
    for first, last in itertools.pairwise(cuts):
        history = parts.fit(x, y, 64, epochs=last, initial_epoch=first, verbose=0).history
        losses += history.get("loss", [])
    assert losses == expected
    assert sha(parts.get_weights()) == sha(whole.get_weights())
    assert parts.optimizer.iterations == whole.optimizer.iterations == 5 * 11


def test_looking_does_not_change_what_comes():
    """Predictions, evaluations and validation in between draw no random numbers."""
    x, y = data()
    plain = make()
    plain.fit(x, y, epochs=3, verbose=0)
    watched = make()
    for epoch in range(3):
        watched.fit(x, y, epochs=epoch + 1, initial_epoch=epoch, validation_data=(x, y), verbose=0)
        watched.predict(x, verbose=0)
        watched.evaluate(x, y, verbose=0)
        watched.get_weights()
        watched.summary(print_fn=lambda line: None)
    assert sha(plain.get_weights()) == sha(watched.get_weights())


@pytest.mark.parametrize("n_threads", [1, 3])
def test_slices_of_an_epoch_are_the_epoch(n_threads):
    x, _ = data()
    rng = np.random.default_rng(7)
    index = rng.permutation(N_ROWS)
    y = rng.normal(size=(N_ROWS, N_CLASSES)).astype("float32")
    layers = [each.describe() for each in make(width=40).layers]
    weights = make(width=40).get_weights()
    adam = fr.Adam(0.01).describe()
    found = []
    for cuts in ([0, 700], [0, 64, 128, 640, 700], [*range(0, 700, 64), 700]):
        network, ledger, steps = _engine.Network(layers, "float32"), np.zeros(6), 0
        network.set_weights(weights)
        for start, stop in itertools.pairwise(cuts):
            arguments = (x, y, None, index, start, stop, 64, "categorical_crossentropy", adam)
            steps += network.train(*arguments, steps, 9, "categorical", ledger, n_threads)
        assert steps == 11
        found.append(sha([*network.get_weights(), *itertools.chain(*network.get_slots()), ledger]))
    assert len(set(found)) == 1


def test_trials_of_threads_leave_the_weights_alone():
    """Of small steps the engine tries one thread and more in turn, in long calls."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40 * 1000, 8)).astype("float32")
    y = rng.normal(size=(40 * 1000, 2)).astype("float32")
    found = []
    for n_threads, cuts in itertools.product([1, 2, 3], [[0, 40_000], [0, 9_000, 31_000, 40_000]]):
        fr.set_random_seed(2)
        model = fr.Sequential([fr.Input((8,)), fr.Dense(64, "tanh"), fr.Dense(64), fr.Dense(2)])
        network = _engine.Network([each.describe() for each in model.layers], "float32")
        network.set_weights(model.get_weights())
        ledger, steps, adam = np.zeros(6), 0, fr.Adam(0.001).describe()
        for start, stop in itertools.pairwise(cuts):
            arguments = (x, y, None, None, start, stop, 40, "mean_squared_error", adam)
            steps += network.train(*arguments, steps, 9, "none", ledger, n_threads)
        assert steps == 1000
        found.append(sha([*network.get_weights(), *itertools.chain(*network.get_slots()), ledger]))
    assert len(set(found)) == 1


def test_predictions_depend_on_the_row_alone():
    """Whatever rows stand beside it, whatever the batch size: a row's output has the same bits."""
    x, _ = data()
    model = make()
    expected = model.predict(x, verbose=0)
    for batch_size, n_threads in ((1, 1), (32, 2), (701, 8), (13, 3)):
        model.compile("sgd", "sparse_categorical_crossentropy", n_threads=n_threads)
        assert np.array_equal(model.predict(x, batch_size=batch_size, verbose=0), expected)
    assert np.array_equal(model(x), expected)
    assert np.array_equal(model.predict(x[::-1], verbose=0), expected[::-1])
