"""skl2onnx's converters for both classes: the network as `fastreg.to_onnx` writes it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from fastreg import interchange
from fastreg.estimators.classifier import MLPClassifier
from fastreg.estimators.regressor import MLPRegressor
from fastreg.layers import serialize


def register_onnx_converters() -> None:
    """Teach skl2onnx both classes, alone and in pipelines: `skl2onnx.to_onnx(pipeline, X[:1])`.

    Raises
    ------
    ImportError
        Without skl2onnx.
    """
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator

    options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True]}
    update_registered_converter(
        MLPClassifier,
        "FastregMLPClassifier",
        shape_calculator.calculate_linear_classifier_output_shapes,
        _convert_classifier,
        options={**options, "nocl": [True, False]},
    )
    update_registered_converter(
        MLPRegressor, "FastregMLPRegressor", _regressor_shapes, _convert_regressor
    )


def _dtype(operator: Any) -> Any:
    from skl2onnx.common.data_types import DoubleTensorType

    is_double = isinstance(operator.inputs[0].type, DoubleTensorType)
    return np.dtype(np.float64 if is_double else np.float32)


def _network(scope: Any, operator: Any, container: Any, n_left: int = 0) -> str:
    """The name of the network's output, or of what the last `n_left` layers read."""
    from onnx import helper
    from skl2onnx.common._apply_operation import apply_cast

    dtype, model = _dtype(operator), operator.raw_operator.model_
    names: dict[str, str] = {"x": scope.get_unique_variable_name("x")}
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    apply_cast(scope, operator.inputs[0].full_name, names["x"], container, to=kind)
    layers = [
        {**serialize(layer), "weights": [w.astype(dtype) for w in layer.get_weights()]}
        for layer in model.layers[: len(model.layers) - n_left]
    ]
    if not layers and model.selected_inputs_ is None:
        return names["x"]
    row = model.input_shape[1:]
    graph = interchange.to_onnx(model.name, layers, dtype, model.selected_inputs_, row).graph
    for array in graph.initializer:
        names[array.name] = scope.get_unique_variable_name(array.name)
        container.add_initializer(names[array.name], array.data_type, array.dims, array)
    for node in graph.node:
        (output,) = node.output
        names[output] = scope.get_unique_variable_name(output)
        container.add_node(
            node.op_type,
            [names[each] for each in node.input],
            names[output],
            name=scope.get_unique_operator_name(node.op_type),
            **{each.name: helper.get_attribute_value(each) for each in node.attribute},
        )
    return names["y"]


class _Input(NamedTuple):
    full_name: str
    type: Any


class _LastLayer:
    """The operator of a network that is the last layer, and reads what the others make."""

    def __init__(self, operator: Any, reads: str) -> None:
        self.inputs, self.outputs = [_Input(reads, operator.inputs[0].type)], operator.outputs
        self.raw_operator = model = copy.copy(operator.raw_operator)
        model.coefs_, model.intercepts_ = model.coefs_[-1:], model.intercepts_[-1:]
        model.n_layers_, model.activation = 2, "identity"


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    from onnx import TensorProto
    from skl2onnx.common._apply_operation import apply_cast, apply_greater, apply_identity
    from skl2onnx.operator_converters.multilayer_perceptron import convert_sklearn_mlp_classifier

    labels, probabilities = (each.full_name for each in operator.outputs)
    if operator.raw_operator._label_binarizer.y_type_ != "multilabel-indicator":
        hidden = _network(scope, operator, container, n_left=1)
        convert_sklearn_mlp_classifier(scope, _LastLayer(operator, hidden), container)
        return
    # Two labels are two classes to skl2onnx.
    y = _network(scope, operator, container)
    half, above = (scope.get_unique_variable_name(name) for name in ("half", "above"))
    kind = TensorProto.DOUBLE if _dtype(operator) == np.float64 else TensorProto.FLOAT
    container.add_initializer(half, kind, [], [0.5])
    apply_identity(scope, y, probabilities, container)
    apply_greater(scope, [y, half], above, container)
    apply_cast(scope, above, labels, container, to=TensorProto.INT64)


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = DoubleTensorType if _dtype(operator) == np.float64 else FloatTensorType
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = kind([rows, operator.raw_operator.n_outputs_])


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.common._apply_operation import apply_identity

    y = _network(scope, operator, container)
    apply_identity(scope, y, operator.outputs[0].full_name, container)
