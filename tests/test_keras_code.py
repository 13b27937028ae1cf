"""Code written for Keras, as its guides and its users write it: only the import is changed."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg as keras
from fastreg import layers, regularizers


@pytest.fixture(autouse=True)
def seed():
    keras.set_random_seed(0)


def digits(n=256):
    """Rows (n, 20) of four classes that a small network can tell apart, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, n)
    return (rng.normal(size=(4, 20))[labels] + rng.normal(size=(n, 20)) / 2).astype(
        "float32"
    ), labels


def one_hot(labels):
    return np.eye(4, dtype="float32")[labels]


def test_a_guide_to_regularizers():
    """Keras' own example: 25 weights of 1, outputs of 10 in 5 rows: 0.25 + 25 * 100 * 0.01 / 5."""
    layer = layers.Dense(
        5,
        kernel_initializer="ones",
        kernel_regularizer=regularizers.L1(0.01),
        activity_regularizer=regularizers.L2(0.01),
    )
    model = keras.Sequential([keras.Input(shape=(5,)), layer])
    model.compile("sgd", "mse")
    x = np.ones((5, 5)) * 2.0
    found = model.evaluate(x, np.full((5, 5), 10.0), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(5.25)
    assert found["kernel_penalty"] == pytest.approx(0.25)
    assert found["activity_penalty"] == pytest.approx(5.0)
    assert found["data_loss"] == found["bias_penalty"] == 0.0


@pytest.mark.parametrize("name, expected", [("l1", 0.03), ("l2", 0.05), ("l1_l2", 0.08)])
def test_regularizers_by_their_short_names(name, expected):
    """`regularizers.l2(0.01)` is how most code says it; Keras has both spellings."""
    make = getattr(keras.regularizers, name)
    regularizer = make(l1=0.01, l2=0.01) if name == "l1_l2" else make(0.01)
    assert regularizer(np.array([1.0, -2.0])) == pytest.approx(expected)
    assert keras.regularizers.get(name)(np.array([1.0, -2.0])) == pytest.approx(expected)


def test_the_classic_script():
    x, labels = digits()
    model = keras.models.Sequential()
    model.add(keras.layers.Input(shape=(20,)))
    model.add(keras.layers.Dense(32, activation="relu", kernel_regularizer="l2"))
    model.add(keras.layers.Dropout(0.5))
    model.add(keras.layers.Dense(4, activation="softmax"))
    model.compile(
        loss="categorical_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=0.01),
        metrics=["accuracy"],
    )
    history = model.fit(
        x, one_hot(labels), batch_size=32, epochs=15, verbose=0, validation_split=0.1
    )
    score = model.evaluate(x, one_hot(labels), verbose=0)
    assert isinstance(score, list) and len(score) == 2
    assert score[1] > 0.9
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.history)
    assert history.epoch == list(range(15))
    assert np.argmax(model.predict(x, verbose=0), axis=1).shape == (256,)
    assert model.count_params() == 20 * 32 + 32 + 32 * 4 + 4


def test_sparse_labels_objects_and_early_stopping():
    x, labels = digits()
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(
                16,
                activation="tanh",
                kernel_initializer=keras.initializers.HeNormal(seed=1),
                bias_regularizer=regularizers.L1L2(l1=1e-5, l2=1e-4),
            ),
            layers.Dense(4, "softmax"),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.SGD(learning_rate=0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(),
        [keras.metrics.SparseCategoricalAccuracy()],
    )
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=2, min_delta=1e-3, restore_best_weights=True
    )
    history = model.fit(
        x, labels, epochs=200, validation_data=(x[:64], labels[:64]), callbacks=[stop], verbose=0
    )
    losses = history.history["val_loss"]
    assert len(losses) < 200
    best = model.evaluate(x[:64], labels[:64], verbose=0, return_dict=True)
    assert best["loss"] == pytest.approx(min(losses), abs=1e-3)
    assert any(best["loss"] == pytest.approx(loss, rel=1e-6) for loss in losses)
    assert best["sparse_categorical_accuracy"] > 0.9
    assert model.metrics_names[0] == "loss"


