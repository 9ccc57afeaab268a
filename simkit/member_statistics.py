"""Statistics over the members of an ensemble at each time, in one pass over the states."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from simkit.progress import Progress, silent
from simkit.results import Trajectory
from simkit.stored import StoredArray, as_stored, time_blocks


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Probabilities of the quantiles: the ends of the 90 % and 50 % bands, and the median."""


@dataclasses.dataclass(frozen=True)
class MemberStatistics:
    """One state of an ensemble over its members, at each saved time.

    The first six are of members that reached the end, from finite values alone, and NaN
    where there is none; each of shape `(time,)`, the quantiles `(level, time)`.

    - `count`: members with a finite value.
    - `mean`, `standard_deviation` (with `count - 1` below the sum), `lowest`, `highest`.
    - `quantiles`: at the probabilities `levels`, interpolated linearly between members
      (definition 7 of Hyndman and Fan, The American Statistician 50, 361, 1996).
    - `levels`: probabilities.
    - `first`, `last`: means at the first and the last time of all members, failed or not.
    - `least`, `greatest`: extremes over all times of all members.
    """

    count: np.ndarray
    mean: np.ndarray
    standard_deviation: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    quantiles: np.ndarray
    levels: tuple[float, ...]
    first: float
    last: float
    least: float
    greatest: float


def member_statistics(
    result: Trajectory,
    state: str,
    levels: Sequence[float] = LEVELS,
    progress: Progress = silent,
) -> MemberStatistics:
    """Statistics of one state of an ensemble.

    Reads the values once, a block of times after the other, so that memory does not grow
    with the number of members beyond one block. What was found of a stored array is kept.

    **Arguments:**

    - `levels`: probabilities of the quantiles, each from 0 to 1.
    - `progress`: told the times that are done.

    **Raises:** `ValueError` for a single solve.
    """
    if not result.is_ensemble:
        raise ValueError("statistics over members: the result is a single solve.")
    values, levels = as_stored(result.states[state]), tuple(levels)
    key = ("statistics", levels)
    if key not in values.memo:
        values.memo[key] = _statistics(values, result.succeeded, levels, state, progress)
    return values.memo[key]


def survey(result: Trajectory, progress: Progress = silent) -> None:
    """Find out the statistics of all stored states of an ensemble, telling how far it is."""
    whole = result.times.size * len(result.states)
    for place, (name, values) in enumerate(result.states.items()):
        before = place * result.times.size

        def tick(done: int, total: int, message: str, before: int = before) -> None:
            del total  # of one state
            progress(before + done, whole, message)

        if isinstance(values, StoredArray):
            member_statistics(result, name, progress=tick)


def _statistics(
    values: StoredArray,
    good: np.ndarray,
    levels: tuple[float, ...],
    state: str,
    progress: Progress,
) -> MemberStatistics:
    times = values.shape[1]
    rows = np.full((5 + len(levels), times), np.nan)
    ends, extremes = [np.nan, np.nan], [np.inf, -np.inf]
    for block in time_blocks(values):
        part = values.part(slice(None), block)
        if block.start == 0:
            ends[0] = _mean(part[:, 0])
        if block.stop == times:
            ends[1] = _mean(part[:, -1])
        # Members of one time side by side; sorting puts NaN behind all numbers.
        part = np.array(part.T, dtype=np.float64, order="C")
        part[~np.isfinite(part)] = np.nan
        if np.isfinite(part).any():
            extremes[0] = min(extremes[0], float(np.nanmin(part)))
            extremes[1] = max(extremes[1], float(np.nanmax(part)))
        if not good.all():
            part = part[:, good]
        part.sort(axis=1)
        rows[:, block] = _of_sorted(part, levels)
        progress(block.stop, times, f"statistics of {state}")
    least, greatest = (each if np.isfinite(each) else np.nan for each in extremes)
    return MemberStatistics(
        count=rows[0].astype(np.int64),
        mean=rows[1],
        standard_deviation=rows[2],
        lowest=rows[3],
        highest=rows[4],
        quantiles=rows[5:],
        levels=levels,
        first=ends[0],
        last=ends[1],
        least=least,
        greatest=greatest,
    )


def _of_sorted(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Statistics of each row of values in ascending order with NaN behind."""
    answer = np.full((5 + len(levels), values.shape[0]), np.nan)
    count = values.shape[1] - np.isnan(values).sum(axis=1)
    answer[0] = count
    some = np.flatnonzero(count)
    if some.size == 0:
        return answer
    values, count = values[some], count[some]
    row = np.arange(some.size)
    missing = np.isnan(values)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.sum(axis=1, where=~missing) / count
        # Rounding must not put it beyond members that are all alike.
        mean = np.clip(mean, values[:, 0], values[row, count - 1])
        deviation = values - mean[:, np.newaxis]
        deviation[missing] = 0.0
        squares = np.einsum("ij,ij->i", deviation, deviation)
        spread = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
        answer[1:5, some] = mean, spread, values[:, 0], values[row, count - 1]
        for place, level in enumerate(levels):
            position = level * (count - 1)
            below = np.floor(position).astype(np.int64)
            above = np.minimum(below + 1, count - 1)
            answer[5 + place, some] = _between(
                values[row, below], values[row, above], position - below
            )
    return answer


def _between(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # From the nearer end, as numpy.quantile does: exact at both ends.
    step = high - low
    return np.where(weight < 0.5, low + step * weight, high - step * (1.0 - weight))


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
