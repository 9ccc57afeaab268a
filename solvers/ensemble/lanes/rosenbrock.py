"""Rosenbrock methods over lanes, with the linear systems written out if they are small."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.lanes.barrier import apart
from solvers.ensemble.lanes.fields import (
    Lanes,
    Point,
    by_program,
    columns,
    combine,
    over_lanes,
    program_of,
    rows,
)
from solvers.ensemble.lanes.rule import Rule, Span, Step, nothing
from solvers.ensemble.law import Law
from solvers.ensemble.scalarise.evaluate import evaluate
from solvers.ensemble.scalarise.linear import linear_solver
from solvers.integrators.rosenbrock import RosenbrockTableau, dense_weights


LONGEST = 3_000
"""Operations of the linear systems of one step up to which they are written out."""

Factorise = Callable[[Point, Array], Any]
"""From a point and the diagonal that the method adds to what `Solve` needs."""

Solve = Callable[[Any, Lanes], Lanes]
"""From that and a right side to the solution."""


def rosenbrock_rule(law: Law, tableau: RosenbrockTableau, order: float) -> Rule:
    """The method of a tableau."""
    drift = over_lanes(law.drift, law)
    rate = over_lanes(law.rate, law)
    factorise, solve = _linear_system(law, tableau)

    def stage(number: int) -> Any:
        a, coupling = tableau.a[number], tableau.coupling[number]
        c, d = tableau.c[number], tableau.rate[number]

        def one(factors: Any, slow: Lanes, found: list[Lanes], span: Span, y: Lanes) -> Lanes:
            inverse, slope = 1 / span.h, drift(span.at(c, _plus(y, a, found)))
            right = tuple(
                f + inverse * combine(coupling, [u[i] for u in found]) + span.h * d * slow[i]
                for i, f in enumerate(slope)
            )
            return solve(factors, right)

        return one

    def begin(span: Span, y: Lanes) -> Any:
        start = span.at(0.0, y)
        return factorise(start, 1 / (tableau.gamma * span.h)), rate(start)

    def stages(span: Span, y: Lanes) -> list[Lanes]:
        factors, slow = apart(begin, span.always, span, y)
        found: list[Lanes] = []
        for number in range(len(tableau.c)):
            found.append(apart(stage(number), span.always, factors, slow, found, span, y))
        return found

    def advance(span: Span, y: Lanes, carried: Lanes) -> Step:
        del carried
        found = stages(span, y)
        error = tuple(
            combine(tableau.error, [u[i] for u in found]) for i in range(law.controlled)
        )
        return Step(_plus(y, tableau.b, found), (), error)

    def between(span: Span, before: Lanes, after: Lanes, fraction: Array) -> Lanes:
        found = stages(span, before)
        go, weights = dense_weights(tableau, fraction)
        return tuple(
            x + go * (z - x) + sum(w * u[i] for w, u in zip(weights, found, strict=True))
            for i, (x, z) in enumerate(zip(before, after, strict=True))
        )

    return Rule(drift, nothing, advance, between, order)


def _linear_system(law: Law, tableau: RosenbrockTableau) -> tuple[Factorise, Solve]:
    """Programs if they are short, else the factorisation of LAPACK for each lane."""
    jacobian_of = jax.jacfwd(law.drift, argnums=1)
    jacobian = program_of(jacobian_of, law, LONGEST)
    if jacobian is not None and law.states**2 <= LONGEST:
        factors, solution = linear_solver(jacobian, law.states)
        length = len(factors.operations) + len(tableau.b) * len(solution.operations)
        if length <= LONGEST:
            return by_program(factors), lambda known, right: tuple(
                evaluate(solution, [*known, *right])
            )

    def factorise(point: Point, diagonal: Array) -> Any:
        jacobians = jax.vmap(jacobian_of, (0, 0, 0, None))(*rows(point))
        unit = jnp.eye(law.states, dtype=jacobians.dtype)
        return jax.scipy.linalg.lu_factor(diagonal[:, None, None] * unit[None] - jacobians)

    def solve(known: Any, right: Lanes) -> Lanes:
        one = jax.vmap(lambda lu, right: jax.scipy.linalg.lu_solve(lu, right))
        return columns(one(known, jnp.stack(right, -1)))

    return factorise, solve


def _plus(y: Lanes, weights: Any, stages: list[Lanes]) -> Lanes:
    return tuple(x + combine(weights, [u[i] for u in stages]) for i, x in enumerate(y))
