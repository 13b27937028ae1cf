from typing import Any, TypeGuard

from numpy.typing import NDArray

from fastreg import training
from fastreg.inputs import Curve, Groups, LossSettings

Array = NDArray[Any]

def names() -> dict[str, list[str]]: ...
def isa() -> str: ...
def isas_built() -> list[str]: ...
def gemm() -> str: ...
def has_bfloat16() -> bool: ...
def sparse() -> str: ...
def choose_sparse(name: str, argument: str = ...) -> None: ...
def blas_info() -> list[dict[str, Any]]: ...
def is_ready(
    x: object, dtype: object, n_rows: int, n_columns: int, finite: bool
) -> TypeGuard[Array]: ...

# A class; its methods are the protocol's.
def Network(layers: list[dict[str, Any]], dtype: str) -> training.Network: ...
def dense_forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    activation: str,
    curve: Curve | None,
    out: Array,
    n_threads: int,
) -> None: ...
def wants_z(activation: str) -> bool: ...
def dense_backward(
    x: Array,
    kernel: Array,
    y: Array,
    dy: Array,
    activation: str,
    curve: Curve | None,
    dx: Array | None,
    dkernel: Array,
    dbias: Array,
    n_threads: int,
) -> None: ...
def activation_forward(z: Array, activation: str, curve: Curve | None, out: Array) -> None: ...
def activation_backward(
    y: Array, dy: Array, activation: str, curve: Curve | None, out: Array
) -> None: ...
def penalty(w: Array, l1: float, l2: float) -> float: ...
def penalty_gradient(w: Array, l1: float, l2: float, out: Array) -> None: ...
def kl_penalty(y: Array, kl: float, rate: float) -> float: ...
def kl_penalty_gradient(y: Array, kl: float, rate: float, out: Array) -> None: ...
def group_penalty(w: Array, groups: Groups) -> float: ...
def group_penalty_gradient(w: Array, groups: Groups, out: Array) -> None: ...
def quadratic_descend(
    h: Array, l1: Array, group: Array, tol: float, max_sweeps: int, w: Array, g: Array
) -> float: ...
def group_prox(step: float, groups: Groups, l1: float, out: Array) -> None: ...
def loss(
    name: str, settings: LossSettings, y_true: Array, y_pred: Array, sample_weight: Array | None
) -> float: ...
def loss_gradient(
    name: str,
    settings: LossSettings,
    y_true: Array,
    y_pred: Array,
    sample_weight: Array | None,
    out: Array,
) -> None: ...
def normalize_rows(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    epsilon: float,
    out: Array,
    about_zero: bool = False,
) -> None: ...
def normalize_columns(
    mean: Array,
    variance: Array,
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    epsilon: float,
    out: Array,
) -> None: ...
def noise(
    kind: str, x: Array, amount: float, seed: int, iteration: int, layer: int, out: Array
) -> None: ...
def update(
    w: Array,
    dw: Array,
    slots: list[Array],
    optimizer: dict[str, Any],
    iteration: int,
    l1: float,
    l2: float,
) -> None: ...
