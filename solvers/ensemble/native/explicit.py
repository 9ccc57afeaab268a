"""One step of an explicit Runge-Kutta method."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from solvers.ensemble.native.plan import Explicit
from solvers.ensemble.native.worker import Worker


class Span(NamedTuple):
    """Where a step is: its begin, end and length, and the length with its sign in time."""

    begin: Any
    end: Any
    length: Any
    signed: Any
    direction: Any


class Step(NamedTuple):
    """What a step gave.

    - `after`: the states at its end.
    - `error`: the estimate of their error; `None` for methods without.
    - `second`: another one, for methods that combine two; else `None`.
    - `weighted`: what dense output takes its weights of.
    - `slope`: the first slope of the next step, if it is known.
    """

    after: Any
    error: Any
    weighted: list[Any]
    slope: Any
    second: Any = None


def span(w: Worker) -> Span:
    """The step that the lanes are about to take."""
    b, memory = w.build, w.memory
    begin, end, direction = (memory.get(name) for name in ("time", "next", "direction"))
    length = b.sub(end, begin)
    return Span(begin, end, length, b.mul(length, direction), direction)


def stage_time(w: Worker, where: Span, fraction: float) -> Any:
    """A time of a step as the law knows it."""
    b = w.build
    if fraction == 1:
        return b.mul(where.end, where.direction)
    time = b.fma(b.real(fraction), where.length, where.begin)
    return b.mul(time, where.direction)


def combine(w: Worker, weights: Sequence[Any], slopes: Sequence[Any], i: Any) -> Any:
    """The weighted sum of one component; weights are numbers or vectors."""
    b = w.build
    total = None
    for weight, slope in zip(weights, slopes, strict=False):
        if isinstance(weight, float):
            if weight == 0:
                continue
            weight = b.real(weight)
        value = slope.load(i)
        total = b.mul(weight, value) if total is None else b.fma(weight, value, total)
    return b.real(0.0) if total is None else total


def explicit_step(w: Worker, method: Explicit, where: Span, y: Any) -> Step:
    """The stages, the step and its error."""
    b, n = w.build, w.plan.states
    first = w.room(n)
    if method.reuses_last:
        known = w.memory.part("slope")
        w.for_states(lambda i: first.store(known.load(i), i))
    else:
        w.evaluate("drift", method.drift, b.mul(where.begin, where.direction), y, first)
    slopes = [first]
    after = y
    for row, fraction in zip(method.rows, method.times, strict=True):
        after = moved(w, y, where.signed, row, slopes)
        slope = w.room(n)
        w.evaluate("drift", method.drift, stage_time(w, where, fraction), after, slope)
        slopes.append(slope)
    if not method.last_is_solution:
        after = moved(w, y, where.signed, method.solution, slopes)
    error, second = (
        None if weights is None else _estimate(w, where.signed, weights, slopes)
        for weights in (method.error, method.second_error)
    )
    return Step(after, error, slopes, slopes[-1] if method.reuses_last else None, second)


def _estimate(w: Worker, length: Any, weights: Sequence[float], slopes: Any) -> Any:
    """A weighted sum of the slopes of the states that control the steps."""
    result, controlled = w.room(w.plan.controlled), w.plan.controlled
    w.for_states(
        lambda i: result.store(w.build.mul(length, combine(w, weights, slopes, i)), i),
        controlled,
    )
    return result


def moved(w: Worker, y: Any, length: Any, weights: Sequence[float], slopes: Any) -> Any:
    """The states moved by a weighted sum of slopes."""
    b = w.build
    result = w.room(w.plan.states)
    w.for_states(
        lambda i: result.store(b.fma(length, combine(w, weights, slopes, i), y.load(i)), i)
    )
    return result
