"""skl2onnx's converters for both classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from fastreg.estimators.classifier import MLPClassifier
from fastreg.estimators.regressor import MLPRegressor


def register_onnx_converters() -> None:
    """Teach skl2onnx both classes, alone and in pipelines: `skl2onnx.to_onnx(pipeline, X[:1])`.

    Raises
    ------
    ImportError
        Without skl2onnx.
    """
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator
    from skl2onnx.operator_converters.multilayer_perceptron import convert_sklearn_mlp_classifier

    options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True]}
    update_registered_converter(
        MLPClassifier,
        "FastregMLPClassifier",
        shape_calculator.calculate_linear_classifier_output_shapes,
        lambda scope, operator, container: convert_sklearn_mlp_classifier(
            scope, _Plain(operator), container
        ),
        options={**options, "nocl": [True, False]},
    )
    update_registered_converter(
        MLPRegressor, "FastregMLPRegressor", _regressor_shapes, _convert_regressor
    )


class _Plain:
    """An operator of skl2onnx whose network reads all features and has one name of activation."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator
        self.raw_operator = copy.copy(operator.raw_operator)
        model = self.raw_operator
        theirs = {"linear": "identity", "sigmoid": "logistic"}
        names = {theirs.get(n, n) for n in model._hidden_activations(len(model.coefs_) - 1)}
        if len(names) > 1 or not names <= {"identity", "logistic", "tanh", "relu", "softmax"}:
            raise NotImplementedError(
                f"activation: got {model.activation!r}; skl2onnx takes one of identity, logistic, "
                "tanh, relu for all layers; fastreg.to_onnx(estimator.model_) takes a list"
            )
        binarizer = getattr(model, "_label_binarizer", None)
        if model.n_outputs_ == 2 and binarizer is not None and binarizer.y_type_ != "multiclass":
            raise NotImplementedError(
                "y: skl2onnx takes two labels for two classes; fastreg.to_onnx(estimator.model_) "
                "gives their probabilities"
            )
        model.activation = names.pop() if names else "identity"
        if model._selected is not None:
            kernel = np.zeros((model.n_features_in_, model.coefs_[0].shape[1]))
            kernel[model._selected] = model.coefs_[0]
            model.coefs_ = [kernel, *model.coefs_[1:]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def _regressor_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    x = operator.inputs[0].type
    kind = DoubleTensorType if isinstance(x, DoubleTensorType) else FloatTensorType
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = kind([rows, operator.raw_operator.n_outputs_])


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    # skl2onnx's own converter lays several outputs out as one column.
    from onnx import TensorProto
    from skl2onnx.common._apply_operation import apply_identity
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.operator_converters.multilayer_perceptron import _predict

    x = operator.inputs[0]
    dtype = guess_proto_type(x.type)
    dtype = dtype if dtype == TensorProto.DOUBLE else TensorProto.FLOAT
    y = _predict(scope, x.full_name, container, _Plain(operator).raw_operator, dtype)
    apply_identity(scope, y, operator.outputs[0].full_name, container)
