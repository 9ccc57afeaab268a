"""Problems of CUTEst, which nobody here wrote. The optima are those of the literature."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB

from .helpers_compile import quick_jit
from .helpers_cutest import KINDS, read_cutest


pytestmark = pytest.mark.slow

# J. J. Moré, B. S. Garbow and K. E. Hillstrom, ACM Trans. Math. Softw. 7, 17 (1981), for
# the first four; W. Hock and K. Schittkowski, Test Examples for Nonlinear Programming Codes
# (1981), for the others.
UNCONSTRAINED = {
    "BEALE": 0.0,
    "BROWNDEN": 85822.2,
    "OSBORNEA": 5.46489e-5,
    "BIGGS6": 0.0,
    # NIST's certified sum of squares; a scale that follows each change of curvature at
    # once leads to another minimum.
    "HAHN1LS": 1.5324382854,
}
BOUNDED = {"HS1": 0.0, "HS5": -1.913222954981, "HS38": 0.0, "HS110": -45.77846971}


@pytest.fixture(scope="module")
def problems():
    if importlib.util.find_spec("sif2jax") is None:
        pytest.skip("sif2jax is not installed")
    raw = [problem for kind in KINDS for problem in read_cutest(kind)]
    return {problem.name: problem for problem in raw}


def run(problem, method):
    bounds = getattr(problem, "bounds", None) or (None, None)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), problem.y0)
    if bounds[0] is not None:
        start = jnp.clip(start, *bounds)
    question = Minimisation(lambda y, args: problem.objective(y, args), *bounds)

    @quick_jit
    def solve(start):
        return optimise(question, method, start, problem.args, max_steps=2000, throw=False)

    return solve(start)


@pytest.mark.parametrize("name", UNCONSTRAINED)
def test_known_minima_by_newton(problems, name):
    found = run(problems[name], TrustRegionNewton())
    assert found.converged
    np.testing.assert_allclose(found.objective, UNCONSTRAINED[name], rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("method", [TrustRegionNewton(), LBFGSB()], ids=["newton", "lbfgsb"])
def test_known_minima_between_bounds(problems, name, method):
    found = run(problems[name], method)
    assert found.converged
    np.testing.assert_allclose(found.objective, BOUNDED[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", [TrustRegionNewton(), CubicNewton()], ids=["trust", "cubic"])
def test_a_parameter_that_no_longer_matters_is_no_success(problems, method):
    """One of two rates of decay grows until its term is over at the first measurement."""
    found = run(problems["MGH17LS"], method)
    # The least sum of squares that is certified by NIST; the plateau lies at 0.0245.
    assert stop_names()[int(found.stop._value)] == "flat" or found.objective < 8e-5
    assert found.converged == (found.objective < 8e-5)
