"""Sequential: building, compiling, predicting, configuration, copies; what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import fastreg as fr
from fastreg import _engine, metrics


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


def small(backend, *, activation="tanh", out=2, dtype=None, **arguments):
    layers = [fr.Input((3,), dtype=dtype), fr.Dense(5, activation, **arguments), fr.Dense(out)]
    return fr.Sequential(layers, backend=backend)


def rows(n, n_in=3, n_out=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))


# ------------------------------------------------------------------ building


def test_layers_are_built_as_they_are_added(backend):
    model = fr.Sequential(backend=backend)
    model.add(fr.Input((3,)))
    assert not model.built
    model.add(fr.Dense(4))
    model.add(fr.Dense(2))
    assert [array.shape for array in model.get_weights()] == [(3, 4), (4,), (4, 2), (2,)]
    assert (model.input_shape, model.output_shape) == ((None, 3), (None, 2))
    assert model.count_params() == 26
    assert [layer.units for layer in model.layers] == [4, 2]


@pytest.mark.parametrize("first", ["build", "predict", "fit", "train_on_batch"])
def test_without_input_the_width_comes_later(first, backend):
    model = fr.Sequential([fr.Dense(4), fr.Dense(2)], backend=backend)
    model.compile("sgd", "mse")
    assert not model.built
    assert model.get_weights() == []
    with pytest.raises(AttributeError, match="not built"):
        _ = model.input_shape
    x, y = rows(8)
    if first == "build":
        model.build((None, 3))
    elif first == "predict":
        model.predict(x)
    elif first == "fit":
        model.fit(x, y, verbose=0)
    else:
        model.train_on_batch(x, y)
    assert model.layers[0].kernel.shape == (3, 4)
    with pytest.raises(ValueError, match=r"x: got shape \(1, 4\)"):
        model.predict(np.ones((1, 4)))


def test_add_and_pop_keep_the_other_weights(backend):
    model = small(backend)
    x, _ = rows(4)
    hidden = fr.Sequential([fr.Input((3,)), fr.Dense(5, "tanh")], backend=backend)
    hidden.set_weights(model.get_weights()[:2])
    model.predict(x)
    popped = model.pop()
    assert model.output_shape == (None, 5)
    assert np.array_equal(model.predict(x), hidden.predict(x))
    model.add(fr.Dense(1))
    assert model.predict(x).shape == (4, 1)
    assert model.count_params() == 3 * 5 + 5 + 6
    kernel = popped.kernel
    hidden.add(popped)  # it belongs to nobody now, and keeps its weights
    assert np.array_equal(hidden.get_weights()[2], kernel)


def test_add_after_training_asks_for_compile(backend):
    model = small(backend)
    model.compile("adam", "mse")
    x, y = rows(4)
    model.add(fr.Dense(2))  # no step was done: nothing is lost
    model.train_on_batch(x, y)
    model.add(fr.Dense(2))
    with pytest.raises(ValueError, match=r"fit: call compile\(\) first"):
        model.fit(x, y, verbose=0)
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    assert model.optimizer.iterations == 1


def test_a_layer_belongs_to_one_model(backend):
    model = small(backend)
    with pytest.raises(ValueError, match="belongs to a model already"):
        fr.Sequential([fr.Input((3,)), model.layers[0]])
    layer, kernel = model.layers[0], model.layers[0].kernel
    del model
    assert np.array_equal(fr.Sequential([fr.Input((3,)), layer]).get_weights()[0], kernel)


def test_layers_of_a_model_that_failed_are_free(backend):
    layer = fr.Dense(2, name="a")
    with pytest.raises(ValueError, match="two with the name 'a'"):
        fr.Sequential([fr.Input((3,)), layer, fr.Dense(1, name="a")], backend=backend)
    model = fr.Sequential([fr.Input((3,)), layer], backend=backend)
    wrong = fr.Sequential([fr.Input((7,)), fr.Dense(1)], backend=backend).pop()
    with pytest.raises(ValueError, match="got width 2; it was built for 7"):
        model.add(wrong)
    assert model.layers == [layer]
    assert model.predict(np.ones((1, 3))).shape == (1, 2)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (
            lambda: [fr.Dense(1, name="a"), fr.Dense(1, name="a")],
            ValueError,
            "two with the name 'a'",
        ),
        (lambda: [fr.Dense(1), fr.Input((1,))], ValueError, "must stand first"),
        (lambda: [fr.Input((1,)), fr.Input((1,))], ValueError, "must stand first"),
        (lambda: [fr.Dense(1), "dense"], TypeError, "layers: got 'dense'"),
        (lambda: fr.Dense(1), TypeError, "layers: got"),
        (
            lambda: [fr.Input((1,), dtype="float32"), fr.Dense(1, dtype="float64")],
            ValueError,
            "dtype: got float32.*float64",
        ),
    ],
)
def test_layers_that_do_not_fit(layers, error, message):
    with pytest.raises(error, match=message):
        fr.Sequential(layers())


@pytest.mark.parametrize("shape", [(3,), 3, (None, 0), (None, None), (None, 4, 0)])
def test_build_refuses(shape):
    with pytest.raises((TypeError, ValueError), match="input_shape"):
        fr.Sequential([fr.Dense(1)]).build(shape)


def test_a_network_needs_layers_with_weights(backend):
    for layers in ([fr.Input((3,))], [fr.Input((3,)), fr.Dropout(0.5)]):
        with pytest.raises(ValueError, match=r"no (Dense )?layer"):
            fr.Sequential(layers, backend=backend).predict(np.ones((1, 3)))
    with pytest.raises(ValueError, match="no layers"):
        fr.Sequential([fr.Input((3,))]).pop()


@pytest.mark.parametrize("where", ["input", "layer", "floatx"])
def test_one_dtype_a_network(where, backend):
    if where == "input":
        layers = [fr.Input((3,), dtype="float64"), fr.Dense(2)]
    else:
        layers = [
            fr.Input((3,)),
            fr.Dense(4),
            fr.Dense(2, dtype="float64" if where == "layer" else None),
        ]
    if where == "floatx":
        fr.config.set_floatx("float64")
    try:
        model = fr.Sequential(layers, backend=backend)
    finally:
        fr.config.set_floatx("float32")
    assert model.dtype == "float64"
    assert {array.dtype for array in model.get_weights()} == {np.dtype("float64")}
    assert model.predict(np.ones((1, 3), "float32")).dtype == np.float64
    with pytest.raises(ValueError, match=r"dtype: got .*float32"):
        model.add(fr.Dense(1, dtype="float32"))
    assert len(model.layers) == len(layers) - 1


def test_trainable_of_the_model_is_that_of_its_layers():
    model = fr.Sequential([fr.Input((3,)), fr.Dense(2), fr.Dense(1)], trainable=False)
    assert not model.trainable
    assert not any(layer.trainable for layer in model.layers)
    model.layers[1].trainable = True
    assert model.trainable


def test_get_layer():
    model = fr.Sequential([fr.Input((3,)), fr.Dense(2, name="hidden"), fr.Dense(1, name="head")])
    assert model.get_layer("head") is model.layers[1]
    assert model.get_layer(index=0) is model.layers[0]
    with pytest.raises(ValueError, match=r"name: got 'hed'.*Did you mean 'head'"):
        model.get_layer("hed")


def test_summary_tells_sizes_and_regularizers():
    lines: list[str] = []
    model = fr.Sequential(
        [fr.Input((784,)), fr.Dense(100, kernel_regularizer="l2"), fr.Dropout(0.1), fr.Dense(10)],
        name="digits",
    )
    model.layers[2].trainable = False
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    for words in (
        '"digits"',
        "float32",
        f"{_engine.gemm()} products on {_engine.isa()}",
        "(None, 100)",
        "78,500",
        "kernel L2(l2=0.01)",
        "not trainable",
    ):
        assert words in text
    assert lines[-1] == "params: 79,510, of which 78,500 are trainable"
    lines.clear()
    fr.Sequential([fr.Dense(3)]).summary(print_fn=lines.append)
    assert "not built" in lines[0]


# ------------------------------------------------------------------ weights and inference


def test_set_weights_takes_what_get_weights_gives(backend):
    model, other = small(backend), small(backend)
    other.set_weights(model.get_weights())
    x, _ = rows(9)
    assert np.array_equal(model.predict(x), other.predict(x))
    model.get_weights()[0][:] = 0  # copies
    assert np.array_equal(model.get_weights()[0], other.get_weights()[0])


def test_predict_is_the_formula(backend):
    model = small(backend, dtype="float64")
    kernel, bias, last_kernel, last_bias = model.get_weights()
    x, _ = rows(33)
    expected = np.tanh(x @ kernel + bias) @ last_kernel + last_bias
    for found in (model.predict(x), model(x), model.predict_on_batch(x), model.predict(x, 7)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_long_predictions_come_in_pieces(backend, monkeypatch):
    model = small(backend, dtype="float64")
    x, y = rows(1100)
    whole = model.predict(x, verbose=0)
    model.compile("sgd", "mse")
    loss = model.evaluate(x, y, verbose=0)
    calls = []
    network = model.network

    class Counting:
        def answer(self, x, out):
            return None

        def forward(self, x, *rest):
            calls.append(len(x))
            network.forward(x, *rest)

        def evaluate(self, x, y, sample_weight, start, stop, *rest):
            calls.append(stop - start)
            network.evaluate(x, y, sample_weight, start, stop, *rest)

    monkeypatch.setattr(fr.training, "SLICE_FLOPS", 1.0)
    monkeypatch.setattr(model._core, "network", Counting())
    np.testing.assert_allclose(model.predict(x, verbose=0), whole, rtol=1e-12)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-12)
    assert calls == [512, 512, 76, 512, 512, 76]


def test_predict_into_out(backend):
    model = small(backend)
    x, _ = rows(6)
    out = np.full((6, 2), np.nan, "float32")
    assert model.predict(x, out=out) is out
    assert np.array_equal(out, model.predict(x))


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty((5, 2), "float32"), ValueError),
        (np.empty((6, 2), "float64"), TypeError),
        (np.empty((2, 6), "float32").T, ValueError),
        (np.broadcast_to(np.float32(0), (6, 2)), ValueError),
        ([[0.0] * 2] * 6, TypeError),
    ],
)
def test_predict_refuses_out(out, error, backend):
    with pytest.raises(error, match="out: got"):
        small(backend).predict(rows(6)[0], out=out)


def test_predict_refuses_out_that_overlaps_x(backend):
    model = fr.Sequential([fr.Input((2,)), fr.Dense(2)], backend=backend)
    x = np.ones((6, 2), "float32")
    with pytest.raises(ValueError, match="out: got memory that overlaps x"):
        model.predict(x, out=x)
    assert np.array_equal(x, np.ones((6, 2)))


def test_predict_lets_nan_through(backend):
    x = np.ones((2, 3))
    x[1, 1] = np.nan
    found = small(backend).predict(x)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.ones((2, 4)), ValueError),
        (np.ones(3), ValueError),
        (np.ones((0, 3)), ValueError),
        (np.ones((2, 3), complex), TypeError),
        (np.full((2, 3), "a"), TypeError),
        (None, TypeError),
    ],
)
def test_bad_x(x, error, backend):
    model = small(backend)
    model.compile("sgd", "mse")
    for call in (model.predict, model, lambda x: model.fit(x, np.ones((2, 2)))):
        with pytest.raises(error, match="x: got"):
            call(x)


def layouts(x):
    big = np.zeros((2 * x.shape[0], 2 * x.shape[1]), x.dtype)
    big[::2, 1::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(x),
        "strided": big[::2, 1::2],
        "reversed": x[::-1].copy()[::-1],
        "big-endian": x.astype(x.dtype.newbyteorder(">")),
        "read-only": read_only,
        "list": x.tolist(),
    }


def test_any_layout_gives_the_same_bits_and_is_left_alone(backend):
    x, y = rows(70)
    x, y = x.astype("float32"), y.astype("float32")

    def trained(x, y):
        fr.set_random_seed(1)
        model = small(backend)
        model.compile("adam", "mse")
        model.fit(x, y, epochs=2, verbose=0)
        return [*model.get_weights(), model.predict(x)]

    expected = trained(x, y)
    for name, layout in layouts(x).items():
        before = copy.deepcopy(layout)
        assert all(map(np.array_equal, trained(layout, layouts(y)[name]), expected)), name
        assert np.array_equal(layout, before)


def test_training_call_drops_at_random(backend):
    def make():
        fr.set_random_seed(3)
        return fr.Sequential(
            [fr.Input((40,)), fr.Dropout(0.5), fr.Dense(4, kernel_initializer="ones")],
            backend=backend,
        )

    x = np.ones((5, 40), "float32")
    model = make()
    first, second = model(x, training=True), model(x, training=True)
    assert not np.array_equal(first, second)
    assert np.array_equal(model(x), np.full((5, 4), 40))
    assert np.array_equal(make()(x, training=True), first)
    with pytest.raises(TypeError, match="training: got 'yes'"):
        model(x, training="yes")


def test_eight_threads_predict_the_same_bits(backend):
    model = fr.Sequential([fr.Input((30,)), fr.Dense(64, "relu"), fr.Dense(5)], backend=backend)
    x = np.random.default_rng(0).normal(size=(300, 30)).astype("float32")
    expected = model.predict(x, verbose=0)
    found: list[bool] = []

    def work():
        found.extend(np.array_equal(model.predict(x, verbose=0), expected) for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


def test_threads_may_predict_while_one_trains(backend):
    model = small(backend)
    model.compile("adam", "mse")
    x, y = rows(64)
    failures = []

    def work():
        try:
            for _ in range(30):
                assert np.isfinite(model.predict(x, verbose=0)).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.fit(x, y, epochs=20, verbose=0)
    for thread in threads:
        thread.join()
    assert failures == []
    assert model.optimizer.iterations == 40


# ------------------------------------------------------------------ compile and evaluate


def test_fit_before_compile_says_so(backend):
    model = small(backend)
    x, y = rows(4)
    for name in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(ValueError, match=rf"{name}: call compile\(\) first"):
            getattr(model, name)(x, y)
    model.compile("adam")
    with pytest.raises(ValueError, match=r"fit: compile\(\) was given no loss"):
        model.fit(x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": "adan"}, ValueError, "'adan'.*Did you mean 'adam'"),
        ({"loss": "mean_square_error"}, ValueError, "Did you mean 'mean_squared_error'"),
        ({"metrics": ["acuracy"]}, ValueError, "Did you mean 'accuracy'"),
        ({"metrics": ["accuracy", "accuracy"]}, ValueError, "'accuracy' twice"),
        ({"n_threads": 0}, ValueError, "n_threads: got 0"),
    ],
)
def test_compile_refuses_and_changes_nothing(arguments, error, message):
    model = small("reference")
    model.compile("sgd", "mse")
    optimizer = model.optimizer
    with pytest.raises(error, match=message):
        model.compile(**{"optimizer": "adam", "loss": "mse", **arguments})
    assert model.optimizer is optimizer
    assert model.loss == "mean_squared_error"


def test_an_optimizer_serves_one_model(backend):
    optimizer = fr.Adam()
    model, other = small(backend), small(backend)
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="optimizer: got one that another model uses"):
        other.compile(optimizer, "mse")
    model.train_on_batch(*rows(4))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="optimizer: got one that another model uses or used"):
        other.compile(optimizer, "mse")


def test_compile_again_with_the_same_optimizer_goes_on(backend):
    x, y = rows(20)

    def trained(again):
        model = small(backend)
        model.set_weights([np.full(array.shape, 0.1) for array in model.get_weights()])
        optimizer = fr.Adam()
        model.compile(optimizer, "mse")
        model.fit(x, y, shuffle=False, verbose=0)
        model.compile(optimizer if again else fr.Adam(), "mse")
        model.fit(x, y, shuffle=False, verbose=0)
        return model

    straight = small(backend)
    straight.set_weights([np.full(array.shape, 0.1) for array in straight.get_weights()])
    straight.compile("adam", "mse")
    straight.fit(x, y, shuffle=False, epochs=2, verbose=0)
    same, fresh = trained(True), trained(False)
    assert all(map(np.array_equal, same.get_weights(), straight.get_weights()))
    assert fresh.optimizer.iterations == 1
    assert not np.array_equal(fresh.get_weights()[0], same.get_weights()[0])


def test_the_learning_rate_may_change_between_calls(backend):
    model = small(backend)
    model.compile(fr.SGD(0.0), "mse")
    before = model.get_weights()
    model.train_on_batch(*rows(4))
    assert all(map(np.array_equal, model.get_weights(), before))
    model.optimizer.learning_rate = 0.1
    model.train_on_batch(*rows(4))
    assert not np.array_equal(model.get_weights()[0], before[0])


def test_evaluate_returns_as_keras(backend):
    x, y = rows(10)
    model = small(backend)
    model.compile("sgd", "mse")
    loss = model.evaluate(x, y, verbose=0)
    assert isinstance(loss, float)
    assert loss == pytest.approx(np.mean((model.predict(x) - y) ** 2), rel=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    labels = y.argmax(axis=1)
    values = model.evaluate(x, labels, verbose=0)
    assert model.metrics_names == ["loss", "accuracy"]
    assert values[1] == pytest.approx(np.mean(model.predict(x).argmax(axis=1) == labels))
    assert model.test_on_batch(x, labels) == values


def test_the_ledger_splits_the_loss(backend):
    model = fr.Sequential(
        [
            fr.Input((3,), dtype="float64"),
            fr.Dense(4, "tanh", kernel_regularizer=fr.L1(0.1), bias_initializer="ones"),
            fr.Dense(2, bias_regularizer=fr.L2(0.2), activity_regularizer=fr.L1L2(0.3, 0.4)),
        ],
        backend=backend,
    )
    model.compile("sgd", "mse", ["acc"])
    x, y = rows(50)
    model.layers[1].set_weights([model.layers[1].kernel, [0.5, -2.0]])
    found = model.evaluate(x, y, 8, verbose=0, return_dict=True)
    output = model.predict(x)
    expected = {
        "data_loss": np.mean((output - y) ** 2),
        "kernel_penalty": 0.1 * np.abs(model.layers[0].kernel).sum(),
        "bias_penalty": 0.2 * (0.25 + 4.0),
        "activity_penalty": (0.3 * np.abs(output).sum() + 0.4 * (output**2).sum()) / 50,
    }
    assert list(found) == ["loss", "acc", *expected]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
    assert found["loss"] == pytest.approx(sum(expected.values()), rel=1e-12)


def test_metrics_of_two_kinds_stand_side_by_side(backend):
    model = small(backend)
    names = ["binary_accuracy", "categorical_accuracy"]
    model.compile("sgd", "categorical_crossentropy", names)
    n_in, n_out = model.input_shape[1], model.output_shape[1]
    x = np.random.default_rng(0).normal(size=(9, n_in))
    y = np.eye(n_out)[np.arange(9) % n_out]
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    p = model.predict(x, verbose=0)
    for name in names:
        assert found[name] == pytest.approx(metrics.get(name)(y, p))


# ------------------------------------------------------------------ configuration and copies


def test_configuration_round_trip(backend):
    model = fr.Sequential(
        [
            fr.Input((3,), dtype="float64", name="rows"),
            fr.Dense(5, "relu", kernel_regularizer=fr.L1(0.1), name="hidden"),
            fr.Dropout(0.5, seed=3, name="drop"),
            fr.Dense(2, trainable=False, name="head"),
        ],
        name="mine",
        backend=backend,
    )
    config = model.get_config()
    other = fr.Sequential.from_config(config)
    assert other.get_config() == config
    assert [array.shape for array in other.get_weights()] == [a.shape for a in model.get_weights()]
    unbuilt = fr.Sequential([fr.Dense(3)])
    assert not fr.Sequential.from_config(unbuilt.get_config()).built
    unbuilt.build((None, 2))
    assert fr.Sequential.from_config(unbuilt.get_config()).input_shape == (None, 2)


def test_configurations_of_nobody():
    for config in (None, {}, {"name": "a"}):
        with pytest.raises(ValueError, match="config: got"):
            fr.Sequential.from_config(config)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_copy_trains_on_as_the_model_does(duplicate, backend):
    x, y = rows(40)
    model = fr.Sequential(
        [
            fr.Input((3,)),
            fr.Dense(6, "relu", kernel_regularizer="l2"),
            fr.Dropout(0.3),
            fr.Dense(2),
        ],
        backend=backend,
    )
    model.compile(fr.Adam(0.01), "mse", ["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    other = duplicate(model)
    assert other.backend == backend
    assert other.optimizer.iterations == model.optimizer.iterations == 4
    for each in (model, other):  # the same shuffles and dropped units, for the generator is copied
        each.fit(x, y, epochs=2, verbose=0)
    assert all(map(np.array_equal, model.get_weights(), other.get_weights()))
    assert model.evaluate(x, y, verbose=0) == other.evaluate(x, y, verbose=0)
    before = model.get_weights()
    other.fit(x, y, verbose=0)
    assert all(map(np.array_equal, model.get_weights(), before))


def test_copies_of_models_not_built_or_not_compiled(backend):
    unbuilt = pickle.loads(pickle.dumps(fr.Sequential([fr.Dense(3)], backend=backend)))
    assert unbuilt.predict(np.ones((1, 2))).shape == (1, 3)
    model = small(backend)
    other = copy.deepcopy(model)
    assert all(map(np.array_equal, model.get_weights(), other.get_weights()))
    assert other.optimizer is None


def test_a_dropped_model_is_freed_at_once(backend):
    model = small(backend)
    model.compile("adam", "mse")
    model.train_on_batch(*rows(4))
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_the_short_way_are_those_of_the_long_way(dtype):
    """train_on_batch of few plain rows goes the short way after another; for a dict it does not."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(40, n)).astype(dtype) for n in (6, 2))
    found = []
    for as_dict in (False, True):
        fr.set_random_seed(4)
        hidden = fr.Dense(9, "tanh", kernel_regularizer="l1_l2", activity_regularizer="l2")
        model = fr.Sequential([fr.Input((6,), dtype=dtype), hidden, fr.Dropout(0.2), fr.Dense(2)])
        model.compile("adam", "mse")
        losses = []

        def step(i, n=1, model=model, as_dict=as_dict, losses=losses):
            loss = model.train_on_batch(x[i : i + n], y[i : i + n], return_dict=as_dict)
            losses.append(loss["loss"] if as_dict else loss)

        for i in range(5):
            step(i)
        step(5, 3)
        model.optimizer.learning_rate = 0.01
        step(8), step(9)
        hidden.kernel_regularizer = fr.L2(0.1)
        step(10), step(11)
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
        step(12), step(13)
        model.set_weights([w / 2 for w in model.get_weights()])
        step(14), step(15)
        model.compile(model.optimizer, "mse")
        step(16), step(17)
        assert model.optimizer.iterations == 16 + 5
        found.append([*model.get_weights(), np.array(losses)])
    for short, long in zip(*found, strict=True):
        np.testing.assert_array_equal(short, long)


