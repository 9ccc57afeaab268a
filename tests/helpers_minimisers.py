"""Problems for minimisers, all in one program per method: one lane of a vmap for each."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from solvers.optimisers.base import Minimisation, Optimum, optimise, stop_names

from .helpers_compile import quick_jit


def rosenbrock(y: Any, offset: Any) -> Any:
    return 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2 + offset


def _edge(y: Any) -> Any:
    return y[0] + 50 - 30 * jnp.log(y[0] + 50) + y[1] ** 2 + y[2] ** 2


FUNCTIONS = {
    "valley": lambda y, p: rosenbrock((y[0] / p[1], y[1] * p[1]), p[0]) + y[2] ** 2,
    "saddle": lambda y, p: y[0] ** 2 - y[1] ** 2 + y[1] ** 4 + jnp.cos(y[2]),
    "hill": lambda y, p: -jnp.sum(y**2),
    "cosine": lambda y, p: p[0] + jnp.cos(y[0]) + y[1] ** 2 + y[2] ** 2,
    "plateau": lambda y, p: -jnp.exp(-jnp.sum(y**2)),
    "constant": lambda y, p: p[0] + 0 * y[0],
    "logarithm": lambda y, p: jnp.log(y[0] - 40),
    "edge": lambda y, p: _edge(y),
    "quartic": lambda y, p: jnp.sum((y - p) ** 4),
    "slope": lambda y, p: y[0] + 2 * y[1] - (1 - p[0]) * y[2] + p[0] * (y[2] - 0.5) ** 2,
}


class Case(NamedTuple):
    """A function by name, where to start, its numbers, and bounds."""

    function: str
    start: tuple[float, float, float]
    numbers: tuple[float, float, float] = (0.0, 1.0, 0.0)
    lower: float | tuple[float, float, float] = -np.inf
    upper: float | tuple[float, float, float] = np.inf


FAR = (-1.2, 1.0, 0.0)
CASES = {
    "no offset": Case("valley", FAR),
    "offset": Case("valley", FAR, (1e6, 1.0, 0.0)),
    "huge offset": Case("valley", FAR, (1e10, 1.0, 0.0)),
    "no number": Case("valley", FAR, (np.nan, 1.0, 0.0)),
    "bounds": Case("valley", FAR, upper=(0.5, 2.0, 9.0)),
    "saddle": Case("saddle", (0.0, 0.0, 0.0)),
    "saddle on the way": Case("saddle", (1.0, 0.0, 0.0)),
    "maximum": Case("cosine", (0.0, 0.0, 0.0)),
    "maximum on an offset": Case("cosine", (0.0, 0.0, 0.0), (1e6, 0.0, 0.0)),
    "maximum at a bound": Case("cosine", (0.0, 0.0, 0.0), lower=0.0, upper=4.0),
    "minimum": Case("cosine", (np.pi, 0.0, 0.0)),
    "unbounded": Case("hill", (30.5, 0.0, 0.0)),
    "plateau": Case("plateau", (30.0, 0.0, 0.0)),
    "constant": Case("constant", (1.0, 2.0, 3.0), (7.0, 0.0, 0.0)),
    "logarithm": Case("logarithm", (30.5, 0.0, 0.0)),
    "edge": Case("edge", (-19.5, 0.0, 0.0)),
    "far edge": Case("edge", (-49.999, 1.0, 1.0)),
    "quartic": Case("quartic", (1.0, 1.0, 1.0), (3.0, -2.0, 0.0)),
    "quartic at zero": Case("quartic", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "all to bounds": Case("slope", (1.0, 1.0, 1.0), lower=-3.0, upper=5.0),
    "all on bounds": Case("slope", (-3.0, -3.0, 5.0), lower=-3.0, upper=5.0),
    "some to bounds": Case("slope", (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), -3.0, 5.0),
    "one fixed": Case(
        "slope", (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (-3.0, 1.0, -3.0), (5.0, 1, 5)
    ),
}
UNITS = {"large units": Case("valley", (-1.2e6, 1e-6, 0.0), (0.0, 1e6, 0.0))}


class Outcome(NamedTuple):
    """All lanes, by name."""

    found: Optimum
    names: list[str]

    def lane(self, name: str) -> Optimum:
        return jax.tree.map(lambda leaf: leaf[self.names.index(name)], self.found)

    def reason(self, name: str) -> str:
        return stop_names()[int(self.lane(name).stop._value)]


@functools.cache
def program(method: Any) -> Any:
    """All lanes of a method as one compiled function."""
    branches = list(FUNCTIONS.values())

    def objective(y: Any, args: Any) -> Any:
        return jax.lax.switch(args[0], branches, y, args[1])

    def run(index: Any, start: Any, numbers: Any, lower: Any, upper: Any, limit: Any) -> Any:
        problem = Minimisation(objective, lower, upper)
        args = (index, numbers)
        return optimise(problem, method, start, args, max_steps=limit, throw=False)

    return quick_jit(jax.vmap(run))


def outcome(method: Any, cases: dict[str, Case], limit: int = 300) -> Outcome:
    """Run all cases; a second call with as many cases compiles nothing."""
    functions = list(FUNCTIONS)
    each = cases.values()
    bounds = [
        jnp.asarray([np.broadcast_to(bound, 3) for bound in side], float)
        for side in ([case.lower for case in each], [case.upper for case in each])
    ]
    found = program(method)(
        jnp.asarray([functions.index(case.function) for case in each]),
        jnp.asarray([case.start for case in each]),
        jnp.asarray([case.numbers for case in each], float),
        *bounds,
        jnp.full(len(cases), limit),
    )
    return Outcome(found, list(cases))


def watched(method: Any) -> tuple[Optimum, np.ndarray]:
    """Rosenbrock's valley with an upper bound, and all points that were evaluated."""
    seen: list[np.ndarray] = []

    def objective(y: Any, args: Any) -> Any:
        jax.debug.callback(lambda value: seen.append(np.array(value).reshape(-1, 2)), y)
        return rosenbrock(y, args)

    problem = Minimisation(objective, upper=jnp.asarray([0.5, 2.0]))
    found = optimise(problem, method, jnp.asarray([-1.2, 1.0]), 0.0)
    jax.effects_barrier()
    return found, np.concatenate(seen)
