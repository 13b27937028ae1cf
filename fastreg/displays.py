"""Pictures of fitted estimators in scikit-learn's convention: `from_estimator`, then `plot`.

Each object keeps what it shows, and after `plot` the axes `ax_` (or `axes_`) and `figure_`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def fitted(estimator: Any, attribute: str, what: str) -> Any:
    """An attribute of a fitted estimator; ValueError, scikit-learn's own for one of its kind."""
    if hasattr(estimator, attribute):
        return getattr(estimator, attribute)
    error = ValueError
    if hasattr(estimator, "get_params"):
        from sklearn.exceptions import NotFittedError

        error = NotFittedError
    raise error(f"estimator: {estimator!r} has no {attribute}; {what} is needed")


class LossCurveDisplay:
    """The loss after each epoch, and that on the validation rows or their scores.

    Parameters
    ----------
    loss_curve : (n,) with penalties
    validation_curve : (n,) without, or empty
    validation_scores : (n,) or None

    Examples
    --------
    >>> LossCurveDisplay([3.0, 2.0], [], None).loss_curve
    [3.0, 2.0]
    """

    def __init__(self, loss_curve: Any, validation_curve: Any, validation_scores: Any) -> None:
        self.loss_curve = loss_curve
        self.validation_curve = validation_curve
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw an `MLPClassifier` or `MLPRegressor` that was fitted with "sgd" or "adam".

        Raises
        ------
        ValueError
            For one that was not.
        """
        losses = fitted(estimator, "loss_curve_", "one fitted with 'sgd' or 'adam'")
        validation = getattr(estimator, "validation_curve_", [])
        return cls(losses, validation, estimator.validation_scores_).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw on `ax`, or on axes of its own."""
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        epochs = np.arange(1, len(self.loss_curve) + 1)
        self.ax_.plot(epochs, self.loss_curve, color="C0", label="training, with penalties")
        if len(self.validation_curve):
            self.ax_.plot(epochs, self.validation_curve, color="C1", label="validation")
        self.ax_.set(xlabel="epoch", ylabel="loss")
        if self.validation_scores is not None:
            scores = self.ax_.twinx()
            scores.plot(epochs, self.validation_scores, color="C2", ls=":", label="score")
            scores.set_ylabel("validation score (dotted)", color="C2")
        self.ax_.legend(frameon=False, loc="center right")
        return self


class WeightsDisplay:
    """The incoming weights of hidden units as images, zeros in white.

    Parameters
    ----------
    kernel : (n_features, units)
    shape : (height, width) of a row as an image; None: all units as one matrix
    n_units : how many units to show, those with the largest weights first

    Examples
    --------
    >>> WeightsDisplay(np.eye(4), (2, 2), 3).shape
    (2, 2)
    """

    def __init__(self, kernel: Array, shape: tuple[int, int] | None, n_units: int) -> None:
        self.kernel = kernel
        self.shape = shape
        self.n_units = n_units

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, shape: tuple[int, int] | None = None, n_units: int = 16
    ) -> Self:
        """Draw the first layer of a fitted `MLPClassifier` or `MLPRegressor`.

        Raises
        ------
        ValueError
            For anything else, or a shape of another size than a row.
        """
        coefs = fitted(estimator, "coefs_", "a fitted MLPClassifier or MLPRegressor")
        n = estimator.n_features_in_
        if shape is not None and int(np.prod(shape)) != n:
            raise ValueError(f"shape: got {shape!r}; {n} features are needed")
        kernel = np.zeros((n, coefs[0].shape[1]))
        selected = getattr(estimator, "_selected", None)
        kernel[slice(None) if selected is None else selected] = coefs[0]
        return cls(kernel, shape, n_units).plot()

    def plot(self) -> Self:
        """Draw on a figure of its own."""
        import matplotlib.pyplot as plt

        order = np.argsort(-np.abs(self.kernel).sum(axis=0))[: self.n_units]
        limit = float(np.abs(self.kernel).max()) or 1.0
        if self.shape is None:
            self.figure_, ax = plt.subplots(layout="constrained")
            self.axes_ = [ax]
            images = [self.kernel[:, order]]
            ax.set(xlabel="unit", ylabel="feature")
        else:
            columns = int(np.ceil(np.sqrt(len(order))))
            rows = -(-len(order) // columns)
            self.figure_, axes = plt.subplots(
                rows,
                columns,
                figsize=(1.1 * columns + 1, 1.1 * rows),
                squeeze=False,
                layout="constrained",
            )
            self.axes_ = list(axes.flat)
            images = [self.kernel[:, unit].reshape(self.shape) for unit in order]
            for ax in self.axes_:
                ax.set_axis_off()
        for ax, image in zip(self.axes_, images, strict=False):
            shown = ax.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
            ax.set_aspect("auto" if self.shape is None else "equal")
        self.figure_.colorbar(shown, ax=self.axes_, label="weight")
        return self
