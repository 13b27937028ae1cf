"""Every script of examples/ runs, in a folder of its own, and says what it shows."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

DRAW = ("watch_a_fit", "pixels_that_digits_need", "bands_around_a_curve")


def test_there_are_examples():
    assert len(SCRIPTS) >= 4


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    plt.close("all")  # pyplot keeps figures
    assert capsys.readouterr().out
    assert ast.get_docstring(ast.parse(script.read_text())).count("\n") == 0  # one thing
    pictures = [path for path in tmp_path.iterdir() if path.suffix == ".png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert bool(pictures) == (script.stem in DRAW)
