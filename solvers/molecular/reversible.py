"""The reversible adjoint: the trajectory is run backwards beside its derivative.

Velocity Verlet runs backwards as well as forwards, so that no step need be kept. Rounding
makes the way back drift, by 1e-11 in 500 steps of a liquid; so it starts anew from each
saved frame, which is exact.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from solvers.molecular.propagation import (
    Frames,
    Start,
    Surroundings,
    frames_plainly,
    is_lost,
    list_for,
)
from solvers.molecular.state import inertia
from systems.molecular.model import MolecularModel


def _kick_back(
    model: MolecularModel, around: Surroundings, carry: Any, time: Array
) -> tuple[Any, Array]:
    """One kick undone, with what it does to the adjoint; gives new carry and forces.

    The derivative of the forces is symmetric, so that its transpose is a product in
    forward mode. Parameters see the forces at fixed positions.
    """
    positions, velocities, by_position, by_velocity, by_model, neighbours = carry
    mass = inertia(model, positions.dtype)
    push = time * by_velocity / mass
    smooth, rest = eqx.partition(model, eqx.is_inexact_array)

    def forces_at(positions: Array) -> Array:
        return model.evaluate(positions, around.box, neighbours).forces

    def forces_of(smooth: Any) -> Array:
        return eqx.combine(smooth, rest).evaluate(positions, around.box, neighbours).forces

    forces, product = jax.jvp(forces_at, (positions,), (push,))
    _, pull = jax.vjp(forces_of, smooth)
    by_model = jax.tree.map(jnp.add, by_model, pull(push)[0])
    heavier = -jnp.sum(push * forces, axis=1) / jnp.asarray(model.masses, forces.dtype)
    by_model = eqx.tree_at(lambda m: m.masses, by_model, replace_fn=lambda old: old + heavier)
    velocities = velocities - time * forces / mass
    return (
        positions,
        velocities,
        by_position + product,
        by_velocity,
        by_model,
        neighbours,
    ), forces


def _chunk_back(
    model: MolecularModel, around: Surroundings, carry: Any, count: int
) -> tuple[Any, Float[Array, ""]]:
    """Some steps undone; also the size of the adjoint at their start."""
    step = around.time_step
    carry, _ = _kick_back(model, around, carry, step / 2)
    fixed = eqx.filter(carry, lambda leaf: not eqx.is_array(leaf))

    def drift_back(carry: Any) -> Any:
        positions, velocities, by_position, by_velocity, by_model, neighbours = carry
        positions = positions - step * velocities
        neighbours = list_for(neighbours, positions, around.box)
        by_velocity = by_velocity + step * by_position
        return positions, velocities, by_position, by_velocity, by_model, neighbours

    def body(i: Array, arrays: Any) -> Any:
        # Kicks of two steps are one, but for the last.
        time = jnp.where(i == count - 1, step / 2, step)
        whole, _ = _kick_back(model, around, drift_back(eqx.combine(arrays, fixed)), time)
        return eqx.filter(whole, eqx.is_array)

    arrays = jax.lax.fori_loop(0, count, body, eqx.filter(carry, eqx.is_array))
    carry = eqx.combine(arrays, fixed)
    return carry, jnp.sqrt(jnp.sum(carry[2] ** 2))


def backward(
    start: Start, around: Surroundings, frames: Frames, cotangent: Frames, every: int
) -> tuple[Start, Float[Array, " frames"], Bool[Array, ""]]:
    """The derivative by the start from that by the frames.

    Returns it, the size of the adjoint of the positions before each frame, and whether a
    list has overflown.
    """
    model = start.model
    nothing = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
    by_position = jnp.zeros_like(start.positions)
    # Whether the list still holds is asked before each frame.
    carried = (by_position, by_position, nothing, around.neighbours)
    fixed = eqx.filter(carried, lambda leaf: not eqx.is_array(leaf))

    def body(arrays: Any, given: Any) -> Any:
        (positions, velocities), (more_x, more_v) = given
        by_x, by_v, by_model, neighbours = eqx.combine(arrays, fixed)
        neighbours = list_for(neighbours, positions, around.box)
        carry = (positions, velocities, by_x + more_x, by_v + more_v, by_model, neighbours)
        carry, size = _chunk_back(model, around, carry, every)
        return eqx.filter(carry[2:], eqx.is_array), size

    given = (
        (frames.positions, frames.velocities),
        (cotangent.positions, cotangent.velocities),
    )
    arrays, sizes = jax.lax.scan(body, eqx.filter(carried, eqx.is_array), given, reverse=True)
    by_x, by_v, by_model, neighbours = eqx.combine(arrays, fixed)
    return Start(by_model, by_x, by_v), sizes, is_lost(neighbours)


@eqx.filter_custom_vjp
def frames_reversibly(
    start: Start, around: Surroundings, frames: int, every: int
) -> tuple[Frames, Bool[Array, ""]]:
    """Frames, of which reverse mode keeps nothing but themselves."""
    return frames_plainly(start, around, frames, every, None)


@frames_reversibly.def_fwd
def _forward(perturbed, start, around, frames, every):
    del perturbed
    found, lost = frames_plainly(start, around, frames, every, None)
    return (found, lost), found


@frames_reversibly.def_bwd
def _backward(found, cotangent, perturbed, start, around, frames, every):
    del perturbed, frames
    given, _ = cotangent
    zeros = jax.tree.map(jnp.zeros_like, found)
    given = jax.tree.map(
        lambda one, zero: zero if one is None else one,
        given,
        zeros,
        is_leaf=lambda x: x is None,
    )
    change, _, lost = backward(start, around, found, given, every)
    # A list that overflows on the way back must not give a wrong number.
    return jax.tree.map(lambda leaf: jnp.where(lost, jnp.nan, leaf), change)
