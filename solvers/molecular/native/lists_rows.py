"""Rows of a neighbour list from sorted particles: what threads do, cell after cell.

What stands in the cells around a cell is copied side by side first, less what is too far
from all of its particles. So the search of each particle runs over plain vectors, and knows
nothing of images.
"""

from collections.abc import Callable
from typing import Any

from solvers.ensemble.native.array_call import ArrayCall
from solvers.ensemble.native.build import F32, I32, I64, POINTER
from solvers.molecular.native.lists_arrays import FACTS, FRAME, ListArrays
from solvers.molecular.native.lists_code import ListBuild


AXES = range(3)
Frame = Callable[[str, int], Any]
ARGUMENT = ("call", "cell", "thread")
"""The words that threads share: the call, the next cell, and the number of the next thread."""


class _InEdges:
    """The nearest image in a box with right angles, of what is at most an edge away."""

    def __init__(self, build: ListBuild, frame: Frame):
        self._b = build
        self._edges = [build.splat(frame("vectors", 4 * axis)) for axis in AXES]

    def __call__(self, away: list[Any]) -> list[Any]:
        b, found = self._b, []
        for x, edge in zip(away, self._edges, strict=True):
            size = b.abs(x)
            found.append(b.minimum(size, b.sub(edge, size)))
        return found


class _InVectors:
    """The nearest image: whole vectors of the box taken off, the last one first."""

    def __init__(self, build: ListBuild, frame: Frame):
        self._b = build
        self._inverses = [build.splat(frame("inverses", k)) for k in AXES]
        self._rows = [
            [build.splat(frame("vectors", 3 * k + axis)) for axis in range(k + 1)] for k in AXES
        ]

    def __call__(self, away: list[Any]) -> list[Any]:
        b, away = self._b, list(away)
        for k in (2, 1, 0):
            whole = b.neg(b.intrinsic("rint", b.mul(away[k], self._inverses[k])))
            for axis, edge in enumerate(self._rows[k]):
                away[axis] = b.fma(whole, edge, away[axis])
        return away


