"""What the tests of figures look at: lines, words and bands of a figure, and odd results."""

import dataclasses
import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from simkit.results import CurveTable, Fit, ObservationTable, Trajectory

from .samples import sample_fit, sample_trajectory


def draw(figure: Figure) -> Figure:
    """Draw it, so that anything lazy happens; a warning fails the test."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def lines(axes: Axes) -> list[np.ndarray]:
    """The points of each line, shape `(point, 2)`."""
    return [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]


def said(figure: Figure) -> str:
    """All text of a figure that is no tick label."""
    texts = [*figure.texts]
    if figure._supxlabel is not None:  # pyright: ignore[reportAttributeAccessIssue]
        texts.append(figure._supxlabel)  # pyright: ignore[reportAttributeAccessIssue]
    for drawn in figure.legends:
        texts += drawn.get_texts()
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.texts]
    return " ".join(text.get_text().replace("\n", " ") for text in texts)


def has_line(axes: Axes, x: np.ndarray, y: np.ndarray) -> bool:
    wanted = np.stack([x, y], axis=1)
    return any(
        points.shape == wanted.shape and np.array_equal(points, wanted, equal_nan=True)
        for points in lines(axes)
    )


def band_edges(axes: Axes) -> list[set[float]]:
    """The heights that the outline of each band passes, rounded."""
    return [
        {round(float(y), 9) for y in band.get_paths()[0].vertices[:, 1]}  # pyright: ignore
        for band in axes.collections
        if isinstance(band, PolyCollection)
    ]


def grouped_fit(groups: int) -> Fit:
    """The sample with its data repeated for several groups."""
    base = sample_fit()
    names = np.array([str(index + 1) for index in range(groups)])
    table, curves = base.observations, base.curves
    rows = table.time.size

    def repeated(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"prey": np.tile(values["prey"], (groups, 1))}

    keep = table.observable == "prey"
    columns = {
        field.name: np.tile(getattr(table, field.name)[keep], groups)
        for field in dataclasses.fields(table)
    }
    columns["group"] = np.repeat(names, rows // 2)
    many = CurveTable(
        group=names,
        time=np.tile(curves.time, (groups, 1)),
        fitted=repeated(curves.fitted),
        lower={},
        upper={},
        predictive_lower={},
        predictive_upper={},
        units={"prey": "thousand"},
    )
    return dataclasses.replace(
        base, observations=ObservationTable(**columns), curves=many, uncertainty=None
    )


def many_parameters(count: int) -> Fit:
    """The sample with so many parameters and a random covariance."""
    base = sample_fit(with_uncertainty=False)
    factor = np.random.default_rng(3).standard_normal((count, count + 2))
    columns = {
        field.name: np.resize(getattr(base.parameters, field.name), count)
        for field in dataclasses.fields(base.parameters)
    }
    columns["name"] = np.array([f"elimination_rate[{index + 1}]" for index in range(count)])
    return dataclasses.replace(
        base,
        parameters=type(base.parameters)(**columns),
        covariance=factor @ factor.T,
    )


def hostile_trajectory(text: str) -> Trajectory:
    base = sample_trajectory()
    states = {f"{text}{index}": values for index, values in enumerate(base.states.values())}
    units = dict.fromkeys(states, f"{text} per $m^2")
    return dataclasses.replace(
        base, title=text, states=states, state_units=units, time_unit=text
    )
