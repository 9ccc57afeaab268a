"""The engine of lanes: the steps of diffrax, failures, order of members, noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from solvers.ensemble.lanes.engine import run
from solvers.ensemble.lanes.noise import normal, threefry
from solvers.ensemble.law import Answer, EngineRefusal, Law, Question
from solvers.ensemble.reference import run_reference
from solvers.integrators.deterministic import Dopri8, Tsit5
from solvers.integrators.dop853 import DOP853
from solvers.integrators.rosenbrock import Rodas5P
from solvers.integrators.stiff import Kvaerno5
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    ShARK,
    StratonovichHeun,
    StratonovichMilstein,
)
from solvers.problem import InitialValueProblem
from solvers.solution import status_names
from solvers.solve import solve
from systems.base import AbstractODE, State


def law_of(drift: Any, states: int, varied: int = 1, **noise: Any) -> Law:
    """A law whose shared numbers are none, or one."""
    options = {"diffusion": None, "noises": 0, "diagonal": True, "shared": 0} | noise
    return Law(drift=drift, states=states, varied=varied, controlled=states, **options)


def lorenz(t, y, v, s):
    return jnp.stack(
        [10 * (y[1] - y[0]), y[0] * (v[0] - y[2]) - y[1], y[0] * y[1] - s[0] * y[2]]
    )


def van_der_pol(t, y, v, s):
    return jnp.stack([y[1], v[0] * (1 - y[0] ** 2) * y[1] - y[0]])


def lotka_volterra(t, y, v, s):
    eaten = 0.025 * y[0] * y[1]
    return jnp.stack([v[0] * y[0] - eaten, eaten - 0.8 * y[1]])


def epidemic(t, y, v, s):
    infections = v[0] * y[0] * y[1] * (1 + 0.2 * jnp.sin(t))
    return jnp.stack([-infections, infections - 0.1 * y[1], 0.1 * y[1]])


def question(law: Law, begin: Any, varied: Any, **others: Any) -> Question:
    """Members from 0 to 1 that differ in a parameter."""
    varied = jnp.asarray(varied, float)[:, None]
    count = varied.shape[0]
    given = {
        "start": jnp.zeros(count),
        "stop": jnp.ones(count),
        "initial_states": jnp.tile(jnp.asarray(begin, float), (count, 1)),
        "varied": varied,
        "shared": jnp.full(law.shared, 8 / 3),
        "times": jnp.linspace(0.0, 1.0, 5),
    }
    return Question(**(given | others))


QUICKLY = {"xla_backend_optimization_level": 0}


def engine(law: Law, method: Any, lanes: int | None = None, options: Any = None) -> Any:
    """The engine, compiled."""
    options = QUICKLY if options is None else options
    return jax.jit(lambda q: run(law, method, q, lanes=lanes), compiler_options=options)


def codes(answer: Answer) -> list[str]:
    """The names of what became of the members."""
    return [status_names()[i] for i in answer.status.tolist()]


LORENZ = law_of(lorenz, 3, shared=1)
SPANS = np.array([[0.0, 2.0], [1.0, -0.5], [0.5, 0.5], [-1.0, 1.5], [0.2, 0.3], [0.0, 1.0]])
EACH = np.linspace(0, 1, 4)

SAME = {
    "spans and times of their own, both ways": (
        LORENZ,
        Tsit5(),
        question(
            LORENZ,
            [1.0, 0.5, 20.0],
            np.linspace(5, 28, 6),
            start=jnp.asarray(SPANS[:, 0]),
            stop=jnp.asarray(SPANS[:, 1]),
            times=jnp.asarray(SPANS[:, :1] + EACH * (SPANS[:, 1:] - SPANS[:, :1])),
        ),
    ),
    "a stiff one": (
        law_of(van_der_pol, 2),
        Rodas5P(),
        question(
            law_of(van_der_pol, 2),
            [2.0, 0.0],
            np.logspace(0, 3, 5),
            stop=jnp.full(5, 40.0),
            times=jnp.linspace(0.0, 40.0, 9),
        ),
    ),
    "steps on saved times": (
        law_of(lotka_volterra, 2),
        Dopri8(rtol=1e-9, atol=1e-9),
        question(
            law_of(lotka_volterra, 2),
            [30.0, 4.0],
            np.linspace(0.3, 0.7, 5),
            stop=jnp.full(5, 12.0),
            times=jnp.asarray([0.0, 3.0, 3.0, 7.5, 12.0]),
        ),
    ),
    "two estimates of the error": (
        law_of(lotka_volterra, 2),
        DOP853(rtol=1e-9, atol=1e-9),
        question(
            law_of(lotka_volterra, 2),
            [30.0, 4.0],
            np.linspace(0.3, 0.7, 5),
            stop=jnp.full(5, 12.0),
            times=jnp.asarray([0.0, 3.0, 12.0]),
        ),
    ),
    "constant steps": (
        law_of(epidemic, 3),
        Tsit5(step=0.07),
        question(law_of(epidemic, 3), [0.9, 0.1, 0.0], np.linspace(0.3, 2.0, 5)),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_steps_and_states_are_those_of_diffrax(name):
    law, method, asked = SAME[name]
    found = engine(law, method)(asked)
    reference = jax.jit(lambda q: run_reference(law, method, q), compiler_options=QUICKLY)
    expected = reference(asked)
    np.testing.assert_array_equal(found.accepted, expected.accepted)
    np.testing.assert_array_equal(found.rejected, expected.rejected)
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.final_time, expected.final_time)
    for one, other in (
        (found.saved, expected.saved),
        (found.final_state, expected.final_state),
    ):
        scale = np.max(np.abs(other), axis=(0, -2) if other.ndim == 3 else 0)
        assert np.max(np.abs(one - other) / scale) < 1e-10


def explosion(t, y, v, s):
    return jnp.stack([v[0] * y[0] ** 2, -y[1] * jnp.exp(-y[1])])


def test_a_poisoned_member_costs_no_other_anything():
    law = law_of(explosion, 2)
    solved = engine(law, Tsit5(max_steps=1_000))
    rates = np.linspace(-3.0, 0.5, 1_000)
    asked = question(law, [1.0, 1.0], rates, times=jnp.asarray([0.0, 0.5, 1.0]))
    healthy = solved(asked)
    assert set(codes(healthy)) == {"successful"}
    members = {3: 2.0, 500: jnp.nan, 777: 1e9}
    varied = asked.varied.at[jnp.asarray(list(members)), 0].set(
        jnp.asarray([*members.values()])
    )
    begins = asked.initial_states.at[42, 1].set(jnp.inf)
    slow = asked.stop.at[999].set(1e12)
    found = solved(Question(asked.start, slow, begins, varied, asked.shared, asked.times, None))
    poisoned = {
        3: "step_size_underflow",
        42: "nonfinite_start",
        500: "nonfinite_start",
        777: "step_size_underflow",
    }
    names = codes(found)
    assert {i: names[i] for i in poisoned} == poisoned
    assert names[999] in ("max_steps_reached", "step_size_underflow")
    assert abs(float(found.final_time[3]) - 0.5) < 1e-6
    np.testing.assert_allclose(found.saved[3, 0], [1.0, 1.0])
    assert np.isnan(found.saved[3, 2]).all()
    others = np.setdiff1d(np.arange(1_000), [*poisoned, 999])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(healthy), strict=True):
        np.testing.assert_array_equal(np.asarray(one)[others], np.asarray(other)[others])


def swinging(t, y, v, s):
    return jnp.stack([y[1], -jnp.sin(v[0] * y[0]) * jnp.exp(-0.1 * y[1] ** 2) + jnp.tanh(t)])


def test_results_depend_neither_on_the_lanes_nor_on_the_order():
    law = law_of(swinging, 2)
    rates = np.random.default_rng(3).uniform(0.5, 9.0, 90)
    asked = question(law, [0.4, 0.0], rates, stop=jnp.linspace(0.5, 9.0, 90))
    asked = Question(**{**vars(asked), "times": jnp.outer(asked.stop, jnp.linspace(0.1, 1, 4))})
    solved = {lanes: engine(law, Tsit5(), lanes, {}) for lanes in (1, 64)}
    first, *others = [one(asked) for one in solved.values()]
    for other in others:
        for x, z in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(x, z)
    order = np.random.default_rng(4).permutation(90)
    shuffled = jax.tree.map(lambda leaf: leaf[order] if leaf.size else leaf, asked)
    found = solved[64](shuffled)
    for x, z in zip(jax.tree.leaves(first), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[order], z)


def with_an_index(t, y, v, s):
    rates = jnp.asarray([-1.0, -20.0])
    return y[::-1] * 0.1 + rates[jnp.floor(v[0]).astype(int)] * y


@pytest.mark.parametrize("method", [Tsit5(), Rodas5P()], ids=["Tsit5", "Rodas5P"])
def test_a_law_without_a_program_is_solved_by_vmap(method):
    law = law_of(with_an_index, 2)
    asked = question(law, [1.0, 2.0], [0.5, 1.5, 0.7])
    found = engine(law, method)(asked)
    rates = np.array([-1.0, -20.0, -1.0])[:, None]
    total, difference = 3 * np.exp(rates + 0.1), -1 * np.exp(rates - 0.1)
    expected = np.hstack([total + difference, total - difference]) / 2
    np.testing.assert_allclose(found.final_state, expected, atol=3e-6)


def test_threefry_is_that_of_jax():
    key = jax.random.key_data(jax.random.key(12345))
    counters = jnp.arange(6, dtype=jnp.uint32)
    high, low = threefry((key[0], key[1]), (counters[:3], counters[3:]))
    expected = threefry_2x32(key, counters)
    np.testing.assert_array_equal(jnp.concatenate([high, low]), expected)


RATE, VOLATILITY = 0.3, 0.6


def growth(t, y, v, s):
    return v[:1] * y


def volatility(t, y, v, s):
    return v[1:] * y


STOCK = law_of(growth, 1, varied=2, diffusion=volatility, noises=1)


def member_keys(count: int) -> Any:
    key = jax.random.key(8)
    return jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))(
        jnp.arange(count)
    )


def wiener(keys: Any, steps: int, process: int = 0) -> Any:
    """The increments of the paths of members over a span of one, `(members, steps)`."""
    numbers = jnp.arange(steps)
    kind = jnp.dtype(float)
    one = jax.vmap(lambda key: normal((key[0], key[1]), numbers, process, kind))
    return one(keys) / np.sqrt(steps)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (EulerMaruyama, 0.5),
        (Milstein, 1.0),
        (StratonovichHeun, 1.0),
        (StratonovichMilstein, 1.0),
    ],
)
def test_strong_order_against_the_same_paths(method, order):
    """Steps are one; the same law in slower time has the shorter steps."""
    count, steps = 2_000, np.repeat([8, 64], 2_000)
    keys = jnp.tile(member_keys(count), (2, 1))
    rates = np.stack([RATE / steps, VOLATILITY / np.sqrt(steps)], 1)
    asked = question(STOCK, [1.0], steps, keys=keys, stop=jnp.asarray(steps, float))
    asked = Question(**{**vars(asked), "varied": jnp.asarray(rates)})
    found = engine(STOCK, method(step=1.0))(asked)
    assert set(codes(found)) == {"successful"}
    np.testing.assert_array_equal(found.accepted, steps)
    ito = method in (EulerMaruyama, Milstein)
    drift = RATE - VOLATILITY**2 / 2 if ito else RATE
    paths = [wiener(keys[:count], n).sum(1) for n in (8, 64)]
    ends = np.asarray(found.final_state[:, 0]).reshape(2, count)
    exact = np.exp(drift + VOLATILITY * np.stack(paths))
    coarse, fine = np.sqrt(np.mean((ends - exact) ** 2, axis=1))
    assert np.log(coarse / fine) / np.log(8) == pytest.approx(order, abs=0.15)
    mean = np.exp(drift + VOLATILITY**2 / 2)
    assert abs(ends[1].mean() - mean) < 4 * ends[1].std() / np.sqrt(count) + 2 * fine


def relaxation(t, y, v, s):
    return -v * y


def mixing(t, y, v, s):
    return jnp.array([[0.3, 0.1], [0.0, 0.5]])


def test_moments_and_paths_of_noise_that_is_shared_by_states():
    law = law_of(relaxation, 2, diffusion=mixing, noises=2, diagonal=False)
    keys, steps = member_keys(3_000), 32
    asked = question(law, [1.0, 1.0], np.ones(3_000), keys=keys, times=jnp.asarray([0.5, 1.0]))
    found = engine(law, EulerMaruyama(step=1 / steps))(asked)
    path = np.stack([np.asarray(wiener(keys, steps, i)) for i in range(2)], -1)
    y = np.ones((3_000, 2))
    halfway = y
    for step in range(steps):
        halfway = y if step == steps // 2 else halfway
        y = y - y / steps + path[:, step] @ np.array([[0.3, 0.1], [0.0, 0.5]]).T
    np.testing.assert_allclose(found.saved[:, 1], y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.saved[:, 0], halfway, rtol=1e-12, atol=1e-12)
    covariance = np.array([[0.10, 0.05], [0.05, 0.25]]) * (1 - np.exp(-2)) / 2
    np.testing.assert_allclose(np.cov(y.T), covariance, atol=4 * 0.25 / np.sqrt(3_000))
    assert np.abs(y.mean(0) - np.exp(-1)).max() < 4 * 0.35 / np.sqrt(3_000) + 1 / steps


def test_normal_numbers_are_normal():
    numbers = np.asarray(wiener(member_keys(500), 100)) * 10
    assert abs(numbers.mean()) < 4 / np.sqrt(numbers.size)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / numbers.size)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / numbers.size)
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.02
    assert np.unique(numbers).size == numbers.size


@pytest.mark.parametrize("method", [ShARK(), Kvaerno5()], ids=["ShARK", "Kvaerno5"])
def test_methods_that_lanes_do_not_have_are_refused(method):
    law = STOCK if isinstance(method, ShARK) else LORENZ
    asked = question(law, [1.0] * law.states, [1.0], keys=member_keys(1))
    with pytest.raises(EngineRefusal, match=type(method).__name__):
        run(law, method, asked)


def test_more_saved_states_than_are_counted_are_refused():
    def shape(*sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, jnp.float64)

    count = 1 << 21

    def shapes(saves):
        times = shape(count), shape(count)
        asked = Question(*times, shape(count, 3), shape(count, 1), shape(1), shape(saves), None)
        return jax.eval_shape(lambda q: run(LORENZ, Tsit5(), q), asked)

    assert shapes(1000).saved.shape == (1 << 21, 1000, 3)
    with pytest.raises(EngineRefusal, match="2097152 members at 1024 saved times"):
        shapes(1024)


class Forced(AbstractODE):
    """Forced by time: the solution is the cosine."""

    states = (State("x", 1.0), State("clock", 1.0))

    def vector_field(self, t, y, inputs):
        del inputs
        return jnp.stack([-2 * (y[0] - jnp.cos(t)) - jnp.sin(t), -jnp.sin(t) * y[1] ** 0])


def test_rodas5p_solves_single_problems_to_its_order():
    errors = []
    for steps in (8, 16):
        problem = InitialValueProblem(Forced(), 0.0, 2.0)
        solution = solve(problem, Rodas5P(step=2.0 / steps), save_at=[0.9, 1.3, 2.0])
        errors.append(np.abs(solution.states - jnp.cos(solution.times)[:, None]))
    ends = errors[0][-1].max() / errors[1][-1].max()
    between = errors[0][:-1].max() / errors[1][:-1].max()
    assert ends > 20
    assert between > 10
    assert errors[1].max() < 1e-5
    backwards = InitialValueProblem(Forced(), 0.2, 0.0, [np.cos(0.2), np.cos(0.2)])
    solution = solve(backwards, Rodas5P(rtol=1e-9, atol=1e-12))
    np.testing.assert_allclose(solution.final_state, [1.0, 1.0], atol=1e-4)
