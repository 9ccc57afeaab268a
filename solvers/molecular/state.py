"""The state of a molecular run, and what can be read off it at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


class MolecularState(eqx.Module):
    """All that a run needs to go on, so that a run in segments equals the whole run.

    Particles are stored in an order that changes during a run; `identity` tells which is
    which. Use [`in_user_order`][solvers.molecular.state.in_user_order] to read them.

    - `positions`: shape `(particles, 3)`, near the box, in the unit of length.
    - `velocities`: shape `(particles, 3)`.
    - `images`: how many box vectors to add to each position for the way it went, whole
      numbers of shape `(particles, 3)`.
    - `box`: the box now.
    - `identity`: the place of each stored particle in the order of the user.
    - `forces`: forces at the positions, shape `(particles, 3)`.
    - `virial`: shape `(3, 3)`; not a number unless the method asks for it at every step.
    - `neighbours`: the neighbour list, or `None` where all pairs are summed.
    - `stale`: whether the list must be made anew before it is used.
    - `variables`: what the method carries: thermostats, barostats.
    - `degrees_of_freedom`: of the velocities; `3 particles - 3` where the total momentum
      is conserved.
    - `step`: how many steps were taken since the problem began.
    - `key`: the words of the random key.
    """

    positions: Float[Array, "particles 3"]
    velocities: Float[Array, "particles 3"]
    images: Int[Array, "particles 3"]
    box: AbstractBox
    identity: Int[Array, " particles"]
    forces: Float[Array, "particles 3"]
    virial: Float[Array, "3 3"]
    neighbours: Any
    stale: Bool[Array, ""]
    variables: Any
    degrees_of_freedom: Float[Array, ""]
    step: Int[Array, ""]
    key: UInt32[Array, " words"]


def column(values: Float[Array, " particles"]) -> Float[Array, "particles 1"]:
    """One number for each particle as a column, for products with vectors."""
    return values[:, None]


def inertia(model: MolecularModel, dtype) -> Float[Array, "particles 1"]:
    """Masses in units in which force is mass times acceleration, as a column."""
    return column(jnp.asarray(model.masses, dtype) * model.units.kinetic)


def particle_count(model: MolecularModel) -> Int[Array, ""]:
    """How many particles there are; in a batch, rows with a species below zero are padding."""
    return jnp.sum(jnp.asarray(model.species) >= 0)


def kinetic_tensor(
    velocities: Float[Array, "particles 3"], model: MolecularModel
) -> Float[Array, "3 3"]:
    r"""$\sum_i m_i v_i \otimes v_i$, in energy; its trace is twice the kinetic energy.

    Masses are those of the model, which must be in the order of the velocities.
    """
    weighted = inertia(model, velocities.dtype) * velocities
    rows = [jnp.sum(weighted * velocities[:, i : i + 1], axis=0) for i in range(3)]
    return jnp.stack(rows)


def kinetic_energy(
    velocities: Float[Array, "particles 3"], model: MolecularModel
) -> Float[Array, ""]:
    r"""$\tfrac12 \sum_i m_i v_i^2$, in the unit of energy."""
    return jnp.sum(inertia(model, velocities.dtype) * velocities**2) / 2


def temperature_of(
    kinetic: Float[Array, ""], degrees_of_freedom: Float[Array, ""], model: MolecularModel
) -> Float[Array, ""]:
    """The temperature at which this kinetic energy is the mean one."""
    return 2 * kinetic / (degrees_of_freedom * model.units.boltzmann)


def total_momentum(
    velocities: Float[Array, "particles 3"], model: MolecularModel
) -> Float[Array, " 3"]:
    """Sum of mass times velocity, in those units."""
    return jnp.sum(column(jnp.asarray(model.masses, velocities.dtype)) * velocities, axis=0)


def in_user_order(state: MolecularState, values: Array) -> Array:
    """An array with one row for each stored particle, in the order of the user."""
    return values[jnp.argsort(state.identity)]


def unwrapped_positions(state: MolecularState) -> Float[Array, "particles 3"]:
    """Positions as the particles went, not folded into the box, as they are stored."""
    if not state.box.periodic:
        return state.positions
    return state.positions + state.box.cartesian(state.images.astype(state.positions.dtype))


def reordered_state(state: MolecularState, order: Int[Array, " particles"]) -> MolecularState:
    """The same state with its particles stored in another order; its list becomes stale."""
    per_particle = (
        state.positions,
        state.velocities,
        state.images,
        state.identity,
        state.forces,
    )
    moved = tuple(values[order] for values in per_particle)
    names = ("positions", "velocities", "images", "identity", "forces")
    return eqx.tree_at(lambda s: tuple(getattr(s, name) for name in names), state, moved)


def fold_into_box(state: MolecularState) -> MolecularState:
    """Positions folded into the box, with the images that this takes counted."""
    if not state.box.periodic:
        return state
    images = state.box.images(state.positions)
    back = state.box.cartesian(images.astype(state.positions.dtype))
    return eqx.tree_at(
        lambda s: (s.positions, s.images),
        state,
        (state.positions - back, state.images + images),
    )


def as_arrays(tree: Any, dtype) -> Any:
    """A pytree with its floating arrays in one precision, all leaves on the device."""

    def convert(leaf: Any) -> Any:
        if not eqx.is_array_like(leaf) or isinstance(leaf, bool):
            return leaf
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)
