"""Pictures that judge a fit: residuals, the starts, and how parameters depend."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from simkit.plots import style
from simkit.plots.words import counted, plain, reasons, with_unit
from simkit.results import SAME_OPTIMUM, Fit, StartTable


PLATEAU = SAME_OPTIMUM
"""Where the axis of the waterfall turns from linear to logarithmic."""


def residuals(fit: Fit) -> Figure:
    """Standardised residuals over time, and their normal quantile plot.

    For a good fit with a normal or log-normal noise model about 95 % of the residuals
    lie between the dashed lines at -2 and 2, without a trend, and the quantiles lie on
    the diagonal. The quantiles are at probabilities `(i - 1/2) / n`, for each
    observable apart.
    """
    table = fit.observations
    figure = style.new_figure(3.1)
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1], sharey=True)
    handles, labels = [], []
    residual = style.drawable(table.residual)
    for index, name in enumerate(dict.fromkeys(table.observable.tolist())):
        mine = (table.observable == name) & np.isfinite(residual)
        look = _points(index)
        handles += left.plot(style.drawable(table.time)[mine], residual[mine], **look)
        right.plot(*normal_quantiles(residual[mine]), **look)
        labels.append(plain(name))
    for axes in (left, right):
        style.prepare(axes)
    for height, line in ((0.0, "-"), (-2.0, "--"), (2.0, "--")):
        left.axhline(height, color=style.GREY, linewidth=0.8, linestyle=line, zorder=1)
    right.axline((0.0, 0.0), slope=1.0, color=style.GREY, linewidth=0.8, zorder=1)
    left.margins(0.04, 0.08)
    style.label(left, with_unit("time", fit.time_unit), "standardised residual")
    style.label(right, "normal quantile", "standardised residual")
    right.tick_params(labelleft=True)
    if len(labels) > 1:
        style.legend(figure, handles, labels)
    missing = int((~np.isfinite(residual)).sum())
    if missing == residual.size:
        style.message(left, "No residual is finite.")
    verb = "has" if missing == 1 else "have"
    said = f"{counted(missing, 'measurement')} {verb} no finite residual." if missing else ""
    style.note(figure, said)
    return figure


def normal_quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal quantiles and the sorted values that belong to them, each shape `(n,)`."""
    ordered = np.sort(values)
    normal = NormalDist()
    probabilities = (np.arange(ordered.size) + 0.5) / max(ordered.size, 1)
    return np.array([normal.inv_cdf(value) for value in probabilities]), ordered


def waterfall(fit: Fit) -> Figure:
    """Objective of the starts above the best one, sorted.

    A flat stretch at zero means that many starts found the same optimum: one can trust
    that it is the global one. Steps above it are other, local optima. The axis is
    linear up to 0.1 and logarithmic beyond. Starts that failed have no objective; they
    are counted in words.
    """
    above = above_best(fit.starts)
    figure = style.new_figure(3.2)
    axes = style.prepare(figure.subplots())
    style.label(axes, "start, sorted", "objective above the best")
    place = np.arange(1, above.size + 1)
    same, shown = above <= PLATEAU, style.drawable(above)
    size = 5.0 if above.size <= 100 else 3.0
    handles, labels = [], []
    for mine, marker, colour, what in (
        (same, "o", style.BLUE, f"within {PLATEAU:g} of the best"),
        (~same, "^", style.VERMILLION, "other optimum"),
    ):
        if mine.any():
            look = {"marker": marker, "color": colour, "markersize": size}
            handles += axes.plot(place[mine], shown[mine], linestyle="none", zorder=3, **look)
            labels.append(f"{what}: {counted(int(mine.sum()), 'start')}")
    if above.size:
        axes.axhspan(0.0, PLATEAU, color=style.SKY, alpha=0.18, linewidth=0, zorder=0)
        _symlog(axes, float(above[-1]))
        axes.set_xlim(0.5, above.size + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
        style.legend(figure, handles, labels)
    else:
        style.message(axes, "No start counts.")
    style.note(figure, failed_starts(fit.starts))
    return figure


def above_best(starts: StartTable) -> np.ndarray:
    """Objectives of the starts that count, less the best, sorted, shape `(counted,)`."""
    objective = np.sort(starts.objective[counted_starts(starts)])
    return objective - objective[0] if objective.size else objective


def counted_starts(starts: StartTable) -> np.ndarray:
    """Which starts have a rank and a finite objective, shape `(start,)`."""
    return (starts.rank >= 0) & np.isfinite(starts.objective)


def failed_starts(starts: StartTable) -> str:
    """How many starts do not count and why, in words, or `""`."""
    failed = ~counted_starts(starts)
    if not failed.any():
        return ""
    many = counted(starts.objective.size, "start")
    verb = "does" if failed.sum() == 1 else "do"
    why = reasons(starts.status[failed].tolist())
    return f"{int(failed.sum())} of {many} {verb} not count: {why}."


def correlations(fit: Fit) -> Figure:
    """Correlations of the parameters as a heat map with numbers, the lower triangle.

    They are those of the posterior approximation, on the scale the optimiser moves in,
    where there is one, else those of the inverse Hessian. A dash stands where a
    correlation does not exist, as for a parameter at its bound. Needs two parameters;
    raises ValueError for one.
    """
    names, matrix = parameter_correlations(fit)
    if names.size < 2:
        raise ValueError("correlations: the fit has one parameter, expected at least two")
    # The diagonal is one; without it the first row and the last column are empty.
    rows, columns, cells = names[1:], names[:-1], matrix[1:, :-1]
    count = cells.shape[0]
    side = min(0.5, max(0.29, 4.6 / count))
    letters = 0.075 * max(len(plain(name, 30)) for name in names.tolist())
    figure = style.new_figure(side * count + letters, width=side * count + letters + 0.9)
    axes = figure.subplots()
    image = _fill_cells(axes, cells)
    _name_cells(axes, rows.tolist(), columns.tolist())
    _write_cells(axes, cells, size=min(style.SMALL, 22.0 * side))
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.4 / (side * count)), aspect=18)
    bar.set_label("correlation", fontsize=style.TEXT, color=style.INK)
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(labelsize=style.SMALL, colors=style.INK, width=0.6, length=3)
    bar.outline.set_visible(False)
    return figure


