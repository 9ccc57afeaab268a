"""Derivatives of any order and mode: the steps of a solve are recorded and followed.

The step sizes are what the controller chose; they are not differentiated. What is
differentiated is the recurrence of the steps, and the interpolation between them.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from solvers.integration import (
    has_constant_steps,
    integrate,
    split_saves,
    steps_on_saves,
    terms,
)
from solvers.integrators.base import AbstractMethod
from solvers.integrators.single_step import interpolate, step_once
from solvers.problem import InitialValueProblem
from solvers.recurrence import follow


class StepRecord(eqx.Module):
    """The accepted steps of a solve.

    - `start`, `stop`: where each step begins and ends, shape `(room,)`; from `length` on
      they repeat the last step.
    - `active`: whether a row is a step of the solve.
    - `states`: the states at the ends of every `period`-th step and of the last, shape
      `(room / period, states)`.
    - `length`: how many steps there are.
    """

    start: Float[Array, " room"]
    stop: Float[Array, " room"]
    active: Bool[Array, " room"]
    states: Float[Array, "kept states"]
    length: Int[Array, ""]
    period: int = eqx.field(static=True)


def keeping_period(memory: int, room: int, problem: InitialValueProblem) -> int:
    """Every how many steps a state is kept, such that all of them fit into `memory` bytes."""
    state = problem.initial_state
    needed = room * state.size * state.dtype.itemsize
    return min(room, max(1, -(-needed // max(memory, 1))))


def record_solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    key: PRNGKeyArray | None,
    room: int,
    memory: int,
) -> tuple[diffrax.Solution, Array, Array]:
    """Solve, then give the saved states and the final state with their derivatives.

    The states of steps take at most `memory` bytes; where all of them do not fit, they
    are computed again from those that are kept.
    """
    period = keeping_period(memory, room, problem)
    frozen, frozen_times = jax.tree.map(
        lambda leaf: stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf,
        (problem, times),
    )
    solution = integrate(
        frozen, method, frozen_times, key, diffrax.ForwardMode(), period=period
    )
    record = _record(problem, method, times, solution, room, period)
    states, final = _saved_states(problem, method, times, key, record)
    parts = split_saves(solution)
    return solution, _adopt(parts["saved"][1], states), _adopt(parts["final"][1], final)


def _adopt(value: Array, computed: Array) -> Array:
    """The value as it stands with the derivatives of the computed one."""
    return value + (computed - stop_gradient(computed))


def _record(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    solution: diffrax.Solution,
    room: int,
    period: int,
) -> StepRecord:
    parts = split_saves(solution)
    length = jnp.asarray(solution.stats["num_accepted_steps"])
    count = -(-room // period)
    # Rows beyond the last step repeat it, so that nothing is evaluated out of place.
    row = jnp.minimum(jnp.arange(count * period), jnp.maximum(length - 1, 0))
    if has_constant_steps(method):
        stop = _constant_ends(problem, method, row)
    else:
        ends = (parts["kept"] if period == 1 else parts["steps"])[0][row]
        # Without any step there are no times; a step of no length stands in.
        ends = jnp.where(length > 0, ends, stop_gradient(problem.start))
        stop = _follow_times(ends, problem, method, times)
    start = jnp.concatenate([problem.start[None], stop[:-1]])[row]
    kept, final = jnp.asarray(parts["kept"][1]), jnp.asarray(parts["final"][1])
    missing = max(0, count - kept.shape[0])
    kept = jnp.concatenate([kept[:count], jnp.zeros((missing, final.size), final.dtype)])
    # The last steps need not fill a period.
    whole = (jnp.arange(count)[:, None] + 1) * period <= length
    active = jnp.arange(count * period) < length
    return StepRecord(start, stop, active, jnp.where(whole, kept, final), length, period)


def _constant_ends(problem: InitialValueProblem, method: AbstractMethod, row: Array) -> Array:
    """The ends of constant steps, as diffrax chooses them: the first is as long as is
    asked for, and all the others divide the span.
    """  # noqa: D205
    step = jnp.asarray(method.first_step(), problem.start.dtype)
    span = problem.stop - problem.start
    exact = stop_gradient(jnp.abs(span)) / jnp.nextafter(step, jnp.inf)
    total = jnp.maximum(jnp.ceil(exact), 1)
    ends = problem.start + span * ((row + 1) / total)
    ends = jnp.where(row == 0, problem.start + jnp.sign(span) * step, ends)
    return jnp.where(row + 1 >= total, problem.stop, ends)


def _follow_times(
    ends: Array, problem: InitialValueProblem, method: AbstractMethod, times: Array
) -> Array:
    """The ends of adaptive steps: they move with the start, the last with the stop, and
    those that a saved time has caused with it.
    """  # noqa: D205
    moved = ends + (problem.start - stop_gradient(problem.start))
    if steps_on_saves(method):
        sign = jnp.where(problem.stop < problem.start, -1.0, 1.0)
        place = jnp.searchsorted(stop_gradient(sign * times), stop_gradient(sign) * ends)
        place = jnp.minimum(place, times.size - 1)
        moved = jnp.where(stop_gradient(times)[place] == ends, times[place], moved)
    return jnp.where(ends == stop_gradient(problem.stop), problem.stop, moved)


def _saved_states(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    key: PRNGKeyArray | None,
    record: StepRecord,
) -> tuple[Array, Array]:
    """States at the saved times and after the last step, from the record."""
    smooth, others = eqx.partition((problem.system, problem.inputs), eqx.is_inexact_array)
    arrays, static = eqx.partition(others, eqx.is_array)
    # The Wiener path is what it is, whatever the span is varied to.
    span = stop_gradient((problem.start, problem.stop))
    options, kind = eqx.partition(method, eqx.is_array)
    fixed = (arrays, span, key, jax.tree.map(stop_gradient, options))
    solver = method.stepper()

    def one_step(y: Array, smooth: Any, fixed: Any, row: Any) -> tuple[Array, Any]:
        arrays, span, key, options = fixed
        method = eqx.combine(options, kind)
        solver = method.stepper()
        system, inputs = eqx.combine(smooth, arrays, static)
        start, stop, _ = row
        term = terms(system, method, span, key)
        return step_once(solver, term, start, stop, y, (system, inputs))

    def advance(y: Array, smooth: Any, fixed: Any, row: Any) -> Array:
        return jnp.where(row[2], one_step(y, smooth, fixed, row)[0], y)

    def state_at(before: Array, step: Array, t: Array) -> Array:
        row = (record.start[step], record.stop[step], record.active[step])
        _, dense = one_step(before, smooth, fixed, row)
        return interpolate(solver, dense, row[0], row[1], t)

    # Which step each saved time lies in.
    sign = jnp.where(problem.stop < problem.start, -1.0, 1.0)
    ends = jnp.where(record.active, stop_gradient(sign * record.stop), jnp.inf)
    steps = jnp.searchsorted(ends, stop_gradient(sign * times))
    last = jnp.maximum(record.length - 1, 0)
    steps = jnp.minimum(steps, last)
    before, final = _states_of(record, advance, problem.initial_state, smooth, fixed, steps)
    states = jax.vmap(state_at)(before, steps, times)
    still = record.length == 0
    return jnp.where(still, problem.initial_state[None], states), final


def _states_of(
    record: StepRecord, advance: Any, initial: Array, smooth: Any, fixed: Any, steps: Array
) -> tuple[Array, Array]:
    """The states before the given steps, and the last of all."""
    rows = (record.start, record.stop, record.active)
    count, period = record.states.shape[0], record.period
    chunks = jax.tree.map(lambda row: row.reshape(count, period), rows)

    def advance_chunk(y: Array, smooth: Any, fixed: Any, chunk: Any) -> Array:
        if period == 1:
            return advance(y, smooth, fixed, jax.tree.map(lambda row: row[0], chunk))
        step = lambda y, row: (advance(y, smooth, fixed, row), None)  # noqa: E731
        return jax.lax.scan(step, y, chunk)[0]

    kept = -(-record.length // period)
    before, final = follow(
        advance_chunk, record.states, initial, smooth, fixed, chunks, kept, steps // period
    )
    if period == 1:
        return before, final

    def within(y: Array, step: Array) -> Array:
        """Take the steps between the kept state and the one that is asked for."""
        start, stop, _ = jax.tree.map(lambda row: row[step // period], chunks)
        some = jnp.arange(period) < step % period
        return advance_chunk(y, smooth, fixed, (start, stop, some))

    return jax.vmap(within)(before, steps), final
