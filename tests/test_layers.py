"""Layers: arguments, names, weights before and in a network, settings that change."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastreg as fr
from fastreg import layers


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


def test_arguments_stand_in_keras_order():
    layer = fr.Dense(3, "relu", False, "ones", "zeros", "l1", "l2", "l1_l2")
    assert layer.units == 3
    assert layer.activation.name == "relu"
    assert layer.use_bias is False
    assert layer.kernel_initializer == fr.initializers.Ones()
    assert layer.kernel_regularizer == fr.L1(0.01)
    assert layer.bias_regularizer == fr.L2(0.01)
    assert layer.activity_regularizer == fr.L1L2(0.01, 0.01)


def test_names_count_on_as_in_keras():
    numbers = [fr.Dropout(0.1).name for _ in range(3)]
    last = [int(name.removeprefix("dropout_")) for name in numbers[1:]]
    assert last[1] == last[0] + 1
    assert fr.Dense(1, name="head").name == "head"
    for bad in ("", "a/b", 3):
        with pytest.raises(ValueError, match="name: got"):
            fr.Dense(1, name=bad)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, ValueError, "units: got 0"),
        ({"units": 2.5}, TypeError, "units: got 2.5"),
        ({"activation": "rleu"}, ValueError, "activation.*'rleu'.*Did you mean 'relu'"),
        ({"kernel_regularizer": "l3"}, ValueError, "kernel_regularizer.*'l3'"),
        ({"bias_initializer": "zeroes"}, ValueError, "bias_initializer.*Did you mean 'zeros'"),
        ({"use_bias": "yes"}, TypeError, "use_bias: got 'yes'"),
        ({"dtype": "float16"}, ValueError, "dtype: got 'float16'"),
        ({"kernel_constraint": "nonnegg"}, ValueError, "kernel_constraint.*Did you mean 'non_neg'"),
        ({"kernel_regulariser": "l2"}, TypeError, "kernel_regulariser.*'kernel_regularizer'"),
        ({"trainable": None}, TypeError, "trainable: got None"),
    ],
)
def test_dense_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        fr.Dense(**{"units": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rate": 1.0}, ValueError),
        ({"rate": -0.1}, ValueError),
        ({"rate": "half"}, TypeError),
        ({"rate": 0.5, "noise_shape": (1, 2)}, ValueError),
        ({"rate": 0.5, "seed": -1}, ValueError),
    ],
)
def test_dropout_refuses(arguments, error):
    name = list(arguments)[-1]
    with pytest.raises(error, match=name):
        fr.Dropout(**arguments)


@pytest.mark.parametrize("shape", [4, (), (2, 0), (0,), (None,), "4"])
def test_input_refuses_other_shapes(shape):
    with pytest.raises((TypeError, ValueError), match="shape: got"):
        fr.Input(shape)


def test_input_of_integers_says_nothing_about_the_network():
    model = fr.Sequential([fr.Input((2,), dtype="int32"), fr.Dense(1, dtype="float64")])
    assert model.dtype == "float64"
    with pytest.raises(ValueError, match="dtype: got 'float16'"):
        fr.Input((2,), dtype="float16")


def test_what_is_built_is_fixed():
    layer = fr.Dense(3)
    for name in ("units", "activation", "use_bias", "name", "dtype"):
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, getattr(layer, name))


def test_an_unbuilt_layer_has_no_sizes():
    layer = fr.Dense(3)
    assert not layer.built
    assert layer.get_weights() == []
    for name in ("kernel", "bias", "input_shape", "output_shape"):
        with pytest.raises(AttributeError, match="not built"):
            getattr(layer, name)
    with pytest.raises(AttributeError, match="not built"):
        layer.count_params()


def test_weights_of_a_layer_are_those_of_the_model(backend):
    model = fr.Sequential(
        [fr.Input((4,)), fr.Dense(3), fr.Dropout(0.5), fr.Dense(2)], backend=backend
    )
    first, dropout, last = model.layers
    before = last.kernel
    model.predict(np.ones((1, 4)))  # now the weights are in the network
    assert np.array_equal(last.kernel, before)
    assert (last.kernel.shape, last.bias.shape, last.count_params()) == ((3, 2), (2,), 8)
    assert dropout.get_weights() == []
    assert dropout.output_shape == (None, 3)
    last.set_weights([np.ones((3, 2)), [5, 6]])
    assert np.array_equal(model.get_weights()[3], np.float32([5, 6]))
    assert np.array_equal(model.get_weights()[0], first.kernel)
    last.kernel[:] = 7  # a copy
    assert np.array_equal(last.kernel, np.ones((3, 2)))


def test_no_bias(backend):
    model = fr.Sequential(
        [fr.Input((4,)), fr.Dense(3, use_bias=False), fr.Dense(1)], backend=backend
    )
    x = np.float32([[1, 2, 3, 4]])
    kernel, last, bias = model.get_weights()
    assert model.layers[0].bias is None
    assert model.layers[0].count_params() == 12
    np.testing.assert_allclose(model.predict(x), x @ kernel @ last + bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([np.ones((2, 3))], ValueError),
        ([np.ones((3, 2)), np.ones(3)], ValueError),
        ([np.ones((2, 3)), np.array(["a", "b", "c"])], TypeError),
        (None, TypeError),
    ],
)
def test_set_weights_refuses_and_changes_nothing(weights, error, backend):
    model = fr.Sequential([fr.Input((2,)), fr.Dense(3)], backend=backend)
    before = model.get_weights()
    for target in (model.layers[0], model):
        with pytest.raises(error, match="weights"):
            target.set_weights(weights)
    assert all(map(np.array_equal, model.get_weights(), before))


def test_a_regularizer_set_later_acts_at_the_next_call(backend):
    model = fr.Sequential([fr.Input((2,)), fr.Dense(1, name="head")], backend=backend)
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    assert model.evaluate(x, y, verbose=0, return_dict=True)["kernel_penalty"] == 0
    model.layers[0].kernel_regularizer = fr.L2(0.5)
    found = model.evaluate(x, y, verbose=0, return_dict=True)["kernel_penalty"]
    assert found == pytest.approx(0.5 * float((model.layers[0].kernel ** 2).sum()), rel=1e-6)
    with pytest.raises(ValueError, match="kernel_regularizer"):
        model.layers[0].kernel_regularizer = "l4"
    assert model.layers[0].kernel_regularizer == fr.L2(0.5)


def test_an_untrainable_layer_stays_and_pays_no_penalty(backend):
    model = fr.Sequential(
        [
            fr.Input((2,)),
            fr.Dense(3, kernel_regularizer="l2", activity_regularizer="l2"),
            fr.Dense(1),
        ],
        backend=backend,
    )
    model.compile("adam", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.layers[0].trainable = False
    kernel, *_, last_bias = model.get_weights()
    logs = model.train_on_batch(x, y, return_dict=True)
    assert np.array_equal(model.layers[0].kernel, kernel)
    assert not np.array_equal(model.layers[1].bias, last_bias)
    assert logs["kernel_penalty"] == 0 < logs["activity_penalty"]
    model.layers[0].trainable = True
    assert model.train_on_batch(x, y, return_dict=True)["kernel_penalty"] > 0
    assert not np.array_equal(model.layers[0].kernel, kernel)


def test_the_dropout_rate_may_change(backend):
    model = fr.Sequential([fr.Input((50,)), fr.Dropout(0.0), fr.Dense(1)], backend=backend)
    x = np.ones((1, 50))
    assert np.allclose(model(x, training=True), model(x), rtol=1e-5)
    model.layers[0].rate = 0.5
    assert not np.allclose(model(x, training=True), model(x), rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        fr.Input((4,), batch_size=8, dtype="float64", name="rows"),
        fr.Dense(
            3, "tanh", False, "he_normal", "ones", fr.L1(0.1), None, fr.L1L2(0.1, 0.2), name="d"
        ),
        fr.Dense(3, dtype="float64", trainable=False, name="e"),
        fr.Dropout(0.25, seed=7, name="f"),
    ],
)
def test_configuration_round_trip(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    assert layers.deserialize(layers.serialize(layer)).get_config() == config


def test_configurations_of_nobody():
    with pytest.raises(TypeError, match="argument of Dense"):
        fr.Dense.from_config({"units": 3, "unit": 4})
    with pytest.raises(ValueError, match="layer: got 'Conv2D'"):
        layers.deserialize({"class_name": "Conv2D", "config": {}})


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_of_a_layer_keep_the_weights_and_belong_to_nobody(duplicate, backend):
    model = fr.Sequential([fr.Input((2,)), fr.Dense(3)], backend=backend)
    model.predict(np.ones((1, 2)))
    layer = duplicate(model.layers[0])
    assert np.array_equal(layer.kernel, model.layers[0].kernel)
    other = fr.Sequential([fr.Input((2,)), layer], backend=backend)
    assert np.array_equal(other.predict(np.ones((1, 2))), model.predict(np.ones((1, 2))))
    other.set_weights([np.zeros((2, 3)), np.zeros(3)])
    assert np.any(model.layers[0].kernel)


# ------------------------------------------------ Flatten


def test_flatten_reads_images_as_rows(backend):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4, 3)).astype(np.float32), rng.normal(size=(30, 1))

    def make(*first):
        fr.set_random_seed(3)
        model = fr.Sequential([*first, fr.Dense(5, "tanh"), fr.Dense(1)], backend=backend)
        model.compile("adam", "mse")
        return model

    flat = make(fr.Input((12,)))
    flat.fit(x.reshape(30, 12), y, epochs=2, validation_split=0.2, verbose=0)
    flat_loss = flat.evaluate(x.reshape(30, 12), y, verbose=0)
    turned = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)  # needs a copy
    for first, rows in [
        ([fr.Input((4, 3))], x),
        ([fr.Input((4, 3))], x.reshape(30, 12)),
        ([], turned),  # built by its data
    ]:
        model = make(*first, fr.Flatten())
        model.fit(rows, y, epochs=2, validation_split=0.2, verbose=0)
        assert model.input_shape == (None, 12) and model.layers[0].count_params() == 0
        for ours, theirs in zip(model.get_weights(), flat.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for n in (1, 30):
            np.testing.assert_array_equal(model.predict(rows[:n]), flat(x[:n].reshape(n, 12)))
        assert model.evaluate(rows, y, verbose=0) == flat_loss
        assert model(rows, training=True).shape == (30, 1)


def test_flatten_moves_with_its_model(tmp_path):
    model = fr.Sequential([fr.Input((2, 2)), fr.Flatten(), fr.Dense(3, kernel_regularizer="l1")])
    x = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    model.save(tmp_path / "model.safetensors")
    for same in (fr.load_model(tmp_path / "model.safetensors"), copy.deepcopy(model)):
        np.testing.assert_array_equal(same.predict(x), model.predict(x))
        assert same.get_config() == model.get_config()
    weights = model.get_weights()
    weights[0][[0, 2]] = 0
    model.set_weights(weights)
    lines = []
    model.summary(print_fn=lines.append)
    assert len([line for line in lines if line.startswith(("flatten", "dense"))]) == 2
    model.compile("sgd", "mse")
    y = np.zeros((4, 3))
    flat = [fr.sparsity_report(model, rows, y) for rows in (x, x.reshape(4, 4))]
    assert flat[0] == flat[1]
    small = fr.compact(model)
    assert small.selected_inputs_.tolist() == [1, 3]
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-5, atol=1e-6)


def test_rows_of_several_axes_are_flattened_as_input_says():
    model = fr.Sequential([fr.Input((2, 3)), fr.Flatten(), fr.Dense(3)])
    for bad in (np.zeros((4, 3, 2)), np.zeros((4, 5)), np.zeros((0, 2, 3)), np.zeros(6)):
        with pytest.raises(ValueError, match="x: got shape"):
            model.predict(bad)
    with pytest.raises(ValueError, match="x: got shape"):
        fr.Sequential([fr.Input((6,)), fr.Dense(3)]).predict(np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match="data_format: got 'channels_first'"):
        fr.Flatten("channels_first")
    with pytest.raises(ValueError, match="shape: got 0"):
        fr.Input((2, 0))


# ------------------------------------------------ Rescaling, Normalization


def at_entry():
    mean, variance = [1.0, -2.0, 0.5, 3.0], [4.0, 0.25, 1.0, 0.0]
    return [
        (fr.Rescaling(1 / 16, 0.5), lambda x: x / 16 + 0.5),
        (fr.Rescaling([1, 2, 3, 4], offset=[0, 1, 0, -1]),
         lambda x: x * [1, 2, 3, 4] + [0, 1, 0, -1]),
        (fr.Normalization(mean=mean, variance=variance),
         lambda x: (x - mean) / np.maximum(np.sqrt(variance), 1e-7)),
        (fr.Normalization(mean=2, variance=9, invert=True), lambda x: x * 3 + 2),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(4))
def test_layers_at_the_entry_change_rows_once(number, backend, tmp_path):
    layer, formula = at_entry()[number]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 1))
    x[:, 3] = 3.0  # of no variance

    def make(*first):
        fr.set_random_seed(3)
        head = [fr.Dense(5, "tanh", kernel_regularizer="l1"), fr.Dense(1)]
        model = fr.Sequential([fr.Input((4,), dtype="float64"), *first, *head], backend=backend)
        model.compile(fr.Adam(0.01), "mse")
        return model

    plain = make()
    plain.fit(formula(x), y, epochs=3, validation_split=0.2, verbose=0)
    model = make(layer)
    model.fit(x, y, epochs=3, validation_split=0.2, verbose=0)
    close = {"rtol": 1e-9, "atol": 1e-12}
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, **close)
    for ask in (model.predict, model, lambda rows: model.predict(rows, batch_size=7)):
        for n in (1, 40):
            np.testing.assert_allclose(ask(x[:n]), plain.predict(formula(x[:n])), **close)
    ours, theirs = model.evaluate(x, y, verbose=0), plain.evaluate(formula(x), y, verbose=0)
    assert ours == pytest.approx(theirs, rel=1e-9)
    report = fr.sparsity_report(model, x, y)["kkt_residual"]
    assert report == pytest.approx(fr.sparsity_report(plain, formula(x), y)["kkt_residual"])

    model.save(tmp_path / "model.safetensors")
    same = fr.load_model(tmp_path / "model.safetensors", backend=backend)
    assert same.get_config() == model.get_config()
    np.testing.assert_array_equal(same.predict(x), model.predict(x))
    assert layers.deserialize(layers.serialize(layer)).get_config() == layer.get_config()

    weights = model.get_weights()
    weights[0][[0, 2]] = 0
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.selected_inputs_.tolist() == [1, 3]
    np.testing.assert_allclose(small.predict(x), model.predict(x), **close)


def test_normalization_adapts_to_data_of_any_axes():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 2, 3)).astype(np.float32)
    layer = fr.Normalization()
    model = fr.Sequential([fr.Input((2, 3)), fr.Flatten(), layer, fr.Dense(1)])
    with pytest.raises(ValueError, match="call adapt first"):
        model.predict(x)
    layer.adapt(x)
    flat = x.reshape(50, 6).astype(np.float64)
    np.testing.assert_allclose(layer.mean, flat.mean(axis=0))
    np.testing.assert_allclose(layer.variance, flat.var(axis=0))
    z = layer.enter(x.reshape(50, 6))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-5)
    before = model.predict(x)
    layer.adapt(2 * x)  # acts from the next call on
    np.testing.assert_allclose(model.predict(2 * x), before, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_at_the_entry():
    for layer in (fr.Rescaling(2.0), fr.Normalization(mean=0, variance=1)):
        with pytest.raises(ValueError, match="must stand at its entry"):
            fr.Sequential([fr.Dense(2), layer])
        with pytest.raises(ValueError, match="must stand at its entry"):
            fr.Sequential([fr.Dropout(0.5), type(layer).from_config(layer.get_config())])
    model = fr.Sequential([fr.Input((3,)), fr.Rescaling([1.0, 2.0]), fr.Dense(1)])
    with pytest.raises(ValueError, match=r"to_onnx: got .*Rescaling"):
        fr.to_onnx(model)
    with pytest.raises(ValueError, match=r"scale of layer .*got 2 numbers; the rows have 3"):
        model.predict(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="has no Dense layer"):
        fr.Sequential([fr.Input((3,)), fr.Rescaling(2.0)]).predict(np.zeros((1, 3)))
    for make, error, match in [
        (lambda: fr.Rescaling("2"), TypeError, "scale: got '2'"),
        (lambda: fr.Rescaling(np.nan), ValueError, "scale: got nan"),
        (lambda: fr.Rescaling(1, [[1.0]]), TypeError, "offset: got"),
        (lambda: fr.Normalization(0), ValueError, "axis: got 0"),
        (lambda: fr.Normalization(mean=1.0), ValueError, "mean, variance: got 1.0, None"),
        (lambda: fr.Normalization(mean=1, variance=-1), ValueError, "variance: got -1"),
        (lambda: fr.Normalization(invert=1), TypeError, "invert: got 1"),
        (lambda: fr.Normalization().adapt([[np.nan]]), ValueError, "data: got nan"),
        (lambda: fr.Normalization().adapt([["a"]]), TypeError, "data: got dtype"),
    ]:
        with pytest.raises(error, match=match):
            make()


# ------------------------------------------------------------------ kinds that are not dense

OTHERS = [
    lambda: fr.Activation("gelu"),
    lambda: fr.Activation(fr.activations.Activation("elu", alpha=0.5)),
    lambda: fr.ActivityRegularization(0.01, 0.02),
    lambda: fr.GaussianNoise(0.1, seed=4),
    lambda: fr.GaussianDropout(0.2),
    lambda: fr.AlphaDropout(0.2, seed=4),
    lambda: fr.LayerNormalization(epsilon=0.1, gamma_regularizer="l2", center=False),
    lambda: fr.RMSNormalization(epsilon=0.1),
    lambda: fr.BatchNormalization(momentum=0.9, beta_constraint="non_neg", scale=False),
]


@pytest.mark.parametrize("make", OTHERS)
def test_other_kinds_are_saved_copied_and_described(make, backend, tmp_path):
    layers_ = [fr.Input((4,)), fr.Dense(3, "relu"), make(), fr.Dense(2)]
    model = fr.Sequential(layers_, backend=backend)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(40, 4))
    model.fit(x, x[:, :2], epochs=2, verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = fr.load_model(tmp_path / "model.safetensors", backend=backend)
    again = pickle.loads(pickle.dumps(model))
    for other in (loaded, again, fr.Sequential.from_config(model.get_config())):
        assert other.get_config() == model.get_config()
        assert type(other.layers[1]) is type(model.layers[1])
    for other in (loaded, again):
        np.testing.assert_array_equal(other.predict(x), model.predict(x))
    lines = []
    model.summary(lines.append)
    assert any(type(model.layers[1]).__name__ in line for line in lines)
    assert model.layers[1].output_shape == (None, 3)
    assert model.layers[1].count_params() == sum(w.size for w in model.layers[1].get_weights())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fr.Activation("rleu"), ValueError, "activation.*'rleu'.*Did you mean 'relu'"),
        (lambda: fr.ActivityRegularization(-1.0), ValueError, "l1: got -1"),
        (lambda: fr.ActivityRegularization(l2="x"), TypeError, "l2: got 'x'"),
        (lambda: fr.GaussianNoise(-0.1), ValueError, "stddev: got -0.1"),
        (lambda: fr.GaussianNoise(0.1, seed=-1), ValueError, "seed: got -1"),
        (lambda: fr.GaussianDropout(1.0), ValueError, "rate: got 1"),
        (lambda: fr.AlphaDropout(0.5, (1, 2)), ValueError, "noise_shape: got"),
        (lambda: fr.AlphaDropout(float("nan")), ValueError, "rate: got nan"),
        (lambda: fr.LayerNormalization(axis=1), ValueError, "axis: got 1; only -1"),
        (lambda: fr.LayerNormalization(epsilon=0.0), ValueError, "epsilon: got 0"),
        (lambda: fr.RMSNormalization(axis=0), ValueError, "axis: got 0; only -1"),
        (lambda: fr.RMSNormalization(epsilon=-1), ValueError, "epsilon: got -1"),
        (lambda: fr.LayerNormalization(gamma_regularizer=fr.GroupL1(0.1)), ValueError, "gamma_reg"),
        (lambda: fr.LayerNormalization(rms_scaling=True), ValueError, "rms_scaling"),
        (lambda: fr.BatchNormalization(momentum=1.5), ValueError, "momentum: got 1.5"),
        (lambda: fr.BatchNormalization(beta_initializer="zeroes"), ValueError, "beta_initializer"),
        (lambda: fr.BatchNormalization(renorm=True), ValueError, "renorm"),
        (lambda: fr.BatchNormalization(center="yes"), TypeError, "center: got 'yes'"),
    ],
)
def test_other_kinds_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_activations_apart_are_those_of_dense_layers(backend):
    """The loss is fused with a softmax of its own layer, too."""
    x = np.random.default_rng(0).normal(size=(60, 5))
    y = np.arange(60) % 3
    found = []
    for apart in (False, True):
        fr.set_random_seed(3)
        parts = [fr.Dense(8), fr.Activation("tanh"), fr.Dense(3), fr.Activation("softmax")]
        if not apart:
            parts = [fr.Dense(8, "tanh"), fr.Dense(3, "softmax")]
        model = fr.Sequential([fr.Input((5,), dtype="float64"), *parts], backend=backend)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, epochs=3, verbose=0).history
        found.append([*model.get_weights(), model.predict(x), *history.values()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_activity_penalties_stand_in_the_history_and_may_change(backend):
    layer = fr.ActivityRegularization(l1=0.5)
    model = fr.Sequential([fr.Input((2,)), layer, fr.Dense(1)], backend=backend)
    model.compile("sgd", "mse")
    x = np.array([[1.0, -2.0], [3.0, 0.0]])
    found = model.evaluate(x, [0.0, 0.0], verbose=0, return_dict=True)
    assert found["activity_penalty"] == pytest.approx(0.5 * 6 / 2)
    layer.l1, layer.l2 = 0.0, 0.25
    found = model.evaluate(x, [0.0, 0.0], verbose=0, return_dict=True)
    assert found["activity_penalty"] == pytest.approx(0.25 * 14 / 2)


def test_amounts_follow_schedules(backend):
    """What a step draws is what its own amount says: at 0 the second epoch is deterministic."""
    steps = fr.optimizers.schedules.PiecewiseConstantDecay
    x = np.random.default_rng(0).normal(size=(32, 3))
    for layer in (
        fr.GaussianNoise(steps([0], [0.5, 0.0])),
        fr.GaussianDropout(steps([0], [0.5, 0.0])),
        fr.AlphaDropout(steps([0], [0.5, 0.0])),
        fr.ActivityRegularization(steps([0], [0.5, 0.0])),
    ):
        dense = fr.Dense(1)
        model = fr.Sequential([fr.Input((3,)), layer, dense], backend=backend)
        model.compile(fr.SGD(0.0), "mse")
        losses = model.fit(x, x[:, 0], batch_size=32, epochs=3, verbose=0).history["loss"]
        expected = model.evaluate(x, x[:, 0], verbose=0)
        assert losses[0] != pytest.approx(expected, rel=1e-6)
        assert losses[2] == pytest.approx(expected, rel=1e-6)


def test_calls_in_training_are_noisy(backend):
    x = np.ones((500, 8))
    for layer, stddev in (
        (fr.GaussianNoise(0.5), 0.5),
        (fr.GaussianDropout(0.5), 1.0),
        (fr.Dropout(0.5), 1.0),
    ):
        model = fr.Sequential([fr.Input((8,)), layer, fr.Dense(8)], backend=backend)
        model.set_weights([np.eye(8), np.zeros(8)])
        np.testing.assert_array_equal(model(x), x)
        y = model(x, training=True)
        assert y.mean() == pytest.approx(1.0, abs=0.1)
        assert y.std() == pytest.approx(stddev, rel=0.1)
        assert (model(x, training=True) != y).any()


def test_sparse_rows_may_meet_another_kind_first(backend):
    sparse = pytest.importorskip("scipy.sparse")
    x = np.random.default_rng(0).normal(size=(50, 30)) * (np.arange(30) % 3 == 0)
    for first in (fr.Activation("sigmoid"), fr.GaussianNoise(0.0), fr.ActivityRegularization(0.1)):
        model = fr.Sequential([fr.Input((30,)), first, fr.Dense(2)], backend=backend)
        model.compile(fr.SGD(0.0), "mse")
        csr = sparse.csr_array(x)
        np.testing.assert_allclose(model.predict(csr), model.predict(x), rtol=1e-5, atol=1e-6)
        dense = model.evaluate(x, x[:, :2], verbose=0)
        assert model.evaluate(csr, x[:, :2], verbose=0) == pytest.approx(dense, rel=1e-5)
        fitted = model.fit(csr, x[:, :2], batch_size=50, verbose=0).history["loss"]
        assert fitted == [pytest.approx(dense, rel=1e-5)]


def test_compact_folds_through_activations_apart(backend):
    """A unit without inputs is a constant, after the sigmoid of a layer of its own, too."""
    model = fr.Sequential(
        [
            fr.Input((3,), dtype="float64"),
            fr.Dense(4),
            fr.Activation("sigmoid"),
            fr.GaussianDropout(0.1),
            fr.Dense(2),
            fr.Activation("softmax"),
        ],
        backend=backend,
    )
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=w.shape) for w in model.get_weights()]
    weights[0][:, 1] = 0  # a constant
    weights[2][2] = 0  # is not read
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.layers[0].units == 2
    x = rng.normal(size=(20, 3))
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-12)
    report = fr.sparsity_report(model, x)
    assert report["layers"][0]["dead_units"] == 1
    weights[1][:] = -1e3  # the sigmoid of all units but the constant one
    model.set_weights(weights)
    assert fr.sparsity_report(model, x)["layers"][0]["silent_units"] == 4


def test_one_function_may_have_activations_apart(backend):
    """polish and LBFGS minimize the same loss, whatever layers hold it."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    found = []
    for parts in ([fr.Dense(4, "tanh")], [fr.Dense(4), fr.Activation("tanh")]):
        fr.set_random_seed(1)
        model = fr.Sequential(
            [fr.Input((3,), dtype="float64"), *parts, fr.Dense(1)], backend=backend
        )
        model.compile("lbfgs", "mse")
        model.fit(x, x[:, 0] * x[:, 1], epochs=5, verbose=0)
        polished = model.polish(x, x[:, 0] * x[:, 1], max_iter=20, verbose=0)
        found.append([*model.get_weights(), polished.objective])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# ------------------------------------------------------------------ normalization


