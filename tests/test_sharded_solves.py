"""Solves inside spread work: all their derivatives, and no device that waits for another."""

import os
import subprocess
import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.gradients import Checkpointed
from solvers.integrators.stiff import Kvaerno3
from solvers.problem import InitialValueProblem
from solvers.sharding import hessian, make_mesh, value_and_gradient
from solvers.solve import solve
from systems.populations import LotkaVolterra

from .helpers_distributed import assert_equal_results, on_one_device, read_report
from .helpers_sharding import assert_same, collectives, loops_of, plain


ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = {"a": jnp.asarray(0.7), "b": jnp.asarray([1.3, -0.4])}


def rows(count):
    return {"x": jnp.linspace(0.5, 2.0, count), "y": jnp.linspace(-1.0, 1.0, count)}


def trajectory(gradient, method):
    def misfit(parameters, row):
        system = LotkaVolterra(prey_growth=parameters["a"], predator_death=parameters["b"][0])
        start = jnp.stack([20.0 * row["x"], 15.0 + row["y"]])
        found = solve(
            InitialValueProblem(system, 0.0, 2.0, start),
            method,
            gradient=gradient,
            throw=False,
        )
        return jnp.sum(jnp.log(found.states[0]) ** 2)

    return misfit


@pytest.mark.parametrize("method", [Kvaerno3(rtol=1e-4)])
def test_reverse_mode_through_solves(method):
    """shard_map alone fails here. One all-reduce, and no solve waits for another."""
    function = trajectory(Checkpointed(), method)
    program = jax.jit(value_and_gradient(function, make_mesh())).lower(PARAMETERS, rows(5))
    program = program.compile()
    found = program(PARAMETERS, rows(5))
    expected = jax.jit(jax.value_and_grad(plain(function)))(PARAMETERS, rows(5))
    assert_same(found, expected)
    text = program.as_text()
    assert collectives(text) == ["all-reduce"]
    assert collectives(loops_of(text)) == []


def test_second_derivatives_through_a_direct_solve():
    def function(parameters, row):
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, a: -a * y**2),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            row["x"],
            args=parameters["a"],
            stepsize_controller=diffrax.PIDController(rtol=1e-7, atol=1e-7),
            adjoint=diffrax.DirectAdjoint(),
            max_steps=64,
            throw=False,
        )
        return jnp.sum(jnp.asarray(found.ys) ** 2)

    at = {"a": PARAMETERS["a"]}
    found = jax.jit(hessian(function, make_mesh()))(at, rows(5))
    # y(1) = x / (1 + a x), so that the second derivative of its square is known.
    x, a = rows(5)["x"], at["a"]
    np.testing.assert_allclose(found[0, 0], jnp.sum(6 * x**4 / (1 + a * x) ** 4), rtol=1e-3)
    expected = jax.jit(jax.hessian(plain(function)))(at, rows(5))
    assert_same(found, expected["a"]["a"][None, None])


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one():
    """Gradients, curvature, whole fits with their steps and reasons to stop, chains."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers_distributed", "devices", "trajectories,curves"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = read_report(done.stdout)
    assert set(found) == {"trajectories", "curves"}
    for room, results in found.items():
        assert_equal_results(results, on_one_device(room))
