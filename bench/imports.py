"""What `import fastreg` costs beyond NumPy and SciPy's BLAS: `python -m bench.imports`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

OPTIONAL = ["matplotlib", "pandas", "safetensors", "sklearn", "tqdm"]
PROBE = f"""
import json, sys, time
import numpy, scipy.linalg.cython_blas
start = time.thread_time()
import fastreg
seconds = time.thread_time() - start
print(json.dumps([seconds, sorted(set(sys.modules).intersection({OPTIONAL!r}))]))
"""


def import_cost(repeats: int = 10) -> tuple[float, list[str]]:
    """(least CPU seconds of `repeats` fresh processes, optional packages that came along)."""
    # As installed: with bytecode files, which the first process leaves for the others.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROBE]
    probes = [json.loads(subprocess.check_output(command, env=environment)) for _ in range(repeats)]
    return min(seconds for seconds, _ in probes), probes[0][1]


if __name__ == "__main__":
    seconds, optional = import_cost()
    print(f"import fastreg: {seconds * 1e3:.1f} ms of CPU beyond NumPy and SciPy's BLAS")
    print(f"optional packages imported: {', '.join(optional) or 'none'}")
