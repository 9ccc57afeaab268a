"""One HTML page that tells a molecular trajectory: averages, figures, where it comes from."""

import os
from pathlib import Path

import numpy as np

from simkit.molecular.findings import MolecularFindings
from simkit.molecular.values import Curve
from simkit.plots.captions import Caption
from simkit.plots.files import write_whole
from simkit.plots.molecular_trajectories import (
    find_average,
    molecular_figures,
    shown_series,
    time_axis,
)
from simkit.plots.report import configuration, figures, outcome, page, provenance, rendered
from simkit.plots.style import evenly
from simkit.plots.tables import MOST_ROWS, Table, as_html
from simkit.plots.trajectory_tables import thinned
from simkit.plots.words import counted, number, plain, with_unit


def write_molecular_report(findings: MolecularFindings, path: str | os.PathLike[str]) -> Path:
    """Write the page of a trajectory to `path`, whole or not at all, and return the path.

    Raises OSError where the file cannot be written.
    """
    return write_whole(path, molecular_page(findings).encode("utf-8"))


@np.errstate(all="ignore")  # numbers near the largest overflow in sums
def molecular_page(findings: MolecularFindings) -> str:
    """The page of a molecular trajectory as text."""
    drawn = rendered(molecular_figures(findings))
    sections = {
        "Summary": outcome(
            findings.status in ("successful", "unknown"),
            _headline(findings),
            _sentences(findings),
            findings.notes,
        ),
        "Averages": as_html(averages_table(findings)),
        "Figures": figures(drawn, _captions(findings), _tables(findings)),
        "Configuration": configuration(findings.provenance),
        "Provenance": provenance(findings.provenance, {}),
    }
    return page(findings.title or "Molecular trajectory", sections)


def averages_table(findings: MolecularFindings) -> Table:
    """Averages with their standard errors."""
    rows = [
        (
            plain(item.name),
            float(item.value),
            float(item.standard_error),
            "" if item.unit == "1" else plain(item.unit),
        )
        for item in findings.averages
    ]
    columns = ["quantity", "average", "standard error", "unit"]
    used = findings.frames - findings.skipped
    return Table(
        f"Averages over {counted(used, 'frame')}",
        columns,
        rows,
        "Errors by blocks of frames that are long enough (Flyvbjerg and Petersen).",
        {"average": 6},
    )


def _headline(findings: MolecularFindings) -> str:
    if findings.status == "successful":
        return "The run reached its end."
    if findings.status == "unknown":
        return "A trajectory of another program."
    return f"The run did not reach its end: {plain(findings.message, 300)}"


def _sentences(findings: MolecularFindings) -> list[str]:
    times, _ = time_axis(findings)
    unit = "" if findings.time_unit == "1" else f" {plain(findings.time_unit)}"
    by = f" by {plain(findings.method, 120)}" if findings.method else ""
    of = f" of {plain(findings.system, 120)}" if findings.system else ""
    said = [
        f"{counted(findings.particles, 'particle')}{of}{by}, "
        f"{counted(findings.frames, 'frame')} from time {number(times[0], 6)} to "
        f"{number(times[-1], 6)}{unit}."
    ]
    if findings.skipped:
        said.append(
            f"{counted(findings.skipped, 'frame')} at the start count for no average: the run "
            "was still on its way to equilibrium."
        )
    if findings.box_vectors is None:
        said.append("The box is open.")
    else:
        edges = np.linalg.norm(findings.box_vectors[-1], axis=1)
        words = " × ".join(number(edge, 5) for edge in edges)
        said.append(f"The periodic box measures {words} at the end.")
    return said


def _captions(findings: MolecularFindings) -> dict[str, Caption]:
    course = []
    for name in shown_series(findings):
        found = find_average(findings, name)
        if found is not None:
            unit = "" if found.unit == "1" else f" {plain(found.unit)}"
            course.append(f"{plain(found.name)} has the average {number(found.value)}{unit}.")
    captions = {
        "course": Caption(
            "Over time",
            "Quantities in each saved frame, and their averages over the frames that count.",
            " ".join(course),
        )
    }
    if findings.distributions:
        captions["distribution"] = Caption(
            "Radial distribution",
            "How densely particles stand around a particle at a distance, 1 for an ideal gas; "
            "bands are two standard errors.",
            " ".join(map(_peak, findings.distributions)),
        )
    if findings.displacement is not None:
        curve = findings.displacement
        captions["displacement"] = Caption(
            "Displacement",
            "Mean squared displacement of a particle; the band is two standard errors.",
            f"It reaches {number(curve.value[-1])} after {number(curve.coordinate[-1])}.",
        )
    return captions


def _peak(curve: Curve) -> str:
    values = np.where(np.isfinite(curve.value), curve.value, -np.inf)
    place = int(np.argmax(values))
    return (
        f"{plain(curve.name)} is highest, {number(curve.value[place])}, at "
        f"{number(curve.coordinate[place])}."
    )


def _tables(findings: MolecularFindings) -> dict[str, list[Table]]:
    times, heading = time_axis(findings)
    shown = evenly(times.size, MOST_ROWS)
    names = shown_series(findings)
    columns = [heading]
    columns += [with_unit(name.replace("_", " "), findings.series[name].unit) for name in names]
    values = [times[shown], *(findings.series[name].values[shown] for name in names)]
    rows = list(zip(*(column.tolist() for column in values), strict=True))
    note = thinned(times.size)
    tables = {"course": [Table("Quantities over time", columns, rows, note, {heading: 7})]}
    if findings.distributions:
        tables["distribution"] = [_curve_table(curve) for curve in findings.distributions]
    if findings.displacement is not None:
        tables["displacement"] = [_curve_table(findings.displacement)]
    return tables


def _curve_table(curve: Curve) -> Table:
    shown = evenly(curve.coordinate.size, MOST_ROWS)
    columns = [
        with_unit(curve.coordinate_name, curve.coordinate_unit),
        with_unit(curve.name, curve.unit),
        "standard error",
    ]
    values = (curve.coordinate, curve.value, curve.standard_error)
    rows = list(zip(*(item[shown].tolist() for item in values), strict=True))
    return Table(plain(curve.name), columns, rows, thinned(curve.coordinate.size))
