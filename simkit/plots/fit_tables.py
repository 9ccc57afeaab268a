"""The numbers of a fit as tables of its report."""

import numpy as np

from simkit.plots.diagnostics import above_best, counted_starts, parameter_correlations
from simkit.plots.fits import drawn_curves, has_bands, observable_unit
from simkit.plots.style import evenly
from simkit.plots.tables import MOST_ROWS, Cell, Table
from simkit.plots.words import counted, percent, plain, with_unit
from simkit.results import Fit


def parameter_table(fit: Fit) -> Table:
    """One row for each parameter: estimate, standard error, posterior, bounds."""
    table, uncertainty = fit.parameters, fit.uncertainty
    columns = ["parameter", "unit", "estimate", "standard error"]
    if uncertainty is not None:
        level = percent(uncertainty.level)
        columns += ["Laplace mean", "Laplace sd", f"{level} interval from", "to"]
    columns += ["lower bound", "upper bound", "scale", "remark"]
    remarked = False
    rows = []
    for index, name in enumerate(table.name.tolist()):
        row: list[Cell] = [name, unit_cell(table.unit[index])]
        row += [float(table.estimate[index]), float(table.standard_error[index])]
        remarks = ["at its bound: the standard error means nothing"] * bool(
            table.at_bound[index]
        )
        if uncertainty is not None:
            place = uncertainty.name.tolist().index(name)
            moments = (
                uncertainty.mean,
                uncertainty.standard_deviation,
                uncertainty.lower,
                uncertainty.upper,
            )
            row += [float(moment[place]) for moment in moments]
            if abs(uncertainty.shift[place]) > 1:
                remarks.append("the mean moved by more than one standard deviation")
        row += [_bound(table.lower[index]), _bound(table.upper[index])]
        rows.append((*row, str(table.scale[index]), "; ".join(remarks)))
        remarked |= bool(remarks)
    if not remarked:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Fitted parameters", columns, rows)


def derived_table(fit: Fit) -> Table:
    """Quantities that follow from the parameters, with their posterior where known."""
    columns = ["quantity", "unit", "estimate", "standard error"]
    posterior = None if fit.uncertainty is None else fit.uncertainty.derived
    known = [] if posterior is None else posterior.name.tolist()
    if known:
        columns += ["Laplace mean", "Laplace sd"]
    rows = []
    for index, name in enumerate(fit.derived.name.tolist()):
        row: list[Cell] = [name, unit_cell(fit.derived.unit[index])]
        row += [float(fit.derived.estimate[index]), float(fit.derived.standard_error[index])]
        if posterior is not None and known:
            place = known.index(name) if name in known else None
            for moment in (posterior.estimate, posterior.standard_error):
                row.append(float("nan") if place is None else float(moment[place]))
        rows.append(row)
    return Table("Derived quantities", columns, rows)


def start_table(fit: Fit) -> Table:
    """Every start, the best first, those that do not count last."""
    starts = fit.starts
    counts = counted_starts(starts)
    order = np.lexsort((starts.rank, ~counts))[:MOST_ROWS]
    best = np.min(starts.objective[counts]) if counts.any() else np.nan
    rows = [
        (
            int(index) + 1,
            int(starts.rank[index]) + 1 if counts[index] else "–",
            float(starts.objective[index]),
            float(starts.objective[index] - best) if counts[index] else float("nan"),
            int(starts.steps[index]),
            str(starts.status[index]),
        )
        for index in order
    ]
    columns = ["start", "rank", "objective", "above the best", "steps", "status"]
    note = _first(starts.status.size, "start")
    return Table("Starts", columns, rows, note, {"objective": 7})


def waterfall_table(fit: Fit) -> Table:
    """The points of the waterfall: the starts that count, sorted."""
    above = above_best(fit.starts)
    rows = [(place + 1, float(value)) for place, value in enumerate(above[:MOST_ROWS])]
    columns = ["start, sorted", "objective above the best"]
    return Table("Objectives of the starts", columns, rows, _first(above.size, "start"))


def destination_table(fit: Fit) -> Table:
    """Where each start began and ended, in the units of the parameters."""
    starts = fit.starts
    order = np.lexsort((starts.rank, ~counted_starts(starts)))[: MOST_ROWS // 2]
    columns = ["start", "end", *(plain(name) for name in fit.parameters.name.tolist())]
    rows = [
        (int(index) + 1, what, *values[index].tolist())
        for index in order
        for what, values in (("from", starts.initial), ("to", starts.final))
    ]
    note = _first(starts.status.size, "start", MOST_ROWS // 2)
    return Table("Parameters at both ends of each start", columns, rows, note)


def observation_table(fit: Fit) -> Table:
    """Every measurement beside the fitted model, with its residual."""
    table = fit.observations
    count = table.time.size
    rows = [
        (
            str(table.group[index]),
            str(table.observable[index]),
            float(table.time[index]),
            float(table.measured[index]),
            float(table.predicted[index]),
            unit_cell(observable_unit(fit, str(table.observable[index]))),
            float(table.residual[index]),
            str(table.noise[index]),
        )
        for index in evenly(count, 5 * MOST_ROWS)
    ]
    time = with_unit("time", fit.time_unit)
    columns = ["group", "observable", time, "measured", "fitted"]
    columns += ["unit", "standardised residual", "noise model"]
    note = ""
    if count > len(rows):
        note = f"{len(rows)} evenly spread of {counted(count, 'measurement')} shown."
    return Table("Measurements", columns, rows, note, {time: 7})


def curve_table(fit: Fit) -> Table:
    """The drawn curves and bands at even times."""
    curves = drawn_curves(fit)
    time = with_unit("time", fit.time_unit)
    columns = ["group", "observable", time, "fitted"]
    bands = (
        curves.lower,
        curves.upper,
        curves.predictive_lower,
        curves.predictive_upper,
    )
    if has_bands(curves):
        level = percent(curves.level)
        columns += [f"{level} band of the curve from", "to"]
        columns += [f"{level} band of a new measurement from", "to"]
    points = curves.time.shape[1]
    curve_count = max(1, len(curves.fitted) * curves.group.size)
    shown = evenly(points, max(5, MOST_ROWS // curve_count))
    rows = []
    for group, label in enumerate(curves.group.tolist()):
        for name, values in curves.fitted.items():
            drawn = [curves.time, values]
            if has_bands(curves):
                missing = np.full_like(values, np.nan)
                drawn += [band.get(name, missing) for band in bands]
            rows += [
                (label, name, *(float(series[group, index]) for series in drawn))
                for index in shown
            ]
    note = ""
    if shown.size < points:
        note = f"{shown.size} of {counted(points, 'point')} of each curve shown."
    return Table("Fitted curves", columns, rows, note, {time: 7})


def correlation_table(fit: Fit) -> Table:
    """The whole matrix of correlations."""
    names, matrix = parameter_correlations(fit)
    words = [plain(name) for name in names.tolist()]
    rows = [(name, *row) for name, row in zip(words, matrix.tolist(), strict=True)]
    return Table("Correlations of the parameters", ["parameter", *words], rows)


def unit_cell(unit: str) -> str:
    """A unit as text, empty for a number without dimension."""
    return "" if unit == "1" else str(unit)


def _bound(value: float) -> Cell:
    return float(value) if np.isfinite(value) else "none"


def _first(count: int, noun: str, shown: int = MOST_ROWS) -> str:
    return f"The first {shown} of {counted(count, noun)} shown." if count > shown else ""
