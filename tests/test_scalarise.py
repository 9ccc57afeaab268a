"""Functions of JAX as straight-line programs, against JAX itself."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree

from solvers.ensemble.scalarise import constants
from solvers.ensemble.scalarise.evaluate import evaluate
from solvers.ensemble.scalarise.linear import linear_solver
from solvers.ensemble.scalarise.program import OPERATIONS, Program
from solvers.ensemble.scalarise.refusal import NotScalarisable
from solvers.ensemble.scalarise.walk import scalarise
from systems.base import AbstractSDE, complete_inputs

from .test_systems import EXAMPLES, typical_state


def run(program: Program, *arguments: Any) -> np.ndarray:
    """The outputs of a program for one set of arguments, by NumPy."""
    flat = [np.float64(x) for argument in arguments for x in np.ravel(argument)]
    with np.errstate(all="ignore"):
        return np.array(evaluate(program, flat, np), float)


def test_the_gamma_functions_logarithm_at_its_ends():
    x = np.array([1e300, 2.5e305, 2.6e305, 1.7e308, np.inf, 0.0, -2.0, -0.5])
    with np.errstate(over="ignore"):
        found = evaluate(scalarise(jax.scipy.special.gammaln, ()), [x], np)[0]
    np.testing.assert_allclose(found, jax.lax.lgamma(jnp.asarray(x)), rtol=1e-13)
    assert constants.fold("lgamma", (1e306,)) == np.inf


def check(function: Any, *arguments: Any, rtol: float = 1e-13) -> Program:
    """Compare the program of a function with the function itself."""
    program = scalarise(function, *(np.shape(argument) for argument in arguments))
    compiled = jax.jit(
        lambda *x: function(*x), compiler_options={"xla_backend_optimization_level": 0}
    )
    expected = compiled(*(jnp.asarray(argument, float) for argument in arguments))
    expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(expected)])
    expected = expected.astype(float)
    found = run(program, *arguments)
    scale = np.max(np.abs(expected), initial=1e-300, where=np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * scale)
    return program


X = np.array([0.3, -1.2, 0.7])

EACH: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda x: (x + 2 * x**2 - x / 3, -x, abs(x), x % 0.4, jnp.fmod(x, 0.4)),
    "powers": lambda x: (x**3, x**-2, abs(x) ** 0.5, abs(x) ** 1.7, 1.3**x, jnp.exp2(x)),
    "roots": lambda x: (jnp.sqrt(x * x + 1), jnp.cbrt(x), jax.lax.rsqrt(x * x)),
    "exponentials": lambda x: (jnp.exp(x), jnp.expm1(x), jnp.log(abs(x)), jnp.log1p(x * x)),
    "other bases": lambda x: (jnp.log2(abs(x)), jnp.log10(abs(x)), jnp.logaddexp(x, 0.2)),
    "circular": lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.arctan(x)),
    "inverse": lambda x: (jnp.arcsin(x / 2), jnp.arccos(x / 2), jnp.arctan2(x, x[0])),
    "hyperbolic": lambda x: (jnp.sinh(x), jnp.cosh(x), jnp.tanh(x), jnp.arcsinh(x)),
    "inverse hyperbolic": lambda x: (jnp.arccosh(1.5 + x * x), jnp.arctanh(x / 2)),
    "special": lambda x: (jax.scipy.special.erf(x), jax.scipy.special.erfc(x)),
    "gamma": lambda x: jax.scipy.special.gammaln(x + 2.1),
    "steps": lambda x: (jnp.floor(3 * x), jnp.ceil(3 * x), jnp.round(5 * x), jnp.sign(x)),
    "away from zero": lambda x: jax.lax.round(5 * x + 0.5),
    "truths": lambda x: (x < 0.1, (x >= 0) ^ (x != 0.7), ~(x <= 0.3) & jnp.isfinite(x)),
    "choices": lambda x: (jnp.where((x > 0) | (x == -1.2), x, x**2), jnp.clip(x, -0.5, 0.5)),
    "extrema": lambda x: (jnp.maximum(x, 0.1), jnp.minimum(x, x[0]), x.max(), x.min()),
    "sums": lambda x: (x.sum(), x.prod(), x.mean(), jnp.cumsum(x), jnp.cumprod(x[::-1])),
    "running extrema": lambda x: (jax.lax.cummax(x), jax.lax.cummin(x, reverse=True)),
    "all and any": lambda x: ((x > 0).any(), (x > 0).all(), (x > 0).sum()),
    "activations": lambda x: (jax.nn.softplus(x), jax.nn.gelu(x), jax.nn.sigmoid(x)),
    "contractions": lambda x: (
        jnp.arange(6.0).reshape(2, 3) @ x,
        jnp.outer(x, x),
        jnp.einsum("i,ijk,k->j", x, jnp.arange(27.0).reshape(3, 3, 3), x),
    ),
    "movement": lambda x: (
        jnp.roll(x, 1),
        jnp.concatenate([x, jnp.ones(2)])[::-1],
        jnp.pad(x, (1, 2), constant_values=4.0),
        jnp.tile(x, 2)[1:5:2],
        jnp.stack([x, 2 * x], axis=1).T,
        jnp.split(x, [1]),
        jnp.repeat(x, 2),
        jax.lax.pad(x, 0.5, [(-1, 2, 1)]),
    ),
    "indices": lambda x: (
        x[jnp.array([2, 0, 2])],
        x.at[1].set(5.0),
        x.at[jnp.array([0, 0, 2])].add(x),
        x.at[jnp.array([0, 9])].multiply(3.0),
        x.at[0].min(-2.0),
        x.at[jnp.array([7, 1])].get(mode="fill", fill_value=3.0),
        jax.lax.dynamic_slice(x, (5,), (2,)),
        jax.lax.dynamic_update_slice(x, x[:1], (2,)),
    ),
    "whole numbers": lambda x: (jnp.trunc(2 * x).astype(int) * 2 + 1, (x > 0).astype(int)),
    "constants": lambda x: x * jnp.sort(jnp.array([3.0, 1.0, 2.0])) + jnp.argmax(jnp.ones(3)),
    "drawn constants": lambda x: x + jax.random.normal(jax.random.key(3), (3,)),
    "cond": lambda x: jax.lax.cond(x[0] > 0.2, lambda: x**2, lambda: -x),
    "known cond": lambda x: jax.lax.cond(jnp.array(False), lambda: x**2, lambda: -x),
    "switch": lambda x: jax.lax.switch(
        jnp.floor(3 * x[2]).astype(int), [lambda: x, lambda: 2 * x, lambda: 3 * x]
    ),
    "scan": lambda x: jax.lax.scan(lambda c, z: (c * 0.5 + z, c - z), x[0], x, reverse=True),
    "loop": lambda x: jax.lax.fori_loop(0, 4, lambda i, c: c * x + i, jnp.ones(3)),
    "known while": lambda x: jax.lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x)
    ),
    "calls": lambda x: jax.jit(jax.checkpoint(lambda z: jax.nn.relu(z) + jax.nn.silu(z)))(x),
}


# Of what has no derivative, and of the gamma function, whose derivative is no operation.
NOT_DIFFERENTIATED = ("truths", "all and any", "whole numbers", "gamma")


@pytest.mark.parametrize("name", EACH)
def test_each_kind_of_operation_and_its_jacobian(name):
    check(EACH[name], X)
    if name not in NOT_DIFFERENTIATED:
        check(lambda x: jax.tree.leaves(jax.jacfwd(EACH[name])(x)), X)


def test_every_operation_of_programs_is_met():
    met = set()
    for function in EACH.values():
        met |= {operation.name for operation in scalarise(function, (3,)).operations}
    assert set(OPERATIONS) - met == set()


def test_both_backends_agree_on_arrays():
    columns = [np.linspace(0.1, 0.9, 5) * (i + 1) for i in range(3)]
    for function in (EACH["powers"], EACH["special"], EACH["choices"], EACH["truths"]):
        program = scalarise(function, (3,))
        with np.errstate(all="ignore"):
            by_numpy = evaluate(program, columns, np)
        by_jax = evaluate(program, [jnp.asarray(column) for column in columns])
        np.testing.assert_allclose(np.array(by_jax), np.array(by_numpy), rtol=1e-13)


def _product(x, y):
    return x * y


def _shifted(x, y):
    return x + 1 - 0.1 * y


def _round(i, carry):
    x, y = carry
    return jnp.sin(x + i * y), y


VECTORS: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x - 0.3 * y,
    lambda x, y: x / (1.5 + y**2),
    lambda x, y: jnp.tanh(x) * jnp.cos(y),
    lambda x, y: jnp.exp(jnp.sin(x)) - y,
    lambda x, y: jnp.sqrt(1 + x**2),
    lambda x, y: jnp.where(x > 0.3137, y, 2 * x),
    lambda x, y: jnp.maximum(x, 0.1 * y - 0.217),
    lambda x, y: jnp.cumsum(x) * 0.5,
    lambda x, y: jnp.roll(x, 1) + y[::-1],
    lambda x, y: jnp.array([[0.1, 0.0, -0.4], [0.0, 1.0, 0.2], [0.3, 0.0, 0.0]]) @ x,
    lambda x, y: jnp.dot(x, y) * jnp.array([0.0, 0.5, 1.0]),
    lambda x, y: x.at[0].add(y[2]).at[jnp.array([1, 2])].multiply(0.7),
    lambda x, y: jax.nn.softplus(x) - jax.nn.sigmoid(y),
    lambda x, y: jnp.stack([y[1], x.sum(), x[0] * y[0]]),
    lambda x, y: jnp.log1p(x**2) ** 1.5,
    lambda x, y: jax.lax.cond(x[1] > 0.3137, _product, _shifted, x, y),
    lambda x, y: jnp.arctan2(x, 2 + jnp.abs(y)),
    lambda x, y: jax.lax.fori_loop(0, 3, _round, (x, y))[0],
]

STEPS = st.lists(
    st.tuples(st.integers(0, len(VECTORS) - 1), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=7,
)
NUMBERS = st.lists(st.integers(-900, 900), min_size=3, max_size=3)


def _expression(steps: Any, closed: Any) -> Any:
    """A function of a vector that does these steps, with a state that is a dictionary."""

    def function(x: Any) -> Any:
        state = {"of the argument": [x], "of a closure": [closed]}
        for number, first, second in steps:
            pool = [*state["of the argument"], *state["of a closure"]]
            result = VECTORS[number](pool[first % len(pool)], pool[second % len(pool)])
            state["of the argument"].append(jnp.tanh(result) + 0.1 * result / (1 + result**2))
        return {"last": state["of the argument"][-1], "sum": sum(state["of the argument"])}

    return function


@given(STEPS, NUMBERS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_random_expressions_and_their_jacobians(steps, numbers):
    x = np.array(numbers) / 517.3
    function = _expression(steps, jnp.array([0.4, -0.9, 1.1]))
    check(lambda x: (function(x), jax.jacfwd(function)(x)), x)


def test_a_network_and_its_jacobian():
    network = eqx.nn.MLP(2, 2, 5, 2, activation=jnp.tanh, key=jax.random.key(0))
    network = jax.tree.map(lambda x: x.astype(float) if eqx.is_array(x) else x, network)
    y = np.array([0.3, -0.8])
    check(network, y)
    check(jax.jacfwd(network), y)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_system_of_the_catalogue(name):
    system = EXAMPLES[name]
    inputs = complete_inputs(system, None)
    numbers, rest = eqx.partition(system, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(numbers)

    def drift(t, y, parameters):
        return eqx.combine(unravel(parameters), rest).vector_field(t, y, inputs)

    y = typical_state(system)
    check(drift, 0.3, y, flat)
    check(jax.jacfwd(drift, argnums=1), 0.3, y, flat)
    if isinstance(system, AbstractSDE):
        check(lambda t, y: system.diffusion(t, y, inputs), 0.3, y)


def test_jacobians_are_sparse_and_nothing_is_computed_twice():
    field: Any = functools.partial(EXAMPLES["Lorenz63"].vector_field, inputs={})
    program = scalarise(lambda y: field(0.0, y), (3,))
    assert len(program.operations) <= 9
    jacobian = scalarise(jax.jacfwd(lambda y: field(0.0, y)), (3,))
    constants = {0: -10.0, 1: 10.0, 2: 0.0, 4: -1.0, 8: -8 / 3}
    assert {i: jacobian.outputs[i] for i in constants} == pytest.approx(constants)
    assert len(jacobian.operations) == 2  # rho - z and -x; y and x are inputs themselves
    assert jacobian.outputs[6:8] == (1, 0)
    twice = scalarise(
        lambda x: (x[0] * x[1] + jnp.exp(x[0]), jnp.exp(x[0]) + x[1] * x[0]), (2,)
    )
    assert len(twice.operations) == 3
    assert twice.outputs[0] == twice.outputs[1]


def test_a_structural_zero_wins_over_what_is_not_finite():
    program = scalarise(lambda x: 0.0 * jnp.log(x) + jnp.array([1.0, 0.0]) * x, (2,))
    assert program.operations == ()
    assert run(program, [-1.0, np.inf]).tolist() == [-1.0, 0.0]


def test_digests_tell_programs_apart_and_never_change():
    program = scalarise(lambda x: jnp.sin(x) * 2.0, (1,))
    assert program.digest() == scalarise(lambda z: 2.0 * jnp.sin(z), (1,)).digest()
    others = [lambda x: jnp.sin(x) * (2.0 + 1e-15), lambda x: jnp.cos(x) * 2.0]
    assert all(scalarise(f, (1,)).digest() != program.digest() for f in others)
    zeros = [scalarise(lambda x, z=z: x + x * 0 + jnp.full(1, z), (1,)) for z in (2.0, 3.0)]
    assert zeros[0].digest() != zeros[1].digest()
    known = "1acf3b1c26117206792524739c575db5077e2a6af979dfa10e8125b5ddd0b37a"
    assert program.digest() == known


REFUSED: dict[str, tuple[str, Callable[..., Any]]] = {
    "a loop that something computed ends": (
        "while",
        lambda x: jax.lax.while_loop(lambda z: z[0] < 1, lambda z: z + x, x),
    ),
    "an index that is computed": ("gather", lambda x: x[jnp.floor(x[:1]).astype(int)]),
    "a window that is computed": (
        "dynamic_slice",
        lambda x: jax.lax.dynamic_slice(x, (jnp.floor(x[0]).astype(int),), (2,)),
    ),
    "sorting": ("sort", lambda x: jnp.sort(x)),
    "where the largest is": ("argmax", lambda x: jnp.argmax(x)),
    "another precision": ("convert_element_type", lambda x: x.astype(jnp.float32)),
    "complex numbers": ("complex", lambda x: jnp.abs(jax.lax.complex(x, x))),
    "division of whole numbers": (
        "div",
        lambda x: jax.lax.div(jnp.floor(x).astype(int), 2 * jnp.ones(3, int)),
    ),
    "a function without a rule": ("erf_inv", lambda x: jax.scipy.special.erfinv(x)),
    "random numbers": (
        "random_seed",
        lambda x: x * jax.random.normal(jax.random.key(x[0].astype(int))),
    ),
    "side effects": (
        "debug_callback",
        lambda x: (jax.debug.callback(lambda z: None, x), x)[1],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_its_line(name):
    primitive, function = REFUSED[name]
    with pytest.raises(NotScalarisable, match=rf"`{primitive}.*test_scalarise\.py:\d+"):
        scalarise(function, (3,))


def test_too_many_operations_are_refused():
    def long(x):
        return jax.lax.fori_loop(0, 50, lambda i, z: jnp.sin(z) + i, x)

    with pytest.raises(NotScalarisable, match="of at most 50"):
        scalarise(long, (1,), limit=50)
    with pytest.raises(NotScalarisable, match="longer than 20 operations"):
        scalarise(long, (1,), limit=20)
    assert len(scalarise(long, (1,), limit=100).operations) == 99


def test_a_function_of_a_traced_value_is_refused():
    @jax.jit
    def outer(z):
        scalarise(lambda x: x * z, (1,))
        return z

    with pytest.raises(NotScalarisable, match="closes over a traced value"):
        outer(1.0)


def _solved(matrix_of: Any, states: int, x: Any, shift: float, right: Any) -> Any:
    jacobian = scalarise(matrix_of, np.shape(x))
    solver = linear_solver(jacobian, states)
    factors = run(solver.factorise, [*np.ravel(x), shift])
    return run(solver.solve, [*factors, *right]), solver


@given(st.integers(1, 7), st.integers(0, 10**6), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_linear_systems_of_any_pattern(states, seed, density):
    random = np.random.default_rng(seed)
    pattern = random.random((states, states)) < density
    weights = np.where(pattern, random.normal(size=(states, states)), 0.0)
    x, right = random.normal(size=states), random.normal(size=states)
    matrix = weights * np.sin(1 + x)
    shift = 3.0 * states
    found, _ = _solved(lambda x: weights * jnp.sin(1 + x)[None], states, x, shift, right)
    expected = np.linalg.solve(shift * np.eye(states) - matrix, right)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_sensitivities_share_the_factors_of_the_states():
    field: Any = functools.partial(EXAMPLES["Lorenz63"].vector_field, inputs={})

    def extended(z):
        y, *others = z.reshape(-1, 3)
        slopes = [jax.jvp(lambda y: field(0.0, y), (y,), (s,))[1] for s in others]
        return jnp.concatenate([field(0.0, y), *slopes])

    z = np.random.default_rng(0).normal(size=12)
    right = np.arange(12.0)
    matrix = jax.jacfwd(extended)
    found, solver = _solved(matrix, 12, z, 40.0, right)
    expected = np.linalg.solve(40 * np.eye(12) - matrix(z), right)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    _, alone = _solved(jax.jacfwd(lambda y: field(0.0, y)), 3, z[:3], 40.0, right[:3])
    divisions = [
        sum(operation.name == "div" for operation in some.factorise.operations)
        for some in (solver, alone)
    ]
    assert divisions == [3, 3]


def test_a_pivot_of_zero_gives_what_is_not_finite():
    def matrix(x):
        return jnp.array([[2.0, 1.0], [1.0, 0.0]]) * x[0]

    found, _ = _solved(matrix, 2, [1.0], 2.0, [1.0, 1.0])
    assert not np.isfinite(found).any()
