"""What the loop over lanes asks of a method."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

from solvers.ensemble.lanes.fields import Lanes, Point


class Span(NamedTuple):
    """A step of each lane, in time that runs forwards for every lane.

    - `begin`, `end`: of the step.
    - `sign`: 1, or -1 for lanes whose own time runs backwards.
    - `varied`, `shared`: parameters.
    - `words`: two words of the random key of each lane, if there is noise.
    - `number`: how many steps came before.
    """

    begin: Array
    end: Array
    sign: Array
    varied: Lanes
    shared: Lanes
    words: Lanes
    number: Array

    @property
    def always(self) -> Array:
        """A truth that the compiler does not know, see `apart`."""
        return self.number[0] >= 0

    @property
    def length(self) -> Array:
        """Positive."""
        return self.end - self.begin

    @property
    def h(self) -> Array:
        """The step in the lane's own time."""
        return self.sign * self.length

    def at(self, fraction: float, y: Lanes) -> Point:
        """A point of the step, in the lane's own time."""
        t = self.begin + fraction * self.length if fraction else self.begin
        return Point(self.sign * t, y, self.varied, self.shared)


class Step(NamedTuple):
    """What a step gives.

    - `after`: the states.
    - `carried`: what the next step may use, see `Rule.begin`.
    - `error`: estimates for the controlled states; `None` without one.
    """

    after: Lanes
    carried: Lanes
    error: Lanes | None


class Rule(NamedTuple):
    """A method over lanes.

    - `slope`: the drift, by which the first step is chosen.
    - `begin`: what the first step of a member may use, at its start.
    - `advance`: a step, from the states and what the step before left.
    - `between`: the states at a fraction of an accepted step, from the states at its ends.
    - `order`: of the error estimate.
    """

    slope: Callable[[Point], Lanes]
    begin: Callable[[Point], Lanes]
    advance: Callable[[Span, Lanes, Lanes], Step]
    between: Callable[[Span, Lanes, Lanes, Array], Lanes]
    order: float


def linear_between(span: Span, before: Lanes, after: Lanes, fraction: Array) -> Lanes:
    """Linear interpolation."""
    del span
    return tuple(x + fraction * (z - x) for x, z in zip(before, after, strict=True))


def nothing(point: Any) -> Lanes:
    """What a method leaves that reuses nothing."""
    del point
    return ()
