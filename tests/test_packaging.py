"""What is built and shipped: one exported symbol, one version, one list of compiler flags."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastreg
from fastreg import _engine

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file with nm")
def test_engine_exports_its_init_function_alone() -> None:
    """Anything more could collide with another library's symbols in the same process."""
    nm = shutil.which("nm")
    assert nm, "nm comes with the compiler that built the engine"
    listing = subprocess.check_output([nm, "-D", "--defined-only", _engine.__file__], text=True)
    assert [line.split()[-1] for line in listing.splitlines()] == ["PyInit__engine"]


def test_one_version() -> None:
    assert importlib.metadata.version("fastreg-dense") == fastreg.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == fastreg.__version__


def test_makefile_tests_the_flags_that_setup_builds_with() -> None:
    """The C tests and linters must see the code as the extension does."""
    built = re.search(r"FLAGS = \[(.*?)\n\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    flags = set(re.findall(r'"(-[^"]+)"', built))
    makefile = re.sub(r"\\\n", " ", (ROOT / "Makefile").read_text())
    tested = set(re.search(r"^C_FLAGS\s*:=(.*)$", makefile, re.MULTILINE)[1].split())
    assert {flag for flag in flags if not flag.startswith("-Wno-")} <= tested
