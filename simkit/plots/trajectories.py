"""Pictures of trajectories: states over time, and one state against another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from simkit.member_statistics import LEVELS, member_statistics
from simkit.plots import style
from simkit.plots.words import counted, failures, plain, with_unit
from simkit.results import Trajectory
from simkit.stored import is_stored, some_members


QUANTILES = LEVELS
"""Ends of the 90 % and 50 % bands, with the median between them."""
_LINES_IN_BAND = 5
_LINES_IN_PHASE = 30
_PANELS = 24


def trajectory(result: Trajectory, states: Sequence[str] | None = None) -> Figure:
    """States over time.

    One solve is drawn in one panel where all states have the same unit (up to seven),
    else in a panel for each state. An ensemble gets a panel for each state with the
    median, the bands that hold 50 % and 90 % of its members at each time, and a few
    single members; failed members are left out and counted in words.

    **Arguments:**

    - `states`: which states to draw; left out, all (the first 24, which is then said).

    Raises ValueError for a name that is no state.
    """
    names = _known_states(result, states)
    drawn = names[:_PANELS]
    left_out = ""
    if len(drawn) < len(names):
        left_out = f"{len(drawn)} of {counted(len(names), 'state')} drawn."
    if result.is_ensemble:
        return _ensemble(result, drawn, left_out)
    units = {result.state_units.get(name, "1") for name in drawn}
    if len(units) == 1 and len(drawn) <= len(style.COLOURS):
        return _together(result, drawn, left_out)
    return _apart(result, drawn, left_out)


def phase(result: Trajectory, x: str | None = None, y: str | None = None) -> Figure:
    """Phase portrait: state `y` against state `x`; left out, the first two states.

    Of an ensemble up to 30 members that did not fail are drawn. Raises ValueError for a
    name that is no state, or where there are fewer than two states.
    """
    if len(result.states) < 2:
        raise ValueError(
            "phase portrait: the trajectory has "
            f"{counted(len(result.states), 'state')}, expected at least two"
        )
    first, second = list(result.states)[:2]
    x, y = _known_states(result, [x or first, y or second])
    chosen = phase_members(result)
    across, upwards = (
        style.drawable(some_members(result.states[name], chosen)) for name in (x, y)
    )
    figure = style.new_figure(4.4, width=5.0)
    axes = style.prepare(figure.subplots())
    style.label(axes, with_unit(x, _unit(result, x)), with_unit(y, _unit(result, y)))
    faint: dict[str, Any] = {"linewidth": 1.4}
    if result.is_ensemble:
        faint = {"linewidth": 0.8, "alpha": 0.45}
    pixels = chosen.size * across.shape[1] > style.MANY_POINTS
    for lines in zip(across, upwards, strict=True):
        axes.plot(*lines, color=style.BLUE, rasterized=pixels, **faint)
    handles = _ends(axes, across, upwards)
    axes.margins(0.05)
    if handles:
        what = ["start of each", "end of each"] if result.is_ensemble else ["start", "end"]
        style.legend(figure, handles, what)
    else:
        style.message(axes, f"Nothing to draw: {_why_nothing(result)}")
    style.note(figure, phase_note(result))
    return figure


def _ends(axes: Axes, across: np.ndarray, upwards: np.ndarray) -> list[Line2D]:
    """Mark the first and the last finite point of each line of shape `(line, time)`."""
    finite = np.isfinite(across) & np.isfinite(upwards)
    lines = np.flatnonzero(finite.any(axis=1))
    if lines.size == 0:
        return []
    first = finite.argmax(axis=1)[lines]
    last = finite.shape[1] - 1 - finite[:, ::-1].argmax(axis=1)[lines]
    handles: list[Line2D] = []
    # Starts often coincide; ends drawn over them would hide them.
    for index, marker, colour, order in (
        (first, "o", style.GREEN, 5),
        (last, "s", style.VERMILLION, 4),
    ):
        handles += axes.plot(
            across[lines, index],
            upwards[lines, index],
            linestyle="none",
            marker=marker,
            markersize=5,
            markeredgecolor="white",
            color=colour,
            zorder=order,
        )
    return handles


def phase_members(result: Trajectory) -> np.ndarray:
    """Which members a phase portrait draws; `[0]` for one solve, whatever its status."""
    if not result.is_ensemble:
        return np.array([0])
    succeeded = np.flatnonzero(result.succeeded)
    return succeeded[style.evenly(succeeded.size, _LINES_IN_PHASE)]


def phase_note(result: Trajectory) -> str:
    """What a phase portrait leaves out, in words, or `""`."""
    if not result.is_ensemble:
        return stopped(result)
    drawn, all_good = phase_members(result).size, int(result.succeeded.sum())
    some = "" if drawn == all_good else f"{drawn} of {counted(all_good, 'member')} drawn. "
    return (some + failures(result.status)).strip()


def ensemble_quantiles(result: Trajectory, state: str) -> np.ndarray:
    """Quantiles of one state over the members that did not fail.

    Shape `(5, time)`, for the probabilities in `QUANTILES`; NaN at times at which no
    member has a finite value.
    """
    if is_stored(result.states[state]):
        return style.drawable(member_statistics(result, state).quantiles)
    values = style.drawable(result.states[state][result.succeeded])
    answer = np.full((len(QUANTILES), result.times.size), np.nan)
    # Complete columns go the fast way; nanquantile is some fifty times slower.
    count = np.isfinite(values).sum(axis=0)
    complete = (count == values.shape[0]) & (count > 0)
    if complete.any():
        answer[:, complete] = np.quantile(values[:, complete], QUANTILES, axis=0)
    partial = (count > 0) & ~complete
    if partial.any():
        answer[:, partial] = np.nanquantile(values[:, partial], QUANTILES, axis=0)
    return answer


def stopped(result: Trajectory) -> str:
    """Why one solve stopped early, in words, or `""`."""
    if result.succeeded:
        return ""
    return f"The solve did not reach the end: {plain(result.status, 200)}."


def _together(result: Trajectory, names: list[str], left_out: str) -> Figure:
    figure = style.new_figure(3.4)
    axes = style.prepare(figure.subplots())
    handles = [_one_solve(axes, result, name, index) for index, name in enumerate(names)]
    style.from_zero(axes)
    joined = ", ".join(plain(name) for name in names)
    what = joined if len(joined) <= 40 else "states"
    style.label(
        axes, with_unit("time", result.time_unit), with_unit(what, _unit(result, names[0]))
    )
    if len(names) > 1:
        style.legend(figure, handles, [plain(name) for name in names])
    style.note(figure, stopped(result), left_out)
    return figure


def _apart(result: Trajectory, names: list[str], left_out: str) -> Figure:
    figure, panels = _state_panels(result, names)
    for axes, name in zip(panels, names, strict=True):
        _one_solve(axes, result, name, 0)
        style.from_zero(axes)
    style.note(figure, stopped(result), left_out)
    return figure


def _one_solve(axes: Axes, result: Trajectory, name: str, series: int) -> Line2D:
    values = style.drawable(result.states[name])
    (line,) = axes.plot(
        style.drawable(result.times),
        values,
        color=style.COLOURS[series],
        linestyle=style.LINES[series],
        linewidth=1.4,
        marker="o" if values.size == 1 else None,
        rasterized=values.size > style.MANY_POINTS,
    )
    axes.margins(x=0.02)
    if not np.isfinite(values).any():
        style.message(axes, f"{plain(name)} has no finite value.")
    return line


def _ensemble(result: Trajectory, names: list[str], left_out: str) -> Figure:
    figure, panels = _state_panels(result, names)
    for axes, name in zip(panels, names, strict=True):
        _bands(axes, result, name)
    if result.succeeded.any():
        handles = [
            Line2D([], [], color=style.BLUE, linewidth=1.6),
            Patch(color=style.BLUE, alpha=0.40, linewidth=0),
            Patch(color=style.BLUE, alpha=0.18, linewidth=0),
            Line2D([], [], color=style.GREY, linewidth=0.6),
        ]
        labels = ["median", "50 % of members", "90 % of members", "single members"]
        style.legend(figure, handles, labels)
    style.note(figure, failures(result.status), left_out)
    return figure


def _bands(axes: Axes, result: Trajectory, name: str) -> None:
    quantiles = ensemble_quantiles(result, name)
    if not np.isfinite(quantiles).any():
        style.message(axes, f"Nothing to draw: {_why_nothing(result)}")
        return
    pixels = result.times.size > style.MANY_POINTS
    for lower, upper, alpha in ((0, 4, 0.18), (1, 3, 0.22)):
        axes.fill_between(
            style.drawable(result.times),
            quantiles[lower],
            quantiles[upper],
            where=np.isfinite(quantiles[lower]),
            color=style.BLUE,
            alpha=alpha,
            linewidth=0,
            rasterized=pixels,
        )
    members = np.flatnonzero(result.succeeded)
    members = members[style.evenly(members.size, _LINES_IN_BAND)]
    for values in some_members(result.states[name], members):
        axes.plot(
            style.drawable(result.times),
            style.drawable(values),
            color=style.GREY,
            linewidth=0.6,
            alpha=0.8,
            rasterized=pixels,
        )
    times = style.drawable(result.times)
    axes.plot(times, quantiles[2], color=style.BLUE, linewidth=1.6, rasterized=pixels)
    axes.margins(x=0.02)
    style.from_zero(axes)


def _state_panels(result: Trajectory, names: list[str]) -> tuple[Figure, list[Axes]]:
    columns = 1 if len(names) <= 3 else 2
    rows = -(-len(names) // columns)
    height = 2.6 if len(names) == 1 else 1.7
    figure = style.new_figure(0.9 + height * rows)
    panels = style.grid_of_panels(figure, len(names), columns)
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        style.name_panel(axes, name, _unit(result, name), height)
        if index + columns >= len(names):
            style.label(axes, x=with_unit("time", result.time_unit))
    return figure, panels


def _known_states(result: Trajectory, states: Sequence[str] | None) -> list[str]:
    if states is None:
        return list(result.states)
    for name in states:
        if name not in result.states:
            raise ValueError(
                f"state of the trajectory: got {name!r}, expected one of "
                f"{', '.join(result.states)}"
            )
    return list(states)


def _unit(result: Trajectory, state: str) -> str:
    return result.state_units.get(state, "1")


def _why_nothing(result: Trajectory) -> str:
    if not result.is_ensemble:
        return "no time has finite values."
    if not result.succeeded.any():
        return f"all {counted(result.status.size, 'member')} failed."
    return "no member has finite values."
