"""Pictures of a molecular trajectory: quantities over time, structure, displacements."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simkit.molecular.findings import MolecularFindings
from simkit.molecular.values import Average, Curve
from simkit.plots import style
from simkit.plots.words import counted, plain, with_unit


_SHOWN = (
    *("temperature", "pressure", "potential_energy", "total_energy", "conserved_energy"),
    *("density",),
)
_HEIGHT = 1.7
_MOST_CURVES = len(style.COLOURS)


@np.errstate(all="ignore")  # numbers near the largest overflow in sums
def molecular_figures(findings: MolecularFindings) -> dict[str, Figure]:
    """Every figure that has something to show, by name.

    `course` (quantities over time), `distribution` (radial distribution functions) and
    `displacement` (the mean squared displacement).
    """
    figures = {}
    if shown_series(findings):
        figures["course"] = course(findings)
    if findings.distributions:
        figures["distribution"] = distribution(findings)
    if findings.displacement is not None:
        figures["displacement"] = displacement(findings)
    return figures


def shown_series(findings: MolecularFindings) -> list[str]:
    """The quantities that are drawn over time; one that never changes tells nothing."""
    return [
        name
        for name in _SHOWN
        if name in findings.series
        and (name != "density" or np.ptp(findings.series[name].values) > 0)
    ]


def course(findings: MolecularFindings) -> Figure:
    """Quantities over time, with their averages and the frames that do not count."""
    names = shown_series(findings)
    columns = 1 if len(names) <= 3 else 2
    figure = style.new_figure(0.9 + _HEIGHT * -(-len(names) // columns))
    panels = style.grid_of_panels(figure, len(names), columns)
    times, heading = time_axis(findings)
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        series = findings.series[name]
        values = style.drawable(series.values)
        axes.plot(
            times,
            values,
            color=style.BLUE,
            linewidth=0.9,
            marker="o" if values.size == 1 else None,
            markersize=3,
            rasterized=values.size > style.MANY_POINTS,
        )
        _mark_average(axes, find_average(findings, name))
        if findings.skipped:
            axes.axvspan(times[0], times[findings.skipped], color=style.PALE, linewidth=0)
        axes.margins(x=0.02)
        words = name.replace("_", " ")
        style.name_panel(axes, words, series.unit, _HEIGHT)
        if index + columns >= len(names):
            style.label(axes, x=heading)
    said = ""
    if findings.skipped:
        said = (
            f"Grey: {counted(findings.skipped, 'frame')} before equilibrium, which count for "
            "no average (line)."
        )
    style.note(figure, said)
    return figure


def distribution(findings: MolecularFindings) -> Figure:
    """Radial distribution functions, with bands of two standard errors."""
    return _curves(list(findings.distributions), "g(r)")


def displacement(findings: MolecularFindings) -> Figure:
    """The mean squared displacement over time, with a band of two standard errors."""
    curve = findings.displacement
    assert curve is not None
    figure = _curves([curve], with_unit(curve.name, curve.unit))
    found = find_average(findings, "diffusion coefficient")
    if found is not None:
        style.note(
            figure,
            f"Diffusion coefficient {float(found.value):.3g} ± "
            f"{float(found.standard_error):.1g} {plain(found.unit)}.",
        )
    return figure


def find_average(findings: MolecularFindings, name: str) -> Average | None:
    """The average of this name, if there is one."""
    wanted = name.replace("_", " ")
    return next((item for item in findings.averages if item.name == wanted), None)


def time_axis(findings: MolecularFindings) -> tuple[np.ndarray, str]:
    """Times of the frames, or their numbers where the file has no times; and the label."""
    if np.all(np.isfinite(findings.times)):
        return style.drawable(findings.times), with_unit("time", findings.time_unit)
    return np.arange(findings.frames, dtype=float), "frame"


def _mark_average(axes: Axes, average: Average | None) -> None:
    if average is None or not np.isfinite(style.drawable(np.asarray(average.value))):
        return
    axes.axhline(float(average.value), color=style.VERMILLION, linewidth=1.0)


def _curves(curves: list[Curve], name: str) -> Figure:
    figure = style.new_figure(3.4)
    axes = style.prepare(figure.subplots())
    handles = []
    for index, curve in enumerate(curves[:_MOST_CURVES]):
        x, y = style.drawable(curve.coordinate), style.drawable(curve.value)
        error = style.drawable(curve.standard_error)
        colour = style.COLOURS[index]
        axes.fill_between(x, y - 2 * error, y + 2 * error, color=colour, alpha=0.2, linewidth=0)
        handles += axes.plot(x, y, color=colour, linestyle=style.LINES[index], linewidth=1.3)
    first = curves[0]
    coordinate = "distance" if first.coordinate_name == "r" else first.coordinate_name
    style.label(axes, with_unit(coordinate, first.coordinate_unit), name)
    axes.margins(x=0.02)
    if not any(np.isfinite(style.drawable(curve.value)).any() for curve in curves):
        style.message(axes, "There is no finite value.")
    style.from_zero(axes)
    if len(curves) > 1:
        labels = ["all" if curve.name == "g" else curve.name[2:] for curve in curves]
        style.legend(figure, handles, [plain(text) for text in labels[:_MOST_CURVES]])
    return figure
