"""Methods for stochastic equations over lanes, with constant steps."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.lanes.fields import LaneFunction, Lanes, over_lanes
from solvers.ensemble.lanes.noise import normal
from solvers.ensemble.lanes.rule import Rule, Span, Step, linear_between, nothing
from solvers.ensemble.law import EngineRefusal, Law
from solvers.integrators.base import AbstractMethod
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    StratonovichHeun,
    StratonovichMilstein,
)


def stochastic_rule(law: Law, method: AbstractMethod) -> Rule:
    """Euler-Maruyama, Heun or Milstein; states between steps are interpolated linearly.

    The increments of a step depend on the key of the member and the number of the step
    alone, so that a path does on its key and step.

    **Raises:** `EngineRefusal` for other methods.
    """
    if law.diffusion is None:
        raise EngineRefusal("The law has no noise.")
    drift, diffusion = over_lanes(law.drift, law), over_lanes(law.diffusion, law)
    if isinstance(method, EulerMaruyama):
        advance = _euler(law, drift, diffusion)
    elif isinstance(method, StratonovichHeun):
        advance = _heun(law, drift, diffusion)
    elif isinstance(method, Milstein | StratonovichMilstein):
        ito = isinstance(method, Milstein)
        advance = _milstein(law, drift, diffusion, ito)
    else:
        raise EngineRefusal(
            f"Lanes have no {type(method).__name__}; they have EulerMaruyama, Milstein, "
            "StratonovichHeun and StratonovichMilstein."
        )
    return Rule(drift, nothing, advance, linear_between, method.order)


def _increments(law: Law, span: Span) -> Lanes:
    """Of each Wiener process."""
    kind = span.begin.dtype
    words = (span.words[0], span.words[1])
    size = jnp.sqrt(span.length)
    return tuple(size * normal(words, span.number, i, kind) for i in range(law.noises))


def _noise(law: Law, diffusion: Lanes, increments: Lanes, state: int) -> Any:
    """What the noise adds to a state."""
    if law.diagonal:
        return diffusion[state] * increments[state % law.noises]
    row = diffusion[state * law.noises : (state + 1) * law.noises]
    return sum(g * dw for g, dw in zip(row, increments, strict=True))


def _euler(law: Law, drift: LaneFunction, diffusion: LaneFunction) -> Any:
    def advance(span: Span, y: Lanes, carried: Lanes) -> Step:
        del carried
        point, increments = span.at(0.0, y), _increments(law, span)
        f, g = drift(point), diffusion(point)
        after = tuple(
            x + span.h * f[i] + _noise(law, g, increments, i) for i, x in enumerate(y)
        )
        return Step(after, (), None)

    return advance


def _heun(law: Law, drift: LaneFunction, diffusion: LaneFunction) -> Any:
    euler = _euler(law, drift, diffusion)

    def advance(span: Span, y: Lanes, carried: Lanes) -> Step:
        increments = _increments(law, span)
        begin = span.at(0.0, y)
        end = span.at(1.0, euler(span, y, carried).after)
        f, g = _mean(drift, begin, end), _mean(diffusion, begin, end)
        after = tuple(
            x + span.h * f[i] + _noise(law, g, increments, i) for i, x in enumerate(y)
        )
        return Step(after, (), None)

    return advance


def _mean(function: LaneFunction, begin: Any, end: Any) -> Lanes:
    return tuple((x + z) / 2 for x, z in zip(function(begin), function(end), strict=True))


def _milstein(law: Law, drift: LaneFunction, diffusion: LaneFunction, ito: bool) -> Any:
    euler = _euler(law, drift, diffusion)
    if not law.diagonal:  # which for this method means that it is additive
        return euler
    bend = over_lanes(law.bend, law)

    def advance(span: Span, y: Lanes, carried: Lanes) -> Step:
        increments, slopes = _increments(law, span), bend(span.at(0.0, y))

        def square(state: int) -> Array:
            dw = increments[state % law.noises]
            return dw * dw - span.length if ito else dw * dw

        after = euler(span, y, carried).after
        after = tuple(x + slopes[i] * square(i) / 2 for i, x in enumerate(after))
        return Step(after, (), None)

    return advance
