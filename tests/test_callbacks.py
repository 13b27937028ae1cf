"""Callbacks: when they are called and with what; early stopping; progress lines."""

from __future__ import annotations

import builtins
import re
import threading

import numpy as np
import pytest

import fastreg as fr
from fastreg import callbacks


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


def make(backend, optimizer="sgd", metrics=None):
    model = fr.Sequential([fr.Input((2,)), fr.Dense(1)], backend=backend)
    model.compile(optimizer, "mse", metrics)
    return model


def rows(n=10):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 1))


class Recorder(fr.Callback):
    """Writes down every call."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.logs = []

    def set_model(self, model):
        super().set_model(model)
        self.calls.append("set_model")

    def set_params(self, params):
        super().set_params(params)
        self.calls.append("set_params")


def recording(*methods):
    def record(name):
        def method(self, *arguments):
            numbers = [a for a in arguments if isinstance(a, int)]
            self.calls.append(" ".join([name, *map(str, numbers)]))
            self.logs.extend(a for a in arguments if isinstance(a, dict))

        return method

    return type("Recording", (Recorder,), {name: record(name) for name in methods})()


EPOCHS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end")


def test_calls_of_a_fit_stand_in_order(backend):
    x, y = rows()
    recorder = recording(
        *EPOCHS, "on_train_batch_begin", "on_train_batch_end", "on_test_begin", "on_test_end"
    )
    make(backend).fit(
        x, y, 8, 2, 0, recorder, validation_data=(x, y), validation_freq=2, initial_epoch=0
    )
    batches = [f"on_train_batch_{when} {i}" for i in (0, 1) for when in ("begin", "end")]
    assert recorder.calls == [
        "set_model",
        "set_params",
        "on_train_begin",
        "on_epoch_begin 0",
        *batches,
        "on_epoch_end 0",
        "on_epoch_begin 1",
        *batches,
        "on_test_begin",
        "on_test_end",
        "on_epoch_end 1",
        "on_train_end",
    ]
    assert recorder.params["epochs"] == 2
    assert recorder.params["steps"] == 2


def test_calls_of_evaluate(backend):
    x, y = rows()
    recorder = recording(
        "on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end", *EPOCHS
    )
    found = make(backend).evaluate(x, y, 8, 0, callbacks=[recorder], return_dict=True)
    assert recorder.calls[2:] == [
        "on_test_begin",
        "on_test_batch_begin 0",
        "on_test_batch_end 0",
        "on_test_batch_begin 1",
        "on_test_batch_end 1",
        "on_test_end",
    ]
    assert recorder.logs[-1] == found


def test_batch_logs_are_means_so_far(backend):
    x, y = rows(20)
    recorder = recording("on_batch_end")  # Keras' older name
    history = make(backend, fr.SGD(0.0)).fit(
        x, y, batch_size=5, shuffle=False, callbacks=[recorder], verbose=0
    )
    other = make(backend, fr.SGD(0.0))
    other.set_weights(recorder.model.get_weights())
    for i, logs in enumerate(recorder.logs):
        expected = other.evaluate(x[: 5 * (i + 1)], y[: 5 * (i + 1)], verbose=0)
        assert logs["loss"] == pytest.approx(expected, rel=1e-6)
    assert len(recorder.logs) == 4
    assert recorder.logs[-1]["loss"] == history.history["loss"][0]


def test_only_those_who_ask_are_called_at_every_batch(backend, monkeypatch):
    """A million batches in one slice must not become a million calls for a History."""
    model = make(backend)
    x, y = rows(1000)
    model.fit(x, y, batch_size=1, epochs=3, verbose=0)
    calls = []
    train = fr.training.train
    monkeypatch.setattr(fr.training, "train", lambda *a: (calls.append(a[4:6]), train(*a)))
    model.fit(x, y, batch_size=1, callbacks=[recording(*EPOCHS)], verbose=0)
    assert len(calls) < 300
    calls.clear()
    model.fit(x, y, batch_size=1, callbacks=[recording("on_train_batch_end")], verbose=0)
    assert calls == [(i, i + 1) for i in range(1000)]


def test_stop_training_ends_the_epoch_at_hand_and_the_fit(backend):
    class Stop(fr.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    x, y = rows(50)
    model = make(backend)
    history = model.fit(x, y, batch_size=5, epochs=3, callbacks=[Stop()], verbose=0)
    assert model.optimizer.iterations == 2
    assert history.epoch == [0]
    assert model.fit(x, y, verbose=0).epoch == [0]  # the flag is put back


def test_history_keys_stand_in_order(backend):
    x, y = rows()
    model = make(backend, metrics=["binary_accuracy"])
    history = model.fit(x, y, epochs=2, validation_split=0.3, verbose=0)
    split = ["data_loss", "kernel_penalty", "bias_penalty", "activity_penalty"]
    keys = ["loss", "binary_accuracy", *split]
    assert list(history.history) == keys + [f"val_{key}" for key in keys]
    assert all(len(values) == 2 for values in history.history.values())
    assert all(type(value) is float for values in history.history.values() for value in values)
    assert model.history is history


def test_a_history_of_ones_own_is_used(backend):
    mine = fr.History()
    model = make(backend)
    assert model.fit(*rows(), callbacks=[mine], verbose=0) is mine
    model.fit(*rows(), callbacks=[mine], verbose=0)
    assert len(mine.history["loss"]) == 2  # goes on, as in Keras


# ------------------------------------------------------------------ early stopping


class Fake:
    """A model whose validation loss follows a script."""

    stop_training = False

    def __init__(self):
        self.weights = None

    def get_weights(self):
        return self.weights

    def get_config(self):
        return {}

    def go_back(self, config, weights):
        self.weights = weights


def run(stopper, values, monitor="val_loss"):
    """Epochs done, and the weights (the number of the epoch) at the end."""
    model = Fake()
    stopper.set_model(model)
    stopper.set_params({"metrics": [monitor]})
    stopper.on_train_begin()
    for epoch, value in enumerate(values):
        model.weights = epoch
        stopper.on_epoch_end(epoch, {} if value is None else {monitor: value})
        if model.stop_training:
            break
    stopper.on_train_end()
    return epoch + 1, model.weights


# What keras.callbacks.EarlyStopping of Keras 3.15.1 does with the same values.
@pytest.mark.parametrize(
    ("arguments", "values", "expected"),
    [
        ({}, [3, 2, 1, 1, 0], (4, 3)),
        ({"patience": 2}, [3, 2, 4, 4, 0, 0, 0], (4, 3)),
        ({"patience": 2, "restore_best_weights": True}, [3, 2, 4, 4, 0], (4, 1)),
        ({"patience": 5, "restore_best_weights": True}, [3, 1, 2, 2], (4, 1)),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.2], (2, 1)),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.2], (5, 4)),
        ({"patience": 1, "baseline": 1.0}, [5, 4, 3, 0.5, 0.6], (5, 4)),
        ({"patience": 2, "baseline": 1.0}, [5, 6, 7, 8], (2, 1)),
        ({"patience": 3, "baseline": 1.0}, [5, 4, 3, 2, 1, 0.5, 0.6, 0.6, 0.6, 0.6], (9, 8)),
        ({"start_from_epoch": 3}, [1, 2, 3, 4, 5], (5, 4)),
        ({"start_from_epoch": 3, "patience": 1}, [1, 2, 3, 4, 5, 6], (5, 4)),
        ({"mode": "max"}, [1, 2, 3, 2, 5], (4, 3)),
        ({"patience": 1}, [3, None, 2, None, 1], (5, 4)),
        ({}, [1, 1], (2, 1)),
        ({"restore_best_weights": True}, [float("nan")] * 3, (2, 0)),
    ],
)
def test_early_stopping_stops_where_keras_does(arguments, values, expected):
    assert run(fr.EarlyStopping(**arguments), values) == expected


def test_early_stopping_knows_that_accuracies_go_up():
    assert run(fr.EarlyStopping("val_acc"), [0.1, 0.2, 0.3, 0.2], "val_acc") == (4, 3)
    penalty = "val_kernel_penalty"
    assert run(fr.EarlyStopping(penalty), [0.3, 0.2, 0.3], penalty) == (3, 2)


def test_early_stopping_may_be_used_again():
    stopper = fr.EarlyStopping(patience=1)
    assert run(stopper, [1, 2, 3, 4])[0] == run(stopper, [1, 2, 3, 4])[0] == 2


def test_early_stopping_in_a_fit(backend, capsys):
    x, y = rows(30)
    model = make(backend, fr.SGD(0.5))
    stopper = fr.EarlyStopping("loss", patience=3, restore_best_weights=True, verbose=1)
    history = model.fit(
        x, y, batch_size=30, epochs=500, callbacks=[stopper], shuffle=False, verbose=0
    )
    losses = history.history["loss"]
    assert len(losses) < 500
    # The loss of an epoch is from before its update: the best one led to the weights kept.
    assert stopper.best == min(losses) == losses[stopper.best_epoch]
    assert f"Epoch {len(losses)}: early stopping" in capsys.readouterr().out


def test_an_unknown_monitor_is_refused_before_training(backend):
    x, y = rows()
    model = make(backend)
    with pytest.raises(ValueError, match="monitor: got 'val_loss'"):
        model.fit(x, y, callbacks=[fr.EarlyStopping()], verbose=0)
    with pytest.raises(ValueError, match=r"monitor: got 'val_los'.*Did you mean 'val_loss'"):
        model.fit(x, y, callbacks=[fr.EarlyStopping("val_los")], validation_split=0.2, verbose=0)
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize(
    "arguments",
    [{"patience": -1}, {"mode": "up"}, {"min_delta": float("nan")}, {"start_from_epoch": -1}],
)
def test_early_stopping_refuses(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fr.EarlyStopping(**arguments)


# ------------------------------------------------------------------ what is shown


def test_verbose_two_is_a_line_an_epoch(backend, capsys):
    x, y = rows()
    make(backend).fit(x, y, epochs=3, validation_split=0.2, verbose=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 3
    number = r"\d+\.\d{4}"
    assert re.fullmatch(rf"Epoch 2/3 - \d+\.\d\ds - loss: {number} - val_loss: {number}", lines[1])


def test_verbose_zero_and_verbose_auto(backend, capsys):
    x, y = rows()
    model = make(backend)
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    model.predict(x)
    assert capsys.readouterr() == ("", "")
    model.fit(x, y)  # no terminal here: as 2
    model.evaluate(x, y)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/1", "evaluate"]


def test_verbose_one_is_one_line_that_moves(backend, capsys):
    x, y = rows()
    threads = threading.active_count()
    make(backend).fit(x, y, batch_size=1, epochs=4, verbose=1)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.search(r"Epoch 4/4: 100%.* 40/40 .*loss: \d", shown)
    assert threading.active_count() == threads  # tqdm's monitor is not started


def test_without_tqdm_a_line_an_epoch(backend, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "tqdm":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    make(backend).fit(*rows(), epochs=2, verbose=1)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_parts_of_the_loss_are_shown_when_there_are_any():
    logs = {"loss": 3.0, "data_loss": 2.0, "kernel_penalty": 1.0, "bias_penalty": 0.0}
    assert (
        callbacks.format_logs(logs) == "loss: 3.0000 - data_loss: 2.0000 - kernel_penalty: 1.0000"
    )
    assert callbacks.format_logs(logs, split=False) == "loss: 3.0000"


def test_the_progress_line_is_closed_after_an_exception(backend, monkeypatch):
    closed = []

    class Line:
        def __getattr__(self, name):
            return lambda *a, **k: closed.append(name) if name == "close" else None

    class Fail(fr.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError

    monkeypatch.setattr(callbacks, "progress_line", lambda total: Line())
    with pytest.raises(ZeroDivisionError):
        make(backend).fit(*rows(), verbose=1, callbacks=[Fail()])
    assert closed == ["close"]


# ------------------------------------------------ the learning rate


def test_learning_rate_scheduler(backend, capsys):
    x, y = rows()
    model = make(backend, fr.SGD(0.1))
    halve = fr.LearningRateScheduler(lambda epoch, rate: rate / 2, verbose=1)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=halve).history
    assert history["learning_rate"] == [0.05, 0.025, 0.0125]
    assert model.optimizer.learning_rate == 0.0125
    assert "Epoch 3: learning rate 0.0125" in capsys.readouterr().out
    by_epoch = fr.LearningRateScheduler(lambda epoch: 0.1 * (epoch + 1))
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=by_epoch).history
    assert history["learning_rate"] == [0.1, 0.2]


def test_a_schedule_is_not_applied_twice_to_an_epoch_that_is_resumed():
    model = make("reference", fr.SGD(0.1))
    first = fr.LearningRateScheduler(lambda epoch, rate: rate / 2)
    first.set_model(model)
    first.on_train_begin()
    first.on_epoch_begin(0)
    again = fr.LearningRateScheduler(lambda epoch, rate: rate / 2)
    again.set_model(model)
    again.on_train_begin()
    again.set_state(first.get_state())
    again.on_epoch_begin(0)
    assert model.optimizer.learning_rate == 0.05
    again.on_epoch_begin(1)
    assert model.optimizer.learning_rate == 0.025


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"patience": 1}, [3, 2, 2, 2, 1], [1, 1, 0.5, 0.25, 0.25]),
        ({"patience": 2}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1, "mode": "max"}, [3, 2, 4, 3, 3], [1, 0.5, 0.5, 0.25, 0.125]),
        ({"patience": 1, "min_delta": 1.5}, [3, 2, 1, 0, -1], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1, "min_lr": 0.3}, [3, 3, 3, 3, 3], [1, 0.5, 0.3, 0.3, 0.3]),
    ],
)
def test_reduce_on_plateau(options, values, expected):
    model = make("reference", fr.SGD(1.0))
    callback = fr.ReduceLROnPlateau("loss", 0.5, **options)
    callback.set_model(model)
    callback.set_params({"metrics": ["loss"]})
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(values):
        logs = {"loss": float(value)}
        callback.on_epoch_end(epoch, logs)
        found.append(model.optimizer.learning_rate)
    assert found == expected


@pytest.mark.parametrize(
    ("make_callback", "error", "words"),
    [
        (lambda: fr.LearningRateScheduler(0.1), TypeError, "schedule: got 0.1"),
        (lambda: fr.ReduceLROnPlateau(factor=1.0), ValueError, "factor: got 1.0"),
        (lambda: fr.ReduceLROnPlateau(patience=-1), ValueError, "patience: got -1"),
        (lambda: fr.ReduceLROnPlateau(mode="up"), ValueError, "mode: got 'up'"),
        (lambda: fr.ReduceLROnPlateau(min_lr=-1.0), ValueError, "min_lr: got -1.0"),
        (lambda: fr.ReduceLROnPlateau("val_los"), ValueError, "monitor: got 'val_los'"),
        (lambda: fr.LearningRateScheduler(lambda epoch: "x"), TypeError, "learning_rate: got 'x'"),
        (lambda: fr.LearningRateScheduler(lambda epoch: -1.0), ValueError, "learning_rate: got -1"),
    ],
)
def test_callbacks_of_the_learning_rate_refuse(make_callback, error, words):
    x, y = rows()
    with pytest.raises(error, match=words):
        make("reference").fit(x, y, verbose=0, callbacks=make_callback())
