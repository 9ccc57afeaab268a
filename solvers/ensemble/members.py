"""Many members of one problem: other parameters, other starts, other noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from solvers.ensemble.choice import check_engine
from solvers.ensemble.flatten import vary
from solvers.ensemble.together import solve_together
from solvers.gradients import AbstractGradient, Replayed, words_for_refusals
from solvers.integrators.base import AbstractMethod
from solvers.integrators.compatibility import check_gradient, check_method
from solvers.problem import InitialValueProblem, is_stochastic
from solvers.solution import Solution, raise_on_failure
from solvers.solve import saved_times
from systems.base import replace_parameters


Progress = Callable[[int, int, str], None]
"""Told after each segment: what is done, of how much, and what it is."""


def ensemble(
    problem: InitialValueProblem,
    method: AbstractMethod,
    *,
    parameters: Mapping[str, ArrayLike] | None = None,
    initial_states: Float[ArrayLike, "members states"] | None = None,
    key: PRNGKeyArray | None = None,
    members: int | None = None,
    first: ArrayLike = 0,
    save_at: ArrayLike | Sequence[float] | None = None,
    gradient: AbstractGradient | None = None,
    engine: str = "auto",
    segment: int | None = None,
    progress: Progress | None = None,
    throw: bool = False,
) -> Solution:
    """Solve many members of a problem with one compiled program.

    **Arguments:**

    - `problem`: what all members share.
    - `method`, `save_at`, `gradient`: as in [`solve`][solvers.solve.solve].
    - `parameters`: by name, values with a leading axis of members.
    - `initial_states`: one state per member.
    - `key`: the key of a stochastic ensemble. Member `i` draws from
      `fold_in(key, i)`, so that its path depends on the key and its number alone.
    - `members`: how many, where nothing but the key varies.
    - `first`: the number of the first of these members, where they are a part of a larger
      ensemble: member `i` of it then draws from `fold_in(key, first + i)`.
    - `engine`: what solves them. `"native"` is a kernel compiled from the law (on a CPU,
      with the extra `native`), `"lanes"` the same in plain JAX, `"diffrax"` every member
      by diffrax side by side; `"auto"` takes the fastest that can serve, and the solution
      says in `engine` and `engine_reason` which and why. Adaptive steps are the same on
      all; the noise of stochastic members is each engine's own.
    - `segment`: how many members are solved between two calls of `progress`; a smaller
      number also wastes less time on members that wait for the slowest. Default: all.
    - `progress`: called as `progress(done, total, "members")` outside compiled code.
    - `throw`: raise for the first failed member. By default a failed member carries its
      status and NaN states, and costs no other member anything.

    **Returns:** a [`Solution`][solvers.solution.Solution] with a leading axis of members.

    **Raises:** `ValueError` if sizes disagree, nothing says how many members there are, or
    an engine asked for by name cannot serve; `KeyError` for an unknown parameter.
    """
    check_method(problem.system, method)
    check_engine(engine)
    gradient = Replayed() if gradient is None else gradient
    check_gradient(method, gradient, dense=False)
    varied = {
        name: jnp.asarray(value, dtype=float) for name, value in (parameters or {}).items()
    }
    starts = None if initial_states is None else jnp.asarray(initial_states, dtype=float)
    count = count_members(problem, varied, starts, members)
    replace_parameters(problem.system, dict.fromkeys(varied, 0.0))  # names are known
    keys = _member_keys(problem, key, count, first)
    times = saved_times(problem, save_at)
    axes = (varied, starts, keys)
    if segment is not None and segment < 1:
        raise ValueError(f"`segment` is {segment}, expected a number of at least 1.")
    size = count if segment is None else min(segment, count)
    parts = []
    for begin in range(0, count, size):
        part = _take(axes, begin, size, count)
        with words_for_refusals(gradient):
            solution = _solve_members(problem, method, part, times, gradient, engine)
        if progress is not None:
            jax.block_until_ready(solution.states)
            progress(min(begin + size, count), count, "members")
        parts.append(solution)
    solution = parts[0] if len(parts) == 1 else _join(parts, count)
    if throw:
        raise_on_failure(solution)
    return solution


def count_members(
    problem: InitialValueProblem,
    parameters: Mapping[str, Any],
    starts: Any | None,
    members: int | None,
) -> int:
    """How many members there are, by the leading axes of what varies among them.

    Raises `ValueError` if these disagree, or nothing says how many there are.
    """
    sizes = {f"parameters[{name!r}]": value.shape[:1] for name, value in parameters.items()}
    if starts is not None:
        states = len(problem.system.states)
        if starts.ndim != 2 or starts.shape[1] != states:
            raise ValueError(
                f"`initial_states` has shape {starts.shape}, expected (members, {states})."
            )
        sizes["initial_states"] = starts.shape[:1]
    if members is not None:
        sizes["members"] = (members,)
    if not sizes:
        raise ValueError("Nothing says how many members there are: give `members`.")
    if len(set(sizes.values())) > 1 or () in sizes.values():
        told = ", ".join(
            f"{name}: {size[0] if size else 'none'}" for name, size in sizes.items()
        )
        raise ValueError(f"The numbers of members disagree ({told}).")
    count = next(iter(sizes.values()))[0]
    if count < 1:
        raise ValueError("There are no members: give at least one.")
    return count


def _member_keys(
    problem: InitialValueProblem, key: PRNGKeyArray | None, count: int, first: ArrayLike
) -> PRNGKeyArray | None:
    if not is_stochastic(problem):
        if key is not None:
            raise ValueError("A deterministic ensemble takes no `key`.")
        return None
    if key is None:
        raise ValueError("A stochastic ensemble needs a `key`, e.g. jax.random.key(0).")
    return _fold_in(key, count, jnp.asarray(first))


@eqx.filter_jit
def _fold_in(key: PRNGKeyArray, count: int, first: Array) -> PRNGKeyArray:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def _take(axes: Any, begin: int, size: int, count: int) -> Any:
    """Members from `begin` on; the last is repeated so that all segments have one shape."""
    if size == count:
        return axes
    index = jnp.minimum(jnp.arange(begin, begin + size), count - 1)
    return jax.tree.map(lambda leaf: leaf[index], axes)


def _join(parts: list[Solution], count: int) -> Solution:
    arrays = [eqx.partition(part, eqx.is_array) for part in parts]
    joined = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves)[:count], *[dynamic for dynamic, _ in arrays]
    )
    return eqx.combine(joined, arrays[0][1])


@eqx.filter_jit
def _solve_members(
    problem: InitialValueProblem,
    method: AbstractMethod,
    axes: tuple[dict[str, Array], Array | None, PRNGKeyArray | None],
    times: Array,
    gradient: AbstractGradient,
    engine: str,
) -> Solution:
    varied, starts, keys = axes
    return solve_together(*vary(problem, varied, starts), method, times, gradient, engine, keys)
