"""How a system moves: problems, methods, solutions, gradients, ensembles."""

from solvers.ensemble.members import ensemble
from solvers.gradients import Backsolve, Checkpointed, Forward, Replayed
from solvers.integrators.deterministic import Bosh3, Dopri5, Dopri8, Euler, Midpoint, Tsit5
from solvers.integrators.stiff import ImplicitEuler, Kvaerno3, Kvaerno4, Kvaerno5
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    ShARK,
    StratonovichHeun,
    StratonovichMilstein,
)
from solvers.integrators.symplectic import StormerVerlet
from solvers.problem import InitialValueProblem
from solvers.solution import RESULTS, Solution, SolveError
from solvers.solve import solve


__all__ = [
    "RESULTS",
    "Backsolve",
    "Bosh3",
    "Checkpointed",
    "Dopri5",
    "Dopri8",
    "Euler",
    "EulerMaruyama",
    "Forward",
    "ImplicitEuler",
    "InitialValueProblem",
    "Kvaerno3",
    "Kvaerno4",
    "Kvaerno5",
    "Midpoint",
    "Milstein",
    "Replayed",
    "ShARK",
    "Solution",
    "SolveError",
    "StormerVerlet",
    "StratonovichHeun",
    "StratonovichMilstein",
    "Tsit5",
    "ensemble",
    "solve",
]
