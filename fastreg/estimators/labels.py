"""Classes as numbers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import check_classification_targets, unique_labels

Array = NDArray[Any]


class Labels(LabelBinarizer):
    """scikit-learn's LabelBinarizer, with a short way for plain arrays.

    Its checks, made for everything that may come as labels, take longer than an epoch on few rows.

    >>> Labels().fit(np.array([2, 7, 2, 9, 9, 7])).inverse_transform(np.eye(3))
    array([2, 7, 9])
    """

    def fit(self, y: Any) -> Labels:
        """Learn the classes; ValueError for targets that are none."""
        classes = _few_classes(y)
        if classes is None:
            check_classification_targets(y)
            super().fit(y)
        else:
            self.y_type_ = "multiclass" if len(classes) > 2 else "binary"
            self.sparse_input_, self.classes_ = False, classes
        return self

    def inverse_transform(self, Y: Any, threshold: float | None = None) -> Any:
        """The labels of outputs (n, n_outputs), or (n,) of one."""
        if self.y_type_ == "multiclass":
            return self.classes_[Y.argmax(axis=1)]
        return super().inverse_transform(Y, threshold)


def classes_of(y: Any) -> Array:
    """The classes in `y`; ValueError for targets that are none."""
    classes = _few_classes(y)
    if classes is None:
        check_classification_targets(y)
        classes = unique_labels(y)
    return classes


def _few_classes(y: Any) -> Array | None:
    """Where `y` is an array of numbers or words that are no measurements, those it has."""
    if not isinstance(y, np.ndarray) or y.ndim != 1 or y.dtype.kind not in "biuU":
        return None
    classes = np.unique(y)
    return classes if 2 * len(classes) <= len(y) else None
