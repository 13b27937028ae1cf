"""Pictures, drawn with matplotlib without touching its global state or opening a window."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastreg.callbacks import LOSSES, PENALTIES, Callback, Logs
from fastreg.displays import fitted
from fastreg.errors import check_int, unknown_name
from fastreg.models import Sequential
from fastreg.paths import RegularizationPath, regularization_path
from fastreg.sparsity import SparsityReport, sparsity_report

Array = NDArray[Any]

# On inputs in [0, 1], 64 weights this small move a unit by 0.064 at most: none of them matters. The
# sign step of L1 never lands on zero itself, so "exactly zero" would count nothing.
NEAR_ZERO = 1e-3

BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart by all eyes (Okabe and Ito 2008)
INK, DIM, GREY, FAINT = "#222222", "#767676", "#9a9a9a", "#dddddd"


@dataclass(frozen=True)
class Portrait:
    """A trained dense layer, and the words that stand beside it in a picture.

    Parameters
    ----------
    name : str
        Of the regularizer.
    verdict : str
        What it does and when to use it, in one line.
    kernel : (n_in, n_out)
    bias : (n_out,)
    output : (n, n_out)
        y = f(x kernel + bias) for some rows x.
    note : str, optional
        A word more, at the end of the line.
    """

    name: str
    verdict: str
    kernel: Array
    bias: Array
    output: Array
    note: str = ""

    @property
    def near_zero(self) -> float:
        """Share of the kernel nearer to zero than `NEAR_ZERO`."""
        return _near_zero(self.kernel)

    @property
    def silent(self) -> float:
        """Share of the outputs that are exactly zero."""
        return float(np.mean(self.output == 0))

    @property
    def inputs_used(self) -> Array:
        """(n_in,) booleans: whether any unit has a weight on the input that is not near zero."""
        used: Array = np.any(np.abs(self.kernel) >= NEAR_ZERO, axis=1)
        return used


def _near_zero(weights: Array) -> float:
    return float(np.mean(np.abs(weights) < NEAR_ZERO))


# Inches. A page shows the picture about 900 pixels wide: an inch is 100 pixels, 8 points are 11.
WIDTH, HEAD, ROW, PANEL, FOOT = 9.0, 0.78, 0.98, 0.6, 0.47
UNITS = (0.12, 3.98)  # left and width of each column
INPUTS = (4.28, 0.6)
WEIGHTS = (5.3, 1.25)
BIASES = (6.88, 0.62)
OUTPUTS = (7.86, 1.02)

LEAST = 2e-4  # the smallest share that the histograms show


@dataclass(frozen=True)
class _Scales:
    """What all rows share: the units shown, and how far every axis goes."""

    units: Array
    colour: float
    weight: float
    input: float
    bias: float
    output: float

    @classmethod
    def of(cls, portraits: Sequence[Portrait], n_units: int) -> _Scales:
        def largest(values: Callable[[Portrait], Array]) -> float:
            return max(float(np.max(np.abs(values(p)))) for p in portraits) or 1.0

        norms = np.linalg.norm(portraits[0].kernel, axis=0)
        return cls(
            units=np.sort(np.argsort(-norms, kind="stable")[:n_units]),
            # A few weights are very large; up to them the colours would leave all others pale.
            colour=largest(lambda p: np.quantile(np.abs(p.kernel), 0.98)),
            weight=largest(lambda p: p.kernel),
            input=largest(lambda p: np.linalg.norm(p.kernel, axis=1)),
            bias=largest(lambda p: p.bias),
            output=largest(lambda p: p.output),
        )


def compare_regularizers(
    portraits: Sequence[Portrait],
    image_shape: tuple[int, int],
    *,
    title: str = "What each regularizer does → when to use it",
    n_units: int = 6,
) -> Any:
    """A picture of one layer as different regularizers left it, a row each.

    A row shows the incoming weights of some units as images, how much each input counts, and the
    distributions of the weights, the biases and the outputs, with those of the first row in grey.
    All rows show the same units on the same scales.

    Parameters
    ----------
    portraits : sequence of Portrait
        Of the same sizes; the first is the yardstick.
    image_shape : (height, width)
        The image that the inputs are the pixels of, row by row.
    title : str
    n_units : int, default 6
        How many units are shown: those with the largest weights in the first portrait.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there are no portraits, or shapes do not fit together.

    Examples
    --------
    >>> kernel = np.linspace(-1, 1, 12).reshape(4, 3)
    >>> plain = Portrait("none", "the yardstick", kernel, np.zeros(3), np.ones((5, 3)))
    >>> figure = compare_regularizers([plain], (2, 2))
    >>> len(figure.axes)
    5
    """
    from matplotlib.figure import Figure

    _check(portraits, image_shape)
    n_units = check_int("n_units", n_units, low=1)
    height = HEAD + ROW * len(portraits) + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    scales = _Scales.of(portraits, n_units)
    figure.text(
        UNITS[0] / WIDTH, 1 - 0.17 / height, title, **_TEXT | {"size": 11, "weight": "bold"}
    )
    _headings(figure, height, portraits[0].kernel.shape[1], len(scales.units))
    for number, portrait in enumerate(portraits):
        top = height - HEAD - number * ROW
        _rule(figure, top / height)
        line = (top - 0.15) / height
        figure.text(UNITS[0] / WIDTH, line, portrait.name, **_TEXT | {"weight": "bold"})
        figure.text(1.26 / WIDTH, line, portrait.verdict, **_TEXT)
        figure.text(1 - UNITS[0] / WIDTH, line, portrait.note, ha="right", **_TEXT)

        def panel(column: tuple[float, float], bottom: float = top - 0.28 - PANEL) -> Any:
            left, width = column
            axes = figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, PANEL / height))
            axes.tick_params(length=2, labelsize=6.5, pad=1.5, colors=INK, width=0.5)
            axes.spines[:].set_visible(False)
            return axes

        last = number == len(portraits) - 1
        _draw_units(panel(UNITS), portrait.kernel[:, scales.units], image_shape, scales.colour)
        _draw_inputs(panel(INPUTS), portrait, image_shape, scales.input)
        _draw_weights(panel(WEIGHTS), portrait, portraits[0], scales.weight, last)
        _draw_biases(panel(BIASES), portrait, portraits[0], scales.bias)
        _draw_outputs(panel(OUTPUTS), portrait, portraits[0], scales.output, last)
    return figure


_TEXT: dict[str, Any] = {"size": 8.5, "color": INK, "va": "center"}


def _check(portraits: Sequence[Portrait], image_shape: tuple[int, int]) -> None:
    if not portraits:
        raise ValueError("portraits: got none; one at least is needed")
    n_in, units = portraits[0].kernel.shape
    for each in portraits:
        shapes = (each.kernel.shape, each.bias.shape, each.output.shape[1:])
        if shapes != ((n_in, units), (units,), (units,)) or len(each.output) == 0:
            raise ValueError(
                f"portraits: {each.name!r} has a kernel {each.kernel.shape}, a bias "
                f"{each.bias.shape} and outputs {each.output.shape}; {(n_in, units)}, {(units,)} "
                f"and (n, {units}) are needed, as in the first"
            )
    if image_shape[0] * image_shape[1] != n_in:
        raise ValueError(f"image_shape: got {image_shape}; the kernel has {n_in} inputs")


def _headings(figure: Any, height: float, units: int, shown: int) -> None:
    for (left, _), text in (
        (UNITS, f"weights into {shown} of the {units} units\nblue < 0, white 0, red > 0"),
        (INPUTS, "weights on\neach input"),
        (WEIGHTS, "all weights,\nshares (log scale)"),
        (BIASES, "biases,\nsorted"),
        (OUTPUTS, "outputs on test\ndata, shares (log)"),
    ):
        y = 1 - 0.38 / height
        figure.text(left / WIDTH, y, text, size=8, color=INK, va="top", linespacing=1.2)
    figure.text(
        UNITS[0] / WIDTH,
        0.13 / height,
        f"≈ 0: nearer to zero than {NEAR_ZERO:g}.   silent: the output is 0.   "
        "orange ×: all weights on this input ≈ 0.   grey outline: the first row.",
        **_TEXT | {"size": 8},
    )


def _rule(figure: Any, y: float) -> None:
    from matplotlib.lines import Line2D

    x = [UNITS[0] / WIDTH, 1 - UNITS[0] / WIDTH]
    figure.add_artist(Line2D(x, [y, y], color=FAINT, linewidth=0.6, transform=figure.transFigure))


def _draw_units(axes: Any, columns: Array, shape: tuple[int, int], limit: float) -> None:
    """The columns (n_in, shown) as images side by side, a pixel between them."""
    rows, width = shape
    shown = columns.shape[1]
    strip = np.full((rows, shown * (width + 1) - 1), np.nan)
    for number in range(shown):
        first = number * (width + 1)
        strip[:, first : first + width] = columns[:, number].reshape(shape)
    axes.imshow(strip, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_anchor("W")
    for number in range(shown):
        _frame(axes, number * (width + 1) - 0.5, width, rows)
    axes.set_xlim(-0.6, strip.shape[1] - 0.4)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set(xticks=[], yticks=[])


def _draw_inputs(axes: Any, portrait: Portrait, shape: tuple[int, int], limit: float) -> None:
    norms = np.linalg.norm(portrait.kernel, axis=1).reshape(shape)
    axes.imshow(norms, cmap="Greys", vmin=0, vmax=limit, interpolation="nearest")
    axes.set_anchor("W")
    _frame(axes, -0.5, shape[1], shape[0])
    for row, column in np.argwhere(~portrait.inputs_used.reshape(shape)):
        axes.plot(column, row, marker="x", markersize=2.2, markeredgewidth=0.6, color=ORANGE)
    axes.set_xlim(-0.6, shape[1] - 0.4)
    axes.set_ylim(shape[0] - 0.4, -0.6)
    axes.set(xticks=[], yticks=[])


def _frame(axes: Any, left: float, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((left, -0.5), width, height, fill=False, edgecolor=GREY, linewidth=0.5)
    )


def _draw_weights(axes: Any, portrait: Portrait, first: Portrait, limit: float, last: bool) -> None:
    edges = np.linspace(-limit, limit, 42)
    _histogram(axes, portrait.kernel, first.kernel, edges, portrait.near_zero, last)
    _share(axes, "top", portrait.near_zero, "≈ 0")


def _draw_outputs(axes: Any, portrait: Portrait, first: Portrait, limit: float, last: bool) -> None:
    low = -limit if min(portrait.output.min(), first.output.min()) < 0 else 0.0
    edges = np.linspace(low, limit, 32)
    _histogram(axes, portrait.output, first.output, edges, portrait.silent, last)
    _share(axes, "top", portrait.silent, "silent")


def _share(axes: Any, corner: str, share: float, what: str) -> None:
    """The share in words in a panel's right corner, loud if there is something to tell."""
    axes.text(
        1.0,
        1.0 if corner == "top" else 0.0,
        f"{share:.0%} {what}",
        transform=axes.transAxes,
        size=8,
        weight="bold" if share >= 0.1 else "normal",
        color=ORANGE if share >= 0.1 else DIM,
        va=corner,
        ha="right",
    )


