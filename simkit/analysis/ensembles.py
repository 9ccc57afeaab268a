"""Statistics of ensembles over their members, and of single solves over time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from simkit.analysis.base import Analysis
from simkit.member_statistics import LEVELS, MemberStatistics, member_statistics
from simkit.progress import Progress, silent
from simkit.results import Trajectory
from simkit.tabular import Column, FlatTable


_MEANINGS = {
    "count": "members with a finite value",
    "mean": "mean over the members",
    "standard_deviation": "standard deviation over the members",
    "lowest": "lowest value of a member",
    "highest": "highest value of a member",
}


def analyse_ensemble(
    result: Trajectory, levels: Sequence[float] = LEVELS, progress: Progress = silent
) -> Analysis:
    """Mean, standard deviation, extremes and quantiles of each state at each time.

    They are those of the members that reached the end; the others are counted by reason.
    Memory grows with times and states, not with members.

    **Raises:** `ValueError` for a level that is not from 0 to 1.
    """
    for level in levels:
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level of a quantile is {level:g}, expected one from 0 to 1.")
    levels = tuple(sorted(set(levels)))
    found: dict[str, MemberStatistics] = {}
    whole = result.times.size * len(result.states)
    for place, name in enumerate(result.states):
        before = place * result.times.size

        def tick(done: int, total: int, message: str, before: int = before) -> None:
            del total  # of one state
            progress(before + done, whole, message)

        found[name] = member_statistics(result, name, levels, tick)
    failed = Counter(result.status[~result.succeeded].tolist())
    values = {
        "kind": "ensemble",
        "title": result.title,
        "system": result.system,
        "members": int(result.status.size),
        "succeeded": int(np.sum(result.succeeded)),
        "failed": dict(failed),
        "levels": list(levels),
        "times": {"unit": result.time_unit, "values": result.times.tolist()},
        "states": {
            name: {
                "unit": result.state_units.get(name, "1"),
                **{field: getattr(item, field).tolist() for field in _MEANINGS},
                "quantiles": item.quantiles.tolist(),
            }
            for name, item in found.items()
        },
    }
    tables = [_statistics_table(result, found, levels), _units_table(result)]
    if failed:
        reasons = Column("reason", np.array(list(failed)), "", "why the solve stopped")
        counts = Column("members", np.array(list(failed.values())), "1", "how many members")
        tables.append(FlatTable("failed", (reasons,), (counts,)))
    return Analysis(values, tuple(tables))


def quantile_name(level: float) -> str:
    """How the column of a quantile is called: `quantile_0.05`."""
    return f"quantile_{level:g}"


def _statistics_table(
    result: Trajectory, found: dict[str, MemberStatistics], levels: tuple[float, ...]
) -> FlatTable:
    columns = {
        field: (meaning, [getattr(item, field) for item in found.values()])
        for field, meaning in _MEANINGS.items()
    }
    for place, level in enumerate(levels):
        rows = [item.quantiles[place] for item in found.values()]
        columns[quantile_name(level)] = (f"quantile {level:g} of the members", rows)
    axes = (
        Column("state", np.array(list(found)), "", "state"),
        Column("time", result.times, result.time_unit, "time"),
    )
    made = [
        Column(name, np.stack(rows), "", meaning) for name, (meaning, rows) in columns.items()
    ]
    return FlatTable("statistics", axes, tuple(made))


def _units_table(result: Trajectory) -> FlatTable:
    units = [result.state_units.get(name, "1") for name in result.states]
    states = Column("state", np.array(list(result.states)), "", "state")
    return FlatTable("units", (states,), (Column("unit", np.array(units), "", "unit"),))


def analyse_solve(result: Trajectory) -> Analysis:
    """Where each state of a single solve begins and ends, its extremes and when they are.

    `mean` is that over time, by the trapezoidal rule. Values that were not reached do not
    count; a state without any has NaN throughout.
    """
    rows = {name: _course(result.times, values) for name, values in result.states.items()}
    values = {
        "kind": "solve",
        "title": result.title,
        "system": result.system,
        "status": str(result.status),
        "times": {
            "unit": result.time_unit,
            "start": float(result.times[0]),
            "stop": float(result.times[-1]),
            "number": int(result.times.size),
        },
        "states": {
            name: {"unit": result.state_units.get(name, "1"), **row}
            for name, row in rows.items()
        },
    }
    states = Column("state", np.array(list(rows)), "", "state")
    columns = [
        Column(
            field,
            np.array([row[field] for row in rows.values()]),
            result.time_unit if field.startswith("time_of") else "",
            field.replace("_", " "),
        )
        for field in next(iter(rows.values()))
    ]
    table = FlatTable("states", (states,), tuple(columns))
    return Analysis(values, (table, _units_table(result)))


def _course(times: np.ndarray, values: Any) -> dict[str, float]:
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    times, values = times[finite], values[finite]
    names = ("first", "last", "lowest", "time_of_lowest", "highest", "time_of_highest", "mean")
    if values.size == 0:
        return dict.fromkeys(names, float("nan"))
    low, high = int(np.argmin(values)), int(np.argmax(values))
    span = float(times[-1] - times[0])
    mean = float(np.trapezoid(values, times)) / span if span > 0 else float(values[0])
    found = (values[0], values[-1], values[low], times[low], values[high], times[high], mean)
    return dict(zip(names, map(float, found), strict=True))
