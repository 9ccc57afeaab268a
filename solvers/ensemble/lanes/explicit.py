"""Explicit Runge-Kutta methods over lanes."""

from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from solvers.ensemble.lanes.barrier import apart
from solvers.ensemble.lanes.fields import Lanes, combine, over_lanes
from solvers.ensemble.lanes.rule import Rule, Span, Step, nothing
from solvers.ensemble.law import Law
from solvers.ensemble.scalarise.evaluate import evaluate
from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.walk import scalarise
from solvers.ensemble.stepping import error_order
from solvers.integrators.dop853 import combined_error


TOGETHER = 3
"""Stages that are computed together: fewer would make more calls, more repeat work."""


def explicit_rule(law: Law, solver: diffrax.AbstractERK) -> Rule:
    """The method of a diffrax solver, with its tableau and its dense output."""
    drift = over_lanes(law.drift, law)
    tableau: Any = solver.tableau
    weights = dense_program(solver)
    second = getattr(solver, "second_error", None)
    rows = list(zip(tableau.c, tableau.a_lower, strict=True))

    def some(part: slice) -> Any:
        def following(slopes: list[Lanes], span: Span, y: Lanes) -> Any:
            slopes, stage = list(slopes), y
            for c, row in rows[part]:
                stage = _plus(y, span.h, row, slopes)
                slopes.append(drift(span.at(float(c), stage)))
            return slopes, stage

        return following

    def stages(span: Span, y: Lanes, first: Lanes) -> tuple[list[Lanes], Lanes]:
        slopes, stage = [first], y
        for begin in range(0, len(rows), TOGETHER):
            part = some(slice(begin, begin + TOGETHER))
            slopes, stage = apart(part, span.always, slopes, span, y)
        return slopes, stage

    def estimate(span: Span, slopes: list[Lanes], weights: Any) -> Lanes:
        return tuple(
            span.h * combine(weights, [k[i] for k in slopes]) for i in range(law.controlled)
        )

    def advance(span: Span, y: Lanes, carried: Lanes) -> Step:
        slopes, stage = stages(span, y, carried or drift(span.at(0.0, y)))
        after = stage if tableau.ssal else _plus(y, span.h, tableau.b_sol, slopes)
        error = estimate(span, slopes, tableau.b_error)
        if second is not None:
            pairs = zip(error, estimate(span, slopes, second), strict=True)
            error = tuple(combined_error(*pair) for pair in pairs)
        return Step(after, slopes[-1] if tableau.fsal else (), error)

    def between(span: Span, before: Lanes, after: Lanes, fraction: Array) -> Lanes:
        slopes, _ = stages(span, before, drift(span.at(0.0, before)))
        stay, go, *parts = evaluate(weights, [fraction])
        return tuple(
            stay * before[i]
            + go * after[i]
            + span.h * sum(w * k[i] for w, k in zip(parts, slopes, strict=True))
            for i in range(law.states)
        )

    begin = drift if tableau.fsal else nothing
    return Rule(drift, begin, advance, between, error_order(solver))


def dense_program(solver: diffrax.AbstractERK) -> Program:
    """From the fraction of a step to weights: of the states at its ends, and of the slopes.

    The weights of the slopes are to be multiplied by the step. Diffrax's dense output is
    linear in all of them, so that its values for unit vectors are the weights.
    """
    tableau: Any = solver.tableau
    count = len(tableau.b_sol)
    unit = np.eye(count + 2)

    def weights(fraction: Any) -> Any:
        y0, y1, *k = jnp.asarray(unit)
        dense = {"y0": y0, "y1": y1, "k": jnp.stack(k)}
        interpolation: Any = solver.interpolation_cls
        one = jnp.ones_like(fraction)
        return interpolation(t0=0 * one, t1=one, **dense).evaluate(fraction)

    return scalarise(weights, ())


def _plus(y: Lanes, h: Array, weights: Any, slopes: list[Lanes]) -> Lanes:
    return tuple(x + h * combine(weights, [k[i] for k in slopes]) for i, x in enumerate(y))
