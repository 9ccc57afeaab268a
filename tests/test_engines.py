"""The engines of ensembles: one meaning, the same derivatives, failures that stay alone."""

import importlib.util

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble import sensitivities
from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.members import ensemble
from solvers.ensemble.together import solve_alone
from solvers.gradients import Checkpointed, Forward
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.stiff import Kvaerno5
from solvers.problem import InitialValueProblem
from solvers.solution import status_names
from systems.populations import LotkaVolterra


needs_llvm = pytest.mark.skipif(
    importlib.util.find_spec("llvmlite") is None, reason="llvmlite is not installed"
)
ENGINES = ["lanes", pytest.param("native", marks=needs_llvm)]
METHOD = Tsit5(rtol=1e-9, atol=1e-9, max_steps=512)
TIMES = jnp.asarray([1.0, 2.5, 4.0])
GROWTH = jnp.linspace(0.4, 0.7, 5)
STARTS = jnp.stack([jnp.linspace(20.0, 40.0, 5), jnp.linspace(4.0, 9.0, 5)], axis=1)


def solved(engine, growth=GROWTH, starts=STARTS, predation=0.028, times=TIMES, **options):
    problem = InitialValueProblem(LotkaVolterra(predation=predation), 0.0, times[-1])
    return ensemble(
        problem,
        METHOD,
        parameters={"prey_growth": growth},
        initial_states=starts,
        save_at=times,
        engine=engine,
        **options,
    )


def loss(engine, growth, starts, predation):
    """A scalar of what varies and of what all members share."""
    states = solved(engine, growth, starts, predation).states
    return jnp.sum(jnp.log(states) ** 2)


@pytest.fixture(scope="module")
def reference():
    """Values and gradients by diffrax."""
    arguments = (GROWTH, STARTS, jnp.asarray(0.028))
    gradient = jax.jit(jax.grad(lambda *a: loss("diffrax", *a), (0, 1, 2)))(*arguments)
    return solved("diffrax"), gradient


