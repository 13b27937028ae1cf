"""Names and configuration dictionaries: what all small objects have in common."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastreg import initializers, layers, losses, metrics, optimizers, regularizers
from fastreg.serialization import Registry, check_bool, known_arguments, same_name, snake_case

MODULES = [initializers, losses, metrics, optimizers, regularizers]
CLASSES = [(module, cls) for module in MODULES for cls in module.REGISTRY.classes]


@pytest.mark.parametrize(("module", "cls"), CLASSES)
def test_every_object_survives_json(module, cls):
    thing = cls()
    written = json.loads(json.dumps(module.serialize(thing)))
    assert module.deserialize(written) == thing
    assert module.get(written) == thing


@pytest.mark.parametrize("module", MODULES)
def test_a_dictionary_is_not_changed(module):
    written = module.serialize(module.REGISTRY.classes[0]())
    before = json.dumps(written)
    module.deserialize(written)
    assert json.dumps(written) == before


@pytest.mark.parametrize("module", MODULES)
def test_refusals(module):
    for wrong in ({}, {"class_name": 3}, {"config": {}}):
        with pytest.raises(ValueError, match="class_name"):
            module.deserialize(wrong)
    with pytest.raises(ValueError, match="got 'Nobody'; allowed: "):
        module.deserialize({"class_name": "Nobody", "config": {}})
    with pytest.raises(TypeError, match="is needed"):
        module.serialize(object())


def test_classes_that_are_not_listed_stand_there_themselves():
    registry = Registry("thing", regularizers.Regularizer, (regularizers.L1,))
    own = regularizers.L2()
    written = registry.serialize(own)
    assert written == {"class_name": "Custom", "config": {"own": own}}
    assert registry.deserialize(written) is own
    with pytest.raises(TypeError, match="thing: got 3"):
        registry.deserialize({"class_name": "Custom", "config": {"own": 3}})


@pytest.mark.parametrize(
    ("registry", "own"),
    [
        (optimizers.REGISTRY, type("Own", (optimizers.SGD,), {})()),
        (layers.REGISTRY, type("Own", (layers.Dense,), {})(2)),
    ],
)
def test_what_has_an_owner_is_of_fastreg(registry, own):
    with pytest.raises(TypeError, match="of fastreg is needed"):
        registry.serialize(own)
    with pytest.raises(ValueError, match="got 'Custom'; allowed: "):
        registry.deserialize({"class_name": "Custom", "config": {"own": 3}})


def test_names():
    assert same_name("Glorot_Uniform") == same_name("GLOROTUNIFORM") == "glorotuniform"
    assert [snake_case(name) for name in ("L1L2", "SGD", "AdamW", "HeNormal")] == [
        "l1l2",
        "sgd",
        "adamw",
        "he_normal",
    ]


def test_known_arguments():
    cls, only = regularizers.L1, {"axis": None}
    assert known_arguments(cls, {"l1": 0.5, "axis": None}, only) == {"l1": 0.5}
    with pytest.raises(ValueError, match="axis: got 0; L1 supports only None"):
        known_arguments(cls, {"axis": 0}, only)
    with pytest.raises(TypeError, match="got 'l'"):
        known_arguments(cls, {"l": 0.5}, only)


def test_check_bool():
    assert check_bool("flag", np.True_) is True
    assert check_bool("flag", False) is False
    for wrong in (1, "True", None, np.array([True]), np.int64(1)):
        with pytest.raises(TypeError, match=r"flag: got .* True or False is needed"):
            check_bool("flag", wrong)
