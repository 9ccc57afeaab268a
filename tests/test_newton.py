"""Newton's methods: known minima, bounds, saddle points, units, and honest stops."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import Minimisation, OptimisationError, optimise, stop_names
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.subproblems import Length, exact_step
from solvers.optimisers.truncated_newton import NewtonCG


METHODS = [TrustRegionNewton(), CubicNewton(), NewtonCG()]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def rosenbrock(y, offset):
    return 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2 + offset


def reason(found):
    return stop_names()[int(found.stop._value)]


@every_method
def test_offsets_in_lanes_do_not_hide_the_minimum(method):
    """Each lane of a vmap, failing ones included, does what it does alone."""
    offsets = jnp.asarray([0.0, 1e6, 1e10, jnp.nan])

    def run(offset):
        problem = Minimisation(rosenbrock)
        return optimise(problem, method, jnp.asarray([-1.2, 1.0]), offset, throw=False)

    found = jax.vmap(run)(offsets)
    # The valley is curved as 1 in 2,500, so that rounding of the gradient leaves 1e-12.
    np.testing.assert_allclose(found.value[:3], 1.0, rtol=1e-11)
    assert found.converged.tolist() == [True, True, True, False]
    assert stop_names()[int(found.stop._value[3])] == "nonfinite_start"
    alone = jax.jit(run)(offsets[0])
    np.testing.assert_allclose(found.value[0], alone.value, rtol=1e-12)
    assert found.steps[0] == alone.steps < 60


@every_method
def test_bounds_are_met_exactly_and_never_crossed(method):
    seen = []

    def objective(y, args):
        jax.debug.callback(lambda value: seen.append(np.array(value)), y)
        return rosenbrock(y, args)

    upper = jnp.asarray([0.5, 2.0])
    found = optimise(
        Minimisation(objective, upper=upper), method, jnp.asarray([-1.2, 1.0]), 0.0
    )
    jax.effects_barrier()
    assert found.value[0] == 0.5
    np.testing.assert_allclose(found.value[1], 0.25, rtol=1e-12)
    assert found.statistics["gradient_norm"] < 1e-10
    assert np.all(np.concatenate([np.ravel(point) for point in seen]) <= 2.0)
    assert max(np.ravel(point)[0] for point in seen) <= 0.5


@pytest.mark.parametrize("method", METHODS[::2], ids=lambda m: type(m).__name__)
def test_many_bounds_against_the_solution_of_the_conditions(method):
    """A convex quadratic function with half of its variables at bounds."""
    key = jax.random.key(3)
    factor = jax.random.normal(key, (12, 12))
    hessian = factor @ factor.T + 0.1 * jnp.eye(12)
    target = jax.random.normal(jax.random.key(4), (12,)) * 2

    def objective(y, args):
        return 0.5 * (y - target) @ hessian @ (y - target)

    found = optimise(Minimisation(objective, -1.0, 1.0), method, jnp.zeros(12))
    gradient = hessian @ (found.value - target)
    low, high = found.value == -1, found.value == 1
    assert 2 < int(jnp.sum(low | high)) < 12
    assert jnp.all(~low | (gradient >= 0)) and jnp.all(~high | (gradient <= 0))
    np.testing.assert_allclose(jnp.where(low | high, 0.0, gradient), 0.0, atol=1e-9)


@every_method
def test_saddle_points_and_maxima_are_left(method):
    def objective(y, args):
        return y[0] ** 2 - y[1] ** 2 + y[1] ** 4 + jnp.cos(y[2])

    found = optimise(Minimisation(objective), method, jnp.zeros(3))
    np.testing.assert_allclose(jnp.abs(found.value[1]), np.sqrt(0.5), rtol=1e-9)
    np.testing.assert_allclose(found.objective, -1.25, rtol=1e-12)


CASES = jnp.arange(4)


def awkward(y, case):
    branches = [
        lambda y: -(y**2),
        lambda y: -jnp.exp(-(y**2)),
        lambda y: jnp.log(y - 40.0),
        lambda y: y - 30.0 * jnp.log(y),
    ]
    return jax.lax.switch(case, branches, y)


@every_method
def test_reasons_to_stop_are_honest(method):
    """No limit, a plateau, no number at the start, and a logarithm's edge on the way."""

    def run(case):
        return optimise(Minimisation(awkward), method, jnp.asarray(30.5), case, throw=False)

    found = jax.vmap(run)(CASES)
    names = [stop_names()[int(code)] for code in found.stop._value]
    assert names[:3] == ["unbounded", "flat", "nonfinite_start"]
    assert found.converged.tolist() == [False, False, False, True]
    np.testing.assert_allclose(found.value[3], 30.0, rtol=1e-12)
    with pytest.raises(OptimisationError, match="does not depend on the parameters"):
        optimise(Minimisation(awkward), method, jnp.asarray(30.5), jnp.asarray(1))


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_units_do_not_matter(method):
    """Parameters of 1e-6 and 1e6 take the same way as those of size one."""

    def objective(y, unit):
        return rosenbrock(jnp.stack([y["fast"] / unit, y["slow"] * unit]), 0.0)

    def run(unit):
        start = {"fast": -1.2 * unit, "slow": 1.0 / unit}
        found = optimise(Minimisation(objective), method, start, unit, throw=False)
        return found.value["fast"] / unit, found.value["slow"] * unit, found.steps

    fast, slow, steps = jax.vmap(run)(jnp.asarray([1.0, 1e6]))
    np.testing.assert_allclose(jnp.stack([fast, slow]), 1.0, rtol=1e-12)
    assert abs(int(steps[0]) - int(steps[1])) <= 2