def normalized(backend=None, **options):
    layers_ = [
        fr.Input((4,), dtype="float64"),
        fr.Dense(6, kernel_regularizer="l2"),
        fr.BatchNormalization(momentum=0.9, **options),
        fr.Activation("relu"),
        fr.LayerNormalization(gamma_regularizer=fr.L1L2(0.1, 0.2), beta_regularizer="l2"),
        fr.Dense(2),
    ]
    fr.set_random_seed(5)
    model = fr.Sequential(layers_, backend=backend)
    model.compile(fr.Adam(0.01), "mse")
    return model


X = np.random.default_rng(1).normal(1.0, 2.0, size=(61, 4))
Y = X[:, :2] ** 2


def test_weights_of_normalization_have_keras_names_and_order(backend):
    model = normalized(backend)
    assert model.layers[1].weight_names == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert model.layers[3].weight_names == ["gamma", "beta"]
    assert [w.shape for w in model.get_weights()][2:8] == [(6,)] * 6
    lines = []
    model.summary(lines.append)
    total = 4 * 6 + 6 + 4 * 6 + 2 * 6 + 6 * 2 + 2
    assert f"params: {total:,}, of which {total - 12:,} are trainable" in lines[-1]
    assert any("gamma L1L2(l1=0.1, l2=0.2), beta L2" in line for line in lines)
    found = model.evaluate(X, Y, verbose=0, return_dict=True)
    kernel = 0.01 * (model.layers[0].kernel ** 2).sum()
    assert found["kernel_penalty"] == pytest.approx(kernel + 0.1 * 6 + 0.2 * 6)


