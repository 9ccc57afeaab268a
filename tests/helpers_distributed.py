"""A fit over many conditions, computed by one device, by many, or by several processes.

As a program, `python -m tests.helpers_distributed KIND ROOMS [PORT INDEX COUNT]`, it prints its
results as JSON. `KIND` is `devices` (all of this process), `processes`, or how one of several
processes is to end: `killed`, `killed_asleep`, `failed`. `ROOMS` are names joined by commas.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax.flatten_util import ravel_pytree

from solvers.distributed import global_rows, initialise
from solvers.gradients import AbstractGradient, Checkpointed, Forward
from solvers.integrators.deterministic import Bosh3
from solvers.optimisers.base import LeastSquares, optimise
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.problem import InitialValueProblem
from solvers.sharding import (
    gauss_newton,
    hessian,
    hessian_vector_product,
    make_mesh,
    place_rows,
    row_map,
    row_sum,
    value_and_gradient,
)
from solvers.solve import solve
from systems.populations import LotkaVolterra


RESULT = "results: "
ROOMS = {
    "gradient": ("gradient",),
    "trajectories": ("gradient", "gauss_newton", "fit"),
    "curves": ("gradient", "gauss_newton", "product", "hessian", "chains", "fit", "house_fit"),
}
CONDITIONS = 13
TIMES = np.linspace(0.5, 3.0, 6)
TRUTH = {"growth": np.asarray(0.55), "death": np.asarray(0.8)}
START = {"growth": np.asarray(0.5), "death": np.asarray(0.9)}
VECTOR = {"growth": np.asarray(0.3), "death": np.asarray(-0.7)}
CHAINS = {"growth": np.asarray([0.5, 0.55, 0.6]), "death": np.asarray([0.8, 0.85, 0.7])}


def trajectory(parameters: Any, state: Any, gradient: AbstractGradient) -> Any:
    """Predator and prey of one condition."""
    system = LotkaVolterra(prey_growth=parameters["growth"], predator_death=parameters["death"])
    problem = InitialValueProblem(system, 0.0, 3.0, state)
    found = solve(problem, Bosh3(rtol=1e-5), save_at=TIMES, gradient=gradient, throw=False)
    return jnp.log(found.states)


def curve(parameters: Any, state: Any, gradient: AbstractGradient | None = None) -> Any:
    """What compiles at once: growth and decay of one condition."""
    del gradient
    rates = jnp.stack([parameters["growth"], -parameters["death"]])
    return state[None, :] / 10.0 * jnp.exp(rates[None, :] * TIMES[:, None])


def conditions(model: Any) -> dict[str, np.ndarray]:
    """Starts and measurements of each condition, which scatter about the model."""
    random = np.random.default_rng(1)
    states = random.uniform(5.0, 40.0, (CONDITIONS, 2))
    noise = random.normal(0.0, 0.05, (CONDITIONS, len(TIMES), 2))
    exact = jax.jit(jax.vmap(lambda state: model(TRUTH, state, Forward())))(states)
    return {"state": states, "seen": np.asarray(exact) + noise}


def functions(model: Any) -> tuple[Callable, Callable, Callable]:
    """Residuals and misfit of a condition in forward mode, the misfit in reverse mode."""

    def residuals(parameters: Any, row: Any) -> Any:
        return (model(parameters, row["state"], Forward()) - row["seen"]) / 0.05

    def misfit(parameters: Any, row: Any) -> Any:
        return 0.5 * jnp.sum(residuals(parameters, row) ** 2)

    def in_reverse(parameters: Any, row: Any) -> Any:
        seen = model(parameters, row["state"], Checkpointed())
        return 0.5 * jnp.sum(((seen - row["seen"]) / 0.05) ** 2)

    return residuals, misfit, in_reverse


def on_one_device(room: str) -> dict[str, Any]:
    """The results of a room by plain jax."""
    model = curve if room == "curves" else trajectory
    rows = conditions(model)
    residuals, misfit, in_reverse = functions(model)

    def total(function: Any, parameters: Any) -> Any:
        return jnp.sum(jax.vmap(function, in_axes=(None, 0))(parameters, rows))

    flat, unravel = ravel_pytree(START)

    def stacked(p: Any, _: Any = None) -> Any:
        return jax.vmap(residuals, in_axes=(None, 0))(p, rows)

    def gauss(x: Any) -> Any:
        r = jnp.ravel(stacked(unravel(x)))
        jacobian = jax.jacfwd(lambda x: jnp.ravel(stacked(unravel(x))))(x)
        return 0.5 * r @ r, jacobian.T @ r, jacobian.T @ jacobian

    slope = jax.jacfwd(lambda p: total(misfit, p))
    reverse = jax.value_and_grad(lambda p: total(in_reverse, p))
    by_flat = jax.hessian(lambda x: total(misfit, unravel(x)))
    ways = {
        "gradient": lambda: jax.jit(reverse)(START),
        "gauss_newton": lambda: jax.jit(gauss)(flat),
        "product": lambda: jax.jit(lambda p, v: jax.jvp(slope, (p,), (v,))[1])(START, VECTOR),
        "hessian": lambda: jax.jit(by_flat)(flat),
        "chains": lambda: jax.jit(jax.vmap(reverse))(CHAINS)[1],
        "fit": lambda: fit(stacked, None),
        "house_fit": lambda: house_fit(stacked, None),
    }
    return {name: ways[name]() for name in ROOMS[room]}


def on_mesh(room: str, place: Callable[[Any, Any], Any], mesh: Any) -> dict[str, Any]:
    """The same results, spread over the devices of a mesh."""
    model = curve if room == "curves" else trajectory
    rows = place(conditions(model), mesh)
    residuals, misfit, in_reverse = functions(model)
    squares = gauss_newton(residuals, mesh)

    def gauss(parameters: Any, rows: Any) -> Any:
        out = squares(parameters, rows)
        return out.objective, out.gradient, out.matrix

    product = hessian_vector_product(misfit, mesh, forward=True)
    each = row_map(residuals, mesh)
    chains = jax.vmap(jax.grad(row_sum(in_reverse, mesh)), in_axes=(0, None))
    ways = {
        "gradient": lambda: jax.jit(value_and_gradient(in_reverse, mesh))(START, rows),
        "gauss_newton": lambda: jax.jit(gauss)(START, rows),
        "product": lambda: jax.jit(product)(START, rows, VECTOR),
        "hessian": lambda: jax.jit(hessian(misfit, mesh))(START, rows),
        "chains": lambda: jax.jit(chains)(CHAINS, rows),
        "fit": lambda: fit(each, rows),
        "house_fit": lambda: house_fit(each, rows),
    }
    return {name: ways[name]() for name in ROOMS[room]}


def fit(function: Any, rows: Any) -> Any:
    """Optimistix' Levenberg-Marquardt: where it ends, after how many steps, and why."""
    # Far above the roughness of the solves, so that all stop at the same step.
    method = optimistix.LevenbergMarquardt(rtol=1e-3, atol=1e-3)

    def run(start: Any, rows: Any) -> Any:
        out = optimistix.least_squares(function, method, start, rows, throw=False)
        return out.value, out.stats["num_steps"], out.result._value

    return jax.jit(run)(START, rows)


