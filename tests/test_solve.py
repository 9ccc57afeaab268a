"""Known answers, reference solutions, statuses and errors of `solve`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from solvers.gradients import Backsolve, Forward
from solvers.integrators.deterministic import Bosh3, Dopri5, Dopri8, Euler, Midpoint, Tsit5
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
from solvers.solution import RESULTS, SolveError, describe_status, status_names
from solvers.solve import solve
from systems.chaos import Lorenz63
from systems.oscillators import HarmonicOscillator, VanDerPol
from systems.populations import LotkaVolterra
from systems.stochastic import GeometricBrownianMotion

from .helpers_solvers import (
    START,
    VALUES,
    DrivenDecay,
    Failing,
    Hires,
    KnownAnswers,
    Oregonator,
    Pleiades,
    Robertson,
    Rotation,
    StratonovichGrowth,
    Wiener,
    exact_answers,
    known_problem,
    reference,
)


TIMES = jnp.linspace(0.1, 2.0, 20)

# Methods with a tolerance, and the largest multiple of it that the error may reach.
KNOWN = [
    (Midpoint(rtol=1e-4, atol=1e-4), 10),
    (Bosh3(rtol=1e-5, atol=1e-5), 20),
    (Tsit5(rtol=1e-7, atol=1e-7), 10),
    (Dopri5(rtol=1e-7, atol=1e-7), 10),
    (Dopri8(rtol=1e-9, atol=1e-9), 10),
    (ImplicitEuler(rtol=1e-3, atol=1e-3), 200),
    (Kvaerno3(rtol=1e-5, atol=1e-5), 10),
    (Kvaerno4(rtol=1e-6, atol=1e-6), 10),
    (Kvaerno5(rtol=1e-7, atol=1e-7), 100),
]


def exact_states(values, start):
    return jax.vmap(lambda t: exact_answers(values, start, t))(TIMES)


@pytest.mark.parametrize(
    ("method", "factor"), KNOWN, ids=[type(method).__name__ for method, _ in KNOWN]
)
def test_known_states(method, factor):
    solution = solve(known_problem(), method, save_at=TIMES, gradient=Forward())
    error = np.abs(solution.states - exact_states(VALUES, START)).max()
    assert error < factor * method.rtol
    # An error far below the tolerance is paid for with steps that nobody asked for.
    assert error > method.rtol / 100 or method.steps_on_saves


@pytest.mark.parametrize(
    "method", [Tsit5(rtol=1e-8, atol=1e-8), Kvaerno5(rtol=1e-8, atol=1e-8)]
)
def test_known_gradients(method):
    def states(values, start):
        problem = known_problem(values, start)
        return solve(problem, method, save_at=TIMES, gradient=Forward(), throw=False).states

    found = jax.jit(jax.jacfwd(states, argnums=(0, 1)))(VALUES, START)
    expected = jax.jacfwd(exact_states, argnums=(0, 1))(VALUES, START)
    for gradient, exact in zip(found, expected, strict=True):
        assert np.abs(gradient - exact).max() < 1e-6


def test_error_follows_the_tolerance():
    tolerances = np.array([1e-4, 1e-6, 1e-8, 1e-10])
    solve_at = jax.jit(
        jax.vmap(lambda tol: solve(known_problem(), Tsit5(rtol=tol, atol=tol)).states[-1])
    )
    exact = exact_answers(VALUES, START, 2.0)
    errors = np.abs(np.asarray(solve_at(tolerances)) - np.asarray(exact)).max(axis=1)
    assert np.all(errors < 10 * tolerances)
    assert np.all(errors[1:] < errors[:-1] / 20)


@pytest.mark.parametrize(
    ("name", "system", "method", "atol", "factor"),
    [
        ("rober", Robertson(), Kvaerno5, 1e-15, 20),
        ("hires", Hires(), Kvaerno5, 1e-11, 20),
        ("orego", Oregonator(), Kvaerno5, 1e-10, 100),
        ("vdpol", VanDerPol(damping=1000.0), Kvaerno5, 1e-10, 50),
        ("pleiades", Pleiades(), Dopri8, 1e-7, 500),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_references_of_the_bari_test_set(name, system, method, atol, factor):
    stop, start, expected = reference(name)
    problem = InitialValueProblem(system, 0.0, stop, start)
    solution = solve(problem, method(rtol=1e-7, atol=atol, max_steps=100_000))
    error = np.abs(np.asarray(solution.states[-1]) - expected) / np.abs(expected)
    assert error.max() < factor * 1e-7


@pytest.mark.parametrize("rtol", [1e-4, 1e-10])
def test_implicit_steps_are_not_wasted(rtol):
    # An iteration that stops too early, or asks for more than rounding gives, shows as
    # rejected steps: thousands of them, or a solve that never ends.
    stop, start, expected = reference("orego")
    problem = InitialValueProblem(Oregonator(), 0.0, stop, start)
    method = Kvaerno5(rtol=jnp.asarray(rtol), atol=jnp.asarray(rtol / 1000))  # pyright: ignore
    solution = solve(problem, method)
    assert np.abs(np.asarray(solution.states[-1]) / expected - 1).max() < 100 * rtol
    assert solution.statistics["rejected_steps"] < solution.statistics["accepted_steps"]
    assert solution.statistics["steps"] < 600 * (1e-4 / rtol) ** (1 / 5) * 1.2


def test_saved_times_do_not_lower_the_order():
    # Kvaerno5 would interpolate by a cubic over steps much longer than these times.
    times = jnp.linspace(0.0, 10.0, 41)[1:]
    solution = solve(
        InitialValueProblem(DrivenDecay(), 0.0, 10.0),
        Kvaerno5(rtol=1e-8, atol=1e-8),
        save_at=times,
    )
    assert np.abs(solution.states[:, 0] - np.exp(-times)).max() < 1e-8


def test_lorenz_against_scipy():
    def rate(t, y):
        del t
        return [10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]

    times = np.linspace(0.5, 5.0, 10)
    expected = solve_ivp(
        rate, (0, 5), [1.0, 1.0, 1.0], "DOP853", times, rtol=1e-12, atol=1e-12
    ).y.T
    problem = InitialValueProblem(Lorenz63(), 0.0, 5.0)
    solution = solve(problem, Dopri8(rtol=1e-10, atol=1e-10), save_at=times)
    assert np.abs(solution.states - expected).max() < 1e-5


def test_dense_output_agrees_with_saved_times():
    problem = known_problem()
    saved = solve(problem, Tsit5(), save_at=TIMES)
    dense = solve(problem, Tsit5(), dense=True)
    assert np.allclose(jax.vmap(dense.evaluate)(TIMES), saved.states, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="dense=True"):
        saved.evaluate(jnp.asarray(1.0))


def test_default_saves_the_stop_alone():
    solution = solve(known_problem(), Tsit5())
    assert solution.times.tolist() == [2.0]
    assert solution.states.shape == (1, 4)
    assert np.allclose(solution.states[0], solution.final_state, rtol=0, atol=1e-13)
    assert solution.final_time == 2.0
    assert solution.interpolation is None
    assert bool(solution.succeeded)


def test_backwards_in_time():
    end = exact_answers(VALUES, START, 2.0)
    back = InitialValueProblem(KnownAnswers(), 2.0, 0.0, end)
    found = solve(back, Tsit5(rtol=1e-9, atol=1e-9), save_at=[1.5, 0.0]).states
    assert np.allclose(found[-1], START, rtol=0, atol=1e-7)
    assert np.allclose(found[0], exact_answers(VALUES, START, 1.5), rtol=0, atol=1e-7)


def test_inputs_and_named_states():
    problem = InitialValueProblem(
        DrivenDecay(rate=2.0), 0.0, 1.0, {"amount": 3.0}, {"feed": 4.0}
    )
    found = solve(problem, Tsit5(rtol=1e-9, atol=1e-9)).states[-1, 0]
    assert abs(found - (2 + np.exp(-2.0))) < 1e-8


class TestStatuses:
    """How a solve fails, as a value and as a sentence."""

    times = (0.25, 1.5)

    @pytest.mark.parametrize("method", [Tsit5(), Kvaerno5(), ImplicitEuler(rtol=1e-3)])
    @pytest.mark.parametrize(
        ("system", "time"),
        [(Failing(), 1.0), (Failing(when=0.5), 0.5)],
        ids=["blows up", "NaN"],
    )
    def test_time_can_no_longer_advance(self, method, system, time):
        problem = InitialValueProblem(system, 0.0, 2.0)
        solution = solve(problem, method, save_at=self.times, throw=False)
        assert solution.status == RESULTS.step_size_underflow
        assert not bool(solution.succeeded)
        assert solution.final_time == pytest.approx(time, abs=0.05)
        assert np.isfinite(solution.states[0]).all()
        assert np.isnan(solution.states[1]).all()
        assert solution.statistics["steps"] < 10_000
        with pytest.raises(SolveError, match=r"At time .*: The step size fell below"):
            solve(problem, method, save_at=self.times)

    @pytest.mark.parametrize(
        ("system", "method", "stop"),
        [
            (Failing(rate=100.0), Euler(), 2.0),
            (HarmonicOscillator(), StormerVerlet(step=3.0), 3000.0),  # unstable beyond two
        ],
    )
    def test_constant_steps_lose_the_state(self, system, method, stop):
        problem = InitialValueProblem(system, 0.0, stop)
        solution = solve(problem, method, throw=False)
        assert solution.status == RESULTS.nonfinite_state
        with pytest.raises(SolveError, match=r"Decrease `step`"):
            solve(problem, method)

    @pytest.mark.parametrize("method", [Tsit5(), Kvaerno5()])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_start_is_no_number(self, method, bad):
        for problem in (
            InitialValueProblem(Failing(), 0.0, 2.0, [bad]),
            InitialValueProblem(Failing(rate=jnp.asarray(bad)), 0.0, 2.0),
        ):
            found = solve(problem, method, save_at=self.times, throw=False)
            assert found.status == RESULTS.nonfinite_start
            with pytest.raises(SolveError, match="are not finite numbers"):
                solve(problem, method, save_at=self.times)

    def test_start_of_a_stochastic_problem_is_no_number(self, key):
        problem = InitialValueProblem(GeometricBrownianMotion(), 0.0, 1.0, [np.nan])
        with pytest.raises(SolveError, match="are not finite numbers"):
            solve(problem, Milstein(), key=key)

    def test_nothing_is_raised_under_jit(self):
        @jax.jit
        def run(stop):
            return solve(InitialValueProblem(Failing(), 0.0, stop), Tsit5())

        assert run(2.0).status == RESULTS.step_size_underflow
        assert np.isnan(run(2.0).states).all()
        assert run(0.5).status == RESULTS.successful
        assert run(np.nan).status == RESULTS.nonfinite_start

    def test_too_many_steps(self):
        problem, method = known_problem(), Tsit5(max_steps=3)
        solution = solve(problem, method, throw=False)
        assert solution.status == RESULTS.max_steps_reached
        assert solution.statistics["steps"] == 3
        with pytest.raises(SolveError, match=r"Try increasing `max_steps`"):
            solve(problem, method)

    def test_every_status_has_a_name_and_a_sentence(self):
        names = status_names()
        assert names[0] == "successful"
        assert len(set(names)) == len(names) > 4
        for index, name in enumerate(names):
            assert getattr(RESULTS, name)._value == index
            assert name == "successful" or len(describe_status(name)) > 20


class TestMismatches:
    """A method that would not converge to the solution is refused, with those that do."""

    @pytest.mark.parametrize(
        ("system", "method", "words"),
        [
            (
                LotkaVolterra(),
                EulerMaruyama(),
                "LotkaVolterra has no noise; .* Tsit5, or Kvaerno5",
            ),
            (LotkaVolterra(), StormerVerlet(), "for Hamiltonian systems and LotkaVolterra"),
            (
                GeometricBrownianMotion(),
                Tsit5(),
                "stochastic .Ito.; use EulerMaruyama or Milstein",
            ),
            (GeometricBrownianMotion(), StratonovichHeun(), "Ito calculus; use EulerMaruyama"),
            (GeometricBrownianMotion(), ShARK(), "is diagonal; use EulerMaruyama or Milstein"),
            (StratonovichGrowth(), EulerMaruyama(), "use StratonovichHeun or StratonovichMil"),
            (StratonovichGrowth(), Milstein(), "use StratonovichHeun or StratonovichMilstein"),
            (Rotation(), Milstein(), "diagonal or additive noise .* use EulerMaruyama"),
        ],
    )
    def test_refused(self, system, method, words, key):
        problem = InitialValueProblem(system, 0.0, 1.0)
        with pytest.raises(ValueError, match=words):
            solve(problem, method, key=key)

    @pytest.mark.parametrize(
        "method",
        [EulerMaruyama(), StratonovichHeun(), Milstein(), StratonovichMilstein(), ShARK()],
    )
    def test_additive_noise_suits_every_calculus(self, method, key):
        # Constant drift and noise: every method gives the Wiener path itself. ShARK
        # draws more of it, and so another one.
        found = solve(InitialValueProblem(Wiener(), 0.0, 1.0), method, key=key).states[-1, 0]
        path = solve(InitialValueProblem(Wiener(), 0.0, 1.0), EulerMaruyama(), key=key)
        assert np.isfinite(found)
        assert isinstance(method, ShARK) or abs(found - path.states[-1, 0]) < 1e-12

    def test_keys(self, key):
        stochastic = InitialValueProblem(GeometricBrownianMotion(), 0.0, 1.0)
        with pytest.raises(ValueError, match=r"needs a `key`"):
            solve(stochastic, Milstein())
        with pytest.raises(ValueError, match=r"takes no `key`"):
            solve(known_problem(), Tsit5(), key=key)

    def test_gradients(self, key):
        stochastic = InitialValueProblem(GeometricBrownianMotion(), 0.0, 1.0)
        with pytest.raises(ValueError, match=r"use Checkpointed\(\) or Forward\(\)"):
            solve(stochastic, Milstein(), gradient=Backsolve(), key=key)
        oscillator = InitialValueProblem(HarmonicOscillator(), 0.0, 1.0)
        with pytest.raises(ValueError, match=r"use Checkpointed\(\) or Forward\(\)"):
            solve(oscillator, StormerVerlet(), gradient=Backsolve())


class TestBadInput:
    """Values without meaning are refused in one sentence."""

    @pytest.mark.parametrize(
        ("save_at", "words"),
        [
            ([1.0, 3.0], "the time 3, outside the span from 0 to 2"),
            ([-1.0, 1.0], "the time -1, outside"),
            ([np.nan], "the time nan, outside"),
            ([1.0, 0.5], "not in order"),
            ([], r"shape \(0,\)"),
            (1.0, r"shape \(\)"),
        ],
    )
    def test_saved_times(self, save_at, words):
        with pytest.raises(ValueError, match=words):
            solve(known_problem(), Tsit5(), save_at=save_at)

    def test_span(self, key):
        with pytest.raises(ValueError, match="from 0 to nan, expected finite"):
            solve(known_problem(stop=np.nan), Tsit5())
        backwards = InitialValueProblem(GeometricBrownianMotion(), 1.0, 0.0)
        with pytest.raises(ValueError, match="runs forwards"):
            solve(backwards, Milstein(), key=key)

    @pytest.mark.parametrize(
        ("build", "words"),
        [
            (lambda: Tsit5(step=0.0), "Tsit5: `step` is 0.0, expected a number above 0"),
            (lambda: Tsit5(step=-1.0), "`step` is -1.0"),
            (lambda: Tsit5(rtol=-1e-3), "`rtol` is -0.001, expected a number of at least 0"),
            (lambda: Tsit5(rtol=0, atol=0), "both 0"),
            (lambda: Kvaerno5(atol=np.nan), "`atol` is nan"),
            (lambda: Tsit5(max_steps=0), "`max_steps` is 0"),
            (lambda: StormerVerlet(step=-0.1), "StormerVerlet: `step` is -0.1"),
            (lambda: EulerMaruyama(step=0.1, path_resolution=0.2), "below the step 0.1"),
        ],
    )
    def test_options(self, build, words):
        with pytest.raises(ValueError, match=words):
            build()

    def test_problem(self):
        with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\) for \['prey'"):
            InitialValueProblem(LotkaVolterra(), 0.0, 1.0, [1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="no state 'wolf'; it has"):
            InitialValueProblem(LotkaVolterra(), 0.0, 1.0, {"wolf": 1.0})
        with pytest.raises(ValueError, match="no input 'dose'"):
            InitialValueProblem(LotkaVolterra(), 0.0, 1.0, inputs={"dose": 1.0})


def test_compiled_once():
    traces = []

    class Counting(LotkaVolterra):
        def vector_field(self, t, y, inputs):
            traces.append(1)
            return LotkaVolterra.vector_field(self, t, y, inputs)

    def run(growth, start, stop, method):
        problem = InitialValueProblem(Counting(prey_growth=growth), 0.0, stop, start)
        return solve(problem, method, save_at=[stop / 2, stop]).states

    first = run(0.5, [30.0, 4.0], 10.0, Tsit5())
    count = len(traces)
    assert count > 0
    second = run(0.6, [20.0, 5.0], 12.0, Tsit5())
    assert len(traces) == count
    assert not np.allclose(first, second)
    run(0.6, [20.0, 5.0], 12.0, Tsit5(rtol=1e-5))  # another program, as options are static
    assert len(traces) > count


class TestStormerVerlet:
    """What a symplectic method is for."""

    oscillator = HarmonicOscillator(mass=2.0, stiffness=3.0)

    def test_energy_does_not_drift(self):
        step = 0.1
        times = jnp.linspace(0.0, 10_000 * step, 5001)[1:]
        problem = InitialValueProblem(self.oscillator, 0.0, 10_000 * step, [1.0, 0.5])
        solution = solve(problem, StormerVerlet(step=step), save_at=times)
        assert solution.statistics["steps"] == 10_000
        energy = jax.vmap(self.oscillator.energy)(solution.states)
        start = self.oscillator.energy(problem.initial_state)
        error = np.asarray(energy / start - 1)
        # The error swings by (step * frequency)**2 / 4 at most and is the same in the
        # first and in the last tenth of the run.
        assert np.abs(error).max() < (step**2 * 1.5) / 3
        assert np.abs(error).max() > (step**2 * 1.5) / 40
        assert abs(error[:500].max() - error[-500:].max()) < 0.01 * np.abs(error).max()
        slope = np.polyfit(np.asarray(times), error, 1)[0]
        assert abs(slope * 1000) < 0.01 * np.abs(error).max()

    def test_time_is_reversible(self):
        method = StormerVerlet(step=0.125)
        there = InitialValueProblem(self.oscillator, 0.0, 100.0, [1.0, 0.5])
        end = solve(there, method).final_state
        turned = end * jnp.asarray([1.0, -1.0])
        back = solve(InitialValueProblem(self.oscillator, 0.0, 100.0, turned), method)
        assert np.allclose(back.final_state, [1.0, -0.5], rtol=0, atol=1e-11)

    def test_phase_space_volume_is_kept(self):
        def flow(start):
            problem = InitialValueProblem(self.oscillator, 0.0, 10.0, start)
            return solve(problem, StormerVerlet(step=0.5), gradient=Forward()).final_state

        jacobian = jax.jacfwd(flow)(jnp.asarray([1.0, 0.5]))
        assert abs(jnp.linalg.det(jacobian) - 1) < 1e-12

    def test_states_between_steps(self):
        problem = InitialValueProblem(self.oscillator, 0.0, 5.0, [1.0, 0.5])
        coarse = solve(problem, StormerVerlet(step=0.01), save_at=[1.0, 1.005, 5.0])
        frequency = np.sqrt(1.5)
        exact = np.cos(frequency * coarse.times) + 0.5 / 2 / frequency * np.sin(
            frequency * coarse.times
        )
        assert np.abs(coarse.states[:, 0] - exact).max() < 1e-4
