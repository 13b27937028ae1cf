from typing import Any

from numpy.typing import NDArray

from fastreg import training

Array = NDArray[Any]

def names() -> dict[str, list[str]]: ...
def isa() -> str: ...
def isas_built() -> list[str]: ...
def gemm() -> str: ...
def blas_info() -> list[dict[str, Any]]: ...
def is_ready(x: object, dtype: object, n_rows: int, n_columns: int, finite: bool) -> bool: ...

# A class; its methods are the protocol's.
def Network(layers: list[dict[str, Any]], dtype: str) -> training.Network: ...
def dense_forward(
    x: Array, kernel: Array, bias: Array | None, activation: str, out: Array, n_threads: int
) -> None: ...
def dense_backward(
    x: Array,
    kernel: Array,
    y: Array,
    dy: Array,
    activation: str,
    dx: Array | None,
    dkernel: Array,
    dbias: Array,
    n_threads: int,
) -> None: ...
def activation_forward(z: Array, activation: str, out: Array) -> None: ...
def activation_backward(y: Array, dy: Array, activation: str, out: Array) -> None: ...
def penalty(w: Array, l1: float, l2: float) -> float: ...
def penalty_gradient(w: Array, l1: float, l2: float, out: Array) -> None: ...
def loss(name: str, y_true: Array, y_pred: Array, sample_weight: Array | None) -> float: ...
def loss_gradient(
    name: str, y_true: Array, y_pred: Array, sample_weight: Array | None, out: Array
) -> None: ...
def dropout(x: Array, rate: float, seed: int, iteration: int, layer: int, out: Array) -> None: ...
def sgd_update(
    w: Array,
    dw: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    l1: float,
    l2: float,
) -> None: ...
def adam_update(
    w: Array,
    dw: Array,
    m: Array,
    v: Array,
    iteration: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float,
    l1: float,
    l2: float,
) -> None: ...
