"""The numbers of a trajectory as tables of its report."""

import numpy as np

from simkit.plots.style import evenly
from simkit.plots.tables import MOST_ROWS, Table
from simkit.plots.trajectories import QUANTILES, ensemble_quantiles, phase_members
from simkit.plots.words import counted, percent, with_unit
from simkit.results import Trajectory
from simkit.stored import some_members


def states_table(result: Trajectory) -> Table:
    """The states at the saved times, or their quantiles over the members."""
    shown = evenly(result.times.size, MOST_ROWS)
    columns = [with_unit("time", result.time_unit)]
    values = []
    for name, series in result.states.items():
        heading = with_unit(name, result.state_units.get(name, "1"))
        if result.is_ensemble:
            columns += [f"{heading}, {_probability(level)}" for level in QUANTILES]
            values += list(ensemble_quantiles(result, name)[:, shown])
        else:
            columns.append(heading)
            values.append(np.asarray(series)[shown])
    rows = list(zip(result.times[shown].tolist(), *(v.tolist() for v in values), strict=True))
    what = "Quantiles of the states over the members" if result.is_ensemble else "States"
    note = thinned(result.times.size)
    return Table(f"{what} at the saved times", columns, rows, note, {columns[0]: 7})


def phase_table(result: Trajectory) -> Table:
    """The two states of the phase portrait, of each drawn member at even times."""
    x, y = list(result.states)[:2]
    time = with_unit("time", result.time_unit)
    columns = [time]
    columns += [with_unit(name, result.state_units.get(name, "1")) for name in (x, y)]
    members = phase_members(result)
    across, upwards = (some_members(result.states[name], members) for name in (x, y))
    shown = evenly(result.times.size, max(2, MOST_ROWS // max(1, members.size)))
    points = [(row, index) for row in range(members.size) for index in shown]
    rows = [
        (
            *((int(members[row]),) if result.is_ensemble else ()),
            float(result.times[index]),
            float(across[row, index]),
            float(upwards[row, index]),
        )
        for row, index in points
    ]
    if result.is_ensemble:
        columns = ["member", *columns]
    note = thinned(result.times.size, shown.size)
    return Table("Points of the phase portrait", columns, rows, note, {time: 7})


def values_table(caption: str, values: dict[str, np.ndarray], units: dict[str, str]) -> Table:
    """Named numbers; where one varies over the ensemble, its range and median."""
    varied = any(np.ndim(value) for value in values.values())
    columns = ["name", *(["lowest", "median", "highest"] if varied else ["value"]), "unit"]
    rows = []
    for name, value in values.items():
        numbers = np.asarray(value, dtype=np.float64).ravel()
        numbers = numbers[np.isfinite(numbers)]
        summary = [float("nan")] * 3
        if numbers.size:
            summary = [float(f(numbers)) for f in (np.min, np.median, np.max)]
        unit = units.get(name, "1")
        rows.append((name, *(summary if varied else summary[:1]), "" if unit == "1" else unit))
    return Table(caption, columns, rows)


def thinned(count: int, shown: int = MOST_ROWS) -> str:
    """Says that only some of so many rows are shown, or `""`."""
    if count <= shown:
        return ""
    return f"{shown} evenly spread of {counted(count, 'time')} shown; the result file has all."


def _probability(level: float) -> str:
    return "median" if level == 0.5 else percent(level)
