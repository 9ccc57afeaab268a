"""L-BFGS-B: SciPy's optima, bounds met exactly, rounding, and honest stops."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize

from solvers.optimisers.base import Minimisation, optimise
from solvers.optimisers.limited_memory import cauchy_point, compact, no_pairs, remember
from solvers.optimisers.quasi_newton import LBFGSB

from .helpers_compile import quick_jit
from .helpers_minimisers import CASES, outcome, watched


def chain(y, offset):
    """The chained Rosenbrock function."""
    return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2) + offset


value_and_gradient = jax.jit(jax.value_and_grad(chain))


def scipy_optimum(start, lower, upper):
    found = scipy.optimize.minimize(
        lambda x: [np.asarray(part) for part in value_and_gradient(x, 0.0)],
        np.asarray(start),
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(lower, upper),
        options={"ftol": 0.0, "gtol": 1e-10, "maxiter": 5000, "maxfun": 20000},
    )
    return found.x


def test_bounded_optima_are_those_of_scipy():
    """Boxes around and beside the minimum, and none at all, in lanes of one program."""
    lower = jnp.asarray([-0.1, -2.0, 1.1, -jnp.inf])
    upper = jnp.asarray([0.9, 2.0, 3.0, jnp.inf])
    start = jnp.asarray([0.4, -1.0, 2.0, -1.0])

    def run(start, lower, upper):
        problem = Minimisation(chain, lower, upper)
        return optimise(problem, LBFGSB(), jnp.full(20, 1.0) * start, 0.0, throw=False)

    found = quick_jit(jax.vmap(run))(start, lower, upper)
    assert jnp.all(found.converged)
    assert jnp.all(found.value >= lower[:, None]) & jnp.all(found.value <= upper[:, None])
    for lane in range(4):
        expected = scipy_optimum(np.full(20, start[lane]), lower[lane], upper[lane])
        np.testing.assert_allclose(found.value[lane], expected, atol=2e-7)
        held = (expected == lower[lane]) | (expected == upper[lane])
        np.testing.assert_array_equal(np.asarray(found.value[lane])[held], expected[held])


def test_a_large_quadratic_function_with_bounds():
    n = 400
    diagonal = jnp.linspace(1.0, 1e3, n)
    target = 2 * jnp.sin(jnp.arange(n) * 1.0)

    def objective(y, args):
        return 0.5 * jnp.sum(diagonal * (y - target) ** 2)

    @quick_jit
    def run(start):
        return optimise(Minimisation(objective, -1.0, 1.0), LBFGSB(), start, throw=False)

    found = run(jnp.zeros(n))
    assert found.converged
    np.testing.assert_allclose(found.value, jnp.clip(target, -1, 1), atol=1e-8)
    held = jnp.abs(target) > 1
    assert jnp.all(jnp.abs(found.value[held]) == 1)
    assert found.statistics["function_evaluations"] < 400


@pytest.fixture(scope="module")
def lanes():
    return outcome(LBFGSB(), CASES)


def test_offsets_and_stops_in_lanes(lanes):
    """Rounding of a large constant, no limit, and no number at the start."""
    for name in ("no offset", "offset", "huge offset"):
        np.testing.assert_allclose(lanes.lane(name).value[:2], 1.0, rtol=1e-7)
        assert lanes.lane(name).converged
    assert lanes.reason("unbounded") == "unbounded"
    assert lanes.reason("no number") == lanes.reason("logarithm") == "nonfinite_start"


def test_points_without_slope_are_told_apart(lanes):
    """Maxima and saddle points are left, a plateau is no success, a minimum is one."""
    for name in ("maximum", "maximum on an offset", "maximum at a bound"):
        np.testing.assert_allclose(jnp.cos(lanes.lane(name).value[0]), -1.0, rtol=1e-12)
        assert lanes.lane(name).converged
    for name in ("saddle", "saddle on the way"):
        np.testing.assert_allclose(lanes.lane(name).objective, -1.25, rtol=1e-12)
        assert lanes.lane(name).converged
    for name in ("plateau", "constant"):
        assert lanes.reason(name) == "flat"
        assert lanes.lane(name).steps <= 3
    assert lanes.reason("minimum") == "gradient"
    # The start, and a probe for each parameter.
    assert lanes.lane("minimum").steps <= 4


def test_what_bounds_hold_is_converged(lanes):
    """The multipliers have the right sign, so that nothing is left to gain."""
    for name in ("all to bounds", "all on bounds"):
        np.testing.assert_array_equal(lanes.lane(name).value, [-3, -3, 5])
        assert lanes.reason(name) == "gradient"
    np.testing.assert_allclose(lanes.lane("some to bounds").value, [-3, -3, 0.5], rtol=1e-8)
    np.testing.assert_allclose(lanes.lane("one fixed").value, [-3, 1, 0.5], rtol=1e-8)
    assert lanes.lane("some to bounds").converged & lanes.lane("one fixed").converged


def test_bounds_are_met_exactly_and_never_crossed():
    found, seen = watched(LBFGSB())
    np.testing.assert_allclose(found.value, [0.5, 0.25], rtol=1e-8)
    assert found.value[0] == 0.5
    assert len(seen) > 5
    assert np.all(seen <= [0.5, 2.0])


def test_an_edge_of_the_domain_is_no_obstacle(lanes):
    for name in ("edge", "far edge"):
        np.testing.assert_allclose(lanes.lane(name).value, [-20, 0, 0], rtol=1e-8, atol=1e-8)


def test_wrong_derivatives_are_no_success():
    @jax.custom_jvp
    def wrong(y):
        return jnp.sum((y - 1) ** 2)

    wrong.defjvp(lambda primals, tangents: (wrong(*primals), -jnp.sum(tangents[0])))
    found = optimise(
        Minimisation(lambda y, args: wrong(y)), LBFGSB(), jnp.asarray([3.0, -2.0]), throw=False
    )
    assert not found.converged


def test_the_cauchy_point_is_the_first_minimum_on_the_projected_path():
    generator = np.random.default_rng(2)
    n = 8
    factor = generator.normal(size=(n, n))
    true = factor @ factor.T + np.eye(n)
    pairs = no_pairs(jnp.zeros(n), 5)
    for _ in range(3):
        step = jnp.asarray(generator.normal(size=n))
        pairs = jax.jit(remember)(pairs, step, jnp.asarray(true @ step))
    model = jax.jit(compact)(pairs)
    hessian = model.theta * np.eye(n) - model.wide.T @ model.middle @ model.wide
    # The secant equation holds for the newest pair.
    np.testing.assert_allclose(hessian @ pairs.steps[-1], pairs.changes[-1], atol=1e-9)
    gradient = jnp.asarray(generator.normal(size=n) * 10)
    x, lower, upper = jnp.zeros(n), jnp.full(n, -0.3), jnp.full(n, 0.5)
    point, travelled = jax.jit(cauchy_point)(x, gradient, model, lower, upper)
    times = np.linspace(0, 0.2, 200001)
    path = np.clip(-times[:, None] * np.asarray(gradient), -0.3, 0.5)
    values = path @ gradient + 0.5 * np.sum((path @ np.asarray(hessian)) * path, axis=1)
    rises = np.flatnonzero(np.diff(values) > 0)
    first = rises[0] if rises.size else len(times) - 1
    np.testing.assert_allclose(point, path[first], atol=1e-4)
    np.testing.assert_allclose(travelled, model.wide @ point, atol=1e-12)


def test_single_precision():
    start = jnp.asarray([-1.2, 1.0], jnp.float32)
    with jax.enable_x64(False):
        found = optx.minimise(
            lambda y, args: chain(y, 0.0), LBFGSB(), start, throw=False, max_steps=100
        )
        assert found.value.dtype == jnp.float32
        np.testing.assert_allclose(found.value, 1.0, rtol=1e-2)
