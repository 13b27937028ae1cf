"""Models that move between fastreg and the installed Keras and PyTorch predict the same."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from golden import cases, peers
from losses_with_settings import WITH_SETTINGS

import fastreg as fr

keras = peers.keras_in_float64()
torch = pytest.importorskip("torch")


def x(n_in, dtype):
    return np.random.default_rng(0).normal(size=(17, n_in)).astype(dtype)


def close(a, b, dtype):
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def ours(dtype="float32"):
    fr.set_random_seed(1)
    layers = [
        fr.Input((5,), dtype=dtype),
        fr.Dense(7, "relu", kernel_regularizer=fr.L1(1e-3), activity_regularizer=fr.L2(0.2)),
        fr.Dropout(0.3),
        fr.Dense(6, "tanh", bias_regularizer=fr.L1L2(0.1, 0.3), trainable=False),
        fr.Dense(5, "sigmoid", use_bias=False, kernel_initializer="he_normal"),
        fr.Dense(4),
        fr.Dense(3, "softmax"),
    ]
    model = fr.Sequential(layers)
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def keras_model(dtype):
    layers = [
        keras.layers.Dense(7, "relu", kernel_regularizer="l2", dtype=dtype),
        keras.layers.Dropout(0.2, dtype=dtype),
        keras.layers.Dense(
            3, "softmax", activity_regularizer=keras.regularizers.L1(1e-3), dtype=dtype
        ),
    ]
    return keras.Sequential([keras.Input((5,), dtype=dtype), *layers])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_to_keras_and_back(dtype):
    model = ours(dtype)
    model.compile(fr.AdamW(2e-3, weight_decay=0.01), "categorical_crossentropy", ["accuracy"])
    there = model.to_keras()
    assert there.layers[0].dtype == dtype
    close(there.predict(x(5, dtype), verbose=0), model.predict(x(5, dtype)), dtype)
    y = np.eye(3)[np.arange(17) % 3]
    loss = there.evaluate(x(5, dtype), y, verbose=0, return_dict=True, batch_size=17)["loss"]
    close(loss, model.evaluate(x(5, dtype), y, verbose=0)[0], "float32")  # penalties, too
    back = fr.from_keras(there)
    mine = model.get_config()
    for layer in mine["layers"]:
        layer["config"]["dtype"] = dtype  # said in the Input alone; Keras has it everywhere
    assert back.get_config() == mine
    assert back.optimizer == model.optimizer
    assert (back.loss, back.metrics_names) == (model.loss, model.metrics_names)
    for left, right in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_from_keras_predicts_the_same(dtype, backend):
    there = keras_model(dtype)
    there.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), "mse", metrics=["accuracy"]
    )
    model = fr.from_keras(there, backend=backend)
    assert model.dtype == dtype and model.backend == backend
    close(model.predict(x(5, dtype)), there.predict(x(5, dtype), verbose=0), dtype)
    name = there.optimizer.name
    assert model.optimizer == fr.SGD(0.1, 0.9, nesterov=True, name=name)
    assert model.layers[0].kernel_regularizer == fr.L2(0.01)
    assert model.layers[2].activity_regularizer == fr.L1(1e-3)
    assert fr.from_keras(there, compile=False).optimizer is None


def test_losses_and_metrics_of_keras_in_every_form():
    for loss in ("mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error):
        there = keras_model("float32")
        there.compile("adam", loss, metrics=[keras.metrics.CategoricalAccuracy()])
        model = fr.from_keras(there)
        assert model.loss == "mean_squared_error"
        assert model.metrics_names == ["loss", "categorical_accuracy"]
        assert model.optimizer == fr.Adam(name=there.optimizer.name)


@pytest.mark.parametrize("loss", WITH_SETTINGS, ids=repr)
def test_settings_of_losses_move_both_ways(loss):
    model = fr.Sequential([fr.Input((4,)), fr.Dense(3, "softmax")])
    model.compile("sgd", loss)
    if isinstance(loss, fr.losses.Quantile):
        with pytest.raises(ValueError, match="loss"):
            model.to_keras()
        return
    there = model.to_keras()
    stream = cases.Stream(3)
    sparse = loss.name.startswith("sparse")
    y = stream.integers(3, 5) if sparse else stream.uniform(0, 1, 5, 3)
    x = stream.uniform(-1, 1, 5, 4)
    expected = there.evaluate(x, y, verbose=0)
    back = fr.from_keras(there)
    for each in (model, back):
        assert each.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=2e-5)


def test_models_that_are_not_built_and_models_built_by_data():
    there = keras.Sequential([keras.layers.Dense(2)])
    assert not fr.from_keras(there).built
    there(x(5, "float32"))
    close(fr.from_keras(there).predict(x(5, "float64")), there(x(5, "float64")), "float32")
    close(fr.Sequential([fr.Input((3,)), fr.Dense(2)]).to_keras()(np.zeros((1, 3))), 0, "float32")
    unbuilt = fr.Sequential([fr.Dense(2, "relu")]).to_keras()
    assert unbuilt.layers[0].units == 2


def test_what_does_not_fit_is_named():
    with pytest.raises(TypeError, match=r"keras\.Sequential is needed"):
        fr.from_keras(keras.layers.Dense(1))
    there = keras.Sequential([keras.Input((3,)), keras.layers.PReLU()])
    with pytest.raises(ValueError, match="layer: got 'PReLU'"):
        fr.from_keras(there)
    there = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    with pytest.raises(ValueError, match="bfloat16"):
        fr.from_keras(there)
    there = keras_model("float32")
    there.compile("adam", "mse", loss_weights=[0.5])
    with pytest.raises(ValueError, match="loss_weights"):
        fr.from_keras(there)
    model = ours()
    model.compile(fr.SGD(l1_step="proximal"), "mse")
    with pytest.raises(ValueError, match="l1_step: got 'proximal'"):
        model.to_keras()
    assert len(model.to_keras(compile=False).layers) == 6


def test_a_compact_model_reads_all_inputs_there():
    model = ours()
    weights = model.get_weights()
    weights[0][[1, 3]] = 0
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.selected_inputs_ is not None
    rows = x(5, "float32")
    close(small.to_keras()(rows), model.predict(rows), "float32")
    close(small.to_torch().eval()(torch.tensor(rows)).detach(), model.predict(rows), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_there_and_back(dtype):
    model = ours(dtype)
    there = model.to_torch()
    rows = x(5, dtype)
    close(there.eval()(torch.tensor(rows)).detach(), model.predict(rows), dtype)
    assert [p.requires_grad for p in there.parameters()][:4] == [True, True, False, False]
    back = fr.from_torch(there)
    assert back.dtype == dtype
    assert [layer.activation.name for layer in back.layers if isinstance(layer, fr.Dense)] == [
        *("relu", "tanh", "sigmoid", "linear", "softmax")
    ]
    assert back.layers[1].rate == 0.3
    for left, right in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_from_torch():
    nn = torch.nn
    inner = nn.Sequential(nn.Linear(5, 4), nn.Identity(), nn.ReLU())
    there = nn.Sequential(nn.Flatten(), inner, nn.Dropout(0.5), nn.Linear(4, 3), nn.Softmax(dim=1))
    rows = x(5, "float32")
    model = fr.from_torch(there)
    close(model.predict(rows), there.eval()(torch.tensor(rows)).detach(), "float32")
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert float(there[3].weight.detach().abs().sum()) > 0  # a copy
    with pytest.raises(ValueError, match=r"model: got 'Conv1d"):
        fr.from_torch(nn.Sequential(nn.Conv1d(1, 1, 1)))
    with pytest.raises(ValueError, match="Softmax"):
        fr.from_torch(nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=0)))
    with pytest.raises(TypeError, match=r"torch.nn.Sequential is needed"):
        fr.from_torch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="float16"):
        fr.from_torch(nn.Sequential(nn.Linear(2, 2, dtype=torch.float16)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalization_moves(dtype):
    """To Keras and back, to PyTorch and back: weights, moments, settings, frozen or not."""
    layers = [
        fr.Input((5,), dtype=dtype),
        fr.BatchNormalization(momentum=0.75, epsilon=0.25),
        fr.Dense(7),
        fr.LayerNormalization(epsilon=0.5, trainable=False),
        fr.Activation("tanh"),
        fr.AlphaDropout(0.25),
        fr.Dense(3),
        fr.BatchNormalization(momentum=0.5, center=False),
        fr.ActivityRegularization(0.1),
        fr.Activation("softmax"),
    ]
    model = fr.Sequential(layers)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    rows = x(5, dtype)
    there = model.to_keras()
    close(there.predict(rows, verbose=0), model.predict(rows), dtype)
    back = fr.from_keras(there)
    assert [type(a) for a in back.layers] == [type(a) for a in model.layers]
    for left, right in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(back.layers, model.layers, strict=True):
        assert left.get_config() == {**right.get_config(), "dtype": dtype}
    there = model.to_torch()
    close(there.eval()(torch.tensor(rows)).detach(), model.predict(rows), dtype)
    assert not any(p.requires_grad for p in there[2].parameters())
    assert [p.requires_grad for p in there[6].parameters()] == [True, False]
    back = fr.from_torch(there)
    close(back.predict(rows), model.predict(rows), dtype)
    assert (back.layers[0].momentum, back.layers[0].epsilon) == (0.75, 0.25)
    assert back.layers[6].center is True  # PyTorch has both or none: the shift is 0
    with pytest.raises(ValueError, match="running moments"):
        fr.from_torch(torch.nn.Sequential(torch.nn.BatchNorm1d(5, momentum=None)))
    with pytest.raises(ValueError, match="one axis"):
        fr.from_torch(torch.nn.Sequential(torch.nn.LayerNorm((2, 5))))
    bare = fr.Sequential([fr.Input((5,)), fr.LayerNormalization(center=False, scale=False)])
    bare.add(fr.Dense(2))
    with pytest.raises(ValueError, match="neither gamma nor beta"):
        bare.to_torch()


def test_rms_normalization_moves():
    layers = [fr.Input((5,), dtype="float64"), fr.RMSNormalization(epsilon=0.01), fr.Dense(3)]
    model = fr.Sequential([*layers, fr.RMSNormalization(trainable=False)])
    model.set_weights([w + 0.1 * i for i, w in enumerate(model.get_weights())])
    rows = np.random.default_rng(0).normal(size=(6, 5))
    there = model.to_keras()
    close(there.predict(rows, verbose=0), model.predict(rows), "float64")
    close(fr.from_keras(there).predict(rows), model.predict(rows), "float64")
    module = model.to_torch()
    close(module(torch.tensor(rows)).detach(), model.predict(rows), "float64")
    close(fr.from_torch(module).predict(rows), model.predict(rows), "float64")
    with pytest.raises(ValueError, match="an eps are needed"):
        fr.from_torch(torch.nn.Sequential(torch.nn.RMSNorm(5)))


def test_rows_of_several_axes_move():
    layers = [fr.Input((4, 5), dtype="float64"), fr.LayerNormalization(), fr.Dense(3, "softmax")]
    model = fr.Sequential(layers)
    rows = np.random.default_rng(0).normal(size=(6, 4, 5))
    there = model.to_keras()
    close(there.predict(rows, verbose=0), model.predict(rows), "float64")
    assert fr.from_keras(there).input_shape == (None, 4, 5)
    close(fr.from_keras(there).predict(rows), model.predict(rows), "float64")
    close(model.to_torch()(torch.tensor(rows)).detach(), model.predict(rows), "float64")
    model.add(fr.BatchNormalization())
    close(model.to_keras().predict(rows, verbose=0), model.predict(rows), "float64")
    with pytest.raises(ValueError, match="second axis"):
        model.to_torch()


@pytest.fixture
def float32():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def test_flatten_moves(float32):
    there = keras.Sequential([keras.Input((4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    rows = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    model = fr.from_keras(there)
    close(model.predict(rows), there(rows), "float32")
    close(model.to_keras()(rows), there(rows), "float32")
    close(model.to_torch()(torch.tensor(rows)).detach(), there(rows), "float32")


def test_layers_at_the_entry_move(float32):
    rows = np.random.default_rng(0).normal(3, 2, size=(9, 4)).astype(np.float32)
    adapted = keras.layers.Normalization()
    adapted.adapt(rows)
    for first in (
        [keras.layers.Rescaling(1 / 16, 0.5)],
        [adapted],
        [keras.layers.Normalization(mean=[1, 2, 3, 4], variance=[4.0] * 4)],
    ):
        there = keras.Sequential([keras.Input((4,)), *first, keras.layers.Dense(2)])
        model = fr.from_keras(there)
        close(model.predict(rows), there(rows), "float32")
        close(model.to_keras()(rows), there(rows), "float32")
    layer = fr.Normalization()
    layer.adapt(rows)
    close(layer.mean, np.asarray(adapted.mean).ravel(), "float32")
    close(layer.variance, np.asarray(adapted.variance).ravel(), "float32")


ACTIVATIONS = [
    fr.activations.Activation(**({"name": each} if isinstance(each, str) else each))
    for each in ["relu", "tanh", "sigmoid", "softmax", *cases.ACTIVATIONS]
] + [fr.activations.Activation("relu", threshold=0.4)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_every_activation_moves_both_ways(activation, dtype):
    layers = [fr.Input((5,), dtype=dtype), fr.Dense(7, activation), fr.Dense(3, activation)]
    model = fr.Sequential(layers)
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(-0.5, 0.5, w.shape) for w in model.get_weights()])
    rows = x(5, dtype)
    expected = model.predict(rows)
    there = model.to_keras()
    close(there(rows), expected, dtype)
    again = keras.Sequential.from_config(there.get_config())  # as Keras' own files do
    again.set_weights(there.get_weights())
    close(again(rows), expected, dtype)
    back = fr.from_keras(there)
    assert [layer.activation for layer in back.layers] == [activation, activation]
    np.testing.assert_array_equal(back.predict(rows), expected)
    module = model.to_torch().eval()
    close(module(torch.tensor(rows)).detach(), expected, dtype)
    back = fr.from_torch(pickle.loads(pickle.dumps(module)))
    close(back.predict(rows), expected, dtype)


def test_activations_of_torch_in_its_own_forms():
    nn = torch.nn
    for module, expected in (
        (nn.LeakyReLU(), fr.activations.Activation("leaky_relu", negative_slope=0.01)),
        (nn.Softplus(), fr.activations.softplus),
        (nn.LogSoftmax(dim=1), fr.activations.log_softmax),
        (nn.GELU("tanh"), fr.activations.Activation("gelu", approximate=True)),
        (nn.Hardtanh(0, 2.0), fr.activations.Activation("relu", max_value=2.0)),
        (nn.Threshold(0.5, 0), fr.activations.Activation("relu", threshold=0.5)),
    ):
        model = fr.from_torch(nn.Sequential(nn.Linear(3, 2), module))
        assert model.layers[0].activation == expected
    for module in (nn.Hardtanh(), nn.Threshold(0.5, 1.0), nn.Softplus(2.0), nn.CELU()):
        with pytest.raises(ValueError, match=type(module).__name__):
            fr.from_torch(nn.Sequential(nn.Linear(3, 2), module))


class _Own:
    """A loss, or a regularizer, of one's own."""

    def value(self, *arrays):
        return np.zeros(len(arrays[-1])) if len(arrays) == 2 else 0.0

    def gradient(self, *arrays):
        return np.zeros_like(arrays[-1])


def test_keras_does_not_know_objects_of_ones_own():
    for regularizer, loss in ((_Own(), "mse"), (None, _Own())):
        layers = [fr.Input((3,)), fr.Dense(2, kernel_regularizer=regularizer)]
        model = fr.Sequential(layers)
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=r"Keras (does not (have|take)).*"):
            model.to_keras()


def test_flatten_inside_moves(float32):
    layers = [fr.Input((4, 3)), fr.Dense(5, "tanh"), fr.LayerNormalization(), fr.Flatten()]
    model = fr.Sequential([*layers, fr.BatchNormalization(), fr.Dense(2, "softmax")])
    rows = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    there = model.to_keras()
    close(there.predict(rows, verbose=0), model.predict(rows), "float32")
    close(fr.from_keras(there).predict(rows), model.predict(rows), "float32")
    close(model.to_torch().eval()(torch.tensor(rows)).detach(), model.predict(rows), "float32")
