"""Files: what is saved comes back and trains on; what is broken is refused."""

from __future__ import annotations

import json
import os
import stat
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastreg as fr
from fastreg import model_io


@pytest.fixture(params=["compiled", "reference"])
def backend(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def rows(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.integers(0, 2, size=n)


def trained(backend, optimizer=None, **arguments):
    model = fr.Sequential(
        [
            fr.Input((3,), **arguments),
            fr.Dense(6, "relu", kernel_regularizer=fr.L1L2(0.01, 0.02), name="hidden"),
            fr.Dropout(0.25),
            fr.Dense(2, "softmax", use_bias=False, name="head"),
        ],
        name="saved",
        backend=backend,
    )
    model.compile(optimizer or fr.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(*rows(), epochs=2, verbose=0)
    return model


def same(model, other):
    return all(map(np.array_equal, model.get_weights(), other.get_weights()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_a_loaded_model_trains_on_as_if_there_had_been_no_pause(path, backend, dtype, optimizer):
    optimizer = fr.SGD(0.1, 0.9) if optimizer == "momentum" else fr.optimizers.get(optimizer)
    model = trained(backend, optimizer, dtype=dtype)
    model.save(path)
    loaded = fr.load_model(path, backend=backend)
    assert same(model, loaded)
    assert loaded.get_config() == model.get_config()
    assert loaded.dtype == dtype
    assert loaded.optimizer == model.optimizer
    assert loaded.optimizer.iterations == model.optimizer.iterations == 4
    for each in (model, loaded):
        each.fit(*rows(), epochs=2, verbose=0)
    assert same(model, loaded)
    assert model.evaluate(*rows(), verbose=0) == loaded.evaluate(*rows(), verbose=0)


@pytest.mark.parametrize("optimizer", [fr.SGD, fr.Adam])
def test_the_other_backend_reads_the_file_too(path, backend, optimizer):
    model = trained(backend, optimizer(), dtype="float64")
    model.save(path)
    other = fr.load_model(path, backend="reference" if backend == "compiled" else "compiled")
    for each in (model, other):
        each.fit(*rows(), verbose=0)
    for mine, others in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, rtol=1e-9, atol=1e-12)


def test_models_without_compile_without_weights(path):
    model = fr.Sequential([fr.Input((3,)), fr.Dense(2)])
    model.save(path)
    loaded = fr.load_model(path)
    assert same(model, loaded)
    assert loaded.optimizer is None
    fr.Sequential([fr.Dense(2)]).save(path)
    assert not fr.load_model(path).built


def test_loading_draws_no_random_numbers(path):
    trained("compiled").save(path)
    fr.set_random_seed(1)
    expected = fr.config.rng().random()
    fr.set_random_seed(1)
    fr.load_model(path)
    assert fr.config.rng().random() == expected


def test_other_readers_find_the_arrays(path):
    model = trained("compiled")
    model.save(path)
    arrays = load_file(path)
    assert np.array_equal(arrays["weights/hidden/kernel"], model.layers[0].kernel)
    weights = {"hidden/kernel", "hidden/bias", "head/kernel"}
    assert set(arrays) == {f"{f}/{w}" for f in ("weights", "slots/0", "slots/1") for w in weights}


@pytest.mark.parametrize("name", ["model", "model.keras", "model.safetensors.txt"])
def test_only_safetensors_names(tmp_path, name):
    model = fr.Sequential([fr.Input((3,)), fr.Dense(2)])
    for call in (model.save, fr.load_model):
        with pytest.raises(ValueError, match=r"path: got .*\.safetensors"):
            call(tmp_path / name)
        with pytest.raises(TypeError, match="path: got 3"):
            call(3)
    assert os.listdir(tmp_path) == []


def test_no_such_file_and_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*a\.safetensors"):
        fr.load_model(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match=r"path: .*no folder"):
        fr.Sequential([fr.Input((3,)), fr.Dense(2)]).save(tmp_path / "no" / "a.safetensors")


# ------------------------------------------------------------------ writing


def test_overwrite(path):
    model, other = trained("compiled"), trained("compiled")
    model.save(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save(path, overwrite=False)
    assert same(fr.load_model(path), model)
    other.save(path)
    assert same(fr.load_model(path), other)


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(path, monkeypatch, where, error):
    model = trained("compiled")
    model.save(path)
    before = path.read_bytes()
    model.fit(*rows(), verbose=0)

    def fail(*arguments):
        raise error

    target = {
        "save_file": "safetensors.numpy.save_file",
        "fsync": "os.fsync",
        "replace": "os.replace",
    }
    monkeypatch.setattr(target[where], fail)
    with pytest.raises(type(error)):
        model.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_is_as_any_new_file_and_links_stay_links(path, tmp_path):
    model = trained("compiled")
    previous = os.umask(0o027)
    try:
        model.save(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    model.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    link = tmp_path / "latest.safetensors"
    link.symlink_to(path)
    before = path.read_bytes()
    model.fit(*rows(), verbose=0)
    model.save(link)
    assert link.is_symlink()
    assert path.read_bytes() != before
    assert same(fr.load_model(link), model)


# ------------------------------------------------------------------ reading what is broken


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    trained("compiled").save(path)
    return path


def parts(path):
    config, arrays = model_io.read(path)
    return config, {name: array.copy() for name, array in arrays.items()}


def test_truncated_files_are_refused(good, path):
    data = good.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"path: .*model\.safetensors"):
            fr.load_model(path)


def test_foreign_files_are_refused(good, path):
    path.write_bytes(b"not a safetensors file at all, but long enough to hold a header")
    with pytest.raises(ValueError, match=r"path: .*damaged or foreign"):
        fr.load_model(path)
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(ValueError, match=r"path: .*not written by Sequential\.save"):
        fr.load_model(path)


def test_other_versions_are_refused(good, path):
    metadata = {"format": model_io.FORMAT, "version": "99", "config": "{}"}
    save_file({"a": np.ones(3)}, path, metadata)
    with pytest.raises(ValueError, match=r"path: .*version '99'"):
        fr.load_model(path)


@pytest.mark.parametrize(
    "config", ["", "{", "[]", "null", "{}", '{"model": {}}', pytest.param("[" * 100_000, id="deep")]
)
def test_broken_configurations_are_refused(path, config):
    save_file(
        {"a": np.ones(3)}, path, {"format": model_io.FORMAT, "version": "1", "config": config}
    )
    with pytest.raises(ValueError, match=r"path: .*model\.safetensors"):
        fr.load_model(path)


def change(keys, value):
    def changed(config, arrays):
        *most, last = keys
        for key in most:
            config = config[key]
        config[last] = value

    return changed


@pytest.mark.parametrize(
    "changed",
    [
        lambda config, arrays: arrays.pop("weights/head/kernel"),
        lambda config, arrays: arrays.pop("slots/1/head/kernel"),
        lambda config, arrays: arrays.update({"weights/more/kernel": np.ones(2)}),
        lambda config, arrays: arrays.update({"weights/head/kernel": np.ones((2, 6), "float32")}),
        lambda config, arrays: arrays.update({"slots/0/head/kernel": np.ones((7, 2), "float32")}),
        change(["model", "layers", 1, "class_name"], "Lambda"),
        change(["model", "layers", 1, "config", "units"], 10**15),
        change(["model", "layers", 1, "config", "activation"], "__import__('os')"),
        change(["model", "layers", 1, "config", "name"], "head"),
        change(["model", "layers"], 3),
        change(["model", "build_input_shape"], [None]),
        change(["dtype"], "float16"),
        change(["iterations"], -1),
        change(["compile", "optimizer", "class_name"], "Exec"),
        change(["compile", "loss"], "huge"),
        change(["random", "rng"], {"bit_generator": "MT19937"}),
    ],
)
def test_files_that_contradict_themselves_are_refused(good, path, changed):
    config, arrays = parts(good)
    model_io.write(path, config, arrays)
    fr.load_model(path)
    changed(config, arrays)
    model_io.write(path, config, arrays)
    with pytest.raises(ValueError, match=r"path: .*model\.safetensors.* holds no valid model"):
        fr.load_model(path)


def test_the_configuration_is_plain_json(good):
    config, _ = parts(good)
    assert json.loads(json.dumps(config)) == config
    assert config["model"]["layers"][1]["config"]["kernel_regularizer"] == {
        "class_name": "L1L2",
        "config": {"l1": 0.01, "l2": 0.02},
    }


def test_save_without_safetensors_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install fastreg-dense\[io\]"):
        fr.Sequential([fr.Input((3,)), fr.Dense(2)]).save(path)
