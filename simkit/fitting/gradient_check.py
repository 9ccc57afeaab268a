"""The gradient of a fit compared with finite differences, before it is relied upon."""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from simkit.fitting.posterior import Posterior
from simkit.progress import Progress, silent
from solvers.gradients import Forward


TOLERANCE = 1e-2
"""Relative difference above which a gradient is wrong. Solves with loose tolerances have
gradients that are right to some thousandths; a wrong one is off by more."""

_LARGEST_STEP = 0.02
_REFINEMENT = 4.0
_LEVELS = 10
_SETTLED = 1e-6


@dataclasses.dataclass(frozen=True)
class GradientCheck:
    """The gradient of the objective at one point, in two ways.

    - `names`: the free numbers, as in tables.
    - `gradient`: by automatic differentiation, on the optimiser's scale, shape `(parameters,)`.
    - `differences`: the same by finite differences; NaN where there are none.
    - `scatter`: how far differences of neighbouring step sizes lie apart, which says what they
      can tell.
    """

    names: tuple[str, ...]
    gradient: Float[np.ndarray, " parameters"]
    differences: Float[np.ndarray, " parameters"]
    scatter: Float[np.ndarray, " parameters"]

    @property
    def relative_difference(self) -> Float[np.ndarray, " parameters"]:
        """Difference of the two over the larger, NaN where one of them is not finite.

        What is a thousandth of the largest component or less is measured by that thousandth.
        """
        with np.errstate(invalid="ignore"):  # infinite gradients
            return np.abs(self.gradient - self.differences) / self._sizes()

    @property
    def judged(self) -> Bool[np.ndarray, " parameters"]:
        """Where the differences are good enough to say that a gradient is wrong."""
        return self.scatter / self._sizes() <= TOLERANCE

    @property
    def wrong(self) -> Bool[np.ndarray, " parameters"]:
        """Where the gradient is not finite, or away from differences that can tell."""
        away = (self.relative_difference > TOLERANCE) & self.judged
        return ~np.isfinite(self.gradient) | away

    @property
    def worst(self) -> int:
        """The place of the worst: one that is not finite, else of all that were judged."""
        if not np.all(np.isfinite(self.gradient)):
            return int(np.argmin(np.isfinite(self.gradient)))
        relative = np.where(self.judged, self.relative_difference, -1.0)
        return int(np.argmax(relative))

    def _sizes(self) -> np.ndarray:
        sizes = np.fmax(np.abs(self.gradient), np.abs(self.differences))
        largest = np.max(sizes, initial=0.0, where=np.isfinite(sizes))
        return np.fmax(sizes, 1e-3 * largest if largest > 0 else 1.0)


def check_gradient(
    posterior: Posterior,
    x: Float[ArrayLike, " parameters"],
    ranges: Float[ArrayLike, " parameters"],
    progress: Progress | None = None,
) -> GradientCheck:
    """Differentiate the objective of a fit at a point, and compare with finite differences.

    **Arguments:**

    - `x`: the point, on the optimiser's scale; the objective must be finite there.
    - `ranges`: how far each number may be expected to move: the largest step is a fiftieth.
    - `progress`: counts the parameters.

    Differences are central with one extrapolation (Richardson), of steps that become shorter
    until two neighbours agree: long steps suffer from curvature, short ones from the tolerance
    of the solver, and the best pair is taken.
    """
    x, ranges = np.asarray(x, float), np.asarray(ranges, float)
    tell = progress or silent
    tell(0, len(x), "differentiating")
    gradient = np.asarray(_gradient(posterior, x))
    largest = np.max(np.abs(gradient), initial=0.0, where=np.isfinite(gradient))
    differences, scatter = np.full(x.shape, math.nan), np.full(x.shape, math.inf)
    for i in range(len(x)):
        tell(i, len(x), "finite differences")

        def along(step: float, place: int = i) -> float:
            moved = x.copy()
            moved[place] += step
            return float(objective(posterior, moved))

        differences[i], scatter[i] = derivative(
            along, _LARGEST_STEP * ranges[i], 1e-3 * largest
        )
    names = tuple(entry.label for entry in posterior.parameters.entries)
    return GradientCheck(names, gradient, differences, scatter)


def derivative(
    function: Callable[[float], float], step: float, least: float = 0.0
) -> tuple[float, float]:
    """The derivative at zero by central differences, and how sure it is.

    **Arguments:**

    - `step`: the longest.
    - `least`: a size below which the derivative need not be known better.

    **Returns:** the best of the derivatives, and its distance from that of the next longer
    step; NaN and infinity where the function is not finite.
    """
    best, scatter = math.nan, math.inf
    before = previous = math.nan
    for _ in range(_LEVELS):
        difference = (function(step) - function(-step)) / (2 * step)
        extrapolated = difference + (difference - before) / (_REFINEMENT**2 - 1)
        apart = abs(extrapolated - previous)
        if apart < scatter:
            best, scatter = extrapolated, apart
        if apart <= _SETTLED * max(abs(extrapolated), least):
            break
        before, previous, step = difference, extrapolated, step / _REFINEMENT
    return best, scatter


@eqx.filter_jit
def objective(posterior: Posterior, x: Float[ArrayLike, " parameters"]) -> Float[Array, ""]:
    """The objective of a fit, as a compiled program."""
    return posterior.negative_log_posterior(jax.numpy.asarray(x))


@eqx.filter_jit
def _gradient(posterior: Posterior, x: Float[ArrayLike, " parameters"]) -> Array:
    forward = isinstance(posterior.gradient, Forward)
    differentiate = jax.jacfwd if forward else jax.grad
    return differentiate(posterior.negative_log_posterior)(jax.numpy.asarray(x))