def test_binary_classification_with_weights_of_classes():
    x, labels = digits()
    rare = (labels == 3).astype("float32")
    model = keras.Sequential([keras.Input((20,)), layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(x, rare, epochs=20, class_weight={0: 1.0, 1: 3.0}, verbose=0)
    assert model.evaluate(x, rare, verbose=0)[1] > 0.8
    assert ((model.predict(x, verbose=0) > 0.5).ravel() == rare).mean() > 0.8


def test_a_loop_of_ones_own_with_a_schedule():
    x, labels = digits()
    model = keras.Sequential([keras.Input((20,)), layers.Dense(4, "softmax")])
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=1e-3), "categorical_crossentropy")
    losses = []
    for epoch in range(10):
        model.optimizer.learning_rate = 0.01 / (1 + epoch)
        for start in range(0, len(x), 64):
            batch = slice(start, start + 64)
            losses.append(model.train_on_batch(x[batch], one_hot(labels[batch])))
    assert losses[-1] < losses[0]
    assert model.optimizer.iterations == 40
    assert model.test_on_batch(x, one_hot(labels)) < losses[0]


def test_fine_tuning_freezes_a_layer():
    x, labels = digits()
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(8, "relu", name="features", kernel_regularizer="l2"),
            layers.Dense(4, "softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, labels, epochs=2, verbose=0)
    model.get_layer("features").trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    features, _, head, _ = model.get_weights()
    history = model.fit(x, labels, epochs=2, verbose=0)
    kernel, bias = model.get_layer("features").get_weights()
    assert np.array_equal(kernel, features)
    assert bias.shape == (8,)
    assert not np.array_equal(model.layers[-1].kernel, head)
    assert history.history["kernel_penalty"] == [0.0, 0.0]  # Keras counts trainable weights only


def test_a_callback_of_ones_own():
    x, labels = digits()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(("begin", self.params["epochs"]))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["loss"]))
            if epoch == 1:
                self.model.stop_training = True

    model = keras.Sequential([keras.Input((20,)), layers.Dense(4, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(x, labels, epochs=9, callbacks=[Watch()], verbose=0)
    assert seen == [("begin", 9), *enumerate(history.history["loss"])]
    assert len(seen) == 3


def test_weights_and_configuration_move_to_another_model(tmp_path):
    x, labels = digits()
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(8, "relu"), layers.Dropout(0.1), layers.Dense(4)]
    )
    clone = keras.Sequential.from_config(model.get_config())
    clone.set_weights(model.get_weights())
    assert np.array_equal(clone.predict(x, verbose=0), model(x))
    model.compile("adam", "mse")
    model.fit(x, one_hot(labels), verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = keras.models.load_model(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_layers_regularizers_and_initializers_by_configuration():
    """Names and dictionaries in Keras' shape mean the same thing."""
    config = {"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}}
    layer = layers.Dense(3, kernel_regularizer=config, bias_initializer="ones")
    assert layer.kernel_regularizer == regularizers.L1L2(0.1, 0.2)
    assert regularizers.deserialize(regularizers.serialize(regularizers.L1(0.3))).l1 == 0.3
    again = layers.Dense.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert keras.initializers.get("glorot_uniform") == keras.initializers.GlorotUniform()
    assert keras.losses.get("mse") == keras.losses.MeanSquaredError()


def test_double_precision_in_each_of_keras_ways():
    def dtype(*layers_given):
        return keras.Sequential(list(layers_given)).get_weights()[0].dtype

    assert dtype(keras.Input((2,)), layers.Dense(3)) == "float32"
    assert dtype(keras.Input((2,), dtype="float64"), layers.Dense(3)) == "float64"
    assert dtype(keras.Input((2,)), layers.Dense(3, dtype="float64")) == "float64"
    keras.config.set_floatx("float64")
    try:
        assert dtype(keras.Input((2,)), layers.Dense(3)) == "float64"
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: keras.losses.SparseCategoricalCrossentropy(ignore_class=0), "ignore_class"),
        (lambda: keras.losses.CategoricalCrossentropy(axis=1), "axis"),
        (lambda: keras.optimizers.SGD(loss_scale_factor=2.0), "loss_scale_factor"),
        (lambda: layers.Dropout(0.5, noise_shape=(1, 3)), "noise_shape"),
        (lambda: layers.Dense(3, activation="hard_shrink"), "activation"),
    ],
)
def test_what_is_not_there_yet_is_said_by_name(make, said):
    """Better than to train something else than the code asks for."""
    with pytest.raises((ValueError, TypeError), match=said):
        make()


def test_what_keras_sets_by_default_may_be_said():
    keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    keras.optimizers.Adam(0.001, 0.9, 0.999, 1e-07, False, None, clipnorm=None)
    layers.Dense(3, kernel_constraint=None, bias_constraint=None)
