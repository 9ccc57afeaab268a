"""The default gradient: every derivative of every solve, nested as one likes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble.members import ensemble
from solvers.gradients import Forward, Replayed
from solvers.integrators.deterministic import Dopri8, Euler, Midpoint, Tsit5
from solvers.integrators.stiff import ImplicitEuler, Kvaerno3
from solvers.integrators.stochastic import Milstein, ShARK, StratonovichHeun
from solvers.integrators.symplectic import StormerVerlet
from solvers.problem import InitialValueProblem
from solvers.recurrence import follow
from solvers.solve import solve
from systems.chaos import Lorenz63
from systems.oscillators import HarmonicOscillator
from systems.stochastic import GeometricBrownianMotion

from .helpers_solvers import (
    START,
    VALUES,
    NoisyPendulum,
    StratonovichGrowth,
    exact_answers,
    finite_difference,
    known_problem,
)


WEIGHTS = jnp.asarray([1.0, -0.5, 0.7, 0.3])
POINT = jnp.concatenate([VALUES, START, jnp.asarray([1.95])])
"""Four parameters, four initial states, and the stop."""

MODES = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
}


def loss(method, gradient=None):
    """A number that depends on all of `POINT`, at two saved times."""

    def function(point):
        problem = known_problem(point[:4], point[4:8], point[8])
        times = jnp.stack([point[8] / 2, point[8]])
        solution = solve(problem, method, save_at=times, gradient=gradient, throw=False)
        return jnp.sum(jnp.sin(solution.states @ WEIGHTS))

    return function


def exact_loss(point):
    values, start, stop = point[:4], point[4:8], point[8]
    states = jnp.stack([exact_answers(values, start, t) for t in (stop / 2, stop)])
    return jnp.sum(jnp.sin(states @ WEIGHTS))


EXACT_GRADIENT = np.asarray(jax.jit(jax.grad(exact_loss))(POINT))
EXACT_HESSIAN = np.asarray(jax.jit(jax.hessian(exact_loss))(POINT))


def test_the_default_has_gradient_and_hessian():
    def both(point):
        gradient = jax.grad(loss(Tsit5(rtol=1e-10, atol=1e-10)))
        return gradient(point), jax.jacfwd(gradient)(point)

    gradient, hessian = jax.jit(both)(POINT)
    assert np.allclose(gradient, EXACT_GRADIENT, rtol=0, atol=1e-7)
    assert np.allclose(hessian, EXACT_HESSIAN, rtol=0, atol=1e-5)
    assert np.allclose(hessian, hessian.T, rtol=0, atol=1e-11)


def test_methods_that_step_on_saved_times():
    gradient = jax.jit(jax.grad(loss(Dopri8(rtol=1e-10, atol=1e-10))))(POINT)
    assert np.allclose(gradient, EXACT_GRADIENT, rtol=0, atol=1e-7)


def test_an_implicit_method():
    """Gradient and Hessian-vector product; the stages are implicit functions."""
    direction = jnp.cos(jnp.arange(9.0))

    def both(point):
        gradient = jax.grad(loss(Kvaerno3(rtol=1e-7, atol=1e-7)))
        return jax.jvp(gradient, (point,), (direction,))

    gradient, product = jax.jit(both)(POINT)
    assert np.allclose(gradient, EXACT_GRADIENT, rtol=0, atol=1e-5)
    assert np.allclose(product, EXACT_HESSIAN @ direction, rtol=0, atol=1e-4)


@functools.cache
def hessian_of_all_tangents():
    return np.asarray(jax.jit(jax.jacfwd(jax.jacfwd(loss(STEPS, Forward()))))(POINT))


STEPS = Midpoint(step=0.15)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_in_every_mode_are_those_of_the_discretised_solve(mode):
    hessian = jax.jit(MODES[mode](loss(STEPS)))(POINT)
    assert np.allclose(hessian, hessian_of_all_tangents(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("memory", [2**20, 1000], ids=["all kept", "some kept"])
def test_first_derivatives_are_those_of_the_discretised_solve(memory):
    """Also where states are computed again because they may not all be kept."""
    method = Euler(step=0.05, max_steps=200)
    function = jax.jit(loss(method, Replayed(memory=memory)))
    point = POINT.at[8].set(1.93)  # within a step, as the derivative jumps at its end
    difference = finite_difference(function, point, 1e-6)
    gradient = jax.jit(jax.grad(function))(point)
    assert np.allclose(gradient, difference, rtol=0, atol=1e-8)
    assert np.allclose(jax.jit(jax.jacfwd(function))(point), gradient, rtol=0, atol=1e-13)
    if memory == 1000:
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(function), (x,), (v,))[1])
        direction = jnp.cos(jnp.arange(9.0))
        slope = jax.jit(jax.grad(function))
        moved = [slope(point + s * 1e-5 * direction) for s in (1, -1)]
        expected = (moved[0] - moved[1]) / 2e-5
        assert np.allclose(product(point, direction), expected, rtol=0, atol=1e-7)


def test_implicit_methods_of_low_order():
    for method in (ImplicitEuler(step=0.1), Kvaerno3(step=0.2)):
        function = jax.jit(loss(method))
        gradient = jax.jit(jax.grad(function))(POINT)
        difference = finite_difference(function, POINT, 1e-5)
        # The stages themselves are solved to a hundredth of the tolerance only.
        assert np.allclose(gradient, difference, rtol=0, atol=2e-6)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_a_failed_member_disturbs_no_other(transform):
    """Under vmap, with members that take different numbers of steps."""
    method = Tsit5(rtol=1e-6, atol=1e-6, max_steps=60)
    points = POINT[None] * jnp.asarray([[1.0], [0.5], [1.1], [0.9]])
    points = points.at[2, 3].set(900.0)  # a frequency that takes too many steps
    mapped = jax.jit(jax.vmap(transform(loss(method))))(points)
    alone = jax.jit(transform(loss(method)))
    for i in (0, 1, 3):
        assert np.allclose(mapped[i], alone(points[i]), rtol=1e-12, atol=1e-14)


def test_hessians_under_vmap():
    points = POINT[None] * jnp.asarray([[1.0], [0.8]])
    hessians = jax.jit(jax.vmap(jax.jacfwd(jax.grad(loss(STEPS)))))(points)
    assert np.allclose(hessians[0], hessian_of_all_tangents(), rtol=0, atol=1e-11)
    assert np.allclose(hessians[1], np.swapaxes(hessians[1], 0, 1), rtol=0, atol=1e-11)


def test_gradient_of_an_ensemble():
    def total(rho):
        problem = InitialValueProblem(Lorenz63(), 0.0, 0.5)
        method = Tsit5(rtol=1e-9, atol=1e-9)
        members = ensemble(problem, method, parameters={"rho": rho}, save_at=[0.25, 0.5])
        return jnp.sum(members.states**2)

    rho = jnp.asarray([10.0, 20.0, 28.0])
    gradient = jax.jit(jax.grad(total))(rho)
    assert np.allclose(gradient, finite_difference(jax.jit(total), rho, 1e-4), rtol=1e-5)
    hessian = jax.jit(jax.hessian(total))(rho)
    # One member does not depend on the parameter of another.
    assert np.count_nonzero(np.abs(hessian) > 1e-9) == 3


def test_a_path_with_its_noise(key):
    method = Milstein(step=1 / 32)

    def function(point):
        growth, volatility, start = point
        system = GeometricBrownianMotion(growth_rate=growth, volatility=volatility)
        problem = InitialValueProblem(system, 0.0, 1.0, start[None])
        states = solve(problem, method, key=key, save_at=[0.4, 1.0]).states
        return jnp.sum(states**2)

    point = jnp.asarray([0.3, 0.4, 1.5])
    compiled = jax.jit(function)
    gradient = jax.jit(jax.grad(function))
    assert np.allclose(gradient(point), finite_difference(compiled, point), rtol=1e-7)
    assert np.allclose(jax.jit(jax.jacfwd(function))(point), gradient(point), rtol=1e-12)
    hessian = jax.jit(jax.hessian(function))(point)
    assert np.allclose(hessian, finite_difference(gradient, point), rtol=1e-6, atol=1e-8)


def test_methods_with_levy_areas_and_of_stratonovich(key):
    def pendulum(strength):
        problem = InitialValueProblem(NoisyPendulum(strength=strength), 0.0, 1.0)
        return jnp.sum(solve(problem, ShARK(step=1 / 8), key=key).states[-1] ** 2)

    def growth(start):
        problem = InitialValueProblem(StratonovichGrowth(), 0.0, 1.0, start[None])
        return solve(problem, StratonovichHeun(step=1 / 8), key=key).states[-1, 0] ** 2

    for function in (jax.jit(pendulum), jax.jit(growth)):
        slope = jax.jit(jax.grad(function))(0.3 * jnp.ones(()))
        expected = (
            function(jnp.asarray(0.3 + 1e-5)) - function(jnp.asarray(0.3 - 1e-5))
        ) / 2e-5
        assert np.isclose(slope, expected, rtol=1e-6)


def test_a_symplectic_method():
    def energy(point):
        mass, stiffness, start = point
        system = HarmonicOscillator(mass=mass, stiffness=stiffness)
        problem = InitialValueProblem(system, 0.0, 3.0, jnp.stack([start, 0.4 * mass]))
        solution = solve(problem, StormerVerlet(step=1 / 16), save_at=[1.1, 3.0])
        return jnp.sum(solution.states**2)

    point = jnp.asarray([1.3, 2.1, 0.8])
    gradient = jax.jit(jax.grad(energy))
    assert np.allclose(gradient(point), finite_difference(jax.jit(energy), point), rtol=1e-7)
    hessian = jax.jit(jax.hessian(energy))(point)
    assert np.allclose(hessian, finite_difference(gradient, point), rtol=1e-6, atol=1e-7)


def test_a_solve_without_length_and_one_backwards():
    def final(start, stop):
        problem = known_problem(VALUES, start, stop)
        return solve(problem, Tsit5(rtol=1e-9, atol=1e-9), throw=False).states[-1]

    jacobian = jax.jit(jax.jacrev(final))
    assert np.allclose(jacobian(START, 0.0), np.eye(4), rtol=0, atol=1e-12)
    backwards = jax.jacfwd(lambda start: exact_answers(VALUES, start, -0.7))(START)
    assert np.allclose(jacobian(START, -0.7), backwards, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_steps():
    """Reverse mode keeps states within its budget, whatever number of steps is allowed."""

    def bytes_needed(max_steps):
        method = Euler(step=1e-3, max_steps=max_steps)

        def function(stop):
            return jnp.sum(
                solve(known_problem(stop=stop), method, gradient=Replayed(2**16)).states
            )

        # The stop is traced, so that room for all allowed steps is made.
        compiled = jax.jit(jax.grad(function)).lower(jnp.asarray(1.0)).compile()
        plan = compiled.memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes

    few, many = bytes_needed(2**13), bytes_needed(2**17)
    # What grows are the times of the steps, a few numbers each; the states and stages of
    # a step are 80 numbers.
    assert many - few < 10 * 8 * (2**17 - 2**13), (few, many)


class TestRecurrence:
    """The loop beneath: against `lax.scan`, which has a fixed length."""

    parameters = jnp.asarray([1.3, 0.7])
    start = jnp.asarray([0.3, 0.5])
    inputs = jnp.full(10, 0.1)

    @staticmethod
    def step(y, p, c, x):
        return {"y": y["y"] + x * jnp.sin(p[0] * y["y"]) + c * p[1] * x * y["y"] ** 2}

    def mine(self, p, y, x, n):
        """The states after each step, of which those beyond the last repeat it."""
        wanted = jnp.minimum(jnp.arange(10), jnp.maximum(n - 1, 0))
        before, final = follow(self.step, None, {"y": y}, p, jnp.asarray(0.1), x, n, wanted)
        inside = (jnp.arange(10) + 1 < n)[:, None]
        shifted = jnp.concatenate([before["y"][1:], final["y"][None]])
        return jnp.where(inside, shifted, final["y"][None])

    def reference(self, p, y, x, n):
        def step(y, row):
            new = self.step({"y": y}, p, 0.1, row)["y"]
            return new, new

        return jax.lax.scan(step, y, x[:n])[1]

    @pytest.mark.parametrize("n", [1, 7])
    def test_every_order_and_mode(self, n):
        def of(states):
            def function(point):
                out = states(point[:2], point[2:4], point[4:], n)[:n]
                return jnp.sum(jnp.cos(out) * jnp.arange(1.0, n + 1)[:, None])

            return function

        mine = of(lambda p, y, x, n: self.mine(p, y, x, jnp.asarray(n)))
        reference = of(self.reference)
        point = jnp.concatenate([self.parameters, self.start, self.inputs])
        third = {"third": lambda f: jax.jacfwd(jax.jacrev(jax.grad(f)))}
        for name, mode in {"gradient": jax.grad, **MODES, **third}.items():
            found, expected = jax.jit(mode(mine))(point), jax.jit(mode(reference))(point)
            assert np.allclose(found, expected, rtol=1e-11, atol=1e-13), name

    def test_lengths_that_differ_under_vmap(self):
        def function(p, n):
            inputs = jnp.where(jnp.arange(10) < n, self.inputs, 0.0)
            return jnp.sum(self.mine(p, self.start, inputs, n)[n - 1] ** 2)

        lengths = jnp.asarray([3, 7, 5])
        points = jnp.stack([self.parameters * f for f in (1.0, 1.1, 0.9)])
        for mode in (jax.grad, MODES["reverse over reverse"]):
            mapped = jax.jit(jax.vmap(mode(function)))(points, lengths)
            alone = [mode(function)(p, n) for p, n in zip(points, lengths, strict=True)]
            assert np.allclose(mapped, jnp.stack(alone), rtol=1e-12, atol=1e-15)
            total = lambda ps: jnp.sum(jax.vmap(function)(ps, lengths))  # noqa: E731
            summed = jax.jit(mode(total))(points)
            assert np.isclose(np.sum(summed), np.sum(mapped), rtol=1e-12)
