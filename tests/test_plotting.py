"""The picture: its panels, what it counts, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import fastreg as fr
from fastreg import plotting
from fastreg.estimators import MLPRegressor, MLPRegressorCV
from fastreg.plotting import NEAR_ZERO, Portrait, compare_regularizers


def portrait(rng, name="L1", *, n_in=6, units=5, rows=7, scale=1.0):
    kernel = scale * rng.normal(size=(n_in, units))
    bias = scale * rng.normal(size=units)
    return Portrait(
        name, "a verdict", kernel, bias, np.maximum(rng.normal(size=(rows, units)), 0), "a note"
    )


def words(figure):
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_shares():
    kernel = np.array([[0.0, 0.5 * NEAR_ZERO], [-0.5 * NEAR_ZERO, -0.5], [1.0, NEAR_ZERO]])
    output = np.array([[0.0, 1e-9], [0.0, -1.0], [0.0, 2.0], [1.0, 1.0]])
    found = Portrait("", "", kernel, np.zeros(2), output)
    assert found.near_zero == 0.5
    assert found.silent == 3 / 8
    assert found.inputs_used.tolist() == [False, True, True]


def test_a_row_of_panels_for_each_portrait(rng):
    figure = compare_regularizers([portrait(rng, "none"), portrait(rng, "L1")], (2, 3))
    assert len(figure.axes) == 2 * 5
    for text in ("none", "L1", "a verdict", "a note"):
        assert text in words(figure)
    first, second = figure.axes[:5], figure.axes[5:]
    for above, below in zip(first, second, strict=True):
        assert above.get_xlim() == below.get_xlim()
        assert above.get_ylim() == below.get_ylim()
        assert above.get_position().y0 > below.get_position().y1


def test_units_of_largest_norm_are_shown_with_zero_in_the_middle(rng):
    kernel = np.full((6, 3), 0.1)
    kernel[:, 2], kernel[4, 0] = 1.0, -0.5
    one = Portrait("", "", kernel, np.zeros(3), np.ones((2, 3)))
    image = compare_regularizers([one], (2, 3), n_units=2).axes[0].images[0]
    strip = image.get_array().filled(np.nan)  # the columns of units 0 and 2, a gap between
    np.testing.assert_array_equal(strip[:, :3], kernel[:, 0].reshape(2, 3))
    np.testing.assert_array_equal(strip[:, 4:], kernel[:, 2].reshape(2, 3))
    assert np.isnan(strip[:, 3]).all()
    low, high = image.get_clim()
    assert low == -high < 0


def test_shares_stand_in_the_picture(rng):
    one = portrait(rng)
    one.kernel[:3] = 0
    one.bias[:2] = 0
    assert {"50% ≈ 0", "40% ≈ 0", f"{one.silent:.0%} silent"} <= set(
        words(compare_regularizers([one], (2, 3)))
    )
    crosses = compare_regularizers([one], (2, 3)).axes[1].lines
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]


@pytest.mark.parametrize(
    "units, rows, scale", [(1, 1, 1.0), (40, 3, 1e-6), (3, 50, 0.0), (2, 2, 1e6)]
)
def test_any_size_is_drawn_without_a_warning(rng, tmp_path, recwarn, units, rows, scale):
    portraits = [portrait(rng, units=units, rows=rows, scale=scale) for _ in range(2)]
    path = tmp_path / "picture.png"
    plotting.save(compare_regularizers(portraits, (3, 2)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [str(warning.message) for warning in recwarn] == []


def test_negative_outputs_get_room(rng):
    one = Portrait("tanh", "", np.eye(2), np.zeros(2), np.array([[-0.5, 0.5]]))
    low, high = compare_regularizers([one], (1, 2)).axes[4].get_xlim()
    assert low < -0.5 < 0.5 <= high


def test_text_does_not_overlap(rng):
    """Words of the row above each other's panels, in the size the demo draws."""
    from fastreg.demo import SETTINGS

    portraits = [
        Portrait(s.name, s.verdict, p.kernel, p.bias, p.output, "test accuracy 100.0%")
        for s in SETTINGS
        for p in [portrait(rng, n_in=64, units=32)]
    ]
    figure = compare_regularizers(portraits, (8, 8))
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    width, height = figure.get_size_inches() * figure.dpi
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        for other in boxes[number + 1 :]:
            assert not box.overlaps(other)


def test_matplotlibs_state_is_left_alone(rng):
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    compare_regularizers([portrait(rng)], (2, 3))
    assert dict(matplotlib.rcParams) == before
    assert not _pylab_helpers.Gcf.figs


