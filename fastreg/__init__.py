"""fastreg: regularized dense networks, trained and run on a CPU at the speed of the hardware.

>>> import fastreg as fr
>>> model = fr.Sequential([
...     fr.Input((784,)),
...     fr.Dense(64, activation="relu", kernel_regularizer=fr.L1L2(1e-5, 1e-4)),
...     fr.Dropout(0.2),
...     fr.Dense(10, activation="softmax", bias_regularizer="l2"),
... ])
>>> model.compile(fr.Adam(1e-3), "sparse_categorical_crossentropy", ["accuracy"])
>>> model.count_params()
50890
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from typing import Any

import numpy as np
import threadpoolctl

try:
    from fastreg import _engine as _engine
except ImportError as error:
    raise ImportError(
        "fastreg's compiled module, fastreg._engine, cannot be imported "
        f"({error}). From a source tree, build it with `make build` or `pip install .`, and do not "
        "import fastreg from inside a tree that was not built."
    ) from error

from fastreg import (
    activations,
    callbacks,
    config,
    constraints,
    datasets,
    functional,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    reference,
    regularizers,
    schedules,
    sparsity,
)
from fastreg._version import __version__
from fastreg.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from fastreg.config import get_num_threads, set_num_threads, set_random_seed
from fastreg.errors import check_choice
from fastreg.layers import (
    Activation,
    ActivityRegularization,
    AlphaDropout,
    BatchNormalization,
    Dense,
    Dropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    Input,
    LayerNormalization,
    Normalization,
    Rescaling,
    RMSNormalization,
)
from fastreg.models import Sequential, from_keras, from_torch, load_model, to_onnx
from fastreg.optimizers import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    Nadam,
    RMSprop,
)
from fastreg.paths import RegularizationPath, regularization_path
from fastreg.plotting import ProgressPlot, RegularizationPathDisplay, SparsityDisplay
from fastreg.regularizers import L1, L1L2, L2, GroupL1, KLSparsity
from fastreg.serialization import custom_object_scope
from fastreg.sparsity import Compact, TargetSparsity, compact, sparsity_report

__all__ = [
    # models and layers
    "Sequential",
    "load_model",
    "custom_object_scope",
    "to_onnx",
    "from_keras",
    "from_torch",
    "Input",
    "Dense",
    "Activation",
    "ActivityRegularization",
    "Dropout",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "LayerNormalization",
    "RMSNormalization",
    "BatchNormalization",
    "Flatten",
    "Normalization",
    "Rescaling",
    # what shapes training
    "L1",
    "L2",
    "L1L2",
    "GroupL1",
    "KLSparsity",
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "Nadam",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Lion",
    "Ftrl",
    "LBFGS",
    "Callback",
    "Compact",
    "CSVLogger",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ReduceLROnPlateau",
    "ModelCheckpoint",
    "ProgressPlot",
    "TerminateOnNaN",
    "TargetSparsity",
    # modules with Keras' names
    "activations",
    "callbacks",
    "config",
    "constraints",
    "datasets",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "schedules",
    # what zeros are worth
    "RegularizationPath",
    "RegularizationPathDisplay",
    "SparsityDisplay",
    "compact",
    "regularization_path",
    "sparsity",
    "sparsity_report",
    # the kernels as functions, and their twin in NumPy
    "functional",
    "reference",
    # settings of the process
    "get_num_threads",
    "set_num_threads",
    "set_random_seed",
    "show_config",
    "__version__",
]


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print what runs here: versions, instruction set, BLAS, threads.

    Parameters
    ----------
    mode : "stdout" or "dicts", default "stdout"
        "dicts" returns it instead of printing it, as `numpy.show_config` does.

    Raises
    ------
    ValueError
        For another mode.

    Examples
    --------
    >>> print(*sorted(show_config("dicts")))
    bfloat16 blas fastreg isa isas_built numpy platform products python sparse threads
    """
    check_choice("mode", mode, ("stdout", "dicts"))
    found = {
        "fastreg": __version__,
        "isa": _engine.isa(),
        "isas_built": _engine.isas_built(),
        "products": _engine.gemm(),
        "bfloat16": "yes" if _engine.has_bfloat16() else "no",
        "sparse": _engine.sparse(),
        "blas": [
            f"{pool['internal_api']} {pool['version']} ({pool['filepath']})"
            for pool in _engine.blas_info()
        ],
        "threads": get_num_threads(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
    }
    if mode == "dicts":
        return found
    for name, value in found.items():
        print(f"{name + ':':12}{', '.join(value) if isinstance(value, list) else value}")
    return None


class _ThreadController(threadpoolctl.LibController):
    """By which `threadpoolctl.threadpool_limits` governs the engine's threads."""

    user_api = internal_api = "fastreg"
    filename_prefixes = (os.path.basename(os.path.realpath(_engine.__file__)).lower(),)
    check_symbols = ("PyInit__engine",)

    def get_num_threads(self) -> int:
        return get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        set_num_threads(num_threads)

    def get_version(self) -> str:
        return __version__


threadpoolctl.register(_ThreadController)


def __getattr__(name: str) -> Any:
    """`fastreg.estimators` imports scikit-learn, so it is imported when it is asked for."""
    if name == "estimators":
        return importlib.import_module("fastreg.estimators")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
