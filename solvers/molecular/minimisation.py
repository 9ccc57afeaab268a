"""Minima of the energy: FIRE and L-BFGS, of positions alone or with the box."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from solvers.molecular.barostats import check_periodic, strained_state
from solvers.molecular.cell_forces import Coordinates, dot, generalised_forces, norm, scaled
from solvers.molecular.driver import Progress, Run
from solvers.molecular.dynamics import (
    AbstractMinimiser,
    as_value,
    with_variables,
    with_velocities,
)
from solvers.molecular.engine import Engine, choose_engine
from solvers.molecular.kernel import observe_once
from solvers.molecular.precision import in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import choose_skin, initial_state
from solvers.molecular.state import MolecularState
from solvers.molecular.status import MolecularError
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


class FIREVariables(eqx.Module):
    """What FIRE carries: velocities of all coordinates, its time step, mixing, and luck."""

    velocities: Coordinates
    time_step: Float[Array, ""]
    mixing: Float[Array, ""]
    downhill: Int[Array, ""]


class FIRE(AbstractMinimiser):
    r"""Fast inertial relaxation: dynamics that are stopped whenever they go uphill.

    Robust far from a minimum, such as for random packings.

    - `tolerance`: largest component of a force at the end, energy per length; with the box
      also the largest stress times the volume, over the number of particles.
    - `time_step`: the first one, in units in which all masses are one and energy and
      length are those of the model; `longest_step` bounds it.
    - `most_moved`: how far a particle may go in a step, in the unit of length.
    - `with_box`: whether the box is relaxed too, at `pressure`.
    - `pressure`: in the unit of pressure.

    Source: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006); the box as coordinates:
    E. B. Tadmor et al., Phys. Rev. B 59, 235 (1999).
    """

    tolerance: Float[Any, ""] = eqx.field(default=1e-6, converter=as_value)
    time_step: Float[Any, ""] = eqx.field(default=0.005, converter=as_value)
    longest_step: Float[Any, ""] = eqx.field(default=0.05, converter=as_value)
    most_moved: Float[Any, ""] = eqx.field(default=0.1, converter=as_value)
    pressure: Float[Any, ""] = eqx.field(default=0.0, converter=as_value)
    with_box: bool = eqx.field(default=False, static=True)

    conserves_momentum: ClassVar[bool] = True

    @property
    def needs_virial(self) -> bool:
        """Where the box is relaxed."""
        return self.with_box

    @property
    def duration(self) -> Float[Array, ""]:
        """The first time step; there is no physical time."""
        return self.time_step

    def start(self, state: MolecularState, model: MolecularModel) -> FIREVariables:
        """At rest."""
        if self.with_box:
            check_periodic("FIRE with the box", state)
        at_rest = scaled(generalised_forces(state, model, self.pressure, self.with_box), 0.0)
        dtype = state.positions.dtype
        return FIREVariables(
            at_rest,
            jnp.asarray(self.time_step, dtype),
            jnp.asarray(0.1, dtype),
            jnp.zeros((), jnp.int32),
        )

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """Mixing of velocities with forces, then a step of semi-implicit Euler."""
        v: FIREVariables = state.variables
        forces = generalised_forces(state, model, self.pressure, self.with_box)
        # Velocities of particles travel with the state, which may be sorted.
        velocities = Coordinates(state.velocities, v.velocities.strain)
        good = dot(forces, velocities) >= 0
        downhill = jnp.where(good, v.downhill + 1, 0)
        lucky = downhill > 5
        step = jnp.where(
            good, jnp.where(lucky, v.time_step * 1.1, v.time_step), v.time_step / 2
        )
        step = jnp.minimum(step, self.longest_step)
        mixing = jnp.where(good, jnp.where(lucky, v.mixing * 0.99, v.mixing), 0.1)
        along = norm(velocities) / jnp.maximum(norm(forces), 1e-300)
        kept = jnp.where(good, 1 - mixing, 0.0)
        pushed = jnp.where(good, mixing * along, 0.0) + step
        velocities = velocities.plus(forces, kept, pushed)
        move = limited(scaled(velocities, step), self.most_moved)
        state = with_velocities(state, velocities.positions)
        variables = FIREVariables(
            Coordinates(jnp.zeros_like(state.velocities), velocities.strain),
            step,
            mixing,
            downhill,
        )
        return moved_by(with_variables(state, variables), move)

    def strides(
        self, state: MolecularState, model: MolecularModel
    ) -> Float[Array, "particles 3"]:
        """Nothing, as steps are bounded; but forces that are no numbers are seen."""
        del model
        return state.forces * 0

    def converged(self, state: MolecularState, model: MolecularModel) -> Bool[Array, ""]:
        """Whether the largest force is below the tolerance."""
        return largest_force(state, model, self.pressure, self.with_box) <= self.tolerance


class LBFGSVariables(eqx.Module):
    """The last steps and changes of the force, newest first, and what made them."""

    steps: Coordinates
    changes: Coordinates
    curvatures: Float[Array, " memory"]
    forces: Coordinates
    move: Coordinates


class LBFGS(AbstractMinimiser):
    r"""The limited-memory BFGS method: fast close to a minimum.

    Steps are bounded instead of searched along a line, so that each takes one evaluation.

    - `tolerance`, `with_box`, `pressure`, `most_moved`: as for
      [`FIRE`][solvers.molecular.minimisation.FIRE].
    - `stiffness`: guess of the curvature along a typical coordinate, energy per length
      squared; the first step is the force over it.
    - `memory`: how many steps are remembered.

    Source: D. C. Liu, J. Nocedal, Math. Program. 45, 503 (1989).
    """

    tolerance: Float[Any, ""] = eqx.field(default=1e-6, converter=as_value)
    stiffness: Float[Any, ""] = eqx.field(default=100.0, converter=as_value)
    most_moved: Float[Any, ""] = eqx.field(default=0.1, converter=as_value)
    pressure: Float[Any, ""] = eqx.field(default=0.0, converter=as_value)
    memory: int = eqx.field(default=10, static=True)
    with_box: bool = eqx.field(default=False, static=True)

    conserves_momentum: ClassVar[bool] = True
    # Remembered steps are stored by particle.
    sorts: ClassVar[bool] = False

    @property
    def needs_virial(self) -> bool:
        """Where the box is relaxed."""
        return self.with_box

    @property
    def duration(self) -> Float[Array, ""]:
        """One: there is no physical time."""
        return jnp.ones(())

    def start(self, state: MolecularState, model: MolecularModel) -> LBFGSVariables:
        """Nothing is remembered."""
        if self.with_box:
            check_periodic("LBFGS with the box", state)
        forces = generalised_forces(state, model, self.pressure, self.with_box)
        empty = Coordinates(
            jnp.zeros((self.memory, *forces.positions.shape), forces.positions.dtype),
            jnp.zeros((self.memory, 3, 3), forces.strain.dtype),
        )
        curvatures = jnp.zeros(self.memory, state.positions.dtype)
        return LBFGSVariables(empty, empty, curvatures, forces, scaled(forces, 0.0))

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The step of the two loops, bounded."""
        v: LBFGSVariables = state.variables
        forces = generalised_forces(state, model, self.pressure, self.with_box)
        change = v.forces.plus(forces, 1.0, -1.0)
        curvature = dot(v.move, change)
        # Only steps along which the force fell can be remembered.
        useful = curvature > 1e-12 * norm(v.move) * norm(change)
        steps = remembered(v.steps, v.move, useful)
        changes = remembered(v.changes, change, useful)
        shifted = jnp.concatenate([curvature[None], v.curvatures[:-1]])
        curvatures = jnp.where(useful, shifted, v.curvatures)
        move = limited(self._direction(forces, steps, changes, curvatures), self.most_moved)
        downhill = dot(move, forces) > 0
        plain = limited(scaled(forces, 1 / self.stiffness), self.most_moved)
        move = move.plus(plain, jnp.where(downhill, 1.0, 0.0), jnp.where(downhill, 0.0, 1.0))
        variables = LBFGSVariables(steps, changes, curvatures, forces, move)
        return moved_by(with_variables(state, variables), move)

    def _direction(
        self,
        forces: Coordinates,
        steps: Coordinates,
        changes: Coordinates,
        curvatures: Float[Array, " memory"],
    ) -> Coordinates:
        inverse = jnp.where(curvatures > 0, 1 / jnp.where(curvatures > 0, curvatures, 1.0), 0.0)
        q, factors = forces, []
        for i in range(self.memory):
            factors.append(inverse[i] * dot(steps.at(i), q))
            q = q.plus(changes.at(i), 1.0, -factors[i])
        newest = dot(changes.at(0), changes.at(0))
        known = (curvatures[0] > 0) & (newest > 0)
        scale = jnp.where(
            known, curvatures[0] / jnp.where(known, newest, 1.0), 1 / self.stiffness
        )
        q = scaled(q, scale)
        for i in range(self.memory - 1, -1, -1):
            back = inverse[i] * dot(changes.at(i), q)
            q = q.plus(steps.at(i), 1.0, factors[i] - back)
        return q

    def strides(
        self, state: MolecularState, model: MolecularModel
    ) -> Float[Array, "particles 3"]:
        """Nothing, as steps are bounded; but forces that are no numbers are seen."""
        del model
        return state.forces * 0

    def converged(self, state: MolecularState, model: MolecularModel) -> Bool[Array, ""]:
        """Whether the largest force is below the tolerance."""
        return largest_force(state, model, self.pressure, self.with_box) <= self.tolerance


