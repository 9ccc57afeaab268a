"""DOP853: its numbers and its solutions are those of SciPy's."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.integrate._ivp import dop853_coefficients as known

from solvers.ensemble.members import ensemble
from solvers.integrators.dop853 import DOP853, combined_error
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.chaos import Lorenz63


def test_numbers_are_those_of_scipy():
    stepper: Any = DOP853().stepper()
    tableau = stepper.tableau
    np.testing.assert_array_equal(tableau.c[:-1], known.C[1:12])
    for i, row in enumerate(tableau.a_lower[:-1], 1):
        np.testing.assert_array_equal(row, known.A[i, :i])
    np.testing.assert_array_equal(tableau.b_sol[:-1], known.B)
    np.testing.assert_array_equal(tableau.b_error, known.E5)
    np.testing.assert_array_equal(stepper.second_error, known.E3)


def test_the_error_is_hairers_for_one_state_and_never_less_for_more():
    fifth, third = np.random.default_rng(0).normal(size=(2, 50, 3))
    combined = np.asarray(combined_error(fifth, third))
    one = fifth**2 / np.sqrt(fifth**2 + 0.01 * third**2)
    np.testing.assert_allclose(np.abs(combined), one, rtol=1e-13)
    squares = np.sum(fifth**2, axis=1)
    below = squares + 0.01 * np.sum(third**2, axis=1)
    hairer = squares / np.sqrt(3 * below)
    assert (np.sqrt(np.mean(combined**2, axis=1)) >= hairer * (1 - 1e-12)).all()
    # States without error, and those that only the estimate of order 3 sees.
    np.testing.assert_array_equal(combined_error(np.zeros(2), np.array([0.0, 1.0])), 0.0)


@pytest.mark.parametrize("engine", ["native", "lanes", "diffrax"])
def test_solutions_are_those_of_scipy(engine):
    if engine == "native":
        pytest.importorskip("llvmlite")
    strengths, times = [5.0, 28.0], np.array([0.5, 1.7, 3.0])
    found = ensemble(
        InitialValueProblem(Lorenz63(), 0.0, 3.0, [1.0, 0.0, 0.0]),
        DOP853(rtol=1e-10, atol=1e-10),
        parameters={"rho": jnp.asarray(strengths)},
        save_at=times,
        engine=engine,
    )
    for states, rho in zip(found.states, strengths, strict=True):
        right = solve_ivp(
            lambda t, y, rho=rho: [
                10 * (y[1] - y[0]),
                y[0] * (rho - y[2]) - y[1],
                y[0] * y[1] - 8 / 3 * y[2],
            ],
            (0.0, 3.0),
            [1.0, 0.0, 0.0],
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=times,
        )
        np.testing.assert_allclose(states, right.y.T, rtol=2e-7, atol=1e-7)


def test_steps_are_as_few_as_those_of_scipy():
    problem = InitialValueProblem(Lorenz63(), 0.0, 10.0, [1.0, 0.0, 0.0])
    for tolerance in (1e-6, 1e-9):
        found = solve(problem, DOP853(rtol=tolerance, atol=tolerance))
        right = solve_ivp(
            lambda t, y: [
                10 * (y[1] - y[0]),
                y[0] * (28 - y[2]) - y[1],
                y[0] * y[1] - 8 / 3 * y[2],
            ],
            (0.0, 10.0),
            [1.0, 0.0, 0.0],
            method="DOP853",
            rtol=tolerance,
            atol=tolerance,
        )
        accepted = int(found.statistics["accepted_steps"])
        assert 0.8 < accepted / (right.t.size - 1) < 1.25
