"""The minimum of a molecular case: where its dynamics start, or all that it asks for."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import numpy as np

from simkit.config.molecular import MolecularCase
from simkit.molecular.case_problem import build_minimiser
from simkit.progress import Progress
from solvers.molecular.driver import Progress as Pace
from solvers.molecular.kernel import observe_once
from solvers.molecular.minimisation import Minimum, minimise_energy
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import initial_state
from solvers.molecular.status import MolecularError
from solvers.molecular.trajectory import MolecularTrajectory, speeds
from solvers.molecular.verlet import VelocityVerlet


PREFIX = "minimisation_"
"""What the statistics of a trajectory that come from a minimisation begin with."""


def minimised(
    problem: MolecularProblem, case: MolecularCase, progress: Progress
) -> tuple[MolecularProblem, dict[str, float]]:
    """A problem at the minimum of its energy, and what it took to get there.

    **Arguments:**

    - `problem`: the start of the case.
    - `case`: with a minimisation.
    - `progress`: told the steps that are done.

    **Returns:** the problem, and statistics: steps, largest force, whether it converged.

    Raises `ValueError` for forces that are not finite, such as of two atoms in one place.
    """
    table = case.minimisation
    assert table is not None

    def tell(pace: Pace) -> None:
        words = f"minimising, {pace.steps_per_second:,.0f} steps/s"
        progress(pace.step, table.most_steps, words)

    try:
        found: Minimum = minimise_energy(
            problem, build_minimiser(case), most_steps=table.most_steps, progress=tell
        )
    except MolecularError as error:
        raise ValueError(f"minimisation: {error}") from None
    statistics = {
        f"{PREFIX}steps": float(found.steps),
        f"{PREFIX}force": float(found.largest_force),
        f"{PREFIX}converged": float(found.converged),
    }
    there = eqx.tree_at(lambda p: (p.positions, p.box), problem, (found.positions, found.box))
    return there, statistics


def minimum_trajectory(
    problem: MolecularProblem, case: MolecularCase, progress: Progress
) -> MolecularTrajectory:
    """The minimum of a case without dynamics, as a trajectory of one frame at rest."""
    began = time.perf_counter()
    there, statistics = minimised(problem, case, progress)
    still = VelocityVerlet(1e-9)  # no step is taken by it
    state = initial_state(there, still)
    frame: dict[str, Any] = {
        name: np.asarray(value)[None]
        for name, value in observe_once(still, there.model, state, ("forces",)).items()
    }
    seconds = time.perf_counter() - began
    counts = {
        "steps": statistics[f"{PREFIX}steps"],
        "lists": 0,
        "growths": 0,
        "seconds": seconds,
    }
    converged = bool(statistics[f"{PREFIX}converged"])
    force = statistics[f"{PREFIX}force"]
    fields = {field.name for field in dataclasses.fields(MolecularTrajectory)}
    blank = dict.fromkeys(("velocities", "forces", "box_vectors"))
    kept = {name: value for name, value in frame.items() if name in fields}
    return MolecularTrajectory(
        **{**blank, "times": np.zeros(1), **kept},
        units=problem.model.units,
        status="successful" if converged else "unconverged",
        message=""
        if converged
        else f"The minimisation gave up after {int(counts['steps'])} steps with a largest "
        f"force of {force:.3g}, expected one below its tolerance; allow more most_steps.",
        state=state,
        statistics={**speeds(counts, 0.0, problem.model.units), **statistics},
    )
