"""Averages over the origins of time, by Fourier transforms, and their errors by segments."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simkit.precision import use_double_precision


# Numbers that are transformed together: bounds the memory.
_NUMBERS_AT_ONCE = 2**22
SEGMENTS = 8
"""Into so many segments a trajectory is cut; their scatter gives the errors."""


def checked_lags(frames: int, lags: int | None) -> int:
    """How many lags are computed, from zero on; at most those that fit into a segment.

    Raises `ValueError` for too few frames, or more lags than a segment has.
    """
    most = frames // SEGMENTS
    if most < 2:
        raise ValueError(
            f"There are {frames} frames, expected at least {2 * SEGMENTS}: errors come from "
            f"{SEGMENTS} segments."
        )
    if lags is None:
        return most
    if not 2 <= lags <= most:
        raise ValueError(
            f"There are {lags} lags, expected from 2 to {most}, an eighth of the frames."
        )
    return lags


def checked_interval(interval: float) -> float:
    """The time between two frames. Raises `ValueError` unless it is positive and finite."""
    if not (interval > 0 and np.isfinite(interval)):
        raise ValueError(f"The time between frames is {interval}, expected a positive number.")
    return float(interval)


def correlations(
    values: Float[np.ndarray, "frames particles 3"],
    weights: Float[np.ndarray, " particles"],
    lags: int,
) -> Float[np.ndarray, " lags"]:
    r"""$\sum_i w_i \langle a_i(t) \cdot a_i(t + \tau) \rangle_t$ for each lag."""
    return _over_particles(values, weights, lags, displacements=False)


def squared_displacements(
    values: Float[np.ndarray, "frames particles 3"],
    weights: Float[np.ndarray, " particles"],
    lags: int,
) -> Float[np.ndarray, " lags"]:
    r"""$\sum_i w_i \langle |a_i(t + \tau) - a_i(t)|^2 \rangle_t$ for each lag."""
    return _over_particles(values, weights, lags, displacements=True)


def _over_particles(
    values: np.ndarray, weights: np.ndarray, lags: int, *, displacements: bool
) -> np.ndarray:
    use_double_precision()
    frames, particles, _ = values.shape
    chunk = max(1, _NUMBERS_AT_ONCE // (6 * frames))
    total = np.zeros(lags)
    for begin in range(0, particles, chunk):
        part = jnp.asarray(values[:, begin : begin + chunk], float)
        share = jnp.asarray(weights[begin : begin + chunk], float)
        found = _weighted(part, share, lags, displacements)
        total += np.asarray(found)
    return total


@eqx.filter_jit
def _weighted(
    values: Float[Array, "frames particles 3"],
    weights: Float[Array, " particles"],
    lags: int,
    displacements: bool,
) -> Float[Array, " lags"]:
    frames = len(values)
    counts = frames - jnp.arange(lags)
    if displacements:
        # Squares of large positions would lose the digits of small displacements.
        values = values - jnp.mean(values, axis=0, keepdims=True)
    spectrum = jnp.fft.rfft(values, n=2 * frames, axis=0)
    power = jnp.sum(jnp.abs(spectrum) ** 2 * weights[None, :, None], axis=(1, 2))
    products = jnp.fft.irfft(power)[:lags] / counts
    if not displacements:
        return products
    squares = jnp.sum(values**2 * weights[None, :, None], axis=(1, 2))
    return _sums_of_ends(squares, jnp.arange(lags)) / counts - 2 * products


def _sums_of_ends(squares: Array, lags: Int[Array, " lags"]) -> Array:
    r"""$\sum_t s(t) + s(t + \tau)$ over the origins that a lag has."""
    sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(squares)])
    frames = len(squares)
    return sums[frames - lags] + sums[frames] - sums[lags]


def in_segments(values: np.ndarray) -> list[np.ndarray]:
    """The frames in segments of equal length; the last few may be left out."""
    length = len(values) // SEGMENTS
    return [values[i * length : (i + 1) * length] for i in range(SEGMENTS)]


def error_of_segments(found: list[np.ndarray]) -> np.ndarray:
    """The standard error of the mean over segments."""
    return np.std(np.stack(found), axis=0, ddof=1) / np.sqrt(len(found))