def house_fit(function: Any, rows: Any) -> Any:
    """The same by the house's own."""
    problem = LeastSquares(function)
    out = optimise(problem, LevenbergMarquardt(), START, rows, max_steps=50, throw=False)
    return out.value, out.steps, out.stop._value


def as_lists(tree: Any) -> Any:
    """For JSON, which keeps every digit."""
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def report(rooms: str, place: Any, mesh: Any) -> None:
    for room in rooms.split(","):
        found = {name: as_lists(value) for name, value in on_mesh(room, place, mesh).items()}
        print(f"\n{RESULT}{json.dumps([room, found])}", flush=True)


def assert_equal_results(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To 1e-12 of the largest number of each result; whole numbers exactly."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        for one, other in zip(found[name], as_lists(value), strict=True):
            if isinstance(other, int):
                assert one == other, name
            else:
                scale = np.max(np.abs(other))
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * scale, err_msg=name)


def read_report(text: str) -> dict[str, Any]:
    """The results of each room, from what the program printed among other things."""
    lines = [line for line in text.splitlines() if line.startswith(RESULT)]
    return dict(json.loads(line.removeprefix(RESULT)) for line in lines)


def own_rows(rows: Any, mesh: Any) -> Any:
    """Each process brings its part, and they differ in size."""
    parts = np.array_split(np.arange(CONDITIONS), jax.process_count())
    return global_rows(jax.tree.map(lambda leaf: leaf[parts[jax.process_index()]], rows), mesh)


def end_badly(kind: str, first: bool) -> None:
    """One process is killed or fails; the other is inside collectives, or sleeps."""
    mesh = make_mesh()
    rows = global_rows({"x": np.arange(3.0)}, mesh)
    total = jax.jit(row_sum(lambda scale, row: scale * row["x"], mesh))
    print(f"\n{RESULT}{json.dumps(['sum', float(total(np.asarray(2.0), rows))])}", flush=True)
    if (kind == "failed") == first:
        print(f"{RESULT}{json.dumps(['end', time.monotonic()])}", flush=True)
    if kind.startswith("killed") and not first:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "failed" and first:
        raise ValueError("this process alone cannot go on")
    if kind == "killed_asleep":
        time.sleep(120.0)
    while True:
        total(np.asarray(2.0), rows).block_until_ready()


def main(kind: str, rooms: str, port: str = "", index: str = "0", count: str = "1") -> None:
    jax.config.update("jax_enable_x64", True)
    if kind == "devices":
        report(rooms, place_rows, make_mesh())
        return
    with initialise(f"127.0.0.1:{port}", int(index), int(count), timeout=60) as processes:
        if kind == "processes":
            report(rooms, own_rows, make_mesh())
        else:
            end_badly(kind, processes.is_first)


if __name__ == "__main__":
    main(*sys.argv[1:])
