"""The loop over time around the steps of all lanes; finished lanes take the next member."""

import functools
import math
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F64, I64, POINTER
from solvers.ensemble.native.control import Control, adapt, constant, first_end
from solvers.ensemble.native.emit import emit
from solvers.ensemble.native.explicit import Step, combine, explicit_step, span
from solvers.ensemble.native.noise import load_key
from solvers.ensemble.native.plan import Explicit, Plan, Rosenbrock, Stochastic
from solvers.ensemble.native.rosenbrock import rosenbrock_step
from solvers.ensemble.native.saving import (
    fill_unsaved,
    next_clip,
    put_whole,
    save,
    save_time,
    whole,
)
from solvers.ensemble.native.stochastic import advance
from solvers.ensemble.native.worker import CALL, Worker
from solvers.solution import status_names


KERNEL = "simkit_kernel"
"""The name of the one function of a module that is called from outside."""

CLIPPED_DIGITS = 100
"""Units in the last place before the end of a solve from which on a step ends there."""


def kernel_module(plan: Plan, lanes: int, triple: str = "") -> ir.Module:
    """The code of a kernel: one function `void* kernel(call*)`, the work of one thread.

    Any number of threads may run it at the same time with the same call.

    Raises `ValueError` unless `lanes` is a power of two: kernels of 12 lanes were seen to
    take other steps.
    """
    if lanes < 1 or lanes & (lanes - 1):
        raise ValueError(f"A kernel of {lanes} lanes: expected a power of two.")
    module = ir.Module("kernel")
    module.triple = triple
    w = Worker(module, plan, lanes, KERNEL)
    b = w.build
    w.poor = _poor_parameters(w)
    memory = w.memory
    for name in ("active", "fresh", "member", "status", "saved"):
        memory.put(name, b.real(0.0))
    refill, step, leave = b.block("refill"), b.block("step"), b.block("leave")
    wanting = b.space(I64)
    b.store(b.count((1 << lanes) - 1), wanting)
    b.ir.branch(refill)
    b.ir.position_at_end(refill)
    b.each_set(b.load(I64, wanting), lambda lane: _replace(w, lane))
    _begin(w)
    active = b.bits(memory.is_set("active"))
    b.store(active, w.active)
    with b.ir.if_then(b.ir.icmp_unsigned("==", active, b.count(0))):
        b.ir.branch(leave)
    _go_on(w, wanting, refill, step)
    b.ir.position_at_end(step)
    if isinstance(plan.method, Stochastic):
        advance(w, plan.method)
    else:
        _advance(w)
    _go_on(w, wanting, refill, step)
    b.ir.position_at_end(leave)
    b.finish(ir.Constant(POINTER, None))
    return module


def _go_on(w: Worker, wanting: Any, refill: Any, step: Any) -> None:
    """Refill the lanes that are done, if any, else step."""
    b = w.build
    done = b.ir.and_(b.bits(finished(w)), b.load(I64, w.active))
    b.store(done, wanting)
    some = b.ir.icmp_unsigned("!=", done, b.count(0))
    b.ir.cbranch(some, refill, step)


def finished(w: Worker) -> Any:
    """The lanes whose member has reached its end, or failed, and those without one."""
    b, memory = w.build, w.memory
    going = b.less(memory.get("time"), memory.get("stop"))
    attempts = memory.get("attempts" if w.plan.adaptive else "accepted")
    return b.opposite(b.both(going, b.less(attempts, w.settings["max_steps"])))


def _fail(w: Worker, where: Any, status: str) -> None:
    """Give up the members of some lanes, which then have nowhere to go."""
    b, memory = w.build, w.memory
    memory.blend("status", where, b.real(_status(status)))
    memory.blend("stop", where, b.real(-math.inf))


def _advance(w: Worker) -> None:
    """One step of all lanes."""
    b, memory, plan = w.build, w.memory, w.plan
    method, one = plan.method, b.real(1.0)
    where = span(w)
    before, y = memory.part("y"), w.room(plan.states)
    w.for_states(lambda i: y.store(before.load(i), i))
    if isinstance(method, Explicit):
        step = explicit_step(w, method, where, y)
    else:
        assert isinstance(method, Rosenbrock)
        step = rosenbrock_step(w, method, where, y)
    control = adapt(w, where, y, step) if plan.adaptive else constant(w, where)
    dense = functools.partial(_dense, w, y, step, where.signed)
    save(w, where.begin, where.end, control.keep, dense)
    _take(w, control, step)
    accepted = b.select(control.keep, one, b.real(0.0))
    memory.put("accepted", b.add(memory.get("accepted"), accepted))
    if plan.adaptive:
        memory.put("attempts", b.add(memory.get("attempts"), one))


