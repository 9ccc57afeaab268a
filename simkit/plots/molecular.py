"""Pictures of molecular observables: a fitted curve beside the measured one."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from simkit.plots import style
from simkit.plots.words import with_unit


def compared_curves(
    coordinate: ArrayLike,
    measured: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    name: str,
    coordinate_name: str,
    coordinate_unit: str = "1",
    measured_name: str = "measured",
    caption: str = "",
) -> Figure:
    """Measured points with one or more curves, and beneath them what the last curve misses.

    **Arguments:**

    - `coordinate`: of all curves, shape `(points,)`.
    - `measured`: shape `(points,)`.
    - `curves`: curves by the name that the legend gives them, each of shape `(points,)`; the
      last one is the fit.
    - `name`: what the curves are; `coordinate_name`, `coordinate_unit`: of what.
    - `measured_name`: of the measured points in the legend.
    - `caption`: a sentence beneath.

    Raises ValueError for no curve, or one of another length.
    """
    x, y = np.asarray(coordinate, float), np.asarray(measured, float)
    drawn = {key: np.asarray(values, float) for key, values in curves.items()}
    for key, values in {measured_name: y, **drawn}.items():
        if values.shape != x.shape:
            raise ValueError(
                f"curve {key!r}: got shape {values.shape}, expected {x.shape} as the coordinate"
            )
    if not drawn:
        raise ValueError("curves: got none, expected at least one")
    figure = style.new_figure(4.4)
    upper, lower = figure.subplots(
        2, 1, sharex=True, squeeze=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    for axes in (upper, lower):
        style.prepare(axes)
    upper.tick_params(labelbottom=False)
    handles = [
        upper.plot(x, y, linestyle="none", marker="o", markersize=2.6, color=style.GREY)[0]
    ]
    last = list(drawn)[-1]
    others = [key for key in drawn if key != last]
    for place, (key, values) in enumerate(drawn.items()):
        colour = style.BLUE if key == last else style.COLOURS[1 + others.index(key) % 6]
        line = style.LINES[0] if key == last else style.LINES[1 + place % 6]
        handles += upper.plot(
            x, style.drawable(values), color=colour, linestyle=line, linewidth=1.4
        )
    lower.axhline(0.0, color=style.GREY, linewidth=0.8)
    lower.plot(x, style.drawable(y - drawn[last]), color=style.BLUE, linewidth=1.2)
    style.label(upper, y=name)
    style.label(lower, x=with_unit(coordinate_name, coordinate_unit), y="residual")
    style.legend(figure, handles, [measured_name, *drawn])
    style.note(figure, caption)
    return figure