def test_a_fit_with_normalization_is_resumed_to_the_bit(backend, tmp_path):
    model = normalized(backend)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    model.save(tmp_path / "half.safetensors")
    model.fit(X, Y, batch_size=16, epochs=4, verbose=0, resume=True)
    again = fr.load_model(tmp_path / "half.safetensors", backend=backend)
    again.fit(X, Y, batch_size=16, epochs=4, verbose=0, resume=True)
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (model.layers[1].moving_variance != 1).all()


def test_a_fit_that_diverges_puts_the_moments_back(backend):
    model = normalized(backend)
    model.fit(X, Y, epochs=1, verbose=0)
    before = model.get_weights()
    bad = Y.copy()
    bad[-1] = 1e300
    with pytest.raises(FloatingPointError):
        model.fit(X, bad, batch_size=8, epochs=2, verbose=0, shuffle=False)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_normalization_is_that_of_inference(backend):
    model = normalized(backend)
    model.fit(X, Y, epochs=1, verbose=0)
    model.trainable = False
    before = model.get_weights()
    expected = model.evaluate(X, Y, verbose=0)
    assert model.fit(X, Y, batch_size=61, verbose=0).history["loss"][0] == pytest.approx(expected)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    model.layers[1].trainable = True
    assert model.fit(X, Y, batch_size=61, verbose=0).history["loss"][0] != pytest.approx(expected)
    assert (model.layers[1].moving_mean != before[4]).any()


