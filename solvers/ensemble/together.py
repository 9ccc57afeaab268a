"""Many problems of one law solved together, by the engine that serves."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from solvers.ensemble.choice import Chosen, compute
from solvers.ensemble.flatten import flatten, key_words
from solvers.ensemble.law import Answer
from solvers.ensemble.sensitivities import MOST_STATES, Engine, answer
from solvers.gradients import AbstractGradient, Forward, Replayed
from solvers.integrators.base import AbstractMethod
from solvers.problem import InitialValueProblem
from solvers.solution import Solution, status_from
from solvers.solve import solve


def solve_together(
    problem: InitialValueProblem,
    moves: Any,
    method: AbstractMethod,
    times: Array,
    gradient: AbstractGradient,
    engine: str,
    keys: PRNGKeyArray | None = None,
) -> Solution:
    """Solve the members of a problem, inside a compiled program.

    **Arguments:**

    - `problem`: with a leading axis of members on some of its arrays.
    - `moves`: the same tree, with a truth for each array: whether it has that axis.
    - `times`: saved times, for all or with an axis of members.
    - `gradient`: with one that is not `Replayed()` or `Forward()` diffrax serves alone.
    - `engine`: see [`ensemble`][solvers.ensemble.members.ensemble].
    - `keys`: one for each member of a stochastic problem.

    **Raises:** `EngineRefusal` if an engine asked for by name cannot serve.
    """
    moving, still = eqx.partition(problem, moves)
    chosen = _ask_engines(problem, moves, method, times, gradient, engine, keys)
    if chosen.answer is not None:
        return _package(chosen.answer, times, chosen)

    def member(moving: Any, times: Array, key: Any) -> Solution:
        one = eqx.combine(moving, still)
        return solve(one, method, save_at=times, gradient=gradient, key=key, throw=False)

    solution = jax.vmap(member, (0, 0 if times.ndim == 2 else None, 0))(moving, times, keys)
    return dataclasses.replace(solution, engine=chosen.engine, engine_reason=chosen.reason)


def solve_alone(
    problem: InitialValueProblem,
    moves: Any,
    method: AbstractMethod,
    times: Array,
    gradient: AbstractGradient,
    engine: str,
    directions: int = 0,
) -> Solution:
    """Solve one problem without noise by the engine that serves, in a compiled program.

    Under `vmap` the problems become the members of one ensemble.

    **Arguments:** as of `solve_together`, without an axis of members: `moves` says which
    arrays differ, or could, where this is mapped. `directions` is along how many numbers
    derivatives will be taken; where that makes too many sensitivities, `auto` leaves all to
    diffrax.

    **Raises:** as `solve_together`.
    """

    def lift(leaf: Any, moves: bool) -> Any:
        return jnp.asarray(leaf)[None] if moves else leaf

    lifted = jax.tree.map(lift, problem, moves)
    count = problem.initial_state.shape[-1] * (1 + directions)
    if engine == "auto" and count > MOST_STATES:
        reason = f"The {count} states and sensitivities are too many for the other engines."
        chosen = Chosen(None, "diffrax", reason)
    else:
        chosen = _ask_engines(lifted, moves, method, times, gradient, engine, None, many=False)
    if chosen.answer is not None:
        return jax.tree.map(lambda leaf: leaf[0], _package(chosen.answer, times, chosen))
    solution = solve(problem, method, save_at=times, gradient=gradient, throw=False)
    return dataclasses.replace(solution, engine=chosen.engine, engine_reason=chosen.reason)


def _ask_engines(
    problem: InitialValueProblem,
    moves: Any,
    method: AbstractMethod,
    times: Array,
    gradient: AbstractGradient,
    engine: str,
    keys: PRNGKeyArray | None,
    many: bool = True,
) -> Chosen:
    count = len(jax.tree.leaves((eqx.filter(problem, moves), keys))[0])
    obstacle = None
    if not isinstance(gradient, Replayed | Forward):
        obstacle = f"{type(gradient).__name__}() is a way of diffrax's to differentiate."
    elif getattr(method, "path_resolution", None) is not None:
        obstacle = "Only diffrax draws a Wiener path down to a `path_resolution`."

    def ask(run: Engine) -> Answer:
        law, leaves = flatten(problem, moves, count, times)
        return answer(run, law, method, leaves, key_words(keys))

    return compute(engine, ask, obstacle, many=many)


def _package(found: Answer, times: Array, chosen: Chosen) -> Solution:
    return Solution(
        times=jnp.broadcast_to(times, found.saved.shape[:2]),
        states=found.saved,
        status=status_from(found.status),
        final_time=found.final_time,
        final_state=found.final_state,
        statistics=_counts(found.accepted, found.rejected),
        engine=chosen.engine,
        engine_reason=chosen.reason,
    )


def _counts(accepted: Int[Array, " N"], rejected: Int[Array, " N"]) -> dict[str, Array]:
    return {
        "steps": accepted + rejected,
        "accepted_steps": accepted,
        "rejected_steps": rejected,
    }
