"""Ensembles: simkit's engines against diffrax under vmap and what else is installed.

One run, the engines in turn, the least of the repeats; the error beside each time is the
median over members of the largest relative difference to a solution at 1e-13. Run as
`python benchmarks/ensembles.py [--members 10000] [--quick]`. Peers that are not installed
are left out and named: numbalsoda, heyoka.
"""

import argparse
import datetime
import importlib.util
import math
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from solvers.ensemble.members import ensemble
from solvers.integrators.base import AbstractMethod
from solvers.integrators.deterministic import Dopri8, Tsit5
from solvers.integrators.rosenbrock import Rodas5P
from solvers.integrators.stochastic import EulerMaruyama
from solvers.problem import InitialValueProblem
from systems.base import AbstractODE, State, parameter
from systems.chaos import Lorenz63
from systems.oscillators import VanDerPol
from systems.stochastic import GeometricBrownianMotion


class Robertson(AbstractODE):
    """Robertson's chemical reactions, the classic stiff problem."""

    slow: Any = parameter(0.04)
    fast: Any = parameter(3e7)
    middle: Any = parameter(1e4)
    states = (State("a", 1.0), State("b", 0.0), State("c", 0.0))

    def vector_field(self, t: Any, y: Any, inputs: Any) -> Any:
        """Three reactions."""
        del t, inputs
        first, second, third = (
            self.slow * y[0],
            self.fast * y[1] ** 2,
            self.middle * y[1] * y[2],
        )
        return jnp.stack([third - first, first - third - second, second])


class Experiment(NamedTuple):
    """An ensemble that is timed: the problem, what varies, and which methods solve it."""

    title: str
    problem: InitialValueProblem
    parameters: dict[str, np.ndarray]
    method: Callable[..., AbstractMethod]
    peer: Callable[[float], Any]
    tolerances: tuple[float, ...]
    share: float
    """Of the members, what diffrax is given; its time is per member."""


def experiments(members: int) -> list[Experiment]:
    """All ensembles, with parameters in a random order."""
    draws = np.random.default_rng(0)
    mix = draws.permutation
    rates = 1 + 0.2 * draws.uniform(-1, 1, (3, members))
    return [
        Experiment(
            "Lorenz",
            InitialValueProblem(Lorenz63(), 0.0, 10.0, [1.0, 0.0, 0.0]),
            {"rho": mix(np.linspace(0, 28, members))},
            Tsit5,
            lambda tolerance: diffrax.Tsit5(),
            (1e-6, 1e-8),
            1.0,
        ),
        Experiment(
            "van der Pol, damping 1 to 1000",
            InitialValueProblem(VanDerPol(), 0.0, 100.0, [2.0, 0.0]),
            {"damping": mix(np.geomspace(1, 1000, members))},
            Rodas5P,
            lambda tolerance: diffrax.Kvaerno5(),
            (1e-6,),
            0.02,
        ),
        Experiment(
            "Robertson, rates within 20 %",
            InitialValueProblem(Robertson(), 0.0, 1e4),
            {
                name: base * rate
                for name, base, rate in zip(
                    ("slow", "fast", "middle"), (0.04, 3e7, 1e4), rates, strict=True
                )
            },
            Rodas5P,
            lambda tolerance: diffrax.Kvaerno5(),
            (1e-6,),
            0.1,
        ),
    ]


