"""Newton's methods: known minima, bounds, saddle points, units, and honest stops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import (
    Minimisation,
    OptimisationError,
    optimise,
    raise_unless_converged,
)
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.subproblems import Length, exact_step
from solvers.optimisers.truncated_newton import NewtonCG

from .helpers_compile import quick_jit
from .helpers_minimisers import CASES, UNITS, outcome, rosenbrock, watched


METHODS = [TrustRegionNewton(), CubicNewton(), NewtonCG()]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@functools.cache
def lanes(method):
    # Conjugate gradients without a preconditioner do depend on units.
    return outcome(method, CASES if isinstance(method, NewtonCG) else CASES | UNITS)


@every_method
def test_offsets_in_lanes_do_not_hide_the_minimum(method):
    """Each lane of a vmap, among failing ones, does what it does among its like."""
    ran = lanes(method)
    for name in ("no offset", "offset", "huge offset"):
        # The valley is curved as 1 in 2,500: rounding of the gradient leaves 1e-12.
        np.testing.assert_allclose(ran.lane(name).value[:2], 1.0, rtol=1e-11)
        assert ran.lane(name).converged
    assert ran.reason("no number") == "nonfinite_start"
    alike = outcome(method, dict.fromkeys(ran.names, CASES["no offset"])).found
    alone = ran.lane("no offset")
    np.testing.assert_allclose(alike.value, np.tile(alone.value, (len(ran.names), 1)), 1e-12)
    assert set(np.asarray(alike.steps).tolist()) == {int(alone.steps)}
    assert alone.steps < 60


@pytest.mark.parametrize("method", METHODS[::2], ids=lambda m: type(m).__name__)
def test_bounds_are_met_exactly_and_never_crossed(method):
    found, seen = watched(method)
    assert found.value[0] == 0.5
    np.testing.assert_allclose(found.value[1], 0.25, rtol=1e-12)
    assert found.statistics["gradient_norm"] < 1e-10
    assert len(seen) > 5
    assert np.all(seen <= [0.5, 2.0])


@every_method
def test_what_bounds_hold_is_converged(method):
    """The multipliers have the right sign, so that nothing is left to gain."""
    ran = lanes(method)
    for name in ("all to bounds", "all on bounds"):
        np.testing.assert_array_equal(ran.lane(name).value, [-3, -3, 5])
        assert ran.reason(name) == "gradient"
    np.testing.assert_allclose(ran.lane("some to bounds").value, [-3, -3, 0.5], rtol=1e-12)
    np.testing.assert_allclose(ran.lane("one fixed").value, [-3, 1, 0.5], rtol=1e-12)
    np.testing.assert_allclose(ran.lane("bounds").value, [0.5, 0.25, 0], atol=1e-12)
    assert ran.lane("some to bounds").converged & ran.lane("one fixed").converged


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
    ran = lanes(method)
    for name in ("saddle", "saddle on the way"):
        found = ran.lane(name)
        np.testing.assert_allclose(jnp.abs(found.value[1]), np.sqrt(0.5), rtol=1e-9)
        np.testing.assert_allclose(found.objective, -1.25, rtol=1e-12)
    for name in ("maximum", "maximum on an offset", "maximum at a bound"):
        np.testing.assert_allclose(jnp.cos(ran.lane(name).value[0]), -1.0, rtol=1e-12)
        assert ran.lane(name).converged


@every_method
def test_reasons_to_stop_are_honest(method):
    """No limit, a plateau, no number at the start, and a logarithm's edge on the way."""
    ran = lanes(method)
    assert ran.reason("unbounded") == "unbounded"
    assert ran.reason("plateau") == ran.reason("constant") == "flat"
    assert ran.reason("logarithm") == "nonfinite_start"
    assert ran.lane("minimum").converged
    assert ran.lane("edge").converged
    np.testing.assert_allclose(ran.lane("edge").value[0], -20.0, rtol=1e-12)
    with pytest.raises(OptimisationError, match="does not depend on the parameters"):
        raise_unless_converged(ran.lane("plateau"))


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_units_do_not_matter(method):
    """Parameters of 1e-6 and 1e6 take the same way as those of size one."""
    ran = lanes(method)
    large, plain = ran.lane("large units"), ran.lane("no offset")
    scaled = large.value[:2] * jnp.asarray([1e-6, 1e6])
    np.testing.assert_allclose(scaled, 1.0, rtol=1e-12)
    assert abs(int(large.steps) - int(plain.steps)) <= 2


def test_minima_without_curvature_are_found_and_end():
    ran = lanes(METHODS[0])
    for name, centre in (("quartic", [3, -2, 0]), ("quartic at zero", [0, 0, 0])):
        found = ran.lane(name)
        assert found.converged & (found.steps < 70)
        np.testing.assert_allclose(found.value, centre, rtol=1e-6, atol=1e-6)


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
    ran = outcome(METHODS[0], CASES | UNITS, limit=5)
    assert ran.reason("no offset") == "nonlinear_max_steps_reached"
    assert ran.lane("no offset").objective < 24.2


def test_products_of_newton_cg_fall_with_a_preconditioner():
    weights = jnp.logspace(0, 6, 60)

    def objective(y, helped):
        return 0.5 * jnp.sum(weights * (y - 1) ** 2) + jnp.sum((y - 1) ** 4)

    # Curvatures of one are what it takes without a preconditioner.
    method = NewtonCG(preconditioner=lambda y, helped: jnp.where(helped, weights, 1.0))

    def run(helped):
        start = jnp.full(60, 1.5)
        return optimise(Minimisation(objective), method, start, helped, throw=False)

    found = quick_jit(jax.vmap(run))(jnp.asarray([False, True]))
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-9)
    plain, helped = found.statistics["curvature_products"].tolist()
    assert helped < plain / 3


def test_newton_cg_with_the_product_of_gauss_and_newton():
    """In place of the Hessian, so that the gradient need not be differentiated again."""

    def residuals(y):
        return jnp.stack([10 * (y[1] - y[0] ** 2), 1 - y[0]])

    def curvature(y, args):
        _, push = jax.linearize(residuals, y)
        pull = jax.linear_transpose(push, y)
        return lambda v: pull(push(v))[0]

    @jax.custom_jvp
    def only_once(x):
        return x

    @only_once.defjvp
    def refuse(primals, tangents):
        raise TypeError("a second derivative was asked for")

    @jax.custom_vjp
    def objective(y):
        return 0.5 * jnp.sum(residuals(y) ** 2)

    def pull(y, cotangent):
        slope = jax.grad(lambda y: 0.5 * jnp.sum(residuals(y) ** 2))(y)
        return (only_once(cotangent * slope),)

    objective.defvjp(lambda y: (objective(y), y), pull)
    start = jnp.asarray([-1.2, 1.0])
    with pytest.raises(TypeError, match="second derivative"):
        jax.linearize(jax.grad(objective), start)
    problem = Minimisation(lambda y, args: objective(y))
    found = optimise(problem, NewtonCG(curvature=curvature), start)
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
    found = jax.jit(exact_step)(
        jnp.asarray(gradient), jnp.asarray(hessian), jnp.asarray(1.0), length
    )
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
        jax.jit(exact_step)(
            jnp.asarray(gradient), jnp.asarray(hessian), jnp.asarray(1.0), length
        ).step
    )
    shift = weight * np.linalg.norm(step)
    np.testing.assert_allclose(hessian @ step + shift * step, -gradient, atol=1e-4)
    assert shift >= -np.linalg.eigvalsh(hessian)[0] - 1e-6