@pytest.mark.parametrize("engine", ENGINES)
def test_same_steps_and_states(engine, reference):
    found = solved(engine)
    assert found.engine == engine
    assert np.allclose(found.states, reference[0].states, rtol=1e-10)
    for name, count in reference[0].statistics.items():
        assert np.array_equal(found.statistics[name], count)
    assert bool(found.succeeded.all())


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_both_modes(engine, reference):
    arguments = (GROWTH, STARTS, jnp.asarray(0.028))
    function = lambda *a: loss(engine, *a)  # noqa: E731
    reverse = jax.jit(jax.grad(function, (0, 1, 2)))(*arguments)
    forward = jax.jit(jax.jacfwd(function, 2))(*arguments)
    for ours, theirs in zip(reverse, reference[1], strict=True):
        assert np.allclose(ours, theirs, rtol=1e-7, atol=1e-7 * float(jnp.max(jnp.abs(theirs))))
    assert np.isclose(forward, reverse[2], rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_second_order(engine):
    at = jnp.asarray(0.028)
    function = lambda p: loss(engine, GROWTH, STARTS, p)  # noqa: E731
    gradient = jax.jit(jax.grad(function))
    found = jax.jit(jax.hessian(function))(at)
    step = 1e-6
    differences = (gradient(at + step) - gradient(at - step)) / (2 * step)
    assert np.isclose(found, differences, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_derivatives_by_times(engine):
    def last(start, stop):
        problem = InitialValueProblem(LotkaVolterra(), start, stop)
        found = ensemble(
            problem,
            METHOD,
            initial_states=STARTS,
            save_at=jnp.stack([0.5 * (start + stop), stop]),
            engine=engine,
        )
        return found.states

    at = (jnp.asarray(0.0), jnp.asarray(3.0))
    for place in (0, 1):
        step = 1e-4 * np.eye(2)[place]
        slope = jax.jit(jax.jacfwd(last, place))(*at)
        up, down = (last(*(a + s * d for a, d in zip(at, step, strict=True))) for s in (1, -1))
        assert np.allclose(slope, (up - down) / 2e-4, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_failed_member_spoils_no_gradient(engine):
    starts = STARTS.at[2, 0].set(jnp.nan)

    def function(predation):
        found = solved(engine, starts=starts, predation=predation)
        good = found.succeeded[:, None, None]
        return jnp.sum(jnp.where(good, jnp.log(jnp.where(good, found.states, 1.0)), 0.0))

    found = solved(engine, starts=starts)
    assert np.array_equal(found.succeeded, [True, True, False, True, True])
    assert status_names()[int(found.status._value[2])] == "nonfinite_start"
    assert np.isfinite(jax.jit(jax.grad(function))(jnp.asarray(0.028)))


def test_too_many_sensitivities_follow_the_reference(monkeypatch, reference):
    monkeypatch.setattr(sensitivities, "MOST_STATES", 3)
    arguments = (GROWTH, STARTS, jnp.asarray(0.028))
    found = jax.jit(jax.grad(lambda *a: loss("lanes", *a), (0, 1, 2)))(*arguments)
    for ours, theirs in zip(found, reference[1], strict=True):
        assert np.allclose(ours, theirs, rtol=1e-9)


def test_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="`engine` is 'fast', expected one of 'auto'"):
        solved("fast")


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_that_cannot_serve_says_why(engine):
    problem = InitialValueProblem(LotkaVolterra(), 0.0, 1.0)
    with pytest.raises(EngineRefusal, match=f"engine='{engine}' cannot serve: .*Kvaerno5"):
        ensemble(problem, Kvaerno5(), initial_states=STARTS, engine=engine)
    with pytest.raises(EngineRefusal, match=r"Checkpointed\(\) is a way of diffrax"):
        solved(engine, gradient=Checkpointed())


def test_auto_says_what_it_took_and_why():
    problem = InitialValueProblem(LotkaVolterra(), 0.0, 1.0)
    left = ensemble(problem, Kvaerno5(), initial_states=STARTS)
    assert left.engine == "diffrax"
    assert "Kvaerno5" in left.engine_reason
    taken = solved("auto")
    assert taken.engine in ("lanes", "native")
    assert taken.engine_reason


@pytest.mark.parametrize("engine", ENGINES)
def test_mapping_makes_more_members(engine):
    """Over what varies, over what is shared, over tolerances, over two at once."""
    predation, growth = jnp.asarray([0.024, 0.028, 0.031]), jnp.stack([GROWTH, 1.1 * GROWTH])

    def final(growth, predation, rtol):
        method = Tsit5(rtol=rtol, atol=1e-9, max_steps=512)
        problem = InitialValueProblem(LotkaVolterra(predation=predation), 0.0, TIMES[-1])
        varied = {"prey_growth": growth}
        return ensemble(problem, method, parameters=varied, save_at=TIMES, engine=engine).states

    over = jax.vmap(jax.vmap(final, (None, 0, None)), (0, None, None))
    found = jax.jit(over)(growth, predation, 1e-9)
    assert found.shape == (2, 3, 5, 3, 2)
    one = jax.jit(final)
    for i in range(2):
        for j in range(3):
            expected = one(growth[i], predation[j], 1e-9)
            assert np.allclose(found[i, j], expected, rtol=1e-13)
    tolerances = jnp.asarray([1e-3, 1e-9])
    found = jax.vmap(final, (None, None, 0))(GROWTH, predation[0], tolerances)
    assert np.allclose(found[1], one(GROWTH, predation[0], 1e-9), rtol=1e-13)
    assert np.allclose(found[0], one(GROWTH, predation[0], 1e-3), rtol=1e-13)
    assert not np.allclose(found[0], found[1], rtol=1e-9)


@needs_llvm
def test_a_single_solve_by_engines():
    """`solve_alone`: the kernel where there is one, else diffrax, and never few lanes."""
    method = {"tsit5": METHOD, "stiff": Kvaerno5(rtol=1e-9, atol=1e-9)}

    def final(growth, name):
        problem = InitialValueProblem(LotkaVolterra(), 0.0, TIMES[-1], None, None)
        problem = eqx.tree_at(lambda p: p.system.prey_growth, problem, growth)
        moves = jax.tree.map(lambda _: False, problem)
        moves = eqx.tree_at(lambda p: p.system.prey_growth, moves, True)
        return solve_alone(problem, moves, method[name], TIMES, Forward(), "auto")

    for name, engine in (("tsit5", "native"), ("stiff", "diffrax")):
        one = final(jnp.asarray(0.5), name)
        assert one.engine == engine
        assert one.states.shape == (3, 2)
        mapped = jax.vmap(lambda g, name=name: final(g, name).states)(GROWTH)
        assert np.allclose(mapped[2], final(GROWTH[2], name).states, rtol=1e-12)
    assert "Not native" in one.engine_reason
    assert "many members" in one.engine_reason
