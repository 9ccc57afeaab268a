r"""The velocity autocorrelation function, its spectrum, and diffusion from its integral.

$$C(\tau) = \frac1N \sum_i \langle v_i(t) \cdot v_i(t + \tau) \rangle_t , \qquad
  \hat C(\nu) = 4 \int_0^\infty C(\tau) \cos(2\pi\nu\tau)\, d\tau , \qquad
  D = \frac13 \int_0^\infty C(\tau)\, d\tau$$

The integral of the spectrum over all positive frequencies is $C(0)$; its value at zero is
$12 D$. Source: D. Frenkel, B. Smit, *Understanding Molecular Simulation*, 2nd ed. (2002),
section 4.4.
"""

import numpy as np
from jaxtyping import ArrayLike, Float

from simkit.molecular.frames import checked_positions
from simkit.molecular.time_correlations import (
    checked_interval,
    checked_lags,
    correlations,
    error_of_segments,
    in_segments,
)
from simkit.molecular.values import Average, Curve, power_of_unit, ratio_of_units


def velocity_autocorrelation(
    velocities: Float[ArrayLike, "frames particles 3"],
    interval: float,
    *,
    lags: int | None = None,
    masses: Float[ArrayLike, " particles"] | None = None,
    length_unit: str = "1",
    time_unit: str = "1",
) -> Curve:
    """The velocity autocorrelation function by time, with its standard error.

    Errors come from the scatter among eight segments of the trajectory.

    **Arguments:**

    - `velocities`: shape `(frames, particles, 3)`.
    - `interval`: time between two frames; short enough to follow the fastest motion.
    - `lags`: how many lags, from zero on; an eighth of the frames at most, and if left out.
    - `masses`: weights of the particles, relative to their mean; left out, all the same.
      With masses the spectrum is the density of vibrational states.
    - `length_unit`, `time_unit`: names of units.

    Raises `ValueError` for fewer than 16 frames, too many lags, an interval that is not
    positive, masses of a wrong shape, and velocities of a wrong shape or not finite.
    """
    values = checked_positions(velocities, "velocities")
    interval = checked_interval(interval)
    lags = checked_lags(len(values), lags)
    whole, parts = _of_segments(values, masses, lags)
    return Curve(
        "velocity autocorrelation",
        ratio_of_units(power_of_unit(length_unit, 2), power_of_unit(time_unit, 2)),
        "time",
        time_unit,
        interval * np.arange(lags),
        whole,
        error_of_segments(parts),
    )


def velocity_spectrum(
    velocities: Float[ArrayLike, "frames particles 3"],
    interval: float,
    *,
    lags: int | None = None,
    masses: Float[ArrayLike, " particles"] | None = None,
    length_unit: str = "1",
    time_unit: str = "1",
) -> Curve:
    """The spectrum of the velocity autocorrelation by frequency, with its standard error.

    The correlation function is multiplied by the window of Hann, `cos^2` from one at zero
    to zero at its last lag, so that its end leaves no ripples; peaks are at least about
    one over twice the longest lag wide.

    Arguments and errors are those of
    [`velocity_autocorrelation`][simkit.molecular.velocity_correlations.velocity_autocorrelation].
    """
    values = checked_positions(velocities, "velocities")
    interval = checked_interval(interval)
    lags = checked_lags(len(values), lags)
    whole, parts = _of_segments(values, masses, lags)
    frequencies = np.arange(lags) / (2 * interval * (lags - 1))
    window = np.cos(np.pi * np.arange(lags) / (2 * (lags - 1))) ** 2
    weights = 4 * interval * window
    weights[0] /= 2
    matrix = np.cos(2 * np.pi * np.outer(frequencies, interval * np.arange(lags))) * weights
    unit = power_of_unit(length_unit, 2)
    return Curve(
        "velocity spectrum",
        ratio_of_units(unit, time_unit),
        "frequency",
        power_of_unit(time_unit, -1),
        frequencies,
        matrix @ whole,
        error_of_segments([matrix @ part for part in parts]),
    )


def green_kubo_diffusion(
    velocities: Float[ArrayLike, "frames particles 3"],
    interval: float,
    *,
    stop: float | None = None,
    length_unit: str = "1",
    time_unit: str = "1",
) -> Average:
    """The self-diffusion coefficient: a third of the integral of the velocity autocorrelation.

    **Arguments:**

    - `velocities`, `interval`, `length_unit`, `time_unit`: as of
      [`velocity_autocorrelation`][simkit.molecular.velocity_correlations.velocity_autocorrelation].
    - `stop`: where the integral ends, by the trapezoidal rule; the longest lag if left out.

    Raises `ValueError` as that does, and for a stop below one interval.
    """
    values = checked_positions(velocities, "velocities")
    interval = checked_interval(interval)
    lags = checked_lags(len(values), None)
    if stop is not None:
        lags = min(lags, int(stop / interval * (1 + 1e-12)) + 1)
        if lags < 2:
            raise ValueError(
                f"The integral stops at {stop:.6g}, expected at least one interval of "
                f"{interval:.6g}."
            )
    whole, parts = _of_segments(values, None, lags)
    found = [np.trapezoid(curve, dx=interval) / 3 for curve in (whole, *parts)]
    unit = ratio_of_units(power_of_unit(length_unit, 2), time_unit)
    return Average("diffusion coefficient", unit, found[0], error_of_segments(found[1:]))


def _of_segments(
    values: np.ndarray, masses: Float[ArrayLike, " particles"] | None, lags: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The curve of all frames, and those of the segments."""
    particles = values.shape[1]
    weights = np.ones(particles) if masses is None else np.asarray(masses, float)
    if weights.shape != (particles,) or not np.all(weights > 0):
        raise ValueError(
            f"The masses have shape {weights.shape}, expected ({particles},) positive numbers."
        )
    weights = weights / weights.sum()
    whole = correlations(values, weights, lags)
    return whole, [correlations(part, weights, lags) for part in in_segments(values)]