def remembered(history: Coordinates, newest: Coordinates, useful: Array) -> Coordinates:
    """A history with one more entry in front, if it is useful."""

    def push(old: Array, new: Array) -> Array:
        return jnp.where(useful, jnp.concatenate([new[None], old[:-1]]), old)

    return Coordinates(
        push(history.positions, newest.positions), push(history.strain, newest.strain)
    )


def limited(move: Coordinates, most: Float[Array, ""]) -> Coordinates:
    """A move shortened so that no particle goes further than `most`."""
    farthest = jnp.sqrt(jnp.max(jnp.sum(move.positions**2, axis=1)))
    farthest = jnp.maximum(farthest, jnp.sqrt(jnp.sum(move.strain**2)))
    return scaled(move, jnp.minimum(1.0, most / jnp.maximum(farthest, 1e-300)))


def moved_by(state: MolecularState, move: Coordinates) -> MolecularState:
    """Positions moved, then strained together with the box."""
    state = eqx.tree_at(lambda s: s.positions, state, state.positions + move.positions)
    if not state.box.periodic:
        return state
    return strained_state(state, move.as_strain(state), momenta=False)


def largest_force(
    state: MolecularState, model: MolecularModel, pressure: Array, with_box: bool
) -> Float[Array, ""]:
    """The largest component of a force, or of the stress in the same terms."""
    forces = generalised_forces(state, model, pressure, with_box)
    largest = jnp.max(jnp.abs(forces.positions))
    return jnp.maximum(largest, jnp.max(jnp.abs(forces.strain)))


