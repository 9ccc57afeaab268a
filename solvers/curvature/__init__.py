"""Curvature: Hessians, Gauss-Newton and Fisher matrices as operators, and what they tell."""

from solvers.curvature.choice import choose_derivative, differentiate, measure
from solvers.curvature.dense import as_dense, hessian, jacobian
from solvers.curvature.lanczos import condition_number, extreme_eigenpairs
from solvers.curvature.operators import (
    empirical_fisher_operator,
    fisher_operator,
    gauss_newton_operator,
    generalised_gauss_newton_operator,
    hessian_operator,
)
from solvers.curvature.quadrature import log_determinant, spectral_density
from solvers.curvature.sparse import coloured_hessian, coloured_jacobian
from solvers.curvature.stochastic import diagonal, trace


__all__ = [
    "as_dense",
    "choose_derivative",
    "coloured_hessian",
    "coloured_jacobian",
    "condition_number",
    "diagonal",
    "differentiate",
    "empirical_fisher_operator",
    "extreme_eigenpairs",
    "fisher_operator",
    "gauss_newton_operator",
    "generalised_gauss_newton_operator",
    "hessian",
    "hessian_operator",
    "jacobian",
    "log_determinant",
    "measure",
    "spectral_density",
    "trace",
]
