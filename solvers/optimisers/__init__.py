"""Optimisers: least squares and minimisation to second order, as optimistix solvers."""

from solvers.optimisers.base import (
    STOP,
    LeastSquares,
    Minimisation,
    OptimisationError,
    Optimum,
    optimise,
)
from solvers.optimisers.batches import Batches, Rows
from solvers.optimisers.composite import Composite
from solvers.optimisers.diagonal import AdaHessian, Sophia
from solvers.optimisers.first_order import Optax
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.losses import Arctan, Cauchy, Huber, SoftL1
from solvers.optimisers.multistart import Abandonment, Optima, optimise_many
from solvers.optimisers.natural_gradient import NaturalGradient
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG


__all__ = [
    "LBFGSB",
    "STOP",
    "Abandonment",
    "AdaHessian",
    "Arctan",
    "Batches",
    "Cauchy",
    "Composite",
    "CubicNewton",
    "Huber",
    "LeastSquares",
    "LevenbergMarquardt",
    "Minimisation",
    "NaturalGradient",
    "NewtonCG",
    "Optax",
    "Optima",
    "OptimisationError",
    "Optimum",
    "Rows",
    "SoftL1",
    "Sophia",
    "TrustRegionNewton",
    "optimise",
    "optimise_many",
]