def parameter_correlations(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Names and correlations of the parameters; NaN where one does not exist."""
    names = fit.parameters.name
    if fit.uncertainty is not None:
        known = fit.uncertainty.name.tolist()
        rows = [known.index(name) for name in names.tolist()]
        return names, fit.uncertainty.correlation[np.ix_(rows, rows)]
    # A variance of zero or less, from a singular Hessian, has no correlation.
    variance = np.diag(fit.covariance)
    deviation = np.sqrt(np.where(variance > 0, variance, np.nan))
    return names, fit.covariance / np.outer(deviation, deviation)


_DIVERGING = LinearSegmentedColormap.from_list(
    "vermillion_white_blue", [style.VERMILLION, "#FFFFFF", style.BLUE]
).with_extremes(bad="#EEEEEE")


def _points(series: int) -> dict[str, object]:
    return {
        "linestyle": "none",
        "marker": style.MARKERS[series % len(style.MARKERS)],
        "color": style.COLOURS[series % len(style.COLOURS)],
        "markersize": 4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
        "zorder": 3,
    }


def _symlog(axes: Axes, highest: float) -> None:
    axes.set_yscale("symlog", linthresh=PLATEAU, linscale=0.6)
    top = min(max(highest, PLATEAU), style.LARGEST)
    axes.set_ylim(-0.25 * PLATEAU, 2.0 * top)
    # One tick in each decade up to six, then in every second or third.
    decades = max(1, int(np.ceil(np.log10(2.0 * top / PLATEAU))))
    powers = np.arange(0, decades, -(-decades // 6))
    axes.set_yticks([0.0, *(PLATEAU * 10.0**powers)])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _fill_cells(axes: Axes, cells: np.ndarray) -> PolyCollection:
    """Colour the lower triangle; a correlation that does not exist is grey."""
    down, across = np.tril_indices_from(cells)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    squares = np.stack([across, down], axis=1)[:, np.newaxis, :] + corners
    image = PolyCollection(
        list(squares), cmap=_DIVERGING, edgecolors=style.PALE, linewidths=0.5, clip_on=False
    )
    image.set_array(np.ma.masked_invalid(cells[down, across]))
    image.set_clim(-1, 1)
    axes.add_collection(image)
    axes.set(xlim=(0, cells.shape[1]), ylim=(cells.shape[0], 0))
    return image


def _name_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    look = {"fontsize": style.SMALL, "color": style.INK, "parse_math": False}
    axes.set_yticks(np.arange(len(rows)) + 0.5, [plain(name, 30) for name in rows], **look)
    axes.set_xticks(
        np.arange(len(columns)) + 0.5,
        [plain(name, 30) for name in columns],
        rotation=90 if len(columns) > 4 else 45,
        ha="center" if len(columns) > 4 else "right",
        rotation_mode="default" if len(columns) > 4 else "anchor",
        **look,
    )
    axes.tick_params(length=0)


def _write_cells(axes: Axes, cells: np.ndarray, size: float) -> None:
    for row in range(cells.shape[0]):
        for column in range(row + 1):
            value = cells[row, column]
            axes.text(
                column + 0.5,
                row + 0.5,
                _short(value),
                ha="center",
                va="center",
                fontsize=size,
                color=_ink(value),
            )


def _ink(value: float) -> str:
    """White on dark cells, grey where there is next to nothing."""
    if not abs(value) >= 0.05:
        return style.GREY
    return "white" if abs(value) > 0.75 else style.INK


def _short(value: float) -> str:
    """`.87` for 0.87, `0` for 0.001: the digits that matter in a small cell."""
    if not np.isfinite(value):
        return "–"
    if abs(value) < 0.005:
        return "0"
    digits = f"{abs(value):.2f}"
    minus = "\u2212" if value < 0 else ""
    return minus + (digits[1:] if digits.startswith("0") else digits)
