"""One step of a Rosenbrock method, with the linear systems solved symbolically before."""

from typing import Any

from solvers.ensemble.native.explicit import Span, Step, combine, stage_time
from solvers.ensemble.native.plan import Rosenbrock
from solvers.ensemble.native.worker import Worker


def rosenbrock_step(w: Worker, method: Rosenbrock, where: Span, y: Any) -> Step:
    """The stages, the step and its error."""
    b, n = w.build, w.plan.states
    begin = b.mul(where.begin, where.direction)
    inverse = b.div(b.real(1.0), where.signed)
    stages: list[Any] = []
    rate: Any = None
    if any(not isinstance(x, float) or x != 0 for x in method.rate.outputs):
        rate = w.room(n)
        w.evaluate("rate", method.rate, begin, y, rate)
    factors = w.room(len(method.factors.outputs))
    scaled = b.mul(inverse, b.real(1 / method.gamma))
    w.evaluate("factors", method.factors, begin, y, factors, scaled)
    slope: Any = w.room(n)
    w.evaluate("drift", method.drift, begin, y, slope)
    state = y
    for s in range(method.stages):
        if any(method.rows[s]):
            state = _plus(w, y, method.rows[s], stages)
            slope = w.room(n)
            time = stage_time(w, where, method.times[s])
            w.evaluate("drift", method.drift, time, state, slope)
        right = _right_side(w, method, s, where.signed, inverse, slope, rate, stages)
        sizes = [len(method.factors.outputs), n]
        stages.append(w.apply("solve", method.solve, [factors, right], sizes))
    after = _plus(w, y, method.step_weights, stages)
    error = w.room(w.plan.controlled)
    w.for_states(
        lambda i: error.store(combine(w, method.error, stages, i), i), w.plan.controlled
    )
    difference = w.room(n)
    w.for_states(lambda i: difference.store(b.sub(after.load(i), y.load(i)), i))
    return Step(after, error, [difference, *stages], None)


def _right_side(
    w: Worker,
    method: Rosenbrock,
    stage: int,
    signed: Any,
    inverse: Any,
    slope: Any,
    rate: Any,
    stages: list[Any],
) -> Any:
    """What the matrix times a stage has to be; `rate` is `None` if the law knows no time."""
    b = w.build
    right = w.room(w.plan.states)
    couplings, weight = method.couplings[stage], method.rate_weights[stage]

    def one(i: Any) -> None:
        value = slope.load(i)
        if any(couplings):
            value = b.fma(inverse, combine(w, couplings, stages, i), value)
        if rate is not None and weight != 0:
            value = b.fma(b.mul(signed, b.real(weight)), rate.load(i), value)
        right.store(value, i)

    w.for_states(one)
    return right


def _plus(w: Worker, y: Any, weights: Any, stages: list[Any]) -> Any:
    """The states with a weighted sum added."""
    b = w.build
    result = w.room(w.plan.states)
    w.for_states(lambda i: result.store(b.add(y.load(i), combine(w, weights, stages, i)), i))
    return result