def test_calls_in_training_take_the_batch_and_move_the_moments(backend):
    model = fr.Sequential([fr.Input((4,)), fr.BatchNormalization(momentum=0.5), fr.Dense(4)])
    model.set_weights([*model.get_weights()[:4], np.eye(4), np.zeros(4)])
    y = model(X, training=True)
    np.testing.assert_allclose(y, (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-3), rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].moving_mean, X.mean(0) / 2, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].moving_variance, 0.5 + X.var(0) / 2, rtol=1e-5)
    assert model.layers[0].gamma.tolist() == [1.0] * 4 and model.layers[0].beta.any() == 0


def test_an_objective_has_no_batches_but_may_have_moving_moments(backend):
    model = normalized(backend)
    with pytest.raises(ValueError, match=r"'batch_normalization.*normalizes by each batch"):
        model.polish(X, Y, verbose=0)
    model.fit(X, Y, epochs=1, verbose=0)
    model.layers[1].trainable = False
    before, moving = model.evaluate(X, Y, verbose=0), model.layers[1].get_weights()
    found = model.polish(X, Y, max_iter=30, verbose=0)
    assert found.objective < before
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(found.objective)
    for one, other in zip(model.layers[1].get_weights(), moving, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_mean_of_the_weights_leaves_the_moments(backend):
    model = normalized(backend)
    model.compile(fr.Adam(0.01, use_ema=True, ema_momentum=0.5), "mse")
    model.fit(X, Y, batch_size=61, epochs=3, verbose=0)
    assert (model.layers[1].moving_mean != 0).all()
    assert (model.layers[1].gamma != 1).any()


def test_compact_takes_units_out_of_batch_normalization(backend):
    """What is not read goes with its gamma and moments; what is constant, into the next bias."""
    model = normalized(backend)
    model.fit(X, Y, epochs=2, verbose=0)
    model.pop(), model.pop()
    model.add(fr.Dense(3))
    weights = model.get_weights()
    weights[0][:, 1] = 0
    weights[6][4] = 0
    model.compile(fr.Adam(0.01), "mse")
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.layers[0].units == 4 and small.layers[1].gamma.shape == (4,)
    np.testing.assert_allclose(small.predict(X), model.predict(X), rtol=1e-12)
    small.fit(X, X[:, :3], epochs=1, verbose=0)
    # layer normalization lets each unit shape its row: none goes
    model = normalized(backend)
    weights = model.get_weights()
    weights[0][:, 1] = 0
    model.set_weights(weights)
    assert fr.compact(model).layers[0].units == 6


def test_regularizers_of_gamma_may_follow_schedules_and_be_added_in_python(backend):
    decay = fr.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.0])

    class Distance:
        def value(self, w):
            return float(((w - 1) ** 2).sum())

        def gradient(self, w):
            return 2 * (w - 1)

    found = []
    for regularizer in (fr.L1(decay), Distance()):
        layer = fr.LayerNormalization(gamma_regularizer=regularizer)
        model = fr.Sequential([fr.Input((4,)), layer, fr.Dense(2)], backend=backend)
        model.compile("sgd", "mse")
        found.append(model.fit(X, Y, batch_size=61, epochs=2, verbose=0).history["kernel_penalty"])
    assert found[0] == [pytest.approx(0.5 * 4, rel=0.2), 0.0]
    assert found[1][0] == 0 < found[1][1]


