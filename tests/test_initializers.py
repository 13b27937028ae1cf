"""Initializers: the spread and the bounds of the draws, seeds, names and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fastreg import config, initializers
from fastreg.initializers import Constant, Ones, RandomNormal, RandomUniform, Zeros

SHAPE = (200, 300)  # 60000 draws: the standard error of a mean is std / 245

SPREAD = {  # name -> (variance, truncated normal?), n_in = 200 and n_out = 300
    "glorot_uniform": (1 / 250, False),
    "glorot_normal": (1 / 250, True),
    "he_uniform": (2 / 200, False),
    "he_normal": (2 / 200, True),
    "lecun_uniform": (1 / 200, False),
    "lecun_normal": (1 / 200, True),
}

ALL = [cls() for cls in initializers.REGISTRY.classes]
RANDOM = [initializer for initializer in ALL if hasattr(initializer, "seed")]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SPREAD)
def test_variance_scaling(name, dtype, rng):
    variance, truncated = SPREAD[name]
    values = initializers.get(name)(SHAPE, dtype, rng)
    assert values.shape == SHAPE
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    std = np.sqrt(variance)
    assert abs(values.mean()) < 5 * std / np.sqrt(values.size)
    assert values.std() == pytest.approx(std, rel=0.02)
    if truncated:
        # sigma of the normal before the cut; its std after the cut at 2 sigma is 0.8796 sigma.
        sigma = std / stats.truncnorm.std(-2, 2)
        law = stats.truncnorm(-2, 2, scale=sigma).cdf
        bound = 2 * sigma
    else:
        bound = np.sqrt(3) * std
        law = stats.uniform(-bound, 2 * bound).cdf
    largest = np.abs(values).max()
    assert 0.99 * bound < largest <= bound * (1 + np.finfo(dtype).eps)
    assert stats.kstest(values.ravel()[:20000].astype("float64"), law).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "shape", "variance"),
    [
        ("glorot_uniform", (1, 9999), 1 / 5000),
        ("he_uniform", (1, 9999), 2.0),
        ("he_uniform", (9999, 1), 2 / 9999),
        ("lecun_uniform", (9999,), 1 / 9999),
        ("glorot_normal", (9999,), 1 / 9999),
    ],
)
def test_fans(name, shape, variance, rng):
    values = initializers.get(name)(shape, "float64", rng)
    assert values.std() == pytest.approx(np.sqrt(variance), rel=0.03)


def test_random_normal(rng):
    values = RandomNormal(mean=3.0, stddev=0.5)(SHAPE, "float64", rng)
    assert stats.kstest(values.ravel()[:20000], stats.norm(3.0, 0.5).cdf).pvalue > 1e-3
    assert np.abs(values - 3.0).max() > 3.5 * 0.5  # not cut
    np.testing.assert_array_equal(RandomNormal(2.0, 0.0)((3, 2)), np.full((3, 2), 2.0))


def test_random_uniform(rng):
    values = RandomUniform(minval=-1.0, maxval=3.0)(SHAPE, "float64", rng)
    assert stats.kstest(values.ravel()[:20000], stats.uniform(-1.0, 4.0).cdf).pvalue > 1e-3
    assert values.min() >= -1.0
    assert values.max() < 3.0


def test_constants():
    np.testing.assert_array_equal(Zeros()((2, 3)), np.zeros((2, 3), "float32"), strict=True)
    np.testing.assert_array_equal(Ones()((3,), "float64"), np.ones(3), strict=True)
    np.testing.assert_array_equal(Constant(0.1)((1, 2)), np.full((1, 2), np.float32(0.1)))


@pytest.mark.parametrize("initializer", RANDOM, ids=repr)
def test_seeds(initializer):
    cls = type(initializer)
    first = cls(seed=7)((4, 5), "float64")
    np.testing.assert_array_equal(cls(seed=7)((4, 5), "float64"), first)
    seeded = cls(seed=7)
    np.testing.assert_array_equal(seeded((4, 5), "float64", np.random.default_rng(1)), first)
    np.testing.assert_array_equal(seeded((4, 5), "float64", np.random.default_rng(2)), first)
    np.testing.assert_array_equal(seeded((4, 5), "float32"), first.astype("float32"))
    assert not np.array_equal(cls(seed=8)((4, 5), "float64"), first)


@pytest.mark.parametrize("initializer", RANDOM, ids=repr)
def test_the_generator_of_the_call(initializer):
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    first = initializer((4, 5), "float64", one)
    np.testing.assert_array_equal(initializer((4, 5), "float64", other), first)
    assert not np.array_equal(initializer((4, 5), "float64", one), first)  # it moved on
    config.set_random_seed(5)
    seeded = initializer((4, 5), "float64")
    np.testing.assert_array_equal(seeded, initializer((4, 5), "float64", np.random.default_rng(5)))
    assert not np.array_equal(initializer((4, 5), "float64"), seeded)


@pytest.mark.parametrize("initializer", ALL, ids=repr)
def test_empty_shape_sizes(initializer, rng):
    assert initializer((0, 3), "float32", rng).shape == (0, 3)
    assert initializer([np.int64(2), 3], "float32", rng).shape == (2, 3)


@pytest.mark.parametrize("initializer", [*ALL, RandomNormal(1.0, 2.0, 3), Constant(0.5)], ids=repr)
def test_configuration_round_trip(initializer):
    assert type(initializer).from_config(initializer.get_config()) == initializer
    assert initializers.get(initializers.serialize(initializer)) == initializer
    assert eval(repr(initializer), vars(initializers)) == initializer
    assert hash(initializer) == hash(type(initializer)(**initializer.get_config()))


def test_configuration_of_keras():
    keras = {
        "module": "keras.initializers",
        "class_name": "GlorotUniform",
        "config": {"seed": None, "input_axes": None, "output_axes": None},
        "registered_name": None,
    }
    assert initializers.get(keras) == initializers.GlorotUniform()
    keras["config"]["input_axes"] = [0]
    with pytest.raises(
        ValueError, match=r"input_axes: got \[0\]; GlorotUniform supports only None"
    ):
        initializers.get(keras)


@pytest.mark.parametrize("cls", initializers.REGISTRY.classes)
def test_names(cls):
    snake = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__)[1:]
    assert (
        initializers.get(cls.__name__) == initializers.get(snake) == initializers.get(cls) == cls()
    )


def test_aliases_of_keras():
    assert initializers.get("zero") == Zeros()
    assert initializers.get("one") == Ones()
    assert initializers.get("normal") == RandomNormal()
    assert initializers.get("uniform") == RandomUniform()


def test_arguments_in_keras_order():
    assert RandomNormal(1.0, 2.0, 3) == RandomNormal(mean=1.0, stddev=2.0, seed=3)
    assert RandomUniform(1.0, 2.0, 3) == RandomUniform(minval=1.0, maxval=2.0, seed=3)
    assert RandomNormal().get_config() == {"mean": 0.0, "stddev": 0.05, "seed": None}
    assert RandomUniform().get_config() == {"minval": -0.05, "maxval": 0.05, "seed": None}


def test_refusals():
    with pytest.raises(ValueError, match=r"initializer: got 'glorot_unifrom'.*'glorot_uniform'"):
        initializers.get("glorot_unifrom")
    with pytest.raises(TypeError, match="initializer: got None"):
        initializers.get(None)
    with pytest.raises(ValueError, match="seed: got -1"):
        initializers.HeNormal(seed=-1)
    with pytest.raises(TypeError, match=r"seed: got 1.5"):
        initializers.HeNormal(seed=1.5)
    with pytest.raises(ValueError, match="stddev: got -1"):
        RandomNormal(stddev=-1)
    with pytest.raises(ValueError, match="mean: got nan"):
        RandomNormal(mean=float("nan"))
    with pytest.raises(ValueError, match="maxval: got 1"):
        RandomUniform(2, 1)
    with pytest.raises(ValueError, match="value: got inf"):
        Constant(float("inf"))
    with pytest.raises(ValueError, match="dtype: got 'float16'"):
        Zeros()((2, 3), "float16")
    with pytest.raises(ValueError, match=r"shape: got \(2, 3, 4\)"):
        Zeros()((2, 3, 4))
    with pytest.raises(ValueError, match="shape: got -2"):
        Zeros()((-2, 3))
    with pytest.raises(TypeError, match=r"shape: got 2.5"):
        Zeros()((2.5, 3))
