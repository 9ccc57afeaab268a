"""All figures of a result, by name."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from simkit.plots import diagnostics, fits, style, trajectories
from simkit.results import Fit, Trajectory


def all_figures(result: Trajectory | Fit) -> dict[str, Figure]:
    """Every figure that has something to show, by name.

    A fit has `fit`, `residuals`, `waterfall` (from two starts on) and `correlations`
    (from two parameters on); a trajectory has `trajectory` and `phase` (from two states
    on). Raises TypeError for anything else.
    """
    if isinstance(result, Fit):
        figures = {"fit": fits.data_and_fit(result), "residuals": diagnostics.residuals(result)}
        if result.starts.objective.size > 1:
            figures["waterfall"] = diagnostics.waterfall(result)
        if result.parameters.name.size > 1:
            figures["correlations"] = diagnostics.correlations(result)
        return figures
    if isinstance(result, Trajectory):
        figures = {"trajectory": trajectories.trajectory(result)}
        if len(result.states) > 1:
            figures["phase"] = trajectories.phase(result)
        return figures
    raise TypeError(
        f"figures of a result: got {type(result).__name__}, expected a Trajectory or a Fit"
    )


def save_figures(
    result: Trajectory | Fit,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write every figure as `folder/NAME.FORMAT` and return the paths, in that order.

    The folder is made where it is missing. Each file is written whole or not at all,
    and the same result gives the same bytes. Raises ValueError for a format other than
    png, svg and pdf, before anything is written.
    """
    return save_all(lambda: all_figures(result), folder, formats)


def save_all(
    draw: Callable[[], Mapping[str, Figure]],
    folder: str | os.PathLike[str],
    formats: Sequence[str],
) -> list[Path]:
    """Like `save_figures`, for what a function draws."""
    folder = Path(folder)
    style.check_formats(formats)
    folder.mkdir(parents=True, exist_ok=True)
    # Each format gets figures of its own: the layout of one that was drawn before starts
    # from what it was, and would differ in the last digits.
    drawn = {suffix: draw() for suffix in dict.fromkeys(formats)}
    names = list(next(iter(drawn.values()), {}))
    return [
        style.save(drawn[suffix][name], folder / f"{name}.{suffix}")
        for name in names
        for suffix in drawn
    ]
