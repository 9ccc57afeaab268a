"""How every figure looks: colours, sizes, grids, labels, legends, and how it is saved.

Figures are made from `matplotlib.figure.Figure` and every property is set on the figure
itself. Nothing touches pyplot or the global settings, so drawing is safe in any thread
and does not change the figures of the program that calls it.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from simkit.plots.files import write_whole
from simkit.plots.words import plain, with_unit


# M. Okabe and K. Ito, "Color Universal Design" (2008), without yellow, which is hard to
# see on white, and in an order in which neighbours differ in lightness.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, BLACK = "#CC79A7", "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
# Line styles and markers tell the series apart in a grey print.
LINES = ("-", (0, (5, 1.5)), "-.", (0, (1, 1.2)), (0, (7, 1.5, 1, 1.5, 1, 1.5)), "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, PALE = "#222222", "#666666", "#D9D9D9"

WIDTH = 6.5
"""Width of a figure in inches: the text width of a paper."""
TEXT, SMALL = 9.0, 8.0
"""Sizes of labels, and of ticks and notes, in points."""
LARGEST = 1e300
"""Numbers beyond this are not drawn: the span of an axis and its margins would overflow."""
MANY_POINTS = 20_000
"""Above so many points a panel is drawn as pixels in SVG and PDF, to bound the file."""

_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty white figure of this size in inches that keeps its labels apart."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def grid_of_panels(
    figure: Figure, count: int, columns: int, share_y: bool = False
) -> list[Axes]:
    """`count` prepared axes, row by row, that share the time axis; no empty ones."""
    rows = -(-count // columns)
    axes = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
    for surplus in axes.flat[count:]:
        surplus.remove()
    panels = list(axes.flat[:count])
    for index, panel in enumerate(panels):
        prepare(panel)
        # A panel with nothing beneath it carries the ticks of the time axis.
        panel.tick_params(labelbottom=index + columns >= count)
    return panels


def prepare(axes: Axes) -> Axes:
    """Give axes the common look: light grid behind the data, two spines, round ticks."""
    axes.set_axisbelow(True)
    axes.grid(True, color=PALE, linewidth=0.5)
    axes.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=INK, linewidth=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        # An offset in a corner, such as "+1.9e3" for years, is easily overlooked.
        formatter = ScalarFormatter(useOffset=False, useMathText=True)
        formatter.set_powerlimits((-3, 5))
        axis.set_major_formatter(formatter)
        axis.get_offset_text().set_fontsize(SMALL)
    return axes


def label(axes: Axes, x: str | None = None, y: str | None = None) -> None:
    """Write axis labels as they are, without reading them as formulae."""
    if x is not None:
        axes.set_xlabel(x, fontsize=TEXT, color=INK, parse_math=False)
    if y is not None:
        axes.set_ylabel(y, fontsize=TEXT, color=INK, parse_math=False)


def name_panel(axes: Axes, name: str, unit: str, height: float, over: str = "") -> None:
    """Say what a panel of `height` inches shows: on its axis, or above it if too long.

    `over` is a heading that the panel has anyway.
    """
    beside = with_unit(name, unit)
    if len(beside) > 13.5 * height:
        over = f"{over}: {name}" if over else name
        beside = "value" if unit in ("1", "") else plain(unit, int(13.5 * height))
    label(axes, y=beside)
    if over:
        heading(axes, over)


def heading(axes: Axes, text: str) -> None:
    """A small heading over one panel of a grid."""
    axes.set_title(
        plain(text, 45), fontsize=SMALL, color=INK, loc="left", pad=3, parse_math=False
    )


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend above the panels, where it hides no data, in as many columns as fit."""
    drawn = figure.legend(
        list(handles),
        list(labels),
        loc="outside upper center",
        ncols=_columns_that_fit(labels, figure.get_figwidth()),
        fontsize=SMALL,
        frameon=False,
        labelcolor=INK,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def _columns_that_fit(labels: Sequence[str], width: float) -> int:
    """The most columns whose widest entries stand beside each other in `width` inches."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        widest = [
            max(len(text) for text in labels[first : first + rows])
            for first in range(0, len(labels), rows)
        ]
        # Measured at this size: a letter takes 0.064 inch, the sample with its gaps 0.6.
        if sum(0.064 * letters + 0.6 for letters in widest) <= width:
            return columns
    return 1


def drawable(values: np.ndarray) -> np.ndarray:
    """The values as floats, NaN wherever they are not finite or too large for an axis."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def from_zero(axes: Axes) -> None:
    """Start the vertical axis at zero where all values are positive and some are small."""
    lowest, highest = axes.dataLim.intervaly
    if 0 <= lowest < 0.4 * highest:
        axes.set_ylim(bottom=0)


def note(figure: Figure, *sentences: str) -> None:
    """Sentences beneath the panels; empty ones are left out."""
    said = " ".join(sentence for sentence in sentences if sentence)
    if said:
        figure.supxlabel(
            _wrapped(said, int(figure.get_figwidth() / 0.062)),
            x=0.01,
            ha="left",
            fontsize=SMALL,
            color=GREY,
            parse_math=False,
        )


def message(axes: Axes, text: str) -> None:
    """Say in the middle of a panel why it shows no data."""
    axes.text(
        0.5,
        0.5,
        _wrapped(text, 60),
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=TEXT,
        color=GREY,
        backgroundcolor="white",
        parse_math=False,
    )


def evenly(count: int, at_most: int) -> np.ndarray:
    """Indices of at most so many of `count` things, evenly spread, ends included."""
    if count <= at_most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, at_most).round().astype(int))


def check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError for a file format that figures are not written in."""
    for name in formats:
        if name not in _METADATA:
            raise ValueError(
                f"format of a figure: got {name!r}, expected one of {', '.join(_METADATA)}"
            )


def render(figure: Figure, file_format: str, salt: str = "simkit") -> bytes:
    """The figure as bytes of a `png`, `svg` or `pdf` file, without dates.

    `salt` goes into the identifiers of an SVG. Raises ValueError for another format.
    """
    check_formats([file_format])
    settings: Any = {
        "svg.hashsalt": salt,
        "svg.fonttype": "path",
        "svg.id": None,
        "pdf.fonttype": 42,
        "pdf.compression": 6,
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings):
        figure.savefig(
            buffer,
            format=file_format,
            dpi=200,
            facecolor="white",
            edgecolor="none",
            bbox_inches=None,
            metadata=_METADATA[file_format],
        )
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format that the suffix of `path` names, whole or not at all."""
    path = Path(path)
    return write_whole(path, render(figure, path.suffix.removeprefix("."), path.stem))


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
