"""Sums over rows, columns and starts: spread over devices they are what one device computes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from solvers import sharding
from solvers.sharding import make_mesh, place_rows, row_map, row_sum, value_and_gradient

from .helpers_sharding import assert_same, collectives, compiled_text, loops_of, plain


ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = {"a": jnp.asarray(0.7), "b": jnp.asarray([1.3, -0.4])}
VECTOR = {"a": jnp.asarray(-0.2), "b": jnp.asarray([0.5, 1.1])}
MESHES = {"one device": {"devices": 1}, "three devices": {"devices": 3}, "lanes": {"lanes": 2}}


def rows(count):
    return {"x": jnp.linspace(0.5, 2.0, count), "y": jnp.linspace(-1.0, 1.0, count)}


def loop(parameters, row):
    """A number of steps that depends on the row: reverse mode does not pass."""

    def body(state):
        y, step = state
        return y + 0.1 * jnp.sin(parameters["a"] * y * row["x"]), step + 1

    start = (1.0 + 0.1 * row["y"] * parameters["b"], jnp.asarray(0))
    return jax.lax.while_loop(lambda s: (s[0][0] < 2.0) & (s[1] < 100), body, start)[0]


def residuals(parameters, row):
    """Not even finite where `x` is zero, as it is in rows that are padded with zeros."""
    scaled = jnp.log(row["x"]) + parameters["b"] / row["x"]
    return jnp.exp(parameters["a"] * row["y"]) * scaled - 0.3


def misfit(parameters, row):
    return 0.5 * jnp.sum(residuals(parameters, row) ** 2)


def flat_plain(function, rows):
    flat, unravel = ravel_pytree(PARAMETERS)
    return flat, lambda x: plain(function)(unravel(x), rows)


def plain_gauss_newton(parameters, rows):
    flat, unravel = ravel_pytree(parameters)

    def stacked(x):
        return jnp.ravel(jax.vmap(residuals, in_axes=(None, 0))(unravel(x), rows))

    r, jacobian = stacked(flat), jax.jacfwd(stacked)(flat)
    return 0.5 * r @ r, jacobian.T @ r, jacobian.T @ jacobian


def plain_hessian(parameters, rows):
    del parameters
    flat, total = flat_plain(misfit, rows)
    return jax.hessian(total)(flat)


def gauss_newton(mesh):
    def evaluate(parameters, rows):
        out = sharding.gauss_newton(residuals, mesh)(parameters, rows)
        return out.objective, out.gradient, out.matrix

    return evaluate


def product(mesh, **options):
    hvp = sharding.hessian_vector_product(misfit, mesh, **options)
    return lambda parameters, rows: hvp(parameters, rows, VECTOR)


def plain_product(parameters, rows):
    slope = jax.grad(lambda p: plain(misfit)(p, rows))
    return jax.jvp(slope, (parameters,), (VECTOR,))[1]


FORMS = {
    "value": (lambda mesh: row_sum(misfit, mesh), plain(misfit)),
    "several values": (lambda mesh: row_sum(residuals, mesh), plain(residuals)),
    "gradient": (
        lambda mesh: value_and_gradient(misfit, mesh),
        jax.value_and_grad(plain(misfit)),
    ),
    "gradient forward": (
        lambda mesh: value_and_gradient(misfit, mesh, forward=True),
        jax.value_and_grad(plain(misfit)),
    ),
    "gauss newton": (gauss_newton, plain_gauss_newton),
    "product": (product, plain_product),
    "product forward": (lambda mesh: product(mesh, forward=True), plain_product),
    "hessian": (lambda mesh: sharding.hessian(misfit, mesh), plain_hessian),
    "hessian forward": (
        lambda mesh: sharding.hessian(misfit, mesh, forward=True),
        plain_hessian,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sum_over_rows_is_that_of_one_device_in_one_all_reduce(form):
    """Five rows, which four devices do not divide."""
    spread, expected = FORMS[form]
    program = jax.jit(spread(make_mesh())).lower(PARAMETERS, rows(5)).compile()
    assert_same(program(PARAMETERS, rows(5)), jax.jit(expected)(PARAMETERS, rows(5)))
    assert collectives(program.as_text()) == ["all-reduce"]


@pytest.mark.parametrize("mesh", MESHES)
def test_other_meshes_give_the_same(mesh):
    found = value_and_gradient(misfit, make_mesh(**MESHES[mesh]))(PARAMETERS, rows(5))
    assert_same(found, jax.value_and_grad(plain(misfit))(PARAMETERS, rows(5)))


@pytest.mark.parametrize("count", [1, 9])
def test_what_pads_counts_nothing(count):
    """Padding by zeros would give NaN here, and padding without weights another sum."""
    found = value_and_gradient(misfit, make_mesh())(PARAMETERS, rows(count))
    assert_same(found, jax.value_and_grad(plain(misfit))(PARAMETERS, rows(count)))


DERIVATIVES = {
    "value and grad": lambda total: jax.value_and_grad(total),
    "by rows": lambda total: jax.grad(total, argnums=1),
    "forward over reverse": lambda total: jax.jacfwd(jax.grad(total)),
    "reverse over reverse": lambda total: jax.jacrev(jax.grad(total)),
    "reverse over forward": lambda total: jax.jacrev(jax.jacfwd(total)),
    "third": lambda total: jax.jacfwd(jax.jacfwd(jax.grad(total))),
    "chains": lambda total: (
        lambda p, rows: jax.vmap(jax.grad(total), in_axes=(0, None))(
            jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), p), rows
        )
    ),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_a_sum_can_be_differentiated_from_outside(derivative):
    take = DERIVATIVES[derivative]
    found = jax.jit(take(row_sum(misfit, make_mesh())))(PARAMETERS, rows(5))
    assert_same(found, jax.jit(take(plain(misfit)))(PARAMETERS, rows(5)))


def test_a_gradient_from_outside_is_one_all_reduce():
    gradient = jax.grad(row_sum(misfit, make_mesh()))
    assert collectives(compiled_text(gradient, PARAMETERS, rows(8))) == ["all-reduce"]


def test_loops_of_unknown_length_have_forward_derivatives_of_any_order():
    """jax 0.9 itself fails where it linearises such a loop twice."""
    twice = [
        jax.jit(jax.jacfwd(jax.jacfwd(total)))(PARAMETERS, rows(5))
        for total in (row_sum(loop, make_mesh()), plain(loop))
    ]
    assert_same(*twice)


def test_no_loop_waits_for_another_device():
    text = compiled_text(row_sum(loop, make_mesh()), PARAMETERS, rows(8))
    assert loops_of(text)
    assert collectives(text) == ["all-reduce"]
    assert collectives(loops_of(text)) == []


def test_plain_jax_waits_in_every_step():
    """Why this module is there: the partition that XLA makes of the same loop."""
    mesh = make_mesh()
    spread = jax.device_put(rows(8), sharding.row_sharding(mesh))
    text = compiled_text(plain(loop), PARAMETERS, spread)
    assert "all-reduce" in collectives(loops_of(text))


def test_a_function_may_close_over_traced_values():
    mesh = make_mesh()

    def scaled(total):
        return lambda factor: total(lambda p, row: factor * misfit(p, row))(PARAMETERS, rows(5))

    spread, one = scaled(lambda f: row_sum(f, mesh)), scaled(plain)
    assert_same(jax.jit(jax.grad(spread))(2.0), jax.grad(one)(2.0))
    assert_same(jax.vmap(spread)(jnp.arange(3.0)), jax.vmap(one)(jnp.arange(3.0)))


def test_plain_jit_takes_rows_that_are_spread():
    spread = jax.device_put(rows(8), sharding.row_sharding(make_mesh()))
    found = jax.jit(jax.value_and_grad(plain(misfit)))(PARAMETERS, spread)
    assert_same(found, jax.value_and_grad(plain(misfit))(PARAMETERS, rows(8)))


def test_residuals_stay_spread_and_count_nothing_where_rows_pad():
    mesh = make_mesh()
    each = jax.vmap(residuals, in_axes=(None, 0))(PARAMETERS, rows(5))
    assert_same(row_map(residuals, mesh)(PARAMETERS, rows(5)), each)
    placed = place_rows(rows(5), mesh)
    found = jax.jit(row_map(residuals, mesh))(PARAMETERS, placed)
    assert found.sharding.spec == sharding.row_sharding(mesh).spec
    assert_same(found, jnp.concatenate([each, jnp.zeros((3, 2))]))
    assert collectives(compiled_text(row_map(residuals, mesh), PARAMETERS, placed)) == []


@pytest.mark.parametrize("lanes", [None, 2])
def test_columns_give_the_matrix(lanes):
    """With two axes each product sums over rows as well."""
    mesh = make_mesh(lanes=lanes)
    inner = (
        sharding.hessian_vector_product(misfit, mesh)
        if lanes
        else lambda p, rows, v: jax.jvp(jax.grad(plain(misfit)), (p, rows), (v, _none(rows)))[1]
    )
    matrix = sharding.columns(lambda p, v, rows: inner(p, rows, v), mesh)
    assert_same(jax.jit(matrix)(PARAMETERS, rows(5)), plain_hessian(PARAMETERS, rows(5)))


def _none(tree):
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("lanes", [None, 2])
def test_starts_go_their_own_ways(lanes):
    """Descents of different lengths, more than the devices and not divided by them."""
    mesh = make_mesh(lanes=lanes)
    begin = jax.tree.map(
        lambda leaf: jnp.stack([s * leaf for s in (0.5, 0.8, 1, 1.2, 1.5)]), PARAMETERS
    )

    def descend(value_and_gradient):
        def fit(start, rows):
            def body(state):
                p, step, _ = state
                value, slope = value_and_gradient(p, rows)
                return jax.tree.map(lambda x, g: x - 0.002 * g, p, slope), step + 1, value

            def going(state):
                return (state[1] < 200) & (state[2] > 1.5)

            return jax.lax.while_loop(
                going, body, (start, jnp.asarray(0), jnp.asarray(jnp.inf))
            )

        return fit

    one = jax.value_and_grad(plain(misfit))
    spread = value_and_gradient(misfit, mesh) if lanes else one
    program = sharding.starts(descend(spread), mesh)
    found = jax.jit(program)(begin, rows(5))
    expected = jax.vmap(lambda start: descend(one)(start, rows(5)))(begin)
    steps = np.asarray(expected[1])
    assert len(set(steps.tolist())) >= 4 and steps.max() < 200
    assert np.asarray(found[1]).tolist() == steps.tolist()
    assert_same(found, expected)
    inside = collectives(loops_of(compiled_text(program, begin, rows(5))))
    assert inside == (["all-reduce"] if lanes else [])


def test_single_precision_stays():
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (PARAMETERS, rows(5)))
    value, slope = value_and_gradient(misfit, make_mesh())(*single)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, slope))} == {jnp.dtype("float32")}
    assert_same((value, slope), jax.value_and_grad(plain(misfit))(PARAMETERS, rows(5)), 1e-5)


def test_keys_may_be_rows():
    keys = jax.random.split(jax.random.key(0), 5)
    found = row_sum(lambda scale, key: scale * jax.random.normal(key), make_mesh())(2.0, keys)
    assert_same(found, 2.0 * jnp.sum(jax.vmap(jax.random.normal)(keys)))


BAD = {
    "100 devices": (
        lambda: make_mesh(100),
        r"100 devices is asked for, but there are 4 \(cpu\). Call use_cpu_devices\(100\)",
    ),
    "no devices": (lambda: make_mesh(0), "mesh of 0 devices"),
    "an empty list": (lambda: make_mesh([]), "needs one or more devices"),
    "the same twice": (lambda: make_mesh(jax.devices()[:1] * 2), "each of them once"),
    "lanes": (lambda: make_mesh(lanes=3), "4 devices cannot be split into 3 lanes"),
    "a stranger's mesh": (
        lambda: row_sum(misfit, jax.make_mesh((4,), ("mine",)))(PARAMETERS, rows(4)),
        r"axes \('mine',\): expected one of make_mesh",
    ),
    "rows that differ": (
        lambda: row_sum(misfit, make_mesh())(PARAMETERS, {"x": jnp.ones(3), "y": jnp.ones(4)}),
        r"leaves of shapes \[\(3,\), \(4,\)\], expected the same number",
    ),
    "no rows": (
        lambda: row_sum(misfit, make_mesh())(PARAMETERS, rows(0)),
        "expected the same number of rows, one or more",
    ),
    "rows of another mesh": (
        lambda: row_sum(misfit, make_mesh())(PARAMETERS, place_rows(rows(5), make_mesh(1))),
        "5 padded rows do not fit 4 devices",
    ),
    "one axis for two things": (
        lambda: sharding.starts(
            lambda p: row_sum(misfit, make_mesh())(p, rows(4)), make_mesh()
        )(jax.tree.map(lambda leaf: leaf[None], PARAMETERS)),
        r"spread over twice, one inside the other: make a mesh of two axes",
    ),
    "too late": (
        lambda: sharding.use_cpu_devices(2),
        "jax computes already, so its CPU cannot be made 2 devices",
    ),
    "no CPU device": (lambda: sharding.use_cpu_devices(0), "0 CPU devices are asked for"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_a_sentence(case):
    jax.devices()
    act, words = BAD[case]
    with pytest.raises((ValueError, RuntimeError), match=words):
        act()


def test_a_cpu_has_one_device_for_each_core():
    code = (
        "from solvers.sharding import make_mesh, use_cpu_devices\n"
        "print(use_cpu_devices(), make_mesh().size)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    cores = len(os.sched_getaffinity(0))
    assert done.stdout.split() == [str(cores)] * 2