def test_the_short_way_leaves_errors_to_the_long_way():
    model = fr.Sequential([fr.Input((2,)), fr.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((1, 2), "float32"), np.ones((1, 1), "float32")
    model.train_on_batch(x, y)
    for wrong, error in (
        ((np.full((1, 2), np.nan, "float32"), y), "x"),
        ((x, np.full((1, 1), np.inf, "float32")), "y"),
        ((np.ones((1, 3), "float32"), y), "x"),
        ((x, np.ones((2, 1), "float32")), "y"),
        ((x, None), "y"),
    ):
        with pytest.raises((ValueError, TypeError), match=error):
            model.train_on_batch(*wrong)
    assert model.optimizer.iterations == 1
    model.set_weights([np.full((2, 1), 3e19, "float32"), np.zeros(1, "float32")])
    with pytest.raises(FloatingPointError):
        model.train_on_batch(x, y)
    assert model.optimizer.iterations == 1


# ------------------------------------------------------------------ rows of several axes


def deep_rows(backend=None, *more, **options):
    fr.set_random_seed(2)
    layers = [fr.Dense(5, "tanh", kernel_regularizer="l2", **options), *more, fr.Dense(2)]
    model = fr.Sequential([fr.Input((4, 3), dtype="float64"), *layers], backend=backend)
    model.compile("sgd", "mse", metrics=["mae"])
    return model


RNG = np.random.default_rng(6)
DEEP_X, DEEP_Y = RNG.normal(size=(10, 4, 3)), RNG.normal(size=(10, 4, 2))
DEEP_W = RNG.uniform(0, 2, size=10)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_layers_act_on_the_last_axis(backend):
    """As a network that reads the vectors one by one, in batches of so many times more."""
    model = deep_rows(backend, fr.LayerNormalization(), fr.BatchNormalization())
    assert model.input_shape == (None, 4, 3) and model.output_shape == (None, 4, 2)
    assert model.layers[0].output_shape == (None, 4, 5)
    layers = [type(layer).from_config(layer.get_config()) for layer in model.layers]
    flat = fr.Sequential([fr.Input((3,), dtype="float64"), *layers], backend=backend)
    flat.compile("sgd", "mse", metrics=["mae"])
    flat.set_weights(model.get_weights())
    options = {"epochs": 2, "shuffle": False, "verbose": 0}
    weight = np.repeat(DEEP_W, 4)
    got = model.fit(DEEP_X, DEEP_Y, batch_size=3, sample_weight=DEEP_W, **options).history
    x, y = DEEP_X.reshape(40, 3), DEEP_Y.reshape(40, 2)
    want = flat.fit(x, y, batch_size=12, sample_weight=weight, **options).history
    assert got == want
    for a, b in zip(model.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.predict(DEEP_X).reshape(40, 2), flat.predict(x))
    np.testing.assert_array_equal(model(DEEP_X), model.predict(DEEP_X))
    each = np.random.default_rng(0).uniform(size=(10, 4))
    mine = model.evaluate(DEEP_X, DEEP_Y, verbose=0, sample_weight=each)
    assert mine == flat.evaluate(x, y, verbose=0, sample_weight=each.ravel())
    assert model.train_on_batch(DEEP_X, DEEP_Y) == flat.train_on_batch(x, y)
    assert model.train_on_batch(DEEP_X, DEEP_Y) == flat.train_on_batch(x, y)
    out = np.empty((10, 4, 2))
    assert model.predict(DEEP_X, out=out) is out
    assert model(DEEP_X, training=True).shape == (10, 4, 2)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_activities_of_rows_of_several_axes_are_a_mean_over_rows(backend):
    """Keras divides them by the batch, not by all vectors in it."""
    schedule = fr.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.5])
    for strength in (0.5, schedule):
        model = deep_rows(backend, activity_regularizer=fr.L2(strength))
        y = np.tanh(DEEP_X @ model.layers[0].kernel)
        found = model.evaluate(DEEP_X, DEEP_Y, verbose=0, return_dict=True)
        assert found["activity_penalty"] == pytest.approx(0.5 * (y**2).sum() / 10)
        objective = model.objective(DEEP_X, DEEP_Y)
        value, _ = objective.smooth(objective.start)
        assert value == pytest.approx(found["loss"])
        found = model.train_on_batch(DEEP_X, DEEP_Y, return_dict=True)
        assert found["activity_penalty"] == pytest.approx(0.5 * (y**2).sum() / 10)


