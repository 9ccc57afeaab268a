"""The kernel of a pair energy: forces on all particles from a list of their neighbours.

Every particle adds up its own neighbours, as many at a time as there are lanes, so that no
thread writes where another does. Sums are always taken in the same order, whatever the
number of threads.
"""

import dataclasses
from typing import Any

from llvmlite import ir

from solvers.ensemble.native.array_call import NOTHING, ArrayCall, array_kernel, worker
from solvers.ensemble.native.build import F32, F64, I32, I64, POINTER, Build
from solvers.ensemble.native.emit import emit
from solvers.molecular.native.coordinates import Coordinates
from solvers.molecular.native.rows import WIDTH, gather_rows, is_wide, sum_of_lanes
from solvers.molecular.native.split import PairProgram


OPERANDS = ("positions", "indices", "table", "species", "box")
RESULTS = ("forces", "rows", "sums", "energy", "virial")
"""Arrays of a call; the last three only where sums are asked for."""

PARTICLES_OF_A_PART = 64
"""What a thread takes at a time."""

PARTICLES_OF_A_THREAD = 1024
"""Fewer particles are not worth a thread."""

SUMS = 8
"""Numbers of each particle in `sums`: energy, six of the virial, and one that pads."""

_MOMENTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@dataclasses.dataclass(frozen=True)
class PairKernel:
    """What the code of a kernel depends on.

    - `made`: from the squared distance to the slope, or to energy and slope.
    - `coordinates`: how particles are stored.
    - `added`: the numbers in which the sums of a particle are taken.
    - `with_sums`: whether energy and virial are wanted beside the forces.
    - `lanes`: neighbours that are looked at together.
    """

    made: PairProgram
    coordinates: Coordinates
    added: Any
    with_sums: bool
    lanes: int


def pair_module(kernel: PairKernel) -> ir.Module:
    """The module of LLVM code of a kernel."""
    b, call = array_kernel("pairs")
    work = worker(b.module, "particles", kernel.coordinates.pairs, kernel.lanes)
    _Particles(kernel, work).build()
    count = call.size(0, 0)
    place = {name: i for i, name in enumerate(OPERANDS + RESULTS)}
    rows = call.data(place["rows"])
    kernel.coordinates.fill(b, call.data(0), rows, count, call.data(place["box"]))
    argument = b.space(I64, 2)
    b.store(b.ir.ptrtoint(call.pointer, I64), argument, 0)
    b.store(b.count(0), argument, 1)
    call.spread(work.function, argument, b.ir.udiv(count, b.count(PARTICLES_OF_A_THREAD)))
    if kernel.with_sums:
        _total(kernel, b, call, place, count)
    b.finish(NOTHING)
    return b.module


def _total(kernel: PairKernel, b: Build, call: ArrayCall, place: Any, count: Any) -> None:
    """Energy and virial from those of all particles, one after the other."""
    kind = ir.VectorType(F64, SUMS)
    total = b.space(kind)
    b.store(ir.Constant(kind, [0.0] * SUMS), total)
    sums = call.data(place["sums"])
    b.loop(
        count,
        lambda i: b.store(b.ir.fadd(b.load(kind, total), b.load(kind, sums, i)), total),
    )
    half = ir.Constant(kind, [0.5] * SUMS)
    found = b.ir.fmul(b.load(kind, total), half)

    def put(number: int, name: str, at: int) -> None:
        value = b.ir.extract_element(found, ir.Constant(I32, number))
        if kernel.coordinates.given == F32:
            value = b.ir.fptrunc(value, F32)
        b.store(value, call.data(place[name]), at)

    put(0, "energy", 0)
    for number, (row, column) in enumerate(_MOMENTS, 1):
        put(number, "virial", 3 * row + column)
        put(number, "virial", 3 * column + row)


