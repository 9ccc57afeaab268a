"""States at saved times, by the method's own interpolation within a step."""

from collections.abc import Callable
from typing import Any

from solvers.ensemble.native.build import F64, I64, Build
from solvers.ensemble.native.worker import Worker


Dense = Callable[[Any, Any], None]
"""`dense(fraction, out)`: the states at a fraction of the step."""


def save(w: Worker, begin: Any, end: Any, keep: Any, dense: Dense) -> None:
    """Write the states at all saved times of the step, in the lanes that keep it."""
    b, memory = w.build, w.memory
    head, saving, after = b.block("saves"), b.block("saving"), b.block("saved")
    b.ir.branch(head)
    b.ir.position_at_end(head)
    time = memory.get("save_time")
    due = b.bits(b.both(keep, b.compare("<=", time, end)))
    due = b.ir.and_(due, b.load(I64, w.active))
    b.ir.cbranch(b.ir.icmp_unsigned("!=", due, b.count(0)), saving, after)
    b.ir.position_at_end(saving)
    fraction = b.div(b.sub(time, begin), b.sub(end, begin))
    values = w.memory.part("saved_states")
    dense(fraction, values)
    b.each_set(due, lambda lane: _write(w, values, lane, end))
    b.ir.branch(head)
    b.ir.position_at_end(after)


def _write(w: Worker, values: Any, lane: Any, end: Any) -> None:
    """Copy a lane's states to where they belong, and go on to its next saved time."""
    b, memory, n = w.build, w.memory, w.plan.states
    index, member = whole(w, "saved", lane), whole(w, "member", lane)
    row = b.ir.add(b.ir.mul(member, w.word("saves")), index)
    place = b.at(F64, w.word("saved"), b.ir.mul(row, b.count(n)))
    w.for_states(lambda i: b.store(b.load(F64, values.lane(i, lane)), place, i))
    index = b.ir.add(index, b.count(1))
    put_whole(w, "saved", lane, index)
    memory.put_lane("save_time", lane, save_time(w, member, index, lane))
    if w.plan.on_saves:
        next_clip(w, lane, b.ir.extract_element(end, lane))


def whole(w: Worker, name: str, lane: Any) -> Any:
    """A whole number that is kept as a real."""
    return w.build.ir.fptosi(w.memory.get_lane(name, lane), w.build.count(0).type)


def put_whole(w: Worker, name: str, lane: Any, value: Any) -> None:
    """Keep a whole number as a real."""
    w.memory.put_lane(name, lane, w.build.ir.sitofp(value, F64))


def save_time(w: Worker, member: Any, index: Any, lane: Any) -> Any:
    """A saved time of a member in the direction of its solve; infinite after the last."""
    b = w.build
    direction = w.memory.get_lane("direction", lane)
    some = b.ir.icmp_signed("<", index, w.word("saves"))
    # The last one is read in place of one that there is not.
    with_last = b.ir.select(some, index, b.ir.sub(w.word("saves"), b.count(1)))
    place = b.ir.add(b.ir.mul(member, w.word("times_stride")), with_last)
    # With no saved time at all, the start is read.
    none = b.ir.icmp_signed("==", w.word("saves"), b.count(0))
    base = b.ir.select(none, w.word("start"), w.word("times"))
    place = b.ir.select(none, member, place)
    time = b.ir.fmul(b.load(F64, base, place), direction)
    return b.ir.select(some, time, F64(float("inf")))


def next_clip(w: Worker, lane: Any, time: Any) -> None:
    """Find the first saved time after a time, where a step has to end."""
    b, memory = w.build, w.memory
    member = whole(w, "member", lane)
    # A time next to this one counts as reached.
    bound = _following(b, time)
    before = b.ir.block
    head, after = b.block("clips"), b.block("clip")
    first = whole(w, "saved", lane)
    b.ir.branch(head)
    b.ir.position_at_end(head)
    index = b.ir.phi(first.type)
    index.add_incoming(first, before)
    found = save_time(w, member, index, lane)
    index.add_incoming(b.ir.add(index, b.count(1)), b.ir.block)
    b.ir.cbranch(b.ir.fcmp_ordered("<=", found, bound), head, after)
    b.ir.position_at_end(after)
    memory.put_lane("clip", lane, found)


def _following(b: Build, time: Any) -> Any:
    """A number at most two units in the last place above a scalar."""
    size = b.ir.select(b.ir.fcmp_ordered("<", time, F64(0.0)), b.ir.fneg(time), time)
    return b.ir.fadd(time, b.ir.fmul(size, F64(2.0**-53 * 1.5)))


def fill_unsaved(w: Worker, lane: Any) -> None:
    """No number at the saved times that a member did not reach."""
    b, n = w.build, w.plan.states
    index, member = whole(w, "saved", lane), whole(w, "member", lane)
    base = b.ir.mul(member, w.word("saves"))
    first = b.ir.mul(b.ir.add(base, index), b.count(n))
    count = b.ir.mul(b.ir.sub(w.word("saves"), index), b.count(n))
    place = b.at(F64, w.word("saved"), first)
    b.loop(count, lambda i: b.store(F64(float("nan")), place, i))