def test_bad_portraits(rng):
    good = portrait(rng)
    with pytest.raises(ValueError, match="portraits: got none"):
        compare_regularizers([], (2, 3))
    with pytest.raises(ValueError, match=r"image_shape: got .2, 2.; the kernel has 6 inputs"):
        compare_regularizers([good], (2, 2))
    with pytest.raises(ValueError, match=r"portraits: 'other' has a kernel .6, 4."):
        compare_regularizers([good, portrait(rng, "other", units=4)], (2, 3))
    with pytest.raises(ValueError, match="portraits: 'empty'"):
        compare_regularizers([portrait(rng, "empty", rows=0)], (2, 3))
    with pytest.raises(ValueError, match="n_units: got 0"):
        compare_regularizers([good], (2, 3), n_units=0)


def test_output_is_checked(tmp_path):
    plotting.check_output(tmp_path / "new.svg")
    with pytest.raises(ValueError, match=r"output: got '\.pgn'.*Did you mean '\.png'"):
        plotting.check_output(tmp_path / "picture.pgn")
    with pytest.raises(ValueError, match="output: got"):
        plotting.check_output(tmp_path / "picture")
    with pytest.raises(FileNotFoundError, match="no folder"):
        plotting.check_output(tmp_path / "missing" / "picture.png")
    folder = tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        plotting.check_output(folder)


def test_a_picture_that_fails_leaves_the_old_one(rng, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_text("old")
    figure = compare_regularizers([portrait(rng)], (2, 3))
    monkeypatch.setattr(figure, "savefig", lambda file, **_: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        plotting.save(figure, path)
    assert path.read_text() == "old"


# ------------------------------------------------ displays


def small_path(**options):
    x = np.random.default_rng(0).normal(size=(60, 4))
    layers = [fr.Input((4,), dtype="float64"), fr.Dense(1, kernel_regularizer="l1")]
    model = fr.Sequential(layers)
    model.compile("sgd", "mse")
    return fr.regularization_path(model, x, x @ [2.0, -1, 0, 0], n=6, verbose=0, **options)


def test_path_display():
    path = small_path(cv=3)
    display = fr.RegularizationPathDisplay.from_path(path, feature_names=list("abcd"), n_labels=2)
    assert display.ax_.get_xscale() == "log" and display.ax_.xaxis_inverted()
    for i, line in enumerate(display.lines_):
        np.testing.assert_array_equal(line.get_xdata(), path.strengths)
        np.testing.assert_array_equal(line.get_ydata(), path.coefficients[:, i, 0])
    words = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert words == ["a", "b", "score (right)", "best score"]
    np.testing.assert_array_equal(display.score_ax_.lines[0].get_ydata(), path.scores)


def test_path_display_on_given_axes_and_without_scores():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    display = fr.RegularizationPathDisplay.from_path(small_path(), ax=ax, n_labels=0)
    assert display.ax_ is ax and display.figure_ is ax.figure and display.score_ax_ is None
    assert ax.get_legend() is None
    with pytest.raises(ValueError, match="feature_names: got 2 names; 4"):
        fr.RegularizationPathDisplay(small_path(), feature_names=["a", "b"])


def test_the_path_of_an_estimator():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    plain = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs")
    with pytest.raises(ValueError, match="a fitted MLPClassifierCV or MLPRegressorCV"):
        fr.RegularizationPathDisplay.from_estimator(plain)
    model = MLPRegressorCV(plain, l1s=[0.0, 0.01, 0.1], cv=3, rule="one_standard_error")
    model.fit(x, x[:, 0] + x[:, 1] + rng.normal(size=60))
    assert model.l1_ == 0.1
    display = fr.RegularizationPathDisplay.from_estimator(model)
    first = display.lines_[0]
    np.testing.assert_array_equal(first.get_xdata(), [0.1, 0.01])  # 0 has no logarithm
    np.testing.assert_allclose(first.get_ydata(), model.path_.coefficients[:2, 0, 0])
    (scores,) = display.score_ax_.lines
    np.testing.assert_array_equal(scores.get_ydata(), model.scores_.mean(axis=1)[:2])
    (marked,) = [line for line in display.ax_.lines if line.get_label() == "chosen"]
    assert marked.get_xdata()[0] == model.l1_


def test_sparsity_display():
    model = fr.Sequential([fr.Input((4,)), fr.Dense(5, "relu", name="first"), fr.Dense(2)])
    weights = model.get_weights()
    weights[0][:, :2] = 0
    weights[0][0, 2] = 0
    model.set_weights(weights)
    display = fr.SparsityDisplay.from_report(fr.sparsity_report(model))
    widths = np.array([[bar.get_width() for bar in bars] for bars in display.bars_])
    np.testing.assert_allclose(widths, [[55, 60], [5, 0], [40, 40]])
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels[0] == "first\n4x5 → 4x3"


def test_import_needs_no_matplotlib():
    assert "matplotlib" not in vars(sys.modules["fastreg.plotting"])
    assert Path(plotting.__file__).name == "plotting.py"
