"""Every derivative in every way it can be had, and clear refusals of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.gradients import Backsolve, Checkpointed, Forward, Replayed, choose_gradient
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.stiff import Kvaerno5
from solvers.integrators.stochastic import Milstein
from solvers.integrators.symplectic import StormerVerlet
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.oscillators import HarmonicOscillator
from systems.stochastic import GeometricBrownianMotion

from .helpers_solvers import START, VALUES, exact_answers, finite_difference, known_problem


STOP = jnp.asarray(2.0)
WEIGHTS = jnp.asarray([1.0, -0.5, 0.7, 0.3])
POINT = jnp.concatenate([VALUES, START, STOP[None]])
"""All that a loss depends on: four parameters, four initial states, the stop time."""

METHODS = {
    "explicit": Tsit5(rtol=1e-10, atol=1e-10),
    "implicit": Kvaerno5(rtol=1e-9, atol=1e-9),
}


def loss(method, gradient, stop=None):
    """A number that depends on all of `POINT`, through the middle and last saved states.

    With `stop` it depends on the parameters and the start alone.
    """

    def function(point):
        end = point[8] if stop is None else stop
        problem = known_problem(point[:4], point[4:8], end)
        times = jnp.stack([end / 2, end])
        solution = solve(problem, method, save_at=times, gradient=gradient, throw=False)
        return jnp.sum(jnp.sin(solution.states @ WEIGHTS))

    return function


def exact_loss(point):
    values, start, stop = point[:4], point[4:8], point[8]
    states = jnp.stack([exact_answers(values, start, t) for t in (stop / 2, stop)])
    return jnp.sum(jnp.sin(states @ WEIGHTS))


EXACT_GRADIENT = jax.jit(jax.grad(exact_loss))
EXACT_HESSIAN = jax.jit(jax.hessian(exact_loss))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestOrdinary:
    """Derivatives of a deterministic solve by parameters, start and stop."""

    def test_forward_mode(self, method):
        gradient = jax.jit(jax.jacfwd(loss(method, Forward())))(POINT)
        assert np.allclose(gradient, EXACT_GRADIENT(POINT), rtol=0, atol=1e-6)

    def test_reverse_mode(self, method):
        gradient = jax.jit(jax.grad(loss(method, Checkpointed())))(POINT)
        assert np.allclose(gradient, EXACT_GRADIENT(POINT), rtol=0, atol=1e-6)

    def test_adjoint_equation(self, method):
        gradient = jax.jit(jax.grad(loss(method, Backsolve(), STOP)))(POINT[:8])
        assert np.allclose(gradient, EXACT_GRADIENT(POINT)[:8], rtol=0, atol=1e-6)

    def test_finite_differences(self, method):
        found = finite_difference(jax.jit(loss(method, Forward())), POINT, 1e-4)
        assert np.allclose(found, EXACT_GRADIENT(POINT), rtol=0, atol=1e-5)


def test_forward_and_reverse_differentiate_the_same_solve():
    # Both are exact for the discretised solve, so they agree far below its error.
    method = Tsit5(step=0.1)
    point = POINT.at[-1].set(1.95)  # within a step, as the derivative jumps at its end
    forward = jax.jit(jax.jacfwd(loss(method, Forward())))(point)
    reverse = jax.jit(jax.grad(loss(method, Checkpointed())))(point)
    difference = finite_difference(jax.jit(loss(method, Forward())), point, 1e-5)
    assert np.allclose(forward, reverse, rtol=0, atol=1e-12)
    assert np.allclose(forward, difference, rtol=0, atol=1e-8)


def test_second_derivatives():
    function = loss(METHODS["explicit"], Forward())
    hessian = jax.jit(jax.jacfwd(jax.jacfwd(function)))(POINT)
    assert np.allclose(hessian, EXACT_HESSIAN(POINT), rtol=0, atol=1e-5)
    assert np.allclose(hessian, hessian.T, rtol=0, atol=1e-9)
    gradient = jax.jit(jax.jacfwd(function))
    assert np.allclose(hessian, finite_difference(gradient, POINT, 1e-4), rtol=0, atol=1e-4)


def test_hessian_vector_product_of_an_implicit_solve():
    function = loss(METHODS["implicit"], Forward())
    direction = jnp.cos(jnp.arange(9.0))

    @jax.jit
    def product(point):
        return jax.jvp(jax.jacfwd(function), (point,), (direction,))[1]

    assert np.allclose(product(POINT), EXACT_HESSIAN(POINT) @ direction, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("transform", "way"),
    [(jax.jacfwd, Forward()), (jax.grad, Checkpointed())],
    ids=["Forward", "Checkpointed"],
)
def test_under_vmap(transform, way):
    points = POINT[None, :8] * jnp.asarray([[1.0], [0.9], [1.1]])
    function = loss(METHODS["explicit"], way, STOP)
    exact = jax.vmap(lambda p: EXACT_GRADIENT(jnp.append(p, STOP))[:8])(points)
    mapped = jax.jit(jax.vmap(transform(function)))(points)
    assert np.allclose(mapped, exact, rtol=0, atol=1e-6)


def test_gradient_of_a_mapped_solve():
    points = POINT[None, :8] * jnp.asarray([[1.0], [0.9], [1.1]])
    function = loss(METHODS["explicit"], Checkpointed(), STOP)
    exact = jax.vmap(lambda p: EXACT_GRADIENT(jnp.append(p, STOP))[:8])(points)
    found = jax.jit(jax.grad(lambda p: jnp.sum(jax.vmap(function)(p))))(points)
    assert np.allclose(found, exact, rtol=0, atol=1e-6)


class TestStochastic:
    """Derivatives of one path; the key is fixed."""

    method = Milstein(step=1 / 64)
    point = jnp.asarray([0.3, 0.4, 1.5])

    def loss(self, key, gradient):
        def function(point):
            growth, volatility, start = point
            system = GeometricBrownianMotion(growth_rate=growth, volatility=volatility)
            problem = InitialValueProblem(system, 0.0, 1.0, start[None])
            return solve(problem, self.method, gradient=gradient, key=key).states[-1, 0] ** 2

        return function

    def test_forward_reverse_and_differences(self, key):
        forward = jax.jit(jax.jacfwd(self.loss(key, Forward())))(self.point)
        reverse = jax.jit(jax.grad(self.loss(key, Checkpointed())))(self.point)
        difference = finite_difference(jax.jit(self.loss(key, Forward())), self.point)
        assert np.allclose(forward, reverse, rtol=1e-12)
        assert np.allclose(forward, difference, rtol=1e-7)
        # The square of the state is proportional to the square of the start.
        value = self.loss(key, Forward())(self.point)
        assert np.isclose(forward[2], 2 * value / self.point[2], rtol=1e-12)

    def test_second_derivatives(self, key):
        function = self.loss(key, Forward())
        hessian = jax.jit(jax.jacfwd(jax.jacfwd(function)))(self.point)
        expected = finite_difference(jax.jit(jax.jacfwd(function)), self.point)
        assert np.allclose(hessian, expected, rtol=1e-6)


def test_stormer_verlet():
    def energy(gradient):
        def function(point):
            mass, stiffness, start = point
            system = HarmonicOscillator(mass=mass, stiffness=stiffness)
            problem = InitialValueProblem(system, 0.0, 3.0, jnp.stack([start, 0.4 * mass]))
            solution = solve(
                problem, StormerVerlet(step=1 / 16), save_at=[1.1, 3.0], gradient=gradient
            )
            return jnp.sum(solution.states**2)

        return function

    point = jnp.asarray([1.3, 2.1, 0.8])
    forward = jax.jit(jax.jacfwd(energy(Forward())))(point)
    reverse = jax.jit(jax.grad(energy(Checkpointed())))(point)
    difference = finite_difference(jax.jit(energy(Forward())), point)
    assert np.allclose(forward, reverse, rtol=1e-11)
    assert np.allclose(forward, difference, rtol=1e-7)


TRANSFORMS = {
    "jvp": lambda f: jax.jvp(f, (POINT,), (POINT,)),
    "jvp of jit": lambda f: jax.jvp(jax.jit(f), (POINT,), (POINT,)),
    "jacfwd": lambda f: jax.jacfwd(f)(POINT),
    "jit of jacfwd": lambda f: jax.jit(jax.jacfwd(f))(POINT),
    "hessian": lambda f: jax.hessian(f)(POINT),
    "jacfwd of jacfwd": lambda f: jax.jacfwd(jax.jacfwd(f))(POINT),
    "grad of grad": lambda f: jax.grad(lambda p: jnp.sum(jax.grad(f)(p)))(POINT),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_refused_in_words_for_checkpointed(name):
    function = loss(Tsit5(step=0.5, max_steps=10), Checkpointed())
    with pytest.raises(TypeError, match=r"^Checkpointed\(\) gives first .*Replayed\(\)"):
        TRANSFORMS[name](function)


def test_refused_in_words_for_backsolve():
    function = loss(Tsit5(step=0.5, max_steps=10), Backsolve())
    with pytest.raises(TypeError, match=r"^Backsolve\(\) gives first .*Replayed\(\)"):
        jax.jacfwd(loss(Tsit5(step=0.5, max_steps=10), Backsolve(), STOP))(POINT[:8])
    with pytest.raises(TypeError, match=r"no derivatives by `start`, `stop` or `save_at`"):
        jax.grad(function)(POINT)


@pytest.mark.parametrize("transform", [jax.grad, lambda f: jax.jit(jax.grad(f))])
def test_refused_in_words_for_forward(transform):
    function = loss(Tsit5(step=0.5, max_steps=10), Forward())
    with pytest.raises(TypeError, match=r"^Forward\(\) cannot .*use gradient=Replayed"):
        transform(function)(POINT)


def test_choice_by_size():
    assert isinstance(choose_gradient(parameters=8, outputs=42), Forward)
    assert isinstance(choose_gradient(parameters=8, outputs=1), Forward)
    assert isinstance(choose_gradient(parameters=500, outputs=1), Replayed)
