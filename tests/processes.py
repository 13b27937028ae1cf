"""Python code in a process of its own, with the package and the helpers of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastreg

TESTS = Path(__file__).parent
PACKAGE = Path(fastreg.__file__).parent.parent


def run(code: str, timeout: float = 60, **variables: str) -> str:
    """What `code` prints; AssertionError with its error output if it fails or takes too long."""
    path = os.pathsep.join([str(PACKAGE), str(TESTS)])
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, f"status {process.returncode}: {process.stderr[-3000:]}"
    return process.stdout
