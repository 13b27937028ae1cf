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


def _need(estimator: Any, attribute: str, what: str) -> Any:
    if not hasattr(estimator, attribute):
        raise ValueError(f"estimator: {estimator!r} has no {attribute}; {what} is needed")
    return getattr(estimator, attribute)


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
        losses = _need(estimator, "loss_curve_", "one fitted with 'sgd' or 'adam'")
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


class RegularizationPathDisplay:
    """Mean scores over the strength of L1 with their standard errors, and the features left.

    Parameters
    ----------
    l1s : (n,) rising
    scores : (n, n_folds)
    l1 : the strength chosen
    n_features : (n,) how many features are read along the path

    Examples
    --------
    >>> RegularizationPathDisplay(np.array([0.1]), np.array([[1.0, 0.5]]), 0.1, [3]).l1
    0.1
    """

    def __init__(self, l1s: Array, scores: Array, l1: float, n_features: Any) -> None:
        self.l1s = l1s
        self.scores = scores
        self.l1 = l1
        self.n_features = n_features

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw a fitted `MLPClassifierCV` or `MLPRegressorCV`.

        Raises
        ------
        ValueError
            For anything else.
        """
        path = _need(estimator, "path_", "a fitted MLPClassifierCV or MLPRegressorCV")
        n_features = [step["n_features"] for step in path]
        return cls(estimator.l1s_, estimator.scores_, estimator.l1_, n_features).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw on `ax`, or on axes of its own."""
        self.ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        means = self.scores.mean(axis=1)
        error = self.scores.std(axis=1, ddof=1) / np.sqrt(self.scores.shape[1])
        self.ax_.errorbar(self.l1s, means, error, marker="o", capsize=3, color="C0")
        self.ax_.axvline(self.l1, color="0.6", ls="--", lw=1, zorder=0)
        smallest = min((l1 for l1 in self.l1s if l1 > 0), default=1.0)
        self.ax_.set_xscale("symlog", linthresh=smallest)  # 0 has its place
        self.ax_.set(xlabel="l1", title=f"chosen: {self.l1:.3g}")
        self.ax_.set_ylabel("score (mean of folds and its standard error)", color="C0")
        features = self.ax_.twinx()
        features.plot(self.l1s, self.n_features, "s:", color="C1", ms=4)
        features.set_ylim(bottom=0)
        features.set_ylabel("features read (dotted)", color="C1")
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
        coefs = _need(estimator, "coefs_", "a fitted MLPClassifier or MLPRegressor")
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
