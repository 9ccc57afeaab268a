"""The compiled loop: steps until a frame is due, lists made anew inside, faults as values."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from solvers.molecular.dynamics import (
    AbstractDynamics,
    AbstractMinimiser,
    AbstractThermostat,
    thermal_energy,
)
from solvers.molecular.lists import new_list, new_sorted_list
from solvers.molecular.state import (
    MolecularState,
    fold_into_box,
    in_user_order,
    kinetic_tensor,
    particle_count,
    reordered_state,
    temperature_of,
    unwrapped_positions,
)
from solvers.molecular.status import BAD, CONVERGED, EXPLODED, NONFINITE, OVERFLOW, SUCCESSFUL
from systems.molecular.model import MolecularModel
from systems.molecular.neighbours import moved_too_far
from systems.molecular.pair_sums import Evaluation


def needs_new_list(state: MolecularState) -> Bool[Array, ""]:
    """Whether the neighbour list must be made anew for these positions."""
    if state.neighbours is None:
        return jnp.asarray(False)
    return state.stale | moved_too_far(state.neighbours, state.positions, state.box)


def with_new_list(
    state: MolecularState, model: MolecularModel, sorts: bool
) -> tuple[MolecularState, MolecularModel]:
    """The state with particles sorted by cell and a list for its positions."""
    state = fold_into_box(state)
    if sorts:
        order, neighbours = new_sorted_list(state.neighbours, state.positions, state.box)
        state, model = reordered_state(state, order), model.reordered(order)
    else:
        neighbours = new_list(state.neighbours, state.positions, state.box)
    state = eqx.tree_at(
        lambda s: (s.neighbours, s.stale), state, (neighbours, jnp.zeros_like(state.stale))
    )
    return state, model


def overflowed(state: MolecularState) -> Bool[Array, ""]:
    """Whether numbers from the list of this state must not be used."""
    return jnp.asarray(False) if state.neighbours is None else state.neighbours.overflow


def with_forces(
    state: MolecularState, model: MolecularModel, method: AbstractDynamics
) -> MolecularState:
    """The state with forces, and the virial if the method needs it, at its positions."""
    dtype = state.positions.dtype
    if not method.needs_virial:
        alone = model.forces(state.positions, state.box, state.neighbours)
        return eqx.tree_at(lambda s: s.forces, state, alone.astype(dtype))
    found = model.evaluate(state.positions, state.box, state.neighbours)
    forces = found.forces.astype(dtype)
    return eqx.tree_at(
        lambda s: (s.forces, s.virial), state, (forces, found.virial.astype(dtype))
    )


def is_bad(
    method: AbstractDynamics, model: MolecularModel, state: MolecularState, limit: Array
) -> Bool[Array, ""]:
    """Whether numbers of a step must not be used: lost pairs, or a particle that ran away."""
    squared = jnp.max(jnp.sum(method.strides(state, model) ** 2, axis=1))
    # A comparison with what is no number is false, so that it counts as too far.
    return overflowed(state) | ~(squared <= limit**2)


def take_step(
    method: AbstractDynamics, model: MolecularModel, state: MolecularState
) -> tuple[MolecularModel, MolecularState, Bool[Array, ""]]:
    """One step: the model in the order of the particles, the state, and if a list was made."""
    state = method.before_forces(state, model)
    renewed = needs_new_list(state)
    if state.neighbours is None:
        state = method.after_forces(with_forces(state, model, method), model)
        return model, eqx.tree_at(lambda s: s.step, state, state.step + 1), renewed
    arrays, rest = eqx.partition((model, state), eqx.is_array)

    def renew(carry: Any) -> Any:
        model, state = eqx.combine(carry[0], rest)
        state, model = with_new_list(state, model, method.sorts)
        return eqx.filter((model, state), eqx.is_array), jnp.asarray(False)

    # A loop of at most one turn: unlike a condition it works on the list in place.
    arrays, _ = jax.lax.while_loop(lambda carry: carry[1], renew, (arrays, renewed))
    model, state = eqx.combine(arrays, rest)
    state = method.after_forces(with_forces(state, model, method), model)
    return model, eqx.tree_at(lambda s: s.step, state, state.step + 1), renewed


def advance(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    stop: Int[Array, ""],
    limit: Float[Array, ""],
) -> tuple[MolecularModel, MolecularState, Int[Array, ""], Int[Array, ""]]:
    """Steps until `stop`, or until one that is bad; its status, and the lists made.

    The state after a bad step is of no use but for its count. The steps before it are
    taken once more to come to the last good state: to keep that state at every step would
    cost each of them.
    """
    arrays, rest = eqx.partition((model, state), eqx.is_array)

    def going(carry: Any) -> Bool[Array, ""]:
        arrays, status, _ = carry
        return (status == SUCCESSFUL) & (arrays[1].step < stop)

    def body(carry: Any) -> Any:
        model, state, renewed = take_step(method, *eqx.combine(carry[0], rest))
        status = jnp.where(is_bad(method, model, state, limit), BAD, SUCCESSFUL)
        if isinstance(method, AbstractMinimiser):
            done = (status == SUCCESSFUL) & method.converged(state, model)
            status = jnp.where(done, CONVERGED, status)
        carried = eqx.filter((model, state), eqx.is_array)
        return carried, status.astype(jnp.int32), carry[2] + renewed

    zero = jnp.zeros((), jnp.int32)
    arrays, status, lists = jax.lax.while_loop(going, body, (arrays, zero, zero))
    model, state = eqx.combine(arrays, rest)
    return model, state, status, lists


class Fault(eqx.Module):
    """What is wrong with a step.

    - `status`: a number of [`status`][solvers.molecular.status].
    - `atom`: the particle at fault, in the order of the user.
    - `moved`: how far it would move in one step.
    """

    status: Int[Array, ""]
    atom: Int[Array, ""]
    moved: Float[Array, ""]


@eqx.filter_jit
def find_fault(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    limit: Float[Array, ""],
) -> Fault:
    """Why the step from a good state is bad; the model comes in the order of the user.

    A particle that ran away before the forces were known is told before a list that
    overflows, as the one is often the cause of the other.
    """
    model = model.reordered(state.identity)
    middle = method.before_forces(state, model)
    early = jnp.sum(method.strides(middle, model) ** 2, axis=1)
    ordered, after, _ = take_step(method, model, state)
    late = jnp.sum(method.strides(after, ordered) ** 2, axis=1)
    too_early = ~jnp.all(early <= limit**2)
    lost = overflowed(after) & ~too_early
    squared = jnp.where(too_early, early, late)
    place = jnp.argmax(jnp.where(squared <= limit**2, squared, jnp.inf))
    identity = jnp.where(too_early, middle.identity, after.identity)
    moved = jnp.sqrt(squared[place])
    ran = jnp.where(jnp.isfinite(moved), EXPLODED, NONFINITE)
    status = jnp.where(lost, OVERFLOW, ran)
    return Fault(status.astype(jnp.int32), identity[place], moved)


def observe(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    save: tuple[str, ...],
) -> dict[str, Array]:
    """What is saved of a state, particles in the order of the user."""
    found = model.evaluate(state.positions, state.box, state.neighbours)
    return frame_of(method, model, state, found, save)


def frame_of(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    found: Evaluation,
    save: tuple[str, ...],
) -> dict[str, Array]:
    """What is saved of a state for which the terms of the model gave `found`."""
    dtype = state.positions.dtype
    tensor = kinetic_tensor(state.velocities, model)
    thermostat = getattr(method, "dynamics", method)  # a barostat stands on one
    if isinstance(thermostat, AbstractThermostat) and thermostat.overdamped:
        thermal = thermal_energy(thermostat.temperature, model, dtype)
        tensor = jnp.eye(3, dtype=dtype) * particle_count(model) * thermal
    kinetic = jnp.trace(tensor) / 2
    volume = state.box.volume()
    pressure = (tensor + found.virial.astype(dtype)) * model.units.compression / volume
    potential = found.energy.astype(dtype)
    frame = {
        "steps": state.step,
        "positions": in_user_order(state, unwrapped_positions(state)),
        "potential_energy": potential,
        "kinetic_energy": kinetic,
        "temperature": temperature_of(kinetic, state.degrees_of_freedom, model),
        "pressure_tensor": pressure,
        "conserved_energy": method.conserved(state, model, potential),
        "volume": jnp.asarray(volume, dtype),
    }
    if state.box.periodic:
        frame["box_vectors"] = state.box.vectors().astype(dtype)
    if "velocities" in save:
        frame["velocities"] = in_user_order(state, state.velocities)
    if "forces" in save:
        frame["forces"] = in_user_order(state, found.forces.astype(dtype))
    return frame


class Block(eqx.Module):
    """What one call of the compiled loop gives.

    - `state`: where it stopped.
    - `status`: why, if not because it was done.
    - `frames`: saved frames by name, with room for all; `saved` are filled.
    - `lists`: how many neighbour lists were made.
    """

    state: MolecularState
    status: Int[Array, ""]
    frames: dict[str, Array]
    saved: Int[Array, ""]
    lists: Int[Array, ""]


@eqx.filter_jit
def run_block(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    stop: Int[Array, ""],
    save_every: Int[Array, ""],
    limit: Float[Array, ""],
    room: int,
    save: tuple[str, ...],
) -> Block:
    """Steps until `stop`, with a frame at each multiple of `save_every`, `room` at most.

    The model comes in the order of the user.
    """
    model = model.reordered(state.identity)
    shapes = jax.eval_shape(lambda s: observe(method, model, s, save), state)
    frames = {name: jnp.zeros((room, *s.shape), s.dtype) for name, s in shapes.items()}
    arrays, rest = eqx.partition((model, state), eqx.is_array)

    def going(carry: Any) -> Bool[Array, ""]:
        arrays, status, _, saved, _ = carry
        return (status == SUCCESSFUL) & (arrays[1].step < stop) & (saved < room)

    def body(carry: Any) -> Any:
        arrays, _, frames, saved, lists = carry
        model, state = eqx.combine(arrays, rest)
        due = (state.step // save_every + 1) * save_every
        model, state, status, made = advance(
            method, model, state, jnp.minimum(due, stop), limit
        )
        save_now = (status != BAD) & (state.step % save_every == 0)

        def write(frames: dict[str, Array]) -> dict[str, Array]:
            frame = observe(method, model, state, save)
            return {name: values.at[saved].set(frame[name]) for name, values in frames.items()}

        frames = jax.lax.cond(save_now, write, lambda frames: frames, frames)
        carried = eqx.filter((model, state), eqx.is_array)
        return carried, status, frames, saved + save_now, lists + made

    zero = jnp.zeros((), jnp.int32)
    arrays, status, frames, saved, lists = jax.lax.while_loop(
        going, body, (arrays, zero, frames, zero, zero)
    )
    _, state = eqx.combine(arrays, rest)
    return Block(state, status, frames, saved, lists)


@eqx.filter_jit
def observe_once(
    method: AbstractDynamics,
    model: MolecularModel,
    state: MolecularState,
    save: tuple[str, ...],
) -> dict[str, Array]:
    """One frame of a state whose list is good; the model comes in the order of the user."""
    return observe(method, model.reordered(state.identity), state, save)
