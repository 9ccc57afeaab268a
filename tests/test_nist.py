"""NIST's 27 certified nonlinear regressions from both starts, at default settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.optimisers.base import LeastSquares, optimise, stop_names
from solvers.optimisers.least_squares import LevenbergMarquardt

from .helpers_compile import quick_jit
from .helpers_nist import FOLDER, MODELS, read, stacked


pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason=f"NIST's reference data are not here: no {FOLDER}"
)


@pytest.fixture(scope="module")
def regressions():
    return [read(name) for name in MODELS]


@pytest.fixture(scope="module")
def outcome(regressions):
    """All 54 starts as one compiled program, one lane each."""
    residuals, starts, index = stacked(regressions)
    most = starts.shape[1]
    certified = [np.pad(r.certified, (0, most - r.certified.size)) for r in regressions]

    @quick_jit
    def run(starts, index, certified):
        def one(start, i):
            problem = LeastSquares(residuals)
            return optimise(problem, LevenbergMarquardt(), start, i, throw=False)

        squares = jax.vmap(lambda b, i: jnp.sum(jnp.square(residuals(b, i))))
        return jax.vmap(one)(starts, index), squares(certified, index[::2])

    arguments = (jnp.asarray(each) for each in (starts, index, np.stack(certified)))
    result, squares = run(*arguments)
    digits = [
        regressions[i].digits(value[: regressions[i].certified.size])
        for i, value in zip(index, np.asarray(result.value), strict=True)
    ]
    return result, np.asarray(digits), index, np.asarray(squares)


@pytest.mark.slow
def test_the_models_are_those_of_nist(outcome, regressions):
    """The sum of squares at the certified parameters is the certified one."""
    squares = outcome[3]
    assert len(regressions) == len(squares) == 27
    for regression, found in zip(regressions, squares, strict=True):
        # That of Lanczos1 is below what rounding its parameters to 11 digits leaves.
        if regression.name != "Lanczos1":
            assert found == pytest.approx(regression.sum_of_squares, rel=1e-9)


@pytest.mark.slow
def test_every_start_reaches_the_certified_parameters(outcome, capsys):
    result, digits = outcome[:2]
    evaluations = np.asarray(result.statistics["function_evaluations"])
    with capsys.disabled():
        print(
            f"\nNIST: {np.sum(digits >= 7)} of 54 starts to 7 digits, "
            f"{np.sum(digits >= 10)} to 10, {evaluations.sum()} residual evaluations"
        )
    assert len(digits) == 54
    assert np.all(digits >= 7)
    assert np.sum(digits >= 10) >= 45
    assert evaluations.sum() <= 3500


@pytest.mark.slow
def test_every_start_says_that_it_converged(outcome):
    """So there is no false failure; with the digits, no false success either."""
    result = outcome[0]
    reasons = {stop_names()[i] for i in np.asarray(result.stop._value)}
    assert np.all(np.asarray(result.converged))
    assert reasons <= {"gradient", "objective", "step"}


@pytest.mark.slow
def test_the_sums_of_squares_are_the_certified_ones(outcome, regressions):
    result, _, index = outcome[:3]
    for i, objective in zip(index, np.asarray(result.objective), strict=True):
        if regressions[i].name != "Lanczos1":
            assert 2 * objective == pytest.approx(regressions[i].sum_of_squares, rel=1e-9)


@pytest.mark.slow
def test_a_lone_start_goes_the_way_of_its_lane(outcome, regressions):
    """BoxBOD from far away, on which MINPACK's algorithm reports a wrong optimum."""
    boxbod = list(MODELS).index("BoxBOD")
    regression = regressions[boxbod]
    lone = optimise(
        LeastSquares(regression.residuals),
        LevenbergMarquardt(),
        jnp.asarray(regression.starts[0]),
    )
    lane = 2 * boxbod
    assert regression.digits(lone.value) >= 10
    assert int(lone.steps) == int(outcome[0].steps[lane])
    np.testing.assert_allclose(outcome[0].value[lane, :2], lone.value, rtol=1e-12)
    np.testing.assert_array_equal(outcome[0].value[lane, 2:], 0)
