"""How molecules move: molecular dynamics, minimisation, and gradients through both."""

from solvers.molecular.adjoint import (
    Checkpointed,
    Forward,
    Horizon,
    Reversible,
    TrajectoryGradient,
    differentiate_trajectory,
)
from solvers.molecular.barostats import StochasticCellRescaling
from solvers.molecular.batches import MolecularBatch, run_batch
from solvers.molecular.brownian import Brownian, Langevin
from solvers.molecular.driver import Progress, run_dynamics
from solvers.molecular.dynamics import AbstractDynamics, AbstractThermostat
from solvers.molecular.minimisation import FIRE, LBFGS, Minimum, minimise_energy
from solvers.molecular.monte_carlo import MonteCarloBarostat
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.propagation import Frames
from solvers.molecular.state import MolecularState
from solvers.molecular.status import MolecularError
from solvers.molecular.thermostats import NoseHooverChain, StochasticVelocityRescaling
from solvers.molecular.trajectory import MolecularTrajectory, joined
from solvers.molecular.velocities import maxwell_boltzmann
from solvers.molecular.verlet import VelocityVerlet


__all__ = [
    "FIRE",
    "LBFGS",
    "AbstractDynamics",
    "AbstractThermostat",
    "Brownian",
    "Checkpointed",
    "Forward",
    "Frames",
    "Horizon",
    "Langevin",
    "Minimum",
    "MolecularBatch",
    "MolecularError",
    "MolecularProblem",
    "MolecularState",
    "MolecularTrajectory",
    "MonteCarloBarostat",
    "NoseHooverChain",
    "Progress",
    "Reversible",
    "StochasticCellRescaling",
    "StochasticVelocityRescaling",
    "TrajectoryGradient",
    "VelocityVerlet",
    "differentiate_trajectory",
    "joined",
    "maxwell_boltzmann",
    "minimise_energy",
    "run_batch",
    "run_dynamics",
]
