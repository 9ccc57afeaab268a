"""From a problem and what varies among its members to the flat law that engines solve."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from solvers.ensemble.law import EngineRefusal, Law
from solvers.ensemble.sensitivities import Leaves
from solvers.problem import InitialValueProblem, diffusion, is_stochastic, vector_field
from systems.base import NoiseKind, replace_parameters


def flatten(
    problem: InitialValueProblem, moves: InitialValueProblem, count: int, times: Array
) -> tuple[Law, Leaves]:
    """The law of a problem, and the pieces of the question about all its members.

    **Arguments:**

    - `problem`: with a leading axis of members on some of its arrays.
    - `moves`: the same tree, with a truth for each array: whether it has that axis.
    - `count`: how many members there are.
    - `times`: saved times, for all or with an axis of members.

    **Raises:** `EngineRefusal` if the law depends on traced whole numbers.
    """
    whole = (problem.system, problem.inputs)
    numbers, others = eqx.partition(whole, eqx.is_inexact_array)
    _check_constants(others)
    leaves, tree = jax.tree.flatten(numbers)
    flags = jax.tree.map(
        lambda number, varies: None if number is None else varies,
        numbers,
        (moves.system, moves.inputs),
        is_leaf=lambda number: number is None,
    )
    is_varied = jax.tree.leaves(flags)
    shapes = [
        leaf.shape[1:] if varies else leaf.shape
        for leaf, varies in zip(leaves, is_varied, strict=True)
    ]

    def arguments(varied: Any, shared: Any) -> Any:
        parts, places = {True: varied, False: shared}, {True: 0, False: 0}
        values = []
        for shape, varies in zip(shapes, is_varied, strict=True):
            begin, size = places[varies], int(np.prod(shape))
            values.append(parts[varies][begin : begin + size].reshape(shape))
            places[varies] = begin + size
        return eqx.combine(jax.tree.unflatten(tree, values), others)

    def drift(t: Any, y: Any, varied: Any, shared: Any) -> Any:
        return vector_field(t, y, arguments(varied, shared))

    def noise(t: Any, y: Any, varied: Any, shared: Any) -> Any:
        return diffusion(t, y, arguments(varied, shared))

    stochastic: Any = problem.system if is_stochastic(problem) else None
    states = problem.initial_state.shape[-1]
    law = Law(
        drift=drift,
        diffusion=None if stochastic is None else noise,
        states=states,
        varied=_total(shapes, is_varied, True),
        shared=_total(shapes, is_varied, False),
        noises=0 if stochastic is None else stochastic.noise_dimension,
        diagonal=stochastic is None or stochastic.noise is NoiseKind.DIAGONAL,
        controlled=states,
    )
    pieces = Leaves(
        start=jnp.broadcast_to(problem.start, (count,)),
        stop=jnp.broadcast_to(problem.stop, (count,)),
        initial=(jnp.broadcast_to(problem.initial_state, (count, states)),),
        varied=tuple(x for x, varies in zip(leaves, is_varied, strict=True) if varies),
        shared=tuple(x for x, varies in zip(leaves, is_varied, strict=True) if not varies),
        times=times,
    )
    return law, pieces


def _total(shapes: Sequence[tuple[int, ...]], is_varied: Sequence[bool], kind: bool) -> int:
    sizes = zip(shapes, is_varied, strict=True)
    return sum(int(np.prod(shape)) for shape, varies in sizes if varies == kind)


def _check_constants(others: Any) -> None:
    traced = [leaf for leaf in jax.tree.leaves(others) if isinstance(leaf, Tracer)]
    if traced:
        raise EngineRefusal(
            f"The law depends on a traced array of {traced[0].dtype}, which is no real number "
            "and cannot be a parameter of a kernel."
        )


def vary(
    problem: InitialValueProblem, parameters: Mapping[str, Array], initial_states: Array | None
) -> tuple[InitialValueProblem, InitialValueProblem]:
    """The problem with the parameters and states of all members, and which arrays they are."""
    still = jax.tree.map(lambda leaf: False, problem)
    system = replace_parameters(problem.system, parameters)
    flags = replace_parameters(still.system, dict.fromkeys(parameters, True))
    problem = eqx.tree_at(lambda p: p.system, problem, system)
    moves = eqx.tree_at(lambda p: p.system, still, flags)
    if initial_states is None:
        return problem, moves
    where = lambda p: p.initial_state  # noqa: E731
    return eqx.tree_at(where, problem, initial_states), eqx.tree_at(where, moves, True)


def key_words(keys: PRNGKeyArray | None) -> Array | None:
    """The raw words of the members' keys, of shape `(members, words)`."""
    return None if keys is None else jax.vmap(jax.random.key_data)(keys)