def _take(w: Worker, control: Control, step: Step) -> None:
    """Go to the end of the step in the lanes that keep it."""
    b, memory, plan = w.build, w.memory, w.plan
    y, slope = memory.part("y"), memory.part("slope")

    def blend(place: Any, value: Any, i: Any) -> None:
        place.store(b.select(control.keep, value.load(i), place.load(i)), i)

    w.for_states(lambda i: blend(y, step.after, i))
    if step.slope is not None:
        w.for_states(lambda i: blend(slope, step.slope, i))
    time, end = control.time, control.next
    if plan.on_saves and plan.adaptive:
        stop = memory.get("stop")
        clipped = b.minimum(memory.get("clip"), end)
        # An end within rounding of the last saved time is moved to `stop`, as any.
        end = b.select(b.less(memory.get("floor"), clipped), end, clipped)
        end = b.minimum(end, stop)
    memory.put("time", time)
    memory.put("next", end)
    some = b.ir.icmp_unsigned("!=", b.bits(control.stuck), b.count(0))
    with b.ir.if_then(some, likely=False):
        _fail(w, control.stuck, "step_size_underflow")


def _dense(w: Worker, y: Any, step: Step, signed: Any, fraction: Any, out: Any) -> None:
    """States within a step; weights are of slopes, or of what the method says."""
    b, method = w.build, w.plan.method
    assert isinstance(method, Explicit | Rosenbrock)
    if isinstance(method, Rosenbrock):
        signed = b.real(1.0)
    weights = emit(b, method.dense, [fraction])
    constants: list[Any] = [
        0.0 if isinstance(x, float) and x == 0 else weight
        for x, weight in zip(method.dense.outputs, weights, strict=True)
    ]

    def one(i: Any) -> None:
        change = combine(w, constants, step.weighted, i)
        out.store(b.fma(signed, change, y.load(i)), i)

    w.for_states(one)


@functools.cache
def _status(name: str) -> float:
    return float(status_names().index(name))


def _poor_parameters(w: Worker) -> Any:
    """Whether one of the shared numbers is none."""
    b = w.build
    found = b.space(ir.IntType(1))
    b.ir.store(ir.Constant(ir.IntType(1), 0), found)

    def look(i: Any) -> None:
        value = b.load(F64, w.word("shared"), i)
        with b.ir.if_then(b.ir.fcmp_unordered("uno", value, value)):
            b.ir.store(ir.Constant(ir.IntType(1), 1), found)

    b.loop(b.count(w.plan.shared), look)
    return b.ir.load(found, typ=ir.IntType(1))


def _replace(w: Worker, lane: Any) -> None:
    """Write what became of a lane's member, and give the lane the next one."""
    b, memory = w.build, w.memory
    active = b.ir.fcmp_ordered("!=", memory.get_lane("active", lane), F64(0.0))
    with b.ir.if_then(active):
        _conclude(w, lane)
    queue = b.at(I64, w.call, CALL.index("queue"))
    member = b.ir.atomic_rmw("add", queue, b.count(1), "monotonic")
    some = b.ir.icmp_signed("<", member, w.word("members"))
    with b.ir.if_else(some) as (then, otherwise):
        with then:
            _load(w, member, lane)
        with otherwise:
            memory.put_lane("active", lane, F64(0.0))
            # A step of no length, so that nothing happens in the lane.
            memory.put_lane("next", lane, memory.get_lane("time", lane))


def _conclude(w: Worker, lane: Any) -> None:
    """Write the final state, the status and the counts."""
    b, memory, n = w.build, w.memory, w.plan.states
    member = whole(w, "member", lane)
    fill_unsaved(w, lane)
    y = memory.part("y")
    place = b.at(F64, w.word("final_state"), b.ir.mul(member, b.count(n)))
    total = b.space(F64)
    b.ir.store(F64(0.0), total)

    def copy(i: Any) -> None:
        value = b.load(F64, y.lane(i, lane))
        b.store(value, place, i)
        # No number, if one of them is none or infinite.
        none = b.ir.fmul(value, F64(0.0))
        b.ir.store(b.ir.fadd(b.ir.load(total, typ=F64), none), total)

    w.for_states(copy)
    lost = b.ir.load(total, typ=F64)
    lost = b.ir.fcmp_unordered("uno", lost, lost)
    time = memory.get_lane("time", lane)
    direction = memory.get_lane("direction", lane)
    b.store(b.ir.fmul(time, direction), w.word("final_time"), member)
    status = memory.get_lane("status", lane)
    clear = b.ir.fcmp_ordered("==", status, F64(0.0))
    short = b.ir.fcmp_ordered("<", time, memory.get_lane("stop", lane))
    usual = b.ir.select(lost, F64(_status("nonfinite_state")), F64(0.0))
    usual = b.ir.select(short, F64(_status("max_steps_reached")), usual)
    status = b.ir.select(clear, usual, status)
    failed = b.ir.fcmp_ordered("!=", status, F64(0.0))
    blamed = b.ir.and_(failed, b.ir.or_(w.poor, _poor_member(w, lane)))
    status = b.ir.select(blamed, F64(_status("nonfinite_start")), status)
    b.store(b.ir.fptosi(status, ir.IntType(32)), w.word("status"), member)
    accepted = whole(w, "accepted", lane)
    attempts = whole(w, "attempts", lane) if w.plan.adaptive else accepted
    b.store(accepted, w.word("accepted"), member)
    b.store(b.ir.sub(attempts, accepted), w.word("rejected"), member)