def test_rows_of_several_axes_are_shuffled_and_split_as_rows(tmp_path):
    model = deep_rows()
    model.fit(DEEP_X, DEEP_Y, batch_size=4, epochs=2, validation_split=0.3, verbose=0)
    model.save(tmp_path / "half.safetensors")
    more = {"batch_size": 4, "epochs": 4, "validation_split": 0.3, "verbose": 0, "resume": True}
    again = fr.load_model(tmp_path / "half.safetensors")
    assert again.input_shape == (None, 4, 3)
    a, b = (m.fit(DEEP_X, DEEP_Y, **more).history for m in (model, again))
    assert a == b and len(a["val_loss"]) == 4
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_models_are_built_by_rows_of_several_axes():
    model = fr.Sequential([fr.Dense(2)])
    assert model.predict(DEEP_X).shape == (10, 4, 2)
    model = fr.Sequential([fr.Dense(2, "softmax")])
    model.build((None, 2, 4, 3))
    assert model.predict(np.zeros((5, 2, 4, 3))).shape == (5, 2, 4, 2)
    labels = np.random.default_rng(0).integers(0, 2, size=(5, 2, 4))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert model.evaluate(np.zeros((5, 2, 4, 3)), labels, verbose=0)[0] > 0
    again = pickle.loads(pickle.dumps(model))
    assert again.input_shape == (None, 2, 4, 3)


