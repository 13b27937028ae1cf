"""The epoch loop: what fit does with data, weights, splits, seeds; divergence and Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import numpy as np
import pytest

import fastreg as fr
from fastreg import training


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


def make(backend, *layers, n_in=3, dtype="float64", optimizer="adam", loss="mse", metrics=None):
    model = fr.Sequential([fr.Input((n_in,), dtype=dtype), *layers], backend=backend)
    model.compile(optimizer, loss, metrics)
    return model


def rows(n, n_in=3, n_out=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_in))
    return x, np.tanh(x @ rng.normal(size=(n_in, n_out)))


def sha(model):
    return hashlib.sha256(b"".join(array.tobytes() for array in model.get_weights())).hexdigest()


def same(model, other):
    return all(map(np.array_equal, model.get_weights(), other.get_weights()))


# ------------------------------------------------------------------ what an epoch is


def test_an_epoch_is_its_batches_one_by_one(backend):
    x, y = rows(37)

    def seeded():
        fr.set_random_seed(1)
        hidden = fr.Dense(4, "tanh", kernel_regularizer="l1")
        return make(backend, hidden, fr.Dropout(0.2), fr.Dense(1))

    model = seeded()
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    other = seeded()
    losses = [
        other.train_on_batch(x[i : i + 8], y[i : i + 8]) for _ in range(2) for i in range(0, 37, 8)
    ]
    assert same(model, other)
    assert model.optimizer.iterations == other.optimizer.iterations == 10
    sizes = [8, 8, 8, 8, 5]
    means = [np.average(losses[:5], weights=sizes), np.average(losses[5:], weights=sizes)]
    np.testing.assert_allclose(history.history["loss"], means, rtol=1e-12)


def test_plain_gradient_descent_is_the_formula(backend):
    x, y = rows(6)
    layer = fr.Dense(1, kernel_regularizer=fr.L1L2(0.1, 0.2))
    model = make(backend, layer, optimizer=fr.SGD(0.05))
    kernel, bias = model.get_weights()
    loss = model.train_on_batch(x, y)
    error = x @ kernel + bias - y
    assert loss == pytest.approx(
        np.mean(error**2) + 0.1 * np.abs(kernel).sum() + 0.2 * (kernel**2).sum(), rel=1e-12
    )
    dkernel = 2 * x.T @ error / 6 + 0.1 * np.sign(kernel) + 0.4 * kernel
    np.testing.assert_allclose(layer.kernel, kernel - 0.05 * dkernel, rtol=1e-12)
    np.testing.assert_allclose(layer.bias, bias - 0.05 * 2 * error.mean(axis=0), rtol=1e-12)


def test_slices_change_nothing(backend, monkeypatch):
    x, y = rows(200)

    def trained(seconds):
        monkeypatch.setattr(training, "SLICE_SECONDS", seconds)
        fr.set_random_seed(2)
        model = make(backend, fr.Dense(4, "relu"), fr.Dropout(0.5), fr.Dense(1))
        history = model.fit(x, y, batch_size=7, epochs=3, verbose=0)
        return sha(model), history.history

    assert trained(0.0) == trained(100.0)


def test_a_pace_finds_slices_of_its_length():
    pace = training.Pace()
    assert pace.stop(0, 1000, 32) == 32
    pace.measured(32, 0.0001)
    assert pace.stop(0, 10**6, 32) == 8 * 32  # eightfold at most
    for _ in range(10):
        stop = pace.stop(0, 10**9, 32)
        pace.measured(stop, stop * 1e-6)
    assert pace.stop(0, 10**9, 32) == pytest.approx(training.SLICE_SECONDS / 1e-6, rel=0.01)
    assert pace.stop(90, 100, 32) == 100
    pace.measured(32, 10.0)
    assert pace.stop(0, 1000, 32) == 32


def test_a_batch_may_be_larger_than_the_data(backend):
    x, y = rows(5)
    model = make(backend, fr.Dense(1))
    model.fit(x, y, batch_size=10**9, verbose=0)
    assert model.optimizer.iterations == 1


def test_it_learns(backend):
    x, y = rows(300)
    model = make(
        backend, fr.Dense(16, "tanh"), fr.Dense(1), dtype="float32", optimizer=fr.Adam(0.01)
    )
    history = model.fit(x, y, epochs=30, verbose=0)
    assert history.history["loss"][-1] < 0.02 * history.history["loss"][0]
    assert history.epoch == list(range(30))


def test_both_backends_train_alike():
    x, y = rows(100)
    labels = (y[:, 0] > 0).astype(int)
    weights = []
    for backend in ("compiled", "reference"):
        fr.set_random_seed(4)
        model = make(
            backend,
            fr.Dense(5, "tanh", kernel_regularizer="l1_l2", activity_regularizer="l1"),
            fr.Dropout(0.3),
            fr.Dense(2, "softmax", bias_regularizer="l2"),
            loss="sparse_categorical_crossentropy",
            optimizer=fr.SGD(0.05, 0.9, True),
        )
        model.fit(x, labels, batch_size=9, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for compiled, reference in zip(*weights, strict=True):
        np.testing.assert_allclose(compiled, reference, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ order and seeds


def test_a_seed_makes_a_fit_reproducible(backend):
    x, y = rows(50)

    def trained(seed):
        fr.set_random_seed(seed)
        model = make(backend, fr.Dense(4), fr.Dropout(0.5), fr.Dense(1))
        model.fit(x, y, epochs=3, verbose=0)
        return sha(model)

    assert trained(1) == trained(1) != trained(2)


def test_a_seed_after_building_counts_too(backend):
    x, y = rows(50)
    model = make(backend, fr.Dense(4), fr.Dropout(0.5), fr.Dense(1))
    start = model.get_weights()
    found = []
    for _ in range(2):
        model.set_weights(start)
        model.compile("adam", "mse")
        fr.set_random_seed(9)
        model.fit(x, y, epochs=2, verbose=0)
        found.append(sha(model))
    assert found[0] == found[1]


def test_shuffle_is_a_new_order_each_epoch(backend):
    x, y = rows(64)
    model = make(backend, fr.Dense(1), optimizer=fr.SGD(0.0))

    class Losses(fr.Callback):
        def __init__(self):
            super().__init__()
            self.first = []

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                self.first.append(logs["loss"])

    shuffled, ordered = Losses(), Losses()
    model.fit(x, y, batch_size=8, epochs=4, callbacks=[shuffled], verbose=0)
    model.fit(x, y, batch_size=8, epochs=4, callbacks=[ordered], verbose=0, shuffle=False)
    assert len(set(shuffled.first)) == 4
    assert len(set(ordered.first)) == 1


def test_two_fits_are_one_longer_fit(backend):
    x, y = rows(40)
    found = []
    for parts in ([(0, 4)], [(0, 1), (1, 4)]):
        fr.set_random_seed(5)
        model = make(backend, fr.Dense(4, "relu"), fr.Dropout(0.2), fr.Dense(1))
        for first, last in parts:
            model.fit(x, y, initial_epoch=first, epochs=last, verbose=0)
        found.append(sha(model))
    assert found[0] == found[1]


def test_no_epochs_do_nothing(backend):
    x, y = rows(4)
    model = make(backend, fr.Dense(1))
    before = sha(model)
    assert model.fit(x, y, epochs=2, initial_epoch=2, verbose=0).history == {}
    assert sha(model) == before


# ------------------------------------------------------------------ weights of rows, validation


def test_a_sample_weight_repeats_a_row(backend):
    x, y = rows(6)
    model, other = (make(backend, fr.Dense(1), optimizer="sgd") for _ in range(2))
    other.set_weights(model.get_weights())
    weighted = model.train_on_batch(x, y, sample_weight=[2, 1, 1, 1, 0, 1])
    index = [0, 0, 1, 2, 3, 5]
    assert other.train_on_batch(x[index], y[index]) == pytest.approx(weighted, rel=1e-12)
    np.testing.assert_allclose(model.get_weights()[0], other.get_weights()[0], rtol=1e-12)


def test_class_weight_is_a_sample_weight(backend):
    x, y = rows(30)
    labels = (y[:, 0] > 0).astype(int)
    results = []
    for weights in (
        {"class_weight": {1: 3.0}},
        {"sample_weight": np.where(labels == 1, 3.0, 1.0)},
    ):
        fr.set_random_seed(0)
        model = make(backend, fr.Dense(2, "softmax"), loss="sparse_categorical_crossentropy")
        results.append(model.fit(x, labels, epochs=2, verbose=0, **weights).history["loss"])
    assert results[0] == results[1]


def test_validation_split_takes_the_last_rows(backend):
    x, y = rows(50)
    weight = np.linspace(0.5, 2, 50)
    found = []
    for split in (True, False):
        fr.set_random_seed(0)
        model = make(backend, fr.Dense(3, "tanh"), fr.Dense(1))
        if split:
            history = model.fit(
                x, y, epochs=2, validation_split=0.2, sample_weight=weight, verbose=0
            )
        else:
            history = model.fit(
                x[:40],
                y[:40],
                epochs=2,
                sample_weight=weight[:40],
                validation_data=(x[40:], y[40:], weight[40:]),
                verbose=0,
            )
        found.append(history.history)
    assert found[0] == found[1]
    assert found[0]["val_loss"][-1] == model.evaluate(
        x[40:], y[40:], sample_weight=weight[40:], verbose=0
    )


def test_validation_freq(backend):
    x, y = rows(10)
    model = make(backend, fr.Dense(1))
    history = model.fit(x, y, epochs=5, validation_data=(x, y), validation_freq=2, verbose=0)
    assert (len(history.history["loss"]), len(history.history["val_loss"])) == (5, 2)
    history = model.fit(x, y, epochs=5, validation_data=(x, y), validation_freq=[5], verbose=0)
    assert len(history.history["val_loss"]) == 1


# ------------------------------------------------------------------ what fit refuses


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size: got 2.5"),
        ({"epochs": -1}, ValueError, "epochs: got -1"),
        ({"validation_split": 1.0}, ValueError, "validation_split: got 1.0"),
        ({"validation_split": 0.99}, ValueError, "validation_split: got 0.99 of 8 rows"),
        ({"validation_data": np.ones((8, 3))}, ValueError, "validation_data"),
        ({"validation_data": (np.ones((8, 2)), np.ones((8, 1)))}, ValueError, "validation_data: x"),
        ({"validation_data": np.ones((8, 2))}, ValueError, "validation_data: got ndarray; .x, y"),
        ({"validation_data": [1]}, ValueError, "validation_data: got 1 things; .x, y"),
        ({"validation_freq": 0}, ValueError, "validation_freq: got 0"),
        ({"sample_weight": np.ones(7)}, ValueError, "sample_weight: got shape"),
        ({"sample_weight": np.full(8, np.nan)}, ValueError, "sample_weight: got nan"),
        ({"class_weight": {0: 1.0}}, ValueError, "class_weight"),
        ({"shuffle": "batch"}, TypeError, "shuffle: got 'batch'"),
        ({"verbose": 3}, ValueError, "verbose: got 3"),
        ({"callbacks": ["history"]}, TypeError, "callbacks: got 'history'"),
        ({"y": np.ones((7, 1))}, ValueError, "y: got shape"),
        ({"y": np.ones((8, 2))}, ValueError, "y: got shape"),
        ({"y": np.full((8, 1), np.inf)}, ValueError, "y: got inf"),
        ({"y": None}, ValueError, "y: got None"),
        ({"x": np.full((8, 3), np.nan)}, ValueError, "x: got nan"),
        ({"x": np.ones((0, 3))}, ValueError, r"x: got shape \(0, 3\)"),
        ({"x": np.full((8, 3), 1e39)}, ValueError, "x: got inf"),
    ],
)
def test_fit_refuses_and_changes_nothing(arguments, error, message, backend):
    x, y = rows(8)
    model = make(backend, fr.Dense(1), dtype="float32")
    before = sha(model)
    with pytest.raises(error, match=message):
        model.fit(**{"x": x, "y": y, "verbose": 0, **arguments})
    assert sha(model) == before
    assert model.optimizer.iterations == 0
    model.fit(x, y, verbose=0)


def test_class_and_sample_weight_together_are_refused(backend):
    x, _ = rows(4)
    model = make(backend, fr.Dense(2, "softmax"), loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="class_weight: got both"):
        model.fit(x, [0, 1, 0, 1], class_weight={0: 2.0}, sample_weight=np.ones(4))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 1], [0.0, 0.5, 1.0], [[0], [1], [2]]])
def test_labels_out_of_range_are_refused(labels, backend):
    model = make(backend, fr.Dense(2, "softmax"), loss="sparse_categorical_crossentropy")
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=r"y: got .* at row"):
            call(rows(3)[0], labels)


# ------------------------------------------------------------------ losses that are not finite


def exploding(backend):
    """A model whose kernel grows by 2e50 a step: the loss overflows after the fourth."""
    layer = fr.Dense(1, use_bias=False, kernel_initializer="ones")
    return make(backend, layer, n_in=1, optimizer=fr.SGD(1e50, 0.5))


def test_a_loss_that_is_not_finite_puts_the_last_epoch_back(backend):
    x, y = np.ones((6, 1)), np.zeros((6, 1))
    model, other = exploding(backend), exploding(backend)
    with pytest.raises(
        FloatingPointError, match=r"epoch 2, step 2: the loss \(mean_squared_error\) is not finite"
    ):
        model.fit(x, y, batch_size=2, epochs=9, shuffle=False, verbose=0)
    assert model.history.epoch == [0]
    other.fit(x, y, batch_size=2, epochs=1, shuffle=False, verbose=0)
    assert same(model, other)
    assert model.optimizer.iterations == other.optimizer.iterations == 3
    for each in (model, other):  # slots, too: the velocity counts in the next step
        each.optimizer.learning_rate = 0.01
        each.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    assert same(model, other)


def test_weights_that_overflow_in_the_last_step_of_an_epoch(backend):
    x, y = np.full((2, 1), 1e15), np.full((2, 1), 1e-3)
    model = make(
        backend,
        fr.Dense(1, use_bias=False, kernel_initializer="ones"),
        n_in=1,
        dtype="float32",
        optimizer=fr.SGD(1e20),
    )
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step 1: a weight became not finite.*before"
    ):
        model.fit(x, y, epochs=3, verbose=0)
    assert np.array_equal(model.get_weights()[0], [[1.0]])
    assert model.optimizer.iterations == 0


def test_train_on_batch_with_a_loss_that_is_not_finite_changes_nothing(backend):
    model = exploding(backend)
    model.set_weights([np.full((1, 1), 1e200)])
    before = sha(model)
    with pytest.raises(FloatingPointError, match=r"mean_squared_error.*not finite"):
        model.train_on_batch([[1.0]], [[0.0]])
    assert sha(model) == before
    assert model.optimizer.iterations == 0


# ------------------------------------------------------------------ Ctrl-C and callbacks that raise


def test_ctrl_c_leaves_a_model_that_goes_on(backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 64)).astype("float32")
    y = x[:, :1]
    model = make(backend, fr.Dense(128, "relu"), fr.Dense(1), n_in=64, dtype="float32")
    model.fit(x[:100], y[:100], verbose=0)
    steps = model.optimizer.iterations
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.4, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=10**6, verbose=0)
    assert time.perf_counter() - sent[0] < 1.0
    assert model.optimizer.iterations > steps
    assert np.isfinite(model.predict(x, verbose=0)).all()
    steps = model.optimizer.iterations
    model.fit(x[:320], y[:320], verbose=0)
    assert model.optimizer.iterations == steps + 10


def test_an_interrupt_as_the_call_returns_loses_no_step(backend, monkeypatch):
    """Python raises KeyboardInterrupt when the engine's call is back, its result not yet stored."""
    x, y = rows(96)
    fr.set_random_seed(0)
    model = make(backend, fr.Dense(3), fr.Dense(1))
    fr.set_random_seed(0)
    other = make(backend, fr.Dense(3), fr.Dense(1))
    network = model.network

    class Interrupted:
        def __getattr__(self, name):
            return getattr(network, name)

        def train(self, *arguments):
            network.train(*arguments)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model._core, "network", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, shuffle=False, verbose=0)
    assert model.optimizer.iterations == 1
    for i in (32, 64):
        model.train_on_batch(x[i : i + 32], y[i : i + 32])
    other.fit(x, y, shuffle=False, verbose=0)
    assert same(model, other)


