"""The second demo: what it prints and draws, and that L1 finds the noise."""

from __future__ import annotations

import re

import numpy as np
import pytest

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
    dense, thin = sparsity_demo.compare(data, (0.0, 2e-3), epochs=60, units=256, seed=0)
    assert dense.thinned.n_noise == 64 and dense.thinned.n_units == 256
    assert thin.thinned.n_noise <= 0.2 * 64 < thin.thinned.n_pixels
    assert thin.thinned.accuracy >= dense.thinned.accuracy - 0.01
    assert thin.n_params < 0.4 * dense.n_params


def test_the_command_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    path = tmp_path / "thin.png"
    arguments = ["sparsity", "--epochs", "2", "--units", "8", "--output", str(path)]
    assert cli.main(arguments) == 0
    out, _ = capsys.readouterr()
    for strength in sparsity_demo.STRENGTHS:
        (row,) = re.findall(rf"^ *{strength:g} +(.*)$", out, re.MULTILINE)
        test, pixels, noise, units, params, *_ = row.split()
        assert 0 <= float(test.rstrip("%")) <= 100 and int(units) <= 8
        assert 0 < int(pixels) <= 64 and 0 <= int(noise) <= 64 and int(params.replace(",", "")) > 0
    assert out.rstrip().endswith(f"picture: {path}")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_output_that_cannot_be_is_refused_before_any_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["sparsity", "--output", str(tmp_path / "thin.txt")])
    assert "output: got '.txt'" in capsys.readouterr().err
