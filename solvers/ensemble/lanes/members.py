"""What each member is before it enters a lane: its times, first step and numbers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from solvers.ensemble.lanes.control import Tolerance, just_before
from solvers.ensemble.lanes.fields import Lanes, Point, columns
from solvers.ensemble.lanes.rule import Rule
from solvers.ensemble.law import Law, Question
from solvers.ensemble.stepping import FIRST_LENGTH


class Plan(NamedTuple):
    """How steps are chosen.

    - `tolerance`: of adaptive steps.
    - `constant`: the constant step, else.
    - `on_saves`: whether adaptive steps end on saved times.
    - `most_steps`: after which a member fails.
    """

    tolerance: Tolerance
    constant: float | None
    on_saves: bool
    most_steps: int


class Saves(NamedTuple):
    """Saved times, in time that runs forwards, of all members or of each.

    - `following`: for each time the number of the first one behind it.
    - `first`: for each member the number of the first one behind its start.
    """

    times: Array
    following: Int[Array, "..."]
    first: Int[Array, " N"]

    def at(self, member: Array, number: Array) -> Array:
        """The saved time of that number; infinite behind the last."""
        place = jnp.minimum(number, self.times.shape[-1] - 1)
        found = self.times[place] if self.times.ndim == 1 else self.times[member, place]
        return jnp.where(number < self.times.shape[-1], found, jnp.inf)

    def behind(self, member: Array, number: Array) -> Array:
        """The number of the first saved time behind the one of that number."""
        place = jnp.minimum(number, self.times.shape[-1] - 1)
        return self.following[place] if self.times.ndim == 1 else self.following[member, place]


class Entry(NamedTuple):
    """A member as it enters a lane, or all of them; times run forwards.

    - `begin`, `end`: of the first step.
    - `stop`, `floor`: where it stops, and from where on a step ends there.
    - `sign`: as of `Span`.
    - `steps`: how many constant steps it takes.
    """

    begin: Array
    end: Array
    stop: Array
    floor: Array
    sign: Array
    steps: Array
    y: Lanes
    varied: Lanes
    words: Lanes


class Table(NamedTuple):
    """All members, one row for each, so that a lane finds what it needs in one place."""

    reals: Float[Array, "N columns"]
    words: UInt32[Array, "N words"]
    states: int

    def entry(self, member: Array) -> Entry:
        """The members of these numbers."""
        row = columns(jnp.take(self.reals, member, axis=0, mode="clip"))
        words = columns(jnp.take(self.words, member, axis=0, mode="clip"))
        begin, end, stop, floor, sign, steps, *others = row
        y, varied = tuple(others[: self.states]), tuple(others[self.states :])
        return Entry(begin, end, stop, floor, sign, steps, y, varied, words)


def prepare(
    law: Law, rule: Rule, plan: Plan, question: Question
) -> tuple[Table, Saves, Bool[Array, " N"]]:
    """The table of all members, their saved times, and which have a bad start."""
    kind = question.initial_states.dtype
    start, stop = (jnp.asarray(t, kind) for t in (question.start, question.stop))
    sign = jnp.where(start < stop, 1.0, -1.0).astype(kind)
    point = Point(
        start,
        columns(question.initial_states),
        columns(question.varied),
        tuple(question.shared),
    )
    bad = _is_bad(rule, point, stop)
    begin, last = sign * start, sign * stop
    last = jnp.where(bad, begin, last)
    saves = _saves(question, sign, begin, kind)
    steps = jnp.zeros_like(begin)
    length = jnp.full_like(begin, FIRST_LENGTH if plan.constant is None else plan.constant)
    if plan.constant is not None:
        # A step less by rounding must not make one more.
        steps = jnp.ceil((last - begin) / jnp.nextafter(length, jnp.inf))
    end = jnp.minimum(begin + length, last)
    if plan.on_saves:
        end = jnp.minimum(end, saves.at(jnp.arange(begin.size), saves.first))
    floor = just_before(last)
    reals = jnp.stack([begin, end, last, floor, sign, steps, *point.y, *point.varied], axis=1)
    words = question.keys
    if words is None:
        words = jnp.zeros((begin.size, 0), jnp.uint32)
    return Table(reals, words[:, :2], law.states), saves, bad


def _is_bad(rule: Rule, point: Point, stop: Array) -> Array:
    given = (point.t, stop, *point.y, *rule.slope(point))
    good = jnp.ones(stop.shape, bool)
    for x in given:
        good = good & jnp.isfinite(x)
    return ~good


def _saves(question: Question, sign: Array, begin: Array, kind: Any) -> Saves:
    times = jnp.asarray(question.times, kind)

    def behind(times: Array, t: Array) -> Array:
        return jnp.searchsorted(times, t, side="right").astype(jnp.int32)

    if times.ndim == 1:
        # All members have these times, so that all run the same way.
        times = sign[0] * times
        return Saves(times, behind(times, times), behind(times, begin))
    times = sign[:, None] * times
    each = jax.vmap(behind)
    return Saves(times, each(times, times), each(times, begin))
