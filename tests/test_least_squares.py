"""Levenberg-Marquardt: known optima, bounds, robust losses, and reasons to stop."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize

from solvers.gradients import Forward
from solvers.integrators.deterministic import Tsit5
from solvers.optimisers.base import (
    LeastSquares,
    OptimisationError,
    optimise,
    stop_names,
)
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.losses import Arctan, Cauchy, Huber, SoftL1, reweighted
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.base import AbstractODE, State, parameter, replace_parameters

from .helpers_compile import quick_jit


MINPACK2 = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "data"
    / "minpack2"
    / "minpack2_ode_and_lsq.json"
)
TIMES = np.linspace(0, 1, 20)


def rosenbrock(y, args):
    del args
    return jnp.stack([10 * (y[1] - y[0] ** 2), 1 - y[0]])


def run_once(problem, method, start, args=None):
    """Compiled with less effort than `optimise` takes alone, as it runs but once."""
    run = quick_jit(lambda y, args: optimise(problem, method, y, args, throw=False))
    result = run(start, args)
    assert bool(result.converged), reasons(result)
    return result


def reasons(result):
    return [stop_names()[i] for i in np.ravel(np.asarray(result.stop._value))]


def test_units_of_the_parameters_do_not_matter():
    """Parameters of 1e6 and 1e-6, where damping without scales claims a wrong optimum."""
    data = 2 * jnp.exp(-3 * TIMES)

    def residuals(y, units):
        return (y[0] * units[0]) * jnp.exp(-(y[1] * units[1]) * TIMES) - data

    problem = LeastSquares(residuals)
    units = jnp.asarray([[1e-6, 1e6], [1.0, 1.0]])
    result = quick_jit(
        jax.vmap(lambda u: optimise(problem, LevenbergMarquardt(), 1 / u, u, throw=False))
    )(units)
    assert bool(jnp.all(result.converged))
    np.testing.assert_allclose(result.value * units, [[2, 3], [2, 3]], rtol=1e-12)
    assert int(result.steps[0]) == int(result.steps[1]) <= 8


def test_bounds_hold_and_the_optimum_on_them_is_exact():
    """Rosenbrock's valley, cut off in several ways; one program, one lane for each."""
    infinite = np.inf
    lower = [[-infinite, -infinite], [-2, -1.5], [2, -infinite], [-infinite, 1.5], [0.5, -9]]
    upper = [[infinite, infinite], [0.8, 3], [3, infinite], [infinite, infinite], [0.5, 9]]
    starts = [[-1.2, 1.0], [-1.0, 0.0], [2.0, 1.0], [-2.0, 2.0], [0.5, 4.0]]

    @quick_jit
    def run(lower, upper, starts):
        def one(low, high, start):
            problem = LeastSquares(rosenbrock, low, high)
            return optimise(problem, LevenbergMarquardt(), start, throw=False)

        return jax.vmap(one)(lower, upper, starts)

    bounds = jnp.asarray(lower), jnp.asarray(upper)
    result = run(*bounds, jnp.asarray(starts))
    # In the fourth the optimum of y[0] alone solves 2 x^3 - 2.99 x - 0.01 = 0, to the left.
    left = np.sort(np.roots([200, 0, 1 - 300, -1]).real)[0]
    expected = [[1, 1], [0.8, 0.64], [2, 4], [left, 1.5], [0.5, 0.25]]
    np.testing.assert_allclose(result.value, expected, rtol=1e-12, atol=1e-14)
    assert bool(jnp.all(result.converged))
    assert bool(jnp.all((result.value >= bounds[0]) & (result.value <= bounds[1])))
    # What lies on a bound lies on it exactly.
    assert float(result.value[1, 0]) == 0.8
    assert float(result.value[2, 0]) == 2.0


