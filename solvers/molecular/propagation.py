"""Velocity Verlet as a function that can be differentiated: frames from a start."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from solvers.molecular.lists import new_list
from solvers.molecular.state import inertia
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel
from systems.molecular.neighbours import NeighbourList, moved_too_far


class Start(eqx.Module):
    """What a trajectory depends on smoothly.

    - `model`: its parameters.
    - `positions`, `velocities`: shape `(particles, 3)`.
    """

    model: MolecularModel
    positions: Float[Array, "particles 3"]
    velocities: Float[Array, "particles 3"]


class Frames(eqx.Module):
    """Saved positions and velocities, shape `(frames, particles, 3)` each."""

    positions: Float[Array, "frames particles 3"]
    velocities: Float[Array, "frames particles 3"]


class Surroundings(eqx.Module):
    """What a trajectory needs but is not differentiated by.

    - `box`: the box.
    - `neighbours`: a list with room enough, or `None` for all pairs.
    - `time_step`: in the unit of time.
    """

    box: AbstractBox
    neighbours: NeighbourList | None
    time_step: Float[Array, ""]


def list_for(
    neighbours: NeighbourList | None, positions: Float[Array, "particles 3"], box: AbstractBox
) -> NeighbourList | None:
    """A list that holds for these positions; made anew if something moved too far.

    Who has overflown once stays so, as numbers from then on are of no use. It is not
    differentiated: which pairs are near does not change smoothly.
    """
    if neighbours is None:
        return None
    positions, box = jax.lax.stop_gradient((positions, box))
    arrays, rest = eqx.partition(neighbours, eqx.is_array)
    lost = neighbours.overflow

    def renew(carry: Any) -> Any:
        made = new_list(eqx.combine(carry[0], rest), positions, box)
        return eqx.filter(made, eqx.is_array), jnp.asarray(False)

    renewed = moved_too_far(neighbours, positions, box)
    # A loop of at most one turn: unlike a condition it works on the list in place.
    arrays, _ = jax.lax.while_loop(lambda carry: carry[1], renew, (arrays, renewed))
    new = eqx.combine(arrays, rest)
    return eqx.tree_at(lambda n: n.overflow, new, new.overflow | lost)


def is_lost(neighbours: NeighbourList | None) -> Bool[Array, ""]:
    """Whether a list has overflown, so that frames after it are of no use."""
    return jnp.asarray(False) if neighbours is None else neighbours.overflow


def verlet_steps(
    start: Start, around: Surroundings, count: int
) -> tuple[Start, NeighbourList | None]:
    """Some steps of velocity Verlet; differentiable in forward mode, and in reverse."""
    model, step = start.model, around.time_step
    mass = inertia(model, start.positions.dtype)
    neighbours = list_for(around.neighbours, start.positions, around.box)
    forces = model.evaluate(start.positions, around.box, neighbours).forces
    fixed = eqx.filter(neighbours, lambda leaf: not eqx.is_array(leaf))

    def body(carry: Any, _: None) -> Any:
        positions, velocities, forces, arrays = carry
        velocities = velocities + step / 2 * forces / mass
        positions = positions + step * velocities
        found = list_for(eqx.combine(arrays, fixed), positions, around.box)
        forces = model.evaluate(positions, around.box, found).forces
        velocities = velocities + step / 2 * forces / mass
        return (positions, velocities, forces, eqx.filter(found, eqx.is_array)), None

    carry = (start.positions, start.velocities, forces, eqx.filter(neighbours, eqx.is_array))
    (positions, velocities, _, arrays), _ = jax.lax.scan(body, carry, None, length=count)
    return Start(model, positions, velocities), eqx.combine(arrays, fixed)


def frames_plainly(
    start: Start, around: Surroundings, frames: int, every: int, checkpoint: int | None
) -> tuple[Frames, Bool[Array, ""]]:
    """Frames by a plain scan, and whether a list has overflown.

    **Arguments:**

    - `frames`, `every`: how many frames, and steps between them; the start is none.
    - `checkpoint`: steps of which reverse mode keeps the start alone; `None` keeps all.
    """
    length = every if checkpoint is None else min(checkpoint, every)
    blocks, rest = divmod(every, length)
    fixed = eqx.filter(around.neighbours, lambda leaf: not eqx.is_array(leaf))

    def some(carry: Any, count: int) -> Any:
        positions, velocities, arrays = carry
        here = eqx.tree_at(
            lambda a: a.neighbours,
            around,
            eqx.combine(arrays, fixed),
            is_leaf=lambda x: x is None,
        )
        end, neighbours = verlet_steps(Start(start.model, positions, velocities), here, count)
        return end.positions, end.velocities, eqx.filter(neighbours, eqx.is_array)

    def block(carry: Any, _: None) -> Any:
        return some(carry, length), None

    def frame(carry: Any, _: None) -> Any:
        run = block if checkpoint is None else jax.checkpoint(block)
        carry, _ = jax.lax.scan(run, carry, None, length=blocks)
        if rest:
            carry = some(carry, rest)
        return carry, (carry[0], carry[1])

    outer = frame if checkpoint is None else jax.checkpoint(frame)
    carry = (start.positions, start.velocities, eqx.filter(around.neighbours, eqx.is_array))
    (_, _, arrays), (positions, velocities) = jax.lax.scan(outer, carry, None, length=frames)
    return Frames(positions, velocities), is_lost(eqx.combine(arrays, fixed))
