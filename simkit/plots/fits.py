"""Pictures of a fit beside its data."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from simkit.plots import style
from simkit.plots.words import counted, percent, plain, with_unit
from simkit.results import CurveTable, Fit


_PANELS = 48


def data_and_fit(fit: Fit, groups: Sequence[str] | None = None) -> Figure:
    """Measurements with the fitted curve, and its bands where they were computed.

    The dark band holds the noise-free curve, the light band a new measurement, both
    with the probability of `fit.uncertainty.level`. There is a panel for each group
    and observable; panels of one observable share their axis.

    **Arguments:**

    - `groups`: which groups to draw; left out, all (as many as fit into 48 panels,
      which is then said).

    Raises ValueError for a name that is no group.
    """
    curves = drawn_curves(fit)
    observables = list(curves.fitted)
    known = [str(group) for group in curves.group]
    for group in groups or ():
        if group not in known:
            raise ValueError(
                f"group of the fit: got {group!r}, expected one of {', '.join(known)}"
            )
    wanted = known if groups is None else list(groups)
    drawn = wanted[: max(1, _PANELS // len(observables))]
    left_out = ""
    if len(drawn) < len(wanted):
        left_out = f"{len(drawn)} of {counted(len(wanted), 'group')} drawn."

    columns = _columns(len(drawn), len(observables))
    cells = [(group, name) for group in drawn for name in observables]
    rows = -(-len(cells) // columns)
    height = {1: 2.7, 2: 2.0}.get(rows, 1.55)
    figure = style.new_figure(0.9 + height * rows)
    panels = style.grid_of_panels(
        figure, len(cells), columns, share_y=len(observables) == 1 and len(cells) > 1
    )
    for index, (axes, (group, name)) in enumerate(zip(panels, cells, strict=True)):
        _panel(axes, fit, curves, known.index(group), name)
        over = group_words(group) if len(known) > 1 else ""
        style.name_panel(axes, name, observable_unit(fit, name), height, over)
        if index % columns and len(observables) == 1:
            style.label(axes, y="")
        if index + columns >= len(cells):
            style.label(axes, x=with_unit("time", fit.time_unit))
    style.legend(figure, *_legend(curves))
    style.note(figure, failed_draws(fit), left_out)
    return figure


def drawn_curves(fit: Fit) -> CurveTable:
    """The curves with bands where they were computed, else those without."""
    return fit.curves if fit.uncertainty is None else fit.uncertainty.curves


def has_bands(curves: CurveTable) -> bool:
    """Whether the curves have bands with at least one finite value."""
    return any(np.isfinite(values).any() for values in curves.lower.values())


def group_words(group: str) -> str:
    """The name of a group, with the word before it where the name is a bare number."""
    return f"group {group}" if group.strip().isdigit() else group


def observable_unit(fit: Fit, name: str) -> str:
    """Unit of an observable as text, `"1"` for none."""
    return fit.observable_units.get(name, fit.curves.units.get(name, "1"))


def failed_draws(fit: Fit) -> str:
    """How many draws are missing in the bands, in words, or `""`."""
    if fit.uncertainty is None or fit.uncertainty.failed_draws == 0:
        return ""
    failed = fit.uncertainty.failed_draws
    verb = "is" if failed == 1 else "are"
    return f"{counted(failed, 'draw')} could not be solved and {verb} left out of the bands."


def _columns(groups: int, observables: int) -> int:
    """Panels beside each other: a column per observable, or a block of groups."""
    if groups == 1:
        return 1 if observables <= 3 else 2
    if observables > 1:
        return min(observables, 3) if observables != 4 else 2
    return 2 if groups <= 4 else 3 if groups <= 9 else 4


def _panel(axes: Axes, fit: Fit, curves: CurveTable, group: int, name: str) -> None:
    time = style.drawable(curves.time[group])
    for lower, upper, alpha in (
        (curves.predictive_lower, curves.predictive_upper, 0.18),
        (curves.lower, curves.upper, 0.40),
    ):
        if name not in lower or name not in upper:
            continue
        low, high = (style.drawable(band[name][group]) for band in (lower, upper))
        axes.fill_between(
            time,
            low,
            high,
            where=np.isfinite(low) & np.isfinite(high),
            color=style.BLUE,
            alpha=alpha,
            linewidth=0,
        )
    values = style.drawable(curves.fitted[name][group])
    axes.plot(time, values, color=style.BLUE, linewidth=1.4)
    table = fit.observations
    mine = (table.group == curves.group[group]) & (table.observable == name)
    measured = style.drawable(table.measured)
    mine &= np.isfinite(measured)
    axes.plot(
        style.drawable(table.time)[mine],
        measured[mine],
        linestyle="none",
        marker="o",
        markersize=4,
        color=style.INK,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=3,
    )
    axes.margins(x=0.03)
    style.from_zero(axes)
    if not mine.any() and not np.isfinite(values).any():
        style.message(axes, f"No measurement and no curve of {plain(name)}.")


def _legend(curves: CurveTable) -> tuple[list[Line2D | Patch], list[str]]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=style.INK),
        Line2D([], [], color=style.BLUE, linewidth=1.4),
    ]
    labels = ["measured", "fitted"]
    if has_bands(curves):
        level = percent(curves.level)
        handles += [
            Patch(color=style.BLUE, alpha=0.50, linewidth=0),
            Patch(color=style.BLUE, alpha=0.18, linewidth=0),
        ]
        labels += [f"{level} band: curve", f"{level} band: new measurement"]
    return handles, labels