def test_residuals_are_never_evaluated_outside_the_bounds():
    seen = []

    def residuals(y, args):
        del args
        jax.debug.callback(lambda value: seen.append(np.asarray(value)), y)
        return jnp.stack([jnp.exp(y[0]) - 0.1, jnp.sqrt(y[1]) - 5 + y[0], y[0] * y[1]])

    problem = LeastSquares(residuals, jnp.asarray([-1.0, 0.0]), jnp.asarray([4.0, 20.0]))
    result = run_once(problem, LevenbergMarquardt(), jnp.asarray([4.0, 0.0]))
    jax.effects_barrier()
    points = np.concatenate([value.reshape(-1, 2) for value in seen])
    assert len(points) > 5
    assert np.all((points >= [-1, 0]) & (points <= [4, 20]))
    reference = scipy.optimize.least_squares(
        lambda y: [np.exp(y[0]) - 0.1, np.sqrt(y[1]) - 5 + y[0], y[0] * y[1]],
        [1.0, 1.0],
        bounds=([-1, 0], [4, 20]),
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    assert float(result.objective) == pytest.approx(reference.cost, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("soft_l1", SoftL1), ("huber", Huber), ("cauchy", Cauchy), ("arctan", Arctan)],
)
def test_robust_losses_give_scipys_optimum(name, loss):
    times = np.linspace(0, 10, 30)
    data = 2 * np.exp(-0.5 * times) + 0.3 + 0.01 * np.sin(17 * times)
    data[[3, 12, 20]] += [1, 2, -1.5]

    def residuals(y, args):
        del args
        return y[0] * jnp.exp(-y[1] * times) + y[2] - data

    start = jnp.asarray([1.0, 1.0, 0.0])
    result = run_once(LeastSquares(residuals), LevenbergMarquardt(loss=loss(0.05)), start)

    def jacobian(y):
        decay = np.exp(-y[1] * times)
        return np.stack([decay, -y[0] * times * decay, np.ones_like(times)], axis=1)

    reference = scipy.optimize.least_squares(
        lambda y: y[0] * np.exp(-y[1] * times) + y[2] - data,
        [1.0, 1.0, 0.0],
        jac=jacobian,  # pyright: ignore[reportArgumentType]
        loss=name,
        f_scale=0.05,
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    np.testing.assert_allclose(result.value, reference.x, rtol=1e-6)
    assert float(result.objective) == pytest.approx(reference.cost, rel=1e-12)
    # The gradient of the very objective vanishes, which SciPy's does less exactly.
    slope = reweighted(loss(0.05), residuals(result.value, None)).slope
    gradient = np.asarray(slope) @ jacobian(result.value)
    assert np.max(np.abs(gradient)) < 1e-14
    # The outliers hardly move it, though they are up to 200 times the scatter.
    assert np.max(np.abs(np.asarray(result.value) - [2, 0.5, 0.3])) < 0.05


@pytest.mark.parametrize("loss", [SoftL1(0.7), Huber(0.7), Cauchy(0.7), Arctan(0.7)])
def test_the_derivatives_of_losses(loss):
    residuals = jnp.asarray([-3.0, -0.5, 0.1, 0.6, 2.0])

    def objective(values):
        return reweighted(loss, values).objective

    @quick_jit
    def derivatives(values):
        hessian = jnp.diag(jax.hessian(objective)(values))
        return reweighted(loss, values), jax.grad(objective)(values), hessian

    weights, slope, hessian = derivatives(residuals)
    np.testing.assert_allclose(weights.slope, slope, rtol=1e-12)
    np.testing.assert_allclose(weights.curvature, hessian, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(weights.root * weights.residuals, weights.slope, rtol=1e-12)
    assert bool(jnp.all(weights.root**2 >= weights.curvature - 1e-15))


CASES: dict[str, tuple[Any, list[float], set[str]]] = {
    "constant": (lambda y: jnp.ones(2) + 0 * y, [1.0, 2.0], {"flat"}),
    "plateau": (lambda y: 1 + jnp.maximum(y, 0) ** 2, [-1.0, -2.0], {"flat"}),
    "falls for ever": (lambda y: jnp.exp(-y) + 1, [0.0, 0.0], {"flat"}),
    "nan at the start": (lambda y: jnp.log(y), [-1.0, 2.0], {"nonfinite_start"}),
    "infinite at the start": (lambda y: 1 / y, [0.0, 2.0], {"nonfinite_start"}),
    "nan beyond": (lambda y: jnp.log(y) + 1 + y, [5.0, 20.0], {"gradient", "step"}),
    "one too many": (
        lambda y: jnp.stack([y[0] * y[1] - 3, (y[0] * y[1]) ** 2 - 9]),
        [1.0, 1.0],
        {"gradient", "step", "objective"},
    ),
    "one without effect": (
        lambda y: jnp.stack([y[0] - 1, y[0] + 1]),
        [5.0, 3.0],
        {"gradient"},
    ),
    "far scales": (
        lambda y: jnp.stack([1e8 * (y[0] - 1e-8), 1e-6 * (y[1] - 1e6)]),
        [1.0, 1.0],
        {"gradient", "step", "objective"},
    ),
}


def test_each_start_stops_for_its_own_reason():
    """All as lanes of one program: what one lane does, the others must not feel."""
    branches = [function for function, _, _ in CASES.values()]
    problem = LeastSquares(lambda y, i: jax.lax.switch(i, branches, y))
    starts = jnp.asarray([start for _, start, _ in CASES.values()])

    @quick_jit
    def run(starts, index):
        method = LevenbergMarquardt()
        return jax.vmap(lambda y, i: optimise(problem, method, y, i, throw=False))(
            starts, index
        )

    result = run(starts, jnp.arange(len(CASES)))
    values = dict(zip(CASES, np.asarray(result.value), strict=True))
    for name, reason in zip(CASES, reasons(result), strict=True):
        assert reason in CASES[name][2], f"{name}: {reason}"
    # log(y) + 1 + y vanishes at Lambert's W(1/e).
    np.testing.assert_allclose(values["nan beyond"], 0.2784645427610738, rtol=1e-12)
    assert np.prod(values["one too many"]) == pytest.approx(3, rel=1e-10)
    np.testing.assert_allclose(values["one without effect"], [0, 3], atol=1e-12)
    np.testing.assert_allclose(values["far scales"], [1e-8, 1e6], rtol=1e-12)
    np.testing.assert_array_equal(values["nan at the start"], [-1, 2])


def test_a_failure_is_raised_in_words():
    problem = LeastSquares(lambda y, weight: 1 + weight * rosenbrock(y, None))
    start = jnp.asarray([-1.2, 1.0])
    with pytest.raises(OptimisationError, match="does not depend on the parameters"):
        optimise(problem, LevenbergMarquardt(), start, jnp.asarray(0.0))
    with pytest.raises(OptimisationError, match="after 2 steps"):
        optimise(problem, LevenbergMarquardt(), start, jnp.asarray(1.0), max_steps=2)


def test_trees_and_optimistix_give_the_same():
    """A tree of parameters and of residuals, by our driver and by optimistix."""
    data = 2 * jnp.exp(-3 * TIMES) + 0.01 * jnp.cos(40 * TIMES)

    def residuals(y, args):
        fit = args * y["height"] * jnp.exp(-y["rates"][0] * TIMES)
        return {"fit": fit - data, "prior": (0.1 * (y["rates"] - 2),)}

    start = {"height": jnp.asarray(1.0), "rates": jnp.asarray([1.0])}
    ours = run_once(LeastSquares(residuals), LevenbergMarquardt(), start, jnp.asarray(1.0))

    def theirs(factor):
        return optx.least_squares(residuals, LevenbergMarquardt(), start, factor).value

    one = jnp.asarray(1.0)
    value, slope = quick_jit(lambda x: jax.jvp(theirs, (x,), (x,)))(one)
    for mine, other in zip(jax.tree.leaves(ours.value), jax.tree.leaves(value), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-14)
    assert ours.value["rates"].shape == (1,)
    # The height is inversely proportional to the factor, so its derivative is known.
    assert float(slope["height"]) == pytest.approx(-float(value["height"]), rel=1e-6)


def test_evaluations_are_counted_and_jacobians_kept():
    """On a rejected step the Jacobian is not computed anew."""
    start = jnp.asarray([-1.2, 1.0])
    method = LevenbergMarquardt(polish=False, acceleration=0.0)
    result = optimise(LeastSquares(rosenbrock), method, start)
    counts = {name: int(value) for name, value in result.statistics.items()}
    assert counts["function_evaluations"] == int(result.steps)
    assert counts["derivative_evaluations"] < counts["function_evaluations"]
    assert counts["acceleration_evaluations"] == counts["hessian_evaluations"] == 0
    seen = []
    stepwise = optimise(
        LeastSquares(rosenbrock),
        method,
        start,
        progress=lambda step, y, state: seen.append((step, float(y[0]))),
    )
    assert [step for step, _ in seen] == list(range(1, int(result.steps) + 1))
    np.testing.assert_array_equal(stepwise.value, result.value)


def test_final_steps_bring_the_digits():
    """A fit with large residuals: the optimum is known from its own gradient."""
    times = np.linspace(0, 10, 40)
    data = np.exp(-0.3 * times) + 0.5 * np.sin(3 * times)

    def residuals(y, args):
        del args
        return y[0] * jnp.exp(-y[1] * times) - data

    def error(method):
        result = run_once(LeastSquares(residuals), method, jnp.asarray([3.0, 1.0]))
        height, rate = np.asarray(result.value)
        decay = np.exp(-rate * np.asarray(times))
        left = height * decay - np.asarray(data)
        columns = np.stack([decay, -height * times * decay], axis=1)
        bent = np.asarray(
            [[0, -times @ (left * decay)], [0, height * times**2 @ (left * decay)]]
        )
        hessian = columns.T @ columns + bent + np.asarray([[0, 0], [bent[0, 1], 0]])
        newton = np.linalg.solve(hessian, columns.T @ left)
        return np.max(np.abs(newton / np.asarray(result.value)))

    assert error(LevenbergMarquardt()) < 1e-14
    assert error(LevenbergMarquardt(newton_limit=0)) < 1e-12
    assert 1e-14 < error(LevenbergMarquardt(polish=False)) < 1e-5


def test_single_precision():
    start = jnp.asarray([-1.2, 1.0], jnp.float32)
    result = optx.least_squares(rosenbrock, LevenbergMarquardt(), start)
    assert result.value.dtype == jnp.float32
    np.testing.assert_allclose(result.value, [1, 1], rtol=1e-5)


def test_more_parameters_than_residuals():
    """The nearest of many solutions, from the origin: the plane x + 2 y + 3 z = 7."""
    problem = LeastSquares(lambda y, args: jnp.stack([y[0] + 2 * y[1] + 3 * y[2] - 7]))
    result = run_once(problem, LevenbergMarquardt(), jnp.zeros(3))
    assert float(result.value @ jnp.asarray([1.0, 2, 3])) == pytest.approx(7, rel=1e-14)


class AlphaPinene(AbstractODE):
    """The thermal isomerisation of alpha-pinene."""

    rates: Any = parameter(1e-5)
    states = tuple(State(f"y{i}", 100.0 if i == 1 else 0.0) for i in range(1, 6))

    def vector_field(self, t, y, inputs):
        del t, inputs
        a, _, c, _, e = y
        k1, k2, k3, k4, k5 = self.rates
        rest = k2 * a - (k3 + k4) * c + k5 * e
        return jnp.stack([-(k1 + k2) * a, k1 * a, rest, k3 * c, k4 * c - k5 * e])


def test_alpha_pinene_in_eight_steps():
    """MINPACK-2's fit of an ODE; nine runs of other programs agree on the optimum."""
    if not MINPACK2.exists():
        pytest.skip(f"the MINPACK-2 problems are not here: no {MINPACK2}")
    table = json.loads(MINPACK2.read_text(encoding="utf-8"))["alpha_pinene_direct"]
    times, data = np.asarray(table["t"], float), np.asarray(table["y"])

    def residuals(rates, args):
        del args
        system = replace_parameters(AlphaPinene(), {"rates": rates})
        start = jnp.asarray(table["y0"], float)
        problem = InitialValueProblem(system, 0.0, float(times[-1]), start)
        solution = solve(
            problem,
            Tsit5(rtol=1e-9, atol=1e-9),
            save_at=times[1:],
            gradient=Forward(),
            throw=False,
        )
        return solution.states - data

    start = jnp.asarray(table["x0"])
    result = run_once(LeastSquares(residuals), LevenbergMarquardt(), start)
    assert int(result.steps) <= 8
    assert 2 * float(result.objective) == pytest.approx(19.87216693, abs=1e-8)
    expected = [5.92584877e-05, 2.96340211e-05, 2.04728401e-05, 2.74467932e-04, 3.99794995e-05]
    np.testing.assert_allclose(result.value, expected, rtol=2e-8)