class _Particles:
    """The work of one thread: part after part of the particles."""

    def __init__(self, kernel: PairKernel, b: Build):
        self.kernel, self.b = kernel, b
        argument = b.function.args[0]
        call = ArrayCall(b, b.load(POINTER, argument, 0))
        self.queue = b.at(I64, argument, 1)
        place = {name: i for i, name in enumerate(OPERANDS + RESULTS)}
        names = OPERANDS + (RESULTS if kernel.with_sums else RESULTS[:2])
        self.data = {name: call.data(place[name]) for name in names}
        self.count, self.room = call.size(0, 0), call.size(1, 1)
        self.of_box = kernel.coordinates.constants(b, self.data["box"])
        columns = kernel.made.columns
        self.width = -(-max(columns, 1) // WIDTH) * WIDTH
        self.kinds = call.size(place["table"], 0)
        # One row for all pairs is read once.
        self.shared = [
            b.splat(b.load(b.kind, self.data["table"], column)) for column in range(columns)
        ]
        sums = 3 + (7 if kernel.with_sums else 0)
        self.summed = ir.VectorType(kernel.added, kernel.lanes)
        self.places = [b.space(self.summed) for _ in range(sums)]

    def build(self) -> None:
        """Take parts until there are no more."""
        b = self.b
        head, inside, end = b.block("parts"), b.block("part"), b.block("end")
        size = b.count(PARTICLES_OF_A_PART)
        b.ir.branch(head)
        b.ir.position_at_end(head)
        part = b.ir.atomic_rmw("add", self.queue, b.count(1), "monotonic")
        begin = b.ir.mul(part, size)
        b.ir.cbranch(b.ir.icmp_signed("<", begin, self.count), inside, end)
        b.ir.position_at_end(inside)
        left = b.ir.sub(self.count, begin)
        few = b.ir.icmp_signed("<", left, size)
        b.loop(b.ir.select(few, left, size), lambda i: self._particle(b.ir.add(begin, i)))
        b.ir.branch(head)
        b.ir.position_at_end(end)
        b.finish(NOTHING)

    def _particle(self, i: Any) -> None:
        """The sums of one particle over its neighbours."""
        b, lanes = self.b, self.kernel.lanes
        own = self.kernel.coordinates.own(b, self.data["rows"], i)
        near = b.at(I32, self.data["indices"], b.ir.mul(i, self.room))
        myself = b.ir.trunc(i, I32)
        for place in self.places:
            b.store(ir.Constant(self.summed, [0.0] * lanes), place)
        table = self._table_of(i)
        head, some = b.block("neighbours"), b.block("some")
        full, rest, done = b.block("full"), b.block("rest"), b.block("done")
        before = b.ir.block
        b.ir.branch(head)
        b.ir.position_at_end(head)
        k = b.ir.phi(I64)
        k.add_incoming(b.count(0), before)
        b.ir.cbranch(b.ir.icmp_signed("<", k, self.room), some, done)
        b.ir.position_at_end(some)
        here = b.at(I32, near, k)
        # Unused places follow the used ones and hold the particle itself.
        last = self._load(I32, here, lanes - 1)
        b.ir.cbranch(b.ir.icmp_signed("!=", last, myself), full, rest)
        b.ir.position_at_end(full)
        self._add(own, here, table, None)
        k.add_incoming(b.ir.add(k, b.count(lanes)), b.ir.block)
        b.ir.branch(head)
        b.ir.position_at_end(rest)
        first = self._load(I32, here, 0)
        with b.ir.if_then(b.ir.icmp_signed("!=", first, myself)):
            kind = ir.VectorType(I32, lanes)
            numbers = b.ir.load(here, typ=kind, align=4)
            self._add(own, here, table, b.ir.icmp_signed("!=", numbers, b.splat(myself)))
        b.ir.branch(done)
        b.ir.position_at_end(done)
        self._put(i)

    def _load(self, kind: Any, base: Any, index: Any) -> Any:
        b = self.b
        return b.ir.load(b.at(kind, base, index), typ=kind, align=4)

    def _table_of(self, i: Any) -> Any:
        """The first row of the table for pairs with this particle first."""
        if not self.kernel.made.by_species:
            return None
        b = self.b
        kind = b.ir.sext(self._load(I32, self.data["species"], i), I64)
        return b.at(b.kind, self.data["table"], self._start(b.ir.mul(kind, self.kinds)))

    def _start(self, row: Any) -> Any:
        return self.b.ir.mul(row, self.b.count(self.width))

    def _add(self, own: list[Any], here: Any, table: Any, there: Any) -> None:
        """Add what some neighbours contribute; `there` tells which lanes have one."""
        b, kernel = self.b, self.kernel
        others = [b.ir.zext(self._load(I32, here, lane), I64) for lane in range(kernel.lanes)]
        away = kernel.coordinates.between(b, self.of_box, self.data["rows"], own, others)
        square = b.mul(away[0], away[0])
        for part in away[1:]:
            square = b.fma(part, part, square)
        if there is not None:
            square = b.select(there, square, b.real(1.0))
        found = emit(b, kernel.made.program, [square, *self._row(table, others)])
        if there is not None:
            found = [b.select(there, x, b.real(0.0)) for x in found]
        slope = found[-1]
        forces = [b.mul(slope, part) for part in away]
        for axis in range(3):
            self._sum(axis, slope, away[axis], forces[axis])
        if kernel.with_sums:
            self._sum(3, found[0], b.real(1.0), found[0])
            for number, (row, column) in enumerate(_MOMENTS, 4):
                product = b.mul(forces[row], away[column])
                self._sum(number, forces[row], away[column], product)

    def _row(self, table: Any, others: list[Any]) -> list[Any]:
        """What the program needs of each pair of species."""
        if table is None:
            return self.shared
        b, columns = self.b, self.kernel.made.columns
        kinds = [self._load(I32, self.data["species"], other) for other in others]
        rows_each = self.width // WIDTH
        found: list[Any] = []
        for part in range(rows_each):
            rows = [
                b.ir.add(b.ir.mul(b.ir.sext(kind, I64), b.count(rows_each)), b.count(part))
                for kind in kinds
            ]
            found += gather_rows(b, table, b.kind, rows, WIDTH)
        return found[:columns]

    def _sum(self, number: int, x: Any, y: Any, product: Any) -> None:
        """Add a product to a sum, fused where the sum has the numbers of the pairs."""
        b, place = self.b, self.places[number]
        total = b.ir.load(place, typ=self.summed, align=16)
        if self.kernel.added == b.kind:
            total = b.fma(x, y, total)
        else:
            total = b.ir.fadd(total, b.ir.fpext(product, self.summed))
        b.ir.store(total, place, align=16)

    def _put(self, i: Any) -> None:
        """Write the sums of a particle."""
        b, given = self.b, self.kernel.coordinates.given
        sums = [
            sum_of_lanes(b, b.ir.load(place, typ=self.summed, align=16))
            for place in self.places
        ]
        start = b.ir.mul(i, b.count(3))
        for axis in range(3):
            place = b.ir.add(start, b.count(axis))
            # Whole numbers would hide that a position is none.
            position = b.load(given, self.data["positions"], place)
            value = b.intrinsic(
                "fma", position, ir.Constant(given, 0.0), self._as(sums[axis], given)
            )
            b.store(value, self.data["forces"], place)
        if not self.kernel.with_sums:
            return
        first = b.ir.mul(i, b.count(SUMS))
        padded = [*(self._as(x, F64) for x in sums[3:]), ir.Constant(F64, 0.0)]
        for number, value in enumerate(padded):
            b.store(value, self.data["sums"], b.ir.add(first, b.count(number)))

    def _as(self, value: Any, kind: Any) -> Any:
        if value.type == kind:
            return value
        b = self.b
        return b.ir.fpext(value, kind) if is_wide(kind) else b.ir.fptrunc(value, kind)
