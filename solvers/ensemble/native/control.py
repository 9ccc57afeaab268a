"""Step sizes: the first one, integral control of the error, and constant steps.

As in diffrax (`PIDController` with its defaults, `ConstantStepSize`,
`ClipStepSizeController`) with the guard of `solvers.integrators.base`, so that the steps
are the same.
"""

import sys
from typing import Any, NamedTuple

from solvers.ensemble.native.build import Build
from solvers.ensemble.native.explicit import Span, Step
from solvers.ensemble.native.functions import quick_power
from solvers.ensemble.native.worker import Worker
from solvers.ensemble.stepping import FIRST_LENGTH, GROW, SAFETY, SHRINK
from solvers.integrators.dop853 import THIRD_ORDER_WEIGHT


class Control(NamedTuple):
    """What becomes of a step.

    - `keep`: whether it is accepted.
    - `time`, `next`: begin and end of the next step.
    - `stuck`: whether time can no longer advance.
    """

    keep: Any
    time: Any
    next: Any
    stuck: Any


def first_end(w: Worker) -> Any:
    """The end of the first step of fresh lanes."""
    b, memory = w.build, w.memory
    begin, stop = memory.get("time"), memory.get("stop")
    if w.plan.adaptive:
        end = b.add(begin, b.real(FIRST_LENGTH))
        if w.plan.on_saves:
            end = b.minimum(end, memory.get("clip"))
    else:
        end = b.add(begin, w.settings["step"])
    return b.minimum(end, stop)


def adapt(w: Worker, where: Span, y: Any, step: Step) -> Control:
    """Accept or reject a step by its error, and choose the next."""
    b, memory, plan = w.build, w.memory, w.plan
    one = b.real(1.0)

    def term(i: Any) -> Any:
        size = b.maximum(b.abs(step.after.load(i)), b.abs(y.load(i)))
        scale = b.fma(size, w.settings["rtol"], w.settings["atol"])
        if step.second is not None:
            return _combined_square(b, step.error.load(i), step.second.load(i), scale)
        ratio = b.div(step.error.load(i), scale)
        return b.mul(ratio, ratio)

    square = b.mul(w.sum_over(term, plan.controlled), b.real(1 / plan.controlled))
    keep = b.less(square, one)
    # Beyond these bounds the factor is at its limits; no number counts as a large error.
    bounded = b.maximum(b.minimum(square, b.real(1e60)), b.real(1e-60))
    factor = b.mul(b.real(SAFETY), quick_power(b, bounded, -0.5 / plan.order))
    lowest = b.select(keep, one, b.real(SHRINK))
    highest = b.select(keep, b.real(GROW), b.real(SAFETY))
    factor = b.minimum(b.maximum(factor, lowest), highest)
    begin = b.select(keep, where.end, where.begin)
    end = b.fma(where.length, factor, begin)
    smallest = b.maximum(
        b.mul(b.real(4 * sys.float_info.epsilon), b.abs(begin)),
        b.real(sys.float_info.min**0.25),
    )
    short = b.compare("<=", b.sub(end, begin), smallest)
    stuck = b.both(short, b.opposite(keep))
    stop = memory.get("stop")
    begin = b.minimum(begin, stop)
    half_way = b.fma(b.sub(stop, begin), b.real(0.5), begin)
    return Control(keep, begin, _clipped(w, end, b.select(keep, stop, half_way)), stuck)


def _combined_square(b: Build, fifth: Any, third: Any, scale: Any) -> Any:
    """The square of the error of `combined_error` in units of the tolerance."""
    first, second = b.mul(fifth, fifth), b.mul(third, third)
    both = b.fma(b.real(THIRD_ORDER_WEIGHT), second, first)
    # Without any error there is nothing to divide by.
    below = b.maximum(b.mul(both, b.mul(scale, scale)), b.real(sys.float_info.min))
    return b.div(b.mul(first, first), below)


def _clipped(w: Worker, end: Any, instead: Any) -> Any:
    """The end of a step, but another one if it is at the end of the solve or beyond."""
    b = w.build
    return b.select(b.less(w.memory.get("floor"), end), instead, end)


def constant(w: Worker, where: Span) -> Control:
    """The step is accepted, and the next as long; the last ends on `stop`."""
    b, memory = w.build, w.memory
    begin, stop, steps = (memory.get(name) for name in ("begin", "stop", "steps"))
    number = b.add(memory.get("accepted"), b.real(2.0))
    share = b.div(number, steps)
    end = b.fma(b.sub(stop, begin), share, begin)
    end = b.select(b.compare("==", number, steps), stop, end)
    time = b.minimum(where.end, stop)
    return Control(b.truth(True), time, _clipped(w, end, stop), b.truth(False))
