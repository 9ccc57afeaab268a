"""Ensembles: simkit's engines, diffrax under vmap, other libraries, and C++ by hand.

One run, all in turn, the least of the repeats. Times are of processors, all threads added
up, as other programs may share the machine; the time of the clock stands beside them. The
error is the median over members of the largest difference to a solution at 1e-12, relative
to the largest state. Peers run in processes of their own, in the environment whose Python
`SIMKIT_PEERS_PYTHON` names; one that is not there has a row that says so. Run as
`make bench-ensemble`, or `python benchmarks/ensembles.py [--members 10000] [--quick]`.
"""

import argparse
import datetime
import importlib.util
import math
import os
import platform
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from peers import limit
from peers.experiments import Experiment, experiments
from peers.outside import PEERS, ask
from peers.protocol import least

from solvers.ensemble.members import ensemble
from solvers.integrators.base import AbstractMethod
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.dop853 import DOP853
from solvers.integrators.stochastic import EulerMaruyama
from solvers.problem import InitialValueProblem
from systems.stochastic import GeometricBrownianMotion


class Row(NamedTuple):
    """Seconds per member, of processors and of the clock, and the final states."""

    cpu: float
    wall: float
    states: Any


def by_engine(item: Experiment, engine: str, method: AbstractMethod, repeats: int) -> Row:
    """One of simkit's engines."""
    parameters = {name: jnp.asarray(value) for name, value in item.parameters.items()}
    times: dict[str, Any] = {"save_at": jnp.asarray(item.times)} if item.saves else {}

    def run() -> Any:
        found = ensemble(item.problem, method, parameters=parameters, engine=engine, **times)
        return jax.block_until_ready((found.final_state, found.states))[0]

    cpu, wall, states = least(run, repeats)
    return Row(cpu / len(states), wall / len(states), states)


def on_one_thread(item: Experiment, method: AbstractMethod, repeats: int) -> Row:
    """The compiled engine as C++ is timed."""
    from solvers.ensemble.native.registry import handler

    handler().set_threads(1)
    try:
        return by_engine(item, "native", method, repeats)
    finally:
        handler().set_threads(os.cpu_count() or 1)


def by_diffrax(item: Experiment, tolerance: float, repeats: int) -> Row:
    """Diffrax under vmap, for a share of the members."""
    count = min(len(item.table), max(200, round(item.share * len(item.table))))
    kind = type(item.problem.system)
    save: Any = diffrax.SaveAt(t1=True)
    if item.saves:
        save = diffrax.SaveAt(ts=jnp.asarray(item.times))

    def one(values: dict[str, Any]) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, system: system.vector_field(t, y, {})),
            item.peer(),
            t0=item.problem.start,
            t1=item.problem.stop,
            dt0=None,
            y0=item.problem.initial_state,
            args=kind(**values),
            saveat=save,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
            throw=False,
        )
        return solution.ys

    some = {name: jnp.asarray(value[:count]) for name, value in item.parameters.items()}
    solve = jax.jit(jax.vmap(one))
    cpu, wall, found = least(lambda: jax.block_until_ready(solve(some)), repeats)
    return Row(cpu / count, wall / count, np.asarray(found)[:, -1])


def by_limit(item: Experiment, tolerance: float, repeats: int) -> Row | str:
    """C++ by hand, on one thread, the better of two and four vectors side by side."""
    assert item.limit is not None
    rows = []
    for groups in (2, 4):
        try:
            library = limit.compile_limit(groups)
        except FileNotFoundError as error:
            return str(error)
        operands = item.span, item.initial, item.table, tolerance, item.times
        cpu, wall, found = least(
            lambda library=library, operands=operands: limit.solve(
                library, str(item.limit), *operands
            ),
            repeats,
        )
        rows.append(Row(cpu / len(found[0]), wall / len(found[0]), found[0]))
    return min(rows, key=lambda row: row.cpu)


def by_peers(item: Experiment, tolerance: float, repeats: int) -> dict[str, Row | str]:
    """The other libraries that take the law; they give the end point alone."""
    case = {
        "law": item.law,
        "initial": item.initial,
        "parameters": item.table,
        "span": np.array(item.span),
        "tolerance": tolerance,
        "repeats": repeats,
    }
    rows: dict[str, Row | str] = {}
    for peer in PEERS:
        if item.law not in peer.laws:
            continue
        answer = ask(peer, case)
        if not isinstance(answer, str):
            count = len(answer["states"])
            answer = Row(answer["cpu"] / count, answer["wall"] / count, answer["states"])
        rows[peer.name] = answer
    return rows