def _poor_member(w: Worker, lane: Any) -> Any:
    """Whether one of the member's own numbers is none."""
    b = w.build
    varied = w.memory.part("varied")
    found = b.space(F64)
    b.ir.store(F64(0.0), found)

    def look(i: Any) -> None:
        value = b.load(F64, varied.lane(i, lane))
        poor = b.ir.fcmp_unordered("uno", value, value)
        b.ir.store(b.ir.select(poor, F64(1.0), b.ir.load(found, typ=F64)), found)

    w.for_states(look, w.plan.varied)
    return b.ir.fcmp_ordered("!=", b.ir.load(found, typ=F64), F64(0.0))


def _load(w: Worker, member: Any, lane: Any) -> None:
    """Read a member's numbers into a lane."""
    b, memory, plan = w.build, w.memory, w.plan
    start = b.load(F64, w.word("start"), member)
    stop = b.load(F64, w.word("stop"), member)
    forwards = b.ir.fcmp_ordered("<", start, stop)
    direction = b.ir.select(forwards, F64(1.0), F64(-1.0))
    begin, end = b.ir.fmul(start, direction), b.ir.fmul(stop, direction)
    put_whole(w, "member", lane, member)
    for name, value in (
        ("active", F64(1.0)),
        ("fresh", F64(1.0)),
        ("status", F64(0.0)),
        ("accepted", F64(0.0)),
        ("attempts", F64(0.0)),
        ("saved", F64(0.0)),
        ("direction", direction),
        ("time", begin),
        ("begin", begin),
        ("stop", end),
        ("floor", _somewhat_before(w, end)),
    ):
        memory.put_lane(name, lane, value)
    for name, count, word in (
        ("y", plan.states, "initial"),
        ("varied", plan.varied, "varied"),
    ):
        place = b.at(F64, w.word(word), b.ir.mul(member, b.count(count)))
        part = memory.part(name)

        def copy(i: Any, part: Any = part, place: Any = place) -> None:
            b.store(b.load(F64, place, i), part.lane(i, lane))

        w.for_states(copy, count)
    memory.put_lane("save_time", lane, save_time(w, member, b.count(0), lane))
    if plan.on_saves:
        next_clip(w, lane, begin)
    if isinstance(plan.method, Stochastic):
        load_key(w, member, lane)


def _somewhat_before(w: Worker, time: Any) -> Any:
    """The number `CLIPPED_DIGITS` units in the last place below."""
    b = w.build
    bits = b.ir.bitcast(time, I64)
    lowest = b.count(-(1 << 63))
    negative = b.ir.icmp_signed("<", bits, b.count(0))
    # As whole numbers in the order of the reals.
    ordered = b.ir.select(negative, b.ir.sub(lowest, bits), bits)
    ordered = b.ir.sub(ordered, b.count(CLIPPED_DIGITS))
    negative = b.ir.icmp_signed("<", ordered, b.count(0))
    return b.ir.bitcast(b.ir.select(negative, b.ir.sub(lowest, ordered), ordered), F64)


def _begin(w: Worker) -> None:
    """The first slope and step of fresh lanes, and whether their numbers are any."""
    b, memory, plan = w.build, w.memory, w.plan
    fresh, y, method = memory.is_set("fresh"), memory.part("y"), plan.method
    first = w.room(plan.states)
    time = b.mul(memory.get("time"), memory.get("direction"))
    if isinstance(method, Stochastic):
        both = w.room(len(method.law.outputs))
        w.evaluate("law", method.law, time, y, both)
        w.for_states(lambda i: first.store(both.load(i), i))
    else:
        w.evaluate("drift", method.drift, time, y, first)
    finite = b.both(b.is_finite(memory.get("time")), b.is_finite(memory.get("stop")))
    finite = b.both(finite, w.all_over(lambda i: b.is_finite(y.load(i)), plan.states))
    finite = b.both(finite, w.all_over(lambda i: b.is_finite(first.load(i)), plan.states))
    poor = b.both(fresh, b.opposite(finite))
    slope = memory.part("slope")
    w.for_states(lambda i: slope.store(b.select(fresh, first.load(i), slope.load(i)), i))
    if not plan.adaptive:
        length = b.sub(memory.get("stop"), memory.get("begin"))
        # Slightly more than a step, as rounding must not add one.
        step = w.settings["step"]
        following = b.from_bits(b.ir.add(b.to_bits(step), b.whole(1)))
        count = b.intrinsic("ceil", b.div(length, following))
        memory.blend("steps", fresh, count)
    memory.blend("next", fresh, first_end(w))
    memory.put("fresh", b.real(0.0))
    _fail(w, poor, "nonfinite_start")