class RowWriter:
    """The code of one thread, which takes one cell after another."""

    def __init__(self, build: ListBuild):
        self._b = b = build
        argument = b.function.args[0]
        call = ArrayCall(b, b.load(POINTER, argument, ARGUMENT.index("call")))
        self._arrays = arrays = ListArrays(b, call)
        self._next = b.at(I64, argument, ARGUMENT.index("cell"))
        counter = b.at(I64, argument, ARGUMENT.index("thread"))
        thread = b.ir.atomic_rmw("add", counter, b.count(1), "monotonic")
        self._counts = [arrays.whole(f"count_{axis}") for axis in "abc"]
        self._cells = b.ir.mul(b.ir.mul(self._counts[0], self._counts[1]), self._counts[2])
        self._stride = arrays.size("columns", 1)
        self._divided = arrays.holds("divided")
        room = arrays.size("buffers", 2)
        own = b.at(I32, arrays["buffers"], b.ir.mul(thread, b.ir.mul(room, b.count(5))))
        parts = [b.at(I32, own, b.ir.mul(room, b.count(k))) for k in range(5)]
        self._near, self._names, self._hits = parts[:3], parts[3], parts[4]
        largest = b.get(I32, arrays["facts"], b.count(FACTS.index("largest")))
        self._fits = b.ir.icmp_signed("<=", b.wide(largest), arrays.whole("capacity"))
        self._ends = self._read_ends()
        self._filled, self._own = b.space(I64), b.space(I64)
        self._most = b.variable(I32, b.index(0))

    def write(self) -> None:
        """All of it."""
        b = self._b
        take, work, end = b.block("take"), b.block("work"), b.block("end")
        b.ir.branch(take)
        b.ir.position_at_end(take)
        cell = b.ir.atomic_rmw("add", self._next, b.count(1), "monotonic")
        b.ir.cbranch(b.ir.icmp_signed("<=", cell, self._cells), work, end)
        b.ir.position_at_end(work)
        starts = self._arrays["starts"]
        begin = b.wide(b.get(I32, starts, cell))
        after = b.wide(b.get(I32, starts, b.ir.add(cell, b.count(1))))
        some = b.ir.icmp_signed("<", begin, after)
        particles = b.ir.icmp_signed("<", cell, self._cells)
        searched = b.ir.and_(b.ir.and_(some, particles), self._fits)
        with b.ir.if_else(searched) as (full, idle):
            with full:
                self._cell(cell, begin, after)
            with idle:
                b.stretch(begin, after, 1, lambda p: self._row(p, b.count(0)))
        b.ir.branch(take)
        b.ir.position_at_end(end)
        most = b.at(I32, self._arrays["facts"], FACTS.index("most"))
        b.ir.atomic_rmw("max", most, b.load(I32, self._most), "monotonic")

    def _frame(self, name: str, place: int = 0) -> Any:
        b = self._b
        return b.get(F32, self._arrays["frame"], b.count(FRAME[name] + place))

    def _read_ends(self) -> list[tuple[Any, Any]]:
        """The first step along each axis to cells around, and how many there are."""
        b, ends = self._b, []
        periodic = self._arrays.holds("periodic")
        for count in self._counts:
            few = b.ir.and_(periodic, b.ir.icmp_signed("<", count, b.count(3)))
            first = b.ir.select(few, b.count(0), b.count(-1))
            ends.append((first, b.ir.select(few, count, b.count(3))))
        return ends

    # One cell.

    def _cell(self, cell: Any, begin: Any, end: Any) -> None:
        b = self._b
        _, second, third = self._counts
        row = b.ir.sdiv(cell, third)
        place = [
            b.ir.sdiv(row, second),
            b.ir.srem(row, second),
            b.ir.sub(cell, b.ir.mul(row, third)),
        ]
        block = self._block(begin, end)
        prune = b.splat(self._frame("prune"))
        b.store(b.count(0), self._filled)
        b.store(b.count(0), self._own)
        self._around(0, place, [], block, prune)
        filled = b.load(I64, self._filled)
        nothing = b.real(float("nan"))
        for column in self._near:
            b.put(nothing, column, filled)
        straight = self._arrays.holds("orthorhombic")
        with b.ir.if_else(self._divided) as (plain, imaged):
            with plain:
                self._search(begin, end, filled, None)
            with imaged, b.ir.if_else(straight) as (right, skewed):
                with right:
                    self._search(begin, end, filled, _InEdges(b, self._frame))
                with skewed:
                    self._search(begin, end, filled, _InVectors(b, self._frame))

    def _column(self, axis: int, at: Any) -> Any:
        """So many coordinates of sorted particles."""
        b = self._b
        place = b.ir.add(b.ir.mul(self._stride, b.count(axis)), at)
        return b.get(b.reals, self._arrays["columns"], place)

    def _valid(self, at: Any, end: Any) -> Any:
        """The lanes before an end."""
        b = self._b
        return b.ir.icmp_signed("<", b.counting(b.narrow(at)), b.splat(b.narrow(end)))

    def _block(self, begin: Any, end: Any) -> list[tuple[Any, Any]]:
        """The smallest block around the particles of a cell: two vectors for each axis."""
        b = self._b
        edges = [[b.space(b.reals) for _ in range(2)] for _ in AXES]
        endless = b.real(float("inf")), b.real(float("-inf"))
        for pair in edges:
            for side, value in zip(pair, endless, strict=True):
                b.put(value, side, 0)

        def widen(at: Any) -> None:
            valid = self._valid(at, end)
            for axis, (low, high) in enumerate(edges):
                x = self._column(axis, at)
                lower, upper = b.get(b.reals, low, 0), b.get(b.reals, high, 0)
                b.put(b.minimum(b.select(valid, x, endless[0]), lower), low, 0)
                b.put(b.maximum(b.select(valid, x, endless[1]), upper), high, 0)

        b.stretch(begin, end, b.lanes, widen)
        found = []
        for pair in edges:
            whole = [
                self._over_lanes(b.get(b.reals, side, 0), how)
                for side, how in zip(pair, ("<", ">"), strict=True)
            ]
            found.append((b.splat(whole[0]), b.splat(whole[1])))
        return found

    def _over_lanes(self, vector: Any, how: str) -> Any:
        """The smallest or the largest of all lanes."""
        b = self._b
        parts = [b.ir.extract_element(vector, b.index(i)) for i in range(b.lanes)]
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [b.ir.select(b.compare(how, x, y), x, y) for x, y in pairs]
        return parts[0]

    def _around(
        self, axis: int, place: list[Any], steps: list[tuple[Any, Any]], block: Any, prune: Any
    ) -> None:
        """Walks through the cells around, along one axis after the other."""
        b = self._b
        if axis == len(place):
            self._collect(steps, block, prune)
            return
        count = self._counts[axis]
        first, times = self._ends[axis]

        def go(k: Any) -> None:
            step = b.ir.add(first, k)
            at = b.ir.add(place[axis], step)
            below = b.ir.icmp_signed("<", at, b.count(0))
            beyond = b.ir.icmp_signed(">=", at, count)
            outside = b.ir.or_(below, beyond)
            absent = b.ir.and_(outside, b.ir.not_(self._arrays.holds("periodic")))
            with b.when(b.ir.not_(absent)):
                at = b.ir.select(below, b.ir.add(at, count), at)
                at = b.ir.select(beyond, b.ir.sub(at, count), at)
                self._around(axis + 1, place, [*steps, (step, at)], block, prune)

        b.loop(times, go)

    def _collect(self, steps: list[tuple[Any, Any]], block: Any, prune: Any) -> None:
        """Copies the particles of one cell around that are near the block."""
        b, arrays = self._b, self._arrays
        _, second, third = self._counts
        a, c, d = (at for _, at in steps)
        cell = b.ir.add(b.ir.mul(b.ir.add(b.ir.mul(a, second), c), third), d)
        moves = b.ir.or_(b.ir.or_(steps[0][0], steps[1][0]), steps[2][0])
        here = b.ir.icmp_signed("==", moves, b.count(0))
        filled = b.load(I64, self._filled)
        b.store(b.ir.select(here, filled, b.load(I64, self._own)), self._own)
        begin = b.wide(b.get(I32, arrays["starts"], cell))
        end = b.wide(b.get(I32, arrays["starts"], b.ir.add(cell, b.count(1))))
        reals = [b.ir.sitofp(step, F32) for step, _ in steps]
        shifts = []
        for axis in AXES:
            parts = [b.mul(reals[k], self._frame("steps", 3 * k + axis)) for k in AXES]
            shifts.append(b.splat(b.add(b.add(parts[0], parts[1]), parts[2])))
        zero = b.real(0.0)

        def copy(at: Any) -> None:
            found = [b.add(self._column(axis, at), shifts[axis]) for axis in AXES]
            away = []
            for x, (low, high) in zip(found, block, strict=True):
                away.append(b.maximum(b.maximum(b.sub(low, x), b.sub(x, high)), zero))
            chosen = b.both(b.less(self._squared(away), prune), self._valid(at, end))
            names = b.get(b.indices, arrays["members"], at)
            lists = [*zip(found, self._near, strict=True), (names, self._names)]
            filled = b.load(I64, self._filled)
            b.store(b.append(chosen, filled, *lists), self._filled)

        b.stretch(begin, end, b.lanes, copy)

    def _squared(self, away: list[Any]) -> Any:
        b = self._b
        return b.fma(away[2], away[2], b.fma(away[1], away[1], b.mul(away[0], away[0])))

    # One particle.

    def _search(self, begin: Any, end: Any, filled: Any, nearest: Any) -> None:
        """Finds the neighbours of all particles of the cell among the candidates.

        `nearest` finds the nearest image, if it is not known.
        """
        b = self._b
        limit = b.splat(self._frame("limit"))
        found = b.space(I64)

        def particle(p: Any) -> None:
            at = b.ir.add(b.load(I64, self._own), b.ir.sub(p, begin))
            own = [b.get(F32, column, at) for column in self._near]
            spread = [b.splat(x) for x in own]
            # No number is near to what is no number: a particle does not find itself.
            b.put(F32(float("nan")), self._near[0], at)
            b.store(b.count(0), found)

            def candidates(k: Any) -> None:
                away = [
                    b.sub(b.get(b.reals, column, k), x)
                    for column, x in zip(self._near, spread, strict=True)
                ]
                away = away if nearest is None else nearest(away)
                near = b.less(self._squared(away), limit)
                names = b.get(b.indices, self._names, k)
                b.store(b.append(near, b.load(I64, found), (names, self._hits)), found)

            b.stretch(b.count(0), filled, b.lanes, candidates)
            b.put(own[0], self._near[0], at)
            self._row(p, b.load(I64, found))

        b.stretch(begin, end, 1, particle)

    def _row(self, p: Any, count: Any) -> None:
        """Writes the row of one particle: what was found, then its own number."""
        b, arrays = self._b, self._arrays
        capacity = arrays.capacity
        name = b.get(I32, arrays["members"], p)
        row = b.at(I32, arrays["indices"], b.ir.mul(b.wide(name), capacity))
        own, used = b.splat(name), b.splat(b.narrow(b.smaller(count, capacity)))
        whole = b.ir.sub(capacity, b.ir.srem(capacity, b.count(b.lanes)))

        def fill(k: Any) -> None:
            there = b.ir.icmp_signed("<", b.counting(b.narrow(k)), used)
            b.put(b.select(there, b.get(b.indices, self._hits, k), own), row, k)

        def last(k: Any) -> None:
            there = b.ir.icmp_signed("<", k, count)
            b.put(b.ir.select(there, b.get(I32, self._hits, k), name), row, k)

        b.stretch(b.count(0), whole, b.lanes, fill)
        b.stretch(whole, capacity, 1, last)
        most = b.load(I32, self._most)
        b.store(b.larger(most, b.narrow(count)), self._most)
