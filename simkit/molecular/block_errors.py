"""Standard errors of averages over correlated frames.

Frames of a trajectory remember each other, so that the scatter over the square root of their
number is too small an error. Averages over blocks that are long enough do not.

References: H. Flyvbjerg, H. G. Petersen, J. Chem. Phys. 91, 461 (1989); the choice of the
block length: R. M. Lee et al., Phys. Rev. E 83, 066706 (2011); the window of the
autocorrelation time: A. Sokal, "Monte Carlo methods in statistical mechanics" (1997).
"""

import dataclasses

import numpy as np
from jaxtyping import ArrayLike, Float


# Blocks below which the scatter of their averages says nothing.
_FEWEST_BLOCKS = 8
# Windows of the autocorrelation time are so many times that time.
_WINDOW = 5.0


@dataclasses.dataclass(frozen=True)
class Blocking:
    """Standard errors by the length of the blocks; they rise to a plateau.

    - `lengths`: frames in a block, shape `(levels,)`: 1, 2, 4, ...
    - `standard_errors`: of the average, from blocks of each length, shape `(levels, ...)`.
    - `uncertainties`: how uncertain these errors are themselves, of the same shape.
    - `chosen`: which level is long enough, for each component of the series.
    """

    lengths: np.ndarray
    standard_errors: np.ndarray
    uncertainties: np.ndarray
    chosen: np.ndarray


def blocking(series: Float[ArrayLike, "frames ..."]) -> Blocking:
    r"""The standard error of an average by blocks of growing length.

    The block length $B$ that counts is the smallest with $B^3 > 2 n (s_B / s_1)^4$, where
    $s$ is the standard error from blocks of a length: there bias and scatter of the error are
    about equal. A series that is too short for it gives the longest blocks there are, and an
    error that is too small; compare `standard_errors` with each other then.

    **Arguments:**

    - `series`: values of each frame, shape `(frames, ...)`, at even distances.

    Raises `ValueError` for fewer than two frames, or numbers that are not finite.
    """
    values = _checked(series)
    frames = len(values)
    lengths, errors, doubts = [], [], []
    blocks, length = values, 1
    while length == 1 or len(blocks) >= _FEWEST_BLOCKS:
        count = len(blocks)
        error = np.std(blocks, axis=0, ddof=1) / np.sqrt(count)
        lengths.append(length)
        errors.append(error)
        doubts.append(error / np.sqrt(2 * (count - 1)))
        even = 2 * (count // 2)
        blocks, length = (blocks[0:even:2] + blocks[1:even:2]) / 2, 2 * length
    stacked = np.stack(errors)
    with np.errstate(invalid="ignore", divide="ignore"):
        growth = np.nan_to_num(stacked / stacked[0], nan=1.0, posinf=1.0)
    cubes = np.asarray(lengths, float) ** 3
    enough = cubes.reshape(-1, *[1] * (stacked.ndim - 1)) > 2 * frames * growth**4
    enough[-1] = True
    return Blocking(
        lengths=np.asarray(lengths),
        standard_errors=stacked,
        uncertainties=np.stack(doubts),
        chosen=np.argmax(enough, axis=0),
    )


def block_average(series: Float[ArrayLike, "frames ..."]) -> tuple[np.ndarray, np.ndarray]:
    """The average over frames and its standard error, by blocks that are long enough.

    **Arguments:**

    - `series`: values of each frame, shape `(frames, ...)`, at even distances.

    **Returns:** two arrays of shape `(...)`. A single frame has no error: not a number.

    Raises `ValueError` for no frames, or numbers that are not finite.
    """
    values = np.asarray(series, float)
    if len(values) == 1:
        _refuse_nonfinite(values)
        return values[0], np.full(values.shape[1:], np.nan)
    found = blocking(values)
    errors = np.take_along_axis(found.standard_errors, found.chosen[None], axis=0)[0]
    return np.mean(values, axis=0), errors


def autocorrelation_time(series: Float[ArrayLike, "frames ..."]) -> np.ndarray:
    r"""Integrated autocorrelation time in frames, $\tau = \tfrac12 + \sum_{k \ge 1} \rho_k$.

    Independent frames have 1/2; the average of `frames` has the variance of
    $\mathrm{frames} / 2\tau$ independent ones. The sum ends at the first lag beyond
    $5\tau$, so that noise is not summed. It is too small for series shorter than about
    $50\tau$.

    **Arguments:**

    - `series`: values of each frame, shape `(frames, ...)`, at even distances.

    **Returns:** shape `(...)`; 1/2 for a constant.

    Raises `ValueError` for fewer than two frames, or numbers that are not finite.
    """
    values = _checked(series)
    frames = len(values)
    centred = values - np.mean(values, axis=0)
    spectrum = np.fft.rfft(centred, n=2 * frames, axis=0)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:frames]
    start = correlation[0]
    normal = correlation / np.where(start > 0, start, 1.0)
    sums = 0.5 + np.cumsum(np.where(start > 0, normal, 0.0)[1:], axis=0)
    lags = np.arange(1, frames).reshape(-1, *[1] * (values.ndim - 1))
    ended = lags >= _WINDOW * sums
    ended[-1] = True
    place = np.argmax(ended, axis=0)
    return np.maximum(np.take_along_axis(sums, place[None], axis=0)[0], 0.5)


def _checked(series: Float[ArrayLike, "frames ..."]) -> np.ndarray:
    values = np.asarray(series, float)
    if values.ndim == 0 or len(values) < 2:
        raise ValueError(f"The series has shape {values.shape}, expected at least two frames.")
    _refuse_nonfinite(values)
    return values


def _refuse_nonfinite(values: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"Frame {bad[0][0]} of the series is {values[tuple(bad[0])]}, expected a finite "
            "number."
        )