def least_seconds(run: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """Seconds of the first call and the least of the others, and the result."""
    begun = time.perf_counter()
    result = jax.block_until_ready(run())
    first, calls = time.perf_counter() - begun, []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        calls.append(time.perf_counter() - begun)
    return first, min(calls), result


def by_engine(item: Experiment, engine: str, tolerance: float, repeats: int) -> Any:
    """First call, least call, and final states."""
    method = item.method(rtol=tolerance, atol=tolerance, max_steps=1_000_000)
    parameters = {name: jnp.asarray(value) for name, value in item.parameters.items()}

    def run() -> Any:
        found = ensemble(item.problem, method, parameters=parameters, engine=engine)
        return found.final_state

    return least_seconds(run, repeats)


def by_diffrax(item: Experiment, tolerance: float, repeats: int) -> Any:
    """The same through diffrax under vmap, for a share of the members."""
    count = max(1, round(item.share * len(next(iter(item.parameters.values())))))
    kind = type(item.problem.system)

    def one(values: dict[str, Any]) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, system: system.vector_field(t, y, {})),
            item.peer(tolerance),
            t0=item.problem.start,
            t1=item.problem.stop,
            dt0=None,
            y0=item.problem.initial_state,
            args=kind(**values),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
            throw=False,
        )
        return jnp.asarray(solution.ys)[0]

    some = {name: jnp.asarray(value[:count]) for name, value in item.parameters.items()}
    solve = jax.jit(jax.vmap(one))
    first, seconds, states = least_seconds(lambda: solve(some), repeats)
    return first, seconds * len(next(iter(item.parameters.values()))) / count, states


def median_error(states: Any, exact: Any) -> float:
    """The median over members of the largest difference, relative to the largest state."""
    states, exact = np.asarray(states), np.asarray(exact)[: len(states)]
    scale = np.max(np.abs(exact), axis=1, keepdims=True)
    return float(np.median(np.max(np.abs(states - exact) / scale, axis=1)))


def print_ordinary(members: int, repeats: int, engines: list[str]) -> None:
    """The table of ordinary differential equations."""
    print("| ensemble | tolerance | engine | us per member | diffrax / it | error | first, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for item in experiments(members):
        exact = by_engine(item, engines[0], 1e-12, 1)[2]
        for tolerance in item.tolerances:
            rows = {"diffrax, vmap": by_diffrax(item, tolerance, min(repeats, 2))}
            for engine in engines:
                rows[engine] = by_engine(item, engine, tolerance, repeats)
            if item.method is Tsit5:
                higher = item._replace(method=Dopri8)
                for engine in engines:
                    rows[f"{engine}, Dopri8"] = by_engine(higher, engine, tolerance, repeats)
            slowest = rows["diffrax, vmap"][1]
            for name, (first, seconds, states) in rows.items():
                each = 1e6 * seconds / members
                print(
                    f"| {item.title} | {tolerance:g} | {name} | {each:.2f} | "
                    f"{slowest / seconds:.1f} | {median_error(states, exact):.1e} | "
                    f"{first:.2f} |",
                    flush=True,
                )


def print_stochastic(paths: int, steps: int, repeats: int, engines: list[str]) -> None:
    """The table of stochastic paths: geometric Brownian motion by Euler and Maruyama."""
    print("\n| engine | ns per path and step | mean | exact mean |")
    print("| --- | --- | --- | --- |")
    system = GeometricBrownianMotion()
    problem = InitialValueProblem(system, 0.0, 1.0)
    method = EulerMaruyama(step=1.0 / steps)
    exact = float(problem.initial_state[0]) * math.exp(float(system.growth_rate))
    for engine in engines:

        def run(engine: str = engine) -> Any:
            key = jax.random.key(0)
            found = ensemble(problem, method, key=key, members=paths, engine=engine)
            return found.final_state

        _, seconds, states = least_seconds(run, repeats)
        mean = float(jnp.mean(states))
        print(f"| {engine} | {1e9 * seconds / paths / steps:.2f} | {mean:.4f} | {exact:.4f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    engines = ["lanes"]
    if importlib.util.find_spec("llvmlite") is not None:
        engines.insert(0, "native")
    print_ordinary(options.members, options.repeats, engines)
    print_stochastic(options.members, 1000, options.repeats, engines)
    print(
        f"\n{datetime.date.today()}, {platform.machine()}, jax {jax.__version__}, "
        f"{options.members} members."
    )


if __name__ == "__main__":
    main()