def _histogram(
    axes: Any, values: Array, first: Array, edges: Array, zeros: float, last: bool
) -> None:
    """Shares of the values, those of the first row as a grey line, the zeros as an orange bar."""
    width = edges[1] - edges[0]
    for array, style in (
        (values, {"color": BLUE, "fill": True, "alpha": 0.85}),
        (first, {"color": GREY, "linewidth": 0.8}),
    ):
        counts, _ = np.histogram(array[array != 0], edges)
        axes.stairs(counts / array.size, edges, baseline=LEAST, **style)
    axes.bar(0, zeros, width, color=ORANGE)
    axes.set_yscale("log")
    axes.set(xlim=(edges[0] - width, edges[-1]), ylim=(LEAST, 1.5), yticks=[1e-3, 1e-2, 1e-1, 1])
    axes.set_yticklabels(["", "1%", "", "100%"])
    axes.minorticks_off()
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set(visible=True, linewidth=0.5)
    if not last:
        axes.tick_params(labelbottom=False)


def _draw_biases(axes: Any, portrait: Portrait, first: Portrait, limit: float) -> None:
    places = np.arange(len(portrait.bias))
    axes.step(places, np.sort(first.bias), where="mid", color=GREY, linewidth=0.8)
    axes.bar(places, np.sort(portrait.bias), width=1.0, color=BLUE)
    axes.axhline(0, color=INK, linewidth=0.5)
    axes.set(xlim=(-1, len(places)), ylim=(-1.05 * limit, 1.05 * limit), xticks=[])
    axes.locator_params(axis="y", nbins=3)
    _share(axes, "bottom", _near_zero(portrait.bias), "≈ 0")


