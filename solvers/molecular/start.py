"""The state at the start of a run, and checks of what a user gave."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers.molecular.dynamics import AbstractDynamics, AbstractMinimiser
from solvers.molecular.kernel import with_forces
from solvers.molecular.lists import first_list, kind_for
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.state import MolecularState, as_arrays, inertia
from solvers.molecular.velocities import without_drift
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel
from systems.molecular.neighbours import NeighbourList


# Below this many particles all pairs cost less than a list.
_FEW_PARTICLES = 150
# A list reaches further than the forces by this part of their range.
_SKIN = 0.2


def choose_skin(
    model: MolecularModel, box: AbstractBox, skin: float | None, lists: bool | None
) -> float | None:
    """The skin of the neighbour list, or `None` where all pairs are summed.

    Raises `ValueError` for a list where the model has no range or the box is too narrow.
    """
    reach = model.range
    if reach is None:
        if lists:
            raise ValueError(
                "A neighbour list was asked for, but the model has no range: wrap its pair "
                "energies in a cut-off."
            )
        return None
    narrow = box.periodic and float(np.min(np.asarray(box.heights()))) < 2 * reach
    if narrow:
        raise ValueError(
            f"The box is {float(np.min(np.asarray(box.heights()))):.6g} wide, less than twice "
            f"the range {reach:.6g} of the model; dynamics needs a shorter range or more "
            "particles."
        )
    if lists is False or (lists is None and model.particles < _FEW_PARTICLES):
        return None
    return _SKIN * reach if skin is None else skin


def step_limit(model: MolecularModel) -> float:
    """How far a particle may move in one step before the run counts as exploded."""
    return math.inf if model.range is None else model.range / 2


def initial_state(
    problem: MolecularProblem,
    method: AbstractDynamics,
    *,
    dtype: Any = float,
    skin: float | None = None,
    lists: bool | None = None,
    engine: str = "auto",
) -> MolecularState:
    """The state before the first step; not under `jit`.

    The list is of the kind for an engine, see [`kind_for`][solvers.molecular.lists.kind_for].
    Raises `ValueError` for atoms that overlap, naming them, and where a list cannot be made.
    """
    model = as_arrays(problem.model, dtype)
    box = as_arrays(problem.box, dtype)
    positions = jnp.asarray(problem.positions, dtype)
    velocities = jnp.asarray(problem.velocities, dtype)
    particles = model.particles
    if method.conserves_momentum and particles > 1 and problem.degrees_of_freedom is None:
        # A drift would count as heat in degrees of freedom that it does not have.
        velocities = without_drift(velocities, model)
    chosen = choose_skin(problem.model, problem.box, skin, lists)
    neighbours = None
    if chosen is not None and (reach := problem.model.range) is not None:
        # Shifted into the box, as the first list of a run is.
        neighbours = first_list(
            box.wrap(positions), box, reach, chosen, spare=1.25, kind=kind_for(engine)
        )
    state = MolecularState(
        positions=positions,
        velocities=velocities,
        images=jnp.zeros((particles, 3), jnp.int32),
        box=box,
        identity=jnp.arange(particles, dtype=jnp.int32),
        forces=jnp.zeros_like(positions),
        virial=jnp.full((3, 3), jnp.nan, dtype),
        neighbours=neighbours,
        stale=jnp.asarray(neighbours is not None),
        variables=None,
        degrees_of_freedom=jnp.asarray(freedom(problem, method), dtype),
        step=jnp.zeros((), int),
        key=jax.random.key_data(problem.key),
    )
    state = eqx.filter_jit(with_forces)(state, model, method)
    refuse_overlap(state, model, method)
    variables = method.start(state, model)
    return eqx.tree_at(lambda s: s.variables, state, variables, is_leaf=lambda x: x is None)


def freedom(problem: MolecularProblem, method: AbstractDynamics) -> float:
    """Degrees of freedom of the velocities."""
    if problem.degrees_of_freedom is not None:
        return problem.degrees_of_freedom
    particles = problem.model.particles
    return 3 * particles - 3 * (method.conserves_momentum and particles > 1)


def refuse_overlap(
    state: MolecularState, model: MolecularModel, method: AbstractDynamics
) -> None:
    """Raise `ValueError` if two atoms lie so close that the first step would explode.

    That is so if their force is not finite, as of two at one place, or would move one of
    them by a tenth of the limit in one step.
    """
    distances, partners = nearest(state.positions, state.box, state.neighbours)
    forces = np.asarray(state.forces)
    duration = float(method.duration)
    pushes = np.linalg.norm(forces / np.asarray(inertia(model, forces.dtype)), axis=1)
    limit = 0.1 * step_limit(model)
    bad = ~(pushes * duration**2 / 2 <= limit)
    if isinstance(method, AbstractMinimiser):
        # Its steps are bounded, so that it may start from any finite force.
        bad = ~np.isfinite(pushes)
    if not np.any(bad):
        return
    # The closest of the bad ones: others may only feel it.
    first = int(np.argmin(np.where(bad, distances, np.inf)))
    second = int(partners[first])
    if not np.isfinite(distances[first]):
        raise ValueError(
            f"The force on atom {first} is {forces[first].tolist()} at the start: the run "
            "would explode in its first step. Check its position."
        )
    first, second = sorted((first, second))
    raise ValueError(
        f"Atoms {first} and {second} overlap at the start: they are "
        f"{distances[first]:.3g} apart. Minimise the energy first, or move them apart."
    )


def nearest(
    positions: Float[Array, "particles 3"], box: AbstractBox, neighbours: NeighbourList | None
) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each particle to the next one, and which that is."""
    particles = positions.shape[0]
    distances, partners = np.full(particles, np.inf), np.zeros(particles, int)
    if neighbours is None:
        others = jnp.broadcast_to(jnp.arange(particles)[None, :], (particles, particles))
    else:
        others = neighbours.indices
    rows = max(1, 2_000_000 // max(others.shape[1], 1))
    for begin in range(0, particles, rows):
        mine, theirs = positions[begin : begin + rows], others[begin : begin + rows]
        gaps = [mine[:, axis, None] - positions[:, axis][theirs] for axis in range(3)]
        dx, dy, dz = box.displacement(*gaps)
        own = theirs == jnp.arange(begin, begin + mine.shape[0])[:, None]
        squared = np.asarray(jnp.where(own, jnp.inf, dx**2 + dy**2 + dz**2))
        place = np.argmin(squared, axis=1)
        picked = np.arange(len(place))
        distances[begin : begin + rows] = np.sqrt(squared[picked, place])
        partners[begin : begin + rows] = np.asarray(theirs)[picked, place]
    return distances, partners
