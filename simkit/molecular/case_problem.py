"""A molecular case as what the solvers take: a problem and a method."""

from typing import Any

import jax
import numpy as np

from simkit.config.molecular import MolecularCase
from solvers.molecular.brownian import Langevin
from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.thermostats import NoseHooverChain, StochasticVelocityRescaling
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.builders import lattice
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.model import MolecularModel
from systems.molecular.pairwise import LennardJones, WeeksChandlerAndersen
from systems.molecular.potentials import Buckingham, Morse, SoftSphere, Yukawa
from systems.molecular.units import UNITS


_POTENTIALS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (LennardJones, WeeksChandlerAndersen, Buckingham, Morse, SoftSphere, Yukawa)
}
_CUT_OFFS: dict[str, Any] = {
    kind.__name__: kind for kind in (Truncated, Shifted, ForceShifted, Switched)
}
_METHODS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (VelocityVerlet, Langevin, NoseHooverChain, StochasticVelocityRescaling)
}


def build_problem(case: MolecularCase) -> MolecularProblem:
    """The particles of a case, on their crystal, with velocities drawn by its seed."""
    table = case.molecules
    positions, box = lattice(
        table.lattice, table.repeats, density=table.density, constant=table.constant
    )
    pair = _POTENTIALS[type(table.potential).__name__](**table.potential.options)
    if table.cutoff is not None:
        pair = _CUT_OFFS[type(table.cutoff).__name__](pair, **table.cutoff.options)
    masses = np.full(len(positions), float(table.mass))
    model = MolecularModel(pair, masses, units=UNITS[table.units])
    temperature = case.dynamics.temperature
    if temperature is None:
        temperature = case.dynamics.method.options["temperature"]
    key = jax.random.key(case.dynamics.seed)
    return MolecularProblem(model, positions, box, temperature=temperature, key=key)


def build_method(case: MolecularCase) -> AbstractDynamics:
    """The method of a case."""
    table = case.dynamics.method
    return _METHODS[type(table).__name__](**table.options)
