"""The loop: some steps of all lanes, then new members into the lanes that are done."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.lanes.barrier import apart
from solvers.ensemble.lanes.control import factor, mean_square, smallest_step
from solvers.ensemble.lanes.fields import Lanes, Point
from solvers.ensemble.lanes.members import Entry, Plan, Saves, Table
from solvers.ensemble.lanes.rule import Rule, Span
from solvers.ensemble.law import Law


class Lane(NamedTuple):
    """What each lane holds.

    - `member`: its member; as many as there are members for an idle lane.
    - `begin`, `end`: of the next step.
    - `accepted`, `rejected`: steps so far.
    - `stuck`: whether its step no longer advances time.
    - `saved`: how many of its times are saved.
    - `aim`: the number of the saved time at which the next step may end.
    - `carried`: what the last step left for the next.
    - `entry`: the member as it came in.
    """

    member: Array
    begin: Array
    end: Array
    y: Lanes
    carried: Lanes
    accepted: Array
    rejected: Array
    stuck: Array
    saved: Array
    aim: Array
    entry: Entry


class Results(NamedTuple):
    """One row for each member.

    - `reals`: final time and states; `wholes`: accepted, rejected and whether stuck.
    """

    saved: Array
    reals: Array
    wholes: Array


class Journal(NamedTuple):
    """What is written down, in the order in which it became known; `places` says whose it is.

    A loop of XLA on a CPU writes a block of rows in place, but copies the whole of an array
    to scatter some rows in it: so that is done once, when all is known.

    - `count`: rows written so far; those behind have no meaning.
    """

    places: Array
    reals: Array
    wholes: Array
    count: Array

    @staticmethod
    def empty(rows: int, reals: int, wholes: int, kind: Any) -> "Journal":
        """With room for so many rows."""
        return Journal(
            jnp.zeros(rows, jnp.int32),
            jnp.zeros((rows, reals), kind),
            jnp.zeros((rows, wholes), jnp.int32),
            jnp.asarray(0, jnp.int32),
        )

    def write(self, chosen: Array, places: Array, reals: Lanes, wholes: Lanes) -> "Journal":
        """Append the rows of the chosen lanes."""
        width = chosen.shape[0]
        rank = jnp.cumsum(chosen, dtype=jnp.int32)
        lanes = jnp.arange(width, dtype=jnp.int32)
        order = jnp.zeros(width, jnp.int32)
        order = order.at[jnp.where(chosen, rank - 1, width)].set(lanes, mode="drop")

        def append(rows: Array, new: Array) -> Array:
            begin = (self.count, *(jnp.zeros((), jnp.int32),) * (rows.ndim - 1))
            return jax.lax.dynamic_update_slice(rows, new, begin)

        return Journal(
            append(self.places, places[order]),
            append(self.reals, jnp.stack([x[order] for x in reals], 1)),
            append(self.wholes, jnp.stack([x[order] for x in wholes], 1))
            if wholes
            else self.wholes,
            self.count + rank[-1],
        )

    def scatter(self, rows: Array, into: Array) -> Array:
        """Rows of the journal where they belong."""
        written = jnp.arange(self.places.size) < self.count
        place = jnp.where(written, self.places, into.shape[0])
        return into.at[place].set(rows, mode="drop", unique_indices=True)


class Loop(NamedTuple):
    """What does not change in the loop.

    - `steps`: of all lanes between two looks for lanes that are done.
    """

    law: Law
    rule: Rule
    plan: Plan
    table: Table
    saves: Saves
    shared: Lanes
    steps: int

    @property
    def count(self) -> int:
        """How many members there are."""
        return self.table.reals.shape[0]

    def run(self, width: int) -> Results:
        """Solve all members in so many lanes."""
        kind, count = self.table.reals.dtype, self.count
        states, times = self.law.states, self.saves.times.shape[-1]
        saved = Journal.empty(count * times + width, states, 0, kind)
        ends = Journal.empty(count + width, states + 1, 3, kind)
        lane = _enter(self, jnp.full(width, count, jnp.int32))
        begin = self.refill(lane, ends, jnp.asarray(0, jnp.int32))

        def going(state: Any) -> Array:
            (lane, _, _), _ = state
            return jnp.any(lane.member < count)

        def chunk(state: Any) -> Any:
            (lane, ends, queue), saved = state
            lane, past = jax.lax.scan(
                lambda lane, _: self.step(lane), lane, None, length=self.steps
            )
            lane, saved = self.save(lane, past, saved)
            return self.refill(lane, ends, queue), saved

        (_, ends, _), saved = jax.lax.while_loop(going, chunk, (begin, saved))
        unknown = jnp.full((count * times, states), jnp.nan, kind)
        return Results(
            saved.scatter(saved.reals, unknown).reshape(count, times, states),
            ends.scatter(ends.reals, jnp.zeros((count, states + 1), kind)),
            ends.scatter(ends.wholes, jnp.zeros((count, 3), jnp.int32)),
        )

    def is_active(self, lane: Lane) -> Array:
        """Which lanes still have steps to take."""
        taken = lane.accepted + lane.rejected
        return (lane.begin < lane.entry.stop) & ~lane.stuck & (taken < self.plan.most_steps)

    def span(self, lane: Lane, begin: Array, end: Array) -> Span:
        """A step of the members in the lanes."""
        entry = lane.entry
        return Span(
            begin, end, entry.sign, entry.varied, self.shared, entry.words, lane.accepted
        )

    def step(self, lane: Lane) -> tuple[Lane, tuple[Array, Lanes]]:
        """One step of all lanes, and where they were before it."""
        span = self.span(lane, lane.begin, lane.end)
        after, carried, error = self.rule.advance(span, lane.y, lane.carried)
        active = self.is_active(lane)
        if self.plan.constant is None:
            if error is None:
                raise ValueError("This method has no estimate of its error.")
            keep, begin, end, stuck = self._adapt(lane, after, error)
        else:
            keep, stuck = jnp.ones_like(active), jnp.zeros_like(active)
            begin, end = lane.end, self._next_end(lane)
        accept = active & keep
        aim = lane.aim
        if self.plan.on_saves:
            member = jnp.minimum(lane.member, self.count - 1)
            reached = accept & (begin >= self.saves.at(member, aim))
            aim = jnp.where(reached, self.saves.behind(member, aim), aim)
            end = jnp.minimum(end, self.saves.at(member, aim))
        stop = lane.entry.stop
        begin = jnp.minimum(begin, stop)
        clipped = jnp.where(keep, stop, begin + 0.5 * (stop - begin))
        end = jnp.where(end > lane.entry.floor, clipped, end)
        return lane._replace(
            begin=jnp.where(active, begin, lane.begin),
            end=jnp.where(active, end, lane.end),
            y=_where(accept, after, lane.y),
            carried=_where(accept, carried, lane.carried),
            accepted=lane.accepted + accept,
            rejected=lane.rejected + (active & ~keep),
            stuck=lane.stuck | (active & stuck),
            aim=aim,
        ), (lane.begin, lane.y)

    def _adapt(self, lane: Lane, after: Lanes, error: Lanes) -> tuple[Array, ...]:
        square = mean_square(error, lane.y, after, self.plan.tolerance)
        keep = square < 1
        length = (lane.end - lane.begin) * factor(square, keep, self.rule.order)
        begin = jnp.where(keep, lane.end, lane.begin)
        end = begin + length
        return keep, begin, end, ~keep & (end - begin <= smallest_step(begin))

    def _next_end(self, lane: Lane) -> Array:
        """Constant steps are fractions of the span, so that rounding does not add up."""
        entry = lane.entry
        fraction = (lane.accepted + 2).astype(entry.begin.dtype) / entry.steps
        return entry.begin + (entry.stop - entry.begin) * fraction

    def save(
        self, lane: Lane, past: tuple[Array, Lanes], saved: Journal
    ) -> tuple[Lane, Journal]:
        """Save the states at the times that the last steps have passed.

        The slopes of a step are computed again from where it began, which costs less than
        to keep those of all steps.
        """
        begins = jnp.concatenate([past[0], lane.begin[None]])
        states = [jnp.concatenate([x, z[None]]) for x, z in zip(past[1], lane.y, strict=True)]
        member = jnp.minimum(lane.member, self.count - 1)
        live = lane.member < self.count

        def pending(done: Array) -> Array:
            return live & (self.saves.at(member, done) <= lane.begin)

        def within(lane: Lane, begins: Array, states: list[Array], time: Array) -> Lanes:
            number = jnp.sum(begins[1:] < time[None], axis=0)
            ends = _pick(begins[:-1], number), _pick(begins[1:], number)
            before = tuple(_pick(x[:-1], number) for x in states)
            after = tuple(_pick(x[1:], number) for x in states)
            return self._within(lane, ends, (before, after), time)

        def one(state: Any) -> Any:
            done, waiting, saved = state
            time = self.saves.at(member, done)
            values = apart(within, lane.accepted[0] >= 0, lane, begins, states, time)
            place = lane.member * self.saves.times.shape[-1] + done
            saved = saved.write(waiting, place, values, ())
            done = done + waiting
            return done, pending(done), saved

        state = (lane.saved, pending(lane.saved), saved)
        done, _, saved = jax.lax.while_loop(lambda state: jnp.any(state[1]), one, state)
        return lane._replace(saved=done), saved

    def _within(
        self, lane: Lane, ends: tuple[Array, Array], states: tuple[Lanes, Lanes], time: Array
    ) -> Lanes:
        """The states at a time between the ends of a step."""
        (begin, end), (before, after) = ends, states
        if self.plan.on_saves:
            found = after
        else:
            length = jnp.where(end > begin, end - begin, 1.0)
            span = self.span(lane, begin, begin + length)
            found = self.rule.between(span, before, after, (time - begin) / length)
            # At the end, rounding of the weights need not count.
            found = _where(time == end, after, found)
        return _where(time <= begin, before, found)

    def refill(self, lane: Lane, ends: Journal, queue: Array) -> tuple[Lane, Journal, Array]:
        """Write down the members that are done, and let new ones into their lanes."""
        done = ~self.is_active(lane)
        wholes = (lane.accepted, lane.rejected, lane.stuck.astype(jnp.int32))
        ended = done & (lane.member < self.count)
        ends = ends.write(ended, lane.member, (lane.begin, *lane.y), wholes)
        rank = jnp.cumsum(done, dtype=jnp.int32)
        member = jnp.where(done, jnp.minimum(queue + rank - 1, self.count), lane.member)
        fresh = _enter(self, member)
        lane = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, lane)
        return lane, ends, jnp.minimum(queue + rank[-1], self.count)


def _enter(loop: Loop, member: Array) -> Lane:
    """Lanes at the start of these members; without one, they have nothing to do."""
    entry = loop.table.entry(member)
    idle = member >= loop.count
    entry = entry._replace(stop=jnp.where(idle, entry.begin, entry.stop))
    point = Point(entry.sign * entry.begin, entry.y, entry.varied, loop.shared)
    none = jnp.zeros(member.shape, jnp.int32)
    place = jnp.minimum(member, loop.count - 1)
    return Lane(
        member=member,
        begin=entry.begin,
        end=entry.end,
        y=entry.y,
        carried=loop.rule.begin(point),
        accepted=none,
        rejected=none,
        stuck=jnp.zeros(member.shape, bool),
        saved=none,
        aim=loop.saves.first[place],
        entry=entry,
    )


def _where(truth: Array, new: Lanes, old: Lanes) -> Lanes:
    return tuple(jnp.where(truth, x, z) for x, z in zip(new, old, strict=True))


def _pick(values: Array, number: Array) -> Array:
    """The element of each column at a row; quicker than an index, as rows are few."""
    rows = jnp.arange(values.shape[0])[:, None]
    return jnp.sum(jnp.where(rows == number[None], values, 0), axis=0)
