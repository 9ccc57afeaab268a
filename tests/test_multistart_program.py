"""Many starts as one compiled program: what becomes of each, on any lanes and devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import STOP, LeastSquares, Minimisation, to_optimistix
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.multistart import Abandonment, Optima, optimise_many
from solvers.optimisers.newton import TrustRegionNewton
from solvers.sharding import make_mesh


def landscape(x: jax.Array, height: Any) -> Any:
    """A basin about 1, a bed about -5 so flat that Newton's method takes a hundred steps
    there, a slope above 10 that ends nowhere, a plain below -10, and nothing below -100.
    """
    basin = (x - 1.0) ** 2 + 0.1 * (x - 1.0) ** 4
    low = jnp.where(x < -2.0, (x + 5.0) ** 8, basin)
    low = jnp.where(x < -10.0, 70.0, low)
    low = jnp.where(x < -100.0, jnp.nan, low)
    return jnp.where(x > 10.0, height + jnp.exp(-x / 100.0), low)


LANDSCAPE = Minimisation(landscape)
STARTS = np.array([0.3, -150.0, -20.0, 20.0, -3.5, 3.0, 1.0])
REASONS = [
    "gradient",
    "nonfinite_start",
    "flat",
    "abandoned",
    "nonlinear_max_steps_reached",
    "gradient",
    "gradient",
]


def run(method: Any = None, **settings: Any) -> Optima:
    standard: dict[str, Any] = {
        "max_steps": 30,
        "rung": 4,
        "abandonment": Abandonment(excess=10.0),
    }
    method = TrustRegionNewton() if method is None else method
    return optimise_many(LANDSCAPE, method, STARTS, 50.0, **{**standard, **settings})


@functools.cache
def alone() -> Optima:
    """One lane on one device."""
    return run()


def test_each_start_is_told_what_became_of_it() -> None:
    assert alone().reasons() == REASONS
    good = [0, 5, 6]
    assert np.flatnonzero(alone().converged).tolist() == good
    np.testing.assert_allclose(alone().value[good], 1.0, atol=1e-12)
    np.testing.assert_allclose(alone().objective[good], 0.0, atol=1e-20)
    assert alone().steps[4] == 30
    assert 8 < alone().steps[3] < 30
    assert alone().objective[3] > 50.0
    assert alone().value[2] == STARTS[2]


def test_without_a_rule_no_start_is_given_up() -> None:
    reasons = run(abandonment=None).reasons()
    assert reasons[3] != "abandoned"
    assert [*reasons[:3], *reasons[4:]] == [*REASONS[:3], *REASONS[4:]]


def test_a_start_that_may_still_come_near_is_not_given_up() -> None:
    """The slope lies no more than the excess above the basin."""
    assert run(abandonment=Abandonment(excess=60.0)).reasons()[3] != "abandoned"


class Countdown(optx.AbstractMinimiser):
    """Goes down by one with each step, and is content at zero or at `limit` steps."""

    limit: int = 1000
    rtol: float = 0.0
    atol: float = 0.0
    norm: Any = optx.max_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        del fn, y, args, options, f_struct, aux_struct, tags
        return jnp.asarray(0), STOP.where(jnp.asarray(True), STOP.running, STOP.running)

    def step(self, fn, y, args, options, state, tags):
        del options, tags
        y, count = y - 1.0, state[0] + 1
        content = (y <= 0.0) | (count >= self.limit)
        return y, (count, STOP.where(content, STOP.step, STOP.running)), fn(y, args)[1]

    def terminate(self, fn, y, args, options, state, tags):
        del fn, y, args, options, tags
        return to_optimistix(state[1])

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        del fn, args, options, tags, result
        return y, aux, {"stop": state[1]}


SQUARE = Minimisation(lambda y, args: jnp.square(y))


def count(durations: list[int], **settings: Any) -> Optima:
    return optimise_many(SQUARE, Countdown(), np.array(durations, dtype=float), **settings)


def test_a_lane_that_is_through_takes_the_next_start() -> None:
    """In fixed pairs the longer of each would count: 7 + 1 + 6 rounds."""
    durations = [7, 1, 1, 1, 6, 2]
    two = count(durations, lanes=2, rung=100)
    assert two.steps.tolist() == durations
    assert two.ticks.tolist() == [9]
    assert count(durations, lanes=1, rung=100).ticks.tolist() == [sum(durations)]
    # In rungs of three a long start gives its lane up and comes back in the next.
    assert count(durations, lanes=2, rung=3).ticks.tolist() == [6 + 3 + 1]


def test_what_is_left_is_dealt_to_the_devices_anew() -> None:
    """Four long starts lie side by side, and each device gets one."""
    durations = [1, 2, 1, 2, 20, 20, 20, 20]
    spread = count(durations, mesh=make_mesh(4), rung=2)
    assert spread.steps.tolist() == durations
    # At first a short start and the beginning of a long one, then the rest of that.
    assert spread.ticks.tolist() == [1 + 2 + 18, 2 + 2 + 18, 1 + 2 + 18, 2 + 2 + 18]


class Downhill(Countdown):
    """Steepest descent with steps of one size; gives its start up once it is below -3."""

    def step(self, fn, y, args, options, state, tags):
        del options, tags
        objective, gradient = jax.value_and_grad(lambda y: fn(y, args)[0])(y)
        stop = STOP.where(jnp.abs(gradient) < 1e-6, STOP.gradient, STOP.running)
        stop = STOP.where(y < -3.0, STOP.stalled, stop)
        return y - 0.5 * gradient, (state[0] + 1, stop), objective


@functools.cache
def descended(lanes: int, devices: int | None) -> Optima:
    """Two minima, at 1 and at -4; some starts run into the limit of 34 steps."""
    problem = Minimisation(lambda y, args: args * jnp.cos(0.6 * y - 0.6) * -1.0)
    mesh = None if devices is None else make_mesh(devices)
    starts = np.linspace(-4.5, 4.0, 11)
    return optimise_many(
        problem, Downhill(), starts, 2.0, max_steps=34, rung=7, lanes=lanes, mesh=mesh
    )


@pytest.mark.parametrize(("lanes", "devices"), [(2, 1), (3, 2), (1, 4)])
def test_lanes_and_devices_change_no_result(lanes: int, devices: int | None) -> None:
    one, other = descended(1, None), descended(lanes, devices)
    assert set(one.reasons()) == {"gradient", "stalled", "nonlinear_max_steps_reached"}
    assert other.reasons() == one.reasons()
    np.testing.assert_array_equal(other.steps, one.steps)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-12)
    np.testing.assert_allclose(other.objective, one.objective, rtol=1e-12)
    np.testing.assert_allclose(other.evidence, one.evidence, rtol=1e-9, atol=1e-12)
    assert other.ticks.shape == (devices or 1,)


def test_progress_is_told_after_each_rung() -> None:
    told: list[tuple[int, int, str]] = []
    count([1, 3, 5], rung=2, report=lambda *words: told.append(words))
    assert told == [(1, 3, "starts"), (2, 3, "starts"), (3, 3, "starts")]


def test_a_success_beside_the_minimum_is_a_false_convergence() -> None:
    """It stops after three steps, which lead from 3 to the minimum and from 9 to 6."""
    starts = np.array([3.0, 9.0])
    found = optimise_many(SQUARE, Countdown(limit=3), starts)
    assert found.reasons() == ["step", "false_convergence"]
    np.testing.assert_allclose(found.evidence, [0.0, 1.0], rtol=1e-3)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_check_knows_no_units(unit: float) -> None:
    starts = unit * np.array([1.001, 1.5])
    found = optimise_many(UNITS, Idle(), starts, jnp.asarray(unit))
    assert found.reasons() == ["step", "false_convergence"]


UNITS = Minimisation(lambda y, unit: jnp.square(y / unit - 1.0) / unit)


class Idle(Countdown):
    """Is content where it starts."""

    def step(self, fn, y, args, options, state, tags):
        del options, tags
        return (
            y,
            (state[0] + 1, STOP.where(jnp.asarray(True), STOP.step, STOP.step)),
            fn(y, args)[1],
        )


def test_methods_of_optimistix_run_too() -> None:
    """They know no plain and no start that is no number; the driver does."""
    found = run(optx.BFGS(rtol=1e-9, atol=1e-9), max_steps=100, check=None)
    assert [found.reasons()[i] for i in (0, 1, 2)] == ["successful", "nonfinite_start", "flat"]


def test_least_squares_between_bounds() -> None:
    """The first parameter wants to be 2 and may be 1.5."""
    problem = LeastSquares(
        lambda y, data: {"all": data - y["amount"] * jnp.arange(3.0) ** y["power"]},
        upper={"amount": 1.5, "power": jnp.inf},
    )
    starts = {"amount": np.array([1.0, 0.5]), "power": np.array([1.0, 2.0])}
    found = optimise_many(
        problem,
        LevenbergMarquardt(acceleration=0.0, polish=False),
        starts,
        jnp.array([0.0, 2.0, 4.0]),
    )
    assert all(found.converged)
    np.testing.assert_allclose(found.value["amount"], 1.5)
    np.testing.assert_allclose(found.value["power"], np.log2(4.0 / 1.5), rtol=1e-8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lanes": 0}, "lanes is 0, expected at least 1"),
        ({"rung": 0}, "rung is 0, expected at least 1"),
        ({"max_steps": 0}, "max_steps is 0, expected at least 1"),
    ],
)
def test_numbers_below_one_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        count([1, 2], **settings)


def test_bad_starts_and_rules_are_refused() -> None:
    bounded = Minimisation(lambda y, args: jnp.square(y), upper=2.0)
    with pytest.raises(ValueError, match=r"Parameter 0 of start 1 starts at 3, outside"):
        optimise_many(bounded, Countdown(), np.array([1.0, 3.0]))
    with pytest.raises(ValueError, match="the same number of rows"):
        optimise_many(SQUARE, Countdown(), {"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ValueError, match="has shape \\(2,\\), expected a scalar"):
        optimise_many(SQUARE, Countdown(), np.ones((3, 2)))
    with pytest.raises(ValueError, match="excess, rungs and caution are 1, 0 and 10"):
        Abandonment(excess=1.0, rungs=0)


def test_the_rule_looks_at_the_fastest_of_the_last_rungs() -> None:
    """Of four starts one has converged, one falls fast enough, one did before the last."""
    history = [
        np.array([1.0, 200.0, 200.0, 60.0]),
        np.array([0.0, 150.0, 110.0, 60.0]),
        np.array([0.0, 100.0, 109.9, 59.9]),
    ]
    converged = np.array([True, False, False, False])
    rule, left = Abandonment(excess=20.0), np.full(4, 5.0)
    assert rule.judge(history[:2], converged, left).tolist() == [False] * 4
    assert rule.judge(history, converged, left).tolist() == [False, False, False, True]
    assert not rule.judge(history, np.zeros(4, dtype=bool), left).any()
    further = [*history, np.array([0.0, 50.0, 109.8, 10.0])]
    assert rule.judge(further, converged, left).tolist() == [False, False, True, False]