@pytest.mark.parametrize("method", ["on_epoch_begin", "on_epoch_end", "on_train_batch_end"])
def test_the_model_is_usable_after_a_callback_raised(method, backend):
    x, y = rows(40)
    model = make(backend, fr.Dense(1))

    def fail(self, number, logs=None):
        raise ZeroDivisionError("mine")

    failing = type("Failing", (fr.Callback,), {method: fail})()
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit(x, y, epochs=3, callbacks=[failing], verbose=0)
    model.fit(x, y, verbose=0)
    assert np.isfinite(model.predict(x)).all()


# ------------------------------------------------------------------ the process


def test_any_number_of_threads_gives_the_same_bits():
    x, y = rows(500, n_in=20)
    found = set()
    for n_threads in (1, 2, 3, 8):
        fr.set_random_seed(0)
        model = make("compiled", fr.Dense(100, "relu"), fr.Dropout(0.2), fr.Dense(1), n_in=20)
        model.compile("adam", "mse", n_threads=n_threads)
        model.fit(x, y, epochs=2, verbose=0)
        found.add((sha(model), model.predict(x, verbose=0).tobytes()))
    assert len(found) == 1


def test_a_forked_child_fits_to_the_same_weights(backend):
    x, y = rows(2000, n_in=30)

    def trained():
        fr.set_random_seed(0)
        model = make(backend, fr.Dense(128, "relu"), fr.Dense(1), n_in=30, dtype="float32")
        model.compile("adam", "mse", n_threads=2)
        model.fit(x, y, batch_size=200, epochs=3, verbose=0)
        return sha(model)

    expected = trained()  # the engine's threads are there now, and will be missing in the child
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os.write(write, trained().encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert found == expected == trained()


def test_subnormal_numbers_are_as_they_were_after_a_fit(backend):
    tiny = np.float32(1e-40)
    x, y = rows(64)
    make(backend, fr.Dense(50, "tanh"), fr.Dense(1), dtype="float32").fit(x, y, epochs=3, verbose=0)
    assert tiny * np.float32(0.5) != 0
    assert np.all(np.full(100, tiny) * np.float32(0.5) != 0)
