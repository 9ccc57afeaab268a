r"""The mean squared displacement, and the diffusion coefficient from its slope.

$$\mathrm{msd}(\tau) = \frac1N \sum_i \langle |r_i(t + \tau) - r_i(t)|^2 \rangle_t
  \;\to\; 6 D \tau$$

It is computed by Fourier transforms, in a time that grows as the number of frames times its
logarithm. References: E. Kneller et al., Comput. Phys. Commun. 91, 191 (1995) for the
transform; I.-C. Yeh, G. Hummer, J. Phys. Chem. B 108, 15873 (2004) for the size of the box.
"""

import math

import numpy as np
from jaxtyping import ArrayLike, Float

from simkit.molecular.frames import checked_positions
from simkit.molecular.time_correlations import (
    checked_interval,
    checked_lags,
    error_of_segments,
    in_segments,
    squared_displacements,
)
from simkit.molecular.values import Average, Curve, power_of_unit, ratio_of_units


# Madelung constant of a cubic lattice of point charges in a neutral background.
_SIMPLE_CUBIC = 2.837297


def mean_squared_displacement(
    positions: Float[ArrayLike, "frames particles 3"],
    interval: float,
    *,
    lags: int | None = None,
    length_unit: str = "1",
    time_unit: str = "1",
) -> Curve:
    """The mean squared displacement by time, with its standard error.

    Errors come from the scatter among eight segments of the trajectory.

    **Arguments:**

    - `positions`: shape `(frames, particles, 3)`, as the particles went: not folded into
      a box, or displacements across its faces are lost.
    - `interval`: time between two frames.
    - `lags`: how many lags, from zero on; an eighth of the frames at most, and if left out.
    - `length_unit`, `time_unit`: names of units.

    Raises `ValueError` for fewer than 16 frames, too many lags, an interval that is not
    positive, and positions of a wrong shape or not finite.
    """
    values, interval = checked_positions(positions), checked_interval(interval)
    lags = checked_lags(len(values), lags)
    whole, parts = _of_segments(values, lags)
    return Curve(
        "mean squared displacement",
        power_of_unit(length_unit, 2),
        "time",
        time_unit,
        interval * np.arange(lags),
        whole,
        error_of_segments(parts),
    )


def diffusion_coefficient(
    positions: Float[ArrayLike, "frames particles 3"],
    interval: float,
    *,
    start: float,
    stop: float | None = None,
    length_unit: str = "1",
    time_unit: str = "1",
) -> Average:
    """The self-diffusion coefficient: a sixth of the slope of the mean squared displacement.

    The slope is that of a straight line through the lags from `start` to `stop`; its error
    comes from the scatter among eight segments of the trajectory. The value holds for the
    size of the box; see
    [`finite_size_correction`][simkit.molecular.displacements.finite_size_correction].

    **Arguments:**

    - `positions`, `interval`, `length_unit`, `time_unit`: as of
      [`mean_squared_displacement`][simkit.molecular.displacements.mean_squared_displacement].
    - `start`, `stop`: times between which the line is laid; particles must have forgotten
      their velocity at the start. The stop is the longest lag if left out.

    Raises `ValueError` as that does, and if fewer than two lags lie between the times.
    """
    values, interval = checked_positions(positions), checked_interval(interval)
    lags = checked_lags(len(values), None)
    times = interval * np.arange(lags)
    stop = float(times[-1]) if stop is None else stop
    used = (times >= start) & (times <= stop * (1 + 1e-12))
    if used.sum() < 2:
        raise ValueError(
            f"Between {start:.6g} and {stop:.6g} lie {used.sum()} lags, expected at least two; "
            f"lags are {interval:.6g} apart and end at {times[-1]:.6g}."
        )
    whole, parts = _of_segments(values, lags)
    slopes = [np.polyfit(times[used], curve[used], 1)[0] / 6 for curve in (whole, *parts)]
    unit = ratio_of_units(power_of_unit(length_unit, 2), time_unit)
    return Average("diffusion coefficient", unit, slopes[0], error_of_segments(slopes[1:]))


def finite_size_correction(thermal_energy: float, viscosity: float, length: float) -> float:
    r"""What a cubic box takes off a diffusion coefficient: $2.837297\, k T / 6 \pi \eta L$.

    **Arguments:**

    - `thermal_energy`: $k T$, in the unit of energy.
    - `viscosity`: in energy times time per volume.
    - `length`: edge of the box.
    """
    return _SIMPLE_CUBIC * thermal_energy / (6 * math.pi * viscosity * length)


def _of_segments(values: np.ndarray, lags: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The curve of all frames, and those of the segments."""
    weights = np.full(values.shape[1], 1 / values.shape[1])
    whole = squared_displacements(values, weights, lags)
    return whole, [squared_displacements(part, weights, lags) for part in in_segments(values)]
