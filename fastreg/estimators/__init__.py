"""scikit-learn's MLPClassifier and MLPRegressor on fastreg's engine, and what those two lack.

Every parameter, attribute and method of scikit-learn 1.9's classes is here with the same meaning,
and the same `random_state` gives the same weights but for rounding: initial weights, order of the
rows and batches come from the same random numbers. `docs/estimators.md` has the few differences.

`alpha` is scikit-learn's: a batch's loss takes `alpha / 2 * sum(W^2) / (weights of its rows)`, so
its pull depends on the batch size. All penalties that scikit-learn lacks (`l1`, `bias_l2`, ...) are
fastreg's: added to the mean loss as they stand, `l1 * sum |W|` and `bias_l2 * sum b^2`.

>>> from sklearn.datasets import load_iris
>>> x, y = load_iris(return_X_y=True)
>>> model = MLPClassifier(16, l1=0.001, solver="lbfgs", random_state=0).fit(x, y)
>>> model.score(x, y) > 0.9, bool((model.coefs_[0] == 0).any())
(True, True)
"""

from __future__ import annotations

from fastreg.estimators.classifier import MLPClassifier
from fastreg.estimators.cross_validation import MLPClassifierCV, MLPRegressorCV
from fastreg.estimators.onnx_converters import register_onnx_converters
from fastreg.estimators.regressor import MLPRegressor

__all__ = [
    "MLPClassifier",
    "MLPClassifierCV",
    "MLPRegressor",
    "MLPRegressorCV",
    "register_onnx_converters",
]
