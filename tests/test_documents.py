"""README, CONTRIBUTING and the engine's page: what they show runs, what they name is there."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

import fastreg

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "src_c/README.md"]


def test_the_readmes_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    fastreg.config.set_random_seed(0)
    exec(code.replace("epochs=20", "epochs=2, verbose=0"), names)
    assert "epochs=20" in code
    assert names["history"].history["val_accuracy"][-1] > 0.5
    assert names["classes"].shape == (1797,)


def test_the_page_on_zeros_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/sparsity.md").read_text()
    names: dict = {}
    fastreg.config.set_random_seed(0)
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    small, path = names["small"], names["path"]
    assert (small.selected_inputs_ >= 64).sum() <= 0.2 * 64
    assert path.scores.max() > 0.9 and (tmp_path / "path.png").exists()


@pytest.mark.parametrize("page", [*PAGES[:2], "docs/sparsity.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert links
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link


def test_every_module_has_its_place_in_the_house():
    house, _, _ = (ROOT / "CONTRIBUTING.md").read_text().partition("## One word")
    named = set(re.findall(r"(\w+)\.py`", house))
    modules = {path.stem for path in (ROOT / "fastreg").glob("[!_]*.py")}
    assert modules <= named, modules - named


@pytest.mark.parametrize("page", PAGES)
def test_files_and_verbs_that_are_named_exist(page):
    text = (ROOT / page).read_text()
    below = [
        ROOT,
        ROOT / "fastreg",
        ROOT / "fastreg/estimators",
        ROOT / "src_c",
        ROOT / "src_c/kernels",
        ROOT / "tests",
        ROOT / "tests/c",
    ]
    named = set(re.findall(r"`([a-z][\w/]*\.(?:py|pyx|pxd|inc|h|c))`", text))
    missing = [name for name in named if not any((folder / name).exists() for folder in below)]
    assert missing == []
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"\bmake (\w+)`", text):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_identifiers_that_the_recipes_name_exist():
    sources = "".join(
        path.read_text()
        for pattern in ("src_c/**/*", "fastreg/*.p[yx]*", "tests/*.py", "tests/c/*", "Makefile")
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix != ".md"
    )
    for page in ("CONTRIBUTING.md", "src_c/README.md"):
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
        for name in re.findall(r"`\.?([A-Za-z_]\w+)(?:\(\))?`", text):
            made_up = "name" in name.split("_") or name in ("make", "pip")
            assert made_up or re.search(rf"\b{name}\b", sources), f"{page}: {name}"


def test_the_picture_is_fit_for_the_readme():
    picture = (ROOT / "docs/regularizers.png").read_bytes()
    width, _ = struct.unpack(">II", picture[16:24])
    assert width >= 900
    assert len(picture) < 400 * 1024
