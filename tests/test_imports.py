"""Who imports whom, and what `import fastreg` does to the process."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastreg

FOLDER = Path(fastreg.__file__).parent

# A module imports from the rows below its own only.
ROWS = [
    {"__main__"},
    {"cli"},
    {"sparsity_demo"},
    {"demo"},
    {"plotting"},
    {"estimators", "displays"},
    {"paths"},
    {"sparsity"},
    {"models"},
    {"full_batch"},
    {"objective"},
    {"training", "layers", "model_io", "interchange"},
    {
        "callbacks",
        "optimizers",
        "losses",
        "metrics",
        "regularizers",
        "constraints",
        "initializers",
        "activations",
    },
    {"functional", "reference", "owlqn", "schedules"},
    {"inputs", "config", "serialization", "datasets", "curvature"},
    {"errors", "_version", "torch_modules"},
]
OPTIONAL = {
    *("matplotlib", "tqdm", "sklearn", "safetensors", "pandas"),
    *("IPython", "keras", "torch"),
}
# The same within the package of the estimators.
ROWS_OF_ESTIMATORS = [
    {"__init__"},
    {"cross_validation", "onnx_converters"},
    {"classifier", "regressor"},
    {"base"},
    {"lbfgs", "stochastic"},
    {"network", "rules"},
    {"parameters", "labels"},
]
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
OF_ESTIMATORS = sorted(path.stem for path in FOLDER.glob("estimators/*.py"))
MODULES += [f"estimators/{name}" for name in OF_ESTIMATORS]


def imports(nodes):
    """Names imported by the statements: "numpy", "fastreg.errors", ..."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports"
            if node.module in ("fastreg", "fastreg.estimators"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif node.module != "__future__":
                found.add(node.module)
    return found


def tree(module):
    return ast.parse((FOLDER / f"{module}.py").read_text())


def of_fastreg(module):
    names = imports(ast.walk(tree(module)))
    return {name.split(".")[1] for name in names if name.startswith("fastreg.")}


def row(module, rows=ROWS):
    return next(i for i, modules in enumerate(rows) if module in modules)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module):
    package = module.split("/")[0]
    for other in of_fastreg(module) - {"_engine"} - ({package} if package != module else set()):
        assert row(other) > row(package), f"{module} imports {other}"


@pytest.mark.parametrize("module", OF_ESTIMATORS)
def test_arrows_point_down_among_the_estimators(module):
    for name in imports(ast.walk(tree(f"estimators/{module}"))):
        if name.startswith("fastreg.estimators."):
            other = name.split(".")[2]
            assert row(other, ROWS_OF_ESTIMATORS) > row(module, ROWS_OF_ESTIMATORS), other


def test_few_modules_see_the_engine():
    assert {module for module in MODULES if "_engine" in of_fastreg(module)} <= {
        "functional",
        "models",
    }


def test_the_reference_needs_numpy_alone():
    standard = {
        name for name in imports(ast.walk(tree("reference"))) if not name.startswith("fastreg")
    }
    outside = {name.split(".")[0] for name in standard} - set(sys.stdlib_module_names)
    assert outside == {"numpy"}
    assert of_fastreg("reference") <= {"errors", "inputs"}


@pytest.mark.parametrize("module", MODULES)
def test_optional_packages_are_imported_where_they_are_needed(module):
    at_import = {name.split(".")[0] for name in imports(tree(module).body)}
    own = {"torch"} if module == "torch_modules" else set()
    assert at_import & OPTIONAL <= ({"sklearn"} if "estimators/" in module else own)


def run(code):
    """Standard output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=FOLDER.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_no_optional_package():
    found = run(f"""
        import sys, fastreg
        print(sorted({OPTIONAL!r} & set(sys.modules)))
    """)
    assert found.strip() == "[]"


def test_import_starts_no_thread():
    found = run("""
        import os, threading
        import numpy, scipy.linalg.cython_blas
        before = len(os.listdir("/proc/self/task"))
        import fastreg
        print(len(os.listdir("/proc/self/task")) - before, threading.active_count())
    """)
    assert found.split() == ["0", "1"]


def test_subnormal_numbers_are_as_they_were():
    """The floating-point control word, seen from arithmetic on this and on another thread."""
    found = run("""
        import threading
        import numpy as np

        def seen():
            tiny = np.full(33, 1e-40, "float32")
            return bool((tiny * np.float32(0.5) != 0).all() and (tiny + tiny != 0).all())

        def everywhere():
            other = []
            thread = threading.Thread(target=lambda: other.append(seen()))
            thread.start(); thread.join()
            return seen() and other[0]

        before = everywhere()
        import fastreg as fr
        after_import = everywhere()
        layers = [fr.Input((64,)), fr.Dense(256, "relu"), fr.Dense(1)]
        model = fr.Sequential(layers, backend="compiled")
        model.compile("adam", "mse", n_threads=2)
        model.fit(np.ones((512, 64)), np.ones((512, 1)), epochs=2, verbose=0)
        model.predict(np.ones((512, 64)), verbose=0)
        print(before, after_import, everywhere())
    """)
    assert found.split() == ["True"] * 3


def test_without_the_engine_the_error_says_what_to_do():
    found = run("""
        import sys
        sys.modules["fastreg._engine"] = None
        try:
            import fastreg
        except ImportError as error:
            print(error)
    """)
    assert "fastreg._engine" in found
    assert "pip install" in found


def test_names_at_the_top():
    assert set(fastreg.__all__) <= set(dir(fastreg))
    assert len(set(fastreg.__all__)) == len(fastreg.__all__)
    assert fastreg.__version__ == "0.1.0"
    assert fastreg.L1 is fastreg.regularizers.L1
    assert fastreg.Adam is fastreg.optimizers.Adam
