"""The compiled loop of a batch: steps of all systems, those with a bad step left behind."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from solvers.molecular.batch_forces import evaluate_systems
from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.kernel import frame_of, is_bad
from solvers.molecular.state import MolecularState
from systems.molecular.model import MolecularModel
from systems.molecular.pair_sums import Evaluation


class Systems(eqx.Module):
    """All systems of a batch; every array has the systems in front.

    - `methods`, `models`, `states`: of each.
    - `going`: whether it still moves; else its last step was bad, and its state is the last
      good one.
    - `limit`: how far a particle may move in a step.
    - `padded`: whether some have fewer particles than there are rows.
    - `engine`: of the sums over pairs.
    """

    methods: AbstractDynamics
    models: MolecularModel
    states: MolecularState
    going: Bool[Array, " systems"]
    limit: float = eqx.field(static=True)
    padded: bool = eqx.field(static=True)
    engine: str = eqx.field(static=True)


@eqx.filter_jit
def begin(systems: Systems) -> MolecularState:
    """The states with forces and the variables of their methods."""
    states = _with_forces(systems.methods, systems.states, _forces(systems, systems.states))
    variables = eqx.filter_vmap(lambda method, state, model: method.start(state, model))(
        systems.methods, states, systems.models
    )
    return eqx.tree_at(lambda s: s.variables, states, variables, is_leaf=lambda x: x is None)


@eqx.filter_jit
def advance(
    systems: Systems, stop: Int[Array, ""]
) -> tuple[MolecularState, Bool[Array, " systems"]]:
    """Steps until `stop` of all systems that go; the states, and which still go."""
    arrays, rest = eqx.partition(systems.states, eqx.is_array)

    def body(carry: Any) -> Any:
        arrays, going, step = carry
        after = _step(systems, eqx.combine(arrays, rest))
        limit = jnp.asarray(systems.limit, after.forces.dtype)
        bad = eqx.filter_vmap(lambda method, model, state: is_bad(method, model, state, limit))(
            systems.methods, systems.models, after
        )
        going &= ~bad
        kept = jax.tree.map(
            lambda new, old: jnp.where(_in_front(going, new), new, old),
            eqx.filter(after, eqx.is_array),
            arrays,
        )
        return kept, going, step + 1

    step = jnp.max(jnp.where(systems.going, systems.states.step, 0))
    arrays, going, _ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]) & (carry[2] < stop),
        body,
        (arrays, systems.going, step),
    )
    return eqx.combine(arrays, rest), going


@eqx.filter_jit
def observe(systems: Systems, save: tuple[str, ...]) -> dict[str, Array]:
    """One frame of every system."""
    found = _forces(systems, systems.states, sums=True)
    return eqx.filter_vmap(
        lambda method, model, state, found: frame_of(method, model, state, found, save)
    )(systems.methods, systems.models, systems.states, found)


def _step(systems: Systems, states: MolecularState) -> MolecularState:
    methods, models = systems.methods, systems.models
    states = eqx.filter_vmap(lambda method, state, model: method.before_forces(state, model))(
        methods, states, models
    )
    if systems.padded:
        # Noise moves what is no particle as well.
        present = jnp.asarray(models.species)[..., None] >= 0
        states = eqx.tree_at(
            lambda s: (s.positions, s.velocities),
            states,
            (
                jnp.where(present, states.positions, 0.0),
                jnp.where(present, states.velocities, 0.0),
            ),
        )
    states = _with_forces(methods, states, _forces(systems, states))
    states = eqx.filter_vmap(lambda method, state, model: method.after_forces(state, model))(
        methods, states, models
    )
    return eqx.tree_at(lambda s: s.step, states, states.step + 1)


def _forces(systems: Systems, states: MolecularState, sums: bool = False) -> Evaluation:
    return evaluate_systems(
        systems.models,
        states.positions,
        states.box,
        engine=systems.engine,
        padded=systems.padded,
        sums=sums or systems.methods.needs_virial,
    )


def _with_forces(
    methods: AbstractDynamics, states: MolecularState, found: Evaluation
) -> MolecularState:
    dtype = states.positions.dtype
    states = eqx.tree_at(lambda s: s.forces, states, found.forces.astype(dtype))
    if not methods.needs_virial:
        return states
    return eqx.tree_at(lambda s: s.virial, states, found.virial.astype(dtype))


def _in_front(truth: Bool[Array, " systems"], like: Float[Array, "systems ..."]) -> Array:
    return truth.reshape(-1, *(1,) * (like.ndim - 1))