def test_weight_decay_leaves_out_what_is_excluded(backend):
    moved = []
    for excluded in ([], ["gamma", "beta"]):
        layer = fr.LayerNormalization()
        model = fr.Sequential([fr.Input((4,)), layer, fr.Dense(2)], backend=backend)
        optimizer = fr.SGD(1e-30, weight_decay=1e29)
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded)
        model.compile(optimizer, "mse")
        model.train_on_batch(X, Y)
        moved.append(layer.gamma)
    np.testing.assert_allclose(moved[0], 0.9, rtol=1e-6)
    np.testing.assert_array_equal(moved[1], 1.0)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("activation", "rellu", "activation: got 'rellu'; .*Did you mean 'relu'"),
        ("kernel_regularizer", "l3", "kernel_regularizer: got 'l3'; allowed: l1, "),
        (
            "kernel_regularizer",
            abs,
            "kernel_regularizer: got .*an object with value",
        ),
        ("bias_initializer", "zeta", "bias_initializer: got 'zeta'; allowed: "),
        ("kernel_constraint", "non", "kernel_constraint: got 'non'; allowed: "),
        ("kernel_regularizer", {"class_name": "L1", "config": {"l1": -1}}, "kernel_.*: l1: got -1"),
    ],
)
def test_an_error_names_the_argument_once(argument, value, words):
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        fr.Dense(3, **{argument: value})


@pytest.mark.parametrize("given", [{"input_shape": (8,)}, {"input_dim": 8}])
def test_the_old_way_to_say_input_is_answered_with_the_new(given):
    for make in (lambda **old: fr.Dense(3, **old), layers.Flatten):
        with pytest.raises(ValueError, match=r"^input_\w+: got .*8.*; an Input\(shape\) before"):
            make(**given)
    assert fr.Dense(3, **dict.fromkeys(given)).units == 3
