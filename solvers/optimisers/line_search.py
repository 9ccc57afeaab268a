"""A line search for the Wolfe conditions, one evaluation at a time."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from solvers.optimisers.base import choose
from solvers.optimisers.flat_objective import Scalar, Vector, rounding


SUFFICIENT, FLATTER = 1e-4, 0.9
"""The constants of the Wolfe conditions on decrease and slope."""


class Point(NamedTuple):
    """A point on the line: how far along, objective, and gradient."""

    share: Scalar
    value: Scalar
    gradient: Vector


class Line(NamedTuple):
    """A line search: the direction, the next share of it, and the bracket.

    - `direction`, `slope`, `longest`: the direction, the slope at its start, and the share
      that a bound allows.
    - `share`: to be evaluated next.
    - `low`, `high`: the longest share known to be too short and the shortest too long.
    - `tries`: evaluations so far.
    """

    direction: Vector
    slope: Scalar
    longest: Scalar
    share: Scalar
    low: Point
    high: Point
    tries: Int[Array, ""]


class Verdict(NamedTuple):
    """What the Wolfe conditions say of a point on the line."""

    good: Bool[Array, ""]
    too_short: Bool[Array, ""]


def verdict(line: Line, value: Scalar, there: Point, finite: Array, noise: float) -> Verdict:
    """Whether the point is good, too short, or else too long.

    `value` is the objective where the line starts.
    """
    slope = jnp.dot(there.gradient, line.direction)
    error = rounding(value, noise)
    falls = there.value <= value + SUFFICIENT * there.share * line.slope
    # Where rounding hides the decrease, the slope tells.
    hidden = (jnp.abs(there.share * line.slope) <= 10 * error) & (there.value <= value + error)
    falls = jnp.where(hidden, slope <= (2 * SUFFICIENT - 1) * line.slope, falls) & finite
    steep = slope < FLATTER * line.slope
    at_bound = there.share >= line.longest
    return Verdict(falls & (~steep | at_bound), falls & steep & ~at_bound)


def narrow(line: Line, there: Point, found: Verdict, finite: Array) -> Line:
    """The bracket with a new point, and the next share."""
    low = choose(found.too_short, there, line.low)
    too_long = ~found.good & ~found.too_short
    unknown = jnp.where(finite, there.value, jnp.inf)
    gradient = jnp.where(finite, there.gradient, 0.0)
    high = choose(too_long, Point(there.share, unknown, gradient), line.high)
    bracketed = jnp.isfinite(high.share)
    width = high.share - low.share
    inner = _interpolate(low, high, line.direction)
    # Every third try halves the bracket, should interpolation creep.
    halves = ~jnp.isfinite(inner) | (line.tries % 3 == 2)
    inner = choose(halves, 0.5 * width, jnp.clip(inner, 0.1 * width, 0.9 * width))
    inner = choose(jnp.isfinite(high.value), inner, 0.2 * width)
    share = jnp.where(bracketed, low.share + inner, jnp.minimum(4 * line.share, line.longest))
    return line._replace(low=low, high=high, share=share, tries=line.tries + 1)


def _interpolate(low: Point, high: Point, direction: Vector) -> Scalar:
    """The distance from `low` to the minimum of the cubic through both ends."""
    width = high.share - low.share
    slopes = jnp.dot(low.gradient, direction), jnp.dot(high.gradient, direction)
    mean = slopes[0] + slopes[1] - 3 * (high.value - low.value) / width
    inside = mean**2 - slopes[0] * slopes[1]
    root = jnp.sqrt(jnp.maximum(inside, 0.0))
    place = width * (1 - (slopes[1] + root - mean) / (slopes[1] - slopes[0] + 2 * root))
    return jnp.where(inside >= 0, place, jnp.nan)


def is_spent(line: Line, x: Vector) -> Bool[Array, ""]:
    """Whether a search has nothing left to try."""
    epsilon = jnp.finfo(x.dtype).eps
    width = (line.high.share - line.low.share) * jnp.abs(line.direction)
    return (line.tries >= 40) | jnp.all(width <= epsilon * jnp.abs(x))
