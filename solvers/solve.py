"""One solve: problem and method in, solution out."""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from solvers.derivative_rule import with_derivatives_of
from solvers.gradients import (
    AbstractGradient,
    Checkpointed,
    Replayed,
    words_for_refusals,
)
from solvers.integration import integrate, room_for_steps, split_saves
from solvers.integrators.base import AbstractMethod
from solvers.integrators.compatibility import check_gradient, check_method
from solvers.problem import InitialValueProblem, is_stochastic, vector_field
from solvers.replay import record_solve
from solvers.solution import RESULTS, Solution, raise_on_failure


def solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    *,
    save_at: ArrayLike | Sequence[float] | None = None,
    dense: bool = False,
    gradient: AbstractGradient | None = None,
    key: PRNGKeyArray | None = None,
    throw: bool = True,
) -> Solution:
    """Solve an initial value problem.

    **Arguments:**

    - `problem`, `method`: what is solved, and how.
    - `save_at`: times to save, from `start` towards `stop`; default: `stop` alone.
    - `dense`: keep a continuous output, see `Solution.evaluate`.
    - `gradient`: how derivatives pass through; default: `Replayed()`, which has all of
      them, and with `dense` `Checkpointed()`.
    - `key`: the key of the Wiener path; stochastic problems need one, others take none.
    - `throw`: raise `SolveError` if the solve fails. Inside `jit` or `vmap` nothing is
      raised: look at `Solution.status`.

    The call is compiled; a second one with the same shapes is not compiled again.

    **Raises:** `ValueError` if the method does not fit the problem (an SDE with a
    deterministic method, Ito with Stratonovich, a missing key), if the gradient does not
    fit the method, and for saved times out of order or outside the span.
    """
    check_method(problem.system, method)
    if is_stochastic(problem) and key is None:
        raise ValueError("A stochastic problem needs a `key`, e.g. jax.random.key(0).")
    if not is_stochastic(problem) and key is not None:
        raise ValueError("A deterministic problem takes no `key`.")
    if gradient is None:
        gradient = Checkpointed() if dense else Replayed()
    check_gradient(method, gradient, dense)
    times = saved_times(problem, save_at)
    room = room_for_steps(method, problem.start, problem.stop)
    with words_for_refusals(gradient):
        solution = _solve(problem, method, times, dense, gradient, key, room)
    if throw:
        raise_on_failure(solution)
    return solution


def saved_times(
    problem: InitialValueProblem, save_at: ArrayLike | Sequence[float] | None
) -> Array:
    """The times to save, `stop` alone by default.

    Raises `ValueError` if they, or the span, make no sense; traced times pass unseen.
    """
    times = problem.stop[None] if save_at is None else jnp.asarray(save_at, dtype=float)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"`save_at` has shape {times.shape}, expected (times,).")
    if any(isinstance(x, Tracer) for x in (problem.start, problem.stop, times)):
        return times
    start, stop = float(problem.start), float(problem.stop)
    if not np.isfinite([start, stop]).all():
        raise ValueError(f"The span is from {start:g} to {stop:g}, expected finite times.")
    if is_stochastic(problem) and stop <= start:
        raise ValueError(
            f"The span is from {start:g} to {stop:g}; a stochastic problem runs forwards."
        )
    given = np.asarray(times)
    low, high = min(start, stop), max(start, stop)
    outside = given[~((given >= low) & (given <= high))]
    if outside.size:
        raise ValueError(
            f"`save_at` has the time {outside[0]:g}, outside the span from {start:g} to "
            f"{stop:g}."
        )
    if np.any(np.diff(given) * np.where(stop < start, -1, 1) < 0):
        raise ValueError("The times of `save_at` are not in order from `start` to `stop`.")
    return times


@eqx.filter_jit
def _solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    dense: bool,
    gradient: AbstractGradient,
    key: PRNGKeyArray | None,
    room: int,
) -> Solution:
    if isinstance(gradient, Replayed):
        memory = gradient.memory
        return with_derivatives_of(
            _plain,
            lambda inputs: _recorded(inputs, room, memory),
            (problem, times, key, method),
        )
    problem, times = gradient.guard_inputs((problem, times))
    start, stop, times = gradient.guard_times((problem.start, problem.stop, times))
    guarded = eqx.tree_at(lambda p: (p.start, p.stop), problem, (start, stop))
    adjoint = gradient.adjoint(is_stochastic(problem))
    solution = integrate(guarded, method, times, key, adjoint, dense=dense)
    parts = split_saves(solution)
    return gradient.guard_outputs(
        _package(problem, solution, times, parts["saved"][1], parts["final"][1])
    )


def _plain(inputs: Any) -> Solution:
    problem, times, key, method = inputs
    solution = integrate(problem, method, times, key, diffrax.ForwardMode())
    parts = split_saves(solution)
    return _package(problem, solution, times, parts["saved"][1], parts["final"][1])


def _recorded(inputs: Any, room: int, memory: int) -> Solution:
    problem, times, key, method = inputs
    solution, states, final = record_solve(problem, method, times, key, room, memory)
    return _package(problem, solution, times, states, final)


def _package(
    problem: InitialValueProblem,
    solution: diffrax.Solution,
    times: Array,
    saved: Array,
    final_state: Array,
) -> Solution:
    parts = split_saves(solution)
    reached = jnp.isfinite(parts["saved"][0])
    return Solution(
        times=times,
        states=jnp.where(reached[:, None], saved, jnp.nan),
        status=_status(problem, solution.result, final_state),
        final_time=parts["final"][0],
        final_state=final_state,
        statistics={
            "steps": jnp.asarray(solution.stats["num_steps"]),
            "accepted_steps": jnp.asarray(solution.stats["num_accepted_steps"]),
            "rejected_steps": jnp.asarray(solution.stats["num_rejected_steps"]),
        },
        interpolation=solution.interpolation,
    )


def _status(problem: InitialValueProblem, result: Any, final_state: Array) -> Any:
    """Diffrax's result, made more telling: a bad start, a state that is no number."""
    status = RESULTS.promote(result)
    stuck = result == diffrax.RESULTS.dt_min_reached
    status = RESULTS.where(stuck, RESULTS.step_size_underflow, status)
    lost = ~jnp.all(jnp.isfinite(final_state))
    status = RESULTS.where(
        lost & (status == RESULTS.successful), RESULTS.nonfinite_state, status
    )
    slope = vector_field(problem.start, problem.initial_state, (problem.system, problem.inputs))
    given = (problem.start, problem.stop, problem.initial_state, slope)
    parameters = jax.tree.leaves(eqx.filter(problem.system, eqx.is_inexact_array))
    lost = ~_all(jnp.isfinite, given)
    # An infinite parameter may be meant (no limit to growth), and one that is no number
    # may play no part: it explains a failure only.
    lost |= (status != RESULTS.successful) & ~_all(lambda x: ~jnp.isnan(x), parameters)
    return RESULTS.where(lost, RESULTS.nonfinite_start, status)


def _all(test: Callable[[Array], Array], leaves: Sequence[Array]) -> Array:
    return jnp.all(jnp.asarray([jnp.all(test(leaf)) for leaf in leaves], dtype=bool))
