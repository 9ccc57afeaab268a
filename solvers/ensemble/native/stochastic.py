"""Steps of stochastic methods, two at a time."""

from typing import Any

from solvers.ensemble.native.control import constant
from solvers.ensemble.native.explicit import Span, span
from solvers.ensemble.native.noise import normal_pair
from solvers.ensemble.native.plan import Stochastic
from solvers.ensemble.native.saving import save
from solvers.ensemble.native.worker import Worker


def advance(w: Worker, method: Stochastic) -> None:
    """An even step and the next one of all lanes, which share random bits."""
    normals = [normal_pair(w, process) for process in range(w.plan.noises)]
    _one_step(w, method, [pair[0] for pair in normals], None)
    b, memory = w.build, w.memory
    going = b.less(memory.get("time"), memory.get("stop"))
    rested = b.less(memory.get("accepted"), w.settings["max_steps"])
    _one_step(w, method, [pair[1] for pair in normals], b.both(going, rested))


def _one_step(w: Worker, method: Stochastic, normals: list[Any], where: Any) -> None:
    """One step in some lanes; `None` is all."""
    b, memory, n = w.build, w.memory, w.plan.states
    place, y = span(w), memory.part("y")
    before = w.room(n)
    w.for_states(lambda i: before.store(y.load(i), i))
    root = b.sqrt(place.length)
    moves = w.room(max(w.plan.noises, 1))
    for process, normal in enumerate(normals):
        moves.store(b.mul(root, normal), process)
    after = _moved(w, method, place, before, moves)
    control = constant(w, place)
    keep = b.truth(True) if where is None else where

    def between(fraction: Any, out: Any) -> None:
        def one(i: Any) -> None:
            start = before.load(i)
            out.store(b.fma(fraction, b.sub(after.load(i), start), start), i)

        w.for_states(one)

    save(w, place.begin, place.end, keep, between)
    w.for_states(lambda i: y.store(b.select(keep, after.load(i), before.load(i)), i))
    accepted = b.add(memory.get("accepted"), b.real(1.0))
    for name, value in (
        ("time", control.time),
        ("next", control.next),
        ("accepted", accepted),
    ):
        if where is None:
            memory.put(name, value)
        else:
            memory.blend(name, where, value)


def _moved(w: Worker, method: Stochastic, place: Span, y: Any, moves: Any) -> Any:
    """The states after a step with these increments of the Wiener processes."""
    b, n = w.build, w.plan.states
    law = w.room(len(method.law.outputs))
    w.evaluate("law", method.law, place.begin, y, law)
    after = w.room(n)

    def euler(i: Any) -> None:
        drifted = b.fma(law.load(i), place.length, y.load(i))
        after.store(_add_noise(w, law, moves, i, drifted), i)

    w.for_states(euler)
    if method.kind == "heun":
        return _corrected(w, method, place, y, moves, law, after)
    if method.kind in ("milstein", "stratonovich"):
        ito = method.kind == "milstein"

        def correct(i: Any) -> None:
            move = moves.load(_process(w, i))
            square = b.mul(move, move)
            if ito:
                square = b.sub(square, place.length)
            slope = law.load(_plus(w, i, 2 * n))
            weight = b.mul(b.real(0.5), square)
            after.store(b.fma(slope, weight, after.load(i)), i)

        w.for_states(correct)
    return after


def _corrected(
    w: Worker, method: Stochastic, place: Span, y: Any, moves: Any, law: Any, ahead: Any
) -> Any:
    """The step with the mean of drift and diffusion at both of its ends."""
    b, n = w.build, w.plan.states
    there = w.room(len(method.law.outputs))
    w.evaluate("law", method.law, place.end, ahead, there)
    mean = w.room(len(method.law.outputs))

    def halfway(i: Any) -> None:
        mean.store(b.mul(b.real(0.5), b.add(law.load(i), there.load(i))), i)

    w.for_states(halfway, len(method.law.outputs))
    after = w.room(n)

    def heun(i: Any) -> None:
        drifted = b.fma(mean.load(i), place.length, y.load(i))
        after.store(_add_noise(w, mean, moves, i, drifted), i)

    w.for_states(heun)
    return after


def _add_noise(w: Worker, law: Any, moves: Any, i: Any, value: Any) -> Any:
    """A component with its diffusion times the increments added."""
    b, plan = w.build, w.plan
    n = plan.states
    if plan.diagonal:
        move = moves.load(_process(w, i))
        return b.fma(law.load(_plus(w, i, n)), move, value)
    for process in range(plan.noises):
        place = _plus(w, _times(w, i, plan.noises), n + process)
        value = b.fma(law.load(place), moves.load(process), value)
    return value


def _process(w: Worker, i: Any) -> Any:
    """The number of the Wiener process of a state under diagonal noise."""
    if isinstance(i, int):
        return i % w.plan.noises
    return w.build.ir.urem(i, w.build.count(w.plan.noises))


def _plus(w: Worker, i: Any, offset: int) -> Any:
    return i + offset if isinstance(i, int) else w.build.ir.add(i, w.build.count(offset))


def _times(w: Worker, i: Any, factor: int) -> Any:
    return i * factor if isinstance(i, int) else w.build.ir.mul(i, w.build.count(factor))
