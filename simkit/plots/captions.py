"""What each figure shows: a title, a caption, and its content told in words."""

import dataclasses

import numpy as np

from simkit.plots.diagnostics import (
    PLATEAU,
    above_best,
    failed_starts,
    parameter_correlations,
)
from simkit.plots.fits import drawn_curves, failed_draws, has_bands, observable_unit
from simkit.plots.trajectories import (
    QUANTILES,
    ensemble_quantiles,
    phase_members,
    phase_note,
    stopped,
)
from simkit.plots.words import counted, failures, listing, number, percent, plain
from simkit.results import Fit, Trajectory
from simkit.stored import some_members


@dataclasses.dataclass(frozen=True)
class Caption:
    """Words that go with a figure.

    - `title`: a heading.
    - `text`: how to read the figure.
    - `description`: what is to be seen, for those who cannot see it.
    """

    title: str
    text: str
    description: str


def fit_captions(fit: Fit) -> dict[str, Caption]:
    """Captions of the figures of a fit, by the names of `all_figures`."""
    return {
        "fit": _data_and_fit(fit),
        "residuals": _residuals(fit),
        "waterfall": _waterfall(fit),
        "correlations": _correlations(fit),
    }


def trajectory_captions(result: Trajectory) -> dict[str, Caption]:
    """Captions of the figures of a trajectory, by the names of `all_figures`."""
    captions = {"trajectory": _trajectory(result)}
    if len(result.states) > 1:
        captions["phase"] = _phase(result)
    return captions


def _data_and_fit(fit: Fit) -> Caption:
    curves = drawn_curves(fit)
    text = "Measurements (dots) and the fitted curve (line)."
    if has_bands(curves):
        level = percent(curves.level)
        text += (
            f" With a probability of {level} the dark band holds the curve without noise at"
            " a given time, and the light band a new measurement."
        )
    table = fit.observations
    sentences = []
    for name, values in curves.fitted.items():
        mine = table.measured[table.observable == name]
        unit = _after(observable_unit(fit, name))
        sentences.append(
            f"{plain(name)}: {counted(mine.size, 'measurement')} {_range(mine)}{unit}; "
            f"the fitted curve lies {_range(values)}{unit}."
        )
    groups = curves.group.size
    panels = f"One panel for each of {counted(groups, 'group')}. " if groups > 1 else ""
    return Caption(
        "Data and fit",
        " ".join(filter(None, [text, failed_draws(fit)])),
        panels + " ".join(sentences),
    )


def _residuals(fit: Fit) -> Caption:
    values = fit.observations.residual[np.isfinite(fit.observations.residual)]
    description = "No residual is finite."
    if values.size:
        outside = int((np.abs(values) > 2).sum())
        description = (
            f"{counted(values.size, 'residual')} {_range(values)}, with mean "
            f"{number(values.mean(), 2)} and root mean square "
            f"{number(np.sqrt(np.mean(values**2)), 2)}; {outside} outside -2 to 2."
        )
    return Caption(
        "Residuals",
        "Standardised residuals over time, and their quantiles against those of a standard "
        "normal distribution. For a good fit with normal or log-normal noise they show no "
        "trend, some 95 % lie between the dashed lines, and the quantiles lie on the diagonal.",
        description,
    )


def _waterfall(fit: Fit) -> Caption:
    above = above_best(fit.starts)
    description = "No start counts."
    if above.size:
        same = int((above <= PLATEAU).sum())
        description = (
            f"{same} of {counted(above.size, 'start')} that count lie within {PLATEAU:g} "
            "of the best objective"
        )
        others = above[above > PLATEAU]
        description += f"; the others {_range(others)} above it." if others.size else "."
    text = (
        "Objective (negative log posterior) of the starts above the best one, sorted. A flat "
        "stretch at zero means that many starts found the same optimum. The axis is linear "
        f"up to {PLATEAU:g} and logarithmic beyond."
    )
    return Caption(
        "Starts", " ".join(filter(None, [text, failed_starts(fit.starts)])), description
    )


def _correlations(fit: Fit) -> Caption:
    names, matrix = parameter_correlations(fit)
    down, across = np.tril_indices_from(matrix, k=-1)
    values = matrix[down, across]
    order = [int(index) for index in np.argsort(-np.abs(values)) if np.isfinite(values[index])]
    strongest = [
        f"{plain(names[down[index]])} with {plain(names[across[index]])} "
        f"{number(values[index], 2)}"
        for index in order[:3]
    ]
    said = f"The strongest: {'; '.join(strongest)}." if strongest else "None exists."
    source = (
        "from the inverse Hessian at the optimum"
        if fit.uncertainty is None
        else "of the posterior approximation, on the scale the optimiser moves in"
    )
    return Caption(
        "Correlations",
        f"Correlations of the parameters {source}. Near 1 or -1 the data tell only a "
        "combination of the two parameters.",
        said,
    )


def _trajectory(result: Trajectory) -> Caption:
    sentences = [_state(result, name) for name in list(result.states)[:24]]
    if result.is_ensemble:
        text = (
            "States over time: the median of the members that did not fail, the bands that "
            "hold 50 % and 90 % of them at each time, and a few single members."
        )
        said = failures(result.status)
    else:
        text, said = "States over time.", stopped(result)
    return Caption("States", " ".join(filter(None, [text, said])), " ".join(sentences))


def _state(result: Trajectory, name: str) -> str:
    unit = _after(result.state_units.get(name, "1"))
    if not result.is_ensemble:
        values = np.asarray(result.states[name], dtype=np.float64)
        return (
            f"{plain(name)} starts at {number(values[0])} and ends at "
            f"{number(values[-1])}{unit}, {_range(values)}."
        )
    low, median, high = ensemble_quantiles(result, name)[[0, 2, 4], -1]
    return (
        f"At the end the median of {plain(name)} is {number(median)}{unit}, and "
        f"{percent(QUANTILES[-1] - QUANTILES[0])} of the members lie between {number(low)} "
        f"and {number(high)}."
    )


def _phase(result: Trajectory) -> Caption:
    x, y = (plain(name) for name in list(result.states)[:2])
    text = f"Phase portrait: {y} against {x}, with start (circle) and end (square)."
    members = phase_members(result)
    spans = [
        f"{plain(name)} {_range(some_members(result.states[name], members))}"
        f"{_after(result.state_units.get(name, '1'))}"
        for name in list(result.states)[:2]
    ]
    return Caption(
        "Phase portrait",
        " ".join(filter(None, [text, phase_note(result)])),
        f"{counted(members.size, 'line')}; {listing(spans)}.",
    )


def _range(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "without a finite value"
    return f"between {number(finite.min())} and {number(finite.max())}"


def _after(unit: str) -> str:
    return "" if unit in ("1", "") else f" {plain(unit)}"
