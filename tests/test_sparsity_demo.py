"""The second demo: what it prints and draws, and that L1 finds the noise."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastreg as fr
from fastreg import cli, datasets, sparsity_demo


@pytest.fixture(scope="module")
def data():
    return datasets.among_noise(datasets.load_digits())


def test_noise_stands_beside_the_pixels(data):
    plain = datasets.load_digits()
    assert data.x_train.shape == (1347, 128) and data.x_train.dtype == np.float32
    assert np.array_equal(data.x_test[:, :64], plain.x_test)
    noise = data.x_train[:, 64:]
    assert 0 <= noise.min() < 0.01 and 0.99 < noise.max() < 1


def test_the_noise_goes_and_the_digits_stay(data):
    """At least 80% of the noise, at the price of at most 1% of accuracy, under both penalties."""
    strengths = {"L1": (2e-3,), "GroupL1": (1e-3,)}
    dense, found = sparsity_demo.compare(data, strengths, epochs=60, units=256, seed=0)
    assert dense.n_noise == 64 and dense.n_units == 256 and dense.density == 1
    assert list(found) == ["L1", "GroupL1"]
    for (thin,) in found.values():
        assert thin.n_noise <= 0.2 * 64 < thin.n_pixels
        assert thin.accuracy >= dense.accuracy - 0.01
        assert thin.costs["parameters"] < 0.4 * dense.costs["parameters"]
        assert thin.density < 0.4


@pytest.mark.parametrize(("penalty", "strength"), [("L1", 2e-3), ("GroupL1", 1e-3)])
def test_compact_gives_the_same_outputs(data, penalty, strength):
    model = sparsity_demo.train(data, penalty, strength, epochs=10, units=64, seed=0)
    small = fr.compact(model)
    assert small.n_params < model.n_params
    np.testing.assert_allclose(small.predict(data.x_test), model.predict(data.x_test), atol=1e-6)


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    path = tmp_path / "thin.png"
    arguments = ["sparsity", "--epochs", "2", "--units", "8", "--output", str(path)]
    assert cli.main(arguments) == 0
    out, _ = capsys.readouterr()
    names = [f"{name} {s:g}" for name, each in sparsity_demo.STRENGTHS.items() for s in each]
    for name in ("none", *names):
        (row,) = re.findall(rf"^ *{name} +(.*)$", out, re.MULTILINE)
        test, pixels, noise, units, density, params, *_ = row.split()
        assert 0 <= float(test.rstrip("%")) <= 100 and int(units) <= 8
        assert 0 < float(density.rstrip("%")) <= 100
        assert 0 < int(pixels) <= 64 and 0 <= int(noise) <= 64 and int(params.replace(",", "")) > 0
    assert out.rstrip().endswith(f"picture: {path}")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_output_that_cannot_be_is_refused_before_any_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["sparsity", "--output", str(tmp_path / "thin.txt")])
    assert "output: got '.txt'" in capsys.readouterr().err