class Minimum(eqx.Module):
    """What a minimisation gives.

    - `positions`: shape `(particles, 3)`, in the order of the user.
    - `box`: the box there.
    - `energy`: the potential energy.
    - `pressure_tensor`: of the forces alone, shape `(3, 3)`.
    - `largest_force`: the largest component of a force.
    - `steps`: how many were taken.
    - `converged`: whether the tolerance was reached.
    """

    positions: Float[Array, "particles 3"]
    box: AbstractBox
    energy: float
    pressure_tensor: np.ndarray
    largest_force: float
    steps: int
    converged: bool


def minimise_energy(
    problem: MolecularProblem,
    method: FIRE | LBFGS,
    *,
    most_steps: int = 10_000,
    engine: Engine = "auto",
    skin: float | None = None,
    lists: bool | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> Minimum:
    """The minimum of the energy that is downhill from the positions of a problem.

    **Arguments:**

    - `problem`: positions, box and model; velocities play no part.
    - `method`: FIRE from far away, LBFGS close to the minimum; with the box if it says so.
    - `most_steps`: where it gives up; `converged` tells.
    - `engine`, `skin`, `lists`, `progress`: as for
      [`run_dynamics`][solvers.molecular.driver.run_dynamics].

    Raises `MolecularError` if the forces are not finite. Overlapping atoms are allowed,
    unless they are at the same place.
    """
    still = eqx.tree_at(lambda p: p.velocities, problem, jnp.zeros_like(problem.velocities))
    model, method, dtype = in_precision(problem.model, method, "double")
    lists = True if lists is None and engine == "native" else lists
    with_lists = choose_skin(problem.model, problem.box, skin, lists) is not None
    model = choose_engine(engine, model, problem.box, with_lists=with_lists).model
    still = eqx.tree_at(
        lambda p: (p.model, p.velocities), problem, (model, jnp.zeros_like(problem.velocities))
    )
    state = initial_state(still, method, dtype=dtype, skin=skin, lists=lists, engine=engine)
    # A frame only at the start: the end is looked at by itself.
    run = Run(model, method, state, most_steps + 1, ("forces",), [])
    fault = None
    if not bool(method.converged(state, model)):
        fault = run.go(most_steps, progress)
    if fault is not None:
        raise MolecularError(fault[1], run.trajectory(fault))
    state = run.state
    resting = with_velocities(state, jnp.zeros_like(state.velocities))
    frame = observe_once(method, model, resting, ("forces",))
    ordered = model.reordered(state.identity)
    return Minimum(
        positions=frame["positions"],
        box=state.box,
        energy=float(frame["potential_energy"]),
        pressure_tensor=np.asarray(frame["pressure_tensor"]),
        largest_force=float(jnp.max(jnp.abs(frame["forces"]))),
        steps=int(state.step),
        converged=bool(method.converged(state, ordered)),
    )
