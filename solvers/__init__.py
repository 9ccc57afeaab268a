"""How a system moves: problems, methods, solutions, gradients, ensembles.

The rooms `optimisers`, `curvature`, `molecular`, `sharding` and `distributed` are imported
when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from solvers.ensemble.members import ensemble
from solvers.gradients import Backsolve, Checkpointed, Forward, Replayed
from solvers.integrators.deterministic import Bosh3, Dopri5, Dopri8, Euler, Midpoint, Tsit5
from solvers.integrators.dop853 import DOP853
from solvers.integrators.rosenbrock import Rodas5P
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


if TYPE_CHECKING:
    from solvers import (
        curvature as curvature,
        distributed as distributed,
        molecular as molecular,
        optimisers as optimisers,
        sharding as sharding,
    )

_ROOMS = ("curvature", "distributed", "molecular", "optimisers", "sharding")

__all__ = [
    "DOP853",
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
    "Rodas5P",
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


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"solvers.{name}")
    raise AttributeError(f"module 'solvers' has no attribute {name!r}")
