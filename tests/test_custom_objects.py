"""Models with objects of one's own: files hold their names and settings, the loader the classes."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import save_file

import fastreg as fr
from fastreg import initializers, losses, metrics, model_io, regularizers, schedules

SEED = 3


class Cubic:
    """A loss, and with `power` a setting of its own."""

    def __init__(self, power=3):
        self.power = power

    def value(self, y_true, y_pred):
        return np.sum(np.abs(y_pred - y_true) ** self.power, axis=1)

    def gradient(self, y_true, y_pred):
        apart = y_pred - y_true
        return self.power * np.sign(apart) * np.abs(apart) ** (self.power - 1)

    def get_config(self):
        return {"power": self.power}


class ToTarget:
    """A regularizer, made by `from_config`."""

    def __init__(self, target):
        self.target = target

    def value(self, w):
        return 0.5 * np.sum((w - self.target) ** 2)

    def gradient(self, w):
        return w - self.target

    def get_config(self):
        return {"where": self.target}

    @classmethod
    def from_config(cls, config):
        return cls(config["where"])


class Silent:
    """A regularizer that does not tell its settings."""

    def __init__(self, strength=1.0):
        self.strength = strength

    def value(self, w):
        return self.strength * np.sum(w**2)

    def gradient(self, w):
        return 2 * self.strength * w


class Plain:
    """A regularizer without settings."""

    def value(self, w):
        return np.sum(w**2)

    def gradient(self, w):
        return 2 * w


@dataclass(frozen=True)
class Largest(metrics.RowMean):
    name: str = "largest"
    scale: float = 1.0

    def rows(self, y, p):
        return self.scale * np.abs(p - y).max(axis=1)


@dataclass(frozen=True)
class Halves(schedules.LearningRateSchedule):
    start: float = 0.1

    def __call__(self, step):
        return self.start * 0.5 ** np.asarray(step)


@dataclass(frozen=True)
class Corner(initializers.Initializer):
    value: float = 1.0

    def __call__(self, shape, dtype=None, rng=None):
        return np.full(shape, self.value, dtype)


OWN = {cls.__name__: cls for cls in (Cubic, ToTarget, Largest, Halves, Corner)}


def rows(n=32):
    rng = np.random.default_rng(SEED)
    return rng.normal(size=(n, 3)), rng.normal(size=(n, 2))


def made(backend="compiled", loss=None, kernel=None, bias=None):
    hidden = fr.Dense(
        4,
        "tanh",
        kernel_regularizer=ToTarget(0.25) if kernel is None else kernel,
        bias_regularizer=bias,
        bias_initializer=Corner(0.5),
    )
    model = fr.Sequential([fr.Input((3,), dtype="float64"), hidden, fr.Dense(2)], backend=backend)
    model.compile(fr.SGD(Halves(0.05), 0.9), loss or Cubic(4), [Largest(scale=2.0), "mae"])
    return model


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_a_loaded_model_trains_on_to_the_same_bits(backend, tmp_path):
    model = made(backend)
    model.fit(*rows(), batch_size=8, epochs=2, verbose=0)
    path = tmp_path / "own.safetensors"
    model.save(path)
    loaded = fr.load_model(path, custom_objects=OWN, backend=backend)
    assert loaded.layers[0].kernel_regularizer.own.target == 0.25
    assert loaded.layers[0].bias_initializer == Corner(0.5)
    assert loaded.metrics_names == ["loss", "largest", "mae"]
    histories = [m.fit(*rows(), batch_size=8, epochs=2, verbose=0).history for m in (model, loaded)]
    assert histories[0]["loss"] == histories[1]["loss"]
    for name in loaded.metrics_names:
        assert histories[0][name] == pytest.approx(histories[1][name], rel=1e-13)
    for mine, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_what_the_file_holds(tmp_path):
    path = tmp_path / "own.safetensors"
    made().save(path)
    config, _ = model_io.read(path)
    assert json.loads(json.dumps(config)) == config
    assert config["compile"]["loss"] == {
        "class_name": "Custom",
        "config": {"own": {"class_name": "Cubic", "config": {"power": 4}}},
    }
    hidden = config["model"]["layers"][1]["config"]
    assert hidden["kernel_regularizer"]["config"]["own"] == {
        "class_name": "ToTarget",
        "config": {"where": 0.25},
    }


@pytest.mark.parametrize("missing", list(OWN))
def test_what_is_missing_is_named(missing, tmp_path):
    path = tmp_path / "own.safetensors"
    made().save(path)
    known = {name: cls for name, cls in OWN.items() if name != missing}
    with pytest.raises(ValueError, match=rf"custom_objects: got .*without '{missing}'.*is needed"):
        fr.load_model(path, known)
    with pytest.raises(ValueError, match=r"custom_objects: got \[\], without"):
        fr.load_model(path)


def test_without_compile_its_objects_are_not_needed(tmp_path):
    path = tmp_path / "own.safetensors"
    model = made()
    model.fit(*rows(), verbose=0, callbacks=[fr.callbacks.ModelCheckpoint(path)])
    loaded = fr.load_model(path, {"ToTarget": ToTarget, "Corner": Corner}, compile=False)
    assert loaded.optimizer is None and loaded.position is None
    np.testing.assert_array_equal(loaded.predict(rows()[0]), model.predict(rows()[0]))
    loaded.compile("sgd", "mse")
    loaded.fit(*rows(), verbose=0)
    with pytest.raises(TypeError, match="compile: got 0"):
        fr.load_model(path, OWN, compile=0)


def test_an_object_is_taken_as_it_is_and_a_class_needs_settings(tmp_path):
    path = tmp_path / "own.safetensors"
    made(kernel=Silent(0.5), bias=Plain()).save(path)
    mine = Silent(0.5)
    loaded = fr.load_model(path, {**OWN, "Silent": mine, "Plain": Plain})
    assert loaded.layers[0].kernel_regularizer.own is mine
    assert isinstance(loaded.layers[0].bias_regularizer.own, Plain)
    with pytest.raises(ValueError, match=r"the class 'Silent'.*no get_config\(\); an object of it"):
        fr.load_model(path, {**OWN, "Silent": Silent, "Plain": Plain})


def test_classes_that_do_not_fit(tmp_path):
    path = tmp_path / "own.safetensors"
    made().save(path)
    with pytest.raises(ValueError, match=r"custom_objects: 'Cubic' could not be made of .*power"):
        fr.load_model(path, {**OWN, "Cubic": Plain})
    with pytest.raises(ValueError, match="holds no valid model: loss: got"):
        fr.load_model(path, {**OWN, "Cubic": dict})
    with pytest.raises(ValueError, match="holds no valid model: metric: got 3"):
        fr.load_model(path, {**OWN, "Largest": 3})
    for wrong in ([Cubic], {Cubic: Cubic}, "Cubic"):
        with pytest.raises(TypeError, match="custom_objects: got"):
            fr.load_model(path, wrong)


def test_settings_that_are_no_plain_values_are_not_written(tmp_path):
    class Holds(Plain):
        def get_config(self):
            return {"function": print}

    with pytest.raises(TypeError, match="model: got <built-in function print> in it"):
        made(kernel=Holds()).save(tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "own",
    [
        {"class_name": "builtins.eval", "config": {"source": "1"}},
        {"class_name": "os.system", "config": {"command": "true"}},
        {"class_name": "__import__", "config": {"name": "os"}},
        {"class_name": ["Cubic"], "config": {}},
        "Cubic",
        None,
    ],
)
def test_a_file_names_only_what_the_loader_hands_over(own, tmp_path):
    path = tmp_path / "own.safetensors"
    made().save(path)
    config, arrays = model_io.read(path)
    config["compile"]["loss"]["config"]["own"] = own
    written = json.dumps(config)
    assert json.loads(written) == config
    arrays = {name: array.copy() for name, array in arrays.items()}
    save_file(
        arrays,
        path,
        {"format": model_io.FORMAT, "version": model_io.VERSION, "config": written},
    )
    with pytest.raises(ValueError, match=r"(custom_objects|own): got"):
        fr.load_model(path, OWN)


def test_checkpoints_copies_and_smaller_models(tmp_path):
    model = made()
    path = tmp_path / "own.safetensors"
    model.fit(*rows(), epochs=2, verbose=0, callbacks=[fr.callbacks.ModelCheckpoint(path)])
    again = fr.load_model(path, OWN)
    copied = pickle.loads(pickle.dumps(model))
    small = fr.compact(model)
    for other in (again, copied, small):
        assert other.layers[0].kernel_regularizer.own.target == 0.25
        np.testing.assert_array_equal(other.predict(rows()[0]), model.predict(rows()[0]))


def test_configurations_in_memory_hold_the_object():
    own = ToTarget(0.5)
    found = regularizers.get(own)
    written = regularizers.serialize(found)
    assert written == {"class_name": "Custom", "config": {"own": own}}
    assert regularizers.deserialize(written) == found
    layer = fr.Dense.from_config(fr.Dense(2, kernel_regularizer=own).get_config())
    assert layer.kernel_regularizer.own is own
    assert losses.deserialize(losses.serialize(losses.get(Cubic()))).own.power == 3


# ------------------------------------------------------------------ custom_object_scope


class Near:
    """A regularizer with a default."""

    def __init__(self, where=1.0):
        self.where = where

    def value(self, w):
        return 0.1 * float(np.sum((w - self.where) ** 2))

    def gradient(self, w):
        return 0.2 * (w - self.where)

    def get_config(self):
        return {"where": self.where}


def test_names_mean_objects_within_a_scope(tmp_path):
    layer = {"class_name": "Near", "config": {"where": 3.0}}
    with fr.custom_object_scope({"Near": Near, "Cubic": Cubic(4)}):
        model = fr.Sequential([fr.Input((4,)), fr.Dense(3, kernel_regularizer="Near")])
        model.add(fr.Dense(2, kernel_regularizer=layer, activity_regularizer="Near"))
        model.compile("sgd", "Cubic")
    regularizers_ = [each.kernel_regularizer.own for each in model.layers]
    assert [each.where for each in regularizers_] == [1.0, 3.0]
    assert model._loss.own.power == 4
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"custom_objects: got .*without"):
        fr.load_model(tmp_path / "m.safetensors")
    with fr.custom_object_scope({"Near": Near}):
        with pytest.raises(ValueError, match="without 'Cubic'"):
            fr.load_model(tmp_path / "m.safetensors")
        read = fr.load_model(tmp_path / "m.safetensors", {"Cubic": Cubic})
        with fr.custom_object_scope({"Cubic": Cubic}):
            again = fr.load_model(tmp_path / "m.safetensors")
    x, y = np.ones((5, 4)), np.ones((5, 2))
    for other in (read, again):
        assert other.layers[1].kernel_regularizer.own.where == 3.0
        assert other.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_a_scope_ends_and_belongs_to_its_thread():
    with ThreadPoolExecutor(1) as pool, fr.custom_object_scope({"Near": Near}) as scope:
        assert isinstance(regularizers.get("Near").own, Near)
        future = pool.submit(regularizers.get, "Near")
        with pytest.raises(ValueError, match="regularizer: got 'Near'"):
            future.result()
        with scope:  # once more, and left by an error
            pass
        assert isinstance(regularizers.get("Near").own, Near)
    with pytest.raises(ZeroDivisionError), scope:
        assert 1 / 0
    with pytest.raises(ValueError, match="regularizer: got 'Near'"):
        regularizers.get("Near")
    for bad in ([Near], {3: Near}, None):
        with pytest.raises(TypeError, match="custom_objects: got"):
            fr.custom_object_scope(bad)
