"""Moving models to and from other packages, as far as it can be told without them."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

import fastreg as fr
from fastreg import interchange

# What Keras 3.15.1 says of a model (get_config, get_compile_config), shortened.
POLICY = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
INPUT = {"batch_shape": [None, 2], "dtype": "float32", "sparse": False, "name": "input_layer",
         "ragged": False, "optional": False}  # fmt: skip
DENSE = {
    "name": "hidden",
    "trainable": True,
    "dtype": POLICY,
    "activity_regularizer": {"class_name": "L1", "config": {"l1": 0.0010000000474974513}},
    "units": 3,
    "activation": "relu",
    "use_bias": True,
    "kernel_initializer": {
        "module": "keras.initializers",
        "class_name": "GlorotUniform",
        "config": {"seed": None, "input_axes": None, "output_axes": None},
        "registered_name": None,
    },
    "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.01}},
    "bias_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
    "quantization_config": None,
}
CONFIG = {
    "name": "sequential",
    "layers": [
        {"module": "keras.layers", "class_name": "InputLayer", "config": INPUT},
        {"module": "keras.layers", "class_name": "Dense", "config": DENSE},
    ],
    "build_input_shape": (None, 2),
}
COMPILED = {
    "optimizer": {
        "class_name": "Adam",
        "config": {
            "name": "adam",
            "learning_rate": 0.0010000000474974513,
            "clipnorm": None,
            "weight_decay": None,
            "loss_scale_factor": None,
        },
    },
    "loss": {"module": "builtins", "class_name": "function", "config": "mean_squared_error"},
    "loss_weights": None,
    "metrics": ["accuracy"],
    "weighted_metrics": None,
}


def keras_model(**compiled):
    """Something that looks like a keras.Sequential from outside."""

    def get_config(self):
        return CONFIG

    def get_compile_config(self):
        return {**COMPILED, **compiled}

    dense = types.SimpleNamespace(get_weights=lambda: [np.ones((2, 3)), np.arange(3.0)])
    methods = {"get_config": get_config, "get_compile_config": get_compile_config}
    kind = type("Sequential", (), {"__module__": "keras.src.models.sequential", **methods})
    model = kind()
    model.built = model.compiled = True
    model.layers = [dense]
    return model


def test_the_words_of_keras_are_read():
    model = fr.from_keras(keras_model())
    assert model.name == "sequential" and model.dtype == "float32"
    (hidden,) = model.layers
    assert hidden.activity_regularizer == fr.L1(0.001)  # not 0.0010000000474974513
    assert hidden.kernel_regularizer == fr.L2(0.01)
    np.testing.assert_array_equal(hidden.kernel, np.ones((2, 3)))
    np.testing.assert_array_equal(hidden.bias, [0, 1, 2])
    assert model.optimizer == fr.Adam(0.001, name="adam")
    assert model.loss == "mean_squared_error"
    np.testing.assert_array_equal(model.predict([[1.0, 2.0]]), [[3, 4, 5]])
    assert fr.from_keras(keras_model(), compile=False).optimizer is None


def test_what_only_keras_has_is_named():
    with pytest.raises(ValueError, match=r"loss_weights: got \[0.5\].*compile=False"):
        fr.from_keras(keras_model(loss_weights=[0.5]))
    optimizer = {"class_name": "Muon", "config": {}}
    with pytest.raises(ValueError, match="optimizer: got 'Muon'"):
        fr.from_keras(keras_model(optimizer=optimizer))
    for bad in (3, "model.keras", fr.Sequential()):
        with pytest.raises(TypeError, match=r"a keras\.Sequential is needed"):
            fr.from_keras(bad)
    with pytest.raises(TypeError, match="compile: got 1"):
        fr.from_keras(keras_model(), compile=1)


@pytest.mark.parametrize(
    "package, move",
    [
        ("keras", lambda model: model.to_keras()),
        ("torch", lambda model: model.to_torch()),
        ("torch", fr.from_torch),
    ],
)
def test_a_missing_package_is_named(monkeypatch, package, move):
    monkeypatch.setitem(sys.modules, package, None)
    model = fr.Sequential([fr.Input((2,)), fr.Dense(1)])
    with pytest.raises(ImportError, match=f"{package} is needed for this: pip install {package}"):
        move(model)


def test_what_is_handed_over_is_plain():
    model = fr.Sequential([fr.Dense(3, "relu", kernel_regularizer="l1"), fr.Dropout(0.5)])
    moved = model._move(True)
    assert moved.weights is None and moved.compiled is None
    model.build((None, 2))
    model.compile("sgd", "mse")
    moved = model._move(True)
    assert json.loads(json.dumps(moved.layers)) == moved.layers
    assert [each["class_name"] for each in moved.layers] == ["Input", "Dense", "Dropout"]
    assert {each["config"]["dtype"] for each in moved.layers} == {"float32"}
    assert [len(arrays) for arrays in moved.weights] == [0, 2, 0]
    assert moved.compiled["optimizer"]["class_name"] == "SGD"
    model.layers[0].set_weights([np.zeros((2, 3)), np.zeros(3)])
    assert moved.weights[1][0].any()  # copies
    assert model.get_config()["layers"][0]["config"]["dtype"] is None


def test_floats_of_float32_become_the_decimals_they_were():
    found = interchange._plain({"a": (0.10000000149011612, 0.1, 0.5), "b": np.float32(0.3)})
    assert found == {"a": [0.1, 0.1, 0.5], "b": 0.3}
    assert interchange._plain(1 / 3) == 1 / 3


def test_models_that_are_not_built_stay_here():
    pytest.importorskip("torch", exc_type=ImportError)
    with pytest.raises(ValueError, match="to_torch: the model is not built"):
        fr.Sequential([fr.Dense(1)]).to_torch()


def test_every_activation_has_its_module_and_its_operators():
    kinds = set(fr.inputs.ACTIVATIONS)
    assert {each.name for each in interchange.TORCH_ACTIVATIONS} == kinds - {"gelu_tanh"}
    known = {*interchange.ONNX_OPERATORS, *interchange.ONNX_FORMULAS, "elu", "leaky_relu"}
    assert known == kinds
