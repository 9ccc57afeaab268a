"""How particles are stored in a kernel, and vectors between them with nearest images.

- Double precision: coordinates as they are; the nearest image by rounding, as in
  [`boxes`][systems.molecular.boxes].
- Single or mixed precision in a periodic box: each coordinate as a whole number of the
  2^32th part of the box. Differences of these are exact, and the nearest image comes for
  free, as whole numbers of 32 bits wrap around. They resolve more than single precision
  does, unless a box is longer than about 100 times what lies between near particles.
- Without a box: as they are; differences in double precision become single ones.
"""

import dataclasses
from typing import Any, Literal

from llvmlite import ir

from solvers.ensemble.native.build import F32, F64, I32, I64, Build
from solvers.molecular.native.rows import WIDTH, gather_rows


Shape = Literal["open", "orthorhombic", "triclinic"]
"""Of a box. Its numbers: none, three edges, or the nine of three rows."""

ROUNDER = 1.5 * 2.0**52
"""Added to a number, it leaves the nearest whole number in the lowest bits."""

_LOWER = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """How coordinates are stored, and what vectors between particles are made of.

    - `shape`: of the box.
    - `given`: the numbers of positions.
    - `pairs`: the numbers of vectors between particles.
    """

    shape: Shape
    given: Any
    pairs: Any

    @property
    def whole(self) -> bool:
        """Whether coordinates are whole numbers of 32 bits."""
        return self.pairs == F32 and self.shape != "open"

    @property
    def stored(self) -> Any:
        """The numbers of a row."""
        return I32 if self.whole else self.given

    def edges(self, b: Build, box: Any) -> dict[tuple[int, int], Any]:
        """The numbers of the box that are not always zero, by row and column; doubles."""
        if self.shape == "open":
            return {}
        if self.shape == "orthorhombic":
            places = {(i, i): i for i in range(3)}
        else:
            places = {place: 3 * place[0] + place[1] for place in _LOWER}
        return {p: _as_double(b, b.load(self.given, box, i)) for p, i in places.items()}

    def fill(self, b: Build, positions: Any, rows: Any, count: Any, box: Any) -> None:
        """Store all particles; on one thread, as it takes little time."""
        edges = self.edges(b, box)
        scales = {
            place: b.ir.fdiv(ir.Constant(F64, 2.0**32), edges[place, place])
            for place in range(3)
            if self.whole
        }

        def one(i: Any) -> None:
            start = b.ir.mul(i, b.count(3))
            place = b.ir.mul(i, b.count(WIDTH))
            found = [
                b.load(self.given, positions, b.ir.add(start, b.count(a))) for a in (0, 1, 2)
            ]
            if self.whole:
                found = _in_parts(b, [_as_double(b, x) for x in found], edges, scales)
            for axis, value in enumerate(found):
                b.store(value, rows, b.ir.add(place, b.count(axis)))

        b.loop(count, one)

    def own(self, b: Build, rows: Any, i: Any) -> list[Any]:
        """The coordinates of a particle in all lanes."""
        start = b.ir.mul(i, b.count(WIDTH))
        return [
            b.splat(b.load(self.stored, rows, b.ir.add(start, b.count(axis))))
            for axis in range(3)
        ]

    def constants(self, b: Build, box: Any) -> dict[Any, Any]:
        """What `between` needs of the box, in all lanes."""
        edges = self.edges(b, box)
        if self.whole:
            part = ir.Constant(F64, 2.0**-32)
            return {
                place: b.splat(b.ir.fptrunc(b.ir.fmul(edge, part), F32))
                for place, edge in edges.items()
            }
        found: dict[Any, Any] = {place: b.splat(edge) for place, edge in edges.items()}
        one = ir.Constant(F64, 1.0)
        for axis in range(3) if edges else ():
            found["inverse", axis] = b.splat(b.ir.fdiv(one, edges[axis, axis]))
        return found

    def between(
        self, b: Build, constants: dict[Any, Any], rows: Any, own: list[Any], others: list[Any]
    ) -> list[Any]:
        """The vector from the particle of each lane to the own one, by component."""
        there = gather_rows(b, rows, self.stored, others, 3)
        if self.whole:
            parts = [b.ir.sub(x, y) for x, y in zip(own, there, strict=True)]
            return _lengths(b, constants, [b.ir.sitofp(x, b.reals) for x in parts])
        away = [b.ir.fsub(x, y) for x, y in zip(own, there, strict=True)]
        if self.shape != "open":
            away = _nearest(b, constants, away)
        if self.given != self.pairs:
            away = [b.ir.fptrunc(x, b.reals) for x in away]
        return away


def _as_double(b: Build, value: Any) -> Any:
    return value if value.type == F64 else b.ir.fpext(value, F64)


def _in_parts(b: Build, position: list[Any], edges: Any, scales: Any) -> list[Any]:
    """Coordinates along the box vectors, in the 2^32th part of each; they wrap around."""
    x, y, z = position
    if (1, 0) in edges:
        # Lower triangular: by substitution, the last vector first.
        of_c = b.ir.fdiv(z, edges[2, 2])
        y = b.ir.fsub(y, b.ir.fmul(of_c, edges[2, 1]))
        of_b = b.ir.fdiv(y, edges[1, 1])
        x = b.ir.fsub(x, b.ir.fmul(of_c, edges[2, 0]))
        x = b.ir.fsub(x, b.ir.fmul(of_b, edges[1, 0]))
    moved = (
        b.intrinsic("fma", value, scales[axis], ir.Constant(F64, ROUNDER))
        for axis, value in enumerate((x, y, z))
    )
    return [b.ir.trunc(b.ir.bitcast(value, I64), I32) for value in moved]


def _lengths(b: Build, constants: Any, parts: list[Any]) -> list[Any]:
    """From parts along the box vectors to lengths along the axes."""
    found = []
    for axis in range(3):
        total = b.mul(parts[axis], constants[axis, axis])
        for row in range(axis + 1, 3):
            if (row, axis) in constants:
                total = b.fma(parts[row], constants[row, axis], total)
        found.append(total)
    return found


def _nearest(b: Build, constants: Any, away: list[Any]) -> list[Any]:
    """The nearest image: whole vectors taken off, the last one first."""
    away = list(away)
    for row in (2, 1, 0):
        images = b.intrinsic("rint", b.ir.fmul(away[row], constants["inverse", row]))
        back = b.ir.fneg(images)
        for axis in range(row + 1):
            if (row, axis) in constants:
                away[axis] = b.intrinsic("fma", back, constants[row, axis], away[axis])
    return away