def median_error(states: Any, exact: Any) -> float:
    """The median over members of the largest difference, relative to the largest state."""
    states, exact = np.asarray(states), np.asarray(exact)[: len(states)]
    scale = np.max(np.abs(exact), axis=1, keepdims=True)
    return float(np.median(np.max(np.abs(states - exact) / scale, axis=1)))


def rows_of(
    item: Experiment, tolerance: float, repeats: int, engines: list[str]
) -> dict[str, Row | str]:
    """All who take part in one ensemble."""
    options = {"rtol": tolerance, "atol": tolerance, "max_steps": 1_000_000}
    method = item.method(**options)
    name = type(method).__name__
    rows: dict[str, Row | str] = {"diffrax, vmap": by_diffrax(item, tolerance, 2)}
    for engine in engines:
        rows[f"{engine}, {name}"] = by_engine(item, engine, method, repeats)
    if "native" in engines:
        rows[f"native, {name}, one thread"] = on_one_thread(item, method, repeats)
    if item.method is Tsit5:
        for engine in engines:
            rows[f"{engine}, DOP853"] = by_engine(item, engine, DOP853(**options), repeats)
    if item.limit is not None:
        rows[f"C++, {name}, one thread"] = by_limit(item, tolerance, repeats)
    if not item.saves:
        rows |= by_peers(item, tolerance, min(repeats, 2))
    return rows


def print_ordinary(members: int, repeats: int, engines: list[str]) -> None:
    """The table of ordinary differential equations."""
    print(
        "| ensemble | tolerance | by | CPU, us per member | clock, us | diffrax / it | error |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for item in experiments(members):
        tight = item.method(rtol=1e-12, atol=1e-12, max_steps=10_000_000)
        exact = by_engine(item._replace(saves=0), engines[0], tight, 1).states
        for tolerance in item.tolerances:
            rows = rows_of(item, tolerance, repeats, engines)
            slowest = rows["diffrax, vmap"]
            assert isinstance(slowest, Row)
            for name, row in rows.items():
                start = f"| {item.title} | {tolerance:g} | {name} | "
                if isinstance(row, str):
                    print(f"{start}{row} | | | |", flush=True)
                    continue
                print(
                    f"{start}{1e6 * row.cpu:.2f} | {1e6 * row.wall:.2f} | "
                    f"{slowest.cpu / row.cpu:.1f} | {median_error(row.states, exact):.1e} |",
                    flush=True,
                )


def print_stochastic(paths: int, steps: int, repeats: int, engines: list[str]) -> None:
    """The table of stochastic paths: geometric Brownian motion by Euler and Maruyama."""
    print("\n| engine | CPU, ns per path and step | clock, ns | mean | exact mean |")
    print("| --- | --- | --- | --- | --- |")
    system = GeometricBrownianMotion()
    problem = InitialValueProblem(system, 0.0, 1.0)
    method = EulerMaruyama(step=1.0 / steps)
    exact = float(problem.initial_state[0]) * math.exp(float(system.growth_rate))
    for engine in engines:

        def run(engine: str = engine) -> Any:
            key = jax.random.key(0)
            found = ensemble(problem, method, key=key, members=paths, engine=engine)
            return jax.block_until_ready(found.final_state)

        cpu, wall, states = least(run, repeats)
        each = 1e9 / paths / steps
        print(
            f"| {engine} | {each * cpu:.2f} | {each * wall:.2f} | "
            f"{float(jnp.mean(states)):.4f} | {exact:.4f} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="at most 3 repeats")
    options = parser.parse_args()
    members, repeats = options.members, min(options.repeats, 3 if options.quick else 1000)
    jax.config.update("jax_enable_x64", True)
    engines = ["lanes"]
    if importlib.util.find_spec("llvmlite") is not None:
        engines.insert(0, "native")
    print_ordinary(members, repeats, engines)
    print_stochastic(members, 1000, repeats, engines)
    print(
        f"\n{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, jax {jax.__version__}, {members} members."
    )


if __name__ == "__main__":
    main()
