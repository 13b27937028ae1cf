"""ModelCheckpoint and resume; CSVLogger, TerminateOnNaN, LambdaCallback, ProgressPlot."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import fastreg as fr
from fastreg import callbacks, plotting


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


def data(n=50):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.float32)


def make(backend="compiled", seed=5, **arguments):
    fr.set_random_seed(seed)
    layers = [fr.Dense(6, "tanh", kernel_regularizer="l1"), fr.Dropout(0.4), fr.Dense(1, "sigmoid")]
    model = fr.Sequential([fr.Input((4,)), *layers], backend=backend)
    model.compile(fr.Adam(0.05, **arguments), "binary_crossentropy", ["accuracy"])
    return model


class Crash(Exception):
    pass


class StopAfter(fr.Callback):
    """Kills the run at a batch, as a machine that fails would."""

    def __init__(self, n_batches):
        super().__init__()
        self.left = n_batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Crash


def same_weights(a, b):
    everything = [[each.get_weights(), *each.network.get_slots()] for each in (a, b)]
    for one, other in zip(*everything, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


FIT = {"batch_size": 8, "verbose": 0, "validation_split": 0.2}


@pytest.mark.parametrize("save_freq, crash_at", [("epoch", 12), (3, 13), (5, 15), (7, 8)])
@pytest.mark.parametrize("l1_step", ["sign", "cumulative"])
def test_resumed_fit_has_the_bits_of_one_that_was_never_interrupted(
    backend, tmp_path, save_freq, crash_at, l1_step
):
    x, y = data()
    whole = make(backend, l1_step=l1_step)
    history = whole.fit(x, y, epochs=6, **FIT)
    state = whole.rng.bit_generator.state

    path = tmp_path / "model.safetensors"
    broken = make(backend, l1_step=l1_step)
    saved = fr.ModelCheckpoint(path, save_freq=save_freq)
    with pytest.raises(Crash):
        broken.fit(x, y, epochs=6, callbacks=[saved, StopAfter(crash_at)], **FIT)
    fr.set_random_seed(99)  # another process
    resumed = fr.load_model(path, backend=backend)
    again = fr.ModelCheckpoint(path, save_freq=save_freq)
    more = resumed.fit(x, y, epochs=6, callbacks=[again], resume=True, **FIT)

    same_weights(resumed, whole)
    assert resumed.optimizer.iterations == whole.optimizer.iterations
    assert more.history == history.history
    assert more.epoch == history.epoch == list(range(6))
    assert resumed.rng.bit_generator.state == state


def test_crash_and_resume_many_times_over(tmp_path):
    x, y = data()
    whole = make()
    whole.fit(x, y, epochs=4, **FIT)
    path = tmp_path / "model.safetensors"
    model = make()
    for lifetime in (3, 4, 5, 6, 50):
        try:
            saved = fr.ModelCheckpoint(path, save_freq=2)
            model.fit(x, y, epochs=4, callbacks=[saved, StopAfter(lifetime)], resume=True, **FIT)
        except Crash:
            fr.set_random_seed(lifetime)
            model = fr.load_model(path)
    same_weights(model, whole)


def test_ctrl_c_and_resume_in_the_same_process(backend):
    x, y = data()
    whole = make(backend)
    whole.fit(x, y, epochs=3, **FIT)
    model = make(backend)

    def interrupt(batch, logs):
        if batch == 2 and model.optimizer.iterations > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=3, callbacks=fr.LambdaCallback(on_train_batch_end=interrupt), **FIT)
    assert model.position.epoch == 1 and model.position.ledger[5] == 24
    history = model.fit(x, y, epochs=3, resume=True, **FIT)
    same_weights(model, whole)
    assert history.history == whole.history.history


def test_early_stopping_goes_on_with_its_count_and_its_best_weights(tmp_path):
    x, y = data()

    def stopping():
        return fr.EarlyStopping(patience=3, min_delta=0.05, restore_best_weights=True)

    whole = make()
    whole.fit(x, y, epochs=30, callbacks=[stopping()], **FIT)
    n_epochs = len(whole.history.epoch)
    assert 4 <= n_epochs < 30
    path = tmp_path / "model.safetensors"
    broken = make()
    crash = StopAfter(5 * (n_epochs - 1) + 1)  # after the best epoch
    with pytest.raises(Crash):
        broken.fit(x, y, epochs=30, callbacks=[fr.ModelCheckpoint(path), stopping(), crash], **FIT)
    resumed = fr.load_model(path)
    resumed.fit(x, y, epochs=30, callbacks=[stopping()], resume=True, **FIT)
    assert len(resumed.history.epoch) == n_epochs
    for left, right in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_resume_refuses_another_batch_inside_an_epoch(tmp_path):
    x, y = data()
    model = make()
    with pytest.raises(Crash):
        model.fit(x, y, epochs=2, callbacks=[StopAfter(3)], batch_size=8, verbose=0)
    weights = model.get_weights()
    with pytest.raises(ValueError, match=r"resume: got 50 rows in batches of 4; .* row 24 of 50"):
        model.fit(x, y, epochs=2, batch_size=4, resume=True, verbose=0)
    with pytest.raises(ValueError, match="initial_epoch: got both"):
        model.fit(x, y, epochs=2, batch_size=8, resume=True, initial_epoch=1, verbose=0)
    with pytest.raises(TypeError, match="resume"):
        model.fit(x, y, epochs=2, batch_size=8, resume="yes", verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)  # without resume: from the first row
    assert model.history.epoch == [0, 1]


def test_resume_of_a_finished_fit_does_nothing_and_more_epochs_go_on():
    x, y = data()
    model = make()
    model.fit(x, y, epochs=2, **FIT)
    weights = model.get_weights()
    assert model.fit(x, y, epochs=2, resume=True, **FIT).epoch == [0, 1]
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])
    assert model.fit(x, y, epochs=3, resume=True, **FIT).epoch == [0, 1, 2]


def test_checkpoints_are_named_and_only_the_best_are_kept(tmp_path, capsys):
    x, y = data()
    model = make()
    name = "{epoch:02d}-{val_loss:.3f}.safetensors"
    history = model.fit(
        x, y, epochs=6, callbacks=[fr.ModelCheckpoint(tmp_path / name, verbose=1)], **FIT
    )
    values = history.history["val_loss"]
    names = [name.format(epoch=i + 1, val_loss=value) for i, value in enumerate(values)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert capsys.readouterr().out.count("model saved to") == 6

    best = tmp_path / "best.safetensors"
    model = make()
    kept = []
    watch = fr.LambdaCallback(on_epoch_end=lambda epoch, logs: kept.append(model.get_weights()))
    checkpoint = fr.ModelCheckpoint(best, save_best_only=True)
    model.fit(x, y, epochs=6, callbacks=[checkpoint, watch], **FIT)
    loaded = fr.load_model(best).get_weights()
    np.testing.assert_array_equal(loaded[0], kept[int(np.argmin(values))][0])

    accurate = fr.ModelCheckpoint(best, "val_accuracy", save_best_only=True)
    assert callbacks.is_better(accurate.monitor, accurate.mode, 0.9, 0.8, 0.0)
    hard = fr.ModelCheckpoint(tmp_path / "no.safetensors", "loss", save_best_only=True, mode="min",
                              initial_value_threshold=0.0)  # fmt: skip
    model.fit(x, y, callbacks=[hard], **FIT)
    assert not (tmp_path / "no.safetensors").exists()


def test_weights_alone(tmp_path):
    x, y = data()
    model = make()
    path = tmp_path / "weights.safetensors"
    model.fit(x, y, callbacks=[fr.ModelCheckpoint(path, save_weights_only=True)], **FIT)
    other = make(seed=6)
    other.load_weights(path)
    for left, right in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ValueError, match="holds no valid model"):
        fr.load_model(path)
    model.save(tmp_path / "all.safetensors")
    with pytest.raises(ValueError, match="save_weights"):
        other.load_weights(tmp_path / "all.safetensors")
    smaller = fr.Sequential([fr.Input((4,)), fr.Dense(6)])
    with pytest.raises(ValueError, match="weights: got 4 arrays"):
        smaller.load_weights(path)
    with pytest.raises(ValueError, match="not built"):
        fr.Sequential([fr.Dense(1)]).save_weights(path)


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    x, y = data()
    model = make()
    path = tmp_path / "model.safetensors"
    model.fit(x, y, epochs=1, callbacks=[fr.ModelCheckpoint(path)], **FIT)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        model.fit(x, y, epochs=1, callbacks=[fr.ModelCheckpoint(path)], **FIT)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        (("model.keras",), ValueError, "filepath: got 'model.keras'.*'.safetensors'"),
        ((3,), TypeError, "filepath: got 3"),
        (("m.safetensors", "loss", 0, 1), TypeError, "save_best_only: got 1"),
        (("m.safetensors", "loss", 0, True, False, "mni"), ValueError, "Did you mean 'min'"),
        (("m.safetensors", "loss", 0, True, False, "min", 0), ValueError, "save_freq: got 0"),
        (("m.safetensors", "loss", 0, True, False, "min", "epochs"), ValueError, "save_freq"),
    ],
)
def test_bad_checkpoints(arguments, error, match):
    with pytest.raises(error, match=match):
        fr.ModelCheckpoint(*arguments)


def test_bad_names_are_told_before_the_first_step(tmp_path):
    x, y = data()
    model = make()
    for name in ("{epok}.safetensors", "{batch}.safetensors", "{0}.safetensors"):
        with pytest.raises(ValueError, match=r"filepath: got .*cannot be filled in"):
            model.fit(x, y, callbacks=[fr.ModelCheckpoint(tmp_path / name)], **FIT)
    best = fr.ModelCheckpoint(tmp_path / "m.safetensors", "val_los", save_best_only=True)
    with pytest.raises(ValueError, match=r"monitor: got 'val_los'.*Did you mean 'val_loss'"):
        model.fit(x, y, callbacks=[best], **FIT)
    assert model.optimizer.iterations == 0


def test_only_a_number_of_batches_makes_every_step_a_call():
    params = {"metrics": []}
    each_epoch = fr.ModelCheckpoint("m.safetensors")
    assert not callbacks.CallbackList([each_epoch], None, params).for_batches
    each_batch = fr.ModelCheckpoint("m.safetensors", save_freq=3)
    assert callbacks.CallbackList([each_batch], None, params).for_batches
    functions = fr.LambdaCallback(on_batch_end=print)
    assert callbacks.CallbackList([functions], None, params).for_batches


# ------------------------------------------------ CSVLogger


def rows_of(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=separator))


def test_csv_has_the_history(tmp_path):
    x, y = data()
    path = tmp_path / "log.csv"
    model = make()
    history = model.fit(
        x, y, epochs=4, callbacks=[fr.CSVLogger(path)], validation_freq=2, **FIT
    ).history
    head, *rows = rows_of(path)
    assert head == ["epoch", *sorted(history)]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row[head.index("loss")]) for row in rows] == history["loss"]
    assert [row[head.index("val_loss")] for row in rows][::2] == ["NA", "NA"]

    model.fit(x, y, epochs=1, callbacks=[fr.CSVLogger(path, append=True)], **FIT)
    assert [row[0] for row in rows_of(path)] == ["epoch", "0", "1", "2", "3", "0"]
    model.fit(x, y, epochs=1, callbacks=[fr.CSVLogger(path, ";")], **FIT)
    assert [row[0] for row in rows_of(path, ";")] == ["epoch", "0"]


def test_csv_of_a_resumed_fit_has_each_epoch_once(tmp_path):
    x, y = data()
    log, path = tmp_path / "log.csv", tmp_path / "model.safetensors"
    whole = make()
    whole.fit(x, y, epochs=5, callbacks=[fr.CSVLogger(log)], **FIT)
    expected = rows_of(log)
    log.unlink()
    broken = make()
    first = [fr.CSVLogger(log), fr.ModelCheckpoint(path, save_freq=7), StopAfter(13)]
    with pytest.raises(Crash):
        broken.fit(x, y, epochs=5, callbacks=first, **FIT)
    assert len(rows_of(log)) == 3  # epoch 1 was finished after the checkpoint in it
    fr.load_model(path).fit(x, y, epochs=5, callbacks=[fr.CSVLogger(log)], resume=True, **FIT)
    assert rows_of(log) == expected


def test_bad_csv(tmp_path):
    with pytest.raises(ValueError, match="separator: got ', '"):
        fr.CSVLogger("log.csv", ", ")
    with pytest.raises(TypeError, match="filename: got None"):
        fr.CSVLogger(None)
    with pytest.raises(TypeError, match="append: got 1"):
        fr.CSVLogger("log.csv", append=1)
    x, y = data()
    model = make()
    with pytest.raises(OSError, match="missing"):
        model.fit(x, y, callbacks=[fr.CSVLogger(tmp_path / "missing" / "log.csv")], **FIT)
    assert model.optimizer.iterations == 0


# ------------------------------------------------ TerminateOnNaN, LambdaCallback


def test_terminate_on_nan_ends_the_fit_as_of_the_last_finite_epoch(backend, capsys):
    x, y = data()
    model = fr.Sequential([fr.Input((4,)), fr.Dense(1)], backend=backend)
    model.compile(fr.SGD(1e-2), "mse")
    kept = []

    def diverge(epoch, logs):
        kept[:] = model.get_weights()
        if epoch == 1:
            model.optimizer.learning_rate = 1e30

    ended = []
    told = fr.LambdaCallback(on_epoch_end=diverge, on_train_end=ended.append)
    guard = fr.TerminateOnNaN()
    history = model.fit(x, y, epochs=9, verbose=0, callbacks=[told, guard])
    assert history.epoch == [0, 1]
    assert len(ended) == 1
    assert guard.message is not None and "epoch 3" in guard.message
    assert "epoch 3" in capsys.readouterr().err
    np.testing.assert_array_equal(model.get_weights()[0], kept[0])
    with pytest.raises(FloatingPointError, match="epoch 1"):
        model.fit(x, y, epochs=9, verbose=0)
    model.optimizer.learning_rate = 1e-2
    model.fit(x, y, epochs=1, verbose=0, callbacks=[guard])
    assert guard.message is None


def test_lambda_callback_calls_what_it_was_given():
    x, y = data()
    calls = []
    callback = fr.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: calls.append(("begin", epoch)),
        on_epoch_end=lambda epoch, logs: calls.append(("end", epoch, "val_loss" in logs)),
        on_train_begin=lambda logs: calls.append(("train", logs)),
        on_test_end=lambda logs: calls.append(("test", "loss" in logs)),
    )
    make().fit(x, y, epochs=2, callbacks=callback, **FIT)
    one = [("begin", 0), ("test", True), ("end", 0, True)]
    assert calls == [("train", {}), *one, ("begin", 1), ("test", True), ("end", 1, True)]
    with pytest.raises(ValueError, match=r"'on_epoch_ends'.*Did you mean 'on_epoch_end'"):
        fr.LambdaCallback(on_epoch_ends=print)
    with pytest.raises(TypeError, match="on_epoch_end: got 3"):
        fr.LambdaCallback(on_epoch_end=3)


# ------------------------------------------------ ProgressPlot


def test_progress_plot_draws_to_a_file(tmp_path, monkeypatch):
    x, y = data()
    path = tmp_path / "progress.png"
    drawn = []
    monkeypatch.setattr(plotting, "save", lambda figure, path: drawn.append((figure, path)))
    model = make(l1_step="proximal")
    plot = fr.ProgressPlot(path, every=2)
    model.fit(x, y, epochs=5, callbacks=[plot], **FIT)
    assert len(drawn) == 3  # after epochs 2, 4 and the last
    titles = [axes.get_title("left") for axes in plot.figure.axes]
    assert titles[:3] == ["loss", "metrics", "penalties"]
    line = plot.figure.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(line.get_ydata(), model.history.history["loss"])
    assert set(plot.zeros) == {model.layers[0].name, model.layers[2].name}
    share = float(np.mean(model.get_weights()[0] == 0))
    assert plot.zeros[model.layers[0].name][-1] == [5, share]
    monkeypatch.undo()
    plotting.save(plot.figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_progress_plot_shows_zeros_and_leaves_empty_panels_out():
    logs = {"loss": [(1, 1.0)], "kernel_penalty": [(1, 0.0)]}
    titles = [axes.get_title("left") for axes in plotting.plot_progress(logs, {}).axes]
    assert titles == ["loss"]
    figure = plotting.plot_progress(logs, {"dense": [(1, 0.0), (2, 0.5)]})
    assert figure.axes[1].get_title("left") == "zeros in the kernel"
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [0.0, 0.5])


def test_progress_plot_in_a_notebook(monkeypatch):
    import sys
    import types

    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", figure))

    def display(figure, display_id):
        shown.append(("new", figure))
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    x, y = data()
    make().fit(x, y, epochs=3, callbacks=[fr.ProgressPlot()], **FIT)
    assert [kind for kind, _ in shown] == ["new", "update", "update"]


def test_bad_progress_plots(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"'\.png'"):
        fr.ProgressPlot(tmp_path / "progress.pgn")
    with pytest.raises(ValueError, match="every: got 0"):
        fr.ProgressPlot(tmp_path / "progress.png", every=0)
    x, y = data()
    with pytest.raises(ValueError, match="path: got None outside of a notebook"):
        make().fit(x, y, callbacks=[fr.ProgressPlot()], **FIT)
