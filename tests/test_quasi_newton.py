"""L-BFGS-B: SciPy's optima, bounds met exactly, rounding, and honest stops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.limited_memory import cauchy_point, compact, no_pairs, remember
from solvers.optimisers.quasi_newton import LBFGSB


def chain(y, offset):
    """The chained Rosenbrock function."""
    return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2) + offset


def scipy_optimum(objective, start, lower, upper):
    value_and_gradient = jax.jit(jax.value_and_grad(objective))
    found = scipy.optimize.minimize(
        lambda x: [np.asarray(part) for part in value_and_gradient(x)],
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

    found = jax.vmap(run)(start, lower, upper)
    assert jnp.all(found.converged)
    assert jnp.all(found.value >= lower[:, None]) & jnp.all(found.value <= upper[:, None])
    for lane in range(4):
        expected = scipy_optimum(
            lambda y: chain(y, 0.0), np.full(20, start[lane]), lower[lane], upper[lane]
        )
        np.testing.assert_allclose(found.value[lane], expected, atol=2e-7)
        held = (expected == lower[lane]) | (expected == upper[lane])
        np.testing.assert_array_equal(np.asarray(found.value[lane])[held], expected[held])


def test_a_large_quadratic_function_with_bounds():
    n = 400
    diagonal = jnp.linspace(1.0, 1e3, n)
    target = 2 * jnp.sin(jnp.arange(n) * 1.0)

    def objective(y, args):
        return 0.5 * jnp.sum(diagonal * (y - target) ** 2)

    found = optimise(Minimisation(objective, -1.0, 1.0), LBFGSB(), jnp.zeros(n))
    np.testing.assert_allclose(found.value, jnp.clip(target, -1, 1), atol=1e-8)
    held = jnp.abs(target) > 1
    assert jnp.all(jnp.abs(found.value[held]) == 1)
    assert found.statistics["function_evaluations"] < 400


def test_offsets_and_stops_in_lanes():
    """Rounding of a large constant, no limit, and no number at the start."""

    def objective(y, case):
        number, offset = case
        branches = [lambda y: chain(y, offset), lambda y: -jnp.sum(y**2), lambda y: y[0] / 0]
        return jax.lax.switch(number, branches, y)

    def run(case):
        start = jnp.asarray([-1.2, 1.0])
        return optimise(Minimisation(objective), LBFGSB(), start, case, throw=False)

    numbers = jnp.asarray([0, 0, 0, 1, 2])
    found = jax.vmap(run)((numbers, jnp.asarray([0.0, 1e6, 1e10, 0.0, 0.0])))
    np.testing.assert_allclose(found.value[:3], 1.0, rtol=1e-7)
    names = [stop_names()[int(code)] for code in found.stop._value]
    assert names[3:] == ["unbounded", "nonfinite_start"]
    assert found.converged.tolist() == [True, True, True, False, False]


def test_an_edge_of_the_domain_is_no_obstacle():
    def objective(y, args):
        return jnp.sum(y - jnp.log(y))

    found = optimise(Minimisation(objective), LBFGSB(), jnp.asarray([8.0, 1e-3]))
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-8)


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
        pairs = remember(pairs, step, jnp.asarray(true @ step))
    model = compact(pairs)
    hessian = model.theta * np.eye(n) - model.wide.T @ model.middle @ model.wide
    # The secant equation holds for the newest pair.
    np.testing.assert_allclose(hessian @ pairs.steps[-1], pairs.changes[-1], atol=1e-9)
    gradient = jnp.asarray(generator.normal(size=n) * 10)
    x, lower, upper = jnp.zeros(n), jnp.full(n, -0.3), jnp.full(n, 0.5)
    point, travelled = cauchy_point(x, gradient, model, lower, upper)
    times = np.linspace(0, 0.2, 200001)
    path = np.clip(-times[:, None] * np.asarray(gradient), -0.3, 0.5)
    values = path @ gradient + 0.5 * np.sum((path @ np.asarray(hessian)) * path, axis=1)
    rises = np.flatnonzero(np.diff(values) > 0)
    first = rises[0] if rises.size else len(times) - 1
    np.testing.assert_allclose(point, path[first], atol=1e-4)
    np.testing.assert_allclose(travelled, model.wide @ point, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_both_precisions(dtype):
    start = jnp.asarray([-1.2, 1.0], dtype)
    with jax.enable_x64(dtype == jnp.float64):
        state = LBFGSB().init(
            lambda y, args: (chain(y, 0.0), None), start, None, {}, None, None, frozenset()
        )
        y, advance = (
            start,
            jax.jit(
                lambda y, state: LBFGSB().step(
                    lambda y, args: (chain(y, 0.0), None), y, None, {}, state, frozenset()
                )[:2]
            ),
        )
        for _ in range(60):
            y, state = advance(y, state)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, 1.0, rtol=1e-2)
