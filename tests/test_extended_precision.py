"""Hessians of trajectories against differences in fifty digits."""

import itertools
from decimal import Decimal, getcontext
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.integrators.deterministic import Tsit5
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.base import AbstractODE, State, parameter


SPECIES, REACTIONS, STEPS, STOP = 10, 50, 12, 1.5
_GENERATOR = np.random.default_rng(11)
FIRST, SECOND, TARGET = (_GENERATOR.integers(0, SPECIES, REACTIONS) for _ in range(3))
RATES = _GENERATOR.uniform(0.1, 1.0, REACTIONS)
START = _GENERATOR.uniform(0.5, 1.5, SPECIES)


class Network(AbstractODE):
    """Reactions `first + second -> target + second` with mass-action rates."""

    rates: Any = parameter()
    states = tuple(State(f"species_{i}", 1.0) for i in range(SPECIES))

    def vector_field(self, t, y, inputs):
        del t, inputs
        flux = self.rates * y[FIRST] * y[SECOND]
        return jnp.zeros(SPECIES).at[FIRST].add(-flux).at[TARGET].add(flux)


class Hares(AbstractODE):
    """Lotka-Volterra with its four parameters in one vector."""

    rates: Any = parameter()
    states = (State("prey", 1.0), State("predator", 0.5))

    def vector_field(self, t, y, inputs):
        del t, inputs
        a, b, c, d = self.rates
        return jnp.stack([(a - b * y[1]) * y[0], (d * y[0] - c) * y[1]])


def network_field(rates, y):
    slope = [Decimal(0)] * SPECIES
    for i, rate in enumerate(rates):
        flux = rate * y[FIRST[i]] * y[SECOND[i]]
        slope[FIRST[i]] -= flux
        slope[TARGET[i]] += flux
    return slope


def hares_field(rates, y):
    a, b, c, d = rates
    return [(a - b * y[1]) * y[0], (d * y[0] - c) * y[1]]


CASES = {
    "Lotka-Volterra": (Hares, hares_field, np.array([1.1, 0.9, 0.8, 0.7]), START[:2]),
    "mass action, 50 rates": (Network, network_field, RATES, START),
}


def extended_solve(field, rates, start):
    """Tsit5 with constant steps, in the precision of the context: half the sum of squares."""
    tableau = diffrax.Tsit5.tableau
    rows = [[Decimal(float(a)) for a in row] for row in tableau.a_lower]
    ends = [Decimal(0), Decimal(STOP / STEPS)]
    ends += [Decimal(STOP) * (k + 1) / STEPS for k in range(1, STEPS)]
    y = [Decimal(float(value)) for value in start]
    for begin, end in itertools.pairwise(ends):
        h, stage = end - begin, y
        slopes = [field(rates, y)]
        for row in rows:
            stage = [
                value + h * sum(a * k[i] for a, k in zip(row, slopes, strict=False))
                for i, value in enumerate(y)
            ]
            slopes.append(field(rates, stage))
        y = stage  # the last stage is the solution
    return sum((value * value for value in y), Decimal(0)) / 2


@pytest.mark.parametrize("name", CASES)
def test_hessians_to_eight_digits(name):
    make, field, rates, start = CASES[name]

    def objective(rates):
        method = Tsit5(step=STOP / STEPS, max_steps=2 * STEPS)
        problem = InitialValueProblem(make(rates=rates), 0.0, STOP, start)
        return 0.5 * jnp.sum(solve(problem, method, throw=False).states ** 2)

    hessian = np.asarray(jax.jit(jax.hessian(objective))(jnp.asarray(rates)))
    getcontext().prec = 50
    exact = [Decimal(float(rate)) for rate in rates]
    h = Decimal("1e-10")

    def at(*shifts):
        moved = list(exact)
        for direction, sign in shifts:
            moved = [
                r + sign * h * Decimal(float(d)) for r, d in zip(moved, direction, strict=True)
            ]
        return extended_solve(field, moved, start)

    generator = np.random.default_rng(3)
    for _ in range(4):
        u, v = generator.normal(size=(2, rates.size))
        mixed = (
            at((u, 1), (v, 1))
            - at((u, 1), (v, -1))
            - at((u, -1), (v, 1))
            + at((u, -1), (v, -1))
        )
        expected = float(mixed / (4 * h * h))
        assert abs(u @ hessian @ v - expected) < 1e-10 * np.linalg.norm(hessian) * (
            np.linalg.norm(u) * np.linalg.norm(v)
        )