def test_what_does_not_fit_rows_of_several_axes():
    model = deep_rows()
    for x in (DEEP_X[:, :2], DEEP_X[:, 0], DEEP_X[..., :2]):
        with pytest.raises(ValueError, match=r"x: got shape .*\(n, 4, 3\) is needed"):
            model.fit(x, DEEP_Y)
    with pytest.raises(ValueError, match=r"y: got shape \(10, 2\); \(10, 4, \.\.\.\) is needed"):
        model.fit(DEEP_X, DEEP_Y[:, 0])
    with pytest.raises(ValueError, match=r"sample_weight: got shape \(10, 2\)"):
        model.fit(DEEP_X, DEEP_Y, sample_weight=np.ones((10, 2)))
    with pytest.raises(ValueError, match="class_weight"):
        model.fit(DEEP_X, DEEP_Y, class_weight={0: 1.0})
    with pytest.raises(
        ValueError, match=r"input_shape: got shape \(5, 3\); the model has \(4, 3\)"
    ):
        model.build((None, 5, 3))
    with pytest.raises(ValueError, match=r"reads \(None, 4, 3\)"):
        fr.regularization_path(model, DEEP_X, DEEP_Y)


def test_a_compact_model_reads_rows_of_several_axes():
    model = deep_rows()
    weights = model.get_weights()
    weights[0][1] = 0
    weights[2][3] = 0
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.layers[0].kernel.shape == (2, 4)
    np.testing.assert_allclose(small.predict(DEEP_X), model.predict(DEEP_X), rtol=1e-12)
    assert fr.sparsity_report(model, DEEP_X, DEEP_Y)["kkt_residual"] > 0
