"""How a system moves: problems, methods, solutions, gradients, ensembles."""

from solvers.ensemble.members import ensemble
from solvers.gradients import Backsolve, Checkpointed, Forward
from solvers.integrators.deterministic import Bosh3, Dopri5, Dopri8, Euler, Midpoint, Tsit5
from solvers.integrators.stiff import ImplicitEuler, KenCarp4, Kvaerno3, Kvaerno5
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    ShARK,
    StratonovichHeun,
    StratonovichMilstein,
)
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
    "KenCarp4",
    "Kvaerno3",
    "Kvaerno5",
    "Midpoint",
    "Milstein",
    "ShARK",
    "Solution",
    "SolveError",
    "StratonovichHeun",
    "StratonovichMilstein",
    "Tsit5",
    "ensemble",
    "solve",
]
