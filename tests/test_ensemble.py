"""Ensembles: equal to single solves, indifferent to segments and to failed members."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble.members import ensemble
from solvers.gradients import Backsolve, Checkpointed
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.stochastic import Milstein
from solvers.problem import InitialValueProblem
from solvers.solution import RESULTS, SolveError
from solvers.solve import solve
from systems.populations import LotkaVolterra
from systems.stochastic import GeometricBrownianMotion

from .helpers_solvers import DrivenDecay, Failing


METHOD = Tsit5(rtol=1e-8, atol=1e-8)
TIMES = jnp.asarray([1.0, 2.5, 5.0])
PROBLEM = InitialValueProblem(LotkaVolterra(), 0.0, 5.0)
GROWTH = jnp.linspace(0.4, 0.7, 10)
STARTS = jnp.stack([jnp.linspace(20.0, 40.0, 10), jnp.linspace(4.0, 9.0, 10)], axis=1)


@pytest.fixture(scope="module")
def whole():
    return ensemble(
        PROBLEM,
        METHOD,
        parameters={"prey_growth": GROWTH},
        initial_states=STARTS,
        save_at=TIMES,
    )


def test_shapes_and_statuses(whole):
    assert whole.states.shape == (10, 3, 2)
    assert whole.times.shape == (10, 3)
    assert whole.final_state.shape == (10, 2)
    assert whole.statistics["steps"].shape == (10,)
    assert bool(whole.succeeded.all())


def test_equals_single_solves(whole):
    for member in (0, 4, 9):
        system = LotkaVolterra(prey_growth=GROWTH[member])
        problem = InitialValueProblem(system, 0.0, 5.0, STARTS[member])
        single = solve(problem, METHOD, save_at=TIMES)
        assert np.allclose(whole.states[member], single.states, rtol=1e-12)
        assert whole.statistics["steps"][member] == single.statistics["steps"]


@pytest.mark.parametrize("segment", [4, 10, 99])
def test_segments_change_nothing(whole, segment):
    calls = []
    parts = ensemble(
        PROBLEM,
        METHOD,
        parameters={"prey_growth": GROWTH},
        initial_states=STARTS,
        save_at=TIMES,
        segment=segment,
        progress=lambda done, total, unit: calls.append((done, total, unit)),
    )
    expected = [4, 8, 10] if segment == 4 else [10]
    assert calls == [(done, 10, "members") for done in expected]
    assert parts.states.shape == whole.states.shape
    # Another number of lanes is another program, which may round otherwise.
    assert np.allclose(parts.states, whole.states, rtol=1e-12)
    assert np.array_equal(parts.statistics["steps"], whole.statistics["steps"])
    assert bool(np.all(parts.status == whole.status))


def solve_thousand(change=None, throw=False):
    rates = jnp.linspace(0.1, 0.4, 1000)
    if change is not None:
        rates = rates.at[123].set(change)
    problem = InitialValueProblem(Failing(), 0.0, 2.0)
    return ensemble(
        problem, Tsit5(), parameters={"rate": rates}, save_at=[0.5, 2.0], throw=throw
    )


@pytest.fixture(scope="module")
def healthy():
    return solve_thousand()


class TestFailures:
    """One bad member of a thousand."""

    @pytest.mark.parametrize(
        ("rate", "status"),
        [
            (np.nan, RESULTS.nonfinite_start),
            (1e3, RESULTS.step_size_underflow),
            (-np.inf, RESULTS.nonfinite_start),
        ],
    )
    def test_costs_no_other_member_anything(self, healthy, rate, status):
        poisoned = solve_thousand(rate)
        assert bool(healthy.succeeded.all())
        failed = np.flatnonzero(~np.asarray(poisoned.succeeded))
        assert failed.tolist() == [123]
        assert bool(np.all((poisoned.status == status)[123]))
        assert np.isnan(poisoned.states[123, -1]).all()
        others = np.arange(1000) != 123
        assert np.array_equal(poisoned.states[others], healthy.states[others])
        for name, counts in healthy.statistics.items():
            assert np.array_equal(poisoned.statistics[name][others], counts[others])

    def test_thrown_on_request(self):
        words = r"^1 of 1000 solves failed, the first \(member 123\) at time .*: The step size"
        with pytest.raises(SolveError, match=words):
            solve_thousand(1e3, throw=True)


class TestKeys:
    """Each member has a path of its own, which depends on its number alone."""

    problem = InitialValueProblem(GeometricBrownianMotion(), 0.0, 1.0)
    method = Milstein(step=1 / 16)

    def test_member_draws_from_its_folded_key(self, key):
        found = ensemble(
            self.problem,
            self.method,
            key=key,
            members=6,
            save_at=[0.5, 1.0],
            engine="diffrax",
        )
        for member in (0, 5):
            folded = jax.random.fold_in(key, member)
            single = solve(self.problem, self.method, save_at=[0.5, 1.0], key=folded)
            assert np.allclose(found.states[member], single.states, rtol=1e-12)
        assert len(np.unique(found.states[:, -1, 0])) == 6

    def test_paths_do_not_depend_on_the_number_of_members_or_segments(self, key):
        few = ensemble(self.problem, self.method, key=key, members=6, save_at=[0.5, 1.0])
        more = ensemble(
            self.problem, self.method, key=key, members=9, save_at=[0.5, 1.0], segment=6
        )
        assert np.allclose(few.states, more.states[:6], rtol=1e-12)
        assert more.states.shape[0] == 9

    def test_same_key_same_numbers(self, key):
        run = [
            ensemble(self.problem, self.method, key=key, members=6, save_at=[0.5, 1.0]).states
            for _ in range(2)
        ]
        assert np.array_equal(run[0], run[1])

    def test_key_is_asked_for_and_refused(self, key):
        with pytest.raises(ValueError, match=r"needs a `key`"):
            ensemble(self.problem, self.method, members=3)
        with pytest.raises(ValueError, match=r"takes no `key`"):
            ensemble(PROBLEM, METHOD, members=3, key=key)


class TestBadInput:
    """Sizes and names that cannot be are refused before anything is solved."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({}, r"give `members`"),
            ({"members": 0}, "no members"),
            ({"members": 3, "segment": 0}, r"`segment` is 0"),
            ({"members": 3, "segment": -2}, r"`segment` is -2"),
            (
                {"parameters": {"prey_growth": GROWTH}, "members": 3},
                r"disagree \(parameters\['prey_growth'\]: 10, members: 3\)",
            ),
            (
                {"parameters": {"prey_growth": GROWTH}, "initial_states": STARTS[:4]},
                "prey_growth'.: 10, initial_states: 4",
            ),
            ({"parameters": {"prey_growth": 0.5}}, r"prey_growth'\]: none"),
            ({"initial_states": jnp.ones((3, 5))}, r"\(3, 5\), expected \(members, 2\)"),
            ({"initial_states": jnp.ones(2)}, r"shape \(2,\), expected \(members, 2\)"),
            ({"members": 3, "save_at": [9.0]}, "outside the span"),
        ],
    )
    def test_sizes(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            ensemble(PROBLEM, METHOD, **arguments)

    def test_unknown_parameter(self):
        with pytest.raises(KeyError, match="no parameter 'wolves'"):
            ensemble(PROBLEM, METHOD, parameters={"wolves": GROWTH})

    def test_method_and_gradient(self, key):
        with pytest.raises(ValueError, match="use for example Tsit5"):
            ensemble(PROBLEM, Milstein(), members=3)
        stochastic = InitialValueProblem(GeometricBrownianMotion(), 0.0, 1.0)
        with pytest.raises(ValueError, match="Backsolve cannot"):
            ensemble(stochastic, Milstein(), members=3, key=key, gradient=Backsolve())


def test_derivatives_of_an_ensemble():
    # The mean over members with different rates, by a common input: known by hand.
    rates = jnp.asarray([0.5, 1.0, 2.0])

    def mean(feed, gradient):
        problem = InitialValueProblem(DrivenDecay(), 0.0, 1.0, inputs={"feed": feed})
        found = ensemble(
            problem, Tsit5(rtol=1e-9, atol=1e-9), parameters={"rate": rates}, gradient=gradient
        )
        return jnp.mean(found.states[:, -1, 0])

    exact = jnp.mean(-jnp.expm1(-rates) / rates)
    feed = jnp.asarray(0.3)
    found = jax.jit(lambda x: jax.grad(mean)(x, Checkpointed()))(feed)
    assert np.isclose(found, exact, rtol=1e-7)
    with pytest.raises(TypeError, match=r"^Checkpointed\(\) gives first"):
        jax.jacfwd(mean)(feed, Checkpointed())


def test_compiled_once():
    traces = []

    class Counting(LotkaVolterra):
        def vector_field(self, t, y, inputs):
            traces.append(1)
            return LotkaVolterra.vector_field(self, t, y, inputs)

    problem = InitialValueProblem(Counting(), 0.0, 1.0)

    def run(growth):
        ensemble(problem, Tsit5(), parameters={"prey_growth": growth}, segment=2)

    run(jnp.linspace(0.4, 0.5, 5))
    count = len(traces)
    run(jnp.linspace(0.6, 0.9, 5))
    run(jnp.linspace(0.6, 0.9, 7))  # segments have one shape, whatever the total
    assert len(traces) == count
