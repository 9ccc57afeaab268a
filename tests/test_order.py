"""Measured order of convergence of every method, deterministic and stochastic."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from solvers.gradients import Forward
from solvers.integrators.base import AbstractDeterministicMethod, AbstractStochasticMethod
from solvers.integrators.deterministic import Bosh3, Dopri5, Dopri8, Euler, Midpoint, Tsit5
from solvers.integrators.dop853 import DOP853
from solvers.integrators.rosenbrock import Rodas5P
from solvers.integrators.stiff import ImplicitEuler, Kvaerno3, Kvaerno4, Kvaerno5
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    ShARK,
    StratonovichHeun,
    StratonovichMilstein,
)
from solvers.integrators.symplectic import StormerVerlet
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.oscillators import HarmonicOscillator
from systems.stochastic import GeometricBrownianMotion

from .helpers_solvers import (
    START,
    VALUES,
    NoisyPendulum,
    Rotation,
    StratonovichGrowth,
    Wiener,
    exact_answers,
    fitted_order,
    known_problem,
    solve_steps,
)


# Steps small enough for the leading term of the error and large enough for rounding.
STEPS = {
    Euler: [1 / 100, 1 / 200, 1 / 400],
    Midpoint: [1 / 25, 1 / 50, 1 / 100],
    Bosh3: [1 / 20, 1 / 40, 1 / 80],
    Tsit5: [1 / 5, 1 / 10, 1 / 20],
    Dopri5: [1 / 5, 1 / 10, 1 / 20],
    Dopri8: [1 / 2, 1 / 3, 1 / 4, 1 / 5],
    DOP853: [1 / 2, 1 / 3, 1 / 4, 1 / 5],
    ImplicitEuler: [1 / 100, 1 / 200, 1 / 400],
    Kvaerno3: [1 / 20, 1 / 40, 1 / 80],
    Kvaerno4: [1 / 10, 1 / 20, 1 / 40],
    Kvaerno5: [1 / 8, 1 / 16, 1 / 32],
    Rodas5P: [1 / 8, 1 / 16, 1 / 32],
}


def test_every_method_is_measured():
    methods = {
        value
        for name, value in vars(solvers).items()
        if name in solvers.__all__
        and inspect.isclass(value)
        and issubclass(value, AbstractDeterministicMethod | AbstractStochasticMethod)
    }
    stochastic = {case[0] for case in STRONG_ORDERS}
    assert methods == set(STEPS) | stochastic


@pytest.mark.parametrize("method", STEPS, ids=lambda method: method.__name__)
def test_order_of_deterministic_methods(method):
    steps = STEPS[method]
    solution = solve_steps(
        known_problem(), lambda step: method(step=step, rtol=1e-13, atol=1e-13), steps
    )
    assert bool(solution.succeeded.all())
    exact = exact_answers(VALUES, START, 2.0)
    errors = jnp.linalg.norm(solution.states[:, -1] - exact[None], axis=1)
    order = fitted_order(steps, errors)
    # Some do better on these equations, but none by more than one order.
    assert method.order - 0.3 < order < method.order + 1.3, (order, errors)


def test_order_of_stormer_verlet():
    oscillator = HarmonicOscillator(mass=2.0, stiffness=3.0)
    problem = InitialValueProblem(oscillator, 0.0, 4.0, [1.0, 0.5])
    steps = [1 / 10, 1 / 20, 1 / 40, 1 / 80]
    solution = solve_steps(problem, lambda step: StormerVerlet(step=step), steps)
    frequency = np.sqrt(3.0 / 2.0)
    exact = np.cos(4 * frequency) + 0.5 / (2 * frequency) * np.sin(4 * frequency)
    errors = np.abs(solution.states[:, -1, 0] - exact)
    assert fitted_order(steps, errors) == pytest.approx(StormerVerlet.order, abs=0.05)


STRONG_STEPS = [2.0**-k for k in range(3, 7)]
RESOLUTION = 2.0**-9
PATHS = 150

# Method, system and the order that theory gives it for this kind of noise.
STRONG_ORDERS = [
    (EulerMaruyama, GeometricBrownianMotion(growth_rate=0.0, volatility=0.4), 0.5),
    (EulerMaruyama, Rotation(), 0.5),
    (Milstein, GeometricBrownianMotion(growth_rate=0.5, volatility=0.4), 1.0),
    (StratonovichMilstein, StratonovichGrowth(), 1.0),
    (StratonovichHeun, StratonovichGrowth(), 1.0),
    (ShARK, NoisyPendulum(), 1.5),
]


def strong_errors(method, system, key):
    """Mean distance at time 1 from the same method with a much finer step."""
    problem = InitialValueProblem(system, 0.0, 1.0)
    steps = jnp.asarray([*STRONG_STEPS, 2 * RESOLUTION])

    def end(key, step):
        sized = method(step=step, path_resolution=RESOLUTION)
        return solve(problem, sized, gradient=Forward(), key=key, throw=False).states[-1]

    @jax.jit
    def ends(keys):
        return jax.vmap(lambda key: jax.vmap(lambda step: end(key, step))(steps))(keys)

    states = ends(jax.random.split(key, PATHS))
    return jnp.mean(jnp.linalg.norm(states[:, :-1] - states[:, -1:], axis=-1), axis=0)


@pytest.mark.parametrize(
    ("method", "system", "order"),
    STRONG_ORDERS,
    ids=[f"{method.__name__}-{type(system).__name__}" for method, system, _ in STRONG_ORDERS],
)
def test_strong_order(method, system, order, key):
    errors = strong_errors(method, system, key)
    assert fitted_order(STRONG_STEPS, errors) == pytest.approx(order, abs=0.2), errors


def test_strong_error_against_the_exact_path(key):
    # The reference of the test above is a finer solve; here it is the formula, with the
    # end of the same Wiener path.
    stock = GeometricBrownianMotion(growth_rate=0.5, volatility=0.5)
    steps = [1 / 8, 1 / 32, 1 / 128]

    def sized(method):
        return lambda step: method(step=step, path_resolution=RESOLUTION)

    def ends(system, method):
        problem = InitialValueProblem(system, 0.0, 1.0)
        return solve_steps(problem, sized(method), steps, key).states[:, -1, 0]

    wiener = ends(Wiener(), EulerMaruyama)
    assert np.allclose(wiener, wiener[0], rtol=0, atol=1e-12)  # one path for all steps
    errors = np.abs(
        ends(stock, Milstein) - stock.path(jnp.asarray(1.0), wiener[0], jnp.asarray(1.0))
    )
    assert np.all(errors < np.asarray(steps)), errors


def test_path_of_other_steps_without_common_resolution(key):
    # What `path_resolution` is for: steps that are no halves of each other see other
    # values between the times at which the path is drawn.
    def middle(resolution):
        problem = InitialValueProblem(Wiener(), 0.0, 1.0)
        method = EulerMaruyama(step=0.1, path_resolution=resolution)
        return solve(problem, method, save_at=[0.5, 0.7], key=key).states[:, 0]

    coarse, fine = middle(None), middle(0.001)
    assert np.isclose(coarse[0], fine[0], atol=1e-12)
    assert abs(coarse[1] - fine[1]) > 1e-3