@dataclass(frozen=True)
class Thinned:
    """What one strength left of a network whose inputs are pixels, then as many of noise.

    Parameters
    ----------
    strength : float
        Of the penalty on the first kernel.
    accuracy : float
        In [0, 1].
    importance : (n_in,)
        Norm of the weights of each input; 0: nobody reads it.
    n_units, n_units_before : int
        Hidden units that are left, and that were there.
    density : float
        Share of the dense network's weights that are not 0.
    costs : name -> number
        Of what is left, once it is compact: parameters, seconds.
    """

    strength: float
    accuracy: float
    importance: Array
    n_units: int
    n_units_before: int
    density: float
    costs: Mapping[str, float]

    @property
    def n_pixels(self) -> int:
        """Pixels that are read."""
        return int(np.count_nonzero(self.importance[: len(self.importance) // 2]))

    @property
    def n_noise(self) -> int:
        """Inputs of noise that are read."""
        return int(np.count_nonzero(self.importance[len(self.importance) // 2 :]))


def thinning(
    dense: Thinned,
    thinned: Mapping[str, Sequence[Thinned]],
    image_shape: tuple[int, int],
    *,
    title: str = "The more regularized, the faster: what is left of a network",
) -> Any:
    """A picture of networks under growing penalties: what each reads, and what it costs.

    Parameters
    ----------
    dense : Thinned
        The network without one.
    thinned : penalty -> networks under growing strengths of it
        A row of the picture each, and a panel below.
    image_shape : (height, width)
        Of the pixels, and of the noise beside them.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> dense = Thinned(0.0, 0.9, np.ones(8), 4, 4, 1.0, {"parameters": 60.0})
    >>> left = np.array([1.0, 0, 1, 1, 0, 0, 0, 0])
    >>> thin = Thinned(0.1, 0.9, left, 2, 4, 0.2, {"parameters": 20.0})
    >>> thin.n_pixels, thin.n_noise
    (3, 0)
    >>> figure = thinning(dense, {"L1": [thin]}, (2, 2))
    >>> len(figure.axes)
    5
    """
    from matplotlib.figure import Figure

    height = 2.9 + 1.65 * len(thinned)
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    figure.text(0.013, 1 - 0.16 / height, title, **_TEXT | {"size": 11, "weight": "bold"})
    figure.text(
        0.013,
        1 - 0.39 / height,
        "Inputs it reads, blue: 64 pixels of a digit, orange: 64 inputs of noise; white: dropped",
        **_TEXT,
    )
    n = 1 + max(map(len, thinned.values()))
    left, width = 0.02, 0.97 / n
    for row, (penalty, networks) in enumerate(thinned.items()):
        top = 1 - (0.75 + 1.65 * row) / height
        for number, network in enumerate([*([dense] if row == 0 else []), *networks]):
            column = number + (row > 0)
            name = f"{penalty} {network.strength:g}" if network is not dense else "dense"
            middle = left + (column + 0.48) * width
            bold = {"ha": "center", "size": 8, "weight": "bold"}
            figure.text(middle, top + 0.06 / height, name, **_TEXT | bold)
            _draw_read(figure, network, image_shape, left + column * width, top, width, height)
    span = 0.97 / len(thinned)
    for number, (penalty, networks) in enumerate(thinned.items()):
        place = (0.055 + number * span, 0.48 / height, span - 0.055, 1.75 / height)
        _draw_costs(figure.add_axes(place), penalty, [dense, *networks], number == 0)
    return figure


def _draw_read(
    figure: Any,
    network: Thinned,
    image_shape: tuple[int, int],
    left: float,
    top: float,
    width: float,
    height: float,
) -> None:
    """The two images of a network with their text below, from `top` down."""
    from matplotlib.colors import LinearSegmentedColormap

    half = image_shape[0] * image_shape[1]
    strongest = float(network.importance.max()) or 1.0
    for part, colour in enumerate((BLUE, ORANGE)):
        place = (left + (0.04 + 0.45 * part) * width, top - 0.72 / height, 0.43 * width)
        axes = figure.add_axes((*place, 0.7 / height))
        values = network.importance[part * half : (part + 1) * half].reshape(image_shape)
        shades = LinearSegmentedColormap.from_list("", ["white", colour])
        shown = np.where(values > 0, 0.2 + 0.8 * np.sqrt(values / strongest), 0)
        axes.imshow(shown, cmap=shades, vmin=0, vmax=1)
        axes.set_anchor("E" if part == 0 else "W")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(FAINT)
    text = (
        f"{network.n_pixels} + {network.n_noise} inputs\n"
        f"{network.n_units} of {network.n_units_before} units\n"
        f"accuracy {network.accuracy:.1%}"
    )
    below = {"ha": "center", "va": "top", "size": 7.5}
    figure.text(left + 0.48 * width, top - 0.77 / height, text, **_TEXT | below)


_DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001)


def _draw_costs(axes: Any, penalty: str, networks: Sequence[Thinned], legend: bool) -> None:
    """Costs and accuracy over density, as shares of those of the first."""
    dense = networks[0]
    densities = [network.density for network in networks]
    shares = {
        name: [network.costs[name] / dense.costs[name] for network in networks]
        for name in dense.costs
    }
    for (name, values), colour in zip(shares.items(), (INK, BLUE, ORANGE, "#CC79A7"), strict=False):
        axes.plot(densities, values, marker="o", markersize=4, color=colour, lw=1.5, label=name)
    accuracy = [network.accuracy / dense.accuracy for network in networks]
    axes.plot(densities, accuracy, color=GREY, lw=1.2, ls="--", label="accuracy")
    axes.set_xscale("log")
    axes.set_xlim(1.15 * max(densities), min(densities) / 1.15)
    ticks = [tick for tick in _DENSITIES if min(densities) / 1.15 < tick < 1.15 * max(densities)]
    axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.08 * max(max(values) for values in shares.values()))
    axes.set_title(f"under {penalty}", size=8.5, color=INK, loc="left")
    axes.set_xlabel("weights that are not 0", size=8)
    if legend:
        axes.set_ylabel("of the dense network", size=8)
        axes.legend(frameon=False, fontsize=7.5, loc="lower left")
    axes.tick_params(length=2, labelsize=7.5, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------ displays, as scikit-learn has them


def _axes(ax: Any) -> tuple[Any, Any]:
    """(figure, axes) to draw on: those of `ax`, or new ones that no window shows."""
    from matplotlib.figure import Figure

    if ax is not None:
        return ax.figure, ax
    figure = Figure(figsize=(7.0, 4.0), facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def _feature_names(given: Sequence[str] | None, n: int) -> list[str]:
    names = [f"input {i}" for i in range(n)] if given is None else [str(name) for name in given]
    if len(names) != n:
        raise ValueError(f"feature_names: got {len(names)} names; {n} are needed, one a column")
    return names


class RegularizationPathDisplay:
    """What each input counts under every strength of L1: a line an input, log axis of strengths.

    For a model of one Dense layer with one output the lines are its coefficients, else the norms of
    the first kernel's rows. Scores, where there are some, stand on an axis of their own, with the
    best strength marked.

    Parameters
    ----------
    path : RegularizationPath
    feature_names : list of str, optional
        None takes those of the path, or numbers.
    chosen : int, optional
        Index of the strength to mark. None: that of the best score.

    Attributes
    ----------
    ax_, figure_ : where `plot` has drawn
    lines_ : the lines of the inputs
    score_ax_ : the axis of the scores, or None

    Examples
    --------
    >>> import fastreg as fr
    >>> dense = fr.Dense(1, kernel_regularizer="l1")
    >>> model = fr.Sequential([fr.Input((3,), dtype="float64"), dense])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> display = fr.RegularizationPathDisplay.from_model(model, x, x[:, 0], n=5, verbose=0)
    >>> len(display.lines_), display.ax_.get_xscale()
    (3, 'log')
    """

    def __init__(
        self,
        path: RegularizationPath,
        *,
        feature_names: Sequence[str] | None = None,
        chosen: int | None = None,
    ) -> None:
        self.path, self.chosen = path, chosen
        names = path.feature_names if feature_names is None else feature_names
        self.feature_names = _feature_names(names, path.importances.shape[1])

    @classmethod
    def from_path(
        cls,
        path: RegularizationPath,
        *,
        feature_names: Sequence[str] | None = None,
        ax: Any = None,
        n_labels: int = 8,
    ) -> Self:
        """Draw a path."""
        return cls(path, feature_names=feature_names).plot(ax, n_labels=n_labels)

    @classmethod
    def from_model(
        cls,
        model: Sequential,
        x: ArrayLike,
        y: ArrayLike,
        *,
        feature_names: Sequence[str] | None = None,
        ax: Any = None,
        n_labels: int = 8,
        **options: Any,
    ) -> Self:
        """Compute the path, with the `options` of `regularization_path`, and draw it."""
        path = regularization_path(model, x, y, **options)
        return cls.from_path(path, feature_names=feature_names, ax=ax, n_labels=n_labels)

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, n_labels: int = 8) -> Self:
        """Draw the path of a fitted `MLPClassifierCV` or `MLPRegressorCV`, its choice marked.

        Raises
        ------
        ValueError
            For anything else.
        """
        path = fitted(estimator, "path_", "a fitted MLPClassifierCV or MLPRegressorCV")
        found = cls(path, chosen=estimator.best_index_)
        return found.plot(ax, n_labels=n_labels)

    def plot(self, ax: Any = None, *, n_labels: int = 8) -> Self:
        """Draw on `ax`, or on a figure of its own; name the `n_labels` inputs that stay longest."""
        n_labels = check_int("n_labels", n_labels, low=0)
        path = self.path
        self.figure_, self.ax_ = _axes(ax)
        values, what = path.importances, "norm of an input's weights"
        try:
            if path.coefficients.shape[2] == 1:
                values, what = path.coefficients[:, :, 0], "coefficient"
        except AttributeError:  # a deeper network
            pass
        alive = path.strengths > 0
        strengths, values = path.strengths[alive], values[alive]
        survival = path.selected_inputs.sum(axis=0) + path.importances.max(axis=0) / (
            path.importances.max() or 1.0
        )
        named = [i for i in np.argsort(-survival, kind="stable")[:n_labels] if values[:, i].any()]
        colours = dict(zip(named, _LINES * (1 + n_labels // len(_LINES)), strict=False))
        self.lines_ = []
        for i, name in enumerate(self.feature_names):
            style = {"color": colours.get(i, FAINT), "lw": 1.5 if i in colours else 0.8}
            style |= {"label": name} if i in colours else {}
            style["zorder"] = 2 if i in colours else 1
            self.lines_ += self.ax_.plot(strengths, values[:, i], **style)
        self.ax_.set_xscale("log")
        self.ax_.invert_xaxis()
        self.ax_.set_xlabel("strength of the penalty (less to the right)")
        self.ax_.set_ylabel(what)
        self.ax_.axhline(0, color=GREY, lw=0.6, zorder=0)
        self.ax_.spines[["top"]].set_visible(False)
        self.score_ax_ = None
        scores = path.scores
        handles, _ = self.ax_.get_legend_handles_labels()
        if scores is not None:
            self.score_ax_ = self.ax_.twinx()
            (line,) = self.score_ax_.plot(
                strengths, scores[alive], color=INK, lw=1.2, ls="--", label="score (right)"
            )
            handles.append(line)
            spread = path.scores_std
            assert spread is not None
            if spread.any():
                low, high = (scores - spread)[alive], (scores + spread)[alive]
                self.score_ax_.fill_between(strengths, low, high, color=INK, alpha=0.08, lw=0)
            marked, label = self.chosen, "chosen"
            if marked is None:
                marked, label = path.best_index, "best score"
            if path.strengths[marked] > 0:
                place = path.strengths[marked]
                handles.append(self.ax_.axvline(place, color=INK, lw=0.8, ls=":", label=label))
            self.score_ax_.set_ylabel("score")
            self.score_ax_.spines[["top"]].set_visible(False)
        else:
            self.ax_.spines[["right"]].set_visible(False)
        if handles:
            place = {
                "loc": "center left",
                "bbox_to_anchor": (1.17 if scores is not None else 1, 0.5),
            }
            self.ax_.legend(handles=handles, frameon=False, fontsize=8, **place)
        return self


class SparsityDisplay:
    """A bar a layer: weights that are not 0, zeros that stay, and what `compact` takes away.

    Parameters
    ----------
    report : SparsityReport
        Of `sparsity_report`.

    Attributes
    ----------
    ax_, figure_ : where `plot` has drawn
    bars_ : list of the three kinds' bars

    Examples
    --------
    >>> import fastreg as fr
    >>> model = fr.Sequential([fr.Input((2,)), fr.Dense(2)])
    >>> model.set_weights([[[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0]])
    >>> display = fr.SparsityDisplay.from_model(model)
    >>> [float(bars[0].get_width()) for bars in display.bars_]
    [25.0, 25.0, 50.0]
    """

    def __init__(self, report: SparsityReport) -> None:
        self.report = report

    @classmethod
    def from_report(cls, report: SparsityReport, *, ax: Any = None) -> Self:
        """Draw what `sparsity_report` has returned."""
        return cls(report).plot(ax)

    @classmethod
    def from_model(cls, model: Sequential, *, ax: Any = None) -> Self:
        """Count a model's zeros and draw them."""
        return cls.from_report(sparsity_report(model), ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw on `ax`, or on a figure of its own."""
        layers = self.report["layers"]
        self.figure_, self.ax_ = _axes(ax)
        if ax is None:
            self.figure_.set_size_inches(7.0, 1.4 + 0.55 * len(layers))
        kinds = np.array([self._shares(layer) for layer in layers]).T
        places = np.arange(len(layers))
        left = np.zeros(len(layers))
        self.bars_ = []
        looks = (
            ("not 0", BLUE, None),
            ("0, stays", FAINT, None),
            ("compact takes it", "white", "///"),
        )
        for shares, (label, colour, hatch) in zip(kinds, looks, strict=True):
            edge = GREY if hatch else "white"
            self.bars_.append(
                self.ax_.barh(
                    places,
                    shares,
                    0.62,
                    left,
                    color=colour,
                    hatch=hatch,
                    edgecolor=edge,
                    linewidth=0.5,
                    label=label,
                )
            )
            left += shares
        labels = []
        for layer in layers:
            before, after = ("x".join(map(str, layer[key])) for key in ("shape", "compact_shape"))
            arrow = f"{before} → {after}" if before != after else before
            labels.append(f"{layer['name']}\n{arrow}")
        self.ax_.set_yticks(places, labels)
        self.ax_.invert_yaxis()
        self.ax_.set_xlim(0, 100)
        self.ax_.set_xlabel("% of the kernel")
        self.ax_.spines[["top", "right", "left"]].set_visible(False)
        self.ax_.tick_params(axis="y", length=0)
        self.ax_.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)
        return self

    @staticmethod
    def _shares(layer: dict[str, Any]) -> tuple[float, float, float]:
        size = layer["shape"][0] * layer["shape"][1]
        left = layer["compact_shape"][0] * layer["compact_shape"][1]
        stays = layer["compact_nonzeros"]
        return 100 * stays / size, 100 * (left - stays) / size, 100 * (size - left) / size


_LINES = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5B3A8C")


def check_output(path: Path) -> None:
    """Raise unless a picture can be written to `path`.

    Raises
    ------
    ValueError
        For a suffix that matplotlib does not write; the nearest one is suggested.
    OSError
        If the folder does not exist, `path` is one, or it may not be written.

    Examples
    --------
    >>> check_output(Path("picture.png"))
    """
    from matplotlib.backend_bases import FigureCanvasBase

    suffixes = [f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()]
    if path.suffix.lower() not in suffixes:
        raise unknown_name("output", path.suffix or str(path), suffixes)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"output: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"output: {str(path)!r} is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"output: {str(path)!r} may not be written")


def save(figure: Any, path: Path) -> None:
    """Write `figure` to `path`, whole or not at all; 200 pixels an inch."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower(), dpi=200)
    path.write_bytes(drawn.getvalue())


class ProgressPlot(Callback):
    """Draw loss, penalties and sparsity while a model is fitted: in a notebook, or to a file.

    Parameters
    ----------
    path : str or path, optional
        A picture file, drawn anew each time; None draws in the notebook's cell.
    every : int, default 1
        Epochs from one drawing to the next; the last epoch is always drawn.

    Attributes
    ----------
    figure : matplotlib.figure.Figure or None
        As last drawn.

    Raises
    ------
    ValueError
        For a `path` that is no picture's; in `fit`, without one outside of a notebook.

    Examples
    --------
    >>> ProgressPlot("progress.png", every=5).every
    5
    """

    remembers = ("logs", "zeros")

    def __init__(self, path: str | os.PathLike[str] | None = None, every: int = 1) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check_output(self.path)
        self.every = check_int("every", every, low=1)
        self.figure: Any = None
        self._display: Any = None
        self._drawn = True
        self._forget()

    def _forget(self) -> None:
        self.logs: dict[str, list[list[float]]] = {}  # name -> [epoch from 1, value]s
        self.zeros: dict[str, list[list[float]]] = {}  # kernel -> [epoch from 1, share of zeros]s

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.path is None and not _in_notebook():
            raise ValueError("path: got None outside of a notebook; a picture file is needed")
        self._forget()
        self._display, self._drawn = None, True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name, value in (logs or {}).items():
            self.logs.setdefault(name, []).append([epoch + 1, value])
        for layer in self.model.layers:
            kernels = [w for w in layer.get_weights() if w.ndim == 2]
            for kernel in kernels:
                share = float(np.mean(kernel == 0))
                self.zeros.setdefault(layer.name, []).append([epoch + 1, share])
        self._drawn = (epoch + 1) % self.every == 0
        if self._drawn:
            self._draw()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if not self._drawn:
            self._draw()

    def _draw(self) -> None:
        self.figure = plot_progress(self.logs, self.zeros)
        if self.path is not None:
            save(self.figure, self.path)
        elif self._display is None:
            from IPython.display import display

            self._display = display(self.figure, display_id=True)
        else:
            self._display.update(self.figure)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


Curve = Sequence[Sequence[float]]  # of (epoch, value)

WONG = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", INK)


def plot_progress(logs: Mapping[str, Curve], zeros: Mapping[str, Curve]) -> Any:
    """A picture of a fit: losses, metrics, penalties, and the share of zeros of each kernel.

    Panels that would be empty are left out; what is validated is dashed.

    Parameters
    ----------
    logs : dict of str to list of (epoch from 1, value)
        The keys are those of `History.history`.
    zeros : dict of str to list of (epoch from 1, share)
        By the name of the layer.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> figure = plot_progress({"loss": [(1, 2.0), (2, 1.0)]}, {"dense": [(1, 0.0), (2, 0.5)]})
    >>> [axes.get_title("left") for axes in figure.axes]
    ['loss', 'zeros in the kernel']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def some(names: Sequence[str]) -> dict[str, Curve]:
        return {name: logs[name] for name in names if name in logs}

    penalized = any(value for name in PENALTIES for _, value in logs.get(name, []))
    losses = ["loss", "val_loss", *(["data_loss"] if penalized else [])]
    own = [name for name in logs if name.removeprefix("val_") not in LOSSES]
    penalties = [name for name in PENALTIES if any(value for _, value in logs.get(name, []))]
    sparse = any(share for curve in zeros.values() for _, share in curve)
    panels: dict[str, Mapping[str, Curve]] = {
        "loss": some(losses),
        "metrics": some(own),
        "penalties": some(penalties),
        "zeros in the kernel": zeros if sparse else {},
    }
    panels = {title: curves for title, curves in panels.items() if curves}
    figure = Figure(figsize=(3.2 * max(len(panels), 1), 2.7), facecolor="white")
    for number, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        axes.set_title(title, size=9, color=INK, loc="left")
        colours: dict[str, str] = {}
        for name, curve in curves.items():
            plain = name.removeprefix("val_")
            colour = colours.setdefault(plain, WONG[len(colours) % len(WONG)])
            epochs, values = np.array(curve, dtype=float).T
            style = "--" if name.startswith("val_") else "-"
            marker = "." if len(epochs) == 1 else ""
            words = name.replace("_", " ").removesuffix(" penalty")
            axes.plot(
                *(epochs, values, style),
                marker=marker,
                color=colour,
                label=name if curves is zeros else words,
                linewidth=1.2,
            )
        axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("epoch", size=8, color=INK)
        axes.tick_params(labelsize=7, colors=INK, length=2, width=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_color(GREY)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title.startswith("zeros"):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylim(-0.02, 1)
    figure.tight_layout()
    return figure
