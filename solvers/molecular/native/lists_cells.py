"""Particles sorted into cells: the first part of the kernel of neighbour lists.

It is a counting sort, so that particles of a cell stay in their order. Coordinates within
the cells are found in double precision and kept in single.
"""

from typing import Any

from llvmlite import ir

from solvers.ensemble.native.build import F32, F64, I32, I64
from solvers.molecular.native.lists_arrays import FACTS, FRAME, ListArrays
from solvers.molecular.native.lists_code import ListBuild
from systems.molecular.candidates import LOOSENESS, ROUNDING


AXES = range(3)
_QUADS = ir.VectorType(F64, 4)


class CellSorter:
    """The code that sorts particles into cells.

    - `kind`: the type of the positions.
    """

    def __init__(self, build: ListBuild, arrays: ListArrays, kind: Any):
        self._b, self._arrays, self._kind = build, arrays, kind
        b = build
        self._periodic = arrays.holds("periodic")
        self._counts = [arrays.whole(f"count_{axis}") for axis in "abc"]
        self._cells = b.ir.mul(b.ir.mul(self._counts[0], self._counts[1]), self._counts[2])
        self._present = b.wide(b.get(I32, arrays["particles"], b.count(0)))
        self._faulty = b.variable(I32, b.index(0))
        self._rows = [[b.space(F64) for _ in AXES] for _ in AXES]
        self._inverse = [[b.space(F64) for _ in AXES] for _ in AXES]
        self._origin = [b.variable(F64, F64(0.0)) for _ in AXES]

    def write(self) -> None:
        """All of it."""
        b = self._b
        with b.ir.if_else(self._periodic) as (closed, opened):
            with closed:
                self._closed_cells()
            with opened:
                self._open_cells()
        self._write_frame()
        self._place()
        self._sort()
        b.put(b.load(I32, self._faulty), self._arrays["facts"], b.count(FACTS.index("faulty")))

    # Small parts.

    def _blame(self, where: Any) -> None:
        b = self._b
        b.store(b.ir.or_(b.load(I32, self._faulty), b.ir.zext(where, I32)), self._faulty)

    def _quad(self, values: list[Any]) -> Any:
        b = self._b
        vector = ir.Constant(_QUADS, [F64(0.0)] * 4)
        for lane, value in enumerate(values):
            vector = b.ir.insert_element(vector, value, b.index(lane))
        return vector

    def _quads(self, places: list[list[Any]]) -> list[Any]:
        return [self._quad([self._b.load(F64, p) for p in row]) for row in places]

    def _splat(self, value: Any) -> Any:
        return self._quad([value] * 3)

    def _position(self, i: Any) -> list[Any]:
        b = self._b
        at = b.ir.mul(i, b.count(3))
        found = [
            b.get(self._kind, self._arrays["positions"], b.ir.add(at, b.count(axis)))
            for axis in AXES
        ]
        return [b.ir.fpext(x, F64) if self._kind != F64 else x for x in found]

    def _finite(self, position: list[Any]) -> Any:
        b = self._b
        sizes = [b.ir.fcmp_ordered("<", b.abs(x), F64(float("inf"))) for x in position]
        return b.ir.and_(b.ir.and_(sizes[0], sizes[1]), sizes[2])

    # The cells.

    def _closed_cells(self) -> None:
        """Cells of a periodic box, which are parts of its vectors."""
        b, arrays = self._b, self._arrays
        v = [[b.get(F64, arrays["vectors"], b.count(3 * i + j)) for j in AXES] for i in AXES]
        zero, one = F64(0.0), F64(1.0)
        ia, ib, ic = (b.div(one, v[axis][axis]) for axis in AXES)
        # The inverse of a lower triangular matrix.
        low = b.neg(b.mul(b.mul(v[1][0], ia), ib))
        far = b.sub(b.mul(b.mul(v[1][0], v[2][1]), ib), v[2][0])
        corner = b.mul(b.mul(far, ia), ic)
        side = b.neg(b.mul(b.mul(v[2][1], ib), ic))
        inverse = [[ia, zero, zero], [low, ib, zero], [corner, side, ic]]
        reals = [b.ir.sitofp(count, F64) for count in self._counts]
        for i in AXES:
            for j in AXES:
                b.store(b.div(v[i][j], reals[i]), self._rows[i][j])
                b.store(inverse[i][j], self._inverse[i][j])
        radius, reach = arrays.setting("radius"), arrays.setting("range")
        for axis, count in enumerate(reals):
            # The height of a box is one over the length of a column of the inverse.
            squares = [b.mul(inverse[i][axis], inverse[i][axis]) for i in AXES]
            height = b.div(one, b.sqrt(b.add(b.add(*squares[:2]), squares[2])))
            few = b.ir.fcmp_ordered("<", count, F64(3.0))
            fits = b.ir.fcmp_ordered(">=", height, b.mul(radius, count))
            self._blame(b.ir.not_(b.ir.or_(few, fits)))
            self._blame(b.ir.fcmp_unordered("<", height, b.mul(F64(2.0), reach)))

    def _open_cells(self) -> None:
        """Cells of the smallest block around all particles."""
        b = self._b
        edges = [[b.variable(F64, F64(s * float("inf"))) for _ in AXES] for s in (1, -1)]

        def widen(i: Any) -> None:
            position = self._position(i)
            with b.when(self._finite(position)):
                for axis, x in enumerate(position):
                    low, high = (b.load(F64, side[axis]) for side in edges)
                    b.store(b.minimum(x, low), edges[0][axis])
                    b.store(b.maximum(x, high), edges[1][axis])

        b.loop(self._present, widen)
        some = b.ir.fcmp_ordered("<=", b.load(F64, edges[0][0]), b.load(F64, edges[1][0]))
        for axis in AXES:
            low, high = (b.ir.select(some, b.load(F64, side[axis]), F64(0.0)) for side in edges)
            whole = b.div(b.sub(high, low), b.ir.sitofp(self._counts[axis], F64))
            width = b.maximum(whole, self._arrays.setting("radius"))
            for other in AXES:
                own = axis == other
                b.store(width if own else F64(0.0), self._rows[axis][other])
                inverse = b.div(F64(1.0), width) if own else F64(0.0)
                b.store(inverse, self._inverse[axis][other])
            b.store(b.neg(b.div(low, width)), self._origin[axis])

    def _write_frame(self) -> None:
        """What the second part needs to know of the cells, in single precision."""
        b, arrays = self._b, self._arrays

        def write(value: Any, name: str, place: int = 0) -> None:
            single = b.ir.fptrunc(value, F32)
            b.put(single, arrays["frame"], b.count(FRAME[name] + place))

        longest: Any = F64(0.0)
        for i in AXES:
            for j in AXES:
                step = b.load(F64, self._rows[i][j])
                write(step, "steps", 3 * i + j)
                longest = b.add(longest, b.abs(step))
                edge = b.get(F64, arrays["vectors"], b.count(3 * i + j))
                write(edge, "vectors", 3 * i + j)
                if i == j:
                    write(b.div(F64(1.0), edge), "inverses", i)
        radius = b.mul(arrays.setting("radius"), F64(1 + ROUNDING))
        radius = b.add(radius, b.mul(longest, F64(LOOSENESS)))
        limit = b.mul(radius, radius)
        endless = F64(float("inf"))
        write(b.ir.select(arrays.holds("divided"), limit, endless), "prune")
        write(b.ir.select(self._cannot_tell(), endless, limit), "limit")

    def _cannot_tell(self) -> Any:
        """Whether the nearest image is unknown at the radius, in a skewed box of few cells."""
        b, arrays = self._b, self._arrays
        doubtful: Any = ir.Constant(ir.IntType(1), 0)
        for axis in AXES:
            parts = [b.load(F64, self._inverse[i][axis]) for i in AXES]
            squares = [b.mul(x, x) for x in parts]
            height = b.div(F64(1.0), b.sqrt(b.add(b.add(*squares[:2]), squares[2])))
            twice = b.mul(F64(2.0), arrays.setting("radius"))
            doubtful = b.ir.or_(doubtful, b.ir.fcmp_ordered("<", height, twice))
        known = b.ir.or_(arrays.holds("divided"), arrays.holds("orthorhombic"))
        return b.ir.and_(doubtful, b.ir.not_(known))

    # The particles.

    def _place(self) -> None:
        """Finds every particle's cell and where it is in it, and counts them."""
        b, arrays = self._b, self._arrays
        b.loop(
            b.ir.add(self._cells, b.count(3)),
            lambda i: b.put(b.index(0), arrays["starts"], i),
        )
        inverse, rows = self._quads(self._inverse), self._quads(self._rows)
        origin = self._quad([b.load(F64, place) for place in self._origin])
        one = F64(1.0)
        folds = self._splat(b.ir.select(self._periodic, one, F64(0.0)))
        reals = [b.ir.sitofp(count, F64) for count in self._counts]
        most = b.sub(self._quad(reals), self._splat(one))
        scale = [b.ir.select(self._periodic, count, one) for count in reals]
        scale = self._quad(scale)
        zeros = ir.Constant(_QUADS, [F64(0.0)] * 4)

        def place(i: Any) -> None:
            position = self._position(i)
            there = b.ir.icmp_signed("<", i, self._present)
            finite = self._finite(position)
            self._blame(b.ir.and_(there, b.ir.not_(finite)))
            known = b.ir.and_(there, finite)
            x, y, z = (self._splat(b.ir.select(known, x, F64(0.0))) for x in position)
            found = b.fma(x, inverse[0], b.fma(y, inverse[1], b.fma(z, inverse[2], origin)))
            whole = b.mul(b.intrinsic("floor", found), folds)
            scaled = b.mul(b.sub(found, whole), scale)
            # A fraction that rounds up to one belongs to the last cell.
            corner = b.minimum(b.maximum(b.intrinsic("floor", scaled), zeros), most)
            inside = b.sub(scaled, corner)
            parts = [self._splat(b.ir.extract_element(inside, b.index(k))) for k in AXES]
            moved = b.fma(parts[0], rows[0], b.fma(parts[1], rows[1], b.mul(parts[2], rows[2])))
            single = b.ir.fptrunc(moved, ir.VectorType(F32, 4))
            b.put(single, arrays["inside"], b.ir.mul(i, b.count(4)))
            self._count(i, corner, there)

        b.loop(arrays.particles, place)

    def _count(self, i: Any, corner: Any, there: Any) -> None:
        b, starts = self._b, self._arrays["starts"]
        wholes = b.ir.fptosi(corner, ir.VectorType(I64, 4))
        a, c, d = (b.ir.extract_element(wholes, b.index(k)) for k in AXES)
        _, second, third = self._counts
        cell = b.ir.add(b.ir.mul(b.ir.add(b.ir.mul(a, second), c), third), d)
        cell = b.ir.select(there, cell, self._cells)
        b.put(b.narrow(cell), self._arrays["cells"], i)
        # Two places on, so that sums and then steps forward make it the begin.
        place = b.ir.add(cell, b.count(2))
        b.put(b.ir.add(b.get(I32, starts, place), b.index(1)), starts, place)

    def _sort(self) -> None:
        """Sums the counts, and puts the particles in the order of their cells."""
        b, arrays = self._b, self._arrays
        starts = arrays["starts"]
        largest, total = b.variable(I32, b.index(0)), b.variable(I32, b.index(0))

        def add(cell: Any) -> None:
            place = b.ir.add(cell, b.count(2))
            count = b.get(I32, starts, place)
            b.store(b.larger(count, b.load(I32, largest)), largest)
            b.store(b.ir.add(count, b.load(I32, total)), total)
            b.put(b.load(I32, total), starts, place)

        b.loop(self._cells, add)
        b.put(b.load(I32, largest), arrays["facts"], b.count(FACTS.index("largest")))
        stride = arrays.size("columns", 1)
        after = arrays.holds("sorted")

        def move(i: Any) -> None:
            number = b.narrow(i)
            at = b.ir.add(b.wide(b.get(I32, arrays["cells"], i)), b.count(1))
            place = b.get(I32, starts, at)
            b.put(b.ir.add(place, b.index(1)), starts, at)
            wide = b.wide(place)
            b.put(number, arrays["order"], wide)
            b.put(b.ir.select(after, place, number), arrays["members"], wide)
            for axis in AXES:
                four = b.ir.add(b.ir.mul(i, b.count(4)), b.count(axis))
                value = b.get(F32, arrays["inside"], four)
                column = b.ir.add(b.ir.mul(stride, b.count(axis)), wide)
                b.put(value, arrays["columns"], column)

        b.loop(arrays.particles, move)
