"""What the displays draw is what the estimators hold."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

mpl.use("Agg")

from fastreg.displays import LossCurveDisplay, WeightsDisplay
from fastreg.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 6))


@pytest.fixture(autouse=True)
def close():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_loss_curve():
    model = MLPRegressor(hidden_layer_sizes=4, max_iter=7, early_stopping=True)
    model.fit(X, X[:, 0])
    shown = LossCurveDisplay.from_estimator(model)
    losses, validation = (line.get_ydata() for line in shown.ax_.lines)
    np.testing.assert_array_equal(losses, model.loss_curve_)
    np.testing.assert_array_equal(validation, model.validation_curve_)
    (scores,) = shown.figure_.axes[1].lines
    np.testing.assert_array_equal(scores.get_ydata(), model.validation_scores_)
    again = shown.plot(ax=shown.ax_)
    assert again is shown and len(shown.ax_.lines) == 4
    with pytest.raises(NotFittedError, match="loss_curve_"):
        LossCurveDisplay.from_estimator(MLPRegressor())


@pytest.mark.parametrize("shape", [None, (2, 3)])
def test_weights(shape):
    model = MLPClassifier(5, max_iter=3).fit(X, X[:, 0] > 0)
    shown = WeightsDisplay.from_estimator(model, shape=shape, n_units=4)
    first = shown.axes_[0].images[0].get_array()
    assert first.shape == (shape or (6, 4))
    order = np.argsort(-np.abs(model.coefs_[0]).sum(axis=0))
    np.testing.assert_array_equal(
        np.ravel(first.T if shape is None else first)[:6], model.coefs_[0][:, order[0]]
    )
    with pytest.raises(ValueError, match="shape: got"):
        WeightsDisplay.from_estimator(model, shape=(2, 2))
