r"""Standard errors of a fit to averages: from sampling, and from what the model cannot follow.

Sampling: frames are drawn anew in blocks that are longer than their memory, and the
Gauss-Newton step is taken again for each draw (a block bootstrap: H. R. Künsch, Ann. Stat. 17,
1217 (1989)). Misfit: the sandwich with residuals that are independent between blocks of points
only (H. White, Econometrica 50, 1 (1982)). Both are covariances in the numbers of the fit, and
add up.
"""

import dataclasses
import math

import numpy as np

from simkit.molecular.block_errors import autocorrelation_time
from simkit.molecular.fits.reweighting import Prediction, Reweighting


@dataclasses.dataclass(frozen=True)
class FitErrors:
    """What the standard errors of a fit are made of.

    - `sampling`: covariance by the finite number of frames, shape `(numbers, numbers)`, in
      the numbers of the fit (logarithms of positive parameters).
    - `misfit`: covariance by residuals, those of the measurement among them.
    - `objective_noise`: standard deviation of the objective by sampling.
    - `block`: frames in a block of the bootstrap.
    """

    sampling: np.ndarray
    misfit: np.ndarray
    objective_noise: float
    block: int


def fit_errors(
    reweighting: Reweighting,
    found: Prediction,
    lengths: list[int],
    *,
    replicates: int,
    block: int,
    seed: int,
) -> FitErrors:
    """The errors of a fit at some parameters.

    **Arguments:**

    - `reweighting`: targets and deviations.
    - `found`: the averages there.
    - `lengths`: how many frames each state of the pool has, in order.
    - `replicates`: draws of the bootstrap.
    - `block`: points of a target that count as one in the sandwich.
    - `seed`: of the draws.
    """
    jacobian = reweighting.scaled_jacobian(found)
    residuals = reweighting.residuals(found)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    frames = _block_length(found, jacobian, lengths, reweighting.deviation)
    generator = np.random.default_rng(seed)
    steps, objectives = [], []
    for _ in range(replicates):
        weights = found.weights * _counts(generator, lengths, frames)
        weights = weights / np.sum(weights)
        average = weights @ found.values
        centred = found.scores - weights @ found.scores
        slopes = found.explicit - (found.values - average).T @ (weights[:, None] * centred)
        left = (average - reweighting.measured) / reweighting.deviation
        gradient = (slopes / reweighting.deviation[:, None]).T @ left
        steps.append(inverse @ gradient)
        objectives.append(0.5 * left @ left)
    sampling = np.atleast_2d(np.cov(np.stack(steps), rowvar=False))
    return FitErrors(
        sampling=sampling,
        misfit=inverse @ _meat(reweighting, jacobian, residuals, block) @ inverse,
        objective_noise=float(np.std(objectives, ddof=1)),
        block=frames,
    )


def _meat(
    reweighting: Reweighting, jacobian: np.ndarray, residuals: np.ndarray, block: int
) -> np.ndarray:
    """The covariance of the gradient, from residuals that depend on each other in blocks.

    Blocks start at every point in turn, so that where they start does not matter; a target
    of few points is one block.
    """
    numbers = jacobian.shape[1]
    total, begin = np.zeros((numbers, numbers)), 0
    products = jacobian * residuals[:, None]
    for target in reweighting.targets:
        part = products[begin : begin + len(target.measured)]
        begin += len(target.measured)
        size = min(block, len(part))
        sums = np.cumsum(
            np.concatenate([np.zeros((1, numbers)), _both_ends(part, size)]), axis=0
        )
        windows = sums[size:] - sums[:-size]
        total += windows.T @ windows / size
    points = len(residuals)
    return total * points / max(points - numbers, 1)


def _both_ends(part: np.ndarray, size: int) -> np.ndarray:
    """The rows with zeros around them, so that each is in as many windows as the others."""
    zeros = np.zeros((size - 1, part.shape[1]))
    return np.concatenate([zeros, part, zeros])


def _block_length(
    found: Prediction, jacobian: np.ndarray, lengths: list[int], deviation: np.ndarray
) -> int:
    """Frames in a block: twice the memory of what the parameters follow."""
    signals = np.concatenate([found.values / deviation @ jacobian, found.scores], axis=1)
    longest, begin = 1.0, 0
    for length in lengths:
        part = signals[begin : begin + length]
        begin += length
        if length > 1:
            longest = max(longest, 2 * float(np.max(autocorrelation_time(part))))
    # At least a few blocks of each state.
    return max(1, min(math.ceil(longest), min(lengths) // 5))


def _counts(generator: np.random.Generator, lengths: list[int], block: int) -> np.ndarray:
    """How often each frame is drawn, in blocks that wrap around the ends of a state."""
    found = []
    for length in lengths:
        blocks = -(-length // block)
        starts = generator.integers(0, length, blocks)
        places = (starts[:, None] + np.arange(block)).ravel()[:length] % length
        found.append(np.bincount(places, minlength=length))
    return np.concatenate(found)
