"""A molecular case tried before the long run: its start, its forces, and a few steps."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from simkit.config.molecular import MolecularCase
from simkit.config.molecular_reader import LoadedMolecules
from simkit.molecular.case_problem import build_method, build_minimiser, build_problem
from simkit.molecular.minimum import minimised
from simkit.precision import use_double_precision
from simkit.progress import Progress, silent
from solvers.molecular.driver import run_dynamics
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import initial_state, nearest
from solvers.molecular.state import MolecularState
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.model import MolecularModel


ATOMS = 8
"""Forces on so many atoms are compared with finite differences."""
STEPS = 50
"""So many steps are taken at constant energy."""
_FEW_STEPS = 5
# Displacements in units of the shortest distance, and how far both may differ.
_SHIFT = 1e-5
_SHAKEN = 0.02
_TOLERANCE = 1e-4
# Thermal energies by which the energy of an atom may wander in the steps.
_WANDER = 0.05


@dataclasses.dataclass(frozen=True)
class ForceCheck:
    """Forces along random directions, against finite differences of the energy.

    - `atoms`: which ones, shape `(atoms,)`.
    - `forces`, `differences`: shape `(atoms,)`, energy per length.
    - `wrong`: of which atom both differ by more than rounding, shape `(atoms,)`.
    """

    atoms: np.ndarray
    forces: np.ndarray
    differences: np.ndarray
    wrong: np.ndarray

    @property
    def relative_difference(self) -> np.ndarray:
        """Of both, relative to the larger, shape `(atoms,)`; zero where both are."""
        size = np.maximum(np.abs(self.forces), np.abs(self.differences))
        apart = np.abs(self.forces - self.differences)
        return np.where(size > 0, apart / np.where(size > 0, size, 1.0), 0.0)

    @property
    def worst(self) -> int:
        """Which of the atoms has the largest difference; a wrong one if there is any."""
        apart = np.abs(self.forces - self.differences)
        apart = np.where(np.isfinite(apart), apart, np.inf)
        return int(np.argmax(np.where(np.any(self.wrong), apart * self.wrong, apart)))


@dataclasses.dataclass(frozen=True)
class MolecularTrial:
    """What a trial found.

    - `particles`: how many there are.
    - `closest`: two atoms and their distance at the start; `None` if none are near.
    - `forces`: the comparison with finite differences.
    - `steps`: how many were taken at constant energy; zero without dynamics.
    - `wander`: range of the total energy in them, in thermal energies for each particle;
      `None` where nothing tells a temperature.
    - `warnings`: what need not be wrong.
    - `failure`: what is wrong, as a sentence, or `""`.
    """

    particles: int
    closest: tuple[int, int, float] | None
    forces: ForceCheck
    steps: int = 0
    wander: float | None = None
    warnings: tuple[str, ...] = ()
    failure: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """Plain values by name, as `simkit check --json` prints them."""
        worst = self.forces.worst
        return {
            "particles": self.particles,
            "closest": None
            if self.closest is None
            else {"atoms": list(self.closest[:2]), "distance": self.closest[2]},
            "forces": {
                "atoms": len(self.forces.atoms),
                "wrong": self.forces.atoms[self.forces.wrong].tolist(),
                "worst": {
                    "atom": int(self.forces.atoms[worst]),
                    "force": float(self.forces.forces[worst]),
                    "finite_difference": float(self.forces.differences[worst]),
                    "relative_difference": float(self.forces.relative_difference[worst]),
                },
            },
            "steps": self.steps,
            "energy_wander": self.wander,
            "warnings": list(self.warnings),
            "failure": self.failure or None,
        }

    @property
    def sentences(self) -> list[str]:
        """What was tried, in words."""
        worst = self.forces.worst
        said = [
            f"Forces on {len(self.forces.atoms)} atoms against finite differences of the "
            f"energy: the worst is atom {self.forces.atoms[worst]}, with a relative difference "
            f"of {self.forces.relative_difference[worst]:.1e}."
        ]
        if self.closest is not None:
            first, second, distance = self.closest
            said.append(f"The closest atoms are {first} and {second}, {distance:.6g} apart.")
        if self.wander is not None:
            said.append(
                f"Tried: {self.steps} steps, in which the energy wanders by "
                f"{self.wander:.1e} kT for each particle."
            )
        return said


def try_molecules(loaded: LoadedMolecules, progress: Progress = silent) -> MolecularTrial:
    """Build a molecular case, compare its forces with finite differences, take a few steps.

    Raises `ValueError` for what is wrong with the start, such as atoms that overlap or a
    file that does not fit.
    """
    use_double_precision()
    case = loaded.case
    progress(0, 0, "building")
    problem = build_problem(case, loaded.folder)
    method = build_method(case) if case.minimisation is None else build_minimiser(case)
    state = initial_state(problem, method)
    trial = MolecularTrial(
        problem.model.particles,
        _closest(state),
        check_forces(problem.model, state),
    )
    if np.any(trial.forces.wrong):
        return dataclasses.replace(trial, failure=_wrong_forces(trial.forces))
    if case.minimisation is not None:
        problem, found = minimised(problem, case, progress)
        if not found["minimisation_converged"]:
            gave_up = (
                f"The minimisation gave up after {found['minimisation_steps']:.0f} steps with "
                f"a largest force of {found['minimisation_force']:.3g}."
            )
            trial = dataclasses.replace(trial, warnings=(*trial.warnings, gave_up))
    if case.dynamics is None:
        return trial
    return _steps(case, problem, trial, progress)


def check_forces(model: MolecularModel, state: MolecularState) -> ForceCheck:
    """Forces near a state that was just made, against finite differences of the energy.

    All atoms are shaken a little, for in a crystal there are no forces. The atoms that are
    looked at are the one with the largest force, and others at random.
    """
    drawn = np.random.default_rng(0)
    distances, _ = nearest(state.positions, state.box, state.neighbours)
    finite = distances[np.isfinite(distances)]
    length = float(np.min(finite)) if finite.size else 1.0
    shaken = _SHAKEN * length * drawn.uniform(-1, 1, state.positions.shape)
    state = eqx.tree_at(lambda s: s.positions, state, state.positions + shaken)
    forces = np.asarray(_forces(model, state))
    largest = int(np.argmax(np.sum(forces**2, axis=1)))
    others = drawn.permutation(np.delete(np.arange(len(forces)), largest))[: ATOMS - 1]
    atoms = np.unique([largest, *others])
    directions = drawn.standard_normal((len(atoms), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    shift = _SHIFT * length
    energies = np.asarray(
        _shifted_energies(model, state, jnp.asarray(atoms), jnp.asarray(directions), shift)
    )
    differences = -(energies[0] - energies[1]) / (2 * shift)
    along = np.sum(forces[atoms] * directions, axis=1)
    # Rounding of the energy, as large as its parts, sets a floor.
    floor = 1e3 * np.finfo(float).eps * np.max(np.abs(energies)) / shift
    size = np.maximum(np.abs(along), np.linalg.norm(forces[atoms], axis=1))
    wrong = ~(np.abs(along - differences) <= _TOLERANCE * size + floor)
    return ForceCheck(atoms, along, differences, wrong)


@eqx.filter_jit
def _forces(model: MolecularModel, state: MolecularState) -> Any:
    return model.evaluate(state.positions, state.box, state.neighbours).forces


@eqx.filter_jit
def _shifted_energies(
    model: MolecularModel, state: MolecularState, atoms: Any, directions: Any, shift: Any
) -> Any:
    """Energies with one atom moved ahead, and back, shape `(2, atoms)`."""

    def energy(sign: float) -> Any:
        def one(which: tuple[Any, Any]) -> Any:
            atom, direction = which
            moved = state.positions.at[atom].add(sign * shift * direction)
            return model.energy(moved, state.box, state.neighbours)

        return jax.lax.map(one, (atoms, directions))

    return jnp.stack([energy(1.0), energy(-1.0)])


def _closest(state: MolecularState) -> tuple[int, int, float] | None:
    distances, partners = nearest(state.positions, state.box, state.neighbours)
    first = int(np.argmin(distances))
    if not np.isfinite(distances[first]):
        return None
    one, other = sorted((first, int(partners[first])))
    return one, other, float(distances[first])


def _wrong_forces(forces: ForceCheck) -> str:
    worst, count = forces.worst, int(np.sum(forces.wrong))
    others = f" ({count} of {len(forces.atoms)} atoms are off)" if count > 1 else ""
    return (
        f"the force on atom {forces.atoms[worst]} is wrong: along some direction it is "
        f"{forces.forces[worst]:.6g}, by finite differences of the energy "
        f"{forces.differences[worst]:.6g}{others}."
    )


def _steps(
    case: MolecularCase, problem: MolecularProblem, trial: MolecularTrial, progress: Progress
) -> MolecularTrial:
    """A few steps by the method, and more at constant energy, which tell the time step."""
    table = case.dynamics
    assert table is not None
    method = build_method(case)
    progress(0, 0, "taking steps")
    found = run_dynamics(
        problem,
        method,
        steps=_FEW_STEPS,
        precision=table.precision,
        engine=table.engine,
        throw=False,
    )
    if not found.succeeded:
        return dataclasses.replace(trial, failure=found.message)
    wanders = []
    for part in (1, 2):
        # At half the time step what comes from the cut-off stays, what the step does falls.
        found = run_dynamics(
            problem,
            VelocityVerlet(float(method.duration) / part),
            steps=STEPS * part,
            save_every=part,
            save=(),
            throw=False,
        )
        if not found.succeeded:
            return dataclasses.replace(trial, steps=STEPS, failure=found.message)
        wanders.append(float(np.ptp(found.total_energy)) / problem.model.particles)
    assert table.start_temperature is not None
    thermal = table.start_temperature * problem.model.units.boltzmann
    wander, finer = wanders[0] / thermal, wanders[1] / thermal
    warnings = trial.warnings
    if wander > _WANDER and wander > 2 * finer:
        warnings += (
            f"In {STEPS} steps at constant energy that energy wanders by {wander:.2g} kT for "
            f"each particle, and by {finer:.2g} kT at half the time step: "
            f"{float(method.duration):.6g} is too long.",
        )
    return dataclasses.replace(trial, steps=STEPS, wander=wander, warnings=warnings)