def test_minima_without_curvature_are_found_and_end():
    def objective(y, centre):
        return jnp.sum((y - centre) ** 4)

    def run(centre):
        return optimise(
            Minimisation(objective), TrustRegionNewton(), jnp.ones(2), centre, throw=False
        )

    found = jax.vmap(run)(jnp.asarray([[0.0, 0.0], [3.0, -2.0]]))
    assert jnp.all(found.converged)
    assert jnp.all(found.steps < 70)
    np.testing.assert_allclose(found.value[1], [3.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(found.value[0], 0.0, atol=1e-6)


def test_forward_mode_alone_suffices():
    """An objective with a loop of unknown length has no reverse mode."""

    def objective(y, args):
        def halve(x):
            return 0.5 * x

        size = jax.lax.while_loop(lambda x: x > 3.0, halve, 8.0 + 0 * y[0])
        return rosenbrock(y, size)

    start = jnp.asarray([-1.2, 1.0])
    for method in (TrustRegionNewton(forward=True), NewtonCG(forward=True)):
        found = optimise(Minimisation(objective), method, start)
        np.testing.assert_allclose(found.value, 1.0, rtol=1e-11)


def test_through_optimistix_with_aux_and_derivatives():
    def objective(y, args):
        return jnp.sum((y["a"] - args) ** 2) + y["b"] ** 2, y["a"] + 1

    def minimiser(args):
        start = {"a": jnp.zeros(2), "b": jnp.asarray(1.0)}
        found = optx.minimise(objective, TrustRegionNewton(), start, args, has_aux=True)
        return found.value["a"], found

    target = jnp.asarray([1.0, 2.0])
    value, found = minimiser(target)
    np.testing.assert_allclose(value, target, rtol=1e-12)
    np.testing.assert_allclose(found.aux, target + 1, rtol=1e-12)
    jacobian = jax.jacfwd(lambda args: minimiser(args)[0])(target)
    np.testing.assert_allclose(jacobian, np.eye(2), atol=1e-12)


def test_too_few_steps_are_told():
    found = optimise(
        Minimisation(rosenbrock),
        METHODS[0],
        jnp.asarray([-1.2, 1.0]),
        0.0,
        max_steps=5,
        throw=False,
    )
    assert reason(found) == "nonlinear_max_steps_reached"
    assert found.objective < 24.2


def test_products_of_newton_cg_fall_with_a_preconditioner():
    weights = jnp.logspace(0, 6, 60)

    def objective(y, args):
        return 0.5 * jnp.sum(weights * (y - 1) ** 2) + jnp.sum((y - 1) ** 4)

    start = jnp.full(60, 1.5)
    plain = optimise(Minimisation(objective), NewtonCG(), start)
    method = NewtonCG(preconditioner=lambda y, args: weights)
    helped = optimise(Minimisation(objective), method, start)
    for found in (plain, helped):
        np.testing.assert_allclose(found.value, 1.0, rtol=1e-9)
    products = [int(found.statistics["curvature_products"]) for found in (plain, helped)]
    assert products[1] < products[0] / 3


def test_newton_cg_with_the_product_of_gauss_and_newton():
    def residuals(y):
        return jnp.stack([10 * (y[1] - y[0] ** 2), 1 - y[0]])

    def curvature(y, args):
        _, push = jax.linearize(residuals, y)
        pull = jax.linear_transpose(push, y)
        return lambda v: pull(push(v))[0]

    def objective(y, args):
        return 0.5 * jnp.sum(residuals(y) ** 2)

    found = optimise(
        Minimisation(objective), NewtonCG(curvature=curvature), jnp.asarray([-1.2, 1.0])
    )
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-8)


def test_single_precision_works():
    method = TrustRegionNewton()
    with jax.enable_x64(False):
        start = jnp.asarray([-1.2, 1.0], jnp.float32)
        found = optx.minimise(
            lambda y, args: rosenbrock(y, 0.0), method, start, throw=False, max_steps=100
        )
        assert found.value.dtype == jnp.float32
        np.testing.assert_allclose(found.value, 1.0, rtol=1e-3)


@pytest.mark.parametrize("hard", [False, True])
def test_trust_region_steps_fulfil_their_conditions(hard):
    """(H + m I) s = -g with H + m I positive semidefinite and |s| = r."""
    generator = np.random.default_rng(5)
    vectors, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    eigenvalues = np.array([-2.0, -0.5, 0.3, 1.0, 4.0, 1e3])
    hessian = (vectors * eigenvalues) @ vectors.T
    slopes = generator.normal(size=6)
    if hard:
        slopes[0] = 0.0
    gradient, radius = vectors @ slopes, 3.0
    length = Length(jnp.asarray(radius), jnp.asarray(0.0))
    found = exact_step(jnp.asarray(gradient), jnp.asarray(hessian), jnp.asarray(1.0), length)
    step = np.asarray(found.step)
    np.testing.assert_allclose(np.linalg.norm(step), radius, rtol=1e-5)
    shift = -step @ (hessian @ step + gradient) / radius**2
    assert shift >= 2.0 - 1e-8
    np.testing.assert_allclose(hessian @ step + shift * step, -gradient, atol=1e-4)
    assert not found.newton


def test_cubic_steps_fulfil_their_conditions():
    """(H + w |s| I) s = -g with H + w |s| I positive semidefinite."""
    generator = np.random.default_rng(6)
    hessian = generator.normal(size=(5, 5))
    hessian = hessian + hessian.T
    gradient, weight = generator.normal(size=5), 0.7
    length = Length(jnp.asarray(0.0), jnp.asarray(1 / weight))
    step = np.asarray(
        exact_step(jnp.asarray(gradient), jnp.asarray(hessian), jnp.asarray(1.0), length).step
    )
    shift = weight * np.linalg.norm(step)
    np.testing.assert_allclose(hessian @ step + shift * step, -gradient, atol=1e-4)
    assert shift >= -np.linalg.eigvalsh(hessian)[0] - 1e-6
